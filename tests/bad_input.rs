//! Roots, files and systems that are not as they should be: each with a clear error, and nothing
//! lost.
//!
//!     cargo test --test bad_input
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::pair::{Pair, Said, clash_names, names, noise, trashed};
use common::tree::{assert_same_trees, files_below, snapshot};
use common::wire::Wire;
use common::{
    PSYNC, describe, local_rsh, psync, psync_over, read_text, require_program, run, run_ok,
    set_mode, write_file,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

#[test]
fn a_path_that_does_not_exist_is_named() {
    let pair = Pair::new();
    let mut command = psync(&pair.temp);
    command.args(["no/such/dir", "./b"]).current_dir(pair.temp.path());
    Said::of(&mut command, 11).has("no/such/dir").has("no such directory");
    let mut command = psync(&pair.temp);
    command.args(["./a", "no/such/dir"]).current_dir(pair.temp.path());
    Said::of(&mut command, 11).has("no/such/dir").has("no such directory");
    let mut command = psync(&pair.temp);
    command.args(["./c", "./d"]).current_dir(pair.temp.path());
    Said::of(&mut command, 11).has("no such directory");
    assert!(!pair.temp.join("c").exists() && !pair.temp.join("d").exists());
}

#[test]
fn a_file_is_no_root() {
    for file in ["a", "b"] {
        let pair = Pair::new();
        fs::remove_dir(pair.temp.join(file)).unwrap();
        write_file(pair.temp.join(file), "precious");
        pair.sync_expecting(11, &[]).has(&format!("{file}: is not a directory"));
        assert_eq!(read_text(pair.temp.join(file)), "precious");
    }
}

#[test]
fn what_a_root_keeps_beside_its_tree_is_no_root() {
    let pair = Pair::agreed(&[("file", "text")]);
    let other = pair.temp.folder("other");
    let rsh = local_rsh(&pair.temp);
    symlink("a/.psync", pair.temp.join("link")).unwrap();
    for state in ["a/.psync", "a/.psync/trash", "a/.psync/new", "link"] {
        let path = pair.temp.join(state).display().to_string();
        for place in [format!("host:{path}"), path] {
            let mut command = psync_over(&pair.temp, &rsh);
            Said::of(command.arg(&place).arg(&other), 11).has("lies in a .psync");
        }
    }
    assert!(names(&other).is_empty() && !pair.a.join(".psync/new").exists());
    assert!(!pair.a.join(".psync/.psync").exists());
    pair.assert_settled();
}

#[test]
fn roots_that_are_the_same_or_inside_each_other_are_refused() {
    let pair = Pair::new();
    write_file(pair.a.join("inside/file"), "text");
    symlink("a", pair.temp.join("to a")).unwrap();
    symlink("a/inside", pair.temp.join("to inside")).unwrap();
    let before = snapshot(&pair.a);
    for (one, other) in [
        ("a", "a"),
        ("a", "./b/../a/"),
        ("a", "a/inside"),
        ("a/inside", "a"),
        ("a", "to a"),
        ("to a", "a"),
        ("a", "to inside"),
        ("to inside", "a"),
        ("a", "a/new"),
        ("a/new", "a"),
    ] {
        let mut command = psync(&pair.temp);
        command.args([one, other]).current_dir(pair.temp.path());
        Said::of(&mut command, 1).has("choose two separate directories");
        assert_eq!(snapshot(&pair.a), before, "{one} {other}");
    }
}

/// psync as somebody whom permissions concern: root passes by all of them.
struct PlainUser<'a> {
    pair: &'a Pair,
}

impl PlainUser<'_> {
    const ID: u32 = 65534;

    /// Makes all that is in the test's folder this user's, and the program reachable.
    fn of(pair: &Pair) -> PlainUser<'_> {
        if rustix::process::geteuid().is_root() {
            fs::copy(PSYNC, pair.temp.join("psync")).unwrap();
            pair.temp.folder("home");
            run_ok(Command::new("chown").args(["-hR", "65534:65534"]).arg(pair.temp.path()));
        }
        PlainUser { pair }
    }

    fn sync(&self, code: i32, options: &[&str]) -> Said {
        let mut command = psync(&self.pair.temp);
        if rustix::process::geteuid().is_root() {
            let environment: Vec<_> = command
                .get_envs()
                .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
                .collect();
            let id = Self::ID;
            command = Command::new(require_program("setpriv"));
            command.env_clear().envs(environment);
            command.args([format!("--reuid={id}"), format!("--regid={id}")]);
            command.arg("--clear-groups").arg(self.pair.temp.join("psync"));
        }
        command.args(options).args(["./a", "./b"]).current_dir(self.pair.temp.path());
        Said::of(&mut command, code)
    }
}

