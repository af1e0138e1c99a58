//! What an end states to a peer, and what it records of it.

use std::collections::BTreeSet;

use psync_protocol::session::Agreement;
use psync_protocol::{Check, Content, ContentDecision, RelPath, ReplicaId, Row};

use super::exchange::Closing;
use crate::index::{Index, IndexError, Peer};
use crate::manifest::{LocalAccess, References, Stored};
use crate::scan::Survey;
use crate::transport::Rates;

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
) -> Result<ToState, IndexError> {
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
    let blind = rows.iter().filter(|stored| survey.is_blind(&stored.row.path));
    let held_back = blind.map(|stored| stored.row.path.clone()).collect();
    rows.retain(|stored| survey.speaks_of(stored));
    Ok(ToState { rows, held_back })
}

/// What a peer has to hear of.
#[derive(Debug, Default)]
pub(super) struct ToState {
    /// The rows.
    pub(super) rows: Vec<Stored>,
    /// Paths whose rows cannot be vouched for now: to be told another time.
    pub(super) held_back: Vec<RelPath>,
}

/// The entries that this end and a peer have known since the session after which this index had
/// given `since`: what is pending, out of scope or cannot be read is not among them.
pub(super) fn references(
    index: &Index,
    survey: &Survey,
    since: u64,
    peer: ReplicaId,
) -> Result<References, IndexError> {
    let pending: BTreeSet<RelPath> = index.pending(peer)?.into_iter().collect();
    let left_out = |path: &RelPath, is_directory| {
        pending.contains(path) || survey.is_blind(path) || !survey.scope.covers(path, is_directory)
    };
    Ok(References::new(index.traces()?, since, left_out))
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
    held_back: Vec<RelPath>,
    now: i64,
) -> Result<(), IndexError> {
    let failed: BTreeSet<u64> = closing.failures().map(|failure| failure.index).collect();
    let mut pending: BTreeSet<RelPath> = index.pending(peer.replica)?.into_iter().collect();
    let mut agreed = Vec::new();
    for (at, (stand, decision)) in agreement.paths.iter().zip(&agreement.decisions).enumerate() {
        if failed.contains(&(at as u64)) || decision.content == ContentDecision::Later {
            pending.insert(stand.path().clone());
            if let ContentDecision::KeepBoth { clash, .. } = &decision.content {
                pending.insert(clash.clone());
            }
        } else {
            pending.remove(stand.path());
            if decision.content != ContentDecision::Ignore {
                agreed.push(stand.path());
            }
        }
    }
    pending.extend(held_back);
    index.transaction(|index| {
        for path in agreed {
            index.mark_shared(path)?;
        }
        index.set_pending(peer.replica, pending.iter())?;
        index.forget_all_announced()?;
        index.put_peer(peer, now)
    })
}

/// How fast the line to a peer was last time.
pub(super) fn rates(index: &Index, peer: ReplicaId) -> Result<Rates, IndexError> {
    let (sending, receiving) = index.line_rates(peer)?;
    Ok(Rates { sending, receiving })
}

/// Keeps how fast the line to a peer is, as far as the session has found out.
pub(super) fn keep_rates(
    index: &mut Index,
    peer: ReplicaId,
    rates: Rates,
) -> Result<(), IndexError> {
    if rates == Rates::default() {
        return Ok(());
    }
    index.put_line_rates(peer, (rates.sending, rates.receiving))
}
