//! The only code that touches paths on disk. Everything is resolved from the root's open
//! directory descriptor, and no symlink is followed on the way, so a path cannot lead outside even
//! while somebody exchanges directories for links.

mod begun;
mod flusher;
mod held;
mod in_use;
mod noted;
mod place;
mod promise;
mod space;
mod stager;
mod staging;

pub use flusher::Flusher;
pub use held::HeldDir;
pub use in_use::Locked;
pub use noted::{Identity, Known, Note};
pub use place::{Place, StateHome, places};
pub use promise::{Promise, Recovered, Step, Trace};
pub use space::{Claim, KeepFree, NoRoom, Room, Space};
pub use stager::Stager;
pub use staging::{Displaced, StageReader, Staged, Staging};

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use psync_protocol::entry::MODE_MASK;
use psync_protocol::{ContentHash, Props, RelPath, Time};
use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags};
use xxhash_rust::xxh3::xxh3_64;

use crate::manifest::Stamp;

/// The directory for state, staging and trash at the top of each root.
pub const WORK_DIR: &str = ".psync";

/// The kernel stamps files with a clock that may lag this much behind.
const CLOCK_LAG: Duration = Duration::from_millis(20);
/// Bytes hashed at a time.
const HASH_STEP: usize = 256 << 10;

/// What kind of thing stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or FIFO.
    Special,
}

/// What `lstat` says about a path, as far as psync looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The kind.
    pub kind: FileKind,
    /// Length in bytes (of a symlink: of its target).
    pub size: u64,
    /// Last modification of the content.
    pub mtime: Time,
    /// Last change of content or properties.
    pub ctime: Time,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub device: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
}

impl Stat {
    fn from(stat: &fs::Stat) -> Stat {
        let kind = match fs::FileType::from_raw_mode(stat.st_mode) {
            fs::FileType::RegularFile => FileKind::File,
            fs::FileType::Directory => FileKind::Directory,
            fs::FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Special,
        };
        Stat {
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            ctime: Time { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 },
            inode: stat.st_ino,
            device: stat.st_dev,
            mode: stat.st_mode as u16 & MODE_MASK,
            owner: (stat.st_uid, stat.st_gid),
        }
    }

    /// The stamp of a file that looks like this. Of a directory only kind and mode count.
    pub fn stamp(&self) -> Stamp {
        let kind = match self.kind {
            FileKind::File => 1u64,
            FileKind::Directory => 2,
            FileKind::Symlink => 3,
            FileKind::Special => 4,
        };
        let mut words = [kind, u64::from(self.mode), 0, 0, 0, 0, 0];
        if self.kind != FileKind::Directory {
            words[2..].copy_from_slice(&[
                self.size,
                self.mtime.secs as u64,
                self.ctime.secs as u64,
                u64::from(self.mtime.nanos) << 32 | u64::from(self.ctime.nanos),
                self.inode,
            ]);
        }
        let mut bytes = [0; 56];
        for (word, chunk) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Stamp(xxh3_64(&bytes).max(1))
    }

    /// The stamp of a file that was looked at after `moment`, if it can be trusted: a file whose
    /// last change is not strictly older could change again without looking different.
    pub fn trusted_stamp(&self, moment: SystemTime) -> Stamp {
        let limit = moment.checked_sub(CLOCK_LAG);
        let limit = limit
            .and_then(|limit| limit.duration_since(SystemTime::UNIX_EPOCH).ok())
            .unwrap_or_default();
        let limit = Time { secs: limit.as_secs() as i64, nanos: limit.subsec_nanos() };
        let trusted = self.kind == FileKind::Directory || self.mtime < limit;
        if trusted { self.stamp() } else { Stamp::UNKNOWN }
    }

