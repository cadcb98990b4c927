//! `pystap top` with sums computed in the kernel: they must equal what programs count themselves, and what pystap
//! computes from single events.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PYTHON, Script, Service, agent, ticking};
use crate::command::{Ended, command, end, file, pystap, run};
use crate::tracing::{BOUND, leaves_nothing, numbers};

// What Python 3.15's own probes tell is not added up in the kernel.
const ALL: &[&str] = &["--agent"];
const ONE_FUNCTION: &[&str] = &["--agent", "--function", "fib"];
const SMALL_TABLE: &[&str] = &["--agent", "--stap-arg", "-DPYSTAP_ROWS=16"];

const fn of_python(options: &'static [&'static str]) -> Script {
    Script {
        python: PYTHON,
        options,
    }
}

/// Scripts of `pystap top`.
pub(crate) const SCRIPTS: [Script; 4] = [
    of_python(ALL),
    of_python(ONE_FUNCTION),
    of_python(SMALL_TABLE),
    agent::CALLS_3_14,
];

/// The last table of a session, and what the program said of itself.
#[derive(Debug)]
struct Topped {
    account: Value,
    functions: Vec<Value>,
    truth: Value,
}

fn top(options: &[&str]) -> Command {
    let mut command = command(["top", "--engine", "stap"]);
    // The cache of compiled scripts is found through it.
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    command.args(options);
    command
}

fn topped(options: &[&str], program: &str) -> Topped {
    topped_with(PYTHON, options, program)
}

fn topped_with(python: &str, options: &[&str], program: &str) -> Topped {
    // Only the last table counts here; earlier ones would take the emulated machine longer than the program.
    let mut command = top(&["--json", "--by-process", "-i", "20", "--limit", "100000"]);
    command.args(options).args(["--", python, &file(program)]);
    read(run(&mut command))
}

