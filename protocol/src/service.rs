//! What is asked of a daemon before a session begins: which module, or which modules there are.
//! `SPEC.md` has it in the section on daemons.

use crate::codec::{Put, Reader};
use crate::error::{DecodeError, ErrorCode};

/// The version of these messages.
const VERSION: u8 = 1;
/// Longest request, in bytes without its length.
pub const REQUEST_MAX: usize = 256;
/// Longest answer to a question, in bytes without its length.
pub const ANSWER_MAX: usize = 1 << 20;
/// Longest name of a module, in bytes.
pub const NAME_MAX: usize = 64;
/// Longest remark about a module, and longest reason of a refusal, in bytes.
const TEXT_MAX: usize = 4096;
/// Most modules in an answer.
const MODULES_MAX: usize = 10_000;

/// What the end that has connected says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A session follows at once, in which this end is the initiator.
    Sync {
        /// The module whose root is the responder's.
        module: String,
        /// Whether the responder uses and fills its store of old contents.
        store: bool,
        /// The level of zstd for what it sends (1 to 19); none: what fits the line.
        level: Option<u8>,
    },
    /// Which modules are there?
    List,
}

/// A module, as somebody who may use it is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// What it is, in a few words.
    pub comment: String,
    /// Whether anything in it may be changed by who asks.
    pub writable: bool,
}

/// The answer to [`Request::List`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These.
    Modules(Vec<Module>),
    /// None of your business.
    Refused(ErrorCode, String),
}

impl Request {
    /// The bytes on the line, with their length.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![VERSION];
        match self {
            Request::Sync { module, store, level } => {
                payload.push(1);
                payload.put_bytes(module.as_bytes());
                payload.push(u8::from(*store));
                payload.push(level.unwrap_or(0));
            }
            Request::List => payload.push(2),
        }
        with_length(&payload)
    }

    /// From the bytes after the length.
    pub fn decode(payload: &[u8]) -> Result<Request, DecodeError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the version of a request")? != VERSION {
            return Err(DecodeError::Invalid("the version of a request"));
        }
        let request = match reader.u8("the kind of a request")? {
            1 => Request::Sync {
                module: reader.text("the name of a module", NAME_MAX)?,
                store: flag(reader.u8("whether to use the store")?)?,
                level: match reader.u8("a level of compression")? {
                    0 => None,
                    level @ 1..=19 => Some(level),
                    _ => return Err(DecodeError::Invalid("a level of compression")),
                },
            },
            2 => Request::List,
            _ => return Err(DecodeError::Invalid("the kind of a request")),
        };
        reader.end("a request").map(|()| request)
    }
}

impl Answer {
    /// The bytes on the line, with their length.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![VERSION];
        match self {
            Answer::Modules(modules) => {
                payload.push(1);
                payload.put_varint(modules.len() as u64);
                for module in modules {
                    payload.put_bytes(module.name.as_bytes());
                    payload.put_bytes(module.comment.as_bytes());
                    payload.push(u8::from(module.writable));
                }
            }
            Answer::Refused(code, text) => {
                payload.push(2);
                payload.put_varint(code.number());
                payload.put_bytes(text.as_bytes());
            }
        }
        with_length(&payload)
    }

    /// From the bytes after the length.
    pub fn decode(payload: &[u8]) -> Result<Answer, DecodeError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the version of an answer")? != VERSION {
            return Err(DecodeError::Invalid("the version of an answer"));
        }
        let answer = match reader.u8("the kind of an answer")? {
            1 => {
                let count = reader.count("the number of modules", MODULES_MAX)?;
                let modules = (0..count).map(|_| {
                    Ok(Module {
                        name: reader.text("the name of a module", NAME_MAX)?,
                        comment: reader.text("the remark about a module", TEXT_MAX)?,
                        writable: flag(reader.u8("whether a module may be changed")?)?,
                    })
                });
                Answer::Modules(modules.collect::<Result<_, DecodeError>>()?)
            }
            2 => {
                let code = ErrorCode::from_number(reader.varint("an error code")?);
                Answer::Refused(code, reader.text("the reason of a refusal", TEXT_MAX)?)
            }
            _ => return Err(DecodeError::Invalid("the kind of an answer")),
        };
        reader.end("an answer").map(|()| answer)
    }
}

fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("a flag")),
    }
}

fn with_length(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 3);
    bytes.put_bytes(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync() -> Request {
        Request::Sync { module: "p1".into(), store: true, level: Some(9) }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        assert_eq!(sync().encode(), [7, 1, 1, 2, b'p', b'1', 1, 9]);
        assert_eq!(Request::List.encode(), [2, 1, 2]);
        let module = Module { name: "p1".into(), comment: "x".into(), writable: false };
        let answer = Answer::Modules(vec![module]);
        assert_eq!(answer.encode(), [9, 1, 1, 1, 2, b'p', b'1', 1, b'x', 0]);
        let refused = Answer::Refused(ErrorCode::Busy, "no".into());
        assert_eq!(refused.encode(), [6, 1, 2, 4, 2, b'n', b'o']);
    }

    #[test]
    fn what_is_written_is_read_and_nothing_that_is_cut_or_longer() {
        for request in [sync(), Request::List] {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes[1..]), Ok(request));
            for end in 1..bytes.len() {
                assert!(Request::decode(&bytes[1..end]).is_err());
            }
            assert!(Request::decode(&[&bytes[1..], &[0]].concat()).is_err());
        }
        let module = Module { name: "p1".into(), comment: String::new(), writable: true };
        for answer in [Answer::Modules(vec![module]), Answer::Refused(ErrorCode::Root, "x".into())]
        {
            let bytes = answer.encode();
            assert_eq!(Answer::decode(&bytes[1..]), Ok(answer));
            for end in 1..bytes.len() {
                assert!(Answer::decode(&bytes[1..end]).is_err());
            }
        }
    }

    #[test]
    fn values_without_meaning_are_refused() {
        for payload in [&[2u8, 2][..], &[1, 3], &[1, 1, 0, 2, 0], &[1, 1, 0, 1, 20], &[1, 1, 65]] {
            assert!(Request::decode(payload).is_err(), "{payload:?}");
        }
        assert!(Answer::decode(&[1, 1, 0xff, 0xff, 0xff, 1]).is_err());
    }
}
