//! Starting psync on the other machine, through the system's `ssh` or what stands for it.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::Compression;

/// How the other end is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCommand {
    /// The remote shell and its arguments.
    pub rsh: Vec<String>,
    /// `[user@]host`.
    pub host: String,
    /// The program there; the remote shell splits and expands it.
    pub program: String,
    /// The root there, relative to the home directory if not absolute.
    pub path: String,
    /// Whether a root that is missing there may not be made.
    pub must_exist: bool,
    /// How it is to compress what it sends, unless this end's greeting wants it as it is.
    pub compression: Compression,
    /// Whether it uses and fills its store of old contents.
    pub store: bool,
}

/// The remote shell could not be started.
#[derive(Debug, Error)]
#[error(
    "cannot start the remote shell '{program}': {error}; install it or name another with --rsh"
)]
pub struct SpawnError {
    program: String,
    error: io::Error,
}

/// A remote shell at work.
#[derive(Debug)]
pub struct Remote {
    child: Child,
}

impl RemoteCommand {
    /// Starts it; gives what it writes, and where it reads.
    pub fn spawn(&self) -> Result<(Remote, OwnedFd, OwnedFd), SpawnError> {
        let mut arguments = vec!["--server".to_string()];
        arguments.extend((!self.store).then(|| "--no-store".to_string()));
        arguments.extend(self.must_exist.then(|| "--must-exist".to_string()));
        arguments.extend(match self.compression {
            Compression::Level(level) => Some(format!("--compress-level={level}")),
            Compression::Off | Compression::Fitting => None,
        });
        arguments.extend(["--".to_string(), quoted(&self.path)]);
        start(&self.rsh, &self.host, &self.program, &arguments)
    }

    /// Starts a daemon there that serves one request, with the modules of whoever it runs as.
    pub fn spawn_daemon(
        rsh: &[String],
        host: &str,
        program: &str,
    ) -> Result<(Remote, OwnedFd, OwnedFd), SpawnError> {
        start(rsh, host, program, &["--daemon".to_string(), "--stdio".to_string()])
    }
}

