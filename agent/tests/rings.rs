//! Events that are told through a ring: each is there, with its thread, its context and its values, and what had no room is
//! counted.

use std::collections::{BTreeMap, BTreeSet};

use pystap_agent_protocol::{Clock, FromAgent, Kind, Ring, Start, Sums, ToAgent};
use pystap_ring::sums::{FIRST, NO_ROOM, Scale, SumsReader, Table, bytes};
use pystap_ring::{Mapping, Reader, Record, Records, new_memory, new_memory_with};
use rustix::fd::{AsFd, OwnedFd};

use crate::interpreters::{self, Interpreter};
use crate::program::{Program, Pystap, TURNS_OF_GREENLETS, functions, repository};

/// Words of a ring in which everything has room.
pub(crate) const LARGE: u64 = 1 << 20;

/// A ring as pystap has it.
pub(crate) struct Ours {
    words: u64,
    memory: OwnedFd,
    reader: Reader,
    sums: Option<Sums>,
    /// The shortest call that is wanted, in nanoseconds.
    shortest: Option<u64>,
}

/// Rows of a table in which everything has room.
const ROWS: u32 = 1024;

impl Ours {
    pub(crate) fn new(words: u64) -> Ours {
        Ours::of(words, new_memory(words).expect("memory"), None)
    }

    /// The same with a table.
    fn with_sums() -> Ours {
        let bytes = bytes(ROWS).expect("a table");
        let memory = new_memory_with(LARGE, bytes).expect("memory");
        let sums = Sums {
            rows: ROWS,
            multiplier: Scale::NANOSECONDS.multiplier(),
        };
        Ours::of(LARGE, memory, Some(sums))
    }

    /// One through which only calls of so many nanoseconds are told.
    fn of_long_calls(shortest: u64) -> Ours {
        Ours {
            shortest: Some(shortest),
            ..Ours::new(LARGE)
        }
    }

    /// The table.
    fn sums(&self) -> SumsReader {
        SumsReader::new(Table::new(&self.memory, self.words, ROWS).expect("mapped"))
    }

    fn of(words: u64, memory: OwnedFd, sums: Option<Sums>) -> Ours {
        let mapping = Mapping::new(&memory, words).expect("mapped");
        Ours {
            words,
            memory,
            reader: Reader::new(mapping),
            sums,
            shortest: None,
        }
    }

    /// Starts a session that tells through it.
    pub(crate) fn start(&self, pystap: &Pystap, start: Start) -> FromAgent {
        let start = Start {
            ring: Some(Ring {
                count: 1,
                words: self.words,
                clock: Clock::Monotonic,
                sums: self.sums,
                shortest: self.shortest,
                more: 0,
            }),
            ..start
        };
        pystap.ask_with(&ToAgent::Start(start), &[self.memory.as_fd()])
    }

    /// The bytes of the fields of calls that are in it.
    pub(crate) fn fields(&mut self) -> Vec<Vec<u8>> {
        let mut words = Vec::new();
        let count = self.reader.read(u64::MAX, &mut words).expect("sound");
        self.reader.give_back(count);
        let mut records = Records::new(&words);
        let mut fields = Vec::new();
        while let Some(record) = records.next_record().expect("well formed") {
            if let Record::Fields(bytes) = record {
                fields.push(bytes.to_vec());
            }
        }
        fields
    }

    /// What is in it.
    fn read(&mut self) -> Told {
        let mut words = Vec::new();
        let count = self.reader.read(u64::MAX, &mut words).expect("sound");
        self.reader.give_back(count);
        let mut records = Records::new(&words);
        let mut told = Told::default();
        while let Some(record) = records.next_record().expect("well formed") {
            told.take(record);
        }
        told
    }
}

/// What a ring has told.
#[derive(Debug, Default)]
struct Told {
    names: BTreeMap<u32, String>,
    /// Calls by name, and returns.
    calls: BTreeMap<String, u64>,
    returns: BTreeMap<String, u64>,
    /// Calls that were measured.
    timed: BTreeMap<String, u64>,
    /// With what they are called.
    threads: BTreeMap<u32, Option<String>>,
    thread: u32,
    /// The thread of which nothing is the program's for now.
    dry: Option<u32>,
    contexts: BTreeMap<u64, String>,
    context: u64,
    /// Contexts in which something happened.
    seen: BTreeSet<u64>,
    values: Vec<String>,
    collections: u64,
    last: u64,
}

