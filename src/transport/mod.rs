//! The line to the other end: bytes, direction changes, time limits. What travels is the protocol
//! crate's business.

mod effort;
mod ledger;
mod rate;
mod remote;
mod writer;

pub use effort::Compression;
pub use ledger::Purpose;
pub use rate::Rates;
pub use remote::{Remote, RemoteCommand, SpawnError};

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use psync_protocol::frame::{FrameDecoder, FrameEncoder};
use psync_protocol::{Message, ProtocolError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use effort::Fitter;
use ledger::{Counts, Ledger};
use rate::Gauge;
use writer::Writer;

/// Bytes taken from the line at a time.
const READ_STEP: usize = 64 << 10;
/// Bytes that are handed to the line at a time.
const WRITE_STEP: usize = 32 << 10;

/// The line failed.
#[derive(Debug, Error)]
pub enum LineError {
    /// Reading or writing failed.
    #[error("the connection broke ({0}); run psync again: it goes on where it stopped")]
    Io(#[from] io::Error),
    /// Nothing came for as long as the person was willing to wait.
    #[error("nothing came from the other side for {} seconds (--timeout)", .0.as_secs())]
    Timeout(Duration),
    /// What came is not what may come.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
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
    /// How long to wait for a byte.
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
    fn is_compressed(&self) -> bool {
        self.encoder.effort().is_some()
    }
}

/// One end of a line.
pub struct Line {
    input: File,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
    sending: Option<Sending>,
    gauge: Gauge,
    last_read: Instant,
    received: Ledger,
    /// Bytes received that are in the ledger's counts.
    counted: u64,
    /// What is remembered of this line from another time.
    remembered: Rates,
    limit: Option<u64>,
    writer: Writer,
    traffic: Arc<Traffic>,
    timeout: Option<Duration>,
}

impl Line {
    /// A line that reads from one descriptor and writes to another.
    pub fn new(input: OwnedFd, output: OwnedFd, limits: LineLimits) -> io::Result<Line> {
        let traffic = Arc::new(Traffic::default());
        Ok(Line {
            input: File::from(input),
            decoder: FrameDecoder::new(),
            buffer: vec![0; READ_STEP],
            sending: None,
            gauge: Gauge::default(),
            last_read: Instant::now(),
            received: Ledger::default(),
            counted: 0,
            remembered: Rates::default(),
            limit: limits.rate,
            writer: Writer::start(File::from(output), limits.rate, traffic.clone())?,
            traffic,
            timeout: limits.timeout,
        })
    }

    /// The two ends of a line within this process.
    pub fn pair(limits: LineLimits) -> io::Result<(Line, Line)> {
        let (a, b) = UnixStream::pair()?;
        let (a_out, b_out) = (a.try_clone()?, b.try_clone()?);
        Ok((Line::new(a.into(), a_out.into(), limits)?, Line::new(b.into(), b_out.into(), limits)?))
    }

    /// What the line has carried so far.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// What another session has found out about this line; counts from the greeting on.
    pub fn remember(&mut self, rates: Rates) {
        self.remembered = rates;
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
        }
    }

    /// Sends this end's first message; what follows is compressed as asked for.
    pub fn greet(&mut self, greeting: &Message, compression: Compression) -> Result<(), LineError> {
        let limit = self.limit.map(|limit| limit.div_ceil(1024));
        let known = self.remembered.sending;
        let rate = limit.map_or(known, |limit| Some(known.map_or(limit, |rate| rate.min(limit))));
        let fitter = Fitter::new(compression, rate);
        let encoder = FrameEncoder::start(greeting, compression.codec(), fitter.level())?;
        let mut ledger = Ledger::default();
        ledger.note(greeting, encoder.ready() as u64);
        ledger.settle(encoder.ready() as u64, &self.traffic.sent_for);
        self.sending = Some(Sending { encoder, fitter, ledger, in_flight: false });
        self.flush()
    }

    /// Queues a message. It leaves at the latest with [`Line::flush`].
    pub fn send(&mut self, message: &Message) -> Result<(), LineError> {
        let is_compressed = self.sending.as_ref().is_some_and(Sending::is_compressed);
        if matches!(message, Message::End)
            && is_compressed
            && let Some(rate) = self.gauge.news()
        {
            self.push(&Message::Ping(rate))?;
        }
        self.push(message)
    }

    fn push(&mut self, message: &Message) -> Result<(), LineError> {
        let Some(Sending { encoder, fitter, ledger, in_flight }) = &mut self.sending else {
            return Err(io::Error::other("a message before the greeting").into());
        };
        let written = self.writer.written();
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
        ledger.settle((encoder.ready() - ready) as u64, &self.traffic.sent_for);
        if encoder.ready() >= WRITE_STEP {
            self.writer.write(encoder.take())?;
        }
        Ok(())
    }

    /// Lets everything leave that has been sent.
    pub fn flush(&mut self) -> Result<(), LineError> {
        if let Some(Sending { encoder, ledger, in_flight, .. }) = &mut self.sending {
            let ready = encoder.ready();
            encoder.flush()?;
            ledger.settle((encoder.ready() - ready) as u64, &self.traffic.sent_for);
            ledger.close();
            *in_flight = false;
            self.writer.write_last(encoder.take())?;
        }
        Ok(())
    }

    /// Sends an error instead of anything else, and waits until it has left.
    pub fn give_up(mut self, error: &Message) {
        // Whoever cannot be told this way sees the line end.
        let told = match &mut self.sending {
            Some(_) => self.send(error).and_then(|()| self.flush()),
            None => self.writer.write_last(FrameEncoder::only(error)).map_err(LineError::from),
        };
        if told.is_ok() {
            let _ = self.writer.finish();
        }
    }

    /// Waits until everything has left.
    pub fn finish(mut self) -> Result<(), LineError> {
        self.flush()?;
        Ok(self.writer.finish()?)
    }

    /// Waits for the next message. `state` says in a few words what is going on, for the message
    /// if the line ends here.
    pub fn receive(&mut self, state: &'static str) -> Result<Message, LineError> {
        loop {
            let before = self.decoder.pulled();
            if let Some(message) = self.decoder.message()? {
                self.received.note(&message, self.decoder.pulled() - before);
                self.overhear(&message);
                return Ok(message);
            }
            self.count_received();
            let asked = Instant::now();
            match self.read()? {
                0 => return Err(ProtocolError::Ended(state).into()),
                n => {
                    let now = Instant::now();
                    self.gauge.note(n, now - asked, now - self.last_read);
                    self.last_read = now;
                    self.decoder.feed(&self.buffer[..n]);
                }
            }
        }
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

    /// All bytes that have come so far are messages now, but for the beginning of one.
    fn count_received(&mut self) {
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
                self.gauge.turn();
                if self.decoder.is_at_boundary() {
                    self.count_received();
                }
            }
            _ => {}
        }
    }

    fn read(&mut self) -> Result<usize, LineError> {
        loop {
            self.wait_readable()?;
            match self.input.read(&mut self.buffer) {
                Ok(n) => {
                    if n > 0 {
                        self.traffic.note_received(n);
                    }
                    return Ok(n);
                }
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
