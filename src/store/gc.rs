//! Letting go of contents: those that nobody needs, those over the budget, those that are damaged.

use psync_protocol::ContentHash;

use super::{Entry, Place, Store, StoreError};

/// What a collection has let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The contents.
    pub hashes: Vec<ContentHash>,
    /// Bytes on disk before.
    pub before: u64,
    /// Bytes on disk after.
    pub after: u64,
}

/// What checking a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Contents that are what they should be.
    pub sound: u64,
    /// Contents that were damaged, and are not held any more.
    pub damaged: Vec<ContentHash>,
}

/// A collection goes on to this share of the budget, so that the next file does not start another.
const LEAVE: (u64, u64) = (15, 16);

impl Store {
    /// Lets go of contents until what is held, and `room` bytes more, is within the budget, with
    /// some to spare: first those that are not `live`, then the least recently used. What was used
    /// or kept since the store was opened stays.
    pub fn gc(
        &mut self,
        room: u64,
        live: &dyn Fn(&ContentHash) -> bool,
    ) -> Result<Collected, StoreError> {
        self.count_snapshots(live)?;
        self.commit()?;
        let before = self.bytes;
        let mut collected = Collected { hashes: Vec::new(), before, after: before };
        let limit = self.rules.budget.saturating_sub(super::SPARE);
        if before.saturating_add(room) <= limit {
            return Ok(collected);
        }
        let target = (limit / LEAVE.1 * LEAVE.0).saturating_sub(room);
        let mut expected = before;
        let entries = self.by_last_use()?;
        let (needed, idle): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(hash, ..)| live(hash));
        for (hash, entry, stored) in idle.into_iter().chain(needed) {
            if expected <= target {
                break;
            }
            self.remove(&hash, entry)?;
            expected = expected.saturating_sub(stored + super::ROW_COST);
            collected.hashes.push(hash);
        }
        self.give_back()?;
        collected.after = self.bytes;
        Ok(collected)
    }

    /// Reads every content, and lets go of those that are not what they should be.
    pub fn verify(&mut self) -> Result<Checked, StoreError> {
        self.commit()?;
        let mut checked = Checked::default();
        for (hash, entry) in self.all()? {
            let sound = match self.old(&hash)? {
                Some(mut old) => old.verify().unwrap_or(false),
                None => false,
            };
            if sound {
                checked.sound += 1;
            } else {
                self.remove(&hash, entry)?;
                checked.damaged.push(hash);
            }
        }
        // To look is not to use.
        self.used.clear();
        let held: std::collections::HashSet<ContentHash> =
            self.all()?.into_iter().map(|(hash, _)| hash).collect();
        self.snapshots.keep_only(|hash| held.contains(hash));
        self.remove_stray_chunks()?;
        self.give_back()?;
        Ok(checked)
    }

    /// A snapshot costs nothing while a file of the tree has the same blocks, and all of its bytes
    /// afterwards.
    fn count_snapshots(&mut self, live: &dyn Fn(&ContentHash) -> bool) -> Result<(), StoreError> {
        let snapshots: Vec<_> =
            self.all()?.into_iter().filter(|(_, entry)| entry.place == Place::Snapshot).collect();
        if snapshots.is_empty() {
            return Ok(());
        }
        self.begin()?;
        for (hash, entry) in snapshots {
            let stored = if live(&hash) { 0 } else { entry.size as i64 };
            self.db()
                .prepare_cached("UPDATE contents SET stored = ?2 WHERE id = ?1")?
                .execute((entry.id, stored))?;
        }
        Ok(())
    }

    fn by_last_use(&self) -> Result<Vec<(ContentHash, Entry, u64)>, StoreError> {
        let db = self.db();
        let mut statement = db.prepare_cached(
            "SELECT hash, id, size, place, stored FROM contents WHERE used < ?1 ORDER BY used, id",
        )?;
        let mut rows = statement.query([self.turn])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let (hash, entry) = read(row)?;
            entries.push((hash, entry, row.get::<_, i64>(4)? as u64));
        }
        Ok(entries)
    }

    fn all(&self) -> Result<Vec<(ContentHash, Entry)>, StoreError> {
        let db = self.db();
        let mut statement =
            db.prepare_cached("SELECT hash, id, size, place FROM contents ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(read(row)?);
        }
        Ok(entries)
    }

    fn remove_stray_chunks(&mut self) -> Result<(), StoreError> {
        self.begin()?;
        let sql = format!(
            "DELETE FROM chunks WHERE id >> {} NOT IN (SELECT id FROM contents)",
            super::CHUNK_BITS
        );
        self.db().execute(&sql, [])?;
        Ok(())
    }

    /// Shortens the database by the pages that are free.
    fn give_back(&mut self) -> Result<(), StoreError> {
        self.commit()?;
        // One step a page; every step is a row without columns.
        let db = self.db();
        let mut statement = db.prepare("PRAGMA incremental_vacuum")?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        drop(statement);
        drop(db);
        self.bytes = self.bytes_on_disk()?;
        Ok(())
    }
}

fn read(row: &rusqlite::Row<'_>) -> Result<(ContentHash, Entry), StoreError> {
    let size = u64::try_from(row.get::<_, i64>(2)?).map_err(|_| StoreError::Nonsense("a size"))?;
    let entry = Entry { id: row.get(1)?, size, place: Place::of(row.get(3)?)? };
    Ok((ContentHash(row.get(0)?), entry))
}
