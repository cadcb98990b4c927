//! The agent's counts against those of the interpreter's own hooks in another run of the same program.

use std::path::Path;
use std::time::Instant;

use pystap_agent_protocol::{FromAgent, Stopped};
use serde_json::Value;

use crate::interpreters::{self, Interpreter};
use crate::program::{Program, functions, hear, repository};

/// Runs a program twice, once with the interpreter's own hooks and once with a session, and compares. `truth` says what
/// else the program itself knows about its entries.
fn compare(interpreter: &Interpreter, program: &Path) {
    let name = program.file_name().unwrap().to_str().unwrap();
    let mut process = Program::start(interpreter);
    let inside = process.inside.join(name);
    std::fs::copy(program, process.directory.path().join(name)).unwrap();
    let run = format!(
        "
import gc, os, runpy, sys
sys.argv = [{inside:?}]
# An example ends its process like that, and has to run three times here.
process, leave = os.getpid(), os._exit
os._exit = lambda code: leave(code) if os.getpid() != process else None
def once():
    runpy.run_path({inside:?}, run_name='__main__')
    # Finalizers run in the run that they belong to.
    gc.collect()
"
    );
    process.run(&run);
    // Free-threaded 3.13 keeps classes for ever once there is a second thread, and the agent has some.
    process.run(
        "import threading\nthread = threading.Thread(target=int)\nthread.start(); thread.join()",
    );
    // Everything that the program imports is imported before counting starts.
    process.run("once()");
    let truth = process.run(&format!(
        "with Truth({name:?}) as truth:\n    once()\nresult = [truth.entries, truth.returns]"
    ));
    let pystap = process.attach();
    pystap.start(functions(&format!("*{name}")));
    process.run("once()");
    let stopped = pystap.stop();
    let told = serde_json::json!([stopped.entries, stopped.returns]);
    if truth[0] == truth[1] {
        assert_eq!(told, truth, "{name} in {}", interpreter.name());
    } else {
        // Before greenlet 2.0, a profiler written in Python misses the returns of dropped greenlets.
        assert!(
            name == "greens.py" && !interpreter.monitors(),
            "{name} in {} ends with everything returned, and the hooks say {truth}",
            interpreter.name()
        );
        assert_eq!(told[0], truth[0], "{name} in {}", interpreter.name());
    }
    assert_eq!(
        stopped.entries,
        stopped.returns,
        "{name} in {} is balanced",
        interpreter.name()
    );
    assert!(
        stopped.entries > 0,
        "{name} in {} calls something",
        interpreter.name()
    );
    assert_eq!(stopped.dropped, 0);
    process.run("assert not agent.status()['session']");
    assert_eq!(process.end(), Some(0), "{name} in {}", interpreter.name());
}

/// The examples that end by themselves and have no dependencies.
const EXAMPLES: [&str; 8] = [
    "collect.py",
    "fib.py",
    "forks.py",
    "generators.py",
    "hostile_names.py",
    "nested.py",
    "slow.py",
    "threads.py",
];

#[test]
fn every_example_has_the_calls_that_the_interpreter_counts() {
    for interpreter in interpreters::all() {
        for example in EXAMPLES {
            compare(interpreter, &repository().join("examples").join(example));
        }
    }
}

fn compare_own(program: &str) {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    for interpreter in interpreters::all() {
        compare(interpreter, &programs.join(program));
    }
}

#[test]
fn generators_and_coroutines_are_balanced_however_they_end() {
    compare_own("suspensions.py");
}

#[test]
fn threads_that_come_and_go_are_seen() {
    compare_own("many_threads.py");
}

#[test]
fn tasks_are_balanced() {
    compare_own("tasks.py");
}

#[test]
fn greenlets_are_balanced() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let mut tried = Vec::new();
    for interpreter in interpreters::all() {
        if interpreter.has("greenlet") {
            compare(interpreter, &programs.join("greens.py"));
            compare(interpreter, &repository().join("examples/eventlet_like.py"));
            tried.push(interpreter.name());
        }
    }
    assert!(!tried.is_empty(), "no interpreter has greenlet");
}

