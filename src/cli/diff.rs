//! `psync diff`: both versions of a conflict beside each other, or a file beside what was last
//! agreed.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::HumanCount;
use psync_protocol::{Content, ContentHash, RelPath};

use super::command::Subcommand;
use super::conflicts::{latest, listed, sides};
use super::exit::Exit;
use super::output::wrapped;
use super::past;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::merge;
use crate::report::{ConflictKind, State};
use crate::sync::{Listed, Site, Which, resolve};

/// Larger files are not compared line by line, in bytes.
const COMPARED_MAX: u64 = 16 << 20;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "diff",
    about: "Show both versions of a conflict, or what changed since a sync",
    arguments,
    run: diff,
};

fn arguments(command: Command) -> Command {
    let path = Arg::new("path").value_name("PATH").required(true);
    subject::arguments(command).arg(
        path.value_parser(value_parser!(PathBuf))
            .help("A conflict, or a file that was synced before"),
    )
}

/// What there is to be said, and whether both are the same.
pub(super) struct Difference {
    pub(super) text: String,
    pub(super) same: bool,
}

fn diff(matches: &ArgMatches) -> Exit {
    match try_diff(matches) {
        Ok(difference) => {
            print_out(&difference.text);
            // As diff says it.
            if difference.same { Exit::Ok } else { Exit::Usage }
        }
        // 1 is for a difference.
        Err(failure) => match failure.told(false) {
            Exit::Usage => Exit::Incompatible,
            exit => exit,
        },
    }
}

fn try_diff(matches: &ArgMatches) -> Result<Difference, Failure> {
    let Some(typed) = matches.get_one::<PathBuf>("path") else {
        return Err(Failure::new(Exit::Usage, "which path?"));
    };
    let (root, path) = subject::path_in_root(matches, typed)?;
    let mut site = subject::open(matches, &root)?;
    let plain = !std::io::stdout().is_terminal();
    let found = latest(listed(&mut site, Which::All)?).into_iter().find(|listed| {
        let has_two = match &listed.conflict.state {
            State::Held { .. } => true,
            State::Settled { clash } => clash.is_some(),
        };
        listed.conflict.path == path && listed.resolved.is_none() && has_two
    });
    match found {
        Some(listed) => Ok(of_conflict(&mut site, &listed, !plain)),
        None => since_agreed(&mut site, &path, !plain),
    }
}

/// Both versions of a conflict: this side's first.
pub(super) fn of_conflict(site: &mut Site, listed: &Listed, on_terminal: bool) -> Difference {
    let conflict = &listed.conflict;
    let path = &conflict.path;
    let sides = || format!("{path}\n{}", sides(conflict));
    match resolve::contents(site, listed) {
        _ if conflict.kind == ConflictKind::MovedBoth => {
            let text = format!("{path}\n{}", wrapped(&conflict.outcome, 4));
            Difference { text, same: false }
        }
        Ok(contents) => {
            let labels = (format!("local/{path}"), format!("remote/{path}"));
            let difference = compare(labels, &contents.local, &contents.remote, on_terminal);
            // What differs besides may be the modes.
            let difference = difference.filter(|difference| !difference.same);
            difference.unwrap_or_else(|| Difference { text: sides(), same: false })
        }
        Err(error) => Difference { text: format!("{}({error})\n", sides()), same: false },
    }
}

/// A file beside what was last agreed with a peer.
fn since_agreed(site: &mut Site, path: &RelPath, on_terminal: bool) -> Result<Difference, Failure> {
    let unknown = |why: &str| Failure::new(Exit::FileIo, format!("{path}: {why}"));
    let row = site.index.row(path).map_err(|error| unknown(&error.to_string()))?;
    let row = row.ok_or_else(|| unknown("was never synced, and is no conflict"))?;
    let agreed = match &row.row.content {
        Content::File { hash, .. } if row.shared => Some(*hash),
        _ => row.row.base,
    };
    let agreed = agreed.ok_or_else(|| unknown("no other side ever had it"))?;
    let now = match site.root.stat(path) {
        Ok(None) => Vec::new(),
        _ => read(site, path)?,
    };
    if ContentHash::of_bytes(&now) == agreed {
        return Ok(Difference { text: String::new(), same: true });
    }
    let old = site.store().and_then(|store| store.old(&agreed).ok().flatten());
    let old = old.and_then(|mut old| old.read_all().ok());
    let old = old.ok_or_else(|| unknown("what was last agreed is not in the store any more"))?;
    let labels = (format!("agreed/{path}"), path.to_string());
    Ok(compare(labels, &old, &now, on_terminal).unwrap_or_else(|| {
        let (old, new) = (HumanCount(old.len() as u64), HumanCount(now.len() as u64));
        let text = format!("{path}\n    agreed  {old} bytes\n    now     {new} bytes\n");
        Difference { text, same: false }
    }))
}

fn read(site: &Site, path: &RelPath) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::FileIo, format!("{path}: {error}"));
    let (file, stat) = site.root.open_file(path).map_err(failed)?;
    if stat.size > COMPARED_MAX {
        let text = format!("{path}: is larger than 16 MiB, and not compared");
        return Err(Failure::new(Exit::FileIo, text));
    }
    let mut bytes = Vec::new();
    file.take(COMPARED_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The lines that differ; none where one of the two is no text.
fn compare(
    labels: (String, String),
    old: &[u8],
    new: &[u8],
    on_terminal: bool,
) -> Option<Difference> {
    if old == new {
        return Some(Difference { text: String::new(), same: true });
    }
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let changes = merge::unified(text(old)?, text(new)?);
    let shown = if on_terminal { past::harmless(&changes) } else { changes };
    Some(Difference { text: format!("--- {}\n+++ {}\n{shown}", labels.0, labels.1), same: false })
}
