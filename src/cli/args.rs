//! What was typed, made into options that a run can use.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use psync_protocol::message::{Filter, Flow};

use super::endpoint::Endpoint;
use crate::reconcile::DeleteLimit;
use crate::transport::Compression;

/// What a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The side on this machine where the run is planned.
    pub(super) local: PathBuf,
    /// The other side.
    pub(super) other: Endpoint,
    /// Whether the other side was typed first.
    pub(super) other_first: bool,
    pub(super) rsh: Vec<String>,
    pub(super) program: String,
    pub(super) dry_run: bool,
    pub(super) verbosity: u8,
    pub(super) quiet: bool,
    pub(super) itemize: bool,
    pub(super) stats: bool,
    pub(super) json: bool,
    pub(super) progress: bool,
    pub(super) compression: Compression,
    pub(super) filters: Vec<Filter>,
    pub(super) rate: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) store: bool,
    pub(super) delete_limit: DeleteLimit,
    pub(super) flow: Flow,
}

/// What the other end was started with.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) path: PathBuf,
    pub(super) must_exist: bool,
    pub(super) compression: Compression,
    pub(super) store: bool,
}

/// `psync store`, and what to do with the store.
#[derive(Debug, Clone)]
pub(super) struct StoreCommand {
    pub(super) deed: StoreDeed,
    pub(super) root: PathBuf,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) json: bool,
}

/// What is done with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreDeed {
    /// Say what it holds.
    Stat,
    /// Make it fit its budget.
    Collect,
    /// Read and check everything in it.
    Verify,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    Sync(Options),
    Serve(Server),
    Demo,
    Store(StoreCommand),
    /// Help or version: to be printed.
    Text(String),
}

const ABOUT: &str =
    "Keeps two directory trees the same, in both directions, over slow and broken links.";
const USAGE: &str =
    "psync [OPTIONS] A B\n       psync store stat|gc|verify [ROOT]\n       psync demo";
const AFTER: &str = "\
A and B are directories, here or as [user@]host:path; at most one is remote.
What was new, changed, deleted or moved on one side is made so on the other. What
was changed on both is kept twice: the newer keeps its name, the older becomes
name_clash_YYYYMMDDHHMM.ext. What is deleted or replaced goes to .psync/trash.
A first run deletes nothing.

See psync(1) for the rules, files and exit codes.";

fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("psync")
        .about(ABOUT)
        .override_usage(USAGE)
        .after_help(AFTER)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(Arg::new("sides").num_args(0..).value_parser(value_parser!(OsString)).hide(true))
        .arg(flag("dry-run", "Show what would be done, and do nothing").short('n'))
        .arg(Arg::new("verbose").long("verbose").short('v').action(ArgAction::Count).help("Name each action; twice: say why"))
        .arg(flag("quiet", "Say nothing but problems and conflicts").short('q'))
        .arg(flag("itemize-changes", "Name each action in rsync's letters").short('i'))
        .arg(flag("stats", "Say in numbers what was done and what crossed the line"))
        .arg(flag("json", "Say everything as one JSON object a line"))
        .arg(flag("progress", "Show progress even where the output is no terminal").short('P'))
        .arg(value("rsh", "CMD", "The remote shell [default: $PSYNC_RSH, or ssh]").short('e'))
        .arg(value("psync-path", "PROGRAM", "psync on the remote side [default: psync]").alias("rsync-path"))
        .arg(value("exclude", "PATTERN", "Leave alone what matches (gitignore's patterns; the first that matches decides)").action(ArgAction::Append))
        .arg(value("include", "PATTERN", "Do not leave alone what matches").action(ArgAction::Append))
        .arg(value("mirror", "push|pull", "One way: make the other side (push) or this side (pull) exactly equal; what it loses goes to its trash"))
        .arg(value("max-delete", "N|N%", "Stop before the first change if more would be deleted on a side [default: half, and 100]"))
        .arg(value("bwlimit", "RATE", "Send at most so many KiB a second (or with suffix K, M, G)"))
        .arg(value("timeout", "SECONDS", "Give up when nothing comes for so long [default: wait]"))
        .arg(value("state-dir", "DIR", "Keep this side's state below DIR instead of in the root").value_parser(value_parser!(PathBuf)))
        .arg(flag("no-store", "Neither use nor fill the store of old contents, on both sides"))
        .arg(flag("compress", "Compress what crosses the line; this is the default").short('z'))
        .arg(flag("no-compress", "Do not compress the line").conflicts_with_all(["compress", "compress-level"]))
        .arg(value("compress-level", "N", "Compress at this level of zstd, 1 to 19 [default: what fits the line]"))
        .arg(flag("delete", "").hide(true))
}

