//! Contents that go into the store while the session goes on: an end often waits, for the line, for the
//! other end, or for its disk, and what is agreed already has to go there anyway.
//!
//! Where nobody needs the store in the session a thread has it meanwhile, and puts into it what both ends
//! have, and what comes. Where old contents are read from it, what this end has sent is packed only, and
//! put there afterwards. And where the store is not used block hashes go into the cache like that.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::Seek;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use psync_protocol::{ContentHash, RelPath};

use super::read::{Blocks, FileReader, Found, PACK_MAX, blocks_of, is_sketched};
use crate::apply::{Allowance, Come, Hold, InMemory};
use crate::delta::Sketch;
use crate::index::{Cache, Digests, Remembered, SharedFile};
use crate::root::{Root, StageReader, Staging};
use crate::store::{Chunks, Kept, Packed, Packer, Store, StoreError};

/// Bytes of packed contents that are held until they are put into the store.
const HELD_MAX: u64 = 64 << 20;
/// Bytes of contents that wait for the thread packed.
const PACKED_BYTES: usize = 32 << 20;
/// Largest file that is read whole, in bytes: who ends the thread waits for it.
const LARGEST: u64 = 16 << 20;
/// Bytes and contents after which the cache is told.
const DIGEST_BYTES: usize = 8 << 20;
const DIGESTS: usize = 16 << 10;

/// A content that is ready for the store, with its sketch if it has one.
pub(super) type Ready = (Packed, Option<Sketch>);

/// Contents that are in the store, or of which the cache has the block hashes.
pub(in crate::sync) type Put = HashMap<ContentHash, Remembered>;

/// What has been done ahead.
#[derive(Debug, Default)]
pub(in crate::sync) struct Done {
    /// The store, if the thread had it and it did not fail.
    pub(in crate::sync) store: Option<Store>,
    /// What was put into it.
    pub(in crate::sync) put: Put,
    /// Whether snapshots are among that.
    pub(in crate::sync) took_snapshots: bool,
    /// What is packed for it.
    pub(super) ready: HashMap<ContentHash, Ready>,
}

/// A thread that takes files, one after the other, until it is told to end.
#[derive(Debug)]
pub(in crate::sync) struct Ahead {
    files: Files,
    thread: Option<JoinHandle<Done>>,
}

/// A file that is to be taken.
#[derive(Debug)]
pub(in crate::sync) struct Item {
    file: SharedFile,
    source: Source,
}

/// Where a content is taken from, if not from its place.
#[derive(Debug)]
enum Source {
    Tree,
    /// From the stage, if it is still there.
    Stage(OsString),
    Memory(InMemory),
    /// It is packed already.
    Packed {
        ready: Ready,
        _hold: Hold,
    },
}

impl From<SharedFile> for Item {
    fn from(file: SharedFile) -> Item {
        Item { file, source: Source::Tree }
    }
}

impl From<Come> for Item {
    fn from(Come { file, staged, memory }: Come) -> Item {
        Item { file, source: memory.map_or(Source::Stage(staged), Source::Memory) }
    }
}

/// What is made of a file for the store.
enum Made {
    Ready(Ready),
    /// It is too long to be packed in memory: the store reads it.
    Large(File, Option<Sketch>),
}

