//! `pystap cleanup`: removes what a killed session left in the kernel, of either engine, and the files of agents, by the
//! registry that sessions keep of these. What belongs to a living one is left alone.

use std::time::{Duration, Instant};

use crate::agent;
use crate::console::{Console, Exit};
use crate::engine::stap;
use crate::engine::uprobes::{self, Tracefs, UprobesError};
use crate::failure::Failure;

/// How long the kernel may take to let go of the probes of a process that was killed just now.
const LETTING_GO: Duration = Duration::from_secs(3);

pub(super) fn run(console: &Console) -> Result<Exit, Failure> {
    let (mut removed, mut left) = stap::remove_stale();
    let mut hidden = None;
    match Tracefs::find() {
        Ok(tracefs) => left.extend(probes(&tracefs, &mut removed)),
        // Then there are no probes either.
        Err(UprobesError::NoTracefs { .. } | UprobesError::NoUprobeEvents { .. }) => {}
        Err(UprobesError::NotPermitted { what }) => hidden = Some(what),
        Err(error) => return Err(error.into()),
    }
    let agents = agent::remove_stale();
    removed.extend(agents.removed);
    left.extend(agents.left);
    for thing in &removed {
        console.note(format_args!("removed {thing}"));
    }
    for thing in &agents.beyond {
        console.warning(format_args!("left alone {thing}"));
    }
    if let (Some(what), true) = (&hidden, left.is_empty()) {
        return Err(Failure::new(
            Exit::Unready,
            format!(
                "{what}, so it is not known whether probes of a killed session are left; run `sudo pystap cleanup`"
            ),
        ));
    }
    if removed.is_empty() && left.is_empty() && agents.beyond.is_empty() {
        console.note("nothing was left behind");
    }
    if left.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "{} could not be removed; see who uses it (`lsmod` for a module), or run `sudo pystap cleanup`",
            left.join(" and ")
        ),
    ))
}

/// Removes the probes of killed sessions. What is left of them because it is in use.
fn probes(tracefs: &Tracefs, removed: &mut Vec<String>) -> Vec<String> {
    let end = Instant::now() + LETTING_GO;
    loop {
        removed.extend(uprobes::remove_stale(tracefs));
        let left = uprobes::stale(tracefs);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
