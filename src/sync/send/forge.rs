//! Patches that are made ahead. Once its tree is scanned the initiator knows which files have
//! changed, and what the responder had of them when the two last met: while rows are written,
//! stated and answered it makes the patches that the plan will most likely need.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::vec::IntoIter;

use psync_protocol::message::PATCHES_MAX;
use psync_protocol::{Content, ContentHash};

use super::Item;
use super::patches::{self, BATCH, Job, Known, Made};
use crate::delta::Effort;
use crate::manifest::Stored;
use crate::root::Root;
use crate::store::{OldContent, Reader};

/// Bytes of changed files below which it would save no time worth speaking of.
const WORTH: u64 = 1 << 20;

/// Patches in the making, by a thread of its own.
pub(in crate::sync) struct Forge {
    shop: Arc<Shop>,
    thread: Option<JoinHandle<()>>,
    /// The batch that is handed out next.
    next: usize,
}

struct Shop {
    root: Root,
    store: Reader,
    effort: Effort,
    state: Mutex<State>,
    made: Condvar,
}

struct State {
    waiting: Peekable<IntoIter<Item>>,
    /// Batches that were begun.
    begun: usize,
    /// Batches that are ready, by number.
    ready: HashMap<usize, Made>,
}

/// A batch that somebody works on. Whatever happens to it, nobody waits for it in vain.
struct Begun<'a> {
    shop: &'a Shop,
    number: usize,
    made: Made,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.shop.lock().ready.insert(self.number, std::mem::take(&mut self.made));
        self.shop.made.notify_all();
    }
}

/// Whether a row is of a file that was edited after a peer had it.
fn is_edited(stored: &Stored) -> bool {
    matches!(stored.row.content, Content::File { size: 1.., .. })
        && stored.row.base.is_some()
        && !stored.shared
}

impl Forge {
    /// Which of these rows are of files whose patches would be made; none if that is not worth it.
    pub(in crate::sync) fn candidates<'r>(
        rows: impl Iterator<Item = &'r Stored>,
    ) -> Option<Vec<Stored>> {
        let edited: Vec<Stored> = rows.filter(|row| is_edited(row)).cloned().collect();
        let size = |stored: &Stored| match stored.row.content {
            Content::File { size, .. } => size,
            Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => 0,
        };
        (edited.iter().map(size).sum::<u64>() >= WORTH).then_some(edited)
    }

    /// Starts to make the patches of these files, which stand in `root`, against what the store
    /// has of them. None where the system refuses.
    pub(in crate::sync) fn start(
        root: &Root,
        store: Reader,
        effort: Effort,
        edited: Vec<Stored>,
    ) -> Option<Forge> {
        let root = root.try_clone().ok()?;
        let item = |stored: Stored| Item::of(u64::MAX, stored.row.path.clone(), stored);
        let items: Vec<Item> = edited.into_iter().filter_map(item).collect();
        let state =
            State { waiting: items.into_iter().peekable(), begun: 0, ready: HashMap::new() };
        let (state, made) = (Mutex::new(state), Condvar::new());
        let shop = Arc::new(Shop { root, store, effort, state, made });
        let own = shop.clone();
        let work = move || while own.make_one() {};
        let thread = thread::Builder::new().name("patches".into()).spawn(work).ok()?;
        Some(Forge { shop, thread: Some(thread), next: 0 })
    }

    /// The next batch of patches, in the order of the rows; none when that was all. Whoever has to
    /// wait for it lends a hand.
    pub(super) fn next(&mut self) -> Option<Made> {
        loop {
            let mut state = self.shop.lock();
            if let Some(made) = state.ready.remove(&self.next) {
                self.next += 1;
                return Some(made);
            }
            let all_begun = state.waiting.peek().is_none();
            if all_begun && self.next >= state.begun {
                return None;
            }
            if all_begun {
                drop(self.shop.made.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(state);
                self.shop.make_one();
            }
        }
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.shop.lock().waiting = Vec::new().into_iter().peekable();
        // What it has made is of no use any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shop {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one batch; false if there is none left.
    fn make_one(&self) -> bool {
        let Some((number, batch)) = self.take() else { return false };
        let mut begun = Begun { shop: self, number, made: Made::default() };
        let job = |(item, mut old): (Item, OldContent)| {
            Some(Job { item, old: Known::Content(old.read_all().ok()?) })
        };
        let jobs = batch.into_iter().filter_map(job).collect();
        begun.made = patches::make_batch(&self.root, jobs, self.effort);
        true
    }

    /// The files of the next batch, with their old contents.
    fn take(&self) -> Option<(usize, Vec<(Item, OldContent)>)> {
        let mut state = self.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(item) = state.waiting.peek() {
            let old = item.stored.row.base.as_ref().and_then(|base| self.old(base, item.size));
            let Some(old) = old else {
                state.waiting.next();
                continue;
            };
            let size = (old.len() + item.size) as usize;
            if !batch.is_empty() && (bytes + size > BATCH || batch.len() >= PATCHES_MAX) {
                break;
            }
            bytes += size;
            batch.extend(state.waiting.next().map(|item| (item, old)));
        }
        if batch.is_empty() {
            return None;
        }
        let number = state.begun;
        state.begun += 1;
        Some((number, batch))
    }

    fn old(&self, base: &ContentHash, new_len: u64) -> Option<OldContent> {
        let old = self.store.find(base).ok().flatten()?;
        patches::fits(old.len(), new_len).then_some(old)
    }
}
