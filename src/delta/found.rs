//! What a level of the search found, and what it left unresolved.

use std::iter;
use std::ops::Range;

use super::DeltaError;
use super::align::Copy;
use super::number::{read_number, write_number};

/// A gap in the new content of fewer bytes is coded as it is: hashes would cost more than they save.
const LEAST_GAP: usize = 64;

/// A gap in the old content is hashed if it has at most so many times the bytes of the gap in the new
/// content. A fine hash costs about a thirtieth of what it covers; a fresh byte costs a quarter, of
/// which three quarters can be saved.
const GAP_RATIO: usize = 6;

/// Where none of so many blocks was found, finer ones will not be, either: the contents have nothing in
/// common, and the hashes of all of the old one would be in vain.
const HOPELESS: usize = 64;

/// Copies of old blocks that make parts of a new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    old_len: usize,
    new_len: usize,
    unit: usize,
    /// In the order of the new content, without overlap there.
    copies: Vec<Copy>,
    /// Parts of the old content in which a finer search is worth its cost, in order.
    unresolved: Vec<Range<usize>>,
}

impl Found {
    /// Before the first level: all of an old content of `old_len` bytes is unresolved.
    pub(super) fn nothing(old_len: usize) -> Self {
        let unresolved = Some(0..old_len).filter(|all| !all.is_empty()).into_iter().collect();
        Self { old_len, new_len: 0, unit: 1, copies: Vec::new(), unresolved }
    }

    /// Joins what the next level found, with blocks of `unit` bytes, in a new content of `new_len`.
    pub(super) fn with(mut self, copies: Vec<Copy>, new_len: usize, unit: usize) -> Self {
        self.copies.extend(copies);
        self.copies.sort_unstable_by_key(|copy| copy.new);
        self.copies.dedup_by(|next, last| {
            let joins = last.is_followed_by(next);
            last.len += if joins { next.len } else { 0 };
            joins
        });
        self.new_len = new_len;
        self.unit = unit;
        self.unresolved = self.worth_hashing();
        self
    }

    /// Bytes in the old content.
    pub fn old_len(&self) -> usize {
        self.old_len
    }

    /// Bytes in the blocks of the finest level so far.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// The copies, in the order of the new content.
    pub(super) fn copies(&self) -> &[Copy] {
        &self.copies
    }

    /// Number of copies: 24 bytes of memory each.
    pub fn runs(&self) -> usize {
        self.copies.len()
    }

    /// Parts of the old content whose finer hashes the sender wants, in order; none if a finer search would
    /// not be worth its cost.
    pub fn unresolved(&self) -> &[Range<usize>] {
        &self.unresolved
    }

    /// What the receiver is told: which blocks are unresolved.
    pub fn answer(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        for part in &self.unresolved {
            let (start, end) = (part.start / self.unit, part.end.div_ceil(self.unit));
            write_number(&mut out, (start - at) as u64);
            write_number(&mut out, (end - start) as u64);
            at = end;
        }
        out
    }

    /// The parts of a new content of `new_len` bytes that no copy makes.
    pub(super) fn gaps(&self, new_len: usize) -> Vec<Range<usize>> {
        gaps(self.copies.iter().map(|copy| copy.new..copy.new + copy.len), new_len)
    }

    /// The parts of the old content that no copy takes, as far as there is enough in the new content that
    /// they may explain: what stands in the same place, if what stands around them was found around it;
    /// else all that is unresolved.
    fn worth_hashing(&self) -> Vec<Range<usize>> {
        if self.copies.is_empty() && self.old_len / self.unit >= HOPELESS {
            return Vec::new();
        }
        let mut taken: Vec<_> =
            self.copies.iter().map(|copy| copy.old..copy.old + copy.len).collect();
        taken.sort_unstable_by_key(|range| range.start);
        let missing: usize = self.gaps(self.new_len).iter().map(Range::len).sum();
        let same_place = self.gaps_in_order();
        let mut place = 0;
        let mut worth = Vec::new();
        for gap in gaps(taken.into_iter(), self.old_len) {
            while same_place.get(place).is_some_and(|(old, _)| old.start < gap.start) {
                place += 1;
            }
            let here = same_place.get(place).filter(|(old, _)| *old == gap);
            let new_len = here.map_or(missing, |(_, new)| new.len());
            if new_len >= LEAST_GAP && gap.len() / GAP_RATIO <= new_len {
                worth.push(gap);
            }
        }
        worth
    }

    /// What lies between copies that follow each other in both contents, in both; by old position.
    fn gaps_in_order(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let begin = Copy { old: 0, new: 0, len: 0 };
        let end = Copy { old: self.old_len, new: self.new_len, len: 0 };
        let before = [begin].into_iter().chain(self.copies.iter().copied());
        let after = self.copies.iter().copied().chain([end]);
        let between = before.zip(after).map(|(before, after)| {
            (before.old + before.len..after.old, before.new + before.len..after.new)
        });
        let mut between: Vec<_> = between.filter(|(old, _)| old.start < old.end).collect();
        between.sort_unstable_by_key(|(old, _)| old.start);
        between
    }
}

/// Reads which parts of an old content of `old_len` bytes, whose blocks had `block_len`, the sender wants
/// finer hashes of ([`Found::answer`]). Work and memory are linear in the answer.
///
/// # Errors
///
/// [`DeltaError::Answer`] unless it names existing blocks, in order.
pub fn parse_answer(
    block_len: u32,
    old_len: u64,
    mut answer: &[u8],
) -> Result<Vec<Range<u64>>, DeltaError> {
    let block_len = u64::from(block_len.max(1));
    let blocks = old_len.div_ceil(block_len);
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut at = 0u64;
    while !answer.is_empty() {
        let start = at.saturating_add(read_number(&mut answer)?);
        let count = read_number(&mut answer)?;
        let end = start.saturating_add(count);
        if count == 0 || end > blocks || (start == at && !parts.is_empty()) {
            return Err(DeltaError::Answer);
        }
        parts.push(start * block_len..old_len.min(end.saturating_mul(block_len)));
        at = end;
    }
    Ok(parts)
}

/// What `ranges`, ordered by their beginnings, leave of `0..len`.
fn gaps(ranges: impl Iterator<Item = Range<usize>>, len: usize) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in ranges.chain(iter::once(len..len)) {
        if at < range.start {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    gaps
}

/// Parts of a content, put together.
#[derive(Debug)]
pub(super) struct Sections {
    /// Each part, and how many bytes the parts before it have.
    parts: Vec<(usize, Range<usize>)>,
}

impl Sections {
    pub(super) fn new(parts: impl Iterator<Item = Range<usize>>) -> Self {
        let mut before = 0;
        let placed = parts.map(|part| {
            let start = before;
            before += part.len();
            (start, part)
        });
        Self { parts: placed.collect() }
    }

    /// Where the byte at this position stands, and what follows it there.
    pub(super) fn locate(&self, position: usize) -> Option<Range<usize>> {
        let next = self.parts.partition_point(|(before, _)| *before <= position);
        let (before, part) = self.parts.get(next.checked_sub(1)?)?;
        let start = part.start + (position - before);
        (start < part.end).then_some(start..part.end)
    }
}
