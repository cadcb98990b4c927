//! A session of the direct engine: rings for agents that are about to start, and the thread that reads them.
//!
//! Rings are read every 5 milliseconds while events come, and every 20 otherwise: 16 MB are a million events. The memory of
//! a session is bounded: beyond 256 MB a ring has 1 MB. Where agents add up, a ring has 1 MB for names, and a table 8 MB,
//! beyond the same bound 1 MB.
//!
//! A free-threaded process has 64 rings of 1 MB, one for each thread that calls something, with tables of 1 MB; beyond the
//! bound it has 8. Here each is read as if it were that of a process of its own. So is that of an interpreter within the
//! interpreter, for which its agent asks when there is one: it has 1 MB, or for names a quarter, and none beyond the bound.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use pystap_agent_protocol as protocol;
use pystap_ring::sums::{self, MOST_ROWS, SumsReader};
use pystap_ring::{LOST_KINDS, MOST_RINGS, Mapping, Reader, Records, distance, new_memory_of_many};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clock::{self, Clock, Rate};
use super::current_cost::{CurrentCost, Said};
use super::decode::{Asked, Decoder, Kinds};
use super::sums::{Table, Tables};
use crate::engine::event_cost::{Cost, EventCost};
use crate::engine::lifecycle::Beginning;
use crate::engine::reorder::ReorderBuffer;
use crate::engine::{
    AddTargetError, Children, EventSender, Message, RingOffer, Running, Weight, Wish,
};
use crate::event::allowance::Allowance;
use crate::event::{Event, LossStage, ProcessChange, What};
use crate::process::{Identity, Lineage, parent_of};
use crate::threads;

/// Words of a ring, of one where there are many, and of all together.
pub(super) const LARGEST: u64 = 1 << 21;
pub(super) const SMALLEST: u64 = 1 << 17;
const MOST: u64 = 1 << 25;
/// Rows of a table where there are many.
const FEW_ROWS: u32 = 1 << 11;
/// Rings of a free-threaded process, and of one where there are many.
pub(super) const OF_THREADS: u32 = MOST_RINGS;
const OF_FEW_THREADS: u32 = 8;
/// Further ones, for interpreters within the interpreter.
const WITHIN: u32 = MOST_RINGS - 1;
/// Words of a thread's ring through which only names come.
const NAMES: u64 = 1 << 15;
/// How long rings are left alone while events come, and while none do.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(20);
/// How often it is looked for what events cost.
const COSTS: Duration = Duration::from_millis(250);
/// How long it may take until a new ring is read.
const ADDED: Duration = Duration::from_secs(1);
/// How long what is in the rings at the end is read.
const LAST: Duration = Duration::from_secs(2);
/// Words that are read at once: what fits into a processor's cache, and the longest record.
const AT_ONCE: u64 = 1 << 16;
/// Words of one ring that are read before others have their turn.
const MOST_OF_A_ROUND: u64 = 1 << 18;
/// Events that are held for those of other processes.
const MOST_HELD: usize = 1 << 18;
/// Bytes of their fields.
const MOST_FIELDS: usize = 64 << 20;
/// Events that are passed on together: so few that their memory is had without asking the kernel for it.
const BATCH: usize = 1024;
/// An event has its time a little before it is in its ring. A host can take the processor away in between.
const SLACK_NS: u64 = 10_000_000;

/// A running session. Dropped, it takes everything away.
#[derive(Debug)]
pub(super) struct DirectRunning {
    messages: Receiver<Message>,
    rings: Arc<Rings>,
    ended: Receiver<()>,
    /// What an event costs, once, where events are told.
    cost: Option<Receiver<Option<Cost>>>,
}

/// What agents are to tell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Telling {
    /// Events as they happen.
    Events(Kinds),
    /// Calls of so many nanoseconds at least, which they measure, when such a call has ended.
    LongCalls(Kinds, u64),
    /// Nothing but the names of functions: they add up.
    Sums,
}

impl Telling {
    fn kinds(self) -> Kinds {
        match self {
            Telling::Events(kinds) | Telling::LongCalls(kinds, _) => kinds,
            Telling::Sums => Kinds::NONE,
        }
    }
}

/// What the reading thread is told.
enum Command {
    /// There are the rings of one more process; to be answered when they are read.
    Read(Vec<Ring>, Sender<()>),
    /// There is one more ring of a process.
    ReadMore(Vec<Ring>),
    /// Something is wanted of the sums.
    Wish(Wish),
    Stop,
}

impl DirectRunning {
    /// Starts it. Whether processes begin, become others and end is told where `tells_processes`.
    pub(super) fn start(
        beginning: &Beginning,
        telling: Telling,
        fields: Asked,
        tells_processes: bool,
    ) -> io::Result<DirectRunning> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (sender, messages) = unbounded();
        let (orders, commands) = unbounded();
        let (ended_sender, ended) = bounded(1);
        let (first_cost, cost) = bounded(1);
        let kind = clock::usual();
        let rings = Arc::new(Rings {
            orders,
            wake,
            clock: kind,
            telling,
            fields,
            rate: Rate::new(kind),
            words: Arc::default(),
            first_cost: first_cost.clone(),
        });
        let collector = Collector {
            clock: Clock::new(rings.clock),
            tables: matches!(telling, Telling::Sums).then(Tables::default),
            offset: crate::clock::epoch_offset(),
            rings: Vec::new(),
            names: Allowance::default(),
            order: ReorderBuffer::default(),
            known: beginning.targets.iter().copied().collect(),
            tells_processes,
            lineage: Arc::clone(&beginning.lineage),
            sender: EventSender::new(sender.clone()),
            first_cost,
            cost: CurrentCost::default(),
            costs_looked: Instant::now(),
            before: 0,
        };
        let _ = sender.send(Message::Live);
        let shared = Arc::clone(&rings);
        threads::spawn(move || {
            collector.run(&shared.wake, &commands);
            let _ = sender.send(Message::Ended { clean: true });
            let _ = ended_sender.send(());
        })?;
        Ok(DirectRunning {
            messages,
            rings,
            ended,
            cost: matches!(telling, Telling::Events(_)).then_some(cost),
        })
    }
}

