//! What is noted, outside a root, of the roots that were synced at its path: by that a root is missed
//! that has vanished with its state, and one in whose place another stands now.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use psync_protocol::ReplicaId;

/// How many roots of one path are noted: disks that are mounted there by turns are several.
const KEPT: usize = 16;

/// The directory that a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its file system, which outlasts restarts as far as the system has one.
    pub device: u64,
    /// Its inode, a number that may be given again.
    pub inode: u64,
    /// When it was made, in nanoseconds; 0 where the file system does not say.
    pub made: u64,
}

impl Identity {
    /// That of the directory at a path.
    pub fn of(path: &Path) -> io::Result<Identity> {
        let found = fs::metadata(path)?;
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let made = found.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        Ok(Identity {
            device: rustix::fs::statvfs(path)?.f_fsid,
            inode: found.ino(),
            made: made.map_or(0, |made| made.as_nanos() as u64),
        })
    }
}

/// A root that was synced at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The replica whose state it has.
    pub replica: ReplicaId,
    /// The directory that it is.
    pub directory: Identity,
}

/// The note about one path.
#[derive(Debug, Clone)]
pub struct Note {
    file: PathBuf,
    /// The root's path, for whoever looks at the file.
    path: PathBuf,
    /// The latest last; empty where an older psync has made the note, which says no more than that
    /// some root was synced here.
    known: Vec<Known>,
    exists: bool,
}

impl Note {
    /// Reads the note about the root at `path`, which is kept in `file`.
    pub(super) fn read(file: PathBuf, path: &Path) -> Note {
        let text = fs::read(&file);
        let exists = file.exists();
        let mut parts = text.as_deref().unwrap_or_default().splitn(2, |&byte| byte == 0);
        let known = parts.nth(1).map(|lines| String::from_utf8_lossy(lines).into_owned());
        let known = known.iter().flat_map(|lines| lines.lines()).filter_map(Known::parse);
        Note { known: known.collect(), file, path: path.to_path_buf(), exists }
    }

    /// Whether any root was synced at the path.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The file that it is kept in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The root that was synced at the path last, where neither the directory nor the replica that
    /// stands there now is one that was.
    pub fn missed(&self, directory: Identity, replica: Option<ReplicaId>) -> Option<Known> {
        let is_it = |known: &Known| known.directory == directory || replica == Some(known.replica);
        self.known.last().copied().filter(|_| !self.known.iter().any(is_it))
    }

    /// Notes what stands there. Without the note one guard is blind, and that is all.
    pub fn put(&mut self, now: Known) {
        if self.known.last() == Some(&now) {
            return;
        }
        let is_it =
            |known: &Known| known.directory == now.directory || known.replica == now.replica;
        self.known.retain(|known| !is_it(known));
        self.known.push(now);
        let surplus = self.known.len().saturating_sub(KEPT);
        self.known.drain(..surplus);
        let mut bytes = self.path.as_os_str().as_bytes().to_vec();
        // No path has this byte in it.
        bytes.extend(b"\0\n");
        self.known.iter().for_each(|known| bytes.extend(known.line().into_bytes()));
        // Whole or not at all: half a note would miss a root that is there.
        let aside = self.file.with_extension("new");
        let written = self.file.parent().map_or(Ok(()), fs::create_dir_all);
        if written.and_then(|()| fs::write(&aside, bytes)).is_ok() {
            self.exists = fs::rename(&aside, &self.file).is_ok();
        }
    }
}

impl Known {
    fn line(&self) -> String {
        let Identity { device, inode, made } = self.directory;
        format!("{} {device:x} {inode} {made}\n", self.replica)
    }

    fn parse(line: &str) -> Option<Known> {
        let mut words = line.split(' ');
        let replica = u128::from_str_radix(words.next()?, 16).ok()?;
        let device = u64::from_str_radix(words.next()?, 16).ok()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let directory = Identity { device, inode: number()?, made: number()? };
        Some(Known { replica: ReplicaId(replica.to_be_bytes()), directory })
    }
}
