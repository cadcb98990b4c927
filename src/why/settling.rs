//! Puts stretches of threads' time together to calls, when all is known of these times.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::log::Log;
use super::part::{Doing, Part, Parts};
use super::results::{Call, Results, Unsplit};
use super::split::{Parked, split};
use crate::analysis::keys::FunctionKey;
use crate::analysis::pairing::FrameId;
use crate::event::Place;

/// Most stretches that wait until all is known of them.
const MOST_PENDING: usize = 1 << 18;
/// Most calls that have given way and of which parts are kept.
const MOST_BEGUN: usize = 1 << 16;
/// Most open calls for which is kept what their threads did.
const MOST_OPEN: usize = 1 << 16;
/// Most calls that wait to be written one by one.
const MOST_TOLD: usize = 1 << 14;
/// The function of eventlet that waits for a descriptor.
pub(super) const TRAMPOLINE: &str = "trampoline";
/// How late a call may be told of and still be split.
const LATEST_NS: u64 = 5_000_000_000;

/// A stretch of a call: all of it, or what lies between two moments at which it gives way. Times are those of the scheduler.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    /// Which call.
    pub(super) call: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Whether it is one of a greenlet or task.
    pub(super) in_context: bool,
    /// When other greenlets ran.
    pub(super) parked: Vec<Parked>,
    /// Of the last one of a call.
    pub(super) end: Option<End>,
    /// Whether its call is part of another one, and what it had so far is of no use.
    pub(super) is_inner: bool,
}

/// The end of a call.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) key: FunctionKey,
    pub(super) place: Arc<Place>,
    pub(super) line: i32,
    /// In nanoseconds since the Unix epoch.
    pub(super) began: u64,
    /// `None` where that is not known for certain.
    pub(super) duration_ns: Option<u64>,
    /// How many stretches the call has.
    pub(super) stretches: u64,
    /// Why it has no parts, where that is known already.
    pub(super) unsplit: Option<Unsplit>,
}

/// What is known of a call that goes on.
#[derive(Debug, Default)]
struct Begun {
    parts: Parts,
    stretches: u64,
    unsplit: Option<Unsplit>,
}

/// From when to when a process is watched.
#[derive(Debug, Clone, Copy)]
struct Watched {
    since: u64,
    until: u64,
}

/// What is known of how a process switches between greenlets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greenlets {
    /// There were none until this moment.
    None(u64),
    /// There are, and switches are told.
    Told,
    /// There are, and switches of those that are no main ones may not be told.
    Partly,
    /// There are, and no switches are told.
    Hidden,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) log: Log,
    pub(super) results: Results,
    pending: VecDeque<Stretch>,
    begun: BTreeMap<u64, Begun>,
    /// With process, thread and beginning.
    open: HashMap<FrameId, (u32, u32, u64)>,
    /// From when to when processes are watched.
    watched: HashMap<u32, Watched>,
    greenlets: HashMap<u32, Greenlets>,
    /// Calls to be written one by one, if they are wanted, and how many found no room.
    told: Option<VecDeque<Call>>,
    pub(super) untold: u64,
}

impl Settling {
    /// Nothing yet; `each` says whether calls are wanted one by one.
    pub(super) fn new(results: Results, each: bool) -> Settling {
        Settling {
            log: Log::default(),
            results,
            pending: VecDeque::new(),
            begun: BTreeMap::new(),
            open: HashMap::new(),
            watched: HashMap::new(),
            greenlets: HashMap::new(),
            told: each.then(VecDeque::new),
            untold: 0,
        }
    }

    /// A process is watched from this moment on.
    pub(super) fn watched(&mut self, pid: u32, since: u64) {
        let until = u64::MAX;
        self.watched.insert(pid, Watched { since, until });
    }

    /// A process begins: what was known of another one with its number is not true of it.
    pub(super) fn begins(&mut self, pid: u32) {
        self.greenlets.remove(&pid);
    }

