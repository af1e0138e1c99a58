//! What belongs together - a SQLite database with its journals, a `.git` folder - is settled and
//! published together, and not while a program has it open.
//!
//!     cargo test --test units
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::pair::{Pair, Said, clash_names, names};
use common::tree::{snapshot, sorted_entries};
use common::{killed_before_rename, psync, read_text, run, write_file};
use rusqlite::Connection;

/// A database with one table and these rows, closed.
fn database(path: &Path, rows: std::ops::Range<i64>) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t(x INTEGER)").unwrap();
    for row in rows {
        db.execute("INSERT INTO t VALUES(?1)", [row]).unwrap();
    }
}

fn sum(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_database_that_is_open_with_changes_in_its_journal_waits_until_it_is_at_rest() {
    let pair = Pair::new();
    database(&pair.a.join("x.db"), 0..10);
    pair.sync_to(0);
    let db = Connection::open(pair.a.join("x.db")).unwrap();
    db.execute("INSERT INTO t VALUES(1000)", []).unwrap();
    assert!(pair.a.join("x.db-wal").exists());
    write_file(pair.a.join("other"), "goes on its way");
    pair.sync_expecting(24, &[]).has("x.db: the database is in use by another program");
    assert!(pair.b.join("other").exists() && !pair.b.join("x.db-wal").exists());
    assert_eq!(sum(&pair.b.join("x.db")), 45);
    drop(db);
    pair.sync_expecting(0, &[]);
    assert_eq!(sum(&pair.b.join("x.db")), 1045);
    pair.assert_settled();
}

#[test]
fn a_database_that_is_open_on_the_other_side_is_not_replaced_under_its_program() {
    let pair = Pair::new();
    database(&pair.a.join("x.db"), 0..10);
    pair.sync_to(0);
    database(&pair.a.join("x.db"), 100..101);
    let db = Connection::open(pair.b.join("x.db")).unwrap();
    let _: i64 = db.query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap();
    pair.sync_expecting(24, &[]).has("x.db is in use by another program");
    assert_eq!(sum(&pair.b.join("x.db")), 45);
    drop(db);
    pair.sync_expecting(0, &[]);
    assert_eq!(sum(&pair.b.join("x.db")), 145);
}

const GIT: &[(&str, &str)] = &[
    ("p/.git/HEAD", "ref: refs/heads/main"),
    ("p/.git/index", "index one"),
    ("p/.git/refs/heads/main", "commit one"),
    ("p/source", "text"),
];

#[test]
fn a_git_folder_changed_on_both_sides_is_one_conflict_and_nothing_of_it_is_touched() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/index"), "index, of a commit here");
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two, made here");
    write_file(pair.b.join("p/.git/index"), "index of another commit, there");
    write_file(pair.b.join("p/.git/objects/ab/cdef"), "an object made there");
    write_file(pair.a.join("p/source"), "text, edited");
    let git = |root: &Path| snapshot(&root.join("p/.git"));
    let before = (git(&pair.a), git(&pair.b));
    let said = pair.sync_expecting(40, &["--json"]);
    let conflicts = said.objects_of("conflict");
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert!(conflicts[0]["outcome"].as_str().unwrap().starts_with("held: p/.git belongs together"));
    assert_eq!((git(&pair.a), git(&pair.b)), before);
    assert_eq!(read_text(pair.b.join("p/source")), "text, edited");
    // It waits for as long as it has to.
    pair.sync_expecting(40, &[]);
    assert_eq!((git(&pair.a), git(&pair.b)), before);
    // Somebody makes one side like the other, and it is over.
    fs::remove_dir_all(pair.a.join("p/.git")).unwrap();
    std::process::Command::new("cp")
        .arg("-a")
        .arg(pair.b.join("p/.git"))
        .arg(pair.a.join("p/.git"))
        .status()
        .unwrap();
    pair.sync_expecting(0, &[]);
    pair.assert_settled();
}

