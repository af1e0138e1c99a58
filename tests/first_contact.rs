//! Two populated roots that meet for the first time, or have lost touch: equal trees cost next to
//! nothing, others what differs; and afterwards both know all that they agreed on.
//!
//!     cargo test --test first_contact
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::pair::{Pair, Said, clash_names};
use common::tree::{Rng, assert_same_trees, set_mtime};
use common::{TempDir, psync, read_text, run_ok, set_mode, write_file};
use psync_protocol::ContentHash;

/// Enough files that a digest stands for them.
const FILES: usize = 400;

fn name(number: usize) -> String {
    format!("dir {}/file {number:03}", number % 7)
}

/// A tree of many small files, some years old.
fn grow(root: &Path) {
    for number in 0..FILES {
        let path = root.join(name(number));
        write_file(&path, format!("the text of file {number}"));
        set_mtime(&path, 1_500_000_000_000_000_000 + number as i64 * 1_000_000_007);
    }
    std::os::unix::fs::symlink("file 003", root.join("dir 3/link")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
}

/// Copies what is in a folder; with its times, if they are to be the same.
fn copy(from: &Path, to: &Path, times: bool) {
    let option = if times { "-a" } else { "-r" };
    run_ok(Command::new("cp").arg(option).arg("-T").arg(from).arg(to));
}

fn equal_pair(times: bool) -> Pair {
    let pair = Pair::new();
    grow(&pair.a);
    copy(&pair.a, &pair.b, times);
    pair
}

/// Changes of every kind on both sides; none of them is a conflict, nor comes back.
#[track_caller]
fn changes_are_known_as_such(pair: &Pair) {
    write_file(pair.a.join(name(1)), "edited in a");
    write_file(pair.b.join(name(2)), "edited in b");
    fs::remove_file(pair.a.join(name(3))).unwrap();
    fs::remove_file(pair.b.join(name(4))).unwrap();
    fs::rename(pair.a.join(name(5)), pair.a.join("moved by a")).unwrap();
    fs::rename(pair.b.join(name(6)), pair.b.join("moved by b")).unwrap();
    set_mode(&pair.a.join(name(8)), 0o600);
    // Older than it was: only whoever knows that it was agreed takes it.
    set_mtime(&pair.b.join(name(9)), 1_000_000_000_000_000_000);
    fs::remove_dir(pair.a.join("empty")).unwrap();
    pair.sync_to(0);
    for root in [&pair.a, &pair.b] {
        assert_eq!(read_text(root.join(name(1))), "edited in a");
        assert_eq!(read_text(root.join(name(2))), "edited in b");
        for gone in [name(3), name(4), name(5), name(6), "empty".into()] {
            assert!(!root.join(&gone).exists(), "{gone}");
        }
        assert!(root.join("moved by a").exists() && root.join("moved by b").exists());
        let modified = fs::metadata(root.join(name(9))).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_000_000_000);
        assert_eq!(clash_names(root), [""; 0]);
    }
}

#[test]
fn equal_trees_agree_for_few_bytes_and_know_it() {
    let pair = equal_pair(true);
    let bytes = pair.sync_expecting(0, &["--json"]).bytes_on_the_line();
    assert!(bytes < 1000, "{bytes} bytes");
    pair.assert_settled();
    changes_are_known_as_such(&pair);
}

#[test]
fn trees_that_differ_in_times_alone_cost_no_rows() {
    let pair = equal_pair(false);
    set_mode(&pair.b.join(name(10)), 0o600);
    let said = pair.sync_expecting(0, &["--json"]);
    let bytes = said.bytes_on_the_line();
    // Without compression: an old time and a new one for each file, and no more.
    assert!(bytes < 24 * FILES as u64, "{bytes} bytes");
    pair.assert_settled();
    changes_are_known_as_such(&pair);
}

