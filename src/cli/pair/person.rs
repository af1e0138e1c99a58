//! A person at a terminal who is asked while the other machine is on the line.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::daemon::{Meeting, PairingError};

/// Longest answer, in bytes: a terminal gives no longer line.
const ANSWER_MAX: usize = 4096;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// The person has gone, or took too long.
    Person(&'static str),
    /// The other machine has ended it meanwhile.
    Line(PairingError),
}

/// Whether anybody can be asked.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Says something to the person.
pub(super) fn tell(text: &str) {
    let mut terminal = io::stderr();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

/// Asks, and gives the answer without the spaces around it. What the other machine says meanwhile is
/// kept; if it ends the line nobody has to answer any more.
pub(super) fn ask(
    question: &str,
    meeting: &mut Meeting,
    until: Instant,
) -> Result<String, Silence> {
    tell(question);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tell("\n");
            return Err(Silence::Person("nobody answered in time"));
        }
        let span = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let (keyboard, line) = (io::stdin(), meeting.line());
        let keyboard = keyboard.as_fd();
        let mut polled = [PollFd::new(&keyboard, PollFlags::IN), PollFd::new(&line, PollFlags::IN)];
        if poll(&mut polled, Some(&span)).is_err() {
            continue;
        }
        let [typed, said] = polled.map(|fd| !fd.revents().is_empty());
        if said && let Err(error) = meeting.overhear() {
            tell("\n");
            return Err(Silence::Line(error));
        }
        if typed {
            return answer();
        }
    }
}

fn answer() -> Result<String, Silence> {
    let mut bytes = vec![0; ANSWER_MAX];
    match rustix::io::read(io::stdin(), &mut bytes) {
        Ok(n @ 1..) => Ok(String::from_utf8_lossy(&bytes[..n]).trim().to_string()),
        Ok(0) | Err(_) => {
            tell("\n");
            Err(Silence::Person("nobody answered"))
        }
    }
}
