//! `psync why PATH`: what decides about a path - a filter, what the index says of it, what the other
//! side is known to have - and what a sync would do now.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use psync_protocol::message::Filter;
use psync_protocol::path::printable;
use psync_protocol::{Content, ContentHash, RelPath, Row, Version};
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::config;
use super::exit::Exit;
use super::json::{put_path, time_of_seconds};
use super::output::wrapped;
use super::run::print_out;
use super::status::moment;
use super::subject::{self, Failure};
use crate::reconcile::{Counsel, Rule};
use crate::root::{FileKind, Root};
use crate::scan::{self, Cause, Origin};
use crate::settings::{Profile, Settings};
use crate::sync::{Sight, SyncError};
use crate::transport::answer;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "why",
    about: "What decides about a path, and what a sync would do with it now",
    arguments,
    run: why,
};

fn arguments(command: Command) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let path = Arg::new("path").value_name("PATH").value_parser(value_parser!(PathBuf));
    let rsh = Arg::new("rsh").long("rsh").short('e').value_name("CMD");
    let program = Arg::new("psync-path").long("psync-path").value_name("PROGRAM");
    subject::arguments(command)
        .arg(path.required(true).help("The path; it need not exist any more"))
        .arg(flag("offline", "Do not ask the other side what would happen now"))
        .arg(flag("json", "Say it as a JSON object"))
        .arg(rsh.help("The remote shell [default: $PSYNC_RSH, or ssh]"))
        .arg(program.help("psync on the remote side [default: psync]"))
}

fn why(matches: &ArgMatches) -> Exit {
    let json = matches.get_flag("json");
    match Answer::find(matches) {
        Ok(answer) => {
            match json {
                true => print_out(&format!("{}\n", answer.to_json())),
                false => print_out(&answer.to_text()),
            }
            Exit::Ok
        }
        Err(failure) => failure.told(json),
    }
}

/// All that is known about a path.
struct Answer {
    path: RelPath,
    root: PathBuf,
    stands: &'static str,
    filter: Option<Filtered>,
    /// The filter of the other side that leaves it alone, where that side is on this machine.
    filter_there: Option<Filtered>,
    /// The rules that match it, in order.
    rules: Vec<RuleInWords>,
    row: Option<RowInWords>,
    peers: Vec<PeerKnows>,
    now: Option<Now>,
}

/// The filter that decides about it.
struct Filtered {
    cause: Cause,
    /// Where it was written, in words.
    origin: String,
}

impl Filtered {
    fn new(cause: Cause, settings: &Settings, filters: &[Filter]) -> Filtered {
        let origin = match &cause.origin {
            Origin::File { path, line: Some(line) } => format!("{path}, line {line}"),
            Origin::File { path, line: None } => path.to_string(),
            Origin::Given(number) => {
                let filter = filters.get(*number);
                let own = settings.filters_shown().iter().find(|set| Some(&set.value) == filter);
                let has = |profile: &Profile| profile.patterns.contains(&cause.pattern.as_str());
                let mut profiles = settings.profiles_shown().iter();
                match (own, profiles.find(|set| has(set.value))) {
                    (Some(set), _) => set.origin.to_string(),
                    (None, Some(set)) => format!("profile {}, {}", set.value.name, set.origin),
                    (None, None) => "settings".to_string(),
                }
            }
        };
        Filtered { cause, origin }
    }

    fn in_words(&self, path: &RelPath) -> String {
        let cause = &self.cause;
        let pattern = printable(cause.pattern.as_bytes());
        let what = match (cause.ignored, cause.at == *path) {
            (true, true) => "it is left alone".to_string(),
            (true, false) => format!("{} is left alone, and everything in it", cause.at),
            (false, _) => "it is synced".to_string(),
        };
        format!("{what}: '{pattern}' ({})", self.origin)
    }

    fn to_json(&self) -> Value {
        let line = match self.cause.origin {
            Origin::Given(_) => None,
            Origin::File { line, .. } => line,
        };
        let mut object = Map::new();
        object.insert("pattern".into(), self.cause.pattern.as_str().into());
        object.insert("origin".into(), self.origin.as_str().into());
        object.insert("line".into(), line.into());
        put_path(&mut object, "matches", self.cause.at.as_bytes());
        object.insert("ignored".into(), self.cause.ignored.into());
        Value::Object(object)
    }
}

/// The filter of the root at a location that leaves a path alone there, if the root is on this machine.
fn filter_there(location: &str, path: &RelPath, is_dir: bool) -> Option<Filtered> {
    let place = Some(Path::new(location)).filter(|place| place.is_absolute())?;
    let root = Root::open(place).ok()?;
    let settings = config::settings_of(place).ok()?;
    let filters = settings.filters();
    let cause = scan::explain(&root, &filters, path, is_dir).ok()?.filter(|cause| cause.ignored)?;
    Some(Filtered::new(cause, &settings, &filters))
}

