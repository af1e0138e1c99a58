//! Finds the old file's blocks in the new file.
//!
//! A block is accepted on one of two kinds of evidence:
//!
//! - it is **due**: it follows the block just matched, or lies where it would lie if the bytes since the
//!   last match had only been overwritten in place. There is one trial per block, so one short hash is
//!   evidence enough;
//! - it turns up **anywhere** and its neighbours in the old file match beside it. Two or three short
//!   hashes together are as good as one long one, which a block at any position would need but which
//!   would double the signature. All that is lost is a block that moved alone.
//!
//! The work is linear in the new file, whatever the peer's signature says: a position costs one step of
//! the rolling hash and at most `MAX_PROBES` slots, and hashing neighbours is paid for from a credit
//! that grows with the positions searched.

use std::ops::Range;

use super::hash::{LANES, Roller};
use super::signature::Signature;

/// Blocks tried in place after one did not match. Beyond that the two files have little in common here,
/// and what they have is found anyway.
const IN_PLACE_TRIALS: u32 = 16;

/// From so many bits on, the hash of one block can be evidence enough. Shorter ones need a neighbour even
/// where there were few trials: there are many files, and each shall be right.
const LONE_BITS: u32 = 40;

/// Neighbours that may be asked to confirm a match: enough for any file at 24 bits a hash.
pub(super) const MAX_CONFIRMATIONS: usize = 3;

/// A match that is not due needs so many bits of hash more than there were trials for it, so that one
/// file in 2^10 at most is rebuilt wrongly because of such a match.
const MARGIN_BITS: u32 = 10;

/// Bytes of neighbours that may be hashed per position searched. Hashing in bulk costs about a tenth of
/// a rolling step per byte.
const CREDIT_PER_POSITION: usize = 8;

/// The state of a search through one new file.
#[derive(Debug)]
pub(super) struct Search<'s> {
    signature: &'s Signature,
    /// Where a block is due; `None` if the thread is lost.
    due: Option<Due>,
    /// Positions at which any block was looked for.
    searched: u64,
    /// Neighbours that must confirm a match now; more as `searched` grows.
    confirmations: usize,
    /// Bytes that may be hashed to confirm a block by its neighbours.
    credit: usize,
    /// Bytes hashed in bulk so far: what tests bound instead of time.
    pub(super) hashed: u64,
}

/// A block expected at a position.
#[derive(Debug, Clone, Copy)]
struct Due {
    block: u64,
    /// Bytes from the present position to where it is due.
    ahead: usize,
    /// Further blocks to try in place if this one is not there.
    trials: u32,
}

/// What a search step found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The old file's `block`, `len` bytes long, stands at `at`.
    Block { at: usize, block: u64, len: usize },
    /// Nothing begins before this position; to go on, more of the new file is needed.
    Nothing { before: usize },
}

impl<'s> Search<'s> {
    /// A search that begins with the first byte of the new file.
    pub(super) fn new(signature: &'s Signature) -> Self {
        Self {
            signature,
            due: Some(Due { block: 0, ahead: 0, trials: IN_PLACE_TRIALS }),
            searched: 0,
            confirmations: 1,
            credit: 4 * signature.layout().block_len,
            hashed: 0,
        }
    }

    /// The next match at or after `from`, which is where the last one ended or the search was given up.
    /// `window` holds a part of the new file; `last` says that the file ends with it.
    pub(super) fn next(&mut self, window: &[u8], from: usize, last: bool) -> Found {
        let mut at = from;
        loop {
            if let Some(due) = self.due
                && due.ahead == 0
            {
                match self.compare_due(window, at, due) {
                    Comparison::Equal => return self.found(at, due.block),
                    Comparison::TooShort if !last => return Found::Nothing { before: at },
                    Comparison::TooShort => self.due = None,
                    Comparison::Differs => self.due = self.in_place_after(due),
                }
            }
            let stop = self.due.map_or(usize::MAX, |due| at + due.ahead);
            let end = stop.min(self.searchable(window, last)).max(at);
            if let Some((at, block)) = self.scan(window, at..end) {
                let (at, block) = self.extend_backwards(window, from, at, block);
                return self.found(at, block);
            }
            self.count_searched(end - at);
            at = end;
            if end < stop {
                return if last { self.finish(window, at) } else { Found::Nothing { before: at } };
            }
        }
    }

