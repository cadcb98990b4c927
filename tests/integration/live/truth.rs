//! What pystap says of programs that count and time themselves, construct by construct, in every interpreter within reach:
//! the numbers are right, or not there, and then the session says so. `docs/truth.md` has the outcome as a table, which these
//! tests hold against what they see, and write with `PYSTAP_RENEW=1` (`scripts/truth`).
//!
//! `tests/programs/truth/constructs.py` is recorded once with each interpreter and each way: the interpreter's own probes, or
//! the agent. The report, the latencies and every export are made of the recording and read back; `trace`, `top` and `stats`
//! are run as well with one interpreter of each way.

mod cells;
mod collector;
mod greenlets;
mod interpreters;
mod parked;
mod table;
mod waits;
mod why;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use self::cells::{Cell, Stays};
use self::interpreters::{Interpreter, Way};
use self::table::Rows;
use super::agent::leaves_nothing_at_all;
use crate::command::{Ended, PYTHON, file, pystap_with, run};
use crate::tracing::{Traced, read};

/// What the program tells of itself: each stay of a function on the stack in nanoseconds, by construct and function.
#[derive(Debug, Deserialize)]
struct Truth {
    python: String,
    constructs: BTreeMap<String, BTreeMap<String, Vec<u64>>>,
    /// How a generator of each of these functions was ended.
    endings: BTreeMap<String, String>,
    /// How many generators and coroutines of a function were made.
    created: BTreeMap<String, u64>,
}

impl Truth {
    fn functions(&self) -> impl Iterator<Item = (&str, &[u64])> {
        let functions = self.constructs.values().flatten();
        functions.map(|(name, stays)| (name.as_str(), stays.as_slice()))
    }

    fn is_of_greenlets(&self, function: &str) -> bool {
        let greenlets = self.constructs.get("greenlet");
        greenlets.is_some_and(|functions| functions.contains_key(function))
    }

    /// Calls that Python 3.15's own probes tell of generators and coroutines that are made, without a return.
    fn creations(&self, way: Way) -> BTreeMap<String, u64> {
        let minor = self
            .python
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse::<u32>().ok());
        if way == Way::Probes && minor >= Some(15) {
            self.created.clone()
        } else {
            BTreeMap::new()
        }
    }

    /// What a function's calls and durations come to.
    fn judge(&self, function: &str, seen: &Stays, stays: &[u64]) -> Cell {
        // An end of a generator that runs none of its code may be a stay, and may not.
        let empty = if self.endings.contains_key(function) {
            self.created[function]
        } else {
            0
        };
        cells::judge(seen, stays, empty)
    }

    /// The inclusive time of a function: of calls within calls of the same function the outermost has all of it.
    fn inclusive(&self, function: &str, stays: &[u64]) -> u64 {
        let outermost = |stays: &[u64]| stays.iter().copied().max().unwrap_or(0);
        match (function, stays) {
            ("recurse_at_once", _) => outermost(stays),
            ("recurse", [alone, stays @ ..]) => alone + outermost(stays),
            _ => stays.iter().sum(),
        }
    }
}

/// A recorded run of the program.
struct Run {
    directory: tempfile::TempDir,
    truth: Truth,
    /// The recording, exported as JSON.
    traced: Traced,
    /// What pystap says of each function.
    seen: BTreeMap<String, Stays>,
    /// The same of the functions that a profiler watched, too.
    profiled: BTreeMap<String, Stays>,
}

/// Machines are busy, and then a thread waits between a probe and its own look at the clock. What is wrong is wrong each time.
const ATTEMPTS: usize = 4;

fn done(arguments: &[&str]) -> Ended {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
    ended
}

impl Run {
    fn of(interpreter: &Interpreter, way: Way) -> Run {
        let (directory, ended) = interpreter.record(way, "constructs.py");
        let name = interpreter.name(way);
        assert_eq!(ended.code, 0, "{name}: {ended:?}");
        let said = ended.stdout.lines().last().unwrap_or_default();
        let truth: Truth =
            serde_json::from_str(said).unwrap_or_else(|error| panic!("{name}: {error}: {ended:?}"));
        let recording = path(directory.path(), "recording");
        let json = done(&["export", &recording, "-f", "json"]).stdout;
        let said = ended.stderr.lines().map(str::to_owned).collect();
        let traced = read(&json, ended.code, said, ended.stdout);
        let creations = truth.creations(way);
        let seen = cells::stays(&traced, "constructs.py", &creations);
        let profiled = cells::stays(&traced, "profiled.py", &creations);
        Run {
            directory,
            truth,
            traced,
            seen,
            profiled,
        }
    }