    /// The properties that are synced for this kind of thing.
    pub fn props(&self) -> Props {
        match self.kind {
            FileKind::Directory => Props { mode: self.mode, mtime: Time::default() },
            FileKind::Symlink => Props { mode: 0, mtime: self.mtime },
            FileKind::File | FileKind::Special => Props { mode: self.mode, mtime: self.mtime },
        }
    }

    /// Whether `later` shows the same content: what a rename or a change of mode leaves alone.
    pub fn same_content(&self, later: &Stat) -> bool {
        self.kind == later.kind
            && self.inode == later.inode
            && (self.kind == FileKind::Directory
                || self.size == later.size && self.mtime == later.mtime)
    }
}

/// An open root.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    device: u64,
}

impl Root {
    /// Opens a directory as a root. Here, and only here, symlinks on the way are followed: the
    /// person named this path.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty())?;
        let device = fs::fstat(&dir)?.st_dev;
        Ok(Root { dir, path: path.to_path_buf(), device })
    }

    /// The same root, for another thread.
    pub fn try_clone(&self) -> io::Result<Root> {
        let (path, device) = (self.path.clone(), self.device);
        Ok(Root { dir: self.dir.try_clone()?, path, device })
    }

    /// The path that it was opened with, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system that it is on.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// The path of an entry, for messages and for other programs; never to open it.
    pub fn full_path(&self, path: &RelPath) -> PathBuf {
        self.path.join(OsStr::from_bytes(path.as_bytes()))
    }

    /// The identity of the directory: file system (which outlasts restarts as far as the system
    /// has one) and inode.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((fs::fstatvfs(&self.dir)?.f_fsid, fs::fstat(&self.dir)?.st_ino))
    }

    /// Opens a directory of the tree; none is the root itself.
    pub fn open_dir(&self, path: Option<&RelPath>) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match path {
            None => self.open_below(b".", flags),
            Some(path) => self.open_below(path.as_bytes(), flags),
        }
    }

    /// Opens a regular file for reading. What is not a regular file is refused, without waiting
    /// for the other end of a FIFO.
    pub fn open_file(&self, path: &RelPath) -> io::Result<(File, Stat)> {
        regular(self.open_below(path.as_bytes(), READ_FILE)?)
    }

    /// What stands at a path; none where nothing does.
    pub fn stat(&self, path: &RelPath) -> io::Result<Option<Stat>> {
        let opened =
            self.open_below(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC);
        match opened {
            Ok(file) => Ok(Some(Stat::from(&fs::fstat(&file)?))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A symlink's target.
    pub fn read_link(&self, path: &RelPath) -> io::Result<Box<[u8]>> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::readlinkat(&parent, name, Vec::new())?.into_bytes().into())
    }

    /// Makes one directory, open to its owner while it is being filled.
    pub fn make_dir(&self, path: &RelPath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?)
    }

    /// Makes the directories above a path that do not exist yet.
    pub fn make_parents(&self, path: &RelPath) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        match self.stat(&parent)? {
            Some(_) => Ok(()),
            None => {
                self.make_parents(&parent)?;
                self.make_dir(&parent)?;
                self.set_mode(&parent, 0o755)
            }
        }
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets the permission bits of a file or directory.
    pub fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match self.open_below(path.as_bytes(), flags) {
            Ok(file) => Ok(fs::fchmod(&file, Mode::from_raw_mode(mode.into()))?),
            // A file that its owner may not read can still be given another mode: through what is
            // held open, as a name could lead to a symlink by then.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let held = self.open_below(path.as_bytes(), flags)?;
                if Stat::from(&fs::fstat(&held)?).kind == FileKind::Symlink {
                    return Err(error);
                }
                Ok(fs::chmod(own_name(&held), Mode::from_raw_mode(mode.into()))?)
            }
            Err(error) => Err(error),
        }
    }

    /// Sets the modification time of a file or symlink.
    pub fn set_mtime(&self, path: &RelPath, mtime: Time) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        set_mtime_at(&parent, name, mtime)
    }

    /// Makes the directory that holds a path durable.
    pub fn sync_parent(&self, path: &RelPath) -> io::Result<()> {
        let (parent, _) = self.parent(path)?;
        Ok(fs::fsync(File::from(fs::openat(
            &parent,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?))?)
    }

    /// Makes everything on the root's file system durable.
    pub fn sync_all(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.dir)?)
    }

    /// The directory that holds a path, and the name in it.
    fn parent<'a>(&self, path: &'a RelPath) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (parent, name) = path.split();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.open_below(parent.unwrap_or(b"."), flags)?;
        Ok((parent, OsStr::from_bytes(name)))
    }

    fn open_below(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        open_below(&self.dir, path, flags, Mode::empty())
    }
}

