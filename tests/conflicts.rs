//! Conflicts, through the real program: the list of them, both versions beside each other, and the
//! ways to settle them.
//!
//!     cargo test --test conflicts
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::pair::{Pair, Said};
use common::tree::{assert_same_trees, files_below, set_mtime};
use common::{psync, read_text, write_file};

const BASE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";
const LATER: i64 = 1_000_000_000;

/// Both sides have agreed on a file, and each has edited it: `a` at the top and earlier, `b` at the
/// bottom and later.
fn edited() -> Pair {
    let pair = Pair::agreed(&[("f.txt", BASE)]);
    edit(&pair, "f.txt", &BASE.replace("one", "ONE"), &BASE.replace("seven", "SEVEN"));
    pair
}

fn edit(pair: &Pair, path: &str, here: &str, there: &str) {
    write_file(pair.a.join(path), here);
    set_mtime(&pair.a.join(path), 2_000_000_000 * LATER);
    write_file(pair.b.join(path), there);
    set_mtime(&pair.b.join(path), 2_000_000_010 * LATER);
}

/// `psync WORDS`, in the root where the runs are planned.
fn command(pair: &Pair, words: &[&str]) -> Command {
    let mut command = psync(&pair.temp);
    command.args(words).current_dir(&pair.a);
    command
}

#[track_caller]
fn say(pair: &Pair, code: i32, words: &[&str]) -> Said {
    Said::of(&mut command(pair, words), code)
}

fn held() -> Pair {
    let pair = edited();
    pair.sync_expecting(40, &["--policy", "hold"]);
    pair
}

fn clash_file(root: &Path) -> PathBuf {
    let mut found = files_below(root).into_iter().filter(|path| {
        let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        !path.starts_with(".psync") && path.contains("_clash_")
    });
    found.next().expect("there is a clash file")
}

fn has_clash_file(root: &Path) -> bool {
    fs::read_dir(root)
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().contains("_clash_"))
}

#[test]
fn a_held_conflict_is_listed_until_it_is_settled() {
    let pair = held();
    let said = say(&pair, 0, &["conflicts"]);
    said.has("f.txt").has("modified-both").has("1 conflict waits").has("local").has("remote");
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{}", said.out);
    let objects = say(&pair, 0, &["conflicts", "--json"]).objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["state"], "held");
    assert_eq!(objects[0]["kind"], "modified-both");
    assert_eq!(objects[0]["remote"]["size"], BASE.len());
    assert!(objects[0]["remote"]["hash"].is_string(), "{}", objects[0]);
    // It stays the same one, however often a run finds it.
    pair.sync_expecting(40, &["--policy", "hold"]);
    assert_eq!(say(&pair, 0, &["conflicts", "--json"]).objects().len(), 1);
    say(&pair, 0, &["resolve", "f.txt", "--keep", "remote"]).has("run psync again");
    say(&pair, 0, &["conflicts"]).has("chosen for the next run: remote");
    pair.sync_expecting(0, &["--policy", "hold"]);
    assert_eq!(read_text(pair.a.join("f.txt")), BASE.replace("seven", "SEVEN"));
    assert_same_trees(&pair.a, &pair.b);
    say(&pair, 0, &["conflicts"]).has("no conflict waits");
    say(&pair, 0, &["conflicts", "--past"]).has("f.txt");
}

#[test]
fn each_choice_does_what_it_says() {
    let (here, there) = (BASE.replace("one", "ONE"), BASE.replace("seven", "SEVEN"));
    for (keep, expected) in
        [("local", &here), ("remote", &there), ("newest", &there), ("oldest", &here)]
    {
        let pair = held();
        say(&pair, 0, &["resolve", "--all", "--keep", keep]);
        pair.sync_expecting(0, &["--policy", "hold"]);
        assert_eq!(&read_text(pair.b.join("f.txt")), expected, "{keep}");
        assert_same_trees(&pair.a, &pair.b);
        assert!(!has_clash_file(&pair.a));
    }
    let pair = held();
    say(&pair, 0, &["resolve", "*.txt", "--keep", "both"]);
    pair.sync_expecting(40, &["--policy", "hold"]);
    assert_eq!(read_text(pair.a.join("f.txt")), there);
    assert_eq!(read_text(clash_file(&pair.a)), here);
    assert_same_trees(&pair.a, &pair.b);
}

