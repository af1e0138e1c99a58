//! What a run says: `-v`, `-q`, `-i`, `--stats` and `--json`.
//!
//!     cargo test --test told
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use common::pair::{Pair, Said, clash_names};
use common::tree::{now_ns, set_mtime};
use common::{TempDir, psync, set_mode, write_file};

/// Two folders that have agreed, with one change of each kind since, most of them in `a`.
fn changed_pair() -> Pair {
    let long = "a text that is long enough to be known again";
    let pair = Pair::agreed(&[
        ("edited", "old"),
        ("mode", "mode"),
        ("time", "time"),
        ("deleted", "deleted"),
        ("moved", long),
        ("clash.txt", "common"),
        ("of b", "of b"),
    ]);
    write_file(pair.a.join("edited"), "new content");
    set_mode(&pair.a.join("mode"), 0o700);
    set_mtime(&pair.a.join("time"), 1_000_000_000);
    set_mtime(&pair.a.join("time"), now_ns() + 5_000_000_000);
    fs::remove_file(pair.a.join("deleted")).unwrap();
    fs::rename(pair.a.join("moved"), pair.a.join("moved away")).unwrap();
    fs::create_dir(pair.a.join("folder")).unwrap();
    symlink("target", pair.a.join("link")).unwrap();
    write_file(pair.a.join("created"), "1234567");
    write_file(pair.b.join("of b"), "edited in b");
    write_file(pair.a.join("clash.txt"), "of a");
    set_mtime(&pair.a.join("clash.txt"), 1_000_000_000_000_000_000);
    write_file(pair.b.join("clash.txt"), "of b");
    pair
}

#[test]
fn what_is_told_fits_eighty_columns() {
    let name = "a folder/with a name of more than a few letters.text";
    let pair = Pair::agreed(&[(name, "1")]);
    let text = "[[rule]]\npattern = '*.text'\npolicy = 'newest'\n";
    write_file(pair.temp.join("home/.config/psync/psync.toml"), text);
    write_file(pair.a.join(name), "2, and so many bytes");
    pair.sync_to(0);
    for words in [
        &["verify", "--help"][..],
        &["config", "show"],
        &["why", name],
        &["log", "2"],
        &["history", name],
    ] {
        let mut command = psync(&pair.temp);
        let said = Said::of(command.args(words).current_dir(&pair.a), 0);
        // What is a place on this machine is as long as it is.
        let home = pair.temp.path().to_str().unwrap();
        for line in said.out.lines().filter(|line| !line.contains(home)) {
            assert!(line.chars().count() <= 80, "{words:?}: {line}");
        }
    }
}

#[test]
fn itemize_prints_rsync_s_letters_and_marks_for_moves_and_conflicts() {
    let pair = changed_pair();
    let said = pair.sync_expecting(40, &["-i"]);
    let clash = clash_names(&pair.a).pop().unwrap();
    for line in [
        "<fc.t...... edited",
        ".f...p..... mode",
        ".f..t...... time",
        "*deleting   deleted",
        "<f~........ moved -> moved away",
        "<d+++++++++ folder",
        "<L+++++++++ link",
        "<f+++++++++ created",
        ">fc.t...... of b",
        &format!(">f!........ clash.txt ({clash})"),
    ] {
        said.has_line(line);
    }
    let letters = said.out.lines().filter(|line| {
        line.starts_with(['<', '>', '.', '*']) && line.as_bytes().get(11) == Some(&b' ')
    });
    assert_eq!(letters.count(), 10, "{}", said.out);
}

#[test]
fn a_verbose_run_names_each_action_and_twice_verbose_says_why() {
    let pair = changed_pair();
    let b = pair.temp.join("b");
    let said = pair.sync_expecting(40, &["-n", "-v"]);
    said.has("update on").has("edited").has("move on").has("moved -> moved away").has("delete on");
    said.has_not("changed on one side only");
    let said = pair.sync_expecting(40, &["-vv"]);
    said.has("changed on one side only").has("deleted on one side, unchanged on the other");
    said.has(&b.file_name().unwrap().to_string_lossy());
}

