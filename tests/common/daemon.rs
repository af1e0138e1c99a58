//! A daemon of a machine of its own (its own configuration and key), and peers that call it.

#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::net::Net;
use super::pair::Said;
use super::{TempDir, psync};

/// A daemon that serves `served` as the module `p1`, and a folder `mine` beside it.
pub(crate) struct Served {
    pub(crate) temp: TempDir,
    pub(crate) served: PathBuf,
    pub(crate) mine: PathBuf,
    pub(crate) port: u16,
    pub(crate) net: Net,
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

/// A psync command of a machine of this name.
pub(crate) fn of_machine(temp: &TempDir, name: &str) -> Command {
    let mut command = psync(temp);
    command.env("XDG_CONFIG_HOME", temp.folder(name));
    command.env("XDG_RUNTIME_DIR", temp.folder("run"));
    command
}

/// The public key of a machine.
pub(crate) fn key_of(temp: &TempDir, name: &str) -> String {
    let said = Said::of(of_machine(temp, name).args(["id", "--json"]), 0);
    said.objects()[0]["key"].as_str().expect("a key").to_string()
}

impl Served {
    /// The daemon knows the machine `client` by these grants, which knows the daemon.
    pub(crate) fn granting(grants: &str) -> Served {
        Served::configured(grants, "")
    }

    /// The same, with more in its `psyncd.toml`, before the modules. `TEMP` stands for the folder of
    /// the test.
    pub(crate) fn configured(grants: &str, more: &str) -> Served {
        let served = Served::start(Net::Here, more);
        served.authorize("client", grants);
        served.reload();
        served.make_known();
        served
    }

    /// A daemon that nobody knows, and that knows nobody.
    pub(crate) fn to_strangers() -> Served {
        Served::start(Net::Here, "")
    }

    /// The same, somewhere.
    pub(crate) fn to_strangers_on(net: Net) -> Served {
        Served::start(net, "")
    }

    fn start(net: Net, more: &str) -> Served {
        let temp = TempDir::new();
        let (served, mine) = (temp.folder("served"), temp.folder("mine"));
        let folder = temp.folder("server/psync");
        let more = more.replace("TEMP", &temp.path().display().to_string());
        let module = format!("[module.p1]\npath = '{}'\ncomment = 'ours'\n", served.display());
        fs::write(folder.join("psyncd.toml"), more + "\n" + &module)
            .expect("the modules can be written");
        let (child, log) = start(&temp, &net, 0);
        let mut daemon = Served { temp, served, mine, port: 0, net, child, log };
        daemon.find_port();
        daemon
    }

    /// Ends the daemon, and starts it again at the same address.
    pub(crate) fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.log) = start(&self.temp, &self.net, self.port);
        self.find_port();
    }

    fn find_port(&mut self) {
        let listening = self.logged("listening", |_| true);
        let address = listening["address"].as_str().expect("an address");
        self.port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    }

    fn configuration(&self, name: &str) -> PathBuf {
        self.temp.join("server/psync").join(name)
    }

    /// Lets a machine in.
    pub(crate) fn authorize(&self, machine: &str, grants: &str) {
        let key = key_of(&self.temp, machine);
        self.write_authorized(&format!("{key} {machine} {grants}\n"));
    }

    pub(crate) fn write_modules(&self, text: &str) {
        fs::write(self.configuration("psyncd.toml"), text).expect("it can be written");
    }

    pub(crate) fn write_authorized(&self, text: &str) {
        fs::write(self.configuration("authorized_peers"), text).expect("it can be written");
    }

    /// Reads the configuration anew.
    pub(crate) fn reload(&self) {
        let before = self.events("reloaded").len();
        self.signal(Signal::HUP);
        self.wait_until("it has reloaded", || self.events("reloaded").len() > before);
    }

    /// The daemon's process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the daemon runs");
    }

    /// Where it is, as `known_peers` has it.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.net.server_address(), self.port)
    }

    /// Writes the daemon's key down for the machine `client`.
    pub(crate) fn make_known(&self) {
        self.write_known(&key_of(&self.temp, "server"), &self.place());
    }

    pub(crate) fn write_known(&self, key: &str, place: &str) {
        let file = self.temp.folder("client/psync").join("known_peers");
        fs::write(file, format!("{place} {key}\n")).expect("it can be written");
    }

    /// `psync psync://.../p1 mine` as the machine `client`.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        self.command_to(&format!("psync://{}/p1", self.place()), "client", &self.mine, options)
    }

    /// Any machine's sync of a module with a folder.
    pub(crate) fn command_to(
        &self,
        module: &str,
        machine: &str,
        folder: &Path,
        options: &[&str],
    ) -> Command {
        let mut command = of_machine(&self.temp, machine);
        command.args(options).arg(module).arg(folder);
        self.net.at_client(command)
    }

    /// The same, through something that listens at another port.
    pub(crate) fn command_at(&self, port: u16, options: &[&str]) -> Command {
        self.command_to(&format!("psync://127.0.0.1:{port}/p1"), "client", &self.mine, options)
    }

    #[track_caller]
    pub(crate) fn sync_expecting(&self, code: i32, options: &[&str]) -> Said {
        Said::of(&mut self.command(options), code)
    }

    /// The log's lines about such an event.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        let log = self.log.lock().expect("nobody panics with it");
        log.iter().filter(|line| line["event"] == event).cloned().collect()
    }

    /// Waits for a line about such an event.
    #[track_caller]
    pub(crate) fn logged(&self, event: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        self.wait_until(event, || {
            found = self.events(event).into_iter().find(|line| is_meant(line));
            found.is_some()
        });
        found.expect("it was found")
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not seen; the log:\n{:#?}", self.log);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the daemon has ended, and gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.wait().ok().and_then(|status| status.code())
    }
}

/// Starts a daemon at a port, and collects what it says.
fn start(temp: &TempDir, net: &Net, port: u16) -> (Child, Arc<Mutex<Vec<Value>>>) {
    let mut command = of_machine(temp, "server");
    let address = format!("{}:{port}", net.server_address());
    command.args(["--daemon", "--listen", &address, "--json"]);
    let mut child = net.at_server(command).stderr(Stdio::piped()).spawn().expect("psync starts");
    let log = Arc::new(Mutex::new(Vec::new()));
    let (lines, into) = (child.stderr.take().expect("a pipe"), log.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
            into.lock().expect("nobody panics with it").push(value);
        }
    });
    (child, log)
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
