//! What the agent refuses to do, and how it says so.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use pystap_agent_protocol::{FromAgent, ToAgent};
use rustix::net::{SendFlags, send};
use serde_json::json;

use crate::interpreters;
use crate::program::{Program, Pystap, functions, hear};

#[test]
fn an_interpreter_that_is_too_old_or_another_python_is_told_so() {
    for interpreter in interpreters::unfit() {
        println!("unfit: {}", interpreter.name());
        let mut process = Program::start_with(&interpreter, |command| {
            command.stderr(Stdio::piped());
        });
        let error = std::io::read_to_string(process.child.stderr.take().unwrap()).unwrap();
        assert!(
            error.contains("ImportError: pystap's agent works in CPython 3.9 to 3.15 only"),
            "{error}"
        );
        assert!(
            error.contains("trace this program without the agent"),
            "{error}"
        );
    }
}

#[test]
fn a_second_session_is_refused_with_the_first_ones_process() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let first = process.attach();
        let second = process.attach();
        assert!(!second.hello.busy);
        first.start(functions("*"));
        let FromAgent::Refused(refused) = second.ask(&ToAgent::Start(functions("*"))) else {
            panic!("a second session was not refused");
        };
        let own = std::process::id();
        assert!(
            refused
                .reason
                .contains(&format!("process {own} already traces")),
            "{refused:?}"
        );
        assert!(refused.next_step.contains(&own.to_string()));
        assert!(process.attach().hello.busy);
        first.stop();
        second.start(functions("*"));
        second.stop();
    }
}

#[test]
fn a_session_of_another_pid_namespace_has_no_number_there() {
    for interpreter in interpreters::all() {
        let mut process = Program::start_with(interpreter, |command| {
            let mut inside = Command::new("unshare");
            inside.args(["--pid", "--fork", "--kill-child"]);
            inside.arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => inside.env(name, value),
                    None => inside.env_remove(name),
                };
            }
            *command = inside;
        });
        let first = process.attach();
        let second = process.attach();
        first.start(functions("*"));
        let FromAgent::Refused(refused) = second.ask(&ToAgent::Start(functions("*"))) else {
            panic!("a second session was not refused");
        };
        let text = format!("{} {}", refused.reason, refused.next_step);
        assert!(
            text.contains("outside of this program's container already traces it"),
            "{text}"
        );
        assert!(
            !text.contains("kill") && !text.contains("process 0"),
            "{text}"
        );
        first.stop();
        second.start(functions("*"));
        second.stop();
    }
}

#[test]
fn all_tool_ids_taken_is_one_clear_message() {
    let with_ids: Vec<_> = interpreters::all()
        .iter()
        .filter(|found| found.monitors())
        .collect();
    assert!(!with_ids.is_empty());
    for interpreter in with_ids {
        let mut process = Program::start(interpreter);
        process.run(
            "import sys\nfor tool in range(6): sys.monitoring.use_tool_id(tool, f'tool{tool}')",
        );
        let pystap = process.attach();
        let FromAgent::Refused(refused) = pystap.ask(&ToAgent::Start(functions("*"))) else {
            panic!("not refused");
        };
        assert!(
            refused
                .reason
                .contains("all tool ids of sys.monitoring are taken (tool0, tool1"),
            "{refused:?}"
        );
        process.run("sys.monitoring.free_tool_id(2)");
        assert_eq!(pystap.start(functions("*")).tool_id, Some(2));
        pystap.stop();
        process.run(
            "assert sys.monitoring.get_tool(2) is None and sys.monitoring.get_tool(1) == 'tool1'",
        );
    }
}

#[test]
fn what_is_no_message_is_refused_and_changes_nothing() {
    let interpreter = &interpreters::all()[0];
    let mut process = Program::start(interpreter);
    let pystap = process.attach();
    pystap.start(functions("*"));
    for packet in [
        &b"nonsense"[..],
        b"{}",
        b"{\"type\":\"start\"}",
        b"\xff\xfe",
        &[b'['; 60_000],
    ] {
        send(&pystap.socket, packet, SendFlags::NOSIGNAL).unwrap();
        let answer = hear(&pystap.socket);
        assert!(matches!(answer, Some(FromAgent::Refused(_))), "{answer:?}");
    }
    assert_eq!(
        process.run("result = agent.status()['session']"),
        json!(true)
    );
    pystap.stop();
    let answer = pystap.ask(&ToAgent::Stop {});
    assert!(matches!(answer, FromAgent::Refused(_)), "{answer:?}");
}

/// A user without any rights here.
const NOBODY: u32 = 65_534;
const SOMEBODY: u32 = 12_345;

