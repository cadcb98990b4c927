//! One request through recordings of several services, from files as traces are written.

use std::path::{Path, PathBuf};

use pystap::analysis::pairing::{Pairing, PairingRules};
use pystap::event::{Session, Summary};
use pystap::export::{End, Sink};
use pystap::recording::Writer;
use serde_json::{Value, json};

use crate::command::{Ended, command, run};

/// A trace of one process: calls as (function, begin, end, request), outer ones first.
fn trace(
    directory: &Path,
    name: &str,
    pid: u32,
    fields: Option<Value>,
    calls: &[(&str, u64, u64, Option<&str>)],
) -> PathBuf {
    let mut session = json!({
        "event": "session", "ts": 1, "schema": 1, "pystap": "0.1.0", "engine": "direct", "notes": [], "armed": [],
        "targets": [{"pid": pid, "command": format!("/usr/bin/{name} --all")}], "events": ["call", "return"],
        "host": name, "boot": name,
    });
    if let Some(fields) = fields {
        session["field_paths"] = fields;
    }
    let mut lines: Vec<(u64, Value)> = vec![(0, session)];
    for (function, begin, end, request) in calls {
        let event = |kind: &str, ts: u64| {
            json!({
                "event": kind, "ts": ts, "pid": pid, "tid": pid, "file": "/srv/app.py", "function": function,
                "qualname": function, "line": 3,
            })
        };
        let mut call = event("call", *begin);
        if let Some(request) = request {
            call["fields"] = json!({ "request": request });
        }
        let mut returned = event("return", *end);
        if *function == "fail" {
            returned["how"] = "raised".into();
        }
        lines.extend([(*begin, call), (*end, returned)]);
    }
    lines.sort_by_key(|(ts, _)| *ts);
    let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    let file = directory.join(name);
    std::fs::write(&file, text).expect("written");
    file
}

fn paths() -> Option<Value> {
    Some(json!({"request": "ctxt.request_id"}))
}

const MS: u64 = 1_000_000;

/// An API that hands a request on to a scheduler, and another request.
fn two(directory: &Path) -> [PathBuf; 2] {
    [
        trace(
            directory,
            "api",
            7,
            paths(),
            &[
                ("post", 1_000 * MS, 1_010 * MS, Some("req-alpha-1")),
                ("check", 1_002 * MS, 1_005 * MS, None),
                ("post", 1_020 * MS, 1_021 * MS, Some("req-beta-2")),
                ("reply", 1_100 * MS, 1_104 * MS, Some("req-alpha-1")),
            ],
        ),
        trace(
            directory,
            "scheduler",
            8,
            paths(),
            &[
                ("select", 1_030 * MS, 1_090 * MS, Some("req-alpha-1")),
                ("fail", 1_040 * MS, 1_080 * MS, None),
            ],
        ),
    ]
}

fn request(arguments: &[&str], files: &[PathBuf]) -> Ended {
    run(command([&["request"], arguments].concat()).args(files))
}

fn json_of(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

#[test]
fn a_request_is_shown_through_its_services_with_the_gaps_between_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, scheduler] = two(directory.path());
    let files = [scheduler, api];
    let shown = json_of(&request(&["--json", "req-alpha-1"], &files));
    assert_eq!(shown["duration_ns"], 104 * MS);
    let calls: Vec<_> = shown["calls"]
        .as_array()
        .expect("calls")
        .iter()
        .map(|call| {
            (
                call["function"].as_str().expect("a name"),
                call["depth"].as_u64().expect("a number"),
                call["own_ns"].as_u64().expect("a number") / MS,
                call["ending"].as_str().expect("a word"),
            )
        })
        .collect();
    let expected = [
        ("post", 0, 7, "returned"),
        ("check", 1, 3, "returned"),
        ("select", 0, 20, "returned"),
        ("fail", 1, 40, "exception"),
        ("reply", 0, 4, "returned"),
    ];
    assert_eq!(calls, expected);
    assert_eq!(
        shown["calls"][0]["fields"],
        json!({"request": "req-alpha-1"})
    );
    let gaps: Vec<_> = shown["gaps"]
        .as_array()
        .expect("gaps")
        .iter()
        .map(|gap| gap["duration_ns"].as_u64().expect("a number") / MS)
        .collect();
    assert_eq!(gaps, [20, 10]);
    assert_eq!(shown["slowest"][0]["function"], "fail");
    let text = request(&["req-alpha-1"], &files).stdout;
    for line in [
        "request req-alpha-1: 5 calls in 2 processes, 104ms from 1970-01-01T00:00:01.000000Z; 30.0ms of it in none of them",
        " +2.00ms    3.00ms    check (/srv/app.py:3)",
        " +10.0ms    20.0ms  -- in no recorded call of it",
        " +40.0ms    40.0ms    fail (/srv/app.py:3)  [exception]",
        "note: the clocks of api, scheduler are compared as they are",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("beta"), "{text}");
}

