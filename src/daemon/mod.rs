//! Serving roots to machines that may have them: who may come in, how many at a time, what they
//! asked for. A session itself is [`crate::sync`]'s business.

mod audit;
mod gate;
mod limits;
mod listen;
mod lock;
mod log;
mod modules;
mod pairing;
mod service;
mod sessions;
mod systemd;
mod throttle;
mod visitor;

pub use audit::{Audit, AuditError};
pub use limits::{Limits, SessionLimits};
pub use listen::{Daemon, ListenError, Setup};
pub use lock::{RunLock, RunLockError};
pub use log::{Detail, Manner, start as start_log};
pub use modules::{LogFile, Module, Modules, ModulesError};
pub use pairing::{Meeting, PAIRING_PORT, PairingError, Side, await_call};
pub use service::{
    Habits, Served, ServiceError, Visit, Wire, ask_for_modules, request_sync, serve,
};
pub use systemd::{Notifier, listeners};
pub use visitor::by_shell;

use crate::identity::AuthorizedPeers;

/// The port that a daemon listens on where nobody says another one. No service has it.
pub const PORT: u16 = 8730;
/// The file of modules, in the directory of a person's configuration.
pub const MODULES_FILE: &str = "psyncd.toml";

/// What is served, and to whom: both can be read anew while a daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// What there is.
    pub modules: Modules,
    /// Who may have it.
    pub authorized: AuthorizedPeers,
}
