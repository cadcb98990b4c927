//! `pystap cleanup`: removes what a killed session left in the kernel, of either engine, and in the file systems of traced
//! processes. What belongs to a living one is left alone.

use super::Failure;
use crate::agent;
use crate::console::{Console, Exit};
use crate::engine::stap;
use crate::engine::uprobes::{self, Tracefs, UprobesError};

pub(super) fn run(console: &Console) -> Result<Exit, Failure> {
    let (mut removed, left) = stap::remove_stale();
    match Tracefs::find() {
        Ok(tracefs) => removed.extend(uprobes::remove_stale(&tracefs)),
        // Then there are no probes either.
        Err(UprobesError::NoTracefs { .. } | UprobesError::NoUprobeEvents { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    removed.extend(agent::remove_stale());
    for thing in &removed {
        console.note(format_args!("removed {thing}"));
    }
    if removed.is_empty() && left.is_empty() {
        console.note("nothing was left behind");
    }
    if left.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "{} could not be removed; see who uses it (`lsmod`), or run `sudo pystap cleanup`",
            left.join(" and ")
        ),
    ))
}
