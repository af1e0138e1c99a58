//! Where two contents that are both at hand agree: the copies that make the new one from the old one.
//!
//! Greedy, one pass over the new content, as in rsync's search but without hashes that could deceive:
//! candidates are compared byte by byte, and a match is extended in both directions.

/// Bytes of the old content that are indexed together; a match of fewer than twice as many may be missed.
const GRAIN: usize = 32;

/// Shortest copy, in bytes. What is shorter is left to zstd, which names it in fewer bytes.
pub(super) const MIN_COPY: usize = 96;

/// No entry in the index.
const FREE: u32 = u32::MAX;

/// Bytes that stand in the old content and in the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Where they stand in the old content.
    pub(super) old: usize,
    /// Where they stand in the new content.
    pub(super) new: usize,
    /// How many they are.
    pub(super) len: usize,
}

impl Copy {
    /// Whether both together are one copy.
    pub(super) fn is_followed_by(&self, next: &Copy) -> bool {
        self.old + self.len == next.old && self.new + self.len == next.new
    }
}

/// The copies that make `new` from `old`, in the order of the new content and without overlap there.
///
/// Linear in both lengths whatever they contain: a candidate that does not become a copy costs at most
/// [`MIN_COPY`] comparisons. Memory: 8 bytes for each [`GRAIN`] of the old content at most.
pub(super) fn copies(old: &[u8], new: &[u8]) -> Vec<Copy> {
    let index = Index::new(old);
    let mut copies = Vec::new();
    // Everything before `done` is covered or given up; `shift` is where the last copy came from.
    let (mut at, mut done, mut shift) = (0, 0, 0isize);
    while let Some(grain) = new[at..].first_chunk::<GRAIN>() {
        let in_place = at.checked_add_signed(shift).filter(|&place| stands_at(old, place, grain));
        let candidate = in_place.or_else(|| index.find(old, grain));
        let copy = candidate.map(|place| extend(old, new, place, at, done));
        match copy.filter(|copy| copy.len >= MIN_COPY) {
            Some(copy) => {
                at = copy.new + copy.len;
                done = at;
                shift = copy.old as isize - copy.new as isize;
                copies.push(copy);
            }
            None => at += 1,
        }
    }
    copies.extend(common_end(old, new, done));
    copies
}

/// The longest match around `new[at..]` and `old[place..]` that leaves `new[..done]` alone.
fn extend(old: &[u8], new: &[u8], place: usize, at: usize, done: usize) -> Copy {
    let after = common_prefix(&old[place..], &new[at..]);
    let before = common_suffix(&old[..place], &new[done..at]);
    Copy { old: place - before, new: at - before, len: before + after }
}

/// The end that both have in common, if it is worth naming: too short for the index, but it costs only
/// two bytes (see `patch`).
fn common_end(old: &[u8], new: &[u8], done: usize) -> Option<Copy> {
    let len = common_suffix(old, &new[done..]);
    (len >= GRAIN / 2).then_some(Copy { old: old.len() - len, new: new.len() - len, len })
}

fn stands_at(old: &[u8], place: usize, grain: &[u8; GRAIN]) -> bool {
    old.get(place..place + GRAIN).is_some_and(|bytes| bytes == grain)
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let long = a.chunks_exact(GRAIN).zip(b.chunks_exact(GRAIN)).take_while(|(a, b)| a == b);
    let long = long.count() * GRAIN;
    long + a[long..].iter().zip(&b[long..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// The first place of each grain of the old content; of two with the same hash only the first.
#[derive(Debug)]
struct Index {
    grains: Vec<u32>,
    shift: u32,
}

impl Index {
    fn new(old: &[u8]) -> Self {
        let bits = (2 * old.len() / GRAIN).max(2).next_power_of_two().ilog2();
        let mut index = Self { grains: vec![FREE; 1 << bits], shift: 64 - bits };
        for (number, grain) in old.as_chunks::<GRAIN>().0.iter().enumerate().rev() {
            let slot = index.slot(grain);
            index.grains[slot] = number as u32;
        }
        index
    }

    fn find(&self, old: &[u8], grain: &[u8; GRAIN]) -> Option<usize> {
        let number = self.grains[self.slot(grain)];
        let place = number as usize * GRAIN;
        (number != FREE && stands_at(old, place, grain)).then_some(place)
    }

    fn slot(&self, grain: &[u8; GRAIN]) -> usize {
        let words = grain.as_chunks::<8>().0;
        let word = |i: usize| u64::from_le_bytes(words[i]);
        // Two independent products; odd constants from the digits of the golden ratio and of pi.
        let low = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(1).rotate_left(29);
        let high = word(2).wrapping_mul(0x2437_f6a8_885a_308d) ^ word(3).rotate_left(31);
        let mixed = (low ^ (low >> 32)).wrapping_add((high ^ (high >> 29)).rotate_left(17));
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
        range.flat_map(|i| format!("line {i} of a file, {}\n", i * i).into_bytes()).collect()
    }

    #[test]
    fn a_line_that_is_put_in_lies_between_two_copies_that_are_exact_to_the_byte() {
        let old = lines(0..100);
        let at = lines(0..50).len();
        let mut new = old.clone();
        new.splice(at..at, *b"NEW");
        let expected =
            [Copy { old: 0, new: 0, len: at }, Copy { old: at, new: at + 3, len: old.len() - at }];
        assert_eq!(copies(&old, &new), expected);
    }

    #[test]
    fn what_moved_is_found_where_it_was() {
        let (old, mut new) = (lines(0..200), lines(100..200));
        new.extend(lines(0..100));
        let copied: usize = copies(&old, &new).iter().map(|copy| copy.len).sum();
        assert!(copied + 2 * MIN_COPY > new.len());
    }

    #[test]
    fn a_short_common_end_is_found() {
        let end = b"twenty bytes at the end";
        let (mut old, mut new) = (lines(0..9), lines(1000..1009));
        old.extend(end);
        new.extend(end);
        let copy = copies(&old, &new).pop().expect("the end");
        assert!(copy.len >= end.len() && copy.new + copy.len == new.len());
        assert_eq!(copy.old + copy.len, old.len());
    }
}
