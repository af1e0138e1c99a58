//! Old contents that the peer's versions build on: where they stand on this side.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use psync_protocol::{Check, Content, RelPath};

use super::fetch::Fetching;
use super::{Applier, Task};

/// What is known of contents that may serve as a base, by their checks under the peer's key.
#[derive(Debug, Default)]
pub(super) struct Bases {
    /// The bases that the peer's rows name.
    named: HashSet<Check>,
    /// Those that went to the trash in this run, with the paths at which they stood.
    trashed: HashMap<Check, RelPath>,
    /// Every file of this side, once somebody had to ask.
    files: Option<HashMap<Check, RelPath>>,
}

impl Applier<'_> {
    /// Notes the bases of what has to be fetched, before anything is moved away.
    pub(super) fn note_bases(&mut self) {
        let theirs = self.role.other();
        let rows = self.agreement.paths.iter().filter_map(|stand| stand.of(theirs));
        let changed = rows.filter(|row| matches!(row.content, Content::File { .. }));
        self.bases.named = changed.filter_map(|row| row.base).collect();
    }

    /// A file goes to the trash.
    pub(super) fn note_trashed(&mut self, task: &Task) {
        let Some(Content::File { hash, .. }) = task.old.as_ref().map(|old| &old.row.content) else {
            return;
        };
        if self.bases.named.is_empty() {
            return;
        }
        let check = self.keys.theirs.check(hash);
        if self.bases.named.contains(&check) {
            self.bases.trashed.insert(check, task.path.clone());
        }
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
        if let Some(path) = self.bases.trashed.get(&base) {
            return self.staging.open_trashed(&self.names.trash, path).ok();
        }
        let path = self.files_by_check()?.get(&base)?.clone();
        Some(self.root.open_file(&path).ok()?.0)
    }

    fn files_by_check(&mut self) -> Option<&HashMap<Check, RelPath>> {
        if self.bases.files.is_none() {
            let mut files = HashMap::new();
            let key = &self.keys.theirs;
            let listed = self.index.files(|path, _, hash| {
                if let Ok(path) = RelPath::new(path) {
                    files.insert(key.check(&hash), path);
                }
            });
            // Without the index there is no base to be found; the trouble shows soon enough.
            listed.ok()?;
            self.bases.files = Some(files);
        }
        self.bases.files.as_ref()
    }
}
