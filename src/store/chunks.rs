//! Contents of an open store as they lie in it.

use std::sync::{Arc, Mutex};

use psync_protocol::ContentHash;
use rusqlite::{Connection, OptionalExtension};

use super::pack::Packed;
use super::{CHUNK, CHUNK_BITS, Store, lock};

/// Reads short contents of a store as they are packed there, while somebody else may put more into it.
#[derive(Debug, Clone)]
pub struct Chunks(Arc<Mutex<Connection>>);

impl Store {
    /// What reads its short contents.
    pub fn chunks(&self) -> Chunks {
        Chunks(self.db.clone())
    }
}

impl Chunks {
    /// A content of one chunk, packed, if the store has it. Nothing of it has been checked; and a store that
    /// fails is as good as none here.
    pub fn packed(&self, hash: &ContentHash, size: u64) -> Option<Packed> {
        if size == 0 || size > CHUNK as u64 {
            return None;
        }
        let db = lock(&self.0);
        let found = db.prepare_cached(
            "SELECT bytes FROM chunks WHERE id = \
             (SELECT id << ?2 FROM contents WHERE hash = ?1 AND size = ?3 AND place = 1)",
        );
        let row = found.ok()?.query_row((&hash.0[..], CHUNK_BITS, size as i64), |row| row.get(0));
        row.optional().ok()?.map(|chunk| Packed::of_chunk(*hash, size, chunk))
    }
}
