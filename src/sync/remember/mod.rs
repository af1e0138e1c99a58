//! What is agreed with a peer is remembered, after the session, for the next edit: whole contents
//! in the store, or at least their block hashes in the cache. Nobody waits for it, nothing depends
//! on it, and what was interrupted is taken up after the next session.

mod ahead;
#[cfg(test)]
mod ground;
mod parcels;
mod read;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Seek;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use psync_protocol::ContentHash;
use psync_protocol::Role;
use psync_protocol::message::Problem;

use crate::delta::Sketch;
use ahead::Ready;
pub(super) use ahead::{Ahead, Done, Files, Put};
pub(super) use parcels::{Parcel, Parcels};
use read::{Blocks, FileReader, Found, block_hashes, threads};

use super::site::{cache_unusable, note};
use super::{OldContents, Site};
use crate::index::{BlockHashes, Digests, Index, IndexError, Remembered, SharedFile};
use crate::manifest::Stamp;
use crate::report::{Phase, Report, Trouble};
use crate::store::{Kept, Store, StoreError};

/// Batches of contents that may wait to be written.
const QUEUE: usize = 8;
/// Files after which the index is told.
const BATCH_FILES: usize = 16 << 10;
/// The same where only block hashes are made.
const AS_BLOCKS_STEP: usize = 1 << 10;
/// Bytes of block hashes after which the index is told.
const BATCH_BYTES: usize = 16 << 20;
/// Files from which on it pays to go through all rows, and not only through theirs.
const MANY: usize = 4 << 10;
/// Bytes to be read from which on a person should see that something goes on.
const WORTH_SHOWING: u64 = 16 << 20;

/// Remembers what has been agreed, at the end that a person started.
pub fn remember(site: &mut Site, report: &dyn Report) {
    site.notes.clear();
    remember_all(site, report);
    for problem in std::mem::take(&mut site.notes) {
        let Problem { kind, path, text } = problem;
        report.trouble(&Trouble { on: Role::Initiator, path, kind: kind.into(), text });
    }
}

/// The same at the other end, which has nobody to talk to any more: what a person should know is
/// told in the next run.
pub(super) fn remember_quietly(site: &mut Site, report: &dyn Report) {
    site.notes.clear();
    remember_all(site, report);
    for problem in std::mem::take(&mut site.notes) {
        // The note says that something is not remembered; it may share that fate.
        let _ = site.index.leave_note(&problem.text);
    }
}

fn remember_all(site: &mut Site, report: &dyn Report) {
    site.notes.extend(site.journal.take_notes().into_iter().map(note));
    if let Err(error) = try_remember(site, report) {
        site.notes.push(note(format!("what was agreed cannot be remembered: {error}")));
    }
    // What was found to be damaged on the way is found out again by the next run.
    if let Err(error) = site.index.mend_cache() {
        site.notes.push(note(format!("what was agreed cannot be remembered: {error}")));
    }
    let cache = site.index.cache().take_trouble().map(|reason| cache_unusable(&reason));
    site.notes.extend(cache.map(note));
    super::trash::sweep(site);
}

