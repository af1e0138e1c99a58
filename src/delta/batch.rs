//! Collects pieces into one [`Op`], and compresses its fresh bytes.
//!
//! The prefix of the zstd frame follows from the pieces, so it takes no place on the line: of each run
//! of blocks copied, in order, the first and last [`EDGE`] bytes (all of a shorter run), as long as
//! they fit into `MAX_CONTEXT` as a whole. Fresh bytes mostly resemble what stands right beside them.

use super::{DeltaError, Fresh, MAX_CONTEXT, MAX_FRESH, MAX_PIECES, Op, Piece, frame};

/// Bytes at either end of a run that serve as context.
const EDGE: usize = 32 << 10;

/// An op is sent once it copies this much, in bytes, so that the receiver has something to do meanwhile.
const COPY_TARGET: u64 = 64 << 20;

/// The parts of a run of `len` bytes that serve as context: bytes at its beginning, and at its end.
/// `room` is what is left of `MAX_CONTEXT`.
pub(super) fn context_of_run(len: u64, room: usize) -> (usize, usize) {
    let (head, tail) = if len <= 2 * EDGE as u64 { (len as usize, 0) } else { (EDGE, EDGE) };
    if head + tail <= room { (head, tail) } else { (0, 0) }
}

/// An op in the making.
#[derive(Debug)]
pub(super) struct Batch {
    level: i32,
    pieces: Vec<Piece>,
    fresh: Vec<u8>,
    context: Vec<u8>,
    /// The beginning and the end of the run being copied; what is between may be missing.
    run: Vec<u8>,
    run_len: u64,
    copied: u64,
}

impl Batch {
    pub(super) fn new(level: i32) -> Self {
        Self {
            level,
            pieces: Vec::new(),
            fresh: Vec::new(),
            context: Vec::new(),
            run: Vec::new(),
            run_len: 0,
            copied: 0,
        }
    }

    /// Adds a copy of `block`, whose content is `bytes`; returns an op that is complete now.
    pub(super) fn copy(&mut self, block: u64, bytes: &[u8]) -> Result<Option<Op>, DeltaError> {
        let full = match self.pieces.last_mut() {
            Some(run) if run.fresh == 0 && run.block + run.count == block => {
                run.count += 1;
                None
            }
            _ => {
                let full = self.finish_if(self.pieces.len() == MAX_PIECES)?;
                self.end_run();
                self.pieces.push(Piece { block, count: 1, fresh: 0 });
                full
            }
        };
        self.copied += bytes.len() as u64;
        self.extend_run(bytes);
        match full {
            Some(op) => Ok(Some(op)),
            None => self.finish_if(self.copied >= COPY_TARGET),
        }
    }

    /// Adds fresh bytes from the front of `bytes` and takes them off it; returns an op that is complete now.
    pub(super) fn fresh(&mut self, bytes: &mut &[u8]) -> Result<Option<Op>, DeltaError> {
        let (now, later) = bytes.split_at(bytes.len().min(MAX_FRESH - self.fresh.len()));
        *bytes = later;
        if self.pieces.is_empty() {
            self.pieces.push(Piece { block: 0, count: 0, fresh: 0 });
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.fresh += now.len() as u32;
        }
        self.fresh.extend_from_slice(now);
        self.finish_if(self.fresh.len() == MAX_FRESH)
    }

    /// Ends the op; `None` if it is empty.
    pub(super) fn finish(&mut self) -> Result<Option<Op>, DeltaError> {
        self.end_run();
        self.finish_if(!self.pieces.is_empty())
    }

    /// Bytes held at present.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.fresh.capacity() + self.context.capacity() + self.run.capacity()
    }

    fn finish_if(&mut self, complete: bool) -> Result<Option<Op>, DeltaError> {
        if !complete {
            return Ok(None);
        }
        self.end_run();
        let fresh = self.code_fresh()?;
        self.context.clear();
        self.copied = 0;
        let pieces = std::mem::take(&mut self.pieces);
        Ok(Some(Op { pieces, fresh }))
    }

    fn code_fresh(&mut self) -> Result<Fresh, DeltaError> {
        let fresh = std::mem::take(&mut self.fresh);
        if !fresh.is_empty() && !self.context.is_empty() {
            let coded = frame::compress(&self.context, &fresh, self.level)?;
            if coded.len() < fresh.len() {
                return Ok(Fresh::Coded(coded));
            }
        }
        Ok(Fresh::Plain(fresh))
    }

    fn extend_run(&mut self, bytes: &[u8]) {
        self.run.extend_from_slice(bytes);
        self.run_len += bytes.len() as u64;
        if self.run.len() > 8 * EDGE {
            self.run.drain(EDGE..self.run.len() - EDGE);
        }
    }

    fn end_run(&mut self) {
        let (head, tail) = context_of_run(self.run_len, MAX_CONTEXT - self.context.len());
        self.context.extend_from_slice(&self.run[..head]);
        self.context.extend_from_slice(&self.run[self.run.len() - tail..]);
        self.run.clear();
        self.run_len = 0;
    }
}
