//! Sending contents: what the peer has asked for, and what it will need without having to ask.
//!
//! A content goes in the way that costs least of those that are open:
//!
//! 1. as a patch, where the old content is known here and both are short enough for one frame;
//! 2. as byte-exact copies of the old content and what is new, where it is known and long;
//! 3. as blocks of the old content and what is new, where its block hashes are known, from the
//!    cache or from the peer's signature;
//! 4. whole.

mod gifts;
mod patches;
mod signed;
mod whole;

use std::collections::HashMap;
use std::io;

use psync_protocol::message::{
    Against, Base, DeltaOp, DeltaPiece, Failure, FailureKind, PATCH_BYTES, Patches, Proof,
    SEGMENT_MAX, Segment, WantKind,
};
use psync_protocol::session::{Agreement, Talking};
use psync_protocol::{Content, ContentHash, Message, RelPath};

pub(super) use gifts::given_with_rows;

use super::{SyncError, random};
use crate::apply::Applier;
use crate::delta::{
    self, DeltaError, Effort, Encoder, ExactEncoder, Found, Fresh, Op, Params, Signature,
    SignatureBuilder,
};
use crate::manifest::Stored;
use crate::report::{Report, Silent};
use crate::store::{OldContent, Store};
use crate::transport::Line;
use patches::{Blocks, Job, Known, Made};

/// zstd level of what is fresh between copied blocks.
const DELTA_LEVEL: i32 = 9;
/// Contents that one proof covers at most: where it does not hold, so many hashes are asked for.
const PROOF_CONTENTS: usize = 64;
/// Bytes of contents that one proof covers at most.
const PROOF_BYTES: u64 = 32 << 20;

/// A content that the peer wants, with the hashes of its old file's blocks.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) index: u64,
    pub(super) kind: WantKind,
    pub(super) hashes: Vec<u8>,
}

/// The line, and the book that is kept of what goes over it.
pub(super) struct Out<'a> {
    pub(super) line: &'a mut Line,
    pub(super) talking: &'a mut Talking,
}

impl Out<'_> {
    fn send(&mut self, message: &Message) -> Result<(), SyncError> {
        self.talking.send(message)?;
        Ok(self.line.send(message)?)
    }

    /// A segment, in as many messages as it takes.
    fn segment(&mut self, segment: delta::Segment) -> Result<(), Stopped> {
        let mut new_len = segment.new_len as u32;
        let mut rest = &segment.data[..];
        loop {
            let (now, later) = rest.split_at(rest.len().min(PATCH_BYTES));
            let missing = later.len() as u32;
            self.send(&Message::Segment(Segment { new_len, missing, bytes: now.to_vec() }))?;
            if later.is_empty() {
                return Ok(());
            }
            (new_len, rest) = (0, later);
        }
    }

    fn op(&mut self, op: Op) -> Result<(), Stopped> {
        Ok(self.send(&Message::Delta(on_the_line(op)))?)
    }
}

/// What contents are sent with.
pub(super) struct Means<'a> {
    pub(super) out: Out<'a>,
    pub(super) store: Option<&'a mut Store>,
    pub(super) agreement: &'a Agreement,
    pub(super) report: &'a dyn Report,
    /// How hard to compress.
    pub(super) effort: Effort,
    /// What coarse blocks have found of contents of which finer hashes will come.
    pub(super) found: &'a mut HashMap<u64, Found>,
    /// Whether each content is to carry its own hash, as it is not the first time that this end
    /// sends any: what is asked for again is asked for singly.
    pub(super) singly: bool,
}

/// The contents of one flight.
pub(super) struct Sending<'a, 'b, 'c> {
    means: Means<'a>,
    applier: &'b mut Applier<'c>,
    /// Hashes of contents that no proof covers yet.
    unproved: Vec<ContentHash>,
    unproved_bytes: u64,
}

/// Why a content cannot be sent.
type Trouble = (FailureKind, String);

/// What this end knows of an old content.
enum Old {
    Whole(OldContent),
    Blocks(Box<Blocks>),
}

/// A content that is to be sent, and where it stands.
#[derive(Debug)]
struct Item {
    index: u64,
    at: RelPath,
    stored: Stored,
    size: u64,
    hash: ContentHash,
}

impl<'a, 'b, 'c> Sending<'a, 'b, 'c> {
    pub(super) fn new(means: Means<'a>, applier: &'b mut Applier<'c>) -> Self {
        Sending { means, applier, unproved: Vec::new(), unproved_bytes: 0 }
    }

