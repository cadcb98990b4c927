//! `pystap top --sample` and `pystap record --sample`: hot functions by samples of stacks.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{select, tick};

use super::targets::running_and_to_come;
use super::trace::{self, continuous, part};
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::cli::{self, RunningTargets};
use crate::clock;
use crate::console::{Console, Exit};
use crate::dump::explained;
use crate::event::{self, SessionTarget, Summary};
use crate::export::{End, Output};
use crate::failure::Failure;
use crate::process::{self, Conditions, Expected, Identity, Launched, Process, Selection};
use crate::profiler::{
    By, Function, Options, Order, Recorder, Session, Snapshot, Unsampled, document, page,
};
use crate::recording::{Continuous, SampleSink, Samples, Writer};
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::opening::of_command;
use crate::session::request::TargetRequest;
use crate::session::search::Search;
use crate::session::stop::{self, Stop, StopSignals};
use crate::text::{Foreign, harmless, harmless_json};
use crate::view::hot::Column;
use crate::view::many;

/// What is typed for it.
pub(super) const COMMAND: &str = "pystap top --sample";
const RECORDING: &str = "pystap record --sample";

/// How often what was seen goes into a recording.
const WRITTEN: Duration = Duration::from_secs(1);

/// Refuses what makes no sense of samples.
pub(super) fn check(arguments: &cli::Top) -> Result<(), Failure> {
    // `--sample 200` is a rate to who types it, and a service to us.
    if let Some(rate) = arguments.of.as_deref()
        && rate.parse::<u32>().is_ok()
        && process::service(rate).is_err()
    {
        return Err(Failure::new(
            Exit::Usage,
            format!("there is no service {rate:?}; if that is a rate, type --sample={rate}"),
        ));
    }
    match order(arguments.sort) {
        Some(_) => Ok(()),
        None => Err(Failure::new(
            Exit::Usage,
            "samples say nothing of single calls, so a table of them is sorted by self, cum or function; leave out --sort, or \
             --sample",
        )),
    }
}

/// The table of `pystap top` by samples, so many a second, as lines.
pub(super) fn lines(arguments: &cli::Top, rate: u32, console: &Console) -> Result<u8, Failure> {
    let order = order(arguments.sort).unwrap_or(Order::Own);
    let by = by(arguments);
    let found = find(&arguments.targets, arguments.of.as_deref(), None, console)?;
    let stops = StopSignals::listen()?;
    let Some(mut output) = output(arguments.output.as_deref(), &stops, console)? else {
        return Ok(Exit::Done.into());
    };
    let options = Options {
        rate,
        by_context: arguments.by_context,
    };
    let (session, _launched) = begin(found, options, COMMAND, console)?;
    console.note("sampling; Ctrl-C ends it");
    if let Some(duration) = arguments.duration {
        stops.after(duration)?;
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
                say(&session, COMMAND, console);
                if !stops.time_is_up() && write(&session.snapshot())? {
                    return Ok(Exit::Done.into());
                }
            }
        }
    }
    say(&session, COMMAND, console);
    write(&session.end())?;
    Ok(Exit::Done.into())
}

/// What has a row.
pub(super) fn by(arguments: &cli::Top) -> By {
    By::Function {
        process: arguments.by_process,
        context: arguments.by_context,
    }
}

/// Filters that functions pass. Interpreters' own probes know them by their last names.
pub(super) fn named(functions: &[Arc<Function>]) -> Filters {
    let mut filters = Filters::default();
    for function in functions {
        let name = function.name.rsplit('.').next().unwrap_or_default();
        let globs = [literal(name), literal(&function.file)];
        if let [Some(name), Some(file)] = globs {
            filters.functions.push(name);
            if !filters.files.contains(&file) {
                filters.files.push(file);
            }
        }
    }
    filters
}

/// The pattern that matches this alone; `None` where it is too long for one.
fn literal(text: &str) -> Option<Glob> {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if "*?[]\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    Glob::new(&pattern).ok()
}

/// An order of tables of calls, where samples have it.
pub(super) fn order(sort: Column) -> Option<Order> {
    Some(match sort {
        Column::SelfTime => Order::Own,
        Column::Cumulative => Order::Total,
        Column::Function => Order::Name,
        _ => return None,
    })
}

