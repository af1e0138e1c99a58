//! The messages that open a session: who is there, and what is stated.

use super::TEXT_MAX;
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::path::{PATH_MAX, RelPath};
use crate::version::{IndexId, ReplicaId};
use crate::{VERSION_MAX, VERSION_MIN};

/// Most filter lines in a `Hello`.
const FILTERS_MAX: usize = 10_000;
/// Most moved directories in one statement.
pub const MOVED_MAX: usize = 10_000;
/// Most entries that one moved directory does not speak for.
pub const EXCEPTIONS_MAX: usize = 4096;
/// Most bytes of their paths, in one message: it has to fit a frame.
pub const EXCEPTION_BYTES: usize = 256 << 10;
/// Most bytes of the paths of all exceptions of a statement: its reader keeps them in memory.
pub const STATEMENT_EXCEPTION_BYTES: usize = 64 << 20;
/// Most directories in the path to a root.
const PLACES_MAX: usize = 256;

/// How an end's bytes travel after its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCodec {
    /// As they are: both ends on one machine, or compression switched off.
    Raw,
    /// One zstd stream for the whole session.
    Zstd,
}

impl StreamCodec {
    fn number(self) -> u8 {
        match self {
            StreamCodec::Raw => 0,
            StreamCodec::Zstd => 1,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<StreamCodec, DecodeError> {
        match reader.u8("a stream's codec")? {
            0 => Ok(StreamCodec::Raw),
            1 => Ok(StreamCodec::Zstd),
            _ => Err(DecodeError::Invalid("a stream's codec")),
        }
    }
}

/// Which way changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Both ways.
    TwoWay,
    /// The responder becomes exactly what the initiator is.
    ToResponder,
    /// The initiator becomes exactly what the responder is.
    ToInitiator,
}

/// One `--include` or `--exclude`, in gitignore syntax; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether what matches is synced.
    pub include: bool,
    /// The pattern.
    pub pattern: String,
}

/// The initiator's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub version_min: u64,
    /// Newest protocol version it speaks.
    pub version_max: u64,
    /// Feature bits it offers; unknown ones are ignored.
    pub features: u64,
    /// How its bytes travel from here on.
    pub codec: StreamCodec,
    /// Who it is.
    pub replica: ReplicaId,
    /// The life of its index.
    pub index: IndexId,
    /// Whom it met at this place last time, if anybody.
    pub expected: Option<(ReplicaId, IndexId)>,
    /// The highest sequence number of the expected peer that it has processed.
    pub processed: u64,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// Which way changes go.
    pub flow: Flow,
    /// The plan will be shown, not carried out.
    pub dry_run: bool,
    /// A person said that a tree which is empty now is meant to be: the responder need not stop.
    pub accepts_empty: bool,
    /// Filters given on the command line.
    pub filters: Vec<Filter>,
    /// Keyed digests of the root directory and of each directory above it, the root first: how
    /// two ends on one machine see that their roots overlap.
    pub places: Vec<u64>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.version_min);
        out.put_varint(self.version_max);
        out.put_varint(self.features);
        out.push(self.codec.number());
        out.put_raw(&self.replica.0);
        out.put_raw(&self.index.0);
        let flow = match self.flow {
            Flow::TwoWay => 0,
            Flow::ToResponder => 1,
            Flow::ToInitiator => 2,
        };
        let flags = u8::from(self.dry_run) << 2
            | u8::from(self.expected.is_some()) << 3
            | u8::from(self.accepts_empty) << 4;
        out.push(flow | flags);
        if let Some((replica, index)) = self.expected {
            out.put_raw(&replica.0);
            out.put_raw(&index.0);
        }
        out.put_varint(self.processed);
        out.put_raw(&self.nonce);
        out.put_varint(self.filters.len() as u64);
        for filter in &self.filters {
            out.push(u8::from(filter.include));
            // Never cut: it would be another filter. The responder refuses one that is too long.
            out.put_bytes(filter.pattern.as_bytes());
        }
        out.put_varint(self.places.len() as u64);
        self.places.iter().for_each(|place| out.put_raw(&place.to_le_bytes()));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Hello, DecodeError> {
        let version_min = r.varint("the oldest version")?;
        let version_max = r.varint("the newest version")?;
        let features = r.varint("the features")?;
        if version_min > VERSION_MAX || version_max < VERSION_MIN {
            // Nothing after the version range can be relied upon.
            return Ok(Hello::of_unknown_version(version_min, version_max));
        }
        let codec = StreamCodec::decode(r)?;
        let replica = ReplicaId(r.array("a replica's id")?);
        let index = IndexId(r.array("an index id")?);
        let bits = r.u8("the flow")?;
        let flow = match bits & 3 {
            0 => Flow::TwoWay,
            1 => Flow::ToResponder,
            2 => Flow::ToInitiator,
            _ => return Err(DecodeError::Invalid("the flow")),
        };
        let expected = match bits & 8 {
            0 => None,
            _ => Some((ReplicaId(r.array("a replica's id")?), IndexId(r.array("an index id")?))),
        };
        Ok(Hello {
            version_min,
            version_max,
            features,
            codec,
            replica,
            index,
            expected,
            processed: r.number("a sequence number")?,
            nonce: r.array("a nonce")?,
            flow,
            dry_run: bits & 4 != 0,
            accepts_empty: bits & 16 != 0,
            filters: (0..r.count("a count of filters", FILTERS_MAX)?)
                .map(|_| Filter::decode(r))
                .collect::<Result<_, _>>()?,
            places: (0..r.count("a count of places", PLACES_MAX)?)
                .map(|_| Ok(u64::from_le_bytes(r.array("a place")?)))
                .collect::<Result<_, DecodeError>>()?,
        })
    }

    /// What is known of a peer that speaks no version of ours.
    fn of_unknown_version(version_min: u64, version_max: u64) -> Hello {
        Hello {
            version_min,
            version_max,
            features: 0,
            codec: StreamCodec::Raw,
            replica: ReplicaId([0; 16]),
            index: IndexId([0; 8]),
            expected: None,
            processed: 0,
            nonce: [0; 16],
            flow: Flow::TwoWay,
            dry_run: true,
            accepts_empty: false,
            filters: Vec::new(),
            places: Vec::new(),
        }
    }
}

