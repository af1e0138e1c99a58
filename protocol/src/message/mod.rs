//! The messages, each with its fields and limits. Encoding and decoding of one never look at
//! another; which may come when is the business of [`crate::session`].

mod counted;
mod greeting;
mod marks;
mod seal;
mod transfer;
mod tree;

pub use counted::{COSTS, COUNTED_RUNS_MAX, Costs, Counted};
pub use greeting::{
    Coverage, EXCEPTION_BYTES, EXCEPTIONS_MAX, Filter, Flow, Hello, Intent, MOVED_MAX, Moved,
    STATEMENT_EXCEPTION_BYTES, Statement, StreamCodec, Verdict, Welcome,
};
pub(crate) use marks::parts as mark_parts;
pub use marks::{MARKS_MAX, Mark};
pub use seal::Seal;
pub use transfer::{
    Against, Base, DeltaOp, DeltaPiece, Done, FRESH_MAX, Failure, FailureKind, PATCH_BYTES,
    PATCHES_MAX, PIECES_MAX, Patched, Patches, Plan, Problem, ProblemKind, Proof, SEGMENT_BYTES,
    SEGMENT_MAX, SIGNATURE_MAX, SIGNATURES_MAX, Segment, UNRESOLVED_MAX, Unresolved, Want,
    WantDelta, WantKind,
};

pub use tree::{
    COUNTERPARTS_MAX, Common, Counterpart, Counterparts, Demand, PROPS_MAX, PropsStep,
    REMAINDER_MAX, REMAINDER_MIN, RUNS_MAX, SKETCH, SPREAD_MAX, Summary, Tree, Versions,
};

use std::borrow::Cow;

use crate::changes::Known;
use crate::codec::{Put, Reader};
use crate::entry::ContentHash;
use crate::error::{DecodeError, ErrorCode, ProtocolError};

/// Longest text that travels for people to read, in bytes.
pub const TEXT_MAX: usize = 4096;
/// Most bytes of a file in one `Literal`, and most hashes' bytes in one `Signature`.
pub const CHUNK_MAX: usize = 512 << 10;

/// Everything that may travel in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Initiator's first: who it is, what it speaks and what it expects.
    Hello(Hello),
    /// Responder's first.
    Welcome(Welcome),
    /// What an end is about to state: introduces rows.
    Statement(Statement),
    /// One batch of rows, see [`crate::manifest`].
    Rows(Vec<u8>),
    /// A directory that was moved whole.
    Moved(Moved),
    /// All rows of the initiator that are not stated one by one.
    Tree(Tree),
    /// What the responder has to hear first.
    Demand(Demand),
    /// What of the responder's tree the initiator has as well.
    Common(Common),
    /// Properties of what both have.
    Props(Vec<PropsStep>),
    /// The responder's files where the initiator has stated other ones.
    Counterparts(Counterparts),
    /// The responder's marks, one for each row of the initiator, in as many messages as they take.
    Marks(Vec<Mark>),
    /// The plan.
    Plan(Plan),
    /// Asks for the content of one path of the plan.
    Want(Want),
    /// Block hashes that belong to the last `Want`.
    Signature(Vec<u8>),
    /// The content of this path of the plan follows.
    File(u64),
    /// Bytes of the file as they are.
    Literal(Vec<u8>),
    /// The next part of a file that was wanted as a delta.
    Delta(DeltaOp),
    /// The file is complete; its full hash, or none where the next `Proof` covers it.
    FileEnd(Option<ContentHash>),
    /// The file cannot be sent after all.
    FileFailed(Failure),
    /// This end has carried out its part of the plan.
    Done(Done),
    /// Something that a person should hear of.
    Problem(Problem),
    /// The flight is over: now the other end speaks.
    End,
    /// The session is over, and why.
    Error {
        /// The kind of trouble.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// Still there, still working; and how fast the other end's bytes have come here, in KiB a
    /// second (0: unknown).
    Ping(u64),
    /// Whole contents against old ones.
    Patches(Patches),
    /// What the deltas of the open file are against.
    Against(Against),
    /// The next part of the open file, made of parts of an old one.
    Segment(Segment),
    /// What coarse blocks left unresolved.
    Unresolved(Unresolved),
    /// Proves all contents since the last one that came without a hash of their own.
    Proof(Proof),
    /// Introduces changes of entries that both ends know.
    Known(Known),
    /// Some of these changes, see [`crate::changes`].
    Changes(Vec<u8>),
    /// What a rehearsal says in the place of contents.
    Counted(Counted),
    /// The signature of a statement or a plan.
    Seal(Seal),
}

