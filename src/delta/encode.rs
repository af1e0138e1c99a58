//! Turns a new file into [`Op`]s against a [`Signature`].

use super::batch::Batch;
use super::search::{Found, MAX_CONFIRMATIONS, Search};
use super::signature::Signature;
use super::{DeltaError, Op, found};

/// Bytes searched at a time, beyond what the search needs to see at once.
const STEP: usize = 256 << 10;

/// Encodes one new file, fed in any pieces.
///
/// The ops do not depend on how the bytes are cut into pieces. Memory: five blocks and a quarter of a
/// MiB of the file, an op with its context (3 MiB) and, while an op is compressed, what zstd takes at
/// this level.
#[derive(Debug)]
pub struct Encoder<'s> {
    signature: &'s Signature,
    search: Search<'s>,
    /// The part of the new file that is not decided yet, except for `window[..decided]`.
    window: Vec<u8>,
    decided: usize,
    batch: Batch,
}

impl<'s> Encoder<'s> {
    /// Starts a file. `level` is zstd's, 1 to 22.
    pub fn new(signature: &'s Signature, level: i32) -> Self {
        Self {
            signature,
            search: Search::new(signature),
            window: Vec::new(),
            decided: 0,
            batch: Batch::new(level),
        }
    }

    /// Takes the next bytes of the new file, and emits the ops that are complete.
    ///
    /// # Errors
    ///
    /// What `emit` returns, or [`DeltaError::Compress`]. The encoder is of no use then.
    pub fn push<E: From<DeltaError>>(
        &mut self,
        mut data: &[u8],
        emit: &mut dyn FnMut(Op) -> Result<(), E>,
    ) -> Result<(), E> {
        let capacity = (2 + MAX_CONFIRMATIONS) * self.signature.layout().block_len + STEP;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(capacity - self.window.len()));
            self.window.extend_from_slice(now);
            data = later;
            if self.window.len() == capacity {
                self.decide(false, emit)?;
                self.window.drain(..self.decided);
                self.decided = 0;
            }
        }
        Ok(())
    }

    /// Ends the file, and emits the last ops. An empty file has none.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub fn finish<E: From<DeltaError>>(
        mut self,
        emit: &mut dyn FnMut(Op) -> Result<(), E>,
    ) -> Result<(), E> {
        self.decide(true, emit)?;
        self.batch.finish()?.map_or(Ok(()), emit)
    }

    /// Bytes of the new and the old file held at present.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.window.capacity() + self.batch.held()
    }

    /// Decides what becomes of the window: which blocks match, and what between them is fresh. Without
    /// `last`, the bytes of a few blocks stay undecided.
    fn decide<E: From<DeltaError>>(
        &mut self,
        last: bool,
        emit: &mut dyn FnMut(Op) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let found = self.search.next(&self.window, self.decided, last);
            let (Found::Block { at, .. } | Found::Nothing { before: at }) = found;
            let mut fresh = &self.window[self.decided..at];
            self.decided = at;
            while !fresh.is_empty() {
                self.batch.fresh(&mut fresh)?.map_or(Ok(()), &mut *emit)?;
            }
            let Found::Block { at, block, len } = found else {
                return Ok(());
            };
            self.decided += len;
            let bytes = &self.window[at..at + len];
            self.batch.copy(block, bytes)?.map_or(Ok(()), &mut *emit)?;
        }
    }
}

/// Encodes one new file, fed in any pieces, from what [`Matcher`](super::Matcher) found before. Blocks in
/// its ops have [`Found::unit`](found::Found::unit) bytes.
///
/// Memory: a block, an op with its context (3 MiB) and what zstd takes.
#[derive(Debug)]
pub struct FoundEncoder<'f> {
    found: &'f found::Found,
    /// The first copy that does not end before here.
    copy: usize,
    /// Bytes of the new file taken so far.
    at: usize,
    /// The beginning of a block whose end has not come yet.
    block: Vec<u8>,
    batch: Batch,
}

impl<'f> FoundEncoder<'f> {
    /// Starts a file. `level` is zstd's, 1 to 22.
    pub fn new(found: &'f found::Found, level: i32) -> Self {
        Self { found, copy: 0, at: 0, block: Vec::new(), batch: Batch::new(level) }
    }

    /// Takes the next bytes of the new file, and emits the ops that are complete. They must be the bytes
    /// that were searched.
    ///
    /// # Errors
    ///
    /// What `emit` returns, or [`DeltaError::Compress`]. The encoder is of no use then.
    pub fn push<E: From<DeltaError>>(
        &mut self,
        mut data: &[u8],
        emit: &mut dyn FnMut(Op) -> Result<(), E>,
    ) -> Result<(), E> {
        while !data.is_empty() {
            let copy = self.found.copies().get(self.copy);
            let Some(copy) = copy.filter(|copy| copy.new <= self.at) else {
                let until = copy.map_or(usize::MAX, |copy| copy.new);
                let (mut fresh, later) = data.split_at(data.len().min(until - self.at));
                self.at += fresh.len();
                data = later;
                while !fresh.is_empty() {
                    self.batch.fresh(&mut fresh)?.map_or(Ok(()), &mut *emit)?;
                }
                continue;
            };
            let end = copy.new + copy.len;
            let block_len = self.found.unit().min(end - (self.at - self.block.len()));
            let (now, later) = data.split_at(data.len().min(block_len - self.block.len()));
            self.block.extend_from_slice(now);
            self.at += now.len();
            data = later;
            if self.block.len() == block_len {
                let number = (copy.old + self.at - block_len - copy.new) / self.found.unit();
                let op = self.batch.copy(number as u64, &self.block)?;
                self.block.clear();
                self.copy += usize::from(self.at == end);
                op.map_or(Ok(()), &mut *emit)?;
            }
        }
        Ok(())
    }

    /// Ends the file, and emits the last ops.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub fn finish<E: From<DeltaError>>(
        mut self,
        emit: &mut dyn FnMut(Op) -> Result<(), E>,
    ) -> Result<(), E> {
        self.batch.finish()?.map_or(Ok(()), emit)
    }
}
