//! Contents as they arrive: built in the stage, checked, proved, and then put in their place.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use psync_protocol::message::{
    Against, Base, DeltaOp, Failure, FailureKind, Patched, Patches, Proof, SEGMENT_BYTES, Segment,
};
use psync_protocol::{Content, ContentHash};

use super::fetch::{Arrived, Asked, Fetching, How};
use super::memory::InMemory;
use super::old::OldContent;
use super::{Applier, ApplyError, Come, Ready, Trouble};
use crate::delta::params::MAX_HASH_LEN;
use crate::delta::{
    self, Decoder, DeltaError, ExactDecoder, Fresh, Op, PATCH_MAX, Params, Piece, ReadOld, Target,
    Unpacked, WriteNew,
};
use crate::index::SharedFile;
use crate::manifest::Stamp;
use crate::root::{Flusher, Staged, Stager};

/// Received files that wait for being made durable together, and their bytes: as many as come in a
/// second, if these are more than the first numbers, and no more than the second ones. What a line
/// that breaks takes away is so little; and to flush the disk more often than once a second would
/// take most of the time on a fast line.
const BATCH_FILES: (usize, usize) = (512, 8192);
const BATCH_BYTES: (u64, u64) = (64 << 20, 512 << 20);
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Bytes in a content that is put together in memory.
const MEMORY_MAX: u64 = 512 << 10;
/// Bytes in a content that stays in memory for whoever wants to hear of what has come.
const KEPT_MAX: usize = 1 << 20;
/// Bytes received after which the disk is given them, so that it has something to do meanwhile.
const FLUSH_BYTES: u64 = 32 << 20;

/// A content that is arriving.
#[derive(Debug)]
pub(crate) struct Incoming {
    fetching: Fetching,
    place: Place,
    received: u64,
    against: Option<Source>,
    /// It is only its hash that is said once more: the content waits in the stage.
    held: Option<ContentHash>,
    /// Why what still comes is thrown away.
    broken: Option<Trouble>,
}

/// Where a content is put together.
#[derive(Debug)]
enum Place {
    /// A short one, to be staged when it is whole.
    Memory(Vec<u8>),
    /// A file in the stage, and the hash of what is in it.
    Stage(File, Staged, Box<blake3::Hasher>),
}

impl Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Place::Memory(content) => content.extend_from_slice(bytes),
            Place::Stage(file, _, hasher) => {
                file.write_all(bytes)?;
                hasher.update(bytes);
            }
        }
        Ok(())
    }

    fn hash(&self) -> ContentHash {
        match self {
            Place::Memory(content) => ContentHash::of_bytes(content),
            Place::Stage(_, _, hasher) => ContentHash(hasher.finalize().into()),
        }
    }
}

/// The old file that deltas or segments copy from.
#[derive(Debug)]
struct Source {
    old: OldContent,
    way: Way,
}

/// How a content is made of an old file.
#[derive(Debug)]
enum Way {
    /// Of blocks that short hashes have chosen: longer ones may do better.
    Signed(Decoder),
    /// Of blocks whose hashes the sender had.
    Blocks(Decoder),
    /// Of parts that the sender has seen, with the bytes of a segment that is incomplete.
    Segments(ExactDecoder, Option<(u32, Vec<u8>)>),
}

impl Way {
    fn ends_well(self) -> bool {
        match self {
            Way::Signed(decoder) | Way::Blocks(decoder) => decoder.finish().is_ok(),
            Way::Segments(decoder, rest) => rest.is_none() && decoder.finish().is_ok(),
        }
    }
}