/// What is to be sampled.
pub(super) struct Found {
    processes: Vec<Process>,
    /// What finds those that begin later.
    to_come: Option<Selection>,
    /// A command that is held, or runs already.
    command: Option<Identity>,
    launched: Option<Launched>,
    /// What is expected of its interpreters.
    expected: Option<Expected>,
}

/// Finds the targets, and launches the command, held, if there is one. What it writes goes to the file `aside`, if there is one.
pub(super) fn find(
    targets: &cli::TargetArgs,
    of: Option<&str>,
    aside: Option<&File>,
    console: &Console,
) -> Result<Found, Failure> {
    if targets.command.is_empty() {
        let targets = RunningTargets {
            pids: targets.pids.clone(),
            pattern: targets.pattern.clone(),
            service: targets.service.clone(),
            python: targets.python.clone(),
            subprocesses: targets.subprocesses,
        };
        let (processes, to_come) = running_and_to_come(&targets, of, console)?;
        return Ok(Found {
            processes,
            to_come,
            command: None,
            launched: None,
            expected: None,
        });
    }
    let wanted = trace::targets(targets);
    let service = of.or(targets.service.as_deref());
    let service = service.map(process::service).transpose()?;
    let found = wanted.selection(service).resolve()?;
    for note in found.notes {
        console.warning(note);
    }
    let conditions = Conditions {
        variables: &[],
        aside,
    };
    let launched = Launched::start(&targets.command, conditions)?;
    let command = launched.identity();
    let running = found.processes.iter().map(|process| Identity {
        pid: process.pid,
        start_time: process.start_time,
    });
    let parents = found.parents.into_iter().chain(running);
    Ok(Found {
        to_come: descendants(&wanted, parents.chain([command]).collect()),
        processes: found.processes,
        command: Some(command),
        launched: Some(launched),
        expected: found.command,
    })
}

/// A command that was launched before, and runs.
pub(super) fn of_launched(targets: &cli::TargetArgs, launched: &Launched) -> Found {
    let command = launched.identity();
    Found {
        processes: Vec::new(),
        to_come: descendants(&trace::targets(targets), vec![command]),
        command: Some(command),
        launched: None,
        expected: None,
    }
}

/// What finds descendants of these, if they are targets.
fn descendants(wanted: &TargetRequest, parents: Vec<Identity>) -> Option<Selection> {
    let of_them = TargetRequest {
        subprocesses: true,
        ..TargetRequest::default()
    };
    wanted
        .subprocesses
        .then(|| of_them.newcomers(None, &parents))
        .flatten()
}

/// Begins to sample, lets a command that is held begin, and says what cannot be sampled; a failure where that is everything.
pub(super) fn begin(
    found: Found,
    options: Options,
    command: &str,
    console: &Console,
) -> Result<(Session, Option<Launched>), Failure> {
    let count = found.processes.len();
    let to_come = found.to_come.map(Search::to_come).transpose()?;
    let is_alone = found.command.is_none();
    let session = Session::begin(found.processes, found.command, options, to_come)?;
    let mut unsampled = session.unsampled();
    if is_alone
        && unsampled.len() >= count
        && let Some(Unsampled { process, reason }) = unsampled.pop()
    {
        let error = explained(&process, reason, command);
        return Err(Failure::new(Exit::of(error.exit_code()), error.to_string()));
    }
    say_of(unsampled, command, console);
    let mut launched = found.launched;
    if let Some(launched) = &mut launched {
        launched.release()?;
    }
    Ok((session, launched))
}

