//! One run: both sides are brought together, and what happened becomes an exit code.

use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Zoned;
use jiff::tz::TimeZone;
use psync_protocol::message::{Flow, Intent};
use psync_protocol::{ErrorCode, Message, ProtocolError};
use tracing::warn;

use super::args::Server;
use super::config;
use super::dial::{Place as DaemonPlace, dial, not_let_in};
use super::endpoint::Endpoint;
use super::exit::Exit;
use super::json::Json;
use super::options::Options;
use super::output::{Output, tame};
use super::subject::Failure;
use super::summary::{self, LineNumbers, TroubleCount};
use super::terminal::{Manner, Terminal};
use crate::apply::RunNames;
use crate::daemon::request_sync;
use crate::journal::Reach;
use crate::manifest::Permit;
use crate::report::{Phase, Report, Silent};
use crate::root::{Place, StateHome};
use crate::settings::{Layer, ROOT_FILE, RunMode, Settings};
use crate::sync::{self, Keeping, Offer, Outcome, PlanUse, Request, Site, SyncError};
use crate::transport::{
    Compression, Line, LineError, LineLimits, Remote, RemoteCommand, SpawnError, TlsError, Traffic,
};

/// How long the remote shell may take to end once the line is closed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take after a sync that has succeeded: the other end remembers what was agreed,
/// and holds its lock until then.
const MEMORY_PATIENCE: Duration = Duration::from_secs(600);
/// From when on a person should see what is waited for.
const WORTH_SHOWING: Duration = Duration::from_millis(500);

/// Writes to standard output. Whoever closed it does not want to hear more.
pub(super) fn print_out(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(tame(text).as_bytes()).and_then(|()| out.flush());
}

/// Who is told of the run.
enum Voice {
    Terminal(Terminal),
    Json(Json),
}

impl Voice {
    fn of(options: &Options, names: (String, String), output: Output) -> Voice {
        if options.json {
            return Voice::Json(Json::new(output));
        }
        let seen = output.is_seen() && !options.quiet;
        Voice::Terminal(Terminal::new(
            Manner {
                quiet: options.quiet,
                verbosity: options.verbosity,
                itemize: options.itemize,
                stats: options.stats,
                progress: seen && (options.progress || std::io::stderr().is_terminal()),
                dry_run: options.dry_run,
            },
            names,
            output,
        ))
    }

    fn report(&self) -> &dyn Report {
        match self {
            Voice::Terminal(terminal) => terminal,
            Voice::Json(json) => json,
        }
    }

    fn troubles(&self) -> TroubleCount {
        let troubles = match self {
            Voice::Terminal(terminal) => &terminal.troubles,
            Voice::Json(json) => &json.troubles,
        };
        *troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, options: &Options) {
        let (local, other) = names(options);
        let (left, right) = if options.other_first { (other, local) } else { (local, other) };
        let to_right = match options.mode {
            RunMode::TwoWay => None,
            RunMode::Push | RunMode::MirrorPush => Some(!options.other_first),
            RunMode::Pull | RunMode::MirrorPull => Some(options.other_first),
        };
        let arrow = match to_right {
            None => "<->",
            Some(true) => "->",
            Some(false) => "<-",
        };
        match self {
            Voice::Terminal(terminal) => terminal.start(&left, &right, arrow),
            Voice::Json(json) => json.start(&left, &right, options),
        }
    }

    /// Says what the run came to, and with which exit code it will end.
    fn summary(&self, outcome: &Outcome, line: LineNumbers) -> Ended {
        let exit = exit_of(outcome, self.troubles());
        match self {
            Voice::Terminal(terminal) => terminal.summary(outcome, line),
            Voice::Json(json) => json.summary(outcome, line, exit),
        }
        Ended { exit, result: summary::brief(outcome, self.troubles(), line), again: false }
    }

    fn failure(&self, failed: &Failed) {
        self.clear();
        match self {
            Voice::Terminal(terminal) => terminal.complain(&format!("psync: {}", failed.text)),
            Voice::Json(json) => json.error(&failed.text, failed.exit),
        }
    }

    /// Takes away what shows that something goes on.
    fn clear(&self) {
        if let Voice::Terminal(terminal) = self {
            terminal.clear();
        }
    }
}

fn names(options: &Options) -> (String, String) {
    (Endpoint::Local(options.local.clone()).to_string(), options.other.to_string())
}

/// How a run ended, and what it came to in a line.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) result: String,
    /// Conflicts were merged, or both sides are to be kept: another run carries it over.
    pub(super) again: bool,
}

