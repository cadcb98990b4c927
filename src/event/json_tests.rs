//! What is written matches the schema, and reads back as what it was.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::{arbitrary, json_schema};

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(json_schema()).expect("the schema is JSON");
    jsonschema::draft202012::new(&schema).expect("the schema is a schema")
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn check(schema: &jsonschema::Validator, line: &str, expected: &Line) {
    let body = line.strip_suffix('\n').expect("a line ends");
    assert!(!body.contains('\n'), "one object a line: {body}");
    let value: Value = serde_json::from_str(body).expect("a line is JSON");
    let wrong: Vec<String> = schema
        .iter_errors(&value)
        .map(|it| it.to_string())
        .collect();
    assert!(wrong.is_empty(), "{body}: {wrong:?}");
    let read = Reader::new().read(line).expect("our own line");
    assert_eq!(&read, expected);
}

#[test]
fn every_event_matches_the_schema_and_reads_back() {
    let schema = schema();
    let cases = ProptestConfig::with_cases(600);
    proptest!(cases, |(event in arbitrary::event())| {
        let mut writer = Writer::new();
        // Twice: the second time the place comes from memory.
        for _ in 0..2 {
            let line = written(|out| writer.event(&event, out));
            check(&schema, &line, &Line::Event(event.clone()));
        }
    });
}

#[test]
fn events_of_several_hosts_have_their_names_and_read_back_as_what_they_were() {
    let schema = schema();
    let host = |name: &str| SessionHost {
        name: name.to_owned(),
        ..SessionHost::default()
    };
    let head = Session {
        hosts: vec![host("web1"), host("web2")],
        ..Session::default()
    };
    let cases = ProptestConfig::with_cases(200);
    proptest!(cases, |(event in arbitrary::event(), place in 0..2_usize)| {
        let mut moved = event;
        for id in [&mut moved.pid, &mut moved.tid] {
            *id = hosts::number(*id);
        }
        if let What::Process { parent: Some(parent), .. } = &mut moved.what {
            *parent = hosts::number(*parent);
        }
        hosts::move_to(place, &mut moved).expect("numbers of Linux");
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        writer.begin(&head);
        reader.read(&written(|out| session(&head, out))).expect("our own line");
        let line = written(|out| writer.event(&moved, out));
        let value: Value = serde_json::from_str(&line).expect("a line is JSON");
        prop_assert!(schema.is_valid(&value), "{}", line);
        prop_assert_eq!(value["host"].as_str(), Some(["web1", "web2"][place]));
        prop_assert_eq!(reader.read(&line).expect("our own line"), Line::Event(moved));
    });
}

#[test]
fn an_event_of_a_host_that_the_session_does_not_name_is_refused() {
    let mut reader = Reader::new();
    let head = Session {
        hosts: vec![SessionHost::default()],
        ..Session::default()
    };
    reader
        .read(&written(|out| session(&head, out)))
        .expect("our own line");
    for line in [
        r#"{"event":"gc_start","ts":1,"host":"other","pid":2,"generation":0}"#,
        r#"{"event":"gc_start","ts":1,"host":"","pid":4194304,"generation":0}"#,
    ] {
        let read = reader.read(line);
        assert!(
            matches!(read, Err(ReadError::UnknownWord { field: "host", .. })),
            "{read:?}"
        );
    }
}

#[test]
fn every_session_and_summary_matches_the_schema_and_reads_back() {
    let schema = schema();
    let cases = ProptestConfig::with_cases(100);
    proptest!(cases, |(head in arbitrary::session(), tail in arbitrary::summary())| {
        check(&schema, &written(|out| session(&head, out)), &Line::Session(head));
        check(&schema, &written(|out| summary(&tail, out)), &Line::Summary(tail));
    });
}

