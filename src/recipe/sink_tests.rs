//! Calls by hand, and what a recipe makes of them.

use std::sync::Arc;

use super::*;
use crate::analysis::testing::{call, in_context, returned, text, told};
use crate::event::{Event, Field, FieldValue, Fields, Manner, Summary, What};
use crate::recipe::file;

const RECIPE: &str = r#"
description = "requests"
group-by = ["method"]
request = "id"
status = "status"
require = "method"

[[function]]
function = "[hj]*"
fields = { method = "a", id = "b", status = "c" }

[[function]]
function = "around"
fields = {}

[[within]]
function = "answer"
fields = { status = "d" }
"#;

/// The same with fields.
fn with(fields: &[(&str, FieldValue)], mut event: Event) -> Event {
    let all = fields.iter().map(|(name, value)| Field {
        name: (*name).into(),
        value: value.clone(),
    });
    if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
        frame.fields = Some(Arc::new(Fields(all.collect())));
    }
    event
}

fn named(value: &str) -> FieldValue {
    FieldValue::Text(text(value))
}

fn written(json: bool, events: Vec<Event>) -> String {
    written_by(RECIPE, json, events)
}

fn written_by(recipe: &str, json: bool, events: Vec<Event>) -> String {
    written_for(None, recipe, json, events)
}

/// The same on a terminal.
fn written_for(
    width: Option<fn() -> Option<u16>>,
    recipe: &str,
    json: bool,
    events: Vec<Event>,
) -> String {
    let recipe = file::parse("own", recipe).expect("a recipe");
    let options = Options {
        interval: None,
        limit: 10,
        slowest: 2,
        distribution: false,
        json,
        width,
    };
    let (mut written, mut pairing) = (Vec::new(), Pairing::new());
    let mut sink = Box::new(Grouping::new(&mut written, recipe, options));
    for mut event in events {
        let step = pairing.follow(&mut event).expect("an event");
        sink.step(&step).expect("memory");
    }
    let summary = Summary {
        wall_ns: 1_000_000_000,
        ..Summary::default()
    };
    sink.finish(&End::new(&summary, &pairing)).expect("memory");
    String::from_utf8(written).expect("UTF-8")
}

fn of(events: Vec<Event>) -> serde_json::Value {
    serde_json::from_str(&written(true, events)).expect("JSON")
}

/// Calls, errors and nanoseconds by group.
fn groups(json: &serde_json::Value) -> Vec<(&str, u64, u64, u64)> {
    let rows = json["groups"].as_array().expect("groups").iter();
    rows.map(|row| {
        (
            row["group"]["method"].as_str().expect("a value"),
            row["calls"].as_u64().expect("a number"),
            row["errors"].as_u64().expect("a number"),
            row["durations"]["sum_ns"].as_u64().expect("a number"),
        )
    })
    .collect()
}

/// Statements with who sends them and how many rows each is about; drivers say -1 where they do not know.
const STATEMENTS: &str = r#"
description = "statements"
group-by = ["statement"]
rows = "rows"
callers-outside = ["*/library/*"]

[[function]]
function = "query"
fields = { statement = "statement", "rows@return" = "cursor.rowcount" }
"#;

#[test]
fn rows_are_added_up_where_they_are_known_and_callers_by_how_often_they_called() {
    let mut events = Vec::new();
    let mut sends = |statement: &str, caller: &str, rows: FieldValue| {
        let ts = 1000 * (1 + events.len() as u64);
        let fields = [("caller", named(caller)), ("statement", named(statement))];
        events.push(with(&fields, call(ts, "query")));
        events.push(with(&[("rows", rows)], returned(ts + 500, "query")));
    };
    let at =
        |line: u32| format!("Api.get (/srv/a/long/path/to/the/service/of/somebody/api.py:{line})");
    for rows in [3, 4, -1] {
        sends("select", &at(7), FieldValue::Integer(rows));
    }
    sends("select", &at(9), named("INSERT 0 20"));
    sends("select", "main (/srv/main.py:1)", named("CREATE TABLE"));
    sends("create", "main (/srv/main.py:2)", FieldValue::Integer(-1));
    let json: serde_json::Value =
        serde_json::from_str(&written_by(STATEMENTS, true, events.clone())).expect("JSON");
    let [select, create] = [0, 1].map(|at| &json["groups"][at]);
    assert_eq!(
        (&select["rows"], &select["calls_with_rows"]),
        (&27.into(), &3.into())
    );
    let callers = [
        (at(7), 3),
        (at(9), 1),
        ("main (/srv/main.py:1)".to_owned(), 1),
    ];
    let callers =
        callers.map(|(caller, calls)| serde_json::json!({ "caller": caller, "calls": calls }));
    assert_eq!(select["callers"], serde_json::Value::from(callers.to_vec()));
    assert_eq!(
        (&create["rows"], &create["calls_with_rows"]),
        (&serde_json::Value::Null, &0.into())
    );
    insta::assert_snapshot!(written_by(STATEMENTS, false, events));
}

