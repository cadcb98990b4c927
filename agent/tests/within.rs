//! Interpreters within the interpreter: each tells through a ring of its own what it does, which is what the program made it do,
//! however they come, go and run beside each other.

use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use pystap_agent_protocol::{Clock, FromAgent, Kind, Ring, Start, Started, Sums, ToAgent};
use pystap_ring::sums::{FIRST, Scale, SumsReader, Table, bytes};
use pystap_ring::{Mapping, Reader, Record, Records, new_memory_with};
use rustix::event::{PollFd, PollFlags, poll};

use crate::interpreters::{self, Interpreter};
use crate::program::{Program, Pystap, functions, hear};

/// Words of a ring in which everything has room, and rows of such a table.
const LARGE: u64 = 1 << 18;
const ROWS: u32 = 512;
/// How many rings there are for interpreters within the interpreter.
const MORE: u32 = 63;

/// Those in which such interpreters are traced.
fn traced() -> impl Iterator<Item = &'static Interpreter> {
    let mut traced = interpreters::with_lock()
        .filter(|it| it.version >= [3, 13, 0])
        .peekable();
    assert!(traced.peek().is_some(), "no Python from 3.13 on was found");
    traced
}

/// What calls functions within: `make`, `run` (in an interpreter), `end`; the code in one has the file `inner.py`.
const DRIVE: &str = r#"
import _interpreters, os, threading
INNER = '''
import os
def leaf(number): return number
def failing(number):
    if number % 3 == 0: raise ValueError
def suspended(number):
    for step in range(3): yield step
def work(calls):
    for number in range(calls):
        leaf(number)
        try: failing(number)
        except ValueError: pass
        for _ in suspended(number): pass
def held(readable, writable, calls):
    os.write(writable, b"!")
    os.read(readable, 1)
    open(os.devnull).close()
    work(calls)
'''
def make(kind="isolated", define=True):
    made = _interpreters.create(kind)
    if define: run(made, f"exec(compile({INNER!r}, 'inner.py', 'exec'))")
    return made
def run(within, code):
    failure = _interpreters.exec(within, code)
    assert not failure, failure
def once(calls, kind="isolated"):
    within = make(kind)
    run(within, f"work({calls})")
    _interpreters.destroy(within)
    return within
def together(jobs):
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads: thread.start()
    return threads
"#;

/// A ring that an agent asked for.
struct Given {
    memory: OwnedFd,
    reader: Reader,
}

/// pystap's side of a session: it gives a ring whenever it is asked for one.
struct Session {
    pystap: Pystap,
    started: Started,
    sums: Option<Sums>,
    rings: Arc<Mutex<Vec<Given>>>,
    /// How often the agent said that one is missing.
    missing: Arc<Mutex<u32>>,
    server: Option<(JoinHandle<()>, PipeWriter)>,
}

impl Session {
    fn start(pystap: Pystap, start: Start) -> Session {
        Session::with(pystap, start, None)
    }

    /// One in which the agent adds up.
    fn of_sums(pystap: Pystap, start: Start) -> Session {
        let sums = Sums {
            rows: ROWS,
            multiplier: Scale::NANOSECONDS.multiplier(),
        };
        Session::with(pystap, start, Some(sums))
    }

    fn with(pystap: Pystap, start: Start, sums: Option<Sums>) -> Session {
        let main = Given::new(sums);
        let start = Start {
            ring: Some(offer(sums)),
            ..start
        };
        let mut answer = pystap.ask_with(&ToAgent::Start(start), &[main.memory.as_fd()]);
        let mut asked = Vec::new();
        // An interpreter may be faster than the session.
        while let FromAgent::WantsRing { place } = answer {
            asked.push(place);
            answer = hear(&pystap.socket).expect("an answer");
        }
        let FromAgent::Started(started) = answer else {
            panic!("{answer:?}");
        };
        let mut session = Session {
            pystap,
            started,
            sums,
            rings: Arc::new(Mutex::new(vec![main])),
            missing: Arc::default(),
            server: None,
        };
        session.serve(asked);
        session
    }

