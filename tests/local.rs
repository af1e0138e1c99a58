//! `psync ./a ./b`: what is synced, and what becomes of moves, deletions, changes of kind and
//! conflicts, through the real program.
//!
//!     cargo test --test local
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::pair::{Pair, clash_names, names, noise, trashed};
use common::tree::{Rng, Shape, grow_tree, set_mtime, snapshot};
use common::{psync, read_text, run_ok, set_mode, write_file};

#[test]
fn every_kind_of_entry_arrives_as_it_is() {
    let pair = Pair::new();
    let a = &pair.a;
    let odd: [&[u8]; 6] =
        [b"caf\xe9", b"two\nlines", b"--delete", b" spaces ", b"it's \"so\" $HOME", b"*[?]{}"];
    for name in odd {
        write_file(a.join(OsStr::from_bytes(name)), name);
        write_file(a.join(OsStr::from_bytes(name)).with_extension("d").join("inside"), name);
    }
    let longest = "x".repeat(255);
    write_file(a.join(&longest).join(&longest), "deep");
    fs::create_dir_all(a.join("empty/below empty")).unwrap();
    write_file(a.join("zero bytes"), "");
    for (name, mode) in [("run.sh", 0o755), ("secret", 0o600), ("read only", 0o444)] {
        write_file(a.join(name), name);
        set_mode(&a.join(name), mode);
    }
    write_file(a.join("setuid"), "bits");
    set_mode(&a.join("setuid"), 0o6755);
    for (name, mode) in [("setgid.d", 0o2775), ("sticky.d", 0o1777), ("closed.d", 0o500)] {
        write_file(a.join(name).join("inside"), name);
        set_mode(&a.join(name), mode);
    }
    for (name, target) in
        [("to file", "run.sh"), ("dangling", "no/where"), ("up", ".."), ("absolute", "/etc/passwd")]
    {
        symlink(target, a.join(name)).unwrap();
        set_mtime(&a.join(name), 1_234_567_890_123_456_789);
    }
    symlink(OsStr::from_bytes(b"caf\xe9"), a.join("to a name of bytes")).unwrap();
    for (name, time) in [("zero bytes", 1), ("secret", -1_000_000_001), ("run.sh", 4_102_444_800)] {
        set_mtime(&a.join(name), time * 1_000_000_000 + 7);
    }
    pair.sync_to(0);
    assert!(fs::read_link(pair.b.join("dangling")).is_ok_and(|target| target.ends_with("where")));
}

#[test]
fn a_grown_tree_arrives_and_its_changes_come_back() {
    let pair = Pair::new();
    grow_tree(&pair.a, &mut Rng::new(11), Shape::SMALL);
    pair.sync_to(0);
    fs::remove_dir_all(&pair.b).unwrap();
    fs::create_dir(&pair.b).unwrap();
    // The other side was made anew: another replica, to which everything goes again, if a person
    // says that it is no disk that is not mounted.
    pair.sync_expecting(41, &[]).has("was synced before").has("--max-delete=0");
    assert!(names(&pair.b).is_empty());
    pair.sync_expecting(0, &["--max-delete=0"]);
    pair.assert_settled();
    write_file(pair.b.join("folder-1.txt/new"), "new");
    pair.sync_to(0);
    assert_eq!(read_text(pair.a.join("folder-1.txt/new")), "new");
}

#[test]
fn changes_on_both_sides_reach_the_other() {
    let pair = Pair::agreed(&[("one", "1"), ("two", "2"), ("three", "3"), ("d/four", "4")]);
    write_file(pair.a.join("one"), "one, edited in a");
    write_file(pair.b.join("two"), "two, edited in b");
    fs::remove_file(pair.a.join("three")).unwrap();
    set_mode(&pair.b.join("d/four"), 0o700);
    set_mode(&pair.a.join("d"), 0o711);
    pair.sync_to(0);
    assert_eq!(names(&pair.b), ["d", "one", "two"]);
    assert_eq!(read_text(pair.a.join("two")), "two, edited in b");
}

#[test]
fn an_edit_here_and_a_chmod_there_both_happen() {
    let pair = Pair::agreed(&[("script", "old")]);
    write_file(pair.a.join("script"), "new");
    set_mode(&pair.b.join("script"), 0o755);
    pair.sync_to(0);
    let entry = &snapshot(&pair.a)[b"script".as_slice()];
    assert_eq!(entry.mode, 0o755);
    assert_eq!(read_text(pair.b.join("script")), "new");
}

