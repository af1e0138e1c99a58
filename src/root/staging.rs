//! How files come into the tree and leave it: staged beside the tree, then moved in whole by one
//! rename; what they displace is looked at before it is let go.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use psync_protocol::{Props, RelPath, Time};
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};

use super::begun::Begun;
use super::{
    Claim, HeldDir, Recovered, Root, Stat, WORK_DIR, is_absent, open_below, set_mtime_at,
    set_mtime_of,
};

const STAGE: &str = "stage";
const TRASH: &str = "trash";
/// How the work directories are opened.
const WORK_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How what is staged is opened, whatever somebody has put in its place: through no symlink, and
/// without waiting for the other end of a FIFO.
const STAGED_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The directories below `.psync` that a run works in.
#[derive(Debug)]
pub struct Staging {
    pub(super) work: OwnedFd,
    pub(super) stage: OwnedFd,
    pub(super) begun: Begun,
    trash: OwnedFd,
    next: AtomicU64,
}

/// Something that stands in the stage: a file or symlink with content, not yet in the tree.
#[derive(Debug)]
pub struct Staged {
    name: OsString,
    /// Whether it has the properties already that it will have in the tree.
    ready: bool,
    /// What it takes of the room of the stage.
    _claim: Option<Claim>,
}

impl Staged {
    pub(super) fn new(name: OsString) -> Staged {
        Staged { name, ready: false, _claim: None }
    }

    /// The same, which has this room for as long as it is in the stage.
    pub fn holding(self, claim: Claim) -> Staged {
        Staged { _claim: Some(claim), ..self }
    }

    /// Its name in the stage.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether it has the properties already that it will have in the tree.
    pub fn is_ready(&self) -> bool {
        self.ready
    }
}

/// Reads what is in the stage.
#[derive(Debug)]
pub struct StageReader(OwnedFd);

impl StageReader {
    /// The file with this name, to be read, with what it is.
    pub fn open(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        let file = File::from(fs::openat(&self.0, name, STAGED_FLAGS, Mode::empty())?);
        let stat = super::stat_of(&file)?;
        Ok((file, stat))
    }
}

/// What stood at a path, now in the trash under a name of its own. It never lies anywhere else in
/// between, so that a crash leaves it where a person can find it.
#[derive(Debug)]
pub struct Displaced {
    dir: OwnedFd,
    /// Its path in the trash; the last name is that in `dir`.
    place: Box<[u8]>,
    /// What it is.
    pub stat: Stat,
}

impl Displaced {
    pub(super) fn new(dir: OwnedFd, folder: &[u8], name: &OsStr, stat: Stat) -> Displaced {
        Displaced { dir, place: [folder, name.as_bytes()].join(&b'/').into(), stat }
    }

    /// Where it lies, as a path in the trash.
    pub fn place(&self) -> &[u8] {
        &self.place
    }

    fn name(&self) -> &OsStr {
        let start = self.place.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.place[start..])
    }
}

impl Staging {
    /// Makes the work directories if they are missing, finishes what an interrupted run had
    /// promised, and empties the stage: whatever else it left there had not been part of the tree.
    /// What it had begun to fetch stays. Only for the holder of the root's lock.
    pub fn open(root: &Root) -> io::Result<(Staging, Option<Recovered>)> {
        make_dir_if_missing(&root.dir, WORK_DIR.as_ref())?;
        let work = open_below(&root.dir, WORK_DIR.as_bytes(), WORK_FLAGS, Mode::empty())?;
        hide_from_git(&work)?;
        let mut staging = Staging::below(work)?;
        let recovered = staging.keep_promise(root)?;
        staging.empty()?;
        Ok((staging, recovered))
    }

    /// For a root that cannot be written: the stage lies in the state directory, and whatever has
    /// to be moved into the tree is refused by the system, file by file.
    pub fn open_beside(state: &Path) -> io::Result<Staging> {
        let mut staging = Staging::below(fs::open(state, WORK_FLAGS, Mode::empty())?)?;
        staging.empty()?;
        Ok(staging)
    }

    fn below(work: OwnedFd) -> io::Result<Staging> {
        let flags = WORK_FLAGS;
        for name in [STAGE, TRASH] {
            make_dir_if_missing(&work, name.as_ref())?;
        }
        let stage = open_below(&work, STAGE.as_bytes(), flags, Mode::empty())?;
        let trash = open_below(&work, TRASH.as_bytes(), flags, Mode::empty())?;
        let begun = Begun::default();
        Ok(Staging { work, stage, begun, trash, next: AtomicU64::new(0) })
    }

