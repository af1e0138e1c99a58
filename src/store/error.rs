//! What may go wrong with a store.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::database;

/// Why the store cannot do what it was asked for. Never a reason to end a sync.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite's own.
    #[error("the store of old contents: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A file of the store could not be handled.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The content to be kept could not be read.
    #[error("cannot read what is to be kept: {0}")]
    Unreadable(io::Error),
    /// A newer psync made it.
    #[error("the store of old contents has format {0} of a newer psync")]
    Newer(i64),
    /// It holds what no psync writes.
    #[error("the store of old contents makes no sense ({0})")]
    Nonsense(&'static str),
}

impl StoreError {
    /// Whether the database itself is damaged, so that it is of no use.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Sqlite(error) => database::is_damage(error),
            StoreError::Nonsense(_) => true,
            StoreError::Io { .. } | StoreError::Unreadable(_) | StoreError::Newer(_) => false,
        }
    }
}
