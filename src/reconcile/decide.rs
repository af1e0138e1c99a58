//! The rule matrix: what becomes of one path, given both rows. Pure; every case is spelled out.

use psync_protocol::message::Flow;
use psync_protocol::{Check, Content, Props, PropsDecision, Relation, Role, Row};

use crate::report::ConflictKind;

/// What holds for every path of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Which way changes go.
    pub flow: Flow,
    /// The two have no history in common: nothing may be deleted (but by a one-way flow).
    pub first_contact: bool,
    /// Whose side is preferred where nothing else tells them apart; the same choice whichever end
    /// plans.
    pub tie: Role,
}

impl Context {
    /// The same run with the sides exchanged.
    pub fn mirrored(self) -> Context {
        let flow = match self.flow {
            Flow::TwoWay => Flow::TwoWay,
            Flow::ToResponder => Flow::ToInitiator,
            Flow::ToInitiator => Flow::ToResponder,
        };
        Context { flow, tie: self.tie.other(), ..self }
    }

    /// The side that is mirrored, if changes go one way.
    pub(super) fn source(&self) -> Option<Role> {
        match self.flow {
            Flow::TwoWay => None,
            Flow::ToResponder => Some(Role::Initiator),
            Flow::ToInitiator => Some(Role::Responder),
        }
    }
}

/// What becomes of the content, before clash files have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Both have it.
    Agree,
    /// This side's is taken.
    Take(Role),
    /// Both stay; this side's keeps the name.
    KeepBoth(Role),
}

/// The decision about one path taken by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// Of the content.
    pub fate: Fate,
    /// Of the properties.
    pub props: PropsDecision,
    /// The content was chosen between changes on both sides.
    pub content_resolved: bool,
    /// The properties were.
    pub props_resolved: bool,
    /// The conflict, if there is one.
    pub conflict: Option<ConflictKind>,
    /// In a few words.
    pub why: &'static str,
}

impl Ruling {
    pub(super) fn take(role: Role, why: &'static str) -> Ruling {
        Ruling {
            fate: Fate::Take(role),
            props: PropsDecision::Take(role),
            content_resolved: false,
            props_resolved: false,
            conflict: None,
            why,
        }
    }

    pub(super) fn resolved(self) -> Ruling {
        Ruling { content_resolved: true, props_resolved: true, ..self }
    }

    fn keep_both(winner: Role, kind: ConflictKind, why: &'static str) -> Ruling {
        Ruling {
            fate: Fate::KeepBoth(winner),
            conflict: Some(kind),
            ..Ruling::take(winner, why).resolved()
        }
    }
}

/// Both rows of a path, in fingerprints of one key. A side that knows nothing of the path has
/// [`Row::absent`].
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The initiator's.
    pub initiator: &'a Row<Check>,
    /// The responder's.
    pub responder: &'a Row<Check>,
}

impl Rows<'_> {
    pub(super) fn of(&self, role: Role) -> &Row<Check> {
        match role {
            Role::Initiator => self.initiator,
            Role::Responder => self.responder,
        }
    }
}

/// The rule for one path.
pub fn decide(rows: Rows<'_>, context: &Context) -> Ruling {
    match context.source() {
        None => two_way(rows, context),
        Some(source) => one_way(rows, source),
    }
}

/// How the contents of the two stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Same,
    /// Changed on this side only.
    Changed(Role),
    /// Changed on both.
    Both,
}

fn standing(rows: Rows<'_>) -> Standing {
    let (ours, theirs) = (rows.initiator, rows.responder);
    if ours.content.same(&theirs.content) {
        return Standing::Same;
    }
    match ours.content_version.compare(&theirs.content_version) {
        Relation::Newer => Standing::Changed(Role::Initiator),
        Relation::Older => Standing::Changed(Role::Responder),
        // Equal versions of different contents are not written by any psync; nothing is lost if
        // they are taken for two changes.
        Relation::Concurrent | Relation::Equal => {
            match (builds_on(ours, theirs), builds_on(theirs, ours)) {
                (true, false) => Standing::Changed(Role::Initiator),
                (false, true) => Standing::Changed(Role::Responder),
                (true, true) | (false, false) => Standing::Both,
            }
        }
    }
}

/// Whether a change was made to exactly what the other side has. This is so where equal trees met
/// for the first time in two places, and vectors alone would see changes on both sides.
fn builds_on(changed: &Row<Check>, other: &Row<Check>) -> bool {
    changed.base.is_some() && changed.base == other.content.fingerprint()
}

fn two_way(rows: Rows<'_>, context: &Context) -> Ruling {
    match standing(rows) {
        Standing::Same => same_content(rows, context),
        Standing::Changed(side) => changed_on(side, rows, context),
        Standing::Both => changed_on_both(rows, context),
    }
}

