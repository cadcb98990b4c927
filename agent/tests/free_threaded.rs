//! Threads that run at the same time, in a build without the interpreter's lock: each tells through a ring of its own what it
//! does, the program itself says what that was, and nothing of it is lost or another thread's.

use std::collections::{BTreeMap, BTreeSet};

use pystap_agent_protocol::{Clock, FromAgent, Kind, Ring, Start, Sums, ToAgent};
use pystap_ring::sums::{FIRST, NO_ROOM, Scale, SumsReader, Table, bytes};
use pystap_ring::{MOST_RINGS, Mapping, Reader, Record, Records, distance, new_memory_of_many};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::json;

use crate::interpreters;
use crate::program::{Program, Pystap, functions, until};

/// Words of a ring in which everything has room, and rows of such a table.
const LARGE: u64 = 1 << 16;
const ROWS: u32 = 512;

/// Rings as pystap has them.
struct Ours {
    count: u32,
    memory: OwnedFd,
    readers: Vec<Reader>,
    sums: Option<Sums>,
    /// Where only calls of so many nanoseconds are wanted.
    shortest: Option<u64>,
}

impl Ours {
    fn new(count: u32) -> Ours {
        Ours::with(count, None)
    }

    /// The same with a table behind each.
    fn with_sums(count: u32) -> Ours {
        let sums = Sums {
            rows: ROWS,
            multiplier: Scale::NANOSECONDS.multiplier(),
        };
        Ours::with(count, Some(sums))
    }

    fn with(count: u32, sums: Option<Sums>) -> Ours {
        let memory = new_memory_of_many(count, LARGE, more(sums)).expect("memory");
        let reader =
            |at| Reader::new(Mapping::at(&memory, begin(at, sums), LARGE).expect("mapped"));
        Ours {
            readers: (0..count).map(reader).collect(),
            count,
            memory,
            sums,
            shortest: None,
        }
    }

    /// Starts a session that tells through them.
    fn start(&self, pystap: &Pystap, start: Start) {
        let start = Start {
            ring: Some(Ring {
                count: self.count,
                words: LARGE,
                clock: Clock::Monotonic,
                sums: self.sums,
                shortest: self.shortest,
                more: 0,
            }),
            ..start
        };
        let answer = pystap.ask_with(&ToAgent::Start(start), &[self.memory.as_fd()]);
        assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
    }

    /// What is in them.
    fn read(&mut self) -> Told {
        let mut told = Told::default();
        for reader in &mut self.readers {
            let mut words = Vec::new();
            let count = reader.read(u64::MAX, &mut words).expect("sound");
            reader.give_back(count);
            let all = reader.lost().into_iter().chain(reader.lost_elsewhere());
            let lost: u64 = all.sum();
            told.lost += lost;
            told.rings += u32::from(count > 0);
            told.take(&words, lost == 0);
        }
        told
    }

    /// How many words wait in them, which stay there: what is read in two parts has its names in the first one.
    fn words(&self) -> usize {
        let waiting = self.readers.iter().map(|reader| {
            let mut words = Vec::new();
            reader.read(u64::MAX, &mut words).expect("sound");
            words.len()
        });
        waiting.sum()
    }

    /// Calls by name, as the tables have them.
    fn summed(&self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        for (at, reader) in (0..).zip(&self.readers) {
            let mut words = Vec::new();
            reader.read(u64::MAX, &mut words).expect("sound");
            let mut names = BTreeMap::new();
            let mut records = Records::new(&words);
            while let Some(record) = records.next_record().expect("well formed") {
                if let Record::Code(code) = record {
                    names.insert(code.number, text(code.qualname));
                }
            }
            let table = Table::at(&self.memory, begin(at, self.sums), LARGE, ROWS);
            let table = SumsReader::new(table.expect("mapped"));
            assert_eq!((table.lost(), table.unpaired()), (0, 0));
            let unnamed = table.row(NO_ROOM, 0).expect("still");
            assert_eq!(unnamed.calls, 0);
            for number in FIRST..table.end() {
                let row = table.row(number, 0).expect("still");
                let name = names.get(&number).expect("told").clone();
                *calls.entry(name).or_default() += row.calls;
            }
        }
        calls
    }
}