#[test]
fn changes_to_different_files_of_a_git_folder_are_a_conflict_too() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two, made here");
    write_file(pair.b.join("p/.git/index"), "index, staged there");
    pair.sync_expecting(40, &[]).has("p/.git belongs together");
    assert_eq!(read_text(pair.a.join("p/.git/index")), "index one");
    assert_eq!(read_text(pair.b.join("p/.git/refs/heads/main")), "commit one");
    assert!(clash_names(&pair.a.join("p/.git")).is_empty());
}

#[test]
fn a_policy_for_a_side_settles_a_unit_as_a_whole() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two, made here");
    write_file(pair.b.join("p/.git/index"), "index, staged there");
    write_file(pair.b.join("p/.git/objects/ab/cdef"), "an object made there");
    pair.sync_expecting(0, &["--policy", "local"]);
    assert_eq!(names(&pair.b.join("p/.git")), ["HEAD", "index", "refs"]);
    assert_eq!(read_text(pair.a.join("p/.git/index")), "index one");
    assert_eq!(read_text(pair.b.join("p/.git/refs/heads/main")), "commit two, made here");
    pair.assert_settled();
}

#[test]
fn a_plan_is_carried_out_for_a_unit_as_a_whole_or_not_at_all() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two");
    write_file(pair.a.join("p/.git/index"), "index two");
    write_file(pair.a.join("p/source"), "text, edited");
    let psync = |words: &[&str], code| {
        let mut command = psync(&pair.temp);
        Said::of(command.args(words).current_dir(pair.temp.path()), code)
    };
    psync(&["plan", "./a", "./b", "-o", "file"], 0);
    write_file(pair.a.join("p/.git/index"), "index three");
    psync(&["apply", "file"], 24).has("p/.git/refs/heads/main: depends on a path");
    assert_eq!(read_text(pair.b.join("p/.git/refs/heads/main")), "commit one");
    assert_eq!(read_text(pair.b.join("p/source")), "text, edited");
    pair.sync_to(0);
}

#[test]
fn folders_of_the_settings_are_units_too() {
    let pair = Pair::agreed(&[("d/a.bundle/1", "1"), ("d/a.bundle/2", "2")]);
    write_file(pair.temp.join("home/.config/psync/psync.toml"), "units = ['*.bundle']\n");
    write_file(pair.a.join("d/a.bundle/1"), "1, edited");
    write_file(pair.b.join("d/a.bundle/2"), "2, edited");
    pair.sync_expecting(40, &[]).has("d/a.bundle belongs together");
    assert_eq!(read_text(pair.b.join("d/a.bundle/1")), "1");
}

#[test]
fn a_git_folder_changed_on_one_side_goes_to_the_other_as_any_folder() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/index"), "index two");
    write_file(pair.a.join("p/.git/objects/12/34"), "object");
    fs::remove_file(pair.a.join("p/.git/refs/heads/main")).unwrap();
    write_file(pair.b.join("p/source"), "edited there");
    pair.sync_to(0);
    fs::remove_dir_all(pair.b.join("p/.git")).unwrap();
    pair.sync_to(0);
    assert_eq!(names(&pair.a.join("p")), ["source"]);
}

#[test]
fn nothing_of_a_folder_is_published_where_one_part_cannot_be_read() {
    if rustix::process::geteuid().is_root() {
        // Root reads everything: a part that changes while it is read is tested elsewhere.
        return;
    }
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/index"), "index two");
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two");
    let path = pair.a.join("p/.git/refs/heads/main");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    pair.sync_expecting(23, &[]);
    assert_eq!(read_text(pair.b.join("p/.git/index")), "index one");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("p/.git/index")), "index two");
}

