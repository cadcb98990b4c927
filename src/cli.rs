//! What can be typed: every command, option and argument, checked for form only. No look at the host.

pub(crate) mod examples;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{
    ArgAction, ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use regex::Regex;

use crate::field::Field;
use crate::offcpu::By;
use crate::probe::EventKind;
use crate::recording::parts::{Every, OnSlow};
use crate::script::filter::Glob;
use crate::syscalls::By as CallsBy;
use crate::view::hot::Column;
use crate::waits::Reason;

/// The headings of options, in the order in which help shows them: what is wanted often first. Each option stands below one.
const TARGETS: &str = "Targets";
const HOSTS: &str = "Other hosts";
const WHAT: &str = "What to trace";
const SHOWN: &str = "What to show";
const OUTPUT: &str = "Output";
const VALUES: &str = "Values of calls";
const ENGINE: &str = "Engine";
const AGENT: &str = "Agent";
const SYSTEMTAP: &str = "SystemTap";
const EVERYWHERE: &str = "Global options";
#[cfg(test)]
const HEADINGS: [&str; 10] = [
    TARGETS, HOSTS, WHAT, SHOWN, OUTPUT, VALUES, ENGINE, AGENT, SYSTEMTAP, EVERYWHERE,
];

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "pystap",
    version,
    about = "Trace Python programs from the outside, live, without changing or restarting them",
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Cli {
    /// Colours in messages and in the flow format
    #[arg(
        long,
        value_enum,
        default_value_t = Colour::Auto,
        global = true,
        value_name = "WHEN",
        help_heading = EVERYWHERE
    )]
    pub color: Colour,
    /// Only errors on standard error
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub quiet: bool,
    /// More on standard error: every message of stap, everything that was found out
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = EVERYWHERE)]
    pub verbose: bool,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = EVERYWHERE)]
    pub help: Option<bool>,
    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = EVERYWHERE)]
    pub version: Option<bool>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// The words of it, for those who hand them on.
    #[arg(skip)]
    pub words: Vec<OsString>,
}

impl Cli {
    /// What was typed, with the name of the program in front.
    ///
    /// # Errors
    /// What is wrong with it; and help, where that was asked for.
    pub fn typed(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        // This is what it answers to nothing, and to no more than global options.
        let nothing = || {
            let command = Cli::command().override_help(examples::start());
            command.try_get_matches_from(["pystap"])
        };
        let matches = match words.len() {
            0 | 1 => nothing(),
            _ => match Cli::whole_command().try_get_matches_from(&words) {
                Err(error) if lacks_a_command(&error) => nothing(),
                Err(error) => Err(explained(error, &words)),
                other => other,
            },
        };
        let cli = Cli::from_arg_matches(&matches?)?;
        Ok(Cli { words, ..cli })
    }

    /// The definition of the command line, with examples.
    pub fn whole_command() -> clap::Command {
        examples::with_examples(Cli::command(), "")
    }
}

/// Whether there are options and no command; not that one of its own lacks one, as `pystap agent` does.
fn lacks_a_command(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::MissingSubcommand
        && matches!(
            error.get(ContextKind::InvalidSubcommand),
            Some(ContextValue::String(of)) if of == "pystap"
        )
}

/// An error with a tip, where an option has taken what was meant for another place.
fn explained(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let typed = |option: &str| words.iter().any(|word| word == option);
    let rate = words.windows(2).find_map(|pair| match pair {
        [option, rate] if option == "--sample" => rate.to_str()?.parse::<u32>().ok(),
        _ => None,
    });
    let tip = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(of)))
            if typed("--stats") && of.iter().any(|it| it == "<FILE>") =>
        {
            "every word behind --stats is the name of a function; put FILE before --stats"
                .to_owned()
        }
        (ErrorKind::UnknownArgument, _) => match rate {
            Some(rate) => format!("type --sample={rate} for that rate"),
            None => return error,
        },
        _ => return error,
    };
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace function calls, garbage collections, imports and audit events as they happen
    Trace(Trace),
    /// Show hot functions live: calls, self and cumulative time, percentiles
    Top(Top),
    /// Watch garbage collections and sum up their pauses
    Gc(Gc),
    /// Watch how long single functions take: distribution and slowest calls
    Stats(Stats),
    /// Count calls for Prometheus and others: calls, latencies, exceptions, collections and waits, for weeks
    ExportMetrics(ExportMetrics),
    /// Show what every thread does right now: its stack, and what it waits for
    Dump(Dump),
    /// Watch where threads wait, and why: by function, reason, or who ended the wait
    Offcpu(Offcpu),
    /// Watch system calls by function: how many, which errors, how long, how much of it off the processor
    Syscalls(Syscalls),
    /// Split calls of functions into what their time went for: running, waiting for a processor, the GIL, a lock, a peer
    Why(Why),
    /// Show remote procedure calls that a service answers (oslo.messaging), by method: how many, how long, errors, the slowest
    #[command(mut_arg("bundle", |it| it.hide(true)))]
    Rpc(ByRecipe),
    /// Show SQL statements by what is the same in them: how many, how long, errors, the slowest
    #[command(mut_arg("bundle", |it| it.hide(true)))]
    Sql(ByRecipe),
    /// Show HTTP requests that a service answers, by method and route: how many, how long, errors, the slowest
    #[command(mut_arg("bundle", |it| it.hide(true)))]
    Http(ByRecipe),
    /// Show calls as a recipe says: a file that names functions, their fields, and what they are grouped by
    #[command(mut_arg("bundle", |it| it.hide(true)))]
    Recipe {
        /// A recipe by its name, or the path of one
        #[arg(value_name = "RECIPE")]
        recipe: String,
        /// What is asked of it.
        #[command(flatten)]
        arguments: ByRecipe,
    },
    /// Record to a file what `report` and `export` can show later
    #[command(
        mut_arg("format", |it| it.hide(true)),
        mut_arg("output", |it| it.required(true)),
        mut_arg("sample", |it| it.hide(false)),
        mut_arg("url", |it| it.hide(true)),
        mut_arg("headers", |it| it.hide(true)),
        mut_arg("timeout", |it| it.hide(true)),
        mut_arg("link", |it| it.hide(true)),
        mut_arg("by_context", |it| it.hide(false)),
        mut_arg("rotate", |it| it.hide(false)),
        mut_arg("keep", |it| it.hide(false)),
        mut_arg("on_slow", |it| it.hide(false))
    )]
    Record(Trace),
    /// Show hot functions, garbage collections or latencies of a recording
    Report(Report),
    /// Make one recording of those of several hosts or processes, in the order of their times
    Merge(Merge),
    /// Show one request through recordings of several services, or list the requests in them
    Request(Request),
    /// Write a recording in a format that another program reads
    Export(Export),
    /// List Python processes: which service they belong to and why, their interpreter, what can be traced
    Ps(Ps),
    /// Show the SystemTap script that a command would run
    Script {
        /// The command whose script is wanted
        #[command(subcommand)]
        command: ScriptOf,
    },
    /// Make one file of what tracing needs on a host without stap, compiler and headers: module, script and agent
    #[command(mut_arg("no_line_semaphore", |it| it.hide(true)))]
    Bundle(Bundle),
    /// Remove what a killed pystap left: probes, modules and files of the agent whose owner is gone
    Cleanup,
    /// List the probes of an interpreter (SystemTap calls them marks) and what they do in its Python version
    Marks(Marks),
    /// Examine what tracing needs on this host, with proof, and show how to mend what is missing
    Doctor(Doctor),
    /// List the recipes, and the script templates with their parameters
    List(List),
    /// Put pystap's agent into a Python environment, take it out, or see where it is
    Agent {
        /// What to do with it
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Print the JSON Schema of the events
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one per command into a directory
    Man {
        /// Write pystap.1 and one page per command there
        #[arg(long, value_name = "DIRECTORY", help_heading = OUTPUT)]
        directory: Option<PathBuf>,
    },
    /// Stop a process for a moment, as told on standard input (used by pystap itself)
    #[command(hide = true)]
    Window,
    /// Do what another host wants, as long as standard input says that it is there (used by pystap itself)
    #[command(hide = true)]
    OnHost {
        /// The command and its options
        #[arg(last = true, required = true)]
        arguments: Vec<OsString>,
    },
    /// Hold a command until pystap's probes are live (used by pystap itself)
    #[command(hide = true)]
    Hold {
        /// Process id of the pystap that waits
        parent: u32,
        /// The file to execute
        program: OsString,
        /// The command as it was typed
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Do something with the rights of a target, where it sees its files (used by pystap itself)
    #[command(hide = true)]
    Visit,
    /// Become another user for good, to do what root must not do itself (used by pystap itself)
    #[command(hide = true)]
    Lower {
        /// Id of the user
        user: u32,
        /// Id of the group
        group: u32,
        /// What to do as this user
        what: Lowered,
        /// A program and its arguments, or those of the task
        #[arg(last = true, required = true)]
        arguments: Vec<OsString>,
    },
}

/// What is done as another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lowered {
    /// A program is executed
    Run,
    /// The agent is put into an environment, taken out or looked for
    Place,
}

