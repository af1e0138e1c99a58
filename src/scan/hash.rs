//! Hashing changed files with a pool of threads.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use psync_protocol::{Content, ContentHash, RelPath};

use super::walk::{Found, threads};
use crate::root::{FileKind, HeldDir, Root, Stat, hash_reader};

/// Entries that a thread takes at a time: they are sorted, so that most stand in one directory.
const TAKEN: usize = 32;

/// What one found entry turned out to be.
#[derive(Debug)]
pub(super) struct Read1 {
    pub(super) content: Content<ContentHash>,
    pub(super) stat: Stat,
}

/// Why an entry could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is not there any more: the next scan will tell.
    Vanished,
    /// It changed while it was read, twice.
    Changed,
    /// The system refused.
    Refused(io::Error),
}

/// Reads every found entry; the results are in the same order.
pub(super) fn read_all(root: &Root, found: &[Found]) -> Vec<Result<Read1, Unread>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut buffer, mut held) = (Vec::new(), HeldDir::default());
        let mut results = Vec::new();
        loop {
            let start = next.fetch_add(TAKEN, Ordering::Relaxed);
            let taken = found.iter().enumerate().skip(start).take(TAKEN);
            if taken.len() == 0 {
                return results;
            }
            results
                .extend(taken.map(|(at, entry)| (at, read(root, &mut held, entry, &mut buffer))));
            // It is found anew now and then, as somebody may move it.
            held = HeldDir::default();
        }
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads().min(found.len().div_ceil(TAKEN))).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(super::joined).collect()
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn read(
    root: &Root,
    held: &mut HeldDir,
    entry: &Found,
    buffer: &mut Vec<u8>,
) -> Result<Read1, Unread> {
    let result = match entry.stat.kind {
        FileKind::Directory => Ok(Read1 { content: Content::Directory, stat: entry.stat }),
        FileKind::Symlink => root.read_link(&entry.path).map(|target| {
            let hash = ContentHash::of_target(&target);
            Read1 { content: Content::Symlink { target, hash }, stat: entry.stat }
        }),
        FileKind::File => return read_file(root, held, &entry.path, buffer),
        FileKind::Special => Err(io::Error::other("is not a regular file any more")),
    };
    result.map_err(refused)
}

fn refused(error: io::Error) -> Unread {
    if crate::root::is_absent(&error) { Unread::Vanished } else { Unread::Refused(error) }
}

/// Hashes a file. One that changes meanwhile is read once more, then given up for this run.
fn read_file(
    root: &Root,
    held: &mut HeldDir,
    path: &RelPath,
    buffer: &mut Vec<u8>,
) -> Result<Read1, Unread> {
    for _ in 0..2 {
        let (mut file, before) = root.open_file_in(held, path).map_err(refused)?;
        let (hash, size) = hash_reader(&mut file, buffer).map_err(Unread::Refused)?;
        // By name again: the file may have been replaced, not only written to.
        let after = root.stat_in(held, path).map_err(Unread::Refused)?.ok_or(Unread::Vanished)?;
        if before.same_content(&after) && size == after.size {
            return Ok(Read1 { content: Content::File { size, hash }, stat: after });
        }
    }
    Err(Unread::Changed)
}
