//! Looking at an index without changing it: also while a run is at work on the root.

use std::path::Path;
use std::time::Duration;

use psync_protocol::{IndexId, RelPath, ReplicaId};
use rusqlite::{OpenFlags, OptionalExtension};

use super::cache::Cache;
use super::open::{FILE, FORMAT};
use super::{Index, IndexError, OpenError, Peer};
use crate::database;

/// A peer, with what a person may want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquaintance {
    /// What is known of it.
    pub peer: Peer,
    /// When a session with it last came to its end, in seconds since 1970.
    pub seen: i64,
    /// Where it was met.
    pub locations: Vec<String>,
}

/// When a row was written, in numbers of the index that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Of the latest change to it.
    pub sequence: u64,
    /// Of the change that brought its content.
    pub content_since: u64,
}

impl Index {
    /// Opens the index in a state directory for reading only; none where there is none. Its lock
    /// need not be held.
    pub fn look(dir: &Path) -> Result<Option<Index>, OpenError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let unusable = |error: rusqlite::Error| OpenError::Index(IndexError::from(error));
        let db = database::open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(unusable)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(unusable)?;
        let format: i64 =
            db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unusable)?;
        if format != FORMAT {
            return Err(OpenError::OtherFormat { format, known: FORMAT });
        }
        let mut index = Index::over(db, Cache::look(dir));
        let meta = |key: &str| -> Result<Vec<u8>, OpenError> {
            let sql = "SELECT value FROM meta WHERE key = ?1";
            index.db.query_row(sql, [key], |row| row.get(0)).map_err(unusable)
        };
        let nonsense = || OpenError::Index(IndexError::Nonsense("its identity"));
        let number = |bytes: Vec<u8>| bytes.try_into().map(u64::from_le_bytes);
        let replica = meta("replica")?.try_into().map_err(|_| nonsense())?;
        let index_id = meta("index")?.try_into().map_err(|_| nonsense())?;
        let sequence = number(meta("sequence")?).map_err(|_| nonsense())?;
        let clock = number(meta("clock")?).map_err(|_| nonsense())?;
        (index.replica, index.index_id) = (ReplicaId(replica), IndexId(index_id));
        let key = "SELECT value FROM meta WHERE key = 'signing_key'";
        let key = index.db.query_row(key, [], |row| row.get(0)).optional().map_err(unusable)?;
        index.signing_key = key;
        (index.sequence, index.clock, index.at_start) = (sequence, clock, (sequence, clock));
        Ok(Some(index))
    }

    /// All peers, whoever was seen last first.
    pub fn acquaintances(&self) -> Result<Vec<Acquaintance>, IndexError> {
        let sql = "SELECT replica, seen FROM peers ORDER BY seen DESC, replica";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((ReplicaId(row.get(0)?), row.get(1)?)))?;
        let mut acquaintances = Vec::new();
        for row in rows {
            let (replica, seen) = row?;
            let peer = self.peer(replica)?.ok_or(IndexError::Nonsense("a peer that is gone"))?;
            acquaintances.push(Acquaintance { peer, seen, locations: self.locations(replica)? });
        }
        Ok(acquaintances)
    }

    fn locations(&self, replica: ReplicaId) -> Result<Vec<String>, IndexError> {
        let sql = "SELECT location FROM places WHERE replica = ?1 ORDER BY location";
        let mut statement = self.db.prepare_cached(sql)?;
        let locations = statement.query_map([replica.0], |row| row.get(0))?;
        Ok(locations.collect::<Result<_, _>>()?)
    }

    /// When the row of a path was written.
    pub fn numbers(&self, path: &RelPath) -> Result<Option<Numbers>, IndexError> {
        let sql = "SELECT sequence, changed FROM entries WHERE path = ?1";
        let numbers = self.db.prepare_cached(sql)?.query_row([path.as_bytes()], |row| {
            let (sequence, since): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(Numbers { sequence: sequence as u64, content_since: since as u64 })
        });
        Ok(numbers.optional()?)
    }

    /// How many rows were written after a sequence number.
    pub fn count_since(&self, sequence: u64) -> Result<u64, IndexError> {
        let sql = "SELECT count(*) FROM entries WHERE sequence > ?1";
        let count: i64 =
            self.db.prepare_cached(sql)?.query_row([sequence as i64], |row| row.get(0))?;
        Ok(count as u64)
    }

    /// Drops the row of a path, as if it had never been here: nothing is stated of it any more,
    /// neither that it stands nor that it was deleted.
    pub fn forget_row(&mut self, path: &RelPath) -> Result<(), IndexError> {
        self.db.execute("DELETE FROM entries WHERE path = ?1", [path.as_bytes()])?;
        Ok(())
    }

    /// Lets the next sync with any peer state everything in both directions, as after a change of
    /// filters.
    pub fn state_everything_anew(&mut self) -> Result<(), IndexError> {
        self.db.execute("UPDATE peers SET our_scope = zeroblob(8)", [])?;
        Ok(())
    }
}
