//! `pystap top --sample` with real interpreters: all from 3.8 on that are here, compared with what a program measured of itself.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dump::interpreters;
use crate::offcpu::Running;
use crate::terminal::{Terminal, quoted};

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";
const PROGRAM: &str = include_str!("../programs/sampling.py");
const BOUND: Duration = Duration::from_secs(60);

/// `pystap top --sample --json`, a table every 100 ms. Killed on drop.
struct Sampling {
    child: Child,
    tables: BufReader<ChildStdout>,
}

impl Sampling {
    fn start(arguments: &[&str]) -> Sampling {
        let mut child = Command::new(PYSTAP)
            .args(["top", "--json", "--interval", "100ms"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("pystap runs");
        let tables = BufReader::new(child.stdout.take().expect("a pipe"));
        Sampling { child, tables }
    }

    /// The first table of which this is true.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + BOUND;
        loop {
            let mut line = String::new();
            self.tables.read_line(&mut line).expect("a line");
            let table: Value = serde_json::from_str(&line).expect("JSON");
            if wanted(&table) {
                return table;
            }
            assert!(Instant::now() < end, "{table:#}");
        }
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        assert!(self.child.wait().expect("ended").success());
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A function of the program, however qualified.
fn function<'a>(table: &'a Value, name: &str) -> Option<&'a Value> {
    let functions = table["functions"].as_array()?;
    functions.iter().find(|row| {
        let function = row["function"].as_str().unwrap_or_default();
        function.rsplit('.').next() == Some(name)
    })
}

fn number(table: &Value, function_name: &str, of: &str, what: &str) -> f64 {
    let row = function(table, function_name);
    row.and_then(|row| row[of][what].as_f64()).unwrap_or(0.0)
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn sampled_shares_are_those_that_functions_have_and_who_waits_is_seen_to() {
    let mut tried = 0;
    for (name, mut command) in interpreters() {
        let mut program = Running::start(command.args(["-c", PROGRAM]));
        assert_eq!(program.line(), "ready\n", "{name}");
        let pid = program.pid().to_string();
        let mut sampling = Sampling::start(&["--sample=500", "-p", &pid]);
        let on_cpu = |table: &Value, name| number(table, name, "self", "on_cpu");
        let enough = |table: &Value| on_cpu(table, "heavy") + on_cpu(table, "light") > 2500.0;
        let table = sampling.until(enough);
        sampling.end();
        program.go_on();
        let truth: Value = serde_json::from_str(&program.line()).expect("JSON");
        let share = |heavy: f64, light: f64| heavy * 100.0 / (heavy + light);
        let took = |name: &str| truth[name].as_f64().expect("a time");
        let exact = share(took("heavy"), took("light"));
        let sampled = share(on_cpu(&table, "heavy"), on_cpu(&table, "light"));
        assert!(
            (exact - sampled).abs() < 3.0,
            "{name}: {sampled} and not {exact}: {table:#}"
        );
        // It waits for what it was given, in every sample; the worker of the pool has nothing to do.
        let (looks, waits) = (
            table["looks"].as_f64(),
            number(&table, "waits", "total", "waiting"),
        );
        assert!(
            looks.is_some_and(|looks| waits > looks * 0.9),
            "{name}: {table:#}"
        );
        assert_eq!(
            number(&table, "waits", "total", "on_cpu"),
            0.0,
            "{name}: {table:#}"
        );
        assert_eq!(function(&table, "_worker"), None, "{name}: {table:#}");
        let idle = table["idle_samples"].as_f64();
        assert!(idle > looks.map(|looks| looks * 0.9), "{name}: {table:#}");
        tried += 1;
    }
    assert!(tried > 0);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_process_that_begins_later_is_sampled_and_the_end_of_all_is_no_end_of_a_pattern() {
    let token = format!("sampled-{}", std::process::id());
    let begin = || {
        let mut program = Running::start(Command::new(PYTHON).args(["-c", PROGRAM, &token]));
        assert_eq!(program.line(), "ready\n");
        program
    };
    let first = begin();
    let mut sampling = Sampling::start(&["--sample", "--match", &token]);
    sampling
        .until(|table| table["processes"] == 1 && number(table, "heavy", "self", "samples") > 0.0);
    let second = begin();
    sampling.until(|table| table["processes"] == 2);
    drop((first, second));
    sampling.until(|table| table["processes"] == 0);
    let third = begin();
    sampling.until(|table| table["processes"] == 1);
    sampling.end();
    drop(third);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_recording_of_samples_shows_tables_and_stacks_that_say_they_are_estimates() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", PROGRAM]));
    assert_eq!(program.line(), "ready\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let said = |arguments: &[&str], succeeds: bool| {
        let output = Command::new(PYSTAP).args(arguments).output();
        let output = output.expect("pystap runs");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert_eq!(output.status.success(), succeeds, "{arguments:?}: {err}");
        (out, err)
    };
    let (whole, cut) = (path("whole.pystap"), path("cut.pystap"));
    let pid = program.pid().to_string();
    said(
        &[
            "record",
            "--sample=200",
            "-o",
            &whole,
            "-d",
            "2s",
            "-p",
            &pid,
        ],
        true,
    );
    let (out, err) = said(&["report", "--json", &whole], true);
    assert!(!err.contains("was cut"), "{err}");
    let table: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(table["estimates"], true, "{table:#}");
    for name in ["heavy", "light"] {
        assert!(number(&table, name, "self", "on_cpu") > 0.0, "{table:#}");
    }
    assert!(number(&table, "waits", "total", "waiting") > 0.0);
    let (out, _) = said(&["report", &whole], true);
    assert!(
        out.starts_with("sampled 200 times per second: estimates"),
        "{out}"
    );

    let time_of = |which: &[&str], function: &str| -> u64 {
        let mut arguments = vec!["export", "-f", "folded", whole.as_str()];
        arguments.extend(which);
        let (out, _) = said(&arguments, true);
        let lines = out.lines().filter(|line| line.contains(function));
        let times = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        times.sum()
    };
    assert!(time_of(&["--time", "cpu"], "heavy (") > 0);
    assert_eq!(time_of(&["--time", "cpu"], "waits ("), 0);
    assert!(time_of(&["--time", "off"], "waits (") > 0);
    let (all, parts) = (
        time_of(&[], "sampled"),
        time_of(&["--time", "cpu"], "sampled") + time_of(&["--time", "off"], "sampled"),
    );
    assert!(all.abs_diff(parts) <= all / 1000, "{all} and {parts}");
    let (svg, _) = said(&["export", "-f", "flamegraph", &whole], true);
    assert!(svg.contains("estimated from samples"), "{svg}");
    let (speedscope, _) = said(&["export", "-f", "speedscope", &whole], true);
    assert!(speedscope.contains("sampled (estimates)"), "{speedscope}");
    let (_, err) = said(&["export", "-f", "pstats", &whole], false);
    assert!(err.contains("has samples and no calls"), "{err}");

    let bytes = std::fs::read(&whole).expect("it is there");
    let last = bytes.len() - 40;
    std::fs::write(&cut, &bytes[..last]).expect("written");
    let (out, err) = said(&["report", &cut], true);
    assert!(out.contains("heavy"), "{out}");
    assert!(err.contains("was cut"), "{err}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11, tmux and root: run by scripts/test-here"]
fn a_key_measures_sampled_functions_exactly_and_another_goes_back_and_leaves_nothing() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", PROGRAM]));
    assert_eq!(program.line(), "ready\n");
    let terminal = Terminal::open(100, 24);
    let pystap = quoted(std::path::Path::new(PYSTAP));
    let pid = program.pid();
    terminal.keys(&format!("{pystap} top --sample -i 200ms -p {pid}"));
    terminal.key("Enter");
    let is_sampled = |shown: &str| {
        ["estimates, no probes", "heavy", "light", "s exact"]
            .iter()
            .all(|it| shown.contains(it))
    };
    terminal.wait("samples", is_sampled);
    // Twice: what the first left behind would be in the way of the second.
    for _ in 0..2 {
        terminal.keys("s");
        terminal.wait("exact calls", |shown| {
            let counted = |name: &str| {
                let row = shown.lines().find(|line| line.contains(name));
                let calls = row.and_then(|row| row.split_whitespace().next());
                calls.is_some_and(|calls| calls.parse().is_ok_and(|calls: u64| calls > 0))
            };
            ["exact: ", "CALLS", "s samples"]
                .iter()
                .all(|it| shown.contains(it))
                && counted("  heavy")
                && counted("  light")
        });
        terminal.keys("s");
        terminal.wait("samples again", is_sampled);
    }
    terminal.keys("q");
    terminal.wait("the shell", |shown| !shown.contains("s exact"));
    program.go_on();
    assert!(program.line().contains("heavy"), "it ran to its end");
}

#[test]
fn a_trace_of_samples_is_refused_with_what_to_type() {
    let output = Command::new(PYSTAP)
        .args(["trace", "--sample", "-p", "1"])
        .output()
        .expect("pystap runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("pystap record --sample -o FILE"), "{said}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn who_may_not_read_the_memory_is_told_what_to_type_and_the_own_user_may() {
    /// `nobody`.
    const USER: u32 = 65534;
    let sample = |pid: u32| {
        let mut command = Command::new(PYSTAP);
        command.args([
            "top",
            "--sample",
            "--json",
            "-d",
            "300ms",
            "-p",
            &pid.to_string(),
        ]);
        command.uid(USER).gid(USER).output().expect("pystap runs")
    };
    let mut of_root = Running::start(Command::new(PYTHON).args(["-c", PROGRAM]));
    assert_eq!(of_root.line(), "ready\n");
    let refused = sample(of_root.pid());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("run pystap as root"), "{said}");
    let mut own = Command::new(PYTHON);
    let mut own = Running::start(own.args(["-c", PROGRAM]).uid(USER).gid(USER));
    assert_eq!(own.line(), "ready\n");
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let sampled = sample(own.pid());
    let said = String::from_utf8_lossy(&sampled.stderr).into_owned();
    match yama.as_deref().map(str::trim) {
        Ok("1" | "2" | "3") => assert!(said.contains("ptrace_scope"), "{said}"),
        _ => {
            assert!(sampled.status.success(), "{said}");
            let out = String::from_utf8_lossy(&sampled.stdout).into_owned();
            let table: Value = serde_json::from_str(out.trim_end()).expect("JSON");
            assert_eq!(table["processes"], 1, "{table:#}");
        }
    }
}
