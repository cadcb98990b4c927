//! Every format in the hands of a program that reads it, as far as there is one without a network.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::analysis::contexts::Contexts;
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::analysis::testing::{call, event, in_context, in_file, named, returned, text, told};
use crate::event::{
    Event, Field, FieldValue, Fields, Manner, Place, Reason, Session, SessionTarget, Summary, Wait,
    What,
};
use crate::export::{End, Sink};

const PYTHON: &str = "/usr/bin/python3.11";

fn rules(greenlets: bool) -> PairingRules {
    PairingRules {
        call_on_creation: false,
        greenlets,
    }
}

/// main calls f twice, the second one calls itself; one collection; everything in microseconds.
fn program() -> Vec<Event> {
    let mut events = vec![
        call(1_000, "main"),
        call(2_000, "f"),
        returned(5_000, "f"),
        call(6_000, "f"),
        call(7_000, "f"),
        event(7_500, What::GcStart { generation: 2 }),
        event(
            8_500,
            What::GcDone {
                generation: None,
                collected: 3,
                pause_ns: None,
            },
        ),
        returned(9_000, "f"),
        returned(10_000, "f"),
        returned(21_000, "main"),
    ];
    events.push(call(22_000, "open; to the end\n"));
    events.push(event(23_000, What::GcStart { generation: 0 }));
    events
}

fn made(
    sink: impl FnOnce(Shared) -> Box<dyn Sink>,
    greenlets: bool,
    events: Vec<Event>,
) -> Vec<u8> {
    let session = Session {
        targets: vec![SessionTarget {
            pid: 1,
            command: "python3 app.py".to_owned(),
            python: None,
        }],
        ..Session::default()
    };
    made_of(session, sink, greenlets, events)
}

fn made_of(
    session: Session,
    sink: impl FnOnce(Shared) -> Box<dyn Sink>,
    greenlets: bool,
    events: Vec<Event>,
) -> Vec<u8> {
    let mut pairing = Pairing::with_rules(rules(greenlets));
    let output = Shared::default();
    let mut sink = sink(output.clone());
    sink.session(&session).expect("memory");
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            sink.step(&step).expect("memory");
        }
    }
    sink.finish(&End::new(&Summary::default(), &pairing))
        .expect("memory");
    output.0.take()
}

/// Memory that is written to by who has given it away.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn as_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// The folded stacks of a session in which an event costs so much, and this is within a call.
fn folded_without(per_event: u64, within: u64, events: Vec<Event>) -> String {
    let session = Session {
        overhead_ns_per_event: NonZeroU64::new(per_event),
        overhead_ns_within_call: Some(within),
        ..Session::default()
    };
    as_text(made_of(
        session,
        |output| Box::new(Folded::new(output, Selection::default())),
        false,
        events,
    ))
}

#[test]
fn folded_stacks_are_without_what_lies_within_calls_and_in_their_callers_of_the_tracer_s_cost() {
    let events = vec![
        call(1_000, "main"),
        call(2_000, "leaf"),
        returned(2_100, "leaf"),
        call(3_000, "leaf"),
        returned(3_100, "leaf"),
        returned(4_000, "main"),
    ];
    // Of 2,800 ns in main, 160 lie between the calls of leaf, and twice 100 at its own ends.
    assert_eq!(
        folded_without(100, 40, events),
        "main (app.py:1) 2440\nmain (app.py:1);leaf (app.py:1) 120\n"
    );
}

#[test]
fn folded_stacks_keep_a_tenth_of_times_where_events_cost_more_than_was_measured() {
    let events = vec![
        call(1_000, "main"),
        call(2_000, "leaf"),
        returned(2_100, "leaf"),
        returned(4_000, "main"),
    ];
    // Three intervals and 3,000 ns, of which each has 900 taken out.
    assert_eq!(
        folded_without(100_000, 100_000, events),
        "main (app.py:1) 1100\n"
    );
}

#[test]
fn folded_stacks_have_the_own_time_of_every_way_through_the_program() {
    let folded = as_text(made(
        |output| Box::new(Folded::new(output, Selection::default())),
        false,
        program(),
    ));
    let mut lines: Vec<&str> = folded.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "main (app.py:1) 13000",
            "main (app.py:1);f (app.py:1) 5000",
            "main (app.py:1);f (app.py:1);f (app.py:1) 2000",
            "open\\u{3b} to the end\\u{a} (app.py:1) 1000",
        ]
    );
}

