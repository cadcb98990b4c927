//! Waits of threads as a source of events beside an engine: what the scheduler tells of the processes of a session, each wait when
//! its thread runs again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{AddTargetError, EventSender, Message, Running, Weight};
use crate::clock;
use crate::event::{Event, LossStage, Text, Wait, Waker, What};
use crate::process::ThreadNames;
use crate::sampling::Explainer;
use crate::threads;
use crate::waits::{self, Account, Preempted, Target, Watch, WatchError};

/// How far looks at waiting threads are apart, and how long one takes at most.
const LOOKS: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(4);
/// How often it is cleaned up.
const SELDOM: Duration = Duration::from_millis(200);
/// How long a process that is added is waited for.
const ADDING: Duration = Duration::from_secs(2);
/// Most requests that wait.
const MOST_REQUESTS: usize = 1 << 10;
/// Most sentences about processes that cannot be watched.
const MOST_NOTES: usize = 8;
/// Most names of what is waited on that are kept; they are made anew beyond that.
const MOST_NAMES: usize = 1 << 14;

/// What somebody wants of the source.
enum Request {
    /// To watch one more process; and whom to tell when that is done.
    Watch(u32, Option<Sender<()>>),
    /// A process has become another program.
    Anew(u32),
}

/// A running source. Dropped, it ends.
pub(crate) struct Waits {
    messages: Receiver<Message>,
    requests: Sender<Request>,
    stop: Arc<AtomicBool>,
}

impl Waits {
    /// Begins to listen. What cannot be told goes to `notes`, a sentence each.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin(targets: &[Target], notes: &mut Vec<String>) -> Result<Waits, WatchError> {
        let mut watch = Watch::begin(targets, true)?;
        watch.keep_beside();
        notes.extend_from_slice(watch.notes());
        let (sender, messages) = unbounded();
        let (requests, asked) = bounded(MOST_REQUESTS);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, sender) = (Arc::clone(&stop), EventSender::new(sender));
        let watched = targets.iter().map(|target| target.pid).collect();
        // What is known of a process stays in one thread.
        let listen = move || {
            Listener {
                watch,
                asked,
                stop: stopping,
                sender,
                watched,
                explainer: Explainer::default(),
                words: Words::default(),
                told: Account::default(),
                notes: 0,
            }
            .run();
        };
        threads::spawn(listen).map_err(|reason| WatchError::System {
            what: "no thread can be started to watch",
            reason,
        })?;
        Ok(Waits {
            messages,
            requests,
            stop,
        })
    }

    /// Leaves a request to the thread that listens, which takes all that wait every few milliseconds.
    fn ask(&self, request: Request) {
        let _ = self.requests.send_timeout(request, ADDING);
    }
}

impl Running for Waits {
    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    /// Calls are told whether or not waits are, so what cannot be watched is a warning.
    fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError> {
        let (done, is_done) = bounded(1);
        self.ask(Request::Watch(pid, Some(done)));
        // If it takes longer, its waits are told later.
        let _ = is_done.recv_timeout(ADDING);
        Ok(())
    }

    fn hears_of(&mut self, pid: u32, is_new: bool) {
        self.ask(match is_new {
            true => Request::Watch(pid, None),
            false => Request::Anew(pid),
        });
    }

    fn accompanies(&self) -> bool {
        true
    }

    fn silent_end(&self) -> &'static str {
        "listening to the scheduler ended without a reason, so waits would be missing from here on; try again, and report this if \
         it stays"
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread that listens.
struct Listener {
    watch: Watch,
    asked: Receiver<Request>,
    stop: Arc<AtomicBool>,
    sender: EventSender,
    watched: HashSet<u32>,
    explainer: Explainer,
    words: Words,
    /// What was told of losses.
    told: Account,
    /// Sentences about processes that cannot be watched, so far.
    notes: usize,
}

impl Listener {
    fn run(mut self) {
        self.sender.say(Message::Live);
        let (mut next, mut seldom) = (Instant::now(), Instant::now());
        let mut waits = Vec::new();
        loop {
            self.watch.pause(next);
            let stops = self.stop.load(Ordering::Relaxed);
            self.watch.drain();
            self.answer();
            let now = Instant::now();
            if stops {
                break;
            }
            if now >= next {
                next = now + LOOKS;
                let end = now + LONGEST_LOOK;
                self.explainer.look(&mut self.watch, |_| true, end);
            }
            if now >= seldom {
                seldom = now + SELDOM;
                self.explainer.forget(&self.watch);
                self.watched.retain(|pid| crate::process::runs(*pid));
            }
            self.watch.ended(&mut waits);
            self.tell(&mut waits);
            let account = self.watch.account();
            self.tell_losses(account);
        }
        let account = self.watch.end(&mut waits);
        self.tell(&mut waits);
        self.tell_losses(account);
        self.sender.say(Message::Ended { clean: true });
    }

