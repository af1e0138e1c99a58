//! What an end keeps of conflicts: the list of them, what a person has chosen, and the other side's
//! contents, so that they can be compared and merged without it.

use std::collections::HashMap;

use psync_protocol::session::Paths;
use psync_protocol::{RelPath, ReplicaId};

use super::Site;
use super::site::note;
use crate::apply::Keepsake;
use crate::index::{Index, IndexError, Which};
use crate::reconcile::{Choice, Policy};
use crate::report::{Conflict, Facts, Kind};

/// Larger contents of the other side are not fetched to be looked at, in bytes.
pub(super) const LOOK_MAX: u64 = 1 << 20;

/// What was chosen for conflicts with a peer.
pub(super) fn choices(
    index: &mut Index,
    peer: ReplicaId,
) -> Result<HashMap<RelPath, Choice>, IndexError> {
    if !index.has_open_conflicts()? {
        return Ok(HashMap::new());
    }
    let listed = index.conflicts(Which::Open)?.into_iter().filter(|listed| listed.peer == peer);
    let chosen = listed.filter_map(|listed| {
        let choice = Choice { policy: policy(&listed.chosen?), seen: listed.conflict.seen };
        Some((listed.conflict.path, choice))
    });
    Ok(chosen.collect())
}

/// The policy of this name, as it stands in the list.
fn policy(name: &str) -> Policy {
    match name {
        "both" => Policy::KeepBoth,
        "newest" => Policy::Newest,
        "oldest" => Policy::Oldest,
        "largest" => Policy::Largest,
        "local" => Policy::Local,
        "remote" => Policy::Remote,
        name => Policy::Replica(name.to_string()),
    }
}

/// Notes the conflicts of a plan, before it is carried out.
pub(super) fn list(
    index: &mut Index,
    peer: ReplicaId,
    at: i64,
    conflicts: &[Conflict],
) -> Result<(), IndexError> {
    if conflicts.is_empty() {
        return Ok(());
    }
    index.transaction(|index| index.put_conflicts(peer, at, conflicts.iter()))
}

/// The numbers of the paths whose other content has to be fetched to be looked at: conflicts that
/// wait, between files of the size of texts, as far as it is not here yet.
pub(super) fn to_look_at(
    site: &mut Site,
    peer: ReplicaId,
    paths: &Paths,
    conflicts: &[Conflict],
) -> Result<Vec<usize>, IndexError> {
    let held: Vec<&Conflict> =
        conflicts.iter().filter(|conflict| conflict.is_held() && is_short(conflict)).collect();
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let listed = site.index.conflicts(Which::Open)?;
    let Some(store) = site.store() else { return Ok(Vec::new()) };
    let known = listed.iter().filter(|listed| listed.peer == peer).filter_map(|listed| {
        let hash = listed.conflict.sides[1].as_ref()?.hash?;
        store.holds(&hash).unwrap_or(false).then_some(&listed.conflict.path)
    });
    let known: Vec<&RelPath> = known.collect();
    let wanted = held.iter().filter(|conflict| !known.contains(&&conflict.path));
    Ok(wanted.filter_map(|conflict| paths.find(&conflict.path)).collect())
}

/// Whether both sides are files of the size of texts.
fn is_short(conflict: &Conflict) -> bool {
    let is_short = |facts: &Option<Facts>| {
        facts.as_ref().is_some_and(|facts| facts.kind == Kind::File && facts.size <= LOOK_MAX)
    };
    conflict.sides.iter().all(is_short)
}

/// Puts the other side's contents into the store, and their hashes into the list.
pub(super) fn keep(
    site: &mut Site,
    peer: ReplicaId,
    kept: Vec<Keepsake>,
) -> Result<(), IndexError> {
    if kept.is_empty() {
        return Ok(());
    }
    let Site { old, index, notes, .. } = site;
    let mut failed = None;
    if let Some(store) = old.open(index, notes) {
        for Keepsake { hash, bytes, .. } in &kept {
            if let Err(error) = store.keep(hash, bytes.len() as u64, &mut &bytes[..]) {
                failed = Some(error);
                break;
            }
        }
        failed = failed.or_else(|| store.commit().err());
    }
    if let Some(error) = failed {
        old.give_up(&error, notes);
        notes.push(note("the other side's contents of conflicts are not kept".into()));
        return Ok(());
    }
    index.transaction(|index| {
        kept.iter().try_for_each(|kept| index.know_other_content(peer, &kept.path, &kept.hash))
    })
}

/// After a run: what waited, and is agreed now, waits no more; and of what was kept twice both
/// contents are known.
pub(super) fn close(
    index: &mut Index,
    peer: ReplicaId,
    conflicts: &[Conflict],
) -> Result<(), IndexError> {
    if conflicts.iter().any(|conflict| !conflict.is_held()) {
        index.transaction(|index| {
            conflicts.iter().try_for_each(|conflict| index.know_kept_content(peer, conflict))
        })?;
    }
    if index.has_open_conflicts()? {
        index.transaction(|index| index.close_conflicts(peer))?;
    }
    Ok(())
}
