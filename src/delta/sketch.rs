//! A few numbers from which two contents are seen to resemble each other, without looking at either.
//!
//! Min-wise hashing (Broder, *On the resemblance and containment of documents*, 1997): of everything that
//! short pieces of a content hash to, some smallest values are kept, and two contents share so many of
//! these as they share pieces. Here a piece is the 32 bytes from a place that its first four bytes choose,
//! so that an insertion moves pieces and changes hardly any; one hash fills all numbers, each with the
//! smallest of its share of the values (Li, Owen and Zhang, *One permutation hashing*, 2012).
//!
//! Every byte is asked whether it is such a place, and only of one in 32 a piece is hashed. So the
//! question is one that the processor answers for eight bytes in a few steps: two multiplications of
//! 16 bits, without one place waiting for the other as in a rolling hash, which took twice the time
//! (2.5 GB/s of Linux's sources; measured on one core).

/// Numbers in a sketch.
const PARTS: usize = 8;
/// Bytes of a sketch as it is kept.
pub const SKETCH_BYTES: usize = PARTS * 4;
/// A number of which no piece was found.
const NONE: u32 = u32::MAX;
/// Bytes in a piece.
const PIECE: usize = 32;
/// One place in 32 is chosen: where the sum of the products of its first two pairs of bytes is below
/// this.
const CHOSEN: u16 = 1 << 11;
/// Odd numbers for the two pairs.
const PAIRS: [u16; 2] = [0x9e35, 0xc6a3];
/// Places that are looked at together.
const BLOCK: usize = 1024;
/// An odd number that mixes bits (the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// What the words of a piece are mixed with (digits of the roots of 2, 3, 5 and 7).
const WORDS: [u64; 4] =
    [0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

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
    /// The last bytes that have come: pieces that begin there are not complete.
    open: Vec<u8>,
    /// Of each share of the hashes the smallest.
    smallest: [u64; PARTS],
}

impl Default for Sketcher {
    fn default() -> Sketcher {
        Sketcher { open: Vec::new(), smallest: [u64::MAX; PARTS] }
    }
}

impl Sketcher {
    /// More of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut open = std::mem::take(&mut self.open);
        // Pieces that begin in what came before, and end in what comes now.
        open.extend_from_slice(&bytes[..bytes.len().min(PIECE - 1)]);
        self.take(&open);
        self.take(bytes);
        if bytes.len() >= PIECE {
            open.clear();
            open.extend_from_slice(&bytes[bytes.len() - (PIECE - 1)..]);
        }
        open.drain(..open.len().saturating_sub(PIECE - 1));
        self.open = open;
    }

    /// All pieces that lie in these bytes.
    fn take(&mut self, bytes: &[u8]) {
        let Some(places) = (bytes.len() + 1).checked_sub(PIECE) else { return };
        let mut chosen = [[0; BLOCK / 2]; 2];
        for start in (0..places).step_by(BLOCK) {
            let here = &bytes[start..bytes.len().min(start + BLOCK + PIECE - 1)];
            for (odd, chosen) in chosen.iter_mut().enumerate() {
                let here = &here[odd..];
                choose(here, chosen);
                let complete = (here.len() + 1).saturating_sub(PIECE).div_ceil(2);
                chosen[complete.min(BLOCK / 2)..].fill(0);
                self.note_chosen(here, chosen);
            }
        }
    }

    /// Hashes the pieces at every second place, as far as it was chosen.
    fn note_chosen(&mut self, bytes: &[u8], chosen: &[u8; BLOCK / 2]) {
        let (eights, _) = chosen.as_chunks::<8>();
        for (at, eight) in eights.iter().enumerate() {
            let mut marks = u64::from_le_bytes(*eight);
            while marks != 0 {
                let place = 2 * (8 * at + marks.trailing_zeros() as usize / 8);
                marks &= marks - 1;
                if let Some(piece) = bytes.get(place..).and_then(|rest| rest.first_chunk()) {
                    let hash = hash(piece);
                    let smallest = &mut self.smallest[(hash >> 61) as usize];
                    *smallest = hash.min(*smallest);
                }
            }
        }
    }

    /// The sketch of what has come.
    pub fn finish(self) -> Sketch {
        // The smallest hashes begin with zeros: all of their bits make up a number.
        let number = |hash: u64| ((hash ^ hash >> 29).wrapping_mul(MIX) >> 32) as u32;
        Sketch(self.smallest.map(|hash| if hash == u64::MAX { NONE } else { number(hash) }))
    }
}

/// Marks with 1 the places that are chosen of every second one, from the first on.
fn choose(bytes: &[u8], chosen: &mut [u8; BLOCK / 2]) {
    let (first, _) = bytes.as_chunks::<2>();
    let (second, _) = bytes[2..].as_chunks::<2>();
    for ((first, second), chosen) in first.iter().zip(second).zip(chosen) {
        let first = u16::from_le_bytes(*first).wrapping_mul(PAIRS[0]);
        let second = u16::from_le_bytes(*second).wrapping_mul(PAIRS[1]);
        *chosen = u8::from(first.wrapping_add(second) < CHOSEN);
    }
}

/// The hash of a piece: two products of 128 bits, of which the halves are added (as in wyhash).
fn hash(piece: &[u8; PIECE]) -> u64 {
    let (words, _) = piece.as_chunks::<8>();
    let word = |at: usize| u64::from_le_bytes(words[at]) ^ WORDS[at];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    (fold(word(0), word(1)) ^ fold(word(2), word(3)).rotate_left(32)).wrapping_mul(MIX)
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
