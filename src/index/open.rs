//! Opening an index: the lock, the format's version, migrations, and what is done with a database
//! that cannot be used.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use psync_protocol::{IndexId, ReplicaId};
use rusqlite::{Connection, OptionalExtension};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use thiserror::Error;

use super::cache::Cache;
use super::columns::Versions;
use super::{Index, IndexError};
use crate::database;

pub(super) const FILE: &str = "index.db";
const LOCK: &str = "lock";
/// How often the lock is tried before somebody is taken to work on the root.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// The format that this psync reads and writes.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// Each entry takes the database from the format of its place to the next; the first makes format
/// 1 from nothing. Entries are never changed once released.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE versions(id INTEGER PRIMARY KEY, pairs BLOB NOT NULL UNIQUE);
    CREATE TABLE entries(
        path BLOB PRIMARY KEY, stamp INTEGER NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL,
        mode INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_nanos INTEGER NOT NULL,
        content_version INTEGER NOT NULL, props_version INTEGER NOT NULL, sequence INTEGER NOT NULL,
        inode INTEGER NOT NULL, agreed_mode INTEGER NOT NULL, shared INTEGER NOT NULL,
        deleted_at INTEGER NOT NULL, hash BLOB, base BLOB, target BLOB
    ) WITHOUT ROWID;
    CREATE INDEX entries_by_sequence ON entries(sequence);
    CREATE TABLE intents(
        path BLOB PRIMARY KEY, stamp INTEGER NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL,
        mode INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_nanos INTEGER NOT NULL,
        content_version INTEGER NOT NULL, props_version INTEGER NOT NULL, sequence INTEGER NOT NULL,
        inode INTEGER NOT NULL, agreed_mode INTEGER NOT NULL, shared INTEGER NOT NULL,
        deleted_at INTEGER NOT NULL, hash BLOB, base BLOB, target BLOB
    ) WITHOUT ROWID;
    CREATE TABLE peers(
        replica BLOB PRIMARY KEY, index_id BLOB NOT NULL, theirs INTEGER NOT NULL,
        ours INTEGER NOT NULL, our_scope BLOB NOT NULL, their_scope BLOB NOT NULL,
        seen INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE places(location TEXT PRIMARY KEY, replica BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE pending(replica BLOB, path BLOB, PRIMARY KEY(replica, path)) WITHOUT ROWID;
",
    "
    CREATE TABLE lines(
        replica BLOB PRIMARY KEY, sending INTEGER, receiving INTEGER
    ) WITHOUT ROWID;
",
    "
    ALTER TABLE entries ADD COLUMN remembered INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX entries_to_remember ON entries(remembered)
        WHERE kind = 2 AND shared = 1 AND remembered < 2;
    CREATE TABLE blocks(
        hash BLOB NOT NULL UNIQUE, block_len INTEGER NOT NULL, hash_len INTEGER NOT NULL,
        seed INTEGER NOT NULL, len INTEGER NOT NULL, packed BLOB NOT NULL
    );
",
    "
    ALTER TABLE entries ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN base_size INTEGER;
",
    "
    CREATE TABLE conflicts(
        id INTEGER PRIMARY KEY, replica BLOB NOT NULL, path BLOB NOT NULL, ours INTEGER NOT NULL,
        theirs INTEGER NOT NULL, kind TEXT NOT NULL, state INTEGER NOT NULL, clash BLOB,
        rule TEXT NOT NULL, outcome TEXT NOT NULL, ancestor BLOB, at INTEGER NOT NULL,
        chosen TEXT, resolved TEXT, UNIQUE(replica, path, ours, theirs, kind)
    );
    CREATE TABLE conflict_sides(
        conflict INTEGER NOT NULL, side INTEGER NOT NULL, kind INTEGER NOT NULL,
        size INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_nanos INTEGER NOT NULL,
        mode INTEGER NOT NULL, hash BLOB, PRIMARY KEY(conflict, side)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE sketches(hash BLOB PRIMARY KEY, sketch BLOB NOT NULL) WITHOUT ROWID;
",
    "
    ALTER TABLE lines ADD COLUMN round_trip INTEGER;
",
    "
    CREATE TABLE signers(
        replica BLOB PRIMARY KEY, key BLOB NOT NULL, index_id BLOB NOT NULL,
        sequence INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE chain(
        replica BLOB NOT NULL, number INTEGER NOT NULL, said BLOB NOT NULL,
        said_signature BLOB NOT NULL, heard BLOB NOT NULL, heard_signature BLOB NOT NULL,
        at INTEGER NOT NULL, PRIMARY KEY(replica, number)
    ) WITHOUT ROWID;
",
    "
    DROP TABLE blocks;
    DROP TABLE sketches;
    UPDATE entries SET remembered = 0 WHERE remembered != 0;
",
];

/// Why an index cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process works on the root.
    #[error("another psync is working on this root; wait for it to finish")]
    Busy,
    /// The lock or the database cannot be reached.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The index is only to be looked at, and another psync made it.
    #[error(
        "the state database has format {format}, and this psync knows format {known}; the next sync of an older one brings it up to date"
    )]
    OtherFormat {
        /// Its format.
        format: i64,
        /// The format of this psync.
        known: i64,
    },
    /// The database works, but not now.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A database that could not be used and was given another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// The lock on a root. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in a state directory, or says that somebody else has it.
    pub fn take(dir: &Path) -> Result<Lock, OpenError> {
        let path = dir.join(LOCK);
        let io = |error| OpenError::Io { path: path.clone(), error };
        // Nothing that somebody has put in its place, and no waiting for the other end of a FIFO.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let mut options = File::options();
        options.create(true).truncate(false).write(true).custom_flags(flags as i32);
        let file = options.open(&path).map_err(io)?;
        let attempt = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut taken = attempt();
        for _ in 1..TRIES {
            // Whoever only asks has a share for a moment.
            if taken == Err(Errno::WOULDBLOCK) {
                std::thread::sleep(BETWEEN_TRIES);
                taken = attempt();
            }
        }
        match taken {
            Ok(()) => Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Busy),
            Err(error) => Err(OpenError::Io { path: path.clone(), error: error.into() }),
        }
    }

    /// Whether somebody has the lock in a state directory. It is found out by taking a share in the
    /// lock for a moment: the kernel's own list of locks leaves out what is held all the time when
    /// other locks come and go while it is read.
    pub fn is_taken(dir: &Path) -> bool {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags.bits() as i32).open(dir.join(LOCK));
        // Where there is no lock to be seen there is no state to be seen either.
        let Ok(file) = file else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }
}

