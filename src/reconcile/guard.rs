//! The guards against deleting, or taking over, more than a person can have meant.

use psync_protocol::entry::Fingerprint;
use psync_protocol::session::{Agreement, Paths, Stand};
use psync_protocol::{
    Check, Content, ContentDecision, ContentHash, Decision, RelPath, Relation, Role, Row,
};
use std::collections::HashSet;

use super::draft::Local;

/// Most deletions on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeleteLimit {
    /// Half of the side's entries, and never fewer than 100.
    #[default]
    Half,
    /// This many entries.
    Count(u64),
    /// This many hundredths of the side's entries.
    Percent(u64),
}

impl DeleteLimit {
    /// How many deletions are allowed of this many entries.
    pub fn of(self, live: u64) -> u64 {
        match self {
            DeleteLimit::Half => (live / 2).max(100),
            DeleteLimit::Count(count) => count,
            DeleteLimit::Percent(percent) => (u128::from(live) * u128::from(percent) / 100) as u64,
        }
    }
}

/// More would be deleted than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tripped {
    /// On which side.
    pub on: Role,
    /// How many entries would be deleted there.
    pub deletions: u64,
    /// Out of how many.
    pub live: u64,
    /// How many are allowed.
    pub limit: u64,
}

/// Most files of one side whose content may have changed at once: more than that is what broken
/// tools and blackmailers do, and would replace the good files of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangeLimit {
    /// Nine tenths of the side's files, and never fewer than 100.
    #[default]
    NineTenths,
    /// This many files.
    Count(u64),
    /// This many hundredths of the side's files.
    Percent(u64),
}

impl ChangeLimit {
    /// How many files may have changed of this many.
    pub fn of(self, files: u64) -> u64 {
        let percent = |percent| (u128::from(files) * u128::from(percent) / 100) as u64;
        match self {
            ChangeLimit::NineTenths => percent(90).max(100),
            ChangeLimit::Count(count) => count,
            ChangeLimit::Percent(hundredths) => percent(hundredths),
        }
    }
}

/// More files have changed at once than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flooded {
    /// On which side.
    pub on: Role,
    /// How many files have another content there.
    pub changed: u64,
    /// Out of how many.
    pub files: u64,
    /// How many are allowed.
    pub limit: u64,
}

/// Counts the files of each side that have another content than was agreed. New files, moves and
/// deletions are none of them. `files` tells how many files a side has, and is asked only where
/// many have changed.
pub fn check_changes<E>(
    paths: &Paths,
    locals: &[Local],
    mut files: impl FnMut(Role) -> Result<u64, E>,
    limit: ChangeLimit,
) -> Result<Result<(), Flooded>, E> {
    for on in [Role::Initiator, Role::Responder] {
        let changed = count_changes(paths, locals, on);
        let least = match limit {
            ChangeLimit::NineTenths => 100,
            ChangeLimit::Count(count) => count,
            ChangeLimit::Percent(_) => 0,
        };
        if changed <= least {
            continue;
        }
        // How many files the other side has may only be guessed; that what has changed is there is sure.
        let files = files(on)?.max(changed);
        let limit = limit.of(files);
        if changed > limit {
            return Ok(Err(Flooded { on, changed, files, limit }));
        }
    }
    Ok(Ok(()))
}

fn count_changes(paths: &Paths, locals: &[Local], on: Role) -> u64 {
    let edited = |(stand, local): &(&Stand, &Local)| match on {
        Role::Initiator => {
            let stored = local.row.as_ref().filter(|stored| !stored.shared);
            stand.initiator.is_some() && stored.is_some_and(|stored| is_edit(&stored.row))
        }
        // Of what the responder states, this side's row tells whether it is new to it.
        Role::Responder => stand.responder.as_ref().is_some_and(|row| {
            let ours = local.row.as_ref().map(|stored| &stored.row);
            let version = ours.map(|ours| row.content_version.compare(&ours.content_version));
            is_edit(row) && matches!(version, Some(Relation::Newer | Relation::Concurrent))
        }),
    };
    paths.iter().zip(locals).filter(edited).count() as u64
}

/// Whether a row is of a file that was a file before, with another content.
fn is_edit<H: Fingerprint>(row: &Row<H>) -> bool {
    let file = matches!(row.content, Content::File { .. });
    file && row
        .base
        .is_some_and(|base| base != H::DIRECTORY && row.content.fingerprint() != Some(base))
}

