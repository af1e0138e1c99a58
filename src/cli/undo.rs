//! `psync undo`: a run is taken back, on both sides.

mod elsewhere;
mod told;

use clap::{Arg, ArgAction, ArgMatches, Command};
use psync_protocol::RelPath;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

use super::command::Subcommand;
use super::exit::Exit;
use super::json::put_path;
use super::past::{self, complain, object, with_whom};
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{RunId, RunRow};
use crate::sync::Site;
use crate::sync::putback::{Change, Done};
use crate::sync::undo::{self, Plan, UndoError};
use elsewhere::Elsewhere;
use told::{Also, Told};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "undo",
    about: "Take a run back: both sides get what they had before it",
    arguments,
    run: |matches| past::told(matches, undo(matches)),
};

fn arguments(command: Command) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    subject::arguments(command)
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .help("Its number here, or its id [default: the latest that changed something]"),
        )
        .arg(flag("dry-run", "Show what would be put back, and do nothing").short('n'))
        .arg(flag("partial", "Leave what was changed since, and put the rest back"))
        .arg(flag("only-here", "Put this side back only"))
        .arg(past::json_argument())
        .arg(Arg::new("as").long("as").value_name("ID").hide(true))
        .arg(flag("also", "").hide(true))
}

impl From<UndoError> for Failure {
    fn from(error: UndoError) -> Failure {
        let exit = match error {
            UndoError::Journal(_) => Exit::FileIo,
            UndoError::Index(_) => Exit::Identity,
            UndoError::Unknown(_) | UndoError::Nothing | UndoError::Undone { .. } => Exit::Usage,
        };
        Failure::new(exit, error.to_string())
    }
}

/// What of a path is told.
struct Voice {
    json: bool,
}

fn undo(matches: &ArgMatches) -> Result<Exit, Failure> {
    let voice = Voice { json: matches.get_flag("json") };
    let (dry_run, partial) = (matches.get_flag("dry-run"), matches.get_flag("partial"));
    let root = subject::root(matches, Path::new("."))?;
    let mut site = subject::open(matches, &root)?;
    let run = undo::find(&mut site, matches.get_one::<String>("run").map(String::as_str))?;
    let alone = matches.get_flag("only-here") || !undo::is_with_another_end(&run);
    let mut other = if alone { None } else { Elsewhere::reach(&run)? };
    // Asked by the other end, this one hears what stands there, and what to leave.
    let also = if matches.get_flag("also") { Also::read()? } else { Also::default() };
    let mut here = undo::prepare(&mut site, run.clone(), &also.leave)?;
    let mut there = match &mut other {
        Some(other) => other.prepare(&run, &here.standing(), &BTreeSet::new())?,
        None => Told::default(),
    };
    let standing = if alone { &also.standing } else { &there.standing };
    here.obstacles.extend(undo::changed_since(&mut site, &here, standing));
    let obstacles = here.obstacles.len() + there.obstacles.len();
    voice.obstacles(&here, &there);
    if obstacles > 0 && !partial {
        here.prepared.discard(&site);
        let text = format!(
            "run {} cannot be undone: {} in the way, and nothing was changed; --partial leaves what \
             is in the way as it is",
            run.id,
            past::count(obstacles as u64, "path")
        );
        return Err(Failure::new(Exit::Guard, text));
    }
    let leave = leave(&here, &there);
    if let Some(other) = other.as_mut().filter(|_| !leave.is_empty()) {
        // What one side leaves the other leaves, too.
        here.prepared.discard(&site);
        here = undo::prepare(&mut site, run.clone(), &leave)?;
        there = other.prepare(&run, &[], &leave)?;
    }
    let name = with_whom(&run);
    if dry_run {
        voice.changes(&here, &there, matches.get_flag("also"));
        let local = here.prepared.changes().count() as u64;
        here.prepared.discard(&site);
        voice.summary(&run, &name, (local, there.paths.len() as u64), "would put back", Exit::Ok);
        return Ok(Exit::Ok);
    }
    let (trash, fresh) = past::new_run();
    let id = matches.get_one::<String>("as").and_then(|id| RunId::parse(id)).unwrap_or(fresh);
    let anew = if alone { also.anew } else { std::mem::take(&mut there.anew) };
    // The other end first: if it refuses, nothing has changed here.
    let there = match other {
        Some(other) => {
            let ours = (here.prepared.changes().count() as u64, &here.anew()[..]);
            other.carry_out(&run, id, &trash, (partial, &leave), ours)?
        }
        None => there,
    };
    // A person is told in numbers, as after a sync.
    let told = voice.json.then(|| here.prepared.changes().cloned().collect());
    let told: Vec<Change> = told.unwrap_or_default();
    let theirs = (there.paths.len() as u64, &anew[..]);
    let done = undo::carry_out(&mut site, here, id, &trash, theirs);
    if voice.json {
        told.iter().for_each(|change| voice.change("local", change.path.as_bytes(), what(change)));
        there.paths.iter().for_each(|(path, what)| voice.change("remote", path, what));
    }
    let exit = voice.outcome(&mut site, &done, &there);
    voice.summary(&run, &name, (done.done, there.done()), "put back", exit);
    Ok(exit)
}