#[test]
fn functions_of_one_name_are_told_apart_by_where_they_begin() {
    let value = |line, event| told("Thing.value", line, Manner::Plain, event);
    let events = || {
        vec![
            value(20, call(100, "value")),
            value(10, call(1_100, "value")),
            value(12, returned(1_600, "value")),
            value(22, returned(9_100, "value")),
            value(10, call(9_100, "value")),
            value(12, returned(9_350, "value")),
        ]
    };
    let folded = as_text(made(
        |output| Box::new(Folded::new(output, Selection::default())),
        false,
        events(),
    ));
    let mut lines: Vec<&str> = folded.lines().collect();
    lines.sort_unstable();
    let (getter, setter) = ("Thing.value (app.py:10)", "Thing.value (app.py:20)");
    assert_eq!(
        lines,
        [
            format!("{getter} 250"),
            format!("{setter} 8500"),
            format!("{setter};{getter} 500"),
        ]
    );
    let speedscope: Value = serde_json::from_slice(&made(
        |output| Box::new(Speedscope::new(output)),
        false,
        events(),
    ))
    .expect("JSON");
    let frames = speedscope["shared"]["frames"].as_array().expect("frames");
    let lines: Vec<&Value> = frames.iter().map(|frame| &frame["line"]).collect();
    assert_eq!(lines, [20, 10], "{frames:?}");
}

#[test]
fn two_processes_are_told_apart_in_folded_stacks() {
    let mut events = program();
    for event in events.iter_mut().skip(10) {
        event.pid = 2;
    }
    let folded = as_text(made(
        |output| Box::new(Folded::new(output, Selection::default())),
        false,
        events,
    ));
    assert!(
        folded.contains("process 1: python3 app.py;main (app.py:1) 13000"),
        "{folded}"
    );
    assert!(
        folded.contains("process 2;open\\u{3b} to the end\\u{a} (app.py:1) 1000"),
        "{folded}"
    );
}

#[test]
fn kinds_of_tasks_stand_below_their_stacks_where_that_is_wanted() {
    let events = vec![
        named(0, 1, "reader-1"),
        in_context(1, 1_000, call(1_000, "step")),
        in_context(1, 3_000, returned(3_000, "step")),
        in_context(0, 4_000, call(4_000, "loop")),
        in_context(0, 9_000, returned(9_000, "loop")),
    ];
    let folded = |by_context| {
        as_text(made(
            |output| {
                Box::new(Folded::new(
                    output,
                    Selection {
                        by_context,
                        ..Selection::default()
                    },
                ))
            },
            false,
            events.clone(),
        ))
    };
    assert_eq!(
        folded(true),
        "loop (app.py:1) 5000\nreader;step (app.py:1) 2000\n"
    );
    assert_eq!(
        folded(false),
        "loop (app.py:1) 5000\nstep (app.py:1) 2000\n"
    );
}

