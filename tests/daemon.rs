//! A daemon and peers of all sorts, as real processes on this machine's loopback addresses.
//!
//!     cargo test --test daemon

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Served, key_of, of_machine};
use common::pair::{Said, names, noise};
use common::tree::assert_same_trees;
use common::{PSYNC, TempDir, local_rsh, psync, psync_over, read_text, set_mode, write_file};
use psync::index::Index;
use rustix::process::Signal;

const ALL: &str = "p1=read,write,delete";

#[test]
fn two_machines_that_know_each_other_sync_both_ways() {
    let daemon = Served::granting(ALL);
    write_file(daemon.served.join("theirs"), "1");
    write_file(daemon.mine.join("ours"), "2");
    daemon.sync_expecting(0, &["-v"]).has("psync://127.0.0.1:");
    assert_same_trees(&daemon.served, &daemon.mine);
    fs::remove_file(daemon.mine.join("theirs")).unwrap();
    write_file(daemon.served.join("ours"), "3");
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.served), ["ours"]);
    assert_eq!(read_text(daemon.mine.join("ours")), "3");
    daemon.sync_expecting(0, &[]).has("nothing to do");
    let served = daemon.logged("served", |line| line["module"] == "p1");
    assert_eq!(served["peer"], "client");
}

#[test]
fn a_server_that_nobody_has_seen_is_refused_in_batch_with_what_to_do() {
    let daemon = Served::to_strangers();
    daemon.authorize("client", ALL);
    daemon.reload();
    write_file(daemon.served.join("x"), "x");
    let said = daemon.sync_expecting(42, &[]);
    let words = Said::of(of_machine(&daemon.temp, "server").arg("id"), 0);
    let words = words.out.lines().next().and_then(|line| line.split_whitespace().last()).unwrap();
    said.has(words);
    assert!(names(&daemon.mine).is_empty());
    let advice = said.err.lines().find(|line| line.trim().starts_with("echo ")).expect("a command");
    assert!(common::run(std::process::Command::new("sh").args(["-c", advice])).status.success());
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.mine), ["x"]);
}

#[test]
fn a_server_with_another_key_is_refused() {
    let daemon = Served::granting(ALL);
    write_file(daemon.mine.join("secret name"), "x");
    daemon.write_known(&key_of(&daemon.temp, "somebody"), &daemon.place());
    daemon.sync_expecting(42, &[]).has("ANOTHER KEY").has("known_peers, line 1");
    assert!(names(&daemon.served).is_empty());
    daemon.write_known("ed25519:12", &daemon.place());
    daemon.sync_expecting(42, &[]).has("known_peers, line 1");
}

#[test]
fn a_machine_that_the_server_does_not_know_is_told_what_its_line_would_be() {
    let daemon = Served::to_strangers();
    daemon.make_known();
    write_file(daemon.served.join("x"), "x");
    let key = key_of(&daemon.temp, "client");
    daemon.sync_expecting(42, &[]).has(&key).has("authorized_peers");
    let refused = daemon.logged("refused", |line| line["key"] == key.as_str());
    assert!(refused["why"].as_str().unwrap().contains("not in authorized_peers"));
    assert!(names(&daemon.mine).is_empty());
}

#[test]
fn an_expired_line_lets_nobody_in() {
    let daemon = Served::granting(&format!("until=2020-02-29 {ALL}"));
    daemon.sync_expecting(42, &[]);
    let why = daemon.logged("refused", |_| true)["why"].as_str().unwrap().to_string();
    assert!(why.contains("client") && why.contains("expired"), "{why}");
    daemon.authorize("client", &format!("until=2999-12-31 {ALL}"));
    daemon.reload();
    daemon.sync_expecting(0, &[]);
}

#[test]
fn a_bad_line_changes_nothing_of_what_holds() {
    let daemon = Served::granting(ALL);
    daemon.write_authorized("ed25519:12 somebody p1=all\n");
    daemon.signal(Signal::HUP);
    let why = daemon.logged("not-reloaded", |_| true)["why"].as_str().unwrap().to_string();
    assert!(why.contains("authorized_peers, line 1"), "{why}");
    daemon.sync_expecting(0, &[]);
}