/// Commands that have a script.
#[derive(Debug, Subcommand)]
pub enum ScriptOf {
    /// The script of `pystap trace` with the same options
    #[command(
        mut_arg("url", |it| it.hide(true)),
        mut_arg("headers", |it| it.hide(true)),
        mut_arg("timeout", |it| it.hide(true)),
        mut_arg("link", |it| it.hide(true))
    )]
    Trace(Trace),
    /// The script of `pystap top` with the same options
    #[command(mut_arg("sample", |it| it.hide(true)), mut_arg("idle", |it| it.hide(true)), mut_arg("raw_times", |it| it.hide(true)))]
    Top(Top),
}

/// `pystap bundle`.
#[derive(Debug, Args)]
pub struct Bundle {
    /// For processes of this interpreter: the same file, at the same path, as where it runs; may be repeated
    #[arg(long, value_name = "PATH", required_unless_present = "list", help_heading = TARGETS)]
    pub python: Vec<PathBuf>,
    /// What to trace.
    #[command(flatten)]
    pub what: WhatArgs,
    /// Add calls up in the kernel, for `pystap top`, instead of sending each
    #[arg(long, conflicts_with = "min_duration", help_heading = WHAT)]
    pub totals: bool,
    /// Show what is in this bundle, and whether it fits this host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["python", "output", "kernel"], help_heading = SHOWN)]
    pub list: Option<PathBuf>,
    /// As JSON
    #[arg(long, requires = "list", help_heading = SHOWN)]
    pub json: bool,
    /// Write to this file
    #[arg(short, long, value_name = "FILE", required_unless_present = "list", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// Take calls from pystap's agent even where the interpreter has probes of its own
    #[arg(long, conflicts_with = "no_agent", help_heading = AGENT)]
    pub agent: bool,
    /// Load nothing into any process: only the interpreters' own probes
    #[arg(long, help_heading = AGENT)]
    pub no_agent: bool,
    /// For this kernel release instead of the running one; its headers have to be here
    #[arg(long, value_name = "RELEASE", help_heading = SYSTEMTAP)]
    pub kernel: Option<String>,
    /// Which stap, and what it is told.
    #[command(flatten)]
    pub stap: StapArgs,
    /// Templates and tapsets here add to the built-in ones or override them
    #[arg(long, value_name = "DIRECTORY", help_heading = SYSTEMTAP)]
    pub template_dir: Option<PathBuf>,
}

/// `pystap agent`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Let every Python of an environment start with a dormant agent, which `trace -p` can wake later
    Install(AgentEnvironments),
    /// Take the agent out again; processes that run keep theirs until they end
    Uninstall(AgentEnvironments),
    /// Show whether the agent is in an environment, and in which processes it waits
    Status(AgentStatus),
}

/// Environments of the agent.
#[derive(Debug, Args)]
pub struct AgentEnvironments {
    /// An interpreter of the environment, for example .venv/bin/python; may be repeated
    #[arg(long, value_name = "PATH", required = true, help_heading = TARGETS)]
    pub python: Vec<PathBuf>,
}

/// `pystap agent status`.
#[derive(Debug, Args)]
pub struct AgentStatus {
    /// An interpreter of an environment; may be repeated
    #[arg(long, value_name = "PATH", help_heading = TARGETS)]
    pub python: Vec<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// Which processes to trace.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Launch this command, held until the probes are live
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Trace this process; may be repeated
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), help_heading = TARGETS)]
    pub pids: Vec<u32>,
    /// Trace the Python processes whose command line matches
    #[arg(long = "match", value_name = "REGEX", value_parser = parse_regex, help_heading = TARGETS)]
    pub pattern: Option<Regex>,
    /// Trace the Python processes of a service, also those that start later: nova, nova-compute, neutron, …, or your own
    #[arg(long, value_name = "NAME", help_heading = TARGETS)]
    pub service: Option<String>,
    /// Trace every process of this interpreter; with other targets, only those that run it
    #[arg(long, value_name = "PATH", help_heading = TARGETS)]
    pub python: Option<PathBuf>,
    /// Trace children too, those that exist and those to come (the default for a launched command)
    #[arg(short, long, overrides_with = "no_subprocesses", help_heading = TARGETS)]
    pub subprocesses: bool,
    /// Do not trace children of a launched command
    #[arg(long, overrides_with = "subprocesses", help_heading = TARGETS)]
    pub no_subprocesses: bool,
}

/// Hosts on which something is done instead of here.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    /// On these hosts, by ssh with your own configuration, instead of here; may be repeated
    #[arg(long = "host", value_name = "HOST,…", value_delimiter = ',', value_parser = parse_host, help_heading = HOSTS)]
    pub hosts: Vec<String>,
    /// The same with the hosts in this file, one per line
    #[arg(long = "hosts", value_name = "FILE", help_heading = HOSTS)]
    pub hosts_from: Option<PathBuf>,
    /// Where pystap is on the hosts
    #[arg(long, value_name = "PATH", default_value = "pystap", help_heading = HOSTS)]
    pub remote_pystap: String,
    /// As root there, by sudo without a password
    #[arg(long, help_heading = HOSTS)]
    pub remote_sudo: bool,
    /// How hosts are reached, with options of ssh separated by blanks
    #[arg(long, value_name = "COMMAND", default_value = "ssh", help_heading = HOSTS)]
    pub ssh: String,
    /// How long events wait for hosts that say nothing, so that they come in order
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration, help_heading = HOSTS)]
    pub wait_for_hosts: Duration,
}

