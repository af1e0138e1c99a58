//! The rule matrix, row by row, under every policy and with the sides exchanged, through the real
//! program on real trees. ARCHITECTURE.md shows the table.
//!
//!     cargo test --test matrix
//!     PSYNC_WRITE_MATRIX=1 cargo test --test matrix    writes the table anew
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::pair::Pair;
use common::tree::{files_below, set_mtime};
use common::{read_text, set_mode, write_file};

/// The policies, as they are typed, in the order of the columns.
const POLICIES: [&str; 9] =
    ["keep-both", "newest", "oldest", "largest", "hold", "local", "remote", NAME, "merge"];
/// What the remote side is called where a policy names a replica.
const NAME: &str = "replica:there";

/// What comes of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Both are kept.
    Both,
    /// What the local side has made is taken.
    Local,
    /// What the remote side has made is taken.
    Remote,
    /// Nothing is touched.
    Held,
    /// Both texts are merged, or both are kept.
    Merged,
}

use Way::{Both, Held, Local, Merged, Remote};

/// What a tree holds: paths with texts; `/` is a directory, `-> x` a symlink, and a mode other than
/// the usual one follows.
type Tree = &'static [(&'static str, &'static str)];

/// What comes of a row.
enum Result {
    /// The same whatever the policy.
    Always(&'static str, Tree),
    /// A conflict: by policy, with the trees that come of it.
    Conflict { kind: &'static str, ways: [Way; 9], both: Tree, local: Tree, remote: Tree },
}

use Result::{Always, Conflict};

/// A row of the matrix. In every conflict the local side's is the longer and the remote side's the
/// newer.
struct Row {
    local: &'static str,
    remote: &'static str,
    start: Tree,
    here: fn(&Path),
    there: fn(&Path),
    result: Result,
}

const LATER: i64 = 1_000_000_000;
const HERE: &str = "here, and longer";
const THERE: &str = "there";

/// Writes a text, the local side's earlier than the remote's.
fn text(path: PathBuf, text: &str) {
    write_file(&path, text);
    let seconds = if text == THERE { 2_000_000_020 } else { 2_000_000_010 };
    set_mtime(&path, seconds * LATER);
}

fn mode(path: PathBuf, mode: u32, seconds: i64) {
    set_mode(&path, mode);
    set_mtime(&path, seconds * LATER);
}

fn nothing(_: &Path) {}

fn to_file(path: PathBuf) {
    fs::remove_dir_all(&path).unwrap();
    text(path, HERE);
}

const ROWS: [Row; 20] = [
    Row {
        local: "created",
        remote: "absent",
        start: &[],
        here: |at| text(at.join("f"), HERE),
        there: nothing,
        result: Always("copied to remote", &[("f", HERE)]),
    },
    Row {
        local: "modified",
        remote: "unchanged",
        start: &[("f", "old")],
        here: |at| text(at.join("f"), HERE),
        there: nothing,
        result: Always("copied to remote", &[("f", HERE)]),
    },
    Row {
        local: "deleted",
        remote: "unchanged",
        start: &[("f", "old"), ("kept", "kept")],
        here: |at| fs::remove_file(at.join("f")).unwrap(),
        there: nothing,
        result: Always("deleted on remote, into its trash", &[("kept", "kept")]),
    },
    Row {
        local: "deleted",
        remote: "modified",
        start: &[("f", "old"), ("kept", "kept")],
        here: |at| fs::remove_file(at.join("f")).unwrap(),
        there: |at| text(at.join("f"), THERE),
        result: Conflict {
            kind: "delete-modify",
            ways: [Remote, Remote, Remote, Remote, Held, Local, Remote, Remote, Remote],
            both: &[],
            local: &[("kept", "kept")],
            remote: &[("f", THERE), ("kept", "kept")],
        },
    },
    Row {
        local: "modified",
        remote: "modified, different",
        start: &[("f.txt", "old")],
        here: |at| text(at.join("f.txt"), HERE),
        there: |at| text(at.join("f.txt"), THERE),
        result: Conflict {
            kind: "modified-both",
            ways: [Both, Remote, Local, Local, Held, Local, Remote, Remote, Merged],
            both: &[("f.txt", THERE), ("f_clash.txt", HERE)],
            local: &[("f.txt", HERE)],
            remote: &[("f.txt", THERE)],
        },
    },
    Row {
        local: "created",
        remote: "created, different",
        start: &[("kept", "kept")],
        here: |at| text(at.join("f.txt"), HERE),
        there: |at| text(at.join("f.txt"), THERE),
        result: Conflict {
            kind: "created-both",
            ways: [Both, Remote, Local, Local, Held, Local, Remote, Remote, Both],
            both: &[("f.txt", THERE), ("f_clash.txt", HERE), ("kept", "kept")],
            local: &[("f.txt", HERE), ("kept", "kept")],
            remote: &[("f.txt", THERE), ("kept", "kept")],
        },
    },
    Row {
        local: "the same content",
        remote: "the same content",
        start: &[("f", "old")],
        here: |at| text(at.join("f"), "the same"),
        there: |at| text(at.join("f"), "the same"),
        result: Always("nothing to do", &[("f", "the same")]),
    },
    Row {
        local: "moved",
        remote: "unchanged",
        start: &[("f", "text")],
        here: |at| fs::rename(at.join("f"), at.join("g")).unwrap(),
        there: nothing,
        result: Always("renamed on remote, without content", &[("g", "text")]),
    },
    Row {
        local: "moved",
        remote: "modified at the old path",
        start: &[("f", "text")],
        here: |at| fs::rename(at.join("f"), at.join("g")).unwrap(),
        there: |at| text(at.join("f"), THERE),
        result: Always("renamed, and the edit lands at the new path", &[("g", THERE)]),
    },
    Row {
        local: "moved",
        remote: "moved elsewhere",
        start: &[("f", "text")],
        here: |at| {
            fs::rename(at.join("f"), at.join("here")).unwrap();
            set_mtime(&at.join("here"), 2_000_000_010 * LATER);
        },
        there: |at| {
            fs::rename(at.join("f"), at.join("there")).unwrap();
            set_mtime(&at.join("there"), 2_000_000_020 * LATER);
        },
        result: Conflict {
            kind: "moved-both",
            ways: [Both, Remote, Local, Remote, Held, Local, Remote, Remote, Both],
            both: &[("here", "text"), ("there", "text")],
            local: &[("here", "text")],
            remote: &[("there", "text")],
        },
    },
    Row {
        local: "properties changed",
        remote: "unchanged",
        start: &[("f", "text")],
        here: |at| set_mode(&at.join("f"), 0o600),
        there: nothing,
        result: Always("the same on remote, without content", &[("f", "text 600")]),
    },
    Row {
        local: "letter case changed",
        remote: "unchanged",
        start: &[("name", "text")],
        here: |at| fs::rename(at.join("name"), at.join("Name")).unwrap(),
        there: nothing,
        result: Always("renamed on remote, without content", &[("Name", "text")]),
    },
    Row {
        local: "properties changed",
        remote: "modified",
        start: &[("f", "text")],
        here: |at| set_mode(&at.join("f"), 0o600),
        there: |at| text(at.join("f"), THERE),
        result: Always("both happen", &[("f", "there 600")]),
    },
    Row {
        local: "properties changed",
        remote: "properties changed, different",
        start: &[("f", "text")],
        here: |at| mode(at.join("f"), 0o600, 2_000_000_010),
        there: |at| mode(at.join("f"), 0o700, 2_000_000_020),
        result: Conflict {
            kind: "properties-both",
            ways: [Remote, Remote, Local, Remote, Held, Local, Remote, Remote, Remote],
            both: &[],
            local: &[("f", "text 600")],
            remote: &[("f", "text 700")],
        },
    },
    Row {
        local: "directory replaced by a file",
        remote: "unchanged",
        start: &[("d/f", "old")],
        here: |at| to_file(at.join("d")),
        there: nothing,
        result: Always("replaced on remote", &[("d", HERE)]),
    },
    Row {
        local: "directory replaced by a file",
        remote: "modified below",
        start: &[("d/f", "old")],
        here: |at| to_file(at.join("d")),
        there: |at| text(at.join("d/f"), THERE),
        result: Conflict {
            kind: "type",
            ways: [Both, Both, Both, Both, Held, Local, Remote, Remote, Both],
            both: &[("d", "/"), ("d/f", THERE), ("d_clash", HERE)],
            local: &[("d", HERE)],
            remote: &[("d", "/"), ("d/f", THERE)],
        },
    },
    Row {
        local: "modified",
        remote: "file replaced by a symlink",
        start: &[("f.txt", "old")],
        here: |at| text(at.join("f.txt"), HERE),
        there: |at| {
            fs::remove_file(at.join("f.txt")).unwrap();
            symlink("elsewhere", at.join("f.txt")).unwrap();
            set_mtime(&at.join("f.txt"), 2_000_000_020 * LATER);
        },
        result: Conflict {
            kind: "type",
            ways: [Both, Remote, Local, Local, Held, Local, Remote, Remote, Both],
            both: &[("f.txt", "-> elsewhere"), ("f_clash.txt", HERE)],
            local: &[("f.txt", HERE)],
            remote: &[("f.txt", "-> elsewhere")],
        },
    },
    Row {
        local: "directory deleted",
        remote: "a new file inside",
        start: &[("d/f", "old"), ("kept", "kept")],
        here: |at| fs::remove_dir_all(at.join("d")).unwrap(),
        there: |at| text(at.join("d/new"), THERE),
        result: Always(
            "the directory stays, what was deleted in it goes",
            &[("d", "/"), ("d/new", THERE), ("kept", "kept")],
        ),
    },
    Row {
        local: "directory moved",
        remote: "a new file inside",
        start: &[("d/f", "text")],
        here: |at| fs::rename(at.join("d"), at.join("e")).unwrap(),
        there: |at| text(at.join("d/new"), THERE),
        result: Always(
            "the directory is renamed; the new file stays in the old one",
            &[("d", "/"), ("d/new", THERE), ("e", "/"), ("e/f", "text")],
        ),
    },
    Row {
        local: "deleted",
        remote: "deleted",
        start: &[("f", "old"), ("kept", "kept")],
        here: |at| fs::remove_file(at.join("f")).unwrap(),
        there: |at| fs::remove_file(at.join("f")).unwrap(),
        result: Always("nothing to do", &[("kept", "kept")]),
    },
];

/// What a tree holds, in the words of [`Tree`]; clash files without their moment.
fn held_by(root: &Path) -> BTreeMap<String, String> {
    let mut held = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            if name == ".psync" {
                continue;
            }
            let kind = fs::symlink_metadata(&path).unwrap();
            let what = if kind.is_dir() {
                folders.push(path);
                "/".to_string()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                let mode = kind.permissions().mode() & 0o7777;
                let usual = if mode == 0o644 { String::new() } else { format!(" {mode:o}") };
                format!("{}{usual}", read_text(&path))
            };
            held.insert(without_moment(&name), what);
        }
    }
    held
}

