//! A daemon of this process, and peers that call it and do not do as they should.

use std::path::Path;

use super::*;
use crate::daemon::{Modules, ask_for_modules, request_sync};
use crate::identity::AuthorizedPeers;
use crate::sync::{Keeping, SyncError};
use crate::transport::Compression;

const PATIENCE: Duration = Duration::from_secs(10);

fn key(byte: u8) -> MachineKey {
    MachineKey::from_secret(&[byte; 32]).unwrap()
}

/// A daemon that lets the peers 1 and 2 in; `keeping` is asked for when a session begins.
fn daemon(
    limits: &str,
    keeping: fn(&Path, bool) -> Result<Keeping, SyncError>,
) -> (Daemon, SocketAddr) {
    let modules = format!("[module.a]\npath = '/'\n[limits]\n{limits}\n");
    let authorized = format!("{} ana a=read\n{} bob a=read\n", key(1).public(), key(2).public());
    let policy = Policy {
        modules: Modules::parse(&modules, Path::new("psyncd.toml")).unwrap(),
        authorized: AuthorizedPeers::parse(&authorized, Path::new("authorized_peers")).unwrap(),
    };
    let names = || panic!("no session gets so far");
    let habits = Habits { keeping, names };
    let daemon = Daemon::new(Setup { key: key(9), policy, habits, audit: Arc::default() });
    let address = daemon.listen("127.0.0.1:0").unwrap();
    (daemon, address)
}

/// Somebody has connected, and said who it is.
fn call(address: SocketAddr, byte: u8) -> Secured {
    let stream = TcpStream::connect(address).unwrap();
    Secured::connect(stream, &key(byte), Arc::new(|_| true), PATIENCE).unwrap()
}

/// What a peer is told that asks which modules there are.
fn list(address: SocketAddr, byte: u8) -> Result<usize, String> {
    let (pump, input, output) = call(address, byte).pump().unwrap();
    let told = ask_for_modules((input, output));
    let _ = pump.finish(PATIENCE);
    told.map(|modules| modules.len()).map_err(|error| error.to_string())
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_peer_that_calls_again_and_again_and_asks_for_nothing_keeps_nobody_else_out() {
    let limits = "sessions = 4\nsessions-per-peer = 2\nstrangers = 8\nstrangers-per-address = 8";
    let (daemon, address) = daemon(limits, |_, _| unreachable!());
    let silent: Vec<Secured> = (0..40).map(|_| call(address, 1)).collect();
    wait_until("two of them have a session", || locked(&daemon.0.door).sessions.len() == 2);
    assert_eq!(list(address, 2), Ok(1));
    let refused = list(address, 1).unwrap_err();
    assert!(refused.contains("this peer has as many sessions"), "{refused}");
    // Whoever listed is gone before its thread has said so.
    wait_until("the other one's session is over", || locked(&daemon.0.door).sessions.len() == 2);
    let door = locked(&daemon.0.door);
    assert!(door.strangers.len() <= 8, "{}", door.strangers.len());
    drop((door, silent));
}

#[test]
fn a_session_that_fails_in_a_way_that_nobody_thought_of_is_counted_no_longer() {
    let (daemon, address) = daemon("", |_, _| panic!("this is part of the test"));
    for _ in 0..3 {
        let (pump, input, output) = call(address, 1).pump().unwrap();
        request_sync(&output, "a", true, Compression::Off).unwrap();
        drop((input, output));
        let _ = pump.finish(PATIENCE);
        wait_until("nobody is there", || locked(&daemon.0.door).sessions.is_empty());
    }
}
