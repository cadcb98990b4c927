//! Fault injection: the nth open, read, write, mapping, socket, … of pystap fails, as on a host that is short of
//! everything, for every n in turn or, where there are many, for a sample of each range. Then the summary equals what
//! the program counted, or pystap says that it does not; nothing is left; and the traced program is unharmed.
//! `tests/uprobes/run` runs these here.
//!
//! strace injects the faults: `-e inject` counts the calls of each thread separately, so one n can be several faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Service;
use super::uprobes::tree;
use crate::command::{PYTHON, command, end, file, pystap, run};
use crate::tracing::{Way, groups, leaves_nothing, numbers};

/// Far longer than a session takes on a busy machine, including strace.
const IN_TIME: Duration = Duration::from_secs(30);
/// How long a session that has written something may take to say so.
const UNSAID: Duration = Duration::from_secs(2);
/// Sessions that run in parallel.
const AT_A_TIME: usize = 4;
/// How many values of n are tried for a system call that is made often.
const SAMPLES: u64 = 8;
/// Number of requests that the program is given.
const REQUESTS: usize = 20;

/// System calls with the errors that are injected.
type Faults = [(&'static str, &'static str)];

/// A call of a session that fails.
#[derive(Debug, Clone, Copy)]
struct Fault<'a> {
    /// The system call and its error.
    call: (&'static str, &'static str),
    /// Which of the calls, counted in each thread.
    number: u64,
    /// Only calls for this file of the target in /proc count.
    file: Option<&'a str>,
}

/// What a session is run on.
#[derive(Clone, Copy)]
struct Case<'a> {
    start: &'a (dyn Fn() -> Service + Sync),
    /// The program's path as the interpreter reports it.
    program: &'a str,
    options: &'a [&'a str],
}

/// The outcome of a session with or without a fault.
struct Outcome {
    /// The number of calls per system call, by the thread that made most.
    made: BTreeMap<String, u64>,
    /// The last call of each system call for each file name, ignoring digits: its index within its thread.
    last: BTreeSet<(String, u64)>,
    injected: bool,
    /// Its exit status.
    code: Option<i32>,
    said: Vec<String>,
    /// What is wrong.
    complaint: Option<String>,
}

