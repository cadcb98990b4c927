//! What the interpreter does beside calls: collections have the generations that its own hook has, and a lazy import is an event
//! where its module is used.

use std::collections::BTreeMap;

use pystap::event::What;
use serde::Deserialize;
use serde_json::Value;

use super::interpreters::{self, Interpreter, Way};
use super::{done, path};
use crate::live::agent::leaves_nothing_at_all;
use crate::tracing::read;

/// Collections by generation: counted by the program, and before it began to count.
#[derive(Debug, Deserialize)]
struct Truth {
    python: String,
    counted: BTreeMap<String, u64>,
    before: BTreeMap<String, u64>,
}

/// The interpreter collects everything a few times when it ends.
const AT_THE_END: u64 = 8;

fn generations_are_true(interpreter: &Interpreter, way: Way) {
    let (directory, ended) = interpreter.record(way, "garbage.py");
    assert_eq!(ended.code, 0, "{ended:?}");
    let last = ended.stdout.lines().last().unwrap_or_default();
    let truth: Truth =
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let report = done(&[
        "report",
        &path(directory.path(), "recording"),
        "--gc",
        "--json",
    ])
    .stdout;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let rows = report["generations"].as_array().expect("rows");
    for (generation, counted) in &truth.counted {
        let number: u64 = generation.parse().expect("a number");
        let mine = rows.iter().filter(|row| row["generation"] == number);
        let seen: u64 = mine.filter_map(|row| row["count"].as_u64()).sum();
        let most = counted + truth.before[generation] + if number == 2 { AT_THE_END } else { 0 };
        assert!(
            (*counted..=most).contains(&seen),
            "{}, {}: {seen} of generation {generation}: {truth:?}",
            interpreter.name(way),
            truth.python
        );
    }
    // Free-threaded builds collect more rarely.
    assert!(truth.counted.values().sum::<u64>() > 10, "{truth:?}");
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn collections_have_the_generations_that_the_interpreter_counts() {
    leaves_nothing_at_all(|| {
        for interpreter in interpreters::here() {
            for way in interpreter.ways() {
                generations_are_true(&interpreter, *way);
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn collections_have_the_generations_that_the_interpreter_counts_in_a_tree() {
    leaves_nothing_at_all(|| {
        for interpreter in interpreters::in_trees() {
            for way in interpreter.ways() {
                generations_are_true(&interpreter, *way);
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_lazy_import_is_an_event_within_the_call_that_first_uses_it_in_a_tree() {
    leaves_nothing_at_all(|| {
        let newest = interpreters::in_trees().pop().expect("the newest");
        let (directory, ended) = newest.record_kinds(Way::Probes, "lazy.py", "call,return,import");
        assert_eq!(ended.code, 0, "{ended:?}");
        let last = ended.stdout.lines().last().unwrap_or_default();
        let truth: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        assert_eq!(truth, serde_json::json!({ "before": false, "after": true }));
        let json = done(&["export", &path(directory.path(), "recording"), "-f", "json"]).stdout;
        let traced = read(&json, 0, Vec::new(), String::new());
        let told: Vec<&str> = traced
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Call { place, .. } if place.function.text == "use" => Some("call"),
                What::Return { place, .. } if place.function.text == "use" => Some("return"),
                What::Plain(plain) => plain
                    .subject()
                    .filter(|module| module.text == "colorsys")
                    .map(|_| plain.name()),
                _ => None,
            })
            .collect();
        assert_eq!(told, ["call", "import_start", "import_done", "return"]);
    });
}