/// The paths that stand in the way on either side.
fn leave(here: &Plan, there: &Told) -> BTreeSet<RelPath> {
    let ours = here.obstacles.iter().map(|obstacle| obstacle.path.clone());
    let theirs = there.obstacles.iter().filter_map(|(path, ..)| RelPath::new(path).ok());
    ours.chain(theirs).collect()
}

/// What is done to a path, in a word.
fn what(change: &Change) -> &'static str {
    match (&change.expected, &change.wanted) {
        (None, _) => "create",
        (Some(_), None) => "delete",
        (Some(old), Some(new)) if !old.thing.is_like(&new.thing) => "retype",
        (Some(old), Some(new)) if old.thing == new.thing => "props",
        (Some(_), Some(_)) => "update",
    }
}

impl Voice {
    fn path_object(kind: &str, side: &str, path: &[u8], word: (&str, &str), text: &str) -> Value {
        let mut map = Map::new();
        map.insert("type".into(), kind.into());
        map.insert("side".into(), side.into());
        put_path(&mut map, "path", path);
        map.insert(word.0.into(), word.1.into());
        if !text.is_empty() {
            map.insert("text".into(), text.into());
        }
        Value::Object(map)
    }

    fn obstacles(&self, here: &Plan, there: &Told) {
        let ours = here.obstacles.iter().map(|obstacle| {
            let path = obstacle.path.as_bytes().to_vec();
            ("local", path, obstacle.kind.name().to_string(), obstacle.text.clone())
        });
        let theirs = there.obstacles.iter().map(|obstacle| {
            let (path, kind, text) = obstacle.clone();
            ("remote", path, kind, text)
        });
        for (side, path, kind, text) in ours.chain(theirs) {
            if self.json {
                let word = ("reason", kind.as_str());
                object(Voice::path_object("obstacle", side, &path, word, &text));
            } else {
                let place = if side == "local" { "here" } else { "there" };
                let path = psync_protocol::path::printable(&path);
                complain(&format!("{place}: {path}: {text}"));
            }
        }
    }

    /// Tells what would be put back; with what stands there, `coded` for the end that asked.
    fn changes(&self, here: &Plan, there: &Told, coded: bool) {
        for change in here.prepared.changes() {
            if coded {
                object(told::standing(&change.path, change.expected.as_ref(), what(change)));
                continue;
            }
            self.change("local", change.path.as_bytes(), what(change));
        }
        if coded {
            here.anew().iter().for_each(|anew| object(told::anew(anew)));
        }
        there.paths.iter().for_each(|(path, what)| self.change("remote", path, what));
    }

    fn change(&self, side: &str, path: &[u8], what: &str) {
        if self.json {
            return object(Voice::path_object("change", side, path, ("what", what), ""));
        }
        let place = if side == "local" { "here" } else { "there" };
        let path = psync_protocol::path::printable(path);
        print_out(&format!("  {place:<5}  {what:<7} {path}\n"));
    }

    fn outcome(&self, site: &mut Site, done: &Done, there: &Told) -> Exit {
        let ours = done.failures.iter().map(|(path, text)| ("local", path.as_bytes(), text));
        let theirs = there.failures.iter().map(|(path, text)| ("remote", &path[..], text));
        let mut exit = Exit::Ok;
        for (side, path, text) in ours.chain(theirs) {
            exit = Exit::Partial;
            if self.json {
                object(Voice::path_object("failure", side, path, ("reason", "system"), text));
            } else {
                let place = if side == "local" { "here" } else { "there" };
                let path = psync_protocol::path::printable(path);
                complain(&format!("failed: {place}: {path}: {text}"));
            }
        }
        for note in site.journal.take_notes() {
            complain(&format!("note: {note}"));
        }
        exit
    }

    fn summary(&self, run: &RunRow, name: &str, paths: (u64, u64), verb: &str, exit: Exit) {
        if self.json {
            return object(json!({
                "type": "undo", "run": run.id.to_string(), "number": run.number,
                "local": paths.0, "remote": paths.1, "exit": exit.code(),
            }));
        }
        let (here, there) = paths;
        let here = past::count(here, "path");
        print_out(&format!(
            "run {} ({}) with {name}: {verb} {here} here, {there} there\n",
            run.number, run.id
        ));
    }
}
