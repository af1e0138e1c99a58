//! `psync log`: what the runs of a root did, told while another run may be at work.
//!
//!     cargo test --test log
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::pair::{Pair, Said};
use common::{describe, psync, run, write_file};
use serde_json::Value;

fn log(pair: &Pair, root: &Path, words: &[&str]) -> Command {
    let mut command = psync(&pair.temp);
    command.args(["log", "--root"]).arg(root).args(words);
    command
}

/// A pair with a run of every kind of deed.
fn eventful() -> Pair {
    let pair = Pair::agreed(&[
        ("edited", "old"),
        ("deleted", "soon gone"),
        ("moved", "a content that is moved as it is"),
        ("mode", "of another mode"),
        ("both", "at first"),
    ]);
    write_file(pair.a.join("edited"), "new");
    fs::remove_file(pair.a.join("deleted")).unwrap();
    fs::rename(pair.a.join("moved"), pair.a.join("there")).unwrap();
    common::set_mode(&pair.a.join("mode"), 0o600);
    write_file(pair.a.join("created"), "out of nothing");
    write_file(pair.a.join("both"), "one of two");
    write_file(pair.b.join("both"), "two of two");
    pair.sync_expecting(40, &[]);
    pair
}

#[test]
fn runs_are_listed_newest_first_with_one_id_at_both_ends() {
    let pair = eventful();
    let [a, b] = [&pair.a, &pair.b]
        .map(|root| Said::of(&mut log(&pair, root, &["--json"]), 0).objects_of("run"));
    assert_eq!((a.len(), b.len()), (2, 2));
    assert_eq!(a[0]["id"], b[0]["id"]);
    assert_ne!(a[0]["id"], a[1]["id"]);
    assert_eq!((&a[0]["started_here"], &b[0]["started_here"]), (&true.into(), &false.into()));
    assert_eq!(a[0]["conflicts"], 1);
    assert_eq!(a[0]["result"], "finished");
    let text = Said::of(&mut log(&pair, &pair.b, &[]), 0);
    assert_eq!(text.out.lines().count(), 2);
    let first = text.out.lines().next().unwrap();
    assert!(first.contains("sync +") && first.contains(">1") && first.contains("conflicts:1"));
    assert_eq!(Said::of(&mut log(&pair, &pair.b, &["-n", "1"]), 0).out.lines().count(), 1);
}

#[test]
fn a_run_tells_each_deed_and_why() {
    let pair = eventful();
    let said = Said::of(&mut log(&pair, &pair.b, &["3", "--json"]), 0);
    let deeds = said.objects_of("deed");
    let what = |path: &str| {
        let deed = deeds.iter().find(|deed| deed["path"] == path);
        deed.unwrap_or_else(|| panic!("no {path}: {deeds:?}")).clone()
    };
    assert_eq!(what("edited")["what"], "update");
    assert_eq!(what("edited")["before"]["size"], 3);
    assert!(what("edited")["kept"]["trash"].as_str().unwrap().ends_with("/edited"));
    assert_eq!(what("deleted")["what"], "delete");
    assert_eq!(what("there")["what"], "move");
    assert_eq!(what("there")["other"], "moved");
    assert_eq!(what("moved")["what"], "move-away");
    assert_eq!(what("mode")["what"], "props");
    assert_eq!(what("created")["what"], "create");
    assert!(deeds.iter().any(|deed| deed["what"] == "clash"));
    assert!(deeds.iter().all(|deed| !deed["why"].as_str().unwrap().is_empty()));
    let text = Said::of(&mut log(&pair, &pair.b, &["3"]), 0);
    text.has("move      moved -> there").has("which started it");
}

#[test]
fn a_path_tells_what_runs_did_to_it_and_to_what_is_in_it() {
    let pair = Pair::agreed(&[("dir/f", "one"), ("g", "x")]);
    write_file(pair.a.join("dir/f"), "two");
    pair.sync_to(0);
    let said = Said::of(&mut log(&pair, &pair.b, &["--", "dir"]), 0);
    assert_eq!(said.out.lines().count(), 3, "{}", said.out);
    said.has("update    dir/f (3 B)").has_not(" g ");
    Said::of(&mut log(&pair, &pair.b, &["--", "nothing"]), 0).has("no run has done anything");
    assert_eq!(Said::of(&mut log(&pair, &pair.b, &["3", "--", "dir"]), 0).out.lines().count(), 1);
}

#[test]
fn runs_with_nothing_to_do_are_told_only_when_asked_for() {
    let pair = Pair::agreed(&[("f", "one")]);
    pair.sync_expecting(0, &[]);
    let count = |words: &[&str]| Said::of(&mut log(&pair, &pair.a, words), 0).out.lines().count();
    assert_eq!((count(&[]), count(&["--all"])), (1, 2));
    Said::of(&mut log(&pair, &pair.a, &["--all"]), 0).has("nothing-to-do");
}

