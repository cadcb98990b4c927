//! Sessions that two engines share: what agents tell themselves, and what only probes have.

use pystap::event::{ProcessChange, What};

use super::super::calls_of;
use super::PYTHON_3_11;
use crate::command::file;
use crate::tracing::{Traced, Way, leaves_nothing, numbers, trace};

/// What happened in this order: calls and returns of a function, and the beginnings and ends of imports of a module.
fn order(traced: &Traced, function: &str, module: &str) -> Vec<&'static str> {
    let words = traced.events.iter().filter_map(|event| match &event.what {
        What::Call { place, .. } if place.function.text == function => Some("call"),
        What::Return { place, .. } if place.function.text == function => Some("return"),
        What::Plain(plain) if plain.subject().is_some_and(|it| it.text == module) => {
            Some(plain.name())
        }
        _ => None,
    });
    words.collect()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_of_the_agent_and_imports_of_the_interpreter_stand_in_one_order() {
    leaves_nothing(|| {
        let program = file("examples/imports.py");
        let kinds = ["--engine", "auto", "--events", "call,return,gc,import"];
        let traced = trace(&[&kinds[..], &["--", PYTHON_3_11, &program]].concat());
        let traced = traced.complete("targets_ended");
        assert_eq!(traced.session.engine, "uprobes+direct");
        let calls = numbers(&traced.truth()["calls"]);
        assert_eq!(calls_of(&traced, &program, Way::In, &calls), calls);
        assert_eq!(traced.summary.unpaired, 0, "{:?}", traced.summary);
        assert_eq!(
            order(&traced, "load_present", "json"),
            ["call", "import_start", "import_done", "return"],
        );
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_becomes_of_processes_is_told_once() {
    leaves_nothing(|| {
        let program = file("examples/forks.py");
        let traced = |options: &[&str]| {
            let command = ["--", PYTHON_3_11, &program];
            let traced = trace(&[options, &command].concat());
            traced.complete("targets_ended")
        };
        let kinds = ["--events", "call,return,import"];
        let mixed = traced(&[&kinds[..], &["--engine", "auto"]].concat());
        let probed = traced(&[&kinds[..], &["--engine", "uprobes", "--no-agent"]].concat());
        assert_eq!(mixed.session.engine, "uprobes+direct");
        for change in [
            ProcessChange::Fork,
            ProcessChange::Exec,
            ProcessChange::Exit,
        ] {
            let count = |traced: &Traced| traced.processes(change).len();
            assert_eq!(count(&mixed), count(&probed), "{change:?}");
            assert!(count(&mixed) > 0, "{change:?}");
        }
        assert_eq!(mixed.counts(&program, Way::In)["work"], 25);
    });
}
