//! Bringing to the disk what has been written, while more is being written.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{self, Mode, OFlags};

use super::Root;

/// A thread that flushes the root's file system whenever it is told to, so that little is left to
/// be waited for when something has to be durable. Nothing relies on it.
#[derive(Debug)]
pub struct Flusher {
    nudges: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread.
    pub fn start(root: &Root) -> io::Result<Flusher> {
        // Opened anew: the system tells an error once to each who has it open, and an error has to
        // be told to whoever waits for the disk.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = File::from(fs::openat(&root.dir, ".", flags, Mode::empty())?);
        let (nudges, told) = sync_channel(1);
        let work = move || {
            for () in told {
                let _ = fs::syncfs(&dir);
            }
        };
        let thread = thread::Builder::new().name("flusher".into()).spawn(work)?;
        Ok(Flusher { nudges: Some(nudges), thread: Some(thread) })
    }

    /// Tells it to flush. Does not wait.
    pub fn nudge(&self) {
        // Where it has been told already, that will do.
        let _ = self.nudges.as_ref().map(|nudges| nudges.try_send(()));
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.nudges = None;
        // It has nothing to say.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
