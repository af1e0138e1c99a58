//! A plan that was made earlier and is carried out later: what it says of each path, in words that
//! are equal only where the same is decided about the same two rows; and how a fresh plan is cut
//! down to what the earlier one says.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use psync_protocol::session::{Paths, Stand};
use psync_protocol::{
    Content, ContentDecision, Decision, PropsDecision, RelPath, ReplicaId, Role, Row, Version,
};

use super::draft::{Draft, Local};
use super::units::{Shapes, Unit, Units};

/// What a plan says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPlan {
    /// What is decided, in words. Equal words are the same decision.
    pub decision: String,
    /// What the planner's end has there, in words that name kind, size and both versions. Equal
    /// words are the same row.
    pub local: String,
    /// The same of the other end.
    pub remote: String,
}

/// A plan of an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedPlan {
    /// Whose plan it is: the planner's replica, and the other.
    pub replicas: (ReplicaId, ReplicaId),
    /// The time in the names of its clash files.
    pub stamp: String,
    /// The paths at which it does something.
    pub paths: BTreeMap<RelPath, PathPlan>,
}

/// What came of cutting a fresh plan down to an earlier one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restricted {
    /// Paths of the earlier plan that are left alone, and why.
    pub stale: Vec<(RelPath, &'static str)>,
    /// How many paths have to be synced of which the earlier plan does not speak.
    pub unplanned: u64,
}

const CHANGED: &str = "changed since the plan was made; left alone";
const DEPENDS: &str = "depends on a path that has changed since the plan was made; left alone";

/// What a plan does at each of its paths; none where it changes nothing on either side.
pub fn describe(
    paths: &Paths,
    locals: &[Local],
    decisions: &[Decision],
    replicas: (ReplicaId, ReplicaId),
) -> Vec<Option<PathPlan>> {
    let words = |((stand, local), decision): ((&Stand, &Local), &Decision)| {
        (!changes_nothing(decision)).then(|| PathPlan {
            decision: decision_in_words(decision, paths),
            local: match &local.row {
                Some(stored) => row_in_words(&stored.row, replicas),
                None => "nothing".into(),
            },
            remote: match &stand.responder {
                Some(row) => row_in_words(row, replicas),
                None => "nothing, or an older version".into(),
            },
        })
    };
    paths.iter().zip(locals).zip(decisions).map(words).collect()
}

fn changes_nothing(decision: &Decision) -> bool {
    decision.is_postponed()
        || decision.content == ContentDecision::Agree && decision.props == PropsDecision::Agree
}

fn side(role: Role) -> &'static str {
    match role {
        Role::Initiator => "local",
        Role::Responder => "remote",
    }
}

fn decision_in_words(decision: &Decision, paths: &Paths) -> String {
    let content = match &decision.content {
        ContentDecision::Agree => "same content".to_string(),
        ContentDecision::Take(role) => format!("take {}", side(*role)),
        ContentDecision::KeepBoth { winner, clash } => {
            format!("keep both: {} keeps the name, the other becomes {clash}", side(*winner))
        }
        ContentDecision::MovedAway(mover) => format!("moved away on {}", side(*mover)),
        ContentDecision::Arrive { from, source } => match paths.get(*source) {
            Some(stand) => format!("what {} has at {} arrives here", side(*from), stand.path()),
            None => "nothing arrives here".to_string(),
        },
        ContentDecision::Ignore => "ignore".to_string(),
        ContentDecision::Later => "leave alone".to_string(),
    };
    let props = match (decision.props, &decision.content) {
        (PropsDecision::Take(props), ContentDecision::Take(content)) if props == *content => {
            String::new()
        }
        (PropsDecision::Agree, _) => String::new(),
        (PropsDecision::Take(role), _) => format!("; mode and time of {}", side(role)),
        (PropsDecision::Merge(props), _) => {
            format!("; mode {:o}, time {}.{:09}", props.mode, props.mtime.secs, props.mtime.nanos)
        }
    };
    let chosen = match (decision.content_resolved, decision.props_resolved) {
        (false, false) => "",
        (true, false) => "; a choice",
        (false, true) => "; a choice of mode and time",
        (true, true) => "; a choice in all",
    };
    format!("{content}{props}{chosen}")
}

fn row_in_words<H>(row: &Row<H>, replicas: (ReplicaId, ReplicaId)) -> String {
    let content = match &row.content {
        Content::Deleted { .. } if row.content_version.is_empty() => return "nothing".into(),
        Content::Deleted { .. } => "nothing, deleted".to_string(),
        Content::Directory => "directory".to_string(),
        Content::File { size, .. } => format!("file of {size} bytes"),
        Content::Symlink { .. } => "symbolic link".to_string(),
    };
    let (versions, props) = (&row.content_version, &row.props_version);
    let (versions, props) =
        (version_in_words(versions, replicas), version_in_words(props, replicas));
    format!("{content}; content {versions}; mode and time {props}")
}

