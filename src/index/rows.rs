//! The rows of the index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use psync_protocol::codec::{Put, Reader};
use psync_protocol::{Content, ContentHash, Props, RelPath, ReplicaId, Row, Time, Version};
use rusqlite::{CachedStatement, OptionalExtension};
use xxhash_rust::xxh3::xxh3_64;

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

/// Which of the two tables of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Entries,
    Intents,
}

/// The columns of a [`Stored`]. What the table of entries has besides is kept up by the statement
/// that writes a row.
macro_rules! columns {
    () => {
        "path, stamp, kind, size, mode, mtime, mtime_nanos, content_version, props_version, \
         sequence, inode, agreed_mode, shared, deleted_at, hash, base, target"
    };
}

const COLUMNS: &str = columns!();

/// The statement that writes a row into a table, with further columns of a new row, their values,
/// and what is also set in a row that is there.
macro_rules! write_into {
    ($table:literal, $more:literal, $values:literal, $also:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            "(",
            columns!(),
            $more,
            ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17",
            $values,
            ") ON CONFLICT(path) DO UPDATE SET
              stamp = ?2, kind = ?3, size = ?4, mode = ?5, mtime = ?6, mtime_nanos = ?7,
              content_version = ?8, props_version = ?9, sequence = ?10, inode = ?11,
              agreed_mode = ?12, shared = ?13, deleted_at = ?14, hash = ?15, base = ?16,
              target = ?17",
            $also
        )
    };
}

/// An entry also keeps since when it has its content, how long its base is, as far as the row before
/// knew, and how its content is remembered: the same content stays as well remembered as it is.
const WRITE_ENTRY: &str = write_into!(
    "entries",
    ", changed",
    ", ?10",
    ", changed = CASE WHEN kind = ?3 AND hash IS ?15 THEN changed ELSE ?10 END,
       base_size = CASE WHEN kind = 2 AND hash = ?16 THEN size WHEN base = ?16 THEN base_size END,
       remembered = CASE WHEN hash IS ?15 THEN remembered ELSE 0 END"
);
const WRITE_INTENT: &str = write_into!("intents", "", "", "");

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
        self.note_lookup()?;
        let sql = format!("SELECT {COLUMNS} FROM entries WHERE path = ?1");
        let raw =
            self.db.prepare_cached(&sql)?.query_row([path.as_bytes()], Raw::read).optional()?;
        raw.map(|raw| self.understand(raw)).transpose()
    }

    /// Whoever looks up thousands of rows has much to do, and is worth more memory than a run that
    /// only finds that nothing has changed.
    fn note_lookup(&mut self) -> Result<(), IndexError> {
        self.lookups += 1;
        if self.lookups == MANY_LOOKUPS {
            self.db.execute_batch("PRAGMA cache_size = -65536")?;
        }
        Ok(())
    }

    /// The rows above a sequence number, sorted by path.
    pub fn rows_since(&mut self, sequence: u64) -> Result<Vec<Stored>, IndexError> {
        let sql = match sequence {
            0 => format!("SELECT {COLUMNS} FROM entries WHERE sequence > ?1 ORDER BY path"),
            _ => format!(
                "SELECT {COLUMNS} FROM entries INDEXED BY entries_by_sequence WHERE sequence > ?1 ORDER BY path"
            ),
        };
        self.select(&sql, [sequence as i64])
    }

    /// The row of a directory and those below it, sorted by path but the directory itself first.
    pub fn rows_below(&mut self, dir: &RelPath) -> Result<Vec<Stored>, IndexError> {
        let mut rows: Vec<Stored> = self.row(dir)?.into_iter().collect();
        let (start, end) = ([dir.as_bytes(), b"/"].concat(), [dir.as_bytes(), b"0"].concat());
        let sql =
            format!("SELECT {COLUMNS} FROM entries WHERE path >= ?1 AND path < ?2 ORDER BY path");
        rows.extend(self.select(&sql, (start, end))?);
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
        let mut rows = Vec::with_capacity(paths.len());
        for path in paths {
            rows.push(self.row(&path)?.ok_or(IndexError::Nonsense("a row that is gone"))?);
        }
        Ok(rows)
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
        self.write(Table::Entries, stored, sequence)
    }

    /// Records what a file looks like now; no peer needs to hear of it.
    pub fn restamp(&mut self, path: &RelPath, stamp: Stamp, inode: u64) -> Result<(), IndexError> {
        let mut statement =
            self.db.prepare_cached("UPDATE entries SET stamp = ?2, inode = ?3 WHERE path = ?1")?;
        statement.execute((path.as_bytes(), stamp.0 as i64, inode as i64))?;
        Ok(())
    }

    /// Records that a peer has this content, without a change.
    pub fn mark_shared(&mut self, path: &RelPath) -> Result<(), IndexError> {
        let mut statement = self
            .db
            .prepare_cached("UPDATE entries SET shared = 1, agreed_mode = mode WHERE path = ?1")?;
        statement.execute([path.as_bytes()])?;
        Ok(())
    }

    /// Announces rows that are about to be made true on disk: if the run is interrupted, the next
    /// scan finds them and does not take the files for changes of this side.
    pub fn announce<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Stored>,
    ) -> Result<(), IndexError> {
        for stored in rows {
            self.write(Table::Intents, stored, 0)?;
        }
        Ok(())
    }

    /// The rows that an interrupted run had announced.
    pub fn announced(&mut self) -> Result<HashMap<RelPath, Stored>, IndexError> {
        let rows = self.select(&format!("SELECT {COLUMNS} FROM intents"), [])?;
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
        let raws = {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map(params, Raw::read)?;
            rows.collect::<Result<Vec<Raw>, _>>()?
        };
        raws.into_iter().map(|raw| self.understand(raw)).collect()
    }

    fn write(&mut self, table: Table, stored: &Stored, sequence: u64) -> Result<(), IndexError> {
        let row = &stored.row;
        let content_version = self.version_id(&row.content_version)?;
        let props_version = self.version_id(&row.props_version)?;
        let (kind, size, hash, target) = match &row.content {
            Content::Deleted { moved_to } => {
                (KIND_DELETED, 0, None, moved_to.as_ref().map(|to| to.as_bytes()))
            }
            Content::Directory => (1, 0, None, None),
            Content::File { size, hash } => (2, *size, Some(hash.0), None),
            Content::Symlink { target, hash } => (3, 0, Some(hash.0), Some(&**target)),
        };
        let mut statement: CachedStatement<'_> = self.db.prepare_cached(match table {
            Table::Entries => WRITE_ENTRY,
            Table::Intents => WRITE_INTENT,
        })?;
        statement.execute(rusqlite::params![
            row.path.as_bytes(),
            stored.stamp.0 as i64,
            kind,
            size as i64,
            row.props.mode,
            row.props.mtime.secs,
            row.props.mtime.nanos,
            content_version,
            props_version,
            sequence as i64,
            stored.inode as i64,
            row.agreed_mode,
            stored.shared,
            stored.deleted_at,
            hash,
            row.base.map(|base| base.0),
            target,
        ])?;
        Ok(())
    }

    fn version_id(&mut self, version: &Version) -> Result<i64, IndexError> {
        if let Some(id) = self.version_ids.get(version) {
            return Ok(*id);
        }
        let mut pairs = Vec::new();
        for (replica, counter) in version.pairs() {
            pairs.put_raw(&replica.0);
            pairs.put_varint(*counter);
        }
        self.db
            .prepare_cached("INSERT OR IGNORE INTO versions(pairs) VALUES(?1)")?
            .execute([&pairs])?;
        let id = self
            .db
            .prepare_cached("SELECT id FROM versions WHERE pairs = ?1")?
            .query_row([&pairs], |row| row.get(0))?;
        self.version_ids.insert(version.clone(), id);
        Ok(id)
    }

    fn version(&mut self, id: i64) -> Result<Version, IndexError> {
        if let Some(version) = self.versions.get(&id) {
            return Ok(version.clone());
        }
        let pairs: Vec<u8> = self
            .db
            .prepare_cached("SELECT pairs FROM versions WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?
            .ok_or(IndexError::Nonsense("a version that is missing"))?;
        let version = parse_version(&pairs).map_err(|_| IndexError::Nonsense("a version"))?;
        self.versions.insert(id, version.clone());
        Ok(version)
    }

    fn understand(&mut self, raw: Raw) -> Result<Stored, IndexError> {
        let path = RelPath::new(&raw.path).map_err(|_| IndexError::Nonsense("a path"))?;
        let hash = || raw.hash.map(ContentHash).ok_or(IndexError::Nonsense("a missing hash"));
        let content = match raw.kind {
            KIND_DELETED => {
                let moved_to = raw.target.as_deref().map(RelPath::new).transpose();
                Content::Deleted { moved_to: moved_to.map_err(|_| IndexError::Nonsense("a path"))? }
            }
            1 => Content::Directory,
            2 => Content::File { size: raw.size as u64, hash: hash()? },
            3 => {
                let target = raw.target.as_ref().ok_or(IndexError::Nonsense("a missing target"))?;
                Content::Symlink { target: target.as_slice().into(), hash: hash()? }
            }
            _ => return Err(IndexError::Nonsense("a kind")),
        };
        Ok(Stored {
            row: Row {
                path,
                content,
                base: raw.base.map(ContentHash),
                props: Props {
                    mode: raw.mode,
                    mtime: Time { secs: raw.mtime, nanos: raw.mtime_nanos },
                },
                agreed_mode: raw.agreed_mode,
                content_version: self.version(raw.content_version)?,
                props_version: self.version(raw.props_version)?,
            },
            stamp: Stamp(raw.stamp as u64),
            inode: raw.inode as u64,
            shared: raw.shared,
            deleted_at: raw.deleted_at,
        })
    }
}

