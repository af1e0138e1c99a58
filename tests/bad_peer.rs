//! Peers that are no psync, or another one, or that stop, break off or send nonsense: each gets
//! its own message and exit code, and nothing is lost.
//!
//!     cargo test --test bad_peer
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::pair::{Said, names};
use common::tree::snapshot;
use common::wire::{Wire, WireEnd};
use common::{PSYNC, TempDir, psync, psync_over, set_mode, write_file};
use psync_protocol::frame::{FrameDecoder, FrameEncoder, PREFACE};
use psync_protocol::message::{StreamCodec, Verdict, Welcome};
use psync_protocol::{ErrorCode, IndexId, Message, ReplicaId};

/// Runs psync with a remote shell of these lines; gives what it said. The root stays as it was.
#[track_caller]
fn with_shell(lines: &str, code: i32) -> Said {
    let temp = TempDir::new();
    let script = temp.join("rsh");
    fs::write(&script, format!("#!/bin/sh\n{lines}\n")).unwrap();
    set_mode(&script, 0o755);
    let near = temp.folder("near");
    write_file(near.join("file"), "text");
    let before = snapshot(&near);
    let mut command = psync_over(&temp, &script.display().to_string());
    let said = Said::of(command.args(["--timeout", "20", "host:/far"]).arg(&near), code);
    assert_eq!(snapshot(&near), before);
    said
}

#[test]
fn a_shell_that_prints_a_banner_is_told() {
    let banner = "echo 'Welcome to host!'; shift; exec \"$@\"";
    with_shell(banner, 2).has("Welcome to host!").has("print nothing");
}

#[test]
fn a_peer_that_closes_at_once_is_told() {
    with_shell("exit 0", 5).has("ended at once").has("exit code 0");
    with_shell("exit 3", 5).has("exit code 3");
    with_shell("cat >/dev/null & exit 127", 5).has("was not found on host");
    with_shell("echo 'no route' >&2; exit 255", 10).has("no route").has("cannot connect");
}

#[test]
fn a_remote_shell_that_does_not_exist_is_told() {
    let temp = TempDir::new();
    let near = temp.folder("near");
    let mut command = psync_over(&temp, "/no/such/shell");
    Said::of(command.arg("host:/far").arg(&near), 5).has("/no/such/shell").has("--rsh");
}

#[test]
fn a_missing_near_root_is_not_left_behind_by_a_failed_run() {
    let temp = TempDir::new();
    let near = temp.join("near");
    let mut command = psync_over(&temp, "/no/such/shell");
    Said::of(command.arg("host:/far").arg(&near), 5);
    assert!(!near.exists());
}

/// Runs psync against `peer`, which gets the line; gives what psync said.
#[track_caller]
fn against(peer: impl FnOnce(WireEnd) + Send + 'static, options: &[&str], code: i32) -> Said {
    let temp = TempDir::new();
    let near = temp.folder("near");
    write_file(near.join("file"), "text");
    let before = snapshot(&near);
    let wire = Wire::new(&temp);
    let mut command = psync_over(&temp, &wire.rsh());
    command.args(options).arg("host:/far").arg(&near);
    let peer = thread::spawn(move || peer(wire.accept()));
    let started = Instant::now();
    let said = Said::of(&mut command, code);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(snapshot(&near), before);
    peer.join().unwrap();
    said
}

/// Reads psync's greeting, so that the answer comes at its time.
fn hear_greeting(end: &mut WireEnd) {
    let mut decoder = FrameDecoder::new();
    let mut buffer = [0; 4096];
    while decoder.message().unwrap().is_none() {
        let n = end.from_psync.read(&mut buffer).unwrap();
        assert!(n > 0, "psync closed before it greeted");
        decoder.feed(&buffer[..n]);
    }
}

fn welcome(version: u64) -> Message {
    Message::Welcome(Welcome {
        version,
        features: 0,
        codec: StreamCodec::Raw,
        who: Some((ReplicaId([9; 16]), IndexId([9; 8]))),
        joined: false,
        nonce: [9; 16],
        verdict: Verdict::Proceed { first_contact: true },
        place: None,
    })
}

/// A direction that begins with this message and goes on uncompressed.
fn greeting(message: &Message) -> Vec<u8> {
    FrameEncoder::start(message, StreamCodec::Raw, 0).unwrap().take()
}

#[test]
fn a_peer_of_another_version_is_told() {
    let said = against(
        |mut end| {
            hear_greeting(&mut end);
            end.to_psync.write_all(&greeting(&welcome(99))).unwrap();
        },
        &[],
        2,
    );
    said.has("no common protocol version").has("99");
}

