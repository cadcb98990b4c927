//! The uprobes engine: nothing but the kernel's own uprobe events. For each site of each mark one probe is defined in
//! tracefs, the targets' tasks are made to run into them by `perf_event_open`, and the records come through one ring a
//! processor. Only the targets pay: the kernel puts breakpoints into no other process.
//!
//! The doors are [`Plan::new`], which says what will be defined and what cannot be, and [`UprobesRunning`], which does it.

mod arming;
mod decode;
mod fetch;
mod filter;
mod fork_watcher;
#[doc(hidden)]
pub mod fuzzing;
mod line;
mod perf;
mod processes;
mod running;
mod tracefs;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::elf::Image;

use crate::agent;
use crate::probe::{ArgumentKind, Probe};

use self::fetch::FetchKind;
use self::tracefs::{Definition, Owner};

pub use self::line::LineSemaphores;
pub use self::running::{Start, UprobesRunning};
pub use self::tracefs::Tracefs;

/// Why the uprobes engine cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UprobesError {
    /// Nobody could collect.
    #[error(transparent)]
    Thread(io::Error),
    /// The kernel has no tracefs.
    #[error(
        "tracefs cannot be mounted ({reason}), so uprobe events cannot be defined; run pystap where the kernel is built with CONFIG_TRACING, or on the host instead of in a container"
    )]
    NoTracefs {
        /// The system's reason.
        reason: String,
    },
    /// The kernel has tracefs, but no uprobe events.
    #[error(
        "{root} has no uprobe_events, so this kernel is built without CONFIG_UPROBE_EVENTS and cannot probe programs by itself; use another kernel, or --engine stap where modules can be loaded", root = root.display()
    )]
    NoUprobeEvents {
        /// Where tracefs is.
        root: PathBuf,
    },
    /// Not permitted.
    #[error(
        "{what}, so uprobe events cannot be used; run `sudo pystap …` (in a container: with the capabilities CAP_SYS_ADMIN and CAP_PERFMON, and /sys/kernel/tracing)"
    )]
    NotPermitted {
        /// What is not.
        what: String,
    },
    /// perf_event_open is denied.
    #[error(
        "the kernel does not let this user trace others (kernel.perf_event_paranoid is {paranoid}), so nothing is traced; run `sudo pystap …`, give the capability CAP_PERFMON, or `sysctl kernel.perf_event_paranoid=-1`"
    )]
    Paranoid {
        /// The setting.
        paranoid: String,
    },
    /// A probe cannot be defined.
    #[error(
        "a probe on {path} cannot be defined ({reason}), so nothing is traced; check that the file is there and is no network file, and that nobody else probes the same place with another semaphore", path = path.display()
    )]
    Define {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// A process cannot be traced.
    #[error("process {pid} cannot be traced ({reason}), so nothing of it is seen; {next}")]
    Arm {
        /// The process.
        pid: u32,
        /// The kernel's reason.
        reason: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// A ring cannot be made.
    #[error(
        "a buffer of {kilobytes} KB a processor cannot be had ({reason}; this user may lock {limit} KB altogether), so nothing is traced; use a smaller one with --buffer, or raise the limit with `ulimit -l unlimited`"
    )]
    Buffer {
        /// Size of a ring.
        kilobytes: usize,
        /// The memory lock limit.
        limit: String,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// Anything else that the system refuses.
    #[error("{what} ({reason}), so nothing is traced; try again, and report this if it stays")]
    System {
        /// What failed, a clause.
        what: &'static str,
        /// The reason.
        reason: io::Error,
    },
    /// Every mark asked for has a site that the kernel cannot probe.
    #[error(
        "{path} has no site that uprobe events can stand at, so nothing is traced; use --engine stap", path = path.display()
    )]
    NoSite {
        /// The image.
        path: PathBuf,
    },
}

/// An image to be probed.
#[derive(Debug, Clone)]
pub struct Probed {
    /// A path by which it can be opened now.
    pub path: PathBuf,
    /// Inode of the file.
    pub inode: u64,
    /// What is in it.
    pub image: Arc<Image>,
    /// Whose marks: CPython's own or the agent's.
    pub provider: &'static str,
    /// Names of the marks to arm.
    pub marks: Vec<String>,
    /// Whether the agent's values are fetched.
    pub values: bool,
    /// Whether the semaphore of the line mark is raised, so that calls of Python 3.11 are complete.
    pub line_semaphore: bool,
}

/// The event that all definitions of a session are places of. One event for all: the kernel takes its time for each that
/// is armed and disarmed, and a task needs one counter a processor for each.
const EVENT: &str = "marks";

/// The number in the field `mark` of a place that only holds up a semaphore.
const HOLDS: u8 = u8::MAX;

/// What will be defined.
#[derive(Debug, Clone)]
pub struct Plan {
    definitions: Vec<Definition>,
    /// What cannot be had, a sentence each.
    pub missing: Vec<String>,
    fields: Fields,
}

/// Which fields the event has beyond those that every mark fills.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    /// What only the agent tells.
    agent: bool,
    /// Its values, too.
    values: bool,
}