/// What files are read with.
struct Reader<'a> {
    files: FileReader<'a>,
    stage: StageReader,
    packer: Option<Packer>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// A content, packed, with its sketch. None where it cannot be had now.
    fn pack(&mut self, file: &SharedFile, source: Source) -> Option<Made> {
        let staged = match source {
            Source::Packed { ready, .. } => return Some(Made::Ready(ready)),
            Source::Memory(memory) => return self.pack_content(file, memory).map(Made::Ready),
            Source::Stage(name) => Some(name),
            Source::Tree => None,
        };
        match self.read(file, staged)? {
            (Found::Packed(packed), sketch) => Some(Made::Ready((packed, sketch))),
            (Found::Large(open), sketch) => Some(Made::Large(open, sketch)),
            (Found::Blocks(_) | Found::Gone, _) => None,
        }
    }

    /// Its block hashes and its sketch.
    fn digest(&mut self, Item { file, source }: Item) -> Option<Digests> {
        let staged = match source {
            Source::Memory(InMemory { content, .. }) => {
                let Blocks(blocks) = blocks_of(&content);
                let sketch = is_sketched(&file).then(|| Sketch::of(&content).to_bytes());
                return Some(Digests { hash: file.hash, blocks, sketch });
            }
            Source::Stage(name) => Some(name),
            Source::Tree | Source::Packed { .. } => None,
        };
        if file.size > LARGEST {
            return None;
        }
        match self.read(&file, staged)? {
            (Found::Blocks(Blocks(blocks)), sketch) => {
                Some(Digests { hash: file.hash, blocks, sketch: sketch.map(Sketch::to_bytes) })
            }
            (Found::Large(_) | Found::Packed(_) | Found::Gone, _) => None,
        }
    }

    /// What is found in a file in the stage, or else in the tree: what is in the stage no more stands in
    /// its place.
    fn read(
        &mut self,
        file: &SharedFile,
        staged: Option<OsString>,
    ) -> Option<(Found, Option<Sketch>)> {
        let opened = match staged.and_then(|name| self.stage.open(&name).ok()) {
            Some(opened) => opened,
            None => self.files.root.open_file(&file.path).ok()?,
        };
        self.files.read_opened(file, opened, self.packer.as_mut(), &mut self.buffer).ok()
    }

    /// A content in memory, which is what it should be, packed, with its sketch.
    fn pack_content(&mut self, file: &SharedFile, memory: InMemory) -> Option<Ready> {
        if file.size > self.files.largest.min(PACK_MAX) {
            return None;
        }
        let InMemory { content, packed, .. } = memory;
        let packed = match packed {
            Some(chunk) => Packed::of_chunk(file.hash, file.size, chunk),
            None => {
                let packer = self.packer.as_mut()?;
                packer.pack(file.size, &mut &content[..], Some(file.hash)).ok()?
            }
        };
        Some((packed, is_sketched(file).then(|| Sketch::of(&content))))
    }
}

/// The files that are to be taken; more may be added.
#[derive(Debug, Clone)]
pub(in crate::sync) struct Files(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    state: Mutex<State>,
    more: Condvar,
    /// What is packed already, until it is taken.
    allowance: Allowance,
    largest: u64,
    is_for_store: bool,
    /// What the store has.
    chunks: Option<Chunks>,
}

#[derive(Debug, Default)]
struct State {
    files: VecDeque<Item>,
    is_over: bool,
}

impl Files {
    fn new(largest: u64, is_for_store: bool, chunks: Option<Chunks>) -> Files {
        let (state, more) = (Mutex::default(), Condvar::new());
        let allowance = Allowance::of(PACKED_BYTES);
        Files(Arc::new(Waiting { state, more, allowance, largest, is_for_store, chunks }))
    }

    /// Those of a rehearsal: nobody takes them.
    pub(in crate::sync) fn of_nobody(largest: u64) -> Files {
        let files = Files::new(largest, true, None);
        files.end();
        files
    }

    /// Adds files, which are taken after those that are there, unless nobody takes any more.
    pub(in crate::sync) fn add<I: Into<Item>>(&self, files: impl IntoIterator<Item = I>) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        state.files.extend(files.into_iter().map(I::into));
        drop(state);
        self.0.more.notify_one();
    }

    /// Adds a file that was packed for somebody else.
    pub(in crate::sync) fn add_packed(&self, file: SharedFile, ready: Ready) {
        let hold = usize::try_from(ready.0.stored_bytes());
        let hold = hold.ok().and_then(|bytes| self.0.allowance.hold(bytes));
        // What is too much to be held is packed once more.
        self.add([match hold {
            Some(hold) => Item { file, source: Source::Packed { ready, _hold: hold } },
            None => Item::from(file),
        }]);
    }

    /// Whether they are packed for the store.
    pub(in crate::sync) fn is_for_store(&self) -> bool {
        self.0.is_for_store
    }

    /// The largest file that the store keeps a copy of, in bytes.
    pub(super) fn largest(&self) -> u64 {
        self.0.largest
    }

    /// What the store has, if that is being filled.
    pub(super) fn chunks(&self) -> Option<&Chunks> {
        self.0.chunks.as_ref()
    }

    /// Leaves out those that stand elsewhere.
    pub(in crate::sync) fn keep_if(&self, mut stays: impl FnMut(&RelPath) -> bool) {
        self.lock().files.retain(|item| stays(&item.file.path));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done here.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.files = VecDeque::new();
        drop(state);
        self.0.more.notify_one();
    }

    /// The next file, once there is one; none when all is over.
    fn next(&self) -> Option<Item> {
        let mut state = self.lock();
        loop {
            match state.files.pop_front() {
                _ if state.is_over => return None,
                None => state = self.0.more.wait(state).unwrap_or_else(PoisonError::into_inner),
                file => return file,
            }
        }
    }
}

