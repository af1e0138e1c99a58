//! Paths relative to a root, as bytes. What is a [`RelPath`] cannot reach outside the root: there
//! is no other way to make one than through the checks here.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest path, in bytes.
pub const PATH_MAX: usize = 4096;
/// Longest name between two slashes, in bytes (the limit of every common file system).
pub const COMPONENT_MAX: usize = 255;
/// Most names in one path.
pub const DEPTH_MAX: usize = 256;
/// The directory that holds psync's own state, at the top of each root. No name in a path may be
/// this one: below a root it belongs to another root, whose identity must not be copied.
pub const STATE_DIR: &[u8] = b".psync";

/// Why bytes are not a path below a root.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// More than [`PATH_MAX`] bytes.
    #[error("it is longer than 4096 bytes")]
    TooLong,
    /// A name of more than [`COMPONENT_MAX`] bytes.
    #[error("one of its names is longer than 255 bytes")]
    NameTooLong,
    /// More than [`DEPTH_MAX`] names.
    #[error("it is more than 256 names deep")]
    TooDeep,
    /// A leading, trailing or doubled slash.
    #[error("one of its names is empty")]
    EmptyName,
    /// `.` or `..` as a name.
    #[error("one of its names is '.' or '..'")]
    Dots,
    /// A zero byte.
    #[error("it holds a zero byte")]
    Zero,
    /// It names psync's own state.
    #[error("it lies in .psync, which is never synced")]
    State,
}

/// A path relative to a root: names joined by `/`, validated. Ordered by its bytes, so a
/// directory stands before what is in it, and what is in it stands together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// Checks the bytes.
    pub fn new(bytes: &[u8]) -> Result<RelPath, PathError> {
        check(bytes)?;
        Ok(RelPath(bytes.into()))
    }

    /// The bytes, without a slash at either end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory that holds it; none at the top of the root.
    pub fn parent(&self) -> Option<RelPath> {
        self.split().0.map(|parent| RelPath(parent.into()))
    }

    /// Everything before the last slash, and the name after it.
    pub fn split(&self) -> (Option<&[u8]>, &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (Some(&self.0[..slash]), &self.0[slash + 1..]),
            None => (None, &self.0),
        }
    }

    /// The last name.
    pub fn name(&self) -> &[u8] {
        self.split().1
    }

    /// The path with another last name.
    pub fn with_name(&self, name: &[u8]) -> Result<RelPath, PathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + name.len());
        if let Some(parent) = self.split().0 {
            bytes.extend_from_slice(parent);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        RelPath::new(&bytes)
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Result<RelPath, PathError> {
        RelPath::new(&[&self.0, b"/".as_slice(), name].concat())
    }

    /// Whether this path lies somewhere below `directory`.
    pub fn is_below(&self, directory: &RelPath) -> bool {
        self.0.strip_prefix(&*directory.0).is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// Every directory above it, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> + use<> {
        std::iter::successors(self.parent(), RelPath::parent)
    }
}

fn check(bytes: &[u8]) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    if bytes.len() > PATH_MAX {
        return Err(PathError::TooLong);
    }
    if bytes.contains(&0) {
        return Err(PathError::Zero);
    }
    for (depth, name) in bytes.split(|&b| b == b'/').enumerate() {
        match name {
            _ if depth == DEPTH_MAX => return Err(PathError::TooDeep),
            b"" => return Err(PathError::EmptyName),
            b"." | b".." => return Err(PathError::Dots),
            STATE_DIR => return Err(PathError::State),
            _ if name.len() > COMPONENT_MAX => return Err(PathError::NameTooLong),
            _ => {}
        }
    }
    Ok(())
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Bytes made safe for a terminal: control characters, bidirectional overrides, backslashes and
/// bytes that are not UTF-8 are written as escapes; the result is one line and unambiguous.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                _ if steers_a_terminal(c) => text.extend(c.escape_unicode()),
                _ => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Words of a peer made safe for a terminal, on one line. Unlike a name they may hold backslashes, as
/// names that are in them were made [`printable`] where they were written.
pub fn plain(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => "\\n".to_string(),
        '\t' => "\\t".to_string(),
        _ if steers_a_terminal(c) => c.escape_unicode().to_string(),
        _ => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Whether a terminal does something else with a character than to show it. All of these have numbers
/// of four hexadecimal digits at most.
pub fn steers_a_terminal(c: char) -> bool {
    c.is_control() || reorders(c)
}

/// Characters that change the order or the visibility of the text around them.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_the_root_or_reach_the_state_is_refused() {
        for (bytes, error) in [
            (b"".as_slice(), PathError::Empty),
            (b"/etc/passwd", PathError::EmptyName),
            (b"a//b", PathError::EmptyName),
            (b"a/", PathError::EmptyName),
            (b"..", PathError::Dots),
            (b"a/../b", PathError::Dots),
            (b"./a", PathError::Dots),
            (b"a\0b", PathError::Zero),
            (b".psync", PathError::State),
            (b".psync/index.db", PathError::State),
            (b"a/.psync", PathError::State),
            (b"a/.psync/lock", PathError::State),
        ] {
            assert_eq!(RelPath::new(bytes), Err(error), "{}", printable(bytes));
        }
        assert_eq!(RelPath::new(&[b'a'; 256]), Err(PathError::NameTooLong));
        assert_eq!(RelPath::new(&b"a/".repeat(300)[..599]), Err(PathError::TooDeep));
        assert_eq!(
            RelPath::new(&[b"a/".repeat(2048), vec![b'a']].concat()),
            Err(PathError::TooLong)
        );
    }

    #[test]
    fn names_are_bytes_and_only_that_of_the_state_is_reserved() {
        for bytes in
            [b"-rf".as_slice(), b"a\nb", b"\xff\xfe", b"a/.psyncx", b".psyncignore", b"..."]
        {
            assert!(RelPath::new(bytes).is_ok(), "{}", printable(bytes));
        }
    }

    #[test]
    fn a_printed_name_cannot_steer_a_terminal() {
        assert_eq!(printable(b"a\x1b[31mb\xff\\"), "a\\u{1b}[31mb\\xff\\\\");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(plain("a\\n\x1b[31m\u{9b}\r\nb"), "a\\n\\u{1b}[31m\\u{9b}\\u{d}\\nb");
    }

    #[test]
    fn parents_and_names_fit_together() {
        let path = RelPath::new(b"a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(path.name(), b"c");
        assert_eq!(path.with_name(b"d").unwrap().as_bytes(), b"a/b/d");
        assert!(path.is_below(&RelPath::new(b"a").unwrap()));
        assert!(!path.is_below(&RelPath::new(b"a/b/c").unwrap()));
        assert_eq!(path.ancestors().count(), 2);
    }
}
