//! A user who changes a tree at random, before a witness: creates, edits, copies, moves and
//! deletes files and folders, and changes their modes.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tree::{ContentHash, Rng, files_below, files_outside_psync, is_folder, sorted_entries};
use super::witness::Witness;
use super::{set_mode, write_file};

/// Between these the tree neither dies out nor grows without end.
const FEWEST_FILES: usize = 12;
const MOST_FILES: usize = 70;

/// A folder with more files than this is not deleted at once.
const MOST_DELETED_AT_ONCE: usize = 6;

pub(crate) struct User<'a> {
    pub(crate) root: &'a Path,
    pub(crate) rng: &'a mut Rng,
    pub(crate) witness: &'a mut Witness,
}

impl User<'_> {
    pub(crate) fn make_changes(&mut self, count: usize) {
        for _ in 0..count {
            self.make_one_change();
        }
    }

    fn make_one_change(&mut self) {
        let files = self.files().len();
        match self.rng.below(100) {
            _ if files < FEWEST_FILES => self.create_file(),
            _ if files > MOST_FILES => self.delete_file(),
            0..20 => self.create_file(),
            20..48 => self.edit_file(),
            48..56 => self.delete_file(),
            56..72 => self.move_file(),
            72..80 => self.move_folder(),
            80..83 => self.delete_folder(),
            83..87 => self.make_folder(),
            87..92 => self.copy_file(),
            _ => self.change_mode(),
        }
    }

    fn create_file(&mut self) {
        let path = self.new_path("file");
        if !self.exists(&path) {
            let content = self.new_content();
            self.write(&path, &content);
        }
    }

    fn edit_file(&mut self) {
        let path = self.some_file();
        let old = self.read(&path);
        let new = self.edited(&old);
        self.witness.destroyed(ContentHash::of(&old));
        if self.rng.chance(50) {
            // As editors do that replace the file: under its name stands another inode.
            fs::remove_file(self.root.join(&path)).expect("a user's file can be removed");
        }
        self.write(&path, &new);
    }

    fn delete_file(&mut self) {
        let path = self.some_file();
        self.witness.destroyed(ContentHash::of(&self.read(&path)));
        fs::remove_file(self.root.join(&path)).expect("a user's file can be removed");
    }

    fn move_file(&mut self) {
        let (from, to) = (self.some_file(), self.new_path("file"));
        if !self.exists(&to) {
            self.witness.wrote(&to, ContentHash::of(&self.read(&from)));
            fs::rename(self.root.join(&from), self.root.join(&to))
                .expect("a user's file can be moved");
        }
    }

    fn copy_file(&mut self) {
        let (from, to) = (self.some_file(), self.new_path("file"));
        if !self.exists(&to) {
            let content = self.read(&from);
            self.write(&to, &content);
        }
    }

    fn change_mode(&mut self) {
        let mode = *self.rng.pick(&[0o644, 0o600, 0o755, 0o444, 0o640]);
        let path = self.some_file();
        set_mode(&self.root.join(path), mode);
    }

    fn make_folder(&mut self) {
        let path = self.new_path("folder");
        if !self.exists(&path) {
            fs::create_dir(self.root.join(&path)).expect("a user's folder can be made");
            self.witness.made_folder(&path);
        }
    }

    fn move_folder(&mut self) {
        let (Some(from), to) = (self.some_folder(), self.new_path("folder")) else {
            return;
        };
        if self.exists(&to) || to.starts_with(&from) {
            return;
        }
        fs::rename(self.root.join(&from), self.root.join(&to))
            .expect("a user's folder can be moved");
        self.witness.moved_folder(&from, &to);
        for folder in folders_below(&self.root.join(&to)) {
            self.witness.made_folder(&self.relative(&folder));
        }
        for file in files_below(&self.root.join(&to)) {
            self.witness.wrote(&self.relative(&file), ContentHash::of_file(&file));
        }
    }

    fn delete_folder(&mut self) {
        let Some(folder) = self.some_folder() else {
            return;
        };
        let files = files_below(&self.root.join(&folder));
        if files.len() > MOST_DELETED_AT_ONCE {
            return;
        }
        for file in files {
            self.witness.destroyed(ContentHash::of_file(&file));
        }
        fs::remove_dir_all(self.root.join(&folder)).expect("a user's folder can be removed");
    }
}

/// What there is to choose from.
impl User<'_> {
    fn files(&self) -> Vec<PathBuf> {
        files_outside_psync(self.root).iter().map(|path| self.relative(path)).collect()
    }

    fn some_file(&mut self) -> PathBuf {
        let files = self.files();
        self.rng.pick(&files).clone()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let own_entries =
            sorted_entries(self.root).into_iter().filter(|path| !path.ends_with(".psync"));
        own_entries
            .filter(|path| is_folder(path))
            .flat_map(|path| folders_below(&path))
            .map(|path| self.relative(&path))
            .collect()
    }

    fn some_folder(&mut self) -> Option<PathBuf> {
        let folders = self.folders();
        (!folders.is_empty()).then(|| self.rng.pick(&folders).clone())
    }

    /// A path in an existing folder. There are few names, so that the two sides' users meet.
    fn new_path(&mut self, kind: &str) -> PathBuf {
        let folder = match self.some_folder() {
            Some(folder) if self.rng.chance(70) && folder.components().count() < 4 => folder,
            _ => PathBuf::new(),
        };
        folder.join(format!("{kind} {}", self.rng.below(24)))
    }

    fn exists(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.root).expect("the path lies below the root").to_path_buf()
    }
}

/// What the user writes.
impl User<'_> {
    fn new_content(&mut self) -> Vec<u8> {
        let size = match self.rng.below(100) {
            0..4 => 0,
            4..70 => 1 + self.rng.below(20_000),
            70..90 => self.rng.below(500_000),
            _ => 1_000_000 + self.rng.below(5_000_000),
        };
        if self.rng.chance(50) { self.rng.bytes(size) } else { self.rng.text(size) }
    }

    fn edited(&mut self, old: &[u8]) -> Vec<u8> {
        let at = self.rng.below(old.len() + 1);
        let size = 1 + self.rng.below(3_000);
        let new = self.rng.bytes(size);
        match self.rng.below(5) {
            0 => self.new_content(),
            1 => [old, &new].concat(),
            2 => [&old[..at], &new, &old[at..]].concat(),
            3 => [&old[..at], &new, &old[(at + size).min(old.len())..]].concat(),
            _ => old[..at].to_vec(),
        }
    }

    fn read(&self, path: &Path) -> Vec<u8> {
        let path = self.root.join(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn write(&mut self, path: &Path, content: &[u8]) {
        let full = self.root.join(path);
        if let Ok(metadata) = fs::metadata(&full) {
            set_mode(&full, metadata.permissions().mode() | 0o200);
        }
        write_file(full, content);
        self.witness.wrote(path, ContentHash::of(content));
    }
}

/// This folder and all below it.
fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let below = sorted_entries(folder).into_iter().filter(|path| is_folder(path));
    let deeper = below.flat_map(|path| folders_below(&path));
    std::iter::once(folder.to_path_buf()).chain(deeper).collect()
}
