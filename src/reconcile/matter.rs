//! A conflict as a person is told of it: what both sides have, and what is done about it.

use psync_protocol::{Check, CheckKey, Content, ContentHash, Row};

use super::decide::Rows;
use crate::manifest::Stored;
use crate::report::{Conflict, ConflictKind, Facts, Kind, State, Ways};

/// What a person is told of a conflict besides both sides.
#[derive(Debug, Clone)]
pub(super) struct Matter {
    pub(super) kind: ConflictKind,
    pub(super) rule: String,
    pub(super) state: State,
    pub(super) outcome: String,
    /// One side was taken because a person had said so.
    pub(super) chosen: bool,
}

/// Puts what both sides have beside what is done. `stored` is the planner's row; `key` is that of
/// the fingerprints in `rows`.
pub(super) fn conflict(
    matter: Matter,
    ways: Ways,
    rows: Rows<'_>,
    stored: Option<&Stored>,
    key: &CheckKey,
) -> Conflict {
    let known = stored.map(|stored| &stored.row);
    let hash = known.and_then(|row| hash_of(&row.content));
    let base = known.and_then(|row| row.base).filter(|base| *base != DIRECTORY);
    // Of the other side's content only a fingerprint is known: it tells what this side has, too.
    let named = |check: Check| {
        [hash, base].into_iter().flatten().find(|candidate| key.check(candidate) == check)
    };
    let theirs = rows.responder.content.fingerprint().and_then(named);
    let both_know = rows.responder.base.is_none_or(|check| named(check) == base);
    Conflict {
        path: rows.initiator.path.clone(),
        kind: matter.kind,
        sides: [facts(rows.initiator, hash), facts(rows.responder, theirs)],
        seen: (rows.initiator.content_version.clone(), rows.responder.content_version.clone()),
        ancestor: base.filter(|_| both_know),
        rule: matter.rule,
        state: matter.state,
        outcome: matter.outcome,
        chosen: matter.chosen,
        ways,
    }
}

const DIRECTORY: ContentHash = <ContentHash as psync_protocol::entry::Fingerprint>::DIRECTORY;

fn hash_of(content: &Content<ContentHash>) -> Option<ContentHash> {
    match content {
        Content::File { hash, .. } | Content::Symlink { hash, .. } => Some(*hash),
        Content::Deleted { .. } | Content::Directory => None,
    }
}

fn facts(row: &Row<Check>, hash: Option<ContentHash>) -> Option<Facts> {
    let (kind, size) = match row.content {
        Content::Deleted { .. } => return None,
        Content::Directory => (Kind::Directory, 0),
        Content::File { size, .. } => (Kind::File, size),
        Content::Symlink { .. } => (Kind::Symlink, 0),
    };
    Some(Facts { kind, size, mtime: row.props.mtime, mode: row.props.mode, hash })
}
