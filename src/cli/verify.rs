//! `psync verify`: reads all contents again, on one side or on both, and compares them with the
//! index and with each other; with `--repair`, brings what rotted from the side that has it good.

mod other;
mod repair;
mod signatures;
mod tell;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psync_protocol::{ContentHash, RelPath};

use super::command::Subcommand;
use super::config;
use super::endpoint::Endpoint;
use super::exit::Exit;
use super::options::Options;
use super::plan::sync_options;
use super::run::state_home;
use super::subject::{self, Failure};
use super::words::Words;
use crate::settings::Machine;
use crate::sync::{self, Examined, Fault, Finding, Keeping, Sight, SyncError};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "verify",
    about: "Read all contents again and compare; --repair fetches what rotted",
    arguments,
    run: verify,
};

fn arguments(command: Command) -> Command {
    let usage = "psync verify [--json] [ROOT]\n       psync verify --signatures [--json] [ROOT]\n       psync verify [--repair] [--from local|remote] [--json]\n                    [OPTIONS OF A SYNC] A B";
    command
        .override_usage(usage)
        .arg(
            Arg::new("words")
                .value_name("ROOT, or A B")
                .num_args(0..)
                .allow_hyphen_values(true)
                .trailing_var_arg(true)
                .value_parser(value_parser!(OsString))
                .help("One root [default: that of this directory], or both sides"),
        )
        .after_help(
            "--repair fetches what rotted from the side that has it good.\n\
             --signatures checks what this root and its peers have signed, not contents.\n\
             --from local|remote says which side is good, also where that cannot be told.\n\
             --json says everything as one JSON object a line.",
        )
}

/// Which of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Local,
    Remote,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Local => "local",
            End::Remote => "remote",
        }
    }

    fn other(self) -> End {
        match self {
            End::Local => End::Remote,
            End::Remote => End::Local,
        }
    }
}

/// What was asked for.
struct Asked {
    json: bool,
    repair: bool,
    signatures: bool,
    from: Option<End>,
    /// Only for the psync at the other end: what is said and done there.
    list: bool,
    set_aside: bool,
    words: Words,
}

impl Asked {
    fn of(matches: &ArgMatches) -> Result<Asked, Failure> {
        let typed = matches.get_many("words").into_iter().flatten().map(OsString::clone);
        let mut words = Words(typed.filter(|word| word != "--").collect());
        let from = match words.take_value("--from", None)?.as_deref().map(|from| from.to_str()) {
            None => None,
            Some(Some("local")) => Some(End::Local),
            Some(Some("remote")) => Some(End::Remote),
            Some(_) => {
                return Err(Failure::new(Exit::Usage, "--from is local (this side) or remote"));
            }
        };
        Ok(Asked {
            json: words.take_flag("--json"),
            repair: words.take_flag("--repair"),
            signatures: words.take_flag("--signatures"),
            from,
            list: words.take_flag("--list"),
            set_aside: words.take_flag("--set-aside"),
            words,
        })
    }
}

fn verify(matches: &ArgMatches) -> Exit {
    let asked = match Asked::of(matches) {
        Ok(asked) => asked,
        Err(failure) => return failure.told(false),
    };
    let json = asked.json;
    work(asked).unwrap_or_else(|failure| failure.told(json))
}

fn work(mut asked: Asked) -> Result<Exit, Failure> {
    let state = asked.words.clone().take_value("--state-dir", None)?.map(PathBuf::from);
    let keeping = Keeping { home: state_home(state), ..Keeping::default() };
    let mut alone = asked.words.clone();
    alone.take_value("--state-dir", None)?;
    match &alone.0[..] {
        [] => one(&asked, &root_of_here()?, &keeping),
        [word] if is_root(word) => one(&asked, Path::new(word), &keeping),
        _ if asked.signatures => {
            let text = "--signatures looks at one root: psync verify --signatures ROOT";
            Err(Failure::new(Exit::Usage, text))
        }
        _ => {
            let words = std::mem::take(&mut asked.words).0;
            let options = sync_options(&words)?;
            both(&asked, &options)
        }
    }
}

/// Whether a word means one root: not the name of a pair, which means both sides.
fn is_root(word: &OsStr) -> bool {
    let is_pair = |machine: Machine| machine.pairs().iter().any(|(name, _)| word == *name);
    let path = Path::new(word);
    word.as_encoded_bytes().contains(&b'/')
        || path.is_dir() && !config::machine().is_ok_and(is_pair)
}

fn root_of_here() -> Result<PathBuf, Failure> {
    let matches = subject::arguments(Command::new("verify"))
        .try_get_matches_from(["verify"])
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    subject::root(&matches, Path::new("."))
}

/// One root by itself.
fn one(asked: &Asked, root: &Path, keeping: &Keeping) -> Result<Exit, Failure> {
    if asked.repair {
        let text = "--repair needs both sides: psync verify --repair A B fetches what rotted from the other side";
        return Err(Failure::new(Exit::Usage, text));
    }
    if asked.signatures {
        return signatures::check(root, keeping, asked.json);
    }
    if asked.set_aside {
        return repair::set_aside_here(root, keeping);
    }
    if asked.list {
        let mut sight = look(root, keeping)?;
        tell::list(&contents(&mut sight)?);
        return Ok(Exit::Ok);
    }
    let side = Side::examine(root, keeping, None, asked.json)?;
    tell::side(&side, None, asked.json);
    Ok(exit_of(&side.examined.findings))
}

