//! The store of old contents: what files held when they were last agreed with a peer, so that a
//! later edit can be sent as a patch against it and nobody has to describe the old file first.
//!
//! # Format
//!
//! The directory `store` beside the index holds `store.db`, an SQLite database whose
//! `PRAGMA user_version` is 1, and `snapshots/`, files named by the hash of their content in
//! hexadecimal.
//!
//! | table | a row is |
//! |---|---|
//! | `contents` | a content: its BLAKE3 hash, size in bytes, bytes that count against the budget, where it lies (1: in `chunks`, 2: in `snapshots/`), and the number of the opening of the store in which it was last used |
//! | `chunks` | 1 MiB of a content (the last one: what remains), as a zstd frame; or as it is, which shows by its being as long as what it holds. Chunk `n` of content `id` has the number `id << 20 \| n` |
//!
//! A content is found by its hash alone, whoever needs it, so trash, history and the ancestors of
//! merges can lie here too: what is to hold an entry besides its latest use will be a column with a
//! default, which SQLite adds without touching a row.
//!
//! # What may happen to it
//!
//! Nothing here is the only copy of anything a sync needs. So nothing waits for the disk
//! (`synchronous = OFF`; a rollback journal, which costs little as new pages are not in it, makes a
//! killed process harmless), a database that is damaged is thrown away, and whoever uses a content
//! checks its hash first.

mod chunks;
mod error;
mod gc;
mod old;
mod open;
mod pack;
mod snapshot;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use psync_protocol::ContentHash;
use rusqlite::{Connection, OptionalExtension};

pub use chunks::Chunks;
pub use error::StoreError;
pub use gc::{Checked, Collected};
pub use old::OldContent;
pub use open::Found;
pub use pack::{Packed, Packer};

/// Raw bytes in a chunk.
const CHUNK: usize = 1 << 20;
/// Chunks of one content at most: sizes up to 1 TiB.
const CHUNKS_MAX: u64 = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 20;
/// Bytes in a page of the database.
const PAGE: u64 = 16 << 10;
/// What a content is taken to cost besides its chunks: a row and its places in two indexes.
const ROW_COST: u64 = 160;
/// Pages that are left free below the budget, for the inner ones of trees.
const SPARE: u64 = 4 * PAGE;
/// From this size on a snapshot is tried first, where the file system has them. Below, compressing
/// is as quick, and a file takes more room than a row.
const SNAPSHOT_MIN: u64 = 1 << 20;
/// Bytes after which what was kept is committed.
const COMMIT_STEP: u64 = 64 << 20;

/// What a store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes on disk, in all.
    pub budget: u64,
    /// Bytes in the largest file of which a copy is kept.
    pub largest_file: u64,
}

impl Rules {
    /// Default for [`Rules::largest_file`]: 256 MiB, a quarter of the least budget. Databases are
    /// of such a size, and are what a whole old content saves most of.
    pub const LARGEST_FILE: u64 = 256 << 20;

    /// The rules where nobody says otherwise, for a tree with so many bytes in its files: a tenth
    /// of them, or 1 GiB if that is more.
    pub fn for_tree(bytes: u64) -> Rules {
        Rules { budget: (bytes / 10).max(1 << 30), largest_file: Rules::LARGEST_FILE }
    }
}

/// What became of a content that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The store holds it, since now or since before.
    Held,
    /// What was read is another content; nothing was kept.
    Different,
    /// There is no room for it within the budget.
    NoRoom,
}

/// An open store. Only for the holder of the root's lock.
#[derive(Debug)]
pub struct Store {
    db: Arc<Mutex<Connection>>,
    dir: PathBuf,
    rules: Rules,
    /// The number of this opening.
    turn: i64,
    next_id: i64,
    /// Bytes on disk, as far as known.
    bytes: u64,
    /// Bytes put in since the last commit.
    uncommitted: u64,
    /// Contents used since the last commit.
    used: Vec<i64>,
    snapshots: snapshot::Snapshots,
}

/// Where a content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Chunks,
    Snapshot,
}

impl Place {
    fn number(self) -> i64 {
        match self {
            Place::Chunks => 1,
            Place::Snapshot => 2,
        }
    }

