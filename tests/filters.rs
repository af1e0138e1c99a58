//! What is left alone: `--exclude`, `--include` and `.psyncignore`. Whatever a filter says, it
//! never deletes.
//!
//!     cargo test --test filters
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;

use common::pair::{Pair, names};
use common::tree::snapshot;
use common::{read_text, set_mode, write_file};

#[test]
fn excluded_files_stay_where_they_are() {
    let pair = Pair::new();
    for (path, text) in [("a.rs", "a"), ("a.o", "a"), ("build/x", "x"), ("src/build/y", "y")] {
        write_file(pair.a.join(path), text);
    }
    write_file(pair.b.join("b.o"), "b");
    let filters = ["--exclude=*.o", "--exclude", "/build/"];
    pair.sync_expecting(0, &filters);
    assert_eq!(names(&pair.a), ["a.o", "a.rs", "build", "src"]);
    assert_eq!(names(&pair.b), ["a.rs", "b.o", "src"]);
    pair.sync_expecting(0, &filters).has("nothing to do");
}

#[test]
fn the_first_filter_that_matches_decides() {
    let pair = Pair::new();
    for path in ["keep.log", "other.log", "d/keep.log", "text"] {
        write_file(pair.a.join(path), path);
    }
    pair.sync_expecting(0, &["--include=keep.log", "--exclude=*.log"]);
    assert_eq!(names(&pair.b), ["d", "keep.log", "text"]);
    assert_eq!(names(&pair.b.join("d")), ["keep.log"]);
}

#[test]
fn a_filter_added_later_deletes_nothing_and_one_taken_away_brings_changes_up_to_date() {
    let pair = Pair::agreed(&[("a.txt", "old"), ("b.log", "old"), ("d/c.log", "old")]);
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    pair.sync_expecting(0, &["--exclude=*.log"]).has("nothing to do");
    assert_eq!(before, (snapshot(&pair.a), snapshot(&pair.b)));
    write_file(pair.a.join("b.log"), "edited while it was excluded");
    write_file(pair.b.join("new.log"), "made while it was excluded");
    pair.sync_expecting(0, &["--exclude=*.log"]).has("nothing to do");
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("b.log")), "edited while it was excluded");
    assert_eq!(names(&pair.a), ["a.txt", "b.log", "d", "new.log"]);
}

#[test]
fn ignore_files_hold_as_git_s_do() {
    let pair = Pair::new();
    write_file(pair.a.join(".psyncignore"), "*.o\n# a comment\n/target/\n!important.o\n\\#odd\n");
    write_file(pair.a.join("d/.psyncignore"), "!*.o\nlocal\n");
    for path in
        ["x.o", "important.o", "target/t", "d/x.o", "d/local", "d/target/t", "#odd", "e/target"]
    {
        write_file(pair.a.join(path), path);
    }
    pair.sync_expecting(0, &[]);
    assert_eq!(names(&pair.b), [".psyncignore", "d", "e", "important.o"]);
    assert_eq!(names(&pair.b.join("d")), [".psyncignore", "target", "x.o"]);
    assert_eq!(names(&pair.b.join("e")), ["target"]);
    pair.sync_expecting(0, &[]).has("nothing to do");
}

#[test]
fn the_command_line_is_asked_before_the_ignore_files() {
    let pair = Pair::new();
    write_file(pair.a.join(".psyncignore"), "*.o\n");
    write_file(pair.a.join("x.o"), "object");
    pair.sync_expecting(0, &["--include=x.o"]);
    assert_eq!(names(&pair.b), [".psyncignore", "x.o"]);
}

#[test]
fn what_one_side_ignores_is_left_alone_on_both() {
    let pair = Pair::agreed(&[("kept", "kept"), ("cache/one", "1"), ("cache/two", "2")]);
    write_file(pair.b.join(".psyncignore"), "cache/\n");
    write_file(pair.a.join("cache/one"), "edited");
    fs::remove_file(pair.a.join("cache/two")).unwrap();
    write_file(pair.a.join("cache/three"), "3");
    pair.sync_expecting(0, &[]);
    // From now on both sides have the file of filters.
    for _ in 0..2 {
        assert_eq!(names(&pair.b.join("cache")), ["one", "two"]);
        assert_eq!(read_text(pair.b.join("cache/one")), "1");
        assert_eq!(names(&pair.a.join("cache")), ["one", "three"]);
        pair.sync_expecting(0, &[]).has("nothing to do");
    }
}

