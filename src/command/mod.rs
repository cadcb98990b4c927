//! The subcommands, one file each. What is typed arrives here parsed; ELF and /proc are other rooms' business.

mod agent;
mod bundle;
mod catalogue;
mod cleanup;
mod destination;
mod doctor;
mod dump;
mod gc;
pub mod hold;
mod hosts;
mod lower;
mod manual;
mod marks;
mod merge;
mod metrics;
mod offcpu;
mod opened;
mod print;
mod ps;
mod recipe;
mod replay;
mod report;
mod request;
mod sample;
mod sampled;
mod screen;
mod stats;
mod syscalls;
mod targets;
mod top;
mod trace;
mod traces;
mod why;

use std::ffi::OsString;
use std::io;

use crate::cli::{Cli, Colour, Command, ScriptOf};
use crate::console::{ColorWhen, Console, Exit, Verbosity};
use crate::failure::Failure;

/// Runs what was typed and says how it ended, as a number for the shell.
pub fn run(cli: Cli) -> u8 {
    // Before anything begins a thread: only a process of one thread may enter other mounts.
    if matches!(cli.command, Command::Visit) && crate::agent::visit() {
        return Exit::Done.code();
    }
    if !matches!(cli.command, Command::Hold { .. }) {
        survive_limits();
    }
    let verbosity = match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let colour = match cli.color {
        Colour::Auto => ColorWhen::Auto,
        Colour::Always => ColorWhen::Always,
        Colour::Never => ColorWhen::Never,
    };
    if cli.color != Colour::Auto {
        // For tables on a terminal, which look for themselves.
        stdout_colour(cli.color).write_global();
    }
    let console = Console::stderr(verbosity, colour);
    if reads_configuration(&cli.command) {
        for sentence in crate::authority::own::disbelieved() {
            console.warning(sentence);
        }
    }
    let code = run_command(&cli, &console);
    console.finish();
    code
}

/// Shows help, or what is wrong with what was typed, as everything else is shown: it need not be read either.
pub fn explain(error: &clap::Error) -> u8 {
    let text = error.render().ansi().to_string();
    let code = u8::try_from(error.exit_code()).unwrap_or(u8::MAX);
    if error.use_stderr() {
        let console = Console::stderr(Verbosity::Normal, ColorWhen::Auto);
        console.usage(&text);
        console.finish();
        return code;
    }
    match print::coloured(&text, stdout_colour(Colour::Auto)).map_err(Failure::from) {
        Err(failure) if failure.exit != Exit::Done => failure.exit.code(),
        _ => code,
    }
}

/// A file that may not become larger (`ulimit -f`) is a full disk, and no reason to be killed. Caught and not ignored:
/// what is launched would go on ignoring it.
fn survive_limits() {
    let noticed = std::sync::Arc::default();
    // Where it cannot be caught it ends us, as it ends others.
    let _ = signal_hook::flag::register(rustix::process::Signal::XFSZ.as_raw(), noticed);
}

