//! The trash: what goes there, how it is listed, how it comes back, and what it lets go.
//!
//!     cargo test --test trash
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::pair::{Pair, Said, noise, trashed};
use common::tree::{files_below, snapshot};
use common::{psync, read_text, write_file};

fn at(pair: &Pair, root: &Path, words: &[&str]) -> Command {
    let mut command = psync(&pair.temp);
    command.args(words).arg("--root").arg(root);
    command
}

#[test]
fn what_was_deleted_is_listed_and_comes_back_where_it_was() {
    let pair = Pair::agreed(&[("dir/f", "text"), ("keep", "x")]);
    let before = snapshot(&pair.b);
    fs::remove_dir_all(pair.a.join("dir")).unwrap();
    pair.sync_to(0);
    let listed = Said::of(&mut at(&pair, &pair.b, &["trash", "list"]), 0);
    listed.has("/dir/f").has("in the trash: 1 file, 4 B");
    let object = Said::of(&mut at(&pair, &pair.b, &["trash", "list", "--json"]), 0);
    let object = object.objects().remove(0);
    assert_eq!((&object["path"], &object["size"]), (&"dir/f".into(), &4.into()));
    let place = object["place"].as_str().unwrap();
    Said::of(&mut at(&pair, &pair.b, &["trash", "restore", place]), 0).has("restored dir/f");
    assert_eq!(common::tree::differences(&before, &snapshot(&pair.b)), Vec::<String>::new());
    Said::of(&mut at(&pair, &pair.b, &["trash", "list"]), 0).has("0 files");
    pair.sync_to(0);
    assert_eq!(read_text(pair.a.join("dir/f")), "text");
}

#[test]
fn the_newest_of_a_path_is_restored_and_what_stands_there_goes_to_the_trash() {
    let pair = Pair::agreed(&[("f", "one")]);
    write_file(pair.a.join("f"), "two");
    pair.sync_to(0);
    Said::of(&mut at(&pair, &pair.b, &["trash", "restore", "f"]), 0);
    assert_eq!(read_text(pair.b.join("f")), "one");
    // In the same second the name may be taken still.
    let kept = files_below(&pair.b.join(".psync/trash"));
    let texts: Vec<String> = kept.iter().map(read_text).collect();
    assert_eq!(texts, ["two"]);
    Said::of(&mut at(&pair, &pair.b, &["trash", "restore", "f", "--to", "new/g"]), 0);
    assert_eq!(read_text(pair.b.join("new/g")), "two");
    Said::of(&mut at(&pair, &pair.b, &["trash", "restore", "nothing"]), 11)
        .has("is not in the trash");
}

#[test]
fn a_directory_is_restored_from_the_trash_with_what_the_latest_run_took_out_of_it() {
    let pair =
        Pair::agreed(&[("d/x", "1"), ("d/e/y", "2"), ("d/old", "3"), ("dd", "4"), ("k", "5")]);
    fs::remove_file(pair.a.join("d/old")).unwrap();
    pair.sync_to(0);
    // The next run has another second, and so another directory in the trash.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    fs::remove_file(pair.a.join("dd")).unwrap();
    pair.sync_expecting(0, &["--max-delete=100%"]);
    let restore = |words: &[&str]| Said::of(&mut at(&pair, &pair.b, words), 0);
    restore(&["trash", "restore", "d", "--to", "new"]).has("restored new: 4 paths");
    assert_eq!(read_text(pair.b.join("new/e/y")), "2");
    assert!(!pair.b.join("new/old").exists() && !pair.b.join("d").exists());
    let said = restore(&["trash", "list", "--json"]);
    let places = said.objects();
    let old = places.iter().find(|one| one["path"] == "d/old").unwrap()["place"].as_str().unwrap();
    restore(&["trash", "restore", old.strip_suffix("/old").unwrap()]).has("restored d: 2 paths");
    assert_eq!(read_text(pair.b.join("d/old")), "3");
    // Or all that a run took.
    let time = places.iter().find(|one| one["path"] == "dd").unwrap()["place"].as_str().unwrap();
    restore(&["trash", "restore", time.strip_suffix("/dd").unwrap()]);
    assert_eq!(read_text(pair.b.join("dd")), "4");
}

