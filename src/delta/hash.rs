//! The block hash: a polynomial with a secret base, which rolls one byte at a time.
//!
//! A block is read as little-endian 32-bit words `w0 .. wn-1` (the last one padded with zeros) and
//! hashed as the polynomial `w0*B^(n-1) + .. + wn-1` modulo the Mersenne prime `P = 2^61 - 1`
//! (Karp and Rabin, *Efficient randomized pattern-matching algorithms*, 1987). The remainder is then
//! scrambled and truncated to the few bytes that cross the line (multiply-shift; Dietzfelbinger,
//! Hagerup, Katajainen and Penttonen 1997). Both steps are universal hashing in the sense of Carter
//! and Wegman (1979): the guarantee holds for *every* pair of blocks, over the choice of the seed.
//! Two polynomials of degree below `n` agree on fewer than `n` of about 2^60 bases, so two different
//! blocks of `L` bytes get the same hash of `b` bits with probability at most
//!
//! ```text
//! (L / 4) / 2^59.9  +  2^(1-b)
//! ```
//!
//! No strong hash stands behind it: whoever made the files could not know the seed, which is drawn
//! for each transfer, and the caller checks every rebuilt file as a whole.
//!
//! Why words and not bytes: a block costs one multiplication per four bytes instead of one per byte,
//! and the hashes of four neighbouring positions (one per alignment of the words) become four
//! independent chains, so that the processor need not wait for one multiplication to begin the next.

use super::Params;

/// The modulus, the Mersenne prime 2^61 - 1.
const P: u64 = (1 << 61) - 1;

/// Bytes in one symbol of the polynomial.
const WORD: usize = 4;

/// Words taken at a time by [`BlockHasher::polynomial`]: 32 bytes hide the latency of one reduction.
const STRIDE: usize = 8;

/// Neighbouring positions that [`Roller`] keeps the hashes of: one for each alignment of a word.
pub(super) const LANES: usize = WORD;

/// Hashes blocks under one seed.
#[derive(Debug, Clone)]
pub(super) struct BlockHasher {
    /// `powers[i]` is B^i mod P.
    powers: [u64; STRIDE + 1],
    /// `-B^n mod P`, with `n` words in a full block: takes the oldest word out of a rolling hash.
    expel: u64,
    /// Odd; spreads the remainder over the 64 bits of which the topmost are kept.
    multiplier: u64,
    /// 64 less the bits of a truncated hash.
    shift: u32,
    block_len: usize,
}

impl BlockHasher {
    pub(super) fn new(params: &Params) -> Self {
        let mut state = params.seed();
        // Below 2^60, so that `Roller` needs only one folding a step (see there); and above 2^32, so
        // that a short block of small words does not stay below the modulus.
        let base = loop {
            let candidate = split_mix(&mut state) >> 4;
            if candidate >> 32 != 0 {
                break candidate;
            }
        };
        let mut powers = [1; STRIDE + 1];
        for i in 1..powers.len() {
            powers[i] = multiply(powers[i - 1], base);
        }
        let block_len = params.block_len() as usize;
        Self {
            powers,
            expel: P - power(base, block_len / WORD),
            multiplier: split_mix(&mut state) | 1,
            shift: 64 - 8 * u32::from(params.hash_len()),
            block_len,
        }
    }

    /// Bits in a truncated hash.
    pub(super) fn bits(&self) -> u32 {
        64 - self.shift
    }

    /// The truncated hash of `block`, which may be shorter than a full block.
    pub(super) fn hash(&self, block: &[u8]) -> u64 {
        self.truncate(self.scramble(self.polynomial(block)))
    }

    /// What crosses the line of a scrambled polynomial: its topmost bits.
    pub(super) fn truncate(&self, scrambled: u64) -> u64 {
        scrambled >> self.shift
    }

    /// The polynomial of `bytes` at the base, fully reduced.
    fn polynomial(&self, bytes: &[u8]) -> u64 {
        let mut strides = bytes.chunks_exact(STRIDE * WORD);
        let mut sum = 0;
        for stride in &mut strides {
            // 2^61 * 2^61 + 8 * 2^32 * 2^61 stays far below 2^128: one reduction for all of it.
            let mut wide = u128::from(sum) * u128::from(self.powers[STRIDE]);
            for (i, word) in stride.as_chunks::<WORD>().0.iter().enumerate() {
                let word = u128::from(u32::from_le_bytes(*word));
                wide += word * u128::from(self.powers[STRIDE - 1 - i]);
            }
            sum = reduce(fold(wide));
        }
        for rest in strides.remainder().chunks(WORD) {
            let mut word = [0; WORD];
            word[..rest.len()].copy_from_slice(rest);
            let wide = u128::from(sum) * u128::from(self.powers[1]);
            sum = reduce(fold(wide + u128::from(u32::from_le_bytes(word))));
        }
        sum
    }

    /// Spreads a reduced polynomial over 64 bits.
    ///
    /// The shift makes the result non-linear in the remainder. Without it, the same edit made in two
    /// neighbouring blocks would collide in both as soon as it collides in one, and a pair of matching
    /// blocks would be no better evidence than a single one.
    #[inline]
    fn scramble(&self, remainder: u64) -> u64 {
        (remainder ^ (remainder >> 32)).wrapping_mul(self.multiplier)
    }
}

/// The hashes of full blocks at [`LANES`] neighbouring positions, moved forward together.
///
/// Lane `i` steps from position `p + i` to `p + i + 4`: it drops one word and takes one in.
#[derive(Debug)]
pub(super) struct Roller<'h> {
    hasher: &'h BlockHasher,
    /// Reduced lazily: at most 2^62 + 2^34 (see [`Self::advance`]).
    lanes: [u64; LANES],
}

