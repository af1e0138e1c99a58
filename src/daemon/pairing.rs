//! Two machines get to know each other: one listens for a few minutes, the other one calls, and both
//! stay on the line while people compare a code. What is said is [`crate::identity::pairing`]'s business.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::identity::pairing::{Code, Commitment, Introduction, Nonce, Word};
use crate::identity::{MachineKey, PublicKey};
use crate::sync::random;
use crate::transport::{Judge, Pump, Secured, TlsError};

/// The port at which a machine listens while it is being paired: the daemon's own may be in use.
pub const PAIRING_PORT: u16 = 8731;

/// How long a machine may take for what needs no person.
const STEP: Duration = Duration::from_secs(10);
/// How long the other end may take to close a line that has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Calls that are looked at at a time; more wait.
const CALLS: usize = 8;
/// How often is looked whether a call has got as far as a code.
const GLANCE: Duration = Duration::from_millis(50);
/// Words that may come before somebody asks for them.
const EARLY: usize = 4;

/// Nothing came of it, and nothing is written.
#[derive(Debug, Error)]
pub enum PairingError {
    /// There is no safe connection.
    #[error(transparent)]
    Tls(TlsError),
    /// The other end has this machine's key.
    #[error(
        "it has the key of this machine: it is this machine itself, or somebody has copied the key"
    )]
    Same,
    /// The other end says something else than it promised, or that makes no sense.
    #[error("it does not keep to the rules of pairing: {0}")]
    Senseless(&'static str),
    /// The other end says no.
    #[error("the other side has said no, or could not go on")]
    Refused,
    /// The line has ended.
    #[error("the connection ended before both sides had said yes")]
    Cut,
    /// It takes too long.
    #[error("the other side did not answer in time")]
    TooSlow,
    /// Nobody has called.
    #[error("nobody called in time{}", .0.as_ref().map_or(String::new(), |last| format!("; of the last call nothing came: {last}")))]
    NobodyCalled(Option<String>),
    /// This end could not write down what it should have.
    #[error("{0}")]
    Unwritten(String),
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<TlsError> for PairingError {
    fn from(error: TlsError) -> PairingError {
        match error {
            TlsError::Unwanted(_) => PairingError::Same,
            other => PairingError::Tls(other),
        }
    }
}

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It has called.
    Caller,
    /// It was called.
    Listener,
}

/// Two machines on a line that is safe if the code is the same at both ends.
#[derive(Debug)]
pub struct Meeting {
    side: Side,
    peer: PublicKey,
    code: Code,
    line: Talk,
}

/// The line, and words that have come early.
#[derive(Debug)]
struct Talk {
    pump: Pump,
    input: File,
    output: File,
    early: VecDeque<Word>,
}

impl Meeting {
    /// As the end that has connected.
    pub fn call(stream: TcpStream, key: &MachineKey) -> Result<Meeting, PairingError> {
        let secured = Secured::connect_to_pair(stream, key, anybody_else(key), STEP)?;
        let (peer, mut line) = Talk::over(secured)?;
        let own = new_nonce();
        line.say(&Word::Commit(Commitment::of(&key.public(), &own)))?;
        let Word::Nonce(theirs) = line.hear(Instant::now() + STEP)? else {
            return Err(PairingError::Senseless("it has no nonce"));
        };
        line.say(&Word::Reveal(own))?;
        let code = Code::of((&key.public(), &own), (&peer, &theirs));
        Ok(Meeting { side: Side::Caller, peer, code, line })
    }

    /// As the end that was connected to.
    pub fn answer(stream: TcpStream, key: &MachineKey) -> Result<Meeting, PairingError> {
        let secured = Secured::accept_to_pair(stream, key, anybody_else(key), STEP)?;
        let (peer, mut line) = Talk::over(secured)?;
        let Word::Commit(commitment) = line.hear(Instant::now() + STEP)? else {
            return Err(PairingError::Senseless("it commits itself to nothing"));
        };
        let own = new_nonce();
        line.say(&Word::Nonce(own))?;
        let Word::Reveal(theirs) = line.hear(Instant::now() + STEP)? else {
            return Err(PairingError::Senseless("it does not show its nonce"));
        };
        if Commitment::of(&peer, &theirs) != commitment {
            return Err(PairingError::Senseless("its nonce is not the one that it promised"));
        }
        let code = Code::of((&peer, &theirs), (&key.public(), &own));
        Ok(Meeting { side: Side::Listener, peer, code, line })
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Who is at the other end: it has that key, but is it the machine that was meant?
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// What people have to compare.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What becomes readable when the other end says something or is gone; then comes
    /// [`Meeting::overhear`].
    pub fn line(&self) -> BorrowedFd<'_> {
        self.line.input.as_fd()
    }

