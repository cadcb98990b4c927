//! Watches processes and adds up, on a thread of its own, until it is told to end or they have ended.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::source::Source;
use super::tally::{Snapshot, Tally};
use crate::process::{Process, ThreadNames, ToCome, has_ended};
use crate::python::frames::StacksError;
use crate::sampling::{Look, Place, PythonOf, note_name};
use crate::threads;
use crate::waits::{
    self, Account, Cause, Reason, Target, Wait, Waiting, Waker, Watch, WatchError, cause_of,
};

/// How far looks at waiting threads are apart.
const LOOKS: Duration = Duration::from_millis(5);
/// How long one look reads stacks: what is left is for the next one.
const LONGEST_LOOK: Duration = Duration::from_millis(4);
/// Most sentences about what went wrong.
const MOST_TROUBLES: usize = 8;
/// How often it is looked whether the processes are still there.
const ALIVE: Duration = Duration::from_millis(100);

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Only waits that took so long.
    pub(crate) min: Duration,
    /// Only those of this reason.
    pub(crate) reason: Option<Reason>,
    /// Whether to listen to who wakes whom.
    pub(crate) wakers: bool,
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
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
}

/// What is added up, and what is still open.
#[derive(Debug)]
struct State {
    tally: Tally,
    /// By thread and when the wait began, as long as each was a moment ago.
    open: HashMap<(u32, u64), (Wait, Option<Place>)>,
    account: Account,
    /// What the account said when it was counted anew.
    before: Account,
    since: Instant,
    /// Waits that began before are not counted in full when it was counted anew.
    counted_from: u64,
    looks: u64,
    until: Option<Instant>,
    names: ThreadNames,
    /// How many processes were watched so far.
    processes: usize,
    /// What went wrong and was not told yet, a sentence each.
    troubles: Vec<String>,
    /// Sentences beyond these.
    more_troubles: usize,
}

impl State {
    fn trouble(&mut self, sentence: String) {
        match self.troubles.len() < MOST_TROUBLES {
            true => self.troubles.push(sentence),
            false => self.more_troubles += 1,
        }
    }
}

impl Session {
    /// Begins to watch.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin(
        processes: Vec<Process>,
        to_come: Option<ToCome>,
        options: Options,
    ) -> Result<Session, WatchError> {
        let targets: Vec<Target> = processes
            .iter()
            .map(|process| Target {
                pid: process.pid,
                started: process.start_time,
            })
            .collect();
        let watch = Watch::begin(&targets, options.wakers)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tally: Tally::default(),
                open: HashMap::new(),
                account: Account::default(),
                before: Account::default(),
                since: Instant::now(),
                counted_from: 0,
                looks: 0,
                until: None,
                names: ThreadNames::default(),
                processes: processes.len(),
                troubles: Vec::new(),
                more_troubles: 0,
            }),
            stop: AtomicBool::new(false),
        });
        let mut notes = watch.notes().to_vec();
        let (say_ended, ended) = bounded::<()>(0);
        let (say_notes, more_notes) = bounded(1);
        let for_thread = Arc::clone(&shared);
        let thread = threads::spawn(move || {
            let _ended = say_ended;
            let (collector, notes) =
                Collector::new(watch, &processes, targets, to_come, options, for_thread);
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
        })
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Source for Session {
    fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.shared.state();
        let (mut tally, open) = (state.tally.clone(), state.open.clone());
        let (gap, names) = (state.gap_ns(), state.names.known());
        let processes = state.processes;
        let until = state.until.unwrap_or_else(Instant::now);
        let wall = until.saturating_duration_since(state.since).as_nanos();
        let account = state.account.since(state.before);
        // Whoever listens to the kernel needs it back: a table of many rows takes its time.
        drop(state);
        for (wait, place) in open.into_values() {
            tally.take(&wait, place, gap);
        }
        let wall = u64::try_from(wall).unwrap_or(u64::MAX);
        let mut snapshot = Snapshot::of(&tally, wall, gap as u64, account);
        snapshot.names = names;
        snapshot.processes = processes;
        snapshot
    }

    fn anew(&self) {
        let mut state = self.shared.state();
        state.tally = Tally::default();
        state.open.clear();
        state.before = state.account;
        state.since = Instant::now();
        state.looks = 0;
        state.counted_from = waits::now();
    }

    fn troubles(&self) -> Vec<String> {
        let mut state = self.shared.state();
        let mut troubles = std::mem::take(&mut state.troubles);
        match std::mem::take(&mut state.more_troubles) {
            0 => {}
            1 => troubles.push("1 more process had such troubles".to_owned()),
            more => troubles.push(format!("{more} more processes had such troubles")),
        }
        troubles
    }

    fn end(&mut self) -> Snapshot {
        self.stop();
        self.snapshot()
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
}

/// What was read of a wait while it went on.
#[derive(Debug, Clone)]
struct Read {
    place: Place,
    /// Where the kernel's events do not tell it.
    cause: Option<Cause>,
}

