//! Coming and going: attaching under load, forks, exec, exit, killed clients, and what is left behind.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pystap_agent_protocol::{Follow, FromAgent, Kind, ToAgent, encode};
use rustix::net::{SendFlags, SocketAddrUnix, accept, bind, listen, send};
use serde_json::json;

use crate::interpreters::{self, Interpreter};
use crate::program::{
    PATIENCE, Program, Pystap, functions, hear, library, new_socket, until, wait,
};

/// The Python state that a session may change, as text.
const FOOTPRINT: &str = "
def footprint():
    import gc, sys, threading
    monitoring = getattr(sys, 'monitoring', None)
    return repr([
        sys.getprofile(), sys.gettrace(), list(gc.callbacks),
        getattr(threading, '_profile_hook', None), getattr(threading, '_trace_hook', None),
        monitoring and [monitoring.get_tool(tool) for tool in range(6)],
        sorted(thread.name for thread in threading.enumerate()),
        sorted(set(sys.modules) - {'gc', 'atexit', 'posix'}),
    ])
";

#[test]
fn nothing_of_pythons_is_left_changed_by_a_session() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(FOOTPRINT);
        process.run("def f(): pass");
        let before = process.run("import gc, threading; result = footprint()");
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.events = vec![Kind::Function, Kind::Gc];
        start.contexts = true;
        pystap.start(start);
        process.run("import gc; f(); gc.collect()");
        let during = process.run("result = footprint()");
        assert_ne!(
            before, during,
            "the session shows in sys.monitoring or gc.callbacks"
        );
        pystap.stop();
        assert_eq!(
            process.run("result = footprint()"),
            before,
            "{}",
            interpreter.name()
        );
        assert_eq!(process.end(), Some(0));
    }
}

/// Thread states that C code makes and deletes, as it may, without the interpreter's lock: they are cleared with it.
const STATES_COME_AND_GO: &str = "
import ctypes, threading
with_lock, without = ctypes.PyDLL(None), ctypes.CDLL(None)
make, clear, delete = without.PyThreadState_New, with_lock.PyThreadState_Clear, without.PyThreadState_Delete
interpreter = with_lock.PyInterpreterState_Get
make.restype = interpreter.restype = ctypes.c_void_p
make.argtypes = clear.argtypes = delete.argtypes = [ctypes.c_void_p]
interpreter = interpreter()
over = False
def come_and_go():
    global rounds
    rounds = 0
    while not over:
        states = [make(interpreter) for _ in range(50)]
        for state in states: clear(state)
        for state in states: delete(state)
        rounds += 1
threads = [threading.Thread(target=come_and_go) for _ in range(2)]
for thread in threads: thread.start()
";

#[test]
fn thread_states_may_go_without_the_interpreters_lock_while_sessions_begin_and_end() {
    for interpreter in interpreters::with_lock() {
        let mut process = Program::start(interpreter);
        process.run(STATES_COME_AND_GO);
        let pystap = process.attach();
        for _ in 0..5000 {
            pystap.start(functions("workload.py"));
            pystap.stop();
        }
        let rounds = process.run(
            "over = True
for thread in threads: thread.join()
result = rounds",
        );
        let name = interpreter.name();
        assert!(rounds.as_u64().unwrap() > 0, "{name}");
        assert_eq!(process.end(), Some(0), "{name}");
    }
}

#[test]
fn events_change_only_when_no_cleared_state_is_left_that_might_be_deleted() {
    for interpreter in interpreters::with_lock().filter(|it| it.monitors()) {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(STATES_COME_AND_GO);
        process.run("over = True\nfor thread in threads: thread.join()");
        process.run(
            "import sys, time
monitoring = sys.monitoring
def ours(): return [tool for tool in range(6) if monitoring.get_tool(tool) == 'pystap']
def events(): return [monitoring.get_events(tool) for tool in ours()]
def leave_one(until):
    left = make(interpreter)
    clear(left)
    def look():
        global seen
        while not until(): time.sleep(0.001)
        seen = []
        for _ in range(20):
            seen.append(events())
            time.sleep(0.001)
        delete(left)
    global looking
    looking = threading.Thread(target=look)
    looking.start()",
        );
        let pystap = process.attach();
        // The tool is there, and its events are not switched on.
        process.run("leave_one(ours)");
        pystap.start(functions("workload.py"));
        let seen = process.run("looking.join()\nresult = [seen, events()]");
        assert_eq!(seen[0], json!(vec![[0]; 20]), "{name}");
        assert_ne!(seen[1], json!([0]), "{name}");
        // And not off.
        process.run("told = False\nleave_one(lambda: told)");
        process.send("told = True");
        pystap.stop();
        process.receive();
        let after = process.run("looking.join()\nresult = [seen, events()]");
        assert_eq!(after, json!([vec![seen[1].clone(); 20], []]), "{name}");
        assert_eq!(process.end(), Some(0), "{name}");
    }
}

