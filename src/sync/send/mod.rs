//! Sending contents: what the peer has asked for, and what it will need without having to ask.
//!
//! A content goes in the way that costs least of those that are open:
//!
//! 1. as a patch, where the old content is known here and both are short enough for one frame;
//! 2. as byte-exact copies of the old content and what is new, where it is known and long;
//! 3. as blocks of the old content and what is new, where its block hashes are known, from the
//!    cache or from the peer's signature;
//! 4. whole.

mod forge;
mod gifts;
mod parcels;
mod patches;
mod signed;
mod similar;
mod whole;

use std::collections::{HashMap, HashSet};
use std::io;

use psync_protocol::message::{
    Against, Base, DeltaOp, DeltaPiece, Failure, FailureKind, PATCH_BYTES, Patched, Patches,
    Problem, ProblemKind, Proof, SEGMENT_MAX, Segment, WantKind,
};
use psync_protocol::session::{Agreement, Talking};
use psync_protocol::{Content, ContentHash, Message, RelPath, Role};

pub(super) use forge::Forge;
pub(super) use gifts::given_with_rows;

use super::rehearsal::Rehearsal;
use super::remember::Files;
use super::{SyncError, random};
use crate::apply::Applier;
use crate::delta::{
    self, DeltaError, Effort, Encoder, ExactEncoder, Found, Fresh, Op, Params, Signature,
    SignatureBuilder,
};
use crate::index::SharedFile;
use crate::manifest::{Permit, Stored};
use crate::report::{Report, Silent, Trouble as Told};
use crate::store::{OldContent, Store};
use crate::transport::Line;
use patches::{BATCH, Blocks, FIRST_BATCH, Job, Known, Made};

/// zstd level of what is fresh between copied blocks.
const DELTA_LEVEL: i32 = 9;
/// Contents that one proof covers at most: where it does not hold, so many hashes are asked for.
const PROOF_CONTENTS: usize = 64;
/// Files that are listed as sent at most.
const SENT_MAX: usize = 64 << 10;
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
    /// Where contents are only counted.
    pub(super) rehearsal: Option<&'a mut Rehearsal>,
}

