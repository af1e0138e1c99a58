//! Somebody else on this machine, who exchanges the directories of a root for symbolic links to a place
//! outside as fast as the system lets them, while psync does everything that it does: nothing outside is
//! read, made, changed or moved. And what somebody has put in the place of psync's own files.
//!
//! `PSYNC_FLIPS` is how often each directory is exchanged (3,000); a release is tested with 100,000.
//!
//!     cargo test --test flips
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::pair::Pair;
use common::tree::{Snapshot, differences, files_below, set_mtime, snapshot};
use common::{TempDir, psync, run, set_mode, write_file};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

/// What stands outside, and may be found nowhere else.
const MARK: &str = "MARK of the sentinel, which belongs to nobody's tree";
/// How long the exchanges during one kind of operation may take in all.
const PATIENCE: Duration = Duration::from_secs(1200);

fn flips() -> u64 {
    std::env::var("PSYNC_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(3000)
}

/// Two roots, and a place outside that looks just like a directory of theirs.
struct Ground {
    pair: Pair,
    outside: PathBuf,
    before: Snapshot,
}

impl Ground {
    fn new() -> Ground {
        let temp = TempDir::in_memory();
        let pair = Pair { a: temp.folder("a"), b: temp.folder("b"), temp };
        let outside = pair.temp.folder("outside");
        for number in 0..FILES {
            write_file(outside.join(format!("file{number}")), format!("{MARK} {number}"));
            write_file(outside.join(format!("gone{number}")), format!("{MARK} gone {number}"));
        }
        write_file(outside.join("sub/inner"), format!("{MARK} inner"));
        symlink("file0", outside.join("link")).unwrap();
        set_mode(&outside.join("file1"), 0o600);
        set_mtime(&outside.join("file2"), 1_000_000_000_000_000_000);
        let before = snapshot(&outside);
        Ground { pair, outside, before }
    }

    /// Nothing outside has changed, and nothing of it is in a root, its trash, its store or its state.
    fn assert_untouched(&self, what: &str) {
        let changed = differences(&self.before, &snapshot(&self.outside));
        assert!(changed.is_empty(), "{what}: outside was touched: {changed:?}");
        for root in [&self.pair.a, &self.pair.b] {
            for file in files_below(root) {
                let content = fs::read(&file).unwrap_or_default();
                let marked = content.windows(MARK.len()).any(|part| part == MARK.as_bytes());
                assert!(!marked, "{what}: {} was read from outside", file.display());
            }
        }
    }

    /// A run whose outcome is no matter, but that it ends.
    fn sync(&self, options: &[&str]) {
        let mut command = self.pair.command(options);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psync starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.code().is_some_and(|code| code != 101), "{status}");
                return;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("a run hangs");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Exchanges a directory and a link to the sentinel by turns, in one step each time, until dropped.
struct Flipper {
    over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
    dir: PathBuf,
    aside: PathBuf,
}

impl Flipper {
    fn start(dir: &Path, outside: &Path) -> Flipper {
        let aside =
            dir.with_file_name(format!("{}.aside", dir.file_name().unwrap().to_str().unwrap()));
        // It may have been synced in an earlier run, as anything else in the tree.
        let _ = fs::remove_file(&aside).or_else(|_| fs::remove_dir_all(&aside));
        symlink(outside, &aside).unwrap();
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, counted) = (over.clone(), count.clone());
        let (one, other) = (dir.to_path_buf(), aside.clone());
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let flipped = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                counted.fetch_add(u64::from(flipped.is_ok()), Ordering::Relaxed);
                // The directory has to be met as often as the link.
                std::hint::spin_loop();
                thread::yield_now();
            }
        });
        let (dir, thread) = (dir.to_path_buf(), Some(thread));
        Flipper { over, count, thread, dir, aside }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
        // The directory stands in its place afterwards, and nothing beside it.
        if self.dir.is_symlink() {
            let _ = renameat_with(CWD, &self.dir, CWD, &self.aside, RenameFlags::EXCHANGE);
        }
        let _ = fs::remove_file(&self.aside);
    }
}

