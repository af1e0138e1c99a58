//! The rows of the index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use psync_protocol::{ContentHash, RelPath};
use xxhash_rust::xxh3::xxh3_64;

use super::columns::{self, KIND_DELETED, RowWriter, Table, path_of, select};
use super::{Index, IndexError};
use crate::manifest::{Stamp, Stored};

/// The live rows, as far as a scan needs them: 17 bytes of content for each, found by a hash of the
/// path. Paths stay in the database; whoever finds a difference looks there.
#[derive(Debug, Default)]
pub struct Known {
    stamps: HashMap<u64, Seen, BuildHasherDefault<Identity>>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    seen: AtomicBool,
}

/// The key is a hash already.
#[derive(Debug, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl Known {
    /// Whether the entry at `path` is known and looks the same; notes that it was seen. Two known
    /// paths with the same hash are never said to be unchanged, so they are looked at properly.
    pub fn is_unchanged(&self, path: &[u8], stamp: Stamp) -> bool {
        self.stamps.get(&xxh3_64(path)).is_some_and(|known| {
            known.seen.store(true, Ordering::Relaxed);
            known.stamp == stamp && stamp != Stamp::UNKNOWN
        })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.stamps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stamps.is_empty()
    }

    /// Whether every row was seen.
    pub fn all_seen(&self) -> bool {
        self.stamps.values().all(|known| known.seen.load(Ordering::Relaxed))
    }

    /// Whether this row was seen.
    pub fn was_seen(&self, path: &[u8]) -> bool {
        self.stamps.get(&xxh3_64(path)).is_some_and(|known| known.seen.load(Ordering::Relaxed))
    }
}

/// After so many rows have been looked up one by one, the database may keep 64 MiB in memory.
const MANY_LOOKUPS: u64 = 4096;

const ROW_OF_PATH: &str = select!("FROM entries WHERE path = ?1");
const ROWS_BETWEEN: &str = select!("FROM entries WHERE path >= ?1 AND path <= ?2 ORDER BY path");
const ROWS_BELOW: &str = select!("FROM entries WHERE path >= ?1 AND path < ?2 ORDER BY path");
const ROWS_SINCE: &str = select!("FROM entries NOT INDEXED WHERE sequence > ?1 ORDER BY path");
const FEW_ROWS_SINCE: &str =
    select!("FROM entries INDEXED BY entries_by_sequence WHERE sequence > ?1 ORDER BY path");
const ANNOUNCED: &str = select!("FROM intents");
const MARK_SHARED: &str = "UPDATE entries SET shared = 1 WHERE path = ?1";
const UNSHARED: &str = "SELECT path FROM entries WHERE shared = 0";
const MARK_AGREED: &str = "UPDATE entries SET shared = 1, agreed_mode = mode WHERE path = ?1";
const UNAGREED: &str = "SELECT path FROM entries WHERE shared = 0 OR agreed_mode != mode";

/// Where one path in so many is looked up, or fewer, each is looked up by itself.
const SPARSE: usize = 16;

