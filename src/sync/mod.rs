//! One sync, from top to bottom. A reader starts here.
//!
//! [`initiate`] and [`respond`] are the two ends. Each opens its [`Site`], scans, and states its
//! rows; the initiator plans; both carry out their part (`exchange`) and record what they know
//! of each other.

mod config;
mod exchange;
mod initiator;
mod record;
mod remember;
mod responder;
mod send;
mod site;
pub mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use config::{Budget, Config, ConfigError, StoreConfig};
pub use initiator::{Outcome, initiate};
pub use remember::remember;
pub use responder::respond;
pub use site::{OldContents, Site, random};

use std::io;
use std::path::PathBuf;

use psync_protocol::message::{Filter, Flow};
use psync_protocol::{ErrorCode, Message, ProtocolError, Role};
use thiserror::Error;

use crate::apply::{ApplyError, RunNames};
use crate::index::{IndexError, OpenError};
use crate::reconcile::{DeleteLimit, Tripped};
use crate::root::StateHome;
use crate::scan::{BadPattern, ScanError};
use crate::transport::{Compression, LineError};

/// What an end keeps beside its tree, and where.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    /// Where state lives.
    pub home: StateHome,
    /// Whether this run uses and fills the store of old contents.
    pub store: bool,
}

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which way changes go.
    pub flow: Flow,
    /// Show the plan only.
    pub dry_run: bool,
    /// Filters from the command line.
    pub filters: Vec<Filter>,
    /// Most deletions on a side.
    pub delete_limit: DeleteLimit,
    /// Where state lives, and what is kept there.
    pub keeping: Keeping,
    /// Where the other end is, as this replica remembers it.
    pub location: String,
    /// How what this end sends is compressed.
    pub compression: Compression,
    /// The names of this run.
    pub names: RunNames,
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
    /// The lock or the index cannot be had.
    #[error("{path}: {error}", path = .path.display())]
    Open {
        /// The root.
        path: PathBuf,
        /// What is wrong.
        error: OpenError,
    },
    /// The configuration of the root makes no sense.
    #[error(transparent)]
    Config(ConfigError),
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
    /// This replica's state was rolled back and will be set aside: the run has to start anew.
    #[error(
        "the state of this root is older than what the other side knows of it (was it restored from a backup?)"
    )]
    RolledBack,
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
            SyncError::Root { .. } | SyncError::ReadOnly(_) | SyncError::Config(_) => {
                ErrorCode::Root
            }
            SyncError::OtherDirectory { .. } => ErrorCode::Guard,
            SyncError::Open { error: OpenError::Busy, .. } => ErrorCode::Busy,
            SyncError::State { .. } | SyncError::Open { .. } | SyncError::Index(_) => ErrorCode::Io,
            SyncError::Scan { error: ScanError::Emptied(_), .. }
            | SyncError::TooManyDeletions(_) => ErrorCode::Guard,
            SyncError::Scan { .. } => ErrorCode::Root,
            SyncError::Filter(_) => ErrorCode::Other,
            SyncError::Line(LineError::Protocol(ProtocolError::Incompatible { .. })) => {
                ErrorCode::Incompatible
            }
            SyncError::Line(LineError::Protocol(ProtocolError::Peer { code, .. })) => *code,
            SyncError::Line(LineError::Protocol(_)) => ErrorCode::Protocol,
            SyncError::Line(LineError::Io(_) | LineError::Timeout(_)) => ErrorCode::Io,
            SyncError::Clone => ErrorCode::Clone,
            SyncError::SameRoot => ErrorCode::SameRoot,
            SyncError::RolledBack => ErrorCode::RolledBack,
            SyncError::StartAnew => ErrorCode::StartAnew,
        }
    }

    /// The message that tells the other end.
    pub fn to_message(&self) -> Message {
        Message::Error { code: self.code(), text: self.to_string() }
    }
}
