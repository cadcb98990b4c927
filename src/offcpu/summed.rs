//! The same from waits that the kernel has added up: no estimates, because each stack was read when its thread left the
//! processor. What is left to be done here is to give stacks and reasons their names.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use super::source::Source;
use super::tally::{Exact, Snapshot};
use crate::engine::{Message, Running, Weight, Wish};
use crate::process::{Process, ThreadNames, has_ended};
use crate::python::frames::StacksError;
use crate::sampling::{Look, Place, PythonOf, note_name};
use crate::threads;
use crate::waits::{
    Account, Meanings, Reason, Summed, SummedKind, SummedPython, SummedStack, SummedWaits,
    cause_of, found_waiting, now,
};

/// How often the kernel is asked for what changed, and the memory of processes for the names of new stacks.
const ASKS: Duration = Duration::from_millis(50);
/// How long an answer may take before it is asked for once more: a longer one comes in parts.
const ANSWERS: Duration = Duration::from_secs(2);
/// How long a module may take to be loaded: an emulated machine takes half a minute.
const LOADS: Duration = Duration::from_secs(120);
/// How long the last sums may take.
const LAST: Duration = Duration::from_secs(90);
/// Most frames of a stack, as of those that the module reads.
const DEEPEST: usize = 64;
/// Most sums and stacks that are kept: more than a module has.
const MOST: usize = 1 << 17;

/// Why there are no sums.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SummedError {
    /// The engine said so.
    #[error("{0}")]
    Engine(String),
    /// It did not answer.
    #[error("the module was loaded and did not answer; look at the kernel's log with `dmesg`")]
    Silent,
    /// Something of the system is missing.
    #[error("{what}: {reason}")]
    System {
        what: &'static str,
        reason: std::io::Error,
    },
}

/// What is known of the processes before the module is loaded.
pub(crate) struct Known {
    processes: Vec<Process>,
    meanings: Meanings,
    /// Where their Pythons have what leads to stacks.
    pub(crate) positions: Vec<Vec<i64>>,
    /// What cannot be told, a sentence each.
    pub(crate) notes: Vec<String>,
}

impl Known {
    /// Looks at processes.
    ///
    /// # Errors
    /// When the kernel's functions cannot be asked for.
    pub(crate) fn of(processes: &[Process]) -> Result<Known, SummedError> {
        let meanings = Meanings::of_kernel().map_err(|reason| SummedError::System {
            what: "the kernel's functions (/proc/kallsyms) cannot be read",
            reason,
        })?;
        let mut known = Known {
            processes: processes.to_vec(),
            meanings,
            positions: Vec::new(),
            notes: Vec::new(),
        };
        if known.meanings.lack_symbols() {
            let note = "the kernel does not tell its addresses (kernel.kptr_restrict), so reasons come from system calls alone, and many \
                        are `other`";
            known.notes.push(note.to_owned());
        }
        for process in processes {
            let pid = process.pid;
            let (python, error) = PythonOf::new(process);
            match (python.positions(), error) {
                (Some(positions), _) => known.positions.push(positions),
                (None, Some(StacksError::Ended)) => {}
                (None, error) => {
                    let error = error.map_or_else(
                        || "it is just starting or ending".to_owned(),
                        |it| it.to_string(),
                    );
                    known.notes.push(format!(
                        "the stacks of process {pid} cannot be read: {error}; its waits come without functions, and those for the GIL \
                         among those for locks"
                    ));
                }
            }
        }
        Ok(known)
    }

    /// The processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }
}

/// A running session. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct SummedSession {
    shared: Arc<Mutex<State>>,
    /// What the thread is asked for; without a sender it ends.
    asks: Option<Sender<()>>,
    anew: Arc<AtomicBool>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    processes: usize,
    min_ns: u64,
    reason: Option<Reason>,
}

