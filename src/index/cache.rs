//! What is known of contents and could be found out again: block hashes and sketches.
//!
//! They lie in a database of their own. They are many bytes, which a rollback journal writes once, where a WAL
//! writes them twice; and a thread can write them while the index is at work. As with the store of old contents
//! nothing waits for the disk and nothing depends on them: full hashes decide what comes of them, and where they
//! are damaged or gone they are found out again, or a file is sent as if they never were.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use psync_protocol::ContentHash;
use rusqlite::{Connection, Error, OpenFlags, OptionalExtension, ToSql};
use thiserror::Error;

use crate::database;

const FILE: &str = "cache.db";
/// The format that this psync reads and writes. What has another one is made anew.
const FORMAT: i64 = 1;
const SCHEMA: &str = "
    BEGIN;
    DROP TABLE IF EXISTS blocks;
    DROP TABLE IF EXISTS sketches;
    CREATE TABLE blocks(
        hash BLOB NOT NULL UNIQUE, block_len INTEGER NOT NULL, hash_len INTEGER NOT NULL,
        seed INTEGER NOT NULL, len INTEGER NOT NULL, packed BLOB NOT NULL
    );
    CREATE TABLE sketches(hash BLOB PRIMARY KEY, sketch BLOB NOT NULL) WITHOUT ROWID;
    COMMIT;
";
/// How long one who reads waits for one who writes, and the other way round.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why something cannot be kept in the cache.
#[derive(Debug, Error)]
pub enum CacheError {
    /// SQLite's own.
    #[error(transparent)]
    Sqlite(#[from] Error),
    /// The file cannot be reached.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another psync made it.
    #[error("it has format {0}, and this psync knows {FORMAT}")]
    OtherFormat(i64),
    /// It could not be opened, or was found to be damaged.
    #[error("it is of no use now")]
    Unusable,
}

/// Bytes of a sketch.
pub const SKETCH_BYTES: usize = 32;

/// A sketch as it is kept; what it says is known to whoever made it.
pub type SketchBytes = [u8; SKETCH_BYTES];

/// The block hashes of a content, and how they were made: with this a later content can be
/// searched for the blocks of this one, which itself is not at hand any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHashes {
    /// Bytes in a full block.
    pub block_len: u32,
    /// Bytes in a hash.
    pub hash_len: u8,
    /// What the hash's secret constants are drawn from.
    pub seed: u64,
    /// Bytes in the content.
    pub len: u64,
    /// The hashes of all blocks, in order.
    pub packed: Vec<u8>,
}

/// What is to be known of a content.
#[derive(Debug, Clone)]
pub struct Digests {
    /// The content.
    pub hash: ContentHash,
    /// Its block hashes, if they are of use.
    pub blocks: Option<BlockHashes>,
    /// Its sketch, if it has one.
    pub sketch: Option<SketchBytes>,
}

impl CacheError {
    /// Whether the cache has to be made anew.
    fn is_damage(&self) -> bool {
        match self {
            CacheError::Sqlite(error) => database::is_damage(error),
            CacheError::OtherFormat(_) => true,
            CacheError::Io(_) | CacheError::Unusable => false,
        }
    }
}

impl Digests {
    /// Bytes that they take in the cache, about.
    pub fn bytes(&self) -> usize {
        let blocks = self.blocks.as_ref().map_or(0, |blocks| blocks.packed.len() + 64);
        blocks + self.sketch.map_or(0, |_| 2 * SKETCH_BYTES)
    }
}

/// The open cache. Two may be open at a time, in different threads.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    /// None where it cannot be used.
    db: Option<Connection>,
    /// Whether nothing is in it yet that the index could count on.
    is_new: bool,
    /// Whether it was found to be damaged.
    is_damaged: Cell<bool>,
    /// What a person should hear of it.
    trouble: RefCell<Option<String>>,
}

impl Cache {
    /// Opens the cache in a state directory, or makes one: also in the place of one that is damaged. Where
    /// that fails nothing is known, and [`Cache::take_trouble`] tells why.
    pub(super) fn open(dir: &Path) -> Cache {
        let path = dir.join(FILE);
        let mut trouble = None;
        let opened = open_or_make(&path).or_else(|error| {
            trouble = Some(error.to_string());
            match error.is_damage() {
                true => remove(&path).and_then(|()| open_or_make(&path)),
                false => Err(error),
            }
        });
        let (db, is_new) = opened.map_or((None, false), |(db, is_new)| (Some(db), is_new));
        Cache { path, db, is_new, is_damaged: Cell::new(false), trouble: RefCell::new(trouble) }
    }

