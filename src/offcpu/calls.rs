//! Waits with the calls that were open: an ordinary session traces calls and waits, and pairing says in which call each wait was.
//! So every stack is exact, however short its wait, in every Python that can be traced.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};

use super::json::document;
use super::live::show;
use super::older::Older;
use super::session::{Options, is_wanted, note_names};
use super::source::Source;
use super::table::page;
use super::tally::{By, Snapshot, Tally};
use crate::analysis::pairing::{Open, Pairing, Step};
use crate::clock;
use crate::console::Console;
use crate::event::{self, Event, LossStage, ProcessChange, Session, What};
use crate::export::intervals::{self, Intervals};
use crate::export::{End, Sink};
use crate::process::ThreadNames;
use crate::python::frames::Frame;
use crate::sampling::Place;
use crate::threads;
use crate::top::requests::end_session;
use crate::view::many;
use crate::waits::{Account, Cause, Reason, Wait, Waker};

/// Most threads of which it is kept whose they are; they are asked for anew beyond that.
const MOST_OWNERS: usize = 1 << 14;
/// How long it is believed whose a thread is: another may have its number then.
const OWNED: Duration = Duration::from_secs(1);
/// Most processes that are counted.
const MOST_PROCESSES: usize = 1 << 16;
/// Most threads of which it is kept when they returned.
const MOST_THREADS: usize = 1 << 16;

/// What is shown while the session runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown {
    /// A table on the terminal, brought up to date so often.
    OnScreen {
        by: By,
        idle: bool,
        interval: Duration,
    },
    /// A table at every interval, if there is one.
    AsLines {
        by: By,
        idle: bool,
        limit: usize,
        json: bool,
        interval: Option<Duration>,
    },
    /// Nothing before the end.
    Nothing,
}

/// What was added up. Sinks add to it, and it can be asked at any time.
#[derive(Debug, Clone)]
pub(crate) struct AllCalls {
    shared: Arc<Mutex<State>>,
    /// Disconnected when the session has ended.
    ended: Receiver<()>,
    options: Options,
}

#[derive(Debug)]
struct State {
    tally: Tally,
    account: Account,
    /// What the account said when it was counted anew.
    before: Account,
    /// When the probes were live, or when it was counted anew; and the end.
    since: Instant,
    until: Option<Instant>,
    /// Waits that began before are not counted in full, in nanoseconds since the Unix epoch.
    counted_from: u64,
    names: ThreadNames,
    processes: HashSet<u32>,
    /// Waits of which no call was seen.
    older: u64,
    has_begun: bool,
    /// For the sink, which says with it that the session has ended.
    end: Option<Sender<()>>,
}

