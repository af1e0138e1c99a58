//! Sending a content that the peer wants.

use std::io::Read;

use psync_protocol::message::{DeltaOp, DeltaPiece, Failure, FailureKind, WantDelta, WantKind};
use psync_protocol::session::{Agreement, Talking};
use psync_protocol::{Content, ContentHash, Message, RelPath};

use super::SyncError;
use crate::apply::Applier;
use crate::delta::{DeltaError, Encoder, Fresh, Op, Params, Signature};
use crate::index::Stored;
use crate::report::Report;
use crate::transport::Line;

/// Bytes of a file that are read and sent at a time.
const STEP: usize = 128 << 10;
/// zstd level of deltas.
const DELTA_LEVEL: i32 = 9;

/// A content that the peer wants, with the hashes of its old file's blocks.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) index: u64,
    pub(super) kind: WantKind,
    pub(super) hashes: Vec<u8>,
}

/// Sends one content, or says why it cannot be had.
pub(super) fn content(
    line: &mut Line,
    talking: &mut Talking,
    applier: &mut Applier<'_>,
    signed: Signed,
    agreement: &Agreement,
    report: &dyn Report,
) -> Result<(), SyncError> {
    let mut out = Out { line, talking };
    let path = agreement.paths[signed.index as usize].path();
    match applier.source_of(signed.index as usize)? {
        Some((at, stored)) => {
            out.send(&Message::File(signed.index))?;
            let source = Source { applier, index: signed.index, at: &at, stored: &stored };
            let result = match (&signed.kind, &stored.row.content) {
                (WantKind::Whole, Content::File { size, hash }) => {
                    source.whole(*size, *hash, &mut out, path, report)?
                }
                (WantKind::Delta(delta), Content::File { size, hash }) => {
                    source.delta(delta, &signed.hashes, (*size, *hash), &mut out, path, report)?
                }
                _ => Err((FailureKind::Changed, "it is not a file on the other side".to_string())),
            };
            match result {
                Ok(hash) => out.send(&Message::FileEnd(hash)),
                Err((kind, text)) => {
                    out.send(&Message::FileFailed(Failure { index: signed.index, kind, text }))
                }
            }
        }
        None => out.send(&Message::FileFailed(Failure {
            index: signed.index,
            kind: FailureKind::Changed,
            text: "it does not exist on the other side".into(),
        })),
    }
}

/// The line, and the book that is kept of what goes over it.
struct Out<'a> {
    line: &'a mut Line,
    talking: &'a mut Talking,
}

impl Out<'_> {
    fn send(&mut self, message: &Message) -> Result<(), SyncError> {
        self.talking.send(message)?;
        Ok(self.line.send(message)?)
    }
}

struct Source<'a, 'b> {
    applier: &'a Applier<'b>,
    index: u64,
    at: &'a RelPath,
    stored: &'a Stored,
}

/// The hash of what was sent, or why the file cannot be sent.
type Sent = Result<ContentHash, (FailureKind, String)>;

impl Source<'_, '_> {
    fn whole(
        &self,
        size: u64,
        hash: ContentHash,
        out: &mut Out<'_>,
        path: &RelPath,
        report: &dyn Report,
    ) -> Result<Sent, SyncError> {
        self.read(size, hash, |bytes| {
            report.progress(path, bytes.len() as u64);
            out.send(&Message::Literal(bytes.to_vec()))
        })
    }

    fn delta(
        &self,
        delta: &WantDelta,
        hashes: &[u8],
        (size, hash): (u64, ContentHash),
        out: &mut Out<'_>,
        path: &RelPath,
        report: &dyn Report,
    ) -> Result<Sent, SyncError> {
        let seed = self.applier.keys().theirs.block_seed(self.index, delta.attempt);
        let signature = Params::from_wire(delta.block_len, delta.hash_len, seed)
            .and_then(|params| Signature::parse(params, delta.old_len, hashes));
        let signature = match signature {
            Ok(signature) => signature,
            Err(error) => return Ok(Err((FailureKind::System, error.to_string()))),
        };
        let mut encoder = Encoder::new(&signature, DELTA_LEVEL);
        let mut emit =
            |op: Op| -> Result<(), Stopped> { Ok(out.send(&Message::Delta(on_the_line(op)))?) };
        let sent = self.read(size, hash, |bytes| {
            report.progress(path, bytes.len() as u64);
            encoder.push(bytes, &mut emit).map_err(Stopped::into_sync)
        })?;
        if sent.is_ok() {
            encoder.finish(&mut emit).map_err(Stopped::into_sync)?;
        }
        Ok(sent)
    }

    /// Reads the file as the plan knows it; a file that is another now is not sent to its end.
    fn read(
        &self,
        size: u64,
        hash: ContentHash,
        mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
    ) -> Result<Sent, SyncError> {
        let changed = || {
            Ok(Err((
                FailureKind::Changed,
                "it changed on the sending side during the run".to_string(),
            )))
        };
        let (mut file, stat) = match self.applier.root().open_file(self.at) {
            Ok(opened) => opened,
            Err(error) if crate::root::is_absent(&error) => return changed(),
            Err(error) => {
                return Ok(Err((
                    FailureKind::System,
                    format!("cannot be read on the sending side: {error}"),
                )));
            }
        };
        if stat.size != size || stat.mtime != self.stored.row.props.mtime {
            return changed();
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; STEP.min(size as usize)];
        let mut left = size;
        while left > 0 {
            let part = left.min(buffer.len() as u64) as usize;
            match file.read(&mut buffer[..part]) {
                Ok(0) => return changed(),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    each(&buffer[..n])?;
                    left -= n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Ok(Err((
                        FailureKind::System,
                        format!("cannot be read on the sending side: {error}"),
                    )));
                }
            }
        }
        if ContentHash(hasher.finalize().into()) == hash { Ok(Ok(hash)) } else { changed() }
    }
}

/// What stops an encoder: the line, or the compressor.
enum Stopped {
    Sync(SyncError),
    Delta(DeltaError),
}

impl Stopped {
    fn into_sync(self) -> SyncError {
        match self {
            Stopped::Sync(error) => error,
            Stopped::Delta(error) => std::io::Error::other(error).into(),
        }
    }
}

impl From<SyncError> for Stopped {
    fn from(error: SyncError) -> Stopped {
        Stopped::Sync(error)
    }
}

impl From<DeltaError> for Stopped {
    fn from(error: DeltaError) -> Stopped {
        Stopped::Delta(error)
    }
}

fn on_the_line(op: Op) -> DeltaOp {
    let pieces = op.pieces.iter().map(|piece| DeltaPiece {
        block: piece.block,
        count: piece.count,
        fresh: piece.fresh,
    });
    let (coded, data) = match op.fresh {
        Fresh::Plain(data) => (false, data),
        Fresh::Coded(data) => (true, data),
    };
    DeltaOp { pieces: pieces.collect(), coded, data }
}
