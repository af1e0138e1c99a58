//! Patches: short files against their old contents, coded in batches by several threads.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use psync_protocol::Check;
use psync_protocol::message::{Base, PATCH_BYTES, PATCHES_MAX, Patched};

use super::{Item, Trouble, whole};
use crate::delta::{self, BATCH_TARGET, Change, Effort, Found, Matcher, PATCH_MAX, Signature};
use crate::root::Root;

/// Batches that are made at a time: so many are in memory, and the line waits for no more.
const BATCHES: usize = 2;
/// Bytes of old and new contents in a batch: half of what compresses best, so that the first is
/// under way sooner.
pub(super) const BATCH: usize = BATCH_TARGET / 2;
/// The same of the first batches while the line has nothing to do: it gets something after half the time, for a
/// hundredth more bytes in these.
pub(super) const FIRST_BATCH: usize = BATCH / 2;
/// Bytes of old and new contents that take a tenth of a second and more to code at the highest levels.
const LONG: usize = 1 << 20;
/// Most threads.
const THREADS: usize = 4;
/// So many files wait for each other at most: block hashes take 32 KiB of memory and more, however short
/// the file is.
const WAITING_MAX: usize = 2048;

/// A file to be coded, and what is known of its old content.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) item: Item,
    pub(super) old: Known,
}

/// An old content, or what is known of it.
#[derive(Debug)]
pub(super) enum Known {
    Content(Vec<u8>),
    /// Not the one that the row builds on, but another, with its check under this end's key.
    Other(Vec<u8>, Check),
    /// The hashes of its blocks.
    Blocks(Box<Blocks>),
    /// Blocks of it that were found in the new content.
    Found(Box<Found>),
}

/// The hashes of an old content's blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) block_len: u32,
    pub(super) len: u64,
    pub(super) signature: Signature,
    /// Whether they are of the content that the new one builds on, which both ends know; else the peer has
    /// sent them.
    pub(super) of_base: bool,
}

impl Known {
    fn len(&self) -> usize {
        match self {
            Known::Content(old) | Known::Other(old, _) => old.len(),
            Known::Blocks(blocks) => blocks.len as usize,
            Known::Found(found) => found.old_len(),
        }
    }

    /// As a patch takes it.
    fn base<'a>(&'a self, found: Option<&'a Found>) -> delta::Base<'a> {
        match (self, found) {
            (Known::Content(old) | Known::Other(old, _), _) => delta::Base::Content(old),
            (Known::Found(found), _) => delta::Base::Blocks(found),
            (Known::Blocks(_), Some(found)) => delta::Base::Blocks(found),
            (Known::Blocks(_), None) => delta::Base::Content(&[]),
        }
    }

    /// What is found of it in the new content, if that has to be searched.
    fn find_in(&self, new: &[u8]) -> Option<Found> {
        let Known::Blocks(blocks) = self else { return None };
        let mut matcher = Matcher::new(&blocks.signature);
        matcher.push(new);
        Some(matcher.finish())
    }
}

impl Job {
    fn bytes(&self) -> usize {
        self.old.len() + self.item.size as usize
    }

