//! What was moved: on one side and edited on the other, or on both to different places.

use psync_protocol::message::Flow;
use psync_protocol::{Content, Role};

use super::super::decide::{Fate, Ruling};
use super::{Drafter, MovedBoth, Planned};

/// Why an edit arrives at another place.
pub(super) const FOLLOWED: &str = "moved on one side, changed on the other";

impl Drafter<'_> {
    /// A file that one side moved and the other edited arrives, edited, at its new place.
    pub(super) fn follow_moves(&mut self) {
        for at in 0..self.paths.len() {
            for mover in [Role::Initiator, Role::Responder] {
                let Some(to) = self.moved_to(mover, at) else { continue };
                let editor = mover.other();
                if let Some(elsewhere) = self.moved_to(editor, at) {
                    if elsewhere != to && mover == Role::Initiator && self.both_stay(to, elsewhere)
                    {
                        self.moved_both.push(MovedBoth { from: at, ours: to, theirs: elsewhere });
                    }
                    continue;
                }
                if self.edit_follows(at, to, mover) {
                    self.planned[at] = Planned::MovedAway(mover, FOLLOWED);
                    self.planned[to] = Planned::Arrive { from: editor, source: at };
                }
            }
        }
    }

    /// Where a side has moved what stood at `at`, if it still stands there as it was. A tombstone
    /// remembers its move for long: by now another content may be there, or nothing.
    fn moved_to(&self, mover: Role, at: usize) -> Option<usize> {
        let buried = self.row(mover, at);
        let Content::Deleted { moved_to: Some(target) } = &buried.content else { return None };
        let to = self.index_of(target)?;
        let stands = self.row(mover, to).content.fingerprint();
        (stands.is_some() && stands == buried.base).then_some(to)
    }

    /// Whether what each side moved is going to stand on both.
    fn both_stay(&self, ours: usize, theirs: usize) -> bool {
        let arrives = |at: usize, from: Role| {
            matches!(
                self.planned[at],
                Planned::Ruled(Ruling { fate: Fate::Take(role), .. }) if role == from
            ) && self.lives(at)
        };
        let both_ways = [ours, theirs].into_iter().all(|at| self.goes_both_ways(at));
        self.terms.context.flow == Flow::TwoWay
            && both_ways
            && arrives(ours, Role::Initiator)
            && arrives(theirs, Role::Responder)
    }

    /// Whether the edit at `at` wins over the move, and nothing else happened at `to`.
    fn edit_follows(&self, at: usize, to: usize, mover: Role) -> bool {
        let editor = mover.other();
        let edited = matches!(self.row(editor, at).content, Content::File { .. });
        let survives = matches!(
            self.planned[at],
            Planned::Ruled(Ruling { fate: Fate::Take(role), content_resolved: true, .. }) if role == editor
        );
        let arrives = matches!(
            self.planned[to],
            Planned::Ruled(Ruling { fate: Fate::Take(role), .. }) if role == mover
        );
        let free = !self.row(editor, to).content.is_live();
        let both_ways = self.goes_both_ways(at) && self.goes_both_ways(to);
        edited && survives && arrives && free && both_ways && !self.terms.context.first_contact
    }

    /// Where a file that moves is not let in at its new place, the old one stays.
    pub(super) fn stay_with_targets(&mut self) {
        for at in 0..self.paths.len() {
            for mover in [Role::Initiator, Role::Responder] {
                let goes = matches!(
                    self.planned[at],
                    Planned::Ruled(Ruling { fate: Fate::Take(role), .. }) if role == mover
                );
                if let Some(to) = self.moved_to(mover, at).filter(|_| goes)
                    && let Planned::Later(why) = self.planned[to]
                {
                    self.planned[at] = Planned::Later(why);
                }
            }
        }
    }
}
