//! `pystap agent`: the agent in environments (install, uninstall), and where it is (status).

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::print;
use crate::agent::install::{Environment, InstallError, Installed};
use crate::agent::{Loaded, waiting};
use crate::cli::{AgentCommand, AgentStatus};
use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::process;
use crate::text::Foreign;

pub(super) fn run(command: &AgentCommand, console: &Console) -> Result<Exit, Failure> {
    match command {
        AgentCommand::Install(arguments) => {
            // All are asked before any is changed.
            let environments: Vec<Environment> = asked(arguments.python.iter())?;
            for environment in environments {
                environment.install()?;
                console.note(format_args!(
                    "the agent is in {}; every Python {} of it that starts from now on can be traced with `pystap trace -p PID`, those that run must be restarted once",
                    environment.site.display(),
                    environment.version
                ));
            }
            Ok(Exit::Done)
        }
        AgentCommand::Uninstall(arguments) => {
            for environment in asked(arguments.python.iter())? {
                let site = environment.site.display();
                if environment.uninstall()? {
                    console.note(format_args!(
                        "the agent is no longer in {site}; processes that run keep theirs, which does nothing, until they end"
                    ));
                } else {
                    console.note(format_args!("there was no agent in {site}"));
                }
            }
            Ok(Exit::Done)
        }
        AgentCommand::Status(arguments) => status(arguments, console),
    }
}

fn asked<'a>(
    paths: impl Iterator<Item = &'a std::path::PathBuf>,
) -> Result<Vec<Environment>, InstallError> {
    paths.map(|path| Environment::of(path)).collect()
}

/// A word for what is in an environment, and what it means.
fn words(installed: Installed) -> (&'static str, &'static str) {
    match installed {
        Installed::No => ("not_installed", "not installed"),
        Installed::Current => ("installed", "installed"),
        Installed::Other => (
            "other_version",
            "installed by another pystap; install it anew, and restart what runs with it",
        ),
        Installed::Half => (
            "damaged",
            "not whole; install it anew, or uninstall what is left",
        ),
    }
}

fn status(arguments: &AgentStatus, console: &Console) -> Result<Exit, Failure> {
    let environments = asked(arguments.python.iter())?;
    let running = process::running()?;
    for note in &running.notes {
        console.warning(note);
    }
    let processes: Vec<_> = running
        .processes
        .iter()
        .filter_map(|process| {
            let loaded = Loaded::of_process(process.pid)?;
            Some((process, loaded, waiting(process.pid)))
        })
        .collect();
    if arguments.json {
        let environments: Vec<Value> = environments
            .iter()
            .map(|it| {
                Ok(json!({
                    "python": it.python,
                    "version": it.version,
                    "site": it.site,
                    "agent": words(it.installed()?).0,
                }))
            })
            .collect::<Result<_, InstallError>>()?;
        let processes: Vec<Value> = processes
            .iter()
            .map(|(process, loaded, waits)| {
                json!({
                    "pid": process.pid,
                    "command": process.command_line,
                    "library": loaded.path,
                    "waits": waits,
                })
            })
            .collect();
        let all = json!({ "environments": environments, "processes": processes });
        print::json(&all)?;
        return Ok(Exit::Done);
    }
    // Writing to a String cannot fail.
    let mut out = String::new();
    for environment in &environments {
        let _ = writeln!(
            out,
            "{}  Python {}  {}",
            Foreign::path(&environment.site),
            Foreign::new(&environment.version.to_string()),
            words(environment.installed()?).1
        );
    }
    for (process, loaded, waits) in &processes {
        let how = match waits {
            true => "waits",
            false => "is loaded, and comes to life with the next trace",
        };
        let _ = writeln!(
            out,
            "process {}  {}  the agent {how}",
            process.pid,
            command(&process.command_line.join(" "), &loaded.path)
        );
    }
    print::page(&out)?;
    if environments.is_empty() && processes.is_empty() {
        console.note("no process has the agent in it; name an environment with --python to see whether it is installed there");
    }
    Ok(Exit::Done)
}

/// A command line for a terminal: nothing in it may reach that as a control sequence.
fn command(line: &str, library: &Path) -> String {
    match line.is_empty() {
        true => Foreign::path(library).to_string(),
        false => Foreign::new(line).to_string(),
    }
}
