//! A remote shell whose other end is the test: it sees each byte between psync and what psync
//! takes for its remote end, and may answer, cut or damage.

#![allow(dead_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::{TempDir, run_ok, set_mode};

/// How long psync may take to start its remote shell.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two named pipes, and a script for `--rsh` that joins its standard input and output to them.
pub(crate) struct Wire {
    script: PathBuf,
    up: PathBuf,
    down: PathBuf,
}

/// The test's end of a wire.
pub(crate) struct WireEnd {
    /// What psync sends.
    pub(crate) from_psync: File,
    /// What psync receives.
    pub(crate) to_psync: File,
}

impl Wire {
    pub(crate) fn new(temp: &TempDir) -> Wire {
        let (script, up, down) = (temp.join("wire"), temp.join("up"), temp.join("down"));
        run_ok(Command::new("mkfifo").arg(&up).arg(&down));
        // Only the first cat holds psync's reading end: psync sees the line end when that one does.
        let text =
            format!("#!/bin/sh\ncat <'{}' &\nexec cat >'{}'\n", down.display(), up.display());
        fs::write(&script, text).expect("the script can be written");
        set_mode(&script, 0o755);
        Wire { script, up, down }
    }

    /// For `--rsh`.
    pub(crate) fn rsh(&self) -> String {
        self.script.display().to_string()
    }

    /// Waits for a psync that was started with this remote shell.
    pub(crate) fn accept(&self) -> WireEnd {
        let (up, down) = (self.up.clone(), self.down.clone());
        let (send, opened): (_, Receiver<WireEnd>) = channel();
        // Opening waits for the other end, which may never come: not in this thread.
        thread::spawn(move || {
            let from_psync = File::open(up).expect("the pipe can be opened");
            let to_psync = File::options().write(true).open(down).expect("the pipe can be opened");
            let _ = send.send(WireEnd { from_psync, to_psync });
        });
        match opened.recv_timeout(PATIENCE) {
            Ok(end) => end,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("psync did not start its remote shell")
            }
        }
    }
}

impl Drop for Wire {
    /// Whoever waits for the test's end, which nobody has taken, waits no longer: it would for ever.
    fn drop(&mut self) {
        for pipe in [&self.up, &self.down] {
            // Opened both ways a named pipe waits for nobody. Where it is gone nobody waits.
            let _ = File::options().read(true).write(true).open(pipe);
        }
    }
}

/// Pipes for a child's input and output, and its errors thrown away.
pub(crate) fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}
