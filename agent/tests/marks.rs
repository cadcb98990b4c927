//! The marks as the kernel sees them: uprobe events at their sites, with their semaphores, located by pystap's own
//! reading of the notes. Needs root and a tracefs at /sys/kernel/tracing, and fails without.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pystap_agent_protocol::{Capture, Kind};
use serde_json::{Value, json};

use crate::interpreters;
use crate::lifecycle::listening;
use crate::program::{Program, TURNS_OF_GREENLETS, functions, library, repository};

const TRACEFS: &str = "/sys/kernel/tracing";

/// What `pystap marks --json` finds in the library.
fn marks() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "run", "--quiet", "--locked", "-p", "pystap", "--", "marks", "--json",
        ])
        .arg(library())
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let images: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    images[0]["marks"].as_array().unwrap().clone()
}

/// One event: its mark and its arguments.
#[derive(Debug, Clone)]
struct Event {
    mark: String,
    thread: u32,
    arguments: BTreeMap<String, String>,
}

impl Event {
    fn of(&self, name: &str) -> &str {
        self.arguments.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> i64 {
        self.of(name).parse().unwrap()
    }
}

/// Probes at all marks of a copy of the library, in a tracefs instance of our own.
struct Probes {
    group: String,
    instance: PathBuf,
    names: Vec<String>,
}

impl Probes {
    fn at(library: &Path, name: &str) -> Probes {
        let group = format!("pystap_agent_{}_{name}", std::process::id());
        let instance = Path::new(TRACEFS).join("instances").join(&group);
        fs::create_dir(&instance).expect("root and a tracefs, for an instance of our own");
        fs::write(instance.join("buffer_size_kb"), "4096").unwrap();
        let mut probes = Probes {
            group,
            instance,
            names: Vec::new(),
        };
        for mark in crate::marks::marks() {
            let name = mark["name"].as_str().unwrap();
            let function = "file=+0(%di):string name=+0(%si):string line=%dx:s32 qualname=+0(%cx):string \
                            context=%r8:u64 flags=%r9:u64 text=+0(+8(%sp)):string";
            let arguments = match name {
                "function__entry" | "function__return" => function,
                "gc__start" => "generation=%di:s32",
                "gc__done" => "collected=%di:s64",
                "context__name" => "context=%di:u64 text=+0(%si):string",
                other => panic!("{other} is no mark of the agent"),
            };
            let site = &mark["sites"][0];
            let (at, semaphore) = (&site["file_offset"], &site["semaphore"]["file_offset"]);
            define(&format!(
                "p:{}/{name} {}:{:#x}({:#x}) {arguments}",
                probes.group,
                library.display(),
                number(at),
                number(semaphore)
            ));
            probes.names.push(name.to_owned());
        }
        fs::write(probes.enable(), "1").unwrap();
        probes
    }

    fn enable(&self) -> PathBuf {
        self.instance
            .join("events")
            .join(&self.group)
            .join("enable")
    }

