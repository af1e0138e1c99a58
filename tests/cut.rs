//! The line is cut after so many bytes, in either direction, wherever: nothing is lost, no file is
//! half a file, and the next run completes.
//!
//!     cargo test --test cut
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::pair::{Said, noise};
use common::tree::{
    ContentHash, Rng, assert_same_trees, files_below, files_outside_psync, set_mtime, snapshot,
};
use common::wire::{Wire, WireEnd};
use common::{TempDir, describe, psync, psync_over, run, run_ok, write_file};

/// Points at which each direction of each line is cut.
const CUTS: u64 = 30;

/// How many bytes the line carries in each direction before it is cut.
#[derive(Clone, Copy, Debug)]
struct Limits {
    up: u64,
    down: u64,
}

impl Limits {
    const NONE: Limits = Limits { up: u64::MAX, down: u64::MAX };
}

/// Two roots, and how they looked before the first run.
struct Line {
    temp: TempDir,
    near: PathBuf,
    far: PathBuf,
    wire: Wire,
    /// Every content in either root.
    contents: BTreeSet<ContentHash>,
}

impl Line {
    /// The two roots as `prepare` leaves them; it gets them agreed on nothing, and may sync.
    fn prepare(prepare: impl FnOnce(&Line)) -> Line {
        let temp = TempDir::new();
        let (near, far) = (temp.folder("near"), temp.folder("far"));
        let wire = Wire::new(&temp);
        let mut line = Line { near, far, wire, temp, contents: BTreeSet::new() };
        prepare(&line);
        for root in [&line.near, &line.far] {
            let saved = root.with_extension("saved");
            run_ok(Command::new("cp").arg("-a").arg(root).arg(saved));
            let files = files_outside_psync(root).into_iter();
            line.contents.extend(files.map(|file| ContentHash::of_file(&file)));
        }
        line
    }

    /// Both roots as they were in the beginning, and nothing noted of what was synced there since.
    fn restore(&self) {
        let _ = fs::remove_dir_all(self.temp.join("home/.local/state/psync/roots"));
        for root in [&self.near, &self.far] {
            fs::remove_dir_all(root).unwrap();
            run_ok(Command::new("cp").arg("-a").arg(root.with_extension("saved")).arg(root));
        }
    }

    /// One run over a line that is cut; gives its exit code and the bytes that went each way.
    fn run(&self, limits: Limits) -> (i32, Limits) {
        let mut command = psync_over(&self.temp, &self.wire.rsh());
        command.args(["--timeout", "20"]).arg(format!("host:{}", self.far.display()));
        command.arg(&self.near);
        let server = {
            let mut server = psync(&self.temp);
            server.args(["--server", "--"]).arg(&self.far);
            server
        };
        let (output, went) = thread::scope(|scope| {
            let between = scope.spawn(|| carry(self.wire.accept(), server, limits));
            (run(&mut command), between.join().unwrap())
        });
        let code = output.status.code();
        (code.unwrap_or_else(|| panic!("{}", describe(&command, &output))), went)
    }

    /// Each file is wholly one that somebody wrote, and each that somebody wrote is somewhere.
    fn assert_nothing_lost(&self, cut: Limits) {
        let hashes = |root: &Path| -> BTreeSet<ContentHash> {
            files_outside_psync(root).iter().map(|file| ContentHash::of_file(file)).collect()
        };
        let (near, far) = (hashes(&self.near), hashes(&self.far));
        for found in near.union(&far) {
            assert!(self.contents.contains(found), "{cut:?}: nobody wrote {found}");
        }
        let trash = [&self.near, &self.far].map(|root| files_below(&root.join(".psync/trash")));
        let trashed: BTreeSet<ContentHash> =
            trash.iter().flatten().map(|file| ContentHash::of_file(file)).collect();
        for written in &self.contents {
            let there = near.contains(written) || far.contains(written);
            assert!(there || trashed.contains(written), "{cut:?}: lost {written}");
        }
    }