    /// Answers questions for rings on a thread, until told to end.
    fn serve(&mut self, asked: Vec<u32>) {
        let (end, ends) = std::io::pipe().expect("a pipe");
        let socket = self.pystap.socket.try_clone().expect("a descriptor");
        let (rings, missing, sums) = (
            Arc::clone(&self.rings),
            Arc::clone(&self.missing),
            self.sums,
        );
        let give = move |place: u32, socket: &OwnedFd| {
            if place == 0 {
                *missing.lock().unwrap() += 1;
                return;
            }
            let given = Given::new(sums);
            let answer = ToAgent::Ring {
                place,
                ring: Some(offer(sums)),
            };
            Pystap::tell_with(socket, &answer, &[given.memory.as_fd()]);
            rings.lock().unwrap().push(given);
        };
        for place in asked {
            give(place, &socket);
        }
        let server = std::thread::spawn(move || {
            loop {
                let mut both = [
                    PollFd::new(&end, PollFlags::IN),
                    PollFd::new(&socket, PollFlags::IN),
                ];
                poll(&mut both, None).expect("a wait");
                // What was asked for is given before the end.
                if both[1].revents().is_empty() {
                    return;
                }
                match hear(&socket) {
                    Some(FromAgent::WantsRing { place }) => give(place, &socket),
                    // The program has ended.
                    None => return,
                    Some(other) => panic!("{other:?}"),
                }
            }
        });
        self.server = Some((server, ends));
    }

    /// Ends it and gives what was told, and who can begin another one.
    fn stop(mut self) -> (Told, Pystap) {
        self.end_server();
        let stopped = self.pystap.stop();
        assert_eq!(stopped.dropped, 0);
        let told = self.told();
        if self.sums.is_none() {
            assert_eq!(
                stopped.entries + stopped.returns,
                told.events + told.lost,
                "what the agent counts"
            );
        }
        (told, self.pystap)
    }

    fn end_server(&mut self) {
        if let Some((server, ends)) = self.server.take() {
            drop(ends);
            server.join().expect("it serves");
        }
    }

    /// What is in the rings.
    fn told(&self) -> Told {
        let mut told = Told::default();
        for given in &mut *self.rings.lock().unwrap() {
            let mut words = Vec::new();
            given.reader.read(u64::MAX, &mut words).expect("sound");
            let lost: u64 = given.reader.lost().into_iter().sum();
            told.lost += lost;
            told.take(&words, lost == 0);
        }
        told
    }

    /// Calls by name, as the tables have them.
    fn summed(&self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        for given in &mut *self.rings.lock().unwrap() {
            let mut words = Vec::new();
            given.reader.read(u64::MAX, &mut words).expect("sound");
            let mut names = BTreeMap::new();
            let mut records = Records::new(&words);
            while let Some(record) = records.next_record().expect("well formed") {
                if let Record::Code(code) = record {
                    names.insert(code.number, text(code.qualname));
                }
            }
            let table = Table::new(&given.memory, LARGE, ROWS).expect("mapped");
            let table = SumsReader::new(table);
            assert_eq!((table.lost(), table.unpaired()), (0, 0));
            for number in FIRST..table.end() {
                let row = table.row(number, 0).expect("still");
                let name = names.get(&number).expect("told").clone();
                *calls.entry(name).or_default() += row.calls;
            }
        }
        calls
    }
}

impl Given {
    fn new(sums: Option<Sums>) -> Given {
        let more = sums.map_or(0, |sums| bytes(sums.rows).expect("a table"));
        let memory = new_memory_with(LARGE, more).expect("memory");
        let reader = Reader::new(Mapping::new(&memory, LARGE).expect("mapped"));
        Given { memory, reader }
    }
}