/// What has come.
#[derive(Debug)]
struct State {
    sums: HashMap<SummedKind, SummedWaits>,
    stacks: HashMap<u32, (Place, Arc<[u64]>)>,
    causes: HashMap<SummedKind, (Reason, Option<Arc<str>>)>,
    /// Sums whose stack has not come, with causes of the system call alone.
    guessed: HashSet<SummedKind>,
    account: Account,
    /// What the module had counted when it counted anew.
    counted: Account,
    since: Instant,
    until: Option<Instant>,
    names: ThreadNames,
    /// Threads that waited when it began: where, why and in which system call.
    before: HashMap<(u32, u32), Named>,
    /// Those that have done anything since.
    moved: HashSet<(u32, u32)>,
    troubles: Vec<String>,
}

/// A wait with its names.
#[derive(Debug, Clone)]
struct Named {
    place: Place,
    reason: Reason,
    call: Option<Arc<str>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new() -> State {
        State {
            sums: HashMap::new(),
            stacks: HashMap::new(),
            causes: HashMap::new(),
            guessed: HashSet::new(),
            account: Account::default(),
            counted: Account::default(),
            since: Instant::now(),
            until: None,
            names: ThreadNames::default(),
            before: HashMap::new(),
            moved: HashSet::new(),
            troubles: Vec::new(),
        }
    }

    /// A sum with its names; `None` where it is none.
    fn exact(&self, sum: &SummedWaits) -> Option<Exact> {
        let (pid, tid) = (sum.kind.pid, sum.kind.tid);
        let named = match sum.kind.from_before {
            // Where it had not waited, it was in the run queue.
            true => self.before.get(&(pid, tid))?.clone(),
            false => {
                let (reason, call) = self.causes.get(&sum.kind)?.clone();
                let place = self.stacks.get(&sum.kind.stack);
                let place = place.map_or(Place::NotSeen, |(place, _)| place.clone());
                Named {
                    place,
                    reason,
                    call,
                }
            }
        };
        let waits = sum.waits + u64::from(sum.lasts_ns > 0);
        (waits > 0).then(|| Exact {
            pid,
            tid,
            reason: named.reason,
            call: named.call,
            place: named.place,
            waits,
            blocked_ns: sum.blocked_ns.saturating_add(sum.lasts_ns),
            runqueue_ns: sum.runqueue_ns,
            max_ns: sum.max_ns.max(sum.lasts_ns),
        })
    }

    /// The waits that have lasted all the time.
    fn hanging(&self, wall_ns: u64) -> impl Iterator<Item = Exact> {
        let still = self
            .before
            .iter()
            .filter(|(thread, _)| !self.moved.contains(*thread));
        still.map(move |(&(pid, tid), named)| Exact {
            pid,
            tid,
            reason: named.reason,
            call: named.call.clone(),
            place: named.place.clone(),
            waits: 1,
            blocked_ns: wall_ns,
            runqueue_ns: 0,
            max_ns: wall_ns,
        })
    }
}

