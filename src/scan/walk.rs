//! Walking a tree with several threads: each takes a directory, looks at what is in it, and puts
//! the directories that it finds on the common heap. What looks as the index remembers it is
//! passed over at once.

use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use psync_protocol::RelPath;
use psync_protocol::message::{Problem, ProblemKind};
use psync_protocol::path::STATE_DIR;

use super::scope::{IGNORE_FILE, IGNORE_FILE_MAX, IgnoreFile, Level, Rules};
use crate::index::Known;
use crate::report::{Phase, Report};
use crate::root::{self, FileKind, Root, Stat};

/// Most threads that walk one tree: beyond this the kernel's locks cost more than they give.
const THREADS_MAX: usize = 8;

/// An entry that does not look as the index remembers it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: RelPath,
    pub(super) stat: Stat,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// New or changed entries, in no order.
    pub(super) found: Vec<Found>,
    /// How many entries are left alone, by a filter or because they are another root's state.
    pub(super) ignored: u64,
    /// The directories below the root that hold such entries.
    pub(super) holders: Vec<RelPath>,
    /// Entries about which nothing can be said, nor about what is below them.
    pub(super) blind: Vec<RelPath>,
    /// What a person should hear of.
    pub(super) problems: Vec<Problem>,
    /// The filter files.
    pub(super) ignore_files: HashMap<Option<RelPath>, Arc<IgnoreFile>>,
    /// Entries in scope.
    pub(super) entries: u64,
}

/// How many threads to use for a tree.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).clamp(1, THREADS_MAX)
}

/// Walks the whole tree. Fails only if the root itself cannot be read.
pub(super) fn walk(
    root: &Root,
    known: &Known,
    rules: &Rules,
    report: &dyn Report,
) -> io::Result<Walked> {
    // The root must be readable, or else every entry would be missing.
    root.open_dir(None)?;
    let heap = Heap::default();
    heap.put(Directory { path: None, level: Level::NONE });
    let walker = Walker { root, known, rules, heap: &heap, report };
    let parts: Vec<Walked> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(|| walker.run())).collect();
        threads.into_iter().map(super::joined).collect()
    });
    let mut whole = Walked::default();
    for part in parts {
        whole.found.extend(part.found);
        whole.ignored += part.ignored;
        whole.holders.extend(part.holders);
        whole.blind.extend(part.blind);
        whole.problems.extend(part.problems);
        whole.ignore_files.extend(part.ignore_files);
        whole.entries += part.entries;
    }
    match heap.failure() {
        Some(error) => Err(error),
        None => Ok(whole),
    }
}

/// A directory that has to be looked at.
struct Directory {
    path: Option<RelPath>,
    level: Level,
}

/// Directories that wait, and how many are being looked at: the walk is over when both are none.
#[derive(Default)]
struct Heap {
    state: Mutex<HeapState>,
    changed: Condvar,
}

#[derive(Default)]
struct HeapState {
    waiting: Vec<Directory>,
    busy: usize,
    entries: u64,
    failure: Option<io::Error>,
}

impl Heap {
    fn lock(&self) -> MutexGuard<'_, HeapState> {
        // A thread that panicked left nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, directory: Directory) {
        self.lock().waiting.push(directory);
        self.changed.notify_one();
    }

    fn take(&self) -> Option<Directory> {
        let mut state = self.lock();
        loop {
            if let Some(directory) = state.waiting.pop() {
                state.busy += 1;
                return Some(directory);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns how many entries have been seen so far.
    fn done(&self, entries: u64) -> u64 {
        let mut state = self.lock();
        state.busy -= 1;
        state.entries += entries;
        if state.busy == 0 && state.waiting.is_empty() {
            self.changed.notify_all();
        }
        state.entries
    }

    fn fail(&self, error: io::Error) {
        self.lock().failure.get_or_insert(error);
    }

    fn failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }
}

struct Walker<'a> {
    root: &'a Root,
    known: &'a Known,
    rules: &'a Rules,
    heap: &'a Heap,
    report: &'a dyn Report,
}

/// What one thread reuses from directory to directory.
#[derive(Default)]
struct Scratch {
    buffer: Vec<u8>,
    path: Vec<u8>,
    names: Vec<u8>,
    entries: Vec<(usize, usize, Stat)>,
}