#[test]
fn a_choice_holds_only_for_what_was_seen() {
    let pair = held();
    say(&pair, 0, &["resolve", "f.txt", "--keep", "local"]);
    write_file(pair.b.join("f.txt"), "edited once more\n");
    pair.sync_expecting(40, &["--policy", "hold"]);
    assert_eq!(read_text(pair.b.join("f.txt")), "edited once more\n");
    let objects = say(&pair, 0, &["conflicts", "--json"]).objects();
    assert_eq!(objects.len(), 1);
    assert!(objects[0]["chosen"].is_null());
}

#[test]
fn both_changes_are_merged_by_hand() {
    let pair = held();
    let merged = BASE.replace("one", "ONE").replace("seven", "SEVEN");
    say(&pair, 0, &["resolve", "f.txt", "--merge"]).has("merged").has("run psync again");
    assert_eq!(read_text(pair.a.join("f.txt")), merged);
    say(&pair, 0, &["conflicts"]).has("no conflict waits");
    pair.sync_expecting(0, &["--policy", "hold"]);
    assert_eq!(read_text(pair.b.join("f.txt")), merged);
    pair.assert_settled();
}

#[test]
fn a_merge_tool_gets_three_versions_and_leaves_one() {
    let pair = held();
    let tool = "grep -q ONE \"$LOCAL\" && grep -q SEVEN \"$REMOTE\" && grep -q one \"$BASE\" && \
                cat \"$LOCAL\" \"$REMOTE\" > \"$MERGED\"";
    say(&pair, 0, &["resolve", "f.txt", "--tool", tool]).has("merged");
    pair.sync_expecting(0, &["--policy", "hold"]);
    let expected = BASE.replace("one", "ONE") + &BASE.replace("seven", "SEVEN");
    assert_eq!(read_text(pair.b.join("f.txt")), expected);
}

#[test]
fn a_merge_tool_that_fails_changes_nothing() {
    let pair = held();
    say(&pair, 23, &["resolve", "f.txt", "--tool", "echo x > \"$MERGED\"; exit 1"])
        .has("nothing was changed");
    assert_eq!(read_text(pair.a.join("f.txt")), BASE.replace("one", "ONE"));
    say(&pair, 0, &["conflicts"]).has("1 conflict waits");
}

#[test]
fn changes_that_overlap_are_not_merged() {
    let pair = Pair::agreed(&[("f.txt", BASE)]);
    edit(&pair, "f.txt", &BASE.replace("one", "ONE"), &BASE.replace("one", "uno"));
    pair.sync_expecting(40, &["--policy", "hold"]);
    say(&pair, 23, &["resolve", "f.txt", "--merge"]).has("overlap").has("--keep");
    assert_eq!(read_text(pair.a.join("f.txt")), BASE.replace("one", "ONE"));
}

#[test]
fn both_versions_of_a_held_conflict_are_shown_without_the_other_side() {
    let pair = held();
    fs::rename(&pair.b, pair.temp.join("away")).unwrap();
    let said = say(&pair, 1, &["diff", "f.txt"]);
    said.has_line("--- local/f.txt").has_line("+++ remote/f.txt");
    said.has_line("-ONE").has_line("+one").has_line("-seven").has_line("+SEVEN");
}

#[test]
fn without_a_store_a_difference_is_told_in_sizes_and_times() {
    let pair = edited();
    pair.sync_expecting(40, &["--policy", "hold", "--no-store"]);
    let said = say(&pair, 1, &["diff", "f.txt"]);
    said.has("not kept here").has(&format!("{} bytes", BASE.len()));
}

#[test]
fn a_file_is_shown_beside_what_was_last_agreed() {
    let pair = Pair::agreed(&[("f.txt", BASE), ("g.txt", "same\n")]);
    write_file(pair.a.join("f.txt"), BASE.replace("four", "FOUR"));
    say(&pair, 1, &["diff", "f.txt"]).has_line("--- agreed/f.txt").has_line("+FOUR");
    assert_eq!(say(&pair, 0, &["diff", "g.txt"]).out, "");
    say(&pair, 11, &["diff", "nothing"]).has("was never synced");
}

