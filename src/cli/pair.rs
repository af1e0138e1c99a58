//! `psync pair`: makes two machines known to each other while two people compare a code.

mod person;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use psync_protocol::path::printable;

use super::command::Subcommand;
use super::daemon::{policy, tell_to_reload};
use super::dial::{Place, connect, known_peers};
use super::exit::Exit;
use super::id::{config_dir, machine_key};
use super::run::print_out;
use super::subject::Failure;
use crate::daemon::{Meeting, Modules, PAIRING_PORT, PORT, PairingError, Side, await_call};
use crate::identity::pairing::{Introduction, is_peer_name, peer_name};
use crate::identity::{
    AUTHORIZED_FILE, BookError, KNOWN_FILE, MachineKey, PublicKey, Terms, Written, check_peer,
    check_place, write_peer, write_place,
};
use crate::transport::TlsError;
use person::Silence;

/// How long people may take, in seconds, unless they say otherwise.
const PATIENCE: u64 = 300;
/// How much longer this side waits for the other one's people than for its own: their clocks did
/// not start at the same moment.
const GRACE: Duration = Duration::from_secs(10);

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "pair",
    about: "Make two machines known to each other, comparing a short code",
    arguments,
    run: pair,
};

fn arguments(command: Command) -> Command {
    let value =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    command
        .arg(
            Arg::new("host")
                .value_name("HOST[:PORT]")
                .help("Where 'psync pair --listen' waits [default port: 8731]"),
        )
        .arg(
            value("listen", "ADDRESS[:PORT]")
                .num_args(0..=1)
                .default_missing_value("")
                .help("Wait for the other machine's call [default: every address, port 8731]"),
        )
        .arg(value("name", "NAME").help("What the other machine is called here"))
        .arg(
            value("grant", "MODULE[/PATH]=RIGHTS")
                .action(ArgAction::Append)
                .help("What it may do here: list, read, write, delete, all [default: nothing]"),
        )
        .arg(value("until", "DATE").help("When it may no longer"))
        .arg(value("place", "HOST[:PORT]").help("Where its daemon is to be called"))
        .arg(
            value("fingerprint", "WORDS")
                .help("What 'psync id' prints on the other machine: compared instead of the code"),
        )
        .arg(
            value("timeout", "SECONDS")
                .value_parser(value_parser!(u64).range(1..=86_400))
                .help("How long people may take [default: 300]"),
        )
        .group(ArgGroup::new("end").args(["host", "listen"]).required(true))
}

/// Which end this is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Call(Place),
    Listen(Option<Place>),
}

/// What was typed.
#[derive(Debug, Clone)]
struct Typed {
    end: End,
    name: Option<String>,
    grants: Vec<String>,
    until: Option<String>,
    place: Option<Place>,
    fingerprint: Option<String>,
    patience: Duration,
}

/// What this machine has to know of itself before anybody is called.
struct Home {
    dir: PathBuf,
    key: MachineKey,
    known: PathBuf,
    authorized: PathBuf,
    modules: Modules,
}

fn pair(matches: &ArgMatches) -> Exit {
    match Typed::of(matches).and_then(|typed| try_pair(&typed)) {
        Ok(text) => {
            print_out(&text);
            Exit::Ok
        }
        Err(failure) => failure.told(false),
    }
}

impl Typed {
    fn of(matches: &ArgMatches) -> Result<Typed, Failure> {
        let usage = |text: String| Failure::new(Exit::Usage, text);
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let grants = matches.get_many::<String>("grant").into_iter().flatten();
        let grants = grants.flat_map(|grant| grant.split_whitespace()).map(String::from).collect();
        let place = text("place").map(|place| Place::parse(&place)).transpose().map_err(usage)?;
        let waiting = |text: &str| Place::parse_at(text, PAIRING_PORT).map_err(usage);
        let end = match (text("host"), text("listen").as_deref()) {
            (Some(host), _) => End::Call(waiting(&host)?),
            (None, Some("") | None) => End::Listen(None),
            (None, Some(address)) => End::Listen(Some(waiting(address)?)),
        };
        let seconds = matches.get_one::<u64>("timeout").copied().unwrap_or(PATIENCE);
        let typed = Typed {
            end,
            name: text("name"),
            grants,
            until: text("until"),
            place,
            fingerprint: text("fingerprint"),
            patience: Duration::from_secs(seconds),
        };
        typed.checked().map_err(usage)
    }

