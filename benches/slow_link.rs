//! What a synchronisation costs over a slow line, in bytes, turns and seconds: psync beside
//! `rsync -az` and Unison, where these are installed, on the same trees in the same run.
//!
//!     cargo bench --bench slow_link
//!     cargo bench --bench slow_link -- --only upgrade --rate 1000000 --rtt 200
//!     cargo bench --bench slow_link -- --old RELEASE_1 --new RELEASE_2
//!
//! The near side holds the new state, the far side is brought to it over the line. `--old` and
//! `--new` take any two trees in place of the small one that is made of the project's dependencies.
//! `PSYNC_BIN` names another psync to measure. The line is emulated by this same program, which the
//! three start in place of ssh as `slow_link line HOST COMMAND...` (see the module `line`).

#[path = "../tests/common/mod.rs"]
mod common;
mod corpus;
mod line;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::tree::{Kind, Snapshot, differences, snapshot};
use common::{TempDir, set_mode};
use line::Counts;

const USAGE: &str = "usage: cargo bench --bench slow_link -- [--old DIR --new DIR] \
                     [--rate BITS_PER_SECOND] [--rtt MILLISECONDS] [--only CASE]\n\
                     cases: upgrade, first-contact, nothing, rename, first-copy";

/// The release that the small tree is upgraded to is made with this seed.
const UPGRADE_SEED: u64 = 5;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "line") {
        std::process::exit(line::run_as_remote_shell(&arguments[1..]));
    }
    // `cargo bench` passes `--bench`; `cargo test` runs benches too, and must not wait for this one.
    let Some(at) = arguments.iter().position(|argument| argument == "--bench") else {
        println!("slow_link measures only under `cargo bench`");
        return ExitCode::SUCCESS;
    };
    arguments.remove(at);
    match Options::parse(&arguments) {
        Ok(options) => {
            Bench::new(options).run();
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Options {
    old_and_new: Option<(PathBuf, PathBuf)>,
    rate: Option<u64>,
    rtt_ms: Option<u64>,
    only: Option<Case>,
}

impl Options {
    fn parse(arguments: &[OsString]) -> Result<Options, String> {
        let mut options = Options::default();
        let (mut old, mut new) = (None, None);
        for pair in arguments.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("{} needs a value", pair[0].display()));
            };
            let number = || value.to_str().and_then(|text| text.parse().ok()).ok_or("not a number");
            match name.to_str() {
                Some("--old") => old = Some(PathBuf::from(value)),
                Some("--new") => new = Some(PathBuf::from(value)),
                Some("--rate") => options.rate = Some(number()?),
                Some("--rtt") => options.rtt_ms = Some(number()?),
                Some("--only") => options.only = Some(Case::named(value)?),
                _ => return Err(format!("unknown option {}", name.display())),
            }
        }
        options.old_and_new = match (old, new) {
            (Some(old), Some(new)) => Some((old, new)),
            (None, None) => None,
            _ => return Err("--old and --new go together".to_owned()),
        };
        Ok(options)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Upgrade,
    FirstContact,
    Nothing,
    Rename,
    FirstCopy,
}

impl Case {
    const ALL: [Case; 5] =
        [Case::Upgrade, Case::FirstContact, Case::Nothing, Case::Rename, Case::FirstCopy];

    fn named(name: &OsString) -> Result<Case, String> {
        let found = Case::ALL.into_iter().find(|case| name == case.name());
        found.ok_or_else(|| format!("unknown case {}", name.display()))
    }