impl Filter {
    fn decode(r: &mut Reader<'_>) -> Result<Filter, DecodeError> {
        let include = match r.u8("a filter's kind")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("a filter's kind")),
        };
        let pattern = String::from_utf8(r.bytes("a filter", TEXT_MAX)?.to_vec());
        Ok(Filter { include, pattern: pattern.map_err(|_| DecodeError::Invalid("a filter"))? })
    }
}

/// What the responder makes of the initiator's statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The rows are enough to plan on; the answer to them follows.
    Proceed {
        /// Whether the two have no history in common: then no deletion may come of it.
        first_contact: bool,
    },
    /// Rows must be stated again from this sequence number on (0: all of them).
    Restate {
        /// Rows above this number are needed.
        since: u64,
        /// Whether the two have no history in common: then no deletion may come of it.
        first_contact: bool,
    },
}

/// The responder's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version that both will speak.
    pub version: u64,
    /// Feature bits that both know.
    pub features: u64,
    /// How its bytes travel from here on.
    pub codec: StreamCodec,
    /// Who it is.
    pub replica: ReplicaId,
    /// The life of its index.
    pub index: IndexId,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// What it makes of the statement.
    pub verdict: Verdict,
}

impl Welcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.version);
        out.put_varint(self.features);
        out.push(self.codec.number());
        out.put_raw(&self.replica.0);
        out.put_raw(&self.index.0);
        out.put_raw(&self.nonce);
        match self.verdict {
            Verdict::Proceed { first_contact } => out.push(u8::from(first_contact)),
            Verdict::Restate { since, first_contact } => {
                out.push(if first_contact { 3 } else { 2 });
                out.put_varint(since);
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
        Ok(Welcome {
            version: r.varint("the version")?,
            features: r.varint("the features")?,
            codec: StreamCodec::decode(r)?,
            replica: ReplicaId(r.array("a replica's id")?),
            index: IndexId(r.array("an index id")?),
            nonce: r.array("a nonce")?,
            verdict: match r.u8("a verdict")? {
                n @ (0 | 1) => Verdict::Proceed { first_contact: n == 1 },
                n @ (2 | 3) => Verdict::Restate {
                    since: r.number("a sequence number")?,
                    first_contact: n == 3,
                },
                _ => return Err(DecodeError::Invalid("a verdict")),
            },
        })
    }
}