impl Walker<'_> {
    fn run(&self) -> Walked {
        let mut walked = Walked::default();
        let mut scratch = Scratch::default();
        while let Some(directory) = self.heap.take() {
            let before = walked.entries;
            if let Err(error) = self.look_into(&directory, &mut scratch, &mut walked) {
                self.unreadable(&directory, error, &mut walked);
            }
            let entries = self.heap.done(walked.entries - before);
            self.report.phase(Phase::Scanning(entries));
        }
        walked
    }

    fn unreadable(&self, directory: &Directory, error: io::Error, walked: &mut Walked) {
        match &directory.path {
            None => self.heap.fail(error),
            // It went away while we walked: the next scan will see that.
            Some(path) => {
                walked.blind.push(path.clone());
                walked.problems.push(problem(
                    ProblemKind::Unreadable,
                    path.as_bytes(),
                    format!("cannot read the directory: {error}"),
                ));
            }
        }
    }

    fn look_into(
        &self,
        directory: &Directory,
        scratch: &mut Scratch,
        walked: &mut Walked,
    ) -> io::Result<()> {
        let dir = self.root.open_dir(directory.path.as_ref())?;
        let Scratch { buffer, path, names, entries } = scratch;
        path.clear();
        if let Some(dir) = &directory.path {
            path.extend_from_slice(dir.as_bytes());
            path.push(b'/');
        }
        let prefix = path.len();
        names.clear();
        entries.clear();
        let mut has_filters = false;
        root::list_dir(&dir, buffer, |name, stat| match stat {
            Ok(stat) => {
                has_filters |= name == IGNORE_FILE && stat.kind == FileKind::File;
                entries.push((names.len(), name.len(), stat));
                names.extend_from_slice(name);
            }
            Err(error) => {
                let full = [&path[..], name].concat();
                walked.problems.push(problem(
                    ProblemKind::Unreadable,
                    &full,
                    format!("cannot be looked at: {error}"),
                ));
                walked.blind.extend(RelPath::new(&full).ok());
            }
        })?;
        let level = match has_filters {
            true => self.read_filters(directory, walked)?,
            false => directory.level.clone(),
        };
        let trivial = self.rules.is_trivial(&level);
        for (start, length, stat) in entries.drain(..) {
            path.truncate(prefix);
            path.extend_from_slice(&names[start..start + length]);
            self.look_at(path, stat, &level, trivial, walked);
        }
        Ok(())
    }

    fn look_at(&self, path: &[u8], stat: Stat, level: &Level, trivial: bool, walked: &mut Walked) {
        if path.rsplit(|&byte| byte == b'/').next() == Some(STATE_DIR) {
            if path != STATE_DIR {
                leave_alone(path, walked);
            }
            return;
        }
        let is_dir = stat.kind == FileKind::Directory;
        if !trivial && self.rules.ignores(level, path, is_dir) {
            leave_alone(path, walked);
            return;
        }
        let unchanged = self.known.is_unchanged(path, stat.stamp());
        walked.entries += 1;
        if unchanged && !is_dir {
            return;
        }
        let valid = match RelPath::new(path) {
            Ok(valid) => valid,
            Err(error) => {
                let text = format!("not synced, as no path may be like this: {error}");
                walked.problems.push(problem(ProblemKind::Unreadable, path, text));
                return;
            }
        };
        let refused = match stat.kind {
            FileKind::Special => Some("a device, socket or FIFO is not synced"),
            FileKind::Directory if stat.device != self.root.device() => {
                Some("another file system is mounted here; sync it as a root of its own")
            }
            _ => None,
        };
        if let Some(text) = refused {
            walked.entries -= 1;
            walked.blind.push(valid);
            walked.problems.push(problem(ProblemKind::Special, path, text.to_string()));
            return;
        }
        if is_dir {
            self.heap.put(Directory { path: Some(valid.clone()), level: level.clone() });
        }
        if !unchanged {
            walked.found.push(Found { path: valid, stat });
        }
    }

    /// The level of a directory that holds a filter file. Without its filters nothing can be said
    /// about the directory: what was synced against the person's will cannot be taken back.
    fn read_filters(&self, directory: &Directory, walked: &mut Walked) -> io::Result<Level> {
        let path = match &directory.path {
            Some(path) => path.join(IGNORE_FILE),
            None => RelPath::new(IGNORE_FILE),
        };
        let path = path.map_err(io::Error::other)?;
        let unreadable =
            |error| io::Error::other(format!("its .psyncignore cannot be read: {error}"));
        let (file, stat) = self.root.open_file(&path).map_err(unreadable)?;
        if stat.size > IGNORE_FILE_MAX {
            return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
        }
        let mut text = Vec::new();
        file.take(IGNORE_FILE_MAX).read_to_end(&mut text).map_err(unreadable)?;
        let (file, bad) = IgnoreFile::parse(&text);
        for bad in bad {
            let text = format!("the pattern \"{}\" is passed over: {}", bad.line, bad.reason);
            walked.problems.push(problem(ProblemKind::Pattern, path.as_bytes(), text));
        }
        let file = Arc::new(file);
        walked.ignore_files.insert(directory.path.clone(), file.clone());
        Ok(directory.level.below(directory.path.as_ref(), file))
    }
}

/// Notes an entry that is not synced.
fn leave_alone(path: &[u8], walked: &mut Walked) {
    walked.ignored += 1;
    let above = path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash]);
    walked.holders.extend(above.and_then(|above| RelPath::new(above).ok()));
}

fn problem(kind: ProblemKind, path: &[u8], text: String) -> Problem {
    Problem { kind, path: path.to_vec(), text }
}