#[test]
fn who_may_only_read_changes_nothing() {
    let daemon = Served::granting("p1=read");
    write_file(daemon.served.join("a"), "1");
    daemon.sync_expecting(0, &[]);
    assert_eq!(read_text(daemon.mine.join("a")), "1");
    // What is changed there still comes; what is changed here does not go.
    write_file(daemon.served.join("a"), "22");
    daemon.sync_expecting(0, &[]);
    assert_eq!(read_text(daemon.mine.join("a")), "22");
    for change in ["write", "new", "delete", "mode"] {
        match change {
            "write" => write_file(daemon.mine.join("a"), "changed"),
            "new" => write_file(daemon.mine.join("b"), "new"),
            "delete" => fs::remove_file(daemon.mine.join("a")).unwrap(),
            _ => set_mode(&daemon.mine.join("a"), 0o600),
        }
        daemon.sync_expecting(42, &[]).has("may not").has("--mirror pull");
        assert_eq!(names(&daemon.served), ["a"], "{change}");
        assert_eq!(read_text(daemon.served.join("a")), "22", "{change}");
        daemon.sync_expecting(0, &["--mirror", "pull"]);
        assert_same_trees(&daemon.served, &daemon.mine);
    }
}

/// The server writes nothing down of what such a peer says, so the two keep different versions. That
/// costs nothing, and is no conflict.
#[test]
fn who_may_only_read_stays_in_step_with_files_that_it_had_already() {
    let daemon = Served::granting("p1=read");
    for folder in [&daemon.served, &daemon.mine] {
        write_file(folder.join("a"), "the same");
        write_file(folder.join("dir/b"), "the same");
    }
    write_file(daemon.mine.join("c"), "only here");
    write_file(daemon.served.join("d"), "there");
    write_file(daemon.mine.join("d"), "here");
    daemon.sync_expecting(0, &["--mirror", "pull"]);
    assert_same_trees(&daemon.served, &daemon.mine);
    let nothing_to_do = |daemon: &Served| {
        let summary = daemon.sync_expecting(0, &["--json"]).summary();
        assert_eq!(summary["turns"], 2, "{summary}");
    };
    nothing_to_do(&daemon);
    for round in 0..3 {
        for path in ["a", "dir/b", "d"] {
            write_file(daemon.served.join(path), format!("round {round}"));
        }
        let options: &[&str] = if round == 1 { &["--mirror", "pull"] } else { &[] };
        daemon.sync_expecting(0, options);
        assert_same_trees(&daemon.served, &daemon.mine);
        nothing_to_do(&daemon);
    }
    fs::remove_file(daemon.served.join("a")).unwrap();
    fs::remove_dir_all(daemon.served.join("dir")).unwrap();
    set_mode(&daemon.served.join("d"), 0o600);
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served, &daemon.mine);
    nothing_to_do(&daemon);
    // What has changed at that side only is no choice, and versions do not grow by one.
    let index = Index::look(&daemon.mine.join(".psync")).unwrap().unwrap().rows_since(0).unwrap();
    let longest = index.iter().map(|stored| stored.row.content_version.pairs().len()).max();
    assert!(longest <= Some(3), "{longest:?}");
}

#[test]
fn to_write_is_not_to_delete() {
    let daemon = Served::granting("p1=read,write");
    write_file(daemon.mine.join("a"), "1");
    daemon.sync_expecting(0, &[]);
    fs::remove_file(daemon.mine.join("a")).unwrap();
    daemon.sync_expecting(42, &[]).has("may not delete");
    assert_eq!(names(&daemon.served), ["a"]);
}

#[test]
fn who_may_only_list_sees_names_and_gets_no_content() {
    let daemon = Served::granting("p1=list");
    write_file(daemon.served.join("a"), "secret");
    daemon.sync_expecting(0, &["-n"]).has("create");
    daemon.sync_expecting(42, &[]).has("may not read");
    assert!(!daemon.mine.join("a").exists());
}

