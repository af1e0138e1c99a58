//! `psync conflicts`: those that wait, and those of the past. Also how other commands find the
//! conflicts that they are about.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use psync_protocol::path::printable;
use psync_protocol::{ContentHash, RelPath};
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::exit::Exit;
use super::json;
use super::output::wrapped;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::report::{Conflict, ConflictKind, Facts, Kind, State};
use crate::sync::{Listed, Site, Which};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "conflicts",
    about: "List the conflicts that wait, and those of the past",
    arguments,
    run: conflicts,
};

fn arguments(command: Command) -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let root = Arg::new("at").value_name("ROOT|PAIR").value_parser(value_parser!(PathBuf));
    subject::arguments(command)
        .arg(root.help("The root, or a pair's side here").conflicts_with("root"))
        .arg(flag("past").help("List those that do not wait any more").conflicts_with("all"))
        .arg(flag("all").help("List all"))
        .arg(flag("json").help("A JSON object for each"))
}

fn conflicts(matches: &ArgMatches) -> Exit {
    let json = matches.get_flag("json");
    match list(matches, json) {
        Ok(text) => {
            print_out(&text);
            Exit::Ok
        }
        Err(failure) => failure.told(json),
    }
}

fn list(matches: &ArgMatches, json: bool) -> Result<String, Failure> {
    let root = match matches.get_one::<PathBuf>("at") {
        Some(root) => subject::named_root(root)?,
        None => subject::root(matches, Path::new("."))?,
    };
    let mut sight = subject::look(matches, &root)?;
    let which = match (matches.get_flag("all"), matches.get_flag("past")) {
        (true, _) => Which::All,
        (false, true) => Which::Past,
        (false, false) => Which::Open,
    };
    let found = sight.index.conflicts(Which::All).map_err(|error| unusable(&root, error))?;
    let shown: Vec<&Listed> = found.iter().filter(|listed| fits(listed, which)).collect();
    if json {
        return Ok(shown.iter().map(|listed| format!("{}\n", object(listed))).collect());
    }
    let open = found.iter().filter(|listed| listed.is_open()).count();
    let mut text: String = shown.iter().map(|listed| paragraph(listed)).collect();
    text.push_str(&count(open, found.len() - open, which));
    Ok(text)
}

fn fits(listed: &Listed, which: Which) -> bool {
    match which {
        Which::All => true,
        Which::Open => listed.is_open(),
        Which::Past => !listed.is_open(),
    }
}

fn count(open: usize, past: usize, which: Which) -> String {
    let waiting = match open {
        0 => "no conflict waits".to_string(),
        1 => "1 conflict waits".to_string(),
        many => format!("{} conflicts wait", HumanCount(many as u64)),
    };
    let hint = if which == Which::Open { " (--past)" } else { "" };
    let more = match past {
        0 => String::new(),
        past => format!("; in the past: {}{hint}", HumanCount(past as u64)),
    };
    let how =
        if open > 0 { "\npsync resolve settles them, psync diff PATH shows both" } else { "" };
    format!("{waiting}{more}{how}\n")
}

/// A conflict in a few lines, for people.
pub(super) fn paragraph(listed: &Listed) -> String {
    let conflict = &listed.conflict;
    let outcome = match &conflict.state {
        State::Held { .. } if !listed.is_open() => "was held",
        State::Held { .. } | State::Settled { .. } => &conflict.outcome,
    };
    let (path, kind, found) = (&conflict.path, conflict.kind.name(), when(listed.at));
    let mut text = format!("{path}\n    {kind}; found {found}\n{}", wrapped(outcome, 4));
    text.push_str(&wrapped(&format!("by: {}", conflict.rule), 4));
    text.push_str(&sides(conflict));
    if let Some(chosen) = &listed.chosen
        && listed.is_open()
    {
        text.push_str(&format!("    chosen for the next run: {chosen}\n"));
    }
    if let Some(how) = &listed.resolved {
        text.push_str(&format!("    resolved: {how}\n"));
    }
    text
}

/// What both sides had, a line for each. Of what both have moved nothing stands at the old path any
/// more: where it went has been told.
pub(super) fn sides(conflict: &Conflict) -> String {
    if conflict.kind == ConflictKind::MovedBoth {
        return String::new();
    }
    let named = ["local", "remote"].into_iter().zip(&conflict.sides);
    named.map(|(name, facts)| format!("    {name:<8}{}\n", side(facts.as_ref()))).collect()
}

/// What a side had, in one line of at most 68 columns.
pub(super) fn side(facts: Option<&Facts>) -> String {
    let Some(facts) = facts else { return "nothing".into() };
    let hash = facts.hash.map(|hash| hex(&hash)[..8].to_string()).unwrap_or_default();
    let size = match facts.kind {
        Kind::File => format!("{} bytes", HumanCount(facts.size)),
        Kind::Directory => return format!("directory, mode {:04o}", facts.mode),
        Kind::Symlink => "symlink".into(),
    };
    let (when, mode) = (when(facts.mtime.secs), facts.mode);
    format!("{size:>20}  {when}  {mode:04o}  {hash}").trim_end().to_string()
}

/// A moment in the person's own time.
pub(super) fn when(secs: i64) -> String {
    match Timestamp::from_second(secs) {
        Ok(moment) => moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "an unknown time".into(),
    }
}

