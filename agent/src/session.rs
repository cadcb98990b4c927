//! A session: what pystap asked for, switched on in the interpreter, and off again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use pystap_agent_protocol::{Kind, Refused, Start, Started, Stopped, Way};
use pystap_glob::GlobError;

use crate::filter::Filter;
use crate::gil::Guarded;
use crate::hidden::Hidden;
use crate::python::{Owned, api, thread_states, uncollected, version};
use crate::{capture, codes, collector, contexts, fork, monitoring, presence, profile, stacks};

/// Which values are told.
#[derive(Clone, Copy)]
pub(crate) struct Values {
    pub(crate) arguments: bool,
    pub(crate) returns: bool,
    /// Longest text in bytes.
    pub(crate) limit: usize,
}

/// What the callbacks look at.
pub(crate) struct Live {
    /// Counts sessions, from 1.
    pub(crate) number: usize,
    /// Whether a session is on, here or where this process was forked from.
    on: bool,
    /// The word that says whether it is on here, see `presence`.
    here: *const AtomicU32,
    /// What was asked for and found.
    asked: Option<(Start, Started)>,
    /// Which functions are told; `filtered` when not all.
    pub(crate) filter: Filter,
    pub(crate) filtered: bool,
    /// Whether frames that ran before are announced.
    pub(crate) announces: bool,
    /// Which values are told, and under which names none is.
    pub(crate) capture: Values,
    pub(crate) hidden: Hidden,
    /// Whether the instructions of generators have to be at hand.
    pub(crate) needs_instructions: bool,
    /// The account.
    pub(crate) entries: u64,
    pub(crate) returns: u64,
    pub(crate) dropped: u64,
}

static NOWHERE: AtomicU32 = AtomicU32::new(0);

pub(crate) static LIVE: Guarded<Live> = Guarded::new(Live {
    number: 0,
    on: false,
    here: &raw const NOWHERE,
    asked: None,
    filter: Filter::NONE,
    filtered: false,
    announces: false,
    capture: Values {
        arguments: false,
        returns: false,
        limit: 0,
    },
    hidden: Hidden::NOTHING,
    needs_instructions: false,
    entries: 0,
    returns: 0,
    dropped: 0,
});

/// How calls are seen in this interpreter.
pub(crate) fn way(python: [u32; 3]) -> Way {
    let [major, minor, _] = python;
    if (major, minor) >= (3, 12) {
        Way::Monitoring
    } else {
        Way::Profile
    }
}

/// A refusal in two sentences.
pub(crate) fn refused(reason: impl Into<String>, next_step: impl Into<String>) -> Refused {
    Refused {
        reason: reason.into(),
        next_step: next_step.into(),
    }
}

/// pystap has checked its patterns before, by the same grammar; whoever sends others does not need the reason spelled out.
fn misunderstood(error: GlobError) -> Refused {
    refused(
        format!(
            "{} is no pattern that the agent understands, so nothing was switched on",
            error.pattern()
        ),
        "use the pystap that the agent came with",
    )
}

/// Switches on what is asked for. The caller holds the lock.
///
/// # Errors
/// Why nothing was switched on.
pub(crate) unsafe fn start(wanted: &Start) -> Result<Started, Refused> {
    let live = LIVE.get();
    stop();
    if !codes::prepare() {
        return Err(refused(
            "the interpreter has no free slot for data about code objects, so the agent cannot remember which functions are wanted",
            "stop another tool that uses code extras in this process (a debugger or a JIT), or restart the program",
        ));
    }
    let functions = wanted.events.contains(&Kind::Function);
    let filter = Filter::new(&wanted.filters).map_err(misunderstood)?;
    let hidden = Hidden::new(&wanted.capture.hidden).map_err(misunderstood)?;
    (*live).number += 1;
    (*live).filter = filter;
    (*live).filtered = !(*live).filter.is_empty();
    (*live).announces = wanted.announce_running;
    (*live).capture = Values {
        arguments: wanted.capture.arguments,
        returns: wanted.capture.returns,
        limit: capture::limit(wanted.capture.limit),
    };
    (*live).hidden = hidden;
    let way = way(version().0);
    (*live).needs_instructions = way == Way::Profile;
    ((*live).entries, (*live).returns, (*live).dropped) = (0, 0, 0);
    stacks::forget();
    contexts::start(wanted.contexts);
    let (threads, already_running) = uncollected(|| running(functions));

    (*live).on = true;
    (*live).here = presence::session();
    (*(*live).here).store(1, Ordering::SeqCst);
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
        Way::Profile => profile::start().map(|chained| chained_profiler = chained),
    };
    if let Err(refused) = switched_on {
        stop();
        return Err(refused);
    }
    let started = Started {
        tool_id,
        threads,
        chained_profiler,
        already_running,
        warnings,
    };
    (*live).asked = Some((wanted.clone(), started.clone()));
    Ok(started)
}

/// Switches everything off and forgets it. The caller holds the lock. Does nothing without a session.
pub(crate) unsafe fn stop() -> Stopped {
    let live = LIVE.get();
    let account = account();
    if !(*live).on {
        return account;
    }
    (*live).on = false;
    (*live).asked = None;
    presence::end_session();
    monitoring::stop();
    profile::stop();
    collector::stop();
    contexts::stop();
    stacks::forget();
    codes::forget();
    (*live).filter = Filter::NONE;
    (*live).hidden = Hidden::NOTHING;
    account
}

/// Without the lock, when the interpreter is ending and nothing in it may be called any longer: the callbacks do nothing
/// from now on.
pub(crate) fn silence() -> Stopped {
    // SAFETY: a word that callbacks read once each, so it matters little when they see it.
    unsafe {
        core::ptr::addr_of_mut!((*LIVE.get()).on).write_volatile(false);
        presence::end_session();
        account()
    }
}

/// In a fork's child, where the session goes on: a new account, and the stacks are those of a new process.
pub(crate) unsafe fn fork() {
    let live = LIVE.get();
    ((*live).entries, (*live).returns, (*live).dropped) = (0, 0, 0);
    (*(*live).here).store(1, Ordering::SeqCst);
    stacks::forget();
}

/// Whether a session is on. What callbacks look at first.
#[inline(always)]
pub(crate) unsafe fn is_on() -> bool {
    (*(*LIVE.get()).here).load(Ordering::Relaxed) != 0 || is_on_after_a_fork()
}

/// The events of the interpreter are on and the session is not: this is the child of a fork that was told to nobody.
#[cold]
unsafe fn is_on_after_a_fork() -> bool {
    if (*LIVE.get()).on {
        fork::settle();
    }
    (*LIVE.get()).on
}

/// What was asked for and found, while a session is on.
pub(crate) unsafe fn asked() -> Option<(Start, Started)> {
    (*LIVE.get()).asked.clone()
}

/// The account so far.
pub(crate) unsafe fn account() -> Stopped {
    let live = LIVE.get();
    Stopped {
        entries: (*live).entries,
        returns: (*live).returns,
        dropped: (*live).dropped,
    }
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

/// What a failed call of the interpreter comes to.
pub(crate) fn failed(what: &str) -> Refused {
    refused(
        format!("the interpreter refused {what}, so its calls cannot be traced"),
        "look for an audit hook or another tool in the program that forbids it, and trace without that",
    )
}
