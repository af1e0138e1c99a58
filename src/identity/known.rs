//! Which key answers at which place: `known_peers`.
//!
//! Each line is a place as it is typed (`host`, `host:port`, `[v6]:port`) and a key.

use std::path::{Path, PathBuf};

use super::lines::entries;
use super::{LineError, PublicKey};

/// The places that somebody has said yes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownPeers {
    file: PathBuf,
    peers: Vec<(usize, String, PublicKey)>,
}

/// What is known of a key that answers at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognised {
    /// It is the one that always answers there.
    Yes,
    /// Nobody has been there.
    Unknown,
    /// Another one answered there so far.
    Changed {
        /// The one that is known.
        known: PublicKey,
        /// Where that is written: the file, and the line, counted from one.
        at: (PathBuf, usize),
    },
}

impl KnownPeers {
    /// Understands the text of such a file; `file` is its name, for errors.
    pub fn parse(text: &str, file: &Path) -> Result<KnownPeers, LineError> {
        let mut known = KnownPeers { file: file.to_path_buf(), peers: Vec::new() };
        for (line, words) in entries(text) {
            let wrong = |text: String| LineError { file: file.to_path_buf(), line, text };
            let [place, key] = words[..] else {
                return Err(wrong("a line is a place and its key, as in: host ed25519:...".into()));
            };
            let key = key.parse().map_err(wrong)?;
            if known.peers.iter().any(|(_, other, _)| other == place) {
                return Err(wrong(format!("'{}' stands here twice", place.escape_debug())));
            }
            known.peers.push((line, place.to_string(), key));
        }
        Ok(known)
    }

    /// Whether this key is the one that is known at this place.
    pub fn recognise(&self, place: &str, key: &PublicKey) -> Recognised {
        match self.peers.iter().find(|(_, other, _)| other == place) {
            None => Recognised::Unknown,
            Some((_, _, known)) if known == key => Recognised::Yes,
            Some((line, _, known)) => {
                Recognised::Changed { known: *known, at: (self.file.clone(), *line) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn parse(text: &str) -> Result<KnownPeers, LineError> {
        KnownPeers::parse(text, Path::new("known_peers"))
    }

    #[test]
    fn a_place_is_known_by_the_key_that_stands_beside_it() {
        let text = format!("# ours\n\nhost {}  # the cellar\nhost:99 {}\n", key(1), key(2));
        let known = parse(&text).unwrap();
        assert_eq!(known.recognise("host", &key(1)), Recognised::Yes);
        assert_eq!(known.recognise("host:99", &key(2)), Recognised::Yes);
        assert_eq!(known.recognise("other", &key(1)), Recognised::Unknown);
        let changed = Recognised::Changed { known: key(1), at: ("known_peers".into(), 3) };
        assert_eq!(known.recognise("host", &key(2)), changed);
    }

    #[test]
    fn one_bad_line_makes_the_whole_file_useless() {
        let good = format!("host {}", key(1));
        for bad in ["host", "host ed25519:12", "x ed25519:12 more", &good] {
            let error = parse(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 3, "{bad}");
            assert!(error.to_string().starts_with("known_peers, line 3: "), "{error}");
        }
    }
}
