//! `psync trash`: what runs have deleted or replaced, and how it comes back or goes for good.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::HumanBytes;
use psync_protocol::path::printable;
use psync_protocol::{Props, RelPath};
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::exit::Exit;
use super::json::{put_path, time_of_seconds};
use super::past::{self, moment, object};
use super::restore;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{DeedRow, Kept, State, Thing, Trashed};
use crate::root::{FileKind, Root, hash_reader};
use crate::sync::putback::{self, Change};
use crate::sync::{Site, state_of, trash};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "trash",
    about: "What was deleted or replaced: list it, put it back, or let it go",
    arguments,
    run: |matches| past::told(matches, run(matches)),
};

fn arguments(command: Command) -> Command {
    let path = |name: &'static str| Arg::new(name).value_parser(value_parser!(PathBuf));
    let list = Command::new("list")
        .about("What is in the trash, the newest first")
        .arg(path("path").value_name("PATH").help("Only this path, and what was in it"));
    let restore = Command::new("restore")
        .about("Put something back")
        .arg(
            path("place")
                .value_name("PATH")
                .required(true)
                .help("TIME/PATH as 'psync trash list' has it, or PATH; or a directory"),
        )
        .arg(
            path("to")
                .long("to")
                .value_name("DEST")
                .help("Where, in the same root [default: where it was]"),
        );
    let empty = Command::new("empty").about("Let everything go, for good").arg(
        Arg::new("older-than")
            .long("older-than")
            .value_name("AGE")
            .value_parser(age)
            .help("Only what is older, as in 7d, 12h or 30m"),
    );
    let with_root = |command| subject::arguments(command).arg(past::json_argument());
    command
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([with_root(list), with_root(restore), with_root(empty)])
        .arg(past::json_argument().hide(true))
}

/// An age in seconds, as in `7d`.
fn age(text: &str) -> Result<i64, String> {
    let wrong = || format!("'{text}' is no age; examples: 7d, 12h, 30m, 90s");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: i64 = text[..at].parse().map_err(|_| wrong())?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let told = match matches.subcommand() {
        Some(("list", matches)) => (matches, list(matches)),
        Some(("restore", matches)) => (matches, put_back(matches)),
        Some((_, matches)) => (matches, empty(matches)),
        None => return Err(Failure::new(Exit::Usage, "list, restore or empty?")),
    };
    Ok(past::told(told.0, told.1))
}

fn list(matches: &ArgMatches) -> Result<Exit, Failure> {
    let (root, below) = past::root_and_path(matches, matches.get_one("path"))?;
    let past = past::open(matches, &root)?;
    let mut items = trash::list(&past.root, past.journal.as_ref()).map_err(past::unreadable)?;
    if let Some(below) = &below {
        items.retain(|item| {
            item.path.as_ref().is_some_and(|path| path == below || path.is_below(below))
        });
    }
    let bytes: u64 = items.iter().map(|item| item.size).sum();
    if matches.get_flag("json") {
        items.iter().for_each(|item| object(value(item)));
    } else {
        for item in &items {
            let since = &moment(item.since.saturating_mul(1000))[..16];
            let size = HumanBytes(item.size).to_string();
            print_out(&format!("{since}  {size:>11}  {}\n", printable(&item.place)));
        }
        let count = past::count(items.len() as u64, "file");
        print_out(&format!("in the trash: {count}, {}\n", HumanBytes(bytes)));
    }
    Ok(Exit::Ok)
}

fn value(item: &Trashed) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), "trashed".into());
    put_path(&mut map, "place", &item.place);
    if let Some(path) = &item.path {
        put_path(&mut map, "path", path.as_bytes());
    }
    map.insert("size".into(), item.size.into());
    map.insert("since".into(), time_of_seconds(item.since));
    if let Some(hash) = &item.hash {
        let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        map.insert("hash".into(), hex.into());
    }
    Value::Object(map)
}

fn put_back(matches: &ArgMatches) -> Result<Exit, Failure> {
    let typed = matches.get_one::<PathBuf>("place").cloned().unwrap_or_default();
    let root = match matches.get_one::<PathBuf>("root") {
        Some(_) => subject::root(matches, std::path::Path::new("."))?,
        None => match subject::path_in_root(matches, &typed) {
            Ok((root, _)) if typed.is_absolute() => root,
            _ => subject::root(matches, std::path::Path::new("."))?,
        },
    };
    let mut site = subject::open(matches, &root)?;
    let items = listed(&mut site)?;
    let place = std::os::unix::ffi::OsStrExt::as_bytes(typed.as_os_str());
    let path = subject::path_in_root(matches, &typed).ok().map(|(_, path)| path);
    let (named, chosen) = chosen(&items, place, path.as_ref());
    if chosen.is_empty() {
        let text = format!("{}: is not in the trash; see: psync trash list", printable(place));
        return Err(Failure::new(Exit::FileIo, text));
    }
    let to = match matches.get_one::<PathBuf>("to") {
        Some(to) => Some(subject::path_in_root(matches, to)?.1),
        None => None,
    };
    let mut back = Vec::new();
    for item in &chosen {
        let alone = chosen.len() == 1;
        let target = target(item, alone, named.as_ref(), to.as_ref()).ok_or_else(|| {
            let text = format!(
                ".psync/trash/{}: nobody knows where it was: say where with --to, for it alone",
                printable(&item.place)
            );
            Failure::new(Exit::Usage, text)
        })?;
        back.push(restoring(&mut site, item, &target).map_err(past::unreadable)?);
    }
    let first = back.first().map(|change: &Change| change.path.clone());
    let Some(told) = to.or(named).or(first) else { return Ok(Exit::Ok) };
    let mut changes = putback::missing_above(&site, back.iter().map(|change| change.path.clone()));
    changes.extend(back);
    let done = restore::make(&mut site, changes, "restored from the trash")?;
    if done.failures.is_empty() {
        // It stands in the tree now. What cannot be removed stays in both places.
        let _ = trash::remove(&site, &chosen);
    }
    restore::tell(matches, &told, done)
}

