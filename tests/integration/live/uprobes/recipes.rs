//! Recipes with the real libraries, each in two versions (tests/recipes/install), against what the programs count themselves.

use serde_json::{Value, json};

use super::{PYTHON_3_11, tree};
use crate::command::{command, run};
use crate::tracing::leaves_nothing;

/// Executes statements, of which SQLAlchemy's own events tell, some with secrets in them.
const SQL: &str = r#"
import json
from sqlalchemy import create_engine, event, text
engine = create_engine("sqlite://")
told = []
@event.listens_for(engine, "before_cursor_execute")
def tell(connection, cursor, statement, parameters, context, executemany):
    told.append(statement)
with engine.connect() as connection:
    connection.execute(text("create table t (a integer, b text)"))
    for n in range(20):
        connection.execute(text("insert into t values (:a, :b)"), {"a": n, "b": "secret"})
    for n in range(10):
        numbers = ", ".join(str(number) for number in range(n + 1))
        connection.execute(text(f"select a from t where b = 'secret'  and a in ({numbers})"))
    try:
        connection.execute(text("select nothing from t"))
    except Exception:
        pass
print(json.dumps(len(told)))
"#;

/// Answers ten requests, one with an error of its own and one for what is not there.
const HTTP: &str = r#"
import json, logging
from flask import Flask, abort
app = Flask("served")
app.logger.disabled = True
@app.get("/servers/<int:number>")
def server(number):
    if number == 3:
        abort(404)
    return str(1 / (number - 7))
client = app.test_client()
print(json.dumps([client.get(f"/servers/{number}").status_code for number in range(10)]))
"#;

/// Answers remote procedure calls of its own, of which some fail; each has a request.
const RPC: &str = r#"
import json, os
import oslo_messaging
from oslo_config import cfg
class Answers:
    def work(self, context):
        return 1
    def fail(self, context):
        raise ValueError
cfg.CONF([])
transport = oslo_messaging.get_rpc_transport(cfg.CONF, url="fake://")
target = oslo_messaging.Target(topic="answers", server="here")
server = oslo_messaging.get_rpc_server(transport, target, [Answers()], executor="threading")
server.start()
client_of = getattr(oslo_messaging, "get_rpc_client", None) or oslo_messaging.RPCClient
client = client_of(transport, oslo_messaging.Target(topic="answers"))
answered = {"work": 0, "fail": 0}
for number, method in enumerate(["work"] * 7 + ["fail"] * 2):
    try:
        client.call({"request_id": f"req-{number}"}, method)
    except Exception:
        pass
    answered[method] += 1
server.stop()
server.wait()
print(json.dumps(answered), flush=True)
os._exit(0)
"#;

/// What a recipe adds up of a program with a version of a library, and what the program says.
fn seen(recipe: &str, library: &str, program: &str) -> (Value, Value) {
    let place = tree("recipes").join(library);
    assert!(
        place.is_dir(),
        "tests/recipes/install makes {}",
        place.display()
    );
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("output");
    // Away from the user's own recipes, of which one may have the same name.
    let mut command = command([recipe, "--json", "--output"]);
    command
        .arg(&output)
        .args(["--", PYTHON_3_11, "-W", "ignore", "-c", program])
        .env("PYTHONPATH", &place);
    let ended = run(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    let written = std::fs::read_to_string(&output).expect("tables");
    let last = written.lines().last().expect("a summary");
    let table: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(table["kind"], "summary", "{table}");
    let truth = ended.stdout.lines().last().expect("what the program says");
    (table, serde_json::from_str(truth).expect("JSON"))
}

/// Calls and errors by a field's values.
fn groups(table: &Value, field: &str) -> Vec<(String, u64, u64)> {
    let rows = table["groups"].as_array().expect("groups");
    let mut groups: Vec<_> = rows
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].as_u64().expect("a number");
            let value = row["group"][field].as_str().expect("a value");
            (value.to_owned(), number("calls"), number("errors"))
        })
        .collect();
    groups.sort();
    groups
}

fn group(value: &str, calls: u64, errors: u64) -> (String, u64, u64) {
    (value.to_owned(), calls, errors)
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn statements_are_those_of_sqlalchemys_own_events_without_their_literals_in_a_tree() {
    leaves_nothing(|| {
        for library in ["sqlalchemy-1.4", "sqlalchemy-2.0"] {
            let (table, told) = seen("sql", library, SQL);
            let expected = [
                group("create table t (a integer, b text)", 1, 0),
                group("insert into t values (?)", 20, 0),
                group("select a from t where b = ? and a in (?)", 10, 0),
                group("select nothing from t", 1, 1),
            ];
            let groups = groups(&table, "statement");
            assert_eq!(groups, expected, "{library}");
            let calls: u64 = groups.iter().map(|(_, calls, _)| calls).sum();
            assert_eq!(Some(calls), told.as_u64(), "{library}");
            assert!(!table.to_string().contains("secret"), "{library}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn requests_of_flask_have_the_status_that_their_client_saw_in_a_tree() {
    leaves_nothing(|| {
        for library in ["flask-2", "flask-3"] {
            let (table, statuses) = seen("http", library, HTTP);
            let of = |status: u64| {
                let all = statuses.as_array().expect("a list").iter();
                all.filter(|it| it.as_u64() == Some(status)).count()
            };
            let told = json!({ "200": of(200), "404": of(404), "500": of(500) });
            assert_eq!(told, json!({ "200": 8, "404": 1, "500": 1 }), "{library}");
            assert_eq!(
                groups(&table, "route"),
                [group("/servers/*", 10, 1)],
                "{library}"
            );
            assert_eq!(table["groups"][0]["group"]["method"], "GET", "{library}");
            assert_eq!(table["groups"][0]["statuses"], told, "{library}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn remote_calls_are_those_that_their_caller_made_each_with_its_request_in_a_tree() {
    leaves_nothing(|| {
        for library in ["oslo-14", "oslo-16"] {
            let (table, answered) = seen("rpc", library, RPC);
            assert_eq!(answered, json!({ "work": 7, "fail": 2 }), "{library}");
            let expected = [group("fail", 2, 2), group("work", 7, 0)];
            assert_eq!(groups(&table, "method"), expected, "{library}");
            let slowest = table["slowest"].as_array().expect("calls");
            let mut requests: Vec<&str> = slowest
                .iter()
                .map(|call| call["request"].as_str().expect("an id"))
                .collect();
            requests.sort_unstable();
            let all: Vec<String> = (0..9).map(|number| format!("req-{number}")).collect();
            assert_eq!(requests, all, "{library}");
        }
    });
}
