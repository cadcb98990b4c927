//! `pystap dump` of greenlets that are switched out: their stacks are those that Python itself tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::dump::{BOUND, Running, interpreters, process};

const GREENLETS: &str = include_str!("../../../programs/parked_greenlets.py");

/// Those of the interpreters that have greenlets, and those of the environments that `agent/tests/services/install` makes.
fn with_greenlets() -> Vec<(String, Command)> {
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let services = named("PYSTAP_TEST_SERVICES")
        .or_else(|| named("PYSTAP_TEST_TREES").map(|trees| trees.join("services")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/pystap-guest/services")));
    let environments = services.map(|services| fs::read_dir(services).into_iter().flatten());
    let environments = environments.into_iter().flatten().flatten();
    let pythons = environments.map(|environment| environment.path().join("bin/python"));
    let pythons = pythons.map(|python| (python.display().to_string(), Command::new(&python)));
    let has_them = |(_, command): &mut (String, Command)| {
        let mut tried = Command::new(command.get_program());
        tried
            .args(command.get_args())
            .args(["-c", "import greenlet"]);
        let tried = tried.stdin(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let mut found: Vec<_> = interpreters().into_iter().chain(pythons).collect();
    found.retain_mut(has_them);
    assert!(
        !found.is_empty(),
        "no interpreter here has greenlets: agent/tests/services/install or tests/guest/build make some"
    );
    found
}

#[test]
#[ignore = "needs greenlets (agent/tests/services/install): run by tests/uprobes/run"]
fn every_greenlet_that_is_switched_out_has_the_stack_that_python_itself_says() {
    const EQUAL: u64 = 500;
    let mut with_eventlet = 0;
    for (name, command) in with_greenlets() {
        let running = Running::program(GREENLETS, command, &[&EQUAL.to_string()]);
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for stack in running.truth["stacks"].as_array().expect("an array") {
            *expected.entry(stack.to_string()).or_default() += 1;
        }
        let process = process(running.pid());
        let greenlets = process["greenlets"].as_array().expect("greenlets");
        let mut found = BTreeMap::new();
        for alike in greenlets {
            assert_eq!(alike["reading"], "exact", "{name}: {alike:#}");
            let stack = alike["stack"].as_array().expect("a stack");
            let stack: Vec<Value> = stack
                .iter()
                .map(|it| serde_json::json!([it["function"], it["file"], it["line"]]))
                .collect();
            let count = alike["count"].as_u64().expect("a number");
            assert!(
                found
                    .insert(Value::from(stack).to_string(), count)
                    .is_none(),
                "{name}: {alike:#} is there twice"
            );
        }
        let waiting = greenlets.iter().filter(|alike| !alike["wait"].is_null());
        let waits: Vec<&Value> = waiting.map(|alike| &alike["wait"]).collect();
        let truth = &running.truth;
        let expected_waits = match truth["descriptor"].as_u64() {
            Some(descriptor) => vec![serde_json::json!({
                "for": "descriptors",
                "descriptors": [{
                    "fd": descriptor, "kind": "socket", "protocol": "tcp", "state": "ESTABLISHED",
                    "local": truth["ends"][0], "remote": truth["ends"][1],
                }],
                "count": 1,
            })],
            None => Vec::new(),
        };
        assert!(waits.into_iter().eq(&expected_waits), "{name}: {process:#}");
        with_eventlet += expected_waits.len();
        assert!(expected.len() > 10, "{name}: {expected:#?}");
        assert_eq!(found, expected, "{name}");
        // The most frequent are first.
        assert_eq!(greenlets[0]["count"], EQUAL, "{name}");
        assert_eq!(process["greenlets_not_shown"], 0, "{name}");
    }
    assert!(with_eventlet > 0, "none of them has eventlet");
}

#[test]
#[ignore = "needs greenlets (agent/tests/services/install): run by tests/uprobes/run"]
fn a_greenlet_that_changes_all_the_time_has_a_possible_stack_or_is_marked() {
    for (name, command) in with_greenlets() {
        let running = Running::program(GREENLETS, command, &["churn"]);
        let mut seen = 0;
        let end = Instant::now() + BOUND;
        while seen < 5 {
            assert!(
                Instant::now() < end,
                "{name}: no greenlet that changes was seen"
            );
            let process = process(running.pid());
            for alike in process["greenlets"].as_array().expect("greenlets") {
                assert_ne!(alike["reading"], "exact", "{name}: {alike:#}");
                let stack = alike["stack"].as_array().expect("a stack");
                let names = stack.iter().filter_map(|it| it["function"].as_str());
                let names = names.map(|name| name.rsplit('.').next().unwrap_or(name));
                let names: Vec<&str> = names.collect();
                if alike["reading"] == "changed" || names.last() != Some(&"forever") {
                    continue;
                }
                seen += 1;
                let calls = names.iter().filter(|name| **name == "churn").count();
                assert!((1..=20).contains(&calls), "{name}: {names:?}");
                let mut expected = vec!["gives_way"];
                expected.resize(calls + 1, "churn");
                expected.push("forever");
                assert_eq!(names, expected, "{name}");
            }
        }
    }
}
