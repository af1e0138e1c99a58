//! What is synced and what is left alone: filters from the command line, then `.psyncignore`
//! files, all with gitignore's patterns.

use std::collections::HashMap;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder, Glob};
use psync_protocol::RelPath;
use psync_protocol::message::Filter;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::manifest::Permit;

/// The name of the filter file that any directory may hold. It is synced like any other file.
pub const IGNORE_FILE: &[u8] = b".psyncignore";

/// Largest filter file that is read, in bytes.
pub(super) const IGNORE_FILE_MAX: u64 = 1 << 20;

/// Most wildcards in all patterns that are made into one matcher, which takes about 1 KiB of memory for
/// each of them: patterns come from peers, too.
const WILDCARDS_MAX: usize = 20_000;

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPattern {
    /// The line as it was written.
    pub line: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The filters given on the command line, and what a peer may hear of.
#[derive(Debug, Clone)]
pub struct Rules {
    matcher: Gitignore,
    /// None: everything.
    permit: Option<Arc<Permit>>,
    digest: [u8; 32],
}

impl Rules {
    /// The first filter that matches decides, as rsync users expect; a pattern is gitignore's.
    pub fn new(filters: &[Filter]) -> Result<Rules, BadPattern> {
        let mut builder = GitignoreBuilder::new("");
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 filters");
        let mut room = Wildcards(WILDCARDS_MAX);
        // Of gitignore's lines the last that matches decides: so the first goes last.
        for filter in filters.iter().rev() {
            let literal = filter.pattern.starts_with(['!', '#']);
            let mark = if filter.include { "!" } else { "" };
            let escape = if literal { "\\" } else { "" };
            let line = format!("{mark}{escape}{}", filter.pattern);
            room.take(&filter.pattern)?;
            builder.add_line(None, &line).map_err(|error| bad(&filter.pattern, &error))?;
            hasher.update(line.as_bytes()).update(b"\n");
        }
        let matcher = builder.build().map_err(|error| bad("", &error))?;
        Ok(Rules { matcher, permit: None, digest: hasher.finalize().into() })
    }

    /// The same, but only for what a peer may hear of: the rest is left alone like what a filter
    /// names, and no `.psyncignore` takes it back.
    pub fn within(self, permit: &Permit) -> Rules {
        if permit.shows_everything() {
            return self;
        }
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 permitted scope");
        hasher.update(&self.digest);
        for (prefix, rights) in permit.rules() {
            let prefix = prefix.as_ref().map_or(b"".as_slice(), |prefix| prefix.as_bytes());
            hasher.update(&(prefix.len() as u64).to_le_bytes()).update(prefix);
            hasher.update(&[u8::from(rights.list)]);
        }
        let digest = hasher.finalize().into();
        Rules { permit: Some(Arc::new(permit.clone())), digest, ..self }
    }

    fn forbids(&self, path: &[u8], is_dir: bool) -> bool {
        self.permit.as_ref().is_some_and(|permit| !permit.shows(path, is_dir))
    }
}

impl Rules {
    /// What these filters say of an entry.
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> Match<&Glob> {
        self.matcher.matched(as_path(path), is_dir)
    }
}

impl IgnoreFile {
    /// What these patterns say of an entry of their directory.
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> Match<&Glob> {
        self.matcher.matched(as_path(path), is_dir)
    }
}

/// The patterns of one `.psyncignore`.
#[derive(Debug)]
pub struct IgnoreFile {
    matcher: Gitignore,
    text: [u8; 32],
}

impl IgnoreFile {
    /// Reads the patterns; lines that are none are told and passed over.
    pub fn parse(text: &[u8]) -> (IgnoreFile, Vec<BadPattern>) {
        let mut builder = GitignoreBuilder::new("");
        let mut bad_lines = Vec::new();
        let mut room = Wildcards(WILDCARDS_MAX);
        for line in String::from_utf8_lossy(text).lines() {
            let taken = room.take(line).and_then(|()| {
                builder.add_line(None, line).map(|_| ()).map_err(|error| bad(line, &error))
            });
            bad_lines.extend(taken.err());
        }
        let matcher = builder.build().unwrap_or_else(|error| {
            bad_lines.push(bad("", &error));
            Gitignore::empty()
        });
        (IgnoreFile { matcher, text: blake3::hash(text).into() }, bad_lines)
    }
}

/// How many wildcards may still come.
struct Wildcards(usize);

impl Wildcards {
    fn take(&mut self, line: &str) -> Result<(), BadPattern> {
        let count = line.bytes().filter(|byte| b"*?[{,".contains(byte)).count();
        self.0 = self.0.checked_sub(count).ok_or_else(|| {
            let reason = format!("all patterns together have more than {WILDCARDS_MAX} wildcards");
            BadPattern { line: line.chars().take(80).collect(), reason }
        })?;
        Ok(())
    }
}

fn bad(line: &str, error: &ignore::Error) -> BadPattern {
    BadPattern { line: line.to_string(), reason: error.to_string() }
}

/// The filter files that hold for a directory: its own, and those above it.
#[derive(Debug, Clone)]
pub struct Level(Option<Arc<LevelInner>>);

#[derive(Debug)]
struct LevelInner {
    /// Length of the directory's path with its slash: what is cut off before matching.
    cut: usize,
    file: Arc<IgnoreFile>,
    above: Level,
}

impl Level {
    /// No filter file anywhere above.
    pub const NONE: Level = Level(None);

    /// A directory that holds a filter file of its own.
    pub fn below(&self, dir: Option<&RelPath>, file: Arc<IgnoreFile>) -> Level {
        let cut = dir.map_or(0, |dir| dir.as_bytes().len() + 1);
        Level(Some(Arc::new(LevelInner { cut, file, above: self.clone() })))
    }
}

impl Rules {
    /// Whether an entry is left alone. Directories above it are not looked at.
    pub fn ignores(&self, level: &Level, path: &[u8], is_dir: bool) -> bool {
        if self.forbids(path, is_dir) {
            return true;
        }
        match self.matcher.matched(as_path(path), is_dir) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
        let mut level = level;
        while let Some(inner) = &level.0 {
            match inner.file.matcher.matched(as_path(&path[inner.cut..]), is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => level = &inner.above,
            }
        }
        false
    }

    fn matches_nothing(&self) -> bool {
        self.matcher.is_empty() && self.permit.is_none()
    }

    /// Whether no entry at this level can be ignored, so that nobody needs to ask.
    pub fn is_trivial(&self, level: &Level) -> bool {
        self.matches_nothing() && level.0.is_none()
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The filters of a whole tree, as a scan found them.
#[derive(Debug)]
pub struct Scope {
    rules: Rules,
    files: HashMap<Option<RelPath>, Arc<IgnoreFile>>,
}

impl Scope {
    /// From the command line's rules and the filter files by directory (none: the root).
    pub fn new(rules: Rules, files: HashMap<Option<RelPath>, Arc<IgnoreFile>>) -> Scope {
        Scope { rules, files }
    }

    /// Whether a path is synced: neither it nor a directory above it is ignored.
    pub fn covers(&self, path: &RelPath, is_dir: bool) -> bool {
        if self.files.is_empty() && self.rules.matches_nothing() {
            return true;
        }
        let mut level = self.level(&Level::NONE, None);
        let mut above: Vec<RelPath> = path.ancestors().collect();
        above.reverse();
        for dir in above {
            if self.rules.ignores(&level, dir.as_bytes(), true) {
                return false;
            }
            level = self.level(&level, Some(&dir));
        }
        !self.rules.ignores(&level, path.as_bytes(), is_dir)
    }

    fn level(&self, above: &Level, dir: Option<&RelPath>) -> Level {
        match self.files.get(&dir.cloned()) {
            Some(file) => above.below(dir, file.clone()),
            None => above.clone(),
        }
    }

    /// A digest that changes when the filters do.
    pub fn digest(&self) -> [u8; 8] {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by(|a, b| a.0.cmp(b.0));
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 scope");
        hasher.update(&self.rules.digest);
        for (dir, file) in files {
            let dir = dir.as_ref().map_or(b"".as_slice(), |dir| dir.as_bytes());
            hasher.update(&(dir.len() as u64).to_le_bytes()).update(dir).update(&file.text);
        }
        let mut digest = [0; 8];
        hasher.finalize_xof().fill(&mut digest);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Rights;

    fn rules(filters: &[(bool, &str)]) -> Rules {
        let filter =
            |&(include, pattern): &(bool, &str)| Filter { include, pattern: pattern.into() };
        Rules::new(&filters.iter().map(filter).collect::<Vec<_>>()).unwrap()
    }

    fn scope(filters: &[(bool, &str)], files: &[(&str, &str)]) -> Scope {
        let file = |&(dir, text): &(&str, &str)| {
            (RelPath::new(dir.as_bytes()).ok(), Arc::new(IgnoreFile::parse(text.as_bytes()).0))
        };
        Scope::new(rules(filters), files.iter().map(file).collect())
    }

    fn covers(scope: &Scope, path: &str) -> bool {
        scope.covers(&RelPath::new(path.as_bytes()).unwrap(), false)
    }

    #[test]
    fn the_first_filter_on_the_command_line_that_matches_decides() {
        let only_rust = scope(&[(true, "*.rs"), (false, "*.*")], &[]);
        assert!(covers(&only_rust, "src/main.rs"));
        assert!(!covers(&only_rust, "notes.txt"));
    }

    #[test]
    fn an_ignore_file_holds_for_its_directory_and_a_deeper_one_can_take_back() {
        let scope = scope(&[], &[("", "*.log\n/build/\n"), ("keep", "!*.log\n")]);
        assert!(!covers(&scope, "a.log"));
        assert!(!covers(&scope, "deep/down/a.log"));
        assert!(covers(&scope, "keep/a.log"));
        assert!(!covers(&scope, "build/anything"));
        assert!(covers(&scope, "deep/build/anything"));
    }

    #[test]
    fn nothing_below_an_ignored_directory_can_be_taken_back() {
        let scope = scope(&[], &[("", "out/\n!out/keep\n")]);
        assert!(!covers(&scope, "out/keep"));
    }

    #[test]
    fn a_line_that_is_no_pattern_is_told_and_the_others_hold() {
        let (file, bad) = IgnoreFile::parse(b"*.o\n[z-a]\n");
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].line, "[z-a]");
        let scope = Scope::new(rules(&[]), HashMap::from([(None, Arc::new(file))]));
        assert!(!covers(&scope, "x.o"));
    }

    #[test]
    fn the_digest_changes_with_any_filter() {
        let plain = scope(&[], &[]).digest();
        assert_ne!(plain, scope(&[(false, "a")], &[]).digest());
        assert_ne!(plain, scope(&[], &[("", "a")]).digest());
        assert_ne!(scope(&[], &[("x", "a")]).digest(), scope(&[], &[("", "a")]).digest());
    }

    #[test]
    fn what_a_peer_may_not_hear_of_is_out_of_scope_whatever_the_filters_say() {
        let path = |path: &str| RelPath::new(path.as_bytes()).ok();
        let permit = |prefix| Permit::new([(path(prefix), Rights::ALL)]);
        let within = |prefix| {
            let file = Arc::new(IgnoreFile::parse(b"!*\n").0);
            let rules = rules(&[(true, "*")]).within(&permit(prefix));
            Scope::new(rules, HashMap::from([(None, file)]))
        };
        let docs = within("docs/public");
        assert!(covers(&docs, "docs/public/x"));
        assert!(docs.covers(&path("docs").unwrap(), true));
        assert!(!covers(&docs, "docs/secret"));
        assert!(!covers(&docs, "other"));
        assert_ne!(docs.digest(), within("docs").digest());
        assert_eq!(rules(&[]).within(&permit("")).digest, rules(&[]).digest);
    }
}
