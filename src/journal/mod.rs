//! The journal of a replica: what each run did to which path of its tree, from what to what, why, and
//! where the old content is. It is what `log`, `history`, `restore` and `undo` read.
//!
//! # Format
//!
//! `journal.db` beside the index is an SQLite database in WAL mode, whose `PRAGMA user_version` is 1.
//!
//! | table | a row is |
//! |---|---|
//! | `runs` | a run: its number here, the id that both ends have for it, when it began and ended, what kind of run it was, whom it was with and how to reach them again, how it ended, and what it did here in numbers |
//! | `deeds` | what a run did to one path here: before and after, where the old content went, why. The first `confirmed` deeds of a run have been done; further ones were announced when the run broke |
//! | `reasons` | a rule or reason in words; deeds refer to it by number |
//! | `edits` | a change that was made here between runs, as the next scan found it |
//! | `meta` | when the trash was last gone through |
//!
//! The states before and after are written by [`State::encode`].
//!
//! # What may happen to it
//!
//! No sync needs it. One that is damaged is set aside with a note, and one that cannot be written is
//! left alone for the run. Deeds are announced, durably, before the tree is touched, so a run that
//! breaks leaves no change that is not in it.

mod error;
mod kind;
mod open;
mod read;
mod record;
mod retention;
mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod write;

pub use error::JournalError;
pub use kind::{Counts, Edit, Kept, Reach, RunId, RunKind, What};
pub use open::Journal;
pub use read::{DeedRow, Ending, RunRow};
pub use record::{Correction, Deed, Reasons, Recorder, RunStart, Witness};
pub use retention::{PathRule, Retention, TrashBudget, Trashed};
pub use state::{State, Thing};
pub use write::now;
