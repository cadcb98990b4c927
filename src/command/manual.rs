//! `pystap completions` and `pystap man`: what is generated from the definition of the command line.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use crate::cli::Cli;
use crate::console::Exit;

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pystap", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page of pystap itself, or writes the pages of all commands.
pub(super) fn man(directory: Option<&Path>) -> Result<Exit, Failure> {
    match directory {
        Some(directory) => clap_mangen::generate_to(Cli::command(), directory).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!(
                    "manual pages cannot be written to {} ({error}), so there are none; name a directory that exists and is writable",
                    directory.display()
                ),
            )
        })?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            std::io::stdout().lock().write_all(&page)?;
        }
    }
    Ok(Exit::Done)
}
