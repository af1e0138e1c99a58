//! The guard against deleting more than a person can have meant.

use psync_protocol::entry::Fingerprint;
use psync_protocol::session::{Paths, Stand};
use psync_protocol::{Content, ContentDecision, ContentHash, Decision, RelPath, Role};
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
    fn of(self, live: u64) -> u64 {
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
