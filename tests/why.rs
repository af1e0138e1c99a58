//! `psync why` through the real program: filters, index rows, and what a sync would do.
//!
//!     cargo test --test why
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::Path;

use common::pair::{Pair, Said};
use common::tree::snapshot;
use common::{psync, write_file};
use serde_json::Value;

#[track_caller]
fn why(pair: &Pair, path: impl AsRef<Path>, options: &[&str]) -> Said {
    let mut command = psync(&pair.temp);
    Said::of(command.arg("why").args(options).arg(path.as_ref()), 0)
}

#[track_caller]
fn object(pair: &Pair, path: impl AsRef<Path>) -> Value {
    why(pair, path, &["--json"]).objects().remove(0)
}

#[test]
fn the_filter_that_leaves_a_path_alone_is_named_with_its_line() {
    let pair = Pair::agreed(&[(".psyncignore", "# junk\n*.log\n/out/\n"), ("a", "1")]);
    write_file(pair.a.join("b.log"), "2");
    write_file(pair.a.join("out/deep/c"), "3");
    why(&pair, pair.a.join("b.log"), &[])
        .has_line("filter: it is left alone: '*.log' (.psyncignore, line 2)")
        .has_line("index: never seen here")
        .has_line("  do nothing about it");
    why(&pair, pair.a.join("out/deep/c"), &["--offline"])
        .has("filter: out is left alone, and everything in it: '/out/' (.psyncignore, line 3)")
        .has_not("would");
    why(&pair, pair.a.join("a"), &[]).has_line("filter: none matches; it is synced");
}

#[test]
fn settings_that_decide_are_named_with_their_file_and_line() {
    let pair = Pair::agreed(&[("a.iso", "1"), ("b", "2")]);
    let text = "exclude = [\n  '*.tmp',\n]\n[[rule]]\npattern = '*.iso'\nmode = 'push'\n";
    write_file(pair.temp.join("home/.config/psync/psync.toml"), text);
    write_file(pair.a.join("x.tmp"), "3");
    why(&pair, pair.a.join("x.tmp"), &["--offline"])
        .has("filter: it is left alone: '*.tmp' (")
        .has("psync.toml, line 1)");
    why(&pair, pair.a.join("a.iso"), &["--offline"]).has("rule: '*.iso' (").has("mode push");
    why(&pair, pair.a.join("b"), &["--offline"]).has_not("rule:");
}

#[test]
fn every_reason_is_told_for_which_a_path_is_not_synced_or_not_kept() {
    let pair = Pair::agreed(&[("a.iso", "1"), ("large", "2"), ("off", "3"), ("t.json", "4")]);
    let text = "[[rule]]\npattern = '*.iso'\ntrash = false\nkeep-versions = 3\n\
                [[rule]]\npattern = 'large'\nmax-size = '5'\n\
                [[rule]]\npattern = 'off'\nmode = 'off'\n\
                [[rule]]\npattern = '*.json'\npolicy = 'hold'\nmerge = 'structured'\nkeep-versions = 'all'\n";
    write_file(pair.temp.join("home/.config/psync/psync.toml"), text);
    for name in ["large", "off"] {
        write_file(pair.a.join(name), "more than five bytes");
    }
    write_file(pair.b.join(".psyncignore"), "*.tmp\n");
    write_file(pair.a.join("x.tmp"), "temporary");
    why(&pair, pair.a.join("a.iso"), &["--offline"]).has("  trash false, keep-versions 3");
    why(&pair, pair.a.join("t.json"), &["--offline"])
        .has("  policy hold, keep-versions all, merge structured");
    why(&pair, pair.a.join("large"), &[])
        .has("  leave it alone: it is larger than max-size allows")
        .has_not("do nothing about it");
    why(&pair, pair.a.join("off"), &[]).has("  leave it alone: its mode is off");
    why(&pair, pair.a.join("x.tmp"), &[])
        .has_line("filter: none matches here")
        .has_line("filter of the other side: it is left alone: '*.tmp' (.psyncignore, line 1)");
    let told = object(&pair, pair.a.join("x.tmp"));
    assert_eq!((&told["filter"], &told["filter_there"]["line"]), (&Value::Null, &1.into()));
    pair.sync_expecting(0, &[]);
    why(&pair, pair.a.join("x.tmp"), &["--offline"]).has("filter of the other side");
}

#[test]
fn rows_are_told_in_words_and_what_would_happen_now() {
    let pair = Pair::agreed(&[("a", "1"), ("b", "2"), ("gone", "3")]);
    write_file(pair.a.join("a"), "1, edited");
    write_file(pair.b.join("b"), "2, edited");
    fs::remove_file(pair.a.join("gone")).unwrap();
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    why(&pair, pair.a.join("a"), &[])
        .has("index: file of 1 bytes, mode 6")
        .has("content changed by: this root (")
        .has("has heard of this")
        .has(&format!("a sync with {} now would:", pair.b.display()))
        .has("  update a on the remote side: new or changed on one side only");
    let b = object(&pair, pair.a.join("b"));
    assert_eq!(b["now"]["would"][0]["side"], "local");
    assert_eq!(b["now"]["would"].as_array().unwrap().len(), 1);
    let gone = object(&pair, pair.a.join("gone"));
    assert_eq!(
        (&gone["on_disk"], &gone["now"]["would"][0]["action"]),
        (&"nothing".into(), &"delete".into())
    );
    // The dry runs have written down what they saw.
    assert!(gone["index"]["what"].as_str().unwrap().starts_with("gone"));
    assert_eq!(gone["peers"][0]["told"], false);
    assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
}

#[test]
fn a_path_is_meant_as_seen_from_where_one_stands() {
    let pair = Pair::agreed(&[("deep/a", "1")]);
    let mut command = psync(&pair.temp);
    let said =
        Said::of(command.args(["why", "a", "--offline"]).current_dir(pair.a.join("deep")), 0);
    said.has_line("deep/a").has_line("  on disk: file");
}

#[test]
fn a_peer_that_cannot_be_reached_is_told_and_the_rest_is_said() {
    let pair = Pair::agreed(&[("a", "1")]);
    fs::rename(&pair.b, pair.temp.join("away")).unwrap();
    fs::write(&pair.b, "no directory").unwrap();
    why(&pair, pair.a.join("a"), &[]).has("index: file of 1 bytes").has("cannot be told:");
}

#[test]
fn a_path_outside_of_any_root_is_refused() {
    let pair = Pair::new();
    let mut command = psync(&pair.temp);
    Said::of(command.args(["why"]).arg(pair.temp.join("x")), 11).has("--root");
}