fn run_command(cli: &Cli, console: &Console) -> u8 {
    if hosts::are_meant(&cli.command) {
        return ended(hosts::run(cli, console), console);
    }
    let outcome = match &cli.command {
        Command::Trace(arguments) => trace::check(arguments, false)
            .and_then(|()| trace::without_samples(arguments))
            .and_then(|()| traces::receiver(&arguments.otlp, "traces"))
            .and_then(|receiver| match receiver {
                Some(receiver) => traces::run(arguments, receiver, console),
                None => trace::run(arguments, cli.color, console),
            }),
        Command::Record(arguments) => match arguments.sample {
            Some(rate) => sample::record(arguments, rate, console),
            None => trace::check(arguments, true)
                .and_then(|()| trace::record(arguments, cli.color, console)),
        },
        Command::Report(arguments) => report::report(arguments, console).map(Into::into),
        Command::Export(arguments) => report::export(arguments, console).map(Into::into),
        Command::Merge(arguments) => merge::run(arguments, console).map(Into::into),
        Command::Request(arguments) => request::run(arguments, console).map(Into::into),
        Command::Top(arguments) => screen::top(arguments, console),
        Command::Gc(arguments) => gc::run(arguments, console),
        Command::Dump(arguments) => dump::run(arguments, console).map(Into::into),
        Command::Syscalls(arguments) => syscalls::run(arguments, console).map(Into::into),
        Command::Offcpu(arguments) => offcpu::run(arguments, console),
        Command::Stats(arguments) => stats::run(arguments, console),
        Command::ExportMetrics(arguments) => metrics::run(arguments, console),
        Command::Why(arguments) => why::run(arguments, console),
        Command::Rpc(arguments) => recipe::run("rpc", arguments, console),
        Command::Sql(arguments) => recipe::run("sql", arguments, console),
        Command::Http(arguments) => recipe::run("http", arguments, console),
        Command::Recipe { recipe, arguments } => recipe::run(recipe, arguments, console),
        Command::Ps(arguments) => ps::run(arguments, console).map(Into::into),
        Command::Script {
            command: ScriptOf::Trace(arguments),
        } => trace::check(arguments, false)
            .and_then(|()| trace::without_samples(arguments))
            .and_then(|()| trace::script(trace::request(arguments)))
            .map(Into::into),
        Command::Script {
            command: ScriptOf::Top(arguments),
        } => top::script(arguments).map(Into::into),
        Command::Bundle(arguments) => bundle::run(arguments, console),
        Command::Cleanup => cleanup::run(console).map(Into::into),
        Command::Marks(arguments) => marks::run(arguments, console).map(Into::into),
        Command::Doctor(arguments) => {
            doctor::run(arguments, stdout_colour(cli.color), console).map(Into::into)
        }
        Command::Agent { command } => agent::run(command, console).map(Into::into),
        Command::List(arguments) => catalogue::list(arguments, console).map(Into::into),
        Command::Schema => catalogue::schema().map(Into::into),
        Command::Completions { shell } => manual::completions(*shell).map(Into::into),
        Command::Man { directory } => manual::man(directory.as_deref()).map(Into::into),
        Command::OnHost { arguments } => return on_host(arguments, console),
        Command::Window => return crate::agent::serve_window(),
        Command::Hold {
            parent,
            program,
            command,
        } => {
            let Err(error) = hold::run(*parent, program, command);
            console.error(error);
            return hold::CANNOT_EXECUTE;
        }
        Command::Visit => Err(Failure::new(
            Exit::Usage,
            "`pystap visit` was not started by pystap, so there is nothing to do: it is how tracing reaches the files of a process in a container",
        )),
        Command::Lower {
            user,
            group,
            what,
            arguments,
        } => return lower::run(*user, *group, *what, arguments, console),
    };
    ended(outcome, console)
}

/// Does what another host wants.
fn on_host(arguments: &[OsString], console: &Console) -> u8 {
    match hosts::wanted(arguments) {
        Ok(Some(Ok(cli))) => run(cli),
        Ok(Some(Err(error))) => explain(&error),
        Ok(None) => Exit::Done.code(),
        Err(failure) => ended(Err(failure), console),
    }
}

/// The exit code of what came of a command. Why it failed is said.
fn ended(outcome: Result<u8, Failure>, console: &Console) -> u8 {
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                console.error(&failure.message);
                console.excerpt(&failure.excerpt);
            }
            failure.exit.code()
        }
    }
}

/// Whether a command looks at services or templates of the user's own.
fn reads_configuration(command: &Command) -> bool {
    matches!(
        command,
        Command::Trace(_)
            | Command::Record(_)
            | Command::Top(_)
            | Command::Gc(_)
            | Command::Stats(_)
            | Command::ExportMetrics(_)
            | Command::Dump(_)
            | Command::Offcpu(_)
            | Command::Syscalls(_)
            | Command::Why(_)
            | Command::Rpc(_)
            | Command::Sql(_)
            | Command::Http(_)
            | Command::Recipe { .. }
            | Command::Script { .. }
            | Command::Bundle(_)
            | Command::Ps(_)
            | Command::Doctor(_)
            | Command::List(_)
    )
}

/// Whether standard output takes colour.
fn stdout_colour(colour: Colour) -> anstream::ColorChoice {
    match colour {
        Colour::Auto => anstream::AutoStream::choice(&io::stdout()),
        Colour::Always => anstream::ColorChoice::Always,
        Colour::Never => anstream::ColorChoice::Never,
    }
}
