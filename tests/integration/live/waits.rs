//! `pystap offcpu --engine stap`: waits added up by a module must be those that a program measures itself, and those that
//! pystap adds up from the kernel's events at the same time.

use std::process::Command;

use serde_json::Value;

use super::PYTHON;
use crate::command::pystap;
use crate::offcpu::{
    PROGRAM, Running, Watching, check_length, check_reasons, has, of_thread, waits,
};
use crate::tracing::leaves_nothing;

/// By stack, everything.
const ALL: [&str; 5] = ["--json", "--by", "stack", "--idle", "--limit"];

fn watching(pid: u32, options: &[&str]) -> Watching {
    let mut command = Command::new(pystap());
    // The cache of compiled scripts is found through it.
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let options: Vec<&str> = ALL
        .iter()
        .chain(&["100000"])
        .chain(options)
        .copied()
        .collect();
    Watching::start_by(&mut command, pid, &options)
}

/// What a thread waited outside of the function that all threads park in, in milliseconds.
fn waited(rows: &[Value], tid: u64) -> f64 {
    let own = rows.iter().filter(|row| !has(&row["stack"], "park"));
    own.map(|row| of_thread(row, tid)).sum()
}

fn rows(told: &Value) -> &[Value] {
    told["rows"].as_array().expect("rows")
}

/// How often each thread waited.
fn numbers(told: &Value, tid: u64) -> Value {
    let threads = told["threads"].as_array().expect("threads");
    let thread = threads.iter().find(|thread| thread["tid"] == tid);
    thread.unwrap_or_else(|| panic!("{tid} is missing"))["waits"].clone()
}

/// Checks a run, and answers whether the lengths are right, too.
fn every_wait_but_its_length_is_right(python: &str) -> Result<(), String> {
    let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let path = directory.path().to_str().expect("text");
    let mut running = Running::start(Command::new(python).args(["-c", PROGRAM, path]));
    assert_eq!(running.line(), "ready\n");
    let by_module = watching(running.pid(), &["--engine", "stap"]);
    let by_events = watching(running.pid(), &["--engine", "perf"]);
    running.go_on();
    let truth: Value = serde_json::from_str(&running.line()).expect("JSON");
    let threads = truth.as_object().expect("an object");
    let ids = threads.values().filter_map(|thread| thread["tid"].as_u64());
    let counted: Vec<(u64, u64)> = ids.map(|tid| (tid, waits(running.pid(), tid))).collect();
    let by_events = by_events.json();
    let by_module = by_module.json();
    for lost in ["lost_records", "lost_waits"] {
        assert_eq!(by_module[lost], 0, "{by_module:#}");
    }
    for row in rows(&by_module) {
        assert_eq!(row["estimated_waits"], 0, "{row:#}");
    }
    let mut wrong = Vec::new();
    for (tid, waits) in counted {
        assert_eq!(numbers(&by_module, tid), waits, "{truth:#}");
        assert_eq!(numbers(&by_events, tid), waits, "{truth:#}");
        let (one, other) = (waited(rows(&by_module), tid), waited(rows(&by_events), tid));
        // Each of them takes its time at a switch, which the other may take for a wait: some 20 microseconds, emulated.
        if (one - other).abs() > 0.02 * other + 1.0 + 0.05 * waits as f64 {
            wrong.push(format!("{tid}: {one} by the module, {other} by events"));
        }
    }
    // It waited before anybody looked, and went on after that.
    let of_main =
        |row: &&Value| row["function"] == "main" && row["syscalls"][0]["syscall"] == "read";
    let main = rows(&by_module).iter().find(of_main);
    let main = main.unwrap_or_else(|| panic!("the wait from before is missing: {by_module:#}"));
    assert_eq!(
        (&main["reasons"][0]["reason"], &main["waits"]),
        (&"pipe".into(), &1.into())
    );
    // The guest's files are another machine's, and its threads meet where they change their memory (`mprotect`).
    let any = ["gil", "page-fault", "disk", "other"];
    check_reasons(python, &truth, rows(&by_module), &any);
    // An emulated machine takes a thread's time for interrupts, and for other machines' files far more than it waits for them.
    let of_files = ["reads", "reads_cold", "syncs"];
    let others = threads
        .iter()
        .filter(|it| !of_files.contains(&it.0.as_str()));
    for (function, thread) in others {
        wrong.extend(check_length(python, function, thread, rows(&by_module), 0.8).err());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{wrong:#?}: {truth:#}")),
    }
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn waits_that_a_module_adds_up_are_the_programs_and_those_of_events() {
    leaves_nothing(|| {
        // A machine that is taken away for a moment has other lengths: they are measured anew then, but not for ever.
        let measured = (0..3).map(|_| every_wait_but_its_length_is_right(PYTHON));
        let mut wrong = Vec::new();
        for lengths in measured {
            match lengths {
                Ok(()) => break,
                Err(sentence) => {
                    eprintln!("{sentence}");
                    wrong.push(sentence);
                }
            }
        }
        assert!(wrong.len() < 3, "{wrong:#?}");
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_module_adds_up_only_waits_that_took_so_long_where_that_is_asked_for() {
    const MIN: [&str; 2] = ["--min", "30ms"];
    leaves_nothing(|| {
        let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = directory.path().to_str().expect("text");
        let mut running = Running::start(Command::new(PYTHON).args(["-c", PROGRAM, path]));
        assert_eq!(running.line(), "ready\n");
        let by_module = watching(running.pid(), &[&["--engine", "stap"], &MIN[..]].concat());
        let by_events = watching(running.pid(), &[&["--engine", "perf"], &MIN[..]].concat());
        running.go_on();
        let truth = running.line();
        let (by_events, by_module) = (by_events.json(), by_module.json());
        for row in rows(&by_module) {
            let number = |field: &str| row[field].as_u64().expect("a number");
            let least = number("waits") * 30_000_000;
            assert!(number("blocked_ns") >= least, "{row:#}");
        }
        // Its children sleep for longer than that.
        let children = |told: &Value| -> u64 {
            let of_children = rows(told)
                .iter()
                .filter(|row| has(&row["stack"], "waits_for_a_child"));
            let of_children = of_children.filter(|row| row["reasons"][0]["reason"] == "child");
            of_children.filter_map(|row| row["waits"].as_u64()).sum()
        };
        let told = (children(&by_module), children(&by_events));
        assert!(told.0 > 0 && told.0 == told.1, "{told:?}: {truth}");
    });
}
