//! A replica's index: one row for each entry and tombstone, in SQLite, with what is known of each
//! peer, and beside it what is known of contents. All of a run's changes to it are made in few
//! transactions, each after the files that it speaks of are durable.

mod cache;
mod chain;
mod columns;
mod conflicts;
mod look;
mod open;
mod peers;
mod remembered;
mod retention;
mod rows;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod traces;

pub use cache::{BlockHashes, Cache, CacheError, Digests, SKETCH_BYTES, SketchBytes};
pub use chain::{Link, Pair, Signer};
pub use conflicts::{Listed, Which};
pub use look::{Acquaintance, Numbers};
pub use open::{Lock, OpenError, SetAside};
pub use peers::{LineFigures, Peer};
pub use remembered::{Remembered, SharedFile};
pub use retention::TOMBSTONE_AGE;
pub use rows::Known;

use psync_protocol::{IndexId, ReplicaId, Row, Version};
use rusqlite::Connection;
use thiserror::Error;

use crate::database;

/// An error of the state database.
#[derive(Debug, Error)]
pub enum IndexError {
    /// SQLite's own.
    #[error("the state database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row that no version of psync writes.
    #[error("the state database holds a row that makes no sense ({0})")]
    Nonsense(&'static str),
}

impl IndexError {
    /// Whether the database itself is damaged, so that it has to be set aside.
    pub fn is_damage(&self) -> bool {
        match self {
            IndexError::Nonsense(_) => true,
            // A query that it does not understand is no reason to take another identity.
            IndexError::Sqlite(rusqlite::Error::SqlInputError { .. }) => false,
            IndexError::Sqlite(error) => database::is_damage(error),
        }
    }
}

/// An open index. Whoever has one holds the root's lock.
#[derive(Debug)]
pub struct Index {
    db: Connection,
    cache: Cache,
    replica: ReplicaId,
    index_id: IndexId,
    sequence: u64,
    clock: u64,
    /// Sequence and clock as they were when the index was opened: what peers can know at most.
    at_start: (u64, u64),
    versions: columns::Versions,
    /// The public key of this replica.
    signing_key: Option<[u8; 32]>,
    /// Rows looked up one by one so far.
    lookups: u64,
}

impl Index {
    /// What is known of contents.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The same, to be added to.
    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Who this replica is.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The life of this index.
    pub fn index_id(&self) -> IndexId {
        self.index_id
    }

    /// The highest sequence number given so far.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The highest sequence number that was given before this run: no peer can know a higher one.
    pub fn sequence_at_start(&self) -> u64 {
        self.at_start.0
    }

    /// The next reading of the replica's clock: what this run's changes put into versions. It is
    /// kept with the first change that uses it.
    pub fn next_clock(&self) -> u64 {
        self.clock + 1
    }

    /// Whether a version names a change of this replica that it has not made: then its state was
    /// rolled back, and others know what it has forgotten.
    pub fn has_forgotten<H>(&self, row: &Row<H>) -> bool {
        let counter = |version: &Version| version.counter(self.replica);
        counter(&row.content_version).max(counter(&row.props_version)) > self.at_start.1
    }

    /// Runs `body` in one transaction: all of its changes, or none.
    pub fn transaction<T>(
        &mut self,
        body: impl FnOnce(&mut Index) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let before = (self.sequence, self.clock);
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let result = body(self).and_then(|value| {
            self.put_meta("sequence", &self.sequence.to_le_bytes())?;
            self.put_meta("clock", &self.clock.to_le_bytes())?;
            self.db.execute_batch("COMMIT")?;
            Ok(value)
        });
        if result.is_err() {
            (self.sequence, self.clock) = before;
            // The ids of versions written in the transaction are gone with it.
            self.versions.clear();
            let _ = self.db.execute_batch("ROLLBACK");
        }
        result
    }

    /// Notes that a version with this reading of the clock is being written.
    pub fn use_clock(&mut self, clock: u64) {
        self.clock = self.clock.max(clock);
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO meta(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2",
        )?;
        statement.execute((key, value))?;
        Ok(())
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}