/// The paths at which a plan takes the initiator's deletion, but for what it has only moved to
/// where it still stands.
pub fn deletions(agreement: &Agreement) -> Vec<&RelPath> {
    let paths = &agreement.paths;
    let is_live = |row: &&Row<Check>| row.content.is_live();
    let alive: HashSet<&RelPath> = paths
        .iter()
        .filter_map(|stand| stand.initiator.as_ref())
        .filter(is_live)
        .map(|row| &row.path)
        .collect();
    let takes = |(stand, decision): (&'_ Stand, &Decision)| {
        let taken = decision.content == ContentDecision::Take(Role::Initiator);
        let row = stand.initiator.as_ref()?;
        (taken && gone(Some(&row.content), &alive) == Some(false)).then_some(())
    };
    let decided = paths.iter().zip(&agreement.decisions);
    decided.filter(|both| takes(*both).is_some()).map(|(stand, _)| stand.path()).collect()
}

/// Counts the deletions of a plan on each side. What only moves is no deletion.
pub fn check_deletions(
    paths: &Paths,
    locals: &[Local],
    decisions: &[Decision],
    live: impl Fn(Role) -> u64,
    limit: DeleteLimit,
) -> Result<(), Tripped> {
    for on in [Role::Initiator, Role::Responder] {
        let deletions = count_deletions(paths, locals, decisions, on);
        let limit = limit.of(live(on));
        if deletions > limit {
            return Err(Tripped { on, deletions, live: live(on), limit });
        }
    }
    Ok(())
}

/// How many entries a plan deletes on a side.
pub fn count_deletions(paths: &Paths, locals: &[Local], decisions: &[Decision], on: Role) -> u64 {
    let mut deleted = 0;
    let mut directories = Vec::new();
    let mut left = HashSet::new();
    let alive = alive(paths, locals, on.other());
    for ((stand, local), decision) in paths.iter().zip(locals).zip(decisions) {
        let ContentDecision::Take(from) = decision.content else { continue };
        if from == on {
            continue;
        }
        let moved_to = match from {
            Role::Initiator => gone(local.row.as_ref().map(|stored| &stored.row.content), &alive),
            Role::Responder => gone(stand.responder.as_ref().map(|row| &row.content), &alive),
        };
        match moved_to {
            None => {}
            Some(true) => left.extend(stand.path().ancestors()),
            Some(false) => {
                // Of what the responder does not state, the tombstone tells what it was.
                let ours = local.row.as_ref().map(|stored| &stored.row);
                let is_directory = match (on, &stand.responder) {
                    (Role::Initiator, _) => {
                        ours.is_some_and(|row| matches!(row.content, Content::Directory))
                    }
                    (Role::Responder, Some(row)) => matches!(row.content, Content::Directory),
                    (Role::Responder, None) => {
                        ours.is_some_and(|row| row.base == Some(ContentHash::DIRECTORY))
                    }
                };
                if is_directory {
                    directories.push(stand.path().clone());
                } else {
                    deleted += 1;
                }
            }
        }
    }
    // A directory that something moved out of has moved, too.
    deleted + directories.iter().filter(|dir| !left.contains(dir)).count() as u64
}

/// Where something stands on a side, of the paths of the plan.
fn alive<'a>(paths: &'a Paths, locals: &[Local], on: Role) -> HashSet<&'a RelPath> {
    let is_live = |(stand, local): &(&Stand, &Local)| match on {
        Role::Initiator => local.row.as_ref().is_some_and(|stored| stored.row.content.is_live()),
        Role::Responder => stand.responder.as_ref().is_some_and(|row| row.content.is_live()),
    };
    paths.iter().zip(locals).filter(is_live).map(|(stand, _)| stand.path()).collect()
}

/// None: nothing is deleted. Otherwise whether it went elsewhere and is still there.
fn gone<H>(content: Option<&Content<H>>, alive: &HashSet<&RelPath>) -> Option<bool> {
    match content {
        Some(Content::Deleted { moved_to }) => {
            Some(moved_to.as_ref().is_some_and(|to| alive.contains(to)))
        }
        Some(Content::Directory | Content::File { .. } | Content::Symlink { .. }) => None,
        None => Some(false),
    }
}
