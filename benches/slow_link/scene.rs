//! One run of one program in one case, on fresh copies of the trees.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::case::{Case, Changed, SlowLine, Story};
use crate::common::TempDir;
use crate::common::tree::{Rng, Snapshot, differences, set_mtime, snapshot};
use crate::corpus;
use crate::line::{self, Counts};
use crate::memory::MemoryWatch;
use crate::options::OldAndNew;
use crate::program::Program;

/// How much text one line is edited in.
const EDITED_TEXT: usize = 200_000;

/// Texts and edits are made with this seed.
const EDIT_SEED: u64 = 11;

/// The file of the line's counts in the run that is measured.
const MEASURED: &str = "measured";

/// What one run cost, and whether it did its work.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
    /// Peak resident memory of the program on the near side, in bytes.
    pub(crate) near_memory: u64,
    /// What went wrong, if anything did.
    pub(crate) complaint: Option<String>,
}

impl Measured {
    pub(crate) fn seconds(&self) -> f64 {
        self.took.as_secs_f64()
    }
}

/// Runs the program once, over this line, in place of the case's own. A first copy may be made of a near side
/// that is `ready`, from a run before. Gives the folder back, too.
pub(crate) fn measure(
    case: &Case,
    program: Program,
    line: SlowLine,
    trees: &OldAndNew,
    rsh: &Path,
    ready: Option<&Path>,
) -> (Measured, TempDir) {
    let scene = Scene::set(case, program, trees, rsh, ready);
    let wanted = snapshot(scene.changed());
    // What the copies left to be written is not the program's to wait for.
    rustix::fs::sync();
    let ran = scene.run(line, MEASURED);
    let complaint = ran.complaint().or_else(|| scene.compare_with(&wanted));
    let measured = Measured {
        counts: Counts::read_when_written(&scene.folder.join(MEASURED)),
        took: ran.took,
        near_memory: ran.memory,
        complaint,
    };
    (measured, scene.folder)
}

struct Scene<'a> {
    case: &'a Case,
    program: Program,
    rsh: &'a Path,
    folder: TempDir,
    near: PathBuf,
    far: PathBuf,
}

