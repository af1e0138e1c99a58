//! Scanning: what has changed in a root since the index was written. Only what does not look as
//! remembered is read; what cannot be read is a problem, never a deletion.

mod changes;
mod explain;
mod hash;
mod scope;
mod walk;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::time::SystemTime;

use psync_protocol::message::{Problem, ProblemKind};
use psync_protocol::{Content, RelPath};
use thiserror::Error;

pub use explain::{Cause, Origin, explain};
pub use scope::{BadPattern, IGNORE_FILE, IgnoreFile, Rules, Scope};

use crate::index::{Index, IndexError, Known};
use crate::journal::Edit;
use crate::manifest::{Stored, database_of, with_companions};
use crate::report::Report;
use crate::root::{FileKind, Locked, Root};
use changes::{Seen, Step};
use hash::{Read1, Unread};
use walk::{Found, Walked};

/// What a scan found out about a root, besides what it wrote into the index.
#[derive(Debug)]
pub struct Survey {
    /// What a person should hear of.
    pub problems: Vec<Problem>,
    /// What is synced.
    pub scope: Scope,
    /// Entries in scope.
    pub live: u64,
    /// What was changed here since the last scan, of what was known then: for the journal.
    pub edits: Vec<Edit>,
    blind: HashSet<RelPath>,
}

impl Survey {
    /// Whether nothing can be said about a path: it, or a directory above it, could not be read
    /// or is of a kind that is not synced.
    pub fn is_blind(&self, path: &RelPath) -> bool {
        !self.blind.is_empty()
            && (self.blind.contains(path) || path.ancestors().any(|dir| self.blind.contains(&dir)))
    }

    /// Whether something can be said about every path.
    pub fn sees_all(&self) -> bool {
        self.blind.is_empty()
    }

    /// Whether what the index says about a row is what stands on disk, and concerns the peer.
    pub fn speaks_of(&self, stored: &Stored) -> bool {
        self.speaks_at(&stored.row.path, matches!(stored.row.content, Content::Directory))
    }

    /// The same for whatever is a directory, or is none, at a path.
    pub fn speaks_at(&self, path: &RelPath, is_dir: bool) -> bool {
        !self.is_blind(path) && self.scope.covers(path, is_dir)
    }
}

/// Why a scan cannot be made.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The root itself cannot be read.
    #[error("cannot read the directory: {0}")]
    Root(io::Error),
    /// The state database fails.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Everything is gone: more likely a disk that is not mounted than a person's wish.
    #[error(
        "the root is empty, and had {0} entries last time; if all of them were really deleted, say so with --max-delete=100%"
    )]
    Emptied(u64),
}

/// What was found out, but for the index to be told.
#[derive(Debug)]
pub struct Findings {
    survey: Survey,
    steps: Vec<Step>,
    /// The reading of the clock in the versions of what has changed.
    clock: u64,
    forget_announced: bool,
}

impl Findings {
    /// The survey.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The rows that have changed.
    pub fn changed(&self) -> impl Iterator<Item = &Stored> {
        changed(&self.steps)
    }

    /// Makes sure that the reading of the clock in the versions of what has changed is never given
    /// to anything else, even if the index does not come to hear of it. Then a peer may.
    pub fn reserve_clock(&self, index: &mut Index) -> Result<(), IndexError> {
        if self.changed().next().is_none() {
            return Ok(());
        }
        let clock = self.clock;
        index.transaction(|index| {
            index.use_clock(clock);
            Ok(())
        })
    }

    /// Tells the index.
    pub fn record(self, index: &mut Index) -> Result<Survey, ScanError> {
        write(index, &self.steps, self.clock, self.forget_announced)?;
        Ok(self.survey)
    }
}

/// Brings the index up to date with the tree.
pub fn scan(
    root: &Root,
    index: &mut Index,
    rules: Rules,
    allow_empty: bool,
    report: &dyn Report,
) -> Result<Survey, ScanError> {
    find_out(root, index, rules, allow_empty, report)?.record(index)
}