impl Plan {
    /// Derives the definitions for these images.
    ///
    /// # Errors
    /// [`UprobesError::NoSite`].
    pub fn new(images: &[Probed]) -> Result<Plan, UprobesError> {
        let mut plan = Plan {
            definitions: Vec::new(),
            missing: Vec::new(),
            fields: Fields {
                agent: images.iter().any(|image| image.provider == agent::PROVIDER),
                values: images.iter().any(|image| image.values),
            },
        };
        for probed in images {
            let before = plan.definitions.len();
            for mark in Probe::ALL {
                if probed.marks.iter().any(|name| name == mark.name()) {
                    plan.define(probed, mark);
                }
            }
            if plan.definitions.len() == before {
                return Err(UprobesError::NoSite {
                    path: probed.path.clone(),
                });
            }
            if probed.line_semaphore {
                match line::definition(probed) {
                    Some(definition) => plan.definitions.push(Definition {
                        event: EVENT.to_owned(),
                        fetches: fetches(HOLDS, &Fetched::default(), plan.fields),
                        ..definition
                    }),
                    None => plan.missing.push(format!(
                        "the semaphore of the line mark in {} cannot be raised, so only the calls that come from C are seen",
                        probed.path.display()
                    )),
                }
            }
        }
        Ok(plan)
    }

    fn define(&mut self, probed: &Probed, mark: Probe) {
        let machine = probed.image.architecture.machine;
        let sites = probed.image.mark(probed.provider, mark.name());
        for site in sites.iter().flat_map(|mark| &mark.sites) {
            let Some(offset) = site.file_offset else {
                self.missing.push(format!(
                    "a site of {} in {} is in no part of the file, so it is left out",
                    mark.name(),
                    probed.path.display()
                ));
                continue;
            };
            let mut fetched = Fetched::default();
            for (at, argument, field) in decode::fields(mark, probed.provider == agent::PROVIDER) {
                let there = site.arguments.get(at);
                if there.is_none() && argument.kind == ArgumentKind::OptionalText {
                    continue;
                }
                let kind = field.kind();
                let place = match there {
                    Some(argument) => fetch::fetch(argument, machine, kind)
                        .map_err(|reason| format!("{} ({reason})", argument.text)),
                    None => Err("which is not there".to_owned()),
                };
                let place = place.unwrap_or_else(|reason| {
                    self.missing.push(format!(
                        "{} of {} has an argument that uprobe events cannot fetch, {reason}, so its events come without it; --engine stap can",
                        mark.name(),
                        probed.path.display()
                    ));
                    let (place, width) = fetch::nothing(kind);
                    (place.to_owned(), width)
                });
                fetched.set(field, place);
            }
            self.definitions.push(Definition {
                event: EVENT.to_owned(),
                path: probed.path.clone(),
                offset,
                semaphore: site.semaphore.and_then(|semaphore| semaphore.file_offset),
                fetches: fetches(mark.number(), &fetched, self.fields),
            });
        }
    }
}

/// Where the fields of a place come from.
#[derive(Debug, Default)]
struct Fetched {
    file: Option<String>,
    function: Option<String>,
    number: Option<(String, fetch::Width)>,
    qualname: Option<String>,
    context: Option<String>,
    flags: Option<String>,
    text: Option<String>,
}

impl Fetched {
    fn set(&mut self, field: decode::Field, (place, width): (String, fetch::Width)) {
        match field {
            decode::Field::File => self.file = Some(place),
            decode::Field::Function => self.function = Some(place),
            decode::Field::Number => self.number = Some((place, width)),
            decode::Field::Qualname => self.qualname = Some(place),
            decode::Field::Context => self.context = Some(place),
            decode::Field::Flags => self.flags = Some(place),
            decode::Field::Text => self.text = Some(place),
        }
    }
}

/// The fields, the same for every place, because they all belong to one event.
fn fetches(mark: u8, fetched: &Fetched, fields: Fields) -> Vec<String> {
    let text = |place: &Option<String>| {
        let (nothing, _) = fetch::nothing(FetchKind::Text);
        place.clone().unwrap_or_else(|| nothing.to_owned())
    };
    let (nothing, nowhere) = fetch::nothing(FetchKind::Number);
    let (number, width) = match &fetched.number {
        Some((place, width)) => (place.as_str(), *width),
        None => (nothing, nowhere),
    };
    let mut fetches = vec![
        format!("mark=\\{mark}:u8"),
        format!("width=\\{width}:s8"),
        format!("file={}:ustring", text(&fetched.file)),
        format!("function={}:ustring", text(&fetched.function)),
        format!("number={number}:s64"),
    ];
    let whole = |place: &Option<String>| place.clone().unwrap_or_else(|| "\\0".to_owned());
    if fields.agent {
        fetches.push(format!("qualname={}:ustring", text(&fetched.qualname)));
        fetches.push(format!("context={}:u64", whole(&fetched.context)));
        fetches.push(format!("flags={}:u64", whole(&fetched.flags)));
    }
    if fields.values {
        fetches.push(format!("text={}:ustring", text(&fetched.text)));
    }
    fetches
}

impl fmt::Display for Plan {
    /// The definitions as the kernel reads them, without the group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for definition in &self.definitions {
            writeln!(f, "p:{definition}")?;
        }
        Ok(())
    }
}

/// Removes what killed sessions left in tracefs. A noun phrase for each group that is gone.
pub fn remove_stale(tracefs: &Tracefs) -> Vec<String> {
    let groups = tracefs.groups().into_iter();
    groups
        .filter(|group| Owner::of(group).is_some_and(|owner| owner.is_gone()))
        .filter(|group| tracefs.remove(group) == 0)
        .map(|group| format!("the probes {group} of a pystap that is gone"))
        .collect()
}

/// The groups of killed sessions that are still there, each a noun phrase.
pub fn stale(tracefs: &Tracefs) -> Vec<String> {
    let groups = tracefs.groups().into_iter();
    groups
        .filter(|group| Owner::of(group).is_some_and(|owner| owner.is_gone()))
        .map(|group| format!("the probes {group} of a pystap that is gone"))
        .collect()
}

/// The kernel's setting, for messages.
fn paranoid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests;