/// What a person means by a place in the trash or a path of the tree, and which path that was: one
/// thing, or all that one run took out of a directory.
fn chosen<'t>(
    items: &'t [Trashed],
    place: &[u8],
    path: Option<&RelPath>,
) -> (Option<RelPath>, Vec<&'t Trashed>) {
    let one = items
        .iter()
        .find(|item| *item.place == *place)
        .or_else(|| items.iter().find(|item| path.is_some() && item.path.as_ref() == path));
    if let Some(one) = one {
        return (one.path.clone(), vec![one]);
    }
    let run = |item: &Trashed| item.place.split(|&byte| byte == b'/').next().map(<[u8]>::to_vec);
    let is_in = |item: &Trashed, directory: &[u8]| {
        item.place.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let below = |item: &Trashed| {
        path.is_some_and(|above| item.path.as_ref().is_some_and(|path| path.is_below(above)))
    };
    let (named, fits): (Option<RelPath>, Vec<&Trashed>) =
        match items.iter().any(|item| is_in(item, place)) {
            true => {
                let slash = place.iter().position(|&byte| byte == b'/');
                let named = slash.and_then(|slash| RelPath::new(&place[slash + 1..]).ok());
                (named, items.iter().filter(|item| is_in(item, place)).collect())
            }
            false => (path.cloned(), items.iter().filter(|item| below(item)).collect()),
        };
    // The newest first: that of the latest run.
    let latest = fits.first().and_then(|item| run(item));
    (named, fits.into_iter().filter(|item| run(item) == latest).collect())
}

/// Where something goes: to where it was; or, if the path `named`, which it is or lies in, is to
/// stand at `to`, with that. None where nobody knows.
fn target(
    item: &Trashed,
    alone: bool,
    named: Option<&RelPath>,
    to: Option<&RelPath>,
) -> Option<RelPath> {
    match (&item.path, to, named) {
        (path, None, _) => path.clone(),
        (Some(path), Some(to), Some(named)) => {
            let rest = path.as_bytes().get(named.as_bytes().len()..)?;
            RelPath::new(&[to.as_bytes(), rest].concat()).ok()
        }
        (Some(path), Some(to), None) => to.join(path.as_bytes()).ok(),
        (None, Some(to), _) => alone.then(|| to.clone()),
    }
}

fn listed(site: &mut Site) -> Result<Vec<Trashed>, Failure> {
    let Site { root, journal, .. } = site;
    trash::list(root, journal.journal().map(|journal| &*journal)).map_err(past::unreadable)
}

/// The change that puts something from the trash at a path.
fn restoring(site: &mut Site, item: &Trashed, to: &RelPath) -> Result<Change, String> {
    let deeds = site.journal.journal().and_then(|journal| journal.trashed().ok());
    let is_it = |deed: &DeedRow| deed.kept == Kept::Trash(item.place.clone());
    let known = deeds.into_iter().flatten().rev().find(is_it).and_then(|deed| deed.before);
    let found = stands(&site.root, &item.place).map_err(|error| error.to_string())?;
    if known.as_ref().is_some_and(|known| known.thing != found.thing) {
        let place = printable(&item.place);
        return Err(format!(".psync/trash/{place}: is not what the run put there"));
    }
    let expected = state_of(&site.root, &mut site.index, to).map_err(|error| error.to_string())?;
    let (wanted, kept) = (Some(known.unwrap_or(found)), Kept::Trash(item.place.clone()));
    Ok(Change { path: to.clone(), expected, wanted, kept })
}

/// What lies at a place in the trash.
fn stands(root: &Root, place: &[u8]) -> std::io::Result<State> {
    let files = root.trash_files()?;
    let stat = files.into_iter().find(|(found, _)| found == place).map(|(_, stat)| stat);
    let stat = stat.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
    let props: Props = stat.props();
    let thing = match stat.kind {
        FileKind::Symlink => Thing::Symlink { target: root.read_trash_link(place)? },
        _ => {
            let (hash, size) = hash_reader(&mut root.open_trash_file(place)?, &mut Vec::new())?;
            Thing::File { size, hash }
        }
    };
    Ok(State::new(thing, props))
}

fn empty(matches: &ArgMatches) -> Result<Exit, Failure> {
    let root = subject::root(matches, std::path::Path::new("."))?;
    let mut site = subject::open(matches, &root)?;
    let items = listed(&mut site)?;
    let now = crate::journal::now() / 1000;
    let oldest = matches.get_one::<i64>("older-than").map(|age| now.saturating_sub(*age));
    let going: Vec<&Trashed> =
        items.iter().filter(|item| oldest.is_none_or(|oldest| item.since < oldest)).collect();
    let (count, bytes) = trash::remove(&site, &going).map_err(past::unreadable)?;
    if matches.get_flag("json") {
        object(json!({"type": "trash-emptied", "files": count, "bytes": bytes}));
    } else {
        let (count, bytes) = (past::count(count, "file"), HumanBytes(bytes));
        print_out(&format!("let go of {count}, {bytes}\n"));
    }
    Ok(Exit::Ok)
}
