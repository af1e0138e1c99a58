//! Taking in what comes while this end is at work: a line that nobody reads from stands still as soon
//! as the buffers on the way are full.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use super::READ_STEP;

/// Bytes that are taken in at most before somebody asks for them.
const AHEAD_MAX: usize = 16 << 20;

/// Bytes that have come, and when.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) bytes: Vec<u8>,
    /// Since when they were waited for.
    pub(super) asked: Instant,
    /// When they came.
    pub(super) came: Instant,
}

/// Does some work, while another thread takes in what comes. Without that thread the line waits.
pub(super) fn working<T>(
    input: &mut File,
    taken: &mut VecDeque<Taken>,
    work: impl FnOnce() -> T,
) -> T {
    let Ok((end, ended)) = UnixStream::pair() else { return work() };
    thread::scope(|scope| {
        // Gone with the work, however that ends; the thread sees it.
        let _end = end;
        let take = || take_in(input, &ended, taken);
        let _ = thread::Builder::new().name("line in".into()).spawn_scoped(scope, take);
        work()
    })
}

/// Takes in until the other side of `ended` is gone. Where reading fails, or the line has ended,
/// whoever reads next comes upon it, too.
fn take_in(input: &mut File, ended: &UnixStream, taken: &mut VecDeque<Taken>) {
    let mut room = AHEAD_MAX;
    while room > 0 {
        let asked = Instant::now();
        let (line, end) = (input.as_fd(), ended.as_fd());
        let mut both = [PollFd::new(&line, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) if !both[1].revents().is_empty() => return,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        let mut bytes = vec![0; READ_STEP.min(room)];
        match input.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                bytes.truncate(count);
                room -= count;
                taken.push_back(Taken { bytes, asked, came: Instant::now() });
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    #[test]
    fn what_comes_during_work_is_taken_in_and_nothing_else_is() {
        let (mut there, here) = UnixStream::pair().unwrap();
        let mut input = File::from(OwnedFd::from(here));
        let mut taken = VecDeque::new();
        // More than the socket holds: it would wait for ever if nobody read.
        let many = vec![7; 4 << 20];
        working(&mut input, &mut taken, || there.write_all(&many).unwrap());
        // The work may have ended with the socket still full: then this waits for who reads below.
        let later = thread::spawn(move || there.write_all(b"later").unwrap());
        let mut all: Vec<u8> = taken.into_iter().flat_map(|taken| taken.bytes).collect();
        input.read_to_end(&mut all).unwrap();
        later.join().unwrap();
        assert_eq!(all, [&many[..], b"later"].concat());
    }

    #[test]
    fn a_line_that_ends_during_work_is_found_to_have_ended_afterwards() {
        let (there, here) = UnixStream::pair().unwrap();
        let mut input = File::from(OwnedFd::from(here));
        let mut taken = VecDeque::new();
        working(&mut input, &mut taken, || drop(there));
        assert!(taken.is_empty());
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 0);
    }
}