/// What a scan would write, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries that are new.
    pub created: u64,
    /// Entries whose content, mode or time has changed.
    pub changed: u64,
    /// Entries that are gone, or stand under another name now.
    pub deleted: u64,
}

/// What has changed in the tree since the index was written; nothing is written.
pub fn preview(
    root: &Root,
    index: &mut Index,
    rules: Rules,
    report: &dyn Report,
) -> Result<Changes, ScanError> {
    let Findings { steps, .. } = find_out(root, index, rules, true, report)?;
    let mut changes = Changes::default();
    for step in steps {
        let Step::Put(stored) = step else { continue };
        let was_live = index.row(&stored.row.path)?.is_some_and(|old| old.row.content.is_live());
        match (was_live, stored.row.content.is_live()) {
            (false, true) => changes.created += 1,
            (true, true) => changes.changed += 1,
            (true, false) => changes.deleted += 1,
            (false, false) => {}
        }
    }
    Ok(changes)
}

/// Finds out what has changed in the tree.
pub fn find_out(
    root: &Root,
    index: &mut Index,
    rules: Rules,
    allow_empty: bool,
    report: &dyn Report,
) -> Result<Findings, ScanError> {
    let started = SystemTime::now();
    let known = index.known()?;
    let walked = walk::walk(root, &known, &rules, report).map_err(ScanError::Root)?;
    if !allow_empty && walked.entries == 0 && walked.ignored == 0 && known.len() > 1 {
        return Err(ScanError::Emptied(known.len() as u64));
    }
    let Walked { mut found, holders, blind, mut problems, ignore_files, entries, .. } = walked;
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let in_use = leave_databases_in_use(root, &mut found, &mut problems);
    let read = hash::read_all(root, &found);
    let scope = Scope::new(rules, ignore_files);
    let mut survey = Survey {
        problems: Vec::new(),
        scope,
        live: entries,
        edits: Vec::new(),
        blind: blind.into_iter().chain(in_use).collect(),
    };
    let announced = index.announced()?;
    let mut seen = Vec::new();
    for (found, read) in found.into_iter().zip(read) {
        match read {
            Ok(read) if is_left_open(&found.path, &read, &announced) => {}
            Ok(read) => seen.push(look(found, read, started)),
            Err(unread) => {
                problems.extend(unread_problem(&found.path, unread));
                survey.blind.insert(found.path);
            }
        }
    }
    drop_residue(index, &mut seen, holders)?;
    let gone = gone_rows(index, &known, &survey)?;
    let clock = index.next_clock();
    let (steps, edits) = changes::steps(index, seen, gone, &announced, now(started))?;
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    survey.problems = problems;
    survey.edits = edits;
    Ok(Findings { survey, steps, clock, forget_announced: !announced.is_empty() })
}

/// Databases that have changed and that a program has open, while part of them stands in a journal:
/// nothing is said of them and what belongs to them before they are at rest.
fn leave_databases_in_use(
    root: &Root,
    found: &mut Vec<Found>,
    problems: &mut Vec<Problem>,
) -> Vec<RelPath> {
    let files = found.iter().filter(|found| found.stat.kind == FileKind::File);
    let mut files = files.peekable();
    let locked = if files.peek().is_some() { Locked::now() } else { Locked::default() };
    let databases: BTreeSet<RelPath> = files
        .filter(|found| locked.holds(found.stat.inode) || database_of(&found.path).is_some())
        .filter_map(|found| root.open_database(&found.path, &locked))
        .filter(|database| root.is_in_parts(database))
        .collect();
    for database in &databases {
        problems.push(Problem {
            kind: ProblemKind::Changed,
            path: database.as_bytes().to_vec(),
            text: "the database is in use by another program; left for the next run".into(),
        });
    }
    let members: Vec<RelPath> = databases.iter().flat_map(with_companions).collect();
    found.retain(|found| !members.contains(&found.path));
    members
}

