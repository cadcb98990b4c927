//! What waits are about beyond what the kernel's events tell: which futex is the GIL, and what a thread waits on, which is looked
//! up while it waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PythonOf;
use super::on::Peers;
use crate::process::Process;
use crate::waits::{Cause, Reason, Registered, Wait, Waiting, Watch, cause_of};

/// How soon a process is looked at again in which no GIL was to be found.
const RETRY: Duration = Duration::from_millis(50);
/// Most waits of which is kept what was seen while they went on.
const MOST_SEEN: usize = 1 << 16;
/// How long what was seen is kept of waits that have ended, until they are told.
const KEPT_NS: u64 = 1_000_000_000;

/// What was seen of a wait while it went on.
#[derive(Debug, Clone)]
struct Seen {
    on: Option<Arc<str>>,
    /// Where the kernel's events do not tell it.
    cause: Option<Cause>,
}

/// What a wait was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    pub(crate) reason: Reason,
    /// The system call, where it is known.
    pub(crate) call: Option<Arc<str>>,
    /// What it waited on, where it lasted until somebody looked.
    pub(crate) on: Option<Arc<str>>,
}

/// A process in which GILs are looked for; `None` where there are none to be found so far, and when that was.
type Python = (Option<PythonOf>, Instant);

/// See the head of the module.
#[derive(Default)]
pub(crate) struct Explainer {
    pythons: HashMap<u32, Python>,
    peers: HashMap<u32, Peers>,
    /// By thread and when the wait began.
    seen: HashMap<(u32, u64), Seen>,
}

impl Explainer {
    /// Looks what those threads wait on that are `wanted` and were not looked at in this wait, until `end` at the latest.
    pub(crate) fn look(&mut self, watch: &mut Watch, wanted: impl Fn(u32) -> bool, end: Instant) {
        let lacks_reasons = watch.lacks_reasons();
        let unseen: Vec<Waiting> = watch
            .waiting()
            .filter(|waiting| wanted(waiting.tid))
            .filter(|waiting| !self.seen.contains_key(&(waiting.tid, waiting.began)))
            .collect();
        let mut looks = Vec::with_capacity(unseen.len());
        for waiting in unseen {
            if Instant::now() > end {
                break;
            }
            let cause = lacks_reasons.then(|| cause_of(waiting.pid, waiting.tid));
            let python = python(&mut self.pythons, waiting.pid);
            let memory = |address, length| python?.bytes(address, length);
            let peers = self.peers.entry(waiting.pid);
            let peers = peers.or_insert_with(|| Peers::of(waiting.pid));
            let on = peers.find(waiting.tid, &memory);
            looks.push((waiting, Seen { on, cause }));
        }
        // Who has run meanwhile has been told of by now.
        watch.drain();
        for (waiting, seen) in looks {
            if watch.goes_on(&waiting) && self.seen.len() < MOST_SEEN {
                self.seen.insert((waiting.tid, waiting.began), seen);
            }
        }
    }

    /// What threads had epolls watch since a moment, with when they did: looked up while it certainly is the same still, until `end`
    /// at the latest. The newest come first: what there is no time for waits for the next time.
    pub(crate) fn registered(
        &mut self,
        watch: &mut Watch,
        since: u64,
        end: Instant,
    ) -> Vec<(Registered, Arc<str>)> {
        let mut looks = Vec::new();
        while Instant::now() <= end
            && let Some(registered) = watch.registered(since)
        {
            let peers = self.peers.entry(registered.pid);
            let peers = peers.or_insert_with(|| Peers::of(registered.pid));
            let on = peers.descriptor(registered.tid, registered.descriptor);
            looks.extend(on.map(|on| (registered, on)));
        }
        if !looks.is_empty() {
            // What was closed meanwhile has been told of by now.
            watch.drain();
        }
        looks.retain(|(registered, _)| !watch.has_changed(registered));
        looks
    }

    /// What a wait was about that has ended.
    pub(crate) fn explain(&mut self, wait: &Wait) -> Explained {
        let seen = self.seen.remove(&(wait.tid, wait.began));
        let (on, cause) = seen.map_or((None, None), |seen| (seen.on, seen.cause));
        let cause = cause.unwrap_or_else(|| wait.cause.clone());
        let mut reason = cause.reason;
        if reason == Reason::Lock
            && python(&mut self.pythons, wait.pid).is_some_and(|it| it.is_gil(cause.argument))
        {
            reason = Reason::Gil;
        }
        Explained {
            reason,
            call: cause.call,
            on,
        }
    }

    /// A process has become another program.
    pub(crate) fn anew(&mut self, pid: u32) {
        self.pythons.remove(&pid);
        self.peers.remove(&pid);
    }

    /// Forgets what nobody will ask for any longer.
    pub(crate) fn forget(&mut self, watch: &Watch) {
        let going: HashSet<(u32, u64)> = watch
            .waiting()
            .map(|waiting| (waiting.tid, waiting.began))
            .collect();
        let old = crate::waits::now().saturating_sub(KEPT_NS);
        self.seen
            .retain(|wait, _| going.contains(wait) || wait.1 > old);
        self.pythons.retain(|pid, _| crate::process::runs(*pid));
        self.peers.retain(|pid, _| crate::process::runs(*pid));
    }
}

/// What is known of the Python of a process.
fn python(pythons: &mut HashMap<u32, Python>, pid: u32) -> Option<&PythonOf> {
    let now = Instant::now();
    let find = || {
        let found = Process::of(pid).ok().map(|process| PythonOf::new(&process));
        found.and_then(|(python, error)| error.is_none().then_some(python))
    };
    let (python, at) = pythons.entry(pid).or_insert_with(|| (find(), now));
    match python {
        // It may not have begun yet.
        None if now.saturating_duration_since(*at) > RETRY => (*python, *at) = (find(), now),
        Some(python) => python.refresh(false),
        None => {}
    }
    python.as_ref()
}
