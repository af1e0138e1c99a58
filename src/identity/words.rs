//! A key in few enough words to be read out over a telephone.

use std::fmt;

use super::PublicKey;

/// Sixteen consonants, each unlike the others to the ear; `c`, `j`, `q`, `x` and `y` sound like others.
const CONSONANTS: &[u8; 16] = b"bdfghklmnprstvwz";
/// Four vowels.
const VOWELS: &[u8; 4] = b"aeio";
/// Words in a fingerprint, of 16 bits each: nobody finds a second key with the same ones.
const WORDS: usize = 8;

/// 128 bits of a BLAKE3 hash over a public key: as words, or with `{:x}` as hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 2 * WORDS]);

impl Fingerprint {
    /// Of a key.
    pub fn of(key: &PublicKey) -> Fingerprint {
        let mut bits = [0; 2 * WORDS];
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 fingerprint");
        hasher.update(key.as_bytes()).finalize_xof().fill(&mut bits);
        Fingerprint(bits)
    }
}

/// Two bytes as five letters: consonants of four bits, and between them vowels of two.
fn word(bits: u16) -> String {
    let consonant = |shift: u16| CONSONANTS[usize::from(bits >> shift & 15)] as char;
    let vowel = |shift: u16| VOWELS[usize::from(bits >> shift & 3)] as char;
    [consonant(12), vowel(10), consonant(6), vowel(4), consonant(0)].iter().collect()
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.chunks(2).map(|pair| word(u16::from_be_bytes([pair[0], pair[1]])));
        f.write_str(&words.collect::<Vec<_>>().join("-"))
    }
}

impl fmt::LowerHex for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_two_bytes_have_a_word_of_their_own() {
        let words: HashSet<String> = (0..=u16::MAX).map(word).collect();
        assert_eq!(words.len(), 1 << 16);
        assert!(words.iter().all(|word| word.len() == 5));
    }

    #[test]
    fn a_fingerprint_changes_with_its_key_and_stays_with_it() {
        let fingerprint = |byte| Fingerprint::of(&PublicKey::new([byte; 32]));
        assert_eq!(fingerprint(1).to_string(), fingerprint(1).to_string());
        assert_ne!(fingerprint(1).to_string(), fingerprint(2).to_string());
        assert_eq!(fingerprint(1).to_string().split('-').count(), 8);
        assert_eq!(format!("{:x}", fingerprint(1)).len(), 32);
    }
}
