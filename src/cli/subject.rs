//! What a command is about: a root, or a path in one, found from where the person stands, as git
//! finds its repository.

use std::path::{Component, Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use psync_protocol::RelPath;
use serde_json::json;
use std::os::unix::ffi::OsStrExt;

use super::config;
use super::exit::Exit;
use super::past::complain;
use super::run::{print_out, state_home};
use crate::root::WORK_DIR;
use crate::sync::{Keeping, Sight, Site};

/// Why a command could not be carried out, for people, and how it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Failure {
        Failure { text: text.into(), exit }
    }

    /// Tells it, as a JSON object or for people, and gives the exit code.
    pub(super) fn told(&self, json: bool) -> Exit {
        let object = json!({"type": "error", "exit": self.exit.code(), "text": self.text});
        match json {
            true => print_out(&format!("{object}\n")),
            false => complain(&format!("psync: {}", self.text)),
        }
        self.exit
    }
}

/// Adds the options that say which root is meant: `--root` and `--state-dir`.
pub(super) fn arguments(command: Command) -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf));
    command
        .arg(
            path("root")
                .value_name("ROOT|PAIR")
                .help("The root [default: of PATH, or of this directory]"),
        )
        .arg(
            path("state-dir").value_name("DIR").help("Where its state is kept, if not in the root"),
        )
}

/// The root that is meant: `--root`, a directory or the name of a pair, else the nearest directory from `near` upward that has state.
pub(super) fn root(matches: &ArgMatches, near: &Path) -> Result<PathBuf, Failure> {
    if let Some(root) = given_root(matches)? {
        return known_root(&root, matches).map(Path::to_path_buf);
    }
    if matches.get_one::<PathBuf>("state-dir").is_some() {
        return Ok(near.to_path_buf());
    }
    let absolute = absolute(near)?;
    let found = absolute.ancestors().find(|dir| dir.join(WORK_DIR).is_dir());
    found.map(Path::to_path_buf).ok_or_else(|| {
        let text = format!(
            "{}: neither this directory nor one above it was ever synced (there is no .psync); --root names the root",
            absolute.display()
        );
        Failure::new(Exit::FileIo, text)
    })
}

/// The root that a typed word means: the side on this machine of the pair of this name, or else a
/// directory.
pub(super) fn named_root(typed: &Path) -> Result<PathBuf, Failure> {
    let word = typed.to_str().filter(|word| !word.contains('/') && !word.starts_with('.'));
    let Some(word) = word else { return Ok(typed.to_path_buf()) };
    let machine = config::machine()?;
    if machine.pairs().iter().any(|(name, _)| *name == word) {
        return Ok(machine.pair(word)?.local);
    }
    match machine.pair(word) {
        Err(error) if !typed.exists() => {
            let text = format!("{error}\nThere is no directory of this name here, either");
            Err(Failure::new(Exit::Usage, text))
        }
        _ => Ok(typed.to_path_buf()),
    }
}

/// What `--root` says, if it is given.
pub(super) fn given_root(matches: &ArgMatches) -> Result<Option<PathBuf>, Failure> {
    matches.get_one::<PathBuf>("root").map(|typed| named_root(typed)).transpose()
}

/// To ask about a directory should not make it a root.
fn known_root<'a>(root: &'a Path, matches: &ArgMatches) -> Result<&'a Path, Failure> {
    let elsewhere = matches.get_one::<PathBuf>("state-dir").is_some();
    if elsewhere || !root.is_dir() || root.join(WORK_DIR).is_dir() {
        return Ok(root);
    }
    let text = format!("{}: nothing was ever synced here (there is no .psync)", root.display());
    Err(Failure::new(Exit::FileIo, text))
}

/// The root that a typed path lies in, and the path in it. The path itself need not exist.
pub(super) fn path_in_root(
    matches: &ArgMatches,
    typed: &Path,
) -> Result<(PathBuf, RelPath), Failure> {
    let base = match given_root(matches)? {
        // With --root a relative path is one in the root.
        Some(root) if typed.is_relative() => root.join(typed),
        Some(_) | None => typed.to_path_buf(),
    };
    let path = absolute(&base)?;
    let root = root(matches, path.parent().unwrap_or(&path))?;
    let within = path.strip_prefix(absolute(&root)?).map_err(|_| {
        let text = format!("{}: does not lie in the root {}", typed.display(), root.display());
        Failure::new(Exit::Usage, text)
    })?;
    let within = RelPath::new(within.as_os_str().as_bytes())
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", typed.display())))?;
    Ok((root, within))
}

/// Absolute, and without `.` and `..`; nothing is looked up but the current directory, as what is
/// asked for may be gone.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::new(Exit::FileIo, format!("{}: {error}", path.display())))?;
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Ok(plain)
}

/// Opens a root for a command that may change it: takes its lock.
pub(super) fn open(matches: &ArgMatches, root: &Path) -> Result<Site, Failure> {
    let root = known_root(root, matches)?;
    let state = matches.get_one::<PathBuf>("state-dir").cloned();
    let settings = config::settings_of(root)?;
    let keeping = config::keeping(&settings, state_home(state));
    Site::open(root, &keeping).map_err(|error| Failure::new(Exit::of(&error), error.to_string()))
}

/// Opens a root for a command that only looks at it, also while a run is at work there.
pub(super) fn look(matches: &ArgMatches, root: &Path) -> Result<Sight, Failure> {
    let state = matches.get_one::<PathBuf>("state-dir").cloned();
    let keeping = Keeping { home: state_home(state), ..Keeping::default() };
    let sight = Sight::of(root, &keeping)
        .map_err(|error| Failure::new(Exit::of(&error), error.to_string()))?;
    sight.ok_or_else(|| {
        let text = format!("{}: nothing was ever synced here (there is no state)", root.display());
        Failure::new(Exit::FileIo, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(words: &[&str]) -> ArgMatches {
        arguments(Command::new("x")).try_get_matches_from(words).unwrap()
    }

    #[test]
    fn a_path_is_found_in_the_root_above_it_whether_it_exists_or_not() {
        let folder = std::env::temp_dir().join(format!("psync-subject-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("root/.psync")).unwrap();
        std::fs::create_dir_all(folder.join("root/a/b")).unwrap();
        let found = path_in_root(&matches(&["x"]), &folder.join("root/a/../a/b/gone.txt"));
        let (root, path) = found.unwrap();
        assert_eq!((root, path.as_bytes()), (folder.join("root"), &b"a/b/gone.txt"[..]));
        let outside = path_in_root(&matches(&["x"]), &folder.join("elsewhere"));
        assert!(outside.is_err_and(|failure| failure.text.contains("--root")));
        let named = matches(&["x", "--root", folder.join("root").to_str().unwrap()]);
        let (_, path) = path_in_root(&named, Path::new("a/x")).unwrap();
        assert_eq!(path.as_bytes(), b"a/x");
        assert!(path_in_root(&named, &folder.join("elsewhere")).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
