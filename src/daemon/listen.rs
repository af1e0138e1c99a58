//! The door: connections come, say who they are, and are served, each in a thread of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use psync_protocol::ErrorCode;
use serde_json::Value;
use thiserror::Error;
use tracing::field::Empty;
use tracing::{debug, error, info, info_span, warn};

use super::audit::text;
use super::gate::Gate;
use super::service::{Served, ServiceError, Wire, serve, turn_away};
use super::sessions::Session;
use super::throttle::Throttle;
use super::visitor::Visitor;
use super::{Audit, Habits, Limits, Policy};
use crate::identity::{Admitted, MachineKey, PublicKey};
use crate::journal::Witness;
use crate::manifest::Permit;
use crate::sync::random;
use crate::transport::{Halt, Secured, TlsError};

/// How long a peer may take to close a line that has ended.
const LINGER: Duration = Duration::from_secs(2);
/// How often is looked whether a session has to end.
const GLANCE: Duration = Duration::from_millis(200);
/// How long to wait where the system has no room for another connection.
const BREATH: Duration = Duration::from_millis(100);

/// A daemon cannot listen.
#[derive(Debug, Error)]
#[error("cannot listen at {address}: {error}")]
pub struct ListenError {
    address: String,
    error: io::Error,
}

/// What a daemon starts with.
#[derive(Debug)]
pub struct Setup {
    /// Who it is.
    pub key: MachineKey,
    /// What it serves, and how much of it.
    pub policy: Policy,
    /// What it does in a session.
    pub habits: Habits,
    /// Where it writes down what was done.
    pub audit: Arc<Audit>,
}

/// A daemon at work.
#[derive(Debug)]
pub struct Daemon(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    key: MachineKey,
    policy: Mutex<Arc<Policy>>,
    habits: Habits,
    audit: Arc<Audit>,
    throttle: Mutex<Throttle>,
    /// Tells the sessions of this daemon from those of another one in the same log.
    name: String,
    stops: AtomicBool,
    next: AtomicU64,
    door: Mutex<Door>,
}

/// Who is there.
#[derive(Debug, Default)]
struct Door {
    gate: Gate,
    strangers: HashMap<u64, TcpStream>,
    sessions: HashMap<u64, Session>,
}

/// A connection, for the log.
#[derive(Debug, Clone, Copy)]
struct Caller {
    number: u64,
    address: SocketAddr,
}

impl Daemon {
    /// A daemon that does not listen yet.
    pub fn new(setup: Setup) -> Daemon {
        let Setup { key, policy, habits, audit } = setup;
        let mut name = [0; 4];
        random(&mut name);
        Daemon(Arc::new(Shared {
            key,
            policy: Mutex::new(Arc::new(policy)),
            habits,
            audit,
            throttle: Mutex::default(),
            name: format!("{:08x}", u32::from_be_bytes(name)),
            stops: AtomicBool::new(false),
            next: AtomicU64::new(1),
            door: Mutex::default(),
        }))
    }

    /// Listens at an address with a port, from a thread of its own; says at which one.
    pub fn listen(&self, address: &str) -> Result<SocketAddr, ListenError> {
        let failed = |error| ListenError { address: address.to_string(), error };
        let listener = TcpListener::bind(address).map_err(failed)?;
        self.listen_on(listener).map_err(failed)
    }

    /// The same with a socket that listens already.
    pub fn listen_on(&self, listener: TcpListener) -> io::Result<SocketAddr> {
        let local = listener.local_addr()?;
        let shared = self.0.clone();
        let accept = move || shared.accept(&listener);
        thread::Builder::new().name("listen".into()).spawn(accept)?;
        let shared = Arc::downgrade(&self.0);
        let watch = move || {
            while let Some(shared) = shared.upgrade() {
                locked(&shared.door).sessions.values_mut().for_each(|session| session.look(now()));
                drop(shared);
                thread::sleep(GLANCE);
            }
        };
        thread::Builder::new().name("watch".into()).spawn(watch)?;
        Ok(local)
    }

    /// What it serves by now.
    pub fn policy(&self) -> Policy {
        Policy::clone(&locked(&self.0.policy))
    }

    /// Serves by another policy from now on. Sessions to which it grants less end at their next safe
    /// point.
    pub fn reload(&self, policy: Policy) {
        let policy = Arc::new(policy);
        let old = std::mem::replace(&mut *locked(&self.0.policy), policy.clone());
        for session in locked(&self.0.door).sessions.values_mut() {
            session.reload(&old, &policy, now());
        }
    }

    /// Writes down something about the daemon itself.
    pub fn note(&self, what: &str) {
        self.0.note(what, vec![("daemon", self.0.name.clone().into())]);
    }

