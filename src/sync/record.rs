//! What an end states to a peer, and what it records of it.

use std::collections::BTreeSet;

use psync_protocol::session::Agreement;
use psync_protocol::{Check, Content, ContentDecision, RelPath, ReplicaId, Row};

use super::exchange::Closing;
use crate::index::{Index, IndexError, Peer, Stored};
use crate::reconcile::LocalAccess;
use crate::scan::Survey;

/// How the two ends stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relation {
    /// They have no history in common.
    pub(super) first_contact: bool,
}

/// The rows that a peer has to hear of: those above a sequence number, and what is pending. What
/// is out of scope or cannot be read is not spoken of.
pub(super) fn rows_to_state(
    index: &mut Index,
    survey: &Survey,
    since: u64,
    peer: Option<ReplicaId>,
) -> Result<Vec<Stored>, IndexError> {
    let mut rows = index.rows_since(since)?;
    let pending = match peer {
        Some(peer) if since > 0 => index.pending(peer)?,
        _ => Vec::new(),
    };
    if !pending.is_empty() {
        let known: BTreeSet<RelPath> = rows.iter().map(|stored| stored.row.path.clone()).collect();
        for path in pending.into_iter().filter(|path| !known.contains(path)) {
            rows.extend(index.row(&path)?);
        }
        rows.sort_by(|a, b| a.row.path.cmp(&b.row.path));
    }
    rows.retain(|stored| survey.speaks_of(stored));
    Ok(rows)
}

/// Whether this end can take part at a path, given what either side has there.
pub(super) fn access(survey: &Survey, path: &RelPath, row: Option<&Row<Check>>) -> LocalAccess {
    let is_directory = row.is_some_and(|row| matches!(row.content, Content::Directory));
    if survey.is_blind(path) {
        LocalAccess::Blind
    } else if survey.scope.covers(path, is_directory) {
        LocalAccess::Open
    } else {
        LocalAccess::Ignored
    }
}

/// After a complete session: which contents the peer has now, what stays pending, and how far the
/// two know each other.
pub(super) fn conclude(
    index: &mut Index,
    peer: &Peer,
    agreement: &Agreement,
    closing: &Closing,
    now: i64,
) -> Result<(), IndexError> {
    let failed: BTreeSet<u64> = closing.failures().map(|failure| failure.index).collect();
    let mut pending = Vec::new();
    let mut agreed = Vec::new();
    for (at, (stand, decision)) in agreement.paths.iter().zip(&agreement.decisions).enumerate() {
        if failed.contains(&(at as u64)) || decision.content == ContentDecision::Later {
            pending.push(stand.path());
        } else if decision.content != ContentDecision::Ignore {
            agreed.push(stand.path());
        }
    }
    index.transaction(|index| {
        for path in agreed {
            index.mark_shared(path)?;
        }
        index.set_pending(peer.replica, pending.into_iter())?;
        index.put_peer(peer, now)
    })
}
