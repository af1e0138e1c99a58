//! Sessions at work, and why one has to end before its time: its peer may come in no longer or do
//! less, its module is another one, or its time is over.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use psync_protocol::ErrorCode;

use super::{Module, Policy};
use crate::identity::{Admitted, PublicKey};
use crate::transport::Halt;

/// How long a session that has to end may take to come to a safe point and to say why it ends. Then its
/// connection is cut.
const GRACE: Duration = Duration::from_secs(5);

/// A session, seen from the door.
#[derive(Debug)]
pub(super) struct Session {
    /// Whose it is.
    pub(super) key: PublicKey,
    /// What the peer was granted when it began.
    peer: Admitted,
    /// From when on the peer may not be here any more.
    until: Option<i64>,
    /// The module, once it is known.
    module: Option<String>,
    stream: TcpStream,
    halt: Option<Halt>,
    ending: Option<Ending>,
}

/// A session that has to end.
#[derive(Debug)]
struct Ending {
    code: ErrorCode,
    why: &'static str,
    since: Instant,
}

impl Session {
    pub(super) fn new(key: PublicKey, peer: Admitted, stream: TcpStream) -> Session {
        let until = peer.until();
        Session { key, peer, until, module: None, stream, halt: None, ending: None }
    }

    /// From now on it can be asked to end.
    pub(super) fn obeys(&mut self, halt: Halt) {
        if let Some(ending) = &self.ending {
            halt.halt(ending.code, ending.why);
        }
        self.halt = Some(halt);
    }

    /// It has ended by itself. What could have ended it keeps the line open.
    pub(super) fn has_ended(&mut self) {
        self.halt = None;
    }

    /// The peer wants this module.
    pub(super) fn enters(&mut self, module: &str) {
        self.module = Some(module.to_string());
    }

    /// Ends it at its next safe point, and tells the peer why.
    pub(super) fn end(&mut self, code: ErrorCode, why: &'static str) {
        if self.ending.is_some() {
            return;
        }
        if let Some(halt) = &self.halt {
            halt.halt(code, why);
        }
        self.ending = Some(Ending { code, why, since: Instant::now() });
    }

    /// Cuts the connection.
    pub(super) fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends it if its time is over, and cuts it where it does not end by itself. `now` in seconds
    /// since 1970.
    pub(super) fn look(&mut self, now: i64) {
        if self.until.is_some_and(|until| now >= until) {
            self.end(ErrorCode::Refused, "the time for which this machine was let in is over");
        }
        if self.ending.as_ref().is_some_and(|ending| ending.since.elapsed() > GRACE) {
            self.cut();
        }
    }

    /// Goes on under another policy, or ends where that grants less.
    pub(super) fn reload(&mut self, old: &Policy, new: &Policy, now: i64) {
        let Ok(peer) = new.authorized.admit(&self.key, now) else {
            return self.end(ErrorCode::Refused, "this machine is let in no longer");
        };
        let module = self.module.as_deref();
        if !self.peer.is_covered_by(peer, module) {
            self.end(ErrorCode::Refused, "what this machine may do here has been cut down");
        } else if !module_stays(old, new, module) {
            self.end(ErrorCode::Refused, "the module is another one now");
        }
        self.until = peer.until();
    }
}

/// Whether a module, or each where none is known, can still be used as it was.
fn module_stays(old: &Policy, new: &Policy, module: Option<&str>) -> bool {
    let stays = |name: &str, before: &Module| {
        new.modules.modules.get(name).is_some_and(|after| {
            let is_open = before.read_only || !after.read_only;
            is_open && after.path == before.path && after.filters == before.filters
        })
    };
    let modules = old.modules.modules.iter();
    let mut meant = modules.filter(|(name, _)| module.is_none_or(|module| module == *name));
    meant.all(|(name, before)| stays(name, before))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;
    use crate::daemon::Modules;
    use crate::identity::AuthorizedPeers;

    const MODULES: &str = "[module.a]\npath = '/a'\n[module.b]\npath = '/b'\n";

    fn key() -> PublicKey {
        PublicKey::new([1; 32])
    }

    fn policy(grants: &str, modules: &str) -> Policy {
        let text = format!("{} ana {grants}\n", key());
        let text = if grants == "nobody" { "" } else { &text };
        Policy {
            modules: Modules::parse(modules, Path::new("psyncd.toml")).unwrap(),
            authorized: AuthorizedPeers::parse(text, Path::new("authorized_peers")).unwrap(),
        }
    }

    fn session(policy: &Policy, module: Option<&str>) -> Session {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = policy.authorized.admit(&key(), 0).unwrap().clone();
        let mut session = Session::new(key(), peer, stream);
        module.into_iter().for_each(|module| session.enters(module));
        session
    }

    /// Whether a session in a module ends when these grants and modules take the place of others.
    fn ends(module: Option<&str>, before: &str, after: &str, modules: &str) -> bool {
        let (old, new) = (policy(before, MODULES), policy(after, modules));
        let mut session = session(&old, module);
        session.reload(&old, &new, 0);
        session.ending.is_some()
    }

    #[test]
    fn a_session_ends_when_less_is_granted_in_its_module_and_goes_on_otherwise() {
        for (module, before, after, expected) in [
            (Some("a"), "a=all", "a=all", false),
            (Some("a"), "a=all", "nobody", true),
            (Some("a"), "a=all", "", true),
            (Some("a"), "a=all", "a=read", true),
            (Some("a"), "a=all", "a=all a/x=none", true),
            (Some("a"), "a=read", "a=all b=read", false),
            (Some("a"), "a=read b=all", "a=read", false),
            (None, "a=read b=all", "a=read", true),
            (Some("a"), "a=read", "until=1960-01-01 a=read", true),
        ] {
            assert_eq!(ends(module, before, after, MODULES), expected, "{before} -> {after}");
        }
    }

    #[test]
    fn a_session_ends_when_its_module_becomes_another_one() {
        for (modules, expected) in [
            ("[module.a]\npath = '/a'\n", false),
            ("[module.a]\npath = '/a'\ncomment = 'x'\n[module.b]\npath = '/c'\n", false),
            ("[module.a]\npath = '/c'\n", true),
            ("[module.a]\npath = '/a'\nread-only = true\n", true),
            ("[module.a]\npath = '/a'\nexclude = ['*.tmp']\n", true),
            ("[module.b]\npath = '/b'\n", true),
        ] {
            assert_eq!(
                ends(Some("a"), "a=all b=all", "a=all b=all", modules),
                expected,
                "{modules}"
            );
        }
    }

    #[test]
    fn a_session_ends_when_its_time_is_over_which_a_reload_may_put_off() {
        let old = policy("until=1970-01-01T00:00:10Z a=all", MODULES);
        let mut session = session(&old, Some("a"));
        session.look(9);
        assert!(session.ending.is_none());
        session.reload(&old, &policy("until=1970-01-01T00:00:20Z a=all", MODULES), 9);
        session.look(19);
        assert!(session.ending.is_none());
        session.look(20);
        assert!(session.ending.is_some());
    }
}