    /// Takes nobody in any more, and waits a while for the sessions to end; then ends them.
    pub fn stop(&self, patience: Duration) {
        self.0.stops.store(true, Ordering::Relaxed);
        self.wait_until_empty(patience);
        for session in locked(&self.0.door).sessions.values_mut() {
            session.end(ErrorCode::Busy, "the daemon is being stopped");
        }
        self.wait_until_empty(patience);
        locked(&self.0.door).sessions.values().for_each(Session::cut);
    }

    fn wait_until_empty(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !locked(&self.0.door).sessions.is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked left nothing half done here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(i64::MAX, |since| since.as_secs() as i64)
}

/// Why a connection came to nothing before there was a session.
#[derive(Debug, Error)]
enum Unwelcome {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    NotAdmitted(#[from] crate::identity::NotAdmitted),
    #[error("{why}")]
    Full { peer: Box<Admitted>, key: PublicKey, why: &'static str },
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// A connection is counted for as long as somebody attends to it, however that ends.
struct Counted<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        loop {
            let (stream, address) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: some will be free soon.
                    error!(why = %error, "cannot-accept");
                    thread::sleep(BREATH);
                    continue;
                }
            };
            if self.stops.load(Ordering::Relaxed) {
                return;
            }
            let caller = Caller { number: self.next.fetch_add(1, Ordering::Relaxed), address };
            if self.let_wait(caller, &stream).is_err() {
                continue;
            }
            let shared = self.clone();
            let work = move || shared.attend(caller, stream);
            if thread::Builder::new().name("peer".into()).spawn(work).is_err() {
                self.forget(caller.number);
            }
        }
    }

