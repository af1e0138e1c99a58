//! A plan in the words of a report: what is done, where, and why.

use std::collections::{HashMap, HashSet};

use psync_protocol::entry::Fingerprint;
use psync_protocol::session::Paths;
use psync_protocol::{
    Check, Content, ContentDecision, ContentHash, Decision, Props, PropsDecision, RelPath,
    Relation, Role, Row,
};

use super::draft::Local;
use crate::report::{Action, Deed, Kind};

/// The actions of a plan, in the order of the paths. What only joins versions is none.
pub fn actions(
    paths: &Paths,
    locals: &[Local],
    decisions: &[Decision],
    whys: &[&'static str],
    first_contact: bool,
) -> Vec<Action> {
    let teller = Teller { paths, locals, decisions, first_contact };
    let moves = teller.moves();
    (0..paths.len()).filter_map(|at| teller.action(at, whys[at], &moves)).collect()
}

struct Teller<'a> {
    paths: &'a Paths,
    locals: &'a [Local],
    decisions: &'a [Decision],
    first_contact: bool,
}

/// The moves of each side: from where to where, and back.
#[derive(Default)]
struct Moves {
    target_of: HashMap<(Role, RelPath), RelPath>,
    /// With whether the content was edited as well.
    source_of: HashMap<(Role, RelPath), (RelPath, bool)>,
    /// The paths from which an edit arrives at another.
    arriving: HashSet<usize>,
}

/// What stands, or shall stand, at a path.
#[derive(Clone, Copy)]
struct Thing {
    kind: Kind,
    size: u64,
    props: Props,
}

fn thing<H>(row: &Row<H>) -> Option<Thing> {
    let (kind, size) = match row.content {
        Content::Deleted { .. } => return None,
        Content::Directory => (Kind::Directory, 0),
        Content::File { size, .. } => (Kind::File, size),
        Content::Symlink { .. } => (Kind::Symlink, 0),
    };
    Some(Thing { kind, size, props: row.props })
}