const KIND_DELETED: i64 = 0;

fn parse_version(bytes: &[u8]) -> Result<Version, psync_protocol::DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut pairs = Vec::new();
    while reader.remaining() > 0 {
        pairs.push((ReplicaId(reader.array("a replica")?), reader.varint("a counter")?));
    }
    Ok(Version::from_pairs(pairs))
}

/// A row as SQLite gives it.
struct Raw {
    path: Vec<u8>,
    stamp: i64,
    kind: i64,
    size: i64,
    mode: u16,
    mtime: i64,
    mtime_nanos: u32,
    content_version: i64,
    props_version: i64,
    inode: i64,
    agreed_mode: u16,
    shared: bool,
    deleted_at: i64,
    hash: Option<[u8; 32]>,
    base: Option<[u8; 32]>,
    target: Option<Vec<u8>>,
}

impl Raw {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Raw> {
        Ok(Raw {
            path: row.get(0)?,
            stamp: row.get(1)?,
            kind: row.get(2)?,
            size: row.get(3)?,
            mode: row.get(4)?,
            mtime: row.get(5)?,
            mtime_nanos: row.get(6)?,
            content_version: row.get(7)?,
            props_version: row.get(8)?,
            inode: row.get(10)?,
            agreed_mode: row.get(11)?,
            shared: row.get(12)?,
            deleted_at: row.get(13)?,
            hash: row.get(14)?,
            base: row.get(15)?,
            target: row.get(16)?,
        })
    }
}
