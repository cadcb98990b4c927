//! Listens to the scheduler on a thread of its own, and settles calls when all is known of their time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::results::{Call, Results};
use super::settling::{Greenlets, Settling};
use super::split::{Off, Waited};
use crate::process::ThreadNames;
use crate::python::greenlets;
use crate::sampling::Explainer;
use crate::threads;
use crate::waits::{Account, Preempted, Target, Wait, Waker, Watch, WatchError};

/// How far looks are apart while calls are open or greenlets may say what they wait for, and how long records may lie otherwise.
const LOOKS: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(20);
/// How long one look takes at most: what is left is for the next one.
const LONGEST_LOOK: Duration = Duration::from_millis(4);
/// How often it is cleaned up, and looked for greenlets.
const SELDOM: Duration = Duration::from_millis(200);
/// How long a process that is added is waited for.
const ADDING: Duration = Duration::from_secs(2);
/// Most requests that wait.
const MOST_REQUESTS: usize = 1 << 10;
/// Most sentences about processes that cannot be watched.
const MOST_NOTES: usize = 8;

/// What somebody wants of the watcher.
enum Request {
    /// To watch one more process; and whom to tell when that is done.
    Watch(u32, Option<Sender<()>>),
    /// A process has become another program.
    Anew(u32),
}

/// What is shared with whoever hears of calls.
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
}

/// What is known.
pub(super) struct State {
    pub(super) settling: Settling,
    pub(super) account: Account,
    pub(super) names: ThreadNames,
    /// What cannot be told, a sentence each.
    pub(super) notes: Vec<String>,
}

impl State {
    fn note(&mut self, sentence: String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(sentence);
        }
    }
}

/// A running watch. Dropped, it ends.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    requests: Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What cannot be told, a sentence each.
    pub(crate) notes: Vec<String>,
}

impl Watcher {
    /// Begins to watch. Calls that took less than `minimum` are left out; of each function the last `keep` are kept; `each` says
    /// whether calls are wanted one by one, `greenlets` whether it will be told when greenlets give way.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin(
        targets: &[Target],
        minimum: Duration,
        keep: usize,
        each: bool,
        greenlets: bool,
    ) -> Result<Watcher, WatchError> {
        let mut watch = Watch::begin(targets, true)?;
        watch.keep_beside();
        for target in targets {
            add_registrations(&mut watch, greenlets, target.pid);
        }
        let notes = watch.notes().to_vec();
        let minimum = u64::try_from(minimum.as_nanos()).unwrap_or(u64::MAX);
        let mut settling = Settling::new(Results::new(minimum, keep), each);
        let now = crate::waits::now();
        for target in targets {
            settling.watched(target.pid, now);
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                settling,
                account: Account::default(),
                names: ThreadNames::default(),
                notes: Vec::new(),
            }),
            stop: AtomicBool::new(false),
        });
        let (requests, asked) = bounded(MOST_REQUESTS);
        let heard = Arc::clone(&shared);
        let thread = threads::spawn(move || Listener::new(watch, asked, greenlets, heard).run())
            .map_err(|reason| WatchError::System {
                what: "no thread can be started to watch",
                reason,
            })?;
        Ok(Watcher {
            shared,
            requests,
            thread: Mutex::new(Some(thread)),
            notes,
        })
    }

    /// One that watches nobody, and of whose processes everything is known that is told to it.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Watcher {
        let shared = Shared {
            state: Mutex::new(State {
                settling: Settling::new(Results::new(0, 0), true),
                account: Account::default(),
                names: ThreadNames::default(),
                notes: Vec::new(),
            }),
            stop: AtomicBool::new(false),
        };
        Watcher {
            shared: Arc::new(shared),
            requests: bounded(1).0,
            thread: Mutex::new(None),
            notes: Vec::new(),
        }
    }

    /// Also watches this process, and comes back when that is so.
    pub(super) fn add(&self, pid: u32) {
        let (done, is_done) = bounded(1);
        if self
            .requests
            .try_send(Request::Watch(pid, Some(done)))
            .is_ok()
        {
            // If it takes longer, calls until then are not split.
            let _ = is_done.recv_timeout(ADDING);
        }
    }

    /// Also watches this process, from some moment on.
    pub(super) fn add_soon(&self, pid: u32) {
        // If there is no room, its calls are not split.
        let _ = self.requests.try_send(Request::Watch(pid, None));
    }

    /// A process has become another program.
    pub(super) fn anew(&self, pid: u32) {
        let _ = self.requests.try_send(Request::Anew(pid));
    }

    /// What is known so far.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// The calls that are to be written one by one.
    pub(super) fn told(&self) -> VecDeque<Call> {
        self.state().settling.told()
    }

    /// Ends: everything that can be known is then known.
    pub(super) fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that listens.
struct Listener {
    watch: Watch,
    asked: Receiver<Request>,
    explainer: Explainer,
    /// Whether greenlets tell when they give way, so that it matters for what.
    greenlets: bool,
    shared: Arc<Shared>,
}

impl Listener {
    fn new(
        watch: Watch,
        asked: Receiver<Request>,
        greenlets: bool,
        shared: Arc<Shared>,
    ) -> Listener {
        Listener {
            watch,
            asked,
            greenlets,
            explainer: Explainer::default(),
            shared,
        }
    }

