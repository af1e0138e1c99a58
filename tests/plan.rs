//! `psync plan` and `psync apply` through the real program: the plan is carried out as it was
//! shown, path by path only where nothing has changed since.
//!
//!     cargo test --test plan
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::pair::{Pair, Said, clash_names, names, trashed};
use common::tree::{assert_same_trees, snapshot};
use common::{local_rsh, psync, read_text, write_file};

const FILES: &[(&str, &str)] = &[
    ("edited here", "one"),
    ("edited there", "two"),
    ("edited on both", "three"),
    ("deleted here", "four"),
    ("moved here", "a content that is long enough"),
    ("folder/kept", "five"),
];

/// Two roots that have agreed on `FILES` and then changed.
fn changed() -> Pair {
    let pair = Pair::agreed(FILES);
    write_file(pair.a.join("edited here"), "one, edited");
    write_file(pair.b.join("edited there"), "two, edited");
    write_file(pair.a.join("edited on both"), "three, edited here");
    write_file(pair.b.join("edited on both"), "three, edited over there");
    fs::remove_file(pair.a.join("deleted here")).unwrap();
    fs::rename(pair.a.join("moved here"), pair.a.join("folder/moved")).unwrap();
    write_file(pair.a.join("new/folder/file"), "six");
    pair
}

fn file(pair: &Pair) -> PathBuf {
    pair.temp.join("the plan")
}

#[track_caller]
fn plan(pair: &Pair, code: i32, options: &[&str]) -> Said {
    let mut command = psync(&pair.temp);
    command.current_dir(pair.temp.path()).arg("plan").args(options);
    Said::of(command.args(["./a", "./b", "-o"]).arg(file(pair)), code)
}

#[track_caller]
fn apply(pair: &Pair, code: i32, options: &[&str]) -> Said {
    let mut command = psync(&pair.temp);
    // From elsewhere: the file knows where it was made.
    Said::of(command.current_dir("/").arg("apply").args(options).arg(file(pair)), code)
}

/// The lines that name actions.
fn actions(said: &Said) -> Vec<String> {
    let is_action = |line: &&str| line.contains(" on ") && !line.starts_with("dry run");
    let mut lines: Vec<String> = said.out.lines().filter(is_action).map(str::to_string).collect();
    lines.sort();
    lines
}

#[test]
fn a_plan_is_what_a_dry_run_shows_and_apply_does_exactly_that() {
    let pair = changed();
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let planned = plan(&pair, 40, &[]);
    planned.has("psync apply");
    assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
    assert_eq!(actions(&planned), actions(&pair.sync_expecting(40, &["-n"])));
    assert_eq!(actions(&planned), actions(&apply(&pair, 40, &["-n"])));
    assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
    let applied = apply(&pair, 40, &["-v"]);
    assert_eq!(actions(&planned), actions(&applied));
    assert_same_trees(&pair.a, &pair.b);
    assert_eq!(clash_names(&pair.a).len(), 1);
    assert_eq!(read_text(pair.b.join("folder/moved")), "a content that is long enough");
    pair.assert_settled();
    apply(&pair, 0, &[]).has("nothing to do");
}

#[test]
fn a_plan_file_is_text_that_a_person_can_read() {
    let pair = changed();
    plan(&pair, 40, &[]);
    let text = read_text(file(&pair));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["psync-plan"], 1);
    assert_eq!(lines[0]["local"]["at"], pair.a.display().to_string());
    let edited = lines.iter().find(|line| line["path"] == "edited here").unwrap();
    assert_eq!(edited["decision"], "take local");
    assert!(edited["local"].as_str().unwrap().starts_with("file of 11 bytes; content local:"));
    assert_eq!(edited["does"][0], "update on remote (new or changed on one side only)");
    assert!(lines.iter().all(|line| line["path"] != "folder/kept"));
    assert_eq!(lines.last().unwrap()["paths"], lines.len() - 2);
}

#[test]
fn a_plan_can_go_to_the_standard_output() {
    let pair = changed();
    let mut command = psync(&pair.temp);
    command.current_dir(pair.temp.path()).args(["plan", "-o", "-", "./a", "./b"]);
    let said = Said::of(&mut command, 40);
    write_file(file(&pair), &said.out);
    apply(&pair, 40, &[]);
    pair.assert_settled();
}

#[test]
fn what_changed_since_the_plan_is_left_alone_and_named() {
    let pair = changed();
    plan(&pair, 40, &[]);
    write_file(pair.a.join("edited here"), "one, edited once more");
    write_file(pair.a.join("deleted here"), "and back, as something else");
    write_file(pair.b.join("new since"), "seven");
    let said = apply(&pair, 24, &["-v"]);
    said.has("edited here: changed since the plan").has("deleted here: changed since the plan");
    said.has("1 more paths have changed, of which the plan does not speak");
    assert_eq!(read_text(pair.b.join("edited here")), "one");
    assert_eq!(read_text(pair.b.join("deleted here")), "four");
    assert!(!pair.a.join("new since").exists());
    assert_eq!(read_text(pair.a.join("edited there")), "two, edited");
    assert_eq!(read_text(pair.b.join("new/folder/file")), "six");
    pair.sync_expecting(0, &[]);
    pair.assert_settled();
    assert_eq!(read_text(pair.b.join("edited here")), "one, edited once more");
}

#[test]
fn what_stands_in_the_place_of_a_planned_folder_waits() {
    let pair = changed();
    plan(&pair, 40, &[]);
    fs::remove_dir_all(pair.a.join("new")).unwrap();
    write_file(pair.a.join("new"), "a file now");
    let said = apply(&pair, 24, &[]);
    said.has("new: changed since the plan").has_not("new/folder/file");
    assert!(!pair.b.join("new").exists());
    pair.sync_expecting(0, &[]);
    assert_eq!(read_text(pair.b.join("new")), "a file now");
    pair.assert_settled();
}