    /// Takes what the other end has said while a person here was asked.
    pub fn overhear(&mut self) -> Result<(), PairingError> {
        let word = self.line.read_word(Instant::now() + STEP)?;
        if self.line.early.len() >= EARLY {
            return Err(PairingError::Senseless("it says too much"));
        }
        self.line.early.push_back(word);
        Ok(())
    }

    /// Says that the code is the same here, and waits until the other end says so, too.
    pub fn say_yes(
        &mut self,
        own: &Introduction,
        until: Instant,
    ) -> Result<Introduction, PairingError> {
        self.line.say(&Word::Yes(own.clone()))?;
        match self.line.hear(until)? {
            Word::Yes(theirs) => Ok(theirs),
            _ => Err(PairingError::Senseless("it does not say yes")),
        }
    }

    /// Lets both ends write down who the other one is. Where the other one does not say that it has,
    /// what this end has written is taken back. The calling end writes first.
    ///
    /// If the connection breaks just while the listening end's last word is under way, that end has
    /// written and the calling one has not: no exchange of words can be without such a moment. Then
    /// the two pair again.
    pub fn conclude<T>(
        self,
        until: Instant,
        write: impl FnOnce() -> Result<T, String>,
        take_back: impl FnOnce(T),
    ) -> Result<(), PairingError> {
        let Meeting { side, mut line, .. } = self;
        let expect = |line: &mut Talk, word: Word, until| match line.hear(until)? {
            heard if heard == word => Ok(()),
            _ => Err(PairingError::Senseless("it is not its turn to say that")),
        };
        match side {
            Side::Caller => expect(&mut line, Word::Ready, until)?,
            Side::Listener => {
                line.say(&Word::Ready)?;
                expect(&mut line, Word::Written, until)?;
            }
        }
        let written = match write() {
            Ok(written) => written,
            Err(text) => {
                line.end_with(&Word::No);
                return Err(PairingError::Unwritten(text));
            }
        };
        let concluded = line.say(&Word::Written).and_then(|()| match side {
            Side::Caller => expect(&mut line, Word::Written, Instant::now() + STEP),
            Side::Listener => Ok(()),
        });
        match concluded {
            Ok(()) => {
                line.close();
                Ok(())
            }
            Err(error) => {
                take_back(written);
                Err(error)
            }
        }
    }

    /// Tells the other end that nothing comes of it.
    pub fn refuse(mut self) {
        self.line.end_with(&Word::No);
    }
}

impl Talk {
    fn over(secured: Secured) -> Result<(PublicKey, Talk), PairingError> {
        let peer = secured.peer();
        let (pump, input, output) = secured.pump()?;
        let (input, output) = (File::from(input), File::from(output));
        Ok((peer, Talk { pump, input, output, early: VecDeque::new() }))
    }

    fn say(&mut self, word: &Word) -> Result<(), PairingError> {
        self.output.write_all(&word.encode()).map_err(|_| PairingError::Cut)
    }

    /// The next word. It has to begin by then, and may take the time of a step from there.
    fn hear(&mut self, until: Instant) -> Result<Word, PairingError> {
        match self.early.pop_front() {
            Some(word) => Ok(word),
            None => self.read_word(until),
        }
    }

    fn read_word(&mut self, until: Instant) -> Result<Word, PairingError> {
        let mut start = [0; 2];
        self.read_exactly(&mut start[..1], until)?;
        let until = Instant::now() + STEP;
        self.read_exactly(&mut start[1..], until)?;
        let mut body = vec![0; usize::from(start[1])];
        self.read_exactly(&mut body, until)?;
        match Word::decode(start[0], &body) {
            Some(Word::No) => Err(PairingError::Refused),
            Some(word) => Ok(word),
            None => Err(PairingError::Senseless("a word that nobody knows")),
        }
    }

    fn read_exactly(&mut self, mut rest: &mut [u8], until: Instant) -> Result<(), PairingError> {
        while !rest.is_empty() {
            if !is_readable_by(&[self.input.as_fd()], until)? {
                return Err(PairingError::TooSlow);
            }
            match self.input.read(rest) {
                Ok(0) => return Err(PairingError::Cut),
                Ok(n) => rest = &mut rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(PairingError::Cut),
            }
        }
        Ok(())
    }

