//! `pystap why` on Debian 12's Python, by its probes and with the agent: the parts of each call add up to the whole, and are what
//! the program measured with its own clocks.

use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::interpreters::{self, Interpreter, Way};
use crate::command::file;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
/// Rounds of which the last ones are compared: the agent comes in while Python runs.
const ROUNDS: usize = 4;
const COMPARED: usize = 2;

/// What the program said of its last rounds, and the calls that pystap told, in their order, with the last line.
struct Told {
    truth: Vec<Value>,
    calls: Vec<Value>,
    summary: Value,
    said: String,
}

fn started(command: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, stdout)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert_ne!(from.read_line(&mut line).expect("a line"), 0, "it ended");
    line
}

/// Runs the program in Debian 12's Python, and pystap with these arguments on it. What the program said of each round, and what
/// pystap wrote and said.
pub(super) fn rounds(mode: &str, arguments: &[&str]) -> (Vec<Value>, String, String) {
    rounds_of(interpreters::here()[0].python(), mode, arguments)
}

fn rounds_of(python: &str, mode: &str, arguments: &[&str]) -> (Vec<Value>, String, String) {
    let (mut program, mut answers) = started(
        Command::new(python)
            .args(["-W", "ignore", &file("tests/programs/truth/why.py"), mode])
            .stdin(Stdio::piped()),
    );
    assert!(line(&mut answers).starts_with("ready"));
    let (mut pystap, mut written) = started(
        Command::new(PYSTAP)
            .args(arguments)
            .args(["-p", &program.id().to_string()])
            .stderr(Stdio::piped()),
    );
    let mut said = String::new();
    let mut stderr = BufReader::new(pystap.stderr.take().expect("a pipe"));
    while !(said.contains("live, tracing") || said.contains("watching;")) {
        let read = stderr.read_line(&mut said).expect("a line");
        assert_ne!(read, 0, "{said}");
    }
    let mut go_on = program.stdin.take().expect("a pipe");
    let mut truth = Vec::new();
    for _ in 0..ROUNDS {
        go_on.write_all(b"\n").expect("it runs");
        let answer = line(&mut answers);
        truth.push(serde_json::from_str(&answer).expect("JSON"));
    }
    kill_process(Pid::from_child(&pystap), Signal::INT).expect("it runs");
    let mut lines = String::new();
    written.read_to_string(&mut lines).expect("text");
    stderr.read_to_string(&mut said).expect("text");
    assert!(pystap.wait().expect("ended").success(), "{said}");
    drop(go_on);
    assert!(program.wait().expect("ended").success());
    (truth, lines, said)
}

/// What `pystap why` tells of the program in Debian 12's Python.
fn told(mode: &str, functions: &[&str], way: &[&str]) -> Told {
    told_of(interpreters::here()[0].python(), mode, functions, way)
}

fn told_of(python: &str, mode: &str, functions: &[&str], way: &[&str]) -> Told {
    let arguments = [&["why"], functions, &["--json", "--each"], way].concat();
    let (mut truth, lines, said) = rounds_of(python, mode, &arguments);
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let (mut calls, mut rest): (Vec<Value>, Vec<Value>) =
        lines.partition(|line| line["kind"] == "call");
    calls.sort_by_key(|call| call["ts"].as_u64());
    Told {
        truth: truth.split_off(ROUNDS - COMPARED),
        calls,
        summary: rest.pop().expect("a summary"),
        said,
    }
}

impl Told {
    /// The last calls of a function, each with what the program says of it.
    fn of<'a>(&'a self, function: &str) -> Vec<(&'a Value, &'a Value)> {
        let calls = self.calls.iter().filter(|call| {
            let name = call["function"].as_str();
            name == Some(function)
        });
        let calls: Vec<&Value> = calls.collect();
        let from = calls.len().checked_sub(COMPARED).expect("called");
        let truth = self.truth.iter().map(|round| &round[function]);
        calls[from..].iter().copied().zip(truth).collect()
    }
}

/// Milliseconds of a call with one of these reasons.
fn with(call: &Value, reasons: &[&str]) -> f64 {
    let parts = call["parts"].as_array().expect("it is split");
    let parts = parts.iter().filter(|part| {
        let reason = part["reason"].as_str().expect("a reason");
        reasons.contains(&reason)
    });
    parts
        .map(|part| part["ns"].as_f64().expect("a time") / 1e6)
        .sum()
}

/// The least and the most that a thread may have waited for a processor, in milliseconds. pystap counts from when it is woken; the
/// kernel only from when a processor has it in its queue, to which another must be told with an interrupt. In a virtual machine
/// that takes tens of microseconds each time.
pub(super) fn queued(truth: &Value) -> [f64; 2] {
    const INTERRUPT: f64 = 0.1;
    let [least, most] = [0, 1].map(|at| truth["queued"][at].as_f64().expect("measured"));
    let slices = truth["slices"].as_f64().expect("counted");
    [least, most + slices * INTERRUPT]
}