    fn of(number: i64) -> Result<Place, StoreError> {
        match number {
            1 => Ok(Place::Chunks),
            2 => Ok(Place::Snapshot),
            _ => Err(StoreError::Nonsense("a place")),
        }
    }
}

/// A row of `contents`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: i64,
    size: u64,
    place: Place,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStat {
    /// Contents, those in snapshots included.
    pub contents: u64,
    /// Their bytes, uncompressed.
    pub raw: u64,
    /// Bytes on disk that count against the budget.
    pub stored: u64,
    /// Contents that are snapshots.
    pub snapshots: u64,
    /// Bytes in snapshots, most of which the file system shares with the tree's files.
    pub snapshot_bytes: u64,
    /// The budget, in bytes.
    pub budget: u64,
}

impl Store {
    /// Whether a copy of a file of this size would be kept, if there is room.
    pub fn takes(&self, size: u64) -> bool {
        size <= self.rules.largest_file
            && size <= CHUNKS_MAX * CHUNK as u64
            && self.rules.budget > 0
    }

    /// The rules it was opened with.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        let sql = "SELECT NOT EXISTS(SELECT 1 FROM contents)";
        Ok(self.db().prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Whether it holds this content.
    pub fn holds(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        Ok(self.entry(hash)?.is_some())
    }

    /// Keeps a content of `size` bytes that `reader` gives, if that is what it gives. Memory is
    /// bounded, whatever the size.
    pub fn keep(
        &mut self,
        hash: &ContentHash,
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<Kept, StoreError> {
        if self.holds(hash)? {
            return Ok(Kept::Held);
        }
        if !self.takes(size) {
            return Ok(Kept::NoRoom);
        }
        let id = self.take_id()?;
        let mut packer = Packer::new().map_err(StoreError::Unreadable)?;
        let (mut number, mut stored) = (0, 0);
        let packed = packer.each_chunk(size, reader, |chunk| {
            if !self.has_room(cost(chunk))? {
                return Ok(false);
            }
            stored += cost(chunk);
            self.put_chunk(id, number, chunk)?;
            number += 1;
            Ok::<_, StoreError>(true)
        });
        let kept = match packed {
            Ok(None) => Ok(Kept::NoRoom),
            Ok(Some(found)) if found == (*hash, size) => Ok(Kept::Held),
            Ok(Some(_)) => Ok(Kept::Different),
            Err(error) => Err(error),
        };
        let finished = match &kept {
            Ok(Kept::Held) => {
                let entry = Entry { id, size, place: Place::Chunks };
                self.put_entry(hash, entry, stored).map(|_| ())
            }
            Ok(Kept::Different | Kept::NoRoom) | Err(StoreError::Unreadable(_)) => {
                self.remove_chunks(id)
            }
            Err(_) => Ok(()),
        };
        let kept = kept.and_then(|kept| finished.map(|()| kept));
        self.or_roll_back(kept)
    }

    /// Keeps a content that was packed before, perhaps by another thread.
    pub fn put(&mut self, packed: &Packed) -> Result<Kept, StoreError> {
        let stored = packed.chunks.iter().map(|chunk| cost(chunk)).sum();
        if !self.has_room(stored)? {
            return Ok(if self.holds(&packed.hash)? { Kept::Held } else { Kept::NoRoom });
        }
        let id = self.take_id()?;
        let entry = Entry { id, size: packed.size, place: Place::Chunks };
        let put = self.put_entry(&packed.hash, entry, stored).and_then(|is_new| {
            let mut chunks = packed.chunks.iter().enumerate().filter(|_| is_new);
            chunks.try_for_each(|(number, chunk)| self.put_chunk(id, number as u64, chunk))
        });
        self.or_roll_back(put.map(|()| Kept::Held))
    }

    /// Keeps the content of an open file, which may have any size, without copying it: where the
    /// file system can share its blocks. None where it cannot.
    pub fn snapshot(
        &mut self,
        hash: &ContentHash,
        size: u64,
        file: &File,
    ) -> Result<Option<Kept>, StoreError> {
        if size < SNAPSHOT_MIN || self.rules.budget == 0 {
            return Ok(None);
        }
        if self.holds(hash)? {
            return Ok(Some(Kept::Held));
        }
        match self.snapshots.take(hash, size, file) {
            None => Ok(None),
            Some(false) => Ok(Some(Kept::Different)),
            Some(true) => {
                let id = self.take_id()?;
                self.put_entry(hash, Entry { id, size, place: Place::Snapshot }, 0)?;
                Ok(Some(Kept::Held))
            }
        }
    }

    /// The content with this hash, and notes that it was used. Nothing of it has been checked yet:
    /// see [`OldContent::verify`] and [`OldContent::read_all`].
    pub fn old(&mut self, hash: &ContentHash) -> Result<Option<OldContent>, StoreError> {
        let Some(entry) = self.entry(hash)? else { return Ok(None) };
        self.used.push(entry.id);
        Ok(match entry.place {
            Place::Chunks => Some(OldContent::in_chunks(&self.db, *hash, entry)),
            Place::Snapshot => {
                let opened = self.snapshots.open(hash, entry.size);
                opened.map(|file| OldContent::in_snapshot(file, *hash, entry.size))
            }
        })
    }

    /// Finds contents from another thread.
    pub fn reader(&self) -> Reader {
        Reader(self.db.clone())
    }

    /// Notes that contents that a [`Reader`] found were used.
    pub fn note_used(&mut self, hashes: impl Iterator<Item = ContentHash>) {
        // What is not noted only goes sooner.
        let entries = hashes.filter_map(|hash| self.entry(&hash).ok().flatten());
        let ids: Vec<i64> = entries.map(|entry| entry.id).collect();
        self.used.extend(ids);
    }

    /// Lets go of a content, for instance because it turned out to be damaged.
    pub fn forget(&mut self, hash: &ContentHash) -> Result<(), StoreError> {
        match self.entry(hash)? {
            Some(entry) => self.remove(hash, entry),
            None => Ok(()),
        }
    }

    /// What it holds.
    pub fn stat(&self) -> Result<StoreStat, StoreError> {
        let sql = "SELECT count(*), ifnull(sum(size), 0), ifnull(sum(place = 2), 0),
                          ifnull(sum(iif(place = 2, size, 0)), 0) FROM contents";
        let (contents, raw, snapshots, snapshot_bytes) = self.db().query_row(sql, [], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })?;
        Ok(StoreStat {
            contents: contents as u64,
            raw: raw as u64,
            stored: self.bytes_on_disk()?,
            snapshots: snapshots as u64,
            snapshot_bytes: snapshot_bytes as u64,
            budget: self.rules.budget,
        })
    }

    /// Makes what was kept visible to later runs. Happens by itself now and then, and at the end.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if !self.used.is_empty() {
            self.begin()?;
            let used = std::mem::take(&mut self.used);
            let turn = self.turn;
            let db = self.db();
            let mut statement = db.prepare_cached("UPDATE contents SET used = ?2 WHERE id = ?1")?;
            used.iter().try_for_each(|id| statement.execute((id, turn)).map(|_| ()))?;
        }
        let db = self.db();
        if !db.is_autocommit() {
            db.execute_batch("COMMIT")?;
        }
        drop(db);
        self.uncommitted = 0;
        self.bytes = self.bytes_on_disk()?;
        Ok(())
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        lock(&self.db)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        let db = self.db();
        if db.is_autocommit() {
            db.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    fn or_roll_back<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.as_ref().is_err_and(|error| !matches!(error, StoreError::Unreadable(_))) {
            self.roll_back();
        }
        result
    }

