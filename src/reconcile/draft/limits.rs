//! Paths that may go one way only, or not at all, and files that are too large to go.

use psync_protocol::{Content, Role};

use super::super::decide::{Fate, Ruling};
use super::super::policy::changes;
use super::super::rulebook::Mode;
use super::{Drafter, Planned};
use crate::report::{ConflictKind, State, Ways};

const NO_MERGE: &str = "a merge is a change for both sides, and changes do not go both ways here";
const TOO_LARGE: &str = "it is larger than max-size allows";

impl Drafter<'_> {
    /// Leaves alone what rules leave alone.
    pub(super) fn keep_to_limits(&mut self) {
        if !self.terms.counsel.restricts() {
            return;
        }
        for at in 0..self.paths.len() {
            let why = match self.planned[at] {
                Planned::Ruled(ruling) => self.barred(at, &ruling),
                _ if self.is_to_be_merged(at) && !self.goes_both_ways(at) => Some(NO_MERGE),
                _ => None,
            };
            if let Some(why) = why {
                self.hold(at, why);
            }
        }
    }

    fn is_to_be_merged(&self, at: usize) -> bool {
        let state = self.matters.get(&at).map(|matter| &matter.state);
        matches!(state, Some(State::Held { to_merge: true }))
    }

    /// Why a ruling may not be carried out, if it may not.
    pub(super) fn barred(&self, at: usize, ruling: &Ruling) -> Option<&'static str> {
        let path = self.paths[at].path();
        let changes = |on| changes(on, ruling, self.rows(at));
        let (here, there) = (changes(Role::Initiator), changes(Role::Responder));
        // Of what it does not say it has something, if this side's change was built on it.
        let buried = self.is_silent(at) && self.ours[at].base.is_some();
        let there = there || buried && ruling.fate == Fate::Take(Role::Initiator);
        let barred = match self.terms.counsel.mode(path, self.is_directory(at)) {
            Mode::TwoWay => None,
            Mode::Push => here.then_some("changes only go from this side to the other (push)"),
            Mode::Pull => there.then_some("changes only come from the other side to this (pull)"),
            Mode::Off => (here || there).then_some("its mode is off"),
        };
        barred.or_else(|| self.is_too_large(at, ruling).then_some(TOO_LARGE))
    }

    fn is_too_large(&self, at: usize, ruling: &Ruling) -> bool {
        let size = |role| match self.row(role, at).content {
            Content::File { size, .. } => size,
            Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => 0,
        };
        let carried = match ruling.fate {
            Fate::Agree => 0,
            Fate::Take(from) => size(from),
            Fate::KeepBoth(_) => size(Role::Initiator).max(size(Role::Responder)),
        };
        carried > 0
            && self.terms.counsel.max_size(self.paths[at].path()).is_some_and(|most| carried > most)
    }

    /// What a person may choose for a conflict that waits, and what keeps the rest from being done.
    pub(super) fn open_ways(&self, at: usize, kind: ConflictKind) -> (Ways, Option<&'static str>) {
        // It is about three paths, of which this one stays as it is.
        if kind == ConflictKind::MovedBoth || !self.terms.counsel.restricts() {
            return (Ways::ALL, None);
        }
        let barred = |role| self.barred(at, &Ruling::take(role, ""));
        let (here, there) = (barred(Role::Initiator), barred(Role::Responder));
        let (local, remote) = (here.is_none(), there.is_none());
        let ways = Ways { local, remote, both: local && remote, merge: local };
        (ways, here.or(there))
    }

    /// Whether nothing keeps a path from going either way.
    pub(super) fn goes_both_ways(&self, at: usize) -> bool {
        let counsel = self.terms.counsel;
        if !counsel.restricts() {
            return true;
        }
        let larger = |role| {
            let ruling = Ruling::take(role, "");
            self.is_too_large(at, &ruling)
        };
        counsel.mode(self.paths[at].path(), self.is_directory(at)) == Mode::TwoWay
            && !larger(Role::Initiator)
            && !larger(Role::Responder)
    }
}
