//! A session: what pystap asked for, switched on in the interpreter, and off again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pystap_agent_protocol::{Kind, Refused, Start, Started, Stopped, Way};
use pystap_glob::GlobError;

use crate::asked::Fields;
use crate::filter::Filter;
use crate::gil::Guarded;
use crate::hidden::Hidden;
use crate::live::{self, Settings, Values};
use crate::offered::Offered;
use crate::python::{Owned, api, is_free_threaded, uncollected, version};
use crate::shards::{self, SHARDS, Shard};
use crate::within::{self, Wanted};
use crate::{
    calibration, capture, codes, collector, contexts, handling, monitoring, parked, profile, ring,
    stacks, states, sums, switches, timed,
};

/// What was asked for and found, while a session is on.
static ASKED: Guarded<Option<(Start, Started)>> = Guarded::new(None);

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
    // A session that ended when a callback did not has left all that such a one may look at.
    if is_free_threaded() || shards::all().len() > 1 {
        if !shards::until_empty() {
            return Err(Refused::new(
                "a call of which the last session was about to be told has not gone on since, and what it needs cannot be changed",
                "try again later, or restart the program",
            ));
        }
        end();
    }
    if is_free_threaded() && !wanted.fields.is_empty() {
        return Err(Refused::new(
            "fields are not read in a free-threaded build, where other threads may change meanwhile what a path leads through",
            "leave out --field, or use --capture args",
        ));
    }
    if !codes::prepare(Shard::ONLY) {
        return Err(Refused::new(
            "the interpreter has no free slot for data about code objects, so the agent cannot remember which functions are wanted",
            "stop another tool that uses code extras in this process (a debugger or a JIT), or restart the program",
        ));
    }
    let rings = offered.as_ref().map(|offered| offered.ring.count());
    if !shards::prepare(rings.unwrap_or(SHARDS)) {
        return Err(Refused::new(
            "the program has used up the keys for data of threads, so the agent cannot tell its threads apart",
            "restart the program, or trace it without the agent",
        ));
    }
    let functions = wanted.events.contains(&Kind::Function);
    let filter = Filter::new(&wanted.filters).map_err(misunderstood)?;
    let hidden = Hidden::new(&wanted.capture.hidden).map_err(misunderstood)?;
    let fields = match offered.is_some() {
        true => Fields::new(&wanted.fields).map_err(misunderstood)?,
        false => Fields::NOTHING,
    };
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
        fields,
        needs_instructions: way == Way::Profile,
    });
    stacks::forget();
    let has_switches = wanted.contexts && wanted.switches && !is_free_threaded();
    let asked = has_switches.then_some(switches::see as contexts::Asked);
    contexts::start(wanted.contexts, stacks::forget_greenlet, asked);
    if has_switches {
        switches::start();
    }
    within::prepare(&Wanted {
        calls: functions,
        collections: wanted.events.contains(&Kind::Gc),
        told: offered
            .as_ref()
            .is_some_and(|offered| offered.sums.is_empty()),
        rings: wanted.ring.map_or(0, |ring| ring.more),
    });
    if let Some(Offered { ring, sums, timing }) = offered {
        ring::begin(ring, sums.is_empty());
        sums::begin(sums);
        timed::begin(timing);
    }
    let (threads, already_running) = match is_free_threaded() {
        // Frames of threads that run meanwhile are nobody's to look at.
        true => (known_threads(), 0),
        false => uncollected(|| running(functions)),
    };

    let is_told = functions && wanted.ring.is_some_and(|ring| ring.shortest.is_none());
    let calibration = if is_told { calibration::begin() } else { None };
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
    if tool_id.is_some() && !is_free_threaded() {
        warnings.extend(see_parked_greenlets());
    }
    if is_free_threaded() && contexts::has_greenlets() {
        warnings.push(String::from(
            "the program uses greenlets, which are not told apart in a free-threaded build: calls of several of them on one thread count as nested",
        ));
    }
    let started = Started {
        interpreters: within::start(),
        tool_id,
        threads,
        chained_profiler,
        already_running,
        warnings,
    };
    *ASKED.get() = Some((wanted.clone(), started.clone()));
    // When all the rest is done: the program goes on meanwhile.
    if let Some(calibration) = calibration {
        calibration.finish(way);
    }
    ring::end_dry_run();
    Ok(started)
}

/// Has the wanted functions in which greenlets are parked told of, and says for how many there was no time.
unsafe fn see_parked_greenlets() -> Option<String> {
    let parked = parked::greenlets(contexts::greenlet_type()?);
    let codes = parked.codes.into_iter();
    monitoring::instrument(
        codes.filter(|code| codes::wanted(Shard::ONLY, code.as_ptr()).is_some()),
    );
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
    if !live::switch_off() {
        return live::counts();
    }
    *ASKED.get() = None;
    handling::end();
    within::stop();
    monitoring::stop();
    profile::stop();
    collector::stop();
    let is_empty = shards::until_empty();
    let counts = live::counts();
    if is_empty {
        end();
    }
    counts
}

/// Gives back what callbacks look at, of which none runs.
unsafe fn end() {
    sums::end();
    timed::end();
    ring::end();
    switches::stop();
    contexts::stop();
    stacks::forget();
    codes::forget(Shard::ONLY);
    within::forget_given();
    live::forget();
}

/// Whether the session tells through a ring, which is that of this process alone.
pub(crate) unsafe fn has_ring() -> bool {
    ring::count() > 0
}

/// In a fork's child, where the session goes on: it counts anew, and the stacks are those of a new process.
pub(crate) unsafe fn fork() {
    live::go_on();
    profile::fork();
    stacks::forget();
    switches::fork();
}

/// What was asked for and found, while a session is on.
pub(crate) unsafe fn asked() -> Option<(Start, Started)> {
    (*ASKED.get()).clone()
}

/// Python threads as the module `threading` counts them; its own number of them, for there may be more that C code made.
unsafe fn known_threads() -> u32 {
    let modules = (api().PyImport_GetModuleDict)();
    let module = (api().PyDict_GetItemString)(modules, c"threading".as_ptr());
    let active = Owned::borrowed(module).and_then(|module| module.attribute(c"_active"));
    let count = active.map_or(1, |active| (api().PyDict_Size)(active.as_ptr()));
    (api().PyErr_Clear)();
    u32::try_from(count).unwrap_or(1).max(1)
}

/// Python threads but the one that asks, and the wanted frames on their stacks.
unsafe fn running(functions: bool) -> (u32, u64) {
    let newest = states::frames().unwrap_or_default();
    let threads = u32::try_from(newest.len()).unwrap_or(u32::MAX);
    let mut frames = 0;
    for frame in newest {
        let mut next = Some(frame);
        while let Some(frame) = next.filter(|_| functions) {
            let code = Owned::take((api().PyFrame_GetCode)(frame.as_ptr()));
            if code.is_some_and(|code| codes::wanted(Shard::ONLY, code.as_ptr()).is_some()) {
                frames += 1;
            }
            next = Owned::take((api().PyFrame_GetBack)(frame.as_ptr()));
        }
    }
    (threads, frames)
}
