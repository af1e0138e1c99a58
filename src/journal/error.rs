//! What may go wrong with a journal.

use thiserror::Error;

use crate::database;

/// Why the journal cannot do what it was asked for. Never a reason to end a sync.
#[derive(Debug, Error)]
pub enum JournalError {
    /// SQLite's own.
    #[error("the journal: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A newer psync made it.
    #[error("the journal has format {0} of a newer psync")]
    Newer(i64),
    /// It holds what no psync writes.
    #[error("the journal holds something that makes no sense ({0})")]
    Nonsense(&'static str),
    /// A file could not be handled.
    #[error("the journal: {0}")]
    Io(#[from] std::io::Error),
}

impl JournalError {
    /// Whether the database itself is of no use, so that it has to be set aside.
    pub fn is_damage(&self) -> bool {
        match self {
            JournalError::Sqlite(error) => database::is_damage(error),
            JournalError::Nonsense(_) | JournalError::Newer(_) => true,
            JournalError::Io(_) => false,
        }
    }
}
