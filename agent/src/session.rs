//! A session: what pystap asked for, switched on in the interpreter, and off again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pystap_agent_protocol::{Kind, Refused, Start, Started, Stopped, Way};
use pystap_glob::GlobError;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::filter::Filter;
use crate::gil::Guarded;
use crate::hidden::Hidden;
use crate::live::{self, Settings, Values};
use crate::python::{Owned, api, thread_states, uncollected, version};
use crate::ring;
use crate::sums::{self, Summing};
use crate::timed::{self, Timing};
use crate::{capture, codes, collector, contexts, monitoring, parked, profile, stacks};

/// What was asked for and found, while a session is on.
static ASKED: Guarded<Option<(Start, Started)>> = Guarded::new(None);

/// The memory that pystap offers, mapped and not yet in use.
pub(crate) struct Offered {
    ring: ring::Offered,
    /// What adds up, where that is wanted.
    sums: Option<Summing>,
    /// What measures calls, where only long ones are wanted.
    timing: Option<Timing>,
}

impl Offered {
    /// Maps it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(
        offer: pystap_agent_protocol::Ring,
        memory: &OwnedFd,
    ) -> Result<Offered, Errno> {
        let ring = ring::Offered::new(offer, memory)?;
        let sums = match offer.sums {
            Some(sums) => Some(Summing::new(sums, memory, offer.words, offer.clock)?),
            None => None,
        };
        let timing = match offer.shortest {
            Some(shortest) => Some(Timing::new(shortest, offer.clock)?),
            None => None,
        };
        Ok(Offered { ring, sums, timing })
    }
}

/// How calls are seen in this interpreter.
pub(crate) fn way(python: [u32; 3]) -> Way {
    let [major, minor, _] = python;
    if (major, minor) >= (3, 12) {
        Way::Monitoring
    } else {
        Way::Profile
    }
}

/// pystap has checked its patterns before, by the same grammar; whoever sends others does not need the reason spelled out.
fn misunderstood(error: GlobError) -> Refused {
    Refused::new(
        format!(
            "{} is no pattern that the agent understands, so nothing was switched on",
            error.pattern()
        ),
        "use the pystap that the agent came with",
    )
}

/// Switches on what is asked for, told through the ring that is offered, or by probes. `look_soon` is called when the
/// program may have taken our profile function away. The caller holds the lock.
///
/// # Errors
/// Why nothing was switched on.
pub(crate) unsafe fn start(
    wanted: &Start,
    offered: Option<Offered>,
    look_soon: fn(),
) -> Result<Started, Refused> {
    stop();
    if !codes::prepare() {
        return Err(Refused::new(
            "the interpreter has no free slot for data about code objects, so the agent cannot remember which functions are wanted",
            "stop another tool that uses code extras in this process (a debugger or a JIT), or restart the program",
        ));
    }
    let functions = wanted.events.contains(&Kind::Function);
    let filter = Filter::new(&wanted.filters).map_err(misunderstood)?;
    let hidden = Hidden::new(&wanted.capture.hidden).map_err(misunderstood)?;
    let way = way(version().0);
    live::prepare(Settings {
        filtered: !filter.is_empty() || codes::has_own(),
        filter,
        announces: wanted.announce_running,
        capture: Values {
            arguments: wanted.capture.arguments,
            returns: wanted.capture.returns,
            limit: capture::limit(wanted.capture.limit),
        },
        hidden,
        needs_instructions: way == Way::Profile,
    });
    stacks::forget();
    contexts::start(wanted.contexts, stacks::forget_greenlet);
    if let Some(Offered { ring, sums, timing }) = offered {
        ring::begin(ring, sums.is_none());
        sums::begin(sums);
        timed::begin(timing);
    }
    let (threads, already_running) = uncollected(|| running(functions));

    live::switch_on();
    let mut warnings = Vec::new();
    if wanted.events.contains(&Kind::Gc) && !collector::start() {
        warnings.push(String::from(
            "gc.callbacks is no list in this program, so its garbage collections are not told",
        ));
    }
    let (mut tool_id, mut chained_profiler) = (None, false);
    let switched_on = match way {
        _ if !functions => Ok(()),
        Way::Monitoring => monitoring::start().map(|id| tool_id = Some(id)),
        Way::Profile => profile::start(look_soon).map(|chained| chained_profiler = chained),
    };
    if let Err(refused) = switched_on {
        stop();
        return Err(refused);
    }
    if tool_id.is_some() {
        warnings.extend(see_parked_greenlets());
    }
    let started = Started {
        tool_id,
        threads,
        chained_profiler,
        already_running,
        warnings,
    };
    *ASKED.get() = Some((wanted.clone(), started.clone()));
    Ok(started)
}

/// Has the wanted functions in which greenlets are parked told of, and says for how many there was no time.
unsafe fn see_parked_greenlets() -> Option<String> {
    let parked = parked::greenlets(contexts::greenlet_type()?);
    let codes = parked.codes.into_iter();
    monitoring::instrument(codes.filter(|code| codes::wanted(code.as_ptr()).is_some()));
    let which = match (parked.is_cut, parked.unexamined) {
        (true, _) => "the program has so many objects that there was no time to look for all greenlets that wait".into(),
        (false, 0) => return None,
        (false, count) => format!("{count} greenlets waited that there was no time to look into"),
    };
    Some(format!(
        "{which}; returns of functions that only they were in are told from their next call on"
    ))
}

/// Switches everything off and forgets it. The caller holds the lock. Does nothing without a session.
pub(crate) unsafe fn stop() -> Stopped {
    profile::account();
    let counts = live::counts();
    if !live::switch_off() {
        return counts;
    }
    sums::end();
    timed::end();
    ring::end();
    *ASKED.get() = None;
    monitoring::stop();
    profile::stop();
    collector::stop();
    contexts::stop();
    stacks::forget();
    codes::forget();
    live::forget();
    counts
}

/// Whether the session tells through a ring, which is that of this process alone.
pub(crate) unsafe fn has_ring() -> bool {
    ring::is_on()
}

/// In a fork's child, where the session goes on: it counts anew, and the stacks are those of a new process.
pub(crate) unsafe fn fork() {
    live::go_on();
    profile::fork();
    stacks::forget();
}

/// What was asked for and found, while a session is on.
pub(crate) unsafe fn asked() -> Option<(Start, Started)> {
    (*ASKED.get()).clone()
}

/// Python threads but the one that asks, and the wanted frames on their stacks.
unsafe fn running(functions: bool) -> (u32, u64) {
    let (mut threads, mut frames) = (0, 0);
    for state in thread_states().unwrap_or_default() {
        let mut next = Owned::take((api().PyThreadState_GetFrame)(state));
        if next.is_some() {
            threads += 1;
        }
        while let Some(frame) = next.filter(|_| functions) {
            let code = Owned::take((api().PyFrame_GetCode)(frame.as_ptr()));
            if code.is_some_and(|code| codes::wanted(code.as_ptr()).is_some()) {
                frames += 1;
            }
            next = Owned::take((api().PyFrame_GetBack)(frame.as_ptr()));
        }
    }
    (threads, frames)
}
