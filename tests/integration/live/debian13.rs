//! On Debian 13, with its own Python 3.13 and with PyPy: `tests/uprobes/run` runs these in a Debian 13 tree.

use std::process::Command;

use super::Service;
use super::agent::leaves_nothing_at_all;
use super::attached::is_complete_where_the_agent_is_installed;
use crate::command::{command, file, run};
use crate::tracing::trace;

const PYTHON: &str = "/usr/bin/python3.13";
const PYPY: &str = "/usr/bin/pypy3";

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_debian_13_is_complete_after_one_step() {
    leaves_nothing_at_all(|| is_complete_where_the_agent_is_installed(PYTHON));
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_launched_program_of_debian_13_is_complete() {
    leaves_nothing_at_all(|| {
        let program = file("examples/nested.py");
        let traced = trace(&["--", PYTHON, &program]).complete("targets_ended");
        super::agent::is_exact(&traced, &program, "calls");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_debian_13_that_nobody_prepared_is_refused_with_the_step() {
    leaves_nothing_at_all(|| {
        let mut service = Service::start_with(PYTHON, "tests/programs/requests.py", &[]);
        let ended = run(&mut command(["trace", "-p", &service.pid()]));
        let message = ended.only_error();
        assert_eq!(ended.code, 3, "{message}");
        assert!(message.contains("agent install --python"), "{message}");
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn pypy_is_refused_by_its_name_running_and_launched() {
    leaves_nothing_at_all(|| {
        let mut pypy = Command::new(PYPY);
        pypy.arg(file("tests/programs/idle.py")).arg("asyncio");
        let mut service = Service::of(pypy);
        let pid = service.pid();
        let environment = tempfile::tempdir().expect("a directory");
        let renamed = environment.path().join("python");
        std::os::unix::fs::symlink(PYPY, &renamed).expect("linked");
        let renamed = renamed.to_str().expect("UTF-8");
        let output = environment.path().join("events");
        let output = output.to_str().expect("UTF-8");
        for arguments in [
            vec!["trace", "-p", &pid],
            vec!["top", "--json", "-p", &pid],
            vec!["trace", "--inject", "ptrace", "-p", &pid],
            vec!["record", "--output", output, "-p", &pid],
            vec!["trace", "--", PYPY, "-c", "print('it ran')"],
            vec!["trace", "--agent", "--", PYPY, "-c", "print('it ran')"],
            // As in a virtual environment of PyPy.
            vec!["trace", "--", renamed, "-c", "print('it ran')"],
            vec!["agent", "install", "--python", PYPY],
        ] {
            let ended = run(&mut command(&arguments));
            let message = ended.only_error().to_lowercase();
            assert_eq!(ended.code, 3, "{arguments:?}: {message}");
            for word in ["pypy", "cpython"] {
                assert!(message.contains(word), "{arguments:?}: {message}");
            }
        }
        assert_eq!(service.end()["unharmed"], true);
    });
}