fn try_remember(site: &mut Site, report: &dyn Report) -> Result<(), IndexError> {
    site.old.end_ahead();
    site.index.mend_cache()?;
    let setting = site.old.is_on().then(|| site.old.setting());
    // What the store did not take is offered again where the rules have changed, or where it could
    // not be used the last time.
    let again = setting.is_some() && site.index.store_setting()? != setting;
    let at_most = if again { Remembered::AsBlocks } else { Remembered::Not };
    if !site.index.has_to_remember(at_most)? {
        return Ok(());
    }
    site.spare_the_disk();
    site.store();
    let ready = site.ahead.take().map(|ahead| ahead.finish().ready).unwrap_or_default();
    let files = site.index.to_remember(at_most)?;
    let mut blocks_changed = again;
    let left_out = fill(site, (files, at_most), ready, report, &mut blocks_changed)?;
    if setting.is_some() && !site.old.is_on() {
        // The store has failed on the way, and lost what was not committed.
        let rest = site.index.to_remember(Remembered::Not)?;
        let rest = (rest, Remembered::Not);
        fill(site, rest, HashMap::new(), report, &mut blocks_changed)?;
    }
    as_blocks(site, &left_out)?;
    let setting = setting.filter(|_| site.old.is_on());
    if blocks_changed || site.index.store_setting()? != setting {
        let Site { old, index, notes, .. } = site;
        let store = old.open(index, notes);
        let in_store =
            |hash: &_| store.as_ref().is_some_and(|store| store.holds(hash).unwrap_or(false));
        index.transaction(|index| {
            index.set_store_setting(setting.as_deref())?;
            index.purge_blocks(in_store)
        })?;
    }
    Ok(())
}

/// Offers files to the store, which are all that are remembered no better than said, and makes block hashes of
/// those that it does not take. Some contents may be ready for it. Returns live contents that had to make room.
fn fill(
    site: &mut Site,
    (mut files, at_most): (Vec<SharedFile>, Remembered),
    mut ready: HashMap<ContentHash, Ready>,
    report: &dyn Report,
    blocks_changed: &mut bool,
) -> Result<HashSet<ContentHash>, IndexError> {
    let Site { root, index, old, notes, .. } = site;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    if old.open(index, notes).is_some_and(|store| bytes > store.rules().budget) {
        // Not all of it will fit: as many files as can be.
        files.sort_by_key(|file| file.size);
    }
    let (put, took_snapshots) = (old.take_put(), old.take_took_snapshots());
    *blocks_changed |= put.values().any(|remembered| *remembered == Remembered::AsBlocks);
    let mut filler = Filler::new(index, old, notes);
    filler.took_snapshots = took_snapshots;
    let (mut made, mut files) = (Vec::new(), filler.without_known(files, at_most, &put)?);
    if filler.store().is_some() && !ready.is_empty() {
        files.retain(|file| {
            let ready = ready.remove(&file.hash).map(|ready| made.push((file.clone(), ready)));
            ready.is_none()
        });
    }
    if bytes >= WORTH_SHOWING && !files.is_empty() {
        let bytes = files.iter().map(|file| file.size).sum();
        report.phase(Phase::Remembering { bytes });
    }
    let reader = FileReader {
        root,
        files: &files,
        next: AtomicUsize::new(0),
        packs: AtomicBool::new(filler.store().is_some()),
        snapshots: AtomicBool::new(filler.store().is_some()),
        largest: filler.store().map_or(0, |store| store.rules().largest_file),
    };
    for (file, (packed, sketch)) in made {
        filler.put_sketch(&file, sketch);
        filler.take(&reader, &file, Found::Packed(packed))?;
    }
    let result = std::thread::scope(|scope| {
        let (sender, results) = sync_channel(QUEUE);
        for _ in 0..threads().min(files.len()) {
            let (sender, reader) = (sender.clone(), &reader);
            scope.spawn(move || reader.read_all(&sender));
        }
        drop(sender);
        for (at, found, sketch) in results.into_iter().flatten() {
            filler.put_sketch(&files[at], sketch);
            filler.take(&reader, &files[at], found)?;
            report.progress(&files[at].path, files[at].size);
        }
        filler.finish()
    });
    *blocks_changed |= filler.put_blocks;
    result.map(|()| filler.evicted)
}

