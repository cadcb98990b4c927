//! `pystap offcpu`: where threads of Python processes wait, and why.

use std::io::{self, BufWriter, IntoInnerError, Write};
use std::time::Duration;

use crossbeam_channel::{never, select, tick};

use super::targets::{nothing_named, request_of, running_and_to_come};
use super::{destination, print, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli::{EngineChoice, Offcpu as Arguments, StacksFormat, WaitsEngine};
use crate::console::{Console, Exit};
use crate::engine::stap::StapError;
use crate::engine::stap::waits::{WaitsModule, WaitsOptions};
use crate::export::profile::flames::{self, Caption};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::offcpu::{
    AllCalls, By, Known, Options, Session, Shown, Snapshot, Source, SummedError, SummedSession,
    document, folded, lost, page, show,
};
use crate::process::{Process, Selection};
use crate::session::opening::Waiting;
use crate::session::request::{EngineOptions, Limits, SessionRequest, TargetRequest};
use crate::session::search::Search;
use crate::session::stop::StopSignals;
use crate::top::screen;

/// Time between tables on a terminal.
const USUAL: Duration = Duration::from_secs(2);
/// Percent of the time below which a flame is not drawn.
const NARROWEST: f64 = 0.01;

/// Watches processes, and shows where they wait.
pub(super) fn run(arguments: &Arguments, console: &Console) -> Result<u8, Failure> {
    let agent = &arguments.agent;
    let of_calls = [WaitsEngine::Direct, WaitsEngine::Uprobes].contains(&arguments.engine)
        || agent.agent
        || agent.no_agent
        || agent.trust_paths
        || agent.inject.is_some();
    if of_calls && !arguments.all_calls {
        return Err(Failure::new(
            Exit::Usage,
            "how calls are told was said, but no calls were asked for; add --all-calls, or leave out what is about the agent and \
             engines that tell calls",
        ));
    }
    match arguments.all_calls {
        true => with_calls(arguments, console),
        false => watched(arguments, console).map(Into::into),
    }
}

/// Whether the table is shown on the terminal.
fn on_screen(arguments: &Arguments) -> Result<bool, Failure> {
    let on_screen = !(arguments.batch || arguments.json || arguments.format.is_some());
    if on_screen
        && !arguments.compile_only
        && let Some(obstacle) = screen::obstacle()
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{obstacle}, so the live table cannot be shown; use --batch for lines, --json for programs or --format for stacks"
            ),
        ));
    }
    Ok(on_screen)
}

/// Whether something was said about SystemTap.
fn of_stap(arguments: &Arguments) -> bool {
    arguments.stap.stap.is_some() || !arguments.stap.stap_args.is_empty()
}

/// Waits with every call beside them.
fn with_calls(arguments: &Arguments, console: &Console) -> Result<u8, Failure> {
    let on_screen = on_screen(arguments)?;
    let targets = &arguments.targets;
    let is_named = arguments.of.is_some() || targets.service.is_some() || targets.python.is_some();
    if !is_named && targets.pids.is_empty() && targets.pattern.is_none() {
        return Err(nothing_named());
    }
    let not_stap = [WaitsEngine::Direct, WaitsEngine::Uprobes].contains(&arguments.engine);
    if not_stap && of_stap(arguments) {
        return Err(Failure::new(
            Exit::Usage,
            "--stap and --stap-arg are about SystemTap, which is not asked for; choose --engine stap, or leave them out",
        ));
    }
    let Some(output) = stacks_output(arguments, console)? else {
        return Ok(Exit::Done.code());
    };
    let (by, idle) = (arguments.by, arguments.idle);
    let shown = match (on_screen, arguments.format) {
        (true, _) => Shown::OnScreen {
            by,
            idle,
            interval: arguments.interval.unwrap_or(USUAL),
        },
        (_, Some(_)) => Shown::Nothing,
        (_, None) => Shown::AsLines {
            by,
            idle,
            limit: arguments.limit,
            json: arguments.json,
            interval: arguments.interval,
        },
    };
    let mut source = AllCalls::new(options(arguments));
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(source.sink(shown, output, console))
    };
    let code = trace::run_into(&calls(arguments), console, &make, None)?;
    if !source.has_begun() {
        return Ok(code);
    }
    let snapshot = source.end();
    warn(&source, console);
    if !on_screen {
        conclude(arguments, &snapshot, output, console)?;
    }
    Ok(code)
}