macro_rules! message_types {
    ($($name:ident = $number:literal;)*) => {
        /// The names of the message types, in the order of their numbers.
        pub const TYPES: &[(u8, &str)] = &[$(($number, stringify!($name)),)*];

        impl Message {
            /// The type byte in the frame.
            pub fn type_byte(&self) -> u8 {
                match self { $(message_types!(@pattern $name) => $number,)* }
            }

            /// The name that SPEC.md uses.
            pub fn name(&self) -> &'static str {
                match self { $(message_types!(@pattern $name) => stringify!($name),)* }
            }
        }
    };
    (@pattern End) => { Message::End };
    (@pattern Error) => { Message::Error { .. } };
    (@pattern $name:ident) => { Message::$name(..) };
}

message_types! {
    Hello = 1;
    Welcome = 2;
    Statement = 3;
    Rows = 4;
    Marks = 5;
    Plan = 6;
    Want = 7;
    Signature = 8;
    File = 9;
    Literal = 10;
    Delta = 11;
    FileEnd = 12;
    FileFailed = 13;
    Done = 14;
    Problem = 15;
    End = 16;
    Error = 17;
    Ping = 18;
    Moved = 19;
    Patches = 20;
    Against = 21;
    Proof = 22;
    Segment = 23;
    Tree = 24;
    Demand = 25;
    Common = 26;
    Props = 27;
    Counterparts = 28;
    Unresolved = 29;
    Known = 30;
    Changes = 31;
    Counted = 32;
    Seal = 33;
}

impl Message {
    /// The payload of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Message::Hello(hello) => hello.encode(&mut out),
            Message::Welcome(welcome) => welcome.encode(&mut out),
            Message::Statement(statement) => statement.encode(&mut out),
            Message::Rows(bytes)
            | Message::Changes(bytes)
            | Message::Literal(bytes)
            | Message::Signature(bytes) => {
                out.put_raw(bytes);
            }
            Message::Moved(moved) => moved.encode(&mut out),
            Message::Tree(tree) => tree.encode(&mut out),
            Message::Demand(demand) => demand.encode(&mut out),
            Message::Common(common) => common.encode(&mut out),
            Message::Props(steps) => tree::encode_props(steps, &mut out),
            Message::Counterparts(others) => others.encode(&mut out),
            Message::Marks(marks) => marks::encode(marks, &mut out),
            Message::Plan(plan) => plan.encode(&mut out),
            Message::Want(want) => want.encode(&mut out),
            Message::File(index) => out.put_varint(*index),
            Message::Delta(delta) => delta.encode(&mut out),
            Message::FileEnd(hash) => hash.iter().for_each(|hash| out.put_raw(&hash.0)),
            Message::FileFailed(failure) => failure.encode(&mut out),
            Message::Done(done) => done.encode(&mut out),
            Message::Problem(problem) => problem.encode(&mut out),
            Message::Patches(patches) => patches.encode(&mut out),
            Message::Against(against) => against.encode(&mut out),
            Message::Segment(segment) => segment.encode(&mut out),
            Message::Unresolved(unresolved) => unresolved.encode(&mut out),
            Message::Known(known) => known.encode(&mut out),
            Message::Counted(counted) => counted.encode(&mut out),
            Message::Seal(seal) => seal.encode(&mut out),
            Message::Proof(Proof(root)) => out.put_raw(root),
            Message::End | Message::Ping(0) => {}
            Message::Ping(rate) => out.put_varint(*rate),
            Message::Error { code, text } => {
                out.put_varint(code.number());
                out.put_bytes(shortened(text).as_bytes());
            }
        }
        out
    }

    /// The payload of the frame, copied only where it has to be put together.
    pub fn payload(&self) -> Cow<'_, [u8]> {
        match self {
            Message::Rows(bytes)
            | Message::Changes(bytes)
            | Message::Literal(bytes)
            | Message::Signature(bytes) => Cow::Borrowed(bytes),
            other => Cow::Owned(other.encode()),
        }
    }

    /// Reads a payload of the given type.
    pub fn decode(type_byte: u8, payload: &[u8]) -> Result<Message, ProtocolError> {
        let name = TYPES.iter().find(|(number, _)| *number == type_byte).map(|(_, name)| *name);
        let Some(message) = name else {
            let error = DecodeError::Invalid("the type of a message");
            return Err(ProtocolError::Decode { message: "unknown", error });
        };
        decode_payload(type_byte, payload).map_err(|error| ProtocolError::Decode { message, error })
    }
}

