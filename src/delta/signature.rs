//! The signature of an old file: one short hash per block, and the index to find blocks by hash.

use super::filter::Filter;
use super::hash::BlockHasher;
use super::{DeltaError, Params};

/// Slots looked at for one hash. An honest signature hardly ever needs more than a handful in a table
/// that is at most half full; a hostile one that aims all its hashes at one place gets its blocks
/// overlooked instead of the sender's time.
const MAX_PROBES: usize = 32;

/// Blocks that share a hash from which on they are not looked for. Content that common (zeros, mostly) is
/// no evidence: were it accepted as a neighbour that confirms a match, one short hash alone would decide.
/// It still matches where it is due.
const COMMON: u8 = 4;

/// Bytes from which on a tail that matches is evidence for the block before it.
const LEAST_TAIL: usize = 8;

/// Marks a slot that nothing was ever put into.
const FREE: u32 = u32::MAX;

/// Marks a slot whose blocks turned out to be common.
const DROPPED: u32 = u32::MAX - 1;

/// Makes a signature from the old file's bytes, fed in any pieces.
#[derive(Debug)]
pub struct SignatureBuilder {
    hasher: BlockHasher,
    params: Params,
    /// The beginning of a block whose end has not come yet.
    partial: Vec<u8>,
    packed: Vec<u8>,
}

impl SignatureBuilder {
    /// Starts an empty signature.
    pub fn new(params: Params) -> Self {
        Self { hasher: BlockHasher::new(&params), params, partial: Vec::new(), packed: Vec::new() }
    }

    /// Takes the next bytes of the old file.
    pub fn update(&mut self, mut data: &[u8]) {
        let block_len = self.params.block_len() as usize;
        if !self.partial.is_empty() {
            let (head, rest) = data.split_at(data.len().min(block_len - self.partial.len()));
            self.partial.extend_from_slice(head);
            data = rest;
            if self.partial.len() < block_len {
                return;
            }
            let block = std::mem::take(&mut self.partial);
            self.push_hash(&block);
        }
        let mut blocks = data.chunks_exact(block_len);
        for block in &mut blocks {
            self.push_hash(block);
        }
        self.partial.extend_from_slice(blocks.remainder());
    }

    /// The packed hashes: [`Params::hash_len`] bytes, little-endian, for each full block in order, and
    /// for the shorter tail if there is one.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.partial.is_empty() {
            let tail = std::mem::take(&mut self.partial);
            self.push_hash(&tail);
        }
        self.packed
    }

    fn push_hash(&mut self, block: &[u8]) {
        let hash = self.hasher.hash(block).to_le_bytes();
        let hash_len = usize::from(self.params.hash_len());
        self.packed.extend_from_slice(&hash[..hash_len]);
    }
}

/// A signature as the sender uses it: checked, and indexed by hash.
#[derive(Debug)]
pub struct Signature {
    hasher: BlockHasher,
    layout: Layout,
    /// One hash per block, the tail's last.
    hashes: Vec<u64>,
    filter: Filter,
    /// Open addressing with linear probing: numbers of full blocks, `FREE` or `DROPPED`.
    slots: Vec<u32>,
}

impl Signature {
    /// Reads the packed hashes of a file of `old_len` bytes.
    ///
    /// # Errors
    ///
    /// [`DeltaError::SignatureLength`] unless `packed` has exactly one hash for each block,
    /// [`DeltaError::TooManyBlocks`] from 2^32 - 2 blocks on.
    pub fn parse(params: Params, old_len: u64, packed: &[u8]) -> Result<Self, DeltaError> {
        let layout = Layout::new(&params, old_len);
        let expected = layout.blocks().checked_mul(u64::from(params.hash_len()));
        if expected != Some(packed.len() as u64) {
            let (blocks, bytes) = (layout.blocks(), packed.len());
            return Err(DeltaError::SignatureLength { blocks, bytes });
        }
        if layout.blocks() >= u64::from(DROPPED) {
            return Err(DeltaError::TooManyBlocks(layout.blocks()));
        }
        let hashes = packed.chunks_exact(usize::from(params.hash_len())).map(|hash| {
            let mut word = [0; 8];
            word[..hash.len()].copy_from_slice(hash);
            u64::from_le_bytes(word)
        });
        let mut signature = Self {
            hasher: BlockHasher::new(&params),
            layout,
            hashes: hashes.collect(),
            filter: Filter::new(layout.full_blocks as usize),
            slots: Vec::new(),
        };
        signature.build_index();
        Ok(signature)
    }

