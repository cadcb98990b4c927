//! `pystap trace`: from what was typed to a running session, and `pystap script trace`, which stops at the script.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::engine::{self, Choice, Engine, Ready};
use super::print;
use crate::agent::Capture;
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::cli::{self, Colour, Format};
use crate::clock;
use crate::console::{Console, Exit};
use crate::engine::stap::{self, Script, Start, Toolchain};
use crate::engine::uprobes::Plan as UprobesPlan;
use crate::event::{self, ArmedMark, SessionTarget};
use crate::export::{Output, Sink, flow, json};
use crate::failure::Failure;
use crate::process::{Conditions, Launched, Selection, Watch};
use crate::python::marks::PROVIDER;
use crate::recording;
use crate::script::{self, Catalogue, Tapsets};
use crate::service::Service;
use crate::session::agents::SessionAgents;
use crate::session::plan::{
    AgentUsage, AgentWishes, Plan, check_template_directory, template_directories,
};
use crate::session::running::{Outcome, Session};
use crate::session::stop::{self, Stop, StopSignals};
use crate::text::Foreign;

/// A plan, and where its templates are.
struct Prepared {
    plan: Plan,
    catalogue: Catalogue,
    directories: Vec<PathBuf>,
}

fn prepare(arguments: &cli::Trace) -> Result<Prepared, Failure> {
    if let Some((argument, instead)) = arguments
        .engine
        .stap_args
        .iter()
        .find_map(|argument| Some((argument, stap::arguments::replacement(argument)?)))
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "stap's {argument} concerns running, which pystap does itself, so it would have no effect; use {instead}"
            ),
        ));
    }
    check_template_directory(arguments.engine.template_dir.as_deref())?;
    let directories = template_directories(arguments.engine.template_dir.as_deref());
    let catalogue = Catalogue::load(&directories)?;
    let plan = Plan::new(
        &arguments.targets,
        &arguments.what,
        wishes(arguments)?,
        &catalogue,
    )?;
    let prepared = Prepared {
        plan,
        catalogue,
        directories,
    };
    // The user's own mistakes come before what the host lacks.
    if prepared
        .plan
        .own_templates(&prepared.catalogue)
        .next()
        .is_some()
    {
        prepared.script(arguments)?;
    }
    Ok(prepared)
}

/// What is wanted of the agent.
fn wishes(arguments: &cli::Trace) -> Result<AgentWishes, Failure> {
    let agent = &arguments.engine.agent;
    let what = &arguments.what;
    let named = [&what.functions, &what.files, &what.modules];
    if !arguments.capture.is_empty() && named.iter().all(|globs| globs.is_empty()) {
        return Err(Failure::new(
            Exit::Usage,
            "--capture is for functions that a filter names, because values may be secrets and cost time; add --function, --file or --module",
        ));
    }
    Ok(AgentWishes {
        usage: match (agent.agent, agent.no_agent) {
            (true, _) => AgentUsage::Always,
            (_, true) => AgentUsage::Never,
            _ => AgentUsage::Auto,
        },
        inject: agent.inject == Some(cli::Injection::Ptrace),
        trust_paths: agent.trust_paths,
        capture: Capture {
            arguments: arguments.capture.contains(&cli::Captured::Args),
            returns: arguments.capture.contains(&cli::Captured::Return),
            hidden: arguments
                .capture_hide
                .iter()
                .filter(|glob| glob.as_str() != "none")
                .cloned()
                .collect(),
        },
    })
}

impl Prepared {
    /// The script for stap.
    fn script(&self, arguments: &cli::Trace) -> Result<Script, Failure> {
        Ok(Script {
            text: script::render(&self.catalogue, &self.plan.request())?,
            tapsets: Tapsets::load(&self.directories)?,
            images: self
                .plan
                .images
                .iter()
                .map(|image| (image.path.clone(), image.interpreter.image.build_id.clone()))
                .chain(
                    self.plan
                        .libraries()
                        .map(|(path, probed)| (path.clone(), probed.image.build_id.clone())),
                )
                .collect(),
            arguments: arguments.engine.stap_args.clone(),
        })
    }
}

