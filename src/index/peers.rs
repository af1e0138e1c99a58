//! What an index knows of each peer.

use psync_protocol::{IndexId, RelPath, ReplicaId};
use rusqlite::OptionalExtension;

use super::{Index, IndexError};

/// A peer, as this replica knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub replica: ReplicaId,
    /// The life of its index.
    pub index_id: IndexId,
    /// Its highest sequence number that we have processed in full.
    pub theirs: u64,
    /// Our highest sequence number that it has processed in full.
    pub ours: u64,
    /// Digest of our filters at that time.
    pub our_scope: [u8; 8],
    /// Digest of its filters at that time.
    pub their_scope: [u8; 8],
}

impl Index {
    /// What is known of a replica.
    pub fn peer(&self, replica: ReplicaId) -> Result<Option<Peer>, IndexError> {
        let mut statement = self.db.prepare_cached(
            "SELECT index_id, theirs, ours, our_scope, their_scope FROM peers WHERE replica = ?1",
        )?;
        let peer = statement.query_row([replica.0], |row| {
            Ok(Peer {
                replica,
                index_id: IndexId(row.get(0)?),
                theirs: row.get::<_, i64>(1)? as u64,
                ours: row.get::<_, i64>(2)? as u64,
                our_scope: row.get(3)?,
                their_scope: row.get(4)?,
            })
        });
        Ok(peer.optional()?)
    }

    /// Whom this replica met at a location last time.
    pub fn peer_at(&self, location: &str) -> Result<Option<Peer>, IndexError> {
        let replica: Option<[u8; 16]> = self
            .db
            .query_row("SELECT replica FROM places WHERE location = ?1", [location], |row| {
                row.get(0)
            })
            .optional()?;
        match replica {
            Some(replica) => self.peer(ReplicaId(replica)),
            None => Ok(None),
        }
    }

    /// Records where a session with a peer ended.
    pub fn put_peer(&mut self, peer: &Peer, now: i64) -> Result<(), IndexError> {
        let mut statement = self.db.prepare_cached(
            "INSERT OR REPLACE INTO peers(replica, index_id, theirs, ours, our_scope, their_scope, seen)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        statement.execute((
            peer.replica.0,
            peer.index_id.0,
            peer.theirs as i64,
            peer.ours as i64,
            peer.our_scope,
            peer.their_scope,
            now,
        ))?;
        Ok(())
    }

    /// Records whom this replica met at a location.
    pub fn put_place(&mut self, location: &str, replica: ReplicaId) -> Result<(), IndexError> {
        self.db.execute(
            "INSERT OR REPLACE INTO places(location, replica) VALUES(?1, ?2)",
            (location, replica.0),
        )?;
        Ok(())
    }

    /// How fast the line to a replica was: from here to there and back, in KiB a second, where that
    /// is known.
    pub fn line_rates(&self, replica: ReplicaId) -> Result<(Option<u64>, Option<u64>), IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT sending, receiving FROM lines WHERE replica = ?1")?;
        let rates = statement.query_row([replica.0], |row| {
            let rate = |at| {
                Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(|rate| rate as u64))
            };
            Ok((rate(0)?, rate(1)?))
        });
        Ok(rates.optional()?.unwrap_or_default())
    }

    /// Records how fast the line to a replica is.
    pub fn put_line_rates(
        &mut self,
        replica: ReplicaId,
        (sending, receiving): (Option<u64>, Option<u64>),
    ) -> Result<(), IndexError> {
        let value = |rate: Option<u64>| rate.map(|rate| rate.min(i64::MAX as u64) as i64);
        self.db.execute(
            "INSERT OR REPLACE INTO lines(replica, sending, receiving) VALUES(?1, ?2, ?3)",
            (replica.0, value(sending), value(receiving)),
        )?;
        Ok(())
    }

    /// The paths that are pending between us and a peer.
    pub fn pending(&self, replica: ReplicaId) -> Result<Vec<RelPath>, IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT path FROM pending WHERE replica = ?1 ORDER BY path")?;
        let mut rows = statement.query([replica.0])?;
        let mut paths = Vec::new();
        while let Some(row) = rows.next()? {
            let path =
                row.get_ref(0)?.as_blob().map_err(|_| IndexError::Nonsense("a pending path"))?;
            paths.push(RelPath::new(path).map_err(|_| IndexError::Nonsense("a pending path"))?);
        }
        Ok(paths)
    }

    /// Replaces what is pending between us and a peer.
    pub fn set_pending<'a>(
        &mut self,
        replica: ReplicaId,
        paths: impl Iterator<Item = &'a RelPath>,
    ) -> Result<(), IndexError> {
        self.db.execute("DELETE FROM pending WHERE replica = ?1", [replica.0])?;
        let mut statement = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO pending(replica, path) VALUES(?1, ?2)")?;
        for path in paths {
            statement.execute((replica.0, path.as_bytes()))?;
        }
        Ok(())
    }
}