/// Files in the directory that is exchanged.
const FILES: usize = 12;

/// What a person changes in one root before a run, so that the run does something in the other.
type Change = fn(&Path, u64);

/// Everything that psync does in a tree. Names are those of the sentinel's files.
const OPERATIONS: &[(&str, Change, &[&str])] = &[
    (
        "copy new files in",
        |root, round| {
            (0..FILES)
                .for_each(|n| write_file(root.join(format!("d/new{round}-{n}")), format!("{n}")));
        },
        &[],
    ),
    (
        "replace files",
        |root, round| {
            (0..FILES)
                .for_each(|n| write_file(root.join(format!("d/file{n}")), format!("{round} {n}")));
        },
        &[],
    ),
    (
        "delete files",
        |root, round| {
            for n in 0..FILES {
                let file = root.join(format!("d/gone{n}"));
                match round % 2 {
                    0 => write_file(file, format!("again {round} {n}")),
                    _ => drop(fs::remove_file(file)),
                }
            }
        },
        &["--max-delete=100%"],
    ),
    (
        "move files",
        |root, round| {
            for n in 0..FILES {
                let (here, there) = (format!("d/file{n}"), format!("e/file{n}"));
                let (from, to) = if round % 2 == 0 { (here, there) } else { (there, here) };
                let _ = fs::rename(root.join(from), root.join(to));
            }
        },
        &["--max-delete=100%"],
    ),
    (
        "set modes and times",
        |root, round| {
            for n in 0..FILES {
                let file = root.join(format!("d/file{n}"));
                if file.is_file() {
                    // Some of them cannot be read then, but by root.
                    set_mode(&file, if round % 2 == 0 { 0o644 } else { 0o600 });
                    set_mtime(&file, 1_500_000_000_000_000_000 + round as i64);
                }
            }
        },
        &[],
    ),
    (
        "make and remove directories",
        |root, round| {
            for n in 0..FILES {
                let folder = root.join(format!("d/sub{n}"));
                match round % 2 {
                    0 => drop(fs::create_dir_all(folder.join("x"))),
                    _ => drop(fs::remove_dir_all(folder)),
                }
            }
        },
        &["--max-delete=100%"],
    ),
    (
        "make links",
        |root, round| {
            for n in 0..FILES {
                let link = root.join(format!("d/link{n}"));
                let _ = fs::remove_file(&link);
                symlink(format!("target{round}"), link).unwrap();
            }
        },
        &[],
    ),
    (
        "keep both versions",
        |root, round| {
            (0..FILES).for_each(|n| {
                write_file(root.join(format!("d/file{n}")), format!("here {round} {n}"))
            });
            let other = root.with_file_name("b");
            (0..FILES).for_each(|n| {
                // The other side's directory may be a link just now: then it is left alone.
                let _ = edit_in(&other, n, round);
            });
        },
        &["--conflict=keep-both"],
    ),
];