/// Understands the arguments, or says what is wrong with them.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(server) = parse_server(arguments.get(1..).unwrap_or_default())? {
        return Ok(Parsed::Serve(server));
    }
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Parsed::Text(error.to_string())),
        Err(error) => return Err(error.to_string()),
    };
    let sides: Vec<OsString> = matches.get_many("sides").into_iter().flatten().cloned().collect();
    if let [word, deed, root @ ..] = &sides[..]
        && word == "store"
        && root.len() < 2
        && let Some(deed) = store_deed(deed)
    {
        return Ok(Parsed::Store(StoreCommand {
            deed,
            root: root.first().map_or_else(|| PathBuf::from("."), PathBuf::from),
            state_dir: matches.get_one::<PathBuf>("state-dir").cloned(),
            json: matches.get_flag("json"),
        }));
    }
    match &sides[..] {
        [one] if one == "demo" => Ok(Parsed::Demo),
        [first, second] => {
            options(&matches, Endpoint::parse(first)?, Endpoint::parse(second)?).map(Parsed::Sync)
        }
        other => Err(format!(
            "psync needs two sides, and got {}.\n\nUsage: {USAGE}\n\nTry 'psync --help', or 'psync demo' to see it work.",
            other.len()
        )),
    }
}

/// None: not a word for it, so that two folders may be meant.
fn store_deed(word: &OsString) -> Option<StoreDeed> {
    match word.to_str()? {
        "stat" => Some(StoreDeed::Stat),
        "gc" => Some(StoreDeed::Collect),
        "verify" => Some(StoreDeed::Verify),
        _ => None,
    }
}

/// The remote side is started by another psync:
/// `--server [--must-exist] [--no-store] [--compress-level=N] -- PATH`.
fn parse_server(arguments: &[OsString]) -> Result<Option<Server>, String> {
    if arguments.first().is_none_or(|first| first != "--server") {
        return Ok(None);
    }
    let wrong = || "psync --server is started by another psync, with one path".to_string();
    let (path, options) = arguments[1..].split_last().ok_or_else(wrong)?;
    let mut server = Server {
        path: path.into(),
        must_exist: false,
        compression: Compression::Fitting,
        store: true,
    };
    for option in options {
        match option.to_str() {
            Some("--") => {}
            Some("--must-exist") => server.must_exist = true,
            Some("--no-store") => server.store = false,
            Some(other) => match other.strip_prefix("--compress-level=") {
                Some(text) => server.compression = level(text)?,
                None => return Err(wrong()),
            },
            None => return Err(wrong()),
        }
    }
    Ok(Some(server))
}

fn options(matches: &ArgMatches, first: Endpoint, second: Endpoint) -> Result<Options, String> {
    let (local, other, other_first) = match (first, second) {
        (Endpoint::Local(local), other) => (local, other, false),
        (other @ Endpoint::Remote { .. }, Endpoint::Local(local)) => (local, other, true),
        (Endpoint::Remote { .. }, Endpoint::Remote { .. }) => {
            return Err("both sides are remote; run psync on one of the two machines".into());
        }
    };
    if matches.get_flag("delete") {
        return Err("psync has no --delete: in a two-way sync a deletion on one side is carried to the other by itself, \
                    and a file that is missing on one side may just be new on the other. To make one side exactly \
                    like the other use --mirror push or --mirror pull"
            .into());
    }
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    Ok(Options {
        local,
        other,
        other_first,
        rsh: remote_shell(text("rsh"))?,
        program: text("psync-path").unwrap_or("psync").to_string(),
        dry_run: matches.get_flag("dry-run"),
        verbosity: matches.get_count("verbose"),
        quiet: matches.get_flag("quiet"),
        itemize: matches.get_flag("itemize-changes"),
        stats: matches.get_flag("stats"),
        json: matches.get_flag("json"),
        progress: matches.get_flag("progress"),
        compression: match text("compress-level") {
            _ if matches.get_flag("no-compress") => Compression::Off,
            Some(text) => level(text)?,
            None => Compression::Fitting,
        },
        filters: filters(matches),
        rate: text("bwlimit").map(rate).transpose()?.flatten(),
        timeout: text("timeout").map(seconds).transpose()?.flatten(),
        state_dir: matches.get_one::<PathBuf>("state-dir").cloned(),
        store: !matches.get_flag("no-store"),
        delete_limit: text("max-delete").map(delete_limit).transpose()?.unwrap_or_default(),
        flow: text("mirror").map(mirror).transpose()?.unwrap_or(Flow::TwoWay),
    })
}

/// The filters in the order in which they were typed.
fn filters(matches: &ArgMatches) -> Vec<Filter> {
    let mut filters: Vec<(usize, Filter)> = Vec::new();
    for (name, include) in [("exclude", false), ("include", true)] {
        let patterns = matches.get_many::<String>(name).into_iter().flatten();
        let places = matches.indices_of(name).into_iter().flatten();
        filters.extend(
            places
                .zip(patterns)
                .map(|(at, pattern)| (at, Filter { include, pattern: pattern.clone() })),
        );
    }
    filters.sort_by_key(|(at, _)| *at);
    filters.into_iter().map(|(_, filter)| filter).collect()
}

