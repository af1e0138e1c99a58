//! What a synchronisation costs over a slow line, in bytes, turns, seconds and memory: psync beside
//! `rsync -az` and Unison, where these are installed, on the same trees in the same run, and beside
//! what it is to cost at most.
//!
//!     cargo bench --bench slow_link
//!     cargo bench --bench slow_link -- --only upgrade,first-contact --rate 1000000 --rtt 200
//!     cargo bench --bench slow_link -- --old RELEASE_1 --new RELEASE_2 --markdown
//!
//! Trees and a database can be given (see `options`); where they are not, small ones are made. One
//! side holds the new state, and the other is brought to it over the line. `PSYNC_BIN` names another
//! psync to measure. The line is emulated by this same program, which the three start in place of
//! ssh as `slow_link line HOST COMMAND...` (see `line`). Cases without a limit of the line measure the disk,
//! too: they go first, nothing that they made is removed before the end (of the Linux tree that is 20 GB), and
//! a machine that has just removed much else needs some minutes first. Read `case` for the table, then `scene`.

mod case;
#[path = "../../tests/common/mod.rs"]
mod common;
mod corpus;
mod database;
mod line;
mod memory;
mod options;
mod program;
mod report;
mod scene;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use case::{Case, Changed, Corpus, SlowLine, Story};
use common::tree::{Kind, differences, snapshot};
use common::{TempDir, set_mode};
use options::{OldAndNew, Options, USAGE};
use program::{Program, psync_knows};
use report::Outcome;
use scene::Measured;

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
        Ok(options) if options.list => {
            for case in &case::ALL {
                println!("{:<30} {}", case.name, case.title);
            }
            ExitCode::SUCCESS
        }
        Ok(options) => {
            run(&options);
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) {
    let programs = installed_programs();
    let cases = cases_to_measure(options);
    let mut bench = Bench::new(options, programs, &cases);
    bench.describe_corpora();
    if options.markdown {
        println!();
        report::print_markdown_head();
    }
    for case in cases {
        let outcome = bench.measure_case(case);
        if options.markdown {
            report::print_markdown_row(&outcome);
        } else {
            report::print_block(&outcome);
        }
    }
}

fn installed_programs() -> Vec<Program> {
    let (installed, missing): (Vec<_>, Vec<_>) =
        Program::ALL.into_iter().partition(|program| program.is_installed());
    for program in missing {
        println!("{} is left out: it cannot be run", program.executable().display());
    }
    installed
}

/// The cases that are asked for, but for those that this psync or these trees do not allow.
fn cases_to_measure(options: &Options) -> Vec<&'static Case> {
    let has_no_store = psync_knows("--no-store");
    let wanted = case::ALL.iter().filter(|case| options.wants(case));
    let mut cases: Vec<&Case> = wanted
        .filter(|case| {
            let obstacle = if case.no_store && !has_no_store {
                "this psync does not know --no-store"
            } else if case.corpus == Corpus::LargeTree && options.large_tree.is_none() {
                "needs --linux-old and --linux-new"
            } else {
                return true;
            };
            println!("{} is left out: {obstacle}", case.name);
            false
        })
        .collect();
    // These before any tree is removed.
    cases.sort_by_key(|case| case.line != SlowLine::UNLIMITED);
    cases
}

struct Bench<'a> {
    options: &'a Options,
    programs: Vec<Program>,
    corpora: Vec<(Corpus, OldAndNew)>,
    /// What was measured once and looks the same in another case.
    known: Vec<(Run, Measured)>,
    rsh: PathBuf,
    /// Where runs without a limit of the line stood, until all is measured: to make files takes several times
    /// as long in the minutes after a large tree was removed, and then it is the disk that is measured.
    kept: Vec<(Corpus, TempDir)>,
    /// Holds the trees that were made, and the script that stands for ssh.
    _temp: TempDir,
}