/// The size of a process, measured from outside: in a tree it sees no /proc.
#[derive(Debug)]
struct Size {
    resident_kib: u64,
    descriptors: usize,
    threads: usize,
}

impl Size {
    fn of(process: &Program) -> Size {
        let place = std::path::Path::new("/proc").join(process.child.id().to_string());
        let count = |what| std::fs::read_dir(place.join(what)).unwrap().count();
        let memory = std::fs::read_to_string(place.join("statm")).unwrap();
        let pages: u64 = memory.split(' ').nth(1).unwrap().parse().unwrap();
        Size {
            resident_kib: pages * 4,
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// Threads that make calls, and an asyncio server with its clients in two more.
const LOAD: &str = "
import asyncio, gc, sys, threading, time
def leaf(number): return number
def suspended():
    for number in range(10): yield leaf(number)
def failing():
    try: raise ValueError
    except ValueError: pass
def work():
    global rounds
    while not finished.is_set():
        list(suspended()); failing()
        exec(compile('def dynamic(): return 1\\ndynamic()', 'dynamic.py', 'exec'))
        rounds += 1
async def answer(reader, writer):
    global answered
    while True:
        line = await reader.readline()
        if not line: break
        answered += 1
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def ask(*address):
    while not finished.is_set():
        reader, writer = await asyncio.open_connection(*address)
        for number in range(20):
            writer.write(b'request %d\\n' % number)
            assert await reader.readline() == b'REQUEST %d\\n' % number
        writer.close()
async def serve():
    server = await asyncio.start_server(answer, '127.0.0.1', 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(ask(*address) for _ in range(4)))
    server.close()
    global served
    served = True
def run(function):
    global failed
    try: function()
    except BaseException as error: failed = repr(error)
def speed():
    best = 1e9
    for _ in range(30):
        begun = time.perf_counter()
        for number in range(2000): leaf(number)
        best = min(best, time.perf_counter() - begun)
    return best
finished, rounds, answered, served, failed = threading.Event(), 0, 0, False, None
before = speed()
load = [work, work, lambda: asyncio.run(serve())]
threads = [threading.Thread(target=run, args=(function,)) for function in load]
for thread in threads: thread.start()
";

#[test]
fn two_hundred_sessions_under_load_leave_no_trace() {
    for interpreter in interpreters::all() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(FOOTPRINT);
        let pystap = process.attach();
        let quiet = Size::of(&process);
        process.run(LOAD);
        let footprint = process.run("import gc, threading; result = footprint()");
        let (mut entries, mut middle) = (0, None);
        for round in 0..200 {
            let mut start = functions(if round % 3 == 0 { "*" } else { "*work*" });
            start.events = vec![Kind::Function, Kind::Gc];
            start.contexts = round % 2 == 0;
            start.announce_running = round % 5 != 0;
            if round % 4 == 3 {
                // As when pystap is killed: the connection is gone without a message.
                let socket = process.run("result = agent.status()['socket']");
                let other = Pystap::connect(socket.as_str().unwrap());
                other.start(start);
                drop(other);
                until("the session ends", || {
                    process.run("result = agent.status()['session']") == json!(false)
                });
            } else {
                pystap.start(start);
                entries += pystap.stop().entries;
            }
            if round == 50 {
                process.run("gc.collect()");
                middle = Some(Size::of(&process));
            }
        }
        process.run("gc.collect()");
        let (middle, end) = (middle.unwrap(), Size::of(&process));
        let grown = end.resident_kib.saturating_sub(middle.resident_kib);
        // Free-threaded 3.13 by itself grows by some megabytes per second under this load.
        assert!(
            interpreter.is_free_threaded || grown < 2048,
            "{name} has grown by {grown} KiB over 150 sessions"
        );
        assert_eq!(
            end.threads, middle.threads,
            "{name}: {middle:?}, then {end:?}"
        );
        assert_eq!(process.run("result = footprint()"), footprint, "{name}");
        assert!(entries > 1000, "{name}: sessions see the load: {entries}");
        let answered = process.run(
            "finished.set()\nfor thread in threads: thread.join()\nassert rounds > 100, rounds\n\
             assert served and failed is None, failed\nresult = answered",
        );
        assert!(answered.as_u64() >= Some(100), "{name}: {answered}");
        until("threads and descriptors are as many as before", || {
            let now = Size::of(&process);
            (now.descriptors, now.threads) == (quiet.descriptors, quiet.threads)
        });
        // Other programs slow it down at times; anything that the agent had left on would do so for good.
        until("it is as fast as before", || {
            process.run("result = speed() / before").as_f64().unwrap() < 1.2
        });
        assert_eq!(process.end(), Some(0), "{name}");
    }
}

#[test]
fn a_killed_client_ends_its_session() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let pystap = process.attach();
        pystap.start(functions("*"));
        assert_eq!(
            process.run("result = agent.status()['session']"),
            json!(true)
        );
        drop(pystap);
        until("the session ends", || {
            process.run("result = agent.status()['session']") == json!(false)
        });
    }
}

