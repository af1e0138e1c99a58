//! psync through a real sshd, as people use it.
//!
//!     cargo test --test ssh
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::pair::{Said, clash_names, names, noise, trashed};
use common::sshd::Sshd;
use common::tree::{
    Rng, Shape, assert_same_trees, files_outside_psync, grow_tree, rsync_oracle, set_mtime,
    snapshot,
};
use common::{TempDir, psync, psync_over, read_text, run_ok, write_file};

/// A root here, a root there, and a server between them.
struct Link {
    sshd: Sshd,
    temp: TempDir,
    near: PathBuf,
    far: PathBuf,
}

impl Link {
    fn new() -> Link {
        let temp = TempDir::new();
        let (near, far) = (temp.folder("near"), temp.folder("far"));
        Link { sshd: Sshd::start(), near, far, temp }
    }

    fn command(&self) -> Command {
        psync_over(&self.temp, self.sshd.rsh())
    }

    /// `psync host:/…/far near`.
    #[track_caller]
    fn sync(&self, code: i32, options: &[&str]) -> Said {
        let mut command = self.command();
        command.args(options).arg(self.sshd.target(&self.far)).arg(&self.near);
        Said::of(&mut command, code)
    }

    #[track_caller]
    fn assert_settled(&self) {
        assert_same_trees(&self.near, &self.far);
        rsync_oracle(&self.near, &self.far);
        self.sync(0, &[]).has("nothing to do");
    }

    /// What the remote shell says to a command.
    fn remote_says(&self, command: &str) -> String {
        run_ok(&mut self.sshd.ssh(command)).trim_end().to_string()
    }
}

#[test]
fn a_first_copy_arrives_from_either_side() {
    for from_far in [false, true] {
        let link = Link::new();
        let full = if from_far { &link.far } else { &link.near };
        grow_tree(full, &mut Rng::new(5), Shape::SMALL);
        let empty = if from_far { &link.near } else { &link.far };
        fs::remove_dir(empty).unwrap();
        let said = link.sync(0, &[]);
        let line = format!("{} <-> {}", link.sshd.target(&link.far), link.near.display());
        assert_eq!(said.out.lines().next(), Some(line.as_str()));
        link.assert_settled();
    }
}

#[test]
fn the_local_side_may_be_named_first() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    let mut command = link.command();
    command.arg(&link.near).arg(link.sshd.target(&link.far));
    let said = Said::of(&mut command, 0);
    let line = format!("{} <-> {}", link.near.display(), link.sshd.target(&link.far));
    assert_eq!(said.out.lines().next(), Some(line.as_str()));
    link.assert_settled();
}

/// The files of a tree that the other side's user will not touch.
fn file(number: usize) -> String {
    format!("src/part {}/file {number}.rs", number % 9)
}

fn edit(root: &Path, number: usize, text: &str) {
    let path = root.join(file(number));
    let old = read_text(&path);
    write_file(&path, old.replacen('\n', &format!("\n{text}\n"), 1));
}