    /// Says a last word, if it can still be heard.
    fn end_with(&mut self, word: &Word) {
        if self.say(word).is_ok() {
            let _ = rustix::net::shutdown(&self.output, rustix::net::Shutdown::Write);
            self.pump.ends_within(LINGER);
        }
    }

    fn close(self) {
        drop((self.input, self.output));
        let _ = self.pump.finish(LINGER);
    }
}

/// Any key but this machine's own.
fn anybody_else(key: &MachineKey) -> Judge {
    let own = key.public();
    Arc::new(move |theirs| *theirs != own)
}

fn new_nonce() -> Nonce {
    let mut nonce = [0; 32];
    random(&mut nonce);
    nonce
}

/// Waits for a call that gets as far as a code. Others (of machines that look for open ports, say) are
/// looked at meanwhile, and end nothing; but only one gets a code.
pub fn await_call(
    listeners: &[TcpListener],
    key: &MachineKey,
    until: Instant,
) -> Result<Meeting, PairingError> {
    for listener in listeners {
        listener.set_nonblocking(true)?;
    }
    let (sender, calls) = channel();
    let (mut running, mut last) = (0, None);
    while Instant::now() < until {
        while let Ok(result) = calls.try_recv() {
            running -= 1;
            match result {
                Ok(meeting) => return Ok(meeting),
                Err(error) => last = Some(PairingError::to_string(&error)),
            }
        }
        let ready: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        let soon = until.min(Instant::now() + GLANCE);
        if running >= CALLS || !is_readable_by(&ready, soon)? {
            if running >= CALLS {
                thread::sleep(GLANCE);
            }
            continue;
        }
        for listener in listeners {
            if let Ok((stream, _)) = listener.accept() {
                running += usize::from(take(stream, key.clone(), sender.clone()).is_ok());
            }
        }
    }
    Err(PairingError::NobodyCalled(last))
}

/// What came of a call.
type Call = Result<Meeting, PairingError>;

fn take(stream: TcpStream, key: MachineKey, into: Sender<Call>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let answer = move || {
        // Whoever comes second finds nobody who listens, and is cut off.
        let _ = into.send(Meeting::answer(stream, &key));
    };
    thread::Builder::new().name("pair".into()).spawn(answer).map(|_| ())
}

