//! What every integration test stands on: a temporary folder, the psync command in a clean
//! environment, and running commands so that a failure shows all that they printed.
//!
//! Use: `mod common;` at the head of a test file. `tree` makes and compares trees, `sshd` starts a
//! real OpenSSH server.

// Each test file compiles its own copy of this module and uses only a part of it.
#![allow(dead_code)]

pub(crate) mod crowd;
pub(crate) mod daemon;
pub(crate) mod net;
pub(crate) mod pair;
pub(crate) mod relay;
pub(crate) mod sshd;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod user;
pub(crate) mod wire;
pub(crate) mod witness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The psync program that cargo built for this test run.
pub(crate) const PSYNC: &str = env!("CARGO_BIN_EXE_psync");

/// A folder of its own for one test, removed with all it holds when dropped.
///
/// With `PSYNC_KEEP_TEMP` set it stays, to be looked at after a failure.
pub(crate) struct TempDir {
    path: PathBuf,
}

impl TempDir {
    pub(crate) fn new() -> TempDir {
        TempDir::below(&std::env::temp_dir())
    }

    /// In memory where there is such a folder: for tests of many runs that wait for the disk.
    pub(crate) fn in_memory() -> TempDir {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { TempDir::below(memory) } else { TempDir::new() }
    }

    fn below(folder: &Path) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nanos =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("psync-test-{}-{count}-{nanos}", std::process::id());
        let path = folder.join(name);
        fs::create_dir(&path).expect("the temporary folder can be created");
        set_mode(&path, 0o700);
        TempDir { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in this folder; nothing is created.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Creates the folder `name` in this one.
    pub(crate) fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("a folder can be created");
        path
    }
}

impl Default for TempDir {
    fn default() -> Self {
        TempDir::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("PSYNC_KEEP_TEMP").is_some() {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        if fs::remove_dir_all(&self.path).is_err() {
            // A test left folders that may not be listed or changed: open them up and try again.
            unlock_folders(&self.path);
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn unlock_folders(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock_folders(&entry.path());
        }
    }
}

/// A psync command in a clean environment: its home is `temp/home`, its clock UTC, its language C.
pub(crate) fn psync(temp: &TempDir) -> Command {
    let mut command = Command::new(PSYNC);
    command.env_clear();
    command.env("HOME", temp.folder("home"));
    command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A psync command whose remote end is started by the remote shell `rsh`.
pub(crate) fn psync_over(temp: &TempDir, rsh: &str) -> Command {
    let mut command = psync(temp);
    command.args(["--rsh", rsh, "--psync-path", PSYNC]);
    command
}

/// Writes a remote shell that needs no network: it drops the host and runs the command here, as a
/// process of its own, whose id it leaves in `temp/remote.pid`. Returns its path, for `--rsh`.
pub(crate) fn local_rsh(temp: &TempDir) -> String {
    let pid_file = temp.join("remote.pid");
    let script = temp.join("rsh");
    let text =
        format!("#!/bin/sh\nshift\necho $$ >'{}'\nexec sh -c \"exec $*\"\n", pid_file.display());
    fs::write(&script, text).expect("the rsh script can be written");
    set_mode(&script, 0o755);
    script.display().to_string()
}

/// A command that is killed before its so manieth rename, if it makes so many.
pub(crate) fn killed_before_rename(command: &Command, rename: usize) -> Command {
    let mut killed = Command::new(require_program("strace"));
    killed.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e"]);
    killed.arg(format!("inject=renameat2:signal=SIGKILL:when={rename}"));
    killed.arg(command.get_program()).args(command.get_args()).env_clear();
    killed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        killed.current_dir(folder);
    }
    killed
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
}

/// Runs a command that must succeed, and returns what it wrote to its standard output.
#[track_caller]
pub(crate) fn run_ok(command: &mut Command) -> String {
    run_expecting(command, 0)
}

/// Runs a command that must end with this exit code, and returns its standard output.
#[track_caller]
pub(crate) fn run_expecting(command: &mut Command, code: i32) -> String {
    let output = run(command);
    assert!(
        output.status.code() == Some(code),
        "expected exit code {code}\n{}",
        describe(command, &output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The command, how it ended and all that it printed, for the message of a failed test.
pub(crate) fn describe(command: &Command, output: &Output) -> String {
    format!(
        "command: {command:?}\nended: {}\n--- stdout ---\n{}\n--- stderr ---\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    )
}

/// Writes a file, with the folders above it where they are missing.
pub(crate) fn write_file(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Reads a file that must be there, as text.
#[track_caller]
pub(crate) fn read_text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("{}: chmod: {error}", path.display()));
}

/// Where a program stands: in `PATH`, or in the folders of system programs that a plain user's
/// `PATH` often lacks. A missing program fails the test: a skipped test shows nothing.
#[track_caller]
pub(crate) fn require_program(name: &str) -> PathBuf {
    let from_path = std::env::var_os("PATH").unwrap_or_default();
    let system =
        ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&from_path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("this test needs the program '{name}', which is not installed here")
        })
}
