//! `psync apply FILE`: carries out a plan that `psync plan` wrote, path by path, where both sides
//! still are as it saw them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::command::Subcommand;
use super::exit::Exit;
use super::output::Output;
use super::plan::sync_options;
use super::plan_file::PlanFile;
use super::run;
use super::subject::Failure;
use crate::sync::PlanUse;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "apply",
    about: "Carry out such a plan, where nothing has changed since",
    arguments,
    run: apply,
};

fn arguments(command: Command) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    command
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The plan"),
        )
        .arg(flag("dry-run", "Show what would be done, and do nothing").short('n'))
        .arg(flag("quiet", "Say nothing but problems and conflicts").short('q'))
        .arg(flag("json", "Say everything as one JSON object a line"))
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .action(ArgAction::Count)
                .help("Name each action; twice: say why"),
        )
}

fn apply(matches: &ArgMatches) -> Exit {
    carry_out(matches).unwrap_or_else(|failure| failure.told(matches.get_flag("json")))
}

fn carry_out(matches: &ArgMatches) -> Result<Exit, Failure> {
    let path = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    let named = |text: String| format!("{}: {text}", path.display());
    let bytes = fs::read(&path)
        .map_err(|error| Failure::new(Exit::FileIo, named(format!("cannot be read: {error}"))))?;
    let PlanFile { directory, words, plan, .. } =
        PlanFile::parse(&bytes).map_err(|text| Failure::new(Exit::Usage, named(text)))?;
    // What was typed there was meant as seen from there.
    std::env::set_current_dir(&directory).map_err(|error| {
        let text =
            format!("{}: the directory in which the plan was made: {error}", directory.display());
        Failure::new(Exit::FileIo, text)
    })?;
    let mut options = sync_options(&words)?;
    options.dry_run = matches.get_flag("dry-run");
    options.quiet |= matches.get_flag("quiet");
    options.json |= matches.get_flag("json");
    options.verbosity = options.verbosity.max(matches.get_count("verbose"));
    options.plan = PlanUse::Only(Arc::new(plan));
    Ok(run::run(&options, Output::SCREEN).exit)
}
