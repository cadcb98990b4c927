//! Programs that are hard on guests: they close descriptors that are not theirs, use up all resources, and fork in
//! every way. The reference is the same program without the agent: its files must be identical, byte for byte, and so
//! must its exit status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use pystap_agent_protocol::Kind;
use serde_json::json;

use crate::interpreters::{self, Interpreter};
use crate::program::{PATIENCE, Program, Pystap, functions, library, until, wait};

/// The states of the agent.
const MODES: [&str; 3] = ["without", "dormant", "live"];

/// The files of the programs, copied to where an interpreter sees them.
fn programs(interpreter: &Interpreter) -> (tempfile::TempDir, PathBuf) {
    let (directory, inside) = interpreter.directory();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/hard");
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    std::fs::copy(library(), directory.path().join("agent.so")).unwrap();
    (directory, inside)
}

/// What a program has written, by file name, and its exit code.
type Left = (BTreeMap<String, String>, Option<i32>);

fn run(interpreter: &Interpreter, program: &str, arguments: &[&str], mode: &str) -> Left {
    let (directory, inside) = programs(interpreter);
    let output = directory.path().join("output");
    std::fs::create_dir(&output).unwrap();
    let mut command = interpreter.command_in_a_whole_system();
    command
        .arg(inside.join("run.py"))
        .arg(inside.join("agent.so"))
        .args([mode.as_ref(), inside.join(program).as_os_str()])
        .arg(inside.join("output"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(output.join("stdout")).unwrap())
        .stderr(std::fs::File::create(output.join("stderr")).unwrap());
    let mut child = command.spawn().unwrap();
    let mut session = None;
    if mode == "live" {
        let name = directory.path().join("output.socket");
        until("the agent says where it is", || name.exists());
        let pystap = Pystap::connect(&std::fs::read_to_string(name).unwrap());
        let mut start = functions("*");
        start.events = vec![Kind::Function, Kind::Gc];
        start.contexts = true;
        pystap.start(start);
        session = Some(pystap);
    }
    let code = wait(&mut child);
    drop(session);
    let files = std::fs::read_dir(&output).unwrap().flatten().map(|file| {
        let text = std::fs::read(file.path()).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        let place = inside.to_string_lossy().into_owned();
        (
            file.file_name().to_string_lossy().into_owned(),
            text.replace(&place, "DIRECTORY"),
        )
    });
    (files.collect(), code)
}

/// In every interpreter, the program leaves the same results with the agent as without.
fn is_unharmed(program: &str, arguments: &[&str], expected: Option<i32>) {
    for interpreter in interpreters::all() {
        let name = interpreter.name();
        let truth = run(interpreter, program, arguments, MODES[0]);
        assert_eq!(truth.1, expected, "{name}: {program} by itself: {truth:#?}");
        assert!(truth.0.len() > 2, "{name}: it writes files");
        for mode in &MODES[1..] {
            let begun = Instant::now();
            let left = run(interpreter, program, arguments, mode);
            assert_eq!(left, truth, "{name}: {program} {arguments:?}, {mode}");
            assert!(begun.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn a_program_that_closes_every_descriptor_keeps_its_files() {
    for how in ["closerange", "close_range", "dup2"] {
        is_unharmed("closing.py", &[how], Some(7));
    }
}

#[test]
fn a_daemon_works_as_it_does_without_us() {
    is_unharmed("daemon.py", &[], Some(0));
}

#[test]
fn forks_in_c_work_as_they_do_without_us() {
    is_unharmed("cforks.py", &[], Some(0));
}

#[test]
fn a_program_at_its_limit_of_descriptors_has_as_many_as_without_us() {
    is_unharmed("limit.py", &[], Some(0));
}

#[test]
fn forks_of_threads_and_handlers_work_as_they_do_without_us() {
    is_unharmed("threads.py", &[], Some(0));
}

#[test]
fn multiprocessing_works_as_it_does_without_us() {
    is_unharmed("pools.py", &[], Some(0));
}

#[test]
fn a_program_that_executes_itself_anew_works_as_it_does_without_us() {
    is_unharmed("again.py", &[], Some(6));
}

/// The agent's status in a child, read through a child that waits.
const CHILD: &str = "
import ctypes, json, os, signal, sys, time
libc = ctypes.PyDLL(None)
def leaf(): pass
def child_of(fork):
    reading, writing = os.pipe()
    back, answer = os.pipe()
    pid = fork()
    if pid == 0:
        for _ in range(1000): leaf()
        status = agent.status()
        tools = [sys.monitoring.get_tool(id) for id in range(6)] if hasattr(sys, 'monitoring') else []
        os.write(answer, json.dumps([status['session'], status['socket'], tools, sys.getprofile() is None]).encode())
        os.read(reading, 1)
        os._exit(0)
    return [pid, writing] + json.loads(os.read(back, 10000))
def end(pid, writing):
    os.write(writing, b'x')
    return os.waitpid(pid, 0)[1]
";

#[test]
fn the_child_of_a_fork_in_c_answers_for_itself_and_keeps_nothing_of_the_session() {
    for interpreter in interpreters::with_lock() {
        for with_session in [false, true] {
            let name = format!("{}, session {with_session}", interpreter.name());
            let mut process = Program::start(interpreter);
            process.run(CHILD);
            let pystap = process.attach();
            if with_session {
                pystap.start(functions("*"));
            }
            let child = process.run("result = child_of(libc.fork)");
            let own = process.run("result = agent.status()['socket']");
            assert_eq!(child[2], json!(false), "{name}: no session in the child");
            assert_ne!(child[3], own, "{name}: it has a socket of its own");
            if interpreter.monitors() {
                assert_eq!(
                    child[4],
                    json!([null, null, null, null, null, null]),
                    "{name}"
                );
            }
            assert_eq!(child[5], json!(true), "{name}: no profile function");
            let of_child = Pystap::connect(child[3].as_str().unwrap());
            assert_eq!(json!(of_child.hello.pid), child[0], "{name}");
            let of_parent = Pystap::connect(own.as_str().unwrap());
            assert_eq!(of_parent.hello.pid, pystap.hello.pid, "{name}");
            of_child.start(functions("*"));
            of_child.stop();
            let ended = process.run(&format!("result = end({}, {})", child[0], child[1]));
            assert_eq!(ended, json!(0), "{name}");
            if with_session {
                assert!(pystap.stop().entries > 0, "{name}");
            }
            assert_eq!(process.end(), Some(0), "{name}");
        }
    }
}

#[test]
fn a_daemon_that_closed_everything_can_be_attached_to() {
    for interpreter in interpreters::all() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        let descriptors = |pid: u32| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .count()
        };
        process.run("import os, time");
        let before = descriptors(process.child.id());
        let pystap = process.attach();
        pystap.start(functions("*"));
        assert_eq!(
            descriptors(process.child.id()),
            before,
            "{name}: none of the program's descriptors is the agent's"
        );
        pystap.stop();
        let daemon = process.run(
            "
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()
    os.write(writing, agent.status()['socket'].encode())
    os.closerange(0, 4096)
    while True: time.sleep(0.01)
os.close(writing)
socket = os.read(reading, 1000).decode()
assert os.read(reading, 1) == b'', 'it has closed everything'
result = [pid, socket]
",
        );
        let pystap = Pystap::connect(daemon[1].as_str().unwrap());
        assert_eq!(json!(pystap.hello.pid), daemon[0], "{name}");
        pystap.start(functions("*"));
        pystap.stop();
        process.run(&format!("os.kill({}, 9); os.waitpid({0}, 0)", daemon[0]));
        assert_eq!(process.end(), Some(0), "{name}");
    }
}

/// CPU time of the agent's threads in clock ticks.
fn ticks(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).unwrap_or_default()
                == "pystap-agent\n"
        })
        .map(|task| {
            let text = std::fs::read_to_string(task.path().join("stat")).unwrap();
            let fields: Vec<&str> = text
                .rsplit_once(')')
                .unwrap()
                .1
                .split_whitespace()
                .collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn an_agent_that_may_have_no_descriptor_waits_for_one() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run("agent.start(True); import resource");
        let limits = process.run("result = resource.getrlimit(resource.RLIMIT_NOFILE)");
        // Its own two exist; a third cannot be had.
        process.run(&format!(
            "resource.setrlimit(resource.RLIMIT_NOFILE, (2, {}))",
            limits[1]
        ));
        let socket = process.run("result = agent.status()['socket']");
        let name = socket.as_str().unwrap().to_owned();
        let visitor = std::thread::spawn(move || Pystap::connect(&name));
        let begun = (Instant::now(), ticks(process.child.id()));
        until("it was tried for a while", || {
            begun.0.elapsed() > Duration::from_secs(2)
        });
        let used = ticks(process.child.id()) - begun.1;
        assert!(
            used < 20,
            "{}: {used} ticks in two seconds",
            interpreter.name()
        );
        process.run(&format!(
            "resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))",
            limits[0], limits[1]
        ));
        let pystap = visitor.join().unwrap();
        pystap.start(functions("*"));
        pystap.stop();
        assert_eq!(process.end(), Some(0));
    }
}
