//! `pystap top --sample` with real interpreters: all from 3.8 on that are here, compared with what a program measured of itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dump::interpreters;
use crate::offcpu::Running;
use crate::terminal::{Terminal, quoted};
use crate::tracing::groups;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";
const PROGRAM: &str = include_str!("../programs/sampling.py");
const CALLS: &str = include_str!("../programs/sampled_calls.py");
const CONTEXTS: &str = include_str!("../programs/sampled_contexts.py");
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

/// A table of a program that calls these, in turns with one that works in C: the share of the time that they have in it is theirs.
fn sampled_as_they_run(name: &str, program: &mut Command, called: &[&str]) -> Value {
    let mut program = Running::start(program);
    assert_eq!(program.line(), "ready\n", "{name}");
    let pid = program.pid().to_string();
    let mut sampling = Sampling::start(&["--sample=500", "-p", &pid]);
    let own = |table: &Value, name| number(table, name, "self", "samples");
    let calls = |table: &Value| called.iter().map(|name| own(table, name)).sum::<f64>();
    let enough = |table: &Value| calls(table) + own(table, "works") > 4000.0;
    let table = sampling.until(enough);
    sampling.end();
    program.go_on();
    let truth: Value = serde_json::from_str(&program.line()).expect("JSON");
    let share = |of: f64, other: f64| of * 100.0 / (of + other);
    let took = |name: &str| truth[name].as_f64().expect("a time");
    let exact = share(took("calls"), took("works"));
    let sampled = share(calls(&table), own(&table, "works"));
    assert!(
        (exact - sampled).abs() < 5.0,
        "{name}: {sampled} and not {exact}: {table:#}"
    );
    // Nearly all have the whole stack.
    let whole = number(&table, "main", "total", "samples");
    assert!(
        whole > (calls(&table) + own(&table, "works")) * 0.995,
        "{name}: {table:#}"
    );
    let torn = table["torn_samples"].as_f64();
    assert!(torn < Some(40.0), "{name}: {table:#}");
    table
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn functions_that_call_others_all_the_time_are_sampled_as_often_as_one_that_holds_still() {
    let mut tried = 0;
    for (name, mut command) in interpreters() {
        let called = ["innermost", "middle", "calls"];
        let table = sampled_as_they_run(&name, command.args(["-c", CALLS]), &called);
        // Most of the time of the loop is that of the two that it calls.
        let own = |name| number(&table, name, "self", "samples");
        let [innermost, middle, calls] = called.map(own);
        assert!(innermost + middle > calls * 0.54, "{name}: {table:#}");
        tried += 1;
    }
    assert!(tried > 0);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn generators_are_sampled_as_often_as_they_run() {
    let mut program = Command::new(PYTHON);
    program.args(["-c", CALLS, "generators"]);
    let called = ["numbers", "<genexpr>", "resume", "calls"];
    let table = sampled_as_they_run(PYTHON, &mut program, &called);
    let [numbers, expression, ..] = called.map(|name| number(&table, name, "self", "samples"));
    assert!(numbers > 0.0 && expression > 0.0, "{table:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn who_takes_samples_runs_before_others_and_nobody_else_of_pystap_does() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", CALLS]));
    assert_eq!(program.line(), "ready\n");
    let pid = program.pid().to_string();
    let mut sampling = Sampling::start(&["--sample", "--by-context", "-p", &pid]);
    sampling.until(|table| table["samples"].as_u64() > Some(20));
    let threads = format!("/proc/{}/task", sampling.child.id());
    let threads = std::fs::read_dir(threads).expect("it runs").flatten();
    let policies: Vec<String> = threads
        .map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).expect("it runs");
            // Fields 40 and 41 (proc_pid_stat(5)), of which the one behind the name is the third.
            let (_, fields) = stat.rsplit_once(") ").expect("a name");
            let fields: Vec<&str> = fields.split_whitespace().collect();
            fields[37..39].join(" ")
        })
        .collect();
    sampling.end();
    let first = policies.iter().filter(|policy| *policy == "1 1").count();
    let others = policies.iter().filter(|policy| *policy == "0 0").count();
    assert_eq!((first, others), (1, policies.len() - 1), "{policies:?}");
    assert!(others > 1, "{policies:?}");
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
            ["exact: ", "CALLS", "s samples"]
                .iter()
                .all(|it| shown.contains(it))
                && are_counted(shown, &["  heavy", "  light"])
        });
        terminal.keys("s");
        terminal.wait("samples again", is_sampled);
    }
    terminal.keys("q");
    terminal.wait("the shell", |shown| !shown.contains("s exact"));
    program.go_on();
    assert!(program.line().contains("heavy"), "it ran to its end");
}

