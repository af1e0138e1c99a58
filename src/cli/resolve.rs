//! `psync resolve`: what is to become of conflicts, chosen for many at once or one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use psync_protocol::RelPath;
use psync_protocol::path::printable;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex};

use super::command::Subcommand;
use super::conflicts::{about, latest, listed, paragraph, root_of};
use super::diff;
use super::exit::Exit;
use super::past::complain;
use super::run::{print_out, run_names};
use super::subject::{self, Failure};
use crate::apply::RunNames;
use crate::merge::Format;
use crate::reconcile::Counsel;
use crate::report::State;
use crate::settings;
use crate::sync::resolve::{self, Contents, Keep, ResolveError, Resolved};
use crate::sync::{Listed, Site, Which};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "resolve",
    about: "Settle conflicts: keep a side, keep both, or merge",
    arguments,
    run: resolve,
};

fn arguments(command: Command) -> Command {
    let paths = Arg::new("paths").value_name("PATH").action(ArgAction::Append);
    let keep = Arg::new("keep").long("keep").value_name("WHICH");
    let tool = Arg::new("tool").long("tool").value_name("CMD");
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    subject::arguments(command)
        .arg(
            paths
                .value_parser(value_parser!(PathBuf))
                .help("A path, a directory or a pattern [default: ask about each]"),
        )
        .arg(keep.help("local, remote, both, newest, oldest, largest or a name"))
        .arg(flag("merge").help("Merge the changes of both, line by line"))
        .arg(tool.help("Merge with it; it finds $BASE $LOCAL $REMOTE $MERGED"))
        .arg(
            Arg::new("with")
                .long("with")
                .value_name("PLACE")
                .help("Those with this other side only [default: whichever has them]"),
        )
        .arg(flag("all").help("All conflicts that wait").conflicts_with("paths"))
        .group(ArgGroup::new("how").args(["keep", "merge", "tool"]))
}

/// What is to be done about a conflict.
#[derive(Debug, Clone)]
enum How {
    Keep(String),
    Merge,
    Tool(String),
}

impl How {
    fn of(matches: &ArgMatches) -> Option<How> {
        if matches.get_flag("merge") {
            return Some(How::Merge);
        }
        let text = |name| matches.get_one::<String>(name).cloned();
        text("keep").map(How::Keep).or_else(|| text("tool").map(How::Tool))
    }
}

fn resolve(matches: &ArgMatches) -> Exit {
    match try_resolve(matches) {
        Ok(exit) => exit,
        Err(failure) => failure.told(false),
    }
}

fn try_resolve(matches: &ArgMatches) -> Result<Exit, Failure> {
    let words: Vec<PathBuf> = matches.get_many("paths").into_iter().flatten().cloned().collect();
    let how = How::of(matches);
    let all = matches.get_flag("all");
    if how.is_none() && !std::io::stdin().is_terminal() {
        let text = "say what is to be done: --keep local|remote|both|newest, --merge or --tool CMD, \
                    with paths, patterns or --all (psync conflicts lists them)";
        return Err(Failure::new(Exit::Usage, text));
    }
    if how.is_some() && words.is_empty() && !all {
        return Err(Failure::new(Exit::Usage, "which conflicts? Name paths or patterns, or --all"));
    }
    let root = root_of(matches, &words)?;
    let mut site = subject::open(matches, &root)?;
    let with = matches.get_one::<String>("with");
    let all_with = |site: &mut Site, which| {
        let found = listed(site, which)?.into_iter();
        Ok::<Vec<Listed>, Failure>(
            found.filter(|listed| with.is_none_or(|with| is_with(listed, with))).collect(),
        )
    };
    let chosen = match words.is_empty() {
        true => all_with(&mut site, Which::Open)?,
        false => {
            let found = latest(all_with(&mut site, Which::All)?);
            let bulk = words.iter().any(|word| super::conflicts::is_pattern(word));
            let chosen = about(matches, &root, &found, &words)?;
            // A pattern is about what can still be resolved; a path is about what it names.
            let open = chosen.iter().filter(|listed| is_open_to_choice(listed)).count();
            match bulk && open > 0 {
                true => chosen.into_iter().filter(is_open_to_choice).collect(),
                false => without_past(chosen),
            }
        }
    };
    if chosen.is_empty() {
        print_out("no conflict waits\n");
        return Ok(Exit::Ok);
    }
    if how.is_some() {
        refuse_ambiguous(&chosen)?;
    }
    let rules = super::config::settings_of(&root)?.rulebook();
    let machines = rules.names.clone();
    let counsel =
        Counsel::new(rules).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let names = run_names();
    let mut session = Session { site, names, counsel, machines, settled: 0, failed: 0 };
    match how {
        Some(how) => {
            let how = session.named(how, &chosen)?;
            for listed in &chosen {
                session.settle(listed, &how);
            }
        }
        None => session.walk(&chosen)?,
    }
    Ok(session.end())
}

