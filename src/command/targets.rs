//! The processes that a command is about which only looks at them.

use crate::cli::RunningTargets;
use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::process::{Process, Selection, TargetError, service};

/// The Python processes that were named and run now; `of` is one more way to name a service.
pub(super) fn running(
    targets: &RunningTargets,
    of: Option<&str>,
    console: &Console,
) -> Result<Vec<Process>, Failure> {
    let service_name = of.or(targets.service.as_deref());
    let selection = Selection {
        pids: targets.pids.clone(),
        pattern: targets.pattern.clone(),
        service: service_name.map(service).transpose()?,
        python: targets.python.clone(),
        command: Vec::new(),
        subprocesses: targets.subprocesses,
        parents: Vec::new(),
    };
    let found = selection.resolve().map_err(|error| match error {
        // Nothing is launched here.
        TargetError::Nothing => Failure::new(
            Exit::Usage,
            "no process was named, so there is nothing to look at: name a service, or use -p PID, --match REGEX or --python PATH",
        ),
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
    Ok(found.processes)
}
