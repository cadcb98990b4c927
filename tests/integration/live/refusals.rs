//! Processes that the agent cannot or must not enter, with the real pystap: one clear message with the next step, an
//! exit status, and an unchanged process. `tests/uprobes/run` runs these in the tree. In addition: `debian13.rs` for
//! PyPy, `installed.rs` for musl and for file systems that accept nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::net;
use rustix::process::Signal;

use super::Service;
use super::agent::leaves_nothing_at_all;
use super::installed::environment;
use crate::command::{Ended, command, file, pystap, run};
use crate::executable;
use crate::tracing::{Tracing, Way, trace};

const PYTHON_3_13: &str = "/usr/bin/python3.13";
const PYTHON_3_14: &str = "/usr/bin/python3.14";
const TICKING: &str = "tests/programs/counts.py";

/// A copy of 3.14 that was modified by a binutils command.
fn changed(directory: &Path, arguments: &[&str]) -> String {
    let python = directory.join("python3.14");
    let mut objcopy = Command::new("objcopy");
    objcopy.args(arguments).arg(PYTHON_3_14).arg(&python);
    assert!(objcopy.status().expect("it runs").success());
    python.display().to_string()
}

/// The calls of a ticking program arrive, and it continues once they have been seen.
fn is_traced(service: &Service) {
    let tracing = Tracing::start(&["-p", &service.pid()]).live();
    tracing.wait_for_output(4000);
    tracing.signal(Signal::INT);
    let traced = tracing.finish().complete("interrupted");
    let ticks = traced.counts(&file(TICKING), Way::In);
    assert!(ticks.get("tick").is_some_and(|ticks| *ticks > 2));
}

fn refuses(arguments: &[&str], words: &[&str]) {
    let ended = run(&mut command(arguments));
    is_refused(&ended, words);
}

/// Refused with the words of one message, whatever notes precede it.
fn is_refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, 3, "{ended:?}");
    let errors: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("pystap: error: "))
        .collect();
    let [message] = errors.as_slice() else {
        panic!("not one error: {ended:?}");
    };
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_interpreter_whose_sections_have_no_names_is_refused() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let python = changed(directory.path(), &["--strip-section-headers"]);
        let mut service = Service::start_with(&python, TICKING, &["0.01"]);
        let words = ["no table of named sections", "use a build that"];
        refuses(&["trace", "-p", &service.pid()], &words);
        refuses(&["trace", "--", &python, "-c", "print('it ran')"], &words);
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_interpreter_without_its_runtime_section_is_launched_and_not_entered() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let python = changed(
            directory.path(),
            &["--rename-section", ".PyRuntime=.elsewhere"],
        );
        let mut service = Service::start_with(&python, TICKING, &["0.01"]);
        refuses(
            &["trace", "-p", &service.pid()],
            &[".PyRuntime", "agent install --python", "-- COMMAND"],
        );
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
        let program = file("examples/nested.py");
        let traced = trace(&["--", &python, &program]).complete("targets_ended");
        super::agent::is_exact(&traced, &program, "calls");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_deleted_interpreter_is_entered_all_the_same() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let python = directory.path().join("python3.14");
        executable::copy(PYTHON_3_14, &python);
        let named = python.to_str().expect("UTF-8");
        let mut service = Service::start_with(named, TICKING, &["0.01"]);
        fs::remove_file(&python).expect("removed");
        is_traced(&service);
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_whose_tool_ids_are_all_taken_keeps_them() {
    leaves_nothing_at_all(|| {
        let mut service = Service::start_with(PYTHON_3_14, "tests/programs/taken.py", &[]);
        refuses(
            &["trace", "--engine", "uprobes", "-p", &service.pid()],
            &[
                "all tool ids of sys.monitoring are taken",
                "tool0",
                "stop one of these tools",
            ],
        );
        assert_eq!(service.end()["unharmed"], true);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_agent_of_another_version_is_left_alone() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let python = environment(PYTHON_3_13, directory.path());
        let install = ["agent", "install", "--python", &python];
        let ended = run(&mut command(install));
        assert_eq!(ended.code, 0, "{ended:?}");
        let library = directory
            .path()
            .join("venv/lib/python3.13/site-packages/_pystap_agent.abi3.so");
        let library = library.to_str().expect("UTF-8");
        // One that still greets in our format, and one whose messages are all different.
        for protocol in ["1", "4"] {
            let program = "tests/programs/other_agent.py";
            let mut service = Service::start_with(PYTHON_3_13, program, &[library, protocol]);
            refuses(
                &["trace", "--engine", "uprobes", "-p", &service.pid()],
                &["version 9.8.7", "restart the process", "agent install"],
            );
            let end = service.end();
            assert_eq!(end["unharmed"], true);
            assert!(end["visitors"].as_u64() > Some(0), "{end}");
        }
    });
}

