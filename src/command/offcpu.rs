//! `pystap offcpu`: where threads of Python processes wait, and why.

use std::io::{self, BufWriter, IntoInnerError, IsTerminal, Write};
use std::time::Duration;

use crossbeam_channel::{never, select, tick};

use super::targets::running_and_to_come;
use super::{destination, print};
use crate::cli::{Offcpu as Arguments, StacksFormat, WaitsEngine};
use crate::console::{Console, Exit};
use crate::engine::stap::waits::{WaitsModule, WaitsOptions};
use crate::export::Output;
use crate::export::profile::flames::{self, Caption};
use crate::failure::Failure;
use crate::offcpu::{
    By, Known, Options, Session, Snapshot, Source, SummedError, SummedSession, ToCome, document,
    folded, lost, page, show,
};
use crate::process::{Process, Selection};
use crate::session::opening::Waiting;
use crate::session::search::Search;
use crate::session::stop::StopSignals;

/// Time between tables on a terminal.
const USUAL: Duration = Duration::from_secs(2);
/// Percent of the time below which a flame is not drawn.
const NARROWEST: f64 = 0.01;

/// Watches processes, and shows where they wait.
pub(super) fn run(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let on_screen = !(arguments.batch || arguments.json || arguments.format.is_some());
    if on_screen
        && !arguments.compile_only
        && !(io::stdout().is_terminal() && io::stdin().is_terminal())
    {
        return Err(Failure::new(
            Exit::Usage,
            "standard input or output is not a terminal, so the live table cannot be shown; use --batch for lines, --json for \
             programs or --format for stacks",
        ));
    }
    let of_stap = arguments.stap.is_some() || !arguments.stap_args.is_empty();
    if arguments.engine == WaitsEngine::Perf && of_stap && !arguments.compile_only {
        return Err(Failure::new(
            Exit::Usage,
            "--stap and --stap-arg are about SystemTap's module, which is not asked for; add --engine stap, or leave them out",
        ));
    }
    if arguments.engine == WaitsEngine::Stap && arguments.by == By::Waker {
        return Err(Failure::new(
            Exit::Usage,
            "SystemTap's module is not told who wakes, so --by waker has nothing to show; use --engine perf",
        ));
    }
    if arguments.compile_only {
        return compile(arguments, console);
    }
    // What cannot be written is known before anything is watched.
    let output = match arguments.format {
        Some(format) => match destination::whole(arguments.output.as_deref(), console)? {
            Some(output) => Some((format, output)),
            None => return Ok(Exit::Done),
        },
        None => None,
    };
    let of = arguments.of.as_deref();
    let targets = running_and_to_come(&arguments.targets, of, console)?;
    let stops = StopSignals::listen()?;
    let Some(mut session) = begin(arguments, targets, &stops, console)? else {
        return Ok(Exit::Done);
    };
    console.note("watching; Ctrl-C ends it");
    if let Some(duration) = arguments.duration {
        stops.after(duration)?;
    }
    if on_screen {
        let cover = console.cover();
        show(
            session.as_ref(),
            arguments.by,
            arguments.idle,
            arguments.interval.unwrap_or(USUAL),
            &cover,
            stops.requests(),
        )?;
        drop(cover);
        warn(session.as_ref(), console);
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
    warn(session.as_ref(), console);
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

/// Says what went wrong meanwhile.
fn warn(session: &dyn Source, console: &Console) {
    for trouble in session.troubles() {
        console.warning(trouble);
    }
}

/// Begins to watch, in the way that is wanted. `None` when somebody did not want to wait for it.
fn begin(
    arguments: &Arguments,
    (processes, to_come): (Vec<Process>, Option<Selection>),
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Box<dyn Source>>, Failure> {
    if arguments.engine == WaitsEngine::Stap {
        return summed(arguments, &processes, stops, console);
    }
    let options = Options {
        min: arguments.min.unwrap_or_default(),
        reason: arguments.reason,
        wakers: !arguments.no_wakers,
    };
    let to_come = to_come.map(searched).transpose()?;
    match Session::begin(processes.clone(), to_come, options) {
        Ok(session) => {
            for note in &session.notes {
                console.warning(note);
            }
            Ok(Some(Box::new(session)))
        }
        Err(error) if arguments.engine == WaitsEngine::Auto => {
            console.note(format_args!("{error}; SystemTap adds up instead"));
            summed(arguments, &processes, stops, console)
        }
        Err(error) => Err(Failure::new(Exit::of(error.exit_code()), error.to_string())),
    }
}

/// Those that are found again and again.
fn searched(selection: Selection) -> Result<ToCome, Failure> {
    let is_open = selection.is_open();
    let search = Search::begin(Some(selection), None)?;
    Ok(ToCome {
        found: Box::new(move || search.take()?.newcomers),
        is_open,
    })
}

/// The same through SystemTap.
fn summed(
    arguments: &Arguments,
    processes: &[Process],
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Box<dyn Source>>, Failure> {
    let failed = |error: SummedError| Failure::new(Exit::Failed, error.to_string());
    if arguments.no_wakers {
        console.warning(
            "--no-wakers changes nothing with SystemTap: who wakes is not told there, and the time in the run queue is kept apart",
        );
    }
    let Some(module) = module(arguments, stops, console)? else {
        return Ok(None);
    };
    let known = Known::of(processes).map_err(failed)?;
    for note in &known.notes {
        console.warning(note);
    }
    let min = arguments.min.unwrap_or_default().as_nanos();
    let min = u64::try_from(min).unwrap_or(u64::MAX);
    let running = module.start(&known.pids(), &known.positions, min)?;
    let session = SummedSession::begin(known, running, min, arguments.reason, stops.requests());
    let session = session.map_err(failed)?;
    Ok(session.map(|session| Box::new(session) as Box<dyn Source>))
}

fn module(
    arguments: &Arguments,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<WaitsModule>, Failure> {
    let options = WaitsOptions {
        stap: arguments.stap.as_deref(),
        arguments: &arguments.stap_args,
        only_compile: arguments.compile_only,
        kernel: arguments.kernel.as_deref(),
    };
    WaitsModule::prepare(options, &Waiting { console, stops })
}

fn compile(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let stops = StopSignals::listen()?;
    if let Some(module) = module(arguments, &stops, console)? {
        console.note(format_args!(
            "compiled; with that kernel --engine stap starts at once now ({})",
            module.path().display()
        ));
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
