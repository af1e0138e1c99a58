//! One end's own ground: its root, its lock, its index, its stage.

use std::io;
use std::path::{Path, PathBuf};

use psync_protocol::message::Problem;
use psync_protocol::message::ProblemKind;

use super::remember::{Ahead, Done, Files, Put};
use super::{Keeping, SyncError};
use crate::identity::ReplicaKey;
use crate::index::{Index, Lock, OpenError, SetAside};
use crate::journal::{Reach, Recorder, Retention};
use crate::reconcile::{Folding, Units};
use crate::root::{
    Identity, Known, Note, Place, Recovered, Room, Root, Space, Staging, StateHome, WORK_DIR,
};
use crate::settings::{ROOT_FILE, StoreConfig};
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
    /// Which names its file system takes for one.
    pub folding: Folding,
    /// Its index.
    pub index: Index,
    /// The key that it signs with.
    pub key: ReplicaKey,
    /// Its old contents.
    pub old: OldContents,
    /// What is being made ready for them.
    pub(super) ahead: Option<Ahead>,
    /// Its journal.
    pub journal: Recorder,
    /// What goes to its trash, and how long it stays there.
    pub retention: Retention,
    /// What is published as a whole.
    pub units: Units,
    /// How much of its disk is left alone.
    pub space: Space,
    /// How the other end of this run is reached again.
    pub reach: Reach,
    /// Where its state is.
    pub state: PathBuf,
    /// What a person should hear of.
    pub notes: Vec<Problem>,
    /// What is noted outside the root of the roots that were synced here.
    note: Option<Note>,
    _locks: (Lock, Option<Lock>),
}

impl Site {
    /// Opens the root at `path`, takes its lock and opens its index.
    pub fn open(path: &Path, keeping: &Keeping) -> Result<Site, SyncError> {
        let units = Units::new(&keeping.units).map_err(SyncError::Rule)?;
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
        let unwritten = |error| SyncError::State { path: path.to_path_buf(), error };
        let (mut staging, recovered, writable) = match Staging::open(&root) {
            Ok((staging, recovered)) => (staging, recovered, true),
            Err(error) if is_read_only(&error) => {
                (Staging::open_beside(&state).map_err(unwritten)?, None, false)
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(SyncError::HalfDone { path: path.to_path_buf(), error });
            }
            Err(error) => return Err(unwritten(error)),
        };
        // What was begun and may never be asked for again is no reason to have no room.
        let (free, keep) = Room::new(keeping.space).look(staging.stage());
        let most = keeping.space.staging.map_or(u64::MAX, |quota| quota / 2);
        staging.keep_begun_within(if free < keep { 0 } else { most });
        // What cannot be tried out is taken for a file system that tells all names apart.
        let (case, form) = match writable {
            true => staging.folds().unwrap_or_default(),
            false => (false, false),
        };
        let (mut index, key, set_aside) = open_index(&state, at)?;
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
        let cache = index.cache().take_trouble().map(|reason| cache_unusable(&reason));
        let mut journal = Recorder::new(&state);
        journal.tell(keeping.witness.clone());
        Ok(Site {
            units,
            notes: set_aside
                .into_iter()
                .chain(left)
                .chain(cache)
                .chain(old_settings(&state))
                .chain(keeping.notes.iter().cloned())
                .map(note)
                .chain(recovered.map(told))
                .collect(),
            old: OldContents::new(state.join(STORE), keeping.store),
            ahead: None,
            journal,
            retention: keeping.retention.clone(),
            space: keeping.space,
            reach: keeping.reach.clone(),
            note: place.note(&keeping.home).filter(|_| state.starts_with(&place.path)),
            state,
            root,
            place,
            staging,
            folding: Folding { case, form },
            writable,
            index,
            key,
            _locks: (lock, stage_lock),
        })
    }

    /// Stops where the root at `path` is not one that was synced there: where it has vanished with its
    /// state, unless it `is_filled` again, or another one has taken its place. To be called before
    /// anything is made there.
    pub fn guard(path: &Path, keeping: &Keeping, is_filled: bool) -> Result<(), SyncError> {
        // What is wrong with the path is told by whoever opens it.
        let Ok(place) = Place::of_root(path) else { return Ok(()) };
        let Some(note) = place.note(&keeping.home).filter(Note::exists) else { return Ok(()) };
        let state = place.known_state_dir(&keeping.home);
        if state.is_none() && place.is_bare() {
            return match is_filled {
                true => Ok(()),
                false => Err(SyncError::Vanished(path.to_path_buf())),
            };
        }
        let Ok(directory) = Identity::of(&place.path) else { return Ok(()) };
        let index = state.and_then(|state| Index::look(&state).ok().flatten());
        let now = index.map(|index| index.replica());
        match note.missed(directory, now) {
            None => Ok(()),
            Some(Known { replica: before, .. }) => {
                let (path, note) = (path.to_path_buf(), note.file().to_path_buf());
                Err(SyncError::OtherRoot { path, before, now, note })
            }
        }
    }

