//! `psync --daemon`: serves modules, over TCP or over standard input and output; and `psync --list`,
//! which asks one what it has.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use psync_protocol::path::printable;
use psync_protocol::service::Module as Told;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use super::config;
use super::dial::{dial, not_let_in};
use super::endpoint::Endpoint;
use super::exit::Exit;
use super::id::{config_dir, machine_key};
use super::run::{keeping_of_served, print_out, run_names, state_home};
use super::subject::Failure;
use crate::daemon::{
    Audit, Daemon, Detail, Habits, Limits, LogFile, MODULES_FILE, Manner, Module, Modules,
    Notifier, PORT, Policy, RunLock, ServiceError, Setup, Wire, ask_for_modules, by_shell,
    listeners, serve, start_log,
};
use crate::identity::{AUTHORIZED_FILE, AuthorizedPeers};
use crate::manifest::Permit;
use crate::settings::{Layer, Origin};
use crate::transport::{RemoteCommand, TlsError};

/// How long a daemon may take to close a line on which it has answered.
const LINGER: Duration = Duration::from_secs(2);
/// How long running sessions may go on once the daemon is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Where the lock of a daemon of the whole machine lies.
const RUN_DIR: &str = "/run/psync";
/// Descriptors that are asked for at most.
const DESCRIPTORS_MOST: u64 = 65_536;

/// What a daemon was started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// Where to listen, instead of where the configuration says.
    listen: Vec<String>,
    /// Serve one request over standard input and output.
    stdio: bool,
    /// How the log is written, and how much of it, where the configuration is not to say so.
    manner: Option<Manner>,
    detail: Option<Detail>,
}

const USAGE: &str =
    "psync --daemon [--listen ADDRESS:PORT]... [--log-format text|json] [--log-level LEVEL]
       psync --daemon --stdio";

impl Options {
    /// `--daemon [--listen ADDRESS]... [--stdio]` and how to log; none where it does not begin so.
    pub(super) fn parse(arguments: &[OsString]) -> Result<Option<Options>, String> {
        if arguments.first().is_none_or(|first| first != "--daemon") {
            return Ok(None);
        }
        let mut options = Options::default();
        let mut rest = arguments[1..].iter().map(|word| word.to_string_lossy());
        while let Some(word) = rest.next() {
            let (name, written) = match word.split_once('=') {
                Some((name, value)) => (name.to_string(), Some(value.to_string())),
                None => (word.into_owned(), None),
            };
            let mut value = |example: &str| {
                let value = written.clone().or_else(|| rest.next().map(Cow::into_owned));
                value.ok_or_else(|| format!("{name} wants a value, as in {name} {example}"))
            };
            match &*name {
                "--stdio" if written.is_none() => options.stdio = true,
                "--json" if written.is_none() => options.manner = Some(Manner::Json),
                "--listen" => options.listen.push(value("[::]:8730")?),
                "--log-format" => {
                    let manner = Manner::named(&value("json")?);
                    options.manner = Some(manner.ok_or("--log-format is text or json")?);
                }
                "--log-level" => {
                    let detail = Detail::named(&value("info")?);
                    let words = || format!("--log-level is one of {}", Detail::WORDS.join(", "));
                    options.detail = Some(detail.ok_or_else(words)?);
                }
                other => {
                    let other = other.escape_debug();
                    return Err(format!("psync --daemon has no '{other}'\n\nUsage: {USAGE}"));
                }
            }
        }
        if options.stdio && !options.listen.is_empty() {
            return Err(format!("--stdio listens nowhere\n\nUsage: {USAGE}"));
        }
        Ok(Some(options))
    }
}

/// Runs a daemon until somebody stops it.
pub(super) fn run(options: &Options) -> Exit {
    let ran = match options.stdio {
        true => stdio(),
        false => listen(options),
    };
    match ran {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "psync --daemon: {}", failure.text);
            failure.exit
        }
    }
}