    fn stays(&self, function: &str) -> &Stays {
        static NONE: Stays = Stays::NONE;
        self.seen.get(function).unwrap_or(&NONE)
    }

    /// What a function's calls and durations come to, and why, for who reads a failure.
    fn of_function(&self, function: &str, truth: &[u64]) -> (Cell, String) {
        let seen = self.stays(function);
        let cell = self.truth.judge(function, seen, truth);
        (
            cell,
            format!("{function}: {cell:?}: {seen:?}, and the truth is {truth:?}"),
        )
    }

    /// Every function, with its construct.
    fn functions(&self) -> impl Iterator<Item = (&str, &str, (Cell, String))> {
        self.truth
            .constructs
            .iter()
            .flat_map(move |(construct, functions)| {
                functions.iter().map(move |(name, truth)| {
                    (
                        construct.as_str(),
                        name.as_str(),
                        self.of_function(name, truth),
                    )
                })
            })
    }

    /// Whether the session says itself that something is missing or in doubt.
    fn tells(&self) -> bool {
        let summary = &self.traced.summary;
        let counted =
            summary.unpaired + summary.untraced_processes + summary.lost + summary.skipped;
        counted > 0
            || summary.uncounted
            || self
                .traced
                .said
                .iter()
                .any(|line| line.contains("in doubt"))
    }
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().expect("UTF-8").to_owned()
}

/// Functions by their constructs, and how they fare.
type Cells = BTreeMap<(String, String), (Cell, String)>;

/// Records the program until nothing is wrong that was wrong in each run before, a few times. Returns the last run, and the
/// best of each function.
fn best(interpreter: &Interpreter, way: Way) -> (Run, Cells) {
    let mut cells = Cells::new();
    for attempt in 1.. {
        let run = Run::of(interpreter, way);
        for (construct, function, cell) in run.functions() {
            let best = cells.entry((construct.to_owned(), function.to_owned()));
            let best = best.or_insert_with(|| cell.clone());
            if best.0 == Cell::Wrong {
                *best = cell;
            }
        }
        if attempt == ATTEMPTS || cells.values().all(|(cell, _)| *cell != Cell::Wrong) {
            return (run, cells);
        }
    }
    unreachable!("the last attempt returns")
}

/// Records the program and looks at every view of the recording.
fn is_true(interpreter: &Interpreter, way: Way, rows: &mut Rows) {
    let name = interpreter.name(way);
    let (run, cells) = best(interpreter, way);
    let mut worst: BTreeMap<String, Cell> = BTreeMap::new();
    for ((construct, _), (cell, why)) in &cells {
        assert_ne!(*cell, Cell::Wrong, "{name}, {construct}: {why}");
        assert!(
            *cell == Cell::Exact || run.tells(),
            "{name}, {construct}: {why}: and the session says nothing of it: {:?} {:#?}",
            run.traced.summary,
            run.traced.said
        );
        let of = worst.entry(construct.clone()).or_insert(*cell);
        *of = (*of).max(*cell);
    }
    views_agree(&run, &name);
    let endings = |seen: &BTreeMap<String, Stays>| {
        let ended = run.truth.endings.iter();
        let ended = ended.map(|(function, words)| {
            let made = run.truth.created[function];
            let close = &run.truth.constructs["close"];
            let starts = if close.contains_key(function) {
                made
            } else {
                0
            };
            let seen = seen.get(function).cloned().unwrap_or_default();
            (words.clone(), cells::ending(&seen, starts, made))
        });
        ended.collect()
    };
    let (alone, profiled) = (endings(&run.seen), endings(&run.profiled));
    let version = &run.truth.python;
    rows.add(interpreter.from(), version, way, worst, [alone, profiled]);
}

/// How near an inclusive time has to be: within 5 %, and of what is short within what a busy machine costs.
fn is_near(seen: u64, truth: u64) -> bool {
    seen.abs_diff(truth) as f64 <= 0.05 * truth as f64 + 3e6
}

