//! Patches for contents too large to be held in memory: segment by segment.
//!
//! The sender can read the old content, so block hashes of it cost nothing on the line and need not be
//! trusted: they only tell which parts of the old content a segment of the new one resembles, wherever
//! they stand. These parts, read back, are what the segment is patched against.

use std::ops::Range;

use super::DeltaError;
use super::decode::{ReadOld, WriteNew};
use super::number::{read_number, unzigzag, write_number, zigzag};
use super::patch::{PATCH_MAX, apply_patch, patch};
use super::search::{Found, Search};
use super::signature::Signature;

/// Bytes of the new content in a segment, unless it is the last. Together with what blocks need to be
/// recognised, a segment stays below [`PATCH_MAX`].
const SEGMENT: usize = 4 << 20;

/// Most parts of the old content that a segment is patched against.
const MAX_PARTS: usize = 1 << 16;

/// Bytes around a match that belong to its part: what was edited stands there.
const MARGIN: u64 = 2048;

/// Matches at most so far apart in the old content, and following each other in the new one, have what
/// lies between them in their part, in bytes.
const BRIDGE: u64 = 256 << 10;

/// The next bytes of a new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Bytes of the new content, at most [`PATCH_MAX`].
    pub new_len: usize,
    /// The parts of the old content, and a patch from these.
    pub data: Vec<u8>,
}

/// Patches a large content against an old one that the sender can read.
///
/// Memory: an old content's [`Signature`] with [`Params::for_sender`](super::Params::for_sender), which is up to 50 MB, and about 40 MB
/// for a segment with all that it takes to patch it at levels up to 12, whatever the contents' sizes.
#[derive(Debug)]
pub struct ExactEncoder<'s> {
    signature: &'s Signature,
    search: Search<'s>,
    level: i32,
    old_len: u64,
    window: Vec<u8>,
    decided: usize,
    /// Where the matches of the present segment stand in the old content, in the order of the new one.
    matches: Vec<Range<u64>>,
    /// Where the last match ended in the old content.
    last: u64,
}

impl<'s> ExactEncoder<'s> {
    /// Starts a content. The `signature` is of an old content of `old_len` bytes, made by the sender with
    /// [`Params::for_sender`](super::Params::for_sender). `level` is zstd's.
    pub fn new(signature: &'s Signature, old_len: u64, level: i32) -> Self {
        Self {
            signature,
            search: Search::new(signature),
            level,
            old_len,
            window: Vec::new(),
            decided: 0,
            matches: Vec::new(),
            last: 0,
        }
    }

    /// Takes the next bytes of the new content, and emits the segments that are complete.
    ///
    /// # Errors
    ///
    /// What `old` or `emit` return, or [`DeltaError::Compress`]. The encoder is of no use then.
    pub fn push<E: From<DeltaError>>(
        &mut self,
        mut data: &[u8],
        old: &mut ReadOld<'_>,
        emit: &mut dyn FnMut(Segment) -> Result<(), E>,
    ) -> Result<(), E> {
        let capacity = SEGMENT + 2 * self.signature.layout().block_len;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(capacity - self.window.len()));
            self.window.extend_from_slice(now);
            data = later;
            if self.window.len() == capacity {
                self.decide(false);
                emit(self.segment(old)?)?;
            }
        }
        Ok(())
    }

    /// Ends the content, and emits its last segment. An empty content has none.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub fn finish<E: From<DeltaError>>(
        mut self,
        old: &mut ReadOld<'_>,
        emit: &mut dyn FnMut(Segment) -> Result<(), E>,
    ) -> Result<(), E> {
        self.decide(true);
        if self.window.is_empty() { Ok(()) } else { emit(self.segment(old)?) }
    }

    /// Notes where the blocks in the window come from, as far as that can be told now.
    fn decide(&mut self, last: bool) {
        let block_len = self.signature.layout().block_len as u64;
        loop {
            match self.search.next(&self.window, self.decided, last) {
                Found::Block { at, block, len } => {
                    self.decided = at + len;
                    let start = block * block_len;
                    self.last = start + len as u64;
                    match self.matches.last_mut().filter(|found| found.end == start) {
                        Some(found) => found.end = self.last,
                        None => self.matches.push(start..self.last),
                    }
                }
                Found::Nothing { before } => {
                    self.decided = before;
                    return;
                }
            }
        }
    }

    /// Patches what is decided, and takes it off the window.
    fn segment(&mut self, old: &mut ReadOld<'_>) -> Result<Segment, DeltaError> {
        let fallback = self.last.saturating_sub(MARGIN)..self.last + SEGMENT as u64;
        let matches = std::mem::take(&mut self.matches);
        let parts =
            parts_around(if matches.is_empty() { vec![fallback] } else { matches }, self.old_len);
        let mut data = Vec::new();
        write_parts(&parts, &mut data);
        let base = read_parts(&parts, old)?;
        data.extend(patch(&base, &self.window[..self.decided], self.level)?);
        let new_len = self.decided;
        self.window.drain(..self.decided);
        self.decided = 0;
        Ok(Segment { new_len, data })
    }
}