#[test]
fn an_ignore_file_added_later_deletes_nothing() {
    let pair = Pair::agreed(&[("a.log", "a"), ("d/b.log", "b"), ("text", "text")]);
    write_file(pair.a.join(".psyncignore"), "*.log\n");
    pair.sync_to(0);
    assert_eq!(names(&pair.b), [".psyncignore", "a.log", "d", "text"]);
    fs::remove_file(pair.a.join("a.log")).unwrap();
    pair.sync_expecting(0, &[]).has("nothing to do");
    assert_eq!(names(&pair.b), [".psyncignore", "a.log", "d", "text"]);
}

#[test]
fn a_deleted_folder_stays_where_it_holds_ignored_files() {
    let pair = Pair::agreed(&[(".psyncignore", "*.o\n"), ("d/text", "text"), ("d/e/text", "x")]);
    write_file(pair.b.join("d/made here.o"), "ignored");
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    pair.sync_expecting(0, &[]).has("not synced");
    assert_eq!(names(&pair.b.join("d")), ["made here.o"]);
    pair.sync_expecting(0, &[]).has("nothing to do");
    assert_eq!(names(&pair.a), [".psyncignore"]);
}

#[test]
fn a_mirror_leaves_ignored_files_alone() {
    let pair = Pair::agreed(&[(".psyncignore", "*.o\n"), ("text", "text")]);
    write_file(pair.b.join("mine.o"), "ignored");
    write_file(pair.b.join("extra"), "extra");
    pair.sync_expecting(0, &["--mirror", "push"]);
    assert_eq!(names(&pair.b), [".psyncignore", "mine.o", "text"]);
}

#[test]
fn a_bad_pattern_in_an_ignore_file_is_named_and_the_others_hold() {
    for side in ["a", "b"] {
        let pair = Pair::new();
        let side = pair.temp.join(side);
        write_file(side.join("d/.psyncignore"), "*.o\nbroken[z-a]\n*.log\n");
        write_file(side.join("d/x.o"), "object");
        write_file(side.join("d/text"), "text");
        let said = pair.sync_expecting(0, &[]);
        said.has("d/.psyncignore").has("broken[z-a]");
        for root in [&pair.a, &pair.b] {
            assert!(root.join("d/text").exists());
            assert_eq!(root.join("d/x.o").exists(), *root == side);
        }
    }
}

#[test]
fn a_bad_pattern_on_the_command_line_is_named_and_nothing_is_done() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "text");
    pair.sync_expecting(1, &["--exclude=good", "--exclude=bad[z-a]"]).has("bad[z-a]");
    assert!(names(&pair.b).is_empty());
}

#[test]
fn a_folder_whose_ignore_file_cannot_be_read_is_left_alone() {
    let pair = Pair::agreed(&[("d/text", "text"), ("e/text", "text")]);
    // A folder of that name has no patterns; a file that cannot be opened might.
    fs::create_dir(pair.a.join("e/.psyncignore")).unwrap();
    std::os::unix::fs::symlink("loop", pair.a.join("d/.psyncignore")).unwrap();
    write_file(pair.a.join("e/more"), "more");
    pair.sync_to(0);
    assert_eq!(names(&pair.b.join("e")), [".psyncignore", "more", "text"]);
}

#[test]
fn modes_and_times_of_ignored_files_are_left_alone_too() {
    let pair = Pair::agreed(&[("run", "text")]);
    set_mode(&pair.a.join("run"), 0o700);
    set_mode(&pair.b.join("run"), 0o640);
    pair.sync_expecting(0, &["--exclude=run"]).has("nothing to do");
    assert_eq!(snapshot(&pair.b)[b"run".as_slice()].mode, 0o640);
}