/// A rule that matches a path.
struct RuleInWords {
    /// Its pattern, and where it was written.
    name: String,
    says: String,
}

/// The rules of the settings that match a path, in words.
fn rules(settings: &Settings, path: &RelPath, is_dir: bool) -> Result<Vec<RuleInWords>, Failure> {
    let counsel = Counsel::new(settings.rulebook())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let words = |rule: &Rule| {
        let mut says = Vec::new();
        says.extend(rule.mode.map(|mode| format!("mode {mode:?}").to_lowercase()));
        says.extend(rule.max_size.map(|bytes| format!("max-size {bytes}")));
        says.extend(rule.warn_size.map(|bytes| format!("warn-size {bytes}")));
        says.extend(rule.priority.map(|priority| format!("priority {priority}")));
        match rule.policy_for_all() {
            Some(policy) => says.push(format!("policy {}", policy.name())),
            None => says.extend(
                rule.policies
                    .iter()
                    .map(|(kind, policy)| format!("{} {}", kind.name(), policy.name())),
            ),
        }
        says.extend(rule.trash.map(|trash| format!("trash {trash}")));
        says.extend(rule.keep_versions.map(|kept| match kept {
            u32::MAX => "keep-versions all".to_string(),
            kept => format!("keep-versions {kept}"),
        }));
        says.extend(rule.merge_by_key.map(|by_key| match by_key {
            true => "merge structured".to_string(),
            false => "merge text".to_string(),
        }));
        let pattern = printable(rule.pattern.as_bytes());
        RuleInWords { name: format!("'{pattern}' ({})", rule.origin), says: says.join(", ") }
    };
    Ok(counsel.matching(path, is_dir).into_iter().map(words).collect())
}

/// What the index says.
struct RowInWords {
    what: String,
    hash: Option<String>,
    content: String,
    props: String,
    base: Option<String>,
    sequence: u64,
    content_since: u64,
}

/// What a peer is known to have heard.
struct PeerKnows {
    name: String,
    seen: i64,
    /// Whether it has heard of the latest change here.
    told: bool,
    /// Whether the path was left open with it.
    pending: bool,
}

/// What a dry run says.
struct Now {
    with: String,
    said: Result<Vec<Value>, String>,
}

impl Answer {
    fn find(matches: &ArgMatches) -> Result<Answer, Failure> {
        let typed = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
        let (root, path) = subject::path_in_root(matches, &typed)?;
        let mut sight = subject::look(matches, &root)?;
        let io = |error: std::io::Error| {
            Failure::new(Exit::FileIo, format!("{}: {error}", typed.display()))
        };
        let nonsense = |error| {
            let error = SyncError::Index(error);
            Failure::new(Exit::of(&error), error.to_string())
        };
        let stat = sight.root.stat(&path).map_err(io)?;
        let stands = stat.map_or("nothing", |stat| name_of(stat.kind));
        let stored = sight.index.row(&path).map_err(nonsense)?;
        let is_dir = stands == "directory"
            || stat.is_none()
                && stored.as_ref().is_some_and(|row| matches!(row.row.content, Content::Directory));
        let settings = config::settings_of(&sight.place.path)?;
        let filters = settings.filters();
        let filter = scan::explain(&sight.root, &filters, &path, is_dir).map_err(io)?;
        let filter = filter.map(|cause| Filtered::new(cause, &settings, &filters));
        let rules = rules(&settings, &path, is_dir)?;
        let known = sight.index.acquaintances().map_err(nonsense)?;
        let names = Names {
            here: sight.index.replica(),
            peers: known
                .iter()
                .map(|known| (known.peer.replica, known.locations.clone()))
                .collect(),
        };
        let numbers = sight.index.numbers(&path).map_err(nonsense)?;
        let row = stored.zip(numbers).map(|(stored, numbers)| RowInWords {
            what: what(&stored.row),
            hash: match stored.row.content {
                // All directories have the same.
                Content::Directory => None,
                _ => stored.row.content.fingerprint().map(|hash| short(&hash)),
            },
            content: names.version(&stored.row.content_version),
            props: names.version(&stored.row.props_version),
            base: stored.row.base.map(|base| short(&base)),
            sequence: numbers.sequence,
            content_since: numbers.content_since,
        });
        let mut peers = Vec::new();
        for known in &known {
            let pending = sight.index.pending(known.peer.replica).map_err(nonsense)?;
            peers.push(PeerKnows {
                name: names.of(known.peer.replica),
                seen: known.seen,
                told: numbers.is_none_or(|numbers| numbers.sequence <= known.peer.ours),
                pending: pending.contains(&path),
            });
        }
        let last = known.iter().find_map(|known| known.locations.first());
        let now = match (matches.get_flag("offline"), last) {
            (true, _) | (_, None) => None,
            (false, Some(location)) => Some(Now {
                with: printable(location.as_bytes()),
                said: dry_run(matches, &sight, location, &path),
            }),
        };
        let filter_there = last.and_then(|location| filter_there(location, &path, is_dir));
        let root = sight.place.path;
        Ok(Answer { root, path, stands, filter, filter_there, rules, row, peers, now })
    }

