//! Contents that are packed for the store while they are sent: on a fast line they go as the store keeps them,
//! so that they are compressed once for both ends.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::vec::IntoIter;

use super::ahead::{Files, Ready};
use super::read::{FileReader, Found, HAND_BYTES, HAND_FILES, PACK_MAX};
use crate::index::SharedFile;
use crate::manifest::Stamp;
use crate::root::Root;
use crate::store::{Chunks, Packed, Packer};

/// Batches that may wait to be sent.
const QUEUE: usize = 4;

/// A content that can be sent as it is packed.
#[derive(Debug)]
pub(in crate::sync) enum Parcel {
    /// The store has it.
    Held(Packed),
    /// It is for the store, too.
    New(Ready),
}

impl Parcel {
    /// As the store keeps it.
    pub(in crate::sync) fn packed(&self) -> &Packed {
        match self {
            Parcel::Held(packed) | Parcel::New((packed, _)) => packed,
        }
    }
}

/// A thread that packs files in their order.
#[derive(Debug)]
pub(in crate::sync) struct Parcels {
    batches: Option<Receiver<Vec<Option<Parcel>>>>,
    batch: IntoIter<Option<Parcel>>,
    thread: Option<JoinHandle<()>>,
}

impl Parcels {
    /// Starts to pack files for a store that is being filled, and that does not have to pack them any more.
    /// None where the system refuses.
    pub(in crate::sync) fn start(
        root: &Root,
        files: Vec<SharedFile>,
        filling: &Files,
    ) -> Option<Parcels> {
        let root = root.try_clone().ok()?;
        let packer = Packer::new().ok()?;
        let (chunks, largest) = (filling.chunks().cloned(), filling.largest().min(PACK_MAX));
        let (sender, batches) = sync_channel(QUEUE);
        let work = move || pack_all(&root, &files, (packer, largest), chunks.as_ref(), &sender);
        let thread = thread::Builder::new().name("pack".into()).spawn(work).ok()?;
        Some(Parcels { batches: Some(batches), batch: IntoIter::default(), thread: Some(thread) })
    }

    /// The next file. None where it has to be sent otherwise: it is too long, is another one by now, or
    /// cannot be read; or the thread has failed.
    pub(in crate::sync) fn next(&mut self) -> Option<Parcel> {
        if self.batch.len() == 0 {
            self.batch = self.batches.as_ref()?.recv().ok()?.into_iter();
        }
        self.batch.next().flatten()
    }
}

impl Drop for Parcels {
    fn drop(&mut self) {
        // It ends when nobody takes what it makes.
        self.batches = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn pack_all(
    root: &Root,
    files: &[SharedFile],
    (mut packer, largest): (Packer, u64),
    chunks: Option<&Chunks>,
    results: &SyncSender<Vec<Option<Parcel>>>,
) {
    let next = AtomicUsize::new(0);
    let (packs, snapshots) = (AtomicBool::new(true), AtomicBool::new(false));
    let reader = FileReader { root, files, next, packs, snapshots, largest };
    let mut buffer = Vec::new();
    let mut rest = files.iter().peekable();
    while rest.peek().is_some() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < HAND_FILES
            && bytes < HAND_BYTES
            && let Some(file) = rest.next()
        {
            let held = chunks.and_then(|chunks| held(root, file, chunks));
            let parcel = held.map(Parcel::Held);
            batch.push(parcel.or_else(|| pack(&reader, file, &mut packer, &mut buffer)));
            bytes += file.size.min(largest);
        }
        if results.send(batch).is_err() {
            return;
        }
    }
}

/// What the store has, if it is sound and the file looks as it did when it had that content: who compares it with
/// its hash is nobody at this end later on, and what is damaged may be part of a file that the peer may not read.
fn held(root: &Root, file: &SharedFile, chunks: &Chunks) -> Option<Packed> {
    let packed = chunks.packed(&file.hash, file.size)?;
    let (_, stat) = root.open_file(&file.path).ok()?;
    let is_untouched = file.stamp != Stamp::UNKNOWN && file.stamp == stat.stamp();
    (is_untouched && packed.is_sound()).then_some(packed)
}

fn pack(
    reader: &FileReader<'_>,
    file: &SharedFile,
    packer: &mut Packer,
    buffer: &mut Vec<u8>,
) -> Option<Parcel> {
    if file.size > reader.largest {
        return None;
    }
    match reader.read_one(file, Some(packer), buffer).ok()? {
        (Found::Packed(packed), sketch) => Some(Parcel::New((packed, sketch))),
        (Found::Large(_) | Found::Blocks(_) | Found::Gone, _) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::ahead::Ahead;
    use super::super::ground::{Ground, expected};
    use super::*;

    /// A file that looks as it did when it was read.
    fn untouched(ground: &Ground, name: &str, content: &str) -> SharedFile {
        let file = ground.file(name, content);
        let (_, stat) = ground.root.open_file(&file.path).unwrap();
        SharedFile { stamp: stat.stamp(), ..file }
    }

    #[test]
    fn files_are_packed_in_their_order_and_what_cannot_be_is_left_to_others() {
        let ground = Ground::new("parcels");
        let mut store = ground.store(1 << 30);
        let held = untouched(&ground, "held", "both have this");
        let damaged = untouched(&ground, "damaged", "the tree has this, and the store that");
        let edited = untouched(&ground, "edited", "the store has this");
        std::fs::write(ground.folder.join("edited"), "the tree has that").unwrap();
        for (file, chunk) in [
            (&held, "both have this"),
            (&damaged, "the store has that, and the tree this"),
            (&edited, "the store has this"),
        ] {
            store.put(&Packed::of_chunk(file.hash, file.size, chunk.into())).unwrap();
        }
        let ahead = Ahead::fill(&ground.root, &ground.staging, store, None).unwrap();
        let mut files: Vec<SharedFile> =
            (0..200).map(|at| ground.file(&format!("file {at}"), format!("text {at}"))).collect();
        files[70] = ground.file("long", vec![7; (1 << 20) + 1]);
        files[71] = ground.file("as long as can be", vec![7; 1 << 20]);
        std::fs::write(ground.folder.join("file 72"), "text!72").unwrap();
        files[73] = expected("gone", "nobody has this");
        files[74..77].clone_from_slice(&[held.clone(), damaged, edited]);
        let mut parcels = Parcels::start(&ground.root, files.clone(), &ahead.files()).unwrap();
        for (at, file) in files.iter().enumerate() {
            match (at, parcels.next()) {
                (70 | 72 | 73 | 76, None) => {}
                (74, Some(Parcel::Held(packed))) => assert_eq!(packed.hash, held.hash),
                (_, Some(Parcel::New((packed, _)))) => assert_eq!(packed.hash, file.hash),
                (at, other) => panic!("{at}: {other:?}"),
            }
        }
        assert!(parcels.next().is_none());
    }

    #[test]
    fn who_needs_no_more_of_them_need_not_take_the_rest() {
        let ground = Ground::new("parcels-left");
        let ahead =
            Ahead::fill(&ground.root, &ground.staging, ground.store(1 << 30), None).unwrap();
        let file = ground.file("one", "some text");
        let files = vec![file; 10_000];
        let mut parcels = Parcels::start(&ground.root, files, &ahead.files()).unwrap();
        assert!(parcels.next().is_some());
        drop(parcels);
    }
}