/// pystap run by another user, who may execute it and read nothing of root's.
fn as_somebody(arguments: &[&str]) -> Ended {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=12345", "--regid=12345", "--clear-groups", "--"]);
    setpriv.arg(pystap()).args(arguments).current_dir("/");
    run(setpriv.env("HOME", "/nonexistent"))
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn another_users_process_is_refused_and_root_traces_everybodys() {
    leaves_nothing_at_all(|| {
        let mut service = Service::start_with(PYTHON_3_14, TICKING, &["0.01"]);
        let ended = as_somebody(&["trace", "--engine", "uprobes", "-p", &service.pid()]);
        is_refused(&ended, &["another user", "run pystap as root"]);
        let ended = as_somebody(&["trace", "--inject", "ptrace", "-p", &service.pid()]);
        is_refused(&ended, &["another user", "run pystap as root"]);
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));

        // The other way round: another user's process, in whose environment the agent is installed, and root's pystap.
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let python = environment(PYTHON_3_13, directory.path());
        let ended = run(&mut command(["agent", "install", "--python", &python]));
        assert_eq!(ended.code, 0, "{ended:?}");
        for python in [PYTHON_3_14, &python] {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid=12345", "--regid=12345", "--clear-groups", "--"]);
            setpriv.arg(python).arg(file(TICKING)).arg("0.01");
            let mut service = Service::of(setpriv);
            is_traced(&service);
            service.end();
        }
    });
}

/// The name of a session's socket is not secret; what is traced may be.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn who_does_not_run_the_agent_is_told_nothing() {
    leaves_nothing_at_all(|| {
        let mut service = Service::start_with(PYTHON_3_14, TICKING, &["0.01"]);
        let tracing = Tracing::start(&["-p", &service.pid()]).live();
        let table = fs::read_to_string("/proc/net/unix").expect("readable");
        let names = table.lines().filter_map(|line| line.split_once(" @"));
        let mut names = names.map(|(_, name)| name);
        let name = names
            .find(|name| name.starts_with("pystap-session/"))
            .expect("it listens");
        let socket = net::socket_with(
            net::AddressFamily::UNIX,
            net::SocketType::SEQPACKET,
            net::SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket");
        let address = net::SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("a name");
        net::connect(&socket, &address).expect("anybody can");
        // The connection ends, whether or not we had time to send a greeting.
        let hello = format!(
            r#"{{"type":"joined","parent":1,"protocol":1,"version":"","python":[3,14,0],"implementation":"cpython","pid":{},"way":"monitoring","busy":false,"dormant":false}}"#,
            std::process::id()
        );
        let _ = net::send(&socket, hello.as_bytes(), net::SendFlags::NOSIGNAL);
        let mut answer = [0; 4096];
        let told = net::recv(&socket, &mut answer[..], net::RecvFlags::empty());
        assert!(
            matches!(told, Ok((0, _)) | Err(Errno::CONNRESET)),
            "{told:?}"
        );
        tracing.signal(Signal::INT);
        tracing.finish().complete("interrupted");
        service.end();
    });
}