#[test]
fn an_agent_that_is_not_dormant_goes_after_its_session_and_can_come_again() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        for _ in 0..3 {
            let socket = process
                .run("agent.start(False); agent.start(False); result = agent.status()['socket']");
            let pystap = Pystap::connect(socket.as_str().unwrap());
            assert!(!pystap.hello.dormant);
            pystap.start(functions("*"));
            pystap.stop();
            drop(pystap);
            until("the agent goes", || {
                process.run("result = agent.status()['running']") == json!(false)
            });
        }
        assert_eq!(process.end(), Some(0));
    }
}

#[test]
fn an_idle_asyncio_server_is_attached_to_at_once() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let socket = process.run("agent.start(True); result = agent.status()['socket']");
        process.send(
            "
import asyncio
async def serve():
    server = await asyncio.start_server(lambda *_: None, '127.0.0.1', 0)
    await server.start_serving()
    await asyncio.get_running_loop().create_future()
asyncio.run(serve())
",
        );
        // Once it serves, it waits in the kernel forever.
        until("the server sleeps", || {
            let wchan = format!("/proc/{}/syscall", process.child.id());
            // epoll_wait or epoll_pwait, x86-64 and aarch64.
            std::fs::read_to_string(wchan).is_ok_and(|text| {
                ["232 ", "281 ", "22 "]
                    .iter()
                    .any(|number| text.starts_with(number))
            })
        });
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            let pystap = Pystap::connect(socket.as_str().unwrap());
            pystap.start(functions("*"));
            best = best.min(begun.elapsed());
            pystap.stop();
        }
        assert!(
            best < Duration::from_millis(50),
            "{}: {best:?}",
            interpreter.name()
        );
    }
}

/// A socket for following children, and the invitation to it.
pub(crate) fn listening() -> (OwnedFd, Follow) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("pystap-test-{}-{count}", std::process::id());
    let socket = new_socket();
    bind(
        &socket,
        &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(),
    )
    .unwrap();
    listen(&socket, 8).unwrap();
    let follow = Follow {
        socket: name,
        secret: format!("secret of {count}"),
    };
    (socket, follow)
}

const FORK: &str = "
import os
def leaf(): pass
def child_work():
    for _ in range(10): leaf()
def fork():
    pid = os.fork()
    if pid == 0:
        child_work()
        os._exit(7 if agent.status()['session'] else 8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
";

#[test]
fn a_forks_child_is_silent_unless_it_is_asked_for() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(FORK);
        let pystap = process.attach();
        pystap.start(functions("workload.py"));
        assert_eq!(
            process.run("result = fork()"),
            json!(8),
            "no session in the child"
        );
        assert_eq!(
            process.run("result = agent.status()['session']"),
            json!(true)
        );
        let stopped = pystap.stop();
        // The announced step, and two per step for its module, and fork itself.
        assert_eq!(
            stopped.entries - stopped.returns,
            0,
            "{}",
            interpreter.name()
        );
        assert_eq!(
            process.run("result = fork()"),
            json!(8),
            "a dormant agent's child works too"
        );
    }
}

