//! Exit codes: rsync's where it has one, psync's own from 40.

use psync_protocol::{ErrorCode, ProtocolError};

use crate::daemon::ServiceError;
use crate::scan::ScanError;
use crate::sync::SyncError;
use crate::transport::LineError;

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// How a run ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit { $($(#[$doc])* $name,)* }

        impl Exit {
            /// The number for the shell.
            pub fn code(self) -> u8 {
                match self { $(Exit::$name => $code,)* }
            }
        }
    };
}

exits! {
    /// Everything that could be done is done.
    Ok = 0;
    /// The command line makes no sense.
    Usage = 1;
    /// The other end speaks no version of the protocol that this one knows, or is no psync.
    Incompatible = 2;
    /// The other end could not be started.
    Start = 5;
    /// The connection broke.
    Connection = 10;
    /// A root or the state could not be read or written.
    FileIo = 11;
    /// What came over the line made no sense, or ended in the middle.
    Stream = 12;
    /// Some paths could not be handled.
    Partial = 23;
    /// Some files changed or vanished during the run.
    Changed = 24;
    /// Nothing came for too long.
    Timeout = 30;
    /// There were conflicts that a person should look at: held, or with both versions kept.
    Conflicts = 40;
    /// A guard stopped the run before the first change.
    Guard = 41;
    /// Identity or state needs a person.
    Identity = 42;
}

impl Exit {
    /// The worse of how two runs ended: a run that was stopped is worse than one that left
    /// something, that is worse than conflicts, and these are worse than nothing. Of equally bad
    /// ones it is the first.
    pub(super) fn worse(self, other: Exit) -> Exit {
        let badness = |exit| match exit {
            Exit::Ok => 0,
            Exit::Conflicts => 1,
            Exit::Changed => 2,
            Exit::Partial => 3,
            _ => 4,
        };
        if badness(other) > badness(self) { other } else { self }
    }

    /// The exit that an error leads to.
    pub(super) fn of(error: &SyncError) -> Exit {
        match error {
            SyncError::Filter(_) | SyncError::Rule(_) | SyncError::SameRoot => Exit::Usage,
            SyncError::Root { .. }
            | SyncError::ReadOnly(_)
            | SyncError::State { .. }
            | SyncError::Settings(_) => Exit::FileIo,
            SyncError::OtherDirectory { .. } | SyncError::OtherPlan(_) => Exit::Guard,
            SyncError::Scan { error: ScanError::Emptied(_), .. }
            | SyncError::TooManyDeletions(_)
            | SyncError::Replaced(_)
            | SyncError::Vanished(_)
            | SyncError::OtherRoot { .. }
            | SyncError::Doubted(_)
            | SyncError::TooManyChanges(_) => Exit::Guard,
            SyncError::Scan { error: ScanError::Root(_), .. } => Exit::FileIo,
            SyncError::HalfDone { .. } => Exit::Guard,
            SyncError::Open { .. } if error.code() == ErrorCode::Busy => Exit::Guard,
            SyncError::Open { .. } => Exit::FileIo,
            SyncError::Clone
            | SyncError::RolledBack
            | SyncError::StartAnew
            | SyncError::PeerIsOlder
            | SyncError::Forged
            | SyncError::OtherKey { .. }
            | SyncError::Key(_)
            | SyncError::Forbidden(_)
            | SyncError::Index(_) => Exit::Identity,
            SyncError::Scan { error: ScanError::Index(_), .. } => Exit::Identity,
            SyncError::Line(LineError::Io(_)) => Exit::Connection,
            SyncError::Line(LineError::Timeout(_) | LineError::Stalled(_)) => Exit::Timeout,
            SyncError::Line(LineError::Protocol(error)) => Exit::of_protocol(error),
            SyncError::Line(LineError::Halted(code, _)) => Exit::of_code(*code),
        }
    }

    /// The exit that a request to a daemon, or of one, leads to.
    pub(super) fn of_service(error: &ServiceError) -> Exit {
        match error {
            ServiceError::NoModule(_) => Exit::Start,
            ServiceError::Refused(code, _) => Exit::of_code(*code),
            ServiceError::Sync(error) => Exit::of(error),
            ServiceError::Decode(_) => Exit::Stream,
            ServiceError::TooSlow(_) => Exit::Timeout,
            ServiceError::Audit(_) => Exit::FileIo,
            ServiceError::Io(_) => Exit::Connection,
        }
    }

    fn of_protocol(error: &ProtocolError) -> Exit {
        match error {
            ProtocolError::NotPsync(_) | ProtocolError::Incompatible { .. } => Exit::Incompatible,
            ProtocolError::Peer { code, .. } => Exit::of_code(*code),
            ProtocolError::Decode { .. }
            | ProtocolError::Unexpected { .. }
            | ProtocolError::Contradiction(_)
            | ProtocolError::OutOfBounds(_)
            | ProtocolError::Ended(_) => Exit::Stream,
        }
    }

    /// The exit that the other end's error leads to.
    fn of_code(code: ErrorCode) -> Exit {
        match code {
            ErrorCode::Incompatible => Exit::Incompatible,
            ErrorCode::Root | ErrorCode::Io => Exit::FileIo,
            ErrorCode::Busy | ErrorCode::Guard => Exit::Guard,
            ErrorCode::Clone | ErrorCode::RolledBack | ErrorCode::StartAnew => Exit::Identity,
            ErrorCode::Refused | ErrorCode::Signature => Exit::Identity,
            ErrorCode::SameRoot => Exit::Usage,
            ErrorCode::Other | ErrorCode::Protocol => Exit::Stream,
        }
    }
}
