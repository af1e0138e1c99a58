//! Checks the layer rule of ARCHITECTURE.md against the source itself: who may import whom, what
//! pure code keeps away from, and that no file grows out of sight.
//!
//!     cargo test --test layers

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules that it may import, from the top layer to the bottom: whatever a
/// module may import stands further down, so there are no cycles. Besides these, every module may
/// import `report` and the protocol crate.
const LAYERS: [(&str, &[&str]); 18] = [
    // `apply`, `manifest`, `reconcile`, `root` and `scan`: only for types in the requests and errors
    // of `sync`; `merge`: for what two texts differ in.
    (
        "cli",
        &[
            "daemon",
            "sync",
            "settings",
            "scan",
            "apply",
            "transport",
            "identity",
            "journal",
            "root",
            "reconcile",
            "merge",
            "manifest",
        ],
    ),
    // `scan`, `apply`, `manifest`, `root`: only for the types of patterns, names, rights and limits;
    // `settings`: how a limit is written; `journal`: what the audit log says was done.
    (
        "daemon",
        &[
            "sync",
            "settings",
            "scan",
            "apply",
            "transport",
            "identity",
            "journal",
            "root",
            "manifest",
        ],
    ),
    (
        "sync",
        &[
            "settings",
            "scan",
            "apply",
            "transport",
            "index",
            "journal",
            "root",
            "store",
            "reconcile",
            "identity",
            "delta",
            "merge",
            "manifest",
        ],
    ),
    // `scan`, `transport` and `root`: for what is a pattern, how a line is compressed, and what is
    // left of a disk.
    ("settings", &["scan", "transport", "journal", "root", "store", "reconcile"]),
    ("scan", &["index", "journal", "root", "manifest"]),
    // `reconcile`: only for the names of clash files.
    ("apply", &["index", "journal", "root", "reconcile", "delta", "manifest"]),
    ("transport", &["identity"]),
    // `manifest`: only for the rights that `authorized_peers` gives.
    ("identity", &["manifest"]),
    ("index", &["manifest", "database"]),
    ("journal", &["database"]),
    ("root", &["manifest"]),
    ("store", &["database"]),
    ("database", &[]),
    ("reconcile", &["manifest"]),
    ("delta", &[]),
    ("merge", &[]),
    ("manifest", &[]),
    ("report", &[]),
];

/// Modules whose functions turn values into values.
const PURE: [&str; 5] = ["reconcile", "delta", "merge", "manifest", "report"];

/// What pure code does not use of `std`: files, the network, threads, clocks, the environment.
/// `std::io` is not among them: its error type is only a value.
const IMPURE_STD: [&str; 7] = ["fs", "net", "process", "thread", "time", "env", "os"];

/// Crates that do input and output, or ask the system for the time or for random bytes.
const IMPURE_CRATES: [&str; 7] =
    ["rustix", "rusqlite", "libc", "rand", "getrandom", "jiff", "ignore"];

/// Parts of `std::io` that move bytes.
const IO_ACTIONS: [&str; 8] =
    ["Read", "Write", "BufRead", "Seek", "Stdin", "Stdout", "stdin", "stdout"];

const LINES_MAX: usize = 1000;

#[test]
fn modules_import_only_from_layers_below() {
    for (module, allowed) in LAYERS {
        for file in files_of(module) {
            let text = code(&file);
            for imported in paths(&text, "crate").into_iter().chain(through_super(&file, &text)) {
                assert!(
                    imported == module || imported == "report" || allowed.contains(&&*imported),
                    "{}: `{module}` may not import `{imported}`",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_table_names_every_module_and_has_no_cycles() {
    let lib = code(&root().join("src/lib.rs"));
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let listed: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    assert_eq!(declared, listed);
    for (at, (module, allowed)) in LAYERS.iter().enumerate() {
        for below in *allowed {
            let stands_below = LAYERS[at + 1..].iter().any(|(other, _)| other == below);
            assert!(stands_below, "`{below}` does not stand below `{module}`");
        }
    }
}

#[test]
fn pure_modules_know_neither_files_nor_clock_nor_chance() {
    for file in PURE.iter().flat_map(|module| files_of(module)) {
        assert_pure(&file);
    }
}

#[test]
fn the_protocol_crate_does_no_input_or_output() {
    for file in rust_files(&root().join("protocol/src")) {
        assert_pure(&file);
        let text = code(&file);
        for action in IO_ACTIONS {
            let used = text.contains(&format!("io::{action}"));
            assert!(!used, "{}: uses io::{action}", file.display());
        }
        let imports_io = text.lines().any(|line| line.trim().starts_with("use std::io"));
        assert!(!imports_io, "{}: imports from std::io", file.display());
    }
}

#[test]
fn no_file_is_so_long_that_one_gets_lost() {
    for folder in ["src", "tests", "benches", "protocol"] {
        for file in rust_files(&root().join(folder)) {
            let lines = read(&file).lines().count();
            assert!(lines <= LINES_MAX, "{}: {lines} lines", file.display());
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::one::Two;\npub use crate::{three, four::{five, Six}, seven::*};\n\
                fn f(_: crate::eight::Nine) {}\nuse mycrate::ten;\n";
    let expected = ["eight", "four", "one", "seven", "three"].map(String::from);
    assert_eq!(paths(text, "crate"), BTreeSet::from(expected));
    assert!(
        without_comments("//! [`crate::one`]\nfn f() {} // crate::two\n").trim() == "fn f() {}"
    );
}

fn assert_pure(file: &Path) {
    let text = code(file);
    for name in paths(&text, "std") {
        assert!(!IMPURE_STD.contains(&&*name), "{}: uses std::{name}", file.display());
    }
    for name in IMPURE_CRATES {
        assert!(paths(&text, name).is_empty(), "{}: uses {name}", file.display());
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let folder = root().join("src").join(module);
    let files = match folder.is_dir() {
        true => rust_files(&folder),
        false => vec![folder.with_extension("rs")],
    };
    assert!(!files.is_empty(), "`{module}` has no files");
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be read") {
            let path = entry.expect("a source folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn code(file: &Path) -> String {
    without_comments(&read(file))
}

/// Cuts each line at `//`. That this cuts strings with `//` in them, too, hides no import.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The names that follow `start::`, directly or as the first ones in braces.
fn paths(text: &str, start: &str) -> BTreeSet<String> {
    let start = format!("{start}::");
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(&start) {
        let inside_a_name = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if inside_a_name {
            continue;
        }
        match text[at + start.len()..].trim_start().strip_prefix('{') {
            None => names.extend(first_name(&text[at + start.len()..])),
            Some(group) => names.extend(top_of_group(group)),
        }
    }
    names
}

fn top_of_group(group: &str) -> Vec<String> {
    let mut names: Vec<String> = first_name(group).into_iter().collect();
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(first_name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_string())
}

/// Modules reached by `super::` from the top of a module: the same as `crate::` there.
fn through_super(file: &Path, text: &str) -> BTreeSet<String> {
    let below_src = file.strip_prefix(root().join("src")).expect("a file of src");
    let start = match below_src.components().count() {
        1 => "super",
        2 if file.ends_with("mod.rs") => "super",
        2 => "super::super",
        _ => return BTreeSet::new(),
    };
    let is_module = |name: &String| LAYERS.iter().any(|(module, _)| module == name);
    paths(text, start).into_iter().filter(is_module).collect()
}
