//! The guard against deleting more than a person can have meant.

use psync_protocol::session::Paths;
use psync_protocol::{Content, ContentDecision, Decision, Role};
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
    for ((stand, local), decision) in paths.iter().zip(locals).zip(decisions) {
        let ContentDecision::Take(from) = decision.content else { continue };
        if from == on {
            continue;
        }
        let moved_to = match from {
            Role::Initiator => gone(&local.row.as_ref().map(|stored| &stored.row.content)),
            Role::Responder => gone(&stand.responder.as_ref().map(|row| &row.content)),
        };
        match moved_to {
            None => {}
            Some(true) => left.extend(stand.path().ancestors()),
            Some(false) => {
                let is_directory = match on {
                    Role::Initiator => local
                        .row
                        .as_ref()
                        .map(|stored| matches!(stored.row.content, Content::Directory)),
                    Role::Responder => stand
                        .responder
                        .as_ref()
                        .map(|row| matches!(row.content, Content::Directory)),
                };
                match is_directory {
                    Some(true) => directories.push(stand.path().clone()),
                    Some(false) | None => deleted += 1,
                }
            }
        }
    }
    // A directory that something moved out of has moved, too.
    deleted + directories.iter().filter(|dir| !left.contains(dir)).count() as u64
}

/// None: nothing is deleted. Otherwise whether it went elsewhere.
fn gone<H>(content: &Option<&Content<H>>) -> Option<bool> {
    match content {
        Some(Content::Deleted { moved_to }) => Some(moved_to.is_some()),
        Some(_) => None,
        None => Some(false),
    }
}
