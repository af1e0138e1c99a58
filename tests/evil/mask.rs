//! Somebody else's identity: what a peer has of a replica that it has taken over, and rows that it
//! states in that one's name.

use std::collections::BTreeMap;
use std::path::Path;

use psync::identity::ReplicaKey;
use psync::index::{Index, Pair, Peer};
use psync::manifest::Stored;
use psync_protocol::codec::Put;
use psync_protocol::message::{
    Coverage, Flow, Hello, Intent, Statement, StreamCodec, Verdict, Welcome,
};
use psync_protocol::signed::{Expected, Heads};
use psync_protocol::{
    Check, CheckKey, Content, ContentHash, IndexId, Props, RelPath, ReplicaId, Row, Time, Version,
};

/// Stands before a replica that is spelled out among those of a batch of rows.
pub(crate) const SPELLED_OUT: u8 = 2;
/// The time of every file that an evil peer makes up.
const SECONDS: i64 = 1_700_000_000;

/// Who a peer says that it is.
#[derive(Clone)]
pub(crate) struct Mask {
    pub(crate) replica: ReplicaId,
    pub(crate) index: IndexId,
    pub(crate) sequence: u64,
    pub(crate) clock: u64,
    /// Of its greeting.
    pub(crate) nonce: [u8; 16],
    /// What it signs with.
    pub(crate) secret: ReplicaKey,
    /// What binds the line to its TLS connection; zeros where there is none.
    pub(crate) exporter: [u8; 32],
    /// The last session with its victim.
    pub(crate) pair: Option<Pair>,
    /// What this replica knows of its victim.
    pub(crate) victim: Peer,
    /// Every row of its index.
    pub(crate) rows: BTreeMap<String, Stored>,
}

impl Mask {
    /// Of the root that has met `victim`.
    pub(crate) fn of(root: &Path, victim: &Path) -> Mask {
        let look = |root: &Path| Index::look(&root.join(".psync")).unwrap().unwrap();
        let (mut index, victim) = (look(root), look(victim).replica());
        let rows = index.rows_since(0).unwrap().into_iter();
        let secret = ReplicaKey::read(&root.join(".psync")).unwrap().expect("it has a key");
        Mask {
            replica: index.replica(),
            index: index.index_id(),
            sequence: index.sequence(),
            clock: index.next_clock(),
            nonce: [7; 16],
            secret,
            exporter: [0; 32],
            pair: index.chain(victim, 1).unwrap().pop(),
            victim: index.peer(victim).unwrap().expect("the two have met"),
            rows: rows.map(|stored| (stored.row.path.to_string(), stored)).collect(),
        }
    }

    /// Nobody whom the victim has ever met.
    pub(crate) fn stranger(self) -> Mask {
        let secret = ReplicaKey::from_secret(&[0xee; 32]).unwrap();
        let (replica, index) = (secret.public().replica_id(), IndexId([0xee; 8]));
        Mask { replica, index, secret, pair: None, ..self }
    }