fn without_moment(name: &str) -> String {
    match name.split_once("_clash_") {
        Some((stem, rest)) => {
            format!("{stem}_clash{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => name.to_string(),
    }
}

fn expected(tree: Tree) -> BTreeMap<String, String> {
    let pairs = tree.iter().map(|(path, what)| (path.to_string(), what.to_string()));
    let mut all: BTreeMap<String, String> = pairs.collect();
    for (path, _) in tree {
        if let Some((folder, _)) = path.rsplit_once('/') {
            all.insert(folder.to_string(), "/".to_string());
        }
    }
    all
}

/// All texts in a tree and its trash.
fn texts(root: &Path) -> BTreeSet<String> {
    let in_trash = files_below(&root.join(".psync/trash"));
    let all = files_below(root).into_iter().chain(in_trash);
    all.filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// The row under a policy; with the sides exchanged what happens here happens in `b`.
fn hold(row: &Row, policy: usize, exchanged: bool) {
    let pair = Pair::agreed(&[]);
    for (path, text) in row.start {
        write_file(pair.a.join(path), text);
        set_mtime(&pair.a.join(path), 1_000_000_000 * LATER);
    }
    pair.sync_expecting(0, &[]);
    let (here, there) = if exchanged { (&pair.b, &pair.a) } else { (&pair.a, &pair.b) };
    (row.here)(here);
    (row.there)(there);
    let before = (held_by(here), held_by(there));
    let written: BTreeSet<String> = texts(here).union(&texts(there)).cloned().collect();
    let typed = match (POLICIES[policy], exchanged) {
        ("local", true) => "remote",
        ("remote", true) => "local",
        (typed, _) => typed,
    };
    let what = format!(
        "{} | {} under {}{}",
        row.local,
        row.remote,
        POLICIES[policy],
        if exchanged { ", exchanged" } else { "" }
    );
    let output = common::run(&mut command(&pair, typed, exchanged));
    let code = output.status.code().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let after = (held_by(here), held_by(there));
    let both = |tree: Tree| (expected(tree), expected(tree));
    let (trees, codes) = match &row.result {
        Always(_, tree) => (both(tree), [0, 0]),
        Conflict { ways, both: kept, local, remote, kind } => match ways[policy] {
            // That a change survives a deletion is no conflict unless a policy made it one.
            Remote if *kind == "delete-modify" && !is_side(policy) => (both(remote), [0, 0]),
            Remote if *kind == "properties-both" && is_default(policy) => (both(remote), [40, 0]),
            Remote => (both(remote), [0, 0]),
            Local => (both(local), [0, 0]),
            Both => (both(kept), [40, 0]),
            Held => (before.clone(), [40, 40]),
            Merged => {
                assert!(code == 40 && told.contains(kind), "{what}: {code} {told}");
                let lost = written
                    .iter()
                    .filter(|text| !texts(here).contains(*text) && !texts(there).contains(*text));
                assert_eq!(lost.count(), 0, "{what}");
                return;
            }
        },
    };
    assert_eq!(after, trees, "{what}: {told}");
    assert_eq!(code, codes[0], "{what}: {told}");
    let kept: BTreeSet<String> = texts(here).union(&texts(there)).cloned().collect();
    let lost: Vec<&String> = written.difference(&kept).collect();
    assert!(lost.is_empty(), "{what}: {lost:?} is lost");
    if let Conflict { kind, .. } = &row.result
        && codes[0] == 40
    {
        // What makes a conflict of a directory is that something below it waits.
        let below = (*kind == "type").then_some("delete-modify");
        let named = |kind: &str| told.contains(&format!("conflict ({kind})"));
        assert!(named(kind) || below.is_some_and(named), "{what}: {told}");
    }
    let again = common::run(&mut command(&pair, typed, exchanged));
    assert_eq!(again.status.code(), Some(codes[1]), "{what}: the second run");
    assert_eq!((held_by(here), held_by(there)), after, "{what}: the second run");
}

/// `psync ./a ./b` under a policy; where that names a replica, as a named pair, which knows what
/// both are called: the side where what the remote side does is done is "there".
fn command(pair: &Pair, policy: &str, exchanged: bool) -> Command {
    if policy != NAME {
        return pair.command(&["-v", "--policy", policy]);
    }
    let (name, other) = if exchanged { ("there", "here") } else { ("here", "there") };
    let (a, b) = (pair.a.display(), pair.b.display());
    let text = format!(
        "name = '{name}'\n[pair.p]\nlocal = '{a}'\nremote = '{b}'\nremote-name = '{other}'\n"
    );
    write_file(pair.temp.join("home/.config/psync/psync.toml"), text);
    let mut command = common::psync(&pair.temp);
    command.args(["-v", "--policy", policy, "p"]);
    command
}

fn is_side(policy: usize) -> bool {
    ["local", "remote", NAME].contains(&POLICIES[policy])
}

fn is_default(policy: usize) -> bool {
    ["keep-both", "merge"].contains(&POLICIES[policy])
}

#[test]
fn every_row_holds_under_every_policy_and_with_the_sides_exchanged() {
    let trials: Vec<(usize, usize, bool)> = (0..ROWS.len())
        .flat_map(|row| (0..POLICIES.len()).map(move |policy| (row, policy)))
        .flat_map(|(row, policy)| [(row, policy, false), (row, policy, true)])
        .collect();
    let next = AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(row, policy, exchanged)) =
                    trials.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let trial = std::panic::catch_unwind(|| hold(&ROWS[row], policy, exchanged));
                    if let Err(panic) = trial {
                        let text = panic.downcast_ref::<String>().cloned();
                        failed.lock().unwrap().push(text.unwrap_or_default());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), trials.len(), failed.join("\n\n"));
}

const BEGIN: &str = "<!-- the rule matrix: written by tests/matrix.rs -->\n";
const END: &str = "<!-- end of the rule matrix -->\n";

fn table() -> String {
    let mut lines = vec![
        format!("| local | remote | kind | {} |", POLICIES.join(" | ").replace(NAME, "NAME")),
        format!("|---|---|---|{}", "---|".repeat(POLICIES.len())),
    ];
    for row in &ROWS {
        let (kind, cells) = match &row.result {
            Always(words, _) => ("", vec![*words; 1]),
            Conflict { kind, ways, .. } => (*kind, ways.iter().map(|way| word(*way)).collect()),
        };
        let filling = vec![""; POLICIES.len() - cells.len()];
        let cells: Vec<&str> = cells.into_iter().chain(filling).collect();
        lines.push(format!("| {} | {} | {kind} | {} |", row.local, row.remote, cells.join(" | ")));
    }
    lines.join("\n").replace("|  |", "| |").replace("|  |", "| |") + "\n"
}

fn word(way: Way) -> &'static str {
    match way {
        Both => "both",
        Local => "local",
        Remote => "remote",
        Held => "held",
        Merged => "merged, or both",
    }
}

#[test]
fn the_architecture_shows_this_very_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = read_text(&path);
    let begin = text.find(BEGIN).expect("the table begins") + BEGIN.len();
    let end = text.find(END).expect("the table ends");
    if std::env::var_os("PSYNC_WRITE_MATRIX").is_some() {
        fs::write(&path, [&text[..begin], &table(), &text[end..]].concat()).unwrap();
        return;
    }
    assert_eq!(&text[begin..end], table(), "write it anew with PSYNC_WRITE_MATRIX=1");
}