/// The pystap whose last argument is this.
fn child_with(last: &str) -> String {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let mut pids = processes.filter_map(|it| it.ok()?.file_name().into_string().ok());
    let end = format!("\0{last}\0");
    let found = pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(PYSTAP.as_bytes()) && line.ends_with(end.as_bytes())
    });
    found.expect("it runs")
}

/// Whether the terminal shows these functions with numbers of calls.
fn are_counted(shown: &str, functions: &[&str]) -> bool {
    functions.iter().all(|name| {
        let row = shown.lines().find(|line| line.contains(name));
        let calls = row.and_then(|row| row.split_whitespace().next());
        calls.is_some_and(|calls| calls.parse().is_ok_and(|calls: u64| calls > 0))
    })
}

#[test]
#[ignore = "needs Debian 12's Python 3.11, tmux and root: run by scripts/test-here"]
fn a_key_changes_an_exact_table_to_samples_and_back_with_what_was_asked_for() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", PROGRAM]));
    assert_eq!(program.line(), "ready\n");
    let terminal = Terminal::open(100, 24);
    let pystap = quoted(std::path::Path::new(PYSTAP));
    let pid = program.pid();
    terminal.keys(&format!("{pystap} top -i 200ms --function heavy -p {pid}"));
    terminal.key("Enter");
    // What the filter leaves out is in the samples alone.
    let is_exact = |shown: &str| {
        ["CALLS", "s samples"].iter().all(|it| shown.contains(it))
            && are_counted(shown, &["  heavy"])
            && !shown.contains("  light")
    };
    terminal.wait("exact calls", is_exact);
    let pystap = child_with(&pid.to_string());
    let armed = || {
        let mut armed = groups();
        armed.retain(|group| group.starts_with(&format!("pystap_{pystap}_")));
        armed
    };
    assert_eq!(armed().len(), 1);
    for _ in 0..2 {
        terminal.keys("s");
        terminal.wait("samples", |shown| {
            ["estimates, no probes", "heavy", "light", "s exact"]
                .iter()
                .all(|it| shown.contains(it))
        });
        assert_eq!(armed(), Vec::<String>::new(), "while samples are taken");
        terminal.keys("s");
        terminal.wait("exact calls again", is_exact);
    }
    terminal.keys("q");
    terminal.wait("the shell", |shown| !shown.contains("s samples"));
    program.go_on();
    assert!(program.line().contains("heavy"), "it ran to its end");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11, tmux and root: run by scripts/test-here"]
