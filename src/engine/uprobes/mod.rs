//! The uprobes engine: nothing but the kernel's own uprobe events. One probe is defined in tracefs for each site of
//! each USDT probe, the tasks of the targets are made to run into them by `perf_event_open`, and the records come
//! through one ring per processor. Only the targets pay: the kernel puts breakpoints into no other process.
//!
//! The doors are [`Plan::new`], which says what will be defined and what cannot be, and [`UprobesRunning`], which does
//! it.
//!
//! # One event
//!
//! Every site of every USDT probe of every image becomes a definition: file offset, semaphore, and fetch arguments made
//! of the operands in the note (`fetch`). All of them are places of *one* event with the same five fields: which probe,
//! how wide the number is, two strings, one number. What a probe has no use for is fetched from address 0, which costs
//! little and gives nothing. An argument that the grammar of the kernel cannot express is named, and its event comes
//! without it.
//!
//! The first design had one event per probe. But the kernel takes some 70 ms to disarm an event, because it waits for a
//! grace period, one event after the other; so ending a session took 300 ms. And a task needs a counter per processor
//! for each event.
//!
//! # A session
//!
//! `arming` makes tasks run into the probes, `running` collects, `decode` makes events of records, and
//! `engine::reorder` puts them in the order of their times. `processes` follows what becomes of tasks: a process counts once
//! it has mapped a probed image. `filter` says of globs what the kernel's grammar can say and always lets through at
//! least what is wanted; what is not about functions passes by the number of its probe. `--min-duration` is applied by
//! the session, to the durations that pairing finds.
//!
//! What an event costs the thread that runs into a probe is measured first, in pystap's own process (`calibration`).
//!
//! What was lost is told with the next record (`PERF_RECORD_LOST`); what was lost last is read from the counters at the
//! end (`PERF_FORMAT_LOST`, Linux 6.0).

mod arming;
mod calibration;
mod decode;
pub(crate) mod engine;
mod error;
mod fetch;
mod filter;
mod fork_watcher;
#[doc(hidden)]
pub mod fuzzing;
mod line;
mod processes;
mod running;
mod tracefs;

use std::fmt;

use self::decode::HOLDS;
use self::fetch::FetchKind;
use self::tracefs::Definition;
use crate::probe::{AGENT_PROVIDER, Probe, Probed};

pub use self::error::UprobesError;
pub use self::line::LineSemaphores;
pub use self::running::{Start, UprobesRunning};
pub use self::tracefs::{Tracefs, remove_stale, stale};

/// The event that all definitions of a session are places of. One event for all: the kernel takes its time for each that
/// is armed and disarmed, and a task needs one counter a processor for each.
const EVENT: &str = "marks";

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
    /// Values, its own or those that a patch of CPython passes.
    values: bool,
    /// What only that patch passes: arguments by name.
    keywords: bool,
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
                agent: images.iter().any(|image| image.provider == AGENT_PROVIDER),
                values: images.iter().any(|image| image.values),
                keywords: images
                    .iter()
                    .any(|image| image.values && image.provider != AGENT_PROVIDER),
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
                        "the semaphore of the line probe in {} cannot be raised, so only the calls that come from C are seen",
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
            let further = match probed.provider {
                AGENT_PROVIDER => mark.further_arguments(),
                _ if probed.values => mark.patched_arguments(),
                _ => &[],
            };
            for (at, field) in decode::fields(mark, further) {
                let kind = field.kind();
                let place = match site.arguments.get(at) {
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
    keywords: Option<String>,
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
            decode::Field::Keywords => self.keywords = Some(place),
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
    if fields.keywords {
        fetches.push(format!("keywords={}:ustring", text(&fetched.keywords)));
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

#[cfg(test)]
mod tests;