#[test]
fn what_is_deleted_goes_to_the_other_side_s_trash() {
    let pair = Pair::agreed(&[("kept", "kept"), ("gone", "last words"), ("d/e/f", "deep")]);
    fs::remove_file(pair.a.join("gone")).unwrap();
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    pair.sync_to(0);
    assert_eq!(names(&pair.b), ["kept"]);
    assert_eq!(trashed(&pair.b, "gone"), ["last words"]);
    assert_eq!(trashed(&pair.b, "d/e/f"), ["deep"]);
}

#[test]
fn a_replaced_version_goes_to_the_trash() {
    let pair = Pair::agreed(&[("text", "old words")]);
    write_file(pair.a.join("text"), "new words");
    pair.sync_to(0);
    assert_eq!(trashed(&pair.b, "text"), ["old words"]);
}

#[test]
fn a_change_survives_a_deletion_on_the_other_side() {
    let pair =
        Pair::agreed(&[("text", "old"), ("d/text", "old"), ("d/other", "other"), ("kept", "kept")]);
    fs::remove_file(pair.a.join("text")).unwrap();
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    write_file(pair.b.join("text"), "edited");
    write_file(pair.b.join("d/text"), "edited");
    pair.sync_to(0);
    assert_eq!(read_text(pair.a.join("text")), "edited");
    assert_eq!(names(&pair.a.join("d")), ["text"]);
}

#[test]
fn a_moved_file_moves_and_no_content_crosses_the_line() {
    let pair = Pair::new();
    write_file(pair.a.join("here/big"), noise(1, 400_000));
    write_file(pair.a.join("x"), noise(2, 100_000));
    write_file(pair.a.join("y"), noise(3, 100_000));
    pair.sync_to(0);
    fs::create_dir(pair.a.join("there")).unwrap();
    fs::rename(pair.a.join("here/big"), pair.a.join("there/large")).unwrap();
    fs::rename(pair.a.join("x"), pair.a.join("z")).unwrap();
    fs::rename(pair.a.join("y"), pair.a.join("x")).unwrap();
    fs::rename(pair.a.join("z"), pair.a.join("y")).unwrap();
    let said = pair.sync_expecting(0, &["--json"]);
    let moves: Vec<_> =
        said.objects_of("action").into_iter().filter(|o| o["from"].is_string()).collect();
    assert_eq!(moves.len(), 1, "{}", said.out);
    assert_eq!(
        (moves[0]["from"].as_str(), moves[0]["path"].as_str()),
        (Some("here/big"), Some("there/large"))
    );
    assert!(said.bytes_on_the_line() < 2_500, "{}", said.out);
    pair.assert_settled();
}

#[test]
fn a_moved_folder_moves_whole() {
    let pair = Pair::new();
    for number in 0..200 {
        let path = format!("old name/sub {}/file {number}", number % 7);
        write_file(pair.a.join(path), noise(number, 3_000));
    }
    pair.sync_to(0);
    fs::rename(pair.b.join("old name"), pair.b.join("new name")).unwrap();
    write_file(pair.a.join("beside"), "new");
    let said = pair.sync_expecting(0, &["--json"]);
    assert!(said.bytes_on_the_line() < 12_000, "{}", said.summary());
    pair.assert_settled();
    assert_eq!(names(&pair.a), ["beside", "new name"]);
}

#[test]
fn a_file_that_takes_the_place_of_a_folder_leaves_its_own_folder_empty() {
    let pair = Pair::agreed(&[("d1/f", "a text that is known again"), ("d2/g", "g"), ("k", "k")]);
    fs::remove_dir_all(pair.a.join("d2")).unwrap();
    fs::rename(pair.a.join("d1/f"), pair.a.join("d2")).unwrap();
    fs::remove_dir(pair.a.join("d1")).unwrap();
    pair.sync_to(0);
    pair.assert_settled();
    assert_eq!(names(&pair.a), ["d2", "k"]);
}

#[test]
fn a_file_that_takes_the_place_of_a_folder_that_it_stood_deep_in_arrives() {
    let pair = Pair::agreed(&[("d/sub/f", "a text that is known again"), ("d/g", "g"), ("k", "k")]);
    fs::rename(pair.a.join("d/sub/f"), pair.a.join("f")).unwrap();
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    fs::rename(pair.a.join("f"), pair.a.join("d")).unwrap();
    pair.sync_to(0);
    pair.assert_settled();
    assert_eq!(names(&pair.a), ["d", "k"]);
}

#[test]
fn an_edit_lands_where_the_other_side_moved_the_file() {
    let pair = Pair::agreed(&[("old", "a text that is long enough to be known again"), ("x", "x")]);
    fs::create_dir(pair.a.join("d")).unwrap();
    fs::rename(pair.a.join("old"), pair.a.join("d/new")).unwrap();
    write_file(pair.b.join("old"), "edited meanwhile");
    pair.sync_to(0);
    assert_eq!(names(&pair.a), ["d", "x"]);
    assert_eq!(read_text(pair.a.join("d/new")), "edited meanwhile");
}