    /// What makes no sense is said before anybody has to answer anything.
    fn checked(self) -> Result<Typed, String> {
        if let Some(name) = self.name.as_ref().filter(|name| !is_peer_name(name)) {
            return Err(wrong_name(name));
        }
        let terms = self.terms(self.name.as_deref().unwrap_or("peer"), &self.grants);
        terms.line(&PublicKey::new([0; 32])).map_err(|error| error.to_string())?;
        if let Some(text) = self.fingerprint.as_ref().filter(|text| !is_fingerprint(text)) {
            return Err(format!(
                "--fingerprint: '{}' is not what 'psync id' prints: eight words, 32 digits or a key",
                text.escape_debug()
            ));
        }
        Ok(self)
    }

    fn terms(&self, name: &str, grants: &[String]) -> Terms {
        Terms { name: name.to_string(), until: self.until.clone(), grants: grants.to_vec() }
    }
}

fn wrong_name(name: &str) -> String {
    format!("'{}' is no name: up to 64 letters, digits, '.', '_' and '-'", name.escape_debug())
}

fn is_fingerprint(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    let is_word = |word: &&str| word.len() == 5 && word.chars().all(|c| c.is_ascii_lowercase());
    let is_digits = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
    is_digits || words.len() == 8 && words.iter().all(is_word) || text.parse::<PublicKey>().is_ok()
}

fn has_fingerprint(key: &PublicKey, text: &str) -> bool {
    let fingerprint = key.fingerprint();
    text.parse() == Ok(*key)
        || text == fingerprint.to_string()
        || text.eq_ignore_ascii_case(&format!("{fingerprint:x}"))
}

impl Home {
    fn open() -> Result<Home, Failure> {
        let dir = config_dir()?;
        let known = dir.join(KNOWN_FILE);
        // Files that cannot be used are found out now, not when two people have compared a code.
        known_peers(&known)?;
        let modules = policy(&dir)?.modules;
        let key = machine_key(&dir)?;
        Ok(Home { key, known, authorized: dir.join(AUTHORIZED_FILE), modules, dir })
    }

    fn introduction(&self) -> Introduction {
        let system = rustix::system::uname();
        let configured = self.modules.listen.first().and_then(|address| Place::parse(address).ok());
        Introduction {
            name: peer_name(&system.nodename().to_string_lossy()),
            port: configured.map_or(PORT, |place| place.port),
        }
    }
}

fn try_pair(typed: &Typed) -> Result<String, Failure> {
    let home = Home::open()?;
    if typed.fingerprint.is_none() && !person::is_there() {
        return Err(nobody_to_ask(typed));
    }
    let mut meeting = meet(typed, &home.key)?;
    let until = Instant::now() + typed.patience;
    match agree(typed, &home, &mut meeting, until) {
        Ok(agreed) => {
            if typed.fingerprint.is_none() {
                person::tell("Waiting until everything is answered on the other side ...\n");
            }
            conclude(&home, meeting, &agreed, until)
        }
        Err(failure) => {
            meeting.refuse();
            Err(failure)
        }
    }
}

fn nobody_to_ask(typed: &Typed) -> Failure {
    let end = match &typed.end {
        End::Call(place) => place.host.clone(),
        End::Listen(_) => "--listen".to_string(),
    };
    let text = format!(
        "to pair, a person compares a code, and nobody sits here. Run this at a terminal:\n  psync pair {end}\n\
         In a script, give what 'psync id' prints on the other machine instead:\n  psync pair {end} --fingerprint WORDS"
    );
    Failure::new(Exit::Identity, text)
}

