//! What an end asks for once the two are known to each other, and what it gets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use psync_protocol::frame::FrameEncoder;
use psync_protocol::service::{ANSWER_MAX, Answer, Module as Told, REQUEST_MAX, Request};
use psync_protocol::{DecodeError, ErrorCode, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::{AuditError, Module, Modules};
use crate::apply::RunNames;
use crate::journal::Witness;
use crate::manifest::Permit;
use crate::report::Silent;
use crate::sync::{self, Keeping, Offer, SyncError};
use crate::transport::{Compression, Halt, Line, LineLimits, Traffic};

/// What a daemon does as any psync on its machine would.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// What is kept for a root, and where; whoever calls may want no store.
    pub keeping: fn(&Path, bool) -> Result<Keeping, SyncError>,
    /// Names for trash and clash files, made when a session begins.
    pub names: fn() -> RunNames,
}

/// Somebody who may do something in a module: who is told of it before it begins, and hears of each
/// change. An error keeps the session from beginning.
pub type Visit<'a> = dyn Fn(&str, &Permit) -> Result<Option<Arc<dyn Witness>>, AuditError> + 'a;

/// A request came to nothing.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// What was asked for is not there, or not for this peer.
    #[error("there is no module '{}' here that this peer may use; 'psync --list' shows those that it may", .0.escape_debug())]
    NoModule(String),
    /// The other end has said no.
    #[error("{1}")]
    Refused(ErrorCode, String),
    /// The session failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// What came makes no sense.
    #[error("what was asked or answered makes no sense: {0}")]
    Decode(#[from] DecodeError),
    /// Nothing came.
    #[error("nothing was asked for within {} seconds", .0.as_secs())]
    TooSlow(Duration),
    /// What is done could not be written down.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// What was done for somebody, for the log.
#[derive(Debug, Default)]
pub struct Served {
    /// The module; none where all were listed, or before it is known.
    pub module: Option<String>,
    /// Bytes that left, and that came.
    pub bytes: (u64, u64),
}

/// Where a caller is heard and answered.
#[derive(Debug)]
pub struct Wire {
    /// What it says.
    pub input: OwnedFd,
    /// Where to answer.
    pub output: OwnedFd,
    /// What both ends derive from their connection; zeros where there is none.
    pub exporter: [u8; 32],
}

/// Serves one request from whoever is at the other end of two descriptors. `permit` says what that
/// peer may do in a module; `visit` is told when it begins to. `halt` may end it.
pub fn serve(
    modules: &Modules,
    permit: &dyn Fn(&str) -> Permit,
    visit: &Visit<'_>,
    wire: Wire,
    halt: Option<Halt>,
    habits: &Habits,
) -> (Served, Result<(), ServiceError>) {
    let mut served = Served::default();
    let result = serve_one(modules, permit, visit, wire, halt, habits, &mut served);
    (served, result)
}

fn serve_one(
    modules: &Modules,
    permit: &dyn Fn(&str) -> Permit,
    visit: &Visit<'_>,
    Wire { input, output, exporter }: Wire,
    halt: Option<Halt>,
    habits: &Habits,
    served: &mut Served,
) -> Result<(), ServiceError> {
    let within = modules.limits.handshake;
    let mut input = File::from(input);
    let request = Request::decode(&read_part(&mut input, REQUEST_MAX, Some(within))?)?;
    let Request::Sync { module: name, store, level } = request else {
        let answer = Answer::Modules(told(modules, permit));
        return Ok(File::from(output).write_all(&answer.encode())?);
    };
    served.module = Some(name.clone());
    let usable = modules.modules.get(&name).map(|module| (module, rights(module, &name, permit)));
    let Some((module, permit)) = usable.filter(|(_, permit)| permit.shows_anything()) else {
        let error = ServiceError::NoModule(name);
        refuse(output, ErrorCode::Refused, &error.to_string())?;
        return Err(error);
    };
    let witness = match visit(&name, &permit) {
        Ok(witness) => witness,
        Err(error) => {
            refuse(
                output,
                ErrorCode::Io,
                "this side cannot write down what is done; its log says why",
            )?;
            return Err(error.into());
        }
    };
    let mut line = Line::new(input.into(), output, LineLimits::default())?.bound_to(exporter);
    halt.into_iter().for_each(|halt| line.obey(halt));
    let traffic = line.traffic().clone();
    let keeping = match (habits.keeping)(&module.path, store) {
        Ok(keeping) => Keeping { witness, ..module.limits.hold(keeping) },
        Err(error) => {
            sync::refuse(line, &SyncError::of_settings_elsewhere());
            return Err(error.into());
        }
    };
    let compression = level.map_or(Compression::Fitting, |level| Compression::Level(level.into()));
    let offer = Offer {
        path: &module.path,
        must_exist: true,
        compression,
        permit: &permit,
        filters: &module.filters,
    };
    let result = sync::respond_within(offer, line, &keeping, (habits.names)(), &Silent);
    served.bytes = bytes(&traffic);
    Ok(result?)
}

fn bytes(traffic: &Traffic) -> (u64, u64) {
    (traffic.sent(), traffic.received())
}

fn rights(module: &Module, name: &str, permit: &dyn Fn(&str) -> Permit) -> Permit {
    let permit = permit(name);
    if module.read_only { permit.read_only() } else { permit }
}

fn told(modules: &Modules, permit: &dyn Fn(&str) -> Permit) -> Vec<Told> {
    let listed = modules.modules.iter().filter(|(_, module)| module.listed);
    let usable = listed
        .map(|(name, module)| (name, module, rights(module, name, permit)))
        .filter(|(_, _, permit)| permit.shows_anything());
    let told = usable.map(|(name, module, permit)| Told {
        name: name.clone(),
        comment: module.comment.clone(),
        writable: permit.allows_changes(),
    });
    told.collect()
}

/// Says no to a session, in place of its first message.
fn refuse(output: OwnedFd, code: ErrorCode, text: &str) -> io::Result<()> {
    let error = Message::Error { code, text: text.to_string() };
    File::from(output).write_all(&FrameEncoder::only(&error))
}

/// Says no to whatever is asked for, in the way in which it would be answered.
pub(super) fn turn_away(
    (input, output): (OwnedFd, OwnedFd),
    within: Duration,
    (code, text): (ErrorCode, &str),
) -> Result<(), ServiceError> {
    let mut input = File::from(input);
    match Request::decode(&read_part(&mut input, REQUEST_MAX, Some(within))?)? {
        Request::Sync { .. } => Ok(refuse(output, code, text)?),
        Request::List => {
            let answer = Answer::Refused(code, text.to_string());
            Ok(File::from(output).write_all(&answer.encode())?)
        }
    }
}

/// Asks for a session with a module; it follows on the same descriptors.
pub fn request_sync(
    output: &OwnedFd,
    module: &str,
    store: bool,
    compression: Compression,
) -> io::Result<()> {
    let level = match compression {
        Compression::Level(level) => u8::try_from(level).ok(),
        Compression::Off | Compression::Fitting => None,
    };
    let request = Request::Sync { module: module.to_string(), store, level };
    File::from(output.try_clone()?).write_all(&request.encode())
}

/// Asks which modules there are.
pub fn ask_for_modules((input, output): (OwnedFd, OwnedFd)) -> Result<Vec<Told>, ServiceError> {
    File::from(output).write_all(&Request::List.encode())?;
    match Answer::decode(&read_part(&mut File::from(input), ANSWER_MAX, None)?)? {
        Answer::Modules(modules) => Ok(modules),
        Answer::Refused(code, text) => Err(ServiceError::Refused(code, text)),
    }
}

/// Reads bytes with their length before them, and not one more.
fn read_part(
    input: &mut File,
    limit: usize,
    within: Option<Duration>,
) -> Result<Vec<u8>, ServiceError> {
    let deadline = within.map(|within| (Instant::now() + within, within));
    let mut length = 0;
    for group in 0.. {
        let mut byte = [0];
        read_exactly(input, &mut byte, deadline)?;
        length |= usize::from(byte[0] & 0x7f) << (7 * group);
        if byte[0] & 0x80 == 0 {
            break;
        }
        if group == 3 {
            return Err(DecodeError::Invalid("a length").into());
        }
    }
    if length > limit {
        let (value, limit) = (length as u64, limit as u64);
        return Err(DecodeError::TooLarge { what: "a length", value, limit }.into());
    }
    let mut bytes = vec![0; length];
    read_exactly(input, &mut bytes, deadline)?;
    Ok(bytes)
}

fn read_exactly(
    input: &mut File,
    mut rest: &mut [u8],
    deadline: Option<(Instant, Duration)>,
) -> Result<(), ServiceError> {
    while !rest.is_empty() {
        if let Some((deadline, within)) = deadline
            && !is_readable_by(input, deadline)?
        {
            return Err(ServiceError::TooSlow(within));
        }
        match input.read(rest) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => rest = &mut rest[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_readable_by(input: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_spec =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let fd = input.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left_spec)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}
