//! The messages that carry out a plan: wants, contents, outcomes.

use super::{TEXT_MAX, shortened, shortened_to};
use crate::codec::{Put, Reader};
use crate::decision::{self, Decision};
use crate::entry::{Check, ContentHash};
use crate::error::DecodeError;
use crate::frame::FRAME_MAX;
use crate::manifest::ENTRIES_MAX;
use crate::path::PATH_MAX;

/// Most fresh bytes in one `Delta`.
pub const FRESH_MAX: u32 = 960 << 10;
/// Most pieces in one `Delta`.
pub const PIECES_MAX: usize = 4096;
/// Most attempts to send one file as a delta.
const ATTEMPTS_MAX: u8 = 8;
/// Kinds of wants besides the attempts as a delta.
const WANT_WHOLE: u8 = 0;
const WANT_BASE: u8 = 9;
const WANT_CONFIRM: u8 = 10;
const WANT_COARSE: u8 = 11;
const WANT_FINE: u8 = 12;
/// Most bytes that say what coarse blocks left unresolved.
pub const UNRESOLVED_MAX: usize = 512 << 10;
/// Most bytes that a segment makes.
pub const SEGMENT_MAX: u32 = 8 << 20;
/// Most bytes of a segment itself: what it makes may be incompressible, and it may have many parts.
pub const SEGMENT_BYTES: u32 = 12 << 20;
/// Most contents in one patch.
pub const PATCHES_MAX: usize = 4096;
/// Most bytes in a patch: it fits a frame with the numbers of its contents.
pub const PATCH_BYTES: usize = 960 << 10;
/// Most failures named in one `Done`.
const FAILURES_MAX: usize = 10_000_000;
/// Most bytes that a failure takes beside its text: its path's number, kind and the text's length.
const FAILURE_BYTES: usize = 10 + 1 + 2;
/// Most bytes of a path that is only shown; what is longer is cut.
const SHOWN_PATH_MAX: usize = PATH_MAX + 256;
/// Most bytes of block hashes for one file.
pub const SIGNATURE_MAX: u64 = 16 << 20;
/// Most bytes of block hashes in one flight: the other end keeps them until its turn comes.
pub const SIGNATURES_MAX: u64 = 32 << 20;

/// The initiator's plan, or the next part of it. The paths are those of both ends' rows, sorted,
/// each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The planner's clock for versions of its own making.
    pub counter: u64,
    /// How many of the initiator's rows follow that it had not stated before.
    pub extra_rows: u64,
    /// The column of decisions for the next paths, still encoded: how many there may be is known to
    /// the session.
    pub decisions: Vec<u8>,
}

impl Plan {
    /// From decisions in the order of the paths, cut so that each part fits a frame.
    pub fn parts(counter: u64, extra_rows: u64, decisions: &[Decision]) -> Vec<Plan> {
        let parts = decision::parts(decisions).into_iter();
        parts.map(|part| Plan::new(counter, extra_rows, part)).collect()
    }

    /// One part, from decisions in the order of the paths.
    pub fn new(counter: u64, extra_rows: u64, decisions: &[Decision]) -> Plan {
        let mut column = Vec::new();
        decision::encode(decisions, &mut column);
        Plan { counter, extra_rows, decisions: column }
    }

    /// The decisions of a part, while `missing` of `paths` paths have none yet.
    pub(crate) fn part(&self, missing: usize, paths: usize) -> Result<Vec<Decision>, DecodeError> {
        let mut reader = Reader::new(&self.decisions);
        let decisions = decision::decode_part(&mut reader, missing, paths)?;
        reader.end("a plan")?;
        Ok(decisions)
    }

    /// The decisions of a plan in one part; there must be one for each of `paths` paths.
    pub fn decisions(&self, paths: usize) -> Result<Vec<Decision>, DecodeError> {
        let mut reader = Reader::new(&self.decisions);
        let decisions = decision::decode(&mut reader, paths)?;
        reader.end("a plan")?;
        Ok(decisions)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.counter);
        out.put_varint(self.extra_rows);
        out.put_raw(&self.decisions);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Plan, DecodeError> {
        let counter = r.number("the planner's counter")?;
        let extra_rows = r.bounded("a count of rows", ENTRIES_MAX as u64)?;
        Ok(Plan { counter, extra_rows, decisions: r.raw(r.remaining(), "decisions")?.to_vec() })
    }
}

/// Asks for a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The path's number in the plan.
    pub index: u64,
    /// As what.
    pub kind: WantKind,
}

/// As what a content is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantKind {
    /// All of it.
    Whole,
    /// Against an old file, whose block hashes follow in `Signature` messages.
    Delta(WantDelta),
    /// The same, but the blocks are coarse: the answer may be `Unresolved`.
    Coarse(WantDelta),
    /// Finer blocks of what was unresolved, which follow in `Signature` messages.
    Fine(WantDelta),
    /// Against the content that the row's base names: the end that asks has it.
    Base,
    /// Only its hash: the content itself has come, but nothing has proved it.
    Confirm,
}