/// A run that did not come to its end.
struct Failed {
    text: String,
    exit: Exit,
    /// An index will be set aside: the same run may succeed now.
    again: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed { text: failure.text, exit: failure.exit, again: false }
    }
}

impl From<SyncError> for Failed {
    fn from(error: SyncError) -> Failed {
        let again =
            matches!(error, SyncError::RolledBack | SyncError::StartAnew | SyncError::PeerIsOlder);
        Failed { exit: Exit::of(&error), text: error.to_string(), again }
    }
}

/// Syncs what the options say, and says there what comes of it.
pub(super) fn run(options: &Options, output: Output) -> Ended {
    run_and(options, output, &|_| {})
}

/// Syncs what the options say; what it came to is shown to `look`, too.
pub(super) fn run_and(options: &Options, output: Output, look: &dyn Fn(&Outcome)) -> Ended {
    let voice = Voice::of(options, names(options), output);
    voice.start(options);
    let mut result = attempt(options, &voice, look);
    if result.as_ref().is_err_and(|failed| failed.again) {
        result = attempt(options, &voice, look);
    }
    if result.as_ref().is_ok_and(|ended| ended.again) {
        result = attempt(options, &voice, look);
    }
    voice.clear();
    result.unwrap_or_else(|failed| {
        voice.failure(&failed);
        Ended { exit: failed.exit, result: failed.text, again: false }
    })
}

fn exit_of(outcome: &Outcome, troubles: TroubleCount) -> Exit {
    if troubles.failed > 0 {
        Exit::Partial
    } else if troubles.changed > 0 {
        Exit::Changed
    } else if outcome.conflicts.iter().any(|conflict| !conflict.chosen) {
        Exit::Conflicts
    } else {
        Exit::Ok
    }
}

fn attempt(options: &Options, voice: &Voice, look: &dyn Fn(&Outcome)) -> Result<Ended, Failed> {
    let started = Instant::now();
    let ground = Ground::prepare(options)?;
    let options = &Options { doubt: ground.doubt.clone(), ..options.clone() };
    // Told as soon as the line is closed: nobody waits for what is only remembered then.
    let tell = |outcome: &Outcome, traffic: &Traffic| {
        look(outcome);
        let line = LineNumbers {
            sent: traffic.sent(),
            received: traffic.received(),
            by_purpose: traffic.by_purpose(),
            turns: traffic.turns(),
            seconds: started.elapsed().as_secs_f64(),
        };
        voice.summary(outcome, line)
    };
    let result = match &options.other {
        Endpoint::Local(other) => with_local(options, other, &ground, voice, &tell),
        Endpoint::Remote { host, path } => with_remote(options, host, path, &ground, voice, &tell),
        Endpoint::Module { host, module } => with_module(options, host, module, voice, &tell),
        Endpoint::Daemon { place, module } => with_daemon(options, place, module, voice, &tell),
    };
    if result.is_err() || options.dry_run {
        ground.undo();
    }
    result
}

/// Tells what a run came to, and gives that back.
type Tell<'a> = &'a dyn Fn(&Outcome, &Traffic) -> Ended;

/// This side's directory, made if it was missing and may be.
struct Ground<'a> {
    path: &'a Path,
    made: bool,
    /// Why it may not be the root that was synced here before.
    doubt: Option<Arc<SyncError>>,
}

impl Ground<'_> {
    fn prepare(options: &Options) -> Result<Ground<'_>, Failed> {
        let path = options.local.as_path();
        if let Endpoint::Local(other) = &options.other
            && Place::of_root(path)
                .is_ok_and(|here| Place::of_root(other).is_ok_and(|there| here.overlaps(&there)))
        {
            return Err(SyncError::SameRoot.into());
        }
        let other_exists = match &options.other {
            Endpoint::Local(other) => other.exists(),
            _ => true,
        };
        // Whoever types a limit for deletions means this root as it is.
        let flow = options.mode.flow();
        let doubt = match options.empty_is_meant {
            true => Ok(()),
            false => Site::guard(path, &options.keeping, flow == Flow::ToInitiator),
        };
        // Where the other side was never synced, either, there is nothing that could be missed.
        let doubt = match (doubt, &options.other) {
            (Ok(()), _) => None,
            (Err(doubt), Endpoint::Local(other))
                if Site::has_state(other, &options.keeping_there) =>
            {
                return Err(doubt.into());
            }
            (Err(_), Endpoint::Local(_)) => None,
            // It will say so in its answer.
            (Err(doubt), _) => Some(Arc::new(doubt)),
        };
        let is_source = flow == Flow::ToResponder;
        // A side that is missing is made, so that a first copy needs no mkdir; but not both, and
        // not the one that the other is to become equal to.
        let made = !path.exists() && other_exists && !is_source && Site::create_root(path)?;
        Ok(Ground { path, made, doubt })
    }

    /// A directory that was made for a run that failed, or did nothing, goes again.
    fn undo(&self) {
        if self.made {
            Site::remove_unused_root(self.path);
        }
    }
}

