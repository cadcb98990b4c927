//! Fields of calls against what the program itself says that it had there.

use pystap::event::{Event, FieldValue, What};
use serde_json::Value;

use super::PYTHON_3_11;
use super::direct::interpreters;
use crate::command::{pystap, run};
use crate::tracing::{Traced, leaves_nothing, trace};

/// Handles requests, and prints what it had for each: the id of the request, the method, the statement, and the number of
/// bytes. Nothing may touch what is computed.
const PROGRAM: &str = r#"
import json, time
had = []
class Context:
    def __init__(self, number):
        self.request_id = "req-%d" % number
    @property
    def computed(self):
        had.append("touched")
        return 1
class Slotted:
    __slots__ = ("statement",)
    def __init__(self, statement): self.statement = statement
def execute(query, *sizes):
    time.sleep(0.002 if sizes[0] % 3 == 0 else 0)
def handle(context, message, **rest):
    statement = "SELECT " + "column, " * message["size"] + "FROM t"
    had.append([context.request_id, message["method"], statement, message["size"]])
    execute(Slotted(statement), message["size"])
for number in range(60):
    handle(Context(number), {"method": "get" if number % 2 else "put", "size": number}, flag=None)
print(json.dumps({"had": had}))
"#;

/// Two hundred requests at once, each through two processes: the first asks the second over a socket, and both have the id. Each
/// prints what its own clock said just within and just around a call.
const FRONT: &str = r#"
import asyncio, json, socket, subprocess, sys, time
async def answer(number, reader_of, writer):
    writer.write(b"req-%d\n" % number)
    await writer.drain()
    return await reader_of[number]
async def handle(request, *rest):
    began = time.monotonic_ns()
    await answer(*rest)
    return time.monotonic_ns() - began
async def ask(number, *rest):
    began = time.monotonic_ns()
    within = await handle("req-%d" % number, number, *rest)
    return within, time.monotonic_ns() - began
async def main():
    here, there = socket.socketpair()
    back = subprocess.Popen([sys.executable, "-c", BACK], stdin=there, stdout=subprocess.PIPE)
    there.close()
    reader, writer = await asyncio.open_connection(sock=here)
    loop = asyncio.get_running_loop()
    waiting = {number: loop.create_future() for number in range(200)}
    async def receive():
        for _ in waiting:
            waiting[int((await reader.readline())[4:])].set_result(None)
    receiving = loop.create_task(receive())
    front = await asyncio.gather(*(ask(number, waiting, writer) for number in waiting))
    await receiving
    writer.close()
    print(json.dumps({"front": front, "back": json.loads(back.communicate()[0])}))
asyncio.run(main())
"#;

const BACK: &str = r#"
import asyncio, json, socket, time
took = {}
async def work(number):
    for _ in range(number % 3):
        await asyncio.sleep(0.001)
async def serve(line, number):
    began = time.monotonic_ns()
    await work(number)
    return time.monotonic_ns() - began
async def one(line, writer):
    number = int(line[4:])
    began = time.monotonic_ns()
    within = await serve(line.decode().strip(), number)
    took[number] = within, time.monotonic_ns() - began
    writer.write(line)
async def main():
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=0))
    tasks = [asyncio.create_task(one(await reader.readline(), writer)) for _ in range(200)]
    await asyncio.gather(*tasks)
    await writer.drain()
    print(json.dumps([took[number] for number in range(200)]))
asyncio.run(main())
"#;

/// Interpreters whose objects nobody changes meanwhile, and the others.
fn by_lock() -> (Vec<String>, Vec<String>) {
    let has_lock = |python: &String| {
        let code = "import sys; sys.exit('free-threading' in sys.version)";
        run(std::process::Command::new(python).args(["-c", code])).code == 0
    };
    interpreters().into_iter().partition(has_lock)
}

const OPTIONS: [&str; 16] = [
    "--engine",
    "direct",
    "--file",
    "<string>",
    "--function",
    "handle",
    "--function",
    "execute",
    "--field",
    "request=context.request_id",
    "--field",
    "method=message['method']",
    "--field",
    "sql=query.statement",
    "--field",
    "handle:computed=context.computed",
];

/// What the program says of its requests.
fn had(traced: &Traced) -> Vec<Value> {
    let truth = traced.truth();
    truth["had"].as_array().expect("a list").clone()
}