/// The old file against which a content is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantDelta {
    /// Its length in bytes.
    pub old_len: u64,
    /// Block length in bytes.
    pub block_len: u32,
    /// Bytes of each block's hash.
    pub hash_len: u8,
    /// Which attempt this is: each has a hash of its own, see
    /// [`CheckKey::block_seed`](crate::CheckKey::block_seed).
    pub attempt: u8,
    /// How many bytes of hashes follow.
    pub signature_len: u64,
}

impl WantKind {
    /// The block hashes that follow, if any do.
    pub fn signed(&self) -> Option<&WantDelta> {
        match self {
            WantKind::Delta(delta) | WantKind::Coarse(delta) | WantKind::Fine(delta) => Some(delta),
            WantKind::Whole | WantKind::Base | WantKind::Confirm => None,
        }
    }
}

impl WantDelta {
    fn encode(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.put_varint(self.old_len);
        out.put_varint(u64::from(self.block_len));
        out.push(self.hash_len);
        out.put_varint(self.signature_len);
    }

    fn decode(attempt: u8, r: &mut Reader<'_>) -> Result<WantDelta, DecodeError> {
        Ok(WantDelta {
            attempt,
            old_len: r.number("an old file's length")?,
            block_len: r.bounded("a block's length", u64::from(u32::MAX))? as u32,
            hash_len: r.u8("a hash's length")?,
            signature_len: r.bounded("a signature's length", SIGNATURE_MAX)?,
        })
    }
}

impl Want {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.index);
        match &self.kind {
            WantKind::Whole => out.push(WANT_WHOLE),
            WantKind::Base => out.push(WANT_BASE),
            WantKind::Confirm => out.push(WANT_CONFIRM),
            WantKind::Delta(delta) => delta.encode(1 + delta.attempt, out),
            WantKind::Coarse(delta) => delta.encode(WANT_COARSE, out),
            WantKind::Fine(delta) => delta.encode(WANT_FINE, out),
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Want, DecodeError> {
        let index = r.varint("a path's number")?;
        let kind = match r.u8("a want's kind")? {
            WANT_WHOLE => WantKind::Whole,
            WANT_BASE => WantKind::Base,
            WANT_CONFIRM => WantKind::Confirm,
            WANT_COARSE => WantKind::Coarse(WantDelta::decode(0, r)?),
            WANT_FINE => WantKind::Fine(WantDelta::decode(0, r)?),
            kind @ 1..=ATTEMPTS_MAX => WantKind::Delta(WantDelta::decode(kind - 1, r)?),
            _ => return Err(DecodeError::Invalid("a want's kind")),
        };
        Ok(Want { index, kind })
    }
}

/// The next part of a file that is sent against an old one: old blocks and fresh bytes by turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaOp {
    /// What to write, in order.
    pub pieces: Vec<DeltaPiece>,
    /// Whether `data` is a zstd frame, whose prefix is made of the blocks that the pieces name;
    /// otherwise it is the fresh bytes as they are.
    pub coded: bool,
    /// The fresh bytes of all pieces, one after the other.
    pub data: Vec<u8>,
}

/// Old blocks, then fresh bytes; either may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPiece {
    /// The first block's number.
    pub block: u64,
    /// How many blocks. The last block of the old file may be shorter than the others.
    pub count: u64,
    /// How many fresh bytes follow.
    pub fresh: u32,
}

impl DeltaOp {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.coded));
        out.put_varint(self.pieces.len() as u64);
        let mut next = 0u64;
        for piece in &self.pieces {
            out.put_varint(piece.count);
            if piece.count > 0 {
                out.put_signed(piece.block.wrapping_sub(next) as i64);
                next = piece.block.wrapping_add(piece.count);
            }
            out.put_varint(u64::from(piece.fresh));
        }
        out.put_raw(&self.data);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<DeltaOp, DecodeError> {
        let coded = match r.u8("a delta's kind")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("a delta's kind")),
        };
        let count = r.count("a count of pieces", PIECES_MAX)?;
        let mut pieces = Vec::with_capacity(count);
        let mut next = 0u64;
        for _ in 0..count {
            let count = r.varint("a count of blocks")?;
            let mut block = 0;
            if count > 0 {
                block = next.wrapping_add(r.signed("a block's number")? as u64);
                next = block.checked_add(count).ok_or(DecodeError::Invalid("a run of blocks"))?;
            }
            let fresh = r.bounded("a count of fresh bytes", u64::from(FRESH_MAX))? as u32;
            pieces.push(DeltaPiece { block, count, fresh });
        }
        Ok(DeltaOp { pieces, coded, data: r.raw(r.remaining(), "fresh bytes")?.to_vec() })
    }
}

