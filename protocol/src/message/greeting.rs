//! The messages that open a session: who is there, and what is stated.

use super::TEXT_MAX;
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::path::{PATH_MAX, RelPath};
use crate::signed::Expected;
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
/// Bits of a greeting: the plan is not carried out; it is rehearsed.
const DRY_RUN: u8 = 1 << 2;
const REHEARSAL: u8 = 1 << 5;
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

/// What will become of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It is carried out.
    CarryOut,
    /// It is shown: none will be sent.
    Show,
    /// It is sent, and both ends count what it would cost on the line: contents do not travel, and
    /// nothing is changed.
    Rehearse,
}

impl Intent {
    fn bits(self) -> u8 {
        match self {
            Intent::CarryOut => 0,
            Intent::Show => DRY_RUN,
            Intent::Rehearse => DRY_RUN | REHEARSAL,
        }
    }

    fn of_bits(bits: u8) -> Intent {
        match (bits & DRY_RUN, bits & REHEARSAL) {
            (0, _) => Intent::CarryOut,
            (_, 0) => Intent::Show,
            _ => Intent::Rehearse,
        }
    }
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
    /// Whom it met at this place last time, if anybody, and how that ended.
    pub expected: Option<Expected>,
    /// The highest sequence number of the expected peer that it has processed.
    pub processed: u64,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// Which way changes go.
    pub flow: Flow,
    /// What will become of the plan.
    pub intent: Intent,
    /// A person said for this run that a tree which is empty now is meant to be: the responder need
    /// not stop.
    pub accepts_empty: bool,
    /// A person has set how much may be deleted: the responder's own limit does not hold.
    pub sets_limit: bool,
    /// Filters given on the command line.
    pub filters: Vec<Filter>,
    /// Keyed digests of the root directory and of each directory above it, the root first: how
    /// two ends on one machine see that their roots overlap. Only the root's where a peer is expected.
    pub places: Vec<u32>,
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
        let flags = self.intent.bits()
            | u8::from(self.expected.is_some()) << 3
            | u8::from(self.accepts_empty) << 4
            | u8::from(self.sets_limit) << 6;
        out.push(flow | flags);
        if let Some(Expected { replica, heads }) = self.expected {
            out.put_raw(&replica);
            out.put_raw(&heads);
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
            _ => Some(Expected {
                replica: r.array("a digest of a replica's id")?,
                heads: r.array("a digest of a session's end")?,
            }),
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
            intent: Intent::of_bits(bits),
            accepts_empty: bits & 16 != 0,
            sets_limit: bits & 64 != 0,
            filters: (0..r.count("a count of filters", FILTERS_MAX)?)
                .map(|_| Filter::decode(r))
                .collect::<Result<_, _>>()?,
            places: (0..r.count("a count of places", PLACES_MAX)?)
                .map(|_| Ok(u32::from_le_bytes(r.array("a place")?)))
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
            intent: Intent::Show,
            accepts_empty: false,
            sets_limit: false,
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
    /// Who it is, and the life of its index; none where it is whom the initiator expects.
    pub who: Option<(ReplicaId, IndexId)>,
    /// Whether their last session ended here as the initiator says.
    pub joined: bool,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// What it makes of the statement.
    pub verdict: Verdict,
    /// Keyed digest of its root directory.
    pub place: Option<u32>,
}

/// Bits of a welcome.
const FIRST_CONTACT: u8 = 1;
const RESTATE: u8 = 2;
const AS_EXPECTED: u8 = 4;
const JOINED: u8 = 8;
const PLACED: u8 = 16;

impl Welcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.version);
        out.put_varint(self.features);
        out.push(self.codec.number());
        let (verdict, first_contact) = match self.verdict {
            Verdict::Proceed { first_contact } => (0, first_contact),
            Verdict::Restate { first_contact, .. } => (RESTATE, first_contact),
        };
        let bit = |bit, is_set| if is_set { bit } else { 0 };
        out.push(
            verdict
                | bit(FIRST_CONTACT, first_contact)
                | bit(AS_EXPECTED, self.who.is_none())
                | bit(JOINED, self.joined)
                | bit(PLACED, self.place.is_some()),
        );
        if let Some((replica, index)) = self.who {
            out.put_raw(&replica.0);
            out.put_raw(&index.0);
        }
        out.put_raw(&self.nonce);
        if let Verdict::Restate { since, .. } = self.verdict {
            out.put_varint(since);
        }
        self.place.iter().for_each(|place| out.put_raw(&place.to_le_bytes()));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
        let (version, features) = (r.varint("the version")?, r.varint("the features")?);
        let codec = StreamCodec::decode(r)?;
        let bits = r.u8("a verdict")?;
        if bits & !(FIRST_CONTACT | RESTATE | AS_EXPECTED | JOINED | PLACED) != 0 {
            return Err(DecodeError::Invalid("a verdict"));
        }
        let is_set = |bit| bits & bit != 0;
        let who = match is_set(AS_EXPECTED) {
            true => None,
            false => {
                Some((ReplicaId(r.array("a replica's id")?), IndexId(r.array("an index id")?)))
            }
        };
        let nonce = r.array("a nonce")?;
        let first_contact = is_set(FIRST_CONTACT);
        let verdict = match is_set(RESTATE) {
            false => Verdict::Proceed { first_contact },
            true => Verdict::Restate { since: r.number("a sequence number")?, first_contact },
        };
        let place = match is_set(PLACED) {
            true => Some(u32::from_le_bytes(r.array("a place")?)),
            false => None,
        };
        let joined = is_set(JOINED);
        Ok(Welcome { version, features, codec, who, joined, nonce, verdict, place })
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

/// Bits of a statement's coverage.
const EVERYTHING: u8 = 1;
const SCOPE_IS_KNOWN: u8 = 2;

/// Introduces an end's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The highest sequence number in its index.
    pub sequence: u64,
    /// How many entries its tree has (tombstones not counted).
    pub live: u64,
    /// Digest of its filters: when it changes, everything is stated again. None where it is what it
    /// was when the two met last, and they agree on when that was.
    pub scope: Option<[u8; 8]>,
    /// What the rows cover.
    pub coverage: Coverage,
}

impl Statement {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.sequence);
        out.put_varint(self.live);
        let known = if self.scope.is_none() { SCOPE_IS_KNOWN } else { 0 };
        match self.coverage {
            Coverage::Changes { since } => {
                out.push(known);
                out.put_varint(since);
            }
            Coverage::Everything => out.push(EVERYTHING | known),
        }
        self.scope.iter().for_each(|scope| out.put_raw(scope));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Statement, DecodeError> {
        let (sequence, live) = (r.number("a sequence number")?, r.number("a count of entries")?);
        let bits = r.u8("a coverage")?;
        if bits & !(EVERYTHING | SCOPE_IS_KNOWN) != 0 {
            return Err(DecodeError::Invalid("a coverage"));
        }
        let coverage = match bits & EVERYTHING {
            0 => Coverage::Changes { since: r.number("a sequence number")? },
            _ => Coverage::Everything,
        };
        let scope = match bits & SCOPE_IS_KNOWN {
            0 => Some(r.array("a scope digest")?),
            _ => None,
        };
        Ok(Statement { sequence, live, scope, coverage })
    }
}