fn listen(options: &Options) -> Result<(), Failure> {
    let start = |error: String| Failure::new(Exit::Start, error);
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| start(error.to_string()))?;
    let notifier = Notifier::of_environment();
    let dir = config_dir()?;
    let policy = policy(&dir)?;
    let LogFile { manner, detail, audit } = policy.modules.log.clone();
    let manner = options.manner.or(manner).unwrap_or(Manner::Text);
    start_log(manner, options.detail.or(detail).unwrap_or_default());
    // It is there from now on, for the lock.
    let key = machine_key(&dir)?;
    let _lock = RunLock::take(&lock_dir(), &dir).map_err(|error| start(error.to_string()))?;
    let audit = Audit::open(audit.as_deref()).map_err(|error| start(error.to_string()))?;
    let audit = Arc::new(audit);
    raise_descriptors(&policy.modules.limits);
    warn_of_places(&policy.modules);
    let public = key.public();
    let handed_over = listeners().map_err(|error| start(error.to_string()))?;
    let addresses = match (&options.listen[..], &policy.modules.listen[..]) {
        ([], _) if !handed_over.is_empty() => Vec::new(),
        ([], []) => vec![usual_address()],
        ([], configured) => configured.to_vec(),
        (given, _) => given.to_vec(),
    };
    let status = serving(&policy);
    let daemon = Daemon::new(Setup { key, policy, habits: habits(), audit: audit.clone() });
    let mut heard = Vec::new();
    for listener in handed_over {
        heard.push(daemon.listen_on(listener).map_err(|error| start(error.to_string()))?);
    }
    for address in addresses {
        heard.push(daemon.listen(&address).map_err(|error| start(error.to_string()))?);
    }
    heard.iter().for_each(|address| info!(%address, key = %public, "listening"));
    daemon.note("started");
    notifier.ready(&status);
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        notifier.reloading();
        let outcome = reload(&daemon, &dir, &audit);
        // Of what cannot be read holds what held so far.
        outcome.iter().for_each(|failure| warn!(why = failure.text, "not-reloaded"));
        if outcome.is_empty() {
            info!("reloaded");
            daemon.note("reloaded");
        }
        notifier.ready(&serving(&daemon.policy()));
    }
    notifier.stopping();
    info!("stopping");
    daemon.stop(STOP_PATIENCE);
    daemon.note("stopped");
    info!("stopped");
    Ok(())
}

/// Reads the files anew, and says what of it came to nothing. Each counts by itself, who is let in
/// first: who is to come in no longer stays out, whatever is wrong with a module or the audit log.
fn reload(daemon: &Daemon, dir: &Path, audit: &Audit) -> Vec<Failure> {
    let admitted = authorized(dir).map(|authorized| {
        daemon.reload(Policy { authorized, ..daemon.policy() });
    });
    let served = modules(dir).and_then(|modules| {
        warn_of_places(&modules);
        let path = modules.log.audit.clone();
        daemon.reload(Policy { modules, ..daemon.policy() });
        // It may have been rotated, or be another one now.
        let reopened = audit.reopen(path.as_deref());
        reopened.map_err(|error| Failure::new(Exit::FileIo, error.to_string()))
    });
    admitted.err().into_iter().chain(served.err()).collect()
}

/// Modules whose root is not there, as where a disk is not mounted, or lies in that of another one: a
/// peer who may write there could put a link in its place.
fn warn_of_places(modules: &Modules) {
    let mut places = Vec::new();
    for (module, Module { path, .. }) in &modules.modules {
        match path.canonicalize() {
            Ok(place) if place.is_dir() => places.push((module, place)),
            Ok(_) => {
                warn!(module, path = %path.display(), why = "it is no directory", "module-missing")
            }
            Err(error) => {
                warn!(module, path = %path.display(), why = %error, "module-missing");
            }
        }
    }
    for (module, place) in &places {
        let above = places.iter().find(|(_, above)| above != place && place.starts_with(above));
        if let Some((other, _)) = above {
            warn!(module, other, "module-inside");
        }
    }
}

fn serving(policy: &Policy) -> String {
    match policy.modules.modules.len() {
        1 => "Serving 1 module".into(),
        count => format!("Serving {count} modules"),
    }
}

/// Tells the daemon of a configuration to read it anew; its process, if there is one that can be told.
pub(super) fn tell_to_reload(dir: &Path) -> Option<u32> {
    // A unit of systemd has a directory of its own, which only its processes hear of.
    let places = [lock_dir(), PathBuf::from(RUN_DIR)];
    let process = places.iter().find_map(|locks| RunLock::holder(locks, dir))?;
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw)?;
    kill_process(pid, Signal::HUP).ok()?;
    Some(process)
}