impl SummedSession {
    /// Waits until the module is live, and begins. `None` when something comes from `stop` before.
    ///
    /// # Errors
    /// [`SummedError`].
    pub(crate) fn begin<T>(
        known: Known,
        running: Box<dyn Running + Send>,
        min_ns: u64,
        reason: Option<Reason>,
        stop: &Receiver<T>,
    ) -> Result<Option<SummedSession>, SummedError> {
        let deadline = Instant::now() + LOADS;
        let mut said = None;
        loop {
            let message = select! {
                recv(running.messages()) -> message => message,
                recv(stop) -> _ => return Ok(None),
                default(deadline.saturating_duration_since(Instant::now())) => return Err(SummedError::Silent),
            };
            match message {
                Ok(Message::Live) => break,
                Ok(Message::Failed(why)) => return Err(SummedError::Engine(why)),
                Ok(Message::Said(Weight::Error, why)) => said = said.or(Some(why)),
                Ok(Message::Ended { .. }) | Err(_) => {
                    let silent = || running.silent_end().to_owned();
                    return Err(SummedError::Engine(said.unwrap_or_else(silent)));
                }
                Ok(_) => {}
            }
        }
        let shared = Arc::new(Mutex::new(State::new()));
        let (asks, asked) = bounded::<()>(1);
        let (say_ended, ended) = bounded::<()>(0);
        let anew = Arc::new(AtomicBool::new(false));
        let processes = known.processes.len();
        let (for_thread, to_begin) = (Arc::clone(&shared), Arc::clone(&anew));
        let thread = threads::spawn(move || {
            let _ended = say_ended;
            // What was learned of a process's memory belongs to one thread.
            let reads = |process: &Process| (process.pid, PythonOf::new(process).0);
            let collector = Collector {
                pythons: known.processes.iter().map(reads).collect(),
                targets: known.processes,
                meanings: known.meanings,
                running,
                shared: for_thread,
                anew: to_begin,
                asked: None,
                asked_anew: Instant::now(),
            };
            collector.run(&asked);
        })
        .map_err(|reason| SummedError::System {
            what: "no thread can be started to listen",
            reason,
        })?;
        Ok(Some(SummedSession {
            shared,
            asks: Some(asks),
            anew,
            ended,
            thread: Some(thread),
            processes,
            min_ns,
            reason,
        }))
    }

    fn stop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Source for SummedSession {
    fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    fn snapshot(&self) -> Snapshot {
        let state = lock(&self.shared);
        let until = state.until.unwrap_or_else(Instant::now);
        let wall = until.saturating_duration_since(state.since).as_nanos();
        let wall = u64::try_from(wall).unwrap_or(u64::MAX);
        let sums = state.sums.values().filter_map(|sum| state.exact(sum));
        let hanging = state
            .hanging(wall)
            .filter(|sum| sum.blocked_ns >= self.min_ns);
        let wanted = sums
            .chain(hanging)
            .filter(|sum| self.reason.is_none_or(|reason| reason == sum.reason));
        let account = state.account.since(state.counted);
        let mut snapshot = Snapshot::of_exact(wanted, wall, account);
        snapshot.names = state.names.known();
        snapshot.processes = self.processes;
        snapshot
    }

    fn anew(&self) {
        self.anew.store(true, Ordering::Relaxed);
        if let Some(asks) = &self.asks {
            let _ = asks.try_send(());
        }
    }

    fn troubles(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared).troubles)
    }

    fn end(&mut self) -> Snapshot {
        self.stop();
        self.snapshot()
    }
}

impl Drop for SummedSession {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread that listens to the module.
struct Collector {
    targets: Vec<Process>,
    pythons: HashMap<u32, PythonOf>,
    meanings: Meanings,
    running: Box<dyn Running + Send>,
    shared: Arc<Mutex<State>>,
    anew: Arc<AtomicBool>,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// When the module was asked to count anew.
    asked_anew: Instant,
}

impl Collector {
    fn run(mut self, asked: &Receiver<()>) {
        // From now on, and what waits now is looked at.
        self.begin_anew();
        self.look();
        let mut next = Instant::now();
        loop {
            let pause = next.saturating_duration_since(Instant::now());
            select! {
                recv(self.running.messages()) -> message => {
                    // Nobody has asked it to end.
                    if message.map_or(true, |message| self.take(message)) {
                        let why = self.running.silent_end().to_owned();
                        self.trouble(why);
                        break;
                    }
                }
                recv(asked) -> ask => {
                    if ask.is_err() {
                        self.finish();
                        break;
                    }
                    if self.anew.swap(false, Ordering::Relaxed) {
                        self.begin_anew();
                    }
                }
                default(pause) => {
                    next = Instant::now() + ASKS;
                    self.ask();
                    let targets = &mut self.targets;
                    targets.retain(|target| !has_ended(target.pid, target.start_time));
                    if targets.is_empty() {
                        self.finish();
                        break;
                    }
                }
            }
        }
        lock(&self.shared).until.get_or_insert_with(Instant::now);
    }

