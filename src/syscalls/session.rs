//! Watches processes and adds up, on a thread of its own, until it is told to end or they have ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use foldhash::fast::RandomState;

use super::objects::{Objects, On, Proc};
use super::tally::{Call, Snapshot, Tally};
use crate::process::activity::Use;
use crate::process::{Process, ThreadNames, has_ended};
use crate::python::frames::StacksError;
use crate::sampling::{Look, Place, PythonOf, note_name};
use crate::threads;
use crate::waits::{
    self, Account, CallAccount, Called, Caller, Target, WantedCalls, Watch, WatchError,
};

/// How far looks at threads are apart.
const LOOKS: Duration = Duration::from_millis(5);
/// How long one look reads stacks: what is left is for the next one.
const LONGEST_LOOK: Duration = Duration::from_millis(4);
/// How often it is looked whether the processes are still there.
const ALIVE: Duration = Duration::from_millis(100);
/// A thread whose last call is as old as this makes none at the moment, in nanoseconds.
const ACTIVE_NS: u64 = 5_000_000;
/// Most looks at a thread that are kept until its calls have come.
const MOST_LOOKS: usize = 64;

/// How long a thread without Python is not looked at again, in nanoseconds.
const SELDOM_NS: u64 = 100_000_000;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Only calls that took so long.
    pub(crate) min: Duration,
    /// Only these.
    pub(crate) wanted: WantedCalls,
    /// Told apart by what they are about, and only those that are about such a thing.
    pub(crate) on: Option<On>,
}

/// A running session. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Disconnected when the processes have ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    /// What cannot be told, a sentence each.
    pub(crate) notes: Vec<String>,
    processes: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
}

/// What is added up.
#[derive(Debug)]
struct State {
    tally: Tally,
    account: Account,
    calls: CallAccount,
    /// What the accounts said when it was counted anew.
    before: (Account, CallAccount),
    since: Instant,
    /// Calls that ended before are not counted.
    counted_from: u64,
    looks: u64,
    until: Option<Instant>,
    names: ThreadNames,
}

impl Session {
    /// Begins to watch.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin(processes: Vec<Process>, options: Options) -> Result<Session, WatchError> {
        let targets: Vec<Target> = processes
            .iter()
            .map(|process| Target {
                pid: process.pid,
                started: process.start_time,
            })
            .collect();
        let wanted = WantedCalls {
            descriptors: options.on.is_some(),
            ..options.wanted.clone()
        };
        let watch = Watch::begin_with_calls(&targets, wanted)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tally: Tally::default(),
                account: Account::default(),
                calls: CallAccount::default(),
                before: (Account::default(), CallAccount::default()),
                since: Instant::now(),
                counted_from: 0,
                looks: 0,
                until: None,
                names: ThreadNames::default(),
            }),
            stop: AtomicBool::new(false),
        });
        let mut notes = watch.notes().to_vec();
        let (say_ended, ended) = bounded::<()>(0);
        let (say_notes, more_notes) = bounded(1);
        let count = processes.len();
        let for_thread = Arc::clone(&shared);
        let thread = threads::spawn(move || {
            let _ended = say_ended;
            let (collector, notes) =
                Collector::new(watch, &processes, targets, options, for_thread);
            let _ = say_notes.send(notes);
            collector.run();
        })
        .map_err(|reason| WatchError::System {
            what: "no thread can be started to watch",
            reason,
        })?;
        notes.extend(more_notes.recv().unwrap_or_default());
        Ok(Session {
            shared,
            ended,
            thread: Some(thread),
            notes,
            processes: count,
        })
    }

    /// Becomes ready when all processes have ended.
    pub(crate) fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Everything so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.shared.state();
        let tally = state.tally.clone();
        let (gap, names) = (state.gap_ns(), state.names.known());
        let until = state.until.unwrap_or_else(Instant::now);
        let wall = until.saturating_duration_since(state.since).as_nanos();
        let account = state.account.since(state.before.0);
        let calls = CallAccount {
            lost: state.calls.lost.saturating_sub(state.before.1.lost),
            ..state.calls
        };
        // Whoever listens to the kernel needs it back: a table of many rows takes its time.
        drop(state);
        let wall = u64::try_from(wall).unwrap_or(u64::MAX);
        let mut snapshot = Snapshot::of(&tally, wall, gap as u64);
        snapshot.account = account;
        snapshot.calls = calls;
        snapshot.names = names;
        snapshot.processes = self.processes;
        snapshot
    }

    /// Counts anew from now on.
    pub(crate) fn anew(&self) {
        let mut state = self.shared.state();
        state.tally = Tally::default();
        state.before = (state.account, state.calls);
        state.since = Instant::now();
        state.looks = 0;
        state.counted_from = waits::now();
    }

    /// Ends, and gives everything.
    pub(crate) fn end(mut self) -> Snapshot {
        self.stop();
        self.snapshot()
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How far looks are apart, in nanoseconds.
    fn gap_ns(&self) -> f64 {
        match self.looks {
            0 => LOOKS.as_nanos() as f64,
            looks => self.since.elapsed().as_nanos() as f64 / looks as f64,
        }
    }

    /// Adds a call, with what looks at its thread saw.
    fn take(
        &mut self,
        options: &Options,
        called: Called,
        seen: Option<Seen>,
        objects: Option<&Objects>,
        python: Option<&PythonOf>,
    ) {
        let is_long = u128::from(called.took_ns) >= options.min.as_nanos();
        if !is_long
            || called.left() < self.counted_from
            || options.wanted.failed_only && called.error().is_none()
        {
            return;
        }
        let on = objects.map(|objects| on(objects, &called));
        if matches!(on, Some(None)) {
            return;
        }
        let on = on.flatten();
        note_name(&mut self.names, called.tid, python);
        let gap = self.gap_ns();
        let call = Call { called, on };
        match seen {
            Some(Seen::Near(place, look)) => self.tally.take_near(&call, &place, look, gap),
            Some(Seen::Caught(place)) => self.tally.take(&call, Some(place), gap),
            None => self.tally.take(&call, None, gap),
        }
    }
}

