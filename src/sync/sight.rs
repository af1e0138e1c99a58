//! A root that is only looked at: its tree and its index, read without a lock.

use std::path::{Path, PathBuf};

use super::{Keeping, SyncError};
use crate::index::{Index, Lock};
use crate::root::{Place, Root};

/// A root that was synced before, opened for reading only.
#[derive(Debug)]
pub struct Sight {
    /// The tree.
    pub root: Root,
    /// Where it is.
    pub place: Place,
    /// Where its state is.
    pub state: PathBuf,
    /// Its index.
    pub index: Index,
}

impl Sight {
    /// Opens the root at `path`; none where nothing was ever synced.
    pub fn of(path: &Path, keeping: &Keeping) -> Result<Option<Sight>, SyncError> {
        let unusable = |error| SyncError::Root { path: path.to_path_buf(), error };
        let root = Root::open(path).map_err(unusable)?;
        let place = Place::of(path).map_err(unusable)?;
        let Some(state) = place.known_state_dir(&keeping.home) else { return Ok(None) };
        let index = Index::look(&state)
            .map_err(|error| SyncError::Open { path: path.to_path_buf(), error })?;
        Ok(index.map(|index| Sight { root, place, state, index }))
    }

    /// Whether a run is at work on the root now.
    pub fn is_busy(&self) -> bool {
        Lock::is_taken(&self.state)
    }
}