impl HostArgs {
    /// Whether something is done elsewhere.
    pub fn is_any(&self) -> bool {
        !self.hosts.is_empty() || self.hosts_from.is_some()
    }
}

/// The name of a host as ssh takes it.
pub(crate) fn parse_host(text: &str) -> Result<String, String> {
    let is_odd = |sign: char| sign.is_whitespace() || sign.is_control();
    match text.is_empty() || text.starts_with('-') || text.contains(is_odd) {
        true => Err(
            "it is not the name of a host as ssh takes it, such as web1 or admin@web1".to_owned(),
        ),
        false => Ok(text.to_owned()),
    }
}

/// `pystap dump`.
#[derive(Debug, Clone, Args)]
pub struct Dump {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: RunningTargets,
    /// On which hosts.
    #[command(flatten)]
    pub hosts: HostArgs,
    /// Do not look for tasks of asyncio and greenlets that wait, for which every object of a process has to be looked at
    #[arg(long, help_heading = WHAT)]
    pub no_tasks: bool,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// Processes that run, for what only looks at them.
#[derive(Debug, Clone, Args)]
pub struct RunningTargets {
    /// Show this process; may be repeated
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..), help_heading = TARGETS)]
    pub pids: Vec<u32>,
    /// Show the Python processes whose command line matches
    #[arg(
        long = "match",
        value_name = "REGEX",
        value_parser = parse_regex, help_heading = TARGETS)]
    pub pattern: Option<Regex>,
    /// Show the Python processes of a service: nova, nova-compute, neutron, …, or your own
    #[arg(long, value_name = "NAME", help_heading = TARGETS)]
    pub service: Option<String>,
    /// Show every process of this interpreter; with other targets, only those that run it
    #[arg(long, value_name = "PATH", help_heading = TARGETS)]
    pub python: Option<PathBuf>,
    /// Show their children, too
    #[arg(short, long, help_heading = TARGETS)]
    pub subprocesses: bool,
}

/// `pystap offcpu`.
#[derive(Debug, Clone, Args)]
pub struct Offcpu {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: RunningTargets,
    /// Only waits that took at least this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = WHAT)]
    pub min: Option<Duration>,
    /// Only waits of this reason
    #[arg(long, value_name = "NAME", value_parser = reasons(), help_heading = WHAT)]
    pub reason: Option<Reason>,
    /// Do not listen to who wakes threads: costs less, but time in the run queue counts as waiting
    #[arg(long, help_heading = WHAT)]
    pub no_wakers: bool,
    /// Trace every call, too, as `pystap trace` does: every wait has the exact stack of the calls that were open, in every Python
    /// that can be traced; costs a little for each call
    #[arg(long, conflicts_with_all = ["no_wakers", "compile_only"], help_heading = WHAT)]
    pub all_calls: bool,
    /// How many rows (with --batch or --json)
    #[arg(short, long, value_name = "N", default_value_t = 30, help_heading = SHOWN)]
    pub limit: usize,
    /// What has a row of its own
    #[arg(long, value_enum, default_value_t = By::Function, help_heading = SHOWN)]
    pub by: By,
    /// Idleness, too: event loops and workers of pools that wait for work, and threads without Python
    #[arg(long, help_heading = SHOWN)]
    pub idle: bool,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// Time between tables; 2s on a terminal
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Lines instead of a live table: one table at the end, and one at every --interval
    #[arg(short, long, help_heading = OUTPUT)]
    pub batch: bool,
    /// Write all stacks at the end, with the reason above each, instead of tables
    #[arg(short, long, value_enum, conflicts_with_all = ["batch", "json", "interval", "limit", "by"], help_heading = OUTPUT)]
    pub format: Option<StacksFormat>,
    /// Write them to this file instead of standard output
    #[arg(short, long, value_name = "FILE", requires = "format", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON, one line per table
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Who adds up
    #[arg(
        long,
        value_enum,
        default_value_t = WaitsEngine::Perf,
        value_name = "ENGINE", help_heading = ENGINE)]
    pub engine: WaitsEngine,
    /// How calls are told with --all-calls.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Which stap, and what it is told.
    #[command(flatten)]
    pub stap: StapArgs,
    /// Compile the script of --engine stap, keep the module for later, and do nothing else
    #[arg(long, help_heading = SYSTEMTAP)]
    pub compile_only: bool,
    /// Compile for this kernel release instead of the running one
    #[arg(
        long,
        value_name = "RELEASE",
        requires = "compile_only", help_heading = SYSTEMTAP)]
    pub kernel: Option<String>,
}

/// Who adds up waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitsEngine {
    /// perf where its events can be had, otherwise stap
    Auto,
    /// pystap, from the kernel's events; functions of short waits are estimates
    Perf,
    /// A SystemTap module, in the kernel; nothing is an estimate, and nobody is told who wakes. With --all-calls it tells calls, and
    /// perf waits
    Stap,
    /// With --all-calls: pystap's agent tells calls
    Direct,
    /// With --all-calls: the kernel's own uprobe events tell calls
    Uprobes,
}

/// `pystap syscalls`.
#[derive(Debug, Clone, Args)]
pub struct Syscalls {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: RunningTargets,
    /// Only this system call; may be repeated
    #[arg(long, value_name = "NAME", help_heading = WHAT)]
    pub syscall: Vec<String>,
    /// Only calls that failed
    #[arg(long, help_heading = WHAT)]
    pub errors: bool,
    /// Only calls about files, by path
    #[arg(long, conflicts_with = "sockets", help_heading = WHAT)]
    pub files: bool,
    /// Only calls about sockets, by the other end
    #[arg(long, help_heading = WHAT)]
    pub sockets: bool,
    /// Only calls that took at least this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = WHAT)]
    pub min: Option<Duration>,
    /// How many rows (with --batch or --json)
    #[arg(short, long, value_name = "N", default_value_t = 30, help_heading = SHOWN)]
    pub limit: usize,
    /// What has a row of its own
    #[arg(long, value_enum, default_value_t = CallsBy::Function, help_heading = SHOWN)]
    pub by: CallsBy,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// Time between tables; 2s on a terminal
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Lines instead of a live table: one table at the end, and one at every --interval
    #[arg(short, long, help_heading = OUTPUT)]
    pub batch: bool,
    /// As JSON, one line per table
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// `pystap trace`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("values").args(["capture", "fields"]).multiple(true)))]
pub struct Trace {
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// On which hosts.
    #[command(flatten)]
    pub hosts: HostArgs,
    /// What to trace.
    #[command(flatten)]
    pub what: WhatArgs,
    /// Also tell where threads wait: each wait with its reason and length, from the kernel's scheduler. Needs root
    #[arg(long, conflicts_with_all = ["compile_only", "min_duration"], help_heading = WHAT)]
    pub waits: bool,
    /// Record samples: reads the stacks of all threads so many times per second while they run on, from outside, without probes and
    /// without the agent; everything is an estimate then. 100 times per second unless RATE is given
    // Shown with `record`; `trace` says why it has none.
    #[arg(
        long,
        value_name = "RATE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "100",
        value_parser = clap::value_parser!(u32).range(1..=1000),
        conflicts_with_all = NOT_RECORDED_OF_SAMPLES,
        hide = true, help_heading = WHAT)]
    pub sample: Option<u32>,
    /// Idleness, too: with --min-duration, calls that are so long only because they wait for work (hubs of event loops, workers of
    /// pools). Recordings have them anyway
    #[arg(long, requires = "min_duration", help_heading = SHOWN)]
    pub idle: bool,
    /// Also tell in which kind of greenlet or task each sample is, and look for those that wait (with --sample)
    #[arg(long, hide = true, help_heading = SHOWN)]
    pub by_context: bool,
    /// When to stop and where to write.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How a recording goes on for as long as it takes.
    #[command(flatten)]
    pub parts: PartArgs,
    /// End with the exit status of the launched command
    #[arg(long, requires = "command", help_heading = OUTPUT)]
    pub exit_with_command: bool,
    /// Spans to a receiver.
    #[command(flatten)]
    pub otlp: OtlpArgs,
    /// Put spans into the trace of the request that the program works on, as it calls that itself (with --otlp): read where the
    /// agent gets in, from arguments, from fields that have it, and from its memory
    #[arg(long, value_enum, value_name = "BY", requires = "url", help_heading = OUTPUT)]
    pub link: Option<LinkChoice>,
    /// Values of calls by name.
    #[command(flatten)]
    pub fields: FieldArgs,
    /// Values of functions that --function, --file or --module names, as far as their types are plain. They may be secrets
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "WHICH,…", help_heading = VALUES)]
    pub capture: Vec<Captured>,
    /// What to trace with.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print the plan, and the script and command lines of stap or the uprobe events, and do nothing
    #[arg(long, help_heading = ENGINE)]
    pub dry_run: bool,
    /// Compile the script, keep the module for later traces, and do nothing else
    #[arg(long, conflicts_with = "dry_run", help_heading = SYSTEMTAP)]
    pub compile_only: bool,
    /// Compile for this kernel release instead of the running one
    #[arg(
        long,
        value_name = "RELEASE",
        requires = "compile_only", help_heading = SYSTEMTAP)]
    pub kernel: Option<String>,
}