fn near(what: &str, seen: f64, truth: f64, call: &Value) {
    let far = (seen - truth).abs();
    assert!(
        far <= 0.02 * truth + 1.0,
        "{what}: {seen} instead of {truth} in {call:#}"
    );
}

/// What is true of every call: that its parts are all of it, and no others than these.
fn is_whole(call: &Value, truth: &Value, reasons: &[&str]) {
    let duration = call["duration_ns"].as_u64().expect("it is known");
    let parts = call["parts"]
        .as_array()
        .unwrap_or_else(|| panic!("{call:#}"));
    let sum = |parts: &[Value]| -> u64 { parts.iter().filter_map(|it| it["ns"].as_u64()).sum() };
    assert_eq!(sum(parts), duration, "{call:#}");
    let wall = truth["wall"].as_f64().expect("measured");
    near("duration", duration as f64 / 1e6, wall, call);
    let usual = ["running", "run-queue", "gil"];
    for part in parts {
        let reason = part["reason"].as_str().expect("a reason");
        assert!(
            reasons.contains(&reason) || usual.contains(&reason),
            "{reason} in {call:#}"
        );
    }
}

/// What a host takes a processor away from meanwhile looks like running, so it is measured anew, but not for ever.
fn at_last(is_as_measured: impl Fn()) {
    for _ in 1..5 {
        if panic::catch_unwind(AssertUnwindSafe(&is_as_measured)).is_ok() {
            return;
        }
    }
    is_as_measured();
}

