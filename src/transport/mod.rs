//! The line to the other end: bytes, direction changes, time limits. What travels is the protocol
//! crate's business.

mod ahead;
mod effort;
mod halt;
mod ledger;
mod pieces;
mod pump;
mod rate;
mod remote;
mod shadow;
mod tls;
mod trial;
mod writer;

pub use effort::{Compression, Less};
pub use halt::Halt;
pub use ledger::Purpose;
pub use pump::Pump;
pub use rate::Rates;
pub use remote::{
    ANSWER_MAX, AnswerTooLong, CommandThere, Remote, RemoteCommand, SpawnError, answer,
    command_there,
};
pub use tls::{Judge, Secured, TlsError};

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use psync_protocol::frame::{FrameDecoder, FrameEncoder};
use psync_protocol::message::Costs;
use psync_protocol::path::printable;
use psync_protocol::signed::{Digest, Sum};
use psync_protocol::{Bounds, ErrorCode, Message, ProtocolError, Tally};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use ahead::Taken;
use effort::{Fitter, Written};
use ledger::{Counts, Ledger};
use rate::{Gauge, Stopwatch};
use shadow::Shadow;
use writer::Writer;

/// Bytes taken from the line at a time.
const READ_STEP: usize = 64 << 10;
/// Bytes that a pipe holds from which a line reads, if it may: where whoever fills it and whoever empties it
/// share processors each waits for the other after so many. What a pipe holds towards a line shows how fast that is:
/// it stays as it is.
const PIPE: usize = 1 << 20;
/// So many bytes take next to no time on any line.
const RATELESS: u64 = 16 << 10;
/// Bytes that are handed to the line at a time.
const WRITE_STEP: usize = 32 << 10;
/// How long to look for what the other end has said before the line broke.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The line failed.
#[derive(Debug, Error)]
pub enum LineError {
    /// Reading or writing failed.
    #[error("the connection broke ({0}); run psync again: it goes on where it stopped")]
    Io(#[from] io::Error),
    /// Nothing came for as long as the person was willing to wait.
    #[error("nothing came from the other side for {} seconds (--timeout)", .0.as_secs())]
    Timeout(Duration),
    /// Nothing that this end sends has been taken for as long.
    #[error("the other side has taken nothing for {} seconds (--timeout)", .0.as_secs())]
    Stalled(Duration),
    /// What came is not what may come.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Whoever let the other end in has ended the session.
    #[error("{1}; what was not done yet is left for another time")]
    Halted(ErrorCode, String),
}

/// What the line has carried.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    turns: AtomicU64,
    last: AtomicU8,
    sent_for: Counts,
    received_for: Counts,
}

impl Traffic {
    /// Bytes that this end has sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes that this end has received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes each way by what they were for: of each purpose what was sent and what was received,
    /// in the order of [`Purpose::ALL`]. The sums are [`Traffic::sent`] and [`Traffic::received`].
    pub fn by_purpose(&self) -> [(Purpose, u64, u64); Purpose::ALL.len()] {
        let (sent, received) =
            (self.sent_for.of(self.sent()), self.received_for.of(self.received()));
        std::array::from_fn(|at| (Purpose::ALL[at], sent[at], received[at]))
    }

    /// How often the talking side changed, the first one counted.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn note(&self, direction: u8, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.last.swap(direction, Ordering::Relaxed) != direction {
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_sent(&self, bytes: usize) {
        self.note(1, &self.sent, bytes);
    }

    fn note_received(&self, bytes: usize) {
        self.note(2, &self.received, bytes);
    }
}

/// What a person set for the line.
#[derive(Debug, Clone, Copy, Default)]
pub struct LineLimits {
    /// Bytes a second that may be sent; none: as many as go.
    pub rate: Option<u64>,
    /// How long to wait for a byte, and for the other end to take one.
    pub timeout: Option<Duration>,
}

/// The direction away from this end, once it has greeted.
struct Sending {
    encoder: FrameEncoder,
    fitter: Fitter,
    ledger: Ledger,
    /// Whether the flight of this end has begun.
    in_flight: bool,
}

