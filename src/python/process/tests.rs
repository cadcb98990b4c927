//! Interpreters of real processes: children of the test, and processes that are not Python.

use std::fs;
use std::process::Command;

use super::*;
use crate::python::waiting::{PROGRAM, PYTHON, Waiting};

fn only(found: Vec<Interpreter>) -> Interpreter {
    let [interpreter] = <[Interpreter; 1]>::try_from(found).expect("exactly one interpreter");
    interpreter
}

fn must_be_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test changes mounts: run the tests as root"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_running_interpreter_is_found_by_its_own_path() {
    let python = Waiting::python(Path::new("/bin/python3.11"), &["x"]);
    let found = only(Interpreter::of_process(python.pid()).expect("it is Python"));
    assert_eq!(found.path, Path::new(PYTHON));
    assert_eq!(found.reach, Path::new(PYTHON));
    assert_eq!(found.kind, InterpreterKind::Executable);
    assert_eq!(found.file, FileId::at(Path::new(PYTHON)).expect("a file"));
    assert!(!found.replaced);
    let version = found.version.expect("a version");
    assert_eq!((version.major, version.minor), (3, 11));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_by_any_name_says_which_version_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let renamed = directory.path().join("py");
    fs::copy(PYTHON, &renamed).expect("copied");
    let said = Command::new(&renamed)
        .args(["-c", "import platform; print(platform.python_version())"])
        .output()
        .expect("it runs");
    let truth = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    // Nothing but the file: no extension module that would imply a version is loaded.
    let python = Waiting::python(&renamed, &["x"]);
    let running = only(Interpreter::of_process(python.pid()).expect("it is Python"));
    let named = only(Interpreter::of_file(&renamed).expect("it is Python"));
    for found in [running, named] {
        assert_eq!(found.version.expect("a version").to_string(), truth);
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_same_interpreter_of_two_processes_is_examined_once() {
    let (one, two) = (
        Waiting::python(Path::new(PYTHON), &["1"]),
        Waiting::python(Path::new(PYTHON), &["2"]),
    );
    let mut examined = Examined::default();
    let first = only(Interpreter::of_process_among(one.pid(), &mut examined).expect("Python"));
    let second = only(Interpreter::of_process_among(two.pid(), &mut examined).expect("Python"));
    assert_eq!(first.file, second.file);
    assert!(std::sync::Arc::ptr_eq(&first.image, &second.image));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_that_was_replaced_under_its_process_is_noticed_and_still_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let installed = directory.path().join("python3.11");
    fs::copy(PYTHON, &installed).expect("copied");
    let python = Waiting::python(&installed, &["x"]);
    let before = only(Interpreter::of_process(python.pid()).expect("Python"));
    assert!(!before.replaced);
    assert_eq!(before.reach, installed);

    // What an upgrade does: a new file under a temporary name replaces the old one.
    let upgrade = directory.path().join("python3.11.new");
    fs::copy(PYTHON, &upgrade).expect("copied");
    fs::rename(&upgrade, &installed).expect("renamed");

    let after = only(Interpreter::of_process(python.pid()).expect("Python"));
    assert!(after.replaced);
    assert_eq!(after.path, installed);
    assert_eq!(
        after.reach,
        Path::new(&format!("/proc/{}/exe", python.pid()))
    );
    assert_eq!(after.file, before.file);
    assert_eq!(after.version, before.version);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_that_was_deleted_is_still_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let installed = directory.path().join("python3.11");
    fs::copy(PYTHON, &installed).expect("copied");
    let python = Waiting::python(&installed, &["x"]);
    fs::remove_file(&installed).expect("removed");
    let found = only(Interpreter::of_process(python.pid()).expect("Python"));
    assert!(found.replaced);
    assert_eq!(found.path, installed);
    assert!(fs::metadata(&found.reach).is_ok());
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_in_another_mount_namespace_is_reached_through_the_process() {
    must_be_root();
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("python3.11");
    let python = Waiting::start(
        Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-ec",
                r#"mount -t tmpfs none "$1"; cp "$2" "$1"; exec "$3" -c "$4""#,
                "sh",
            ])
            .arg(directory.path())
            .arg(PYTHON)
            .arg(&inside)
            .arg(PROGRAM),
    );
    assert!(
        !inside.exists(),
        "the copy is only to be seen in the other namespace"
    );
    let found = only(Interpreter::of_process(python.pid()).expect("Python"));
    assert_eq!(found.path, inside);
    let root = format!("/proc/{}/root", python.pid());
    assert_eq!(
        found.reach,
        Path::new(&root).join(inside.strip_prefix("/").expect("absolute"))
    );
    assert!(!found.replaced);
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn another_interpreter_of_the_same_path_in_another_mount_namespace_is_not_ours() {
    must_be_root();
    let directory = tempfile::tempdir().expect("a directory");
    let installed = directory.path().join("python3.11");
    fs::write(&installed, "what is installed out here").expect("written");
    let python = Waiting::start(
        Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-ec",
                r#"mount -t tmpfs none "$1"; cp "$2" "$1"; exec "$3" -c "$4""#,
                "sh",
            ])
            .arg(directory.path())
            .arg(PYTHON)
            .arg(&installed)
            .arg(PROGRAM),
    );
    let found = only(Interpreter::of_process(python.pid()).expect("Python"));
    assert!(
        found
            .reach
            .starts_with(format!("/proc/{}/root", python.pid())),
        "{:?}",
        found.reach
    );
    assert!(!found.replaced);
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_mapped_libpython_comes_after_the_executable_and_is_reached_even_when_deleted() {
    must_be_root();
    let directory = tempfile::tempdir().expect("a directory");
    let library = directory.path().join("libpython3.11.so.1.0");
    fs::copy(PYTHON, &library).expect("copied");
    let program = include_str!("../../../tests/programs/maps_file.py");
    let python = Waiting::start(Command::new(PYTHON).args(["-c", program]).arg(&library));
    let kinds_and_paths = |found: &[Interpreter]| -> Vec<(InterpreterKind, PathBuf)> {
        found
            .iter()
            .map(|found| (found.kind, found.path.clone()))
            .collect()
    };
    let expected = [
        (InterpreterKind::Executable, PathBuf::from(PYTHON)),
        (InterpreterKind::Library, library.clone()),
    ];

    let before = Interpreter::of_process(python.pid()).expect("Python");
    assert_eq!(kinds_and_paths(&before), expected);
    assert_eq!(before[1].reach, library);

    let file = FileId::at(&library).expect("a file");
    fs::remove_file(&library).expect("removed");
    let after = Interpreter::of_process(python.pid()).expect("Python");
    assert_eq!(kinds_and_paths(&after), expected);
    assert!(after[1].replaced);
    assert!(
        after[1]
            .reach
            .starts_with(format!("/proc/{}/map_files", python.pid()))
    );
    assert_eq!(after[1].file, file);
    assert_eq!(after[1].version, before[1].version);
    assert!(maps_one_of(python.pid(), &HashSet::from([file])).expect("it runs"));
}

