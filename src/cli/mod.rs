//! The command line: what was typed becomes a run, what the run says becomes lines, and how it
//! ended becomes an exit code.

mod args;
mod demo;
mod endpoint;
mod exit;
mod json;
mod run;
mod store;
mod summary;
mod terminal;

use std::ffi::OsString;
use std::io::Write;

pub use exit::Exit;

/// Runs the program with these arguments (the program's own name first) and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Exit {
    match args::parse(arguments) {
        Ok(args::Parsed::Sync(options)) => run::run(&options),
        Ok(args::Parsed::Serve(server)) => run::serve(&server),
        Ok(args::Parsed::Demo) => demo::demo(),
        Ok(args::Parsed::Store(command)) => store::store(&command),
        Ok(args::Parsed::Text(text)) => {
            run::print_out(&text);
            Exit::Ok
        }
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
            Exit::Usage
        }
    }
}
