//! Interpreters without function marks, through the agent: exact counts, what it reports beyond other marks, and what
//! is left afterwards, the same for both engines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pystap::event::{ArmedMark, Manner, What};
use rustix::process::Signal;

use super::{PYTHON, Script, Service, calls_of};
use crate::command::{command, file, run};
use crate::tracing::{Traced, Tracing, Way, engine, leaves_nothing, numbers};

pub(super) const PYTHON_3_13: &str = "/usr/bin/python3.13";
pub(super) const PYTHON_3_14: &str = "/usr/bin/python3.14";

const CALLS_3_13: Script = Script {
    python: PYTHON_3_13,
    options: &[],
};
pub(super) const CALLS_3_14: Script = Script {
    python: PYTHON_3_14,
    options: &[],
};
/// Its own marks are left alone.
const CALLS_3_15: Script = Script {
    python: PYTHON,
    options: &["--agent"],
};
/// Values are captured for functions that a filter names.
pub(super) const VALUES: Script = Script {
    python: PYTHON_3_13,
    options: &["--file", "*/contexts.py", "--capture", "args,return"],
};
const BY_CLASS: Script = Script {
    python: PYTHON_3_13,
    options: &["--function", "Worker.s*", "--events", "call"],
};
pub(super) const LONG_CALLS: Script = Script {
    python: PYTHON_3_14,
    options: &["--min-duration", "5ms"],
};
const LONG_VALUES: Script = Script {
    python: PYTHON_3_13,
    options: &[
        "--min-duration",
        "1ns",
        "--file",
        "*/contexts.py",
        "--capture",
        "return",
    ],
};

/// Every script of this file except [`INSTALLED`]'s.
pub(super) const SCRIPTS: [&Script; 7] = [
    &CALLS_3_13,
    &CALLS_3_14,
    &CALLS_3_15,
    &VALUES,
    &BY_CLASS,
    &LONG_CALLS,
    &LONG_VALUES,
];

/// Where an agent is installed: a script for stap names the library there, so it is the same place in every run.
pub(crate) const INSTALLED: &str = "/tmp/pystap-test-installed";

/// Directories of root's agents in all possible places, and what the registries record of them.
pub(super) fn files() -> Vec<PathBuf> {
    let places = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lib"];
    let bases = ["/run/pystap", "/var/lib/pystap"];
    let registries = bases.map(|base| format!("{base}/registry"));
    let entries = |place: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let named = |path: &PathBuf, beginning: &str| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(beginning))
    };
    let anywhere = places.iter().flat_map(|place| entries(place));
    let ours = bases.iter().flat_map(|base| entries(base));
    let recorded = registries.iter().flat_map(|registry| entries(registry));
    anywhere
        .filter(|path| named(path, "pystap-agent-") && !named(path, "pystap-agent-test."))
        .chain(ours.filter(|path| named(path, "agent-")))
        .chain(recorded.filter(|path| !path.ends_with("lock")))
        .collect()
}

/// Checks that nothing is left, neither in the kernel nor in a file system.
pub(super) fn leaves_nothing_at_all(test: impl FnOnce()) {
    leaves_nothing(test);
    assert_eq!(
        files(),
        Vec::<PathBuf>::new(),
        "files of the agent are left"
    );
}

