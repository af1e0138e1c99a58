//! What this replica and its peers have signed: whose key is whose, how far each was seen, and the
//! signed statements of the last sessions, each of which names the one before.

use psync_protocol::signed::{Claim, Digest};
use psync_protocol::{IndexId, ReplicaId};
use rusqlite::OptionalExtension;

use super::{Index, IndexError};

/// How many sessions with a peer are kept.
const KEPT: i64 = 64;

/// The key of a peer, and the highest number that it has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signer {
    /// Its Ed25519 public key. There is never another one for the same replica.
    pub key: [u8; 32],
    /// The life of its index that was seen last.
    pub index_id: IndexId,
    /// The highest sequence number of it.
    pub sequence: u64,
}

/// A signed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What was signed.
    pub claim: Claim,
    /// The signature of its digest.
    pub signature: [u8; 64],
}

/// What two replicas stated last in one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The place among all sessions with the peer, from 1.
    pub number: u64,
    /// What this replica stated.
    pub said: Link,
    /// What the peer stated.
    pub heard: Link,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl Link {
    /// What a later statement names as the one before it.
    pub fn digest(&self) -> Digest {
        self.claim.digest()
    }
}

impl Index {
    /// The key of a peer, if any was seen.
    pub fn signer(&self, replica: ReplicaId) -> Result<Option<Signer>, IndexError> {
        let sql = "SELECT key, index_id, sequence FROM signers WHERE replica = ?1";
        let signer = self.db.prepare_cached(sql)?.query_row([replica.0], |row| {
            Ok(Signer {
                key: row.get(0)?,
                index_id: IndexId(row.get(1)?),
                sequence: row.get::<_, i64>(2)? as u64,
            })
        });
        Ok(signer.optional()?)
    }

    /// All peers whose keys are known.
    pub fn signers(&self) -> Result<Vec<(ReplicaId, Signer)>, IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT replica FROM signers ORDER BY replica")?;
        let replicas = statement.query_map([], |row| row.get(0).map(ReplicaId))?;
        let replicas: Vec<ReplicaId> = replicas.collect::<Result<_, _>>()?;
        let mut signers = Vec::new();
        for replica in replicas {
            signers.extend(self.signer(replica)?.map(|signer| (replica, signer)));
        }
        Ok(signers)
    }

    /// Notes the key of a peer, and the highest number that it has signed.
    pub fn put_signer(&mut self, replica: ReplicaId, signer: &Signer) -> Result<(), IndexError> {
        let sql = "INSERT OR REPLACE INTO signers(replica, key, index_id, sequence)
                   VALUES(?1, ?2, ?3, ?4)";
        self.db.prepare_cached(sql)?.execute((
            replica.0,
            signer.key,
            signer.index_id.0,
            signer.sequence as i64,
        ))?;
        Ok(())
    }

    /// The last sessions with a peer, the newest first; at most so many.
    pub fn chain(&self, replica: ReplicaId, most: usize) -> Result<Vec<Pair>, IndexError> {
        let sql = "SELECT number, said, said_signature, heard, heard_signature, at FROM chain
                   WHERE replica = ?1 ORDER BY number DESC LIMIT ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query((replica.0, most as i64))?;
        let mut pairs = Vec::new();
        while let Some(row) = rows.next()? {
            let link = |at: usize| -> Result<Link, IndexError> {
                let bytes: Vec<u8> = row.get(at)?;
                let claim = Claim::from_bytes(&bytes);
                let claim = claim.map_err(|_| IndexError::Nonsense("a signed statement"))?;
                Ok(Link { claim, signature: row.get(at + 1)? })
            };
            pairs.push(Pair {
                number: row.get::<_, i64>(0)? as u64,
                said: link(1)?,
                heard: link(3)?,
                at: row.get(5)?,
            });
        }
        Ok(pairs)
    }

    /// Adds a session to the chain with a peer, in the place of any that have its number or a higher
    /// one: they were broken off. Old ones go.
    pub fn put_pair(&mut self, replica: ReplicaId, pair: &Pair) -> Result<(), IndexError> {
        let number = pair.number as i64;
        self.db
            .prepare_cached(
                "DELETE FROM chain WHERE replica = ?1 AND (number >= ?2 OR number <= ?3)",
            )?
            .execute((replica.0, number, number - KEPT))?;
        let sql =
            "INSERT INTO chain(replica, number, said, said_signature, heard, heard_signature, at)
                   VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.db.prepare_cached(sql)?.execute((
            replica.0,
            number,
            pair.said.claim.to_bytes(),
            pair.said.signature,
            pair.heard.claim.to_bytes(),
            pair.heard.signature,
            pair.at,
        ))?;
        Ok(())
    }
}
