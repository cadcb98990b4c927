//! Recipes with the real libraries, each in two versions (tests/recipes/install), against what the programs count themselves.

mod databases;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::databases::Database;
use super::{PYTHON_3_11, tree};
use crate::command::{command, file, run};
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

/// Answers remote procedure calls of its own, each with a request: those of a wave at the same time, one wave after the other. Has to
/// be told how it runs them, and which methods are in each wave.
const RPC: &str = r#"
import json, os, threading, time
import oslo_messaging
from oslo_config import cfg
class Answers:
    def work(self, context):
        return 1
    def wait(self, context):
        time.sleep(0.02)
    def fail(self, context):
        raise ValueError
cfg.CONF([])
transport = oslo_messaging.get_rpc_transport(cfg.CONF, url="fake://")
target = oslo_messaging.Target(topic="answers", server="here")
server = oslo_messaging.get_rpc_server(transport, target, [Answers()], executor=executor)
server.start()
client_of = getattr(oslo_messaging, "get_rpc_client", None) or oslo_messaging.RPCClient
client = client_of(transport, oslo_messaging.Target(topic="answers"))
asked = []
def ask(number, method):
    try:
        client.call({"request_id": f"req-{number}"}, method)
    except Exception:
        pass
    asked.append(method)
number = 0
for methods in waves:
    asking = []
    for method in methods:
        asking.append(threading.Thread(target=ask, args=(number, method)))
        number += 1
    for one in asking:
        one.start()
    for one in asking:
        one.join()
print(json.dumps({method: asked.count(method) for method in set(asked)}), flush=True)
os._exit(0)
"#;

/// What a recipe adds up of a program with a version of a library, and what the program says.
fn seen(recipe: &str, library: &str, program: &str) -> (Value, Value) {
    let (table, stdout) = table(recipe, library, &["-c", program]);
    let truth = stdout.lines().last().expect("what the program says");
    (table, serde_json::from_str(truth).expect("JSON"))
}

