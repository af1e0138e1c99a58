//! Contents that have to come from the peer: asking for them, receiving them, checking them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use psync_protocol::message::{DeltaOp, Failure, FailureKind, Message, Want, WantDelta, WantKind};
use psync_protocol::{Check, Content, ContentHash};

use super::{Act, Applier, ApplyError, Ready, Task, Trouble};
use crate::delta::{Decoder, DeltaError, Fresh, Op, Params, Piece, SignatureBuilder};
use crate::root::Staged;

/// Bytes of block hashes that one flight carries at most; what does not fit is asked for in the
/// next.
const SIGNATURES_PER_FLIGHT: u64 = 8 << 20;
/// Contents that one flight asks for at most.
const WANTS_PER_FLIGHT: usize = 100_000;
/// Bytes of received files that wait for being made durable together.
pub const FETCH_BATCH_BYTES: u64 = 64 << 20;
/// Received files that wait for being made durable together.
const FETCH_BATCH_FILES: usize = 512;
/// Below this many bytes a signature costs more than it saves.
const DELTA_MIN: u64 = 300;
/// Bytes of one piece of a signature.
const SIGNATURE_PIECE: usize = 256 << 10;
/// After so many attempts a file is given up: as a delta, as a delta with long hashes, whole, and
/// whole again.
const ATTEMPTS: u8 = 4;

/// A file that has to come from the peer.
#[derive(Debug)]
pub(crate) struct Fetching {
    task: Task,
    pub(super) size: u64,
    check: Check,
    source: usize,
    attempt: u8,
}

impl Fetching {
    pub(super) fn of(task: Task) -> Option<Fetching> {
        match task.act {
            Act::Fetch { size, check, source } => {
                Some(Fetching { task, size, check, source, attempt: 0 })
            }
            _ => None,
        }
    }
}

/// A content that the peer has been asked for.
#[derive(Debug)]
pub struct Asked {
    fetching: Fetching,
    old: Option<OldFile>,
}

/// The old file whose block hashes the peer got.
#[derive(Debug)]
struct OldFile {
    file: File,
    length: u64,
    params: Params,
}

/// A content that is arriving.
#[derive(Debug)]
pub(crate) struct Incoming {
    asked: Asked,
    file: File,
    staged: Staged,
    hasher: blake3::Hasher,
    received: u64,
    decoder: Option<Decoder>,
    /// Why what still comes is thrown away.
    broken: Option<Trouble>,
}

