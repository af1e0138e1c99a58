//! Room on the disk: how much psync leaves free, and how much it stages at a time.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

/// What has to stay free on the file system of a root, whatever is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepFree {
    /// A twentieth of it, or 1 GiB, whichever is less.
    #[default]
    Usual,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of it.
    Percent(u64),
}

impl KeepFree {
    /// The most that [`KeepFree::Usual`] comes to, in bytes.
    pub const USUAL_MOST: u64 = 1 << 30;
    /// The share of the file system that [`KeepFree::Usual`] comes to, in hundredths, where that is less.
    pub const USUAL_PERCENT: u64 = 5;

    /// What it comes to on a file system of so many bytes.
    pub fn of(self, total: u64) -> u64 {
        let share = |percent: u64| (u128::from(total) * u128::from(percent) / 100) as u64;
        match self {
            KeepFree::Usual => share(KeepFree::USUAL_PERCENT).min(KeepFree::USUAL_MOST),
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Percent(percent) => share(percent),
        }
    }
}

/// What a run may take of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// What stays free.
    pub keep_free: KeepFree,
    /// Most bytes that lie in the stage at a time; none: as many as fit the disk.
    pub staging: Option<u64>,
}

/// There is no room for a content.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The disk would be too full.
    #[error(
        "the disk has {free} bytes free, and {keep} have to stay free (limits.keep-free): there is no room for {size} more"
    )]
    Disk {
        /// Bytes of the content.
        size: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to stay so.
        keep: u64,
    },
    /// More would be staged than may be.
    #[error("{size} bytes do not fit into the stage, which may hold {quota} (limits.staging)")]
    Quota {
        /// Bytes of the content.
        size: u64,
        /// Bytes that may be staged at a time.
        quota: u64,
    },
}

/// Bytes after which the file system is asked anew how much is free: others write, too.
const LOOK_AGAIN: u64 = 8 << 20;
/// What a file takes on disk at least.
const BLOCK: u64 = 4096;

/// The room that a run has left: on the disk, which is asked now and then, and in the stage.
#[derive(Debug, Default)]
pub struct Room {
    limits: Space,
    /// Bytes that may be written before the next look.
    known: Cell<u64>,
    staged: Arc<AtomicU64>,
}

/// So much of the stage is taken, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    staged: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.staged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Room {
    /// Within these limits.
    pub fn new(limits: Space) -> Room {
        Room { limits, ..Room::default() }
    }

    /// Bytes that are staged now.
    pub fn staged(&self) -> u64 {
        self.staged.load(Ordering::Relaxed)
    }

    /// Most bytes that may be staged at a time.
    pub fn quota(&self) -> u64 {
        self.limits.staging.unwrap_or(u64::MAX)
    }

    /// Takes room for a content that is to be written into the stage, which is an open directory.
    pub fn claim(&self, stage: impl AsFd, size: u64) -> Result<Claim, NoRoom> {
        let quota = self.quota();
        if self.staged().saturating_add(size) > quota {
            return Err(NoRoom::Quota { size, quota });
        }
        self.take(stage, size)?;
        self.staged.fetch_add(size, Ordering::Relaxed);
        Ok(Claim { staged: self.staged.clone(), bytes: size })
    }

    /// Takes room on the disk only.
    pub fn take(&self, dir: impl AsFd, size: u64) -> Result<(), NoRoom> {
        let needed = size.max(BLOCK);
        if self.known.get() < needed {
            let (free, keep) = self.look(dir);
            let spare = free.saturating_sub(keep);
            if spare < needed {
                return Err(NoRoom::Disk { size, free, keep });
            }
            self.known.set(spare.min(LOOK_AGAIN.max(needed)));
        }
        self.known.set(self.known.get() - needed);
        Ok(())
    }

    /// Bytes that are free on the disk, and how many of them have to stay so.
    pub fn look(&self, dir: impl AsFd) -> (u64, u64) {
        match rustix::fs::fstatvfs(dir) {
            Ok(found) if found.f_blocks > 0 => {
                let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
                (bytes(found.f_bavail), self.limits.keep_free.of(bytes(found.f_blocks)))
            }
            // A file system that does not say how large it is says when it is full.
            Ok(_) | Err(_) => (u64::MAX, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_keeps_a_share_and_a_large_one_a_gibibyte() {
        assert_eq!(KeepFree::Usual.of(100 << 20), 5 << 20);
        assert_eq!(KeepFree::Usual.of(20 << 40), 1 << 30);
        assert_eq!(KeepFree::Percent(10).of(1000), 100);
        assert_eq!(KeepFree::Bytes(7).of(1000), 7);
        assert_eq!(KeepFree::Percent(100).of(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let room = |keep_free, staging| Room::new(Space { keep_free, staging });
        let full = room(KeepFree::Percent(100), None).claim(&dir, 1);
        assert!(matches!(full, Err(NoRoom::Disk { size: 1, .. })), "{full:?}");
        let room = room(KeepFree::Bytes(0), Some(100));
        let first = room.claim(&dir, 50).unwrap();
        let second = room.claim(&dir, 51);
        assert_eq!(second.unwrap_err(), NoRoom::Quota { size: 51, quota: 100 });
        // What leaves the stage makes room.
        drop(first);
        assert!(room.claim(&dir, 51).is_ok());
        assert_eq!(room.staged(), 0);
    }
}