impl Told {
    fn take(&mut self, record: Record<'_>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let time = match record {
            Record::Code(code) => {
                let before = self.names.insert(code.number, text(code.qualname));
                assert_eq!(before, None, "a number stands for one thing");
                return;
            }
            Record::DryRun { .. } | Record::DryRunEnds => {
                let begins = matches!(record, Record::DryRun { .. });
                self.dry = begins.then_some(self.thread);
                // The agent's own.
                if begins {
                    self.threads.remove(&self.thread);
                }
                return;
            }
            Record::Call { .. } | Record::Return { .. } | Record::Value(_)
                if self.dry == Some(self.thread) =>
            {
                return;
            }
            Record::Call { code, time, .. } => {
                let name = self.names.get(&code).expect("it was defined").clone();
                *self.calls.entry(name).or_default() += 1;
                self.seen.insert(self.context);
                time
            }
            Record::Return { code, time, .. } => {
                let name = self.names.get(&code).expect("it was defined").clone();
                *self.returns.entry(name).or_default() += 1;
                time
            }
            Record::Timed {
                code, time, began, ..
            } => {
                let name = self.names.get(&code).expect("it was defined").clone();
                *self.timed.entry(name).or_default() += 1;
                self.seen.insert(self.context);
                assert!(0 < began && began <= time);
                time
            }
            Record::Lost(count) => panic!("{count} had no room"),
            Record::Thread(thread) => {
                self.thread = thread;
                if self.dry != Some(thread) {
                    self.threads.entry(thread).or_default();
                }
                return;
            }
            Record::Context(context) => {
                self.context = context;
                return;
            }
            Record::ContextName {
                context: 0, name, ..
            } => {
                let before = self.threads.insert(self.thread, Some(text(name)));
                assert_eq!(before, Some(None), "a thread is named once");
                return;
            }
            Record::ContextName { context, name, .. } => {
                self.contexts.insert(context, text(name));
                return;
            }
            Record::Interpreter(_) => return,
            Record::Value(value) => return self.values.push(text(value)),
            Record::Fields(fields) => panic!("nobody asked for {fields:?}"),
            Record::GcStart { time, .. } => time,
            Record::GcDone { time, .. } => {
                self.collections += 1;
                time
            }
            Record::Gone(code) => {
                assert!(self.names.contains_key(&code));
                return;
            }
        };
        assert!(self.last <= time, "times never go back");
        self.last = time;
    }
}

/// Runs a program of the repository with a ring.
fn run(interpreter: &Interpreter, path: &str, ring: Ours) -> (Told, [u64; 2], u64) {
    run_with(interpreter, path, ring, false)
}

/// The same with or without switches of greenlets.
fn run_with(
    interpreter: &Interpreter,
    path: &str,
    mut ring: Ours,
    switches: bool,
) -> (Told, [u64; 2], u64) {
    let mut program = Program::start(interpreter);
    let name = path.rsplit('/').next().expect("a name");
    let copy = program.directory.path().join(name);
    std::fs::copy(repository().join(path), copy).expect("copied");
    let inside = program.inside.join(name);
    program.run(&format!(
        "import gc, runpy, sys\nsys.argv = [{inside:?}]\ndef once():\n    runpy.run_path({inside:?}, run_name='__main__')\n    gc.collect()"
    ));
    let pystap = program.attach();
    let start = Start {
        contexts: true,
        switches,
        ..functions(&format!("*{name}"))
    };
    let answer = ring.start(&pystap, start);
    assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
    program.run("once()");
    let stopped = pystap.stop();
    let told = ring.read();
    let lost = ring.reader.lost().into_iter().sum();
    assert_eq!(program.end(), Some(0), "{}", interpreter.name());
    (told, [stopped.entries, stopped.returns], lost)
}

fn sum(all: &BTreeMap<String, u64>) -> u64 {
    all.values().sum()
}

#[test]
fn every_call_and_return_is_in_the_ring_with_its_thread() {
    for interpreter in interpreters::with_lock() {
        for program in ["examples/threads.py", "examples/generators.py"] {
            let (told, counts, lost) = run(interpreter, program, Ours::new(LARGE));
            let name = format!("{program} in {}", interpreter.name());
            assert_eq!([sum(&told.calls), sum(&told.returns)], counts, "{name}");
            assert_eq!(told.calls, told.returns, "{name}");
            assert_eq!(lost, 0, "{name}");
            assert_eq!(
                told.threads.len() > 1,
                program.contains("threads"),
                "{name}: {:?}",
                told.threads
            );
        }
    }
}