impl Applier<'_> {
    /// The wants of the next flight, with block hashes where an old file stands in the place.
    pub fn wants(
        &mut self,
        mut send: impl FnMut(Message) -> Result<(), io::Error>,
    ) -> io::Result<()> {
        let mut signatures = 0;
        while signatures < SIGNATURES_PER_FLIGHT && self.asked.len() < WANTS_PER_FLIGHT {
            let Some(fetching) = self.fetches.pop() else { break };
            let signed = if fetching.attempt < 2 { self.sign(&fetching) } else { None };
            let (kind, signature, old) = match signed {
                Some((delta, signature, old)) => (WantKind::Delta(delta), signature, Some(old)),
                None => (WantKind::Whole, Vec::new(), None),
            };
            let index = fetching.source as u64;
            send(Message::Want(Want { index, kind }))?;
            for piece in signature.chunks(SIGNATURE_PIECE) {
                send(Message::Signature(piece.to_vec()))?;
            }
            signatures += signature.len() as u64;
            self.asked.insert(index, Asked { fetching, old });
        }
        Ok(())
    }

    /// Block hashes of what stands in the place now; none where that is of no use.
    fn sign(&self, fetching: &Fetching) -> Option<(WantDelta, Vec<u8>, OldFile)> {
        let old = fetching.task.old.as_ref()?;
        let Content::File { size: length, .. } = old.row.content else { return None };
        if length < DELTA_MIN || fetching.size < DELTA_MIN {
            return None;
        }
        let seed = self.keys.ours.block_seed(fetching.source as u64, fetching.attempt);
        let params = Params::choose(length, fetching.attempt, seed);
        if params.signature_len(length) >= fetching.size {
            return None;
        }
        let (file, stat) = self.root.open_file(&old.row.path).ok()?;
        if stat.size != length {
            return None;
        }
        let mut builder = SignatureBuilder::new(params);
        let mut buffer = vec![0; (256 << 10).min(length as usize)];
        let mut offset = 0;
        while offset < length {
            let part = (length - offset).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..part], offset).ok()?;
            builder.update(&buffer[..part]);
            offset += part as u64;
        }
        let signature = builder.finish();
        let delta = WantDelta {
            old_len: length,
            block_len: params.block_len(),
            hash_len: params.hash_len(),
            attempt: fetching.attempt,
            signature_len: signature.len() as u64,
        };
        Some((delta, signature, OldFile { file, length, params }))
    }

    /// The content of this path follows.
    pub fn file_begins(&mut self, index: u64) -> Result<(), ApplyError> {
        let Some(asked) = self.asked.remove(&index) else { return Ok(()) };
        let decoder = asked
            .old
            .as_ref()
            .map(|old| Decoder::new(&old.params, old.length, asked.fetching.size));
        match self.staging.create() {
            Ok((file, staged)) => {
                let hasher = blake3::Hasher::new();
                let broken = None;
                self.incoming =
                    Some(Incoming { asked, file, staged, hasher, received: 0, decoder, broken });
            }
            Err(error) => self.fail(
                asked.fetching.task.index,
                Trouble::system("create a file in .psync/stage")(error),
            ),
        }
        Ok(())
    }

    /// More of the file, as it is.
    pub fn file_literal(&mut self, bytes: &[u8]) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.broken.is_some() {
            return;
        }
        let result = incoming.write(bytes);
        incoming.note(result);
        self.report.progress(&incoming.asked.fetching.task.path, bytes.len() as u64);
    }

    /// More of the file, against the old one.
    pub fn file_delta(&mut self, delta: DeltaOp) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.broken.is_some() {
            return;
        }
        let before = incoming.received;
        let result = incoming.apply(delta);
        incoming.note(result);
        let written = incoming.received - before;
        self.report.progress(&incoming.asked.fetching.task.path, written);
    }

    /// The file is complete, and has this hash at the sender.
    pub fn file_ends(&mut self, announced: ContentHash) -> Result<(), ApplyError> {
        let Some(incoming) = self.incoming.take() else { return Ok(()) };
        let Incoming { asked, file, staged, hasher, received, decoder, broken } = incoming;
        drop(file);
        let mut fetching = asked.fetching;
        if let Some(trouble) = broken {
            self.staging.discard(staged);
            // A disk that is full does not become less so by trying again.
            return self.try_again(fetching, trouble);
        }
        let hash = ContentHash(hasher.finalize().into());
        let complete = decoder.is_none_or(|decoder| decoder.finish().is_ok());
        if hash == announced
            && complete
            && received == fetching.size
            && self.keys.theirs.check(&hash) == fetching.check
        {
            let content = Some(Content::File { size: received, hash });
            let Fetching { task, .. } = fetching;
            self.batch.push(Ready { task, staged: Some(staged), content, leaves: None });
            self.batch_bytes += received;
            if self.batch.len() >= FETCH_BATCH_FILES || self.batch_bytes >= FETCH_BATCH_BYTES {
                self.commit_batch()?;
            }
            return Ok(());
        }
        self.staging.discard(staged);
        fetching.attempt = fetching.attempt.max(if asked.old.is_some() { 0 } else { 2 });
        self.try_again(
            fetching,
            Trouble {
                kind: FailureKind::Mismatch,
                text: "what arrived is not what was announced".into(),
            },
        )
    }

    fn try_again(&mut self, mut fetching: Fetching, trouble: Trouble) -> Result<(), ApplyError> {
        fetching.attempt += 1;
        if trouble.kind == FailureKind::Mismatch && fetching.attempt < ATTEMPTS {
            self.fetches.push(fetching);
        } else {
            self.fail(fetching.task.index, trouble);
        }
        Ok(())
    }

    /// The peer cannot send the file.
    pub fn file_failed(&mut self, failure: Failure) {
        if let Some(incoming) = self.incoming.take() {
            self.staging.discard(incoming.staged);
            self.fail(
                incoming.asked.fetching.task.index,
                Trouble { kind: failure.kind, text: failure.text },
            );
        } else if let Some(asked) = self.asked.remove(&failure.index) {
            self.fail(
                asked.fetching.task.index,
                Trouble { kind: failure.kind, text: failure.text },
            );
        }
    }
}

impl Incoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if self.received + bytes.len() as u64 > self.asked.fetching.size {
            return Err(Trouble {
                kind: FailureKind::Mismatch,
                text: "more arrived than was announced".into(),
            });
        }
        self.file.write_all(bytes).map_err(Trouble::system("write to .psync/stage"))?;
        self.hasher.update(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }

    fn apply(&mut self, delta: DeltaOp) -> Result<(), Trouble> {
        let mismatch = |text: String| Trouble { kind: FailureKind::Mismatch, text };
        let (Some(mut decoder), Some(old)) = (self.decoder.take(), self.asked.old.take()) else {
            return Err(mismatch("a delta arrived where the whole file was asked for".into()));
        };
        let pieces = delta.pieces.iter().map(|piece| Piece {
            block: piece.block,
            count: piece.count,
            fresh: piece.fresh,
        });
        let fresh = if delta.coded { Fresh::Coded(delta.data) } else { Fresh::Plain(delta.data) };
        let op = Op { pieces: pieces.collect(), fresh };
        let mut refused = None;
        let result = decoder.apply(
            &op,
            &mut |offset, buffer| old.file.read_exact_at(buffer, offset),
            &mut |bytes| {
                self.write(bytes).map_err(|trouble| {
                    refused = Some(trouble);
                    io::Error::other("refused")
                })
            },
        );
        self.decoder = Some(decoder);
        self.asked.old = Some(old);
        match (result, refused) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(trouble)) => Err(trouble),
            (Err(DeltaError::Io(error)), None) => {
                Err(mismatch(format!("the old file cannot be read: {error}")))
            }
            (Err(error), None) => Err(mismatch(error.to_string())),
        }
    }

    fn note(&mut self, result: Result<(), Trouble>) {
        if let Err(trouble) = result {
            self.broken = Some(trouble);
        }
    }
}
