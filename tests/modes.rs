//! The ways of running `psync ./a ./b`: dry runs, one-way runs, and the guards against deleting
//! more than a person can have meant.
//!
//!     cargo test --test modes
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::pair::{Pair, Said, clash_names, names, trashed};
use common::tree::{assert_same_trees, snapshot};
use common::{local_rsh, psync, psync_over, read_text, run_expecting, write_file};

/// Two folders that have agreed, with changes of each kind on both sides since.
fn changed_pair() -> Pair {
    let pair = Pair::agreed(&[
        ("edited", "old"),
        ("clash.txt", "common"),
        ("deleted", "last words"),
        ("moved", "a text that is long enough to be known again"),
        ("d/inside", "inside"),
    ]);
    write_file(pair.a.join("edited"), "new, in a");
    write_file(pair.a.join("clash.txt"), "of a");
    write_file(pair.b.join("clash.txt"), "of b, and longer");
    fs::remove_file(pair.b.join("deleted")).unwrap();
    fs::rename(pair.a.join("moved"), pair.a.join("d/moved here")).unwrap();
    write_file(pair.b.join("d/created/file"), "created in b");
    pair
}

/// The lines that speak of actions and conflicts.
fn plan(text: &str) -> Vec<String> {
    let marks = ["create on", "update on", "delete on", "move on", "keep both on", "conflict ("];
    let lines = text.lines().filter(|line| marks.iter().any(|mark| line.starts_with(mark)));
    lines.map(clash_time_removed).collect()
}

/// The minute may change between two runs.
fn clash_time_removed(line: &str) -> String {
    match line.split_once("_clash_") {
        Some((before, after)) => format!("{before}_clash_{}", &after[12..]),
        None => line.to_string(),
    }
}

#[test]
fn a_dry_run_prints_the_plan_that_a_real_run_carries_out_and_changes_nothing() {
    let pair = changed_pair();
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let dry = pair.sync_expecting(40, &["--dry-run"]);
    assert_eq!(before, (snapshot(&pair.a), snapshot(&pair.b)));
    let again = pair.sync_expecting(40, &["-n"]);
    assert_eq!(plan(&dry.out), plan(&again.out));
    let real = pair.sync_to(40);
    assert_eq!(plan(&dry.out), plan(&real.out));
    assert_eq!(plan(&dry.err), plan(&real.err));
    assert!(plan(&dry.out).len() >= 5, "{}", dry.out);
}

#[test]
fn a_dry_run_of_a_first_copy_makes_no_folder() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "text");
    fs::remove_dir(&pair.b).unwrap();
    pair.sync_expecting(0, &["-n"]).has("create on");
    assert!(!pair.b.exists(), "the folder of the other side was made");
}

#[test]
fn mirror_push_makes_the_other_side_exactly_this_one() {
    let pair = changed_pair();
    write_file(pair.b.join("only in b"), "only in b");
    write_file(pair.b.join("moved"), "edited in b");
    let ours = snapshot(&pair.a);
    pair.sync_expecting(0, &["--mirror", "push", "-v"]);
    assert_eq!(snapshot(&pair.a), ours);
    pair.assert_settled();
    assert_eq!(trashed(&pair.b, "only in b"), ["only in b"]);
    assert_eq!(trashed(&pair.b, "clash.txt"), ["of b, and longer"]);
    assert_eq!(trashed(&pair.b, "moved"), ["edited in b"]);
    assert_eq!(trashed(&pair.b, "d/created/file"), ["created in b"]);
}

#[test]
fn mirror_pull_makes_this_side_exactly_the_other() {
    let pair = changed_pair();
    write_file(pair.a.join("only in a"), "only in a");
    let theirs = snapshot(&pair.b);
    pair.sync_expecting(0, &["--mirror=pull", "-v"]);
    assert_eq!(snapshot(&pair.b), theirs);
    pair.assert_settled();
    assert_eq!(trashed(&pair.a, "only in a"), ["only in a"]);
    assert_eq!(trashed(&pair.a, "clash.txt"), ["of a"]);
}

#[test]
fn a_mirror_without_history_deletes_too_and_keeps_what_it_deletes() {
    for (flow, winner, loser) in [("push", "a", "b"), ("pull", "b", "a")] {
        let pair = Pair::new();
        let (winner, loser) = (pair.temp.join(winner), pair.temp.join(loser));
        write_file(winner.join("shared"), "right");
        write_file(loser.join("shared"), "wrong");
        write_file(loser.join("d/extra"), "extra");
        write_file(winner.join("new/file"), "new");
        pair.sync_expecting(0, &["--mirror", flow]);
        assert_eq!(names(&loser), ["new", "shared"]);
        assert_eq!(trashed(&loser, "shared"), ["wrong"]);
        assert_eq!(trashed(&loser, "d/extra"), ["extra"]);
        pair.assert_settled();
    }
}

