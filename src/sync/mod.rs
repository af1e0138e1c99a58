//! One sync, from top to bottom. A reader starts here.
//!
//! [`initiate`] and [`respond`] are the two ends. Each opens its [`Site`], scans, and states its
//! rows; the initiator plans; both carry out their part (`exchange`) and record what they know
//! of each other.

mod conflicts;
mod examine;
mod exchange;
mod initiator;
mod present;
pub mod putback;
mod record;
mod rehearsal;
mod remember;
pub mod resolve;
mod responder;
mod seals;
mod send;
mod sight;
mod signatures;
mod site;
pub mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod trash;
pub mod undo;
pub mod versions;

pub use crate::index::{Listed, Which};
pub use examine::{Examined, Fault, Finding, Handled, contents, digest, examine, set_aside};
pub use initiator::{Outcome, initiate};
pub use present::state_at as state_of;
pub use rehearsal::Predicted;
pub use remember::remember;
pub use responder::{Offer, refuse, respond, respond_within};
pub use sight::Sight;
pub use signatures::{Chain, signatures};
pub use site::{OldContents, Site, random, state_dir};

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use psync_protocol::message::{Filter, Flow, Intent};
use psync_protocol::{Bounds, ErrorCode, Message, ProtocolError, RelPath, ReplicaId, Role};
use thiserror::Error;

use crate::apply::{ApplyError, RunNames};
use crate::identity::{Fingerprint, KeyError};
use crate::index::{IndexError, OpenError};
use crate::journal::{Reach, Retention, Witness};
use crate::reconcile::{
    AgreedPlan, BadRule, ChangeLimit, DeleteLimit, Flooded, Folding, Forbidden, Rulebook, Tripped,
};
use crate::root::{Space, StateHome};
use crate::scan::{BadPattern, ScanError};
use crate::settings::{SettingsError, StoreConfig};
use crate::transport::{Compression, LineError};

/// What an end keeps beside its tree, and where.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    /// Where state lives.
    pub home: StateHome,
    /// The store of old contents.
    pub store: StoreConfig,
    /// What this side's own settings leave alone, besides what the end that plans says.
    pub filters: Vec<Filter>,
    /// Folders that are published as a whole, as patterns, besides databases and the like.
    pub units: Vec<String>,
    /// What goes to the trash, and how long it stays there.
    pub retention: Retention,
    /// How the other end is reached again, for the journal.
    pub reach: Reach,
    /// How much of the disk is left alone.
    pub space: Space,
    /// What the other end may state, and make this one hold.
    pub bounds: Bounds,
    /// Who hears of each change that is made here.
    pub witness: Option<Arc<dyn Witness>>,
    /// What whoever syncs with this root should hear of.
    pub notes: Vec<String>,
}

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which way changes go.
    pub flow: Flow,
    /// What becomes of the plan.
    pub intent: Intent,
    /// Filters from the command line.
    pub filters: Vec<Filter>,
    /// Policies for conflicts, and rules for paths.
    pub rules: Rulebook,
    /// Most deletions on a side.
    pub delete_limit: DeleteLimit,
    /// Whether a person has said for this run that a root which is empty now is meant to be.
    pub empty_is_meant: bool,
    /// Why this root may not be the one that was synced where it stands, if that is so. It is no
    /// reason to stop where the other side was never synced, either.
    pub doubt: Option<Arc<SyncError>>,
    /// Most files of a side whose content has changed at once.
    pub change_limit: ChangeLimit,
    /// Where state lives, and what is kept there.
    pub keeping: Keeping,
    /// Where the other end is, as this replica remembers it.
    pub location: String,
    /// How what this end sends is compressed.
    pub compression: Compression,
    /// The names of this run.
    pub names: RunNames,
    /// Whether the plan is noted, or has to be one that was made before.
    pub plan: PlanUse,
}

/// What a plan has to do with another run's.
#[derive(Debug, Clone, Default)]
pub enum PlanUse {
    /// Nothing.
    #[default]
    Fresh,
    /// It is noted in the [`Outcome`], to be carried out another time.
    Note,
    /// Only what this plan says is done, and only where both sides are as it saw them.
    Only(Arc<AgreedPlan>),
    /// Only these paths are synced; the others wait for another run.
    Paths(Arc<BTreeSet<RelPath>>),
}

