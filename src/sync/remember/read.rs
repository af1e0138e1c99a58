//! Reading files to be remembered, with several threads: each becomes what the store keeps, or its
//! block hashes.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use psync_protocol::ContentHash;

use crate::delta::{PATCH_MAX, Params, SignatureBuilder, Sketch, Sketcher};
use crate::index::{BlockHashes, SharedFile};
use crate::manifest::Stamp;
use crate::root::{self, Root, Stat};
use crate::store::{Packed, Packer};
use crate::sync::random;

/// Largest file that is packed in memory, by a thread of its own.
pub(super) const PACK_MAX: u64 = 1 << 20;
/// Most threads that read.
const THREADS_MAX: usize = 4;
/// Files that a thread hands over at once, at most; and their bytes.
pub(super) const HAND_FILES: usize = 64;
pub(super) const HAND_BYTES: u64 = 2 << 20;
/// A file shorter than this costs hardly more than a patch: its block hashes are of no use.
const BLOCKS_MIN: u64 = 256;
/// A file shorter than this, in bytes, has too few pieces to be found by.
const SKETCHED_MIN: u64 = 512;
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
    pub(super) fn read_all(&self, results: &SyncSender<Vec<(usize, Found, Option<Sketch>)>>) {
        let mut buffer = Vec::new();
        let mut packer = Packer::new().ok();
        loop {
            let mut hand = Vec::new();
            let mut bytes = 0;
            while hand.len() < HAND_FILES && bytes < HAND_BYTES {
                let at = self.next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = self.files.get(at) else { break };
                bytes += file.size;
                let (found, sketch) = self
                    .read_one(file, packer.as_mut(), &mut buffer)
                    .unwrap_or((Found::Gone, None));
                hand.push((at, found, sketch));
            }
            if hand.is_empty() || results.send(hand).is_err() {
                return;
            }
        }
    }

    /// What is made of a file, with its sketch where it was read and is to have one.
    pub(super) fn read_one(
        &self,
        file: &SharedFile,
        packer: Option<&mut Packer>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<(Found, Option<Sketch>)> {
        self.read_opened(file, self.root.open_file(&file.path)?, packer, buffer)
    }

    /// The same of a file that is open.
    pub(super) fn read_opened(
        &self,
        file: &SharedFile,
        opened: (File, Stat),
        packer: Option<&mut Packer>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<(Found, Option<Sketch>)> {
        let mut sketcher = is_sketched(file).then(Sketcher::default);
        let found = self.read(file, opened, packer, buffer, &mut sketcher)?;
        let sketch = sketcher.map(Sketcher::finish).filter(|_| match &found {
            Found::Packed(_) | Found::Blocks(_) | Found::Large(_) => true,
            // It has not been read.
            Found::Gone => false,
        });
        Ok((found, sketch))
    }

    fn read(
        &self,
        file: &SharedFile,
        (mut open, stat): (File, Stat),
        packer: Option<&mut Packer>,
        buffer: &mut Vec<u8>,
        sketcher: &mut Option<Sketcher>,
    ) -> io::Result<Found> {
        if stat.size != file.size {
            return Ok(Found::Gone);
        }
        // What looks as it did when it had the content need not be hashed to know that it has it.
        let is_known = file.stamp != Stamp::UNKNOWN && file.stamp == stat.stamp();
        let found = self.read_as(file, &mut open, is_known, packer, buffer, sketcher)?;
        if is_known && root::stat_of(&open)?.stamp() != file.stamp {
            return Ok(Found::Gone);
        }
        if let Some(found) = found {
            return Ok(found);
        }
        if sketcher.is_some() {
            // The store reads it for itself.
            io::copy(&mut Sketched { reader: &mut open, sketcher }, &mut io::sink())?;
            open.rewind()?;
        }
        Ok(Found::Large(open))
    }

    /// What is made of an open file; none where the store has to look at it itself.
    fn read_as(
        &self,
        file: &SharedFile,
        open: &mut File,
        is_known: bool,
        packer: Option<&mut Packer>,
        buffer: &mut Vec<u8>,
        sketcher: &mut Option<Sketcher>,
    ) -> io::Result<Option<Found>> {
        let taken = self.packs.load(Ordering::Relaxed) && file.size <= self.largest;
        match packer {
            Some(packer) if taken && file.size <= PACK_MAX => {
                let mut reader = Sketched { reader: open, sketcher };
                let packed = packer.pack(file.size, &mut reader, is_known.then_some(file.hash))?;
                let is_it = packed.hash == file.hash && packed.size == file.size;
                Ok(Some(if is_it { Found::Packed(packed) } else { Found::Gone }))
            }
            _ if file.size > PACK_MAX && (taken || self.snapshots.load(Ordering::Relaxed)) => {
                Ok(None)
            }
            _ => {
                let mut reader = Sketched { reader: open, sketcher };
                let blocks = block_hashes(&mut reader, file, is_known, buffer)?;
                Ok(Some(blocks.map_or(Found::Gone, Found::Blocks)))
            }
        }
    }
}

/// Whether a sketch is made of a file: if a new one may go as a patch against it.
pub(super) fn is_sketched(file: &SharedFile) -> bool {
    (SKETCHED_MIN..=PATCH_MAX as u64).contains(&file.size)
}

/// Makes a sketch of what is read.
struct Sketched<'a> {
    reader: &'a mut File,
    sketcher: &'a mut Option<Sketcher>,
}

impl Read for Sketched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if let Some(sketcher) = self.sketcher {
            sketcher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

/// Hashes the blocks of a file; none if it is not the content that it should be, which may be known.
pub(super) fn block_hashes(
    reader: &mut impl Read,
    file: &SharedFile,
    is_known: bool,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Blocks>> {
    if file.size < BLOCKS_MIN {
        return Ok(Some(Blocks(None)));
    }
    let params = fresh_params(file.size);
    let mut builder = SignatureBuilder::new(params);
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    buffer.resize(READ_STEP, 0);
    loop {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                total += n as u64;
                if !is_known {
                    hasher.update(&buffer[..n]);
                }
                builder.update(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let is_it = is_known || ContentHash(hasher.finalize().into()) == file.hash;
    if !is_it || total != file.size {
        return Ok(None);
    }
    Ok(Some(Blocks(Some(finish(builder, params, file.size)))))
}

/// Hashes the blocks of a content in memory.
pub(super) fn blocks_of(content: &[u8]) -> Blocks {
    let len = content.len() as u64;
    Blocks((len >= BLOCKS_MIN).then(|| {
        let params = fresh_params(len);
        let mut builder = SignatureBuilder::new(params);
        builder.update(content);
        finish(builder, params, len)
    }))
}

fn fresh_params(len: u64) -> Params {
    let mut seed = [0; 8];
    random(&mut seed);
    Params::for_cache(len, u64::from_le_bytes(seed))
}

fn finish(builder: SignatureBuilder, params: Params, len: u64) -> BlockHashes {
    BlockHashes {
        block_len: params.block_len(),
        hash_len: params.hash_len(),
        seed: params.seed(),
        len,
        packed: builder.finish(),
    }
}
