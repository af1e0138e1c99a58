//! Writing to the line from a thread of its own, so that reading files, coding and sending overlap.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Traffic;
use super::effort::Written;

/// Chunks that may wait.
const QUEUE: usize = 16;
/// Largest piece that is written at once where the rate is limited.
const PIECE: usize = 4 << 10;
/// The same where the other end has to take something now and then.
const WATCHED_PIECE: usize = 16 << 10;
/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes for the line.
struct Chunk {
    bytes: Vec<u8>,
    /// Nothing follows until the other end has spoken: the line rests without fault of ours.
    ends_flight: bool,
}

/// How the writing thread has spent its time.
#[derive(Debug, Default)]
struct Clock {
    bytes: AtomicU64,
    /// Pieces that the line has taken.
    pieces: AtomicU64,
    busy: AtomicU64,
    idle: AtomicU64,
}

impl Clock {
    fn note(&self, counter: &AtomicU64, since: Instant) {
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counter.fetch_add(nanos, Ordering::Relaxed);
    }
}

pub(super) struct Writer {
    clock: Arc<Clock>,
    queue: Option<SyncSender<Chunk>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    timeout: Option<Duration>,
}

/// Whether the other end still takes what is sent.
struct Watch<'a> {
    clock: &'a Clock,
    timeout: Duration,
    pieces: u64,
    since: Instant,
}

impl<'a> Watch<'a> {
    fn new(clock: &'a Clock, timeout: Duration) -> Watch<'a> {
        let pieces = clock.pieces.load(Ordering::Relaxed);
        Watch { clock, timeout, pieces, since: Instant::now() }
    }

    /// Waits a moment; an error where nothing has been taken for too long.
    fn wait(&mut self) -> io::Result<()> {
        let pieces = self.clock.pieces.load(Ordering::Relaxed);
        if pieces != self.pieces {
            (self.pieces, self.since) = (pieces, Instant::now());
        }
        if self.since.elapsed() > self.timeout {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        thread::sleep(LOOK);
        Ok(())
    }
}

impl Writer {
    pub(super) fn start(
        output: File,
        (rate, timeout): (Option<u64>, Option<Duration>),
        traffic: Arc<Traffic>,
    ) -> io::Result<Writer> {
        let (queue, chunks) = sync_channel(QUEUE);
        let clock = Arc::new(Clock::default());
        let thread_clock = clock.clone();
        let piece = match (rate, timeout) {
            (Some(_), _) => PIECE,
            (None, Some(_)) => WATCHED_PIECE,
            (None, None) => usize::MAX,
        };
        let work = move || write_all(output, chunks, (rate, piece), &traffic, &thread_clock);
        let thread = thread::Builder::new().name("line".into()).spawn(work)?;
        Ok(Writer { clock, queue: Some(queue), thread: Some(thread), timeout })
    }

    /// What has been written so far.
    pub(super) fn written(&self) -> Written {
        let nanos = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        Written {
            bytes: self.clock.bytes.load(Ordering::Relaxed),
            busy: nanos(&self.clock.busy),
            idle: nanos(&self.clock.idle),
        }
    }

    /// Hands over bytes in the middle of a flight; waits while too many wait already.
    pub(super) fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.hand_over(Chunk { bytes, ends_flight: false })
    }

    /// Hands over the last bytes for now.
    pub(super) fn write_last(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.hand_over(Chunk { bytes, ends_flight: true })
    }

    fn hand_over(&mut self, chunk: Chunk) -> io::Result<()> {
        let is_sent = match &self.queue {
            Some(queue) => send(queue, chunk, &self.clock, self.timeout)?,
            None => false,
        };
        match is_sent {
            true => Ok(()),
            // The thread has ended: it knows why.
            false => match self.finish() {
                Ok(()) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
                Err(error) => Err(error),
            },
        }
    }

    /// Waits until everything is written, and closes the line in this direction.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.queue = None;
        if let Some(timeout) = self.timeout {
            let mut watch = Watch::new(&self.clock, timeout);
            while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
                // The thread stays behind: it waits for the other end, and ends with the process.
                if let Err(error) = watch.wait() {
                    self.thread = None;
                    return Err(error);
                }
            }
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the writing thread failed")),
            None => Ok(()),
        }
    }
}

/// Puts a chunk into the queue, and waits for room as long as the other end takes something. Says
/// whether anybody takes from the queue.
fn send(
    queue: &SyncSender<Chunk>,
    chunk: Chunk,
    clock: &Clock,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let Some(timeout) = timeout else { return Ok(queue.send(chunk).is_ok()) };
    let mut chunk = chunk;
    let mut watch = Watch::new(clock, timeout);
    loop {
        chunk = match queue.try_send(chunk) {
            Ok(()) => return Ok(true),
            Err(TrySendError::Disconnected(_)) => return Ok(false),
            Err(TrySendError::Full(chunk)) => chunk,
        };
        watch.wait()?;
    }
}

fn write_all(
    mut output: File,
    chunks: Receiver<Chunk>,
    (rate, piece): (Option<u64>, usize),
    traffic: &Traffic,
    clock: &Clock,
) -> io::Result<()> {
    let mut pace = rate.map(Pace::new);
    let mut resting_since: Option<Instant> = None;
    for Chunk { bytes, ends_flight } in chunks {
        if let Some(since) = resting_since {
            clock.note(&clock.idle, since);
        }
        let started = Instant::now();
        for piece in bytes.chunks(piece) {
            if let Some(pace) = &mut pace {
                pace.wait_for(piece.len());
            }
            traffic.note_sent(piece.len());
            output.write_all(piece)?;
            clock.pieces.fetch_add(1, Ordering::Relaxed);
        }
        clock.note(&clock.busy, started);
        clock.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        resting_since = (!ends_flight).then(Instant::now);
    }
    Ok(())
}

/// Keeps to a number of bytes a second.
struct Pace {
    rate: u64,
    free_at: Instant,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace { rate: rate.max(1), free_at: Instant::now() }
    }

    fn wait_for(&mut self, bytes: usize) {
        let now = Instant::now();
        self.free_at = self.free_at.max(now);
        thread::sleep(self.free_at - now);
        self.free_at += Duration::from_secs_f64(bytes as f64 / self.rate as f64);
    }
}