fn more(sums: Option<Sums>) -> u64 {
    sums.map_or(0, |sums| bytes(sums.rows).expect("a table"))
}

fn begin(at: u32, sums: Option<Sums>) -> u64 {
    u64::from(at) * distance(LARGE, more(sums))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What rings have told.
#[derive(Debug, Default)]
struct Told {
    /// Calls by thread and name.
    calls: BTreeMap<(u32, String), u64>,
    events: u64,
    /// Contexts by name, with the threads on which something happened in each.
    contexts: BTreeMap<String, BTreeSet<u32>>,
    collections: u64,
    lost: u64,
    /// Rings in which there was something.
    rings: u32,
}

impl Told {
    /// Takes what one ring has told: times never go back in it, no number stands for two things, and of every thread that had
    /// it, each return is of its last call, unless some of them had no room.
    fn take(&mut self, words: &[u64], is_whole: bool) {
        let mut records = Records::new(words);
        let (mut thread, mut context, mut last) = (0, 0, 0);
        let mut names = BTreeMap::new();
        let mut contexts = BTreeMap::new();
        let mut stacks: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        while let Some(record) = records.next_record().expect("well formed") {
            let time = match record {
                Record::Code(code) => {
                    assert_eq!(names.insert(code.number, text(code.qualname)), None);
                    continue;
                }
                Record::Lost(count) => panic!("{count} had no room"),
                Record::Gone(code) => {
                    assert!(names.remove(&code).is_some(), "it was defined");
                    continue;
                }
                Record::Thread(number) => {
                    thread = number;
                    continue;
                }
                Record::Context(number) => {
                    context = number;
                    continue;
                }
                Record::ContextName { context, name, .. } => {
                    contexts.insert(context, text(name));
                    continue;
                }
                Record::Value(_) | Record::Fields(_) | Record::Interpreter(_) => {
                    continue;
                }
                Record::DryRun { .. } | Record::DryRunEnds => {
                    panic!("nobody measures what events cost here")
                }
                Record::Call { code, time, .. } => {
                    let name = names.get(&code).expect("it was defined").clone();
                    if let Some(name) = contexts.get(&context) {
                        let threads = self.contexts.entry(name.clone()).or_default();
                        threads.insert(thread);
                    }
                    *self.calls.entry((thread, name)).or_default() += 1;
                    stacks.entry(thread).or_default().push(code);
                    self.events += 1;
                    time
                }
                // Stands for both.
                Record::Timed {
                    code, time, began, ..
                } => {
                    assert!(0 < began && began <= time);
                    let name = names.get(&code).expect("it was defined").clone();
                    *self.calls.entry((thread, name)).or_default() += 1;
                    self.events += 2;
                    time
                }
                Record::Return { code, time, .. } => {
                    let stack = stacks.entry(thread).or_default();
                    let last = stack.pop();
                    assert!(
                        !is_whole || last == Some(code),
                        "{thread}: {last:?}, {code}: {names:?}"
                    );
                    self.events += 1;
                    time
                }
                Record::GcStart { time, .. } => time,
                Record::GcDone { time, .. } => {
                    self.collections += 1;
                    time
                }
            };
            assert!(thread != 0 && last <= time, "times never go back");
            last = time;
        }
    }

    /// Calls of one name, by thread.
    fn of(&self, name: &str) -> BTreeMap<u32, u64> {
        let calls = self.calls.iter().filter(|((_, it), _)| it == name);
        calls
            .map(|((thread, _), count)| (*thread, *count))
            .collect()
    }
}

/// Work of a known size for threads that begin together: `run(threads, calls)` gives the calls of `leaf` by thread.
const WORK: &str = "
import asyncio, gc, sys, threading
def leaf(number): return number
def failing(number):
    if number % 3 == 0: raise ValueError
def suspended(number):
    for step in range(3): yield step
def body(calls, barrier, done):
    barrier.wait()
    for number in range(calls):
        leaf(number)
        if number % 16 == 0:
            list(suspended(number))
            try: failing(number)
            except ValueError: pass
    done[threading.get_native_id()] = calls
    barrier.wait()
def run(count, calls):
    barrier, done = threading.Barrier(count), {}
    threads = [threading.Thread(target=body, args=(calls + at, barrier, done)) for at in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return done
assert not sys._is_gil_enabled(), 'the agent has brought the lock back'
";

/// The same as a program has said it.
fn said(calls: &serde_json::Value) -> BTreeMap<u32, u64> {
    let calls = calls.as_object().expect("by thread").iter();
    calls
        .map(|(thread, count)| {
            (
                thread.parse().expect("a number"),
                count.as_u64().expect("a number"),
            )
        })
        .collect()
}

#[test]
fn threads_that_run_at_the_same_time_tell_each_what_it_does() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        assert!(pystap.hello.free_threaded);
        program.run(WORK);
        for _ in 0..5 {
            let mut rings = Ours::new(MOST_RINGS);
            rings.start(&pystap, functions("workload.py"));
            let calls = program.run("result = run(8, 5000)");
            let stopped = pystap.stop();
            let told = rings.read();
            assert_eq!(told.of("leaf"), said(&calls));
            assert_eq!((told.lost, stopped.dropped), (0, 0));
            assert_eq!(told.events, stopped.entries + stopped.returns);
            assert_eq!(stopped.entries, stopped.returns);
            assert!(
                told.rings >= 9,
                "one for each and the main one: {}",
                told.rings
            );
        }
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn threads_that_find_no_ring_are_counted_and_those_that_come_later_find_one() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(WORK);
        let mut rings = Ours::new(4);
        rings.start(&pystap, functions("workload.py"));
        let calls = program.run("result = run(10, 2000)");
        let stopped = pystap.stop();
        let told = rings.read();
        // The main thread has one of the four.
        let (said, leaves) = (said(&calls), told.of("leaf"));
        assert_eq!(leaves.len(), 3, "{leaves:?}");
        assert!(leaves.iter().all(|(thread, count)| said[thread] == *count));
        assert_eq!(told.lost, stopped.dropped);
        let unseen: u64 = said
            .iter()
            .filter(|(thread, _)| !leaves.contains_key(thread))
            .map(|(_, calls)| calls)
            .sum();
        assert!(
            told.lost > 2 * unseen,
            "calls and returns of leaf, and others: {} of {unseen}",
            told.lost
        );

        let mut rings = Ours::new(4);
        rings.start(&pystap, functions("workload.py"));
        let calls = program.run("result = {}\nfor _ in range(100): result.update(run(2, 10))");
        pystap.stop();
        let told = rings.read();
        assert_eq!(told.lost, 0);
        // The kernel may use numbers of threads again.
        assert_eq!(
            told.of("leaf").into_keys().collect::<Vec<_>>(),
            self::said(&calls).into_keys().collect::<Vec<_>>()
        );
        assert_eq!(told.of("leaf").into_values().sum::<u64>(), 100 * 21);
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn calls_are_added_up_by_each_thread_and_come_to_what_the_program_says() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(WORK);
        for _ in 0..3 {
            let rings = Ours::with_sums(MOST_RINGS);
            rings.start(&pystap, functions("workload.py"));
            let calls = program.run("result = run(8, 50000)");
            pystap.stop();
            let calls: u64 = said(&calls).into_values().sum();
            let summed = rings.summed();
            assert_eq!((summed["leaf"], summed["body"]), (calls, 8));
        }
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn calls_are_measured_by_each_thread_and_only_those_that_took_so_long_are_told() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(WORK);
        for (shortest, all) in [(0, true), (1 << 60, false)] {
            let mut rings = Ours::new(MOST_RINGS);
            rings.shortest = Some(shortest);
            rings.start(&pystap, functions("workload.py"));
            let calls = program.run("result = run(8, 5000)");
            let stopped = pystap.stop();
            let told = rings.read();
            assert_eq!((told.lost, stopped.dropped), (0, 0));
            if all {
                assert_eq!(told.of("leaf"), said(&calls));
                assert_eq!(told.events, stopped.entries + stopped.returns);
            } else {
                assert_eq!(told.events, 0);
            }
        }
        assert_eq!(program.end(), Some(0));
    }
}

