//! Contents that are only fetched to be looked at: those of the other side in conflicts that wait.
//! They are asked for and checked like all others, but stay out of the tree.

use std::io::Read;

use psync_protocol::session::Stand;
use psync_protocol::{Content, ContentHash, RelPath, Row};

use super::fetch::Arrived;
use crate::root::Stager;

use super::{Act, Applier, ApplyError, Beside, Task};

/// Bytes of all contents that one run fetches in this way.
const KEPT_MAX: u64 = 64 << 20;

/// A content of the other side that a plan leaves alone.
#[derive(Debug)]
pub struct Keepsake {
    /// Where it stands.
    pub path: RelPath,
    /// Its hash.
    pub hash: ContentHash,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Applier<'_> {
    /// Asks for the peer's file at a path that the plan postpones, if there is one. Before
    /// [`Applier::begin`].
    pub fn keep(&mut self, index: usize) -> Result<(), ApplyError> {
        let Some(stand) = self.agreement.paths.get(index) else { return Ok(()) };
        let Some(Content::File { size, hash: check }) = self.theirs(stand) else { return Ok(()) };
        let waiting: u64 = self.keeping.values().sum();
        if !self.agreement.decisions[index].is_postponed() || waiting + size > KEPT_MAX {
            return Ok(());
        }
        let absent = Row::absent(stand.path().clone());
        let rows = [&stand.initiator, &stand.responder].map(|row| row.as_ref().unwrap_or(&absent));
        let agreed =
            self.agreement.decisions[index].agreed(rows[0], rows[1], self.agreement.planner);
        let task = Task {
            index,
            path: stand.path().clone(),
            agreed,
            old: self.index.row(stand.path())?,
            act: Act::Fetch { size, check, source: index },
            beside: Beside::Nothing,
        };
        if let Some(fetching) = self.fetching(task) {
            self.keeping.insert(index as u64, size);
            self.fetch(fetching);
        }
        Ok(())
    }

    fn theirs(&self, stand: &Stand) -> Option<Content<psync_protocol::Check>> {
        stand.of(self.role.other()).map(|row| row.content.clone())
    }

    /// What was fetched to be looked at.
    pub fn take_kept(&mut self) -> Vec<Keepsake> {
        std::mem::take(&mut self.kept)
    }

    /// Reads what has arrived to be kept out of the tree; gives back what has not.
    pub(super) fn put_by(&mut self, arrived: Arrived) -> Option<Arrived> {
        if !self.keeping.contains_key(&arrived.fetching.source) {
            return Some(arrived);
        }
        let Arrived { fetching, staged, hash, .. } = arrived;
        let mut bytes = Vec::new();
        self.stager.iter().for_each(Stager::wait);
        let read = self
            .staging
            .reopen(&staged)
            .and_then(|file| file.take(fetching.size).read_to_end(&mut bytes));
        self.staging.discard(staged);
        // What cannot be read now is fetched by the next run.
        if read.is_ok() && ContentHash::of_bytes(&bytes) == hash {
            self.kept.push(Keepsake { path: fetching.task.path, hash, bytes });
        }
        None
    }
}