impl Running for DirectRunning {
    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    /// Its agent asks for a ring.
    fn add_target(&mut self, _: u32) -> Result<(), AddTargetError> {
        Ok(())
    }

    fn children(&self) -> Option<Arc<dyn Children>> {
        Some(Arc::clone(&self.rings) as Arc<dyn Children>)
    }

    fn event_cost(&self) -> EventCost {
        let cost = self.cost.clone();
        cost.map_or(EventCost::Unknown, EventCost::Awaited)
    }

    fn silent_end(&self) -> &'static str {
        "nobody reads the rings of this session any longer, so tracing ended; try again, and report this if it stays"
    }

    fn wish(&mut self, wish: Wish) {
        self.rings.tell(Command::Wish(wish));
    }

    fn stop(&mut self) {
        self.rings.tell(Command::Stop);
    }
}

impl Drop for DirectRunning {
    fn drop(&mut self) {
        self.stop();
        let _ = self.ended.recv_timeout(Duration::from_secs(30));
    }
}

/// Makes rings for agents.
#[derive(Debug)]
struct Rings {
    orders: Sender<Command>,
    wake: OwnedFd,
    clock: protocol::Clock,
    telling: Telling,
    fields: Asked,
    /// How fast the agents' clock counts.
    rate: Rate,
    /// Words of all that there are, with those of tables.
    words: Arc<AtomicU64>,
    /// Who waits to hear what an event costs. What others say after the first one has no room.
    first_cost: Sender<Option<Cost>>,
}

impl Rings {
    fn tell(&self, command: Command) {
        let _ = self.orders.send(command);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Children for Rings {
    fn keep(&self, _: u32) {}

    fn ring(&self, process: Identity, free_threaded: bool) -> io::Result<Option<RingOffer>> {
        let (rings, mut offer) = self.offer(process, self.shape(free_threaded))?;
        offer.ring.more = if free_threaded { 0 } else { WITHIN };
        if free_threaded {
            // No agent measures it there.
            let _ = self.first_cost.try_send(None);
        }
        let (added, is_added) = bounded(1);
        self.tell(Command::Read(rings, added));
        // That it began, or became another program, is told before all that it tells.
        let _ = is_added.recv_timeout(ADDED);
        Ok(Some(offer))
    }

    fn ring_within(&self, process: Identity) -> io::Result<Option<RingOffer>> {
        let Some(shape) = self.shape_within() else {
            return Ok(None);
        };
        let (rings, offer) = self.offer(process, shape)?;
        self.tell(Command::ReadMore(rings));
        Ok(Some(offer))
    }
}

impl Rings {
    /// Rings of this shape, and what their writer has to know of them.
    fn offer(&self, process: Identity, shape: Shape) -> io::Result<(Vec<Ring>, RingOffer)> {
        let Shape { count, words, rows } = shape;
        let more = rows.and_then(sums::bytes).unwrap_or(0);
        // One for all: each is a measurement, and what two of them differ by grows with the age of the counter.
        let scale = rows.map(|_| self.rate.scale());
        let memory = new_memory_of_many(count, words, more)?;
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let handle = pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
        let handle = Arc::new(handle);
        let decoder = Decoder::new(process.pid, self.telling.kinds()).asking(self.fields.clone());
        // It waits for its rings, so it has not ended.
        let parent = parent_of(process.pid);
        let mut rings = Vec::new();
        for at in 0..u64::from(count) {
            let begin = at * distance(words, more);
            let reader = Reader::new(Mapping::at(&memory, begin, words)?);
            let mut table = None;
            if let Some((rows, scale)) = rows.zip(scale) {
                let reader = SumsReader::new(sums::Table::at(&memory, begin, words, rows)?);
                table = Some(Table::new(reader, self.clock, scale));
            }
            let taken = words + more / 8;
            self.words.fetch_add(taken, Ordering::Relaxed);
            rings.push(Ring {
                process,
                parent,
                reader,
                decoder: decoder.clone(),
                handle: Arc::clone(&handle),
                has_ended: false,
                table,
                elsewhere: [0; LOST_KINDS],
                unsummed: 0,
                looked: Instant::now(),
                state: State::Written,
                room: Room {
                    words: taken,
                    all: Arc::clone(&self.words),
                },
            });
        }
        let sums = rows.zip(scale).map(|(rows, scale)| protocol::Sums {
            rows,
            multiplier: scale.multiplier(),
        });
        let ring = protocol::Ring {
            count,
            words,
            clock: self.clock,
            sums,
            shortest: match self.telling {
                Telling::LongCalls(_, ns) => Some(self.rate.ticks(ns)),
                Telling::Events(_) | Telling::Sums => None,
            },
            more: 0,
        };
        Ok((rings, RingOffer { ring, memory }))
    }
}

/// The rings of one process: how many, words of the data of each, and rows of its table, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) count: u32,
    pub(super) words: u64,
    pub(super) rows: Option<u32>,
}

impl Rings {
    /// What the next interpreter within an interpreter gets; nothing when there is no room.
    fn shape_within(&self) -> Option<Shape> {
        let adds_up = matches!(self.telling, Telling::Sums);
        let has_room = self.words.load(Ordering::Relaxed) + SMALLEST <= MOST;
        has_room.then_some(Shape {
            count: 1,
            words: if adds_up { NAMES } else { SMALLEST },
            rows: adds_up.then_some(FEW_ROWS),
        })
    }