/// The connection, as far as the code.
fn meet(typed: &Typed, key: &MachineKey) -> Result<Meeting, Failure> {
    match &typed.end {
        End::Call(place) => {
            let stream = connect(place).map_err(|error| {
                let text = format!(
                    "cannot connect to {} (port {}): {error}; on that machine has to run: psync pair --listen",
                    place.host, place.port
                );
                Failure::new(Exit::Connection, text)
            })?;
            Meeting::call(stream, key).map_err(failed)
        }
        End::Listen(place) => {
            let listener = listen(place.as_ref())?;
            await_call(&[listener], key, Instant::now() + typed.patience).map_err(failed)
        }
    }
}

fn listen(place: Option<&Place>) -> Result<TcpListener, Failure> {
    let bound = match place {
        Some(place) => TcpListener::bind((place.host.as_str(), place.port)),
        // Of both families, where the system knows the newer one.
        None => TcpListener::bind(("::", PAIRING_PORT))
            .or_else(|_| TcpListener::bind(("0.0.0.0", PAIRING_PORT))),
    };
    let listening = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = listening.map_err(|error| {
        let shown = place.map_or(format!("port {PAIRING_PORT}"), Place::to_string);
        Failure::new(Exit::Start, format!("cannot listen at {shown}: {error}"))
    })?;
    let port = match address.port() {
        PAIRING_PORT => String::new(),
        port => format!(":{port}"),
    };
    person::tell(&format!(
        "Waiting for a call at {address}. On the other machine run, with this machine's name or address:\n  \
         psync pair HOST{port}\n"
    ));
    Ok(listener)
}

/// What people have agreed on.
struct Agreed {
    /// Where the other machine's daemon is, if that is known.
    place: Option<Place>,
    /// The line about it, if it is to have one.
    terms: Option<Terms>,
}

/// Asks everything that has to be asked, and checks that it could be written.
fn agree(
    typed: &Typed,
    home: &Home,
    meeting: &mut Meeting,
    until: Instant,
) -> Result<Agreed, Failure> {
    compare(typed, meeting, until)?;
    if typed.fingerprint.is_none() {
        person::tell("Waiting until the other side says so, too ...\n");
    }
    let theirs = meeting.say_yes(&home.introduction(), until + GRACE).map_err(failed)?;
    let place = match (&typed.place, &typed.end) {
        (Some(place), _) => Some(place.clone()),
        (None, End::Call(called)) => Some(Place { host: called.host.clone(), port: theirs.port }),
        (None, End::Listen(_)) => None,
    };
    if let Some(place) = &place {
        check_place(&home.known, &place.to_string(), &meeting.peer()).map_err(unwritable)?;
    }
    let serves = !home.modules.modules.is_empty();
    let is_listed = meeting.side() == Side::Listener || serves || !typed.grants.is_empty();
    let terms = match is_listed {
        true => Some(terms(typed, home, meeting, &theirs.name, until)?),
        false => None,
    };
    Ok(Agreed { place, terms })
}

/// Is the machine at the other end the one that is meant?
fn compare(typed: &Typed, meeting: &mut Meeting, until: Instant) -> Result<(), Failure> {
    let (code, peer) = (meeting.code(), meeting.peer());
    if let Some(expected) = &typed.fingerprint {
        if has_fingerprint(&peer, expected) {
            person::tell(&format!("Its fingerprint is as expected. The code is   {code}\n"));
            return Ok(());
        }
        let text = format!(
            "not paired: the machine at the other end has ANOTHER FINGERPRINT than expected: {}; nothing was written",
            peer.fingerprint()
        );
        return Err(Failure::new(Exit::Identity, text));
    }
    person::tell(&format!("\nThe code is   {code}\n\n"));
    let mut question = "Does the other machine show the same code? (yes/no) ";
    loop {
        let answer = ask(question, meeting, until)?.to_ascii_lowercase();
        match answer.as_str() {
            "yes" => return Ok(()),
            "no" | "n" => {
                let text = "not paired: where the codes differ, somebody may be in between; nothing was written";
                return Err(Failure::new(Exit::Identity, text));
            }
            _ => question = "Please answer yes or no: ",
        }
    }
}

