//! What the agent is for: a service that is already running, on a distribution's own Python, is traced and shown by
//! `top` with every single call. `tests/uprobes/run` runs this on Debian 12 (`installed.rs`), 13 (`debian13.rs`) and
//! testing (here).

use std::process::Stdio;

use super::agent::leaves_nothing_at_all;
use super::installed::environment;
use super::{Service, calls_of};
use crate::command::{command, end, file, run};
use crate::tracing::{BOUND, Tracing, Way, eventually, numbers};

const PROGRAM: &str = "tests/programs/requests.py";
const REQUESTS: usize = 200;

fn serve(service: &mut Service) {
    for number in 0..REQUESTS {
        let answer = service.request(&format!("Request {number}"));
        assert_eq!(answer.trim_end(), format!("ok request {number}"));
    }
}

/// Traces a running service, then shows another one with `top`, each from before its first request to its end.
pub(super) fn is_complete(python: &str, options: &[&str]) {
    let program = file(PROGRAM);
    let mut service = Service::start_with(python, PROGRAM, &[]);
    let tracing = Tracing::start(&[options, &["-p", &service.pid()]].concat()).live();
    serve(&mut service);
    let truth = service.end();
    let traced = tracing.finish().complete("targets_ended");
    let mut expected = numbers(&truth["calls"]);
    expected.extend(numbers(&truth["stays"]));
    for way in [Way::In, Way::Out] {
        let seen = calls_of(&traced, &program, way, &expected);
        assert_eq!(seen, expected, "{way:?} {:#?}", traced.said);
    }
    let armed = &traced.session.armed;
    if armed.iter().any(|mark| mark.mark.starts_with("pystap:")) {
        // The agent announces what was running; CPython's own marks only report its return.
        assert_eq!(traced.summary.unpaired, 0, "{:?}", traced.summary);
    }

    let mut service = Service::start_with(python, PROGRAM, &[]);
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("tables");
    let mut top = command(["top", "--json", "--interval", "100ms", "--limit", "1000"]);
    top.args(["--engine", "uprobes", "--output"]).arg(&output);
    top.args(options).args(["-p", &service.pid()]);
    let mut top = top.stderr(Stdio::null()).spawn().expect("pystap starts");
    let written = || std::fs::read_to_string(&output).unwrap_or_default();
    eventually("there is a table", || written().ends_with('\n'));
    serve(&mut service);
    let truth = service.end();
    assert_eq!(end(&mut top, BOUND), Some(0));
    let last = written();
    let table: serde_json::Value =
        serde_json::from_str(last.lines().last().expect("a table")).expect("JSON");
    assert_eq!(table["account"]["lost"], 0, "{table}");
    let mut expected = numbers(&truth["calls"]);
    expected.extend(numbers(&truth["stays"]));
    for (name, calls) in expected {
        let rows = table["functions"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|row| row["function"] == *name && row["file"] == *program);
        let row = row.unwrap_or_else(|| panic!("{name}: {table}"));
        assert_eq!(row["calls"], calls, "{python}: {row}");
    }
}

/// The same after the one documented step.
pub(super) fn is_complete_where_the_agent_is_installed(python: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let python = environment(python, directory.path());
    let ended = run(&mut command(["agent", "install", "--python", &python]));
    assert_eq!(ended.code, 0, "{ended:?}");
    is_complete(&python, &["--agent"]);
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_debian_testings_3_14_is_traced_and_shown_completely() {
    leaves_nothing_at_all(|| is_complete("/usr/bin/python3.14", &[]));
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_debian_testings_3_13_is_complete_after_one_step() {
    leaves_nothing_at_all(|| is_complete_where_the_agent_is_installed("/usr/bin/python3.13"));
}