impl Ahead {
    /// Starts to put files into the store, as far as they are no larger than the largest of which it
    /// keeps a copy, and their sketches into the cache. None where the system refuses.
    pub(in crate::sync) fn fill(
        root: &Root,
        staging: &Staging,
        store: Store,
        cache: Option<Cache>,
    ) -> Option<Ahead> {
        let (largest, chunks) = (store.rules().largest_file, store.chunks());
        let files = Files::new(largest, true, Some(chunks));
        Ahead::start(root, staging, files, move |reader, files| fill(reader, files, store, cache))
    }

    /// Starts to put block hashes and sketches of files into the cache. None where the system refuses.
    pub(in crate::sync) fn digest(root: &Root, staging: &Staging, cache: Cache) -> Option<Ahead> {
        let files = Files::new(LARGEST, false, None);
        Ahead::start(root, staging, files, move |reader, files| digest(reader, files, cache))
    }

    /// Starts to pack files for a store whose largest file this is, in bytes.
    pub(in crate::sync) fn pack(root: &Root, staging: &Staging, largest: u64) -> Option<Ahead> {
        Ahead::start(root, staging, Files::new(largest, true, None), pack)
    }

    fn start(
        root: &Root,
        staging: &Staging,
        files: Files,
        work: impl FnOnce(Reader<'_>, &Files) -> Done + Send + 'static,
    ) -> Option<Ahead> {
        let (root, stage) = (root.try_clone().ok()?, staging.reader().ok()?);
        let packs = files.is_for_store();
        let packer = if packs { Some(Packer::new().ok()?) } else { None };
        let taken = files.clone();
        let work = move || {
            let files = FileReader {
                root: &root,
                files: &[],
                next: AtomicUsize::new(0),
                packs: AtomicBool::new(packs),
                snapshots: AtomicBool::new(packs),
                largest: taken.largest(),
            };
            let done = work(Reader { files, stage, packer, buffer: Vec::new() }, &taken);
            // What comes now would only lie there.
            taken.end();
            done
        };
        let thread = thread::Builder::new().name("remember".into()).spawn(work).ok()?;
        Some(Ahead { files, thread: Some(thread) })
    }

    /// Where files are added.
    pub(in crate::sync) fn files(&self) -> Files {
        self.files.clone()
    }

    /// Ends it. What is done so far.
    pub(in crate::sync) fn finish(mut self) -> Done {
        self.files.end();
        // What a thread that failed has not done is done in the usual way.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.files.end();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Puts files into the store until it is full, or fails: then it is opened anew, and who does that sees
/// what is wrong with it.
fn fill(mut reader: Reader<'_>, files: &Files, mut store: Store, mut cache: Option<Cache>) -> Done {
    let (mut put, mut sketches) = (Put::new(), Vec::new());
    // Without a sketch no new file is found to be like this one: no reason to stop.
    let mut tell = |sketches: &[Digests]| cache.as_mut().map(|cache| cache.put(sketches));
    let any_held = !store.is_empty().unwrap_or(false);
    let (mut took_snapshots, mut large) = (false, 0);
    while let Some(Item { file, source }) = files.next() {
        let hash = file.hash;
        if put.contains_key(&hash) || any_held && store.holds(&hash).unwrap_or(false) {
            continue;
        }
        let (kept, sketch) = match reader.pack(&file, source) {
            None => continue,
            Some(Made::Ready((packed, sketch))) => (store.put(&packed), sketch),
            Some(Made::Large(open, sketch)) => {
                // Where not all fits the many small files come first.
                large += file.size;
                if file.size > LARGEST || large > store.rules().budget / 2 {
                    continue;
                }
                let kept = keep_large(&mut store, &file, open);
                took_snapshots |= kept.as_ref().is_ok_and(|(_, is_snapshot)| *is_snapshot);
                (kept.map(|(kept, _)| kept), sketch)
            }
        };
        match kept {
            Ok(Kept::Held) => {
                put.insert(hash, Remembered::InStore);
                let sketch = sketch.map(Sketch::to_bytes);
                sketches.push(Digests { hash, blocks: None, sketch });
            }
            // Of a file that is another one by now.
            Ok(Kept::Different) => {}
            Ok(Kept::NoRoom) => break,
            Err(_) => return Done::default(),
        }
        if sketches.len() >= DIGESTS {
            tell(&sketches);
            sketches.clear();
        }
    }
    tell(&sketches);
    Done { store: Some(store), put, took_snapshots, ready: HashMap::new() }
}

/// Keeps a file that is not packed in memory. Says whether the file system keeps it.
fn keep_large(
    store: &mut Store,
    file: &SharedFile,
    mut open: File,
) -> Result<(Kept, bool), StoreError> {
    if let Some(kept) = store.snapshot(&file.hash, file.size, &open)? {
        return Ok((kept, kept == Kept::Held));
    }
    open.rewind().map_err(StoreError::Unreadable)?;
    Ok((store.keep(&file.hash, file.size, &mut open)?, false))
}

/// Puts block hashes and sketches into the cache until that fails: what is left is found out afterwards.
fn digest(mut reader: Reader<'_>, files: &Files, mut cache: Cache) -> Done {
    let any_known = cache.has_any_blocks();
    let (mut put, mut digests, mut bytes) = (Put::new(), Vec::new(), 0);
    while let Some(item) = files.next() {
        let hash = item.file.hash;
        if put.contains_key(&hash) || any_known && cache.has_blocks(&hash) {
            continue;
        }
        let Some(made) = reader.digest(item) else { continue };
        bytes += made.bytes();
        digests.push(made);
        if bytes >= DIGEST_BYTES || digests.len() >= DIGESTS {
            if cache.put(&digests).is_err() {
                return Done { put, ..Done::default() };
            }
            put.extend(digests.drain(..).map(|made| (made.hash, Remembered::AsBlocks)));
            bytes = 0;
        }
    }
    if cache.put(&digests).is_ok() {
        put.extend(digests.iter().map(|made| (made.hash, Remembered::AsBlocks)));
    }
    Done { put, ..Done::default() }
}

/// Packs files. Nothing is written, so that nobody who waits for the disk meanwhile waits for this.
fn pack(mut reader: Reader<'_>, files: &Files) -> Done {
    let (mut ready, mut held) = (HashMap::new(), 0);
    while held < HELD_MAX
        && let Some(Item { file, source }) = files.next()
    {
        if let Some(Made::Ready(made)) = reader.pack(&file, source) {
            held += made.0.stored_bytes();
            ready.insert(file.hash, made);
        }
    }
    Done { ready, ..Done::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::ground::{Ground, expected};
    use super::*;
    use crate::index::Index;
    use crate::root::Stager;

    fn wait_until_taken(files: &Files) {
        let since = Instant::now();
        while !files.lock().files.is_empty() {
            assert!(since.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_both_have_and_what_comes_is_put_into_the_store_and_nothing_else() {
        let ground = Ground::new("ahead");
        let ahead =
            Ahead::fill(&ground.root, &ground.staging, ground.store(1 << 30), None).unwrap();
        let files = ahead.files();
        let here = ground.file("here", "both have this");
        let edited = ground.file("edited", "it was this once");
        std::fs::write(ground.folder.join("edited"), "it is that now...").unwrap();
        let gone = expected("gone", "nobody has this");
        files.add([here.clone(), edited.clone(), gone.clone()]);
        let stager = Stager::start(&ground.staging).unwrap();
        let staged = stager.put(&ground.staging, b"this has come".to_vec().into(), None);
        stager.wait();
        let come = expected("not-in-its-place-yet", "this has come");
        // Of one the name in the stage is gone, as it stands in its place.
        let placed = Come {
            file: ground.file("placed", "and this"),
            staged: "ffffffff".into(),
            memory: None,
        };
        let placed_hash = placed.file.hash;
        files
            .add([Come { file: come.clone(), staged: staged.name().into(), memory: None }, placed]);
        wait_until_taken(&files);
        let Done { store, put, ready, .. } = ahead.finish();
        let store = store.unwrap();
        let held = [here.hash, come.hash, placed_hash];
        assert!(held.iter().all(|hash| store.holds(hash).unwrap() && put.contains_key(hash)));
        assert!(![edited.hash, gone.hash].iter().any(|hash| store.holds(hash).unwrap()));
        assert_eq!((put.len(), ready.len()), (3, 0));
    }

    #[test]
    fn without_a_store_block_hashes_and_sketches_are_found_out() {
        let ground = Ground::new("ahead-digest");
        let state = ground.folder.join("state");
        std::fs::create_dir(&state).unwrap();
        let index = Index::open(&state, |buffer| buffer.fill(7)).unwrap().0;
        let cache = index.cache().again().unwrap();
        let ahead = Ahead::digest(&ground.root, &ground.staging, cache).unwrap();
        let files = ahead.files();
        assert!(!files.is_for_store());
        let text = |name: &str| format!("this is {name}, ").repeat(100);
        let here = ground.file("here", text("here"));
        let edited = ground.file("edited", text("edited"));
        std::fs::write(ground.folder.join("edited"), "it is that now...").unwrap();
        files.add([here.clone(), edited.clone()]);
        let come = expected("come", text("come").as_bytes());
        let memory = InMemory::of(text("come").into_bytes(), None);
        files.add([Come { file: come.clone(), staged: "ffffffff".into(), memory: Some(memory) }]);
        wait_until_taken(&files);
        let Done { store, put, .. } = ahead.finish();
        assert!(store.is_none() && put.len() == 2);
        for file in [here, come] {
            assert_eq!(put[&file.hash], Remembered::AsBlocks);
            let blocks = index.cache().blocks(&file.hash).unwrap();
            assert_eq!(blocks.len, file.size);
            let sketch = index.cache().sketch(&file.hash).unwrap();
            assert_eq!(sketch, Sketch::of(text(&file.path.to_string()).as_bytes()).to_bytes());
        }
        assert_eq!(index.cache().blocks_in_all().0, 2);
    }

    #[test]
    fn a_store_without_room_is_given_back_as_it_is() {
        let ground = Ground::new("ahead-full");
        let ahead = Ahead::fill(&ground.root, &ground.staging, ground.store(0), None).unwrap();
        ahead.files().add([ground.file("one", "some text"), ground.file("two", "more text")]);
        let since = Instant::now();
        while !ahead.thread.as_ref().unwrap().is_finished() {
            assert!(since.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
        let Done { store, put, .. } = ahead.finish();
        assert!(put.is_empty() && store.unwrap().is_empty().unwrap());
    }

    #[test]
    fn what_was_sent_is_packed_and_nothing_is_written() {
        let ground = Ground::new("ahead-packed");
        let ahead = Ahead::pack(&ground.root, &ground.staging, 1 << 20).unwrap();
        let sent = ground.file("sent", "this was sent");
        let files = ahead.files();
        files.add([sent.clone()]);
        wait_until_taken(&files);
        let Done { store, put, ready, .. } = ahead.finish();
        assert!(store.is_none() && put.is_empty());
        assert_eq!(ready[&sent.hash].0.hash, sent.hash);
    }

    #[test]
    fn what_is_in_memory_is_put_as_it_came_packed_or_else_packed() {
        let ground = Ground::new("ahead-memory");
        let ahead =
            Ahead::fill(&ground.root, &ground.staging, ground.store(1 << 30), None).unwrap();
        let content = "this has come, ".repeat(100).into_bytes();
        // Level 19 gives other bytes than the store's own level.
        let packed = zstd::bulk::compress(&content, 19).unwrap();
        let (as_it_came, plain) = (expected("a", &content), expected("b", "as it is"));
        let made = Packer::new().unwrap().pack(7, &mut &b"sent on"[..], None).unwrap();
        let sent = expected("c", "sent on");
        let files = ahead.files();
        let come = |file: &SharedFile, content: &[u8], packed| Come {
            file: file.clone(),
            staged: "ffffffff".into(),
            memory: Some(InMemory::of(content.to_vec(), packed)),
        };
        files.add([come(&as_it_came, &content, Some(packed.clone()))]);
        files.add([come(&plain, b"as it is", None)]);
        files.add_packed(sent.clone(), (made, None));
        wait_until_taken(&files);
        let mut store = ahead.finish().store.unwrap();
        let mut read = |file: &SharedFile| store.old(&file.hash).unwrap().unwrap().read_all();
        assert_eq!(read(&as_it_came).unwrap(), content);
        assert_eq!(read(&plain).unwrap(), b"as it is");
        assert_eq!(read(&sent).unwrap(), b"sent on");
        let kept = store.chunks().packed(&as_it_came.hash, as_it_came.size).unwrap();
        assert_eq!(kept.chunk(), Some(&packed[..]));
    }
}