    fn events(self) -> Vec<Event> {
        fs::write(self.enable(), "0").unwrap();
        let text = fs::read_to_string(self.instance.join("trace")).unwrap();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(event)
            .collect()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        let _ = fs::write(self.enable(), "0");
        let _ = fs::remove_dir(&self.instance);
        for name in &self.names {
            define(&format!("-:{}/{name}", self.group));
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| {
        let text = value
            .as_str()
            .unwrap_or_else(|| panic!("{value} is no address"));
        u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
    })
}

fn define(line: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(Path::new(TRACEFS).join("uprobe_events"))
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes())
        .unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// `  python3-123   [000] ..... 1.2: name: (0x1) file="a" line=3 text=(fault)`.
fn event(line: &str) -> Event {
    let (head, rest) = line.split_once(": (0x").unwrap_or_else(|| panic!("{line}"));
    let mark = head.rsplit(' ').next().unwrap().to_owned();
    // A thread's name can contain blanks and dashes.
    let task = head.rsplit_once(" [").unwrap().0.trim();
    let thread = task.rsplit('-').next().unwrap().parse().unwrap();
    let mut rest = rest.split_once(')').unwrap().1.trim();
    let mut arguments = BTreeMap::new();
    let names = [
        " file=",
        " name=",
        " line=",
        " qualname=",
        " context=",
        " flags=",
        " text=",
    ];
    while let Some((name, value)) = rest.split_once('=') {
        let end = names.iter().filter_map(|name| value.find(name)).min();
        let (value, next) = end.map_or((value, ""), |end| (&value[..end], value[end..].trim()));
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap_or(value);
        arguments.insert(name.to_owned(), value.to_owned());
        rest = next;
    }
    Event {
        mark,
        thread,
        arguments,
    }
}

#[test]
fn the_library_has_the_marks_and_asks_for_nothing() {
    let marks = marks();
    let mut names: Vec<&str> = marks
        .iter()
        .map(|mark| mark["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "context__name",
            "function__entry",
            "function__return",
            "gc__done",
            "gc__start"
        ]
    );
    for mark in &marks {
        assert_eq!(mark["provider"], "pystap");
        let sites = mark["sites"].as_array().unwrap();
        assert_eq!(sites.len(), 1, "{mark}");
        assert!(number(&sites[0]["semaphore"]["file_offset"]) > 0, "{mark}");
    }
    let dynamic = Command::new("readelf")
        .args(["-dW"])
        .arg(library())
        .output()
        .unwrap();
    let dynamic = String::from_utf8(dynamic.stdout).unwrap();
    assert!(dynamic.contains("BIND_NOW"), "{dynamic}");
    for forbidden in ["NEEDED", "VERNEED", "TEXTREL", "RUNPATH"] {
        assert!(!dynamic.contains(forbidden), "{dynamic}");
    }
    let notes = Command::new("readelf")
        .arg("-n")
        .arg(library())
        .output()
        .unwrap();
    assert!(
        String::from_utf8(notes.stdout)
            .unwrap()
            .contains("Build ID: ")
    );
}

const PROGRAM: &str = "
import asyncio, gc, sys
def leaf(number, text='t', *more, named=None, **others):
    return [number, text]
def suspended():
    yield leaf(1)
    yield 2
class Kind:
    def method(self):
        def inner(): return self
        return inner()
class Secret:
    def __repr__(self): raise SystemExit('user code ran')
    __str__ = __getattr__ = __getitem__ = __len__ = __iter__ = __repr__
class Dictionary(dict):
    __iter__ = __getitem__ = __len__ = items = Secret.__repr__
def failing():
    raise ValueError
async def worker(number):
    leaf(number)
    await asyncio.sleep(0)
    leaf(number)
async def several():
    await asyncio.gather(worker(1), asyncio.create_task(worker(2), name='Task-two'))
def program():
    list(suspended())
    Kind().method()
    try: failing()
    except ValueError: pass
    leaf(Secret(), Dictionary(a=1), 1.5, b'\\x00\"', named=(1, [2], {'k': None}), other=10**30)
    leaf('\\u00e9\\n\"\\\\' + 'x' * 5000, True)
    asyncio.run(several())
    gc.collect()
";

#[test]
fn marks_tell_names_lines_flags_contexts_and_values() {
    for (at, interpreter) in interpreters::all().iter().enumerate() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(PROGRAM);
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("told{at}"),
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.events = vec![Kind::Function, Kind::Gc];
        start.contexts = true;
        start.capture = Capture {
            arguments: true,
            returns: true,
            limit: 400,
            ..Capture::default()
        };
        pystap.start(start);
        process.run("program()");
        let stopped = pystap.stop();
        assert_eq!(process.end(), Some(0), "{name}");
        let events = probes.events();
        let told = |mark: &str| events.iter().filter(|event| event.mark == mark).count() as u64;
        assert_eq!(told("function__entry"), stopped.entries, "{name}");
        assert_eq!(told("function__return"), stopped.returns, "{name}");
        assert_eq!(
            (told("gc__start") > 0, told("gc__done") > 0),
            (true, true),
            "{name}"
        );
        balanced(&events, &name);

        // The events of generator stays: a first start, two resumptions; two yields, a return.
        let stays: Vec<(&str, i64, i64)> = events
            .iter()
            .filter(|event| event.of("name") == "suspended")
            .map(|event| {
                (
                    event.mark.as_str(),
                    event.number("line"),
                    event.number("flags"),
                )
            })
            .collect();
        let (entry, exit) = ("function__entry", "function__return");
        assert_eq!(
            stays,
            [
                (entry, 5, 0),
                (exit, 6, 1),
                (entry, 6, 1),
                (exit, 7, 1),
                (entry, 7, 1),
                (exit, 7, 0)
            ],
            "{name}"
        );
        let failing: Vec<i64> = events
            .iter()
            .filter(|event| event.of("name") == "failing")
            .map(|event| event.number("flags"))
            .collect();
        assert_eq!(failing, [0, 4], "{name}");
        let qualified = if interpreter.version >= [3, 11, 0] {
            "Kind.method"
        } else {
            "method"
        };
        assert!(
            events.iter().any(|event| event.of("qualname") == qualified),
            "{name}"
        );
        assert!(
            events
                .iter()
                .all(|event| ["", "workload.py"].contains(&event.of("file")))
        );

        contexts(&events, &name, interpreter.is_free_threaded);
        values(&events, &name);
    }
}

/// One return per entry of the same function, in each context of each thread, in order.
fn balanced(events: &[Event], name: &str) {
    let mut stacks: BTreeMap<(u32, i64), Vec<&str>> = BTreeMap::new();
    for event in events
        .iter()
        .filter(|event| event.mark.starts_with("function__"))
    {
        let stack = stacks
            .entry((event.thread, event.number("context")))
            .or_default();
        if event.mark == "function__entry" {
            stack.push(event.of("name"));
        } else {
            assert_eq!(stack.pop(), Some(event.of("name")), "{name}: {event:?}");
        }
    }
    for (stack, left) in stacks {
        assert!(
            left.is_empty(),
            "{name}: {left:?} of {stack:?} have not returned"
        );
    }
}

fn contexts(events: &[Event], name: &str, is_free_threaded: bool) {
    let mut names: BTreeMap<i64, &str> = events
        .iter()
        .filter(|event| event.mark == "context__name")
        .map(|event| (event.number("context"), event.of("text")))
        .collect();
    // Outside of them there is the thread.
    let thread = names.remove(&0);
    let expected = (!is_free_threaded).then_some("MainThread");
    assert_eq!(thread, expected, "{name}");
    assert_eq!(names.len(), 3, "{name}: {names:?}");
    // A default task name, which only counts, comes with the coroutine's.
    let mut kinds: Vec<String> = names
        .values()
        .map(|task| task.replace(|it: char| it.is_ascii_digit(), ""))
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["Task- (several)", "Task- (worker)", "Task-two"],
        "{name}: {names:?}"
    );
    // Each worker has its own, and leaf runs in its worker's.
    let of = |function: &str| -> Vec<i64> {
        let mut found: Vec<i64> = events
            .iter()
            .filter(|event| event.of("name") == function)
            .map(|event| event.number("context"))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    assert_eq!(of("worker").len(), 2, "{name}");
    assert_eq!(of("several").len(), 1, "{name}");
    assert!(
        of("worker")
            .iter()
            .all(|context| of("leaf").contains(context)),
        "{name}"
    );
    assert_eq!(of("program"), [0], "{name}");
}

fn values(events: &[Event], name: &str) {
    let texts = |mark: &str, function: &str| -> Vec<Value> {
        events
            .iter()
            .filter(|event| event.mark == mark && event.of("name") == function)
            .filter(|event| event.of("text") != "(fault)")
            .map(|event| {
                let text = event.of("text");
                serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {text}: {error}"))
            })
            .collect()
    };
    let arguments = texts("function__entry", "leaf");
    assert_eq!(
        arguments[0],
        json!({
            "number": 1, "text": "t", "named": null,
            "more": {"type": "tuple", "size": 0, "items": []},
            "others": {"type": "dict", "size": 0, "items": []}
        }),
        "{name}"
    );
    // No code of these classes may run, and deeply nested containers are described by type.
    let hostile = &arguments[1];
    assert_eq!(hostile["number"], json!({"type": "Secret"}), "{name}");
    assert_eq!(hostile["text"], json!({"type": "Dictionary"}), "{name}");
    assert!(
        hostile
            .to_string()
            .contains(r#""items":[1,{"size":1,"type":"list"}"#),
        "{name}: {hostile}"
    );
    let long = &arguments[2];
    let shown = long["number"].as_str().unwrap();
    assert!(
        shown.starts_with("\u{e9}\n\"\\xxx") && shown.ends_with('\u{2026}'),
        "{name}: {long}"
    );
    assert!(
        long.to_string().len() <= 400,
        "{name}: {}",
        long.to_string().len()
    );
    assert_eq!(
        texts("function__return", "leaf")[0],
        json!({"type": "list", "size": 2, "items": [1, "t"]}),
        "{name}"
    );
    assert_eq!(
        texts("function__return", "suspended"),
        [json!(null)],
        "{name}: not what is yielded"
    );
    // self is in a cell there.
    assert_eq!(
        texts("function__entry", "method"),
        [json!({"self": {"type": "Kind"}})],
        "{name}"
    );
}

#[test]
fn of_values_with_hidden_names_only_the_type_is_told() {
    for (at, interpreter) in interpreters::all().iter().enumerate() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(
            "
def login(user, UserPassword, *rest, **options): return {b'Set-Cookie': 'c00kie', 'name': 'ann'}
def new_token(number): return 't0ken'
def header(pair): return pair
def program():
    login('ann', 'hunter2', 1, API_KEY='k3y', colour='red')
    new_token(7)
    header(('authorization', 'B3arer'))
",
        );
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("hidden{at}"),
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.capture = Capture {
            arguments: true,
            returns: true,
            limit: 509,
            hidden: [
                "*Password*",
                "*token*",
                "*authorization*",
                "*cookie*",
                "*key",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        pystap.start(start);
        process.run("program()");
        pystap.stop();
        assert_eq!(process.end(), Some(0), "{name}");
        let events = probes.events();
        let text = |mark: &str, function: &str| -> Value {
            let event = events
                .iter()
                .find(|event| event.mark == mark && event.of("name") == function);
            serde_json::from_str(event.unwrap().of("text")).unwrap()
        };
        let hidden = json!({"type": "str", "hidden": true});
        assert_eq!(
            text("function__entry", "login"),
            json!({
                "user": "ann", "UserPassword": hidden,
                "rest": {"type": "tuple", "size": 1, "items": [1]},
                "options": {"type": "dict", "size": 2, "items": [["API_KEY", hidden], ["colour", "red"]]}
            }),
            "{name}"
        );
        let returned = text("function__return", "login");
        assert_eq!(returned["items"][0][1], hidden, "{name}: {returned}");
        assert_eq!(returned["items"][1], json!(["name", "ann"]), "{name}");
        assert_eq!(
            text("function__entry", "new_token"),
            json!({"number": 7}),
            "{name}"
        );
        assert_eq!(text("function__return", "new_token"), hidden, "{name}");
        let pair = text("function__return", "header");
        assert_eq!(pair["items"], json!(["authorization", hidden]), "{name}");
        for secret in ["hunter2", "k3y", "t0ken", "B3arer", "c00kie"] {
            assert!(
                events
                    .iter()
                    .all(|event| !event.of("text").contains(secret)),
                "{name}: {secret} is told"
            );
        }
    }
}

#[test]
fn frames_that_were_running_are_told_first_and_on_their_own_thread() {
    for (at, interpreter) in interpreters::all().iter().enumerate() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(
            "
import threading
begun, go = threading.Event(), threading.Event()
def inner():
    begun.set()
    go.wait()
def outer():
    inner()
thread = threading.Thread(target=outer)
thread.start(); begun.wait()
",
        );
        let native = process.run("import sys; result = thread.native_id");
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("ran{at}"),
        );
        let pystap = process.attach();
        pystap.start(functions("workload.py"));
        process.run("go.set(); thread.join()");
        pystap.stop();
        let events: Vec<(String, String, i64, i64)> = probes
            .events()
            .into_iter()
            .filter(|event| json!(event.thread) == native)
            .map(|event| {
                let (line, flags) = (event.number("line"), event.number("flags"));
                (event.mark.clone(), event.of("name").to_owned(), line, flags)
            })
            .collect();
        let expected = [
            ("function__entry", "outer", 8, 2),
            ("function__entry", "inner", 6, 2),
            ("function__return", "inner", 6, 0),
            ("function__return", "outer", 8, 0),
        ];
        let expected = expected.map(|(mark, function, line, flags)| {
            (mark.to_owned(), function.to_owned(), line, flags)
        });
        assert_eq!(events, expected, "{name}");
    }
}

#[test]
fn switches_of_greenlets_are_told_of_in_the_child_of_a_fork_anew() {
    let all = interpreters::all();
    let mut tried = 0;
    for (at, interpreter) in all.iter().enumerate().filter(|(_, it)| it.has("greenlet")) {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(TURNS_OF_GREENLETS);
        process.run(
            "
import os
def forked():
    pid = os.fork()
    if pid == 0:
        turns()
        own = greenlet.gettrace()
        own('switch', (1, 2))
        os._exit(7 if own.__self__[0] is hear else 8)
    return pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
",
        );
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("forked{at}"),
        );
        let (_follows, follow) = listening();
        let pystap = process.attach();
        let mut start = functions("workload.py");
        (start.contexts, start.switches) = (true, true);
        start.follow = Some(follow);
        pystap.start(start);
        process.run("turns()");
        let [child, code] = match process.run("result = forked()") {
            Value::Array(answer) => [answer[0].clone(), answer[1].clone()],
            other => panic!("{name}: {other}"),
        };
        assert_eq!(code, json!(7), "{name}: the program's is called still");
        pystap.stop();
        assert_eq!(process.end(), Some(0), "{name}");
        let events = probes.events();
        let told = |mark: &str, function: &str, of_child: bool| {
            let is_it = |event: &&Event| {
                let is_childs = json!(event.thread) == child;
                event.mark == mark && event.of("name") == function && is_childs == of_child
            };
            events.iter().filter(is_it).count()
        };
        for of_child in [false, true] {
            for mark in ["function__entry", "function__return"] {
                let counts = ["greenlet.settrace", "greenlet.switch", "outside"]
                    .map(|function| told(mark, function, of_child));
                assert_eq!(counts, [1, 3, 2], "{name} {mark} {of_child}");
            }
        }
        tried += 1;
    }
    assert!(tried > 0, "no interpreter has greenlet");
}