#[test]
fn what_a_greenlet_is_stands_below_its_first_calls_where_a_first_reading_has_found_it_out() {
    let main = |event: Event| in_file("/x/eventlet/greenthread.py", in_context(4, event.ts, event));
    let events = vec![
        named(0, 4, "GreenThread-4"),
        main(call(1_000, "main")),
        in_context(4, 2_000, call(2_000, "consume")),
        in_context(4, 5_000, returned(5_000, "consume")),
        main(returned(6_000, "main")),
    ];
    let mut contexts = Contexts::default();
    let mut pairing = Pairing::new();
    for mut event in events.clone() {
        contexts.follow(&pairing.follow(&mut event).expect("an event"));
    }
    let shown = Selection {
        by_context: true,
        ..Selection::default()
    };
    let folded = as_text(made(
        |output| Box::new(Folded::new(output, shown).knowing(contexts.clone())),
        false,
        events,
    ));
    assert_eq!(
        folded,
        "consume;main (/x/eventlet/greenthread.py:1) 2000\n\
         consume;main (/x/eventlet/greenthread.py:1);consume (app.py:1) 3000\n"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_flame_graph_is_an_svg_with_every_function() {
    let svg = as_text(made(
        |output| Box::new(FlameGraph::new(output, 0.01, Selection::default())),
        false,
        program(),
    ));
    assert!(svg.starts_with("<?xml"), "{svg}");
    assert!(svg.contains("f (app.py:1) (7 µs"), "{svg}");
    assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
    // Where no script runs, as in a page that shows it as a picture, the names are there all the same.
    assert!(svg.contains(">main (app.py:1)</text>"), "{svg}");
    // Python's parser is a real one.
    runs(
        "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.stdin.buffer)",
        svg.as_bytes(),
    );
}

#[test]
fn what_takes_less_than_the_least_share_is_not_drawn() {
    let graph = |least| {
        as_text(made(
            |output| Box::new(FlameGraph::new(output, least, Selection::default())),
            false,
            program(),
        ))
    };
    let frames = |svg: String| svg.matches("<title>").count();
    let (all, few) = (frames(graph(0.01)), frames(graph(50.0)));
    assert!(0 < few && few < all, "{few} of {all}");
}

#[test]
fn a_flame_graph_of_nothing_says_what_to_record() {
    let pairing = Pairing::new();
    let error = Box::new(FlameGraph::new(Vec::new(), 0.01, Selection::default()))
        .finish(&End::new(&Summary::default(), &pairing))
        .expect_err("nothing to draw");
    assert!(error.to_string().contains("call,return"), "{error}");
}

#[test]
fn what_is_lost_before_any_process_is_known_is_given_to_none() {
    let session = Session::default();
    assert_eq!(names::process(&session, 7), "process 7");
    assert_eq!(names::process(&session, 0), "no process that is known");
}

/// Trace events by the rules of the format: known phases, begins and ends that nest by thread, times that do not go back.
fn checked_trace(bytes: &[u8]) -> Vec<Value> {
    let trace: Value = serde_json::from_slice(bytes).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list").clone();
    let mut tracks: BTreeMap<(u64, u64), Vec<(i64, i64)>> = BTreeMap::new();
    for event in &events {
        let phase = event["ph"].as_str().expect("a phase");
        let number = |name: &str| event[name].as_u64().expect("a number");
        match phase {
            "M" => {
                let name = event["name"].as_str().expect("a name");
                assert!(["process_name", "thread_name"].contains(&name), "{event}");
                assert!(event["args"]["name"].is_string(), "{event}");
                continue;
            }
            "X" => {
                assert!(event["name"].is_string(), "{event}");
                let (begin, took) = (ns(&event["ts"]), ns(&event["dur"]));
                assert!(took >= 0, "{event}");
                let track = tracks.entry((number("pid"), number("tid")));
                track.or_default().push((begin, begin + took));
            }
            "i" => assert!(event["s"].is_string(), "{event}"),
            other => panic!("{other}"),
        }
    }
    for ((pid, tid), mut slices) in tracks {
        slices.sort_unstable_by_key(|&(begin, end)| (begin, std::cmp::Reverse(end)));
        let mut open: Vec<(i64, i64)> = Vec::new();
        for (begin, end) in slices {
            open.retain(|(_, ends)| *ends > begin);
            let around = open.last().copied().unwrap_or((i64::MIN, i64::MAX));
            assert!(
                end <= around.1,
                "{pid} {tid}: {begin} to {end} crosses {around:?}"
            );
            open.push((begin, end));
        }
    }
    events
}

/// A time of a trace in nanoseconds.
fn ns(microseconds: &Value) -> i64 {
    (microseconds.as_f64().expect("a time") * 1e3).round() as i64
}

/// Name, begin, duration in nanoseconds, and how they ended, of all calls of a trace by their begin.
fn slices(events: &[Value]) -> Vec<(&str, i64, i64, Option<&str>)> {
    let calls = events
        .iter()
        .filter(|it| it["ph"] == "X" && it["cat"] != "gc_done");
    let mut slices: Vec<_> = calls
        .map(|it| {
            let name = it["name"].as_str().expect("a name");
            (
                name,
                ns(&it["ts"]),
                ns(&it["dur"]),
                it["args"]["ends"].as_str(),
            )
        })
        .collect();
    slices.sort_by_key(|&(_, begin, took, _)| (begin, -took));
    slices
}

fn chrome(greenlets: bool, events: Vec<Event>) -> Vec<Value> {
    checked_trace(&made(
        |output| Box::new(Chrome::new(output)),
        greenlets,
        events,
    ))
}

#[test]
fn chrome_traces_have_each_call_with_its_name_and_duration_and_keep_collections() {
    let events = chrome(false, program());
    assert_eq!(
        slices(&events),
        [
            ("main", 0, 20_000, None),
            ("f", 1_000, 3_000, None),
            ("f", 5_000, 4_000, None),
            ("f", 6_000, 2_000, None),
            (
                "open; to the end\\u{a}",
                21_000,
                1_000,
                Some("not returned")
            ),
        ]
    );
    let pause = events
        .iter()
        .find(|it| it["cat"] == "gc_done")
        .expect("a collection");
    assert_eq!((&pause["ts"], &pause["dur"]), (&6.5.into(), &1.0.into()));
    assert_eq!(pause["args"]["collected"], 3);
}

#[test]
fn calls_below_any_depth_end_when_they_returned() {
    let mut events = Vec::new();
    let deep = 3_000;
    events.extend((0..deep).map(|at| call(1_000 + at, "f")));
    events.extend((0..deep).map(|at| returned(511_000_000 - (deep - at) * 10, "f")));
    events.extend([call(512_000_000, "g"), returned(512_000_100, "g")]);
    let events = chrome(false, events);
    let found = slices(&events);
    assert_eq!(found.len() as u64, deep + 1);
    for (at, slice) in found.iter().take(deep as usize).enumerate() {
        // The innermost returned first.
        let at = at as i64;
        let took = 511_000_000 - 10 * (at + 1) - (1_000 + at);
        assert_eq!(*slice, ("f", at, took, None));
    }
}

#[test]
fn greenlets_and_tasks_have_tracks_of_their_own_on_which_calls_last_while_others_run() {
    let events = chrome(
        false,
        vec![
            named(0, 1, "green-1"),
            named(0, 2, "green-2"),
            in_context(0, 500, call(500, "hub")),
            in_context(1, 1_000, call(1_000, "job")),
            in_context(1, 1_500, call(1_500, "sleep")),
            in_context(2, 2_000, call(2_000, "job")),
            in_context(2, 2_500, call(2_500, "sleep")),
            in_context(1, 5_000, returned(5_000, "sleep")),
            in_context(1, 6_000, returned(6_000, "job")),
            in_context(2, 7_000, returned(7_000, "sleep")),
            in_context(0, 9_000, returned(9_000, "hub")),
        ],
    );
    assert_eq!(
        slices(&events),
        [
            ("hub", 500, 8_500, None),
            ("job", 1_000, 5_000, None),
            ("sleep", 1_500, 3_500, None),
            ("job", 2_000, 7_000, Some("not returned")),
            ("sleep", 2_500, 4_500, None),
        ]
    );
    let names: Vec<&str> = events
        .iter()
        .filter(|it| it["name"] == "thread_name")
        .filter_map(|it| it["args"]["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "hub, main thread 1",
            "job, green-1 of thread 1",
            "job, green-2 of thread 1"
        ]
    );
}

#[test]
fn threads_have_tracks_that_are_called_by_what_they_run() {
    let by = |pid, tid, file: &str, event| Event {
        pid,
        tid,
        ..in_file(file, event)
    };
    let lib = |tid, event| by(1, tid, "/usr/lib/python3.11/threading.py", event);
    let app = |tid, event| by(1, tid, "/srv/app.py", event);
    let pool = |tid, event| by(1, tid, "/x/concurrent/futures/thread.py", event);
    let events = chrome(
        false,
        vec![
            app(1, call(1_000, "serve")),
            lib(7, call(1_000, "_bootstrap")),
            app(7, call(2_000, "consume")),
            lib(8, call(3_000, "_bootstrap")),
            pool(8, call(4_000, "_worker")),
            // A thread of another process has its number.
            by(2, 7, "/srv/app.py", call(5_000, "produce")),
            app(7, returned(6_000, "consume")),
            lib(7, returned(7_000, "_bootstrap")),
        ],
    );
    let mut names: Vec<(u64, u64, &str)> = events
        .iter()
        .filter(|it| it["name"] == "thread_name")
        .filter_map(|it| {
            let number = |name: &str| it[name].as_u64();
            Some((number("pid")?, number("tid")?, it["args"]["name"].as_str()?))
        })
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            (1, 1, "serve, main thread 1"),
            (1, 7, "consume, thread 7"),
            (1, 8, "pool worker, thread 8"),
            (2, 7, "produce, thread 7"),
        ]
    );
}

