//! `pystap offcpu`: where threads of Python processes wait, and why.

use std::io::{self, BufWriter, IntoInnerError, IsTerminal, Write};
use std::time::Duration;

use crossbeam_channel::{never, select, tick};

use super::targets::running;
use super::{destination, print};
use crate::cli::{Offcpu as Arguments, StacksFormat};
use crate::console::{Console, Exit};
use crate::export::Output;
use crate::export::profile::flames::{self, Caption};
use crate::failure::Failure;
use crate::offcpu::{Options, Session, Snapshot, document, folded, lost, page, show};
use crate::session::stop::StopSignals;

/// Time between tables on a terminal.
const USUAL: Duration = Duration::from_secs(2);
/// Percent of the time below which a flame is not drawn.
const NARROWEST: f64 = 0.01;

/// Watches processes, and shows where they wait.
pub(super) fn run(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let on_screen = !(arguments.batch || arguments.json || arguments.format.is_some());
    if on_screen && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "standard input or output is not a terminal, so the live table cannot be shown; use --batch for lines, --json for \
             programs or --format for stacks",
        ));
    }
    // What cannot be written is known before anything is watched.
    let output = match arguments.format {
        Some(format) => match destination::whole(arguments.output.as_deref(), console)? {
            Some(output) => Some((format, output)),
            None => return Ok(Exit::Done),
        },
        None => None,
    };
    let processes = running(&arguments.targets, arguments.of.as_deref(), console)?;
    let stops = StopSignals::listen()?;
    let options = Options {
        min: arguments.min.unwrap_or_default(),
        reason: arguments.reason,
        wakers: !arguments.no_wakers,
    };
    let session = Session::begin(processes, options)
        .map_err(|error| Failure::new(Exit::of(error.exit_code()), error.to_string()))?;
    for note in &session.notes {
        console.warning(note);
    }
    console.note("watching; Ctrl-C ends it");
    if let Some(duration) = arguments.duration {
        stops.after(duration)?;
    }
    if on_screen {
        let cover = console.cover();
        show(
            &session,
            arguments.by,
            arguments.idle,
            arguments.interval.unwrap_or(USUAL),
            &cover,
            stops.requests(),
        )?;
        return Ok(Exit::Done);
    }
    let tables = arguments.interval.map_or_else(never, tick);
    loop {
        select! {
            recv(stops.requests()) -> _ => break,
            recv(session.ended()) -> _ => break,
            recv(tables) -> _ => write(arguments, &session.snapshot())?,
        }
    }
    let snapshot = session.end();
    match output {
        Some((format, output)) => {
            if let Some(lost) = lost(&snapshot) {
                console.warning(lost);
            }
            write_stacks(&snapshot, format, arguments.idle, output)?;
        }
        None => write(arguments, &snapshot)?,
    }
    Ok(Exit::Done)
}

/// Writes all stacks, in a format for other programs.
fn write_stacks(
    snapshot: &Snapshot,
    format: StacksFormat,
    idle: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut output = BufWriter::new(output);
    let lines = folded(snapshot, idle);
    if lines.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            "no thread waited in Python, but for idleness (--idle shows it), so there are no stacks to be written; watch for longer, \
             or while the processes have work",
        ));
    }
    match format {
        StacksFormat::Folded => lines
            .iter()
            .try_for_each(|line| writeln!(output, "{line}"))?,
        StacksFormat::Flamegraph => {
            let caption = Caption {
                title: "Off-CPU time by stack, with reasons",
                subtitle: None,
                min_width: NARROWEST,
            };
            flames::draw(&lines, caption, &mut output)?;
        }
    }
    let output = output.into_inner().map_err(IntoInnerError::into_error)?;
    output.complete()?;
    Ok(())
}

fn write(arguments: &Arguments, snapshot: &Snapshot) -> io::Result<()> {
    let (by, idle, limit) = (arguments.by, arguments.idle, arguments.limit);
    match arguments.json {
        true => print::json(&document(snapshot, by, idle, limit)),
        false => print::page(&page(snapshot, by, idle, limit)),
    }
}
