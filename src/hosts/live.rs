//! The hosts of a session while it runs, as one source of events: a thread for each host that reads its stream, and one that puts
//! their events in order ([`lanes`](super::lanes)). A host that fails ends for itself, in one line.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, Select, Sender, TryRecvError, bounded, never, select, unbounded,
};

use super::clocks::Difference;
use super::lanes::{Arrived, Lanes, Next};
use super::names::{Joined, Places};
use super::remote::{Reach, Remote, Stream, Trouble, Word};
use crate::analysis::pairing::PairingRules;
use crate::clock;
use crate::engine::{AddTargetError, EventSender, Message, Running, Weight};
use crate::event::hosts::{Hosts as Names, clock as clock_words};
use crate::event::{Event, LossStage, Session, SessionHost, What};
use crate::recording::{Reader, RecordingError};
use crate::session::stop::Stop;
use crate::threads;

/// Events of a batch, and batches of a host that wait for their turn: beyond, the host waits, and counts what it loses.
const BATCH: usize = 4096;
const WAITING: usize = 4;
/// How long hosts may take until their probes are live, before the others begin without them.
const READY: Duration = Duration::from_secs(60);
/// From where on a host is said to lag.
const LAGS: Duration = Duration::from_secs(2);
/// How often a thread looks whether it has to go on waiting for a reader.
const MOMENT: Duration = Duration::from_millis(1);

/// See the head of the module.
#[derive(Debug)]
pub struct Hosts {
    messages: Receiver<Message>,
    /// Those that were told before the session begins.
    rules: Vec<(u32, PairingRules)>,
    shared: Arc<Shared>,
    /// While it is there, no event comes: whoever waits for the hosts takes messages away before the session does.
    waiting: Option<Sender<()>>,
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of a session of hosts have in common.
#[derive(Debug)]
struct Shared {
    reach: Reach,
    first_line: Mutex<Joined>,
    /// What one of the interpreters does, where the others do not matter.
    rules: Mutex<PairingRules>,
    /// Hosts that are neither live nor gone.
    missing: Mutex<Vec<String>>,
    arrived: Condvar,
    /// Since when nobody is waited for; 0 before.
    opened: AtomicU64,
    live: AtomicUsize,
    failed: AtomicUsize,
    stopping: Arc<AtomicBool>,
    /// Nobody takes events any longer.
    left: AtomicBool,
}

impl Shared {
    fn new(reach: Reach, first_line: Joined, names: &[String]) -> Shared {
        Shared {
            reach,
            first_line: Mutex::new(first_line),
            rules: Mutex::new(PairingRules {
                call_on_creation: false,
                greenlets: false,
            }),
            missing: Mutex::new(names.to_vec()),
            arrived: Condvar::new(),
            opened: AtomicU64::new(0),
            live: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            stopping: Arc::default(),
            left: AtomicBool::new(false),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hosts {
    /// Reaches these hosts, each known by its name. No event waits longer than `hold` for hosts that say nothing.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(names: &[String], reach: Reach, hold: Duration) -> io::Result<Hosts> {
        let (sender, messages) = unbounded();
        let sender = EventSender::new(sender);
        let mut joined = Joined::default();
        for name in names {
            let host = SessionHost {
                name: name.clone(),
                ..SessionHost::default()
            };
            joined
                .place(host, &mut |_, _| {})
                .map_err(io::Error::other)?;
        }
        let shared = Arc::new(Shared::new(reach, joined, names));
        let (waiting, waited) = bounded(0);
        let mut hosts = Hosts {
            messages,
            rules: Vec::new(),
            shared: Arc::clone(&shared),
            waiting: Some(waiting),
            stops: Vec::new(),
            threads: Vec::new(),
        };
        let mut batches = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let (batch_sender, batch_receiver) = bounded(WAITING);
            let (stop, stopped) = unbounded();
            let host = Host {
                name: name.clone(),
                place,
                sender: sender.clone(),
                batches: batch_sender,
                shared: Arc::clone(&shared),
            };
            batches.push(batch_receiver);
            hosts.stops.push(stop);
            hosts
                .threads
                .push(threads::spawn(move || host.run(stopped))?);
        }
        let merger = Merger {
            lanes: Lanes::new(names.len(), hold),
            batches,
            sender,
            shared,
            waited,
        };
        hosts.threads.push(threads::spawn(move || merger.run())?);
        Ok(hosts)
    }

    /// Waits until all hosts are live or have failed, or have taken too long; `false` when none is. What they say meanwhile goes to
    /// `hear`, and a message from `stops` ends it.
    pub(crate) fn wait(&mut self, stops: &Receiver<Stop>, hear: &dyn Fn(Weight, &str)) -> bool {
        let none = never();
        let mut requests = stops;
        let messages = self.messages.clone();
        loop {
            select! {
                recv(messages) -> message => match message {
                    Ok(Message::Live) => {
                        self.waiting = None;
                        return true;
                    }
                    Ok(Message::Said(weight, text)) => hear(weight, &text),
                    Ok(Message::Ended { .. }) | Err(_) => return false,
                    Ok(Message::Rules(pid, rules)) => self.rules.push((pid, rules)),
                    // Nothing else comes before.
                    Ok(_) => {}
                },
                recv(requests) -> _ => {
                    self.stop();
                    requests = &none;
                }
            }
        }
    }

    /// The rules of processes, and of all processes of hosts, that were told before the session begins.
    pub fn rules(&self) -> &[(u32, PairingRules)] {
        &self.rules
    }

    /// What the first line says, as far as it is known.
    pub fn first_line(&self) -> FirstLine {
        FirstLine(Arc::clone(&self.shared))
    }
}

/// What is known of all hosts, for the first line and the last words.
#[derive(Debug, Clone)]
pub struct FirstLine(Arc<Shared>);

impl FirstLine {
    /// The first line.
    pub fn session(&self) -> Session {
        lock(&self.0.first_line).session()
    }

