//! What is agreed with a peer is remembered, after the session, for the next edit: whole contents
//! in the store, or at least their block hashes in the index. Nobody waits for it, nothing depends
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

use ahead::Ready;
pub(super) use ahead::{Ahead, Done, Files, Put};
pub(super) use parcels::{Parcel, Parcels};
use read::{Blocks, FileReader, Found, block_hashes, threads};

use super::site::note;
use super::{OldContents, Site};
use crate::index::{BlockHashes, Index, IndexError, Remembered, SharedFile, SketchBytes};
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
    super::trash::sweep(site);
}

fn try_remember(site: &mut Site, report: &dyn Report) -> Result<(), IndexError> {
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
    let left_out = fill(site, files, ready, report, &mut blocks_changed)?;
    if setting.is_some() && !site.old.is_on() {
        // The store has failed on the way, and lost what was not committed.
        let rest = site.index.to_remember(Remembered::Not)?;
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

/// Offers files to the store, and makes block hashes of those that it does not take. Some contents
/// may be ready for it. Returns live contents that had to make room.
fn fill(
    site: &mut Site,
    mut files: Vec<SharedFile>,
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
    let put = old.take_put();
    let mut filler = Filler::new(index, old, notes);
    filler.sketches = put.iter().filter_map(|(hash, sketch)| Some((*hash, (*sketch)?))).collect();
    let (mut made, mut files) = (Vec::new(), filler.without_known(files, &put)?);
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
        filler.sketches.extend(sketch.map(|sketch| (file.hash, sketch.to_bytes())));
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
            let sketch = sketch.map(|sketch| (files[at].hash, sketch.to_bytes()));
            filler.sketches.extend(sketch);
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
        site.index.transaction(|index| {
            for (file, blocks) in files.iter().zip(read) {
                blocks.map_or(Ok(()), |blocks| index.put_blocks(&file.hash, &blocks))?;
                index.set_remembered(file, Remembered::AsBlocks)?;
            }
            Ok(())
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

/// The one thread that writes.
struct Filler<'a> {
    index: &'a mut Index,
    old: &'a mut OldContents,
    notes: &'a mut Vec<Problem>,
    /// What the index has not been told yet.
    batch: Vec<(SharedFile, Remembered, Option<BlockHashes>)>,
    batch_bytes: usize,
    /// Sketches that the index does not have yet.
    sketches: Vec<(ContentHash, SketchBytes)>,
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
            batch_bytes: 0,
            sketches: Vec::new(),
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
        put: &Put,
    ) -> Result<Vec<SharedFile>, IndexError> {
        let mut unknown = Vec::with_capacity(files.len());
        let any_blocks = self.index.has_any_blocks()?;
        let any_held = self.store().is_some_and(|store| !store.is_empty().unwrap_or(false));
        for file in files {
            let held = match self.store() {
                Some(_) if put.contains_key(&file.hash) => Ok(true),
                Some(store) if any_held => store.holds(&file.hash),
                Some(_) | None => Ok(false),
            };
            let held = held.unwrap_or_else(|error| {
                self.give_up(&error);
                false
            });
            let offered = self.store().is_some();
            if held || file.size == 0 {
                self.note(file, Remembered::InStore, None)?;
            } else if any_blocks && !offered && self.index.has_blocks(&file.hash)? {
                self.note(file, Remembered::AsBlocks, None)?;
            } else {
                unknown.push(file);
            }
        }
        Ok(unknown)
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
        self.batch.retain(|(_, remembered, _)| *remembered != Remembered::InStore);
    }

    fn note(
        &mut self,
        file: SharedFile,
        remembered: Remembered,
        blocks: Option<BlockHashes>,
    ) -> Result<(), IndexError> {
        self.batch_bytes += blocks.as_ref().map_or(0, |blocks| blocks.packed.len());
        self.batch.push((file, remembered, blocks));
        let full = self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES;
        if full { self.tell_index() } else { Ok(()) }
    }

    /// What the store holds is committed first: the index never says more than there is.
    fn tell_index(&mut self) -> Result<(), IndexError> {
        let committed = self.store().map_or(Ok(()), Store::commit);
        if let Err(error) = committed {
            self.give_up(&error);
        }
        let batch = std::mem::take(&mut self.batch);
        let sketches = std::mem::take(&mut self.sketches);
        self.batch_bytes = 0;
        self.put_blocks |= batch.iter().any(|(_, _, blocks)| blocks.is_some());
        self.index.transaction(|index| {
            for (hash, sketch) in &sketches {
                index.put_sketch(hash, sketch)?;
            }
            for (file, remembered, blocks) in &batch {
                if let Some(blocks) = blocks {
                    index.put_blocks(&file.hash, blocks)?;
                }
                index.set_remembered(file, *remembered)?;
            }
            Ok(())
        })
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
