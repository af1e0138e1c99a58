//! Writing staged files by other threads: making a small file takes the system longer than
//! receiving it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use psync_protocol::Props;
use rustix::fs::{self, Mode};

use super::staging::{Staged, create_in};
use super::{Staging, set_mtime_of};

/// Bytes of contents that may wait to be written: what can be written while others are being put in
/// their places.
const QUEUE_BYTES: usize = 32 << 20;
/// Contents that may wait to be written.
const QUEUE: usize = 4096;
/// Most threads that write: they make names in one directory, by turns.
const THREADS_MAX: usize = 2;

/// Threads that write contents into the stage.
#[derive(Debug)]
pub struct Stager {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Job {
    name: OsString,
    content: Arc<Vec<u8>>,
    props: Option<Props>,
}

#[derive(Debug)]
struct Shared {
    stage: OwnedFd,
    state: Mutex<State>,
    /// There is something to write, or nothing will come any more.
    more: Condvar,
    /// Something has been written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    is_over: bool,
    /// Names of contents that are not written yet, and their bytes.
    open: HashSet<OsString>,
    bytes: usize,
    failed: HashMap<OsString, io::Error>,
}

impl State {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.open.is_empty() || self.open.len() < QUEUE && self.bytes + bytes <= QUEUE_BYTES
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            match state.queue.pop_front() {
                None if state.is_over => return None,
                None => state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner),
                job => return job,
            }
        }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            let written = self.write(&job);
            let mut state = self.lock();
            state.open.remove(&job.name);
            state.bytes -= job.content.len();
            if let Err(error) = written {
                state.failed.insert(job.name, error);
            }
            self.written.notify_all();
        }
    }

    /// Waits for what is written until something holds.
    fn wait_until(&self, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !holds(&state) {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    fn write(&self, job: &Job) -> io::Result<()> {
        let mut file: File = create_in(&self.stage, &job.name)?;
        file.write_all(&job.content)?;
        if let Some(props) = job.props {
            fs::fchmod(&file, Mode::from_raw_mode(props.mode.into()))?;
            set_mtime_of(&file, props.mtime)?;
        }
        Ok(())
    }
}

impl Stager {
    /// Starts the threads.
    pub fn start(staging: &Staging) -> io::Result<Stager> {
        let stage = staging.stage.try_clone()?;
        let state = Mutex::default();
        let shared =
            Arc::new(Shared { stage, state, more: Condvar::new(), written: Condvar::new() });
        let mut stager = Stager { threads: Vec::new(), shared };
        let count = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        for _ in 0..count.clamp(1, THREADS_MAX) {
            let shared = stager.shared.clone();
            let started = thread::Builder::new().name("stage".into()).spawn(move || shared.work());
            stager.threads.push(started?);
        }
        Ok(stager)
    }

    /// Has a content written, and its properties set if there are any: a file with properties is
    /// ready for its place. Whether that went well shows when [`Stager::failed`] is asked. Waits
    /// while too much waits to be written.
    pub fn put(&self, staging: &Staging, content: Arc<Vec<u8>>, props: Option<Props>) -> Staged {
        let staged = staging.reserve(props.is_some());
        let name = staged.name().to_os_string();
        let mut state = self.shared.wait_until(|state| state.has_room_for(content.len()));
        state.open.insert(name.clone());
        state.bytes += content.len();
        state.queue.push_back(Job { name, content, props });
        self.shared.more.notify_one();
        staged
    }

    /// Waits until all is written.
    pub fn wait(&self) {
        drop(self.shared.wait_until(|state| state.open.is_empty()));
    }

    /// Waits until this is written.
    pub fn wait_for(&self, staged: &Staged) {
        drop(self.shared.wait_until(|state| !state.open.contains(staged.name())));
    }

    /// Whether what has this name in the stage is written, or could not be.
    pub fn is_done(&self, name: &OsStr) -> bool {
        !self.shared.lock().open.contains(name)
    }

    /// Why this could not be written, if that is so. It has to be done.
    pub fn failed(&self, staged: &Staged) -> Option<io::Error> {
        let mut state = self.shared.lock();
        if state.failed.is_empty() { None } else { state.failed.remove(staged.name()) }
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // What it could not write has been told.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::root::Root;
    use psync_protocol::Time;

    #[test]
    fn what_is_handed_over_is_written_and_what_cannot_be_is_told() {
        let folder = std::env::temp_dir().join(format!("psync-stager-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (staging, _) = Staging::open(&Root::open(&folder).unwrap()).unwrap();
        let stager = Stager::start(&staging).unwrap();
        let props = Props { mode: 0o640, mtime: Time { secs: 7, nanos: 8 } };
        let ready = stager.put(&staging, b"ready".to_vec().into(), Some(props));
        let plain = stager.put(&staging, b"plain".to_vec().into(), None);
        // Its name is taken.
        let (_, taken) = staging.create().unwrap();
        let number = u64::from_str_radix(taken.name().to_str().unwrap(), 16).unwrap() + 1;
        let blocker = folder.join(format!(".psync/stage/{number:08x}"));
        std::fs::write(blocker, "in the way").unwrap();
        let failed = stager.put(&staging, b"never".to_vec().into(), None);
        stager.wait_for(&failed);
        assert!(stager.is_done(failed.name()));
        stager.wait();
        assert!(ready.is_ready() && !plain.is_ready());
        let read = |staged: &Staged| std::io::read_to_string(staging.reopen(staged).unwrap());
        assert_eq!(
            (read(&ready).unwrap(), read(&plain).unwrap()),
            ("ready".into(), "plain".into())
        );
        let stat = crate::root::stat_of(&staging.reopen(&ready).unwrap()).unwrap();
        assert_eq!(stat.props(), props);
        assert!(stager.failed(&ready).is_none() && stager.failed(&failed).is_some());
        drop(stager);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn more_than_may_wait_is_written_nevertheless() {
        let folder = std::env::temp_dir().join(format!("psync-stager-q-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (staging, _) = Staging::open(&Root::open(&folder).unwrap()).unwrap();
        let stager = Stager::start(&staging).unwrap();
        let large = Arc::new(vec![1; QUEUE_BYTES / 2 + 1]);
        let mut put: Vec<Staged> =
            (0..3).map(|_| stager.put(&staging, large.clone(), None)).collect();
        put.extend(
            (0..QUEUE + 10).map(|n| stager.put(&staging, Arc::new(n.to_string().into()), None)),
        );
        stager.wait_for(&put[2]);
        assert!(stager.is_done(put[2].name()));
        stager.wait();
        let last = staging.reopen(put.last().unwrap()).unwrap();
        assert_eq!(std::io::read_to_string(last).unwrap(), (QUEUE + 9).to_string());
        assert!(put.iter().all(|staged| stager.failed(staged).is_none()));
        drop(stager);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
