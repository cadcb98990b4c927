//! `pystap syscalls` with a real interpreter, compared with what a program does.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";

/// Makes calls whose number it knows, when it gets a line; says so, and ends when it gets another one.
const PROGRAM: &str = "\
import os, socket, sys, threading, time
zero = os.open('/dev/zero', os.O_RDONLY)
here, there = socket.socketpair()
def reads():
    for _ in range(20_000): os.read(zero, 1 << 17)
def probes():
    for _ in range(500):
        try: os.open('/nowhere', os.O_RDONLY)
        except FileNotFoundError: pass
def sends():
    for _ in range(100): here.send(b'x')
def waits():
    for _ in range(10): there.recv(1)
def other():
    for _ in range(7_000): os.pread(zero, 64, 0)
def refused():
    here.setblocking(False)
    for _ in range(50):
        try: here.recv(1)
        except BlockingIOError: pass
    here.setblocking(True)
go, done, over = threading.Event(), threading.Event(), threading.Event()
def begins_before():
    go.wait()
    other()
    done.set()
    over.wait()
before = threading.Thread(target=begins_before)
before.start()
print('ready', flush=True)
sys.stdin.readline()
reads(), probes(), sends(), refused()
assert len(there.recv(4096)) == 100
waiter = threading.Thread(target=waits)
waiter.start()
begin = time.perf_counter()
for _ in range(10):
    time.sleep(0.03)
    here.send(b'y')
waiter.join()
took = time.perf_counter() - begin
go.set()
later = threading.Thread(target=other)
later.start()
later.join()
done.wait()
print(took, flush=True)
sys.stdin.readline()
over.set()
";

/// The program. Killed on drop.
struct Running(Child);

impl Running {
    fn start() -> Running {
        let child = Command::new(PYTHON)
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut running = Running(child);
        assert_eq!(running.line(), "ready\n");
        running
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        line
    }

    fn go_on(&mut self) {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"\n").expect("written");
    }

    /// What pystap says of all that it does, with these arguments, and how long its waits took in seconds.
    fn watched(mut self, arguments: &[&str]) -> (String, f64) {
        let pid = self.0.id().to_string();
        let mut pystap = Command::new(PYSTAP)
            .args(["syscalls", "-p", &pid])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pystap runs");
        let mut said = String::new();
        let mut stderr = BufReader::new(pystap.stderr.as_mut().expect("a pipe"));
        while !said.contains("watching") {
            assert_ne!(stderr.read_line(&mut said).expect("a line"), 0, "{said}");
        }
        self.go_on();
        let took = self.line().trim().parse().expect("seconds");
        kill_process(Pid::from_child(&pystap), Signal::INT).expect("it runs");
        let mut out = String::new();
        let mut stdout = pystap.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut out).expect("text");
        assert!(pystap.wait().expect("ended").success(), "{said}");
        (out, took)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn json(arguments: &[&str]) -> (Value, f64) {
    let (out, took) = Running::start().watched(&[&["--json"], arguments].concat());
    (serde_json::from_str(&out).expect("JSON"), took)
}

/// The same again where a machine that was busy elsewhere kept pystap from looking at what is short.
fn json_seen(arguments: &[&str], is_seen: impl Fn(&Value) -> bool) -> (Value, f64) {
    const ATTEMPTS: usize = 4;
    let mut attempts = (0..ATTEMPTS).map(|_| json(arguments));
    let seen = attempts.find(|(told, _)| is_seen(told));
    seen.unwrap_or_else(|| json(arguments))
}

fn rows<'a>(told: &'a Value, call: &'a str) -> impl Iterator<Item = &'a Value> {
    let rows = told["rows"].as_array().expect("rows").iter();
    rows.filter(move |row| row["syscalls"][0]["syscall"] == call)
}

fn calls(told: &Value, call: &str) -> u64 {
    rows(told, call)
        .filter_map(|row| row["calls"].as_u64())
        .sum()
}