#[test]
fn a_root_without_permission_is_told() {
    for closed in ["a", "b"] {
        let pair = Pair::new();
        write_file(pair.a.join("file"), "a");
        write_file(pair.b.join("other"), "b");
        let user = PlainUser::of(&pair);
        set_mode(&pair.temp.join(closed), 0o000);
        user.sync(11, &[]).has(&format!("{closed}: ")).has("ermission denied");
        set_mode(&pair.temp.join(closed), 0o700);
        assert_eq!((names(&pair.a).len(), names(&pair.b).len()), (1, 1));
        user.sync(0, &[]);
    }
}

#[test]
fn unreadable_files_are_reported_and_never_taken_for_deletions() {
    let pair = Pair::agreed(&[("open", "1"), ("closed", "2"), ("d/inside", "3"), ("e/x", "4")]);
    let user = PlainUser::of(&pair);
    write_file(pair.a.join("closed"), "edited, then closed");
    set_mode(&pair.a.join("closed"), 0o000);
    set_mode(&pair.a.join("d"), 0o000);
    write_file(pair.a.join("open"), "goes on");
    chown(pair.a.join("open"), Some(PlainUser::ID), Some(PlainUser::ID)).unwrap_or(());
    let said = user.sync(23, &[]);
    said.has("closed: cannot be read").has("d: cannot read the directory").has("ermission denied");
    assert_eq!(read_text(pair.b.join("open")), "goes on");
    assert_eq!(read_text(pair.b.join("closed")), "2");
    assert_eq!(read_text(pair.b.join("d/inside")), "3");
    // Readable again, the next run brings them up to date.
    set_mode(&pair.a.join("closed"), 0o600);
    set_mode(&pair.a.join("d"), 0o755);
    user.sync(0, &[]);
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(read_text(pair.b.join("closed")), "edited, then closed");
}

