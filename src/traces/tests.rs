//! Streams by hand, and the spans that come of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::choice::Choice;
use super::ids::Link;
use super::outlet::{InFile, Outlet};
use super::spans::Spans;
use crate::analysis::pairing::Pairing;
use crate::analysis::testing::{call, event, in_context, named, returned, text, told};
use crate::event::{
    Event, Field, FieldValue, Fields, Manner, ProcessChange, Session, SessionTarget, Summary, What,
};
use crate::export::{End, Sink};
use crate::otlp::Resource;
use crate::script::Filters;
use crate::script::filter::Glob;

/// A message as it is read: its fields with their numbers, of varints and fixed numbers the number, else the bytes.
#[derive(Debug, Clone, PartialEq)]
enum Read {
    Number(u64),
    Bytes(Vec<u8>),
}

fn read(mut bytes: &[u8]) -> Vec<(u64, Read)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let size = match tag & 7 {
            0 => {
                fields.push((tag >> 3, Read::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            other => panic!("kind {other}"),
        };
        let (value, rest) = bytes.split_at(size);
        bytes = rest;
        let value = match tag & 7 {
            1 => Read::Number(u64::from_le_bytes(value.try_into().expect("eight"))),
            _ => Read::Bytes(value.to_vec()),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn within(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    let fields = read(message).into_iter();
    let of = fields.filter(|(number, _)| *number == field);
    of.map(|(_, value)| match value {
        Read::Bytes(bytes) => bytes,
        Read::Number(number) => panic!("{number} is no message"),
    })
    .collect()
}

fn string(message: &[u8], field: u64) -> String {
    let first = within(message, field).into_iter().next();
    String::from_utf8(first.unwrap_or_default()).expect("text")
}

fn number(message: &[u8], field: u64) -> u64 {
    let mut fields = read(message).into_iter();
    let value = fields.find(|(number, _)| *number == field);
    match value {
        Some((_, Read::Number(number))) => number,
        _ => 0,
    }
}

fn attributes(message: &[u8], field: u64) -> BTreeMap<String, Read> {
    let pairs = within(message, field).into_iter();
    pairs
        .map(|pair| {
            let value = within(&pair, 2).remove(0);
            (string(&pair, 1), read(&value).remove(0).1)
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Seen {
    trace: u128,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    between: (u64, u64),
    attributes: BTreeMap<String, Read>,
    status: u64,
    links: Vec<Vec<u8>>,
}

fn seen(span: &[u8]) -> Seen {
    let trace: [u8; 16] = within(span, 1).remove(0).try_into().expect("16 bytes");
    let status = within(span, 15).into_iter().next().unwrap_or_default();
    Seen {
        trace: u128::from_be_bytes(trace),
        id: within(span, 2).remove(0),
        parent: within(span, 4).into_iter().next().unwrap_or_default(),
        name: string(span, 5),
        between: (number(span, 7), number(span, 8)),
        attributes: attributes(span, 9),
        status: number(&status, 3),
        links: within(span, 13),
    }
}

/// Keeps what it is given.
#[derive(Debug, Default, Clone)]
struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

impl Outlet for Kept {
    fn put(&mut self, _resource: Arc<Resource>, bytes: Vec<u8>) -> io::Result<()> {
        self.0.lock().expect("kept").push(bytes);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Feeds a stream, and answers its spans in the order in which they were finished, and what was said.
fn spans(choice: Choice, events: Vec<Event>) -> (Vec<Seen>, Option<String>) {
    let kept = Kept::default();
    let said = feed(Spans::new(choice, None, kept.clone()), events);
    let kept = kept.0.lock().expect("kept");
    let all = kept.iter().map(|it| seen(&within(it, 2)[0]));
    (all.collect(), said)
}

fn feed<O: Outlet>(spans: Spans<O>, events: Vec<Event>) -> Option<String> {
    let mut spans = Box::new(spans);
    let session = Session {
        targets: vec![SessionTarget {
            pid: 1,
            command: "/usr/bin/python3 /usr/bin/nova-compute --config x".to_owned(),
            python: Some("3.11.2".to_owned()),
        }],
        host: Some("web1".to_owned()),
        ..Session::default()
    };
    spans.session(&session).expect("written");
    let mut pairing = Pairing::new();
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            spans.step(&step).expect("written");
        }
    }
    let summary = Summary::default();
    spans.finish(&End::new(&summary, &pairing)).expect("ended")
}

/// Below whom a span is, by name; empty of one that is below none.
fn parents(spans: &[Seen]) -> BTreeMap<&str, &str> {
    let name = |id: &[u8]| {
        let of = spans.iter().find(|it| it.id == id);
        of.map_or("", |it| it.name.as_str())
    };
    let pairs = spans.iter().map(|it| (it.name.as_str(), name(&it.parent)));
    pairs.collect()
}

fn one<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let mut of = spans.iter().filter(|it| it.name == name);
    let found = of.next().unwrap_or_else(|| panic!("no span {name}"));
    assert!(of.next().is_none(), "{name} twice");
    found
}

fn functions(names: &[&str]) -> Filters {
    let glob = |name: &&str| Glob::new(name).expect("a glob");
    Filters {
        functions: names.iter().map(glob).collect(),
        ..Filters::default()
    }
}

fn linked(link: Link) -> Choice {
    Choice {
        link: Some(link),
        ..Choice::default()
    }
}

/// A call or return with a field.
fn with(name: &str, value: &str, mut event: Event) -> Event {
    if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
        let field = Field {
            name: name.into(),
            value: FieldValue::Text(text(value)),
        };
        frame.fields = Some(Arc::new(Fields(vec![field])));
    }
    event
}

fn raised(ts: u64, function: &str) -> Event {
    told(function, 1, Manner::Exception, returned(ts, function))
}

fn of_process(pid: u32, mut event: Event) -> Event {
    (event.pid, event.tid) = (pid, pid);
    event
}

fn of_thread(tid: u32, mut event: Event) -> Event {
    event.tid = tid;
    event
}

const REQUEST: &str = "req-7d2a5f1e-0b1c-4a3d-9e8f-001122334455";
const TRACE: u128 = 0x7d2a5f1e_0b1c_4a3d_9e8f_001122334455;

#[test]
fn spans_have_the_fields_that_are_read_when_their_calls_return() {
    let (spans, _) = spans(
        Choice::default(),
        vec![
            with("method", "get", call(100, "a")),
            with("status", "found", returned(200, "a")),
        ],
    );
    let a = one(&spans, "a");
    let values = ["method", "status"].map(|name| a.attributes.get(name).cloned());
    let text = |text: &str| Some(Read::Bytes(text.into()));
    assert_eq!(values, [text("get"), text("found")], "{:?}", a.attributes);
}

#[test]
fn calls_are_spans_below_their_callers_and_each_outermost_call_is_a_trace() {
    let (spans, said) = spans(
        Choice::default(),
        vec![
            call(100, "a"),
            call(110, "b"),
            returned(120, "b"),
            call(130, "c"),
            raised(140, "c"),
            returned(200, "a"),
            call(300, "other"),
            returned(310, "other"),
        ],
    );
    assert_eq!(said, None);
    let expected = BTreeMap::from([("a", ""), ("b", "a"), ("c", "a"), ("other", "")]);
    assert_eq!(parents(&spans), expected);
    let [a, b, c, other] = ["a", "b", "c", "other"].map(|name| one(&spans, name));
    assert_eq!((a.between, b.between), ((100, 200), (110, 120)));
    assert_eq!((a.trace, a.trace), (b.trace, c.trace));
    assert_ne!(a.trace, other.trace);
    assert_eq!((a.status, c.status), (0, 2));
    let text = |text: &str| Some(Read::Bytes(text.into()));
    let of_b = |name: &str| b.attributes.get(name).cloned();
    assert_eq!(of_b("code.function.name"), text("b"));
    assert_eq!(of_b("code.file.path"), text("app.py"));
    assert_eq!(of_b("code.line.number"), Some(Read::Number(1)));
    assert_eq!(of_b("thread.id"), Some(Read::Number(1)));
}

#[test]
fn of_what_named_functions_call_only_long_calls_are_spans_and_what_is_around_a_span() {
    let choice = Choice {
        filters: functions(&["a", "named"]),
        callees: Some(50),
        link: None,
    };
    let (spans, _) = spans(
        choice,
        vec![
            call(10, "before"),
            call(100, "a"),
            call(110, "short"),
            returned(120, "short"),
            call(130, "long"),
            returned(190, "long"),
            call(200, "between"),
            call(201, "named"),
            returned(202, "named"),
            returned(203, "between"),
            returned(300, "a"),
            returned(400, "before"),
        ],
    );
    let expected = BTreeMap::from([
        ("a", ""),
        ("long", "a"),
        ("between", "a"),
        ("named", "between"),
    ]);
    assert_eq!(parents(&spans), expected);
}

#[test]
fn what_is_between_two_spans_without_being_one_separates_them_not() {
    let choice = Choice {
        filters: functions(&["a", "b"]),
        ..Choice::default()
    };
    let (spans, _) = spans(
        choice,
        vec![
            call(1, "a"),
            call(2, "x"),
            call(3, "b"),
            returned(4, "b"),
            returned(5, "x"),
            returned(6, "a"),
        ],
    );
    assert_eq!(parents(&spans), BTreeMap::from([("a", ""), ("b", "a")]));
}

#[test]
fn a_coroutine_is_one_span_from_its_first_beginning_to_its_end_and_tasks_are_traces_of_their_own() {
    let suspended =
        |function: &str, ts| told(function, 1, Manner::Suspension, returned(ts, function));
    let resumed = |function: &str, ts| told(function, 1, Manner::Suspension, call(ts, function));
    let entered = |function: &str, ts| told(function, 1, Manner::Plain, call(ts, function));
    let left = |function: &str, ts| told(function, 1, Manner::Plain, returned(ts, function));
    let (spans, _) = spans(
        Choice::default(),
        vec![
            entered("loop", 50),
            named(90, 7, "Task-1"),
            in_context(7, 100, entered("handle", 100)),
            in_context(7, 110, entered("query", 110)),
            in_context(7, 120, suspended("query", 120)),
            in_context(7, 121, suspended("handle", 121)),
            in_context(7, 200, resumed("handle", 200)),
            in_context(7, 201, resumed("query", 201)),
            in_context(7, 210, left("query", 210)),
            in_context(7, 220, left("handle", 220)),
            left("loop", 300),
        ],
    );
    let expected = BTreeMap::from([("loop", ""), ("handle", ""), ("query", "handle")]);
    assert_eq!(parents(&spans), expected);
    let (handle, query) = (one(&spans, "handle"), one(&spans, "query"));
    assert_eq!((handle.between, query.between), ((100, 220), (110, 210)));
    let of = |name: &str| handle.attributes.get(name).cloned();
    assert_eq!(
        of("pystap.context.name"),
        Some(Read::Bytes(b"Task-1".to_vec()))
    );
    assert_eq!(of("pystap.resumptions"), Some(Read::Number(1)));
    assert_ne!(handle.trace, one(&spans, "loop").trace);
}

#[test]
fn a_request_found_deep_in_a_call_names_the_trace_of_what_ended_before_and_of_another_process() {
    let (spans, said) = spans(
        linked(Link::Oslo),
        vec![
            call(100, "api"),
            call(110, "parse"),
            returned(120, "parse"),
            with("request_id", REQUEST, call(130, "create")),
            returned(140, "create"),
            returned(200, "api"),
            of_process(2, with("request_id", REQUEST, call(210, "build"))),
            of_process(2, returned(220, "build")),
        ],
    );
    assert_eq!(said, None);
    assert!(spans.iter().all(|it| it.trace == TRACE), "{spans:?}");
    let expected = BTreeMap::from([
        ("api", ""),
        ("parse", "api"),
        ("create", "api"),
        ("build", "api"),
    ]);
    assert_eq!(parents(&spans), expected);
    let create = one(&spans, "create");
    let id = create.attributes.get("openstack.request_id");
    assert_eq!(id, Some(&Read::Bytes(REQUEST.into())));
}

#[test]
fn a_second_request_within_a_call_is_a_trace_of_its_own_that_knows_what_is_around_it() {
    let other = "req-00000000-0000-0000-0000-0000000000ff";
    let (spans, _) = spans(
        linked(Link::Oslo),
        vec![
            with("request_id", REQUEST, call(100, "worker")),
            with("request_id", other, call(110, "handle")),
            call(111, "work"),
            returned(115, "work"),
            returned(120, "handle"),
            returned(200, "worker"),
        ],
    );
    let (worker, handle) = (one(&spans, "worker"), one(&spans, "handle"));
    assert_eq!((worker.trace, handle.trace), (TRACE, 0xff));
    assert_eq!(one(&spans, "work").trace, 0xff);
    assert_eq!(handle.parent, Vec::<u8>::new());
    let link = &handle.links[0];
    let around = (within(link, 1).remove(0), within(link, 2).remove(0));
    assert_eq!(around, (TRACE.to_be_bytes().to_vec(), worker.id.clone()));
}

#[test]
fn a_traceparent_puts_the_outermost_span_below_the_span_that_made_the_request() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (spans, _) = spans(
        linked(Link::Otel),
        vec![
            with("traceparent", parent, call(1, "wsgi")),
            call(2, "handle"),
            returned(3, "handle"),
            returned(4, "wsgi"),
        ],
    );
    let wsgi = one(&spans, "wsgi");
    assert_eq!(wsgi.parent, 0x00f067aa0ba902b7_u64.to_be_bytes());
    assert!(
        spans
            .iter()
            .all(|it| it.trace == 0x4bf92f3577b34da6a3ce929d0e0e4736)
    );
    assert_eq!(one(&spans, "handle").parent, wsgi.id);
}

#[test]
fn a_call_within_another_span_of_the_program_than_its_caller_is_below_that_span() {
    let within = |span: u64| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span:016x}-01");
    let (spans, _) = spans(
        linked(Link::Otel),
        vec![
            call(1, "handle"),
            with("traceparent", &within(1), call(2, "a")),
            with("traceparent", &within(1), call(3, "b")),
            with("traceparent", &within(2), call(4, "c")),
            call(5, "d"),
            returned(6, "d"),
            returned(7, "c"),
            returned(8, "b"),
            returned(9, "a"),
            returned(10, "handle"),
        ],
    );
    let parent = |name| one(&spans, name).parent.clone();
    assert_eq!(parent("handle"), Vec::<u8>::new());
    assert_eq!(
        (parent("a"), parent("c")),
        (1_u64.to_be_bytes().into(), 2_u64.to_be_bytes().into())
    );
    assert_eq!(
        (parent("b"), parent("d")),
        (one(&spans, "a").id.clone(), one(&spans, "c").id.clone())
    );
    assert!(
        spans
            .iter()
            .all(|it| it.trace == 0x4bf92f3577b34da6a3ce929d0e0e4736)
    );
}

/// A call that comes when it is over, as with `--min-duration`.
fn measured(ts: u64, took: u64, function: &str) -> Event {
    let mut event = returned(ts, function);
    if let What::Return { duration_ns, .. } = &mut event.what {
        *duration_ns = Some(took);
    }
    event
}

#[test]
fn calls_that_come_when_they_are_over_are_below_those_that_are_around_them() {
    let choice = Choice {
        filters: functions(&["a"]),
        callees: Some(5),
        link: None,
    };
    let (spans, _) = spans(
        choice,
        vec![
            measured(90, 10, "stray"),
            measured(120, 10, "c"),
            measured(130, 25, "b"),
            measured(140, 2, "short"),
            measured(200, 100, "a"),
            measured(300, 300, "whole"),
        ],
    );
    let expected = BTreeMap::from([("a", ""), ("b", "a"), ("c", "b")]);
    assert_eq!(parents(&spans), expected);
    assert_eq!(one(&spans, "b").between, (105, 130));
    assert_eq!(one(&spans, "a").trace, one(&spans, "c").trace);
}

#[test]
fn generators_that_gave_way_within_each_other_end_together_however_many_they_are() {
    const DEEP: u64 = 30_000;
    let begins = (1..=DEEP).map(|ts| told("f", 1, Manner::Plain, call(ts, "f")));
    let gives_way = (1..=DEEP).map(|ts| told("f", 1, Manner::Suspension, returned(DEEP + ts, "f")));
    let exit = What::Process {
        change: ProcessChange::Exit,
        parent: None,
        command: None,
    };
    let end = event(3 * DEEP, exit);
    let events = begins.chain(gives_way).chain([end]).collect();
    let (spans, _) = spans(Choice::default(), events);
    assert_eq!(spans.len() as u64, DEEP);
    // The innermost began last and gave way first.
    let longest = (1, 2 * DEEP);
    assert_eq!(spans.iter().filter(|it| it.between == longest).count(), 1);
}

#[test]
fn fields_of_calls_that_come_when_they_are_over_are_told_however_much_they_take() {
    let statement = "x".repeat(4 << 20);
    let query = |at: u64| with("statement", &statement, measured(at * 10, 5, "query"));
    let (spans, said) = spans(Choice::default(), (1..=6).map(query).collect());
    assert_eq!(said, None);
    assert_eq!(spans.len(), 6);
    for span in spans {
        let told = Read::Bytes(statement.clone().into_bytes());
        assert!(span.attributes["statement"] == told);
    }
}

#[test]
fn calls_that_did_not_return_are_spans_that_say_so() {
    let exit = What::Process {
        change: ProcessChange::Exit,
        parent: None,
        command: None,
    };
    let (spans, _) = spans(
        Choice::default(),
        vec![
            of_process(2, call(100, "killed")),
            of_process(2, event(150, exit)),
            call(200, "a"),
            call(210, "b"),
        ],
    );
    let ending = |name| one(&spans, name).attributes.get("pystap.ending").cloned();
    assert_eq!(ending("killed"), Some(Read::Bytes(b"unseen".to_vec())));
    assert_eq!(ending("b"), Some(Read::Bytes(b"open".to_vec())));
    assert_eq!(one(&spans, "killed").between, (100, 150));
    assert_eq!(parents(&spans)["b"], "a");
}

#[test]
fn more_calls_than_there_is_room_for_are_counted_and_nothing_else_is_wrong() {
    let mut events = Vec::new();
    for ts in 0..70_000 {
        let thread = 1 + ts as u32 % 70;
        events.push(of_thread(thread, call(ts, "a")));
    }
    let (spans, said) = spans(Choice::default(), events);
    let said = said.expect("something is said");
    assert!(said.contains("calls are no spans"), "{said}");
    assert!(spans.len() <= 1 << 16, "{}", spans.len());
}

#[test]
fn a_file_is_one_request_whose_resource_is_the_service_of_the_process() {
    let mut bytes = Vec::new();
    let outlet = InFile::new(&mut bytes);
    let mut events = Vec::new();
    for number in 0..5000 {
        events.extend([call(number * 10, "a"), returned(number * 10 + 5, "a")]);
    }
    feed(Spans::new(Choice::default(), None, outlet), events);
    let resources = within(&bytes, 1);
    let mut spans = 0;
    for of_resource in &resources {
        let attributes = attributes(&within(of_resource, 1)[0], 1);
        let text = |name: &str| match attributes.get(name) {
            Some(Read::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(text("service.name"), "nova");
        assert_eq!(text("host.name"), "web1");
        assert_eq!(attributes.get("process.pid"), Some(&Read::Number(1)));
        let of_scope = &within(of_resource, 2)[0];
        assert_eq!(string(&within(of_scope, 1)[0], 1), "pystap");
        spans += within(of_scope, 2).len();
    }
    assert_eq!(spans, 5000);
    assert!(resources.len() > 1, "it was written in parts");
}
