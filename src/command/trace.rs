//! `pystap trace` and `pystap record`: what was typed as a request, and the sink that writes the events. `pystap script trace`
//! stops at the script.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;

use ratatui::crossterm::terminal::size;

use super::print;
use crate::agent::Capture;
use crate::analysis::pairing::PairingRules;
use crate::cli::{self, Colour, Format};
use crate::console::{Console, Exit};
use crate::export::profile::{Chrome, Perfetto};
use crate::export::{Output, Sink, flow, json};
use crate::failure::Failure;
use crate::field::Field;
use crate::recording::parts::{Parts, Rotation};
use crate::recording::{self, Continuous};
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::opening::{Decided, MakeSink};
use crate::session::request::{
    AgentUsage, AgentWishes, EngineOptions, Limits, Purpose, SessionRequest, TargetRequest,
};
use crate::session::sought::Sought;
use crate::session::stop;
use crate::text::Foreign;

/// What was typed after `pystap trace`, as a request.
pub(super) fn request(typed: &cli::Trace) -> SessionRequest {
    let captures = |which| typed.capture.contains(&which);
    let mut request = SessionRequest {
        limits: Limits {
            duration: typed.output.duration,
            max_events: typed.output.max_events,
        },
        purpose: purpose(typed.dry_run, typed.compile_only, typed.kernel.as_deref()),
        output: typed.output.output.clone(),
        exit_with_command: typed.exit_with_command,
        waits: typed.waits,
        // What is recorded is left out by the views, and not for ever.
        with_idle: typed.idle || typed.output.format == Some(Format::Recording),
        ..common(&typed.targets, &typed.engine)
    };
    ask(&mut request, &typed.what);
    request.agent.capture = Capture {
        arguments: captures(cli::Captured::Args),
        returns: captures(cli::Captured::Return),
        hidden: hidden(&typed.fields.capture_hide),
    };
    with_fields(&mut request, &typed.fields);
    request
}

/// The names whose values are left out, as they were typed.
fn hidden(typed: &[Glob]) -> Vec<Glob> {
    let hidden = typed.iter();
    hidden
        .filter(|glob| glob.as_str() != "none")
        .cloned()
        .collect()
}

/// Adds the fields that were typed, without those that are left out.
pub(super) fn with_fields(request: &mut SessionRequest, typed: &cli::FieldArgs) {
    tell(request, typed.fields.clone(), &typed.capture_hide);
}

/// Adds fields, without those that have such names.
pub(super) fn tell(request: &mut SessionRequest, fields: Vec<Field>, hide: &[Glob]) {
    let hidden = hidden(hide);
    let (left_out, fields): (Vec<Field>, Vec<Field>) = fields
        .into_iter()
        .partition(|field| field.is_hidden(&hidden));
    request.agent.fields = fields;
    request.agent.hidden_fields = left_out.into_iter().map(|field| field.name).collect();
}

/// What every command that traces has in common: the targets and the engine.
pub(super) fn common(targets: &cli::TargetArgs, engine: &cli::EngineArgs) -> SessionRequest {
    SessionRequest {
        targets: self::targets(targets),
        agent: wishes(&engine.agent),
        engine: EngineOptions {
            named: engine.engine.name(),
            stap: engine.stap.stap.clone(),
            stap_arguments: engine.stap.stap_args.clone(),
            buffer: engine.buffer,
            bundle: engine.bundle.clone(),
            opened: None,
        },
        template_directory: engine.template_dir.clone(),
        ..SessionRequest::default()
    }
}

/// The targets that were typed.
pub(super) fn targets(typed: &cli::TargetArgs) -> TargetRequest {
    let launched = !typed.command.is_empty();
    TargetRequest {
        pids: typed.pids.clone(),
        pattern: typed.pattern.clone(),
        service: typed.service.clone(),
        python: typed.python.iter().cloned().collect(),
        command: typed.command.clone(),
        subprocesses: typed.subprocesses || (launched && !typed.no_subprocesses),
    }
}

/// Whether and how the agent comes into play.
pub(super) fn wishes(agent: &cli::AgentArgs) -> AgentWishes {
    AgentWishes {
        usage: match (agent.agent, agent.no_agent) {
            (true, _) => AgentUsage::Always,
            (_, true) => AgentUsage::Never,
            _ => AgentUsage::Auto,
        },
        inject: agent.inject == Some(cli::Injection::Ptrace),
        trust_paths: agent.trust_paths,
        ..AgentWishes::default()
    }
}

