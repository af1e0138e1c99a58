//! How a signature is cut: block length, hash length, seed.

use super::{DeltaError, PATCH_MAX};

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

/// Bytes in a block of the first of two levels.
const COARSE: u32 = 1024;

/// The same for files above [`PATCH_MAX`]: a page.
const COARSE_OF_LARGE: u32 = 4096;

/// Bytes in a block of what a new content begins with.
const BLOCK_OF_BEGINNING: u32 = 16 << 10;

/// How many blocks of the second level are in one of the first.
const FINE_RATIO: u32 = 16;

/// The same for files above [`PATCH_MAX`].
const FINE_RATIO_OF_LARGE: u32 = 32;

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
        Self::grown(square_root_law(old_len), old_len, attempt, seed)
    }

    /// Parameters for the first of two levels, for an old file of `old_len` bytes. `attempt` and `seed` are
    /// as for [`Self::choose`].
    ///
    /// Coarse blocks only have to find where the files agree at length: the second level covers about
    /// 1.5 of them for each edit. At attempt 0, one upgrade of 5,265 files in a thousand has a file that is
    /// rebuilt wrongly: each of some 12,000 edits has one chance or two of 2^-24 on either level.
    pub fn coarse(old_len: u64, attempt: u8, seed: u64) -> Self {
        let block_len = if old_len <= PATCH_MAX as u64 { COARSE } else { COARSE_OF_LARGE };
        Self::grown(block_len, old_len, attempt, seed).with_longer_hashes()
    }

    /// Parameters for an old content that is most likely how the new one begins: all blocks but the last will be
    /// found, so they may be long.
    pub fn for_beginning(old_len: u64, attempt: u8, seed: u64) -> Self {
        Self::grown(BLOCK_OF_BEGINNING, old_len, attempt, seed)
    }

    /// Parameters for the level after this one, for `unresolved` bytes. Its blocks divide this level's.
    pub fn finer(&self, unresolved: u64, attempt: u8, seed: u64) -> Self {
        let ratio = if self.block_len <= COARSE { FINE_RATIO } else { FINE_RATIO_OF_LARGE };
        let block_len = (self.block_len / ratio).max(MIN_BLOCK_LEN);
        Self::grown(block_len, unresolved, attempt, seed).with_longer_hashes()
    }

    /// One byte of hash more than bytes alone would tell: a file that is rebuilt wrongly costs the whole
    /// session another round trip, after two levels have cost one.
    fn with_longer_hashes(self) -> Self {
        Self { hash_len: (self.hash_len + 1).min(MAX_HASH_LEN), ..self }
    }

    /// Blocks of `block_len`, or as many times longer as it takes to stay below [`SIGNATURE_TARGET`].
    fn grown(mut block_len: u32, len: u64, attempt: u8, seed: u64) -> Self {
        loop {
            let hash_len = match attempt {
                0 => forced::hash_len(sufficient_hash_len(len / u64::from(block_len))),
                _ => MAX_HASH_LEN,
            };
            let params = Self { block_len, hash_len, seed };
            if params.signature_len(len) <= SIGNATURE_TARGET || block_len >= MAX_BLOCK_LEN {
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
    /// At most one content in 2^10 is rebuilt wrongly because of blocks found where they are not due, as
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
        if !(forced::hash_len(MIN_HASH_LEN)..=MAX_HASH_LEN).contains(&hash_len) {
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

#[cfg(not(test))]
mod forced {
    pub(super) fn hash_len(chosen: u8) -> u8 {
        chosen
    }
}

/// Lets tests force hashes at attempt 0 that are too short, so that files are rebuilt wrongly and the next
/// attempt has to put that right.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::Cell;

    thread_local! {
        static HASH_LEN: Cell<Option<u8>> = const { Cell::new(None) };
    }

    /// While this exists, hashes at attempt 0 have so many bytes on this thread, which may be one; and
    /// that is not refused when it comes from a peer. Both ends need it, each on its own thread.
    #[derive(Debug)]
    pub(crate) struct ShortHashes;

    impl ShortHashes {
        pub(crate) fn of(bytes: u8) -> Self {
            HASH_LEN.set(Some(bytes));
            Self
        }
    }

    impl Drop for ShortHashes {
        fn drop(&mut self) {
            HASH_LEN.set(None);
        }
    }

    pub(super) fn hash_len(chosen: u8) -> u8 {
        HASH_LEN.get().unwrap_or(chosen)
    }
}