    fn name(self) -> &'static str {
        match self {
            Case::Upgrade => "upgrade",
            Case::FirstContact => "first-contact",
            Case::Nothing => "nothing",
            Case::Rename => "rename",
            Case::FirstCopy => "first-copy",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Case::Upgrade => "a tree upgraded, both sides agreed before",
            Case::FirstContact => "a tree upgraded, no history on either side",
            Case::Nothing => "nothing to do",
            Case::Rename => "a folder renamed",
            Case::FirstCopy => "a first copy into an empty folder",
        }
    }

    fn usual_line(self) -> SlowLine {
        match self {
            Case::FirstCopy => SlowLine { rate: 10_000_000, rtt_ms: 100 },
            _ => SlowLine { rate: 1_000_000, rtt_ms: 200 },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Rsync,
    Unison,
    Psync,
}

impl Program {
    /// rsync first: psync is measured against it.
    const ALL: [Program; 3] = [Program::Rsync, Program::Unison, Program::Psync];

    fn name(self) -> &'static str {
        match self {
            Program::Rsync => "rsync -az",
            Program::Unison => "unison",
            Program::Psync => "psync",
        }
    }

    fn executable(self) -> PathBuf {
        match self {
            Program::Rsync => "rsync".into(),
            Program::Unison => "unison".into(),
            Program::Psync => {
                std::env::var_os("PSYNC_BIN").map_or(common::PSYNC.into(), PathBuf::from)
            }
        }
    }

    fn is_installed(self) -> bool {
        let version = if self == Program::Unison { "-version" } else { "--version" };
        Command::new(self.executable()).arg(version).stdout(Stdio::null()).status().is_ok()
    }

    /// The command that brings `far` to the state of `near`.
    fn command(self, case: Case, rsh: &Path, near: &Path, far: &Path) -> Command {
        let mut command = Command::new(self.executable());
        let remote = format!("host:{}", far.display());
        match self {
            Program::Rsync => {
                command.args(["-az", "--delete", "--rsync-path", "rsync", "-e"]).arg(rsh);
                command.arg(near.join("")).arg(remote);
            }
            Program::Unison => {
                command.args(["-ui", "text", "-batch", "-times", "-confirmbigdel=false"]);
                command.arg("-sshcmd").arg(rsh).args(["-servercmd", "unison"]);
                if case == Case::FirstContact {
                    command.arg("-force").arg(near);
                }
                command.arg(near).arg(format!("ssh://host/{}", far.display()));
            }
            Program::Psync => {
                command.arg("--rsh").arg(rsh).arg("--psync-path").arg(self.executable());
                if case == Case::FirstContact {
                    command.args(["--mirror", "push"]).arg(near).arg(remote);
                } else {
                    command.arg(remote).arg(near);
                }
            }
        }
        command
    }

    /// rsync keeps no state that two sides could agree on.
    fn keeps_state(self) -> bool {
        self != Program::Rsync
    }
}

#[derive(Clone, Copy)]
struct SlowLine {
    rate: u64,
    rtt_ms: u64,
}

struct Bench {
    options: Options,
    /// Holds the trees and the script that are named below.
    _temp: TempDir,
    old: PathBuf,
    new: PathBuf,
    rsh: PathBuf,
}

/// What one run cost, and whether it did its work.
struct Measured {
    counts: Counts,
    took: Duration,
    verdict: String,
}

impl Bench {
    fn new(options: Options) -> Bench {
        let temp = TempDir::new();
        let (old, new) = options.old_and_new.clone().unwrap_or_else(|| make_small_trees(&temp));
        let rsh = write_rsh(&temp);
        Bench { options, _temp: temp, old, new, rsh }
    }

    fn run(&self) {
        self.describe_trees();
        let (installed, missing): (Vec<_>, Vec<_>) =
            Program::ALL.into_iter().partition(|program| program.is_installed());
        for program in missing {
            println!(
                "{} is left out: {} cannot be run",
                program.name(),
                program.executable().display()
            );
        }
        for case in Case::ALL {
            if self.options.only.is_none_or(|only| only == case) {
                self.measure_case(case, &installed);
            }
        }
    }

    fn describe_trees(&self) {
        let (old, new) = (snapshot(&self.old), snapshot(&self.new));
        let sizes = new.values().filter_map(|entry| match entry.kind {
            Kind::File(content) => Some(content.size),
            _ => None,
        });
        let (files, bytes) = sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
        let changed = differences(&old, &new).len();
        println!("the tree: {files} files, {bytes} bytes; old and new differ in {changed} entries");
    }

    fn measure_case(&self, case: Case, programs: &[Program]) {
        let line = self.line_for(case);
        let rate = line.rate as f64 / 1e6;
        println!("\n{}: {} ({rate} Mbit/s, {} ms)", case.name(), case.title(), line.rtt_ms);
        println!(
            "  {:<10} {:>12} {:>12} {:>7} {:>9} {:>9} {:>9}  trees after",
            "program", "bytes out", "bytes back", "turns", "seconds", "x bytes", "x seconds"
        );
        let mut rsync = None;
        for program in programs {
            let measured = self.measure(case, *program, line);
            println!("{}", row(*program, &measured, rsync.as_ref()));
            if *program == Program::Rsync {
                rsync = Some(measured);
            }
        }
    }

    fn line_for(&self, case: Case) -> SlowLine {
        let usual = case.usual_line();
        SlowLine {
            rate: self.options.rate.unwrap_or(usual.rate),
            rtt_ms: self.options.rtt_ms.unwrap_or(usual.rtt_ms),
        }
    }