    /// The old file's division into blocks.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn hasher(&self) -> &BlockHasher {
        &self.hasher
    }

    /// The hash of `block`, which exists.
    pub(super) fn hash_of(&self, block: u64) -> u64 {
        self.hashes[block as usize]
    }

    /// Turns away hashes that no block can be found by; they need not be truncated.
    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The first full block with this hash, unless it is a common one.
    pub(super) fn find(&self, hash: u64) -> Option<u64> {
        let block = self.slots[self.probe(hash)?];
        (block < DROPPED).then_some(block.into())
    }

    /// Whether a match with `block` says something. The tail counts, as there is only one, unless it is so
    /// short that other bytes are often the same.
    pub(super) fn is_evidence(&self, block: u64) -> bool {
        match block >= self.layout.full_blocks {
            true => self.layout.tail_len >= LEAST_TAIL,
            false => self.find(self.hash_of(block)).is_some(),
        }
    }

    /// Slots that hold a block or held one.
    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.iter().filter(|&&slot| slot != FREE).count()
    }

    fn build_index(&mut self) {
        let full = self.layout.full_blocks as usize;
        self.slots = vec![FREE; (2 * full).next_power_of_two()];
        let mut copies = vec![0u8; self.slots.len()];
        for block in 0..full {
            // Of equal blocks the first is kept. A run of them still matches in sequence, because the
            // search tries the block that is due before it looks anything up.
            if let Some(slot) = self.probe(self.hashes[block]) {
                copies[slot] = copies[slot].saturating_add(1);
                self.slots[slot] = self.slots[slot].min(block as u32);
            }
        }

        for (slot, copies) in self.slots.iter_mut().zip(copies) {
            if copies >= COMMON {
                *slot = DROPPED;
            } else if *slot != FREE {
                self.filter.insert(self.hashes[*slot as usize], self.hasher.bits());
            }
        }
    }

    /// The slot that holds a block with this hash, or else the free one where it belongs; `None` if
    /// neither comes up within `MAX_PROBES`.
    fn probe(&self, hash: u64) -> Option<usize> {
        let mask = self.slots.len() - 1;
        // The hash is already scrambled, but may have fewer bits than the table's address.
        let start = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) as usize;
        (0..MAX_PROBES).map(|i| start.wrapping_add(i) & mask).find(|&slot| match self.slots[slot] {
            FREE => true,
            DROPPED => false,
            block => self.hashes[block as usize] == hash,
        })
    }
}

/// How a file divides into full blocks and a tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) block_len: usize,
    pub(super) full_blocks: u64,
    /// Bytes after the last full block, fewer than a block.
    pub(super) tail_len: usize,
}

impl Layout {
    pub(super) fn new(params: &Params, old_len: u64) -> Self {
        let block_len = u64::from(params.block_len());
        Self {
            block_len: params.block_len() as usize,
            full_blocks: old_len / block_len,
            tail_len: (old_len % block_len) as usize,
        }
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> usize {
        self.full_blocks as usize * self.block_len + self.tail_len
    }

    /// Number of blocks, a tail included.
    pub(super) fn blocks(&self) -> u64 {
        self.full_blocks + u64::from(self.tail_len > 0)
    }

    /// Bytes in a block; `None` if there is no such block.
    pub(super) fn len_of(&self, block: u64) -> Option<usize> {
        if block < self.full_blocks {
            Some(self.block_len)
        } else {
            (block < self.blocks()).then_some(self.tail_len)
        }
    }
}