    /// What the next process gets.
    fn shape(&self, free_threaded: bool) -> Shape {
        let adds_up = matches!(self.telling, Telling::Sums);
        let of_threads = |count| Shape {
            count,
            words: if adds_up && free_threaded {
                NAMES
            } else {
                SMALLEST
            },
            rows: adds_up.then_some(FEW_ROWS),
        };
        let largest = match free_threaded {
            true => of_threads(OF_THREADS),
            false => Shape {
                count: 1,
                words: if adds_up { SMALLEST } else { LARGEST },
                rows: adds_up.then_some(MOST_ROWS),
            },
        };
        let needed = match free_threaded {
            true => u64::from(OF_THREADS) * SMALLEST,
            false => LARGEST,
        };
        match self.words.load(Ordering::Relaxed) + needed <= MOST {
            true => largest,
            false => of_threads(if free_threaded { OF_FEW_THREADS } else { 1 }),
        }
    }
}

/// What a ring has of the memory of a session.
#[derive(Debug)]
struct Room {
    words: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.words, Ordering::Relaxed);
    }
}

/// The ring of one process, or of threads of it that had it one after the other.
#[derive(Debug)]
struct Ring {
    process: Identity,
    parent: Option<u32>,
    reader: Reader,
    decoder: Decoder,
    /// Where its agent adds up.
    table: Option<Table>,
    /// The process.
    handle: Arc<OwnedFd>,
    /// Whether that has ended.
    has_ended: bool,
    /// What is known of losses that no record tells: of threads without a ring, and of the table. And since when.
    elsewhere: [u64; LOST_KINDS],
    unsummed: u64,
    looked: Instant,
    state: State,
    #[expect(dead_code, reason = "given back when the ring goes")]
    room: Room,
}

/// What is in a ring makes no sense.
struct Meaningless;

impl Ring {
    /// What its agent says of how long it takes over events.
    fn said(&self) -> Said {
        let (calm, told) = self.reader.handled();
        Said {
            calm,
            told,
            events: self.reader.most_records(),
        }
    }

    /// Reads what was there when it began, and passes it on as events.
    fn read(
        &mut self,
        words: &mut Vec<u64>,
        clock: (&Clock, u64),
        names: &mut Allowance,
        mut pass_on: impl FnMut(Vec<Event>),
        is_enough: impl Fn() -> bool,
    ) -> Result<u64, Meaningless> {
        if self.state == State::Broken {
            return Ok(0);
        }
        let waiting = self.reader.waiting().map_err(|_| Meaningless)?;
        let there = waiting.min(MOST_OF_A_ROUND);
        let mut left = there;
        while left > 0 && !is_enough() {
            words.clear();
            let read = self.reader.read(left.min(AT_ONCE), words);
            let count = read.map_err(|_| Meaningless)?;
            let mut records = Records::new(words);
            loop {
                let mut events = Vec::with_capacity(BATCH);
                let decoded = self.decoder.decode(&mut records, clock, names, &mut events);
                let is_full = events.len() == BATCH;
                if !events.is_empty() {
                    pass_on(events);
                }
                decoded.map_err(|_| Meaningless)?;
                if !is_full {
                    break;
                }
            }
            let whole = count - records.rest();
            self.reader.give_back(whole);
            let is_cut = records.rest() > 0;
            if is_cut && count as u64 == left {
                // Cut by the end of this round, it is whole in the next one. Nobody has written half a record.
                return match there < waiting {
                    true => Ok(there),
                    false => Err(Meaningless),
                };
            }
            left -= whole as u64;
        }
        Ok(there)
    }

    /// Whether there is something in it that was not read yet.
    fn is_unread(&self) -> bool {
        self.state != State::Broken && self.reader.waiting().is_ok_and(|waiting| waiting > 0)
    }

    /// Events that had no room since this was last asked and of which no record tells. `counted` were lost in the ring when
    /// everything had been written that was read since.
    fn newly_lost(&mut self, counted: u64) -> u64 {
        let lost = self.reader.lost_elsewhere();
        let known = std::mem::replace(&mut self.elsewhere, lost);
        let unsummed = self.table.as_ref().map_or(0, Table::lost);
        let not_summed = unsummed.saturating_sub(std::mem::replace(&mut self.unsummed, unsummed));
        let more = lost.iter().zip(known);
        let more = more.map(|(now, known)| now.saturating_sub(known));
        // What is lost while the ring is full is told by the record behind it; what was lost last, by its count alone.
        let last = match self.is_unread() {
            true => 0,
            false => self.decoder.newly_lost(counted),
        };
        let more = more.chain([not_summed]).fold(0, u64::saturating_add);
        let more = more.min(self.decoder.most_lost);
        self.decoder.most_lost -= more;
        more.saturating_add(last)
    }

