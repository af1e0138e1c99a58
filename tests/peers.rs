//! What two machines that have been paired may do to each other, and what becomes of it when that
//! changes: on loopback addresses, and between two network namespaces where those may be made.
//!
//!     cargo test --test peers

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::daemon::{Served, key_of, of_machine};
use common::net::Net;
use common::pair::{names, noise};
use common::relay::Relay;
use common::terminal::Terminal;
use common::tree::assert_same_trees;
use common::{read_text, write_file};
use jiff::Timestamp;

const ALL: &str = "p1=read,write,delete";
/// Fast enough for a test, slow enough that it can change its mind: in KiB a second.
const SLOWLY: [&str; 2] = ["--bwlimit", "400"];

/// Everything that the two may do and may not, one after the other.
fn all_of_it(net: &Net) {
    pair_and_sync_both_ways(net);
    revoked_while_sending(net);
    expired_while_sending(net);
    another_key(net);
    unknown_or_expired(net);
    read_only(net);
    a_folder_only(net);
}

#[test]
fn two_machines_at_two_loopback_addresses() {
    all_of_it(&Net::Loopback);
}

#[test]
fn two_machines_in_two_network_namespaces() {
    match Net::namespaces() {
        Some(net) => all_of_it(&net),
        None => println!("not permitted here: only loopback addresses are tried"),
    }
}

/// A daemon that knows the machine `client`, which knows the daemon.
fn granting(net: &Net, grants: &str) -> Served {
    let daemon = Served::to_strangers_on(net.clone());
    daemon.authorize("client", grants);
    daemon.reload();
    daemon.make_known();
    daemon
}

fn pair_and_sync_both_ways(net: &Net) {
    let daemon = Served::to_strangers_on(net.clone());
    write_file(daemon.served.join("theirs"), "1");
    write_file(daemon.mine.join("ours"), "2");
    daemon.sync_expecting(42, &[]).has("not known yet");
    let mut listen = of_machine(&daemon.temp, "server");
    listen.args(["pair", "--listen", &format!("{}:0", net.server_address())]);
    listen.args(["--name", "client", "--grant", ALL]);
    let mut listener = Terminal::run(net.at_server(listen));
    let address = listener.told("Waiting for a call at ");
    let address = address.split_whitespace().next().unwrap().trim_end_matches('.').to_string();
    let mut call = of_machine(&daemon.temp, "client");
    call.args(["pair", &address, "--place", &daemon.place()]);
    let mut caller = Terminal::run(net.at_client(call));
    assert_eq!(listener.told("The code is   "), caller.told("The code is   "));
    listener.answer("the same code? (yes/no) ", "yes");
    caller.answer("the same code? (yes/no) ", "yes");
    listener.ends(0);
    caller.ends(0);
    daemon.reload();
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.served), ["ours", "theirs"]);
    assert_same_trees(&daemon.served, &daemon.mine);
    fs::remove_file(daemon.mine.join("theirs")).unwrap();
    write_file(daemon.served.join("ours"), "3");
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.served), ["ours"]);
    assert_eq!(read_text(daemon.mine.join("ours")), "3");
}

/// A sync that sends a big file slowly, as soon as the daemon has begun to stage it.
fn sending(daemon: &Served) -> Child {
    write_file(daemon.mine.join("agreed"), "1");
    daemon.sync_expecting(0, &[]);
    write_file(daemon.mine.join("agreed"), "changed");
    write_file(daemon.mine.join("big"), noise(1, 4 << 20));
    let mut command = daemon.command(&SLOWLY);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let staged = daemon.served.join(".psync/stage");
    daemon.wait_until("something is staged", || {
        fs::read_dir(&staged).is_ok_and(|mut files| files.next().is_some())
    });
    child
}

/// It was ended from the other side, with a reason, and nothing is half done there.
#[track_caller]
fn assert_ended(daemon: &Served, output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(42), "{said}");
    assert!(said.contains(why), "{said}");
    let names = names(&daemon.served);
    assert!(names == ["agreed"], "{names:?}");
    let text = read_text(daemon.served.join("agreed"));
    assert!(text == "1" || text == "changed", "{text}");
}

