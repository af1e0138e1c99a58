//! What an index can tell of the past of its paths: what stood there when a peer was met.

use psync_protocol::entry::Fingerprint;
use psync_protocol::{ContentHash, RelPath};

use super::{Index, IndexError};
use crate::manifest::{Reference, Trace};

impl Index {
    /// The traces of all rows, by path.
    pub fn traces(&self) -> Result<Vec<Trace>, IndexError> {
        let mut statement = self.db.prepare_cached(
            "SELECT path, kind, hash, size, target, base, base_size, changed FROM entries
             ORDER BY path",
        )?;
        let mut rows = statement.query([])?;
        let mut traces = Vec::new();
        while let Some(row) = rows.next()? {
            let path = |at| -> Result<Option<RelPath>, IndexError> {
                let bytes = row.get_ref(at)?.as_blob_or_null();
                let bytes = bytes.map_err(|_| IndexError::Nonsense("a path"))?;
                bytes.map(RelPath::new).transpose().map_err(|_| IndexError::Nonsense("a path"))
            };
            let kind = row.get::<_, i64>(1)?;
            let hash = row.get::<_, Option<[u8; 32]>>(2)?.map(ContentHash);
            let size = (kind == 2).then_some(row.get::<_, i64>(3)? as u64);
            let hash = match kind {
                0 => None,
                1 => Some(ContentHash::DIRECTORY),
                _ => Some(hash.ok_or(IndexError::Nonsense("a missing hash"))?),
            };
            let base_size = row.get::<_, Option<i64>>(6)?.map(|size| size as u64);
            let base = row.get::<_, Option<[u8; 32]>>(5)?.map(ContentHash);
            traces.push(Trace {
                path: path(0)?.ok_or(IndexError::Nonsense("a path"))?,
                content: hash.map(|hash| Reference { hash, size }),
                moved_to: if kind == 0 { path(4)? } else { None },
                base: base.map(|hash| Reference { hash, size: base_size }),
                changed: row.get::<_, i64>(7)? as u64,
            });
        }
        Ok(traces)
    }
}