    /// Sends everything that the peer has asked for.
    pub(super) fn wanted(&mut self, wanted: Vec<Signed>) -> Result<(), SyncError> {
        let mut patched = Vec::new();
        for signed in wanted {
            let Some(item) = self.item(signed.index)? else {
                let text = "it does not exist on the other side as a file".into();
                self.fail(signed.index, (FailureKind::Changed, text))?;
                continue;
            };
            match &signed.kind {
                WantKind::Whole => self.whole(&item)?,
                WantKind::Delta(delta) => {
                    let seed = self.applier.keys().theirs.block_seed(item.index, delta.attempt);
                    self.against_signed(item, delta, seed, &signed.hashes, &mut patched)?;
                }
                WantKind::Coarse(delta) => {
                    self.against_coarse(item, delta, &signed.hashes, &mut patched)?;
                }
                WantKind::Fine(delta) => {
                    self.against_fine(item, delta, &signed.hashes, &mut patched)?;
                }
                WantKind::Confirm => self.hash_alone(&item)?,
                WantKind::Base => match self.old_of(&item)? {
                    Some(old) => self.against(item, old, &mut patched)?,
                    None => self.fail(item.index, no_base())?,
                },
            }
        }
        self.patch(patched)
    }

    /// All that was sent is proved.
    pub(super) fn finish(mut self) -> Result<(), SyncError> {
        self.prove()
    }

    /// The file that stands for a path of the plan.
    fn item(&mut self, index: u64) -> Result<Option<Item>, SyncError> {
        let found = match usize::try_from(index) {
            Ok(at) => self.applier.source_of(at)?,
            Err(_) => None,
        };
        Ok(found.and_then(|(at, stored)| Item::of(index, at, stored)))
    }

    /// What is known of the content that a file's present one builds on.
    fn old_of(&mut self, item: &Item) -> Result<Option<Old>, SyncError> {
        let Some(base) = item.stored.row.base else { return Ok(None) };
        if let Some(old) = known(self.means.store.as_deref_mut(), &base) {
            return Ok(Some(Old::Whole(old)));
        }
        let Some(blocks) = self.applier.block_hashes(&base)? else { return Ok(None) };
        let signature = Params::from_wire(blocks.block_len, blocks.hash_len, blocks.seed)
            .and_then(|params| Signature::parse(params, blocks.len, &blocks.packed));
        Ok(signature.ok().map(|signature| {
            let (block_len, len) = (blocks.block_len, blocks.len);
            Old::Blocks(Box::new(Blocks { block_len, len, signature }))
        }))
    }

    /// Sends a file against its old content. What is short waits for others, to be coded together
    /// by several threads.
    fn against(&mut self, item: Item, old: Old, patched: &mut Vec<Job>) -> Result<(), SyncError> {
        let old = match old {
            Old::Whole(mut old) if patches::fits(old.len(), item.size) => match old.read_all() {
                Ok(old) => Known::Content(old),
                // Damaged: it is as if it had not been kept.
                Err(_) => return self.whole(&item),
            },
            Old::Blocks(blocks) if patches::fits(blocks.len, item.size) => Known::Blocks(blocks),
            Old::Whole(old) => return self.segments(&item, old),
            Old::Blocks(blocks) => {
                self.begin_file(&item)?;
                let base = Base::Blocks(blocks.block_len);
                self.means.out.send(&Message::Against(Against { base, old_len: blocks.len }))?;
                return self.delta(&item, &blocks.signature);
            }
        };
        self.later(Job { item, old }, patched)
    }

    /// What is short waits for others.
    fn later(&mut self, job: Job, patched: &mut Vec<Job>) -> Result<(), SyncError> {
        patched.push(job);
        match patches::are_many(patched) {
            true => self.patch(std::mem::take(patched)),
            false => Ok(()),
        }
    }

    /// A long file as segments, each of parts of its old content.
    fn segments(&mut self, item: &Item, mut old: OldContent) -> Result<(), SyncError> {
        let old_len = old.len();
        let mut seed = [0; 8];
        random(&mut seed);
        let params = Params::for_sender(old_len, u64::from_le_bytes(seed));
        let mut builder = SignatureBuilder::new(params);
        // One pass makes the hashes and checks the content.
        if !old.verify_with(&mut |piece| builder.update(piece)).unwrap_or(false) {
            return self.whole(item);
        }
        let Ok(signature) = Signature::parse(params, old_len, &builder.finish()) else {
            return self.whole(item);
        };
        self.begin_file(item)?;
        self.means.out.send(&Message::Against(Against { base: Base::Own, old_len }))?;
        let level =
            delta::patch_level(SEGMENT_MAX as usize, SEGMENT_MAX as usize, self.means.effort);
        let mut encoder = ExactEncoder::new(&signature, old_len, level);
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let mut emit = |segment: delta::Segment| out.segment(segment);
        let mut read = |offset, buffer: &mut [u8]| old.read_at(offset, buffer);
        let mut lost = false;
        let mut note = |stopped: Stopped| {
            lost |= matches!(stopped, Stopped::Delta(_));
            stopped.into_sync()
        };
        let sent = whole::read(root, item, report, |bytes| {
            encoder.push(bytes, &mut read, &mut emit).map_err(&mut note)
        });
        let sent = sent.and_then(|sent| match sent {
            Ok(()) => encoder.finish(&mut read, &mut emit).map_err(&mut note).map(Ok),
            Err(trouble) => Ok(Err(trouble)),
        });
        match sent {
            // The store was damaged meanwhile: the peer asks in another way.
            Err(_) if lost => self.fail(item.index, no_base()),
            sent => self.end_file(item, sent?),
        }
    }