/// Runs a server under load while both the interpreter's own hooks and a session count: how often a coroutine is
/// resumed differs from run to run. The program counts the requests it has served in its variable `served`, with one
/// call of parse() per request.
fn serves(interpreter: &Interpreter, program: &str) {
    let name = interpreter.name();
    let mut process = Program::start(interpreter);
    let inside = process.inside.join(program);
    process.run(&format!(
        "
import gc, runpy
def once():
    served = runpy.run_path({inside:?}, run_name='__main__')['served']
    gc.collect()
    return served
once()
truth = Truth({program:?})
truth.__enter__()
"
    ));
    let pystap = process.attach();
    let mut start = functions(&format!("*{program}"));
    start.contexts = true;
    pystap.start(start);
    let served = process.run("result = once()");
    let stopped = pystap.stop();
    let truth =
        process.run("truth.__exit__(None, None, None); result = [truth.entries, truth.returns]");
    let told = serde_json::json!([stopped.entries, stopped.returns]);
    assert_eq!(told, truth, "{program} in {name}");
    assert_eq!(stopped.entries, stopped.returns, "{program} in {name}");
    let mut start = functions(&format!("*{program}"));
    start.filters.functions = vec!["parse".into()];
    pystap.start(start);
    assert_eq!(process.run("result = once()"), served);
    let parsed = pystap.stop();
    assert_eq!(
        serde_json::json!([parsed.entries, parsed.returns]),
        serde_json::json!([served, served]),
        "{program} in {name}"
    );
    println!(
        "{program} in {name}: {served} requests, {} entries",
        stopped.entries
    );
    assert!(served.as_u64().unwrap() >= 1000);
    assert_eq!((stopped.dropped, parsed.dropped), (0, 0));
    assert_eq!(process.end(), Some(0), "{program} in {name}");
}

/// The same in every interpreter that has a module; both kinds of interpreters must be among them.
fn serves_wherever_there_is(module: &str, program: &str) {
    let mut tried = Vec::new();
    for interpreter in interpreters::all() {
        if interpreter.has(module) {
            serves(interpreter, program);
            tried.push(interpreter);
        } else {
            println!("without {module}: {}", interpreter.name());
        }
    }
    for monitors in [true, false] {
        assert!(
            tried.iter().any(|tried| tried.monitors() == monitors),
            "no interpreter {} has {module}",
            if monitors {
                "from 3.12 on"
            } else {
                "up to 3.11"
            }
        );
    }
}

#[test]
fn an_eventlet_server_under_load_is_counted_exactly() {
    serves_wherever_there_is("eventlet", "evented.py");
}

#[test]
fn a_gevent_server_under_load_is_counted_exactly() {
    serves_wherever_there_is("gevent", "gevented.py");
}

#[test]
fn an_asyncio_server_under_load_is_counted_exactly() {
    serves_wherever_there_is("asyncio", "served.py");
}

#[test]
fn what_no_filter_wants_is_not_counted() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        let pystap = process.attach();
        let mut start = functions("*");
        start.filters.functions = vec!["wanted*".into()];
        start.filters.not_functions = vec!["wanted[_]not".into()];
        start.filters.not_files = vec!["*other*".into()];
        pystap.start(start);
        process.run(
            "
def wanted(): return unwanted()
def wanted_too():
    try: fails()
    except ValueError: pass
def wanted_not(): pass
def unwanted(): pass
def fails(): raise ValueError
for _ in range(3):
    wanted(); wanted_too(); wanted_not(); unwanted()
exec(compile('def wanted_elsewhere(): pass\\nwanted_elsewhere()', 'another.py', 'exec'))
",
        );
        let stopped = pystap.stop();
        assert_eq!(
            (stopped.entries, stopped.returns),
            (6, 6),
            "{}",
            interpreter.name()
        );
    }
}

#[test]
fn frames_that_run_at_attach_are_announced_or_kept_back() {
    for interpreter in interpreters::all() {
        for announces in [true, false] {
            let mut process = Program::start(interpreter);
            let socket = process.run(
                "
import threading
agent.start(True)
begun, go, done = threading.Event(), threading.Event(), threading.Event()
def inner():
    begun.set(); go.wait()
def outer():
    inner()
def body():
    outer(); outer_again()
def outer_again(): pass
thread = threading.Thread(target=body)
thread.start(); begun.wait()
result = agent.status()['socket']
",
            );
            let pystap = crate::program::Pystap::connect(socket.as_str().unwrap());
            let mut start = functions("workload.py");
            start.announce_running = announces;
            let started = pystap.start(start);
            // Inner, outer and body, but for a build in which nobody may look at them.
            let running = if interpreter.is_free_threaded { 0 } else { 3 };
            assert_eq!(started.already_running, running, "{}", interpreter.name());
            assert_eq!(started.threads, 2);
            process.run("go.set(); thread.join()");
            let stopped = pystap.stop();
            // The module's frame of the last step, outer_again, and the three that were running.
            let expected = if announces { 5 } else { 2 };
            assert_eq!(
                (stopped.entries, stopped.returns),
                (expected, expected),
                "{}, announced: {announces}",
                interpreter.name()
            );
        }
    }
}