#[test]
fn a_limit_and_a_least_duration_leave_out_the_shorter_calls_and_say_how_many() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = two(directory.path());
    for options in [["--limit", "2"], ["--min-duration", "30ms"]] {
        let arguments = [&options[..], &["req-alpha-1"]].concat();
        let shown = json_of(&request(&[&arguments[..], &["--json"]].concat(), &files));
        let calls = shown["calls"].as_array().expect("calls");
        let names: Vec<_> = calls.iter().map(|call| &call["function"]).collect();
        assert_eq!(names, ["select", "fail"]);
        assert_eq!(shown["calls_not_shown"], 3);
        let text = request(&arguments, &files).stdout;
        assert!(
            text.contains("(3 calls that were shorter left out;"),
            "{text}"
        );
    }
}

#[test]
fn without_an_id_the_requests_are_listed() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = two(directory.path());
    let ids = |arguments: &[&str]| {
        let list = json_of(&request(&[&["--json"], arguments].concat(), &files));
        let rows = list["requests"].as_array().expect("requests");
        let ids: Vec<String> = (rows.iter())
            .map(|row| row["request"].as_str().expect("an id").to_owned())
            .collect();
        (ids, list["not_shown"].clone())
    };
    let (alpha, beta) = ("req-alpha-1".to_owned(), "req-beta-2".to_owned());
    assert_eq!(
        ids(&[]),
        (vec![beta.clone(), alpha.clone()], json!(0)),
        "newest first"
    );
    assert_eq!(ids(&["--slowest"]), (vec![alpha.clone(), beta], json!(0)));
    assert_eq!(ids(&["--slowest", "--limit", "1"]), (vec![alpha], json!(1)));
    let text = request(&["--limit", "1"], &files).stdout;
    assert!(
        text.contains("(1 of 2 requests; --limit shows more)"),
        "{text}"
    );
}

#[test]
fn an_id_that_is_nowhere_is_answered_with_those_that_are_like_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = two(directory.path());
    let ended = request(&["req-alpha-2"], &files);
    assert_eq!(ended.code, 4, "{ended:?}");
    let said = "no call in any of the recordings has the id req-alpha-2; did you mean req-alpha-1";
    assert!(ended.stderr.contains(said), "{ended:?}");
    let ended = request(&["nothing"], &files[..1]);
    let said = "no call in the recording has the id nothing; `pystap request RECORDING` lists";
    assert!(ended.stderr.contains(said), "{ended:?}");
}

#[test]
fn a_request_in_one_service_is_shown_and_said_to_be_in_one_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = two(directory.path());
    let ended = request(&["req-beta-2"], &files);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("post (/srv/app.py:3)"), "{ended:?}");
    let said = "it was seen in one process only, 7 of";
    assert!(ended.stdout.contains(said), "{ended:?}");
}

#[test]
fn recordings_that_name_no_request_are_refused_or_said_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, scheduler] = two(directory.path());
    let calls = [("post", 10, 20, None)];
    let bare = trace(directory.path(), "bare", 9, None, &calls);
    let method = Some(json!({"method": "message['method']"}));
    let other = trace(directory.path(), "other", 10, method, &calls);
    let refused = |arguments: &[&str], files: &[PathBuf], says: &str| {
        let ended = request(arguments, files);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains(says), "{says}: {ended:?}");
    };
    let none = "bare has no fields, because none was asked for when it was recorded, so nothing in it names a request";
    refused(&["req-a"], std::slice::from_ref(&bare), none);
    refused(
        &[],
        std::slice::from_ref(&other),
        "its fields are method; say which it is with --field NAME",
    );
    refused(
        &["--field", "trace", "x"],
        std::slice::from_ref(&api),
        "api has no field trace, its fields are request",
    );
    refused(&["x"], &[api.clone(), api.clone()], "is named twice");
    refused(&["req-a"], &[], "there is no file req-a;");
    let ended = request(&["req-alpha-1"], &[api, scheduler, bare]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains(none), "{ended:?}");
}

#[test]
fn a_recording_that_was_cut_is_shown_up_to_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, scheduler] = two(directory.path());
    let whole = std::fs::read(&api).expect("written");
    let length = whole.len() - 20;
    std::fs::write(&api, &whole[..length]).expect("written");
    let ended = request(&["req-alpha-1"], &[api, scheduler]);
    assert!(ended.stderr.contains("api was cut"), "{ended:?}");
    let said = "reply (/srv/app.py:3)  [had not returned when recording ended]";
    assert!(ended.stdout.contains(said), "{ended:?}");
}

