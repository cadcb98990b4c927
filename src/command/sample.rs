//! `pystap top --sample`: hot functions by samples of stacks.

use std::io::{self, IsTerminal, Write};

use crossbeam_channel::{select, tick};

use super::targets::running_and_to_come;
use crate::cli::{self, RunningTargets};
use crate::console::{Console, Exit};
use crate::dump::explained;
use crate::export::Output;
use crate::failure::Failure;
use crate::process::Selection;
use crate::profiler::{
    By, Options, Order, Session, Shown, Snapshot, ToCome, Unsampled, document, page, show,
};
use crate::session::search::Search;
use crate::session::stop::{self, StopSignals};
use crate::text::{Foreign, harmless, harmless_json};
use crate::view::hot::Column;

/// What is typed for it.
const COMMAND: &str = "pystap top --sample";

/// The table of `pystap top` by samples, so many a second.
pub(super) fn top(arguments: &cli::Top, rate: u32, console: &Console) -> Result<Exit, Failure> {
    let order = match arguments.sort {
        Column::SelfTime => Order::Own,
        Column::Cumulative => Order::Total,
        Column::Function => Order::Name,
        _ => {
            return Err(Failure::new(
                Exit::Usage,
                "samples say nothing of single calls, so a table of them is sorted by self, cum or function; leave out --sort, or \
                 --sample",
            ));
        }
    };
    let on_screen = !(arguments.batch || arguments.json);
    if on_screen && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "standard input or output is not a terminal, so the live table cannot be shown; use --batch for lines or --json for programs",
        ));
    }
    let by = if arguments.by_process {
        By::Process
    } else {
        By::Function
    };
    let targets = running(&arguments.targets);
    let (processes, to_come) = running_and_to_come(&targets, arguments.of.as_deref(), console)?;
    let stops = StopSignals::listen()?;
    let Some(mut output) = output(arguments, &stops, console)? else {
        return Ok(Exit::Done);
    };
    let count = processes.len();
    let to_come = to_come.map(searched).transpose()?;
    let session = Session::begin(processes, Options { rate }, to_come)?;
    let mut unsampled = session.unsampled();
    if unsampled.len() >= count
        && let Some(Unsampled { process, reason }) = unsampled.pop()
    {
        let error = explained(&process, reason, COMMAND);
        return Err(Failure::new(Exit::of(error.exit_code()), error.to_string()));
    }
    say(unsampled, &session, console);
    console.note("sampling; Ctrl-C ends it");
    if let Some(duration) = arguments.duration {
        stops.after(duration)?;
    }
    if on_screen {
        let cover = console.cover();
        let shown = Shown {
            by,
            idle: arguments.idle,
            order,
        };
        show(
            &session,
            shown,
            arguments.interval,
            &cover,
            stops.requests(),
        )?;
        drop(cover);
        say(session.unsampled(), &session, console);
        return Ok(Exit::Done);
    }
    let tables = tick(arguments.interval);
    let mut written = 0;
    let mut write = |snapshot: &Snapshot| {
        written += 1;
        let rows = snapshot.rows(by, arguments.idle, order, false);
        let text = match arguments.json {
            true => harmless_json(&format!("{}\n", document(snapshot, &rows, arguments.limit))),
            false => harmless(&(page(snapshot, &rows, by, arguments.limit) + "\n")),
        };
        output.write_all(text.as_bytes())?;
        output.flush()?;
        Ok::<bool, io::Error>(arguments.count.is_some_and(|count| written >= count))
    };
    loop {
        select! {
            recv(stops.requests()) -> _ => break,
            recv(session.ended()) -> _ => break,
            recv(tables) -> _ => {
                say(session.unsampled(), &session, console);
                if write(&session.snapshot())? {
                    return Ok(Exit::Done);
                }
            }
        }
    }
    say(session.unsampled(), &session, console);
    write(&session.end())?;
    Ok(Exit::Done)
}

/// The targets as those have them who only look at processes.
fn running(targets: &cli::TargetArgs) -> RunningTargets {
    RunningTargets {
        pids: targets.pids.clone(),
        pattern: targets.pattern.clone(),
        service: targets.service.clone(),
        python: targets.python.clone(),
        subprocesses: targets.subprocesses,
    }
}

/// Searches for processes that begin later.
fn searched(selection: Selection) -> Result<ToCome, Failure> {
    let is_open = selection.is_open();
    let search = Search::begin(Some(selection), None)?;
    Ok(ToCome {
        found: Box::new(move || search.take()?.newcomers),
        is_open,
    })
}

/// Says what cannot be sampled.
fn say(unsampled: Vec<Unsampled>, session: &Session, console: &Console) {
    for Unsampled { process, reason } in unsampled {
        console.warning(explained(&process, reason, COMMAND));
    }
    for note in session.notes() {
        console.warning(note);
    }
}

/// Where tables go. `None` when somebody stopped us while nobody read it.
fn output(
    arguments: &cli::Top,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Output>, Failure> {
    let path = arguments.output.as_deref();
    let mut said = false;
    let opened = Output::open(path, stop::give_up(), |time| {
        if !std::mem::replace(&mut said, true)
            && let Some(path) = path
        {
            console.note(format_args!(
                "{} is a pipe that nobody reads, so sampling begins when somebody opens it for reading; Ctrl-C stops",
                Foreign::path(path)
            ));
        }
        stops.requests().recv_timeout(time).is_err()
    });
    Ok(opened?)
}
