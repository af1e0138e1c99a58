//! What stands at a path: its content, its properties, and the versions of both.

use std::fmt;

use crate::path::RelPath;
use crate::version::{ReplicaId, Version};

/// The permission bits that are synced: `rwx` for user, group and others, and the set-id and
/// sticky bits.
pub const MODE_MASK: u16 = 0o7777;
/// Longest symlink target, in bytes.
pub const TARGET_MAX: usize = 4095;

/// BLAKE3-256 of a file's bytes, or of a symlink's target (with a domain of its own).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// Of a file that is in memory.
    pub fn of_bytes(bytes: &[u8]) -> ContentHash {
        ContentHash(blake3::hash(bytes).into())
    }

    /// Of a symlink's target.
    pub fn of_target(target: &[u8]) -> ContentHash {
        ContentHash(blake3::derive_key("psync 2026-11 symlink target", target))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The key under which an end states short checks: fresh for every session and end, so nobody can
/// prepare two files with the same check beforehand.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckKey([u8; 32]);

impl CheckKey {
    /// The key of the end with this replica id and this session nonce.
    pub fn new(replica: ReplicaId, nonce: &[u8; 16]) -> CheckKey {
        let material = [replica.0, *nonce].concat();
        CheckKey(blake3::derive_key("psync 2026-11 short check", &material))
    }

    /// The check that stands for `hash` in this end's statements.
    pub fn check(&self, hash: &ContentHash) -> Check {
        let keyed = blake3::keyed_hash(&self.0, &hash.0);
        let (first, _) = keyed.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        Check(u64::from_le_bytes(*first))
    }
}

impl CheckKey {
    /// The seed of the block hashes that the end with this key sends for a path of the plan: not
    /// known to whoever made the files, and another one for each attempt.
    pub fn block_seed(&self, index: u64, attempt: u8) -> u64 {
        let mut input = [0; 9];
        input[..8].copy_from_slice(&index.to_le_bytes());
        input[8] = attempt;
        let keyed = blake3::keyed_hash(&self.0, &input);
        let (first, _) = keyed.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        u64::from_le_bytes(*first)
    }
}

impl CheckKey {
    /// For digests of whole trees in the session that the end with this key has started: as
    /// unknown beforehand as the checks.
    pub fn tree_key(&self) -> [u8; 32] {
        blake3::derive_key("psync 2026-11 tree", &self.0)
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey(..)")
    }
}

/// 64 keyed bits of a content hash. Two different contents have the same check with probability
/// 2^-64 a pair: enough to see that two files are the same, never enough to replace one (what is
/// written is checked by its full hash).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check(pub u64);

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

/// What stands for a content: the full hash in an index, a short check on the line.
pub trait Fingerprint: Copy + Eq + fmt::Debug {
    /// What stands for a directory, which has no content of its own.
    const DIRECTORY: Self;
}

impl Fingerprint for ContentHash {
    const DIRECTORY: ContentHash = ContentHash([0xd1; 32]);
}

impl Fingerprint for Check {
    const DIRECTORY: Check = Check(0xd1d1_d1d1_d1d1_d1d1);
}

/// What stands at a path, without its properties.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content<H> {
    /// Nothing any more: a tombstone.
    Deleted {
        /// Where the same content stands now, if this replica saw it move.
        moved_to: Option<RelPath>,
    },
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Its content.
        hash: H,
    },
    /// A symbolic link, never followed.
    Symlink {
        /// The bytes that it points to.
        target: Box<[u8]>,
        /// The target's fingerprint.
        hash: H,
    },
}

impl<H: Fingerprint> Content<H> {
    /// What stands for the content; none for a tombstone.
    pub fn fingerprint(&self) -> Option<H> {
        match self {
            Content::Deleted { .. } => None,
            Content::Directory => Some(H::DIRECTORY),
            Content::File { hash, .. } | Content::Symlink { hash, .. } => Some(*hash),
        }
    }

    /// Whether something stands there.
    pub fn is_live(&self) -> bool {
        !matches!(self, Content::Deleted { .. })
    }

