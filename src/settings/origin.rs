//! Where a setting was made, and what is wrong with one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use psync_protocol::path::printable;
use std::os::unix::ffi::OsStrExt;
use thiserror::Error;

/// The files that may hold settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `.psync.toml` at the top of a root: it may have come over the line.
    Root,
    /// The person's own.
    User,
    /// That of the machine.
    System,
}

impl Level {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Root => "root",
            Level::User => "user",
            Level::System => "system",
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// A line of a file, counted from one.
    File {
        /// Which of the files.
        level: Level,
        /// Its path.
        path: Arc<PathBuf>,
        /// The line, counted from one.
        line: usize,
    },
    /// A variable of the environment, by its name.
    Environment(String),
    /// An option, as it is typed.
    CommandLine(String),
}

impl Origin {
    /// The word for the layer: `default`, `root`, `user`, `system`, `environment` or
    /// `command-line`.
    pub fn layer(&self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::File { level, .. } => level.name(),
            Origin::Environment(_) => "environment",
            Origin::CommandLine(_) => "command-line",
        }
    }

    /// Of two places the one with the higher number overrides the other.
    pub(super) fn strength(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File { level: Level::Root, .. } => 1,
            Origin::File { level: Level::User, .. } => 2,
            Origin::File { level: Level::System, .. } => 3,
            Origin::Environment(_) => 4,
            Origin::CommandLine(_) => 5,
        }
    }

    /// Whether it was said for this run, and not once for all.
    pub(super) fn is_of_this_run(&self) -> bool {
        matches!(self, Origin::Environment(_) | Origin::CommandLine(_))
    }

    /// What a person calls the setting of this key that was made here.
    pub(super) fn call(&self, key: &str) -> String {
        match self {
            Origin::Default | Origin::File { .. } => format!("{self}: {key}"),
            Origin::Environment(name) => name.clone(),
            Origin::CommandLine(typed) => typed.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, .. } => write!(f, "{}, line {line}", shown(path)),
            Origin::Environment(name) => f.write_str(name),
            Origin::CommandLine(typed) => f.write_str(typed),
        }
    }
}

/// A path for people.
pub(super) fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes()).to_string()
}

/// A value, and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<T> {
    /// What it is.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

/// Settings that cannot be used. The text names file and line, variable or option, and says what
/// would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct SettingsError {
    text: String,
    in_file: bool,
}

impl SettingsError {
    /// A fault in a file.
    pub(super) fn in_file(path: &Path, line: Option<usize>, text: &str) -> SettingsError {
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        SettingsError { text: format!("{}{line}: {text}", shown(path)), in_file: true }
    }

    /// A fault in the setting of a key.
    pub(super) fn of_key(origin: &Origin, key: &str, text: &str) -> SettingsError {
        let in_file = matches!(origin, Origin::File { .. });
        SettingsError { text: format!("{}: {text}", origin.call(key)), in_file }
    }

    /// A fault at a place that is no key.
    pub(super) fn at(origin: &Origin, text: &str) -> SettingsError {
        let in_file = matches!(origin, Origin::File { .. });
        SettingsError { text: format!("{origin}: {text}"), in_file }
    }

    /// A fault in what was typed.
    pub fn typed(text: String) -> SettingsError {
        SettingsError { text, in_file: false }
    }

    /// Whether a file is at fault, and not what was typed or the environment.
    pub fn is_in_file(&self) -> bool {
        self.in_file
    }
}
