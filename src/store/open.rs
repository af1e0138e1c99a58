//! Opening a store: a new one where there is none, or where there is one that cannot be used.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use psync_protocol::ContentHash;
use rusqlite::OpenFlags;

use super::snapshot::Snapshots;
use super::{PAGE, Rules, Store, StoreError};
use crate::database;

const FILE: &str = "store.db";
/// The format that this psync reads and writes.
pub(super) const FORMAT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE contents(
        id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
        stored INTEGER NOT NULL, place INTEGER NOT NULL, used INTEGER NOT NULL
    );
    CREATE INDEX contents_by_use ON contents(used);
    CREATE TABLE chunks(id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
";

/// How a store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// As it was left.
    Intact,
    /// There was none, and it is empty.
    New,
    /// It was of no use for this reason, and was thrown away: it is empty.
    ThrownAway(String),
}

impl Store {
    /// Which of these contents the store in a directory holds, without opening it: a run may be at
    /// work on it. One that cannot be read holds none.
    pub fn peek(dir: &Path, hashes: &[ContentHash]) -> HashSet<ContentHash> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let db = database::open(&dir.join(FILE), flags)?;
            db.busy_timeout(Duration::from_secs(1))?;
            let mut statement = db.prepare("SELECT 1 FROM contents WHERE hash = ?1")?;
            let held =
                hashes.iter().filter(|hash| statement.exists([&hash.0[..]]).unwrap_or(false));
            Ok::<_, rusqlite::Error>(held.copied().collect())
        };
        if dir.join(FILE).exists() { open().unwrap_or_default() } else { HashSet::new() }
    }

    /// Opens the store in a directory (the one called `store`); makes a new one where there is
    /// none. A damaged one is thrown away, as it holds nothing that cannot be had again.
    pub fn open(dir: &Path, rules: Rules) -> Result<(Store, Found), StoreError> {
        let io = |error| StoreError::Io { path: dir.to_path_buf(), error };
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(io)?;
        if !fs::symlink_metadata(dir).map_err(io)?.is_dir() {
            return Err(io(io::Error::other(
                "is no directory; something else was put in its place",
            )));
        }
        match Store::try_open(dir, rules) {
            Err(error) if error.is_damage() => {
                Store::remove_files(dir)?;
                let (store, _) = Store::try_open(dir, rules)?;
                Ok((store, Found::ThrownAway(error.to_string())))
            }
            other => other,
        }
    }

    fn try_open(dir: &Path, rules: Rules) -> Result<(Store, Found), StoreError> {
        let db = database::open(&dir.join(FILE), database::MAKE)?;
        // Whoever else has it is no psync: the root's lock is ours.
        db.busy_timeout(Duration::from_millis(500))?;
        // Before anything is written, and in this order. Large pages keep most small files in one
        // piece; an incremental vacuum gives room back where it was let go; a lock that is kept
        // saves some calls to the system for each content that is looked up.
        db.execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA page_size = {PAGE};
             PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = TRUNCATE;
             PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
        ))?;
        let format: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let found = match format {
            FORMAT => Found::Intact,
            0 => {
                db.execute_batch(&format!(
                    "BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;"
                ))?;
                Found::New
            }
            newer if newer > FORMAT => return Err(StoreError::Newer(newer)),
            _ => return Err(StoreError::Nonsense("its format")),
        };
        let sql =
            "SELECT ifnull(max(id), 0), (SELECT ifnull(max(used), 0) FROM contents) FROM contents";
        let (last_id, turn): (i64, i64) =
            db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let last_chunk: i64 =
            db.query_row("SELECT ifnull(max(id), 0) FROM chunks", [], |row| row.get(0))?;
        if !(0..i64::MAX >> (super::CHUNK_BITS + 1)).contains(&last_id)
            || turn < 0
            || turn == i64::MAX
        {
            return Err(StoreError::Nonsense("its numbers"));
        }
        let mut store = Store {
            db: Arc::new(Mutex::new(db)),
            dir: dir.to_path_buf(),
            rules,
            turn: turn + 1,
            next_id: last_id.max(last_chunk >> super::CHUNK_BITS) + 1,
            bytes: 0,
            uncommitted: 0,
            used: Vec::new(),
            snapshots: Snapshots::new(dir),
        };
        if found == Found::New {
            store.snapshots.keep_only(|_| false);
        }
        store.bytes = store.bytes_on_disk()?;
        Ok((store, found))
    }

    /// Throws everything away.
    pub fn discard(self) -> Result<(), StoreError> {
        let dir = self.dir.clone();
        drop(self);
        Store::remove_files(&dir)
    }

    fn remove_files(dir: &Path) -> Result<(), StoreError> {
        for name in [FILE.to_string(), format!("{FILE}-journal")] {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Io { path, error });
                }
                _ => {}
            }
        }
        Snapshots::new(dir).keep_only(|_| false);
        Ok(())
    }
}
