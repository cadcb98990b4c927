//! The semaphore of Python 3.11's line probe. `function__entry` of 3.11 reports every call only while that semaphore is
//! raised; the line probe itself has been reported to crash 3.11.0 and is never armed. A probe at another place of the
//! same image can carry the semaphore: the kernel raises it with the probe and lowers it when the probe goes.
//!
//! The place is where the program starts, which a running program does not come to again.
//!
//! For this engine, the definition at the program's entry point carries the semaphore. For stap, `LineSemaphores`
//! defines an event of its own.

use std::io;
use std::os::fd::OwnedFd;

use super::tracefs::{self, Definition, Owner, Tracefs};
use super::{UprobesError, arming};
use crate::perf::tasks::each_thread;
use crate::perf::{self, Counter, Inherit};
use crate::probe::{Probe, Probed};
use crate::python::marks::PROVIDER;
use std::os::fd::AsFd;

/// Name of the event that holds semaphores up.
const EVENT: &str = "line_semaphore";

/// The definition for an image; `None` when it has no such semaphore, or no such place.
pub(super) fn definition(probed: &Probed) -> Option<Definition> {
    let site = probed
        .image
        .mark(PROVIDER, Probe::Line.name())?
        .sites
        .first()?;
    Some(Definition {
        event: EVENT.to_owned(),
        path: probed.path.clone(),
        offset: probed.image.startup_offset?,
        semaphore: Some(site.semaphore?.file_offset?),
        fetches: Vec::new(),
    })
}

/// The counter of a thread that keeps its process's semaphore raised.
fn counter(tracepoint: u64, task: u32, inherit: Inherit) -> io::Result<OwnedFd> {
    let counter = Counter {
        tracepoint,
        task,
        processor: None,
        inherit,
        life: false,
    };
    let counter = counter.open()?;
    perf::enable(counter.as_fd())?;
    Ok(counter)
}

/// Semaphores of line marks that are raised for an engine which cannot do so itself. Dropped, they are lowered.
#[derive(Debug)]
pub struct LineSemaphores {
    tracefs: Tracefs,
    group: String,
    tracepoint: u64,
    inherit: Inherit,
    counters: Vec<OwnedFd>,
}

impl LineSemaphores {
    /// Prepares to raise them in these images; `None` when none of them asks for it.
    ///
    /// # Errors
    /// [`UprobesError`], when tracefs or the definitions cannot be had.
    pub fn new(images: &[Probed], follow: bool) -> Result<Option<Self>, UprobesError> {
        let wanted = images.iter().filter(|probed| probed.line_semaphore);
        let definitions: Vec<Definition> = wanted.filter_map(definition).collect();
        if definitions.is_empty() {
            return Ok(None);
        }
        let tracefs = Tracefs::find()?;
        tracefs::remove_stale(&tracefs);
        let group = Owner::ourselves()
            .map_err(|reason| UprobesError::System {
                what: "/proc cannot be read",
                reason,
            })?
            .group();
        let mut semaphores = LineSemaphores {
            tracefs,
            group,
            tracepoint: 0,
            inherit: if follow {
                Inherit::Processes
            } else {
                Inherit::Threads
            },
            counters: Vec::new(),
        };
        for definition in &definitions {
            let defined = semaphores.tracefs.define(&semaphores.group, definition);
            defined.map_err(|reason| UprobesError::Define {
                path: definition.path.clone(),
                reason,
            })?;
        }
        let defined = semaphores.tracefs.defined(&semaphores.group, EVENT);
        semaphores.tracepoint = defined
            .map_err(|reason| UprobesError::System {
                what: "a uprobe event cannot be read back",
                reason,
            })?
            .id;
        Ok(Some(semaphores))
    }

    /// Raises them in a process and in the children it will have.
    ///
    /// # Errors
    /// [`UprobesError::Arm`].
    pub fn raise(&mut self, pid: u32) -> Result<(), UprobesError> {
        let (tracepoint, inherit) = (self.tracepoint, self.inherit);
        let counters = each_thread(pid, inherit, |thread| {
            Ok(vec![counter(tracepoint, thread, inherit)?])
        });
        let counters = counters.map_err(|reason| arming::explained(pid, reason))?;
        self.counters.extend(counters.counters);
        Ok(())
    }
}

impl Drop for LineSemaphores {
    fn drop(&mut self) {
        self.counters.clear();
        self.tracefs.remove(&self.group);
    }
}