/// The report, the latencies and every export say of each function what its events say.
fn views_agree(run: &Run, name: &str) {
    let directory = run.directory.path();
    let recording = path(directory, "recording");
    for format in ["chrome", "speedscope", "pstats", "folded", "flamegraph"] {
        done(&[
            "export",
            &recording,
            "-f",
            format,
            "-o",
            &path(directory, format),
        ]);
    }
    let mut reader = Command::new(PYTHON);
    reader.arg(file("tests/programs/truth/read_exports.py"));
    let read = run_python(reader.arg(directory).arg("constructs.py"));
    let exports: BTreeMap<String, Value> = serde_json::from_value(read).expect("formats");
    let report = done(&["report", &recording, "--json", "--limit", "100000"]).stdout;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let latencies = done(&[
        "report",
        &recording,
        "--json",
        "--stats",
        "*/constructs.py:*",
    ])
    .stdout;
    let latencies: Value = serde_json::from_str(&latencies).expect("JSON");
    for (function, truth) in run.truth.functions() {
        let (cell, _) = run.of_function(function, truth);
        let seen = run.stays(function);
        table_agrees(&report, function, seen, cell, name);
        latencies_agree(&latencies, function, seen, name);
        // Sums and pictures have the time in which a greenlet ran, and its own clock goes on while others run.
        if cell != Cell::Exact || run.truth.is_of_greenlets(function) {
            continue;
        }
        let all = run.truth.inclusive(function, truth);
        for (format, functions) in &exports {
            let told = &functions[function];
            let time = told["inclusive_ns"].as_u64().unwrap_or(0);
            assert!(
                is_near(time, all),
                "{name}, {format}, {function}: {told}, not {all}"
            );
            if let Some(calls) = told["calls"].as_u64() {
                assert_eq!(
                    calls,
                    seen.returns.len() as u64,
                    "{name}, {format}, {function}: {told}"
                );
            }
        }
    }
}

/// A table of functions has as many calls as there were stays, and as many durations as have one.
fn table_agrees(table: &Value, function: &str, seen: &Stays, cell: Cell, name: &str) {
    let rows = table["functions"].as_array().expect("rows");
    let mine = |row: &&Value| {
        let file = row["file"].as_str().unwrap_or_default();
        row["function"] == *function && file.ends_with("/constructs.py")
    };
    let count = |row: &Value, count: &str| row.pointer(count).and_then(Value::as_u64).unwrap_or(0);
    let (calls, durations) = rows
        .iter()
        .filter(mine)
        .fold((0, 0), |(calls, durations), row| {
            (
                calls + count(row, "/calls"),
                durations + count(row, "/durations/count"),
            )
        });
    assert_eq!(
        durations,
        seen.timed(),
        "{name}, durations of {function}: {seen:?}"
    );
    let returns = seen.returns.len() as u64;
    match cell {
        Cell::Exact => assert_eq!(calls, returns, "{name}, calls of {function}: {seen:?}"),
        // A return whose call may have been the creation of a generator is in no row, and counts as unpaired.
        Cell::LeftOut => assert!(
            (durations..=returns).contains(&calls),
            "{name}, {calls} calls of {function}: {seen:?}"
        ),
        Cell::ReturnOnly | Cell::NotSeen | Cell::Wrong => {}
    }
}

/// Latencies have the durations that the returns have.
fn latencies_agree(latencies: &Value, function: &str, seen: &Stays, name: &str) {
    let rows = latencies["functions"].as_array().expect("rows");
    let mine: Vec<&Value> = rows
        .iter()
        .filter(|row| row["function"] == *function)
        .collect();
    let count = |row: &&Value| row["durations"]["count"].as_u64().unwrap_or(0);
    assert_eq!(
        mine.iter().map(count).sum::<u64>(),
        seen.timed(),
        "{name}, {function}: {mine:?}"
    );
    // They stand in the order of what they took without the tracer's own cost, which may be another.
    let slowest = mine
        .iter()
        .filter_map(|row| row["slowest"].as_array())
        .flatten()
        .filter_map(|call| call["duration_ns"].as_u64())
        .max();
    assert_eq!(
        slowest,
        seen.slowest(),
        "{name}, the slowest of {function}: {mine:?}"
    );
}