    fn begin_anew(&mut self) {
        self.asked_anew = Instant::now();
        self.running.wish(Wish::Anew);
    }

    /// Asks for what changed, unless the answer to the last time is still on its way: it would begin once more.
    fn ask(&mut self) {
        if self.asked.is_none_or(|since| since.elapsed() >= ANSWERS) {
            self.asked = Some(Instant::now());
            self.running.wish(Wish::Sums);
        }
    }

    /// Looks at the threads that wait.
    fn look(&mut self) {
        for (pid, python) in &mut self.pythons {
            python.refresh(false);
            let looks = found_waiting(*pid, |tid| {
                let mut cause = cause_of(*pid, tid);
                if cause.reason == Reason::Lock && python.is_gil(cause.argument) {
                    cause.reason = Reason::Gil;
                }
                (python.read(tid, now()), cause)
            });
            let mut state = lock(&self.shared);
            for (tid, (look, cause)) in looks {
                let place = match look {
                    Look::Stack(mut frames) => {
                        frames.truncate(DEEPEST);
                        Place::Stack(frames.into())
                    }
                    Look::NoPython => Place::NoPython,
                    Look::Unreadable => Place::Unreadable,
                    Look::Later => Place::NotSeen,
                };
                let named = Named {
                    place,
                    reason: cause.reason,
                    call: cause.call,
                };
                state.before.insert((*pid, tid), named);
                note_name(&mut state.names, tid, Some(&*python));
            }
        }
    }

    /// Ends the module and takes what it still has to say.
    fn finish(&mut self) {
        lock(&self.shared).until = Some(Instant::now());
        self.running.stop();
        let deadline = Instant::now() + LAST;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let message = self.running.messages().recv_timeout(rest);
            if matches!(message, Err(RecvTimeoutError::Timeout)) {
                let why = "the module did not say its last word in time, so waits of the end are missing; look at the kernel's log with `dmesg`";
                self.trouble(why.to_owned());
            }
            if message.map_or(true, |message| self.take(message)) {
                return;
            }
        }
    }

    /// Keeps what went wrong for those who ask; more than a few say nothing new.
    fn trouble(&self, why: String) {
        const MOST: usize = 16;
        let mut state = lock(&self.shared);
        if state.troubles.len() < MOST {
            state.troubles.push(why);
        }
    }

    /// Whether that was the last message.
    fn take(&mut self, message: Message) -> bool {
        let shared = Arc::clone(&self.shared);
        match message {
            Message::Waits(summed) => {
                self.asked = None;
                self.add(*summed);
            }
            Message::Lost(_, 0) => self.trouble(
                "something that the module said is missing, and nobody knows how much; try again"
                    .to_owned(),
            ),
            Message::Lost(_, records) => lock(&shared).account.lost += records,
            Message::LostInKernel(records) | Message::Skipped(records) => {
                let mut state = lock(&shared);
                state.account.lost = state.account.lost.max(records);
            }
            Message::Said(Weight::Error | Weight::Warning, why) | Message::Failed(why) => {
                self.trouble(why);
            }
            Message::Unparsed(records) => lock(&shared).account.unreadable += records,
            Message::Ended { .. } => return true,
            _ => {}
        }
        false
    }

