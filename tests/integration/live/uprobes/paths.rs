//! Paths that are not UTF-8, with Debian 12's own interpreter: its function marks, once armed, end a program whose code
//! has such a file name. pystap checks first, and uses its agent or refuses; the program continues.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::super::Service;
use super::PYTHON_3_11;
use crate::command::{command, file, run};
use crate::tracing::{Tracing, leaves_nothing, trace};

/// A directory whose name is not UTF-8, with a copy of one of the test programs.
fn program(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    let inside = directory.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir_all(&inside).expect("made");
    let copy = inside.join("program.py");
    fs::copy(file(name), &copy).expect("copied");
    copy
}

fn service(program: &PathBuf) -> Service {
    let mut command = Command::new(PYTHON_3_11);
    command.arg(program).arg("0.01");
    Service::of(command)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_program_in_a_directory_that_is_not_utf8_is_refused_and_goes_on() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program = program(&directory, "tests/programs/counts.py");
        let mut service = service(&program);
        for option in ["--no-agent", "--quiet"] {
            let ended = run(&mut command(["trace", option, "-p", &service.pid()]));
            assert_eq!(ended.code, 3, "{ended:?}");
            let message = ended.only_error();
            for word in ["not UTF-8", "SystemError", "--agent", r"caf\351"] {
                assert!(message.contains(word), "{word}: {message}");
            }
        }
        // Collections do no harm.
        let tracing = Tracing::start(&["--events", "gc", "-p", &service.pid()]).live();
        tracing.signal(Signal::INT);
        tracing.finish().complete("interrupted");
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_command_in_such_a_directory_is_traced_through_the_agent() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program = program(&directory, "examples/nested.py");
        // From inside: the path that Python is given is plain, but the directory's is not.
        let here = program.parent().expect("a directory").to_owned();
        // Where the agent is taken anyway, nothing has to be said.
        for (engine, warns) in [("uprobes", true), ("auto", false)] {
            let mut shell = command(["trace", "-f", "json", "--engine", engine]);
            shell.args(["--", PYTHON_3_11, "program.py"]);
            let ended = run(shell.current_dir(&here));
            assert_eq!(ended.code, 0, "{ended:?}");
            assert_eq!(ended.stderr.contains("(--agent)"), warns, "{ended:?}");
            assert!(!ended.stderr.contains("SystemError"), "{ended:?}");
        }
    });
}

/// What the caution is for. If this fails, Debian has fixed it, and the versions in `python/undecodable.rs` are wrong.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn with_trust_paths_the_program_is_ended_by_its_own_marks() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program = program(&directory, "tests/programs/counts.py");
        let service = service(&program);
        let traced = trace(&["--no-agent", "--trust-paths", "-p", &service.pid()]);
        traced.complete("targets_ended");
        drop(service);
    });
}