    pub(crate) fn key(&self) -> CheckKey {
        CheckKey::new(self.replica, &self.nonce)
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            codec: StreamCodec::Raw,
            replica: self.replica,
            index: self.index,
            expected: Some(self.expected()),
            processed: self.victim.theirs,
            nonce: self.nonce,
            flow: Flow::TwoWay,
            intent: Intent::CarryOut,
            accepts_empty: false,
            sets_limit: false,
            filters: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Whom it takes the victim for, and how it remembers their last session.
    fn expected(&self) -> Expected {
        let heads = self.pair.as_ref().map(|pair| Heads {
            initiator: pair.said.digest(),
            responder: pair.heard.digest(),
            initiator_scope: pair.said.claim.scope,
            responder_scope: pair.heard.claim.scope,
        });
        let victim = (self.victim.replica, self.victim.index_id);
        Expected::new(&self.nonce, victim, &heads.unwrap_or_default())
    }

    pub(crate) fn welcome(&self) -> Welcome {
        Welcome {
            version: 1,
            features: 0,
            codec: StreamCodec::Raw,
            who: Some((self.replica, self.index)),
            joined: false,
            nonce: self.nonce,
            verdict: Verdict::Proceed { first_contact: false },
            place: None,
        }
    }

    /// Introduces rows that have changed.
    pub(crate) fn statement(&self) -> Statement {
        Statement {
            sequence: self.sequence + 100,
            live: self.rows.len() as u64,
            scope: Some(self.victim.our_scope),
            coverage: Coverage::Changes { since: self.victim.ours },
        }
    }

    /// A version that is newer than all that the victim has of this replica.
    pub(crate) fn version(&self) -> Version {
        Version::from_pairs(vec![(self.replica, self.clock + 1000)])
    }

    fn stated(&self, path: &str) -> Option<Row<Check>> {
        self.rows.get(path).map(|stored| stored.row.stated(&self.key()))
    }

    /// A change of what stands at a path, or something new: newer than what the victim has.
    pub(crate) fn change(&self, path: &str, content: Content<Check>, mode: u16) -> Row<Check> {
        let before = self.stated(path).unwrap_or_else(|| Row::absent(path_of(path)));
        let version = before.content_version.bump(self.replica, self.clock + 1000);
        let timed = matches!(content, Content::File { .. } | Content::Symlink { .. });
        let secs = if timed { SECONDS } else { 0 };
        let live = content.is_live();
        Row {
            path: path_of(path),
            base: before.content.fingerprint(),
            props: Props { mode, mtime: Time { secs, nanos: 0 } },
            agreed_mode: if live { mode } else { 0 },
            content,
            content_version: version.clone(),
            props_version: version,
        }
    }

    pub(crate) fn file(&self, path: &str, content: &[u8]) -> Row<Check> {
        let hash = self.key().check(&ContentHash::of_bytes(content));
        let content = Content::File { size: content.len() as u64, hash };
        Row { base: None, ..self.change(path, content, 0o644) }
    }

    pub(crate) fn edit(&self, path: &str, content: &[u8]) -> Row<Check> {
        let base = self.stated(path).and_then(|row| row.content.fingerprint());
        Row { base, ..self.file(path, content) }
    }

    pub(crate) fn link(&self, path: &str, target: &[u8]) -> Row<Check> {
        let hash = self.key().check(&ContentHash::of_target(target));
        self.change(path, Content::Symlink { target: target.into(), hash }, 0)
    }

    pub(crate) fn dir(&self, path: &str) -> Row<Check> {
        self.change(path, Content::Directory, 0o755)
    }

    pub(crate) fn gone(&self, path: &str) -> Row<Check> {
        self.change(path, Content::Deleted { moved_to: None }, 0)
    }

    /// What stands there, as it is, with other properties.
    pub(crate) fn props(&self, path: &str, mode: u16, secs: i64) -> Row<Check> {
        let row = self.stated(path).unwrap_or_else(|| self.file(path, b""));
        let props_version = row.props_version.bump(self.replica, self.clock + 1000);
        Row { props: Props { mode, mtime: Time { secs, nanos: 0 } }, props_version, ..row }
    }

    /// The payload of `Rows` with one file at a path of any bytes.
    pub(crate) fn raw_rows(&self, paths: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let count = paths.len();
        out.put_varint(count as u64);
        out.put_varint(1);
        out.push(SPELLED_OUT);
        out.put_raw(&self.replica.0);
        out.put_varint(1);
        out.put_varint(1);
        out.put_varint(0);
        out.put_varint(self.clock + 1000);
        out.put_raw(&vec![0; 3 * count]);
        paths.iter().for_each(|path| out.put_varint(path.len() as u64));
        paths.iter().for_each(|path| out.put_raw(path));
        out.put_raw(&vec![2; count]);
        paths.iter().for_each(|_| out.put_varint(0o644));
        paths.iter().for_each(|_| out.put_signed(0));
        out.put_raw(&vec![0; 2 * count]);
        paths.iter().for_each(|_| out.put_raw(&[9; 8]));
        out
    }
}

pub(crate) fn path_of(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}