#[test]
fn trees_that_differ_pay_for_what_differs() {
    let pair = equal_pair(true);
    write_file(pair.a.join(name(20)), "of a, longer");
    set_mtime(&pair.a.join(name(20)), 1_700_000_000_000_000_000);
    write_file(pair.a.join("only a"), "only a");
    write_file(pair.b.join("only b"), "only b");
    fs::remove_file(pair.b.join(name(21))).unwrap();
    let said = pair.sync_expecting(40, &["--json"]);
    let bytes = said.bytes_on_the_line();
    assert!(bytes < 9_000, "{bytes} bytes");
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(read_text(pair.b.join(name(20))), "of a, longer");
    for root in [&pair.a, &pair.b] {
        assert_eq!(clash_names(&root.join("dir 6")).len(), 1, "the other content is kept");
        assert!(root.join("only a").exists() && root.join("only b").exists());
        assert!(root.join(name(21)).exists(), "a first contact deletes nothing");
    }
    pair.sync_expecting(0, &[]).has("nothing to do");
    changes_are_known_as_such(&pair);
}

#[test]
fn a_mirror_makes_the_other_side_the_same_whatever_it_has() {
    for way in ["push", "pull"] {
        let pair = equal_pair(false);
        let (from, to) = if way == "push" { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        write_file(from.join(name(30)), "from the source");
        write_file(to.join(name(31)), "not from the source");
        write_file(to.join("only there"), "goes away");
        pair.sync_expecting(0, &["--mirror", way]);
        assert_same_trees(&pair.a, &pair.b);
        assert_eq!(read_text(to.join(name(30))), "from the source");
        assert!(!to.join("only there").exists());
        pair.sync_expecting(0, &["--mirror", way]).has("nothing to do");
    }
}

#[test]
fn an_empty_root_is_filled() {
    let pair = Pair::new();
    grow(&pair.a);
    pair.sync_expecting(0, &["-n"]);
    assert!(!pair.b.join(name(1)).exists(), "a dry run fills nothing");
    pair.sync_to(0);
    changes_are_known_as_such(&pair);
    let pair = Pair::new();
    grow(&pair.b);
    pair.sync_to(0);
    changes_are_known_as_such(&pair);
}

#[test]
fn an_empty_root_is_filled_by_a_mirror_and_empties_none() {
    let pair = Pair::new();
    grow(&pair.a);
    pair.sync_expecting(0, &["--mirror", "push"]);
    assert_same_trees(&pair.a, &pair.b);
    let pair = Pair::new();
    grow(&pair.a);
    pair.sync_expecting(41, &["--mirror", "pull"]);
    assert!(pair.a.join(name(1)).exists());
}

#[test]
fn a_filter_that_changes_makes_two_that_know_each_other_compare_their_trees() {
    let pair = equal_pair(true);
    write_file(pair.a.join("note.tmp"), "a");
    pair.sync_to(0);
    let bytes = pair.sync_expecting(0, &["--json", "--exclude=*.tmp"]).bytes_on_the_line();
    assert!(bytes < 1500, "{bytes} bytes");
    fs::remove_file(pair.a.join(name(40))).unwrap();
    fs::remove_file(pair.a.join("note.tmp")).unwrap();
    pair.sync_expecting(0, &["--exclude=*.tmp"]);
    assert!(!pair.b.join(name(40)).exists());
    assert!(pair.b.join("note.tmp").exists());
    pair.sync_expecting(0, &[]);
    assert!(!pair.b.join("note.tmp").exists(), "its deletion was not forgotten");
    pair.assert_settled();
}

#[test]
fn what_one_side_ignores_or_cannot_read_is_not_taken_for_common() {
    let pair = equal_pair(true);
    write_file(pair.a.join(".psyncignore"), "*050\n");
    let blocked = pair.b.join(name(51));
    fs::remove_file(&blocked).unwrap();
    run_ok(Command::new("mkfifo").arg(&blocked));
    pair.sync_expecting(0, &[]);
    fs::remove_file(pair.a.join(name(50))).unwrap();
    fs::remove_file(pair.a.join(name(51))).unwrap();
    fs::remove_file(&blocked).unwrap();
    write_file(&blocked, "readable");
    pair.sync_expecting(0, &[]);
    assert_eq!(read_text(pair.a.join(name(51))), "readable");
    assert!(pair.b.join(name(50)).exists(), "ignored, not deleted");
    assert!(!pair.a.join(name(50)).exists());
}

/// Several roots, each a copy of the first.
struct Copies {
    temp: TempDir,
    roots: Vec<PathBuf>,
}

impl Copies {
    fn new(count: usize) -> Copies {
        let temp = TempDir::new();
        let roots: Vec<PathBuf> =
            (0..count).map(|number| temp.folder(format!("root {number}"))).collect();
        grow(&roots[0]);
        for root in &roots[1..] {
            copy(&roots[0], root, true);
        }
        Copies { temp, roots }
    }

    #[track_caller]
    fn sync(&self, from: usize, to: usize) -> Said {
        let mut command = psync(&self.temp);
        Said::of(command.arg("-v").arg(&self.roots[from]).arg(&self.roots[to]), 0)
    }
}

#[test]
fn equal_trees_that_met_in_a_ring_never_clash_and_bring_nothing_back() {
    let ring = Copies::new(3);
    let lines = [(0, 1), (1, 2), (2, 0)];
    for (from, to) in lines {
        ring.sync(from, to);
    }
    for (number, root) in ring.roots.iter().enumerate() {
        write_file(root.join(name(60 + number)), format!("edited in {number}"));
        fs::remove_file(root.join(name(70 + number))).unwrap();
        fs::rename(root.join(name(80 + number)), root.join(format!("moved in {number}"))).unwrap();
    }
    for (from, to) in lines.into_iter().chain(lines).chain(lines) {
        ring.sync(from, to);
    }
    for root in &ring.roots {
        assert_same_trees(&ring.roots[0], root);
        assert_eq!(clash_names(root), [""; 0]);
        for number in 0..3 {
            assert_eq!(read_text(root.join(name(60 + number))), format!("edited in {number}"));
            assert!(!root.join(name(70 + number)).exists());
            assert!(!root.join(name(80 + number)).exists());
        }
    }
    for (from, to) in lines {
        ring.sync(from, to).has("nothing to do");
    }
}

#[test]
fn a_deletion_is_told_to_a_root_that_had_the_file_from_another() {
    // 0 and 1 agree, 1 and 2 agree; then 0 and 2 meet for the first time, and 0 has deleted a file
    // that came to 2 in the version that 0 knew.
    let net = Copies::new(3);
    net.sync(0, 1);
    net.sync(1, 2);
    fs::remove_file(net.roots[0].join(name(90))).unwrap();
    write_file(net.roots[0].join(name(91)), "edited since");
    net.sync(0, 1);
    net.sync(1, 2);
    assert!(!net.roots[2].join(name(90)).exists());
    net.sync(2, 0);
    for root in &net.roots {
        assert!(!root.join(name(90)).exists(), "it has not come back");
        assert_eq!(read_text(root.join(name(91))), "edited since");
        assert_eq!(clash_names(root), [""; 0]);
    }
    net.sync(0, 2).has("nothing to do");
}

#[test]
fn more_files_are_asked_for_by_block_hashes_than_a_process_may_have_open() {
    let pair = Pair::new();
    for number in 0..400 {
        let text: Vec<u8> = (0..30u32)
            .flat_map(|part| ContentHash::of_bytes(&[number as u8, part as u8]).0)
            .collect();
        write_file(pair.a.join(format!("{number}")), &text);
        write_file(pair.b.join(format!("{number}")), &text[..600]);
    }
    let mut command = std::process::Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 128; exec \"$0\" --mirror push --no-store a b")
        .arg(env!("CARGO_BIN_EXE_psync"))
        .current_dir(pair.temp.path());
    let said = Said::of(&mut command, 0);
    said.has("400 updated");
    pair.assert_settled();
}

/// Finer hashes of half a gigabyte, of which little was found at first, fit into no single flight.
#[test]
fn many_files_that_differ_all_over_take_as_many_flights_as_their_hashes_need() {
    const FILES: usize = 68;
    const LENGTH: usize = 8 << 20;
    let pair = Pair::new();
    let mut rng = Rng::new(9);
    for number in 0..FILES {
        let mut content = rng.bytes(LENGTH);
        write_file(pair.b.join(format!("{number}")), &content);
        // Blocks of a few hundred bytes are equal, and of longer ones the first hundred.
        content.iter_mut().skip(100 << 10).step_by(700).for_each(|byte| *byte = !*byte);
        write_file(pair.a.join(format!("{number}")), &content);
    }
    pair.sync_expecting(0, &["--mirror", "push"]);
    assert_same_trees(&pair.a, &pair.b);
}
