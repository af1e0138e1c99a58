//! What the commands about the past have in common: the journal, read while a run may be at work,
//! and how moments, contents and failures are shown.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches};
use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use psync_protocol::path::printable;
use psync_protocol::{ContentHash, RelPath};
use serde_json::{Map, Value};

use super::exit::Exit;
use super::json::{self, put_path};
use super::run::{print_out, state_home};
use super::subject::{self, Failure};
use crate::journal::{Journal, Kept, Reach, RunRow, State, Thing};
use crate::root::Root;
use crate::sync;

/// A root and its journal, to be read.
pub(super) struct Past {
    pub(super) root: Root,
    pub(super) state: PathBuf,
    pub(super) journal: Option<Journal>,
}

/// Opens the journal of a root without taking its lock.
pub(super) fn open(matches: &ArgMatches, root: &Path) -> Result<Past, Failure> {
    let home = state_home(matches.get_one::<PathBuf>("state-dir").cloned());
    let (root, state) = sync::state_dir(root, &home)
        .map_err(|error| Failure::new(Exit::of(&error), error.to_string()))?;
    let journal = Journal::read(&state).map_err(unreadable)?;
    Ok(Past { root, state, journal })
}

/// The root of a command that may be about a path: that of the path, else of this directory.
pub(super) fn root_and_path(
    matches: &ArgMatches,
    typed: Option<&PathBuf>,
) -> Result<(PathBuf, Option<RelPath>), Failure> {
    match typed {
        None => Ok((subject::root(matches, Path::new("."))?, None)),
        Some(typed) => {
            let (root, path) = subject::path_in_root(matches, typed)?;
            Ok((root, Some(path)))
        }
    }
}

/// What is wrong with a journal, as a failure of a command.
pub(super) fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::FileIo, error.to_string())
}

/// `--json`.
pub(super) fn json_argument() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Say it as JSON, an object a line")
}

/// Runs a command whose failure is told in the way that was asked for.
pub(super) fn told(matches: &ArgMatches, result: Result<Exit, Failure>) -> Exit {
    result.unwrap_or_else(|failure| failure.told(matches.get_flag("json")))
}

/// Prints an object.
pub(super) fn object(value: Value) {
    print_out(&format!("{value}\n"));
}

/// Says what a person should not miss. Whatever was typed or found, it cannot steer a terminal.
pub(super) fn complain(lines: &str) {
    // Whoever closed it does not want to hear more.
    let _ = write!(std::io::stderr(), "{}", harmless(lines));
}

/// Lines whose contents cannot steer a terminal. Tabs, and returns at line ends, stay.
pub(super) fn harmless(text: &str) -> String {
    let line = |line: &str| {
        let parts = line.split('\t').map(|part| match part.contains('\\') {
            // A backslash harms nobody, and stays as it is.
            true => part
                .split('\\')
                .map(|part| printable(part.as_bytes()))
                .collect::<Vec<_>>()
                .join("\\"),
            false => printable(part.as_bytes()),
        });
        parts.collect::<Vec<_>>().join("\t") + "\n"
    };
    text.lines().map(line).collect()
}

/// A moment in the person's own time, to the second.
pub(super) fn moment(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "-".into(),
    }
}

/// A number of things, as in `1 path` or `2 paths`.
pub(super) fn count(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", HumanCount(number))
}

/// The beginning of a hash.
pub(super) fn hash_prefix(hash: &ContentHash) -> String {
    hash.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whom a run was with.
pub(super) fn with_whom(run: &RunRow) -> String {
    match (&run.reach, run.peer) {
        (Reach { location, .. }, _) if !location.is_empty() => printable(location.as_bytes()),
        (_, Some(peer)) => format!("replica {}", &peer.to_string()[..8]),
        (_, None) => "nobody".into(),
    }
}

/// A state for scripts; null where nothing stands.
pub(super) fn state_value(state: Option<&State>) -> Value {
    let Some(State { thing, props }) = state else { return Value::Null };
    let mut map = Map::new();
    match thing {
        Thing::Directory => {
            map.insert("kind".into(), "directory".into());
        }
        Thing::File { size, hash } => {
            map.insert("kind".into(), "file".into());
            map.insert("size".into(), (*size).into());
            let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
            map.insert("hash".into(), hex.into());
        }
        Thing::Symlink { target } => {
            map.insert("kind".into(), "symlink".into());
            put_path(&mut map, "target", target);
        }
    }
    if !matches!(thing, Thing::Symlink { .. }) {
        map.insert("mode".into(), format!("{:04o}", props.mode).into());
    }
    if !matches!(thing, Thing::Directory) {
        map.insert("mtime".into(), json::time(props.mtime));
    }
    Value::Object(map)
}

/// Where an old content went, for scripts.
pub(super) fn kept_value(kept: &Kept) -> Value {
    match kept {
        Kept::Nothing => Value::Null,
        Kept::Trash(place) => {
            let mut map = Map::new();
            put_path(&mut map, "trash", place);
            Value::Object(map)
        }
        Kept::InTree => "tree".into(),
        Kept::Dropped => "dropped".into(),
    }
}

/// Names for a run of a person's own wish: its directory in the trash, and its id.
pub(super) fn new_run() -> (String, crate::journal::RunId) {
    let mut id = [0; 4];
    sync::random(&mut id);
    (super::run::run_names().trash, crate::journal::RunId(id))
}