impl AllCalls {
    /// Nothing yet.
    pub(crate) fn new(options: Options) -> AllCalls {
        let (end, ended) = bounded(0);
        let shared = Arc::new(Mutex::new(State {
            tally: Tally::default(),
            account: Account::default(),
            before: Account::default(),
            since: Instant::now(),
            until: None,
            counted_from: 0,
            names: ThreadNames::default(),
            processes: HashSet::new(),
            older: 0,
            has_begun: false,
            end: Some(end),
        }));
        AllCalls {
            shared,
            ended,
            options,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether probes were ever live.
    pub(crate) fn has_begun(&self) -> bool {
        self.state().has_begun
    }

    /// What adds to it and shows it, for one session.
    pub(crate) fn sink<W: Write>(
        &self,
        shown: Shown,
        output: W,
        console: &Console,
    ) -> AllCallsSink<W> {
        let length = match shown {
            Shown::AsLines { interval, .. } => interval,
            _ => None,
        };
        AllCallsSink {
            source: self.clone(),
            end: self.state().end.take(),
            shown,
            output,
            intervals: Intervals::new(length),
            console: console.clone(),
            worker: None,
            older: Older::default(),
            owners: HashMap::new(),
            believed: Believed::default(),
            last: 0,
        }
    }
}

impl Source for AllCalls {
    fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let tally = state.tally.clone();
        let (names, processes) = (state.names.known(), state.processes.len());
        let until = state.until.unwrap_or_else(Instant::now);
        let wall = until.saturating_duration_since(state.since).as_nanos();
        let account = state.account.since(state.before);
        drop(state);
        let wall = u64::try_from(wall).unwrap_or(u64::MAX);
        let mut snapshot = Snapshot::of(&tally, wall, 0, account);
        snapshot.names = names;
        snapshot.processes = processes;
        snapshot
    }

    fn anew(&self) {
        let mut state = self.state();
        state.tally = Tally::default();
        state.before = state.account;
        state.since = Instant::now();
        state.counted_from = clock::now();
        state.older = 0;
    }

    fn troubles(&self) -> Vec<String> {
        let older = std::mem::take(&mut self.state().older);
        let sentence = || {
            format!(
                "{} in functions that were called before pystap came and whose calls were not seen: (older than the trace)",
                many(older, "wait was", "waits were")
            )
        };
        (older > 0).then(sentence).into_iter().collect()
    }

    fn end(&mut self) -> Snapshot {
        self.snapshot()
    }
}

/// See the head of the module.
pub(crate) struct AllCallsSink<W> {
    source: AllCalls,
    end: Option<Sender<()>>,
    shown: Shown,
    output: W,
    intervals: Intervals,
    console: Console,
    worker: Option<JoinHandle<io::Result<()>>>,
    older: Older,
    /// The processes of threads that woke others, and when they were asked for.
    owners: HashMap<u32, (u32, Instant)>,
    believed: Believed,
    /// When something was last heard before the end was asked for, in nanoseconds since the Unix epoch.
    last: u64,
}

/// Which calls are known to be open. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Default)]
struct Believed {
    /// Those that were seen since the last loss of calls: of a process, and of any.
    since: HashMap<u32, u64>,
    since_all: u64,
    /// When threads last returned, and the latest of those that were forgotten.
    returned: HashMap<(u32, u32), u64>,
    returned_all: u64,
}

impl Believed {
    fn follow(&mut self, event: &Event) {
        match &event.what {
            What::Return { .. } => {
                let thread = (event.pid, event.tid);
                if self.returned.len() >= MOST_THREADS && !self.returned.contains_key(&thread) {
                    let gone = self.returned.drain().map(|(_, at)| at).max();
                    self.returned_all = self.returned_all.max(gone.unwrap_or_default());
                }
                let at = self.returned.entry(thread).or_default();
                *at = event.ts.max(*at);
            }
            What::Lost { stage, .. } if *stage != LossStage::Waits => {
                let is_kept =
                    self.since.len() < MOST_PROCESSES || self.since.contains_key(&event.pid);
                let since = match event.pid != 0 && is_kept {
                    true => self.since.entry(event.pid).or_default(),
                    false => &mut self.since_all,
                };
                // It is told with its own time, which may be before that of others.
                *since = event.ts.max(*since);
            }
            What::Process { change, .. } if *change != ProcessChange::Fork => {
                let whole = *change == ProcessChange::Exec || [0, event.pid].contains(&event.tid);
                match whole {
                    true => {
                        self.since.remove(&event.pid);
                    }
                    false => {
                        self.returned.remove(&(event.pid, event.tid));
                    }
                }
            }
            _ => {}
        }
    }

    /// Since when calls of a process are believed.
    fn since(&self, pid: u32) -> u64 {
        let own = self.since.get(&pid).copied().unwrap_or_default();
        own.max(self.since_all)
    }

    /// Whether a thread has returned since then, so that it is not known any longer what was open.
    fn has_returned_since(&self, pid: u32, tid: u32, at: u64) -> bool {
        let own = self.returned.get(&(pid, tid)).copied().unwrap_or_default();
        own.max(self.returned_all) > at
    }
}

impl<W> AllCallsSink<W> {
    fn wait(&mut self, step: &Step<'_>, told: &event::Wait) {
        let event = step.event;
        let Some(reason) = told.reason else {
            let queued = told.runqueue_ns.unwrap_or_default();
            let state = &mut self.source.state();
            if event.ts < state.counted_from {
                return;
            }
            let account = &mut state.account;
            account.preempted += 1;
            account.preempted_ns = account.preempted_ns.saturating_add(queued);
            return;
        };
        let mut wait = Wait {
            pid: event.pid,
            tid: event.tid,
            began: event.ts.saturating_sub(told.off_ns()),
            blocked_ns: told.blocked_ns,
            runqueue_ns: told.runqueue_ns,
            cause: cause(reason, told),
            waker: told.waker.as_ref().map(|waker| self.waker(waker)),
        };
        let place = self.place(step);
        let source = &self.source;
        let mut state = source.state();
        let state = &mut *state;
        if state.processes.len() < MOST_PROCESSES {
            state.processes.insert(event.pid);
        }
        if !is_wanted(&source.options, state.counted_from, &mut wait) {
            return;
        }
        note_names(&mut state.names, &wait, None);
        let place = match place {
            Ok(frames) => state.tally.place(frames),
            Err(place) => place,
        };
        state.older += u64::from(place == Place::Older);
        state.tally.take(&wait, Some(place), 0.0);
    }