fn decode_payload(type_byte: u8, payload: &[u8]) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(payload);
    let r = &mut reader;
    let message = match type_byte {
        // A newer build may append fields to its greeting: they are passed over.
        1 => return Ok(Message::Hello(Hello::decode(r)?)),
        2 => return Ok(Message::Welcome(Welcome::decode(r)?)),
        3 => Message::Statement(Statement::decode(r)?),
        4 => return Ok(Message::Rows(payload.to_vec())),
        5 => Message::Marks(marks::decode(r)?),
        // How many decisions there must be is known to the session only.
        6 => return Ok(Message::Plan(Plan::decode(r)?)),
        7 => Message::Want(Want::decode(r)?),
        8 => Message::Signature(chunk(payload, "a piece of a signature")?),
        9 => Message::File(r.varint("a path's number")?),
        10 => return Ok(Message::Literal(chunk(payload, "a literal")?)),
        11 => Message::Delta(DeltaOp::decode(r)?),
        12 if payload.is_empty() => Message::FileEnd(None),
        12 => Message::FileEnd(Some(ContentHash(r.array("a hash")?))),
        13 => Message::FileFailed(Failure::decode(r)?),
        14 => Message::Done(Done::decode(r)?),
        15 => Message::Problem(Problem::decode(r)?),
        16 => Message::End,
        17 => Message::Error {
            code: ErrorCode::from_number(r.varint("an error's number")?),
            text: r.text("an error's text", TEXT_MAX)?,
        },
        18 => Message::Ping(rate(payload.is_empty(), r)?),
        20 => Message::Patches(Patches::decode(r)?),
        21 => Message::Against(Against::decode(r)?),
        22 => Message::Proof(Proof(r.array("a proof")?)),
        30 => Message::Known(Known::decode(r)?),
        31 => return Ok(Message::Changes(payload.to_vec())),
        32 => Message::Counted(Counted::decode(r)?),
        33 => Message::Seal(Seal::decode(r)?),
        23 => Message::Segment(Segment::decode(r)?),
        19 => Message::Moved(Moved::decode(r)?),
        24 => Message::Tree(Tree::decode(r)?),
        25 => Message::Demand(Demand::decode(r)?),
        26 => Message::Common(Common::decode(r)?),
        27 => Message::Props(tree::decode_props(r)?),
        28 => Message::Counterparts(Counterparts::decode(r)?),
        _ => Message::Unresolved(Unresolved::decode(r)?),
    };
    if let Message::Signature(_) = message {
        return Ok(message);
    }
    reader.end("a message")?;
    Ok(message)
}

/// A rate that is not known is not written.
fn rate(unknown: bool, r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    if unknown {
        return Ok(0);
    }
    match r.number("a rate")? {
        0 => Err(DecodeError::Invalid("a rate")),
        rate => Ok(rate),
    }
}

fn chunk(payload: &[u8], what: &'static str) -> Result<Vec<u8>, DecodeError> {
    match payload.len() {
        0 => Err(DecodeError::Truncated(what)),
        1..=CHUNK_MAX => Ok(payload.to_vec()),
        n => Err(DecodeError::TooLarge { what, value: n as u64, limit: CHUNK_MAX as u64 }),
    }
}

/// Cuts a text for people at [`TEXT_MAX`] bytes, between two characters.
fn shortened(text: &str) -> &str {
    shortened_to(text, TEXT_MAX)
}

fn shortened_to(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most.min(TEXT_MAX))]
}