#[test]
fn a_forks_child_joins_and_its_session_has_no_gap() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(FORK);
        process.run(
            "
def joining_fork():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child_work()
        os.read(reading, 1)
        os._exit(7 if agent.status()['session'] else 8)
    return pid, writing
",
        );
        let (follows, follow) = listening();
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        start.follow = Some(follow.clone());
        pystap.start(start.clone());
        let pid = process.run("child, writing = joining_fork(); result = child");
        let socket = accept(&follows).unwrap();
        let joined = match hear(&socket) {
            Some(FromAgent::Joined(joined)) => joined,
            other => panic!("no joined but {other:?}"),
        };
        assert_eq!(json!(joined.hello.pid), pid);
        assert_eq!(joined.parent, pystap.hello.pid);
        assert_eq!(joined.secret, follow.secret);
        let child = Pystap {
            socket,
            hello: joined.hello,
        };
        child.start(start);
        process.run("os.write(writing, b'x')");
        let code = process.run("result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])");
        assert_eq!(
            code,
            json!(7),
            "{}: the session is on in the child",
            interpreter.name()
        );
        let heard = hear(&child.socket);
        assert!(
            heard.is_none(),
            "{}: the connection ends with the child, and not with {heard:?}",
            interpreter.name()
        );
        pystap.stop();
    }
}

#[test]
fn a_forks_child_that_nobody_answers_goes_silent() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(FORK);
        let (_follows, follow) = listening();
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.follow = Some(follow);
        pystap.start(start);
        let code = process.run(
            "
import time
pid = os.fork()
if pid == 0:
    begun = time.monotonic()
    while agent.status()['session'] and time.monotonic() - begun < 30:
        time.sleep(0.01)
    os._exit(8 if time.monotonic() - begun < 10 else 9)
result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
",
        );
        assert_eq!(code, json!(8), "{}", interpreter.name());
        pystap.stop();
    }
}

/// Runs this before a program is told to join, which then has a hundred calls to make.
fn joins_and_misses_nothing(interpreter: &Interpreter, before: &str) {
    let mut process = Program::start(interpreter);
    let (follows, follow) = listening();
    process.run("def leaf(): pass");
    process.run(before);
    process.send(&format!(
        "agent.start(False, follow={:?})\nfor _ in range(100): leaf()\nresult = agent.status()['entries']",
        follow.to_string()
    ));
    let socket = accept(&follows).unwrap();
    match hear(&socket) {
        Some(FromAgent::Joined(joined)) => assert_eq!(joined.secret, follow.secret),
        other => panic!("no joined but {other:?}"),
    }
    let mut start = functions("workload.py");
    start.filters.functions = vec!["leaf".into()];
    let packet = encode(&ToAgent::Start(start)).unwrap();
    send(&socket, &packet, SendFlags::NOSIGNAL).unwrap();
    assert!(matches!(hear(&socket), Some(FromAgent::Started(_))));
    assert_eq!(process.receive(), json!(100), "{}", interpreter.name());
    drop(socket);
    let stays = process.run("result = agent.status()['dormant']");
    assert_eq!(stays, json!(!before.is_empty()), "{}", interpreter.name());
    assert_eq!(process.end(), Some(0));
}

#[test]
fn a_launched_program_waits_for_its_session_and_misses_nothing() {
    for interpreter in interpreters::all() {
        joins_and_misses_nothing(interpreter, "");
    }
}

#[test]
fn a_launched_program_whose_agent_sleeps_already_joins_and_misses_nothing() {
    for interpreter in interpreters::all() {
        joins_and_misses_nothing(interpreter, "agent.start(True)");
    }
}

/// Nothing else called `<string>` is.
#[test]
fn pystaps_own_code_is_left_out() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let (follows, follow) = listening();
        process.run(
            "
ours = compile('''
def _pystap(follow):
    agent.start(False, follow)
def _remove_bytecode(): pass
_pystap(follow)
before = agent.status()['entries']
_remove_bytecode()
result = agent.status()['entries'] - before
''', '<string>', 'exec')
theirs = compile('''
def _pystap(): pass
for _ in range(10): _pystap()
''', '<string>', 'exec')
",
        );
        process.send(&format!(
            "
space = {{'agent': agent, 'follow': {:?}}}
exec(ours, space)
(lambda: 'the first event, with which what runs is announced')()
before = agent.status()['entries']
exec(theirs, {{}})
result = space['result'], agent.status()['entries'] - before
",
            follow.to_string()
        ));
        let socket = accept(&follows).unwrap();
        assert!(matches!(hear(&socket), Some(FromAgent::Joined(_))));
        let mut start = functions("*");
        start.filters.files.clear();
        let packet = encode(&ToAgent::Start(start)).unwrap();
        send(&socket, &packet, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(hear(&socket), Some(FromAgent::Started(_))));
        // A module and its ten calls.
        assert_eq!(process.receive(), json!([0, 11]), "{}", interpreter.name());
        drop(socket);
        assert_eq!(process.end(), Some(0));
    }
}