    fn add(&mut self, summed: Summed) {
        // Memory is read before anybody has to wait for the state.
        let stacks: Vec<(u32, Place, Vec<u64>)> = summed
            .stacks
            .into_iter()
            .map(|stack| (stack.number, self.place(&stack), stack.functions))
            .collect();
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared);
        let state = &mut *state;
        if summed.end.anew {
            state.sums.clear();
            state.since = self.asked_anew;
        }
        state.account.preempted = summed.end.preempted;
        state.account.preempted_ns = summed.end.preempted_ns;
        state.account.waits_lost = summed.end.waits_lost;
        if summed.end.anew {
            state.counted = state.account;
        }
        for (number, place, functions) in stacks {
            // What was named once stays: its process may have ended since.
            let named = |(place, _): &(Place, Arc<[u64]>)| *place != Place::Unreadable;
            if state.stacks.len() < MOST && !state.stacks.get(&number).is_some_and(named) {
                state.stacks.insert(number, (place, functions.into()));
            }
        }
        for sum in summed.sums {
            if state.sums.len() >= MOST && !state.sums.contains_key(&sum.kind) {
                continue;
            }
            let functions = state.stacks.get(&sum.kind.stack);
            // A stack that is missing may come with a later answer, and says more than the system call.
            let is_known =
                state.causes.contains_key(&sum.kind) && !state.guessed.contains(&sum.kind);
            if !is_known {
                let has_all = functions.is_some() || sum.kind.stack == 0;
                let functions = functions.map(|(_, functions)| Arc::clone(functions));
                let functions = functions.as_deref().unwrap_or_default();
                let cause = self.meanings.cause(functions, &sum.kind);
                state.causes.insert(sum.kind, cause);
                match has_all {
                    true => state.guessed.remove(&sum.kind),
                    false => state.guessed.insert(sum.kind),
                };
            }
            let thread = (sum.kind.pid, sum.kind.tid);
            if state.before.contains_key(&thread) {
                state.moved.insert(thread);
            }
            let python = self.pythons.get(&sum.kind.pid);
            note_name(&mut state.names, sum.kind.tid, python);
            state.sums.insert(sum.kind, sum);
        }
    }

    fn place(&mut self, stack: &SummedStack) -> Place {
        let frames = match &stack.python {
            SummedPython::None => return Place::NoPython,
            SummedPython::Unreadable => return Place::Unreadable,
            SummedPython::Frames(frames) => frames,
        };
        let python = self.pythons.get(&stack.pid);
        match python.and_then(|python| python.named(frames)) {
            Some(frames) => Place::Stack(frames.into()),
            None => Place::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(tid: u32, from_before: bool) -> SummedWaits {
        SummedWaits {
            kind: SummedKind {
                pid: 1,
                tid,
                stack: 7,
                call: None,
                of_gil: false,
                zero: [false; 2],
                from_before,
            },
            waits: 2,
            blocked_ns: 900,
            runqueue_ns: 30,
            max_ns: 600,
            lasts_ns: 0,
        }
    }

    fn state() -> State {
        let mut state = State::new();
        for tid in [11, 12] {
            let named = Named {
                place: Place::NoPython,
                reason: Reason::Lock,
                call: Some("futex".into()),
            };
            state.before.insert((1, tid), named);
        }
        state.moved.insert((1, 12));
        state
    }

    #[test]
    fn a_wait_that_goes_on_is_one_more_and_may_be_the_longest() {
        let mut state = state();
        let sum = SummedWaits {
            lasts_ns: 1000,
            ..sum(13, false)
        };
        assert!(state.exact(&sum).is_none(), "nothing is known of it yet");
        state.causes.insert(sum.kind, (Reason::Pipe, None));
        let exact = state.exact(&sum).expect("a row");
        assert_eq!((exact.waits, exact.blocked_ns), (3, 1900));
        assert_eq!((exact.max_ns, exact.runqueue_ns), (1000, 30));
        assert_eq!(exact.place, Place::NotSeen, "its stack found no room");
    }

    #[test]
    fn a_wait_from_before_is_that_of_a_thread_that_was_seen_waiting() {
        let state = state();
        let exact = state.exact(&sum(12, true)).expect("a row");
        assert_eq!((exact.reason, exact.place), (Reason::Lock, Place::NoPython));
        assert!(state.exact(&sum(13, true)).is_none(), "it was to run");
    }

    #[test]
    fn who_has_not_moved_has_waited_all_the_time() {
        let state = state();
        let hanging: Vec<(u32, u64)> = state
            .hanging(5000)
            .map(|sum| (sum.tid, sum.blocked_ns))
            .collect();
        assert_eq!(hanging, [(11, 5000)]);
    }
}