#[test]
fn a_mirror_of_what_does_not_exist_is_an_error() {
    let pair = Pair::new();
    write_file(pair.b.join("file"), "text");
    fs::remove_dir(&pair.a).unwrap();
    pair.sync_expecting(11, &["--mirror", "push"]).has("no such directory");
    assert!(!pair.a.exists());
    assert_eq!(names(&pair.b), ["file"]);
}

#[test]
fn mirror_takes_push_or_pull_and_delete_is_explained() {
    let pair = Pair::new();
    pair.sync_expecting(1, &["--mirror", "both"]).has("push").has("pull");
    pair.sync_expecting(1, &["--delete"]).has("--mirror");
}

/// A pair that agreed on so many files.
fn pair_of(files: usize) -> Pair {
    let pair = Pair::new();
    for number in 0..files {
        write_file(pair.a.join(format!("file {number}")), format!("{number}"));
    }
    pair.sync_to(0);
    pair
}

fn delete(root: &Path, numbers: std::ops::Range<usize>) {
    for number in numbers {
        fs::remove_file(root.join(format!("file {number}"))).unwrap();
    }
}

#[test]
fn more_than_half_deleted_stops_the_run_before_the_first_change() {
    let pair = pair_of(210);
    delete(&pair.a, 0..120);
    write_file(pair.b.join("new"), "new");
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let said = pair.sync_expecting(41, &[]);
    said.has("deletes 120 of 211").has("--max-delete=120").has("nothing was changed");
    assert_eq!(before, (snapshot(&pair.a), snapshot(&pair.b)));
    pair.sync_expecting(41, &["--max-delete", "119"]);
    pair.sync_expecting(41, &["--max-delete", "10%"]);
    pair.sync_expecting(0, &["--max-delete", "120"]);
    pair.assert_settled();
    assert_eq!(names(&pair.b).len(), 91);
}

#[test]
fn the_limit_holds_for_deletions_on_either_side() {
    let pair = pair_of(20);
    delete(&pair.b, 0..6);
    pair.sync_expecting(41, &["--max-delete", "5"]).has("on this side");
    pair.sync_expecting(41, &["--max-delete", "29%"]);
    pair.sync_expecting(0, &["--max-delete", "30%"]);
    pair.assert_settled();
    pair.sync_expecting(1, &["--max-delete", "many"]).has("'many'");
}

#[test]
fn a_folder_moved_whole_is_no_deletion() {
    let pair = Pair::new();
    for number in 0..150 {
        write_file(pair.a.join(format!("old/file {number}")), format!("{number}"));
    }
    pair.sync_to(0);
    fs::rename(pair.a.join("old"), pair.a.join("new")).unwrap();
    pair.sync_to(0);
}

#[test]
fn a_root_that_vanished_with_its_state_stops_the_run_and_may_be_filled_again() {
    for (vanished, is_made_again) in [("a", true), ("a", false), ("b", true), ("b", false)] {
        let pair = Pair::agreed(&[("kept", "x")]);
        let root = pair.temp.join(vanished);
        fs::remove_dir_all(&root).unwrap();
        if is_made_again {
            fs::create_dir(&root).unwrap();
        }
        pair.sync_expecting(41, &[]).has(vanished).has("--max-delete=0");
        let left = if root.exists() { fs::read_dir(&root).unwrap().count() } else { 0 };
        assert_eq!((left, root.exists()), (0, is_made_again));
        pair.sync_expecting(0, &["--max-delete=0"]);
        assert_same_trees(&pair.a, &pair.b);
        assert!(root.join("kept").exists());
        pair.sync_to(0);
    }
}

#[test]
fn an_emptied_root_stops_the_run() {
    for emptied in ["a", "b"] {
        let pair = pair_of(5);
        delete(&pair.temp.join(emptied), 0..5);
        pair.sync_expecting(41, &[]).has("the root is empty").has("--max-delete");
        assert_eq!(names(&pair.a).len() + names(&pair.b).len(), 5);
        // As the message says.
        pair.sync_expecting(0, &["--max-delete=100%"]);
        assert_same_trees(&pair.a, &pair.b);
        assert!(names(&pair.a).is_empty());
    }
}

