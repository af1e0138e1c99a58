//! `psync verify` through the real program: rot is told from edits, on one side, on both, and over a
//! remote shell; a repair brings the good content and deletes nothing.
//!
//!     cargo test --test verify
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::pair::{Pair, Said, trashed};
use common::tree::{Snapshot, snapshot};
use common::{local_rsh, psync, read_text, write_file};
use psync_protocol::RelPath;

const FILES: &[(&str, &str)] =
    &[("a", "content one"), ("deep/b", "content two"), ("c", "content three")];

/// Changes a file's content as a bad disk does: nothing else shows it. The test's disk is a good
/// one, so what the index remembers of the file's looks has to follow.
fn rot(root: &Path, path: &str) {
    let mut bytes = fs::read(root.join(path)).unwrap();
    bytes[0] ^= 0x20;
    let modified = fs::metadata(root.join(path)).unwrap().modified().unwrap();
    fs::write(root.join(path), bytes).unwrap();
    fs::File::options().write(true).open(root.join(path)).unwrap().set_modified(modified).unwrap();
    let open = psync::root::Root::open(root).unwrap();
    let stat = open.stat(&RelPath::new(path.as_bytes()).unwrap()).unwrap().unwrap();
    let index = rusqlite::Connection::open(root.join(".psync/index.db")).unwrap();
    let changed = index
        .execute(
            "UPDATE entries SET stamp = ?2 WHERE path = ?1",
            (path.as_bytes(), stat.stamp().0 as i64),
        )
        .unwrap();
    assert_eq!(changed, 1);
}

#[track_caller]
fn verify(pair: &Pair, code: i32, options: &[&str]) -> Said {
    let mut command = psync(&pair.temp);
    command.current_dir(pair.temp.path()).arg("verify").args(options);
    Said::of(&mut command, code)
}

fn both(pair: &Pair) -> (Snapshot, Snapshot) {
    (snapshot(&pair.a), snapshot(&pair.b))
}

#[test]
fn two_sound_sides_are_found_sound_and_stay_as_they_are() {
    let pair = Pair::agreed(FILES);
    let before = both(&pair);
    verify(&pair, 0, &["./a", "./b"])
        .has("everything is as it was")
        .has_line("both sides say the same of every content");
    verify(&pair, 0, &["./a"]).has("4 entries, 35 B read");
    assert_eq!(both(&pair), before);
    let said = verify(&pair, 0, &["--repair", "./a", "./b"]);
    said.has_line("nothing to repair");
}

#[test]
fn rot_is_told_from_edits_and_from_what_is_gone() {
    let pair = Pair::agreed(FILES);
    rot(&pair.a, "a");
    write_file(pair.a.join("c"), "edited");
    fs::remove_file(pair.a.join("deep/b")).unwrap();
    let said = verify(&pair, 23, &["--json", "./a"]);
    let found: Vec<(String, String)> = said
        .objects_of("finding")
        .iter()
        .map(|object| {
            [&object["path"], &object["fault"]].map(|text| text.as_str().unwrap().to_string())
        })
        .map(|[path, fault]| (path, fault))
        .collect();
    let expected = [("a", "rotted"), ("c", "edited"), ("deep/b", "missing")];
    assert_eq!(found, expected.map(|(path, fault)| (path.to_string(), fault.to_string())));
    // An edit alone is nothing to worry about.
    let pair = Pair::agreed(FILES);
    write_file(pair.a.join("c"), "edited");
    verify(&pair, 0, &["./a", "./b"]).has("edited since the last run");
}

#[test]
fn what_rotted_on_either_side_comes_back_from_the_other_and_nothing_else_is_done() {
    for rotten in ["a", "b"] {
        let pair = Pair::agreed(FILES);
        let root = pair.temp.join(rotten);
        rot(&root, "deep/b");
        // Changes that wait for a sync are none of its business.
        write_file(pair.a.join("c"), "edited here");
        write_file(pair.b.join("new there"), "new");
        fs::remove_file(pair.b.join("a")).unwrap();
        verify(&pair, 23, &["./a", "./b"]).has("--repair fetches it");
        assert_ne!(read_text(root.join("deep/b")), "content two");
        verify(&pair, 24, &["./a", "./b", "--repair"])
            .has("repaired; what stood there is in the trash");
        for side in [&pair.a, &pair.b] {
            assert_eq!(read_text(side.join("deep/b")), "content two");
        }
        assert_eq!(trashed(&root, "deep/b").len(), 1);
        assert_eq!(read_text(pair.b.join("c")), "content three");
        assert!(pair.a.join("a").exists() && !pair.a.join("new there").exists());
        pair.sync_expecting(0, &[]);
        pair.assert_settled();
        assert!(!pair.a.join("a").exists());
        assert_eq!(read_text(pair.b.join("c")), "edited here");
        verify(&pair, 0, &["./a", "./b"]);
    }
}

