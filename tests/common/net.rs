//! Where the two machines of a test are: on this one's loopback, each with an address of its own; or
//! each in a network namespace of its own, where the test may make such.

#![allow(dead_code)]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::run_ok;

/// The network between a server and a client.
#[derive(Clone)]
pub(crate) enum Net {
    /// One machine and one address.
    Here,
    /// One machine: the server listens at 127.0.0.2, and clients call from 127.0.0.1.
    Loopback,
    /// Two namespaces, joined by a cable.
    Namespaces(Rc<Cable>),
}

/// Two namespaces, which last as long as this does.
pub(crate) struct Cable {
    server: Namespace,
    client: Namespace,
}

/// A network namespace, kept by a process that sleeps in it.
struct Namespace(Child);

impl Net {
    /// Two namespaces; none where that is not permitted, or the programs for it are not there.
    pub(crate) fn namespaces() -> Option<Net> {
        let permitted = Command::new("unshare").args(["-n", "ip", "link"]).output();
        if !permitted.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let (server, client) = (Namespace::new(), Namespace::new());
        let far = client.0.id().to_string();
        server
            .ip(&["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far]);
        for (namespace, address) in [(&server, "10.77.0.1/24"), (&client, "10.77.0.2/24")] {
            namespace.ip(&["addr", "add", address, "dev", "cable"]);
            namespace.ip(&["link", "set", "cable", "up"]);
            namespace.ip(&["link", "set", "lo", "up"]);
        }
        Some(Net::Namespaces(Rc::new(Cable { server, client })))
    }

    /// Where the server listens.
    pub(crate) fn server_address(&self) -> &'static str {
        match self {
            Net::Here => "127.0.0.1",
            Net::Loopback => "127.0.0.2",
            Net::Namespaces(_) => "10.77.0.1",
        }
    }

    /// A command, run where the server is.
    pub(crate) fn at_server(&self, command: Command) -> Command {
        match self {
            Net::Here | Net::Loopback => command,
            Net::Namespaces(cable) => cable.server.inside(&command),
        }
    }

    /// A command, run where the clients are.
    pub(crate) fn at_client(&self, command: Command) -> Command {
        match self {
            Net::Here | Net::Loopback => command,
            Net::Namespaces(cable) => cable.client.inside(&command),
        }
    }
}

impl Namespace {
    fn new() -> Namespace {
        let mut sleep = Command::new("unshare");
        sleep.args(["-n", "sleep", "600"]).stdin(Stdio::null());
        let child = sleep.spawn().expect("it was permitted a moment ago");
        let network = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
        let (own, deadline) = (network("self"), Instant::now() + Duration::from_secs(10));
        while network(&child.id().to_string()) == own {
            assert!(Instant::now() < deadline, "no namespace came to be");
            std::thread::sleep(Duration::from_millis(2));
        }
        Namespace(child)
    }

    fn enter(&self) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &self.0.id().to_string(), "-n", "--"]);
        enter
    }

    fn ip(&self, arguments: &[&str]) {
        run_ok(self.enter().arg("ip").args(arguments));
    }

    /// The same command with the same environment and nothing else of ours in it.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = self.enter();
        inside.arg(command.get_program()).args(command.get_args()).env_clear();
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