    fn run(mut self) {
        let (mut next, mut seldom) = (Instant::now(), Instant::now());
        let mut waits = Vec::new();
        loop {
            self.watch.pause(next);
            let stops = self.shared.stop.load(Ordering::Relaxed);
            self.watch.drain();
            self.answer();
            let now = Instant::now();
            if now >= next {
                let is_open = self.shared.state().settling.is_open();
                let is_told = self.watch.tells_registrations();
                next = now + if is_open || is_told { LOOKS } else { IDLE };
                if is_told {
                    self.look_up(now + LONGEST_LOOK / 2);
                }
                if is_open {
                    self.look(now + LONGEST_LOOK);
                }
            }
            if now >= seldom || stops {
                seldom = now + SELDOM;
                self.find_greenlets();
                self.forget();
            }
            if stops {
                break;
            }
            let until = self.watch.ended(&mut waits);
            self.settle(&mut waits, until, false);
        }
        let account = self.watch.end(&mut waits);
        self.settle(&mut waits, u64::MAX, true);
        self.shared.state().account = account;
    }

    /// Does what was asked for.
    fn answer(&mut self) {
        while let Ok(request) = self.asked.try_recv() {
            match request {
                Request::Watch(pid, done) => {
                    if !self.shared.state().settling.watches(pid) {
                        self.add(pid);
                    }
                    if let Some(done) = done {
                        let _ = done.try_send(());
                    }
                }
                Request::Anew(pid) => self.explainer.anew(pid),
            }
        }
    }

    fn add(&mut self, pid: u32) {
        let added = self.watch.add(pid);
        if added.is_ok() {
            add_registrations(&mut self.watch, self.greenlets, pid);
        }
        let now = crate::waits::now();
        let mut state = self.shared.state();
        match added {
            Ok(()) => state.settling.watched(pid, now),
            Err(error) => {
                // Not asked for again.
                state.settling.watched(pid, u64::MAX);
                state.note(error.to_string());
            }
        }
    }

    /// Looks up what greenlets are about to wait on. Also where no call is open: it may be told of later than of that.
    fn look_up(&mut self, end: Instant) {
        let now = crate::waits::now();
        let since = self.shared.state().settling.needed_from(now);
        let registered = self.explainer.registered(&mut self.watch, since, end);
        if !registered.is_empty() {
            let log = &mut self.shared.state().settling.log;
            for (registered, on) in registered {
                log.registered(registered.tid, registered.at, on);
            }
        }
    }

    /// Looks what threads of open calls wait on.
    fn look(&mut self, end: Instant) {
        let wanted = self.shared.state().settling.threads();
        let explainer = &mut self.explainer;
        explainer.look(&mut self.watch, |tid| wanted.contains(&tid), end);
    }

    /// Takes what has come, and settles the calls that have ended until this moment.
    fn settle(&mut self, waits: &mut Vec<Wait>, until: u64, at_last: bool) {
        let beside = self.watch.beside();
        let mut offs: Vec<(u32, Off)> = Vec::with_capacity(waits.len() + beside.preempted.len());
        let mut names = Vec::new();
        for wait in waits.drain(..) {
            if let Some(Waker::Thread { tid, .. }) = wait.waker {
                names.push(tid);
            }
            offs.push((wait.tid, self.understood(wait)));
        }
        offs.extend(beside.preempted.into_iter().map(preempted));
        offs.sort_by_key(|(_, off)| off.ended);
        let mut state = self.shared.state();
        for tid in names {
            state.names.of(tid);
        }
        let settling = &mut state.settling;
        for (tid, off) in offs {
            settling.log.add(tid, off);
        }
        for (from, to) in beside.gaps {
            settling.log.gap(from, to);
        }
        settling.log.blind(beside.blind);
        settling.settle(until, at_last);
        if !at_last {
            state.account = self.watch.account();
        }
    }

    /// A wait with all that is known of it.
    fn understood(&mut self, wait: Wait) -> Off {
        let known = self.explainer.explain(&wait);
        let woken = wait.began.saturating_add(wait.blocked_ns);
        Off {
            began: wait.began,
            woken,
            ended: woken.saturating_add(wait.runqueue_ns.unwrap_or_default()),
            wait: Some(Waited {
                reason: known.reason,
                call: known.call,
                on: known.on,
                waker: wait.waker,
            }),
        }
    }

    /// Looks which processes run greenlets whose switches nothing tells.
    fn find_greenlets(&self) {
        let unknown = self.shared.state().settling.unknown();
        for pid in unknown {
            let now = crate::waits::now();
            let found = match (greenlets::gevent_is_in(pid), greenlets::are_in(pid)) {
                (true, _) => Greenlets::Hidden,
                (_, true) => Greenlets::Partly,
                _ => Greenlets::None(now),
            };
            self.shared.state().settling.greenlets(pid, found);
        }
    }

    fn forget(&mut self) {
        self.explainer.forget(&self.watch);
        let now = crate::waits::now();
        self.shared.state().settling.forget(now);
    }
}

fn preempted(it: Preempted) -> (u32, Off) {
    let off = Off {
        began: it.began,
        woken: it.began,
        ended: it.ended,
        wait: None,
    };
    (it.tid, off)
}

/// Has it told what greenlets wait on, where a process has some.
fn add_registrations(watch: &mut Watch, greenlets: bool, pid: u32) {
    if greenlets && crate::python::greenlets::are_in(pid) {
        // Where the kernel does not, they are parked for something that has no name.
        let _ = watch.add_registrations(pid);
    }
}
