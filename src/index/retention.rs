//! Tombstones do not stay for ever: once every known peer has heard of a deletion, and some time has
//! passed, its row goes.

use psync_protocol::ReplicaId;
use rusqlite::OptionalExtension;

use super::{Index, IndexError};

/// How long a tombstone stays at least, and how long a peer is remembered that does not come back,
/// in seconds: 180 days.
pub const TOMBSTONE_AGE: i64 = 180 * 86_400;

/// How often it is looked for what has become too old, in seconds: each day.
const STEP: i64 = 86_400;

impl Index {
    /// Forgets peers that were not seen for [`TOMBSTONE_AGE`], and tombstones as old that all other
    /// peers have heard of. A forgotten peer that comes back is met for the first time: what it has
    /// and this side has not is new then, and nothing is deleted. `now` is in seconds since 1970; a
    /// clock that was set back forgets nothing.
    ///
    /// Called within a transaction, after a session; looks no more than once a day.
    pub fn forget_old(&mut self, now: i64) -> Result<(), IndexError> {
        let last = self.meta_number("forgot_old")?;
        if last.is_some_and(|last| now < last.saturating_add(STEP)) {
            return Ok(());
        }
        self.put_meta("forgot_old", &now.to_le_bytes())?;
        let before = now.saturating_sub(TOMBSTONE_AGE);
        for table in ["pending", "lines", "places"] {
            let gone = "(SELECT replica FROM peers WHERE seen < ?1)";
            self.db.execute(&format!("DELETE FROM {table} WHERE replica IN {gone}"), [before])?;
        }
        self.db.execute("DELETE FROM peers WHERE seen < ?1", [before])?;
        // Kind 0 is a deletion; one of time 0 was made by nobody who knew the time.
        self.db.execute(
            "DELETE FROM entries WHERE kind = 0 AND deleted_at > 0 AND deleted_at < ?1
             AND sequence <= (SELECT MIN(ours) FROM peers)
             AND path NOT IN (SELECT path FROM pending)",
            [before],
        )?;
        Ok(())
    }

    /// Notes that a peer was met, where nothing else is recorded of the session; once a day is
    /// enough.
    pub fn touch_peer(&mut self, replica: ReplicaId, now: i64) -> Result<(), IndexError> {
        let mut statement = self
            .db
            .prepare_cached("UPDATE peers SET seen = ?2 WHERE replica = ?1 AND seen < ?2 - ?3")?;
        statement.execute((replica.0, now, STEP))?;
        Ok(())
    }

    fn meta_number(&self, key: &str) -> Result<Option<i64>, IndexError> {
        let value: Option<Vec<u8>> = self
            .db
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()?;
        let number = |bytes: Vec<u8>| bytes.try_into().map(i64::from_le_bytes);
        value.map(number).transpose().map_err(|_| IndexError::Nonsense("a time"))
    }
}