#[test]
fn of_two_that_were_kept_one_can_still_be_chosen() {
    let (here, there) = (BASE.replace("one", "ONE"), BASE.replace("seven", "SEVEN"));
    for (keep, expected) in [("local", &here), ("remote", &there)] {
        let pair = edited();
        pair.sync_expecting(40, &[]);
        let clash = clash_file(&pair.a);
        say(&pair, 1, &["diff", "f.txt"]).has("ONE").has("SEVEN");
        say(&pair, 0, &["resolve", "f.txt", "--keep", keep]).has("resolved");
        assert!(!clash.exists());
        pair.sync_expecting(0, &[]);
        assert_eq!(&read_text(pair.b.join("f.txt")), expected, "{keep}");
        assert!(!has_clash_file(&pair.b));
        pair.assert_settled();
        say(&pair, 23, &["resolve", "f.txt", "--keep", "local"]).has("resolved already");
    }
    let pair = edited();
    pair.sync_expecting(40, &[]);
    say(&pair, 0, &["resolve", "f.txt", "--merge"]).has("merged");
    pair.sync_expecting(0, &[]);
    let merged = BASE.replace("one", "ONE").replace("seven", "SEVEN");
    assert_eq!(read_text(pair.b.join("f.txt")), merged);
    assert!(!has_clash_file(&pair.b));
}

#[test]
fn the_policy_merge_merges_in_one_run() {
    let pair = edited();
    pair.sync_expecting(0, &["--policy", "merge"]).has("merged: f.txt");
    let merged = BASE.replace("one", "ONE").replace("seven", "SEVEN");
    assert_eq!(read_text(pair.a.join("f.txt")), merged);
    pair.assert_settled();
}

#[test]
fn what_cannot_be_merged_is_kept_twice() {
    let pair = Pair::agreed(&[("f.txt", BASE)]);
    edit(&pair, "f.txt", &BASE.replace("one", "ONE"), &BASE.replace("one", "uno"));
    pair.sync_expecting(40, &["--policy", "merge"]).has("cannot be merged");
    assert_eq!(read_text(pair.a.join("f.txt")), BASE.replace("one", "uno"));
    assert_eq!(read_text(clash_file(&pair.a)), BASE.replace("one", "ONE"));
    pair.assert_settled();
}

#[test]
fn what_is_no_conflict_is_refused_and_nothing_is_changed() {
    let pair = held();
    write_file(pair.a.join("calm.txt"), "calm\n");
    pair.sync_expecting(40, &["--policy", "hold"]);
    let before = read_text(pair.a.join("calm.txt"));
    say(&pair, 1, &["resolve", "calm.txt", "--keep", "remote"]).has("there is no conflict here");
    say(&pair, 1, &["resolve", "*.doc", "--keep", "remote"]).has("matches no conflict");
    say(&pair, 1, &["resolve", "f.txt", "*.doc", "--keep", "remote"]).has("matches no conflict");
    say(&pair, 1, &["resolve", "f.txt", "--keep", "nobody"]).has("nobody");
    say(&pair, 1, &["resolve"]).has("--keep");
    say(&pair, 1, &["resolve", "--keep", "local"]).has("--all");
    assert_eq!(read_text(pair.a.join("calm.txt")), before);
    let objects = say(&pair, 0, &["conflicts", "--json"]).objects();
    assert!(objects[0]["chosen"].is_null(), "{}", objects[0]);
}

#[test]
fn a_file_that_was_edited_since_the_run_is_not_overwritten_by_a_merge() {
    let pair = held();
    write_file(pair.a.join("f.txt"), "edited once more\n");
    say(&pair, 23, &["resolve", "f.txt", "--merge"]).has("changed since");
    assert_eq!(read_text(pair.a.join("f.txt")), "edited once more\n");
}

#[test]
fn a_name_cannot_steer_a_terminal() {
    let name = "a\u{1b}[31mb";
    let pair = Pair::agreed(&[(name, BASE)]);
    edit(&pair, name, "here\n", "there\n");
    pair.sync_expecting(40, &["--policy", "hold"]);
    for words in [["conflicts", "--all"], ["conflicts", "--json"]] {
        say(&pair, 0, &words).has_not("\u{1b}");
    }
    say(&pair, 1, &["diff", name]).has_not("\u{1b}").has("\\u{1b}");
}