/// The thread that watches.
struct Collector {
    watch: Watch,
    targets: Vec<Target>,
    to_come: Option<ToCome>,
    options: Options,
    pythons: HashMap<u32, PythonOf>,
    /// By thread and when the wait began.
    read: HashMap<(u32, u64), Read>,
    shared: Arc<Shared>,
}

impl Collector {
    /// Also says what cannot be told.
    fn new(
        watch: Watch,
        processes: &[Process],
        targets: Vec<Target>,
        to_come: Option<ToCome>,
        options: Options,
        shared: Arc<Shared>,
    ) -> (Collector, Vec<String>) {
        let (mut pythons, mut notes) = (HashMap::new(), Vec::new());
        for process in processes {
            let (python, note) = python_of(process);
            pythons.insert(process.pid, python);
            notes.extend(note);
        }
        let collector = Collector {
            watch,
            targets,
            to_come,
            options,
            pythons,
            read: HashMap::new(),
            shared,
        };
        (collector, notes)
    }

    fn run(mut self) {
        let mut waits = Vec::new();
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
            self.watch.ended(&mut waits);
            self.add(&mut waits, looks);
            if now >= alive {
                alive = now + ALIVE;
                self.note_open();
                self.forget();
                if !self.watch_others() {
                    break;
                }
            }
        }
        // What goes on is among the last, and so is no longer open.
        let account = self.watch.end(&mut waits);
        let mut state = self.shared.state();
        for mut wait in waits {
            let read = self.read.get(&(wait.tid, wait.began));
            let place = understood(&self.pythons, &mut wait, read);
            let gap = state.gap_ns();
            if is_wanted(&self.options, state.counted_from, &mut wait) {
                note_names(&mut state.names, &wait, Some(&self.pythons));
                state.tally.take(&wait, place, gap);
            }
        }
        state.open.clear();
        state.account = account;
        state.until = Some(Instant::now());
    }

    /// Watches processes that have begun, and no longer those that have ended. Whether any is left or may come.
    fn watch_others(&mut self) -> bool {
        // What they did last has been told of since they were found to have ended.
        let targets = &mut self.targets;
        self.pythons
            .retain(|pid, _| targets.iter().any(|target| target.pid == *pid));
        targets.retain(|target| !has_ended(target.pid, target.started));
        let Some(to_come) = &mut self.to_come else {
            return !self.targets.is_empty();
        };
        let (found, is_open) = ((to_come.found)(), to_come.is_open);
        let Some(found) = found else {
            return is_open || !self.targets.is_empty();
        };
        for note in found.notes {
            self.shared.state().trouble(note);
        }
        for process in found.processes {
            let new = Target {
                pid: process.pid,
                started: process.start_time,
            };
            if !self.targets.contains(&new) && !has_ended(new.pid, new.started) {
                self.add_process(&process, new);
            }
        }
        is_open || !self.targets.is_empty()
    }

    fn add_process(&mut self, process: &Process, target: Target) {
        // Not tried again where it fails.
        self.targets.push(target);
        match self.watch.add(target.pid) {
            Ok(()) => {
                let (python, note) = python_of(process);
                self.pythons.insert(target.pid, python);
                let mut state = self.shared.state();
                state.processes += 1;
                if let Some(note) = note {
                    state.trouble(note);
                }
            }
            Err(_) if has_ended(target.pid, target.started) => {}
            Err(error) => self.shared.state().trouble(error.to_string()),
        }
    }

    /// Reads the stacks of those that wait and were not read yet.
    fn look(&mut self, end: Instant) {
        let unread: Vec<Waiting> = self
            .watch
            .waiting()
            .filter(|waiting| !self.read.contains_key(&(waiting.tid, waiting.began)))
            .collect();
        if unread.is_empty() {
            return;
        }
        for (pid, python) in &mut self.pythons {
            let mut unread = unread.iter().filter(|waiting| waiting.pid == *pid);
            let unknown = unread.any(|waiting| python.is_unknown(waiting.tid));
            python.refresh(unknown);
        }
        let lacks_reasons = self.watch.lacks_reasons();
        let mut looks = Vec::with_capacity(unread.len());
        for waiting in unread {
            if Instant::now() > end {
                break;
            }
            let Some(python) = self.pythons.get(&waiting.pid) else {
                continue;
            };
            let cause = lacks_reasons.then(|| cause_of(waiting.pid, waiting.tid));
            looks.push((waiting, python.read(waiting.tid, waiting.began), cause));
        }
        // Who has run meanwhile has been told of by now.
        self.watch.drain();
        let mut state = self.shared.state();
        for (waiting, look, cause) in looks {
            if !self.watch.goes_on(&waiting) {
                continue;
            }
            let place = match look {
                Look::Stack(frames) => state.tally.place(frames),
                Look::Unreadable => Place::Unreadable,
                Look::NoPython => Place::NoPython,
                Look::Later => continue,
            };
            let read = Read { place, cause };
            self.read.insert((waiting.tid, waiting.began), read);
        }
    }

    /// Adds up what has ended.
    fn add(&mut self, waits: &mut Vec<Wait>, looked: bool) {
        let mut state = self.shared.state();
        state.looks += u64::from(looked);
        state.account = self.watch.account();
        let gap = state.gap_ns();
        for mut wait in waits.drain(..) {
            let key = (wait.tid, wait.began);
            state.open.remove(&key);
            let read = self.read.remove(&key);
            let place = understood(&self.pythons, &mut wait, read.as_ref());
            if is_wanted(&self.options, state.counted_from, &mut wait) {
                note_names(&mut state.names, &wait, Some(&self.pythons));
                state.tally.take(&wait, place, gap);
            }
        }
    }

    /// Takes note of waits that go on.
    fn note_open(&mut self) {
        let open = self.watch.open();
        let mut state = self.shared.state();
        let counted_from = state.counted_from;
        state.open.clear();
        for mut wait in open {
            let read = self.read.get(&(wait.tid, wait.began));
            let place = understood(&self.pythons, &mut wait, read);
            if is_wanted(&self.options, counted_from, &mut wait) {
                note_names(&mut state.names, &wait, Some(&self.pythons));
                state.open.insert((wait.tid, wait.began), (wait, place));
            }
        }
    }

    /// Forgets what was read of waits that were lost.
    fn forget(&mut self) {
        let going: HashSet<(u32, u64)> = self
            .watch
            .waiting()
            .map(|waiting| (waiting.tid, waiting.began))
            .collect();
        let old = waits::now().saturating_sub(1_000_000_000);
        self.read
            .retain(|wait, _| going.contains(wait) || wait.1 > old);
    }
}