#[test]
fn a_repair_goes_over_a_remote_shell_in_both_directions() {
    for rotten in ["a", "b"] {
        let pair = Pair::agreed(FILES);
        let rsh = local_rsh(&pair.temp);
        let remote = format!("host:{}", pair.b.display());
        let over = ["-e", &rsh, "--psync-path", common::PSYNC, "./a", &remote];
        verify(&pair, 0, &over).has("both sides say the same");
        rot(&pair.temp.join(rotten), "a");
        write_file(pair.b.join("new there"), "new");
        let said = verify(&pair, 23, &over);
        said.has("rotted").has("--repair fetches it");
        verify(&pair, 0, &[&["--repair"], &over[..]].concat()).has("repaired");
        assert_eq!(read_text(pair.temp.join(rotten).join("a")), "content one");
        assert_eq!(trashed(&pair.temp.join(rotten), "a").len(), 1);
        pair.sync_expecting(0, &[]);
        pair.assert_settled();
    }
}

#[test]
fn what_rotted_on_both_sides_is_left_and_named() {
    let pair = Pair::agreed(FILES);
    rot(&pair.a, "a");
    rot(&pair.b, "a");
    let before = both(&pair);
    verify(&pair, 23, &["--repair", "./a", "./b"]).has("no good copy of it");
    assert_eq!(both(&pair), before);
}

#[test]
fn the_good_content_never_goes_to_a_side_that_was_named_as_the_good_one() {
    let pair = Pair::agreed(FILES);
    rot(&pair.a, "a");
    let before = both(&pair);
    verify(&pair, 23, &["--repair", "--from", "local", "./a", "./b"]).has("than --from says");
    assert_eq!(both(&pair), before);
    verify(&pair, 0, &["--repair", "--from=remote", "./a", "./b"]).has("repaired");
    assert_eq!(read_text(pair.a.join("a")), "content one");
}

#[test]
fn a_doubtful_content_is_repaired_only_when_the_good_side_is_named() {
    let pair = Pair::agreed(FILES);
    rot(&pair.a, "a");
    let index = rusqlite::Connection::open(pair.a.join(".psync/index.db")).unwrap();
    index.execute("UPDATE entries SET stamp = 0 WHERE path = ?1", [b"a".as_slice()]).unwrap();
    drop(index);
    let before = both(&pair);
    verify(&pair, 23, &["--repair", "./a", "./b"]).has("doubtful").has("with --from");
    assert_eq!(both(&pair), before);
    verify(&pair, 0, &["--repair", "--from", "remote", "./a", "./b"]).has("repaired");
    assert_eq!(read_text(pair.a.join("a")), "content one");
    pair.assert_settled();
}

