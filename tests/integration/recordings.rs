//! What users do with recordings: reports, exports, and the messages for files that are damaged or not recordings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::json::{Line, Reader};
use pystap::event::{Session, Summary};
use pystap::export::{End, Sink};
use pystap::recording::Writer;
use serde_json::{Value, json};

use crate::command::{Ended, PYTHON, file, pystap_with};

/// A recording of an example that ran, and what the example says about its calls.
pub(crate) struct Recording {
    dir: tempfile::TempDir,
    path: PathBuf,
    events: usize,
    calls: Value,
}

impl Recording {
    pub(crate) fn of(program: &str) -> Recording {
        let program = match program.strip_prefix(':') {
            Some(_) => program.to_owned(),
            None => file(program),
        };
        let output = Command::new(PYTHON)
            .args([&file("tests/programs/ground_truth.py"), &program])
            .stdin(Stdio::null())
            .output()
            .expect("Python runs");
        assert!(output.status.success());
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        let calls = said
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let text = String::from_utf8(output.stdout).expect("UTF-8");

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run.pystap");
        let rules = PairingRules {
            call_on_creation: false,
            greenlets: false,
        };
        let mut pairing = Pairing::with_rules(rules);
        let mut reader = Reader::new();
        let mut sink = Box::new(Writer::new(fs::File::create(&path).expect("a file"), rules));
        let mut events = 0;
        // The last line is the truth, which is not an event.
        for line in text
            .lines()
            .take_while(|line| !line.starts_with("{\"truth\""))
        {
            match reader.read(line).expect("an event") {
                Line::Session(session) => sink.session(&session).expect("a file"),
                Line::Event(mut event) => {
                    pairing.feed(&mut event);
                    sink.step(&Step::new(&event)).expect("a file");
                    events += 1;
                }
                Line::Summary(_) => {}
            }
        }
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("a file");
        Recording {
            dir,
            path,
            events,
            calls: calls.unwrap_or(Value::Null),
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn done(arguments: &[&str]) -> Ended {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
    ended
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_numbers_of_a_report_are_those_that_the_examples_state() {
    for example in ["fib", "nested", "slow", "threads", "generators"] {
        let recording = Recording::of(&format!("examples/{example}.py"));
        let report = done(&["report", recording.path(), "--json", "--limit", "100000"]);
        let table: Value = serde_json::from_str(&report.stdout).expect("JSON");
        let rows = table["functions"].as_array().expect("rows");
        // Resumptions count as calls, so the example has separate numbers for generators.
        let stated = match &recording.calls["entries"] {
            Value::Null => &recording.calls["calls"],
            entries => entries,
        };
        for (function, calls) in stated.as_object().expect("calls") {
            let mine = |row: &&Value| {
                row["function"] == *function
                    && row["file"]
                        .as_str()
                        .is_some_and(|file| file.ends_with(&format!("{example}.py")))
            };
            let row = rows
                .iter()
                .find(mine)
                .unwrap_or_else(|| panic!("{function}"));
            assert_eq!(&row["calls"], calls, "{example}: {function}");
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_slowest_call_is_found_with_its_caller() {
    let recording = Recording::of("examples/slow.py");
    let report = done(&[
        "report",
        recording.path(),
        "--stats",
        "*/slow.py:step",
        "--json",
    ]);
    let latencies: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let step = &latencies["functions"][0];
    assert_eq!(step["durations"]["count"], 201);
    let slowest = &step["slowest"][0];
    assert!(
        slowest["duration_ns"]
            .as_u64()
            .is_some_and(|it| it >= 20_000_000),
        "{slowest}"
    );
    assert_eq!(slowest["caller"], "<module>");
    let text = done(&[
        "report",
        recording.path(),
        "--stats",
        "step",
        "--limit",
        "1",
    ])
    .stdout;
    assert!(text.contains("called by <module>"), "{text}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_report_is_a_table_that_says_what_it_leaves_out() {
    let recording = Recording::of("examples/nested.py");
    let text = done(&[
        "report",
        recording.path(),
        "--limit",
        "2",
        "--sort",
        "calls",
    ])
    .stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].trim_end().ends_with("FUNCTION  FILE"), "{text}");
    assert!(lines[3].starts_with("(2 of "), "{text}");
    assert!(text.contains("nothing lost"), "{text}");
    let gc = done(&["report", recording.path(), "--gc"]).stdout;
    assert_eq!(gc, "no garbage collections\n");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_function_that_was_not_called_is_answered_with_where_to_look() {
    let recording = Recording::of("examples/nested.py");
    let ended = pystap_with(&["report", recording.path(), "--stats", "nobody"]);
    assert_eq!(ended.code, 4);
    assert!(
        ended.only_error().contains("lists the functions"),
        "{ended:?}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_recording_that_was_cut_is_shown_up_to_the_cut_and_called_that() {
    let recording = Recording::of("examples/fib.py");
    let bytes = fs::read(&recording.path).expect("a file");
    let cut = recording.beside("cut.pystap");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    let ended = done(&["report", text(&cut)]);
    assert!(ended.stderr.contains("was cut"), "{ended:?}");
    assert!(ended.stdout.lines().count() > 5, "{ended:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn damage_newer_versions_and_foreign_files_have_an_answer_each() {
    let recording = Recording::of("examples/fib.py");
    let bytes = fs::read(&recording.path).expect("a file");
    let other = recording.beside("other");
    let answer = |bytes: &[u8]| {
        fs::write(&other, bytes).expect("a file");
        pystap_with(&["report", text(&other)])
    };
    let mut newer = bytes.clone();
    newer[8] = 99;
    let ended = answer(&newer);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.only_error().contains("format 99"), "{ended:?}");

    let ended = answer(&fs::read(PYTHON).expect("a program")[..4096]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.only_error().contains("not a pystap recording"),
        "{ended:?}"
    );

    let ended = answer(b"");
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.only_error().contains("empty"), "{ended:?}");

    let mut damaged = bytes;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    let ended = answer(&damaged);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("damaged at byte"), "{ended:?}");

    let ended = pystap_with(&["report", text(&recording.beside("nowhere"))]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.only_error().contains("nowhere"), "{ended:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_recording_exports_to_every_format() {
    let recording = Recording::of("examples/nested.py");
    for (format, begins) in [
        ("flamegraph", &b"<?xml"[..]),
        ("chrome", b"{\"displayTimeUnit\""),
        ("perfetto", b"\x0a"),
        ("pprof", b"\x1f\x8b"),
        ("html", b"<!DOCTYPE html>"),
        ("speedscope", b"{\"$schema\""),
        ("pstats", b"{("),
        ("json", b"{\"event\":\"session\""),
    ] {
        let out = recording.beside(format);
        done(&["export", recording.path(), "-f", format, "-o", text(&out)]);
        let bytes = fs::read(&out).expect("written");
        assert!(bytes.starts_with(begins), "{format}");
    }
    let folded = done(&["export", recording.path(), "--format", "folded"]).stdout;
    let stack = "<module> (";
    let deep = folded
        .lines()
        .find(|line| line.contains(";a (") && line.contains(";b (") && line.contains(";c ("));
    assert!(deep.is_some_and(|line| line.contains(stack)), "{folded}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn what_was_exported_as_json_reports_the_same() {
    let recording = Recording::of("examples/fib.py");
    let json = recording.beside("run.json");
    done(&["export", recording.path(), "-f", "json", "-o", text(&json)]);
    let lines = fs::read_to_string(&json).expect("written");
    assert_eq!(lines.lines().count(), recording.events + 2);
    let own = |path: &str| {
        let report = done(&["report", path, "--json", "--limit", "5"]);
        let table: Value = serde_json::from_str(&report.stdout).expect("JSON");
        table["functions"].clone()
    };
    assert_eq!(own(text(&json)), own(recording.path()));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_export_never_overwrites_what_it_is_made_of() {
    let recording = Recording::of("examples/nested.py");
    let before = fs::read(&recording.path).expect("a file");
    let ended = pystap_with(&[
        "export",
        recording.path(),
        "-f",
        "json",
        "-o",
        recording.path(),
    ]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.only_error().contains("overwritten"), "{ended:?}");
    assert_eq!(fs::read(&recording.path).expect("a file"), before);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_recording_costs_at_most_eight_bytes_an_event() {
    for program in [
        "examples/fib.py",
        "examples/nested.py",
        "examples/generators.py",
        "examples/threads.py",
        ":asyncio",
        ":parsing",
    ] {
        let recording = Recording::of(program);
        let size = fs::metadata(&recording.path).expect("a file").len();
        let each = size as f64 / recording.events as f64;
        println!(
            "{program}: {} events, {size} bytes, {each:.2} an event",
            recording.events
        );
        assert!(each <= 8.0, "{program}: {each}");
    }
}

#[test]
fn an_empty_session_is_reported_as_what_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("empty.pystap");
    let file = fs::File::create(&path).expect("a file");
    let mut sink = Box::new(Writer::new(file, PairingRules::default()));
    sink.session(&Session::default()).expect("a file");
    sink.finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("a file");
    let ended = done(&["report", text(&path)]);
    assert!(ended.stdout.contains("nothing lost"), "{ended:?}");
    let ended = pystap_with(&["export", text(&path), "-f", "flamegraph"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("nothing to draw"), "{ended:?}");
}

#[test]
fn a_recording_or_a_live_table_is_not_for_where_it_cannot_be_shown() {
    let ended = pystap_with(&["record", "-p", "1"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("--output"), "{ended:?}");
    let ended = pystap_with(&["top", "-p", "1"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.only_error().contains("--batch"), "{ended:?}");
}

#[test]
fn an_unknown_service_is_answered_with_those_that_are_known() {
    for arguments in [
        &["ps", "nove"][..],
        &["trace", "--service", "nove"],
        &["top", "--batch", "nove"],
    ] {
        let ended = pystap_with(arguments);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.only_error().contains("known are"), "{ended:?}");
    }
}

/// A trace of long calls, of which two were long only by waiting for work.
fn long_calls(directory: &Path) -> String {
    let session = json!({
        "event": "session", "ts": 1, "schema": 1, "pystap": "0.1.0", "engine": "direct", "notes": [], "armed": [],
        "targets": [{"pid": 7, "command": "app"}], "events": ["return"], "filter": "calls of 5ms and longer",
    });
    let ended = |ts: u64, function: &str, took: u64, idle: u64| {
        let mut event = json!({
            "event": "return", "ts": ts, "pid": 7, "tid": 8, "file": "/srv/app.py", "function": function, "line": 3,
            "duration_ns": took,
        });
        if idle > 0 {
            event["idle_ns"] = idle.into();
        }
        event
    };
    let lines = [
        session,
        ended(1_000_000_000, "wait", 300_000_000, 300_000_000),
        ended(1_000_000_000, "get", 301_000_000, 300_500_000),
        ended(2_000_000_000, "resize", 40_000_000, 0),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = directory.join("long.json");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn long_calls_that_waited_for_work_are_left_out_of_views_and_said_unless_they_are_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = long_calls(directory.path());
    let left_out = "2 calls that waited for work, 301ms, left out; --idle shows them";
    for format in ["chrome", "speedscope"] {
        let shown = |options: &[&str]| {
            let ended = pystap_with(&[&["export", &file, "-f", format], options].concat());
            assert_eq!(ended.code, 0, "{ended:?}");
            let names = ["wait", "get", "resize"];
            let has = |name: &&str| ended.stdout.contains(&format!("\"name\":\"{name}\""));
            let names: Vec<&str> = names.into_iter().filter(has).collect();
            (names, ended.stderr.contains(left_out))
        };
        assert_eq!(shown(&[]), (vec!["resize"], true), "{format}");
        let all = vec!["wait", "get", "resize"];
        assert_eq!(shown(&["--idle"]), (all, false), "{format}");
    }
    let folded = pystap_with(&["export", &file, "-f", "folded"]);
    assert_eq!(folded.stdout, "resize (/srv/app.py:3) 40000000\n");
    assert!(
        folded
            .stderr
            .contains("301ms in which threads waited for work"),
        "{folded:?}"
    );
    let json = pystap_with(&["export", &file, "-f", "json"]).stdout;
    assert!(json.contains("\"idle_ns\":300500000"), "{json}");
    let table = pystap_with(&["report", &file, "--json"]).stdout;
    let table: Value = serde_json::from_str(&table).expect("JSON");
    assert_eq!(table["account"]["idle_ns"], 301_000_000);
    let refused = pystap_with(&["export", &file, "-f", "json", "--idle"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.stderr.contains("this one shows it anyway"),
        "{refused:?}"
    );
}

/// A trace of an interpreter that tells the creation of a generator as a call: the last of very many calls is one, which nothing
/// tells before its creator returns.
fn with_a_late_creation(directory: &Path) -> String {
    let session = json!({
        "event": "session", "ts": 1, "schema": 1, "pystap": "0.1.0", "engine": "uprobes", "notes": [], "armed": [],
        "targets": [{"pid": 7, "command": "app"}], "events": ["call", "return"],
    });
    let mut text = format!("{session}\n");
    let mut ts = 1_000_000;
    let mut add = |event: &str, function: &str, line: u32| {
        ts += 1_000;
        let event = json!({
            "event": event, "ts": ts, "pid": 7, "tid": 7, "file": "/srv/app.py", "function": function, "line": line,
        });
        text.push_str(&format!("{event}\n"));
    };
    add("call", "main", 1);
    for _ in 0..20_000 {
        add("call", "work", 10);
        add("return", "work", 12);
    }
    add("call", "rows", 20);
    add("return", "main", 9);
    let path = directory.join("late.json");
    fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn what_turns_out_late_to_have_been_no_call_is_in_nothing_that_is_made_of_the_recording() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = with_a_late_creation(directory.path());
    for format in ["chrome", "folded", "json"] {
        // What went to a pipe cannot be taken back, and so it is known from the start what is no call.
        let piped = pystap_with(&["export", &trace, "-f", format]);
        let file = directory.path().join(format);
        done(&["export", &trace, "-f", format, "-o", text(&file)]);
        let written = fs::read_to_string(&file).expect("written");
        assert!(written == piped.stdout, "{format}");
        assert_eq!(written.contains("rows"), format == "json", "{format}");
        assert!(written.len() > 1_000_000 || format == "folded");
    }
    let tables = directory.path().join("tables");
    done(&["export", &trace, "-f", "parquet", "-o", text(&tables)]);
    let functions = fs::read(tables.join("functions.parquet")).expect("written");
    let has = |name: &[u8]| functions.windows(name.len()).any(|it| it == name);
    assert!(has(b"work") && !has(b"rows"));
    let report = done(&["report", &trace, "--json"]).stdout;
    let table: Value = serde_json::from_str(&report).expect("JSON");
    let rows = table["functions"].as_array().expect("rows").iter();
    let calls: Vec<(&str, u64)> = rows
        .map(|row| {
            (
                row["function"].as_str().expect("a name"),
                row["calls"].as_u64().expect("a number"),
            )
        })
        .collect();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(
        calls.contains(&("work", 20_000)) && calls.contains(&("main", 1)),
        "{calls:?}"
    );
}

#[test]
fn names_that_are_too_many_to_be_kept_at_once_are_counted_and_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let session = json!({
        "event": "session", "ts": 1, "schema": 1, "pystap": "0", "engine": "none", "notes": [], "armed": [],
        "targets": [{"pid": 1, "command": "invented", "python": null}], "events": ["call", "return"],
    });
    let mut text = format!("{session}\n");
    // Calls within each other, each with half a megabyte of a name: 60 MB of them, where 48 are kept.
    for number in 0..120 {
        let event = json!({
            "event": "call", "ts": 2 + number, "pid": 1, "tid": 1, "file": "/made.py", "line": 1,
            "function": format!("{number}{}", "x".repeat(500_000)),
        });
        text.push_str(&format!("{event}\n"));
    }
    let trace = directory.path().join("names.json");
    fs::write(&trace, text).expect("written");
    let profile = directory.path().join("profile");
    let trace = trace.to_str().expect("UTF-8");
    let ended = done(&[
        "export",
        trace,
        "-f",
        "pprof",
        "-o",
        profile.to_str().expect("UTF-8"),
    ]);
    let said = "events are shown without a name, because more names are in use at once than are kept (48 MB)";
    let line = ended.stderr.lines().find(|line| line.contains(said));
    let line = line.unwrap_or_else(|| panic!("{}", ended.stderr));
    let count = line
        .split_whitespace()
        .find_map(|word| word.parse::<u32>().ok());
    assert!(
        count.is_some_and(|count| (15..40).contains(&count)),
        "{line}"
    );
}