#[test]
fn the_list_and_diff_say_what_a_conflict_waits_for_and_what_differs() {
    let held = |pair: &Pair, options: &[&str]| {
        pair.sync_expecting(40, options);
        let list = say(pair, 0, &["conflicts"]);
        assert!(list.out.lines().all(|line| line.chars().count() <= 80), "{}", list.out);
        list
    };
    let why = "changes only go from this side to the";
    held(&edited(), &["--push"]).has(why).has("(push)").has_not("keep-both, the default");

    let pair = edited();
    let rule = "[[rule]]\npattern = \"f.txt\"\nmax-size = \"1\"\n";
    write_file(pair.temp.join("home/.config/psync/psync.toml"), rule);
    held(&pair, &[]).has("it is larger than max-size allows").has_not("keep-both, the default");

    let pair = Pair::agreed(&[("old", "a text that is long enough to be known again")]);
    fs::rename(pair.a.join("old"), pair.a.join("here")).unwrap();
    fs::rename(pair.b.join("old"), pair.b.join("there")).unwrap();
    let moves = "moved to here here and to there on the other side";
    held(&pair, &["--policy=hold"]).has("moved-both").has(moves).has_not("nothing");
    say(&pair, 1, &["diff", "old"]).has(moves).has_not("nothing");
    pair.sync_expecting(40, &[]).has(moves).has("both new names are kept");

    let pair = Pair::agreed(&[("f", "text")]);
    for (root, mode) in [(&pair.a, 0o600), (&pair.b, 0o755)] {
        fs::set_permissions(root.join("f"), fs::Permissions::from_mode(mode)).unwrap();
    }
    held(&pair, &["--policy=hold"]).has("properties-both").has("0600").has("0755");
    say(&pair, 1, &["diff", "f"]).has("0600").has("0755");
}

#[test]
fn names_in_json_are_exact() {
    let name = std::ffi::OsStr::from_bytes(b"new\nline \xff");
    let (line, hex) = ("new\nline \u{fffd}", "6e65770a6c696e6520ff");
    for policy in ["hold", "keep-both"] {
        let pair = Pair::agreed(&[]);
        write_file(pair.a.join(name), "of a");
        write_file(pair.b.join(name), "of b");
        pair.sync_expecting(40, &["--policy", policy]);
        let listed = say(&pair, 0, &["conflicts", "--all", "--json"]).objects().remove(0);
        assert_eq!((&listed["path"], &listed["path_hex"]), (&line.into(), &hex.into()));
        if policy == "hold" {
            assert!(listed["clash"].is_null(), "{listed}");
            let status = say(&pair, 0, &["status", "--json"]).objects().remove(0);
            let peer = &status["peers"][0];
            assert_eq!((&peer["pending"][0], &peer["pending_hex"][0]), (&line.into(), &hex.into()));
        } else {
            assert!(listed["clash_hex"].as_str().unwrap().starts_with(hex));
        }
    }
}

#[test]
fn json_is_merged_by_key_where_a_rule_says_so() {
    let base = "{\"a\": 1, \"b\": 2}\n";
    let pair = Pair::agreed(&[("s.json", base)]);
    edit(&pair, "s.json", "{\"a\": 10, \"b\": 2}\n", "{\"a\": 1, \"b\": 2, \"c\": 3}\n");
    let rule = "[[rule]]\npattern = \"*.json\"\npolicy = \"merge\"\nmerge = \"structured\"\n";
    write_file(pair.a.join(".psync.toml"), rule);
    pair.sync_expecting(0, &[]).has("merged: s.json");
    assert_eq!(read_text(pair.b.join("s.json")), "{\"a\": 10, \"b\": 2, \"c\": 3}\n");
    pair.assert_settled();
}

#[test]
fn on_a_terminal_one_key_settles_a_conflict() {
    let pair = held();
    let keys = pair.temp.join("keys");
    write_file(&keys, "dr");
    // A terminal of its own, which gets these keys.
    let program = format!("{} resolve", common::PSYNC);
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &program, "/dev/null"]).current_dir(&pair.a);
    script.env("HOME", pair.temp.path()).stdin(fs::File::open(&keys).unwrap());
    let said = Said::of(&mut script, 0);
    said.has("[1/1] f.txt").has("+SEVEN").has("remote, in the next run");
    pair.sync_expecting(0, &["--policy", "hold"]);
    assert_eq!(read_text(pair.a.join("f.txt")), BASE.replace("seven", "SEVEN"));
}

#[test]
fn what_is_no_text_is_told_in_sizes_and_times() {
    let pair = Pair::agreed(&[("f.bin", "a")]);
    edit(&pair, "f.bin", "one\0", "three\0");
    pair.sync_expecting(40, &["--policy", "hold"]);
    say(&pair, 1, &["diff", "f.bin"]).has("4 bytes").has("6 bytes").has_not("@@");
}

#[test]
fn what_a_resolution_replaces_is_in_the_journal_and_the_trash() {
    let pair = held();
    say(&pair, 0, &["resolve", "f.txt", "--merge"]);
    say(&pair, 0, &["log"]).has("restore");
    say(&pair, 0, &["history", "f.txt"]).has("trash");
    say(&pair, 0, &["log", "--", "f.txt"]).has("a conflict was resolved");
    let trashed = files_below(&pair.a.join(".psync/trash"));
    assert!(trashed.iter().any(|file| read_text(file) == BASE.replace("one", "ONE")));
}
