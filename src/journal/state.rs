//! What stood at a path, whole: kind, content and properties.

use psync_protocol::codec::{Put, Reader};
use psync_protocol::entry::TARGET_MAX;
use psync_protocol::{Content, ContentHash, Props, Row, Time};

use super::JournalError;

/// What stands, or stood, at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The thing itself.
    pub thing: Thing,
    /// Its properties, as far as they are synced.
    pub props: Props,
}

/// A thing that may stand at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Its content.
        hash: ContentHash,
    },
    /// A symbolic link.
    Symlink {
        /// The bytes that it points to.
        target: Box<[u8]>,
    },
}

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;

impl Thing {
    /// The thing that a content is; none for a tombstone.
    pub fn of(content: &Content<ContentHash>) -> Option<Thing> {
        match content {
            Content::Deleted { .. } => None,
            Content::Directory => Some(Thing::Directory),
            Content::File { size, hash } => Some(Thing::File { size: *size, hash: *hash }),
            Content::Symlink { target, .. } => Some(Thing::Symlink { target: target.clone() }),
        }
    }

    /// Length of a file in bytes; 0 of everything else.
    pub fn size(&self) -> u64 {
        match self {
            Thing::File { size, .. } => *size,
            Thing::Directory | Thing::Symlink { .. } => 0,
        }
    }

    /// The hash of a file's content.
    pub fn hash(&self) -> Option<&ContentHash> {
        match self {
            Thing::File { hash, .. } => Some(hash),
            Thing::Directory | Thing::Symlink { .. } => None,
        }
    }

    /// Whether both are of one kind, whatever is in them.
    pub fn is_like(&self, other: &Thing) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl State {
    /// What a row says of its path; none where nothing stands.
    pub fn of_row(row: &Row<ContentHash>) -> Option<State> {
        Thing::of(&row.content).map(|thing| State { thing, props: row.props })
    }

    /// A thing with the properties that things of its kind have: a link has no mode, a directory no
    /// time.
    pub fn new(thing: Thing, props: Props) -> State {
        let props = match &thing {
            Thing::File { .. } => props,
            Thing::Directory => Props { mode: props.mode, mtime: Time::default() },
            Thing::Symlink { .. } => Props { mode: 0, mtime: props.mtime },
        };
        State { thing, props }
    }

    /// As the journal keeps it: kind, mode, seconds and nanoseconds; then size and hash of a file,
    /// or the target of a link.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        bytes.push(match self.thing {
            Thing::Directory => DIRECTORY,
            Thing::File { .. } => FILE,
            Thing::Symlink { .. } => SYMLINK,
        });
        bytes.put_varint(self.props.mode.into());
        bytes.put_signed(self.props.mtime.secs);
        bytes.put_varint(self.props.mtime.nanos.into());
        match &self.thing {
            Thing::Directory => {}
            Thing::File { size, hash } => {
                bytes.put_varint(*size);
                bytes.put_raw(&hash.0);
            }
            Thing::Symlink { target } => bytes.put_bytes(target),
        }
        bytes
    }

    /// Reads what [`State::encode`] has written.
    pub fn decode(bytes: &[u8]) -> Result<State, JournalError> {
        let known = matches!(bytes.first(), Some(&(DIRECTORY | FILE | SYMLINK)));
        let state = if known { read(bytes).ok() } else { None };
        state.ok_or(JournalError::Nonsense("what stood at a path"))
    }
}

fn read(bytes: &[u8]) -> Result<State, psync_protocol::DecodeError> {
    let what = "a state in the journal";
    let mut reader = Reader::new(bytes);
    let kind = reader.u8(what)?;
    let mode = reader.bounded(what, psync_protocol::entry::MODE_MASK.into())? as u16;
    let secs = reader.signed(what)?;
    let nanos = reader.bounded(what, 999_999_999)? as u32;
    let thing = match kind {
        FILE => Thing::File { size: reader.varint(what)?, hash: ContentHash(reader.array(what)?) },
        SYMLINK => Thing::Symlink { target: reader.bytes(what, TARGET_MAX)?.into() },
        _ => Thing::Directory,
    };
    reader.end(what)?;
    Ok(State { thing, props: Props { mode, mtime: Time { secs, nanos } } })
}