/// Where the lock of a daemon lies: a directory that is emptied when the machine starts, if there is
/// one for this user.
fn lock_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    // systemd names all of a unit's directories in one variable, the first one first.
    let of_unit = std::env::var_os("RUNTIME_DIRECTORY")
        .and_then(|all| std::env::split_paths(&all).next())
        .filter(|path| path.is_absolute());
    of_unit
        .or_else(|| absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("psync")))
        .or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from(RUN_DIR)))
        .or_else(|| state_home(None).user.map(|state| state.join("psync")))
        .unwrap_or_else(|| std::env::temp_dir().join("psync"))
}

/// Lets this process have as many descriptors as the system allows it: a session has some fifty.
fn raise_descriptors(limits: &Limits) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS_MOST, |maximum| maximum.min(DESCRIPTORS_MOST));
    if current.is_some_and(|current| current < wanted) {
        // Where it cannot be raised, what there is has to do.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    let needed = limits.strangers as u64 * 2 + limits.sessions as u64 * 50 + 50;
    let had = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if had < needed {
        warn!(had, needed, "few-descriptors");
    }
}

/// Every address at the usual port, of both families where the system knows the newer one.
fn usual_address() -> String {
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    format!("{}:{PORT}", if has_v6 { "[::]" } else { "0.0.0.0" })
}

/// Serves one request to whoever could start this: the remote shell knows who that is, and the
/// files' own permissions say what they may do. What is read-only stays so.
fn stdio() -> Result<(), Failure> {
    let modules = modules(&config_dir()?)?;
    let descriptors = rustix::io::dup(io::stdin())
        .and_then(|input| Ok((input, rustix::io::dup(io::stdout())?)))
        .map_err(|error| Failure::new(Exit::Start, error.to_string()))?;
    let audit = Audit::open(modules.log.audit.as_deref());
    let audit = audit.map_err(|error| Failure::new(Exit::FileIo, error.to_string()))?;
    // Who is there only the remote shell knows, and may say where from.
    let from = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let from = from.split(' ').next().unwrap_or_default().to_string();
    let visit = by_shell(Arc::new(audit), from);
    let (input, output) = descriptors;
    let wire = Wire { input, output, exporter: [0; 32] };
    match serve(&modules, &|_| Permit::all(), &visit, wire, None, &habits()).1 {
        Ok(()) => Ok(()),
        // The other end has been told, and tells the person.
        Err(ServiceError::Sync(error)) => Err(Failure::new(Exit::of(&error), error.to_string())),
        Err(error) => Err(Failure::new(Exit::of_service(&error), error.to_string())),
    }
}

fn habits() -> Habits {
    Habits { keeping: keeping_of_served, names: run_names }
}

/// What is served, and to whom.
pub(super) fn policy(dir: &Path) -> Result<Policy, Failure> {
    let authorized = authorized(dir)?;
    Ok(Policy { modules: modules(dir)?, authorized })
}

fn authorized(dir: &Path) -> Result<AuthorizedPeers, Failure> {
    let file = dir.join(AUTHORIZED_FILE);
    let text = read(&file)?;
    AuthorizedPeers::parse(&text, &file)
        .map_err(|error| Failure::new(Exit::Identity, error.to_string()))
}

fn modules(dir: &Path) -> Result<Modules, Failure> {
    let file = dir.join(MODULES_FILE);
    let text = read(&file)?;
    Modules::parse(&text, &file).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

/// A file that is not there holds nothing.
fn read(file: &Path) -> Result<String, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::new(Exit::FileIo, format!("{}: {error}", file.display()))),
    }
}

/// Which daemon is asked what it has, and how the remote shell is set that it may take.
#[derive(Debug, Clone)]
pub(super) struct List {
    place: Endpoint,
    layer: Layer,
}

