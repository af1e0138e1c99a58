//! Taking a run back, at one end: each path gets what stood there before.

mod anew;

use std::collections::{BTreeMap, BTreeSet};

use psync_protocol::RelPath;
use thiserror::Error;

use super::present::state_at;
use super::putback::{self, Change, Done, Obstacle, ObstacleKind, Prepared};
use super::{Site, record};
use crate::index::IndexError;
use crate::journal::{
    DeedRow, Ending, Journal, JournalError, Reach, RunId, RunKind, RunRow, RunStart, State,
};

use anew::Again;
pub use anew::Anew;

/// Why a run cannot be taken back at all.
#[derive(Debug, Error)]
pub enum UndoError {
    /// There is no journal, or it cannot be used.
    #[error("{0}")]
    Journal(String),
    /// The state database fails.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No such run.
    #[error("there is no run {0} in the journal; 'psync log' lists them")]
    Unknown(String),
    /// No run has changed anything.
    #[error("no run has changed anything yet: there is nothing to undo")]
    Nothing,
    /// It was undone before.
    #[error(
        "run {run} was undone already, by run {by}; to undo an earlier one, name it; to take the undo back: psync undo {by}"
    )]
    Undone {
        /// The run.
        run: RunId,
        /// The run that undid it.
        by: RunId,
    },
}

impl From<JournalError> for UndoError {
    fn from(error: JournalError) -> UndoError {
        UndoError::Journal(error.to_string())
    }
}

/// What it takes to undo a run at this end.
#[derive(Debug)]
pub struct Plan {
    /// The run.
    pub run: RunRow,
    /// What can be put back.
    pub prepared: Prepared,
    /// What cannot.
    pub obstacles: Vec<Obstacle>,
    /// The merges that it has carried, and that are taken back with it.
    merges: Vec<RunId>,
    again: Again,
}

/// Finds the run that is meant: by number or id; else the latest that changed something.
pub fn find(site: &mut Site, typed: Option<&str>) -> Result<RunRow, UndoError> {
    record::settle(site);
    let journal = open(site)?;
    let run = match typed {
        Some(typed) => journal.find(typed)?.ok_or_else(|| UndoError::Unknown(typed.to_string()))?,
        None => journal.latest_deed()?.ok_or(UndoError::Nothing)?,
    };
    match run.undone_by {
        Some(by) => Err(UndoError::Undone { run: run.id, by }),
        None => Ok(run),
    }
}

fn open(site: &mut Site) -> Result<&mut Journal, UndoError> {
    if site.journal.journal().is_none() {
        let notes = site.journal.take_notes().join("; ");
        return Err(UndoError::Journal(notes));
    }
    site.journal.journal().ok_or_else(|| UndoError::Journal("there is no journal".into()))
}

/// Looks at everything that a run did here but for the paths to `leave`, and stages the old
/// contents.
pub fn prepare(site: &mut Site, run: RunRow, leave: &BTreeSet<RelPath>) -> Result<Plan, UndoError> {
    let mut runs = anew::carried(site, &run)?;
    let merges = runs.iter().map(|(merge, _)| merge.id).collect();
    let deeds = open(site)?.deeds(&run)?;
    runs.push((run.clone(), deeds));
    let again = Again::of(site, &runs)?;
    let mut changes = changes(runs.into_iter().flat_map(|(_, deeds)| deeds));
    changes.retain(|change| !leave.contains(&change.path));
    let (prepared, obstacles) = putback::prepare(site, changes);
    Ok(Plan { run, prepared, obstacles, merges, again })
}

/// What stands at a path where a run has been at work.
pub type Standing = (RelPath, Option<State>);

impl Plan {
    /// The paths that are put back, with what stands there now: after the run the other end had the
    /// same.
    pub fn standing(&self) -> Vec<Standing> {
        let changes = self.prepared.changes();
        changes.map(|change| (change.path.clone(), change.expected.clone())).collect()
    }

