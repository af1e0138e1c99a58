//! `psync restore`: an earlier version of a path is put back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use psync_protocol::RelPath;
use psync_protocol::message::Flow;
use serde_json::json;

use super::command::Subcommand;
use super::exit::Exit;
use super::past::{self, complain, object};
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{Reach, RunKind, RunStart};
use crate::sync::putback::{self, Change, Done, Obstacle, ObstacleKind};
use crate::sync::versions::{self, AtHand, Version};
use crate::sync::{Site, state_of};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "restore",
    about: "Put an earlier version of a file or directory back",
    arguments,
    run: |matches| past::told(matches, restore(matches)),
};

fn arguments(command: Command) -> Command {
    let path = Arg::new("path").value_name("PATH[@VERSION]").value_parser(value_parser!(PathBuf));
    let to = Arg::new("to").long("to").value_name("DEST").value_parser(value_parser!(PathBuf));
    subject::arguments(command)
        .arg(path.required(true).help("What to put back, as 'psync history' has it"))
        .arg(to.help("Where, in the same root [default: where it was]"))
        .arg(past::json_argument())
}

fn restore(matches: &ArgMatches) -> Result<Exit, Failure> {
    let typed = matches.get_one::<PathBuf>("path").map_or(OsStr::new(""), |path| path.as_os_str());
    let (whole, before) = (PathBuf::from(typed), split(typed));
    let (root, path) = subject::path_in_root(matches, &whole)?;
    let mut site = subject::open(matches, &root)?;
    let (path, version) = match before {
        // A name may have an @ of its own.
        Some((bare, version)) if !is_known(&mut site, &path) => {
            (subject::path_in_root(matches, &bare)?.1, Some(version))
        }
        _ => (path, None),
    };
    let to = match matches.get_one::<PathBuf>("to") {
        Some(to) => {
            let (other, to) = subject::path_in_root(matches, to)?;
            if other != root {
                let text = format!("{to}: lies in another root; restore to this one, and copy");
                return Err(Failure::new(Exit::Usage, text));
            }
            to
        }
        None => path.clone(),
    };
    let changes = changes(&mut site, &path, version.as_deref(), &to)?;
    let done = make(&mut site, changes, &format!("restored from {path}"))?;
    tell(matches, &to, done)
}

/// `PATH@VERSION`, taken apart.
fn split(typed: &OsStr) -> Option<(PathBuf, String)> {
    let bytes = typed.as_bytes();
    let at = bytes.iter().rposition(|&byte| byte == b'@').filter(|&at| at > 0)?;
    let version = std::str::from_utf8(&bytes[at + 1..]).ok()?;
    let valid = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| (PathBuf::from(OsStr::from_bytes(&bytes[..at])), version.to_string()))
}

/// Whether something stands at a path, or has.
fn is_known(site: &mut Site, path: &RelPath) -> bool {
    !site.root.is_free(path).unwrap_or(false)
        || site.journal.journal().is_some_and(|journal| {
            journal.deeds_at(path, false).is_ok_and(|deeds| !deeds.is_empty())
                || journal.edits_at(path).is_ok_and(|edits| !edits.is_empty())
        })
}

fn changes(
    site: &mut Site,
    path: &RelPath,
    typed: Option<&str>,
    to: &RelPath,
) -> Result<Vec<Change>, Failure> {
    let known = {
        let Site { root, state, journal, .. } = &mut *site;
        let journal = journal.journal().map(|journal| &*journal);
        versions::versions(root, state, journal, path).map_err(past::unreadable)?
    };
    let version = versions::choose(&known, typed).cloned();
    let version = version.filter(|version| version.state.is_some()).ok_or_else(|| {
        let text = match typed {
            Some(typed) => format!("{path}: there is no version @{typed} that can be restored"),
            None => format!("{path}: there is no earlier version"),
        };
        Failure::new(Exit::FileIo, format!("{text}; see: psync history {path}"))
    })?;
    refuse_expired(site, path, &version)?;
    let Site { root, index, journal, .. } = &mut *site;
    let journal = journal.journal().map(|journal| &*journal);
    let mut stands = |path: &RelPath| state_of(root, index, path);
    let changes = versions::restoring(journal, path, &version, to, &mut stands);
    let mut changes = changes.map_err(past::unreadable)?;
    let missing = putback::missing_above(site, std::iter::once(to.clone()));
    changes.extend(missing);
    Ok(changes)
}

/// What the trash and the store have let go may still stand elsewhere in the tree: so this only
/// speaks up where it does not.
fn refuse_expired(site: &mut Site, path: &RelPath, version: &Version) -> Result<(), Failure> {
    let hash = version.state.as_ref().and_then(|state| state.thing.hash().copied());
    let (AtHand::Gone, Some(hash)) = (&version.content, hash) else { return Ok(()) };
    let mut live = false;
    let _ = site.index.files(|_, _, found| live |= found == hash);
    if live {
        return Ok(());
    }
    let text = format!(
        "{path}@{}: this version has expired: neither the trash nor the store has its content any more",
        version.number
    );
    Err(Failure::new(Exit::FileIo, text))
}

/// Makes changes of a person's own wish, all or none, as a run of this side alone.
pub(super) fn make(site: &mut Site, changes: Vec<Change>, why: &str) -> Result<Done, Failure> {
    let (prepared, obstacles) = putback::prepare(site, changes);
    if !obstacles.is_empty() {
        prepared.discard(site);
        return Err(refused(&obstacles));
    }
    let (trash, id) = past::new_run();
    let planned = prepared.changes().count() as u64;
    let (kind, flow, reach) = (RunKind::Restore, Flow::TwoWay, Reach::default());
    let start = RunStart { id, kind, peer: None, reach, flow, trash, planned, undoes: None };
    Ok(putback::carry_out(site, prepared, &start, why))
}

fn refused(obstacles: &[Obstacle]) -> Failure {
    let lines: Vec<String> =
        obstacles.iter().map(|obstacle| format!("{}: {}", obstacle.path, obstacle.text)).collect();
    let expired = obstacles.iter().any(|obstacle| obstacle.kind == ObstacleKind::Expired);
    let exit = if expired { Exit::FileIo } else { Exit::Guard };
    Failure::new(exit, format!("nothing was changed:\n{}", lines.join("\n")))
}

/// Says what came of it.
pub(super) fn tell(matches: &ArgMatches, to: &RelPath, done: Done) -> Result<Exit, Failure> {
    let exit = if done.failures.is_empty() { Exit::Ok } else { Exit::Partial };
    for (path, text) in &done.failures {
        complain(&format!("failed: {path}: {text}"));
    }
    if matches.get_flag("json") {
        object(json!({
            "type": "restored", "paths": done.done, "failures": done.failures.len(),
            "exit": exit.code(),
        }));
    } else if done.done == 0 && done.failures.is_empty() {
        print_out(&format!("{to} is like that already\n"));
    } else if done.done == 1 {
        print_out(&format!("restored {to}\n"));
    } else {
        print_out(&format!("restored {to}: {}\n", past::count(done.done, "path")));
    }
    Ok(exit)
}
