//! `psyncd.toml`: the roots that are served, each under a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use psync_protocol::message::Filter;
use psync_protocol::path::printable;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Detail, Limits, Manner, SessionLimits};
use crate::identity::is_module_name;
use crate::scan::Rules;
use crate::settings::did_you_mean;

/// A root that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, for `--list`.
    pub comment: String,
    /// Whether nobody may change it from outside, whatever was granted.
    pub read_only: bool,
    /// Whether `--list` names it to those who may use it.
    pub listed: bool,
    /// What is left alone, whatever a peer says.
    pub filters: Vec<Filter>,
    /// What one session with it may take.
    pub limits: SessionLimits,
}

/// What is written down of what happens, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogFile {
    /// How the log is written; none: as text.
    pub manner: Option<Manner>,
    /// How much is logged; none: as usual.
    pub detail: Option<Detail>,
    /// The file of the audit log; none: there is no audit log.
    pub audit: Option<PathBuf>,
}

/// What a daemon serves, how much of it, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modules {
    /// By name.
    pub modules: BTreeMap<String, Module>,
    /// Addresses with ports; none: every address, at the usual port.
    pub listen: Vec<String>,
    /// How much is taken on.
    pub limits: Limits,
    /// What is written down.
    pub log: LogFile,
}

/// A file of modules that cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{}, line {line}: {text}; nothing in the file counts until that is put right", .file.display())]
pub struct ModulesError {
    /// The file.
    pub file: PathBuf,
    /// Counted from one.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// What is wrong, and where in the text.
type Wrong = (usize, String);

fn wrong<T, R>(place: &Spanned<T>, text: impl Into<String>) -> Result<R, Wrong> {
    Err((place.span().start, text.into()))
}

impl Modules {
    /// Understands the text of such a file; `file` is its name, for errors.
    pub fn parse(text: &str, file: &Path) -> Result<Modules, ModulesError> {
        parse(text).map_err(|(at, reason)| {
            let before = text.as_bytes().get(..at).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            ModulesError { file: file.to_path_buf(), line, text: reason }
        })
    }
}

fn parse(text: &str) -> Result<Modules, Wrong> {
    let table = DeTable::parse(text).map_err(|error| {
        (error.span().map_or(0, |span| span.start), error.message().to_string())
    })?;
    let mut modules = Modules::default();
    // What holds for all modules holds wherever it stands.
    if let Some(value) = table.get_ref().get("limits") {
        modules.limits.read(value)?;
    }
    for (key, value) in table.get_ref() {
        match (&**key.get_ref(), value.get_ref()) {
            ("limits", _) => {}
            ("log", _) => modules.log = log(value)?,
            ("listen", _) => modules.listen = texts(value, "listen")?,
            ("module", DeValue::Table(table)) => {
                for (name, value) in table {
                    let module = module(name, value, modules.limits.session)?;
                    modules.modules.insert(name.get_ref().to_string(), module);
                }
            }
            ("module", _) => return wrong(key, "modules are written as [module.NAME]"),
            (other, _) => return unknown(key, other, &["listen", "module", "limits", "log"]),
        }
    }
    Ok(modules)
}

fn unknown<T, R>(place: &Spanned<T>, name: &str, known: &[&str]) -> Result<R, Wrong> {
    let hint = match did_you_mean(name, known.iter().copied()) {
        hint if hint.is_empty() => format!("; there are {}", known.join(", ")),
        hint => hint,
    };
    wrong(place, format!("psync knows no '{}' here{hint}", printable(name.as_bytes())))
}

fn log(value: &Spanned<DeValue<'_>>) -> Result<LogFile, Wrong> {
    let DeValue::Table(table) = value.get_ref() else {
        return wrong(value, "what is written down is a table, as in [log]");
    };
    let mut log = LogFile::default();
    for (key, value) in table {
        match &**key.get_ref() {
            "format" => {
                let manner = Manner::named(&text(value, "format")?);
                let Some(manner) = manner else { return wrong(value, "format is text or json") };
                log.manner = Some(manner);
            }
            "level" => {
                let detail = Detail::named(&text(value, "level")?);
                let words = Detail::WORDS.join(", ");
                let Some(detail) = detail else {
                    return wrong(value, format!("level is one of {words}"));
                };
                log.detail = Some(detail);
            }
            "audit" => {
                let path = PathBuf::from(text(value, "audit")?);
                if !path.is_absolute() {
                    return wrong(value, "audit is a path that begins with /");
                }
                log.audit = Some(path);
            }
            other => return unknown(key, other, &["format", "level", "audit"]),
        }
    }
    Ok(log)
}

fn module(
    name: &Spanned<impl AsRef<str>>,
    value: &Spanned<DeValue<'_>>,
    limits: SessionLimits,
) -> Result<Module, Wrong> {
    let DeValue::Table(table) = value.get_ref() else {
        return wrong(name, "modules are written as [module.NAME]");
    };
    if !is_module_name(name.get_ref().as_ref()) {
        return wrong(name, "a name has up to 64 letters, digits, '.', '_' and '-'");
    }
    let mut module = Module {
        path: PathBuf::new(),
        comment: String::new(),
        read_only: false,
        listed: true,
        filters: Vec::new(),
        limits,
    };
    for (key, value) in table {
        match &**key.get_ref() {
            "path" => module.path = PathBuf::from(text(value, "path")?),
            "comment" => module.comment = text(value, "comment")?,
            "read-only" => module.read_only = yes_or_no(value, "read-only")?,
            "list" => module.listed = yes_or_no(value, "list")?,
            "exclude" => module.filters = excluded(value)?,
            "limits" => module.limits.read(value)?,
            other => {
                let known = ["path", "comment", "read-only", "list", "exclude", "limits"];
                return unknown(key, other, &known);
            }
        }
    }
    match module.path.is_absolute() {
        true => Ok(module),
        false => wrong(name, "a module needs a path that begins with /"),
    }
}

fn text(value: &Spanned<DeValue<'_>>, name: &str) -> Result<String, Wrong> {
    match value.get_ref().as_str() {
        Some(text) if text.len() <= 4096 => Ok(text.to_string()),
        Some(_) | None => wrong(value, format!("{name} is a text of at most 4096 bytes")),
    }
}

fn yes_or_no(value: &Spanned<DeValue<'_>>, name: &str) -> Result<bool, Wrong> {
    value.get_ref().as_bool().map_or_else(|| wrong(value, format!("{name} is true or false")), Ok)
}

fn texts(value: &Spanned<DeValue<'_>>, name: &str) -> Result<Vec<String>, Wrong> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| text(item, name)).collect(),
        _ => wrong(value, format!("{name} is a list of texts")),
    }
}

