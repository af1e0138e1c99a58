//! How contents that a peer holds are remembered: in the store, or at least as block hashes, so
//! that a later edit finds what it left alone without asking the peer.

use psync_protocol::{ContentHash, RelPath};
use rusqlite::OptionalExtension;

use super::{Index, IndexError};
use crate::manifest::Stamp;

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

/// How well the content of a live file is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remembered {
    /// Not at all. Every row is written like this.
    Not,
    /// As block hashes only: the store had no use or no room for it, or was not used.
    AsBlocks,
    /// In the store.
    InStore,
}

impl Remembered {
    fn number(self) -> i64 {
        match self {
            Remembered::Not => 0,
            Remembered::AsBlocks => 1,
            Remembered::InStore => 2,
        }
    }
}

/// A live file whose content some peer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Where it is.
    pub path: RelPath,
    /// Its size in bytes.
    pub size: u64,
    /// Its content.
    pub hash: ContentHash,
    /// What it looked like when it had that content.
    pub stamp: Stamp,
}

fn shared_file(row: &rusqlite::Row<'_>) -> Result<SharedFile, IndexError> {
    let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
    let path = RelPath::new(path).map_err(|_| IndexError::Nonsense("a path"))?;
    let hash = ContentHash(row.get(2)?);
    let (size, stamp) = (row.get::<_, i64>(1)? as u64, row.get::<_, i64>(3)? as u64);
    Ok(SharedFile { path, size, hash, stamp: Stamp(stamp) })
}

const STORE_SETTING: &str = "store";
const NOTE: &str = "note";

/// What the partial index `entries_to_remember` holds; a query has to say it in these words.
const TO_REMEMBER: &str = "kind = 2 AND shared = 1 AND remembered < 2";

