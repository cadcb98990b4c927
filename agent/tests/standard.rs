//! CPython's own tests under the agent: what its authors assert about generators, coroutines, threads and garbage
//! collection stays true. Needs interpreters that come with their tests, as those in the trees do.
//!
//! `make test` runs them in one interpreter of each series that a tree has; with `--ignored`, in all available ones.

use std::time::Duration;

use pystap_agent_protocol::Kind;

use crate::interpreters::{self, Interpreter};
use crate::program::{Program, functions};

/// The suites.
const SUITES: [&str; 4] = [
    "test_generators",
    "test_coroutines",
    "test_threading",
    "test_gc",
];

/// Long enough for test_threading on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// Runs a unittest suite in the program's own process; returns its outcome.
fn suite(name: &str) -> String {
    format!(
        "
import io, unittest, importlib
import test.support
output = io.StringIO()
loaded = unittest.defaultTestLoader.loadTestsFromName('test.{name}')
outcome = unittest.TextTestRunner(stream=output, verbosity=0).run(loaded)
failed = sorted(str(test) for test, _ in outcome.failures + outcome.errors)
result = [outcome.testsRun, failed, output.getvalue()[-3000:] if failed else '']
"
    )
}

/// Whether it comes with its tests. Says so if it does not.
fn has_tests(interpreter: &Interpreter) -> bool {
    let has = interpreter.has("test.test_generators");
    if !has {
        println!("without its tests: {}", interpreter.name());
    }
    has
}

/// Runs the suites with a session that requests everything; the same tests fail as without one.
fn passes(interpreter: &Interpreter) {
    for name in SUITES {
        let mut process = Program::start(interpreter);
        let pystap = process.attach();
        let mut start = functions("*");
        start.events = vec![Kind::Function, Kind::Gc];
        start.contexts = true;
        pystap.start(start);
        let with = process.run_for(&suite(name), PATIENCE);
        let stopped = pystap.stop();
        println!(
            "{}: {name}: {} tests, {} entries, {} returns",
            interpreter.name(),
            with[0],
            stopped.entries,
            stopped.returns
        );
        assert!(with[0].as_u64().unwrap() > 10);
        assert!(stopped.entries > 1000, "the agent saw what was run");
        // The driver's module and its main were there before, and still are.
        assert_eq!(
            stopped.entries - stopped.returns,
            2,
            "{}: {name}",
            interpreter.name()
        );
        process.run("import gc; gc.collect()");
        assert_eq!(process.end(), Some(0), "{}: {name}", interpreter.name());
        if with[1] != serde_json::json!([]) {
            // A test can fail for reasons of its own: in a tree without /proc, or without a network.
            let mut process = Program::start(interpreter);
            let without = process.run_for(&suite(name), PATIENCE);
            assert_eq!(with[0], without[0], "{}: {name}", interpreter.name());
            assert_eq!(
                with[1],
                without[1],
                "{}: {name}: {}",
                interpreter.name(),
                with[2].as_str().unwrap()
            );
        }
    }
}

/// Those in the trees that come with their tests and do, or do not, have sys.monitoring.
fn in_trees(monitors: bool) {
    let mut tried = Vec::new();
    for interpreter in interpreters::all() {
        if interpreter.monitors() == monitors
            && interpreter.is_in_a_tree()
            && has_tests(interpreter)
        {
            passes(interpreter);
            tried.push(interpreter.name());
        }
    }
    println!("CPython's own tests were run in {tried:?}");
    assert!(
        !tried.is_empty(),
        "no interpreter comes with its tests: does tests/guest/build install them?"
    );
}

#[test]
fn cpythons_own_tests_pass_under_the_agent_up_to_3_11() {
    in_trees(false);
}

#[test]
fn cpythons_own_tests_pass_under_the_agent_from_3_12_on() {
    in_trees(true);
}

#[test]
#[ignore = "takes minutes: every interpreter within reach"]
fn cpythons_own_tests_pass_under_the_agent_everywhere() {
    for interpreter in interpreters::all() {
        if has_tests(interpreter) {
            passes(interpreter);
        }
    }
}