/// What the agent reports of a value of step() in tests/programs/contexts.py.
fn a_step_returns(number: u64) -> String {
    format!(r#"{{"type":"list","size":2,"items":["plain",{number}]}}"#)
}

/// The engine was the one that these tests are run with: pystap would choose another one if that could not trace.
pub(super) fn engine_is_as_wanted(traced: &Traced) {
    let wanted = engine().unwrap_or_else(|| "stap".to_owned());
    assert_eq!(traced.session.engine, wanted, "{:#?}", traced.said);
}

/// Calls and returns match what the program counts, and every return was paired with its call.
pub(super) fn is_exact(traced: &Traced, program: &str, name: &str) {
    engine_is_as_wanted(traced);
    let truth = numbers(&traced.truth()[name]);
    assert!(!truth.is_empty());
    for way in [Way::In, Way::Out] {
        assert_eq!(
            calls_of(traced, program, way, &truth),
            truth,
            "{way:?} {:#?}",
            traced.said
        );
    }
    assert_eq!(traced.summary.unpaired, 0, "{:?}", traced.summary);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn launched_programs_are_exact_on_interpreters_without_function_marks() {
    leaves_nothing_at_all(|| {
        for (script, names) in [
            (&CALLS_3_13, ["nested", "fib"]),
            (&CALLS_3_14, ["nested", "threads"]),
        ] {
            for name in names {
                let program = file(&format!("examples/{name}.py"));
                let traced = script.trace(&program, &[]);
                is_exact(&traced, &program, "calls");
                let armed = &traced.session.armed;
                let of_agent = |mark: &ArmedMark| mark.mark == "pystap:function__entry";
                // The agent tells directly, or its own marks are armed.
                let is_direct = traced.session.engine == "direct";
                assert_eq!(armed.iter().any(of_agent), !is_direct, "{armed:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn generators_and_coroutines_have_a_return_for_each_entry() {
    leaves_nothing_at_all(|| {
        for script in [&CALLS_3_13, &CALLS_3_14] {
            let python = script.python;
            let program = file("examples/generators.py");
            let traced = script.trace(&program, &[]);
            let truth = traced.truth();
            let mut stays = numbers(&truth["calls"]);
            stays.extend(numbers(&truth["resumed"]));
            assert_eq!(
                calls_of(&traced, &program, Way::In, &stays),
                stays,
                "{python}"
            );
            assert_eq!(
                calls_of(&traced, &program, Way::Out, &stays),
                stays,
                "{python}"
            );
            let left_by_exception = traced.events.iter().filter(|event| {
                matches!(&event.what, What::Return { place, frame, .. }
                    if place.file.text == program && frame.manner == Manner::Exception)
            });
            assert_eq!(left_by_exception.count(), 2, "inner and middle");
        }
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn children_that_fork_are_seen() {
    leaves_nothing_at_all(|| {
        let program = file("examples/forks.py");
        let traced = CALLS_3_13.trace(&program, &[]);
        let work = numbers(&traced.truth()["calls"])["work"];
        for way in [Way::In, Way::Out] {
            let seen = traced.counts(&program, way)["work"];
            assert_eq!(seen, work, "{:#?}", traced.said);
        }
    });
}

/// A process that runs before it is traced.
pub(super) fn service(python: &str, program: &str, arguments: &[&str]) -> Service {
    Service::start_with(python, program, arguments)
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_running_service_of_3_14_is_entered_and_left_again_and_again() {
    leaves_nothing_at_all(|| {
        for (script, rounds) in [(&CALLS_3_14, 3), (&CALLS_3_15, 1)] {
            let mut service = service(script.python, "tests/programs/counts.py", &["0.01"]);
            let program = file("tests/programs/counts.py");
            let pid = service.pid();
            for round in 0..rounds {
                let tracing = Tracing::start(&script.and(&["-p", &pid])).live();
                tracing.wait_for_output(4000);
                tracing.signal(Signal::INT);
                let traced = tracing.finish().complete("interrupted");
                engine_is_as_wanted(&traced);
                let calls = traced.counts(&program, Way::In);
                let returns = traced.counts(&program, Way::Out);
                let ticks = calls.get("tick").copied().unwrap_or(0);
                assert!(ticks > 2, "round {round}: {calls:?} {:#?}", traced.said);
                assert_eq!(returns.get("tick"), Some(&ticks));
                let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
                assert_eq!(threads.count(), 1, "the agent's thread has ended");
            }
            let tracing = Tracing::start(&script.and(&["-p", &pid])).live();
            service.end();
            tracing.finish().complete("targets_ended");
        }
    });
}

/// Installs the agent in a virtual environment below a directory, and runs a program there meanwhile.
pub(crate) fn with_installed(directory: &Path, meanwhile: impl FnOnce(&str)) {
    let environment = directory.join("venv");
    let made = Command::new(PYTHON_3_13)
        .args(["-m", "venv", "--without-pip"])
        .arg(&environment)
        .status();
    assert!(made.expect("it runs").success());
    let python = environment.join("bin/python").display().to_string();
    let installed = run(&mut command(["agent", "install", "--python", &python]));
    assert_eq!(installed.code, 0, "{installed:?}");
    let mut service = service(&python, "tests/programs/counts.py", &["0.01"]);
    meanwhile(&service.pid());
    service.end();
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn an_installed_agent_waits_and_is_woken() {
    leaves_nothing_at_all(|| {
        let directory = Path::new(INSTALLED);
        let _ = fs::remove_dir_all(directory);
        super::installed::is_woken(PYTHON_3_13, directory);
        fs::remove_dir_all(directory).expect("removed");
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn tasks_are_told_apart_and_values_come_when_they_are_asked_for() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/contexts.py");
        let traced = VALUES.trace(&program, &[]);
        is_exact(&traced, &program, "calls");
        let mut values = Vec::new();
        let mut contexts = Vec::new();
        for event in &traced.events {
            match &event.what {
                What::Call { place, frame, .. } if place.function.text == "step" => {
                    let text = frame.text.as_ref().map(|text| text.text.clone());
                    values.push(text.unwrap_or_default());
                    contexts.push(frame.context.expect("it runs in a task"));
                    let qualname = place.qualname.as_ref().map(|name| name.text.as_str());
                    assert_eq!(qualname, Some("Worker.step"));
                }
                _ => {}
            }
        }
        assert!(values[0].contains("\"plain\""), "{values:?}");
        let returned = traced.events.iter().find_map(|event| match &event.what {
            What::Return { place, frame, .. } if place.function.text == "step" => {
                Some(frame.text.as_ref().map(|text| text.text.clone()))
            }
            _ => None,
        });
        assert_eq!(returned.flatten(), Some(a_step_returns(0)));
        contexts.sort();
        contexts.dedup();
        assert_eq!(contexts.len(), 3, "three tasks");
        let named = traced.events.iter().filter_map(|event| match &event.what {
            What::Context { name, .. } => Some(name.text.as_str()),
            _ => None,
        });
        assert!(named.filter(|name| name.starts_with("worker-")).count() == 3);
        // Steps of the three alternate, so that only their contexts tell which return belongs to which.
        let without = traced.events.iter().filter(|event| {
            matches!(&event.what, What::Return { place, duration_ns: None, .. } if place.file.text == program)
        });
        assert_eq!(without.count(), 0);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn calls_that_are_measured_have_their_task_and_their_value() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/contexts.py");
        let traced = LONG_VALUES.trace(&program, &[]);
        assert!(traced.counts(&program, Way::In).is_empty());
        let mut steps: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut runs = Vec::new();
        for event in &traced.events {
            let What::Return {
                place,
                frame,
                duration_ns,
                ..
            } = &event.what
            else {
                continue;
            };
            assert!(duration_ns.is_some(), "{event:?}");
            let value = frame.text.as_ref().map(|text| text.text.clone());
            match place.function.text.as_str() {
                "step" => steps
                    .entry(frame.context.expect("it runs in a task").get())
                    .or_default()
                    .push(value.unwrap_or_default()),
                "run" => runs.push((frame.manner, value)),
                _ => {}
            }
        }
        let all: Vec<String> = (0..4).map(a_step_returns).collect();
        assert_eq!(steps.into_values().collect::<Vec<_>>(), vec![all; 3]);
        // Each of three tasks yields four times and returns once.
        let gave_way = runs
            .iter()
            .filter(|(manner, _)| *manner == Manner::Suspension);
        assert_eq!((runs.len(), gave_way.count()), (15, 12), "{runs:?}");
        assert_eq!(traced.summary.unpaired, 0, "{:?}", traced.summary);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn what_is_filtered_by_class_comes_from_either_engine() {
    let program = file("tests/programs/contexts.py");
    let traced = BY_CLASS.trace(&program, &[]);
    let seen = traced.counts(&program, Way::In);
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["step"], "{seen:?}");
    assert_eq!(seen, numbers(&traced.truth()["calls"]));
}
