//! Changes of what both roots know from their last run, and many of them: they are stated by
//! number, and mean the same as ever.
//!
//!     cargo test --test known
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::pair::{Pair, clash_names, trashed};
use common::tree::{assert_same_trees, set_mtime};
use common::{set_mode, write_file};

const FILES: usize = 300;

fn name(number: usize) -> String {
    format!("folder {}/some file {number:03}.txt", number % 7)
}

fn text(number: usize) -> String {
    format!("content of file {number}\n").repeat(number % 9)
}

/// Two folders that have agreed on many files and a few links.
fn agreed() -> Pair {
    let pair = Pair::new();
    for number in 0..FILES {
        write_file(pair.a.join(name(number)), text(number));
    }
    for number in 0..3 {
        symlink(name(number), pair.a.join(format!("link {number}"))).unwrap();
    }
    pair.sync_to(0);
    pair
}

/// As an upgrade that unpacks every file anew: all times are other ones.
fn touch_all(pair: &Pair) {
    for number in 0..FILES {
        set_mtime(&pair.a.join(name(number)), 1_500_000_000_000_000_000);
    }
}

/// Bytes that the first root sent of rows, decisions and marks.
fn manifest_bytes(pair: &Pair, options: &[&str]) -> u64 {
    let summary = pair.sync_expecting(0, &[&["--json"], options].concat()).summary();
    summary["line"]["manifests"]["sent"].as_u64().expect("a number of bytes")
}

#[test]
fn a_tree_that_was_touched_edited_and_pruned_on_both_sides_converges() {
    let pair = agreed();
    touch_all(&pair);
    for number in [3, 50, 51, 200] {
        write_file(pair.a.join(name(number)), format!("edited in a: {number}"));
    }
    for number in [4, 60, 201] {
        write_file(pair.b.join(name(number)), format!("edited in b: {number}"));
    }
    for number in [5, 6, 150] {
        fs::remove_file(pair.a.join(name(number))).unwrap();
    }
    // Touched in a, gone in b.
    fs::remove_file(pair.b.join(name(7))).unwrap();
    set_mode(&pair.a.join(name(8)), 0o600);
    set_mode(&pair.b.join(name(9)), 0o640);
    set_mode(&pair.a.join("folder 1"), 0o700);
    write_file(pair.a.join("folder 2/new in a"), "new");
    write_file(pair.b.join("folder 3/new in b"), "new");
    fs::rename(pair.a.join(name(10)), pair.a.join("moved")).unwrap();
    fs::remove_file(pair.a.join("link 0")).unwrap();
    symlink("elsewhere", pair.a.join("link 0")).unwrap();
    pair.sync_to(0);
    assert_eq!(fs::read_to_string(pair.a.join(name(60))).unwrap(), "edited in b: 60");
    assert_eq!(fs::read_to_string(pair.b.join(name(50))).unwrap(), "edited in a: 50");
    assert_eq!(fs::read_to_string(pair.b.join("moved")).unwrap(), text(10));
    assert!(!pair.b.join(name(5)).exists());
}

#[test]
fn of_edits_on_both_sides_among_many_touches_both_stay() {
    let pair = agreed();
    touch_all(&pair);
    write_file(pair.a.join(name(70)), "edited in a");
    write_file(pair.b.join(name(70)), "and in b");
    pair.sync_expecting(40, &[]);
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(clash_names(&pair.a.join("folder 0")).len(), 1);
    pair.assert_settled();
}

#[test]
fn a_mirror_undoes_edits_of_files_that_were_only_touched_at_the_source() {
    let pair = agreed();
    touch_all(&pair);
    for number in [11, 12, 13] {
        write_file(pair.b.join(name(number)), "edited where nobody should");
    }
    fs::remove_file(pair.b.join(name(14))).unwrap();
    fs::remove_file(pair.b.join("link 1")).unwrap();
    set_mtime(&pair.a.join(name(15)), 1_600_000_000_000_000_000);
    // What the other root does not have any more it can still tell: no row is stated twice.
    let sent = manifest_bytes(&pair, &["--mirror=push", "--no-compress"]);
    assert!(sent < 12 * FILES as u64 + 700, "{sent}");
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(fs::read_to_string(pair.b.join(name(12))).unwrap(), text(12));
    assert_eq!(trashed(&pair.b, &name(12)), ["edited where nobody should"]);
    pair.assert_settled();
}