#[test]
fn a_folder_stays_in_which_something_appeared_after_its_deletion_was_planned() {
    let pair = Pair::agreed(&[("folder/a", "1"), ("folder/b", "2"), ("else", "3")]);
    fs::remove_dir_all(pair.a.join("folder")).unwrap();
    plan(&pair, 0, &[]);
    write_file(pair.b.join("folder/b"), "2, edited");
    apply(&pair, 24, &[]).has("folder/b: changed since the plan");
    assert_eq!(names(&pair.b.join("folder")), ["b"]);
    assert_eq!(trashed(&pair.b, "folder/a"), ["1"]);
    pair.sync_expecting(0, &[]);
    assert_eq!(read_text(pair.a.join("folder/b")), "2, edited");
    pair.assert_settled();
}

#[test]
fn both_ends_of_a_move_wait_where_one_of_them_has_changed() {
    let pair = Pair::agreed(&[("old name", "a content that is long enough"), ("else", "1")]);
    fs::rename(pair.a.join("old name"), pair.a.join("new name")).unwrap();
    write_file(pair.b.join("old name"), "a content that is long enough, edited over there");
    plan(&pair, 0, &[]);
    write_file(pair.a.join("else"), "2");
    write_file(pair.b.join("old name"), "a content that is long enough, edited there again");
    apply(&pair, 24, &[]).has("new name: ").has("old name: changed since the plan");
    assert_eq!(names(&pair.a), ["else", "new name"]);
    assert_eq!(names(&pair.b), ["else", "old name"]);
    pair.sync_expecting(0, &[]);
    assert_eq!(
        read_text(pair.a.join("new name")),
        "a content that is long enough, edited there again"
    );
    pair.assert_settled();
}

#[test]
fn what_was_done_meanwhile_needs_nothing_any_more() {
    let pair = changed();
    plan(&pair, 40, &[]);
    pair.sync_expecting(40, &[]);
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    apply(&pair, 0, &[]).has("nothing to do");
    assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
}

#[test]
fn a_plan_that_was_edited_or_cut_changes_nothing() {
    let pair = changed();
    plan(&pair, 40, &[]);
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let text = read_text(file(&pair));
    let cut = text.len() / 2;
    for bad in [text.replace("take local", "take remote"), text[..cut].into(), String::new()] {
        write_file(file(&pair), bad);
        let said = apply(&pair, 1, &[]);
        assert!(
            said.err.contains("edited or cut") || said.err.contains("no plan file"),
            "{}",
            said.err
        );
    }
    fs::remove_file(file(&pair)).unwrap();
    apply(&pair, 11, &[]).has("the plan: cannot be read");
    assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
}

#[test]
fn a_plan_of_other_roots_changes_nothing() {
    for other in ["a", "b"] {
        let pair = changed();
        plan(&pair, 40, &[]);
        fs::remove_file(pair.temp.join(other).join(".psync/index.db")).unwrap();
        let before = (snapshot(&pair.a), snapshot(&pair.b));
        apply(&pair, 41, &[]).has("made for other roots");
        assert_eq!((snapshot(&pair.a), snapshot(&pair.b)), before);
    }
}

#[test]
fn the_options_of_a_plan_hold_when_it_is_applied() {
    let pair = changed();
    plan(&pair, 0, &["--exclude", "new", "--mirror=push"]).has("->");
    apply(&pair, 0, &[]);
    assert!(!pair.b.join("new").exists());
    assert_eq!(read_text(pair.b.join("edited there")), "two");
    let pair = Pair::new();
    (0..150).for_each(|at| write_file(pair.a.join(at.to_string()), "x"));
    pair.sync_to(0);
    (0..140).for_each(|at| fs::remove_file(pair.a.join(at.to_string())).unwrap());
    plan(&pair, 41, &[]).has("--max-delete=140");
    assert!(!file(&pair).exists());
    plan(&pair, 0, &["--max-delete=140"]);
    apply(&pair, 0, &[]);
    assert_eq!(names(&pair.b).len(), 10);
}

#[test]
fn a_plan_for_a_root_that_has_nothing_yet_is_carried_out() {
    let pair = Pair::new();
    for (path, text) in FILES {
        write_file(pair.a.join(path), text);
    }
    fs::set_permissions(pair.a.join("folder"), fs::Permissions::from_mode(0o750)).unwrap();
    plan(&pair, 0, &[]);
    assert!(names(&pair.b).is_empty());
    apply(&pair, 0, &[]);
    pair.assert_settled();
}

#[test]
fn a_plan_over_a_remote_shell_is_carried_out_over_it() {
    let pair = changed();
    let rsh = local_rsh(&pair.temp);
    let mut command = psync(&pair.temp);
    command.current_dir(pair.temp.path());
    command.args(["plan", "-e", &rsh, "--psync-path", common::PSYNC, "-o"]).arg(file(&pair));
    Said::of(command.arg("./a").arg(format!("host:{}", pair.b.display())), 40);
    apply(&pair, 40, &[]);
    assert_same_trees(&pair.a, &pair.b);
}

#[test]
fn a_plan_needs_two_sides_and_a_place() {
    let pair = Pair::new();
    let mut command = psync(&pair.temp);
    Said::of(command.args(["plan", "./a", "-o", "x"]), 1).has("is one side");
    let mut command = psync(&pair.temp);
    Said::of(command.args(["plan", "./a", "./b"]), 1).has("--output");
    let mut command = psync(&pair.temp);
    Said::of(command.args(["plan", "--nonsense", "./a", "./b", "-o", "x"]), 1).has("--nonsense");
}