    /// Whether the root at `path` has been synced, as far as its state says.
    pub fn has_state(path: &Path, keeping: &Keeping) -> bool {
        Place::of_root(path).is_ok_and(|place| place.known_state_dir(&keeping.home).is_some())
    }

    /// Whether psync has never kept anything in the root at `path`.
    pub fn is_untouched(path: &Path) -> bool {
        path.join(WORK_DIR).symlink_metadata().is_err()
    }

    /// Takes away what a run that stopped before it did anything has put into a root that was
    /// untouched before.
    pub fn remove_unused_state(path: &Path) {
        let _ = std::fs::remove_dir_all(path.join(WORK_DIR));
    }

    /// Notes outside the root that it was synced here.
    pub(super) fn mark(&mut self) {
        let directory = Identity::of(&self.place.path);
        if let (Some(note), Ok(directory)) = (&mut self.note, directory) {
            note.put(Known { replica: self.index.replica(), directory });
        }
    }

    /// Brings the note up to date where it is about this root: it may be another directory now, as
    /// after it was moved away and back, and take another identity before it is noted next.
    pub(super) fn mark_again(&mut self) {
        let (replica, directory) = (self.index.replica(), Identity::of(&self.place.path));
        let is_about = |note: &Note, directory| {
            note.exists() && note.missed(directory, Some(replica)).is_none()
        };
        if let (Some(note), Ok(directory)) = (&self.note, directory)
            && is_about(note, directory)
        {
            self.mark();
        }
    }

    /// The store of old contents, opened when it is first asked for. None where it is not to be
    /// used, or cannot be: then a note says why.
    pub fn store(&mut self) -> Option<&mut Store> {
        self.old.open(&mut self.index, &mut self.notes)
    }

    /// What is free on its disk, in bytes, and what has to stay so.
    pub(super) fn disk(&self) -> (u64, u64) {
        Room::new(self.space).look(self.staging.stage())
    }

    /// Old contents are not worth filling a disk with: where less is free than has to be, none are
    /// kept now.
    pub(super) fn spare_the_disk(&mut self) {
        let (free, keep) = self.disk();
        if free < keep && self.old.is_on() {
            self.old.state = StoreState::Off;
            let text = format!(
                "the disk has {free} bytes free, and {keep} have to stay so (limits.keep-free)"
            );
            self.notes.push(note(unusable(&text)));
        }
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
        let unusable = |error| SyncError::Root { path: path.to_path_buf(), error };
        Place::of_root(path).map_err(unusable)?;
        match std::fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(unusable(error)),
        }
    }
}

/// The index in a state directory, and the key that its id is made of. An index whose key is lost, or
/// gives another id, is of no use: nobody takes what it states for its own.
fn open_index(
    state: &Path,
    at: impl Fn(OpenError) -> SyncError,
) -> Result<(Index, ReplicaKey, Option<SetAside>), SyncError> {
    let (mut index, set_aside) = Index::open(state, random).map_err(&at)?;
    let key = ReplicaKey::read(state)?;
    let is_its = |key: &ReplicaKey| {
        index.signing_key() == Some(*key.public().as_bytes())
            && index.replica() == key.public().replica_id()
    };
    if let Some(key) = key.filter(is_its) {
        return Ok((index, key, set_aside));
    }
    let mut aside = set_aside;
    if index.signing_key().is_some() {
        index.mark_unsigned().map_err(|error| at(error.into()))?;
        drop(index);
        (index, aside) = Index::open(state, random).map_err(&at)?;
    }
    let key = ReplicaKey::make(state, random)?;
    let public = key.public();
    let named = index.transaction(|index| index.sign_as(public.replica_id(), *public.as_bytes()));
    named.map_err(|error| at(error.into()))?;
    Ok((index, key, aside))
}

/// Where the state of a root is, without opening it: a run may be at work on it.
pub fn state_dir(path: &Path, home: &StateHome) -> Result<(Root, PathBuf), SyncError> {
    let unusable = |error| SyncError::Root { path: path.to_path_buf(), error };
    let root = Root::open(path).map_err(unusable)?;
    let place = Place::of(path).map_err(unusable)?;
    let state = place.state_dir(&root, home);
    let state = state.map_err(|error| SyncError::State { path: path.to_path_buf(), error })?;
    Ok((root, state))
}

/// The store of a root, which most runs never open.
#[derive(Debug)]
pub struct OldContents {
    dir: PathBuf,
    config: StoreConfig,
    state: StoreState,
    /// What finds out block hashes where the store is not used.
    digesting: Option<Ahead>,
    /// What was put into it ahead, or into the cache, which the index does not know yet.
    put: Put,
    /// Whether snapshots are among that.
    took_snapshots: bool,
}

#[derive(Debug)]
enum StoreState {
    /// Not to be used, or of no use.
    Off,
    Closed,
    Open(Box<Store>),
    /// A thread has it, and fills it.
    Filling(Ahead),
}

