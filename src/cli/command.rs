//! The commands besides a sync: each is a word that stands first on the command line, and has a
//! module of its own that names its arguments and runs it.

use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::exit::Exit;
use super::{
    apply, config, conflicts, demo, diff, history, id, log, pair, plan, resolve, restore, status,
    store, trash, undo, verify, why,
};

/// A command. A directory of the same name is written with a path, as in `./log`.
#[derive(Debug)]
pub(super) struct Subcommand {
    /// The word.
    pub(super) name: &'static str,
    /// What it does, in a line.
    pub(super) about: &'static str,
    /// Adds its arguments.
    pub(super) arguments: fn(Command) -> Command,
    /// Runs it, says what came of it, and how it ended.
    pub(super) run: fn(&ArgMatches) -> Exit,
}

/// All commands, in the order in which the help lists them.
pub(super) const COMMANDS: &[Subcommand] = &[
    plan::COMMAND,
    apply::COMMAND,
    verify::COMMAND,
    why::COMMAND,
    status::COMMAND,
    conflicts::COMMAND,
    diff::COMMAND,
    resolve::COMMAND,
    log::COMMAND,
    history::COMMAND,
    restore::COMMAND,
    trash::COMMAND,
    undo::COMMAND,
    config::COMMAND,
    store::COMMAND,
    id::COMMAND,
    pair::COMMAND,
    demo::COMMAND,
];

/// The command that these arguments (the program's name first) begin with.
pub(super) fn named(arguments: &[OsString]) -> Option<&'static Subcommand> {
    let word = arguments.get(1)?;
    COMMANDS.iter().find(|command| word == command.name)
}

impl Subcommand {
    /// Understands the arguments that follow the word; the error has the text for the person.
    pub(super) fn parse(&self, arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
        let name = format!("psync {}", self.name);
        let command = Command::new(self.name).bin_name(name).about(self.about);
        (self.arguments)(command).try_get_matches_from(arguments.get(1..).unwrap_or_default())
    }
}

/// The lines about commands in the help of psync itself.
pub(super) fn list() -> String {
    let lines = COMMANDS.iter().map(|command| format!("  {:<10}{}\n", command.name, command.about));
    lines.collect()
}
