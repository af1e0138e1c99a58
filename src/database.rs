//! Opening a SQLite database: the file itself, and not whatever somebody has put in its place.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, ffi};

/// To read and write a database, which is made if there is none.
pub const MAKE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_CREATE)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Opens the database at a path in which no name may be a symbolic link. What is no file is refused,
/// in the place of what belongs to it, too:
/// SQLite would wait for the other end of a FIFO.
pub fn open(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut path = path.as_os_str().to_os_string();
        path.push(suffix);
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            let text =
                format!("{}: is no file; something else was put in its place", path.display());
            return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(text)));
        }
    }
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)
}

/// Whether an error says that the database itself is damaged, and not that it cannot be used now.
pub fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        // A table that is missing, in a database that says that it has it.
        Error::SqlInputError { .. }
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..) => true,
        _ => false,
    }
}
