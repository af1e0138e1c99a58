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

/// What is known of the line to a peer; none where nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// KiB a second from here to there.
    pub sending: Option<u64>,
    /// KiB a second from there to here.
    pub receiving: Option<u64>,
    /// Microseconds there and back.
    pub round_trip: Option<u64>,
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

    /// Where a peer was last found: each location at which it answered.
    pub fn places_of(&self, replica: ReplicaId) -> Result<Vec<String>, IndexError> {
        let sql = "SELECT location FROM places WHERE replica = ?1 ORDER BY location";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([replica.0], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What is known of the line to a replica.
    pub fn line(&self, replica: ReplicaId) -> Result<LineFigures, IndexError> {
        let mut statement = self.db.prepare_cached(
            "SELECT sending, receiving, round_trip FROM lines WHERE replica = ?1",
        )?;
        let figures = statement.query_row([replica.0], |row| {
            let figure = |at| {
                Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(|figure| figure as u64))
            };
            Ok(LineFigures { sending: figure(0)?, receiving: figure(1)?, round_trip: figure(2)? })
        });
        Ok(figures.optional()?.unwrap_or_default())
    }

    /// Records what is known of the line to a replica.
    pub fn put_line(&mut self, replica: ReplicaId, line: LineFigures) -> Result<(), IndexError> {
        let value = |figure: Option<u64>| figure.map(|figure| figure.min(i64::MAX as u64) as i64);
        let LineFigures { sending, receiving, round_trip } = line;
        self.db.execute(
            "INSERT OR REPLACE INTO lines(replica, sending, receiving, round_trip)
             VALUES(?1, ?2, ?3, ?4)",
            (replica.0, value(sending), value(receiving), value(round_trip)),
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