/// All that a peer of psync sees of a case.
#[derive(PartialEq)]
struct Run {
    program: Program,
    corpus: Corpus,
    story: Story,
    changed: Changed,
    line: SlowLine,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, programs: Vec<Program>, cases: &[&Case]) -> Bench<'a> {
        let temp = TempDir::new();
        let needed = [Corpus::Tree, Corpus::Database, Corpus::LargeTree]
            .into_iter()
            .filter(|corpus| cases.iter().any(|case| case.corpus == *corpus));
        let corpora = needed.map(|corpus| (corpus, provide(corpus, options, &temp))).collect();
        let rsh = write_rsh(&temp);
        Bench { options, programs, corpora, known: Vec::new(), rsh, kept: Vec::new(), _temp: temp }
    }

    fn describe_corpora(&self) {
        for (corpus, trees) in &self.corpora {
            let (old, new) = (snapshot(&trees.old), snapshot(&trees.new));
            let sizes = new.values().filter_map(|entry| match entry.kind {
                Kind::File(content) => Some(content.size),
                _ => None,
            });
            let (files, bytes) =
                sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
            let changed = differences(&old, &new).len();
            let name = match corpus {
                Corpus::Tree => "the tree",
                Corpus::Database => "the database",
                Corpus::LargeTree => "the large tree",
            };
            println!(
                "{name}: {files} files, {bytes} bytes; old and new differ in {changed} entries"
            );
        }
    }

    fn measure_case<'c>(&mut self, case: &'c Case) -> Outcome<'c> {
        let line = self.options.line_for(case);
        let mut runs: Vec<(Program, Vec<Measured>)> = Vec::new();
        for program in self.programs.clone() {
            let with_unison = self.options.with_unison || case.is_quick_with_unison();
            if program != Program::Unison || with_unison {
                runs.push((program, Vec::new()));
            }
        }
        // In turn, so that a busy moment of the machine troubles all of them alike.
        for _ in 0..case.runs() {
            for (program, measured) in &mut runs {
                measured.push(self.measure(case, *program, line));
            }
        }
        let mut outcome = Outcome { case, line, rsync: None, unison: None, psync: None };
        for (program, measured) in runs {
            let median = Some(median(measured));
            match program {
                Program::Rsync => outcome.rsync = median,
                Program::Unison => outcome.unison = median,
                Program::Psync => outcome.psync = median,
            }
        }
        outcome
    }

    fn measure(&mut self, case: &Case, program: Program, line: SlowLine) -> Measured {
        let story = if program.keeps_state() { case.story } else { case.story.without_history() };
        let run = Run { program, corpus: case.corpus, story, changed: case.changed, line };
        let once = program != Program::Psync && case.runs() == 1;
        if let Some((_, known)) = self.known.iter().find(|(known, _)| once && *known == run) {
            return known.clone();
        }
        let (_, trees) = self
            .corpora
            .iter()
            .find(|(corpus, _)| *corpus == case.corpus)
            .expect("what the cases need was provided");
        let keeps = case.line == SlowLine::UNLIMITED;
        let mut before =
            self.kept.iter().rev().filter(|(corpus, _)| keeps && *corpus == case.corpus);
        let ready = before.next().map(|(_, folder)| folder.join("near"));
        let (measured, folder) =
            scene::measure(case, program, line, trees, &self.rsh, ready.as_deref());
        if keeps {
            self.kept.push((case.corpus, folder));
        }
        if once {
            self.known.push((run, measured.clone()));
        }
        measured
    }
}

/// The run of median seconds. One that failed goes before all that did not.
fn median(mut runs: Vec<Measured>) -> Measured {
    if let Some(failed) = runs.iter().position(|run| run.complaint.is_some()) {
        return runs.swap_remove(failed);
    }
    runs.sort_by_key(|run| run.took);
    runs.swap_remove(runs.len() / 2)
}

fn provide(corpus: Corpus, options: &Options, temp: &TempDir) -> OldAndNew {
    match corpus {
        Corpus::Tree => options.tree.clone().unwrap_or_else(|| make_small_trees(temp)),
        Corpus::Database => options.database.clone().unwrap_or_else(|| {
            let (old, new) = (temp.folder("database/old"), temp.folder("database/new"));
            database::make(&old, &new, options.database_size);
            OldAndNew { old, new }
        }),
        Corpus::LargeTree => options.large_tree.clone().expect("its cases were left out"),
    }
}

fn make_small_trees(temp: &TempDir) -> OldAndNew {
    let (old, new) = (temp.folder("old"), temp.folder("new"));
    corpus::copy_small_real_tree(&old);
    corpus::mirror(&old, &new);
    corpus::upgrade(&new, UPGRADE_SEED);
    OldAndNew { old, new }
}

/// This program as a remote shell, in one word: Unison takes no arguments in its `-sshcmd`.
fn write_rsh(temp: &TempDir) -> PathBuf {
    let this = std::env::current_exe().expect("a program knows where it stands");
    let rsh: PathBuf = temp.join("line");
    let script = format!("#!/bin/sh\nexec '{}' line \"$@\"\n", this.display());
    fs::write(&rsh, script).expect("a script can be written");
    set_mode(&rsh, 0o755);
    rsh
}