/// A version as `local:5 remote:3`; other replicas by their ids.
pub fn version_in_words(version: &Version, (local, remote): (ReplicaId, ReplicaId)) -> String {
    let pair = |(replica, counter): &(ReplicaId, u64)| match *replica {
        replica if replica == local => format!("local:{counter}"),
        replica if replica == remote => format!("remote:{counter}"),
        replica => format!("{replica}:{counter}"),
    };
    let words: Vec<String> = version.pairs().iter().map(pair).collect();
    if words.is_empty() { "none".into() } else { words.join(" ") }
}

/// Cuts a fresh draft down to what an earlier plan says: a decision stays where the same was
/// decided of the same two rows, or where it changes nothing. Everything else is left for later.
pub fn restrict(
    plan: &AgreedPlan,
    paths: &Paths,
    locals: &[Local],
    units: &Units,
    draft: &mut Draft,
) -> Restricted {
    let fresh = describe(paths, locals, &draft.decisions, plan.replicas);
    let as_planned = |(at, fresh): (usize, &Option<PathPlan>)| match fresh {
        Some(fresh) => plan.paths.get(paths[at].path()) == Some(fresh),
        None => true,
    };
    let same: Vec<bool> = fresh.iter().enumerate().map(as_planned).collect();
    let mut kept = same.clone();
    let shapes = |at: usize| {
        let ours = locals[at].row.as_ref().map(|stored| after(&stored.row.content));
        let theirs = paths[at].responder.as_ref().map(|row| after(&row.content));
        let shapes = [ours, theirs].into_iter().flatten();
        shapes.fold(Shapes::default(), |shapes, side| match side {
            After::Directory => Shapes { directory: true, ..shapes },
            After::Nothing => shapes,
            After::Other => Shapes { file: true, ..shapes },
        })
    };
    let units = units.among(paths.iter().map(Stand::path), shapes);
    follow_dependencies(paths, locals, units, draft, &mut kept);
    let mut restricted = Restricted::default();
    for (at, stand) in paths.iter().enumerate() {
        let path = stand.path();
        let planned = plan.paths.contains_key(path);
        let why = if same[at] { DEPENDS } else { CHANGED };
        match (kept[at], planned) {
            // It cannot be told any more: unreadable, held, or left alone by a filter.
            (true, true) if draft.decisions[at].is_postponed() => {
                restricted.stale.push((path.clone(), CHANGED));
            }
            (true, _) => {}
            (false, true) => restricted.stale.push((path.clone(), why)),
            (false, false) => restricted.unplanned += 1,
        }
    }
    drop_others(paths, &kept, draft);
    restricted
}

/// Cuts a draft down to what it says of these paths.
pub fn restrict_to(only: &BTreeSet<RelPath>, paths: &Paths, locals: &[Local], draft: &mut Draft) {
    let stands = paths.iter().zip(&draft.decisions);
    let mut kept: Vec<bool> = stands
        .map(|(stand, decision)| changes_nothing(decision) || only.contains(stand.path()))
        .collect();
    // Of a unit one member alone is meant, too.
    follow_dependencies(paths, locals, Vec::new(), draft, &mut kept);
    drop_others(paths, &kept, draft);
}

fn follow_dependencies(
    paths: &Paths,
    locals: &[Local],
    units: Vec<Unit>,
    draft: &Draft,
    kept: &mut [bool],
) {
    Dependencies { paths, locals, units, decisions: &draft.decisions }.follow(kept);
}

/// What is not kept is left for later, and nothing more is said of it.
fn drop_others(paths: &Paths, kept: &[bool], draft: &mut Draft) {
    let stands = paths.iter().zip(kept);
    let dropped: HashSet<&RelPath> =
        stands.filter(|(_, kept)| !**kept).map(|(stand, _)| stand.path()).collect();
    draft.conflicts.retain(|conflict| !dropped.contains(&conflict.path));
    draft.extra.retain(|row| !dropped.contains(&row.path));
    for (at, _) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
        draft.decisions[at] = Decision { content: ContentDecision::Later, ..Decision::agree() };
        draft.whys[at] = "left for another run";
    }
}

/// What of a plan has no sense without the rest of it.
struct Dependencies<'a> {
    paths: &'a Paths,
    locals: &'a [Local],
    /// What is done as a whole or not at all.
    units: Vec<Unit>,
    decisions: &'a [Decision],
}