#[test]
fn a_database_changed_on_both_sides_is_never_put_together_of_two() {
    let pair = Pair::agreed(&[("x.db", "database"), ("x.db-wal", "journal"), ("y", "1")]);
    write_file(pair.a.join("x.db-wal"), "journal, written here");
    write_file(pair.b.join("x.db"), "database, checkpointed there");
    write_file(pair.a.join("y"), "2");
    let said = pair.sync_expecting(40, &["--json"]);
    let conflicts = said.objects_of("conflict");
    assert_eq!((conflicts.len(), &conflicts[0]["path"]), (1, &"x.db".into()));
    assert_eq!(read_text(pair.a.join("x.db")), "database");
    assert_eq!(read_text(pair.b.join("x.db-wal")), "journal");
    assert_eq!(read_text(pair.b.join("y")), "2");
    // A mirror is asked for by name.
    pair.sync_expecting(0, &["--mirror=push"]);
    assert_eq!(read_text(pair.b.join("x.db")), "database");
    assert_eq!(read_text(pair.b.join("x.db-wal")), "journal, written here");
    pair.assert_settled();
}

/// Every file below a folder as text, and every link, but for what psync keeps.
fn texts(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    add_texts(root, "", &mut found);
    found
}

fn add_texts(folder: &Path, above: &str, found: &mut BTreeMap<String, String>) {
    for path in sorted_entries(folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if name == ".psync" {
        } else if kind.is_dir() {
            add_texts(&path, &format!("{above}{name}/"), found);
        } else if kind.is_symlink() {
            found.insert(format!("{above}{name}"), format!("{:?}", fs::read_link(&path).unwrap()));
        } else {
            found.insert(format!("{above}{name}"), read_text(path));
        }
    }
}

/// Syncs, and kills psync before its so manieth rename; says whether it needed no more than those
/// before, and came to its end.
fn killed_at_rename(pair: &Pair, rename: usize) -> bool {
    run(&mut killed_before_rename(&pair.command(&[]), rename)).status.success()
}

/// What becomes of a unit in a root when a run that changes it is killed before its renames, one
/// after the other: whoever opens the root next finds all of it old, or all of it new.
fn kill_at_each_rename(files: &[(&str, &str)], change: impl Fn(&Path)) -> usize {
    let (mut in_parts, mut kills) = (0, 0);
    for rename in 1.. {
        let pair = Pair::agreed(files);
        let before = texts(&pair.b);
        change(&pair.a);
        let after = texts(&pair.a);
        if killed_at_rename(&pair, rename) {
            break;
        }
        kills += 1;
        let left = texts(&pair.b);
        in_parts += usize::from(left != before && left != after);
        // A third root shows what the next run sees.
        let mut command = psync(&pair.temp);
        command.args(["./b", "./c"]).current_dir(pair.temp.path());
        Said::of(&mut command, 0);
        let seen = texts(&pair.temp.join("c"));
        assert!(seen == before || seen == after, "rename {rename}: {left:#?}, then {seen:#?}");
        assert_eq!(texts(&pair.b), seen, "rename {rename}");
        if seen == after {
            let kept: Vec<String> = texts(&pair.b.join(".psync/trash")).into_values().collect();
            let gone = before.iter().filter(|(path, text)| after.get(*path) != Some(text));
            gone.for_each(|(path, text)| {
                let moved = after.values().any(|other| other == text);
                assert!(moved || kept.contains(text), "{path} is not in the trash: {kept:#?}")
            });
        }
        pair.sync_to(0);
        assert_eq!(texts(&pair.b), after);
    }
    assert!(kills > 2, "only {kills} renames");
    in_parts
}

#[test]
fn a_database_that_was_half_replaced_when_psync_was_killed_is_whole_before_anything_reads_it() {
    let files = [("x.db", "database"), ("x.db-wal", "journal"), ("x.db-shm", "index")];
    let in_parts = kill_at_each_rename(&files, |root| {
        // A large one is built in the stage under another kind of name.
        write_file(root.join("x.db"), "database, newer ".repeat(50_000));
        write_file(root.join("x.db-wal"), "journal, of the newer one");
        fs::remove_file(root.join("x.db-shm")).unwrap();
        write_file(root.join("x.db-journal"), "another journal");
    });
    assert!(in_parts > 0);
}