#[test]
fn many_touches_cost_no_paths_and_no_checks() {
    let pair = agreed();
    touch_all(&pair);
    // Without compression: versions, mode and time of each row, and a few bytes besides.
    let sent = manifest_bytes(&pair, &["--no-compress"]);
    assert!(sent < 12 * FILES as u64 + 300, "{sent}");
    pair.assert_settled();
}

#[test]
fn a_tree_that_was_touched_on_the_far_side_is_stated_by_number_as_well() {
    let pair = agreed();
    for number in 0..FILES {
        set_mtime(&pair.b.join(name(number)), 1_500_000_000_000_000_000);
    }
    for number in [3, 50, 51, 200] {
        write_file(pair.b.join(name(number)), format!("edited in b: {number}"));
    }
    // One that the near side has edited, one that it has deleted, one that it has touched, too.
    write_file(pair.a.join(name(61)), "edited in a");
    fs::remove_file(pair.a.join(name(62))).unwrap();
    set_mtime(&pair.a.join(name(63)), 1_600_000_000_000_000_000);
    fs::remove_file(pair.b.join(name(64))).unwrap();
    write_file(pair.b.join("new in b"), "new");
    let summary = pair.sync_expecting(0, &["--json", "--no-compress"]).summary();
    let received = summary["line"]["manifests"]["received"].as_u64().unwrap();
    assert!(received < 12 * FILES as u64 + 700, "{received}");
    // The plan says what to do; that it agrees with what is there needs no rows of the near side.
    let sent = summary["line"]["manifests"]["sent"].as_u64().unwrap();
    assert!(sent < 1500, "{sent}");
    pair.assert_settled();
    assert_eq!(fs::read_to_string(pair.b.join(name(61))).unwrap(), "edited in a");
    assert_eq!(fs::read_to_string(pair.a.join(name(51))).unwrap(), "edited in b: 51");
    assert!(!pair.a.join(name(64)).exists() && pair.a.join("new in b").exists());
}

#[test]
fn what_the_near_side_cannot_tell_by_number_it_asks_for() {
    let pair = agreed();
    for number in 0..FILES {
        set_mtime(&pair.b.join(name(number)), 1_500_000_000_000_000_000);
    }
    // Gone and there again, with a run of another pair in between: what was there is forgotten.
    fs::remove_file(pair.a.join(name(30))).unwrap();
    pair.temp.folder("third");
    let with_third = || {
        let mut command = common::psync(&pair.temp);
        command.args(["./a", "./third"]).current_dir(pair.temp.path());
        common::pair::Said::of(&mut command, 0);
    };
    with_third();
    write_file(pair.a.join(name(30)), "something else");
    with_third();
    let summary = pair.sync_expecting(0, &["--json", "--no-compress"]).summary();
    let received = summary["line"]["manifests"]["received"].as_u64().unwrap();
    assert!(received > 30 * FILES as u64, "{received}");
    pair.assert_settled();
    assert_eq!(fs::read_to_string(pair.b.join(name(30))).unwrap(), "something else");
}

#[test]
fn an_index_that_lost_what_it_knew_hears_every_row() {
    let pair = agreed();
    touch_all(&pair);
    // The other root does not know any more what was there: it has been through a third one.
    let third = pair.temp.folder("third");
    for round in 0..2 {
        write_file(pair.b.join(name(20)), format!("round {round}"));
        let mut command = common::psync(&pair.temp);
        command.args(["./b", "./third"]).current_dir(pair.temp.path());
        common::pair::Said::of(&mut command, 0);
    }
    let sent = manifest_bytes(&pair, &["--no-compress"]);
    assert!(sent > 30 * FILES as u64, "{sent}");
    pair.assert_settled();
    assert_eq!(fs::read_to_string(pair.a.join(name(20))).unwrap(), "round 1");
    assert!(third.join(name(20)).exists());
}
