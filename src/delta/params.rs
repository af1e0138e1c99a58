//! How a signature is cut: block length, hash length, seed.

use super::DeltaError;

/// Shortest block, in bytes. Shorter blocks cost more to name than they save.
pub const MIN_BLOCK_LEN: u32 = 64;

/// Longest block, in bytes: the signature of a file of 512 GiB still fits into [`SIGNATURE_TARGET`].
/// The sender buffers a few blocks, so this bounds its memory as well.
pub const MAX_BLOCK_LEN: u32 = 1 << 20;

/// Block lengths are a multiple of this, in bytes: the hash works on whole words.
pub const BLOCK_STEP: u32 = 4;

/// Shortest hash, in bytes.
pub const MIN_HASH_LEN: u8 = 2;

/// Longest hash, in bytes.
pub const MAX_HASH_LEN: u8 = 8;

/// Size that a signature should not exceed, in bytes, as long as the block length can grow.
pub const SIGNATURE_TARGET: u64 = 3 << 19;

/// The block length grows with the square root of the file up to this, in bytes, and then only as
/// [`SIGNATURE_TARGET`] demands.
///
/// The square root balances a fixed number of edits against the signature. But large files (databases,
/// disk images) are edited in proportion to their size. And they consist of pages: from here on, block
/// lengths are powers of two, so that an edit in one page spoils no block of the next.
const PAGE_FRACTION: u32 = 512;

/// Contents below this, in bytes, have the shortest blocks in the cache.
const SMALL: u64 = 1 << 20;

/// Bytes of a hash in the cache.
const CACHE_HASH_LEN: u8 = 5;

/// A hash has so many bits more than the number of blocks has.
const MARGIN_BITS: u32 = 4;

/// How the old file is cut into blocks and hashed. Both sides must use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    block_len: u32,
    hash_len: u8,
    seed: u64,
}

impl Params {
    /// Parameters that make the bytes on the line few, for an old file of `old_len` bytes.
    ///
    /// `attempt` is 0 at first; from 1 on, after a rebuilt file had the wrong content, hashes have their
    /// full length. `seed` must be fresh from a source of randomness that the makers of the files cannot
    /// foresee, and new for each attempt.
    ///
    /// At attempt 0 a file is rebuilt wrongly with a probability of about 2^-4 at most, were every block
    /// changed in place; it happened to 0 to 2 files in upgrades of 908 and of 5,265. Longer hashes would
    /// cost far more bytes than these repeats do. At attempt 1, a wrong file is no accident.
    pub fn choose(old_len: u64, attempt: u8, seed: u64) -> Self {
        let mut block_len = square_root_law(old_len);
        loop {
            let hash_len = match attempt {
                0 => sufficient_hash_len(old_len / u64::from(block_len)),
                _ => MAX_HASH_LEN,
            };
            let params = Self { block_len, hash_len, seed };
            if params.signature_len(old_len) <= SIGNATURE_TARGET || block_len == MAX_BLOCK_LEN {
                return params;
            }
            block_len *= 2;
        }
    }

    /// Parameters for hashes that the sender keeps on its disk, of a content of `old_len` bytes.
    ///
    /// They cost no bytes on the line: so blocks are small, and hashes so long that one block found
    /// anywhere is evidence enough in contents up to some 500 KB. The hashes of a small content take 8 % of
    /// it, those of a large one 1 % or less, and never more than 10 MiB.
    ///
    /// At most one content in 2^6 is rebuilt wrongly because of blocks found where they are not due, as
    /// `search` sees to for every length of hash; for one of 10 KB it is one in 2^19. A block that is due
    /// and differs is taken for equal with probability 2^-39.
    pub fn for_cache(old_len: u64, seed: u64) -> Self {
        let least = if old_len < SMALL { MIN_BLOCK_LEN } else { PAGE_FRACTION };
        Self { hash_len: CACHE_HASH_LEN, ..Self::at_most_2_to_21_blocks(old_len, least, seed) }
    }

    /// Parameters for hashes that the sender makes of an old content of `old_len` bytes that it can read.
    /// A match by chance makes a patch longer, not wrong.
    pub fn for_sender(old_len: u64, seed: u64) -> Self {
        Self::at_most_2_to_21_blocks(old_len, 2 * MIN_BLOCK_LEN, seed)
    }

    /// Hashes of full length of blocks that are short, but no more than fit into 50 MB of memory with
    /// their index, as long as blocks can grow.
    fn at_most_2_to_21_blocks(old_len: u64, least: u32, seed: u64) -> Self {
        let fewest = old_len.div_ceil(1 << 21).next_power_of_two().min(MAX_BLOCK_LEN.into());
        Self { block_len: least.max(fewest as u32), hash_len: MAX_HASH_LEN, seed }
    }

    /// Checks parameters that came from the peer.
    ///
    /// # Errors
    ///
    /// [`DeltaError::BlockLength`] unless `block_len` is a multiple of [`BLOCK_STEP`] from
    /// [`MIN_BLOCK_LEN`] to [`MAX_BLOCK_LEN`], [`DeltaError::HashLength`] unless `hash_len` is
    /// from [`MIN_HASH_LEN`] to [`MAX_HASH_LEN`].
    pub fn from_wire(block_len: u32, hash_len: u8, seed: u64) -> Result<Self, DeltaError> {
        if !(MIN_BLOCK_LEN..=MAX_BLOCK_LEN).contains(&block_len)
            || !block_len.is_multiple_of(BLOCK_STEP)
        {
            return Err(DeltaError::BlockLength(block_len));
        }
        if !(MIN_HASH_LEN..=MAX_HASH_LEN).contains(&hash_len) {
            return Err(DeltaError::HashLength(hash_len));
        }
        Ok(Self { block_len, hash_len, seed })
    }

    /// Bytes in a full block.
    pub fn block_len(&self) -> u32 {
        self.block_len
    }

    /// Bytes in a hash on the line.
    pub fn hash_len(&self) -> u8 {
        self.hash_len
    }

    /// What the hash's secret constants are drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Bytes in the signature of a file of `old_len` bytes. Where the new file is hardly longer than that,
    /// a signature is not worth its cost.
    pub fn signature_len(&self, old_len: u64) -> u64 {
        old_len.div_ceil(self.block_len.into()).saturating_mul(self.hash_len.into())
    }

    /// Parameters outside the limits, so that tests can force false matches and small cases.
    #[cfg(test)]
    pub(super) fn for_tests(block_len: u32, hash_len: u8, seed: u64) -> Self {
        Self { block_len, hash_len, seed }
    }
}

/// The block length that balances signature and edits for a file of some ten kilobytes, as measured on
/// releases of Django and Linux: between 1.0 and 1.4 times the square root of the file, the optimum is flat.
fn square_root_law(old_len: u64) -> u32 {
    let len = 1.2 * (old_len as f64).sqrt();
    let len = (len as u32).clamp(MIN_BLOCK_LEN, PAGE_FRACTION);
    len.next_multiple_of(BLOCK_STEP)
}

/// Bytes of hash for so many blocks, in a first attempt.
///
/// It is enough to tell a block that is due from any other: at most one trial per block. A block that is
/// found elsewhere has to be confirmed by as many neighbours as it takes (see `search`).
fn sufficient_hash_len(blocks: u64) -> u8 {
    let bits = u64::BITS - blocks.leading_zeros() + MARGIN_BITS;
    (bits.div_ceil(8) as u8).clamp(MIN_HASH_LEN, MAX_HASH_LEN)
}