impl Case<'_> {
    /// Traces the program while it answers some requests.
    fn session(&self, calls: &Faults, fault: Option<Fault<'_>>) -> Outcome {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let events = directory.path().join("events");
        let mut service = (self.start)();
        let names: Vec<&str> = calls.iter().map(|(name, _)| *name).collect();
        let mut strace = Command::new("strace");
        // In the background, so that pystap is our own child.
        strace
            .args(["-D", "-f", "-q", "-e", "signal=none", "-o"])
            .arg(&log);
        strace.arg("-e").arg(format!("trace={}", names.join(",")));
        if let Some(Fault {
            call: (name, error),
            number,
            file,
        }) = fault
        {
            if let Some(file) = file {
                strace.arg(format!("--trace-path=/proc/{}/{file}", service.pid()));
            }
            strace
                .arg("-e")
                .arg(format!("inject={name}:error={error}:when={number}"));
        }
        strace
            .arg(pystap())
            .args([
                "trace",
                "--engine",
                "uprobes",
                "--events",
                "call,return",
                "--output",
            ])
            .arg(&events)
            .args(self.options)
            .args(["-p", &service.pid()])
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = strace.spawn().expect("strace is there");
        let said = Said::of(child.stderr.take().expect("piped"));
        // It may fail to report that it is live; then its output shows that it has got that far, or nearly.
        let begun = Instant::now();
        let mut written = None;
        while begun.elapsed() < IN_TIME && child.try_wait().expect("ours").is_none() {
            if written.is_none() && fs::metadata(&events).is_ok_and(|file| file.len() > 0) {
                written = Some(Instant::now());
            }
            if said.has("live, tracing") || written.is_some_and(|at| at.elapsed() > UNSAID) {
                break;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        for _ in 0..REQUESTS {
            assert_eq!(service.request("fail").trim_end(), "failed fail");
        }
        let _ = kill_process(Pid::from_child(&child), Signal::INT);
        let code = end(&mut child, IN_TIME);
        if code.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let said = said.all();
        let mut truth = numbers(&service.end()["calls"]);
        truth.retain(|_, calls| *calls > 0);
        let log = whole(&log, child.id());
        let wrong = match code {
            None => Some(format!("did not end within {IN_TIME:?}")),
            Some(code) => wrong(code, &said, &events, self.program, &truth),
        };
        Outcome {
            made: made(&log),
            last: last_of_each_file(&log),
            injected: log.contains("(INJECTED)"),
            code,
            complaint: wrong.map(|wrong| {
                let fault = fault.map_or_else(
                    || "no fault".to_owned(),
                    |Fault { call, number, .. }| {
                        format!("{} from {} number {number}", call.1, call.0)
                    },
                );
                let lines: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains("(INJECTED)"))
                    .collect();
                format!("{fault} ({lines:#?}): {wrong}: {said:#?}")
            }),
            said,
        }
    }

    /// Makes every system call fail in turn, in several sessions at a time.
    fn endures(&self, calls: &Faults) {
        let undisturbed = self.session(calls, None);
        assert_eq!(undisturbed.complaint, None);
        assert_eq!(undisturbed.code, Some(0), "{:#?}", undisturbed.said);
        // What precedes pystap's own first step belongs to the dynamic linker and the runtime, which have their own
        // messages.
        let before = starting(calls);
        let mut faults = Vec::new();
        for (name, error) in calls {
            let most = undisturbed.made.get(*name).copied().unwrap_or(0);
            assert!(most > 0, "{name} is never called: {:?}", undisturbed.made);
            let step = most.div_ceil(SAMPLES).max(1);
            // The first, the last, one of each range in between, and the last for each file.
            let first = before.get(*name).copied().unwrap_or(0) + 1;
            let between = (first..most).step_by(step as usize);
            let of_files = undisturbed.last.iter();
            let of_files = of_files.filter(|(of, number)| of == name && *number >= first);
            let numbers: BTreeSet<u64> = between
                .chain([most])
                .chain(of_files.map(|(_, number)| *number))
                .collect();
            faults.extend(numbers.into_iter().map(|number| Fault {
                call: (*name, *error),
                number,
                file: None,
            }));
        }
        let count = faults.len();
        let waiting = Mutex::new(faults.into_iter());
        let next = || waiting.lock().expect("no panic").next();
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while let Some(fault) = next() {
                        let outcome = self.session(calls, Some(fault));
                        outcomes.lock().expect("no panic").push(outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().expect("no panic");
        // Threads do not make the same calls each time, so a few values are not reached.
        let injected = outcomes.iter().filter(|outcome| outcome.injected).count();
        println!("{injected} of {count} faults came about");
        assert!(
            injected * 4 > count * 3,
            "{injected} of {count} faults came about"
        );
        let complaints: Vec<String> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.complaint)
            .collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

/// The calls made by a pystap that has nothing to do.
fn starting(calls: &Faults) -> BTreeMap<String, u64> {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let names: Vec<&str> = calls.iter().map(|(name, _)| *name).collect();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-q", "-e", "signal=none", "-o"])
        .arg(log.path());
    strace.arg("-e").arg(format!("trace={}", names.join(",")));
    let ended = strace.arg(pystap()).arg("--version").output();
    assert!(ended.expect("strace is there").status.success());
    made(&fs::read_to_string(log.path()).expect("strace has written it"))
}

/// What pystap prints, read on a thread so that it never waits for us.
struct Said {
    lines: Arc<Mutex<Vec<String>>>,
    reader: thread::JoinHandle<()>,
}

impl Said {
    fn of(pipe: std::process::ChildStderr) -> Said {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let said = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                said.lock().expect("no panic").push(line);
            }
        });
        Said { lines, reader }
    }

    fn has(&self, words: &str) -> bool {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().any(|line| line.contains(words))
    }

    fn all(self) -> Vec<String> {
        self.reader.join().expect("no panic");
        std::mem::take(&mut self.lines.lock().expect("no panic"))
    }
}

/// strace's log once it is complete: strace ends a moment after the traced process.
fn whole(log: &Path, pystap: u32) -> String {
    let ended = [
        format!("\n{pystap} +++ exited"),
        format!("\n{pystap} +++ killed"),
    ];
    let read = || fs::read_to_string(log).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut text = read();
    while !ended.iter().any(|line| text.contains(line)) && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(5));
        text = read();
    }
    text
}

/// The calls of a log: thread, name, arguments.
fn calls(log: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    log.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        let (name, arguments) = rest.trim_start().split_once('(')?;
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        name.chars()
            .all(is_name)
            .then_some((thread, name, arguments))
    })
}

/// See [`Outcome::last`].
fn last_of_each_file(log: &str) -> BTreeSet<(String, u64)> {
    let mut threads: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut last: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for (thread, name, arguments) in calls(log) {
        let number = threads.entry((thread, name)).or_default();
        *number += 1;
        if name == "openat"
            && let Some(path) = arguments.split('"').nth(1)
        {
            let file = path.rsplit('/').next().unwrap_or(path);
            let file = file.replace(|letter: char| letter.is_ascii_digit(), "");
            last.insert((name, file), *number);
        }
    }
    let last = last.into_iter();
    last.map(|((name, _), number)| (name.to_owned(), number))
        .collect()
}

/// The number of calls per system call, by the thread that made most.
fn made(log: &str) -> BTreeMap<String, u64> {
    let mut threads: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (thread, name, _) in calls(log) {
        *threads.entry((thread, name)).or_default() += 1;
    }
    let mut made: BTreeMap<String, u64> = BTreeMap::new();
    for ((_, name), count) in threads {
        let most = made.entry(name.to_owned()).or_default();
        *most = count.max(*most);
    }
    made
}