#[test]
fn it_is_said_how_long_some_events_took_in_calm_and_in_the_program() {
    for interpreter in interpreters::with_lock() {
        let name = interpreter.name();
        let mut program = Program::start(interpreter);
        program.run("def called(): pass\ndef many():\n    for _ in range(6100): called()");
        let pystap = program.attach();
        // The second session begins anew, and the last one is of functions that are not called.
        for (file, fewest) in [("*workload.py", 100), ("*workload.py", 100), ("*other", 0)] {
            let ring = Ours::new(LARGE);
            let answer = ring.start(&pystap, functions(file));
            assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
            program.run("many()");
            let stopped = pystap.stop();
            let (calm, told) = ring.reader.handled();
            let most = (stopped.entries + stopped.returns) / 61;
            assert!(
                (fewest..=most).contains(&told.events),
                "{name}: {told:?} of {stopped:?}"
            );
            if fewest > 0 {
                assert_eq!(calm.events, 32, "{name}");
                assert!(
                    calm.ticks > 0 && told.ticks > 0,
                    "{name}: {calm:?}, {told:?}"
                );
            }
        }
        assert_eq!(program.end(), Some(0), "{name}");
    }
}

#[test]
fn what_is_added_up_is_every_call_and_nothing_but_names_is_told() {
    for interpreter in interpreters::with_lock() {
        for program in [
            "examples/threads.py",
            "examples/generators.py",
            "examples/fib.py",
            "agent/tests/programs/tasks.py",
        ] {
            let ring = Ours::with_sums();
            let reader = ring.sums();
            let (told, [entries, returns], lost) = run(interpreter, program, ring);
            let name = format!("{program} in {}", interpreter.name());
            assert!(told.calls.is_empty() && told.contexts.is_empty(), "{name}");
            assert_eq!(
                (lost, reader.lost(), reader.unpaired()),
                (0, 0, 0),
                "{name}"
            );
            let (mut calls, mut timed) = (0, 0);
            for row in FIRST..reader.end() {
                assert!(told.names.contains_key(&row), "{name}: {row}");
                let row = reader.row(row, u64::MAX >> 20).expect("nobody writes");
                assert!(row.calls > 0 && row.self_ns <= row.cumulative_ns, "{name}");
                calls += row.calls;
                timed += row.timed;
            }
            assert_eq!((calls, timed), (entries, returns), "{name}");
            let rest = reader.row(NO_ROOM, 0).expect("nobody writes");
            assert_eq!(rest.calls, 0, "{name}");
        }
    }
}