/// Records samples until the processes have ended, or somebody has seen enough.
pub(super) fn record(arguments: &cli::Trace, rate: u32, console: &Console) -> Result<u8, Failure> {
    let found = find(&arguments.targets, None, None, console)?;
    let stops = StopSignals::listen()?;
    let mut writer: Box<dyn SampleSink> = match continuous(arguments)? {
        Some((directory, rotation)) => {
            let rules = PairingRules::default();
            Box::new(Continuous::new(directory, rotation, rules, part))
        }
        None => match output(arguments.output.output.as_deref(), &stops, console)? {
            Some(output) => Box::new(Writer::new(output, PairingRules::default())),
            None => return Ok(Exit::Done.into()),
        },
    };
    let running = found.processes.iter().map(target);
    let command = found.launched.iter();
    let command =
        command.map(|it| of_command(&arguments.targets.command, found.expected.as_ref(), it));
    let mut opening = event::Session {
        pystap: env!("CARGO_PKG_VERSION").to_owned(),
        engine: Samples::KIND.to_owned(),
        notes: vec![format!(
            "sampled {rate} times per second: everything is an estimate"
        )],
        targets: running.chain(command).collect(),
        events: vec![Samples::KIND.to_owned()],
        host: clock::host(),
        boot: clock::boot(),
        ..event::Session::default()
    };
    let options = Options {
        rate,
        by_context: arguments.by_context,
    };
    let (session, mut launched) = begin(found, options, RECORDING, console)?;
    opening.ts = clock::now();
    writer.session(&opening)?;
    console.note("sampling; Ctrl-C ends it");
    if let Some(duration) = arguments.output.duration {
        stops.after(duration)?;
    }
    let due = tick(WRITTEN);
    let mut recorder = Recorder::default();
    let mut summary = Summary::default();
    let mut write = |snapshot: &Snapshot| -> io::Result<()> {
        summary.wall_ns = summary.wall_ns.saturating_add(snapshot.wall_ns);
        summary.delivered = summary.delivered.saturating_add(snapshot.samples());
        if writer.turn(clock::now())? {
            recorder = Recorder::default();
        }
        let blocks = recorder.blocks(snapshot);
        blocks.iter().try_for_each(|block| writer.samples(block))
    };
    let stop = loop {
        select! {
            recv(stops.requests()) -> stop => break stop.unwrap_or(Stop::Interrupted),
            recv(session.ended()) -> _ => break Stop::TargetsEnded,
            recv(due) -> _ => {
                say(&session, RECORDING, console);
                write(&session.take())?;
            }
        }
    };
    say(&session, RECORDING, console);
    write(&session.end())?;
    summary.ts = clock::now();
    stop.word().clone_into(&mut summary.ended);
    let status = launched
        .as_mut()
        .and_then(|it| it.try_wait().ok().flatten());
    summary.command_status = status.map(|status| i32::from(status.exit_code()));
    let samples = summary.delivered;
    writer.finish(&End {
        summary: Some(&summary),
        pairing: &Pairing::with_rules(PairingRules::default()),
    })?;
    console.note(format_args!(
        "{}: {} recorded",
        stop.said(status),
        many(samples, "sample", "samples")
    ));
    Ok(match status {
        Some(status) if arguments.exit_with_command => status.exit_code(),
        _ => Exit::Done.into(),
    })
}

/// A process as the first line of a recording has it.
fn target(process: &Process) -> SessionTarget {
    let versions = process.interpreters.iter();
    let version = versions.filter_map(|it| it.version.as_ref()).next();
    SessionTarget {
        pid: process.pid,
        command: process.command_line.join(" "),
        python: version.map(ToString::to_string),
    }
}

/// Says what cannot be sampled, since this was last said.
pub(super) fn say(session: &Session, command: &str, console: &Console) {
    say_of(session.unsampled(), command, console);
    for note in session.notes() {
        console.warning(note);
    }
}

fn say_of(unsampled: Vec<Unsampled>, command: &str, console: &Console) {
    for Unsampled { process, reason } in unsampled {
        console.warning(explained(&process, reason, command));
    }
}

/// Where it goes. `None` when somebody stopped us while nobody read it.
fn output(
    path: Option<&Path>,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Output>, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_by_its_own_name_whatever_is_in_it() {
        let function = |name: &str, file: &str| {
            Arc::new(Function {
                name: name.to_owned(),
                file: file.to_owned(),
            })
        };
        let filters = named(&[
            function("Server.<locals>.<lambda>", "/srv/a[1]*.py"),
            function("f", "/srv/a[1]*.py"),
        ]);
        assert_eq!(filters.files.len(), 1);
        assert!(filters.functions[0].matches(b"<lambda>"));
        assert!(filters.files[0].matches(b"/srv/a[1]*.py"));
        assert!(!filters.files[0].matches(b"/srv/a1x.py"));
    }
}
