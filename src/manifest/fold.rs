//! Moved directories in one message instead of two rows for each entry.
//!
//! The initiator finds in its statement a directory that stands elsewhere, but for a few entries
//! that were changed, added or removed as well; the responder makes the same rows from its own and
//! compares a digest of them. Where it does not match, the rows are stated one by one after all.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use psync_protocol::codec::Put;
use psync_protocol::manifest::ENTRIES_MAX;
use psync_protocol::message::{EXCEPTION_BYTES, EXCEPTIONS_MAX, MOVED_MAX, Moved};
use psync_protocol::{Content, ContentHash, Props, RelPath, ReplicaId, Row, Version};

use super::Stored;

/// Below this many entries a directory's rows are stated one by one.
const WORTH: usize = 8;

/// What a statement is made of.
#[derive(Debug, Default)]
pub struct Folded {
    /// Positions of the rows that have to be stated one by one.
    pub told: Vec<usize>,
    /// Directories that stand for the others.
    pub moved: Vec<Moved>,
}

/// Finds the directories that were moved by `author`, in rows sorted by path.
pub fn fold(rows: &[Stored], author: ReplicaId) -> Folded {
    let mut covered = vec![false; rows.len()];
    let mut moved = Vec::new();
    let mut sources: HashSet<RelPath> = HashSet::new();
    for at in 0..rows.len() {
        // What moved out of a directory that moved is an exception of that one.
        let is_exception = || rows[at].row.path.ancestors().any(|dir| sources.contains(&dir));
        if covered[at] || moved.len() == MOVED_MAX || is_exception() {
            continue;
        }
        if let Some((found, positions)) = moved_directory(rows, at, author, &covered) {
            positions.into_iter().for_each(|position| covered[position] = true);
            sources.insert(found.from.clone());
            moved.push(found);
        }
    }
    let told = (0..rows.len()).filter(|&at| !covered[at]).collect();
    Folded { told, moved }
}

/// The move of the directory whose tombstone stands at `at`, with the positions of the rows that it
/// stands for; none of them is `taken` by another move.
fn moved_directory(
    rows: &[Stored],
    at: usize,
    author: ReplicaId,
    taken: &[bool],
) -> Option<(Moved, Vec<usize>)> {
    let buried = &rows[at].row;
    if buried.content.is_live()
        || buried.base != Some(<ContentHash as psync_protocol::entry::Fingerprint>::DIRECTORY)
    {
        return None;
    }
    let from = &buried.path;
    let old = below(rows, from);
    if old.len() + 1 < WORTH || old.clone().any(|at| taken[at]) {
        return None;
    }
    let to = target_directory(rows, old.clone(), from)?;
    let counter = buried.content_version.counter(author);
    let fresh = Version::default().bump(author, counter);
    let (mut gone, mut come, mut except) = (Vec::new(), Vec::new(), Vec::new());
    for at in [at].into_iter().chain(old) {
        let row = &rows[at].row;
        let rest = &row.path.as_bytes()[from.as_bytes().len()..];
        let target = RelPath::new(&[to.as_bytes(), rest].concat()).ok();
        let arrived = target
            .and_then(|target| rows.binary_search_by(|stored| stored.row.path.cmp(&target)).ok())
            .filter(|&new| !taken[new])
            .filter(|_| row.content_version.counter(author) == counter)
            .filter(|&new| is_move(row, &rows[new].row, &fresh));
        match arrived {
            Some(new) => {
                gone.push(at);
                come.push(new);
            }
            // A path that is not the directory's own has a slash before the rest.
            None => except.push(RelPath::new(rest.get(1..)?).ok()?),
        }
    }
    // Beyond this it is rather another directory.
    let worth = gone.len() >= WORTH && except.len() <= gone.len();
    if !worth || except.len() > EXCEPTIONS_MAX {
        return None;
    }
    let positions = [gone, come].concat();
    let digest = digest(positions.iter().map(|&position| &rows[position].row));
    let moved = Moved { from: from.clone(), to, counter, except, digest };
    (moved.exception_bytes() <= EXCEPTION_BYTES).then_some((moved, positions))
}

/// Whether two rows are those that [`unfold`] makes of an entry that was moved and nothing else, as
/// far as they tell.
fn is_move(gone: &Row<ContentHash>, come: &Row<ContentHash>, fresh: &Version) -> bool {
    let Content::Deleted { moved_to } = &gone.content else { return false };
    let named = match come.content {
        Content::File { size: 1.., .. } => moved_to.as_ref() == Some(&come.path),
        _ => moved_to.is_none(),
    };
    named
        && gone.base.is_some()
        && gone.base == come.content.fingerprint()
        && gone.agreed_mode == come.props.mode
        && come.base.is_none()
        && come.content_version == *fresh
        && come.props_version == *fresh
}