    /// The paths at which a merge is taken back: the other end states anew what it puts back there.
    pub fn anew(&self) -> Vec<Anew> {
        self.again.merged().collect()
    }
}

/// Of paths that the other end puts back and this one does not, those that are not here as they are
/// there: they were changed here since the run.
pub fn changed_since(site: &mut Site, plan: &Plan, there: &[Standing]) -> Vec<Obstacle> {
    if !both_were_the_same(&plan.run) {
        return Vec::new();
    }
    let named: BTreeSet<&RelPath> = plan.obstacles.iter().map(|obstacle| &obstacle.path).collect();
    let ours: BTreeSet<&RelPath> = plan.prepared.changes().map(|change| &change.path).collect();
    let others = there.iter().filter(|(path, _)| !named.contains(path) && !ours.contains(path));
    let Site { root, index, .. } = site;
    let changed = others
        .filter(|(path, state)| !state_at(root, index, path).is_ok_and(|found| found == *state));
    changed
        .map(|(path, _)| Obstacle {
            path: path.clone(),
            kind: ObstacleKind::Changed,
            text: "it was changed since".into(),
        })
        .collect()
}

/// Whether all that a run touched was the same at both ends when it had ended.
fn both_were_the_same(run: &RunRow) -> bool {
    run.kind.is_sync() && run.ending == Ending::Finished && run.failures == 0
}

/// What puts the paths of these deeds back. A path to which several things were done goes back to
/// what stood there before the first.
fn changes(deeds: impl Iterator<Item = DeedRow>) -> Vec<Change> {
    let mut changes: BTreeMap<RelPath, Change> = BTreeMap::new();
    for deed in deeds {
        let DeedRow { path, before, after, kept, .. } = deed;
        changes
            .entry(path.clone())
            .and_modify(|change| change.expected = after.clone())
            .or_insert(Change { path, expected: after, wanted: before, kept });
    }
    changes.into_values().filter(|change| change.expected != change.wanted).collect()
}

/// Puts back what can be, as the run `id`; the other end undoes `elsewhere` paths, and takes back the
/// merges at the paths `there`.
pub fn carry_out(
    site: &mut Site,
    plan: Plan,
    id: RunId,
    trash: &str,
    (elsewhere, there): (u64, &[Anew]),
) -> Done {
    let Plan { run, prepared, merges, again, .. } = plan;
    let with_another_end = is_with_another_end(&run);
    let start = RunStart {
        id,
        kind: RunKind::Undo,
        peer: run.peer.filter(|_| with_another_end),
        reach: if with_another_end { run.reach.clone() } else { Reach::default() },
        flow: run.flow,
        trash: trash.to_string(),
        planned: (prepared.changes().count() as u64 + elsewhere).max(1),
        undoes: Some(run.id),
    };
    if let Err(error) = again.state(site, &prepared, there) {
        site.notes.push(super::site::note(error.to_string()));
    }
    let done = putback::carry_out(site, prepared, &start, &format!("undo of run {}", run.id));
    if let Some(journal) = site.journal.journal() {
        let mut undone = merges.into_iter().chain([run.id]);
        let marked = undone.try_for_each(|run| journal.mark_undone(run, id));
        let marked = marked.and_then(|()| match run.kind {
            RunKind::Undo => journal.stand_again(run.id),
            _ => Ok(()),
        });
        if let Err(error) = marked {
            site.notes.push(super::site::note(error.to_string()));
        }
    }
    done
}

/// Whether the other end may never have heard of a run, because it broke early.
pub fn may_be_unknown_elsewhere(run: &RunRow) -> bool {
    matches!(run.ending, Ending::Broken(_))
}

/// Whether a run was one of two ends. The undo of a restore is none.
pub fn is_with_another_end(run: &RunRow) -> bool {
    match run.kind {
        RunKind::Restore | RunKind::Resolve => false,
        RunKind::Undo => run.peer.is_some() || !run.reach.location.is_empty(),
        _ => true,
    }
}
