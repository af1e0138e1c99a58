//! What was typed, understood: the sides or a pair, how to speak, and the layer of settings that
//! stands over all others.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use psync_protocol::message::Filter;

use super::command::{self, Subcommand};
use super::daemon;
use super::endpoint::Endpoint;
use super::restricted::restricted;
use crate::settings::{Layer, Origin, SettingsError};
use crate::transport::Compression;

/// A sync, as it was typed.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) what: What,
    /// The settings that were typed.
    pub(super) layer: Layer,
    pub(super) dry_run: bool,
    pub(super) verbosity: u8,
    pub(super) quiet: bool,
    pub(super) itemize: bool,
    pub(super) stats: bool,
    pub(super) json: bool,
    pub(super) progress: bool,
    pub(super) state_dir: Option<PathBuf>,
}

/// What is to be synced.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// Two sides, in the order in which they were typed.
    Sides(Endpoint, Endpoint),
    /// A named pair.
    Pair(String),
    /// All named pairs.
    All,
}

/// What the other end was started with.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) path: PathBuf,
    pub(super) must_exist: bool,
    pub(super) compression: Compression,
    pub(super) store: bool,
    /// Serve nothing but this directory, whatever is asked for.
    pub(super) restrict: Option<PathBuf>,
    pub(super) read_only: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    Sync(Box<Typed>),
    Serve(Server),
    /// A daemon.
    Daemon(daemon::Options),
    /// What modules a daemon has.
    List(Box<daemon::List>),
    /// Another command than a sync, with its arguments.
    Command(&'static Subcommand, ArgMatches),
    /// Help or version: to be printed.
    Text(String),
}

const ABOUT: &str = "Keeps two directory trees the same, both ways, over slow and broken links.";
const USAGE: &str = "psync [OPTIONS] A B\n       psync [OPTIONS] PAIR\n       psync [OPTIONS] --all\n       psync COMMAND ...";
const AFTER: &str = "\
A and B are directories, here or as [user@]host:path, or modules of a daemon, as
psync://host/module or host::module ('psync --list psync://host/' says which it
has); at most one is remote.
PAIR is a pair of them that psync.toml names; see psync.toml(5).
What was new, changed, deleted or moved on one side is made so on the other.
What was changed on both is kept twice: the newer keeps its name, the older
becomes name_clash_YYYYMMDDHHMM.ext. What is deleted or replaced goes to
.psync/trash. A first run deletes nothing.

See psync(1) for the rules, files and exit codes.";

fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let several = |name, text, help| value(name, text, help).action(ArgAction::Append);
    Command::new("psync")
        .about(ABOUT)
        .override_usage(USAGE)
        .after_help(format!(
            "Commands ('psync COMMAND --help' says more):\n{}\n{AFTER}",
            command::list()
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .arg(Arg::new("sides").num_args(0..).value_parser(value_parser!(OsString)).hide(true))
        .arg(flag("all", "Sync all pairs of psync.toml, one by one"))
        .arg(flag("dry-run", "Show what would be done, and do nothing").short('n'))
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .action(ArgAction::Count)
                .help("Name each action; twice: say why"),
        )
        .arg(flag("quiet", "Say nothing but problems and conflicts").short('q'))
        .arg(flag("itemize-changes", "Name each action in rsync's letters").short('i'))
        .arg(flag("stats", "Say in numbers what was done, and what it cost"))
        .arg(flag("json", "Say everything as one JSON object a line"))
        .arg(flag("progress", "Show progress even where no terminal is").short('P'))
        .arg(value("rsh", "CMD", "The remote shell [default: ssh]").short('e'))
        .arg(
            value("psync-path", "PROGRAM", "psync on the remote side [default: psync]")
                .alias("rsync-path"),
        )
        .arg(several("exclude", "PATTERN", "Leave alone what matches; the first decides"))
        .arg(several("include", "PATTERN", "Do not leave alone what matches"))
        .arg(several("profile", "NAME", "Leave alone junk; see 'psync config profiles'"))
        .arg(several("policy", "[KIND=]POLICY", "About conflicts: keep-both, newest, hold, ..."))
        .arg(flag("push", "One way: only this side's changes go there"))
        .arg(flag("pull", "One way: only the other side's come here").conflicts_with("push"))
        .arg(
            value("mirror", "push|pull", "One way: make that side (or this) exactly equal")
                .conflicts_with_all(["push", "pull"]),
        )
        .arg(value("max-change", "N|N%", "Stop if more files of a side have new contents"))
        .arg(value("max-delete", "N|N%", "Stop if more would be deleted on a side"))
        .arg(value("bwlimit", "RATE", "Send at most so many KiB/s (or K, M, G)"))
        .arg(value("timeout", "SECONDS", "Give up when nothing comes [default: wait]"))
        .arg(
            value("state-dir", "DIR", "Keep this side's state below DIR")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(flag("no-store", "Do without the store of old contents"))
        .arg(flag("compress", "Compress the line (the default)").short('z'))
        .arg(
            flag("no-compress", "Do not compress the line")
                .conflicts_with_all(["compress", "compress-level"]),
        )
        .arg(value("compress-level", "N", "Level of zstd, 1 to 19 [default: what fits]"))
        .arg(several("set", "KEY=VALUE", "Set any key of psync.toml for this run"))
        .arg(flag("delete", "").hide(true))
}

/// Understands the arguments, or says what is wrong with them.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(server) = parse_server(arguments.get(1..).unwrap_or_default())? {
        return Ok(Parsed::Serve(server));
    }
    if let Some(options) = daemon::Options::parse(arguments.get(1..).unwrap_or_default())? {
        return Ok(Parsed::Daemon(options));
    }
    if let Some(named) = command::named(&arguments) {
        return match named.parse(&arguments) {
            Ok(matches) => Ok(Parsed::Command(named, matches)),
            Err(error) => said_by_clap(&error),
        };
    }
    // After the commands: one of them may have a --list of its own.
    if let Some(list) = daemon::List::parse(arguments.get(1..).unwrap_or_default())? {
        return Ok(Parsed::List(Box::new(list)));
    }
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return said_by_clap(&error),
    };
    if matches.get_flag("delete") {
        return Err("psync has no --delete: in a two-way sync a deletion on one side is carried to the other by itself, \
                    and a file that is missing on one side may just be new on the other. To make one side exactly \
                    like the other use --mirror push or --mirror pull"
            .into());
    }
    let what = what(&matches)?;
    let layer = layer(&matches).map_err(|error| error.to_string())?;
    Ok(Parsed::Sync(Box::new(Typed {
        what,
        layer,
        dry_run: matches.get_flag("dry-run"),
        verbosity: matches.get_count("verbose"),
        quiet: matches.get_flag("quiet"),
        itemize: matches.get_flag("itemize-changes"),
        stats: matches.get_flag("stats"),
        json: matches.get_flag("json"),
        progress: matches.get_flag("progress"),
        state_dir: matches.get_one::<PathBuf>("state-dir").cloned(),
    })))
}

fn what(matches: &ArgMatches) -> Result<What, String> {
    let sides: Vec<OsString> = matches.get_many("sides").into_iter().flatten().cloned().collect();
    match (&sides[..], matches.get_flag("all")) {
        ([], true) => Ok(What::All),
        (_, true) => Err("--all syncs all pairs; name no sides or pair besides it".into()),
        ([first, second], false) => {
            let (first, second) = (Endpoint::parse(first)?, Endpoint::parse(second)?);
            match (&first, &second) {
                (Endpoint::Local(_), _) | (_, Endpoint::Local(_)) => Ok(What::Sides(first, second)),
                _ => Err("both sides are remote; run psync on one of the two machines".into()),
            }
        }
        ([pair], false) => Ok(What::Pair(pair.to_string_lossy().into_owned())),
        (other, false) => Err(format!(
            "psync needs two sides or a pair, and got {} words.\n\nUsage: {USAGE}\n\nTry 'psync --help', or 'psync demo' to see it work.",
            other.len()
        )),
    }
}

/// Help was asked for, or the arguments make no sense.
fn said_by_clap(error: &clap::Error) -> Result<Parsed, String> {
    match error.use_stderr() {
        true => Err(error.to_string().replacen("error: ", "psync: ", 1)),
        false => Ok(Parsed::Text(error.to_string())),
    }
}

/// The remote side is started by another psync:
/// `--server [--must-exist] [--no-store] [--compress-level=N] -- PATH`.
pub(super) fn parse_server(arguments: &[OsString]) -> Result<Option<Server>, String> {
    if arguments.first().is_none_or(|first| first != "--server") {
        return Ok(None);
    }
    let asked = || std::env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
    if let Some(server) = restricted(&arguments[1..], asked)? {
        return Ok(Some(server));
    }
    let wrong = || "psync --server is started by another psync, with one path".to_string();
    let (path, options) = arguments[1..].split_last().ok_or_else(wrong)?;
    let mut server = Server {
        path: path.into(),
        must_exist: false,
        compression: Compression::Fitting,
        store: true,
        restrict: None,
        read_only: false,
    };
    for option in options {
        match option.to_str() {
            Some("--") => {}
            Some("--must-exist") => server.must_exist = true,
            Some("--no-store") => server.store = false,
            Some(other) => match other.strip_prefix("--compress-level=").map(str::parse) {
                Some(Ok(level @ 1..=19)) => server.compression = Compression::Level(level),
                Some(_) | None => return Err(wrong()),
            },
            None => return Err(wrong()),
        }
    }
    Ok(Some(server))
}