fn errors(told: &Value, call: &str, error: &str) -> u64 {
    rows(told, call)
        .flat_map(|row| row["errors"].as_array().expect("errors"))
        .filter(|it| it["error"] == error)
        .filter_map(|it| it["calls"].as_u64())
        .sum()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn system_calls_are_told_as_often_and_with_the_errors_that_the_program_makes() {
    let of_reads = |told: &Value| -> u64 {
        let reads = rows(told, "read").filter(|row| row["function"] == "reads");
        reads.filter_map(|row| row["calls"].as_u64()).sum()
    };
    let (told, took) = json_seen(&["--limit", "100000"], |told| of_reads(told) > 19_000);
    assert_eq!(told["lost_records"], 0, "{told:#}");
    assert_eq!(told["lost_calls"], 0, "{told:#}");
    // The main thread waited for its line, and the other one for its time to come.
    assert!(told["open_calls"].as_u64() >= Some(2), "{told:#}");
    // The line that it waited for had begun before.
    assert_eq!(calls(&told, "read"), 20_000, "{:#}", told["rows"]);
    // The one in a thread that was there, the other in one that was born later.
    assert_eq!(calls(&told, "pread64"), 14_000, "{:#}", told["rows"]);
    assert_eq!(calls(&told, "sendto"), 110, "{:#}", told["rows"]);
    assert_eq!(calls(&told, "clock_nanosleep"), 10, "{:#}", told["rows"]);
    assert_eq!(errors(&told, "openat", "ENOENT"), 500, "{:#}", told["rows"]);
    assert_eq!(
        errors(&told, "recvfrom", "EAGAIN"),
        50,
        "{:#}",
        told["rows"]
    );
    // What blocks is off the processor; the function of a long call is exact.
    let waits: Vec<&Value> = rows(&told, "recvfrom")
        .filter(|row| row["function"] == "waits")
        .collect();
    assert_eq!(waits.len(), 1, "{:#}", told["rows"]);
    let number = |name: &str| waits[0][name].as_f64().expect("a number") / 1e9;
    for time in ["total_ns", "off_cpu_ns"] {
        let told = number(time);
        // Between reading its clock and waiting, the program can itself wait for a processor.
        assert!(
            (took - 0.1..took * 1.02 + 0.001).contains(&told),
            "{told} of {took}"
        );
    }
    assert!(number("off_cpu_ns") <= number("total_ns"));
    // Short calls are told of the function that makes them.
    assert!(of_reads(&told) > 19_000, "{:#}", told["rows"]);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn only_what_is_wanted_is_told() {
    let (told, _) = json(&[
        "--syscall",
        "openat",
        "--syscall",
        "pread64",
        "--by",
        "syscall",
    ]);
    assert_eq!(told["calls"], 14_500, "{told:#}");
    assert_eq!(told["rows"].as_array().expect("rows").len(), 2, "{told:#}");
    let (told, _) = json(&[
        "--errors",
        "--syscall",
        "recvfrom",
        "--syscall",
        "openat",
        "--by",
        "thread",
    ]);
    assert_eq!(told["errors"], told["calls"], "{told:#}");
    let counted = |error: &str| -> u64 {
        let rows = told["rows"].as_array().expect("rows").iter();
        rows.flat_map(|row| row["errors"].as_array().expect("errors"))
            .filter(|it| it["error"] == error)
            .filter_map(|it| it["calls"].as_u64())
            .sum()
    };
    assert_eq!(
        (counted("ENOENT"), counted("EAGAIN")),
        (500, 50),
        "{told:#}"
    );
    let (told, took) = json(&[
        "--min",
        "10ms",
        "--syscall",
        "clock_nanosleep",
        "--syscall",
        "openat",
    ]);
    assert_eq!(
        (told["calls"].as_u64(), told["errors"].as_u64()),
        (Some(10), Some(0))
    );
    assert!(told["total_ns"].as_f64().expect("a number") / 1e9 <= took);
}

/// How many calls were about each thing, however it is called.
fn on<'a>(told: &'a Value, what: &'a str) -> u64 {
    let rows = told["rows"].as_array().expect("rows").iter();
    rows.filter(|row| row["on"].as_str().is_some_and(|on| on.starts_with(what)))
        .filter_map(|row| row["calls"].as_u64())
        .sum()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn calls_are_told_apart_by_what_they_are_about() {
    let (told, _) = json_seen(
        &["--files", "--by", "syscall", "--limit", "10000"],
        |told| on(told, "/dev/zero") == 34_000,
    );
    assert_eq!(on(&told, "/dev/zero"), 34_000, "{told:#}");
    let (told, _) = json(&["--sockets", "--syscall", "sendto", "--by", "syscall"]);
    assert_eq!(on(&told, "unix"), 110, "{told:#}");
    assert_eq!(told["calls"], 110, "{told:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn people_get_a_table_of_which_sums_of_threads_are_exact() {
    let (page, _) = Running::start().watched(&["--batch", "--by", "syscall"]);
    assert!(page.contains("ENOENT 500"), "{page}");
    assert!(page.contains("    20000 "), "{page}");
    assert!(!page.contains('~') && !page.contains("LOST"), "{page}");
}

#[test]
fn a_live_table_needs_a_terminal_and_a_system_call_a_name_that_there_is() {
    let run = |arguments: &[&str]| {
        let output = Command::new(PYSTAP)
            .arg("syscalls")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("pystap runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let own = std::process::id().to_string();
    let (code, said) = run(&["-p", &own]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--batch"), "{said}");
    let (code, said) = run(&["--batch", "--syscall", "opne", "-p", &own]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("opne"), "{said}");
    let (code, said) = run(&["--batch", "-p", &own]);
    assert_eq!(code, Some(4), "{said}");
}