    /// Takes a connection in among those that have yet to say who they are.
    fn let_wait(&self, caller: Caller, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let from: IpAddr = caller.address.ip();
        let door = &mut *locked(&self.door);
        let limits = self.limits();
        for number in door.gate.enter(caller.number, from, &limits) {
            if let Some(stream) = door.strangers.remove(&number) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        door.strangers.insert(caller.number, stream);
        Ok(())
    }

    fn limits(&self) -> Limits {
        locked(&self.policy).modules.limits
    }

    fn forget(&self, number: u64) {
        let mut door = locked(&self.door);
        door.gate.leave(number);
        door.strangers.remove(&number);
        door.sessions.remove(&number);
    }

    fn attend(&self, caller: Caller, stream: TcpStream) {
        let started = Instant::now();
        let id = format!("{}-{}", self.name, caller.number);
        let span = info_span!("session", session = %id, address = %caller.address, peer = Empty, module = Empty);
        let _inside = span.enter();
        debug!("connected");
        let counted = Counted { shared: self, number: caller.number };
        let visitor = Visitor::new(&id, &caller.address);
        let (secured, peer) = match self.get_to_know(caller, stream) {
            Ok(known) => known,
            Err(error) => {
                drop(counted);
                let Unwelcome::Full { peer, key, .. } = &error else {
                    return self.turn_away(visitor, &error);
                };
                span.record("peer", &peer.name);
                return self.turn_away(visitor.known(peer, key), &error);
            }
        };
        span.record("peer", &peer.name);
        let visitor = visitor.known(&peer, &secured.peer());
        self.note("accepted", visitor.facts());
        let (served, result) = self.serve(caller, secured, &peer, &visitor);
        drop(counted);
        if let Some(module) = &served.module {
            span.record("module", module);
        }
        let why = result.err().unwrap_or_default();
        let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let (sent, received) = served.bytes;
        match (why.is_empty(), &served.module) {
            (true, _) => info!(sent, received, seconds, "served"),
            (false, Some(_)) => warn!(sent, received, seconds, why, "failed"),
            (false, None) => warn!(seconds, why, "refused"),
        }
        let mut facts = visitor.facts();
        facts.extend(served.module.map(|module| ("module", text(module))));
        facts.extend([("sent", sent.into()), ("received", received.into())]);
        facts.push(("seconds", seconds.into()));
        facts.extend((!why.is_empty()).then(|| ("why", text(why))));
        self.note("ended", facts);
    }

    /// Somebody who is not let in, or for whom there is no room: who can come often.
    fn turn_away(&self, visitor: Visitor, error: &Unwelcome) {
        let Some(left_out) = locked(&self.throttle).admit(Instant::now()) else { return };
        let mut facts = visitor.facts();
        let (key, why) = match error {
            Unwelcome::Tls(TlsError::Unwanted(key)) => {
                let refused = locked(&self.policy).authorized.admit(key, now()).err();
                (key.to_string(), refused.map_or(error.to_string(), |why| why.to_string()))
            }
            error => (String::new(), error.to_string()),
        };
        let left_out = (left_out > 0).then_some(left_out);
        warn!(key, why, left_out, "refused");
        facts.extend((!key.is_empty()).then(|| ("key", text(key))));
        facts.push(("why", text(why)));
        facts.extend(left_out.map(|count| ("left_out", count.into())));
        self.note("refused", facts);
    }

    /// Writes something down; that this fails is in the log.
    fn note(&self, what: &str, facts: Vec<(&'static str, Value)>) {
        if let Err(error) = self.audit.note(what, &facts) {
            error!(why = %error, "audit-failed");
        }
    }

    fn get_to_know(
        &self,
        caller: Caller,
        stream: TcpStream,
    ) -> Result<(Secured, Admitted), Unwelcome> {
        let policy = locked(&self.policy).clone();
        let judge = move |key: &PublicKey| policy.authorized.admit(key, now()).is_ok();
        let other = stream.try_clone()?;
        let secured = Secured::accept(stream, &self.key, Arc::new(judge), self.limits().handshake)?;
        // The policy may be another one by now. From here on a reload finds the session.
        let key = secured.peer();
        let mut door = locked(&self.door);
        let peer = locked(&self.policy).authorized.admit(&key, now())?.clone();
        if let Some(why) = self.crowded(&door, &key) {
            drop(door);
            self.tell_to_leave(secured, why);
            return Err(Unwelcome::Full { peer: Box::new(peer), key, why });
        }
        door.gate.leave(caller.number);
        door.strangers.remove(&caller.number);
        door.sessions.insert(caller.number, Session::new(key, peer.clone(), other));
        Ok((secured, peer))
    }

    /// Why there is no room for another session of this peer. Who is over its own limit is told
    /// that first: it has no part in the common one then.
    fn crowded(&self, door: &Door, key: &PublicKey) -> Option<&'static str> {
        if self.stops.load(Ordering::Relaxed) {
            return Some("the daemon is being stopped");
        }
        let limits = self.limits();
        let of_peer = door.sessions.values().filter(|session| session.key == *key).count();
        if of_peer >= limits.sessions_of_peer {
            return Some("this peer has as many sessions as it may have at a time");
        }
        (door.sessions.len() >= limits.sessions)
            .then_some("the daemon has as many sessions as it takes on; try again later")
    }

    /// Tells a peer for whom there is no room why, in answer to what it asks for. Meanwhile it stands
    /// at the gate: so it counts for no session, and who comes again and again pushes out itself.
    fn tell_to_leave(&self, secured: Secured, why: &str) {
        let limits = self.limits();
        let Ok((pump, input, output)) = secured.pump_within(limits.idle) else { return };
        // Who is gone, or asks for nothing, has not been told.
        let _ = turn_away((input, output), limits.handshake, (ErrorCode::Busy, why));
        let _ = pump.finish(LINGER);
    }

    fn serve(
        &self,
        caller: Caller,
        secured: Secured,
        peer: &Admitted,
        visitor: &Visitor,
    ) -> (Served, Result<(), String>) {
        let exporter = secured.exporter();
        let (pump, input, output) = match secured.pump_within(self.limits().idle) {
            Ok(pumped) => pumped,
            Err(error) => return (Served::default(), Err(Unwelcome::Io(error).to_string())),
        };
        // The line stays open until what was agreed is remembered: who comes again waits for that, and
        // does not find the root busy.
        let held = output.try_clone();
        let halt = Halt::new(&input).ok();
        if let Some(session) = locked(&self.door).sessions.get_mut(&caller.number) {
            halt.iter().for_each(|halt| session.obeys(halt.clone()));
        }
        let policy = locked(&self.policy).clone();
        let permit = |module: &str| peer.permit(module);
        let visit = |module: &str, permit: &Permit| {
            let mut door = locked(&self.door);
            let session = door.sessions.get_mut(&caller.number);
            session.into_iter().for_each(|session| session.enters(module));
            drop(door);
            let (clerk, facts) = visitor.authorised(&self.audit, module, permit);
            self.audit.note("authorised", &facts)?;
            Ok(Some(Arc::new(clerk) as Arc<dyn Witness>))
        };
        let line = Wire { input, output, exporter };
        let (served, result) = serve(&policy.modules, &permit, &visit, line, halt, &self.habits);
        drop(held);
        let mut door = locked(&self.door);
        door.sessions.get_mut(&caller.number).into_iter().for_each(Session::has_ended);
        drop(door);
        let result = result.map_err(|error: ServiceError| error.to_string());
        match (result, pump.finish(LINGER)) {
            (Ok(()), _) => (served, Ok(())),
            (Err(error), Ok(())) => (served, Err(error)),
            (Err(error), Err(line)) => (served, Err(format!("{error} ({line})"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