/// Starts a program on a host; gives what it writes, and where it reads.
fn start(
    rsh: &[String],
    host: &str,
    program: &str,
    arguments: &[String],
) -> Result<(Remote, OwnedFd, OwnedFd), SpawnError> {
    let (shell, options) = shell(rsh);
    let failed = |error| SpawnError { program: shell.to_string(), error };
    let mut child = Command::new(shell)
        .args(options)
        .args([host, program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (output, input) = match (child.stdout.take(), child.stdin.take()) {
        (Some(output), Some(input)) => (OwnedFd::from(output), OwnedFd::from(input)),
        _ => return Err(failed(io::Error::other("it has no pipes"))),
    };
    Ok((Remote { child }, output, input))
}

/// How any command of psync is run on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandThere {
    /// The remote shell and its arguments.
    pub rsh: Vec<String>,
    /// `[user@]host`.
    pub host: String,
    /// The program there.
    pub program: String,
    /// The command and its options: words that no shell changes.
    pub words: Vec<String>,
    /// The root there, which follows `--root`.
    pub path: String,
    /// What it reads from its standard input.
    pub input: String,
}

impl CommandThere {
    /// Runs it to its end: its exit code, if it was not ended by a signal, and what it wrote. What it
    /// complains of goes where this process's own complaints go.
    pub fn run(&self) -> Result<(Option<i32>, Vec<u8>), SpawnError> {
        let failed = |error| SpawnError { program: shell(&self.rsh).0.to_string(), error };
        // What begins with a dash would be taken for an option.
        let dash = if self.path.starts_with('-') { "./" } else { "" };
        let path = format!("{dash}{}", self.path);
        let words = self.words.iter().map(String::as_str).chain(["--root"]);
        let mut child = command_there(&self.rsh, &self.host, &self.program, words, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        // It reads everything before it writes. One that ends early says why.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(self.input.as_bytes());
        }
        let output = answer(child).map_err(failed)?;
        Ok((output.status.code(), output.stdout))
    }
}

/// Most bytes that a command on another machine may answer: JSON about some million paths.
pub const ANSWER_MAX: u64 = 256 << 20;

/// A command on another machine that does not stop talking.
#[derive(Debug, Error)]
#[error("it said more than {limit} bytes, which is more than any answer may have; it was stopped")]
pub struct AnswerTooLong {
    /// What it may say.
    pub limit: u64,
}

/// What a command writes to its standard output until it ends, and how it ends. One that writes more
/// than [`ANSWER_MAX`] is stopped: then the error is an [`AnswerTooLong`].
pub fn answer(child: Child) -> io::Result<Output> {
    answer_within(child, ANSWER_MAX)
}

fn answer_within(mut child: Child, limit: u64) -> io::Result<Output> {
    let mut stdout = Vec::new();
    let read = match child.stdout.take() {
        Some(out) => out.take(limit + 1).read_to_end(&mut stdout),
        None => Ok(0),
    };
    let too_long = stdout.len() as u64 > limit;
    if read.is_err() || too_long {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    read?;
    if too_long {
        return Err(io::Error::other(AnswerTooLong { limit }));
    }
    Ok(Output { status, stdout, stderr: Vec::new() })
}

/// Another command of psync on the other machine: these words of it, and then the root there.
pub fn command_there<'a>(
    rsh: &[String],
    host: &str,
    program: &str,
    words: impl IntoIterator<Item = &'a str>,
    path: &str,
) -> Command {
    let (shell, arguments) = shell(rsh);
    let mut command = Command::new(shell);
    command.args(arguments).arg(host).arg(program).args(words).arg(quoted(path));
    command
}

/// The remote shell, and its own arguments.
fn shell(rsh: &[String]) -> (&str, &[String]) {
    rsh.split_first().map_or(("ssh", &[]), |(first, rest)| (first.as_str(), rest))
}

impl Remote {
    /// Waits a while for the remote shell to end by itself, and says with which code it did; after
    /// that it is ended. None: it was, or a signal ended it.
    pub fn end(mut self, patience: Duration) -> Option<i32> {
        if !self.ends_within(patience) {
            let _ = self.child.kill();
        }
        self.child.wait().ok().and_then(|status| status.code())
    }

    /// Waits a while for the remote shell to end by itself, and says whether it did.
    pub fn ends_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return true,
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

/// The path as one word for the remote shell. A leading `~/` or `~user/` is left to it.
fn quoted(path: &str) -> String {
    let path = if path.is_empty() { "." } else { path };
    let (home, rest) = match (path.starts_with('~'), path.find('/')) {
        (true, Some(slash)) => path.split_at(slash + 1),
        (true, None) => (path, ""),
        (false, _) => ("", path),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if home.chars().all(|c| plain(c) || c == '~') && rest.chars().all(plain) {
        return path.to_string();
    }
    let home =
        if home.chars().all(|c| plain(c) || c == '~') { home } else { return single_quoted(path) };
    format!("{home}{}", single_quoted(rest))
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{answer_within, quoted};

    #[test]
    fn a_command_that_does_not_stop_talking_is_stopped() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped());
            answer_within(command.spawn().unwrap(), 1000)
        };
        let error = run("while :; do echo more; done").unwrap_err();
        assert!(error.to_string().starts_with("it said more than 1000 bytes"), "{error}");
        assert_eq!(run("head -c 1000 /dev/zero; exit 3").unwrap().stdout.len(), 1000);
    }

    #[test]
    fn the_remote_shell_gets_the_path_as_one_word() {
        assert_eq!(quoted("/projects/p1"), "/projects/p1");
        assert_eq!(quoted(""), ".");
        assert_eq!(quoted("my files"), "'my files'");
        assert_eq!(quoted("a'b; rm -rf $HOME"), "'a'\\''b; rm -rf $HOME'");
        assert_eq!(quoted("~/my files"), "~/'my files'");
        assert_eq!(quoted("~ana/x"), "~ana/x");
        assert_eq!(quoted("~$(id)/x"), "'~$(id)/x'");
    }
}