/// 3.15 says that it is initialized only after `site`.
#[test]
fn a_program_whose_agent_starts_while_its_interpreter_does_is_traced_from_its_first_call() {
    for interpreter in interpreters::all() {
        let (directory, inside) = interpreter.directory();
        let copy = |name: &str, text: &[u8]| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        copy("agent.so", &std::fs::read(library()).unwrap());
        copy(
            "sitecustomize.py",
            b"
import importlib.machinery, importlib.util, os, sys
place = os.path.join(os.path.dirname(__file__), 'agent.so')
loader = importlib.machinery.ExtensionFileLoader('_pystap_agent', place)
agent = importlib.util.module_from_spec(importlib.util.spec_from_loader('_pystap_agent', loader))
loader.exec_module(agent)
sys.agent = agent
agent.start(False, os.environ['PYSTAP_AGENT'])
",
        );
        copy(
            "workload.py",
            b"
import sys
def leaf(): pass
for _ in range(100): leaf()
sys.exit(0 if sys.agent.status()['entries'] == 100 else 9)
",
        );
        let (follows, follow) = listening();
        let mut command = interpreter.command_in_a_whole_system();
        command
            .arg(inside.join("workload.py"))
            .env("PYTHONPATH", &inside)
            .env("PYSTAP_AGENT", follow.to_string());
        let mut child = command.spawn().unwrap();
        let socket = accept(&follows).unwrap();
        assert!(matches!(hear(&socket), Some(FromAgent::Joined(_))));
        let mut start = functions("*workload.py");
        start.filters.functions = vec!["leaf".into()];
        let packet = encode(&ToAgent::Start(start)).unwrap();
        send(&socket, &packet, SendFlags::NOSIGNAL).unwrap();
        match hear(&socket) {
            Some(FromAgent::Started(_)) => {}
            other => panic!("{}: not started but {other:?}", interpreter.name()),
        }
        assert_eq!(wait(&mut child), Some(0), "{}", interpreter.name());
    }
}

/// A debugger's request to load the agent is made of several threads, and two of them may come to it.
#[test]
fn who_is_told_twice_to_join_one_session_joins_it_once() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let (follows, follow) = listening();
        process.run("def leaf(): pass");
        let joins = format!("agent.start(False, follow={:?})", follow.to_string());
        process.send(&joins);
        let socket = accept(&follows).unwrap();
        let Some(FromAgent::Joined(joined)) = hear(&socket) else {
            panic!("{}: not joined", interpreter.name());
        };
        let pystap = Pystap {
            socket,
            hello: joined.hello,
        };
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        pystap.start(start);
        process.receive();
        process.run(&format!("{joins}\nfor _ in range(100): leaf()"));
        let flags = rustix::fs::fcntl_getfl(&follows).unwrap() | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&follows, flags).unwrap();
        assert!(accept(&follows).is_err(), "{}", interpreter.name());
        assert_eq!(pystap.stop().entries, 100, "{}", interpreter.name());
    }
}

#[test]
fn a_launched_program_that_ends_at_once_has_said_before_that_it_was_traced() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let (follows, follow) = listening();
        // On one processor, its main thread runs the moment that it is let go, before the agent's goes on.
        process.send(&format!(
            "
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
agent.start(False, follow={:?})
os._exit(0)",
            follow.to_string()
        ));
        let socket = accept(&follows).unwrap();
        assert!(matches!(hear(&socket), Some(FromAgent::Joined(_))));
        let packet = encode(&ToAgent::Start(functions("workload.py"))).unwrap();
        send(&socket, &packet, SendFlags::NOSIGNAL).unwrap();
        let answer = hear(&socket);
        assert!(
            matches!(answer, Some(FromAgent::Started(_))),
            "{}: {answer:?}",
            interpreter.name()
        );
        assert_eq!(process.end(), Some(0));
    }
}

