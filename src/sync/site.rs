//! One end's own ground: its root, its lock, its index, its stage.

use std::io;
use std::path::{Path, PathBuf};

use psync_protocol::message::Problem;
use psync_protocol::message::ProblemKind;

use super::config::{Config, StoreConfig};
use super::{Keeping, SyncError};
use crate::index::{Index, Lock, OpenError};
use crate::root::{Place, Root, Staging, WORK_DIR};
use crate::store::{Found, Store, StoreError};

/// The directory of old contents, beside the index.
pub(super) const STORE: &str = "store";

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
    /// Its old contents.
    pub old: OldContents,
    /// What a person should hear of.
    pub notes: Vec<Problem>,
    _locks: (Lock, Option<Lock>),
}

impl Site {
    /// Opens the root at `path`, takes its lock and opens its index.
    pub fn open(path: &Path, keeping: &Keeping) -> Result<Site, SyncError> {
        let unusable = |error| SyncError::Root { path: path.to_path_buf(), error };
        let root = Root::open(path).map_err(unusable)?;
        let place = Place::of(path).map_err(unusable)?;
        let state = place
            .state_dir(&root, &keeping.home)
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
        let config = Config::read(&state).map_err(SyncError::Config)?;
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
        let left = index.take_note().map_err(|error| at(error.into()))?;
        let set_aside = set_aside.map(|aside| {
            format!(
                "the state database could not be used ({}); it is kept as {}, and this run is like a first one: it deletes nothing",
                aside.reason,
                aside.path.display()
            )
        });
        Ok(Site {
            notes: set_aside.into_iter().chain(left).map(note).collect(),
            old: OldContents::new(state.join(STORE), config.store, keeping.store),
            root,
            place,
            staging,
            writable,
            index,
            _locks: (lock, stage_lock),
        })
    }

    /// The store of old contents, opened when it is first asked for. None where it is not to be
    /// used, or cannot be: then a note says why.
    pub fn store(&mut self) -> Option<&mut Store> {
        self.old.open(&mut self.index, &mut self.notes)
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

/// The store of a root, which most runs never open.
#[derive(Debug)]
pub struct OldContents {
    dir: PathBuf,
    config: StoreConfig,
    state: StoreState,
}

#[derive(Debug)]
enum StoreState {
    /// Not to be used, or of no use.
    Off,
    Closed,
    Open(Box<Store>),
}

impl OldContents {
    fn new(dir: PathBuf, config: StoreConfig, wanted: bool) -> OldContents {
        let state = if wanted && config.enabled { StoreState::Closed } else { StoreState::Off };
        OldContents { dir, config, state }
    }

    /// Whether the store is to be used, and nothing has been found to be wrong with it.
    pub fn is_on(&self) -> bool {
        !matches!(self.state, StoreState::Off)
    }

    /// The setting that the store is filled by, in words that change with it.
    pub fn setting(&self) -> String {
        format!("{:?} {}", self.config.budget, self.config.largest_file)
    }

    /// The store, opened now if it was not yet. Where that fails a note says so, and it is not
    /// tried again.
    pub fn open(&mut self, index: &mut Index, notes: &mut Vec<Problem>) -> Option<&mut Store> {
        if matches!(self.state, StoreState::Closed) {
            self.state = match self.try_open(index, notes) {
                Ok(store) => StoreState::Open(Box::new(store)),
                Err(error) => {
                    notes.push(note(unusable(&error.to_string())));
                    StoreState::Off
                }
            };
        }
        match &mut self.state {
            StoreState::Open(store) => Some(store),
            StoreState::Off | StoreState::Closed => None,
        }
    }

    fn try_open(&self, index: &mut Index, notes: &mut Vec<Problem>) -> Result<Store, String> {
        let rules = self.config.rules(index.tree_bytes().map_err(|error| error.to_string())?);
        let (store, found) = Store::open(&self.dir, rules).map_err(|error| error.to_string())?;
        if let Found::ThrownAway(reason) = &found {
            notes.push(note(format!(
                "the store of old contents was damaged ({reason}); it is emptied, and fills again"
            )));
        }
        if found != Found::Intact {
            let forgotten = index.transaction(|index| index.forget_remembered());
            forgotten.map_err(|error| error.to_string())?;
        }
        Ok(store)
    }

    /// After an error of the store: it is not used any more in this run, and thrown away if it is
    /// damaged.
    pub fn give_up(&mut self, error: &StoreError, notes: &mut Vec<Problem>) {
        notes.push(note(unusable(&error.to_string())));
        if let StoreState::Open(store) = std::mem::replace(&mut self.state, StoreState::Off)
            && error.is_damage()
        {
            // What cannot be removed is found damaged by the next run.
            let _ = store.discard();
        }
    }
}

fn unusable(reason: &str) -> String {
    format!(
        "{reason}; old contents are not remembered now, so that later edits may cost more on the line"
    )
}

/// A note for a person.
pub(super) fn note(text: String) -> Problem {
    Problem { kind: ProblemKind::Note, path: Vec::new(), text }
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