fn revoked_while_sending(net: &Net) {
    for (grants, why) in [
        ("", "is let in no longer"),
        ("p1=read", "has been cut down"),
        ("p1=all p1/big=read", "has been cut down"),
    ] {
        let daemon = granting(net, ALL);
        let child = sending(&daemon);
        match grants {
            "" => daemon.write_authorized(""),
            grants => daemon.authorize("client", grants),
        }
        daemon.reload();
        let started = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_ended(&daemon, &output, why);
        // Once it is granted again it goes on where it stopped.
        daemon.authorize("client", ALL);
        daemon.reload();
        daemon.sync_expecting(0, &[]);
        assert_same_trees(&daemon.served, &daemon.mine);
    }
}

fn expired_while_sending(net: &Net) {
    let daemon = granting(net, ALL);
    write_file(daemon.mine.join("agreed"), "1");
    let child = sending(&daemon);
    let soon = Timestamp::from_second(Timestamp::now().as_second() + 2).unwrap();
    daemon.authorize("client", &format!("until={soon} {ALL}"));
    daemon.reload();
    let output = child.wait_with_output().unwrap();
    assert!(Timestamp::now() >= soon);
    assert_ended(&daemon, &output, "the time for which this machine was let in is over");
    daemon.sync_expecting(42, &[]);
}

fn another_key(net: &Net) {
    let mut daemon = granting(net, ALL);
    write_file(daemon.mine.join("secret name"), "x");
    write_file(daemon.served.join("theirs"), "y");
    fs::remove_file(daemon.temp.join("server/psync/id_ed25519")).unwrap();
    daemon.restart();
    daemon.sync_expecting(42, &[]).has("ANOTHER KEY").has("known_peers, line 1");
    assert_eq!(names(&daemon.served), ["theirs"]);
    assert_eq!(names(&daemon.mine), ["secret name"]);
}

fn unknown_or_expired(net: &Net) {
    let daemon = granting(net, ALL);
    write_file(daemon.mine.join("ours"), "x");
    write_file(daemon.served.join("theirs"), "y");
    daemon.authorize("somebody", ALL);
    daemon.reload();
    daemon.sync_expecting(42, &[]).has("does not let this machine in");
    daemon.authorize("client", &format!("until=2020-02-29 {ALL}"));
    daemon.reload();
    daemon.sync_expecting(42, &[]).has("does not let this machine in");
    assert_eq!(names(&daemon.served), ["theirs"]);
    assert_eq!(names(&daemon.mine), ["ours"]);
    daemon.authorize("client", &format!("until=2999-12-31 {ALL}"));
    daemon.reload();
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served, &daemon.mine);
}

fn read_only(net: &Net) {
    let daemon = granting(net, "p1=read");
    write_file(daemon.served.join("a"), "1");
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served, &daemon.mine);
    write_file(daemon.mine.join("a"), "changed");
    daemon.sync_expecting(42, &[]).has("may not change");
    assert_eq!(read_text(daemon.served.join("a")), "1");
    daemon.sync_expecting(0, &["--mirror", "pull"]);
    assert_same_trees(&daemon.served, &daemon.mine);
}

fn a_folder_only(net: &Net) {
    let daemon = granting(net, "p1/open=read,write,delete");
    write_file(daemon.served.join("open/a"), "1");
    write_file(daemon.served.join("closed/b"), "2");
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.mine), ["open"]);
    assert_same_trees(&daemon.served.join("open"), &daemon.mine.join("open"));
    write_file(daemon.mine.join("open/new"), "3");
    write_file(daemon.mine.join("closed/b"), "planted");
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served.join("open"), &daemon.mine.join("open"));
    assert_eq!(read_text(daemon.served.join("closed/b")), "2");
}