#[test]
fn a_grant_for_a_folder_shows_and_takes_nothing_else() {
    let daemon = Served::granting("p1/docs/open=read,write,delete");
    for path in ["docs/open/a", "docs/closed/b", "other/c", "d"] {
        write_file(daemon.served.join(path), path);
    }
    daemon.sync_expecting(0, &["-v"]).has_not("closed").has_not("other");
    assert_eq!(names(&daemon.mine), ["docs"]);
    assert_eq!(names(&daemon.mine.join("docs")), ["open"]);
    write_file(daemon.mine.join("docs/open/new"), "new");
    write_file(daemon.mine.join("docs/closed/b"), "planted");
    write_file(daemon.mine.join("planted"), "planted");
    daemon.sync_expecting(0, &[]);
    assert_eq!(read_text(daemon.served.join("docs/open/new")), "new");
    assert_eq!(read_text(daemon.served.join("docs/closed/b")), "docs/closed/b");
    assert!(!daemon.served.join("planted").exists());
}

#[test]
fn modules_are_listed_to_who_may_use_them_and_others_do_not_exist() {
    let daemon = Served::granting("p1=read");
    let place = format!("psync://{}/", daemon.place());
    let said = Said::of(of_machine(&daemon.temp, "client").args(["--list", &place]), 0);
    said.has_line("p1  (read-only) ours");
    let mut other = of_machine(&daemon.temp, "client");
    other.arg(format!("psync://{}/p2", daemon.place())).arg(&daemon.mine);
    Said::of(&mut other, 42).has("no module 'p2'");
    daemon.authorize("client", "p2=read");
    daemon.reload();
    let said = Said::of(of_machine(&daemon.temp, "client").args(["--list", &place]), 0);
    assert_eq!(said.out, "");
    daemon.sync_expecting(42, &[]).has("no module 'p1'");
}

