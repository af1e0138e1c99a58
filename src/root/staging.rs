//! How files come into the tree and leave it: staged beside the tree, then moved in whole by one
//! rename; what they displace is looked at before it is let go.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use psync_protocol::{Props, RelPath, Time};
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};

use super::{Root, Stat, WORK_DIR, is_absent, open_below, set_mtime_at};

const STAGE: &str = "stage";
const TRASH: &str = "trash";
/// How the work directories are opened.
const WORK_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The directories below `.psync` that a run works in.
#[derive(Debug)]
pub struct Staging {
    stage: OwnedFd,
    trash: OwnedFd,
    next: AtomicU64,
}

/// Something that stands in the stage: a file or symlink with content, not yet in the tree.
#[derive(Debug)]
pub struct Staged {
    name: OsString,
}

/// What stood at a path, now in the trash under a name of its own. It never lies anywhere else in
/// between, so that a crash leaves it where a person can find it.
#[derive(Debug)]
pub struct Displaced {
    dir: OwnedFd,
    name: OsString,
    /// What it is.
    pub stat: Stat,
}

impl Staging {
    /// Makes the work directories if they are missing, and empties the stage: whatever an
    /// interrupted run left there had not been part of the tree. Only for the holder of the root's
    /// lock.
    pub fn open(root: &Root) -> io::Result<Staging> {
        make_dir_if_missing(&root.dir, WORK_DIR.as_ref())?;
        let work = open_below(&root.dir, WORK_DIR.as_bytes(), WORK_FLAGS, Mode::empty())?;
        hide_from_git(&work)?;
        Staging::below(work)
    }

    /// For a root that cannot be written: the stage lies in the state directory, and whatever has
    /// to be moved into the tree is refused by the system, file by file.
    pub fn open_beside(state: &Path) -> io::Result<Staging> {
        Staging::below(fs::open(state, WORK_FLAGS, Mode::empty())?)
    }

    fn below(work: OwnedFd) -> io::Result<Staging> {
        let flags = WORK_FLAGS;
        for name in [STAGE, TRASH] {
            make_dir_if_missing(&work, name.as_ref())?;
        }
        let stage = open_below(&work, STAGE.as_bytes(), flags, Mode::empty())?;
        let trash = open_below(&work, TRASH.as_bytes(), flags, Mode::empty())?;
        let staging = Staging { stage, trash, next: AtomicU64::new(0) };
        staging.empty()?;
        Ok(staging)
    }

    fn empty(&self) -> io::Result<()> {
        let mut names = Vec::new();
        super::list_dir(&self.stage, &mut Vec::new(), |name, _| names.push(name.to_vec()))?;
        names.iter().try_for_each(|name| {
            Ok(fs::unlinkat(&self.stage, OsStr::from_bytes(name), AtFlags::empty())?)
        })
    }

