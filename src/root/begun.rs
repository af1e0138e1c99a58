//! What had come of a large content when a run broke off. It stays in the stage, under a name that is made
//! of its path, so that a later run has to fetch only the rest.
//!
//! Nothing is taken on trust: a begun content is but something to copy from, and what is made with its
//! help is compared as a whole like everything else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use psync_protocol::RelPath;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::staging::{Staged, Staging, create_in};

/// How long a begun content is kept after the last byte of it has come.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes below which it is not worth asking for the rest only.
const LEAST: u64 = 64 << 10;
/// How the name of a begun content starts. The hash of its path follows, and one of two letters: a content
/// that is fetched once more is built beside what there is of it.
const PREFIX: &str = "begun-";
const LETTERS: [char; 2] = ['a', 'b'];

/// What earlier runs have left: names and lengths, by the hash of the path.
#[derive(Debug, Default)]
pub(super) struct Begun(HashMap<String, (String, u64)>);

impl Begun {
    /// Looks through the names in a stage. Returns what is worth keeping, and the names of all else.
    pub(super) fn sort_out(stage: &OwnedFd, names: Vec<Vec<u8>>) -> (Begun, Vec<Vec<u8>>) {
        let (mut begun, mut others) = (Begun::default(), Vec::new());
        for name in names {
            let Some((key, name, length)) = recognise(stage, &name) else {
                others.push(name);
                continue;
            };
            // Of two the shorter one had not got as far.
            let shorter = match begun.0.get(&key) {
                Some((_, other)) if *other >= length => Some(name),
                _ => begun.0.insert(key, (name, length)).map(|(other, _)| other),
            };
            others.extend(shorter.map(String::into_bytes));
        }
        (begun, others)
    }
}

fn key(path: &RelPath) -> String {
    blake3::hash(path.as_bytes()).to_hex()[..32].to_string()
}

