//! Two machines get to know each other, each with a person at a terminal of its own; and everything
//! that can go wrong meanwhile, after which nothing may be written on either side.
//!
//!     cargo test --test pair

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Served, key_of, of_machine};
use common::pair::{Said, names};
use common::relay::Relay;
use common::terminal::Terminal;
use common::tree::assert_same_trees;
use common::{TempDir, read_text, write_file};
use psync::daemon::Meeting;
use psync::identity::MachineKey;

const CODE: &str = "The code is   ";
const SAME: &str = "the same code? (yes/no) ";
const NAME: &str = "to be called here?";
const GRANTS: &str = "Grants: ";

/// A file of a machine.
fn file(temp: &TempDir, machine: &str, name: &str) -> PathBuf {
    temp.join(machine).join("psync").join(name)
}

/// What a machine has written down about others.
fn written(temp: &TempDir, machine: &str) -> [Option<String>; 2] {
    ["known_peers", "authorized_peers"]
        .map(|name| fs::read_to_string(file(temp, machine, name)).ok())
}

#[track_caller]
fn assert_nothing_written(temp: &TempDir) {
    for machine in ["server", "client"] {
        assert_eq!(written(temp, machine), [None, None], "{machine}");
        let left = names(&temp.folder(machine).join("psync"));
        let own = ["id_ed25519", "psyncd.toml"];
        assert!(left.iter().all(|name| own.contains(&name.as_str())), "{machine}: {left:?}");
    }
}

/// Two people at two terminals, who see a code each.
struct Two {
    listener: Terminal,
    caller: Terminal,
}

fn listening(temp: &TempDir, options: &[&str]) -> (Terminal, String) {
    let mut command = of_machine(temp, "server");
    command.args(["pair", "--listen", "127.0.0.1:0"]).args(options);
    let listener = Terminal::run(command);
    let address = listener.told("Waiting for a call at ");
    let address = address.split_whitespace().next().unwrap().trim_end_matches('.').to_string();
    (listener, address)
}

fn calling(temp: &TempDir, address: &str, options: &[&str]) -> Terminal {
    let mut command = of_machine(temp, "client");
    command.args(["pair", address]).args(options);
    Terminal::run(command)
}

impl Two {
    fn meet(temp: &TempDir, options: &[&str]) -> Two {
        let (listener, address) = listening(temp, options);
        let caller = calling(temp, &address, options);
        Two { listener, caller }
    }

    /// Through somebody on the line, who may cut it.
    fn meet_over_relay(temp: &TempDir) -> (Two, Relay) {
        let (listener, address) = listening(temp, &[]);
        let relay = Relay::to(&address);
        let caller = calling(temp, &relay.address.to_string(), &[]);
        (Two { listener, caller }, relay)
    }

    fn codes(&self) -> (String, String) {
        (self.listener.told(CODE), self.caller.told(CODE))
    }

    fn both_say_yes(&mut self) {
        self.listener.answer(SAME, "yes");
        self.caller.answer(SAME, "yes");
    }

    #[track_caller]
    fn both_end(self, codes: (i32, i32)) -> (String, String) {
        (self.listener.ends(codes.0), self.caller.ends(codes.1))
    }
}