#[test]
fn a_git_folder_that_was_half_replaced_when_psync_was_killed_is_whole_before_anything_reads_it() {
    kill_at_each_rename(GIT, |root| {
        write_file(root.join("p/.git/index"), "index two");
        write_file(root.join("p/.git/refs/heads/main"), "commit two");
        write_file(root.join("p/.git/objects/12/34"), "object");
        fs::rename(root.join("p/.git/HEAD"), root.join("p/.git/ORIG_HEAD")).unwrap();
        std::os::unix::fs::symlink("refs/heads/main", root.join("p/.git/HEAD")).unwrap();
    });
}

#[test]
fn a_unit_of_which_one_folder_may_not_be_changed_is_not_begun() {
    if rustix::process::geteuid().is_root() {
        // Root may change everything.
        return;
    }
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/index"), "index two");
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two");
    let shut = pair.b.join("p/.git/refs/heads");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o500)).unwrap();
    pair.sync_expecting(24, &[]).has("make the folder that it is in writable");
    assert_eq!(read_text(pair.b.join("p/.git/index")), "index one");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).unwrap();
    pair.sync_expecting(0, &[]);
    assert_eq!(read_text(pair.b.join("p/.git/index")), "index two");
}

#[test]
fn a_unit_that_somebody_changed_after_the_crash_is_left_as_it_is_and_told() {
    // Killed when the new database stands there, and no journal.
    let is_between = |pair: &Pair| {
        read_text(pair.b.join("x.db")) == "database, newer" && !pair.b.join("x.db-wal").exists()
    };
    let killed_at = |rename| {
        let pair = Pair::agreed(&[("x.db", "database"), ("x.db-wal", "journal")]);
        write_file(pair.a.join("x.db"), "database, newer");
        write_file(pair.a.join("x.db-wal"), "journal, of the newer one");
        killed_at_rename(&pair, rename);
        pair
    };
    let pair = (1..20).map(killed_at).find(is_between).unwrap();
    write_file(pair.b.join("x.db"), "database, newer, and written to");
    let said = pair.sync_expecting(40, &[]);
    said.has("x.db: was being replaced when psync was interrupted").has("was changed since");
    // Which of both is right only a person can tell.
    assert_eq!(read_text(pair.a.join("x.db")), "database, newer");
    assert_eq!(read_text(pair.b.join("x.db")), "database, newer, and written to");
    pair.sync_expecting(40, &[]).has_not("interrupted");
}

#[test]
fn what_is_in_a_folder_stays_while_the_database_that_takes_its_place_waits() {
    for exchanged in [false, true] {
        let pair = Pair::agreed(&[("x/f", "1"), ("x/g", "2"), ("x-wal", "journal")]);
        let (one, other) = if exchanged { (&pair.b, &pair.a) } else { (&pair.a, &pair.b) };
        fs::remove_dir_all(one.join("x")).unwrap();
        write_file(one.join("x"), "a database now");
        write_file(other.join("x-wal"), "another journal");
        let before = (texts(&pair.a), texts(&pair.b));
        pair.sync_expecting(40, &[]).has("x belongs together");
        pair.sync_expecting(40, &[]);
        assert_eq!((texts(&pair.a), texts(&pair.b)), before);
        // What the other side has not changed it does not tell, so nobody can take all of it.
        if exchanged {
            continue;
        }
        pair.sync_expecting(0, &["--policy", "local"]);
        assert_eq!(texts(one), texts(other));
        assert_eq!(read_text(other.join("x-wal")), "journal");
        pair.assert_settled();
    }
}