    /// The stack in which a thread waited, the innermost first, or what there is instead.
    fn place(&mut self, step: &Step<'_>) -> Result<Vec<Frame>, Place> {
        let event = step.event;
        // Told late, it has had time to return from others, and to call others.
        if self
            .believed
            .has_returned_since(event.pid, event.tid, event.ts)
        {
            return Err(Place::NotSeen);
        }
        let mut open = step
            .stack()
            .skip_while(|open| open.since > event.ts)
            .peekable();
        let any = open.peek().is_some();
        // Others may have returned in a loss.
        let since = self.believed.since(event.pid);
        let open = open.take_while(|open| open.since >= since);
        let mut frames: Vec<Frame> = open.map(frame).collect();
        if any && (step.caller.is_none() || frames.is_empty()) {
            return Err(Place::NotSeen);
        }
        frames.extend_from_slice(self.older.below(step));
        match frames.is_empty() {
            true => Err(self.older.outside(event.pid, event.tid)),
            false => Ok(frames),
        }
    }

    fn waker(&mut self, waker: &event::Waker) -> Waker {
        match waker {
            event::Waker::Interrupt => Waker::Interrupt,
            event::Waker::Thread { tid, .. } => {
                if self.owners.len() >= MOST_OWNERS {
                    self.owners.clear();
                }
                let now = Instant::now();
                let known = self.owners.get(tid).copied();
                let known = known.filter(|(_, at)| now.saturating_duration_since(*at) < OWNED);
                let pid = match known {
                    Some((pid, _)) => pid,
                    None => {
                        let pid = owner_of(*tid).unwrap_or_default();
                        self.owners.insert(*tid, (pid, now));
                        pid
                    }
                };
                Waker::Thread { pid, tid: *tid }
            }
        }
    }

    fn lost(&self, stage: LossStage, count: u64) {
        let account = &mut self.source.state().account;
        match stage {
            LossStage::Waits if count > 0 => account.waits_lost += count,
            // Nobody knows how many.
            _ => account.lost += count.max(1),
        }
    }

    /// Ends what is shown on the screen.
    fn finish_screen(&mut self) -> io::Result<()> {
        self.end = None;
        let worker = self.worker.take();
        worker.map_or(Ok(()), |worker| worker.join().unwrap_or(Ok(())))
    }
}

impl<W: Write> Sink for AllCallsSink<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        {
            // Whoever was told that probes are live counts from then on, whatever is read of them first, and however long the session
            // had to wait before it could say what it is about.
            let mut state = self.source.state();
            let pids = session.targets.iter().map(|target| target.pid);
            state.processes.extend(pids);
            let (now, age) = (Instant::now(), clock::now().saturating_sub(session.ts));
            state.since = now.checked_sub(Duration::from_nanos(age)).unwrap_or(now);
            state.counted_from = session.ts;
            state.before = state.account;
            state.has_begun = true;
            self.last = state.counted_from;
        }
        self.older
            .begin(session.targets.iter().map(|target| target.pid));
        self.intervals.begin(session.ts);
        if let Shown::OnScreen { by, idle, interval } = self.shown {
            let (source, console) = (self.source.clone(), self.console.clone());
            self.worker = Some(threads::spawn(move || {
                let cover = console.cover();
                let shown = show(&source, by, idle, interval, &cover, &never::<()>());
                if source.ended.try_recv() != Err(TryRecvError::Disconnected) {
                    // Somebody has seen enough.
                    end_session();
                }
                shown
            })?);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        self.last = self.last.max(event.ts);
        match &event.what {
            What::Wait(wait) => self.wait(step, wait),
            What::Lost { count, stage, .. } => self.lost(*stage, *count),
            _ => {}
        }
        self.believed.follow(event);
        self.older.follow(step);
        Ok(())
    }

    fn tick(&mut self, now: u64, _: &Pairing) -> io::Result<()> {
        self.last = self.last.max(now);
        let Shown::AsLines {
            by,
            idle,
            limit,
            json,
            ..
        } = self.shown
        else {
            return Ok(());
        };
        if self.intervals.passed(now).is_none() {
            return Ok(());
        }
        let snapshot = self.source.snapshot();
        let text = match json {
            true => format!("{}\n", document(&snapshot, by, idle, limit)),
            false => page(&snapshot, by, idle, limit),
        };
        intervals::write(&mut self.output, &text, json)
    }

