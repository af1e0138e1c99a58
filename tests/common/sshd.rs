//! A real OpenSSH server on the loopback interface, for tests of psync over ssh as people use it.
//!
//! It runs as the current user, root or not, on a free port, with keys and configuration made for
//! this one server in a temporary folder. Nothing of the user's own ssh configuration, agent or
//! home is read or changed. A missing sshd or ssh-keygen fails the test.
//!
//!     let sshd = Sshd::start();
//!     run_ok(psync_over(&temp, sshd.rsh()).arg(sshd.target(&far)).arg(&near));

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{TempDir, read_text, require_program, run, run_ok};

/// The name by which the server's ssh configuration knows it.
const HOST: &str = "psync-test";

/// How often another port is tried, when somebody took the one that was free a moment ago.
const ATTEMPTS: usize = 5;

/// A running server; dropping it ends exactly the process that was started here.
pub(crate) struct Sshd {
    server: Child,
    port: u16,
    rsh: String,
    temp: TempDir,
}

impl Sshd {
    /// Starts a server and returns when a login has succeeded.
    pub(crate) fn start() -> Sshd {
        let temp = TempDir::new();
        make_keys(&temp);
        create_privilege_separation_folder();
        let (server, port) = (0..ATTEMPTS)
            .find_map(|_| start_on_free_port(&temp))
            .unwrap_or_else(|| panic!("sshd does not start:\n{}", server_log(&temp)));
        let client_config = write_client_config(&temp, port);
        let rsh = format!("ssh -F {}", client_config.display());
        let sshd = Sshd { server, port, rsh, temp };
        sshd.assert_login_works();
        sshd
    }

    /// For psync's `--rsh`.
    pub(crate) fn rsh(&self) -> &str {
        &self.rsh
    }

    /// The host name that the configuration named in `rsh` knows.
    pub(crate) fn host(&self) -> &str {
        HOST
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The path as psync's argument: `host:/path`.
    pub(crate) fn target(&self, path: &Path) -> String {
        format!("{HOST}:{}", path.display())
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        server_log(&self.temp)
    }

    /// An ssh command that runs `remote_command` on the server.
    pub(crate) fn ssh(&self, remote_command: &str) -> Command {
        let mut ssh = Command::new(require_program("ssh"));
        ssh.arg("-F").arg(self.temp.join("ssh_config")).arg(HOST).arg(remote_command);
        ssh
    }

    fn assert_login_works(&self) {
        let output = run(&mut self.ssh("echo logged in"));
        let answer = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            answer.trim() == "logged in",
            "no login to the test's sshd: {complaint}\n{}",
            self.log()
        );
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

fn make_keys(temp: &TempDir) {
    for name in ["host_key", "user_key"] {
        let mut keygen = Command::new(require_program("ssh-keygen"));
        run_ok(
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(temp.join(name)),
        );
    }
    fs::copy(temp.join("user_key.pub"), temp.join("authorized_keys"))
        .expect("authorized_keys can be written");
    let known_host = format!("{HOST} {}", read_text(temp.join("host_key.pub")));
    fs::write(temp.join("known_hosts"), known_host).expect("known_hosts can be written");
}

/// Root's sshd refuses to start without this folder, which the system makes only when it starts
/// its own sshd.
fn create_privilege_separation_folder() {
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").expect("/run/sshd can be created");
    }
}

fn start_on_free_port(temp: &TempDir) -> Option<(Child, u16)> {
    let port = free_port();
    let config = write_server_config(temp, port);
    let log = fs::File::create(temp.join("sshd.log")).expect("sshd.log can be created");
    let mut server = Command::new(require_program("sshd"))
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sshd can be started");
    if answers(&mut server, port) {
        return Some((server, port));
    }
    end(&mut server);
    None
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    listener.local_addr().expect("a bound listener has an address").port()
}

fn write_server_config(temp: &TempDir, port: u16) -> PathBuf {
    let folder = temp.path().display();
    let home = temp.folder("remote_home");
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\n\
         HostKey {folder}/host_key\n\
         AuthorizedKeysFile {folder}/authorized_keys\n\
         PidFile none\n\
         StrictModes no\n\
         UsePAM no\n\
         PermitRootLogin prohibit-password\n\
         PubkeyAuthentication yes\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         PrintMotd no\n\
         MaxStartups 100\n\
         SetEnv \"HOME={}\"\n",
        home.display()
    );
    let path = temp.join("sshd_config");
    fs::write(&path, text).expect("sshd_config can be written");
    path
}

fn write_client_config(temp: &TempDir, port: u16) -> PathBuf {
    let folder = temp.path().display();
    let user = run_ok(Command::new("id").arg("-un"));
    let text = format!(
        "Host {HOST}\n\
         HostName 127.0.0.1\n\
         Port {port}\n\
         User {}\n\
         HostKeyAlias {HOST}\n\
         UserKnownHostsFile {folder}/known_hosts\n\
         GlobalKnownHostsFile /dev/null\n\
         StrictHostKeyChecking yes\n\
         IdentityFile {folder}/user_key\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         ControlPath none\n\
         BatchMode yes\n\
         ConnectTimeout 10\n\
         LogLevel ERROR\n",
        user.trim()
    );
    let path = temp.join("ssh_config");
    fs::write(&path, text).expect("ssh_config can be written");
    path
}

/// Waits for the server's greeting on its port; false if it ended or stayed silent.
fn answers(server: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if server.try_wait().expect("sshd can be waited for").is_some() {
            return false;
        }
        if greeting(port).is_some_and(|greeting| &greeting == b"SSH-") {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

fn greeting(port: u16) -> Option<[u8; 4]> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut first = [0; 4];
    stream.read_exact(&mut first).ok()?;
    Some(first)
}

fn end(server: &mut Child) {
    let _ = server.kill();
    let _ = server.wait();
}

fn server_log(temp: &TempDir) -> String {
    fs::read_to_string(temp.join("sshd.log")).unwrap_or_default()
}
