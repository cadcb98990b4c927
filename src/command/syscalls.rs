//! `pystap syscalls`: system calls of Python processes, by function.

use std::io;
use std::time::Duration;

use crossbeam_channel::{never, select, tick};

use super::print;
use super::targets::running;
use crate::cli::Syscalls as Arguments;
use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::process::activity::syscall_number;
use crate::session::stop::StopSignals;
use crate::syscalls::{On, Options, Session, Snapshot, document, page, show};
use crate::top::screen;
use crate::waits::WantedCalls;

/// Time between tables on a terminal.
const USUAL: Duration = Duration::from_secs(2);

/// Watches processes, and shows their system calls.
pub(super) fn run(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let on_screen = !(arguments.batch || arguments.json);
    if on_screen && let Some(obstacle) = screen::obstacle() {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{obstacle}, so the live table cannot be shown; use --batch for lines or --json for programs"
            ),
        ));
    }
    let numbers = arguments.syscall.iter().map(|name| number(name));
    let numbers = numbers.collect::<Result<Vec<u64>, Failure>>()?;
    let processes = running(&arguments.targets, arguments.of.as_deref(), console)?;
    let stops = StopSignals::listen()?;
    let options = Options {
        min: arguments.min.unwrap_or_default(),
        wanted: WantedCalls {
            numbers,
            failed_only: arguments.errors,
            ..WantedCalls::default()
        },
        on: match (arguments.files, arguments.sockets) {
            (true, _) => Some(On::Files),
            (_, true) => Some(On::Sockets),
            _ => None,
        },
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
            recv(tables) -> _ => if !stops.time_is_up() {
                write(arguments, &session.snapshot())?;
            },
        }
    }
    write(arguments, &session.end())?;
    Ok(Exit::Done)
}

/// The number of a system call that was named, or of which the number was given.
fn number(name: &str) -> Result<u64, Failure> {
    let known = syscall_number(name).or_else(|| name.parse().ok());
    known.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!(
                "this machine has no system call {name}, as far as pystap knows, so it cannot be watched; see syscalls(2), or \
                 give its number"
            ),
        )
    })
}

fn write(arguments: &Arguments, snapshot: &Snapshot) -> io::Result<()> {
    let (by, limit) = (arguments.by, arguments.limit);
    match arguments.json {
        true => print::json(&document(snapshot, by, limit)),
        false => print::page(&page(snapshot, by, limit)),
    }
}