impl Sending {
    fn start(
        greeting: &Message,
        compression: Compression,
        rate: Option<u64>,
        counts: &Counts,
    ) -> io::Result<Sending> {
        let fitter = Fitter::new(compression, rate);
        let encoder = FrameEncoder::start(greeting, compression.codec(), fitter.level())?;
        let mut ledger = Ledger::default();
        ledger.note(greeting, encoder.ready() as u64);
        ledger.settle(encoder.ready() as u64, counts);
        Ok(Sending { encoder, fitter, ledger, in_flight: false })
    }

    fn push(&mut self, message: &Message, written: Written, counts: &Counts) -> io::Result<()> {
        let Sending { encoder, fitter, ledger, in_flight } = self;
        if !std::mem::replace(in_flight, true) {
            fitter.flight_begins(written);
        }
        let effort = fitter.fit(message, written);
        let (before, ready) = (encoder.pushed(), encoder.ready());
        encoder.set_effort(effort)?;
        encoder.push(message)?;
        let length = encoder.pushed() - before;
        fitter.pushed(message, length);
        ledger.note(message, length);
        let left = (encoder.ready() - ready) as u64;
        match encoder.effort().is_some() {
            true => ledger.settle_blocks(left, counts),
            false => _ = ledger.settle(left, counts),
        }
        Ok(())
    }

    fn flush(&mut self, counts: &Counts) -> io::Result<()> {
        let ready = self.encoder.ready();
        self.encoder.flush()?;
        self.ledger.settle((self.encoder.ready() - ready) as u64, counts);
        self.ledger.close();
        self.in_flight = false;
        Ok(())
    }

    /// What has been pushed can leave, in the middle of a flight.
    fn let_leave(&mut self, counts: &Counts) -> io::Result<()> {
        let ready = self.encoder.ready();
        if self.encoder.flush_compressed()? {
            self.ledger.settle((self.encoder.ready() - ready) as u64, counts);
            self.ledger.close();
        }
        self.fitter.codes();
        Ok(())
    }

    fn is_compressed(&self) -> bool {
        self.encoder.effort().is_some()
    }
}

/// What it means that bytes could not be written.
fn untaken(error: io::Error, timeout: Option<Duration>) -> LineError {
    match timeout {
        Some(timeout) if error.kind() == io::ErrorKind::TimedOut => LineError::Stalled(timeout),
        Some(_) | None => error.into(),
    }
}

/// One end of a line.
pub struct Line {
    input: File,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
    /// What came while this end was at work.
    taken: VecDeque<Taken>,
    sending: Option<Sending>,
    rehearses: bool,
    shadow: Option<Shadow>,
    gauge: Gauge,
    last_read: Instant,
    stopwatch: Stopwatch,
    received: Ledger,
    /// Bytes received that are in the ledger's counts.
    counted: u64,
    /// What is remembered of this line from another time.
    remembered: Rates,
    /// Flights of both ends that have ended.
    flights: u64,
    limit: Option<u64>,
    /// Whether both ends are in this process.
    is_local: bool,
    writer: Writer,
    traffic: Arc<Traffic>,
    timeout: Option<Duration>,
    exporter: [u8; 32],
    halt: Option<Halt>,
    /// What the other end has made this one hold.
    tally: Tally,
}

impl Line {
    /// A line that reads from one descriptor and writes to another.
    pub fn new(input: OwnedFd, output: OwnedFd, limits: LineLimits) -> io::Result<Line> {
        let traffic = Arc::new(Traffic::default());
        // No pipe, or too much for this user: then it works as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE);
        Ok(Line {
            input: File::from(input),
            decoder: FrameDecoder::new(),
            buffer: vec![0; READ_STEP],
            taken: VecDeque::new(),
            sending: None,
            rehearses: false,
            shadow: None,
            gauge: Gauge::default(),
            last_read: Instant::now(),
            stopwatch: Stopwatch::default(),
            received: Ledger::default(),
            counted: 0,
            remembered: Rates::default(),
            flights: 0,
            limit: limits.rate,
            is_local: false,
            writer: Writer::start(
                File::from(output),
                (limits.rate, limits.timeout),
                traffic.clone(),
            )?,
            traffic,
            timeout: limits.timeout,
            exporter: [0; 32],
            halt: None,
            tally: Tally::default(),
        })
    }

    /// The same, over a connection that exports this to both of its ends.
    pub fn bound_to(self, exporter: [u8; 32]) -> Line {
        Line { exporter, ..self }
    }

