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
