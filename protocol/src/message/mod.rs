//! The messages, each with its fields and limits. Encoding and decoding of one never look at
//! another; which may come when is the business of [`crate::session`].

mod greeting;
mod transfer;

pub use greeting::{Coverage, Filter, Flow, Hello, Statement, StreamCodec, Verdict, Welcome};
pub use transfer::{
    BlockRun, CODED_RAW_MAX, Coded, Done, Failure, FailureKind, Plan, Problem, ProblemKind,
    SIGNATURE_MAX, Want, WantDelta, WantKind,
};

use crate::codec::{Put, Reader};
use crate::entry::ContentHash;
use crate::error::{DecodeError, ErrorCode, ProtocolError};
use crate::version::Version;

/// Longest text that travels for people to read, in bytes.
pub const TEXT_MAX: usize = 4096;
/// Most bytes of a file in one `Literal`, and most hashes' bytes in one `Signature`.
pub const CHUNK_MAX: usize = 512 << 10;

/// How the responder's copy of a row that the initiator stated stands to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Older or missing there; or stated in a row of its own.
    Behind,
    /// The same state and the same versions.
    Equal,
    /// The same state under other versions.
    Same {
        /// Version of the content there.
        content: Version,
        /// Version of the properties there.
        props: Version,
    },
    /// Out of the responder's scope: a filter there leaves it alone.
    Ignored,
    /// Cannot be read or written there (unreadable, a device, ...): try again next time.
    Unusable,
}

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
    /// The responder's marks, one for each row of the initiator.
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
    /// Whole blocks of the old file.
    Copy(BlockRun),
    /// Bytes coded against blocks of the old file.
    Coded(Coded),
    /// The file is complete; its full hash.
    FileEnd(ContentHash),
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
    /// Still there, still working.
    Ping,
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
    (@pattern Ping) => { Message::Ping };
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
    Copy = 11;
    Coded = 12;
    FileEnd = 13;
    FileFailed = 14;
    Done = 15;
    Problem = 16;
    End = 17;
    Error = 18;
    Ping = 19;
}

impl Message {
    /// The payload of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Message::Hello(hello) => hello.encode(&mut out),
            Message::Welcome(welcome) => welcome.encode(&mut out),
            Message::Statement(statement) => statement.encode(&mut out),
            Message::Rows(bytes) | Message::Literal(bytes) | Message::Signature(bytes) => {
                out.put_raw(bytes);
            }
            Message::Marks(marks) => encode_marks(marks, &mut out),
            Message::Plan(plan) => plan.encode(&mut out),
            Message::Want(want) => want.encode(&mut out),
            Message::File(index) => out.put_varint(*index),
            Message::Copy(run) => run.encode(&mut out),
            Message::Coded(coded) => coded.encode(&mut out),
            Message::FileEnd(hash) => out.put_raw(&hash.0),
            Message::FileFailed(failure) => failure.encode(&mut out),
            Message::Done(done) => done.encode(&mut out),
            Message::Problem(problem) => problem.encode(&mut out),
            Message::End | Message::Ping => {}
            Message::Error { code, text } => {
                out.put_varint(code.number());
                out.put_bytes(shortened(text).as_bytes());
            }
        }
        out
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
        5 => Message::Marks(decode_marks(r)?),
        // How many decisions there must be is known to the session only.
        6 => return Ok(Message::Plan(Plan::decode(r)?)),
        7 => Message::Want(Want::decode(r)?),
        8 => Message::Signature(chunk(payload, "a piece of a signature")?),
        9 => Message::File(r.varint("a path's number")?),
        10 => return Ok(Message::Literal(chunk(payload, "a literal")?)),
        11 => Message::Copy(BlockRun::decode(r)?),
        12 => return Ok(Message::Coded(Coded::decode(r)?)),
        13 => Message::FileEnd(ContentHash(r.array("a hash")?)),
        14 => Message::FileFailed(Failure::decode(r)?),
        15 => Message::Done(Done::decode(r)?),
        16 => Message::Problem(Problem::decode(r)?),
        17 => Message::End,
        18 => Message::Error {
            code: ErrorCode::from_number(r.varint("an error's number")?),
            text: r.text("an error's text", TEXT_MAX)?,
        },
        _ => Message::Ping,
    };
    if let Message::Signature(_) = message {
        return Ok(message);
    }
    reader.end("a message")?;
    Ok(message)
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

const MARK_BEHIND: u64 = 0;
const MARK_EQUAL: u64 = 1;
const MARK_IGNORED: u64 = 2;
const MARK_UNUSABLE: u64 = 3;
const MARK_SAME: u64 = 4;

/// Marks travel as a table of the versions that `Same` marks name, and runs of equal marks.
fn encode_marks(marks: &[Mark], out: &mut Vec<u8>) {
    let mut table: Vec<(&Version, &Version)> = Vec::new();
    let mut numbers = std::collections::HashMap::new();
    let mut replicas = Vec::new();
    let codes: Vec<u64> = marks
        .iter()
        .map(|mark| match mark {
            Mark::Behind => MARK_BEHIND,
            Mark::Equal => MARK_EQUAL,
            Mark::Ignored => MARK_IGNORED,
            Mark::Unusable => MARK_UNUSABLE,
            Mark::Same { content, props } => {
                let number = *numbers.entry((content, props)).or_insert_with(|| {
                    table.push((content, props));
                    replicas.extend(content.pairs().iter().chain(props.pairs()).map(|p| p.0));
                    table.len() as u64 - 1
                });
                MARK_SAME + number
            }
        })
        .collect();
    replicas.sort_unstable();
    replicas.dedup();
    out.put_varint(replicas.len() as u64);
    replicas.iter().for_each(|replica| out.put_raw(&replica.0));
    out.put_varint(table.len() as u64);
    for (content, props) in table {
        crate::manifest::put_version(content, &replicas, out);
        crate::manifest::put_version(props, &replicas, out);
    }
    let runs: Vec<&[u64]> = codes.chunk_by(|a, b| a == b).collect();
    out.put_varint(runs.len() as u64);
    for run in runs {
        out.put_varint(run[0]);
        out.put_varint(run.len() as u64);
    }
}

fn decode_marks(reader: &mut Reader<'_>) -> Result<Vec<Mark>, DecodeError> {
    use crate::manifest::{ENTRIES_MAX, read_replicas, read_version};
    let replicas = read_replicas(reader)?;
    let versions = reader.count("a count of versions", ENTRIES_MAX)?;
    let mut table = Vec::with_capacity(versions.min(4096));
    for _ in 0..versions {
        let content = read_version(reader, &replicas)?;
        table.push(Mark::Same { content, props: read_version(reader, &replicas)? });
    }
    let mut marks = Vec::new();
    for _ in 0..reader.count("a count of marks", ENTRIES_MAX)? {
        let mark = match reader.varint("a mark")? {
            MARK_BEHIND => Mark::Behind,
            MARK_EQUAL => Mark::Equal,
            MARK_IGNORED => Mark::Ignored,
            MARK_UNUSABLE => Mark::Unusable,
            n => {
                let number = usize::try_from(n - MARK_SAME).unwrap_or(usize::MAX);
                table.get(number).cloned().ok_or(DecodeError::Invalid("a mark"))?
            }
        };
        let run = reader.bounded("a run of marks", (ENTRIES_MAX - marks.len()) as u64)?;
        marks.resize(marks.len() + run as usize, mark);
    }
    Ok(marks)
}