#[test]
fn a_limit_that_was_set_once_for_all_says_nothing_about_a_root_that_is_empty_today() {
    for limit in ["\"10%\"", "1000"] {
        for (emptied, loses_state) in [("a", true), ("a", false), ("b", true), ("b", false)] {
            let pair = pair_of(5);
            let root = pair.temp.join(emptied);
            if loses_state {
                fs::remove_dir_all(&root).unwrap();
                fs::create_dir(&root).unwrap();
            } else {
                delete(&root, 0..5);
            }
            let settings = pair.temp.join("home/.config/psync/psync.toml");
            write_file(&settings, format!("max-delete = {limit}\n"));
            pair.sync_expecting(41, &[]).has("empty").has("--max-delete");
            fs::remove_file(settings).unwrap();
            let mut command = pair.command(&[]);
            Said::of(command.env("PSYNC_MAX_DELETE", limit.trim_matches('"')), 41);
            assert_eq!(names(&pair.a).len() + names(&pair.b).len(), 5);
        }
    }
}

#[test]
fn a_limit_set_in_a_file_holds_on_both_sides() {
    for changed in ["a", "b"] {
        let pair = pair_of(300);
        delete(&pair.temp.join(changed), 0..250);
        pair.sync_expecting(41, &[]).has("deletes 250 of 300");
        write_file(pair.temp.join("home/.config/psync/psync.toml"), "max-delete = 250\n");
        pair.sync_expecting(0, &[]).has("250 deleted");
        pair.assert_settled();
    }
}

#[test]
fn an_unmounted_root_whose_state_went_with_it_is_filled_only_if_a_person_says_so() {
    let pair = pair_of(5);
    fs::remove_dir_all(&pair.b).unwrap();
    fs::create_dir(&pair.b).unwrap();
    // As on another machine, whose own notes were lost as well.
    fs::remove_dir_all(pair.temp.join("home/.local/state/psync/roots")).unwrap();
    pair.sync_expecting(41, &[]).has("another root than last time");
    assert!(names(&pair.b).is_empty());
    pair.sync_expecting(0, &["--max-delete=0"]);
    pair.assert_settled();
    assert_eq!(names(&pair.b).len(), 5);
}

/// What stands in the place of a root.
fn put_in_place(pair: &Pair, root: &Path, is_synced: bool) {
    fs::rename(root, pair.temp.join("away")).unwrap();
    let other = pair.temp.folder("other");
    write_file(other.join("other"), "other");
    write_file(other.join("file 1"), "different");
    if is_synced {
        let mut command = psync(&pair.temp);
        Said::of(command.args(["./other", "./elsewhere"]).current_dir(pair.temp.path()), 0);
    }
    fs::rename(other, root).unwrap();
}

#[test]
fn another_root_in_the_place_of_one_that_was_synced_stops_the_run() {
    for (replaced, is_synced) in [("a", true), ("a", false), ("b", true), ("b", false)] {
        let pair = pair_of(5);
        let root = pair.temp.join(replaced);
        put_in_place(&pair, &root, is_synced);
        let before = [snapshot(&pair.a), snapshot(&pair.b)];
        let is = if is_synced { "this is replica" } else { "this has no state" };
        for options in [&[][..], &["-n"], &["--mirror=push"], &["--mirror=pull"]] {
            let said = pair.sync_expecting(41, options);
            said.has(&format!("/{replaced}: another root stands here")).has("that was replica");
            said.has(is).has("--max-delete=0").has("psync/roots/");
        }
        assert_eq!([snapshot(&pair.a), snapshot(&pair.b)], before);
        assert_eq!(root.join(".psync").exists(), is_synced);
        // A look is no word about the next run.
        pair.sync_expecting(40, &["-n", "--max-delete=0"]);
        pair.sync_expecting(41, &[]);
        pair.sync_expecting(40, &["--max-delete=0"]);
        pair.assert_settled();
        assert!(pair.a.join("other").exists() && pair.b.join("file 4").exists());
        // Disks that are used by turns are both known from now on.
        fs::rename(&root, pair.temp.join("second")).unwrap();
        fs::rename(pair.temp.join("away"), &root).unwrap();
        pair.sync_to(0);
    }
}

/// Syncs the pair over a remote shell, or as two folders of one machine.
fn sync_either_way(pair: &Pair, is_remote: bool, code: i32, options: &[&str]) -> Said {
    if !is_remote {
        return pair.sync_expecting(code, options);
    }
    let mut command = psync_over(&pair.temp, &local_rsh(&pair.temp));
    let far = format!("host:{}", pair.b.display());
    Said::of(command.args(options).args(["./a", &far]).current_dir(pair.temp.path()), code)
}

