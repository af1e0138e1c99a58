//! The command line: what was typed becomes a run, what the run says becomes lines, and how it
//! ended becomes an exit code.

mod apply;
mod args;
mod command;
mod config;
mod conflicts;
mod daemon;
mod demo;
mod dial;
mod diff;
mod endpoint;
mod exit;
mod history;
mod id;
mod json;
mod log;
mod options;
mod output;
mod pair;
mod pairs;
mod past;
mod plan;
mod plan_file;
mod resolve;
mod restore;
mod restricted;
mod run;
mod status;
mod store;
mod subject;
mod summary;
mod terminal;
mod trash;
mod undo;
mod verify;
mod why;
mod words;

use std::ffi::OsString;

pub use exit::Exit;

/// Runs the program with these arguments (the program's own name first) and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Exit {
    match args::parse(arguments) {
        Ok(args::Parsed::Sync(typed)) => pairs::run(&typed),
        Ok(args::Parsed::Serve(server)) => run::serve(&server),
        Ok(args::Parsed::Daemon(options)) => daemon::run(&options),
        Ok(args::Parsed::List(list)) => daemon::list(&list),
        Ok(args::Parsed::Command(command, matches)) => (command.run)(&matches),
        Ok(args::Parsed::Text(text)) => {
            run::print_out(&text);
            Exit::Ok
        }
        Err(text) => {
            let name = if text.starts_with("psync") { "" } else { "psync: " };
            past::complain(&format!("{name}{}", text.trim_end()));
            Exit::Usage
        }
    }
}
