//! A witness of what a test's users do: which content they put at which path since both sides last
//! agreed, and which contents must still exist. It tells a synchroniser's honest result from a
//! partial file, a stray file, a content at the wrong path, an old version that came back, and a
//! lost version.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::tree::{ContentHash, Kind, Snapshot, files_below};

/// Moves are followed over so many steps: folders can be moved into each other for ever.
const MOST_STEPS: usize = 6;

#[derive(Default)]
pub(crate) struct Witness {
    written: BTreeMap<PathBuf, BTreeSet<ContentHash>>,
    paths_of: BTreeMap<ContentHash, BTreeSet<PathBuf>>,
    folders: BTreeSet<PathBuf>,
    folder_moves: Vec<(PathBuf, PathBuf)>,
    must_survive: BTreeSet<ContentHash>,
    trash_seen: HashMap<FileIdentity, ContentHash>,
}

/// A file that has not been written since it was last looked at keeps all of these.
type FileIdentity = (u64, u64, i64, i64, i64);

/// What a user does. All paths are relative to the user's root.
impl Witness {
    pub(crate) fn wrote(&mut self, path: &Path, content: ContentHash) {
        self.written.entry(path.to_path_buf()).or_default().insert(content);
        self.paths_of.entry(content).or_default().insert(path.to_path_buf());
    }

    /// A user overwrote or deleted this content on one side. It need not survive, unless it is
    /// still live on the other side when psync runs next.
    pub(crate) fn destroyed(&mut self, content: ContentHash) {
        self.must_survive.remove(&content);
    }

    pub(crate) fn made_folder(&mut self, path: &Path) {
        self.folders.insert(path.to_path_buf());
    }

    pub(crate) fn moved_folder(&mut self, from: &Path, to: &Path) {
        self.folder_moves.push((from.to_path_buf(), to.to_path_buf()));
    }

    /// Both sides hold this tree. From now on only its contents and what users write next are to
    /// be seen at all, and what was destroyed or moved before explains nothing any more.
    pub(crate) fn saw_agreement(&mut self, tree: &Snapshot) {
        self.written.clear();
        self.paths_of.clear();
        self.folders.clear();
        self.folder_moves.clear();
        for (bytes, entry) in tree {
            let path = Path::new(OsStr::from_bytes(bytes));
            match entry.kind {
                Kind::File(content) => self.wrote(path, content),
                _ => self.made_folder(path),
            }
        }
    }

    /// psync is about to run on this tree: every content in it must survive the run.
    pub(crate) fn saw_before_run(&mut self, tree: &Snapshot) {
        self.must_survive.extend(contents(tree));
    }
}

/// What the witness says about a tree after psync ran, or was killed.
impl Witness {
    /// Every entry that no user's action explains, one line each: partial files, stray files and
    /// folders, contents at paths where they have no business.
    pub(crate) fn unexplained(&self, tree: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (bytes, entry) in tree {
            let path = Path::new(OsStr::from_bytes(bytes));
            let accusation = match &entry.kind {
                Kind::Folder if self.explains_folder(path) => continue,
                Kind::File(content) if self.explains_file(path, *content) => continue,
                Kind::File(content) if !self.paths_of.contains_key(content) => {
                    "a content that nobody wrote since both sides agreed"
                }
                Kind::File(_) => "a content that belongs to another path",
                Kind::Folder => "a folder that nobody made",
                Kind::Symlink(_) | Kind::Other => "of a kind that nobody made",
            };
            lines.push(format!("'{}': {accusation}: {}", bytes.escape_ascii(), entry.kind));
        }
        lines
    }

    /// The contents that must survive, and stand in none of these trees nor in the trash below
    /// these roots; for each the paths it was written to.
    pub(crate) fn lost(&mut self, trees: &[&Snapshot], roots: &[&Path]) -> Vec<String> {
        let mut found: BTreeSet<ContentHash> =
            trees.iter().flat_map(|tree| contents(tree)).collect();
        for root in roots {
            for file in files_below(&root.join(".psync/trash")) {
                found.insert(self.content_in_trash(&file));
            }
        }
        let lost = self.must_survive.difference(&found);
        lost.map(|content| format!("{content}, written to {:?}", self.paths_of.get(content)))
            .collect()
    }

    /// The trash only grows: hash each file in it once.
    fn content_in_trash(&mut self, file: &Path) -> ContentHash {
        let metadata =
            fs::metadata(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let identity = (
            metadata.dev(),
            metadata.ino(),
            metadata.size() as i64,
            metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        );
        *self.trash_seen.entry(identity).or_insert_with(|| ContentHash::of_file(file))
    }

    fn explains_file(&self, path: &Path, content: ContentHash) -> bool {
        if has_clash_name(path) {
            return self.paths_of.contains_key(&content);
        }
        let wrote_it =
            |path: &Path| self.written.get(path).is_some_and(|all| all.contains(&content));
        wrote_it(path) || self.related_paths(path).iter().any(|path| wrote_it(path))
    }

    fn explains_folder(&self, path: &Path) -> bool {
        has_clash_name(path)
            || self.folders.contains(path)
            || self.related_paths(path).iter().any(|path| self.folders.contains(path))
    }

    /// All paths to which moves may connect this one. An edit on one side may rightly land at the
    /// path to which the other side moved the file. psync tells a move by its content, so two
    /// paths that ever held the same content count as connected, as do those below a moved folder.
    fn related_paths(&self, path: &Path) -> BTreeSet<PathBuf> {
        let mut related = BTreeSet::from([path.to_path_buf()]);
        let mut newest = vec![path.to_path_buf()];
        for _ in 0..MOST_STEPS {
            let reached = newest.iter().flat_map(|path| self.directly_related(path));
            newest = reached.filter(|path| related.insert(path.clone())).collect();
        }
        related
    }

    fn directly_related(&self, path: &Path) -> Vec<PathBuf> {
        let held = self.written.get(path).into_iter().flatten().filter(|content| content.size > 0);
        let by_content = held.flat_map(|content| &self.paths_of[content]).cloned();
        let both_ways = self.folder_moves.iter().flat_map(|(from, to)| [(from, to), (to, from)]);
        let by_folder =
            both_ways.filter_map(|(from, to)| Some(to.join(path.strip_prefix(from).ok()?)));
        by_content.chain(by_folder).collect()
    }
}

fn contents(tree: &Snapshot) -> impl Iterator<Item = ContentHash> {
    tree.values().filter_map(|entry| match entry.kind {
        Kind::File(content) => Some(content),
        _ => None,
    })
}

/// Whether the file, or a folder above it, is named as psync names the loser of a conflict:
/// `name_clash_YYYYMMDDHHMM`, whatever follows.
pub(crate) fn has_clash_name(path: &Path) -> bool {
    path.components().any(|component| match component {
        Component::Normal(name) => is_clash_name(name.as_bytes()),
        _ => false,
    })
}

fn is_clash_name(name: &[u8]) -> bool {
    const MARK: &[u8] = b"_clash_";
    name.windows(MARK.len() + 12).any(|window| {
        window.starts_with(MARK) && window[MARK.len()..].iter().all(u8::is_ascii_digit)
    })
}