#[test]
fn unreadable_files_of_the_other_side_are_reported_too() {
    let pair = Pair::agreed(&[("file", "1"), ("d/inside", "2"), ("kept", "3")]);
    let user = PlainUser::of(&pair);
    set_mode(&pair.b.join("d"), 0o000);
    write_file(pair.a.join("d/inside"), "edited");
    write_file(pair.a.join("d/new"), "new");
    chown(pair.a.join("d/new"), Some(PlainUser::ID), Some(PlainUser::ID)).unwrap_or(());
    user.sync(23, &[]).has("b: d: cannot read the directory");
    set_mode(&pair.b.join("d"), 0o755);
    user.sync(0, &[]);
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(names(&pair.b.join("d")), ["inside", "new"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_one_folder_s_failure() {
    let pair = Pair::agreed(&[("d/old", "old"), ("e/old", "old")]);
    let user = PlainUser::of(&pair);
    for path in ["d/new", "e/new", "d/old"] {
        write_file(pair.a.join(path), "from a");
        chown(pair.a.join(path), Some(PlainUser::ID), Some(PlainUser::ID)).unwrap_or(());
    }
    set_mode(&pair.b.join("d"), 0o555);
    set_mode(&pair.a.join("d"), 0o555);
    user.sync(23, &[]).has("d/new: ").has("ermission denied").has("1 created (6 B)\n");
    assert_eq!(read_text(pair.b.join("e/new")), "from a");
    assert_eq!(names(&pair.b.join("d")), ["old"]);
    set_mode(&pair.b.join("d"), 0o755);
    user.sync(0, &[]);
    assert_same_trees(&pair.a, &pair.b);
}

#[test]
fn a_read_only_root_can_be_read_but_not_written() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "in a");
    write_file(pair.b.join("other"), "in b");
    let user = PlainUser::of(&pair);
    set_mode(&pair.a, 0o555);
    user.sync(11, &[]).has("a: ").has("read-only").has("--mirror push");
    assert_eq!((names(&pair.a), names(&pair.b)), (vec!["file".into()], vec!["other".into()]));
    // As the message says.
    user.sync(0, &["--mirror", "push"]);
    assert_eq!(names(&pair.b), ["file"]);
    user.sync(0, &["--mirror", "push"]).has("nothing to do");
    assert!(!pair.a.join(".psync").exists());
    set_mode(&pair.a, 0o755);
}

#[test]
fn a_full_disk_is_each_file_s_failure_and_the_next_run_finishes() {
    let pair = Pair::new();
    write_file(pair.a.join("small"), "fits");
    write_file(pair.a.join("big"), noise(1, 3_000_000));
    write_file(pair.a.join("also small"), "fits, too");
    let script = match can_mount() {
        // What stands on the small disk is seen only from inside: it is copied out.
        true => {
            "mount -t tmpfs -o size=2m none b && \"$0\" ./a ./b; code=$?; \
             cp -a b seen && exit $code"
        }
        false => "trap '' XFSZ; ulimit -f 2048; \"$0\" ./a ./b; code=$?; cp -a b seen; exit $code",
    };
    let mut command = psync(&pair.temp);
    let environment: Vec<_> =
        command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    command = Command::new(if can_mount() { "unshare" } else { "env" });
    if can_mount() {
        command.arg("-m");
    }
    command.env_clear().envs(environment).args(["sh", "-c", script, PSYNC]);
    let said = Said::of(command.current_dir(pair.temp.path()), 23);
    said.has("big: ");
    let seen = pair.temp.join("seen");
    assert_eq!(names(&seen), ["also small", "small"], "a partial file is left");
    assert!(files_below(&seen.join(".psync/stage")).is_empty(), "the stage is not empty");
    // With room again, from where it stopped.
    fs::remove_dir_all(&pair.b).unwrap();
    fs::rename(&seen, &pair.b).unwrap();
    set_mode(&pair.b, 0o755);
    let said = pair.sync_expecting(0, &["-v"]);
    said.has("big").has_not("small");
    pair.assert_settled();
}

fn can_mount() -> bool {
    let try_it = "mount -t tmpfs -o size=1m none /tmp";
    rustix::process::geteuid().is_root()
        && Command::new("unshare")
            .args(["-m", "sh", "-c", try_it])
            .output()
            .is_ok_and(|o| o.status.success())
}

/// Spoils the state database of `a` after both sides agreed, and one file changed or went in each
/// way.
fn with_spoiled_state(spoil: impl FnOnce(&Path), reason: &str) {
    let pair = Pair::agreed(&[("gone", "1"), ("of b", "2"), ("of both", "3"), ("same", "4")]);
    let state = pair.a.join(".psync/index.db");
    spoil(&state);
    let spoiled = fs::read(&state).unwrap();
    fs::remove_file(pair.b.join("gone")).unwrap();
    write_file(pair.b.join("of b"), "edited in b");
    write_file(pair.a.join("of both"), "edited in a");
    write_file(pair.b.join("of both"), "edited in b");
    let said = pair.sync_expecting(40, &[]);
    said.has("index.db.unusable-1").has(reason).has("deletes nothing");
    assert_eq!(fs::read(state.with_extension("db.unusable-1")).unwrap(), spoiled);
    pair.assert_settled();
    // Like a first contact: what was deleted is back, and no version is lost.
    assert_eq!(read_text(pair.b.join("gone")), "1");
    assert_eq!(read_text(pair.a.join("of b")), "edited in b");
    assert_eq!(trashed(&pair.a, "of b"), ["2"]);
    let clashes = clash_names(&pair.a);
    assert_eq!(clashes.len(), 1);
    let mut both = ["of both", &clashes[0]].map(|name| read_text(pair.b.join(name)));
    both.sort();
    assert_eq!(both, ["edited in a", "edited in b"]);
}

#[test]
fn a_corrupt_state_database_is_set_aside() {
    with_spoiled_state(|state| fs::write(state, noise(1, 20_000)).unwrap(), "not a database");
}

#[test]
fn a_state_database_damaged_in_the_middle_is_set_aside() {
    with_spoiled_state(
        |state| {
            let mut bytes = fs::read(state).unwrap();
            let length = bytes.len();
            bytes[4096..length].fill(0xa5);
            fs::write(state, bytes).unwrap();
        },
        "state database",
    );
}

#[test]
fn a_truncated_state_database_is_set_aside() {
    for keep in [0, 100, 5000] {
        with_spoiled_state(
            |state| {
                let bytes = fs::read(state).unwrap();
                fs::write(state, &bytes[..keep]).unwrap();
            },
            "state database",
        );
    }
}

#[test]
fn a_state_database_of_a_newer_format_is_set_aside() {
    // SQLite keeps the application's format in these four bytes of the header.
    let newer = |state: &Path| {
        let mut bytes = fs::read(state).unwrap();
        bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
        fs::write(state, bytes).unwrap();
    };
    with_spoiled_state(newer, "format 99 of a newer psync");
}

#[test]
fn the_other_side_s_spoiled_state_is_told_too() {
    let pair = Pair::agreed(&[("one", "1"), ("two", "2")]);
    fs::write(pair.b.join(".psync/index.db"), "nonsense".repeat(100)).unwrap();
    fs::remove_file(pair.a.join("one")).unwrap();
    pair.sync_expecting(0, &[]).has("b: the state database").has("index.db.unusable-1");
    pair.assert_settled();
    assert_eq!(names(&pair.a), ["one", "two"]);
}

#[test]
fn a_copy_of_a_root_with_its_state_is_recognised_and_can_be_made_a_root_of_its_own() {
    let pair = Pair::agreed(&[("file", "text")]);
    let copy = pair.temp.join("copy");
    run_ok(Command::new("cp").arg("-a").arg(&pair.a).arg(&copy));
    write_file(copy.join("new"), "new");
    let mut command = psync(&pair.temp);
    command.arg(&pair.a).arg(&copy);
    Said::of(&mut command, 42).has("same identity").has("Remove .psync/index.db in the copy");
    assert_eq!(names(&pair.a), ["file"]);
    // As the message says.
    fs::remove_file(copy.join(".psync/index.db")).unwrap();
    Said::of(&mut command, 0);
    assert_same_trees(&pair.a, &copy);
    assert_eq!(names(&pair.a), ["file", "new"]);
}

#[test]
fn a_root_restored_from_a_backup_loses_nothing() {
    for restored in ["a", "b"] {
        let pair = Pair::agreed(&[("file", "old"), ("other", "text")]);
        let root = pair.temp.join(restored);
        let backup = pair.temp.join("backup");
        run_ok(Command::new("cp").arg("-a").arg(&root).arg(&backup));
        write_file(root.join("file"), "newer");
        write_file(root.join("made after the backup"), "new");
        pair.sync_to(0);
        fs::remove_dir_all(&root).unwrap();
        fs::rename(&backup, &root).unwrap();
        let output = run(&mut pair.command(&[]));
        assert!(matches!(output.status.code(), Some(0 | 40)), "{}", Said::from(&output).err);
        pair.assert_settled();
        assert_eq!(read_text(pair.a.join("file")), "newer");
        assert_eq!(read_text(pair.a.join("made after the backup")), "new");
    }
}

#[test]
fn a_second_psync_on_the_same_root_waits_for_nobody_and_says_so() {
    let pair = Pair::agreed(&[("file", "text")]);
    let wire = Wire::new(&pair.temp);
    let mut command = psync_over(&pair.temp, &wire.rsh());
    let mut first = command
        .arg("host:/far")
        .arg(&pair.a)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first one holds its root while it waits for an answer.
    let end = wire.accept();
    let mut greeting = [0; 6];
    std::io::Read::read_exact(&mut &end.from_psync, &mut greeting).unwrap();
    pair.sync_expecting(41, &[]).has("./a: another psync is working on this root");
    let mut other_way = psync(&pair.temp);
    other_way.args(["./b", "./a"]).current_dir(pair.temp.path());
    Said::of(&mut other_way, 41).has("./a: another psync is working on this root");
    drop(end);
    first.wait().unwrap();
    pair.assert_settled();
}

#[test]
fn a_file_that_changes_all_the_time_is_left_for_the_next_run() {
    let pair = Pair::agreed(&[("busy", "old"), ("quiet", "old")]);
    let busy = pair.a.join("busy");
    write_file(&busy, noise(1, 60_000_000));
    write_file(pair.a.join("quiet"), "new");
    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            let file = fs::File::options().write(true).open(&busy).unwrap();
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let bytes = number.to_le_bytes();
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 8 * (number % 1000))
                    .unwrap();
                started.store(true, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        while !started.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        let output = run(&mut pair.command(&[]));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(output.status.code(), Some(24), "{}", describe(&pair.command(&[]), &output));
        Said::from(&output)
    });
    said.has("busy: ").has("skipped");
    assert_eq!(read_text(pair.b.join("busy")), "old");
    assert_eq!(read_text(pair.b.join("quiet")), "new");
    pair.sync_to(0);
}

#[test]
fn devices_fifos_and_sockets_are_named_and_skipped() {
    for side in ["a", "b"] {
        let pair = Pair::agreed(&[("file", "text"), ("d/file", "text")]);
        let root = pair.temp.join(side);
        mknodat(CWD, root.join("d/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let mut special = vec!["d/fifo", "socket"];
        let null = rustix::fs::makedev(1, 3);
        if mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, null).is_ok() {
            special.push("null");
        }
        write_file(root.join("d/more"), "more");
        let said = pair.sync_expecting(0, &[]);
        for name in &special {
            said.has(&format!("{side}: {name}: a device, socket or FIFO is not synced"));
        }
        let other = pair.temp.join(if side == "a" { "b" } else { "a" });
        assert_eq!(names(&other), ["d", "file"]);
        assert_eq!(names(&other.join("d")), ["file", "more"]);
        // In the place of a file it is no deletion of the file.
        fs::remove_file(root.join("file")).unwrap();
        mknodat(CWD, root.join("file"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        pair.sync_expecting(0, &[]).has("file: a device");
        assert_eq!(read_text(other.join("file")), "text");
    }
}