    /// A process has ended: another one may get its number, which is not watched.
    pub(super) fn ended(&mut self, pid: u32, at: u64) {
        if let Some(watched) = self.watched.get_mut(&pid) {
            watched.until = at;
        }
    }

    /// Whether a process is watched, or soon will be.
    pub(super) fn watches(&self, pid: u32) -> bool {
        let watched = self.watched.get(&pid);
        watched.is_some_and(|watched| watched.until == u64::MAX)
    }

    /// What was found out about the greenlets of a process. That their switches are told is final.
    pub(super) fn greenlets(&mut self, pid: u32, found: Greenlets) {
        let known = self.greenlets.entry(pid).or_insert(found);
        *known = match (*known, found) {
            (Greenlets::Told, _) | (_, Greenlets::Told) => Greenlets::Told,
            (Greenlets::Hidden, _) | (_, Greenlets::Hidden) => Greenlets::Hidden,
            (Greenlets::Partly, _) => Greenlets::Partly,
            (Greenlets::None(_), found) => found,
        };
    }

    /// Processes of which has to be found out whether there are greenlets.
    pub(super) fn unknown(&self) -> HashSet<u32> {
        let unknown = self.pending.iter().filter(|it| !self.knows_greenlets(it));
        unknown.map(|it| it.pid).collect()
    }

    fn knows_greenlets(&self, stretch: &Stretch) -> bool {
        !stretch.in_context
            || match self.greenlets.get(&stretch.pid) {
                None => false,
                Some(Greenlets::None(until)) => *until >= stretch.to,
                Some(_) => true,
            }
    }

    /// A call has begun, and what its thread does is needed from now on.
    pub(super) fn opens(&mut self, frame: FrameId, pid: u32, tid: u32, at: u64) {
        if self.open.len() < MOST_OPEN {
            self.open.insert(frame, (pid, tid, at));
        }
    }

    /// It no longer runs, or is no longer followed.
    pub(super) fn closes(&mut self, frame: FrameId) {
        self.open.remove(&frame);
    }

    /// The same of all calls, or of all of a process.
    pub(super) fn closes_all(&mut self, of: Option<u32>) {
        self.open
            .retain(|_, (pid, ..)| of.is_some_and(|of| of != *pid));
    }

    /// Threads in which calls are open.
    pub(super) fn threads(&self) -> HashSet<u32> {
        self.open.values().map(|(_, tid, _)| *tid).collect()
    }

    /// How many calls are open.
    #[cfg(test)]
    pub(super) fn open_calls(&self) -> usize {
        self.open.len()
    }

    /// Whether any call is open.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes a stretch, to be split when all is known.
    pub(super) fn take(&mut self, stretch: Stretch) {
        if self.pending.len() < MOST_PENDING {
            self.pending.push_back(stretch);
        } else {
            self.add(stretch, Some(Unsplit::TooMuch));
        }
    }

    /// A call is followed no longer.
    pub(super) fn gives_up(&mut self, call: u64) {
        self.begun.remove(&call);
    }

    /// Splits what has ended by this moment, until which the log is complete.
    pub(super) fn settle(&mut self, until: u64, at_last: bool) {
        for _ in 0..self.pending.len() {
            let Some(stretch) = self.pending.pop_front() else {
                break;
            };
            let is_known = stretch.to <= until && self.knows_greenlets(&stretch);
            // The stretches of a call come one after the other, so those that wait do so in their order.
            match is_known || at_last {
                true => self.add(stretch, None),
                false => self.pending.push_back(stretch),
            }
        }
    }

