//! What an end takes from the other one, as far as it may choose: never more than the protocol allows.

use thiserror::Error;

use crate::error::ProtocolError;
use crate::frame::FRAME_MAX;
use crate::manifest::{ENTRIES_MAX, path_lengths};
use crate::message::Message;
use crate::path::{COMPONENT_MAX, DEPTH_MAX, PATH_MAX, RelPath};

/// Limits of one session, set by the end that keeps them. The peer is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes in a frame.
    pub frame: usize,
    /// Entries that may be stated, in whatever form.
    pub entries: u64,
    /// Bytes in a path.
    pub path: usize,
    /// Bytes in one name of a path.
    pub component: usize,
    /// Names in a path.
    pub depth: usize,
    /// Bytes that the peer may make this end hold in memory for as long as the session goes on.
    pub memory: u64,
}

impl Bounds {
    /// What the protocol allows, and any amount of memory that this comes to.
    pub const MOST: Bounds = Bounds {
        frame: FRAME_MAX,
        entries: ENTRIES_MAX as u64,
        path: PATH_MAX,
        component: COMPONENT_MAX,
        depth: DEPTH_MAX,
        memory: u64::MAX,
    };
    /// The least that `frame` can be: shorter ones would refuse a greeting.
    pub const FRAME_LEAST: usize = 64 << 10;
    /// The least that `memory` can be: what the smallest session may take.
    pub const MEMORY_LEAST: u64 = 16 << 20;

    /// Whether a path is within the bounds.
    pub fn check(&self, path: &RelPath) -> Result<(), OutOfBounds> {
        self.check_bytes(path.as_bytes())
    }

    fn check_bytes(&self, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let refuse = |what, value, limit| Err(OutOfBounds { what, value, limit });
        if bytes.len() > self.path {
            return refuse("a path's length in bytes", bytes.len() as u64, self.path as u64);
        }
        let mut depth = 0;
        for name in bytes.split(|&byte| byte == b'/') {
            depth += 1;
            if name.len() > self.component {
                return refuse(
                    "a name's length in bytes",
                    name.len() as u64,
                    self.component as u64,
                );
            }
        }
        if depth > self.depth {
            return refuse("the depth of a path", depth as u64, self.depth as u64);
        }
        Ok(())
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds::MOST
    }
}

/// The peer has gone beyond a limit that this end has set.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{what} is {value}, and this side takes at most {limit}; its limits can be set there")]
pub struct OutOfBounds {
    /// What there is too much of.
    pub what: &'static str,
    /// How much came.
    pub value: u64,
    /// How much is allowed.
    pub limit: u64,
}

/// Memory that a row takes at most besides its path and its versions, in the manifest, in the agreement,
/// in the plan and where it is carried out. Measured at a responder: 600 bytes of 300,000 rows that are
/// only compared, 1,790 of 100,000 that are all created.
const ROW_BYTES: u64 = 1792;
/// What one pair of a version takes.
const PAIR_BYTES: u64 = 32;
/// What one byte of any other message may become that is kept to the end of the session.
const KEPT_FACTOR: u64 = 16;

/// Counts what a peer has stated, before it is decoded, and refuses what is too much.
#[derive(Debug, Default)]
pub struct Tally {
    bounds: Bounds,
    entries: u64,
    memory: u64,
    /// The path at hand.
    path: Vec<u8>,
}

impl Tally {
    /// Counts within these bounds.
    pub fn within(bounds: Bounds) -> Tally {
        Tally { bounds, ..Tally::default() }
    }

    /// Bytes that this end is made to hold so far, as far as they are counted.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// A message has come, which has so many bytes. Contents and what lives for one flight are not
    /// counted: the protocol's own limits bound them.
    pub fn note(&mut self, message: &Message, length: u64) -> Result<(), ProtocolError> {
        match message {
            Message::Rows(payload) => self.note_rows(payload),
            Message::Moved(moved) => {
                self.bounds.check(&moved.from)?;
                self.bounds.check(&moved.to)?;
                self.hold(length * KEPT_FACTOR)
            }
            Message::File(_)
            | Message::Literal(_)
            | Message::Delta(_)
            | Message::FileEnd(_)
            | Message::Patches(_)
            | Message::Against(_)
            | Message::Segment(_)
            | Message::Proof(_)
            | Message::Want(_)
            | Message::Signature(_)
            | Message::Unresolved(_)
            | Message::Counted(_)
            | Message::Ping(_)
            | Message::End => Ok(()),
            _ => self.hold(length * KEPT_FACTOR),
        }
    }

    fn note_rows(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let decode = |error| ProtocolError::Decode { message: "rows", error };
        let lengths = path_lengths(payload).map_err(decode)?;
        self.add_entries(lengths.count() as u64)?;
        let names: u64 = lengths.paths().map(|(shared, rest)| (shared + rest) as u64).sum();
        let versions = lengths.pairs() as u64 * PAIR_BYTES;
        // Targets of symlinks stand in the payload as they are.
        let targets = payload.len() as u64;
        self.hold(lengths.count() as u64 * ROW_BYTES + names + versions + targets)?;
        let Bounds { path, component, depth, .. } = self.bounds;
        if (path, component, depth) == (PATH_MAX, COMPONENT_MAX, DEPTH_MAX) {
            return Ok(());
        }
        let mut rest = lengths.bytes();
        self.path.clear();
        for (shared, own) in lengths.paths() {
            let (bytes, after) = rest.split_at_checked(own).unwrap_or((rest, &[]));
            self.path.truncate(shared);
            self.path.extend_from_slice(bytes);
            self.bounds.check_bytes(&self.path)?;
            rest = after;
        }
        Ok(())
    }

