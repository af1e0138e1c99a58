//! What takes several renames and must not be seen half done. It is written down before the first of
//! them, with how each file is known again, so that whoever opens the root after a crash finishes it
//! before anything else is looked at.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use psync_protocol::codec::{Put, Reader};
use psync_protocol::path::PATH_MAX;
use psync_protocol::{DecodeError, Props, RelPath, Time};
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};

use super::{Displaced, FileKind, Locked, Root, Staged, Staging, Stat, is_absent};

/// The file in the work directory, and its name while it is written.
const FILE: &str = "promise";
const UNWRITTEN: &str = "promise.new";
/// The version of its format.
const FORMAT: u8 = 1;
/// Most bytes that are read of it, and most steps that it may have.
const BYTES_MAX: u64 = 1 << 30;
const STEPS_MAX: usize = 1 << 24;

/// How a file or symlink is known again, under whatever name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    inode: u64,
    size: u64,
    mtime: Time,
}

impl Trace {
    /// Of what looks like this.
    pub fn of(stat: &Stat) -> Trace {
        Trace { inode: stat.inode, size: stat.size, mtime: stat.mtime }
    }

    fn is(&self, stat: &Stat) -> bool {
        stat.kind != FileKind::Directory && *self == Trace::of(stat)
    }
}

/// One change of the tree. What is done already is seen by looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A staged file or symlink goes to a path.
    Put {
        /// Its name in the stage.
        staged: OsString,
        /// What it is.
        new: Trace,
        /// Its time once it has its final properties.
        mtime: Time,
        /// Where it goes.
        path: RelPath,
        /// What it replaces there.
        before: Option<Trace>,
    },
    /// What stands at a path goes to the trash.
    Take {
        /// Where.
        path: RelPath,
        /// What it is.
        before: Trace,
    },
    /// A file loses a name, as it stands under another one.
    Unlink {
        /// The name.
        path: RelPath,
        /// What it is.
        before: Trace,
    },
    /// What stands at a path gets its properties; of a directory, its mode.
    SetProps {
        /// Where.
        path: RelPath,
        /// The properties.
        props: Props,
        /// What it is; none of a directory, and of what an earlier step has put there.
        before: Option<Trace>,
    },
    /// A directory is made, open to its owner.
    MakeDir {
        /// Where.
        path: RelPath,
    },
    /// A directory goes, if nothing is left in it.
    RemoveDir {
        /// Where.
        path: RelPath,
    },
}

/// All that belongs together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// What it is about, for people; none where an undo or a restore is.
    pub name: Option<RelPath>,
    /// The run's directory in the trash.
    pub run: String,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

/// What became of a promise that a crash had left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// What is meant stands in its place whole.
    Finished(Option<RelPath>),
    /// It does not, for this reason, and was left as it is.
    Left(Option<RelPath>, String),
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Open,
    /// Somebody has changed something there since.
    Disturbed,
}

impl Staging {
    /// How a staged file is known again.
    pub fn trace(&self, staged: &Staged) -> io::Result<Trace> {
        Ok(Trace::of(&self.stat_staged(staged.name())?))
    }

