//! A few numbers from which two contents are seen to resemble each other, without looking at either.
//!
//! Min-wise hashing (Broder, *On the resemblance and containment of documents*, 1997): of everything that
//! short pieces of a content hash to, some smallest values are kept, and two contents share so many of
//! these as they share pieces. Here a piece is the 32 bytes before a place that their own hash chooses, so
//! that an insertion moves pieces and changes hardly any; one hash fills all numbers, each with the smallest
//! of its share of the values (Li, Owen and Zhang, *One permutation hashing*, 2012). That takes one addition
//! and one shift a byte, and one multiplication for each place that is chosen.

/// Numbers in a sketch.
const PARTS: usize = 8;
/// Bytes of a sketch as it is kept.
pub const SKETCH_BYTES: usize = PARTS * 4;
/// A number of which no piece was found.
const NONE: u32 = u32::MAX;
/// Bytes in a piece: what came earlier has been shifted out at the top.
const PIECE: usize = 32;
/// One place in eight is chosen: where the rolling hash is below this.
const CHOSEN: u64 = 1 << 61;
/// Bytes that are looked at together.
const BLOCK: usize = 1024;
/// An odd number that mixes bits (the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is kept of a content's pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sketch([u32; PARTS]);

impl Sketch {
    /// Of a content that is at hand.
    pub fn of(content: &[u8]) -> Sketch {
        let mut sketcher = Sketcher::default();
        sketcher.update(content);
        sketcher.finish()
    }

    /// As it is kept.
    pub fn to_bytes(self) -> [u8; SKETCH_BYTES] {
        let mut bytes = [0; SKETCH_BYTES];
        for (part, value) in bytes.chunks_exact_mut(4).zip(self.0) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// From what was kept.
    pub fn from_bytes(bytes: [u8; SKETCH_BYTES]) -> Sketch {
        let (parts, _) = bytes.as_chunks::<4>();
        Sketch(std::array::from_fn(|at| u32::from_le_bytes(parts[at])))
    }

    /// The numbers that pieces have, in no order of use.
    pub fn parts(self) -> impl Iterator<Item = u32> {
        self.0.into_iter().filter(|part| *part != NONE)
    }

    /// How many of the eight numbers two contents share. Each is shared with the probability with
    /// which a piece that is in either of them is in both; by chance with 2^-32.
    pub fn shared_with(&self, other: &Sketch) -> usize {
        let pairs = self.0.iter().zip(&other.0);
        pairs.filter(|(ours, theirs)| ours == theirs && **ours != NONE).count()
    }
}

/// Makes a sketch of a content that comes piece by piece.
#[derive(Debug)]
pub struct Sketcher {
    rolling: u64,
    /// Of each share of the hashes the smallest.
    smallest: [u64; PARTS],
}

impl Default for Sketcher {
    fn default() -> Sketcher {
        Sketcher { rolling: 0, smallest: [u64::MAX; PARTS] }
    }
}

impl Sketcher {
    /// More of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        bytes.chunks(BLOCK).for_each(|block| self.take(block));
    }

    /// Rolls over both halves of a block by turns, as each step waits for the one before it; and
    /// notes places without asking, as the processor would guess wrong about each that is chosen.
    fn take(&mut self, block: &[u8]) {
        let mut chosen = [0; BLOCK];
        let mut count = 0;
        let mut look = |rolling: u64| {
            chosen[count % BLOCK] = rolling;
            count += usize::from(rolling < CHOSEN);
        };
        let (first, second) = block.split_at(block.len() / 2);
        let mut here = self.rolling;
        let mut there = match first.last_chunk::<PIECE>() {
            Some(last) => last.iter().fold(0, roll),
            None => first.iter().fold(here, roll),
        };
        for (one, other) in first.iter().zip(second) {
            here = roll(here, one);
            look(here);
            there = roll(there, other);
            look(there);
        }
        for byte in &second[first.len()..] {
            there = roll(there, byte);
            look(there);
        }
        self.rolling = there;
        for rolling in &chosen[..count] {
            let hash = rolling.wrapping_mul(MIX);
            let smallest = &mut self.smallest[(hash >> 61) as usize];
            *smallest = hash.min(*smallest);
        }
    }

    /// The sketch of what has come.
    pub fn finish(self) -> Sketch {
        // The smallest hashes begin with zeros: all of their bits make up a number.
        let number = |hash: u64| ((hash ^ hash >> 29).wrapping_mul(MIX) >> 32) as u32;
        Sketch(self.smallest.map(|hash| if hash == u64::MAX { NONE } else { number(hash) }))
    }
}

/// One byte further.
fn roll(rolling: u64, byte: &u8) -> u64 {
    (rolling << 2).wrapping_add(VALUES[usize::from(*byte)])
}

/// An arbitrary number for each byte (SplitMix64).
const VALUES: [u64; 256] = values();

const fn values() -> [u64; 256] {
    let mut values = [0; 256];
    let mut state = 0u64;
    let mut at = 0;
    while at < values.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        values[at] = z ^ (z >> 31);
        at += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(seed: u64, count: u64) -> Vec<u8> {
        let line = |n: u64| format!("line {n}: {}\n", blake3::hash(&(seed + n).to_le_bytes()));
        (0..count).flat_map(|n| line(n).into_bytes()).collect()
    }

    #[test]
    fn a_content_resembles_itself_with_some_lines_inserted_and_changed() {
        for size in [20, 200, 20_000] {
            let old = lines(1, size);
            let mut new = old.clone();
            new.splice(700..710, *b"something else that is longer");
            new.splice(0..0, *b"a heading\n");
            assert!(Sketch::of(&old).shared_with(&Sketch::of(&new)) >= 4, "{size}");
        }
    }

    #[test]
    fn of_two_contents_with_half_of_their_lines_in_common_some_numbers_are() {
        let found = (0..20).filter(|seed| {
            let common = lines(seed * 1000, 300);
            let one = [&common[..], &lines(1 << 40, 300)].concat();
            let other = [lines(1 << 41, 300), common].concat();
            Sketch::of(&one).shared_with(&Sketch::of(&other)) >= 2
        });
        // A third of all pieces is in both.
        assert!(found.count() >= 14);
    }

    #[test]
    fn contents_that_have_nothing_in_common_share_no_number() {
        let sketches: Vec<Sketch> = (0..100).map(|n| Sketch::of(&lines(n << 32, 100))).collect();
        for (at, one) in sketches.iter().enumerate() {
            assert!(sketches[..at].iter().all(|other| one.shared_with(other) == 0));
        }
        assert_eq!(Sketch::of(b"").shared_with(&Sketch::of(b"")), 0);
    }

    #[test]
    fn a_sketch_is_the_same_however_the_content_comes_and_as_it_is_kept() {
        let content = lines(5, 100);
        let mut sketcher = Sketcher::default();
        content.chunks(7).for_each(|piece| sketcher.update(piece));
        let sketch = sketcher.finish();
        assert_eq!(sketch, Sketch::of(&content));
        assert_eq!(Sketch::from_bytes(sketch.to_bytes()), sketch);
    }
}