/// The fields of an event, but for those that were not found.
fn fields(event: &Event) -> Vec<(String, String)> {
    let all = event
        .fields()
        .into_iter()
        .flat_map(|fields| fields.present());
    let shown = |value: &FieldValue| match value {
        FieldValue::Text(text) => {
            assert!(!text.cut && !text.replaced, "{text:?}");
            text.text.clone()
        }
        other => other.to_string(),
    };
    all.map(|field| (field.name.to_string(), shown(&field.value)))
        .collect()
}

/// The same of all calls, or returns, of a function.
fn of(traced: &Traced, function: &str, is_return: bool) -> Vec<Vec<(String, String)>> {
    let mut all = Vec::new();
    for event in &traced.events {
        let place = match &event.what {
            What::Call { place, .. } if !is_return => place,
            What::Return { place, .. } if is_return => place,
            _ => continue,
        };
        if place.function.text == function {
            all.push(fields(event));
        }
    }
    all
}

fn named(name: &str, value: &Value) -> (String, String) {
    (
        name.to_owned(),
        value.as_str().expect("a string").to_owned(),
    )
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn fields_are_what_the_program_had_of_calls_and_of_their_returns() {
    leaves_nothing(|| {
        for python in by_lock().0 {
            let command = ["--", &python, "-c", PROGRAM];
            let traced = trace(&[&OPTIONS[..], &command].concat()).complete("targets_ended");
            let had = had(&traced);
            assert_eq!(had.len(), 60, "{python}: nothing computed was touched");
            let handled: Vec<_> = had
                .iter()
                .map(|had| vec![named("method", &had[1]), named("request", &had[0])])
                .collect();
            let executed: Vec<_> = had.iter().map(|had| vec![named("sql", &had[2])]).collect();
            for is_return in [false, true] {
                assert_eq!(of(&traced, "handle", is_return), handled, "{python}");
                assert_eq!(of(&traced, "execute", is_return), executed, "{python}");
            }
            let said =
                "field computed was found in 0 of 60 calls: \"computed\" of context is a property";
            assert!(
                traced.said.iter().any(|line| line.contains(said)),
                "{:?}",
                traced.said
            );
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn long_calls_alone_have_the_fields_with_which_they_began() {
    leaves_nothing(|| {
        for python in by_lock().0 {
            let options = ["--min-duration", "1ms"];
            let command = ["--", &python, "-c", PROGRAM];
            let traced = trace(&[&OPTIONS[..], &options, &command].concat());
            let traced = traced.complete("targets_ended");
            let is_long = |had: &&Value| had[3].as_u64().is_some_and(|size| size % 3 == 0);
            let had: Vec<_> = had(&traced);
            let expected: Vec<_> = had
                .iter()
                .filter(is_long)
                .map(|had| vec![named("sql", &had[2])])
                .collect();
            // Others may have been interrupted for as long.
            let told = of(&traced, "execute", true);
            let missing = expected.iter().find(|it| !told.contains(it));
            assert_eq!(missing, None, "{python}");
            assert!(of(&traced, "execute", false).is_empty(), "{python}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_recording_has_the_fields_and_an_export_as_well() {
    leaves_nothing(|| {
        let python = PYTHON_3_11;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("run.pystap");
        let ended = run(std::process::Command::new(pystap())
            .arg("record")
            .args(OPTIONS)
            .arg("--output")
            .arg(&file)
            .args(["--", python, "-c", PROGRAM]));
        assert_eq!(ended.code, 0, "{ended:?}");
        let exported = run(std::process::Command::new(pystap())
            .args(["export", "--format", "json"])
            .arg(&file));
        assert_eq!(exported.code, 0, "{exported:?}");
        let mut requests = Vec::new();
        for line in exported.stdout.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if line["event"] == "return" && line["function"] == "handle" {
                requests.push(line["fields"]["request"].clone());
            }
        }
        let expected: Vec<Value> = (0..60)
            .map(|number| format!("req-{number}").into())
            .collect();
        assert_eq!(requests, expected);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_interpreter_without_a_lock_has_no_fields_which_is_said() {
    leaves_nothing(|| {
        for python in by_lock().1 {
            let command = ["--", &python, "-c", PROGRAM];
            let traced = trace(&[&OPTIONS[..], &command].concat());
            assert!(of(&traced, "handle", false).is_empty(), "{python}");
            let said = "fields are not read in a free-threaded build";
            assert!(
                traced.said.iter().any(|line| line.contains(said)),
                "{:?}",
                traced.said
            );
        }
    });
}

/// Calls by method, as a view that tells them apart has them.
fn by_method(view: &Value) -> std::collections::BTreeMap<String, u64> {
    let rows = view["functions"].as_array().expect("rows").iter();
    let of_handle = rows.filter(|row| row["function"] == "handle");
    of_handle
        .map(|row| {
            let value = row["group"]["value"].as_str().expect("a value").to_owned();
            let calls = match &row["durations"]["count"] {
                Value::Number(count) => count.as_u64(),
                other => panic!("{other}"),
            };
            (value, calls.expect("a number"))
        })
        .collect()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn live_views_have_a_row_for_each_value_of_a_field() {
    leaves_nothing(|| {
        for python in by_lock().0 {
            let field = [
                "--field",
                "method=message['method']",
                "--group-by",
                "method",
            ];
            let command = ["--", &python, "-c", PROGRAM];
            for view in [
                &["stats", "handle"][..],
                &["top", "--function", "handle", "-n", "1000", "-i", "100s"],
            ] {
                let options = [view, &["--json"], &field, &command].concat();
                let ended = run(std::process::Command::new(pystap()).args(options));
                assert_eq!(ended.code, 0, "{python}: {ended:?}");
                let lines = ended.stdout.lines();
                let mut views = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let last = views.rfind(|it| it["functions"].is_array());
                let last = last.unwrap_or_else(|| panic!("{python}: {ended:?}"));
                let expected = [("get", 30), ("put", 30)];
                let expected = expected.map(|(method, calls)| (method.to_owned(), calls));
                assert_eq!(by_method(&last), expected.into(), "{python} {view:?}");
            }
        }
    });
}

/// What the programs' own clocks said of one request within and around a call, and what is shown of it.
fn took(call: &Value, truth: &Value) {
    let number = |value: &Value| value.as_u64().expect("a number");
    let (within, shown, around) = (
        number(&truth[0]),
        number(&call["duration_ns"]),
        number(&truth[1]),
    );
    assert!(
        within <= shown && shown <= around,
        "{within} {shown} {around}: {call}"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn two_hundred_requests_at_once_through_two_processes_are_never_mixed() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("run.pystap");
        let program = format!("BACK = {}\n{FRONT}", Value::from(BACK));
        let functions = ["handle", "answer", "serve", "work"];
        let functions = functions.iter().flat_map(|name| ["--function", name]);
        let ended = run(std::process::Command::new(pystap())
            .args(["record", "--engine", "direct", "--file", "<string>"])
            .args(functions)
            .args([
                "--field",
                "handle:request=request",
                "--field",
                "serve:line=line",
                "--output",
            ])
            .arg(&file)
            .args(["--", PYTHON_3_11, "-c", &program]));
        assert_eq!(ended.code, 0, "{ended:?}");
        let truth = ended
            .stdout
            .lines()
            .find(|line| line.starts_with("{\"front\""));
        let truth: Value = serde_json::from_str(truth.expect("the program's own")).expect("JSON");
        // Each is a process of its own, so that some are enough.
        for number in (0..200).step_by(7) {
            let id = format!("req-{number}");
            let ended = run(std::process::Command::new(pystap())
                .args(["request", "--json", &id])
                .arg(&file));
            assert_eq!(ended.code, 0, "{ended:?}");
            let shown: Value = serde_json::from_str(&ended.stdout).expect("JSON");
            let calls = shown["calls"].as_array().expect("calls");
            let names: Vec<_> = calls.iter().map(|call| &call["function"]).collect();
            let all = ["handle", "answer", "serve", "work"];
            assert_eq!(names, all, "{id}: {shown}");
            let tasks: Vec<_> = calls.iter().map(|call| &call["context"]).collect();
            assert!(tasks[0] == tasks[1] && tasks[2] == tasks[3], "{shown}");
            assert_eq!(shown["services"].as_array().map(Vec::len), Some(2));
            took(&calls[0], &truth["front"][number]);
            took(&calls[2], &truth["back"][number]);
        }
    });
}
