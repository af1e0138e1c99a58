//! Contents that are packed for the store while this end waits for the other: what it has sent is
//! most likely agreed when the session ends, and then it need only be put there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use psync_protocol::ContentHash;

use super::read::{FileReader, Found};
use crate::delta::Sketch;
use crate::index::SharedFile;
use crate::root::Root;
use crate::store::{Packed, Packer};

/// Bytes of packed contents that are held until they are put into the store.
const HELD_MAX: u64 = 64 << 20;

/// A content that is ready for the store, with its sketch if it has one.
pub(super) type Ready = (Packed, Option<Sketch>);

/// Files that a thread of its own packs, one after the other, until it is told to end. Nothing is
/// written, so that nobody who waits for the disk meanwhile waits for this.
#[derive(Debug)]
pub(in crate::sync) struct Ahead {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<HashMap<ContentHash, Ready>>>,
}

impl Ahead {
    /// Starts to pack these files, as far as they are no larger than the largest of which the store
    /// keeps a copy. None where the system refuses.
    pub(in crate::sync) fn start(
        root: &Root,
        files: Vec<SharedFile>,
        largest: u64,
    ) -> Option<Ahead> {
        let root = root.try_clone().ok()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || pack(&root, &files, largest, &stopped);
        let thread = thread::Builder::new().name("remember".into()).spawn(work).ok()?;
        Some(Ahead { stop, thread: Some(thread) })
    }

    /// What is ready so far.
    pub(super) fn finish(mut self) -> HashMap<ContentHash, Ready> {
        self.stop.store(true, Ordering::Relaxed);
        // What a thread that failed has not packed is packed in the usual way.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn pack(
    root: &Root,
    files: &[SharedFile],
    largest: u64,
    stopped: &AtomicBool,
) -> HashMap<ContentHash, Ready> {
    let reader = FileReader {
        root,
        files,
        next: AtomicUsize::new(0),
        packs: AtomicBool::new(true),
        snapshots: AtomicBool::new(true),
        largest,
    };
    let (mut ready, mut held, mut buffer) = (HashMap::new(), 0, Vec::new());
    let Ok(mut packer) = Packer::new() else { return ready };
    for file in files {
        if stopped.load(Ordering::Relaxed) || held >= HELD_MAX {
            break;
        }
        if let Ok((Found::Packed(packed), sketch)) =
            reader.read_one(file, Some(&mut packer), &mut buffer)
        {
            held += packed.stored_bytes();
            ready.insert(file.hash, (packed, sketch));
        }
    }
    ready
}
