//! The pystap command: parse, run, exit code.

use std::process::ExitCode;

use pystap::cli::Cli;

fn main() -> ExitCode {
    ExitCode::from(match Cli::typed(std::env::args_os()) {
        Ok(cli) => pystap::command::run(cli),
        Err(error) => pystap::command::explain(&error),
    })
}
