//! Tombstones do not stay for ever: once every known peer has heard of a deletion, and some time has
//! passed, its row goes.

use psync_protocol::ReplicaId;
use rusqlite::OptionalExtension;

use super::{Index, IndexError};

/// How long a tombstone stays at least, and how long a peer is remembered that does not come back,
/// in seconds: 180 days.
pub const TOMBSTONE_AGE: i64 = 180 * 86_400;

/// How many peers are remembered: whoever may come can do so under any number of ids.
const PEERS_MAX: i64 = 1_000;

/// What is kept for each peer besides `peers` itself.
const OF_PEERS: [&str; 5] = ["pending", "lines", "places", "signers", "chain"];

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
        self.forget_peers("SELECT replica FROM peers WHERE seen < ?1", before)?;
        // Kind 0 is a deletion; one of time 0 was made by nobody who knew the time.
        self.db.execute(
            "DELETE FROM entries WHERE kind = 0 AND deleted_at > 0 AND deleted_at < ?1
             AND sequence <= (SELECT MIN(ours) FROM peers)
             AND path NOT IN (SELECT path FROM pending)",
            [before],
        )?;
        Ok(())
    }

    /// Forgets what is left of sessions with others than `met` that never came to an end, and of peers,
    /// where there are more than 1,000, those that were met least often, and of these whoever was not seen
    /// for longest. To be called within a transaction.
    pub fn forget_strangers(&mut self, met: ReplicaId) -> Result<(), IndexError> {
        self.forget_peers(
            "SELECT replica FROM peers ORDER BY
             (SELECT coalesce(max(number), 0) FROM chain WHERE chain.replica = peers.replica) DESC,
             seen DESC LIMIT -1 OFFSET ?1",
            PEERS_MAX,
        )?;
        for table in ["signers", "chain"] {
            let unknown = "replica != ?1 AND replica NOT IN (SELECT replica FROM peers)";
            self.db.execute(&format!("DELETE FROM {table} WHERE {unknown}"), [met.0])?;
        }
        Ok(())
    }

    /// Forgets the peers that a query with one parameter finds, and all that is kept for them.
    fn forget_peers(&mut self, query: &str, parameter: i64) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(query)?;
        let found = statement.query_map([parameter], |row| row.get(0))?;
        let gone: Vec<[u8; 16]> = found.collect::<Result<_, _>>()?;
        for replica in gone {
            for table in OF_PEERS.into_iter().chain(["peers"]) {
                let sql = format!("DELETE FROM {table} WHERE replica = ?1");
                self.db.prepare_cached(&sql)?.execute([replica])?;
            }
        }
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
