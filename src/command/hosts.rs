//! `--host` and `--hosts` of `trace`, `record`, `top` and `dump`: what was typed is done on other hosts and shown here; and
//! `pystap on-host`, which does it there.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::unbounded;
use serde_json::Value;

use super::{print, screen, top, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli::{self, Cli, Command, HostArgs};
use crate::console::{Console, Exit};
use crate::event::hosts::MOST_HOSTS;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::files::reading;
use crate::hosts::forwarded;
use crate::hosts::remote::{Reach, Remote, Word};
use crate::hosts::serving;
use crate::recording::Continuous;
use crate::session::elsewhere;
use crate::session::request::SessionRequest;
use crate::session::stop::StopSignals;
use crate::text::Foreign;
use crate::threads;

/// Largest file of hosts, and the largest dump of one.
const MOST_NAMES: u64 = 1 << 20;
const MOST_DUMP: u64 = 64 << 20;

/// Options that are about hosts, the end of a session, or where it is written to: they count here.
const OWN: [&str; 22] = [
    "color",
    "quiet",
    "verbose",
    "help",
    "hosts",
    "hosts_from",
    "remote_pystap",
    "remote_sudo",
    "ssh",
    "wait_for_hosts",
    "duration",
    "max_events",
    "format",
    "output",
    "sample",
    "idle",
    "by_context",
    "rotate",
    "keep",
    "on_slow",
    "exit_with_command",
    "command",
];

/// Whether something is to be done on other hosts.
pub(super) fn are_meant(command: &Command) -> bool {
    hosts(command).is_some_and(HostArgs::is_any)
}

fn hosts(command: &Command) -> Option<&HostArgs> {
    match command {
        Command::Trace(arguments) | Command::Record(arguments) => Some(&arguments.hosts),
        Command::Top(arguments) => Some(&arguments.hosts),
        Command::Dump(arguments) => Some(&arguments.hosts),
        _ => None,
    }
}

/// Does it on other hosts.
pub(super) fn run(cli: &Cli, console: &Console) -> Result<u8, Failure> {
    let Some(typed) = hosts(&cli.command) else {
        return Err(Failure::new(
            Exit::Usage,
            "this is done here only; leave out --host",
        ));
    };
    let names = names(typed)?;
    match &cli.command {
        Command::Dump(arguments) => {
            let reach = reach(typed, cli, "dump", &[])?;
            dumps(&names, &reach, arguments.json, console)
        }
        Command::Top(arguments) => {
            top::check(arguments)?;
            only_here([
                (arguments.sample.is_some(), "--sample"),
                (arguments.dry_run, "--dry-run"),
                (arguments.compile_only, "--compile-only"),
                (
                    !arguments.targets.command.is_empty(),
                    "a command to be launched",
                ),
            ])?;
            let elsewhere = Elsewhere {
                reach: reach(typed, cli, "trace", &["--format=recording"])?,
                names: &names,
                typed,
                request: top::request(arguments),
            };
            screen::elsewhere(
                arguments,
                &title(&names, arguments),
                console,
                &|make, stops| elsewhere.run(make, stops, console),
            )
        }
        Command::Trace(arguments) | Command::Record(arguments) => {
            let records = matches!(cli.command, Command::Record(_));
            trace::check(arguments, records)?;
            only_here([
                (arguments.sample.is_some(), "--sample"),
                (arguments.otlp.url.is_some(), "--otlp"),
                (arguments.dry_run, "--dry-run"),
                (arguments.compile_only, "--compile-only"),
                (
                    !arguments.targets.command.is_empty(),
                    "a command to be launched",
                ),
            ])?;
            let mut arguments = arguments.clone();
            if records {
                arguments.output.format = Some(cli::Format::Recording);
            }
            trace::can_be_read(&arguments.output)?;
            let mut request = trace::request(&arguments);
            let continuous = match records {
                true => trace::continuous(&arguments)?,
                false => None,
            };
            if continuous.is_some() {
                request.output = None;
            }
            let elsewhere = Elsewhere {
                reach: reach(typed, cli, "trace", &["--format=recording"])?,
                names: &names,
                typed,
                request,
            };
            let stops = StopSignals::listen()?;
            let make = |output: Output, rules: PairingRules| -> Box<dyn Sink> {
                match &continuous {
                    Some((directory, rotation)) => Box::new(Continuous::new(
                        directory,
                        rotation.clone(),
                        rules,
                        trace::part,
                    )),
                    None => trace::sink(&arguments, cli.color, output, rules),
                }
            };
            elsewhere.run(&make, &stops, console)
        }
        _ => Ok(Exit::Usage.code()),
    }
}

/// What is traced, in a few words.
fn title(names: &[String], arguments: &cli::Top) -> String {
    let of = top::title(&arguments.targets, arguments.of.as_ref());
    match names {
        [only] => format!("{of} on {only}"),
        all => format!("{of} on {} hosts", all.len()),
    }
}

/// A session on other hosts.
struct Elsewhere<'a> {
    reach: Reach,
    names: &'a [String],
    typed: &'a HostArgs,
    request: SessionRequest,
}

