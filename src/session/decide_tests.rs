//! The decision as a table: a request and a host a row, with what the documents say of it. No host is looked at.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::choose::{mixed_plan, mixing, reaches_all};
use super::decide::decide;
use super::describe::describe;
use super::plan::{NoSource, Plan, PlanError};
use super::request::{AgentUsage, Purpose, SessionRequest};
use super::snapshot::{Bystander, CommandSurvey, HostSnapshot, LoadedAgent, ProcessSurvey};
use super::wanted::OwnTemplate;
use crate::agent::AttachMethod;
use crate::console::Exit;
use crate::elf::{Architecture, Image, Machine, Mark, Semaphore, Site};
use crate::engine::abilities::{Abilities, Obstacle};
use crate::engine::direct::engine::DirectEngine;
use crate::engine::lifecycle::Engine;
use crate::engine::stap::engine::StapEngine;
use crate::engine::uprobes::engine::UprobesEngine;
use crate::probe::{EventKind, Probe};
use crate::process::{Expected, Process, Targets};
use crate::python::marks::{self, PROVIDER};
use crate::python::undecodable::Sign;
use crate::python::{FileId, Interpreter, InterpreterKind, Version};
use crate::script::filter::Glob;

// What is asked for.

fn asked() -> SessionRequest {
    SessionRequest::default()
}

fn asked_for(events: &str) -> SessionRequest {
    SessionRequest {
        events: events.split(',').map(str::to_owned).collect(),
        ..asked()
    }
}

impl SessionRequest {
    fn with(mut self, change: impl FnOnce(&mut SessionRequest)) -> SessionRequest {
        change(&mut self);
        self
    }

    fn engine(self, name: &str) -> SessionRequest {
        self.with(|it| it.engine.named = Some(name.to_owned()))
    }

    fn agent(self, usage: AgentUsage) -> SessionRequest {
        self.with(|it| it.agent.usage = usage)
    }

    fn at_least(self, milliseconds: u64) -> SessionRequest {
        self.with(|it| it.min_duration = Some(Duration::from_millis(milliseconds)))
    }

    fn named_stap(self) -> SessionRequest {
        self.with(|it| it.engine.stap = Some("/opt/stap".into()))
    }

    fn compiling(self) -> SessionRequest {
        self.with(|it| {
            it.purpose = Purpose::Compile {
                kernel: None,
                bundle: None,
            }
        })
    }

    fn function(self, name: &str) -> SessionRequest {
        self.with(|it| it.filters.functions = vec![Glob::new(name).expect("a glob")])
    }

    fn field(self, field: &str) -> SessionRequest {
        let field = crate::field::Field::parse(field).expect("a field");
        self.with(|it| it.agent.fields.push(field))
    }

    fn by_recipe(self) -> SessionRequest {
        self.with(|it| it.agent.by_recipe = true)
    }

    fn by_context(self) -> SessionRequest {
        self.with(|it| it.agent.contexts = true)
    }

    fn capturing(self) -> SessionRequest {
        self.with(|it| it.agent.capture.arguments = true)
    }
}

// What is found.

/// 2.7.9 with the patch whose function__entry has two operands more.
fn arguments_as_text() -> Python {
    debian(9).with(|it| {
        (it.major, it.minor) = (2, 7);
        it.operands = "8@%rax 8@%rbx -4@%ecx 8@%rdx 8@%rsi";
    })
}

impl Python {
    fn without(mut self, probes: &[Probe]) -> Python {
        self.probes.retain(|probe| !probes.contains(probe));
        self
    }
}

/// An interpreter in a file of its own.
#[derive(Clone)]
struct Python {
    minor: u8,
    probes: Vec<Probe>,
    /// Whether its version is known.
    versioned: bool,
    replaced: bool,
    displaced: bool,
    /// Whether the sites of its probes are in a part of the file.
    in_file: bool,
    /// Operands of each site, as notes have them.
    operands: &'static str,
    major: u8,
    needed: &'static str,
    file: u64,
}

/// As distributions build it: with what `--with-dtrace` gives in this version.
fn debian(minor: u8) -> Python {
    let expected = marks::expected((3, minor)).into_iter();
    Python {
        probes: expected.filter_map(Probe::of_name).collect(),
        ..plain(minor)
    }
}

/// As python.org, pyenv, uv and conda build it: without any probe.
fn plain(minor: u8) -> Python {
    Python {
        minor,
        probes: Vec::new(),
        versioned: true,
        replaced: false,
        displaced: false,
        in_file: true,
        operands: "",
        major: 3,
        needed: "libc.so.6",
        file: u64::from(minor),
    }
}

impl Python {
    fn with(mut self, change: impl FnOnce(&mut Python)) -> Python {
        change(&mut self);
        self
    }

    fn file(&self) -> FileId {
        FileId {
            device: 1,
            inode: self.file,
        }
    }

    fn interpreter(&self) -> Interpreter {
        let path = PathBuf::from(format!("/usr/bin/python3.{}", self.minor));
        let mark = |(at, probe): (u64, &Probe)| {
            let offset = 0x1000 + at * 0x10;
            let distance = if self.displaced { 0x1000 } else { 0 };
            Mark {
                provider: PROVIDER.to_owned(),
                name: probe.name().to_owned(),
                sites: vec![Site {
                    address: offset + distance,
                    file_offset: self.in_file.then_some(offset),
                    semaphore: Some(Semaphore {
                        address: 0x9000 + at,
                        file_offset: Some(0x8000 + at),
                    }),
                    arguments: Vec::new(),
                    argument_text: self.operands.to_owned(),
                }],
            }
        };
        let image = Image {
            path: path.clone(),
            build_id: Some("ab".repeat(20)),
            architecture: Architecture {
                machine: Machine::X86,
                address_size: 8,
                little_endian: true,
            },
            marks: (0..).zip(&self.probes).map(mark).collect(),
            damaged: Vec::new(),
            needed: vec![self.needed.to_owned()],
            run_paths: Vec::new(),
            startup_offset: Some(0x1000),
            python_runtime: None,
        };
        Interpreter {
            reach: path.clone(),
            path,
            file: self.file(),
            kind: InterpreterKind::Executable,
            version: self
                .versioned
                .then(|| Version::of_language(self.major, self.minor)),
            image: Arc::new(image),
            replaced: self.replaced,
        }
    }
}

/// A host before it is known what is asked of it.
#[derive(Clone, Default)]
struct Host {
    processes: Vec<(u32, Python)>,
    surveys: BTreeMap<u32, ProcessSurvey>,
    command: Option<Python>,
    of_command: CommandSurvey,
    is_assumed: bool,
    python: Option<Python>,
    bystanders: Vec<Bystander>,
    templates: Vec<OwnTemplate>,
    forbids_modules: bool,
    lacks_stap: bool,
    stap_failed: bool,
    lacks_uprobes: bool,
}

/// A host with SystemTap 5.2 and uprobe events where nothing runs.
fn host() -> Host {
    Host::default()
}

/// One where an interpreter runs in process 7, into which no agent gets.
fn runs(python: Python) -> Host {
    host().process(7, python)
}

/// One where a command will run an interpreter.
fn launches(python: Python) -> Host {
    let command = Some(python);
    Host { command, ..host() }
}

/// One where every process of an interpreter is wanted, and none runs.
fn everyone_of(python: Python) -> Host {
    let python = Some(python);
    Host { python, ..host() }
}

/// What the real look says of an older Python without an installed agent.
const CLOSED: &str = "it lets nobody in while it runs";

impl Host {
    fn process(mut self, pid: u32, python: Python) -> Host {
        self.processes.push((pid, python));
        self.survey(pid, |it| it.attach = Some(Err(CLOSED.to_owned())))
    }