/// What a call was about; `None` for nothing that is asked for.
fn on(objects: &Objects, called: &Called) -> Option<Arc<str>> {
    let [first, second] = called.arguments;
    match Use::of(called.number) {
        Use::First | Use::Closes => objects.of(called, first as u32, called.entered),
        Use::Connects => objects.of(called, first as u32, called.left()),
        Use::Replaces => objects.of(called, second as u32, called.entered),
        Use::Opens => {
            let opened = u32::try_from(called.result).ok();
            opened.and_then(|opened| objects.of(called, opened, called.left()))
        }
        Use::ClosesMany | Use::None => None,
    }
}

/// What a look saw of a call.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// It fell into it.
    Caught(Place),
    /// The call began while the thread was looked at, for so many nanoseconds.
    Near(Place, f64),
}

/// Looks at a thread, in their order.
#[derive(Debug, Default)]
struct Looks {
    looks: VecDeque<Looked>,
    /// What is so whenever it is looked at: it has no Python, or none that can be read.
    always: Option<Place>,
    /// When the last look ended.
    last: u64,
}

#[derive(Debug)]
struct Looked {
    from: u64,
    to: u64,
    place: Place,
}

impl Looks {
    fn add(&mut self, look: Looked) {
        self.last = look.to;
        self.always = match look.place {
            Place::NoPython | Place::Unreadable => Some(look.place),
            _ => {
                if self.looks.len() >= MOST_LOOKS {
                    self.looks.pop_front();
                }
                self.looks.push_back(look);
                None
            }
        };
    }

    /// Whether there was a look since then. What is so whenever it is looked at is believed for a while: a thread may come to
    /// Python.
    fn since(&self, moment: u64, now: u64) -> bool {
        let is_young = now.saturating_sub(self.last) < SELDOM_NS;
        self.always.is_some() && is_young
            || self.looks.back().is_some_and(|look| look.from >= moment)
    }

    /// What was seen of a call. To be called in the order of calls: what is older is forgotten.
    fn of(&mut self, called: &Called) -> Option<Seen> {
        if let Some(place) = &self.always {
            return Some(Seen::Caught(place.clone()));
        }
        while self
            .looks
            .front()
            .is_some_and(|look| look.to < called.entered)
        {
            self.looks.pop_front();
        }
        let looks = self.looks.iter();
        let around = || looks.clone().take_while(|look| look.from <= called.left());
        // A long one may have begun in a look before that.
        let within = around().find(|look| called.entered < look.from && look.to < called.left());
        if let Some(look) = within {
            return Some(Seen::Caught(look.place.clone()));
        }
        let near = around().find(|look| look.from <= called.entered)?;
        let look_ns = near.to.saturating_sub(near.from) as f64;
        Some(Seen::Near(near.place.clone(), look_ns))
    }
}

