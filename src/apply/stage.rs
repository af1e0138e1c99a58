//! Contents that are on this side already: moves, copies, empty files. They cross no line.

use std::collections::{HashMap, HashSet};

use psync_protocol::{Check, Content, ContentHash, RelPath};

use super::{Act, Applier, ApplyError, Ready, Sorted, Task, Trouble};
use crate::manifest::{Stamp, Stored};
use crate::root::{FileKind, Staged, Stat, hash_reader};

impl Applier<'_> {
    /// Stages each wanted file that can be had on this side; the others have to be fetched. A file
    /// whose only change is its name gets a second name in the stage, and loses the first when the
    /// new one stands in the tree.
    pub(super) fn stage_what_is_here(
        &mut self,
        wanted: Vec<Task>,
        removals: &mut HashMap<RelPath, Task>,
        blocked: &HashSet<RelPath>,
        sorted: &mut Sorted,
    ) -> Result<(), ApplyError> {
        let here = self.find_contents(&wanted)?;
        for task in wanted {
            let source = match &task.act {
                Act::Arrive { from } => Some((from.row.path.clone(), (**from).clone())),
                Act::Fetch { size: 0, .. } => {
                    self.stage_empty(task, sorted);
                    continue;
                }
                Act::Fetch { check, .. } => self.pick_source(here.get(check), removals)?,
                _ => None,
            };
            match source {
                Some((path, stored)) => {
                    // What lies in the place of something else has to go before that comes.
                    let goes_first = path.ancestors().any(|dir| blocked.contains(&dir));
                    let leaves = if goes_first { None } else { removals.remove(&path) };
                    self.stage_from(task, &path, &stored, leaves, removals, sorted);
                }
                None => sorted.fetches.extend(self.fetching(task)),
            }
        }
        Ok(())
    }

    /// The files on this side that have a wanted content.
    pub(super) fn find_contents(
        &mut self,
        wanted: &[Task],
    ) -> Result<HashMap<Check, Vec<RelPath>>, ApplyError> {
        let mut sizes = HashSet::new();
        let mut found: HashMap<Check, Vec<RelPath>> = HashMap::new();
        for task in wanted {
            if let Act::Fetch { size: size @ 1.., check, .. } = task.act {
                sizes.insert(size);
                found.insert(check, Vec::new());
            }
        }
        if sizes.is_empty() {
            return Ok(found);
        }
        let key = &self.keys.theirs;
        self.index.files(|path, size, hash| {
            if !sizes.contains(&size) {
                return;
            }
            if let (Some(paths), Ok(path)) = (found.get_mut(&key.check(&hash)), RelPath::new(path))
                && self.is_of_use(&path)
            {
                paths.push(path);
            }
        })?;
        Ok(found)
    }

    /// Of several files with the content, one that is about to go.
    fn pick_source(
        &mut self,
        candidates: Option<&Vec<RelPath>>,
        removals: &HashMap<RelPath, Task>,
    ) -> Result<Option<(RelPath, Stored)>, ApplyError> {
        let Some(candidates) = candidates else { return Ok(None) };
        let leaving = candidates.iter().find(|path| removals.contains_key(path));
        match leaving.or(candidates.first()) {
            Some(path) => Ok(self.index.row(path)?.map(|stored| (path.clone(), stored))),
            None => Ok(None),
        }
    }

    fn stage_empty(&mut self, task: Task, sorted: &mut Sorted) {
        let content = Content::File { size: 0, hash: ContentHash::of_bytes(b"") };
        match self.staging.create() {
            Ok((_, staged)) => {
                sorted.local.push(Ready {
                    task,
                    staged: Some(staged),
                    content: Some(content),
                    leaves: None,
                });
            }
            Err(error) => {
                self.fail(task.index, Trouble::system("create a file in .psync/stage")(error))
            }
        }
    }

    fn stage_from(
        &mut self,
        task: Task,
        path: &RelPath,
        stored: &Stored,
        leaves: Option<Task>,
        removals: &mut HashMap<RelPath, Task>,
        sorted: &mut Sorted,
    ) {
        let index = task.index;
        let staged = match &leaves {
            Some(_) => self.link_source(path, stored),
            None => self.copy_source(path, stored),
        };
        match staged {
            Ok(staged) => {
                // The peer asks for it by the path at which it was stated.
                if let Act::Arrive { .. } = task.act
                    && let Some(source) = self.agreement.paths.find(path)
                {
                    self.relocated.insert(source, (task.path.clone(), stored.clone()));
                }
                let content = Some(stored.row.content.clone());
                sorted.local.push(Ready {
                    task,
                    staged: Some(staged),
                    content,
                    leaves: leaves.map(Box::new),
                });
            }
            Err(trouble) => {
                // The source stays what it was: its own task decides about it.
                if let Some(leaves) = leaves {
                    removals.insert(path.clone(), leaves);
                }
                match self.fetching(task) {
                    Some(fetching) => sorted.fetches.push(fetching),
                    None => {
                        if let Some(source) = self.agreement.paths.find(path) {
                            self.fail(source, Trouble::changed("it could not be moved"));
                        }
                        self.fail(index, trouble);
                    }
                }
            }
        }
    }

    fn link_source(&self, path: &RelPath, stored: &Stored) -> Result<Staged, Trouble> {
        let stat = self.root.stat(path).map_err(Trouble::system("look at the file that moves"))?;
        let stat = stat.ok_or_else(|| Trouble::changed("the file that moves is gone"))?;
        self.expect(path, stored, &stat)?;
        match self.staging.link_from(self.root, path) {
            Ok(staged) => Ok(staged),
            // Not every file system has links.
            Err(_) => self.copy_source(path, stored),
        }
    }

    fn copy_source(&self, path: &RelPath, stored: &Stored) -> Result<Staged, Trouble> {
        let (mut file, stat) =
            self.root.open_file(path).map_err(Trouble::system("open the file to copy"))?;
        self.room.take(self.staging.stage(), stat.size)?;
        let mut hasher = blake3::Hasher::new();
        let staged = self
            .staging
            .copy_from(&mut file, |bytes| {
                hasher.update(bytes);
            })
            .map_err(Trouble::system("copy within the root"))?;
        let hash = ContentHash(hasher.finalize().into());
        match stored.row.content {
            Content::File { hash: expected, .. } if expected == hash => Ok(staged),
            _ => {
                self.staging.discard(staged);
                Err(Trouble::changed("the file to copy has changed"))
            }
        }
    }

    /// Whether what stands at a path is what the index says. Where the stamp cannot be trusted the
    /// content is read.
    pub(super) fn expect(
        &self,
        path: &RelPath,
        stored: &Stored,
        stat: &Stat,
    ) -> Result<(), Trouble> {
        let changed = || Trouble::changed("it changed during the run; left for the next one");
        let kind = match stored.row.content {
            Content::Deleted { .. } => return Err(changed()),
            Content::Directory => FileKind::Directory,
            Content::File { .. } => FileKind::File,
            Content::Symlink { .. } => FileKind::Symlink,
        };
        if stat.kind != kind {
            return Err(changed());
        }
        if kind == FileKind::Directory
            || stored.stamp != Stamp::UNKNOWN && stored.stamp == stat.stamp()
        {
            return Ok(());
        }
        let same = match &stored.row.content {
            Content::Symlink { target, .. } => {
                self.root.read_link(path).is_ok_and(|now| now == *target)
            }
            // Links and changes of mode move the time of change only.
            Content::File { size, .. } if stored.stamp != Stamp::UNKNOWN => {
                stat.size == *size
                    && stat.mtime == stored.row.props.mtime
                    && stat.inode == stored.inode
            }
            Content::File { size, hash } => {
                stat.size == *size && self.hash_of(path).is_some_and(|now| now == *hash)
            }
            Content::Deleted { .. } | Content::Directory => false,
        };
        if same { Ok(()) } else { Err(changed()) }
    }

    fn hash_of(&self, path: &RelPath) -> Option<ContentHash> {
        let (mut file, _) = self.root.open_file(path).ok()?;
        hash_reader(&mut file, &mut Vec::new()).ok().map(|(hash, _)| hash)
    }
}