    /// Does what was asked for.
    fn answer(&mut self) {
        while let Ok(request) = self.asked.try_recv() {
            match request {
                Request::Watch(pid, done) => {
                    if self.watched.insert(pid) {
                        self.watch(pid);
                    }
                    if let Some(done) = done {
                        let _ = done.try_send(());
                    }
                }
                Request::Anew(pid) => self.explainer.anew(pid),
            }
        }
    }

    fn watch(&mut self, pid: u32) {
        let Err(error) = self.watch.add(pid) else {
            return;
        };
        self.watched.remove(&pid);
        if !crate::process::runs(pid) {
            return;
        }
        self.sender.say(Message::Lost(LossStage::Waits, 0));
        if self.notes < MOST_NOTES {
            self.notes += 1;
            let sentence = format!("waits of a process are missing: {error}");
            self.sender.say(Message::Said(Weight::Warning, sentence));
        }
    }

    /// Tells the waits that have ended.
    fn tell(&mut self, waits: &mut Vec<waits::Wait>) {
        let preempted = self.watch.beside().preempted;
        let offset = clock::epoch_offset();
        let mut events = Vec::with_capacity(waits.len() + preempted.len());
        for wait in waits.drain(..) {
            events.push(self.event(&wait));
        }
        events.extend(preempted.iter().map(taken));
        for event in &mut events {
            event.ts = event.ts.saturating_add(offset);
        }
        events.sort_by_key(|event| event.ts);
        // No call is lost with them.
        match self.sender.is_full() && !events.is_empty() {
            true => {
                let count = events.len() as u64;
                self.sender.say(Message::Lost(LossStage::Waits, count));
            }
            false => self.sender.events(events),
        }
    }

    /// A wait, still with the time of the scheduler's clock.
    fn event(&mut self, wait: &waits::Wait) -> Event {
        let known = self.explainer.explain(wait);
        let words = &mut self.words;
        let waker = wait.waker.map(|waker| match waker {
            waits::Waker::Thread { tid, .. } => Waker::Thread {
                tid,
                name: words.name_of(tid),
            },
            waits::Waker::Interrupt => Waker::Interrupt,
        });
        let told = Wait {
            reason: Some(known.reason),
            syscall: known.call.map(|call| words.shared(call)),
            on: known.on.map(|on| words.shared(on)),
            blocked_ns: wait.blocked_ns,
            runqueue_ns: wait.runqueue_ns,
            waker,
        };
        let ts = wait.began.saturating_add(told.off_ns());
        of_thread(ts, wait.pid, wait.tid, told)
    }

    fn tell_losses(&mut self, account: Account) {
        let new = account.since(self.told);
        // Where records are missing and no wait is known to be, nobody knows how many are.
        if new.lost > 0 || new.waits_lost > 0 || new.unreadable > 0 {
            self.told = account;
            self.sender
                .say(Message::Lost(LossStage::Waits, new.waits_lost));
        }
    }
}

/// A thread has its processor back.
fn taken(it: &Preempted) -> Event {
    let queued = it.ended.saturating_sub(it.began);
    let wait = Wait {
        reason: None,
        syscall: None,
        on: None,
        blocked_ns: 0,
        runqueue_ns: Some(queued),
        waker: None,
    };
    of_thread(it.ended, it.pid, it.tid, wait)
}

fn of_thread(ts: u64, pid: u32, tid: u32, wait: Wait) -> Event {
    Event {
        ts,
        pid,
        tid,
        interpreter: None,
        what: What::Wait(Box::new(wait)),
    }
}

/// Texts that many events share.
#[derive(Default)]
struct Words {
    texts: HashMap<Arc<str>, Arc<Text>>,
    threads: ThreadNames,
}

impl Words {
    fn shared(&mut self, words: Arc<str>) -> Arc<Text> {
        if self.texts.len() >= MOST_NAMES {
            self.texts.clear();
        }
        let text = || Arc::new(Text::of_bytes(words.as_bytes(), false));
        Arc::clone(self.texts.entry(Arc::clone(&words)).or_insert_with(text))
    }

    /// The name of a thread, where that is to be had.
    fn name_of(&mut self, tid: u32) -> Option<Arc<Text>> {
        let name = self.threads.of(tid)?;
        Some(self.shared(name))
    }
}