    fn fresh_name(&self) -> OsString {
        format!("{:08x}", self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// A new empty file in the stage, for its owner only.
    pub fn create(&self) -> io::Result<(File, Staged)> {
        let name = self.fresh_name();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.stage, &name, flags, Mode::from_raw_mode(0o600))?;
        Ok((File::from(file), Staged { name }))
    }

    /// A staged file, to be read.
    pub fn reopen(&self, staged: &Staged) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.stage, &staged.name, flags, Mode::empty())?))
    }

    /// What stood at a path and went to the trash in this run, to be read.
    pub fn open_trashed(&self, run: &str, path: &RelPath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let place = [run.as_bytes(), path.as_bytes()].join(&b'/');
        Ok(File::from(open_below(&self.trash, &place, flags, Mode::empty())?))
    }

    /// A symlink in the stage.
    pub fn create_link(&self, target: &[u8], mtime: Time) -> io::Result<Staged> {
        let name = self.fresh_name();
        fs::symlinkat(OsStr::from_bytes(target), &self.stage, &name)?;
        set_mtime_at(&self.stage, &name, mtime)?;
        Ok(Staged { name })
    }

    /// A second name, in the stage, for a file of the tree: for a file that is about to lose its
    /// name there.
    pub fn link_from(&self, root: &Root, path: &RelPath) -> io::Result<Staged> {
        let (parent, name) = root.parent(path)?;
        let staged = self.fresh_name();
        fs::linkat(&parent, name, &self.stage, &staged, AtFlags::empty())?;
        Ok(Staged { name: staged })
    }

    /// Copies a file of the tree into the stage, with the file system's help where it has any.
    /// Returns what was copied through `seen`, piece by piece.
    pub fn copy_from(&self, source: &mut File, mut seen: impl FnMut(&[u8])) -> io::Result<Staged> {
        let (mut file, staged) = self.create()?;
        let mut buffer = vec![0; 256 << 10];
        let copied = loop {
            match source.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(n) => {
                    seen(&buffer[..n]);
                    if let Err(error) = file.write_all(&buffer[..n]) {
                        break Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        match copied {
            Ok(()) => Ok(staged),
            Err(error) => {
                self.discard(staged);
                Err(error)
            }
        }
    }

    /// Gives a staged file the owner of the file that it is to replace. Only a privileged user may
    /// give files away: others keep what they can.
    pub fn set_owner(&self, staged: &Staged, owner: (u32, u32)) {
        let made = fs::statat(&self.stage, &staged.name, AtFlags::SYMLINK_NOFOLLOW);
        if made.is_ok_and(|made| (made.st_uid, made.st_gid) != owner) {
            let (user, group) = (fs::Uid::from_raw(owner.0), fs::Gid::from_raw(owner.1));
            let _ = fs::chownat(
                &self.stage,
                &staged.name,
                Some(user),
                Some(group),
                AtFlags::SYMLINK_NOFOLLOW,
            );
        }
    }

    /// Sets the properties that a staged file will have in the tree.
    pub fn set_props(&self, staged: &Staged, props: Props) -> io::Result<()> {
        fs::chmodat(
            &self.stage,
            &staged.name,
            Mode::from_raw_mode(props.mode.into()),
            AtFlags::empty(),
        )?;
        set_mtime_at(&self.stage, &staged.name, props.mtime)
    }

    /// Makes one staged file durable.
    pub fn sync(&self, staged: &Staged) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.stage, &staged.name, flags, Mode::empty()) {
            Ok(file) => Ok(fs::fsync(file)?),
            // A symlink, or a file that its owner may not read: durable with its directory.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::ACCESS) => Ok(fs::fsync(&self.stage)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Drops something from the stage.
    pub fn discard(&self, staged: Staged) {
        // What cannot be removed now is removed when the next run opens the stage.
        let _ = fs::unlinkat(&self.stage, &staged.name, AtFlags::empty());
    }

    /// Moves a staged file to a path where nothing may stand.
    pub fn publish_new(
        &self,
        root: &Root,
        staged: Staged,
        path: &RelPath,
    ) -> Result<(), (Staged, io::Error)> {
        let moved = root.parent(path).and_then(|(parent, name)| {
            Ok(fs::renameat_with(&self.stage, &staged.name, &parent, name, RenameFlags::NOREPLACE)?)
        });
        moved.map_err(|error| (staged, error))
    }

    /// Exchanges a staged file with what stands at a path, in one step, and hands over what stood
    /// there. The staged file goes to the trash's place first: after the exchange what was
    /// displaced is in the trash already.
    pub fn publish_over(
        &self,
        root: &Root,
        staged: Staged,
        run: &str,
        path: &RelPath,
    ) -> Result<Displaced, (Staged, io::Error)> {
        let slot = self.move_to_trash(&self.stage, &staged.name, run, path);
        let (dir, name) = match slot {
            Ok(slot) => slot,
            Err(error) => return Err((staged, error)),
        };
        let exchanged = root.parent(path).and_then(|(parent, target)| {
            fs::renameat_with(&dir, &name, &parent, target, RenameFlags::EXCHANGE)?;
            Ok(Stat::from(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?))
        });
        match exchanged {
            Ok(stat) => Ok(Displaced { dir, name, stat }),
            Err(error) => {
                // It is the staged file still: back to the stage, where it may be dropped.
                let _ = fs::renameat(&dir, &name, &self.stage, &staged.name);
                Err((staged, error))
            }
        }
    }

    /// Takes what stands at a path out of the tree, into the trash: `.psync/trash/<run>/<path>`,
    /// the run named by its time.
    pub fn withdraw(&self, root: &Root, run: &str, path: &RelPath) -> io::Result<Displaced> {
        let (parent, name) = root.parent(path)?;
        let (dir, name) = self.move_to_trash(&parent, name, run, path)?;
        let stat = Stat::from(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(Displaced { dir, name, stat })
    }

    /// Puts what was displaced at a path where nothing may stand.
    pub fn put_back(
        &self,
        root: &Root,
        displaced: Displaced,
        path: &RelPath,
    ) -> Result<(), (Displaced, io::Error)> {
        let moved = root.parent(path).and_then(|(parent, name)| {
            Ok(fs::renameat_with(
                &displaced.dir,
                &displaced.name,
                &parent,
                name,
                RenameFlags::NOREPLACE,
            )?)
        });
        moved.map_err(|error| (displaced, error))
    }

    /// Drops what was displaced: its content is safe under another name.
    pub fn drop_displaced(&self, displaced: Displaced) {
        // What cannot be removed stays in the trash.
        let _ = fs::unlinkat(&displaced.dir, &displaced.name, AtFlags::empty());
    }

    /// Takes away the directories of a run's trash that hold nothing.
    pub fn prune_trash(&self, run: &str) {
        // What cannot be pruned does no harm.
        let _ = prune(&self.trash, run.as_ref());
    }

    /// Moves a file into the trash, to the name that belongs to `path`; where that is taken a
    /// number is appended.
    fn move_to_trash(
        &self,
        from: &OwnedFd,
        name: &OsStr,
        run: &str,
        path: &RelPath,
    ) -> io::Result<(OwnedFd, OsString)> {
        let (above, last) = path.split();
        let mut here = self.trash_dir(&self.trash, run.as_bytes())?;
        for name in above.into_iter().flat_map(|above| above.split(|&byte| byte == b'/')) {
            here = self.trash_dir(&here, name)?;
        }
        let mut target = OsStr::from_bytes(last).to_os_string();
        for number in 1..1000 {
            match fs::renameat_with(from, name, &here, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok((here, target)),
                Err(rustix::io::Errno::EXIST) => {
                    let suffix = format!(".{number}");
                    let kept = last.len().min(255 - suffix.len());
                    target = OsStr::from_bytes(&last[..kept]).to_os_string();
                    target.push(suffix);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// A directory in the trash. A file of the same name from earlier in the run makes room.
    fn trash_dir(&self, here: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut name = OsStr::from_bytes(name).to_os_string();
        for _ in 0..100 {
            make_dir_if_missing(here, &name)?;
            match fs::openat(here, &name, flags, Mode::empty()) {
                Ok(dir) => return Ok(dir),
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if name.len() < 255 => {
                    name.push("_")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}

fn prune(above: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = WORK_FLAGS | OFlags::NOFOLLOW;
    let dir = fs::openat(above, name, flags, Mode::empty())?;
    let mut below = Vec::new();
    super::list_dir(&dir, &mut Vec::new(), |name, stat| {
        if stat.is_ok_and(|stat| stat.kind == super::FileKind::Directory) {
            below.push(name.to_vec());
        }
    })?;
    for name in below {
        let _ = prune(&dir, OsStr::from_bytes(&name));
    }
    Ok(fs::unlinkat(above, name, AtFlags::REMOVEDIR)?)
}

fn make_dir_if_missing(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Git should not take psync's state for the person's work.
fn hide_from_git(work: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(work, ".gitignore", flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => File::from(file).write_all(b"*\n"),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Root {
    /// Gives what stands at a path another name, where nothing may stand.
    pub fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(fs::renameat_with(&from_parent, from_name, &to_parent, to_name, RenameFlags::NOREPLACE)?)
    }

    /// Gives a file a second name, where nothing may stand.
    pub fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(fs::linkat(&from_parent, from_name, &to_parent, to_name, AtFlags::empty())?)
    }

    /// Whether nothing stands at a path.
    pub fn is_free(&self, path: &RelPath) -> io::Result<bool> {
        match self.stat(path) {
            Ok(stat) => Ok(stat.is_none()),
            Err(error) if is_absent(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