#[test]
fn an_edit_lands_where_the_file_moved_out_of_a_folder_whose_name_something_else_has_taken() {
    for exchanged in [false, true] {
        let pair = Pair::agreed(&[("d/f", "a text that is long enough"), ("d/g", "another text")]);
        let (mover, editor) = if exchanged { (&pair.b, &pair.a) } else { (&pair.a, &pair.b) };
        fs::rename(mover.join("d"), mover.join("e")).unwrap();
        write_file(mover.join("d"), "a file now");
        write_file(editor.join("d/f"), "edited meanwhile");
        pair.sync_to(0);
        assert_eq!(names(&pair.a), ["d", "e"]);
        assert_eq!(read_text(pair.a.join("e/f")), "edited meanwhile");
        pair.assert_settled();
    }
}

#[test]
fn a_file_moved_to_two_places_stands_in_both_and_is_told() {
    let pair = Pair::agreed(&[("old", "a text that is long enough to be known again")]);
    fs::rename(pair.a.join("old"), pair.a.join("a name")).unwrap();
    fs::rename(pair.b.join("old"), pair.b.join("b name")).unwrap();
    pair.sync_to(40).has("moved-both");
    assert_eq!(names(&pair.b), ["a name", "b name"]);
}

/// Makes one of the three kinds of thing at a path.
fn make(path: &Path, kind: &str) {
    match kind {
        "file" => write_file(path, "a file"),
        "folder" => write_file(path.join("inside/deep"), "in a folder"),
        _ => symlink("target", path).unwrap(),
    }
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn whatever_becomes_another_kind_of_thing_becomes_it_on_both_sides() {
    let kinds = ["file", "folder", "symlink"];
    let changes = kinds
        .iter()
        .flat_map(|from| kinds.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to);
    let pair = Pair::new();
    for (from, to) in changes.clone() {
        make(&pair.a.join(format!("{from} to {to}")), from);
    }
    pair.sync_to(0);
    for (number, (from, to)) in changes.enumerate() {
        let side = if number % 2 == 0 { &pair.a } else { &pair.b };
        let path = side.join(format!("{from} to {to}"));
        remove(&path);
        make(&path, to);
    }
    pair.sync_to(0);
    assert_eq!(read_text(pair.b.join("symlink to folder/inside/deep")), "in a folder");
}

#[test]
fn a_folder_that_became_a_file_stays_where_something_new_is_in_it() {
    let pair = Pair::agreed(&[("d/known", "known")]);
    remove(&pair.a.join("d"));
    make(&pair.a.join("d"), "file");
    write_file(pair.b.join("d/new"), "new");
    pair.sync_to(40).has("(type)");
    assert_eq!(names(&pair.a.join("d")), ["new"]);
    let clashes = clash_names(&pair.a);
    assert_eq!(clashes.len(), 1);
    assert_eq!(read_text(pair.a.join(&clashes[0])), "a file");
}

#[test]
fn both_versions_of_a_file_edited_on_both_sides_are_kept_on_both() {
    let pair = Pair::agreed(&[("notes.txt", "common"), ("d/archive.tar.gz", "common")]);
    write_file(pair.a.join("notes.txt"), "older, in a");
    set_mtime(&pair.a.join("notes.txt"), 1_700_000_000_000_000_000);
    write_file(pair.b.join("notes.txt"), "newer, in b");
    write_file(pair.a.join("d/archive.tar.gz"), "newer, in a");
    write_file(pair.b.join("d/archive.tar.gz"), "older, in b");
    set_mtime(&pair.b.join("d/archive.tar.gz"), 1_700_000_000_000_000_000);
    let said = pair.sync_to(40);
    said.has("conflict (modified-both): notes.txt").has("conflicts: 2");
    for (folder, newer, older) in
        [("", "newer, in b", "older, in a"), ("d", "newer, in a", "older, in b")]
    {
        let folder = pair.a.join(folder);
        let clashes = clash_names(&folder);
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert_eq!(read_text(folder.join(&clashes[0])), older);
        let original = if newer.ends_with('b') { "notes.txt" } else { "archive.tar.gz" };
        assert_eq!(read_text(folder.join(original)), newer);
    }
    let name = &clash_names(&pair.b)[0];
    assert!(name.starts_with("notes_clash_2") && name.ends_with(".txt"), "{name}");
    assert_eq!(name.len(), "notes_clash_202501312359.txt".len());
}

#[test]
fn a_first_contact_unites_two_trees_and_deletes_nothing() {
    let pair = Pair::new();
    for (path, in_a, in_b) in
        [("same", "same", "same"), ("differs", "version a", "version b"), ("d/same", "x", "x")]
    {
        write_file(pair.a.join(path), in_a);
        write_file(pair.b.join(path), in_b);
    }
    write_file(pair.a.join("only in a"), "a");
    write_file(pair.b.join("d/only in b"), "b");
    pair.sync_to(40).has("created-both: differs".replace(": ", "): ").as_str());
    assert_eq!(names(&pair.a).len(), 5, "{:?}", names(&pair.a));
    assert!(!pair.a.join(".psync/trash").read_dir().unwrap().any(|_| true));
}

#[test]
fn a_missing_second_root_is_made() {
    let pair = Pair::new();
    fs::remove_dir(&pair.b).unwrap();
    write_file(pair.a.join("file"), "text");
    pair.sync_to(0);
}

#[test]
fn the_first_line_names_both_sides_in_full() {
    let pair = Pair::agreed(&[("file", "text")]);
    let above = fs::canonicalize(pair.temp.path()).unwrap();
    let line = format!("{0}/a <-> {0}/b", above.display());
    let mut command = pair.command(&[]);
    let said = common::pair::Said::of(command.current_dir(&above), 0);
    assert_eq!(said.out.lines().next(), Some(line.as_str()));
}

#[test]
fn a_big_edited_file_crosses_as_its_changes() {
    let pair = Pair::new();
    let mut content = noise(5, 3_000_000);
    write_file(pair.a.join("big"), &content);
    pair.sync_to(0);
    content.splice(1_000_000..1_000_010, noise(6, 300));
    write_file(pair.a.join("big"), &content);
    let said = pair.sync_expecting(0, &["--json"]);
    // Both are in this process, where the line is not compressed.
    assert!(said.bytes_on_the_line() < 60_000, "{}", said.summary());
    pair.assert_settled();
}

#[test]
fn git_does_not_see_what_psync_keeps() {
    let pair = Pair::agreed(&[("file", "text")]);
    assert_eq!(read_text(pair.a.join(".psync/.gitignore")), "*\n");
}

#[test]
fn the_demonstration_shows_a_conflict_a_rename_and_what_crossed_the_line() {
    let pair = Pair::new();
    let said = run_ok(psync(&pair.temp).arg("demo"));
    for part in ["_clash_", "move", "letters", "over the line", "nothing to do", "delete"] {
        assert!(said.contains(part), "no '{part}' in:\n{said}");
    }
}

#[test]
fn a_conflict_that_is_held_is_told_again_and_costs_one_round_trip() {
    let pair = Pair::agreed(&[("text", "old"), ("other", "old")]);
    write_file(pair.a.join("text"), "edited in a");
    write_file(pair.b.join("text"), "edited in b");
    write_file(pair.b.join("other"), "new");
    let hold = ["--policy", "hold"];
    pair.sync_expecting(40, &hold).has("conflict (modified-both): text: held");
    assert_eq!(read_text(pair.a.join("other")), "new");
    for _ in 0..2 {
        let said = pair.sync_expecting(40, &["--policy", "hold", "--json"]);
        let summary = said.summary();
        assert_eq!((summary["conflicts"].as_u64(), summary["turns"].as_u64()), (Some(1), Some(2)));
        assert_eq!(said.objects_of("conflict")[0]["held"], true);
        assert!(said.objects_of("action").is_empty());
    }
    assert_eq!(read_text(pair.a.join("text")), "edited in a");
    pair.sync_expecting(0, &["--policy", "local"]).has_not("nothing to do");
    assert_eq!(trashed(&pair.b, "text"), ["edited in b"]);
    pair.assert_settled();
}

#[test]
fn a_push_leaves_alone_what_the_other_side_did_and_says_so_with_v() {
    let pair = Pair::agreed(&[("mine", "old"), ("theirs", "old"), ("both", "old")]);
    write_file(pair.a.join("mine"), "edited in a");
    write_file(pair.b.join("theirs"), "edited in b");
    write_file(pair.b.join("new"), "new in b");
    write_file(pair.a.join("both"), "edited in a");
    write_file(pair.b.join("both"), "edited in b");
    let said = pair.sync_expecting(40, &["--push", "-v"]);
    said.has("left alone: theirs: ").has("left alone: new: ");
    said.has("conflict (modified-both): both: left as it is on both sides");
    assert_eq!(read_text(pair.b.join("mine")), "edited in a");
    assert_eq!(read_text(pair.b.join("both")), "edited in b");
    assert_eq!(names(&pair.a), ["both", "mine", "theirs"]);
    assert_eq!(read_text(pair.a.join("theirs")), "old");
    // Nothing was forgotten: both ways it comes.
    pair.sync_expecting(40, &[]);
    assert_eq!(read_text(pair.a.join("new")), "new in b");
    pair.assert_settled();
}
