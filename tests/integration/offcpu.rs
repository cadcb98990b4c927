//! `pystap offcpu` with real interpreters: all from 3.8 on that are here, compared with what a program measured of itself.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dump::interpreters;
use crate::executable;
use crate::terminal::Terminal;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";
pub(crate) const PROGRAM: &str = include_str!("../programs/offcpu.py");
const BOUND: Duration = Duration::from_secs(60);

/// A program that is told to go on by a line and answers with one. Killed on drop.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        Running(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        line
    }

    pub(crate) fn go_on(&mut self) {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"\n").expect("written");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when the test has ended it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `pystap offcpu`, which watches.
pub(crate) struct Watching {
    child: Child,
    said: String,
}

impl Watching {
    fn start(pid: u32, arguments: &[&str]) -> Watching {
        Watching::start_by(&mut Command::new(PYSTAP), pid, arguments)
    }

    /// The same with a command that becomes pystap.
    pub(crate) fn start_by(command: &mut Command, pid: u32, arguments: &[&str]) -> Watching {
        let mut child = command
            .args(["offcpu", "-p", &pid.to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pystap runs");
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.as_mut().expect("a pipe"));
        while !said.contains("watching") {
            let read = stderr.read_line(&mut said).expect("a line");
            assert_ne!(read, 0, "{said}");
        }
        Watching { child, said }
    }

    /// Ends it, and gives what it wrote.
    fn end(mut self) -> String {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("it runs");
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut out).expect("text");
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "{}", self.said);
        out
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.end()).expect("JSON")
    }
}

/// What the kernel counted: how often a thread has begun to wait. Asked when it waits.
pub(crate) fn waits(pid: u32, tid: u64) -> u64 {
    let end = Instant::now() + BOUND;
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"));
        let status = status.expect("it runs");
        if status.contains("State:\tS") {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return line.expect("a count").trim().parse().expect("a number");
        }
        assert!(Instant::now() < end, "{tid} does not wait");
    }
}

pub(crate) fn has(stack: &Value, name: &str) -> bool {
    let frames = stack.as_array().into_iter().flatten();
    frames
        .filter_map(|frame| frame["function"].as_str())
        .any(|function| function.rsplit('.').next() == Some(name))
}

fn innermost(row: &Value) -> Option<&str> {
    row["function"].as_str()?.rsplit('.').next()
}

/// Of a row by stack, what one thread has.
pub(crate) fn of_thread(row: &Value, tid: u64) -> f64 {
    let threads = row["threads"].as_array().into_iter().flatten();
    threads
        .filter(|thread| thread["tid"] == tid)
        .filter_map(|thread| thread["blocked_ns"].as_f64())
        .sum::<f64>()
        / 1e6
}

/// Functions of the program, what each waits for, and how often at least.
const TRUTH: [(&str, &str, &[&str], u64); 13] = [
    (
        "sleeps",
        "sleep",
        &["clock_nanosleep", "pselect6", "select"],
        20,
    ),
    (
        "naps",
        "sleep",
        &["clock_nanosleep", "pselect6", "select"],
        200,
    ),
    ("reads", "disk", &["preadv", "preadv2"], 1),
    ("reads_cold", "disk", &["pread64"], 1),
    ("syncs", "disk", &["fsync", "pwrite64"], 1),
    ("sleeps_in_c", "sleep", &["clock_nanosleep"], 20),
    ("waits_for_another_process", "lock", &["flock"], 3),
    ("waits_for_a_lock", "lock", &["futex"], 15),
    ("waits_for_the_gil", "gil", &["futex"], 1),
    ("waits_for_a_socket", "network", &["recvfrom"], 15),
    ("waits_for_a_pipe", "pipe", &["read"], 15),
    ("waits_for_a_child", "child", &["wait4"], 3),
    ("select", "poll", &["epoll_wait"], 1),
];

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn every_wait_is_told_with_its_reason_its_length_and_who_ended_it() {
    let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
    for (name, mut command) in interpreters() {
        if command.get_program() == "chroot" {
            // Its files and /proc are elsewhere.
            continue;
        }
        let path = directory.path().to_str().expect("text");
        command.args(["-c", PROGRAM, path]);
        // A machine that is taken away for a moment has other lengths: they are measured anew then, but not for ever.
        let measured = (0..3).map(|_| every_wait_but_its_length_is_right(&name, &mut command));
        let mut wrong = Vec::new();
        for lengths in measured {
            match lengths {
                Ok(()) => break,
                Err(sentence) => wrong.push(sentence),
            }
        }
        assert!(wrong.len() < 3, "{wrong:#?}");
    }
}