/// One side upgraded to another release; the other with edits, deletions, a renamed folder and
/// edits of the same files.
#[test]
fn two_edited_trees_become_one_and_each_conflict_is_kept_twice() {
    let link = Link::new();
    let mut rng = Rng::new(52);
    for number in 0..300 {
        write_file(link.near.join(file(number)), rng.text(2_000));
    }
    for number in 0..60 {
        write_file(link.near.join(format!("docs/old/page {number}.txt")), rng.text(1_000));
    }
    link.sync(0, &[]);
    link.assert_settled();

    // The upgrade, there.
    for number in 0..100 {
        edit(&link.far, number, "upgraded");
    }
    for number in 100..110 {
        fs::remove_file(link.far.join(file(number))).unwrap();
    }
    for number in 0..20 {
        write_file(link.far.join(format!("src/added/file {number}.rs")), rng.text(1_500));
    }
    // The user's own work, here.
    for number in 200..220 {
        edit(&link.near, number, "of the user");
    }
    for number in 220..230 {
        fs::remove_file(link.near.join(file(number))).unwrap();
    }
    fs::rename(link.near.join("docs/old"), link.near.join("docs/renamed")).unwrap();
    for number in 0..5 {
        edit(&link.near, number, "also of the user");
        set_mtime(&link.near.join(file(number)), 1_000_000_000_000_000_000);
    }

    let said = link.sync(40, &["--json"]);
    assert_eq!(said.objects_of("conflict").len(), 5);
    let summary = said.summary();
    assert_eq!((summary["conflicts"].as_u64(), summary["exit"].as_u64()), (Some(5), Some(40)));
    assert_eq!(summary["remote"]["moved"]["files"], 60);
    link.assert_settled();
    for number in 0..5 {
        let path = link.near.join(file(number));
        assert!(read_text(&path).contains("\nupgraded\n"));
        let folder = path.parent().unwrap();
        let mark = format!("file {number}_clash_");
        let clash = clash_names(folder).into_iter().find(|name| name.starts_with(&mark)).unwrap();
        assert!(read_text(folder.join(&clash)).contains("\nalso of the user\n"));
        assert!(clash.ends_with(".rs"));
    }
    assert_eq!(names(&link.far.join("docs")), ["renamed"]);
    assert_eq!(trashed(&link.far, &file(225)).len(), 1);
    assert_eq!(trashed(&link.near, &file(105)).len(), 1);
    // 360 - 10 - 10 + 20 + 5 clash files.
    assert_eq!(files_outside_psync(&link.near).len(), 365);
}

#[test]
fn after_a_change_on_one_side_rsync_finds_nothing_to_do() {
    let link = Link::new();
    grow_tree(&link.far, &mut Rng::new(8), Shape::SMALL);
    link.sync(0, &[]);
    let mut rng = Rng::new(9);
    for path in files_outside_psync(&link.far) {
        match rng.below(6) {
            0 => fs::remove_file(&path).unwrap(),
            1 => write_file(&path, rng.text(3_000)),
            2 => fs::rename(&path, link.far.join(format!("moved {}", rng.next()))).unwrap(),
            3 => set_mtime(&path, 1_400_000_000_987_654_321),
            _ => {}
        }
    }
    let theirs = snapshot(&link.far);
    link.sync(0, &[]);
    assert_eq!(snapshot(&link.far), theirs);
    rsync_oracle(&link.far, &link.near);
    link.assert_settled();
}

#[test]
fn nothing_to_do_costs_two_turns_and_at_most_600_bytes() {
    let link = Link::new();
    for number in 0..400 {
        write_file(link.near.join(file(number)), format!("content {number}\n"));
    }
    link.sync(0, &[]);
    let said = link.sync(0, &["--json"]);
    let summary = said.summary();
    assert_eq!(summary["turns"], 2, "{summary}");
    assert!(said.bytes_on_the_line() <= 600, "{summary}");
}

#[test]
fn a_renamed_folder_costs_its_name_and_an_edit_its_difference() {
    let link = Link::new();
    for number in 0..300 {
        write_file(link.near.join(format!("old/{}", file(number))), noise(number as u64, 2_000));
    }
    let mut big = noise(1_000, 1_000_000);
    write_file(link.near.join("big"), &big);
    link.sync(0, &[]);
    fs::rename(link.near.join("old"), link.near.join("new")).unwrap();
    let said = link.sync(0, &["--json"]);
    assert!(said.bytes_on_the_line() <= 5_000, "{}", said.summary());
    big.splice(500_000..500_000, *b"inserted");
    write_file(link.far.join("big"), &big);
    let said = link.sync(0, &["--json"]);
    assert!(said.bytes_on_the_line() <= 20_000, "{}", said.summary());
    link.assert_settled();
}

