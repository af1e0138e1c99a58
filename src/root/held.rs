//! A directory that is held open while what is in it is worked on, path by path: finding it anew for
//! each would cost more than the work.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use psync_protocol::{RelPath, Time};
use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{READ_FILE, Root, Stat, is_absent, regular, set_mtime_at};

/// The directory that was worked in last. It was found from the root through no symlink; whoever
/// moves it meanwhile moves what is in it along, so this is for one batch, and each path in it is
/// looked at before it is changed.
#[derive(Debug, Default)]
pub struct HeldDir(Option<(Box<[u8]>, OwnedFd)>);

impl HeldDir {
    /// The directory that holds a path, and the name in it.
    pub(super) fn parent<'h, 'p>(
        &'h mut self,
        root: &Root,
        path: &'p RelPath,
    ) -> io::Result<(&'h OwnedFd, &'p OsStr)> {
        let (above, name) = path.split();
        let above = above.unwrap_or(b".");
        let held = match self.0.take() {
            Some(held) if *held.0 == *above => held,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                (above.into(), root.open_below(above, flags)?)
            }
        };
        Ok((&self.0.insert(held).1, OsStr::from_bytes(name)))
    }
}

impl Root {
    /// What stands at a path; none where nothing does.
    pub fn stat_in(&self, held: &mut HeldDir, path: &RelPath) -> io::Result<Option<Stat>> {
        let stat = held.parent(self, path).and_then(|(dir, name)| {
            Ok(Stat::from(&fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
        });
        match stat {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a regular file for reading, as [`Root::open_file`] does.
    pub fn open_file_in(&self, held: &mut HeldDir, path: &RelPath) -> io::Result<(File, Stat)> {
        let (dir, name) = held.parent(self, path)?;
        regular(fs::openat(dir, name, READ_FILE, Mode::empty())?)
    }

    /// Sets the modification time of a file or symlink.
    pub fn set_mtime_in(&self, held: &mut HeldDir, path: &RelPath, mtime: Time) -> io::Result<()> {
        let (dir, name) = held.parent(self, path)?;
        set_mtime_at(dir, name, mtime)
    }
}
