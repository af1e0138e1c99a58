//! Contents that the file system keeps for us: files that share their blocks with the tree's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use psync_protocol::ContentHash;
use rustix::fs::OFlags;

use super::{OldContent, StoreError};

/// The directory of snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    /// Whether the file system has been found to share no blocks (or not with the tree's).
    refused: bool,
}

impl Snapshots {
    pub(super) fn new(store: &Path) -> Snapshots {
        Snapshots { dir: store.join("snapshots"), refused: false }
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.dir.join(blake3::Hash::from_bytes(hash.0).to_hex().as_str())
    }

    /// Takes a snapshot of an open file and says whether that is the content meant. None: the file
    /// system does not do it, and is not asked again.
    pub(super) fn take(&mut self, hash: &ContentHash, size: u64, file: &File) -> Option<bool> {
        if self.refused {
            return None;
        }
        let unfinished = self.dir.join("unfinished");
        let taken = self.clone_file(&unfinished, file).and_then(|clone| {
            // Whatever happens to the file in the tree, the clone stays as it is now.
            let is_it = clone.metadata()?.len() == size
                && OldContent::in_snapshot(clone, *hash, size).verify()?;
            if is_it {
                fs::rename(&unfinished, self.path(hash))?;
            }
            Ok(is_it)
        });
        if !matches!(taken, Ok(true)) {
            let _ = fs::remove_file(&unfinished);
        }
        self.refused = taken.is_err();
        taken.ok()
    }

    fn clone_file(&self, path: &Path, file: &File) -> io::Result<File> {
        match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // A symlink in its place would take the snapshots to wherever somebody likes.
            _ if !fs::symlink_metadata(&self.dir)?.is_dir() => {
                return Err(io::Error::from(io::ErrorKind::NotADirectory));
            }
            _ => {}
        }
        let _ = fs::remove_file(path);
        let clone =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        rustix::fs::ioctl_ficlone(&clone, file)?;
        Ok(clone)
    }

    #[cfg(test)]
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// The snapshot of a content, if it is there with its size.
    pub(super) fn open(&self, hash: &ContentHash, size: u64) -> Option<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(self.path(hash)).ok()?;
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == size).then_some(file)
    }

    pub(super) fn remove(&self, hash: &ContentHash) -> Result<(), StoreError> {
        let path = self.path(hash);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path, error })
            }
            _ => Ok(()),
        }
    }

    /// Removes every file that is not the snapshot of a content for which `is_held`.
    pub(super) fn keep_only(&self, is_held: impl Fn(&ContentHash) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let hash = name.to_str().and_then(|name| blake3::Hash::from_hex(name).ok());
            if !hash.is_some_and(|hash| is_held(&ContentHash(hash.into()))) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
