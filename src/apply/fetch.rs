//! Contents that have to come from the peer: which, and how they are asked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;

use psync_protocol::message::{FailureKind, Message, Unresolved, Want, WantKind};
use psync_protocol::{Check, Content, ContentHash};

use super::memory::InMemory;
use super::old::OldFile;
use super::room::Asking;
use super::{Act, Applier, Keys, Task, Trouble};
use crate::delta::{self, Params};
use crate::root::{Root, Staged, Staging};

/// Bytes of block hashes that one flight carries at most; what does not fit is asked for in the
/// next.
const SIGNATURES_PER_FLIGHT: u64 = 8 << 20;
/// Contents that one flight asks for at most.
const WANTS_PER_FLIGHT: usize = 100_000;
/// Below this many bytes a signature costs more than it saves.
const DELTA_MIN: u64 = 300;
/// Below this many bytes one level of hashes is as good as two.
const LEVELS_MIN: u64 = 2048;
/// What stands for the attempt in the seed of finer hashes.
pub const FINE_ATTEMPT: u8 = 128;
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
    /// It could not be made because of another content of the same patch, once.
    pub(super) spared: bool,
    /// There was no room for it in the stage when it came, once.
    pub(super) put_off: bool,
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

/// A file of whose old version finer hashes are wanted.
#[derive(Debug)]
pub(crate) struct Refining {
    fetching: Fetching,
    old: OldFile,
    parts: Vec<Range<u64>>,
}

/// A content that is here whole, and has the right check.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(super) fetching: Fetching,
    pub(super) staged: Staged,
    pub(super) hash: ContentHash,
    /// What is in memory of it, where somebody wants to hear of what has come.
    pub(super) memory: Option<InMemory>,
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

    /// Bytes that two levels of block hashes may save, taken together. Of the hashes that one level
    /// has beyond the coarse ones, about half turn out to be needed (measured on releases of Django
    /// and Linux).
    fn saved_by_levels(&self) -> u64 {
        let saved = |length: u64| {
            let one = Params::choose(length, 0, 0).signature_len(length);
            one.saturating_sub(Params::coarse(length, 0, 0).signature_len(length)) / 2
        };
        let candidates = self.0.values().filter(|fetching| fetching.attempt == 0);
        let lengths = candidates.filter_map(Fetching::old_len);
        lengths.filter(|&length| length >= LEVELS_MIN).map(saved).sum()
    }

    /// The sources, smaller files first: what is asked for first comes first. Files below 1 MiB
    /// stay in the order of their paths: what stands together is most alike, which the line's
    /// compressor makes use of.
    fn by_size(&self, priorities: &HashMap<u64, i32>) -> Vec<u64> {
        let mut sources: Vec<&Fetching> = self.0.values().collect();
        let first = |source| Reverse(priorities.get(source).copied().unwrap_or(0));
        sources.sort_by_key(|fetching| (first(&fetching.source), fetching.size >> 20));
        sources.into_iter().map(|fetching| fetching.source).collect()
    }
}

impl Fetching {
    /// Bytes of the file that stands in the place, if its block hashes may be of use.
    pub(super) fn old_len(&self) -> Option<u64> {
        let old = self.task.old.as_ref()?;
        let Content::File { size, .. } = old.row.content else { return None };
        (size >= DELTA_MIN && self.size >= DELTA_MIN).then_some(size)
    }
}

impl Refining {
    /// Finer hashes; if the file cannot be read any more, all of the content.
    fn best_want(&self, keys: &Keys, root: &Root, staging: &Staging) -> (WantKind, Vec<u8>, How) {
        let length = self.parts.iter().map(|part| part.end - part.start).sum();
        let seed = keys.ours.block_seed(self.fetching.source, FINE_ATTEMPT);
        let params = self.old.params.finer(length, 0, seed);
        let old = self.old.cut(params);
        match old.hashes(root, staging, self.parts.iter().cloned()) {
            Ok(signature) => {
                let delta = old.want(length, 0, &signature);
                (WantKind::Fine(delta), signature, How::Signed(old))
            }
            Err(_) => (WantKind::Whole, Vec::new(), How::Plainly),
        }
    }
}

fn send_want(
    index: u64,
    kind: WantKind,
    signature: &[u8],
    send: &mut dyn FnMut(Message) -> io::Result<()>,
) -> io::Result<()> {
    send(Message::Want(Want { index, kind }))?;
    signature.chunks(SIGNATURE_PIECE).try_for_each(|piece| send(Message::Signature(piece.to_vec())))
}

fn senseless() -> Trouble {
    let text = "the other side's answer to block hashes makes no sense".into();
    Trouble { kind: FailureKind::Mismatch, text }
}