#[test]
fn calls_of_greenlets_that_the_kernel_measured_overlap_on_no_track_and_none_is_missing() {
    let mut events = Vec::new();
    for at in 0..200 {
        let mut event = returned(300_000 + at * 1_000, "handle");
        if let What::Return { duration_ns, .. } = &mut event.what {
            *duration_ns = Some(50_000 + at * 7_919 % 180_000);
        }
        events.push(event);
    }
    let found = chrome(true, events.clone());
    let mut took: Vec<i64> = slices(&found).iter().map(|it| it.2).collect();
    let mut truth: Vec<i64> = (0..200).map(|at| 50_000 + at * 7_919 % 180_000).collect();
    took.sort_unstable();
    truth.sort_unstable();
    assert_eq!(took, truth);
}

#[test]
fn chrome_traces_have_the_fields_of_calls_with_their_types() {
    let fields = |values: &[(&str, FieldValue)]| {
        let field = |(name, value): &(&str, FieldValue)| Field {
            name: (*name).into(),
            value: value.clone(),
        };
        Some(Arc::new(Fields(values.iter().map(field).collect())))
    };
    let mut named = call(1_000, "handle");
    if let What::Call { frame, .. } = &mut named.what {
        frame.fields = fields(&[
            ("rows", FieldValue::Integer(3)),
            ("sql", FieldValue::Text(text("SELECT"))),
            ("user", FieldValue::Absent("no user".into())),
        ]);
    }
    // What is read when it returns is there as well.
    let mut back = returned(2_000, "handle");
    if let What::Return { frame, .. } = &mut back.what {
        frame.fields = fields(&[("status", FieldValue::Integer(200))]);
    }
    let mut lost = call(1_300, "lost");
    if let What::Call { frame, .. } = &mut lost.what {
        frame.fields = fields(&[("user", FieldValue::Absent("no user".into()))]);
    }
    let events = vec![named, lost, returned(1_400, "lost"), back];
    let slices = chrome(false, events);
    let args = |name: &str| {
        let mut slices = slices.iter();
        &slices.find(|slice| slice["name"] == name).expect("a slice")["args"]
    };
    assert_eq!(
        args("handle")["fields"],
        json!({"rows": 3, "sql": "SELECT", "status": 200})
    );
    assert!(args("lost").get("fields").is_none());
}

