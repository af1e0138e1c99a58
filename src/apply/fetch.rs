//! Contents that have to come from the peer: which, and how they are asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use psync_protocol::message::{FailureKind, Message, Want, WantDelta, WantKind};
use psync_protocol::{Check, Content, ContentHash};

use super::{Act, Applier, Task, Trouble};
use crate::delta::{Params, SignatureBuilder};
use crate::root::Staged;

/// Bytes of block hashes that one flight carries at most; what does not fit is asked for in the
/// next.
const SIGNATURES_PER_FLIGHT: u64 = 8 << 20;
/// Contents that one flight asks for at most.
const WANTS_PER_FLIGHT: usize = 100_000;
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
    pub(super) task: Task,
    pub(super) size: u64,
    pub(super) check: Check,
    /// The number of the path at which the peer has it.
    pub(super) source: u64,
    /// The old content that the peer's version builds on, as long as it may be of use.
    pub(super) base: Option<Check>,
    pub(super) attempt: u8,
}

/// A content that the peer has been asked for, and what it will be made of.
#[derive(Debug)]
pub struct Asked {
    pub(super) fetching: Fetching,
    pub(super) how: How,
}

/// How a content was asked for.
#[derive(Debug)]
pub(super) enum How {
    /// Whole, or against its base; or it comes without having been asked for.
    Plainly,
    /// Against an old file, whose block hashes the peer got.
    Signed(OldFile),
    /// It has come, and waits in the stage until the peer has said its hash once more.
    Staged(Staged, ContentHash),
}

/// An old file whose blocks are copied.
#[derive(Debug)]
pub(super) struct OldFile {
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) params: Params,
}

/// A content that is here whole, and has the right check.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(super) fetching: Fetching,
    pub(super) staged: Staged,
    pub(super) hash: ContentHash,
}

/// The files that still have to come, by the number of the path at which the peer has them.
#[derive(Debug, Default)]
pub(crate) struct Fetches(BTreeMap<u64, Fetching>);

impl Fetches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one; gives back a second one of the same source, which no sensible plan has.
    pub(super) fn add(&mut self, fetching: Fetching) -> Result<(), Box<Fetching>> {
        match self.0.entry(fetching.source) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(fetching);
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(_) => Err(Box::new(fetching)),
        }
    }

    pub(super) fn take(&mut self, source: u64) -> Option<Fetching> {
        self.0.remove(&source)
    }

    /// The sources, smaller files first: what is asked for first comes first. Files below 1 MiB
    /// stay in the order of their paths: what stands together is most alike, which the line's
    /// compressor makes use of.
    fn by_size(&self) -> Vec<u64> {
        let mut sources: Vec<&Fetching> = self.0.values().collect();
        sources.sort_by_key(|fetching| fetching.size >> 20);
        sources.into_iter().map(|fetching| fetching.source).collect()
    }
}

impl Applier<'_> {
    /// What has to be fetched for a task, if anything has.
    pub(super) fn fetching(&self, task: Task) -> Option<Fetching> {
        let Act::Fetch { size, check, source } = task.act else { return None };
        let stand = &self.agreement.paths[source];
        let base = stand.of(self.role.other()).and_then(|row| row.base);
        Some(Fetching { task, size, check, source: source as u64, base, attempt: 0 })
    }

    /// Notes a file that has to come from the peer.
    pub(super) fn fetch(&mut self, fetching: Fetching) {
        if let Err(second) = self.fetches.add(fetching) {
            self.fail(second.task.index, Trouble::changed("its content is named twice"));
        }
    }

    /// The wants of the next flight, with block hashes where an old file stands in the place.
    pub fn wants(
        &mut self,
        mut send: impl FnMut(Message) -> Result<(), io::Error>,
    ) -> io::Result<()> {
        for arrived in std::mem::take(&mut self.unconfirmed) {
            let Arrived { fetching, staged, hash } = arrived;
            let index = fetching.source;
            send(Message::Want(Want { index, kind: WantKind::Confirm }))?;
            self.asked.insert(index, Asked { fetching, how: How::Staged(staged, hash) });
        }
        let mut signatures = 0;
        for index in self.fetches.by_size() {
            if signatures >= SIGNATURES_PER_FLIGHT || self.asked.len() >= WANTS_PER_FLIGHT {
                break;
            }
            let Some(fetching) = self.fetches.take(index) else { continue };
            let (kind, signature, how) = self.best_want(&fetching);
            send(Message::Want(Want { index, kind }))?;
            for piece in signature.chunks(SIGNATURE_PIECE) {
                send(Message::Signature(piece.to_vec()))?;
            }
            signatures += signature.len() as u64;
            self.asked.insert(index, Asked { fetching, how });
        }
        Ok(())
    }

    /// Against the base if it is here; else with block hashes of what stands in the place; else
    /// whole.
    fn best_want(&mut self, fetching: &Fetching) -> (WantKind, Vec<u8>, How) {
        if fetching.attempt == 0
            && let Some(base) = fetching.base
            && self.has_base(fetching, base)
        {
            return (WantKind::Base, Vec::new(), How::Plainly);
        }
        let signed = if fetching.attempt < 2 { self.sign(fetching) } else { None };
        match signed {
            Some((delta, signature, old)) => (WantKind::Delta(delta), signature, How::Signed(old)),
            None => (WantKind::Whole, Vec::new(), How::Plainly),
        }
    }

    /// Block hashes of what stands in the place now; none where that is of no use.
    fn sign(&self, fetching: &Fetching) -> Option<(WantDelta, Vec<u8>, OldFile)> {
        let old = fetching.task.old.as_ref()?;
        let Content::File { size: length, .. } = old.row.content else { return None };
        if length < DELTA_MIN || fetching.size < DELTA_MIN {
            return None;
        }
        let seed = self.keys.ours.block_seed(fetching.source, fetching.attempt);
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

    /// What came was not the file: it is asked for in another way, or given up.
    pub(super) fn try_again(&mut self, mut fetching: Fetching, trouble: Trouble) {
        match trouble.kind {
            FailureKind::Mismatch if fetching.base.take().is_some() => self.fetch(fetching),
            FailureKind::NoBase if fetching.base.take().is_some() => self.fetch(fetching),
            FailureKind::Mismatch if fetching.attempt + 1 < ATTEMPTS => {
                fetching.attempt += 1;
                self.fetch(fetching);
            }
            // A disk that is full does not become less so by trying again.
            FailureKind::Mismatch
            | FailureKind::NoBase
            | FailureKind::Changed
            | FailureKind::System => self.fail(fetching.task.index, trouble),
        }
    }

    /// Against whole contents a wrong hash is no accident of short ones: the next attempt skips
    /// those as a delta.
    pub(super) fn try_again_whole(&mut self, mut fetching: Fetching, trouble: Trouble) {
        if fetching.base.is_none() {
            fetching.attempt = fetching.attempt.max(2);
        }
        self.try_again(fetching, trouble);
    }
}
