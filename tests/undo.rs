//! `psync undo`: random runs are taken back, and both trees are what they were.
//!
//!     cargo test --test undo
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::pair::{Pair, Said, names, trashed};
use common::tree::{Rng, Snapshot, assert_same_trees, differences, is_folder, set_mtime, snapshot};
use common::{
    PSYNC, TempDir, killed_before_rename, local_rsh, psync, psync_over, read_text, run, set_mode,
    write_file,
};

fn undo(temp: &TempDir, root: &Path, options: &[&str]) -> Command {
    let mut command = psync(temp);
    command.arg("undo").arg("--root").arg(root).args(options);
    command
}

#[track_caller]
fn assert_is(root: &Path, before: &Snapshot, what: &str) {
    let lines = differences(before, &snapshot(root));
    assert!(lines.is_empty(), "{what}: {} differs:\n{}", root.display(), lines.join("\n"));
}

/// Every path below a root, but for its `.psync`.
fn all_paths(root: &Path) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = |name: &Vec<u8>| root.join(std::ffi::OsStr::from_bytes(name));
    snapshot(root).keys().map(path).collect()
}

fn remove(path: &Path) {
    if is_folder(path) { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// A name that may be taken, in some folder of the tree.
fn some_place(root: &Path, rng: &mut Rng) -> PathBuf {
    let mut folders: Vec<PathBuf> = all_paths(root).into_iter().filter(|p| is_folder(p)).collect();
    folders.push(root.to_path_buf());
    let folder = rng.pick(&folders).clone();
    folder.join(*rng.pick(&["a", "b", "c", "d.txt", "e", "f g", "h\u{e9}", "-i", "j@2"]))
}

fn make(path: &Path, rng: &mut Rng) {
    match rng.below(8) {
        0 => symlink(rng.pick(&["a", "../b", "/nowhere", "c/d"]), path).unwrap(),
        1 => fs::create_dir(path).unwrap(),
        2 => write_file(path, ""),
        _ => {
            // Few contents, so that moves and copies are recognised, and mistaken.
            let text = format!("text {} ", rng.below(9)).repeat(1 + rng.below(40));
            write_file(path, text);
        }
    }
    if rng.chance(50) {
        set_mtime(path, (1_500_000_000 + rng.below(9_999) as i64) * 1_000_000_000 + 17);
    }
}

/// One change of the kind that people make.
fn change(root: &Path, rng: &mut Rng) {
    let paths = all_paths(root);
    let place = some_place(root, rng);
    let free = fs::symlink_metadata(&place).is_err();
    if paths.len() < 4 || rng.chance(25) {
        if free {
            make(&place, rng);
        }
        return;
    }
    let path = rng.pick(&paths).clone();
    let plain = fs::symlink_metadata(&path).unwrap().is_file();
    match rng.below(9) {
        0 => remove(&path),
        1 if free && !place.starts_with(&path) => fs::rename(&path, &place).unwrap(),
        2 if plain => set_mode(&path, *rng.pick(&[0o600, 0o644, 0o755, 0o440])),
        2 if is_folder(&path) => set_mode(&path, *rng.pick(&[0o700, 0o755, 0o750])),
        3 => {
            // It becomes another kind of thing, or the same with another content.
            remove(&path);
            make(&path, rng);
        }
        4 => set_mtime(&path, (1_600_000_000 + rng.below(9_999) as i64) * 1_000_000_000),
        5 if free && plain => drop(fs::copy(&path, &place).unwrap()),
        _ if plain => {
            let more = format!("{}edit {}\n", fs::read_to_string(&path).unwrap(), rng.below(99));
            fs::remove_file(&path).unwrap();
            write_file(&path, more);
        }
        _ => {}
    }
}

/// Ten runs of one pair, each taken back.
fn rounds(seed: u64) {
    let pair = Pair::new();
    let mut rng = Rng::new(seed);
    let mut undone = 0;
    while undone < 10 {
        let round = undone;
        for root in [&pair.a, &pair.b] {
            for _ in 0..1 + rng.below(7) {
                change(root, &mut rng);
            }
        }
        let before = [snapshot(&pair.a), snapshot(&pair.b)];
        let output = common::run(&mut pair.command(&["-v", "--max-delete=100%"]));
        let code = output.status.code().unwrap();
        let said = Said::from(&output);
        assert!([0, 40].contains(&code), "{seed}/{round}: {code}\n{}{}", said.out, said.err);
        assert_same_trees(&pair.a, &pair.b);
        if before[0] != snapshot(&pair.a) || before[1] != snapshot(&pair.b) {
            let root = if rng.chance(50) { &pair.a } else { &pair.b };
            let back = Said::of(&mut undo(&pair.temp, root, &[]), 0);
            let what = format!("{seed}/{round}\n{}{}\n{}", said.out, said.err, back.out);
            assert_is(&pair.a, &before[0], &what);
            assert_is(&pair.b, &before[1], &what);
            undone += 1;
        }
    }
    // What was undone is an ordinary change: both sides agree on it.
    common::run(&mut pair.command(&["--max-delete=100%"]));
    pair.assert_settled();
}

#[test]
fn two_hundred_random_runs_are_undone_first_part() {
    (0..5).for_each(rounds);
}

#[test]
fn two_hundred_random_runs_are_undone_second_part() {
    (5..10).for_each(rounds);
}

#[test]
fn two_hundred_random_runs_are_undone_third_part() {
    (10..15).for_each(rounds);
}

#[test]
fn two_hundred_random_runs_are_undone_fourth_part() {
    (15..20).for_each(rounds);
}

#[test]
fn an_undo_can_be_undone_and_then_the_run_can_be_undone_again() {
    let pair = Pair::agreed(&[("f", "old"), ("gone", "soon")]);
    let before = snapshot(&pair.b);
    write_file(pair.a.join("f"), "new");
    fs::remove_file(pair.a.join("gone")).unwrap();
    pair.sync_to(0);
    let after = snapshot(&pair.b);
    Said::of(&mut undo(&pair.temp, &pair.b, &[]), 0).has("put back 2 paths here, 0 there");
    assert_is(&pair.b, &before, "undone");
    let said = Said::of(&mut undo(&pair.temp, &pair.a, &[]), 1);
    said.has("was undone already");
    let by = said.err.split("psync undo ").nth(1).unwrap().trim().to_string();
    Said::of(&mut undo(&pair.temp, &pair.a, &[&by]), 0);
    assert_is(&pair.b, &after, "the undo undone");
    Said::of(&mut undo(&pair.temp, &pair.a, &[]), 0);
    assert_is(&pair.b, &before, "undone again");
}

#[test]
fn the_next_sync_carries_an_undo_to_the_side_that_had_made_the_change() {
    let pair = Pair::agreed(&[("f", "old")]);
    write_file(pair.a.join("f"), "new");
    write_file(pair.a.join("added"), "here");
    pair.sync_to(0);
    Said::of(&mut undo(&pair.temp, &pair.a, &[]), 0);
    assert_eq!(names(&pair.a), ["added", "f"]);
    pair.sync_to(0);
    assert_eq!(names(&pair.a), ["f"]);
    assert_eq!(read_text(pair.a.join("f")), "old");
    assert_eq!(trashed(&pair.a, "added"), ["here"]);
    assert_eq!(trashed(&pair.a, "f"), ["new"]);
}

#[test]
fn a_path_that_was_changed_since_is_named_and_nothing_is_undone() {
    let pair = Pair::agreed(&[("f", "old"), ("g", "old too")]);
    write_file(pair.a.join("f"), "new");
    write_file(pair.a.join("g"), "new too");
    pair.sync_to(0);
    write_file(pair.b.join("f"), "newer");
    let before = [snapshot(&pair.a), snapshot(&pair.b)];
    for root in [&pair.a, &pair.b] {
        let said = Said::of(&mut undo(&pair.temp, root, &[]), 41);
        said.has("f: it was changed since").has("nothing was changed");
        said.has_not("g: ");
    }
    assert_is(&pair.a, &before[0], "refused");
    assert_is(&pair.b, &before[1], "refused");
    Said::of(&mut undo(&pair.temp, &pair.a, &["--partial"]), 0).has("1 there");
    assert_eq!(read_text(pair.b.join("f")), "newer");
    assert_eq!(read_text(pair.b.join("g")), "old too");
}

#[test]
fn a_path_that_was_changed_since_where_the_change_came_from_is_named_too() {
    let pair = Pair::agreed(&[("f", "old"), ("g", "old too")]);
    write_file(pair.a.join("f"), "new");
    write_file(pair.a.join("g"), "new too");
    pair.sync_to(0);
    write_file(pair.a.join("f"), "newer");
    for root in [&pair.a, &pair.b] {
        Said::of(&mut undo(&pair.temp, root, &[]), 41).has("f: it was changed since");
    }
    Said::of(&mut undo(&pair.temp, &pair.a, &["--partial"]), 0);
    assert_eq!(read_text(pair.b.join("f")), "new");
    assert_eq!(read_text(pair.b.join("g")), "old too");
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("f")), "newer");
}