#[test]
fn a_run_that_fails_is_told_with_its_reason() {
    let pair = Pair::agreed(&[("f", "one")]);
    fs::remove_file(pair.a.join("f")).unwrap();
    fs::remove_dir_all(pair.b.join(".psync")).unwrap();
    fs::write(pair.b.join(".psync"), "in the way").unwrap();
    let output = common::run(&mut pair.command(&["--max-delete=100%"]));
    assert_ne!(output.status.code(), Some(0));
    let said = Said::of(&mut log(&pair, &pair.a, &["-n", "1", "--json"]), 0);
    let run = said.objects_of("run").remove(0);
    assert_eq!(run["result"], "broken");
    assert!(run["error"].as_str().unwrap().contains(".psync"), "{run}");
}

#[test]
fn the_past_can_be_read_while_a_run_holds_the_lock() {
    let pair = eventful();
    let lock = fs::File::open(pair.a.join(".psync/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    for words in [&["log"][..], &["history", "both"], &["trash", "list"]] {
        let mut command = psync(&pair.temp);
        command.args(words).arg("--root").arg(&pair.a);
        Said::of(&mut command, 0);
    }
    let mut command = psync(&pair.temp);
    command.args(["undo", "--root"]).arg(&pair.a);
    Said::of(&mut command, 41).has("another psync");
}

#[test]
fn a_damaged_journal_stops_no_sync_and_is_told_by_the_commands() {
    let pair = Pair::agreed(&[("f", "one")]);
    let file = pair.a.join(".psync/journal.db");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(pair.a.join(format!(".psync/journal.db{suffix}")));
    }
    write_file(&file, "no database, but of some length. ".repeat(200));
    Said::of(&mut log(&pair, &pair.a, &[]), 11).has("journal");
    write_file(pair.a.join("f"), "two");
    pair.sync_expecting(0, &[]).has("journal.db.unusable-1");
    pair.assert_settled();
    Said::of(&mut log(&pair, &pair.a, &[]), 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let pair = Pair::agreed(&[("f", "one")]);
    Said::of(&mut log(&pair, &pair.a, &["99"]), 1).has("there is no run '99'");
    Said::of(&mut log(&pair, &pair.a, &["f"]), 1).has("a path stands after --");
    Said::of(&mut log(&pair, &pair.a, &["-n", "0"]), 1);
    Said::of(&mut log(&pair, &pair.temp.folder("none"), &[]), 11).has("nothing was ever synced");
    Said::of(&mut log(&pair, &pair.a, &["--", "/etc/passwd"]), 1).has("does not lie in the root");
}

/// The names of fields that are times.
const TIMES: [&str; 6] = ["began", "ended", "since", "seen", "found", "mtime"];

/// Every time in an object is written in the one way, and no number is one.
fn assert_times(value: &Value, words: &[&str], times: &mut BTreeSet<String>) {
    let Some(fields) = value.as_object() else {
        value.as_array().into_iter().flatten().for_each(|one| assert_times(one, words, times));
        let is_moment = value.as_f64().is_some_and(|number| number > 1.6e9);
        return assert!(!is_moment, "{words:?}: {value} is as large as a time");
    };
    for (name, field) in fields {
        if TIMES.contains(&name.as_str()) && !field.is_null() {
            let text = field.as_str().unwrap_or_else(|| panic!("{words:?}: {name} is {field}"));
            assert!(text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok(), "{text}");
            times.insert(name.clone());
        }
        assert_times(field, words, times);
    }
}

#[test]
fn every_command_writes_times_for_scripts_in_the_same_way() {
    let pair = Pair::agreed(&[("a", "1"), ("b", "2")]);
    write_file(pair.a.join("a"), "1, edited");
    write_file(pair.b.join("a"), "1, edited otherwise");
    fs::remove_file(pair.a.join("b")).unwrap();
    write_file(pair.b.join("c"), "3");
    pair.sync_expecting(40, &["--json", "--policy=hold"]);
    let mut times = BTreeSet::new();
    let commands: [&[&str]; 14] = [
        &["log"],
        &["log", "2"],
        &["log", "--", "c"],
        &["history", "b"],
        &["conflicts"],
        &["status"],
        &["why", "a"],
        &["trash", "list", "--root", "../b"],
        &["verify", ".", "../b"],
        &["undo", "-n"],
        &["store", "stat"],
        &["-n", ".", "../b"],
        &["plan", ".", "../b", "-o", "../plan"],
        &["restore", "b"],
    ];
    for words in commands {
        let mut command = psync(&pair.temp);
        command.args(words.iter().take_while(|word| **word != "--")).arg("--json");
        command.args(words.iter().skip_while(|word| **word != "--")).current_dir(&pair.a);
        let output = run(&mut command);
        let said = Said::from(&output);
        assert!(!said.out.is_empty(), "{}", describe(&command, &output));
        said.objects().iter().for_each(|object| assert_times(object, words, &mut times));
    }
    assert_eq!(times, TIMES.map(str::to_string).into());
}
