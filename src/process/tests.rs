//! Selections resolved against processes that the tests start.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::executable;
use crate::python::waiting::{PROGRAM, PYTHON, Waiting};

fn resolve(selection: Selection) -> Targets {
    selection.resolve().expect("targets")
}

fn pids(targets: &Targets) -> Vec<u32> {
    targets
        .processes
        .iter()
        .map(|process| process.pid)
        .collect()
}

fn pattern(text: &str) -> Option<Regex> {
    Some(Regex::new(text).expect("a pattern"))
}

/// A shell that starts a Python program and waits for it, so that the program is our grandchild.
fn shell_with_python(mark: &str) -> Waiting {
    Waiting::start(Command::new("sh").args([
        "-c",
        r#""$1" -c "$2" "$3" <&0; :"#,
        "sh",
        PYTHON,
        PROGRAM,
        mark,
    ]))
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn processes_named_by_id_are_described_in_order_and_once() {
    let (one, two) = (
        Waiting::python(Path::new(PYTHON), &["1"]),
        Waiting::python(Path::new(PYTHON), &["2"]),
    );
    let targets = resolve(Selection {
        pids: vec![two.pid(), one.pid(), two.pid()],
        ..Selection::default()
    });
    let mut expected = [one.pid(), two.pid()];
    expected.sort_unstable();
    assert_eq!(pids(&targets), expected);
    let process = targets
        .processes
        .iter()
        .find(|process| process.pid == one.pid())
        .expect("the first");
    assert_eq!(process.comm, "python3.11");
    assert_eq!(process.command_line, [PYTHON, "-c", PROGRAM, "1"]);
    assert_eq!(process.interpreters[0].path, Path::new(PYTHON));
    assert_eq!(process.mounts, MountNamespace::ours().ok());
    assert!(process.start_time > 0);
    assert!(!targets.everyone && !targets.descendants);
    assert!(targets.notes.is_empty(), "{:?}", targets.notes);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_named_by_id_must_exist_and_be_python() {
    let error = |pid| {
        Selection {
            pids: vec![pid],
            ..Selection::default()
        }
        .resolve()
        .expect_err("no target")
    };
    assert!(matches!(
        error(4_194_305),
        TargetError::Python(PythonError::NoProcess { .. })
    ));
    assert!(matches!(
        error(std::process::id()),
        TargetError::Python(PythonError::NotPython { .. })
    ));
    let mut ended = Waiting::python(Path::new(PYTHON), &["x"]);
    ended.leave_zombie();
    let error = error(ended.pid());
    assert!(
        matches!(error, TargetError::Python(PythonError::Ended { .. })),
        "{error}"
    );
    assert_eq!(error.exit_code(), 4);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_pattern_finds_python_processes_by_their_arguments_and_nobody_else() {
    let mark = "--pattern-finds-python=a b";
    let python = Waiting::python(Path::new(PYTHON), &[mark]);
    let _shell = Waiting::start(Command::new("sh").args(["-c", "echo ready; read line", mark]));
    let targets = resolve(Selection {
        pattern: pattern(r"--pattern-finds-python=a\sb$"),
        ..Selection::default()
    });
    assert_eq!(pids(&targets), [python.pid()]);
}

#[test]
fn a_pattern_that_finds_nobody_is_an_error_with_the_pattern_in_it() {
    let error = Selection {
        pattern: pattern("no-such-thing-[0-9]"),
        ..Selection::default()
    }
    .resolve()
    .expect_err("nobody");
    assert!(error.to_string().contains("no-such-thing-[0-9]"), "{error}");
    assert_eq!(error.exit_code(), 4);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_repeated_search_finds_who_came_since_and_does_not_mind_that_nobody_did() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("python3.11");
    executable::copy(PYTHON, &copy);
    let selection = Selection {
        pattern: pattern("who-comes-later-[0-9]"),
        ..Selection::default()
    };
    let mut searched = Searched::default();
    let found = selection.search(&mut searched).expect("/proc");
    assert_eq!((found.processes.len(), found.notes.len()), (0, 0));
    let one = Waiting::python(&copy, &["who-comes-later-7"]);
    let found = selection.search(&mut searched).expect("/proc");
    let pids: Vec<u32> = found.processes.iter().map(|it| it.pid).collect();
    assert_eq!(pids, [one.pid()]);
    // A process that a search got stuck on is not tried again, and is reported once.
    searched.stuck.insert(one.pid());
    let found = selection.search(&mut searched).expect("/proc");
    assert_eq!((found.processes.len(), found.notes.len()), (0, 0));
    drop(one);
    selection.search(&mut searched).expect("/proc");
    assert!(searched.stuck.is_empty(), "it has ended");
}

#[test]
fn a_scan_names_what_it_had_no_time_for() {
    let mut scan = Scan::begin().expect("/proc");
    assert_eq!(scan.slow(), None);
    scan.stuck = vec![7];
    let said = scan.slow().expect("a sentence");
    assert!(
        said.starts_with("process 7 could not be looked at in time"),
        "{said}"
    );
    scan.unreached = (100..120).collect();
    let said = scan.slow().expect("a sentence");
    assert!(
        said.starts_with("processes 7, 100, 101, 102, 103, 104, 105, 106 and 13 more could"),
        "{said}"
    );
    let error = scan.named(7).expect_err("not in time");
    assert!(matches!(error, PythonError::Slow { pid: 7 }), "{error}");
}

#[test]
fn a_pattern_never_finds_an_ancestor_of_pystap() {
    let scan = Scan::begin().expect("/proc");
    let ours = scan.table.ancestors(std::process::id());
    assert!(ours.contains(&std::process::id()));
    assert!(ours.contains(&std::os::unix::process::parent_id()));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_selects_everyone_who_runs_that_very_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("python3.11");
    executable::copy(PYTHON, &copy);
    let link = directory.path().join("python3");
    std::os::unix::fs::symlink(&copy, &link).expect("a link");
    let (one, two) = (
        Waiting::python(&copy, &["1"]),
        Waiting::python(&link, &["2"]),
    );
    let _original = Waiting::python(Path::new(PYTHON), &["3"]);
    let targets = resolve(Selection {
        python: vec![link],
        ..Selection::default()
    });
    let mut expected = [one.pid(), two.pid()];
    expected.sort_unstable();
    assert_eq!(pids(&targets), expected);
    assert!(targets.everyone);
    assert_eq!(targets.python[0].path, copy);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_that_nobody_runs_yet_still_selects_those_to_come() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("python3.11");
    executable::copy(PYTHON, &copy);
    let targets = resolve(Selection {
        python: vec![copy],
        ..Selection::default()
    });
    assert!(targets.processes.is_empty());
    assert!(targets.everyone);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_that_runs_another_interpreter_than_the_one_named_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("python3.11");
    executable::copy(PYTHON, &copy);
    let python = Waiting::python(Path::new(PYTHON), &["x"]);
    let error = Selection {
        pids: vec![python.pid()],
        python: vec![copy],
        ..Selection::default()
    }
    .resolve()
    .expect_err("another interpreter");
    assert!(error.to_string().contains(PYTHON), "{error}");
    assert_eq!(error.exit_code(), 4);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn descendants_that_are_python_belong_to_the_selection_whatever_is_between() {
    let program = r#"
import subprocess, sys
child = subprocess.Popen(["sh", "-c", '"$1" -c "$2" descendant <&0; :', "sh", sys.executable, sys.argv[1]])
child.wait()
"#;
    let parent = Waiting::start(Command::new(PYTHON).args(["-c", program, PROGRAM]));
    let alone = resolve(Selection {
        pids: vec![parent.pid()],
        ..Selection::default()
    });
    assert_eq!(pids(&alone), [parent.pid()]);
    let all = resolve(Selection {
        pids: vec![parent.pid()],
        subprocesses: true,
        ..Selection::default()
    });
    assert!(all.descendants);
    assert_eq!(all.processes.len(), 2);
    let last = |process: &Process| process.command_line.last().cloned().unwrap_or_default();
    assert!(
        all.processes
            .iter()
            .any(|process| last(process) == "descendant")
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_command_is_resolved_with_the_interpreter_that_was_named_for_it() {
    let targets = resolve(Selection {
        command: vec!["sh".into(), "-c".into(), "python3.11 -V".into()],
        python: vec![PYTHON.into()],
        ..Selection::default()
    });
    let expected = targets.command.expect("a command");
    assert_eq!(expected.interpreters[0].path, Path::new(PYTHON));
    assert_eq!(expected.note, None);
    assert!(!targets.everyone);
}

#[test]
fn an_empty_selection_is_wrong_usage() {
    let error = Selection::default().resolve().expect_err("nothing");
    assert!(matches!(error, TargetError::Nothing));
    assert_eq!(error.exit_code(), 2);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_parent_that_is_not_python_stands_for_its_python_children() {
    let shell = shell_with_python("of-a-shell");
    let alone = Selection {
        pids: vec![shell.pid()],
        ..Selection::default()
    };
    let refused = alone.resolve().expect_err("a shell is not Python");
    assert!(
        matches!(refused, TargetError::Python(PythonError::NotPython { .. })),
        "{refused}"
    );
    let targets = resolve(Selection {
        subprocesses: true,
        ..alone
    });
    let [child] = targets.processes.as_slice() else {
        panic!("{targets:?}");
    };
    assert_eq!(
        child.command_line.last().map(String::as_str),
        Some("of-a-shell")
    );
    assert!(
        targets
            .notes
            .iter()
            .any(|note| note.contains("is not Python")),
        "{targets:?}"
    );
}