#[test]
fn the_schema_refuses_unknown_kinds_and_unknown_fields() {
    let schema = schema();
    let valid = r#"{"event":"gc_start","ts":1,"pid":2,"tid":3,"generation":0}"#;
    assert!(schema.is_valid(&serde_json::from_str(valid).expect("JSON")));
    for wrong in [
        r#"{"event":"gc_begin","ts":1,"pid":2,"tid":3,"generation":0}"#,
        r#"{"event":"gc_start","ts":1,"pid":2,"tid":3,"generation":0,"line":4}"#,
        r#"{"event":"gc_start","pid":2,"tid":3,"generation":0}"#,
        r#"{"event":"gc_start","ts":1.5,"pid":2,"tid":3,"generation":0}"#,
    ] {
        assert!(
            !schema.is_valid(&serde_json::from_str(wrong).expect("JSON")),
            "{wrong}"
        );
    }
}

/// Every property of every kind, with its name.
fn properties(value: &Value, out: &mut Vec<(String, Value)>) {
    if let Some(own) = value.get("properties").and_then(Value::as_object) {
        for (name, property) in own {
            out.push((name.clone(), property.clone()));
            properties(property, out);
        }
    }
    if let Some(items) = value.get("items") {
        properties(items, out);
    }
}

#[test]
fn every_property_of_the_schema_is_described_and_times_have_a_unit() {
    let schema: Value = serde_json::from_str(json_schema()).expect("the schema is JSON");
    let defs = schema["$defs"].as_object().expect("definitions");
    let mut all = Vec::new();
    for def in defs.values() {
        properties(def, &mut all);
    }
    assert!(all.len() > 70, "{}", all.len());
    for (name, mut property) in all {
        if let Some(reference) = property.get("$ref").and_then(Value::as_str) {
            let target = reference.trim_start_matches("#/$defs/");
            property = defs
                .get(target)
                .expect("a definition for every reference")
                .clone();
        }
        let description = property["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{name}: {description}");
        if name == "ts" || name.ends_with("_ns") {
            assert!(description.to_lowercase().contains("nanoseconds"), "{name}");
        }
    }
}

#[test]
fn every_kind_that_can_be_written_has_its_part_of_the_schema() {
    let schema: Value = serde_json::from_str(json_schema()).expect("the schema is JSON");
    let listed = schema["oneOf"].as_array().expect("kinds").len();
    let kinds = ["session", "summary"].into_iter().chain(Vec::from([
        "call", "return", "line", "gc_start", "gc_done", "context", "process", "wait", "lost",
    ]));
    let mut count = 0;
    let plain = Probe::ALL.into_iter().filter_map(Probe::plain);
    for kind in kinds.chain(plain.map(|plain| plain.name)) {
        let part = &schema["$defs"][format!("kind_{kind}")];
        assert_eq!(part["properties"]["event"]["const"], kind);
        assert_eq!(part["additionalProperties"], false);
        count += 1;
    }
    assert_eq!(count, listed);
}

#[test]
fn the_schema_says_of_plain_events_what_the_table_of_probes_does() {
    let schema: Value = serde_json::from_str(json_schema()).expect("the schema is JSON");
    for probe in Probe::ALL {
        let Some(plain) = probe.plain() else { continue };
        let part = &schema["$defs"][format!("kind_{}", plain.name)];
        let texts: Vec<&str> = probe.texts().map(|it| it.field).collect();
        let number = probe.number_argument();
        let mut fields = vec![
            "event",
            "ts",
            "host",
            "pid",
            "tid",
            "cut",
            "replaced",
            "unreadable",
        ];
        fields.extend(&texts);
        fields.extend(number.map(|it| it.field));
        if let Phase::Done(_) = plain.phase {
            fields.push("duration_ns");
        }
        let mut listed: Vec<&String> = part["properties"]
            .as_object()
            .expect("properties")
            .keys()
            .collect();
        fields.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, fields, "{}", plain.name);
        let needed = probe.texts().chain(number);
        let needed: Vec<&str> = ["event", "ts"]
            .into_iter()
            .chain(needed.map(|it| it.field))
            .collect();
        assert_eq!(
            part["required"],
            serde_json::json!(needed),
            "{}",
            plain.name
        );
        for altered in ["cut", "replaced", "unreadable"] {
            let named = &part["properties"][altered]["items"]["enum"];
            assert_eq!(*named, serde_json::json!(texts), "{}", plain.name);
        }
    }
}

