//! Rebuilds a new file from [`Op`]s and the old file.

use std::io;

use super::batch::context_of_run;
use super::signature::Layout;
use super::{DeltaError, Fresh, MAX_CONTEXT, MAX_FRESH, MAX_PIECES, Op, Params, Piece, frame};

/// Bytes copied at a time.
const COPY_STEP: usize = 256 << 10;

/// Reads bytes of the old file at an offset, and fails unless the buffer becomes full.
pub type ReadOld<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Takes the next bytes of the new file.
pub type WriteNew<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Decodes one new file.
///
/// Trusts nothing in an op: it is checked as a whole before any memory is taken or any byte written for
/// it. Memory: 2 MiB of context, an op's fresh bytes, and a copy buffer.
#[derive(Debug)]
pub struct Decoder {
    layout: Layout,
    old_len: u64,
    new_len: u64,
    written: u64,
}

impl Decoder {
    /// Starts a file of `new_len` bytes, as the sender announced it, that is made from an old one of
    /// `old_len`, whose signature was made with `params`.
    pub fn new(params: &Params, old_len: u64, new_len: u64) -> Self {
        Self { layout: Layout::new(params, old_len), old_len, new_len, written: 0 }
    }

    /// Carries out one op: reads from the `old` file, writes the next bytes to `new`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::TooManyPieces`], [`DeltaError::NoSuchBlock`], [`DeltaError::TooMuchFresh`],
    /// [`DeltaError::FreshLength`], [`DeltaError::TooLong`] or [`DeltaError::Decompress`] if the op is
    /// invalid, before anything is written; [`DeltaError::Io`] as `old` and `new` return it.
    pub fn apply(
        &mut self,
        op: &Op,
        old: &mut ReadOld<'_>,
        new: &mut WriteNew<'_>,
    ) -> Result<(), DeltaError> {
        let fresh_len = self.check(op)?;
        let decoded;
        let mut fresh = match &op.fresh {
            Fresh::Plain(bytes) => bytes.as_slice(),
            Fresh::Coded(data) => {
                let context = self.read_context(&op.pieces, old)?;
                decoded = frame::decompress(&context, data, fresh_len)?;
                &decoded
            }
        };
        for piece in &op.pieces {
            let (offset, len) = self.locate(piece)?;
            copy(offset, len, old, new)?;
            let (now, later) = fresh.split_at(piece.fresh as usize);
            if !now.is_empty() {
                new(now)?;
            }
            fresh = later;
            self.written += len + now.len() as u64;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// [`DeltaError::TooShort`] if ops are missing.
    pub fn finish(self) -> Result<(), DeltaError> {
        if self.written == self.new_len {
            Ok(())
        } else {
            Err(DeltaError::TooShort { announced: self.new_len, actual: self.written })
        }
    }

    /// Checks all numbers in an op; returns the length of its fresh bytes.
    fn check(&self, op: &Op) -> Result<usize, DeltaError> {
        if op.pieces.len() > MAX_PIECES {
            return Err(DeltaError::TooManyPieces(op.pieces.len()));
        }
        let fresh_len: u64 = op.pieces.iter().map(|piece| u64::from(piece.fresh)).sum();
        if fresh_len > MAX_FRESH as u64 {
            return Err(DeltaError::TooMuchFresh(fresh_len));
        }
        let stated = fresh_len as usize;
        match &op.fresh {
            Fresh::Plain(bytes) if bytes.len() != stated => {
                return Err(DeltaError::FreshLength { stated, actual: bytes.len() });
            }
            _ => {}
        }
        let mut room = self.new_len - self.written;
        for piece in &op.pieces {
            let (_, copied) = self.locate(piece)?;
            room = room
                .checked_sub(copied)
                .and_then(|room| room.checked_sub(piece.fresh.into()))
                .ok_or(DeltaError::TooLong(self.new_len))?;
        }
        Ok(stated)
    }

    /// Offset and length of a piece's blocks in the old file.
    fn locate(&self, piece: &Piece) -> Result<(u64, u64), DeltaError> {
        let (block, count) = (piece.block, piece.count);
        if count == 0 {
            return Ok((0, 0));
        }
        let end = block.checked_add(count).filter(|&end| end <= self.layout.blocks());
        let end = end.ok_or(DeltaError::NoSuchBlock { block, count })?;
        // `end` is within the old file, so nothing overflows but the end of a short tail.
        let block_len = self.layout.block_len as u64;
        let start = block * block_len;
        let end = end.saturating_mul(block_len).min(self.old_len);
        Ok((start, end - start))
    }

    fn read_context(&self, pieces: &[Piece], old: &mut ReadOld<'_>) -> Result<Vec<u8>, DeltaError> {
        let mut context = Vec::new();
        for piece in pieces {
            let (offset, len) = self.locate(piece)?;
            let (head, tail) = context_of_run(len, MAX_CONTEXT - context.len());
            for (offset, len) in [(offset, head), (offset + len - tail as u64, tail)] {
                if len > 0 {
                    let start = context.len();
                    context.resize(start + len, 0);
                    old(offset, &mut context[start..])?;
                }
            }
        }
        Ok(context)
    }
}

/// Copies a part of the old file piecemeal.
fn copy(
    mut offset: u64,
    mut len: u64,
    old: &mut ReadOld<'_>,
    new: &mut WriteNew<'_>,
) -> io::Result<()> {
    let mut buffer = vec![0; len.min(COPY_STEP as u64) as usize];
    while len > 0 {
        let part = len.min(COPY_STEP as u64) as usize;
        old(offset, &mut buffer[..part])?;
        new(&buffer[..part])?;
        offset += part as u64;
        len -= part as u64;
    }
    Ok(())
}