    fn add_entries(&mut self, count: u64) -> Result<(), OutOfBounds> {
        self.entries += count;
        let (value, limit) = (self.entries, self.bounds.entries);
        let what = "the number of entries that the other side states (limits.entries)";
        if value > limit { Err(OutOfBounds { what, value, limit }) } else { Ok(()) }
    }

    fn hold(&mut self, bytes: u64) -> Result<(), ProtocolError> {
        self.memory = self.memory.saturating_add(bytes);
        let (value, limit) = (self.memory, self.bounds.memory);
        let what = "the memory in bytes that the other side's entries take (limits.memory)";
        if value > limit { Err(OutOfBounds { what, value, limit }.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;
    use crate::{CheckKey, Content, ReplicaId, Row, Version};

    fn rows(count: usize) -> Vec<Vec<u8>> {
        let row = |n: usize| {
            let path = RelPath::new(format!("a/folder/file{n:08}").as_bytes()).unwrap();
            Row { content: Content::Directory, ..Row::absent(path) }
        };
        manifest::encode(&(0..count).map(row).collect::<Vec<_>>())
    }

    fn note(bounds: Bounds, count: usize) -> Result<Tally, ProtocolError> {
        let mut tally = Tally::within(bounds);
        for payload in rows(count) {
            let length = payload.len() as u64;
            tally.note(&Message::Rows(payload), length)?;
        }
        Ok(tally)
    }

    #[test]
    fn rows_are_counted_with_their_whole_paths() {
        let tally = note(Bounds::MOST, 5000).unwrap();
        assert_eq!(tally.entries, 5000);
        assert!(
            tally.memory() > 5000 * (ROW_BYTES + 21) && tally.memory() < 5000 * (ROW_BYTES + 60)
        );
    }

    #[test]
    fn who_states_too_much_is_refused() {
        for (bounds, what) in [
            (Bounds { entries: 4999, ..Bounds::MOST }, "limits.entries"),
            (Bounds { memory: 1 << 20, ..Bounds::MOST }, "limits.memory"),
            (Bounds { path: 20, ..Bounds::MOST }, "a path's length"),
            (Bounds { component: 11, ..Bounds::MOST }, "a name's length"),
            (Bounds { depth: 2, ..Bounds::MOST }, "the depth"),
        ] {
            let refused = note(bounds, 5000).expect_err(what);
            assert!(refused.to_string().contains(what), "{refused}");
        }
        let just = Bounds { entries: 5000, path: 21, component: 12, depth: 3, ..Bounds::MOST };
        assert!(note(just, 5000).is_ok());
    }

    #[test]
    fn rows_that_make_no_sense_are_refused_here_or_where_they_are_decoded() {
        let good = rows(3).remove(0);
        for end in 0..good.len() {
            let mut tally = Tally::within(Bounds { path: 100, ..Bounds::MOST });
            // No panic, whatever is missing.
            let _ = tally.note(&Message::Rows(good[..end].to_vec()), end as u64);
        }
    }

    #[test]
    fn rows_are_counted_however_their_replicas_are_named() {
        let (initiator, responder) = (ReplicaId([1; 16]), ReplicaId([2; 16]));
        let parties = manifest::Parties { initiator: Some(initiator), responder: Some(responder) };
        let (row, pairs) =
            (rows(1).remove(0), vec![(initiator, 5), (responder, 6), (ReplicaId([3; 16]), 7)]);
        let mut reader = manifest::ManifestReader::new(CheckKey::new(initiator, &[0; 16]));
        reader.batch(&row).unwrap();
        let row = reader.finish().unwrap().remove(0);
        let rows = [Row { content_version: Version::from_pairs(pairs), ..row }];
        for batch in [manifest::encode(&rows), manifest::encode_between(&rows, parties)] {
            let mut tally = Tally::within(Bounds { path: 100, ..Bounds::MOST });
            let length = batch[0].len() as u64;
            tally.note(&Message::Rows(batch[0].clone()), length).unwrap();
            assert_eq!(tally.memory(), ROW_BYTES + 21 + 3 * PAIR_BYTES + length);
        }
    }

    #[test]
    fn paths_are_held_to_each_bound() {
        let bounds = Bounds { path: 10, component: 4, depth: 3, ..Bounds::MOST };
        let check = |path: &str| bounds.check(&RelPath::new(path.as_bytes()).unwrap());
        for path in ["a", "abcd/abcd", "a/b/c"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for (path, what, value) in [
            ("abcd/abcd/a", "a path's length in bytes", 11),
            ("abcde", "a name's length in bytes", 5),
            ("a/b/c/d", "the depth of a path", 4),
        ] {
            let refused = check(path).unwrap_err();
            assert_eq!((refused.what, refused.value), (what, value), "{path}");
        }
    }
}
