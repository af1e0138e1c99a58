//! What directories and the things in them mean to each other.

use std::collections::HashSet;

use psync_protocol::{Content, RelPath, Role};

use super::super::decide::{Fate, Ruling, type_conflict};
use super::{Drafter, Planned};

const WAITS_ABOVE: &str = "what it lies in waits";
const WAITS_BELOW: &str = "something in it waits";

/// Who needs a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Something that will stand in it.
    Stands,
    /// Something that waits in it, as it is.
    Waits,
}

impl Drafter<'_> {
    /// A directory that something lives in has to live; what stands in its place makes room.
    pub(super) fn keep_needed_directories(&mut self) {
        let mut standing: HashSet<RelPath> = HashSet::new();
        let mut waiting: HashSet<RelPath> = HashSet::new();
        for at in (0..self.paths.len()).rev() {
            let path = self.paths[at].path().clone();
            if standing.contains(&path) {
                self.keep_directory(at, Need::Stands);
            } else if waiting.contains(&path) {
                self.keep_directory(at, Need::Waits);
            }
            let needed = match self.planned[at] {
                Planned::Later(_) => &mut waiting,
                _ if self.lives(at) => &mut standing,
                _ => continue,
            };
            for dir in path.ancestors() {
                if !needed.insert(dir) {
                    break;
                }
            }
        }
    }

    fn keep_directory(&mut self, at: usize, need: Need) {
        let is_directory = |role| matches!(self.row(role, at).content, Content::Directory);
        let holder = match (is_directory(Role::Initiator), is_directory(Role::Responder)) {
            // The other side had no reason to say that it has a directory there.
            (false, false) if need == Need::Waits && self.is_silent(at) => Role::Responder,
            (true, true) | (false, false) => return,
            (true, false) => Role::Initiator,
            (false, true) => Role::Responder,
        };
        let Planned::Ruled(ruling) = self.planned[at] else { return };
        match ruling.fate {
            Fate::Take(role) if role == holder => {}
            Fate::KeepBoth(role) if role == holder => {}
            // What the source of a mirror has not is never made there.
            _ if self.terms.context.source() == Some(holder.other()) => {
                self.planned[at] = Planned::Later("something in it cannot be read now");
            }
            _ if need == Need::Waits => self.planned[at] = Planned::Later(WAITS_BELOW),
            _ if self.row(holder.other(), at).content.is_live() => {
                self.planned[at] = self.settle(at, type_conflict(holder));
                self.keep_to_limit(at);
            }
            _ => {
                let why = "deleted on one side, but something in it is new or changed on the other";
                self.planned[at] = Planned::Ruled(Ruling::take(holder, why).resolved());
                self.keep_to_limit(at);
            }
        }
    }

    fn keep_to_limit(&mut self, at: usize) {
        if let Planned::Ruled(ruling) = self.planned[at]
            && let Some(why) = self.barred(at, &ruling)
        {
            self.hold(at, why);
        }
    }

    /// Where a directory is not made, nothing can be put into it; where one waits for a decision,
    /// all that is in it waits, too.
    pub(super) fn wait_below(&mut self) {
        let (mut unmade, mut held) = (HashSet::new(), HashSet::new());
        for at in 0..self.paths.len() {
            let path = self.paths[at].path();
            let is_in = |set: &HashSet<RelPath>| {
                !set.is_empty() && path.ancestors().any(|above| set.contains(&above))
            };
            let waits = match self.planned[at] {
                Planned::Later(_) | Planned::Ignore => false,
                _ => is_in(&held) || is_in(&unmade) && self.lives(at),
            };
            let is_later = matches!(self.planned[at], Planned::Later(_));
            if waits {
                self.wait(at);
            } else if is_later && (self.would_replace(at) || self.is_one_sided(at)) {
                let is_held = self.would_replace(at) || self.matters.contains_key(&at);
                let set = if is_held { &mut held } else { &mut unmade };
                set.insert(path.clone());
            }
        }
    }

    /// Puts a path off, with what is settled together with it.
    pub(super) fn wait(&mut self, at: usize) {
        match self.planned[at] {
            Planned::Arrive { source, .. } => self.planned[source] = Planned::Later(WAITS_ABOVE),
            Planned::MovedAway(..) => {
                let arrival = (0..self.planned.len()).find(|&to| {
                    matches!(self.planned[to], Planned::Arrive { source, .. } if source == at)
                });
                if let Some(to) = arrival {
                    self.planned[to] = Planned::Later(WAITS_ABOVE);
                }
            }
            Planned::Ruled(_) | Planned::Ignore | Planned::Later(_) => {}
        }
        self.hold_silently(at);
    }

    fn hold_silently(&mut self, at: usize) {
        if self.matters.contains_key(&at) {
            self.hold(at, WAITS_ABOVE);
        } else {
            self.planned[at] = Planned::Later(WAITS_ABOVE);
        }
    }

    /// Whether something that is no directory would take the place of a directory: that one stays,
    /// with all that is in it. What a silent side has may be one. In a mirror what is in it goes.
    fn would_replace(&self, at: usize) -> bool {
        if self.terms.context.source().is_some() {
            return false;
        }
        let is_other = |role| {
            let content = &self.row(role, at).content;
            matches!(content, Content::File { .. } | Content::Symlink { .. })
        };
        let is_directory = |role| matches!(self.row(role, at).content, Content::Directory);
        is_other(Role::Initiator) && (self.is_silent(at) || is_directory(Role::Responder))
            || is_other(Role::Responder) && is_directory(Role::Initiator)
    }

    /// Whether a directory stands at a path on one side, and on the other something else or
    /// nothing. Of what the other side does not say, whether it has been told tells.
    fn is_one_sided(&self, at: usize) -> bool {
        let is_directory = |role| matches!(self.row(role, at).content, Content::Directory);
        let known = self.locals[at].row.as_ref().is_some_and(|stored| stored.shared);
        match (is_directory(Role::Initiator), is_directory(Role::Responder)) {
            (true, true) | (false, false) => false,
            (true, false) => !(self.is_silent(at) && known),
            (false, true) => true,
        }
    }

    /// Whether the other side has not said what it has, as its row is older, or there is none.
    pub(super) fn is_silent(&self, at: usize) -> bool {
        self.paths[at].responder.is_none() && self.paths[at].initiator.is_some()
    }
}