/// The settings that were typed.
fn layer(matches: &ArgMatches) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    let mut set = |key: &str, text: &str, option: &str| {
        layer.set_text(key, text, Origin::CommandLine(option.to_string()))
    };
    for setting in texts(matches, "set") {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(SettingsError::typed(format!("--set: '{setting}' is not KEY=VALUE")));
        };
        set(key.trim(), value.trim(), &format!("--set {}", key.trim()))?;
    }
    for (option, key) in [
        ("rsh", "rsh"),
        ("psync-path", "psync-path"),
        ("max-delete", "max-delete"),
        ("max-change", "max-change"),
        ("bwlimit", "bwlimit"),
        ("timeout", "timeout"),
        ("compress-level", "compress-level"),
        ("profile", "profiles"),
    ] {
        texts(matches, option).try_for_each(|text| set(key, text, &format!("--{option}")))?;
    }
    for (option, key, text) in [
        ("push", "mode", "push"),
        ("pull", "mode", "pull"),
        ("no-store", "store.enabled", "false"),
        ("compress", "compress", "true"),
        ("no-compress", "compress", "false"),
    ] {
        if matches.get_flag(option) {
            set(key, text, &format!("--{option}"))?;
        }
    }
    if matches.contains_id("compress-level") {
        set("compress", "true", "--compress-level")?;
    }
    for text in texts(matches, "mirror") {
        let wrong = || {
            let text = format!(
                "--mirror: '{text}' is neither push (this side to the other) nor pull (the other to this side)"
            );
            SettingsError::typed(text)
        };
        let known = matches!(text, "push" | "pull");
        known.then(|| set("mode", &format!("mirror-{text}"), "--mirror")).ok_or_else(wrong)??;
    }
    policies(matches, &mut set)?;
    for (filter, option) in filters(matches) {
        layer.add_filter(filter, Origin::CommandLine(option.to_string()))?;
    }
    Ok(layer)
}

/// Policies for conflicts of one kind stand over those for all, in whatever order they are typed.
fn policies(
    matches: &ArgMatches,
    set: &mut dyn FnMut(&str, &str, &str) -> Result<(), SettingsError>,
) -> Result<(), SettingsError> {
    let (of_kinds, for_all): (Vec<&str>, Vec<&str>) =
        texts(matches, "policy").partition(|text| text.contains('='));
    for policy in for_all {
        set("policy", policy, "--policy")?;
    }
    for (kind, policy) in of_kinds.into_iter().filter_map(|text| text.split_once('=')) {
        set(&format!("policy.{kind}"), policy, &format!("--policy {kind}"))?;
    }
    Ok(())
}

fn texts<'a>(matches: &'a ArgMatches, option: &str) -> impl Iterator<Item = &'a str> {
    matches.get_many::<String>(option).into_iter().flatten().map(String::as_str)
}