#[test]
fn a_session_that_receives_ends_as_well_and_the_other_ones_go_on() {
    let daemon = granting(&Net::Here, ALL);
    let (other, theirs) = (daemon.temp.folder("other-served"), daemon.temp.folder("other-mine"));
    let p1 = format!("[module.p1]\npath = '{}'\n", daemon.served.display());
    let p2 = format!("[module.p2]\npath = '{}'\n", other.display());
    daemon.write_modules(&(p1.clone() + &p2));
    let lines = |grants: &str| {
        let line = |machine: &str, grants: &str| {
            format!("{} {machine} {grants}\n", key_of(&daemon.temp, machine))
        };
        line("client", grants) + &line("other", "p2=read,write,delete")
    };
    daemon.write_authorized(&lines(ALL));
    daemon.reload();
    write_file(daemon.served.join("big"), noise(1, 24 << 20));
    write_file(theirs.join("big"), noise(2, 2 << 20));
    let relay = Relay::slowly_to(&daemon.place(), Some(3 << 20));
    let relayed = relay.address.to_string();
    daemon.write_known(&key_of(&daemon.temp, "server"), &relayed);
    let known = daemon.temp.folder("other/psync").join("known_peers");
    fs::write(known, format!("{} {}\n", daemon.place(), key_of(&daemon.temp, "server"))).unwrap();
    let start = |module: String, machine: &str, folder: &PathBuf, options: &[&str]| {
        let mut command = daemon.command_to(&module, machine, folder, options);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let module = format!("psync://{}/p2", daemon.place());
    let bystander = start(module, "other", &theirs, &["--bwlimit", "300"]);
    let receiver = start(format!("psync://{relayed}/p1"), "client", &daemon.mine, &[]);
    let staged = daemon.mine.join(".psync/stage");
    daemon.wait_until("something is staged", || {
        fs::read_dir(&staged).is_ok_and(|mut files| files.next().is_some())
    });
    daemon.write_authorized(&lines("p1=list"));
    daemon.reload();
    let output = receiver.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(42), "{said}");
    assert!(said.contains("has been cut down"), "{said}");
    assert!(names(&daemon.mine).is_empty());
    let output = bystander.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_same_trees(&other, &theirs);
}

#[test]
fn a_session_goes_on_when_more_is_granted_or_something_else_changes() {
    let daemon = granting(&Net::Here, ALL);
    let child = sending(&daemon);
    daemon.authorize("client", "until=2999-01-01 p1=all p1/x=all q=read");
    daemon.reload();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_same_trees(&daemon.served, &daemon.mine);
}

/// The TLS records in a stream: their kinds and contents. Fails where there is anything else.
#[track_caller]
fn records(mut stream: &[u8]) -> Vec<(u8, &[u8])> {
    let mut records = Vec::new();
    while !stream.is_empty() {
        let [kind, 3, 1 | 3, high, low, rest @ ..] = stream else {
            panic!("no record begins with {:?}", &stream[..stream.len().min(5)]);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!((20..=23).contains(kind) && length <= (1 << 14) + 256 && length <= rest.len());
        records.push((*kind, &rest[..length]));
        stream = &rest[length..];
    }
    records
}

/// Bits of information in a byte, if each byte were drawn for itself.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let share = |count: usize| count as f64 / bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|&count| -share(count) * share(count).log2())
        .sum()
}