/// Prints the script alone.
pub(super) fn script(arguments: &cli::Trace) -> Result<Exit, Failure> {
    let script = prepare(arguments)?.script(arguments)?;
    print::source(&script.text)?;
    Ok(Exit::Done)
}

/// Records: a trace in the format of recordings.
pub(super) fn record(
    arguments: &cli::Trace,
    colour: Colour,
    console: &Console,
) -> Result<u8, Failure> {
    let mut arguments = arguments.clone();
    arguments.output.format = Some(Format::Recording);
    run(&arguments, colour, console)
}

/// Traces, and writes what was asked for.
pub(super) fn run(
    arguments: &cli::Trace,
    colour: Colour,
    console: &Console,
) -> Result<u8, Failure> {
    let to_terminal = arguments.output.output.is_none() && std::io::stdout().is_terminal();
    if arguments.output.format == Some(Format::Recording) && to_terminal {
        return Err(Failure::new(
            Exit::Usage,
            "a recording is nothing to read on a terminal, so nothing was traced; name a file with --output",
        ));
    }
    let make = |output: Output, rules: PairingRules| sink(arguments, colour, output, rules);
    run_into(arguments, console, &make, None)
}

/// Makes the sink of a trace from its output and the rules of the interpreters that it traces.
pub(super) type MakeSink<'a> = dyn Fn(Output, PairingRules) -> Box<dyn Sink> + 'a;

/// Traces into any sink. What a launched command writes goes to the file `aside`, if there is one.
pub(super) fn run_into(
    arguments: &cli::Trace,
    console: &Console,
    make_sink: &MakeSink<'_>,
    aside: Option<&File>,
) -> Result<u8, Failure> {
    let mut prepared = prepare(arguments)?;
    let plan = &prepared.plan;
    for warning in &plan.warnings {
        console.warning(warning);
    }
    let choice = engine::choose(arguments, plan, &prepared.catalogue);
    if arguments.dry_run {
        return dry_run(arguments, &prepared, choice, console).map(Into::into);
    }
    let choice = choice?;
    let stops = StopSignals::listen().map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("signals cannot be caught ({error}), so a trace could not be ended; try again"),
        )
    })?;
    let output = match arguments.compile_only {
        true => None,
        false => match output(arguments, &stops, console)? {
            Some(output) => Some(output),
            None => return Ok(Exit::Done.into()),
        },
    };
    // stap reads the marks of the agent's library, so that it has to be there for compiling, too.
    let mut agents = SessionAgents::prepare(&mut prepared.plan)?;
    let plan = &prepared.plan;
    let script = || prepared.script(arguments);
    let ready = engine::prepare(arguments, plan, choice, script, &stops, console)?;
    let (Some((ready, notes)), Some(output)) = (ready, output) else {
        return Ok(Exit::Done.into());
    };
    if let (Some(agents), Ready::Stap { .. }) = (&mut agents, &ready) {
        agents.keep_where_mapped();
    }
    let surroundings = TraceContext {
        arguments,
        make_sink,
        aside,
        stops: &stops,
        console,
    };
    let outcome = trace(&surroundings, plan, ready, &notes, output, agents)?;
    Ok(conclude(arguments, &outcome, console))
}

