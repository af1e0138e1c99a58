//! Two roots that the program syncs as people sync two folders of one machine, and what a run
//! said about it.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::tree::{Rng, assert_same_trees, rsync_oracle, sorted_entries};
use super::{TempDir, describe, psync, run, write_file};

/// Two folders, `a` and `b`, empty at first.
pub(crate) struct Pair {
    pub(crate) temp: TempDir,
    pub(crate) a: PathBuf,
    pub(crate) b: PathBuf,
}

impl Pair {
    pub(crate) fn new() -> Pair {
        let temp = TempDir::new();
        Pair { a: temp.folder("a"), b: temp.folder("b"), temp }
    }

    /// Two folders that hold these files and have agreed on them.
    #[track_caller]
    pub(crate) fn agreed(files: &[(&str, &str)]) -> Pair {
        let pair = Pair::new();
        for (path, text) in files {
            write_file(pair.a.join(path), text);
        }
        pair.sync_to(0);
        pair
    }

    /// `psync a b`, in the folder above them.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = psync(&self.temp);
        command.args(options).args(["./a", "./b"]).current_dir(self.temp.path());
        command
    }

    /// Runs it; it must end with this code.
    #[track_caller]
    pub(crate) fn sync_expecting(&self, code: i32, options: &[&str]) -> Said {
        Said::of(&mut self.command(options), code)
    }

    /// Runs it; it must end with this code, and both folders must be the same then, and stay as
    /// they are in a second run.
    #[track_caller]
    pub(crate) fn sync_to(&self, code: i32) -> Said {
        let said = self.sync_expecting(code, &["-v"]);
        self.assert_settled();
        said
    }

    /// Both folders are the same, by our eyes and by rsync's, and another run has nothing to do.
    #[track_caller]
    pub(crate) fn assert_settled(&self) {
        assert_same_trees(&self.a, &self.b);
        rsync_oracle(&self.a, &self.b);
        self.sync_expecting(0, &[]).has("nothing to do");
    }
}

/// What a run said.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Runs a command that must end with this code.
    #[track_caller]
    pub(crate) fn of(command: &mut Command, code: i32) -> Said {
        let output = run(command);
        assert!(
            output.status.code() == Some(code),
            "expected exit code {code}\n{}",
            describe(command, &output)
        );
        Said::from(&output)
    }

    pub(crate) fn from(output: &Output) -> Said {
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn all(&self) -> String {
        format!("--- stdout ---\n{}--- stderr ---\n{}", self.out, self.err)
    }

    /// It said this, wherever.
    #[track_caller]
    pub(crate) fn has(&self, text: &str) -> &Said {
        let found = self.out.contains(text) || self.err.contains(text);
        assert!(found, "nobody said '{text}':\n{}", self.all());
        self
    }

    #[track_caller]
    pub(crate) fn has_not(&self, text: &str) -> &Said {
        let found = self.out.contains(text) || self.err.contains(text);
        assert!(!found, "somebody said '{text}':\n{}", self.all());
        self
    }

    /// It printed this line to its standard output.
    #[track_caller]
    pub(crate) fn has_line(&self, line: &str) -> &Said {
        assert!(self.out.lines().any(|found| found == line), "no line '{line}':\n{}", self.all());
        self
    }

    /// The objects of `--json`, one in each line.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        let object = |line: &str| {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
            assert!(value.is_object(), "no object: {line}");
            value
        };
        self.out.lines().map(object).collect()
    }

    /// The objects of this type.
    #[track_caller]
    pub(crate) fn objects_of(&self, kind: &str) -> Vec<Value> {
        self.objects().into_iter().filter(|object| object["type"] == kind).collect()
    }

    /// The last object of `--json`.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.objects().pop();
        let last = last.unwrap_or_else(|| panic!("no summary:\n{}", self.all()));
        assert_eq!(last["type"], "summary", "{}", self.all());
        last
    }

    /// Bytes on the line, both ways, as the summary of `--json` counts them.
    #[track_caller]
    pub(crate) fn bytes_on_the_line(&self) -> u64 {
        let summary = self.summary();
        let number = |name: &str| summary[name].as_u64().expect("a number of bytes");
        number("bytes_sent") + number("bytes_received")
    }
}

/// The contents of all files of this name in a root's trash.
pub(crate) fn trashed(root: &Path, path: &str) -> Vec<String> {
    let runs = sorted_entries(&root.join(".psync/trash"));
    let files = runs.into_iter().map(|run| run.join(path)).filter(|file| file.is_file());
    files.map(|file| fs::read_to_string(file).expect("text in the trash")).collect()
}

/// The names in a folder, without `.psync`.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let name = |path: PathBuf| {
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    sorted_entries(folder).into_iter().map(name).filter(|name| name != ".psync").collect()
}

/// The names in a folder that are clash files.
pub(crate) fn clash_names(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.contains("_clash_")).collect()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    Rng::new(seed).bytes(count)
}
