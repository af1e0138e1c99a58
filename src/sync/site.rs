//! One end's own ground: its root, its lock, its index, its stage.

use std::io;
use std::path::{Path, PathBuf};

use psync_protocol::message::Problem;
use psync_protocol::message::ProblemKind;

use super::SyncError;
use crate::index::{Index, Lock, OpenError};
use crate::root::{Place, Root, Staging, StateHome, WORK_DIR};

/// An end that is ready to scan.
#[derive(Debug)]
pub struct Site {
    /// The tree.
    pub root: Root,
    /// Where it is.
    pub place: Place,
    /// Its stage and trash.
    pub staging: Staging,
    /// Whether the root can be written.
    pub writable: bool,
    /// Its index.
    pub index: Index,
    /// What a person should hear of.
    pub notes: Vec<Problem>,
    _locks: (Lock, Option<Lock>),
}

impl Site {
    /// Opens the root at `path`, takes its lock and opens its index.
    pub fn open(path: &Path, home: &StateHome) -> Result<Site, SyncError> {
        let unusable = |error| SyncError::Root { path: path.to_path_buf(), error };
        let root = Root::open(path).map_err(unusable)?;
        let place = Place::of(path).map_err(unusable)?;
        let state = place
            .state_dir(&root, home)
            .map_err(|error| SyncError::State { path: path.to_path_buf(), error })?;
        let at = |error| SyncError::Open { path: path.to_path_buf(), error };
        let lock = Lock::take(&state).map_err(at)?;
        // Two runs with state in different places still share the stage in the root.
        let work = place.path.join(WORK_DIR);
        let elsewhere = !state.starts_with(&place.path) && work.is_dir();
        let stage_lock = match elsewhere.then(|| Lock::take(&work)) {
            Some(Err(OpenError::Busy)) => return Err(at(OpenError::Busy)),
            Some(Ok(lock)) => Some(lock),
            // A root that cannot be written has no stage to share.
            Some(Err(_)) | None => None,
        };
        let unwritten = |error| SyncError::State { path: path.to_path_buf(), error };
        let (staging, writable) = match Staging::open(&root) {
            Ok(staging) => (staging, true),
            Err(error) if is_read_only(&error) => {
                (Staging::open_beside(&state).map_err(unwritten)?, false)
            }
            Err(error) => return Err(unwritten(error)),
        };
        let (mut index, set_aside) = Index::open(&state, random).map_err(at)?;
        if !state.starts_with(&place.path) {
            let now = root.identity().map_err(unusable)?;
            if !index.is_directory(now)? {
                return Err(SyncError::OtherDirectory { path: path.to_path_buf(), state });
            }
        }
        let notes = set_aside.into_iter().map(|aside| Problem {
            kind: ProblemKind::Note,
            path: Vec::new(),
            text: format!(
                "the state database could not be used ({}); it is kept as {}, and this run is like a first one: it deletes nothing",
                aside.reason,
                aside.path.display()
            ),
        });
        Ok(Site {
            notes: notes.collect(),
            root,
            place,
            staging,
            writable,
            index,
            _locks: (lock, stage_lock),
        })
    }

    /// Takes away a root that was made for a run which then put nothing into it.
    pub fn remove_unused_root(path: &Path) {
        let state_only = std::fs::read_dir(path).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == WORK_DIR))
        });
        if state_only {
            // What cannot be removed stays as an empty root, which harms nobody.
            let _ = std::fs::remove_dir_all(path.join(WORK_DIR));
            let _ = std::fs::remove_dir(path);
        }
    }

    /// Makes the directory of a root that does not exist yet, if the one above it does. Says
    /// whether it made one.
    pub fn create_root(path: &Path) -> Result<bool, SyncError> {
        match std::fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(SyncError::Root { path: PathBuf::from(path), error }),
        }
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Fills a buffer with random bytes from the kernel.
pub fn random(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())
        {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // The kernel's generator does not fail once it runs; without it nothing is safe.
            Err(error) => panic!("the system has no source of randomness: {error}"),
        }
    }
}
