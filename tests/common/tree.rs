//! Directory trees for tests and benches: made from a seed, recorded, and compared.
//!
//! `grow_tree` makes a tree with everything that has ever troubled a synchroniser; `snapshot`
//! records a tree; `assert_same_trees` and `rsync_oracle` say whether two trees are the same, the
//! first by our own eyes, the second by rsync's.

// Each test and bench compiles its own copy of this module and uses only a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::hash::Hasher;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// A small random number generator (splitmix64): the same seed gives the same tree everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True in `percent` of a hundred calls.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// About `count` bytes of lines that compress as source code does.
    pub(crate) fn text(&mut self, count: usize) -> Vec<u8> {
        const WORDS: [&str; 12] = [
            "let", "path", "match", "return", "the", "entry", "for", "if", "folder", "= 0;", "{",
            "}",
        ];
        let mut text = Vec::with_capacity(count + 40);
        while text.len() < count {
            let number = self.below(100_000);
            let line = format!(
                "    {} {} {number} {}\n",
                self.pick(&WORDS),
                self.pick(&WORDS),
                self.pick(&WORDS)
            );
            text.extend_from_slice(line.as_bytes());
        }
        text
    }
}

/// How large a tree `grow_tree` makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) folders: usize,
    pub(crate) files: usize,
    pub(crate) symlinks: usize,
    pub(crate) largest_file: usize,
}

impl Shape {
    pub(crate) const SMALL: Shape =
        Shape { folders: 12, files: 60, symlinks: 6, largest_file: 20_000 };
}

/// Fills `root` with nested and empty folders, files of many sizes and modes, symlinks of every
/// kind, odd names, and times with nanoseconds.
pub(crate) fn grow_tree(root: &Path, rng: &mut Rng, shape: Shape) {
    let mut folders = vec![root.to_path_buf()];
    for number in 0..shape.folders {
        let folder = rng.pick(&folders).join(some_name(rng, number, "folder"));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        folders.push(folder);
    }
    for number in 0..shape.files {
        let file = rng.pick(&folders).join(some_name(rng, number, "file"));
        let content = some_content(rng, number, shape.largest_file);
        fs::write(&file, content).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mode = *rng.pick(&[0o644, 0o644, 0o600, 0o755, 0o640, 0o444]);
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))
            .expect("a new file's mode can be set");
    }
    for number in 0..shape.symlinks {
        let link = rng.pick(&folders).join(format!("link-{number}"));
        symlink(some_link_target(number), &link)
            .unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    }
    set_times_below(root, rng);
    fs::create_dir_all(root.join("empty/below empty")).expect("an empty folder can be created");
}

/// Every third name is odd, in turn in each of the ways that names can be odd.
fn some_name(rng: &mut Rng, number: usize, plain: &str) -> OsString {
    if !number.is_multiple_of(3) {
        return format!("{plain}-{number}.{}", rng.pick(&["txt", "rs", "tar.gz", "c"])).into();
    }
    let mut name = match (number / 3) % 10 {
        0 => b"latin1-\xe9t\xe9".to_vec(),
        1 => b"two\nlines".to_vec(),
        2 => b"--delete".to_vec(),
        3 => vec![b'x'; 255 - 8],
        4 => b".hidden".to_vec(),
        5 => b"it's \"quoted\" $(name) `x` \\".to_vec(),
        6 => b"esc\x1b[31mred\x07".to_vec(),
        7 => "composed-\u{e9}-decomposed-e\u{301}".into(),
        8 => b"*?[a-z]{x}~".to_vec(),
        _ => b" space at both ends ".to_vec(),
    };
    // The number keeps names apart; it pads the longest to 255 bytes exactly.
    name.extend_from_slice(format!("{plain:.2}{number:06}").as_bytes());
    OsString::from_vec(name)
}

fn some_content(rng: &mut Rng, number: usize, largest: usize) -> Vec<u8> {
    let size = rng.below(largest.max(1));
    match number % 6 {
        0 => Vec::new(),
        1 => rng.bytes(size),
        2 => vec![0; size],
        _ => rng.text(size / 4),
    }
}

fn some_link_target(number: usize) -> &'static OsStr {
    let targets: [&[u8]; 6] = [
        b"file-1.txt",
        b"..",
        b"dangling/nowhere",
        b"/absolute/nowhere",
        b"non-utf8-\xff",
        b"./link-4",
    ];
    OsStr::from_bytes(targets[number % targets.len()])
}

/// Gives every entry below `folder` a time in the past, with nanoseconds.
fn set_times_below(folder: &Path, rng: &mut Rng) {
    for entry in sorted_entries(folder) {
        if is_folder(&entry) {
            set_times_below(&entry, rng);
        }
        let seconds = 1_000_000_000 + rng.below(700_000_000) as i64;
        set_mtime(&entry, seconds * 1_000_000_000 + rng.below(1_000_000_000) as i64);
    }
}

/// Sets the modification time of a file, folder or symlink (never of what a symlink points to).
pub(crate) fn set_mtime(path: &Path, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|error| panic!("{}: utimensat: {error}", path.display()));
}

/// What stands at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File(ContentHash),
    Symlink(Vec<u8>),
    Other,
}

/// Names a content. 64 bits beside the size are enough for tests, where nobody seeks collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContentHash {
    pub(crate) size: u64,
    digest: u64,
}

