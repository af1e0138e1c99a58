//! `psync status [ROOT]`: how things stand with a root, without changing anything; also while a run
//! is at work on it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use psync_protocol::RelPath;
use psync_protocol::path::printable;
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::config;
use super::exit::Exit;
use super::json::{put_path, put_paths, time_of_milliseconds, time_of_seconds};
use super::log::ending_words;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{Ending, Journal, JournalError};
use crate::report::Silent;
use crate::root::WORK_DIR;
use crate::scan::{self, Changes, Rules};
use crate::sync::{Sight, SyncError, Which};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "status",
    about: "How things stand with a root: what waits, who was met, what is kept",
    arguments,
    run: status,
};

fn arguments(command: Command) -> Command {
    let root = Arg::new("at").value_name("ROOT|PAIR").value_parser(value_parser!(PathBuf));
    subject::arguments(command)
        .arg(
            root.help("The root, or a pair's side here [default: of this directory]")
                .conflicts_with("root"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Say it as a JSON object"),
        )
}

fn status(matches: &ArgMatches) -> Exit {
    let json = matches.get_flag("json");
    match Standing::find(matches) {
        Ok(standing) => {
            match json {
                true => print_out(&format!("{}\n", standing.to_json())),
                false => print_out(&standing.to_text()),
            }
            Exit::Ok
        }
        Err(failure) => failure.told(json),
    }
}

/// How things stand with a root.
struct Standing {
    root: PathBuf,
    replica: String,
    /// None while a run is at work: the index changes under the hands of whoever looks.
    waiting: Option<Changes>,
    entries: u64,
    /// The last run that did something or failed; none where no journal tells of one.
    last: Option<LastRun>,
    /// Conflicts that wait for somebody.
    conflicts: usize,
    peers: Vec<PeerStanding>,
    store: Usage,
    trash: Usage,
}

/// A run, as the journal has it.
struct LastRun {
    id: String,
    kind: &'static str,
    /// In milliseconds since 1970.
    began: i64,
    ended: Option<i64>,
    with: String,
    done: u64,
    conflicts: u64,
    failures: u64,
    ending: Ending,
}

/// How things stand with a peer.
struct PeerStanding {
    replica: String,
    locations: Vec<String>,
    seen: i64,
    /// Changes that are in the index, and that it has not heard of.
    untold: u64,
    /// Paths that were left open with it.
    pending: Vec<RelPath>,
}

/// What lies below a directory.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    files: u64,
    bytes: u64,
}

