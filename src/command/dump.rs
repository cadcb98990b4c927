//! `pystap dump`: what every thread of Python processes does right now.

use super::print;
use super::targets::running;
use crate::cli::Dump as Arguments;
use crate::console::{Console, Exit};
use crate::dump::{Dump, DumpError, document, page};
use crate::failure::Failure;
use crate::process::{Budget, Process, within};

/// Looks at processes, and prints what they do.
pub(super) fn run(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let targets = running(&arguments.targets, arguments.of.as_deref(), console)?;
    /// A process's memory and files may be on a server that does not answer.
    const BUDGET: Budget = Budget {
        each: std::time::Duration::from_secs(12),
        all: std::time::Duration::from_secs(120),
    };
    let tasks = !arguments.no_tasks;
    let looked = within(
        BUDGET,
        targets,
        (),
        move |process: &Process, (): &mut ()| (process.pid, Dump::of(process, tasks)),
    );
    let slow = looked.stuck.iter().chain(&looked.unreached);
    let mut exit = Exit::Done;
    for process in slow {
        exit = Exit::Failed;
        console.warning(format_args!(
            "process {} could not be looked at in time and so is not shown; try again, or name it alone with -p",
            process.pid
        ));
    }
    let (mut dumps, mut failed) = (Vec::new(), Vec::new());
    for (pid, result) in looked.done {
        match result {
            Ok(dump) => dumps.push(dump),
            Err(error) => failed.push((pid, error)),
        }
    }
    match (dumps.is_empty(), failed.as_slice()) {
        // Whoever reads JSON of several processes finds in it which of them failed, and why.
        (true, [(_, error)]) => return Err(failure(error)),
        (_, failed) => {
            for (_, error) in failed {
                console.warning(error);
                exit = Exit::of(error.exit_code());
            }
        }
    }
    if arguments.json {
        print::json(&document(&dumps, &failed))?;
        return Ok(exit);
    }
    let pages: Vec<String> = dumps.iter().map(page).collect();
    print::page(&pages.join("\n"))?;
    Ok(exit)
}

fn failure(error: &DumpError) -> Failure {
    Failure::new(Exit::of(error.exit_code()), error.to_string())
}
