//! New contents against old ones of which both sides hold every byte.
//!
//! The copies are exact ([`align`](super::align)), so nothing can be rebuilt wrongly. What lies between
//! them is compressed by zstd, for all contents of a batch in one frame, because an edit made in one file
//! is often made in others, too. Its prefix is what stands around the edits in the old contents. It
//! follows from the copies, as do the lengths of everything.
//!
//! Only edits and their surroundings are given to zstd: so the highest levels take less time than
//! compressing whole files against whole files does at a low level, and give fewer bytes.

use super::align::{Copy, MIN_COPY, copies};
use super::number::{read_number, unzigzag, write_number, zigzag};
use super::{DeltaError, frame};

/// Most bytes of new contents in a patch, and most of old ones. Both sides hold them in memory.
pub const PATCH_MAX: usize = 8 << 20;

/// Bytes of old and new contents that a batch should have at most, unless it is a single content. Larger
/// batches gain nothing, as measured on releases of Django and Linux.
pub const BATCH_TARGET: usize = 8 << 20;

/// Bytes of the old content that serve as context on either side of where a copy begins or ends. What an
/// edit removed serves as well.
const EDGE: usize = 1024;

/// One old content and the new one that is to be made of it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What the receiver holds; empty if there is nothing like the new content.
    pub old: &'a [u8],
    /// What it shall hold.
    pub new: &'a [u8],
}

/// One old content, and how long the new one is that a patch makes of it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The same bytes as in the sender's [`Change`].
    pub old: &'a [u8],
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
pub fn patch_level(old_len: usize, new_len: usize, effort: Effort) -> i32 {
    // Edits are a fraction of the bytes; the levels from 16 on take some 5 seconds for each GB of both.
    let small = old_len.saturating_add(new_len) <= 2 * BATCH_TARGET;
    match effort {
        Effort::Fast => 6,
        Effort::Usual => 12,
        Effort::Slow if small => 19,
        Effort::Slow => 16,
    }
}

/// A patch that makes `new` of `old`. `level` is zstd's, 1 to 22; see [`patch_level`].
///
/// # Errors
///
/// As [`patch_all`].
pub fn patch(old: &[u8], new: &[u8], level: i32) -> Result<Vec<u8>, DeltaError> {
    patch_all(&[Change { old, new }], level)
}