fn offer(sums: Option<Sums>) -> Ring {
    Ring {
        count: 1,
        words: LARGE,
        clock: Clock::Monotonic,
        sums,
        shortest: None,
        more: MORE,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What rings have told.
#[derive(Debug, Default)]
struct Told {
    /// Calls by interpreter and name.
    calls: BTreeMap<(u32, String), u64>,
    events: u64,
    lost: u64,
    /// Collections by interpreter.
    collections: BTreeMap<u32, u64>,
}

impl Told {
    /// Takes what one ring has told: each return is of the last call on its thread in its interpreter, unless some had no
    /// room.
    fn take(&mut self, words: &[u64], is_whole: bool) {
        let mut records = Records::new(words);
        let (mut thread, mut interpreter, mut last) = (0, 0, 0);
        let mut names = BTreeMap::new();
        let mut stacks: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        // The thread whose calls are the agent's own.
        let mut dry = None;
        while let Some(record) = records.next_record().expect("well formed") {
            let time = match record {
                Record::Code(code) => {
                    assert_eq!(names.insert(code.number, text(code.qualname)), None);
                    continue;
                }
                Record::Gone(code) => {
                    assert!(names.remove(&code).is_some(), "it was defined");
                    continue;
                }
                Record::Thread(number) => {
                    thread = number;
                    continue;
                }
                Record::Lost(_) => continue,
                Record::DryRun { .. } | Record::DryRunEnds => {
                    let begins = matches!(record, Record::DryRun { .. });
                    dry = begins.then_some(thread);
                    continue;
                }
                Record::Call { .. } | Record::Return { .. } if dry == Some(thread) => continue,
                Record::Interpreter(number) => {
                    interpreter = number;
                    continue;
                }
                Record::Call { code, time, .. } => {
                    let name = names.get(&code).expect("it was defined").clone();
                    *self.calls.entry((interpreter, name)).or_default() += 1;
                    stacks.entry((interpreter, thread)).or_default().push(code);
                    self.events += 1;
                    time
                }
                Record::Return { code, time, .. } => {
                    let stack = stacks.entry((interpreter, thread)).or_default();
                    let last = stack.pop();
                    assert!(
                        !is_whole || last == Some(code),
                        "{last:?}, {code}: {names:?}"
                    );
                    self.events += 1;
                    time
                }
                Record::GcStart { time, .. } => time,
                Record::GcDone { time, .. } => {
                    *self.collections.entry(interpreter).or_default() += 1;
                    time
                }
                other => panic!("{other:?}"),
            };
            assert!(thread != 0 && last <= time, "times never go back");
            last = time;
        }
    }

    /// Calls of a function, by interpreter.
    fn of(&self, name: &str) -> BTreeMap<u32, u64> {
        assert_eq!(self.lost, 0);
        let calls = self.calls.iter().filter(|((_, it), _)| it == name);
        calls
            .map(|((interpreter, _), count)| (*interpreter, *count))
            .collect()
    }
}

/// A program that can make interpreters, and who may trace it.
fn begin(interpreter: &Interpreter) -> (Program, Pystap) {
    let mut program = Program::start(interpreter);
    program.run(DRIVE);
    let pystap = program.attach();
    (program, pystap)
}

fn inner() -> Start {
    functions("*inner.py")
}

fn numbers(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("numbers")
}

#[test]
fn each_interpreter_that_is_made_tells_its_calls_one_after_the_other_and_beside_others() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        let session = Session::start(pystap, inner());
        assert!(session.started.interpreters);
        let made = program.run(
            "made = [once(50 + at, kind) for at in range(10) for kind in ('isolated', 'legacy')]\nresult = made",
        );
        let after = numbers(&made);
        let made = program.run(
            "made = []
jobs = [lambda at=at: made.append([once(1000 + at, ('isolated', 'legacy')[at % 4 == 0]), 1000 + at]) for at in range(12)]
for thread in together(jobs): thread.join()
result = sorted(made)",
        );
        let beside: BTreeMap<u32, u64> = serde_json::from_value::<Vec<(u32, u64)>>(made)
            .expect("pairs")
            .into_iter()
            .collect();
        let (told, _) = session.stop();
        let mut expected = beside;
        for (at, id) in after.iter().enumerate() {
            expected.insert(*id, 50 + at as u64 / 2);
        }
        assert_eq!(expected.len(), 32);
        let times = |factor| -> BTreeMap<u32, u64> {
            expected.iter().map(|(id, it)| (*id, it * factor)).collect()
        };
        let name = interpreter.name();
        assert_eq!(told.of("leaf"), times(1), "{name}");
        assert_eq!(told.of("failing"), times(1), "{name}");
        // One that is suspended three times goes on three times.
        assert_eq!(told.of("suspended"), times(4), "{name}");
        assert_eq!(told.of("work").len(), 32, "{name}");
        assert_eq!(program.end(), Some(0), "{name}");
    }
}

/// Has an interpreter run a call, which waits until `release()`, and then works. `result` is its id.
const HOLD: &str = r#"
def hold(calls, kind="isolated"):
    global release, holder
    within = make(kind)
    (readable, release_), (begun, writable) = os.pipe(), os.pipe()
    [holder] = together([lambda: run(within, f"held({readable}, {writable}, {calls})")])
    os.read(begun, 1)
    release = lambda: (os.write(release_, b"!"), holder.join())
    return within
