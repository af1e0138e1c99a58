//! How long the trash keeps what: the settings, and which of its files are of the least value.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use psync_protocol::{ContentHash, RelPath};

const DAY: Duration = Duration::from_secs(86_400);

/// What goes to the trash of a root, and how long it stays there.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Whether what is deleted or replaced goes to the trash at all.
    pub trash: bool,
    /// Bytes in the largest file that does; a larger one is let go at once.
    pub trash_max_size: u64,
    /// How long it stays there.
    pub trash_retention: Duration,
    /// How much the trash may take on disk.
    pub trash_budget: TrashBudget,
    /// How many versions of one path stay; all, where nothing is said.
    pub keep_versions: Option<u32>,
    /// What holds for some paths only: the first that matches and sets a thing decides it.
    pub rules: Vec<PathRule>,
    /// How long runs stay in the journal.
    pub journal_retention: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            trash: true,
            trash_max_size: 20 << 20,
            trash_retention: 30 * DAY,
            trash_budget: TrashBudget::Usual,
            keep_versions: None,
            rules: Vec::new(),
            journal_retention: 365 * DAY,
        }
    }
}

/// How much the trash may take on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrashBudget {
    /// A tenth of the bytes in the tree's files, or 1 GiB if that is more.
    #[default]
    Usual,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the bytes in the tree's files.
    Percent(u64),
}

impl TrashBudget {
    /// In bytes, for a tree with so many bytes in its files.
    pub fn bytes(self, tree: u64) -> u64 {
        match self {
            TrashBudget::Usual => (tree / 10).max(1 << 30),
            TrashBudget::Bytes(bytes) => bytes,
            TrashBudget::Percent(percent) => {
                (u128::from(tree) * u128::from(percent) / 100).try_into().unwrap_or(u64::MAX)
            }
        }
    }
}

/// What holds for the paths that a pattern matches.
#[derive(Debug, Clone)]
pub struct PathRule {
    matcher: Gitignore,
    trash: Option<bool>,
    keep_versions: Option<u32>,
}

impl PathRule {
    /// A rule for a pattern as in a gitignore file; else why it is no pattern.
    pub fn new(
        pattern: &str,
        trash: Option<bool>,
        keep_versions: Option<u32>,
    ) -> Result<PathRule, String> {
        let escape = if pattern.starts_with(['!', '#']) { "\\" } else { "" };
        let mut builder = GitignoreBuilder::new("");
        let added = builder.add_line(None, &format!("{escape}{pattern}"));
        let matcher = added.and_then(|builder| builder.build());
        let matcher = matcher.map_err(|error| error.to_string())?;
        Ok(PathRule { matcher, trash, keep_versions })
    }

    fn matches(&self, path: &RelPath) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        self.matcher.matched_path_or_any_parents(path, false).is_ignore()
    }
}

/// A file in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// Where it lies in the trash.
    pub place: Box<[u8]>,
    /// Where it stood in the tree, as far as known.
    pub path: Option<RelPath>,
    /// Bytes.
    pub size: u64,
    /// When it went to the trash, in seconds since 1970.
    pub since: i64,
    /// Its content, where the journal knows it.
    pub hash: Option<ContentHash>,
    /// Whether the same content is also in the tree or in the store.
    pub elsewhere: bool,
}

impl Retention {
    /// Whether a file of this size that is deleted or replaced goes to the trash.
    pub fn takes(&self, path: &RelPath, size: u64) -> bool {
        let ruled = self.rules.iter().filter(|rule| rule.trash.is_some());
        let ruled = ruled.into_iter().find(|rule| rule.matches(path)).and_then(|rule| rule.trash);
        ruled.unwrap_or(self.trash) && size <= self.trash_max_size
    }

    fn versions_of(&self, path: &RelPath) -> Option<u32> {
        let ruled = self.rules.iter().filter(|rule| rule.keep_versions.is_some());
        let ruled = ruled.into_iter().find(|rule| rule.matches(path));
        ruled.and_then(|rule| rule.keep_versions).or(self.keep_versions)
    }

    /// Which files the trash has to let go, as numbers in `items`: those that are too old; of paths
    /// with too many versions the oldest; and where it is still over its budget, first what is also
    /// elsewhere, then the oldest.
    pub fn surplus(&self, items: &[Trashed], tree_bytes: u64, now: i64) -> Vec<usize> {
        let limit = i64::try_from(self.trash_retention.as_secs()).unwrap_or(i64::MAX);
        let mut by_age: Vec<usize> = (0..items.len()).collect();
        by_age.sort_by(|&a, &b| {
            (items[a].since, &items[a].place).cmp(&(items[b].since, &items[b].place))
        });
        let mut gone: Vec<usize> = Vec::new();
        let mut versions: HashMap<&RelPath, u32> = HashMap::new();
        let mut kept = Vec::new();
        for at in by_age.into_iter().rev() {
            let item = &items[at];
            let mut too_many = false;
            if let Some(path) = &item.path
                && let Some(most) = self.versions_of(path)
            {
                let count = versions.entry(path).or_default();
                *count += 1;
                too_many = *count > most;
            }
            if too_many || now.saturating_sub(item.since) > limit {
                gone.push(at);
            } else {
                kept.push(at);
            }
        }
        // Now the newest stand first.
        let mut bytes: u64 = kept.iter().map(|&at| items[at].size).sum();
        let budget = self.trash_budget.bytes(tree_bytes);
        let mut seen = HashSet::new();
        let (spare, only): (Vec<usize>, Vec<usize>) = kept.into_iter().partition(|&at| {
            // Of two with one content the newer is enough.
            let again = items[at].hash.is_some_and(|hash| !seen.insert(hash));
            items[at].elsewhere || again
        });
        for at in spare.into_iter().rev().chain(only.into_iter().rev()) {
            if bytes <= budget {
                break;
            }
            bytes -= items[at].size;
            gone.push(at);
        }
        gone
    }
}