    /// After an error of the database: what has not been committed may be there in part.
    fn roll_back(&mut self) {
        let db = self.db();
        if !db.is_autocommit() {
            // Where even that fails, the next opening rolls back.
            let _ = db.execute_batch("ROLLBACK");
        }
        drop(db);
        self.bytes = self.bytes_on_disk().unwrap_or(self.bytes);
        self.uncommitted = 0;
    }

    fn take_id(&mut self) -> Result<i64, StoreError> {
        if self.uncommitted >= COMMIT_STEP {
            self.commit()?;
        }
        self.begin()?;
        let id = self.next_id;
        self.next_id += 1;
        Ok(id)
    }

    fn entry(&self, hash: &ContentHash) -> Result<Option<Entry>, StoreError> {
        entry_in(&self.db(), hash)
    }

    /// Writes a row; false if the content is there already.
    fn put_entry(
        &mut self,
        hash: &ContentHash,
        entry: Entry,
        stored: u64,
    ) -> Result<bool, StoreError> {
        let turn = self.turn;
        let is_new = {
            let db = self.db();
            let mut statement = db.prepare_cached(
                "INSERT OR IGNORE INTO contents(id, hash, size, stored, place, used)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            let Entry { id, size, place } = entry;
            let row = (id, &hash.0[..], size as i64, stored as i64, place.number(), turn);
            statement.execute(row)? == 1
        };
        self.bytes += ROW_COST;
        Ok(is_new)
    }

    fn put_chunk(&mut self, id: i64, number: u64, chunk: &[u8]) -> Result<(), StoreError> {
        let number = id << CHUNK_BITS | number as i64;
        self.db()
            .prepare_cached("INSERT INTO chunks(id, bytes) VALUES(?1, ?2)")?
            .execute((number, chunk))?;
        self.bytes += cost(chunk);
        self.uncommitted += chunk.len() as u64;
        Ok(())
    }

    /// Whether so many bytes more are within the budget. What is there is counted along the way, and
    /// looked up when that becomes too rough.
    fn has_room(&mut self, cost: u64) -> Result<bool, StoreError> {
        let limit = self.rules.budget.saturating_sub(SPARE);
        if self.bytes.saturating_add(cost) > limit {
            self.bytes = self.bytes_on_disk()?;
        }
        Ok(self.bytes.saturating_add(cost) <= limit)
    }

    fn remove(&mut self, hash: &ContentHash, entry: Entry) -> Result<(), StoreError> {
        self.begin()?;
        self.db().prepare_cached("DELETE FROM contents WHERE id = ?1")?.execute([entry.id])?;
        match entry.place {
            Place::Chunks => self.remove_chunks(entry.id),
            Place::Snapshot => self.snapshots.remove(hash),
        }
    }

    fn remove_chunks(&mut self, id: i64) -> Result<(), StoreError> {
        self.db()
            .prepare_cached("DELETE FROM chunks WHERE id >= ?1 AND id < ?2")?
            .execute((id << CHUNK_BITS, (id + 1) << CHUNK_BITS))?;
        Ok(())
    }

    /// Bytes of the database that are in use, and of snapshots that only the store still has.
    fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        let sql = "SELECT (page_count - freelist_count) * page_size,
                          (SELECT ifnull(sum(stored), 0) FROM contents WHERE place = 2)
                   FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
        let db = self.db();
        let mut statement = db.prepare_cached(sql)?;
        let (pages, snapshots) =
            statement.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        Ok(pages as u64 + snapshots as u64)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What is lost can be kept again.
        let _ = self.commit();
    }
}