impl Standing {
    fn find(matches: &ArgMatches) -> Result<Standing, Failure> {
        let root = match matches.get_one::<PathBuf>("at") {
            Some(root) => subject::named_root(root)?,
            None => subject::root(matches, Path::new("."))?,
        };
        let mut sight = subject::look(matches, &root)?;
        let waiting = match sight.is_busy() {
            true => None,
            false => Some(changes(&mut sight)?),
        };
        let nonsense = |error| failure(&SyncError::Index(error));
        let mut peers = Vec::new();
        for known in sight.index.acquaintances().map_err(nonsense)? {
            let pending = sight.index.pending(known.peer.replica).map_err(nonsense)?;
            peers.push(PeerStanding {
                replica: known.peer.replica.to_string(),
                locations: known.locations,
                seen: known.seen,
                untold: sight.index.count_since(known.peer.ours).map_err(nonsense)?,
                pending: pending.into_iter().collect(),
            });
        }
        Ok(Standing {
            last: LastRun::of(&sight)?,
            conflicts: sight.index.conflicts(Which::Open).map_err(nonsense)?.len(),
            replica: sight.index.replica().to_string(),
            waiting,
            entries: sight.index.live().map_err(nonsense)?,
            peers,
            store: usage(&sight.state.join("store")),
            trash: usage(&sight.place.path.join(WORK_DIR).join("trash")),
            root: sight.place.path,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("root: {}\n", printable(self.root.as_os_str().as_bytes()));
        text.push_str(&format!("entries: {}\n", HumanCount(self.entries)));
        text.push_str(&match self.waiting {
            None => "a psync is working on this root now\n".to_string(),
            Some(Changes { created: 0, changed: 0, deleted: 0 }) => {
                "changed here since the last run: nothing\n".to_string()
            }
            Some(Changes { created, changed, deleted }) => format!(
                "changed here since the last run: {created} new, {changed} changed, {deleted} gone\n"
            ),
        });
        if let Some(last) = &self.last {
            text.push_str(&last.to_text());
        }
        match self.conflicts {
            0 => text.push_str("conflicts that wait: none\n"),
            count => {
                text.push_str(&format!("conflicts that wait: {count} (see psync conflicts)\n"))
            }
        }
        if self.peers.is_empty() {
            text.push_str("peers: none yet\n");
        }
        for peer in &self.peers {
            text.push_str(&peer.to_text());
        }
        let usage = |usage: Usage| format!("{} in {} files", HumanBytes(usage.bytes), usage.files);
        text.push_str(&format!("old contents: {}\n", usage(self.store)));
        text.push_str(&format!("trash: {}\n", usage(self.trash)));
        text
    }

    fn to_json(&self) -> Value {
        let usage = |usage: Usage| json!({"files": usage.files, "bytes": usage.bytes});
        let waiting = self.waiting.map(|changes| {
            json!({"new": changes.created, "changed": changes.changed, "gone": changes.deleted})
        });
        let mut object = json!({
            "type": "status", "replica": self.replica,
            "busy": self.waiting.is_none(), "entries": self.entries, "changes": waiting,
            "last_run": self.last.as_ref().map(LastRun::to_json), "conflicts": self.conflicts,
            "peers": self.peers.iter().map(PeerStanding::to_json).collect::<Value>(),
            "store": usage(self.store), "trash": usage(self.trash),
        });
        if let Some(object) = object.as_object_mut() {
            put_path(object, "root", self.root.as_os_str().as_bytes());
        }
        object
    }
}

impl LastRun {
    fn of(sight: &Sight) -> Result<Option<LastRun>, Failure> {
        let unreadable = |error: JournalError| {
            Failure::new(Exit::FileIo, format!("{}: {error}", sight.state.display()))
        };
        let Some(journal) = Journal::read(&sight.state).map_err(unreadable)? else {
            return Ok(None);
        };
        let run = journal.runs(1, true).map_err(unreadable)?.into_iter().next();
        Ok(run.map(|run| LastRun {
            id: run.id.to_string(),
            kind: run.kind.name(),
            began: run.began,
            ended: run.ended,
            with: printable(run.reach.location.as_bytes()),
            done: run.counts.all(),
            conflicts: run.conflicts,
            failures: run.failures,
            ending: run.ending,
        }))
    }

    fn to_text(&self) -> String {
        let with =
            if self.with.is_empty() { String::new() } else { format!(" with {}", self.with) };
        let ending = match &self.ending {
            Ending::Finished => format!(
                "{} done here, {} conflicts, {} failed",
                self.done, self.conflicts, self.failures
            ),
            Ending::Open => "not ended yet, or cut off".to_string(),
            Ending::Broken(error) => format!("it broke: {}", printable(error.as_bytes())),
        };
        format!(
            "last run: {} ({}{with})\n  {ending}\n",
            moment(self.began.div_euclid(1000)),
            self.kind
        )
    }

    fn to_json(&self) -> Value {
        let (result, error) = ending_words(&self.ending);
        json!({
            "id": self.id, "kind": self.kind, "began": time_of_milliseconds(self.began),
            "ended": self.ended.map(time_of_milliseconds), "with": self.with, "done": self.done,
            "conflicts": self.conflicts, "failures": self.failures,
            "result": result, "error": error,
        })
    }
}

impl PeerStanding {
    fn to_text(&self) -> String {
        let name = match self.locations.is_empty() {
            // It came to us: only it knows where that is.
            true => format!("replica {}, which starts its runs itself", &self.replica[..8]),
            false => printable(self.locations.join(", ").as_bytes()),
        };
        let mut text = format!("peer: {name}\n  last seen: {}\n", moment(self.seen));
        text.push_str(&format!("  not told yet: {}\n", count(self.untold, "change")));
        if !self.pending.is_empty() {
            text.push_str(&format!("  left open: {}\n", count(self.pending.len(), "path")));
            for path in self.pending.iter().take(PATHS_SHOWN) {
                text.push_str(&format!("    {path}\n"));
            }
            if self.pending.len() > PATHS_SHOWN {
                text.push_str("    ...\n");
            }
        }
        text
    }

    fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("replica".into(), self.replica.as_str().into());
        object.insert("locations".into(), self.locations.as_slice().into());
        object.insert("seen".into(), time_of_seconds(self.seen));
        object.insert("untold".into(), self.untold.into());
        put_paths(&mut object, "pending", self.pending.iter().map(RelPath::as_bytes));
        Value::Object(object)
    }
}

/// A number of things of one kind.
fn count(number: impl TryInto<u64>, thing: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {thing}"),
        number => format!("{} {thing}s", HumanCount(number)),
    }
}

/// So many of the paths that are left open are named; `--json` names all.
const PATHS_SHOWN: usize = 10;

fn changes(sight: &mut Sight) -> Result<Changes, Failure> {
    let filters = config::settings_of(&sight.place.path)?.filters();
    let rules = Rules::new(&filters).map_err(|error| failure(&SyncError::Filter(error)))?;
    scan::preview(&sight.root, &mut sight.index, rules, &Silent)
        .map_err(|error| failure(&SyncError::Scan { path: sight.place.path.clone(), error }))
}

fn failure(error: &SyncError) -> Failure {
    Failure::new(Exit::of(error), error.to_string())
}

/// What lies below a directory, as far as it can be read.
fn usage(dir: &Path) -> Usage {
    let mut usage = Usage::default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            let below = self::usage(&entry.path());
            usage.files += below.files;
            usage.bytes += below.bytes;
        } else {
            usage.files += 1;
            // What it takes on disk; a file of many holes is not as large as it looks.
            usage.bytes += found.blocks() * 512;
        }
    }
    usage
}

/// A moment in the person's own time.
pub(super) fn moment(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(moment) => moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "at an unknown time".into(),
    }
}