fn is_open_to_choice(listed: &Listed) -> bool {
    let can_be_changed = match &listed.conflict.state {
        State::Held { .. } => true,
        State::Settled { clash } => clash.is_some(),
    };
    can_be_changed && listed.resolved.is_none()
}

/// Whether a conflict is with the other side at this place.
fn is_with(listed: &Listed, place: &str) -> bool {
    let typed = crate::root::Place::of(Path::new(place)).map(|place| place.path);
    listed.place == place || typed.is_ok_and(|path| path.as_os_str() == listed.place.as_str())
}

/// Without what is settled with one other side where the same path can be resolved with another.
fn without_past(chosen: Vec<Listed>) -> Vec<Listed> {
    let open = chosen.iter().filter(|listed| is_open_to_choice(listed));
    let open: BTreeSet<RelPath> = open.map(|listed| listed.conflict.path.clone()).collect();
    let stays =
        |listed: &Listed| is_open_to_choice(listed) || !open.contains(&listed.conflict.path);
    chosen.into_iter().filter(stays).collect()
}

/// Two sides that are in conflict with this one about the same path have each their own version: it
/// has to be said which of them is meant.
fn refuse_ambiguous(chosen: &[Listed]) -> Result<(), Failure> {
    let mut open: BTreeMap<&RelPath, Vec<&Listed>> = BTreeMap::new();
    for listed in chosen.iter().filter(|listed| is_open_to_choice(listed)) {
        open.entry(&listed.conflict.path).or_default().push(listed);
    }
    let Some((path, several)) = open.into_iter().find(|(_, several)| several.len() > 1) else {
        return Ok(());
    };
    let places: Vec<String> =
        several.iter().map(|listed| printable(listed.place.as_bytes())).collect();
    let text = format!("{path}: in conflict with {}; say which with --with", places.join(" and "));
    Err(Failure::new(Exit::Usage, text))
}

/// One call of the command.
struct Session {
    site: Site,
    names: RunNames,
    counsel: Counsel,
    /// What this machine and the other one are called.
    machines: (String, String),
    settled: u64,
    failed: u64,
}

impl Session {
    /// Makes `local` or `remote` of a machine's name; refuses what is neither that nor a policy.
    fn named(&self, how: How, chosen: &[Listed]) -> Result<How, Failure> {
        let How::Keep(typed) = &how else { return Ok(how) };
        if Keep::ALL.iter().any(|(_, known)| known == typed) {
            return Ok(how);
        }
        let name = typed.strip_prefix("replica:").unwrap_or(typed);
        let there = |listed: &Listed| {
            let places = self.site.index.places_of(listed.peer).unwrap_or_default();
            let hosts = places.iter().filter_map(|place| settings::host_of(place));
            hosts.chain([self.machines.1.clone()]).any(|host| host == name)
        };
        if name == self.machines.0 {
            Ok(How::Keep("local".into()))
        } else if !name.is_empty() && chosen.iter().all(there) {
            Ok(How::Keep("remote".into()))
        } else {
            let text = format!(
                "--keep {typed}: neither local, remote, both, newest, oldest or largest, nor the name \
                 of a machine that has these files"
            );
            Err(Failure::new(Exit::Usage, text))
        }
    }

    /// Settles one, and says what came of it.
    fn settle(&mut self, listed: &Listed, how: &How) {
        let path = &listed.conflict.path;
        let told = match (self.try_settle(listed, how), how) {
            (Ok(Resolved::Chosen), How::Keep(name)) => format!("{name}, in the next run"),
            (Ok(Resolved::Chosen), How::Merge | How::Tool(_)) => "in the next run".into(),
            (Ok(Resolved::Changed), How::Keep(name)) => format!("resolved: {name}"),
            (Ok(Resolved::Changed), How::Merge | How::Tool(_)) => "merged".into(),
            (Ok(Resolved::Noted), _) => return print_out(&format!("{path}: both stay\n")),
            (Err(text), _) => {
                self.failed += 1;
                complain(&format!("psync: {text}"));
                return;
            }
        };
        self.settled += 1;
        print_out(&format!("{path}: {told}\n"));
    }