#[test]
fn a_trash_is_emptied_whole_or_by_age() {
    let pair = Pair::agreed(&[("f", "one"), ("g", "two")]);
    fs::remove_file(pair.a.join("f")).unwrap();
    pair.sync_to(0);
    let old = pair.b.join(".psync/trash/20200101T000000Z/dir");
    write_file(old.join("older"), "of another time");
    Said::of(&mut at(&pair, &pair.b, &["trash", "empty", "--older-than", "7d"]), 0)
        .has("let go of 1 file");
    assert!(!old.exists());
    assert_eq!(trashed(&pair.b, "f"), ["one"]);
    Said::of(&mut at(&pair, &pair.b, &["trash", "empty"]), 0).has("let go of 1 file");
    assert!(files_below(&pair.b.join(".psync/trash")).is_empty());
    for wrong in ["7", "d", "-1d", "7y", ""] {
        let word = format!("--older-than={wrong}");
        Said::of(&mut at(&pair, &pair.b, &["trash", "empty", &word]), 1).has("older-than");
    }
    let mut command = psync(&pair.temp);
    Said::of(command.arg("trash"), 1).has("list").has("empty");
    Said::of(&mut at(&pair, &pair.b, &["trash", "burn"]), 1).has("burn");
}

#[test]
fn a_file_over_20_mib_is_deleted_and_replaced_without_a_copy_and_the_report_says_so() {
    let pair = Pair::new();
    for name in ["large", "edited"] {
        write_file(pair.a.join(name), vec![7; (20 << 20) + 1]);
    }
    write_file(pair.a.join("fits"), vec![8; 20 << 20]);
    pair.sync_expecting(0, &[]);
    fs::remove_file(pair.a.join("large")).unwrap();
    fs::remove_file(pair.a.join("fits")).unwrap();
    write_file(pair.a.join("edited"), "short now");
    let said = pair.sync_expecting(0, &[]);
    said.has("large: deleted without a copy in the trash");
    said.has("edited: replaced without a copy in the trash");
    said.has_not("fits: deleted without");
    let files = files_below(&pair.b.join(".psync/trash"));
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].ends_with("fits"));
}

#[test]
fn after_30_days_what_was_trashed_is_gone_with_the_next_run_that_trashes_something() {
    let pair = Pair::agreed(&[("f", "one")]);
    let old = pair.b.join(".psync/trash/20200101T000000Z");
    write_file(old.join("older"), "of another time");
    fs::remove_file(pair.a.join("f")).unwrap();
    pair.sync_expecting(0, &["--max-delete=100%"]);
    assert!(!old.exists());
    assert_eq!(trashed(&pair.b, "f"), ["one"]);
}

#[test]
fn versions_are_listed_and_restored_from_trash_and_store() {
    let pair = Pair::agreed(&[("f", "one")]);
    write_file(pair.a.join("f"), "two, longer");
    pair.sync_to(0);
    write_file(pair.b.join("f"), "three, made on the other side");
    pair.sync_to(0);
    for root in [&pair.a, &pair.b] {
        let listed = Said::of(&mut at(&pair, root, &["history", "f", "--json"]), 0).objects();
        let sizes: Vec<u64> =
            listed.iter().map(|version| version["state"]["size"].as_u64().unwrap()).collect();
        assert_eq!(sizes, [29, 11, 3], "{}", root.display());
        assert!(listed.iter().all(|version| version["content"] != "gone"), "{listed:?}");
    }
    Said::of(&mut at(&pair, &pair.a, &["history", "f"]), 0).has("@3").has("changed here");
    Said::of(&mut at(&pair, &pair.a, &["restore", "f"]), 0).has("restored f");
    assert_eq!(read_text(pair.a.join("f")), "two, longer");
    Said::of(&mut at(&pair, &pair.a, &["restore", "f@1", "--to", "old/f"]), 0);
    assert_eq!(read_text(pair.a.join("old/f")), "one");
    assert_eq!(read_text(pair.a.join("f")), "two, longer");
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("f")), "two, longer");
}