#[test]
fn where_only_collections_are_wanted_nothing_is_switched_on_for_calls() {
    for interpreter in interpreters::all() {
        let mut program = Program::start(interpreter);
        program.run("import gc\ndef work(): pass");
        let pystap = program.attach();
        let mut ring = Ours::new(LARGE);
        let start = Start {
            events: vec![Kind::Gc],
            ..functions("*")
        };
        let answer = ring.start(&pystap, start);
        let FromAgent::Started(started) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(started.tool_id, None, "{}", interpreter.name());
        program.run("for _ in range(100): work()\ngc.collect()");
        let stopped = pystap.stop();
        let told = ring.read();
        assert!(told.collections > 0, "{}", interpreter.name());
        assert!(told.names.is_empty(), "{}", interpreter.name());
        // Callbacks count what they are called for.
        assert_eq!((stopped.entries, stopped.returns), (0, 0));
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn calls_that_are_long_enough_are_told_when_they_end_and_no_others() {
    for interpreter in interpreters::all() {
        for program in [
            "examples/threads.py",
            "examples/generators.py",
            "examples/fib.py",
            "agent/tests/programs/tasks.py",
        ] {
            let name = format!("{program} in {}", interpreter.name());
            let (all, counts, lost) = run(interpreter, program, Ours::of_long_calls(0));
            assert_eq!((sum(&all.calls), sum(&all.returns)), (0, 0), "{name}");
            assert_eq!([sum(&all.timed), lost], [counts[1], 0], "{name}");
            let (events, _, _) = run(interpreter, program, Ours::new(LARGE));
            assert_eq!(all.timed, events.returns, "{name}");
            assert_eq!(all.threads.len(), events.threads.len(), "{name}");
            // None is as long.
            let (none, counts, lost) = run(interpreter, program, Ours::of_long_calls(u64::MAX));
            assert!(none.timed.is_empty() && none.names.is_empty(), "{name}");
            assert!(none.calls.is_empty() && none.returns.is_empty(), "{name}");
            assert!(counts[0] > 0 && counts[0] == counts[1], "{name}");
            assert_eq!(lost, 0, "{name}");
        }
    }
}

#[test]
fn values_are_told_of_what_long_calls_return_and_frames_that_ran_before_are_told_as_ever() {
    for interpreter in interpreters::with_lock() {
        let mut program = Program::start(interpreter);
        program.run(
            "import threading\n\
             begun, go_on = threading.Event(), threading.Event()\n\
             def waits():\n    begun.set()\n    go_on.wait()\n    return shown(17)\n\
             def shown(number): return [number]\n\
             thread = threading.Thread(target=waits)\nthread.start()\nbegun.wait()",
        );
        let pystap = program.attach();
        let mut ring = Ours::of_long_calls(0);
        let mut start = functions("*");
        start.filters.functions = vec!["shown".to_owned(), "waits".to_owned()];
        start.capture.arguments = true;
        start.capture.returns = true;
        start.announce_running = true;
        assert!(matches!(ring.start(&pystap, start), FromAgent::Started(_)));
        program.run("go_on.set()\nthread.join()");
        pystap.stop();
        let told = ring.read();
        let name = interpreter.name();
        let only = |function: &str| BTreeMap::from([(function.to_owned(), 1)]);
        // Nobody knows how long it took.
        assert_eq!(
            (&told.calls, &told.returns),
            (&only("waits"), &only("waits")),
            "{name}"
        );
        assert_eq!(told.timed, only("shown"), "{name}");
        let has_17 = |value: &String| value.contains("17");
        assert_eq!(
            told.values.len(),
            2,
            "{name}: what was passed is not told: {told:?}"
        );
        assert!(told.values.iter().all(has_17), "{name}: {told:?}");
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn tasks_are_told_apart_and_named() {
    for interpreter in interpreters::with_lock() {
        let (told, counts, _) = run(
            interpreter,
            "agent/tests/programs/tasks.py",
            Ours::new(LARGE),
        );
        assert_eq!([sum(&told.calls), sum(&told.returns)], counts);
        let tasks: Vec<&u64> = told.seen.iter().filter(|number| **number != 0).collect();
        assert!(tasks.len() > 1, "{} {told:?}", interpreter.name());
        assert!(
            tasks
                .iter()
                .all(|number| told.contexts.contains_key(number))
        );
    }
}

#[test]
fn threads_are_told_with_the_names_that_python_has_for_them() {
    const NAMES: &str = "'reader-7_1', 'r\u{e9}seau', 'x' * 2000";
    for interpreter in interpreters::with_lock() {
        let mut program = Program::start(interpreter);
        // The last one is a thread of which `threading` knows nothing. Beyond it, all that is called while a thread begins is told.
        program.run(&format!(
            "import threading, _thread\n\
             def work(): pass\n\
             def alone():\n    work()\n    ended.release()\n\
             ended = _thread.allocate_lock()\n\
             def several():\n    \
                 for name in ({NAMES}):\n        \
                     thread = threading.Thread(target=work, name=name)\n        \
                     thread.start()\n        \
                     thread.join()\n    \
                 with ended:\n        \
                     _thread.start_new_thread(alone, ())\n        \
                     ended.acquire()"
        ));
        let pystap = program.attach();
        let mut ring = Ours::new(LARGE);
        let start = Start {
            contexts: true,
            ..functions("*")
        };
        let answer = ring.start(&pystap, start);
        assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
        program.run("several()");
        pystap.stop();
        let told = ring.read();
        assert_eq!(program.end(), Some(0), "{}", interpreter.name());
        let of = |name: &str| told.threads.values().flatten().any(|it| it == name);
        assert!(of("MainThread"), "{}: {told:?}", interpreter.name());
        assert!(of("reader-7_1"), "{}: {told:?}", interpreter.name());
        assert!(of("r\u{e9}seau"), "{}: {told:?}", interpreter.name());
        let long = format!("{}\u{2026}", "x".repeat(1000));
        assert!(of(&long), "{}: {told:?}", interpreter.name());
        let unnamed = told.threads.values().filter(|name| name.is_none());
        assert_eq!(unnamed.count(), 1, "{}: {told:?}", interpreter.name());
    }
}

#[test]
fn switches_of_greenlets_are_told_as_calls_and_the_programs_trace_function_is_kept() {
    let mut tried = Vec::new();
    for interpreter in interpreters::with_lock().filter(|it| it.has("greenlet")) {
        let name = interpreter.name();
        let mut program = Program::start(interpreter);
        program.run(TURNS_OF_GREENLETS);
        for _ in 0..2 {
            let mut ring = Ours::new(LARGE);
            let pystap = program.attach();
            let start = Start {
                contexts: true,
                switches: true,
                ..functions("*workload.py")
            };
            let answer = ring.start(&pystap, start);
            assert!(matches!(answer, FromAgent::Started(_)), "{answer:?}");
            program.run("turns()");
            program.run("anew(); turns()");
            pystap.stop();
            let told = ring.read();
            // What begins is not told to go on, nor what ends to give way.
            let counts = |of: &str| [&told.calls, &told.returns].map(|it| it.get(of).copied());
            assert_eq!(counts("greenlet.switch"), [Some(6); 2], "{name}: {told:?}");
            assert_eq!(counts("greenlet.settrace"), [Some(2); 2], "{name}");
            assert_eq!(counts("outside"), [Some(4); 2], "{name}");
            assert_eq!(told.seen.len(), 3, "{name}: {told:?}");
        }
        let heard = program.run("result = len(heard)");
        assert_eq!(heard, 16, "{name}");
        let kept = program.run("turns()\nresult = greenlet.gettrace() is hear and len(heard)");
        assert_eq!(kept, 20, "{name}");
        assert_eq!(program.end(), Some(0), "{name}");
        // Where greenlets are killed, and die suspended, whoever gave way goes on, too.
        let greens = "agent/tests/programs/greens.py";
        let (told, counts, lost) = run_with(interpreter, greens, Ours::new(LARGE), true);
        assert_eq!([sum(&told.calls), sum(&told.returns)], counts, "{name}");
        assert_eq!((&told.calls, lost), (&told.returns, 0), "{name}");
        assert_eq!(told.calls["greenlet.settrace"], 2, "{name}: of two threads");
        assert!(told.calls["greenlet.switch"] > 60, "{name}: {told:?}");
        tried.push(name);
    }
    assert!(!tried.is_empty(), "no interpreter has greenlet");
}

#[test]
fn what_has_no_room_is_counted_and_the_program_does_not_wait() {
    for interpreter in interpreters::with_lock() {
        let (told, counts, lost) = run(interpreter, "examples/fib.py", Ours::new(512));
        let seen = sum(&told.calls) + sum(&told.returns);
        assert!(lost > 0 && seen > 0, "{}", interpreter.name());
        assert_eq!(seen + lost, counts[0] + counts[1], "{}", interpreter.name());
    }
}

#[test]
fn values_and_collections_come_through_the_ring() {
    for interpreter in interpreters::with_lock() {
        let mut program = Program::start(interpreter);
        program.run("def shown(number): return [number]");
        let pystap = program.attach();
        let mut ring = Ours::new(LARGE);
        let mut start = functions("*");
        start.filters.functions = vec!["shown".to_owned()];
        start.capture.arguments = true;
        start.capture.returns = true;
        start.events.push(Kind::Gc);
        assert!(matches!(ring.start(&pystap, start), FromAgent::Started(_)));
        program.run("import gc\nshown(17)\ngc.collect()");
        pystap.stop();
        let told = ring.read();
        assert_eq!(sum(&told.calls), 1, "{}", interpreter.name());
        let [arguments, value] = &told.values[..] else {
            panic!("{told:?}");
        };
        assert!(arguments.contains("17") && value.contains("17"), "{told:?}");
        assert!(told.collections > 0, "{}", interpreter.name());
        // Without a session nothing is told.
        program.run("shown(18)");
        assert!(ring.read().calls.is_empty());
        assert_eq!(program.end(), Some(0));
    }
}

#[test]
fn memory_that_cannot_be_used_is_refused_and_the_next_session_is_as_ever() {
    let interpreter = interpreters::with_lock().next().expect("there is one");
    let mut program = Program::start(interpreter);
    let pystap = program.attach();
    let mut wrong = Ours::new(LARGE);
    wrong.words = 12345;
    let refused = |answer| match answer {
        FromAgent::Refused(refused) => refused.reason,
        other => panic!("{other:?}"),
    };
    let reason = refused(wrong.start(&pystap, functions("*")));
    assert!(reason.contains("memory for its events"), "{reason}");
    // No descriptor came with it.
    let start = Start {
        ring: Some(Ring {
            count: 1,
            words: LARGE,
            clock: Clock::Monotonic,
            sums: None,
            shortest: None,
            more: 0,
        }),
        ..functions("*")
    };
    let reason = refused(pystap.ask(&ToAgent::Start(start)));
    assert!(reason.contains("memory for its events"), "{reason}");
    pystap.start(functions("*"));
    assert!(program.run("result = agent.status()['session'] is not None") == true);
    pystap.stop();
    assert_eq!(program.end(), Some(0));
}