/// A name of something that is held open, as which the kernel knows it whatever stands at its path.
fn own_name(held: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", held.as_raw_fd())
}

/// How a file is opened to be read: through no symlink, and without waiting for the other end of a
/// FIFO.
const READ_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What was opened, if it is a regular file.
fn regular(file: OwnedFd) -> io::Result<(File, Stat)> {
    let stat = Stat::from(&fs::fstat(&file)?);
    if stat.kind != FileKind::File {
        return Err(io::Error::other("is not a regular file any more"));
    }
    Ok((File::from(file), stat))
}

/// What an open file looks like now.
pub fn stat_of(file: &File) -> io::Result<Stat> {
    Ok(Stat::from(&fs::fstat(file)?))
}

/// Whether an error says that nothing stands at a path (or that something above it is no
/// directory, so that nothing can).
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn set_mtime_at(dir: impl AsFd, name: &OsStr, mtime: Time) -> io::Result<()> {
    Ok(fs::utimensat(dir, name, &only_modification(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_mtime_of(file: impl AsFd, mtime: Time) -> io::Result<()> {
    Ok(fs::futimens(file, &only_modification(mtime))?)
}

fn only_modification(mtime: Time) -> fs::Timestamps {
    let unchanged = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let mtime = fs::Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    fs::Timestamps { last_access: unchanged, last_modification: mtime }
}

/// Opens a path below `dir` without following any symlink. Kernels before 5.6 and some sandboxes
/// have no `openat2`; there the path is walked name by name.
fn open_below(dir: &OwnedFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match fs::openat2(dir, OsStr::from_bytes(path), flags, mode, resolve) {
            Ok(file) => return Ok(file),
            // Somebody renamed something while the kernel looked: it asks to be asked again.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                return walk_below(dir, path, flags, mode);
            }
            // The kernel opens a symlink itself, and only that, when asked for the path alone.
            Err(rustix::io::Errno::LOOP) if flags.contains(OFlags::PATH | OFlags::NOFOLLOW) => {
                return walk_below(dir, path, flags, mode);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn walk_below(dir: &OwnedFd, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    let mut here: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        let name = OsStr::from_bytes(name);
        let from = here.as_ref().unwrap_or(dir);
        let last = names.peek().is_none();
        let opened = if last {
            fs::openat(from, name, flags | OFlags::NOFOLLOW, mode)?
        } else {
            fs::openat(from, name, step, Mode::empty())?
        };
        if last {
            return Ok(opened);
        }
        here = Some(opened);
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

/// What a directory holds, name by name, with `lstat` of each. The order is the file system's.
/// `each` gets the name and either what stands there or why it cannot be told; names that vanish
/// in between are passed over.
pub fn list_dir(
    dir: &OwnedFd,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8], io::Result<Stat>),
) -> io::Result<()> {
    buffer.reserve(32 << 10);
    let mut entries = fs::RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => each(name, Ok(Stat::from(&stat))),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => each(name, Err(error.into())),
        }
    }
    Ok(())
}

/// The hash and length of everything that a reader gives.
pub fn hash_reader(reader: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<(ContentHash, u64)> {
    buffer.resize(HASH_STEP, 0);
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok((ContentHash(hasher.finalize().into()), size)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
