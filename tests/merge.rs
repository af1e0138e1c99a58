//! Three-way text merges beside those of git, on many random edits.
//!
//!     cargo test --test merge

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use psync::merge::{Three, text};

const CASES: u64 = 10_000;
const THREADS: u64 = 2;

#[test]
fn what_git_and_psync_both_merge_is_the_same_text_and_no_edit_is_dropped() {
    let folder = std::env::temp_dir().join(format!("psync-merge-{}", std::process::id()));
    let counts: Vec<Counts> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let folder = folder.join(thread.to_string());
                scope.spawn(move || {
                    fs::create_dir_all(&folder).expect("a scratch folder can be made");
                    let cases = (0..CASES).filter(|case| case % THREADS == thread);
                    cases.fold(Counts::default(), |counts, case| counts.and(try_one(&folder, case)))
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no case fails")).collect()
    });
    let _ = fs::remove_dir_all(folder);
    let all = counts.into_iter().fold(Counts::default(), Counts::and);
    println!("{all:?}");
    // Both see conflicts, and neither sees only conflicts.
    assert!(all.git > CASES / 5 && all.git < CASES * 9 / 10, "{all:?}");
    assert!(all.both * 10 >= all.git * 7, "psync gives up where git merges: {all:?}");
    // Where lines can be paired in several ways, git may see edits touch that need not.
    assert!(all.psync - all.both < CASES / 100, "psync merges what git does not: {all:?}");
}

/// How many cases were merged, and by whom.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    git: u64,
    psync: u64,
    both: u64,
}

impl Counts {
    fn and(self, other: Counts) -> Counts {
        Counts {
            git: self.git + other.git,
            psync: self.psync + other.psync,
            both: self.both + other.both,
        }
    }
}

fn try_one(folder: &Path, case: u64) -> Counts {
    let mut random = Random(case);
    let made = Case::new(&mut random);
    let git = made.merged_by_git(folder);
    let three = Three {
        base: made.base.as_bytes(),
        ours: made.ours.as_bytes(),
        theirs: made.theirs.as_bytes(),
    };
    let psync = text(three).map(|merged| String::from_utf8(merged).expect("it is text"));
    if let (Some(git), Some(psync)) = (&git, &psync) {
        assert_eq!(git, psync, "case {case}: {made:#?}");
    }
    if let Some(merged) = &psync {
        made.assert_nothing_is_dropped(merged, case);
    }
    Counts {
        git: u64::from(git.is_some()),
        psync: u64::from(psync.is_some()),
        both: u64::from(git.is_some() && psync.is_some()),
    }
}

/// One ancestor and two edited texts. Some lines stand in many places, others only in one.
#[derive(Debug)]
struct Case {
    base: String,
    ours: String,
    theirs: String,
}

impl Case {
    fn new(random: &mut Random) -> Case {
        let lines = 1 + random.below(30);
        let kinds = 1 + random.below(8);
        let end = if random.below(4) == 0 { "\r\n" } else { "\n" };
        let base: Vec<String> = (0..lines)
            .map(|at| match random.below(3) {
                0 => format!("common {}", random.below(kinds)),
                _ => format!("line {at}"),
            })
            .collect();
        let edited = |random: &mut Random, side| {
            let mut edited = base.clone();
            for edit in 0..=random.below(3) {
                mutate(&mut edited, random, &format!("{side} {edit}"), kinds);
            }
            written(&edited, end, random.below(6) > 0)
        };
        let ours = edited(random, "ours");
        let theirs = if random.below(40) == 0 { ours.clone() } else { edited(random, "theirs") };
        Case { base: written(&base, end, random.below(6) > 0), ours, theirs }
    }

    fn merged_by_git(&self, folder: &Path) -> Option<String> {
        let put = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            fs::write(&path, text).expect("a scratch file can be written");
            path
        };
        let [ours, base, theirs] =
            [("ours", &self.ours), ("base", &self.base), ("theirs", &self.theirs)]
                .map(|(name, text)| put(name, text));
        let run = Command::new("git")
            .args(["merge-file", "-p", "-q"])
            .args([ours, base, theirs])
            .output()
            .expect("git runs");
        match run.status.code() {
            Some(0) => Some(String::from_utf8(run.stdout).expect("it is text")),
            Some(1..=127) => None,
            code => panic!("git: {code:?}: {}", String::from_utf8_lossy(&run.stderr)),
        }
    }

    /// Lines that only one side has were added there; lines that only the base has in both or one
    /// side's stead are gone.
    fn assert_nothing_is_dropped(&self, merged: &str, case: u64) {
        let has = |text: &str, line: &str| text.lines().any(|other| other == line);
        for side in [&self.ours, &self.theirs] {
            let added =
                side.lines().filter(|line| line.contains("ours") || line.contains("theirs"));
            for line in added {
                assert!(has(merged, line), "case {case}: '{line}' is dropped: {self:#?}\n{merged}");
            }
            let deleted = self.base.lines().filter(|line| line.starts_with("line"));
            for line in deleted.filter(|line| !has(side, line)) {
                assert!(!has(merged, line), "case {case}: '{line}' is back: {self:#?}\n{merged}");
            }
        }
    }
}

/// Adds, replaces or takes away some lines in one place.
fn mutate(lines: &mut Vec<String>, random: &mut Random, name: &str, kinds: u64) {
    let at = random.below(lines.len() as u64 + 1) as usize;
    let until = (at + random.below(3) as usize).min(lines.len());
    let fresh: Vec<String> = (0..random.below(3))
        .map(|n| match random.below(3) {
            0 => format!("common {}", random.below(kinds)),
            _ => format!("{name} {n}"),
        })
        .collect();
    lines.splice(at..until, fresh);
}

fn written(lines: &[String], end: &str, ended: bool) -> String {
    let mut text: String = lines.iter().flat_map(|line| [line.as_str(), end]).collect();
    if !ended && !text.is_empty() {
        text.truncate(text.len() - end.len());
    }
    text
}

/// Steele, Lea and Flood's SplitMix64: the same cases in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