    /// Whether both are the same thing; two tombstones are, wherever the content went.
    pub fn same(&self, other: &Content<H>) -> bool {
        match (self, other) {
            (Content::Deleted { .. }, Content::Deleted { .. }) => true,
            (Content::Directory, Content::Directory) => true,
            (Content::File { size, hash }, Content::File { size: s, hash: h }) => {
                size == s && hash == h
            }
            (Content::Symlink { hash, .. }, Content::Symlink { hash: h, .. }) => hash == h,
            (
                Content::Deleted { .. }
                | Content::Directory
                | Content::File { .. }
                | Content::Symlink { .. },
                _,
            ) => false,
        }
    }

    /// The same content in other fingerprints.
    fn map<G>(&self, fingerprint: impl Fn(&H) -> G) -> Content<G> {
        match self {
            Content::Deleted { moved_to } => Content::Deleted { moved_to: moved_to.clone() },
            Content::Directory => Content::Directory,
            Content::File { size, hash } => Content::File { size: *size, hash: fingerprint(hash) },
            Content::Symlink { target, hash } => {
                Content::Symlink { target: target.clone(), hash: fingerprint(hash) }
            }
        }
    }
}

/// A moment, in seconds and nanoseconds since 1970-01-01 UTC, as `stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// The properties of an entry that are synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Props {
    /// Permission bits within [`MODE_MASK`]; zero for symlinks and tombstones.
    pub mode: u16,
    /// Last modification; the epoch for directories and tombstones, whose time is not synced.
    pub mtime: Time,
}

impl Props {
    /// Whether an entry of this kind may have these properties.
    pub fn may_be_of<H>(&self, content: &Content<H>) -> bool {
        let timeless = self.mtime == Time::default();
        self.mode <= MODE_MASK
            && match content {
                Content::Deleted { .. } => timeless && self.mode == 0,
                Content::Directory => timeless,
                Content::File { .. } => true,
                Content::Symlink { .. } => self.mode == 0,
            }
    }
}

/// One row of an index or of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<H> {
    /// Where.
    pub path: RelPath,
    /// What.
    pub content: Content<H>,
    /// What stood here before the latest change and was known to some peer; none where nothing
    /// did. A change that builds on exactly what the other side has is no conflict, whatever the
    /// vectors say.
    pub base: Option<H>,
    /// The properties.
    pub props: Props,
    /// The mode that was last agreed with a peer: tells which side changed it.
    pub agreed_mode: u16,
    /// Who changed content, existence or kind.
    pub content_version: Version,
    /// Who changed properties.
    pub props_version: Version,
}

impl<H: Fingerprint> Row<H> {
    /// The row of a path that has never existed here.
    pub fn absent(path: RelPath) -> Row<H> {
        Row {
            path,
            content: Content::Deleted { moved_to: None },
            base: None,
            props: Props::default(),
            agreed_mode: 0,
            content_version: Version::default(),
            props_version: Version::default(),
        }
    }

    /// Whether content and properties are the same, whatever the versions.
    pub fn same_state(&self, other: &Row<H>) -> bool {
        self.content.same(&other.content) && (!self.content.is_live() || self.props == other.props)
    }

    /// Whether this row has all the changes of the other.
    pub fn includes(&self, other: &Row<H>) -> bool {
        self.content_version.includes(&other.content_version)
            && self.props_version.includes(&other.props_version)
    }
}

impl Row<ContentHash> {
    /// The row as the end with this key states it.
    pub fn stated(&self, key: &CheckKey) -> Row<Check> {
        let check = |hash: &ContentHash| match *hash {
            ContentHash::DIRECTORY => Check::DIRECTORY,
            ref hash => key.check(hash),
        };
        Row {
            path: self.path.clone(),
            content: self.content.map(check),
            base: self.base.as_ref().map(check),
            props: self.props,
            agreed_mode: self.agreed_mode,
            content_version: self.content_version.clone(),
            props_version: self.props_version.clone(),
        }
    }
}