    /// Removes what is in the stage, but for contents that were begun.
    fn empty(&mut self) -> io::Result<()> {
        let mut names = Vec::new();
        super::list_dir(&self.stage, &mut Vec::new(), |name, _| names.push(name.to_vec()))?;
        let (begun, others) = Begun::sort_out(&self.stage, names);
        self.begun = begun;
        others.iter().try_for_each(|name| {
            Ok(fs::unlinkat(&self.stage, OsStr::from_bytes(name), AtFlags::empty())?)
        })
    }

    /// Which names this file system takes for one: whether those that differ in letter case, and
    /// those that differ in the form of Unicode. Tried out in the stage.
    pub fn folds(&self) -> io::Result<(bool, bool)> {
        let tried = |made: &str, other: &str| {
            create_in(&self.stage, made.as_ref())?;
            let found = fs::statat(&self.stage, other, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            fs::unlinkat(&self.stage, made, AtFlags::empty())?;
            Ok::<bool, io::Error>(found)
        };
        Ok((tried("Name", "nAME")?, tried("\u{e9}", "e\u{301}")?))
    }

    /// The stage, for what is asked of its file system.
    pub fn stage(&self) -> BorrowedFd<'_> {
        self.stage.as_fd()
    }

    fn fresh_name(&self) -> OsString {
        format!("{:08x}", self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// A new empty file in the stage, for its owner only.
    pub fn create(&self) -> io::Result<(File, Staged)> {
        let name = self.fresh_name();
        Ok((create_in(&self.stage, &name)?, Staged::new(name)))
    }

    /// A name in the stage for what will be written there by others.
    pub(super) fn reserve(&self, ready: bool) -> Staged {
        Staged { name: self.fresh_name(), ready, _claim: None }
    }

    /// A staged file, to be read.
    pub fn reopen(&self, staged: &Staged) -> io::Result<File> {
        Ok(File::from(fs::openat(&self.stage, &staged.name, STAGED_FLAGS, Mode::empty())?))
    }

    /// Reads what is staged from another thread.
    pub fn reader(&self) -> io::Result<StageReader> {
        Ok(StageReader(self.stage.try_clone()?))
    }

    /// A symlink in the stage.
    pub fn create_link(&self, target: &[u8], mtime: Time) -> io::Result<Staged> {
        let name = self.fresh_name();
        fs::symlinkat(OsStr::from_bytes(target), &self.stage, &name)?;
        set_mtime_at(&self.stage, &name, mtime)?;
        Ok(Staged::new(name))
    }

    /// A second name, in the stage, for a file of the tree: for a file that is about to lose its
    /// name there.
    pub fn link_from(&self, root: &Root, path: &RelPath) -> io::Result<Staged> {
        let (parent, name) = root.parent(path)?;
        let staged = self.fresh_name();
        fs::linkat(&parent, name, &self.stage, &staged, AtFlags::empty())?;
        Ok(Staged::new(staged))
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
        let file = self.reopen(staged)?;
        fs::fchmod(&file, Mode::from_raw_mode(props.mode.into()))?;
        set_mtime_of(&file, props.mtime)
    }

    /// Makes one staged file durable.
    pub fn sync(&self, staged: &Staged) -> io::Result<()> {
        match fs::openat(&self.stage, &staged.name, STAGED_FLAGS, Mode::empty()) {
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
        held: &mut HeldDir,
        staged: Staged,
        path: &RelPath,
    ) -> Result<(), (Staged, io::Error)> {
        let moved = held.parent(root, path).and_then(|(parent, name)| {
            Ok(fs::renameat_with(&self.stage, &staged.name, parent, name, RenameFlags::NOREPLACE)?)
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
        let (dir, name, folder) = match slot {
            Ok(slot) => slot,
            Err(error) => return Err((staged, error)),
        };
        let exchanged = root.parent(path).and_then(|(parent, target)| {
            fs::renameat_with(&dir, &name, &parent, target, RenameFlags::EXCHANGE)?;
            Ok(Stat::from(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?))
        });
        match exchanged {
            Ok(stat) => Ok(Displaced::new(dir, &folder, &name, stat)),
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
        let (dir, name, folder) = self.move_to_trash(&parent, name, run, path)?;
        let stat = Stat::from(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(Displaced::new(dir, &folder, &name, stat))
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
                displaced.name(),
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
        let _ = fs::unlinkat(&displaced.dir, displaced.name(), AtFlags::empty());
    }

    /// Removes a file from the trash, for good.
    pub fn remove_trashed(&self, place: &[u8]) -> io::Result<()> {
        let (folder, name) = match place.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&place[..slash], &place[slash + 1..]),
            None => (&b"."[..], place),
        };
        let dir = open_below(&self.trash, folder, WORK_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(fs::unlinkat(&dir, OsStr::from_bytes(name), AtFlags::empty())?)
    }

    /// Takes away the directories of a run's trash that hold nothing.
    pub fn prune_trash(&self, run: &str) {
        // What cannot be pruned does no harm.
        let _ = prune(&self.trash, run.as_ref());
    }

    /// Moves a file into the trash, to the name that belongs to `path`; where that is taken a
    /// number is appended.
    pub(super) fn move_to_trash(
        &self,
        from: &OwnedFd,
        name: &OsStr,
        run: &str,
        path: &RelPath,
    ) -> io::Result<(OwnedFd, OsString, Vec<u8>)> {
        let (above, last) = path.split();
        let mut folder = Vec::new();
        let mut here = self.trash_dir(&self.trash, run.as_bytes(), &mut folder)?;
        for name in above.into_iter().flat_map(|above| above.split(|&byte| byte == b'/')) {
            here = self.trash_dir(&here, name, &mut folder)?;
        }
        let mut target = OsStr::from_bytes(last).to_os_string();
        for number in 1..1000 {
            match fs::renameat_with(from, name, &here, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok((here, target, folder)),
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

    /// A directory in the trash, whose name is added to `folder`. Where a file has that name, from
    /// earlier in the run, it gets another.
    fn trash_dir(&self, here: &OwnedFd, name: &[u8], folder: &mut Vec<u8>) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut name = OsStr::from_bytes(name).to_os_string();
        for _ in 0..100 {
            make_dir_if_missing(here, &name)?;
            match fs::openat(here, &name, flags, Mode::empty()) {
                Ok(dir) => {
                    folder.extend((!folder.is_empty()).then_some(b'/'));
                    folder.extend_from_slice(name.as_bytes());
                    return Ok(dir);
                }
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if name.len() < 255 => {
                    name.push("_")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}

fn list_below(dir: &OwnedFd, above: &[u8], files: &mut Vec<(Vec<u8>, Stat)>) -> io::Result<()> {
    let mut folders = Vec::new();
    super::list_dir(dir, &mut Vec::new(), |name, stat| {
        let path = if above.is_empty() { name.to_vec() } else { [above, name].join(&b'/') };
        match stat {
            Ok(stat) if stat.kind == super::FileKind::Directory => {
                folders.push((name.to_vec(), path));
            }
            Ok(stat) => files.push((path, stat)),
            // What vanishes meanwhile is not there.
            Err(_) => {}
        }
    })?;
    for (name, path) in folders {
        let flags = WORK_FLAGS | OFlags::NOFOLLOW;
        match fs::openat(dir, OsStr::from_bytes(&name), flags, Mode::empty()) {
            Ok(below) => list_below(&below, &path, files)?,
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A new empty file in the stage, for its owner only.
pub(super) fn create_in(stage: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(stage, name, flags, Mode::from_raw_mode(0o600))?))
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
    /// A file in the trash, to be read.
    pub fn open_trash_file(&self, place: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let place = [WORK_DIR.as_bytes(), TRASH.as_bytes(), place].join(&b'/');
        Ok(File::from(self.open_below(&place, flags)?))
    }

    /// A link in the trash: where it points.
    pub fn read_trash_link(&self, place: &[u8]) -> io::Result<Box<[u8]>> {
        let place = [WORK_DIR.as_bytes(), TRASH.as_bytes(), place].join(&b'/');
        let slash = place.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let dir = self.open_below(&place[..slash], WORK_FLAGS | OFlags::NOFOLLOW)?;
        let name = OsStr::from_bytes(&place[slash + 1..]);
        Ok(fs::readlinkat(&dir, name, Vec::new())?.into_bytes().into())
    }

    /// Every file and link in the trash: its path there, and what it is.
    pub fn trash_files(&self) -> io::Result<Vec<(Vec<u8>, Stat)>> {
        let trash = [WORK_DIR.as_bytes(), TRASH.as_bytes()].join(&b'/');
        let mut files = Vec::new();
        match self.open_below(&trash, WORK_FLAGS | OFlags::NOFOLLOW) {
            Ok(dir) => list_below(&dir, &[], &mut files)?,
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(files)
    }

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
