//! Changes of entries that both ends know from their last session, stated by number.
//!
//! Each end makes the list of these entries from its own index, each with what stood there then;
//! a digest says whether the two lists are the same. Where they are not, or one end cannot tell
//! what the other leaves unsaid, the rows are stated one by one after all.

use std::collections::HashSet;

use psync_protocol::changes::{Altered, Change, Fate, Known};
use psync_protocol::codec::Put;
use psync_protocol::entry::Fingerprint;
use psync_protocol::session::Manners;
use psync_protocol::{Check, CheckKey, Content, ContentHash, Props, RelPath, Row};

use super::Stored;

/// Below this many changes they are stated one by one.
pub const WORTH: usize = 64;

/// What an index can tell of a path's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Where.
    pub path: RelPath,
    /// What stands there now; none for a tombstone.
    pub content: Option<Reference>,
    /// Where it went, if this replica saw it move.
    pub moved_to: Option<RelPath>,
    /// What stood there before the latest change and was known to some peer.
    pub base: Option<Reference>,
    /// The sequence number of the change that made its content what it is.
    pub changed: u64,
}

/// A content that an index knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Its full hash.
    pub hash: ContentHash,
    /// Its length, if it is a file and the length is known.
    pub size: Option<u64>,
}

/// The entries that were live at the end of a session, with what stood there then: files and links
/// first, then directories, each by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct References {
    entries: Vec<(RelPath, Reference)>,
    directories_at: usize,
}

impl References {
    /// Makes the list for a session that ended when the index had given `since`, from all rows of
    /// the index by path, but for those that are `left_out` (by path, and whether the entry is a
    /// directory).
    pub fn new(
        traces: Vec<Trace>,
        since: u64,
        left_out: impl Fn(&RelPath, bool) -> bool,
    ) -> References {
        let is_new = |trace: &&Trace| trace.changed > since;
        // What moved to a path and was edited there has a base that never stood there.
        let targets: HashSet<RelPath> =
            traces.iter().filter(is_new).filter_map(|trace| trace.moved_to.clone()).collect();
        let stood = |trace: Trace| {
            let reference = match trace.changed > since {
                false => trace.content,
                true if targets.contains(&trace.path) => None,
                true => trace.base,
            };
            Some((trace.path, reference?))
        };
        let is_directory =
            |(_, reference): &(RelPath, Reference)| reference.hash == ContentHash::DIRECTORY;
        let entries = traces.into_iter().filter_map(stood);
        let entries = entries.filter(|entry| !left_out(&entry.0, is_directory(entry)));
        let (directories, mut entries): (Vec<_>, Vec<_>) = entries.partition(is_directory);
        let directories_at = entries.len();
        entries.extend(directories);
        References { entries, directories_at }
    }

    /// What tells whether two lists are the same.
    pub fn known(&self) -> Known {
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 known entries");
        let mut bytes = Vec::new();
        for (path, reference) in &self.entries {
            bytes.clear();
            bytes.put_bytes(path.as_bytes());
            bytes.put_raw(&reference.hash.0);
            hasher.update(&bytes);
        }
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Known { count: self.entries.len() as u64, digest }
    }

    fn find(&self, path: &RelPath) -> Option<(usize, Reference)> {
        let (first, second) = self.entries.split_at(self.directories_at);
        let at = first.binary_search_by(|(other, _)| other.cmp(path)).or_else(|_| {
            let at = second.binary_search_by(|(other, _)| other.cmp(path));
            at.map(|at| at + self.directories_at)
        });
        at.ok().map(|at| (at, self.entries[at].1))
    }
}

/// What of a statement goes by number.
#[derive(Debug)]
pub struct Numbered {
    /// Positions of the rows that are stated one by one.
    pub told: Vec<usize>,
    /// The others.
    pub altered: Altered,
    /// What became of these, by path.
    pub manners: Manners,
}

/// Finds the rows, out of those to be `told`, that can go by number; none if there are fewer of
/// them than it is `worth`.
/// `stated` are the same rows as the peer is told; of one whose content is what it was then the
/// base says nothing that the peer needs, and is taken away.
pub fn number(
    rows: &[Stored],
    stated: &mut [Row<Check>],
    told: &[usize],
    references: &References,
    worth: usize,
) -> Option<Numbered> {
    let targets: HashSet<&RelPath> = told.iter().filter_map(|&at| moved_to(&rows[at])).collect();
    let (mut plain, mut changes, mut manners) = (Vec::new(), Vec::new(), Manners::default());
    let mut kept = Vec::new();
    for &at in told {
        let row = &rows[at].row;
        let known = references.find(&row.path).filter(|_| !targets.contains(&row.path));
        let fate = known.and_then(|(_, reference)| fate(&rows[at], &stated[at], reference));
        let (Some((number, _)), Some(fate)) = (known, fate) else {
            plain.push(at);
            continue;
        };
        if let Fate::Kept { .. } = fate {
            kept.push(at);
        }
        manners.note(row.path.clone(), &fate);
        changes.push(Change {
            number,
            fate,
            content_version: row.content_version.clone(),
            props_version: row.props_version.clone(),
        });
    }
    if changes.len() < worth {
        return None;
    }
    kept.into_iter().for_each(|at| stated[at].base = None);
    changes.sort_unstable_by_key(|change| change.number);
    Some(Numbered { told: plain, altered: Altered { known: references.known(), changes }, manners })
}