/// The last line of a Python program, as JSON.
fn run_python(command: &mut Command) -> Value {
    let ended = run(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    let last = ended.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// What is launched: `trace`, `top` and `stats` say what the program says, each about a run of its own.
fn live_views_agree(interpreter: &Interpreter, way: Way) {
    for attempt in 1..=ATTEMPTS {
        let wrong = wrong_in_live_views(interpreter, way);
        assert!(wrong.is_empty() || attempt < ATTEMPTS, "{wrong:#?}");
        if wrong.is_empty() {
            return;
        }
    }
}

/// Times that are wrong, each in a sentence. Counts have to be right.
fn wrong_in_live_views(interpreter: &Interpreter, way: Way) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = interpreter.name(way);
    let program = file("tests/programs/truth/constructs.py");
    let live = |view: &[&str]| {
        let directory = tempfile::tempdir().expect("a directory");
        let output = path(directory.path(), "output");
        let engine = [
            "--engine",
            "uprobes",
            way.option(),
            "--output",
            &output,
            "--",
        ];
        let command = [interpreter.python(), &program];
        let ended = done(&[view, &engine, &command].concat());
        let written = std::fs::read_to_string(&output).expect("written");
        let said = ended.stdout.lines().last().unwrap_or_default();
        let truth: Truth = serde_json::from_str(said).expect("the truth");
        (written, truth, ended)
    };

    let (written, truth, ended) = live(&["trace", "--format", "json"]);
    let traced = read(&written, 0, Vec::new(), ended.stdout);
    let seen = cells::stays(&traced, "constructs.py", &truth.creations(way));
    let mut whole = Vec::new();
    for (function, stays) in truth.functions() {
        let seen = seen.get(function).cloned().unwrap_or(Stays::NONE);
        let cell = truth.judge(function, &seen, stays);
        match cell {
            Cell::Exact => whole.push(function.to_owned()),
            Cell::Wrong => wrong.push(format!("{name}: trace, {function}: {seen:?} {stays:?}")),
            Cell::LeftOut | Cell::ReturnOnly | Cell::NotSeen => {}
        }
    }
    assert!(whole.len() > 15, "{name}: {whole:?}");

    let (written, truth, _) = live(&["top", "--json", "--limit", "100000"]);
    let table: Value =
        serde_json::from_str(written.lines().last().expect("a table")).expect("JSON");
    let (text, _, _) = live(&["top", "--batch", "--limit", "100000"]);
    let (summary, _, _) = live(&["stats", "--json", "*/constructs.py:*"]);
    let summary: Value =
        serde_json::from_str(summary.lines().last().expect("a summary")).expect("JSON");
    for (function, stays) in truth
        .functions()
        .filter(|(name, _)| whole.iter().any(|it| it == name))
    {
        let count = |rows: &Value, count: &str| {
            let rows = rows["functions"].as_array().expect("rows").iter();
            let mine = rows.filter(|row| {
                row["function"] == *function
                    && row["file"]
                        .as_str()
                        .is_some_and(|file| file.ends_with("/constructs.py"))
            });
            mine.filter_map(|row| row.pointer(count).and_then(Value::as_u64))
                .sum::<u64>()
        };
        // Endings that run no code are stays all the same.
        let extra = if truth.endings.contains_key(function) {
            truth.created[function]
        } else {
            0
        };
        let right = stays.len() as u64..=stays.len() as u64 + extra;
        let calls = count(&table, "/calls");
        assert!(right.contains(&calls), "{name}: top, {function}: {calls}");
        let durations = count(&summary, "/durations/count");
        assert!(
            right.contains(&durations),
            "{name}: stats, {function}: {durations}"
        );
        let cumulative = count(&table, "/cumulative_ns");
        let all = truth.inclusive(function, stays);
        if !truth.is_of_greenlets(function) && !is_near(cumulative, all) {
            wrong.push(format!("{name}: top, {function}: {cumulative}, not {all}"));
        }
        assert!(text.contains(function), "{name}: {function}: {text}");
    }
    wrong
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn every_construct_is_exact_or_told_with_the_pythons_here() {
    leaves_nothing_at_all(|| {
        let mut rows = Rows::default();
        for interpreter in interpreters::here() {
            for way in interpreter.ways() {
                is_true(&interpreter, *way, &mut rows);
            }
        }
        rows.agree_with_the_documents();
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn every_construct_is_exact_or_told_with_the_pythons_in_a_tree() {
    leaves_nothing_at_all(|| {
        let mut rows = Rows::default();
        for interpreter in interpreters::in_trees() {
            for way in interpreter.ways() {
                is_true(&interpreter, *way, &mut rows);
            }
        }
        rows.agree_with_the_documents();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn trace_top_and_stats_say_what_programs_say_of_themselves() {
    leaves_nothing_at_all(|| {
        let here = interpreters::here();
        live_views_agree(&here[0], Way::Probes);
        let newest = here.last().expect("an interpreter");
        live_views_agree(newest, Way::Agent);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn interpreters_that_neither_way_serves_are_refused() {
    let program = file("tests/programs/truth/constructs.py");
    for python in interpreters::refused() {
        for way in [&[][..], &["--agent"]] {
            let options = [&["trace", "--engine", "uprobes"], way].concat();
            let ended = pystap_with(&[&options, &["--", &python, &program][..]].concat());
            let message = ended.only_error();
            assert_eq!(ended.code, 3, "{python}: {message}");
            assert!(
                message.contains("run the program with"),
                "{python}: {message}"
            );
        }
    }
}