    /// How many events have had no room in it so far.
    fn counted(&mut self) -> u64 {
        // As far as it can be true: nothing happens more than once per nanosecond.
        let since = std::mem::replace(&mut self.looked, Instant::now());
        let more = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.decoder.most_lost = self.decoder.most_lost.saturating_add(more);
        self.reader.lost().into_iter().fold(0, u64::wrapping_add)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its process may write.
    Written,
    /// It has another ring: what is there is all.
    Left,
    /// It makes no sense.
    Broken,
}

/// The thread that reads the rings.
struct Collector {
    clock: Clock,
    /// What the agents' clock is behind the Unix epoch.
    offset: u64,
    /// What agents have added up, where they do.
    tables: Option<Tables>,
    rings: Vec<Ring>,
    names: Allowance,
    order: ReorderBuffer,
    /// Processes of which it is known that they belong to the session.
    known: HashSet<u32>,
    /// Whether it is told what becomes of processes.
    tells_processes: bool,
    lineage: Arc<Lineage>,
    sender: EventSender,
    /// As [`Rings::first_cost`].
    first_cost: Sender<Option<Cost>>,
    /// What events cost as programs run, and when it was last looked for.
    cost: CurrentCost,
    costs_looked: Instant,
    /// Up to when everything had been written at the last round.
    before: u64,
}

impl Collector {
    fn run(mut self, wake: &OwnedFd, commands: &Receiver<Command>) {
        let mut words = Vec::new();
        loop {
            let mut stops = false;
            loop {
                match commands.try_recv() {
                    Ok(Command::Read(rings, added)) => {
                        self.add(rings);
                        let _ = added.send(());
                    }
                    Ok(Command::ReadMore(rings)) => self.rings.extend(rings),
                    Ok(Command::Wish(Wish::Sums)) => self.tell_sums(&mut words, false),
                    Ok(Command::Wish(Wish::LastSums)) => self.tell_sums(&mut words, true),
                    Ok(Command::Wish(Wish::Anew)) => self.begin_anew(),
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                        stops = true;
                        break;
                    }
                    Err(TryRecvError::Empty) => break,
                }
            }
            if stops {
                break;
            }
            let is_busy = self.round(&mut words);
            self.wait(wake, if is_busy { BUSY } else { IDLE });
        }
        // Agents are silent by now; one that is not has had its time.
        let end = Instant::now() + LAST;
        self.clock.advance();
        while self.collect(&mut words) && Instant::now() < end {
            if self.sender.is_full() {
                std::thread::sleep(BUSY);
            }
            self.give(self.before.saturating_add(self.offset));
            self.clock.advance();
        }
        self.tell_sums(&mut words, false);
        self.tell_cost();
        self.give(u64::MAX);
        // Of those that did not come to be read.
        for ring in &mut self.rings {
            let counted = ring.counted();
            let lost = ring.decoder.newly_lost(counted);
            if lost > 0 {
                self.sender.say(Message::Lost(LossStage::Ring, lost));
            }
        }
    }

    /// Tells what agents have added up until now; what processes have left that ended for the last time, where it is to be
    /// forgotten.
    fn tell_sums(&mut self, words: &mut Vec<u64>, forgets: bool) {
        if self.tables.is_none() {
            return;
        }
        for ring in &mut self.rings {
            if let Some(table) = &mut ring.table {
                table.look();
            }
        }
        // The names of all functions that have a row by now.
        self.collect(words);
        let now = self.clock.now();
        let Some(tables) = &mut self.tables else {
            return;
        };
        let running = (self.rings.iter())
            .filter_map(|ring| Some((ring.process.pid, ring.table.as_ref()?, &ring.decoder)));
        let mut rows = tables.rows(running, now);
        if forgets {
            rows.left = tables.forget(|pid| self.rings.iter().any(|ring| ring.process.pid == pid));
        }
        let nameless = std::mem::take(&mut tables.nameless);
        if nameless > 0 {
            self.sender.say(Message::Unparsed(nameless));
        }
        self.sender.say(Message::Rows(Box::new(rows)));
    }

    /// All sums are 0 from now on.
    fn begin_anew(&mut self) {
        let now = self.clock.now();
        if let Some(tables) = &mut self.tables {
            let running = self.rings.iter_mut();
            let rows = tables.begin_anew(running.filter_map(|ring| ring.table.as_mut()), now);
            self.sender.say(Message::Rows(Box::new(rows)));
        }
    }

    /// Reads all rings once. Whether there was something in them.
    fn round(&mut self, words: &mut Vec<u64>) -> bool {
        // What waits in a ring is counted there once it is too much, and takes no memory of ours.
        if self.sender.is_full() {
            return true;
        }
        // What happened before this moment is in the rings at the next round.
        let now = self.clock.advance();
        let is_busy = self.collect(words);
        let unread = self.rings.iter().filter(|ring| ring.is_unread());
        let unread = unread.map(|ring| ring.decoder.reached()).min();
        let until = self.before.saturating_add(self.offset);
        self.give(until.min(unread.unwrap_or(u64::MAX)));
        self.before = now.saturating_sub(SLACK_NS);
        if self.costs_looked.elapsed() >= COSTS {
            self.costs_looked = Instant::now();
            self.tell_cost();
        }
        is_busy
    }

