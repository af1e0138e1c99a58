//! Reconciling two trees: from both manifests to a plan, without touching anything. Values in,
//! values out.

mod agreed_plan;
mod clash;
mod counsel;
mod decide;
mod draft;
mod guard;
mod matter;
mod names;
mod permitted;
mod policy;
mod rulebook;
mod tell;
mod units;
mod verify;

#[cfg(test)]
mod tests;

pub use agreed_plan::{
    AgreedPlan, PathPlan, Restricted, describe, restrict, restrict_to, version_in_words,
};
pub use clash::clash_name;
pub use counsel::{BadRule, Counsel, Spoken};
pub use decide::{Context, Fate, Rows, Ruling, decide};
pub use draft::{Draft, Keys, Local, Terms, draft};
pub use guard::{
    ChangeLimit, DeleteLimit, Flooded, Tripped, check_changes, check_deletions, count_deletions,
    deletions,
};
pub use names::Folding;
pub use permitted::{Forbidden, permitted};
pub use rulebook::{Choice, Mode, Policy, Rule, Rulebook};
pub use tell::actions;
pub use units::{Shapes, Unit, Units};
pub use verify::{changes_responder, may_send, verify};
