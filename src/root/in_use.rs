//! What cannot be replaced now: databases that a program has open, as their files, copied now, would
//! not fit each other; and what may not be changed.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};

use psync_protocol::RelPath;
use rustix::fs::{Access, AtFlags, accessat};

use super::Root;
use crate::manifest::{database_of, with_companions};

/// How every SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The files that some process holds a lock of SQLite's kind on, by inode. The kernel's list says
/// so; another file system may have a file of the same number, which then only waits for a run.
#[derive(Debug, Clone, Default)]
pub struct Locked(HashSet<u64>);

impl Locked {
    /// As things stand now. Where the list cannot be read, nothing is known to be in use.
    pub fn now() -> Locked {
        let once = || Locked::parse(&kernels_list().unwrap_or_default()).0;
        // Between two reads of a long list its lines move when other locks come or go, and one that
        // is held all the time may be passed over: hardly twice.
        Locked(once().into_iter().chain(once()).collect())
    }

    /// From lines such as `1: POSIX  ADVISORY  READ 4711 00:2b:1234 128 128`.
    fn parse(text: &str) -> Locked {
        let inode = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_posix = words.iter().any(|word| matches!(*word, "POSIX" | "OFDLCK"));
            let file = words.into_iter().find(|word| word.matches(':').count() == 2)?;
            file.rsplit_once(':').filter(|_| is_posix)?.1.parse().ok()
        };
        Locked(text.lines().filter_map(inode).collect())
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this file is.
    pub fn holds(&self, inode: u64) -> bool {
        self.0.contains(&inode)
    }
}

/// The kernel's list of locks, in as few reads as it allows: each gives a page of it at most, which
/// is as things stood at one moment.
fn kernels_list() -> io::Result<String> {
    let mut list = BufReader::with_capacity(1 << 16, fs::File::open("/proc/locks")?);
    let mut text = String::new();
    while list.read_line(&mut text)? > 0 {}
    Ok(text)
}

impl Root {
    /// Whether what stands at a path may be replaced or taken away, as far as the permissions of the
    /// directory say that holds it.
    pub fn may_change(&self, path: &RelPath) -> bool {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        match self.parent(path) {
            Ok((parent, _)) => match accessat(&parent, ".", access, AtFlags::EACCESS) {
                Err(rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS) => false,
                Ok(()) | Err(_) => true,
            },
            // What is wrong with it is found when it is used.
            Err(_) => true,
        }
    }

    /// The database that a path is, or belongs to by its name, if a program has it open.
    pub fn open_database(&self, path: &RelPath, locked: &Locked) -> Option<RelPath> {
        if locked.is_empty() {
            return None;
        }
        let database = database_of(path).unwrap_or_else(|| path.clone());
        let held = with_companions(&database)
            .filter_map(|member| self.stat(&member).ok().flatten())
            .any(|stat| locked.holds(stat.inode));
        (held && self.is_database(&database)).then_some(database)
    }

    /// Whether a file is a SQLite database, by how it begins.
    fn is_database(&self, path: &RelPath) -> bool {
        let mut head = [0; MAGIC.len()];
        let read = self.open_file(path).and_then(|(mut file, _)| file.read_exact(&mut head));
        read.is_ok() && head == *MAGIC
    }

    /// Whether part of a database stands beside it: what a program has written and SQLite has not
    /// put into its place yet.
    pub fn is_in_parts(&self, database: &RelPath) -> bool {
        with_companions(database)
            .skip(1)
            .filter(|companion| !companion.as_bytes().ends_with(b"-shm"))
            .filter_map(|companion| self.stat(&companion).ok().flatten())
            .any(|stat| stat.size > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use rustix::fs::{FlockOperation, fcntl_lock, flock};

    use super::Locked;

    #[test]
    fn locks_of_sqlites_kind_are_found_in_the_kernels_list() {
        let locked = Locked::parse(
            "1: POSIX  ADVISORY  READ 4711 00:2b:1234 128 128\n\
             2: FLOCK  ADVISORY  WRITE 4712 fe:01:99 0 EOF\n\
             2: -> POSIX  ADVISORY  WRITE 4713 fe:01:77 0 EOF\nnonsense\n",
        );
        assert!(locked.holds(1234) && locked.holds(77) && !locked.holds(99));
        assert!(Locked::parse("").is_empty());
    }

    #[test]
    fn a_lock_that_is_held_is_found_while_others_come_and_go() {
        let folder = std::env::temp_dir();
        let file = |name: &str| {
            let path = folder.join(format!("psync-in-use-{name}-{}", std::process::id()));
            let file = fs::File::create(&path).unwrap();
            fs::remove_file(path).unwrap();
            file
        };
        let held = file("held");
        fcntl_lock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let inode = held.metadata().unwrap().ino();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let others: [fs::File; 20] =
                    std::array::from_fn(|number| file(&number.to_string()));
                while !over.load(Ordering::Relaxed) {
                    others.iter().for_each(|it| flock(it, FlockOperation::LockShared).unwrap());
                    others.iter().for_each(|it| flock(it, FlockOperation::Unlock).unwrap());
                }
            });
            let missed = (0..1000).filter(|_| !Locked::now().holds(inode)).count();
            over.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
    }
}
