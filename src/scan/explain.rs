//! Which filter decides about a path, and where it was written.

use std::io::{self, Read};

use ignore::Match;
use ignore::gitignore::Glob;
use psync_protocol::RelPath;
use psync_protocol::message::Filter;

use super::scope::{IGNORE_FILE, IGNORE_FILE_MAX, IgnoreFile, Rules};
use crate::root::{Root, is_absent};

/// The filter that decides about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What it matched: the path, or a directory above it.
    pub at: RelPath,
    /// The pattern as it was written.
    pub pattern: String,
    /// Where it was written.
    pub origin: Origin,
    /// Whether what it matched is left alone; otherwise it is synced because of it.
    pub ignored: bool,
}

/// Where a filter was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It has this place among the filters that were given.
    Given(usize),
    /// In a file.
    File {
        /// The file.
        path: RelPath,
        /// Its line, counted from 1; none where the line cannot be found again.
        line: Option<usize>,
    },
}

/// The filter that decides whether a path is synced; none where no filter matches. The first that
/// leaves a directory above it alone decides about everything in it.
pub fn explain(
    root: &Root,
    filters: &[Filter],
    path: &RelPath,
    is_dir: bool,
) -> io::Result<Option<Cause>> {
    let mut files = Vec::new();
    files.extend(FilterFile::read(root, None)?);
    let mut above: Vec<RelPath> = path.ancestors().collect();
    above.reverse();
    for dir in above {
        if let Some(cause) = decides(filters, &files, &dir, true)
            && cause.ignored
        {
            return Ok(Some(cause));
        }
        files.extend(FilterFile::read(root, Some(&dir))?);
    }
    Ok(decides(filters, &files, path, is_dir))
}

/// The filter that decides about one entry: first those that were given, then the files from the
/// nearest to the root's.
fn decides(
    filters: &[Filter],
    files: &[FilterFile],
    path: &RelPath,
    is_dir: bool,
) -> Option<Cause> {
    for (number, filter) in filters.iter().enumerate() {
        let Ok(rules) = Rules::new(std::slice::from_ref(filter)) else { continue };
        let ignored = match rules.matches(path.as_bytes(), is_dir) {
            Match::None => continue,
            Match::Ignore(_) => true,
            Match::Whitelist(_) => false,
        };
        let (pattern, origin) = (filter.pattern.clone(), Origin::Given(number));
        return Some(Cause { at: path.clone(), pattern, origin, ignored });
    }
    files.iter().rev().find_map(|file| {
        let within = path.as_bytes().get(file.cut..).unwrap_or_default();
        match file.patterns.matches(within, is_dir) {
            Match::None => None,
            Match::Ignore(glob) => Some(file.cause(path, glob, true)),
            Match::Whitelist(glob) => Some(file.cause(path, glob, false)),
        }
    })
}

/// A filter file, with its text.
struct FilterFile {
    path: RelPath,
    /// Length of its directory's path with the slash.
    cut: usize,
    text: String,
    patterns: IgnoreFile,
}

impl FilterFile {
    fn read(root: &Root, dir: Option<&RelPath>) -> io::Result<Option<FilterFile>> {
        let path = match dir {
            Some(dir) => dir.join(IGNORE_FILE),
            None => RelPath::new(IGNORE_FILE),
        };
        let path = path.map_err(io::Error::other)?;
        let file = match root.open_file(&path) {
            Ok((file, _)) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(IGNORE_FILE_MAX).read_to_end(&mut text)?;
        let (patterns, _) = IgnoreFile::parse(&text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let cut = dir.map_or(0, |dir| dir.as_bytes().len() + 1);
        Ok(Some(FilterFile { path, cut, text, patterns }))
    }

    fn cause(&self, at: &RelPath, glob: &Glob, ignored: bool) -> Cause {
        let pattern = glob.original().to_string();
        // Of equal lines the last decides.
        let lines: Vec<&str> = self.text.lines().collect();
        let line = lines.iter().rposition(|line| line.trim_end() == pattern).map(|at| at + 1);
        let origin = Origin::File { path: self.path.clone(), line };
        Cause { at: at.clone(), pattern, origin, ignored }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folder(files: &[(&str, &str)]) -> Folder {
        let name = format!("psync-explain-{}-{}", std::process::id(), files.len());
        let folder = Folder(std::env::temp_dir().join(name));
        for (path, text) in files {
            let path = folder.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn filter(include: bool, pattern: &str) -> Filter {
        Filter { include, pattern: pattern.into() }
    }

    #[test]
    fn the_line_that_decides_is_named_with_its_file() {
        let folder = folder(&[
            (".psyncignore", "# build\n/out/\n*.log\n*.log\n"),
            ("deep/.psyncignore", "!*.log\n"),
            ("else", ""),
        ]);
        let root = Root::open(&folder.0).unwrap();
        let why = |filters: &[Filter], path: &str, is_dir| {
            let path = RelPath::new(path.as_bytes()).unwrap();
            let cause = explain(&root, filters, &path, is_dir).unwrap()?;
            let origin = match cause.origin {
                Origin::Given(number) => format!("filter {number}"),
                Origin::File { path, line } => format!("{path} line {}", line.unwrap_or(0)),
            };
            Some((cause.at.to_string(), cause.pattern, origin, cause.ignored))
        };
        let is = |at: &str, pattern: &str, origin: &str, ignored| {
            Some((at.to_string(), pattern.to_string(), origin.to_string(), ignored))
        };
        assert_eq!(why(&[], "else", false), None);
        assert_eq!(why(&[], "a.log", false), is("a.log", "*.log", ".psyncignore line 4", true));
        assert_eq!(why(&[], "out/a/b", false), is("out", "/out/", ".psyncignore line 2", true));
        let taken_back = is("deep/a.log", "!*.log", "deep/.psyncignore line 1", false);
        assert_eq!(why(&[], "deep/a.log", false), taken_back);
        let given = [filter(true, "a.*"), filter(false, "*.log")];
        assert_eq!(why(&given, "a.log", false), is("a.log", "a.*", "filter 0", false));
        assert_eq!(why(&given, "deep/b.log", false), is("deep/b.log", "*.log", "filter 1", true));
    }
}