#[test]
fn through_a_remote_shell_what_one_side_leaves_the_other_leaves_too() {
    let temp = TempDir::new();
    let (a, b) = (temp.folder("a"), temp.folder("b"));
    for name in ["ours", "theirs", "both"] {
        write_file(a.join(name), "old");
    }
    let rsh = local_rsh(&temp);
    let sync = || {
        let mut command = psync_over(&temp, &rsh);
        command.arg(&a).arg(format!("host:{}", b.display()));
        Said::of(&mut command, 0)
    };
    sync();
    write_file(a.join("ours"), "new");
    write_file(b.join("theirs"), "new");
    write_file(a.join("both"), "new");
    sync();
    // Each is changed since on the side that the run did not touch.
    write_file(a.join("ours"), "newer");
    write_file(b.join("theirs"), "newer");
    let said = Said::of(&mut undo(&temp, &a, &[]), 41);
    said.has("here: ours: it was changed since").has("there: theirs: it was changed since");
    assert_eq!(read_text(b.join("both")), "new");
    let said = Said::of(&mut undo(&temp, &a, &["--partial"]), 0);
    said.has("put back 0 paths here, 1 there");
    assert_eq!(read_text(b.join("both")), "old");
    assert_eq!([read_text(b.join("ours")), read_text(a.join("theirs"))], ["new", "new"]);
    sync();
    assert_same_trees(&a, &b);
    assert_eq!(read_text(a.join("ours")), "newer");
}

