//! The agent's ways into processes: what is refused and why, what is waited for, what happens to children, and what a
//! killed pystap leaves. `tests/uprobes/run` runs these in the tree, with Python 3.13 to 3.15.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Service;
use super::agent::{PYTHON_3_13, PYTHON_3_14, files, is_exact, leaves_nothing_at_all, service};
use crate::command::{command, file, run};
use crate::tracing::{Traced, Tracing, Way, eventually, trace};

/// Traces a program with an interpreter from its start.
fn launched(python: &str, program: &str, options: &[&str]) -> Traced {
    trace(&[options, &["--", python, program]].concat()).complete("targets_ended")
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
fn a_python_that_takes_long_to_begin_is_waited_for_and_traced_from_its_beginning() {
    leaves_nothing_at_all(|| is_waited_for(PYTHON_3_13, "3.13"));
}

/// Traces a program that begins only after some seconds with nothing left out.
pub(super) fn is_waited_for(python: &str, version: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let packages = format!("lib/python{version}/site-packages");
    let packages = directory.path().join(packages);
    fs::create_dir_all(&packages).expect("made");
    // It is executed before pystap's own file: as on a slow machine, or where much is installed.
    let slow = "import time; time.sleep(3)\n";
    fs::write(packages.join("slow.pth"), slow).expect("written");
    let program = "import json\ndef once(): pass\nonce()\nprint(json.dumps({'once': 1}))";
    let mut command = command(["trace", "--agent", "--", python, "-c", program]);
    command.env("PYTHONUSERBASE", directory.path());
    let begun = Instant::now();
    let ended = run(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{python}");
    assert!(
        ended.stderr.contains("nothing lost") && !ended.stderr.contains("warning"),
        "{python}: {}",
        ended.stderr
    );
    let calls = ended
        .stdout
        .lines()
        .filter(|line| line.contains(r#""event":"call""#) && line.contains(r#""function":"once""#));
    assert_eq!(calls.count(), 1, "{python}: {}", ended.stdout);
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_child_that_leaves_out_the_environment_is_named_with_the_option() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let enough = directory.path().join("enough");
        let program = "import os, subprocess, sys, time\n\
            child = subprocess.Popen([sys.executable, '-I', '-c', 'input()'], stdin=subprocess.PIPE)\n\
            while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n\
            child.communicate(b'\\n')\n";
        let enough_text = enough.display().to_string();
        let mut tracing = Tracing::start(&["--", PYTHON_3_13, "-c", program, &enough_text]);
        tracing.wait_for("was started with -I");
        fs::write(&enough, "").expect("written");
        let traced = tracing.finish().complete("targets_ended");
        let named = traced
            .said
            .iter()
            .filter(|line| line.contains("is not traced"));
        assert_eq!(named.count(), 1, "{:#?}", traced.said);
        assert_eq!(traced.summary.untraced_processes, 1, "{:#?}", traced.said);
        let conclusion = traced.said.last().expect("a last line");
        assert!(conclusion.contains("one process untraced"), "{conclusion}");
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
fn a_process_that_is_stopped_or_forbids_the_agent_is_called_so() {
    leaves_nothing_at_all(|| {
        for (kind, words) in [
            ("sleeping", ["is stopped (by SIGSTOP", "`kill -CONT "]),
            (
                "vetoing",
                ["took the request", "an audit hook of the program"],
            ),
        ] {
            let mut service = service(PYTHON_3_14, "tests/programs/idle.py", &[kind]);
            let id = rustix::process::Pid::from_raw(service.pid().parse().expect("a number"));
            let id = id.expect("a process");
            let stops = kind == "sleeping";
            if stops {
                rustix::process::kill_process(id, Signal::STOP).expect("ours");
            }
            let mut command = command(["trace", "--engine", "uprobes", "-p", &service.pid()]);
            let ended = run(&mut command);
            if stops {
                rustix::process::kill_process(id, Signal::CONT).expect("ours");
            }
            assert_eq!(ended.code, 3, "{ended:?}");
            for word in words {
                assert!(ended.stderr.contains(word), "{kind}: {word}: {ended:?}");
            }
            let truth = service.end();
            assert_eq!(truth["unharmed"], true);
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_switch_that_python_ignores_is_said_when_the_agent_came_in_all_the_same() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/idle.py");
        let mut command = Command::new(PYTHON_3_14);
        command.args(["-X", "disable_remote_debug", &program, "sleeping"]);
        let service = Service::of(command);
        let tracing = Tracing::start(&["-p", &service.pid()]).live();
        tracing.signal(Signal::INT);
        let traced = tracing.finish();
        let said = traced.said.join("\n");
        assert!(
            said.contains("-X disable_remote_debug, which its Python ignores"),
            "{said}"
        );
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
            for word in words.iter().chain(&["agent install", "--inject ptrace"]) {
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
    assert_eq!(files().len(), 2, "a directory and a record: {:?}", files());
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

/// Children that had threads, and siblings that had ended, were once lost: the kernel exchanges counters between tasks.
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
