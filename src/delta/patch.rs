//! New contents against old ones that the receiver holds and the sender knows.
//!
//! The copies are exact ([`align`](super::align)), so nothing can be rebuilt wrongly. What lies between
//! them is compressed by zstd, for all contents of a batch in one frame, because an edit made in one file
//! is often made in others, too. Its prefix is what stands around the edits in the old contents. It
//! follows from the copies, as do the lengths of everything.
//!
//! Where the sender has only hashes of the old content's blocks, copies are blocks found by their hashes,
//! and the prefix is made of these alone. All else is the same, but a wrong content is possible then: see
//! [`Params`](super::Params).
//!
//! Only edits and their surroundings are given to zstd: so the highest levels take less time than
//! compressing whole files against whole files does at a low level, and give fewer bytes.

use std::borrow::Cow;

use super::align::{Copy, copies};
use super::found::Found;
use super::number::{read_number, write_number};
use super::step::{Frame, Position, Step, Surroundings, steps_of};
use super::{DeltaError, frame};

/// Most bytes of new contents in a patch, and most of old ones. Both sides hold them in memory.
pub const PATCH_MAX: usize = 8 << 20;

/// Bytes of old and new contents that a batch should have at most, unless it is a single content. Larger
/// batches gain nothing, as measured on releases of Django and Linux.
pub const BATCH_TARGET: usize = 8 << 20;

/// An old content and the new one that is to be made of it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What the sender knows of what the receiver holds.
    pub old: Base<'a>,
    /// What the receiver shall hold.
    pub new: &'a [u8],
}

/// What the sender knows of an old content.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// All of it; empty if there is nothing like the new content.
    Content(&'a [u8]),
    /// The blocks of it that were found in the new content.
    Blocks(&'a Found),
}

/// An old content, and how long the new one is that a patch makes of it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The content that the sender knows.
    pub old: &'a [u8],
    /// Bytes in a block if the sender knows only the hashes of blocks, else 1.
    pub unit: u32,
    /// Bytes in the new content.
    pub new_len: usize,
}

/// How much work a byte on the line is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// The line is as fast as the processor: 100 Mbit/s and more.
    Fast,
    /// About 10 Mbit/s.
    Usual,
    /// About 1 Mbit/s or less.
    Slow,
}

/// The zstd level for a batch of contents with so many bytes in all.
///
/// Measured on one core with batches of half of [`BATCH_TARGET`], old contents known: 5,265 files of Linux
/// (198 MB) take 691 KB and 0.2 s at level 6, 651 KB and 0.3 s at 10, 642 KB and 0.7 s at 12; with whole
/// ones 589 KB and 3.3 s at 19; 908 files of Django (19 MB) 346 KB and 0.2 s at 12, 313 KB and 1.3 s at 19.
pub fn patch_level(old_len: usize, new_len: usize, effort: Effort) -> i32 {
    // The highest levels take minutes for a large content that changed all over.
    let small = old_len.saturating_add(new_len) <= 2 * BATCH_TARGET;
    match effort {
        Effort::Fast => 6,
        Effort::Usual => 10,
        Effort::Slow if small => 19,
        Effort::Slow => 12,
    }
}

/// How many bytes of the new content a patch would copy from the old one.
pub fn copied(old: &[u8], new: &[u8]) -> usize {
    copies(old, new).iter().map(|copy| copy.len).sum()
}

/// A patch that makes `new` of `old`. `level` is zstd's, 1 to 22; see [`patch_level`].
///
/// # Errors
///
/// As [`patch_all`].
pub fn patch(old: &[u8], new: &[u8], level: i32) -> Result<Vec<u8>, DeltaError> {
    patch_all(&[Change { old: Base::Content(old), new }], level)
}

/// Makes the new content of `new_len` bytes from the `old` one.
///
/// # Errors
///
/// As [`apply_all`].
pub fn apply_patch(old: &[u8], patch: &[u8], new_len: usize) -> Result<Vec<u8>, DeltaError> {
    Ok(apply_all(&[Target { old, unit: 1, new_len }], patch)?.pop().unwrap_or_default())
}

/// One patch for a batch of `changes`. Memory: as much as all of them have bytes, and what zstd takes.
///
/// # Errors
///
/// [`DeltaError::PatchSize`] above [`PATCH_MAX`], [`DeltaError::Compress`].
pub fn patch_all(changes: &[Change<'_>], level: i32) -> Result<Vec<u8>, DeltaError> {
    check_size(changes.iter().map(|change| change.new.len()))?;
    check_size(changes.iter().map(|change| change.old.len()))?;
    let (mut steps, mut fresh, mut context) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        let frame = change.frame();
        let copies = change.copies();
        let mut surroundings = Surroundings::new(frame);
        for (at, step) in steps_of(frame, &copies) {
            step.write(at, frame, &mut steps);
            fresh.extend_from_slice(&change.new[at.new..at.new + step.fresh]);
            surroundings.add(at, &step);
        }
        let old = change.known(&copies);
        surroundings.parts().into_iter().for_each(|part| context.extend_from_slice(&old[part]));
    }
    let packed = shorter(&[], &steps, level)?;
    let mut patch = Vec::new();
    write_number(&mut patch, steps.len() as u64);
    write_number(&mut patch, packed.len() as u64);
    patch.extend_from_slice(&packed);
    patch.extend_from_slice(&shorter(&context, &fresh, level)?);
    Ok(patch)
}

