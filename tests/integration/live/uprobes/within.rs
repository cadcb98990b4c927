//! Interpreters within an interpreter: what programs count in each, against what the agent tells of it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};

use pystap::event::What;
use serde_json::Value;

use super::direct::interpreters;
use super::views::{column, view};
use crate::command::{end, file};
use crate::tracing::{BOUND, Traced, Tracing, Way, eventually, leaves_nothing, numbers, trace};

/// Pythons in which they are traced; in a tree, those of the tree.
fn pythons() -> Vec<String> {
    let of_tree = [13, 14, 15].map(|minor| format!("/usr/bin/python3.{minor}"));
    let code =
        "import sys; sys.exit(sys.version_info < (3, 13) or 'free-threading' in sys.version)";
    let fits = |python: &String| {
        let tried = Command::new(python).args(["-c", code]).status();
        tried.is_ok_and(|status| status.success())
    };
    let found: Vec<String> = interpreters()
        .into_iter()
        .chain(of_tree)
        .filter(fits)
        .collect();
    assert!(!found.is_empty(), "no Python from 3.13 on was found");
    found
}

/// Calls or returns of a function, by interpreter.
fn by_interpreter(traced: &Traced, name: &str, way: Way) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in &traced.events {
        let place = match (&event.what, way) {
            (What::Call { place, .. }, Way::In) | (What::Return { place, .. }, Way::Out) => place,
            _ => continue,
        };
        if place.function.text == name {
            let id = event.interpreter.map_or(0, NonZeroU32::get);
            *counts.entry(id.to_string()).or_default() += 1;
        }
    }
    counts
}

fn is_exact(traced: &Traced, truth: &Value) {
    let truth = numbers(&truth["leaf"]);
    for way in [Way::In, Way::Out] {
        assert_eq!(by_interpreter(traced, "leaf", way), truth, "{way:?}");
    }
    let summary = &traced.summary;
    assert_eq!(
        (summary.unpaired, summary.uncounted),
        (0, false),
        "{summary:?}"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_in_every_interpreter_are_told_with_its_id() {
    let program = file("tests/programs/interpreters.py");
    for python in pythons() {
        leaves_nothing(|| {
            let options = ["--engine", "direct", "--file", &program];
            let traced = trace(&[&options[..], &["--", &python, &program]].concat());
            let traced = traced.complete("targets_ended");
            is_exact(&traced, &traced.truth());
            // What leads into an interpreter is in the main one.
            assert_eq!(by_interpreter(&traced, "outer", Way::In).len(), 1);
            let collects = |what: &What| {
                matches!(
                    what,
                    What::GcDone {
                        pause_ns: Some(_),
                        ..
                    }
                )
            };
            let last = numbers(&traced.truth()["leaf"]).into_keys();
            let last = last
                .filter_map(|id| id.parse().ok())
                .max()
                .and_then(NonZeroU32::new);
            let collected = traced.events.iter();
            assert!(
                collected
                    .filter(|event| collects(&event.what))
                    .any(|event| event.interpreter == last)
            );
        });
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_is_added_up_of_all_interpreters_is_what_they_count() {
    let program = file("tests/programs/interpreters.py");
    for python in pythons() {
        leaves_nothing(|| {
            let (tables, truth) = view(
                &["top", "--engine", "direct", "--limit", "100000"],
                &[&python, &program],
            );
            let table = tables.last().expect("a table");
            let truth: u64 = numbers(&truth["leaf"]).into_values().sum();
            for what in ["calls", "cumulative_ns"] {
                let all = column(table, &program, what);
                assert!(all["leaf"] > 0, "{table}");
            }
            assert_eq!(column(table, &program, "calls")["leaf"], truth, "{python}");
        });
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn one_that_runs_when_a_session_begins_is_told_from_then_on() {
    let program = file("tests/programs/interpreters.py");
    for python in pythons() {
        leaves_nothing(|| {
            let directory = tempfile::tempdir().expect("a directory");
            let lasting = directory.path().join("lasting");
            std::fs::write(&lasting, "").expect("written");
            let mut running =
                Running::start(&python, &[&program, lasting.to_str().expect("UTF-8")]);
            assert_eq!(running.line(), "ready");
            let pid = running.child.id().to_string();
            let options = ["--engine", "direct", "--inject", "ptrace", "-p", &pid];
            let tracing = Tracing::start(&options).live();
            eventually("it is told", || tracing.has_written("\"interpreter\":1"));
            std::fs::remove_file(&lasting).expect("removed");
            let truth: Value = serde_json::from_str(&running.line()).expect("JSON");
            assert_eq!(end(&mut running.child, BOUND), Some(0));
            let traced = tracing.finish().complete("targets_ended");
            is_exact(&traced, &truth);
            assert_eq!(by_interpreter(&traced, "linger", Way::Out).len(), 1);
        });
    }
}

/// A program that runs by itself.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(python: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(python);
        command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