#[test]
fn a_launched_program_that_nobody_waits_for_goes_on_at_once() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import time
begun = time.monotonic()
agent.start(False, follow='pystap-test-nobody-is-here:secret')
assert time.monotonic() - begun < 1.5
assert not agent.status()['session']
",
        );
        assert_eq!(process.end(), Some(0));
    }
}

/// A process that listens and says nothing, stopped or merely asleep.
fn mute(stopped: bool) -> (Child, Follow) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "pystap-test-mute-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let code = "
import os, signal, socket, sys, time
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind('\\0' + sys.argv[1])
listener.listen(8)
print('listens', flush=True)
if sys.argv[2] == 'stopped': os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)";
    let mut child = Command::new("/usr/bin/python3.11")
        .args([
            "-c",
            code,
            &name,
            if stopped { "stopped" } else { "asleep" },
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let state = format!("/proc/{}/stat", child.id());
    until("it is stopped", || {
        !stopped || std::fs::read_to_string(&state).unwrap().contains(") T ")
    });
    let follow = Follow {
        socket: name,
        secret: "secret".to_owned(),
    };
    (child, follow)
}

#[test]
fn a_pystap_that_is_stopped_is_not_waited_for_and_one_that_sleeps_not_for_long() {
    // No process is visible without /proc, as in the trees.
    let interpreters = interpreters::all().iter();
    for interpreter in interpreters.filter(|found| !found.is_in_a_tree()) {
        for stopped in [true, false] {
            let (mut child, follow) = mute(stopped);
            let mut process = Program::start(interpreter);
            let waited = process.run(&format!(
                "
import time
begun = time.monotonic()
agent.start(False, follow={:?})
assert not agent.status()['session']
result = time.monotonic() - begun
",
                follow.to_string()
            ));
            child.kill().unwrap();
            child.wait().unwrap();
            // Half a second when it only sleeps; other load on the machine can make it longer.
            let waited = waited.as_f64().unwrap();
            let name = interpreter.name();
            assert!(!stopped || waited < 0.4, "{name}: {waited} s");
            assert!(
                stopped || (0.5..1.9).contains(&waited),
                "{name}: {waited} s"
            );
            assert_eq!(process.end(), Some(0));
        }
    }
}

#[test]
fn a_pystap_with_a_full_backlog_is_not_waited_for() {
    for interpreter in interpreters::all() {
        let (socket, follow) = listening();
        listen(&socket, 0).unwrap();
        let mut process = Program::start(interpreter);
        process.run(&format!(
            "
import socket, time
full = []
while True:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.setblocking(False)
    try: peer.connect('\\0' + {:?})
    except BlockingIOError: break
    full.append(peer)
begun = time.monotonic()
agent.start(False, follow={:?})
assert time.monotonic() - begun < 0.4, time.monotonic() - begun
assert full and not agent.status()['session']
",
            follow.socket,
            follow.to_string()
        ));
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());
    }
}

#[test]
fn a_program_execs_and_ends_with_a_session_on() {
    for interpreter in interpreters::all() {
        for (end, code) in [
            (
                "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(3)'])",
                3,
            ),
            ("import os; os._exit(4)", 4),
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
                -1,
            ),
        ] {
            let mut process = Program::start(interpreter);
            let pystap = process.attach();
            pystap.start(functions("*"));
            process.send(end);
            assert!(hear(&pystap.socket).is_none(), "the connection ends");
            assert_eq!(
                wait(&mut process.child).unwrap_or(-1),
                code,
                "{}",
                interpreter.name()
            );
        }
    }
}

fn ends_well(interpreter: &Interpreter, code: &str, with_session: bool) {
    let mut process = Program::start(interpreter);
    let pystap = process.attach();
    if with_session {
        let mut start = functions("*");
        start.events = vec![Kind::Function, Kind::Gc];
        start.contexts = true;
        pystap.start(start);
    }
    process.run(code);
    assert_eq!(process.end(), Some(0), "{}: {code}", interpreter.name());
    assert!(hear(&pystap.socket).is_none());
}

