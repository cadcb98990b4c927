//! What belongs to a request, and what of it is measured.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::*;
use crate::analysis::pairing::Pairing;
use crate::analysis::testing::{call, in_context, returned, text, told};
use crate::event::{Event, Field, FieldValue, Fields, Session};

fn with_id(id: &str, mut event: Event) -> Event {
    if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
        frame.fields = Some(Arc::new(Fields(vec![Field {
            name: "request".into(),
            value: FieldValue::Text(text(id)),
        }])));
    }
    event
}

/// The request of this id in these recordings.
fn request_in(id: &str, recordings: &[Vec<Event>]) -> Option<Request> {
    let mut calls = RequestCalls::new(RequestId::new(id, &[]));
    for (number, events) in recordings.iter().enumerate() {
        calls.recording(number);
        let mut pairing = Pairing::new();
        for event in events {
            let mut event = event.clone();
            if let Some(step) = pairing.follow(&mut event) {
                calls.take(&step);
            }
        }
        calls.finish();
    }
    calls.into_request()
}

/// Its calls: how deep, name, beginning, duration, time of its own.
fn rows(request: &Request) -> Vec<(usize, &str, u64, u64, u64)> {
    let calls = request.calls.iter();
    calls
        .map(|(depth, call)| {
            let name = call.place.function.text.as_str();
            (*depth, name, call.begin, call.duration_ns(), call.own_ns())
        })
        .collect()
}

#[test]
fn what_is_called_below_belongs_to_it_and_what_comes_before_and_after_does_not() {
    let events = vec![
        call(1, "serve"),
        call(5, "before"),
        returned(6, "before"),
        with_id("a", call(10, "handle")),
        call(20, "query"),
        call(25, "send"),
        returned(30, "send"),
        returned(40, "query"),
        returned(100, "handle"),
        call(110, "after"),
        returned(120, "after"),
        with_id("b", call(130, "handle")),
        returned(140, "handle"),
        returned(200, "serve"),
    ];
    let request = request_in("a", std::slice::from_ref(&events)).expect("calls");
    let expected = [
        (0, "handle", 10, 90, 70),
        (1, "query", 20, 20, 15),
        (2, "send", 25, 5, 5),
    ];
    assert_eq!(rows(&request), expected);
    assert_eq!(request.duration_ns(), 90);
    let slowest = request.slowest();
    let own: Vec<u64> = slowest.iter().map(|part| part.own_ns).collect();
    assert_eq!(own, [70, 15, 5], "together they are the whole");
    assert!(request_in("c", &[events]).is_none());
}

#[test]
fn greenlets_that_take_turns_in_a_thread_are_never_mixed() {
    let mut events = Vec::new();
    let mut ts = 0;
    let mut put = |context: u64, event: Event| {
        ts += 10;
        events.push(in_context(context, ts, event));
    };
    for context in 1..=50 {
        put(context, with_id(&format!("r{context}"), call(0, "handle")));
    }
    for context in 1..=50 {
        put(context, call(0, "query"));
    }
    for context in (1..=50).rev() {
        put(context, returned(0, "query"));
    }
    for context in 1..=50 {
        put(context, returned(0, "handle"));
    }
    for context in 1..=50 {
        let request = request_in(&format!("r{context}"), &[events.clone()]).expect("calls");
        let tracks: Vec<_> = (request.calls.iter())
            .map(|(_, call)| call.track.context.map(NonZeroU64::get))
            .collect();
        assert_eq!(tracks, [Some(context), Some(context)]);
        let query = 10 * (100 + 51 - context) - 10 * (50 + context);
        let whole = 10 * (150 + context) - 10 * context;
        let expected = [
            (0, "handle", 10 * context, whole, whole - query),
            (1, "query", 10 * (50 + context), query, query),
        ];
        assert_eq!(rows(&request), expected);
    }
}

