//! Moved directories in one message instead of two rows for each entry.
//!
//! The initiator finds in its statement a directory that stands elsewhere whole; the responder
//! makes the same rows from its own and compares a digest of them. Where it does not match, the
//! rows are stated one by one after all.

use std::ops::Range;

use psync_protocol::codec::Put;
use psync_protocol::message::Moved;
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

/// Finds the directories that were moved whole by `author`, in rows sorted by path.
pub fn fold(rows: &[Stored], author: ReplicaId) -> Folded {
    let mut covered = vec![false; rows.len()];
    let mut moved = Vec::new();
    for at in 0..rows.len() {
        if covered[at] {
            continue;
        }
        if let Some((found, positions)) = moved_directory(rows, at, author) {
            positions.into_iter().for_each(|position| covered[position] = true);
            moved.push(found);
        }
    }
    let told = (0..rows.len()).filter(|&at| !covered[at]).collect();
    Folded { told, moved }
}

/// The move of the directory whose tombstone stands at `at`, with the positions of its rows.
fn moved_directory(rows: &[Stored], at: usize, author: ReplicaId) -> Option<(Moved, Vec<usize>)> {
    let buried = &rows[at].row;
    if buried.content.is_live()
        || buried.base != Some(<ContentHash as psync_protocol::entry::Fingerprint>::DIRECTORY)
    {
        return None;
    }
    let from = &buried.path;
    let old = below(rows, from);
    if old.len() + 1 < WORTH {
        return None;
    }
    let to = old.clone().find_map(|at| target_directory(&rows[at].row, from))?;
    let new = below(rows, &to);
    let new_directory = rows.binary_search_by(|stored| stored.row.path.cmp(&to)).ok()?;
    if new.len() != old.len() {
        return None;
    }
    let counter = buried.content_version.counter(author);
    let positions: Vec<usize> =
        [at].into_iter().chain(old).chain([new_directory]).chain(new).collect();
    let (gone, come) = positions.split_at(positions.len() / 2);
    let fresh = Version::default().bump(author, counter);
    let pairs = gone.iter().zip(come).map(|(&gone, &come)| (&rows[gone].row, &rows[come].row));
    for (gone, come) in pairs {
        let same_place = gone.path.as_bytes()[from.as_bytes().len()..]
            == come.path.as_bytes()[to.as_bytes().len()..];
        let matches = same_place
            && !gone.content.is_live()
            && gone.base == come.content.fingerprint()
            && gone.content_version.counter(author) == counter
            && come.base.is_none()
            && come.content_version == fresh
            && come.props_version == fresh;
        if !matches {
            return None;
        }
    }
    let digest = digest(positions.iter().map(|&position| &rows[position].row));
    Some((Moved { from: from.clone(), to, counter, digest }, positions))
}

/// The rows below a directory.
fn below(rows: &[Stored], dir: &RelPath) -> Range<usize> {
    let start = [dir.as_bytes(), b"/"].concat();
    let end = [dir.as_bytes(), b"0"].concat();
    let first = rows.partition_point(|stored| stored.row.path.as_bytes() < &start[..]);
    let last = rows.partition_point(|stored| stored.row.path.as_bytes() < &end[..]);
    first..last
}

/// Where a directory went, judging by one file in it.
fn target_directory(row: &Row<ContentHash>, from: &RelPath) -> Option<RelPath> {
    let Content::Deleted { moved_to: Some(target) } = &row.content else { return None };
    let rest = row.path.as_bytes().strip_prefix(from.as_bytes())?;
    RelPath::new(target.as_bytes().strip_suffix(rest)?).ok()
}

/// The rows that a move stands for, made from this end's own live rows of the directory (itself
/// first, then what is below it in order); none if they are not the rows that were meant.
pub fn unfold(moved: &Moved, own: &[Stored], author: ReplicaId) -> Option<Vec<Row<ContentHash>>> {
    let fresh = Version::default().bump(author, moved.counter);
    let target = |row: &Row<ContentHash>| {
        let rest = row.path.as_bytes().strip_prefix(moved.from.as_bytes())?;
        RelPath::new(&[moved.to.as_bytes(), rest].concat()).ok()
    };
    let mut gone = Vec::with_capacity(own.len());
    let mut come = Vec::with_capacity(own.len());
    for row in own.iter().map(|stored| &stored.row).filter(|row| row.content.is_live()) {
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
