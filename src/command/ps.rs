//! `pystap ps`: which Python processes there are, what service they belong to, and what can be traced of them.

use std::io::Write;

use serde_json::{Value, json};

use super::Failure;
use crate::agent::{self, Way, WayError};
use crate::cli::Ps;
use crate::console::{Console, Exit};
use crate::python::marks::{self, PROVIDER, Status};
use crate::service::Service;
use crate::target::{Found, MountNamespace, TargetError, python_processes};

/// What one line says.
struct Listed {
    found: Found,
    version: Option<String>,
    path: String,
    /// Marks that fire in this version.
    marks: Vec<String>,
    container: bool,
    /// How the agent would come in, where the interpreter has no function marks; or why it would not.
    agent: Option<Result<Way, WayError>>,
}

/// Lists processes.
pub(super) fn run(arguments: &Ps, console: &Console) -> Result<Exit, Failure> {
    let services = match &arguments.service {
        Some(name) => vec![Service::named(name).map_err(TargetError::from)?],
        None => Service::all().map_err(TargetError::from)?,
    };
    let (mut found, hidden) = python_processes(&services)?;
    if hidden > 0 {
        console.warning(format_args!(
            "{hidden} processes could not be looked at and are not listed; run pystap as root to include them"
        ));
    }
    if let Some(name) = &arguments.service {
        let all = found.len();
        found.retain(|process| process.why.is_some());
        if found.is_empty() {
            return Err(Failure::new(
                Exit::NoTarget,
                format!(
                    "none of the {all} Python processes belongs to service {name:?}, so there is nothing to list; \
                     `pystap ps` lists them all"
                ),
            ));
        }
    }
    let ours = MountNamespace::ours().ok();
    let listed: Vec<Listed> = found
        .into_iter()
        .map(|found| describe(found, ours))
        .collect();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let all: Vec<Value> = listed.iter().map(as_json).collect();
        writeln!(out, "{}", Value::Array(all))?;
        return Ok(Exit::Done);
    }
    let service = |process: &Listed| {
        process
            .found
            .service
            .clone()
            .unwrap_or_else(|| "-".to_owned())
    };
    let wide = listed.iter().map(|process| service(process).len()).max();
    let wide = wide.unwrap_or(0).max("SERVICE".len());
    writeln!(
        out,
        "{:>8}  {:<wide$}  {:<9}  {:<26}  WHY",
        "PID", "SERVICE", "PYTHON", "TRACEABLE"
    )?;
    for process in &listed {
        let version = process.version.as_deref().unwrap_or("unknown");
        let why = match &process.found.why {
            Some(why) => why.to_string(),
            None => process.found.process.command_line.join(" "),
        };
        writeln!(
            out,
            "{:>8}  {:<wide$}  {version:<9}  {:<26}  {}",
            process.found.process.pid,
            service(process),
            traceable(process),
            one_line(&why)
        )?;
    }
    Ok(Exit::Done)
}

/// Command lines come from other programs: nothing in one may reach the terminal as a control sequence.
fn one_line(text: &str) -> String {
    crate::export::flow::Printable(text).to_string()
}

fn describe(found: Found, ours: Option<MountNamespace>) -> Listed {
    let interpreter = found.process.interpreters.first();
    let version = interpreter.and_then(|it| it.version.as_ref());
    let numbers = version.map(|version| (version.major, version.minor));
    let fires = |name: &str| {
        numbers.is_none_or(|numbers| marks::behaviour(numbers, name).status != Status::Absent)
    };
    let marks = interpreter.map_or_else(Vec::new, |it| {
        let marks = it.image.marks.iter();
        marks
            .filter(|mark| mark.provider == PROVIDER && fires(&mark.name))
            .map(|mark| mark.name.clone())
            .collect()
    });
    let lacks = !marks.iter().any(|mark| mark == "function__entry");
    let agent = interpreter
        .filter(|_| lacks)
        .map(|it| Way::into_process(found.process.pid, it, false));
    Listed {
        agent,
        version: version.map(ToString::to_string),
        path: interpreter.map_or_else(String::new, |it| it.path.display().to_string()),
        marks,
        container: found.process.mounts.is_some() && found.process.mounts != ours,
        found,
    }
}

/// The kinds of events that it can give, in the words of `--events`.
fn kinds(process: &Listed) -> Vec<&'static str> {
    [
        ("function__entry", "call"),
        ("function__return", "return"),
        ("line", "line"),
        ("gc__start", "gc"),
        ("import__find__load__start", "import"),
        ("audit", "audit"),
    ]
    .into_iter()
    .filter(|(mark, kind)| {
        process.marks.iter().any(|has| has == mark)
            || (by_agent(process) && agent::KINDS.contains(kind))
    })
    .map(|(_, kind)| kind)
    .collect()
}

/// Whether the agent would come in by itself.
fn by_agent(process: &Listed) -> bool {
    matches!(process.agent, Some(Ok(_)))
}

fn traceable(process: &Listed) -> String {
    let kinds = kinds(process);
    let installable = matches!(
        process.agent,
        Some(Err(WayError::Closed { .. } | WayError::Remote { .. }))
    );
    match (process.container, kinds.is_empty()) {
        _ if by_agent(process) => format!("{} (agent)", kinds.join(",")),
        (_, true) if installable => "after `agent install`".to_owned(),
        (_, true) => "no: it has no marks".to_owned(),
        (true, _) => "no: in a container".to_owned(),
        _ => kinds.join(","),
    }
}

fn as_json(process: &Listed) -> Value {
    json!({
        "pid": process.found.process.pid,
        "command": process.found.process.command_line,
        "service": process.found.service,
        "why": process.found.why.as_ref().map(ToString::to_string),
        "python": process.version,
        "interpreter": process.path,
        "marks": process.marks,
        "events": kinds(process),
        "container": process.container,
        "agent": process.agent.as_ref().map(|way| match way {
            Ok(way) => json!({ "way": way.word() }),
            Err(reason) => json!({ "way": null, "reason": reason.to_string() }),
        }),
    })
}