"#;

#[test]
fn one_that_runs_when_a_session_begins_is_told_from_there_on() {
    for interpreter in traced() {
        for (kind, is_known) in [
            ("isolated", true),
            ("legacy", true),
            ("isolated", false),
            ("legacy", false),
        ] {
            let name = format!("{} {kind} {is_known}", interpreter.name());
            let mut program = Program::start(interpreter);
            program.run(DRIVE);
            program.run(HOLD);
            let hold = format!("result = within = hold(300, {kind:?})");
            // Made before the agent is there, or after.
            let (within, pystap) = if is_known {
                let pystap = program.attach();
                (program.run(&hold), pystap)
            } else {
                (program.run(&hold), program.attach())
            };
            let id = u32::try_from(within.as_u64().unwrap()).unwrap();
            let session = Session::start(pystap, inner());
            program.run("release()");
            let (told, _) = session.stop();
            let expected = |count| BTreeMap::from([(id, count)]);
            assert_eq!(told.of("leaf"), expected(300), "{name}");
            assert_eq!(told.of("suspended"), expected(1200), "{name}");
            // What runs already is announced.
            assert_eq!(told.of("held"), expected(1), "{name}");
            program.run("_interpreters.destroy(within)");
            assert_eq!(program.end(), Some(0), "{name}");
        }
    }
}

#[test]
fn what_is_added_up_is_what_was_called_in_all_of_them() {
    for interpreter in traced() {
        let name = interpreter.name();
        // An interpreter waits for its ring for half a second, which can be too short on a machine that does other things. It says so.
        let calls = (0..5).find_map(|_| {
            let (mut program, pystap) = begin(interpreter);
            let session = Session::of_sums(pystap, inner());
            program.run(
                "for at in range(5): once(100)
for thread in together([lambda: once(1000), lambda: once(1000, 'legacy'), lambda: once(1000)]): thread.join()",
            );
            // It says so through its own thread, which takes its time.
            let missing = Arc::clone(&session.missing);
            let is_missing = || *missing.lock().unwrap() > 0;
            let is_whole = || session.summed().get("leaf") == Some(&3500);
            crate::program::until("all are there or one is said to be missing", || {
                is_whole() || is_missing()
            });
            let calls = session.summed();
            session.stop();
            assert_eq!(program.end(), Some(0), "{name}");
            (!is_missing()).then_some(calls)
        });
        let calls = calls.expect("one of five sessions had a ring for each");
        assert_eq!(calls.get("leaf"), Some(&3500), "{name}");
        assert_eq!(calls.get("failing"), Some(&3500), "{name}");
        assert_eq!(calls.get("suspended"), Some(&14000), "{name}");
        assert_eq!(calls.get("work"), Some(&8), "{name}");
    }
}

#[test]
fn collections_are_told_of_the_interpreter_that_collects() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        program.run("import gc\ngc.disable()\nbefore = make()");
        let start = Start {
            events: vec![Kind::Gc],
            ..inner()
        };
        let session = Session::start(pystap, start);
        let ids = program.run(
            "after = make()
for within, count in (before, 3), (after, 5):
    run(within, f'import gc\\ngc.disable()')
    run(within, f'for _ in range({count}): gc.collect()')
gc.collect()
result = [before, after]",
        );
        let (told, _) = session.stop();
        let ids = numbers(&ids);
        let name = interpreter.name();
        // An interpreter collects when it likes, before it is told not to.
        assert!(told.collections[&ids[0]] >= 3, "{name}: {told:?}");
        assert!(told.collections[&ids[1]] >= 5, "{name}: {told:?}");
        assert_eq!(told.events, 0, "{name}");
        program.run("for within in before, after: _interpreters.destroy(within)");
        assert_eq!(program.end(), Some(0), "{name}");
    }
}