/// Checks a run of the program, and answers whether the lengths of its waits are right, too.
fn every_wait_but_its_length_is_right(name: &str, command: &mut Command) -> Result<(), String> {
    let mut running = Running::start(command);
    assert_eq!(running.line(), "ready\n", "{name}");
    let arguments = ["--json", "--by", "stack", "--idle", "--limit", "100000"];
    let watching = Watching::start(running.pid(), &arguments);
    running.go_on();
    let truth: Value = serde_json::from_str(&running.line()).expect("JSON");
    let threads = truth.as_object().expect("an object");
    let counted: Vec<(u64, &Value, u64)> = threads
        .values()
        .filter_map(|thread| Some((thread["tid"].as_u64()?, &thread["name"])))
        .map(|(tid, named)| (tid, named, waits(running.pid(), tid)))
        .collect();
    let told = watching.json();
    assert_eq!(told["lost_records"], 0, "{name}");
    assert_eq!(told["lost_waits"], 0, "{name}");
    let mut without_name = 0;
    for (tid, named, waits) in counted {
        let all = told["threads"].as_array().expect("threads");
        let thread = all.iter().find(|thread| thread["tid"] == tid);
        let thread = thread.unwrap_or_else(|| panic!("{name}: {tid} is missing"));
        assert_eq!(thread["waits"], waits, "{name}: {truth:#} {thread:#}");
        // Until its own is read, it has the kernel's, which is the program's.
        match thread["name"]
            .as_str()
            .is_some_and(|it| it.starts_with("python"))
        {
            true => without_name += 1,
            false => assert_eq!(thread["name"], *named, "{name}: {thread:#}"),
        }
    }
    assert!(
        without_name < 4,
        "{name}: {without_name} of {}",
        threads.len()
    );
    let rows = told["rows"].as_array().expect("rows");
    check_reasons(name, &truth, rows, &["gil", "page-fault"]);
    check_wakers(name, &truth, rows);
    threads
        .iter()
        .try_for_each(|(function, thread)| check_length(name, function, thread, rows, 0.98))
}

/// Whether a thread was blocked as long as it says that its function was, or at least for this share of it; a sentence otherwise.
pub(crate) fn check_length(
    name: &str,
    function: &str,
    thread: &Value,
    rows: &[Value],
    share: f64,
) -> Result<(), String> {
    let tid = thread["tid"].as_u64().expect("an ID");
    let number = |field: &str| thread[field].as_f64().expect("a number");
    let (off, queued, before) = (number("off"), number("queued"), number("before"));
    let told: f64 = rows
        .iter()
        .filter(|row| !has(&row["stack"], "park"))
        .map(|row| of_thread(row, tid))
        .sum();
    // What a host and interrupts take away from whoever computes is missing in its own time, too, and is no wait.
    let (share, slack) = match function {
        "waits_for_the_gil" | "reads" | "reads_cold" | "syncs" => (share - 0.18, 10.0),
        _ => (share, 1.0),
    };
    // Where a waking was not seen, the run queue is part of the wait. A new thread may wait before it comes to its function.
    let (least, most) = ((off - queued) * share - slack, off * 1.02 + 1.0 + before);
    match (least..most).contains(&told) {
        true => Ok(()),
        false => Err(format!(
            "{name}: {function}: {told} of {off}, of which {queued} in the run queue; {before} before"
        )),
    }
}