/// The session behind it.
fn calls(arguments: &Arguments) -> SessionRequest {
    let targets = &arguments.targets;
    let named = match arguments.engine {
        WaitsEngine::Auto | WaitsEngine::Perf => EngineChoice::Auto,
        WaitsEngine::Stap => EngineChoice::Stap,
        WaitsEngine::Direct => EngineChoice::Direct,
        WaitsEngine::Uprobes => EngineChoice::Uprobes,
    };
    let service = arguments.of.as_ref().or(targets.service.as_ref());
    SessionRequest {
        targets: TargetRequest {
            service: service.cloned(),
            ..request_of(targets)
        },
        events: ["call", "return"].map(str::to_owned).to_vec(),
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        agent: trace::wishes(&arguments.agent),
        engine: EngineOptions {
            named: named.name(),
            stap: arguments.stap.stap.clone(),
            stap_arguments: arguments.stap.stap_args.clone(),
            ..EngineOptions::default()
        },
        waits: true,
        ..SessionRequest::default()
    }
}

/// Where stacks are to be written, if they are; `None` within when somebody did not want to wait for a reader.
#[expect(
    clippy::option_option,
    reason = "one is about whether, one about where"
)]
fn stacks_output(
    arguments: &Arguments,
    console: &Console,
) -> Result<Option<Option<(StacksFormat, Output)>>, Failure> {
    // What cannot be written is known before anything is watched.
    match arguments.format {
        Some(format) => {
            let output = destination::whole(arguments.output.as_deref(), console)?;
            Ok(output.map(|output| Some((format, output))))
        }
        None => Ok(Some(None)),
    }
}

/// Waits with stacks that are read from outside, or by a module.
fn watched(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let on_screen = on_screen(arguments)?;
    if arguments.engine == WaitsEngine::Perf && of_stap(arguments) && !arguments.compile_only {
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
    let Some(output) = stacks_output(arguments, console)? else {
        return Ok(Exit::Done);
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
            recv(tables) -> _ => if !stops.time_is_up() {
                write(arguments, &session.snapshot())?;
            },
        }
    }
    let snapshot = session.end();
    warn(session.as_ref(), console);
    conclude(arguments, &snapshot, output, console)?;
    Ok(Exit::Done)
}

/// Writes what came of it.
fn conclude(
    arguments: &Arguments,
    snapshot: &Snapshot,
    output: Option<(StacksFormat, Output)>,
    console: &Console,
) -> Result<(), Failure> {
    match output {
        Some((format, output)) => {
            if let Some(lost) = lost(snapshot) {
                console.warning(lost);
            }
            write_stacks(snapshot, format, arguments.idle, output)
        }
        None => Ok(write(arguments, snapshot)?),
    }
}

fn options(arguments: &Arguments) -> Options {
    Options {
        min: arguments.min.unwrap_or_default(),
        reason: arguments.reason,
        wakers: !arguments.no_wakers,
    }
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
    let options = options(arguments);
    let to_come = to_come.map(Search::to_come).transpose()?;
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
        console.note("stopped while the probe script was compiled; nothing was watched");
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
        stap: arguments.stap.stap.as_deref(),
        arguments: &arguments.stap.stap_args,
        only_compile: arguments.compile_only,
        kernel: arguments.kernel.as_deref(),
    };
    WaitsModule::prepare(options, &Waiting { console, stops })
}

fn compile(arguments: &Arguments, console: &Console) -> Result<Exit, Failure> {
    let stops = StopSignals::listen()?;
    let Some(module) = module(arguments, &stops, console)? else {
        return Err(StapError::Stopped.into());
    };
    console.note(format_args!(
        "compiled; with that kernel --engine stap starts at once now ({})",
        module.path().display()
    ));
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
