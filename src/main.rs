//! The program `psync`: a thin shell around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(psync::cli::main(std::env::args_os()).code())
}
