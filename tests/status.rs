//! `psync status` through the real program: what it tells of a root, and that it changes nothing.
//!
//!     cargo test --test status
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::Path;

use common::pair::{Pair, Said};
use common::tree::snapshot;
use common::{psync, write_file};
use serde_json::Value;

#[track_caller]
fn status(pair: &Pair, root: &Path) -> Value {
    let mut command = psync(&pair.temp);
    Said::of(command.args(["status", "--json"]).arg(root), 0).objects().remove(0)
}

fn changes(status: &Value) -> [u64; 3] {
    ["new", "changed", "gone"].map(|name| status["changes"][name].as_u64().unwrap())
}

#[test]
fn changes_that_wait_are_counted_and_nothing_is_written() {
    let pair = Pair::agreed(&[("a", "1"), ("b", "2"), ("c", "3")]);
    assert_eq!(changes(&status(&pair, &pair.a)), [0, 0, 0]);
    write_file(pair.a.join("a"), "1, edited");
    write_file(pair.a.join("d/new"), "4");
    fs::remove_file(pair.a.join("b")).unwrap();
    let before = snapshot(&pair.a);
    for _ in 0..2 {
        let status = status(&pair, &pair.a);
        assert_eq!(changes(&status), [2, 1, 1]);
        assert_eq!(status["peers"][0]["untold"], 0);
        assert_eq!(status["peers"][0]["locations"][0], pair.b.display().to_string());
    }
    assert_eq!(snapshot(&pair.a), before);
    // A dry run writes them into the index; they still wait for the peer.
    pair.sync_expecting(0, &["-n"]);
    let after = status(&pair, &pair.a);
    assert_eq!((changes(&after), &after["peers"][0]["untold"]), ([0, 0, 0], &Value::from(4)));
    pair.sync_to(0);
    let after = status(&pair, &pair.a);
    assert_eq!((changes(&after), &after["peers"][0]["untold"]), ([0, 0, 0], &Value::from(0)));
    assert!(after["trash"]["files"] == 0 && status(&pair, &pair.b)["trash"]["files"] == 2);
    assert!(after["store"]["bytes"].as_u64() > Some(0));
    let last = &after["last_run"];
    assert_eq!((&last["result"], &last["failures"]), (&"finished".into(), &Value::from(0)));
    assert_eq!(last["with"], pair.b.display().to_string());
}

#[test]
fn a_root_is_found_from_within_and_told_in_lines() {
    let pair = Pair::agreed(&[("deep/down/a", "1")]);
    write_file(pair.b.join("deep/x"), "2");
    let mut command = psync(&pair.temp);
    let said = Said::of(command.arg("status").current_dir(pair.b.join("deep/down")), 0);
    said.has_line(&format!("root: {}", pair.b.display()));
    said.has_line("changed here since the last run: 1 new, 0 changed, 0 gone");
    said.has("which starts its runs itself").has("last seen: 20");
    assert!(said.out.lines().all(|line| line.len() <= 80 || line.contains("psync-test")));
}

#[test]
fn conflicts_that_wait_are_counted() {
    let pair = Pair::agreed(&[("a", "1")]);
    write_file(pair.a.join("a"), "1, edited");
    write_file(pair.b.join("a"), "1, edited otherwise");
    pair.sync_expecting(40, &["--policy", "hold"]);
    for run in 0..3 {
        let told = status(&pair, &pair.a);
        assert_eq!((&told["conflicts"], &told["last_run"]["conflicts"]), (&1.into(), &1.into()));
        assert_eq!(told["last_run"]["done"], 0, "run {run}");
        pair.sync_expecting(40, &["--policy", "hold"]);
    }
    let mut command = psync(&pair.temp);
    let log = Said::of(command.arg("log").current_dir(&pair.a), 0);
    log.has("conflicts:1").has_not("nothing-to-do");
    let mut command = psync(&pair.temp);
    let said = Said::of(command.arg("status").arg(&pair.a), 0);
    said.has_line("conflicts that wait: 1 (see psync conflicts)");
}

#[test]
fn a_run_at_work_is_told_and_does_not_stand_in_the_way() {
    let pair = Pair::agreed(&[("a", "1")]);
    let lock = fs::File::open(pair.a.join(".psync/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let status = status(&pair, &pair.a);
    assert_eq!((&status["busy"], &status["changes"]), (&Value::Bool(true), &Value::Null));
    let mut command = psync(&pair.temp);
    Said::of(command.arg("status").arg(&pair.a), 0).has("a psync is working on this root now");
}

#[test]
fn a_directory_that_was_never_synced_is_told_as_that_and_stays_as_it_is() {
    let pair = Pair::new();
    let mut command = psync(&pair.temp);
    Said::of(command.arg("status").arg(&pair.a), 11).has("nothing was ever synced here");
    assert!(!pair.a.join(".psync").exists());
    let mut command = psync(&pair.temp);
    Said::of(command.args(["status", "./no such"]).current_dir(&pair.a), 11).has("no such");
}