/// Values that are told by name.
#[derive(Debug, Clone, Args)]
pub struct FieldArgs {
    /// A value of each call that is told by name, such as `request=ctxt.request_id`: a path from an argument through stored
    /// attributes, keys and items. It is read as the call begins, and with `NAME@return` as it returns; a path can begin with `return`,
    /// too. GLOB says of which functions; may be repeated
    #[arg(
        long = "field",
        value_name = "[GLOB:]NAME=PATH",
        value_parser = parse_field, help_heading = VALUES)]
    pub fields: Vec<Field>,
    /// Names whose values are left out, matched without case: of parameters, of keys in dictionaries, of functions for what they
    /// return, and of fields. Takes the place of the list that holds otherwise; `none` leaves nothing out
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "GLOB,…",
        requires = "values",
        default_values = USUALLY_HIDDEN,
        value_parser = parse_glob, help_heading = VALUES)]
    pub capture_hide: Vec<Glob>,
}

/// The names that are hidden unless others are named.
const USUALLY_HIDDEN: [&str; 15] = [
    "*password*",
    "*passwd*",
    "*passphrase*",
    "pwd",
    "*secret*",
    "*token*",
    "*credential*",
    "*authorization*",
    "auth",
    "*cookie*",
    "*private*",
    "*key",
    "*apikey*",
    "*api_key*",
    "*session_id*",
];

/// The help of `--events`, with every kind that there is.
fn event_kinds() -> String {
    let kinds = EventKind::names();
    let default = EventKind::DEFAULT.map(EventKind::name).join(",");
    format!("Event kinds: {kinds}, or a template of your own [default: {default}]")
}

/// Event kinds and filters.
#[derive(Debug, Clone, Default, Args)]
pub struct WhatArgs {
    /// Event kinds.
    #[arg(short, long, value_delimiter = ',', value_name = "KIND,…", help = event_kinds(), help_heading = WHAT)]
    pub events: Vec<String>,
    /// Only functions with such a name, for example `handle` or (with the agent) `Server.*`; may be repeated
    #[arg(long = "function", value_name = "GLOB", value_parser = parse_glob, help_heading = WHAT)]
    pub functions: Vec<Glob>,
    /// Only functions in such files, by their absolute path as a rule, for example `*/app/*`; may be repeated
    #[arg(long = "file", value_name = "GLOB", value_parser = parse_glob, help_heading = WHAT)]
    pub files: Vec<Glob>,
    /// Only functions in such modules, for example `nova.compute.*`; may be repeated
    #[arg(long = "module", value_name = "DOTTED.GLOB", value_parser = parse_module, help_heading = WHAT)]
    pub modules: Vec<Glob>,
    /// Not these: GLOB (a function, or a file when it has a slash), or function:GLOB, file:GLOB, module:GLOB
    #[arg(long, value_name = "[KIND:]GLOB", value_parser = parse_exclusion, help_heading = WHAT)]
    pub exclude: Vec<Exclusion>,
    /// Only calls that took at least this long, for example 5ms: one event per finished call
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = WHAT)]
    pub min_duration: Option<Duration>,
    /// Leave the semaphore of Python 3.11's line probe alone, although calls are incomplete then
    #[arg(long, help_heading = WHAT)]
    pub no_line_semaphore: bool,
}

/// Limits and output.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Stop after this time, for example 30s or 2m; a bare number means seconds
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// Stop after N events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = OUTPUT)]
    pub max_events: Option<u64>,
    /// json: one object per line; flow: an indented call tree; chrome, perfetto: timelines for their viewers [default: flow on a
    /// terminal, json otherwise]
    #[arg(short, long, value_enum, help_heading = OUTPUT)]
    pub format: Option<Format>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
}

/// Recordings in parts: shown with `record` alone.
#[derive(Debug, Clone, Args)]
pub struct PartArgs {
    /// Begin another file at this age or size, such as 10m, 1h or 100MB; --output is a directory then, for as long as it takes
    #[arg(long, value_name = "TIME|SIZE", hide = true, help_heading = OUTPUT)]
    pub rotate: Option<Every>,
    /// Keep the last N files (with --rotate), and as many more in which --on-slow saw a slow call
    #[arg(long, value_name = "N", requires = "rotate", default_value_t = 24, value_parser = most_parts(), hide = true, help_heading = OUTPUT)]
    pub keep: usize,
    /// Keep what is around calls of a function that took so long, for example 'spawn>2s': the files in which it ran, and the one
    /// before (with --rotate); may be repeated
    #[arg(long, value_name = "FUNCTION>TIME", requires = "rotate", hide = true, help_heading = OUTPUT)]
    pub on_slow: Vec<OnSlow>,
}

/// How many parts can be kept.
fn most_parts() -> clap::builder::RangedI64ValueParser<usize> {
    clap::builder::RangedI64ValueParser::new().range(2..=100_000)
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object per line
    Json,
    /// An indented call tree with times
    Flow,
    /// A compressed recording, for `pystap report` and `pystap export`
    Recording,
    /// A timeline for chrome://tracing and Perfetto
    Chrome,
    /// The same in Perfetto's own format, which is smaller
    Perfetto,
}