/// Finds contents, whatever the store does meanwhile.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Mutex<Connection>>);

impl Reader {
    /// The content with this hash, but not one in a snapshot.
    pub fn find(&self, hash: &ContentHash) -> Result<Option<OldContent>, StoreError> {
        let entry = entry_in(&lock(&self.0), hash)?;
        let entry = entry.filter(|entry| entry.place == Place::Chunks);
        Ok(entry.map(|entry| OldContent::in_chunks(&self.0, *hash, entry)))
    }
}

fn entry_in(db: &Connection, hash: &ContentHash) -> Result<Option<Entry>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT id, size, place FROM contents WHERE hash = ?1")?;
    let row = statement.query_row([&hash.0[..]], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    let Some((id, size, place)) = row.optional()? else { return Ok(None) };
    let size = u64::try_from(size).map_err(|_| StoreError::Nonsense("a size"))?;
    Ok(Some(Entry { id, size, place: Place::of(place)? }))
}

/// The bytes on disk that a chunk takes: its own; where it does not lie in one page, whole pages.
fn cost(chunk: &[u8]) -> u64 {
    let bytes = chunk.len() as u64;
    if bytes < PAGE - 64 { bytes } else { bytes.div_ceil(PAGE - 4) * PAGE }
}

fn lock(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}