#[test]
fn folders_that_are_named_as_a_database_and_its_journal_are_no_unit() {
    let files =
        [("travel/x/f", "1"), ("travel/g", "2"), ("travel-journal/y/f", "3"), ("k-wal/f", "4")];
    let pair = Pair::agreed(&files);
    fs::remove_dir_all(pair.a.join("travel")).unwrap();
    fs::remove_dir_all(pair.a.join("travel-journal")).unwrap();
    fs::set_permissions(pair.a.join("k-wal"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(pair.b.join("k")).unwrap();
    pair.sync_to(0);
    assert!(!pair.b.join("travel").exists() && !pair.b.join("travel-journal").exists());
    assert!(pair.a.join("k").exists());
}

#[test]
fn of_a_unit_that_is_held_no_mode_is_changed() {
    let pair = Pair::agreed(&[("r/.git/HEAD", "1"), ("r/.git/config", "2")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    write_file(pair.a.join("r/.git/HEAD"), "mine");
    write_file(pair.b.join("r/.git/HEAD"), "yours");
    for (path, bits) in [("r/.git", 0o700), ("r/.git/config", 0o600)] {
        fs::set_permissions(pair.a.join(path), fs::Permissions::from_mode(bits)).unwrap();
    }
    let before = [mode(&pair.b.join("r/.git")), mode(&pair.b.join("r/.git/config"))];
    pair.sync_expecting(40, &[]);
    assert_eq!(before, [mode(&pair.b.join("r/.git")), mode(&pair.b.join("r/.git/config"))]);
    pair.sync_expecting(0, &["--policy=local"]);
    pair.assert_settled();
    assert_eq!(read_text(pair.b.join("r/.git/HEAD")), "mine");
    assert_eq!(mode(&pair.b.join("r/.git")), 0o700);
}

#[test]
fn of_a_unit_only_a_side_can_be_chosen_and_no_part_is_merged() {
    let pair = Pair::agreed(&[("p/.git/config", "1\n2\n3\n4\n5\n"), ("p/.git/HEAD", "main")]);
    write_file(pair.a.join("p/.git/config"), "one\n2\n3\n4\n5\n");
    write_file(pair.b.join("p/.git/config"), "1\n2\n3\n4\nfive\n");
    write_file(pair.b.join("p/.git/HEAD"), "other");
    pair.sync_expecting(40, &[]);
    let before = snapshot(&pair.a);
    let resolve = |code: i32, words: &[&str]| {
        let mut command = psync(&pair.temp);
        command.arg("resolve").args(words).arg("--all").current_dir(&pair.a);
        Said::of(&mut command, code)
    };
    let tool = ["--tool", "cat \"$LOCAL\" \"$REMOTE\" > \"$MERGED\""];
    for words in [&["--merge"][..], &tool, &["--keep", "both"]] {
        let said = resolve(23, words);
        said.has("is not possible").has("p/.git belongs together").has("local or remote");
    }
    assert_eq!(snapshot(&pair.a), before);
    resolve(0, &["--keep", "remote"]);
    pair.sync_to(0);
    assert_eq!(read_text(pair.a.join("p/.git/config")), "1\n2\n3\n4\nfive\n");
    assert_eq!(read_text(pair.a.join("p/.git/HEAD")), "other");
}

#[test]
fn a_side_of_a_unit_that_has_not_told_all_of_it_cannot_be_chosen() {
    let pair = Pair::agreed(GIT);
    write_file(pair.a.join("p/.git/refs/heads/main"), "commit two, made here");
    write_file(pair.b.join("p/.git/index"), "index, staged there");
    pair.sync_expecting(40, &[]);
    let resolve = |code: i32, which: &str| {
        let mut command = psync(&pair.temp);
        command.args(["resolve", "--all", "--keep", which]).current_dir(&pair.a);
        Said::of(&mut command, code)
    };
    resolve(23, "remote").has("possible: local)");
    resolve(0, "local");
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("p/.git/index")), "index one");
}