#[test]
fn on_a_narrow_terminal_every_line_has_room_for_what_calls_are_counted_by() {
    let statement = "SELECT services.id, services.uuid, services.host, services.topic \
                     FROM services WHERE services.deleted = 0 AND services.host = 'one'";
    let mut events = Vec::new();
    for line in 1..6 {
        let ts = 1000 * line;
        let caller = format!("Api.get (/srv/a/long/path/to/the/service/api.py:{line})");
        let fields = [("caller", named(&caller)), ("statement", named(statement))];
        events.push(with(&fields, call(ts, "query")));
        let rows = [("rows", FieldValue::Integer(3))];
        events.push(with(&rows, returned(ts + 500, "query")));
    }
    let text = written_for(Some(|| Some(80)), STATEMENTS, false, events.clone());
    let wide = written_for(Some(|| Some(200)), STATEMENTS, false, events.clone());
    let nowhere = written_by(STATEMENTS, false, events);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    // Elsewhere nothing is left out.
    assert!(
        nowhere.contains("CALLS/s") && wide.contains("CALLS/s"),
        "{wide}"
    );
    assert!(
        nowhere.lines().any(|line| line.chars().count() > 200),
        "{nowhere}"
    );
    assert!(
        wide.lines().all(|line| line.chars().count() <= 200),
        "{wide}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn calls_are_added_up_by_the_values_of_a_field_and_the_slowest_have_their_request() {
    let handle = |ts, method, id| {
        let fields = [("id", FieldValue::Integer(id)), ("method", named(method))];
        with(&fields, call(ts, "handle"))
    };
    let events = || {
        let raised = returned(400, "handle");
        vec![
            handle(100, "get", 1),
            returned(110, "handle"),
            handle(200, "put", 2),
            returned(250, "handle"),
            handle(300, "get", 3),
            told("handle", 3, Manner::Exception, raised),
        ]
    };
    let json = of(events());
    assert_eq!(groups(&json), [("get", 2, 1, 110), ("put", 1, 0, 50)]);
    let slowest = json["slowest"].as_array().expect("calls").iter();
    let slowest: Vec<_> = slowest
        .map(|it| (it["request"].as_str(), it["duration_ns"].as_u64()))
        .collect();
    assert_eq!(slowest, [(Some("3"), Some(100)), (Some("2"), Some(50))]);
    let text = written(false, events());
    assert!(
        text.contains("ERRORS") && text.contains("  METHOD\n"),
        "{text}"
    );
    assert!(text.contains("1970-01-01T00:00:00.000Z"), "{text}");
}

#[test]
fn of_calls_within_calls_the_outermost_is_counted_and_has_what_is_told_in_its_course() {
    let method = [("method", named("get"))];
    let status = |code| [("status", FieldValue::Integer(code))];
    let json = of(vec![
        with(&method, call(100, "handle")),
        with(&method, call(110, "job")),
        with(&status(200), call(111, "answer")),
        returned(112, "answer"),
        with(&status(503), call(113, "answer")),
        returned(114, "answer"),
        returned(120, "job"),
        returned(130, "handle"),
        // Outside of a call it tells nothing.
        with(&status(500), call(140, "answer")),
        returned(141, "answer"),
    ]);
    assert_eq!(groups(&json), [("get", 1, 1, 30)]);
    assert_eq!(json["groups"][0]["statuses"], serde_json::json!({"503": 1}));
}

#[test]
fn coroutines_of_many_tasks_are_counted_once_each_with_what_is_told_between_their_waits() {
    let method = |name| [("method", named(name))];
    let at = |context, ts, manner, event| in_context(context, ts, told("handle", 3, manner, event));
    let (begins, gives_way) = (Manner::Plain, Manner::Suspension);
    let json = of(vec![
        at(1, 100, begins, with(&method("one"), call(0, "handle"))),
        at(1, 110, gives_way, returned(0, "handle")),
        at(2, 120, begins, with(&method("two"), call(0, "handle"))),
        at(2, 130, gives_way, returned(0, "handle")),
        at(1, 200, gives_way, with(&method("one"), call(0, "handle"))),
        in_context(
            1,
            201,
            with(&[("status", named("404 Not Found"))], call(0, "answer")),
        ),
        in_context(1, 202, returned(0, "answer")),
        at(1, 210, gives_way, returned(0, "handle")),
        at(2, 300, gives_way, with(&method("two"), call(0, "handle"))),
        at(2, 310, begins, returned(0, "handle")),
        at(1, 400, gives_way, with(&method("one"), call(0, "handle"))),
        at(1, 410, begins, returned(0, "handle")),
    ]);
    assert_eq!(groups(&json), [("one", 1, 0, 310), ("two", 1, 0, 190)]);
    assert_eq!(json["groups"][0]["statuses"], serde_json::json!({"404": 1}));
}

#[test]
fn a_call_that_ends_while_another_greenlet_waits_in_one_is_counted() {
    let (method, status) = (
        |name| [("method", named(name))],
        |code| [("status", FieldValue::Integer(code))],
    );
    for waiting in [1, 0] {
        let json = of(vec![
            in_context(waiting, 100, with(&method("slow"), call(0, "handle"))),
            in_context(2, 110, with(&method("fast"), call(0, "handle"))),
            in_context(2, 120, returned(0, "handle")),
            // Of a greenlet in which no call is counted: it tells nothing of others.
            in_context(3, 130, with(&status(500), call(0, "answer"))),
            in_context(3, 140, returned(0, "answer")),
            in_context(waiting, 200, returned(0, "handle")),
        ]);
        assert_eq!(groups(&json), [("slow", 1, 0, 100), ("fast", 1, 0, 10)]);
        assert_eq!(json["groups"][0]["statuses"], serde_json::json!({}));
    }
}

#[test]
fn a_call_within_another_is_not_counted_when_an_exception_goes_on_in_it_alone() {
    let fields = [("method", named("get"))];
    let away = |ts, name| told(name, 3, Manner::Suspension, returned(ts, name));
    let json = of(vec![
        with(&fields, call(100, "handle")),
        with(&fields, call(110, "job")),
        away(120, "job"),
        away(130, "handle"),
        told(
            "job",
            3,
            Manner::Suspension,
            with(&fields, call(200, "job")),
        ),
        told("job", 3, Manner::Exception, returned(210, "job")),
        told(
            "handle",
            3,
            Manner::Suspension,
            with(&fields, call(220, "handle")),
        ),
        returned(230, "handle"),
    ]);
    assert_eq!(groups(&json), [("get", 1, 0, 130)]);
}

#[test]
fn what_a_function_without_fields_calls_is_not_counted() {
    let fields = [("method", named("get"))];
    let json = of(vec![
        call(90, "around"),
        with(&fields, call(100, "handle")),
        returned(110, "handle"),
        returned(120, "around"),
        with(&fields, call(200, "handle")),
        returned(203, "handle"),
    ]);
    assert_eq!(groups(&json), [("get", 1, 0, 3)]);
    assert_eq!(json["calls_without_fields"], 0);
}

#[test]
fn calls_without_fields_or_without_the_required_one_are_not_counted_which_is_told() {
    let absent = [("method", FieldValue::Absent("no such key".into()))];
    let json = of(vec![
        call(100, "handle"),
        returned(110, "handle"),
        with(&absent, call(120, "handle")),
        returned(130, "handle"),
    ]);
    assert_eq!(groups(&json), []);
    assert_eq!(
        (&json["calls_without_fields"], &json["calls_passed_over"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn why_calls_are_not_counted_is_said_of_those_of_which_it_is_true() {
    let begun_before = |ts| {
        let runs = told("handle", 3, Manner::Running, call(ts, "handle"));
        vec![runs, returned(ts + 10, "handle")]
    };
    let without_room = |ts| [call(ts, "handle"), returned(ts + 10, "handle")];
    let said = |events| {
        let text = written(false, events);
        let lines = text.lines().filter(|line| line.contains("not counted"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        said(begun_before(100)),
        ["1 call not counted, because it was under way before tracing began"]
    );
    let events = [without_room(100), without_room(200)].concat();
    assert_eq!(
        said(events),
        ["2 calls not counted, because their fields had no room"]
    );
}

#[test]
fn of_a_long_value_both_ends_are_shown_and_all_of_it_is_counted() {
    let statement = format!(
        "SELECT {}FROM instances WHERE id = ?",
        "column, ".repeat(50)
    );
    let events = || {
        let fields = [("method", named(&statement))];
        vec![with(&fields, call(100, "handle")), returned(110, "handle")]
    };
    let text = written(false, events());
    let row = text.lines().nth(1).expect("a row");
    assert!(row.contains("  SELECT column, column,"), "{row}");
    assert!(row.ends_with(" FROM instances WHERE id = ?"), "{row}");
    assert_eq!(groups(&of(events())), [(statement.as_str(), 1, 0, 10)]);
}

#[test]
fn ever_more_values_are_held_within_a_bound() {
    let mut events = Vec::new();
    for number in 0..4_100 {
        let fields = [("method", FieldValue::Integer(number))];
        let ts = 100 * u64::try_from(number).expect("small");
        events.extend([
            with(&fields, call(ts, "handle")),
            returned(ts + 10, "handle"),
        ]);
    }
    let json = of(events);
    let others = groups(&json).into_iter().find(|row| row.0 == "(others)");
    assert_eq!(others, Some(("(others)", 4, 0, 40)));
    assert_eq!(json["calls_without_room"], 4);
}