/// What the other machine is called here, and what it may do.
fn terms(
    typed: &Typed,
    home: &Home,
    meeting: &mut Meeting,
    proposed: &str,
    until: Instant,
) -> Result<Terms, Failure> {
    let asks = typed.fingerprint.is_none();
    let peer = meeting.peer();
    let check = |terms: &Terms| check_peer(&home.authorized, &peer, terms);
    let mut name = typed.name.clone();
    while asks && name.is_none() {
        let question = format!("What is the other machine to be called here? [{proposed}] ");
        let answer = ask(&question, meeting, until)?;
        let answer = if answer.is_empty() { proposed.to_string() } else { answer };
        match check(&Terms { name: answer.clone(), ..Terms::default() }) {
            _ if !is_peer_name(&answer) => person::tell(&format!("{}\n", wrong_name(&answer))),
            Err(error @ BookError::NameTaken { .. }) => person::tell(&format!("{error}\n")),
            Err(error) => return Err(unwritable(error)),
            Ok(()) => name = Some(answer),
        }
    }
    let name = name.unwrap_or_else(|| proposed.to_string());
    let mut terms = typed.terms(&name, &typed.grants);
    if asks && typed.grants.is_empty() {
        person::tell(&about_grants(&home.modules));
        loop {
            let answer = ask("Grants: ", meeting, until)?;
            terms.grants = answer.split_whitespace().map(String::from).collect();
            match terms.line(&peer) {
                Ok(_) => break,
                Err(error) => person::tell(&format!("{error}\n")),
            }
        }
    }
    check(&terms).map_err(unwritable)?;
    Ok(terms)
}

fn about_grants(modules: &Modules) -> String {
    let names: Vec<String> =
        modules.modules.keys().map(|name| printable(name.as_bytes()).to_string()).collect();
    let names = match names.is_empty() {
        true => "psyncd.toml names no modules yet".to_string(),
        false => format!("modules: {}", names.join(", ")),
    };
    format!(
        "What may it do here ({names})? As in photos=read music/new=read,write,delete; list and all are \
         rights, too. Just return: nothing.\n"
    )
}

fn ask(question: &str, meeting: &mut Meeting, until: Instant) -> Result<String, Failure> {
    person::ask(question, meeting, until).map_err(|silence| match silence {
        Silence::Person(why) => {
            Failure::new(Exit::Timeout, format!("not paired: {why}; nothing was written"))
        }
        Silence::Line(error) => failed(error),
    })
}

/// Writes at both ends, and says what is written here.
fn conclude(
    home: &Home,
    meeting: Meeting,
    agreed: &Agreed,
    until: Instant,
) -> Result<String, Failure> {
    let peer = meeting.peer();
    let mut kept = Vec::new();
    let write = || write_down(home, &peer, agreed);
    let take_back = |written| kept = taken_back(written);
    match meeting.conclude(until + GRACE, write, take_back) {
        Ok(()) => Ok(told(home, &peer, agreed)),
        Err(error) => {
            let failure = failed(error);
            let kept: String = kept.iter().map(|text| format!("\nbut {text}")).collect();
            Err(Failure { text: failure.text + &kept, ..failure })
        }
    }
}

fn write_down(home: &Home, peer: &PublicKey, agreed: &Agreed) -> Result<Vec<Written>, String> {
    let mut written = Vec::new();
    let place = agreed.place.iter().map(|place| write_place(&home.known, &place.to_string(), peer));
    let terms = agreed.terms.iter().map(|terms| write_peer(&home.authorized, peer, terms));
    for result in place.chain(terms) {
        match result {
            Ok(one) => written.push(one),
            Err(error) => {
                let mut text = error.to_string();
                taken_back(written).iter().for_each(|kept| text += &format!("\nbut {kept}"));
                return Err(text);
            }
        }
    }
    Ok(written)
}