#[test]
fn a_quiet_run_says_nothing_but_conflicts_and_problems() {
    let pair = Pair::agreed(&[("file", "old"), ("clash", "common")]);
    write_file(pair.a.join("file"), "new");
    let said = pair.sync_expecting(0, &["-q"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    write_file(pair.a.join("clash"), "of a");
    write_file(pair.b.join("clash"), "of b!");
    let said = pair.sync_expecting(40, &["-q"]);
    assert_eq!(said.out, "");
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    said.has("conflict (modified-both): clash");
}

#[test]
fn stats_say_in_numbers_what_was_done() {
    let pair = changed_pair();
    let said = pair.sync_expecting(40, &["--stats"]);
    for part in [
        "bytes sent: ",
        "bytes received: ",
        "turns of the line: ",
        "seconds: ",
        "entries on",
        "  handshake: ",
    ] {
        said.has(part);
    }
    said.has("3 created").has("1 moved").has("1 deleted").has("2 properties").has("conflicts: 1");
}

#[test]
fn json_is_one_object_a_line_with_all_that_a_script_needs() {
    let pair = changed_pair();
    let said = pair.sync_expecting(40, &["--json"]);
    let objects = said.objects();
    let start = &objects[0];
    assert_eq!(start["type"], "start");
    assert_eq!(start["flow"], "two-way");
    assert_eq!(start["dry_run"], false);
    assert!(start["left"].as_str().unwrap().ends_with("/a"), "{start}");
    assert!(start["right"].as_str().unwrap().ends_with("/b"), "{start}");

    let action = |path: &str| {
        let mut found = objects.iter().filter(|o| o["type"] == "action" && o["path"] == path);
        let action = found.next().unwrap_or_else(|| panic!("no action on {path}"));
        assert!(found.next().is_none(), "two actions on {path}");
        action
    };
    for (path, side, name, kind, size) in [
        ("edited", "remote", "update", "file", 11),
        ("mode", "remote", "properties", "file", 0),
        ("deleted", "remote", "delete", "file", 0),
        ("moved away", "remote", "move", "file", 0),
        ("folder", "remote", "create", "directory", 0),
        ("link", "remote", "create", "symlink", 0),
        ("created", "remote", "create", "file", 7),
        ("of b", "local", "update", "file", 11),
        ("clash.txt", "local", "keep-both", "file", 4),
    ] {
        let action = action(path);
        assert_eq!(action["side"], side, "{action}");
        assert_eq!(action["action"], name, "{action}");
        assert_eq!(action["kind"], kind, "{action}");
        assert_eq!(action["size"], size, "{action}");
        assert!(action["why"].as_str().is_some_and(|why| !why.is_empty()), "{action}");
    }
    assert_eq!(action("moved away")["from"], "moved");
    assert_eq!(action("clash.txt")["clash"], clash_names(&pair.a)[0].as_str());

    let conflicts = said.objects_of("conflict");
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0]["path"], "clash.txt");
    assert_eq!(conflicts[0]["kind"], "modified-both");

    let summary = said.summary();
    assert_eq!(summary["exit"], 40);
    assert_eq!(summary["carried_out"], true);
    assert_eq!(summary["conflicts"], 1);
    assert_eq!(summary["failed"], 0);
    assert_eq!(summary["remote"]["created"]["files"], 2);
    assert_eq!(summary["remote"]["created"]["directories"], 1);
    assert_eq!(summary["remote"]["created"]["bytes"], 7);
    assert_eq!(summary["local"]["updated"]["bytes"], 11);
    assert_eq!(summary["entries_local"], 9);
    assert_eq!(summary["entries_remote"], 7);
    for number in ["bytes_sent", "bytes_received", "turns"] {
        assert!(summary[number].as_u64().unwrap() > 0, "{summary}");
    }
    assert!(summary["seconds"].as_f64().is_some(), "{summary}");
}

/// What a summary says was sent and received for a purpose.
fn line(summary: &serde_json::Value, purpose: &str) -> (u64, u64) {
    let part = &summary["line"][purpose];
    (part["sent"].as_u64().unwrap(), part["received"].as_u64().unwrap())
}

