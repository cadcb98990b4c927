//! Samples processes on a thread of its own, until it is told to end or they have ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::contexts::Names;
use super::parked::{Extent, Look, Looker};
use super::punctual::Punctual;
use super::sampler::{Files, Sampled, Samples};
use super::stacks::Stacks;
use super::tally::{Counts, Key, NO_THREAD, PARKED, Snapshot, Tally};
use crate::process::{Identity, Process, ToCome, has_ended};
use crate::python::frames::StacksError;
use crate::threads;

/// How often it is looked which processes are there.
const ALIVE: Duration = Duration::from_millis(100);
/// How often a process is tried again whose stacks cannot be read yet: while it is young, as long as that, and then.
const SOON: Duration = Duration::from_millis(20);
const YOUNG: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
/// For how long it is no wonder that they cannot: its Python begins.
const BEGINS: Duration = Duration::from_secs(5);
/// Most processes.
const MOST_PROCESSES: usize = 1 << 12;
/// Most files that stay open: a process may have 1024 as a rule.
const MOST_FILES: usize = 512;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Samples a second.
    pub(crate) rate: u32,
    /// Whether greenlets and tasks are told apart, those that wait included.
    pub(crate) by_context: bool,
}

/// A process that is not sampled, and why.
#[derive(Debug)]
pub(crate) struct Unsampled {
    pub(crate) process: Process,
    pub(crate) reason: StacksError,
}

/// A running session. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Mutex<State>>,
    stop: Option<Sender<()>>,
    /// Disconnected when the processes have ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// What is added up.
#[derive(Debug)]
struct State {
    tally: Tally,
    stacks: Stacks,
    since: Instant,
    until: Option<Instant>,
    rate: u32,
    ticks: u64,
    missed: u64,
    /// The ticks of the whole session, and how many of them there were when it was counted anew.
    all_ticks: u64,
    counted_from: u64,
    processes: usize,
    threads: (usize, usize),
    by_context: bool,
    /// What is sampled, for those who look for what waits in it, and what they know of each process.
    sampled: Vec<Identity>,
    parked: HashMap<u32, Parked>,
    names: HashMap<u32, Names>,
    /// Since when no samples are taken.
    paused: Option<Instant>,
    unsampled: Vec<Unsampled>,
    notes: Vec<String>,
}

/// What is known of what waits in a process.
#[derive(Debug, Clone, Copy)]
struct Parked {
    process: Identity,
    extent: Extent,
    /// How many samples there were when it was looked at last.
    ticks: u64,
}

