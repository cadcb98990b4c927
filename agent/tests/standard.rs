//! CPython's own tests under the agent: what its authors hold true of generators, coroutines, threads and garbage
//! collection stays true. Only for interpreters that come with their tests.

use std::time::Duration;

use pystap_agent_protocol::Kind;

use crate::interpreters;
use crate::program::{Program, Pystap, functions};

/// The suites.
const SUITES: [&str; 4] = [
    "test_generators",
    "test_coroutines",
    "test_threading",
    "test_gc",
];

/// Runs a suite of unittest in the program's own process, and says how it ended.
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

#[test]
#[ignore = "takes minutes; run by hand and by scripts"]
fn cpythons_own_tests_pass_under_the_agent_as_without() {
    let mut tried = 0;
    for interpreter in interpreters::all() {
        if !interpreter.has("test.test_generators") {
            println!("without its tests: {}", interpreter.name());
            continue;
        }
        tried += 1;
        for name in SUITES {
            let mut process = Program::start(interpreter);
            let without = process.run_for(&suite(name), Duration::from_secs(300));
            drop(process);
            let mut process = Program::start(interpreter);
            let socket = process.run("agent.start(True); result = agent.status()['socket']");
            let pystap = Pystap::connect(socket.as_str().unwrap());
            let mut start = functions("*");
            start.events = vec![Kind::Function, Kind::Gc];
            start.contexts = true;
            pystap.start(start);
            let with = process.run_for(&suite(name), Duration::from_secs(600));
            let stopped = pystap.stop();
            println!(
                "{}: {name}: {} tests, {} entries, {} returns",
                interpreter.name(),
                with[0],
                stopped.entries,
                stopped.returns
            );
            assert!(with[0].as_u64().unwrap() > 10);
            // The driver's module and its main were there before, and still are.
            assert_eq!(
                stopped.entries - stopped.returns,
                2,
                "{}: {name}",
                interpreter.name()
            );
            assert_eq!(with[0], without[0], "{}: {name}", interpreter.name());
            assert_eq!(
                with[1],
                without[1],
                "{}: {name}: {}",
                interpreter.name(),
                with[2].as_str().unwrap()
            );
            process.run("import gc; gc.collect()");
            assert_eq!(process.end(), Some(0), "{}: {name}", interpreter.name());
        }
    }
    assert!(tried > 0, "no interpreter comes with its tests");
}
