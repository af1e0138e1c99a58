//! The plan of a whole run: each path by the rule matrix, then what paths mean to each other -
//! moves, policies, what may not go that way, directories that must stay, names for clash files.

mod collisions;
mod directories;
mod limits;
mod moves;
mod settle;
mod units;

use std::collections::{BTreeMap, HashSet};

use psync_protocol::message::Flow;
use psync_protocol::session::{Access, Paths};
use psync_protocol::{
    Check, CheckKey, ContentDecision, Decision, PropsDecision, RelPath, Role, Row,
};

use super::clash::clash_name;
use super::counsel::Counsel;
use super::decide::{Context, Fate, Rows, Ruling, decide};
use super::matter::{Matter, conflict};
use super::names::Folding;
use crate::manifest::{LocalAccess, Stored};
use crate::report::{Conflict, State, Ways};

/// What the planner knows of its own side at a path of the plan.
#[derive(Debug, Clone)]
pub struct Local {
    /// Its row, whether it was stated or not; none where it has never had any.
    pub row: Option<Stored>,
    /// Whether it can take part.
    pub access: LocalAccess,
}

/// A plan, with what a person is told about it.
#[derive(Debug)]
pub struct Draft {
    /// A decision for each path.
    pub decisions: Vec<Decision>,
    /// Why, for each path.
    pub whys: Vec<&'static str>,
    /// The conflicts.
    pub conflicts: Vec<Conflict>,
    /// Rows at paths of the plan that the initiator has to state besides, for the decisions to
    /// be understood.
    pub extra: Vec<Row<Check>>,
    /// Changes that a rule leaves alone: the number of the path, and why.
    pub left: Vec<(usize, &'static str)>,
}

/// The keys under which both ends state rows.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The initiator's.
    pub initiator: &'a CheckKey,
    /// The responder's.
    pub responder: &'a CheckKey,
}

const NO_NAME: &str = "left as it is: no name is free for a clash file";

/// What a plan depends on besides the rows.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The keys of the session.
    pub keys: Keys<'a>,
    /// What holds for every path.
    pub context: &'a Context,
    /// What a person has laid down.
    pub counsel: &'a Counsel,
    /// The time for clash names.
    pub stamp: &'a str,
    /// What the file system of each side does not tell apart, the initiator's first.
    pub folding: [Folding; 2],
    /// All that stands on the planner's side; only needed where a file system folds names.
    pub known: &'a [RelPath],
}

/// Makes the plan. `locals` has one item for each path; `is_taken` tells whether a name exists on
/// the planner's side.
pub fn draft(
    paths: &Paths,
    locals: &[Local],
    terms: Terms<'_>,
    is_taken: &mut dyn FnMut(&RelPath) -> bool,
) -> Draft {
    let mut drafter = Drafter::new(paths, locals, terms);
    drafter.rule();
    drafter.follow_moves();
    drafter.settle_conflicts();
    drafter.settle_moves();
    drafter.settle_units();
    drafter.keep_to_limits();
    drafter.hold_collisions();
    drafter.stay_with_targets();
    drafter.wait_as_units();
    loop {
        drafter.keep_needed_directories();
        drafter.wait_below();
        if !drafter.wait_as_units() {
            break;
        }
    }
    drafter.finish(is_taken)
}

