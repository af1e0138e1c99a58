//! What an end states to a peer, and what it records of it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use psync_protocol::message::Flow;
use psync_protocol::session::Agreement;
use psync_protocol::{Check, Content, ContentDecision, PropsDecision, RelPath, ReplicaId, Row};

use super::exchange::Closing;
use super::seals::Seals;
use super::{Site, SyncError};
use crate::apply::RunNames;
use crate::index::{Index, IndexError, LineFigures, Peer};
use crate::journal::{Reasons, RunId, RunKind, RunStart};
use crate::manifest::{LocalAccess, Permit, References, Stored};
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
    found_to_state(index, survey, std::iter::empty(), since, peer)
}

/// The same where the index has not been told yet what a scan has found.
pub(super) fn found_to_state<'r>(
    index: &mut Index,
    survey: &Survey,
    found: impl Iterator<Item = &'r Stored>,
    since: u64,
    peer: Option<ReplicaId>,
) -> Result<ToState, IndexError> {
    let mut rows = index.rows_since(since)?;
    let found: Vec<&Stored> = found.collect();
    if !found.is_empty() {
        let newer: HashSet<&RelPath> = found.iter().map(|stored| &stored.row.path).collect();
        rows.retain(|stored| !newer.contains(&stored.row.path));
        rows.extend(found.into_iter().cloned());
        rows.sort_by(|a, b| a.row.path.cmp(&b.row.path));
    }
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
/// two know each other. With a peer that may not write at a path nothing was agreed on there.
pub(super) fn conclude(
    index: &mut Index,
    (peer, permit): (&Peer, &Permit),
    agreement: &Agreement,
    closing: &Closing,
    held_back: Vec<RelPath>,
    seals: Option<&Seals>,
    now: i64,
) -> Result<(), IndexError> {
    let failed: BTreeSet<u64> = closing.failures().map(|failure| failure.index).collect();
    let mut pending: BTreeSet<RelPath> = index.pending(peer.replica)?.into_iter().collect();
    let (mut agreed, mut shared) = (Vec::new(), Vec::new());
    for (at, (stand, decision)) in agreement.paths.iter().zip(&agreement.decisions).enumerate() {
        if failed.contains(&(at as u64)) || decision.content == ContentDecision::Later {
            pending.insert(stand.path().clone());
            if let ContentDecision::KeepBoth { clash, .. } = &decision.content {
                pending.insert(clash.clone());
            }
        } else {
            pending.remove(stand.path());
            if decision.content != ContentDecision::Ignore {
                let may_write = permit.rights(stand.path().as_bytes()).write;
                let known = if may_write { &mut agreed } else { &mut shared };
                known.push(stand.path());
            }
        }
    }
    pending.extend(held_back);
    index.transaction(|index| {
        index.mark_agreed(&agreed)?;
        index.mark_shared(&shared)?;
        index.set_pending(peer.replica, pending.iter())?;
        index.forget_all_announced()?;
        index.put_peer(peer, now)?;
        seals.map_or(Ok(()), |seals| seals.keep(index, now))?;
        index.forget_old(now)
    })
}

/// A peer was met, and there was nothing to do.
pub(super) fn touch(
    index: &mut Index,
    seals: &Seals,
    peer: ReplicaId,
    now: i64,
) -> Result<(), IndexError> {
    index.touch_peer(peer, now)?;
    // Whom this replica knows nothing of besides is met for the first time another time.
    match index.peer(peer)? {
        Some(_) => seals.keep_signer(index),
        None => Ok(()),
    }
}

/// How fast the line to a peer was last time.
pub(super) fn rates(index: &Index, peer: ReplicaId) -> Result<Rates, IndexError> {
    let LineFigures { sending, receiving, round_trip } = index.line(peer)?;
    Ok(Rates { sending, receiving, round_trip: round_trip.map(Duration::from_micros) })
}

/// Keeps how fast the line to a peer is, as far as the session has found out anything new: what is off
/// by less than a quarter is not worth writing.
pub(super) fn keep_rates(
    index: &mut Index,
    peer: ReplicaId,
    rates: Rates,
) -> Result<(), IndexError> {
    let Rates { sending, receiving, round_trip } = rates;
    let round_trip = round_trip.map(|time| time.as_micros() as u64);
    let figures = LineFigures { sending, receiving, round_trip };
    let known = index.line(peer)?;
    let is_like = |now: Option<u64>, known: Option<u64>| match (now, known) {
        (Some(now), Some(known)) => now.abs_diff(known) <= known / 4,
        (now, known) => now == known,
    };
    if is_like(sending, known.sending)
        && is_like(receiving, known.receiving)
        && is_like(round_trip, known.round_trip)
    {
        return Ok(());
    }
    index.put_line(peer, figures)
}

/// Whom a run is with, as far as it has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Met {
    pub(super) peer: Option<ReplicaId>,
    /// The initiator's nonce, and the responder's.
    pub(super) nonces: ([u8; 16], [u8; 16]),
}