/// The parts of the line add up, and there are no others than these.
#[track_caller]
fn assert_parts_add_up(summary: &serde_json::Value) {
    let purposes = [
        "handshake",
        "manifests",
        "signatures",
        "whole",
        "against_blocks",
        "against_old_content",
        "acknowledgements",
    ];
    assert_eq!(summary["line"].as_object().unwrap().len(), purposes.len());
    let parts = purposes.map(|purpose| line(summary, purpose));
    let sent: u64 = parts.iter().map(|(sent, _)| sent).sum();
    let received: u64 = parts.iter().map(|(_, received)| received).sum();
    assert_eq!(summary["bytes_sent"].as_u64(), Some(sent), "{summary}");
    assert_eq!(summary["bytes_received"].as_u64(), Some(received), "{summary}");
}

#[test]
fn json_says_what_the_bytes_on_the_line_were_for() {
    let random: Vec<u8> = (0u32..20_000).flat_map(|n| blake3_bytes(n)[..8].to_vec()).collect();
    for options in [&["--no-compress"][..], &[], &["--compress-level", "19"]] {
        let pair = Pair::new();
        let over = |expected| {
            let mut command = common::psync_over(&pair.temp, &common::local_rsh(&pair.temp));
            command.args(options).arg("--json").arg(&pair.a);
            command.arg(format!("host:{}", pair.b.display()));
            common::pair::Said::of(&mut command, expected).summary()
        };
        fs::write(pair.a.join("new"), &random).unwrap();
        let first = over(0);
        assert_parts_add_up(&first);
        let (sent, received) = line(&first, "whole");
        assert!((random.len() as u64..random.len() as u64 + 100).contains(&sent), "{first}");
        assert_eq!(received, 0, "{first}");
        // New files come unasked.
        assert_eq!(line(&first, "signatures"), (0, 0), "{first}");
        assert!(line(&first, "handshake").0 > 50 && line(&first, "handshake").1 > 40, "{first}");

        let nothing = over(0);
        assert_parts_add_up(&nothing);
        assert_eq!(line(&nothing, "whole"), (0, 0), "{nothing}");
        assert!(both_ways(&nothing) <= 300, "{nothing}");

        // The other side has changed one byte.
        let mut changed = random.clone();
        changed[50_000] ^= 1;
        fs::write(pair.b.join("new"), &changed).unwrap();
        let change = over(0);
        assert_parts_add_up(&change);
        assert!(line(&change, "manifests").1 > 20, "{change}");
        // The other side knows what it was before: nobody has to ask.
        assert_eq!(line(&change, "signatures"), (0, 0), "{change}");
        assert!(line(&change, "against_old_content").1 > 0, "{change}");
        assert!(line(&change, "acknowledgements").1 >= 32, "{change}");
    }
}

/// Bytes that crossed the line.
fn both_ways(summary: &serde_json::Value) -> u64 {
    ["bytes_sent", "bytes_received"].iter().map(|key| summary[key].as_u64().unwrap()).sum()
}

fn blake3_bytes(n: u32) -> [u8; 32] {
    psync_protocol::ContentHash::of_bytes(&n.to_le_bytes()).0
}

#[test]
fn json_tells_problems_and_errors_too() {
    let pair = Pair::agreed(&[("file", "text")]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pair.b.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let problems = pair.sync_expecting(0, &["--json"]).objects_of("problem");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0]["kind"], "special");
    assert_eq!(problems[0]["path"], "pipe");
    assert_eq!(problems[0]["side"], "remote");

    fs::remove_dir_all(&pair.b).unwrap();
    write_file(&pair.b, "a file");
    let said = pair.sync_expecting(11, &["--json"]);
    let last = said.objects().pop().unwrap();
    assert_eq!(last["type"], "error");
    assert_eq!(last["exit"], 11);
    assert!(last["text"].as_str().unwrap().contains("not a directory"), "{last}");
}