    /// Opens it for reading only. Nothing is known where that fails.
    pub(super) fn look(dir: &Path) -> Cache {
        let path = dir.join(FILE);
        let db = database::open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
        let is_fit = |db: &Connection| {
            db.busy_timeout(PATIENCE).is_ok() && format(db).is_ok_and(|found| found == FORMAT)
        };
        Cache { db: db.filter(is_fit), ..Cache::none(path) }
    }

    fn none(path: PathBuf) -> Cache {
        let (is_damaged, trouble) = (Cell::default(), RefCell::default());
        Cache { path, db: None, is_new: false, is_damaged, trouble }
    }

    /// Opens it once more, for a thread that fills it.
    pub fn again(&self) -> Option<Cache> {
        self.usable()?;
        let (db, is_new) = open_or_make(&self.path).ok()?;
        // A batch fits: what does not would keep those out who read until it is committed.
        db.execute_batch("PRAGMA cache_size = -16384;").ok()?;
        Some(Cache { db: Some(db), is_new, ..Cache::none(self.path.clone()) })
    }

    /// Whether nothing is in it, and nobody has said yet that nothing is expected to be.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Nothing is expected to be in it that is not. It is new until then, also when it is opened again.
    pub(super) fn accept(&mut self) -> Result<(), CacheError> {
        self.writable()?.pragma_update(None, "user_version", FORMAT)?;
        self.is_new = false;
        Ok(())
    }

    /// Why it is of no use, or had to be made anew.
    pub fn take_trouble(&self) -> Option<String> {
        self.trouble.take()
    }

    /// Makes it anew if it has turned out to be damaged.
    pub(super) fn mend(&mut self) {
        if !self.is_damaged.take() {
            return;
        }
        self.db = None;
        match remove(&self.path).and_then(|()| open_or_make(&self.path)) {
            Ok((db, is_new)) => (self.db, self.is_new) = (Some(db), is_new),
            Err(error) => *self.trouble.get_mut() = Some(error.to_string()),
        }
    }

    /// The database, unless it was found to be damaged.
    fn usable(&self) -> Option<&Connection> {
        self.db.as_ref().filter(|_| !self.is_damaged.get())
    }

    /// The same, to be written.
    fn writable(&mut self) -> Result<&mut Connection, CacheError> {
        let is_sound = !self.is_damaged.get();
        self.db.as_mut().filter(|_| is_sound).ok_or(CacheError::Unusable)
    }

    fn look_at(&self, error: &Error) {
        if database::is_damage(error) {
            self.is_damaged.set(true);
            self.trouble.replace(Some(error.to_string()));
        }
    }