fn moved_to(stored: &Stored) -> Option<&RelPath> {
    match &stored.row.content {
        Content::Deleted { moved_to } => moved_to.as_ref(),
        Content::Directory | Content::File { .. } | Content::Symlink { .. } => None,
    }
}

/// What became of a known entry, if it can be said without its path.
fn fate(stored: &Stored, stated: &Row<Check>, reference: Reference) -> Option<Fate> {
    let row = &stored.row;
    let (props, agreed_mode) = (row.props, row.agreed_mode);
    let builds_on_it = row.base == Some(reference.hash);
    match &stated.content {
        Content::Deleted { .. } => {
            (builds_on_it && moved_to(stored).is_none()).then_some(Fate::Deleted)
        }
        // A symlink has a mode nowhere, and none to agree on.
        Content::Symlink { .. } if row.content.fingerprint() == Some(reference.hash) => {
            Some(Fate::Kept { props: Props { mode: 0, ..props }, agreed_mode: 0 })
        }
        Content::Directory | Content::File { .. }
            if row.content.fingerprint() == Some(reference.hash) =>
        {
            Some(Fate::Kept { props, agreed_mode })
        }
        Content::File { size, hash } if builds_on_it => {
            Some(Fate::Edited { size: *size, check: *hash, props, agreed_mode })
        }
        Content::Directory | Content::File { .. } | Content::Symlink { .. } => None,
    }
}

/// Rows that were stated by number, by path, and what became of each.
pub type Unnumbered = (Vec<Row<Check>>, Manners);

/// The rows that were stated by number under `key`; none if the
/// lists are not the same, or this end cannot tell what was left unsaid. `own` gives this end's
/// own row of a path.
pub fn unnumber<E>(
    altered: &Altered,
    references: &References,
    key: &CheckKey,
    mut own: impl FnMut(&RelPath) -> Result<Option<Stored>, E>,
) -> Result<Option<Unnumbered>, E> {
    if altered.known != references.known() {
        return Ok(None);
    }
    let mut rows = Vec::with_capacity(altered.changes.len());
    let mut manners = Manners::default();
    for change in &altered.changes {
        let Some((path, reference)) = references.entries.get(change.number) else {
            return Ok(None);
        };
        let mut row = Row {
            content_version: change.content_version.clone(),
            props_version: change.props_version.clone(),
            ..Row::absent(path.clone())
        };
        let base = match reference.hash {
            ContentHash::DIRECTORY => Check::DIRECTORY,
            ref hash => key.check(hash),
        };
        match change.fate {
            Fate::Deleted => row.base = Some(base),
            Fate::Edited { size, check, props, agreed_mode } => {
                row.content = Content::File { size, hash: check };
                (row.base, row.props, row.agreed_mode) = (Some(base), props, agreed_mode);
            }
            Fate::Kept { props, agreed_mode } => {
                let Some(content) = kept(path, *reference, base, key, &mut own)? else {
                    return Ok(None);
                };
                (row.content, row.props, row.agreed_mode) = (content, props, agreed_mode);
            }
        }
        manners.note(path.clone(), &change.fate);
        rows.push(as_read(row));
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some((rows, manners)))
}

/// The content of an entry that the other end has as it was; none if this end cannot tell.
fn kept<E>(
    path: &RelPath,
    reference: Reference,
    check: Check,
    key: &CheckKey,
    own: &mut impl FnMut(&RelPath) -> Result<Option<Stored>, E>,
) -> Result<Option<Content<Check>>, E> {
    Ok(match (reference.hash, reference.size) {
        (ContentHash::DIRECTORY, _) => Some(Content::Directory),
        (_, Some(size)) => Some(Content::File { size, hash: check }),
        (hash, None) => own(path)?
            .filter(|stored| stored.row.content.fingerprint() == Some(hash))
            .map(|stored| stored.row.stated(key).content),
    })
}

/// A symlink has no mode and a directory no time, whatever was said.
fn as_read(mut row: Row<Check>) -> Row<Check> {
    match row.content {
        Content::Directory => row.props.mtime = Props::default().mtime,
        Content::Symlink { .. } => (row.props.mode, row.agreed_mode) = (0, 0),
        Content::Deleted { .. } | Content::File { .. } => {}
    }
    row
}

#[cfg(test)]
mod tests;