#[test]
fn a_directory_that_holds_something_new_since_is_not_taken_away() {
    let pair = Pair::new();
    write_file(pair.a.join("dir/f"), "text");
    pair.sync_to(0);
    write_file(pair.b.join("dir/mine"), "since");
    let said = Said::of(&mut undo(&pair.temp, &pair.b, &[]), 41);
    said.has("dir: the directory holds mine");
    assert_eq!(names(&pair.b.join("dir")), ["f", "mine"]);
}

#[test]
fn what_is_kept_nowhere_any_more_is_named_and_nothing_is_undone() {
    let pair = Pair::agreed(&[("f", "old")]);
    write_file(pair.a.join("f"), "new");
    pair.sync_to(0);
    fs::remove_dir_all(pair.b.join(".psync/trash")).unwrap();
    fs::remove_dir_all(pair.b.join(".psync/store")).unwrap();
    let said = Said::of(&mut undo(&pair.temp, &pair.b, &[]), 41);
    said.has("f: its old content is kept nowhere any more");
    assert_eq!(read_text(pair.b.join("f")), "new");
}

#[test]
fn a_dry_run_shows_what_would_be_put_back_and_does_nothing() {
    let pair = Pair::agreed(&[("f", "old")]);
    write_file(pair.a.join("f"), "new");
    pair.sync_to(0);
    let before = snapshot(&pair.b);
    let said = Said::of(&mut undo(&pair.temp, &pair.a, &["-n"]), 0);
    said.has_line("  there  update  f");
    assert_is(&pair.b, &before, "a dry run");
    Said::of(&mut undo(&pair.temp, &pair.a, &[]), 0);
}

#[test]
fn without_a_run_or_with_an_unknown_one_nothing_happens() {
    let pair = Pair::new();
    let said = Said::of(&mut undo(&pair.temp, &pair.a, &[]), 11);
    said.has("nothing was ever synced here");
    pair.sync_to(0);
    Said::of(&mut undo(&pair.temp, &pair.a, &[]), 1).has("nothing to undo");
    Said::of(&mut undo(&pair.temp, &pair.a, &["77"]), 1).has("there is no run 77");
    Said::of(&mut undo(&pair.temp, &pair.a, &["../x"]), 1).has("there is no run");
}

#[test]
fn the_other_end_is_reached_through_the_remote_shell_of_the_run() {
    let temp = TempDir::new();
    let (a, b) = (temp.folder("a"), temp.folder("the other's b"));
    write_file(a.join("f"), "old");
    let rsh = local_rsh(&temp);
    let far = format!("host:{}", b.display());
    let sync = || {
        let mut command = psync_over(&temp, &rsh);
        command.arg(&a).arg(&far);
        Said::of(&mut command, 0)
    };
    sync();
    let before = snapshot(&b);
    write_file(a.join("f"), "new");
    write_file(a.join("n\u{e9}w \u{1b}"), "x");
    sync();
    let dry = Said::of(&mut undo(&temp, &a, &["--dry-run", "--json"]), 0);
    assert_eq!(dry.objects_of("change").len(), 2);
    Said::of(&mut undo(&temp, &a, &[]), 0).has("put back 0 paths here, 2 there");
    assert_is(&b, &before, PSYNC);
    sync();
    // The other end does not know how to reach this one.
    write_file(a.join("f"), "newest");
    sync();
    let said = Said::of(&mut undo(&temp, &b, &[]), 1);
    said.has("--only-here");
    Said::of(&mut undo(&temp, &b, &["--only-here"]), 0).has("1 path here");
    assert_eq!(read_text(b.join("f")), "old", "not the newest");
}

