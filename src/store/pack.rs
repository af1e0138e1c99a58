//! From a content to chunks.

use std::cell::RefCell;
use std::io::{self, Read};

use psync_protocol::ContentHash;
use zstd::bulk::{Compressor, Decompressor};

use super::CHUNK;

/// zstd's quickest ordinary level: filling a store should cost little more than reading the files.
const LEVEL: i32 = 1;

/// A content in memory, ready to be kept.
#[derive(Debug)]
pub struct Packed {
    /// The hash of what was read.
    pub hash: ContentHash,
    /// Its bytes.
    pub size: u64,
    pub(super) chunks: Vec<Vec<u8>>,
}

impl Packed {
    /// A content of at most 1 MiB that was packed elsewhere: as one zstd frame that is shorter, or as it is.
    pub fn of_chunk(hash: ContentHash, size: u64, chunk: Vec<u8>) -> Packed {
        debug_assert!(size <= CHUNK as u64);
        Packed { hash, size, chunks: vec![chunk] }
    }

    /// Whether what it is packed as has its hash.
    pub fn is_sound(&self) -> bool {
        let mut hasher = blake3::Hasher::new();
        let mut left = self.size;
        for chunk in &self.chunks {
            let len = left.min(CHUNK as u64);
            let Ok(raw) = unpack(chunk, len as usize) else { return false };
            hasher.update(&raw);
            left -= len;
        }
        left == 0 && ContentHash(hasher.finalize().into()) == self.hash
    }

    /// The only chunk of a content that has one: a zstd frame, or the content itself, if it has that many bytes.
    pub fn chunk(&self) -> Option<&[u8]> {
        match &self.chunks[..] {
            [chunk] => Some(chunk),
            _ => None,
        }
    }

    /// The bytes that it takes in the store, and in memory.
    pub fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }
}

/// Compresses contents, one after the other. Each thread has its own.
pub struct Packer {
    compressor: Compressor<'static>,
    raw: Vec<u8>,
    frame: Vec<u8>,
}

impl Packer {
    /// A packer. Fails for want of memory.
    pub fn new() -> io::Result<Packer> {
        let compressor = Compressor::new(LEVEL)?;
        Ok(Packer { compressor, raw: Vec::new(), frame: Vec::new() })
    }

    /// Packs what a reader gives, of which `size` bytes are expected (and hardly more are read);
    /// all of it is in memory then, so this is for contents of a few MiB. Where the hash is known
    /// it is not made; whoever takes the content out of the store checks it.
    pub fn pack(
        &mut self,
        size: u64,
        reader: &mut dyn Read,
        known: Option<ContentHash>,
    ) -> io::Result<Packed> {
        let mut chunks = Vec::new();
        let mut hasher = known.is_none().then(blake3::Hasher::new);
        let found = self.each_raw(size, reader, hasher.as_mut(), |chunk| {
            chunks.push(chunk.to_vec());
            Ok::<_, io::Error>(true)
        })?;
        let made = hasher.map(|hasher| ContentHash(hasher.finalize().into()));
        let hash = known.or(made).unwrap_or(ContentHash::of_bytes(b""));
        Ok(Packed { hash, size: found.unwrap_or(0), chunks })
    }

    /// Gives each chunk, in order, to `each`, which says whether to go on. What was read in all;
    /// none if `each` has stopped it.
    pub(super) fn each_chunk<E: From<Unread>>(
        &mut self,
        size: u64,
        reader: &mut dyn Read,
        each: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<Option<(ContentHash, u64)>, E> {
        let mut hasher = blake3::Hasher::new();
        let total = self.each_raw(size, reader, Some(&mut hasher), each)?;
        Ok(total.map(|total| (ContentHash(hasher.finalize().into()), total)))
    }

    /// The same, with the hasher that is to see what is read, if one is. Gives the bytes read in all.
    fn each_raw<E: From<Unread>>(
        &mut self,
        size: u64,
        reader: &mut dyn Read,
        mut hasher: Option<&mut blake3::Hasher>,
        mut each: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<Option<u64>, E> {
        let mut total = 0;
        // A file that has grown is another content: no need to read to its new end.
        let mut reader = reader.take(size.saturating_add(1));
        loop {
            let wanted = CHUNK.min(usize::try_from(size + 1 - total).unwrap_or(CHUNK));
            self.read(&mut reader, wanted).map_err(Unread)?;
            if self.raw.is_empty() {
                return Ok(Some(total));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&self.raw);
            }
            total += self.raw.len() as u64;
            self.frame.clear();
            self.frame.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
            self.compressor.compress_to_buffer(&self.raw, &mut self.frame).map_err(Unread)?;
            let shorter = self.frame.len() < self.raw.len();
            if !each(if shorter { &self.frame } else { &self.raw })? {
                return Ok(None);
            }
            if self.raw.len() < wanted {
                return Ok(Some(total));
            }
        }
    }

    /// Reads so many bytes, or to the end, in as few steps as that takes.
    fn read(&mut self, reader: &mut impl Read, wanted: usize) -> io::Result<()> {
        self.raw.resize(wanted, 0);
        let mut filled = 0;
        while filled < wanted {
            match reader.read(&mut self.raw[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.raw.truncate(filled);
        Ok(())
    }
}

/// A content could not be read (or compressed, for want of memory).
#[derive(Debug)]
pub(super) struct Unread(pub(super) io::Error);

impl From<Unread> for io::Error {
    fn from(error: Unread) -> io::Error {
        error.0
    }
}

impl From<Unread> for super::StoreError {
    fn from(error: Unread) -> super::StoreError {
        super::StoreError::Unreadable(error.0)
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer(..)")
    }
}

thread_local! {
    /// What unpacks in this thread: to make it takes nearly half as long as to unpack a small file.
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The raw bytes of a chunk that holds so many.
pub(super) fn unpack(chunk: &[u8], len: usize) -> io::Result<Vec<u8>> {
    if chunk.len() == len {
        return Ok(chunk.to_vec());
    }
    let raw = UNPACKER.with_borrow_mut(|unpacker| match unpacker {
        Some(unpacker) => unpacker.decompress(chunk, len),
        None => unpacker.insert(Decompressor::new()?).decompress(chunk, len),
    })?;
    if raw.len() == len { Ok(raw) } else { Err(io::Error::other("a chunk has another length")) }
}
