//! Where a root is and where its state lives.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Note, Root, WORK_DIR};

/// File systems on which SQLite's locking cannot be trusted, by `statfs` type: NFS, SMB, CIFS,
/// SMB2, FUSE.
const NETWORK: [u64; 5] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546];

/// A root's place on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The absolute path without symlinks.
    pub path: PathBuf,
}

/// Where the person wants state to live.
#[derive(Debug, Clone, Default)]
pub struct StateHome {
    /// `--state-dir`.
    pub given: Option<PathBuf>,
    /// `$XDG_STATE_HOME`, or what stands for it.
    pub user: Option<PathBuf>,
}

impl Place {
    /// The place of an existing directory.
    pub fn of(path: &Path) -> io::Result<Place> {
        Ok(Place { path: fs::canonicalize(path)? })
    }

    /// The place of a root that may not have been made yet, in a directory that exists.
    pub fn of_root(path: &Path) -> io::Result<Place> {
        match (Place::of(path), path.parent(), path.file_name()) {
            (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Ok(Place { path: Place::of(parent)?.path.join(name) })
            }
            (place, ..) => place,
        }
    }

    /// The directory for this root's state database and lock: `.psync` in the root; where the
    /// root is read-only or on a network file system, or the person said so, a directory of its
    /// own below that home.
    pub fn state_dir(&self, root: &Root, home: &StateHome) -> io::Result<PathBuf> {
        if let Some(given) = &home.given {
            return self.make_keyed(given);
        }
        let inside = self.path.join(WORK_DIR);
        if !is_network(root)? {
            match make_dir(&inside) {
                Ok(()) if is_writable(&inside) => return Ok(inside),
                Ok(()) => {}
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match &home.user {
            Some(user) => self.make_keyed(&user.join("psync")),
            None => Ok(inside),
        }
    }

    /// The directory in which this root has a state database, if it has one; nothing is made.
    pub fn known_state_dir(&self, home: &StateHome) -> Option<PathBuf> {
        let inside = self.path.join(WORK_DIR);
        let candidates = match &home.given {
            Some(given) => vec![self.keyed(given)],
            None => {
                let user = home.user.as_ref().map(|user| self.keyed(&user.join("psync")));
                std::iter::once(inside).chain(user).collect()
            }
        };
        let has_index = |dir: &PathBuf| is_own_dir(dir).is_ok() && dir.join("index.db").exists();
        candidates.into_iter().find(has_index).and_then(|dir| fs::canonicalize(dir).ok())
    }

    /// What is noted outside the root of the roots that were synced here; nothing where the state
    /// lives elsewhere, and knows the directory itself.
    pub fn note(&self, home: &StateHome) -> Option<Note> {
        let user = home.user.as_ref().filter(|_| home.given.is_none())?;
        Some(Note::read(self.keyed(&user.join("psync").join("roots")), &self.path))
    }

    /// Whether nothing stands here but psync's own directory, or nothing at all.
    pub fn is_bare(&self) -> bool {
        match fs::read_dir(&self.path) {
            Ok(mut entries) => {
                entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == WORK_DIR))
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// A directory of this root's own below a home.
    fn keyed(&self, home: &Path) -> PathBuf {
        let key = blake3::hash(self.path.as_os_str().as_bytes()).to_hex();
        home.join(&key[..16])
    }

    fn make_keyed(&self, home: &Path) -> io::Result<PathBuf> {
        let dir = self.keyed(home);
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
        // Databases are opened through no symbolic link.
        let dir = fs::canonicalize(dir)?;
        // Not needed by psync: for the person who wonders whose state this is.
        fs::write(dir.join("root"), self.path.as_os_str().as_bytes())?;
        Ok(dir)
    }

    /// Whether one of the two is the other or lies inside it.
    pub fn overlaps(&self, other: &Place) -> bool {
        self.path.starts_with(&other.path) || other.path.starts_with(&self.path)
    }
}

/// Digests of the root and of each directory above it, nearest first, that are the same for two
/// processes on one machine and different everywhere else.
pub fn places(place: &Place) -> Vec<u32> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 place of a root");
        hasher.update(&boot).update(&meta.dev().to_le_bytes()).update(&meta.ino().to_le_bytes());
        let (first, _) =
            hasher.finalize().as_bytes().split_first_chunk::<4>().map(|(a, b)| (*a, b.len()))?;
        Some(u32::from_le_bytes(first))
    };
    // A root that has yet to be made has no number; the directories above it do.
    place.path.ancestors().filter_map(digest).take(64).collect()
}

fn is_network(root: &Root) -> io::Result<bool> {
    let stat = rustix::fs::fstatfs(&root.dir)?;
    Ok(NETWORK.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}

fn make_dir(path: &Path) -> io::Result<()> {
    // For its owner only: the index names everything in the tree.
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_own_dir(path),
        other => other,
    }
}

/// A symlink in the place of the directory would take the state to wherever somebody likes.
fn is_own_dir(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => Ok(()),
        false => Err(io::Error::other(
            "something else stands in its place, a symbolic link or a file; remove that",
        )),
    }
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
