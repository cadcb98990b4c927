//! The processes that a command is about which only looks at them.

use crate::cli::RunningTargets;
use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::process::{Identity, Process, Selection, TargetError, service};
use crate::session::request::TargetRequest;

/// The Python processes that were named and run now; `of` is one more way to name a service.
pub(super) fn running(
    targets: &RunningTargets,
    of: Option<&str>,
    console: &Console,
) -> Result<Vec<Process>, Failure> {
    Ok(running_and_to_come(targets, of, console)?.0)
}

/// What was typed, as sessions have it.
pub(super) fn request_of(targets: &RunningTargets) -> TargetRequest {
    TargetRequest {
        pids: targets.pids.clone(),
        pattern: targets.pattern.clone(),
        service: targets.service.clone(),
        python: targets.python.iter().cloned().collect(),
        command: Vec::new(),
        subprocesses: targets.subprocesses,
    }
}

/// What is said where no target is named and none can be launched.
pub(super) fn nothing_named() -> Failure {
    Failure::new(
        Exit::Usage,
        "no process was named, so there is nothing to look at: name a service, or use -p PID, --match REGEX or --python PATH",
    )
}

/// The same with what finds those that begin later; `None` where none of them can be a target.
pub(super) fn running_and_to_come(
    targets: &RunningTargets,
    of: Option<&str>,
    console: &Console,
) -> Result<(Vec<Process>, Option<Selection>), Failure> {
    let name = of.or(targets.service.as_deref());
    let wanted = TargetRequest {
        service: name.map(ToOwned::to_owned),
        ..request_of(targets)
    };
    let service = name.map(service).transpose()?;
    let found = wanted
        .selection(service.clone())
        .resolve()
        .map_err(|error| match error {
            // Nothing is launched here.
            TargetError::Nothing => nothing_named(),
            error => error.into(),
        })?;
    for note in found.notes {
        console.warning(note);
    }
    if found.processes.is_empty() {
        return Err(Failure::new(
            Exit::NoTarget,
            "no Python process runs that interpreter, so there is nothing to show: `pystap ps` lists those that run",
        ));
    }
    let mut parents = found.parents;
    if targets.subprocesses && !targets.pids.is_empty() {
        // Whose children have to be asked for: nothing here tells of a fork.
        parents.extend(found.processes.iter().map(|process| Identity {
            pid: process.pid,
            start_time: process.start_time,
        }));
    }
    let to_come = wanted.newcomers(service, &parents);
    Ok((found.processes, to_come))
}
