//! Reconciling two trees: from both manifests to a plan, without touching anything. Values in,
//! values out.

mod clash;
mod decide;
mod draft;
mod guard;
mod tell;
mod verify;

#[cfg(test)]
mod tests;

pub use clash::clash_name;
pub use decide::{Context, Fate, Policy, Rows, Ruling, decide};
pub use draft::{Draft, Keys, Local, draft};
pub use guard::{DeleteLimit, Tripped, check_deletions, count_deletions};
pub use tell::actions;
pub use verify::{changes_responder, verify};