#[test]
fn a_deleted_directory_is_restored_with_what_was_in_it() {
    let pair = Pair::new();
    for name in ["d/one", "d/e/two", "d/e/f/three"] {
        write_file(pair.a.join(name), name);
    }
    common::set_mode(&pair.a.join("d/e"), 0o750);
    pair.sync_to(0);
    let before = snapshot(&pair.b);
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    pair.sync_expecting(0, &["--max-delete=100%"]);
    Said::of(&mut at(&pair, &pair.b, &["restore", "d"]), 0).has("restored d: 6 paths");
    assert_eq!(common::tree::differences(&before, &snapshot(&pair.b)), Vec::<String>::new());
    pair.sync_to(0);
}

#[test]
fn a_directory_that_was_deleted_here_is_restored_with_what_was_in_it() {
    let pair = Pair::new();
    for name in ["d/one", "d/e/two", "d/e/f/three", "k"] {
        write_file(pair.a.join(name), name);
    }
    pair.sync_to(0);
    // What went before it stays away.
    write_file(pair.a.join("d/gone"), "before");
    pair.sync_to(0);
    fs::remove_file(pair.a.join("d/gone")).unwrap();
    pair.sync_to(0);
    let before = snapshot(&pair.a);
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    pair.sync_expecting(0, &["--max-delete=100%"]);
    Said::of(&mut at(&pair, &pair.a, &["restore", "d"]), 0).has("restored d: 6 paths");
    assert_eq!(common::tree::differences(&before, &snapshot(&pair.a)), Vec::<String>::new());
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("d/e/f/three")), "d/e/f/three");
}

#[test]
fn an_expired_version_is_an_error_and_changes_nothing() {
    let pair = Pair::agreed(&[("f", "one")]);
    write_file(pair.a.join("f"), "two");
    pair.sync_to(0);
    for folder in ["trash", "store"] {
        fs::remove_dir_all(pair.b.join(".psync").join(folder)).unwrap();
    }
    let before = snapshot(&pair.b);
    Said::of(&mut at(&pair, &pair.b, &["restore", "f"]), 11).has("has expired");
    Said::of(&mut at(&pair, &pair.b, &["restore", "f@9"]), 11).has("there is no version @9");
    Said::of(&mut at(&pair, &pair.b, &["restore", "never"]), 11).has("no earlier version");
    Said::of(&mut at(&pair, &pair.b, &["restore", "../f"]), 1).has("does not lie in the root");
    Said::of(&mut at(&pair, &pair.b, &["history", "never"]), 11).has("nothing is known");
    assert_eq!(before, snapshot(&pair.b));
}

#[test]
fn a_damaged_file_in_the_trash_is_not_restored() {
    let pair = Pair::agreed(&[("f", "one")]);
    write_file(pair.a.join("f"), "two");
    pair.sync_to(0);
    fs::remove_dir_all(pair.b.join(".psync/store")).unwrap();
    let kept = files_below(&pair.b.join(".psync/trash")).remove(0);
    write_file(&kept, "0ne");
    Said::of(&mut at(&pair, &pair.b, &["restore", "f"]), 11).has("kept nowhere");
    Said::of(&mut at(&pair, &pair.b, &["trash", "restore", "f"]), 11).has("is not what");
    assert_eq!(read_text(pair.b.join("f")), "two");
}

#[test]
fn a_name_with_an_at_sign_is_a_name() {
    let pair = Pair::agreed(&[("f@2", "one"), ("f", "other")]);
    write_file(pair.a.join("f@2"), noise(3, 10));
    pair.sync_to(0);
    Said::of(&mut at(&pair, &pair.b, &["restore", "f@2"]), 0);
    assert_eq!(read_text(pair.b.join("f@2")), "one");
    Said::of(&mut at(&pair, &pair.b, &["restore", "f@2@2"]), 0);
    assert_eq!(fs::read(pair.b.join("f@2")).unwrap(), noise(3, 10));
}

#[test]
fn what_lost_a_conflict_goes_to_the_trash_whatever_its_size() {
    let pair = Pair::agreed(&[("f", "agreed")]);
    write_file(pair.a.join("f"), "a long text of a");
    write_file(pair.b.join("f"), "a long text of b");
    let limited = ["--policy", "local", "--set", "trash.max-size=4"];
    pair.sync_expecting(0, &limited).has_not("without a copy");
    assert_eq!(trashed(&pair.b, "f"), ["a long text of b"]);
    write_file(pair.a.join("f"), "an edit of a alone");
    pair.sync_expecting(0, &limited).has("without a copy in the trash");
}