/// Waits until one of these can be read, but not beyond a moment.
fn is_readable_by(descriptors: &[BorrowedFd<'_>], until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let span = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled: Vec<_> =
            descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&span)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MachineKey {
        MachineKey::from_secret(&[byte; 32]).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A listener, and the thread in which it waits for a call.
    fn listening(byte: u8) -> (std::net::SocketAddr, thread::JoinHandle<Call>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (address, thread::spawn(move || await_call(&[listener], &key(byte), soon())))
    }

    fn met() -> (Meeting, Meeting) {
        let (address, listener) = listening(2);
        let caller = Meeting::call(TcpStream::connect(address).unwrap(), &key(1)).unwrap();
        (caller, listener.join().unwrap().unwrap())
    }

    fn introduction(name: &str) -> Introduction {
        Introduction { name: name.into(), port: 99 }
    }

    #[test]
    fn both_see_the_same_code_and_each_others_key() {
        let (caller, listener) = met();
        assert_eq!(caller.code(), listener.code());
        assert_eq!((caller.peer(), listener.peer()), (key(2).public(), key(1).public()));
        let (again, _) = met();
        assert_ne!(caller.code(), again.code(), "a nonce was used twice");
    }

    #[test]
    fn somebody_in_between_makes_the_codes_differ() {
        let (address, listener) = listening(2);
        let (between, middle) = listening(3);
        let middle_calls =
            thread::spawn(move || Meeting::call(TcpStream::connect(address).unwrap(), &key(3)));
        let caller = Meeting::call(TcpStream::connect(between).unwrap(), &key(1)).unwrap();
        let (listener, middle) = (listener.join().unwrap().unwrap(), middle.join().unwrap());
        let middle_calls = middle_calls.join().unwrap().unwrap();
        assert_eq!(middle.unwrap().code(), caller.code());
        assert_eq!(middle_calls.code(), listener.code());
        assert_ne!(caller.code(), listener.code());
    }

    #[test]
    fn a_nonce_that_was_not_promised_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cheat = thread::spawn(move || {
            let own = key(1);
            let secured = Secured::connect_to_pair(stream, &own, anybody_else(&own), STEP).unwrap();
            let (_, mut line) = Talk::over(secured).unwrap();
            line.say(&Word::Commit(Commitment::of(&own.public(), &[1; 32]))).unwrap();
            line.hear(soon()).unwrap();
            line.say(&Word::Reveal([2; 32])).unwrap();
            line.hear(soon())
        });
        let answered = Meeting::answer(listener.accept().unwrap().0, &key(2));
        assert!(matches!(answered, Err(PairingError::Senseless(_))), "{answered:?}");
        assert!(matches!(cheat.join().unwrap(), Err(PairingError::Cut)));
    }

    #[test]
    fn both_write_once_both_have_said_yes() {
        let (mut caller, mut listener) = met();
        let there = thread::spawn(move || {
            assert_eq!(listener.say_yes(&introduction("b"), soon()).unwrap(), introduction("a"));
            let mut written = false;
            let write = || {
                written = true;
                Ok(())
            };
            listener.conclude(soon(), write, |()| panic!("taken back")).unwrap();
            written
        });
        assert_eq!(caller.say_yes(&introduction("a"), soon()).unwrap(), introduction("b"));
        caller.conclude(soon(), || Ok(()), |()| panic!("taken back")).unwrap();
        assert!(there.join().unwrap());
    }

    #[test]
    fn who_hears_no_or_nothing_more_writes_nothing() {
        let (mut caller, listener) = met();
        listener.refuse();
        assert!(matches!(caller.say_yes(&introduction("a"), soon()), Err(PairingError::Refused)));
        let (caller, mut listener) = met();
        drop(caller);
        assert!(matches!(listener.say_yes(&introduction("b"), soon()), Err(PairingError::Cut)));
        let (mut caller, _listener) = met();
        let now = Instant::now();
        assert!(matches!(caller.say_yes(&introduction("a"), now), Err(PairingError::TooSlow)));
    }

    #[test]
    fn the_caller_takes_back_what_the_other_end_cannot_write() {
        let (mut caller, mut listener) = met();
        let there = thread::spawn(move || {
            listener.say_yes(&introduction("b"), soon()).unwrap();
            listener.conclude(soon(), || Err::<(), _>("full".into()), |()| ())
        });
        caller.say_yes(&introduction("a"), soon()).unwrap();
        let mut taken_back = false;
        let concluded = caller.conclude(soon(), || Ok(()), |()| taken_back = true);
        assert!(matches!(concluded, Err(PairingError::Refused)), "{concluded:?}");
        assert!(taken_back);
        assert!(matches!(there.join().unwrap(), Err(PairingError::Unwritten(_))));
    }

    #[test]
    fn who_says_too_much_or_something_out_of_turn_is_not_listened_to() {
        let (mut caller, mut listener) = met();
        (0..10).for_each(|_| caller.line.say(&Word::Ready).unwrap());
        let heard: Vec<_> = (0..=EARLY).map(|_| listener.overhear()).collect();
        assert!(heard[..EARLY].iter().all(Result::is_ok));
        assert!(matches!(heard[EARLY], Err(PairingError::Senseless(_))), "{heard:?}");
        let said = listener.say_yes(&introduction("b"), soon());
        assert!(matches!(said, Err(PairingError::Senseless(_))), "{said:?}");
        let (mut caller, mut listener) = met();
        caller.line.say(&Word::Yes(introduction("a"))).unwrap();
        caller.line.say(&Word::Yes(introduction("a"))).unwrap();
        listener.say_yes(&introduction("b"), soon()).unwrap();
        let concluded = listener.conclude(soon(), || panic!("written"), |()| ());
        assert!(matches!(concluded, Err(PairingError::Senseless(_))), "{concluded:?}");
    }

    #[test]
    fn a_machine_does_not_pair_with_itself() {
        let (address, _listener) = listening(1);
        let call = Meeting::call(TcpStream::connect(address).unwrap(), &key(1));
        assert!(matches!(call, Err(PairingError::Same)), "{call:?}");
    }

    #[test]
    fn calls_of_which_nothing_comes_end_nothing() {
        let (address, listener) = listening(2);
        let open: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        TcpStream::connect(address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let caller = Meeting::call(TcpStream::connect(address).unwrap(), &key(1)).unwrap();
        assert_eq!(listener.join().unwrap().unwrap().code(), caller.code());
        drop(open);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = await_call(&[listener], &key(2), Instant::now() + 2 * GLANCE);
        assert!(matches!(nobody, Err(PairingError::NobodyCalled(None))));
    }
}