#[test]
fn a_revoked_machine_is_cut_off_in_the_middle() {
    let daemon = Served::granting(ALL);
    write_file(daemon.mine.join("big"), noise(1, 4 << 20));
    let mut command = daemon.command(&["--bwlimit", "200"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let staged = daemon.served.join(".psync/stage");
    daemon.wait_until("something is staged", || {
        fs::read_dir(&staged).is_ok_and(|mut files| files.next().is_some())
    });
    daemon.write_authorized("");
    daemon.reload();
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert!(names(&daemon.served).is_empty());
    daemon.sync_expecting(42, &[]);
}

#[test]
fn what_is_no_psync_is_turned_away_and_the_others_are_served() {
    let daemon = Served::granting(ALL);
    for text in ["GET / HTTP/1.1\r\n\r\n", "\0psync\u{1}", "SSH-2.0-x\r\n", ""] {
        let mut stream = TcpStream::connect(daemon.place()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100, "{text:?}: {answer:?}");
    }
    daemon.wait_until("four refusals", || daemon.events("refused").len() == 4);
    daemon.sync_expecting(0, &[]);
}

#[test]
fn a_hundred_connections_that_trickle_keep_nobody_out() {
    let daemon = Served::granting(ALL);
    write_file(daemon.served.join("a"), "1");
    daemon.sync_expecting(0, &[]);
    let quiet = Instant::now();
    daemon.sync_expecting(0, &[]).has("nothing to do");
    let quiet = quiet.elapsed();
    let stop = Arc::new(Mutex::new(false));
    let trickling = thread::spawn({
        let (place, stop) = (daemon.place(), stop.clone());
        move || {
            let mut streams: Vec<Option<TcpStream>> = (0..100).map(|_| None).collect();
            while !*stop.lock().unwrap() {
                for stream in &mut streams {
                    // The first bytes of a handshake that never goes on, one at a time; who is thrown
                    // out comes again.
                    let alive =
                        stream.as_mut().is_some_and(|stream| stream.write_all(&[22]).is_ok());
                    if !alive {
                        *stream = TcpStream::connect(&place).ok();
                    }
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    });
    daemon.wait_until("some are thrown out", || daemon.events("refused").len() > 50);
    let slow = Instant::now();
    daemon.sync_expecting(0, &[]).has("nothing to do");
    let slow = slow.elapsed();
    *stop.lock().unwrap() = true;
    trickling.join().unwrap();
    assert!(slow < quiet * 2 + Duration::from_secs(1), "{slow:?}, alone {quiet:?}");
}

#[test]
fn a_daemon_that_is_asked_to_stop_ends_well() {
    let mut daemon = Served::granting(ALL);
    daemon.sync_expecting(0, &[]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(), Some(0));
    daemon.logged("stopped", |_| true);
}

/// What went over a connection: who spoke (true: who has connected), and the bytes.
type Tape = Arc<Mutex<Vec<(bool, Vec<u8>)>>>;

/// Listens at a port, and carries one connection on to another one, keeping what goes by.
fn tap(to: u16) -> (u16, Tape) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tape = Tape::default();
    let kept = tape.clone();
    thread::spawn(move || {
        let here = listener.accept().unwrap().0;
        let there = TcpStream::connect(("127.0.0.1", to)).unwrap();
        for (forth, mut from, mut into) in
            [(true, here.try_clone().unwrap(), there.try_clone().unwrap()), (false, there, here)]
        {
            let tape = kept.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer) {
                    tape.lock().unwrap().push((forth, buffer[..n].to_vec()));
                    if into.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = into.shutdown(Shutdown::Write);
            });
        }
    });
    (port, tape)
}

#[test]
fn who_listens_on_the_line_learns_no_name_and_no_content_and_it_costs_little() {
    let daemon = Served::granting(ALL);
    write_file(daemon.served.join("a-name-to-look-for"), "a content to look for ".repeat(9));
    let (port, tape) = tap(daemon.port);
    daemon.write_known(&key_of(&daemon.temp, "server"), &format!("127.0.0.1:{port}"));
    Said::of(&mut daemon.command_at(port, &["--no-compress"]), 0);
    let spoken: Vec<u8> =
        tape.lock().unwrap().iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    for secret in ["a-name-to-look-for", "content to look for", "psync://", "/served"] {
        let found = spoken.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
        assert!(!found, "{secret}");
    }
    let (port, tape) = tap(daemon.port);
    daemon.write_known(&key_of(&daemon.temp, "server"), &format!("127.0.0.1:{port}"));
    let said = Said::of(&mut daemon.command_at(port, &["--json"]), 0);
    let (inside, summary) = (said.bytes_on_the_line(), said.summary());
    let tape = tape.lock().unwrap();
    let outside: usize = tape.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("nothing to do: {inside} bytes inside, {outside} on the line");
    assert!(outside as u64 <= inside + 2048, "{outside} for {inside}");
    // Of the connection itself there is one round trip, and one to get to know each other; then all
    // that the client states stands in one flight.
    let third = tape.chunk_by(|a, b| a.0 == b.0).nth(2).expect("a third flight");
    let said: usize = third.iter().map(|(_, bytes)| bytes.len()).sum();
    let sent = summary["bytes_sent"].as_u64().expect("a number of bytes");
    assert!(third[0].0 && said as u64 > sent, "{said} of {sent}");
}

#[test]
fn a_remote_shell_starts_a_daemon_with_the_modules_of_its_user() {
    let temp = TempDir::new();
    let (served, mine) = (temp.folder("served"), temp.folder("mine"));
    write_file(served.join("a"), "1");
    let toml = format!("[module.p1]\npath = '{}'\nread-only = true\n", served.display());
    write_file(temp.join("home/.config/psync/psyncd.toml"), toml);
    let rsh = local_rsh(&temp);
    let run = |code: i32| Said::of(psync_over(&temp, &rsh).arg("host::p1").arg(&mine), code);
    run(0);
    assert_same_trees(&served, &mine);
    write_file(mine.join("b"), "2");
    run(42).has("may not change");
    assert_eq!(names(&served), ["a"]);
    let said = Said::of(psync_over(&temp, &rsh).args(["--list", "host::"]), 0);
    said.has_line("p1  (read-only)");
    Said::of(psync_over(&temp, &rsh).arg("host::p2").arg(&mine), 42).has("no module 'p2'");
}

#[test]
fn a_key_for_one_directory_opens_no_other() {
    let temp = TempDir::new();
    let (served, mine) = (temp.folder("served"), temp.folder("mine"));
    write_file(served.join("sub/a"), "1");
    write_file(temp.join("other/secret"), "2");
    let rsh = temp.join("forced");
    let forced = |more: &str| {
        let text = format!(
            "#!/bin/sh\nshift\nSSH_ORIGINAL_COMMAND=\"$*\" exec {PSYNC} --server --restrict '{}' {more}\n",
            served.display()
        );
        fs::write(&rsh, text).unwrap();
        set_mode(&rsh, 0o755);
    };
    let run = |path: &str, code: i32| {
        let mut command = psync(&temp);
        command.arg("--rsh").arg(&rsh).arg(format!("host:{path}")).arg(&mine);
        Said::of(&mut command, code)
    };
    forced("--read-only");
    let path = served.display().to_string();
    run(&path, 0);
    assert_same_trees(&served, &mine);
    write_file(mine.join("new"), "3");
    run(&path, 42).has("may not change");
    assert_eq!(names(&served), ["sub"]);
    for elsewhere in ["other", "served/../other", "served-not", "missing"] {
        run(&format!("{}/{elsewhere}", temp.path().display()), 42).has("another directory");
    }
    forced("");
    run(&path, 0);
    assert_eq!(read_text(served.join("new")), "3");
    // What lies below could become a link to anywhere, by whoever may write.
    for below in ["sub", ".psync", ".psync/trash"] {
        run(&format!("{path}/{below}"), 42).has("another directory");
    }
    assert!(!served.join("sub/.psync").exists());
    write_file(served.join(".psync.toml"), "not toml");
    run(&path, 0).has(".psync.toml there makes no sense");
}

#[test]
fn settings_in_a_module_that_make_no_sense_keep_nobody_out() {
    let daemon = Served::granting(ALL);
    write_file(daemon.served.join("theirs"), "1");
    write_file(daemon.served.join(".psync.toml"), "policy = 'newest'\nnot toml");
    let said = daemon.sync_expecting(0, &[]);
    said.has(".psync.toml there makes no sense").has_not("served/.psync.toml");
    assert_eq!(read_text(daemon.mine.join("theirs")), "1");
    let why = daemon.logged("settings-ignored", |_| true)["why"].to_string();
    assert!(why.contains("served/.psync.toml, line 2"), "{why}");
    // What is set for the machine nobody but its people can have spoiled.
    fs::remove_file(daemon.mine.join(".psync.toml")).unwrap();
    write_file(daemon.temp.join("server/psync/psync.toml"), "not toml");
    let said = daemon.sync_expecting(11, &[]);
    said.has("the settings of the other machine make no sense").has_not("server/psync");
    daemon.logged("failed", |line| line["why"].to_string().contains("server/psync/psync.toml"));
}

#[test]
fn a_run_with_a_module_says_where_it_can_be_undone() {
    let daemon = Served::granting("p1=read,write,delete");
    write_file(daemon.served.join("f"), "1");
    daemon.sync_expecting(0, &[]);
    let mut command = of_machine(&daemon.temp, "client");
    command.args(["undo", "--root"]).arg(&daemon.mine);
    let said = Said::of(&mut command, 1);
    said.has("undo it on that machine, or only here with --only-here");
    assert_eq!(read_text(daemon.mine.join("f")), "1");
    Said::of(command.arg("--only-here"), 0);
    assert!(!daemon.mine.join("f").exists());
}