impl Out<'_> {
    fn send(&mut self, message: &Message) -> Result<(), SyncError> {
        if self.rehearsal.as_mut().is_some_and(|rehearsal| rehearsal.keeps_back(message)) {
            return Ok(self.line.count(message)?);
        }
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
    /// What the peer may have.
    pub(super) permit: &'a Permit,
    pub(super) report: &'a dyn Report,
    /// How hard to compress.
    pub(super) effort: Effort,
    /// What coarse blocks have found of contents of which finer hashes will come.
    pub(super) found: &'a mut HashMap<u64, Found>,
    /// Where contents are told that are packed for the store as they are sent, if it is being filled.
    pub(super) filling: Option<&'a Files>,
    /// The files that were sent.
    pub(super) sent: &'a mut Vec<SharedFile>,
    /// Old contents that turned out to be damaged.
    pub(super) damaged: &'a mut HashSet<ContentHash>,
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
    /// Whether any content has been sent: the line has something to do.
    has_sent: bool,
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
        Sending { means, applier, unproved: Vec::new(), unproved_bytes: 0, has_sent: false }
    }

    /// Sends everything that the peer has asked for.
    pub(super) fn wanted(&mut self, wanted: Vec<Signed>) -> Result<(), SyncError> {
        let (mut patched, mut new) = (Vec::new(), Vec::new());
        for signed in wanted {
            if let Some(why) = self.may_not_leave(signed.index) {
                self.fail(signed.index, (FailureKind::System, why.into()))?;
                continue;
            }
            let Some(item) = self.item(signed.index)? else {
                let text = "it does not exist on the other side as a file".into();
                self.fail(signed.index, (FailureKind::Changed, text))?;
                continue;
            };
            match &signed.kind {
                WantKind::Whole if item.stored.row.base.is_none() => new.push(item),
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
        self.new_files(new, &mut patched)?;
        self.patch(patched)
    }

    /// All that was sent is proved.
    pub(super) fn finish(mut self) -> Result<(), SyncError> {
        self.prove()
    }

    /// Why the peer does not get what it wants, whoever it is. That a path is of the plan is not
    /// enough, as the peer may have named it: the index knows more than what is synced with this
    /// peer. So this end must have stated the path, or marked it as the same.
    fn may_not_leave(&self, index: u64) -> Option<&'static str> {
        let stand = self.means.agreement.paths.get(usize::try_from(index).ok()?)?;
        if stand.of(self.applier.role()).is_none() {
            return Some("the other side has not stated it, and does not send it");
        }
        let rights = self.means.permit.rights(stand.path().as_bytes());
        (!rights.read).then_some("the other side does not let this peer read it")
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
        let Some(blocks) = self.applier.block_hashes(&base) else { return Ok(None) };
        let signature = Params::from_wire(blocks.block_len, blocks.hash_len, blocks.seed)
            .and_then(|params| Signature::parse(params, blocks.len, &blocks.packed));
        Ok(signature.ok().map(|signature| {
            let (block_len, len) = (blocks.block_len, blocks.len);
            Old::Blocks(Box::new(Blocks { block_len, len, signature, of_base: true }))
        }))
    }

    /// Sends a file against its old content. What is short waits for others, to be coded together
    /// by several threads.
    fn against(&mut self, item: Item, old: Old, patched: &mut Vec<Job>) -> Result<(), SyncError> {
        let old = match old {
            Old::Whole(mut old) if patches::fits(old.len(), item.size) => match old.read_all() {
                Ok(old) => Known::Content(old),
                Err(_) => return self.without_base(&item),
            },
            Old::Blocks(blocks) if patches::fits(blocks.len, item.size) => Known::Blocks(blocks),
            Old::Whole(old) => return self.segments(&item, old),
            Old::Blocks(blocks) => return self.blocks(&item, &blocks),
        };
        self.later(Job { item, old }, patched)
    }

    /// What is short waits for others.
    fn later(&mut self, job: Job, patched: &mut Vec<Job>) -> Result<(), SyncError> {
        patched.push(job);
        let batch = if self.has_sent { BATCH } else { FIRST_BATCH };
        match patches::are_many(patched, batch) {
            true => self.patch_in(batch, std::mem::take(patched)),
            false => Ok(()),
        }
    }

    /// A long file as segments, each of parts of its old content.
    fn segments(&mut self, item: &Item, mut old: OldContent) -> Result<(), SyncError> {
        let old_len = old.len();
        let params = own_params(old_len);
        let mut builder = SignatureBuilder::new(params);
        // One pass makes the hashes and checks the content.
        if !old.verify_with(&mut |piece| builder.update(piece)).unwrap_or(false) {
            return self.without_base(item);
        }
        let Ok(signature) = Signature::parse(params, old_len, &builder.finish()) else {
            return self.whole(item);
        };
        let against = Against { base: Base::Own, old_len };
        self.segments_of(item, against, &signature, &mut |at, buffer| old.read_at(at, buffer))
    }

    /// The same for an old content that is in memory.
    fn segments_of_short(&mut self, item: &Item, base: Base, old: &[u8]) -> Result<(), SyncError> {
        let old_len = old.len() as u64;
        let params = own_params(old_len);
        let mut builder = SignatureBuilder::new(params);
        builder.update(old);
        let Ok(signature) = Signature::parse(params, old_len, &builder.finish()) else {
            return self.whole(item);
        };
        self.segments_of(item, Against { base, old_len }, &signature, &mut |at, buffer| {
            let part = usize::try_from(at).ok().and_then(|at| old.get(at..)?.get(..buffer.len()));
            buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn segments_of(
        &mut self,
        item: &Item,
        against: Against,
        signature: &Signature,
        mut read: &mut delta::ReadOld<'_>,
    ) -> Result<(), SyncError> {
        let old_len = against.old_len;
        self.begin_file(item)?;
        self.means.out.send(&Message::Against(against))?;
        let level =
            delta::patch_level(SEGMENT_MAX as usize, SEGMENT_MAX as usize, self.means.effort);
        let mut encoder = ExactEncoder::new(signature, old_len, level);
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let mut emit = |segment: delta::Segment| out.segment(segment);
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

    /// The old content of a file is damaged in the store: it is let go, and the peer asks in another way.
    /// A person hears of the first; a store in which one is damaged may well have more.
    fn without_base(&mut self, item: &Item) -> Result<(), SyncError> {
        let is_real = self.means.out.rehearsal.is_none();
        if let Some(base) = item.stored.row.base.filter(|_| is_real) {
            if let Some(store) = self.means.store.as_deref_mut() {
                // What cannot be let go is found damaged again.
                let _ = store.forget(&base);
            }
            self.means.damaged.insert(base);
            if self.means.damaged.len() == 1 {
                self.tell_damage(&item.at)?;
            }
        }
        self.fail(item.index, no_base())
    }

    fn tell_damage(&mut self, at: &RelPath) -> Result<(), SyncError> {
        let text = "its old content in the store was damaged and is forgotten; it is sent against block hashes (psync store verify finds whatever else is damaged)";
        let (kind, path, text) = (ProblemKind::Note, at.as_bytes().to_vec(), text.to_string());
        match self.applier.role() {
            on @ Role::Initiator => {
                self.means.report.trouble(&Told { on, path, kind: kind.into(), text });
                Ok(())
            }
            Role::Responder => self.means.out.send(&Message::Problem(Problem { kind, path, text })),
        }
    }

    /// Codes and sends patches. Files that do not gain by it go whole.
    fn patch(&mut self, jobs: Vec<Job>) -> Result<(), SyncError> {
        self.patch_in(BATCH, jobs)
    }

    /// The same in batches of so many bytes.
    fn patch_in(&mut self, batch: usize, jobs: Vec<Job>) -> Result<(), SyncError> {
        if patches::take_long(&jobs) {
            self.means.out.line.let_leave()?;
        }
        for made in patches::make(self.applier.root(), jobs, batch, self.means.effort) {
            let Made { items, patch, too_long, whole, troubles } = made;
            for (item, trouble) in troubles {
                self.fail(item.index, trouble)?;
            }
            whole.iter().try_for_each(|item| self.whole(item))?;
            too_long.into_iter().try_for_each(|job| self.stream(job))?;
            if let (false, Some(patch)) = (items.is_empty(), patch) {
                self.send_patch(&items, patch)?;
            }
        }
        Ok(())
    }

    /// A file against its old content, piece by piece.
    fn stream(&mut self, Job { item, old }: Job) -> Result<(), SyncError> {
        match old {
            Known::Content(old) => self.segments_of_short(&item, Base::Own, &old),
            Known::Other(old, check) => self.segments_of_short(&item, Base::Other(check), &old),
            Known::Blocks(blocks) => self.blocks(&item, &blocks),
            Known::Found(found) => self.stream_found(&item, &found),
        }
    }

    /// A file against the blocks of an old one.
    fn blocks(&mut self, item: &Item, blocks: &Blocks) -> Result<(), SyncError> {
        self.begin_file(item)?;
        if blocks.of_base {
            let base = Base::Blocks(blocks.block_len);
            self.means.out.send(&Message::Against(Against { base, old_len: blocks.len }))?;
        }
        self.delta(item, &blocks.signature)
    }

    fn send_patch(&mut self, items: &[(Patched, Item)], patch: Vec<u8>) -> Result<(), SyncError> {
        let contents = items.iter().map(|(patched, _)| *patched).collect();
        self.has_sent = true;
        self.means.out.send(&Message::Patches(Patches { contents, patch }))?;
        for (_, item) in items {
            self.means.report.progress(&item.at, item.size);
            self.note(item);
        }
        self.prove()
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
        if item.size <= whole::PIECE {
            return self.whole_at_once(item);
        }
        self.begin_file(item)?;
        let (root, report) = (self.applier.root(), self.means.report);
        let out = &mut self.means.out;
        let sent =
            whole::read(root, item, report, |bytes| out.send(&Message::Literal(bytes.to_vec())))?;
        self.end_file(item, sent)
    }

    /// The same of a file that goes in one piece: it is not copied once more.
    fn whole_at_once(&mut self, item: &Item) -> Result<(), SyncError> {
        let content = match whole::read_all(self.applier.root(), item) {
            Ok(content) => content,
            Err(trouble) => return self.fail(item.index, trouble),
        };
        self.begin_file(item)?;
        self.means.out.send(&Message::Literal(content))?;
        self.means.report.progress(&item.at, item.size);
        self.end_file(item, Ok(()))
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
        self.has_sent = true;
        self.means.out.send(&Message::File(item.index))
    }

    fn end_file(&mut self, item: &Item, sent: Result<(), Trouble>) -> Result<(), SyncError> {
        match sent {
            Err(trouble) => self.fail(item.index, trouble),
            Ok(()) if self.means.singly => self.means.out.send(&Message::FileEnd(Some(item.hash))),
            Ok(()) => {
                self.means.out.send(&Message::FileEnd(None))?;
                self.note(item);
                if self.must_prove() { self.prove() } else { Ok(()) }
            }
        }
    }

    fn fail(&mut self, index: u64, (kind, text): Trouble) -> Result<(), SyncError> {
        self.means.out.send(&Message::FileFailed(Failure { index, kind, text }))
    }

    fn note(&mut self, item: &Item) {
        self.has_no_proof(item);
        if self.means.sent.len() < SENT_MAX {
            self.means.sent.push(item.as_shared());
        }
    }

    fn has_no_proof(&mut self, item: &Item) {
        self.unproved.push(item.hash);
        self.unproved_bytes += item.size;
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

    fn as_shared(&self) -> SharedFile {
        let (path, stamp) = (self.at.clone(), self.stored.stamp);
        SharedFile { path, size: self.size, hash: self.hash, stamp }
    }
}

/// The answer to whoever wants, or would want, a content against its base.
fn no_base() -> Trouble {
    (FailureKind::NoBase, "the sending side does not know its old content any more".into())
}

/// An old content, if the store has it. A store that fails is as good as none: what cannot be sent
/// against an old content is sent in another way. What is wrong is told by whoever remembers, after the
/// session.
fn known(store: Option<&mut Store>, hash: &ContentHash) -> Option<OldContent> {
    store?.old(hash).ok().flatten()
}

/// How an old content is cut that this end can read.
fn own_params(old_len: u64) -> Params {
    let mut seed = [0; 8];
    random(&mut seed);
    Params::for_sender(old_len, u64::from_le_bytes(seed))
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