/// Edits a file of a root whose directory is being exchanged, through no link.
fn edit_in(root: &Path, number: usize, round: u64) -> std::io::Result<()> {
    use rustix::fs::{OFlags, ResolveFlags, openat2};
    let dir = fs::File::open(root)?;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE;
    let mode = Mode::from_raw_mode(0o644);
    let name = format!("d/file{number}");
    let file = openat2(&dir, name, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    std::io::Write::write_all(
        &mut fs::File::from(file),
        format!("there {round} {number}").as_bytes(),
    )
}

fn furnish(root: &Path) {
    for n in 0..FILES {
        write_file(root.join(format!("d/file{n}")), format!("first {n}"));
        write_file(root.join(format!("d/gone{n}")), format!("gone {n}"));
    }
    fs::create_dir_all(root.join("e")).unwrap();
}

/// Exchanges `d` of one of the roots during runs that do this, until there were enough exchanges.
fn endure(what: &str, change: Change, options: &[&str], flipped: &str) -> (u64, u64) {
    let ground = Ground::new();
    furnish(&ground.pair.a);
    ground.sync(&[]);
    let (mut count, mut runs) = (0, 0);
    let started = Instant::now();
    while count < flips() {
        assert!(started.elapsed() < PATIENCE, "{what}: only {count} exchanges in {runs} runs");
        change(&ground.pair.a, runs);
        let flipper = Flipper::start(&ground.pair.temp.join(flipped), &ground.outside);
        ground.sync(options);
        count += flipper.count();
        drop(flipper);
        runs += 1;
        // What was not done can be done now.
        if runs % 8 == 0 {
            ground.assert_untouched(what);
        }
        ground.sync(options);
    }
    ground.assert_untouched(what);
    (count, runs)
}

fn endure_all(flipped: &str) {
    for (what, change, options) in OPERATIONS {
        let (count, runs) = endure(what, *change, options, flipped);
        println!("{what}, {flipped}: {count} exchanges in {runs} runs");
    }
}

#[test]
fn the_side_that_is_changed_reaches_nothing_outside() {
    endure_all("b/d");
}

#[test]
fn the_side_that_is_read_reaches_nothing_outside() {
    endure_all("a/d");
}

/// Trash, undo and restore work in the same directories.
#[test]
fn what_is_undone_and_restored_reaches_nothing_outside() {
    let ground = Ground::new();
    furnish(&ground.pair.a);
    ground.sync(&[]);
    let (mut count, mut runs) = (0, 0);
    while count < flips() {
        (0..FILES).for_each(|n| {
            write_file(ground.pair.a.join(format!("d/file{n}")), format!("{runs} {n}"));
            let _ = fs::remove_file(ground.pair.a.join(format!("d/gone{n}")));
        });
        ground.sync(&["--max-delete=100%"]);
        let flipper = Flipper::start(&ground.pair.b.join("d"), &ground.outside);
        for words in
            [&["undo", "--yes"][..], &["restore", "d/gone1"], &["trash", "list"], &["verify"]]
        {
            let mut command = psync(&ground.pair.temp);
            command.args(words).args(["--root"]).arg(&ground.pair.b).stdin(Stdio::null());
            let output = run(&mut command);
            assert!(output.status.code().is_some_and(|code| code != 101), "{words:?}");
        }
        count += flipper.count();
        drop(flipper);
        ground.sync(&["--max-delete=100%"]);
        (0..FILES).for_each(|n| write_file(ground.pair.a.join(format!("d/gone{n}")), "again"));
        ground.sync(&["--max-delete=100%"]);
        runs += 1;
        if runs % 8 == 0 {
            ground.assert_untouched("undo and restore");
        }
    }
    ground.assert_untouched("undo and restore");
    println!("undo and restore: {count} exchanges in {runs} runs");
}

/// The directories beside the tree that psync works in.
#[test]
fn stage_and_trash_that_are_exchanged_for_links_reach_nothing_outside() {
    for flipped in ["b/.psync/stage", "b/.psync/trash"] {
        let ground = Ground::new();
        furnish(&ground.pair.a);
        ground.sync(&[]);
        let (mut count, mut runs) = (0, 0);
        while count < flips() / 4 {
            (0..FILES).for_each(|n| {
                write_file(ground.pair.a.join(format!("d/file{n}")), format!("{runs} {n}"));
            });
            let flipper = Flipper::start(&ground.pair.temp.join(flipped), &ground.outside);
            ground.sync(&[]);
            count += flipper.count();
            drop(flipper);
            runs += 1;
        }
        println!("{flipped}: {count} exchanges in {runs} runs");
        ground.assert_untouched(flipped);
    }
}

/// A command on a root that must end by itself.
#[track_caller]
fn ends(command: &mut Command, what: &str) {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it hangs: {command:?}, {what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let code = output.status.code();
    assert!(code.is_some_and(|code| code != 101), "{command:?}, {what}: {code:?}\n{said}");
}

/// What somebody who can write to a root puts in the place of psync's own files: links to a file or
/// directory outside, and FIFOs, at which nobody writes.
#[test]
fn what_stands_in_the_place_of_psyncs_own_files_is_neither_followed_nor_waited_for() {
    let places = [
        ".psync",
        ".psync/index.db",
        ".psync/index.db-wal",
        ".psync/index.db-shm",
        ".psync/cache.db",
        ".psync/cache.db-journal",
        ".psync/lock",
        ".psync/stage",
        ".psync/trash",
        ".psync/store",
        ".psync/store/store.db",
        ".psync/store/store.db-journal",
        ".psync/store/snapshots",
        ".psync/journal.db",
        ".psync/journal.db-wal",
        ".psync/.gitignore",
        ".psync/stage/Name",
        ".psync/stage/00000000",
        ".psync/stage/00000001",
        ".psyncignore",
        ".psync.toml",
    ];
    for place in places {
        for kind in ["file", "directory", "nowhere", "fifo"] {
            let ground = Ground::new();
            furnish(&ground.pair.a);
            ground.sync(&[]);
            let at = ground.pair.b.join(place);
            let _ = fs::remove_file(&at);
            let _ = fs::remove_dir_all(&at);
            match kind {
                "file" => symlink(ground.outside.join("file0"), &at).unwrap(),
                "directory" => symlink(&ground.outside, &at).unwrap(),
                "nowhere" => symlink(ground.outside.join("made"), &at).unwrap(),
                _ => mknodat(CWD, &at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
            }
            (0..FILES).for_each(|n| {
                write_file(ground.pair.a.join(format!("d/file{n}")), format!("changed {n}"));
            });
            let what = format!("{place}, {kind}");
            ends(&mut ground.pair.command(&[]), &what);
            for words in [&["status"][..], &["log"], &["verify"], &["trash", "list"]] {
                let mut command = psync(&ground.pair.temp);
                ends(command.args(words).arg(&ground.pair.b), &what);
            }
            ground.assert_untouched(&what);
        }
    }
}

/// FIFOs, sockets and devices where files were, that come while psync works.
#[test]
fn a_fifo_that_takes_the_place_of_a_file_is_not_waited_for() {
    for flipped in ["a", "b"] {
        let ground = Ground::new();
        furnish(&ground.pair.a);
        ground.sync(&[]);
        let root = ground.pair.temp.join(flipped);
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = thread::spawn(move || {
            let fifo = root.join("fifo");
            while !is_over.load(Ordering::Relaxed) {
                let _ = mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
                let _ = renameat_with(CWD, &fifo, CWD, root.join("d/file0"), RenameFlags::EXCHANGE);
                thread::yield_now();
            }
            let _ = fs::remove_file(root.join("fifo"));
        });
        for round in 0..20 {
            (1..FILES).for_each(|n| {
                write_file(ground.pair.a.join(format!("d/file{n}")), format!("{round} {n}"));
            });
            ground.sync(&[]);
        }
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        ground.assert_untouched("a FIFO");
    }
}

/// A file that its owner may not read is given another mode through a name that somebody exchanges
/// for a link: only what was looked at gets the mode. Run as root nothing is unreadable; then there is
/// nothing to see.
#[test]
fn the_mode_of_an_unreadable_file_is_not_set_through_a_link() {
    let ground = Ground::new();
    let target = ground.outside.join("file3");
    set_mode(&target, 0o600);
    let before = snapshot(&ground.outside);
    let root = psync::root::Root::open(&ground.pair.a).unwrap();
    let path = psync_protocol::RelPath::new(b"f").unwrap();
    let file = ground.pair.a.join("f");
    write_file(&file, "x");
    set_mode(&file, 0o200);
    let other = ground.pair.a.join("g");
    symlink(&target, &other).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let thread = thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let _ = renameat_with(CWD, &file, CWD, &other, RenameFlags::EXCHANGE);
        }
    });
    for round in 0..flips() {
        let _ = root.set_mode(&path, if round % 2 == 0 { 0o222 } else { 0o200 });
    }
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert!(differences(&before, &snapshot(&ground.outside)).is_empty());
}