#[test]
fn altered_strings_are_named_and_nothing_is_said_of_sound_ones() {
    let text = |text: &str| Text {
        text: text.to_owned(),
        ..Text::default()
    };
    let mut place = Place {
        file: text("a.py"),
        function: text("f"),
        qualname: None,
        group: None,
    };
    let line = |place: &Place| {
        let place = Arc::new(place.clone());
        let what = What::Call {
            place,
            line: 1,
            frame: Frame::default(),
        };
        let event = Event {
            ts: 5,
            pid: 6,
            tid: 7,
            interpreter: None,
            what,
        };
        written(|out| Writer::new().event(&event, out))
    };
    assert_eq!(
        line(&place),
        "{\"event\":\"call\",\"ts\":5,\"pid\":6,\"tid\":7,\"file\":\"a.py\",\"function\":\"f\",\"line\":1}\n"
    );
    place.file.cut = true;
    place.function.cut = true;
    place.function.replaced = true;
    assert_eq!(
        line(&place),
        "{\"event\":\"call\",\"ts\":5,\"pid\":6,\"tid\":7,\"file\":\"a.py\",\"function\":\"f\",\
         \"cut\":[\"file\",\"function\"],\"replaced\":[\"function\"],\"line\":1}\n"
    );
}

#[test]
fn many_places_that_compete_for_few_slots_are_never_mixed_up() {
    let mut writer = Writer::new();
    let places: Vec<Arc<Place>> = (0..3 * SLOTS)
        .map(|number| {
            let function = Text {
                text: format!("f{number}"),
                ..Text::default()
            };
            Arc::new(Place {
                file: Text::default(),
                function,
                qualname: None,
                group: None,
            })
        })
        .collect();
    let mut out = Vec::new();
    for _ in 0..2 {
        for (number, place) in places.iter().enumerate() {
            out.clear();
            let what = What::Line {
                place: Arc::clone(place),
                line: 1,
            };
            writer.event(
                &Event {
                    ts: 0,
                    pid: 0,
                    tid: 0,
                    interpreter: None,
                    what,
                },
                &mut out,
            );
            let value: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(value["function"], format!("f{number}"));
        }
    }
}

#[test]
fn fields_added_later_do_not_stop_a_reader_but_another_schema_does() {
    let mut reader = Reader::new();
    let newer = r#"{"event":"gc_start","ts":1,"generation":0,"colour":"blue"}"#;
    assert!(reader.read(newer).is_ok());
    let session = written(|out| session(&Session::default(), out));
    let other = session.replace("\"schema\":1", "\"schema\":99");
    assert!(matches!(
        reader.read(&other),
        Err(ReadError::OtherSchema { found: 99 })
    ));
}