    /// Compares a block that is due. Short hashes need a second one beside them where the block before
    /// differed: such trials are many, and few of them succeed rightly.
    fn compare_due(&mut self, window: &[u8], at: usize, due: Due) -> Comparison {
        let first = self.compare(window, at, due.block);
        let follows = due.trials == IN_PLACE_TRIALS;
        if first != Comparison::Equal || follows || self.signature.hasher().bits() >= LONE_BITS {
            return first;
        }
        let next = due.block + 1;
        match self.signature.layout().len_of(next) {
            Some(_) => self.compare(window, at + self.signature.layout().block_len, next),
            None => Comparison::Differs,
        }
    }

    /// What is left at the end of the file: only the old file's tail may still be found, as the last
    /// bytes of the new one.
    fn finish(&mut self, window: &[u8], at: usize) -> Found {
        let layout = self.signature.layout();
        let tail = window.len().checked_sub(layout.tail_len);
        match tail.filter(|&tail| layout.tail_len > 0 && tail >= at) {
            Some(tail) if self.compare(window, tail, layout.full_blocks) == Comparison::Equal => {
                self.found(tail, layout.full_blocks)
            }
            _ => Found::Nothing { before: window.len() },
        }
    }

    /// The first position that cannot be searched yet: a block and its neighbours must fit behind it.
    fn searchable(&self, window: &[u8], last: bool) -> usize {
        let neighbours = if last { 0 } else { self.confirmations };
        let needed = (1 + neighbours) * self.signature.layout().block_len;
        (window.len() + 1).saturating_sub(needed)
    }

    /// Looks for a block at each position in `range` that its neighbours confirm.
    fn scan(&mut self, window: &[u8], range: Range<usize>) -> Option<(usize, u64)> {
        let signature = self.signature;
        let block_len = signature.layout().block_len;
        if signature.layout().full_blocks == 0 {
            return None;
        }
        let mut at = range.start;
        // Lanes reach `LANES - 1` positions further, and a step takes in as many bytes.
        if range.len() > 2 * LANES {
            match self.roll(window, range.clone()) {
                Rolled::Found(found) => return Some(found),
                Rolled::Until(end) => at = end,
            }
        }
        (at..range.end).find_map(|position| {
            self.credit += CREDIT_PER_POSITION;
            let hash = self.hash(&window[position..position + block_len]);
            Some((position, self.confirmed(window, position, hash)?))
        })
    }

    /// [`Self::scan`] with a rolling hash, for all but a few positions at the end of `range`, which has
    /// more than `2 * LANES`.
    fn roll(&mut self, window: &[u8], range: Range<usize>) -> Rolled {
        let signature = self.signature;
        let filter = signature.filter();
        let mut roller = Roller::new(signature.hasher(), &window[range.start..]);
        let leaving = words(&window[range.start..]);
        let entering = words(&window[range.start + signature.layout().block_len..]);
        // What the loop does for most positions is kept to a minimum: credit is counted when it is used.
        let mut counted = range.start;
        let mut at = range.start;
        for (leaving, entering) in leaving.zip(entering).take(range.len() / LANES) {
            let scrambled = roller.scrambled();
            if filter.may_contain_any(scrambled) {
                self.credit += (at + LANES - counted) * CREDIT_PER_POSITION;
                counted = at + LANES;
                let passing = (at..).zip(scrambled).filter(|(_, hash)| filter.may_contain(*hash));
                for (position, scrambled) in passing {
                    let hash = signature.hasher().truncate(scrambled);
                    if let Some(block) = self.confirmed(window, position, hash) {
                        return Rolled::Found((position, block));
                    }
                }
            }
            roller.advance(leaving, entering);
            at += LANES;
        }
        self.credit += (at - counted) * CREDIT_PER_POSITION;
        Rolled::Until(at)
    }