    fn survey(mut self, pid: u32, change: impl FnOnce(&mut ProcessSurvey)) -> Host {
        change(self.surveys.entry(pid).or_default());
        self
    }

    fn agent_waits(self, pid: u32) -> Host {
        let socket = "pystap-agent".to_owned();
        self.survey(pid, |it| {
            it.attach = Some(Ok(AttachMethod::Dormant { socket }));
            it.loaded = Some(LoadedAgent {
                path: "/usr/lib/pystap_agent.so".into(),
                deleted: false,
                displaced: false,
            });
        })
    }

    fn loaded(self, pid: u32, change: impl FnOnce(&mut LoadedAgent)) -> Host {
        self.survey(pid, |it| change(it.loaded.as_mut().expect("an agent")))
    }

    fn remote(self, pid: u32) -> Host {
        self.survey(pid, |it| it.attach = Some(Ok(AttachMethod::Remote)))
    }

    fn in_container(self, pid: u32) -> Host {
        self.survey(pid, |it| it.elsewhere = true)
    }

    fn not_utf8(self, pid: u32) -> Host {
        self.survey(pid, |it| it.sign = Some(sign()))
    }

    fn started_with(mut self, option: &str) -> Host {
        self.of_command.isolated = Some(option.to_owned());
        self
    }

    fn command_not_utf8(mut self) -> Host {
        self.of_command.sign = Some(sign());
        self
    }

    fn bystander(mut self, pid: u32, python: &Python) -> Host {
        self.bystanders.push(Bystander {
            pid,
            file: python.file(),
            sign: sign(),
        });
        self
    }

    fn template(mut self, name: &str, probes: &[Probe]) -> Host {
        self.templates.push(OwnTemplate {
            name: name.to_owned(),
            probes: probes.to_vec(),
        });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Host)) -> Host {
        change(&mut self);
        self
    }

    fn led_to(self) -> Host {
        self.with(|it| it.is_assumed = true)
    }

    fn without_modules(self) -> Host {
        self.with(|it| it.forbids_modules = true)
    }

    fn without_stap(self) -> Host {
        self.with(|it| it.lacks_stap = true)
    }

    fn without_uprobes(self) -> Host {
        self.with(|it| it.lacks_uprobes = true)
    }

    fn where_stap_failed(self) -> Host {
        self.with(|it| it.stap_failed = true)
    }

    fn snapshot(&self, request: &SessionRequest) -> HostSnapshot {
        let obstacle = |message: &str, forbidden| Obstacle {
            exit: Exit::Unready,
            message: message.to_owned(),
            forbidden,
        };
        let stap = StapEngine::found(
            request,
            (self.forbids_modules).then(|| obstacle("no modules, so SystemTap cannot run", true)),
            (self.lacks_stap).then(|| obstacle("stap was not found, so nothing", false)),
            (self.stap_failed).then(|| "the compiler failed".to_owned()),
        );
        let uprobes = UprobesEngine::found(
            (self.lacks_uprobes).then(|| obstacle("no tracefs, so no uprobe events", false)),
        );
        let engines: Vec<Box<dyn Engine>> =
            vec![Box::new(stap), Box::new(uprobes), Box::new(DirectEngine)];
        let process = |(pid, python): &(u32, Python)| Process {
            pid: *pid,
            start_time: 1,
            comm: "python3".to_owned(),
            command_line: vec!["python3".to_owned(), "app.py".to_owned()],
            mounts: None,
            interpreters: vec![python.interpreter()],
        };
        HostSnapshot {
            targets: Targets {
                processes: self.processes.iter().map(process).collect(),
                command: self.command.as_ref().map(|python| Expected {
                    interpreters: vec![python.interpreter()],
                    note: self.is_assumed.then(|| "python3 in PATH".to_owned()),
                }),
                python: self.python.iter().map(Python::interpreter).collect(),
                everyone: self.python.is_some(),
                ..Targets::default()
            },
            processes: self.surveys.clone(),
            command: self.of_command.clone(),
            bystanders: self.bystanders.clone(),
            own_templates: self.templates.clone(),
            agent_library: "/run/pystap/agent.so".into(),
            engines,
            ..HostSnapshot::default()
        }
    }
}

/// A word of a command line that is not UTF-8.
fn sign() -> Sign {
    let word = OsString::from_vec(b"/srv/caf\xe9.py".to_vec());
    Sign::of_command(&[word], None).expect("a sign")
}

// What is decided.

/// A plan in one line: templates, what each interpreter gives by itself, what the agent does, and the engine.
fn summary(plan: &Plan) -> String {
    let mut text = format!("by {}", plan.templates.join(","));
    for image in &plan.images {
        let version = image.interpreter.version.as_ref();
        let version = version.map_or_else(|| "?".to_owned(), ToString::to_string);
        let _ = write!(text, "; {version} gives {}", given(&image.probes));
        if image.line_semaphore {
            text.push_str(" with the line semaphore");
        }
    }
    if let Some(agent) = &plan.agent {
        text.push_str("; the agent gives ");
        text.push_str(match (&agent.wanted.functions, &agent.wanted.collections) {
            (Some(_), Some(_)) => "functions,collections",
            (Some(_), None) => "functions",
            _ => "collections",
        });
        for (pid, way) in &agent.targets {
            let _ = write!(text, ", {} in {pid}", way.word());
        }
        text.push_str(if agent.launched { ", environment" } else { "" });
        text.push_str(if agent.later { ", later" } else { "" });
    }
    match &plan.sources {
        Ok(sources) => {
            for source in sources {
                let _ = write!(text, "; {}", source.engine);
                if let Some(reason) = &source.reason {
                    let _ = write!(text, " ({reason})");
                }
                if let Some(instead) = source.instead {
                    let _ = write!(text, " else {instead}");
                }
            }
        }
        Err(NoSource::Conflict { engine, what }) => {
            let _ = write!(text, "; not {engine}: {what}");
        }
        Err(NoSource::Obstacle { engine, obstacle }) => {
            let _ = write!(text, "; no {engine}: {}", obstacle.message);
        }
        Err(NoSource::All(all)) => {
            for (engine, obstacle) in all {
                let _ = write!(text, "; no {engine}: {}", obstacle.message);
            }
        }
    }
    text
}

/// Kinds of which all probes are there, and probes of which not.
fn given(probes: &[Probe]) -> String {
    let kinds = EventKind::ALL.into_iter();
    let kinds: Vec<EventKind> = kinds
        .filter(|kind| kind.probes().iter().all(|it| probes.contains(it)))
        .collect();
    let of_kinds: HashSet<Probe> = kinds.iter().flat_map(|it| it.probes()).copied().collect();
    let single = probes.iter().filter(|probe| !of_kinds.contains(probe));
    let names: Vec<&str> = kinds
        .iter()
        .map(|kind| kind.name())
        .chain(single.map(|probe| probe.name()))
        .collect();
    names.join(",")
}

