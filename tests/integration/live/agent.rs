//! Interpreters without function marks, through the agent: every way in, exact counts, and what is left afterwards.
//! `tests/uprobes/run` runs these in the tree, with Python 3.13 to 3.15.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pystap::event::{Manner, What};
use rustix::process::Signal;

use super::{Service, calls_of};
use crate::command::{command, file, run};
use crate::tracing::{Traced, Tracing, Way, eventually, leaves_nothing, numbers, trace};

const PYTHON_3_13: &str = "/usr/bin/python3.13";
const PYTHON_3_14: &str = "/usr/bin/python3.14";
const PYTHON_3_15: &str = "/usr/bin/python3.15";

/// Directories of root's agents in all places where they may be.
pub(super) fn files() -> Vec<PathBuf> {
    let places = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lib"];
    places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.to_string_lossy().contains("pystap-agent-0-"))
        .collect()
}

/// Nothing is left, neither in the kernel nor in a file system.
pub(super) fn leaves_nothing_at_all(test: impl FnOnce()) {
    leaves_nothing(test);
    assert_eq!(
        files(),
        Vec::<PathBuf>::new(),
        "files of the agent are left"
    );
}

/// Calls and returns are as the program counts them, and every return found its call.
pub(super) fn is_exact(traced: &Traced, program: &str, name: &str) {
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

/// Traces a program with an interpreter from its start.
fn launched(python: &str, program: &str, options: &[&str]) -> Traced {
    trace(&[options, &["--", python, program]].concat()).complete("targets_ended")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn launched_programs_are_exact_on_interpreters_without_function_marks() {
    leaves_nothing_at_all(|| {
        for python in [PYTHON_3_13, PYTHON_3_14] {
            for name in ["nested", "fib", "threads"] {
                let program = file(&format!("examples/{name}.py"));
                let traced = launched(python, &program, &[]);
                is_exact(&traced, &program, "calls");
                let armed = &traced.session.armed;
                assert!(
                    armed
                        .iter()
                        .any(|mark| mark.mark == "pystap:function__entry")
                );
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn generators_and_coroutines_have_a_return_for_each_entry() {
    leaves_nothing_at_all(|| {
        for python in [PYTHON_3_13, PYTHON_3_14] {
            let program = file("examples/generators.py");
            let traced = launched(python, &program, &[]);
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
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn children_that_fork_are_seen() {
    leaves_nothing_at_all(|| {
        let program = file("examples/forks.py");
        let traced = launched(PYTHON_3_13, &program, &[]);
        let work = numbers(&traced.truth()["calls"])["work"];
        for way in [Way::In, Way::Out] {
            let seen = traced.counts(&program, way)["work"];
            assert_eq!(seen, work, "{:#?}", traced.said);
        }
    });
}

/// Children that had threads, and brothers that had ended, were lost: the kernel exchanges counters between tasks.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn children_with_threads_of_their_own_are_kept_whatever_they_become() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/brothers.py");
        for python in [PYTHON_3_13, PYTHON_3_14] {
            for _ in 0..3 {
                let traced = launched(python, &program, &["-e", "call,return"]);
                is_exact(&traced, &program, "calls");
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn only_the_kinds_that_are_asked_for_come() {
    let program = file("examples/nested.py");
    for kind in ["call", "return"] {
        let traced = launched(PYTHON_3_13, &program, &["-e", kind]);
        let came = |wanted: &str| {
            let events = traced.events.iter();
            events.filter(|event| event.what.kind() == wanted).count()
        };
        let other = if kind == "call" { "return" } else { "call" };
        assert!(came(kind) > 0, "{kind}");
        assert_eq!(came(other), 0, "{kind}");
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_launched_program_finds_its_own_start_up_file_and_path() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let own = directory.path().join("sitecustomize.py");
        fs::write(&own, "import builtins; builtins.own = 'was here'\n").expect("written");
        let child = "import json, os, subprocess, sys; \
            print(json.dumps([own, [p for p in sys.path if 'pystap' in p], \
            subprocess.run([sys.executable, '-m', 'timeit', '-n1', '-r1', 'pass']).returncode]))";
        for arguments in [["-c", child].as_slice(), &["-u", "-c", child]] {
            let mut command = command(["trace", "--engine", "uprobes", "--output"]);
            let output = directory.path().join("events");
            command
                .arg(&output)
                .args(["--", PYTHON_3_13])
                .args(arguments);
            command.env("PYTHONPATH", directory.path());
            let ended = run(&mut command);
            assert_eq!(ended.code, 0, "{ended:?}");
            let told = ended.stdout.lines().find(|line| line.starts_with('['));
            assert_eq!(told, Some(r#"["was here", [], 0]"#), "{ended:?}");
            let events = fs::read_to_string(&output).expect("written");
            let timeit = events.contains("/timeit.py") && events.contains("\"function\":\"main\"");
            assert!(timeit, "the child is traced, too");
            assert!(
                events.contains(&*own.to_string_lossy()),
                "the start-up file as well"
            );
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_interpreter_that_leaves_out_the_environment_is_refused_with_the_option() {
    for option in ["-I", "-E", "-S"] {
        let mut command = command(["trace", "--", PYTHON_3_13, option, "-c", "print('it ran')"]);
        let ended = run(&mut command);
        let message = ended.only_error();
        assert_eq!(ended.code, 3, "{message}");
        assert!(
            message.contains(&format!("started with {option}")),
            "{message}"
        );
    }
}

/// A process that runs before it is traced.
fn service(python: &str, program: &str, arguments: &[&str]) -> Service {
    Service::start_with(python, program, arguments)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_3_14_is_entered_and_left_again_and_again() {
    leaves_nothing_at_all(|| {
        for (python, options) in [(PYTHON_3_14, [].as_slice()), (PYTHON_3_15, &["--agent"])] {
            let mut service = service(python, "tests/programs/counts.py", &["0.01"]);
            let program = file("tests/programs/counts.py");
            let pid = service.pid();
            for round in 0..3 {
                let tracing = Tracing::start(&[options, &["-p", &pid]].concat()).live();
                tracing.wait_for_output(4000);
                tracing.signal(Signal::INT);
                let traced = tracing.finish().complete("interrupted");
                let calls = traced.counts(&program, Way::In);
                let returns = traced.counts(&program, Way::Out);
                let ticks = calls.get("tick").copied().unwrap_or(0);
                assert!(ticks > 2, "round {round}: {calls:?} {:#?}", traced.said);
                assert_eq!(returns.get("tick"), Some(&ticks));
                let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
                assert_eq!(threads.count(), 1, "the agent's thread has ended");
            }
            let tracing = Tracing::start(&[options, &["-p", &pid]].concat()).live();
            service.end();
            tracing.finish().complete("targets_ended");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn neither_a_sleeping_main_thread_nor_an_idle_loop_holds_up_the_agent() {
    leaves_nothing_at_all(|| {
        for kind in ["sleeping", "asyncio"] {
            let service = service(PYTHON_3_14, "tests/programs/idle.py", &[kind]);
            let begun = Instant::now();
            let tracing = Tracing::start(&["-p", &service.pid()]).live();
            let took = begun.elapsed();
            println!("{kind}: live after {took:?}");
            assert!(took < Duration::from_secs(3), "{kind}: {took:?}");
            tracing.signal(Signal::INT);
            tracing.finish().complete("interrupted");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_that_runs_no_python_is_given_up_unharmed_with_the_next_step() {
    leaves_nothing_at_all(|| {
        let mut service = service(PYTHON_3_14, "tests/programs/idle.py", &["blocked"]);
        let mut command = command(["trace", "--engine", "uprobes", "-p", &service.pid()]);
        let ended = run(&mut command);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(
            ended.stderr.contains("has run no Python code for 10 s"),
            "{ended:?}"
        );
        let truth = service.end();
        assert_eq!(truth["unharmed"], true);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_that_lets_nobody_in_is_refused_and_what_would_help_is_said() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/idle.py");
        let refused = |mut command: Command, words: &[&str]| {
            command.args([&program, "sleeping"]);
            let service = Service::of(command);
            let mut command = self::command(["trace", "-p", &service.pid()]);
            let ended = run(&mut command);
            let message = ended.only_error();
            assert_eq!(ended.code, 3, "{message}");
            for word in words.iter().chain(&["agent install", "--inject gdb"]) {
                assert!(message.contains(word), "{word}: {message}");
            }
        };
        let mut disabled = Command::new(PYTHON_3_14);
        disabled.env("PYTHON_DISABLE_REMOTE_DEBUG", "0");
        refused(disabled, &["PYTHON_DISABLE_REMOTE_DEBUG"]);
        let mut disabled = Command::new(PYTHON_3_14);
        disabled.args(["-X", "disable-remote-debug"]);
        refused(disabled, &["-X disable-remote-debug"]);
        refused(Command::new(PYTHON_3_13), &["3.14 is the first"]);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_killed_pystap_leaves_the_target_alone_and_cleanup_removes_its_files() {
    let mut service = service(PYTHON_3_14, "tests/programs/counts.py", &["0.01"]);
    let pid = service.pid();
    let tracing = Tracing::start(&["-p", &pid]).live();
    tracing.signal(Signal::KILL);
    drop(tracing);
    eventually("the agent's thread has ended", || {
        fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() == 1)
    });
    assert_eq!(files().len(), 1);
    let ended = run(&mut command(["cleanup"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("the agent's files of a pystap that is gone"),
        "{ended:?}"
    );
    assert_eq!(files(), Vec::<PathBuf>::new());
    leaves_nothing_at_all(|| {
        let tracing = Tracing::start(&["-p", &pid]).live();
        tracing.wait_for_output(2000);
        tracing.signal(Signal::INT);
        tracing.finish().complete("interrupted");
    });
    service.end();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_installed_agent_waits_and_is_woken() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        super::installed::is_woken(PYTHON_3_13, directory.path());
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn tasks_are_told_apart_and_values_come_when_they_are_asked_for() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/contexts.py");
        let options = ["--file", "*/contexts.py", "--capture", "args,return"];
        let traced = launched(PYTHON_3_13, &program, &options);
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
        assert!(values[0].contains("\"secret\""), "{values:?}");
        contexts.sort();
        contexts.dedup();
        assert_eq!(contexts.len(), 3, "three tasks");
        let named = traced.events.iter().filter_map(|event| match &event.what {
            What::Context { name, .. } => Some(name.text.as_str()),
            _ => None,
        });
        assert!(named.filter(|name| name.starts_with("worker-")).count() == 3);
        // Steps of the three take turns, so that only their contexts tell which return is whose.
        let without = traced.events.iter().filter(|event| {
            matches!(&event.what, What::Return { place, duration_ns: None, .. } if place.file.text == program)
        });
        assert_eq!(without.count(), 0);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn functions_can_be_named_with_their_classes() {
    let program = file("tests/programs/contexts.py");
    for (options, expected) in [
        (["--function", "Worker.step"], ["step"].as_slice()),
        (["--function", "Worker.*"], &["run", "step"]),
        (["--function", "step"], &["step"]),
    ] {
        let traced = launched(
            PYTHON_3_13,
            &program,
            &[&options[..], &["-e", "call"]].concat(),
        );
        let seen = traced.counts(&program, Way::In);
        assert_eq!(seen.keys().collect::<Vec<_>>(), expected, "{options:?}");
    }
    let options = [
        "--file",
        "*/contexts.py",
        "--exclude",
        "Worker.run",
        "-e",
        "call",
    ];
    let seen = launched(PYTHON_3_13, &program, &options).counts(&program, Way::In);
    assert!(
        seen.contains_key("step") && !seen.contains_key("run"),
        "{seen:?}"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn nothing_is_loaded_where_that_is_forbidden() {
    let program = file("examples/nested.py");
    let mut command = command(["trace", "--no-agent", "--", PYTHON_3_13, &program]);
    let ended = run(&mut command);
    let message = ended.only_error();
    assert_eq!(ended.code, 3, "{message}");
    assert!(message.contains("leave out --no-agent"), "{message}");
}