/// What ended a sync before its time.
#[derive(Debug, Error)]
pub enum SyncError {
    /// A root cannot be used.
    #[error("{path}: {error}", path = .path.display(), error = root_error(.error))]
    Root {
        /// The root.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The place for state cannot be used.
    #[error("{path}: cannot make or open the directory .psync: {error}; --state-dir puts the state elsewhere", path = .path.display())]
    State {
        /// The root.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What a crash left half done cannot be finished now.
    #[error("{path}: {error}", path = .path.display())]
    HalfDone {
        /// The root.
        path: PathBuf,
        /// Why, and what to do.
        error: io::Error,
    },
    /// The lock or the index cannot be had.
    #[error("{path}: {error}", path = .path.display())]
    Open {
        /// The root.
        path: PathBuf,
        /// What is wrong.
        error: OpenError,
    },
    /// The settings of this end make no sense.
    #[error(transparent)]
    Settings(SettingsError),
    /// The root cannot be written, and something has to be.
    #[error("{path}: the root is read-only, and the other side's changes have to come here; --mirror push sends it one way", path = .0.display())]
    ReadOnly(PathBuf),
    /// The root, whose state lives elsewhere, is not the directory that it was.
    #[error(
        "{path}: this is another directory than last time (is the right file system mounted?); if it is meant to be, remove {state} and run again",
        path = .path.display(), state = .state.display()
    )]
    OtherDirectory {
        /// The root.
        path: PathBuf,
        /// Its state directory.
        state: PathBuf,
    },
    /// The scan failed.
    #[error("{path}: {error}", path = .path.display())]
    Scan {
        /// The root.
        path: PathBuf,
        /// What is wrong.
        error: ScanError,
    },
    /// A filter of the command line is no pattern.
    #[error("'{}' is not a pattern: {}", .0.line, .0.reason)]
    Filter(BadPattern),
    /// A rule of a person makes no sense.
    #[error(transparent)]
    Rule(BadRule),
    /// The state database failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The line failed.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Too much would be deleted.
    #[error(
        "the plan deletes {} of {} entries on {}, and at most {} are allowed; nothing was changed. If this is right, allow it with --max-delete={} (or a percentage)",
        .0.deletions, .0.live, side(.0.on), .0.limit, .0.deletions
    )]
    TooManyDeletions(Tripped),
    /// A root was synced here, and is gone or empty now, with its state.
    #[error(
        "{path}: this root was synced before, and is gone or empty now, together with its state (is the right file system mounted?); nothing was changed. If it is to be filled again, allow that with --max-delete=0",
        path = .0.display()
    )]
    Vanished(PathBuf),
    /// Another root stands where one was synced.
    #[error(
        "{path}: another root stands here than the one that was synced here: that was replica {before}, this {now} (is the right file system mounted?); nothing was changed. If it is meant to take its place, allow that once with --max-delete=0, or remove {note}",
        path = .path.display(), before = short(.before), now = named(.now), note = .note.display()
    )]
    OtherRoot {
        /// The root.
        path: PathBuf,
        /// Who it was.
        before: ReplicaId,
        /// Who it is, if it has a state.
        now: Option<ReplicaId>,
        /// Where it is noted who it was.
        note: PathBuf,
    },
    /// This root is not the one that was synced here, and the other side was synced before.
    #[error(transparent)]
    Doubted(Arc<SyncError>),
    /// The other root is another one than last time, and empty.
    #[error(
        "{}: this is another root than last time, and it is empty (is the right file system mounted?); nothing was changed. If it is to be filled, allow that with --max-delete=0",
        psync_protocol::path::printable(.0.as_bytes())
    )]
    Replaced(String),
    /// The plan is not of these two replicas.
    #[error(
        "the plan was made for other roots: {0} has another identity now (was it replaced, or its state removed?); nothing was changed. Make a new plan with psync plan"
    )]
    OtherPlan(&'static str),
    /// Too much has changed at once.
    #[error(
        "{} of {} files on {} have another content than last time, and at most {} may at once; nothing was changed. Look at some of them: if they are what they should be, allow it with --max-change={} (or a percentage)",
        .0.changed, .0.files, side(.0.on), .0.limit, .0.changed
    )]
    TooManyChanges(Flooded),
    /// The peer wants what it has no right to.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Both ends are one replica.
    #[error(
        "both roots have the same identity: one was copied from the other together with its state. Remove .psync/index.db in the copy; it will then be taken for a new root, and nothing will be deleted"
    )]
    Clone,
    /// Both ends are one directory, or one lies in the other.
    #[error("one root is the other, or lies inside it: choose two separate directories")]
    SameRoot,
    /// The other end has to set its index aside: the run can start anew at once.
    #[error(
        "the state of the other root is older than what this side knows of it (was it restored from a backup?)"
    )]
    StartAnew,
    /// The other end states an older index than it has signed before: it sets it aside, and the run can
    /// start anew.
    #[error(
        "the other root states an older index than it has signed before (was it restored from a backup, or does somebody repeat what it said then?); nothing was changed"
    )]
    PeerIsOlder,
    /// What the other end has stated or planned was not signed with its key.
    #[error(
        "what came from the other root was not signed with its key: it was altered on the way, repeated from another run, or made by somebody else; nothing was planned or changed"
    )]
    Forged,
    /// The other root shows another key than before.
    #[error(
        "the other root shows another key ({now}) than it was first met with ({known}); a root keeps its key as long as its identity, so somebody may stand in for it. Nothing was changed. If its key file was replaced, remove .psync/index.db there: it becomes a new root, and nothing is deleted"
    )]
    OtherKey {
        /// Of the key that it was met with.
        known: Fingerprint,
        /// Of the key that it shows now.
        now: Fingerprint,
    },
    /// This root's own key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// This replica's state was rolled back and will be set aside: the run has to start anew.
    #[error(
        "the state of this root is older than what the other side knows of it (was it restored from a backup?)"
    )]
    RolledBack,
}