    /// What the connection exports; zeros where it exports nothing.
    pub fn exporter(&self) -> [u8; 32] {
        self.exporter
    }

    /// Digest of this end's greeting; zeros before it.
    pub fn greeting_sent(&self) -> Digest {
        self.sending.as_ref().map(|sending| sending.encoder.greeting()).unwrap_or_default()
    }

    /// Digest of the other end's greeting; zeros before it.
    pub fn greeting_received(&self) -> Digest {
        self.decoder.greeting()
    }

    /// What this end has stated or planned, and not sealed.
    pub fn to_seal(&self) -> Option<Sum> {
        self.sending.as_ref()?.encoder.to_seal()
    }

    /// What the last seal that has come is about.
    pub fn sealed(&self) -> Option<Sum> {
        self.decoder.sealed()
    }

    /// Takes no more from the other end than this: to be said before anything comes.
    pub fn hold_to(&mut self, bounds: Bounds) {
        self.decoder.limit_frames(bounds.frame);
        self.tally = Tally::within(bounds);
    }

    /// Lets another thread end this line.
    pub fn obey(&mut self, halt: Halt) {
        self.halt = Some(halt);
    }

    fn check_halt(&self) -> Result<(), LineError> {
        match self.halt.as_ref().and_then(Halt::why) {
            Some((code, why)) => Err(LineError::Halted(*code, why.clone())),
            None => Ok(()),
        }
    }

    /// The two ends of a line within this process.
    pub fn pair(limits: LineLimits) -> io::Result<(Line, Line)> {
        let (a, b) = UnixStream::pair()?;
        let (a_out, b_out) = (a.try_clone()?, b.try_clone()?);
        let end = |input: UnixStream, output: UnixStream| {
            let line = Line::new(input.into(), output.into(), limits)?;
            Ok::<_, io::Error>(Line { is_local: true, ..line })
        };
        Ok((end(a, a_out)?, end(b, b_out)?))
    }

    /// What the line has carried so far.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// What another session has found out about this line; counts from the greeting on.
    pub fn remember(&mut self, rates: Rates) {
        self.remembered = rates;
    }

    /// Whether what this end sends is compressed: not where both ends are on one machine.
    pub fn is_compressed(&self) -> bool {
        self.sending.as_ref().is_some_and(Sending::is_compressed)
    }

    /// With how little work files may pass from now on. [`Line::is_fast`] says when it is best to send them as they
    /// are packed for something else.
    pub fn may_do(&mut self, less: Option<Less>) {
        self.sending.iter_mut().for_each(|sending| sending.fitter.may_do(less));
    }

    /// Whether the line takes what the quickest level of compression makes, or more, or is none. Not where a person
    /// has said how hard to compress.
    pub fn is_fast(&self) -> bool {
        self.is_local || self.sending.as_ref().is_some_and(|sending| sending.fitter.is_quickest())
    }

    /// What was sent last was compressed before it came here, and had so many bytes more then.
    pub fn stands_for(&mut self, bytes: u64) {
        self.sending.iter_mut().for_each(|sending| sending.fitter.stands_for(bytes));
    }

    /// How fast the line is, as far as this session knows. What is not compressed, as between two
    /// local roots, has no use for it; what is sent more slowly on purpose says nothing.
    pub fn rates(&self) -> Rates {
        let Some(sending) = self.sending.as_ref().filter(|sending| sending.is_compressed()) else {
            return self.remembered;
        };
        let rate = sending.fitter.rate().filter(|_| self.limit.is_none());
        Rates {
            sending: rate.or(self.remembered.sending),
            receiving: self.gauge.rate().or(self.remembered.receiving),
            round_trip: self.stopwatch.round_trip(self.remembered.round_trip),
        }
    }

    /// Sends this end's first message; what follows is compressed as asked for.
    pub fn greet(&mut self, greeting: &Message, compression: Compression) -> Result<(), LineError> {
        let limit = self.limit.map(|limit| limit.div_ceil(1024));
        let known = self.remembered.sending;
        let rate = limit.map_or(known, |limit| Some(known.map_or(limit, |rate| rate.min(limit))));
        let counts = &self.traffic.sent_for;
        self.sending = Some(Sending::start(greeting, compression, rate, counts)?);
        if self.rehearses {
            self.shadow = Some(Shadow::start(greeting, compression, rate)?);
        }
        self.flush()
    }