    /// What a query finds. Where it fails nothing is known.
    fn ask<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        query(self.usable()?).inspect_err(|error| self.look_at(error)).ok()
    }

    /// The block hashes of a content, if they are known.
    pub fn blocks(&self, hash: &ContentHash) -> Option<BlockHashes> {
        let sql = "SELECT block_len, hash_len, seed, len, packed FROM blocks WHERE hash = ?1";
        let found = self.ask(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let blocks = statement.query_row([&hash.0[..]], |row| {
                Ok(BlockHashes {
                    block_len: row.get(0)?,
                    hash_len: row.get(1)?,
                    seed: row.get::<_, i64>(2)? as u64,
                    len: row.get::<_, i64>(3)? as u64,
                    packed: row.get(4)?,
                })
            });
            blocks.optional()
        });
        found.flatten()
    }

    /// Whether the block hashes of a content are known.
    pub fn has_blocks(&self, hash: &ContentHash) -> bool {
        self.says("SELECT EXISTS(SELECT 1 FROM blocks WHERE hash = ?1)", &[&&hash.0[..]])
    }

    /// Whether any block hashes are known.
    pub fn has_any_blocks(&self) -> bool {
        self.says("SELECT EXISTS(SELECT 1 FROM blocks)", &[])
    }

    fn says(&self, sql: &str, parameters: &[&dyn ToSql]) -> bool {
        let found = self.ask(|db| db.prepare_cached(sql)?.query_row(parameters, |row| row.get(0)));
        found.unwrap_or(false)
    }

    /// Of how many contents block hashes are known, and the bytes of these hashes.
    pub fn blocks_in_all(&self) -> (u64, u64) {
        let sql = "SELECT count(*), ifnull(sum(length(packed)), 0) FROM blocks";
        let found: Option<(i64, i64)> =
            self.ask(|db| db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))));
        found.map_or((0, 0), |(count, bytes)| (count as u64, bytes as u64))
    }

    /// The sketch of a content, if it is known.
    pub fn sketch(&self, hash: &ContentHash) -> Option<SketchBytes> {
        self.sketches_of(&[*hash]).pop().flatten()
    }

    /// The sketches of contents, as far as they are known.
    pub(super) fn sketches_of(&self, hashes: &[ContentHash]) -> Vec<Option<SketchBytes>> {
        // In one transaction: to take and give up the lock for each takes far longer than to look.
        let found = self.ask(|db| {
            let step = db.unchecked_transaction()?;
            let mut statement =
                step.prepare_cached("SELECT sketch FROM sketches WHERE hash = ?1")?;
            let mut find = |hash: &ContentHash| {
                statement.query_row([&hash.0[..]], |row| row.get(0)).optional()
            };
            hashes.iter().map(&mut find).collect()
        });
        found.unwrap_or_else(|| vec![None; hashes.len()])
    }

    /// How many sketches there are.
    pub(super) fn sketches(&self) -> u64 {
        let count: Option<i64> =
            self.ask(|db| db.query_row("SELECT count(*) FROM sketches", [], |row| row.get(0)));
        count.unwrap_or(0) as u64
    }

    /// Keeps what is to be known of contents, in the place of what was known: all of it, or nothing.
    pub fn put(&mut self, digests: &[Digests]) -> Result<(), CacheError> {
        let put = |db: &mut Connection| {
            let step = db.transaction()?;
            digests.iter().try_for_each(|digests| put_one(&step, digests))?;
            step.commit()
        };
        let done = put(self.writable()?);
        Ok(done.inspect_err(|error| {
            self.look_at(error);
            self.trouble.replace(Some(error.to_string()));
        })?)
    }

    /// Lets go of block hashes, or of sketches, of contents that nobody wants, if it can. Says of how many.
    pub(super) fn retain(&mut self, what: What, is_wanted: impl Fn(&ContentHash) -> bool) -> usize {
        let table = match what {
            What::Blocks => "blocks",
            What::Sketches => "sketches",
        };
        let gone = self.ask(|db| {
            let step = db.unchecked_transaction()?;
            let mut gone = Vec::new();
            let mut statement = step.prepare(&format!("SELECT hash FROM {table}"))?;
            for hash in statement.query_map([], |row| row.get::<_, [u8; 32]>(0))? {
                gone.extend(Some(hash?).filter(|hash| !is_wanted(&ContentHash(*hash))));
            }
            let mut delete = step.prepare(&format!("DELETE FROM {table} WHERE hash = ?1"))?;
            for hash in &gone {
                delete.execute([&hash[..]])?;
            }
            drop((statement, delete));
            step.commit()?;
            Ok(gone.len())
        });
        gone.unwrap_or(0)
    }
}

/// Of what something is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Blocks,
    Sketches,
}

fn put_one(db: &Connection, digests: &Digests) -> rusqlite::Result<()> {
    let Digests { hash, blocks, sketch } = digests;
    if let Some(BlockHashes { block_len, hash_len, seed, len, packed }) = blocks {
        let sql = "INSERT OR REPLACE INTO blocks(hash, block_len, hash_len, seed, len, packed)
                   VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
        let row = (&hash.0[..], block_len, hash_len, *seed as i64, *len as i64, packed);
        db.prepare_cached(sql)?.execute(row)?;
    }
    if let Some(sketch) = sketch {
        let sql = "INSERT OR REPLACE INTO sketches(hash, sketch) VALUES(?1, ?2)";
        db.prepare_cached(sql)?.execute((&hash.0[..], &sketch[..]))?;
    }
    Ok(())
}

fn format(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The database at a path, and whether it was made just now.
fn open_or_make(path: &Path) -> Result<(Connection, bool), CacheError> {
    let db = database::open(path, database::MAKE)?;
    db.busy_timeout(PATIENCE)?;
    db.set_prepared_statement_cache_capacity(16);
    // What a crash of the system leaves of it need not be whole. What one of psync leaves is.
    db.execute_batch(
        "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = OFF; PRAGMA cache_size = -4096;",
    )?;
    match format(&db)? {
        FORMAT => Ok((db, false)),
        0 => {
            db.execute_batch(SCHEMA)?;
            Ok((db, true))
        }
        other => Err(CacheError::OtherFormat(other)),
    }
}

fn remove(path: &Path) -> Result<(), CacheError> {
    for suffix in ["", "-journal"] {
        let mut path = path.as_os_str().to_os_string();
        path.push(suffix);
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Err(_) | Ok(()) => {}
        }
    }
    Ok(())
}
