//! What is stated anew when a run is taken back. Where both sides had changed a path, each gets its
//! own content back, and none of them may simply be newer than the other: the next sync has to find
//! the same conflict again.

use std::collections::BTreeMap;

use psync_protocol::{Content, ContentHash, RelPath, Version};

use super::super::Site;
use super::super::present::state_at;
use super::{UndoError, open};
use crate::index::{IndexError, Listed, Which};
use crate::journal::{DeedRow, RunKind, RunRow, State, Thing, What};
use crate::manifest::{Stamp, Stored};
use crate::report;
use crate::sync::putback::Prepared;

/// A path at which both sides get back what they had made of the same content, and that content,
/// where it is known.
pub type Anew = (RelPath, Option<ContentHash>);

/// A merge that is taken back.
#[derive(Debug)]
struct Merge {
    path: RelPath,
    /// What both had changed.
    base: Option<ContentHash>,
    /// The version of this side's change.
    ours: Version,
}

/// What is stated anew at this end, and which conflicts are open again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// Where both sides clashed, and what the clash file holds: what the other end is given back.
    clashed: Vec<(RelPath, ContentHash)>,
    merges: Vec<Merge>,
    /// Each with the path that was changed to resolve it.
    reopened: Vec<(i64, RelPath)>,
}

impl Again {
    /// What taking these runs back brings up again; each with its deeds.
    pub(super) fn of(
        site: &mut Site,
        runs: &[(RunRow, Vec<DeedRow>)],
    ) -> Result<Again, IndexError> {
        let mut again = Again::default();
        for (run, deeds) in runs {
            again.clashed.extend(deeds.iter().filter_map(clash));
            for listed in resolved_by(site, run, deeds)? {
                let merged = is_merge(&listed);
                let conflict = listed.conflict;
                let path = match conflict.state {
                    report::State::Settled { clash: Some(clash) } => clash,
                    _ => conflict.path,
                };
                again.reopened.push((listed.id, path.clone()));
                if merged {
                    let (base, ours) = (conflict.ancestor, conflict.seen.0);
                    again.merges.push(Merge { path, base, ours });
                }
            }
        }
        Ok(again)
    }

    /// What the other end has to state anew, too.
    pub(super) fn merged(&self) -> impl Iterator<Item = Anew> {
        self.merges.iter().map(|merge| (merge.path.clone(), merge.base))
    }

    /// Writes the rows of what is put back, before it is: an end that is stopped in between finds
    /// the content that both have. `there` is what the other end takes back of merges.
    pub(super) fn state(
        self,
        site: &mut Site,
        prepared: &Prepared,
        there: &[Anew],
    ) -> Result<(), IndexError> {
        let Again { mut clashed, merges, reopened } = self;
        let wanted: BTreeMap<&RelPath, &State> = prepared
            .changes()
            .filter_map(|change| Some((&change.path, change.wanted.as_ref()?)))
            .collect();
        let changes = |path: &RelPath| prepared.changes().any(|change| change.path == *path);
        clashed.retain(|(path, _)| !changes(path));
        if clashed.is_empty() && merges.is_empty() && reopened.is_empty() && there.is_empty() {
            return Ok(());
        }
        site.index.transaction(|index| {
            let clock = index.next_clock();
            index.use_clock(clock);
            let mut put = |path: &RelPath, change: &dyn Fn(&mut Stored)| {
                let Some(mut stored) = index.row(path)? else { return Ok(()) };
                if !matches!(stored.row.content, Content::File { .. }) {
                    return Ok(());
                }
                change(&mut stored);
                let row = &mut stored.row;
                row.content_version = row.content_version.bump(index.replica(), clock);
                index.put(&stored)
            };
            for (path, other) in &clashed {
                put(path, &|stored| stored.row.base = Some(*other))?;
            }
            for Merge { path, base, ours } in &merges {
                let Some(state) = wanted.get(path) else { continue };
                put(path, &|stored| {
                    put_back(stored, state, *base);
                    // The merge had the other side's change in it.
                    stored.row.content_version = ours.clone();
                })?;
            }
            for (path, base) in there {
                let Some(state) = wanted.get(path) else { continue };
                put(path, &|stored| put_back(stored, state, *base))?;
            }
            let mut reopened = reopened.iter().filter(|(_, path)| changes(path));
            reopened.try_for_each(|(id, _)| index.reopen_conflict(*id))
        })
    }
}

/// The row of a file that stands again, as a change to what both sides had.
fn put_back(stored: &mut Stored, state: &State, base: Option<ContentHash>) {
    if let Thing::File { size, hash } = state.thing {
        stored.row.content = Content::File { size, hash };
        stored.row.base = base;
        stored.shared = false;
        stored.stamp = Stamp::UNKNOWN;
    }
}

/// The path of which a deed has made a clash file, and what that holds.
fn clash(deed: &DeedRow) -> Option<(RelPath, ContentHash)> {
    match (&deed.what, &deed.after) {
        (What::Clash(of), Some(after)) => Some((of.clone(), *after.thing.hash()?)),
        _ => None,
    }
}

/// Whether a conflict that was held has been merged.
fn is_merge(listed: &Listed) -> bool {
    listed.conflict.is_held() && listed.resolved.as_deref() == Some("merged")
}

/// The conflicts that a run has resolved.
fn resolved_by(
    site: &mut Site,
    run: &RunRow,
    deeds: &[DeedRow],
) -> Result<Vec<Listed>, IndexError> {
    if run.kind != RunKind::Resolve {
        return Ok(Vec::new());
    }
    let is_it = |listed: &Listed| match &listed.conflict.state {
        report::State::Held { .. } => {
            is_merge(listed) && deeds.iter().any(|deed| wrote(deed, listed))
        }
        report::State::Settled { clash: Some(clash) } => {
            deeds.iter().any(|deed| deed.path == *clash)
        }
        report::State::Settled { clash: None } => false,
    };
    let past = site.index.conflicts(Which::Past)?.into_iter();
    Ok(past.filter(|l| Some(l.peer) == run.peer && l.resolved.is_some() && is_it(l)).collect())
}

/// Whether a deed has put a merge in the place of this side's version.
fn wrote(deed: &DeedRow, listed: &Listed) -> bool {
    let ours = listed.conflict.sides[0].as_ref().and_then(|facts| facts.hash);
    let before = deed.before.as_ref().and_then(|state| state.thing.hash().copied());
    deed.path == listed.conflict.path && before.is_some() && before == ours
}

/// The merges that a sync has carried to the other end, with their deeds: whoever takes the sync
/// back takes them back, too, as the other end gets its own version again. One that was edited
/// since it was written stays.
pub(super) fn carried(
    site: &mut Site,
    run: &RunRow,
) -> Result<Vec<(RunRow, Vec<DeedRow>)>, UndoError> {
    if !run.kind.is_sync() {
        return Ok(Vec::new());
    }
    let mut merges = Vec::new();
    for earlier in open(site)?.resolved_before(run)? {
        let deeds = open(site)?.deeds(&earlier)?;
        let listed = resolved_by(site, &earlier, &deeds)?;
        let stands = |deed: &DeedRow, site: &mut Site| {
            let found = state_at(&site.root, &mut site.index, &deed.path).ok().flatten();
            found.map(|state| state.thing) == deed.after.as_ref().map(|state| state.thing.clone())
        };
        if listed.iter().any(is_merge) && deeds.iter().all(|deed| stands(deed, site)) {
            merges.push((earlier, deeds));
        }
    }
    Ok(merges)
}