    fn to_text(&self) -> String {
        let root = printable(self.root.as_os_str().as_bytes());
        let mut text = format!("{}\n  in the root {root}\n", self.path);
        text.push_str(&format!("  on disk: {}\n", self.stands));
        text.push_str(&match (&self.filter, &self.filter_there) {
            (None, None) => "filter: none matches; it is synced\n".to_string(),
            (None, Some(_)) => "filter: none matches here\n".to_string(),
            (Some(filter), _) => format!("filter: {}\n", filter.in_words(&self.path)),
        });
        if let Some(filter) = &self.filter_there {
            text.push_str(&format!("filter of the other side: {}\n", filter.in_words(&self.path)));
        }
        for RuleInWords { name, says } in &self.rules {
            text.push_str(&format!("rule: {name}\n{}", wrapped(says, 2)));
        }
        text.push_str(&match &self.row {
            None => "index: never seen here\n".to_string(),
            Some(row) => row.to_text(),
        });
        // Of what was never seen nobody can have heard.
        for peer in self.peers.iter().filter(|_| self.row.is_some()) {
            let told = if peer.told { "has heard of this" } else { "has not heard of this yet" };
            let open = if peer.pending { "; left open" } else { "" };
            let seen = moment(peer.seen);
            text.push_str(&format!("peer: {}\n  last seen {seen}; {told}{open}\n", peer.name));
        }
        if let Some(now) = &self.now {
            text.push_str(&format!("a sync with {} now would:\n", now.with));
            match &now.said {
                Ok(said) if said.is_empty() => text.push_str("  do nothing about it\n"),
                Ok(said) => {
                    said.iter().for_each(|object| text.push_str(&format!("  {}\n", spoken(object))))
                }
                Err(error) => text.push_str(&format!("  (cannot be told: {error})\n")),
            }
        }
        text
    }

    fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("type".into(), "why".into());
        put_path(&mut object, "path", self.path.as_bytes());
        object.insert("root".into(), self.root.display().to_string().into());
        object.insert("on_disk".into(), self.stands.into());
        let filter = self.filter.as_ref().map(Filtered::to_json);
        object.insert("filter".into(), filter.into());
        let filter_there = self.filter_there.as_ref().map(Filtered::to_json);
        object.insert("filter_there".into(), filter_there.into());
        let rules = self.rules.iter().map(|rule| format!("{}: {}", rule.name, rule.says));
        object.insert("rules".into(), rules.collect());
        let row = self.row.as_ref().map(|row| {
            json!({
                "what": row.what, "hash": row.hash, "content_version": row.content,
                "properties_version": row.props, "base": row.base, "change": row.sequence,
                "content_since": row.content_since,
            })
        });
        object.insert("index".into(), row.into());
        let peer = |peer: &PeerKnows| json!({"name": peer.name, "seen": time_of_seconds(peer.seen), "told": peer.told, "pending": peer.pending});
        object.insert("peers".into(), self.peers.iter().map(peer).collect());
        let now = self.now.as_ref().map(|now| match &now.said {
            Ok(said) => json!({"with": now.with, "would": said}),
            Err(error) => json!({"with": now.with, "error": error}),
        });
        object.insert("now".into(), now.into());
        Value::Object(object)
    }
}

impl RowInWords {
    fn to_text(&self) -> String {
        let mut text = format!("index: {}\n", self.what);
        if let Some(hash) = &self.hash {
            text.push_str(&format!("  content hash: {hash}\n"));
        }
        text.push_str(&format!("  content changed by: {}\n", self.content));
        text.push_str(&format!("  mode and time changed by: {}\n", self.props));
        if let Some(base) = &self.base {
            text.push_str(&format!("  built on: {base}\n"));
        }
        text.push_str(&format!(
            "  change number {} of this root; content since number {}\n",
            self.sequence, self.content_since
        ));
        text
    }
}

