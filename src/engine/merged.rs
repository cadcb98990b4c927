//! Several engines as one: what they say comes through one channel, and their events in the order of their times.
//!
//! Each source's own events are in order when they come, so what all sources have got past is in order altogether and
//! passed on at once. A source that says nothing must not hold the others up, so nothing waits for it longer than
//! `HOLD`; what it says later all the same is passed on when it comes, and counted as late. A source that knew itself
//! that events were late is not believed: here they may have come in time, and if not, they are counted here.
//!
//! What else a source says comes after the events that it has said before.
//!
//! A source that only accompanies others (waits of threads) tells nothing before those are live, and ends with them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError, unbounded};

use super::reorder::ReorderBuffer;
use super::{AddTargetError, Children, EventSender, Message, RingOffer, Running, Wish};
use crate::process::Identity;
use crate::threads;

/// How long an event waits for sources that are silent.
const HOLD: Duration = Duration::from_millis(100);
/// Events that wait at most: some megabytes. Beyond, they are passed on before their time.
const MOST: usize = 1 << 16;
/// Messages that are taken from one source before the others have their turn.
const TURN: usize = 64;

/// Running engines that are one. Dropped, they are.
pub struct Merged {
    sources: Vec<Box<dyn Running>>,
    messages: Receiver<Message>,
    stopping: Arc<AtomicBool>,
}

impl Merged {
    /// Makes one of these, which may be live already. Without any, it has ended.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn new(sources: Vec<Box<dyn Running>>) -> io::Result<Merged> {
        Merged::with_hold(sources, HOLD)
    }

    fn with_hold(sources: Vec<Box<dyn Running>>, hold: Duration) -> io::Result<Merged> {
        let (sender, messages) = unbounded();
        let stopping = Arc::new(AtomicBool::new(false));
        let merger = Merger {
            sources: sources
                .iter()
                .map(|source| Source::new(source.as_ref()))
                .collect(),
            sender: EventSender::new(sender),
            stopping: Arc::clone(&stopping),
            hold,
            is_live: false,
            order: ReorderBuffer::default(),
            passed: 0,
            arrived: VecDeque::new(),
            queue: VecDeque::new(),
        };
        // It ends when all sources have: they have when they are dropped.
        threads::spawn(move || merger.run())?;
        Ok(Merged {
            sources,
            messages,
            stopping,
        })
    }
}

impl Running for Merged {
    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    /// All are asked, whether or not one of them does not take it.
    fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError> {
        let added: Vec<Result<(), AddTargetError>> = (self.sources.iter_mut())
            .map(|source| source.add_target(pid))
            .collect();
        added.into_iter().collect()
    }

    fn children(&self) -> Option<Arc<dyn Children>> {
        let children = self.sources.iter().filter_map(|source| source.children());
        let children: Vec<Arc<dyn Children>> = children.collect();
        (!children.is_empty()).then(|| Arc::new(Together(children)) as Arc<dyn Children>)
    }

    fn wish(&mut self, wish: Wish) {
        for source in &mut self.sources {
            source.wish(wish);
        }
    }

    fn hears_of(&mut self, pid: u32, is_new: bool) {
        for source in &mut self.sources {
            source.hears_of(pid, is_new);
        }
    }

    fn silent_end(&self) -> &'static str {
        "all engines of this session ended without saying why, so tracing ended; try again, and report this if it stays"
    }

    fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for source in &mut self.sources {
            source.stop();
        }
    }
}

/// Everybody who wants to be told of children.
#[derive(Debug)]
struct Together(Vec<Arc<dyn Children>>);

impl Children for Together {
    fn keep(&self, pid: u32) {
        for children in &self.0 {
            children.keep(pid);
        }
    }

    fn ring(&self, process: Identity, free_threaded: bool) -> io::Result<Option<RingOffer>> {
        for children in &self.0 {
            if let Some(ring) = children.ring(process, free_threaded)? {
                return Ok(Some(ring));
            }
        }
        Ok(None)
    }

    fn ring_within(&self, process: Identity) -> io::Result<Option<RingOffer>> {
        for children in &self.0 {
            if let Some(ring) = children.ring_within(process)? {
                return Ok(Some(ring));
            }
        }
        Ok(None)
    }
}

