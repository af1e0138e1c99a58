//! What two ends say to each other about an undo, where one of them runs the other's `psync undo`.

use std::collections::BTreeSet;
use std::io::Read;

use psync_protocol::{ContentHash, RelPath};
use serde_json::{Map, Value};

use super::super::exit::Exit;
use super::super::json::put_path;
use super::super::subject::Failure;
use crate::journal::State;
use crate::sync::undo::{Anew, Standing};
use crate::transport::ANSWER_MAX;

/// What the other end has to say.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The paths that are put back, and what is done to them.
    pub(super) paths: Vec<(Vec<u8>, String)>,
    /// What stands there now.
    pub(super) standing: Vec<Standing>,
    /// Where it takes a merge back.
    pub(super) anew: Vec<Anew>,
    /// Paths that stand in the way, with the kind of obstacle and the text for people.
    pub(super) obstacles: Vec<(Vec<u8>, String, String)>,
    /// Paths that could not be put back.
    pub(super) failures: Vec<(Vec<u8>, String)>,
}

impl Told {
    /// How many paths were put back.
    pub(super) fn done(&self) -> u64 {
        (self.paths.len() - self.failures.len().min(self.paths.len())) as u64
    }
}

/// What the end that asks says to the other, on its standard input: a line for each path.
#[derive(Debug, Default)]
pub(super) struct Also {
    /// What stands at the paths that it puts back itself: `is PATH STATE`, in hexadecimal digits; no
    /// state where nothing stands.
    pub(super) standing: Vec<Standing>,
    /// Paths to be left alone: `leave PATH`.
    pub(super) leave: BTreeSet<RelPath>,
    /// Paths at which it takes a merge back: `anew PATH HASH`, with the hash of what both had changed;
    /// no hash where that is not known.
    pub(super) anew: Vec<Anew>,
}

impl Also {
    /// The lines.
    pub(super) fn to_text(&self) -> String {
        let standing = self.standing.iter().map(|(path, state)| {
            let state = state.as_ref().map(State::encode).unwrap_or_default();
            format!("is {} {}\n", hex(path.as_bytes()), hex(&state))
        });
        let leave = self.leave.iter().map(|path| format!("leave {}\n", hex(path.as_bytes())));
        let anew = self.anew.iter().map(|(path, base)| {
            format!("anew {} {}\n", hex(path.as_bytes()), base_digits(base.as_ref()))
        });
        standing.chain(leave).chain(anew).collect()
    }

    /// Reads the lines from standard input.
    pub(super) fn read() -> Result<Also, Failure> {
        let wrong = |text: String| Failure::new(Exit::Stream, format!("--also: {text}"));
        let mut text = String::new();
        let read = std::io::stdin().take(ANSWER_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > ANSWER_MAX {
            return Err(wrong(format!("the other end says more than {ANSWER_MAX} bytes")));
        }
        Also::parse(&text).ok_or_else(|| wrong("what the other end says makes no sense".into()))
    }

    fn parse(text: &str) -> Option<Also> {
        let mut also = Also::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let word = words.next()?;
            let path = RelPath::new(&bytes(words.next()?)?).ok()?;
            match word {
                "is" => also.standing.push((path, state(words.next()?)?)),
                "leave" => drop(also.leave.insert(path)),
                "anew" => also.anew.push((path, base(words.next()?)?)),
                _ => return None,
            }
        }
        Some(also)
    }
}

/// A state in hexadecimal digits, where no digits mean that nothing stands; none where they make no
/// sense.
fn state(digits: &str) -> Option<Option<State>> {
    match digits {
        "" => Some(None),
        digits => State::decode(&bytes(digits)?).ok().map(Some),
    }
}

/// A path that would be put back, for the end that asked: with what stands there.
pub(super) fn standing(path: &RelPath, state: Option<&State>, what: &str) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), "change".into());
    map.insert("side".into(), "local".into());
    put_path(&mut map, "path", path.as_bytes());
    map.insert("what".into(), what.into());
    map.insert("stands".into(), hex(&state.map(State::encode).unwrap_or_default()).into());
    Value::Object(map)
}

/// What such an object says; none where it says nothing of what stands there.
pub(super) fn standing_of(value: &Value) -> Option<Standing> {
    let path = RelPath::new(&path_of(value)).ok()?;
    Some((path, state(value["stands"].as_str()?)?))
}

/// A path at which a merge is taken back, for the end that asked.
pub(super) fn anew((path, base): &Anew) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), "anew".into());
    put_path(&mut map, "path", path.as_bytes());
    map.insert("base".into(), base_digits(base.as_ref()).into());
    Value::Object(map)
}

/// What such an object says.
pub(super) fn anew_of(value: &Value) -> Option<Anew> {
    let path = RelPath::new(&path_of(value)).ok()?;
    Some((path, base(value["base"].as_str()?)?))
}

fn base_digits(base: Option<&ContentHash>) -> String {
    base.map(|hash| hex(&hash.0)).unwrap_or_default()
}

/// A hash in hexadecimal digits, where no digits mean that it is not known; none where they make no
/// sense.
fn base(digits: &str) -> Option<Option<ContentHash>> {
    match digits {
        "" => Some(None),
        digits => Some(Some(ContentHash(bytes(digits)?.try_into().ok()?))),
    }
}

/// The path of an object: exact where it is not UTF-8.
pub(super) fn path_of(value: &Value) -> Vec<u8> {
    match value["path_hex"].as_str() {
        Some(digits) => bytes(digits).unwrap_or_default(),
        None => value["path"].as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_says_the_other_reads() {
        let path = |name: &[u8]| RelPath::new(name).unwrap();
        let link = crate::journal::Thing::Symlink { target: b"x y"[..].into() };
        let link = State::new(link, psync_protocol::Props::default());
        let also = Also {
            standing: vec![(path(b"a b\n"), None), (path(b"\xff"), Some(link.clone()))],
            leave: BTreeSet::from([path(b"c/d")]),
            anew: vec![(path(b"e"), None), (path(b"\xfe"), Some(ContentHash([7; 32])))],
        };
        let read = Also::parse(&also.to_text()).unwrap();
        assert_eq!((read.standing, read.leave), (also.standing, also.leave));
        assert!(also.anew.iter().all(|one| anew_of(&anew(one)).as_ref() == Some(one)));
        assert_eq!(read.anew, also.anew);
        let value = standing(&path(b"\xff"), Some(&link), "delete");
        assert_eq!(standing_of(&value), Some((path(b"\xff"), Some(link))));
        for wrong in
            ["is", "is 2e2e", "is 61", "is 61 ff", "leave", "take 61", "leave zz", "anew 61 ff"]
        {
            assert!(Also::parse(wrong).is_none(), "{wrong}");
        }
    }
}