#[test]
fn the_demonstration_leaves_nothing_behind() {
    let temp = TempDir::new();
    let home = temp.folder("home");
    Said::of(psync(&temp).arg("demo").env("TMPDIR", temp.folder("tmp")), 0).has("poem.txt");
    let left = std::process::Command::new("find").arg(&home).args(["-type", "f"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    assert_eq!(fs::read_dir(temp.join("tmp")).unwrap().count(), 0);
}

#[test]
fn names_that_are_no_text_come_readable_and_exact() {
    let pair = Pair::new();
    write_file(pair.a.join(OsStr::from_bytes(b"caf\xe9\nred\x1b[31m")), "text");
    let said = pair.sync_expecting(0, &["--json", "-n"]);
    let action = said.objects_of("action").pop().unwrap();
    assert_eq!(action["path_hex"], "636166e90a7265641b5b33316d");
    let said = pair.sync_expecting(0, &["-v"]);
    assert!(!said.out.contains('\x1b'), "{:?}", said.out);
    assert_eq!(said.out.lines().filter(|line| line.contains("caf")).count(), 1, "{}", said.out);
}

#[test]
fn a_deleted_folder_is_told_as_a_folder() {
    let pair = Pair::agreed(&[("d/e/file", "text"), ("kept", "kept")]);
    fs::remove_dir_all(pair.a.join("d")).unwrap();
    let said = pair.sync_expecting(0, &["--json"]);
    let deleted = &said.summary()["remote"]["deleted"];
    assert_eq!((deleted["files"].as_u64(), deleted["directories"].as_u64()), (Some(1), Some(2)));
}

#[test]
fn a_first_copy_to_a_third_root_is_told_as_what_it_is() {
    let pair = Pair::agreed(&[("edited", "old"), ("mode", "text"), ("deleted", "text")]);
    write_file(pair.a.join("edited"), "new");
    set_mode(&pair.b.join("mode"), 0o700);
    fs::remove_file(pair.b.join("deleted")).unwrap();
    pair.sync_expecting(0, &[]);
    let third = pair.temp.folder("third");
    let mut command = common::psync(&pair.temp);
    command.args(["-i"]).arg(&pair.a).arg(&third);
    let said = common::pair::Said::of(&mut command, 0);
    said.has_line("<f+++++++++ edited").has_line("<f+++++++++ mode").has_not("deleting");
}

#[test]
fn a_second_run_says_nothing_to_do() {
    let pair = changed_pair();
    pair.sync_expecting(40, &[]);
    for options in
        [&[][..], &["-v"], &["-i"], &["--mirror", "push"], &["--mirror", "pull"], &["-n"]]
    {
        pair.sync_expecting(0, options).has_line("nothing to do");
    }
    let said = pair.sync_expecting(0, &["--json"]);
    assert_eq!(said.objects().len(), 2, "{}", said.out);
}

#[test]
fn a_run_whose_output_nobody_reads_still_does_its_work() {
    let pair = changed_pair();
    let mut command = pair.command(&["-v", "--stats"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = command.stdout(writer).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(40));
    pair.assert_settled();
}

#[test]
fn a_renamed_folder_of_which_some_was_edited_costs_what_was_edited() {
    let pair = Pair::new();
    fs::create_dir(pair.a.join("old name")).unwrap();
    for number in 0..400 {
        let text = format!("the content of file number {number}, long enough to tell");
        write_file(pair.a.join(format!("old name/file-{number:03}.txt")), text);
    }
    pair.sync_expecting(0, &[]);
    fs::rename(pair.a.join("old name"), pair.a.join("new name")).unwrap();
    for number in [3, 50, 220] {
        write_file(pair.a.join(format!("new name/file-{number:03}.txt")), format!("edit {number}"));
    }
    write_file(pair.a.join("new name/more.txt"), "added");
    fs::remove_file(pair.a.join("new name/file-100.txt")).unwrap();
    let said = pair.sync_expecting(0, &["--json"]);
    pair.assert_settled();
    let bytes = said.bytes_on_the_line();
    assert!(bytes < 1500, "{bytes} bytes");
}
