//! The steps of a patch: how a new content is made of an old one, and what that says of the context.

use std::ops::Range;

use super::DeltaError;
use super::align::Copy;
use super::number::{read_number, unzigzag, write_number, zigzag};

/// Bytes of the old content that serve as context on either side of where a copy begins or ends, where
/// the sender knows the old content. What an edit removed serves as well.
const EDGE: usize = 1024;

/// The same where the sender knows only the blocks it found.
const EDGE_OF_BLOCKS: usize = 4096;

/// How an old content can be copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) old_len: usize,
    pub(super) new_len: usize,
    /// Copies begin at multiples of so many bytes, and end there or at the old content's end. 1: the
    /// sender knows the old content; more: only the bytes that it copies.
    pub(super) unit: usize,
}

/// How far both contents have been gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) old: usize,
    pub(super) new: usize,
}

/// Fresh bytes, and then a copy, unless the content ends with the fresh bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fresh: usize,
    pub(super) copy: Option<Copy>,
}

/// The steps that carry out `copies`, each with the position where it begins.
pub(super) fn steps_of(frame: Frame, copies: &[Copy]) -> Vec<(Position, Step)> {
    let mut at = Position::default();
    let mut steps = Vec::with_capacity(copies.len() + 1);
    for &copy in copies {
        let step = Step { fresh: copy.new - at.new, copy: Some(copy) };
        steps.push((at, step));
        at = step.end(at);
    }
    if at.new < frame.new_len {
        steps.push((at, Step { fresh: frame.new_len - at.new, copy: None }));
    }
    steps
}

impl Step {
    /// Three numbers: fresh bytes; units copied (0: the whole rest, from the end of the old content); and
    /// how many units further on the copy begins than the last one ended (zigzag; absent for the rest).
    pub(super) fn write(&self, at: Position, frame: Frame, out: &mut Vec<u8>) {
        write_number(out, self.fresh as u64);
        let Some(copy) = self.copy else { return };
        if copy.new + copy.len == frame.new_len && copy.old + copy.len == frame.old_len {
            write_number(out, 0);
        } else {
            write_number(out, copy.len.div_ceil(frame.unit) as u64);
            let next = at.old.div_ceil(frame.unit) as i64;
            write_number(out, zigzag((copy.old / frame.unit) as i64 - next));
        }
    }

    /// Reads a step that stays within both contents and brings the new one forward.
    pub(super) fn read(at: Position, frame: Frame, steps: &mut &[u8]) -> Result<Self, DeltaError> {
        let too_long = DeltaError::Patch("a content becomes too long");
        let outside = DeltaError::Patch("it copies what the old content does not have");
        let room = (frame.new_len - at.new) as u64;
        let fresh = read_number(steps)?;
        let Some(room) = room.checked_sub(fresh) else { return Err(too_long) };
        let fresh = fresh as usize;
        if room == 0 {
            return Ok(Self { fresh, copy: None });
        }
        let (unit, old_len) = (frame.unit as u64, frame.old_len as u64);
        let (old, len) = match read_number(steps)? {
            0 => (old_len.checked_sub(room).ok_or(outside)?, room),
            units => {
                let next = at.old.div_ceil(frame.unit) as u64;
                let start = next.checked_add_signed(unzigzag(read_number(steps)?));
                let start = start.filter(|&start| start < old_len.div_ceil(unit));
                let Some(start) = start else { return Err(outside) };
                let end = start.checked_add(units).filter(|&end| end <= old_len.div_ceil(unit));
                let Some(end) = end else { return Err(outside) };
                let old = start * unit;
                (old, old_len.min(end * unit) - old)
            }
        };
        if len > room {
            return Err(too_long);
        }
        let copy = Copy { old: old as usize, new: at.new + fresh, len: len as usize };
        Ok(Self { fresh, copy: Some(copy) })
    }

    /// Where the next step begins.
    pub(super) fn end(&self, at: Position) -> Position {
        match self.copy {
            Some(copy) => Position { old: copy.old + copy.len, new: copy.new + copy.len },
            None => Position { old: at.old, new: at.new + self.fresh },
        }
    }
}

/// The parts of an old content that serve as context.
#[derive(Debug)]
pub(super) struct Surroundings {
    frame: Frame,
    near: Vec<Range<usize>>,
    copied: Vec<Range<usize>>,
}

impl Surroundings {
    pub(super) fn new(frame: Frame) -> Self {
        Self { frame, near: Vec::new(), copied: Vec::new() }
    }

    /// Adds what stands around the fresh bytes of a `step`, if it has any: the bytes on both sides of
    /// where the last copy ended and of where the next begins, and everything between the two.
    pub(super) fn add(&mut self, at: Position, step: &Step) {
        let old_len = self.frame.old_len;
        if let Some(copy) = step.copy {
            self.copied.push(copy.old..copy.old + copy.len);
        }
        if step.fresh == 0 {
            return;
        }
        let edge = if self.frame.unit == 1 { EDGE } else { EDGE_OF_BLOCKS };
        let next = step.copy.map_or(old_len, |copy| copy.old);
        for place in [at.old, next] {
            self.near.push(place.saturating_sub(edge)..old_len.min(place + edge));
        }
        if at.old < next {
            self.near.push(at.old..next);
        }
    }

    /// The parts in the order of the old content, without overlap: what is near, as far as the sender
    /// knows it.
    pub(super) fn parts(self) -> Vec<Range<usize>> {
        let near = union(self.near);
        if self.frame.unit == 1 {
            return near;
        }
        let known = union(self.copied);
        let mut parts = Vec::new();
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (near.get(i), known.get(j)) {
            let common = a.start.max(b.start)..a.end.min(b.end);
            if !common.is_empty() {
                parts.push(common);
            }
            if a.end < b.end { i += 1 } else { j += 1 }
        }
        parts
    }
}

/// Sorted and without overlap.
fn union(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut union: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}