    fn try_settle(&mut self, listed: &Listed, how: &How) -> Result<Resolved, String> {
        let Session { site, names, counsel, .. } = self;
        let text = |error: ResolveError| error.to_string();
        let path = &listed.conflict.path;
        if matches!(how, How::Merge | How::Tool(_)) {
            resolve::check_mergeable(listed).map_err(text)?;
        }
        match how {
            How::Keep(name) => {
                let keep = Keep::ALL.iter().find(|(_, known)| known == name);
                let keep = keep.map_or(Keep::Both, |(keep, _)| *keep);
                resolve::keep(site, listed, keep, names).map_err(text)
            }
            How::Merge => {
                let contents = resolve::contents(site, listed).map_err(text)?;
                let merged = contents.merged(resolve::by_key(counsel, path)).ok_or_else(|| match contents.base {
                    Some(_) => format!(
                        "{path}: the changes overlap, or one side is no text; choose with --keep, or merge with --tool"
                    ),
                    None => format!(
                        "{path}: what both sides had before is not known; choose with --keep, or merge with --tool"
                    ),
                })?;
                resolve::write(site, listed, &merged, names).map_err(text)
            }
            How::Tool(command) => {
                let contents = resolve::contents(site, listed).map_err(text)?;
                let merged = with_tool(command, listed, &contents, resolve::by_key(counsel, path))?;
                resolve::write(site, listed, &merged, names).map_err(text)
            }
        }
    }

    /// Says what is to be done next.
    fn end(self) -> Exit {
        if self.settled > 0 {
            print_out("run psync again to bring both sides together\n");
        }
        if self.failed > 0 { Exit::Partial } else { Exit::Ok }
    }

    /// Shows one after the other, and asks for a key.
    fn walk(&mut self, chosen: &[Listed]) -> Result<(), Failure> {
        for (at, listed) in chosen.iter().enumerate() {
            print_out(&format!("\n[{}/{}] {}", at + 1, chosen.len(), paragraph(listed)));
            loop {
                print_out(
                    "l local  r remote  b both  n newest  m merge  d diff  s skip  q quit > ",
                );
                let key = read_key()?;
                let shown = if key.is_ascii_graphic() { key } else { ' ' };
                print_out(&format!("{shown}\n"));
                let keep = |keep: Keep| Some(How::Keep(keep.name().into()));
                let how = match key {
                    'l' => keep(Keep::Local),
                    'r' => keep(Keep::Remote),
                    'b' => keep(Keep::Both),
                    'n' => keep(Keep::Newest),
                    'm' => Some(How::Merge),
                    'd' => {
                        print_out(&diff::of_conflict(&mut self.site, listed, true).text);
                        None
                    }
                    's' => break,
                    'q' | '\u{3}' | '\u{4}' => return Ok(()),
                    _ => None,
                };
                if let Some(how) = how {
                    let failed = self.failed;
                    self.settle(listed, &how);
                    if self.failed == failed {
                        break;
                    }
                    self.failed = failed;
                }
            }
        }
        Ok(())
    }
}

/// One key, as it is pressed.
fn read_key() -> Result<char, Failure> {
    let input = std::io::stdin();
    let unusable = |error: rustix::io::Errno| {
        Failure::new(Exit::FileIo, format!("the terminal cannot be used: {error}"))
    };
    let usual = termios::tcgetattr(&input).map_err(unusable)?;
    let mut raw = usual.clone();
    raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    termios::tcsetattr(&input, OptionalActions::Now, &raw).map_err(unusable)?;
    let mut byte = [0];
    let read = input.lock().read(&mut byte);
    termios::tcsetattr(&input, OptionalActions::Now, &usual).map_err(unusable)?;
    match read {
        Ok(0) => Ok('q'),
        Ok(_) => Ok(char::from(byte[0])),
        Err(error) => Err(Failure::new(Exit::FileIo, format!("cannot read a key: {error}"))),
    }
}

/// Runs somebody's merge tool on copies, and takes what it leaves in the merged one if it ends
/// well.
fn with_tool(
    command: &str,
    listed: &Listed,
    contents: &Contents,
    by_key: Option<Format>,
) -> Result<Vec<u8>, String> {
    let path = &listed.conflict.path;
    let failed = |error: std::io::Error| format!("{path}: cannot prepare the merge tool: {error}");
    let folder = Folder::new().map_err(failed)?;
    let file = |name: &str, content: &[u8]| {
        let place = folder.0.join(name);
        std::fs::write(&place, content).map(|()| place)
    };
    let merged = contents.merged(by_key).unwrap_or_else(|| contents.local.clone());
    let base = file("base", contents.base.as_deref().unwrap_or_default()).map_err(failed)?;
    let local = file("local", &contents.local).map_err(failed)?;
    let remote = file("remote", &contents.remote).map_err(failed)?;
    let result = file("merged", &merged).map_err(failed)?;
    let run = Process::new("sh")
        .args(["-c", command])
        .env("BASE", base)
        .env("LOCAL", local)
        .env("REMOTE", remote)
        .env("MERGED", &result)
        .status();
    match run {
        Ok(status) if status.success() => std::fs::read(&result).map_err(failed),
        Ok(status) => {
            Err(format!("{path}: the merge tool ended with {status}; nothing was changed"))
        }
        Err(error) => Err(format!("{path}: cannot start the merge tool: {error}")),
    }
}

/// A folder for one use of a tool, for its owner only.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        use std::os::unix::fs::DirBuilderExt;
        let mut random = [0; 8];
        crate::sync::random(&mut random);
        let name = format!("psync-merge-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