impl Dependencies<'_> {
    /// Drops what depends on something dropped, until nothing does.
    fn follow(&self, kept: &mut [bool]) {
        loop {
            let holders = self.directories_that_must_stay(kept);
            let fails = |at: &usize| {
                kept[*at]
                    && !self.decisions[*at].is_postponed()
                    && (self.lacks_a_directory(*at, kept)
                        || self.lacks_its_other_end(*at, kept)
                        || holders.contains(self.paths[*at].path())
                            && !self.is_directory_after(*at))
            };
            let in_parts =
                self.units.iter().filter(|unit| unit.members.iter().any(|&at| !kept[at]));
            let in_parts = in_parts.flat_map(|unit| unit.members.iter().copied());
            let in_parts = in_parts.filter(|&at| kept[at] && !changes_nothing(&self.decisions[at]));
            let failing: Vec<usize> = (0..self.paths.len()).filter(fails).chain(in_parts).collect();
            if failing.is_empty() {
                return;
            }
            failing.into_iter().for_each(|at| kept[at] = false);
        }
    }

    /// The directories above what is dropped: something may stand there.
    fn directories_that_must_stay(&self, kept: &[bool]) -> HashSet<RelPath> {
        let dropped = self.paths.iter().zip(kept).filter(|(_, kept)| !**kept);
        dropped.flat_map(|(stand, _)| stand.path().ancestors()).collect()
    }

    fn lacks_a_directory(&self, at: usize, kept: &[bool]) -> bool {
        let mut above = self.paths[at].path().ancestors().filter_map(|dir| self.paths.find(&dir));
        self.content_after(at) != Some(After::Nothing) && above.any(|dir| !kept[dir])
    }

    /// A move is two decisions.
    fn lacks_its_other_end(&self, at: usize, kept: &[bool]) -> bool {
        match &self.decisions[at].content {
            ContentDecision::Arrive { source, .. } => !kept.get(*source).copied().unwrap_or(false),
            ContentDecision::MovedAway(_) => {
                let arrives = |decision: &Decision| matches!(decision.content, ContentDecision::Arrive { source, .. } if source == at);
                self.decisions.iter().position(arrives).is_none_or(|target| !kept[target])
            }
            ContentDecision::Take(from) => {
                let target = self.moved_to(*from, at).and_then(|target| self.paths.find(&target));
                target.is_some_and(|target| !kept[target])
            }
            ContentDecision::Agree
            | ContentDecision::KeepBoth { .. }
            | ContentDecision::Ignore
            | ContentDecision::Later => false,
        }
    }

    fn moved_to(&self, from: Role, at: usize) -> Option<RelPath> {
        match from {
            Role::Initiator => target_of(&self.locals[at].row.as_ref()?.row.content),
            Role::Responder => target_of(&self.paths[at].responder.as_ref()?.content),
        }
    }

    fn is_directory_after(&self, at: usize) -> bool {
        self.content_after(at) == Some(After::Directory)
    }

    /// What will stand at a path, as far as a decision tells.
    fn content_after(&self, at: usize) -> Option<After> {
        match &self.decisions[at].content {
            ContentDecision::Take(role) | ContentDecision::KeepBoth { winner: role, .. } => {
                Some(self.stands(*role, at))
            }
            ContentDecision::Agree => Some(self.stands(Role::Initiator, at)),
            ContentDecision::MovedAway(_) => Some(After::Nothing),
            ContentDecision::Arrive { .. } => Some(After::Other),
            ContentDecision::Ignore | ContentDecision::Later => None,
        }
    }

    fn stands(&self, role: Role, at: usize) -> After {
        let ours = self.locals[at].row.as_ref().map(|stored| after(&stored.row.content));
        let theirs = self.paths[at].responder.as_ref().map(|row| after(&row.content));
        let stands = match role {
            Role::Initiator => ours,
            Role::Responder => theirs,
        };
        stands.unwrap_or(After::Nothing)
    }
}

/// What stands at a path, as far as others depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    Directory,
    Other,
}

fn target_of<H>(content: &Content<H>) -> Option<RelPath> {
    match content {
        Content::Deleted { moved_to } => moved_to.clone(),
        Content::Directory | Content::File { .. } | Content::Symlink { .. } => None,
    }
}

fn after<H>(content: &Content<H>) -> After {
    match content {
        Content::Deleted { .. } => After::Nothing,
        Content::Directory => After::Directory,
        Content::File { .. } | Content::Symlink { .. } => After::Other,
    }
}