#[test]
fn the_interpreter_shuts_down_with_a_session_on() {
    for interpreter in interpreters::all() {
        for with_session in [true, false] {
            ends_well(interpreter, "", with_session);
            ends_well(
                interpreter,
                "
import atexit, threading, time
def late(): return len('late')
class Late:
    def __del__(self): late()
kept = Late()
kept.self = kept
atexit.register(late)
def busy():
    while True: late()
for _ in range(3): threading.Thread(target=busy, daemon=True).start()
threading.Thread(target=time.sleep, args=(0.1,)).start()
",
                with_session,
            );
        }
    }
}

#[test]
fn connections_and_the_end_of_the_interpreter_can_meet() {
    for interpreter in interpreters::all() {
        for round in 0..10 {
            let mut process = Program::start(interpreter);
            let socket = process.run("agent.start(True); result = agent.status()['socket']");
            let socket = socket.as_str().unwrap().to_owned();
            let hammer = std::thread::spawn(move || {
                let until = Instant::now() + PATIENCE;
                while Instant::now() < until {
                    let peer = new_socket();
                    let address = SocketAddrUnix::new_abstract_name(socket.as_bytes()).unwrap();
                    if rustix::net::connect(&peer, &address).is_err() {
                        return;
                    }
                    for message in [ToAgent::Start(functions("*")), ToAgent::Stop {}] {
                        let packet = encode(&message).unwrap();
                        let _ = send(&peer, &packet, SendFlags::NOSIGNAL);
                    }
                    // A greeting and two answers, or the end.
                    for _ in 0..3 {
                        let mut buffer = [0; 4096];
                        let flags = rustix::net::RecvFlags::empty();
                        if !rustix::net::recv(&peer, &mut buffer, flags).is_ok_and(|(_, n)| n > 0) {
                            break;
                        }
                    }
                }
            });
            process.run(&format!("import time; time.sleep({round} / 1000)"));
            assert_eq!(process.end(), Some(0), "{}", interpreter.name());
            hammer.join().unwrap();
        }
    }
}

#[test]
fn forks_under_load_neither_hang_nor_warn() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let pystap = process.attach();
        for with_session in [false, true] {
            if with_session {
                pystap.start(functions("*"));
            }
            process.run(
                "
import os, warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            os._exit(5 if agent.status()['running'] else 6)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
assert not warned, warned
",
            );
        }
        pystap.stop();
        process.run(
            "
import threading
def forks():
    for _ in range(20):
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
threads = [threading.Thread(target=forks) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
",
        );
        pystap.start(functions("*"));
        pystap.stop();
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());
    }
}

#[test]
fn subprocesses_do_not_inherit_the_sockets() {
    let interpreter = &interpreters::all()[0];
    let mut process = Program::start(interpreter);
    let pystap = process.attach();
    pystap.start(functions("*"));
    let listed = process.run(
        "
import subprocess, sys
list_sockets = 'import os; print([os.readlink(\"/proc/self/fd/\" + fd) for fd in os.listdir(\"/proc/self/fd\") if os.path.islink(\"/proc/self/fd/\" + fd)])'
result = subprocess.run([sys.executable, '-c', list_sockets], stdout=subprocess.PIPE, close_fds=False, text=True).stdout
",
    );
    assert!(!listed.as_str().unwrap().contains("socket:"), "{listed}");
    assert!(!listed.as_str().unwrap().contains("eventfd"), "{listed}");
}

#[test]
fn the_native_threads_take_no_signals() {
    let interpreter = &interpreters::all()[0];
    let mut process = Program::start(interpreter);
    let _pystap = process.attach();
    let tasks = format!("/proc/{}/task", process.child.id());
    let masks = || -> Vec<String> {
        let tasks = std::fs::read_dir(&tasks).unwrap().flatten();
        let masks = tasks.map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("SigBlk:"));
            let mask = line.unwrap().trim_start_matches("SigBlk:");
            mask.trim().trim_start_matches('0').to_owned()
        });
        let mut masks: Vec<String> = masks.collect();
        masks.sort();
        masks
    };
    // One thread of Python's and two of the agent's. All signals except those that cannot be blocked (9 and 19) and those of the
    // C library (32 and 33), which it blocks as well while a thread begins.
    let blocked = "fffffffe7ffbfeff";
    until("the agent's threads block all signals", || {
        masks() == ["", blocked, blocked]
    });
}

#[test]
fn a_profiler_that_is_there_goes_on_getting_its_events() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import sys, threading
class Count:
    def __init__(self): self.calls = 0
    def __call__(self, frame, event, argument):
        if event == 'call' and frame.f_code.co_name == 'leaf': self.calls += 1
