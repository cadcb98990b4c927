//! Functions told apart by the values of a field, in every view of a recording; and what is no such field.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{Ended, command, pystap_with, run};

fn pystap_on(arguments: &[&str], file: &Path) -> Ended {
    run(command(arguments).arg(file))
}

/// A trace as JSON: six calls of `handle`, each with one of `query` in it, by three methods.
fn written(directory: &Path, field_paths: Option<Value>) -> PathBuf {
    let mut session = json!({
        "event": "session", "ts": 1, "schema": 1, "pystap": "0.1.0", "engine": "direct", "notes": [], "targets": [], "armed": [],
        "events": ["call", "return"],
    });
    if let Some(paths) = field_paths {
        session["field_paths"] = paths;
    }
    let mut lines = vec![session];
    let mut ts = 1_000;
    for (method, took) in [
        (json!("get"), 10),
        (json!("put"), 20),
        (json!("get"), 30),
        (json!(null), 40),
        (json!("get"), 50),
        (json!("put"), 60),
    ] {
        let mut event = |kind: &str, function: &str, fields: Option<&Value>| {
            ts += took;
            let mut event = json!({
                "event": kind, "ts": ts, "pid": 7, "tid": 7, "file": "/srv/app.py", "function": function,
                "qualname": function, "line": 3,
            });
            if let Some(method) = fields {
                event["fields"] = json!({ "method": method });
            }
            lines.push(event);
        };
        event("call", "handle", Some(&method));
        event("call", "query", None);
        event("return", "query", None);
        event("return", "handle", None);
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = directory.join("trace.json");
    std::fs::write(&file, text).expect("written");
    file
}

fn json_of(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

#[test]
fn a_report_has_a_row_for_each_value_and_one_for_what_has_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = written(
        directory.path(),
        Some(json!({"method": "message['method']"})),
    );
    let report = json_of(&pystap_on(
        &["report", "--json", "--group-by", "method"],
        &file,
    ));
    let mut rows: Vec<(String, Value, u64, u64)> = report["functions"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            (
                row["qualname"].as_str().expect("a name").to_owned(),
                row["group"]["value"].clone(),
                row["calls"].as_u64().expect("a number"),
                row["cumulative_ns"].as_u64().expect("a number"),
            )
        })
        .collect();
    rows.sort_by_key(|(name, value, ..)| (name.clone(), value.to_string()));
    let expected = [
        ("handle", json!("None"), 1, 120),
        ("handle", json!("get"), 3, 270),
        ("handle", json!("put"), 2, 240),
        ("query", json!(null), 6, 210),
    ];
    let expected = expected.map(|(name, value, calls, ns)| (name.to_owned(), value, calls, ns));
    assert_eq!(rows, expected);
    let text = pystap_on(&["report", "--group-by", "method"], &file);
    assert!(
        text.stdout.contains("handle [method=get]  /srv/app.py:3"),
        "{text:?}"
    );
}

#[test]
fn latencies_and_pictures_have_them_as_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = written(
        directory.path(),
        Some(json!({"method": "message['method']"})),
    );
    let name = file.to_str().expect("UTF-8");
    let stats = pystap_with(&[
        "report",
        "--json",
        "--group-by",
        "method",
        name,
        "--stats",
        "handle",
    ]);
    let stats = json_of(&stats);
    let mut counts: Vec<(String, u64)> = stats["functions"]
        .as_array()
        .expect("functions")
        .iter()
        .map(|row| {
            let value = row["group"]["value"].as_str().expect("a value").to_owned();
            (value, row["durations"]["count"].as_u64().expect("a number"))
        })
        .collect();
    counts.sort();
    let expected = [("None", 1), ("get", 3), ("put", 2)];
    assert_eq!(
        counts,
        expected.map(|(value, count)| (value.to_owned(), count))
    );
    for format in ["folded", "flamegraph", "chrome", "speedscope", "pstats"] {
        let exported = directory.path().join(format);
        let output = exported.to_str().expect("UTF-8");
        let options = [
            "export",
            "--format",
            format,
            "--group-by",
            "method",
            "--output",
            output,
        ];
        let ended = pystap_on(&options, &file);
        assert_eq!(ended.code, 0, "{ended:?}");
        let bytes = std::fs::read(&exported).expect("written");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("handle [method=put]"), "{format}: {text}");
    }
    let folded = std::fs::read_to_string(directory.path().join("folded")).expect("written");
    let line = "handle [method=get] (/srv/app.py:3);query (/srv/app.py:3) 90";
    assert!(folded.lines().any(|it| it == line), "{folded}");
}

#[test]
fn what_has_no_such_field_is_refused_with_what_it_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = written(
        directory.path(),
        Some(json!({"method": "message['method']"})),
    );
    for view in ["report", "export"] {
        let options: &[&str] = match view {
            "report" => &["report", "--group-by", "other"],
            _ => &["export", "--format", "folded", "--group-by", "other"],
        };
        let ended = pystap_on(options, &file);
        assert_eq!(ended.code, 2, "{ended:?}");
        let said = "has no field other, so nothing can be grouped by it: its fields are method; record it anew with --field other=PATH";
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
    let file = written(directory.path(), None);
    let ended = pystap_on(&["report", "--group-by", "method"], &file);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("it has no fields; record it anew"),
        "{ended:?}"
    );
    let ended = pystap_on(
        &["export", "--format", "json", "--group-by", "method"],
        &file,
    );
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("each event of json has its fields"),
        "{ended:?}"
    );
}

#[test]
fn a_slip_in_a_path_is_answered_with_its_place_and_a_group_needs_its_field() {
    let refused = |arguments: &[&str], says: &str| {
        let ended = pystap_with(arguments);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains(says), "{ended:?}");
    };
    refused(
        &["trace", "-p", "1", "--field", "m=message[method]"],
        "such as [0] or ['method'], at character 11, before \"method]\"",
    );
    refused(
        &["stats", "f", "-p", "1", "--group-by", "m"],
        "--field <[GLOB:]NAME=PATH>",
    );
    refused(
        &["stats", "f", "-p", "1", "--group-by", "n", "--field", "m=a"],
        "--group-by n names no field that is told",
    );
    refused(
        &["top", "--batch", "-p", "1", "--field", "m=a"],
        "--field is for functions that are named",
    );
}