fn hex(hash: &ContentHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object(listed: &Listed) -> Value {
    let conflict = &listed.conflict;
    let (state, clash) = match &conflict.state {
        State::Held { .. } if listed.resolved.is_none() => ("held", None),
        State::Held { .. } => ("resolved", None),
        State::Settled { clash } if listed.resolved.is_none() => ("settled", clash.as_ref()),
        State::Settled { clash } => ("resolved", clash.as_ref()),
    };
    let [local, remote] = conflict.sides.each_ref().map(|facts| facts.as_ref().map(facts_object));
    let mut object = Map::new();
    object.insert("type".into(), "conflict".into());
    json::put_path(&mut object, "path", conflict.path.as_bytes());
    object.insert("clash".into(), Value::Null);
    if let Some(clash) = clash {
        json::put_path(&mut object, "clash", clash.as_bytes());
    }
    let rest = [
        ("kind", conflict.kind.name().into()),
        ("state", state.into()),
        ("rule", conflict.rule.as_str().into()),
        ("outcome", conflict.outcome.as_str().into()),
        ("found", json::time_of_seconds(listed.at)),
        ("local", local.into()),
        ("remote", remote.into()),
        ("chosen", listed.chosen.clone().into()),
        ("resolved", listed.resolved.clone().into()),
    ];
    object.extend(rest.map(|(key, value)| (key.to_string(), value)));
    Value::Object(object)
}

fn facts_object(facts: &Facts) -> Value {
    let kind = match facts.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    };
    json!({
        "kind": kind, "size": facts.size, "mtime": json::time(facts.mtime),
        "mode": format!("{:04o}", facts.mode), "hash": facts.hash.as_ref().map(hex),
    })
}

/// The list of a root.
pub(super) fn listed(site: &mut Site, which: Which) -> Result<Vec<Listed>, Failure> {
    let found = site.index.conflicts(which);
    found.map_err(|error| unusable(site.root.path(), error))
}

fn unusable(root: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Identity, format!("{}: {error}", root.display()))
}

/// The latest conflict of each path.
pub(super) fn latest(found: Vec<Listed>) -> Vec<Listed> {
    let mut latest: Vec<Listed> = Vec::new();
    for listed in found {
        if latest.last().is_none_or(|last| last.conflict.path != listed.conflict.path) {
            latest.push(listed);
        }
    }
    latest
}

/// Which conflicts a typed word is about.
enum Selector {
    /// A path in the root, with what is below it.
    Path(RelPath),
    /// A pattern as in a gitignore file.
    Pattern(Gitignore),
}

impl Selector {
    fn of(matches: &ArgMatches, root: &Path, word: &Path) -> Result<Selector, Failure> {
        if !is_pattern(word) {
            let (of, path) = subject::path_in_root(matches, word)?;
            return match is_same(&of, root) {
                true => Ok(Selector::Path(path)),
                false => {
                    let text =
                        format!("{}: lies in another root, {}", word.display(), of.display());
                    Err(Failure::new(Exit::Usage, text))
                }
            };
        }
        let bad = |error: ignore::Error| {
            Failure::new(Exit::Usage, format!("{} is no pattern: {error}", shown(word)))
        };
        let mut builder = GitignoreBuilder::new("");
        builder.add_line(None, &word.to_string_lossy()).map_err(bad)?;
        Ok(Selector::Pattern(builder.build().map_err(bad)?))
    }

    fn fits(&self, listed: &Listed) -> bool {
        let path = &listed.conflict.path;
        match self {
            Selector::Path(chosen) => path == chosen || path.is_below(chosen),
            Selector::Pattern(pattern) => {
                let path = Path::new(OsStr::from_bytes(path.as_bytes()));
                pattern.matched_path_or_any_parents(path, false).is_ignore()
            }
        }
    }
}

/// Whether a typed word is a pattern: it has a star, a question mark or a bracket in it.
pub(super) fn is_pattern(word: &Path) -> bool {
    word.as_os_str().as_bytes().iter().any(|byte| b"*?[".contains(byte))
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok() == other.canonicalize().ok()
}

/// A typed word, safe for a terminal.
pub(super) fn shown(word: &Path) -> String {
    printable(word.as_os_str().as_bytes())
}

/// The root that typed words are about: that of the first path, or else the one from here upward.
pub(super) fn root_of(matches: &ArgMatches, words: &[PathBuf]) -> Result<PathBuf, Failure> {
    match words.iter().find(|word| !is_pattern(word)) {
        Some(path) => Ok(subject::path_in_root(matches, path)?.0),
        None => subject::root(matches, Path::new(".")),
    }
}

/// The conflicts that typed words are about: each may be a path in the root, a directory with what
/// is below it, or a pattern. A word that is about none is an error.
pub(super) fn about(
    matches: &ArgMatches,
    root: &Path,
    found: &[Listed],
    words: &[PathBuf],
) -> Result<Vec<Listed>, Failure> {
    let mut chosen: Vec<Listed> = Vec::new();
    for word in words {
        let selector = Selector::of(matches, root, word)?;
        let mut fitting = found.iter().filter(|listed| selector.fits(listed)).peekable();
        if fitting.peek().is_none() {
            let what = match selector {
                Selector::Path(_) => "there is no conflict here",
                Selector::Pattern(_) => "matches no conflict",
            };
            let text = format!("{}: {what}; psync conflicts --all lists them", shown(word));
            return Err(Failure::new(Exit::Usage, text));
        }
        for listed in fitting {
            if !chosen.iter().any(|other| other.id == listed.id) {
                chosen.push(listed.clone());
            }
        }
    }
    Ok(chosen)
}
