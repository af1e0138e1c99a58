//! Patches that are made ahead. Once its tree is scanned the initiator knows which files have
//! changed, and what the responder had of them when the two last met: while rows are written,
//! stated and answered it makes the patches that the plan will most likely need.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::vec::IntoIter;

use psync_protocol::message::{PATCHES_MAX, Patched};
use psync_protocol::{Content, ContentHash};

use super::Item;
use super::patches::{self, BATCH, Job, Known, Made};
use crate::delta::Effort;
use crate::manifest::Stored;
use crate::root::Root;
use crate::store::{OldContent, Reader};

/// Bytes of changed files below which it would save no time worth speaking of.
const WORTH: u64 = 1 << 20;
/// Bytes of patches that lie ready before one is taken, and a batch more at most: the other end may
/// answer late, and a line on which so many are not on their way for minutes is faster than patches
/// are made.
const AHEAD: usize = 64 << 20;

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
    /// Bytes of patches that may lie ready.
    ahead: usize,
    state: Mutex<State>,
    /// Something was made, or taken.
    changed: Condvar,
}

struct State {
    waiting: Peekable<IntoIter<Item>>,
    /// Batches that were begun.
    begun: usize,
    /// Batches that are ready, by number.
    ready: HashMap<usize, Batch>,
    /// Bytes of their patches.
    held: usize,
}

/// A batch that was made ahead, without old contents: who has to read one again finds it where it was.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The files that the patch makes, in order.
    pub(super) items: Vec<(Patched, Item)>,
    /// The patch; none where some file cannot be read, or all go in another way.
    pub(super) patch: Option<Vec<u8>>,
    /// Files that go piece by piece: their patch would not fit a message.
    pub(super) too_long: Vec<Item>,
    /// Files of which nothing is gained by a patch.
    pub(super) whole: Vec<Item>,
}

impl Batch {
    fn of(made: Made) -> Batch {
        let Made { items, patch, too_long, whole, troubles } = made;
        let patch = patch.filter(|_| troubles.is_empty());
        let too_long = too_long.into_iter().map(|job| job.item).collect();
        Batch { items, patch, too_long, whole }
    }

    fn bytes(&self) -> usize {
        self.patch.as_ref().map_or(0, Vec::len)
    }
}

