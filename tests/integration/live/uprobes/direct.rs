//! What agents tell through shared memory, against what they tell through probes, and what only the first way has.

use std::collections::BTreeMap;

use pystap::event::{Event, Manner, What};
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
    // The memory of free-threaded builds is laid out otherwise, and not looked at. From 3.13 on they are seen (`within`).
    let is_old = |it: &&String| !it.contains("python3.13");
    for python in interpreters().iter().filter(is_old) {
        leaves_nothing(|| {
            let directory = tempfile::tempdir().expect("a directory");
            let lasting = directory.path().join("lasting");
            std::fs::write(&lasting, "").expect("written");
            let lasts = lasting.to_str().expect("UTF-8");
            let options = ["--engine", "direct", "--", python, &program, lasts];
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

/// What the returns of each thread of each process say beyond how long they took, and whether that is known.
fn ends(traced: &Traced) -> Vec<Vec<String>> {
    let mut all: BTreeMap<(u32, u32), Vec<String>> = BTreeMap::new();
    for event in &traced.events {
        if let What::Return { duration_ns, .. } = &event.what {
            let line = said(event).expect("a return");
            let line = format!("{line} {}", duration_ns.is_some());
            all.entry((event.pid, event.tid)).or_default().push(line);
        }
    }
    let mut all: Vec<Vec<String>> = all.into_values().collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_that_the_agent_measures_are_those_of_which_every_call_is_told() {
    leaves_nothing(|| {
        for python in interpreters() {
            for program in [
                "examples/nested.py",
                "examples/fib.py",
                "examples/generators.py",
                "tests/programs/contexts.py",
                "examples/forks.py",
            ] {
                let program = file(program);
                let traced = |options: &[&str]| {
                    let of_file = ["--engine", "direct", "--file", &program];
                    let command = ["--", python.as_str(), &program];
                    trace(&[&of_file, options, &command].concat()).complete("targets_ended")
                };
                let (all, long) = (traced(&[]), traced(&["--min-duration", "1ns"]));
                assert_eq!(ends(&all), ends(&long), "{program} in {python}");
                assert!(long.counts(&program, Way::In).is_empty(), "{program}");
                let summary = &long.summary;
                assert_eq!(
                    (summary.lost, summary.unpaired, summary.untimed),
                    (0, 0, 0),
                    "{program} in {python}: {summary:?}"
                );
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn only_calls_that_took_so_long_are_told_however_they_end() {
    // Far from what a machine that has other things to do makes of a short call.
    let program = "import time\n\
        def spin():\n    end = time.monotonic() + .6\n    while time.monotonic() < end: short()\n\
        def short(): pass\n\
        def again(depth): again(depth - 1) if depth else spin()\n\
        def fails():\n    spin()\n    raise ValueError\n\
        def gives():\n    yield 1\n    spin()\n    yield 2\n\
        def returns():\n    spin()\n    return 17\n\
        again(2)\n\
        try: fails()\n\
        except ValueError: pass\n\
        list(gives())\n\
        returns()\n";
    leaves_nothing(|| {
        for python in interpreters() {
            let options = ["--engine", "direct", "--min-duration", "500ms"];
            let what = ["--file", "<string>", "--capture", "args,return"];
            let command = ["--", &python, "-c", program];
            let traced = trace(&[&options[..], &what, &command].concat()).complete("targets_ended");
            let told = traced.events.iter().filter_map(|event| match &event.what {
                What::Return {
                    place,
                    duration_ns,
                    frame,
                    ..
                } => {
                    assert!(duration_ns.is_some_and(|ns| ns >= 500_000_000), "{event:?}");
                    let value = frame.text.as_ref().map(|text| text.text.clone());
                    Some((place.name().text.clone(), frame.manner, value))
                }
                What::Call { .. } => panic!("{event:?}"),
                _ => None,
            });
            let told: Vec<_> = told.collect();
            let null = || Some("null".to_owned());
            let plain = |name: &str| (name.to_owned(), Manner::Plain, null());
            let spin = || plain("spin");
            let again = || plain("again");
            let expected = [
                spin(),
                again(),
                again(),
                again(),
                spin(),
                ("fails".to_owned(), Manner::Exception, None),
                spin(),
                ("gives".to_owned(), Manner::Suspension, None),
                spin(),
                ("returns".to_owned(), Manner::Plain, Some("17".to_owned())),
                plain("<module>"),
            ];
            assert_eq!(told, expected, "{python}");
            assert_eq!(traced.summary.lost, 0, "{python}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_cost_nothing_where_only_collections_are_asked_for() {
    // From 3.12 on it can be seen who has events switched on.
    let program = "import gc, json, sys\n\
        gc.collect()\n\
        of = getattr(sys, 'monitoring', None)\n\
        print(json.dumps([of.get_tool(tool) for tool in range(6)] if of else []))\n";
    leaves_nothing(|| {
        for python in interpreters() {
            let tools = |events: &str| {
                let options = ["--engine", "direct", "--events", events];
                let command = ["--", &python, "-c", program];
                let traced = trace(&[&options[..], &command].concat()).complete("targets_ended");
                let is_done = |event: &Event| matches!(event.what, What::GcDone { .. });
                assert!(traced.events.iter().any(is_done), "{python}");
                let truth = traced.truth();
                let tools = truth.as_array().expect("tools").clone();
                tools.iter().any(|tool| tool == "pystap")
            };
            assert!(!tools("gc"), "{python}");
            let version = python.trim_end_matches('t');
            let monitors = ["3.12", "3.13"].iter().any(|it| version.ends_with(it));
            assert_eq!(tools("gc,call"), monitors, "{python}");
        }
    });
}