    fn cut_and_complete(&self, limits: Limits) {
        self.restore();
        let (code, _) = self.run(limits);
        assert!([0, 5, 10, 12, 40].contains(&code), "{limits:?}: exit code {code}");
        self.assert_nothing_lost(limits);
        if code == 0 || code == 40 {
            assert_same_trees(&self.near, &self.far);
        }
        let (code, _) = self.run(Limits::NONE);
        assert!([0, 40].contains(&code), "{limits:?}: the next run ended with {code}");
        assert_same_trees(&self.near, &self.far);
        self.assert_nothing_lost(limits);
        let settled = snapshot(&self.near);
        let mut again = psync_over(&self.temp, &common::local_rsh(&self.temp));
        again.arg(format!("host:{}", self.far.display())).arg(&self.near);
        Said::of(&mut again, 0).has("nothing to do");
        assert_eq!(snapshot(&self.near), settled);
    }

    /// Cuts at the first bytes, the last ones, and evenly in between.
    fn cut_everywhere(&self) {
        let (code, whole) = self.run(Limits::NONE);
        assert!([0, 40].contains(&code), "{code}");
        for (up, total) in [(true, whole.up), (false, whole.down)] {
            for step in 0..CUTS {
                let at = match step {
                    0 => 0,
                    1 => 1,
                    2 => total - 1,
                    step => total * (step - 2) / (CUTS - 2),
                };
                let limits = if up {
                    Limits { up: at, ..Limits::NONE }
                } else {
                    Limits { down: at, ..Limits::NONE }
                };
                self.cut_and_complete(limits);
            }
        }
    }
}

/// Runs the server at the test's end of the line until the line is cut or both have ended.
fn carry(end: WireEnd, mut server: Command, limits: Limits) -> Limits {
    let WireEnd { from_psync, to_psync } = end;
    server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = server.spawn().unwrap();
    let (input, output) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
    let is_cut = Arc::new(AtomicBool::new(false));
    let cut = is_cut.clone();
    let up = thread::spawn(move || pump(from_psync, input, limits.up, &cut));
    let cut = is_cut.clone();
    let down = thread::spawn(move || pump(output, to_psync, limits.down, &cut));
    let went = Limits { up: up.join().unwrap(), down: down.join().unwrap() };
    server.wait().unwrap();
    went
}

