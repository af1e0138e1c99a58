//! A daemon as a service: what systemd hands over and hears, one daemon for a configuration, limits,
//! the audit log, and a crowd at the door.
//!
//!     cargo test --test service

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::crowd::{Crowd, address, connect_from};
use common::daemon::{Served, key_of, of_machine};
use common::pair::{Said, names, noise};
use common::tree::assert_same_trees;
use common::{PSYNC, TempDir, local_rsh, psync_over, read_text, write_file};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ALL: &str = "p1=read,write,delete";

/// Kills a process when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_configuration_has_one_daemon() {
    let daemon = Served::granting(ALL);
    let mut second = of_machine(&daemon.temp, "server");
    second.args(["--daemon", "--listen", "127.0.0.1:0"]);
    let process = format!("process {}", daemon.process());
    Said::of(&mut second, 5).has("another psync --daemon").has(&process);
    // Nor one that looks for locks elsewhere.
    second.env("XDG_RUNTIME_DIR", daemon.temp.folder("run2"));
    Said::of(&mut second, 5).has("another psync --daemon");
    daemon.sync_expecting(0, &[]);
}

#[test]
fn sockets_of_both_families_are_taken_over_and_states_are_told() {
    let temp = TempDir::new();
    let (served, mine) = (temp.folder("served"), temp.folder("mine"));
    write_file(served.join("a"), "1");
    let module = format!("[module.p1]\npath = '{}'\n", served.display());
    write_file(temp.join("server/psync/psyncd.toml"), module);
    let client = key_of(&temp, "client");
    write_file(temp.join("server/psync/authorized_peers"), format!("{client} client {ALL}\n"));
    let notify = UnixDatagram::bind(temp.join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = notify.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
    let places = [&sockets[0], &sockets[1]].map(|socket| socket.local_addr().unwrap());
    let [four, six] = sockets.map(OwnedFd::from);
    // The shell puts them where systemd does, and stays the same process.
    let script =
        "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" --daemon";
    let command = of_machine(&temp, "server");
    let variables: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let mut shell = Command::new("sh");
    shell.env_clear().envs(variables).env("NOTIFY_SOCKET", temp.join("notify"));
    shell.args(["-c", script, PSYNC]).stdin(Stdio::from(four)).stdout(Stdio::from(six));
    drop(command);
    let mut daemon = Killed(shell.spawn().unwrap());
    assert_eq!(heard(), "READY=1\nSTATUS=Serving 1 module");
    let server = key_of(&temp, "server");
    let known: String = places.iter().map(|place| format!("{place} {server}\n")).collect();
    write_file(temp.join("client/psync/known_peers"), known);
    for place in places {
        let mut command = of_machine(&temp, "client");
        Said::of(command.arg(format!("psync://{place}/p1")).arg(&mine), 0);
        assert_same_trees(&served, &mine);
    }
    let process = Pid::from_child(&daemon.0);
    kill_process(process, Signal::HUP).unwrap();
    assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(heard().starts_with("READY=1\n"));
    kill_process(process, Signal::TERM).unwrap();
    assert!(heard().starts_with("STOPPING=1\n"));
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_handed_over_and_does_not_listen_is_an_error() {
    let temp = TempDir::new();
    let script = "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --daemon";
    let mut shell = Command::new("sh");
    shell.env_clear().env("HOME", temp.path()).env("XDG_RUNTIME_DIR", temp.path());
    Said::of(shell.args(["-c", script, PSYNC]), 5).has("descriptor 3 of LISTEN_FDS is no socket");
}

#[test]
fn a_file_that_makes_no_sense_starts_no_daemon_and_names_what_was_meant() {
    let temp = TempDir::new();
    let file = temp.join("server/psync/psyncd.toml");
    for (text, line, meant) in [
        ("[limits]\nhandshak = 5\n", 2, "did you mean 'handshake'?"),
        ("\n[limits]\nsessions = 0\n", 3, "sessions is not a number from 1 to 4096"),
        ("[module.a]\npath = '/a'\n[module.a.limits]\nentires = 5\n", 4, "did you mean 'entries'?"),
        ("[log]\naudit = 'relative'\n", 2, "begins with /"),
    ] {
        write_file(&file, text);
        let said = Said::of(of_machine(&temp, "server").arg("--daemon"), 1);
        said.has(meant).has(&format!("psyncd.toml, line {line}"));
    }
}

#[test]
fn modules_that_are_not_there_or_lie_in_another_one_are_named_in_the_log() {
    let more = "[module.gone]\npath = 'TEMP/gone'\n[module.inner]\npath = 'TEMP/served/sub'\n";
    let daemon = Served::configured(ALL, more);
    let gone = daemon.logged("module-missing", |line| line["module"] == "gone");
    assert_eq!(gone["path"].as_str().map(Path::new), Some(&*daemon.temp.join("gone")));
    daemon.temp.folder("served/sub");
    daemon.reload();
    daemon.logged("module-inside", |line| line["module"] == "inner" && line["other"] == "p1");
    assert!(daemon.events("module-missing").iter().all(|line| line["module"] != "p1"));
    daemon.sync_expecting(0, &[]);
}

#[test]
fn a_peer_has_so_many_sessions_at_a_time_and_the_daemon_too() {
    for (limits, refusal) in [
        ("sessions-per-peer = 1", "this peer has as many sessions"),
        ("sessions = 1", "the daemon has as many sessions"),
    ] {
        let daemon = Served::configured(ALL, &format!("[limits]\n{limits}\n"));
        write_file(daemon.mine.join("big"), noise(1, 4 << 20));
        let mut slow = daemon.command(&["--bwlimit", "100"]);
        let _slow = Killed(slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let staged = daemon.served.join(".psync/stage");
        daemon.wait_until("a session is at work", || {
            fs::read_dir(&staged).is_ok_and(|mut files| files.next().is_some())
        });
        let place = format!("psync://{}/", daemon.place());
        let mut second = of_machine(&daemon.temp, "client");
        Said::of(second.args(["--list", &place]), 41).has(refusal);
        let other = daemon.temp.folder("other");
        let mut third = of_machine(&daemon.temp, "client");
        third.arg(format!("psync://{}/p1", daemon.place())).arg(other);
        Said::of(&mut third, 41).has(refusal);
    }
}

#[test]
fn who_says_nothing_is_cut_off_when_its_time_is_over() {
    let daemon = Served::configured(ALL, "[limits]\nhandshake = 1\n");
    let started = Instant::now();
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, daemon.port).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(5), "{waited:?}");
    let why = daemon.logged("refused", |_| true)["why"].as_str().unwrap().to_string();
    assert!(why.contains("within 1 seconds"), "{why}");
}

#[test]
fn of_strangers_too_many_those_of_the_fullest_address_go() {
    let daemon = Served::configured(ALL, "[limits]\nstrangers = 6\nstrangers-per-address = 4\n");
    let mut alone = connect_from(address(0), daemon.port).unwrap();
    let connect = |number: usize| connect_from(address(number), daemon.port).unwrap();
    let mut streams: Vec<_> = (0..12).map(|number| connect(1 + number % 2)).collect();
    daemon.wait_until("seven are refused", || daemon.events("refused").len() >= 7);
    for stream in streams.iter_mut().chain([&mut alone]) {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let is_open = |stream: &mut std::net::TcpStream| stream.read(&mut [0]).is_err();
    assert!(is_open(&mut alone));
    assert_eq!(streams.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count(), 5);
    daemon.sync_expecting(0, &[]);
}

#[test]
fn who_states_too_much_is_told_which_limit_it_was() {
    let limits = "[limits]\nentries = 20\ndepth = 3\ncomponent = 30\npath = 60\n";
    let fine = || {
        let daemon = Served::configured(ALL, limits);
        write_file(daemon.mine.join("fine"), "1");
        daemon.sync_expecting(0, &[]);
        daemon
    };
    for (path, what) in [
        ("a/b/c/d", "the depth of a path is 4"),
        ("a-name-that-is-longer-than-thirty-bytes", "a name's length in bytes"),
        ("twenty-nine-bytes-are-not-too/twenty-nine-bytes-are-not-too/x", "a path's length"),
    ] {
        let daemon = fine();
        write_file(daemon.mine.join(path), "1");
        daemon.sync_expecting(12, &[]).has(what);
        assert_eq!(names(&daemon.served), ["fine"]);
    }
    let daemon = fine();
    for number in 0..30 {
        write_file(daemon.mine.join(format!("file{number}")), "1");
    }
    daemon.sync_expecting(12, &[]).has("limits.entries");
    let why = daemon.logged("failed", |line| line["why"].to_string().contains("limits.entries"));
    assert_eq!((&why["peer"], &why["module"]), (&"client".into(), &"p1".into()));
    assert_eq!(names(&daemon.served), ["fine"]);
}

#[test]
fn who_states_more_than_a_session_may_hold_is_refused_before_it_is_held() {
    let daemon = Served::configured(ALL, "[limits]\nmemory = '16M'\n");
    let peak = || {
        let status = read_text(format!("/proc/{}/status", daemon.process()));
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    let before = peak();
    for number in 0..20_000 {
        write_file(daemon.mine.join(format!("folder{}/file{number}", number % 50)), "");
    }
    daemon.sync_expecting(12, &[]).has("limits.memory").has("16777216");
    assert!(names(&daemon.served).is_empty());
    let grown = peak() - before;
    assert!(grown < 48 << 20, "{grown} bytes");
    fs::remove_dir_all(&daemon.mine).unwrap();
    write_file(daemon.temp.folder("mine").join("little"), "1");
    let toml = daemon.temp.join("server/psync/psyncd.toml");
    fs::write(&toml, read_text(&toml).replace("'16M'", "'512M'")).unwrap();
    daemon.reload();
    daemon.sync_expecting(0, &[]);
    assert_same_trees(&daemon.served, &daemon.mine);
}

fn audited(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_audit_log_has_who_came_what_they_may_do_and_each_change() {
    let daemon = Served::configured(ALL, "[log]\naudit = 'TEMP/audit'\n");
    let path = daemon.temp.join("audit");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    write_file(daemon.mine.join("a"), "one");
    write_file(daemon.mine.join("b\u{1b}[2J"), "b");
    daemon.sync_expecting(0, &[]);
    write_file(daemon.mine.join("a"), "two!");
    fs::remove_file(daemon.mine.join("b\u{1b}[2J")).unwrap();
    daemon.sync_expecting(0, &[]);
    daemon.wait_until("both are over", || daemon.events("served").len() == 2);
    let lines = audited(&path);
    let of = |what: &str| lines.iter().filter(|line| line["what"] == what).collect::<Vec<_>>();
    assert_eq!((of("started").len(), of("accepted").len(), of("ended").len()), (1, 2, 2));
    let accepted = of("accepted")[0];
    assert_eq!(
        (&accepted["peer"], &accepted["key"]),
        (&"client".into(), &key_of(&daemon.temp, "client").into())
    );
    let authorised = of("authorised")[0];
    assert_eq!(
        (&authorised["module"], &authorised["rights"][""]),
        (&"p1".into(), &"list,read,write,delete".into())
    );
    let changes = of("change");
    let told: Vec<(String, String)> = changes
        .iter()
        .map(|line| {
            (line["change"].as_str().unwrap().into(), line["path"].as_str().unwrap().into())
        })
        .collect();
    let expected =
        [("create", "a"), ("create", "b\\u{1b}[2J"), ("delete", "b\\u{1b}[2J"), ("update", "a")];
    let mut sorted = told.clone();
    sorted.sort();
    assert_eq!(sorted, expected.map(|(what, path)| (what.to_string(), path.to_string())));
    let update = changes.iter().find(|line| line["change"] == "update").unwrap();
    assert_eq!((&update["before"]["size"], &update["after"]["size"]), (&3.into(), &4.into()));
    let hash = blake3::hash(b"two!").to_hex().to_string();
    assert_eq!(update["after"]["hash"].as_str(), Some(hash.as_str()));
    let sessions: Vec<&Value> = lines.iter().map(|line| &line["session"]).collect();
    assert!(sessions.contains(&&daemon.events("served")[0]["session"]));
    assert!(!read_text(&path).contains('\u{1b}'));
}

#[test]
fn the_audit_log_survives_rotation_and_who_was_refused_is_in_it() {
    let daemon = Served::configured(ALL, "[log]\naudit = 'TEMP/audit'\n");
    let (path, old) = (daemon.temp.join("audit"), daemon.temp.join("audit.1"));
    let mut other = of_machine(&daemon.temp, "other");
    write_file(
        daemon.temp.join("other/psync/known_peers"),
        format!("{} {}\n", daemon.place(), key_of(&daemon.temp, "server")),
    );
    Said::of(other.args(["--list", &format!("psync://{}/", daemon.place())]), 42);
    let refused = || audited(&path).into_iter().find(|line| line["what"] == "refused");
    daemon.wait_until("the refusal is in the audit log", || refused().is_some());
    fs::rename(&path, &old).unwrap();
    daemon.reload();
    daemon.sync_expecting(0, &[]);
    let key = key_of(&daemon.temp, "other");
    let refused = audited(&old).into_iter().find(|line| line["what"] == "refused").unwrap();
    assert_eq!(refused["key"].as_str(), Some(key.as_str()));
    daemon.wait_until("the session is over", || daemon.events("served").len() == 1);
    let after: Vec<String> =
        audited(&path).iter().map(|line| line["what"].as_str().unwrap().to_string()).collect();
    assert_eq!(after, ["reloaded", "accepted", "authorised", "ended"]);
}

#[test]
fn no_session_begins_that_cannot_be_written_down() {
    let daemon = Served::configured(ALL, "[log]\naudit = 'TEMP/audit'\n");
    // A daemon that is to write elsewhere and cannot goes on with what it had.
    let toml = daemon.temp.join("server/psync/psyncd.toml");
    let text = read_text(&toml);
    fs::write(&toml, text.replace("/audit'", "/missing/audit'")).unwrap();
    daemon.signal(Signal::HUP);
    let why = daemon.logged("not-reloaded", |_| true)["why"].as_str().unwrap().to_string();
    assert!(why.contains("missing/audit"), "{why}");
    daemon.sync_expecting(0, &[]);
    // Whoever is to come in no longer stays out, whatever else is wrong.
    daemon.write_authorized("");
    daemon.signal(Signal::HUP);
    daemon.wait_until("it has tried again", || daemon.events("not-reloaded").len() == 2);
    daemon.sync_expecting(42, &[]);
    daemon.authorize("client", ALL);
    daemon.write_modules("this is not toml");
    daemon.signal(Signal::HUP);
    daemon.wait_until("it has tried a third time", || daemon.events("not-reloaded").len() == 3);
    daemon.sync_expecting(0, &[]);
    // And one that never could does not start.
    let temp = TempDir::new();
    let served = temp.folder("served");
    let module = |more: &str| format!("{more}\n[module.p1]\npath = '{}'\n", served.display());
    let file = temp.join("server/psync/psyncd.toml");
    write_file(&file, module("[log]\naudit = '/dev/full'"));
    Said::of(of_machine(&temp, "server").arg("--daemon"), 5).has("audit log");
}

#[test]
fn what_a_remote_shell_does_is_in_the_audit_log_too() {
    let temp = TempDir::new();
    let (served, mine) = (temp.folder("served"), temp.folder("mine"));
    write_file(mine.join("a"), "1");
    let audit = temp.join("audit");
    let toml = format!(
        "[log]\naudit = '{}'\n[module.p1]\npath = '{}'\n",
        audit.display(),
        served.display()
    );
    write_file(temp.join("home/.config/psync/psyncd.toml"), toml);
    Said::of(psync_over(&temp, &local_rsh(&temp)).arg("host::p1").arg(&mine), 0);
    let lines = audited(&audit);
    assert_eq!(
        (&lines[0]["what"], &lines[0]["peer"]),
        (&"authorised".into(), &"remote shell".into())
    );
    assert_eq!((&lines[1]["change"], &lines[1]["path"]), (&"create".into(), &"a".into()));
}

#[test]
fn five_hundred_connections_that_trickle_keep_nobody_out() {
    let daemon = Served::granting(ALL);
    write_file(daemon.served.join("theirs"), "1");
    let crowd = Crowd::gather(daemon.port, 500, 100);
    daemon.wait_until("the door is full", || crowd.connected() >= 500 && crowd.thrown_out() > 300);
    for round in 0..5 {
        write_file(daemon.mine.join(format!("ours{round}")), round.to_string());
        daemon.sync_expecting(0, &[]);
        assert_same_trees(&daemon.served, &daemon.mine);
    }
    drop(crowd);
    daemon.sync_expecting(0, &[]).has("nothing to do");
}

#[test]
fn the_units_are_ones_that_systemd_understands() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let (service, socket) =
        (read_text(units.join("psync.service")), read_text(units.join("psync.socket")));
    // What the program and the units have to agree on.
    for line in ["Type=notify", "ExecStart=/usr/bin/psync --daemon", "NoNewPrivileges=yes"] {
        assert!(service.lines().any(|other| other == line), "{line}");
    }
    assert!(service.contains("pidfd_getfd"));
    for line in ["ListenStream=0.0.0.0:8730", "ListenStream=[::]:8730", "BindIPv6Only=ipv6-only"] {
        assert!(socket.lines().any(|other| other == line), "{line}");
    }
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else { return };
    assert!(version.status.success());
    // The program at hand in the place of the one that is to be installed.
    let temp = TempDir::new();
    let here = service.replace("/usr/bin/psync", PSYNC);
    fs::write(temp.join("psync.service"), here).unwrap();
    fs::write(temp.join("psync.socket"), socket).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no"])
        .args(["psync.service", "psync.socket"].map(|unit| temp.join(unit)));
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("psync."), "{said}");
}