/// The rows below a directory.
fn below(rows: &[Stored], dir: &RelPath) -> Range<usize> {
    let start = [dir.as_bytes(), b"/"].concat();
    let end = [dir.as_bytes(), b"0"].concat();
    let first = rows.partition_point(|stored| stored.row.path.as_bytes() < &start[..]);
    let last = rows.partition_point(|stored| stored.row.path.as_bytes() < &end[..]);
    first..last
}

/// Where a directory went: where most of its files did.
fn target_directory(rows: &[Stored], old: Range<usize>, from: &RelPath) -> Option<RelPath> {
    let mut votes: HashMap<&[u8], usize> = HashMap::new();
    for row in rows[old].iter().map(|stored| &stored.row) {
        let Content::Deleted { moved_to: Some(target) } = &row.content else { continue };
        let rest = row.path.as_bytes().strip_prefix(from.as_bytes())?;
        if let Some(directory) = target.as_bytes().strip_suffix(rest) {
            *votes.entry(directory).or_default() += 1;
        }
    }
    // Of equal numbers the first by name: the same choice every time.
    let most = votes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
    let to = RelPath::new(most?.0).ok()?;
    let apart = to != *from && !to.is_below(from) && !from.is_below(&to);
    apart.then_some(to)
}

/// The rows that a move stands for, made from this end's own live rows of the directory (itself
/// first, then what is below it in order), but for the exceptions; none if they are not the rows
/// that were meant, or more than `room`.
pub fn unfold(
    moved: &Moved,
    own: &[Stored],
    author: ReplicaId,
    room: usize,
) -> Option<Vec<Row<ContentHash>>> {
    let fresh = Version::default().bump(author, moved.counter);
    let except: HashSet<&[u8]> = moved.except.iter().map(RelPath::as_bytes).collect();
    let is_covered = |row: &&Row<ContentHash>| {
        let rest = row.path.as_bytes().get(moved.from.as_bytes().len() + 1..);
        row.content.is_live() && rest.is_none_or(|rest| !except.contains(rest))
    };
    let target = |row: &Row<ContentHash>| {
        let rest = row.path.as_bytes().strip_prefix(moved.from.as_bytes())?;
        RelPath::new(&[moved.to.as_bytes(), rest].concat()).ok()
    };
    let mut gone = Vec::with_capacity(own.len());
    let mut come = Vec::with_capacity(own.len());
    for row in own.iter().map(|stored| &stored.row).filter(is_covered) {
        if 2 * gone.len() + 2 > room {
            return None;
        }
        let to = target(row)?;
        let has_content = matches!(row.content, Content::File { size: 1.., .. });
        gone.push(Row {
            path: row.path.clone(),
            content: Content::Deleted { moved_to: has_content.then(|| to.clone()) },
            base: row.content.fingerprint(),
            props: Props::default(),
            agreed_mode: 0,
            content_version: row.content_version.bump(author, moved.counter),
            props_version: row.props_version.clone(),
        });
        come.push(Row {
            path: to,
            base: None,
            agreed_mode: row.props.mode,
            content_version: fresh.clone(),
            props_version: fresh.clone(),
            ..row.clone()
        });
    }
    gone.extend(come);
    (digest(gone.iter()) == moved.digest).then_some(gone)
}

/// How many rows a statement may still hold.
pub fn room(stated: usize) -> usize {
    ENTRIES_MAX.saturating_sub(stated)
}

/// Digest of rows: everything that is stated of them, with full hashes.
fn digest<'a>(rows: impl Iterator<Item = &'a Row<ContentHash>>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 moved directory");
    let mut bytes = Vec::new();
    for row in rows {
        bytes.clear();
        bytes.put_bytes(row.path.as_bytes());
        match &row.content {
            Content::Deleted { moved_to } => {
                bytes.push(0);
                bytes.put_bytes(moved_to.as_ref().map_or(b"", |to| to.as_bytes()));
            }
            Content::Directory => bytes.push(1),
            Content::File { size, hash } => {
                bytes.push(2);
                bytes.put_varint(*size);
                bytes.put_raw(&hash.0);
            }
            Content::Symlink { target, .. } => {
                bytes.push(3);
                bytes.put_bytes(target);
            }
        }
        bytes.put_raw(&row.base.map_or([0; 32], |base| base.0));
        bytes.put_varint(u64::from(row.props.mode));
        bytes.put_signed(row.props.mtime.secs);
        bytes.put_varint(u64::from(row.props.mtime.nanos));
        for version in [&row.content_version, &row.props_version] {
            bytes.put_varint(version.pairs().len() as u64);
            for (replica, counter) in version.pairs() {
                bytes.put_raw(&replica.0);
                bytes.put_varint(*counter);
            }
        }
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    let mut digest = [0; 16];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

#[cfg(test)]
mod tests;