/// Passes bytes on until the limit, the end, or until the line is cut; then closes both ends.
fn pump(mut from: impl Read, mut to: impl Write, limit: u64, is_cut: &AtomicBool) -> u64 {
    let mut buffer = [0; 16 << 10];
    let mut went = 0;
    loop {
        let left = limit - went;
        if left == 0 {
            is_cut.store(true, Ordering::Relaxed);
            return went;
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = match from.read(&mut buffer[..most]) {
            Ok(0) | Err(_) => return went,
            Ok(read) => read,
        };
        if is_cut.load(Ordering::Relaxed) || to.write_all(&buffer[..read]).is_err() {
            return went;
        }
        went += read as u64;
    }
}

#[test]
fn a_cut_first_copy_completes() {
    let line = Line::prepare(|line| {
        let mut rng = Rng::new(4);
        for number in 0..40 {
            let root = if number % 2 == 0 { &line.near } else { &line.far };
            write_file(root.join(format!("d{}/{number}", number % 5)), rng.bytes(number * 40));
        }
        write_file(line.far.join("big"), rng.bytes(150_000));
        write_file(line.near.join("also big"), rng.bytes(120_000));
        write_file(line.near.join("differs"), "near");
        write_file(line.far.join("differs"), "far and longer");
    });
    line.cut_everywhere();
}

#[test]
fn a_cut_sync_of_two_changed_trees_completes() {
    let line = Line::prepare(|line| {
        let mut rng = Rng::new(6);
        for number in 0..40 {
            let path = line.near.join(format!("d{}/{number}", number % 5));
            write_file(path, rng.bytes(500 + number * 20));
        }
        let mut big = noise(1, 200_000);
        write_file(line.near.join("big"), &big);
        assert_eq!(line.run(Limits::NONE).0, 0);
        // Here: a folder renamed, edits, deletions; there: edits, some of the same files, and a
        // large file changed in places.
        fs::rename(line.near.join("d0"), line.near.join("renamed")).unwrap();
        for (root, numbers) in [(&line.near, [1, 6, 11]), (&line.far, [2, 7, 11])] {
            for number in numbers {
                let path = root.join(format!("d{}/{number}", number % 5));
                write_file(&path, rng.bytes(3_000));
            }
        }
        set_mtime(&line.near.join("d1/11"), 1_000_000_000_000_000_000);
        fs::remove_dir_all(line.near.join("d3")).unwrap();
        fs::remove_file(line.far.join("d4/4")).unwrap();
        for at in [10_000, 90_000, 150_000] {
            big[at..at + 100].copy_from_slice(&rng.bytes(100));
        }
        write_file(line.far.join("big"), &big);
        write_file(line.far.join("new/file"), rng.bytes(60_000));
        fs::create_dir(line.near.join("empty")).unwrap();
    });
    line.cut_everywhere();
}

#[test]
fn a_cut_first_contact_of_two_trees_that_are_nearly_equal_completes() {
    let line = Line::prepare(|line| {
        for number in 0..300 {
            let path = line.near.join(format!("d{}/{number}", number % 5));
            write_file(path, format!("file {number}"));
        }
        run_ok(Command::new("cp").arg("-a").arg("-T").arg(&line.near).arg(&line.far));
        write_file(line.near.join("d1/new"), "only here");
        write_file(line.far.join("d2/7"), "another text there");
        set_mtime(&line.near.join("d3/3"), 1_000_000_000_000_000_000);
        fs::remove_file(line.far.join("d4/4")).unwrap();
    });
    line.cut_everywhere();
}

/// What the next run carries after a line was cut that had carried two thirds of a file of 3 MB; at
/// first `before` is in its place.
fn carried_after_a_cut(before: Option<&[u8]>, new: &[u8], up: bool) -> u64 {
    let line = Line::prepare(|line| {
        if let Some(before) = before {
            write_file(line.near.join("large"), before);
            assert_eq!(line.run(Limits::NONE).0, 0);
        }
        let root = if up { &line.near } else { &line.far };
        write_file(root.join("large"), new);
    });
    let most = 2_000_000;
    let limits = match up {
        true => Limits { up: most, ..Limits::NONE },
        false => Limits { down: most, ..Limits::NONE },
    };
    assert_ne!(line.run(limits).0, 0);
    line.assert_nothing_lost(limits);
    for root in [&line.near, &line.far] {
        eprintln!("DBG {:?}", files_below(&root.join(".psync/stage")));
    }
    let (code, went) = line.run(Limits::NONE);
    assert_eq!(code, 0);
    assert_same_trees(&line.near, &line.far);
    for root in [&line.near, &line.far] {
        assert!(files_below(&root.join(".psync/stage")).is_empty());
    }
    went.up + went.down
}

#[test]
fn of_a_new_file_that_was_cut_off_only_the_rest_is_sent() {
    let new = noise(3, 3_000_000);
    for up in [false, true] {
        let carried = carried_after_a_cut(None, &new, up);
        assert!((900_000..1_200_000).contains(&carried), "up {up}: {carried} bytes");
    }
}

#[test]
fn of_a_rewritten_file_that_was_cut_off_only_the_rest_is_sent() {
    let (old, new) = (noise(5, 2_500_000), noise(6, 3_000_000));
    for up in [true, false] {
        let carried = carried_after_a_cut(Some(&old), &new, up);
        assert!((900_000..1_250_000).contains(&carried), "up {up}: {carried} bytes");
    }
}

#[test]
fn a_file_that_has_changed_since_it_was_cut_off_comes_as_it_is_now() {
    let line = Line::prepare(|line| write_file(line.far.join("large"), noise(7, 3_000_000)));
    assert_ne!(line.run(Limits { down: 2_000_000, ..Limits::NONE }).0, 0);
    write_file(line.far.join("large"), noise(8, 2_900_000));
    assert_eq!(line.run(Limits::NONE).0, 0);
    assert_same_trees(&line.near, &line.far);
}