/// Makes the new contents of a batch, in order.
///
/// Memory: as much as all old and all new contents have, and half of that; whatever the patch says.
///
/// # Errors
///
/// [`DeltaError::PatchSize`] above [`PATCH_MAX`]. [`DeltaError::Patch`], [`DeltaError::Decompress`] or
/// [`DeltaError::FreshLength`] if the patch is damaged or was made for other contents, as far as that can
/// be seen: the caller compares the hashes.
pub fn apply_all(targets: &[Target<'_>], patch: &[u8]) -> Result<Vec<Vec<u8>>, DeltaError> {
    check_size(targets.iter().map(|target| target.new_len))?;
    check_size(targets.iter().map(|target| target.old.len()))?;
    let mut patch = patch;
    let steps_len = read_number(&mut patch)?;
    let packed_len = read_number(&mut patch)?;
    if steps_len > most_bytes_of_steps(targets) {
        return Err(DeltaError::Patch("it has more steps than its contents can need"));
    }
    let packed = usize::try_from(packed_len).ok().and_then(|len| patch.split_at_checked(len));
    let (packed, rest) = packed.ok_or(DeltaError::Patch("it ends early"))?;
    let steps = expand(&[], packed, steps_len as usize)?;
    let (context, fresh_len) = survey(targets, &steps)?;
    let fresh = expand(&context, rest, fresh_len)?;
    rebuild(targets, &steps, &fresh)
}

impl Change<'_> {
    fn frame(&self) -> Frame {
        let unit = match self.old {
            Base::Content(_) => 1,
            Base::Blocks(found) => found.unit(),
        };
        Frame { old_len: self.old.len(), new_len: self.new.len(), unit }
    }

    fn copies(&self) -> Cow<'_, [Copy]> {
        match self.old {
            Base::Content(old) => Cow::Owned(copies(old, self.new)),
            Base::Blocks(found) => Cow::Borrowed(found.copies()),
        }
    }

    /// The old content as far as the sender knows it; anything elsewhere.
    fn known(&self, copies: &[Copy]) -> Cow<'_, [u8]> {
        match self.old {
            Base::Content(old) => Cow::Borrowed(old),
            Base::Blocks(_) => {
                let mut old = vec![0; self.old.len()];
                for copy in copies {
                    let bytes = &self.new[copy.new..copy.new + copy.len];
                    old[copy.old..copy.old + copy.len].copy_from_slice(bytes);
                }
                Cow::Owned(old)
            }
        }
    }
}

impl Base<'_> {
    fn len(&self) -> usize {
        match self {
            Base::Content(old) => old.len(),
            Base::Blocks(found) => found.old_len(),
        }
    }
}

impl Target<'_> {
    fn frame(&self) -> Frame {
        Frame { old_len: self.old.len(), new_len: self.new_len, unit: self.unit.max(1) as usize }
    }
}

fn check_size(lengths: impl Iterator<Item = usize>) -> Result<(), DeltaError> {
    let sum = lengths.fold(0, usize::saturating_add);
    if sum <= PATCH_MAX { Ok(()) } else { Err(DeltaError::PatchSize(sum)) }
}

/// A first pass over the steps: checks them, and gathers context and length of the fresh bytes.
fn survey(targets: &[Target<'_>], mut steps: &[u8]) -> Result<(Vec<u8>, usize), DeltaError> {
    let (mut context, mut fresh_len) = (Vec::new(), 0);
    for target in targets {
        let mut surroundings = Surroundings::new(target.frame());
        let mut at = Position::default();
        while at.new < target.new_len {
            let step = Step::read(at, target.frame(), &mut steps)?;
            fresh_len += step.fresh;
            surroundings.add(at, &step);
            at = step.end(at);
        }
        let parts = surroundings.parts();
        parts.into_iter().for_each(|part| context.extend_from_slice(&target.old[part]));
    }
    match steps {
        [] => Ok((context, fresh_len)),
        _ => Err(DeltaError::Patch("it goes on after its last content")),
    }
}

fn rebuild(
    targets: &[Target<'_>],
    mut steps: &[u8],
    mut fresh: &[u8],
) -> Result<Vec<Vec<u8>>, DeltaError> {
    let mut contents = Vec::with_capacity(targets.len());
    for target in targets {
        let mut new = Vec::with_capacity(target.new_len);
        let mut at = Position::default();
        while at.new < target.new_len {
            let step = Step::read(at, target.frame(), &mut steps)?;
            let (now, later) = fresh.split_at(step.fresh);
            new.extend_from_slice(now);
            fresh = later;
            if let Some(copy) = step.copy {
                new.extend_from_slice(&target.old[copy.old..copy.old + copy.len]);
            }
            at = step.end(at);
        }
        contents.push(new);
    }
    Ok(contents)
}

/// Bytes that the steps of an honest patch never exceed: a copy has at least 32 bytes, and its three
/// numbers are small where there are so many.
fn most_bytes_of_steps(targets: &[Target<'_>]) -> u64 {
    targets.iter().map(|target| (target.new_len / 4) as u64 + 32).sum()
}

/// `content` compressed, or itself if that is shorter.
fn shorter(prefix: &[u8], content: &[u8], level: i32) -> Result<Vec<u8>, DeltaError> {
    let coded = frame::compress_bare(prefix, content, level)?;
    Ok(if coded.len() < content.len() { coded } else { content.to_vec() })
}

/// The inverse of [`shorter`]: what has its full length was not compressed.
fn expand(prefix: &[u8], data: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    if data.len() == len { Ok(data.to_vec()) } else { frame::decompress_bare(prefix, data, len) }
}