    /// Tells what events have cost so far, if that is news.
    fn tell_cost(&mut self) {
        let running = self.rings.iter().map(Ring::said);
        if let Some(cost) = self.cost.news(running) {
            self.sender.say(Message::EventCost(cost));
        }
    }

    /// A process begins to tell. What it told before, as another program, is in rings of their own.
    fn add(&mut self, rings: Vec<Ring>) {
        let Some((process, parent)) = rings.first().map(|it| (it.process, it.parent)) else {
            return;
        };
        let pid = process.pid;
        let before = self.rings.iter_mut().filter(|it| it.process.pid == pid);
        let mut change = None;
        for other in before {
            if other.process == process {
                change = Some(ProcessChange::Exec);
            }
            other.state = State::Left;
        }
        let is_new = self.known.insert(pid);
        if let Some(change) = change.or(is_new.then_some(ProcessChange::Fork)) {
            self.tell_of(pid, change, parent);
        }
        if rings.len() > 1 {
            // A free-threaded build.
            self.cost.is_partial();
        }
        self.rings.extend(rings);
    }

    fn tell_of(&mut self, pid: u32, change: ProcessChange, parent: Option<u32>) {
        if !self.tells_processes {
            return;
        }
        let what = What::Process {
            change,
            parent: parent.filter(|_| change == ProcessChange::Fork),
            command: None,
        };
        let ts = self.clock.now().saturating_add(self.offset);
        self.order.take([Event {
            ts,
            pid,
            tid: pid,
            interpreter: None,
            what,
        }]);
    }

    /// Reads what is in the rings. Whether there was something.
    fn collect(&mut self, words: &mut Vec<u64>) -> bool {
        // The events of one ring are in order already.
        let is_alone = self.rings.len() == 1 && self.order.waiting() == 0;
        let mut taken = 0;
        // The one that is read least far goes first, so that what others have told need not be held for long.
        self.rings.sort_by_key(|ring| ring.decoder.reached());
        for ring in &mut self.rings {
            let holds_too_much =
                self.order.waiting() > MOST_HELD || self.order.field_bytes() > MOST_FIELDS;
            if holds_too_much || self.sender.is_full() {
                break;
            }
            let counted = ring.counted();
            let clock = (&self.clock, self.offset);
            let sender = &self.sender;
            let pass_on = |events| match is_alone {
                true => self.sender.events(events),
                false => self.order.take(events),
            };
            match ring.read(words, clock, &mut self.names, pass_on, || sender.is_full()) {
                Ok(count) => taken += count,
                Err(Meaningless) => {
                    ring.state = State::Broken;
                    let sentence = format!(
                        "process {} has written into the memory that its events come through, so what it tells from now on is not believed and left out; its other events stand",
                        ring.process.pid
                    );
                    self.sender.say(Message::Said(Weight::Warning, sentence));
                    self.sender.say(Message::Lost(LossStage::Ring, 0));
                }
            }
            if let Some(cost) = ring.decoder.cost.take() {
                if let Some(cost) = cost {
                    self.cost.in_calm(cost);
                }
                let _ = self.first_cost.try_send(cost);
            }
            let unreadable = std::mem::take(&mut ring.decoder.unreadable);
            if unreadable > 0 {
                self.sender.say(Message::Unparsed(unreadable));
            }
            let lost = ring.newly_lost(counted);
            if lost > 0 {
                self.sender.say(Message::Lost(LossStage::Ring, lost));
            }
        }
        self.let_go();
        taken > 0
    }

    /// Forgets the rings of processes that have ended.
    fn let_go(&mut self) {
        let is_left =
            |ring: &mut Ring| (ring.has_ended || ring.state == State::Left) && !ring.is_unread();
        let gone: Vec<Ring> = self.rings.extract_if(.., is_left).collect();
        for mut ring in gone {
            let pid = ring.process.pid;
            self.cost.ended(ring.said());
            if let (Some(tables), Some(table)) = (&mut self.tables, &mut ring.table) {
                table.look();
                tables.leave(pid, (table, &ring.decoder), self.clock.now());
            }
            if !self.rings.iter().any(|other| other.process.pid == pid) {
                self.known.remove(&pid);
                self.lineage.ended(pid);
                self.tell_of(pid, ProcessChange::Exit, None);
            }
        }
    }

    /// Gives out what happened until this time.
    fn give(&mut self, until: u64) {
        let events = self.order.give(until);
        let late = self.order.take_late();
        if late > 0 {
            self.sender.say(Message::Late(late));
        }
        self.sender.events(events);
    }