    /// Codes and sends patches. Files that do not gain by it go whole.
    fn patch(&mut self, jobs: Vec<Job>) -> Result<(), SyncError> {
        for made in patches::make(self.applier.root(), jobs, self.means.effort) {
            let Made { items, patch, troubles } = made;
            for (item, trouble) in troubles {
                self.fail(item.index, trouble)?;
            }
            match patch {
                _ if items.is_empty() => {}
                None => items.iter().try_for_each(|(_, item)| self.whole(item))?,
                Some(patch) => {
                    let contents = items.iter().map(|(patched, _)| *patched).collect();
                    self.means.out.send(&Message::Patches(Patches { contents, patch }))?;
                    for (_, item) in &items {
                        self.means.report.progress(&item.at, item.size);
                        self.note(item.hash, item.size);
                    }
                    self.prove()?;
                }
            }
        }
        Ok(())
    }

    fn delta(&mut self, item: &Item, signature: &Signature) -> Result<(), SyncError> {
        let mut encoder = Encoder::new(signature, DELTA_LEVEL);
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let mut emit = |op: Op| out.op(op);
        let sent = whole::read(root, item, report, |bytes| {
            encoder.push(bytes, &mut emit).map_err(Stopped::into_sync)
        })?;
        if sent.is_ok() {
            encoder.finish(&mut emit).map_err(Stopped::into_sync)?;
        }
        self.end_file(item, sent)
    }

    fn whole(&mut self, item: &Item) -> Result<(), SyncError> {
        self.begin_file(item)?;
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let sent =
            whole::read(root, item, report, |bytes| out.send(&Message::Literal(bytes.to_vec())))?;
        self.end_file(item, sent)
    }

    /// The content is there already, and only lacks a hash that proves it.
    fn hash_alone(&mut self, item: &Item) -> Result<(), SyncError> {
        self.begin_file(item)?;
        let sent = whole::read(self.applier.root(), item, &Silent, |_| Ok(()))?;
        match sent {
            Ok(()) => self.means.out.send(&Message::FileEnd(Some(item.hash))),
            Err(trouble) => self.fail(item.index, trouble),
        }
    }

    fn begin_file(&mut self, item: &Item) -> Result<(), SyncError> {
        self.means.out.send(&Message::File(item.index))
    }

    fn end_file(&mut self, item: &Item, sent: Result<(), Trouble>) -> Result<(), SyncError> {
        match sent {
            Err(trouble) => self.fail(item.index, trouble),
            Ok(()) if self.means.singly => self.means.out.send(&Message::FileEnd(Some(item.hash))),
            Ok(()) => {
                self.means.out.send(&Message::FileEnd(None))?;
                self.note(item.hash, item.size);
                if self.must_prove() { self.prove() } else { Ok(()) }
            }
        }
    }

    fn fail(&mut self, index: u64, (kind, text): Trouble) -> Result<(), SyncError> {
        self.means.out.send(&Message::FileFailed(Failure { index, kind, text }))
    }

    fn note(&mut self, hash: ContentHash, size: u64) {
        self.unproved.push(hash);
        self.unproved_bytes += size;
    }

    fn must_prove(&self) -> bool {
        self.unproved.len() >= PROOF_CONTENTS || self.unproved_bytes >= PROOF_BYTES
    }

    fn prove(&mut self) -> Result<(), SyncError> {
        if self.unproved.is_empty() {
            return Ok(());
        }
        let proof = Proof::of(&self.unproved);
        self.unproved.clear();
        self.unproved_bytes = 0;
        self.means.out.send(&Message::Proof(proof))
    }
}

impl Item {
    fn of(index: u64, at: RelPath, stored: Stored) -> Option<Item> {
        match stored.row.content {
            Content::File { size, hash } => Some(Item { index, at, stored, size, hash }),
            Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => None,
        }
    }
}

/// The answer to whoever wants, or would want, a content against its base.
fn no_base() -> Trouble {
    (FailureKind::NoBase, "the sending side does not know its old content any more".into())
}

/// An old content, if the store has it. A store that fails is as good as none: what cannot be sent
/// against an old content is sent in another way.
fn known(store: Option<&mut Store>, hash: &ContentHash) -> Option<OldContent> {
    store?.old(hash).ok().flatten()
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
            Stopped::Delta(error) => io::Error::other(error).into(),
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
