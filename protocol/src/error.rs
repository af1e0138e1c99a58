//! What can be wrong with bytes or with the order of messages, and what is told to the peer.

use thiserror::Error;

/// Bytes that are not what the specification says. The peer (or the line) is at fault.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The payload ends inside a field.
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    /// A count, length or number is above its limit. Checked before anything is allocated.
    #[error("{what} is {value}, above the limit of {limit}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// What the peer said.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A field has a value that has no meaning.
    #[error("{0} has a value without meaning")]
    Invalid(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over after the last field of {1}")]
    Trailing(usize, &'static str),
    /// A path that could reach outside the root, or that no file system could hold.
    #[error("a path is refused: {0}")]
    Path(#[from] crate::path::PathError),
    /// The compressed stream is damaged.
    #[error("the compressed stream is damaged: {0}")]
    Stream(String),
}

/// A message that cannot be accepted, or a peer that cannot be talked to.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// The bytes of a message are wrong.
    #[error("the peer sent a broken {message} message: {error}")]
    Decode {
        /// The message's name.
        message: &'static str,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The message is well formed but may not come now.
    #[error("the peer sent {got} where {state} allows only {allowed}")]
    Unexpected {
        /// The message that came.
        got: &'static str,
        /// The state of this end.
        state: &'static str,
        /// What this state accepts.
        allowed: &'static str,
    },
    /// The first bytes are not psync's: a shell that prints a banner, or another program.
    #[error("the other end does not speak psync: its first bytes are {0:?}")]
    NotPsync(String),
    /// No protocol version is known to both ends.
    #[error(
        "no common protocol version: this end speaks {ours_min} to {ours_max}, the other {theirs_min} to {theirs_max}; update the older one"
    )]
    Incompatible {
        /// Our oldest.
        ours_min: u64,
        /// Our newest.
        ours_max: u64,
        /// Their oldest.
        theirs_min: u64,
        /// Their newest.
        theirs_max: u64,
    },
    /// The peer's statements contradict each other.
    #[error("the peer contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The peer goes beyond a limit that this end has set.
    #[error(transparent)]
    OutOfBounds(#[from] crate::bounds::OutOfBounds),
    /// The peer gave up and said why.
    #[error("{text}")]
    Peer {
        /// The kind of trouble.
        code: ErrorCode,
        /// The peer's own words, already made safe to print.
        text: String,
    },
    /// The line ended before the session did.
    #[error("the connection ended too early ({0}); run psync again: it goes on where it stopped")]
    Ended(&'static str),
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why an end gave up, as a number that travels in an `Error` message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, for tests and documents.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The number on the line.
            pub fn number(self) -> u64 {
                match self { $(ErrorCode::$name => $code,)* }
            }

            /// The code for a number; a number of a newer build is [`ErrorCode::Other`].
            pub fn from_number(number: u64) -> ErrorCode {
                match number { $($code => ErrorCode::$name,)* _ => ErrorCode::Other }
            }

            /// A few words for documents and logs.
            pub fn describe(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }
        }
    };
}

error_codes! {
    /// Anything that has no number of its own.
    Other = 0, "other trouble";
    /// The message that came was wrong.
    Protocol = 1, "the peer broke the protocol";
    /// No common version.
    Incompatible = 2, "no common protocol version";
    /// The root is missing, not a directory, or may not be read.
    Root = 3, "the root cannot be used";
    /// Another psync works on the root.
    Busy = 4, "another psync works on this root";
    /// A guard stopped the run before the first change.
    Guard = 5, "a guard stopped the run";
    /// Both ends have the same replica id: one is a copy of the other, state included.
    Clone = 6, "both roots have the same identity";
    /// Both paths are the same directory, or one lies inside the other.
    SameRoot = 7, "the roots overlap";
    /// Reading or writing failed for the whole run.
    Io = 8, "input or output failed";
    /// The initiator's state is older than what the responder knows of it.
    RolledBack = 9, "the peer's state was rolled back";
    /// The responder's own state was rolled back; it is set aside at the next session.
    StartAnew = 10, "the responder has to start anew; try again at once";
    /// The peer has no right to what it wants.
    Refused = 11, "the peer may not do this";
    /// What the peer has signed was not signed with its key, or it shows another key than before.
    Signature = 12, "the peer's signature or key is not what it should be";
}