fn what(row: &Row<ContentHash>) -> String {
    let mode = row.props.mode;
    let time = moment(row.props.mtime.secs);
    match &row.content {
        Content::Deleted { moved_to: Some(to) } => format!("gone; it went to {to}"),
        Content::Deleted { moved_to: None } => "gone; it was deleted".into(),
        Content::Directory => format!("directory, mode {mode:o}"),
        Content::File { size, .. } => format!("file of {size} bytes, mode {mode:o}, of {time}"),
        Content::Symlink { target, .. } => format!("symbolic link to {}", printable(target)),
    }
}

fn name_of(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Special => "device, socket or FIFO",
    }
}

fn short(hash: &ContentHash) -> String {
    hash.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How replicas are called.
struct Names {
    here: psync_protocol::ReplicaId,
    peers: Vec<(psync_protocol::ReplicaId, Vec<String>)>,
}

impl Names {
    fn of(&self, replica: psync_protocol::ReplicaId) -> String {
        let known = self.peers.iter().find(|(known, _)| *known == replica);
        match known.and_then(|(_, locations)| locations.first()) {
            _ if replica == self.here => "this root".into(),
            Some(location) => printable(location.as_bytes()),
            None => format!("replica {}", &replica.to_string()[..8]),
        }
    }

    /// A version vector in words.
    fn version(&self, version: &Version) -> String {
        let pair = |(replica, counter): &(_, u64)| format!("{} ({counter})", self.of(*replica));
        let words: Vec<String> = version.pairs().iter().map(pair).collect();
        if words.is_empty() { "nobody".into() } else { words.join(", ") }
    }
}

/// What a dry run of psync says about the path: a process of its own, so that it is the very same
/// run that a person would start.
fn dry_run(
    matches: &ArgMatches,
    sight: &Sight,
    location: &str,
    path: &RelPath,
) -> Result<Vec<Value>, String> {
    let machine = config::machine().map_err(|error| error.to_string())?;
    // As the person would start it: by the name of the pair that these two are.
    let place = |side: &str| Path::new(side).canonicalize().ok();
    let is_it = |name: &&str| {
        let remote = machine.pair(name).map(|sides| sides.remote).unwrap_or_default();
        remote == location || place(&remote).is_some() && place(&remote) == place(location)
    };
    let pair = config::pairs_of(&machine, &sight.place.path).into_iter().find(is_it);
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut process = Process::new(program);
    process.args(["--dry-run", "--json"]);
    for name in ["rsh", "psync-path"] {
        if let Some(value) = matches.get_one::<String>(name) {
            process.arg(format!("--{name}={value}"));
        }
    }
    if let Some(state) = matches.get_one::<PathBuf>("state-dir") {
        process.arg("--state-dir").arg(state);
    }
    match pair {
        Some(pair) => process.arg(pair),
        None => process.arg(&sight.place.path).arg(location),
    };
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = process.spawn().and_then(answer).map_err(|error| error.to_string())?;
    let objects = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| {
        let object: Option<Value> = serde_json::from_slice(line).ok();
        object
    });
    let mut said = Vec::new();
    for object in objects {
        match object["type"].as_str() {
            Some("error") => {
                return Err(object["text"].as_str().unwrap_or("it failed").to_string());
            }
            Some("action" | "conflict" | "left-alone" | "problem") if speaks_of(&object, path) => {
                said.push(object)
            }
            _ => {}
        }
    }
    Ok(said)
}

fn speaks_of(object: &Value, path: &RelPath) -> bool {
    let mut expected = Map::new();
    put_path(&mut expected, "path", path.as_bytes());
    let is_it = |key: &str| {
        expected
            .iter()
            .all(|(name, value)| object[name.replacen("path", key, 1).as_str()] == *value)
    };
    is_it("path") || is_it("from")
}

/// An object of `--json` in words.
fn spoken(object: &Value) -> String {
    let text = |key: &str| printable(object[key].as_str().unwrap_or_default().as_bytes());
    match object["type"].as_str() {
        Some("action") => {
            let from = if object["from"].is_null() {
                String::new()
            } else {
                format!(" from {}", text("from"))
            };
            format!(
                "{} {} on the {} side{from}: {}",
                text("action"),
                text("path"),
                text("side"),
                text("why")
            )
        }
        Some("conflict") => {
            // The outcome has names in it that are printable already.
            let outcome = object["outcome"].as_str().unwrap_or_default();
            format!("have a conflict ({}): {outcome}", text("kind"))
        }
        Some("left-alone") => format!("leave it alone: {}", text("why")),
        _ => format!("say: {}", text("text")),
    }
}
