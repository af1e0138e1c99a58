//! Turns away hashes that no block has, for the price of a load from the processor's cache.

use super::hash::LANES;

/// Bits of the near part, as a power of two: its 32 KiB stay in the first cache.
const NEAR_BITS: u32 = 18;

const NEAR_WORDS: usize = 1 << (NEAR_BITS - 6);

/// Bits of the far part for each block: one foreign hash in 64 passes it, as long as it can grow.
const FAR_BITS_PER_BLOCK: usize = 64;

/// The far part's greatest size, as a power of two of bits: 1 MiB stays in the second cache.
const MAX_FAR_BITS: u32 = 23;

/// One bit for each value of a hash's topmost bits: set where some block has it.
///
/// A near part is small enough to be asked for every position. What passes it is looked up in a
/// far part, which is there only for so many blocks that the near part fills up.
#[derive(Debug)]
pub(super) struct Filter {
    near: Box<[u64; NEAR_WORDS]>,
    far: Vec<u64>,
    far_bits: u32,
}

impl Filter {
    /// An empty filter for the hashes of `blocks` blocks.
    pub(super) fn new(blocks: usize) -> Self {
        let wanted = blocks.saturating_mul(FAR_BITS_PER_BLOCK).max(1).ilog2() + 1;
        let far_bits = if wanted <= NEAR_BITS { 0 } else { wanted.min(MAX_FAR_BITS) };
        let far = vec![0; (1 << far_bits) / 64];
        Self { near: Box::new([0; NEAR_WORDS]), far, far_bits }
    }

    /// Lets a `hash` pass of which only the topmost `bits` are known; they are given as a number.
    pub(super) fn insert(&mut self, hash: u64, bits: u32) {
        mark(&mut *self.near, NEAR_BITS, hash, bits);
        mark(&mut self.far, self.far_bits, hash, bits);
    }

    /// False if surely none of these hashes passes.
    #[inline]
    pub(super) fn may_contain_any(&self, hashes: [u64; LANES]) -> bool {
        hashes.into_iter().any(|hash| contains(&*self.near, hash >> (64 - NEAR_BITS)))
    }

    /// False if surely this hash does not pass.
    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        contains(&*self.near, hash >> (64 - NEAR_BITS))
            && (self.far.is_empty() || contains(&self.far, hash >> (64 - self.far_bits)))
    }
}

#[inline]
fn contains(words: &[u64], bit: u64) -> bool {
    words[(bit / 64) as usize] & (1 << (bit % 64)) != 0
}

/// Sets the bits for all values that begin with the `bits` of a truncated hash.
fn mark(words: &mut [u64], address_bits: u32, hash: u64, bits: u32) {
    if words.is_empty() {
        return;
    }
    let unknown = address_bits.saturating_sub(bits);
    let first = (hash >> bits.saturating_sub(address_bits)) << unknown;
    for bit in first..first + (1 << unknown) {
        words[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_passes_and_hardly_anything_else_does() {
        let hash = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(7);
        for (blocks, bits) in [(0, 64), (100, 16), (1000, 24), (20_000, 32), (200_000, 64)] {
            let mut filter = Filter::new(blocks as usize);
            (0..blocks).for_each(|i| filter.insert(hash(i) >> (64 - bits), bits));
            assert!((0..blocks).all(|i| filter.may_contain(hash(i))));
            assert!((0..blocks).all(|i| filter.may_contain_any([0, 1, hash(i), 2])));
            let others = (0..10_000).filter(|i| filter.may_contain(hash(i + 1_000_000)));
            let passed = others.count();
            assert!(passed < 400, "{passed} of 10,000 for {blocks} blocks of {bits} bits");
        }
    }
}
