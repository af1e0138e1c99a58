//! How two machines that do not know each other's keys come to know them, while two people compare a
//! short code: the words that travel, and the code. Values only.
//!
//! ```text
//! the end that calls            the end that listens
//! Commit: hash of its nonce ->
//!                           <-  Nonce
//! Reveal: its nonce         ->
//!      both show a code over both keys and both nonces, and ask whether the other one is the same
//! Yes                      <->  Yes
//!      both ask what the other may do here
//!                           <-  Ready
//! Written                   ->
//!                           <-  Written
//! ```
//!
//! They travel inside TLS 1.3, in which each end has proved that it has its key; what nobody knows
//! yet is whether that is the key of the machine meant. Somebody in the middle has one key towards
//! each end, so the two codes are over different keys. With a code alone such a one would try nonces
//! until both codes are the same. So the calling end commits itself to its nonce before it has seen the
//! other one, and shows it after that: whoever is in the middle has to choose each nonce before it can
//! know what code comes of it, and has one guess in a million each time that two people pair.
//!
//! That is the scheme of S. Vaudenay, "Secure Communications over Insecure Channels Based on Short
//! Authenticated Strings" (CRYPTO 2005), as ZRTP (RFC 6189, section 4.4.1.1) and the numeric
//! comparison of Bluetooth's Secure Simple Pairing use it.

use std::fmt;

use super::{PublicKey, is_module_name};

/// How many codes there are: six digits.
const CODES: u64 = 1_000_000;
/// Most bytes that follow the two that say what a word is and how long.
pub const WORD_MAX: usize = 255;

/// What an end adds to the code by chance.
pub type Nonce = [u8; 32];

/// A promise of a nonce that does not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// Of the calling end, which has this key, to its nonce.
    pub fn of(key: &PublicKey, nonce: &Nonce) -> Commitment {
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 pairing commitment");
        Commitment(hasher.update(key.as_bytes()).update(nonce).finalize().into())
    }
}

/// What two people compare: six digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    /// Of the key and nonce of the end that called, and of those of the end that listened.
    pub fn of(caller: (&PublicKey, &Nonce), listener: (&PublicKey, &Nonce)) -> Code {
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 pairing code");
        for (key, nonce) in [caller, listener] {
            hasher.update(key.as_bytes()).update(nonce);
        }
        let mut bits = [0; 8];
        hasher.finalize_xof().fill(&mut bits);
        Code((u64::from_be_bytes(bits) % CODES) as u32)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03} {:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// What an end tells of itself once its person has said that the codes are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// What the machine calls itself: a proposal, no more.
    pub name: String,
    /// The port at which its daemon listens, or would.
    pub port: u16,
}

/// What one end says to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The calling end has a nonce.
    Commit(Commitment),
    /// The listening end's nonce.
    Nonce(Nonce),
    /// The calling end's nonce.
    Reveal(Nonce),
    /// The person here says that the codes are the same.
    Yes(Introduction),
    /// The listening end has been told everything that it has to know.
    Ready,
    /// This end has written down who the other one is.
    Written,
    /// Nothing comes of it.
    No,
}

impl Word {
    /// The bytes on the line: what it is, how long the rest is, the rest.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Word::Commit(commitment) => (1, commitment.0.to_vec()),
            Word::Nonce(nonce) => (2, nonce.to_vec()),
            Word::Reveal(nonce) => (3, nonce.to_vec()),
            Word::Yes(Introduction { name, port }) => {
                (4, [&port.to_be_bytes(), name.as_bytes()].concat())
            }
            Word::Ready => (5, Vec::new()),
            Word::Written => (6, Vec::new()),
            Word::No => (7, Vec::new()),
        };
        let mut bytes = vec![kind, body.len() as u8];
        bytes.extend(body);
        bytes
    }

    /// From what it is, and the bytes after its length. None where that makes no sense.
    pub fn decode(kind: u8, body: &[u8]) -> Option<Word> {
        Some(match (kind, body) {
            (1, body) => Word::Commit(Commitment(body.try_into().ok()?)),
            (2, body) => Word::Nonce(body.try_into().ok()?),
            (3, body) => Word::Reveal(body.try_into().ok()?),
            (4, [high, low, name @ ..]) => {
                let name = std::str::from_utf8(name).ok().filter(|name| is_peer_name(name))?;
                let port = u16::from_be_bytes([*high, *low]);
                Word::Yes(Introduction { name: name.to_string(), port })
            }
            (5, []) => Word::Ready,
            (6, []) => Word::Written,
            (7, []) => Word::No,
            _ => return None,
        })
    }
}

