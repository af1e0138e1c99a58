//! How contents that a peer holds are remembered: in the store, or at least as block hashes, so
//! that a later edit finds what it left alone without asking the peer.

use std::collections::HashSet;

use psync_protocol::{ContentHash, RelPath};
use rusqlite::OptionalExtension;

use super::cache::What;
use super::{Digests, Index, IndexError, SketchBytes};
use crate::manifest::Stamp;

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
/// Sketches of contents that no file has any more may be so many, and half as many as there are files
/// besides.
const SPARE: u64 = 1000;
/// Files of which the sketches are looked up together.
const SKETCHED_STEP: usize = 4096;

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

    /// Records how the contents of most of the files are remembered that [`Index::to_remember`] finds not to
    /// be, and how those of the others are: quicker than one by one.
    pub fn set_most_remembered<'a>(
        &mut self,
        most: Remembered,
        others: impl IntoIterator<Item = (&'a SharedFile, Remembered)>,
    ) -> Result<(), IndexError> {
        // In the order of the table, and not in that of its index, which changes meanwhile.
        let sql = "UPDATE entries NOT INDEXED SET remembered = ?1
                   WHERE kind = 2 AND shared = 1 AND remembered = 0";
        self.db.execute(sql, [most.number()])?;
        others.into_iter().try_for_each(|(file, remembered)| self.set_remembered(file, remembered))
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

    /// Where the cache is new nothing counts on it any more.
    pub(super) fn accept_cache(&mut self) -> Result<(), IndexError> {
        if self.cache.is_new() {
            self.db.execute("UPDATE entries SET remembered = 0 WHERE remembered = 1", [])?;
            // One that cannot be written stays new.
            let _ = self.cache.accept();
        }
        Ok(())
    }

    /// Makes the cache anew if it has turned out to be damaged.
    pub fn mend_cache(&mut self) -> Result<(), IndexError> {
        self.cache.mend();
        self.accept_cache()
    }

    /// Puts what is to be known of contents into the cache. Says whether it is there; if not,
    /// [`super::Cache::take_trouble`] tells why, and one that is damaged is made anew for the next run: what counted
    /// on it is not known any more.
    pub fn put_digests(&mut self, digests: &[Digests]) -> Result<bool, IndexError> {
        let is_kept = digests.is_empty() || self.cache.put(digests).is_ok();
        if !is_kept {
            self.mend_cache()?;
        }
        Ok(is_kept)
    }

    /// Lets go of the block hashes of contents that no file has any more and that are no file's
    /// base either, and of those that the store holds. Says how many that were.
    pub fn purge_blocks(
        &mut self,
        in_store: impl Fn(&ContentHash) -> bool,
    ) -> Result<usize, IndexError> {
        let wanted = self.wanted()?;
        let is_wanted = |hash: &ContentHash| wanted.contains(hash) && !in_store(hash);
        Ok(self.cache.retain(What::Blocks, is_wanted))
    }

    /// Lets go of the sketches of contents that no file has and that are no file's base, if these are
    /// many.
    pub fn purge_sketches(&mut self) -> Result<(), IndexError> {
        let sql = "SELECT count(*) FROM entries WHERE kind = 2";
        let files = self.db.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64;
        if self.cache.sketches() > files + files / 2 + SPARE {
            let wanted = self.wanted()?;
            self.cache.retain(What::Sketches, |hash| wanted.contains(hash));
        }
        Ok(())
    }

    /// Contents that some file has, or that are some file's base.
    fn wanted(&self) -> Result<HashSet<ContentHash>, IndexError> {
        let sql = "SELECT hash FROM entries WHERE kind = 2
                   UNION ALL SELECT base FROM entries WHERE base IS NOT NULL";
        let mut statement = self.db.prepare(sql)?;
        let hashes = statement.query_map([], |row| Ok(ContentHash(row.get(0)?)))?;
        Ok(hashes.collect::<Result<_, _>>()?)
    }

    /// Every live regular file whose content some peer is known to have: path, size in bytes, hash and
    /// sketch.
    pub fn sketched_files(
        &self,
        mut each: impl FnMut(&[u8], u64, ContentHash, Option<SketchBytes>),
    ) -> Result<(), IndexError> {
        let sql = "SELECT path, size, hash FROM entries WHERE kind = 2 AND shared = 1";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        loop {
            let (mut files, mut hashes) = (Vec::new(), Vec::new());
            while files.len() < SKETCHED_STEP
                && let Some(row) = rows.next()?
            {
                let path = row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a path"))?;
                files.push((path.to_vec(), row.get::<_, i64>(1)? as u64));
                hashes.push(ContentHash(row.get(2)?));
            }
            if files.is_empty() {
                return Ok(());
            }
            let sketches = self.cache.sketches_of(&hashes);
            for (((path, size), hash), sketch) in files.iter().zip(&hashes).zip(sketches) {
                each(path, *size, *hash, sketch);
            }
        }
    }

    /// Whether there is a live regular file whose content some peer is known to have.
    pub fn has_shared(&self) -> Result<bool, IndexError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM entries WHERE kind = 2 AND shared = 1)";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }
}