fn changed_on(side: Role, rows: Rows<'_>, context: &Context) -> Ruling {
    let (new, old) = (rows.of(side), rows.of(side.other()));
    match (&new.content, &old.content) {
        (
            Content::Deleted { .. },
            Content::Directory | Content::File { .. } | Content::Symlink { .. },
        ) => {
            if context.first_contact {
                return Ruling::take(side.other(), "a first contact deletes nothing").resolved();
            }
            Ruling::take(side, "deleted on one side, unchanged on the other")
        }
        (
            Content::Directory | Content::File { .. } | Content::Symlink { .. },
            Content::Deleted { .. },
        ) => Ruling::take(side, "new on one side"),
        (Content::File { .. }, Content::File { .. })
        | (Content::Symlink { .. }, Content::Symlink { .. }) => {
            with_merged_mode(Ruling::take(side, "changed on one side only"), side, rows)
        }
        (
            Content::Directory | Content::File { .. } | Content::Symlink { .. },
            Content::Directory | Content::File { .. } | Content::Symlink { .. },
        ) => Ruling::take(side, "became another kind of thing on one side"),
        (Content::Deleted { .. }, Content::Deleted { .. }) => {
            Ruling::take(side, "deleted on both sides")
        }
    }
}

fn changed_on_both(rows: Rows<'_>, context: &Context) -> Ruling {
    use Content::{Deleted, Directory, File, Symlink};
    use Role::{Initiator, Responder};
    let survives = "deleted on one side, changed on the other: the change survives";
    match (&rows.initiator.content, &rows.responder.content) {
        (Deleted { .. }, Directory | File { .. } | Symlink { .. }) => {
            Ruling::take(Responder, if is_new(rows) { "new on one side" } else { survives })
                .resolved()
        }
        (Directory | File { .. } | Symlink { .. }, Deleted { .. }) => {
            Ruling::take(Initiator, if is_new(rows) { "new on one side" } else { survives })
                .resolved()
        }
        (Directory, File { .. } | Symlink { .. }) => type_conflict(Initiator),
        (File { .. } | Symlink { .. }, Directory) => type_conflict(Responder),
        (File { .. }, Symlink { .. }) | (Symlink { .. }, File { .. }) => {
            conflict(ConflictKind::Type, rows, context)
        }
        (File { .. }, File { .. }) | (Symlink { .. }, Symlink { .. }) => {
            let kind = if shares_history(rows) {
                ConflictKind::ModifiedBoth
            } else {
                ConflictKind::CreatedBoth
            };
            conflict(kind, rows, context)
        }
        (Deleted { .. }, Deleted { .. }) | (Directory, Directory) => same_content(rows, context),
    }
}

/// Whether one side has deleted what the other has changed. The rule matrix lets the change survive
/// and calls it no conflict; a person may have laid down something else.
pub(super) fn is_delete_modify(rows: Rows<'_>, context: &Context) -> bool {
    use Content::{Deleted, Directory, File, Symlink};
    let one_gone = match (&rows.initiator.content, &rows.responder.content) {
        (Deleted { .. }, File { .. } | Symlink { .. })
        | (File { .. } | Symlink { .. }, Deleted { .. }) => true,
        (Deleted { .. } | Directory, Deleted { .. } | Directory)
        | (Directory, File { .. } | Symlink { .. })
        | (File { .. } | Symlink { .. }, Directory | File { .. } | Symlink { .. }) => false,
    };
    let history = !context.first_contact && !is_new(rows);
    one_gone && history && context.source().is_none() && standing(rows) == Standing::Both
}

/// The same ruling on properties, with this side's mode.
pub(super) fn taking_mode_of(role: Role, ruling: Ruling, rows: Rows<'_>) -> Ruling {
    let (ours, theirs) = (rows.initiator, rows.responder);
    let mtime = ours.props.mtime.max(theirs.props.mtime);
    Ruling { props: props_of(Props { mode: rows.of(role).props.mode, mtime }, rows), ..ruling }
}

/// Whether one of the two never existed on its side.
fn is_new(rows: Rows<'_>) -> bool {
    rows.initiator.content_version.is_empty() || rows.responder.content_version.is_empty()
}

fn shares_history(rows: Rows<'_>) -> bool {
    let theirs = &rows.responder.content_version;
    rows.initiator.content_version.pairs().iter().any(|pair| theirs.counter(pair.0) > 0)
}

fn conflict(kind: ConflictKind, rows: Rows<'_>, context: &Context) -> Ruling {
    Ruling::keep_both(newer(rows, context), kind, "changed on both sides, differently")
}

/// A directory keeps the name: what is in it has nowhere else to go.
pub(super) fn type_conflict(directory: Role) -> Ruling {
    Ruling::keep_both(
        directory,
        ConflictKind::Type,
        "a directory on one side, something else on the other",
    )
}