/// `pystap report`.
#[derive(Debug, Args)]
pub struct Report {
    /// A recording, or a trace that was written as JSON
    pub file: PathBuf,
    /// Garbage collections: by generation, pauses, the longest ones with the function that ran
    #[arg(long, conflicts_with = "stats", help_heading = SHOWN)]
    pub gc: bool,
    /// Latencies of these functions: distribution, slowest calls; NAME or FILE:NAME, as globs
    #[arg(long, value_name = "FUNCTION", num_args = 1.., value_parser = parse_glob, help_heading = SHOWN)]
    pub stats: Vec<Glob>,
    /// Column by which functions are sorted
    #[arg(long, value_enum, default_value_t = Column::SelfTime, help_heading = SHOWN)]
    pub sort: Column,
    /// The other way round
    #[arg(short, long, help_heading = SHOWN)]
    pub reverse: bool,
    /// How many functions, pauses or slow calls
    #[arg(short, long, value_name = "N", default_value_t = 30, help_heading = SHOWN)]
    pub limit: usize,
    /// One row per function and process
    #[arg(long, help_heading = SHOWN)]
    pub by_process: bool,
    /// Rows of their own for the kinds of greenlets and asyncio tasks (with the agent), and of threads
    #[arg(long, conflicts_with_all = ["gc", "stats"], help_heading = SHOWN)]
    pub by_context: bool,
    /// Idleness, too: hubs of event loops and workers of pools that wait for work
    #[arg(long, help_heading = SHOWN)]
    pub idle: bool,
    /// Times as they were measured, with the tracer's own cost in them
    #[arg(long, conflicts_with = "gc", help_heading = SHOWN)]
    pub raw_times: bool,
    /// Rows of their own for the values of a field (recorded with --field)
    #[arg(long, value_name = "FIELD", conflicts_with = "gc", help_heading = SHOWN)]
    pub group_by: Option<String>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// The table as `pystap top` shows it, to sort and filter at will
    #[arg(short, long, conflicts_with_all = ["gc", "stats", "json"], help_heading = OUTPUT)]
    pub browse: bool,
    /// Everything as a page for a browser, into this file: the same as export -f html
    #[arg(long, value_name = "FILE", conflicts_with_all = ["gc", "stats", "browse", "json", "by_context"], help_heading = OUTPUT)]
    pub html: Option<PathBuf>,
}

/// `pystap request`.
#[derive(Debug, Args)]
pub struct Request {
    /// The id of a request, if one is to be shown, then recordings or traces that were written as JSON
    #[arg(value_name = "[ID] RECORDING", num_args = 1.., required = true)]
    pub id_and_files: Vec<PathBuf>,
    /// Only this field names requests; may be repeated [default: every field for an ID; without one, those that are
    /// called like requests]
    #[arg(long, value_name = "NAME", help_heading = SHOWN)]
    pub field: Vec<String>,
    /// How many calls, slowest parts or requests, the longest first
    #[arg(short, long, value_name = "N", default_value_t = 100, help_heading = SHOWN)]
    pub limit: usize,
    /// Leave out calls and requests that took less
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = SHOWN)]
    pub min_duration: Option<Duration>,
    /// List requests by their duration, and not the newest first
    #[arg(long, help_heading = SHOWN)]
    pub slowest: bool,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// `pystap merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Recordings, or traces that were written as JSON. HOST is what the host is called, instead of by its own name
    #[arg(required = true, value_name = "[HOST=]RECORDING")]
    pub files: Vec<OsString>,
    /// The clock of this host is ahead by so much (behind, with a minus sign): its times are set back; may be repeated
    #[arg(long = "clock", value_name = "HOST=TIME", value_parser = parse_clock, allow_hyphen_values = true, help_heading = WHAT)]
    pub clocks: Vec<HostClock>,
    /// Write the recording to this file
    #[arg(short, long, value_name = "FILE", required = true, help_heading = OUTPUT)]
    pub output: PathBuf,
}

/// By how much the clock of a host is ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClock {
    /// The host.
    pub host: String,
    /// Nanoseconds; negative where it is behind.
    pub ahead_ns: i64,
}

/// `web1=3s`, `web1=-200ms`.
fn parse_clock(text: &str) -> Result<HostClock, String> {
    let wrong = || "it is not a host and a time such as web1=3s or web1=-200ms".to_owned();
    let (host, time) = text.split_once('=').ok_or_else(wrong)?;
    let (sign, time) = match time.strip_prefix('-') {
        Some(time) => (-1, time),
        None => (1, time.strip_prefix('+').unwrap_or(time)),
    };
    let time = parse_duration(time)?;
    let ahead = i64::try_from(time.as_nanos()).map_err(|_| wrong())?;
    match host.is_empty() {
        true => Err(wrong()),
        false => Ok(HostClock {
            host: host.to_owned(),
            ahead_ns: sign * ahead,
        }),
    }
}

/// `pystap export`.
#[derive(Debug, Args)]
pub struct Export {
    /// A recording, or a trace that was written as JSON
    pub file: PathBuf,
    /// Leave out of a flame graph what takes less than so many percent of the time
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, default_value = "0.01", help_heading = SHOWN)]
    pub min_width: f64,
    /// Put the kind of greenlet, asyncio task or thread below its stacks (folded and flamegraph, with the agent)
    #[arg(long, help_heading = SHOWN)]
    pub by_context: bool,
    /// Tell functions apart by the values of a field (recorded with --field; not json, which has all fields)
    #[arg(long, value_name = "FIELD", help_heading = SHOWN)]
    pub group_by: Option<String>,
    /// Which time (folded and flamegraph, of a recording made with --waits or --sample); without it, time on the clock
    #[arg(long, value_enum, value_name = "WHICH", help_heading = SHOWN)]
    pub time: Option<ExportTime>,
    /// Idleness, too: hubs of event loops and workers of pools that wait for work; in formats other than folded, flamegraph and pprof,
    /// calls of --min-duration that are so long only by that
    #[arg(long, help_heading = SHOWN)]
    pub idle: bool,
    /// Times as they were measured, with the tracer's own cost in them (folded, flamegraph, pprof, pstats and the latencies of parquet; other formats have
    /// them so)
    #[arg(long, help_heading = SHOWN)]
    pub raw_times: bool,
    /// Events of this service below --output by host and hour, as service=…/host=…/hour=…/part-N.parquet (parquet); what is there
    /// already stays
    #[arg(long, value_name = "SERVICE", help_heading = SHOWN)]
    pub partition: Option<String>,
    /// Calls of functions with such a name (otlp), instead of all; may be repeated
    #[arg(long = "function", value_name = "GLOB", value_parser = parse_glob, help_heading = SHOWN)]
    pub functions: Vec<Glob>,
    /// And what they call, from this duration on (otlp); without --function, the outermost calls and what these call
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = SHOWN)]
    pub min_duration: Option<Duration>,
    /// Put spans into the trace of the request that their fields name (otlp)
    #[arg(long, value_enum, value_name = "BY", help_heading = SHOWN)]
    pub link: Option<LinkChoice>,
    /// Show what has changed since this recording (html)
    #[arg(long, value_name = "RECORDING", help_heading = SHOWN)]
    pub diff: Option<PathBuf>,
    /// The format
    #[arg(short, long, value_enum, help_heading = OUTPUT)]
    pub format: ExportFormat,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// Spans to a receiver.
    #[command(flatten)]
    pub otlp: OtlpArgs,
}

/// Which time of a function is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportTime {
    /// Without waits
    Cpu,
    /// Waits alone, with their reasons
    Off,
    /// Both, waits with their reasons
    Wall,
}