/// The filters in the order in which they were typed, with their options.
fn filters(matches: &ArgMatches) -> Vec<(Filter, &'static str)> {
    let mut filters: Vec<(usize, Filter, &'static str)> = Vec::new();
    for (name, option, include) in [("exclude", "--exclude", false), ("include", "--include", true)]
    {
        let places = matches.indices_of(name).into_iter().flatten();
        filters.extend(
            places.zip(texts(matches, name)).map(|(at, pattern)| {
                (at, Filter { include, pattern: pattern.to_string() }, option)
            }),
        );
    }
    filters.sort_by_key(|(at, _, _)| *at);
    filters.into_iter().map(|(_, filter, option)| (filter, option)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Machine, Settings, Sources};

    fn typed(line: &str) -> Result<Parsed, String> {
        parse(std::iter::once("psync").chain(line.split(' ')).map(OsString::from))
    }

    fn sync(line: &str) -> Typed {
        match typed(line) {
            Ok(Parsed::Sync(typed)) => *typed,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// What it comes to where no file says anything.
    fn settings(line: &str) -> Settings {
        let machine = Machine::read(Sources::default()).unwrap();
        machine.settings(None, None, sync(line).layer, "there").unwrap()
    }

    #[test]
    fn filters_keep_the_order_in_which_they_were_typed() {
        let filters = settings("--include *.rs --exclude * --include x a b").filters();
        let patterns: Vec<&str> = filters.iter().map(|filter| filter.pattern.as_str()).collect();
        assert_eq!(patterns, ["*.rs", "*", "x"]);
    }

    #[test]
    fn two_words_are_sides_and_one_is_a_pair() {
        assert!(matches!(sync("host:x y").what, What::Sides(Endpoint::Remote { .. }, _)));
        assert!(matches!(sync("y x").what, What::Sides(..)));
        assert!(matches!(sync("p1").what, What::Pair(name) if name == "p1"));
        assert!(matches!(sync("--all").what, What::All));
        for wrong in ["h:x i:y", "--all p1", "a b c", "--all a b", "-v"] {
            assert!(typed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_level_is_forced_at_both_ends() {
        assert_eq!(settings("a b").compression(), Compression::Fitting);
        assert_eq!(settings("-z a b").compression(), Compression::Fitting);
        assert_eq!(settings("--no-compress a b").compression(), Compression::Off);
        let forced = settings("-z --compress-level 19 a b").compression();
        assert_eq!(forced, Compression::Level(19));
        for wrong in ["--compress-level 20 a b", "--compress-level 0 a b", "--compress-level x a b"]
        {
            assert!(typed(wrong).is_err_and(|text| text.contains("1 to 19")), "{wrong}");
        }
        assert!(typed("--no-compress --compress-level 3 a b").is_err());
        let served = |line: &str| match typed(line) {
            Ok(Parsed::Serve(server)) => (server.must_exist, server.compression),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(served("--server -- x"), (false, Compression::Fitting));
        let forced = served("--server --must-exist --compress-level=7 -- x");
        assert_eq!(forced, (true, Compression::Level(7)));
        assert!(typed("--server --compress-level=77 -- x").is_err());
        assert!(typed("--server x y").is_err());
        assert!(typed("--server").is_err());
    }

    #[test]
    fn the_store_is_switched_off_at_both_ends() {
        assert!(settings("a b").store().enabled);
        let off = settings("--no-store a b");
        assert!(!off.store().enabled && off.values().store_switched_off_by_hand());
        let served = |line: &str| match typed(line) {
            Ok(Parsed::Serve(server)) => (server.must_exist, server.store),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(served("--server -- x"), (false, true));
        assert_eq!(served("--server --no-store -- x"), (false, false));
        assert_eq!(served("--server --no-store --must-exist -- x"), (true, false));
        assert!(typed("--server --nonsense -- x").is_err());
    }

    #[test]
    fn a_command_is_the_word_that_stands_first() {
        let command = |line: &str| match typed(line) {
            Ok(Parsed::Command(command, _)) => Some(command.name),
            Ok(_) => None,
            Err(text) => panic!("{line}: {text}"),
        };
        assert_eq!(command("store stat"), Some("store"));
        assert_eq!(command("store verify x --json"), Some("store"));
        assert_eq!(command("./store ./stat"), None);
        assert_eq!(command("-n store stat"), None);
        assert!(typed("store stat a b").is_err());
        assert!(typed("store backup").is_err());
    }

    #[test]
    fn delete_is_explained_and_refused() {
        assert!(typed("--delete a b").is_err_and(|text| text.contains("--mirror")));
    }

    #[test]
    fn an_option_that_makes_no_sense_is_named_with_what_would() {
        for (line, words) in [
            ("--max-delete 5x a b", ["--max-delete", "'5x'", "percentage"]),
            ("--bwlimit fast a b", ["--bwlimit", "'fast'", "1.5M"]),
            ("--mirror both a b", ["--mirror", "'both'", "push"]),
            ("--policy newest=x a b", ["--policy", "newest", "there is no key"]),
            ("--policy type=no!name a b", ["--policy type", "'no!name'", "keep-both"]),
            ("--profile pyton a b", ["--profile", "'pyton'", "python"]),
            ("--set max-delet=5 a b", ["--set", "max-delet", "'max-delete'"]),
            ("--set mode a b", ["--set", "'mode'", "KEY=VALUE"]),
            ("--set local=/x a b", ["--set local", "pair", "table"]),
        ] {
            let text = typed(line).expect_err(line);
            assert!(words.iter().all(|word| text.contains(word)), "{line}: {text}");
        }
    }
}