/// Which parts of an old file are to be hashed in finer blocks, before its new content comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The path's number in the plan.
    pub index: u64,
    /// The parts; the delta module knows how.
    pub parts: Vec<u8>,
}

impl Unresolved {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.index);
        out.put_raw(&self.parts);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Unresolved, DecodeError> {
        let index = r.varint("a path's number")?;
        let (value, limit) = (r.remaining() as u64, UNRESOLVED_MAX as u64);
        if value > limit {
            return Err(DecodeError::TooLarge { what: "unresolved parts", value, limit });
        }
        Ok(Unresolved { index, parts: r.raw(r.remaining(), "unresolved parts")?.to_vec() })
    }
}

/// Whole contents, all in one patch against old ones that the reader has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patches {
    /// The contents, in the order in which the patch makes them. At least one.
    pub contents: Vec<Patched>,
    /// The patch.
    pub patch: Vec<u8>,
}

/// One content that a patch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patched {
    /// The path's number in the plan; in an answer, the row's number.
    pub index: u64,
    /// What it is made of.
    pub base: Base,
}

/// The old content of which a new one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The base of the row.
    Own,
    /// The base of the row, of which the writer knows only the hashes of blocks of so many bytes.
    Blocks(u32),
    /// Another content, by its check under the writer's key.
    Other(Check),
    /// None: the patch has all of it.
    Nothing,
}

const BASE_OWN: u8 = 0;
const BASE_OTHER: u8 = 1;
const BASE_NOTHING: u8 = 2;
const BASE_BLOCKS: u8 = 3;

impl Base {
    fn code(self) -> u8 {
        match self {
            Base::Own => BASE_OWN,
            Base::Other(_) => BASE_OTHER,
            Base::Nothing => BASE_NOTHING,
            Base::Blocks(_) => BASE_BLOCKS,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.push(self.code());
        match self {
            Base::Other(check) => out.put_raw(&check.0.to_le_bytes()),
            Base::Blocks(length) => out.put_varint(u64::from(length)),
            Base::Own | Base::Nothing => {}
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Base, DecodeError> {
        Ok(match r.u8("a base's kind")? {
            BASE_OWN => Base::Own,
            BASE_OTHER => Base::Other(Check(u64::from_le_bytes(r.array("a check")?))),
            BASE_NOTHING => Base::Nothing,
            BASE_BLOCKS => Base::Blocks(r.bounded("a block's length", u64::from(u32::MAX))? as u32),
            _ => return Err(DecodeError::Invalid("a base's kind")),
        })
    }
}

impl Patches {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.contents.len() as u64);
        let mut next = 0u64;
        for content in &self.contents {
            out.put_signed(content.index.wrapping_sub(next) as i64);
            next = content.index.wrapping_add(1);
        }
        // Runs of the same kind; only the bases that need it are named.
        for run in self.contents.chunk_by(|a, b| a.base == b.base) {
            out.put_varint(run.len() as u64);
            run[0].base.encode(out);
        }
        out.put_raw(&self.patch);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Patches, DecodeError> {
        let count = r.count("a count of contents", PATCHES_MAX)?;
        if count == 0 {
            return Err(DecodeError::Invalid("a count of contents"));
        }
        let mut next = 0u64;
        let mut contents = Vec::with_capacity(count);
        for _ in 0..count {
            let index = next.wrapping_add(r.signed("a path's number")? as u64);
            next = index.wrapping_add(1);
            contents.push(Patched { index, base: Base::Own });
        }
        let mut rest = &mut contents[..];
        while !rest.is_empty() {
            let run = r.bounded("a run of bases", rest.len() as u64)? as usize;
            if run == 0 {
                return Err(DecodeError::Invalid("a run of bases"));
            }
            let base = Base::decode(r)?;
            let (now, later) = rest.split_at_mut(run);
            now.iter_mut().for_each(|content| content.base = base);
            rest = later;
        }
        Ok(Patches { contents, patch: r.raw(r.remaining(), "a patch")?.to_vec() })
    }
}

/// The old content of which the segments or deltas of a content are made, where no signature named
/// it: segments, unless the writer knows only the hashes of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Against {
    /// Which.
    pub base: Base,
    /// Its length in bytes.
    pub old_len: u64,
}

impl Against {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.base.encode(out);
        out.put_varint(self.old_len);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Against, DecodeError> {
        let base = Base::decode(r)?;
        Ok(Against { base, old_len: r.number("an old content's length")? })
    }
}

/// The next part of a content that is too long for one patch; or some of the bytes of one, if they
/// do not fit a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Bytes that it makes.
    pub new_len: u32,
    /// Bytes of it that come in further messages.
    pub missing: u32,
    /// Of what it is made, and how; the delta module knows.
    pub bytes: Vec<u8>,
}