#[test]
fn a_run_that_was_killed_can_be_undone() {
    let pair = Pair::agreed(&[("f", "old")]);
    let before = snapshot(&pair.b);
    write_file(pair.a.join("f"), "new");
    write_file(pair.a.join("g"), "created");
    pair.sync_to(0);
    // As a run leaves it that is killed after its last rename, and before it is confirmed.
    let journal = rusqlite::Connection::open(pair.b.join(".psync/journal.db")).unwrap();
    let sql = "UPDATE runs SET ended = NULL, confirmed = 0 WHERE number =
               (SELECT max(run) FROM deeds)";
    assert_eq!(journal.execute(sql, []).unwrap(), 1);
    drop(journal);
    Said::of(&mut undo(&pair.temp, &pair.b, &[]), 0).has("put back 2 paths here");
    assert_is(&pair.b, &before, "an interrupted run");
}

#[test]
fn an_undo_that_was_killed_is_finished_before_anything_reads_the_root() {
    let (mut kills, mut undone) = (0, 0);
    for rename in 1.. {
        let pair = Pair::agreed(&[("f", "old"), ("g", "going"), ("d/h", "moved"), ("k", "kind")]);
        let before = snapshot(&pair.b);
        write_file(pair.a.join("f"), "new");
        fs::remove_file(pair.a.join("g")).unwrap();
        fs::rename(pair.a.join("d"), pair.a.join("e")).unwrap();
        fs::remove_file(pair.a.join("k")).unwrap();
        write_file(pair.a.join("k/in"), "a folder now");
        write_file(pair.a.join("n/created"), "created");
        symlink("f", pair.a.join("link")).unwrap();
        pair.sync_to(0);
        let after = snapshot(&pair.b);
        let command = undo(&pair.temp, &pair.b, &["--only-here"]);
        if run(&mut killed_before_rename(&command, rename)).status.success() {
            break;
        }
        kills += 1;
        let mut command = psync(&pair.temp);
        command.arg(&pair.b).arg(pair.temp.join("c"));
        let said = Said::of(&mut command, 0);
        let is_now = |then: &Snapshot| differences(then, &snapshot(&pair.b)).is_empty();
        undone += usize::from(is_now(&before));
        assert!(is_now(&before) || is_now(&after), "rename {rename}: {}", said.out);
        assert_same_trees(&pair.b, &pair.temp.join("c"));
    }
    assert!(kills > 5 && undone > 3, "{kills} {undone}");
}

#[test]
fn an_undone_clash_is_a_conflict_again_and_neither_side_is_overwritten() {
    let pair = Pair::new();
    write_file(pair.a.join("f"), "agreed");
    pair.sync_to(0);
    write_file(pair.a.join("f"), "of a");
    write_file(pair.b.join("f"), "of b");
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    pair.sync_to(40);
    Said::of(&mut undo(&pair.temp, &pair.a, &[]), 0);
    assert_is(&pair.a, &before.0, "a");
    assert_is(&pair.b, &before.1, "b");
    pair.sync_to(40);
    assert_same_trees(&pair.a, &pair.b);
    let mut texts: Vec<String> =
        names(&pair.a).iter().map(|name| read_text(pair.a.join(name))).collect();
    texts.sort();
    assert_eq!(texts, ["of a", "of b"]);
    pair.sync_to(0);
}

#[test]
fn the_undo_of_an_undo_is_refused_where_the_other_side_cannot_be_reached() {
    let temp = TempDir::new();
    let (a, b) = (temp.folder("a"), temp.folder("b"));
    let rsh = local_rsh(&temp);
    write_file(a.join("f"), "new");
    let mut sync = psync_over(&temp, &rsh);
    Said::of(sync.arg(&a).arg(format!("host:{}", b.display())), 0);
    Said::of(&mut undo(&temp, &a, &[]), 0);
    // On both sides the run was the first, and its undo the second.
    let before = [snapshot(&a), snapshot(&b)];
    Said::of(&mut undo(&temp, &b, &["2"]), 1).has("was started at the other end");
    assert_eq!(before, [snapshot(&a), snapshot(&b)]);
    Said::of(&mut undo(&temp, &a, &["2"]), 0);
    assert_eq!(read_text(b.join("f")), "new");
}
