//! What a policy makes of a conflict. Pure; every policy and every kind is spelled out.
//!
//! Two things no policy does: a directory in which something is unsynced never goes, so against a
//! directory the other thing becomes a clash file unless the directory's side is chosen; and as
//! nobody knows when something was deleted, whoever asks for times or sizes keeps the change.

use psync_protocol::{Content, Role};

use super::decide::{Context, Fate, Rows, Ruling, newer, taking_mode_of};
use super::rulebook::Policy;
use crate::report::ConflictKind;

/// What a policy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The conflict is settled like this; `chosen` says that one side was taken for it.
    Ruled { ruling: Ruling, chosen: bool },
    /// Nothing is touched.
    Held { to_merge: bool },
}

/// Which way out a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the rule matrix has it: nothing is lost, and both are kept where there are two.
    Both,
    /// This side's.
    Side(Role),
    Wait {
        to_merge: bool,
    },
}

/// Settles a conflict that the rule matrix has ruled upon by itself.
pub(super) fn settle(
    ruling: Ruling,
    kind: ConflictKind,
    rows: Rows<'_>,
    context: &Context,
    policy: &Policy,
    names: &(String, String),
) -> Settled {
    let as_ruled = Settled::Ruled { ruling, chosen: false };
    match way(kind, rows, context, policy, names) {
        Way::Both => as_ruled,
        Way::Wait { to_merge } => Settled::Held { to_merge },
        Way::Side(role) => match take(role, ruling, kind, rows) {
            Some(ruling) => Settled::Ruled { ruling, chosen: true },
            None => as_ruled,
        },
    }
}

/// The way out of a conflict of this kind between these rows.
pub(super) fn way(
    kind: ConflictKind,
    rows: Rows<'_>,
    context: &Context,
    policy: &Policy,
    names: &(String, String),
) -> Way {
    let has_times = match kind {
        ConflictKind::ModifiedBoth | ConflictKind::CreatedBoth | ConflictKind::PropertiesBoth => {
            true
        }
        ConflictKind::MovedBoth => true,
        ConflictKind::Type => !has_directory(rows),
        ConflictKind::DeleteModify => false,
    };
    let by_time = |role| if has_times { Way::Side(role) } else { Way::Both };
    match policy {
        Policy::KeepBoth => Way::Both,
        Policy::Newest => by_time(newer(rows, context)),
        Policy::Oldest => by_time(newer(rows, context).other()),
        Policy::Largest => by_time(larger(rows, context)),
        Policy::Hold => Way::Wait { to_merge: false },
        Policy::Local => Way::Side(Role::Initiator),
        Policy::Remote => Way::Side(Role::Responder),
        Policy::Replica(name) => match (*name == names.0, *name == names.1) {
            (true, false) => Way::Side(Role::Initiator),
            (false, true) => Way::Side(Role::Responder),
            (true, true) | (false, false) => Way::Both,
        },
        Policy::Merge if kind == ConflictKind::ModifiedBoth && are_files(rows) => {
            Way::Wait { to_merge: true }
        }
        Policy::Merge => Way::Both,
    }
}

/// One side's is taken; none where that must not be.
fn take(role: Role, ruling: Ruling, kind: ConflictKind, rows: Rows<'_>) -> Option<Ruling> {
    let taken = |ruling: Ruling| Ruling { conflict: Some(kind), ..ruling.resolved() };
    let why = "changed on both sides; a policy chose";
    match kind {
        ConflictKind::ModifiedBoth | ConflictKind::CreatedBoth => {
            Some(taken(Ruling::take(role, why)))
        }
        ConflictKind::Type => {
            let loses = rows.of(role.other());
            let kept = !matches!(loses.content, Content::Directory);
            kept.then(|| taken(Ruling::take(role, why)))
        }
        ConflictKind::DeleteModify => {
            let why = "deleted on one side, changed on the other; a policy chose";
            Some(taken(Ruling::take(role, why)))
        }
        ConflictKind::PropertiesBoth => Some(taking_mode_of(role, ruling, rows)),
        // It is about three paths: see `draft`.
        ConflictKind::MovedBoth => None,
    }
}

fn has_directory(rows: Rows<'_>) -> bool {
    let is_directory = |role| matches!(rows.of(role).content, Content::Directory);
    is_directory(Role::Initiator) || is_directory(Role::Responder)
}

fn are_files(rows: Rows<'_>) -> bool {
    let is_file = |role| matches!(rows.of(role).content, Content::File { .. });
    is_file(Role::Initiator) && is_file(Role::Responder)
}

/// The side with the longer file; of equal lengths the newer.
fn larger(rows: Rows<'_>, context: &Context) -> Role {
    let size = |role| match rows.of(role).content {
        Content::File { size, .. } => size,
        Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => 0,
    };
    match size(Role::Initiator).cmp(&size(Role::Responder)) {
        std::cmp::Ordering::Greater => Role::Initiator,
        std::cmp::Ordering::Less => Role::Responder,
        std::cmp::Ordering::Equal => newer(rows, context),
    }
}

/// What a person is told of a conflict that was settled by taking one side.
pub(super) fn outcome(policy: &Policy, kind: ConflictKind) -> String {
    let taken = match policy {
        Policy::Newest => "the newer is taken".to_string(),
        Policy::Oldest => "the older is taken".to_string(),
        Policy::Largest => "the larger is taken".to_string(),
        Policy::Local => "this side's is taken".to_string(),
        Policy::Remote => "the other side's is taken".to_string(),
        Policy::Replica(name) => {
            format!("that of {} is taken", psync_protocol::path::printable(name.as_bytes()))
        }
        Policy::KeepBoth | Policy::Hold | Policy::Merge => "the newer is taken".to_string(),
    };
    match kind {
        ConflictKind::PropertiesBoth | ConflictKind::MovedBoth => taken,
        ConflictKind::ModifiedBoth
        | ConflictKind::CreatedBoth
        | ConflictKind::Type
        | ConflictKind::DeleteModify => format!("{taken}; what was there goes to the trash"),
    }
}

/// Whether a ruling would change something on a side.
pub(super) fn changes(on: Role, ruling: &Ruling, rows: Rows<'_>) -> bool {
    use psync_protocol::PropsDecision;
    let (own, other) = (rows.of(on), rows.of(on.other()));
    let own_live = own.content.is_live();
    let content = match ruling.fate {
        Fate::Agree => false,
        Fate::Take(from) => from != on && !own.content.same(&other.content),
        Fate::KeepBoth(_) => true,
    };
    let props = match ruling.props {
        PropsDecision::Agree => false,
        PropsDecision::Take(from) => from != on && own_live && own.props != other.props,
        PropsDecision::Merge(props) => own_live && own.props != props,
    };
    content || props
}
