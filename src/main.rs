//! The pystap command: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use pystap::cli::Cli;

fn main() -> ExitCode {
    ExitCode::from(pystap::command::run(Cli::parse()))
}
