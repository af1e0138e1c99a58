//! Writing to the line from a thread of its own, so that reading files, coding and sending overlap.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Traffic;

/// Chunks that may wait.
const QUEUE: usize = 16;
/// Largest piece that is written at once where the rate is limited.
const PIECE: usize = 4 << 10;

pub(super) struct Writer {
    queue: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    pub(super) fn start(
        output: File,
        rate: Option<u64>,
        traffic: Arc<Traffic>,
    ) -> io::Result<Writer> {
        let (queue, chunks) = sync_channel(QUEUE);
        let work = move || write_all(output, chunks, rate, &traffic);
        let thread = thread::Builder::new().name("line".into()).spawn(work)?;
        Ok(Writer { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands over bytes; waits while too many wait already.
    pub(super) fn write(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
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
    chunks: Receiver<Vec<u8>>,
    rate: Option<u64>,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut pace = rate.map(Pace::new);
    for chunk in chunks {
        let step = if pace.is_some() { PIECE } else { chunk.len() };
        for piece in chunk.chunks(step) {
            if let Some(pace) = &mut pace {
                pace.wait_for(piece.len());
            }
            traffic.note_sent(piece.len());
            output.write_all(piece)?;
        }
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