/// `-e`, else the environment, else ssh; split at spaces outside quotes.
fn remote_shell(given: Option<&str>) -> Result<Vec<String>, String> {
    let from_environment = std::env::var("PSYNC_RSH").ok();
    let text = given.map(str::to_string).or(from_environment).unwrap_or_else(|| "ssh".into());
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() {
        return Err(format!("--rsh: a quote is not closed in: {text}"));
    }
    if words.is_empty() { Err("--rsh names no program".into()) } else { Ok(words) }
}

/// A number with a suffix; bare numbers are KiB a second, as for rsync; 0 is no limit.
fn rate(text: &str) -> Result<Option<u64>, String> {
    let wrong = || format!("--bwlimit: '{text}' is not a rate; examples: 500 (KiB a second), 1.5M");
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "K"),
    };
    let unit = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 1u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    match number.parse::<f64>() {
        Ok(number) if (0.0..1e15).contains(&number) => {
            Ok(Some((number * unit as f64) as u64).filter(|&rate| rate > 0))
        }
        _ => Err(wrong()),
    }
}

fn level(text: &str) -> Result<Compression, String> {
    match text.parse() {
        Ok(level @ 1..=19) => Ok(Compression::Level(level)),
        _ => Err(format!("--compress-level: '{text}' is not a level from 1 to 19")),
    }
}

fn seconds(text: &str) -> Result<Option<Duration>, String> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= 365 * 86_400 => {
            Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
        }
        _ => Err(format!("--timeout: '{text}' is not a number of seconds")),
    }
}

fn delete_limit(text: &str) -> Result<DeleteLimit, String> {
    let wrong =
        |_| format!("--max-delete: '{text}' is neither a number of entries nor a percentage");
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(DeleteLimit::Percent).map_err(wrong),
        None => text.parse().map(DeleteLimit::Count).map_err(wrong),
    }
}

fn mirror(text: &str) -> Result<Flow, String> {
    match text {
        "push" => Ok(Flow::ToResponder),
        "pull" => Ok(Flow::ToInitiator),
        _ => Err(format!(
            "--mirror: '{text}' is neither push (this side to the other) nor pull (the other to this side)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Parsed, String> {
        parse(std::iter::once("psync").chain(line.split(' ')).map(OsString::from))
    }

    fn sync(line: &str) -> Options {
        match typed(line) {
            Ok(Parsed::Sync(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn filters_keep_the_order_in_which_they_were_typed() {
        let options = sync("--include *.rs --exclude * --include x a b");
        let patterns: Vec<&str> =
            options.filters.iter().map(|filter| filter.pattern.as_str()).collect();
        assert_eq!(patterns, ["*.rs", "*", "x"]);
    }

    #[test]
    fn the_remote_side_may_stand_first_or_second() {
        assert!(sync("host:x y").other_first);
        assert!(!sync("y host:x").other_first);
        assert!(typed("h:x i:y").is_err());
    }

    #[test]
    fn bare_rates_are_kibibytes_as_for_rsync() {
        assert_eq!(rate("100"), Ok(Some(102_400)));
        assert_eq!(rate("1.5m"), Ok(Some(1_572_864)));
        assert_eq!(rate("0"), Ok(None));
        assert!(rate("fast").is_err());
    }

    #[test]
    fn a_level_is_forced_at_both_ends() {
        assert_eq!(sync("a b").compression, Compression::Fitting);
        assert_eq!(sync("-z a b").compression, Compression::Fitting);
        assert_eq!(sync("--no-compress a b").compression, Compression::Off);
        assert_eq!(sync("-z --compress-level 19 a b").compression, Compression::Level(19));
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
        assert!(sync("a b").store);
        assert!(!sync("--no-store a b").store);
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
    fn a_store_is_a_command_only_with_a_word_for_what_to_do() {
        let command = |line: &str| match typed(line) {
            Ok(Parsed::Store(command)) => Some((command.deed, command.root)),
            Ok(_) => None,
            Err(text) => panic!("{line}: {text}"),
        };
        assert_eq!(command("store stat"), Some((StoreDeed::Stat, PathBuf::from("."))));
        assert_eq!(command("store gc x"), Some((StoreDeed::Collect, PathBuf::from("x"))));
        assert_eq!(command("--json store verify x"), Some((StoreDeed::Verify, "x".into())));
        assert_eq!(command("store backup"), None);
        assert!(typed("store stat a b").is_err());
    }

    #[test]
    fn delete_is_explained_and_refused() {
        assert!(typed("--delete a b").is_err_and(|text| text.contains("--mirror")));
    }

    #[test]
    fn quotes_keep_words_of_the_remote_shell_together() {
        assert_eq!(
            remote_shell(Some("ssh -o 'Proxy Jump=a b'")).unwrap(),
            ["ssh", "-o", "Proxy Jump=a b"]
        );
        assert!(remote_shell(Some("ssh 'x")).is_err());
    }
}