/// What stacks can be made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StacksFormat {
    /// Stacks with their time, one per line, for flame graph tools
    Folded,
    /// A flame graph, as SVG
    Flamegraph,
}

/// What a recording can be made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Stacks with their time, one per line, for flame graph tools
    Folded,
    /// A flame graph, as SVG
    Flamegraph,
    /// Trace events for chrome://tracing, Perfetto and speedscope
    Chrome,
    /// A trace for Perfetto in its own format, which is smaller
    Perfetto,
    /// For pprof: stacks with calls, time, CPU and off-CPU time, by process, thread and context
    Pprof,
    /// A page for a browser: flame graph, timeline, functions, pauses; one file, without a network
    Html,
    /// For speedscope.app
    Speedscope,
    /// For Python's own pstats
    Pstats,
    /// Tables of events and of functions for DuckDB, ClickHouse and others; --output is the directory for both
    Parquet,
    /// Spans for OpenTelemetry: one request of its protocol, or sent as many with --otlp
    Otlp,
    /// Events, as `pystap trace -f json` writes them
    Json,
}

/// Which engine, and how it is run.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// direct: pystap's agent alone, without the kernel and without root; stap: a SystemTap module; uprobes: the kernel's own
    /// uprobe events; auto: direct where the agent gets into every target, otherwise stap where it can run, otherwise uprobes
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto, value_name = "ENGINE", help_heading = ENGINE)]
    pub engine: EngineChoice,
    /// Buffer per processor in megabytes [default: 16 at most]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=4095), help_heading = ENGINE)]
    pub buffer: Option<u32>,
    /// Whether and how the agent comes into play.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Load the module of this bundle, which `pystap bundle` made elsewhere: needs no stap, compiler or headers, only staprun. What
    /// is not asked for here is as the bundle has it
    #[arg(long, value_name = "FILE", help_heading = SYSTEMTAP)]
    pub bundle: Option<PathBuf>,
    /// Which stap, and what it is told.
    #[command(flatten)]
    pub stap: StapArgs,
    /// Templates and tapsets here add to the built-in ones or override them
    #[arg(long, value_name = "DIRECTORY", help_heading = SYSTEMTAP)]
    pub template_dir: Option<PathBuf>,
}

/// SystemTap.
#[derive(Debug, Clone, Default, Args)]
pub struct StapArgs {
    /// The stap to use [default: from PATH]
    #[arg(long, value_name = "PATH", help_heading = SYSTEMTAP)]
    pub stap: Option<PathBuf>,
    /// One more argument for stap when it compiles the script; may be repeated
    #[arg(long = "stap-arg", value_name = "ARG", allow_hyphen_values = true, help_heading = SYSTEMTAP)]
    pub stap_args: Vec<String>,
}

/// The agent.
#[derive(Debug, Clone, Default, Args)]
pub struct AgentArgs {
    /// Take calls from pystap's agent even where the interpreter has probes of its own
    #[arg(long, conflicts_with = "no_agent", help_heading = AGENT)]
    pub agent: bool,
    /// Load nothing into any process: only the interpreters' own probes
    #[arg(long, help_heading = AGENT)]
    pub no_agent: bool,
    /// Bring the agent into running processes in this way, unless it waits in them already
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "no_agent", help_heading = AGENT)]
    pub inject: Option<Injection>,
    /// Arm the interpreter's own function probes even where a path of the program is not UTF-8, which ends programs of
    /// CPython 3.11 and older
    #[arg(long, help_heading = AGENT)]
    pub trust_paths: bool,
}

/// Ways that are only taken when they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Injection {
    /// One thread is stopped for a moment and made to load it
    Ptrace,
}

/// Values that can be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Captured {
    /// Arguments of calls
    Args,
    /// What is returned
    Return,
}

/// Engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// direct where the agent gets into every target, otherwise stap, otherwise uprobes
    Auto,
    /// A SystemTap module
    Stap,
    /// The kernel's own uprobe events
    Uprobes,
    /// Memory that pystap's agent writes, without the kernel and without root
    Direct,
}

impl EngineChoice {
    /// The name of the engine that was asked for; `None` when the choice is left to us.
    pub fn name(self) -> Option<String> {
        let value = self
            .to_possible_value()
            .filter(|_| self != EngineChoice::Auto);
        value.map(|value| value.get_name().to_owned())
    }
}

/// Samples per second, where nothing else is asked for.
pub const USUAL_RATE: u32 = 100;

/// What is about probes, the agent or single calls, of which samples know nothing.
const NOT_OF_SAMPLES: [&str; 24] = [
    "fields",
    "group_by",
    "raw_times",
    "waits",
    "dry_run",
    "compile_only",
    "no_kernel_totals",
    "events",
    "functions",
    "files",
    "modules",
    "exclude",
    "min_duration",
    "no_line_semaphore",
    "engine",
    "stap",
    "stap_args",
    "buffer",
    "bundle",
    "template_dir",
    "agent",
    "no_agent",
    "inject",
    "trust_paths",
];

/// The same of what is recorded.
const NOT_RECORDED_OF_SAMPLES: [&str; 24] = [
    "waits",
    "dry_run",
    "compile_only",
    "events",
    "functions",
    "files",
    "modules",
    "exclude",
    "min_duration",
    "max_events",
    "no_line_semaphore",
    "engine",
    "stap",
    "stap_args",
    "buffer",
    "bundle",
    "template_dir",
    "agent",
    "no_agent",
    "inject",
    "trust_paths",
    "kernel",
    "capture",
    "fields",
];

