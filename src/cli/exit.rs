//! Exit codes: rsync's where it has one, psync's own from 40.

use psync_protocol::{ErrorCode, ProtocolError};

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
    /// There were conflicts; both versions are kept.
    Conflicts = 40;
    /// A guard stopped the run before the first change.
    Guard = 41;
    /// Identity or state needs a person.
    Identity = 42;
}

impl Exit {
    /// The exit that an error leads to.
    pub(super) fn of(error: &SyncError) -> Exit {
        match error {
            SyncError::Filter(_) | SyncError::SameRoot => Exit::Usage,
            SyncError::Root { .. }
            | SyncError::ReadOnly(_)
            | SyncError::State { .. }
            | SyncError::Config(_) => Exit::FileIo,
            SyncError::OtherDirectory { .. } => Exit::Guard,
            SyncError::Scan { error: ScanError::Emptied(_), .. }
            | SyncError::TooManyDeletions(_) => Exit::Guard,
            SyncError::Scan { error: ScanError::Root(_), .. } => Exit::FileIo,
            SyncError::Open { .. } if error.code() == ErrorCode::Busy => Exit::Guard,
            SyncError::Open { .. } => Exit::FileIo,
            SyncError::Clone
            | SyncError::RolledBack
            | SyncError::StartAnew
            | SyncError::Index(_) => Exit::Identity,
            SyncError::Scan { error: ScanError::Index(_), .. } => Exit::Identity,
            SyncError::Line(LineError::Io(_)) => Exit::Connection,
            SyncError::Line(LineError::Timeout(_)) => Exit::Timeout,
            SyncError::Line(LineError::Protocol(error)) => Exit::of_protocol(error),
        }
    }

    fn of_protocol(error: &ProtocolError) -> Exit {
        match error {
            ProtocolError::NotPsync(_) | ProtocolError::Incompatible { .. } => Exit::Incompatible,
            ProtocolError::Peer { code, .. } => match code {
                ErrorCode::Incompatible => Exit::Incompatible,
                ErrorCode::Root | ErrorCode::Io => Exit::FileIo,
                ErrorCode::Busy | ErrorCode::Guard => Exit::Guard,
                ErrorCode::Clone | ErrorCode::RolledBack | ErrorCode::StartAnew => Exit::Identity,
                ErrorCode::SameRoot => Exit::Usage,
                ErrorCode::Other | ErrorCode::Protocol => Exit::Stream,
            },
            ProtocolError::Decode { .. }
            | ProtocolError::Unexpected { .. }
            | ProtocolError::Contradiction(_)
            | ProtocolError::Ended(_) => Exit::Stream,
        }
    }
}