impl Segment {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.new_len));
        out.put_varint(u64::from(self.missing));
        out.put_raw(&self.bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Segment, DecodeError> {
        let new_len = r.bounded("a segment's length", u64::from(SEGMENT_MAX))? as u32;
        let missing = r.bounded("a segment's missing bytes", u64::from(SEGMENT_BYTES))? as u32;
        Ok(Segment { new_len, missing, bytes: r.raw(r.remaining(), "a segment")?.to_vec() })
    }
}

/// The root over the full hashes of contents: proves several at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof(pub [u8; 32]);

impl Proof {
    /// Of contents with these hashes, in the order in which they were sent.
    pub fn of<'a>(hashes: impl IntoIterator<Item = &'a ContentHash>) -> Proof {
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 proof of contents");
        hashes.into_iter().for_each(|hash| {
            hasher.update(&hash.0);
        });
        Proof(hasher.finalize().into())
    }
}

/// Why a path could not be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// It changed while the run was at work.
    Changed,
    /// The operating system refused.
    System,
    /// What arrived was not what was announced, however often it was sent.
    Mismatch,
    /// The content was wanted against a base that the sender does not know any more.
    NoBase,
}

/// One path that could not be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The path's number in the plan.
    pub index: u64,
    /// The kind of trouble.
    pub kind: FailureKind,
    /// For people.
    pub text: String,
}

impl Failure {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_within(TEXT_MAX, out);
    }

    fn encode_within(&self, text_max: usize, out: &mut Vec<u8>) {
        out.put_varint(self.index);
        out.push(match self.kind {
            FailureKind::Changed => 0,
            FailureKind::System => 1,
            FailureKind::Mismatch => 2,
            FailureKind::NoBase => 3,
        });
        out.put_bytes(shortened_to(&self.text, text_max).as_bytes());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Failure, DecodeError> {
        Ok(Failure {
            index: r.varint("a path's number")?,
            kind: match r.u8("a failure's kind")? {
                0 => FailureKind::Changed,
                1 => FailureKind::System,
                2 => FailureKind::Mismatch,
                3 => FailureKind::NoBase,
                _ => return Err(DecodeError::Invalid("a failure's kind")),
            },
            text: r.text("a failure's text", TEXT_MAX)?,
        })
    }
}

/// An end's last word: everything that it could do is done and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its index's highest sequence number now.
    pub sequence: u64,
    /// What it could not do; these paths are pending on both ends.
    pub failures: Vec<Failure>,
}

impl Done {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.sequence);
        out.put_varint(self.failures.len() as u64);
        // Every failure is named; where they are many, less is said of each.
        let room = (FRAME_MAX - FAILURE_BYTES).checked_div(self.failures.len());
        let text_max = room.map_or(TEXT_MAX, |room| room.saturating_sub(FAILURE_BYTES));
        self.failures.iter().for_each(|failure| failure.encode_within(text_max, out));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Done, DecodeError> {
        let sequence = r.number("a sequence number")?;
        let count = r.count("a count of failures", FAILURES_MAX)?;
        let failures = (0..count).map(|_| Failure::decode(r)).collect::<Result<_, _>>()?;
        Ok(Done { sequence, failures })
    }
}

/// What kind of thing a person should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// A device, socket or FIFO: not synced.
    Special,
    /// Could not be read.
    Unreadable,
    /// Changed while it was read.
    Changed,
    /// A line in a filter file that is no pattern.
    Pattern,
    /// Something to know that is no fault (a state database set aside, ...).
    Note,
}

/// Something on the other end that a person should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The kind.
    pub kind: ProblemKind,
    /// The path relative to the root, empty for the root; only ever printed.
    pub path: Vec<u8>,
    /// For people.
    pub text: String,
}

impl Problem {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            ProblemKind::Special => 0,
            ProblemKind::Unreadable => 1,
            ProblemKind::Changed => 2,
            ProblemKind::Pattern => 3,
            ProblemKind::Note => 4,
        });
        out.put_bytes(&self.path[..self.path.len().min(SHOWN_PATH_MAX)]);
        out.put_bytes(shortened(&self.text).as_bytes());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Problem, DecodeError> {
        Ok(Problem {
            kind: match r.u8("a problem's kind")? {
                0 => ProblemKind::Special,
                1 => ProblemKind::Unreadable,
                2 => ProblemKind::Changed,
                3 => ProblemKind::Pattern,
                4 => ProblemKind::Note,
                _ => return Err(DecodeError::Invalid("a problem's kind")),
            },
            path: r.bytes("a problem's path", SHOWN_PATH_MAX)?.to_vec(),
            text: r.text("a problem's text", TEXT_MAX)?,
        })
    }
}