/// Of files whose contents the store has let go, block hashes stay.
pub(super) fn as_blocks(site: &mut Site, hashes: &HashSet<ContentHash>) -> Result<(), IndexError> {
    if hashes.is_empty() {
        return Ok(());
    }
    let mut buffer = Vec::new();
    for files in files_with(&mut site.index, hashes)?.chunks(AS_BLOCKS_STEP) {
        let mut read = Vec::with_capacity(files.len());
        for file in files {
            let opened = site.root.open_file(&file.path);
            let blocks =
                opened.and_then(|(mut open, _)| block_hashes(&mut open, file, false, &mut buffer));
            read.push(blocks.ok().flatten().and_then(|Blocks(blocks)| blocks));
        }
        let digests = files.iter().zip(read).filter_map(|(file, blocks)| {
            blocks.map(|blocks| Digests { hash: file.hash, blocks: Some(blocks), sketch: None })
        });
        let remembered = match site.index.put_digests(&digests.collect::<Vec<_>>())? {
            true => Remembered::AsBlocks,
            false => Remembered::Not,
        };
        site.index.transaction(|index| {
            files.iter().try_for_each(|file| index.set_remembered(file, remembered))
        })?;
    }
    Ok(())
}

pub(super) fn files_with(
    index: &mut Index,
    hashes: &HashSet<ContentHash>,
) -> Result<Vec<SharedFile>, IndexError> {
    let mut files = Vec::new();
    index.files(|path, size, hash| {
        if hashes.contains(&hash)
            && let Ok(path) = psync_protocol::RelPath::new(path)
        {
            files.push(SharedFile { path, size, hash, stamp: Stamp::UNKNOWN });
        }
    })?;
    Ok(files)
}

/// Which of what is remembered could be kept.
#[derive(Debug, Clone, Copy)]
struct Committed {
    store: bool,
    cache: bool,
}

impl Committed {
    fn has(self, found: Remembered) -> bool {
        match found {
            Remembered::Not => true,
            Remembered::AsBlocks => self.cache,
            Remembered::InStore => self.store,
        }
    }
}

/// The one thread that writes.
struct Filler<'a> {
    index: &'a mut Index,
    old: &'a mut OldContents,
    notes: &'a mut Vec<Problem>,
    /// What the index has not been told yet.
    batch: Vec<(SharedFile, Remembered)>,
    /// What the cache does not have yet, and its bytes.
    digests: Vec<Digests>,
    digest_bytes: usize,
    buffer: Vec<u8>,
    put_blocks: bool,
    took_snapshots: bool,
    /// Whether room has been made once; what is kept in one run does not make room for the rest.
    made_room: bool,
    /// Live contents that have made room.
    evicted: HashSet<ContentHash>,
}