impl Index {
    /// Whether there is a file whose content some peer has and that is remembered no better than
    /// this. Quick, however many rows there are.
    pub fn has_to_remember(&self, at_most: Remembered) -> Result<bool, IndexError> {
        let sql = format!(
            "SELECT EXISTS(SELECT 1 FROM entries INDEXED BY entries_to_remember
             WHERE {TO_REMEMBER} AND remembered <= ?1)"
        );
        Ok(self.db.prepare_cached(&sql)?.query_row([at_most.number()], |row| row.get(0))?)
    }

    /// The files whose contents some peer has and that are remembered no better than this.
    pub fn to_remember(&self, at_most: Remembered) -> Result<Vec<SharedFile>, IndexError> {
        let sql = format!(
            "SELECT path, size, hash, stamp FROM entries INDEXED BY entries_to_remember
             WHERE {TO_REMEMBER} AND remembered <= ?1 ORDER BY remembered, path"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query([at_most.number()])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push(shared_file(row)?);
        }
        Ok(files)
    }

    /// The live files whose contents are not in the store, sorted by path; whether any peer has them or
    /// not.
    pub fn not_in_store(&self) -> Result<Vec<SharedFile>, IndexError> {
        let sql = "SELECT path, size, hash, stamp FROM entries
                   WHERE kind = 2 AND size > 0 AND remembered < 2";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push(shared_file(row)?);
        }
        Ok(files)
    }

    /// Records how the content of a file is remembered, if the file still has that content.
    pub fn set_remembered(
        &mut self,
        file: &SharedFile,
        remembered: Remembered,
    ) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(
            "UPDATE entries SET remembered = ?3 WHERE path = ?1 AND hash = ?2 AND kind = 2",
        )?;
        statement.execute((file.path.as_bytes(), &file.hash.0[..], remembered.number()))?;
        Ok(())
    }

    /// The store has been lost: nothing is in it.
    pub fn forget_remembered(&mut self) -> Result<(), IndexError> {
        self.db.execute("UPDATE entries SET remembered = 0 WHERE remembered != 0", [])?;
        Ok(())
    }

    /// The setting of the store when it was last filled as far as it goes; none: never, or it was
    /// not used since.
    pub fn store_setting(&self) -> Result<Option<String>, IndexError> {
        self.text(STORE_SETTING)
    }

    /// Records the setting of the store with which it was filled, or that it was not.
    pub fn set_store_setting(&mut self, setting: Option<&str>) -> Result<(), IndexError> {
        match setting {
            Some(setting) => self.put_meta(STORE_SETTING, setting.as_bytes()),
            None => {
                self.db.execute("DELETE FROM meta WHERE key = ?1", [STORE_SETTING])?;
                Ok(())
            }
        }
    }

    /// Leaves a note for the person who starts the next run.
    pub fn leave_note(&mut self, text: &str) -> Result<(), IndexError> {
        self.put_meta(NOTE, text.as_bytes())
    }

    /// The note that the run before has left.
    pub fn take_note(&mut self) -> Result<Option<String>, IndexError> {
        let note = self.text(NOTE)?;
        if note.is_some() {
            self.db.execute("DELETE FROM meta WHERE key = ?1", [NOTE])?;
        }
        Ok(note)
    }

    fn text(&self, key: &str) -> Result<Option<String>, IndexError> {
        let mut statement = self.db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        let value: Option<Vec<u8>> = statement.query_row([key], |row| row.get(0)).optional()?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Bytes in all live files.
    pub fn tree_bytes(&self) -> Result<u64, IndexError> {
        let sql = "SELECT ifnull(sum(size), 0) FROM entries WHERE kind = 2";
        let sum: i64 = self.db.query_row(sql, [], |row| row.get(0))?;
        Ok(sum as u64)
    }

    /// Remembers the block hashes of a content.
    pub fn put_blocks(
        &mut self,
        hash: &ContentHash,
        blocks: &BlockHashes,
    ) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(
            "INSERT OR REPLACE INTO blocks(hash, block_len, hash_len, seed, len, packed)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let BlockHashes { block_len, hash_len, seed, len, packed } = blocks;
        let row = (&hash.0[..], block_len, hash_len, *seed as i64, *len as i64, packed);
        statement.execute(row)?;
        Ok(())
    }

    /// The block hashes of a content, if they are remembered.
    pub fn blocks(&self, hash: &ContentHash) -> Result<Option<BlockHashes>, IndexError> {
        let mut statement = self.db.prepare_cached(
            "SELECT block_len, hash_len, seed, len, packed FROM blocks WHERE hash = ?1",
        )?;
        let blocks = statement.query_row([&hash.0[..]], |row| {
            Ok(BlockHashes {
                block_len: row.get(0)?,
                hash_len: row.get(1)?,
                seed: row.get::<_, i64>(2)? as u64,
                len: row.get::<_, i64>(3)? as u64,
                packed: row.get(4)?,
            })
        });
        Ok(blocks.optional()?)
    }

    /// Whether the block hashes of a content are remembered.
    pub fn has_blocks(&self, hash: &ContentHash) -> Result<bool, IndexError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM blocks WHERE hash = ?1)";
        Ok(self.db.prepare_cached(sql)?.query_row([&hash.0[..]], |row| row.get(0))?)
    }

    /// Whether any block hashes are remembered.
    pub fn has_any_blocks(&self) -> Result<bool, IndexError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM blocks)";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Of how many contents block hashes are remembered, and the bytes of these hashes.
    pub fn blocks_in_all(&self) -> Result<(u64, u64), IndexError> {
        let sql = "SELECT count(*), ifnull(sum(length(packed)), 0) FROM blocks";
        let (count, bytes): (i64, i64) =
            self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((count as u64, bytes as u64))
    }

    /// Lets go of the block hashes of contents that no file has any more and that are no file's
    /// base either, and of those that the store holds. Says how many that were.
    pub fn purge_blocks(
        &mut self,
        in_store: impl Fn(&ContentHash) -> bool,
    ) -> Result<usize, IndexError> {
        let mut purged = self.db.execute(
            "DELETE FROM blocks WHERE hash NOT IN (
                 SELECT hash FROM entries WHERE kind = 2
                 UNION ALL SELECT base FROM entries WHERE base IS NOT NULL)",
            [],
        )?;
        let mut statement = self.db.prepare_cached("SELECT hash FROM blocks")?;
        let hashes = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        let hashes: Vec<[u8; 32]> = hashes.collect::<Result<_, _>>()?;
        drop(statement);
        let mut delete = self.db.prepare_cached("DELETE FROM blocks WHERE hash = ?1")?;
        for hash in hashes.into_iter().filter(|hash| in_store(&ContentHash(*hash))) {
            purged += delete.execute([&hash[..]])?;
        }
        Ok(purged)
    }
}