    fn finish(mut self: Box<Self>, _: &End<'_>) -> io::Result<Option<String>> {
        // Taking probes and agents away takes its time, in which nothing is told.
        let since = Duration::from_nanos(clock::now().saturating_sub(self.last));
        let now = Instant::now();
        self.source.state().until = Some(now.checked_sub(since).unwrap_or(now));
        self.finish_screen()?;
        Ok(None)
    }
}

impl<W> Drop for AllCallsSink<W> {
    /// However the session ended, the terminal is given back.
    fn drop(&mut self) {
        let _ = self.finish_screen();
    }
}

fn cause(reason: Reason, told: &event::Wait) -> Cause {
    Cause {
        reason,
        call: told.syscall.as_ref().map(|call| call.text.as_str().into()),
        // Nobody asks for it any longer: which futex is a GIL is known.
        argument: 0,
    }
}

/// The line that runs in a call is not told.
fn frame(open: Open<'_>) -> Frame {
    Frame {
        function: open.place.name().text.clone(),
        file: open.place.file.text.clone(),
        line: None,
    }
}

/// The process of a thread.
fn owner_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{call, event, returned};
    use crate::console::{ColorWhen, Verbosity};
    use crate::event::{Summary, Text};

    fn wait(ts: u64, reason: Option<Reason>, blocked_ns: u64) -> Event {
        let wait = event::Wait {
            reason,
            syscall: Some(Arc::new(Text::of_bytes(b"recvfrom", false))),
            on: None,
            blocked_ns,
            runqueue_ns: Some(5),
            waker: Some(event::Waker::Interrupt),
        };
        event(ts, What::Wait(Box::new(wait)))
    }

    fn lost(ts: u64, stage: LossStage, count: u64) -> Event {
        let what = What::Lost {
            count,
            stage,
            message: String::new(),
        };
        event(ts, what)
    }

    /// What comes of these events.
    fn added_up(options: Options, events: Vec<Event>) -> Snapshot {
        counted_from(0, options, events)
    }

    fn counted_from(counted_from: u64, options: Options, events: Vec<Event>) -> Snapshot {
        let mut source = AllCalls::new(options);
        let console = Console::stderr(Verbosity::Quiet, ColorWhen::Never);
        let mut sink = source.sink(Shown::Nothing, io::sink(), &console);
        let session = Session {
            ts: counted_from,
            ..Session::default()
        };
        sink.session(&session).expect("begun");
        let mut pairing = Pairing::new();
        for mut event in events {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("taken");
        }
        let summary = Summary::default();
        Box::new(sink)
            .finish(&End::new(&summary, &pairing))
            .expect("ended");
        let ended = source.ended().try_recv();
        assert_eq!(ended, Err(TryRecvError::Disconnected));
        source.end()
    }

    /// The rows by stack: its functions or what there is instead, waits, and the time, in the order of time.
    fn rows(snapshot: &Snapshot) -> Vec<(String, u64, u64)> {
        let rows = snapshot.rows(By::Stack, true).rows.into_iter();
        let mut seen = Vec::new();
        for row in rows {
            assert_eq!((row.estimated_waits, row.estimated_ns), (0, 0));
            let place = match row.places.first() {
                Some((Place::Stack(frames), _)) => {
                    let names = frames.iter().map(|frame| frame.function.clone());
                    names.collect::<Vec<_>>().join(" ")
                }
                Some((place, _)) => place.word().to_owned(),
                None => String::new(),
            };
            seen.push((place, row.sum.waits, row.sum.blocked_ns));
        }
        seen
    }

    const ALL: Options = Options {
        min: Duration::ZERO,
        reason: None,
        wakers: true,
    };

    #[test]
    fn each_wait_has_the_calls_that_are_open_however_short_it_is() {
        let events = vec![
            call(10, "main"),
            call(20, "fetch"),
            wait(100, Some(Reason::Network), 40),
            wait(200, Some(Reason::Network), 3),
            returned(210, "fetch"),
            wait(300, Some(Reason::Network), 7),
            wait(320, None, 0),
        ];
        let snapshot = added_up(ALL, events.clone());
        let expected = [("fetch main", 2, 43), ("main", 1, 7)];
        assert_eq!(
            rows(&snapshot),
            expected.map(|(it, n, t)| (it.to_owned(), n, t))
        );
        assert_eq!(
            (snapshot.account.preempted, snapshot.account.preempted_ns),
            (1, 5)
        );
        assert_eq!((snapshot.gap_ns, snapshot.processes), (0, 1));
        let long = Options {
            min: Duration::from_nanos(10),
            ..ALL
        };
        let expected = [("fetch main".to_owned(), 1, 40)];
        assert_eq!(rows(&added_up(long, events)), expected);
    }

    #[test]
    fn calls_from_before_a_loss_are_not_believed_and_lost_waits_touch_no_call() {
        let events = vec![
            call(10, "main"),
            lost(50, LossStage::Waits, 2),
            wait(100, Some(Reason::Lock), 40),
            lost(150, LossStage::Kernel, 9),
            wait(200, Some(Reason::Lock), 30),
            call(210, "fetch"),
            wait(300, Some(Reason::Lock), 20),
        ];
        let snapshot = added_up(ALL, events);
        let seen = rows(&snapshot);
        let expected = [("main", 1, 40), ("not_seen", 1, 30), ("fetch", 1, 20)];
        assert_eq!(seen, expected.map(|(it, n, t)| (it.to_owned(), n, t)));
        assert_eq!((snapshot.account.lost, snapshot.account.waits_lost), (9, 2));
    }

    #[test]
    fn without_any_call_a_wait_is_older_or_outside_of_python() {
        let other = |event: Event| Event { tid: 99, ..event };
        let forked = What::Process {
            change: ProcessChange::Fork,
            parent: Some(9),
            command: None,
        };
        let events = vec![
            event(50, forked),
            wait(100, Some(Reason::Lock), 40),
            other(wait(110, Some(Reason::Lock), 30)),
        ];
        let first = events[1].clone();
        assert_eq!(
            first.pid, first.tid,
            "the thread that is called as its process"
        );
        let seen = rows(&added_up(ALL, events));
        let seen: Vec<&str> = seen.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(seen, ["older", "no_python"]);
    }

    #[test]
    fn a_loss_of_another_process_touches_no_call() {
        let of = |pid, event| Event { pid, ..event };
        for (loss, expected) in [
            (vec![of(2, lost(50, LossStage::Kernel, 1))], "main"),
            (vec![of(1, lost(50, LossStage::Kernel, 1))], "not_seen"),
            (vec![of(0, lost(50, LossStage::Kernel, 1))], "not_seen"),
            // They come as they come.
            (
                [50, 5].map(|at| lost(at, LossStage::Kernel, 1)).to_vec(),
                "not_seen",
            ),
        ] {
            let waits = vec![wait(100, Some(Reason::Lock), 40)];
            let events = [vec![call(10, "main")], loss, waits].concat();
            let expected = [(expected.to_owned(), 1, 40)];
            assert_eq!(rows(&added_up(ALL, events)), expected);
        }
    }

    #[test]
    fn a_wait_that_is_told_after_a_return_that_came_after_it_has_no_stack() {
        let events = vec![
            call(10, "main"),
            call(20, "fetch"),
            returned(200, "fetch"),
            wait(100, Some(Reason::Lock), 40),
            wait(300, Some(Reason::Lock), 30),
        ];
        let expected = [("not_seen", 1, 40), ("main", 1, 30)];
        let expected = expected.map(|(it, n, t)| (it.to_owned(), n, t));
        assert_eq!(rows(&added_up(ALL, events)), expected);
    }

    #[test]
    fn what_waits_before_the_session_can_say_what_it_is_about_counts_from_when_its_probes_are_live()
    {
        let live = clock::now() - 500_000_000;
        // It began a millisecond after that, and has ended since.
        let events = vec![
            call(live + 1_000_000, "main"),
            wait(live + 201_000_000, Some(Reason::Sleep), 200_000_000),
        ];
        let snapshot = counted_from(live, ALL, events);
        let expected = [("main".to_owned(), 1, 200_000_000)];
        assert_eq!(rows(&snapshot), expected);
        // Until the last that was heard.
        let wall_ns = snapshot.wall_ns;
        assert!((201_000_000..300_000_000).contains(&wall_ns), "{wall_ns}");
    }

    #[test]
    fn what_was_before_counting_began_is_not_counted() {
        let events = vec![
            call(10, "main"),
            wait(50, Some(Reason::Lock), 20),
            wait(60, None, 0),
            // It began at 95.
            wait(200, Some(Reason::Lock), 100),
            wait(210, None, 0),
        ];
        let snapshot = counted_from(150, ALL, events);
        assert_eq!(rows(&snapshot), [("main".to_owned(), 1, 45)]);
        assert_eq!(snapshot.account.preempted, 1);
    }
}
