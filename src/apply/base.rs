//! Old contents that the peer's versions build on: where they stand on this side.

use std::collections::HashMap;
use std::fs::File;

use psync_protocol::{Check, Content, RelPath};

use super::fetch::Fetching;
use super::{Applier, Task};

/// What is known of contents that may serve as a base, by their checks under the peer's key.
#[derive(Debug, Default)]
pub(super) struct Bases {
    /// What went to the trash in this run, and where it lies there: a peer's row may name it as its
    /// base, or a patch as what a new file is like.
    trashed: HashMap<Check, Vec<u8>>,
    /// Every file of this side, once somebody had to ask.
    files: Option<HashMap<Check, RelPath>>,
    /// Whether something was moved since they were listed.
    moved: bool,
}

impl Bases {
    /// Something stands elsewhere from now on.
    pub(super) fn note_moves(&mut self) {
        self.moved = true;
    }
}

impl Applier<'_> {
    /// A file has gone to this place in the trash, which stood at the task's path.
    pub(super) fn note_trashed(&mut self, task: &Task, place: &[u8]) {
        let Some(Content::File { hash, .. }) = task.old.as_ref().map(|old| &old.row.content) else {
            return;
        };
        if !self.is_of_use(&task.path) {
            return;
        }
        let check = self.keys.theirs.check(hash);
        self.bases.trashed.insert(check, place.to_vec());
    }

    /// Whether the base of a content is at hand.
    pub(super) fn has_base(&mut self, fetching: &Fetching, base: Check) -> bool {
        self.open_base(fetching, base).is_some()
    }

    /// The content with this check: most likely what stands in the place; else what was moved away
    /// from elsewhere, or stands elsewhere. Nothing is taken on trust: whatever is built on it is
    /// compared as a whole.
    pub(super) fn open_base(&mut self, fetching: &Fetching, base: Check) -> Option<File> {
        if let Some(old) = &fetching.task.old
            && let Content::File { hash, .. } = &old.row.content
            && self.keys.theirs.check(hash) == base
        {
            return Some(self.root.open_file(&old.row.path).ok()?.0);
        }
        if let Some(place) = self.bases.trashed.get(&base) {
            return self.root.open_trash_file(place).ok();
        }
        if let Some(file) = self.open_listed(base) {
            return Some(file);
        }
        // Listed once more only if that may help: a peer can ask for what is nowhere as often as it likes.
        if !std::mem::take(&mut self.bases.moved) {
            return None;
        }
        self.bases.files = None;
        self.open_listed(base)
    }

    /// A file that had this check when the files were listed, if it still has.
    fn open_listed(&mut self, base: Check) -> Option<File> {
        let path = self.files_by_check()?.get(&base)?.clone();
        let row = self.index.row(&path).ok()??;
        let Content::File { hash, .. } = &row.row.content else { return None };
        let is_it = self.keys.theirs.check(hash) == base;
        is_it.then(|| self.root.open_file(&path).ok().map(|(file, _)| file)).flatten()
    }

    fn files_by_check(&mut self) -> Option<&HashMap<Check, RelPath>> {
        if self.bases.files.is_none() {
            let mut files = HashMap::new();
            let key = &self.keys.theirs;
            let listed = self.index.files(|path, _, hash| {
                // That a file is here at all is told by what is asked for.
                if let Ok(path) = RelPath::new(path)
                    && self.is_of_use(&path)
                {
                    files.insert(key.check(&hash), path);
                }
            });
            // Without the index there is no base to be found; the trouble shows soon enough.
            listed.ok()?;
            self.bases.files = Some(files);
            self.bases.moved = false;
        }
        self.bases.files.as_ref()
    }
}