/// `pystap top`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("values").args(["fields"]).multiple(true)))]
pub struct Top {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// On which hosts.
    #[command(flatten)]
    pub hosts: HostArgs,
    /// What to trace.
    #[command(flatten)]
    pub what: WhatArgs,
    /// Also how long functions were blocked, waited for a processor or for the GIL, from the kernel's scheduler: columns OFF, RUNQ
    /// and GIL. Every call is sent to pystap then. Needs root
    #[arg(long, conflicts_with_all = ["compile_only", "min_duration"], help_heading = WHAT)]
    pub waits: bool,
    /// By samples: reads the stacks of all threads so many times per second while it runs on, from outside, without probes
    /// and without the agent; everything is an estimate then. 100 times per second unless RATE is given
    #[arg(
        long,
        value_name = "RATE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "100",
        value_parser = clap::value_parser!(u32).range(1..=1000),
        conflicts_with_all = NOT_OF_SAMPLES, help_heading = WHAT)]
    pub sample: Option<u32>,
    /// Each table of what happened since the one before, and not since the beginning (with --batch or --json)
    #[arg(long, conflicts_with = "sample", help_heading = SHOWN)]
    pub since_last: bool,
    /// Column by which functions are sorted
    #[arg(long, value_enum, default_value_t = Column::SelfTime, help_heading = SHOWN)]
    pub sort: Column,
    /// How many functions (with --batch or --json)
    #[arg(short, long, value_name = "N", default_value_t = 30, help_heading = SHOWN)]
    pub limit: usize,
    /// One row per function and process (with --batch or --json)
    #[arg(long, help_heading = SHOWN)]
    pub by_process: bool,
    /// Rows of their own for the kinds of greenlets and asyncio tasks (with the agent), and of threads; adds up in pystap and not in the
    /// kernel
    #[arg(long, help_heading = SHOWN)]
    pub by_context: bool,
    /// Rows of their own for the values of a --field; adds up in pystap
    #[arg(long, value_name = "FIELD", requires = "values", help_heading = SHOWN)]
    pub group_by: Option<String>,
    /// Idleness, too: hubs of event loops and workers of pools that wait for work
    #[arg(long, help_heading = SHOWN)]
    pub idle: bool,
    /// Times as they were measured, with the tracer's own cost in them
    #[arg(long, help_heading = SHOWN)]
    pub raw_times: bool,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// Time between tables
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Duration,
    /// Stop after N tables (with --batch or --json)
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = OUTPUT)]
    pub count: Option<u64>,
    /// Lines instead of a live table
    #[arg(short, long, help_heading = OUTPUT)]
    pub batch: bool,
    /// Write to this file instead of standard output (with --batch or --json)
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON, one line per table
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Values of calls by name.
    #[command(flatten)]
    pub fields: FieldArgs,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print the plan, and the script and command lines of stap or the uprobe events, and do nothing
    #[arg(long, help_heading = ENGINE)]
    pub dry_run: bool,
    /// Send every call to pystap instead of adding up where it happens, which is in the kernel with SystemTap and in the program
    /// with --engine direct: costs the program more, and follows greenlets better with SystemTap
    #[arg(long, help_heading = ENGINE)]
    pub no_kernel_totals: bool,
    /// Compile the script, keep the module for later, and do nothing else
    #[arg(long, conflicts_with = "dry_run", help_heading = SYSTEMTAP)]
    pub compile_only: bool,
    /// Compile for this kernel release instead of the running one
    #[arg(
        long,
        value_name = "RELEASE",
        requires = "compile_only", help_heading = SYSTEMTAP)]
    pub kernel: Option<String>,
}

/// `pystap gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Trace calls as well, to say which function ran; costs as much as tracing calls does
    #[arg(long, help_heading = WHAT)]
    pub functions: bool,
    /// How many of the longest pauses
    #[arg(short, long, value_name = "N", default_value_t = 10, help_heading = SHOWN)]
    pub limit: usize,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// One line per TIME, the summary at the end [default: 2s; with --json only the summary]
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `pystap stats`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("values").args(["fields"]).multiple(true)))]
pub struct Stats {
    /// Functions: NAME or FILE:NAME, as globs
    #[arg(required = true, value_name = "FUNCTION", value_parser = parse_glob)]
    pub functions: Vec<Glob>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Trace all calls, to say who called; costs as much as tracing all calls does
    #[arg(long, help_heading = WHAT)]
    pub callers: bool,
    /// Apart by the values of a --field
    #[arg(long, value_name = "FIELD", requires = "values", help_heading = SHOWN)]
    pub group_by: Option<String>,
    /// Times as they were measured, with the tracer's own cost in them
    #[arg(long, help_heading = SHOWN)]
    pub raw_times: bool,
    /// How many of the slowest calls
    #[arg(short, long, value_name = "N", default_value_t = 10, help_heading = SHOWN)]
    pub limit: usize,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// One line per function and TIME, the summary at the end [default: 2s; with --json only the summary]
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Values of calls by name.
    #[command(flatten)]
    pub fields: FieldArgs,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
}

fn parse_url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest)
            if !rest.is_empty()
                && !text.chars().any(|it| it.is_whitespace() || it.is_control()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("not an address of HTTP, as http://127.0.0.1:4318 is one".to_owned()),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let wrong = |_| "not an address with a port, as 127.0.0.1:9464 is one".to_owned();
    text.parse().map_err(wrong)
}

/// `pystap export-metrics`.
#[derive(Debug, Args)]
pub struct ExportMetrics {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Functions: NAME or FILE:NAME, as globs; may be repeated
    #[arg(long = "function", required = true, value_name = "GLOB", value_parser = parse_glob, help_heading = WHAT)]
    pub functions: Vec<Glob>,
    /// Count exceptions, too, and tell generations of collections apart: every call is told singly then, which costs more
    #[arg(long, help_heading = WHAT)]
    pub exceptions: bool,
    /// Count waits of threads by their reasons, too, for which every call is told singly; needs root
    #[arg(long, help_heading = WHAT)]
    pub waits: bool,
    /// Functions with a series of their own; those that come later are counted together
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = SHOWN)]
    pub max_series: u32,
    /// Answer Prometheus at this address [default: 127.0.0.1:9464, unless --otlp is given]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen, help_heading = OUTPUT)]
    pub listen: Option<SocketAddr>,
    /// To a receiver.
    #[command(flatten)]
    pub otlp: OtlpArgs,
    /// How often they are sent
    #[arg(long, value_name = "TIME", default_value = "15s", requires = "url", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Duration,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// Show what would be done, and do nothing
    #[arg(long, help_heading = OUTPUT)]
    pub dry_run: bool,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// A receiver of OpenTelemetry.
#[derive(Debug, Clone, Default, Args)]
pub struct OtlpArgs {
    /// Send to an OpenTelemetry receiver, by OTLP over HTTP: /v1/metrics or /v1/traces below this address
    #[arg(long = "otlp", value_name = "URL", value_parser = parse_url, help_heading = OUTPUT)]
    pub url: Option<String>,
    /// Fields of HTTP for that, each as a line `Name: value` of this file, for example what authorises
    #[arg(long = "otlp-headers", value_name = "FILE", requires = "url", help_heading = OUTPUT)]
    pub headers: Option<PathBuf>,
    /// How long the receiver may take for an answer
    #[arg(long = "otlp-timeout", value_name = "TIME", default_value = "10s", requires = "url", value_parser = parse_patience, help_heading = OUTPUT)]
    pub timeout: Duration,
}

/// In which values of a program it is looked for which request it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkChoice {
    /// The request_id and global_request_id of oslo.context
    Oslo,
    /// The current span of OpenTelemetry's API, else the traceparent of W3C that came with a request
    Otel,
}

/// `pystap rpc`, `pystap sql`, `pystap http` and `pystap recipe`.
#[derive(Debug, Args)]
pub struct ByRecipe {
    /// A service, as with --service
    #[arg(value_name = "SERVICE", conflicts_with = "service")]
    pub of: Option<String>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// How many rows (JSON has all)
    #[arg(short, long, value_name = "N", default_value_t = 30, help_heading = SHOWN)]
    pub limit: usize,
    /// How many of the slowest calls
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = SHOWN)]
    pub slowest: usize,
    /// The distribution of each row, too
    #[arg(long, help_heading = SHOWN)]
    pub distribution: bool,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// A line for each row that changed every TIME, the table at the end [default: 2s; with --json only the table]
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Names of fields whose values are left out, matched without case; `none` leaves nothing out
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "GLOB,…",
        default_values = USUALLY_HIDDEN,
        value_parser = parse_glob, help_heading = VALUES)]
    pub capture_hide: Vec<Glob>,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `pystap why`.
