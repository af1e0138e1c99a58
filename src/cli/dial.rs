//! Calling a daemon over TCP: is it the one that it was, and may this machine in?

use std::fmt;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;
use super::id::{config_dir, machine_key};
use super::subject::Failure;
use crate::daemon::PORT;
use crate::identity::{KNOWN_FILE, KnownPeers, MachineKey, PublicKey, Recognised, write_place};
use crate::transport::{Secured, TlsError};

/// How long a daemon may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(super) fn parse(text: &str) -> Result<Place, String> {
        Place::parse_at(text, PORT)
    }

    /// The same, with another usual port.
    pub(super) fn parse_at(text: &str, usual: u16) -> Result<Place, String> {
        let wrong = || format!("'{}' is not host or host:port", text.escape_debug());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (
                    host,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':').ok_or_else(wrong)?)
                    },
                )
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(wrong());
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => usual,
        };
        Ok(Place { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if self.port == PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A connection to the daemon that is known to be there.
pub(super) fn dial(place: &Place) -> Result<Secured, Failure> {
    let dir = config_dir()?;
    let key = machine_key(&dir)?;
    let file = dir.join(KNOWN_FILE);
    match shake_hands(place, &key, &known_peers(&file)?) {
        // Nobody has been there: a person looks at the key, and then it is another connection, as a
        // daemon does not wait for people.
        Err(Refusal::Unknown(theirs)) => {
            ask(place, &theirs, &file)?;
            shake_hands(place, &key, &known_peers(&file)?).map_err(|error| error.told(place, &file))
        }
        other => other.map_err(|error| error.told(place, &file)),
    }
}

/// Why there is no connection.
enum Refusal {
    Unknown(PublicKey),
    Changed(PublicKey, String),
    Tls(TlsError),
    Unreachable(io::Error),
}

/// What is known of machines and their keys.
pub(super) fn known_peers(file: &Path) -> Result<KnownPeers, Failure> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(Failure::new(Exit::Identity, format!("{}: {error}", file.display())));
        }
    };
    KnownPeers::parse(&text, file).map_err(|error| Failure::new(Exit::Identity, error.to_string()))
}

fn shake_hands(place: &Place, key: &MachineKey, known: &KnownPeers) -> Result<Secured, Refusal> {
    let stream = connect(place).map_err(Refusal::Unreachable)?;
    let (name, judged) = (place.to_string(), known.clone());
    let judge = move |theirs: &PublicKey| judged.recognise(&name, theirs) == Recognised::Yes;
    match Secured::connect(stream, key, Arc::new(judge), PATIENCE) {
        Ok(secured) => Ok(secured),
        Err(TlsError::Unwanted(theirs)) => {
            Err(match known.recognise(&place.to_string(), &theirs) {
                Recognised::Changed { at: (file, line), .. } => {
                    Refusal::Changed(theirs, format!("{}, line {line}", file.display()))
                }
                Recognised::Unknown | Recognised::Yes => Refusal::Unknown(theirs),
            })
        }
        Err(error) => Err(Refusal::Tls(error)),
    }
}

/// A connection to where somebody may listen.
pub(super) fn connect(place: &Place) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in (place.host.as_str(), place.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Shows a key that answers at a place where nobody has been, and writes it down if a person says
/// yes. Nobody is asked where nobody sits.
fn ask(place: &Place, key: &PublicKey, file: &Path) -> Result<(), Failure> {
    let fingerprint = key.fingerprint();
    let not_known = |advice: &str| {
        let text = format!(
            "{place} is not known yet, and its key has to be seen by a person first\n  words:  {fingerprint}\n  \
             digits: {fingerprint:x}\n{advice}"
        );
        Failure::new(Exit::Identity, text)
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let advice = format!(
            "If 'psync id' on that machine prints the same, say so here:\n  echo '{place} {key}' >> {}",
            file.display()
        );
        return Err(not_known(&advice));
    }
    let mut terminal = io::stderr();
    let _ = write!(
        terminal,
        "{place} is not known yet. Its key, as 'psync id' prints it there:\n  words:  {fingerprint}\n  \
         digits: {fingerprint:x}\nIs this the machine that you mean? (yes/no) "
    );
    let _ = terminal.flush();
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    if !answer.trim().eq_ignore_ascii_case("yes") {
        return Err(not_known("Nothing was changed"));
    }
    let written = write_place(file, &place.to_string(), key);
    written.map(|_| ()).map_err(|error| Failure::new(Exit::Identity, error.to_string()))
}

/// What a person should do whose machine a daemon does not let in.
pub(super) fn not_let_in(place: &Place) -> Result<Failure, Failure> {
    let key = machine_key(&config_dir()?)?.public();
    let text = format!(
        "{place} does not let this machine in (or no longer). Whoever runs it can add this line to \
         authorized_peers there:\n  {key} NAME MODULE=read,write,delete\nor both run 'psync pair'; see psync-pair(1)"
    );
    Ok(Failure::new(Exit::Identity, text))
}

impl Refusal {
    fn told(self, place: &Place, file: &Path) -> Failure {
        match self {
            Refusal::Unknown(theirs) => {
                let text = format!("{place}: the key that answers now is another one: {theirs}");
                Failure::new(Exit::Identity, text)
            }
            Refusal::Changed(theirs, at) => {
                let fingerprint = theirs.fingerprint();
                let text = format!(
                    "{place} answers with ANOTHER KEY than the one in {at}: somebody may be in between, or \
                     it was set up anew\n  words:  {fingerprint}\n  digits: {fingerprint:x}\nIf 'psync id' \
                     there prints the same now, take that line out of {} and run again",
                    file.display()
                );
                Failure::new(Exit::Identity, text)
            }
            Refusal::Tls(TlsError::Refused) => not_let_in(place).unwrap_or_else(|failure| failure),
            Refusal::Tls(
                error @ (TlsError::TooSlow(_) | TlsError::Silent(_) | TlsError::Stalled(_)),
            ) => Failure::new(Exit::Timeout, format!("{place}: {error}")),
            Refusal::Tls(error @ TlsError::Io(_)) => {
                Failure::new(Exit::Connection, format!("{place}: {error}"))
            }
            Refusal::Tls(error) => {
                let text =
                    format!("{place}: {error}; is psync --daemon what listens at this port?");
                Failure::new(Exit::Incompatible, text)
            }
            Refusal::Unreachable(error) => {
                let text = format!("cannot connect to {place} (port {}): {error}", place.port);
                Failure::new(Exit::Connection, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_and_perhaps_a_port() {
        let shown = |text| Place::parse(text).map(|place| (place.to_string(), place.port));
        assert_eq!(shown("Host"), Ok(("host".into(), PORT)));
        assert_eq!(shown("host:99"), Ok(("host:99".into(), 99)));
        assert_eq!(shown("host:8730"), Ok(("host".into(), PORT)));
        assert_eq!(shown("[::1]"), Ok(("[::1]".into(), PORT)));
        assert_eq!(shown("[::1]:99"), Ok(("[::1]:99".into(), 99)));
        for text in ["", ":99", "host:", "host:x", "host:70000", "[::1", "[::1]x", "a b", "-x"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }
}
