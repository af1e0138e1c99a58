//! The wire protocol of psync, without input or output.
//!
//! Bytes go in and messages come out, or the other way round; whoever holds the pipe or socket
//! moves the bytes. `SPEC.md` beside this crate describes the same protocol for somebody who
//! writes another implementation.
//!
//! Read in this order: [`path`], [`version`] and [`entry`] are the words; [`codec`] writes and
//! reads numbers; [`manifest`], [`decision`] and [`message`] put words into messages; [`frame`]
//! puts messages on the line; [`session`] says which message may come when.

pub mod bounds;
pub mod changes;
pub mod codec;
pub mod decision;
pub mod entry;
pub mod error;
pub mod frame;
pub mod manifest;
pub mod message;
pub mod path;
pub mod service;
pub mod session;
pub mod signed;
pub mod version;

pub use bounds::{Bounds, OutOfBounds, Tally};
pub use decision::{ContentDecision, Decision, PropsDecision};
pub use entry::{Check, CheckKey, Content, ContentHash, Props, Row, Time};
pub use error::{DecodeError, ErrorCode, ProtocolError};
pub use message::Message;
pub use path::RelPath;
pub use version::{IndexId, Relation, ReplicaId, Version};

/// The oldest protocol version that this build speaks.
pub const VERSION_MIN: u64 = 1;
/// The newest protocol version that this build speaks.
pub const VERSION_MAX: u64 = 1;

/// The two ends of a session. The initiator is the one that a person started; it speaks first and
/// makes the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Speaks first, plans.
    Initiator,
    /// Answers; checks the plan against what it knows itself.
    Responder,
}

impl Role {
    /// The other end.
    pub fn other(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }
}