/// What is wrong with how a session ended; `None` if it told the truth, or said that it could not.
fn wrong(
    code: i32,
    said: &[String],
    events: &Path,
    program: &str,
    truth: &BTreeMap<String, u64>,
) -> Option<String> {
    let says = |words: &str| said.iter().any(|line| line.contains(words));
    if says("panicked") {
        return Some("it panicked".to_owned());
    }
    match code {
        0 => {}
        1..=4 if says("pystap: error: ") => return None,
        // It had no place to report anything, or could not even be loaded.
        1..=4 if said.is_empty() => return None,
        127 if says("error while loading shared libraries") => return None,
        134 if says("memory allocation of") => return None,
        code => return Some(format!("ended with {code} and no error")),
    }
    let text = fs::read_to_string(events).unwrap_or_default();
    let traced = crate::tracing::read(&text, code, said.to_vec(), String::new());
    let summary = &traced.summary;
    if summary.lost + summary.skipped + summary.unparsed > 0 || summary.uncounted {
        return None;
    }
    for way in [Way::In, Way::Out] {
        let mut counts = traced.counts(program, way);
        counts.retain(|function, _| truth.contains_key(function));
        if counts != *truth {
            return Some(format!(
                "{way:?}: told {counts:?} instead of {truth:?} as if nothing were lost"
            ));
        }
    }
    None
}

/// The program in the tree of Debian testing, as its interpreter reports it.
pub(super) const WITHOUT_MARKS: &str = "/pystap/programs/answers.py";

/// That program, run by a Python 3.14 without marks.
pub(super) fn service_without_marks() -> Service {
    let tree = tree("guest");
    fs::create_dir_all(tree.join("pystap/programs")).expect("made");
    let there = tree.join(WITHOUT_MARKS.trim_start_matches('/'));
    if !there.exists() {
        fs::copy(file("tests/programs/answers.py"), there).expect("copied");
    }
    let mut chroot = Command::new("chroot");
    chroot
        .arg(&tree)
        .args(["/usr/bin/python3.14", WITHOUT_MARKS]);
    Service::of(chroot)
}

/// Checks that nothing of ours is left in the kernel and on disk once all sessions have ended; the next session removes
/// what a killed one left.
fn leaves_nothing_after_cleanup(test: impl FnOnce()) {
    leaves_nothing(|| {
        test();
        let ended = run(&mut command(["cleanup"]));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(groups(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs strace and uprobe events: run by tests/uprobes/run"]
fn a_session_of_an_interpreters_own_marks_tells_the_truth_whatever_fails() {
    leaves_nothing_after_cleanup(|| {
        let case = Case {
            start: &|| Service::start_with(PYTHON, "examples/service.py", &[]),
            program: &file("examples/service.py"),
            options: &[],
        };
        case.endures(&[
            ("openat", "EMFILE"),
            ("read", "EIO"),
            ("write", "ENOSPC"),
            ("mmap", "ENOMEM"),
            ("perf_event_open", "EMFILE"),
            ("ioctl", "ENOMEM"),
            ("clone3", "EAGAIN"),
            ("eventfd2", "EMFILE"),
        ]);
    });
}

#[test]
#[ignore = "needs strace and uprobe events: run by tests/uprobes/run"]
fn a_process_whose_threads_cannot_be_listed_is_not_taken_for_one_that_has_ended() {
    leaves_nothing_after_cleanup(|| {
        let case = Case {
            start: &|| Service::start_with(PYTHON, "examples/service.py", &[]),
            program: &file("examples/service.py"),
            options: &[],
        };
        let fault = Fault {
            call: ("openat", "EMFILE"),
            number: 1,
            file: Some("task"),
        };
        let outcome = case.session(&[fault.call], Some(fault));
        assert!(outcome.injected);
        assert_eq!((outcome.code, outcome.complaint), (Some(3), None));
        let said = outcome.said.join("\n");
        assert!(
            said.contains("cannot be traced (Too many open files"),
            "{said}"
        );
    });
}

#[test]
#[ignore = "needs strace and uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_session_with_the_agent_tells_the_truth_whatever_fails_in_a_tree() {
    leaves_nothing_after_cleanup(|| {
        let case = Case {
            start: &service_without_marks,
            program: WITHOUT_MARKS,
            options: &["--subprocesses"],
        };
        case.endures(&[
            ("openat", "EMFILE"),
            ("write", "ENOSPC"),
            ("mmap", "ENOMEM"),
            ("perf_event_open", "EMFILE"),
            ("socket", "EMFILE"),
            ("accept4", "EMFILE"),
            ("eventfd2", "EMFILE"),
            ("process_vm_writev", "ESRCH"),
            ("sendmsg", "ENOBUFS"),
        ]);
    });
}