/// What the rows after a `Statement` cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// What changed after a sequence number, and what was left pending.
    Changes {
        /// Rows above this number.
        since: u64,
    },
    /// Every row; no rows at all where the tree has never held anything.
    Everything,
}

/// A directory that was moved whole, in place of the rows that say so one by one: SPEC.md,
/// "Moved directories".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Where it stood.
    pub from: RelPath,
    /// Where it stands now.
    pub to: RelPath,
    /// The initiator's counter in the versions of all these rows.
    pub counter: u64,
    /// What was in the directory and is not spoken for, with paths relative to it, in order: it has
    /// rows of its own, if any.
    pub except: Vec<RelPath>,
    /// Digest of the rows that this stands for.
    pub digest: [u8; 16],
}

impl Moved {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.from.as_bytes());
        out.put_bytes(self.to.as_bytes());
        out.put_varint(self.counter);
        out.put_varint(self.except.len() as u64);
        let mut before: &[u8] = b"";
        for path in self.except.iter().map(RelPath::as_bytes) {
            let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
            out.put_varint(shared as u64);
            out.put_bytes(&path[shared..]);
            before = path;
        }
        out.put_raw(&self.digest);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Moved, DecodeError> {
        let from = RelPath::new(r.bytes("a moved directory", PATH_MAX)?)?;
        let to = RelPath::new(r.bytes("a moved directory", PATH_MAX)?)?;
        if from == to || from.is_below(&to) || to.is_below(&from) {
            return Err(DecodeError::Invalid("a moved directory"));
        }
        let counter = r.number("a counter")?;
        let except = decode_exceptions(r)?;
        Ok(Moved { from, to, counter, except, digest: r.array("a digest of rows")? })
    }

    /// How many bytes the paths of the exceptions take.
    pub fn exception_bytes(&self) -> usize {
        self.except.iter().map(|path| path.as_bytes().len()).sum()
    }
}

fn decode_exceptions(r: &mut Reader<'_>) -> Result<Vec<RelPath>, DecodeError> {
    let count = r.count("a count of exceptions", EXCEPTIONS_MAX)?;
    let mut except: Vec<RelPath> = Vec::with_capacity(count);
    let mut bytes = 0;
    for _ in 0..count {
        let before = except.last().map_or(b"".as_slice(), RelPath::as_bytes);
        let shared = r.bounded("a shared beginning", before.len() as u64)? as usize;
        let path = [&before[..shared], r.bytes("an exception", PATH_MAX)?].concat();
        bytes += path.len();
        if bytes > EXCEPTION_BYTES {
            let (value, limit) = (bytes as u64, EXCEPTION_BYTES as u64);
            let what = "the length of all exceptions";
            return Err(DecodeError::TooLarge { what, value, limit });
        }
        let path = RelPath::new(&path)?;
        if except.last().is_some_and(|last| *last >= path) {
            return Err(DecodeError::Invalid("the order of the exceptions"));
        }
        except.push(path);
    }
    Ok(except)
}

/// Introduces an end's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The highest sequence number in its index.
    pub sequence: u64,
    /// How many entries its tree has (tombstones not counted).
    pub live: u64,
    /// Digest of its filters: when it changes, everything is stated again.
    pub scope: [u8; 8],
    /// What the rows cover.
    pub coverage: Coverage,
}

impl Statement {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.sequence);
        out.put_varint(self.live);
        out.put_raw(&self.scope);
        match self.coverage {
            Coverage::Changes { since } => {
                out.push(0);
                out.put_varint(since);
            }
            Coverage::Everything => out.push(1),
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Statement, DecodeError> {
        Ok(Statement {
            sequence: r.number("a sequence number")?,
            live: r.number("a count of entries")?,
            scope: r.array("a scope digest")?,
            coverage: match r.u8("a coverage")? {
                0 => Coverage::Changes { since: r.number("a sequence number")? },
                1 => Coverage::Everything,
                _ => return Err(DecodeError::Invalid("a coverage")),
            },
        })
    }
}