    /// As a content of a patch.
    fn patched(&self) -> Patched {
        let base = match &self.old {
            Known::Content(_) => Base::Own,
            Known::Other(_, check) => Base::Other(*check),
            Known::Blocks(blocks) => Base::Blocks(blocks.block_len),
            Known::Found(found) => Base::Blocks(found.unit() as u32),
        };
        Patched { index: self.item.index, base }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The files that the patch makes, in order, without those that cannot be read.
    pub(super) items: Vec<(Patched, Item)>,
    /// The patch; none where no files are left, or they have to be sent in another way.
    pub(super) patch: Option<Vec<u8>>,
    /// The files of a patch that does not fit a message.
    pub(super) too_long: Vec<Job>,
    /// The files of which nothing is gained by a patch.
    pub(super) whole: Vec<Item>,
    /// The others.
    pub(super) troubles: Vec<(Item, Trouble)>,
}

/// Whether both fit a patch.
pub(super) fn fits(old_len: u64, new_len: u64) -> bool {
    old_len <= PATCH_MAX as u64 && new_len <= PATCH_MAX as u64
}

/// Whether there are enough jobs for several threads, with batches of so many bytes, or more than should wait
/// in memory.
pub(super) fn are_many(jobs: &[Job], batch: usize) -> bool {
    jobs.len() >= WAITING_MAX || bytes(jobs) >= BATCHES * batch
}

/// Whether the line might run out of what it has to carry while these are coded.
pub(super) fn take_long(jobs: &[Job]) -> bool {
    bytes(jobs) >= LONG
}

fn bytes(jobs: &[Job]) -> usize {
    jobs.iter().map(Job::bytes).sum()
}

/// Codes the files, in batches of so many bytes. The order stays.
pub(super) fn make(root: &Root, jobs: Vec<Job>, batch: usize, effort: Effort) -> Vec<Made> {
    let batches = batches(jobs, batch);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut coded = Vec::new();
        while let Some((at, batch)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            batches.get(at).map(|batch| (at, batch))
        } {
            coded.push((at, Coded::of(root, batch, effort)));
        }
        coded
    };
    let mut coded: Vec<Option<Coded>> = batches.iter().map(|_| None).collect();
    let done = thread::scope(|scope| {
        let others = cores.min(THREADS).min(batches.len()).saturating_sub(1);
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        // A thread that failed leaves its files to be sent whole.
        done.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
        done
    });
    done.into_iter().for_each(|(at, result)| coded[at] = Some(result));
    let results = batches.into_iter().zip(coded);
    results.map(|(batch, coded)| coded.unwrap_or_default().of_batch(batch)).collect()
}

/// Codes the files of one batch.
pub(super) fn make_batch(root: &Root, batch: Vec<Job>, effort: Effort) -> Made {
    Coded::of(root, &batch, effort).of_batch(batch)
}

fn batches(jobs: Vec<Job>, most: usize) -> Vec<Vec<Job>> {
    let mut batches: Vec<Vec<Job>> = Vec::new();
    let (mut old, mut new) = (0, 0);
    for job in jobs {
        old += job.old.len();
        new += job.item.size as usize;
        match batches.last_mut() {
            Some(batch) if old + new <= most && batch.len() < PATCHES_MAX => batch.push(job),
            _ => {
                (old, new) = (job.old.len(), job.item.size as usize);
                batches.push(vec![job]);
            }
        }
    }
    batches
}

/// A batch at work.
#[derive(Default)]
struct Coded {
    /// What a patch is, unless there is not the memory for the compressor, or nothing is gained.
    patch: Option<Vec<u8>>,
    /// By place in the batch.
    troubles: Vec<(usize, Trouble)>,
}

impl Coded {
    fn of(root: &Root, batch: &[Job], effort: Effort) -> Coded {
        let mut news = Vec::with_capacity(batch.len());
        let mut troubles = Vec::new();
        for (at, job) in batch.iter().enumerate() {
            match whole::read_all(root, &job.item) {
                Ok(new) => news.push((at, job.old.find_in(&new), new)),
                Err(trouble) => troubles.push((at, trouble)),
            }
        }
        let changes = news
            .iter()
            .map(|(at, found, new)| Change { old: batch[*at].old.base(found.as_ref()), new });
        let changes: Vec<Change<'_>> = changes.collect();
        let old_len = news.iter().map(|(at, ..)| batch[*at].old.len()).sum();
        let new_len = news.iter().map(|(.., new)| new.len()).sum();
        let level = delta::patch_level(old_len, new_len, effort);
        let patch = match delta::patch_all(&changes, level) {
            Ok(patch) if patch.len() < new_len => Some(patch),
            Ok(_) | Err(_) => None,
        };
        Coded { patch, troubles }
    }

    fn of_batch(self, batch: Vec<Job>) -> Made {
        let Coded { patch, troubles } = self;
        let gains = patch.is_some();
        let patch = patch.filter(|patch| patch.len() <= PATCH_BYTES);
        let mut troubles = troubles.into_iter().peekable();
        let mut made = Made { patch, ..Made::default() };
        for (at, job) in batch.into_iter().enumerate() {
            match troubles.next_if(|(place, _)| *place == at) {
                Some((_, trouble)) => made.troubles.push((job.item, trouble)),
                None if made.patch.is_some() => made.items.push((job.patched(), job.item)),
                None if gains => made.too_long.push(job),
                None => made.whole.push(job.item),
            }
        }
        made
    }
}
