//! `psync -n --stats` says what a run would cost on the line before it is run: within a tenth.
//!
//!     cargo test --test predict
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::pair::{Pair, Said, noise};
use common::tree::{assert_same_trees, snapshot};
use common::{local_rsh, psync, psync_over, write_file};
use serde_json::Value;

/// Two roots over a line, or on one machine: `a` is where psync is started, `b` the other one.
struct Scene {
    pair: Pair,
    is_local: bool,
    options: Vec<&'static str>,
}

/// Bytes that a run costs, and what they are for.
struct Cost {
    sent: u64,
    received: u64,
    turns: u64,
    line: Value,
}

impl Cost {
    fn of(object: &Value) -> Cost {
        let number = |name: &str| object[name].as_u64().unwrap();
        Cost {
            sent: number("bytes_sent"),
            received: number("bytes_received"),
            turns: number("turns"),
            line: object["line"].clone(),
        }
    }

    fn all(&self) -> u64 {
        self.sent + self.received
    }

    fn of_purpose(&self, purpose: &str) -> u64 {
        ["sent", "received"].iter().map(|way| self.line[purpose][way].as_u64().unwrap()).sum()
    }
}

impl Scene {
    fn new(options: &[&'static str]) -> Scene {
        Scene { pair: Pair::new(), is_local: false, options: options.to_vec() }
    }

    fn local() -> Scene {
        Scene { is_local: true, ..Scene::new(&[]) }
    }

    /// Both have the source of psync and have agreed on it.
    fn agreed(options: &[&'static str]) -> Scene {
        let scene = Scene::new(options);
        write_source(&scene.pair.a);
        scene.run(&[]);
        scene
    }

    fn run(&self, options: &[&str]) -> Value {
        let mut command = match self.is_local {
            true => psync(&self.pair.temp),
            false => psync_over(&self.pair.temp, &local_rsh(&self.pair.temp)),
        };
        let host = if self.is_local { "" } else { "host:" };
        command.args(&self.options).args(options).arg("--json").arg(&self.pair.a);
        Said::of(command.arg(format!("{host}{}", self.pair.b.display())), 0).summary()
    }

    /// What a run is said to cost; it must cost that, and the trees must be the same then. A rehearsal
    /// changes neither.
    #[track_caller]
    fn costs_what_is_said(&self) -> Cost {
        let before = (snapshot(&self.pair.a), snapshot(&self.pair.b));
        let rehearsal = self.run(&["-n", "--stats"]);
        assert_eq!(rehearsal["carried_out"], false);
        assert!(before == (snapshot(&self.pair.a), snapshot(&self.pair.b)), "it changed a tree");
        let predicted = Cost::of(&rehearsal["predicted"]);
        let real = self.run(&[]);
        assert!(real.get("predicted").is_none());
        let real = Cost::of(&real);
        for (said, was) in [(predicted.sent, real.sent), (predicted.received, real.received)] {
            let off = said.abs_diff(was);
            assert!(off <= 40 || off * 20 <= real.all(), "{said} was said, {was} it was");
        }
        assert_eq!(predicted.turns, real.turns);
        let purposes = real.line.as_object().unwrap().keys();
        for purpose in purposes {
            let (said, was) = (predicted.of_purpose(purpose), real.of_purpose(purpose));
            let off = said.abs_diff(was);
            assert!(off <= 100 || off * 20 <= real.all(), "{purpose}: {said}, and it was {was}");
        }
        assert_same_trees(&self.pair.a, &self.pair.b);
        real
    }

    fn root(&self, near: bool) -> &Path {
        if near { &self.pair.a } else { &self.pair.b }
    }
}

/// The files of psync's own source, below `root`.
fn write_source(root: &Path) {
    for path in source() {
        let to = root.join(path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap());
        write_file(to, fs::read(path).unwrap());
    }
}

fn source() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Every third file gets other lines here and there, some are new, some go.
fn upgrade(root: &Path) {
    for (number, path) in source().iter().enumerate() {
        let path = root.join(path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap());
        match number % 12 {
            0 | 3 | 6 => {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().enumerate().map(|(at, line)| match at % 40 {
                    7 => format!("{line} // changed in {number} at {at}\n"),
                    _ => format!("{line}\n"),
                });
                write_file(&path, lines.collect::<String>());
            }
            7 => fs::remove_file(&path).unwrap(),
            9 => {
                let text = fs::read_to_string(&path).unwrap().replace("self", "other");
                write_file(path.with_extension("new"), text.to_uppercase());
            }
            _ => {}
        }
    }
}

#[test]
fn an_upgrade_costs_what_was_said_whichever_side_has_it_and_whatever_is_remembered() {
    for near in [true, false] {
        for options in [&[][..], &["--no-store"]] {
            let scene = Scene::agreed(options);
            upgrade(scene.root(near));
            let cost = scene.costs_what_is_said();
            assert!(cost.all() > 4_000, "{}", cost.all());
        }
    }
}

#[test]
fn two_different_trees_that_meet_cost_what_was_said() {
    for flow in ["push", "pull"] {
        let scene = Scene::new(match flow {
            "push" => &["--mirror", "push"],
            _ => &["--mirror", "pull"],
        });
        write_source(&scene.pair.a);
        write_source(&scene.pair.b);
        upgrade(scene.root(flow == "push"));
        let cost = scene.costs_what_is_said();
        assert!(cost.of_purpose("signatures") > 1_000);
        assert!(cost.of_purpose("against_blocks") + cost.of_purpose("against_old_content") > 1_000);
    }
}

#[test]
fn a_first_copy_costs_what_was_said_and_the_rehearsal_sends_no_content() {
    for near in [true, false] {
        let scene = Scene::new(&[]);
        write_source(scene.root(near));
        write_file(scene.root(near).join("noise"), noise(3, 1 << 20));
        let rehearsal = Cost::of(&scene.run(&["-n", "--stats"]));
        let cost = scene.costs_what_is_said();
        assert!(rehearsal.all() < cost.all() / 50, "{} {}", rehearsal.all(), cost.all());
    }
}

#[test]
fn many_files_go_packed_between_two_folders_and_cost_what_was_said() {
    for near in [true, false] {
        let scene = Scene::local();
        let mut bytes = 0;
        for number in 0..400 {
            let text = format!("file {number} says this, ").repeat(number % 60 + 10);
            bytes += text.len() as u64;
            write_file(scene.root(near).join(format!("text {number}")), text);
        }
        write_file(scene.root(near).join("noise"), noise(3, 100_000));
        let cost = scene.costs_what_is_said();
        assert!(cost.all() < 100_000 + bytes / 2, "{} of {bytes}", cost.all());
    }
}

#[test]
fn small_things_cost_what_was_said() {
    let text = fs::read_to_string(file!()).unwrap();
    for near in [true, false] {
        let scene = Scene::agreed(&[]);
        // Nothing to do.
        assert!(scene.costs_what_is_said().all() < 300);
        // One edit.
        write_file(scene.root(near).join("src/main.rs"), format!("//! Edited.\n{text}"));
        scene.costs_what_is_said();
        write_file(scene.root(near).join("src/main.rs"), format!("//! Edited again.\n{text}"));
        assert!(scene.costs_what_is_said().all() < 800);
        // A folder renamed, with an edit and a new file in it.
        let root = scene.root(near);
        fs::rename(root.join("src/sync"), root.join("src/meet")).unwrap();
        scene.costs_what_is_said();
        fs::rename(root.join("src/meet"), root.join("src/sync")).unwrap();
        write_file(root.join("src/sync/new.rs"), &text);
        let path = root.join("src/sync/mod.rs");
        write_file(&path, fs::read_to_string(&path).unwrap().replace("sync", "meet"));
        scene.costs_what_is_said();
        // Only times.
        write_file(root.join("src/sync/new.rs"), &text);
        scene.costs_what_is_said();
    }
}

#[test]
fn edits_on_both_sides_cost_what_was_said() {
    let scene = Scene::agreed(&[]);
    let edit = |root: &Path, name: &str, by: &str| {
        let path = root.join("src").join(name);
        write_file(&path, fs::read_to_string(&path).unwrap().replace("self", by));
    };
    edit(&scene.pair.a, "sync/mod.rs", "me");
    edit(&scene.pair.a, "store/mod.rs", "me");
    edit(&scene.pair.b, "root/mod.rs", "you");
    write_file(scene.pair.b.join("new"), noise(5, 50_000));
    scene.costs_what_is_said();
}

#[test]
fn a_long_file_costs_what_was_said_with_and_without_its_old_content() {
    for near in [true, false] {
        for options in [&[][..], &["--no-store"]] {
            let scene = Scene::new(options);
            let mut long = noise(1, 12 << 20);
            write_file(scene.pair.a.join("long"), &long);
            scene.run(&[]);
            long.splice(5_000_000..5_000_100, noise(2, 70_000));
            long[9_000_000] ^= 1;
            write_file(scene.root(near).join("long"), &long);
            let cost = scene.costs_what_is_said();
            assert!((70_000..400_000).contains(&cost.all()), "{}", cost.all());
        }
    }
}

#[test]
fn a_plain_dry_run_stays_as_cheap_as_it_was_and_predicts_nothing() {
    let scene = Scene::agreed(&[]);
    upgrade(&scene.pair.a);
    let shown = scene.run(&["-n"]);
    assert!(shown.get("predicted").is_none());
    assert_eq!(shown["turns"], 2);
}

#[test]
fn a_person_is_told_what_a_run_would_cost() {
    let scene = Scene::agreed(&[]);
    write_file(scene.pair.a.join("new"), noise(7, 30_000));
    let mut command = psync_over(&scene.pair.temp, &local_rsh(&scene.pair.temp));
    command.args(["-n", "--stats"]).arg(&scene.pair.a);
    let said = Said::of(command.arg(format!("host:{}", scene.pair.b.display())), 0);
    said.has("a run would cost 29.").has("in 4 turns of the line").has("create on host:");
}
