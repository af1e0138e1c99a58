//! The files of a SQLite database, by their names.

use psync_protocol::RelPath;

/// What SQLite puts beside a database, by the end of the name.
const COMPANIONS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

/// The database that a path would belong to by its name.
pub fn database_of(path: &RelPath) -> Option<RelPath> {
    let name = path.name();
    let stem = COMPANIONS.iter().find_map(|companion| name.strip_suffix(*companion))?;
    path.with_name(stem).ok()
}

/// A database and what SQLite may have put beside it.
pub fn with_companions(database: &RelPath) -> impl Iterator<Item = RelPath> {
    let names = COMPANIONS.map(|companion| [database.name(), companion].concat());
    let companions: Vec<RelPath> =
        names.into_iter().filter_map(|name| database.with_name(&name).ok()).collect();
    std::iter::once(database.clone()).chain(companions)
}
