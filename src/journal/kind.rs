//! The words of the journal: kinds of runs and of deeds, and where old contents are.

use std::fmt;

use psync_protocol::{RelPath, ReplicaId};

use super::State;

/// The name of a run, which both of its ends have for it: 32 bits made of both nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId(pub [u8; 4]);

impl RunId {
    /// The id of the run in which the ends gave these nonces.
    pub fn of_nonces(initiator: &[u8; 16], responder: &[u8; 16]) -> RunId {
        let key = blake3::derive_key("psync 2026-11 run", &[*initiator, *responder].concat());
        RunId([key[0], key[1], key[2], key[3]])
    }

    /// Reads eight hexadecimal digits.
    pub fn parse(text: &str) -> Option<RunId> {
        let valid = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| valid)?;
        Some(RunId(number.to_be_bytes()))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// What kind of run it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// A sync that this end started.
    Started,
    /// A sync that the other end started.
    Answered,
    /// `psync undo`: another run was taken back.
    Undo,
    /// `psync restore`, or something else that a person did to this tree alone.
    Restore,
    /// A conflict was resolved in this tree: a merge was written, or one of two that were kept taken.
    Resolve,
}

impl RunKind {
    pub(super) fn number(self) -> i64 {
        match self {
            RunKind::Started => 1,
            RunKind::Answered => 2,
            RunKind::Undo => 3,
            RunKind::Restore => 4,
            RunKind::Resolve => 5,
        }
    }

    pub(super) fn of(number: i64) -> Option<RunKind> {
        let all = [
            RunKind::Started,
            RunKind::Answered,
            RunKind::Undo,
            RunKind::Restore,
            RunKind::Resolve,
        ];
        all.into_iter().find(|kind| kind.number() == number)
    }

    /// In a word, for reports.
    pub fn name(self) -> &'static str {
        match self {
            RunKind::Started | RunKind::Answered => "sync",
            RunKind::Undo => "undo",
            RunKind::Restore => "restore",
            RunKind::Resolve => "resolve",
        }
    }

    /// Whether it was a sync.
    pub fn is_sync(self) -> bool {
        matches!(self, RunKind::Started | RunKind::Answered)
    }
}

/// Whom a run was with, and how they are reached again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Where the other root is: a path of this machine, or `host:path`. Empty where it is not known,
    /// because the other end started the run from elsewhere.
    pub location: String,
    /// The remote shell and its arguments; empty where the other root is on this machine.
    pub rsh: Vec<String>,
    /// psync on the other machine.
    pub program: String,
    /// The other root's `--state-dir`, where it was given; only on this machine.
    pub state_dir: String,
}

/// What was done to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It came to be.
    Create,
    /// It got another content.
    Update,
    /// It got another mode or time only.
    Properties,
    /// It was taken out of the tree.
    Delete,
    /// It became another kind of thing.
    Retype,
    /// It came to be, by a move from this path.
    MoveFrom(RelPath),
    /// It was taken out of the tree, by a move to this path.
    MoveTo(RelPath),
    /// It came to be as the clash file of this path.
    Clash(RelPath),
}

impl What {
    pub(super) fn number(&self) -> usize {
        match self {
            What::Create => 1,
            What::Update => 2,
            What::Properties => 3,
            What::Delete => 4,
            What::Retype => 5,
            What::MoveFrom(_) => 6,
            What::MoveTo(_) => 7,
            What::Clash(_) => 8,
        }
    }

    pub(super) fn of(number: i64, other: Option<RelPath>) -> Option<What> {
        Some(match (number, other) {
            (1, None) => What::Create,
            (2, None) => What::Update,
            (3, None) => What::Properties,
            (4, None) => What::Delete,
            (5, None) => What::Retype,
            (6, Some(path)) => What::MoveFrom(path),
            (7, Some(path)) => What::MoveTo(path),
            (8, Some(path)) => What::Clash(path),
            _ => return None,
        })
    }

    /// The other path that it is about.
    pub fn other(&self) -> Option<&RelPath> {
        match self {
            What::MoveFrom(path) | What::MoveTo(path) | What::Clash(path) => Some(path),
            What::Create | What::Update | What::Properties | What::Delete | What::Retype => None,
        }
    }

    /// In a word, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            What::Create => "create",
            What::Update => "update",
            What::Properties => "props",
            What::Delete => "delete",
            What::Retype => "retype",
            What::MoveFrom(_) => "move",
            What::MoveTo(_) => "move-away",
            What::Clash(_) => "clash",
        }
    }
}

/// Where the content is that a deed took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// There was none, or it still stands there.
    Nothing,
    /// In `.psync/trash`, under this path.
    Trash(Box<[u8]>),
    /// At another path of the tree: the one where it moved, or its clash file.
    InTree,
    /// It was let go: too large for the trash, or not wanted there.
    Dropped,
}

/// Deeds of a run, by their kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Paths that came to be, clash files included.
    pub created: u64,
    /// Paths that got another content or became another kind of thing.
    pub updated: u64,
    /// Paths that got another mode or time only.
    pub props: u64,
    /// Paths that were taken away.
    pub deleted: u64,
    /// Moves, each counted once.
    pub moved: u64,
}

impl Counts {
    /// Counts one more deed.
    pub fn add(&mut self, what: &What) {
        match what {
            What::Create | What::Clash(_) => self.created += 1,
            What::Update | What::Retype => self.updated += 1,
            What::Properties => self.props += 1,
            What::Delete => self.deleted += 1,
            What::MoveFrom(_) => self.moved += 1,
            What::MoveTo(_) => {}
        }
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.created + self.updated + self.props + self.deleted + self.moved
    }
}

/// A change that somebody made here between runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// When the scan found it, in milliseconds since 1970.
    pub found: i64,
    /// Where.
    pub path: RelPath,
    /// What stood there.
    pub before: Option<State>,
    /// What stands there since.
    pub after: Option<State>,
}

/// Whom a run was with: a replica, where one was met.
pub(super) fn replica(bytes: Option<[u8; 16]>) -> Option<ReplicaId> {
    bytes.map(ReplicaId)
}