    fn add(&mut self, mut stretch: Stretch, unsplit: Option<Unsplit>) {
        let mut begun = self.begun.remove(&stretch.call).unwrap_or_default();
        if stretch.is_inner {
            return;
        }
        begun.stretches += 1;
        begun.unsplit = begun.unsplit.or(unsplit);
        if self.greenlets.get(&stretch.pid) == Some(&Greenlets::Hidden) {
            begun.unsplit = Some(Unsplit::Greenlets);
        }
        if begun.unsplit.is_none()
            && let Err(why) = self.split(&mut stretch, &mut begun.parts)
        {
            begun.unsplit = Some(why);
        }
        let Some(end) = stretch.end.take() else {
            // The oldest may be those with which nobody goes on. If somebody does, the end finds that stretches are missing.
            if self.begun.len() >= MOST_BEGUN
                && let Some(middle) = self.begun.keys().nth(MOST_BEGUN / 2).copied()
            {
                self.begun = self.begun.split_off(&middle);
            }
            self.begun.insert(stretch.call, begun);
            return;
        };
        let call = finished(stretch, end, begun);
        if self.results.take(&call)
            && let Some(told) = &mut self.told
        {
            if told.len() < MOST_TOLD {
                told.push_back(call);
            } else {
                self.untold += 1;
            }
        }
    }

    fn split(&mut self, stretch: &mut Stretch, parts: &mut Parts) -> Result<(), Unsplit> {
        let watched = self.watched.get(&stretch.pid);
        if watched.is_none_or(|it| stretch.from < it.since || stretch.to > it.until) {
            return Err(Unsplit::NotWatched);
        }
        match self.greenlets.get(&stretch.pid) {
            Some(Greenlets::Partly) if stretch.in_context => return Err(Unsplit::Greenlets),
            _ => {}
        }
        for parked in &mut stretch.parked {
            // It had its descriptor watched right before it gave way.
            let (tid, called) = (stretch.tid, parked.called);
            if parked.by.as_deref() == Some(TRAMPOLINE) {
                parked.on = self.log.watched(tid, called, parked.began);
            }
        }
        let offs = self.log.of(stretch.tid, stretch.from, stretch.to)?;
        split(stretch.from, stretch.to, &stretch.parked, offs, parts);
        Ok(())
    }

    /// From when on is needed what threads did: by calls that are open, that wait to be split, or that will be told of.
    pub(super) fn needed_from(&self, now: u64) -> u64 {
        let open = self.open.values().map(|&(.., from)| from);
        let needed = open.chain(self.pending.iter().map(|it| it.from)).min();
        let told = now.saturating_sub(LATEST_NS);
        needed.map_or(told, |needed| needed.min(told))
    }

    /// Forgets what no call needs any longer.
    pub(super) fn forget(&mut self, until: u64) {
        let mut since: HashMap<u32, u64> = HashMap::new();
        let pending = self.pending.iter().map(|it| (it.tid, it.from));
        let open = self.open.values().map(|&(_, tid, from)| (tid, from));
        for (tid, from) in open.chain(pending) {
            let since = since.entry(tid).or_insert(from);
            *since = (*since).min(from);
        }
        self.log.forget(until.saturating_sub(LATEST_NS), &since);
    }