#[test]
fn an_empty_chrome_trace_is_one_still() {
    assert!(
        checked_trace(&made(
            |output| Box::new(Chrome::new(output)),
            false,
            Vec::new()
        ))
        .is_empty()
    );
}

/// Two greenlets that take turns.
fn turns() -> Vec<Event> {
    vec![
        call(1_000, "hub"),
        call(2_000, "a"),
        call(3_000, "wait_a"),
        call(4_000, "b"),
        call(5_000, "wait_b"),
        returned(6_000, "wait_a"),
        call(7_000, "work"),
        returned(8_000, "work"),
        returned(9_000, "a"),
        returned(10_000, "wait_b"),
        returned(11_000, "b"),
        returned(12_000, "hub"),
    ]
}

#[test]
fn greenlets_become_stacks_that_close_and_open_again() {
    let events = checked_trace(&made(|output| Box::new(Chrome::new(output)), true, turns()));
    assert!(events.iter().filter(|it| it["name"] == "hub").count() >= 1);
    let speedscope = made(|output| Box::new(Speedscope::new(output)), true, turns());
    checked_speedscope(&speedscope);
}

/// A file by the rules that speedscope publishes for its format.
fn checked_speedscope(bytes: &[u8]) -> Value {
    let file: Value = serde_json::from_slice(bytes).expect("JSON");
    let schema: Value =
        serde_json::from_str(include_str!("../../../tests/data/speedscope.schema.json"))
            .expect("a schema");
    let errors: Vec<String> = jsonschema::validator_for(&schema)
        .expect("a schema")
        .iter_errors(&file)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let frames = file["shared"]["frames"].as_array().expect("frames").len() as u64;
    for profile in file["profiles"].as_array().expect("profiles") {
        let mut open = Vec::new();
        let mut last = profile["startValue"].as_u64().expect("a time");
        for event in profile["events"].as_array().expect("events") {
            let at = event["at"].as_u64().expect("a time");
            assert!(at >= last, "{event}");
            last = at;
            let frame = event["frame"].as_u64().expect("a frame");
            assert!(frame < frames);
            match event["type"].as_str() {
                Some("O") => open.push(frame),
                _ => assert_eq!(
                    open.pop(),
                    Some(frame),
                    "closed in the order in which they opened"
                ),
            }
        }
        assert!(open.is_empty());
        assert!(last <= profile["endValue"].as_u64().expect("a time"));
    }
    file
}