fn calls_in_threads_are_what_they_measured(way: &[&str]) {
    /// Functions with their reasons and system calls.
    const FUNCTIONS: [(&str, &str, &str); 5] = [
        ("sleeps", "sleep", "clock_nanosleep"),
        ("waits_for_a_lock", "lock", "futex"),
        ("waits_for_a_socket", "network", "recvfrom"),
        ("burns", "running", ""),
        ("contends", "gil", "futex"),
    ];
    let told = told("threads", &FUNCTIONS.map(|it| it.0), way);
    for (function, reason, syscall) in FUNCTIONS {
        for (call, truth) in told.of(function) {
            is_whole(call, truth, &[reason]);
            let [wall, cpu] = ["wall", "cpu"].map(|name| truth[name].as_f64().expect("measured"));
            let [least, most] = queued(truth);
            let running = with(call, &["running"]);
            let in_queue = with(call, &["run-queue"]);
            near("run queue", in_queue, in_queue.clamp(least, most), call);
            // What a host takes away looks like running, and a program that measures itself has it nowhere.
            assert!(running >= cpu - 0.02 * cpu - 1.0, "{running}: {call:#}");
            let off = with(call, &[reason, "gil"]);
            if reason != "running" {
                let waited = wall - cpu;
                let expected = off.clamp(waited - most, waited - least);
                // What a host takes away from one that computes is missing in its own time, too, and is no wait.
                let taken = if reason == "gil" { 10.0 } else { 0.0 };
                near(reason, off, off.clamp(expected - taken, expected), call);
                let parts = call["parts"].as_array().expect("split");
                let main = parts.iter().find(|part| part["reason"] == reason);
                let main = main.unwrap_or_else(|| panic!("no {reason} in {call:#}"));
                assert_eq!(main["in"], syscall, "{call:#}");
                let helper = &truth["helper"];
                if !helper.is_null() {
                    let mut woken_by = main["woken_by"].as_array().expect("told").iter();
                    assert!(
                        woken_by.any(|by| by["tid"] == *helper),
                        "{helper}: {call:#}"
                    );
                }
            }
            if reason == "network" {
                let parts = call["parts"].as_array().expect("split");
                let on = parts.iter().find_map(|part| part["on"].as_str());
                assert!(on.is_some_and(|on| on.contains("socket")), "{call:#}");
            }
        }
    }
    let functions = told.summary["functions"].as_array().expect("a list");
    assert_eq!(functions.len(), FUNCTIONS.len(), "{}", told.said);
    for function in functions {
        let split = function["split"].as_u64().expect("a count");
        assert!(split >= COMPARED as u64, "{function:#}");
        let parts = function["parts"].as_array().expect("parts").iter();
        let sum: u64 = parts.filter_map(|part| part["ns"].as_u64()).sum();
        assert_eq!(function["split_ns"], sum, "{function:#}");
    }
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/uprobes/run"]
fn calls_are_split_as_they_measured_themselves_by_probes() {
    at_last(|| calls_in_threads_are_what_they_measured(&["--engine", "uprobes", "--no-agent"]));
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn calls_are_split_as_they_measured_themselves_with_the_agent() {
    at_last(|| calls_in_threads_are_what_they_measured(&["--agent", "--inject", "ptrace"]));
}

/// Functions of greenlets with that of their library which gives way in them, if it is one that pystap knows.
fn what_greenlets_did_not_run_they_were_parked(library: &str, functions: &[(&str, Option<&str>)]) {
    let names: Vec<&str> = functions.iter().map(|it| it.0).collect();
    let pythons = interpreters::here();
    assert!(
        pythons[0].imports(library),
        "Debian 12's Python has no {library}: agent/tests/services/install makes an environment that has"
    );
    for python in pythons.iter().filter(|it| it.imports(library)) {
        println!("{}", python.name(Way::Agent));
        at_last(|| parked_in(python, library, functions));
    }
    // There the agent hears of calls otherwise than in Debian 12's.
    let mut tried = pythons.iter().filter(|it| it.imports(library));
    assert!(
        tried.any(|it| it.has_monitoring()),
        "no Python with sys.monitoring here has {library}: agent/tests/services/install makes environments that have"
    );
    let way = Way::Probes.option();
    let hidden = told(library, &names, &["--engine", "uprobes", way]);
    assert!(hidden.said.contains("--agent tells all"), "{}", hidden.said);
    for call in &hidden.calls {
        assert_eq!(call["unsplit"], "greenlets", "{call:#}");
    }
    assert!(!hidden.calls.is_empty());
}

fn parked_in(python: &Interpreter, library: &str, functions: &[(&str, Option<&str>)]) {
    let names: Vec<&str> = functions.iter().map(|it| it.0).collect();
    let way = ["--agent", "--inject", "ptrace"];
    let split = told_of(python.python(), library, &names, &way);
    // Up to 3.10 functions have no names with classes.
    let mut calls = split.calls.iter();
    let has_classes = calls.any(|call| {
        let qualname = call["qualname"].as_str();
        qualname.is_some_and(|name| call["function"] != name)
    });
    for (function, by) in functions {
        let by = by.filter(|by| has_classes || !by.contains('.'));
        for (call, truth) in split.of(function) {
            is_whole(call, truth, &["parked"]);
            let [wall, cpu] = ["wall", "cpu"].map(|name| truth[name].as_f64().expect("measured"));
            let on_thread = with(call, &["running", "run-queue", "gil"]);
            let running = with(call, &["running"]);
            assert!(running >= cpu - 0.02 * cpu - 1.0, "{call:#}");
            let parked = with(call, &["parked"]);
            near("parked", parked, wall - on_thread, call);
            // Others of the three ran meanwhile, which is not this one's.
            assert!(running <= cpu + 12.0, "{call:#}");
            // The longest part of a reason comes first.
            let parts = call["parts"].as_array().expect("split");
            let part = parts.iter().find(|part| part["reason"] == "parked");
            let part = part.expect("parked");
            let by = by.map_or(Value::Null, Into::into);
            assert_eq!((&part["in"], &part["on"]), (&by, &truth["on"]), "{call:#}");
        }
    }
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn what_greenlets_of_eventlet_did_not_run_they_were_parked() {
    let functions = [
        ("naps", Some("sleep")),
        ("asks", Some("trampoline")),
        ("answers", Some("sleep")),
        ("reads", Some("trampoline")),
        ("locks", Some("Semaphore.acquire")),
        ("awaits", Some("Event.wait")),
        ("takes", Some("Waiter.wait")),
        ("joins", Some("Event.wait")),
    ];
    what_greenlets_did_not_run_they_were_parked("eventlet", &functions);
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn what_greenlets_of_gevent_did_not_run_they_were_parked() {
    let functions = [
        ("naps", Some("sleep")),
        ("asks", Some("SocketMixin.recv")),
        ("answers", Some("sleep")),
        ("locks", None),
        ("joins", None),
    ];
    what_greenlets_did_not_run_they_were_parked("gevent", &functions);
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn calls_that_never_end_are_counted_as_open_or_given_up() {
    let way = ["--agent", "--inject", "ptrace", "--subprocesses"];
    let told = told("endless", &["gives_way", "dies"], &way);
    let summary = &told.summary;
    let (open, given_up) = (&summary["open_of_others"], &summary["functions"][0]);
    assert!(told.calls.is_empty(), "{:?}", told.calls);
    assert_eq!(*open, ROUNDS, "{summary:#}");
    assert_eq!(given_up["function"], "dies", "{summary:#}");
    assert_eq!(given_up["given_up"], ROUNDS, "{summary:#}");
    assert_eq!(given_up["calls"], 0, "{summary:#}");
}