impl Elsewhere<'_> {
    fn run(
        &self,
        make: &dyn Fn(Output, PairingRules) -> Box<dyn Sink>,
        stops: &StopSignals,
        console: &Console,
    ) -> Result<u8, Failure> {
        elsewhere::run(
            self.names,
            self.reach.clone(),
            self.typed.wait_for_hosts,
            &self.request,
            make,
            stops,
            console,
        )
    }
}

/// Refuses the first that was typed of what is done only here.
fn only_here<const N: usize>(all: [(bool, &str); N]) -> Result<(), Failure> {
    match all.into_iter().find(|(is_typed, _)| *is_typed) {
        Some((_, what)) => Err(Failure::new(
            Exit::Usage,
            format!(
                "{what} is not for other hosts, so nothing was done; leave out --host, or use it there"
            ),
        )),
        None => Ok(()),
    }
}

/// The hosts that were typed, each once.
fn names(typed: &HostArgs) -> Result<Vec<String>, Failure> {
    let mut names = typed.hosts.clone();
    if let Some(path) = &typed.hosts_from {
        let wrong = |error: io::Error| {
            Failure::new(
                Exit::Usage,
                format!(
                    "{}: {error}; it should have a host in each line",
                    Foreign::path(path)
                ),
            )
        };
        let text = reading::read_text(path, MOST_NAMES).map_err(wrong)?;
        for line in text.lines() {
            let name = line.split('#').next().unwrap_or_default().trim();
            if !name.is_empty() {
                names.push(cli::parse_host(name).map_err(|error| {
                    Failure::new(
                        Exit::Usage,
                        format!("{}: {}: {error}", Foreign::path(path), Foreign::new(name)),
                    )
                })?);
            }
        }
    }
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "host {} is named twice, so that its calls would count twice; name it once",
                Foreign::new(twice.as_str())
            ),
        ));
    }
    match names.len() {
        0 => Err(Failure::new(
            Exit::Usage,
            "no host is named; name one with --host",
        )),
        1..=MOST_HOSTS => Ok(names),
        count => Err(Failure::new(
            Exit::Usage,
            format!("{count} hosts are more than one session can have ({MOST_HOSTS}); name fewer"),
        )),
    }
}

/// How the hosts are reached, and what is run there.
fn reach(typed: &HostArgs, cli: &Cli, onto: &str, more: &[&str]) -> Result<Reach, Failure> {
    let all = Cli::whole_command();
    let matches = all.clone().try_get_matches_from(&cli.words);
    let matches = matches.ok();
    let command = matches.as_ref().and_then(|matches| matches.subcommand());
    let find = |name: &str| all.find_subcommand(name);
    let (Some((name, matches)), Some(onto_command)) = (command, find(onto)) else {
        return Err(Failure::new(
            Exit::Failed,
            "what was typed cannot be read again",
        ));
    };
    let Some(from) = find(name) else {
        return Err(Failure::new(
            Exit::Failed,
            "what was typed cannot be read again",
        ));
    };
    let mut words: Vec<OsString> = Vec::new();
    if typed.remote_sudo {
        words.extend(["sudo".into(), "-n".into()]);
    }
    words.extend([
        typed.remote_pystap.clone().into(),
        "on-host".into(),
        "--".into(),
        onto.into(),
    ]);
    words.extend(more.iter().map(OsString::from));
    words.extend(forwarded::words(from, matches, onto_command, &OWN));
    let command = forwarded::for_shell(&words)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(Reach {
        ssh: typed.ssh.split_whitespace().map(OsString::from).collect(),
        command,
        pystap: typed.remote_pystap.clone(),
        sudo: typed.remote_sudo,
    })
}