/// Makes files as they were; says which could not be.
fn taken_back(written: Vec<Written>) -> Vec<String> {
    let results = written.into_iter().rev().map(Written::take_back);
    results.filter_map(|result| result.err()).map(|error| error.to_string()).collect()
}

fn told(home: &Home, peer: &PublicKey, agreed: &Agreed) -> String {
    let mut text = format!("Paired with {}\n", peer.fingerprint());
    if let Some(place) = &agreed.place {
        text += &format!("  psync://{place}/ is that machine now ({})\n", home.known.display());
    }
    if let Some(terms) = &agreed.terms {
        let grants = match terms.grants.is_empty() {
            true => "nothing is granted anew".to_string(),
            false => terms.grants.join(" "),
        };
        let file = home.authorized.display();
        text += &format!("  '{}' may come in here: {grants} ({file})\n", terms.name);
        text += &match tell_to_reload(&home.dir) {
            Some(process) => format!("  The daemon (process {process}) has been told.\n"),
            None => "  A daemon that runs already takes that up with SIGHUP.\n".to_string(),
        };
    }
    text
}

fn unwritable(error: BookError) -> Failure {
    Failure::new(Exit::Identity, format!("not paired: {error}; nothing was written"))
}

fn failed(error: PairingError) -> Failure {
    let exit = match &error {
        PairingError::Tls(TlsError::TooSlow(_) | TlsError::Silent(_)) => Exit::Timeout,
        PairingError::Tls(TlsError::Io(_)) | PairingError::Cut => Exit::Connection,
        PairingError::Tls(_) => Exit::Incompatible,
        PairingError::Same | PairingError::Refused | PairingError::Unwritten(_) => Exit::Identity,
        PairingError::Senseless(_) => Exit::Stream,
        PairingError::TooSlow | PairingError::NobodyCalled(_) => Exit::Timeout,
        PairingError::Io(_) => Exit::Connection,
    };
    let advice = match &error {
        PairingError::Tls(TlsError::Foreign(_)) => "; does psync pair --listen wait at this port?",
        _ => "",
    };
    Failure::new(exit, format!("not paired: {error}{advice}; nothing was written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Typed, String> {
        let command = arguments(Command::new("pair"));
        let matches = command.try_get_matches_from(line.split(' ')).map_err(|e| e.to_string())?;
        Typed::of(&matches).map_err(|failure| failure.text)
    }

    #[test]
    fn one_end_calls_and_the_other_listens() {
        let end = |line: &str| typed(line).unwrap().end;
        let place = |host: &str, port| Place { host: host.into(), port };
        assert_eq!(end("pair host"), End::Call(place("host", PAIRING_PORT)));
        assert_eq!(end("pair [::1]:99"), End::Call(place("::1", 99)));
        assert_eq!(end("pair --listen"), End::Listen(None));
        assert_eq!(end("pair --listen 127.0.0.1:0"), End::Listen(Some(place("127.0.0.1", 0))));
        assert!(typed("pair host --listen").is_err() && typed("pair").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_said_at_once() {
        for wrong in [
            "--grant photos",
            "--grant photos=raed",
            "--name a=b",
            "--name #a",
            "--until tomorrow",
            "--fingerprint 1234",
            "--timeout 0",
            "--place :99",
        ] {
            assert!(typed(&format!("pair host {wrong}")).is_err(), "{wrong}");
        }
        let good = typed("pair host --grant a=read --grant b=all --until 2030-01-01").unwrap();
        assert_eq!(good.grants, ["a=read", "b=all"]);
    }

    #[test]
    fn a_fingerprint_is_known_in_each_of_its_forms() {
        let (key, other) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        let fingerprint = key.fingerprint();
        for text in [key.to_string(), fingerprint.to_string(), format!("{fingerprint:x}")] {
            assert!(is_fingerprint(&text) && has_fingerprint(&key, &text), "{text}");
            assert!(!has_fingerprint(&other, &text), "{text}");
        }
    }
}