/// What is planned for a path so far.
#[derive(Debug, Clone, Copy)]
enum Planned {
    Ruled(Ruling),
    /// This side has it no more; it goes from the other, too, for this reason.
    MovedAway(Role, &'static str),
    Arrive {
        from: Role,
        source: usize,
    },
    Ignore,
    /// It stays as it is on both sides, until another time.
    Later(&'static str),
}

struct Drafter<'a> {
    paths: &'a Paths,
    locals: &'a [Local],
    terms: Terms<'a>,
    /// Both rows of each path in the responder's fingerprints.
    ours: Vec<Row<Check>>,
    theirs: Vec<Row<Check>>,
    planned: Vec<Planned>,
    /// Where each side has moved what stood at a path, if to different places.
    moved_both: Vec<MovedBoth>,
    /// What was said about conflicts, by the number of the path.
    matters: BTreeMap<usize, Matter>,
    /// What may be chosen where it is not for its path alone to say.
    ways: BTreeMap<usize, Ways>,
    left: Vec<(usize, &'static str)>,
}

/// What each side has moved to a place of its own, by numbers of paths.
#[derive(Debug, Clone, Copy)]
struct MovedBoth {
    from: usize,
    ours: usize,
    theirs: usize,
}

impl<'a> Drafter<'a> {
    fn new(paths: &'a Paths, locals: &'a [Local], terms: Terms<'a>) -> Drafter<'a> {
        let ours = paths
            .iter()
            .zip(locals)
            .map(|(stand, local)| match &local.row {
                Some(stored) => stored.row.stated(terms.keys.responder),
                None => Row::absent(stand.path().clone()),
            })
            .collect();
        // A mark tells that the responder has the same state: then its fingerprints are ours. Two
        // tombstones are the same state, though the content may have gone to different places.
        let theirs = paths
            .iter()
            .zip(&ours)
            .map(|(stand, ours): (_, &Row<Check>)| match (&stand.responder, &stand.initiator) {
                (Some(row), Some(stated)) if row.same_state(stated) && row.content.is_live() => {
                    Row { content: ours.content.clone(), base: ours.base, ..row.clone() }
                }
                (Some(row), _) => row.clone(),
                (None, _) => Row::absent(stand.path().clone()),
            })
            .collect();
        Drafter {
            paths,
            locals,
            terms,
            ours,
            theirs,
            planned: Vec::new(),
            moved_both: Vec::new(),
            matters: BTreeMap::new(),
            ways: BTreeMap::new(),
            left: Vec::new(),
        }
    }

    fn rule(&mut self) {
        self.planned = (0..self.paths.len()).map(|at| self.rule_one(at)).collect();
    }

    fn rule_one(&self, at: usize) -> Planned {
        let stand = &self.paths[at];
        match (self.locals[at].access, stand.access) {
            (LocalAccess::Blind, _) | (_, Access::Unusable) => {
                return Planned::Later("cannot be read now");
            }
            (LocalAccess::Ignored, _) | (_, Access::Ignored) => return Planned::Ignore,
            (LocalAccess::Open, Access::Open) => {}
        }
        if stand.responder.is_none() && stand.initiator.is_some() {
            return self.rule_behind(at);
        }
        Planned::Ruled(decide(self.rows(at), self.terms.context))
    }

    fn rows(&self, at: usize) -> Rows<'_> {
        Rows { initiator: &self.ours[at], responder: &self.theirs[at] }
    }

    /// The responder has an older row, or none: it does not say, as only ours matters.
    fn rule_behind(&self, at: usize) -> Planned {
        match (self.terms.context.flow, self.ours[at].content.is_live()) {
            // It would have said what it has.
            (Flow::ToInitiator, _) => Planned::Later("the other side did not say what it has"),
            (Flow::TwoWay | Flow::ToResponder, true) => {
                Planned::Ruled(Ruling::take(Role::Initiator, "new or changed on one side only"))
            }
            (Flow::TwoWay | Flow::ToResponder, false) => Planned::Ruled(Ruling::take(
                Role::Initiator,
                "deleted on one side, unchanged on the other",
            )),
        }
    }

    fn index_of(&self, path: &RelPath) -> Option<usize> {
        let mut low = 0;
        let mut high = self.paths.len();
        while low < high {
            let middle = (low + high) / 2;
            match self.paths[middle].path().cmp(path) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn row(&self, role: Role, at: usize) -> &Row<Check> {
        match role {
            Role::Initiator => &self.ours[at],
            Role::Responder => &self.theirs[at],
        }
    }

    /// Whether something will stand at a path, or may.
    fn lives(&self, at: usize) -> bool {
        match self.planned[at] {
            Planned::Ruled(Ruling { fate: Fate::Take(role) | Fate::KeepBoth(role), .. }) => {
                self.row(role, at).content.is_live()
            }
            Planned::Ruled(Ruling { fate: Fate::Agree, .. }) => self.ours[at].content.is_live(),
            Planned::MovedAway(..) => false,
            Planned::Arrive { .. } | Planned::Later(_) => true,
            Planned::Ignore => false,
        }
    }

    fn finish(mut self, is_taken: &mut dyn FnMut(&RelPath) -> bool) -> Draft {
        let mut chosen: HashSet<RelPath> = HashSet::new();
        let mut decisions = Vec::with_capacity(self.planned.len());
        let mut whys = Vec::with_capacity(self.planned.len());
        for at in 0..self.planned.len() {
            let path = self.paths[at].path();
            let mut name = || {
                let mut taken = |name: &RelPath| {
                    chosen.contains(name) || self.index_of(name).is_some() || is_taken(name)
                };
                let name = clash_name(path, self.terms.stamp, &mut taken);
                chosen.extend(name.clone());
                name
            };
            let (decision, why) = self.decision(at, &mut name);
            self.name_clash(at, &decision.content);
            decisions.push(decision);
            whys.push(why);
        }
        let matters = std::mem::take(&mut self.matters);
        let conflicts = matters.into_iter().map(|(at, matter)| self.told(at, matter)).collect();
        let extra = self.extra(&decisions);
        Draft { decisions, whys, conflicts, extra, left: self.left }
    }

    fn decision(
        &self,
        at: usize,
        name: &mut dyn FnMut() -> Option<RelPath>,
    ) -> (Decision, &'static str) {
        let plain = |content| Decision { content, ..Decision::agree() };
        let ruling = match self.planned[at] {
            Planned::Ignore => return (plain(ContentDecision::Ignore), "left alone by a filter"),
            Planned::Later(why) => return (plain(ContentDecision::Later), why),
            Planned::MovedAway(mover, why) => {
                let decision = plain(ContentDecision::MovedAway(mover)).resolved();
                return (decision, why);
            }
            Planned::Arrive { from, source } => {
                let props = PropsDecision::Merge(self.row(from, source).props);
                let content = ContentDecision::Arrive { from, source };
                let decision = Decision { props, ..plain(content) }.resolved();
                return (decision, moves::FOLLOWED);
            }
            Planned::Ruled(ruling) => ruling,
        };
        let content = match ruling.fate {
            Fate::Agree => ContentDecision::Agree,
            Fate::Take(role) => ContentDecision::Take(role),
            Fate::KeepBoth(winner) => match name() {
                Some(clash) => ContentDecision::KeepBoth { winner, clash },
                None => return (plain(ContentDecision::Later), NO_NAME),
            },
        };
        let decision = Decision {
            content,
            props: ruling.props,
            content_resolved: ruling.content_resolved,
            props_resolved: ruling.props_resolved,
        };
        (decision, ruling.why)
    }

    /// Completes what is told of a conflict by the name that the clash file has got.
    fn name_clash(&mut self, at: usize, content: &ContentDecision) {
        let Some(matter) = self.matters.get_mut(&at) else { return };
        match (content, &self.planned[at]) {
            (ContentDecision::KeepBoth { clash, .. }, _) => {
                matter.outcome = format!("both kept, the other one as {clash}");
                matter.state = State::Settled { clash: Some(clash.clone()) };
            }
            (ContentDecision::Later, Planned::Ruled(_)) => {
                matter.outcome = NO_NAME.to_string();
                matter.state = State::Held { to_merge: false };
            }
            _ => {}
        }
    }

    fn told(&self, at: usize, mut matter: Matter) -> Conflict {
        let mut ways = self.ways.get(&at).copied().unwrap_or(Ways::ALL);
        if matches!(matter.state, State::Held { .. }) && !self.ways.contains_key(&at) {
            let why;
            (ways, why) = self.open_ways(at, matter.kind);
            let why = why.filter(|why| !matter.outcome.ends_with(why));
            matter.outcome.extend(why.map(|why| format!("; {why}")));
        }
        let (stored, key) = (self.locals[at].row.as_ref(), self.terms.keys.responder);
        conflict(matter, ways, self.rows(at), stored, key)
    }

    /// The responder knows its own rows and what was stated. Where the decision rests on a row
    /// of ours that was not, it has to be stated now.
    fn extra(&self, decisions: &[Decision]) -> Vec<Row<Check>> {
        let mut extra = Vec::new();
        for (at, decision) in decisions.iter().enumerate() {
            let stand = &self.paths[at];
            if stand.initiator.is_some() || decision.is_postponed() {
                continue;
            }
            // What comes of it is what the responder has: its row says all there is to say.
            let follows = decision.props == PropsDecision::Take(Role::Responder)
                && matches!(
                    decision.content,
                    ContentDecision::Agree | ContentDecision::Take(Role::Responder)
                )
                && !decision.content_resolved
                && !decision.props_resolved;
            if follows && self.theirs[at].includes(&self.ours[at]) {
                continue;
            }
            extra.push(match &self.locals[at].row {
                Some(stored) => stored.row.stated(self.terms.keys.initiator),
                None => Row::absent(stand.path().clone()),
            });
        }
        extra
    }
}