#[test]
fn a_peer_that_refuses_our_version_is_told() {
    let said = against(
        |mut end| {
            hear_greeting(&mut end);
            let text = "no common protocol version: update \x1b[31mthe older one".to_string();
            let error = Message::Error { code: ErrorCode::Incompatible, text };
            end.to_psync.write_all(&FrameEncoder::only(&error)).unwrap();
        },
        &[],
        2,
    );
    said.has("update").has_not("\x1b");
}

#[test]
fn garbage_after_a_valid_greeting_is_told() {
    for garbage in [&[0xff; 64][..], b"\x05\x7fhello", b"\x00\x01", &[0; 4096]] {
        let garbage = garbage.to_vec();
        against(
            move |mut end| {
                hear_greeting(&mut end);
                end.to_psync.write_all(&greeting(&welcome(1))).unwrap();
                end.to_psync.write_all(&garbage).unwrap();
            },
            &["--timeout=10"],
            12,
        );
    }
}

#[test]
fn a_damaged_compressed_stream_is_told() {
    against(
        |mut end| {
            hear_greeting(&mut end);
            let Message::Welcome(welcome) = welcome(1) else { unreachable!() };
            let message = Message::Welcome(Welcome { codec: StreamCodec::Zstd, ..welcome });
            end.to_psync.write_all(&greeting(&message)).unwrap();
            end.to_psync.write_all(&[0x55; 300]).unwrap();
        },
        &["--timeout=10"],
        12,
    );
}

#[test]
fn a_peer_that_breaks_off_after_its_greeting_is_told() {
    let said = against(
        |mut end| {
            hear_greeting(&mut end);
            end.to_psync.write_all(&greeting(&welcome(1))).unwrap();
        },
        &[],
        12,
    );
    said.has("ended too early");
}

#[test]
fn a_peer_that_stops_is_given_up_after_the_timeout() {
    let stopping: [&[u8]; 3] = [b"", b"\0psy", b""];
    for (number, start) in stopping.into_iter().enumerate() {
        let mut start = start.to_vec();
        if number == 2 {
            start = greeting(&welcome(1));
            start.push(200);
        }
        let said = against(
            move |mut end| {
                end.to_psync.write_all(&start).unwrap();
                // Holds the line until psync gives up.
                std::io::copy(&mut end.from_psync, &mut std::io::sink()).unwrap();
            },
            &["--timeout=1"],
            30,
        );
        said.has("for 1 seconds").has("--timeout");
    }
}

/// A server of psync's own, with the test as its initiator.
struct Server {
    child: Child,
    temp: TempDir,
}

impl Server {
    fn start() -> Server {
        let temp = TempDir::new();
        let root = temp.folder("far");
        write_file(root.join("file"), "text");
        let mut command = psync(&temp);
        command.args(["--server", "--"]).arg(&root);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Server { child: command.spawn().unwrap(), temp }
    }

    /// Sends these bytes, closes, and gives the answer's first message, if any, with the code.
    fn answer_to(mut self, bytes: &[u8]) -> (Option<Message>, Option<i32>) {
        let mut input = self.child.stdin.take().unwrap();
        let _ = input.write_all(bytes);
        drop(input);
        let output = self.child.wait_with_output().unwrap();
        assert_eq!(names(&self.temp.join("far")), ["file"]);
        let mut decoder = FrameDecoder::new();
        decoder.feed(&output.stdout);
        (decoder.message().unwrap(), output.status.code())
    }
}

#[test]
fn a_server_tells_an_initiator_of_another_version() {
    // The greeting of a version that is not known yet: what follows the range is not read.
    let mut bytes = PREFACE.to_vec();
    bytes.extend([6, 1, 90, 99, 0, 7, 7, 7]);
    let (answer, code) = Server::start().answer_to(&bytes);
    let Some(Message::Error { code: told, text }) = answer else { panic!("{answer:?}") };
    assert_eq!(told, ErrorCode::Incompatible);
    assert!(text.contains("90") && text.contains("99"), "{text}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_server_survives_nonsense() {
    let garbage = [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0xff; 100],
        b"\0psync\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for bytes in garbage {
        let (answer, code) = Server::start().answer_to(bytes);
        assert!(matches!(answer, Some(Message::Error { .. })), "{answer:?}");
        assert!(code.is_some_and(|code| code == 2 || code == 12), "{code:?}");
    }
    for bytes in [b"".as_slice(), b"\0ps", b"\0psync"] {
        let (answer, code) = Server::start().answer_to(bytes);
        assert!(answer.is_none(), "{answer:?}");
        assert_eq!(code, Some(12));
    }
}

#[test]
fn a_server_that_a_person_starts_at_a_terminal_ends_when_its_input_does() {
    let temp = TempDir::new();
    let mut command = Command::new(PSYNC);
    command.args(["--server", "--"]).arg(temp.path()).stdin(Stdio::null());
    assert_eq!(common::run(&mut command).status.code(), Some(12));
    assert!(!temp.join(".psync").exists());
}