impl Applier<'_> {
    /// What is known of a content that comes now: it was asked for, or would have been.
    pub(super) fn expected(&mut self, index: u64) -> Option<Asked> {
        let asked = self.asked.remove(&index);
        asked.or_else(|| {
            let fetching = self.fetches.take(index)?;
            Some(Asked { fetching, how: How::Plainly })
        })
    }

    /// The content of this path follows.
    pub fn file_begins(&mut self, index: u64) {
        let Some(Asked { fetching, how }) = self.expected(index) else { return };
        let (against, held) = match how {
            How::Plainly => (None, None),
            How::Signed(old) => {
                let decoder = Decoder::new(&old.params, old.length(), fetching.size);
                let old = old.open(self.root, self.staging).ok();
                (old.map(|old| Source { old, way: Way::Signed(decoder) }), None)
            }
            How::Staged(staged, hash) => (None, Some((staged, hash))),
        };
        let stage = |(file, staged)| Place::Stage(file, staged, Box::default());
        let opened = match held {
            Some((staged, hash)) => {
                self.stager.iter().for_each(Stager::wait);
                self.staging.reopen(&staged).map(|file| (stage((file, staged)), Some(hash)))
            }
            None if fetching.size <= MEMORY_MAX => Ok((Place::Memory(Vec::new()), None)),
            None => {
                let claim = match self.claim(fetching.size) {
                    Ok(claim) => claim,
                    Err(reason) => return self.no_room(fetching, reason),
                };
                let begun = self.staging.begin(&fetching.task.path);
                begun.map(|(file, staged)| (stage((file, staged.holding(claim))), None))
            }
        };
        match opened {
            Ok((place, held)) => {
                self.incoming = Some(Incoming {
                    received: if held.is_some() { fetching.size } else { 0 },
                    fetching,
                    place,
                    against,
                    held,
                    broken: None,
                });
            }
            Err(error) => self
                .fail(fetching.task.index, Trouble::system("create a file in .psync/stage")(error)),
        }
    }

    /// The file's deltas are against this old content.
    pub fn file_against(&mut self, against: Against) {
        let Some(mut incoming) = self.incoming.take() else { return };
        let source = self.open_source(&incoming.fetching, against);
        match source {
            Ok(source) => incoming.against = Some(source),
            Err(trouble) => incoming.note(Err(trouble)),
        }
        self.incoming = Some(incoming);
    }

    fn open_source(&mut self, fetching: &Fetching, against: Against) -> Result<Source, Trouble> {
        let missing = || Trouble {
            kind: FailureKind::Mismatch,
            text: "it is against a content that is not here".into(),
        };
        let base = match against.base {
            Base::Own | Base::Blocks(_) => fetching.base,
            Base::Other(check) => Some(check),
            Base::Nothing => None,
        };
        let file = self.open_base(fetching, base.ok_or_else(missing)?).ok_or_else(missing)?;
        let old = OldContent::of(file).map_err(Trouble::system("read the old file"))?;
        let length = old.length();
        if length != against.old_len {
            return Err(missing());
        }
        let way = match against.base {
            Base::Blocks(block_len) => {
                // How long the hashes were is a matter of the sender's alone.
                let params = Params::from_wire(block_len, MAX_HASH_LEN, 0)
                    .map_err(|error| mismatch(error.to_string()))?;
                Way::Blocks(Decoder::new(&params, length, fetching.size))
            }
            Base::Own | Base::Other(_) | Base::Nothing => {
                Way::Segments(ExactDecoder::new(length, fetching.size), None)
            }
        };
        Ok(Source { old, way })
    }

    /// More of the file, as it is.
    pub fn file_literal(&mut self, bytes: Vec<u8>) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.broken.is_some() {
            return;
        }
        // It comes whole, whatever was signed: then nothing is copied from the old file.
        incoming.against = None;
        let length = bytes.len() as u64;
        let result = match &mut incoming.place {
            // All of it: it need not be copied.
            Place::Memory(content) if content.is_empty() && length == incoming.fetching.size => {
                *content = bytes;
                incoming.received = length;
                Ok(())
            }
            Place::Memory(_) | Place::Stage(..) => incoming.write(&bytes),
        };
        incoming.note(result);
        self.report.progress(&incoming.fetching.task.path, length);
    }

    /// More of the file, of blocks of the old one.
    pub fn file_delta(&mut self, delta: DeltaOp) {
        self.file_grows(|incoming| incoming.apply(delta));
    }

    /// More of the file, of parts of the old one.
    pub fn file_segment(&mut self, segment: Segment) {
        self.file_grows(|incoming| incoming.add_segment(segment));
    }

    fn file_grows(&mut self, grow: impl FnOnce(&mut Incoming) -> Result<(), Trouble>) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.broken.is_some() {
            return;
        }
        let before = incoming.received;
        let result = grow(incoming);
        incoming.note(result);
        let written = incoming.received - before;
        self.report.progress(&incoming.fetching.task.path, written);
    }

    /// The file is complete. It has this hash at the sender; without one, the next proof tells.
    pub fn file_ends(&mut self, announced: Option<ContentHash>) -> Result<(), ApplyError> {
        let incoming = self.incoming.take();
        // What waits for its hash is not proved by others' once more.
        let held = incoming.as_ref().is_some_and(|incoming| incoming.held.is_some());
        let arrived = incoming.and_then(|incoming| self.complete(incoming));
        match (arrived, announced) {
            (Some(arrived), None) if held => {
                self.refuse(arrived);
                self.unproved.push(None);
            }
            (arrived, None) => self.unproved.push(arrived),
            (None, Some(_)) => {}
            (Some(arrived), Some(hash)) if arrived.hash == hash => self.accept(arrived)?,
            (Some(arrived), Some(_)) => self.refuse(arrived),
        }
        Ok(())
    }

    /// Checks what has come; what is wrong is asked for again.
    fn complete(&mut self, incoming: Incoming) -> Option<Arrived> {
        let Incoming { fetching, place, received, against, held, broken } = incoming;
        if let Some(trouble) = broken {
            self.drop_place(place);
            self.try_again(fetching, trouble);
            return None;
        }
        let hash = held.unwrap_or_else(|| place.hash());
        let by_hashes =
            against.as_ref().is_some_and(|against| matches!(against.way, Way::Signed(_)));
        let complete = against.is_none_or(|against| against.way.ends_well());
        if complete && received == fetching.size && self.is_announced(&fetching, &hash) {
            return self.stage(fetching, place, hash);
        }
        self.drop_place(place);
        if by_hashes {
            self.try_again(fetching, not_announced());
        } else {
            self.try_again_whole(fetching, not_announced());
        }
        None
    }

    /// A whole content goes to the stage, if it is not there.
    fn stage(&mut self, fetching: Fetching, place: Place, hash: ContentHash) -> Option<Arrived> {
        let content = match place {
            Place::Stage(_, staged, _) => {
                return Some(Arrived { fetching, staged, hash, memory: None });
            }
            Place::Memory(content) => Arc::new(content),
        };
        let claim = match self.claim(fetching.size) {
            Ok(claim) => claim,
            Err(reason) => {
                self.no_room(fetching, reason);
                return None;
            }
        };
        if self.stager.is_none() {
            self.stager = match Stager::start(self.staging) {
                Ok(stager) => Some(stager),
                Err(error) => {
                    let trouble = Trouble::system("start a thread")(error);
                    self.fail(fetching.task.index, trouble);
                    return None;
                }
            };
        }
        // What replaces a file gets that one's owner first; what its owner may not read may have to
        // be read once more.
        let props = fetching.task.agreed.props;
        let is_plain = fetching.task.old.is_none() && props.mode & 0o400 != 0;
        let memory = self.in_memory(&content);
        let staged = self.stager.as_ref()?.put(self.staging, content, is_plain.then_some(props));
        Some(Arrived { fetching, staged: staged.holding(claim), hash, memory })
    }

    /// A content for whoever wants to hear of what has come, unless that has been too much of late.
    fn in_memory(&self, content: &Arc<Vec<u8>>) -> Option<InMemory> {
        // What is longer is kept in the store in another way, which reads it from its place.
        let is_short = content.len() <= KEPT_MAX;
        let hold = self.come.as_ref().filter(|_| is_short)?.allowance.hold(content.len())?;
        Some(InMemory { content: content.clone(), packed: None, holds: vec![hold] })
    }

    fn keep_packed(&self, arrived: &mut Arrived, packed: Vec<u8>) {
        if let (Some(memory), Some(come)) = (&mut arrived.memory, &self.come)
            && let Some(hold) = come.allowance.hold(packed.len())
        {
            memory.packed = Some(packed);
            memory.holds.push(hold);
        }
    }

    fn drop_place(&self, place: Place) {
        if let Place::Stage(_, staged, _) = place {
            self.staging.discard(staged);
        }
    }

    /// Whether a content has the check that the peer stated.
    fn is_announced(&self, fetching: &Fetching, hash: &ContentHash) -> bool {
        self.keys.theirs.check(hash) == fetching.check
    }

    fn refuse(&mut self, arrived: Arrived) {
        self.stager.iter().for_each(Stager::wait);
        self.staging.discard(arrived.staged);
        self.try_again_whole(arrived.fetching, not_announced());
    }

    /// A content that is what the peer has.
    fn accept(&mut self, arrived: Arrived) -> Result<(), ApplyError> {
        self.staging.forget_begun(&arrived.fetching.task.path);
        let Some(arrived) = self.put_by(arrived) else { return Ok(()) };
        let Arrived { fetching, staged, hash, memory } = arrived;
        if let Some(come) = &mut self.come {
            let (path, size) = (fetching.task.path.clone(), fetching.size);
            let file = SharedFile { path, size, hash, stamp: Stamp::UNKNOWN };
            come.files.push_back(Come { file, staged: staged.name().into(), memory });
        }
        let content = Some(Content::File { size: fetching.size, hash });
        self.batch_bytes += fetching.size;
        self.flush_now_and_then(fetching.size);
        self.batch.push(Ready { task: fetching.task, staged: Some(staged), content, leaves: None });
        let (files, bytes) = (self.batch.len(), self.batch_bytes);
        let many = files >= BATCH_FILES.0 || bytes >= BATCH_BYTES.0;
        let most = files >= BATCH_FILES.1 || bytes >= BATCH_BYTES.1;
        if most || many && self.committed.elapsed() >= BATCH_TIME {
            self.close_batch()?;
        }
        Ok(())
    }

    fn flush_now_and_then(&mut self, size: u64) {
        self.unflushed += size;
        if self.unflushed < FLUSH_BYTES {
            return;
        }
        self.unflushed = 0;
        if self.flusher.is_none() {
            // Without it there is more to wait for later.
            self.flusher = Flusher::start(self.root).ok();
        }
        self.flusher.iter().for_each(Flusher::nudge);
    }

    /// Whole contents, made together of old ones. Where one of those is not here, or one content is
    /// not needed, none can be made: what is still needed is asked for again.
    pub fn patches_arrive(&mut self, patches: &Patches) {
        let (mut wanted, mut olds) = (Vec::new(), Vec::new());
        // The old contents are held in memory together: no more of them than a patch may have.
        let mut room = PATCH_MAX as u64;
        for content in &patches.contents {
            let asked = self.expected(content.index);
            let old = asked.as_ref().and_then(|asked| self.old_content(asked, content.base, room));
            room -= old.as_ref().map_or(0, |old| old.len() as u64);
            olds.push(old);
            wanted.push(asked);
        }
        let alone = self.come.is_some().then(|| make_alone(&wanted, patches)).flatten();
        let (mut made, mut packed) = match alone {
            Some(Unpacked { content, packed }) => (Some(vec![content]), Some(packed)),
            None if olds.iter().flatten().count() == olds.len() => {
                (make(&wanted, &olds, patches), None)
            }
            None => (None, None),
        };
        for (at, asked) in wanted.into_iter().enumerate() {
            let mut arrived = match (asked, made.as_mut().and_then(|made| made.get_mut(at))) {
                (None, _) => None,
                (Some(asked), Some(content)) => self.stage_made(asked, std::mem::take(content)),
                (Some(asked), None) => {
                    self.not_made(asked, made_of_what_is_here(&olds, at));
                    None
                }
            };
            if let (Some(arrived), Some(packed)) = (&mut arrived, packed.take()) {
                self.keep_packed(arrived, packed);
            }
            self.unproved.push(arrived);
        }
    }

    /// The old content of which a patch makes a new one, if it has at most `most` bytes.
    fn old_content(&mut self, asked: &Asked, base: Base, most: u64) -> Option<Vec<u8>> {
        let Asked { fetching, how } = asked;
        let file = match (base, how) {
            // Blocks are those of the file that was signed, if one was.
            (Base::Blocks(_), How::Signed(old)) => old.open(self.root, self.staging),
            (Base::Own | Base::Blocks(_), _) => {
                OldContent::of(self.open_base(fetching, fetching.base?)?)
            }
            (Base::Other(check), _) => OldContent::of(self.open_base(fetching, check)?),
            (Base::Nothing, _) => return Some(Vec::new()),
        };
        let old = file.ok().filter(|old| old.length() <= most)?;
        let mut content = vec![0; old.length() as usize];
        old.read_exact_at(&mut content, 0).ok()?;
        Some(content)
    }

    /// A patch could not be applied. Where that is for another content of it, this one is asked for
    /// in the same way once more, and only once.
    fn not_made(&mut self, Asked { mut fetching, how }: Asked, spared: bool) {
        match how {
            How::Staged(staged, hash) => {
                self.refuse(Arrived { fetching, staged, hash, memory: None });
            }
            How::Plainly if spared && fetching.base.is_some() && !fetching.spared => {
                fetching.spared = true;
                self.fetch(fetching);
            }
            How::Plainly | How::Signed(_) => self.try_again(fetching, not_announced()),
        }
    }

    /// A content that a patch has made goes to the stage.
    fn stage_made(&mut self, asked: Asked, content: Vec<u8>) -> Option<Arrived> {
        let Asked { fetching, how } = asked;
        self.report.progress(&fetching.task.path, fetching.size);
        let hash = ContentHash::of_bytes(&content);
        let is_it = self.is_announced(&fetching, &hash);
        match how {
            How::Staged(staged, hash) => {
                self.refuse(Arrived { fetching, staged, hash, memory: None });
            }
            How::Plainly | How::Signed(_) if is_it => {
                return self.stage(fetching, Place::Memory(content), hash);
            }
            // A short hash has matched by chance: longer ones will not.
            How::Signed(_) => self.try_again(fetching, not_announced()),
            How::Plainly => self.try_again_whole(fetching, not_announced()),
        }
        None
    }

    /// What has come since the last proof is what the peer has, if the roots are the same. Where
    /// they are not, or one of the contents is missing, the peer is asked for each hash.
    pub fn proved(&mut self, proof: Proof) -> Result<(), ApplyError> {
        let unproved = std::mem::take(&mut self.unproved);
        let complete = unproved.iter().all(Option::is_some);
        let arrived: Vec<Arrived> = unproved.into_iter().flatten().collect();
        if complete && Proof::of(arrived.iter().map(|arrived| &arrived.hash)) == proof {
            arrived.into_iter().try_for_each(|arrived| self.accept(arrived))
        } else {
            self.unconfirmed.extend(arrived);
            Ok(())
        }
    }

    /// The peer cannot send the file.
    pub fn file_failed(&mut self, failure: Failure) {
        let trouble = Trouble { kind: failure.kind, text: failure.text };
        if let Some(incoming) = self.incoming.take() {
            self.drop_place(incoming.place);
            self.cannot_be_sent(incoming.fetching, trouble);
        } else if let Some(Asked { fetching, how }) = self.expected(failure.index) {
            if let How::Staged(staged, _) = how {
                self.staging.discard(staged);
            }
            self.cannot_be_sent(fetching, trouble);
        }
    }

    fn cannot_be_sent(&mut self, fetching: Fetching, trouble: Trouble) {
        match trouble.kind {
            FailureKind::NoBase => self.try_again(fetching, trouble),
            FailureKind::Changed | FailureKind::System | FailureKind::Mismatch => {
                self.fail(fetching.task.index, trouble);
            }
        }
    }
}

