//! Ending a session from outside: whoever let somebody in may send them away again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use psync_protocol::ErrorCode;
use rustix::net::{Shutdown, shutdown};

/// Ends a line from another thread. The session finds out at its next message, so that what it is at is
/// done or left as a whole, and tells the other end why.
#[derive(Debug, Clone)]
pub struct Halt(Arc<Ending>);

#[derive(Debug)]
struct Ending {
    /// The socket that the line reads from.
    input: OwnedFd,
    why: OnceLock<(ErrorCode, String)>,
}

impl Halt {
    /// For a line that reads from this socket.
    pub fn new(input: &OwnedFd) -> io::Result<Halt> {
        Ok(Halt(Arc::new(Ending { input: input.try_clone()?, why: OnceLock::new() })))
    }

    /// Ends it, for the reason that was given first. Nothing more is read.
    pub fn halt(&self, code: ErrorCode, why: &str) {
        let _ = self.0.why.set((code, why.to_string()));
        // Whoever waits for the next message wakes up.
        let _ = shutdown(&self.0.input, Shutdown::Read);
    }

    /// Why it is to end, if it is.
    pub fn why(&self) -> Option<&(ErrorCode, String)> {
        self.0.why.get()
    }
}
