//! Files against old ones that only the peer has, whose block hashes it has sent: in one level, or in
//! two, the second for what the first left unresolved.

use psync_protocol::Message;
use psync_protocol::message::{FailureKind, UNRESOLVED_MAX, Unresolved, WantDelta};

use super::patches::{self, Blocks, Job, Known};
use super::{Item, Sending, Stopped, SyncError, whole};
use crate::apply::FINE_ATTEMPT;
use crate::delta::{DeltaError, Found, FoundEncoder, Matcher, Op, Params, Signature};
use crate::report::Silent;

/// Files of which finer hashes are asked for in a flight, and copies found in them, at most: they are
/// kept until the hashes come. So many copies take 24 MiB.
const HELD_FILES: usize = 10_000;
const HELD_RUNS: usize = 1 << 20;

impl Sending<'_, '_, '_> {
    /// One level of hashes.
    pub(super) fn against_signed(
        &mut self,
        item: Item,
        delta: &WantDelta,
        seed: u64,
        hashes: &[u8],
        patched: &mut Vec<Job>,
    ) -> Result<(), SyncError> {
        let signature = match parse(delta, seed, hashes) {
            Ok(signature) => signature,
            Err(error) => return self.refuse(&item, &error),
        };
        if patches::fits(delta.old_len, item.size) {
            let (block_len, len) = (delta.block_len, delta.old_len);
            let of_base = false;
            let old = Known::Blocks(Box::new(Blocks { block_len, len, signature, of_base }));
            return self.later(Job { item, old }, patched);
        }
        self.begin_file(&item)?;
        self.delta(&item, &signature)
    }

    /// The first of two levels: unless it resolves everything the peer is asked for the second.
    pub(super) fn against_coarse(
        &mut self,
        item: Item,
        delta: &WantDelta,
        hashes: &[u8],
        patched: &mut Vec<Job>,
    ) -> Result<(), SyncError> {
        let seed = self.applier.keys().theirs.block_seed(item.index, 0);
        let signature = match parse(delta, seed, hashes) {
            Ok(signature) => signature,
            Err(error) => return self.refuse(&item, &error),
        };
        let Some(found) = self.search(&item, Matcher::new(&signature))? else { return Ok(()) };
        let parts = found.answer();
        // A second level has to be worth the memory that it takes until it comes.
        let held: usize = self.means.found.values().map(Found::runs).sum();
        let is_costly = parts.len() > UNRESOLVED_MAX || held + found.runs() > HELD_RUNS;
        if parts.is_empty() || is_costly || self.means.found.len() >= HELD_FILES {
            return self.made_of_found(item, found, patched);
        }
        let index = item.index;
        self.means.found.insert(index, found);
        self.means.out.send(&Message::Unresolved(Unresolved { index, parts }))
    }

    /// The second level.
    pub(super) fn against_fine(
        &mut self,
        item: Item,
        delta: &WantDelta,
        hashes: &[u8],
        patched: &mut Vec<Job>,
    ) -> Result<(), SyncError> {
        let seed = self.applier.keys().theirs.block_seed(item.index, FINE_ATTEMPT);
        let before = self.means.found.remove(&item.index);
        let before = before.filter(|before| divides(delta.block_len, before));
        let (Some(before), Ok(signature)) = (before, parse(delta, seed, hashes)) else {
            let text = "its finer block hashes do not belong to any coarse ones".into();
            return self.fail(item.index, (FailureKind::System, text));
        };
        match self.search(&item, Matcher::after(before, &signature))? {
            Some(found) => self.made_of_found(item, found, patched),
            None => Ok(()),
        }
    }

    /// Searches a file. None: it cannot be read, and the peer has been told.
    fn search(
        &mut self,
        item: &Item,
        mut matcher: Matcher<'_>,
    ) -> Result<Option<Found>, SyncError> {
        let searched = whole::read(self.applier.root(), item, &Silent, |bytes| {
            matcher.push(bytes);
            Ok(())
        })?;
        match searched {
            Ok(()) => Ok(Some(matcher.finish())),
            Err(trouble) => self.fail(item.index, trouble).map(|()| None),
        }
    }

    /// Sends a file made of blocks that have been found in it.
    fn made_of_found(
        &mut self,
        item: Item,
        found: Found,
        patched: &mut Vec<Job>,
    ) -> Result<(), SyncError> {
        if patches::fits(found.old_len() as u64, item.size) {
            return self.later(Job { item, old: Known::Found(Box::new(found)) }, patched);
        }
        self.stream_found(&item, &found)
    }

    /// Sends a file made of blocks that have been found in it, however long it is.
    pub(super) fn stream_found(&mut self, item: &Item, found: &Found) -> Result<(), SyncError> {
        self.begin_file(item)?;
        let mut encoder = FoundEncoder::new(found, super::DELTA_LEVEL);
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let mut emit = |op: Op| out.op(op);
        let sent = whole::read(root, item, report, |bytes| {
            encoder.push(bytes, &mut emit).map_err(Stopped::into_sync)
        })?;
        if sent.is_ok() {
            encoder.finish(&mut emit).map_err(Stopped::into_sync)?;
        }
        self.end_file(item, sent)
    }

    fn refuse(&mut self, item: &Item, error: &DeltaError) -> Result<(), SyncError> {
        self.fail(item.index, (FailureKind::System, error.to_string()))
    }
}

/// Whether blocks of this length can follow on those of the level before.
fn divides(block_len: u32, before: &Found) -> bool {
    block_len > 0 && before.unit().is_multiple_of(block_len as usize)
}

fn parse(delta: &WantDelta, seed: u64, hashes: &[u8]) -> Result<Signature, DeltaError> {
    let params = Params::from_wire(delta.block_len, delta.hash_len, seed)?;
    Signature::parse(params, delta.old_len, hashes)
}