#[test]
fn sessions_begin_and_end_while_interpreters_do_and_leave_nothing() {
    for interpreter in traced() {
        let name = interpreter.name();
        let (mut program, mut pystap) = begin(interpreter);
        program.run(
            "over = False
def busy(kind):
    while not over: once(200, kind)
stays = make()
def stay():
    while not over: run(stays, 'work(100)')
threads = together([lambda: busy('isolated'), lambda: busy('legacy'), stay])",
        );
        for turn in 0..30 {
            let session = match turn % 3 {
                0 => Session::of_sums(pystap, inner()),
                _ => Session::start(pystap, inner()),
            };
            // Until something was told.
            if turn % 3 == 1 {
                crate::program::until("a call is told", || session.told().events > 0);
            }
            (_, pystap) = session.stop();
        }
        program.run("over = True\nfor thread in threads: thread.join()");
        // Nothing is left where something was switched on.
        let tools =
            "import sys\nfor tool in range(6): assert not sys.monitoring.get_tool(tool), tool";
        program.run(&format!("run(stays, {tools:?})"));
        program.run("run(stays, 'import gc; assert not gc.callbacks, gc.callbacks')");
        let session = Session::start(pystap, inner());
        program.run("run(stays, 'work(7)')");
        let (told, _) = session.stop();
        assert_eq!(
            told.of("leaf").into_values().collect::<Vec<_>>(),
            [7],
            "{name}"
        );
        program.run("_interpreters.destroy(stays)");
        assert_eq!(program.end(), Some(0), "{name}");
    }
}

#[test]
fn a_program_ends_with_interpreters_that_are_traced() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        let mut session = Session::start(pystap, inner());
        let made = program.run(
            "result = [make(kind) for kind in ('isolated', 'legacy') * 3]
for within in result: run(within, 'work(10)')",
        );
        assert_eq!(program.end(), Some(0), "{}", interpreter.name());
        session.end_server();
        let ids = numbers(&made);
        let expected: BTreeMap<u32, u64> = ids.into_iter().map(|id| (id, 10)).collect();
        assert_eq!(
            session.told().of("leaf"),
            expected,
            "{}",
            interpreter.name()
        );
    }
}

#[test]
fn where_nobody_gives_rings_interpreters_run_untraced_and_that_is_said() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        let mut session = Session::start(pystap, inner());
        session.end_server();
        program.run("for _ in range(6): once(10)");
        session.serve(Vec::new());
        let (missing, rings) = (Arc::clone(&session.missing), Arc::clone(&session.rings));
        // The ring that one asked for before comes now, and nobody waits for it any longer.
        crate::program::until("one is told", || {
            let made = program.run(
                "within = make()\nrun(within, 'work(20)')\n_interpreters.destroy(within)\nresult = [within]",
            );
            session.told().of("leaf").get(&numbers(&made)[0]) == Some(&20)
        });
        session.stop();
        assert_eq!(*missing.lock().unwrap(), 1, "said once");
        // The main one's, and that of the place that all of them had.
        assert_eq!(rings.lock().unwrap().len(), 2, "asked for once");
        assert_eq!(program.end(), Some(0), "{}", interpreter.name());
    }
}

#[test]
fn more_interpreters_than_there_are_rings_for_run_and_that_is_said() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        let session = Session::start(pystap, inner());
        let made = program.run(
            "result = made = [make() for _ in range(66)]
for within in made: run(within, 'work(1)')",
        );
        let ids = numbers(&made);
        let missing = Arc::clone(&session.missing);
        let (told, _) = session.stop();
        let name = interpreter.name();
        assert_eq!(*missing.lock().unwrap(), 1, "{name}: said once");
        let told: Vec<u32> = told.of("leaf").into_keys().collect();
        assert_eq!(told, ids[..63], "{name}");
        program.run("for within in made: _interpreters.destroy(within)");
        assert_eq!(program.end(), Some(0), "{name}");
    }
}

/// CPython's own child ends itself where the parent has interpreters at that moment (3.13 to 3.15).
#[test]
fn children_of_forks_make_interpreters_and_so_does_their_parent() {
    for interpreter in traced() {
        let (mut program, pystap) = begin(interpreter);
        let session = Session::start(pystap, inner());
        let made = program.run(
            "result = [once(5)]
child = os.fork()
if not child: os._exit(once(3) and 0)
assert os.waitpid(child, 0)[1] == 0
result.append(once(5))",
        );
        let (told, _) = session.stop();
        let ids = numbers(&made).into_iter();
        let expected = ids.map(|id| (id, 5)).collect::<BTreeMap<u32, u64>>();
        assert_eq!(told.of("leaf"), expected, "{}", interpreter.name());
        assert_eq!(program.end(), Some(0), "{}", interpreter.name());
    }
}
