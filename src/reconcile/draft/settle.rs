//! Conflicts, as the policies have it.

use psync_protocol::{Content, Role};

use super::super::decide::{Ruling, is_delete_modify};
use super::super::matter::Matter;
use super::super::policy::{self, Settled, Way};
use super::{Drafter, MovedBoth, Planned};
use crate::report::{ConflictKind, State};

const CHOSEN: &str = "moved on both sides; another place was chosen";
const WAITS: &str = "a conflict that waits";
/// What spoke where no policy could be followed.
const BEYOND_POLICIES: &str = "hold, whatever the policies say";

impl Drafter<'_> {
    /// Asks the policies about each conflict that single paths have.
    pub(super) fn settle_conflicts(&mut self) {
        for at in 0..self.paths.len() {
            if let Planned::Ruled(ruling) = self.planned[at] {
                self.planned[at] = self.settle(at, ruling);
            }
        }
    }

    /// What becomes of a ruling under the policy for its conflict, if it is one.
    pub(super) fn settle(&mut self, at: usize, ruling: Ruling) -> Planned {
        let context = self.terms.context;
        let kind = match ruling.conflict {
            Some(kind) => kind,
            None if is_delete_modify(self.rows(at), context) => ConflictKind::DeleteModify,
            None => return Planned::Ruled(ruling),
        };
        let spoken = self.spoken(at, kind);
        let names = self.terms.counsel.names();
        let settled = policy::settle(ruling, kind, self.rows(at), context, &spoken.policy, names);
        let (planned, state, outcome) = match settled {
            // That a change survives a deletion is the rule matrix, and nothing to be told.
            Settled::Ruled { ruling, chosen: false } if kind == ConflictKind::DeleteModify => {
                return Planned::Ruled(ruling);
            }
            Settled::Ruled { ruling, chosen } => {
                let taken = match (chosen, kind) {
                    (false, _) => "the newer is taken".to_string(),
                    (true, kind) => policy::outcome(&spoken.policy, kind),
                };
                (Planned::Ruled(ruling), State::Settled { clash: None }, taken)
            }
            Settled::Held { to_merge } => {
                (Planned::Later(WAITS), State::Held { to_merge }, held(to_merge))
            }
        };
        let rule = spoken.rule;
        let chosen = spoken.asked && matches!(settled, Settled::Ruled { chosen: true, .. });
        self.matters.insert(at, Matter { kind, rule, state, outcome, chosen });
        planned
    }

    pub(super) fn spoken(&self, at: usize, kind: ConflictKind) -> super::super::counsel::Spoken {
        let rows = self.rows(at);
        let seen = (&rows.initiator.content_version, &rows.responder.content_version);
        let path = self.paths[at].path();
        self.terms.counsel.policy(path, self.is_directory(at), kind, seen)
    }

    /// Whether a directory stands at a path, on either side.
    pub(super) fn is_directory(&self, at: usize) -> bool {
        [Role::Initiator, Role::Responder]
            .into_iter()
            .any(|role| matches!(self.row(role, at).content, Content::Directory))
    }

    /// Asks the policies about what both sides have moved to different places.
    pub(super) fn settle_moves(&mut self) {
        for moved in std::mem::take(&mut self.moved_both) {
            let spoken = self.spoken(moved.from, ConflictKind::MovedBoth);
            let [ours, theirs] = [moved.ours, moved.theirs].map(|at| self.paths[at].path());
            let moves = format!("moved to {ours} here and to {theirs} on the other side");
            let matter = |state, outcome: String, chosen| Matter {
                kind: ConflictKind::MovedBoth,
                rule: spoken.rule.clone(),
                state,
                outcome: format!("{moves}; {outcome}"),
                chosen,
            };
            let settled = State::Settled { clash: None };
            let target = |loser| if loser == Role::Initiator { moved.ours } else { moved.theirs };
            let way = match self.way_of(moved, &spoken.policy) {
                // Where it was moved over something else, that would go, too.
                Way::Side(role) if self.row(role, target(role.other())).content.is_live() => {
                    Way::Both
                }
                way => way,
            };
            let matter = match way {
                Way::Both => matter(settled, "both new names are kept".to_string(), false),
                Way::Side(role) => {
                    self.planned[target(role.other())] = Planned::MovedAway(role, CHOSEN);
                    let kind = ConflictKind::MovedBoth;
                    matter(settled, policy::outcome(&spoken.policy, kind), spoken.asked)
                }
                Way::Wait { to_merge } => {
                    for at in [moved.from, moved.ours, moved.theirs] {
                        self.planned[at] = Planned::Later(WAITS);
                    }
                    matter(State::Held { to_merge }, held(to_merge), false)
                }
            };
            self.matters.insert(moved.from, matter);
        }
    }

    /// The way out of a double move: times and sizes are those of what was moved.
    fn way_of(&self, moved: MovedBoth, policy: &super::super::Policy) -> Way {
        let rows = super::Rows {
            initiator: &self.ours[moved.ours],
            responder: &self.theirs[moved.theirs],
        };
        let (context, names) = (self.terms.context, self.terms.counsel.names());
        policy::way(ConflictKind::MovedBoth, rows, context, policy, names)
    }

    /// Holds a conflict that may not be settled in the only way that there is.
    pub(super) fn hold(&mut self, at: usize, why: &'static str) {
        if let Some(matter) = self.matters.get_mut(&at) {
            matter.state = State::Held { to_merge: false };
            matter.outcome = format!("left as it is on both sides: {why}");
            matter.rule = BEYOND_POLICIES.to_string();
            matter.chosen = false;
        } else {
            self.left.push((at, why));
        }
        self.planned[at] = Planned::Later(why);
    }
}

fn held(to_merge: bool) -> String {
    match to_merge {
        true => "held until both texts are merged".to_string(),
        false => "held until somebody decides (psync resolve)".to_string(),
    }
}