impl Session {
    /// Begins to sample. Whatever of the processes cannot be sampled is told by [`Session::unsampled`]. It ends
    /// with these processes and the `command`, which may be another program yet and become a Python at any time.
    ///
    /// # Errors
    ///
    /// Where no thread can be had.
    pub(crate) fn begin(
        processes: Vec<Process>,
        command: Option<Identity>,
        options: Options,
        to_come: Option<ToCome>,
    ) -> std::io::Result<Session> {
        let rate = options.rate.max(1);
        let shared = Arc::new(Mutex::new(State::new(Options { rate, ..options })));
        let (stop, stopped) = bounded(0);
        let (say_ended, ended) = bounded::<()>(0);
        let (say_ready, ready) = bounded::<()>(0);
        let for_thread = Arc::clone(&shared);
        let thread = threads::spawn(move || {
            let _ended = say_ended;
            let mut collector = Collector {
                sampled: HashMap::new(),
                awaited: HashMap::new(),
                files: Files { left: MOST_FILES },
                samples: Samples::default(),
                command: None,
                to_come,
                looker: None,
                shared: for_thread,
            };
            for process in processes {
                collector.add(process);
            }
            if let Some(command) = command {
                let awaited = Awaited::new(command, None, None);
                collector.awaited.insert(command.pid, awaited);
                collector.command = Some(command);
            }
            drop(say_ready);
            collector.run(rate, &stopped);
        })?;
        // Nothing is ever sent.
        let _ = ready.recv();
        Ok(Session {
            shared,
            stop: Some(stop),
            ended,
            thread: Some(thread),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.shared)
    }

    /// Becomes ready when all processes have ended.
    pub(crate) fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Processes that cannot be sampled, since this was last asked.
    pub(crate) fn unsampled(&self) -> Vec<Unsampled> {
        std::mem::take(&mut self.state().unsampled)
    }

    /// What else could not be looked at, a sentence each, since this was last asked.
    pub(crate) fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().notes)
    }

    /// Everything so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    /// Everything since it was counted anew, and counts anew.
    pub(crate) fn take(&self) -> Snapshot {
        let mut state = self.state();
        let snapshot = state.snapshot();
        state.clear();
        snapshot
    }

    /// Takes no samples until [`Session::resume`]: what is measured otherwise meanwhile costs the processes time.
    pub(crate) fn pause(&self) {
        self.state().paused = Some(Instant::now());
    }

    /// Goes on as if no time had passed.
    pub(crate) fn resume(&self) {
        let mut state = self.state();
        if let Some(paused) = state.paused.take() {
            state.since += paused.elapsed();
        }
    }

    /// Tells greenlets and tasks apart from now on.
    pub(crate) fn tell_contexts(&self) {
        self.state().by_context = true;
    }

    /// Counts anew from now on.
    pub(crate) fn anew(&self) {
        self.state().anew();
    }

    /// Ends, and gives everything.
    pub(crate) fn end(mut self) -> Snapshot {
        self.stop();
        self.snapshot()
    }

    fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn new(options: Options) -> State {
        State {
            tally: Tally::default(),
            stacks: Stacks::default(),
            since: Instant::now(),
            until: None,
            rate: options.rate,
            ticks: 0,
            missed: 0,
            all_ticks: 0,
            counted_from: 0,
            processes: 0,
            threads: (0, 0),
            by_context: options.by_context,
            sampled: Vec::new(),
            parked: HashMap::new(),
            names: HashMap::new(),
            paused: None,
            unsampled: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let until = self.until.unwrap_or_else(Instant::now);
        let wall = until.saturating_duration_since(self.since).as_nanos();
        Snapshot {
            rate: self.rate,
            wall_ns: u64::try_from(wall).unwrap_or(u64::MAX),
            ticks: self.ticks,
            missed: self.missed,
            processes: self.processes,
            threads: self.threads.0,
            without_python: self.threads.1,
            contexts: self.by_context.then(|| {
                let mut all = Extent::default();
                self.parked.values().for_each(|it| all.add(it.extent));
                all
            }),
            tally: self.tally.clone(),
            stacks: self.stacks.clone(),
        }
    }

    fn anew(&mut self) {
        self.clear();
        self.counted_from = self.all_ticks;
    }

    fn clear(&mut self) {
        self.tally.anew();
        self.parked.values_mut().for_each(|it| it.extent.looks = 0);
        self.since = Instant::now();
        (self.ticks, self.missed) = (0, 0);
    }

    fn tell_sampled(&mut self, sampled: &HashMap<u32, Sampled>) {
        if !self.by_context {
            return;
        }
        self.sampled.clear();
        let now = sampled.values().map(|it| identity(&it.process));
        self.sampled.extend(now);
        let State {
            sampled,
            parked,
            names,
            all_ticks,
            ..
        } = self;
        parked.retain(|_, it| sampled.contains(&it.process));
        for process in sampled.iter() {
            parked.entry(process.pid).or_insert(Parked {
                process: *process,
                extent: Extent::default(),
                ticks: *all_ticks,
            });
        }
        names.retain(|pid, _| parked.contains_key(pid));
    }

    /// Takes what waits in a process: each of these for as many samples as were taken since it was looked at before.
    fn take_parked(&mut self, look: Look) {
        if !self.sampled.contains(&look.process) {
            return;
        }
        let pid = look.process.pid;
        let before = self.parked.get(&pid);
        let before = before.filter(|it| it.process == look.process);
        let since = before.map_or(self.all_ticks, |it| it.ticks);
        let samples = self.all_ticks - since.max(self.counted_from).min(self.all_ticks);
        let looks = before.map_or(0, |it| it.extent.looks);
        let extent = Extent {
            looks: looks + look.extent.looks,
            ..look.extent
        };
        self.parked.insert(
            pid,
            Parked {
                process: look.process,
                extent,
                ticks: self.all_ticks,
            },
        );
        self.names.insert(pid, look.names);
        if samples == 0 || self.paused.is_some() {
            return;
        }
        for waiting in look.waiting {
            let key = Key {
                pid,
                tid: NO_THREAD,
                context: self.stacks.context(&waiting.context),
                stack: self.stacks.number(waiting.frames),
                idle: waiting.idle,
            };
            let counts = Counts {
                on_cpu: 0,
                waiting: waiting.count.saturating_mul(samples),
            };
            self.tally.add(key, counts);
        }
        self.tally.name(NO_THREAD, PARKED.to_owned());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moments at which samples are taken: one in each period, at random within it, such that nothing that a program does in periods of
/// its own is seen always or never.
#[derive(Debug)]
struct Moments {
    period: Duration,
    /// When this period ends.
    end: Instant,
    random: u64,
}

impl Moments {
    fn new(rate: u32, now: Instant) -> Moments {
        let seed = crate::clock::now();
        Moments {
            period: Duration::from_secs(1) / rate,
            end: now,
            // Anything but zero.
            random: seed | 1,
        }
    }

    /// The next one, and how many periods have passed without any. `took` is how long the last sample took: half of the time is
    /// left to others.
    fn next(&mut self, now: Instant, took: Duration) -> (Instant, u64) {
        let free = now + took;
        let behind = free.saturating_duration_since(self.end);
        let missed = u64::try_from(behind.as_nanos() / self.period.as_nanos().max(1));
        let missed = missed.unwrap_or(u64::MAX);
        let passed = u32::try_from(missed).unwrap_or(u32::MAX);
        let begin = self.end + self.period.saturating_mul(passed);
        self.end = begin + self.period;
        // xorshift
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        ((begin + self.period.mul_f64(part)).max(free), missed)
    }
}

/// A process whose stacks cannot be read yet.
struct Awaited {
    identity: Identity,
    /// What it was found to be last; `None` where it was no Python.
    process: Option<Process>,
    /// Until when it is tried; `None`: as long as it runs.
    until: Option<Instant>,
    since: Instant,
    tried: Instant,
}

impl Awaited {
    fn new(identity: Identity, process: Option<Process>, until: Option<Instant>) -> Awaited {
        let now = Instant::now();
        Awaited {
            identity,
            process,
            until,
            since: now,
            tried: now,
        }
    }

    fn is_young(&self) -> bool {
        self.since.elapsed() < YOUNG && crate::process::age(self.identity.start_time) < 2 * YOUNG
    }

    fn is_due(&self) -> bool {
        let apart = if self.is_young() { SOON } else { AGAIN };
        self.tried.elapsed() >= apart
    }
}

/// The thread that samples.
struct Collector {
    sampled: HashMap<u32, Sampled>,
    /// Processes whose Python may be beginning.
    awaited: HashMap<u32, Awaited>,
    /// The one that may become a Python at any time.
    command: Option<Identity>,
    files: Files,
    samples: Samples,
    to_come: Option<ToCome>,
    /// Who looks for greenlets and tasks that wait, where that is wanted.
    looker: Option<Looker>,
    shared: Arc<Mutex<State>>,
}

impl Collector {
    fn run(mut self, rate: u32, stopped: &Receiver<()>) {
        let begun = Instant::now();
        let mut moments = Moments::new(rate, begun);
        let mut alive = begun;
        locked(&self.shared).since = begun;
        let mut took = Duration::ZERO;
        let mut punctual = Punctual::begin(begun);
        loop {
            let (next, missed) = moments.next(Instant::now(), took);
            match stopped.recv_deadline(next) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
            let now = Instant::now();
            if now >= alive {
                self.look_around();
                let soon = self.awaited.values().any(Awaited::is_young);
                alive = now + if soon { SOON } else { ALIVE };
                if self.sampled.is_empty() && self.awaited.is_empty() && !self.is_open() {
                    break;
                }
            }
            self.sample(missed);
            self.look_for_parked();
            took = now.elapsed();
            punctual.took(took, now);
        }
        self.looker = None;
        let files = &mut self.files;
        for (_, sampled) in self.sampled.drain() {
            sampled.close(files);
        }
        locked(&self.shared).until = Some(Instant::now());
    }

    /// Begins to look for what waits without a thread, where that is wanted.
    fn look_for_parked(&mut self) {
        if self.looker.is_some() || !locked(&self.shared).by_context {
            return;
        }
        let (which, taking) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let looker = Looker::begin(
            move || {
                let state = locked(&which);
                match state.paused {
                    Some(_) => Vec::new(),
                    None => state.sampled.clone(),
                }
            },
            move |look| locked(&taking).take_parked(look),
        );
        match looker {
            Ok(looker) => self.looker = Some(looker),
            Err(error) => {
                let mut state = locked(&self.shared);
                state.by_context = false;
                state.notes.push(format!(
                    "greenlets and tasks are not told apart, because no thread can be had ({error})"
                ));
            }
        }
    }

    /// Takes a sample of everything.
    fn sample(&mut self, missed: u64) {
        let mut lost = Vec::new();
        let mut state = locked(&self.shared);
        if state.paused.is_some() {
            return;
        }
        let State {
            stacks,
            names,
            by_context,
            ..
        } = &mut *state;
        let names = by_context.then_some(&*names);
        for (pid, sampled) in &mut self.sampled {
            match sampled.refresh(&mut self.files) {
                Ok(()) => sampled.sample(stacks, names, &mut self.samples),
                Err(_) => lost.push(*pid),
            }
        }
        for pid in lost {
            // It ends, or becomes another program.
            if let Some(sampled) = self.sampled.remove(&pid) {
                let process = sampled.process.clone();
                sampled.close(&mut self.files);
                let identity = identity(&process);
                let until = self.patience(identity, Instant::now() + BEGINS);
                let awaited = Awaited::new(identity, Some(process), until);
                self.awaited.insert(pid, awaited);
            }
        }
        state.ticks += 1;
        state.all_ticks += 1;
        state.missed = state.missed.saturating_add(missed);
        for sample in self.samples.samples.drain(..) {
            state.tally.take(&sample);
        }
        state
            .tally
            .take_torn(std::mem::take(&mut self.samples.torn));
        for (tid, name) in self.samples.names.drain(..) {
            state.tally.name(tid, name);
        }
    }

    /// Looks which processes there are.
    fn look_around(&mut self) {
        let ended: Vec<u32> = self
            .sampled
            .iter()
            .filter(|(pid, it)| has_ended(**pid, it.process.start_time))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in ended {
            if let Some(sampled) = self.sampled.remove(&pid) {
                sampled.close(&mut self.files);
            }
        }
        let due = self.awaited.iter().filter(|(_, it)| it.is_due());
        let due: Vec<u32> = due.map(|(pid, _)| *pid).collect();
        for pid in due {
            let Some(mut awaited) = self.awaited.remove(&pid) else {
                continue;
            };
            if has_ended(pid, awaited.identity.start_time) {
                continue;
            }
            awaited.tried = Instant::now();
            // It may have become another program.
            if let Ok(process) = Process::of(pid) {
                awaited.process = Some(process);
            }
            self.attempt(awaited);
        }
        if let Some(found) = self.to_come.as_mut().and_then(|it| (it.found)()) {
            locked(&self.shared).notes.extend(found.notes);
            for process in found.processes {
                self.add(process);
            }
        }
        let mut state = locked(&self.shared);
        state.processes = self.sampled.len();
        state.tell_sampled(&self.sampled);
        let counts = self.sampled.values().map(Sampled::count);
        state.threads = counts.fold((0, 0), |all, it| (all.0 + it.0, all.1 + it.1));
    }

    fn is_open(&self) -> bool {
        self.to_come.as_ref().is_some_and(|it| it.is_open)
    }

    fn add(&mut self, process: Process) {
        let pid = process.pid;
        let known = self.sampled.get(&pid).map(|it| it.process.start_time);
        let awaited = self.awaited.get(&pid).map(|it| it.identity.start_time);
        if known == Some(process.start_time)
            || awaited == Some(process.start_time)
            || self.sampled.len() >= MOST_PROCESSES
        {
            return;
        }
        let identity = identity(&process);
        let now = Instant::now();
        let until = match crate::process::age(process.start_time) < BEGINS {
            true => now + BEGINS,
            false => now,
        };
        let until = self.patience(identity, until);
        self.attempt(Awaited::new(identity, Some(process), until));
        let mut state = locked(&self.shared);
        state.processes = self.sampled.len();
        state.tell_sampled(&self.sampled);
    }

    /// Until when it is waited for a process to begin, if for others it is until then.
    fn patience(&self, process: Identity, until: Instant) -> Option<Instant> {
        (self.command != Some(process)).then_some(until)
    }

    /// Begins with a process, or waits for it to begin.
    fn attempt(&mut self, awaited: Awaited) {
        let pid = awaited.identity.pid;
        let Some(process) = &awaited.process else {
            self.awaited.insert(pid, awaited);
            return;
        };
        match Sampled::new(process.clone(), &mut self.files) {
            Ok(sampled) => {
                self.sampled.insert(pid, sampled);
            }
            Err(
                StacksError::NoThreads | StacksError::NoRuntime | StacksError::Unfamiliar { .. },
            ) if awaited.until.is_none_or(|until| Instant::now() < until) => {
                self.awaited.insert(pid, awaited);
            }
            Err(StacksError::Ended) => {}
            Err(reason) => {
                let process = process.clone();
                let mut state = locked(&self.shared);
                state.unsampled.push(Unsampled { process, reason });
            }
        }
    }
}

fn identity(process: &Process) -> Identity {
    Identity {
        pid: process.pid,
        start_time: process.start_time,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parked::Waiting;
    use super::super::tally::{By, Order};
    use super::*;
    use crate::python::frames::Frame;

    #[test]
    fn what_waits_counts_for_all_samples_since_it_was_looked_at_before() {
        let process = Identity {
            pid: 7,
            start_time: 1,
        };
        let look = |count| Look {
            process,
            waiting: vec![Waiting {
                frames: vec![Frame {
                    function: "read".to_owned(),
                    file: "/a.py".to_owned(),
                    line: None,
                }],
                context: "reader".to_owned(),
                count,
                idle: false,
            }],
            names: Names::default(),
            extent: Extent {
                found: count,
                read: count,
                partial: false,
                looks: 1,
            },
        };
        let mut state = State::new(Options {
            rate: 100,
            by_context: true,
        });
        let waited = |state: &State| state.snapshot().samples();
        state.take_parked(look(3));
        assert_eq!(waited(&state), 0, "of a process that is not sampled");
        state.sampled = vec![process];
        state.take_parked(look(3));
        assert_eq!(waited(&state), 0, "of no time");
        state.all_ticks = 10;
        state.take_parked(look(3));
        assert_eq!(waited(&state), 30);
        state.all_ticks = 15;
        // What a recording took meanwhile is no reason to count less.
        state.clear();
        state.all_ticks = 25;
        state.take_parked(look(2));
        assert_eq!(waited(&state), 30, "two for fifteen");
        state.all_ticks = 30;
        state.anew();
        state.all_ticks = 34;
        state.take_parked(look(2));
        assert_eq!(waited(&state), 8, "two since it was counted anew");
        let by = By::Function {
            process: false,
            context: true,
        };
        let rows = state.snapshot().rows(by, false, Order::Own, false).rows;
        assert_eq!(rows[0].context.as_deref(), Some("reader"));
        assert_eq!(rows[0].own.waiting, 8);
        let extent = state.snapshot().contexts.expect("told apart");
        assert_eq!((extent.found, extent.read, extent.looks), (2, 2, 1));
    }

    #[test]
    fn there_is_one_moment_in_each_period_and_they_are_not_equally_far_apart() {
        let begun = Instant::now();
        let mut moments = Moments::new(100, begun);
        let mut now = begun;
        let mut offsets = Vec::new();
        for period in 0..100_u32 {
            let (next, missed) = moments.next(now, Duration::ZERO);
            assert_eq!(missed, 0);
            let begin = begun + Duration::from_millis(10) * period;
            assert!(next >= begin && next <= begin + Duration::from_millis(10));
            offsets.push(next - begin);
            now = next;
        }
        let early = offsets.iter().filter(|it| **it < Duration::from_millis(5));
        let early = early.count();
        assert!((20..=80).contains(&early), "{offsets:?}");
    }

    #[test]
    fn who_is_late_says_how_many_samples_are_missing_and_takes_half_of_the_time_at_most() {
        let begun = Instant::now();
        let mut moments = Moments::new(100, begun);
        moments.next(begun, Duration::ZERO);
        let took = Duration::from_millis(30);
        let now = begun + Duration::from_millis(35);
        let (next, missed) = moments.next(now, took);
        assert_eq!(
            missed, 5,
            "until 65 ms after the beginning, the first period not counted"
        );
        assert!(next >= now + took);
    }
}