fn excluded(value: &Spanned<DeValue<'_>>) -> Result<Vec<Filter>, Wrong> {
    let patterns = texts(value, "exclude")?.into_iter();
    let filters: Vec<Filter> = patterns.map(|pattern| Filter { include: false, pattern }).collect();
    match Rules::new(&filters) {
        Ok(_) => Ok(filters),
        Err(bad) => wrong(value, format!("'{}' is not a pattern: {}", bad.line, bad.reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Modules, ModulesError> {
        Modules::parse(text, Path::new("psyncd.toml"))
    }

    #[test]
    fn a_module_has_what_stands_below_its_name() {
        let text = "listen = ['127.0.0.1:99']\n[module.photos]\npath = '/srv/photos'\ncomment = 'ours'\n\
                    read-only = true\nlist = false\nexclude = ['*.tmp', '/cache/']\n[module.b]\npath = '/b'\n";
        let modules = parse(text).unwrap();
        assert_eq!(modules.listen, ["127.0.0.1:99"]);
        let photos = &modules.modules["photos"];
        assert_eq!(
            (photos.path.as_path(), photos.comment.as_str()),
            (Path::new("/srv/photos"), "ours")
        );
        assert!(photos.read_only && !photos.listed);
        assert_eq!(photos.filters.len(), 2);
        let b = &modules.modules["b"];
        assert!(!b.read_only && b.listed && b.filters.is_empty());
        assert_eq!(parse(""), Ok(Modules::default()));
    }

    #[test]
    fn a_module_may_have_limits_of_its_own_and_what_is_written_down_is_said_once() {
        let text = "[module.a]\npath = '/a'\nlimits = { entries = 7 }\n[module.b]\npath = '/b'\n\
                    [limits]\nentries = 100\nsessions = 3\n\
                    [log]\nformat = 'json'\nlevel = 'debug'\naudit = '/var/log/psync/audit'\n";
        let modules = parse(text).unwrap();
        let entries = |name| modules.modules[name].limits.bounds.entries;
        assert_eq!((entries("a"), entries("b"), modules.limits.sessions), (7, 100, 3));
        assert_eq!(modules.log.manner, Some(Manner::Json));
        assert_eq!(modules.log.audit.as_deref(), Some(Path::new("/var/log/psync/audit")));
    }

    #[test]
    fn the_name_that_was_meant_is_told() {
        for (text, meant) in [
            ("[modul.a]\npath = '/a'", "module"),
            ("[module.a]\npath = '/a'\nread_olny = true", "read-only"),
            ("[limit]", "limits"),
            ("[limits]\nsesions = 3", "sessions"),
            ("[log]\nfromat = 'json'", "format"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.text.contains(&format!("did you mean '{meant}'?")), "{text}: {error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error_with_its_line() {
        for (text, line) in [
            ("[module.a]\npath = 'relative'", 1),
            ("[module.a]\ncomment = 'x'", 1),
            ("\n[module.'a b']\npath = '/a'", 2),
            ("[module.a]\npath = '/a'\nread_only = true", 3),
            ("[module.a]\npath = '/a'\nread-only = 'yes'", 3),
            ("[module.a]\npath = '/a'\nexclude = ['[z-a]']", 3),
            ("[modules.a]\npath = '/a'", 1),
            ("listen = 5", 1),
            ("module = 1", 1),
            ("\n[limits]\nsessions = 'x'", 3),
            ("limits = 3", 1),
            ("[log]\nlevel = 'loud'", 2),
            ("[log]\naudit = 'here'", 2),
            ("[module.a]\npath = '/a'\n[module.a.limits]\nsessions = 3", 4),
            ("[module.a]\npath = '/a", 2),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }
}
