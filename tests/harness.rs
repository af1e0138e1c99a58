//! Shows that the tests' own tools can be trusted: trees from a seed, comparison, the witness, and
//! the ssh server.
//!
//!     cargo test --test harness

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::sshd::Sshd;
use common::tree::{
    ContentHash, Rng, Shape, Snapshot, assert_same_trees, differences, grow_tree, rsync_oracle,
    set_mtime, snapshot,
};
use common::witness::{Witness, has_clash_name};
use common::{TempDir, run_ok, set_mode, write_file};

#[test]
fn the_same_seed_grows_the_same_tree() {
    let temp = TempDir::new();
    for name in ["a", "b"] {
        grow_tree(&temp.folder(name), &mut Rng::new(7), Shape::SMALL);
    }
    assert_same_trees(&temp.join("a"), &temp.join("b"));
    rsync_oracle(&temp.join("a"), &temp.join("b"));
}

#[test]
fn a_grown_tree_has_odd_names() {
    let temp = TempDir::new();
    grow_tree(temp.path(), &mut Rng::new(1), Shape::SMALL);
    let paths = snapshot(temp.path()).into_keys();
    let names: Vec<Vec<u8>> =
        paths.filter_map(|path| Some(path.rsplit(|byte| *byte == b'/').next()?.to_vec())).collect();
    let has = |odd: &dyn Fn(&[u8]) -> bool| names.iter().any(|name| odd(name));
    assert!(has(&|name| name.len() == 255), "a name of 255 bytes");
    assert!(has(&|name| name.contains(&b'\n')), "a newline");
    assert!(has(&|name| name.starts_with(b"-")), "a leading dash");
    assert!(has(&|name| name.starts_with(b".")), "a dotfile");
    assert!(has(&|name| std::str::from_utf8(name).is_err()), "bytes that are not UTF-8");
}

/// What a user changes in a tree, and how.
type Change = (&'static str, fn(&Path));

#[test]
fn every_difference_is_seen() {
    let temp = TempDir::new();
    let base = temp.folder("base");
    write_file(base.join("folder/file"), "content");
    set_mtime(&base.join("folder/file"), 1_000_000_000_000_000_001);
    let changes: [Change; 6] = [
        ("content", |root| write_file(root.join("folder/file"), "CONTENT")),
        ("mode", |root| set_mode(&root.join("folder/file"), 0o600)),
        ("one nanosecond", |root| set_mtime(&root.join("folder/file"), 1_000_000_000_000_000_000)),
        ("a new file", |root| write_file(root.join("folder/new"), "")),
        ("an empty folder", |root| fs::create_dir(root.join("empty")).expect("it is new")),
        ("a symlink", |root| {
            std::os::unix::fs::symlink("x", root.join("link")).expect("it is new")
        }),
    ];
    for (what, change) in changes {
        let copy = temp.join(what);
        run_ok(Command::new("cp").arg("-a").arg(&base).arg(&copy));
        change(&copy);
        assert_eq!(differences(&snapshot(&base), &snapshot(&copy)).len(), 1, "{what}");
        assert_eq!(differences(&snapshot(&copy), &snapshot(&base)).len(), 1, "{what}");
    }
}

#[test]
fn psync_s_own_folder_and_the_times_of_folders_do_not_count() {
    let temp = TempDir::new();
    let (a, b) = (temp.folder("a"), temp.folder("b"));
    for root in [&a, &b] {
        fs::create_dir(root.join("folder")).expect("it is new");
    }
    write_file(a.join(".psync/state"), "anything");
    set_mtime(&b.join("folder"), 0);
    assert_same_trees(&a, &b);
}

/// A tree that holds these files, as psync may have left it.
fn tree_of(files: &[(&str, &str)]) -> Snapshot {
    let temp = TempDir::new();
    for (path, content) in files {
        write_file(temp.join(path), content);
    }
    snapshot(temp.path())
}

fn hash(content: &str) -> ContentHash {
    ContentHash::of(content.as_bytes())
}

#[test]
fn the_witness_explains_what_users_did_and_nothing_else() {
    let mut witness = Witness::default();
    witness.saw_agreement(&tree_of(&[
        ("file", "first"),
        ("other", "another"),
        ("d/inner", "inner"),
    ]));
    witness.wrote(Path::new("file"), hash("second"));
    witness.wrote(Path::new("moved"), hash("another"));
    witness.moved_folder(Path::new("d"), Path::new("e"));
    witness.wrote(Path::new("e/inner"), hash("inner"));
    witness.made_folder(Path::new("e"));

    let cases = [
        ("file", "first", true, "the version before the edit"),
        ("file", "second", true, "the version after the edit"),
        ("file", "sec", false, "a partial file"),
        ("moved", "another", true, "a moved file"),
        ("other", "second", false, "another file's content"),
        ("stray.tmp", "second", false, "a stray file"),
        ("file_clash_202501312359", "first", true, "a clash file"),
        ("file_clash_202501312359", "fir", false, "a partial clash file"),
        ("e/inner", "inner", true, "a file in a moved folder"),
        ("f/inner", "inner", false, "a folder that nobody made"),
    ];
    for (path, content, explained, what) in cases {
        let found = witness.unexplained(&tree_of(&[(path, content)]));
        assert_eq!(found.is_empty(), explained, "{what}: {found:?}");
    }
}

#[test]
fn an_edit_may_land_where_the_other_side_moved_the_file() {
    let mut witness = Witness::default();
    witness.saw_agreement(&tree_of(&[("old", "base"), ("d/x", "x")]));
    witness.wrote(Path::new("new"), hash("base"));
    witness.wrote(Path::new("old"), hash("edited"));
    witness.moved_folder(Path::new("d"), Path::new("e"));
    witness.made_folder(Path::new("e"));
    witness.wrote(Path::new("d/created"), hash("created"));
    assert!(
        witness.unexplained(&tree_of(&[("new", "edited"), ("e/created", "created")])).is_empty()
    );
}

#[test]
fn the_witness_misses_a_lost_version() {
    let temp = TempDir::new();
    let before = tree_of(&[("kept", "kept"), ("replaced", "old"), ("deleted", "gone")]);
    let mut witness = Witness::default();
    witness.saw_before_run(&before);
    witness.destroyed(hash("gone"));
    let after = tree_of(&[("kept", "kept"), ("replaced", "new")]);
    assert_eq!(witness.lost(&[&after], &[temp.path()]).len(), 1, "the old version");
    write_file(temp.join(".psync/trash/2025/replaced"), "old");
    assert!(witness.lost(&[&after], &[temp.path()]).is_empty());
}

#[test]
fn clash_names_are_known_by_their_time() {
    assert!(has_clash_name(Path::new("a/report_clash_202501312359.txt")));
    assert!(has_clash_name(Path::new("report_clash_202501312359_2.txt")));
    assert!(!has_clash_name(Path::new("report_clash_.txt")));
}

#[test]
fn the_ssh_server_serves_commands_and_keeps_away_from_the_user_s_home() {
    let temp = TempDir::new();
    let sshd = Sshd::start();
    let home = run_ok(&mut sshd.ssh("echo $HOME"));
    assert!(Path::new(home.trim()).starts_with(std::env::temp_dir()), "{home}");
    let (near, far) = (temp.folder("near"), temp.folder("far"));
    grow_tree(&near, &mut Rng::new(7), Shape::SMALL);
    let target = format!("{}/", sshd.target(&far));
    run_ok(Command::new("rsync").args(["-a", "-e", sshd.rsh()]).arg(near.join("")).arg(target));
    assert_same_trees(&near, &far);
}