/// What is known of a source.
#[derive(Debug)]
struct Source {
    messages: Receiver<Message>,
    accompanies: bool,
    silent_end: &'static str,
    is_live: bool,
    /// Whether it said that it cannot go on.
    has_failed: bool,
    /// Whether it ended as it should, once it has.
    ended: Option<bool>,
    /// The latest of its events; nothing earlier is to be expected of it.
    reached: u64,
    /// Its events that were lost in the kernel.
    lost_in_kernel: u64,
}

impl Source {
    fn new(running: &dyn Running) -> Source {
        Source {
            messages: running.messages().clone(),
            accompanies: running.accompanies(),
            silent_end: running.silent_end(),
            is_live: false,
            has_failed: false,
            ended: None,
            reached: 0,
            lost_in_kernel: 0,
        }
    }
}

/// The thread that puts them together.
struct Merger {
    sources: Vec<Source>,
    sender: EventSender,
    stopping: Arc<AtomicBool>,
    /// How long an event waits for sources that are silent.
    hold: Duration,
    is_live: bool,
    order: ReorderBuffer,
    /// Events up to this time are passed on.
    passed: u64,
    /// When events came that wait, and up to which time.
    arrived: VecDeque<(Instant, u64)>,
    /// Other messages that wait, and for events up to which time.
    queue: VecDeque<(u64, Message)>,
}

impl Merger {
    fn run(mut self) {
        while self.goes_on() {
            self.wait();
            for index in 0..self.sources.len() {
                self.take(index);
            }
            self.pass_on();
        }
        self.release(u64::MAX);
        // Who accompanied those that have ended by themselves need not have.
        let mut ended = self.sources.iter().filter_map(|source| source.ended);
        let clean = ended.all(|clean| clean);
        self.sender.say(Message::Ended { clean });
    }

    fn goes_on(&self) -> bool {
        let stopping = self.stopping.load(Ordering::Relaxed);
        let mut sources = self.sources.iter();
        sources.any(|source| source.ended.is_none() && (stopping || !source.accompanies))
    }

    /// Waits until a source says something or something has waited long enough.
    fn wait(&self) {
        let mut select = Select::new();
        for source in self.sources.iter().filter(|source| source.ended.is_none()) {
            select.recv(&source.messages);
        }
        match self.arrived.front() {
            Some((since, _)) => {
                let _ = select.ready_deadline(*since + self.hold);
            }
            None => {
                select.ready();
            }
        }
    }