#[test]
fn a_second_look_at_the_same_functions_counts_anew() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run("def f(): pass\ndef calls():\n    for _ in range(10): f()");
        let pystap = process.attach();
        for wanted in ["f", "nothing", "f", "calls"] {
            let mut start = functions("workload.py");
            start.filters.functions = vec![wanted.into()];
            pystap.start(start);
            process.run("calls()");
            let expected = match wanted {
                "f" => 10,
                "calls" => 1,
                _ => 0,
            };
            let stopped = pystap.stop();
            assert_eq!(
                (stopped.entries, stopped.returns),
                (expected, expected),
                "{wanted}"
            );
        }
        assert_eq!(
            process.run("result = agent.status()['session']"),
            Value::Bool(false)
        );
    }
}

/// Up to 3.11 the interpreter's own hooks only cover threads of the threading module, so this is counted by hand.
#[test]
fn threads_that_the_threading_module_does_not_know_are_seen() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import _thread
def leaf(): pass
def bare(lock):
    for _ in range(50): leaf()
    lock.release()
def run():
    for _ in range(8):
        lock = _thread.allocate_lock()
        lock.acquire()
        _thread.start_new_thread(bare, (lock,))
        lock.acquire()
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        pystap.start(start);
        process.run("run()");
        let stopped = pystap.stop();
        assert_eq!(
            (stopped.entries, stopped.returns),
            (400, 400),
            "{}",
            interpreter.name()
        );
    }
}

/// Up to 3.11 each of these takes the agent's profile function away, on and off.
#[test]
fn calls_are_seen_whole_while_a_programs_own_profilers_come_and_go() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import cProfile, sys, threading
def leaf(): pass
def batch():
    for _ in range(100): leaf()
def own(frame, event, argument):
    if event == 'call' and frame.f_code is leaf.__code__: seen.append(event)
def one_shot(frame, event, argument):
    sys.setprofile(None)
def own_trace(frame, event, argument):
    traced.append(event)
    return own_trace
def with_cprofile():
    profile = cProfile.Profile()
    profile.enable(); batch(); profile.disable()
    batch()
    profile.create_stats()
    counts = [calls for (_, _, name), (_, calls, *_) in profile.stats.items() if name == 'leaf']
    assert counts == [100], counts
def with_setprofile():
    seen.clear()
    sys.setprofile(own); batch(); sys.setprofile(None)
    batch()
    assert len(seen) == 100, len(seen)
def with_one_shot():
    sys.setprofile(one_shot)
    batch(); batch()
def with_trace():
    traced.clear()
    sys.settrace(own_trace)
    with_setprofile()
    assert sys.gettrace() is own_trace
    sys.settrace(None)
    assert len(traced) > 400, len(traced)
seen, traced, failed = [], [], []
kinds = [with_cprofile, with_setprofile, with_one_shot, with_trace]
# Without that lock cProfile of 3.13 miscounts by itself at times.
if not getattr(sys, '_is_gil_enabled', lambda: True)(): kinds.remove(with_cprofile)
def all_kinds():
    try:
        for kind in kinds:
            for _ in range(5): kind()
        assert sys.gettrace() is None and sys.getprofile() is None
    except BaseException as error:
        failed.append(repr(error))
def run():
    all_kinds()
    thread = threading.Thread(target=all_kinds)
    thread.start(); thread.join()
    threading.setprofile(own)
    thread = threading.Thread(target=batch)
    thread.start(); thread.join()
    threading.setprofile(None)
    return failed
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        pystap.start(start);
        let failed = process.run("result = run()");
        let stopped = pystap.stop();
        assert_eq!(failed, serde_json::json!([]), "{}", interpreter.name());
        let kinds = if interpreter.is_free_threaded { 3 } else { 4 };
        let calls = 2 * kinds * 5 * 200 + 100;
        assert_eq!(
            stopped,
            Stopped {
                entries: calls,
                returns: calls,
                ..Stopped::default()
            },
            "{}",
            interpreter.name()
        );
        process.run("assert sys.getprofile() is None and sys.gettrace() is None");
        assert_eq!(process.end(), Some(0));
    }
}