/// Opens the output. `None` when somebody stopped us while nobody read it.
fn output(
    arguments: &cli::Trace,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Output>, Failure> {
    let path = arguments.output.output.as_deref();
    let begun = Instant::now();
    let mut said = false;
    let mut expired = false;
    let opened = Output::open(path, stop::give_up(), |time| {
        if !std::mem::replace(&mut said, true)
            && let Some(path) = path
        {
            console.note(format_args!(
                "{} is a pipe that nobody reads, so tracing begins when somebody opens it for reading; Ctrl-C stops",
                Foreign::path(path)
            ));
        }
        expired = arguments
            .output
            .duration
            .is_some_and(|longest| begun.elapsed() >= longest);
        !expired && stops.requests().recv_timeout(time).is_err()
    })?;
    let Some(output) = opened else {
        let whose = path.map_or_else(String::new, |path| Foreign::path(path).to_string());
        if expired {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "nobody opened the pipe {whose} for reading in the time that --duration gives, so nothing was traced; start its reader first"
                ),
            ));
        }
        console.note(format_args!(
            "stopped while nobody read {whose}; nothing was traced"
        ));
        return Ok(None);
    };
    if !arguments.capture.is_empty()
        && let Some(mode) = output.open_to_others()
    {
        console.warning(format_args!(
            "values of the program are written to {}, which other users may read (its mode is {mode:04o}); make it private, or name a new file with --output",
            path.map_or("standard output".to_owned(), |path| Foreign::path(path).to_string())
        ));
    }
    Ok(Some(output))
}

fn dry_run(
    arguments: &cli::Trace,
    prepared: &Prepared,
    choice: Result<Choice, Failure>,
    console: &Console,
) -> Result<Exit, Failure> {
    let plan = &prepared.plan;
    let (engine, reason) = match choice {
        Ok(Choice { engine, reason }) => (engine, reason),
        Err(obstacle) => {
            console.warning(&obstacle.message);
            let options = &arguments.engine;
            let found = Toolchain::find(options.stap.as_deref(), arguments.kernel.as_deref());
            let toolchain = found.unwrap_or_else(|error| {
                if error.to_string() != obstacle.message {
                    console.warning(error);
                }
                Toolchain::assumed()
            });
            (Engine::Stap(toolchain), None)
        }
    };
    let mut out = Vec::new();
    writeln!(out, "{plan}")?;
    if let Some(reason) = reason {
        writeln!(out, "engine     {reason}")?;
    }
    match engine {
        Engine::Uprobes(tracefs) => {
            writeln!(out, "events in  {}\n", tracefs.root().display())?;
            write!(out, "{}", UprobesPlan::new(&plan.probed())?)?;
        }
        Engine::Stap(toolchain) => {
            let script = prepared.script(arguments)?;
            let [compile, run] =
                stap::command_lines(&toolchain, &script, &start(arguments, plan, plan.pids()));
            writeln!(out, "script.stp\n")?;
            for line in script.text.lines() {
                writeln!(
                    out,
                    "{}",
                    if line.is_empty() {
                        String::new()
                    } else {
                        format!("    {line}")
                    }
                )?;
            }
            writeln!(out, "compile    {compile}\nrun        {run}")?;
        }
    }
    print::listing(&String::from_utf8_lossy(&out))?;
    Ok(Exit::Done)
}

/// How to run the module for these processes.
fn start(arguments: &cli::Trace, plan: &Plan, targets: Vec<u32>) -> Start {
    // The kernel can confine the probes to one process and the children it will have; not to several.
    let alone = match (targets.as_slice(), searches(arguments)) {
        ([pid], false) => Some(*pid),
        _ => None,
    };
    Start {
        only: alone,
        targets,
        follow: plan.follow,
        min_duration: plan.minimum_ns().unwrap_or(0),
        creations: plan.totals().then(|| plan.rules().call_on_creation),
        buffer: arguments.engine.buffer,
        armed: plan.semaphores(),
        images: plan
            .images
            .iter()
            .map(|image| image.path.clone())
            .chain(plan.libraries().map(|(path, _)| path.clone()))
            .collect(),
        lineage: Arc::default(),
    }
}

/// Whether processes that start later can be targets without being children of one.
fn searches(arguments: &cli::Trace) -> bool {
    let targets = &arguments.targets;
    targets.command.is_empty()
        && (targets.pattern.is_some()
            || targets.service.is_some()
            || (targets.python.is_some() && targets.pids.is_empty()))
}

/// What a trace is run with.
struct TraceContext<'a> {
    arguments: &'a cli::Trace,
    make_sink: &'a MakeSink<'a>,
    aside: Option<&'a File>,
    stops: &'a StopSignals,
    console: &'a Console,
}

