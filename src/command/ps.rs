//! `pystap ps`: which Python processes there are, what service they belong to, and what can be traced of them.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::print;
use crate::agent::{AttachMethod, AttachMethodError};
use crate::cli::Ps;
use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::probe::{EventKind, Probe};
use crate::process::{
    Budget, Found, MountNamespace, TargetError, processes_of, python_processes, service, within,
};
use crate::python::marks::{self, PROVIDER, Status};
use crate::service::Service;
use crate::text::Foreign;

/// What one line says.
struct Listed {
    found: Arc<Found>,
    version: Option<String>,
    path: String,
    /// Marks that fire in this version, as the file has them.
    marks: Vec<String>,
    container: bool,
    /// How the agent would come in, where the interpreter has no function marks; or why it would not.
    agent: Option<Result<AttachMethod, AttachMethodError>>,
}

/// Lists processes.
pub(super) fn run(arguments: &Ps, console: &Console) -> Result<Exit, Failure> {
    let found = match &arguments.service {
        Some(name) => processes_of(&service(name)?)?,
        None => {
            let services = Service::all().map_err(TargetError::from)?;
            let (found, hidden) = python_processes(&services)?;
            for hidden in hidden {
                console.warning(hidden);
            }
            found
        }
    };
    let ours = MountNamespace::ours().ok();
    let found = found.into_iter().map(Arc::new).collect();
    let looked = within(
        Budget::COMMAND,
        found,
        (),
        move |found: &Arc<Found>, (): &mut ()| describe(found, ours),
    );
    for found in looked.stuck.iter().chain(&looked.unreached) {
        console.warning(format_args!(
            "process {} could not be looked at in time and so was left out",
            found.process.pid
        ));
    }
    let listed: Vec<Listed> = looked.done;
    if arguments.json {
        let all: Vec<Value> = listed.iter().map(as_json).collect();
        print::json(&Value::Array(all))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<[String; 5]> = listed.iter().map(row).collect();
    let heading = ["PID", "SERVICE", "PYTHON", "TRACEABLE", "WHY"].map(str::to_owned);
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = std::iter::once(&heading).chain(&rows);
            cells
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for [pid, service, python, traceable, why] in std::iter::once(&heading).chain(&rows) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{pid:>0$}  {service:<1$}  {python:<2$}  {traceable:<3$}  {why}",
            widths[0], widths[1], widths[2], widths[3]
        );
    }
    print::page(&out)?;
    Ok(Exit::Done)
}

/// A line of the table.
fn row(process: &Listed) -> [String; 5] {
    let known = |text: &Option<String>| match text {
        Some(text) => Foreign::new(text).to_string(),
        None => "-".to_owned(),
    };
    let mut why = match &process.found.why {
        Some(why) => why.to_string(),
        None => process.found.process.command_line.join(" "),
    };
    if process.container {
        why.push_str(", in a container (another mount namespace): with uprobe events only");
    }
    [
        process.found.process.pid.to_string(),
        known(&process.found.service),
        process.version.as_ref().map_or_else(
            || "unknown".to_owned(),
            |version| Foreign::new(version).to_string(),
        ),
        traceable(process),
        Foreign::new(&why).to_string(),
    ]
}

fn describe(found: &Arc<Found>, ours: Option<MountNamespace>) -> Listed {
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
    let lacks = !marks.iter().any(|mark| mark == Probe::FunctionEntry.name());
    let agent = interpreter
        .filter(|_| lacks)
        .map(|it| AttachMethod::into_process(found.process.pid, it, false));
    Listed {
        agent,
        version: version.map(ToString::to_string),
        path: interpreter.map_or_else(String::new, |it| it.path.display().to_string()),
        marks,
        container: found.process.mounts.is_some() && found.process.mounts != ours,
        found: Arc::clone(found),
    }
}

/// The kinds of events that it can give, in the words of `--events`.
fn kinds(process: &Listed) -> Vec<&'static str> {
    possible(&process.marks, by_agent(process))
}

/// Those of an interpreter with these marks, with or without the agent.
fn possible(marks: &[String], agent: bool) -> Vec<&'static str> {
    let has = |probe: Probe| marks.iter().any(|mark| mark == probe.name());
    EventKind::ALL
        .into_iter()
        .filter(|kind| kind.is_possible(has) || (agent && kind.is_agents()))
        .map(EventKind::name)
        .collect()
}

/// Whether the agent would come in by itself.
fn by_agent(process: &Listed) -> bool {
    matches!(process.agent, Some(Ok(_)))
}

/// When the agent comes in, where something is in its way.
fn opens(error: &AttachMethodError) -> Option<&'static str> {
    match error {
        AttachMethodError::Closed { installed, .. }
        | AttachMethodError::Silent { installed, .. }
        | AttachMethodError::Remote { installed, .. } => Some(match installed {
            true => "after a restart (the agent is installed)",
            false => "after `agent install` and a restart",
        }),
        AttachMethodError::FreeThreaded { .. } => Some("with `--inject ptrace`"),
        _ => None,
    }
}

fn traceable(process: &Listed) -> String {
    let kinds = kinds(process);
    let opens = match &process.agent {
        Some(Err(error)) => opens(error),
        _ => None,
    };
    match (kinds.is_empty(), opens) {
        _ if by_agent(process) => format!("{} (agent)", kinds.join(",")),
        (false, _) => kinds.join(","),
        (true, Some(opens)) => opens.to_owned(),
        (true, None) => "no: it has no marks".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_ended_trace_leaves_in_a_process_changes_nothing_of_when_the_agent_comes_in() {
        for installed in [true, false] {
            let python = std::path::PathBuf::from("/srv/venv/bin/python");
            let before = AttachMethodError::Closed {
                version: "3.12.1".to_owned(),
                python: python.clone(),
                installed,
            };
            let after = AttachMethodError::Silent { python, installed };
            assert_eq!(opens(&after), opens(&before));
            let restart = opens(&after).is_some_and(|it| it.contains("restart"));
            assert!(restart, "{after}");
        }
    }

    #[test]
    fn a_kind_is_listed_where_a_trace_of_it_would_begin() {
        let marks = |probes: &[Probe]| -> Vec<String> {
            probes.iter().map(|probe| probe.name().to_owned()).collect()
        };
        let half = [Probe::FunctionReturn, Probe::GcStart, Probe::ImportDone];
        assert_eq!(possible(&marks(&half), false), ["return"]);
        assert_eq!(possible(&marks(&half), true), ["call", "return", "gc"]);
        assert_eq!(possible(&marks(&Probe::COLLECTIONS), false), ["gc"]);
        assert!(possible(&[], false).is_empty());
    }
}