    /// The block with this hash, if enough of its neighbours match as well: those after it, or else those
    /// before it.
    fn confirmed(&mut self, window: &[u8], at: usize, hash: u64) -> Option<u64> {
        let block = self.signature.find(hash)?;
        let block_len = self.signature.layout().block_len;
        let count = self.confirmations;
        let mut after = (1..=count).map(|i| Some((at + i * block_len, block + i as u64)));
        let mut before =
            (1..=count).map(|i| at.checked_sub(i * block_len).zip(block.checked_sub(i as u64)));
        let mut agrees = |neighbour: Option<(usize, u64)>| {
            neighbour.is_some_and(|(at, block)| {
                self.signature.is_evidence(block)
                    && self.pay()
                    && self.compare(window, at, block) == Comparison::Equal
            })
        };
        (after.all(&mut agrees) || before.all(&mut agrees)).then_some(block)
    }

    /// Takes preceding blocks into a match that was found at `block`: they may have been passed over
    /// because equal blocks stand elsewhere in the old file.
    fn extend_backwards(
        &mut self,
        window: &[u8],
        from: usize,
        mut at: usize,
        mut block: u64,
    ) -> (usize, u64) {
        let block_len = self.signature.layout().block_len;
        while block > 0
            && at - from >= block_len
            && self.compare(window, at - block_len, block - 1) == Comparison::Equal
        {
            at -= block_len;
            block -= 1;
        }
        (at, block)
    }

    /// Compares the bytes at `at` with the old file's `block`.
    fn compare(&mut self, window: &[u8], at: usize, block: u64) -> Comparison {
        let Some(len) = self.signature.layout().len_of(block) else {
            return Comparison::Differs;
        };
        let Some(bytes) = window.get(at..at + len) else {
            return Comparison::TooShort;
        };
        if self.hash(bytes) == self.signature.hash_of(block) {
            Comparison::Equal
        } else {
            Comparison::Differs
        }
    }

    fn found(&mut self, at: usize, block: u64) -> Found {
        self.due = Some(Due { block: block + 1, ahead: 0, trials: IN_PLACE_TRIALS });
        let len = self.signature.layout().len_of(block).unwrap_or(0);
        Found::Block { at, block, len }
    }

    /// Where the next block is due if `missed` was overwritten in place.
    fn in_place_after(&self, missed: Due) -> Option<Due> {
        let layout = self.signature.layout();
        let block = missed.block + 1;
        let trials = missed.trials.checked_sub(1)?;
        (block < layout.blocks()).then_some(Due { block, ahead: layout.block_len, trials })
    }

    /// Notes that `positions` were searched in vain.
    fn count_searched(&mut self, positions: usize) {
        if let Some(due) = &mut self.due {
            due.ahead -= positions;
        }
        self.searched += positions as u64;
        let trials = self.searched.saturating_mul(self.signature.layout().full_blocks);
        let needed = u64::BITS - trials.leading_zeros() + MARGIN_BITS;
        let hashes = needed.div_ceil(self.signature.hasher().bits()) as usize;
        let least = usize::from(self.signature.hasher().bits() < LONE_BITS);
        self.confirmations = hashes.saturating_sub(1).clamp(least, MAX_CONFIRMATIONS);
    }

    fn hash(&mut self, bytes: &[u8]) -> u64 {
        self.hashed += bytes.len() as u64;
        self.signature.hasher().hash(bytes)
    }

    /// Takes the price of hashing one block from the credit, if it suffices.
    fn pay(&mut self) -> bool {
        let rest = self.credit.checked_sub(self.signature.layout().block_len);
        self.credit = rest.unwrap_or(self.credit);
        rest.is_some()
    }
}

/// How rolling over a range ended.
#[derive(Debug)]
enum Rolled {
    /// A position and the block that is confirmed there.
    Found((usize, u64)),
    /// Nothing is found before this position.
    Until(usize),
}

/// Eight bytes at a time, each time four further on.
fn words(bytes: &[u8]) -> impl Iterator<Item = &[[u8; LANES]; 2]> {
    bytes.as_chunks().0.array_windows()
}

/// How the new file's bytes compare with an old block.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// The same hash.
    Equal,
    Differs,
    /// The window ends within the block.
    TooShort,
}