fn trace(
    surroundings: &TraceContext<'_>,
    plan: &Plan,
    ready: Ready,
    notes: &[String],
    output: Output,
    mut agents: Option<SessionAgents>,
) -> Result<Outcome, Failure> {
    let TraceContext {
        arguments,
        make_sink,
        aside,
        stops,
        console,
    } = *surroundings;
    let watch = Watch::new()?;
    let mut targets = plan.pids();
    for process in &plan.targets.processes {
        watch.add(process.pid, process.start_time)?;
    }
    let launched = if plan.command.is_empty() {
        None
    } else {
        let variables = match &mut agents {
            Some(agents) => agents.environment()?,
            None => Vec::new(),
        };
        Some(Launched::start(
            &plan.command,
            Conditions {
                variables: &variables,
                aside,
            },
        )?)
    };
    if let Some(launched) = &launched {
        targets.push(launched.pid());
        watch.add(launched.pid(), launched.start_time())?;
    }
    let mut start = start(arguments, plan, targets);
    if let Some(agents) = &agents {
        start.lineage = agents.begin_with(plan, launched.as_ref());
    }
    let mut opening = session_line(plan, ready.name(), notes);
    let sink = make_sink(output, plan.rules());
    let starting = console.spinner("arming the probes");
    let measures = ready.measures();
    let running = ready.start(plan, start, stops)?;
    if let Some(agents) = &agents {
        agents.tell(running.as_ref());
    }
    if let Some(launched) = &launched {
        opening.targets.push(SessionTarget {
            pid: launched.pid(),
            command: plan
                .command
                .iter()
                .map(|word| word.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" "),
            python: plan.targets.command.as_ref().and_then(|expected| {
                expected
                    .interpreters
                    .iter()
                    .find_map(|interpreter| interpreter.version.as_ref())
                    .map(ToString::to_string)
            }),
        });
    }
    let newcomers = searches(arguments).then(|| Selection {
        pids: Vec::new(),
        pattern: arguments.targets.pattern.clone(),
        service: arguments
            .targets
            .service
            .as_deref()
            .and_then(|name| Service::named(name).ok()),
        python: arguments.targets.python.clone(),
        command: Vec::new(),
        subprocesses: plan.follow,
    });
    let processes = plan.targets.processes.iter();
    let released = launched.as_ref().map(Launched::pid);
    let released = released.filter(|_| measures && plan.follows_every_program());
    let running_session = Session {
        engine: running,
        sink,
        pairing: Pairing::with_rules(plan.rules()),
        filters: plan.filters.clone(),
        watch,
        programs: processes.map(|it| (it.pid, it.program())).collect(),
        launched,
        newcomers,
        fails_on_paths: plan.fails_on_paths(),
        agents,
        max_events: arguments.output.max_events,
        released,
        minimum: plan.minimum_ns().filter(|_| !measures),
        console,
    };
    let mut starting = Some(starting);
    running_session.run(stops, |session| {
        if let Some(agents) = &mut session.agents {
            agents.attach(plan, stops, console)?;
        }
        drop(starting.take());
        let what = match &session.launched {
            Some(launched) => format!("process {}", launched.pid()),
            None => match session.watch.remaining() {
                1 => "one process".to_owned(),
                count => format!("{count} processes"),
            },
        };
        console.note(format_args!(
            "probes are live, tracing {what}; Ctrl-C stops"
        ));
        if let Some(duration) = arguments.output.duration {
            stops.after(duration)?;
        }
        opening.ts = clock::now();
        let written = session.sink.session(&opening);
        if let Some(launched) = &mut session.launched {
            launched.release()?;
        }
        Ok(written)
    })
}

fn sink(
    arguments: &cli::Trace,
    colour: Colour,
    output: Output,
    rules: PairingRules,
) -> Box<dyn Sink> {
    let terminal = arguments.output.output.is_none() && std::io::stdout().is_terminal();
    let format =
        arguments
            .output
            .format
            .unwrap_or(if terminal { Format::Flow } else { Format::Json });
    let colour = match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            terminal
                && anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
        }
    };
    match format {
        Format::Json => Box::new(json::Json::new(output)),
        Format::Recording => Box::new(recording::Writer::new(output, rules)),
        Format::Flow => Box::new(flow::Flow::new(output, flow::Options { colour })),
    }
}