/// The side with the later modification time; of equal times the longer file, then the tie.
pub(super) fn newer(rows: Rows<'_>, context: &Context) -> Role {
    let rank = |row: &Row<Check>| {
        let size = match row.content {
            Content::File { size, .. } => size,
            Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => 0,
        };
        (row.props.mtime, size)
    };
    match rank(rows.initiator).cmp(&rank(rows.responder)) {
        std::cmp::Ordering::Greater => Role::Initiator,
        std::cmp::Ordering::Less => Role::Responder,
        std::cmp::Ordering::Equal => context.tie,
    }
}

/// Equal content: only properties may have to be made equal.
fn same_content(rows: Rows<'_>, context: &Context) -> Ruling {
    let agree = Ruling {
        fate: Fate::Agree,
        props: PropsDecision::Agree,
        content_resolved: false,
        props_resolved: false,
        conflict: None,
        why: "the same on both sides",
    };
    let (ours, theirs) = (rows.initiator, rows.responder);
    if !ours.content.is_live() || ours.props == theirs.props {
        return agree;
    }
    let why = "properties changed";
    match ours.props_version.compare(&theirs.props_version) {
        Relation::Newer => Ruling { props: PropsDecision::Take(Role::Initiator), why, ..agree },
        Relation::Older => Ruling { props: PropsDecision::Take(Role::Responder), why, ..agree },
        Relation::Concurrent | Relation::Equal => {
            let (mode, clash) = merged_mode(rows, context);
            let mtime = ours.props.mtime.max(theirs.props.mtime);
            Ruling {
                props: props_of(Props { mode, mtime }, rows),
                props_resolved: true,
                conflict: clash.then_some(ConflictKind::PropertiesBoth),
                why,
                ..agree
            }
        }
    }
}

/// Content comes from `side`, its time too; the mode from whoever changed it.
fn with_merged_mode(ruling: Ruling, side: Role, rows: Rows<'_>) -> Ruling {
    let (new, old) = (rows.of(side), rows.of(side.other()));
    let mode = match new.props_version.compare(&old.props_version) {
        Relation::Newer | Relation::Equal => new.props.mode,
        Relation::Older => old.props.mode,
        Relation::Concurrent if new.props.mode == new.agreed_mode => old.props.mode,
        Relation::Concurrent => new.props.mode,
    };
    if mode == new.props.mode {
        return ruling;
    }
    let props = PropsDecision::Merge(Props { mode, mtime: new.props.mtime });
    Ruling {
        props,
        props_resolved: true,
        why: "content changed on one side, mode on the other",
        ..ruling
    }
}

/// The mode after concurrent changes of properties, and whether both changed it.
fn merged_mode(rows: Rows<'_>, context: &Context) -> (u16, bool) {
    let (ours, theirs) = (rows.initiator, rows.responder);
    if ours.props.mode == theirs.props.mode {
        return (ours.props.mode, false);
    }
    match (ours.props.mode == ours.agreed_mode, theirs.props.mode == theirs.agreed_mode) {
        (true, false) => (theirs.props.mode, false),
        (false, true) => (ours.props.mode, false),
        // Two trees that meet for the first time have not changed anything: their modes differ,
        // and the newer file's is taken.
        (true, true) => (rows.of(newer(rows, context)).props.mode, false),
        (false, false) => (rows.of(newer(rows, context)).props.mode, true),
    }
}

fn props_of(props: Props, rows: Rows<'_>) -> PropsDecision {
    if props == rows.initiator.props {
        PropsDecision::Take(Role::Initiator)
    } else if props == rows.responder.props {
        PropsDecision::Take(Role::Responder)
    } else {
        PropsDecision::Merge(props)
    }
}

/// One way: what `source` has is taken, whatever the other side did. That is a choice only where the
/// other side has done something: a source that may not be written to records none, so that each of
/// its changes is concurrent with what was chosen before.
fn one_way(rows: Rows<'_>, source: Role) -> Ruling {
    let (new, old) = (rows.of(source), rows.of(source.other()));
    let same = new.content.same(&old.content);
    let props_same = !new.content.is_live() || new.props == old.props;
    let content_resolved = !same
        && !new.content_version.includes(&old.content_version)
        && standing(rows) != Standing::Changed(source);
    let props_resolved = match new.props_version.compare(&old.props_version) {
        Relation::Newer | Relation::Equal => false,
        Relation::Concurrent => !props_same && content_resolved,
        Relation::Older => !props_same,
    };
    Ruling {
        fate: if same { Fate::Agree } else { Fate::Take(source) },
        props: if same && props_same { PropsDecision::Agree } else { PropsDecision::Take(source) },
        content_resolved,
        props_resolved,
        conflict: None,
        why: "this side is mirrored",
    }
}