/// What is known of a side.
struct Side {
    /// How it is called.
    name: String,
    examined: Examined,
    /// What its index says of all contents; none where only the digest is known yet.
    contents: Option<BTreeMap<RelPath, ContentHash>>,
    digest: ContentHash,
}

impl Side {
    fn examine(
        root: &Path,
        keeping: &Keeping,
        only: Option<&[RelPath]>,
        json: bool,
    ) -> Result<Side, Failure> {
        let mut sight = look(root, keeping)?;
        let contents = contents(&mut sight)?;
        let bar = bar(json, root);
        let examined = sync::examine(&mut sight, only, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let examined = examined.map_err(|error| failure(&error))?;
        let digest = sync::digest(&contents);
        let name = Endpoint::Local(root.to_path_buf()).to_string();
        Ok(Side { name, examined, contents: Some(contents), digest })
    }

    fn fault_at(&self, path: &RelPath) -> Option<&Fault> {
        let findings = &self.examined.findings;
        let at = findings.binary_search_by(|finding| finding.path.cmp(path)).ok()?;
        Some(&findings[at].fault)
    }

    fn hash_at(&self, path: &RelPath) -> Option<&ContentHash> {
        self.contents.as_ref().and_then(|contents| contents.get(path))
    }
}

/// What rotted or may have on a side, and whether the other side has it good.
struct Damage {
    on: End,
    finding: Finding,
    /// Read just now on the other side, and of the content that the index says here.
    good_there: bool,
}

impl Damage {
    /// Of all that is wrong on both sides, what rotted or may have.
    fn find(sides: &[Side; 2]) -> Vec<Damage> {
        let mut damages = Vec::new();
        for (on, side, other) in
            [(End::Local, &sides[0], &sides[1]), (End::Remote, &sides[1], &sides[0])]
        {
            for finding in side.examined.findings.iter().filter(|finding| finding.is_damage()) {
                let path = &finding.path;
                let same =
                    side.hash_at(path).is_some() && side.hash_at(path) == other.hash_at(path);
                let good_there = same && other.fault_at(path).is_none();
                damages.push(Damage { on, finding: finding.clone(), good_there });
            }
        }
        damages
    }

    /// Whether it is mended: where nobody said which side is good, only what certainly rotted.
    fn is_to_be_mended(&self, from: Option<End>) -> bool {
        let told = match from {
            None => self.finding.fault == Fault::Rotted,
            Some(from) => from == self.on.other(),
        };
        told && self.good_there
    }
}

/// Both sides, and one against the other.
fn both(asked: &Asked, options: &Options) -> Result<Exit, Failure> {
    // Both read at the same time where they are two machines.
    let waiting = other::start(options)?;
    let here = Side::examine(&options.local, &options.keeping, None, asked.json);
    let there = other::finish(waiting, options, asked.json)?;
    let mut sides = [here?, there];
    if sides[0].digest != sides[1].digest && sides[1].contents.is_none() {
        sides[1].contents = Some(other::list(options)?);
    } else if sides[1].contents.is_none() {
        sides[1].contents = sides[0].contents.clone();
    }
    let damages = Damage::find(&sides);
    tell::side(&sides[0], Some(End::Local), asked.json);
    tell::side(&sides[1], Some(End::Remote), asked.json);
    tell::differences(&sides, asked.json);
    let (mend, leave): (Vec<Damage>, Vec<Damage>) =
        damages.into_iter().partition(|damage| damage.is_to_be_mended(asked.from));
    tell::left(&leave, asked);
    let findings = sides.iter().flat_map(|side| &side.examined.findings);
    if !asked.repair {
        tell::could_mend(&mend, asked.json);
        return Ok(exit_of(findings));
    }
    // What is missing or cannot be read is nothing that a repair sees to.
    let beyond = findings.filter(|finding| !finding.is_damage());
    let left = exit_of(beyond.chain(leave.iter().map(|damage| &damage.finding)));
    if mend.is_empty() {
        tell::nothing_to_mend(asked.json);
        return Ok(left);
    }
    Ok(repair::mend(&mend, options, asked.json)?.worse(left))
}

fn look(root: &Path, keeping: &Keeping) -> Result<Sight, Failure> {
    let nothing = || {
        let text = format!("{}: nothing was ever synced here (there is no state)", root.display());
        Failure::new(Exit::FileIo, text)
    };
    let sight = Sight::of(root, keeping).map_err(|error| failure(&error))?.ok_or_else(nothing)?;
    match sight.is_busy() {
        true => Err(Failure::new(
            Exit::Guard,
            format!(
                "{}: another psync is working on this root; wait for it to finish",
                root.display()
            ),
        )),
        false => Ok(sight),
    }
}

fn contents(sight: &mut Sight) -> Result<BTreeMap<RelPath, ContentHash>, Failure> {
    sync::contents(&mut sight.index).map_err(|error| failure(&error))
}

fn failure(error: &SyncError) -> Failure {
    Failure::new(Exit::of(error), error.to_string())
}

/// Ordinary edits are none of its business; a file that is gone may have been deleted, or lost.
fn exit_of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Exit {
    let mut exit = Exit::Ok;
    for finding in findings {
        match finding.fault {
            Fault::Rotted | Fault::Doubtful | Fault::Unreadable(_) => return Exit::Partial,
            Fault::Missing => exit = Exit::Changed,
            Fault::Edited => {}
        }
    }
    exit
}

fn bar(json: bool, root: &Path) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    // The style is a constant of this file; an unknown one would leave indicatif's own.
    bar.set_style(
        ProgressStyle::with_template(
            "{spinner} reading {wide_msg} {bytes} {bytes_per_sec} {elapsed}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(root.display().to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