fn a_launched_command_goes_on_while_its_table_changes_between_samples_and_calls() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program.py");
    // It ends with the test, which takes its file away, and not with pystap.
    let endless = "import os\n\ndef heavy():\n    sum(range(20000))\n\n\
                   while os.path.exists(__file__):\n    heavy()\n";
    std::fs::write(&program, endless).expect("written");
    for first in ["--sample", "--no-subprocesses"] {
        let terminal = Terminal::open(100, 24);
        let pystap = quoted(std::path::Path::new(PYSTAP));
        let program = quoted(&program);
        terminal.keys(&format!(
            "{pystap} top -i 200ms {first} -- {PYTHON} {program}"
        ));
        terminal.key("Enter");
        let is_sampled = |shown: &str| {
            ["estimates, no probes", "heavy", "s exact"]
                .iter()
                .all(|it| shown.contains(it))
        };
        let is_exact =
            |shown: &str| shown.contains("s samples") && are_counted(shown, &["  heavy"]);
        let begins = usize::from(first != "--sample");
        for turn in begins..begins + 5 {
            match turn % 2 {
                0 => terminal.wait("samples", is_sampled),
                _ => terminal.wait("exact calls", is_exact),
            };
            if turn < begins + 4 {
                terminal.keys("s");
            }
        }
        terminal.keys("q");
        terminal.wait("the shell", |shown| {
            !shown.contains("s exact") && !shown.contains("s samples")
        });
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_launched_command_is_sampled_from_its_beginning_through_each_program_that_it_becomes() {
    let begun = Instant::now();
    // A shell that becomes Python, which starts another one.
    let both = "import subprocess, sys, time\n\
                child = 'import time\\nbegun = time.thread_time()\\n\
                def inner():\\n    while time.thread_time() < begun + 2: pass\\ninner()'\n\
                def outer():\n    while time.thread_time() < 1: pass\n\
                outer()\n\
                subprocess.run([sys.executable, '-c', child])\n";
    let sampling = Command::new(PYSTAP)
        .args(["top", "--sample", "--json", "--", "/bin/sh", "-c"])
        .arg("sleep 0.2; exec \"$0\" -c \"$1\"")
        .args([PYTHON, both])
        .output()
        .expect("pystap runs");
    let said = String::from_utf8_lossy(&sampling.stderr).into_owned();
    assert!(sampling.status.success(), "{said}");
    assert!(begun.elapsed() < BOUND, "it ends with the command");
    let out = String::from_utf8_lossy(&sampling.stdout).into_owned();
    let table: Value = serde_json::from_str(out.lines().last().expect("a table")).expect("JSON");
    let seen = |name| number(&table, name, "self", "samples");
    assert!(seen("outer") > 60.0, "{table:#}");
    assert!(seen("inner") > 30.0, "{table:#}");
    let alone = Command::new(PYSTAP)
        .args(["top", "--sample", "--json", "--no-subprocesses", "--"])
        .args([PYTHON, "-c", both])
        .output()
        .expect("pystap runs");
    let out = String::from_utf8_lossy(&alone.stdout).into_owned();
    let table: Value = serde_json::from_str(out.lines().last().expect("a table")).expect("JSON");
    assert!(function(&table, "outer").is_some(), "{table:#}");
    assert_eq!(function(&table, "inner"), None, "{table:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_recording_of_samples_of_a_launched_command_ends_with_it_and_may_have_its_exit_status() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run.pystap");
    let program = "import sys, time\n\
                   def burns():\n    while time.thread_time() < 0.5: pass\n\
                   burns()\nprint(sys.stdin.read())\nsys.exit(7)";
    let record = |more: &[&str]| {
        let mut child = Command::new(PYSTAP)
            .args(["record", "--sample", "-o"])
            .arg(&path)
            .args(more)
            .args(["--", PYTHON, "-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("pystap runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"from outside").expect("written");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.stdout, b"from outside\n", "its own input and output");
        output.status.code()
    };
    assert_eq!(record(&[]), Some(0));
    assert_eq!(record(&["--exit-with-command"]), Some(7));
    let report = Command::new(PYSTAP)
        .args(["report", "--json"])
        .arg(&path)
        .output()
        .expect("pystap runs");
    let table: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert!(
        number(&table, "burns", "self", "on_cpu") > 20.0,
        "{table:#}"
    );
}

/// Samples of a function in this kind of greenlet or task, with what it calls.
fn in_context<'a>(table: &'a Value, name: &str, context: &str) -> Option<&'a Value> {
    let functions = table["functions"].as_array()?;
    let row = functions.iter().find(|row| {
        let function = row["function"].as_str().unwrap_or_default();
        function.rsplit('.').next() == Some(name) && row["context"] == context
    });
    Some(&row?["total"])
}