impl Applier<'_> {
    /// What has to be fetched for a task, if anything has.
    pub(super) fn fetching(&self, task: Task) -> Option<Fetching> {
        let Act::Fetch { size, check, source } = task.act else { return None };
        let stand = &self.agreement.paths[source];
        let base = stand.of(self.role.other()).and_then(|row| row.base);
        let source = source as u64;
        let (attempt, spared, put_off) = (0, false, false);
        Some(Fetching { task, size, check, source, base, attempt, spared, put_off })
    }

    /// Notes a file that has to come from the peer.
    pub(super) fn fetch(&mut self, fetching: Fetching) {
        if let Err(second) = self.fetches.add(fetching) {
            self.fail(second.task.index, Trouble::changed("its content is named twice"));
        }
    }

    /// The wants of the next flight, with block hashes where an old file stands in the place. These
    /// are sent in two levels if that is expected to save more than `turn_worth` bytes, which is
    /// what the line could carry in the time of another round trip.
    pub fn wants(
        &mut self,
        turn_worth: u64,
        mut send: impl FnMut(Message) -> Result<(), io::Error>,
    ) -> io::Result<()> {
        for arrived in std::mem::take(&mut self.unconfirmed) {
            let Arrived { fetching, staged, hash, .. } = arrived;
            let index = fetching.source;
            send(Message::Want(Want { index, kind: WantKind::Confirm }))?;
            self.asked.insert(index, Asked { fetching, how: How::Staged(staged, hash) });
        }
        let mut signatures = 0;
        for refining in std::mem::take(&mut self.refining) {
            if signatures >= SIGNATURES_PER_FLIGHT {
                // The peer keeps what it found for this flight only: later from the beginning.
                self.fetch(refining.fetching);
                continue;
            }
            let index = refining.fetching.source;
            let (kind, signature, how) = refining.best_want(&self.keys, self.root, self.staging);
            send_want(index, kind, &signature, &mut send)?;
            signatures += signature.len() as u64;
            self.asked.insert(index, Asked { fetching: refining.fetching, how });
        }
        let levels = self.fetches.saved_by_levels() > turn_worth;
        let mut plenty = self.plenty();
        for index in self.fetches.by_size(&self.priorities) {
            if signatures >= SIGNATURES_PER_FLIGHT || self.asked.len() >= WANTS_PER_FLIGHT {
                break;
            }
            let Some(fetching) = self.fetches.take(index) else { continue };
            match plenty.ask(fetching.size) {
                Asking::Now => {}
                Asking::Later => {
                    self.fetch(fetching);
                    continue;
                }
                Asking::Never(reason) => {
                    self.fail(fetching.task.index, reason.into());
                    continue;
                }
            }
            let (kind, signature, how) = self.best_want(&fetching, levels);
            send_want(index, kind, &signature, &mut send)?;
            signatures += signature.len() as u64;
            self.asked.insert(index, Asked { fetching, how });
        }
        Ok(())
    }

    /// Against the base if it is here; else with block hashes of what stands in the place; else
    /// whole. What has come of it before needs hashes, too: the peer does not know of it.
    fn best_want(&mut self, fetching: &Fetching, levels: bool) -> (WantKind, Vec<u8>, How) {
        let begun = self.staging.begun_len(&fetching.task.path).is_some();
        if fetching.attempt == 0
            && !begun
            && let Some(base) = fetching.base
            && self.has_base(fetching, base)
        {
            return (WantKind::Base, Vec::new(), How::Plainly);
        }
        let signed = if fetching.attempt < 2 { self.sign(fetching, levels) } else { None };
        signed.unwrap_or((WantKind::Whole, Vec::new(), How::Plainly))
    }

    /// Block hashes of what is here of it now; none where that is of no use, or the peer may not read
    /// what stands in the place.
    fn sign(&self, fetching: &Fetching, levels: bool) -> Option<(WantKind, Vec<u8>, How)> {
        let place = fetching.task.old.as_ref().map_or(&fetching.task.path, |old| &old.row.path);
        if !self.permit.rights(place.as_bytes()).read {
            return None;
        }
        let attempt = fetching.attempt;
        let seed = self.keys.ours.block_seed(fetching.source, attempt);
        let mut coarse = levels && attempt == 0;
        let old = OldFile::find(fetching, self.staging, |length, is_beginning| {
            coarse &= length >= LEVELS_MIN && !is_beginning;
            match (is_beginning, coarse) {
                (true, _) => Params::for_beginning(length, attempt, seed),
                (false, true) => Params::coarse(length, 0, seed),
                (false, false) => Params::choose(length, attempt, seed),
            }
        })?;
        let length = old.length();
        if old.params.signature_len(length) >= fetching.size {
            return None;
        }
        let parts = std::iter::once(0..length);
        let signature = old.hashes(self.root, self.staging, parts).ok()?;
        let delta = old.want(length, attempt, &signature);
        let kind = if coarse { WantKind::Coarse(delta) } else { WantKind::Delta(delta) };
        Some((kind, signature, How::Signed(old)))
    }

    /// The peer has found coarse blocks, and wants finer hashes of what they left unresolved.
    pub fn unresolved(&mut self, unresolved: &Unresolved) {
        let Some(Asked { fetching, how }) = self.asked.remove(&unresolved.index) else { return };
        let parts = match &how {
            How::Signed(old) => {
                delta::parse_answer(old.params.block_len(), old.length(), &unresolved.parts).ok()
            }
            How::Plainly | How::Staged(..) => None,
        };
        match (how, parts) {
            (How::Signed(old), Some(parts)) => {
                self.refining.push(Refining { fetching, old, parts });
            }
            (How::Staged(staged, _), _) => {
                self.staging.discard(staged);
                self.try_again(fetching, senseless());
            }
            (How::Signed(_) | How::Plainly, _) => self.try_again(fetching, senseless()),
        }
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