    /// Takes what a source has said.
    fn take(&mut self, index: usize) {
        let engines = self.sources.iter().filter(|source| !source.accompanies);
        let has_several = engines.count() > 1;
        for _ in 0..TURN {
            let Some(source) = self.sources.get_mut(index) else {
                return;
            };
            if source.ended.is_some() {
                return;
            }
            let message = match source.messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => return,
                // Its thread is gone without a word.
                Err(TryRecvError::Disconnected) => Message::Ended { clean: false },
            };
            match message {
                // Nothing is traced yet.
                Message::Events(_) | Message::Lost(..) if source.accompanies && !self.is_live => {}
                Message::Events(batch) => {
                    let events = batch.into_events();
                    if let Some(newest) = events.iter().map(|event| event.ts).max() {
                        source.reached = source.reached.max(newest);
                        self.arrived.push_back((Instant::now(), newest));
                        self.order.take(events);
                    }
                }
                Message::Live => {
                    source.is_live = true;
                    self.say_if_live();
                }
                Message::Failed(reason) => {
                    source.has_failed = true;
                    self.sender.say(Message::Failed(reason));
                }
                Message::Ended { clean } => {
                    source.ended = Some(clean);
                    let unexplained = !clean && !source.has_failed;
                    let beside = source.accompanies.then_some(source.silent_end);
                    self.ended(unexplained, beside);
                }
                // Known here, and better.
                Message::Late(_) => {}
                // Nothing tells which of their events it is about.
                Message::EventCost(_) if has_several => {}
                Message::LostInKernel(count) => {
                    let waits_for = source.reached;
                    source.lost_in_kernel = count;
                    let all = self.sources.iter().map(|source| source.lost_in_kernel);
                    let lost = Message::LostInKernel(all.sum());
                    self.queue.push_back((waits_for, lost));
                }
                other => self.queue.push_back((source.reached, other)),
            }
        }
    }

    /// A source has ended. The others cannot make up for one that did so by itself and should not have, but what only told
    /// something beside them can say so itself.
    fn ended(&mut self, unexplained: bool, beside: Option<&str>) {
        self.say_if_live();
        let mut engines = self.sources.iter().filter(|source| !source.accompanies);
        let is_last = engines.all(|source| source.ended.is_some());
        if unexplained && !is_last && !self.stopping.load(Ordering::Relaxed) {
            let sentence = beside.unwrap_or(
                "one of the engines of this session has ended by itself, so its events would be missing from here on; \
                 try again, and report this if it stays",
            );
            self.sender.say(Message::Failed(sentence.to_owned()));
        }
    }

    /// Says so once all that run are live, and one of them is more than company.
    fn say_if_live(&mut self) {
        let mut running = self.sources.iter().filter(|source| source.ended.is_none());
        let mut live = self.sources.iter().filter(|source| source.is_live);
        let any = live.any(|source| !source.accompanies);
        if !self.is_live && any && running.all(|source| source.is_live) {
            self.is_live = true;
            self.sender.say(Message::Live);
        }
    }

    /// Passes on what need not wait any longer.
    fn pass_on(&mut self) {
        let running = self.sources.iter().filter(|source| source.ended.is_none());
        let mut until = running
            .map(|source| source.reached)
            .min()
            .unwrap_or(u64::MAX);
        let now = Instant::now();
        while let Some((since, newest)) = self.arrived.front().copied()
            && (newest <= until
                || now.duration_since(since) >= self.hold
                || self.order.waiting() > MOST && self.arrived.len() > 1)
        {
            until = until.max(newest);
            self.arrived.pop_front();
            if self.order.waiting() > MOST {
                self.release(until);
            }
        }
        self.release(until);
    }

    /// Passes on the events up to a time, and what was said before them.
    fn release(&mut self, until: u64) {
        self.passed = self.passed.max(until);
        while self
            .queue
            .front()
            .is_some_and(|(after, _)| *after <= self.passed)
            && let Some((after, message)) = self.queue.pop_front()
        {
            self.events(after);
            self.sender.say(message);
        }
        self.events(self.passed);
    }

    fn events(&mut self, until: u64) {
        self.sender.events(self.order.give(until));
        let late = self.order.take_late();
        if late > 0 {
            self.sender.say(Message::Late(late));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use crossbeam_channel::Sender;
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::totals::Rows;
    use crate::engine::event_cost::Cost;
    use crate::event::{Event, LossStage, What};

    /// Longer than anything takes.
    const SOON: Duration = Duration::from_secs(20);

    /// A source that says what the test has it say.
    #[derive(Debug)]
    struct Fake {
        messages: Receiver<Message>,
        asked: Arc<Asked>,
        accompanies: bool,
    }

    /// What it was asked for.
    #[derive(Debug, Default)]
    struct Asked {
        stops: AtomicUsize,
        wishes: AtomicUsize,
        targets: Mutex<Vec<u32>>,
        children: Mutex<Vec<u32>>,
        refuses: AtomicBool,
    }

    impl Children for Asked {
        fn keep(&self, pid: u32) {
            self.children.lock().expect("no test panics here").push(pid);
        }
    }

    impl Running for Fake {
        fn messages(&self) -> &Receiver<Message> {
            &self.messages
        }

        fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError> {
            let mut targets = self.asked.targets.lock().expect("no test panics here");
            targets.push(pid);
            match self.asked.refuses.load(Ordering::Relaxed) {
                true => Err(AddTargetError::new(std::io::Error::other("not that one"))),
                false => Ok(()),
            }
        }

        fn children(&self) -> Option<Arc<dyn Children>> {
            Some(Arc::clone(&self.asked) as Arc<dyn Children>)
        }

        fn accompanies(&self) -> bool {
            self.accompanies
        }

        fn wish(&mut self, _: Wish) {
            self.asked.wishes.fetch_add(1, Ordering::Relaxed);
        }

        fn stop(&mut self) {
            self.asked.stops.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The test's end of a source.
    struct Voice {
        sender: EventSender,
        asked: Arc<Asked>,
    }

    impl Voice {
        fn say(&self, message: Message) {
            self.sender.say(message);
        }

        fn events(&self, times: impl IntoIterator<Item = u64>) {
            self.sender.events(times.into_iter().map(at).collect());
        }
    }

    fn at(ts: u64) -> Event {
        Event {
            ts,
            pid: 1,
            tid: 1,
            interpreter: None,
            what: What::GcStart { generation: 0 },
        }
    }

    /// One that waits for silent sources, however slow this machine is.
    fn merged(count: usize) -> (Merged, Vec<Voice>) {
        holding(count, SOON)
    }

    fn holding(count: usize, hold: Duration) -> (Merged, Vec<Voice>) {
        beside(0, count, hold)
    }

    /// So many sources that only accompany, before so many others.
    fn beside(company: usize, count: usize, hold: Duration) -> (Merged, Vec<Voice>) {
        let mut voices = Vec::new();
        let sources = (0..company + count).map(|index| {
            let (sender, messages): (Sender<Message>, _) = unbounded();
            let asked = Arc::new(Asked::default());
            voices.push(Voice {
                sender: EventSender::new(sender),
                asked: Arc::clone(&asked),
            });
            let accompanies = index < company;
            Box::new(Fake {
                messages,
                asked,
                accompanies,
            }) as Box<dyn Running>
        });
        let sources = sources.collect();
        let merged = Merged::with_hold(sources, hold);
        (merged.expect("a thread"), voices)
    }

    /// The times of so many events, which come next.
    fn times(merged: &Merged, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        while times.len() < count {
            match merged.messages().recv_timeout(SOON) {
                Ok(Message::Events(mut batch)) => {
                    times.extend(batch.events().iter().map(|event| event.ts));
                }
                other => panic!("after {times:?}: {other:?}"),
            }
        }
        times
    }

    fn next(merged: &Merged) -> Message {
        merged.messages().recv_timeout(SOON).expect("a message")
    }

    /// Everything up to the end: times, events that were late, and whether it ended cleanly.
    fn rest(merged: &Merged) -> (Vec<u64>, u64, bool) {
        let (mut times, mut late) = (Vec::new(), 0);
        loop {
            match next(merged) {
                Message::Events(mut batch) => {
                    times.extend(batch.events().iter().map(|event| event.ts));
                }
                Message::Late(count) => late += count,
                Message::Ended { clean } => return (times, late, clean),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn events_come_in_the_order_of_their_times() {
        let (merged, voices) = merged(2);
        voices[0].events([1, 4, 6]);
        voices[1].events([2, 3, 5]);
        // Both have got to 5; 6 waits for the second.
        assert_eq!(times(&merged, 5), [1, 2, 3, 4, 5]);
        voices[1].events([7]);
        assert_eq!(times(&merged, 1), [6]);
        voices[0].say(Message::Ended { clean: true });
        assert_eq!(times(&merged, 1), [7], "nothing earlier can come");
        voices[1].events([9, 10]);
        voices[1].say(Message::Ended { clean: true });
        assert_eq!(rest(&merged), (vec![9, 10], 0, true));
    }

    #[test]
    fn a_silent_source_does_not_hold_the_others_up() {
        let (merged, voices) = holding(2, HOLD);
        let begun = Instant::now();
        voices[0].events([1, 2]);
        assert_eq!(times(&merged, 2), [1, 2]);
        assert!(begun.elapsed() >= HOLD);
        // What it says at last is late, unless it is of later.
        voices[1].events([1, 3]);
        voices[0].events([4]);
        for voice in &voices {
            voice.say(Message::Ended { clean: true });
        }
        assert_eq!(rest(&merged), (vec![1, 3, 4], 1, true));
    }

    #[test]
    fn what_was_late_in_its_source_need_not_be_so_here() {
        let (merged, voices) = merged(2);
        voices[0].events([5, 3]);
        voices[0].say(Message::Late(1));
        voices[1].events([1, 5]);
        assert_eq!(times(&merged, 4), [1, 3, 5, 5]);
        voices[0].events([2]);
        voices[0].say(Message::Late(1));
        for voice in &voices {
            voice.say(Message::Ended { clean: true });
        }
        assert_eq!(rest(&merged), (vec![2], 1, true));
    }

    #[test]
    fn it_is_live_when_all_are_and_has_ended_when_all_have() {
        let (merged, voices) = merged(3);
        voices[0].say(Message::Live);
        voices[1].say(Message::Live);
        voices[1].say(Message::Unparsed(7));
        assert!(matches!(next(&merged), Message::Unparsed(7)), "not live");
        voices[2].say(Message::Live);
        assert!(matches!(next(&merged), Message::Live));
        voices[0].say(Message::Ended { clean: true });
        voices[1].say(Message::Ended { clean: true });
        voices[2].say(Message::NotArmed(5));
        assert!(matches!(next(&merged), Message::NotArmed(5)), "not ended");
        voices[2].say(Message::Ended { clean: true });
        assert!(matches!(next(&merged), Message::Ended { clean: true }));
    }

    #[test]
    fn other_messages_come_after_the_events_before_them() {
        let (merged, voices) = merged(2);
        voices[0].events([1, 8]);
        voices[0].say(Message::Lost(LossStage::Output, 3));
        voices[0].say(Message::Rows(Box::<Rows>::default()));
        voices[1].events([2]);
        assert_eq!(times(&merged, 2), [1, 2]);
        voices[1].events([9]);
        assert_eq!(times(&merged, 1), [8]);
        assert!(matches!(next(&merged), Message::Lost(LossStage::Output, 3)));
        assert!(matches!(next(&merged), Message::Rows(_)));
        // Sums over the whole session are added up.
        voices[0].say(Message::LostInKernel(4));
        assert!(matches!(next(&merged), Message::LostInKernel(4)));
        voices[1].say(Message::LostInKernel(10));
        voices[0].events([9]);
        assert_eq!(times(&merged, 2), [9, 9]);
        assert!(matches!(next(&merged), Message::LostInKernel(14)));
        voices[0].say(Message::LostInKernel(5));
        assert!(matches!(next(&merged), Message::LostInKernel(15)));
    }

    #[test]
    fn what_events_cost_is_told_of_one_engine_and_its_company_and_not_of_two() {
        let cost = || {
            let per_event = std::num::NonZeroU64::new(200).expect("more than nothing");
            Message::EventCost(Cost {
                per_event,
                within_call: Some(150),
            })
        };
        for (company, engines) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
            let (merged, voices) = beside(company, engines, SOON);
            voices[company].say(cost());
            voices[company].say(Message::Unparsed(7));
            if engines == 1 {
                assert!(matches!(next(&merged), Message::EventCost(_)));
            }
            assert!(matches!(next(&merged), Message::Unparsed(7)));
        }
    }

    #[test]
    fn one_that_fails_ends_all() {
        let (mut running, voices) = merged(2);
        voices[0].say(Message::Failed("no more".to_owned()));
        assert!(matches!(next(&running), Message::Failed(reason) if reason == "no more"));
        voices[0].say(Message::Ended { clean: false });
        running.stop();
        voices[1].events([1]);
        voices[1].say(Message::Ended { clean: true });
        assert_eq!(rest(&running), (vec![1], 0, false));

        // It may have no words for it, or its thread may be gone.
        for gone in [false, true] {
            let (running, mut voices) = merged(2);
            match gone {
                true => drop(voices.remove(0)),
                false => voices[0].say(Message::Ended { clean: false }),
            }
            assert!(matches!(next(&running), Message::Failed(_)));
        }

        // One that is asked to stop may end as it likes.
        let (mut running, voices) = merged(2);
        running.stop();
        voices[0].say(Message::Ended { clean: false });
        voices[1].say(Message::Ended { clean: true });
        assert_eq!(rest(&running), (vec![], 0, false));
    }

    #[test]
    fn what_accompanies_tells_nothing_before_the_others_are_live_and_ends_with_them() {
        let (merged, voices) = beside(1, 1, SOON);
        voices[0].say(Message::Live);
        voices[0].events([1, 2]);
        voices[0].say(Message::Lost(LossStage::Waits, 3));
        voices[0].say(Message::Unparsed(7));
        assert!(matches!(next(&merged), Message::Unparsed(7)), "not live");
        voices[1].say(Message::Live);
        assert!(matches!(next(&merged), Message::Live));
        voices[0].events([5, 6]);
        voices[1].events([6]);
        assert_eq!(times(&merged, 3), [5, 6, 6]);
        // Nobody asked for its end.
        voices[1].say(Message::Ended { clean: true });
        assert_eq!(rest(&merged), (vec![], 0, true));

        // What never was live leaves nothing to accompany.
        let (merged, voices) = beside(1, 1, SOON);
        voices[0].say(Message::Live);
        voices[0].events([1]);
        voices[1].say(Message::Ended { clean: false });
        assert_eq!(rest(&merged), (vec![], 0, false));

        // Who stops hears it out.
        let (mut merged, voices) = beside(1, 1, SOON);
        voices[0].say(Message::Live);
        voices[1].say(Message::Live);
        assert!(matches!(next(&merged), Message::Live));
        merged.stop();
        voices[1].say(Message::Ended { clean: true });
        voices[0].events([8]);
        voices[0].say(Message::Ended { clean: true });
        assert_eq!(rest(&merged), (vec![8], 0, true));
    }

    #[test]
    fn what_it_is_asked_for_all_are() {
        let (mut merged, voices) = merged(2);
        merged.add_target(7).expect("taken");
        voices[0].asked.refuses.store(true, Ordering::Relaxed);
        assert!(merged.add_target(8).is_err());
        merged.wish(Wish::Sums);
        merged.children().expect("both have them").keep(9);
        merged.stop();
        merged.stop();
        for voice in &voices {
            let asked = &voice.asked;
            assert_eq!(*asked.targets.lock().expect("no panic"), [7, 8]);
            assert_eq!(*asked.children.lock().expect("no panic"), [9]);
            assert_eq!(asked.wishes.load(Ordering::Relaxed), 1);
            assert_eq!(asked.stops.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn thousands_of_batches_come_in_order() {
        let (merged, voices) = merged(3);
        let threads: Vec<_> = (0..3_u64)
            .zip(voices)
            .map(|(own, voice)| {
                std::thread::spawn(move || {
                    // Batches of 1 to 7 events, interleaved with those of the others.
                    let mut now = own;
                    for round in 0..3_000_u64 {
                        let count = 1 + (round * 5 + own) % 7;
                        voice.events((0..count).map(|at| now + at * 3));
                        now += count * 3;
                    }
                    voice.say(Message::Ended { clean: true });
                })
            })
            .collect();
        let (times, late, clean) = rest(&merged);
        for thread in threads {
            thread.join().expect("it has said all");
        }
        assert_eq!((late, clean), (0, true));
        let expected: u64 = (0..3_u64)
            .map(|own| {
                (0..3_000)
                    .map(|round| 1 + (round * 5 + own) % 7)
                    .sum::<u64>()
            })
            .sum();
        assert_eq!(times.len() as u64, expected, "nothing is lost");
        assert!(times.is_sorted());
    }

    #[test]
    fn what_waits_for_a_silent_source_has_a_bound() {
        let (mut merger, _messages) = merger(2);
        for round in 0..20_u64 {
            let (sender, messages) = unbounded();
            let source = EventSender::new(sender);
            source.events(
                (0..10_000)
                    .map(|at_once| at(round * 10_000 + at_once))
                    .collect(),
            );
            merger.sources[0].messages = messages;
            merger.take(0);
            merger.sources[0].ended = None;
            merger.pass_on();
            assert!(merger.order.waiting() <= MOST + 10_000);
        }
        assert!(merger.passed > 0, "no time has passed, but memory is full");
        assert_eq!(merger.order.take_late(), 0);
    }

    fn merger(count: usize) -> (Merger, Receiver<Message>) {
        let (sender, messages) = unbounded();
        let silent = (0..count).map(|_| {
            let (sender, messages) = unbounded();
            // Never disconnected.
            std::mem::forget(sender);
            Source::new(&Fake {
                messages,
                asked: Arc::default(),
                accompanies: false,
            })
        });
        let merger = Merger {
            sources: silent.collect(),
            sender: EventSender::new(sender),
            stopping: Arc::default(),
            hold: SOON,
            is_live: false,
            order: ReorderBuffer::default(),
            passed: 0,
            arrived: VecDeque::new(),
            queue: VecDeque::new(),
        };
        (merger, messages)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn whatever_is_said_in_time_comes_out_in_order(
            batches in proptest::collection::vec((0..3_usize, 1..5_u64, 1..20_u64), 1..60),
        ) {
            let (merged, voices) = merged(3);
            let mut now = [0_u64; 3];
            let mut expected: Vec<u64> = Vec::new();
            for (source, count, step) in batches {
                let times: Vec<u64> = (1..=count).map(|at| now[source] + at * step).collect();
                now[source] += count * step;
                expected.extend(&times);
                voices[source].events(times);
            }
            for voice in &voices {
                voice.say(Message::Ended { clean: true });
            }
            expected.sort_unstable();
            let (times, late, clean) = rest(&merged);
            prop_assert_eq!((late, clean), (0, true));
            prop_assert_eq!(times, expected);
        }
    }
}