fn request(options: &Options, location: String, compression: Compression) -> Request {
    Request {
        flow: options.mode.flow(),
        intent: match (options.dry_run, options.stats) {
            (false, _) => Intent::CarryOut,
            (true, false) => Intent::Show,
            (true, true) => Intent::Rehearse,
        },
        filters: options.filters.clone(),
        change_limit: options.change_limit,
        rules: options.rules.clone(),
        delete_limit: options.delete_limit,
        empty_is_meant: options.empty_is_meant,
        doubt: options.doubt.clone(),
        keeping: Keeping { reach: reach_of_other(options), ..options.keeping.clone() },
        location,
        compression,
        names: names_of_run(options),
        plan: options.plan.clone(),
    }
}

/// How the other end of this run is reached again.
fn reach_of_other(options: &Options) -> Reach {
    match &options.other {
        Endpoint::Local(other) => local_reach(options, other),
        other => Reach {
            location: remote_location(other),
            rsh: options.rsh.clone(),
            program: options.program.clone(),
            state_dir: String::new(),
        },
    }
}

/// Where a side is that is not on this machine, as it is remembered: as it was typed.
fn remote_location(other: &Endpoint) -> String {
    match other {
        Endpoint::Remote { host, path } => format!("{host}:{path}"),
        other => other.to_string(),
    }
}

/// How a root of this machine is reached again. Two of them have their state below one directory,
/// if any was given.
fn local_reach(options: &Options, path: &Path) -> Reach {
    let state = options.keeping.home.given.as_deref().map(location_of);
    let location = location_of(path);
    Reach { location, state_dir: state.unwrap_or_default(), ..Reach::default() }
}

fn location_of(path: &Path) -> String {
    // One that is missing is where it was when it was there.
    let place = Place::of_root(path).map_or_else(|_| path.to_path_buf(), |place| place.path);
    String::from_utf8_lossy(place.as_os_str().as_bytes()).into_owned()
}

pub(super) fn state_home(given: Option<PathBuf>) -> StateHome {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let user = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home);
    StateHome { given, user }
}

/// Where an earlier plan is carried out, clash files have the names that it gave them.
fn names_of_run(options: &Options) -> RunNames {
    match &options.plan {
        PlanUse::Only(plan) => RunNames { clash: plan.stamp.clone(), ..run_names() },
        PlanUse::Fresh | PlanUse::Note | PlanUse::Paths(_) => run_names(),
    }
}