/// Makes the new content of `new_len` bytes from the `old` one.
///
/// # Errors
///
/// As [`apply_all`].
pub fn apply_patch(old: &[u8], patch: &[u8], new_len: usize) -> Result<Vec<u8>, DeltaError> {
    Ok(apply_all(&[Target { old, new_len }], patch)?.pop().unwrap_or_default())
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
        let mut surroundings = Surroundings::default();
        let mut at = Position::default();
        for copy in copies(change.old, change.new) {
            let step = Step { fresh: copy.new - at.new, copy: Some(copy) };
            step.write(at, change.old.len(), change.new.len(), &mut steps);
            fresh.extend_from_slice(&change.new[at.new..copy.new]);
            surroundings.add(at, &step, change.old.len());
            at = Position { old: copy.old + copy.len, new: copy.new + copy.len };
        }
        if at.new < change.new.len() {
            let step = Step { fresh: change.new.len() - at.new, copy: None };
            step.write(at, change.old.len(), change.new.len(), &mut steps);
            fresh.extend_from_slice(&change.new[at.new..]);
            surroundings.add(at, &step, change.old.len());
        }
        surroundings.gather(change.old, &mut context);
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
/// Memory: as much as all old and all new contents have, and an eighth of that; whatever the patch says.
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

fn check_size(lengths: impl Iterator<Item = usize>) -> Result<(), DeltaError> {
    let sum = lengths.fold(0, usize::saturating_add);
    if sum <= PATCH_MAX { Ok(()) } else { Err(DeltaError::PatchSize(sum)) }
}

/// A first pass over the steps: checks them, and gathers context and length of the fresh bytes.
fn survey(targets: &[Target<'_>], mut steps: &[u8]) -> Result<(Vec<u8>, usize), DeltaError> {
    let (mut context, mut fresh_len) = (Vec::new(), 0);
    for target in targets {
        let mut surroundings = Surroundings::default();
        let mut at = Position::default();
        while at.new < target.new_len {
            let step = Step::read(at, target, &mut steps)?;
            fresh_len += step.fresh;
            surroundings.add(at, &step, target.old.len());
            at = step.end(at);
        }
        surroundings.gather(target.old, &mut context);
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
            let step = Step::read(at, target, &mut steps)?;
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

/// How far both contents have been gone through.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    old: usize,
    new: usize,
}

/// Fresh bytes, and then a copy, unless the content ends with the fresh bytes.
#[derive(Debug)]
struct Step {
    fresh: usize,
    copy: Option<Copy>,
}

impl Step {
    /// Three numbers: fresh bytes, bytes copied (0: the whole rest, from the end of the old content), and
    /// how far the copy begins from where the last one ended (zigzag; absent for the rest).
    fn write(&self, at: Position, old_len: usize, new_len: usize, out: &mut Vec<u8>) {
        write_number(out, self.fresh as u64);
        let Some(copy) = self.copy else { return };
        if copy.new + copy.len == new_len && copy.old + copy.len == old_len {
            write_number(out, 0);
        } else {
            write_number(out, copy.len as u64);
            let skipped = copy.old as i64 - at.old as i64;
            write_number(out, zigzag(skipped));
        }
    }

    /// Reads a step that stays within both contents and brings the new one forward.
    fn read(at: Position, target: &Target<'_>, steps: &mut &[u8]) -> Result<Self, DeltaError> {
        let room = (target.new_len - at.new) as u64;
        let fresh = read_number(steps)?;
        let room =
            room.checked_sub(fresh).ok_or(DeltaError::Patch("a content becomes too long"))?;
        let fresh = fresh as usize;
        if room == 0 {
            return Ok(Self { fresh, copy: None });
        }
        let old_len = target.old.len() as u64;
        let len = read_number(steps)?;
        let (old, len) = if len == 0 {
            (old_len.checked_sub(room), room)
        } else {
            let skipped = unzigzag(read_number(steps)?);
            (u64::checked_add_signed(at.old as u64, skipped), len)
        };
        if len > room {
            return Err(DeltaError::Patch("a content becomes too long"));
        }
        let old = old.filter(|old| old.checked_add(len).is_some_and(|end| end <= old_len));
        let old = old.ok_or(DeltaError::Patch("it copies what the old content does not have"))?;
        let copy = Copy { old: old as usize, new: at.new + fresh, len: len as usize };
        Ok(Self { fresh, copy: Some(copy) })
    }

    fn end(&self, at: Position) -> Position {
        match self.copy {
            Some(copy) => Position { old: copy.old + copy.len, new: copy.new + copy.len },
            None => Position { old: at.old, new: at.new + self.fresh },
        }
    }
}

/// The parts of an old content that serve as context.
#[derive(Debug, Default)]
struct Surroundings {
    ranges: Vec<(usize, usize)>,
}

impl Surroundings {
    /// Adds what stands around the fresh bytes of a `step`, if it has any: [`EDGE`] bytes on both sides of
    /// where the last copy ended and of where the next begins, and everything between the two.
    fn add(&mut self, at: Position, step: &Step, old_len: usize) {
        if step.fresh == 0 {
            return;
        }
        let next = step.copy.map_or(old_len, |copy| copy.old);
        for place in [at.old, next] {
            self.ranges.push((place.saturating_sub(EDGE), old_len.min(place + EDGE)));
        }
        if at.old < next {
            self.ranges.push((at.old, next));
        }
    }

    /// Appends the parts in the order of the old content, each byte once.
    fn gather(mut self, old: &[u8], context: &mut Vec<u8>) {
        self.ranges.sort_unstable();
        let mut done = 0;
        for (start, end) in self.ranges {
            let start = start.max(done);
            if start < end {
                context.extend_from_slice(&old[start..end]);
                done = end;
            }
        }
    }
}

/// Bytes that the steps of an honest patch never exceed: a copy has at least [`MIN_COPY`] bytes, and
/// three numbers have twelve as long as contents stay below 256 MiB.
fn most_bytes_of_steps(targets: &[Target<'_>]) -> u64 {
    targets.iter().map(|target| (target.new_len / (MIN_COPY / 12)) as u64 + 32).sum()
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