impl OldContents {
    fn new(dir: PathBuf, config: StoreConfig) -> OldContents {
        let state = if config.enabled { StoreState::Closed } else { StoreState::Off };
        OldContents { dir, config, state, digesting: None, put: Put::new(), took_snapshots: false }
    }

    /// Whether the store is to be used, and nothing has been found to be wrong with it.
    pub fn is_on(&self) -> bool {
        !matches!(self.state, StoreState::Off)
    }

    /// Whether a thread fills it, or finds out block hashes instead.
    pub(super) fn is_filling(&self) -> bool {
        matches!(self.state, StoreState::Filling(_)) || self.digesting.is_some()
    }

    /// Takes the store away from who fills it.
    fn end_filling(&mut self) {
        if let StoreState::Filling(_) = self.state
            && let StoreState::Filling(ahead) =
                std::mem::replace(&mut self.state, StoreState::Closed)
        {
            let Done { store, put, took_snapshots, .. } = ahead.finish();
            self.put.extend(put);
            self.took_snapshots |= took_snapshots;
            self.state =
                store.map_or(StoreState::Closed, |store| StoreState::Open(Box::new(store)));
        }
    }

    /// The same, and ends what finds out block hashes.
    pub(super) fn end_ahead(&mut self) {
        self.end_filling();
        if let Some(ahead) = self.digesting.take() {
            self.put.extend(ahead.finish().put);
        }
    }

    /// The setting that the store is filled by, in words that change with it.
    pub fn setting(&self) -> String {
        format!("{:?} {}", self.config.budget, self.config.largest_file)
    }

    /// The store, opened now if it was not yet. Where that fails a note says so, and it is not
    /// tried again. From who fills it it is taken away.
    pub fn open(&mut self, index: &mut Index, notes: &mut Vec<Problem>) -> Option<&mut Store> {
        self.end_filling();
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
            StoreState::Off | StoreState::Closed | StoreState::Filling(_) => None,
        }
    }

    /// Lets a thread fill the store until somebody needs it, with files that are told to it; or find out their
    /// block hashes, where the store is not used. None where the system refuses.
    pub(super) fn fill_ahead(
        &mut self,
        (root, staging): (&Root, &Staging),
        index: &mut Index,
        notes: &mut Vec<Problem>,
    ) -> Option<Files> {
        if let StoreState::Filling(ahead) = &self.state {
            return Some(ahead.files());
        }
        if let Some(ahead) = &self.digesting {
            return Some(ahead.files());
        }
        let is_open = self.open(index, notes).is_some();
        let cache = index.cache().again();
        match std::mem::replace(&mut self.state, StoreState::Closed) {
            StoreState::Open(store) if is_open => {
                let ahead = Ahead::fill(root, staging, *store, cache)?;
                let files = ahead.files();
                self.state = StoreState::Filling(ahead);
                Some(files)
            }
            state => {
                self.state = state;
                self.digesting = Ahead::digest(root, staging, cache?);
                self.digesting.as_ref().map(Ahead::files)
            }
        }
    }

    /// The largest file that it keeps a copy of, in bytes.
    pub(super) fn largest_file(&self) -> u64 {
        self.config.largest_file
    }

    /// What was put into the store ahead, or into the cache.
    pub(super) fn take_put(&mut self) -> Put {
        std::mem::take(&mut self.put)
    }

    /// Whether it took snapshots ahead.
    pub(super) fn take_took_snapshots(&mut self) -> bool {
        std::mem::take(&mut self.took_snapshots)
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

/// What a person is told of a cache that was of no use.
pub(super) fn cache_unusable(reason: &str) -> String {
    format!(
        "the cache of block hashes could not be used ({reason}); where it can be made anew it fills again, until then later edits may cost more on the line"
    )
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

/// What became of a unit that a crash had left in parts.
fn told(recovered: Recovered) -> Problem {
    let (name, text) = match recovered {
        Recovered::Finished(Some(name)) => (
            Some(name),
            "was being replaced when psync was interrupted; it stands whole now".to_string(),
        ),
        Recovered::Finished(None) => {
            (None, "an undo or a restore was interrupted; it is finished now".to_string())
        }
        Recovered::Left(Some(name), reason) => (
            Some(name),
            format!(
                "was being replaced when psync was interrupted, and cannot be finished ({reason}): it may be half old and half new; what was replaced is in .psync/trash"
            ),
        ),
        Recovered::Left(None, reason) => (
            None,
            format!(
                "an undo or a restore was interrupted, and cannot be finished ({reason}): it is half done; psync log tells what was done"
            ),
        ),
    };
    let path = name.map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    Problem { kind: ProblemKind::Note, path, text }
}

/// Settings lay beside the index once. Nobody should believe that they still hold.
fn old_settings(state: &Path) -> Option<String> {
    let path = state.join("config.toml");
    path.exists().then(|| {
        format!(
            "{} is not read any more: move what it says to {ROOT_FILE} in the root, or to the user's psync.toml",
            path.display()
        )
    })
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