#[test]
fn a_coroutine_that_gives_way_is_one_call_and_waits_only_where_it_awaits_itself() {
    let go = |ts, name: &str, manner| in_context(1, ts, told(name, 3, manner, call(ts, name)));
    let stop =
        |ts, name: &str, manner| in_context(1, ts, told(name, 3, manner, returned(ts, name)));
    let events = vec![
        with_id("a", go(10, "outer", Manner::Plain)),
        go(20, "inner", Manner::Plain),
        stop(30, "inner", Manner::Suspension),
        stop(35, "outer", Manner::Suspension),
        // Another task runs.
        in_context(2, 40, with_id("b", call(40, "outer"))),
        in_context(2, 50, returned(50, "outer")),
        with_id("a", go(100, "outer", Manner::Suspension)),
        go(105, "inner", Manner::Suspension),
        stop(110, "inner", Manner::Exception),
        stop(120, "outer", Manner::Plain),
    ];
    let request = request_in("a", &[events]).expect("calls");
    let expected = [(0, "outer", 10, 110, 30), (1, "inner", 20, 90, 90)];
    assert_eq!(rows(&request), expected);
    let [(_, outer), (_, inner)] = &request.calls[..] else {
        panic!("{request:?}");
    };
    assert_eq!((outer.suspended_ns, inner.suspended_ns), (0, 75));
    assert_eq!((outer.resumptions, inner.resumptions), (1, 1));
    assert_eq!(inner.ending, Ending::Exception);
    assert_eq!(request.services[0].exceptions, 1);
}

#[test]
fn gaps_are_what_no_recording_has_a_call_of() {
    let first = vec![
        with_id("a", call(100, "post")),
        returned(200, "post"),
        with_id("a", call(700, "reply")),
        returned(800, "reply"),
    ];
    let second = vec![
        with_id("a", call(250, "schedule")),
        returned(600, "schedule"),
        // Within the other one.
        with_id("a", call(720, "log")),
        returned(730, "log"),
    ];
    let request = request_in("a", &[second, first]).expect("calls");
    let begins: Vec<u64> = request.calls.iter().map(|(_, call)| call.begin).collect();
    assert_eq!(begins, [100, 250, 700, 720], "in the order of time");
    let gaps: Vec<_> = (request.gaps.iter())
        .map(|gap| (gap.begin, gap.end, gap.after, gap.before))
        .collect();
    assert_eq!(gaps, [(200, 250, 0, 1), (600, 700, 1, 0)]);
    let services: Vec<_> = (request.services.iter())
        .map(|it| (it.recording, it.busy_ns, it.calls))
        .collect();
    assert_eq!(services, [(1, 200, 2), (0, 360, 2)]);
}

#[test]
fn long_calls_alone_are_put_below_what_called_them() {
    let long = |ts, took, name: &str| {
        let mut event = returned(ts, name);
        if let What::Return { duration_ns, .. } = &mut event.what {
            *duration_ns = Some(took);
        }
        event
    };
    let events = vec![
        long(20, 10, "earlier"),
        long(60, 10, "inner"),
        long(80, 35, "middle"),
        with_id("a", long(90, 5, "again")),
        with_id("a", long(100, 70, "handle")),
        long(120, 115, "serve"),
    ];
    let request = request_in("a", &[events]).expect("calls");
    let expected = [
        (0, "handle", 30, 70, 30),
        (1, "middle", 45, 35, 25),
        (2, "inner", 50, 10, 10),
        (1, "again", 85, 5, 5),
    ];
    assert_eq!(rows(&request), expected);
}

#[test]
fn what_has_not_returned_is_said_to_be_open_or_not_to_have_been_seen() {
    let lost = Event {
        what: What::Process {
            change: crate::event::ProcessChange::Exit,
            parent: None,
            command: None,
        },
        ..call(70, "x")
    };
    for (last, expected) in [(call(70, "x"), Ending::Open), (lost, Ending::Unseen)] {
        let events = vec![with_id("a", call(10, "handle")), last];
        let request = request_in("a", &[events]).expect("calls");
        let (_, handle) = &request.calls[0];
        assert_eq!((handle.ending, handle.duration_ns()), (expected, 60));
    }
}

#[test]
fn a_list_has_each_request_once_with_the_processes_that_it_was_seen_in() {
    let mut seen = SeenRequests::new(&[]);
    let session = |path: &str| Session {
        fields: [("request".to_owned(), path.to_owned())].into(),
        ..Session::default()
    };
    for number in 0..2 {
        assert!(seen.recording(number, &session("ctxt.request_id")));
        let mut pairing = Pairing::new();
        let begin = 100 * number as u64;
        for mut event in [
            with_id("a", call(begin + 10, "handle")),
            returned(begin + 30, "handle"),
            with_id("b", call(begin + 40, "handle")),
        ] {
            if let Some(step) = pairing.follow(&mut event) {
                seen.take(&step);
            }
        }
    }
    let requests = seen.requests();
    let told: Vec<_> = (requests.iter())
        .map(|(id, it)| (*id, it.begin, it.end, it.calls, it.processes.len()))
        .collect();
    assert_eq!(told, [("a", 10, 130, 2, 2), ("b", 40, 140, 2, 2)]);
}