#[test]
fn other_users_are_refused_and_the_own_one_is_not() {
    let interpreter = &interpreters::all()[0];
    let visit = "import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.connect('\\0' + sys.argv[1])
print(len(peer.recv(1000)))";
    let visited_by = |name: &str, uid: u32| {
        let output = Command::new("/usr/bin/python3.11")
            .args(["-c", visit, name])
            .uid(uid)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().parse::<usize>().unwrap_or(0) > 0
    };
    for (own, visitor, expected) in [
        (0, 0, true),
        (0, SOMEBODY, false),
        (0, NOBODY, false),
        (SOMEBODY, SOMEBODY, true),
        (SOMEBODY, 0, true),
        (SOMEBODY, 12_346, false),
        // The ID that means "unmapped user" here could be anyone's.
        (NOBODY, NOBODY, false),
    ] {
        let mut process = Program::start(interpreter);
        process.run(&format!("import os; os.setuid({own})"));
        let socket = process.run("agent.start(True); result = agent.status()['socket']");
        let got_hello = visited_by(socket.as_str().unwrap(), visitor);
        assert_eq!(got_hello, expected, "agent of {own}, visitor {visitor}");
    }
}

#[test]
fn a_subinterpreter_is_refused() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
code = '''
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader('_pystap_agent', {0!r})
spec = importlib.util.spec_from_file_location('_pystap_agent', {0!r}, loader=loader)
try:
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module.start(True)
except (ImportError, RuntimeError):
    pass
else:
    raise SystemExit('it was started')
'''.format(library)
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
id = interpreters.create()
error = interpreters.run_string(id, code)
assert not error, error
interpreters.destroy(id)
assert not agent.status()['running']
",
        );
        // And the main one is not harmed by others that run.
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        pystap.start(start);
        process.run(
            "
def leaf(): pass
id = interpreters.create()
interpreters.run_string(id, 'def leaf(): pass\\nleaf()')
leaf()
interpreters.destroy(id)
",
        );
        let stopped = pystap.stop();
        assert_eq!(stopped.entries, stopped.returns);
        assert!(stopped.entries >= 1);
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());
    }
}

#[test]
fn a_reader_of_the_status_does_not_stand_in_anyones_way() {
    let interpreter = &interpreters::all()[0];
    let mut process = Program::start(interpreter);
    let socket = process.run("agent.start(True); result = agent.status()['socket']");
    let readers: Vec<Pystap> = (0..5)
        .map(|_| Pystap::connect(socket.as_str().unwrap()))
        .collect();
    let pystap = Pystap::connect(socket.as_str().unwrap());
    pystap.start(functions("*"));
    drop(readers);
    assert_eq!(
        process.run("result = agent.status()['session']"),
        json!(true)
    );
    pystap.stop();
}

/// Has the kernel answer some system calls with "not implemented".
const FORBID: &str = "
import ctypes, platform, struct
numbers = {'close_range': 436, 'unshare': {'x86_64': 272, 'aarch64': 97}[platform.machine()]}
def forbid(*names):
    code = [(0x20, 0, 0, 0)]
    for name in names:
        code += [(0x15, 0, 1, numbers[name]), (0x06, 0, 0, 0x00050000 | 38)]
    code += [(0x06, 0, 0, 0x7fff0000)]
    program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *one) for one in code))
    header = ctypes.create_string_buffer(struct.pack('HL', len(code), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, header) == 0, ctypes.get_errno()
";

#[test]
fn an_older_kernel_serves_and_one_that_forbids_a_table_of_descriptors_is_told() {
    // The older way needs /proc, which the trees lack.
    let interpreters = interpreters::all().iter();
    for interpreter in interpreters.filter(|found| !found.is_in_a_tree()) {
        let mut process = Program::start(interpreter);
        process.run(FORBID);
        process.run("forbid('close_range')\nimport os\nbefore = os.listdir('/proc/self/fd')");
        let pystap = process.attach();
        pystap.start(functions("*"));
        process.run(
            "
assert os.listdir('/proc/self/fd') == before
pid = os.fork()
if pid == 0: os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
assert agent.status()['session']
",
        );
        pystap.stop();
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());

        let mut process = Program::start(interpreter);
        process.run(FORBID);
        let refused = process.run(
            "
forbid('close_range', 'unshare')
try: agent.start(True)
except RuntimeError as error: result = str(error)
assert not agent.status()['running']
",
        );
        assert!(
            refused
                .as_str()
                .unwrap()
                .contains("close_range(2) of Linux 5.9 or unshare(2)"),
            "{refused}"
        );
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());
    }
}