impl Met {
    fn start(
        &self,
        site: &Site,
        kind: RunKind,
        flow: Flow,
        names: &RunNames,
        planned: u64,
    ) -> RunStart {
        RunStart {
            id: RunId::of_nonces(&self.nonces.0, &self.nonces.1),
            kind,
            peer: self.peer,
            reach: site.reach.clone(),
            flow,
            trash: names.trash.clone(),
            planned,
            undoes: None,
        }
    }
}

/// The journal hears that a run begins to change things. What an interrupted one had announced is
/// looked at first.
pub(super) fn begin(
    site: &mut Site,
    kind: RunKind,
    met: &Met,
    flow: Flow,
    names: &RunNames,
    planned: u64,
    reasons: &Reasons,
) {
    settle(site);
    let start = met.start(site, kind, flow, names, planned);
    site.journal.begin(&start, reasons);
}

/// What broken runs had announced in the journal is looked at, and they have ended.
pub(super) fn settle(site: &mut Site) {
    let Site { journal, root, index, .. } = site;
    let Some(open) = journal.journal() else { return };
    let settled = open.settle(&mut |path, after| {
        super::present::state_at(root, index, path).is_ok_and(|found| found.as_ref() == after)
    });
    if let Err(error) = settled {
        site.notes.push(super::site::note(error.to_string()));
    }
}

/// The journal hears how a run ended that did not end in order: it broke, or there was nothing to
/// do but to tell of so many conflicts that wait.
pub(super) fn note_run<T>(
    site: &mut Site,
    kind: RunKind,
    met: &Met,
    flow: Flow,
    names: &RunNames,
    conflicts: usize,
    result: &Result<T, SyncError>,
) {
    let error = result.as_ref().err().map(SyncError::to_string);
    if site.journal.is_running() {
        site.journal.end(0, 0, Some(error.as_deref().unwrap_or("ended early")));
    } else if !site.journal.has_ended() {
        let start = met.start(site, kind, flow, names, 0);
        site.journal.note_run(&start, conflicts as u64, error.as_deref());
    }
}

/// How many paths a plan changes on some side, as far as the responder can tell.
pub(super) fn planned(agreement: &Agreement) -> u64 {
    let changes = agreement.decisions.iter().filter(|decision| {
        !decision.is_postponed()
            && (decision.content != ContentDecision::Agree
                || decision.props != PropsDecision::Agree)
    });
    changes.count() as u64
}

/// The reasons as the responder knows them, from the plan alone.
pub(super) fn reasons(agreement: &Agreement) -> Reasons {
    let decisions = agreement.decisions.iter();
    Reasons::new(decisions.map(|decision| match &decision.content {
        ContentDecision::Agree => "the same on both sides",
        ContentDecision::Take(_) if decision.content_resolved => "chosen between two changes",
        ContentDecision::Take(_) => "new, changed or deleted on the other side",
        ContentDecision::KeepBoth { .. } => "changed on both sides: both are kept",
        ContentDecision::MovedAway(_) => "moved on one side, edited on the other",
        ContentDecision::Arrive { .. } => "edited on one side, moved on the other",
        ContentDecision::Ignore => "left alone by a filter",
        ContentDecision::Later => "left for a later run",
    }))
}
