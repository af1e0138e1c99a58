//! Which paths belong together, so that half of each side's would be worth nothing: a SQLite
//! database with its journals, a `.git` folder, and what a person names.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use psync_protocol::RelPath;

use super::counsel::{BadRule, shape};
use crate::manifest::database_of;

/// Folders that are a unit wherever they stand.
const FOLDERS: [&[u8]; 1] = [b".git"];

/// What belongs together in a tree.
#[derive(Debug, Clone, Default)]
pub struct Units {
    /// Folders that a person has named.
    own: GlobSet,
}

/// What stands at a path, or is to stand there, on any side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shapes {
    /// A directory, somewhere.
    pub directory: bool,
    /// A file or symlink, somewhere.
    pub file: bool,
}

/// A unit of which a plan speaks: the paths that belong to it, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The database or the folder.
    pub name: RelPath,
    /// The members.
    pub members: Vec<usize>,
}

impl Units {
    /// The units that everybody has, and the folders that match these patterns, as in a gitignore
    /// file that lies in the root.
    pub fn new(patterns: &[String]) -> Result<Units, BadRule> {
        let mut globs = GlobSetBuilder::new();
        for pattern in patterns {
            let bad = |reason: String| BadRule {
                origin: "units".into(),
                pattern: pattern.clone(),
                reason,
            };
            let core = shape(pattern).map_err(|reason| bad(reason.to_string()))?.core;
            let mut builder = GlobBuilder::new(&core);
            let built = builder.literal_separator(true).backslash_escape(true).build();
            globs.add(built.map_err(|error| bad(error.kind().to_string()))?);
        }
        let own = globs.build().map_err(|error| BadRule {
            origin: "units".into(),
            pattern: error.glob().unwrap_or_default().into(),
            reason: error.kind().to_string(),
        })?;
        Ok(Units { own })
    }

    /// The folder that a path belongs to with all that is in it, the outermost if there are several.
    pub fn folder_of(&self, path: &RelPath, is_directory: bool) -> Option<RelPath> {
        let mut names = path.as_bytes().split(|&byte| byte == b'/');
        if self.own.is_empty() && !names.any(|name| FOLDERS.contains(&name)) {
            return None;
        }
        let mut above: Vec<RelPath> = path.ancestors().collect();
        above.reverse();
        above.extend(is_directory.then(|| path.clone()));
        above.into_iter().find(|dir| {
            FOLDERS.contains(&dir.name())
                || !self.own.is_empty()
                    && self.own.is_match_candidate(&Candidate::from_bytes(dir.as_bytes()))
        })
    }

    /// The units among these paths; `shapes` says of a number what stands there. Of a database there
    /// are two members at least, of a folder one is enough.
    pub fn among<'a>(
        &self,
        paths: impl Iterator<Item = &'a RelPath> + Clone,
        shapes: impl Fn(usize) -> Shapes,
    ) -> Vec<Unit> {
        // Folders that are merely called so are no databases.
        let is_folder = |at: usize| shapes(at).directory && !shapes(at).file;
        let files = paths.clone().enumerate().filter(|(at, _)| !is_folder(*at));
        let bases: BTreeSet<RelPath> = files.filter_map(|(_, path)| database_of(path)).collect();
        let mut units: BTreeMap<RelPath, (bool, Vec<usize>)> = BTreeMap::new();
        for (at, path) in paths.enumerate() {
            let unit = match self.folder_of(path, shapes(at).directory) {
                Some(folder) => Some((folder, true)),
                None if is_folder(at) => None,
                None if bases.contains(path) => Some((path.clone(), false)),
                None => database_of(path).map(|database| (database, false)),
            };
            if let Some((name, is_folder)) = unit {
                units.entry(name).or_insert((is_folder, Vec::new())).1.push(at);
            }
        }
        let whole =
            |(_, (is_folder, members)): &(_, (bool, Vec<usize>))| *is_folder || members.len() > 1;
        let unit = |(name, (_, members))| Unit { name, members };
        units.into_iter().filter(whole).map(unit).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn units(own: &[&str], paths: &[&str]) -> Vec<String> {
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        let shapes = |at: usize| {
            let directory = paths[at].ends_with('/');
            Shapes { directory, file: !directory }
        };
        let relative = |path: &&str| RelPath::new(path.trim_end_matches('/').as_bytes()).unwrap();
        let all: Vec<RelPath> = paths.iter().map(relative).collect();
        let units = Units::new(&own).unwrap().among(all.iter(), shapes);
        let told = |unit: Unit| {
            let members: Vec<&str> = unit.members.iter().map(|&at| paths[at]).collect();
            format!("{}: {}", unit.name, members.join(" "))
        };
        units.into_iter().map(told).collect()
    }

    #[test]
    fn a_database_and_its_journals_belong_together() {
        let found = units(&[], &["d/x.db", "d/x.db-shm", "d/x.db-wal", "x.db", "y"]);
        assert_eq!(found, ["d/x.db: d/x.db d/x.db-shm d/x.db-wal"]);
        assert_eq!(
            units(&[], &["History", "History-journal"]),
            ["History: History History-journal"]
        );
        assert!(units(&[], &["x.db", "y.db-wal"]).is_empty());
    }

    #[test]
    fn a_git_folder_is_one_whatever_of_it_has_changed() {
        let found = units(&[], &["p/.git/", "p/.git/HEAD", "p/.git/refs/x", "p/a", "q/.git/index"]);
        assert_eq!(found, ["p/.git: p/.git/ p/.git/HEAD p/.git/refs/x", "q/.git: q/.git/index"]);
        // The file of this name in a worktree is a file.
        assert!(units(&[], &[".git"]).is_empty());
    }

    #[test]
    fn folders_that_a_person_names_are_units_with_all_that_is_in_them() {
        let found =
            units(&["*.bundle", "/lib"], &["a/x.bundle/1", "a/x.bundle/d/2", "lib/z", "a/lib/z"]);
        assert_eq!(found, ["a/x.bundle: a/x.bundle/1 a/x.bundle/d/2", "lib: lib/z"]);
        assert!(Units::new(&["[".to_string()]).is_err());
    }
}