/// A batch that somebody works on. Whatever happens to it, nobody waits for it in vain.
struct Begun<'a> {
    shop: &'a Shop,
    number: usize,
    made: Batch,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        let mut state = self.shop.lock();
        state.held += made.bytes();
        state.ready.insert(self.number, made);
        self.shop.changed.notify_all();
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
        Forge::start_within(AHEAD, root, store, effort, edited)
    }

    fn start_within(
        ahead: usize,
        root: &Root,
        store: Reader,
        effort: Effort,
        edited: Vec<Stored>,
    ) -> Option<Forge> {
        let root = root.try_clone().ok()?;
        let item = |stored: Stored| Item::of(u64::MAX, stored.row.path.clone(), stored);
        let items: Vec<Item> = edited.into_iter().filter_map(item).collect();
        let waiting = items.into_iter().peekable();
        let state = State { waiting, begun: 0, ready: HashMap::new(), held: 0 };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shop = Arc::new(Shop { root, store, effort, ahead, state, changed });
        let own = shop.clone();
        let work = move || while own.has_room() && own.make_one() {};
        let thread = thread::Builder::new().name("patches".into()).spawn(work).ok()?;
        Some(Forge { shop, thread: Some(thread), next: 0 })
    }

    /// Whether nobody has to wait for the next batch.
    pub(super) fn is_ready(&self) -> bool {
        let mut state = self.shop.lock();
        let is_all = state.waiting.peek().is_none() && self.next >= state.begun;
        is_all || state.ready.contains_key(&self.next)
    }

    /// The next batch of patches, in the order of the rows; none when that was all. Whoever has to
    /// wait for it lends a hand.
    pub(super) fn next(&mut self) -> Option<Batch> {
        loop {
            let mut state = self.shop.lock();
            if let Some(made) = state.ready.remove(&self.next) {
                self.next += 1;
                state.held -= made.bytes();
                self.shop.changed.notify_all();
                return Some(made);
            }
            let all_begun = state.waiting.peek().is_none();
            if all_begun && self.next >= state.begun {
                return None;
            }
            if all_begun {
                drop(self.shop.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
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
        self.shop.changed.notify_all();
        // What it has made is of no use any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shop {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more may lie ready; false if there is none left to be made.
    fn has_room(&self) -> bool {
        let is_full =
            |state: &mut State| state.held >= self.ahead && state.waiting.peek().is_some();
        let state = self.changed.wait_while(self.lock(), is_full);
        state.unwrap_or_else(PoisonError::into_inner).waiting.peek().is_some()
    }

    /// Makes one batch; false if there is none left.
    fn make_one(&self) -> bool {
        let Some((number, batch)) = self.take() else { return false };
        let mut begun = Begun { shop: self, number, made: Batch::default() };
        let job = |(item, mut old): (Item, OldContent)| {
            Some(Job { item, old: Known::Content(old.read_all().ok()?) })
        };
        let jobs = batch.into_iter().filter_map(job).collect();
        begun.made = Batch::of(patches::make_batch(&self.root, jobs, self.effort));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use psync_protocol::RelPath;

    use super::*;
    use crate::root::stat_of;
    use crate::store::{Rules, Store};

    fn noise(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Files whose old contents a store holds; of each the first bytes are new.
    struct Edited {
        folder: PathBuf,
        store: Store,
        rows: Vec<Stored>,
    }

    impl Edited {
        fn new(name: &str, files: u64, size: usize, fresh: usize) -> Edited {
            let folder = std::env::temp_dir().join(format!("psync-{name}-{}", std::process::id()));
            fs::create_dir_all(folder.join("root")).unwrap();
            let rules = Rules { budget: 1 << 30, largest_file: 1 << 30 };
            let (mut store, _) = Store::open(&folder.join("store"), rules).unwrap();
            let rows = (0..files).map(|at| {
                let mut content = noise(at, size);
                let base = ContentHash::of_bytes(&content);
                store.keep(&base, size as u64, &mut &content[..]).unwrap();
                content[..fresh].copy_from_slice(&noise(files + at, fresh));
                let path = folder.join(format!("root/{at:04}"));
                fs::write(&path, &content).unwrap();
                let path = RelPath::new(format!("{at:04}").as_bytes()).unwrap();
                let mut stored = Stored::absent(path);
                let hash = ContentHash::of_bytes(&content);
                stored.row.content = Content::File { size: size as u64, hash };
                stored.row.base = Some(base);
                let open = fs::File::open(folder.join(format!("root/{at:04}"))).unwrap();
                stored.row.props.mtime = stat_of(&open).unwrap().mtime;
                stored
            });
            let rows = rows.collect();
            Edited { folder, store, rows }
        }

        fn forge(&self, ahead: usize) -> Forge {
            let root = Root::open(&self.folder.join("root")).unwrap();
            let (reader, rows) = (self.store.reader(), self.rows.clone());
            Forge::start_within(ahead, &root, reader, Effort::Fast, rows).unwrap()
        }
    }

    impl Drop for Edited {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// Waits until the forge does no more by itself; bytes that lie ready then.
    fn settled(forge: &Forge) -> usize {
        let mut before = None;
        loop {
            let held = {
                let state = forge.shop.lock();
                (state.ready.len() == state.begun).then_some((state.begun, state.held))
            };
            if let (Some((_, bytes)), true) = (held, held == before) {
                return bytes;
            }
            before = held;
            thread::sleep(Duration::from_millis(500));
        }
    }

    #[test]
    fn no_more_is_made_ahead_than_may_lie_ready_and_the_rest_when_it_is_asked_for() {
        let edited = Edited::new("ahead", 32, 1 << 20, 256 << 10);
        let mut forge = edited.forge(1 << 20);
        let held = settled(&forge);
        assert!((1 << 20..=2 << 20).contains(&held), "{held}");
        let mut files = 0;
        while let Some(batch) = forge.next() {
            files += batch.items.len() + batch.too_long.len();
        }
        assert_eq!((files, forge.shop.lock().held), (32, 0));
        // One that nobody asks any more ends.
        drop(edited.forge(0));
    }

    #[test]
    fn of_files_whose_patch_is_too_long_only_the_names_lie_ready() {
        let edited = Edited::new("too-long", 3, 3 << 20, 3 << 19);
        let mut forge = edited.forge(1 << 20);
        assert_eq!(settled(&forge), 0);
        let batches: Vec<Batch> = std::iter::from_fn(|| forge.next()).collect();
        assert_eq!(batches.iter().map(|batch| batch.too_long.len()).sum::<usize>(), 3);
    }
}
