//! What threads are for, and long calls that wait for work, of a real program that says how often it works.

use std::collections::BTreeMap;

use serde_json::Value;

use super::PYTHON_3_11;
use super::views::view;
use crate::command::{file, pystap_with};
use crate::live::threads_have_their_names;
use crate::tracing::{leaves_nothing, numbers};

fn program() -> String {
    file("tests/programs/roles.py")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn rows_by_context_say_what_threads_are_for() {
    leaves_nothing(|| {
        let program = program();
        let top = ["top", "--agent", "--by-context", "--limit", "10000"];
        let (tables, said) = view(&top, &[PYTHON_3_11, &program]);
        let table = tables.last().expect("a table");
        let rows = table["functions"].as_array().expect("rows");
        let mut found = BTreeMap::new();
        for row in rows.iter().filter(|row| row["file"] == *program) {
            let name = row["function"].as_str().expect("a name").to_owned();
            let calls = row["calls"].as_u64().expect("a number");
            let context = row["context"].as_str().map(str::to_owned);
            found.insert((name, context), calls);
        }
        let of = |name: &str, context: &str| {
            let key = (name.to_owned(), Some(context.to_owned()));
            found.get(&key).copied()
        };
        let truth = numbers(&said["calls"]);
        assert_eq!(
            of("resize", "pool worker"),
            Some(truth["resize"]),
            "{found:?}"
        );
        assert_eq!(of("take", "consume"), Some(truth["take"]), "{found:?}");
        assert_eq!(of("consume", "consume"), Some(1), "{found:?}");
        // All of a thread is in rows of what it is, from its beginning on.
        let bootstraps = rows.iter().filter(|row| row["function"] == "_bootstrap");
        let mut roles: Vec<&str> = bootstraps
            .filter_map(|row| row["context"].as_str())
            .collect();
        roles.sort_unstable();
        assert_eq!(roles, ["consume", "pool worker"]);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn threads_have_their_names_without_an_agent_too() {
    leaves_nothing(|| threads_have_their_names(PYTHON_3_11, &["--no-agent"]));
}

/// Long calls of the program and of the modules that wait for it, by their names; and the summary, and what was said.
fn long_calls(options: &[&str]) -> (BTreeMap<String, usize>, Value, String) {
    let program = program();
    let trace = [
        "trace",
        "--agent",
        "--engine",
        "uprobes",
        "--format",
        "json",
        "--min-duration",
        "20ms",
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("trace.json");
    let output = output.to_str().expect("UTF-8");
    let command = ["--output", output, "--", PYTHON_3_11, &program];
    let ended = pystap_with(&[&trace, options, &command].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    let written = std::fs::read_to_string(output).expect("written");
    let lines = written
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<Value> = lines.collect();
    let mut calls = BTreeMap::new();
    for event in lines.iter().filter(|line| line["event"] == "return") {
        let name = event["function"].as_str().expect("a name");
        *calls.entry(name.to_owned()).or_default() += 1;
    }
    let summary = lines.last().expect("a summary").clone();
    (calls, summary, ended.stderr)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn long_calls_that_wait_for_work_are_left_out_and_those_that_work_are_not() {
    leaves_nothing(|| {
        let (calls, summary, said) = long_calls(&[]);
        for work in ["resize", "take", "answer"] {
            assert_eq!(calls.get(work), Some(&3), "{calls:?}");
        }
        // The loop waited 200 ms each time, for what its tasks waited for.
        assert_eq!(calls.get("select"), None, "{calls:?}");
        let (count, waited) = (&summary["idle_calls"], &summary["idle_calls_ns"]);
        assert!(count.as_u64().is_some_and(|count| count >= 3), "{summary}");
        assert!(
            waited.as_u64().is_some_and(|ns| ns >= 600_000_000),
            "{summary}"
        );
        assert!(said.contains(" calls that waited for work, "), "{said}");
        assert!(said.contains(" left out; --idle shows them"), "{said}");
        let (calls, summary, said) = long_calls(&["--idle"]);
        assert!(
            calls.get("select").is_some_and(|&calls| calls >= 3),
            "{calls:?}"
        );
        assert_eq!(calls.get("resize"), Some(&3), "{calls:?}");
        assert_eq!(summary.get("idle_calls"), None, "{summary}");
        assert!(!said.contains("left out"), "{said}");
    });
}