/// What a function waits for is what it does, or what any function may wait for here. Where that is a disk, any system call may be
/// one about a file.
pub(crate) fn check_reasons(name: &str, truth: &Value, rows: &[Value], any: &[&str]) {
    for (function, reason, calls, least) in TRUTH {
        let mut count = 0;
        // Waits that are all too short to be looked at are known by their thread.
        let tid = truth[function]["tid"].as_u64();
        let unseen = rows.iter().filter(|row| {
            row["place"] == "not_seen"
                && row["reasons"][0]["reason"] == reason
                && tid.is_some_and(|tid| of_thread(row, tid) > 0.0)
        });
        count += unseen.filter_map(|row| row["waits"].as_u64()).sum::<u64>();
        let own = rows.iter().filter(|row| innermost(row) == Some(function));
        for row in own {
            let (why, call) = (&row["reasons"][0]["reason"], &row["syscalls"][0]["syscall"]);
            if why == reason {
                let call = call.as_str().unwrap_or_default();
                let anywhere = any.contains(&reason);
                assert!(anywhere || calls.contains(&call), "{name}: {row:#}");
                count += row["waits"].as_u64().expect("a number");
                assert_eq!(row["idle"], reason == "poll", "{name}: {row:#}");
            } else {
                let why = why.as_str().expect("a word");
                assert!(any.contains(&why), "{name}: {row:#}");
            }
        }
        // What runs in a thread of its own has counted how often it left its processor.
        let left = truth[function]["left"].as_u64();
        let least = left.map_or(least, |left| least.min(left));
        assert!(
            count >= least,
            "{name}: {function} {reason}: {count} of {least}"
        );
    }
}