    /// The calls that are to be written one by one.
    pub(super) fn told(&mut self) -> VecDeque<Call> {
        self.told.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

fn finished(stretch: Stretch, end: End, mut begun: Begun) -> Call {
    // That is the cause of whatever else is wrong with it.
    let greenlets = begun.unsplit.filter(|why| *why == Unsplit::Greenlets);
    let unsplit = greenlets.or(end.unsplit).or(begun.unsplit);
    let is_whole = begun.stretches == end.stretches;
    let parts = match (unsplit, end.duration_ns) {
        (Some(why), _) => Err(why),
        (None, None) => Err(Unsplit::Uncertain),
        _ if !is_whole => Err(Unsplit::TooMuch),
        (None, Some(duration)) => match duration.checked_sub(begun.parts.total_ns()) {
            Some(0) => Ok(begun.parts),
            // While it had given way.
            Some(parked) if end.stretches > 1 => {
                let part = Part::plain(Doing::Parked);
                begun.parts.add(part, parked, None);
                Ok(begun.parts)
            }
            _ => Err(Unsplit::Uncertain),
        },
    };
    Call {
        key: end.key,
        place: end.place,
        line: end.line,
        pid: stretch.pid,
        tid: stretch.tid,
        began: end.began,
        duration_ns: end.duration_ns,
        parts,
    }
}

#[cfg(test)]
mod tests {
    use super::super::split::Off;
    use super::*;
    use crate::analysis::testing::place;

    const PID: u32 = 7;
    const TID: u32 = 8;

    fn end(duration: u64, stretches: u64) -> Option<End> {
        let place = place("f");
        Some(End {
            key: FunctionKey::of(&place),
            place,
            line: 1,
            began: 0,
            duration_ns: Some(duration),
            stretches,
            unsplit: None,
        })
    }

    fn stretch(from: u64, to: u64, end: Option<End>) -> Stretch {
        Stretch {
            call: 1,
            pid: PID,
            tid: TID,
            from,
            to,
            in_context: false,
            parked: Vec::new(),
            end,
            is_inner: false,
        }
    }

    fn settling() -> Settling {
        let mut settling = Settling::new(Results::new(0, 0), true);
        settling.watched(PID, 100);
        settling
    }

    /// The parts of the only call there is.
    fn told(settling: &mut Settling) -> Option<Result<Vec<(&'static str, u64)>, Unsplit>> {
        let call = settling.told().pop_front()?;
        Some(call.parts.map(|parts| {
            let sorted = parts.sorted().into_iter();
            sorted
                .map(|(part, sum)| (part.doing.word(), sum.total_ns))
                .collect()
        }))
    }

    fn preempted(began: u64, ended: u64) -> Off {
        Off {
            began,
            woken: began,
            ended,
            wait: None,
        }
    }

    #[test]
    fn a_call_is_split_when_the_log_is_complete_and_not_before() {
        let mut settling = settling();
        settling.take(stretch(200, 300, end(100, 1)));
        settling.settle(299, false);
        assert_eq!(told(&mut settling), None);
        settling.log.add(TID, preempted(290, 299));
        settling.settle(300, false);
        let parts = vec![("running", 91), ("run-queue", 9)];
        assert_eq!(told(&mut settling), Some(Ok(parts)));
    }

    #[test]
    fn what_gave_way_was_parked_in_between_and_adds_up() {
        let mut settling = settling();
        settling.take(stretch(200, 210, None));
        settling.take(stretch(250, 260, None));
        settling.take(stretch(300, 305, end(105, 3)));
        settling.log.add(TID, preempted(251, 255));
        settling.log.add(TID, preempted(270, 280));
        settling.settle(400, false);
        let parts = vec![("parked", 80), ("running", 21), ("run-queue", 4)];
        assert_eq!(told(&mut settling), Some(Ok(parts)));
        // One stretch was never told of.
        settling.take(stretch(200, 210, None));
        settling.take(stretch(300, 305, end(105, 3)));
        settling.settle(400, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::TooMuch)));
    }

