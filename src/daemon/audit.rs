//! The audit log: who came, what they may do, and what was changed for them, one JSON object a line,
//! in a file of its owner's that only grows.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use psync_protocol::path::printable;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::journal::{Deed, State, Thing, Witness};

/// The audit log cannot be written.
#[derive(Debug, Error)]
#[error("{}: the audit log cannot be written: {error}", .path.display())]
pub struct AuditError {
    path: PathBuf,
    error: io::Error,
}

/// A file that lines are appended to; or none, where nobody wants one.
#[derive(Debug, Default)]
pub struct Audit(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
}

/// What is known of a line, by name.
pub(super) type Facts<'a> = [(&'static str, Value)];

impl Audit {
    /// Opens the file at `path`, and makes it if it is not there, for its owner only.
    pub fn open(path: Option<&Path>) -> Result<Audit, AuditError> {
        let audit = Audit::default();
        audit.reopen(path)?;
        Ok(audit)
    }

    /// Opens it anew, as after it was rotated. Where that fails the open file stays the one.
    pub fn reopen(&self, path: Option<&Path>) -> Result<(), AuditError> {
        let opened = path.map(open).transpose()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    /// Appends a line.
    pub(super) fn note(&self, what: &str, facts: &Facts<'_>) -> Result<(), AuditError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Open { path, file }) = &mut *open else { return Ok(()) };
        let failed = |error| AuditError { path: path.clone(), error };
        file.write_all(line(&Timestamp::now().to_string(), what, facts).as_bytes()).map_err(failed)
    }
}

fn open(path: &Path) -> Result<Open, AuditError> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK;
    let opened = openat(CWD, path, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from);
    let file = opened.map(|file: OwnedFd| File::from(file)).and_then(|file| {
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is not a file")),
        }
    });
    match file {
        Ok(file) => Ok(Open { path: path.to_path_buf(), file }),
        Err(error) => Err(AuditError { path: path.to_path_buf(), error }),
    }
}

/// A text that somebody else has chosen, safe to print.
pub(super) fn text(text: impl AsRef<[u8]>) -> Value {
    printable(text.as_ref()).into()
}

fn line(now: &str, what: &str, facts: &Facts<'_>) -> String {
    let mut object = Map::new();
    object.insert("time".into(), now.into());
    object.insert("what".into(), what.into());
    for (name, value) in facts {
        object.insert((*name).into(), value.clone());
    }
    format!("{}\n", Value::Object(object))
}

/// Notes what is done in one session.
#[derive(Debug)]
pub(super) struct Clerk {
    pub(super) audit: std::sync::Arc<Audit>,
    /// The session, its peer and address, and the module.
    pub(super) session: Vec<(&'static str, Value)>,
}

impl Witness for Clerk {
    fn done(&self, deed: &Deed) {
        let mut facts = self.session.clone();
        facts.push(("change", deed.what.name().into()));
        facts.push(("path", text(deed.path.as_bytes())));
        facts.extend(deed.what.other().map(|other| ("other", text(other.as_bytes()))));
        facts.extend(deed.before.as_ref().map(|state| ("before", told(state))));
        facts.extend(deed.after.as_ref().map(|state| ("after", told(state))));
        if let Err(error) = self.audit.note("change", &facts) {
            tracing::error!(why = %error, "audit-failed");
        }
    }
}

fn told(state: &State) -> Value {
    let mut object = Map::new();
    let kind = match &state.thing {
        Thing::Directory => "directory",
        Thing::File { .. } => "file",
        Thing::Symlink { .. } => "symlink",
    };
    object.insert("kind".into(), kind.into());
    object.insert("size".into(), state.thing.size().into());
    object.insert("mode".into(), format!("{:o}", state.props.mode).into());
    if let Some(hash) = state.thing.hash() {
        object.insert("hash".into(), blake3::Hash::from_bytes(hash.0).to_hex().as_str().into());
    }
    if let Thing::Symlink { target } = &state.thing {
        object.insert("target".into(), text(target));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("psync-audit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn lines_are_appended_to_a_file_of_its_owners_and_survive_rotation() {
        let folder = folder("rotation");
        let (path, old) = (folder.join("audit.log"), folder.join("audit.log.1"));
        let audit = Audit::open(Some(&path)).unwrap();
        audit.note("accepted", &[("peer", text("a\nb\u{1b}[2J"))]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::rename(&path, &old).unwrap();
        audit.note("ended", &[]).unwrap();
        audit.reopen(Some(&path)).unwrap();
        audit.note("accepted", &[("number", 3.into())]).unwrap();
        let (before, after) =
            (std::fs::read_to_string(&old).unwrap(), std::fs::read_to_string(&path).unwrap());
        assert_eq!((before.lines().count(), after.lines().count()), (2, 1));
        assert!(!before.contains('\u{1b}') && before.contains("a\\\\n"), "{before}");
        let value: Value = serde_json::from_str(&after).unwrap();
        assert_eq!((&value["what"], &value["number"]), (&"accepted".into(), &3.into()));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_no_file_is_not_written_to() {
        let folder = folder("planted");
        let link = folder.join("link");
        std::os::unix::fs::symlink(folder.join("elsewhere"), &link).unwrap();
        assert!(Audit::open(Some(&link)).is_err() && Audit::open(Some(&folder)).is_err());
        assert!(Audit::open(Some(Path::new("/dev/null"))).is_err());
        assert!(Audit::open(None).unwrap().note("anything", &[]).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