#[test]
fn where_both_roots_are_new_nothing_is_missed() {
    for is_remote in [false, true] {
        let pair = Pair::new();
        for round in ["first", "second", "third"] {
            for root in [&pair.a, &pair.b] {
                fs::remove_dir_all(root).unwrap();
                fs::create_dir(root).unwrap();
            }
            write_file(pair.a.join(round), round);
            if round == "third" {
                write_file(pair.b.join("here"), "already");
            }
            sync_either_way(&pair, is_remote, 0, &[]);
            assert_same_trees(&pair.a, &pair.b);
            assert!(pair.b.join(round).exists());
        }
    }
}

#[test]
fn where_the_other_side_was_synced_before_a_new_root_is_missed_over_a_remote_shell_too() {
    for replaced in ["a", "b"] {
        let pair = pair_of(5);
        sync_either_way(&pair, true, 0, &[]);
        let root = pair.temp.join(replaced);
        put_in_place(&pair, &root, false);
        let before = [snapshot(&pair.a), snapshot(&pair.b)];
        for options in [&[][..], &["-n"], &["--mirror=push"]] {
            let said = sync_either_way(&pair, true, 41, options);
            said.has("another root stands here").has("this has no state");
        }
        assert_eq!([snapshot(&pair.a), snapshot(&pair.b)], before);
        assert!(!root.join(".psync").exists());
        sync_either_way(&pair, true, 40, &["--max-delete=0"]);
        assert!(pair.a.join("other").exists() && pair.b.join("file 4").exists());
    }
}

#[test]
fn a_root_that_is_the_same_directory_or_the_same_replica_is_no_other_one() {
    for root in ["a", "b"] {
        let pair = pair_of(5);
        let root = pair.temp.join(root);
        let copy = |from: &Path, to: &Path| {
            run_expecting(Command::new("cp").arg("-a").args([from, to]), 0);
        };
        // Copied away and back, as from a backup that is not old.
        copy(&root, &pair.temp.join("backup"));
        fs::remove_dir_all(&root).unwrap();
        copy(&pair.temp.join("backup"), &root);
        pair.sync_to(0);
        // From one that is: its state takes another identity, in a directory that is new as well.
        write_file(pair.a.join("new"), "new");
        pair.sync_to(0);
        fs::remove_dir_all(&root).unwrap();
        copy(&pair.temp.join("backup"), &root);
        pair.sync_to(0);
        assert!(root.join("new").exists());
        // It loses its state.
        fs::remove_dir_all(root.join(".psync")).unwrap();
        pair.sync_to(0);
        // What an older psync has noted is not more than the path.
        let notes = pair.temp.join("home/.local/state/psync/roots");
        for note in fs::read_dir(&notes).unwrap() {
            let note = note.unwrap().path();
            let text = fs::read(&note).unwrap();
            fs::write(note, text.split(|&byte| byte == 0).next().unwrap()).unwrap();
        }
        pair.sync_to(0);
        put_in_place(&pair, &root, false);
        pair.sync_expecting(41, &[]);
    }
}

#[test]
fn state_may_live_elsewhere() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "text");
    let state = pair.temp.join("state");
    let state_dir = format!("--state-dir={}", state.display());
    pair.sync_expecting(0, &[&state_dir]);
    assert!(!pair.a.join(".psync/index.db").exists());
    assert_eq!(fs::read_dir(&state).unwrap().count(), 2);
    fs::remove_file(pair.a.join("file")).unwrap();
    pair.sync_expecting(0, &[&state_dir, "--max-delete=1"]);
    assert!(names(&pair.b).is_empty());
}

#[test]
fn a_limit_of_the_rate_is_kept() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), common::pair::noise(1, 150_000));
    let started = std::time::Instant::now();
    pair.sync_expecting(0, &["--bwlimit=150"]);
    assert!(started.elapsed().as_millis() > 700, "{:?}", started.elapsed());
    pair.assert_settled();
    pair.sync_expecting(1, &["--bwlimit=fast"]).has("'fast'");
}

#[test]
fn three_sides_or_two_remote_ones_are_refused() {
    let pair = Pair::new();
    for sides in [&["a"][..], &["a", "b", "c"], &["h:a", "i:b"], &["h::", "a"], &["", "a"]] {
        run_expecting(psync(&pair.temp).args(sides).current_dir(pair.temp.path()), 1);
    }
}