impl Index {
    /// Opens the index in a state directory, whose [`Lock`] the caller holds; makes a new one
    /// where there is none. A database that is damaged, or of a newer format, is set aside, and a
    /// new one takes its place: the next sync is then a first contact, which deletes nothing.
    pub fn open(
        dir: &Path,
        random: impl Fn(&mut [u8]),
    ) -> Result<(Index, Option<SetAside>), OpenError> {
        match Index::try_open(dir, &random) {
            Ok(index) => Ok((index, None)),
            Err(Trouble::Error(error)) => Err(error.into()),
            Err(Trouble::Unusable(reason)) => {
                let path = set_aside(dir)?;
                match Index::try_open(dir, &random) {
                    Ok(index) => Ok((index, Some(SetAside { path, reason }))),
                    Err(Trouble::Error(error)) => Err(error.into()),
                    Err(Trouble::Unusable(_)) => Err(IndexError::Nonsense("a new database").into()),
                }
            }
        }
    }

    fn try_open(dir: &Path, random: &impl Fn(&mut [u8])) -> Result<Index, Trouble> {
        // For SQLite an empty file is a new database; here somebody or something emptied it.
        if fs::metadata(dir.join(FILE)).is_ok_and(|found| found.len() == 0) {
            return Err(Trouble::Unusable("the state database is empty".into()));
        }
        let mut db = database::open(&dir.join(FILE), database::MAKE)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.set_prepared_statement_cache_capacity(64);
        // One fsync for each of the few transactions of a run. FULL, not NORMAL: a sequence number
        // that a peer has seen must never be given twice. Up to 64 MiB go from the log to their places
        // once, at the end, and not after each transaction.
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -4096;
             PRAGMA wal_autocheckpoint = 16384;",
        )?;
        migrate(&mut db)?;
        let mut index = Index::over(db, Cache::open(dir));
        index.read_identity(random)?;
        index.accept_cache()?;
        Ok(index)
    }

    /// An index whose identity has yet to be read.
    pub(super) fn over(db: Connection, cache: Cache) -> Index {
        Index {
            db,
            cache,
            replica: ReplicaId([0; 16]),
            index_id: IndexId([0; 8]),
            sequence: 0,
            clock: 0,
            at_start: (0, 0),
            versions: Versions::default(),
            signing_key: None,
            lookups: 0,
        }
    }

    fn read_identity(&mut self, random: &impl Fn(&mut [u8])) -> Result<(), Trouble> {
        let Some(replica) = self.meta::<16>("replica")? else {
            return Ok(self.new_identity(random)?);
        };
        if self.meta::<1>("rolled_back")?.is_some() {
            let reason =
                "it is older than what other roots know of it; was it restored from a backup?";
            return Err(Trouble::Unusable(reason.into()));
        }
        if self.meta::<1>("unsigned")?.is_some() {
            let reason = "the key that this root has signed with is lost, or gives it another id";
            return Err(Trouble::Unusable(reason.into()));
        }
        self.signing_key = self.meta("signing_key")?;
        self.replica = ReplicaId(replica);
        let missing = || Trouble::Unusable("its identity is incomplete".into());
        self.index_id = IndexId(self.meta("index")?.ok_or_else(missing)?);
        self.sequence = u64::from_le_bytes(self.meta("sequence")?.ok_or_else(missing)?);
        self.clock = u64::from_le_bytes(self.meta("clock")?.ok_or_else(missing)?);
        self.at_start = (self.sequence, self.clock);
        Ok(())
    }

    /// Whether the root was this very directory last time (file system and inode); the first answer
    /// is yes, and is kept.
    pub fn is_directory(&mut self, identity: (u64, u64)) -> Result<bool, IndexError> {
        let now = [identity.0.to_le_bytes(), identity.1.to_le_bytes()].concat();
        let before: Option<Vec<u8>> = self
            .db
            .query_row("SELECT value FROM meta WHERE key = 'directory'", [], |row| row.get(0))
            .optional()?;
        match before {
            Some(before) => Ok(before == now),
            None => self.put_meta("directory", &now).map(|()| true),
        }
    }

    /// Takes a replica id and an index id for a new index.
    fn new_identity(&mut self, random: &impl Fn(&mut [u8])) -> Result<(), IndexError> {
        let mut replica = [0; 16];
        let mut index_id = [0; 8];
        random(&mut replica);
        random(&mut index_id);
        self.transaction(|index| {
            index.put_meta("replica", &replica)?;
            index.put_meta("index", &index_id)
        })?;
        self.replica = ReplicaId(replica);
        self.index_id = IndexId(index_id);
        Ok(())
    }

    /// Notes that this index was rolled back. Numbers that peers have seen would be given again
    /// under its identity, and its rows would look older than they are: it is set aside when it is
    /// opened next.
    pub fn mark_rolled_back(&mut self) -> Result<(), IndexError> {
        self.put_meta("rolled_back", &[1])
    }

    /// The public key that this replica signs with; none as long as it has not been made.
    pub fn signing_key(&self) -> Option<[u8; 32]> {
        self.signing_key
    }

    /// Notes the public key that this replica signs with from now on, and the id that is made of it. To
    /// be called within a transaction.
    pub fn sign_as(&mut self, replica: ReplicaId, key: [u8; 32]) -> Result<(), IndexError> {
        self.put_meta("replica", &replica.0)?;
        self.put_meta("signing_key", &key)?;
        (self.replica, self.signing_key) = (replica, Some(key));
        Ok(())
    }

    /// Notes that the secret of this replica's key is lost, or does not give its id. Peers take nobody else for it: it is set
    /// aside when it is opened next, and the root becomes a new replica.
    pub fn mark_unsigned(&mut self) -> Result<(), IndexError> {
        self.put_meta("unsigned", &[1])
    }

    fn meta<const N: usize>(&self, key: &str) -> Result<Option<[u8; N]>, Trouble> {
        let value: Option<Vec<u8>> = self
            .db
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()?;
        match value.map(<[u8; N]>::try_from) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Trouble::Unusable("its identity is damaged".into())),
        }
    }
}