#[derive(Debug, Args)]
pub struct Why {
    /// Functions: NAME or FILE:NAME, as globs
    #[arg(required = true, value_name = "FUNCTION", value_parser = parse_glob)]
    pub functions: Vec<Glob>,
    /// Which processes.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Only calls that took at least this long; the last ones are shown one by one, too
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = WHAT)]
    pub min_duration: Option<Duration>,
    /// A line for each call, as they end
    #[arg(long, help_heading = SHOWN)]
    pub each: bool,
    /// How many calls of each function --min-duration shows one by one
    #[arg(short, long, value_name = "N", default_value_t = 20, help_heading = SHOWN)]
    pub limit: usize,
    /// Stop after this time
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = OUTPUT)]
    pub duration: Option<Duration>,
    /// What came of it so far every TIME, too [default: only at the end]
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Which engine, and how it is run.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `pystap ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Only processes of this service
    pub service: Option<String>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// `pystap marks`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("of").required(true).args(["path", "pid"]))]
pub struct Marks {
    /// An interpreter or a library
    pub path: Option<PathBuf>,
    /// The interpreter of this process
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), help_heading = TARGETS)]
    pub pid: Option<u32>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// `pystap doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// Examine the interpreter of this process; may be repeated [default: every running interpreter]
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), help_heading = TARGETS)]
    pub pids: Vec<u32>,
    /// Examine the interpreters of Python processes whose command line matches
    #[arg(long = "match", value_name = "REGEX", value_parser = parse_regex, help_heading = TARGETS)]
    pub pattern: Option<Regex>,
    /// Examine this interpreter
    #[arg(long, value_name = "PATH", help_heading = TARGETS)]
    pub python: Option<PathBuf>,
    /// Event kinds that are wanted, as `trace` takes them; the exit status is about them
    #[arg(short, long, value_delimiter = ',', value_name = "KIND,…", help_heading = WHAT)]
    pub events: Vec<String>,
    /// Build a small module, the only proof that stap works here; with `run`, load it too. The outcome is remembered
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "compile", help_heading = WHAT)]
    pub trial: Option<Trying>,
    /// Examine the facts in this file instead of this host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pids", "pattern", "python", "trial", "stap", "template_dir", "save_facts"], help_heading = WHAT)]
    pub facts: Option<PathBuf>,
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Print one shell script with all fixes in order; nothing is run
    #[arg(long, conflicts_with = "json", help_heading = OUTPUT)]
    pub fix_script: bool,
    /// Write everything that was found out to this file, to be examined elsewhere
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub save_facts: Option<PathBuf>,
    /// The engine that is to run; the exit status is about it
    #[arg(long, value_enum, value_name = "ENGINE", help_heading = ENGINE)]
    pub engine: Option<EngineChoice>,
    /// The stap to examine [default: from PATH]
    #[arg(long, value_name = "PATH", help_heading = SYSTEMTAP)]
    pub stap: Option<PathBuf>,
    /// Templates here are examined, too
    #[arg(long, value_name = "DIRECTORY", help_heading = SYSTEMTAP)]
    pub template_dir: Option<PathBuf>,
}

/// How far a trial goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Trying {
    /// Build the module
    Compile,
    /// Load it as well, and take it away again
    Run,
}

/// `pystap list`.
#[derive(Debug, Args)]
pub struct List {
    /// As JSON
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Templates and tapsets here add to the built-in ones or override them
    #[arg(long, value_name = "DIRECTORY", help_heading = SYSTEMTAP)]
    pub template_dir: Option<PathBuf>,
}

/// What `--exclude` leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// Functions with such a name.
    Function(Glob),
    /// Functions in such files.
    File(Glob),
    /// Functions in such modules.
    Module(Glob),
}

fn parse_regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        // The report of the regex crate ends with the reason; before it is a drawing of several lines.
        let reason = error.to_string();
        let reason = reason
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        format!("it is not a regular expression: {reason}")
    })
}

fn parse_glob(text: &str) -> Result<Glob, String> {
    Glob::new(text).map_err(|error| error.to_string())
}

fn parse_field(text: &str) -> Result<Field, String> {
    Field::parse(text).map_err(|error| error.to_string())
}

fn parse_module(text: &str) -> Result<Glob, String> {
    Glob::module(text).map_err(|error| error.to_string())
}

fn parse_exclusion(text: &str) -> Result<Exclusion, String> {
    if let Some(glob) = text.strip_prefix("function:") {
        parse_glob(glob).map(Exclusion::Function)
    } else if let Some(glob) = text.strip_prefix("file:") {
        parse_glob(glob).map(Exclusion::File)
    } else if let Some(glob) = text.strip_prefix("module:") {
        parse_module(glob).map(Exclusion::Module)
    } else if text.contains('/') {
        parse_glob(text).map(Exclusion::File)
    } else {
        parse_glob(text).map(Exclusion::Function)
    }
}

/// A reason by its word.
fn reasons() -> impl TypedValueParser<Value = Reason> {
    PossibleValuesParser::new(Reason::ALL.map(Reason::word)).map(|word| {
        let known = Reason::ALL.into_iter();
        let mut named = known.filter(|reason| reason.word() == word);
        named.next().unwrap_or(Reason::Other)
    })
}

/// Time between two tables or lines.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("it is too short to be seen; write 100ms or more".to_owned());
    }
    Ok(interval)
}

/// A share of a whole.
fn parse_percent(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "it is not a number from 0 to 100".to_owned())
}

/// A time such as `5ms`, `200us`, `1.5s`, `2m` or `1h 30m`; a bare number means seconds.
/// What a receiver may keep somebody waiting.
fn parse_patience(text: &str) -> Result<Duration, String> {
    let patience = parse_interval(text)?;
    if patience > Duration::from_secs(300) {
        return Err("it is longer than five minutes".to_owned());
    }
    Ok(patience)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut time = text.to_owned();
    if time.starts_with('.') {
        time.insert(0, '0');
    }
    if time
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        time.push('s');
    }
    let duration = humantime::parse_duration(&time).map_err(|_| {
        "it is not a time; write a number and a unit, for example 200us, 5ms, 30s or 2m".to_owned()
    })?;
    if duration.is_zero() {
        return Err("it is no time at all; leave the option out instead".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_duration("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0.1h"), Ok(Duration::from_secs(360)));
        assert_eq!(parse_duration("0.75"), Ok(Duration::from_millis(750)));
        assert_eq!(parse_duration(".5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration(".5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7µs"), Ok(Duration::from_micros(7)));
        assert_eq!(parse_duration("9ns"), Ok(Duration::from_nanos(9)));
        assert_eq!(parse_duration("5 ms"), Ok(Duration::from_millis(5)));
        assert_eq!(
            parse_duration("0.3333m"),
            Ok(Duration::from_micros(19_998_000))
        );
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for wrong in [
            "",
            "ms",
            "5 parsecs",
            "-3s",
            "1e9",
            "0",
            "0s",
            "999999999999999999999h",
            "1.2.3s",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_exclusion_says_by_a_slash_or_a_prefix_what_it_is_about() {
        let function = |text| matches!(parse_exclusion(text), Ok(Exclusion::Function(_)));
        assert!(function("_get*"));
        assert!(function("function:_get*"));
        assert!(!function("*/logging/*"));
        assert!(!function("file:logging.py"));
        assert!(!function("module:logging.*"));
        assert!(parse_exclusion("[a").is_err());
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_answered_in_one_line() {
        let error = parse_regex("nova-(").unwrap_err();
        assert!(
            !error.contains('\n') && error.contains("unclosed"),
            "{error}"
        );
    }
}