    #[test]
    fn what_is_not_known_is_said_and_not_guessed() {
        let mut settling = settling();
        let mut unsplit = |stretch: Stretch| {
            settling.take(stretch);
            settling.settle(u64::MAX - 1, false);
            told(&mut settling)
        };
        assert_eq!(
            unsplit(stretch(99, 200, end(101, 1))),
            Some(Err(Unsplit::NotWatched))
        );
        let mut uncertain = stretch(200, 300, end(100, 1));
        if let Some(end) = &mut uncertain.end {
            end.duration_ns = None;
        }
        assert_eq!(unsplit(uncertain), Some(Err(Unsplit::Uncertain)));
        settling.log.gap(250, 260);
        settling.take(stretch(200, 250, end(50, 1)));
        settling.settle(300, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::Lost)));
    }

    #[test]
    fn what_a_call_within_a_call_had_is_forgotten_with_it() {
        let mut settling = settling();
        settling.take(stretch(200, 300, None));
        settling.take(Stretch {
            is_inner: true,
            ..stretch(400, 500, None)
        });
        settling.settle(500, false);
        assert!(settling.begun.is_empty());
        assert_eq!(told(&mut settling), None);
    }

    #[test]
    fn with_calls_that_never_end_those_that_gave_way_last_are_split_still() {
        let mut settling = settling();
        let of = |call: u64, from, to, end| Stretch {
            call,
            ..stretch(from, to, end)
        };
        let last = MOST_BEGUN as u64 + 1;
        for call in 0..=last {
            settling.take(of(call, 200, 210, None));
        }
        settling.settle(300, false);
        assert!(settling.begun.len() <= MOST_BEGUN);
        settling.take(of(last, 250, 260, end(60, 2)));
        settling.settle(300, false);
        let parts = vec![("parked", 40), ("running", 20)];
        assert_eq!(told(&mut settling), Some(Ok(parts)));
        settling.take(of(0, 250, 260, end(60, 2)));
        settling.settle(300, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::TooMuch)));
        settling.gives_up(last - 1);
        assert!(!settling.begun.contains_key(&(last - 1)));
    }

    #[test]
    fn a_process_with_the_number_of_one_that_has_ended_is_not_watched_until_it_is() {
        let mut settling = settling();
        settling.take(stretch(200, 300, end(100, 1)));
        settling.ended(PID, 350);
        assert!(!settling.watches(PID));
        settling.take(stretch(400, 500, end(100, 1)));
        settling.settle(350, false);
        assert_eq!(told(&mut settling), Some(Ok(vec![("running", 100)])));
        settling.settle(500, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::NotWatched)));
        settling.watched(PID, 600);
        assert!(settling.watches(PID));
    }

    #[test]
    fn a_call_of_a_greenlet_waits_until_is_known_whether_switches_are_told() {
        let mut settling = settling();
        let of_context = |from, to| Stretch {
            in_context: true,
            ..stretch(from, to, end(to - from, 1))
        };
        settling.take(of_context(200, 300));
        settling.settle(300, false);
        assert_eq!(told(&mut settling), None);
        assert_eq!(settling.unknown(), HashSet::from([PID]));
        settling.greenlets(PID, Greenlets::None(300));
        settling.settle(300, false);
        assert_eq!(told(&mut settling), Some(Ok(vec![("running", 100)])));
        settling.take(of_context(300, 310));
        settling.settle(310, false);
        assert_eq!(told(&mut settling), None);
        settling.greenlets(PID, Greenlets::Partly);
        settling.settle(310, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::Greenlets)));
        settling.greenlets(PID, Greenlets::Told);
        // It is told before a process that begins meanwhile is watched.
        settling.watched(PID, 100);
        settling.take(of_context(310, 320));
        settling.settle(320, false);
        assert_eq!(told(&mut settling), Some(Ok(vec![("running", 10)])));
    }

    #[test]
    fn what_open_calls_need_is_kept_for_them() {
        let mut settling = settling();
        let frame = {
            let mut pairing = crate::analysis::pairing::Pairing::new();
            let mut call = crate::analysis::testing::call(200, "f");
            pairing.follow(&mut call).and_then(|step| step.entered)
        };
        let frame = frame.expect("it is open");
        assert_eq!(settling.needed_from(10 + LATEST_NS), 10);
        settling.opens(frame, PID, TID, 200);
        assert_eq!(settling.needed_from(10 + LATEST_NS), 10);
        assert_eq!(settling.needed_from(10 * LATEST_NS), 200);
        settling.log.add(TID, preempted(210, 230));
        settling.forget(10 * LATEST_NS);
        settling.closes(frame);
        settling.take(stretch(200, 300, end(100, 1)));
        assert_eq!(settling.needed_from(10 * LATEST_NS), 200);
        settling.settle(10 * LATEST_NS, false);
        assert_eq!(settling.needed_from(10 * LATEST_NS), 9 * LATEST_NS);
        let parts = vec![("running", 80), ("run-queue", 20)];
        assert_eq!(told(&mut settling), Some(Ok(parts)));
        settling.forget(10 * LATEST_NS);
        settling.take(stretch(200, 300, end(100, 1)));
        settling.settle(10 * LATEST_NS, false);
        assert_eq!(told(&mut settling), Some(Err(Unsplit::TooMuch)));
    }
}