impl List {
    /// `--list PLACE`, before or after `-e CMD` and `--psync-path PROGRAM`; none without `--list`.
    pub(super) fn parse(arguments: &[OsString]) -> Result<Option<List>, String> {
        if !arguments.iter().any(|word| word == "--list") {
            return Ok(None);
        }
        let usage = "psync --list psync://host[:port]/ or psync --list [user@]host::";
        let mut layer = Layer::default();
        let mut places = Vec::new();
        let mut rest = arguments.iter().filter(|word| *word != "--list");
        while let Some(word) = rest.next() {
            let key = match word.to_str() {
                Some("-e" | "--rsh") => "rsh",
                Some("--psync-path" | "--rsync-path") => "psync-path",
                _ => {
                    places.push(Endpoint::parse(word)?);
                    continue;
                }
            };
            let value = rest.next().and_then(|value| value.to_str()).ok_or(usage)?;
            let origin = Origin::CommandLine(format!("--{key}"));
            layer.set_text(key, value, origin).map_err(|error| error.to_string())?;
        }
        match <[Endpoint; 1]>::try_from(places) {
            Ok([place]) => Ok(Some(List { place, layer })),
            Err(_) => Err(format!("--list wants one place\n\nUsage: {usage}")),
        }
    }
}

/// Prints which modules there are at `psync://host/` or `host::`.
pub(super) fn list(list: &List) -> Exit {
    match ask(list) {
        Ok(modules) => {
            print_out(&listed(&modules));
            Exit::Ok
        }
        Err(failure) => failure.told(false),
    }
}

fn ask(list: &List) -> Result<Vec<Told>, Failure> {
    let told = |error: ServiceError| Failure::new(Exit::of_service(&error), error.to_string());
    match &list.place {
        Endpoint::Daemon { place, module } if module.is_empty() => {
            let secured = dial(place)?;
            let io = |error: io::Error| Failure::new(Exit::Connection, error.to_string());
            let (pump, input, output) = secured.pump().map_err(io)?;
            let answer = ask_for_modules((input, output));
            match (answer, pump.finish(LINGER)) {
                (Err(_), Err(TlsError::Refused)) => Err(not_let_in(place)?),
                (answer, _) => answer.map_err(told),
            }
        }
        Endpoint::Module { host, module } if module.is_empty() => {
            let settings = config::machine()?.settings(None, None, list.layer.clone(), host)?;
            let values = settings.values();
            let (remote, input, output) =
                RemoteCommand::spawn_daemon(values.rsh().words(), host, &values.psync_path())
                    .map_err(|error| Failure::new(Exit::Start, error.to_string()))?;
            let answer = ask_for_modules((input, output)).map_err(told);
            remote.end(STOP_PATIENCE);
            answer
        }
        _ => Err(Failure::new(Exit::Usage, "--list wants psync://host[:port]/ or [user@]host::")),
    }
}

fn listed(modules: &[Told]) -> String {
    let width = modules.iter().map(|module| module.name.len()).max().unwrap_or(0);
    let lines = modules.iter().map(|module| {
        let name = printable(module.name.as_bytes());
        let comment = printable(module.comment.as_bytes());
        let limit = if module.writable { "" } else { "(read-only) " };
        format!("{}\n", format!("{name:width$}  {limit}{comment}").trim_end())
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_daemon_is_told_where_to_listen() {
        let options =
            parse("--daemon --listen 127.0.0.1:1 --listen=[::1]:2 --json").unwrap().unwrap();
        assert_eq!(options.listen, ["127.0.0.1:1", "[::1]:2"]);
        assert!(options.manner == Some(Manner::Json) && !options.stdio);
        let options = parse("--daemon --log-format text --log-level=debug").unwrap().unwrap();
        assert_eq!((options.manner, options.detail), (Some(Manner::Text), Detail::named("debug")));
        assert!(parse("a b").unwrap().is_none());
        for line in [
            "--daemon --listen",
            "--daemon --port 1",
            "--daemon --stdio --listen x:1",
            "--daemon --log-level loud",
            "--daemon --log-format=xml",
            "--daemon --json=1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_list_says_what_may_be_changed_and_is_safe_to_print() {
        let module = |name: &str, comment: &str, writable| Told {
            name: name.into(),
            comment: comment.into(),
            writable,
        };
        let text = listed(&[module("a", "x\u{1b}[2J", true), module("longer", "", false)]);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'));
        assert!(text.ends_with("longer  (read-only)\n"));
    }
}