    fn measure(&self, case: Case, program: Program, line: SlowLine) -> Measured {
        let scene = Scene::set(self, case, program);
        let wanted = snapshot(&scene.near);
        let started = Instant::now();
        let complaint = scene.run(self, line);
        let took = started.elapsed();
        let verdict = match complaint {
            Some(complaint) => complaint,
            None => scene.compare_with(&wanted),
        };
        Measured { counts: Counts::read(&scene.stats), took, verdict }
    }
}

fn make_small_trees(temp: &TempDir) -> (PathBuf, PathBuf) {
    let (old, new) = (temp.folder("old"), temp.folder("new"));
    corpus::copy_small_real_tree(&old);
    corpus::mirror(&old, &new);
    corpus::upgrade(&new, UPGRADE_SEED);
    (old, new)
}

/// This program as a remote shell, in one word: Unison takes no arguments in its `-sshcmd`.
fn write_rsh(temp: &TempDir) -> PathBuf {
    let this = std::env::current_exe().expect("a program knows where it stands");
    let rsh = temp.join("line");
    let script = format!("#!/bin/sh\nexec '{}' line \"$@\"\n", this.display());
    fs::write(&rsh, script).expect("a script can be written");
    set_mode(&rsh, 0o755);
    rsh
}

/// Fresh copies of the trees for one program in one case.
struct Scene {
    case: Case,
    program: Program,
    folder: TempDir,
    near: PathBuf,
    far: PathBuf,
    stats: PathBuf,
}

impl Scene {
    fn set(bench: &Bench, case: Case, program: Program) -> Scene {
        let folder = TempDir::new();
        let (near, far) = (folder.folder("near"), folder.folder("far"));
        let stats = folder.join("stats");
        let scene = Scene { case, program, folder, near, far, stats };
        let (old, new) = (&bench.old, &bench.new);
        match case {
            Case::Upgrade => {
                scene.agree_on(old, bench);
                corpus::mirror(new, &scene.near);
            }
            Case::FirstContact => {
                corpus::mirror(new, &scene.near);
                corpus::mirror(old, &scene.far);
            }
            Case::Nothing => scene.agree_on(new, bench),
            Case::Rename => {
                scene.agree_on(new, bench);
                let folder = corpus::fullest_folder(&scene.near);
                let renamed = folder.with_file_name("renamed");
                fs::rename(&folder, renamed).expect("a folder can be renamed");
            }
            Case::FirstCopy => corpus::mirror(new, &scene.near),
        }
        scene
    }

    fn agree_on(&self, tree: &Path, bench: &Bench) {
        corpus::mirror(tree, &self.near);
        corpus::mirror(tree, &self.far);
        if self.program.keeps_state() {
            let complaint = self.run(bench, SlowLine { rate: 0, rtt_ms: 0 });
            if let Some(complaint) = complaint {
                println!("  {}: the first run, not measured: {complaint}", self.program.name());
            }
        }
        let _ = fs::remove_file(&self.stats);
    }

    /// Runs the program once; says what went wrong, if anything did.
    fn run(&self, bench: &Bench, line: SlowLine) -> Option<String> {
        let mut command = self.program.command(self.case, &bench.rsh, &self.near, &self.far);
        let output = command
            .env("HOME", self.folder.path())
            .env("UNISON", self.folder.join("unison"))
            .env(line::RATE, line.rate.to_string())
            .env(line::RTT_MS, line.rtt_ms.to_string())
            .env(line::STATS, &self.stats)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        if output.status.success() {
            return None;
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().last().unwrap_or_default();
        Some(format!("{}: {last}", output.status))
    }

    /// Both sides must hold what the near side held before.
    fn compare_with(&self, wanted: &Snapshot) -> String {
        for (side, root) in [("near", &self.near), ("far", &self.far)] {
            let found = differences(wanted, &snapshot(root));
            if let Some(first) = found.first() {
                return format!("{side} DIFFERS in {} entries; {first}", found.len());
            }
        }
        "equal".to_owned()
    }
}

fn row(program: Program, measured: &Measured, rsync: Option<&Measured>) -> String {
    let Measured { counts, took, verdict } = measured;
    let seconds = took.as_secs_f64();
    let ratio = |own: f64, of: fn(&Measured) -> f64| match rsync {
        Some(rsync) => format!("{:.3}", own / of(rsync)),
        None => String::new(),
    };
    format!(
        "  {:<10} {:>12} {:>12} {:>7} {seconds:>9.2} {:>9} {:>9}  {verdict}",
        program.name(),
        counts.out,
        counts.back,
        counts.turns,
        ratio(counts.bytes() as f64, |rsync| rsync.counts.bytes() as f64),
        ratio(seconds, |rsync| rsync.took.as_secs_f64()),
    )
}