/// The names that this moment gives to trash and clash files: the trash counts in UTC, a clash
/// name shows the person's own time.
pub(super) fn run_names() -> RunNames {
    let now = Zoned::now();
    RunNames {
        trash: now.with_time_zone(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string(),
        clash: now.strftime("%Y%m%d%H%M").to_string(),
        now: now.timestamp().as_second(),
    }
}

fn limits(options: &Options) -> LineLimits {
    LineLimits { rate: options.rate, timeout: options.timeout }
}

/// Both ends in this process, joined by a socket.
fn with_local(
    options: &Options,
    other: &Path,
    ground: &Ground<'_>,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Ended, Failed> {
    let request_for = |location| request(options, location, Compression::Off);
    let must_exist =
        ground.made || options.mode.flow() == Flow::ToInitiator || !options.local.exists();
    let (here, there) = Line::pair(limits(options)).map_err(SyncError::from)?;
    let traffic = here.traffic().clone();
    let reach = local_reach(options, &options.local);
    let keeping = Keeping { reach, ..options.keeping_there.clone() };
    std::thread::scope(|scope| {
        let names = run_names();
        let off = Compression::Off;
        let responder = scope
            .spawn(move || sync::respond(other, must_exist, off, there, &keeping, names, &Silent));
        let told = |outcome: &Outcome| tell(outcome, &traffic);
        let result =
            open_and_initiate(options, here, voice, told, || request_for(location_of(other)));
        // Its errors have come over the line.
        let _ = responder.join();
        result.map_err(Failed::from)
    })
}

fn open_and_initiate(
    options: &Options,
    line: Line,
    voice: &Voice,
    tell: impl Fn(&Outcome) -> Ended,
    request: impl Fn() -> Request,
) -> Result<Ended, SyncError> {
    let request = request();
    let is_untouched = Site::is_untouched(&options.local);
    let mut site = Site::open(&options.local, &request.keeping)?;
    let outcome = match sync::initiate(&mut site, line, &request, voice.report()) {
        Err(SyncError::Doubted(doubt)) if is_untouched => {
            drop(site);
            Site::remove_unused_state(&options.local);
            return Err(SyncError::Doubted(doubt));
        }
        result => result?,
    };
    let ended = tell(&outcome);
    if options.dry_run {
        return Ok(ended);
    }
    sync::remember(&mut site, voice.report());
    let settled = sync::resolve::merge_held(&mut site, &outcome, &request, voice.report())?;
    Ok(Ended { again: settled > 0, ..ended })
}

fn with_remote(
    options: &Options,
    host: &str,
    path: &str,
    ground: &Ground<'_>,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Ended, Failed> {
    let command = RemoteCommand {
        rsh: options.rsh.clone(),
        host: host.to_string(),
        program: options.program.clone(),
        path: path.to_string(),
        must_exist: ground.made || options.mode.flow() == Flow::ToInitiator,
        compression: options.compression,
        store: options.store_there,
    };
    let spawned = command.spawn().map_err(cannot_start)?;
    over_shell(options, host, spawned, remote_location(&options.other), voice, tell)
}

fn cannot_start(error: SpawnError) -> Failed {
    Failed { text: error.to_string(), exit: Exit::Start, again: false }
}

/// A module of the daemon that the remote shell starts.
fn with_module(
    options: &Options,
    host: &str,
    module: &str,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Ended, Failed> {
    let (remote, input, output) =
        RemoteCommand::spawn_daemon(&options.rsh, host, &options.program).map_err(cannot_start)?;
    request_sync(&output, module, options.store_there, options.compression)
        .map_err(SyncError::from)?;
    let location = remote_location(&options.other);
    over_shell(options, host, (remote, input, output), location, voice, tell)
}

/// A module of a daemon that listens.
fn with_daemon(
    options: &Options,
    place: &DaemonPlace,
    module: &str,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Ended, Failed> {
    let secured = dial(place)?;
    let exporter = secured.exporter();
    let (pump, input, output) = secured.pump().map_err(SyncError::from)?;
    // A daemon that does not want us has closed the line by now, and says why below.
    let requested = request_sync(&output, module, options.store_there, options.compression);
    let line = Line::new(input, output, limits(options)).map_err(SyncError::from)?;
    let line = line.bound_to(exporter);
    let traffic = line.traffic().clone();
    let told = |outcome: &Outcome| tell(outcome, &traffic);
    let result = requested.map_err(SyncError::from).and_then(|()| {
        let request = || request(options, remote_location(&options.other), options.compression);
        open_and_initiate(options, line, voice, told, request)
    });
    let error = match result {
        Ok(ended) => {
            // What was agreed is remembered there before the line is closed.
            if !pump.ends_within(WORTH_SHOWING) {
                voice.report().phase(Phase::Waiting);
            }
            let _ = pump.finish(MEMORY_PATIENCE);
            return Ok(ended);
        }
        Err(error) => error,
    };
    match (error, pump.finish(PATIENCE)) {
        (_, Err(TlsError::Refused)) => Err(not_let_in(place)?.into()),
        (SyncError::Line(_), Err(error @ (TlsError::Silent(_) | TlsError::Stalled(_)))) => {
            Err(Failure::new(Exit::Timeout, format!("{place}: {error}")).into())
        }
        (error, _) => Err(error.into()),
    }
}

/// With the other end at the end of a remote shell.
fn over_shell(
    options: &Options,
    host: &str,
    (mut remote, input, output): (Remote, OwnedFd, OwnedFd),
    location: String,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Ended, Failed> {
    let line = Line::new(input, output, limits(options)).map_err(SyncError::from)?;
    let traffic = line.traffic().clone();
    let told = |outcome: &Outcome| tell(outcome, &traffic);
    let result = open_and_initiate(options, line, voice, told, || {
        request(options, location.clone(), options.compression)
    });
    let silent = traffic.received() == 0;
    match result {
        Ok(ended) => {
            if !remote.ends_within(WORTH_SHOWING) {
                voice.report().phase(Phase::Waiting);
                remote.end(MEMORY_PATIENCE);
            }
            Ok(ended)
        }
        Err(error) => Err(explain(error, remote, host, options, silent)),
    }
}

/// What is wrong when the other end does not speak: the remote shell's exit code tells.
fn explain(
    error: SyncError,
    remote: Remote,
    host: &str,
    options: &Options,
    silent: bool,
) -> Failed {
    let shell = options.rsh.join(" ");
    let failed = |exit, text| Failed { text, exit, again: false };
    match &error {
        SyncError::Line(LineError::Protocol(ProtocolError::NotPsync(text))) => {
            remote.end(Duration::ZERO);
            failed(
                Exit::Incompatible,
                format!(
                    "{host} sent text where psync should speak: \"{text}\"\nIts login shell must print nothing when it is \
                     not interactive; try: {shell} {host} true"
                ),
            )
        }
        SyncError::Line(LineError::Protocol(ProtocolError::Ended(_)) | LineError::Io(_))
            if silent =>
        {
            match remote.end(PATIENCE) {
                Some(255) => failed(
                    Exit::Connection,
                    format!(
                        "cannot connect to {host}: '{shell}' failed (its own message is above)"
                    ),
                ),
                Some(126 | 127) => failed(
                    Exit::Start,
                    format!(
                        "'{}' was not found on {host}: install psync there, or say where it is with --psync-path",
                        options.program
                    ),
                ),
                Some(code) => failed(
                    Exit::Start,
                    format!(
                        "psync on {host} ended at once, with exit code {code}; try: {shell} {host} {} --version",
                        options.program
                    ),
                ),
                None => {
                    failed(Exit::Connection, format!("'{shell}' to {host} was ended by a signal"))
                }
            }
        }
        _ => {
            remote.end(Duration::from_secs(1));
            error.into()
        }
    }
}

/// Serves one sync over standard input and output.
pub(super) fn serve(server: &Server) -> Exit {
    let descriptors = rustix::io::dup(std::io::stdin())
        .and_then(|input| Ok((input, rustix::io::dup(std::io::stdout())?)));
    let line = match descriptors {
        Ok((input, output)) => Line::new(input, output, LineLimits::default()),
        Err(error) => Err(error.into()),
    };
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "psync --server: {error}");
            return Exit::Start;
        }
    };
    let path = match server.served_path() {
        Ok(path) => path,
        Err(text) => {
            line.give_up(&Message::Error { code: ErrorCode::Refused, text });
            return Exit::Identity;
        }
    };
    let kept = match server.restrict {
        Some(_) => {
            keeping_of_served(&path, server.store).map_err(|_| SyncError::of_settings_elsewhere())
        }
        None => keeping_of(&path, server.store),
    };
    let keeping = match kept {
        Ok(keeping) => keeping,
        Err(error) => {
            sync::refuse(line, &error);
            return Exit::of(&error);
        }
    };
    let permit = if server.read_only { Permit::all().read_only() } else { Permit::all() };
    let offer = Offer {
        path: &path,
        must_exist: server.must_exist || server.restrict.is_some(),
        compression: server.compression,
        permit: &permit,
        filters: &[],
    };
    match sync::respond_within(offer, line, &keeping, run_names(), &Silent) {
        Ok(()) => Exit::Ok,
        // The other end has been told, and tells the person.
        Err(error) => Exit::of(&error),
    }
}

/// What is set on this machine for a root that this person has asked for from elsewhere; whoever
/// calls may want no store.
fn keeping_of(root: &Path, store: bool) -> Result<Keeping, SyncError> {
    let settings = config::machine()
        .and_then(|machine| machine.settings(Some(root), None, Layer::default(), ""))
        .map_err(SyncError::Settings)?;
    Ok(keeping_with(&settings, store))
}

/// The same for a root that is served to others. Its own file may have come from any of them: where
/// it makes no sense it does not count, or one of them could keep all others out.
pub(super) fn keeping_of_served(root: &Path, store: bool) -> Result<Keeping, SyncError> {
    let machine = config::machine().map_err(SyncError::Settings)?;
    let settings_with = |root| machine.settings(root, None, Layer::default(), "");
    let error = match settings_with(Some(root)) {
        Ok(settings) => return Ok(keeping_with(&settings, store)),
        Err(error) => error,
    };
    let settings = settings_with(None).map_err(SyncError::Settings)?;
    warn!(why = %error, "settings-ignored");
    let note = format!("{ROOT_FILE} there makes no sense, so nothing of it counts in this run");
    Ok(Keeping { notes: vec![note], ..keeping_with(&settings, store) })
}

fn keeping_with(settings: &Settings, store: bool) -> Keeping {
    let mut keeping = config::keeping(settings, state_home(None));
    keeping.store.enabled &= store;
    keeping
}