#[test]
fn frames_that_a_signal_ends_before_they_begin_are_balanced() {
    for (at, interpreter) in interpreters::all().iter().enumerate() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(
            "
import ctypes, sys
if sys.version_info >= (3, 10):
    interrupt = ctypes.pythonapi.PyErr_SetInterruptEx
else:
    interrupt = lambda _, function=ctypes.pythonapi.PyErr_SetInterrupt: function()
def entered(_): pass
def suspended():
    yield 1
    yield 2
def interrupted(function):
    # Nothing but C code comes between the signal and the function.
    try: list(map(function, map(interrupt, [2])))
    except KeyboardInterrupt: pass
def outer():
    for _ in range(10): interrupted(entered)
    for _ in range(10):
        generator = suspended()
        next(generator)
        interrupted(generator.send)
",
        );
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("interrupted{at}"),
        );
        let pystap = process.attach();
        pystap.start(functions("workload.py"));
        process.run("outer(); outer()");
        let stopped = pystap.stop();
        let events = probes.events();
        balanced(&events, &name);
        assert_eq!(stopped.entries, stopped.returns, "{name}");
        let of = |function: &str| {
            events
                .iter()
                .filter(|event| event.of("name") == function)
                .count()
        };
        assert_eq!((of("outer"), of("interrupted")), (4, 80), "{name}");
        assert_eq!(process.end(), Some(0), "{name}");
    }
}