/// Up to 3.11 such a thread runs before anybody can give it a profile function.
#[test]
fn threads_of_c_that_come_and_go_are_seen_or_counted() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
import ctypes
def leaf(): pass
def body(_):
    leaf()
    return None
callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(body)
libc = ctypes.CDLL(None)
if not hasattr(libc, 'pthread_create'): libc = ctypes.CDLL('libpthread.so.0')
def run():
    for _ in range(1000):
        thread = ctypes.c_ulong()
        assert libc.pthread_create(ctypes.byref(thread), None, callback, None) == 0
        assert libc.pthread_join(thread, None) == 0
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["leaf".into()];
        for _ in 0..2 {
            pystap.start(start.clone());
            process.run("run()");
            let stopped = pystap.stop();
            let name = interpreter.name();
            let unseen = stopped.unseen_threads;
            assert_eq!(stopped.entries, stopped.returns, "{name}");
            if interpreter.monitors() {
                assert_eq!((stopped.entries, unseen), (1000, 0), "{name}");
            } else {
                let known = stopped.entries + unseen;
                assert!(known >= 1000 && unseen <= 1000, "{name}: {stopped:?}");
            }
        }
        // Nobody may be there to answer when the program has ended.
        pystap.start(start);
        process.run("run()");
        assert_eq!(process.end(), Some(0));
        let mut told = 0;
        while let Some(FromAgent::Unseen { threads, .. }) = hear(&pystap.socket) {
            told = threads;
        }
        assert_eq!(told > 0, !interpreter.monitors(), "{}", interpreter.name());
    }
}

/// From 3.12 on the interpreter puts its hooks into frames that are on the stack of a thread, and theirs are not.
#[test]
fn greenlets_that_were_parked_before_the_session_are_seen_to_return() {
    let mut seen = 0;
    for interpreter in interpreters::all() {
        if !interpreter.monitors() || !interpreter.has("greenlet") {
            continue;
        }
        for number in [10_u64, 10_000] {
            let name = format!("{}, {number}", interpreter.name());
            let mut process = Program::start(interpreter);
            process.run(&format!(
                "
import greenlet
class Hostile(greenlet.greenlet):
    def __getattribute__(self, name):
        if name != 'run': raise SystemExit('user code ran')
        return super().__getattribute__(name)
def inner(parent):
    parent.switch()
    return 1
def outer(parent):
    return inner(parent)
main = greenlet.getcurrent()
parked = [Hostile(outer) for _ in range({number})]
for one in parked: greenlet.greenlet.switch(one, main)
"
            ));
            let pystap = process.attach();
            let mut start = functions("workload.py");
            start.filters.functions = vec!["inner".into(), "outer".into()];
            let begun = Instant::now();
            let started = pystap.start(start);
            println!("{name}: {:?}", begun.elapsed());
            process.run("for one in parked: greenlet.greenlet.switch(one)");
            let stopped = pystap.stop();
            assert!(number > 10 || started.warnings.is_empty(), "{started:?}");
            if started.warnings.is_empty() {
                let both = (stopped.entries, stopped.returns);
                assert_eq!(both, (2 * number, 2 * number), "{name}");
                seen += 1;
            }
            assert_eq!(process.end(), Some(0), "{name}");
        }
    }
    assert!(seen > 0, "no interpreter has greenlets");
}

/// A profiler written in Python hits the recursion limit itself, so it cannot serve as a reference here.
#[test]
fn frames_that_the_limit_of_recursion_ends_are_balanced() {
    for interpreter in interpreters::all() {
        let mut process = Program::start(interpreter);
        process.run(
            "
def deeper(depth):
    deepest[0] = depth
    deeper(depth + 1)
deepest = [0]
def run():
    try:
        deeper(1)
    except RecursionError:
        pass
",
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.filters.functions = vec!["deeper".into()];
        pystap.start(start);
        let deepest = process
            .run("run(); run(); result = deepest[0]")
            .as_u64()
            .unwrap();
        let stopped = pystap.stop();
        assert_eq!(stopped.entries, stopped.returns, "{}", interpreter.name());
        assert_eq!(stopped.entries, 2 * deepest, "{}", interpreter.name());
    }
}