def leaf(): pass
count = Count()
sys.setprofile(count)
references = sys.getrefcount(count)
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        let started = pystap.start(start);
        assert_eq!(started.chained_profiler, !interpreter.monitors());
        process.run("for _ in range(100): leaf()\nassert sys.getprofile() is count");
        let stopped = pystap.stop();
        assert_eq!(
            (stopped.entries, stopped.returns),
            (100, 100),
            "{}",
            interpreter.name()
        );
        process.run(
            "
assert count.calls == 100, count.calls
assert sys.getprofile() is count
leaf()
assert count.calls == 101
assert sys.getrefcount(count) == references, (references, sys.getrefcount(count))
sys.setprofile(None)
",
        );
        assert_eq!(process.end(), Some(0));
    }
}

#[test]
fn cprofile_can_be_switched_on_and_off_under_a_session() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run("import cProfile\ndef leaf(): pass");
        let pystap = process.attach();
        pystap.start(functions("workload.py"));
        process.run(
            "
profile = cProfile.Profile()
profile.enable()
for _ in range(10): leaf()
profile.disable()
profile.create_stats()
calls = [calls for (_, _, name), (_, calls, *_) in profile.stats.items() if name == 'leaf']
assert calls == [10], calls
",
        );
        let stopped = pystap.stop();
        assert!(stopped.returns <= stopped.entries, "{}", interpreter.name());
        process.run("import sys; assert sys.getprofile() is None");
        assert_eq!(process.end(), Some(0));
    }
}

/// Up to 3.11 a program's own profile function replaces the agent's, until the agent has noticed.
#[test]
fn threads_with_a_profiler_of_their_own_are_seen_soon() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import threading, time
seen = []
def profiler(frame, event, argument):
    if frame.f_code.co_name == 'leaf': seen.append(event)
def leaf(): pass
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into(), "<lambda>".into()];
        pystap.start(start);
        process.run(
            "
threading.setprofile(profiler)
def body_that_waits():
    # A call that the session wants, until it is told.
    wanted = lambda: None
    begun = time.monotonic()
    before = agent.status()['entries']
    while agent.status()['entries'] == before and time.monotonic() < begun + 30:
        wanted(); time.sleep(0.001)
    global waited
    waited = time.monotonic() - begun
    del seen[:]
    global counted
    counted = agent.status()['entries']
    for _ in range(100): leaf()
    counted = agent.status()['entries'] - counted
thread = threading.Thread(target=body_that_waits)
thread.start(); thread.join()
threading.setprofile(None)
assert counted == 100, counted
assert seen == ['call', 'return'] * 100, len(seen)
",
        );
        let stopped = pystap.stop();
        assert_eq!(stopped.entries, stopped.returns, "{}", interpreter.name());
        assert_eq!(process.end(), Some(0));
    }
}

/// The native thread creates a thread state without the interpreter's lock each time; 3.11 exposes it to others before
/// it is filled in.
#[test]
fn sessions_in_quick_succession_do_not_meet_half_made_threads() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let pystap = process.attach();
        process.run(
            "
import sys, threading
sys.setswitchinterval(1e-5)
finished = threading.Event()
def leaf(): pass
def work():
    while not finished.is_set():
        for _ in range(100): leaf()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
",
        );
        for _ in 0..1500 {
            pystap.start(functions("*"));
            pystap.stop();
        }
        process.run("finished.set()\nfor thread in threads: thread.join()");
        assert_eq!(process.end(), Some(0), "{}", interpreter.name());
    }
}

#[test]
fn a_program_that_waits_no_longer_for_its_answer_says_so() {
    let interpreter = &interpreters::all()[0];
    let mut process = Program::start(interpreter);
    let (follows, follow) = listening();
    process.send(&format!(
        "agent.start(False, follow={:?})",
        follow.to_string()
    ));
    let socket = accept(&follows).unwrap();
    assert!(matches!(hear(&socket), Some(FromAgent::Joined(_))));
    assert_eq!(hear(&socket), Some(FromAgent::GaveUp {}));
    assert_eq!(hear(&socket), None);
    process.receive();
    assert_eq!(
        process.run("result = agent.status()['session']"),
        json!(false)
    );
    assert_eq!(process.end(), Some(0));
}
