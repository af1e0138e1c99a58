//! Changes on both sides of a tree of three paths, through the real program on real files: each
//! combination of one change on each side, and a part of those of two, under three policies and
//! whichever side plans. (All of two and two are tried between replicas in memory, by
//! `reconcile::tests::exhaustive`.)
//!
//!     cargo test --test exhaustive
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::tree::{Snapshot, differences, files_below, set_mtime, snapshot};
use common::{TempDir, describe, psync, run, set_mode, write_file};

/// One change that a person makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create(&'static str),
    Edit(&'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
    Chmod(&'static str),
    ToDirectory(&'static str),
    ToFile(&'static str),
    ToSymlink(&'static str),
}

use Change::{Chmod, Create, Delete, Edit, Rename, ToDirectory, ToFile, ToSymlink};

const CHANGES: [Change; 20] = [
    Create("n"),
    Create("d/n"),
    Edit("f"),
    Edit("d/g"),
    Delete("f"),
    Delete("d/g"),
    Delete("d"),
    Rename("f", "n"),
    Rename("f", "d/n"),
    Rename("d/g", "n"),
    Rename("d", "e"),
    Chmod("f"),
    Chmod("d/g"),
    Chmod("d"),
    ToDirectory("f"),
    ToDirectory("d/g"),
    ToFile("d"),
    ToSymlink("f"),
    ToSymlink("d/g"),
    ToSymlink("d"),
];

/// Who makes changes, and when.
#[derive(Debug, Clone, Copy)]
struct Person {
    name: &'static str,
    mode: u32,
    seconds: i64,
}

const A: Person = Person { name: "a", mode: 0o700, seconds: 1_700_000_020 };
const B: Person = Person { name: "b", mode: 0o750, seconds: 1_700_000_030 };

impl Change {
    /// Makes the change below `root`, if it can be made there; says whether.
    fn make(self, root: &Path, person: Person) -> bool {
        let at = |name: &str| root.join(name);
        let there = |name: &str| at(name).symlink_metadata().is_ok();
        let is_file = |name: &str| at(name).symlink_metadata().is_ok_and(|found| found.is_file());
        let free = |name: &str| !there(name) && is_folder(at(name).parent().unwrap());
        let remove = |name: &str| match is_folder(&at(name)) {
            true => fs::remove_dir_all(at(name)).unwrap(),
            false => fs::remove_file(at(name)).unwrap(),
        };
        let who = person.name;
        let write = |name: &str, text: String| {
            write_file(at(name), text);
            set_mtime(&at(name), person.seconds * 1_000_000_000);
        };
        match self {
            Create(name) if free(name) => write(name, format!("{who} made {name}")),
            Edit(name) if is_file(name) => write(name, format!("{who} edited {name}")),
            Delete(name) if there(name) => remove(name),
            Rename(from, to) if there(from) && free(to) => fs::rename(at(from), at(to)).unwrap(),
            Chmod(name) if is_file(name) || is_folder(&at(name)) => {
                set_mode(&at(name), person.mode)
            }
            ToDirectory(name) if is_file(name) => {
                remove(name);
                write(&format!("{name}/in"), format!("{who} in {name}"));
            }
            ToFile(name) if is_folder(&at(name)) => {
                remove(name);
                write(name, format!("{who} instead of {name}"));
            }
            ToSymlink(name) if is_file(name) || is_folder(&at(name)) => {
                remove(name);
                symlink(format!("to {who}"), at(name)).unwrap();
                set_mtime(&at(name), person.seconds * 1_000_000_000);
            }
            _ => return false,
        }
        true
    }
}

/// A pair of folders that has agreed on three paths and can be put back to that moment. The index
/// knows it by where it is.
struct Ground {
    temp: TempDir,
}

impl Ground {
    fn new() -> Ground {
        let temp = TempDir::in_memory();
        let ground = Ground { temp };
        for name in ["a", "b"] {
            ground.temp.folder(name);
        }
        write_file(ground.temp.join("a/f"), "f at first");
        write_file(ground.temp.join("a/d/g"), "g at first");
        for name in ["f", "d/g"] {
            set_mtime(&ground.temp.join("a").join(name), 1_700_000_010_000_000_000);
        }
        let command = &mut ground.command("keep-both", ["./a", "./b"]);
        let output = run(command);
        assert!(output.status.success(), "{}", describe(command, &output));
        for name in ["a", "b"] {
            copy(&ground.temp.join(name), &ground.temp.join("agreed").join(name));
        }
        ground
    }

    fn command(&self, policy: &str, sides: [&str; 2]) -> Command {
        let mut command = psync(&self.temp);
        // A side may be empty in earnest.
        command.args(["--quiet", "--max-delete=100%", "--policy", policy]).args(sides);
        command.current_dir(self.temp.path());
        command
    }

    /// Puts both folders back, then makes these changes.
    fn prepare(&self, here: &[Change], there: &[Change]) -> bool {
        let mut made = true;
        for (name, changes, person) in [("a", here, A), ("b", there, B)] {
            let root = self.temp.join(name);
            let _ = fs::remove_dir_all(&root);
            copy(&self.temp.join("agreed").join(name), &root);
            for change in changes {
                made &= change.make(&root, person);
            }
        }
        made
    }

    /// What stands in both, but for times of folders and the moments in names of clash files.
    fn trees(&self) -> [Snapshot; 2] {
        ["a", "b"].map(|name| {
            let entries = snapshot(&self.temp.join(name)).into_iter();
            let plain = entries.map(|(path, mut entry)| {
                let is_folder = is_folder(&self.temp.join(name).join(OsStr::from_bytes(&path)));
                entry.mtime_ns = if is_folder { 0 } else { entry.mtime_ns };
                let shown = String::from_utf8(path).unwrap();
                let plain = match shown.split_once("_clash_") {
                    Some((stem, rest)) => format!("{stem}_clash{}", &rest[12..]),
                    None => shown,
                };
                (plain.into_bytes(), entry)
            });
            plain.collect()
        })
    }

    /// Every text in both trees and their trash.
    fn texts(&self) -> BTreeSet<Vec<u8>> {
        let folders = ["a", "b", "a/.psync/trash", "b/.psync/trash"];
        let files = folders.iter().flat_map(|name| files_below(&self.temp.join(name)));
        let outside = |file: &std::path::PathBuf| {
            let shown = file.to_string_lossy();
            !shown.contains("/.psync/") || shown.contains("/.psync/trash/")
        };
        files.filter(outside).map(|file| fs::read(file).unwrap()).collect()
    }

    /// Syncs twice under a policy, the first time with this side planning; the trees then.
    fn trial(&self, policy: &str, sides: [&str; 2]) -> Result<[Snapshot; 2], String> {
        let (before, written) = (self.trees(), self.texts());
        let [one, other] = sides;
        let mut first = self.command(policy, sides);
        let output = run(&mut first);
        let after = self.trees();
        let told = |what: &str| Err(format!("{what}\n{}", describe(&first, &output)));
        let held = match output.status.code() {
            Some(0) => false,
            Some(40) => policy == "hold",
            _ => return told("it fails"),
        };
        if !held && !differences(&after[0], &after[1]).is_empty() {
            return told(&format!("both sides differ: {:?}", differences(&after[0], &after[1])));
        }
        let names: BTreeSet<&Vec<u8>> = after.iter().flat_map(|tree| tree.keys()).collect();
        let apart = names.into_iter().filter(|name| after[0].get(*name) != after[1].get(*name));
        let touched = apart
            .filter(|name| (0..2).any(|side| before[side].get(*name) != after[side].get(*name)))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .next();
        if let Some(name) = touched {
            return told(&format!("{name} differs and was touched"));
        }
        if !written.is_subset(&self.texts()) {
            return told("a content is lost");
        }
        let mut second = self.command(policy, [other, one]);
        let output = run(&mut second);
        let code = if held { 40 } else { 0 };
        if output.status.code() != Some(code) || self.trees() != after {
            return Err(format!("the second run does something\n{}", describe(&second, &output)));
        }
        Ok(after)
    }
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            let modified = fs::metadata(&from).unwrap().modified().unwrap();
            let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
            set_mtime(&to, since.as_nanos() as i64);
        }
    }
}

/// Every way of making up to so many changes, whether it can be made or not.
fn ways(most: usize) -> Vec<Vec<Change>> {
    let mut ways: Vec<Vec<Change>> = vec![Vec::new()];
    ways.extend(CHANGES.map(|change| vec![change]));
    if most > 1 {
        let twos = CHANGES.iter().flat_map(|one| CHANGES.map(|two| vec![*one, two]));
        ways.extend(twos.filter(|way| way[0] != way[1]));
    }
    ways
}

/// What is tried: all of one change on each side, and every so many of two. The more of two are
/// tried the faster the program is.
fn trials() -> Vec<(Vec<Change>, Vec<Change>)> {
    let pairs = |ways: Vec<Vec<Change>>| {
        let all = ways.clone();
        ways.into_iter()
            .flat_map(move |here| all.clone().into_iter().map(move |there| (here.clone(), there)))
    };
    let (of_one, of_two) = if cfg!(debug_assertions) { (3, 2003) } else { (1, 211) };
    let ones = pairs(ways(1)).step_by(of_one);
    ones.chain(pairs(ways(2)).step_by(of_two)).collect()
}

#[test]
fn changes_on_both_sides_converge_and_lose_nothing_whoever_plans() {
    let trials = trials();
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let ground = Ground::new();
                while let Some((here, there)) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for policy in ["keep-both", "newest", "hold"] {
                        let results = [["./a", "./b"], ["./b", "./a"]].map(|sides| {
                            ground.prepare(here, there).then(|| ground.trial(policy, sides))
                        });
                        let wrong = match results {
                            [None, _] | [_, None] => continue,
                            [Some(Ok(one)), Some(Ok(other))] if one == other => None,
                            [Some(Ok(_)), Some(Ok(_))] => Some("it matters who plans".to_string()),
                            [Some(Err(wrong)), _] | [_, Some(Err(wrong))] => Some(wrong),
                        };
                        tried.fetch_add(1, Ordering::Relaxed);
                        let wrong = wrong
                            .map(|wrong| format!("{policy}, a: {here:?}, b: {there:?}: {wrong}"));
                        failed.lock().unwrap().extend(wrong);
                    }
                }
            });
        }
    });
    let (failed, tried) = (failed.into_inner().unwrap(), tried.into_inner());
    let some = failed.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failed.is_empty(), "{} of {tried} fail:\n{some}", failed.len());
    println!("{tried} trials");
}
