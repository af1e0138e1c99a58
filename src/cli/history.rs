//! `psync history`: the versions of one path.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::exit::Exit;
use super::json::{put_path, time_of_milliseconds};
use super::output::line_and;
use super::past::{self, hash_prefix, moment, object, state_value};
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{State, Thing};
use crate::sync::versions::{self, AtHand, Origin, Version};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "history",
    about: "The versions of a path: when, from where, what can be had back",
    arguments,
    run: |matches| past::told(matches, history(matches)),
};

fn arguments(command: Command) -> Command {
    let path = Arg::new("path").value_name("PATH").value_parser(value_parser!(PathBuf));
    subject::arguments(command)
        .arg(path.required(true).help("A file or directory of a root; it need not exist any more"))
        .arg(past::json_argument())
}

fn history(matches: &ArgMatches) -> Result<Exit, Failure> {
    let (root, path) = past::root_and_path(matches, matches.get_one("path"))?;
    let Some(path) = path else { return Err(Failure::new(Exit::Usage, "history of what?")) };
    let past = past::open(matches, &root)?;
    let versions = versions::versions(&past.root, &past.state, past.journal.as_ref(), &path);
    let versions = versions.map_err(past::unreadable)?;
    if versions.is_empty() {
        let text = format!("{path}: nothing is known of it, and nothing stands there");
        return Err(Failure::new(Exit::FileIo, text));
    }
    for version in versions.iter().rev() {
        match matches.get_flag("json") {
            true => object(value(&path, version)),
            false => print_out(&line(version)),
        }
    }
    Ok(Exit::Ok)
}

fn line(version: &Version) -> String {
    let Version { number, since, content, .. } = version;
    let (size, hash) = match version.state.as_ref().map(|State { thing, .. }| thing) {
        None => ("deleted".to_string(), String::new()),
        Some(Thing::Directory) => ("directory".into(), String::new()),
        Some(Thing::Symlink { .. }) => ("link".into(), String::new()),
        Some(Thing::File { size, hash }) => (HumanBytes(*size).to_string(), hash_prefix(hash)),
    };
    let from = match &version.origin {
        Origin::Here => "changed here".to_string(),
        Origin::Run { id, with, .. } if with.is_empty() => format!("run {id}"),
        Origin::Run { id, with, .. } => {
            format!("run {id}, {}", psync_protocol::path::printable(with.as_bytes()))
        }
    };
    let when = moment(*since);
    let hand = content.name();
    let line = format!("@{number:<3} {when}  {size:>11}  {hash:<8}  {hand:<5}");
    line_and(&line, "  ", &from, 6)
}

fn value(path: &psync_protocol::RelPath, version: &Version) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), "version".into());
    put_path(&mut map, "path", path.as_bytes());
    map.insert("version".into(), version.number.into());
    map.insert("since".into(), time_of_milliseconds(version.since));
    map.insert("state".into(), state_value(version.state.as_ref()));
    map.insert("content".into(), version.content.name().into());
    if let AtHand::Trash(place) = &version.content {
        put_path(&mut map, "place", place);
    }
    let origin = match &version.origin {
        Origin::Here => Value::Null,
        Origin::Run { number, id, with } => {
            json!({"run": number, "id": id.to_string(), "location": with})
        }
    };
    map.insert("origin".into(), origin);
    Value::Object(map)
}