impl Teller<'_> {
    fn local(&self, at: usize) -> Option<Thing> {
        self.locals[at].row.as_ref().and_then(|stored| thing(&stored.row))
    }

    fn remote(&self, at: usize) -> Option<Thing> {
        self.paths[at].responder.as_ref().and_then(thing::<Check>)
    }

    fn of(&self, role: Role, at: usize) -> Option<Thing> {
        match role {
            Role::Initiator => self.local(at),
            Role::Responder => self.remote(at),
        }
    }

    /// What stood at a path on a side; of the responder's it is a guess where it had nothing to
    /// say: a change that builds on something changes something. At a first contact it states all
    /// that it has.
    fn before(&self, role: Role, at: usize) -> Option<Thing> {
        let known = self.of(role, at);
        let stated = role == Role::Initiator || self.paths[at].responder.is_some();
        if stated {
            return known;
        }
        let after = self.local(at);
        if self.first_contact {
            return None;
        }
        if self.only_props_changed(at) {
            return after;
        }
        let base = self.locals[at].row.as_ref()?.row.base?;
        let kind = match after {
            _ if base == ContentHash::DIRECTORY => Kind::Directory,
            Some(Thing { kind: kind @ (Kind::File | Kind::Symlink), .. }) => kind,
            Some(Thing { kind: Kind::Directory, .. }) | None => Kind::File,
        };
        Some(Thing { kind, size: 0, props: Props::default() })
    }

    /// Whether the responder has the content already, as far as this side's own row tells.
    fn only_props_changed(&self, at: usize) -> bool {
        self.locals[at].row.as_ref().is_some_and(|stored| {
            let row = &stored.row;
            stored.shared
                && row.content.is_live()
                && row.props_version.compare(&row.content_version) == Relation::Newer
        })
    }

    fn moves(&self) -> Moves {
        let mut moves = Moves::default();
        for at in 0..self.paths.len() {
            let from = match self.decisions[at].content {
                ContentDecision::Take(from) => from,
                ContentDecision::Arrive { source, .. } => {
                    moves.arriving.insert(source);
                    continue;
                }
                _ => continue,
            };
            let moved_to = match from {
                Role::Initiator => {
                    self.locals[at].row.as_ref().and_then(|stored| moved_to(&stored.row))
                }
                Role::Responder => self.paths[at].responder.as_ref().and_then(moved_to),
            };
            if let Some(target) = moved_to {
                let source = self.paths[at].path().clone();
                moves.target_of.insert((from, source.clone()), target.clone());
                let edited = self.is_edited(from, at, &target);
                moves.source_of.insert((from, target), (source, edited));
            }
        }
        moves
    }

    /// Whether what moved from a path has another content now. Only this side's moves tell of that:
    /// on the line a move is of the same content.
    fn is_edited(&self, from: Role, at: usize, target: &RelPath) -> bool {
        let Some(buried) = &self.locals[at].row else { return false };
        let stands = self.paths.find(target).and_then(|to| self.locals[to].row.as_ref());
        from == Role::Initiator
            && stands.is_some_and(|stands| stands.row.content.fingerprint() != buried.row.base)
    }

    fn action(&self, at: usize, why: &'static str, moves: &Moves) -> Option<Action> {
        let path = self.paths[at].path().clone();
        let action = |on, thing: Thing, deed, size| {
            Some(Action { on, kind: thing.kind, deed, path: path.clone(), size, why })
        };
        match &self.decisions[at].content {
            ContentDecision::Ignore | ContentDecision::Later => None,
            // Its new name is told as a move, unless another name was chosen.
            ContentDecision::MovedAway(_) if moves.arriving.contains(&at) => None,
            ContentDecision::MovedAway(mover) => {
                let on = mover.other();
                action(on, self.before(on, at)?, Deed::Delete, 0)
            }
            ContentDecision::Agree => self.properties(at, why),
            ContentDecision::Take(from) => {
                let on = from.other();
                let before = self.before(on, at);
                let Some(after) = self.of(*from, at) else {
                    let moved = moves.target_of.contains_key(&(*from, path.clone()));
                    let unknown = Thing { kind: Kind::File, size: 0, props: Props::default() };
                    let stated = self.paths[at].responder.is_some() || self.first_contact;
                    let silent = moved || stated && before.is_none();
                    return if silent {
                        None
                    } else {
                        action(on, before.unwrap_or(unknown), Deed::Delete, 0)
                    };
                };
                if let Some((source, edited)) = moves.source_of.get(&(*from, path.clone())) {
                    let size = if *edited { after.size } else { 0 };
                    return action(on, after, Deed::Move { from: source.clone() }, size);
                }
                match before {
                    None => action(on, after, Deed::Create, after.size),
                    Some(before)
                        if after.kind == Kind::Directory && before.kind == Kind::Directory =>
                    {
                        self.properties(at, why)
                    }
                    Some(_) if self.of(on, at).is_none() && self.only_props_changed(at) => {
                        self.properties(at, why)
                    }
                    Some(_) => action(on, after, Deed::Update, after.size),
                }
            }
            ContentDecision::KeepBoth { winner, clash } => {
                let after = self.of(*winner, at)?;
                action(winner.other(), after, Deed::KeepBoth { clash: clash.clone() }, after.size)
            }
            ContentDecision::Arrive { from, source } => {
                let after = self.of(*from, *source)?;
                let deed = Deed::Move { from: self.paths[*source].path().clone() };
                action(*from, after, deed, after.size)
            }
        }
    }

    fn properties(&self, at: usize, why: &'static str) -> Option<Action> {
        let (on, props) = match self.decisions[at].props {
            PropsDecision::Agree => return None,
            PropsDecision::Take(from) => (from.other(), self.of(from, at)?.props),
            PropsDecision::Merge(props) => {
                let changes_local = self.local(at)?.props != props;
                (if changes_local { Role::Initiator } else { Role::Responder }, props)
            }
        };
        let kind = self.of(on, at).or(self.of(on.other(), at))?.kind;
        let (mode, time) = match self.of(on, at) {
            Some(before) => (before.props.mode != props.mode, before.props.mtime != props.mtime),
            // Where it did not say: this side knows which mode was agreed, but not which time.
            None => {
                let agreed = self.locals[at].row.as_ref().map(|stored| stored.row.agreed_mode);
                (agreed != Some(props.mode), agreed == Some(props.mode))
            }
        };
        let deed = Deed::Properties { mode, time: time && kind != Kind::Directory };
        Some(Action { on, kind, deed, path: self.paths[at].path().clone(), size: 0, why })
    }
}

fn moved_to<H>(row: &Row<H>) -> Option<RelPath> {
    match &row.content {
        Content::Deleted { moved_to } => moved_to.clone(),
        Content::Directory | Content::File { .. } | Content::Symlink { .. } => None,
    }
}