    /// Waits, and learns whose process has ended.
    fn wait(&mut self, wake: &OwnedFd, time: Duration) {
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut files = vec![PollFd::new(wake, PollFlags::IN)];
        // Who has ended once is ready for ever.
        let mut running: Vec<&mut Ring> = (self.rings.iter_mut())
            .filter(|ring| !ring.has_ended)
            .collect();
        let handles = running.iter().map(|ring| &ring.handle);
        files.extend(handles.map(|handle| PollFd::new(handle, PollFlags::IN)));
        let _ = poll(&mut files, Some(&time));
        let has_ended: Vec<bool> = (files.iter().skip(1))
            .map(|file| !file.revents().is_empty())
            .collect();
        drop(files);
        for (ring, has_ended) in running.iter_mut().zip(has_ended) {
            ring.has_ended = has_ended;
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(wake, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use pystap_ring::sums::Scale;
    use pystap_ring::{CALL, THREAD, Writer, head};

    use super::*;
    use crate::engine::Rows;
    use crate::probe::Probe;

    /// A session without fields, which has this process alone.
    fn started(beginning: &Beginning, telling: Telling) -> DirectRunning {
        DirectRunning::start(beginning, telling, Asked::default(), true).expect("it starts")
    }

    /// A session, and the memory that it offers to the agent of this process.
    fn session() -> (DirectRunning, Mapping) {
        let beginning = Beginning {
            targets: vec![std::process::id()],
            ..Beginning::default()
        };
        let kinds = Kinds::of(&Probe::names(Probe::FUNCTIONS));
        let running = started(&beginning, Telling::Events(kinds));
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let children = running.children().expect("it makes rings");
        let offer = children
            .ring(ourselves, false)
            .expect("made")
            .expect("offered");
        let mapping = Mapping::new(&offer.memory, offer.ring.words).expect("mapped");
        (running, mapping)
    }

    /// What it says until it has ended.
    fn said(mut running: DirectRunning) -> (Vec<Event>, Vec<Message>) {
        running.stop();
        let (mut events, mut others) = (Vec::new(), Vec::new());
        loop {
            let within = Duration::from_secs(30);
            match running.messages().recv_timeout(within).expect("it ends") {
                Message::Events(mut batch) => events.extend_from_slice(batch.events()),
                Message::Ended { clean } => {
                    assert!(clean);
                    return (events, others);
                }
                other => others.push(other),
            }
        }
    }

    #[test]
    fn all_that_is_in_a_ring_when_a_session_ends_is_told() {
        let (running, mapping) = session();
        let mut writer = Writer::new(mapping);
        assert!(writer.define(&pystap_ring::Code {
            number: 1,
            flags: 0,
            first_line: 1,
            file: b"app.py",
            name: b"f",
            qualname: b"f",
        }));
        for time in 0..100_000 {
            assert!(writer.put([head(CALL, 0, 1, 1), time]));
        }
        let (events, others) = said(running);
        assert_eq!(events.len(), 100_000);
        assert!(matches!(&others[..], [Message::Live]), "{others:?}");
    }

    #[test]
    fn a_ring_that_makes_no_sense_is_left_alone_and_that_is_said_once() {
        let (running, mapping) = session();
        // No record begins like that.
        let mut writer = Writer::new(mapping);
        assert!(writer.put([0, 0]));
        let (events, others) = said(running);
        assert_eq!(events, []);
        let warnings = others.iter().filter(|it| matches!(it, Message::Said(..)));
        assert_eq!(warnings.count(), 1, "{others:?}");
        let lost = |it: &Message| matches!(it, Message::Lost(LossStage::Ring, 0));
        assert!(others.iter().any(lost), "{others:?}");
    }

    #[test]
    fn a_ring_that_makes_no_sense_goes_with_its_process() {
        let beginning = Beginning::default();
        let kinds = Kinds::of(&Probe::names(Probe::FUNCTIONS));
        let running = started(&beginning, Telling::Events(kinds));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("it starts");
        let process = Identity::of(child.id()).expect("it runs");
        let children = running.children().expect("it makes rings");
        let offer = children
            .ring(process, false)
            .expect("made")
            .expect("offered");
        let mapping = Mapping::new(&offer.memory, offer.ring.words).expect("mapped");
        assert!(Writer::new(mapping).put([u64::MAX, 0]));
        child.kill().expect("ours");
        child.wait().expect("it ends");
        let is_exit = |event: &Event| {
            let change = ProcessChange::Exit;
            matches!(event.what, What::Process { change: it, .. } if it == change)
        };
        let within = Duration::from_secs(30);
        loop {
            let message = running.messages().recv_timeout(within).expect("its end");
            if let Message::Events(mut batch) = message
                && batch.events().iter().any(is_exit)
            {
                break;
            }
        }
        assert_eq!(
            running.rings.words.load(Ordering::Relaxed),
            0,
            "its room is free"
        );
    }

    #[test]
    fn where_there_are_many_rings_they_are_small_and_their_room_is_given_back() {
        let (running, _) = session();
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let children = running.children().expect("it makes rings");
        let words = || {
            children
                .ring(ourselves, false)
                .expect("made")
                .expect("offered")
                .ring
                .words
        };
        let largest = (0..MOST / LARGEST - 1).all(|_| words() == LARGEST);
        assert!(largest);
        // Those before have been replaced and are let go at the next round.
        let end = Instant::now() + Duration::from_secs(30);
        while words() == SMALLEST {
            assert!(Instant::now() < end);
        }
    }

    #[test]
    fn threads_of_a_process_tell_through_rings_of_their_own_and_in_the_order_of_their_times() {
        let (running, _) = session();
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let children = running.children().expect("it makes rings");
        let offer = children
            .ring(ourselves, true)
            .expect("made")
            .expect("offered");
        let protocol::Ring { count, words, .. } = offer.ring;
        assert_eq!((count, words), (OF_THREADS, SMALLEST));
        // Each has half of the times, and a function that has the same number in both.
        for (at, name) in [(0, "f"), (63, "g")] {
            let begin = at * distance(words, 0);
            let mapping = Mapping::at(&offer.memory, begin, words).expect("mapped");
            let mut writer = Writer::new(mapping);
            assert!(writer.put([head(THREAD, 0, 0, 100 + at as u32), 0]));
            assert!(writer.define(&pystap_ring::Code {
                number: 1,
                flags: 0,
                first_line: 1,
                file: b"app.py",
                name: name.as_bytes(),
                qualname: name.as_bytes(),
            }));
            for time in 0..1000 {
                assert!(writer.put([head(CALL, 0, 1, 1), 2 * time + at % 2]));
            }
        }
        let (events, _) = said(running);
        let calls: Vec<(u32, String)> = (events.iter())
            .filter_map(|event| match &event.what {
                What::Call { place, .. } => Some((event.tid, place.name().text.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(calls.len(), 2000);
        assert!(events.is_sorted_by_key(|event| event.ts));
        let of = |tid: u32, name: &str| {
            calls
                .iter()
                .filter(|it| **it == (tid, name.to_owned()))
                .count()
        };
        assert_eq!((of(100, "f"), of(163, "g")), (1000, 1000));
    }

    #[test]
    fn a_table_is_read_by_the_same_clock_by_which_it_is_written() {
        let beginning = Beginning::default();
        let running = started(&beginning, Telling::Sums);
        let ourselves = Identity::of(std::process::id()).expect("we run");
        for free_threaded in [false, true] {
            let shape = running.rings.shape(free_threaded);
            let (rings, offer) = running.rings.offer(ourselves, shape).expect("made");
            let sums = offer.ring.sums.expect("tables");
            let writer = Scale::of_multiplier(sums.multiplier);
            let writers_now = || writer.nanoseconds(clock::time(offer.ring.clock));
            for ring in &rings {
                let table = ring.table.as_ref().expect("one for each");
                let before = writers_now();
                let now = table.now();
                assert!((before..=writers_now()).contains(&now), "{before} {now}");
            }
        }
    }

    #[test]
    fn of_a_free_threaded_process_all_rings_are_bounded_and_go_with_it() {
        let (running, _) = session();
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let children = running.children().expect("it makes rings");
        let count = || {
            let offer = children.ring(ourselves, true).expect("made");
            offer.expect("offered").ring.count
        };
        let fits = (MOST - LARGEST) / (u64::from(OF_THREADS) * SMALLEST);
        assert!((0..fits).all(|_| count() == OF_THREADS));
        // Those before have been replaced and are let go at the next round.
        let end = Instant::now() + Duration::from_secs(30);
        while count() != OF_THREADS {
            assert!(Instant::now() < end);
        }
    }

    #[test]
    fn interpreters_within_a_process_have_rings_beside_its_own_while_there_is_room() {
        let (running, _) = session();
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let children = running.children().expect("it makes rings");
        let more = |what: io::Result<Option<RingOffer>>| what.expect("made");
        let main = more(children.ring(ourselves, false)).expect("offered");
        assert_eq!(main.ring.more, WITHIN);
        let within = more(children.ring_within(ourselves)).expect("offered");
        assert_eq!((within.ring.count, within.ring.words), (1, SMALLEST));
        for (offer, thread) in [(&main, 7), (&within, 8)] {
            let mapping = Mapping::new(&offer.memory, offer.ring.words).expect("mapped");
            let mut writer = Writer::new(mapping);
            assert!(writer.put([head(THREAD, 0, 0, thread), 0]));
            assert!(writer.put([head(pystap_ring::GC_START, 0, 0, 0), 5]));
        }
        let mut others = (0..MOST / SMALLEST).map(|_| children.ring_within(ourselves));
        assert!(
            others.any(|offer| more(offer).is_none()),
            "there is a bound"
        );
        let (events, _) = said(running);
        let collects = |event: &&Event| matches!(event.what, What::GcStart { .. });
        let mut told: Vec<u32> = events.iter().filter(collects).map(|it| it.tid).collect();
        told.sort_unstable();
        assert_eq!(told, [7, 8]);
    }

    /// A session of sums, and what the agents of these processes are offered.
    fn adding_up(processes: &[Identity]) -> (DirectRunning, Vec<(Writer, sums::Sums)>) {
        let beginning = Beginning::default();
        let running = started(&beginning, Telling::Sums);
        let children = running.children().expect("it makes rings");
        let offered = processes.iter().map(|process| {
            let offer = children
                .ring(*process, false)
                .expect("made")
                .expect("offered");
            let (words, rows) = (offer.ring.words, offer.ring.sums.expect("a table").rows);
            let ring = Mapping::new(&offer.memory, words).expect("mapped");
            let table = sums::Table::new(&offer.memory, words, rows).expect("mapped");
            (Writer::new(ring), sums::Sums::new(table).expect("memory"))
        });
        let offered = offered.collect();
        (running, offered)
    }

    /// A function of this name and first line is called so often, each time for ten nanoseconds.
    fn calls((writer, sums): &mut (Writer, sums::Sums), (name, line): (&str, u32), count: u64) {
        let row = sums.next_row().expect("there is room");
        assert!(writer.define(&pystap_ring::Code {
            number: row,
            flags: 0,
            first_line: line,
            file: b"app.py",
            name: name.as_bytes(),
            qualname: name.as_bytes(),
        }));
        sums.take_row(1);
        let place = pystap_ring::Place {
            thread: 1,
            context: 0,
        };
        let call = sums::Call {
            function: row as usize,
            row,
            was_running: false,
        };
        for at in 0..count {
            sums.entered(place, call, 100 * at);
            assert!(sums.left(place, row as usize, 100 * at + 10));
        }
    }

    /// The next rows that are told: each function's name, line, calls and time.
    fn rows(running: &DirectRunning) -> (bool, Vec<(String, i32, u64, u64)>) {
        let within = Duration::from_secs(30);
        loop {
            let message = running.messages().recv_timeout(within).expect("rows");
            if let Message::Rows(rows) = message {
                let functions = rows.rows.iter().filter_map(|row| match &row.about {
                    crate::analysis::totals::About::Function(place) => {
                        let name = place.name().text.clone();
                        Some((name, row.line, row.calls, row.self_ns))
                    }
                    _ => None,
                });
                let mut functions: Vec<_> = functions.collect();
                functions.sort();
                return (rows.anew, functions);
            }
        }
    }

    fn function(name: &str, line: i32, calls: u64) -> (String, i32, u64, u64) {
        (name.to_owned(), line, calls, 10 * calls)
    }

    #[test]
    fn what_agents_have_added_up_is_told_when_it_is_wished_for_and_at_the_end() {
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let (mut running, mut agents) = adding_up(&[ourselves]);
        let [agent] = &mut agents[..] else {
            panic!("one");
        };
        running.wish(Wish::Sums);
        assert_eq!(rows(&running), (false, Vec::new()));
        calls(agent, ("f", 3), 5);
        // Another function of that name, and the first one once more, as another code object.
        calls(agent, ("f", 9), 2);
        calls(agent, ("f", 3), 1);
        running.wish(Wish::Sums);
        let expected = vec![function("f", 3, 6), function("f", 9, 2)];
        assert_eq!(rows(&running), (false, expected));
        running.wish(Wish::Anew);
        assert_eq!(rows(&running), (true, Vec::new()));
        calls(agent, ("g", 1), 4);
        running.stop();
        assert_eq!(rows(&running), (false, vec![function("g", 1, 4)]));
    }

    #[test]
    fn a_process_that_becomes_another_program_keeps_its_sums_and_begins_others() {
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let (mut running, mut agents) = adding_up(&[ourselves, ourselves]);
        calls(&mut agents[1], ("f", 3), 5);
        running.wish(Wish::Sums);
        assert_eq!(rows(&running), (false, vec![function("f", 3, 5)]));
        let children = running.children().expect("it makes rings");
        let third = children
            .ring(ourselves, false)
            .expect("made")
            .expect("offered");
        running.wish(Wish::Sums);
        assert_eq!(rows(&running), (false, vec![function("f", 3, 5)]));
        let (words, count) = (third.ring.words, third.ring.sums.expect("a table").rows);
        let table = sums::Table::new(&third.memory, words, count).expect("mapped");
        let ring = Mapping::new(&third.memory, words).expect("mapped");
        let sums = sums::Sums::new(table).expect("memory");
        calls(&mut (Writer::new(ring), sums), ("f", 3), 2);
        running.wish(Wish::Sums);
        assert_eq!(rows(&running), (false, vec![function("f", 3, 7)]));
    }

    #[test]
    fn of_a_process_that_is_forgotten_no_name_is_kept() {
        let ourselves = Identity::of(std::process::id()).expect("we run");
        let mut worker = std::process::Command::new("cat");
        let worker = worker.stdin(std::process::Stdio::piped());
        let mut worker = worker.spawn().expect("it starts");
        let its = Identity::of(worker.id()).expect("it runs");
        let (mut running, mut agents) = adding_up(&[ourselves, its]);
        calls(&mut agents[0], ("f", 3), 5);
        calls(&mut agents[1], ("f", 3), 7);
        running.wish(Wish::LastSums);
        let within = Duration::from_secs(30);
        let rows = |running: &DirectRunning| loop {
            let message = running.messages().recv_timeout(within).expect("rows");
            if let Message::Rows(rows) = message {
                return rows;
            }
        };
        let name_of = |rows: &Rows, pid: u32| {
            let mut rows = rows.rows.iter();
            rows.find_map(|row| match &row.about {
                crate::analysis::totals::About::Function(place) if row.pid == pid => {
                    Some(Arc::downgrade(place))
                }
                _ => None,
            })
        };
        let told = rows(&running);
        let of_worker = name_of(&told, its.pid).expect("it called");
        let own = name_of(&told, ourselves.pid).expect("we called");
        drop(told);
        assert!(of_worker.strong_count() > 0);
        drop(worker.stdin.take());
        worker.wait().expect("it ends");
        let end = Instant::now() + within;
        loop {
            running.wish(Wish::LastSums);
            if rows(&running).left.contains(&its.pid) {
                break;
            }
            assert!(Instant::now() < end, "it is not forgotten");
        }
        assert_eq!(of_worker.strong_count(), 0);
        assert!(own.strong_count() > 0, "a process that runs keeps its own");
    }
}
