//! `pystap completions` and `pystap man`: what is generated from the definition of the command line.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use rustix::fs::Mode;

use super::print;
use crate::cli::{Cli, examples};
use crate::console::Exit;
use crate::failure::Failure;
use crate::files::writing::Draft;
use crate::text::Foreign;

/// Everybody may read a manual.
const PUBLIC: Mode = Mode::from_raw_mode(0o644);

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::whole_command(), "pystap", &mut script);
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
            print::data(&page(&Man::new(Cli::command().disable_help_subcommand(true)), "")?)?;
        }
    }
    Ok(Exit::Done)
}

/// The page of the command that is typed with these words: what is generated, the examples and, for pystap itself, how it ends.
fn page(man: &Man, words: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut more = Roff::default();
    more.control("SH", ["EXAMPLES"]);
    for (what, typed) in examples::of(words) {
        more.control("PP", []);
        more.text([roman(format!("{what}:"))]);
        more.control("RS", ["4"]);
        more.control("nf", []);
        more.text([bold(*typed)]);
        more.control("fi", []);
        more.control("RE", []);
    }
    if words.is_empty() {
        more.control("SH", ["EXIT STATUS"]);
        for exit in Exit::ALL {
            more.control("TP", []);
            more.text([bold(exit.code().to_string())]);
            more.text([roman(exit.meaning())]);
        }
    }
    more.to_writer(&mut page)?;
    Ok(page)
}

/// Writes the page of every command.
fn pages(directory: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut left = vec![(command, String::new())];
    while let Some((command, words)) = left.pop() {
        let below = command.get_subcommands().filter(|it| !it.is_hide_set());
        left.extend(below.map(|it| {
            let words = format!("{words} {}", it.get_name());
            (it.clone(), words.trim_start().to_owned())
        }));
        let man = Man::new(command);
        let page = page(&man, &words)?;
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