#[test]
fn lines_that_are_no_events_are_refused_with_a_reason() {
    let mut reader = Reader::new();
    assert!(matches!(reader.read("hello"), Err(ReadError::Malformed(_))));
    let missing = reader.read(r#"{"event":"call","ts":1,"file":"a","function":"b"}"#);
    assert!(matches!(
        missing,
        Err(ReadError::Missing { field: "line", .. })
    ));
    let kind = reader.read(r#"{"event":"jump","ts":1}"#);
    assert!(matches!(
        kind,
        Err(ReadError::UnknownWord { field: "event", .. })
    ));
    let word = reader.read(r#"{"event":"process","ts":1,"change":"sleep"}"#);
    assert!(matches!(
        word,
        Err(ReadError::UnknownWord {
            field: "change",
            ..
        })
    ));
}

#[test]
fn events_of_one_place_share_it_when_they_are_read() {
    let mut reader = Reader::new();
    let line = r#"{"event":"line","ts":1,"file":"a","function":"b","line":3}"#;
    let mut place = || match reader.read(line) {
        Ok(Line::Event(Event {
            what: What::Line { place, .. },
            ..
        })) => place,
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&place(), &place()));
}

#[test]
fn an_object_that_is_made_has_its_class_and_its_module() {
    let text = |text: &str| {
        Arc::new(Text {
            text: text.to_owned(),
            ..Text::default()
        })
    };
    let mut plain = Plain::new(Probe::InstanceNewDone, text("Server"));
    plain.texts[1] = Some(text("app.servers"));
    plain.duration_ns = Some(9);
    let event = Event {
        ts: 5,
        pid: 6,
        tid: 7,
        interpreter: None,
        what: What::Plain(plain),
    };
    let line = written(|out| Writer::new().event(&event, out));
    assert_eq!(
        line,
        concat!(
            r#"{"event":"instance_new_done","ts":5,"pid":6,"tid":7,"class":"Server","#,
            r#""module":"app.servers","duration_ns":9}"#,
            "\n"
        )
    );
    assert_eq!(
        Reader::new().read(&line).expect("our own"),
        Line::Event(event)
    );
    let missing = line.replace(r#""module":"app.servers","#, "");
    assert!(matches!(
        Reader::new().read(&missing),
        Err(ReadError::Missing {
            field: "module",
            ..
        })
    ));
    let wrong = line.replace(r#""Server""#, "6");
    assert!(matches!(
        Reader::new().read(&wrong),
        Err(ReadError::Malformed(_))
    ));
}

#[test]
fn fields_are_typed_values_and_notes_stand_beside_those_that_need_some() {
    let field = |name: &str, value| Field {
        name: name.into(),
        value,
    };
    let text = |text: &str, cut, replaced| Text {
        text: text.to_owned(),
        cut,
        replaced,
        unreadable: false,
    };
    let fields = Fields(vec![
        field("absent", FieldValue::Absent("a has no key".into())),
        field("body", FieldValue::Bytes(text("\u{fffd}", false, true))),
        field("count", FieldValue::Integer(-7)),
        field("nothing", FieldValue::None),
        field("ratio", FieldValue::Float(Float(0.5))),
        field("sql", FieldValue::Text(text("SELECT \"x\"", true, false))),
        field("thing", FieldValue::Other("Thing".to_owned())),
        field("worst", FieldValue::Float(Float(f64::INFINITY))),
        field("yes", FieldValue::Bool(true)),
    ]);
    let line = |fields: Fields| {
        let what = What::Call {
            place: Arc::new(Place::left_out()),
            line: 1,
            frame: Frame {
                fields: Some(Arc::new(fields)),
                ..Frame::default()
            },
        };
        let event = Event {
            ts: 5,
            pid: 6,
            tid: 7,
            interpreter: None,
            what,
        };
        written(|out| Writer::new().event(&event, out))
    };
    let line = line(fields);
    let parsed: Value = serde_json::from_str(&line).expect("JSON");
    let expected = serde_json::json!({
        "body": "\u{fffd}", "count": -7, "nothing": null, "ratio": 0.5, "sql": "SELECT \"x\"", "thing": null,
        "worst": "inf", "yes": true,
    });
    assert_eq!(parsed["fields"], expected);
    let expected = serde_json::json!({
        "body": ["bytes", "replaced"], "sql": ["cut"], "thing": ["not a plain value: Thing"], "worst": ["not finite"],
    });
    assert_eq!(parsed["field_notes"], expected);
}

#[test]
fn where_no_field_was_found_there_is_no_object_for_them() {
    let fields = Fields(vec![Field {
        name: "absent".into(),
        value: FieldValue::Absent("a has no key".into()),
    }]);
    let mut out = Vec::new();
    fields_json(&fields, &mut out);
    assert_eq!(out, b"");
}