    /// Queues a message. It leaves at the latest with [`Line::flush`].
    pub fn send(&mut self, message: &Message) -> Result<(), LineError> {
        self.check_halt()?;
        if matches!(message, Message::End)
            && self.is_compressed()
            && let Some(rate) = self.gauge.news()
        {
            self.push(&Message::Ping(rate))?;
        }
        self.push(message)
    }

    fn push(&mut self, message: &Message) -> Result<(), LineError> {
        self.flights += u64::from(matches!(message, Message::End));
        let Some(sending) = &mut self.sending else {
            return Err(io::Error::other("a message before the greeting").into());
        };
        sending.push(message, self.writer.written(), &self.traffic.sent_for)?;
        if sending.encoder.ready() >= WRITE_STEP {
            let written = self.writer.write(sending.encoder.take());
            written.map_err(|error| untaken(error, self.timeout))?;
        }
        self.count(message)
    }

    /// Lets everything leave that has been sent.
    pub fn flush(&mut self) -> Result<(), LineError> {
        if let Some(sending) = &mut self.sending {
            sending.flush(&self.traffic.sent_for)?;
            let written = self.writer.write_last(sending.encoder.take());
            written.map_err(|error| untaken(error, self.timeout))?;
            self.stopwatch.start();
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.flush()?;
        }
        Ok(())
    }

