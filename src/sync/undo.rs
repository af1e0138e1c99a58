//! Taking a run back, at one end: each path gets what stood there before.

use std::collections::{BTreeMap, BTreeSet};

use psync_protocol::{Content, ContentHash, RelPath};
use thiserror::Error;

use super::present::state_at;
use super::putback::{self, Change, Done, Obstacle, ObstacleKind, Prepared};
use super::{Site, record};
use crate::index::IndexError;
use crate::journal::{
    DeedRow, Ending, Journal, JournalError, RunId, RunKind, RunRow, RunStart, State, What,
};

/// Why a run cannot be taken back at all.
#[derive(Debug, Error)]
pub enum UndoError {
    /// There is no journal, or it cannot be used.
    #[error("{0}")]
    Journal(String),
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
    /// Where both sides clashed in the run, and what the clash file holds: the content that the
    /// other end is given back.
    clashed: Vec<(RelPath, ContentHash)>,
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
    let deeds = open(site)?.deeds(&run)?;
    let clashed = deeds.iter().filter_map(clash).collect();
    let mut changes = changes(deeds);
    changes.retain(|change| !leave.contains(&change.path));
    let (prepared, obstacles) = putback::prepare(site, changes);
    Ok(Plan { run, prepared, obstacles, clashed })
}

/// The path of which a deed has made a clash file, and what that holds.
fn clash(deed: &DeedRow) -> Option<(RelPath, ContentHash)> {
    match (&deed.what, &deed.after) {
        (What::Clash(of), Some(after)) => Some((of.clone(), *after.thing.hash()?)),
        _ => None,
    }
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

/// What puts the paths of these deeds back. A path to which a run did several things goes back to
/// what stood there before the first.
fn changes(deeds: Vec<DeedRow>) -> Vec<Change> {
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

/// Puts back what can be, as the run `id`; the other end undoes `elsewhere` paths.
pub fn carry_out(site: &mut Site, plan: Plan, id: RunId, trash: &str, elsewhere: u64) -> Done {
    let Plan { run, prepared, mut clashed, .. } = plan;
    clashed.retain(|(path, _)| prepared.changes().all(|change| change.path != *path));
    let start = RunStart {
        id,
        kind: RunKind::Undo,
        peer: run.peer,
        reach: run.reach.clone(),
        flow: run.flow,
        trash: trash.to_string(),
        planned: (prepared.changes().count() as u64 + elsewhere).max(1),
        undoes: Some(run.id),
    };
    let done = putback::carry_out(site, prepared, &start, &format!("undo of run {}", run.id));
    if let Err(error) = state_anew(site, &clashed) {
        site.notes.push(super::site::note(error.to_string()));
    }
    if let Some(journal) = site.journal.journal() {
        let stands_again = run.undoes.filter(|_| run.kind == RunKind::Undo);
        let marked = journal.mark_undone(run.id, Some(id)).and_then(|()| match stands_again {
            Some(earlier) => journal.mark_undone(earlier, None),
            None => Ok(()),
        });
        if let Err(error) = marked {
            site.notes.push(super::site::note(error.to_string()));
        }
    }
    done
}

/// Where both sides had clashed, the loser gets its content back at its end, as a change, and the
/// winner has kept its own. So that this is not simply overwritten by the next sync, it is stated
/// anew, as a change to what the other end is given back: both have changed it, as before the run.
fn state_anew(site: &mut Site, clashed: &[(RelPath, ContentHash)]) -> Result<(), IndexError> {
    if clashed.is_empty() {
        return Ok(());
    }
    site.index.transaction(|index| {
        let clock = index.next_clock();
        index.use_clock(clock);
        for (path, other) in clashed {
            let Some(mut stored) = index.row(path)? else { continue };
            let row = &mut stored.row;
            if matches!(row.content, Content::File { .. }) {
                row.content_version = row.content_version.bump(index.replica(), clock);
                row.base = Some(*other);
                index.put(&stored)?;
            }
        }
        Ok(())
    })
}

/// Whether the other end may never have heard of a run, because it broke early.
pub fn may_be_unknown_elsewhere(run: &RunRow) -> bool {
    matches!(run.ending, Ending::Broken(_))
}

/// Whether a run was one of two ends. The undo of a restore is none.
pub fn is_with_another_end(run: &RunRow) -> bool {
    match run.kind {
        RunKind::Restore => false,
        RunKind::Undo => run.peer.is_some() || !run.reach.location.is_empty(),
        _ => true,
    }
}