/// Compares samples by context with what the program, given this argument, says of each kind: its name, and what it is called.
fn contexts_are_right(name: &str, command: &mut Command, argument: &str, kinds: [(&str, &str); 2]) {
    let mut program = Running::start(command.args(["-c", CONTEXTS, argument]));
    assert_eq!(program.line(), "ready\n", "{name}");
    let pid = program.pid().to_string();
    let mut sampling = Sampling::start(&["--sample=500", "--by-context", "-l", "1000", "-p", &pid]);
    let of = |table: &Value, function: &str, context: &str, what: &str| {
        let row = in_context(table, function, context);
        row.and_then(|row| row[what].as_f64()).unwrap_or(0.0)
    };
    let table = sampling.until(|table| {
        let waiting = table["greenlets_and_tasks"]["looks"].as_f64();
        table["looks"].as_f64() > Some(3500.0) && waiting > Some(30.0)
    });
    sampling.end();
    program.go_on();
    let truth: Value = serde_json::from_str(&program.line()).expect("JSON");
    let share = |ran: f64, waited: f64| ran * 100.0 / (ran + waited);
    let (work, read, reader) = match argument {
        "greenlet" => ("work_here", "read_here", "read_here"),
        _ => ("work", "read", "reader"),
    };
    for (kind, context) in kinds {
        let took = |at: usize| truth[kind][at].as_f64().expect("a time");
        let exact = share(took(0), took(1));
        let seen = |what| of(&table, work, context, what);
        let sampled = share(seen("on_cpu"), seen("waiting"));
        // Three times the standard error of so many looks at what waits, and what samples are right to.
        let looks = table["greenlets_and_tasks"]["looks"].as_f64();
        let error = 300.0 * (0.25 / looks.expect("a number")).sqrt() + 3.0;
        assert!(
            (exact - sampled).abs() < error,
            "{name}: {context} {sampled} and not {exact}: {table:#}"
        );
    }
    // The first look at what waits comes after the first at threads, and the last before the last.
    let looks = table["looks"].as_f64().expect("a number");
    let waiting = of(&table, read, reader, "waiting") / looks;
    assert!(
        (2.6..=3.05).contains(&waiting),
        "{name}: {waiting} {table:#}"
    );
    let all = &table["greenlets_and_tasks"];
    assert_eq!(all["found"], all["looked_at"], "{name}: {table:#}");
    assert!(all["found"].as_f64() >= Some(5.0), "{name}: {table:#}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn tasks_run_and_wait_for_as_long_as_they_say_and_are_called_by_what_they_are() {
    for (name, mut command) in interpreters() {
        let kinds = [("work", "Task (work)"), ("burner", "burner")];
        contexts_are_right(&name, &mut command, "task", kinds);
    }
}

#[test]
#[ignore = "needs an interpreter with greenlet and root: run by scripts/test-here"]
fn greenlets_run_and_wait_for_as_long_as_they_say_and_are_called_by_what_they_are() {
    let mut tried = 0;
    for ((name, mut asked), (_, mut command)) in interpreters().into_iter().zip(interpreters()) {
        let found = asked.args(["-c", "import greenlet"]).output();
        if found.is_ok_and(|it| it.status.success()) {
            let kinds = [("work", "work_here"), ("burner", "burner")];
            contexts_are_right(&name, &mut command, "greenlet", kinds);
            tried += 1;
        }
    }
    assert!(tried > 0);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_table_that_is_due_when_the_time_is_up_is_written_once() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", PROGRAM]));
    assert_eq!(program.line(), "ready\n");
    let pid = program.pid().to_string();
    for command in [&["top", "--sample"][..], &["offcpu"], &["syscalls"]] {
        let tables = |length: &str| {
            let output = Command::new(PYSTAP)
                .args(command)
                .args(["--batch", "-i", "500ms", "-d", length, "-p", &pid])
                .output()
                .expect("pystap runs");
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{output:?}");
            out.matches(" FUNCTION").count()
        };
        assert_eq!(tables("500ms"), 1, "{command:?}");
        // What is due before is.
        assert!(tables("1300ms") > 1, "{command:?}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and root: run by scripts/test-here"]
fn a_recording_of_samples_has_greenlets_and_tasks_where_they_were_asked_for() {
    let mut program = Running::start(Command::new(PYTHON).args(["-c", CONTEXTS]));
    assert_eq!(program.line(), "ready\n");
    let directory = tempfile::tempdir().expect("a directory");
    let pid = program.pid().to_string();
    let said = |arguments: &[&str]| {
        let output = Command::new(PYSTAP).args(arguments).output();
        let output = output.expect("pystap runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), out, err)
    };
    for by_context in [true, false] {
        let path = directory.path().join(format!("{by_context}.pystap"));
        let path = path.display().to_string();
        let mut record = vec![
            "record",
            "--sample=200",
            "-o",
            &path,
            "-d",
            "3s",
            "-p",
            &pid,
        ];
        record.extend(by_context.then_some("--by-context"));
        let (code, _, err) = said(&record);
        assert_eq!(code, Some(0), "{err}");
        let (code, out, err) = said(&["report", "--by-context", "--json", "-l", "1000", &path]);
        if !by_context {
            assert_eq!(code, Some(2), "{err}");
            assert!(err.contains("record with --sample --by-context"), "{err}");
            continue;
        }
        let table: Value = serde_json::from_str(&out).expect("JSON");
        let looks = table["looks"].as_f64().expect("a number");
        let waiting = in_context(&table, "read", "reader").and_then(|it| it["waiting"].as_f64());
        let waiting = waiting.map(|waiting| waiting / looks);
        // What has waited before the first look at those that wait, and since the last, is not told.
        let parked = &table["greenlets_and_tasks"]["looks"];
        let told = 1.0 - 2.0 / parked.as_f64().expect("a number");
        assert!(parked.as_u64() > Some(2), "{table:#}");
        assert!(
            waiting > Some(3.0 * told - 0.1) && waiting < Some(3.05),
            "{table:#}"
        );
        let (_, out, _) = said(&["export", "-f", "folded", "--by-context", &path]);
        assert!(out.contains("sampled;[reader];read ("), "{out}");
        assert!(out.contains("sampled;[Task (work)];"), "{out}");
    }
    program.go_on();
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