/// Names that have no UTF-8, and strings that together are longer than what the kernel copies of one event.
#[test]
fn names_that_are_no_text_or_too_long_are_told() {
    for (at, interpreter) in interpreters::all().iter().enumerate() {
        let name = interpreter.name();
        let mut process = Program::start(interpreter);
        process.run(
            "
import sys, types
def leaf(number): return 'y' * 5000
def called(name, qualname):
    names = {'co_name': name, 'co_filename': 'workload.py'}
    if sys.version_info >= (3, 11): names['co_qualname'] = qualname
    return types.FunctionType(leaf.__code__.replace(**names), {})
alone, null = called('lone\\ud800', 'lone\\ud800'), called('nu\\0ll', 'nu\\0ll')
long, wide = called('n' * 1000, 'q' * 1000), called('W' + '\\u00e9' * 2000, 'q' * 3000)
def program():
    for _ in range(100): alone(1); null(1)
    long('x' * 5000); wide('x' * 5000)
",
        );
        let probes = Probes::at(
            &process.directory.path().join("agent.so"),
            &format!("names{at}"),
        );
        let pystap = process.attach();
        let mut start = functions("workload.py");
        start.capture = Capture {
            arguments: true,
            returns: true,
            limit: 4096,
            ..Capture::default()
        };
        pystap.start(start);
        process.run("program()");
        let stopped = pystap.stop();
        assert_eq!(process.end(), Some(0), "{name}");
        assert_eq!(stopped.dropped, 0, "{name}");
        let events = probes.events();
        balanced(&events, &name);
        let called = |beginning: &str| -> Vec<&Event> {
            let is_entry = |event: &&Event| event.mark == "function__entry";
            let entries = events.iter().filter(is_entry);
            entries
                .filter(|event| event.of("name").starts_with(beginning))
                .collect()
        };
        assert_eq!(called("lone\\u{d800}").len(), 100, "{name}");
        assert_eq!(called("nu\\u{0}ll").len(), 100, "{name}");
        let has_qualname = interpreter.version >= [3, 11, 0];
        let [long] = called("nnn")[..] else {
            panic!("{name}: {}", called("nnn").len());
        };
        let qualname = if has_qualname { "q" } else { "n" };
        assert_eq!(long.of("name"), "n".repeat(1000), "{name}");
        assert_eq!(long.of("qualname"), qualname.repeat(1000), "{name}");
        assert_eq!(long.number("flags"), 0, "{name}");
        let [wide] = called("W")[..] else {
            panic!("{name}: {}", called("W").len());
        };
        assert!(wide.of("name").ends_with('\u{e9}'), "{name}: {wide:?}");
        assert!(wide.of("name").len() > 1800, "{name}: {wide:?}");
        assert!(wide.of("qualname").len() > 1800, "{name}: {wide:?}");
        assert_eq!(wide.number("flags"), 16 | 32, "{name}: {wide:?}");
        for event in [long, wide] {
            let text: Value = serde_json::from_str(event.of("text"))
                .unwrap_or_else(|error| panic!("{name}: {event:?}: {error}"));
            assert!(
                text["number"].as_str().unwrap().ends_with('\u{2026}'),
                "{name}"
            );
        }
    }
}