/// What is expected of a row.
enum Expect {
    /// This plan, and these warnings, in order and in part.
    Plan(&'static str, &'static [&'static str]),
    /// This exit code, and a sentence with all of these in it.
    Refusal(u8, &'static [&'static str]),
}

use Expect::{Plan as Planned, Refusal};

type Row = (&'static str, SessionRequest, Host, Expect);

fn check(rows: Vec<Row>) {
    for (what, request, host, expected) in rows {
        match (decide(&request, &host.snapshot(&request)), expected) {
            (Ok(plan), Planned(text, warnings)) => {
                assert_eq!(summary(&plan), text, "{what}");
                assert_eq!(plan.warnings.len(), warnings.len(), "{what}: {plan:?}");
                for (warning, part) in plan.warnings.iter().zip(warnings) {
                    assert!(warning.contains(part), "{what}: {warning}");
                }
            }
            (Err(error), Refusal(exit, parts)) => {
                assert_eq!(error.exit_code(), exit, "{what}: {error}");
                for part in parts {
                    let text = error.to_string();
                    assert!(text.contains(part), "{what}: {text:?} has no {part:?}");
                }
            }
            (Ok(plan), Refusal(..)) => panic!("{what}: planned {}", summary(&plan)),
            (Err(error), Planned(..)) => panic!("{what}: refused, {error}"),
        }
    }
}

/// The plan of a row that has one.
fn plan(request: &SessionRequest, host: &Host) -> Plan {
    decide(request, &host.snapshot(request)).expect("a plan")
}

#[test]
fn kinds_decide_which_templates_and_probes_there_are() {
    check(vec![
        (
            "calls, returns and collections are usual",
            asked().engine("stap"),
            runs(debian(10)),
            Planned("by calls,gc; 3.10 gives call,return,gc; stap", &[]),
        ),
        (
            "lines cost much and are a template of their own",
            asked_for("line").engine("stap"),
            runs(debian(10)),
            Planned("by lines; 3.10 gives line; stap", &[]),
        ),
        (
            "imports and audit events",
            asked_for("import,audit").engine("stap"),
            runs(debian(10)),
            Planned("by imports,audit; 3.10 gives import,audit; stap", &[]),
        ),
        (
            "returns alone need one probe",
            asked_for("return").engine("stap"),
            runs(debian(10)),
            Planned("by calls; 3.10 gives return; stap", &[]),
        ),
        (
            "blanks and empty words between commas do not count",
            asked_for(" gc ,, call").engine("stap"),
            runs(debian(10)),
            Planned("by gc,calls; 3.10 gives call,gc; stap", &[]),
        ),
        (
            "a kind that is none",
            asked_for("gc,calls"),
            runs(debian(10)),
            Refusal(
                2,
                &[
                    "no event kind \"calls\"",
                    "call, return, line, gc, import, audit, instance",
                ],
            ),
        ),
        (
            "single calls are measured from their beginning, and told once",
            asked().at_least(5).engine("stap"),
            runs(debian(10)),
            Planned("by timed_calls,gc; 3.10 gives call,return,gc; stap", &[]),
        ),
        (
            "what is measured is told by its return",
            asked_for("gc,return").at_least(5).engine("stap"),
            runs(debian(10)),
            Planned("by gc,timed_calls; 3.10 gives call,return,gc; stap", &[]),
        ),
        (
            "a shortest call without returns",
            asked_for("call").at_least(5),
            runs(debian(10)),
            Refusal(2, &["--min-duration", "needs the event kind return"]),
        ),
        (
            "the kernel adds up where that is wanted",
            asked().with(|it| it.totals = true).engine("stap"),
            runs(debian(10)),
            Planned("by top; 3.10 gives call,return,gc; stap", &[]),
        ),
        (
            "creations that look like calls are not added up in the kernel",
            asked().with(|it| it.totals = true).engine("stap"),
            runs(debian(15)),
            Planned("by calls,gc; 3.15 gives call,return,gc; stap", &[]),
        ),
        (
            "nor are they measured there",
            asked().at_least(5).engine("stap"),
            runs(debian(15)),
            Planned("by calls,gc; 3.15 gives call,return,gc; stap", &[]),
        ),
        (
            "an agent tells none, so that its calls are",
            asked()
                .with(|it| it.totals = true)
                .agent(AgentUsage::Always)
                .engine("stap"),
            runs(debian(15)).agent_waits(7),
            Planned(
                "by top; 3.15 gives gc; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "what nobody adds up is sent all the same",
            asked_for("call,return,import")
                .with(|it| it.totals = true)
                .engine("stap"),
            runs(debian(10)),
            Planned("by top,imports; 3.10 gives call,return,import; stap", &[]),
        ),
        (
            "a template of the user's own is a kind, and its probes are armed",
            asked_for("nova"),
            runs(debian(10)).template("nova", &[Probe::Audit, Probe::FunctionEntry]),
            Planned("by nova; 3.10 gives call,audit; stap", &[]),
        ),
        (
            "one that takes the place of a built-in one is a script, too",
            asked_for("gc"),
            runs(debian(10)).template("gc", &[Probe::GcStart, Probe::Line]),
            Planned("by gc; 3.10 gives line,gc; stap", &[]),
        ),
        (
            "one that nobody asked for changes nothing",
            asked_for("gc").engine("uprobes"),
            runs(debian(10)).template("nova", &[Probe::Audit]),
            Planned("by gc; 3.10 gives gc; uprobes", &[]),
        ),
        (
            "values of everything",
            asked().capturing(),
            runs(debian(10)),
            Refusal(2, &["--capture", "add --function, --file or --module"]),
        ),
        (
            "values without the agent",
            asked().capturing().function("f").agent(AgentUsage::Never),
            runs(debian(10)),
            Refusal(2, &["--capture needs pystap's agent"]),
        ),
        (
            "a field of everything",
            asked().field("request=ctxt.request_id"),
            runs(debian(10)),
            Refusal(
                2,
                &[
                    "--field is for functions",
                    "--field 'handle:request=ctxt.request_id'",
                ],
            ),
        ),
        (
            "a field by another engine",
            asked().field("f=a").function("f").engine("uprobes"),
            runs(debian(10)),
            Refusal(
                2,
                &[
                    "--field is told by pystap's agent alone",
                    "leave out --engine",
                ],
            ),
        ),
        (
            "a field by SystemTap, of an interpreter that has probes",
            asked().field("f=a").function("f").engine("stap"),
            runs(debian(11)),
            Refusal(
                2,
                &[
                    "--field is told by pystap's agent alone",
                    "not by --engine stap",
                ],
            ),
        ),
        (
            "a recipe by another engine",
            asked()
                .field("f=a")
                .function("f")
                .by_recipe()
                .engine("uprobes"),
            runs(debian(10)),
            Refusal(
                2,
                &["what the recipe asks for is told by pystap's agent alone"],
            ),
        ),
        (
            "a recipe without the agent",
            asked()
                .field("f=a")
                .function("f")
                .by_recipe()
                .agent(AgentUsage::Never),
            runs(debian(10)),
            Refusal(2, &["the recipe needs pystap's agent"]),
        ),
        (
            "a field without the agent",
            asked().field("f=a").function("f").agent(AgentUsage::Never),
            runs(debian(10)),
            Refusal(2, &["--field needs pystap's agent"]),
        ),
        (
            "fields and lines",
            asked_for("call,line")
                .field("f=a")
                .function("f")
                .engine("direct"),
            runs(debian(10)).agent_waits(7),
            Refusal(
                2,
                &[
                    "--field is told by pystap's agent alone",
                    "line events",
                    "leave out --field",
                ],
            ),
        ),
        (
            "greenlets without the agent",
            asked().by_context().agent(AgentUsage::Never),
            runs(debian(10)),
            Refusal(2, &["--by-context needs pystap's agent"]),
        ),
    ]);
}

#[test]
fn versions_decide_what_an_interpreter_gives_by_itself() {
    let row = |what, minor, events: &str, expected| -> Row {
        let request = match events {
            "" => asked(),
            events => asked_for(events),
        };
        (what, request.engine("stap"), runs(debian(minor)), expected)
    };
    let many = |text| Planned(text, &[]);
    check(vec![
        row(
            "3.6",
            6,
            "",
            many("by calls,gc; 3.6 gives call,return,gc; stap"),
        ),
        row(
            "3.7",
            7,
            "import",
            many("by imports; 3.7 gives import; stap"),
        ),
        row(
            "3.8",
            8,
            "",
            many("by calls,gc; 3.8 gives call,return,gc; stap"),
        ),
        row(
            "3.9",
            9,
            "",
            many("by calls,gc; 3.9 gives call,return,gc; stap"),
        ),
        row(
            "3.11 reports calls while the semaphore of its line probe is raised",
            11,
            "",
            many("by calls,gc; 3.11 gives call,return,gc with the line semaphore; stap"),
        ),
        row(
            "which returns do not need",
            11,
            "return,gc",
            many("by calls,gc; 3.11 gives return,gc; stap"),
        ),
        row(
            "lines of 3.11 are dangerous",
            11,
            "line",
            Planned("by lines; 3.11 gives line; stap", &["line of Python 3.11"]),
        ),
        row(
            "3.12 has collections",
            12,
            "gc",
            many("by gc; 3.12 gives gc; stap"),
        ),
        row(
            "3.13 has imports and audit events",
            13,
            "import,audit",
            many("by imports,audit; 3.13 gives import,audit; stap"),
        ),
        row(
            "3.15",
            15,
            "",
            many("by calls,gc; 3.15 gives call,return,gc; stap"),
        ),
        (
            "collections that nobody asked for may be missing",
            asked().engine("stap"),
            runs(debian(9).without(&Probe::COLLECTIONS)),
            Planned(
                "by calls; 3.9 gives call,return; stap",
                &["garbage collections are not told"],
            ),
        ),
        (
            "calls of the patch that passes arguments as text are dangerous, and not traced unasked",
            asked().engine("stap"),
            runs(arguments_as_text()),
            Refusal(
                3,
                &[
                    "function__entry",
                    "can end the program",
                    "--events return,gc",
                ],
            ),
        ),
        (
            "by name they are, with a warning",
            asked_for("call,return").engine("stap"),
            runs(arguments_as_text()),
            Planned(
                "by calls; 2.7 gives call,return; stap",
                &["can end the program"],
            ),
        ),
        (
            "arguments that the probe itself passes are wanted of it, and nobody hides anything in them",
            asked_for("call,return")
                .engine("uprobes")
                .function("ping")
                .capturing(),
            runs(arguments_as_text()),
            Planned(
                "by calls; 2.7 gives call,return; uprobes",
                &["nothing is hidden", "can end the program"],
            ),
        ),
        (
            "what is returned is told by the agent alone",
            asked_for("call,return")
                .engine("uprobes")
                .function("ping")
                .capturing()
                .with(|it| it.agent.capture.returns = true),
            runs(arguments_as_text()),
            Refusal(3, &["--capture", CLOSED]),
        ),
        (
            "those that were asked for may not",
            asked_for("call,return,gc").engine("stap"),
            runs(debian(9).without(&Probe::COLLECTIONS)),
            Refusal(3, &["gc__start", "--events call,return"]),
        ),
        row(
            "lines are gone since 3.12",
            12,
            "line,gc",
            Refusal(
                3,
                &[
                    "Python 3.12 (/usr/bin/python3.12) cannot give line events",
                    "removed the line probe",
                    "`--events gc,import,audit`",
                ],
            ),
        ),
        row(
            "and have not come back with the function probes",
            15,
            "line",
            Refusal(
                3,
                &[
                    "cannot give line events",
                    "`--events call,return,gc,import,audit`",
                    // Of 3.11 they are dangerous.
                    "run the program with Python 3.6 to 3.10",
                ],
            ),
        ),
        row(
            "imports are younger than 3.6",
            6,
            "import",
            Refusal(
                3,
                &["cannot give import events", "does not have the probe yet"],
            ),
        ),
        row(
            "audit events are younger than 3.7",
            7,
            "audit",
            Refusal(
                3,
                &[
                    "cannot give audit events",
                    "does not have the probe yet",
                    "run the program with Python 3.8 or later",
                ],
            ),
        ),
        row(
            "instances need a patch, which no newer version has",
            15,
            "instance",
            Refusal(
                3,
                &[
                    "cannot give instance events",
                    "CPython declares this probe and never fires it",
                    "one of the patches in docs/python-builds.md",
                ],
            ),
        ),
        (
            "instances of a patched one",
            asked_for("instance").engine("stap"),
            runs(plain(5).with(|it| it.probes = EventKind::Instance.probes().to_vec())),
            Planned("by instances; 3.5 gives instance; stap", &[]),
        ),
        (
            "3.11 with its semaphore left alone",
            asked()
                .with(|it| it.spare_line_semaphore = true)
                .engine("stap"),
            runs(debian(11)),
            Planned(
                "by calls,gc; 3.11 gives call,return,gc; stap",
                &["few calls of Python 3.11"],
            ),
        ),
        (
            "a version that nothing tells may be the one that needs the semaphore",
            asked().engine("stap"),
            runs(debian(10).with(|it| it.versioned = false)),
            Planned(
                "by calls,gc; ? gives call,return,gc with the line semaphore; stap",
                &["calls of /usr/bin/python3.10 are uncertain"],
            ),
        ),
        (
            "what no version of it could have been built without",
            asked_for("import").engine("stap"),
            runs(debian(10).with(|it| it.probes.retain(|probe| *probe == Probe::GcStart))),
            Refusal(
                3,
                &[
                    "it has no probe import__find__load__start",
                    "see `pystap marks -p PID`",
                ],
            ),
        ),
        (
            "a build without probes, asked for what no agent gives",
            asked_for("import"),
            runs(plain(11)).agent_waits(7),
            Refusal(3, &["built without probes", "Debian's and Fedora's"]),
        ),
        (
            "a build without probes that is too old for the agent",
            asked(),
            runs(plain(8)),
            Refusal(
                3,
                &[
                    "Python 3.8 (/usr/bin/python3.8) cannot give call and return and gc (the default) events",
                    "built without probes",
                ],
            ),
        ),
    ]);
}

#[test]
fn the_agent_gives_what_interpreters_lack_where_it_can_get_in() {
    check(vec![
        (
            "it waits in a 3.12, which has collections of its own",
            asked().engine("stap"),
            runs(debian(12)).agent_waits(7),
            Planned(
                "by calls,gc; 3.12 gives gc; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "it gets into a 3.14 by itself",
            asked().engine("stap"),
            runs(debian(14)).remote(7),
            Planned(
                "by calls,gc; 3.14 gives gc; the agent gives functions, remote in 7; stap",
                &[],
            ),
        ),
        (
            "it is put into a 3.13 that was asked to be injected",
            asked_for("call").engine("stap"),
            runs(debian(13)).survey(7, |it| it.attach = Some(Ok(AttachMethod::Ptrace))),
            Planned(
                "by calls; the agent gives functions, ptrace in 7; stap",
                &[],
            ),
        ),
        (
            "it does all in a build without probes",
            asked().engine("stap"),
            runs(plain(11)).agent_waits(7),
            Planned(
                "by calls,gc; the agent gives functions,collections, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "collections alone",
            asked_for("gc").engine("stap"),
            runs(plain(13)).agent_waits(7),
            Planned(
                "by gc; the agent gives collections, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "it cannot get into a running 3.12",
            asked(),
            runs(debian(12)),
            Refusal(
                3,
                &[
                    "Python 3.12 (/usr/bin/python3.12) has no probes for call and return (the default) events",
                    "cannot get into process 7",
                    CLOSED,
                ],
            ),
        ),
        (
            "nor be had for collections that the build lacks",
            asked_for("gc"),
            runs(plain(11)),
            Refusal(3, &["cannot give gc events", "built without probes"]),
        ),
        (
            "it may be wanted where nobody needs it",
            asked().agent(AgentUsage::Always).engine("stap"),
            runs(debian(10)).agent_waits(7),
            Planned(
                "by calls,gc; 3.10 gives gc; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "and then has to get in",
            asked_for("call,return").agent(AgentUsage::Always),
            runs(debian(10)),
            Refusal(3, &["--agent needs pystap's agent", CLOSED]),
        ),
        (
            "it is not wanted for collections alone",
            asked_for("gc").agent(AgentUsage::Always).engine("stap"),
            runs(debian(10)),
            Planned("by gc; 3.10 gives gc; stap", &[]),
        ),
        (
            "it is forbidden where only it has calls",
            asked_for("call").agent(AgentUsage::Never),
            runs(debian(13)).agent_waits(7),
            Refusal(
                3,
                &[
                    "cannot give call events",
                    "leave out --no-agent, so that pystap's agent gives them, or trace what it has",
                ],
            ),
        ),
        (
            "it would not help with lines",
            asked_for("call,line").agent(AgentUsage::Never),
            runs(debian(13)),
            Refusal(
                3,
                &["cannot give call and line events", "; trace what it has"],
            ),
        ),
        (
            "it is forbidden where nobody needs it",
            asked().agent(AgentUsage::Never).engine("stap"),
            runs(debian(10)).agent_waits(7),
            Planned("by calls,gc; 3.10 gives call,return,gc; stap", &[]),
        ),
        (
            "values come from it alone",
            asked_for("call").capturing().function("f").engine("stap"),
            runs(debian(10)).agent_waits(7),
            Planned(
                "by calls; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "which greenlet runs comes from it alone",
            asked_for("call").by_context().engine("stap"),
            runs(debian(10)).agent_waits(7),
            Planned(
                "by calls; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "what it alone tells, of an interpreter that has probes",
            asked().by_context(),
            runs(debian(11)),
            Refusal(
                3,
                &[
                    "--by-context needs pystap's agent, whatever probes Python 3.11 (/usr/bin/python3.11) has",
                    "cannot get into process 7",
                    CLOSED,
                ],
            ),
        ),
        (
            "the same of the kernel's probes",
            asked().by_context().engine("uprobes"),
            runs(debian(11)),
            Refusal(
                3,
                &["--by-context needs pystap's agent, whatever probes", CLOSED],
            ),
        ),
        (
            "the same of SystemTap",
            asked().by_context().engine("stap"),
            runs(debian(11)),
            Refusal(
                3,
                &["--by-context needs pystap's agent, whatever probes", CLOSED],
            ),
        ),
        (
            "the agent itself, of an interpreter that has probes",
            asked().agent(AgentUsage::Always),
            runs(debian(11)),
            Refusal(
                3,
                &["--agent needs pystap's agent, whatever probes", CLOSED],
            ),
        ),
        (
            "fields of such an interpreter",
            asked().field("f=a").function("f").engine("direct"),
            runs(debian(11)),
            Refusal(
                3,
                &[
                    "--field is told by pystap's agent alone, and that cannot get into process 7",
                    CLOSED,
                ],
            ),
        ),
        (
            "a version that nothing tells may be one for it",
            asked_for("call").engine("stap"),
            runs(plain(12).with(|it| it.versioned = false)).agent_waits(7),
            Planned(
                "by calls; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "one process that it gets into is worth a trace without another",
            asked_for("call").engine("stap"),
            runs(debian(12)).agent_waits(7).process(9, debian(13)),
            Planned(
                "by calls; the agent gives functions, dormant in 7; stap",
                &["process 9 is not traced: it lets nobody in"],
            ),
        ),
        (
            "a process that it does not get into still has its collections",
            asked().engine("stap"),
            runs(debian(12)).agent_waits(7).process(9, debian(13)),
            Planned(
                "by calls,gc; 3.12 gives gc; 3.13 gives gc; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "without the agent nobody is passed over in silence either",
            asked().agent(AgentUsage::Never).engine("stap"),
            runs(debian(11)).process(9, plain(13)),
            Planned(
                "by calls,gc; 3.11 gives call,return,gc with the line semaphore; stap",
                &["process 9 is not traced: its interpreter has none of the probes"],
            ),
        ),
        (
            "a process that is too old beside one that it gets into",
            asked_for("call").engine("stap"),
            runs(plain(8)).process(9, debian(12)).agent_waits(9),
            Planned(
                "by calls; the agent gives functions, dormant in 9; stap",
                &["process 7 is not traced: it lets nobody in"],
            ),
        ),
        (
            "a process with calls of its own beside one that nobody gets into",
            asked_for("call"),
            runs(debian(10)).process(9, debian(12)),
            Refusal(3, &["cannot get into process 9"]),
        ),
        (
            "every process of an interpreter, those that start later",
            asked().engine("stap"),
            everyone_of(debian(12)),
            Planned(
                "by calls,gc; 3.12 gives gc; the agent gives functions, later; stap",
                &[],
            ),
        ),
        (
            "every process of one that needs no agent",
            asked().engine("stap"),
            everyone_of(debian(10)),
            Planned("by calls,gc; 3.10 gives call,return,gc; stap", &[]),
        ),
    ]);
}

#[test]
fn the_engine_direct_is_the_agent_alone_and_comes_by_its_name_only() {
    let direct = || asked().engine("direct");
    check(vec![
        (
            "the agent takes the place of probes that are there",
            direct(),
            runs(debian(10)).agent_waits(7),
            Planned(
                "by calls,gc; the agent gives functions,collections, dormant in 7; direct",
                &[],
            ),
        ),
        (
            "a command is launched with it",
            direct(),
            launches(debian(15)),
            Planned(
                "by calls,gc; the agent gives functions,collections, environment; direct",
                &[],
            ),
        ),
        (
            "without any other engine",
            direct(),
            runs(plain(12))
                .agent_waits(7)
                .without_stap()
                .without_uprobes(),
            Planned(
                "by calls,gc; the agent gives functions,collections, dormant in 7; direct",
                &[],
            ),
        ),
        (
            "probes that could end the program are not armed anyway",
            direct(),
            runs(debian(9)).agent_waits(7).not_utf8(7),
            Planned(
                "by calls,gc; the agent gives functions,collections, dormant in 7; direct",
                &[],
            ),
        ),
        (
            "where nothing else is left, the decision does not take it",
            asked(),
            runs(plain(12))
                .agent_waits(7)
                .without_stap()
                .without_uprobes(),
            Planned(
                "by calls,gc; the agent gives functions,collections, dormant in 7; no stap: stap was not found, so nothing; no uprobes: no tracefs, so no uprobe events",
                &[],
            ),
        ),
        (
            "the agent cannot get in",
            direct(),
            runs(debian(10)).survey(7, |it| {
                it.attach = Some(Err("it lets nobody in".to_owned()))
            }),
            Refusal(
                3,
                &[
                    "--engine direct",
                    "cannot get into process 7: it lets nobody in",
                ],
            ),
        ),
        (
            "what only an interpreter's own probes have",
            asked_for("call,import,audit").engine("direct"),
            runs(debian(15)).agent_waits(7),
            Refusal(
                2,
                &["import and audit events come from an interpreter's own probes"],
            ),
        ),
        (
            "buffers of the kernel",
            direct().with(|it| it.engine.buffer = Some(64)),
            launches(debian(15)),
            Planned(
                "by calls,gc; the agent gives functions,collections, environment; not direct: --buffer is about the kernel's buffers",
                &[],
            ),
        ),
        (
            "the agent is forbidden",
            direct().agent(AgentUsage::Never),
            runs(debian(10)).agent_waits(7),
            Refusal(2, &["--engine direct", "--no-agent"]),
        ),
    ]);
}

#[test]
fn the_agent_alone_is_taken_where_it_gets_to_all_that_probes_would() {
    let service = || asked().with(|it| it.targets.service = Some("nova".to_owned()));
    let with_children = || asked().with(|it| it.targets.subprocesses = true);
    let installed = |python| runs(python).agent_waits(7);
    let rows = [
        ("a command", asked(), launches(debian(10)), true),
        ("a process", asked(), installed(debian(12)), true),
        ("one with probes", asked(), installed(debian(9)), true),
        (
            "one that can be asked",
            asked(),
            runs(debian(15)).remote(7),
            true,
        ),
        (
            "beside one that it does not get into",
            asked_for("call"),
            installed(plain(12)).process(8, plain(12)),
            false,
        ),
        (
            "a service without probes",
            service(),
            installed(debian(12)),
            true,
        ),
        (
            "a service with probes",
            service(),
            installed(debian(15)),
            false,
        ),
        (
            "children without",
            with_children(),
            installed(plain(13)),
            true,
        ),
        (
            "children with probes",
            with_children(),
            installed(debian(10)),
            false,
        ),
        (
            "a command that leads to one with probes, as chroot does",
            asked().with(|it| it.targets.python = vec!["python3".into()]),
            launches(debian(10)),
            false,
        ),
        (
            "a command that may lead to one with probes, as sudo does",
            asked(),
            launches(debian(10)).led_to(),
            false,
        ),
        (
            "a command that leads to one without",
            asked().with(|it| it.targets.python = vec!["python3".into()]),
            launches(debian(12)),
            true,
        ),
        (
            "what a command starts, which has its environment",
            with_children(),
            launches(debian(10)),
            true,
        ),
    ];
    for (what, request, host, expected) in rows {
        let direct = request.clone().engine("direct");
        let plan = decide(&direct, &host.snapshot(&direct));
        assert_eq!(
            plan.is_ok_and(|plan| reaches_all(&request, &plan)),
            expected,
            "{what}"
        );
    }
}

#[test]
fn what_the_agent_reaches_it_tells_by_itself_and_probes_tell_the_rest() {
    let two = |first: Python, second| runs(first).agent_waits(7).process(8, second);
    let with_children = || asked().with(|it| it.targets.subprocesses = true);
    let everything = || asked_for("call,return,gc,import");
    let rows: Vec<(&str, SessionRequest, Host, Option<&str>)> = vec![
        (
            "one process that it gets into and one that has probes and lets nobody in",
            asked(),
            two(plain(13), debian(10)).without_stap(),
            Some(
                "by calls,gc; 3.10 gives call,return,gc; the agent gives functions,collections, dormant in 7; uprobes (pystap's agent alone for process 7, which costs least, and uprobe events for process 8, because it lets nobody in while it runs); direct",
            ),
        ),
        (
            "two of one interpreter with probes of which it gets into one: both are probed",
            asked(),
            two(debian(10), debian(10)),
            None,
        ),
        (
            "two interpreters with probes of which it gets into one",
            asked(),
            two(debian(9), debian(10)).without_stap(),
            Some(
                "by calls,gc; 3.10 gives call,return,gc; the agent gives functions,collections, dormant in 7; uprobes (pystap's agent alone for process 7, which costs least, and uprobe events for process 8, because it lets nobody in while it runs); direct",
            ),
        ),
        (
            "a kind that only probes have, of the process that it gets into",
            everything(),
            runs(debian(12)).agent_waits(7).without_stap(),
            Some(
                "by calls,gc,imports; 3.12 gives import; the agent gives functions,collections, dormant in 7; uprobes (pystap's agent alone for process 7, which costs least, and uprobe events for import events, because only an interpreter's own probes tell them); direct",
            ),
        ),
        (
            "the same of a command",
            everything(),
            launches(debian(12)).without_stap(),
            Some(
                "by calls,gc,imports; 3.12 gives import; the agent gives functions,collections, environment; uprobes (pystap's agent alone for the command, which costs least, and uprobe events for import events, because only an interpreter's own probes tell them); direct",
            ),
        ),
        (
            "children with probes, into which it may not get",
            with_children(),
            runs(debian(10)).agent_waits(7),
            None,
        ),
        (
            "all of it: that is the agent alone",
            asked(),
            two(plain(13), plain(12)).agent_waits(8),
            None,
        ),
        ("none of it", everything(), runs(debian(10)), None),
        (
            "some of it, where nobody can probe the rest",
            everything(),
            launches(debian(12)).without_stap().without_uprobes(),
            None,
        ),
    ];
    for (what, request, host, expected) in rows {
        let mixed = mixing(&request);
        let plan = mixed_plan(&mixed, &host.snapshot(&mixed));
        let found = plan.as_ref().map(summary);
        assert_eq!(found.as_deref(), expected, "{what}");
    }
}

#[test]
fn it_is_said_what_a_filter_costs_where_calls_run_into_probes_all_the_same() {
    let filtered = |request: SessionRequest| {
        request.with(|it| it.filters.functions = vec![Glob::new("ping").expect("a glob")])
    };
    let said = |request: &SessionRequest, host: &Host| plan(request, host).filter_note();
    let note = said(&filtered(asked().engine("uprobes")), &runs(debian(11))).expect("a note");
    assert!(
        note.contains("agent install") && note.contains("--sample"),
        "{note}"
    );
    assert!(said(&asked().engine("uprobes"), &runs(debian(11))).is_none());
    let collections = filtered(asked_for("gc").engine("uprobes"));
    assert!(said(&collections, &runs(debian(11))).is_none());
    // The agent leaves calls out where they happen.
    let agent = filtered(asked().engine("direct"));
    let there = runs(debian(11)).agent_waits(7);
    assert!(said(&agent, &there).is_none());
}

#[test]
fn options_that_not_every_engine_has_leave_no_choice() {
    let chooses = |request: SessionRequest| request.leaves_engine_to_us();
    assert!(chooses(asked()));
    assert!(chooses(asked().agent(AgentUsage::Always)));
    assert!(!chooses(asked().engine("uprobes")));
    assert!(!chooses(asked().agent(AgentUsage::Never)));
    assert!(!chooses(asked().with(|it| it.agent.trust_paths = true)));
    assert!(!chooses(asked().with(|it| it.spare_line_semaphore = true)));
    assert!(!chooses(asked().with(|it| it.engine.buffer = Some(64))));
    assert!(!chooses(
        asked().with(|it| it.engine.stap = Some("stap".into()))
    ));
    assert!(!chooses(asked().with(|it| it.purpose = Purpose::Script)));
}

#[test]
fn the_agent_comes_into_a_command_by_its_environment() {
    let isolated = |option: &'static str, parts| -> Row {
        let host = launches(debian(12)).started_with(option);
        (option, asked(), host, Refusal(3, parts))
    };
    check(vec![
        (
            "a command that lacks function probes",
            asked().engine("stap"),
            launches(debian(12)),
            Planned(
                "by calls,gc; 3.12 gives gc; the agent gives functions, environment; stap",
                &[],
            ),
        ),
        (
            "one that lacks nothing, whatever it is started with",
            asked().engine("stap"),
            launches(debian(10)).started_with("-I"),
            Planned("by calls,gc; 3.10 gives call,return,gc; stap", &[]),
        ),
        isolated(
            "-I",
            &[
                "cannot get into the command",
                "is started with -I",
                "leave out -I",
            ],
        ),
        isolated("-E", &["cannot get into the command", "is started with -E"]),
        isolated("-S", &["cannot get into the command", "is started with -S"]),
        (
            "one that is too old",
            asked().agent(AgentUsage::Always),
            launches(debian(8)),
            Refusal(3, &["it runs in CPython 3.9 to 3.15, and this is 3.8"]),
        ),
        (
            "one that is too new",
            asked().agent(AgentUsage::Always),
            launches(debian(16)),
            Refusal(3, &["it runs in CPython 3.9 to 3.15, and this is 3.16"]),
        ),
        (
            "one for another C library",
            asked(),
            launches(debian(12).with(|it| it.needed = "libc.musl-x86_64.so.1")),
            Refusal(3, &["cannot get into the command", "built for musl"]),
        ),
    ]);
}

#[test]
fn the_engine_is_the_first_that_nothing_stands_in_the_way_of() {
    const TRACED: &str = "by gc; 3.10 gives gc";
    let row = |what, request: SessionRequest, host: Host, text: &'static str| -> Row {
        let host = host.process(7, debian(10));
        let whole: &'static str = Box::leak(format!("{TRACED}; {text}").into_boxed_str());
        (what, request, host, Planned(whole, &[]))
    };
    let asked = || asked_for("gc");
    check(vec![
        row(
            "both",
            asked(),
            host(),
            "stap (SystemTap 5.2, which is installed) else uprobes",
        ),
        row(
            "only uprobe events",
            asked(),
            host().without_stap(),
            "uprobes (uprobe events, because stap was not found)",
        ),
        row(
            "no modules",
            asked(),
            host().without_modules(),
            "uprobes (uprobe events, because no modules)",
        ),
        row(
            "only SystemTap",
            asked(),
            host().without_uprobes(),
            "stap (SystemTap 5.2, which is installed)",
        ),
        row(
            "one that has failed here",
            asked(),
            host().where_stap_failed(),
            "uprobes (uprobe events, because SystemTap 5.2 has failed here before: the compiler failed)",
        ),
        row(
            "one that has failed here is better than none",
            asked(),
            host().where_stap_failed().without_uprobes(),
            "stap (SystemTap 5.2, which is installed)",
        ),
        row(
            "none",
            asked(),
            host().without_stap().without_uprobes(),
            "no stap: stap was not found, so nothing; no uprobes: no tracefs, so no uprobe events",
        ),
        row("SystemTap by name", asked().engine("stap"), host(), "stap"),
        row(
            "by name although it has failed",
            asked().engine("stap"),
            host().where_stap_failed(),
            "stap",
        ),
        row(
            "by name, and not there",
            asked().engine("stap"),
            host().without_stap(),
            "no stap: stap was not found, so nothing",
        ),
        row(
            "by name, and forbidden",
            asked().engine("stap"),
            host().without_modules(),
            "no stap: no modules, so SystemTap cannot run",
        ),
        row(
            "uprobe events by name",
            asked().engine("uprobes"),
            host(),
            "uprobes",
        ),
        row(
            "uprobe events by name, and not there",
            asked().engine("uprobes"),
            host().without_uprobes(),
            "no uprobes: no tracefs, so no uprobe events",
        ),
        row(
            "a stap that was named insists, and may do its work elsewhere",
            asked().named_stap(),
            host().without_modules(),
            "stap",
        ),
        row(
            "so do arguments for it",
            asked().with(|it| it.engine.stap_arguments = vec!["-v".to_owned()]),
            host().without_stap(),
            "no stap: stap was not found, so nothing",
        ),
        row(
            "compiling needs no modules to be loaded here",
            asked().compiling(),
            host().without_modules(),
            "stap",
        ),
        row(
            "compiling needs stap",
            asked().compiling(),
            host().without_stap(),
            "no stap: stap was not found, so nothing",
        ),
        row(
            "options for stap with uprobe events",
            asked().named_stap().engine("uprobes"),
            host(),
            "not uprobes: options for stap were given",
        ),
        row(
            "compiling with uprobe events",
            asked().compiling().engine("uprobes"),
            host(),
            "not uprobes: options for stap were given",
        ),
        row(
            "a template of the user's own with uprobe events",
            asked().engine("uprobes"),
            host().template("gc", &[]),
            "not uprobes: the template gc is a SystemTap script",
        ),
        (
            "a script alone asks no engine",
            asked().with(|it| it.purpose = Purpose::Script),
            runs(debian(10)).without_stap().without_uprobes(),
            Planned(TRACED, &[]),
        ),
        (
            "sites that are in no part of the file",
            asked(),
            runs(debian(10).with(|it| it.in_file = false)),
            Planned(
                "by gc; 3.10 gives gc; stap (SystemTap 5.2, which is installed)",
                &[],
            ),
        ),
        (
            "the same with uprobe events by name",
            asked().engine("uprobes"),
            runs(debian(10).with(|it| it.in_file = false)),
            Planned(
                "by gc; 3.10 gives gc; no uprobes: /usr/bin/python3.10 has no site that uprobe events can stand at, so nothing is traced; use --engine stap",
                &[],
            ),
        ),
    ]);
}

/// Why SystemTap cannot be used for a plan, or which engine it is.
fn obstacle(request: &SessionRequest, host: &Host) -> String {
    match plan(request, host).sources {
        Ok(sources) => sources.iter().map(|it| it.engine).collect(),
        Err(NoSource::Obstacle { obstacle, .. }) => obstacle.message,
        Err(other) => format!("{other:?}"),
    }
}

#[test]
fn what_systemtap_cannot_find_by_its_path_is_left_to_uprobe_events() {
    let gone = debian(10).with(|it| it.replaced = true);
    let moved = debian(10).with(|it| it.displaced = true);
    let waits = || runs(debian(12)).agent_waits(7);
    let call = || asked_for("call");
    for (what, request, host, part) in [
        (
            "a container",
            asked(),
            runs(debian(10)).in_container(7),
            "process 7 runs /usr/bin/python3.10 in a container",
        ),
        (
            "an upgrade",
            asked(),
            runs(gone.clone()),
            "/usr/bin/python3.10 was replaced or deleted while process 7 runs it",
        ),
        ("lld", asked(), runs(moved), "stands elsewhere in memory"),
        (
            "an agent in a container",
            call(),
            waits().in_container(7),
            "process 7 runs /usr/lib/pystap_agent.so in a container",
        ),
        (
            "an agent's file that is gone",
            call(),
            waits().loaded(7, |it| it.deleted = true),
            "/usr/lib/pystap_agent.so was replaced or deleted",
        ),
        (
            "an agent that is laid out otherwise",
            call(),
            waits().loaded(7, |it| it.displaced = true),
            "pystap_agent.so stands elsewhere in memory",
        ),
        (
            "an agent that will be put into a container",
            call(),
            runs(debian(14)).remote(7).in_container(7),
            "process 7 runs /run/pystap/agent.so in a container",
        ),
        (
            "what is the target's fault comes before what is not installed",
            asked(),
            runs(gone).without_stap(),
            "was replaced or deleted",
        ),
    ] {
        assert_eq!(obstacle(&request, &host), "uprobes", "{what}");
        let insisted = obstacle(&request.clone().engine("stap"), &host);
        assert!(insisted.contains(part), "{what}: {insisted}");
        // A module for it can be compiled all the same, where there is a stap.
        if !host.lacks_stap {
            assert_eq!(obstacle(&request.compiling(), &host), "stap", "{what}");
        }
    }
    let forbidden = runs(debian(10)).in_container(7).without_modules();
    let first = obstacle(&asked().engine("stap"), &forbidden);
    assert!(
        first.contains("no modules"),
        "the host's fault comes first: {first}"
    );
    let nobody_there = launches(debian(10).with(|it| it.replaced = true));
    assert_eq!(
        obstacle(&asked(), &nobody_there),
        "stap",
        "nobody runs the old file"
    );
}

#[test]
fn probes_that_fail_on_paths_which_are_not_utf8_are_not_armed() {
    let affected = || runs(debian(11)).not_utf8(7);
    check(vec![
        (
            "the agent takes their place",
            asked().engine("stap"),
            affected().agent_waits(7),
            Planned(
                "by calls,gc; 3.11 gives gc; the agent gives functions, dormant in 7; stap",
                &[
                    "calls of process 7 come from pystap's agent (--agent), because a path is not UTF-8",
                ],
            ),
        ),
        (
            "which is no news to who wants it",
            asked().agent(AgentUsage::Always).engine("stap"),
            affected().agent_waits(7),
            Planned(
                "by calls,gc; 3.11 gives gc; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "where it does not get in nothing is armed",
            asked(),
            affected(),
            Refusal(
                3,
                &[
                    "process 7 has a path that is not UTF-8",
                    "cannot get in: it lets nobody in",
                ],
            ),
        ),
        (
            "nor where it does not run",
            asked(),
            runs(debian(8)).not_utf8(7),
            Refusal(
                3,
                &["process 7 has a path that is not UTF-8", "cannot get in"],
            ),
        ),
        (
            "nor where it is forbidden",
            asked().agent(AgentUsage::Never),
            affected().agent_waits(7),
            Refusal(3, &["leave out --no-agent (or use --agent)"]),
        ),
        (
            "it gives no lines",
            asked_for("line"),
            affected().agent_waits(7),
            Refusal(3, &["leave line events out, which only this probe gives"]),
        ),
        (
            "the user may know better",
            asked()
                .with(|it| it.agent.trust_paths = true)
                .engine("stap"),
            affected(),
            Planned(
                "by calls,gc; 3.11 gives call,return,gc with the line semaphore; stap",
                &[],
            ),
        ),
        (
            "collections do no harm",
            asked_for("gc").engine("stap"),
            affected(),
            Planned("by gc; 3.11 gives gc; stap", &[]),
        ),
        (
            "nor do the probes of 3.15",
            asked().engine("stap"),
            runs(debian(15)).not_utf8(7),
            Planned("by calls,gc; 3.15 gives call,return,gc; stap", &[]),
        ),
        (
            "a command",
            asked().engine("stap"),
            launches(debian(10)).command_not_utf8(),
            Planned(
                "by calls,gc; 3.10 gives gc; the agent gives functions, environment; stap",
                &["calls of the command come from pystap's agent"],
            ),
        ),
        (
            "a command that leaves out its environment",
            asked(),
            launches(debian(10)).command_not_utf8().started_with("-I"),
            Refusal(
                3,
                &[
                    "the command has a path that is not UTF-8",
                    "is started with -I",
                ],
            ),
        ),
        (
            "others that run the interpreter would get probes of SystemTap",
            asked_for("call"),
            runs(debian(10)).bystander(99, &debian(10)),
            Planned(
                "by calls; 3.10 gives call; uprobes (uprobe events, because process 99, in which SystemTap would arm the probes as well, has a path that is not UTF-8: a word of its command line ($'/srv/caf\\351.py'), and the probes of Python 3.10 (/usr/bin/python3.10), once they are armed, end a program with SystemError whose code has such a file name)",
                &[],
            ),
        ),
        (
            "others do not matter where the agent gives calls",
            asked_for("call").agent(AgentUsage::Always).engine("stap"),
            runs(debian(10)).agent_waits(7).bystander(99, &debian(10)),
            Planned(
                "by calls; the agent gives functions, dormant in 7; stap",
                &[],
            ),
        ),
        (
            "nor those that run another interpreter",
            asked_for("call").engine("stap"),
            runs(debian(10)).bystander(99, &debian(9)),
            Planned("by calls; 3.10 gives call; stap", &[]),
        ),
    ]);
    let insisted = asked_for("call").engine("stap");
    let host = runs(debian(10)).bystander(99, &debian(10));
    let obstacle = obstacle(&insisted, &host);
    assert!(
        obstacle.contains("use --engine uprobes, which arms the targets only"),
        "{obstacle}"
    );
}

#[test]
fn whoever_joins_later_is_looked_at_where_armed_probes_could_end_it() {
    let looked_at = |request: SessionRequest, python: Python| {
        let host = runs(python.clone()).agent_waits(7);
        plan(&request, &host).fails_on_paths == HashSet::from([python.file()])
    };
    assert!(looked_at(asked(), debian(10)));
    assert!(!looked_at(asked_for("gc"), debian(10)), "these do no harm");
    assert!(!looked_at(asked(), debian(15)));
    assert!(!looked_at(asked().agent(AgentUsage::Always), debian(10)));
    assert!(!looked_at(
        asked().with(|it| it.agent.trust_paths = true),
        debian(10)
    ));
}

#[test]
fn processes_of_one_interpreter_share_its_image() {
    let host = runs(debian(10))
        .process(8, debian(10))
        .process(9, debian(9));
    let plan = plan(&asked(), &host);
    let pids: Vec<&[u32]> = plan.images.iter().map(|image| &*image.pids).collect();
    assert_eq!(pids, [&[9][..], &[7, 8]], "by the numbers of their files");
    assert_eq!(plan.pids(), [7, 8, 9]);
}

fn nova() -> regex::Regex {
    regex::Regex::new("nova").expect("a pattern")
}

#[test]
fn newcomers_are_searched_for_where_they_can_be_targets_without_being_children() {
    let searched = |change: fn(&mut SessionRequest)| {
        let plan = plan(&asked().with(change), &runs(debian(10)));
        plan.newcomers.map(|selection| {
            assert!(selection.pids.is_empty() && selection.command.is_empty());
            selection.subprocesses
        })
    };
    assert_eq!(searched(|it| it.targets.pids = vec![7]), None);
    assert_eq!(
        searched(|it| it.targets.pattern = Some(nova())),
        Some(false)
    );
    assert_eq!(
        searched(|it| it.targets.service = Some("nova".to_owned())),
        Some(false)
    );
    assert_eq!(
        searched(|it| it.targets.python = vec!["python3".into()]),
        Some(false)
    );
    assert_eq!(
        searched(|it| {
            it.targets.python = vec!["python3".into()];
            it.targets.pids = vec![7];
        }),
        None
    );
    assert_eq!(
        searched(|it| {
            it.targets.pattern = Some(nova());
            it.targets.pids = vec![7];
            it.targets.subprocesses = true;
        }),
        Some(true)
    );
    assert_eq!(
        searched(|it| {
            it.targets.python = vec!["python3".into()];
            it.targets.command = vec!["app.py".into()];
        }),
        None
    );
}

#[test]
fn creations_look_like_calls_where_an_interpreter_tells_them() {
    let creations = |host: Host| {
        plan(&asked_for("call,return"), &host)
            .rules()
            .call_on_creation
    };
    assert!(creations(runs(debian(15))));
    assert!(creations(runs(debian(10)).process(8, debian(15))));
    assert!(!creations(runs(debian(10))));
    assert!(
        !creations(runs(debian(12)).agent_waits(7)),
        "the agent tells none"
    );
    let unknown = debian(15).with(|it| it.versioned = false);
    assert!(creations(runs(unknown)), "it may be one that does");
}

#[test]
fn a_dry_run_says_who_measures() {
    let plan = plan(&asked().at_least(5), &runs(debian(10)));
    let measured = |measures| {
        let abilities = Abilities {
            measures,
            ..Abilities::default()
        };
        let text = describe(&plan, abilities);
        let line = text.lines().find(|line| line.starts_with("calls "));
        line.expect("a line").to_owned()
    };
    assert_eq!(
        measured(true),
        "calls      of at least 5ms, measured in the kernel"
    );
    let by_pystap = measured(false);
    assert!(by_pystap.contains("measured by pystap"), "{by_pystap}");
}

#[test]
fn a_dry_run_shows_targets_probes_and_the_agent() {
    let host = runs(debian(11)).process(8, debian(12)).agent_waits(8);
    let plan = plan(&asked(), &host);
    let text = describe(&plan, Abilities::default());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for line in [
        "process    7 python3 app.py",
        "process    8 python3 app.py",
        "children   not traced",
        "events     call, return, gc",
        "probe    python:function__entry, 1 site",
        "raised   the semaphore of python:line, unless --no-line-semaphore",
        "agent      into process 8, which waits there (pystap agent install)",
        "probe    pystap:function__entry",
    ] {
        assert!(lines.contains(&line), "{line}: {text}");
    }
}

#[test]
fn an_error_of_targets_keeps_its_exit_code() {
    let error = PlanError::from(crate::process::TargetError::Nothing);
    assert_eq!(error.exit_code(), 2);
}
