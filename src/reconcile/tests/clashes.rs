//! Names of clash files.

use std::collections::HashSet;

use proptest::prelude::*;
use psync_protocol::RelPath;

use super::path;
use crate::reconcile::clash_name;

const STAMP: &str = "202611020304";

fn name(of: &str) -> String {
    String::from_utf8(clash_name(&path(of), STAMP, &mut |_| false).unwrap().as_bytes().to_vec())
        .unwrap()
}

#[test]
fn the_extension_stays_at_the_end() {
    for (of, expected) in [
        ("note.txt", "note_clash_202611020304.txt"),
        ("deep/er/note.txt", "deep/er/note_clash_202611020304.txt"),
        ("Makefile", "Makefile_clash_202611020304"),
        (".bashrc", ".bashrc_clash_202611020304"),
        (".config.yml", ".config_clash_202611020304.yml"),
        ("a.tar.gz", "a.tar_clash_202611020304.gz"),
        ("ends.", "ends_clash_202611020304."),
        ("v1.d/file", "v1.d/file_clash_202611020304"),
    ] {
        assert_eq!(name(of), expected);
    }
}

#[test]
fn what_is_too_long_for_an_extension_is_none() {
    let long = format!("a.{}", "e".repeat(40));
    assert_eq!(name(&long), format!("{long}_clash_{STAMP}"));
}

#[test]
fn a_name_of_255_bytes_is_shortened_before_its_extension() {
    let clash = name(&format!("{}.txt", "n".repeat(251)));
    assert_eq!(clash.len(), 255);
    assert!(clash.ends_with(&format!("n_clash_{STAMP}.txt")));
}

#[test]
fn no_half_of_a_character_is_left_by_shortening() {
    for extra in ["", "a", "ab", "abc"] {
        let stem: String = extra.chars().chain("\u{1f30d}".repeat(60).chars()).collect();
        let clash = name(&format!("{stem}.md"));
        assert!(clash.len() <= 255 && clash.len() > 250);
        assert!(clash.ends_with(&format!("\u{1f30d}_clash_{STAMP}.md")));
    }
}

#[test]
fn a_taken_name_is_numbered_and_still_fits() {
    let long = path(&"n".repeat(255));
    let mut taken: HashSet<RelPath> = HashSet::new();
    for _ in 0..1200 {
        let clash = clash_name(&long, STAMP, &mut |name| taken.contains(name)).unwrap();
        assert!(clash.name().len() <= 255);
        assert!(taken.insert(clash));
    }
    assert!(taken.iter().any(|name| name.name().ends_with(b"_1200")));
}

#[test]
fn where_the_path_would_be_too_long_there_is_no_name() {
    let deep = path(&format!("{}x", "d/".repeat(200)));
    assert!(clash_name(&deep, STAMP, &mut |_| false).is_some());
    let above = format!("{}/", "d".repeat(255)).repeat(15);
    let long = path(&format!("{above}{}/name", "d".repeat(240)));
    assert_eq!(clash_name(&long, STAMP, &mut |_| false), None);
}

proptest! {
    #[test]
    fn any_name_has_a_clash_name_beside_it(name in prop::collection::vec(any::<u8>(), 1..=255)) {
        let bytes: Vec<u8> = [b"dir/".as_slice(), &name].concat();
        if let Ok(path) = RelPath::new(&bytes) {
            let clash = clash_name(&path, STAMP, &mut |_| false).unwrap();
            prop_assert_eq!(clash.parent(), path.parent());
            prop_assert_ne!(clash, path);
        }
    }
}