/// Threads that go on until `stop()`.
const LOAD: &str = "
finished, failures = threading.Event(), []
def dynamic(number):
    space = {}
    exec(compile('def made(): return 1\\nmade()', 'workload.py', 'exec'), space)
async def task(number):
    leaf(number); await asyncio.sleep(0); leaf(number)
async def tasks():
    while not finished.is_set():
        await asyncio.gather(*[asyncio.create_task(task(number)) for number in range(5)])
def steady(work):
    try:
        while not finished.is_set(): work()
    except BaseException as error: failures.append(repr(error))
def brief():
    thread = threading.Thread(target=leaf, args=(1,))
    thread.start(); thread.join()
works = [lambda: [leaf(number) for number in range(100)], lambda: list(suspended(1)), lambda: dynamic(1), lambda: dynamic(2),
    brief, lambda: (gc.collect(), [leaf(number) for number in range(10000)]), lambda: asyncio.run(tasks())]
load = [threading.Thread(target=steady, args=(work,)) for work in works]
for thread in load: thread.start()
";

#[test]
fn sessions_begin_and_end_while_every_thread_is_in_the_middle_of_something() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(WORK);
        program.run(LOAD);
        let (mut seen, mut collections) = (0, 0);
        for round in 0..40 {
            let mut start = functions(if round % 3 == 0 { "*" } else { "workload.py" });
            start.events = vec![Kind::Function, Kind::Gc];
            start.contexts = round % 2 == 0;
            start.announce_running = round % 5 != 0;
            start.capture.arguments = round % 4 == 1;
            let mut rings = match round % 4 {
                2 => Ours::with_sums(MOST_RINGS),
                _ => Ours::new(MOST_RINGS),
            };
            rings.start(&pystap, start);
            let before = program.run("result = leaf(7)");
            assert_eq!(before, json!(7));
            let stopped = pystap.stop();
            let told = rings.read();
            seen += told.events;
            collections += told.collections;
            if rings.sums.is_none() {
                let events = stopped.entries + stopped.returns;
                assert!(told.events + told.lost >= events, "{told:?}");
                assert!(told.events <= events);
            }
            // All that comes after is nobody's.
            assert_eq!(rings.read().events, 0);
        }
        assert!(seen > 1000 && collections > 0, "{seen} and {collections}");
        let failures =
            program.run("finished.set()\nfor thread in load: thread.join()\nresult = failures");
        assert_eq!(failures, json!([]));
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn tasks_of_event_loops_on_several_threads_are_told_apart() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(
            "
import asyncio, threading
def leaf(): pass
async def job():
    for _ in range(20):
        leaf(); await asyncio.sleep(0)
async def main(loop):
    await asyncio.gather(*[asyncio.create_task(job(), name=f'job {loop} {number}') for number in range(10)])
def run():
    threads = [threading.Thread(target=lambda loop=loop: asyncio.run(main(loop))) for loop in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
",
        );
        for _ in 0..3 {
            let mut rings = Ours::new(MOST_RINGS);
            let start = Start {
                contexts: true,
                ..functions("workload.py")
            };
            rings.start(&pystap, start);
            program.run("run()");
            pystap.stop();
            let told = rings.read();
            assert_eq!(told.lost, 0);
            assert_eq!(told.of("leaf").into_values().sum::<u64>(), 6 * 10 * 20);
            let jobs = told
                .contexts
                .iter()
                .filter(|(name, _)| name.starts_with("job"));
            let jobs: Vec<_> = jobs.collect();
            assert_eq!(jobs.len(), 60);
            let threads: BTreeSet<u32> = jobs
                .iter()
                .flat_map(|(_, threads)| threads.iter().copied())
                .collect();
            assert!(jobs.iter().all(|(_, threads)| threads.len() == 1) && threads.len() == 6);
        }
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn a_program_ends_as_it_would_with_threads_in_the_middle_of_calls() {
    for interpreter in interpreters::free_threaded() {
        let mut program = Program::start(interpreter);
        let pystap = program.attach();
        program.run(WORK);
        program.run(
            "
def for_ever():
    while True: leaf(1)
for _ in range(6): threading.Thread(target=for_ever, daemon=True).start()
",
        );
        let rings = Ours::new(MOST_RINGS);
        rings.start(&pystap, functions("workload.py"));
        until("threads call", || rings.words() > 1000);
        assert_eq!(program.end(), Some(0));
    }
}
