//! `psync plan A B -o FILE`: what a sync would do now, shown and written to a file that
//! `psync apply` carries out.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use jiff::Zoned;
use jiff::tz::TimeZone;

use super::args::{self, Parsed, What};
use super::command::Subcommand;
use super::config;
use super::endpoint::Endpoint;
use super::exit::Exit;
use super::options::Options;
use super::output::Output;
use super::plan_file::PlanFile;
use super::run;
use super::subject::Failure;
use super::words::Words;
use crate::sync::{Outcome, PlanUse};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "plan",
    about: "Write down what a sync would do, for psync apply",
    arguments,
    run: plan,
};

/// Everything is taken word by word: the options of a sync stay as they were typed, for the file.
fn arguments(command: Command) -> Command {
    command.override_usage("psync plan [OPTIONS OF A SYNC] A B -o FILE\n       psync plan [OPTIONS OF A SYNC] PAIR -o FILE").arg(
        Arg::new("words")
            .value_name("A B -o FILE")
            .num_args(1..)
            .required(true)
            .allow_hyphen_values(true)
            .trailing_var_arg(true)
            .value_parser(value_parser!(OsString))
            .help("Sides, options of a sync, and the file (-: stdout)"),
    )
}

fn plan(matches: &ArgMatches) -> Exit {
    make(matches).unwrap_or_else(|failure| failure.told(false))
}

fn make(matches: &ArgMatches) -> Result<Exit, Failure> {
    let typed = matches.get_many("words").into_iter().flatten().map(OsString::clone).collect();
    let mut words = Words(typed);
    let missing = "where shall the plan be written? Say --output FILE (or -o FILE)";
    let output = words.take_value("--output", Some("-o"))?;
    let output = PathBuf::from(output.ok_or_else(|| Failure::new(Exit::Usage, missing))?);
    let words = words.0;
    let mut options = sync_options(&words)?;
    let directory = std::env::current_dir()
        .map_err(|error| Failure::new(Exit::FileIo, format!("the current directory: {error}")))?;
    let to_standard = output.as_os_str() == "-";
    options.dry_run = true;
    options.quiet |= to_standard;
    options.plan = PlanUse::Note;
    let made = Zoned::now().with_time_zone(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ");
    let made = made.to_string();
    let text = RefCell::new(None);
    let note = |outcome: &Outcome| {
        let file = outcome.plan.as_ref().map(|plan| PlanFile {
            directory: directory.clone(),
            words: words.clone(),
            sides: [Endpoint::Local(options.local.clone()), options.other.clone()]
                .map(|side| side.to_string()),
            made: made.clone(),
            plan: plan.clone(),
        });
        *text.borrow_mut() = file.map(|file| file.to_text(&outcome.actions));
    };
    let exit = run::run_and(&options, Output::SCREEN, &note).exit;
    let Some(text) = text.into_inner() else { return Ok(exit) };
    if to_standard {
        run::print_out(&text);
        return Ok(exit);
    }
    fs::write(&output, &text).map_err(|error| {
        let text = format!("{}: the plan cannot be written: {error}", output.display());
        Failure::new(Exit::FileIo, text)
    })?;
    if !options.quiet && !options.json {
        let output = output.display();
        run::print_out(&format!("the plan is in {output}; psync apply {output} carries it out\n"));
    }
    Ok(exit)
}

/// The options of the sync that these words ask for.
pub(super) fn sync_options(words: &[OsString]) -> Result<Options, Failure> {
    let program = std::iter::once(OsString::from("psync"));
    let typed = match args::parse(program.chain(words.iter().cloned())) {
        Ok(Parsed::Sync(typed)) => typed,
        Ok(_) => {
            let text = "two sides (or a pair) and the options of a sync are needed";
            return Err(Failure::new(Exit::Usage, text));
        }
        Err(text) => return Err(Failure::new(Exit::Usage, text.trim_end())),
    };
    let machine = config::machine()?;
    match &typed.what {
        What::Sides(first, second) => Ok(Options::for_sides(&typed, &machine, first, second)?),
        What::Pair(name) => Ok(Options::for_pair(&typed, &machine, name)?),
        What::All => Err(Failure::new(Exit::Usage, "this is about one pair at a time, not --all")),
    }
}