impl<'h> Roller<'h> {
    /// Starts at the first bytes of `window`, which holds at least a block and `LANES - 1` bytes.
    pub(super) fn new(hasher: &'h BlockHasher, window: &[u8]) -> Self {
        let lanes = std::array::from_fn(|i| hasher.polynomial(&window[i..i + hasher.block_len]));
        Self { hasher, lanes }
    }

    /// The scrambled hashes at the present positions, not truncated yet.
    #[inline]
    pub(super) fn scrambled(&self) -> [u64; LANES] {
        // The remainder of a lane, in four steps: right for all but 2 P, for which it is P instead of 0.
        self.lanes.map(|lane| self.hasher.scramble((lane + ((lane + 1) >> 61)) & P))
    }

    /// Moves `LANES` positions forward. `oldest` are the eight bytes at the present position, `newest`
    /// those one block further on.
    ///
    /// A lane `h <= 2^62 + 2^34` becomes `fold(h*B + out*expel) + in`. The sum is below `h*2^60 + 2^93` and
    /// folds to less than `2^61 + h/2 + 2^32`; with `in` that is below `2^62 + 2^34`: the bound holds without a full reduction.
    #[inline]
    pub(super) fn advance(&mut self, oldest: &[[u8; WORD]; 2], newest: &[[u8; WORD]; 2]) {
        let (oldest, newest) = (oldest.as_flattened(), newest.as_flattened());
        let word = |bytes: &[u8], at: usize| {
            bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
        };
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let kept = u128::from(*lane) * u128::from(self.hasher.powers[1]);
            let gone = u128::from(word(oldest, i)) * u128::from(self.hasher.expel);
            *lane = fold(kept + gone) + u64::from(word(newest, i));
        }
    }
}

/// Congruent to `wide` modulo P and about 61 bits shorter: 2^61 is congruent to 1.
#[inline]
fn fold(wide: u128) -> u64 {
    (wide as u64 & P) + (wide >> 61) as u64
}

/// The remainder of a `value` below 2 P.
#[inline]
fn reduce(value: u64) -> u64 {
    if value >= P { value - P } else { value }
}

fn multiply(a: u64, b: u64) -> u64 {
    reduce(fold(u128::from(a) * u128::from(b)))
}

fn power(mut base: u64, mut exponent: usize) -> u64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

/// SplitMix64 (Steele, Lea and Flood 2014): draws the constants from the seed.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        let mut state = 7;
        (0..len).map(|_| split_mix(&mut state) as u8).collect()
    }

    /// The definition, word by word.
    fn reference(hasher: &BlockHasher, block: &[u8]) -> u64 {
        let sum = block.chunks(WORD).fold(0, |sum, rest| {
            let mut word = [0; WORD];
            word[..rest.len()].copy_from_slice(rest);
            let word = u64::from(u32::from_le_bytes(word));
            ((u128::from(sum) * u128::from(hasher.powers[1]) + u128::from(word)) % u128::from(P))
                as u64
        });
        hasher.truncate(hasher.scramble(sum))
    }

    #[test]
    fn bulk_evaluation_equals_the_definition_for_every_length() {
        let hasher = BlockHasher::new(&Params::for_tests(64, 8, 3));
        let data = bytes(200);
        for len in 0..data.len() {
            assert_eq!(hasher.hash(&data[..len]), reference(&hasher, &data[..len]), "{len}");
        }
    }

    #[test]
    fn a_rolled_hash_equals_the_hash_of_the_block_at_each_position() {
        for (block_len, seed) in [(32, 0), (68, 1), (512, u64::MAX)] {
            let hasher = BlockHasher::new(&Params::for_tests(block_len, 8, seed));
            let len = block_len as usize;
            for data in [bytes(3000), vec![0; 3000], vec![0xff; 3000]] {
                let mut roller = Roller::new(&hasher, &data);
                for at in (0..data.len() - len - 8).step_by(LANES) {
                    for (i, hash) in roller.scrambled().into_iter().enumerate() {
                        assert_eq!(hasher.truncate(hash), hasher.hash(&data[at + i..at + i + len]));
                    }
                    let word = |at: usize| data[at..at + 8].as_chunks().0.try_into().unwrap();
                    roller.advance(word(at), word(at + len));
                }
            }
        }
    }

    #[test]
    fn lazy_reduction_stays_within_its_bound_for_the_largest_operands() {
        let mut lane = (1u64 << 62) + (1 << 34);
        for _ in 0..100 {
            let wide = u128::from(lane) * ((1 << 60) - 1) + u128::from(u32::MAX) * u128::from(P);
            // The worst case of a fold: all low bits set.
            lane = P + (wide >> 61) as u64 + u64::from(u32::MAX);
            assert!(lane <= (1 << 62) + (1 << 34));
        }
    }

    #[test]
    fn truncated_hashes_of_distinct_blocks_collide_about_as_often_as_random_ones() {
        let mut collisions = 0;
        for seed in 0..64 {
            let hasher = BlockHasher::new(&Params::for_tests(64, 2, seed));
            let mut seen = vec![false; 1 << 16];
            // Blocks that differ in a counter only: 1024 of them make 8 collisions in 65,536 cells.
            for i in 0u32..1024 {
                let mut block = [b'a'; 64];
                block[20..24].copy_from_slice(&i.to_le_bytes());
                collisions +=
                    usize::from(std::mem::replace(&mut seen[hasher.hash(&block) as usize], true));
            }
        }
        assert!((200..1000).contains(&collisions), "{collisions}, expected about 512");
    }
}
