//! Sketches of contents that a peer holds: what a new file is like is found by them.

use psync_protocol::ContentHash;
use rusqlite::OptionalExtension;

use super::{Index, IndexError};

/// Bytes of a sketch.
pub const SKETCH_BYTES: usize = 32;
/// Sketches of contents that no file has any more may be so many, and half as many as there are files
/// besides.
const SPARE: i64 = 1000;

/// A sketch as the index keeps it; what it says is known to whoever made it.
pub type SketchBytes = [u8; SKETCH_BYTES];

impl Index {
    /// Remembers the sketch of a content.
    pub fn put_sketch(
        &mut self,
        hash: &ContentHash,
        sketch: &SketchBytes,
    ) -> Result<(), IndexError> {
        let sql = "INSERT OR REPLACE INTO sketches(hash, sketch) VALUES(?1, ?2)";
        self.db.prepare_cached(sql)?.execute((&hash.0[..], &sketch[..]))?;
        Ok(())
    }

    /// The sketch of a content, if there is one.
    pub fn sketch(&self, hash: &ContentHash) -> Result<Option<SketchBytes>, IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT sketch FROM sketches WHERE hash = ?1")?;
        Ok(statement.query_row([&hash.0[..]], |row| row.get(0)).optional()?)
    }

    /// Every live regular file whose content some peer is known to have: path, size in bytes, hash and
    /// sketch.
    pub fn sketched_files(
        &self,
        mut each: impl FnMut(&[u8], u64, ContentHash, Option<SketchBytes>),
    ) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(
            "SELECT path, size, entries.hash, sketch FROM entries
             LEFT JOIN sketches ON sketches.hash = entries.hash
             WHERE kind = 2 AND shared = 1",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
            let size = row.get::<_, i64>(1)? as u64;
            each(path, size, ContentHash(row.get(2)?), row.get(3)?);
        }
        Ok(())
    }

    /// Whether there is a live regular file whose content some peer is known to have.
    pub fn has_shared(&self) -> Result<bool, IndexError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM entries WHERE kind = 2 AND shared = 1)";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Lets go of the sketches of contents that no file has and that are no file's base, if these are
    /// many.
    pub fn purge_sketches(&mut self) -> Result<(), IndexError> {
        let sql = "SELECT (SELECT count(*) FROM sketches),
                          (SELECT count(*) FROM entries WHERE kind = 2)";
        let (sketches, files): (i64, i64) =
            self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if sketches > files + files / 2 + SPARE {
            self.db.execute(
                "DELETE FROM sketches WHERE hash NOT IN (
                     SELECT hash FROM entries WHERE kind = 2
                     UNION ALL SELECT base FROM entries WHERE base IS NOT NULL)",
                [],
            )?;
        }
        Ok(())
    }
}