/// What was read, with a stamp that can be trusted: a file whose last change is not strictly older
/// than the scan could change again without looking different, so it is read again next time.
fn look(found: Found, read: Read1, started: SystemTime) -> Seen {
    let Read1 { content, stat } = read;
    let stamp = stat.trusted_stamp(started);
    Seen { path: found.path, content, props: stat.props(), stamp, inode: stat.inode }
}

fn now(started: SystemTime) -> i64 {
    started.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn unread_problem(path: &RelPath, unread: Unread) -> Option<Problem> {
    let (kind, text) = match unread {
        Unread::Vanished => return None,
        Unread::Changed => {
            (ProblemKind::Changed, "changes while it is read; left for the next run".to_string())
        }
        Unread::Refused(error) => (ProblemKind::Unreadable, format!("cannot be read: {error}")),
    };
    Some(Problem { kind, path: path.as_bytes().to_vec(), text })
}

/// A directory that an interrupted run made, and that has its mode only when everything is in it,
/// is not this side's doing: the run that goes on will make it again.
fn is_left_open(path: &RelPath, read: &Read1, announced: &Announced) -> bool {
    let Some(intent) = announced.get(path) else { return false };
    let (mode, meant) = (read.stat.mode, intent.row.props.mode);
    let directories =
        matches!((&read.content, &intent.row.content), (Content::Directory, Content::Directory));
    directories && mode != meant && mode == meant | 0o700
}

/// A directory that was deleted by agreement, but stays because it holds files that are not
/// synced, is no new directory.
fn drop_residue(
    index: &mut Index,
    seen: &mut Vec<Seen>,
    holders: Vec<RelPath>,
) -> Result<(), IndexError> {
    let above = holders.iter().flat_map(RelPath::ancestors);
    let holders: HashSet<RelPath> = above.chain(holders.iter().cloned()).collect();
    let mut needed: HashSet<RelPath> = HashSet::new();
    let mut kept = Vec::with_capacity(seen.len());
    // Backwards, so that what is in a directory is looked at before the directory.
    for entry in std::mem::take(seen).into_iter().rev() {
        let residue = matches!(entry.content, Content::Directory)
            && holders.contains(&entry.path)
            && !needed.contains(&entry.path)
            && index.row(&entry.path)?.is_some_and(|stored| !stored.row.content.is_live());
        if !residue {
            needed.extend(entry.path.ancestors());
            kept.push(entry);
        }
    }
    kept.reverse();
    *seen = kept;
    Ok(())
}

/// Live rows of which nothing was seen, though it would have been if it were there.
fn gone_rows(index: &mut Index, known: &Known, survey: &Survey) -> Result<Vec<Stored>, IndexError> {
    if known.all_seen() {
        return Ok(Vec::new());
    }
    let mut gone = index.rows_unseen(known)?;
    gone.retain(|stored| survey.speaks_of(stored));
    Ok(gone)
}

fn changed(steps: &[Step]) -> impl Iterator<Item = &Stored> {
    steps.iter().filter_map(|step| match step {
        Step::Put(stored) => Some(stored),
        Step::Restamp { .. } => None,
    })
}

fn write(
    index: &mut Index,
    steps: &[Step],
    clock: u64,
    forget_announced: bool,
) -> Result<(), IndexError> {
    if steps.is_empty() && !forget_announced {
        return Ok(());
    }
    index.transaction(|index| {
        if changed(steps).next().is_some() {
            index.use_clock(clock);
        }
        index.put_all(changed(steps))?;
        for step in steps {
            if let Step::Restamp { path, stamp, inode } = step {
                index.restamp(path, *stamp, *inode)?;
            }
        }
        index.forget_announced()
    })
}

/// What a thread of the pool found. A fault in one is a fault of the run: its part is missing.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where each announced row is looked up.
type Announced = HashMap<RelPath, Stored>;
