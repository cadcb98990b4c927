//! The pystap command: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pystap::cli::Cli;

fn main() -> ExitCode {
    ExitCode::from(match Cli::try_parse() {
        Ok(cli) => pystap::command::run(cli),
        Err(error) => pystap::command::explain(&error),
    })
}