/// Makes a large new content from [`Segment`]s and the old content. Memory: three times [`PATCH_MAX`].
#[derive(Debug)]
pub struct ExactDecoder {
    old_len: u64,
    new_len: u64,
    written: u64,
}

impl ExactDecoder {
    /// Starts a content of `new_len` bytes, as the sender announced it, that is made from an old one of
    /// `old_len`.
    pub fn new(old_len: u64, new_len: u64) -> Self {
        Self { old_len, new_len, written: 0 }
    }

    /// Carries out one segment: reads from the `old` content, writes the next bytes to `new`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::TooLong`], or those of [`apply_patch`] if the segment is invalid, before anything is
    /// written; [`DeltaError::Io`] as `old` and `new` return it.
    pub fn apply(
        &mut self,
        segment: &Segment,
        old: &mut ReadOld<'_>,
        new: &mut WriteNew<'_>,
    ) -> Result<(), DeltaError> {
        if segment.new_len as u64 > self.new_len - self.written {
            return Err(DeltaError::TooLong(self.new_len));
        }
        let mut data = segment.data.as_slice();
        let parts = parse_parts(&mut data, self.old_len)?;
        new(&apply_patch(&read_parts(&parts, old)?, data, segment.new_len)?)?;
        self.written += segment.new_len as u64;
        Ok(())
    }

    /// Ends the content.
    ///
    /// # Errors
    ///
    /// [`DeltaError::TooShort`] if segments are missing.
    pub fn finish(self) -> Result<(), DeltaError> {
        if self.written == self.new_len {
            Ok(())
        } else {
            Err(DeltaError::TooShort { announced: self.new_len, actual: self.written })
        }
    }
}

/// The parts of the old content that hold all `matches` and what stands around them, as many as fit.
fn parts_around(matches: Vec<Range<u64>>, old_len: u64) -> Vec<Range<u64>> {
    let mut wanted: Vec<Range<u64>> = Vec::new();
    let mut last = matches.first().map_or(0, |first| first.start);
    for found in matches {
        let bridged = last <= found.start && found.start - last <= BRIDGE;
        let start = if bridged { last } else { found.start.saturating_sub(MARGIN) };
        last = found.end;
        wanted.push(start.saturating_sub(MARGIN)..old_len.min(found.end + MARGIN));
    }
    wanted.sort_unstable_by_key(|part| part.start);
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut room = PATCH_MAX as u64;
    for part in wanted {
        let full = room == 0 || parts.len() == MAX_PARTS;
        match parts.last_mut() {
            Some(last) if part.start <= last.end => {
                let end = part.end.clamp(last.end, last.end + room);
                room -= end - last.end;
                last.end = end;
            }
            _ if full => break,
            _ => {
                let end = part.end.min(part.start + room);
                room -= end - part.start;
                parts.push(part.start..end);
            }
        }
    }
    parts
}

/// A number of parts; of each the distance from the end of the last one (zigzag) and its length.
fn write_parts(parts: &[Range<u64>], out: &mut Vec<u8>) {
    write_number(out, parts.len() as u64);
    let mut end = 0;
    for part in parts {
        write_number(out, zigzag(part.start as i64 - end));
        write_number(out, part.end - part.start);
        end = part.end as i64;
    }
}

/// Reads what [`write_parts`] wrote: parts within the old content, no more than [`PATCH_MAX`] in all.
fn parse_parts(data: &mut &[u8], old_len: u64) -> Result<Vec<Range<u64>>, DeltaError> {
    let count = read_number(data)?;
    if count > MAX_PARTS as u64 {
        return Err(DeltaError::Patch("it has too many parts"));
    }
    let mut parts = Vec::new();
    let (mut last, mut sum) = (0u64, 0u64);
    for _ in 0..count {
        let start = last.checked_add_signed(unzigzag(read_number(data)?));
        let len = read_number(data)?;
        let part = start.and_then(|start| Some(start..start.checked_add(len)?));
        let part = part.filter(|part| part.end <= old_len);
        let part = part.ok_or(DeltaError::Patch("it uses what the old content does not have"))?;
        sum = sum.saturating_add(len);
        if sum > PATCH_MAX as u64 {
            return Err(DeltaError::Patch("its parts are too large"));
        }
        last = part.end;
        parts.push(part);
    }
    Ok(parts)
}

fn read_parts(parts: &[Range<u64>], old: &mut ReadOld<'_>) -> Result<Vec<u8>, DeltaError> {
    let mut base = Vec::new();
    for part in parts {
        let start = base.len();
        base.resize(start + (part.end - part.start) as usize, 0);
        old(part.start, &mut base[start..])?;
    }
    Ok(base)
}