#[test]
fn who_listens_on_the_line_learns_no_name_no_key_and_no_content() {
    let daemon = Served::to_strangers();
    let text = "a content to look for, again and again; ".repeat(3000);
    write_file(daemon.served.join("folder-to-look-for/file-to-look-for"), &text);
    write_file(daemon.mine.join("mine-to-look-for"), text.to_uppercase());
    let path = daemon.served.display().to_string();
    daemon.write_modules(&format!(
        "[module.module-to-look-for]\npath = '{path}'\ncomment = 'remark-to-look-for'\n"
    ));
    daemon.reload();
    let words = |machine: &str| {
        let id = common::run(of_machine(&daemon.temp, machine).args(["id", "--json"]));
        let id: serde_json::Value = serde_json::from_slice(&id.stdout).unwrap();
        id["words"].as_str().unwrap().to_string()
    };
    let mut listen = of_machine(&daemon.temp, "server");
    listen.args(["pair", "--listen", "127.0.0.1:0", "--fingerprint", &words("client")]);
    listen.args(["--name", "peer-to-look-for", "--grant", "module-to-look-for=all"]);
    let listener = Terminal::run(listen);
    let address = listener.told("Waiting for a call at ");
    let address = address.split_whitespace().next().unwrap().trim_end_matches('.').to_string();
    let (pairing, session) = (Relay::to(&address), Relay::to(&daemon.place()));
    let mut call = of_machine(&daemon.temp, "client");
    call.args(["pair", &pairing.address.to_string(), "--fingerprint", &words("server")]);
    call.args(["--place", &session.address.to_string()]);
    let caller = Terminal::run(call);
    let code = caller.told("The code is   ");
    caller.ends(0);
    listener.ends(0);
    daemon.reload();
    let module = format!("psync://{}/module-to-look-for", session.address);
    for options in [&["--no-compress"][..], &[]] {
        write_file(daemon.mine.join("later-to-look-for"), format!("{options:?} {text}"));
        let mut command = daemon.command_to(&module, "client", &daemon.mine, options);
        assert_eq!(common::run(&mut command).status.code(), Some(0));
    }
    let mut list = of_machine(&daemon.temp, "client");
    list.args(["--list", &format!("psync://{}/", session.address)]);
    let listed = common::run(&mut list);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("remark-to-look-for"));
    assert_same_trees(&daemon.served, &daemon.mine);

    let key = |machine: &str| {
        let key = key_of(&daemon.temp, machine);
        let digits = key.strip_prefix("ed25519:").unwrap().to_string();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..64).step_by(2).map(byte).collect::<Vec<u8>>()
    };
    let host = rustix::system::uname().nodename().to_bytes().to_vec();
    let mut secrets = vec![key("server"), key("client"), code.trim().into(), path.into()];
    secrets.extend((host.len() > 4).then_some(host));
    secrets.extend(["to-look-for", "content to look", "CONTENT TO LOOK"].map(Vec::from));
    for (relay, by_caller) in
        [(&pairing, true), (&pairing, false), (&session, true), (&session, false)]
    {
        let said = relay.said_by(by_caller);
        assert!(said.len() > 300, "{}", said.len());
        // Nothing but TLS, and of that in the clear only the greetings.
        let in_clear = records(&said).iter().filter(|(kind, _)| *kind != 23).count();
        assert!(in_clear <= 2 * relay.connections(), "{in_clear} records in the clear");
        for secret in &secrets {
            let found = said.windows(secret.len()).any(|bytes| bytes == secret);
            assert!(!found, "{}", secret.escape_ascii());
        }
    }
    let sealed: Vec<u8> = session.said_by(false);
    assert!(sealed.len() > 100_000);
    assert!(entropy(&sealed) > 7.99, "{}", entropy(&sealed));
}

#[test]
fn who_may_not_read_a_file_is_sent_no_hashes_of_it() {
    for (grants, sends_all) in [(ALL, false), ("p1=write", true)] {
        let daemon = granting(&Net::Here, grants);
        let old = noise(1, 400 << 10);
        write_file(daemon.served.join("big"), &old);
        let new = [&old[..200_000], &b"something else"[..], &old[200_000..]].concat();
        write_file(daemon.mine.join("big"), &new);
        let options = ["--mirror", "push", "--max-change", "100%", "--json"];
        let summary = daemon.sync_expecting(0, &options).summary();
        assert_same_trees(&daemon.served, &daemon.mine);
        let bytes = |name: &str| summary[name].as_u64().unwrap();
        let (sent, received) = (bytes("bytes_sent"), bytes("bytes_received"));
        assert_eq!(sent > 400 << 10, sends_all, "{grants}: {sent} sent");
        assert_eq!(received < 1000, sends_all, "{grants}: {received} received");
    }
}
