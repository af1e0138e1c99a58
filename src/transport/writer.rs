//! Writing to the line from a thread of its own, so that reading files, coding and sending overlap.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Traffic;
use super::effort::Written;

/// Chunks that may wait.
const QUEUE: usize = 16;
/// Largest piece that is written at once where the rate is limited.
const PIECE: usize = 4 << 10;

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
}

impl Writer {
    pub(super) fn start(
        output: File,
        rate: Option<u64>,
        traffic: Arc<Traffic>,
    ) -> io::Result<Writer> {
        let (queue, chunks) = sync_channel(QUEUE);
        let clock = Arc::new(Clock::default());
        let thread_clock = clock.clone();
        let work = move || write_all(output, chunks, rate, &traffic, &thread_clock);
        let thread = thread::Builder::new().name("line".into()).spawn(work)?;
        Ok(Writer { clock, queue: Some(queue), thread: Some(thread) })
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
        let sent = self.queue.as_ref().map(|queue| queue.send(chunk));
        match sent {
            Some(Ok(())) => Ok(()),
            // The thread has ended: it knows why.
            Some(Err(_)) | None => match self.finish() {
                Ok(()) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
                Err(error) => Err(error),
            },
        }
    }

    /// Waits until everything is written, and closes the line in this direction.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.queue = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the writing thread failed")),
            None => Ok(()),
        }
    }
}

fn write_all(
    mut output: File,
    chunks: Receiver<Chunk>,
    rate: Option<u64>,
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
        let step = if pace.is_some() { PIECE } else { bytes.len().max(1) };
        for piece in bytes.chunks(step) {
            if let Some(pace) = &mut pace {
                pace.wait_for(piece.len());
            }
            traffic.note_sent(piece.len());
            output.write_all(piece)?;
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