#[test]
fn mirrors_go_one_way_over_the_line_too() {
    let link = Link::new();
    write_file(link.near.join("file"), "near");
    write_file(link.far.join("file"), "far");
    write_file(link.far.join("only far"), "far");
    link.sync(0, &["--mirror", "push"]);
    assert_eq!(read_text(link.far.join("file")), "near");
    assert_eq!(trashed(&link.far, "only far"), ["far"]);
    link.assert_settled();
    write_file(link.far.join("file"), "far again");
    write_file(link.near.join("file"), "near again");
    link.sync(0, &["--mirror", "pull"]);
    assert_eq!(read_text(link.near.join("file")), "far again");
    link.assert_settled();
}

#[test]
fn a_dry_run_changes_nothing_on_either_side() {
    let link = Link::new();
    write_file(link.near.join("near"), "near");
    fs::remove_dir(&link.far).unwrap();
    link.sync(0, &["-n"]).has("create on");
    assert!(!link.far.exists());
    assert_eq!(names(&link.near), ["near"]);
    link.sync(0, &[]);
    link.assert_settled();
}

#[test]
fn a_relative_remote_path_starts_at_the_remote_home() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    // Up from wherever a login starts, and down to the test's own folder.
    let start = link.remote_says("pwd");
    let up = "../".repeat(Path::new(&start).components().count() - 1);
    let relative = format!("{up}{}", link.far.strip_prefix("/").unwrap().display());
    let target = format!("{}:{relative}", link.sshd.host());
    for expected in ["on ", "nothing to do"] {
        Said::of(link.command().arg(&target).arg(&link.near), 0).has(expected);
    }
    link.assert_settled();
}

#[test]
fn a_tilde_is_the_remote_home() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    let home = PathBuf::from(link.remote_says("echo $HOME"));
    for path in ["~/x", "~/with a space"] {
        let target = format!("{}:{path}", link.sshd.host());
        Said::of(link.command().arg(&target).arg(&link.near), 0);
        assert_same_trees(&link.near, &home.join(path.strip_prefix("~/").unwrap()));
    }
}

#[test]
fn remote_paths_may_hold_spaces_and_quotes() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    for name in ["two words", "it's", "\"quoted\"", "$HOME `id` \\ * ;&|<>", "-dash", "é ü"] {
        let far = link.temp.join(name);
        let mut command = link.command();
        command.arg(link.sshd.target(&far)).arg(&link.near);
        Said::of(&mut command, 0);
        assert_same_trees(&link.near, &far);
    }
}

#[test]
fn problems_of_the_remote_side_come_back_in_words() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    fs::remove_dir(&link.far).unwrap();
    write_file(&link.far, "a file");
    link.sync(11, &[]).has(&link.far.display().to_string()).has("not a directory");
    let mut command = link.command();
    command.arg(link.sshd.target(&link.temp.join("no/where"))).arg(&link.near);
    Said::of(&mut command, 11).has("no/where").has("no such directory");
    let mut command = link.command();
    command.arg(link.sshd.target(&link.near)).arg(&link.near);
    Said::of(&mut command, 1).has("choose two separate directories");
}

#[test]
fn an_ssh_that_cannot_connect_is_told_apart() {
    let link = Link::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let rsh = format!("{} -p {port}", link.sshd.rsh());
    let mut command = psync_over(&link.temp, &rsh);
    command.arg(link.sshd.target(&link.far)).arg(&link.near);
    Said::of(&mut command, 10).has("cannot connect to").has(&rsh);
}

#[test]
fn a_remote_without_psync_is_told_apart() {
    let link = Link::new();
    let mut command = psync(&link.temp);
    command.args(["-e", link.sshd.rsh(), "--rsync-path", "/no/such/psync"]);
    command.arg(link.sshd.target(&link.far)).arg(&link.near);
    Said::of(&mut command, 5).has("/no/such/psync").has("--psync-path");
}

#[test]
fn the_remote_shell_may_come_from_the_environment() {
    let link = Link::new();
    write_file(link.near.join("file"), "text");
    let mut command = psync(&link.temp);
    command.env("PSYNC_RSH", link.sshd.rsh()).args(["--psync-path", common::PSYNC]);
    command.arg(link.sshd.target(&link.far)).arg(&link.near);
    Said::of(&mut command, 0);
    link.assert_settled();
}
