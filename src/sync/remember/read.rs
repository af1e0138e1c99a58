//! Reading files to be remembered, with several threads: each becomes what the store keeps, or its
//! block hashes.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use psync_protocol::ContentHash;

use crate::delta::{Params, SignatureBuilder};
use crate::index::{BlockHashes, SharedFile};
use crate::root::Root;
use crate::store::{Packed, Packer};
use crate::sync::random;

/// Largest file that is packed in memory, by a thread of its own.
const PACK_MAX: u64 = 1 << 20;
/// Most threads that read.
const THREADS_MAX: usize = 4;
/// Files that a thread hands over at once, at most; and their bytes.
const HAND_FILES: usize = 64;
const HAND_BYTES: u64 = 2 << 20;
/// A file shorter than this costs hardly more than a patch: its block hashes are of no use.
const BLOCKS_MIN: u64 = 256;
/// Bytes read at a time.
const READ_STEP: usize = 256 << 10;

/// How many threads read.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).clamp(1, THREADS_MAX)
}

/// What a reading thread makes of a file.
pub(super) enum Found {
    /// A content for the store.
    Packed(Packed),
    /// A file that the store has to look at itself.
    Large(File),
    /// What can be had where the store does not take it.
    Blocks(Blocks),
    /// It is not the content that was agreed any more, or cannot be read: the next scan will tell.
    Gone,
}

/// The block hashes of a content, unless it is too short for them to be of use.
pub(super) struct Blocks(pub(super) Option<BlockHashes>);

/// The threads that read.
pub(super) struct FileReader<'a> {
    pub(super) root: &'a Root,
    pub(super) files: &'a [SharedFile],
    pub(super) next: AtomicUsize,
    /// Whether the store takes more.
    pub(super) packs: AtomicBool,
    /// Whether the file system may have snapshots.
    pub(super) snapshots: AtomicBool,
    /// The largest file that the store copies, in bytes.
    pub(super) largest: u64,
}

impl FileReader<'_> {
    /// Reads files until there are none left, and hands them over, several at a time: waking the
    /// thread that writes for each small file would cost more than reading it.
    pub(super) fn read_all(&self, results: &SyncSender<Vec<(usize, Found)>>) {
        let mut buffer = Vec::new();
        let mut packer = Packer::new().ok();
        loop {
            let mut hand = Vec::new();
            let mut bytes = 0;
            while hand.len() < HAND_FILES && bytes < HAND_BYTES {
                let at = self.next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = self.files.get(at) else { break };
                let found = self.read(file, packer.as_mut(), &mut buffer).unwrap_or(Found::Gone);
                bytes += file.size;
                hand.push((at, found));
            }
            if hand.is_empty() || results.send(hand).is_err() {
                return;
            }
        }
    }

    fn read(
        &self,
        file: &SharedFile,
        packer: Option<&mut Packer>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Found> {
        let (mut open, stat) = self.root.open_file(&file.path)?;
        if stat.size != file.size {
            return Ok(Found::Gone);
        }
        let taken = self.packs.load(Ordering::Relaxed) && file.size <= self.largest;
        match packer {
            Some(packer) if taken && file.size <= PACK_MAX => {
                let packed = packer.pack(file.size, &mut open)?;
                let is_it = packed.hash == file.hash;
                Ok(if is_it { Found::Packed(packed) } else { Found::Gone })
            }
            _ if file.size > PACK_MAX && (taken || self.snapshots.load(Ordering::Relaxed)) => {
                Ok(Found::Large(open))
            }
            _ => Ok(block_hashes(&mut open, file, buffer)?.map_or(Found::Gone, Found::Blocks)),
        }
    }
}

/// Hashes the blocks of a file; none if it is not the content that it should be.
pub(super) fn block_hashes(
    reader: &mut impl Read,
    file: &SharedFile,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Blocks>> {
    if file.size < BLOCKS_MIN {
        return Ok(Some(Blocks(None)));
    }
    let mut seed = [0; 8];
    random(&mut seed);
    let params = Params::for_cache(file.size, u64::from_le_bytes(seed));
    let mut builder = SignatureBuilder::new(params);
    let mut hasher = blake3::Hasher::new();
    buffer.resize(READ_STEP, 0);
    loop {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                builder.update(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if ContentHash(hasher.finalize().into()) != file.hash {
        return Ok(None);
    }
    Ok(Some(Blocks(Some(BlockHashes {
        block_len: params.block_len(),
        hash_len: params.hash_len(),
        seed: params.seed(),
        len: file.size,
        packed: builder.finish(),
    }))))
}
