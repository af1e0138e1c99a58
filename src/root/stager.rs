//! Writing staged files by other threads: making a small file takes the system longer than
//! receiving it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use psync_protocol::Props;
use rustix::fs::{self, Mode};

use super::staging::{Staged, create_in};
use super::{Staging, set_mtime_of};

/// Contents that may wait to be written.
const QUEUE: usize = 32;
/// Most threads that write: they make names in one directory, by turns.
const THREADS_MAX: usize = 2;

/// Threads that write contents into the stage.
#[derive(Debug)]
pub struct Stager {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Job {
    name: OsString,
    content: Vec<u8>,
    props: Option<Props>,
}

#[derive(Debug)]
struct Shared {
    stage: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Contents that are not written yet.
    open: usize,
    failed: HashMap<OsString, io::Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            let written = self.write(&job);
            let mut state = self.lock();
            state.open -= 1;
            if let Err(error) = written {
                state.failed.insert(job.name, error);
            }
            self.changed.notify_all();
        }
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
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { stage, state, changed });
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let count = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        let start = |_| {
            let (shared, queue) = (shared.clone(), queue.clone());
            thread::Builder::new().name("stage".into()).spawn(move || shared.work(&queue))
        };
        let threads = (0..count.clamp(1, THREADS_MAX)).map(start).collect::<io::Result<_>>()?;
        Ok(Stager { jobs: Some(jobs), threads, shared })
    }

    /// Has a content written, and its properties set if there are any: a file with properties is
    /// ready for its place. Whether that went well shows when [`Stager::failed`] is asked.
    pub fn put(&self, staging: &Staging, content: Vec<u8>, props: Option<Props>) -> Staged {
        let staged = staging.reserve(props.is_some());
        self.shared.lock().open += 1;
        let job = Job { name: staged.name().to_os_string(), content, props };
        let unsent = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = unsent {
            let mut state = self.shared.lock();
            state.open -= 1;
            state.failed.insert(job.name, io::Error::other("the writing thread failed"));
        }
        staged
    }

    /// Waits until all is written.
    pub fn wait(&self) {
        let mut state = self.shared.lock();
        while state.open > 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why this could not be written, if that is so. All has to be written.
    pub fn failed(&self, staged: &Staged) -> Option<io::Error> {
        let mut state = self.shared.lock();
        if state.failed.is_empty() { None } else { state.failed.remove(staged.name()) }
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.jobs = None;
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
        let ready = stager.put(&staging, b"ready".to_vec(), Some(props));
        let plain = stager.put(&staging, b"plain".to_vec(), None);
        // Its name is taken.
        let (_, taken) = staging.create().unwrap();
        let number = u64::from_str_radix(taken.name().to_str().unwrap(), 16).unwrap() + 1;
        let blocker = folder.join(format!(".psync/stage/{number:08x}"));
        std::fs::write(blocker, "in the way").unwrap();
        let failed = stager.put(&staging, b"never".to_vec(), None);
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
}
