//! One run: both sides are brought together, and what happened becomes an exit code.

use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Zoned;
use jiff::tz::TimeZone;
use psync_protocol::ProtocolError;
use psync_protocol::message::Flow;

use super::args::{Options, Server};
use super::endpoint::Endpoint;
use super::exit::Exit;
use super::json::Json;
use super::summary::{LineNumbers, TroubleCount};
use super::terminal::{Manner, Terminal};
use crate::apply::RunNames;
use crate::report::{Phase, Report, Silent};
use crate::root::{Place, StateHome};
use crate::sync::{self, Keeping, Outcome, Request, Site, SyncError};
use crate::transport::{Compression, Line, LineError, LineLimits, Remote, RemoteCommand, Traffic};

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
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Who is told of the run.
enum Voice {
    Terminal(Terminal),
    Json(Json),
}

impl Voice {
    fn of(options: &Options, names: (String, String)) -> Voice {
        if options.json {
            return Voice::Json(Json::default());
        }
        Voice::Terminal(Terminal::new(
            Manner {
                quiet: options.quiet,
                verbosity: options.verbosity,
                itemize: options.itemize,
                stats: options.stats,
                progress: !options.quiet && (options.progress || std::io::stderr().is_terminal()),
                dry_run: options.dry_run,
            },
            names,
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
        let to_right = match (options.flow, options.other_first) {
            (Flow::TwoWay, _) => None,
            (Flow::ToResponder, other_first) => Some(!other_first),
            (Flow::ToInitiator, other_first) => Some(other_first),
        };
        let arrow = match to_right {
            None => "<->",
            Some(true) => "->",
            Some(false) => "<-",
        };
        let flow = match options.flow {
            Flow::TwoWay => "two-way",
            Flow::ToResponder => "mirror-push",
            Flow::ToInitiator => "mirror-pull",
        };
        match self {
            Voice::Terminal(terminal) => terminal.start(&left, &right, arrow),
            Voice::Json(json) => json.start(&left, &right, flow, options.dry_run),
        }
    }

    /// Says what the run came to, and with which exit code it will end.
    fn summary(&self, outcome: &Outcome, line: LineNumbers) -> Exit {
        let exit = exit_of(outcome, self.troubles());
        match self {
            Voice::Terminal(terminal) => terminal.summary(outcome, line),
            Voice::Json(json) => json.summary(outcome, line, exit),
        }
        exit
    }

    fn failure(&self, failed: &Failed) {
        self.clear();
        match self {
            Voice::Terminal(_) => {
                let _ = writeln!(std::io::stderr(), "psync: {}", failed.text);
            }
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

/// A run that did not come to its end.
struct Failed {
    text: String,
    exit: Exit,
    /// An index will be set aside: the same run may succeed now.
    again: bool,
}

impl From<SyncError> for Failed {
    fn from(error: SyncError) -> Failed {
        let again = matches!(error, SyncError::RolledBack | SyncError::StartAnew);
        Failed { exit: Exit::of(&error), text: error.to_string(), again }
    }
}

/// Syncs what the options say.
pub(super) fn run(options: &Options) -> Exit {
    let voice = Voice::of(options, names(options));
    voice.start(options);
    let mut result = attempt(options, &voice);
    if result.as_ref().is_err_and(|failed| failed.again) {
        result = attempt(options, &voice);
    }
    voice.clear();
    result.unwrap_or_else(|failed| {
        voice.failure(&failed);
        failed.exit
    })
}

fn exit_of(outcome: &Outcome, troubles: TroubleCount) -> Exit {
    if troubles.failed > 0 {
        Exit::Partial
    } else if troubles.changed > 0 {
        Exit::Changed
    } else if !outcome.conflicts.is_empty() {
        Exit::Conflicts
    } else {
        Exit::Ok
    }
}

fn attempt(options: &Options, voice: &Voice) -> Result<Exit, Failed> {
    let started = Instant::now();
    let ground = Ground::prepare(options)?;
    // Told as soon as the line is closed: nobody waits for what is only remembered then.
    let tell = |outcome: &Outcome, traffic: &Traffic| {
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
    };
    if result.is_err() || options.dry_run {
        ground.undo();
    }
    result
}

/// Tells what a run came to, and gives its exit code.
type Tell<'a> = &'a dyn Fn(&Outcome, &Traffic) -> Exit;

/// This side's directory, made if it was missing and may be.
struct Ground<'a> {
    path: &'a Path,
    made: bool,
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
            Endpoint::Remote { .. } => true,
        };
        let is_source = options.flow == Flow::ToResponder;
        // A side that is missing is made, so that a first copy needs no mkdir; but not both, and
        // not the one that the other is to become equal to.
        let made = !path.exists() && other_exists && !is_source && Site::create_root(path)?;
        Ok(Ground { path, made })
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
        flow: options.flow,
        dry_run: options.dry_run,
        filters: options.filters.clone(),
        delete_limit: options.delete_limit,
        keeping: keeping(options),
        location,
        compression,
        names: run_names(),
    }
}

fn keeping(options: &Options) -> Keeping {
    Keeping { home: state_home(options.state_dir.clone()), store: options.store }
}

pub(super) fn state_home(given: Option<PathBuf>) -> StateHome {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let user = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home);
    StateHome { given, user }
}

/// The names that this moment gives to trash and clash files: the trash counts in UTC, a clash
/// name shows the person's own time.
fn run_names() -> RunNames {
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
) -> Result<Exit, Failed> {
    let request_for = |location| request(options, location, Compression::Off);
    let must_exist = ground.made || options.flow == Flow::ToInitiator || !options.local.exists();
    let (here, there) = Line::pair(limits(options)).map_err(SyncError::from)?;
    let traffic = here.traffic().clone();
    let keeping = keeping(options);
    std::thread::scope(|scope| {
        let names = run_names();
        let off = Compression::Off;
        let responder = scope
            .spawn(move || sync::respond(other, must_exist, off, there, &keeping, names, &Silent));
        let told = |outcome: &Outcome| tell(outcome, &traffic);
        let result = open_and_initiate(options, here, voice, told, || {
            let place =
                Place::of(other).map(|place| place.path).unwrap_or_else(|_| other.to_path_buf());
            request_for(String::from_utf8_lossy(place.as_os_str().as_bytes()).into_owned())
        });
        // Its errors have come over the line.
        let _ = responder.join();
        result.map_err(Failed::from)
    })
}

fn open_and_initiate(
    options: &Options,
    line: Line,
    voice: &Voice,
    tell: impl Fn(&Outcome) -> Exit,
    request: impl Fn() -> Request,
) -> Result<Exit, SyncError> {
    let request = request();
    let mut site = Site::open(&options.local, &request.keeping)?;
    let outcome = sync::initiate(&mut site, line, &request, voice.report())?;
    let exit = tell(&outcome);
    if !options.dry_run {
        sync::remember(&mut site, voice.report());
    }
    Ok(exit)
}

fn with_remote(
    options: &Options,
    host: &str,
    path: &str,
    ground: &Ground<'_>,
    voice: &Voice,
    tell: Tell<'_>,
) -> Result<Exit, Failed> {
    let command = RemoteCommand {
        rsh: options.rsh.clone(),
        host: host.to_string(),
        program: options.program.clone(),
        path: path.to_string(),
        must_exist: ground.made || options.flow == Flow::ToInitiator,
        compression: options.compression,
        store: options.store,
    };
    let (mut remote, input, output) = command.spawn().map_err(|error| Failed {
        text: error.to_string(),
        exit: Exit::Start,
        again: false,
    })?;
    let line = Line::new(input, output, limits(options)).map_err(SyncError::from)?;
    let traffic = line.traffic().clone();
    let told = |outcome: &Outcome| tell(outcome, &traffic);
    let result = open_and_initiate(options, line, voice, told, || {
        request(options, format!("{host}:{path}"), options.compression)
    });
    let silent = traffic.received() == 0;
    match result {
        Ok(exit) => {
            if !remote.ends_within(WORTH_SHOWING) {
                voice.report().phase(Phase::Waiting);
                remote.end(MEMORY_PATIENCE);
            }
            Ok(exit)
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
    match sync::respond(
        &server.path,
        server.must_exist,
        server.compression,
        line,
        &Keeping { home: state_home(None), store: server.store },
        run_names(),
        &Silent,
    ) {
        Ok(()) => Exit::Ok,
        // The other end has been told, and tells the person.
        Err(error) => Exit::of(&error),
    }
}
