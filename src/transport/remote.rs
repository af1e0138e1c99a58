//! Starting psync on the other machine, through the system's `ssh` or what stands for it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
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
        let (program, arguments) =
            self.rsh.split_first().map_or(("ssh", &[][..]), |(first, rest)| (first.as_str(), rest));
        let failed = |error| SpawnError { program: program.to_string(), error };
        let mut child = Command::new(program)
            .args(arguments)
            .arg(&self.host)
            .arg(&self.program)
            .arg("--server")
            .args((!self.store).then_some("--no-store"))
            .args(self.must_exist.then_some("--must-exist"))
            .args(match self.compression {
                Compression::Level(level) => Some(format!("--compress-level={level}")),
                Compression::Off | Compression::Fitting => None,
            })
            .arg("--")
            .arg(quoted(&self.path))
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
mod tests {
    use super::quoted;

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