/// Adds the event kinds and filters that were typed.
pub(super) fn ask(request: &mut SessionRequest, what: &cli::WhatArgs) {
    request.events.clone_from(&what.events);
    request.min_duration = what.min_duration;
    request.spare_line_semaphore = what.no_line_semaphore;
    let mut filters = Filters {
        functions: what.functions.clone(),
        files: what.files.clone(),
        modules: what.modules.clone(),
        ..Filters::default()
    };
    for exclusion in &what.exclude {
        match exclusion {
            cli::Exclusion::Function(glob) => filters.not_functions.push(glob.clone()),
            cli::Exclusion::File(glob) => filters.not_files.push(glob.clone()),
            cli::Exclusion::Module(glob) => filters.not_modules.push(glob.clone()),
        }
    }
    request.sought = Sought::by_filters(&filters);
    request.filters = filters;
}

/// How far a command was asked to go.
pub(super) fn purpose(dry_run: bool, compile_only: bool, kernel: Option<&str>) -> Purpose {
    match (dry_run, compile_only) {
        (true, _) => Purpose::DryRun,
        (_, true) => Purpose::Compile {
            kernel: kernel.map(str::to_owned),
            bundle: None,
        },
        _ => Purpose::Trace,
    }
}

/// Prints the script alone.
pub(super) fn script(request: SessionRequest) -> Result<Exit, Failure> {
    let request = SessionRequest {
        purpose: Purpose::Script,
        ..request
    };
    print::source(&Decided::new(&request)?.script()?)?;
    Ok(Exit::Done)
}

/// The refusal of samples and of recordings in parts where single calls are told.
pub(super) fn without_samples(arguments: &cli::Trace) -> Result<(), Failure> {
    match arguments.sample {
        None if arguments.parts.rotate.is_some() => Err(Failure::new(
            Exit::Usage,
            "--rotate is for recordings: use `pystap record --rotate 1h -o DIRECTORY -p PID`",
        )),
        None => Ok(()),
        Some(_) => Err(Failure::new(
            Exit::Usage,
            "samples tell nothing of single calls, so there is nothing to trace; use `pystap top --sample -p PID` to look at them, or \
             `pystap record --sample -o FILE -p PID`",
        )),
    }
}

/// Refuses what makes no sense of single calls, which are traced or recorded.
pub(super) fn check(arguments: &cli::Trace, records: bool) -> Result<(), Failure> {
    if !arguments.by_context || arguments.sample.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        match records {
            true => {
                "recorded calls have the greenlets and tasks that the agent tells anyway; leave out --by-context, or add --sample, \
                 and use `pystap report --by-context FILE`"
            }
            false => {
                "--by-context is for tables, and this writes single calls; use `pystap top --by-context -p PID`, or \
                 `pystap record -o FILE -p PID` and `pystap report --by-context FILE`"
            }
        },
    ))
}

/// Records: a trace in the format of recordings.
pub(super) fn record(
    arguments: &cli::Trace,
    colour: Colour,
    console: &Console,
) -> Result<u8, Failure> {
    if arguments.otlp.url.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "a recording is a file, so nothing was traced; leave out --otlp and send it with `pystap export -f otlp --otlp \
             http://127.0.0.1:4318 FILE`, or use `pystap trace --otlp http://127.0.0.1:4318 -p PID`",
        ));
    }
    let mut arguments = arguments.clone();
    arguments.output.format = Some(Format::Recording);
    let Some((directory, rotation)) = continuous(&arguments)? else {
        return run(&arguments, colour, console);
    };
    let mut request = request(&arguments);
    request.output = None;
    let make = |_: Output, rules: PairingRules| -> Box<dyn Sink> {
        Box::new(Continuous::new(directory, rotation.clone(), rules, part))
    };
    run_into(&request, console, &make, None)
}