#[test]
fn a_process_in_a_chroot_sees_its_interpreter_below_its_own_root() {
    let inside = Inside {
        pid: 1,
        root: PathBuf::from("/srv/jail"),
    };
    assert_eq!(
        inside.as_the_process_sees_it(Path::new("/srv/jail/usr/bin/python3")),
        Path::new("/usr/bin/python3")
    );
    assert_eq!(
        inside.below_root(Path::new("/srv/jail/usr/bin/python3")),
        Path::new("/proc/1/root/usr/bin/python3")
    );
}

#[test]
fn a_program_that_is_not_python_is_named_in_the_error() {
    let other = Waiting::start(Command::new("/bin/sh").args(["-c", "echo ready; read line"]));
    let error = Interpreter::of_process(other.pid()).expect_err("a shell");
    let PythonError::NotPython { executable, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(executable, &fs::canonicalize("/bin/sh").expect("a shell"));
    assert_eq!(error.exit_code(), 4);
}

/// Everything that is checked of GraalPy, which is not available here: a program of its name, and the library in it.
#[test]
fn a_python_of_somebody_elses_is_named_in_the_error() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, implementation) in [("graalpy", "GraalPy"), ("pypy3.11", "PyPy")] {
        let program = directory.path().join(name);
        fs::copy("/bin/sh", &program).expect("copied");
        let other = Waiting::start(Command::new(&program).args(["-c", "echo ready; read line"]));
        let error = Interpreter::of_process(other.pid()).expect_err("no CPython");
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains(&format!("runs {implementation} (")), "{text}");
        assert!(text.contains("run the program with CPython"), "{text}");
        let error = Interpreter::of_file(&program).expect_err("no CPython");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(implementation), "{error}");
    }
}

#[test]
fn the_test_program_itself_is_not_python() {
    let error = Interpreter::of_process(std::process::id()).expect_err("this is Rust");
    assert!(matches!(error, PythonError::NotPython { .. }), "{error}");
}

#[test]
fn a_process_that_does_not_exist_is_an_error_of_its_own() {
    // The largest process ID that Linux assigns is 2^22.
    for pid in [4_194_305, u32::MAX] {
        let error = Interpreter::of_process(pid).expect_err("no such process");
        assert!(matches!(error, PythonError::NoProcess { .. }), "{error}");
        assert_eq!(error.exit_code(), 4);
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_that_ends_while_it_is_looked_at_is_told_from_one_that_never_was() {
    let mut python = Waiting::python(Path::new(PYTHON), &["x"]);
    let pid = python.pid();
    let process = Process::new(i32::try_from(pid).expect("a pid")).expect("it runs");
    python.end();
    let error = of_open_process(&process, pid, &mut Examined::default()).expect_err("it has ended");
    assert!(matches!(error, PythonError::Ended { .. }), "{error}");
    assert_eq!(error.exit_code(), 4);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_zombie_has_ended() {
    let mut python = Waiting::python(Path::new(PYTHON), &["x"]);
    python.leave_zombie();
    let error = Interpreter::of_process(python.pid()).expect_err("a zombie");
    assert!(matches!(error, PythonError::Ended { .. }), "{error}");
}

#[test]
fn a_kernel_thread_is_called_by_its_name() {
    let kernel_thread = procfs::process::all_processes()
        .expect("/proc")
        .flatten()
        .filter_map(|process| process.stat().ok())
        .find(|stat| stat.flags & KERNEL_THREAD != 0);
    // A container shows none; then there is no kernel thread to confuse with a target either.
    let Some(stat) = kernel_thread else { return };
    let pid = u32::try_from(stat.pid).expect("a pid");
    let error = Interpreter::of_process(pid).expect_err("a kernel thread");
    assert!(error.to_string().contains(&stat.comm), "{error}");
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn the_first_process_is_not_python() {
    let error = Interpreter::of_process(1).expect_err("init is not Python");
    assert!(
        matches!(
            error,
            PythonError::NotPython { .. } | PythonError::Permission { .. }
        ),
        "{error}"
    );
}