impl ContentHash {
    pub(crate) fn of(content: &[u8]) -> ContentHash {
        #[expect(
            deprecated,
            reason = "the only hasher of the standard library that is the same in every run"
        )]
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(content);
        ContentHash { size: content.len() as u64, digest: hasher.finish() }
    }

    pub(crate) fn of_file(path: &Path) -> ContentHash {
        let content = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ContentHash::of(&content)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} ({} bytes)", self.digest, self.size)
    }
}

/// A whole tree but for its `.psync`: relative path, as bytes, to what stands there.
pub(crate) type Snapshot = BTreeMap<Vec<u8>, Entry>;

pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut entries = Snapshot::new();
    record_below(root, b"", &mut entries);
    entries
}

fn record_below(folder: &Path, prefix: &[u8], entries: &mut Snapshot) {
    for path in sorted_entries(folder) {
        let name = path.file_name().expect("an entry of a folder has a name").as_bytes();
        if prefix.is_empty() && name == b".psync" {
            continue;
        }
        let relative = [prefix, name].concat();
        if is_folder(&path) {
            record_below(&path, &[&relative, b"/".as_slice()].concat(), entries);
        }
        entries.insert(relative, Entry::at(&path));
    }
}

impl Entry {
    pub(crate) fn at(path: &Path) -> Entry {
        let metadata = metadata(path);
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_file() => Kind::File(ContentHash::of_file(path)),
            kind if kind.is_symlink() => {
                let target = fs::read_link(path)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                Kind::Symlink(target.into_os_string().into_vec())
            }
            _ => Kind::Other,
        };
        let mtime_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Entry { kind, mode: metadata.mode() & 0o7777, mtime_ns }
    }

    /// What differs, in words; empty when nothing that a synchroniser keeps differs.
    fn differences(&self, other: &Entry) -> Vec<String> {
        let mut found = Vec::new();
        if self.kind != other.kind {
            found.push(format!("{} / {}", self.kind, other.kind));
        }
        if self.mode != other.mode {
            found.push(format!("mode {:o} / {:o}", self.mode, other.mode));
        }
        let both_folders = self.kind == Kind::Folder && other.kind == Kind::Folder;
        if self.mtime_ns != other.mtime_ns && !both_folders {
            found.push(format!("mtime {} / {}", self.seconds(), other.seconds()));
        }
        found
    }

    fn seconds(&self) -> String {
        let nanoseconds = self.mtime_ns.rem_euclid(1_000_000_000);
        format!("{}.{nanoseconds:09}", self.mtime_ns.div_euclid(1_000_000_000))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Folder => write!(f, "folder"),
            Kind::File(hash) => write!(f, "file {hash}"),
            Kind::Symlink(target) => write!(f, "symlink to '{}'", target.escape_ascii()),
            Kind::Other => write!(f, "neither file, folder nor symlink"),
        }
    }
}

/// Every difference between two trees, one readable line each. Modification times of folders do
/// not count: psync does not carry them.
pub(crate) fn differences(a: &Snapshot, b: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in a {
        match b.get(path) {
            None => {
                lines.push(format!("only in the first: '{}' ({})", path.escape_ascii(), entry.kind))
            }
            Some(other) => {
                let found = entry.differences(other);
                if !found.is_empty() {
                    lines.push(format!("differs: '{}': {}", path.escape_ascii(), found.join(", ")));
                }
            }
        }
    }
    for (path, entry) in b.iter().filter(|(path, _)| !a.contains_key(*path)) {
        lines.push(format!("only in the second: '{}' ({})", path.escape_ascii(), entry.kind));
    }
    lines
}

#[track_caller]
pub(crate) fn assert_same_trees(a: &Path, b: &Path) {
    let lines = differences(&snapshot(a), &snapshot(b));
    assert!(lines.is_empty(), "{} and {} differ:\n{}", a.display(), b.display(), lines.join("\n"));
}

/// Asserts that rsync, comparing every byte, would change nothing to make `b` the same as `a`.
#[track_caller]
pub(crate) fn rsync_oracle(a: &Path, b: &Path) {
    let output = Command::new("rsync")
        .args(["-anicO", "--delete", "--exclude=/.psync"])
        .args([a.join(""), b.join("")])
        .output()
        .unwrap_or_else(|error| panic!("this test needs rsync: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    let changes = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && complaint.is_empty(),
        "rsync: {}: {complaint}",
        output.status
    );
    assert!(
        changes.is_empty(),
        "rsync sees differences from {} to {}:\n{changes}",
        a.display(),
        b.display()
    );
}

/// All regular files of a root, but for those in its `.psync`.
pub(crate) fn files_outside_psync(root: &Path) -> Vec<PathBuf> {
    let own_entries = sorted_entries(root).into_iter().filter(|path| !path.ends_with(".psync"));
    own_entries
        .flat_map(|path| if is_folder(&path) { files_below(&path) } else { vec![path] })
        .filter(|path| metadata(path).is_file())
        .collect()
}

/// All regular files below `folder`, if it exists; symlinks are not followed.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in sorted_entries(folder) {
        if is_folder(&path) {
            files.extend(files_below(&path));
        } else if metadata(&path).is_file() {
            files.push(path);
        }
    }
    files
}

/// The entries of a folder in the order of their names; none if it does not exist.
pub(crate) fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.expect("a folder can be listed").path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    paths.sort();
    paths
}

pub(crate) fn is_folder(path: &Path) -> bool {
    metadata(path).is_dir()
}

fn metadata(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Now, as nanoseconds since the epoch: the form in which snapshots keep times.
pub(crate) fn now_ns() -> i64 {
    let since: Duration = UNIX_EPOCH.elapsed().expect("the clock stands after 1970");
    i64::try_from(since.as_nanos()).expect("the year is before 2262")
}