/// What reads the stacks of a process, and what cannot be told of it.
fn python_of(process: &Process) -> (PythonOf, Option<String>) {
    let (python, error) = PythonOf::new(process);
    let note = error.filter(|error| !matches!(error, StacksError::Ended));
    let note = note.map(|error| {
        format!(
            "the stacks of process {} cannot be read: {error}; its waits come without functions, and those for the GIL among \
             those for locks; `pystap offcpu --all-calls -p {}` has their functions where calls can be traced",
            process.pid, process.pid
        )
    });
    (python, note)
}

/// Completes what is known of a wait, and says where it was if that was read.
fn understood(
    pythons: &HashMap<u32, PythonOf>,
    wait: &mut Wait,
    read: Option<&Read>,
) -> Option<Place> {
    if let Some(cause) = read.and_then(|read| read.cause.clone()) {
        wait.cause = cause;
    }
    let python = pythons.get(&wait.pid);
    if wait.cause.reason == Reason::Lock
        && python.is_some_and(|python| python.is_gil(wait.cause.argument))
    {
        wait.cause.reason = Reason::Gil;
    }
    read.map(|read| read.place.clone())
}

/// Whether a wait is to be counted. Of one that began before counting did, the part since then is.
pub(super) fn is_wanted(options: &Options, counted_from: u64, wait: &mut Wait) -> bool {
    let long = u128::from(wait.blocked_ns) >= options.min.as_nanos();
    let of_reason = options
        .reason
        .is_none_or(|reason| reason == wait.cause.reason);
    let end = wait.began.saturating_add(wait.blocked_ns);
    wait.blocked_ns = end.saturating_sub(wait.began.max(counted_from));
    long && of_reason && end >= counted_from
}

/// Keeps the names of a thread and of who woke it, where they are to be had.
pub(super) fn note_names(
    names: &mut ThreadNames,
    wait: &Wait,
    pythons: Option<&HashMap<u32, PythonOf>>,
) {
    let waker = match wait.waker {
        Some(Waker::Thread { pid, tid }) => Some((pid, tid)),
        _ => None,
    };
    for (pid, tid) in [Some((wait.pid, wait.tid)), waker].into_iter().flatten() {
        let python = pythons.and_then(|pythons| pythons.get(&pid));
        note_name(names, tid, python);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(began: u64, blocked_ns: u64) -> Wait {
        Wait {
            pid: 1,
            tid: 1,
            began,
            blocked_ns,
            runqueue_ns: None,
            cause: Cause {
                reason: Reason::Lock,
                call: None,
                argument: 0,
            },
            waker: None,
        }
    }

    #[test]
    fn a_wait_is_counted_if_it_is_long_enough_and_from_when_counting_began() {
        let options = Options {
            min: Duration::from_nanos(100),
            reason: Some(Reason::Lock),
            wakers: true,
        };
        let counted =
            |from, mut wait: Wait| is_wanted(&options, from, &mut wait).then_some(wait.blocked_ns);
        assert_eq!(counted(0, wait(50, 99)), None);
        assert_eq!(counted(0, wait(50, 100)), Some(100));
        assert_eq!(counted(120, wait(50, 100)), Some(30));
        assert_eq!(counted(200, wait(50, 100)), None);
        let mut other = wait(50, 100);
        other.cause.reason = Reason::Disk;
        assert_eq!(counted(0, other), None);
    }
}