impl<'a> Filler<'a> {
    fn new(
        index: &'a mut Index,
        old: &'a mut OldContents,
        notes: &'a mut Vec<Problem>,
    ) -> Filler<'a> {
        Filler {
            index,
            old,
            notes,
            batch: Vec::new(),
            digests: Vec::new(),
            digest_bytes: 0,
            buffer: Vec::new(),
            put_blocks: false,
            took_snapshots: false,
            made_room: false,
            evicted: HashSet::new(),
        }
    }

    fn store(&mut self) -> Option<&mut Store> {
        self.old.open(self.index, self.notes)
    }

    /// Leaves out what is known already, or has nothing to be known.
    fn without_known(
        &mut self,
        files: Vec<SharedFile>,
        at_most: Remembered,
        put: &Put,
    ) -> Result<Vec<SharedFile>, IndexError> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        let mut has_failed = false;
        let any_blocks = self.index.cache().has_any_blocks();
        let any_held = self.store().is_some_and(|store| !store.is_empty().unwrap_or(false));
        for file in files {
            let held = match self.store() {
                Some(_) if put.get(&file.hash) == Some(&Remembered::InStore) => Ok(true),
                Some(store) if any_held => store.holds(&file.hash),
                Some(_) | None => Ok(false),
            };
            let held = held.unwrap_or_else(|error| {
                self.give_up(&error);
                known.retain(|(_, found)| *found != Remembered::InStore);
                has_failed = true;
                false
            });
            let offered = self.store().is_some();
            if held || file.size == 0 {
                known.push((file, Remembered::InStore));
            } else if any_blocks && !offered && self.has_blocks(&file, put) {
                known.push((file, Remembered::AsBlocks));
            } else {
                unknown.push(file);
            }
        }
        let are_most = known.len() > unknown.len().max(MANY);
        if at_most == Remembered::Not && are_most && !has_failed {
            self.note_most(&known, &unknown)?;
        } else {
            for (file, remembered) in known {
                self.note(file, remembered, None)?;
            }
        }
        Ok(unknown)
    }

    /// Notes how those are remembered that are, which are most of all.
    fn note_most(
        &mut self,
        known: &[(SharedFile, Remembered)],
        unknown: &[SharedFile],
    ) -> Result<(), IndexError> {
        let in_store = known.iter().filter(|(_, found)| *found == Remembered::InStore).count();
        let most = match in_store * 2 >= known.len() {
            true => Remembered::InStore,
            false => Remembered::AsBlocks,
        };
        let committed = self.commit()?;
        if !known.iter().all(|(_, found)| committed.has(*found)) {
            return Ok(());
        }
        let others = known.iter().filter(|(_, found)| *found != most);
        let others = others.map(|(file, found)| (file, *found));
        let unknown = unknown.iter().map(|file| (file, Remembered::Not));
        self.index.transaction(|index| index.set_most_remembered(most, others.chain(unknown)))
    }

    fn has_blocks(&self, file: &SharedFile, put: &Put) -> bool {
        let has_put = put.get(&file.hash) == Some(&Remembered::AsBlocks);
        has_put || self.index.cache().has_blocks(&file.hash)
    }

    fn put_sketch(&mut self, file: &SharedFile, sketch: Option<Sketch>) {
        if let Some(sketch) = sketch.map(Sketch::to_bytes) {
            self.put_digests(Digests { hash: file.hash, blocks: None, sketch: Some(sketch) });
        }
    }

    fn put_digests(&mut self, digests: Digests) {
        self.digest_bytes += digests.bytes();
        self.digests.push(digests);
    }

    /// Takes what was made of a file.
    fn take(
        &mut self,
        reader: &FileReader<'_>,
        file: &SharedFile,
        found: Found,
    ) -> Result<(), IndexError> {
        let kept = match &found {
            Found::Gone => return Ok(()),
            Found::Blocks(_) => Ok(Kept::NoRoom),
            Found::Packed(packed) => self.with_room(reader, file, |store| store.put(packed)),
            Found::Large(open) => self.keep_large(reader, file, open),
        };
        let kept = kept.unwrap_or_else(|error| {
            reader.packs.store(false, Ordering::Relaxed);
            reader.snapshots.store(false, Ordering::Relaxed);
            self.give_up(&error);
            Kept::NoRoom
        });
        match (kept, found) {
            (Kept::Held, _) => self.note(file.clone(), Remembered::InStore, None),
            (Kept::Different, _) | (Kept::NoRoom, Found::Gone) => Ok(()),
            (Kept::NoRoom, Found::Blocks(Blocks(blocks))) => {
                self.note(file.clone(), Remembered::AsBlocks, blocks)
            }
            (Kept::NoRoom, Found::Packed(_) | Found::Large(_)) => {
                let opened = reader.root.open_file(&file.path);
                let blocks = opened.and_then(|(mut open, _)| {
                    block_hashes(&mut open, file, false, &mut self.buffer)
                });
                match blocks {
                    Ok(Some(Blocks(blocks))) => {
                        self.note(file.clone(), Remembered::AsBlocks, blocks)
                    }
                    Ok(None) | Err(_) => Ok(()),
                }
            }
        }
    }

    fn keep_large(
        &mut self,
        reader: &FileReader<'_>,
        file: &SharedFile,
        open: &File,
    ) -> Result<Kept, StoreError> {
        let Some(store) = self.store() else { return Ok(Kept::NoRoom) };
        if let Some(kept) = store.snapshot(&file.hash, file.size, open)? {
            self.took_snapshots |= kept == Kept::Held;
            return Ok(kept);
        }
        reader.snapshots.store(false, Ordering::Relaxed);
        if !store.takes(file.size) {
            return Ok(Kept::NoRoom);
        }
        self.with_room(reader, file, |store| {
            let mut open = open;
            open.rewind().map_err(StoreError::Unreadable)?;
            store.keep(&file.hash, file.size, &mut open)
        })
    }

    /// Keeps something; where there is no room, once more after others have made some.
    fn with_room(
        &mut self,
        reader: &FileReader<'_>,
        file: &SharedFile,
        keep: impl Fn(&mut Store) -> Result<Kept, StoreError>,
    ) -> Result<Kept, StoreError> {
        let Some(store) = self.store() else { return Ok(Kept::NoRoom) };
        let kept = keep(store)?;
        if kept != Kept::NoRoom || std::mem::replace(&mut self.made_room, true) {
            if kept == Kept::NoRoom {
                reader.packs.store(false, Ordering::Relaxed);
            }
            return Ok(kept);
        }
        self.make_room(file.size)?;
        let Some(store) = self.store() else { return Ok(Kept::NoRoom) };
        keep(store)
    }

    /// Lets others go: first what no file has any more, then what was not used for long.
    fn make_room(&mut self, room: u64) -> Result<(), StoreError> {
        let mut live = HashSet::new();
        let listed = self.index.files(|_, _, hash| {
            live.insert(hash);
        });
        // Without the list everything might look as if nobody had it.
        if listed.is_err() {
            return Ok(());
        }
        let Some(store) = self.store() else { return Ok(()) };
        let collected = store.gc(room, &|hash| live.contains(hash))?;
        self.evicted.extend(collected.hashes.into_iter().filter(|hash| live.contains(hash)));
        Ok(())
    }

    /// After an error of the store, which has lost what was not committed: that stays to be
    /// remembered.
    fn give_up(&mut self, error: &StoreError) {
        self.old.give_up(error, self.notes);
        self.batch.retain(|(_, remembered)| *remembered != Remembered::InStore);
    }

    fn note(
        &mut self,
        file: SharedFile,
        remembered: Remembered,
        blocks: Option<BlockHashes>,
    ) -> Result<(), IndexError> {
        if blocks.is_some() {
            self.put_blocks = true;
            self.put_digests(Digests { hash: file.hash, blocks, sketch: None });
        }
        self.batch.push((file, remembered));
        let full = self.batch.len() >= BATCH_FILES || self.digest_bytes >= BATCH_BYTES;
        if full { self.tell_index() } else { Ok(()) }
    }

    /// What the store and the cache hold is committed first: the index never says more than there is.
    fn tell_index(&mut self) -> Result<(), IndexError> {
        let batch = std::mem::take(&mut self.batch);
        let committed = self.commit()?;
        let batch = batch.iter().filter(|(_, found)| committed.has(*found));
        self.index.transaction(|index| {
            batch.into_iter().try_for_each(|(file, found)| index.set_remembered(file, *found))
        })
    }

    /// Commits what the store and the cache have, before the index says so.
    fn commit(&mut self) -> Result<Committed, IndexError> {
        let committed = self.store().map_or(Ok(()), Store::commit);
        let store = committed.is_ok();
        if let Err(error) = committed {
            self.give_up(&error);
        }
        let digests = std::mem::take(&mut self.digests);
        self.digest_bytes = 0;
        Ok(Committed { store, cache: self.index.put_digests(&digests)? })
    }

    fn finish(&mut self) -> Result<(), IndexError> {
        // A snapshot costs nothing until the file in the tree is another one.
        if self.took_snapshots
            && let Err(error) = self.make_room(0)
        {
            self.give_up(&error);
        }
        self.tell_index()?;
        self.index.purge_sketches()
    }
}