#[test]
fn speedscope_files_have_a_profile_a_thread() {
    let mut events = program();
    for event in events.iter_mut().skip(10) {
        event.tid = 2;
    }
    let file = checked_speedscope(&made(
        |output| Box::new(Speedscope::new(output)),
        false,
        events,
    ));
    assert_eq!(file["profiles"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        file["profiles"][0]["events"].as_array().map(Vec::len),
        Some(8)
    );
    assert_eq!(file["shared"]["frames"][0]["line"], 1);
    let names = |at: usize| file["profiles"][at]["name"].as_str();
    assert_eq!(names(0), Some("main, thread 1, process 1: python3 app.py"));
    assert!(names(1).is_some_and(|it| it.starts_with("open; to the end")));
}

#[test]
fn calls_that_the_kernel_measured_nest_in_speedscope() {
    let span = |end: u64, took: u64, function| {
        let mut event = returned(end, function);
        if let What::Return { duration_ns, .. } = &mut event.what {
            *duration_ns = Some(took);
        }
        event
    };
    let events = vec![
        span(20, 10, "in"),
        span(40, 5, "in"),
        span(50, 45, "out"),
        span(60, 10, "next"),
    ];
    let file = checked_speedscope(&made(
        |output| Box::new(Speedscope::new(output)),
        false,
        events.clone(),
    ));
    let kinds: Vec<(u64, u64)> = file["profiles"][0]["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|it| {
            (
                it["at"].as_u64().unwrap_or(0),
                it["frame"].as_u64().unwrap_or(9),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (0, 1),
            (5, 0),
            (15, 0),
            (30, 0),
            (35, 0),
            (45, 1),
            (45, 2),
            (55, 2)
        ]
    );
    let folded = as_text(made(
        |output| Box::new(Folded::new(output, Selection::default())),
        false,
        events.clone(),
    ));
    assert_eq!(folded.lines().next(), Some("in (app.py:2) 15"));
    checked_trace(&made(|output| Box::new(Chrome::new(output)), false, events));
}

/// Runs Python with something on its standard input and answers what it prints.
fn runs(script: &str, input: &[u8]) -> String {
    let mut child = Command::new(PYTHON)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input)
        .expect("Python reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    as_text(output.stdout)
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn python_s_own_pstats_loads_the_numbers_and_the_callers() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("profile.pstats");
    let mut events = program();
    // A name that marshal and terminals must survive.
    for event in &mut events {
        if let What::Call { place, .. } = &mut event.what
            && place.function.text.starts_with("open")
        {
            *place = std::sync::Arc::new(crate::event::Place {
                file: text("späte/\u{1f40d}.py"),
                function: text("läuft"),
                qualname: None,
                group: None,
            });
        }
    }
    std::fs::write(
        &path,
        made(|output| Box::new(Pstats::new(output, false)), false, events),
    )
    .expect("written");
    let script = format!(
        "import pstats, io, json
stats = pstats.Stats({path:?}, stream=io.StringIO())
stats.strip_dirs().sort_stats('cumulative').print_stats()
stats.print_callers(); stats.print_callees()
stats = pstats.Stats({path:?}, stream=io.StringIO())
print(json.dumps([[*key, *value[:4], sorted([*caller, *numbers] for caller, numbers in value[4].items())]
    for key, value in sorted(stats.stats.items())]))
print(stats.total_calls, stats.prim_calls)"
    );
    let said = runs(&script, b"");
    let (functions, totals) = said.trim_end().split_once('\n').expect("two lines");
    let functions: Value = serde_json::from_str(functions).expect("JSON");
    let main = serde_json::json!(["app.py", 1, "main"]);
    let near = |value: &Value, right: f64| (value.as_f64().unwrap_or(-1.0) - right).abs() < 1e-12;
    assert_eq!(functions[0][2], "f");
    assert_eq!((&functions[0][3], &functions[0][4]), (&2.into(), &3.into()));
    assert!(
        near(&functions[0][5], 7e-6) && near(&functions[0][6], 7e-6),
        "{functions}"
    );
    let callers = functions[0][7].as_array().expect("callers");
    assert_eq!(callers.len(), 2, "{functions}");
    assert_eq!(
        &callers[1].as_array().expect("one")[..3],
        main.as_array().expect("a key")
    );
    assert_eq!((&callers[1][3], &callers[1][4]), (&2.into(), &2.into()));
    assert!(
        near(&functions[1][6], 20e-6) && near(&functions[1][5], 13e-6),
        "{functions}"
    );
    assert_eq!(functions[2][2], "läuft");
    assert_eq!(totals, "5 4");
}

fn waited(
    ts: u64,
    reason: Option<Reason>,
    call: Option<&str>,
    blocked_ns: u64,
    queued: Option<u64>,
) -> Event {
    let wait = Wait {
        reason,
        syscall: call.map(|call| Arc::new(text(call))),
        on: None,
        blocked_ns,
        runqueue_ns: queued,
        waker: None,
    };
    event(ts, What::Wait(Box::new(wait)))
}

#[test]
fn waits_are_taken_from_the_own_time_of_the_function_that_waits_and_stand_above_it() {
    let events = || {
        vec![
            // Nobody knows where: no call was seen.
            waited(500, Some(Reason::Sleep), None, 400, None),
            call(1_000, "main"),
            waited(1_300, None, None, 0, Some(200)),
            call(2_000, "read"),
            waited(
                6_000,
                Some(Reason::Network),
                Some("recvfrom"),
                3_000,
                Some(500),
            ),
            // It began before the function did, as far as two clocks can tell.
            call(7_000, "inner"),
            waited(7_100, Some(Reason::Gil), Some("futex"), 90, Some(20)),
            returned(8_000, "inner"),
            returned(9_000, "read"),
            // Longer than the function has run since.
            waited(9_050, Some(Reason::Disk), None, 60, None),
            returned(10_000, "main"),
        ]
    };
    let folded = |time| {
        let bytes = made(
            |output| {
                Box::new(Folded::new(
                    output,
                    Selection {
                        time,
                        ..Selection::default()
                    },
                ))
            },
            false,
            events(),
        );
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let own = |lines: &[String]| -> Vec<(String, u64)> {
        let parsed = lines.iter().map(|line| {
            let (path, time) = line.rsplit_once(' ').expect("a time");
            let names = path
                .split(';')
                .map(|frame| frame.split(" (").next().unwrap_or(""));
            (
                names.collect::<Vec<&str>>().join(";"),
                time.parse().expect("a number"),
            )
        });
        let mut parsed: Vec<(String, u64)> = parsed.collect();
        parsed.sort();
        parsed
    };
    let expect = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
        pairs
            .iter()
            .map(|(path, time)| ((*path).to_owned(), *time))
            .collect()
    };
    assert_eq!(
        own(&folded(Time::Own)),
        expect(&[
            ("main", 2_000),
            ("main;read", 6_000),
            ("main;read;inner", 1_000)
        ]),
        "as without waits"
    );
    assert_eq!(
        own(&folded(Time::Cpu)),
        expect(&[
            ("main", 1_750),
            ("main;read", 2_500),
            ("main;read;inner", 900)
        ])
    );
    let off = [
        ("main;[disk]", 50),
        ("main;[run-queue]", 200),
        ("main;read;[network: recvfrom]", 3_000),
        ("main;read;[run-queue]", 500),
        ("main;read;inner;[gil: futex]", 80),
        ("main;read;inner;[run-queue]", 20),
    ];
    assert_eq!(own(&folded(Time::Off)), expect(&off));
    let mut both = own(&folded(Time::Cpu));
    both.extend(expect(&off));
    both.sort();
    assert_eq!(
        own(&folded(Time::Wall)),
        both,
        "nothing twice, nothing missing"
    );
    let sum = |lines: &[(String, u64)]| lines.iter().map(|(_, time)| time).sum::<u64>();
    assert_eq!(sum(&both), sum(&own(&folded(Time::Own))));
}

#[test]
fn idleness_is_left_out_unless_it_is_wanted_and_folded_and_shown_time_are_the_whole() {
    let in_file = |mut event: Event, file: &str| {
        if let What::Call { place, .. } | What::Return { place, .. } = &mut event.what {
            Arc::make_mut(place).file = text(file);
        }
        event
    };
    let hub = "/usr/lib/python3/dist-packages/eventlet/hubs/epolls.py";
    let events = |with_wait: bool| {
        let mut events = vec![
            call(1_000, "run"),
            in_file(call(2_000, "Hub.do_poll"), hub),
            in_file(returned(9_000, "Hub.do_poll"), hub),
            returned(10_000, "run"),
        ];
        if with_wait {
            let wait = waited(8_500, Some(Reason::Poll), Some("epoll_wait"), 5_000, None);
            events.insert(2, wait);
        }
        events
    };
    let folded = |time, idle, waits: bool| -> Vec<String> {
        let session = Session {
            events: waits.then(|| Wait::KIND.to_owned()).into_iter().collect(),
            ..Session::default()
        };
        let selection = Selection {
            time,
            idle,
            ..Selection::default()
        };
        let begins = |output| Box::new(Folded::new(output, selection)) as Box<dyn Sink>;
        let made = made_of(session, begins, false, events(waits));
        as_text(made).lines().map(str::to_owned).collect()
    };
    let run = "run (app.py:1) 2000".to_owned();
    let poll = |rest: &str| format!("run (app.py:1);Hub.do_poll ({hub}:1){rest}");
    assert_eq!(folded(Time::Own, false, false), std::slice::from_ref(&run));
    assert_eq!(folded(Time::Own, true, false), [run.clone(), poll(" 7000")]);
    // Where waits are told, what the hub does beside is work.
    assert_eq!(folded(Time::Own, false, true), [run.clone(), poll(" 2000")]);
    assert_eq!(folded(Time::Own, true, true), [run.clone(), poll(" 7000")]);
    assert_eq!(folded(Time::Off, false, true), Vec::<String>::new());
    assert_eq!(
        folded(Time::Off, true, true),
        [poll(";[poll: epoll_wait] 5000")]
    );
    assert_eq!(folded(Time::Wall, false, true), [run, poll(" 2000")]);
}

#[test]
fn what_was_idle_is_said() {
    let mut folded = Box::new(Folded::new(Vec::new(), Selection::default()));
    let mut pairing = Pairing::with_rules(rules(false));
    let place = Arc::new(Place {
        file: text("/usr/lib/python3.12/concurrent/futures/thread.py"),
        function: text("_worker"),
        qualname: None,
        group: None,
    });
    let mut events = [call(1_000, "_worker"), returned(2_501_000, "_worker")];
    for event in &mut events {
        if let What::Call { place: it, .. } | What::Return { place: it, .. } = &mut event.what {
            *it = Arc::clone(&place);
        }
        let step = pairing.follow(event).expect("in order");
        folded.step(&step).expect("memory");
    }
    let said = folded.finish(&End::new(&Summary::default(), &pairing));
    assert_eq!(
        said.expect("memory").as_deref(),
        Some(
            "2.50ms in which threads waited for work (hubs of event loops, workers of pools) are left out; --idle shows them"
        )
    );
}