#[test]
fn two_people_compare_a_code_and_then_the_machines_sync_both_ways() {
    let daemon = Served::to_strangers();
    write_file(daemon.served.join("theirs"), "1");
    write_file(daemon.mine.join("ours"), "2");
    let (listener, address) = listening(&daemon.temp, &[]);
    let caller = calling(&daemon.temp, &address, &["--place", &daemon.place()]);
    let mut two = Two { listener, caller };
    let (there, here) = two.codes();
    assert_eq!(there, here);
    assert_eq!(here.trim().len(), 7, "{here}");
    two.both_say_yes();
    two.listener.answer(NAME, "a b");
    two.listener.wait("again", |said| said.matches(NAME).count() == 2);
    two.listener.answer("is no name", "ana");
    two.listener.answer(GRANTS, "p1=raed");
    two.listener.answer("'raed' is not a right", "p1=read,write,delete");
    let (there, here) = two.both_end((0, 0));
    assert!(there.contains("'ana' may come in here: p1=read,write,delete"), "{there}");
    assert!(here.contains(&format!("psync://{}/ is that machine now", daemon.place())), "{here}");
    let client = key_of(&daemon.temp, "client");
    let server = key_of(&daemon.temp, "server");
    let expected = Some(format!("{client} ana p1=read,write,delete\n"));
    assert_eq!(written(&daemon.temp, "server"), [None, expected]);
    let expected = Some(format!("{} {server}\n", daemon.place()));
    assert_eq!(written(&daemon.temp, "client"), [expected, None]);
    for (machine, name) in [("server", "authorized_peers"), ("client", "known_peers")] {
        let mode = fs::metadata(file(&daemon.temp, machine, name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{machine}");
    }
    assert!(there.contains(&format!("The daemon (process {}) has been told", daemon.process())));
    daemon.wait_until("it has reloaded", || !daemon.events("reloaded").is_empty());
    daemon.sync_expecting(0, &[]);
    assert_eq!(names(&daemon.served), ["ours", "theirs"]);
    assert_same_trees(&daemon.served, &daemon.mine);
}

#[test]
fn nothing_is_granted_unless_somebody_says_so() {
    let daemon = Served::to_strangers();
    write_file(daemon.served.join("theirs"), "1");
    let (listener, address) = listening(&daemon.temp, &[]);
    let caller = calling(&daemon.temp, &address, &["--place", &daemon.place()]);
    let mut two = Two { listener, caller };
    two.both_say_yes();
    two.listener.answer(NAME, "ana");
    two.listener.answer(GRANTS, "");
    two.both_end((0, 0));
    let expected = format!("{} ana\n", key_of(&daemon.temp, "client"));
    assert_eq!(written(&daemon.temp, "server")[1], Some(expected));
    daemon.reload();
    daemon.sync_expecting(42, &[]).has("no module 'p1'");
    assert!(names(&daemon.mine).is_empty());
}

#[test]
fn where_a_person_says_no_nothing_is_written() {
    for listener_refuses in [true, false] {
        let temp = TempDir::new();
        let mut two = Two::meet(&temp, &[]);
        let (refusing, other) = match listener_refuses {
            true => (&mut two.listener, &mut two.caller),
            false => (&mut two.caller, &mut two.listener),
        };
        other.answer(SAME, "yes");
        refusing.answer(SAME, "maybe");
        refusing.answer("answer yes or no: ", "no");
        let (there, here) = two.both_end((42, 42));
        let said = if listener_refuses { here } else { there };
        assert!(said.contains("the other side has said no"), "{said}");
        assert_nothing_written(&temp);
    }
}

#[test]
fn somebody_in_between_shows_in_the_codes() {
    let temp = TempDir::new();
    let (listener, address) = listening(&temp, &[]);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = between.local_addr().unwrap().to_string();
    let middle = thread::spawn(move || {
        let key = MachineKey::from_secret(&[7; 32]).unwrap();
        let towards_caller = Meeting::answer(between.accept().unwrap().0, &key).unwrap();
        let towards_listener = Meeting::call(TcpStream::connect(address).unwrap(), &key).unwrap();
        (towards_caller, towards_listener)
    });
    let mut two = Two { listener, caller: calling(&temp, &place, &[]) };
    let (there, here) = two.codes();
    assert_ne!(there, here);
    two.caller.answer(SAME, "no");
    two.listener.answer(SAME, "no");
    two.both_end((42, 42));
    drop(middle.join().unwrap());
    assert_nothing_written(&temp);
}

#[test]
fn a_line_that_is_cut_at_any_moment_leaves_nothing_written() {
    for moment in ["codes", "one yes", "both yes", "name"] {
        let temp = TempDir::new();
        let (mut two, relay) = Two::meet_over_relay(&temp);
        two.codes();
        match moment {
            "codes" => {}
            "one yes" => two.caller.answer(SAME, "yes"),
            _ => two.both_say_yes(),
        }
        match moment {
            "both yes" => two.listener.wait(NAME, |said| said.contains(NAME)),
            "name" => {
                two.listener.answer(NAME, "ana");
                two.listener.wait(GRANTS, |said| said.contains(GRANTS));
            }
            _ => {}
        }
        relay.cut();
        let started = Instant::now();
        let (there, here) = two.both_end((10, 10));
        assert!(started.elapsed() < Duration::from_secs(5), "{moment}");
        for said in [there, here] {
            assert!(said.contains("nothing was written"), "{moment}: {said}");
        }
        assert_nothing_written(&temp);
    }
}

#[test]
fn a_machine_that_goes_down_leaves_nothing_written_on_the_other() {
    let temp = TempDir::new();
    let mut two = Two::meet(&temp, &[]);
    two.both_say_yes();
    two.listener.wait(NAME, |said| said.contains(NAME));
    two.caller.kill();
    two.listener.ends(10);
    assert_nothing_written(&temp);
}

#[test]
fn people_who_do_not_answer_in_time_leave_nothing_written() {
    let temp = TempDir::new();
    let mut two = Two::meet(&temp, &["--timeout", "1"]);
    two.caller.answer(SAME, "yes");
    let (there, here) = two.both_end((30, 42));
    assert!(there.contains("nobody answered in time"), "{there}");
    assert!(here.contains("the other side has said no, or could not go on"), "{here}");
    assert_nothing_written(&temp);
    let (listener, _) = listening(&temp, &["--timeout", "1"]);
    assert!(listener.ends(30).contains("nobody called in time"));
}

/// A pairing without people; gives how both ended.
fn in_batch(temp: &TempDir, expected: (&str, &str), there: &[&str], here: &[&str]) -> [i32; 2] {
    let mut listener = of_machine(temp, "server");
    listener.args(["pair", "--listen", "127.0.0.1:0", "--fingerprint", expected.0]).args(there);
    let listener = Terminal::run(listener);
    let address = listener.told("Waiting for a call at ");
    let address = address.split_whitespace().next().unwrap().trim_end_matches('.').to_string();
    let mut caller = of_machine(temp, "client");
    caller.args(["pair", &address, "--fingerprint", expected.1]).args(here);
    let caller = common::run(&mut caller);
    let listener = listener.ends_somehow();
    [listener, caller.status.code().unwrap()]
}

#[test]
fn a_script_pairs_machines_whose_fingerprints_it_knows() {
    let temp = TempDir::new();
    let words = |machine: &str| {
        let said = Said::of(of_machine(&temp, machine).args(["id", "--json"]), 0);
        said.objects()[0]["words"].as_str().unwrap().to_string()
    };
    let (server, client) = (words("server"), words("client"));
    let there = ["--name", "ana", "--grant", "p1=read", "--until", "2999-12-31"];
    let wrong = in_batch(&temp, (&server, &server), &there, &[]);
    assert_eq!(wrong, [42, 42]);
    assert_nothing_written(&temp);
    let right = in_batch(&temp, (&client, &server), &there, &["--place", "host:99"]);
    assert_eq!(right, [0, 0]);
    let expected = format!("{} ana until=2999-12-31 p1=read\n", key_of(&temp, "client"));
    assert_eq!(written(&temp, "server"), [None, Some(expected)]);
    let expected = format!("host:99 {}\n", key_of(&temp, "server"));
    assert_eq!(written(&temp, "client"), [Some(expected), None]);
}

#[test]
fn without_a_terminal_it_says_what_to_run() {
    let temp = TempDir::new();
    for end in ["--listen", "host"] {
        let said = Said::of(of_machine(&temp, "client").args(["pair", end]), 42);
        said.has(&format!("psync pair {end}\n")).has(&format!("psync pair {end} --fingerprint"));
    }
    assert_nothing_written(&temp);
}

#[test]
fn a_file_that_makes_no_sense_is_found_out_before_anybody_is_called() {
    for name in ["known_peers", "authorized_peers"] {
        let temp = TempDir::new();
        write_file(file(&temp, "client", name), "ed25519:12 nonsense\n");
        let said = calling(&temp, "127.0.0.1:1", &[]).ends(42);
        assert!(said.contains(&format!("{name}, line 1")), "{said}");
        assert_eq!(read_text(file(&temp, "client", name)), "ed25519:12 nonsense\n");
    }
}

#[test]
fn a_place_that_has_another_key_keeps_it() {
    let temp = TempDir::new();
    let known = format!("server.lan {}\n", key_of(&temp, "somebody"));
    write_file(file(&temp, "client", "known_peers"), &known);
    let (listener, address) = listening(&temp, &[]);
    let caller = calling(&temp, &address, &["--place", "server.lan"]);
    let mut two = Two { listener, caller };
    two.both_say_yes();
    let (_, here) = two.both_end((42, 42));
    assert!(here.contains("known by ANOTHER KEY") && here.contains("line 1"), "{here}");
    assert_eq!(written(&temp, "client"), [Some(known), None]);
    assert_eq!(written(&temp, "server"), [None, None]);
}

#[test]
fn a_machine_that_serves_nothing_asks_about_nothing_and_one_that_serves_asks_at_both_ends() {
    let temp = TempDir::new();
    let served = temp.folder("served");
    let module = format!("[module.mine]\npath = '{}'\n", served.display());
    write_file(file(&temp, "client", "psyncd.toml"), module);
    let mut two = Two::meet(&temp, &["--place", "host:99"]);
    two.both_say_yes();
    two.listener.answer(NAME, "ana");
    two.listener.answer("names no modules yet", "p1=read");
    two.caller.answer(NAME, "ben");
    two.caller.answer("modules: mine", "mine=read,write");
    two.both_end((0, 0));
    let (client, server) = (key_of(&temp, "client"), key_of(&temp, "server"));
    let expected = [format!("host:99 {client}\n"), format!("{client} ana p1=read\n")];
    assert_eq!(written(&temp, "server"), expected.map(Some));
    let expected = [format!("host:99 {server}\n"), format!("{server} ben mine=read,write\n")];
    assert_eq!(written(&temp, "client"), expected.map(Some));
}

#[test]
fn what_does_not_pair_is_told_from_what_is_not_there() {
    let daemon = Served::to_strangers();
    let said = calling(&daemon.temp, &daemon.place(), &[]).ends(2);
    assert!(said.contains("psync pair --listen"), "{said}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = calling(&daemon.temp, &nobody, &[]).ends(10);
    assert!(said.contains("psync pair --listen"), "{said}");
    let mut itself = of_machine(&daemon.temp, "server");
    let (listener, address) = listening(&daemon.temp, &["--timeout", "2"]);
    itself.args(["pair", &address]);
    assert!(Terminal::run(itself).ends(42).contains("it is this machine itself"));
    listener.ends(30);
    let usage: &mut Command = &mut of_machine(&daemon.temp, "client");
    Said::of(usage.arg("pair"), 1).has("--listen");
}
