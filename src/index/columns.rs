//! How a row lies in the database: the columns, reading and writing them, and version vectors,
//! to which rows refer by number.

use std::collections::HashMap;

use psync_protocol::codec::{Put, Reader};
use psync_protocol::{Content, ContentHash, Props, RelPath, ReplicaId, Row, Time, Version};
use rusqlite::{CachedStatement, Connection, OptionalExtension};

use super::IndexError;
use crate::manifest::{Stamp, Stored};

/// The kind of a tombstone.
pub(super) const KIND_DELETED: i64 = 0;

/// Which of the two tables of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
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

/// A query for rows, as [`read`] takes them: what follows the columns is given.
macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", $crate::index::columns::columns!(), " ", $rest)
    };
}

pub(super) use {columns, select};

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

/// Version vectors and their numbers, as far as they have been met.
#[derive(Debug, Default)]
pub(super) struct Versions {
    ids: HashMap<Version, i64>,
    by_id: HashMap<i64, Version>,
}

impl Versions {
    /// The number of a version, which gets one if it has none.
    pub(super) fn id(&mut self, db: &Connection, version: &Version) -> Result<i64, IndexError> {
        if let Some(id) = self.ids.get(version) {
            return Ok(*id);
        }
        let mut pairs = Vec::new();
        for (replica, counter) in version.pairs() {
            pairs.put_raw(&replica.0);
            pairs.put_varint(*counter);
        }
        db.prepare_cached("INSERT OR IGNORE INTO versions(pairs) VALUES(?1)")?.execute([&pairs])?;
        let id = db
            .prepare_cached("SELECT id FROM versions WHERE pairs = ?1")?
            .query_row([&pairs], |row| row.get(0))?;
        self.ids.insert(version.clone(), id);
        Ok(id)
    }

    /// The version of this number.
    pub(super) fn version(&mut self, db: &Connection, id: i64) -> Result<Version, IndexError> {
        if let Some(version) = self.by_id.get(&id) {
            return Ok(version.clone());
        }
        let pairs: Vec<u8> = db
            .prepare_cached("SELECT pairs FROM versions WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?
            .ok_or(IndexError::Nonsense("a version that is missing"))?;
        let version = parse_version(&pairs).map_err(|_| IndexError::Nonsense("a version"))?;
        self.by_id.insert(id, version.clone());
        Ok(version)
    }

    /// Forgets everything, as after a transaction that has not happened.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.by_id.clear();
    }
}

fn parse_version(bytes: &[u8]) -> Result<Version, psync_protocol::DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut pairs = Vec::new();
    while reader.remaining() > 0 {
        pairs.push((ReplicaId(reader.array("a replica")?), reader.varint("a counter")?));
    }
    Ok(Version::from_pairs(pairs))
}

/// The path of a row that begins with it.
pub(super) fn path_of<'r>(row: &'r rusqlite::Row<'_>) -> Result<&'r [u8], IndexError> {
    row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))
}

/// What a row says that was asked for with [`select`].
pub(super) fn read(
    row: &rusqlite::Row<'_>,
    db: &Connection,
    versions: &mut Versions,
) -> Result<Stored, IndexError> {
    let path = RelPath::new(path_of(row)?).map_err(|_| IndexError::Nonsense("a path"))?;
    read_at(path, row, db, versions)
}

/// The same, where the path is known.
pub(super) fn read_at(
    path: RelPath,
    row: &rusqlite::Row<'_>,
    db: &Connection,
    versions: &mut Versions,
) -> Result<Stored, IndexError> {
    let hash = |at| -> Result<Option<ContentHash>, IndexError> {
        let bytes = row.get_ref(at)?.as_blob_or_null();
        let bytes = bytes.map_err(|_| IndexError::Nonsense("a hash"))?;
        let hash = bytes.map(<[u8; 32]>::try_from).transpose();
        Ok(hash.map_err(|_| IndexError::Nonsense("a hash"))?.map(ContentHash))
    };
    let content_hash = || hash(14)?.ok_or(IndexError::Nonsense("a missing hash"));
    let target = || {
        let bytes = row.get_ref(16)?.as_blob_or_null();
        bytes.map_err(|_| IndexError::Nonsense("a target"))
    };
    let content = match row.get::<_, i64>(2)? {
        KIND_DELETED => {
            let moved_to = target()?.map(RelPath::new).transpose();
            Content::Deleted { moved_to: moved_to.map_err(|_| IndexError::Nonsense("a path"))? }
        }
        1 => Content::Directory,
        2 => Content::File { size: row.get::<_, i64>(3)? as u64, hash: content_hash()? },
        3 => {
            let target = target()?.ok_or(IndexError::Nonsense("a missing target"))?;
            Content::Symlink { target: target.into(), hash: content_hash()? }
        }
        _ => return Err(IndexError::Nonsense("a kind")),
    };
    Ok(Stored {
        row: Row {
            path,
            content,
            base: hash(15)?,
            props: Props {
                mode: row.get(4)?,
                mtime: Time { secs: row.get(5)?, nanos: row.get(6)? },
            },
            agreed_mode: row.get(11)?,
            content_version: versions.version(db, row.get(7)?)?,
            props_version: versions.version(db, row.get(8)?)?,
        },
        stamp: Stamp(row.get::<_, i64>(1)? as u64),
        inode: row.get::<_, i64>(10)? as u64,
        shared: row.get(12)?,
        deleted_at: row.get(13)?,
    })
}

/// Writes rows into one of the tables.
pub(super) struct RowWriter<'a> {
    db: &'a Connection,
    versions: &'a mut Versions,
    statement: CachedStatement<'a>,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(
        db: &'a Connection,
        versions: &'a mut Versions,
        table: Table,
    ) -> Result<RowWriter<'a>, IndexError> {
        let statement = db.prepare_cached(match table {
            Table::Entries => WRITE_ENTRY,
            Table::Intents => WRITE_INTENT,
        })?;
        Ok(RowWriter { db, versions, statement })
    }

    pub(super) fn write(&mut self, stored: &Stored, sequence: u64) -> Result<(), IndexError> {
        let row = &stored.row;
        let content_version = self.versions.id(self.db, &row.content_version)?;
        let props_version = self.versions.id(self.db, &row.props_version)?;
        let (kind, size, hash, target) = match &row.content {
            Content::Deleted { moved_to } => {
                (KIND_DELETED, 0, None, moved_to.as_ref().map(|to| to.as_bytes()))
            }
            Content::Directory => (1, 0, None, None),
            Content::File { size, hash } => (2, *size, Some(&hash.0[..]), None),
            Content::Symlink { target, hash } => (3, 0, Some(&hash.0[..]), Some(&**target)),
        };
        self.statement.execute(rusqlite::params![
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
            row.base.as_ref().map(|base| &base.0[..]),
            target,
        ])?;
        Ok(())
    }
}