/// Who ends waits is the thread that the program names.
fn check_wakers(name: &str, truth: &Value, rows: &[Value]) {
    for (function, reason, ..) in TRUTH {
        let helper = &truth[function]["helper"];
        if helper.is_null() || reason == "gil" {
            continue;
        }
        let own = rows.iter().filter(|row| {
            innermost(row) == Some(function) && row["reasons"][0]["reason"] == reason
        });
        let mut by_helper = 0;
        for row in own {
            for waker in row["woken_by"].as_array().expect("wakers") {
                match waker["by"].as_str() {
                    Some("thread") => {
                        assert_eq!(&waker["tid"], helper, "{name}: {row:#}");
                        by_helper += waker["waits"].as_u64().expect("a number");
                    }
                    // What is sent to a socket of this machine may be handed over to an interrupt.
                    Some(by) => assert_eq!((by, function), ("interrupt", "waits_for_a_socket")),
                    None => {}
                }
            }
        }
        assert!(by_helper > 10, "{name}: {function}: {by_helper}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_process_that_hangs_all_the_while_is_told_to() {
    let program = "import threading, sys\nlock = threading.Lock()\nlock.acquire()\n\
                   def hangs():\n    lock.acquire()\n\
                   threading.Thread(target=hangs, daemon=True).start()\n\
                   print('ready', flush=True)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let own = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("threads");
    for thread in own.flatten() {
        let tid = thread.file_name().to_str().and_then(|it| it.parse().ok());
        waits(running.pid(), tid.expect("an ID"));
    }
    let told = Watching::start(running.pid(), &["--json", "-d", "400ms"]).json_after();
    let rows = told["rows"].as_array().expect("rows");
    let hangs = rows.iter().find(|row| innermost(row) == Some("hangs"));
    let hangs = hangs.unwrap_or_else(|| panic!("{told:#}"));
    assert_eq!(hangs["reasons"][0]["reason"], "lock");
    assert_eq!(hangs["waits"], 1);
    let blocked = hangs["blocked_ns"].as_f64().expect("a number") / 1e9;
    let seconds = told["seconds"].as_f64().expect("a number");
    assert!(blocked >= 0.4 && blocked <= seconds + 1.0, "{told:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn it_ends_with_its_processes_and_options_leave_out_what_is_not_wanted() {
    let program = "import sys, time\nprint('ready', flush=True)\nsys.stdin.readline()\n\
                   def naps():\n    for _ in range(30): time.sleep(0.002)\n\
                   def sleeps():\n    time.sleep(0.1)\n\
                   naps()\nsleeps()";
    for (arguments, naps, sleeps) in [
        (&["--min", "50ms"][..], 0, 1),
        (&["--reason", "sleep"][..], 30, 1),
        (&["--reason", "disk"][..], 0, 0),
        (&["--reason", "sleep", "--no-wakers"][..], 30, 1),
    ] {
        let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
        running.line();
        let watching = Watching::start(running.pid(), &[&["--json"][..], arguments].concat());
        running.go_on();
        running.0.wait().expect("ended");
        let told = watching.json_after();
        let rows = told["rows"].as_array().expect("rows");
        let count = |name: &str| -> u64 {
            let own = rows.iter().filter(|row| innermost(row) == Some(name));
            own.filter_map(|row| row["waits"].as_u64()).sum()
        };
        assert_eq!(count("sleeps"), sleeps, "{arguments:?}: {told:#}");
        assert_eq!(count("naps"), naps, "{arguments:?}: {told:#}");
        if arguments.contains(&"--no-wakers") {
            let all = |field: &str| {
                rows.iter()
                    .map(|row| row[field].clone())
                    .collect::<Vec<_>>()
            };
            assert!(all("runqueue_ns").iter().all(|it| it == 0), "{told:#}");
            let wakers = all("woken_by").into_iter();
            let is_told = |of: Value| {
                of.as_array()
                    .is_some_and(|of| of.iter().any(|it| !it["by"].is_null()))
            };
            assert_eq!(
                wakers.filter(|of| is_told(of.clone())).count(),
                0,
                "{told:#}"
            );
        }
    }
}

impl Watching {
    fn json_after(self) -> Value {
        serde_json::from_str(&self.whole()).expect("JSON")
    }

    /// What it writes when it ends by itself.
    fn whole(mut self) -> String {
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut out).expect("text");
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "{}", self.said);
        out
    }
}

/// How many of a process's descriptors are counters of the kernel.
fn counters(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let is_counter = |fd: &fs::DirEntry| {
        // It may be closed by now.
        let path = fs::read_link(fd.path()).unwrap_or_default();
        path.to_string_lossy().contains("perf_event")
    };
    open.flatten().filter(is_counter).count()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn processes_that_begin_later_are_watched_and_those_that_end_leave_no_descriptors() {
    // Of a server that replaces its workers: some are forked, some are programs of their own.
    let program = "import os, signal, subprocess, sys, time\n\
                   def naps():\n    while True: time.sleep(0.02)\n\
                   if sys.argv[1] == 'child': naps()\n\
                   def fork():\n    pid = os.fork()\n    if not pid: naps()\n    return pid\n\
                   def spawn():\n    command = [sys.executable, __file__, 'child', sys.argv[2]]\n    \
                   return subprocess.Popen(command).pid\n\
                   begin = {'fork': fork, 'spawn': spawn}[sys.argv[1]]\n\
                   print('ready', flush=True)\n\
                   while sys.stdin.readline():\n    children = [begin() for _ in range(10)]\n    \
                   print(*children, flush=True)\n    sys.stdin.readline()\n    \
                   for child in children: os.kill(child, signal.SIGKILL), os.waitpid(child, 0)\n    \
                   print('over', flush=True)";
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("server.py");
    fs::write(&file, program).expect("written");
    let token = format!("pystap-offcpu-{}", std::process::id());
    for (how, targets) in [
        ("fork", &["--subprocesses"][..]),
        ("spawn", &["--match", token.as_str()]),
    ] {
        let mut python = Command::new(PYTHON);
        let mut running = Running::start(python.arg(&file).arg(how).arg(&token));
        running.line();
        let arguments = [&["--json", "--idle"][..], targets].concat();
        let watching = Watching::start(running.pid(), &arguments);
        let pystap = watching.child.id();
        let reaches = |wanted: &dyn Fn(usize) -> bool| {
            let end = Instant::now() + BOUND;
            while !wanted(counters(pystap)) {
                assert!(Instant::now() < end, "{how}: {}", counters(pystap));
                std::thread::park_timeout(Duration::from_millis(5));
            }
        };
        // Of each processor the ring, the wakings, and the switches of the one thread.
        let before = counters(pystap);
        let each = before / 3;
        for _ in 0..4 {
            running.go_on();
            let children = running.line();
            reaches(&|now| now == before + 10 * each);
            for child in children.split_whitespace() {
                let child: u32 = child.parse().expect("an ID");
                let end = Instant::now() + BOUND;
                let begun = waits(child, child.into());
                while waits(child, child.into()) < begun + 3 {
                    assert!(Instant::now() < end, "{how}: {child} does not nap");
                }
            }
            running.go_on();
            assert_eq!(running.line(), "over\n", "{how}");
            reaches(&|now| now == before);
        }
        let told = watching.json();
        assert_eq!(told["processes"], 41, "{how}: {told:#}");
        assert_eq!(told["lost_records"], 0, "{how}: {told:#}");
        let threads = told["threads"].as_array().expect("threads");
        let seen = threads
            .iter()
            .filter(|it| it["tid"] != running.pid() && it["waits"].as_u64() >= Some(2));
        assert_eq!(seen.count(), 40, "{how}: {told:#}");
        assert!(count(&told, "naps", "sleep") > 0, "{how}: {told:#}");
    }
}

/// Of all rows of a function, those of a reason: how many waits.
fn count(told: &Value, function: &str, reason: &str) -> u64 {
    let rows = told["rows"].as_array().expect("rows");
    let own = rows
        .iter()
        .filter(|row| innermost(row) == Some(function) && row["reasons"][0]["reason"] == reason);
    own.filter_map(|row| row["waits"].as_u64()).sum()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn threads_that_begin_and_end_meanwhile_are_told_with_every_wait() {
    let program = "import sys, threading, time\nprint('ready', flush=True)\nsys.stdin.readline()\n\
                   def short(): \n    for _ in range(3): time.sleep(0.012)\n\
                   for _ in range(8):\n    threads = [threading.Thread(target=short) for _ in range(8)]\n    \
                   for thread in threads: thread.start()\n    for thread in threads: thread.join()\n\
                   print('over', flush=True)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let arguments = ["--json", "--idle", "--limit", "100000"];
    let watching = Watching::start(running.pid(), &arguments);
    running.go_on();
    running.line();
    waits(running.pid(), running.pid().into());
    let told = watching.json();
    assert_eq!(told["lost_records"], 0, "{told:#}");
    assert_eq!(count(&told, "short", "sleep"), 3 * 64, "{:#}", told["rows"]);
    let threads = told["threads"].as_array().expect("threads");
    let slept = threads
        .iter()
        .filter(|it| it["tid"] != running.pid() && it["waits"].as_u64() >= Some(3));
    assert_eq!(slept.count(), 64, "{told:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn page_faults_are_told_as_often_and_as_long_as_the_kernel_and_the_program_count() {
    // Where others keep the machine busy, the kernel counts a thread into the run queue later than somebody begins to wake it.
    let measured = (0..3).map(|_| page_faults_are_right_but_for_their_length());
    let mut wrong = Vec::new();
    for length in measured {
        match length {
            Ok(()) => return,
            Err(sentence) => wrong.push(sentence),
        }
    }
    panic!("{wrong:#?}");
}

/// Checks a run, and answers whether the length is right, too.
fn page_faults_are_right_but_for_their_length() -> Result<(), String> {
    let program = "import mmap, os, sys, time\n\
                   file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n\
                   os.write(file, os.urandom(16 << 20))\nos.fsync(file)\n\
                   def waits():\n    with open('/proc/self/status') as status:\n        \
                   return next(int(line.split()[1]) for line in status if line[:3] == 'vol')\n\
                   def queued():\n    with open('/proc/self/schedstat') as schedstat:\n        \
                   return int(schedstat.read().split()[1]) / 1e9\n\
                   def faults(mapping):\n    for at in range(0, 16 << 20, 64 << 10): mapping[at]\n\
                   print('ready', flush=True)\nsys.stdin.readline()\n\
                   os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)\n\
                   mapping = mmap.mmap(file, 16 << 20)\nmapping.madvise(mmap.MADV_RANDOM)\n\
                   waited, waiting, ran, begin = waits(), queued(), time.thread_time(), time.perf_counter()\n\
                   faults(mapping)\n\
                   took, ran = time.perf_counter() - begin, time.thread_time() - ran\n\
                   waiting, waited = queued() - waiting, waits() - waited\n\
                   print(waited, took - ran, waiting, flush=True)\nsys.stdin.readline()";
    let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let file = directory.path().join("data");
    let mut python = Command::new(PYTHON);
    let mut running = Running::start(python.args(["-c", program]).arg(&file));
    running.line();
    let arguments = ["--json", "--reason", "page-fault"];
    let watching = Watching::start(running.pid(), &arguments);
    running.go_on();
    let truth = running.line();
    let truth: Vec<f64> = truth
        .split_whitespace()
        .map(|it| it.parse().expect("a number"))
        .collect();
    waits(running.pid(), running.pid().into());
    let told = watching.json();
    let thread = &told["threads"][0];
    assert!(truth[0] > 10.0, "the file is on a disk: {truth:?}");
    // The interpreter's own files may be missing in memory, too.
    let waits = thread["waits"].as_f64().expect("a number");
    assert!(
        (truth[0]..truth[0] + 10.0).contains(&waits),
        "{truth:?}: {told:#}"
    );
    let blocked = thread["blocked_ns"].as_f64().expect("a number") / 1e9;
    let (off, queued) = (truth[1], truth[2]);
    // Where a waking was not seen, the run queue is part of the wait.
    let (least, most) = ((off - queued) * 0.98 - 0.001, off * 1.02 + 0.001);
    match (least..most).contains(&blocked) {
        true => Ok(()),
        false => Err(format!("{truth:?}: {told:#}")),
    }
}

/// Nanoseconds that a process's threads have waited for a processor, as the kernel counts them.
fn queued(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let queued = |task: fs::DirEntry| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).expect("it runs");
        let second = schedstat.split_whitespace().nth(1).expect("a number");
        second.parse::<u64>().expect("a number")
    };
    tasks.flatten().map(queued).sum()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn the_time_in_the_run_queue_is_what_the_kernel_counts() {
    // Without the GIL, on one processor.
    let program = "import hashlib, os, sys, threading, time\nos.sched_setaffinity(0, {0})\n\
                   data = bytes(1 << 20)\ngo = threading.Barrier(4)\nover = threading.Barrier(4)\n\
                   def computes():\n    go.wait()\n    end = time.perf_counter() + 0.6\n    \
                   while time.perf_counter() < end: hashlib.sha256(data)\n    over.wait()\n    over.wait()\n\
                   for _ in range(3): threading.Thread(target=computes, daemon=True).start()\n\
                   print('ready', flush=True)\nsys.stdin.readline()\ngo.wait()\nover.wait()\n\
                   print('over', flush=True)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let arguments = ["--json", "--idle", "--limit", "100000"];
    let watching = Watching::start(running.pid(), &arguments);
    let before = queued(running.pid());
    running.go_on();
    running.line();
    waits(running.pid(), running.pid().into());
    let queued = queued(running.pid()) - before;
    let told = watching.json();
    let number = |value: &Value| value.as_u64().expect("a number");
    let threads = told["threads"].as_array().expect("threads");
    let after_waits: u64 = threads.iter().map(|it| number(&it["runqueue_ns"])).sum();
    let in_all = after_waits + number(&told["preempted_ns"]);
    assert!(queued > 500_000_000, "they share a processor: {queued}");
    let (least, most) = (queued * 95 / 100, queued * 105 / 100 + 1_000_000);
    assert!(
        (least..most).contains(&in_all),
        "{in_all} of {queued}: {told:#}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn without_the_kernels_addresses_reasons_come_from_system_calls_and_that_is_said() {
    let program = "import socket, sys, threading, time\nlock = threading.Lock()\nlock.acquire()\n\
                   here, there = socket.socketpair()\n\
                   def locks(): lock.acquire()\ndef receives(): here.recv(1)\n\
                   def sleeps():\n    for _ in range(10): time.sleep(0.03)\n\
                   threading.Thread(target=locks).start()\nthreading.Thread(target=receives).start()\n\
                   print('ready', flush=True)\nsys.stdin.readline()\nsleeps()\nlock.release()\n\
                   there.send(b'x')\nprint('over', flush=True)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    // As /proc/kallsyms is where kernel.kptr_restrict is 2, for this pystap alone.
    let hidden = tempfile::NamedTempFile::new().expect("a file");
    fs::write(hidden.path(), "0000000000000000 T schedule\n").expect("written");
    let script = "mount --bind \"$1\" /proc/kallsyms && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(hidden.path()).arg(PYSTAP);
    let watching = Watching::start_by(&mut command, running.pid(), &["--json", "--idle"]);
    let said = watching.said.clone();
    running.go_on();
    running.line();
    waits(running.pid(), running.pid().into());
    let told = watching.json();
    assert!(said.contains("kptr_restrict"), "{said}");
    let seen = ["sleep", "other"].map(|reason| count(&told, "sleeps", reason));
    assert_eq!(seen.iter().sum::<u64>(), 10, "{told:#}");
    // Each lasts longer than the time between two looks, but a look may come late.
    assert!(seen[0] >= 5, "{told:#}");
    // What they wait for cannot be told from a lock.
    assert_eq!(count(&told, "locks", "lock"), 1, "{told:#}");
    assert_eq!(count(&told, "receives", "network"), 1, "{told:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn people_get_a_table_at_the_end_and_at_every_interval() {
    let program = "import sys, time\nprint('ready', flush=True)\nsys.stdin.readline()\n\
                   def sleeps():\n    while True: time.sleep(0.02)\nsleeps()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let watching = Watching::start(running.pid(), &["--batch"]);
    running.go_on();
    // Until it must have waited.
    let end = Instant::now() + BOUND;
    let begun = waits(running.pid(), running.pid().into());
    while waits(running.pid(), running.pid().into()) < begun + 5 {
        assert!(Instant::now() < end);
    }
    let page = watching.end();
    assert_eq!(page.matches("FUNCTION  WOKEN BY").count(), 1, "{page}");
    assert!(page.contains("sleeps  <string>"), "{page}");
    let arguments = ["--batch", "-i", "100ms", "-d", "1s"];
    let mut watching = Watching::start(running.pid(), &arguments);
    let mut pages = String::new();
    let mut stdout = watching.child.stdout.take().expect("a pipe");
    stdout.read_to_string(&mut pages).expect("text");
    assert!(watching.child.wait().expect("ended").success());
    assert!(pages.matches("FUNCTION  WOKEN BY").count() > 2, "{pages}");
    // The same as stacks.
    let stacks = Watching::start(running.pid(), &["--format", "folded", "-d", "300ms"]).whole();
    let (frames, time) = stacks.trim().rsplit_once(' ').expect("a line");
    assert!(
        frames.ends_with(";sleeps (<string>);[sleep: clock_nanosleep]"),
        "{stacks}"
    );
    assert!(
        time.parse::<u64>().expect("a number") > 200_000_000,
        "{stacks}"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("waits.svg");
    let path = file.to_str().expect("text");
    let arguments = ["--format", "flamegraph", "-o", path, "-d", "300ms"];
    assert_eq!(Watching::start(running.pid(), &arguments).whole(), "");
    let drawn = fs::read_to_string(file).expect("written");
    assert!(drawn.contains("[sleep: clock_nanosleep]"), "{drawn}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn what_is_lost_is_told_and_no_long_wait_is_made_of_it() {
    // Twice as many switches as the kernel's buffers hold, to and fro between two processes.
    let program = "import os, sys, time\nthere, back = os.pipe(), os.pipe()\n\
                   def trips():\n    for _ in range(100_000):\n        \
                   os.write(there[1], b'x')\n        os.read(back[0], 1)\n\
                   if os.fork() == 0:\n    os.close(there[1])\n    \
                   while os.read(there[0], 1) == b'x': os.write(back[1], b'x')\n    os._exit(0)\n\
                   os.sched_setaffinity(0, {0})\nprint('ready', flush=True)\nsys.stdin.readline()\n\
                   begin = time.perf_counter()\ntrips()\n\
                   print(time.perf_counter() - begin, flush=True)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let watching = Watching::start(running.pid(), &["--json"]);
    let pystap = Pid::from_child(&watching.child);
    kill_process(pystap, Signal::STOP).expect("it runs");
    running.go_on();
    let took: f64 = running.line().trim().parse().expect("seconds");
    kill_process(pystap, Signal::CONT).expect("it is there");
    let counted = waits(running.pid(), running.pid().into());
    let told = watching.json();
    let lost = told["lost_records"].as_u64().expect("a number");
    assert!(lost > 1000, "{told:#}");
    let thread = told["threads"][0]["waits"].as_u64().expect("a number");
    assert!((100..counted).contains(&thread), "{counted}: {told:#}");
    let rows = told["rows"].as_array().expect("rows");
    for row in rows.iter().filter(|row| innermost(row) == Some("trips")) {
        let longest = row["max_ns"].as_f64().expect("a number") / 1e9;
        assert!(longest < took / 2.0, "{took}: {row:#}");
    }
    // None is longer than all of them may be together.
    let blocked = told["threads"][0]["blocked_ns"].as_f64().expect("a number") / 1e9;
    assert!(
        blocked <= told["seconds"].as_f64().expect("a number"),
        "{told:#}"
    );
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn a_user_who_may_not_watch_is_told_what_to_do() {
    // Elsewhere the path to the program may be closed to others.
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let program = directory.path().join("pystap");
    executable::copy(PYSTAP, &program);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("opened");
    let mut python = Command::new(PYTHON);
    python.args(["-c", "import sys; print(flush=True); sys.stdin.read()"]);
    let mut running = Running::start(python.uid(65534).gid(65534));
    running.line();
    let output = Command::new(&program)
        .args([
            "offcpu",
            "--json",
            "-d",
            "1s",
            "-p",
            &running.pid().to_string(),
        ])
        .uid(65534)
        .gid(65534)
        .output()
        .expect("pystap runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("sudo pystap"), "{said}");
}

#[test]
fn a_live_table_needs_a_terminal_and_a_target_must_be_python() {
    let run = |arguments: &[&str]| {
        let output = Command::new(PYSTAP)
            .arg("offcpu")
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
    let (code, said) = run(&["--batch", "-p", &own]);
    assert_eq!(code, Some(4), "{said}");
    let (code, said) = run(&["--batch", "--reason", "boredom", "-p", &own]);
    assert_eq!(code, Some(2), "{said}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11, root and tmux: run by scripts/test-here"]
fn the_live_table_obeys_keys_and_gives_the_terminal_back() {
    let program = "import sys, threading, time\nprint('ready', flush=True)\n\
                   def sleeps():\n    while True: time.sleep(0.02)\n\
                   threading.Thread(target=sleeps, daemon=True).start()\n\
                   from concurrent.futures import ThreadPoolExecutor\n\
                   pool = ThreadPoolExecutor(1)\npool.submit(int)\nsys.stdin.readline()";
    let mut running = Running::start(Command::new(PYTHON).args(["-c", program]));
    running.line();
    let terminal = Terminal::open(150, 24);
    terminal.keys(&format!("{PYSTAP} offcpu -i 100ms -p {}", running.pid()));
    terminal.key("Enter");
    terminal.wait("the table", |shown| {
        ["FUNCTION", "sleeps", "b by (function)", "not shown"]
            .iter()
            .all(|it| shown.contains(it))
            && !shown.contains("_worker")
    });
    terminal.keys("i");
    terminal.wait("idleness", |shown| shown.contains("_worker"));
    terminal.keys("b");
    terminal.wait("threads", |shown| {
        let named = format!("python3.11 ({})", running.pid());
        shown.contains("b by (thread)") && shown.contains(&named)
    });
    terminal.keys("p");
    terminal.wait("a pause", |shown| shown.contains("PAUSED"));
    terminal.keys("p");
    // When the process ends, so does the table.
    running.go_on();
    running.0.wait().expect("ended");
    terminal.wait("the terminal as it was", |shown| {
        shown.contains("offcpu -i") && shown.contains("watching") && !shown.contains("FUNCTION")
    });
}

#[test]
fn what_a_module_cannot_do_and_options_without_one_are_refused() {
    let refused = |options: &[&str]| {
        let asked = [&["offcpu", "--batch", "-p", "1"], options].concat();
        let refused = crate::command::pystap_with(&asked);
        assert_eq!(refused.code, 2);
        refused.only_error().to_owned()
    };
    assert_eq!(
        refused(&["--engine", "stap", "--by", "waker"]),
        "SystemTap's module is not told who wakes, so --by waker has nothing to show; use --engine perf"
    );
    let without = refused(&["--stap", "/usr/bin/stap"]);
    assert!(without.contains("add --engine stap"), "{without}");
    assert_eq!(refused(&["--stap-arg=-v"]), without);
}