/// The bits of a greeting that tell which names a file system takes for one.
fn features_of(folding: Folding) -> u64 {
    u64::from(folding.case) | u64::from(folding.form) << 1
}

fn folding_of(features: u64) -> Folding {
    Folding { case: features & 1 != 0, form: features & 2 != 0 }
}

fn root_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such directory; check the path, or make the directory first".into()
        }
        io::ErrorKind::NotADirectory => {
            "is not a directory; a root is a directory, single files are not synced".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; psync needs to read, write and enter the directory".into()
        }
        _ => error.to_string(),
    }
}

/// As much of a replica's id as tells it from others.
fn short(replica: &ReplicaId) -> String {
    replica.to_string()[..8].to_string()
}

fn named(replica: &Option<ReplicaId>) -> String {
    replica
        .as_ref()
        .map_or("has no state".into(), |replica| format!("is replica {}", short(replica)))
}

fn side(role: Role) -> &'static str {
    match role {
        Role::Initiator => "this side",
        Role::Responder => "the other side",
    }
}

impl From<ProtocolError> for SyncError {
    fn from(error: ProtocolError) -> SyncError {
        SyncError::Line(LineError::Protocol(error))
    }
}

impl From<io::Error> for SyncError {
    fn from(error: io::Error) -> SyncError {
        SyncError::Line(LineError::Io(error))
    }
}

impl From<ApplyError> for SyncError {
    fn from(error: ApplyError) -> SyncError {
        match error {
            ApplyError::Index(error) => SyncError::Index(error),
            ApplyError::Protocol(error) => error.into(),
        }
    }
}

impl SyncError {
    /// The number under which the other end hears of it.
    pub fn code(&self) -> ErrorCode {
        match self {
            SyncError::Root { .. } | SyncError::ReadOnly(_) | SyncError::Settings(_) => {
                ErrorCode::Root
            }
            SyncError::OtherDirectory { .. } | SyncError::OtherPlan(_) => ErrorCode::Guard,
            SyncError::HalfDone { .. } | SyncError::Open { error: OpenError::Busy, .. } => {
                ErrorCode::Busy
            }
            SyncError::State { .. }
            | SyncError::Open { .. }
            | SyncError::Index(_)
            | SyncError::Key(_) => ErrorCode::Io,
            SyncError::Scan { error: ScanError::Emptied(_), .. }
            | SyncError::TooManyDeletions(_)
            | SyncError::Replaced(_)
            | SyncError::Vanished(_)
            | SyncError::OtherRoot { .. }
            | SyncError::Doubted(_)
            | SyncError::TooManyChanges(_) => ErrorCode::Guard,
            SyncError::Scan { .. } => ErrorCode::Root,
            SyncError::Filter(_) | SyncError::Rule(_) => ErrorCode::Other,
            SyncError::Line(LineError::Protocol(ProtocolError::Incompatible { .. })) => {
                ErrorCode::Incompatible
            }
            SyncError::Line(LineError::Protocol(ProtocolError::Peer { code, .. })) => *code,
            SyncError::Line(LineError::Protocol(_)) => ErrorCode::Protocol,
            SyncError::Line(LineError::Io(_) | LineError::Timeout(_) | LineError::Stalled(_)) => {
                ErrorCode::Io
            }
            SyncError::Line(LineError::Halted(code, _)) => *code,
            SyncError::Clone => ErrorCode::Clone,
            SyncError::Forbidden(_) => ErrorCode::Refused,
            SyncError::SameRoot => ErrorCode::SameRoot,
            SyncError::RolledBack => ErrorCode::RolledBack,
            SyncError::StartAnew => ErrorCode::StartAnew,
            SyncError::PeerIsOlder => ErrorCode::RolledBack,
            SyncError::Forged | SyncError::OtherKey { .. } => ErrorCode::Signature,
        }
    }

    /// What a peer is told that is not this person where the settings of this machine make no
    /// sense: not what is in them, nor where they are.
    pub fn of_settings_elsewhere() -> SyncError {
        let text =
            "the settings of the other machine make no sense; 'psync config show' there says why";
        SyncError::Settings(SettingsError::typed(text.into()))
    }

    /// The message that tells the other end.
    pub fn to_message(&self) -> Message {
        Message::Error { code: self.code(), text: self.to_string() }
    }
}
