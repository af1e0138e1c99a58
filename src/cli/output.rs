//! Where the lines of a run go: to the screen, to the log of a pair, or to both.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use psync_protocol::path::steers_a_terminal;

use super::run::print_out;

/// From this size on a log is set aside as `NAME.1` before it is written to, in bytes.
const LOG_MAX: u64 = 1 << 20;

/// Where lines go.
#[derive(Debug)]
pub(super) struct Output {
    screen: bool,
    log: Option<Mutex<File>>,
}

impl Output {
    /// To the screen only.
    pub(super) const SCREEN: Output = Output { screen: true, log: None };

    /// To a log, and to the screen if it shall be `seen`.
    pub(super) fn to_log(log: File, seen: bool) -> Output {
        Output { screen: seen, log: Some(Mutex::new(log)) }
    }

    /// Whether somebody sees it.
    pub(super) fn is_seen(&self) -> bool {
        self.screen
    }

    /// A line to standard output.
    pub(super) fn say(&self, line: &str) {
        if self.screen {
            print_out(&format!("{line}\n"));
        }
        self.log(line);
    }

    /// A line to standard error.
    pub(super) fn complain(&self, line: &str) {
        if self.screen {
            let _ = writeln!(io::stderr(), "{}", tame(line));
        }
        self.log(line);
    }

    /// A line to the log alone. A log that cannot be written any more stops no run.
    fn log(&self, line: &str) {
        if let Some(log) = &self.log {
            let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{}", tame(line));
        }
    }
}

/// A text in which nothing steers a terminal, but that it has lines and tabs. Names are made printable
/// where they are put into words; in JSON they are as they are, and JSON alone leaves some of these
/// characters as they are. An escape is JSON's own, so that an object stays what it is.
pub(super) fn tame(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c != '\n' && c != '\t' && steers_a_terminal(c);
    if !text.contains(steers) {
        return text.into();
    }
    let escaped = |c: char| match steers(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect::<String>().into()
}

/// Words in lines of 80 columns at most, each after so many spaces. What has spaces in it, as names may,
/// keeps them.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > 79 {
            lines.push_str(&format!("{:indent$}{line}\n", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push_str(&format!("{:indent$}{line}\n", ""));
    }
    lines
}

/// A line, and what follows in it if that fits 80 columns; else that stands below, after so many
/// spaces.
pub(super) fn line_and(line: &str, joint: &str, rest: &str, indent: usize) -> String {
    let long = line.chars().count() + joint.chars().count() + rest.chars().count() > 80;
    match (rest.is_empty(), long) {
        (true, _) => format!("{line}\n"),
        (false, false) => format!("{line}{joint}{rest}\n"),
        (false, true) => format!("{line}\n{}", wrapped(rest, indent)),
    }
}

/// Opens a log to write at its end; one that has become long is set aside first. Only its owner
/// may read it: it names files.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_MAX) {
        let mut aside = path.as_os_str().to_os_string();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
