//! One daemon for one configuration: a lock of the kernel's on a file of a directory like `/run`, which
//! says who has it, and one on the machine's key, which is the same file wherever locks are put.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use thiserror::Error;

use crate::identity::KEY_FILE;

/// Held for as long as a daemon runs; the kernel releases it however that ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    _key: Option<File>,
}

/// The lock cannot be had.
#[derive(Debug, Error)]
pub enum RunLockError {
    /// Somebody else has it.
    #[error(
        "another psync --daemon{} serves what {} says ({})",
        .process.as_ref().map(|process| format!(", process {process},")).unwrap_or_default(),
        .config.display(), .path.display()
    )]
    Taken {
        /// The directory of the configuration.
        config: PathBuf,
        /// The lock's file.
        path: PathBuf,
        /// Who has it, as far as it says.
        process: Option<u32>,
    },
    /// Its file cannot be made or locked.
    #[error("{}: cannot lock it: {error}", .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl RunLock {
    /// The process that has the lock of a configuration, if any has and says so.
    pub fn holder(locks: &Path, config: &Path) -> Option<u32> {
        let (_, path) = place(locks, config);
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => process(file),
            Ok(()) | Err(_) => None,
        }
    }

    /// Takes the lock that belongs to a directory of configuration, in a directory of locks.
    pub fn take(locks: &Path, config: &Path) -> Result<RunLock, RunLockError> {
        let (real, path) = place(locks, config);
        let failed = |error| RunLockError::Io { path: path.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(locks).map_err(failed)?;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let process = process(file);
                return Err(RunLockError::Taken { config: real, path, process });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let key = match lock_key(&real.join(KEY_FILE)) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let path = real.join(KEY_FILE);
                return Err(RunLockError::Taken { config: real, path, process: None });
            }
            // Some file systems lock nothing that is only read; then the other lock has to do.
            locked => locked.ok(),
        };
        let who = format!("{}\n", std::process::id());
        let noted = file.set_len(0).and_then(|()| file.write_all(who.as_bytes()));
        noted.map_err(failed)?;
        Ok(RunLock { _file: file, _key: key })
    }
}

/// The directory of a configuration without links, and its lock.
fn place(locks: &Path, config: &Path) -> (PathBuf, PathBuf) {
    let real = config.canonicalize().unwrap_or_else(|_| config.to_path_buf());
    let name = blake3::hash(real.as_os_str().as_bytes()).to_hex();
    let path = locks.join(format!("daemon-{}.lock", &name[..16]));
    (real, path)
}

/// The directory itself, and what else lies in it, are no good for this: the files are replaced when
/// they change, and who changes them locks the directory for that.
fn lock_key(path: &Path) -> Result<File, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let key = File::from(openat(CWD, path, flags, Mode::empty())?);
    flock(&key, FlockOperation::NonBlockingLockExclusive)?;
    Ok(key)
}

/// Who says that it has the lock.
fn process(file: File) -> Option<u32> {
    let mut text = String::new();
    let _ = file.take(20).read_to_string(&mut text);
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_configuration_has_one_daemon() {
        let folder = std::env::temp_dir().join(format!("psync-run-lock-{}", std::process::id()));
        let (locks, one, two) = (folder.join("run"), folder.join("one"), folder.join("two"));
        std::fs::create_dir_all(&one).unwrap();
        std::fs::create_dir_all(&two).unwrap();
        std::fs::write(one.join(KEY_FILE), "").unwrap();
        let held = RunLock::take(&locks, &one).unwrap();
        let other = RunLock::take(&locks, &two).unwrap();
        let refused = RunLock::take(&locks, &folder.join("two/../one")).unwrap_err();
        let elsewhere = RunLock::take(&folder.join("other-run"), &one).unwrap_err();
        assert!(matches!(elsewhere, RunLockError::Taken { process: None, .. }));
        let who = Some(std::process::id());
        assert_eq!(RunLock::holder(&locks, &one), who);
        assert!(matches!(refused, RunLockError::Taken { process, .. } if process == who));
        drop((held, other));
        assert_eq!(RunLock::holder(&locks, &one), None);
        assert_eq!(RunLock::holder(&locks, &folder.join("never")), None);
        RunLock::take(&locks, &one).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