/// What a host dumped, or why not.
type Dumped = Result<(Vec<u8>, Option<i32>), String>;

/// Shows what every thread does on each host, in the order in which they were named.
fn dumps(names: &[String], reach: &Reach, json: bool, console: &Console) -> Result<u8, Failure> {
    let mut running = Vec::new();
    for name in names {
        let (name, reach, console) = (name.clone(), reach.clone(), console.clone());
        running.push(threads::spawn(move || dump(&name, &reach, &console))?);
    }
    let mut code = Exit::Done.code();
    for (name, thread) in names.iter().zip(running) {
        let shown = Foreign::new(name.as_str());
        let dumped = thread
            .join()
            .unwrap_or_else(|_| Err("it cannot be shown".to_owned()));
        let (output, status) = match dumped {
            Ok(dumped) => dumped,
            Err(why) => {
                console.warning(format_args!("host {shown}: {why}"));
                code = code.max(Exit::Failed.code());
                continue;
            }
        };
        code = code.max(status.and_then(|it| u8::try_from(it).ok()).unwrap_or(1));
        if !json {
            let text = String::from_utf8_lossy(&output);
            if !text.is_empty() {
                print::page(&format!("host {name}\n\n{text}\n"))?;
            }
            continue;
        }
        match serde_json::from_slice::<Value>(&output) {
            Ok(mut document) if document.is_object() => {
                document["host"] = name.as_str().into();
                print::json(&document)?;
            }
            _ if output.is_empty() => {}
            _ => {
                console.warning(format_args!("host {shown}: what it says is no dump of pystap; see what `ssh {shown} pystap dump` says"));
                code = code.max(Exit::Failed.code());
            }
        }
    }
    Ok(code)
}

fn dump(name: &str, reach: &Reach, console: &Console) -> Dumped {
    let (hearing, host) = (console.clone(), name.to_owned());
    let hear = move |word| {
        let host = Foreign::new(host.as_str());
        match word {
            Word::Warning(words) => hearing.warning(format_args!("host {host}: {words}")),
            Word::Detail(words) => hearing.detail(format_args!("host {host}: {words}")),
        }
    };
    let (_stop, stopped) = unbounded();
    let stopping = Arc::<AtomicBool>::default();
    let begun = Remote::begin(name, reach, stopped, &stopping, hear);
    let (remote, _, stream) = begun.map_err(|trouble| trouble.0)?;
    let mut output = Vec::new();
    let read = stream.take(MOST_DUMP).read_to_end(&mut output);
    let status = remote.end();
    match (read, status) {
        (Err(error), _) => Err(error.to_string()),
        (Ok(_), Some(code)) if code != 0 && output.is_empty() => Err(remote.last_words()),
        (Ok(_), status) => Ok((output, status)),
    }
}

/// What another host wants done on this one, once it has asked what time it is, or what is wrong with that; `None` when nobody is
/// there. From then on we end when it has left.
///
/// # Errors
/// When it is nothing that others can have done here.
pub(super) fn wanted(arguments: &[OsString]) -> Result<Option<Result<Cli, clap::Error>>, Failure> {
    let words = [OsString::from("pystap")].into_iter();
    let typed = Cli::typed(words.chain(arguments.iter().cloned()));
    if !serving::greet()? {
        return Ok(None);
    }
    let cli = match typed {
        Ok(cli) if matches!(cli.command, Command::Trace(_) | Command::Dump(_)) => cli,
        Ok(_) => {
            return Err(Failure::new(
                Exit::Usage,
                "another host can have this one trace and dump, and nothing else; use --host there",
            ));
        }
        Err(error) => return Ok(Some(Err(error))),
    };
    serving::end_when_left()?;
    Ok(Some(Ok(cli)))
}
