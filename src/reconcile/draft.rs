//! The plan of a whole run: each path by the rule matrix, then what paths mean to each other -
//! moves, directories that must stay, names for clash files.

use std::collections::{HashMap, HashSet};

use psync_protocol::message::Flow;
use psync_protocol::session::{Access, Paths};
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, Decision, PropsDecision, RelPath, Role, Row,
};

use super::clash::clash_name;
use super::decide::{Context, Fate, Rows, Ruling, decide, type_conflict};
use crate::manifest::{LocalAccess, Stored};
use crate::report::{Conflict, ConflictKind};

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
}

/// The keys under which both ends state rows.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The initiator's.
    pub initiator: &'a CheckKey,
    /// The responder's.
    pub responder: &'a CheckKey,
}

/// Makes the plan. `locals` has one item for each path; `stamp` is the time for clash names;
/// `is_taken` tells whether a name exists on the planner's side.
pub fn draft(
    paths: &Paths,
    locals: &[Local],
    keys: Keys<'_>,
    context: &Context,
    stamp: &str,
    is_taken: &mut dyn FnMut(&RelPath) -> bool,
) -> Draft {
    let mut drafter = Drafter::new(paths, locals, keys, context);
    drafter.rule();
    drafter.follow_moves();
    drafter.keep_needed_directories();
    drafter.finish(stamp, is_taken)
}

/// What is planned for a path so far.
#[derive(Debug, Clone, Copy)]
enum Planned {
    Ruled(Ruling),
    MovedAway(Role),
    Arrive { from: Role, source: usize },
    Ignore,
    Later,
}

struct Drafter<'a> {
    paths: &'a Paths,
    locals: &'a [Local],
    keys: Keys<'a>,
    context: &'a Context,
    /// Both rows of each path in the responder's fingerprints.
    ours: Vec<Row<Check>>,
    theirs: Vec<Row<Check>>,
    planned: Vec<Planned>,
    moved_both: Vec<usize>,
}

impl<'a> Drafter<'a> {
    fn new(
        paths: &'a Paths,
        locals: &'a [Local],
        keys: Keys<'a>,
        context: &'a Context,
    ) -> Drafter<'a> {
        let ours = paths
            .iter()
            .zip(locals)
            .map(|(stand, local)| match &local.row {
                Some(stored) => stored.row.stated(keys.responder),
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
            keys,
            context,
            ours,
            theirs,
            planned: Vec::new(),
            moved_both: Vec::new(),
        }
    }

    fn rule(&mut self) {
        self.planned = (0..self.paths.len()).map(|at| self.rule_one(at)).collect();
    }

    fn rule_one(&self, at: usize) -> Planned {
        let stand = &self.paths[at];
        match (self.locals[at].access, stand.access) {
            (LocalAccess::Blind, _) | (_, Access::Unusable) => return Planned::Later,
            (LocalAccess::Ignored, _) | (_, Access::Ignored) => return Planned::Ignore,
            (LocalAccess::Open, Access::Open) => {}
        }
        if stand.responder.is_none() && stand.initiator.is_some() {
            return self.rule_behind(at);
        }
        let rows = Rows { initiator: &self.ours[at], responder: &self.theirs[at] };
        Planned::Ruled(decide(rows, self.context))
    }