/// Whether a peer may be called so where people do not write the line themselves: what needs no
/// escaping anywhere.
pub fn is_peer_name(name: &str) -> bool {
    is_module_name(name)
}

/// The name that a machine proposes for itself, made of what its system calls it.
pub fn peer_name(system: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = system.chars().map(plain).take(64).collect();
    let name = name.trim_start_matches(['.', '-']);
    if is_peer_name(name) { name.to_string() } else { "peer".to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn words() -> Vec<Word> {
        let introduction = Introduction { name: "ana-laptop".into(), port: 8730 };
        vec![
            Word::Commit(Commitment::of(&key(1), &[2; 32])),
            Word::Nonce([3; 32]),
            Word::Reveal([2; 32]),
            Word::Yes(introduction),
            Word::Ready,
            Word::Written,
            Word::No,
        ]
    }

    #[test]
    fn a_word_comes_as_it_went() {
        for word in words() {
            let bytes = word.encode();
            assert_eq!(usize::from(bytes[1]), bytes.len() - 2);
            assert_eq!(Word::decode(bytes[0], &bytes[2..]), Some(word));
        }
    }

    #[test]
    fn a_word_that_is_too_short_too_long_or_unknown_is_none() {
        for word in words() {
            let bytes = word.encode();
            let (kind, body) = (bytes[0], &bytes[2..]);
            let longer = [body, &[0; 40]].concat();
            assert_eq!(Word::decode(kind, &longer), None, "{word:?}");
            if !body.is_empty() && !matches!(word, Word::Yes(_)) {
                assert_eq!(Word::decode(kind, &body[1..]), None, "{word:?}");
            }
        }
        assert_eq!(Word::decode(0, &[]), None);
        assert_eq!(Word::decode(8, &[]), None);
        for name in ["", "a b", "a\u{1b}[2J", "a=b", "-a", &"a".repeat(65)] {
            assert_eq!(Word::decode(4, &[&[34, 26], name.as_bytes()].concat()), None, "{name:?}");
        }
    }

    #[test]
    fn whatever_comes_is_a_word_that_would_be_said_so_or_none() {
        let mut bits = [0; 256];
        for kind in 0..=255 {
            for length in 0..=255_usize {
                let text = blake3::hash(&[kind, length as u8]).to_hex();
                bits[2..].iter_mut().zip(text.bytes().cycle()).for_each(|(bit, c)| *bit = c);
                if let Some(word) = Word::decode(kind, &bits[..length]) {
                    assert_eq!(word.encode(), [&[kind, length as u8], &bits[..length]].concat());
                }
            }
        }
    }

    #[test]
    fn the_code_changes_with_each_key_each_nonce_and_the_roles() {
        let code = Code::of((&key(1), &[1; 32]), (&key(2), &[2; 32]));
        for other in [
            Code::of((&key(3), &[1; 32]), (&key(2), &[2; 32])),
            Code::of((&key(1), &[3; 32]), (&key(2), &[2; 32])),
            Code::of((&key(1), &[1; 32]), (&key(3), &[2; 32])),
            Code::of((&key(1), &[1; 32]), (&key(2), &[3; 32])),
            Code::of((&key(2), &[2; 32]), (&key(1), &[1; 32])),
        ] {
            assert_ne!(code, other);
        }
        assert_eq!(Code(42).to_string(), "000 042");
        assert_eq!(Code(999_999).to_string(), "999 999");
    }

    #[test]
    fn a_commitment_holds_for_one_key_and_one_nonce() {
        let commitment = Commitment::of(&key(1), &[1; 32]);
        assert_eq!(commitment, Commitment::of(&key(1), &[1; 32]));
        assert_ne!(commitment, Commitment::of(&key(1), &[2; 32]));
        assert_ne!(commitment, Commitment::of(&key(2), &[1; 32]));
    }

    #[test]
    fn what_a_system_calls_itself_is_made_a_name() {
        for (system, name) in [
            ("ana-laptop.lan", "ana-laptop.lan"),
            ("ana's laptop", "ana-s-laptop"),
            ("", "peer"),
            ("...", "peer"),
            ("\u{1b}[2Jx", "2Jx"),
        ] {
            assert_eq!(peer_name(system), name, "{system:?}");
        }
        assert!(is_peer_name(&peer_name(&"a".repeat(200))));
    }
}