/// What stands in the way of a database.
enum Trouble {
    /// It has to be set aside, for this reason.
    Unusable(String),
    /// It may be fine; the system is not.
    Error(IndexError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        IndexError::from(error).into()
    }
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Trouble {
        if error.is_damage() { Trouble::Unusable(error.to_string()) } else { Trouble::Error(error) }
    }
}

fn migrate(db: &mut Connection) -> Result<(), Trouble> {
    let newest = FORMAT;
    let format: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format > newest {
        let reason = format!(
            "it has format {format} of a newer psync; this one knows formats up to {newest}"
        );
        return Err(Trouble::Unusable(reason));
    }
    let done =
        usize::try_from(format).map_err(|_| Trouble::Unusable("its format is negative".into()))?;
    for (from, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let step = db.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "user_version", from as i64 + 1)?;
        step.commit()?;
    }
    Ok(())
}

/// Renames the database, with its journal, to a name that is free.
fn set_aside(dir: &Path) -> Result<PathBuf, OpenError> {
    for number in 1.. {
        let aside = dir.join(format!("{FILE}.unusable-{number}"));
        if aside.exists() {
            continue;
        }
        for suffix in ["", "-wal", "-shm"] {
            let from = dir.join(format!("{FILE}{suffix}"));
            let to = dir.join(format!("{FILE}.unusable-{number}{suffix}"));
            match fs::rename(&from, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::Io { path: from, error }),
            }
        }
        return Ok(aside);
    }
    unreachable!("there is always another number")
}
