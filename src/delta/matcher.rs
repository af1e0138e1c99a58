//! Searches a new content for old blocks, in one level or more.
//!
//! A level leaves some of the old content and some of the new one unresolved. The next level treats
//! what is left, put together, as a smaller pair of contents. As both are put together in order, blocks
//! match even across the seams.

use super::align::Copy;
use super::found::{Found, Sections};
use super::search::{self, MAX_CONFIRMATIONS, Search};
use super::signature::Signature;

/// Bytes searched at a time, beyond what the search needs to see at once.
const STEP: usize = 256 << 10;

/// Most runs of blocks kept on one level. What else a peer's signature may match stays unresolved.
pub(super) const MAX_RUNS: usize = 1 << 20;

/// Searches one new content, fed in any pieces.
///
/// Memory: five blocks and a quarter of a MiB of the content, and 24 bytes for each of
/// a million runs of blocks found.
#[derive(Debug)]
pub struct Matcher<'s> {
    signature: &'s Signature,
    search: Search<'s>,
    before: Found,
    /// The first of the copies of the level before that is not passed yet.
    passing: usize,
    /// Bytes of the new content taken so far.
    taken: usize,
    window: Vec<u8>,
    decided: usize,
    /// Unresolved bytes before the window.
    gone: usize,
    /// In positions of what was unresolved.
    copies: Vec<Copy>,
}

impl<'s> Matcher<'s> {
    /// Starts the first level. The `signature` is of the whole old content.
    pub fn new(signature: &'s Signature) -> Self {
        Self::after(Found::nothing(signature.layout().len()), signature)
    }

    /// Starts the next level. The `signature` is of what the level before left unresolved
    /// ([`Found::unresolved`]); its blocks divide those of that level.
    pub fn after(before: Found, signature: &'s Signature) -> Self {
        Self {
            signature,
            search: Search::new(signature),
            before,
            passing: 0,
            taken: 0,
            window: Vec::new(),
            decided: 0,
            gone: 0,
            copies: Vec::new(),
        }
    }

    /// Takes the next bytes of the new content; the same on every level.
    pub fn push(&mut self, mut data: &[u8]) {
        let capacity = (2 + MAX_CONFIRMATIONS) * self.signature.layout().block_len + STEP;
        while !data.is_empty() {
            let copy = self.before.copies().get(self.passing);
            let (until, resolved) = match copy {
                Some(copy) if self.taken >= copy.new => (copy.new + copy.len, true),
                Some(copy) => (copy.new, false),
                None => (usize::MAX, false),
            };
            let mut len = data.len().min(until - self.taken);
            if resolved {
                self.passing += usize::from(self.taken + len == until);
            } else {
                len = len.min(capacity - self.window.len());
                self.window.extend_from_slice(&data[..len]);
                if self.window.len() == capacity {
                    self.decide(false);
                }
            }
            self.taken += len;
            data = &data[len..];
        }
    }

    /// Ends the content.
    pub fn finish(mut self) -> Found {
        self.decide(true);
        let old = Sections::new(self.before.unresolved().iter().cloned());
        let new = Sections::new(self.before.gaps(self.taken).into_iter());
        let unit = self.signature.layout().block_len;
        let mut copies = Vec::new();
        for copy in &self.copies {
            spread(*copy, unit, &old, &new, &mut copies);
        }
        self.before.with(copies, self.taken, unit)
    }

    fn decide(&mut self, last: bool) {
        let block_len = self.signature.layout().block_len;
        loop {
            match self.search.next(&self.window, self.decided, last) {
                search::Found::Block { at, block, len } => {
                    self.decided = at + len;
                    let copy = Copy { old: block as usize * block_len, new: self.gone + at, len };
                    let room = self.copies.len() < MAX_RUNS;
                    match self.copies.last_mut() {
                        Some(last) if last.is_followed_by(&copy) => last.len += len,
                        _ if room => self.copies.push(copy),
                        _ => {}
                    }
                }
                search::Found::Nothing { before } => {
                    self.window.drain(..before);
                    self.gone += before;
                    self.decided = 0;
                    return;
                }
            }
        }
    }
}

/// Translates a copy among unresolved bytes into copies of the contents, cut at the seams, of whole blocks
/// of `unit` bytes or the old content's tail.
fn spread(copy: Copy, unit: usize, old: &Sections, new: &Sections, copies: &mut Vec<Copy>) {
    let mut rest = copy;
    while rest.len > 0
        && let (Some(from), Some(to)) = (old.locate(rest.old), new.locate(rest.new))
    {
        let len = rest.len.min(from.len()).min(to.len());
        // A seam of the new content may lie within a block. That block cannot be named then.
        let skipped = from.start.next_multiple_of(unit) - from.start;
        let at_end = len == rest.len;
        let whole = len.saturating_sub(skipped);
        let whole = if at_end { whole } else { whole - whole % unit };
        if whole > 0 {
            copies.push(Copy { old: from.start + skipped, new: to.start + skipped, len: whole });
        }
        rest = Copy { old: rest.old + len, new: rest.new + len, len: rest.len - len };
    }
}