    /// The rules of a recording of all of them.
    pub fn rules(&self) -> PairingRules {
        *lock(&self.0.rules)
    }

    /// How many hosts are live, or were.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.0.failed.load(Ordering::Relaxed)
    }
}

impl Running for Hosts {
    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    fn add_target(&mut self, _pid: u32) -> Result<(), AddTargetError> {
        Err(AddTargetError::new(io::Error::other(
            "it is of another host",
        )))
    }

    fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.arrived.notify_all();
        for stop in &self.stops {
            let _ = stop.send(());
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop();
        self.shared.left.store(true, Ordering::Relaxed);
        self.waiting = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The thread of one host.
struct Host {
    name: String,
    place: usize,
    sender: EventSender,
    batches: Sender<Arrived>,
    shared: Arc<Shared>,
}

impl Host {
    fn run(self, stopped: Receiver<()>) {
        let begun = Instant::now();
        let mut live = false;
        if let Err(Trouble(why)) = self.tell(stopped, &mut live)
            && !self.shared.stopping.load(Ordering::Relaxed)
        {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            let after = match live {
                true => format!("lost after {:.1} s: ", begun.elapsed().as_secs_f64()),
                false => String::new(),
            };
            self.say(Weight::Warning, &format!("{after}{why}"));
        }
        self.arrive();
    }

    fn say(&self, weight: Weight, words: &str) {
        let text = format!(
            "host {}: {words}",
            crate::text::Foreign::new(self.name.as_str())
        );
        self.sender.say(Message::Said(weight, text));
    }

    /// Nobody waits for this host any longer.
    fn arrive(&self) {
        let mut missing = lock(&self.shared.missing);
        missing.retain(|name| *name != self.name);
        self.shared.arrived.notify_all();
    }

    fn tell(&self, stopped: Receiver<()>, live: &mut bool) -> Result<(), Trouble> {
        let (sender, name) = (self.sender.clone(), self.name.clone());
        let hear = move |word| {
            let (weight, words) = match word {
                Word::Warning(words) => (Weight::Warning, words),
                Word::Detail(words) => (Weight::Detail, words),
            };
            let name = crate::text::Foreign::new(name.as_str());
            sender.say(Message::Said(weight, format!("host {name}: {words}")));
        };
        let shared = &self.shared;
        let (remote, greeted, stream) =
            Remote::begin(&self.name, &shared.reach, stopped, &shared.stopping, hear)?;
        let clock = greeted.clock.unwrap_or_default();
        let own = env!("CARGO_PKG_VERSION");
        if greeted.version != own {
            self.say(
                Weight::Warning,
                &format!("its pystap is {} and this one is {own}; install the same where something is missing", greeted.version),
            );
        }
        if let Some(clock) = greeted.clock {
            let host = clock.told(SessionHost::default());
            let words = clock_words(&host);
            match clock.is_far() {
                true => self.say(
                    Weight::Warning,
                    &format!("{words}: its times are set by that here, and its own logs have others; set its clock"),
                ),
                false => self.say(Weight::Detail, &words),
            }
        }
        let mut reader = Reader::new(stream).map_err(|error| ended_early(&error, &remote))?;
        let host = SessionHost {
            boot: reader.session().boot.clone(),
            pystap: Some(greeted.version),
            ..SessionHost::default()
        };
        let host = match greeted.clock {
            Some(clock) => clock.told(host),
            None => host,
        };
        let places = Places::One(self.place);
        {
            let mut first_line = lock(&shared.first_line);
            let mut rules = lock(&shared.rules);
            rules.call_on_creation |= reader.rules().call_on_creation;
            first_line.learn(self.place, host);
            first_line.add(reader.session(), &places);
        }
        // Of all its processes, and before anybody begins with them.
        self.rules(places.process(0), reader.rules());
        *live = true;
        shared.live.fetch_add(1, Ordering::Relaxed);
        self.arrive();
        let told = self.events(&mut reader, &places, clock);
        match told {
            Ok(()) if reader.was_cut() => {
                self.lost();
                let words = remote.last_words();
                Err(Trouble(match words.is_empty() {
                    true => "the connection ended; the others go on".to_owned(),
                    false => format!("the connection ended ({words}); the others go on"),
                }))
            }
            Ok(()) => {
                remote.end();
                Ok(())
            }
            Err(trouble) => {
                self.lost();
                Err(trouble)
            }
        }
    }

    /// Hands on everything of a stream, with times of our clock.
    fn events(
        &self,
        reader: &mut Reader<Stream>,
        places: &Places,
        clock: Difference,
    ) -> Result<(), Trouble> {
        let garbage = |why: &str| {
            Trouble(format!(
                "what comes of it is no stream of pystap ({why}), so it is left out from here on"
            ))
        };
        let mut lags = false;
        loop {
            let mut events = Vec::new();
            let ended = loop {
                let mut event = match reader.event() {
                    Ok(Some(event)) => event,
                    Ok(None) => break true,
                    Err(error) => return Err(garbage(&error.to_string())),
                };
                for (pid, rules) in reader.process_rules() {
                    self.rules(places.process(pid), rules);
                }
                if places.take(&mut event).is_none() {
                    return Err(garbage("a process that no Linux has"));
                }
                event.ts = clock.ours(event.ts);
                events.push(event);
                // What is here need not wait for what comes.
                if events.len() >= BATCH || !reader.has_more_at_hand() {
                    break false;
                }
            };
            let newest = events.last().map(|event| event.ts);
            let batch = Arrived {
                at: Instant::now(),
                events,
            };
            if !batch.events.is_empty() && self.batches.send(batch).is_err() {
                return Ok(());
            }
            if ended {
                return Ok(());
            }
            // What came while others were waited for has waited here.
            let opened = self.shared.opened.load(Ordering::Relaxed);
            let newest = newest.filter(|newest| opened > 0 && *newest > opened);
            let behind = newest.map_or(0, |newest| clock::now().saturating_sub(newest));
            if Duration::from_nanos(behind) > LAGS && !std::mem::replace(&mut lags, true) {
                self.say(
                    Weight::Warning,
                    &format!("its events come {:.1} s late; what comes too late to be put in order is counted as unordered", behind as f64 / 1e9),
                );
            }
        }
    }

    fn rules(&self, pid: Option<u32>, rules: PairingRules) {
        if let Some(pid) = pid {
            self.sender.say(Message::Rules(pid, rules));
        }
    }

    /// What its processes did from here on is not known.
    fn lost(&self) {
        let Some(pid) = Names::identity(self.place, 0) else {
            return;
        };
        let lost = Event {
            ts: clock::now(),
            pid,
            tid: 0,
            interpreter: None,
            what: What::Lost {
                count: 0,
                stage: LossStage::Output,
                message: format!(
                    "the connection to host {} ended, so that its events are missing from here on",
                    self.name
                ),
            },
        };
        let _ = self.batches.send(Arrived {
            at: Instant::now(),
            events: vec![lost],
        });
    }
}

/// Why no stream began.
fn ended_early(error: &RecordingError, remote: &Remote) -> Trouble {
    remote.end();
    let words = remote.last_words();
    Trouble(match (error, words.is_empty()) {
        (RecordingError::Empty, false) => words,
        (RecordingError::Empty, true) => {
            "it ended before anything was traced; see what pystap says there".to_owned()
        }
        (error, _) => format!("what comes of it is no stream of pystap: {error}"),
    })
}

/// The thread that puts their events in order.
struct Merger {
    lanes: Lanes,
    batches: Vec<Receiver<Arrived>>,
    sender: EventSender,
    shared: Arc<Shared>,
    /// Ends when nobody waits for the hosts any longer.
    waited: Receiver<()>,
}

impl Merger {
    fn run(mut self) {
        self.wait_for_all();
        self.shared.opened.store(clock::now(), Ordering::Relaxed);
        if self.shared.live.load(Ordering::Relaxed) > 0 {
            self.sender.say(Message::Live);
            // Once more for the session, which begins with it, and before every event.
            let _ = self.waited.recv();
            self.sender.say(Message::Live);
        }
        let mut deadline = None;
        loop {
            self.fetch(deadline);
            let mut events = Vec::new();
            let next = self.lanes.pass(Instant::now(), BATCH, &mut events);
            let late = self.lanes.take_late();
            if late > 0 {
                self.sender.say(Message::Late(late));
            }
            // Hosts wait where nobody takes their events; what is lost by that is counted there.
            while self.sender.is_full() && !self.shared.left.load(Ordering::Relaxed) {
                std::thread::park_timeout(MOMENT);
            }
            self.sender.events(events);
            deadline = match next {
                Next::More => Some(Instant::now()),
                Next::Wait(until) => until,
                Next::End => break,
            };
        }
        self.sender.say(Message::Ended { clean: true });
    }

    /// Waits until every host is live or has failed, or has taken too long.
    fn wait_for_all(&self) {
        let begun = Instant::now();
        let mut missing = lock(&self.shared.missing);
        while !missing.is_empty() && !self.shared.stopping.load(Ordering::Relaxed) {
            let Some(left) = READY.checked_sub(begun.elapsed()) else {
                let names = missing.join(", ");
                let text = format!(
                    "after {} s nothing is traced yet on {}; the others begin",
                    READY.as_secs(),
                    crate::text::Foreign::new(names.as_str())
                );
                self.sender.say(Message::Said(Weight::Warning, text));
                return;
            };
            let waited = self.shared.arrived.wait_timeout(missing, left);
            missing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a batch of each host of which there is none here. Waits for one of them until that moment, or for as long as it takes.
    fn fetch(&mut self, deadline: Option<Instant>) {
        let empty: Vec<usize> = self.lanes.empty().collect();
        let mut select = Select::new();
        for at in &empty {
            if let Some(batches) = self.batches.get(*at) {
                select.recv(batches);
            }
        }
        if !empty.is_empty() {
            match deadline {
                Some(deadline) => {
                    let _ = select.ready_deadline(deadline);
                }
                None => {
                    select.ready();
                }
            }
        }
        for at in empty {
            let Some(batches) = self.batches.get(at) else {
                continue;
            };
            match batches.try_recv() {
                Ok(batch) => self.lanes.take(at, batch),
                Err(TryRecvError::Disconnected) => self.lanes.end(at),
                Err(TryRecvError::Empty) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_comes_while_hosts_are_waited_for_and_none_before_the_session_begins() {
        let reach = Reach {
            ssh: Vec::new(),
            command: String::new(),
            pystap: String::new(),
            sudo: false,
        };
        let shared = Arc::new(Shared::new(reach, Joined::default(), &[]));
        shared.live.store(1, Ordering::Relaxed);
        let (sender, messages) = unbounded();
        let (batch, batches) = bounded(1);
        let event = Event {
            ts: 1,
            pid: 1,
            tid: 1,
            interpreter: None,
            what: What::GcStart { generation: 0 },
        };
        batch
            .send(Arrived {
                at: Instant::now(),
                events: vec![event],
            })
            .expect("room");
        drop(batch);
        let (waiting, waited) = bounded(0);
        let merger = Merger {
            lanes: Lanes::new(1, Duration::ZERO),
            batches: vec![batches],
            sender: EventSender::new(sender),
            shared,
            waited,
        };
        let thread = threads::spawn(move || merger.run()).expect("a thread");
        assert!(matches!(messages.recv(), Ok(Message::Live)));
        drop(waiting);
        thread.join().expect("no panic");
        let seen: Vec<Message> = messages.try_iter().collect();
        let [
            Message::Live,
            Message::Events(_),
            ..,
            Message::Ended { clean: true },
        ] = seen.as_slice()
        else {
            panic!("{seen:?}");
        };
    }
}
