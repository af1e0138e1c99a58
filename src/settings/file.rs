//! A `psync.toml`: its text becomes a layer, and layers for the pairs that it names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use toml::de::{DeTable, DeValue};

use super::keys::{self, TABLES};
use super::layer::{Layer, Speaker};
use super::nearest::did_you_mean;
use super::origin::{Level, Origin, Set, SettingsError};
use super::rule::PathRule;
use super::value::Written;

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What a file says.
#[derive(Debug, Clone, Default)]
pub(super) struct Settled {
    /// For all runs.
    pub(super) layer: Layer,
    /// For pairs, by their names, with the place where each begins.
    pub(super) pairs: BTreeMap<String, Set<Layer>>,
}

fn is_reachable(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Reads a file; where there is none, it says nothing.
pub(super) fn read(path: &Path, level: Level) -> Result<Settled, SettingsError> {
    match text_of(path, level) {
        Ok(text) => parse(&text, path, level),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settled::default()),
        // A file above it that is no directory.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Settled::default()),
        // A directory that cannot be entered: whoever opens the root says so.
        Err(_) if level == Level::Root && !is_reachable(path) => Ok(Settled::default()),
        Err(error) => Err(SettingsError::in_file(
            path,
            None,
            &format!("the settings cannot be read: {error}"),
        )),
    }
}

/// A root's file may have come over the line: no link is followed out of the root, and nothing
/// that is no file (which might never end) is read.
fn text_of(path: &Path, level: Level) -> io::Result<String> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if level == Level::Root {
        flags |= OFlags::NOFOLLOW;
    }
    let file = openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP => io::Error::other("it is a symbolic link, and has to be a file"),
        error => error.into(),
    })?;
    let file = File::from(file);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > FILE_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        io::Error::other(format!("line {} is not UTF-8", line_after(before)))
    })
}

/// The line that begins or goes on after these bytes, counted from one.
fn line_after(before: &[u8]) -> usize {
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// Understands the text of a file.
pub(super) fn parse(text: &str, path: &Path, level: Level) -> Result<Settled, SettingsError> {
    let table = DeTable::parse(text).map_err(|error| {
        let at =
            error.span().map(|span| line_after(&text.as_bytes()[..span.start.min(text.len())]));
        SettingsError::in_file(path, at, error.message())
    })?;
    let mut reader =
        Reader { path: Arc::new(path.to_path_buf()), text, level, settled: Settled::default() };
    reader.read(table.get_ref())?;
    Ok(reader.settled)
}

struct Reader<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
    level: Level,
    settled: Settled,
}

impl Reader<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        Origin::File { level: self.level, path: self.path.clone(), line: line_after(before) }
    }

    fn read(&mut self, table: &DeTable<'_>) -> Result<(), SettingsError> {
        let speaker = if self.level == Level::Root { Speaker::Root } else { Speaker::Person };
        let mut layer = Layer::default();
        for (key, value) in table {
            if key.get_ref() == "pair" {
                self.pairs(value.get_ref(), &self.origin(key.span().start))?;
            } else {
                self.entry(&mut layer, key.get_ref(), key.span().start, value.get_ref(), speaker)?;
            }
        }
        self.settled.layer = layer;
        Ok(())
    }

    /// One key of the file, or of a pair's table, with its value.
    fn entry(
        &self,
        layer: &mut Layer,
        name: &str,
        at: usize,
        value: &DeValue<'_>,
        speaker: Speaker,
    ) -> Result<(), SettingsError> {
        let origin = self.origin(at);
        match (name, value) {
            ("rule", value) => self.rules(layer, value, &origin),
            ("policy", DeValue::String(_)) => layer.set_all_policies(Written::Toml(value), &origin),
            (table, DeValue::Table(entries)) if TABLES.contains(&table) => {
                for (key, value) in entries {
                    let origin = self.origin(key.span().start);
                    let name = format!("{table}.{}", key.get_ref());
                    layer.set(&name, Written::Toml(value.get_ref()), &origin, speaker)?;
                }
                Ok(())
            }
            (table, _) if TABLES.contains(&table) => {
                let text = format!("{table} is a table, as in [{table}]");
                Err(SettingsError::at(&origin, &text))
            }
            (name, DeValue::Table(_)) if keys::named(name).is_none() => {
                let known = TABLES.into_iter().chain(["pair"]);
                let shown = psync_protocol::path::printable(name.as_bytes());
                let text = format!("there is no table [{shown}]{}", did_you_mean(name, known));
                Err(SettingsError::at(&origin, &text))
            }
            _ => layer.set(name, Written::Toml(value), &origin, speaker),
        }
    }

    fn rules(
        &self,
        layer: &mut Layer,
        value: &DeValue<'_>,
        origin: &Origin,
    ) -> Result<(), SettingsError> {
        let wrong =
            || SettingsError::at(origin, "rules are written as [[rule]], one after the other");
        for rule in value.as_array().ok_or_else(wrong)? {
            let table = rule.get_ref().as_table().ok_or_else(wrong)?;
            let rule = PathRule::read(table, rule.span().start, &|at| self.origin(at))?;
            layer.rules.push(rule);
        }
        Ok(())
    }

    fn pairs(&mut self, value: &DeValue<'_>, origin: &Origin) -> Result<(), SettingsError> {
        if self.level == Level::Root {
            let text = "a root's file may not name pairs, as it may have come over the line; they belong in the user's psync.toml";
            return Err(SettingsError::at(origin, text));
        }
        let wrong = |origin: &Origin| {
            SettingsError::at(origin, "a pair is written as a table of its own, [pair.NAME]")
        };
        for (name, table) in value.as_table().ok_or_else(|| wrong(origin))? {
            let origin = self.origin(name.span().start);
            let table = table.get_ref().as_table().ok_or_else(|| wrong(&origin))?;
            if !is_pair_name(name.get_ref()) {
                let text = format!(
                    "'{}' is not a name for a pair: letters, digits, '-', '_' and '.', a letter or digit first",
                    psync_protocol::path::printable(name.get_ref().as_bytes())
                );
                return Err(SettingsError::at(&origin, &text));
            }
            let mut layer = Layer::default();
            for (key, value) in table {
                let at = key.span().start;
                self.entry(&mut layer, key.get_ref(), at, value.get_ref(), Speaker::Pair)?;
            }
            self.settled.pairs.insert(name.get_ref().to_string(), Set { value: layer, origin });
        }
        Ok(())
    }
}

/// A pair's name is typed as a word, and names a log file.
fn is_pair_name(name: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(char::is_alphanumeric) && name.len() <= 64 && name.chars().all(fits)
}