/// The thread that watches.
struct Collector {
    watch: Watch,
    targets: Vec<Target>,
    options: Options,
    pythons: HashMap<u32, PythonOf>,
    /// By thread.
    looks: HashMap<u32, Looks, RandomState>,
    objects: Option<Objects>,
    shared: Arc<Shared>,
}

impl Collector {
    /// Also says what cannot be told.
    fn new(
        watch: Watch,
        processes: &[Process],
        targets: Vec<Target>,
        options: Options,
        shared: Arc<Shared>,
    ) -> (Collector, Vec<String>) {
        let (mut pythons, mut notes) = (HashMap::new(), Vec::new());
        for process in processes {
            let (python, error) = PythonOf::new(process);
            pythons.insert(process.pid, python);
            match error {
                None | Some(StacksError::Ended) => {}
                Some(error) => notes.push(format!(
                    "the stacks of process {} cannot be read: {error}; its system calls come without functions",
                    process.pid
                )),
            }
        }
        let collector = Collector {
            watch,
            targets,
            objects: options.on.map(Objects::new),
            options,
            pythons,
            looks: HashMap::default(),
            shared,
        };
        (collector, notes)
    }

    fn run(mut self) {
        let mut called = Vec::new();
        let (mut next, mut alive) = (Instant::now(), Instant::now());
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.watch.pause(next);
            self.watch.drain();
            let now = Instant::now();
            let looks = now >= next;
            if looks {
                // From when it was due, unless it is late.
                next = (next + LOOKS).max(now);
                self.look(now + LONGEST_LOOK);
            }
            self.look_up();
            self.watch.called(&mut called);
            self.add(&mut called, looks);
            if now >= alive {
                alive = now + ALIVE;
                self.forget();
                let targets = &mut self.targets;
                targets.retain(|target| !has_ended(target.pid, target.started));
                if targets.is_empty() {
                    break;
                }
            }
        }
        let (account, calls) = self.watch.end_of_calls(&mut called);
        let mut state = self.shared.state();
        for called in called {
            let seen = self.looks.get_mut(&called.tid);
            let seen = seen.and_then(|looks| looks.of(&called));
            let python = self.pythons.get(&called.pid);
            state.take(&self.options, called, seen, self.objects.as_ref(), python);
        }
        state.account = account;
        state.calls = calls;
        state.until = Some(Instant::now());
    }

    /// Reads the stacks of those that are in a call, or make some.
    fn look(&mut self, end: Instant) {
        let now = waits::now();
        let active = now.saturating_sub(ACTIVE_NS);
        let mut wanted: Vec<Caller> = self
            .watch
            .callers()
            .filter(|caller| match caller.inside {
                true => !self
                    .looks
                    .get(&caller.tid)
                    .is_some_and(|looks| looks.since(caller.at, now)),
                false => caller.at >= active,
            })
            .collect();
        // Where there is no time for all, each has its turn.
        wanted.sort_by_key(|caller| self.looks.get(&caller.tid).map_or(0, |looks| looks.last));
        for (pid, python) in &mut self.pythons {
            let mut wanted = wanted.iter().filter(|caller| caller.pid == *pid);
            let unknown = wanted.any(|caller| python.is_unknown(caller.tid));
            python.refresh(unknown);
        }
        let mut read = Vec::with_capacity(wanted.len());
        for caller in wanted {
            if Instant::now() > end {
                break;
            }
            let Some(python) = self.pythons.get(&caller.pid) else {
                continue;
            };
            let from = waits::now();
            let look = python.read(caller.tid, caller.at);
            let to = waits::now();
            let look = match look {
                Look::Later if python.is_no_python(caller.tid) => Look::NoPython,
                look => look,
            };
            read.push((caller.tid, from, to, look));
        }
        let mut state = self.shared.state();
        for (tid, from, to, look) in read {
            let place = match look {
                Look::Stack(frames) => state.tally.place(frames),
                Look::Unreadable => Place::Unreadable,
                Look::NoPython => Place::NoPython,
                Look::Later => continue,
            };
            let looked = Looked { from, to, place };
            self.looks.entry(tid).or_default().add(looked);
        }
    }

    /// Looks up descriptors that are not known.
    fn look_up(&mut self) {
        let (Some(objects), watch) = (&mut self.objects, &mut self.watch) else {
            return;
        };
        let mut descriptors = Proc::default();
        objects.look(
            |touched| {
                watch.drain();
                watch.touched(touched);
            },
            |pid, tid, fd| descriptors.describe(pid, tid, fd),
        );
    }

    /// Adds up what has ended.
    fn add(&mut self, called: &mut Vec<Called>, looked: bool) {
        let mut state = self.shared.state();
        state.looks += u64::from(looked);
        state.account = self.watch.account();
        state.calls = self.watch.call_account();
        for called in called.drain(..) {
            let seen = self.looks.get_mut(&called.tid);
            let seen = seen.and_then(|looks| looks.of(&called));
            let python = self.pythons.get(&called.pid);
            state.take(&self.options, called, seen, self.objects.as_ref(), python);
        }
    }

    /// Forgets looks at threads that have ended.
    fn forget(&mut self) {
        let callers: HashSet<u32> = self.watch.callers().map(|caller| caller.tid).collect();
        self.looks.retain(|tid, _| callers.contains(tid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(entered: u64, left: u64) -> Called {
        Called {
            pid: 1,
            tid: 1,
            number: 0,
            arguments: [0; 2],
            entered,
            took_ns: left - entered,
            off_ns: 0,
            result: 0,
        }
    }

    fn looked(from: u64, to: u64, place: Place) -> Looked {
        Looked { from, to, place }
    }

    fn stack(function: &str) -> Place {
        let mut tally = Tally::default();
        tally.place(vec![crate::python::frames::Frame {
            function: function.to_owned(),
            file: String::new(),
            line: None,
        }])
    }

    #[test]
    fn a_look_catches_the_call_that_it_falls_into_and_sees_those_that_begin_meanwhile() {
        let mut looks = Looks::default();
        let (f, g) = (stack("f"), stack("g"));
        looks.add(looked(100, 120, f.clone()));
        looks.add(looked(200, 220, g.clone()));
        let mut of = |entered, left| looks.of(&called(entered, left));
        assert_eq!(of(50, 60), None);
        // It ended while it was looked at, so what was seen may be from after it.
        assert_eq!(of(90, 110), None);
        assert_eq!(of(111, 113), Some(Seen::Near(f.clone(), 20.0)));
        assert_eq!(of(130, 140), None);
        assert_eq!(of(150, 300), Some(Seen::Caught(g)));
        assert_eq!(of(301, 400), None);
    }

    #[test]
    fn a_long_call_is_looked_at_once() {
        let mut looks = Looks::default();
        assert!(!looks.since(50, 0));
        looks.add(looked(100, 120, stack("f")));
        assert!(looks.since(50, 0));
        assert!(!looks.since(150, 0));
    }

    #[test]
    fn a_long_call_that_begins_in_one_look_is_caught_by_the_next() {
        let mut looks = Looks::default();
        looks.add(looked(100, 120, stack("f")));
        looks.add(looked(200, 220, stack("g")));
        let seen = looks.of(&called(110, 300));
        assert_eq!(seen, Some(Seen::Caught(stack("g"))));
        let mut looks = Looks::default();
        looks.add(looked(100, 120, stack("f")));
        looks.add(looked(200, 220, stack("g")));
        let seen = looks.of(&called(110, 210));
        assert_eq!(seen, Some(Seen::Near(stack("f"), 20.0)));
    }

    #[test]
    fn a_thread_without_python_is_that_in_all_its_calls() {
        let mut looks = Looks::default();
        looks.add(looked(100, 120, Place::NoPython));
        let seen = looks.of(&called(500, 501));
        assert_eq!(seen, Some(Seen::Caught(Place::NoPython)));
        // It is looked at again after a while, because it may come to Python.
        assert!(looks.since(500, 130) && !looks.since(500, 120 + SELDOM_NS));
        looks.add(looked(600, 620, stack("f")));
        assert_eq!(looks.of(&called(700, 701)), None);
    }
}