/// The only content of a patch, and what it was packed as, where it is made of nothing.
fn make_alone(wanted: &[Option<Asked>], patches: &Patches) -> Option<Unpacked> {
    let ([Some(asked)], [Patched { base: Base::Nothing, .. }]) = (wanted, &patches.contents[..])
    else {
        return None;
    };
    let len = usize::try_from(asked.fetching.size).ok()?;
    delta::unpack_patch(&patches.patch, len).ok().flatten()
}

/// The new contents, if the patch can be applied.
fn make(
    wanted: &[Option<Asked>],
    olds: &[Option<Vec<u8>>],
    patches: &Patches,
) -> Option<Vec<Vec<u8>>> {
    let targets: Option<Vec<Target<'_>>> = (wanted.iter().zip(olds).zip(&patches.contents))
        .map(|((asked, old), content)| {
            let new_len = usize::try_from(asked.as_ref()?.fetching.size).ok()?;
            let unit = match content.base {
                Base::Blocks(length) => length,
                Base::Own | Base::Other(_) | Base::Nothing => 1,
            };
            Some(Target { old: old.as_ref()?, unit, new_len })
        })
        .collect();
    delta::apply_all(&targets?, &patches.patch).ok()
}

/// Whether it is for another content of the same patch that this one could not be made.
fn made_of_what_is_here(olds: &[Option<Vec<u8>>], at: usize) -> bool {
    olds[at].is_some() && olds.iter().any(Option::is_none)
}