#[test]
fn version_and_help_are_printed() {
    let pair = Pair::new();
    let version = run_expecting(psync(&pair.temp).arg("--version"), 0);
    assert_eq!(version.trim(), format!("psync {}", env!("CARGO_PKG_VERSION")));
    let help = run_expecting(psync(&pair.temp).arg("--help"), 0);
    assert!(help.contains("--mirror") && help.contains(".psync/trash"), "{help}");
}

#[test]
fn clash_files_are_ordinary_files_afterwards() {
    let pair = changed_pair();
    pair.sync_to(40);
    let clash = clash_names(&pair.a).pop().unwrap();
    write_file(pair.b.join(&clash), "resolved");
    pair.sync_to(0);
    assert_eq!(read_text(pair.a.join(&clash)), "resolved");
    fs::remove_file(pair.a.join(&clash)).unwrap();
    pair.sync_to(0);
    assert!(clash_names(&pair.b).is_empty());
}

#[test]
fn nearly_all_files_changed_at_once_stop_the_run_before_the_first_change() {
    let pair = pair_of(120);
    for number in 0..119 {
        write_file(pair.b.join(format!("file {number}")), format!("pay to read file {number}"));
    }
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let said = pair.sync_expecting(41, &[]);
    said.has("119 of 120 files on the other side").has("--max-change=119");
    said.has("nothing was changed");
    assert_eq!(before, (snapshot(&pair.a), snapshot(&pair.b)));
    pair.sync_expecting(41, &["--max-change", "118"]);
    pair.sync_expecting(41, &["--max-change", "50%"]);
    pair.sync_expecting(0, &["--max-change", "119"]);
    pair.assert_settled();
}

#[test]
fn new_and_moved_files_are_not_counted_as_changed() {
    let pair = pair_of(120);
    for number in 0..120 {
        let name = format!("file {number}");
        fs::create_dir_all(pair.a.join("moved")).unwrap();
        fs::rename(pair.a.join(&name), pair.a.join("moved").join(&name)).unwrap();
        write_file(pair.a.join(format!("new {number}")), "new");
    }
    pair.sync_expecting(0, &[]);
    pair.assert_settled();
}

#[test]
fn a_rule_of_the_tree_cannot_turn_round_what_was_typed() {
    for (mode, pushed) in [("pull", "yours"), ("two-way", "mine again")] {
        let pair = Pair::agreed(&[("f", "mine"), ("g", "mine")]);
        let rule = format!("[[rule]]\npattern = \"f\"\nmode = \"{mode}\"\n");
        write_file(pair.a.join(".psync.toml"), &rule);
        write_file(pair.b.join("f"), "yours");
        write_file(pair.a.join("g"), "mine, newer");
        let there = |name: &str| read_text(pair.b.join(name));
        pair.sync_expecting(0, &["--push"]);
        assert_eq!(read_text(pair.a.join("f")), "mine");
        assert_eq!([there("f"), there("g")], ["yours", "mine, newer"]);
        pair.sync_expecting(0, &["--pull"]);
        assert_eq!(read_text(pair.a.join("f")), "yours");
        fs::write(pair.a.join("f"), "mine again").unwrap();
        pair.sync_expecting(0, &["--push"]);
        assert_eq!(there("f"), pushed);
    }
}

#[test]
fn a_side_whose_number_of_files_is_only_guessed_may_change_as_far_as_allowed() {
    let pair = Pair::agreed(&[("f", "old")]);
    // More directories here than the other side has entries: by what this side knows it has no file.
    for name in ["one", "two", "three"] {
        fs::create_dir(pair.a.join(name)).unwrap();
    }
    write_file(pair.b.join("f"), "new there");
    pair.sync_expecting(41, &["--max-change=99%"]).has("1 of 1 files on the other side");
    pair.sync_expecting(0, &["--max-change=100%"]);
    pair.assert_settled();
}

#[test]
fn nothing_is_merged_where_changes_go_one_way_only() {
    for way in ["--push", "--pull"] {
        let pair = Pair::agreed(&[("f", "1\n2\n3\n4\n5\n")]);
        write_file(pair.a.join("f"), "one\n2\n3\n4\n5\n");
        write_file(pair.b.join("f"), "1\n2\n3\n4\nfive\n");
        let before = (snapshot(&pair.a), snapshot(&pair.b));
        let said = pair.sync_expecting(40, &[way, "--policy=merge"]);
        said.has("changes do not go both ways");
        assert_eq!(before, (snapshot(&pair.a), snapshot(&pair.b)));
        pair.sync_expecting(0, &["--policy=merge"]);
        assert_eq!(read_text(pair.b.join("f")), "one\n2\n3\n4\nfive\n");
        pair.assert_settled();
    }
}
