//! Writing into `known_peers` and `authorized_peers`: a line more, or another one for a key that stands
//! there already. A file is replaced as a whole or stays as it is, and one that cannot be understood is
//! not touched.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::authorized::entry;
use super::lines::entries;
use super::{AuthorizedPeers, KnownPeers, LineError, PublicKey, Recognised};

/// What a line of `authorized_peers` says besides the key, as words that are not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// What the peer is called here.
    pub name: String,
    /// The last day or moment at which it may come in.
    pub until: Option<String>,
    /// What it may do: `module[/path]=rights`.
    pub grants: Vec<String>,
}

/// Why a line was not written.
#[derive(Debug, Error)]
pub enum BookError {
    /// The file cannot be used as it is.
    #[error(transparent)]
    Line(#[from] LineError),
    /// What the line would say makes no sense.
    #[error("{0}")]
    Terms(String),
    /// A place is known by another key.
    #[error("{place} is known by ANOTHER KEY: {}, line {line}. If that machine was set up anew, take that line out first", .file.display())]
    OtherKey {
        /// The place.
        place: String,
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// Another key has that name.
    #[error("another machine is called '{name}' already in {}; choose another name", .file.display())]
    NameTaken {
        /// The name.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: {error}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A file that was changed, and can be as it was again.
#[derive(Debug)]
pub struct Written {
    file: PathBuf,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
}

impl Terms {
    /// The words after the key.
    fn words(&self) -> impl Iterator<Item = String> {
        let until = self.until.iter().map(|until| format!("until={until}"));
        std::iter::once(self.name.clone()).chain(until).chain(self.grants.iter().cloned())
    }

    /// The line for a key, if what it says makes sense.
    pub fn line(&self, key: &PublicKey) -> Result<String, BookError> {
        let words: Vec<String> = std::iter::once(key.to_string()).chain(self.words()).collect();
        let broken = |word: &String| {
            word.is_empty() || word.starts_with('#') || word.contains(char::is_whitespace)
        };
        if let Some(word) = words.iter().find(|word| broken(word)) {
            let text = format!("'{}' cannot stand in a line", word.escape_debug());
            return Err(BookError::Terms(text));
        }
        let parts: Vec<&str> = words.iter().map(String::as_str).collect();
        entry(&parts).map_err(BookError::Terms)?;
        Ok(words.join(" "))
    }
}

/// The text of `known_peers` in which a key answers at a place: as it was, if it says so already.
fn with_place(text: &str, file: &Path, place: &str, key: &PublicKey) -> Result<String, BookError> {
    match KnownPeers::parse(text, file)?.recognise(place, key) {
        Recognised::Yes => Ok(text.to_string()),
        Recognised::Changed { at: (file, line), .. } => {
            Err(BookError::OtherKey { place: place.to_string(), file, line })
        }
        Recognised::Unknown => {
            let text = with_line(text, &format!("{place} {key}"));
            match KnownPeers::parse(&text, file)?.recognise(place, key) {
                Recognised::Yes => Ok(text),
                _ => {
                    let text = format!("'{}' cannot stand in a line", place.escape_debug());
                    Err(BookError::Terms(text))
                }
            }
        }
    }
}

/// The text of `authorized_peers` in which a key has these terms. A line that the key has already is
/// replaced where something is granted, and else stays.
fn with_peer(text: &str, file: &Path, key: &PublicKey, terms: &Terms) -> Result<String, BookError> {
    let line = terms.line(key)?;
    if AuthorizedPeers::parse(text, file)?.names_another(&terms.name, key) {
        return Err(BookError::NameTaken { name: terms.name.clone(), file: file.to_path_buf() });
    }
    let is_of_key = |words: &[&str]| words.first().is_some_and(|word| word.parse() == Ok(*key));
    let text = match entries(text).find(|(_, words)| is_of_key(words)) {
        None => with_line(text, &line),
        Some(_) if terms.grants.is_empty() => text.to_string(),
        Some((number, _)) => {
            let lines = text.lines().enumerate();
            let lines = lines.map(|(at, old)| if at + 1 == number { line.as_str() } else { old });
            lines.flat_map(|line| [line, "\n"]).collect()
        }
    };
    AuthorizedPeers::parse(&text, file)?;
    Ok(text)
}

fn with_line(text: &str, line: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{line}\n")
}

/// Whether a key could be written down for a place: none of it is.
pub fn check_place(file: &Path, place: &str, key: &PublicKey) -> Result<(), BookError> {
    let text = text_of(file, read(file)?)?;
    with_place(&text, file, place, key).map(|_| ())
}

/// Whether a peer could be let in on these terms: nothing is written.
pub fn check_peer(file: &Path, key: &PublicKey, terms: &Terms) -> Result<(), BookError> {
    let text = text_of(file, read(file)?)?;
    with_peer(&text, file, key, terms).map(|_| ())
}

/// Writes down in `known_peers` which key answers at a place.
pub fn write_place(file: &Path, place: &str, key: &PublicKey) -> Result<Written, BookError> {
    change(file, |text| with_place(text, file, place, key))
}

/// Lets a peer in on these terms, in `authorized_peers`.
pub fn write_peer(file: &Path, key: &PublicKey, terms: &Terms) -> Result<Written, BookError> {
    change(file, |text| with_peer(text, file, key, terms))
}

impl Written {
    /// Makes the file as it was, unless somebody has changed it since.
    pub fn take_back(self) -> Result<(), BookError> {
        let failed = |error| BookError::Io { file: self.file.clone(), error };
        let _lock = lock(&self.file).map_err(failed)?;
        if read(&self.file)?.as_ref() != Some(&self.after) {
            let error = io::Error::other("it was changed meanwhile; look at its last line");
            return Err(failed(error));
        }
        let restored = match &self.before {
            Some(before) => replace(&self.file, before),
            None => fs::remove_file(&self.file),
        };
        restored.map_err(failed)
    }
}

fn change(
    file: &Path,
    edit: impl FnOnce(&str) -> Result<String, BookError>,
) -> Result<Written, BookError> {
    let failed = |error| BookError::Io { file: file.to_path_buf(), error };
    let _lock = lock(file).map_err(failed)?;
    // Whoever keeps it elsewhere and has a link here wants that to be so still.
    let place = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    let before = read(&place)?;
    let after = edit(&text_of(file, before.clone())?)?.into_bytes();
    if before.as_ref() != Some(&after) {
        replace(&place, &after).map_err(failed)?;
    }
    Ok(Written { file: place, before, after })
}

/// A file that is not there holds nothing.
fn read(file: &Path) -> Result<Option<Vec<u8>>, BookError> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BookError::Io { file: file.to_path_buf(), error }),
    }
}

fn text_of(file: &Path, bytes: Option<Vec<u8>>) -> Result<String, BookError> {
    String::from_utf8(bytes.unwrap_or_default()).map_err(|_| {
        let error = io::Error::other("it is not text in UTF-8");
        BookError::Io { file: file.to_path_buf(), error }
    })
}

fn directory(file: &Path) -> io::Result<&Path> {
    file.parent().ok_or_else(|| io::Error::other("it has no directory"))
}

/// Of two that change a file of this directory at a time, one waits.
fn lock(file: &Path) -> io::Result<File> {
    let directory = File::open(directory(file)?)?;
    flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Puts a whole file in the place of one: whoever reads finds the old one or the new one.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(0o600, |about| about.permissions().mode() & 0o777);
    let mut name = file.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".new");
    let beside = file.with_file_name(name);
    // Left over from one that was killed: the lock says that nobody is at it.
    let _ = fs::remove_file(&beside);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let done = new
        .write_all(bytes)
        .and_then(|()| new.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| new.sync_all())
        .and_then(|()| fs::rename(&beside, file));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done?;
    File::open(directory(file)?)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn terms(name: &str, grants: &[&str]) -> Terms {
        let grants = grants.iter().map(|grant| grant.to_string()).collect();
        Terms { name: name.into(), until: None, grants }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("psync-book-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_for_its_owner_only_and_an_old_one_keeps_its_mode_and_its_lines() {
        let folder = folder("modes");
        let file = folder.join("authorized_peers");
        write_peer(&file, &key(1), &terms("ana", &["a=read"])).unwrap();
        assert_eq!(mode(&file), 0o600);
        fs::write(&file, format!("# ours\n{} ana a=read # remark", key(1))).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        write_peer(&file, &key(2), &terms("ben", &[])).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("# ours\n{} ana a=read # remark\n{} ben\n", key(1), key(2)));
        assert_eq!(mode(&file), 0o640);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_was_written_can_be_taken_back_while_nobody_else_has_written() {
        let folder = folder("back");
        let file = folder.join("known_peers");
        write_place(&file, "host", &key(1)).unwrap().take_back().unwrap();
        assert!(!file.exists());
        write_place(&file, "host", &key(1)).unwrap();
        let before = fs::read(&file).unwrap();
        write_place(&file, "host:99", &key(2)).unwrap().take_back().unwrap();
        assert_eq!(fs::read(&file).unwrap(), before);
        let written = write_place(&file, "host:99", &key(2)).unwrap();
        write_place(&file, "other", &key(3)).unwrap();
        let both = fs::read(&file).unwrap();
        assert!(written.take_back().is_err());
        assert_eq!(fs::read(&file).unwrap(), both);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = folder("link");
        let (file, link) = (folder.join("kept"), folder.join("known_peers"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_place(&link, "host", &key(1)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("host {}\n", key(1)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_makes_no_sense_is_not_touched() {
        let folder = folder("senseless");
        let file = folder.join("authorized_peers");
        for bytes in [&b"ed25519:12 ana\n"[..], b"\xff\xfe\n", b"host\n"] {
            fs::write(&file, bytes).unwrap();
            assert!(write_peer(&file, &key(1), &terms("ana", &[])).is_err());
            assert!(write_place(&file, "host", &key(1)).is_err());
            assert!(check_peer(&file, &key(1), &terms("ana", &[])).is_err());
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_place_keeps_its_key() {
        let file = Path::new("known_peers");
        let text = format!("host {}\n", key(1));
        assert_eq!(with_place(&text, file, "host", &key(1)).unwrap(), text);
        for wrong in ["#host", "", " host", "a b"] {
            assert!(with_place(&text, file, wrong, &key(1)).is_err(), "{wrong:?}");
        }
        let error = with_place(&text, file, "host", &key(2)).unwrap_err();
        assert!(matches!(error, BookError::OtherKey { line: 1, .. }), "{error}");
    }

    #[test]
    fn a_key_has_one_line_which_new_grants_replace_and_none_leave() {
        let file = Path::new("authorized_peers");
        let text = format!("{} ana a=read\n# between\n{} ben b=all\n", key(1), key(2));
        let same = with_peer(&text, file, &key(2), &terms("ben", &[])).unwrap();
        assert_eq!(same, text);
        let until = Terms { until: Some("2030-01-01".into()), ..terms("bo", &["c=read"]) };
        let other = with_peer(&text, file, &key(2), &until).unwrap();
        let expected =
            format!("{} ana a=read\n# between\n{} bo until=2030-01-01 c=read\n", key(1), key(2));
        assert_eq!(other, expected);
        let taken = with_peer(&text, file, &key(3), &terms("ana", &[]));
        assert!(matches!(taken, Err(BookError::NameTaken { .. })));
    }

    #[test]
    fn terms_that_make_no_sense_are_refused() {
        for (name, grant) in [
            ("a b", "a=read"),
            ("", "a=read"),
            ("#a", "a=read"),
            ("a=b", "a=read"),
            ("ana", "a"),
            ("ana", "a=raed"),
            ("ana", "a=read\nb=read"),
            ("ana", "../a=read"),
        ] {
            assert!(terms(name, &[grant]).line(&key(1)).is_err(), "{name:?} {grant:?}");
        }
        let twice = terms("ana", &["a=read", "a=write"]);
        assert!(twice.line(&key(1)).is_err());
    }
}
