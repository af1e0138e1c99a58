//! psync keeps two directory trees the same, in both directions, over slow and broken links.
//!
//! ARCHITECTURE.md draws the layers and says in which order to read them.

pub mod apply;
pub mod cli;
pub mod daemon;
pub mod database;
pub mod delta;
pub mod identity;
pub mod index;
pub mod journal;
pub mod manifest;
pub mod merge;
pub mod reconcile;
pub mod report;
pub mod root;
pub mod scan;
pub mod settings;
pub mod store;
pub mod sync;
pub mod transport;