#[test]
fn recordings_of_different_boots_and_without_a_host_are_said_to_be_and_one_boot_needs_no_word() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, scheduler] = two(directory.path());
    let written = |file: &Path, host: Value, boot: Value| {
        let text = std::fs::read_to_string(file).expect("written");
        let (first, rest) = text.split_once('\n').expect("lines");
        let mut session: Value = serde_json::from_str(first).expect("JSON");
        (session["host"], session["boot"]) = (host, boot);
        std::fs::write(file, format!("{session}\n{rest}")).expect("written");
    };
    written(&api, json!("web1"), json!("first"));
    for (host, boot, says) in [
        (json!("web1"), json!("first"), None),
        (
            json!("web1"),
            json!("second"),
            Some("the recordings are of different boots"),
        ),
        (
            json!(null),
            json!(null),
            Some("does not say on which host it was made"),
        ),
        (
            json!("db\u{1b}1"),
            json!("second"),
            Some("the clocks of db\\u{1b}1, web1 are compared"),
        ),
    ] {
        written(&scheduler, host, boot);
        let ended = request(&["req-alpha-1"], &[api.clone(), scheduler.clone()]);
        assert_eq!(ended.code, 0, "{ended:?}");
        match says {
            Some(says) => assert!(ended.stdout.contains(says), "{says}: {ended:?}"),
            None => assert!(!ended.stdout.contains("note:"), "{ended:?}"),
        }
    }
}

#[test]
fn events_that_were_lost_are_said_to_be() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, _] = two(directory.path());
    let lost = json!({
        "event": "lost", "ts": 2_000 * MS, "pid": 7, "tid": 0, "count": 5, "where": "ring", "message": "full",
    });
    let text = std::fs::read_to_string(&api).expect("written");
    std::fs::write(&api, format!("{text}{lost}\n")).expect("written");
    let ended = request(&["req-alpha-1"], &[api]);
    assert!(ended.stdout.contains("5 events were lost in"), "{ended:?}");
}

/// A recording of format 6, from before calls had fields.
fn before_fields(directory: &Path) -> PathBuf {
    let mut bytes = Vec::new();
    let mut writer = Box::new(Writer::new(&mut bytes, PairingRules::default()));
    writer.session(&Session::default()).expect("memory");
    let (summary, pairing) = (Summary::default(), Pairing::new());
    writer
        .finish(&End::new(&summary, &pairing))
        .expect("memory");
    bytes[8..12].copy_from_slice(&6_u32.to_le_bytes());
    let file = directory.join("older.pystap");
    std::fs::write(&file, bytes).expect("written");
    file
}

#[test]
fn a_recording_from_before_there_were_fields_is_said_to_be_and_so_are_fields_that_calls_lack() {
    let directory = tempfile::tempdir().expect("a directory");
    let [api, scheduler] = two(directory.path());
    let older = before_fields(directory.path());
    let bare = trace(directory.path(), "bare", 9, None, &[("post", 10, 20, None)]);
    let ended = request(&["req-a"], std::slice::from_ref(&older));
    assert_eq!(ended.code, 2, "{ended:?}");
    let from_before = "older.pystap is from before recordings kept fields, so nothing in it names a request; record with a field";
    assert!(ended.stderr.contains(from_before), "{ended:?}");
    assert!(ended.stderr.contains(", with this pystap"), "{ended:?}");
    let files = [api, scheduler, older, bare];
    for arguments in [&["--json", "req-alpha-1"][..], &["--json"]] {
        let shown = json_of(&request(arguments, &files));
        let notes = shown["notes"].as_array().expect("notes");
        let said = |words: &str| {
            let notes = notes.iter().filter_map(Value::as_str);
            notes.filter(|note| note.contains(words)).count()
        };
        assert_eq!(said(from_before), 1, "{notes:?}");
        assert_eq!(said("bare has no fields, because none was asked for"), 1);
    }
    let text = request(&["req-alpha-1"], &files).stdout;
    assert_eq!(text.matches(from_before).count(), 1, "{text}");
}

#[test]
fn what_is_missing_of_fields_stands_beside_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let fields =
        Some(json!({"request": "ctxt.request_id", "sql": "statement", "user": "ctxt.user"}));
    let file = trace(
        directory.path(),
        "api",
        7,
        fields,
        &[("post", 10, 20, Some("req-1"))],
    );
    let text = std::fs::read_to_string(&file).expect("written");
    let lines: Vec<String> = (text.lines())
        .map(|line| {
            let mut event: Value = serde_json::from_str(line).expect("JSON");
            if event["event"] == "call" {
                event["fields"]["sql"] = "SELECT".into();
                event["field_notes"] = json!({"sql": ["cut"]});
            }
            format!("{event}\n")
        })
        .collect();
    std::fs::write(&file, lines.concat()).expect("written");
    let shown = json_of(&request(&["--json", "req-1"], std::slice::from_ref(&file)));
    let call = &shown["calls"][0];
    assert_eq!(call["fields"], json!({"request": "req-1", "sql": "SELECT"}));
    assert_eq!(call["field_notes"], json!({"sql": ["cut"]}));
    let said = "api: field user was in no call";
    let notes = shown["notes"].as_array().expect("notes");
    let is_said = |note: &Value| note.as_str().is_some_and(|note| note.contains(said));
    assert!(notes.iter().any(is_said), "{notes:?}");
}