impl Index {
    /// Loads what a scan compares with.
    pub fn known(&self) -> Result<Known, IndexError> {
        let count: i64 = self.db.query_row("SELECT count(*) FROM entries", [], |row| row.get(0))?;
        let mut stamps: HashMap<u64, Seen, _> = HashMap::with_capacity_and_hasher(
            count as usize,
            BuildHasherDefault::<Identity>::default(),
        );
        let mut statement = self.db.prepare_cached("SELECT path, stamp, kind FROM entries")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(2)? == KIND_DELETED {
                continue;
            }
            let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
            let stamp = Stamp(row.get::<_, i64>(1)? as u64);
            stamps
                .entry(xxh3_64(path))
                .and_modify(|known| known.stamp = Stamp::UNKNOWN)
                .or_insert(Seen { stamp, seen: AtomicBool::new(false) });
        }
        Ok(Known { stamps })
    }

    /// The row of a path.
    pub fn row(&mut self, path: &RelPath) -> Result<Option<Stored>, IndexError> {
        self.note_lookups(1)?;
        let Index { db, versions, .. } = self;
        let mut statement = db.prepare_cached(ROW_OF_PATH)?;
        let mut rows = statement.query([path.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        columns::read_at(path.clone(), row, db, versions).map(Some)
    }

    /// The rows of these paths, each in its place. Where they are sorted and a good part of all, the
    /// table is read once from the first to the last of them.
    pub fn rows_at(&mut self, paths: &[&RelPath]) -> Result<Vec<Option<Stored>>, IndexError> {
        if self.are_few(paths.len())? || !paths.is_sorted() {
            return paths.iter().map(|path| self.row(path)).collect();
        }
        self.note_lookups(paths.len() as u64)?;
        let mut found = Vec::with_capacity(paths.len());
        let Index { db, versions, .. } = self;
        let mut statement = db.prepare_cached(ROWS_BETWEEN)?;
        let (first, last) = (paths[0].as_bytes(), paths[paths.len() - 1].as_bytes());
        let mut rows = statement.query((first, last))?;
        while let Some(row) = rows.next()? {
            let at = path_of(row)?;
            while let Some(path) = paths.get(found.len()).filter(|path| path.as_bytes() <= at) {
                let is_it = path.as_bytes() == at;
                let path = (*path).clone();
                let read = is_it.then(|| columns::read_at(path, row, db, versions));
                found.push(read.transpose()?);
            }
        }
        found.resize_with(paths.len(), || None);
        Ok(found)
    }

    /// Whether so many rows are better found one by one than by reading all.
    fn are_few(&self, count: usize) -> Result<bool, IndexError> {
        if count < SPARSE {
            return Ok(true);
        }
        let mut statement = self.db.prepare_cached("SELECT count(*) FROM entries")?;
        let all: i64 = statement.query_row([], |row| row.get(0))?;
        Ok(count < all as usize / SPARSE)
    }

    /// Whoever looks up thousands of rows has much to do, and is worth more memory than a run that
    /// only finds that nothing has changed.
    fn note_lookups(&mut self, count: u64) -> Result<(), IndexError> {
        let before = self.lookups;
        self.lookups += count;
        if before < MANY_LOOKUPS && self.lookups >= MANY_LOOKUPS {
            self.db.execute_batch("PRAGMA cache_size = -65536")?;
        }
        Ok(())
    }

    /// The rows above a sequence number, sorted by path.
    pub fn rows_since(&mut self, sequence: u64) -> Result<Vec<Stored>, IndexError> {
        // No more rows than numbers that were given since.
        let given = usize::try_from(self.sequence.saturating_sub(sequence)).unwrap_or(usize::MAX);
        let sql = if self.are_few(given)? { FEW_ROWS_SINCE } else { ROWS_SINCE };
        self.select(sql, [sequence as i64])
    }

    /// The row of a directory and those below it, sorted by path but the directory itself first.
    pub fn rows_below(&mut self, dir: &RelPath) -> Result<Vec<Stored>, IndexError> {
        let mut rows: Vec<Stored> = self.row(dir)?.into_iter().collect();
        let (start, end) = ([dir.as_bytes(), b"/"].concat(), [dir.as_bytes(), b"0"].concat());
        rows.extend(self.select(ROWS_BELOW, (start, end))?);
        Ok(rows)
    }

    /// Live rows that a scan did not see.
    pub fn rows_unseen(&mut self, known: &Known) -> Result<Vec<Stored>, IndexError> {
        let mut paths = Vec::new();
        {
            let mut statement =
                self.db.prepare_cached("SELECT path FROM entries WHERE kind != 0 ORDER BY path")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
                if !known.was_seen(path) {
                    paths.push(RelPath::new(path).map_err(|_| IndexError::Nonsense("a path"))?);
                }
            }
        }
        let paths: Vec<&RelPath> = paths.iter().collect();
        let rows = self.rows_at(&paths)?.into_iter();
        rows.map(|row| row.ok_or(IndexError::Nonsense("a row that is gone"))).collect()
    }

    /// Every live regular file with its size and hash: where a content may be found that is
    /// already here.
    pub fn files(&self, mut each: impl FnMut(&[u8], u64, ContentHash)) -> Result<(), IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT path, size, hash FROM entries WHERE kind = 2")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
            let hash = row.get::<_, [u8; 32]>(2)?;
            each(path, row.get::<_, i64>(1)? as u64, ContentHash(hash));
        }
        Ok(())
    }

    /// Every live regular file whose content some peer is known to have.
    pub fn shared_contents(
        &self,
        mut each: impl FnMut(&[u8], ContentHash),
    ) -> Result<(), IndexError> {
        let sql = "SELECT path, hash FROM entries WHERE kind = 2 AND shared = 1";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
            each(path, ContentHash(row.get(1)?));
        }
        Ok(())
    }

    /// How many live rows there are.
    pub fn live(&self) -> Result<u64, IndexError> {
        let count: i64 = self
            .db
            .prepare_cached("SELECT count(*) FROM entries WHERE kind != 0")?
            .query_row([], |row| row.get(0))?;
        Ok(count as u64)
    }

    /// Writes a row as a change: it takes the next sequence number.
    pub fn put(&mut self, stored: &Stored) -> Result<(), IndexError> {
        let sequence = self.next_sequence();
        RowWriter::new(&self.db, &mut self.versions, Table::Entries)?.write(stored, sequence)
    }

    /// Writes rows as changes, in this order.
    pub fn put_all<'a>(
        &mut self,
        rows: impl IntoIterator<Item = &'a Stored>,
    ) -> Result<(), IndexError> {
        let Index { db, versions, sequence, .. } = self;
        let mut writer = RowWriter::new(db, versions, Table::Entries)?;
        rows.into_iter().try_for_each(|stored| {
            *sequence += 1;
            writer.write(stored, *sequence)
        })
    }

    /// Records what a file looks like now; no peer needs to hear of it.
    pub fn restamp(&mut self, path: &RelPath, stamp: Stamp, inode: u64) -> Result<(), IndexError> {
        let mut statement =
            self.db.prepare_cached("UPDATE entries SET stamp = ?2, inode = ?3 WHERE path = ?1")?;
        statement.execute((path.as_bytes(), stamp.0 as i64, inode as i64))?;
        Ok(())
    }

    /// Records that a peer has what stands at these paths, which are sorted. That is no change.
    pub fn mark_shared(&mut self, paths: &[&RelPath]) -> Result<(), IndexError> {
        self.mark(MARK_SHARED, UNSHARED, paths)
    }

    /// The same, and that this end and the peer have agreed on the modes there.
    pub fn mark_agreed(&mut self, paths: &[&RelPath]) -> Result<(), IndexError> {
        self.mark(MARK_AGREED, UNAGREED, paths)
    }

    /// Marks these paths, which are sorted, as far as they are among the `unmarked`.
    fn mark(&mut self, mark: &str, unmarked: &str, paths: &[&RelPath]) -> Result<(), IndexError> {
        let mut mark = self.db.prepare_cached(mark)?;
        let mut mark = |path: &RelPath| -> Result<(), IndexError> {
            mark.execute([path.as_bytes()])?;
            Ok(())
        };
        if self.are_few(paths.len())? {
            return paths.iter().try_for_each(|path| mark(path));
        }
        // Where many were agreed most are marked already: finding the others is quicker than writing
        // all.
        let mut statement = self.db.prepare_cached(unmarked)?;
        let mut unmarked = Vec::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let at = path_of(row)?;
            unmarked.extend(paths.binary_search_by(|path| path.as_bytes().cmp(at)));
        }
        unmarked.into_iter().try_for_each(|at| mark(paths[at]))
    }

    /// Announces rows that are about to be made true on disk: if the run is interrupted, the next
    /// scan finds them and does not take the files for changes of this side.
    pub fn announce<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Stored>,
    ) -> Result<(), IndexError> {
        let mut writer = RowWriter::new(&self.db, &mut self.versions, Table::Intents)?;
        rows.into_iter().try_for_each(|stored| writer.write(stored, 0))
    }

    /// The rows that an interrupted run had announced.
    pub fn announced(&mut self) -> Result<HashMap<RelPath, Stored>, IndexError> {
        let rows = self.select(ANNOUNCED, [])?;
        Ok(rows.into_iter().map(|stored| (stored.row.path.clone(), stored)).collect())
    }

    /// What was announced has been done, or has been looked at; but for directories that shut out
    /// their owner: these stay open, and announced, until everything is in them.
    pub fn forget_announced(&mut self) -> Result<(), IndexError> {
        self.db.execute("DELETE FROM intents WHERE kind != 1 OR (mode & 448) = 448", [])?;
        Ok(())
    }

    /// A session is complete: nothing is announced any more.
    pub fn forget_all_announced(&mut self) -> Result<(), IndexError> {
        self.db.execute("DELETE FROM intents", [])?;
        Ok(())
    }

    fn select(
        &mut self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<Stored>, IndexError> {
        let Index { db, versions, .. } = self;
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(columns::read(row, db, versions)?);
        }
        Ok(found)
    }
}