fn mismatch(text: String) -> Trouble {
    Trouble { kind: FailureKind::Mismatch, text }
}

fn not_announced() -> Trouble {
    mismatch("what arrived is not what was announced".into())
}

impl Incoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if self.received + bytes.len() as u64 > self.fetching.size {
            return Err(mismatch("more arrived than was announced".into()));
        }
        if let Place::Memory(content) = &mut self.place
            && content.is_empty()
        {
            content.reserve_exact(self.fetching.size as usize);
        }
        self.place.write(bytes).map_err(Trouble::system("write to .psync/stage"))?;
        self.received += bytes.len() as u64;
        Ok(())
    }

    fn apply(&mut self, delta: DeltaOp) -> Result<(), Trouble> {
        let pieces = delta.pieces.iter().map(|piece| Piece {
            block: piece.block,
            count: piece.count,
            fresh: piece.fresh,
        });
        let fresh = if delta.coded { Fresh::Coded(delta.data) } else { Fresh::Plain(delta.data) };
        let op = Op { pieces: pieces.collect(), fresh };
        self.with_source(|way, read, write| match way {
            Way::Signed(decoder) | Way::Blocks(decoder) => decoder.apply(&op, read, write),
            Way::Segments(..) => Err(DeltaError::Patch("it has blocks instead of segments")),
        })
    }

    fn add_segment(&mut self, segment: Segment) -> Result<(), Trouble> {
        self.with_source(|way, read, write| {
            let Way::Segments(decoder, rest) = way else {
                return Err(DeltaError::Patch("it has segments instead of blocks"));
            };
            let (new_len, data) = match rest.take() {
                None => (segment.new_len, segment.bytes),
                Some((new_len, mut data)) => {
                    data.extend_from_slice(&segment.bytes);
                    (new_len, data)
                }
            };
            if segment.missing == 0 {
                return decoder.apply(
                    &delta::Segment { new_len: new_len as usize, data },
                    read,
                    write,
                );
            }
            if data.len() as u64 + u64::from(segment.missing) > u64::from(SEGMENT_BYTES) {
                return Err(DeltaError::Patch("a segment is too long"));
            }
            *rest = Some((new_len, data));
            Ok(())
        })
    }

    /// Reads from the old file and writes to the new one.
    fn with_source(
        &mut self,
        work: impl FnOnce(&mut Way, &mut ReadOld<'_>, &mut WriteNew<'_>) -> Result<(), DeltaError>,
    ) -> Result<(), Trouble> {
        let Some(Source { old, mut way }) = self.against.take() else {
            return Err(mismatch("a delta arrived where the whole file was asked for".into()));
        };
        let mut refused = None;
        let result =
            work(&mut way, &mut |offset, buffer| old.read_exact_at(buffer, offset), &mut |bytes| {
                self.write(bytes).map_err(|trouble| {
                    refused = Some(trouble);
                    io::Error::other("refused")
                })
            });
        self.against = Some(Source { old, way });
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
