//! Reading a content that the store holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use psync_protocol::ContentHash;
use rusqlite::Connection;

use super::{CHUNK, CHUNK_BITS, Entry, lock, pack};

/// A content that the store holds; it outlives what the store does meanwhile, in that reading fails
/// when the content is let go. Reading takes about 2 MiB of memory, whatever the size.
#[derive(Debug)]
pub struct OldContent {
    hash: ContentHash,
    size: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Chunks {
        db: Arc<Mutex<Connection>>,
        id: i64,
        /// The chunk that was read last, raw.
        latest: Option<(u64, Vec<u8>)>,
    },
    Snapshot(File),
}

impl OldContent {
    pub(super) fn in_chunks(
        db: &Arc<Mutex<Connection>>,
        hash: ContentHash,
        entry: Entry,
    ) -> OldContent {
        let source = Source::Chunks { db: db.clone(), id: entry.id, latest: None };
        OldContent { hash, size: entry.size, source }
    }

    pub(super) fn in_snapshot(file: File, hash: ContentHash, size: u64) -> OldContent {
        OldContent { hash, size, source: Source::Snapshot(file) }
    }

    /// The hash that the content should have.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Fills `buffer` with the bytes from `offset` on, which must all be there.
    pub fn read_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Source::Snapshot(file) = &self.source {
            return file.read_exact_at(buffer, offset);
        }
        while !buffer.is_empty() {
            let within = (offset % CHUNK as u64) as usize;
            let chunk = self.chunk(offset / CHUNK as u64)?;
            let count = buffer.len().min(chunk.len() - within);
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&chunk[within..within + count]);
            buffer = later;
            offset += count as u64;
        }
        Ok(())
    }

    /// The whole content, whose hash has been checked; an error where it is not what it should be.
    pub fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        let mut all = Vec::new();
        // Grown by what is really there, not by what a damaged row says.
        let mut hasher = blake3::Hasher::new();
        self.each_piece(|piece| {
            all.try_reserve(piece.len()).map_err(io::Error::other)?;
            all.extend_from_slice(piece);
            hasher.update(piece);
            Ok(())
        })?;
        let matches = all.len() == size && self.hash == ContentHash(hasher.finalize().into());
        if matches { Ok(all) } else { Err(damaged()) }
    }

    /// Reads everything, and says whether it is the content that it should be.
    pub fn verify(&mut self) -> io::Result<bool> {
        self.verify_with(&mut |_| {})
    }

    /// The same, and hands over what it reads.
    pub fn verify_with(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let read = self.each_piece(|piece| {
            hasher.update(piece);
            each(piece);
            Ok(())
        });
        match read {
            Ok(()) => Ok(self.hash == ContentHash(hasher.finalize().into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn each_piece(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut offset = 0;
        while offset < self.size {
            let count = (self.size - offset).min(CHUNK as u64);
            if let Source::Snapshot(file) = &self.source {
                buffer.resize(count as usize, 0);
                file.read_exact_at(&mut buffer, offset)?;
                each(&buffer)?;
            } else {
                each(self.chunk(offset / CHUNK as u64)?)?;
            }
            offset += count;
        }
        Ok(())
    }

    /// The raw bytes of a chunk that exists.
    fn chunk(&mut self, number: u64) -> io::Result<&[u8]> {
        let rest = self.size - number * CHUNK as u64;
        let len = usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK);
        let Source::Chunks { db, id, latest } = &mut self.source else { return Err(damaged()) };
        if latest.as_ref().is_none_or(|(at, _)| *at != number) {
            let id = *id << CHUNK_BITS | number as i64;
            let db = lock(db);
            let failed = |error| match error {
                rusqlite::Error::QueryReturnedNoRows => damaged(),
                error => io::Error::new(io::ErrorKind::InvalidData, error),
            };
            let mut statement =
                db.prepare_cached("SELECT bytes FROM chunks WHERE id = ?1").map_err(failed)?;
            let mut rows = statement.query([id]).map_err(failed)?;
            let row = rows.next().map_err(failed)?.ok_or_else(damaged)?;
            let packed = row.get_ref(0).ok().and_then(|value| value.as_blob().ok());
            let raw = pack::unpack(packed.ok_or_else(damaged)?, len).map_err(|_| damaged())?;
            *latest = Some((number, raw));
        }
        latest.as_ref().map(|(_, raw)| &raw[..]).ok_or_else(damaged)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an old content in the store is damaged")
}