/// The directory of a recording in parts, where one is wanted, and how long they are.
///
/// # Errors
/// When nothing can be recorded into it.
pub(super) fn continuous(arguments: &cli::Trace) -> Result<Option<(&Path, Rotation)>, Failure> {
    let (Some(every), Some(directory)) = (arguments.parts.rotate, &arguments.output.output) else {
        return Ok(None);
    };
    let rotation = Rotation {
        every,
        keep: arguments.parts.keep,
        slow: arguments.parts.on_slow.clone(),
    };
    if purpose(arguments.dry_run, arguments.compile_only, None) == Purpose::Trace {
        // Before anything is traced. It is opened again when something is.
        Parts::check(directory, rotation.keep).map_err(|error| {
            let directory = Foreign::path(directory);
            Failure::new(
                Exit::Failed,
                format!("cannot record into {directory}: {error}"),
            )
        })?;
    }
    Ok(Some((directory, rotation)))
}

/// The file of a part.
pub(super) fn part(path: &Path) -> io::Result<Output> {
    let opened = Output::open(Some(path), stop::give_up(), |_| false);
    let pipe = || io::Error::other("a pipe is in the place of a part");
    opened.map_err(io::Error::other)?.ok_or_else(pipe)
}

fn goes_to_terminal(output: Option<&Path>) -> bool {
    output.is_none() && io::stdout().is_terminal()
}

/// What says how wide the terminal is, where the output goes to one.
pub(super) fn width(output: Option<&Path>) -> Option<fn() -> Option<u16>> {
    goes_to_terminal(output).then_some(|| Some(size().ok()?.0))
}

/// Keeps what only programs read off terminals.
///
/// # Errors
/// When it would go to one.
pub(super) fn can_be_read(output: &cli::OutputArgs) -> Result<(), Failure> {
    let what = match output.format {
        Some(Format::Recording) => "a recording",
        Some(Format::Chrome | Format::Perfetto) => "a timeline for a viewer",
        Some(Format::Json | Format::Flow) | None => return Ok(()),
    };
    if !goes_to_terminal(output.output.as_deref()) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!(
            "{what} is nothing to read on a terminal, so nothing was traced; name a file with --output"
        ),
    ))
}

/// Traces, and writes what was asked for.
pub(super) fn run(
    arguments: &cli::Trace,
    colour: Colour,
    console: &Console,
) -> Result<u8, Failure> {
    can_be_read(&arguments.output)?;
    let make = |output: Output, rules: PairingRules| sink(arguments, colour, output, rules);
    run_into(&request(arguments), console, &make, None)
}

/// Traces into any sink. What a launched command writes goes to the file `aside`, if there is one.
pub(super) fn run_into(
    request: &SessionRequest,
    console: &Console,
    make_sink: &MakeSink<'_>,
    aside: Option<&File>,
) -> Result<u8, Failure> {
    Decided::new(request)?.run(make_sink, print::listing, aside, console)
}

pub(super) fn sink(
    arguments: &cli::Trace,
    colour: Colour,
    output: Output,
    rules: PairingRules,
) -> Box<dyn Sink> {
    let terminal = goes_to_terminal(arguments.output.output.as_deref());
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
        Format::Chrome => Box::new(Chrome::new(output)),
        Format::Perfetto => Box::new(Perfetto::new(output)),
        Format::Flow => {
            let width = width(arguments.output.output.as_deref());
            Box::new(flow::Flow::new(output, flow::Options { colour, width }))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// What is asked for when this is typed: the fields that are told, and those that are left out.
    fn fields(options: &[&str]) -> (Vec<String>, Vec<String>) {
        let usual = ["pystap", "trace", "--function", "login", "-p", "1"];
        let typed = Cli::try_parse_from(usual.iter().chain(options)).expect("it can be typed");
        let Command::Trace(typed) = typed.command else {
            panic!("{options:?}");
        };
        let agent = request(&typed).agent;
        let told = agent.fields.into_iter().map(|field| field.name);
        (told.collect(), agent.hidden_fields)
    }

    #[test]
    fn fields_that_are_called_like_secrets_are_left_out_unless_other_names_are_hidden() {
        let asked = [
            "--field",
            "user=user.name",
            "--field",
            "word=user.Password",
            "--field",
            "api_token=user.key",
        ];
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let by_name = fields(&asked);
        assert_eq!(by_name, (all(&["user"]), all(&["word", "api_token"])));
        let other = fields(&[&asked[..], &["--capture-hide", "NAME"]].concat());
        assert_eq!(other, (all(&["word", "api_token"]), all(&["user"])));
        let nothing = fields(&[&asked[..], &["--capture-hide", "none"]].concat());
        assert_eq!(nothing, (all(&["user", "word", "api_token"]), all(&[])));
    }
}
