//! What agents tell through shared memory, against what they tell through probes, and what only the first way has.

use std::collections::BTreeMap;

use pystap::event::{Event, What};
use rustix::process::Signal;

use super::super::{Service, calls_of};
use super::PYTHON_3_11;
use crate::command::{file, pystap, run};
use crate::tracing::{Traced, Tracing, Way, leaves_nothing, numbers, read, trace};

/// Interpreters here: Debian's own and what pyenv has built.
pub(super) fn interpreters() -> Vec<String> {
    let others = std::env::var("PYSTAP_TEST_PYTHONS").unwrap_or_default();
    let others = others.split(':').filter(|path| !path.is_empty());
    others
        .map(str::to_owned)
        .chain([PYTHON_3_11.to_owned()])
        .collect()
}

/// What an event says beyond when, and where processes and threads are numbered anew.
fn said(event: &Event) -> Option<String> {
    let line = match &event.what {
        What::Call { place, line, frame } => {
            format!(
                "call {} {line} {:?} {:?}",
                place.name(),
                frame.manner,
                frame.context
            )
        }
        What::Return {
            place, line, frame, ..
        } => format!(
            "return {} {line} {:?} {:?}",
            place.name(),
            frame.manner,
            frame.context
        ),
        What::Context { context, name } => format!("context {context} {name}"),
        _ => return None,
    };
    Some(line)
}

/// What each thread of each process has told, without their numbers.
fn streams(traced: &Traced) -> Vec<Vec<String>> {
    let mut all: BTreeMap<(u32, u32), Vec<String>> = BTreeMap::new();
    for event in &traced.events {
        if let Some(line) = said(event) {
            all.entry((event.pid, event.tid)).or_default().push(line);
        }
    }
    let mut all: Vec<Vec<String>> = all.into_values().collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn both_ways_tell_the_same_events_but_for_their_times() {
    leaves_nothing(|| {
        for python in interpreters() {
            for program in [
                "examples/nested.py",
                "examples/generators.py",
                "tests/programs/contexts.py",
                "examples/forks.py",
            ] {
                let program = file(program);
                let traced = |engine| {
                    let options = ["--engine", engine, "--agent", "--file", &program];
                    trace(&[options.as_slice(), &["--", &python, &program]].concat())
                        .complete("targets_ended")
                };
                let (direct, uprobes) = (traced("direct"), traced("uprobes"));
                assert_eq!(streams(&direct), streams(&uprobes), "{program} in {python}");
                for traced in [&direct, &uprobes] {
                    let summary = &traced.summary;
                    assert_eq!(
                        (summary.lost, summary.unpaired),
                        (0, 0),
                        "{python} {summary:?}"
                    );
                }
            }
        }
    });
}

/// As in a container that may do nothing: root without capabilities, and no tracefs that it could use.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn whoever_has_no_capabilities_traces_their_own_programs() {
    let program = file("examples/fib.py");
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("events");
    let ended = run(std::process::Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(pystap())
        .args(["trace", "--engine", "direct", "--output"])
        .arg(&output)
        .args(["--", PYTHON_3_11, &program]));
    assert_eq!(ended.code, 0, "{ended:?}");
    let text = std::fs::read_to_string(&output).expect("written");
    let said = ended.stderr.lines().map(str::to_owned).collect();
    let traced = read(&text, ended.code, said, ended.stdout);
    let truth = numbers(&traced.truth()["calls"]);
    assert_eq!(calls_of(&traced, &program, Way::In, &truth), truth);
    assert_eq!(traced.summary.lost, 0);
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_target_that_kills_itself_has_told_all_that_it_did() {
    leaves_nothing(|| {
        let program = "import os\n\
            def work(): pass\n\
            for _ in range(1000): work()\n\
            os.kill(os.getpid(), 9)";
        let options = ["--engine", "direct", "--function", "work"];
        let command = ["--", PYTHON_3_11, "-c", program];
        let traced = trace(&[options.as_slice(), &command].concat());
        for way in [Way::In, Way::Out] {
            assert_eq!(traced.counts("<string>", way)["work"], 1000);
        }
        assert_eq!(traced.summary.lost, 0, "{:?}", traced.summary);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_command_whose_python_no_agent_got_into_is_not_called_complete() {
    leaves_nothing(|| {
        let program = file("examples/fib.py");
        let command = ["--", "env", "-i", PYTHON_3_11, &program];
        let python = ["--engine", "direct", "--python", PYTHON_3_11];
        let traced = Tracing::start(&[&python[..], &command].concat()).finish();
        assert_eq!(
            calls_of(
                &traced,
                &program,
                Way::In,
                &numbers(&traced.truth()["calls"])
            )
            .len(),
            0
        );
        assert!(traced.summary.uncounted, "{:?}", traced.summary);
        // Where it may be so, probes are taken unasked.
        let python = ["--engine", "auto", "--python", PYTHON_3_11];
        let traced = Tracing::start(&[&python[..], &command].concat()).finish();
        let truth = numbers(&traced.truth()["calls"]);
        assert_eq!(calls_of(&traced, &program, Way::In, &truth), truth);
        assert_eq!(traced.session.engine, "uprobes");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn interpreters_within_an_interpreter_are_said_not_to_be_seen() {
    let program = file("tests/programs/within.py");
    for python in interpreters() {
        leaves_nothing(|| {
            let directory = tempfile::tempdir().expect("a directory");
            let lasting = directory.path().join("lasting");
            std::fs::write(&lasting, "").expect("written");
            let lasts = lasting.to_str().expect("UTF-8");
            let options = ["--engine", "direct", "--", &python, &program, lasts];
            let mut tracing = Tracing::start(&options).live();
            tracing.wait_for("runs interpreters within its interpreter");
            std::fs::remove_file(&lasting).expect("removed");
            let traced = tracing.finish();
            assert!(traced.counts(&program, Way::In)["outer"] > 0, "{python}");
            assert_eq!(traced.summary.lost, 0, "{python}");
            assert!(traced.summary.uncounted, "{python}");
        });
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_service_is_served_to_one_pystap_at_a_time_and_outlives_it() {
    let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
    let pid = service.pid();
    let options = ["--engine", "direct", "--inject", "ptrace", "-p", &pid];
    let first = Tracing::start(&options).live();
    service.request("one");
    first.wait_for_output(1);
    let (code, said) = Tracing::start(&options).end();
    assert_eq!(code, 3, "{said:#?}");
    let refused = format!("process {} already traces this program", first.pid());
    assert!(said.iter().any(|line| line.contains(&refused)), "{said:#?}");
    first.signal(Signal::KILL);
    first.end();
    for _ in 0..100 {
        assert!(service.request("two").starts_with("ok"));
    }
    // The one that was killed is forgotten, and its memory with it.
    let next = Tracing::start(&options).live();
    service.request("three");
    let truth = service.end();
    let traced = next.finish().complete("targets_ended");
    let seen = traced.counts(&file("examples/service.py"), Way::In);
    assert_eq!(seen["handle"], 1, "{truth}");
}