    /// Writes a promise down, durably. From then on it is finished whatever happens.
    pub fn promise(&self, promise: &Promise) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.work, UNWRITTEN, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        file.write_all(&promise.encoded())?;
        file.sync_all()?;
        fs::renameat(&self.work, UNWRITTEN, &self.work, FILE)?;
        Ok(fs::fsync(&self.work)?)
    }

    /// What [`Staging::publish_over`] does, for what was promised: as it is finished from the stage,
    /// what it displaces lies there for a moment, on its way to the trash.
    pub fn publish_promised(
        &self,
        root: &Root,
        staged: Staged,
        run: &str,
        path: &RelPath,
    ) -> Result<Displaced, (Staged, io::Error)> {
        let exchange = || {
            let (parent, target) = root.parent(path)?;
            Ok(fs::renameat_with(
                &self.stage,
                staged.name(),
                &parent,
                target,
                RenameFlags::EXCHANGE,
            )?)
        };
        let displaced = exchange().and_then(|()| {
            let moved = self.move_to_trash(&self.stage, staged.name(), run, path);
            let (dir, name, folder) = moved.inspect_err(|_| {
                // Nothing is let go that is not in the trash.
                let _ = exchange();
            })?;
            let stat = Stat::from(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?);
            Ok(Displaced::new(dir, &folder, &name, stat))
        });
        displaced.map_err(|error| (staged, error))
    }

    /// The promise is kept, and the tree durable: nothing is left to be finished.
    pub fn promise_is_kept(&self) {
        // Where it cannot be removed all of it is seen to be done.
        let _ = fs::unlinkat(&self.work, FILE, AtFlags::empty());
    }

    /// Finishes what a crash has left half done. A database that a program has open now is an error:
    /// it can neither be finished nor be looked at.
    pub(super) fn keep_promise(&self, root: &Root) -> io::Result<Option<Recovered>> {
        let Some(promise) = self.promised()? else { return Ok(None) };
        let locked = Locked::now();
        let paths = promise.steps.iter().map(Step::path);
        if let Some(database) = paths.filter_map(|path| root.open_database(path, &locked)).next() {
            let text = format!(
                "{database} was being replaced when psync was interrupted, and is in use by another program now; close that, then run psync again"
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let recovered = match self.finish(root, &promise) {
            Ok(()) => Recovered::Finished(promise.name.clone()),
            Err(reason) => Recovered::Left(promise.name.clone(), reason),
        };
        self.sweep(&promise);
        // A disk that cannot be flushed is found by whoever changes something next.
        let _ = root.sync_all();
        self.promise_is_kept();
        Ok(Some(recovered))
    }

    fn promised(&self) -> io::Result<Option<Promise>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(&self.work, FILE, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        match Promise::decoded(&bytes) {
            Ok(promise) => Ok(Some(promise)),
            Err(_) => {
                // Of another version, or damaged: each path is wholly old or new in any case.
                self.promise_is_kept();
                Ok(None)
            }
        }
    }

    /// Does what is not done yet, or nothing where somebody has changed something since.
    fn finish(&self, root: &Root, promise: &Promise) -> Result<(), String> {
        let failed = |path: &RelPath| {
            let path = path.clone();
            move |error: io::Error| format!("{path}: {error}")
        };
        for (at, step) in promise.steps.iter().enumerate() {
            let state = self.state(root, &promise.steps, at).map_err(failed(step.path()))?;
            if state == State::Disturbed {
                return Err(format!("{} was changed since", step.path()));
            }
        }
        for (at, step) in promise.steps.iter().enumerate() {
            let state = self.state(root, &promise.steps, at).map_err(failed(step.path()))?;
            if state == State::Open {
                self.take_step(root, &promise.run, step).map_err(failed(step.path()))?;
            }
        }
        Ok(())
    }

    /// How far a step is, by what stands at its path.
    fn state(&self, root: &Root, steps: &[Step], at: usize) -> io::Result<State> {
        let (earlier, step) = (&steps[..at], &steps[at]);
        let stat = root.stat(step.path())?;
        let state = match (step, stat) {
            (Step::SetProps { before: Some(before), props, .. }, Some(stat))
                if !before.is(&stat) && !(Trace { mtime: props.mtime, ..*before }.is(&stat)) =>
            {
                State::Disturbed
            }
            (Step::SetProps { before: Some(_), .. }, None) => State::Disturbed,
            (Step::MakeDir { .. }, None) => State::Open,
            (Step::MakeDir { .. }, Some(stat)) if stat.kind == FileKind::Directory => State::Done,
            (Step::MakeDir { path }, Some(stat)) => {
                let is_cleared = earlier.iter().any(|step| step.clears(path, &stat));
                if is_cleared { State::Open } else { State::Disturbed }
            }
            (Step::SetProps { .. } | Step::RemoveDir { .. }, Some(_)) => State::Open,
            (Step::SetProps { .. } | Step::RemoveDir { .. }, None) => State::Done,
            (Step::Put { new, mtime, .. }, Some(stat))
                if new.is(&stat) || Trace { mtime: *mtime, ..*new }.is(&stat) =>
            {
                State::Done
            }
            (Step::Put { staged, new, .. }, _)
                if !self.stat_staged(staged).is_ok_and(|staged| new.is(&staged)) =>
            {
                State::Disturbed
            }
            (Step::Put { before: None, .. }, None) => State::Open,
            (Step::Put { before: Some(before), .. }, Some(stat)) if before.is(&stat) => State::Open,
            (Step::Put { path, .. }, Some(stat))
                if earlier.iter().any(|step| step.clears(path, &stat)) =>
            {
                State::Open
            }
            (Step::Put { .. }, _) => State::Disturbed,
            (Step::Take { .. } | Step::Unlink { .. }, None) => State::Done,
            (Step::Take { before, .. } | Step::Unlink { before, .. }, Some(stat))
                if before.is(&stat) =>
            {
                State::Open
            }
            (Step::Take { path, .. } | Step::Unlink { path, .. }, Some(stat)) => {
                let takes_its_place = |step: &Step| match step {
                    Step::Put { path: to, new, .. } => to == path && new.is(&stat),
                    Step::MakeDir { path: to } => to == path && stat.kind == FileKind::Directory,
                    _ => false,
                };
                match steps.iter().any(takes_its_place) {
                    true => State::Done,
                    false => State::Disturbed,
                }
            }
        };
        Ok(state)
    }

    fn take_step(&self, root: &Root, run: &str, step: &Step) -> io::Result<()> {
        match step {
            Step::Put { staged, path, .. } => {
                let (parent, name) = root.parent(path)?;
                let way = match root.stat(path)? {
                    Some(_) => RenameFlags::EXCHANGE,
                    None => RenameFlags::NOREPLACE,
                };
                Ok(fs::renameat_with(&self.stage, staged, &parent, name, way)?)
            }
            Step::Take { path, .. } => {
                let (parent, name) = root.parent(path)?;
                self.move_to_trash(&parent, name, run, path).map(drop)
            }
            Step::Unlink { path, .. } => {
                let (parent, name) = root.parent(path)?;
                Ok(fs::unlinkat(&parent, name, AtFlags::empty())?)
            }
            Step::SetProps { path, props, .. } => {
                let kind = root.stat(path)?.map(|stat| stat.kind);
                if kind != Some(FileKind::Symlink) {
                    root.set_mode(path, props.mode)?;
                }
                match kind {
                    Some(FileKind::Directory) => Ok(()),
                    _ => root.set_mtime(path, props.mtime),
                }
            }
            Step::MakeDir { path } => root.make_dir(path),
            Step::RemoveDir { path } => match root.remove_dir(path) {
                Err(error) if is_absent(&error) => Ok(()),
                // It holds what is not synced, and stays.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            },
        }
    }

    /// What was displaced and lies in the stage still goes to the trash.
    fn sweep(&self, promise: &Promise) {
        for step in &promise.steps {
            if let Step::Put { staged, new, path, .. } = step
                && let Ok(stat) = self.stat_staged(staged)
                && !new.is(&stat)
            {
                // What cannot be moved there stays in the stage, and goes with it.
                let _ = self.move_to_trash(&self.stage, staged, &promise.run, path);
            }
        }
    }

    fn stat_staged(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(Stat::from(&fs::statat(&self.stage, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }
}

impl Step {
    fn path(&self) -> &RelPath {
        match self {
            Step::Put { path, .. }
            | Step::Take { path, .. }
            | Step::Unlink { path, .. }
            | Step::SetProps { path, .. }
            | Step::MakeDir { path }
            | Step::RemoveDir { path } => path,
        }
    }

    /// Whether it takes away what stands at a path.
    fn clears(&self, from: &RelPath, stat: &Stat) -> bool {
        match self {
            Step::Take { path, before } => path == from && before.is(stat),
            Step::RemoveDir { path } => path == from && stat.kind == FileKind::Directory,
            Step::Put { .. }
            | Step::Unlink { .. }
            | Step::SetProps { .. }
            | Step::MakeDir { .. } => false,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Step::Put { .. } => 0,
            Step::Take { .. } => 1,
            Step::Unlink { .. } => 2,
            Step::SetProps { .. } => 3,
            Step::RemoveDir { .. } => 4,
            Step::MakeDir { .. } => 5,
        };
        out.push(kind);
        out.put_bytes(self.path().as_bytes());
        match self {
            Step::Put { staged, new, mtime, before, .. } => {
                out.put_bytes(staged.as_bytes());
                new.encode(out);
                encode_time(*mtime, out);
                encode_before(before, out);
            }
            Step::Take { before, .. } | Step::Unlink { before, .. } => before.encode(out),
            Step::SetProps { props, before, .. } => {
                out.put_varint(props.mode.into());
                encode_time(props.mtime, out);
                encode_before(before, out);
            }
            Step::RemoveDir { .. } | Step::MakeDir { .. } => {}
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Step, DecodeError> {
        let kind = reader.u8("the kind of a step")?;
        let path = decode_path(reader)?;
        Ok(match kind {
            0 => {
                let staged = reader.bytes("a staged name", 255)?.to_vec();
                if staged.is_empty() || !staged.iter().all(is_plain) {
                    return Err(DecodeError::Invalid("a staged name"));
                }
                let (new, mtime) = (Trace::decode(reader)?, decode_time(reader)?);
                let before = decode_before(reader)?;
                Step::Put { staged: OsString::from_vec(staged), new, mtime, path, before }
            }
            1 => Step::Take { path, before: Trace::decode(reader)? },
            2 => Step::Unlink { path, before: Trace::decode(reader)? },
            3 => {
                let mode = reader.bounded("a mode", u64::from(u16::MAX))? as u16;
                let props = Props { mode, mtime: decode_time(reader)? };
                Step::SetProps { path, props, before: decode_before(reader)? }
            }
            4 => Step::RemoveDir { path },
            5 => Step::MakeDir { path },
            _ => return Err(DecodeError::Invalid("the kind of a step")),
        })
    }
}

impl Trace {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.inode);
        out.put_varint(self.size);
        encode_time(self.mtime, out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Trace, DecodeError> {
        let (inode, size) = (reader.varint("an inode")?, reader.varint("a size")?);
        Ok(Trace { inode, size, mtime: decode_time(reader)? })
    }
}

impl Promise {
    fn encoded(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_bytes(self.name.as_ref().map_or(&[], |name| name.as_bytes()));
        out.put_bytes(self.run.as_bytes());
        out.put_varint(self.steps.len() as u64);
        self.steps.iter().for_each(|step| step.encode(&mut out));
        out
    }

    fn decoded(bytes: &[u8]) -> Result<Promise, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8("the format")? != FORMAT {
            return Err(DecodeError::Invalid("the format"));
        }
        let name = match reader.bytes("the name", PATH_MAX)? {
            b"" => None,
            name => Some(RelPath::new(name).map_err(|_| DecodeError::Invalid("the name"))?),
        };
        let run = reader.text("the run", 64)?;
        if run.is_empty() || run.starts_with('.') || run.contains('/') {
            return Err(DecodeError::Invalid("the run"));
        }
        let count = reader.count("the steps", STEPS_MAX)?;
        let steps = (0..count).map(|_| Step::decode(&mut reader)).collect::<Result<_, _>>()?;
        reader.end("the promise")?;
        Ok(Promise { name, run, steps })
    }
}

fn decode_path(reader: &mut Reader<'_>) -> Result<RelPath, DecodeError> {
    let bytes = reader.bytes("a path", PATH_MAX)?;
    RelPath::new(bytes).map_err(|_| DecodeError::Invalid("a path"))
}

/// Whether a byte may be part of a name in the stage.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'-'
}

fn encode_before(before: &Option<Trace>, out: &mut Vec<u8>) {
    out.push(u8::from(before.is_some()));
    before.iter().for_each(|before| before.encode(out));
}

fn decode_before(reader: &mut Reader<'_>) -> Result<Option<Trace>, DecodeError> {
    match reader.u8("whether something stands there")? {
        0 => Ok(None),
        _ => Trace::decode(reader).map(Some),
    }
}

fn encode_time(time: Time, out: &mut Vec<u8>) {
    out.put_signed(time.secs);
    out.put_varint(time.nanos.into());
}

fn decode_time(reader: &mut Reader<'_>) -> Result<Time, DecodeError> {
    let secs = reader.signed("a time")?;
    Ok(Time { secs, nanos: reader.bounded("nanoseconds", 999_999_999)? as u32 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn promise() -> Promise {
        let mtime = Time { secs: -5, nanos: 999_999_999 };
        let trace = Trace { inode: u64::MAX, size: 3, mtime };
        let put = |before| Step::Put {
            staged: "0000002a".into(),
            new: trace,
            mtime: Time::default(),
            path: path("x.db"),
            before,
        };
        let steps = vec![
            put(None),
            put(Some(trace)),
            Step::Take { path: path("x.db-wal"), before: trace },
            Step::Unlink { path: path("old"), before: trace },
            Step::SetProps {
                path: path("x.db"),
                props: Props { mode: 0o4755, mtime },
                before: Some(trace),
            },
            Step::RemoveDir { path: path("d/e") },
            Step::MakeDir { path: path("d/f") },
        ];
        Promise { name: Some(path("x.db")), run: "20260101T000000Z".into(), steps }
    }

    #[test]
    fn a_promise_is_read_as_it_was_written() {
        let promise = promise();
        assert_eq!(Promise::decoded(&promise.encoded()), Ok(promise));
    }

    #[test]
    fn a_promise_that_is_damaged_is_refused_or_means_something_and_never_panics() {
        let bytes = promise().encoded();
        for cut in 0..bytes.len() {
            assert!(Promise::decoded(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(Promise { run, steps, .. }) = Promise::decoded(&bytes) {
                    assert!(!run.contains('/') && run != "..");
                    let stays_there = |step: &Step| match step {
                        Step::Put { staged, .. } => staged.as_bytes().iter().all(is_plain),
                        _ => true,
                    };
                    assert!(steps.iter().all(stays_there));
                }
            }
        }
    }
}