    /// Lets what has been sent of a flight leave before this end codes for a while: it would wait in the
    /// compressor for what follows.
    pub fn let_leave(&mut self) -> Result<(), LineError> {
        if let Some(sending) = &mut self.sending {
            sending.let_leave(&self.traffic.sent_for)?;
            if sending.encoder.ready() > 0 {
                let written = self.writer.write(sending.encoder.take());
                written.map_err(|error| untaken(error, self.timeout))?;
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.let_leave()?;
        }
        Ok(())
    }

    /// Counts from the greeting on what this direction would carry, besides carrying what it does:
    /// for a rehearsal.
    pub fn rehearse(&mut self) {
        self.rehearses = true;
    }

    /// A message of a rehearsal that would be sent, and is only counted.
    pub fn count(&mut self, message: &Message) -> Result<(), LineError> {
        if let Some(shadow) = &mut self.shadow {
            shadow.push(message)?;
        }
        Ok(())
    }

    /// What this end would have sent up to the end of this flight, in which only what says so
    /// follows now.
    pub fn count_flight(&mut self) -> Result<Costs, LineError> {
        let Some(shadow) = &mut self.shadow else { return Ok(Costs::default()) };
        shadow.end_flight()?;
        Ok(shadow.costs())
    }

    /// How many flights have ended, of both ends together.
    pub fn flights(&self) -> u64 {
        self.flights
    }

    /// How long so many bytes each way and turns take on this line; none where it is not known how
    /// fast it is.
    pub fn seconds_for(&self, sent: u64, received: u64, turns: u64) -> Option<f64> {
        let rates = self.rates();
        let limit = self.limit.map(|limit| limit.div_ceil(1024));
        let sending = [rates.sending, limit].into_iter().flatten().min();
        if sending.is_none() && rates.receiving.is_none() {
            return None;
        }
        let seconds = |bytes: u64, rate: Option<u64>| match rate {
            Some(rate) => Some(bytes as f64 / (rate.max(1) * 1024) as f64),
            None => (bytes < RATELESS).then_some(0.0),
        };
        // There and back are two turns.
        let waiting = rates.round_trip.unwrap_or_default().as_secs_f64() * turns as f64 / 2.0;
        Some(seconds(sent, sending)? + seconds(received, rates.receiving)? + waiting)
    }

    /// What this end would have sent so far; none without a rehearsal.
    pub fn counted(&self) -> Option<Costs> {
        self.shadow.as_ref().map(Shadow::costs)
    }

    /// Sends an error instead of anything else, and waits until it has left.
    pub fn give_up(mut self, error: &Message) {
        // Whoever cannot be told this way sees the line end.
        let told = match &mut self.sending {
            Some(_) => self.push(error).and_then(|()| self.flush()),
            None => self.writer.write_last(FrameEncoder::only(error)).map_err(LineError::from),
        };
        if told.is_ok() {
            let _ = self.writer.finish();
        }
    }

    /// Waits until everything has left.
    pub fn finish(mut self) -> Result<(), LineError> {
        self.flush()?;
        self.writer.finish().map_err(|error| untaken(error, self.timeout))
    }

    /// Waits for the next message. `state` says in a few words what is going on, for the message
    /// if the line ends here.
    pub fn receive(&mut self, state: &'static str) -> Result<Message, LineError> {
        loop {
            self.check_halt()?;
            let before = self.decoder.pulled();
            if let Some(message) = self.decoder.message()? {
                let length = self.decoder.pulled() - before;
                self.tally.note(&message, length)?;
                self.received.note(&message, length);
                self.overhear(&message);
                return Ok(message);
            }
            self.count_received();
            if let Some(Taken { bytes, asked, came }) = self.taken.pop_front() {
                self.note_received(bytes.len(), asked, came);
                self.decoder.feed(&bytes);
                continue;
            }
            let asked = Instant::now();
            let read = self.read();
            self.check_halt()?;
            match read? {
                0 => return Err(ProtocolError::Ended(state).into()),
                n => {
                    self.note_received(n, asked, Instant::now());
                    self.decoder.feed(&self.buffer[..n]);
                }
            }
        }
    }

    /// Why the other end has ended a line that broke, if it has said so. Whatever else it has said is
    /// of no use any more.
    pub fn last_words(&mut self) -> Option<ProtocolError> {
        self.timeout = Some(LAST_WORDS);
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until {
            match self.receive("saying why it ended") {
                Ok(Message::Error { code, text }) => {
                    let text = printable(text.as_bytes());
                    return Some(ProtocolError::Peer { code, text });
                }
                Ok(_) => {}
                Err(LineError::Protocol(said @ ProtocolError::NotPsync(_))) => return Some(said),
                Err(_) => return None,
            }
        }
        None
    }

    /// Does some work that takes its time, during which the other end may well be talking: what it
    /// says is taken from the line meanwhile, up to a few MiB.
    pub fn while_working<T>(&mut self, work: impl FnOnce() -> T) -> T {
        ahead::working(&mut self.input, &mut self.taken, work)
    }

    fn note_received(&mut self, bytes: usize, asked: Instant, came: Instant) {
        self.traffic.note_received(bytes);
        self.stopwatch.stop(asked, came);
        self.gauge.note(bytes, came - asked, came.saturating_duration_since(self.last_read));
        self.last_read = came;
    }

    /// Like [`Line::receive`]; none where the line ends between two messages.
    pub fn receive_or_end(&mut self, state: &'static str) -> Result<Option<Message>, LineError> {
        match self.receive(state) {
            Err(LineError::Protocol(ProtocolError::Ended(_))) if self.decoder.is_at_boundary() => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Counts the bytes that have come, where all of them are messages now: the beginning of a long
    /// one would count as what the messages before it are for.
    fn count_received(&mut self) {
        if !self.decoder.is_at_boundary() {
            return;
        }
        let received = self.traffic.received();
        if self.received.settle(received - self.counted, &self.traffic.received_for) {
            self.counted = received;
        }
    }

    /// What a message says of the line itself.
    fn overhear(&mut self, message: &Message) {
        match (message, &mut self.sending) {
            (Message::Ping(rate @ 1..), Some(sending)) => {
                sending.fitter.told(*rate, self.writer.written());
            }
            // What was to be done before the rest took its time.
            (Message::Hello(_) | Message::Welcome(_), _) => self.gauge.turn(),
            (Message::End, _) => {
                self.flights += 1;
                self.gauge.turn();
                self.count_received();
            }
            _ => {}
        }
    }

    fn read(&mut self) -> Result<usize, LineError> {
        loop {
            self.wait_readable()?;
            match self.input.read(&mut self.buffer) {
                Ok(n) => return Ok(n),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                // A socket whose other end is gone says so instead of ending.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_readable(&self) -> Result<(), LineError> {
        let Some(timeout) = self.timeout else { return Ok(()) };
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left_spec =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let fd = self.input.as_fd();
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left_spec)) {
                Ok(0) if left.is_zero() => return Err(LineError::Timeout(timeout)),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}
