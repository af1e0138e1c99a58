//! What an end says of its tree, and what it answers to the other's: rows as values, without the
//! database that keeps them or the line that carries them.

mod answer;
mod database;
mod fold;
mod known;
mod permit;
mod tree;

pub use answer::{Answered, Own, Terms, answer};
pub use database::{database_of, with_companions};
pub use fold::{Folded, fold, room, unfold};
pub use known::{Numbered, Reference, References, Trace, Unnumbered, WORTH, number, unnumber};
pub use permit::{Permit, Rights};
#[cfg(test)]
pub(crate) use tree::plain_from;
pub use tree::{
    Found, Outline, differences, find_common, plain, their_row, tree, unknown_differences, untold,
};

use psync_protocol::{ContentHash, RelPath, Row};

/// 64 bits that stand for kind, size, mode, times and inode of a file as it was when its content
/// was last known. A file that was changed keeps its stamp with probability 2^-64. Zero: unknown,
/// look at the file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// No file has this stamp.
    pub const UNKNOWN: Stamp = Stamp(0);
}

/// A row of an index: what is stated to peers, and what only this replica needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What peers are told.
    pub row: Row<ContentHash>,
    /// What the file looked like when it was last hashed.
    pub stamp: Stamp,
    /// Its inode then: tells a moved file from a copied one.
    pub inode: u64,
    /// Whether some peer is known to have this content: then the next change builds on it.
    pub shared: bool,
    /// When it was found deleted, in seconds since 1970; zero for what lives.
    pub deleted_at: i64,
}

impl Stored {
    /// What stands for the row of a path that is in no index.
    pub fn absent(path: RelPath) -> Stored {
        let stamp = Stamp::UNKNOWN;
        Stored { row: Row::absent(path), stamp, inode: 0, shared: false, deleted_at: 0 }
    }
}

/// Whether an end can take part at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalAccess {
    /// It can.
    Open,
    /// A filter leaves it alone.
    Ignored,
    /// It cannot be read now.
    Blind,
}
