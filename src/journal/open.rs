//! Opening a journal: to write it, which makes or replaces it where need be, or only to read it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::JournalError;
use crate::database;

const FILE: &str = "journal.db";
/// The format that this psync reads and writes.
const FORMAT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE runs(
        number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, kind INTEGER NOT NULL,
        began INTEGER NOT NULL, ended INTEGER, times INTEGER NOT NULL DEFAULT 1,
        peer BLOB, location TEXT NOT NULL, rsh TEXT NOT NULL, program TEXT NOT NULL,
        state_dir TEXT NOT NULL, flow INTEGER NOT NULL, trash TEXT NOT NULL,
        confirmed INTEGER NOT NULL DEFAULT 0, planned INTEGER NOT NULL DEFAULT 0,
        created INTEGER NOT NULL DEFAULT 0, updated INTEGER NOT NULL DEFAULT 0,
        props INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0,
        moved INTEGER NOT NULL DEFAULT 0, conflicts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0, error TEXT, undoes BLOB, undone_by BLOB
    );
    CREATE INDEX runs_by_id ON runs(id);
    CREATE TABLE deeds(
        run INTEGER NOT NULL, number INTEGER NOT NULL, path BLOB NOT NULL, what INTEGER NOT NULL,
        other BLOB, before BLOB, after BLOB, kept INTEGER NOT NULL, place BLOB,
        reason INTEGER NOT NULL, PRIMARY KEY(run, number)
    ) WITHOUT ROWID;
    CREATE INDEX deeds_by_path ON deeds(path);
    CREATE TABLE reasons(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE edits(
        id INTEGER PRIMARY KEY, found INTEGER NOT NULL, path BLOB NOT NULL, before BLOB, after BLOB
    );
    CREATE INDEX edits_by_path ON edits(path);
    CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    pub(super) db: Connection,
}

impl Journal {
    /// Opens the journal in a state directory, to write it; only for the holder of the root's lock.
    /// One that is of no use is set aside, and a new one takes its place: then the note says so.
    pub fn open(dir: &Path) -> Result<(Journal, Option<String>), JournalError> {
        match Journal::try_open(dir) {
            Ok(journal) => Ok((journal, None)),
            Err(error) if error.is_damage() => {
                let aside = set_aside(dir)?;
                let note = format!(
                    "{error}; it is kept as {}, and a new one begins: earlier runs cannot be listed or undone",
                    aside.display()
                );
                Ok((Journal::try_open(dir)?, Some(note)))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the journal in a state directory, if there is one, to read it; a run may be writing it.
    pub fn read(dir: &Path) -> Result<Option<Journal>, JournalError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        // Not read-only: a reader of a WAL keeps its place in shared memory, which it may have to make.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = database::open(&path, flags)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.execute_batch("PRAGMA query_only = ON")?;
        match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => Ok(None),
            FORMAT => Ok(Some(Journal { db })),
            newer => Err(JournalError::Newer(newer)),
        }
    }

    fn try_open(dir: &Path) -> Result<Journal, JournalError> {
        let mut db = database::open(&dir.join(FILE), database::MAKE)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.set_prepared_statement_cache_capacity(32);
        // What has to be durable says so: see `Recorder::announce`.
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096;",
        )?;
        match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => {
                let step = db.transaction()?;
                step.execute_batch(TABLES)?;
                step.pragma_update(None, "user_version", FORMAT)?;
                step.commit()?;
            }
            FORMAT => {}
            newer => return Err(JournalError::Newer(newer)),
        }
        Ok(Journal { db })
    }

    /// The files of the journal in a state directory: for whoever counts what state takes.
    pub fn files(dir: &Path) -> [PathBuf; 3] {
        ["", "-wal", "-shm"].map(|suffix| dir.join(format!("{FILE}{suffix}")))
    }
}

/// Renames the database, with what belongs to it, to a name that is free.
fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    let name = |number| dir.join(format!("{FILE}.unusable-{number}"));
    while name(number).exists() {
        number += 1;
    }
    for suffix in ["", "-wal", "-shm"] {
        let to = dir.join(format!("{FILE}.unusable-{number}{suffix}"));
        match fs::rename(dir.join(format!("{FILE}{suffix}")), to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(name(number))
}