/// What a recipe adds up of a program with a version of a library, and what the program prints.
fn table(recipe: &str, library: &str, program: &[&str]) -> (Value, String) {
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
        .args(["--", PYTHON_3_11, "-W", "ignore"])
        .args(program)
        .env("PYTHONPATH", &place);
    let ended = run(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    let written = std::fs::read_to_string(&output).expect("tables");
    let last = written.lines().last().expect("a summary");
    let table: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(table["kind"], "summary", "{table}");
    (table, ended.stdout)
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
fn remote_calls_that_are_answered_while_others_wait_are_counted_in_a_tree() {
    // Greenlets: half of them give way while they answer.
    let program = format!(
        "import eventlet\neventlet.monkey_patch()\nexecutor = 'eventlet'\n\
         waves = [['wait', 'work', 'wait', 'fail'] * 5] * 4\n{RPC}"
    );
    leaves_nothing(|| {
        for library in ["oslo-14", "oslo-16"] {
            let (table, answered) = seen("rpc", library, &program);
            let made = json!({ "wait": 40, "work": 20, "fail": 20 });
            assert_eq!(answered, made, "{library}");
            let expected = [
                group("fail", 20, 20),
                group("wait", 40, 0),
                group("work", 20, 0),
            ];
            assert_eq!(groups(&table, "method"), expected, "{library}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn remote_calls_are_those_that_their_caller_made_each_with_its_request_in_a_tree() {
    let program = format!("executor = 'threading'\nwaves = [['work']] * 7 + [['fail']] * 2\n{RPC}");
    leaves_nothing(|| {
        for library in ["oslo-14", "oslo-16"] {
            let (table, answered) = seen("rpc", library, &program);
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

/// The groups of what tests/programs/recipes/statements.py sends, and not of what libraries ask beside it.
fn pebbles(table: &Value) -> Vec<(String, u64, u64)> {
    assert!(!table.to_string().contains("secret"), "{table}");
    assert_eq!(table["calls_without_fields"], 0, "{table}");
    let mut groups = groups(table, "statement");
    groups.retain(|(statement, ..)| statement.contains("pebbles"));
    groups
}

/// Rows of the groups that statements.py sends, where they are known: of `insert` one by one and many at once, and of `select`.
fn rows_of_pebbles(table: &Value) -> [Option<u64>; 3] {
    [
        "insert into pebbles values (?)",
        "insert into pebbles (b, a) values (?)",
        "select a from pebbles where b = ? and a in (?)",
    ]
    .map(|statement| group_of(table, statement)["rows"].as_u64())
}

fn group_of<'a>(table: &'a Value, statement: &str) -> &'a Value {
    let mut rows = table["groups"].as_array().expect("groups").iter();
    let group = rows.find(|row| row["group"]["statement"] == statement);
    group.unwrap_or_else(|| panic!("{statement}: {table}"))
}

/// By whom all single `insert`s were made is this function of statements.py, at the line where it stands there.
fn inserts_are_from(table: &Value, function: &str) {
    let program = file("tests/programs/recipes/statements.py");
    let source = std::fs::read_to_string(&program).expect("the program");
    let mut lines = (1..).zip(source.lines());
    let defines = format!("def {}(", function.split('.').next().unwrap_or_default());
    assert!(lines.any(|(_, line)| line.contains(&defines)), "{function}");
    let (line, _) = lines
        .find(|(_, line)| line.contains("INSERT.format"))
        .expect("the statement");
    let callers = json!([{ "caller": format!("{function} ({program}:{line})"), "calls": 20 }]);
    let group = group_of(table, "insert into pebbles values (?)");
    assert_eq!(group["callers"], callers, "{function}");
}

/// What all libraries are asked to send.
fn all_pebbles() -> Vec<(String, u64, u64)> {
    vec![
        group(
            "create temporary table pebbles (a integer, b varchar(?))",
            1,
            0,
        ),
        group("insert into pebbles (b, a) values (?)", 1, 0),
        group("insert into pebbles values (?)", 20, 0),
        group("select a from pebbles where b = ? and a in (?)", 10, 0),
        group("select nothing from pebbles", 1, 1),
    ]
}

/// As many rows as statements.py inserts and selects.
const ALL_ROWS: [Option<u64>; 3] = [Some(20), Some(5), Some(55)];

/// Runs statements.py with drivers in both versions: a table for each is what the server has written down, with so many rows and
/// from this function.
fn statements_are_those_of(
    database: &Database,
    library: &str,
    more: &[(String, u64, u64)],
    rows: [Option<u64>; 3],
    function: &str,
) {
    let program = file("tests/programs/recipes/statements.py");
    let port = database.port().to_string();
    for version in ["drivers-old", "drivers-new"] {
        let before = database.log().len();
        let (table, _) = table("sql", version, &[&program, library, "127.0.0.1", &port]);
        let mut expected = all_pebbles();
        expected.extend_from_slice(more);
        expected.sort();
        let seen = pebbles(&table);
        assert_eq!(seen, expected, "{version}, {library}");
        assert_eq!(rows_of_pebbles(&table), rows, "{version}, {library}");
        inserts_are_from(&table, function);
        let log = database.log().split_off(before);
        let written = |words: &str| {
            let lines = log.lines().filter(|line| !line.contains("STATEMENT:"));
            lines.filter(|line| line.contains(words)).count()
        };
        let told = [
            written("create temporary table pebbles"),
            written("insert into pebbles values"),
            written("select a from pebbles"),
        ];
        assert_eq!(told, [1, 20, 10], "{version}, {library}: {log}");
    }
}

#[test]
#[ignore = "needs uprobe events, PostgreSQL and tests/recipes/install: run by tests/uprobes/run"]
fn statements_are_those_that_postgresql_has_written_down_once_each_in_a_tree() {
    leaves_nothing(|| {
        let database = Database::postgresql();
        let streamed = group("select b from pebbles", 1, 0);
        for (library, function) in [
            ("psycopg", "by_cursor"),
            ("psycopg-async", "by_async_cursor"),
        ] {
            let streamed = std::slice::from_ref(&streamed);
            statements_are_those_of(&database, library, streamed, ALL_ROWS, function);
        }
        let by_cursor = group("select a, b from pebbles", 1, 0);
        let statements = [streamed, by_cursor];
        // It says how many only of what has no rows to be read.
        let rows = [Some(20), None, None];
        statements_are_those_of(
            &database,
            "asyncpg",
            &statements,
            rows,
            "asyncpg.<locals>.main",
        );
        // Of a driver in C, and of one that is awaited in another greenlet and does not say how many many were.
        for (driver, many) in [("psycopg2", Some(5)), ("asyncpg", None)] {
            let url = format!("postgresql+{driver}://tester@{{}}:{{}}/postgres");
            let rows = [Some(20), many, Some(55)];
            statements_are_those_of(&database, &url, &[], rows, "by_engine");
        }
    });
}

#[test]
#[ignore = "needs uprobe events, PostgreSQL and tests/recipes/install: run by tests/uprobes/run"]
fn statements_of_a_driver_in_c_are_seen_only_where_something_above_sends_them_in_a_tree() {
    leaves_nothing(|| {
        let database = Database::postgresql();
        let program = file("tests/programs/recipes/statements.py");
        let port = database.port().to_string();
        for version in ["drivers-old", "drivers-new"] {
            let arguments = [program.as_str(), "psycopg2", "127.0.0.1", &port];
            let (table, _) = table("sql", version, &arguments);
            assert_eq!(groups(&table, "statement"), [], "{version}");
            assert!(database.log().contains("insert into pebbles values"));
        }
    });
}

#[test]
#[ignore = "needs uprobe events, MariaDB and tests/recipes/install: run by tests/uprobes/run"]
fn statements_are_those_that_mariadb_has_written_down_once_each_in_a_tree() {
    leaves_nothing(|| {
        let database = Database::mariadb();
        for (library, function) in [
            ("pymysql", "by_cursor"),
            ("aiomysql", "by_async_cursor"),
            ("mysql+aiomysql://root@{}:{}/test", "by_engine"),
        ] {
            statements_are_those_of(&database, library, &[], ALL_ROWS, function);
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn statements_are_those_of_the_hooks_of_django_and_aiosqlite_in_a_tree() {
    leaves_nothing(|| {
        let program = file("tests/programs/recipes/statements.py");
        // Each is one for Django. SQLite tells each row of a statement for several, and none that it cannot prepare.
        for (library, versions, told, function) in [
            ("django", ["django-3.0", "django-5.2"], "33", "by_cursor"),
            (
                "aiosqlite",
                ["drivers-old", "drivers-new"],
                "36",
                "by_async_cursor",
            ),
        ] {
            for version in versions {
                let (table, stdout) = table("sql", version, &[&program, library]);
                assert_eq!(pebbles(&table), all_pebbles(), "{version}, {library}");
                // Those of a select are known when they have been read.
                let rows = [Some(20), Some(5), None];
                assert_eq!(rows_of_pebbles(&table), rows, "{version}, {library}");
                inserts_are_from(&table, function);
                assert_eq!(stdout.trim(), told, "{version}, {library}");
            }
        }
        // An exception goes on in what is awaited alone: still once each.
        for version in ["drivers-old", "drivers-new"] {
            let (table, _) = table("sql", version, &[&program, "sqlite+aiosqlite://"]);
            assert_eq!(pebbles(&table), all_pebbles(), "{version}");
            inserts_are_from(&table, "by_engine");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn rows_of_aiosqlite_are_known_through_connections_too_in_a_tree() {
    let program = r#"
import asyncio, aiosqlite
async def main():
    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("create table pebbles (a)")
        await connection.executemany("insert into pebbles values (?)", [(1,), (2,)])
        await connection.execute("update pebbles set a = 3")
asyncio.run(main())
"#;
    leaves_nothing(|| {
        for version in ["drivers-old", "drivers-new"] {
            let (table, _) = table("sql", version, &["-c", program]);
            let rows = |statement| group_of(&table, statement)["rows"].as_u64();
            let seen = [
                rows("create table pebbles (a)"),
                rows("insert into pebbles values (?)"),
                rows("update pebbles set a = ?"),
            ];
            assert_eq!(seen, [None, Some(2), Some(2)], "{version}: {table}");
        }
    });
}

/// Sends statements from coroutines, each from a greenlet that SQLAlchemy makes for it.
const AWAITED: &str = r#"
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
async def asks(session, number):
    await session.execute(text("select 1"))
async def main():
    engine = create_async_engine("sqlite+aiosqlite://")
    async with AsyncSession(engine) as session:
        for number in range(3):
            await asks(session, number)
    await engine.dispose()
asyncio.run(main())
"#;

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn who_awaits_a_statement_that_is_sent_from_a_greenlet_of_sqlalchemys_is_known_in_a_tree() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("program.py");
        std::fs::write(&program, AWAITED).expect("written");
        let program = program.to_str().expect("UTF-8");
        for version in ["drivers-old", "drivers-new"] {
            let (table, _) = table("sql", version, &[program]);
            let callers = json!([{ "caller": format!("asks ({program}:6)"), "calls": 3 }]);
            assert_eq!(
                group_of(&table, "select ?")["callers"],
                callers,
                "{version}"
            );
        }
    });
}

/// What a client counted: how many requests by method and route had which status.
type Answers = BTreeMap<(String, String), BTreeMap<String, u64>>;

/// Holds the table of a framework against what the client of tests/programs/recipes/served.py saw. Paths become the route
/// of servers; of what fails the status may not be known, but it is an error.
fn answers_are_those_of_the_client(framework: &str, version: &str, route: &str, knows_500: bool) {
    let program = file("tests/programs/recipes/served.py");
    let (table, stdout) = table("http", version, &[&program, framework]);
    let seen: BTreeMap<String, u64> = serde_json::from_str(&stdout).expect("JSON");
    let (mut expected, mut failed) = (Answers::new(), 0);
    for (answer, count) in seen {
        let [method, path, status]: [&str; 3] =
            (answer.split(' ').collect::<Vec<_>>().try_into()).expect("three parts");
        let path = match path.strip_prefix("/servers/") {
            Some(_) => route,
            None => path,
        };
        let key = (method.to_owned(), path.to_owned());
        let statuses = expected.entry(key).or_default();
        match status {
            "500" if !knows_500 => failed += count,
            _ => *statuses.entry(status.to_owned()).or_default() += count,
        }
    }
    assert_eq!(failed, u64::from(!knows_500), "{version}, {framework}");
    let rows = table["groups"].as_array().expect("groups");
    let (mut answers, mut calls) = (Answers::new(), 0);
    for row in rows {
        let value = |name: &str| row["group"][name].as_str().expect("a value").to_owned();
        let statuses = serde_json::from_value(row["statuses"].clone()).expect("statuses");
        answers.insert((value("method"), value("route")), statuses);
        calls += row["calls"].as_u64().expect("a number");
    }
    assert_eq!(answers, expected, "{version}, {framework}");
    assert_eq!(calls, 14, "{version}, {framework}");
    let errors = groups(&table, "route")
        .iter()
        .map(|(.., it)| it)
        .sum::<u64>();
    assert_eq!(errors, 1, "{version}, {framework}");
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn requests_of_django_have_the_status_that_their_client_saw_in_a_tree() {
    leaves_nothing(|| {
        for version in ["django-3.0", "django-5.2"] {
            answers_are_those_of_the_client("django-wsgi", version, "/servers/*", true);
        }
        for version in ["django-4.0", "django-5.2"] {
            answers_are_those_of_the_client("django-asgi", version, "/servers/*", true);
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn requests_of_starlette_and_fastapi_have_the_route_that_answered_them_in_a_tree() {
    leaves_nothing(|| {
        for version in ["asgi-old", "asgi-new"] {
            let of = |framework, route| {
                answers_are_those_of_the_client(framework, version, route, false);
            };
            of("starlette", "/servers/{number:int}");
            of("fastapi", "/servers/{number}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and tests/recipes/install: run by tests/uprobes/run"]
fn requests_of_webob_have_the_status_that_their_client_saw_in_a_tree() {
    leaves_nothing(|| {
        for version in ["webob-old", "webob-new"] {
            answers_are_those_of_the_client("webob", version, "/servers/*", false);
        }
    });
}