    /// The responder has an older row, or none: it does not say, as only ours matters.
    fn rule_behind(&self, at: usize) -> Planned {
        match (self.context.flow, self.ours[at].content.is_live()) {
            // It would have said what it has.
            (Flow::ToInitiator, _) => Planned::Later,
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

    /// A file that one side moved and the other edited arrives, edited, at its new place.
    fn follow_moves(&mut self) {
        for at in 0..self.paths.len() {
            for mover in [Role::Initiator, Role::Responder] {
                let Some(to) = self.moved_to(mover, at) else { continue };
                let editor = mover.other();
                if let Some(elsewhere) = self.moved_to(editor, at) {
                    if elsewhere != to && mover == Role::Initiator && self.both_stay(to, elsewhere)
                    {
                        self.moved_both.push(at);
                    }
                    continue;
                }
                if self.edit_follows(at, to, mover) {
                    self.planned[at] = Planned::MovedAway(mover);
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
        self.context.flow == Flow::TwoWay && self.lives(ours) && self.lives(theirs)
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
        edited && survives && arrives && free && !self.context.first_contact
    }

    /// A directory that something lives in has to live; what stands in its place makes room.
    fn keep_needed_directories(&mut self) {
        let mut needed: HashSet<RelPath> = HashSet::new();
        for at in (0..self.paths.len()).rev() {
            let path = self.paths[at].path().clone();
            if needed.contains(&path) {
                self.keep_directory(at);
            }
            if self.lives(at) {
                for dir in path.ancestors() {
                    if !needed.insert(dir) {
                        break;
                    }
                }
            }
        }
    }

    fn keep_directory(&mut self, at: usize) {
        let is_directory = |role| matches!(self.row(role, at).content, Content::Directory);
        let holder = match (is_directory(Role::Initiator), is_directory(Role::Responder)) {
            (true, true) | (false, false) => return,
            (true, false) => Role::Initiator,
            (false, true) => Role::Responder,
        };
        let Planned::Ruled(ruling) = self.planned[at] else { return };
        match ruling.fate {
            Fate::Take(role) if role == holder => {}
            Fate::KeepBoth(role) if role == holder => {}
            // What the source of a mirror has not is never made there.
            _ if self.context.source() == Some(holder.other()) => self.planned[at] = Planned::Later,
            _ if self.row(holder.other(), at).content.is_live() => {
                self.planned[at] = Planned::Ruled(type_conflict(holder, self.context));
            }
            _ => {
                let why = "deleted on one side, but something in it is new or changed on the other";
                self.planned[at] = Planned::Ruled(Ruling::take(holder, why).resolved());
            }
        }
    }

    /// Whether something will stand at a path, or may.
    fn lives(&self, at: usize) -> bool {
        match self.planned[at] {
            Planned::Ruled(Ruling { fate: Fate::Take(role) | Fate::KeepBoth(role), .. }) => {
                self.row(role, at).content.is_live()
            }
            Planned::Ruled(Ruling { fate: Fate::Agree, .. }) => self.ours[at].content.is_live(),
            Planned::MovedAway(_) => false,
            Planned::Arrive { .. } | Planned::Later => true,
            Planned::Ignore => false,
        }
    }

    fn finish(self, stamp: &str, is_taken: &mut dyn FnMut(&RelPath) -> bool) -> Draft {
        let mut chosen: HashSet<RelPath> = HashSet::new();
        let mut decisions = Vec::with_capacity(self.planned.len());
        let mut whys = Vec::with_capacity(self.planned.len());
        let mut conflicts = HashMap::new();
        for at in 0..self.planned.len() {
            let path = self.paths[at].path();
            let mut name = || {
                let mut taken = |name: &RelPath| {
                    chosen.contains(name) || self.index_of(name).is_some() || is_taken(name)
                };
                let name = clash_name(path, stamp, &mut taken);
                chosen.extend(name.clone());
                name
            };
            let (decision, why, conflict) = self.decision(at, &mut name);
            if let Some(conflict) = conflict {
                conflicts.insert(at, conflict);
            }
            decisions.push(decision);
            whys.push(why);
        }
        for &at in &self.moved_both {
            let outcome = "both new names are kept".to_string();
            let conflict = Conflict {
                path: self.paths[at].path().clone(),
                kind: ConflictKind::MovedBoth,
                outcome,
            };
            conflicts.entry(at).or_insert(conflict);
        }
        let mut conflicts: Vec<(usize, Conflict)> = conflicts.into_iter().collect();
        conflicts.sort_by_key(|(at, _)| *at);
        let extra = self.extra(&decisions);
        Draft {
            decisions,
            whys,
            conflicts: conflicts.into_iter().map(|(_, conflict)| conflict).collect(),
            extra,
        }
    }

    fn decision(
        &self,
        at: usize,
        name: &mut dyn FnMut() -> Option<RelPath>,
    ) -> (Decision, &'static str, Option<Conflict>) {
        let plain = |content| Decision { content, ..Decision::agree() };
        let ruling = match self.planned[at] {
            Planned::Ignore => {
                return (plain(ContentDecision::Ignore), "left alone by a filter", None);
            }
            Planned::Later => return (plain(ContentDecision::Later), "cannot be read now", None),
            Planned::MovedAway(mover) => {
                let decision = plain(ContentDecision::MovedAway(mover)).resolved();
                return (decision, "moved on one side, changed on the other", None);
            }
            Planned::Arrive { from, source } => {
                let props = PropsDecision::Merge(self.row(from, source).props);
                let content = ContentDecision::Arrive { from, source };
                let decision = Decision { props, ..plain(content) }.resolved();
                return (decision, "moved on one side, changed on the other", None);
            }
            Planned::Ruled(ruling) => ruling,
        };
        let content = match ruling.fate {
            Fate::Agree => ContentDecision::Agree,
            Fate::Take(role) => ContentDecision::Take(role),
            Fate::KeepBoth(winner) => match name() {
                Some(clash) => ContentDecision::KeepBoth { winner, clash },
                None => {
                    return (
                        plain(ContentDecision::Later),
                        "no name is free for a clash file",
                        None,
                    );
                }
            },
        };
        let conflict = ruling.conflict.map(|kind| Conflict {
            path: self.paths[at].path().clone(),
            kind,
            outcome: match &content {
                ContentDecision::KeepBoth { clash, .. } => {
                    format!("both kept, the other one as {clash}")
                }
                _ => "the newer is taken".to_string(),
            },
        });
        let decision = Decision {
            content,
            props: ruling.props,
            content_resolved: ruling.content_resolved,
            props_resolved: ruling.props_resolved,
        };
        (decision, ruling.why, conflict)
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
                Some(stored) => stored.row.stated(self.keys.initiator),
                None => Row::absent(stand.path().clone()),
            });
        }
        extra
    }
}