impl Scene<'_> {
    fn set<'a>(
        case: &'a Case,
        program: Program,
        trees: &OldAndNew,
        rsh: &'a Path,
        ready: Option<&Path>,
    ) -> Scene<'a> {
        let folder = TempDir::new();
        let (near, far) = (folder.folder("near"), folder.folder("far"));
        let scene = Scene { case, program, rsh, folder, near, far };
        let (changed, other) = (scene.changed(), scene.other());
        match case.story {
            Story::Upgrade => {
                scene.agree_on(&trees.old);
                corpus::mirror(&trees.new, changed);
            }
            Story::FirstContact => {
                corpus::mirror(&trees.new, changed);
                corpus::mirror(&trees.old, other);
            }
            Story::Equal => {
                corpus::mirror(&trees.new, changed);
                corpus::mirror(&trees.new, other);
            }
            Story::Nothing => scene.agree_on(&trees.new),
            Story::Rename => {
                scene.agree_on(&trees.new);
                rename_fullest_folder(changed);
            }
            Story::RenameAndEdit(count) => {
                scene.agree_on(&trees.new);
                let renamed = rename_fullest_folder(changed);
                let mut rng = Rng::new(EDIT_SEED);
                for text in corpus::some_texts(&renamed, count) {
                    corpus::edit_a_line(&text, &mut rng);
                }
            }
            Story::EditLine => {
                let mut rng = Rng::new(EDIT_SEED);
                let text = scene.folder.join("text");
                fs::write(&text, rng.text(EDITED_TEXT)).expect("a text can be written");
                set_mtime(&text, corpus::RELEASED_NS);
                scene.agree_on_with(&trees.new, &text);
                corpus::edit_a_line(&changed.join("text"), &mut rng);
            }
            Story::FirstCopy => match ready {
                Some(tree) => take_over(tree, changed),
                None => corpus::mirror(&trees.new, changed),
            },
        }
        scene
    }

    fn changed(&self) -> &Path {
        match self.case.changed {
            Changed::Near => &self.near,
            Changed::Far => &self.far,
        }
    }

    fn other(&self) -> &Path {
        match self.case.changed {
            Changed::Near => &self.far,
            Changed::Far => &self.near,
        }
    }

    fn agree_on(&self, tree: &Path) {
        corpus::mirror(tree, &self.near);
        corpus::mirror(tree, &self.far);
        self.agree();
    }

    /// Agrees on a tree and one more file in it.
    fn agree_on_with(&self, tree: &Path, file: &Path) {
        for side in [&self.near, &self.far] {
            corpus::mirror(tree, side);
            corpus::copy_file(file, &side.join(file.file_name().expect("a file has a name")));
        }
        self.agree();
    }

    fn agree(&self) {
        if !self.program.keeps_state() {
            return;
        }
        if let Some(complaint) = self.run(SlowLine::UNLIMITED, "agreed").complaint() {
            let name = self.program.name_in(self.case);
            eprintln!("  {name}: the first run, not measured: {complaint}");
        }
    }

    /// Runs the program; the line's counts go to the file `stats` in the scene's folder.
    fn run(&self, line: SlowLine, stats: &str) -> Ran {
        let said = self.folder.join("said");
        let file = File::create(&said).expect("a file can be made");
        let mut command = self.program.command(self.case, self.rsh, &self.near, &self.far);
        command
            .env("HOME", self.folder.path())
            .env("UNISON", self.folder.join("unison"))
            .env(line::RATE, line.rate.to_string())
            .env(line::RTT_MS, line.rtt_ms.to_string())
            .env(line::STATS, self.folder.join(stats))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let started = Instant::now();
        let (status, memory) = run_watched(&mut command);
        let took = started.elapsed();
        let said = fs::read(&said).unwrap_or_default();
        Ran { status, took, memory, said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// Both sides must hold what the changed side held before.
    fn compare_with(&self, wanted: &Snapshot) -> Option<String> {
        let wanted = self.as_kept(wanted.clone());
        [("near", &self.near), ("far", &self.far)].into_iter().find_map(|(side, root)| {
            let found = differences(&wanted, &self.as_kept(snapshot(root)));
            let first = found.first()?;
            Some(format!("{side} DIFFERS in {} entries; {first}", found.len()))
        })
    }

    /// Unison keeps times as floating point numbers, and loses a few hundred nanoseconds.
    fn as_kept(&self, mut tree: Snapshot) -> Snapshot {
        if self.program == Program::Unison {
            for entry in tree.values_mut() {
                entry.mtime_ns = entry.mtime_ns.div_euclid(1_000_000_000);
            }
        }
        tree
    }
}

/// Moves a tree, without what psync remembers of it: that stays where it was, as nothing is removed.
fn take_over(tree: &Path, to: &Path) {
    let state = tree.join(".psync");
    if state.exists() {
        fs::rename(&state, tree.with_extension("state")).expect("what is known can be put aside");
    }
    fs::remove_dir(to).expect("nothing is there yet");
    fs::rename(tree, to).expect("a tree can be moved");
}

fn rename_fullest_folder(tree: &Path) -> PathBuf {
    let folder = corpus::fullest_folder(tree);
    let renamed = folder.with_file_name("renamed");
    fs::rename(&folder, &renamed).expect("a folder can be renamed");
    renamed
}

struct Ran {
    status: ExitStatus,
    took: Duration,
    memory: u64,
    /// To its standard error.
    said: String,
}

impl Ran {
    fn complaint(&self) -> Option<String> {
        let last = self.said.lines().last().unwrap_or_default();
        (!self.status.success()).then(|| format!("{}: {last}", self.status))
    }
}

fn run_watched(command: &mut Command) -> (ExitStatus, u64) {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let watch = MemoryWatch::start(child.id());
    let status = child.wait().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    (status, watch.stop())
}
