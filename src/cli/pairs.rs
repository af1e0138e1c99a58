//! Starts what was typed: a run of two sides, of a named pair, or of all pairs.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use super::args::{Typed, What};
use super::config;
use super::exit::Exit;
use super::options::Options;
use super::output::{Output, open_log};
use super::past::complain;
use super::run::{self, Ended, print_out, state_home};
use super::subject::Failure;
use crate::settings::{Machine, SettingsError};

/// Runs what was typed, and says how it ended.
pub(super) fn run(typed: &Typed) -> Exit {
    try_run(typed).unwrap_or_else(|failure| failure.told(typed.json))
}

fn try_run(typed: &Typed) -> Result<Exit, Failure> {
    let machine = config::machine()?;
    match &typed.what {
        What::Sides(first, second) => {
            let options = Options::for_sides(typed, &machine, first, second)?;
            Ok(run::run(&options, Output::SCREEN).exit)
        }
        What::Pair(name) => {
            let options = Options::for_pair(typed, &machine, name).map_err(|error| {
                let failure = Failure::from(error);
                match machine.pairs().iter().any(|(known, _)| known == name) {
                    true => failure,
                    // It may also be a directory whose other side was forgotten.
                    false => Failure::new(
                        failure.exit,
                        format!(
                            "{}\npsync needs a pair or two sides; try 'psync --help'",
                            failure.text
                        ),
                    ),
                }
            })?;
            Ok(logged(&machine, &options, name, true).exit)
        }
        What::All => all(typed, &machine),
    }
}

/// Runs every pair, whatever becomes of the others. The worst exit code counts.
fn all(typed: &Typed, machine: &Machine) -> Result<Exit, Failure> {
    let names: Vec<&str> = machine.pairs().into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        let text = "no pairs are named; [pair.NAME] in psync.toml names one";
        return Err(Failure::new(Exit::Usage, text));
    }
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    // Whoever wants to see more than results sees the runs themselves.
    let seen = typed.json
        || typed.dry_run
        || typed.itemize
        || typed.stats
        || typed.progress
        || typed.verbosity > 0;
    let mut worst = Exit::Ok;
    let mut sound = 0;
    for name in &names {
        let ended = match Options::for_pair(typed, machine, name) {
            Ok(options) => logged(machine, &options, name, seen),
            Err(error) => {
                let failure = Failure::from(error);
                Ended { exit: failure.exit, result: failure.text, again: false }
            }
        };
        tell(typed, name, width, &ended);
        sound += usize::from(ended.exit == Exit::Ok);
        worst = worst.worse(ended.exit);
    }
    if !typed.json && !typed.quiet {
        let count = names.len();
        print_out(&match sound == count {
            true => format!("{count} pairs, all done\n"),
            false => format!("{count} pairs, {sound} done; exit code {}\n", worst.code()),
        });
    }
    Ok(worst)
}

/// The result of one pair of several.
fn tell(typed: &Typed, name: &str, width: usize, ended: &Ended) {
    let Ended { exit, result, .. } = ended;
    if typed.json {
        let object = json!({"type": "pair", "pair": name, "exit": exit.code(), "text": result});
        return print_out(&format!("{object}\n"));
    }
    match exit {
        Exit::Ok if typed.quiet => {}
        Exit::Ok => print_out(&format!("{name:width$}  {result}\n")),
        exit => {
            let line = format!("{name:width$}  exit code {}: {result}", exit.code());
            match typed.quiet {
                true => complain(&line),
                false => print_out(&format!("{line}\n")),
            }
        }
    }
}

/// Runs a pair, and writes to its log what it says.
fn logged(machine: &Machine, options: &Options, name: &str, seen: bool) -> Ended {
    let log = log_path(machine, name).map(|path| (open_log(&path), path));
    let output = |log: File| Output::to_log(log, seen);
    let (output, mut end) = match log {
        Some((Ok(mut log), _)) => {
            let _ = writeln!(log, "== {} psync {name}", now());
            let end = log.try_clone().ok();
            (output(log), end)
        }
        Some((Err(error), path)) => {
            complain(&format!(
                "note: {name}: {}: the log cannot be written: {error}",
                path.display()
            ));
            (Output::SCREEN, None)
        }
        // Without a home there is nowhere to write to.
        None => (Output::SCREEN, None),
    };
    // What nobody sees can say more.
    let verbosity = if seen { options.verbosity } else { options.verbosity.max(1) };
    let options = Options { verbosity, quiet: options.quiet && seen, ..options.clone() };
    let ended = run::run(&options, output);
    if let Some(end) = &mut end {
        let _ = writeln!(end, "== {} exit code {}", now(), ended.exit.code());
    }
    ended
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Where the log of a pair is: as set, else `logs/NAME.log` where state lives.
fn log_path(machine: &Machine, name: &str) -> Option<PathBuf> {
    let set = machine.pair(name).ok().and_then(|sides| sides.log);
    set.or_else(|| Some(state_home(None).user?.join("psync/logs").join(format!("{name}.log"))))
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        let exit = if error.is_in_file() { Exit::FileIo } else { Exit::Usage };
        Failure::new(exit, error.to_string())
    }
}