fn session_line(plan: &Plan, engine: &str, notes: &[String]) -> event::Session {
    event::Session {
        ts: 0,
        pystap: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine.to_owned(),
        notes: notes.iter().chain(&plan.warnings).cloned().collect(),
        targets: plan
            .targets
            .processes
            .iter()
            .map(|process| SessionTarget {
                pid: process.pid,
                command: process.command_line.join(" "),
                python: process
                    .interpreters
                    .iter()
                    .find_map(|found| found.version.as_ref())
                    .map(ToString::to_string),
            })
            .collect(),
        armed: plan
            .images
            .iter()
            .flat_map(|image| {
                image.marks.iter().map(|mark| ArmedMark {
                    image: image.path.display().to_string(),
                    build_id: image.interpreter.image.build_id.clone(),
                    mark: format!("{PROVIDER}:{mark}"),
                    sites: image
                        .interpreter
                        .image
                        .mark(PROVIDER, mark)
                        .map_or(0, |mark| mark.sites.len()),
                })
            })
            .chain(plan.libraries().flat_map(|(path, probed)| {
                probed.marks.iter().map(|mark| ArmedMark {
                    image: path.display().to_string(),
                    build_id: probed.image.build_id.clone(),
                    mark: format!("{}:{mark}", probed.provider),
                    sites: probed
                        .image
                        .mark(probed.provider, mark)
                        .map_or(0, |mark| mark.sites.len()),
                })
            }))
            .collect(),
        events: plan.events.clone(),
    }
}

/// The last words, and the exit code.
fn conclude(arguments: &cli::Trace, outcome: &Outcome, console: &Console) -> u8 {
    let summary = &outcome.summary;
    let mut account = Vec::new();
    for (count, what) in [
        (summary.lost, "lost"),
        (summary.skipped, "skipped"),
        (summary.unparsed, "unreadable"),
    ] {
        if count > 0 {
            account.push(format!("{count} {what}"));
        }
    }
    if summary.uncounted {
        account.push("an unknown number possibly lost".to_owned());
    }
    match summary.untraced_processes {
        0 => {}
        1 => account.push("one process untraced".to_owned()),
        count => account.push(format!("{count} processes untraced")),
    }
    if outcome.unwritten > 0 {
        account.push(format!("{} not written", outcome.unwritten));
    }
    let account = match account.is_empty() {
        true if outcome.output_error.is_some() => "but not the end of them".to_owned(),
        true => "nothing lost".to_owned(),
        false => account.join(", "),
    };
    let why = match outcome.stop {
        Stop::Interrupted | Stop::Terminated => "stopped",
        Stop::Duration => "time is up",
        Stop::MaxEvents => "event limit reached",
        Stop::TargetsEnded => "the target ended",
        Stop::OutputClosed => "output closed",
        Stop::OutputFailed | Stop::EngineFailed => "failed",
    };
    let seconds = summary.wall_ns as f64 / 1e9;
    console.note(format_args!(
        "{why} after {seconds:.1} s: {} events, {account}",
        summary.delivered
    ));
    if let Some(error) = &outcome.output_error {
        let where_to = arguments
            .output
            .output
            .as_ref()
            .map_or("standard output".to_owned(), |path| {
                Foreign::path(path).to_string()
            });
        console.error(format_args!(
            "{where_to} could not be written ({error}), so the rest of the events is missing; make room or choose another place"
        ));
        return Exit::Failed.code();
    }
    if outcome.stop == Stop::EngineFailed {
        // What could not even begin is for want of something on this host.
        return if outcome.live {
            Exit::Failed
        } else {
            Exit::Unready
        }
        .code();
    }
    match summary.command_status {
        Some(status) if arguments.exit_with_command => u8::try_from(status).unwrap_or(u8::MAX),
        _ => Exit::Done.code(),
    }
}
