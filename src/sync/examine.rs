//! Reading all contents of a root again and comparing them with its index: what rotted is told from
//! what was edited. Nothing is changed, but by [`set_aside`].

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use psync_protocol::{Content, ContentHash, RelPath};

use super::{Sight, Site, SyncError};
use crate::index::{Index, IndexError};
use crate::manifest::{Stamp, Stored};
use crate::root::{FileKind, Root, Stat, hash_reader};

/// Most threads that read one tree.
const THREADS_MAX: usize = 8;

/// What is wrong at a path, or at least different from what the index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The content is another one, though nobody touched the file: size, times and inode are those
    /// that it had when it was hashed. The disk, or what lies between, has changed it.
    Rotted,
    /// The content is another one, though size and modification time are the same; what else would
    /// show that nobody touched the file is not known.
    Doubtful,
    /// Nothing stands there.
    Missing,
    /// It was changed since the last run, as anybody may.
    Edited,
    /// It cannot be read.
    Unreadable(String),
}

/// A path, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The path.
    pub path: RelPath,
    /// What is wrong.
    pub fault: Fault,
}

impl Finding {
    /// Whether the content is another one without having been edited, as far as can be seen.
    pub fn is_damage(&self) -> bool {
        matches!(self.fault, Fault::Rotted | Fault::Doubtful)
    }
}

/// What an examination came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// Entries that were looked at.
    pub entries: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
    /// What is not as the index says, by path.
    pub findings: Vec<Finding>,
}

/// Reads everything that the index knows of, or only these paths, and compares. `progress` hears of
/// the bytes that were read, from any thread.
pub fn examine(
    sight: &mut Sight,
    only: Option<&[RelPath]>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Examined, SyncError> {
    let rows = match only {
        None => sight.index.rows_since(0)?,
        Some(paths) => {
            let rows = paths.iter().map(|path| sight.index.row(path));
            rows.filter_map(Result::transpose).collect::<Result<_, IndexError>>()?
        }
    };
    let rows: Vec<Stored> = rows.into_iter().filter(|row| row.row.content.is_live()).collect();
    let root = &sight.root;
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut part, mut buffer) = (Examined::default(), Vec::new());
        while let Some(stored) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (fault, bytes) = compare(root, stored, &mut buffer);
            part.entries += 1;
            part.bytes += bytes;
            let path = stored.row.path.clone();
            part.findings.extend(fault.map(|fault| Finding { path, fault }));
            progress(bytes);
        }
        part
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.clamp(1, THREADS_MAX).min(rows.len().max(1));
    let parts: Vec<Examined> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut whole = Examined::default();
    for part in parts {
        whole.entries += part.entries;
        whole.bytes += part.bytes;
        whole.findings.extend(part.findings);
    }
    whole.findings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(whole)
}

/// What is wrong with one entry, and how many bytes were read for it.
fn compare(root: &Root, stored: &Stored, buffer: &mut Vec<u8>) -> (Option<Fault>, u64) {
    let refused = |error: std::io::Error| match crate::root::is_absent(&error) {
        true => Fault::Missing,
        false => Fault::Unreadable(error.to_string()),
    };
    let path = &stored.row.path;
    let stat = match root.stat(path) {
        Ok(Some(stat)) => stat,
        Ok(None) => return (Some(Fault::Missing), 0),
        Err(error) => return (Some(refused(error)), 0),
    };
    match (&stored.row.content, stat.kind) {
        (Content::Directory, FileKind::Directory) => (None, 0),
        (Content::Symlink { target, .. }, FileKind::Symlink) => match root.read_link(path) {
            Ok(found) if found == *target => (None, 0),
            Ok(_) => (Some(blame(stored, &stat)), 0),
            Err(error) => (Some(refused(error)), 0),
        },
        (Content::File { hash, .. }, FileKind::File) => {
            let read = root
                .open_file(path)
                .and_then(|(mut file, before)| Ok((hash_reader(&mut file, buffer)?, before)));
            let ((found, size), before) = match read {
                Ok(read) => read,
                Err(error) => return (Some(refused(error)), 0),
            };
            if found == *hash {
                return (None, size);
            }
            // By name again: what changes while it is read is being edited.
            match root.stat(path) {
                Ok(Some(after)) if after == before => (Some(blame(stored, &after)), size),
                Ok(_) => (Some(Fault::Edited), size),
                Err(error) => (Some(refused(error)), size),
            }
        }
        _ => (Some(Fault::Edited), 0),
    }
}

/// Who made a content another one: somebody, or nobody.
fn blame(stored: &Stored, stat: &Stat) -> Fault {
    if stored.stamp != Stamp::UNKNOWN && stored.stamp == stat.stamp() {
        return Fault::Rotted;
    }
    let same_size = match stored.row.content {
        Content::File { size, .. } => size == stat.size,
        Content::Symlink { .. } | Content::Directory | Content::Deleted { .. } => true,
    };
    match same_size && stored.row.props.mtime == stat.mtime {
        true => Fault::Doubtful,
        false => Fault::Edited,
    }
}

/// What an index says of contents: the fingerprint of each live entry.
pub fn contents(index: &mut Index) -> Result<BTreeMap<RelPath, ContentHash>, SyncError> {
    let rows = index.rows_since(0)?.into_iter();
    let entry = |stored: Stored| Some((stored.row.path, stored.row.content.fingerprint()?));
    Ok(rows.filter_map(entry).collect())
}

/// A digest of [`contents`]: two indexes with the same one say the same of every content.
pub fn digest(contents: &BTreeMap<RelPath, ContentHash>) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 contents of an index");
    for (path, hash) in contents {
        hasher.update(&(path.as_bytes().len() as u64).to_le_bytes());
        hasher.update(path.as_bytes()).update(&hash.0);
    }
    ContentHash(hasher.finalize().into())
}

/// A path, and why nothing could be done about it if so.
pub type Handled = (RelPath, Result<(), String>);

/// Takes files out of the tree whose content rotted, so that the next sync brings the good one: each
/// goes to the trash, and the index forgets it - neither its old content nor a deletion is stated.
/// A file that is not as it was examined stays. Returns which are set aside, and why others are not.
pub fn set_aside(site: &mut Site, paths: &[RelPath], run: &str) -> Result<Vec<Handled>, SyncError> {
    let mut buffer = Vec::new();
    let mut outcomes = Vec::with_capacity(paths.len());
    for path in paths {
        let stored = site.index.row(path)?;
        let outcome = match stored.map(|stored| compare(&site.root, &stored, &mut buffer).0) {
            Some(Some(Fault::Rotted | Fault::Doubtful)) => withdraw(site, path, run)?,
            Some(_) | None => Err("is not as it was when it was examined".to_string()),
        };
        outcomes.push((path.clone(), outcome));
    }
    Ok(outcomes)
}

/// The row goes first: after a crash in between the file is taken for a new one, and both contents
/// are kept as a conflict. The other way round its absence would be taken for a deletion.
fn withdraw(site: &mut Site, path: &RelPath, run: &str) -> Result<Result<(), String>, SyncError> {
    let row = site.index.row(path)?;
    site.index.transaction(|index| {
        index.forget_row(path)?;
        index.state_everything_anew()
    })?;
    if let Err(error) = site.staging.withdraw(&site.root, run, path) {
        if let Some(row) = row {
            site.index.transaction(|index| index.put(&row))?;
        }
        return Ok(Err(format!("cannot be moved to the trash: {error}")));
    }
    Ok(Ok(()))
}
