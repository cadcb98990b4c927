//! `pystap completions` and `pystap man`: what is generated from the definition of the command line.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use rustix::fs::Mode;

use super::print;
use crate::cli::Cli;
use crate::console::Exit;
use crate::failure::Failure;
use crate::files::writing::Draft;
use crate::text::Foreign;

/// Everybody may read a manual.
const PUBLIC: Mode = Mode::from_raw_mode(0o644);

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pystap", &mut script);
    print::data(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page of pystap itself, or writes the pages of all commands.
pub(super) fn man(directory: Option<&Path>) -> Result<Exit, Failure> {
    match directory {
        Some(directory) => pages(directory).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!(
                    "manual pages cannot be written to {} ({error}), so there are none; name a directory that exists and is writable",
                    Foreign::path(directory)
                ),
            )
        })?,
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page)?;
            print::data(&page)?;
        }
    }
    Ok(Exit::Done)
}

/// Writes the page of every command.
fn pages(directory: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut left = vec![command];
    while let Some(command) = left.pop() {
        left.extend(
            command
                .get_subcommands()
                .filter(|it| !it.is_hide_set())
                .cloned(),
        );
        let man = Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page)?;
        let path = directory.join(man.get_filename());
        let Some(mut draft) = Draft::new(&path, PUBLIC)? else {
            return Err(io::Error::other(format!(
                "{} is there already, and is no file that could be replaced",
                man.get_filename()
            )));
        };
        draft.write_all(&page)?;
        draft.put()?;
    }
    Ok(())
}