fn read(ended: Ended) -> Topped {
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.stderr.contains("compiling"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing lost"), "{}", ended.stderr);
    let lines = ended.stdout.lines();
    let objects: Vec<Value> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let last = |key: &str| {
        let found = objects.iter().rfind(|object| object.get(key).is_some());
        found
            .unwrap_or_else(|| panic!("no {key}: {}", ended.stderr))
            .clone()
    };
    let table = last("account");
    Topped {
        account: table["account"].clone(),
        functions: table["functions"].as_array().expect("rows").clone(),
        truth: last("calls"),
    }
}

impl Topped {
    /// The row of a function.
    fn row<'a>(&'a self, program: &str, function: &str) -> &'a Value {
        let row = self.functions.iter().find(|row| {
            row["function"] == function
                && row["file"].as_str().is_some_and(|it| it.ends_with(program))
        });
        row.unwrap_or_else(|| panic!("{function} is missing: {:#?}", self.functions))
    }

    fn number(&self, program: &str, function: &str, key: &str) -> u64 {
        let number = &self.row(program, function)[key];
        number.as_u64().unwrap_or_else(|| panic!("{key}: {number}"))
    }

    /// There are as many calls as the program says, all returned, and every duration is certain.
    fn calls_are(&self, program: &str, calls: &Value) {
        for (function, calls) in numbers(calls) {
            let row = self.row(program, &function);
            assert_eq!(row["calls"], calls, "{function}: {row}");
            assert_eq!(row["unmatched_returns"], 0, "{function}: {row}");
            assert_eq!(row["durations"]["count"], calls, "{function}: {row}");
            let sum: u64 = row["durations"]["log2"]
                .as_array()
                .expect("buckets")
                .iter()
                .map(|bucket| bucket["count"].as_u64().expect("a number"))
                .sum();
            assert_eq!(sum, calls, "{function}: {row}");
        }
        assert_eq!(self.account["lost"], 0);
        assert_eq!(self.account["calls_without_row"], 0);
    }

    /// What must be the same however it was summed: calls, returns without one and durations, by file and name.
    fn counts_by_name(&self) -> BTreeMap<(String, String), [u64; 3]> {
        let mut counts: BTreeMap<_, [u64; 3]> = BTreeMap::new();
        for (file, function, calls, unmatched, timed, _) in self.counts_in("") {
            let sums = counts.entry((file, function)).or_default();
            for (sum, number) in sums.iter_mut().zip([calls, unmatched, timed]) {
                *sum += number;
            }
        }
        counts
    }

    /// The same of each row, and its line, for functions in files with this suffix.
    fn counts_in(&self, program: &str) -> Vec<(String, String, u64, u64, u64, i64)> {
        let mut counts: Vec<_> = self
            .functions
            .iter()
            .filter(|row| row["file"].as_str().is_some_and(|it| it.ends_with(program)))
            .map(|row| {
                let text = |key: &str| row[key].as_str().expect("a name").to_owned();
                let number = |key: &str| row[key].as_u64().expect("a number");
                (
                    text("file"),
                    text("function"),
                    number("calls"),
                    number("unmatched_returns"),
                    row["durations"]["count"].as_u64().expect("a number"),
                    row["line"].as_i64().unwrap_or(-1),
                )
            })
            .collect();
        counts.sort();
        counts
    }
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn sums_of_a_recursion_count_its_time_once() {
    leaves_nothing(|| {
        let traced = topped(ALL, "examples/fib.py");
        traced.calls_are("/fib.py", &traced.truth["calls"]);
        let of = |function, key| traced.number("/fib.py", function, key);
        let (fib, main) = (of("fib", "cumulative_ns"), of("main", "cumulative_ns"));
        let whole = of("<module>", "cumulative_ns");
        assert!(
            0 < fib && fib <= main && main <= whole,
            "{fib} {main} {whole}"
        );
        // The outermost call is the longest, and takes all of the time.
        let longest = &traced.row("/fib.py", "fib")["durations"]["max_ns"];
        assert_eq!(longest.as_u64(), Some(fib));
        // Its own time is all of it, because it calls only itself.
        assert_eq!(of("fib", "self_ns"), fib);
        let sum = traced.row("/fib.py", "fib")["durations"]["sum_ns"].as_u64();
        assert!(sum > Some(fib), "the inner calls are in the distribution");
        assert_eq!(traced.row("/fib.py", "fib")["line"], 11);
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn sums_of_threads_come_together_in_one_row() {
    leaves_nothing(|| {
        let traced = topped(ALL, "examples/threads.py");
        traced.calls_are("/threads.py", &traced.truth["calls"]);
        let of = |function, key| traced.number("/threads.py", function, key);
        assert!(of("work", "cumulative_ns") <= of("worker", "cumulative_ns"));
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn sums_of_generators_and_exceptions_are_those_of_single_events() {
    leaves_nothing(|| {
        let (program, name) = ("examples/generators.py", "/generators.py");
        let kernel = topped(ALL, program);
        // Creating a generator is not a call.
        let mut calls = numbers(&kernel.truth["calls"]);
        calls.extend(numbers(&kernel.truth["resumed"]));
        for (function, calls) in calls {
            assert_eq!(kernel.number(name, &function, "calls"), calls, "{function}");
        }
        for (function, resumed) in numbers(&kernel.truth["resumed"]) {
            let durations = &kernel.row(name, &function)["durations"]["count"];
            assert_eq!(durations.as_u64(), Some(resumed), "{function}");
        }
        for function in ["outer", "middle", "inner"] {
            assert_eq!(
                kernel.row(name, function)["durations"]["count"],
                1,
                "{function}"
            );
        }
        let user = topped(&["--agent", "--no-kernel-totals"], program);
        assert_eq!(kernel.counts_by_name(), user.counts_by_name());
        // The kernel has one row for functions that share name and file, which says so; others are the same in both.
        for row in &kernel.functions {
            let same = |other: &&Value| {
                ["file", "function", "qualname"]
                    .iter()
                    .all(|key| other[key] == row[key])
            };
            let of_user: Vec<&Value> = user.functions.iter().filter(same).collect();
            match of_user.as_slice() {
                [only] => assert_eq!(only["line"], row["line"], "{row}"),
                _ => assert_eq!(row["maybe_several"], true, "{row}"),
            }
        }
        assert_eq!(kernel.account["unpaired"], user.account["unpaired"]);
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn sums_of_tasks_that_the_agent_tells_apart_are_those_of_single_events() {
    leaves_nothing(|| {
        let (program, name) = ("tests/programs/contexts.py", "/contexts.py");
        let python = agent::CALLS_3_14.python;
        let kernel = topped_with(python, ALL, program);
        kernel.calls_are(name, &kernel.truth["calls"]);
        let user = topped_with(python, &["--no-kernel-totals"], program);
        assert_eq!(kernel.counts_in(name), user.counts_in(name));
        for topped in [&kernel, &user] {
            assert_eq!(topped.account["unpaired"], 0);
            // Each of three tasks is resumed four times after its start.
            assert_eq!(topped.number(name, "run", "calls"), 15);
            assert_eq!(topped.row(name, "run")["durations"]["count"], 15);
            let (run, step) = ("run", "step");
            let cumulative = |function| topped.number(name, function, "cumulative_ns");
            assert!(cumulative(step) < cumulative(run), "{topped:?}");
        }
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn collections_are_part_of_the_account() {
    leaves_nothing(|| {
        let traced = topped(ALL, "examples/collect.py");
        traced.calls_are("/collect.py", &traced.truth["calls"]);
        let gc = traced.account["gc_ns"].as_u64().expect("a number");
        let full = traced.number("/collect.py", "collect_all", "cumulative_ns");
        let wall = traced.account["wall_ns"].as_u64().expect("a number");
        assert!(0 < gc && gc < wall, "{gc} {full} {wall}");
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn children_have_rows_of_their_own() {
    leaves_nothing(|| {
        let traced = topped(ALL, "examples/forks.py");
        let rows = traced
            .functions
            .iter()
            .filter(|row| row["function"] == "work");
        let mut calls: Vec<_> = rows.map(|row| row["calls"].as_u64()).collect();
        calls.sort();
        // The second child executes another program, and stays the same process.
        assert_eq!(calls, [Some(10), Some(15)]);
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_filter_leaves_nothing_else_in_the_table() {
    leaves_nothing(|| {
        let traced = topped(ONE_FUNCTION, "examples/fib.py");
        assert_eq!(traced.functions.len(), 1, "{:#?}", traced.functions);
        assert_eq!(traced.number("/fib.py", "fib", "calls"), 177);
        assert_eq!(traced.account["unpaired"], 0);
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_full_table_says_how_many_calls_are_in_no_row() {
    leaves_nothing(|| {
        let traced = topped(SMALL_TABLE, "examples/fib.py");
        // One row is for the collections, if there were any.
        assert!(
            (15..=16).contains(&traced.functions.len()),
            "{:#?}",
            traced.functions
        );
        let without = traced.account["calls_without_row"].as_u64();
        assert!(without > Some(177), "{without:?}");
        assert_eq!(traced.account["lost"], 0);
        let mut lines = top(SMALL_TABLE);
        lines.args(["-b", "--", PYTHON, &file("examples/fib.py")]);
        let said = run(&mut lines).stdout;
        assert!(said.contains("; table full, "), "{said}");
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_service_is_attached_to_in_its_midst() {
    leaves_nothing(|| {
        let mut service = Service::start("examples/service.py", &[]);
        let mut command = top(&[
            "--json",
            "-i",
            "1",
            "--limit",
            "100000",
            "-p",
            &service.pid(),
        ]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pystap starts");
        let mut session = Session(child);
        let mut said = String::new();
        session.until("live, tracing", &mut said);
        for word in ["Hello", "fail", "bye"] {
            service.request(word);
        }
        let truth = service.end();
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut session.0.stdout.take().expect("piped"), &mut stdout)
            .expect("read");
        assert_eq!(end(&mut session.0, BOUND), Some(0));
        let table: Value =
            serde_json::from_str(stdout.lines().last().expect("a table")).expect("JSON");
        let traced = Topped {
            account: table["account"].clone(),
            functions: table["functions"].as_array().expect("rows").clone(),
            truth,
        };
        traced.calls_are("/service.py", &traced.truth["calls"]);
        // What was open when the session started returns, without its call having been seen.
        assert_eq!(traced.row("/service.py", "main")["unmatched_returns"], 1);
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_reset_counts_anew() {
    leaves_nothing(|| {
        let mut service = ticking();
        let directory = tempfile::tempdir().expect("a directory");
        let mut screen = Screen::start(&service.pid(), directory.path());
        // Several seconds' worth: the first table after the reset may come late, and has to have fewer.
        let before = screen.ticks(directory.path(), |ticks| ticks >= 300);
        screen.key("r");
        let after = screen.ticks(directory.path(), |ticks| ticks < before);
        assert!(after < before, "{after} {before}");
        screen.key("q");
        assert_eq!(end(&mut screen.session.0, BOUND), Some(0));
        service.end();
    });
}

/// A pystap that is stopped when the test fails.
struct Session(Child);

impl Session {
    /// Reads its output until these words appear.
    fn until(&mut self, words: &str, said: &mut String) {
        use std::io::BufRead;
        let stderr = self.0.stderr.take().expect("piped");
        let mut lines = std::io::BufReader::new(stderr);
        while !said.contains(words) {
            let read = lines.read_line(said).expect("read");
            assert!(read > 0, "{words:?} was not said: {said}");
        }
        // It may print more, and must not find its pipe closed.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let process = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
            let _ = end(&mut self.0, Duration::from_secs(20));
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The live table on a terminal made by `script`.
struct Screen {
    session: Session,
    keys: ChildStdin,
    /// What it shows, with which a test that fails says why.
    shown: tempfile::NamedTempFile,
}

impl Screen {
    fn start(pid: &str, directory: &Path) -> Screen {
        let command = format!(
            "stty rows 24 cols 200; exec {} top --engine stap -i 1 -p {pid}",
            pystap().display()
        );
        let shown = tempfile::NamedTempFile::new().expect("a file");
        let mut command_line = Command::new("script");
        let mut child = command_line
            .args(["-qfec", &command, "/dev/null"])
            .current_dir(directory)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(shown.reopen().expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("script is installed");
        let keys = child.stdin.take().expect("piped");
        Screen {
            session: Session(child),
            keys,
            shown,
        }
    }

    fn key(&mut self, key: &str) {
        use std::io::Write;
        if let Err(error) = self.keys.write_all(key.as_bytes()) {
            panic!("{error}; {}", self.last_shown());
        }
    }

    /// How its session ended, if it did, and the end of what it showed.
    fn last_shown(&mut self) -> String {
        let ended = self.session.0.try_wait();
        let shown = fs::read(self.shown.path()).unwrap_or_default();
        let end = &shown[shown.len().saturating_sub(4096)..];
        format!("{ended:?}: {:?}", String::from_utf8_lossy(end))
    }

    /// Has the table written to files until the calls of tick() in it are as wanted.
    fn ticks(&mut self, directory: &Path, wanted: impl Fn(u64) -> bool) -> u64 {
        let deadline = Instant::now() + BOUND;
        loop {
            for entry in fs::read_dir(directory).expect("a directory").flatten() {
                let table = fs::read_to_string(entry.path()).expect("a table");
                let _ = fs::remove_file(entry.path());
                let row = table.lines().find(|line| line.contains(" tick "));
                let calls = row.and_then(|row| row.split_whitespace().next()?.parse().ok());
                if let Some(calls) = calls
                    && wanted(calls)
                {
                    return calls;
                }
            }
            assert!(Instant::now() < deadline, "{}", self.last_shown());
            self.key("w");
            std::thread::park_timeout(Duration::from_millis(300));
        }
    }
}