/// A begun content: the hash of its path, its name, its length in bytes.
fn recognise(stage: &OwnedFd, name: &[u8]) -> Option<(String, String, u64)> {
    let name = std::str::from_utf8(name).ok()?;
    let (key, letter) = name.strip_prefix(PREFIX)?.split_once('-')?;
    if !LETTERS.iter().any(|known| letter.chars().eq([*known])) {
        return None;
    }
    let stat = fs::statat(stage, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let length = u64::try_from(stat.st_size).ok()?;
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
    // A time to come is that of a clock that was set back: then it counts as new.
    let age = written.elapsed().unwrap_or_default();
    let is_kept = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && length >= LEAST
        && age <= KEPT;
    is_kept.then(|| (key.to_string(), name.to_string(), length))
}

impl Staging {
    /// A new file in the stage for the content that is to stand at `path`. What is in it when the run
    /// breaks off is kept for the next.
    pub fn begin(&self, path: &RelPath) -> io::Result<(File, Staged)> {
        let key = key(path);
        let taken = self.begun.0.get(&key).map(|(name, _)| name.as_str());
        let names = LETTERS.map(|letter| format!("{PREFIX}{key}-{letter}"));
        let name = names.into_iter().find(|name| Some(name.as_str()) != taken);
        let name = name.unwrap_or_default();
        // A path has one content at a time: what lies there is of an attempt that was given up.
        match fs::unlinkat(&self.stage, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let name = OsStr::new(&name);
        Ok((create_in(&self.stage, name)?, Staged::new(name.to_os_string())))
    }

    /// Of what earlier runs have left no more bytes stay than this; what has come farthest goes first.
    pub fn keep_begun_within(&mut self, most: u64) {
        let mut kept: Vec<_> = std::mem::take(&mut self.begun.0).into_iter().collect();
        kept.sort_by_key(|(_, (_, length))| *length);
        let mut bytes = 0;
        for (key, (name, length)) in kept {
            bytes += length;
            if bytes <= most {
                self.begun.0.insert(key, (name, length));
            } else {
                // What cannot be removed now is too old some day.
                let _ = fs::unlinkat(&self.stage, &name, AtFlags::empty());
            }
        }
    }

    /// Whether an earlier run has left anything at all.
    pub fn has_begun(&self) -> bool {
        !self.begun.0.is_empty()
    }

    /// How many bytes an earlier run has left of the content that is to stand at `path`.
    pub fn begun_len(&self, path: &RelPath) -> Option<u64> {
        // Most runs find nothing in the stage, and need no hash of each path.
        self.has_begun().then(|| self.begun.0.get(&key(path)).map(|(_, length)| *length)).flatten()
    }

    /// What an earlier run has left of the content that is to stand at `path`.
    ///
    /// # Errors
    ///
    /// Of the system's; and [`io::ErrorKind::NotFound`] where nothing was left.
    pub fn open_begun(&self, path: &RelPath) -> io::Result<File> {
        let found = self.begun.0.get(&key(path));
        let (name, _) = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.stage, name, flags, Mode::empty())?))
    }

    /// The content has come whole: what an earlier run has left of it goes.
    pub fn forget_begun(&self, path: &RelPath) {
        if self.begun_len(path).is_some()
            && let Some((name, _)) = self.begun.0.get(&key(path))
        {
            // What cannot be removed now is too old some day.
            let _ = fs::unlinkat(&self.stage, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::root::Root;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("psync-begun-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn open(root: &Root) -> Staging {
        Staging::open(root).unwrap().0
    }

    fn begin(staging: &Staging, at: &str, bytes: usize) {
        staging.begin(&path(at)).unwrap().0.write_all(&vec![7; bytes]).unwrap();
    }

    fn stage(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder.join(".psync/stage")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_content_that_was_begun_is_there_for_the_next_run_and_nothing_else_is() {
        let folder = Folder::new("kept");
        let root = Root::open(&folder.0).unwrap();
        let staging = open(&root);
        begin(&staging, "large", 100_000);
        begin(&staging, "small", 1000);
        staging.create().unwrap();
        drop(staging);
        let staging = open(&root);
        assert_eq!(staging.begun_len(&path("large")), Some(100_000));
        assert_eq!(staging.begun_len(&path("small")), None);
        assert_eq!(stage(&folder.0).len(), 1);
        let mut content = Vec::new();
        staging.open_begun(&path("large")).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, vec![7; 100_000]);
        staging.forget_begun(&path("large"));
        assert!(stage(&folder.0).is_empty());
    }

    #[test]
    fn no_more_of_what_was_begun_stays_than_there_is_room_for() {
        let folder = Folder::new("room");
        let root = Root::open(&folder.0).unwrap();
        let staging = open(&root);
        for (at, bytes) in [("a", 100_000), ("b", 300_000), ("c", 200_000)] {
            begin(&staging, at, bytes);
        }
        let mut staging = open(&root);
        staging.keep_begun_within(350_000);
        assert_eq!(
            ["a", "b", "c"].map(|at| staging.begun_len(&path(at)).is_some()),
            [true, false, true]
        );
        assert_eq!(stage(&folder.0).len(), 2);
        staging.keep_begun_within(0);
        assert!(stage(&folder.0).is_empty() && !staging.has_begun());
    }

    #[test]
    fn of_two_that_were_begun_the_longer_one_stays() {
        let folder = Folder::new("longer");
        let root = Root::open(&folder.0).unwrap();
        for (bytes, kept) in [(100_000, 100_000), (80_000, 100_000), (120_000, 120_000)] {
            begin(&open(&root), "large", bytes);
            assert_eq!(open(&root).begun_len(&path("large")), Some(kept));
            assert_eq!(stage(&folder.0).len(), 1);
        }
    }

    #[test]
    fn what_is_a_week_old_or_no_file_goes() {
        let folder = Folder::new("old");
        let root = Root::open(&folder.0).unwrap();
        begin(&open(&root), "large", 100_000);
        let name = folder.0.join(".psync/stage").join(&stage(&folder.0)[0]);
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        File::options().write(true).open(&name).unwrap().set_modified(old).unwrap();
        assert!(!open(&root).has_begun());
        std::os::unix::fs::symlink("/etc/passwd", &name).unwrap();
        assert!(!open(&root).has_begun());
        assert!(stage(&folder.0).is_empty());
    }
}
