//! Room on the disk: what does not fit fails alone, nothing is lost, and the next run goes on.
//!
//!     cargo test --test space

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::daemon::Served;
use common::pair::{Pair, names, noise};
use common::tree::assert_same_trees;
use common::{run, run_ok, write_file};

/// A small file system of its own, in memory; none where this user may not have one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Option<Disk> {
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "psync-test"]).arg(&at);
        run(&mut mount).status.success().then_some(Disk(at))
    }

    fn grow(&self, size: &str) {
        run_ok(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_file_that_does_not_fit_the_disk_fails_and_the_others_come() {
    let pair = Pair::new();
    let Some(disk) = Disk::mount(pair.b.clone(), "40m") else { return };
    write_file(pair.b.join("old"), "an old content");
    pair.sync_expecting(0, &[]);
    write_file(pair.a.join("big"), noise(1, 60 << 20));
    for number in 0..4 {
        write_file(pair.a.join(format!("small{number}")), noise(number, 300_000));
    }
    write_file(pair.a.join("old"), "a new content");
    let said = pair.sync_expecting(23, &[]);
    said.has("big").has("limits.keep-free");
    assert_eq!(names(&pair.b), ["old", "small0", "small1", "small2", "small3"]);
    assert_eq!(fs::read_to_string(pair.b.join("old")).unwrap(), "a new content");
    assert_eq!(names(&pair.a).len(), 6);
    pair.sync_expecting(23, &[]).has("limits.keep-free");
    disk.grow("200m");
    pair.sync_expecting(0, &[]);
    assert_same_trees(&pair.a, &pair.b);
    pair.sync_expecting(0, &[]).has("nothing to do");
}

#[test]
fn a_daemon_keeps_its_disk_from_being_filled() {
    let daemon = Served::configured("p1=read,write,delete", "[limits]\nkeep-free = '10M'\n");
    let Some(_disk) = Disk::mount(daemon.served.clone(), "30m") else { return };
    for number in 0..40 {
        write_file(daemon.mine.join(format!("file{number:02}")), noise(number, 1 << 20));
    }
    daemon.sync_expecting(23, &[]).has("limits.keep-free");
    let came = names(&daemon.served);
    assert!((5..20).contains(&came.len()), "{came:?}");
    let free = rustix::fs::statvfs(&daemon.served).unwrap();
    assert!(free.f_bavail * free.f_frsize >= 9 << 20);
    assert_eq!(names(&daemon.mine).len(), 40);
}

#[test]
fn a_disk_that_has_to_stay_empty_takes_nothing_and_loses_nothing() {
    let pair = Pair::agreed(&[("a", "1"), ("gone", "2"), ("dir/moved", "content that moves")]);
    write_file(pair.temp.join("home/.config/psync/psync.toml"), "[limits]\nkeep-free = '100%'\n");
    write_file(pair.a.join("a"), "changed");
    write_file(pair.a.join("new"), "new");
    fs::remove_file(pair.a.join("gone")).unwrap();
    fs::rename(pair.a.join("dir/moved"), pair.a.join("moved")).unwrap();
    write_file(pair.b.join("other"), "from the other side");
    pair.sync_expecting(23, &[]).has("limits.keep-free");
    // What needs no room is done.
    assert_eq!(names(&pair.b), ["a", "dir", "moved", "other"]);
    assert_eq!(fs::read_to_string(pair.b.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(pair.a.join("a")).unwrap(), "changed");
    fs::remove_file(pair.temp.join("home/.config/psync/psync.toml")).unwrap();
    pair.sync_expecting(0, &[]);
    pair.assert_settled();
}

#[test]
fn what_is_larger_than_the_stage_may_be_fails_and_others_come_by_turns() {
    let pair = Pair::new();
    write_file(pair.temp.join("home/.config/psync/psync.toml"), "[limits]\nstaging = '2M'\n");
    write_file(pair.a.join("big"), noise(1, 3 << 20));
    for number in 0..12 {
        write_file(pair.a.join(format!("part{number:02}")), noise(2 + number, 700_000));
    }
    let said = pair.sync_expecting(23, &[]);
    said.has("big").has("limits.staging");
    assert_eq!(names(&pair.b).len(), 12);
    for name in names(&pair.b) {
        assert_eq!(fs::read(pair.a.join(&name)).unwrap(), fs::read(pair.b.join(&name)).unwrap());
    }
    fs::remove_file(pair.temp.join("home/.config/psync/psync.toml")).unwrap();
    pair.sync_expecting(0, &[]);
    pair.assert_settled();
}

#[test]
fn a_module_may_have_a_stage_of_its_own_size() {
    let daemon = Served::configured("p1=read,write,delete", "[limits]\nstaging = '1M'\n");
    write_file(daemon.mine.join("big"), noise(1, 2 << 20));
    write_file(daemon.mine.join("small"), noise(2, 100_000));
    daemon.sync_expecting(23, &[]).has("limits.staging");
    assert_eq!(names(&daemon.served), ["small"]);
    let toml = daemon.temp.join("server/psync/psyncd.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text + "limits = { staging = 0 }\n").unwrap();
    daemon.reload();
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served, &daemon.mine);
}