#[test]
fn what_cannot_be_verified_is_refused_and_nothing_is_made() {
    let pair = Pair::new();
    verify(&pair, 11, &["./a"]).has("nothing was ever synced here");
    verify(&pair, 11, &["./a", "./b"]).has("nothing was ever synced here");
    assert!(!pair.a.join(".psync").exists() && !pair.b.join(".psync").exists());
    verify(&pair, 1, &["--repair", "./a"]).has("needs both sides");
    verify(&pair, 1, &["--from", "here", "./a", "./b"]).has("--from is local");
    pair.sync_to(0);
    let lock = fs::File::open(pair.a.join(".psync/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    verify(&pair, 41, &["./a"]).has("wait for it to finish");
}

#[test]
fn a_repair_does_not_hide_what_it_does_not_see_to() {
    let pair = Pair::agreed(FILES);
    fs::remove_file(pair.a.join("a")).unwrap();
    verify(&pair, 24, &["./a", "./b"]).has("missing");
    verify(&pair, 24, &["--repair", "./a", "./b"]).has("nothing to repair");
    rot(&pair.b, "c");
    verify(&pair, 24, &["--repair", "./a", "./b"]).has("repaired").has("missing");
    // Where permissions stop nobody, they do not stop the test either.
    let closed = pair.b.join("c");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&closed).is_err() {
        verify(&pair, 23, &["--repair", "./a", "./b"]).has("cannot be read");
    }
}

#[test]
fn a_repair_goes_where_no_sync_carries_changes_and_says_what_has_not_come() {
    let rules = [
        "mode = \"pull\"\n",
        "[[rule]]\npattern = \"a\"\nmode = \"off\"\n",
        "[[rule]]\npattern = \"a\"\nmax-size = \"1K\"\n",
    ];
    for rule in rules {
        let content = "x".repeat(2000);
        let pair = Pair::agreed(&[("a", &content), ("c", "")]);
        write_file(pair.a.join(".psync.toml"), rule);
        write_file(pair.b.join(".psync.toml"), rule);
        let rsh = local_rsh(&pair.temp);
        let remote = format!("host:{}", pair.b.display());
        let far = ["--repair", "-e", &rsh, "--psync-path", common::PSYNC, "./a", &remote];
        for over in [&far[..], &["--repair", "./a", "./b"]] {
            rot(&pair.b, "a");
            verify(&pair, 0, over).has("repaired");
            assert_eq!(read_text(pair.b.join("a")), content);
        }
    }
}

#[test]
fn what_a_filter_leaves_alone_is_not_set_aside_as_nothing_would_come_in_its_place() {
    for rotted in ["a", "b"] {
        let pair = Pair::agreed(FILES);
        let root = pair.temp.join(rotted);
        write_file(pair.a.join(".psyncignore"), "c\n");
        rot(&root, "c");
        rot(&root, "a");
        let before = fs::read(root.join("c")).unwrap();
        verify(&pair, 23, &["--repair", "./a", "./b"]).has("the filter 'c' leaves it alone");
        assert_eq!(fs::read(root.join("c")).unwrap(), before);
        assert_eq!(fs::read(pair.a.join("a")).unwrap(), fs::read(pair.b.join("a")).unwrap());
    }
}

#[test]
fn a_sync_says_what_to_do_about_a_file_that_rotted_before_the_other_side_had_it() {
    let pair = Pair::agreed(FILES);
    write_file(pair.a.join("new"), "content four");
    std::thread::sleep(std::time::Duration::from_millis(50));
    pair.sync_expecting(0, &["-n"]);
    pair.sync_expecting(0, &["-n"]);
    rot(&pair.a, "new");
    pair.sync_expecting(23, &[]).has("new: it has rotted").has("see psync verify");
    assert!(!pair.b.join("new").exists());
    // Somebody takes it as it is.
    fs::File::options()
        .write(true)
        .open(pair.a.join("new"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    pair.sync_to(0);
}

/// Three sessions, of which both roots have kept what was signed.
fn signed() -> Pair {
    let pair = Pair::agreed(FILES);
    for text in ["two", "three"] {
        write_file(pair.a.join("a"), text);
        pair.sync_to(0);
    }
    pair
}

fn spoil(root: &Path, change: &str) {
    let index = rusqlite::Connection::open(root.join(".psync/index.db")).unwrap();
    assert_eq!(index.execute(change, []).unwrap(), 1);
}

#[test]
fn what_both_roots_have_signed_holds() {
    let pair = signed();
    for root in ["./a", "./b"] {
        let said = verify(&pair, 0, &["--signatures", root]);
        said.has("all signatures hold").has("3 sessions kept");
    }
}

#[test]
fn a_chain_that_was_tampered_with_is_told_from_one_that_holds() {
    for change in [
        "UPDATE chain SET heard_signature = zeroblob(64) WHERE number = 2",
        "UPDATE chain SET heard = (SELECT heard FROM chain WHERE number = 1) WHERE number = 2",
        "DELETE FROM chain WHERE number = 2",
        "UPDATE signers SET key = zeroblob(32)",
    ] {
        let pair = signed();
        spoil(&pair.a, change);
        verify(&pair, 42, &["--signatures", "./a"]).has("NOT all signatures hold");
        verify(&pair, 0, &["--signatures", "./b"]).has("all signatures hold");
    }
}
