//! Spans of a real program, in the hands of a receiver that reads them with OpenTelemetry's own messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines, Read};
use std::net::TcpListener;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::Service;
use super::PYTHON_3_11;
use super::metrics::Running;
use crate::command::{command, end, file, installed, run};
use crate::tracing::{BOUND, leaves_nothing};

const UUID: &str = "7d2a5f1e-0b1c-4a3d-9e8f-001122334455";
/// Its bits, as Protocol Buffers' JSON writes bytes.
const TRACE: &str = "fSpfHgscSj2ejwARIjNEVQ==";
const MS: u64 = 1_000_000;

/// A receiver, and what it says.
struct Receiver {
    _running: Running,
    requests: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Receiver {
    fn start(options: &[&str]) -> Receiver {
        let child = Command::new(installed("otlp/venv/bin/python"))
            .arg(file("tests/programs/otlp_receiver.py"))
            .args(options)
            .stdout(Stdio::piped())
            .spawn();
        let mut running = Running(child.expect("it starts"));
        let mut requests = BufReader::new(running.0.stdout.take().expect("piped")).lines();
        let port = requests.next().expect("it runs").expect("text");
        Receiver {
            _running: running,
            requests,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    fn line(&mut self) -> Value {
        let line = self.requests.next().expect("it runs").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Spans until these many of this name have come.
    fn until(&mut self, name: &str, many: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        while spans.iter().filter(|it: &&Span| it.name == name).count() < many {
            spans.extend(spans_of(&self.line()));
        }
        spans
    }
}

/// A span, as the receiver has it.
#[derive(Debug, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    begin: u64,
    end: u64,
    is_error: bool,
    service: String,
    pid: String,
    attributes: BTreeMap<String, String>,
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let pairs = of["attributes"].as_array().expect("attributes").iter();
    pairs
        .map(|pair| {
            let value = pair["value"].as_object().expect("a value").values().next();
            let value = value.and_then(Value::as_str).expect("as text").to_owned();
            (pair["key"].as_str().expect("a key").to_owned(), value)
        })
        .collect()
}

fn spans_of(request: &Value) -> Vec<Span> {
    assert!(request["error"].is_null(), "{request}");
    spans_within(&request["request"])
}

fn spans_within(request: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request["resourceSpans"].as_array().into_iter().flatten() {
        let resource = attributes(&of_resource["resource"]);
        let of_scope = &of_resource["scopeSpans"][0];
        assert_eq!(of_scope["scope"]["name"], "pystap");
        for span in of_scope["spans"].as_array().expect("spans") {
            let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
            let time = |name: &str| text(name).parse().expect("a time");
            spans.push(Span {
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                begin: time("startTimeUnixNano"),
                end: time("endTimeUnixNano"),
                is_error: span["status"]["code"] == "STATUS_CODE_ERROR",
                service: resource["service.name"].clone(),
                pid: resource["process.pid"].clone(),
                attributes: attributes(span),
            });
        }
    }
    spans
}

/// The callers of spans, by name; empty of what is below none.
fn callers(spans: &[Span]) -> BTreeMap<&str, &str> {
    let of = |id: &str| spans.iter().find(|it| it.id == id);
    let name = |id: &str| of(id).map_or("", |it| it.name.as_str());
    let pairs = spans.iter().map(|it| (it.name.as_str(), name(&it.parent)));
    pairs.collect()
}

/// `pystap trace --otlp` while probes are live.
struct Tracer {
    running: Running,
    messages: BufReader<ChildStderr>,
    said: String,
}

impl Tracer {
    fn start(url: &str, options: &[&str]) -> Tracer {
        let mut command = command(["trace", "--engine", "direct", "--inject", "ptrace"]);
        command.args(["--otlp", url]).args(options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = Running(child.stderr(Stdio::piped()).spawn().expect("it starts"));
        let mut messages = BufReader::new(running.0.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("live, tracing") {
            assert_ne!(messages.read_line(&mut said).expect("text"), 0, "{said}");
        }
        Tracer {
            running,
            messages,
            said,
        }
    }

    /// Ends it as a service is ended. All that it said.
    fn end(mut self) -> String {
        let pid = i32::try_from(self.running.0.id()).expect("small");
        kill_process(Pid::from_raw(pid).expect("not 0"), Signal::TERM).expect("it runs");
        self.messages.read_to_string(&mut self.said).expect("text");
        assert_eq!(end(&mut self.running.0, BOUND), Some(0), "{}", self.said);
        self.said
    }
}

/// The two services, and the process ids of both.
fn services() -> (Service, [String; 2]) {
    let mut service = Service::start_with(PYTHON_3_11, "tests/programs/linked.py", &[]);
    let child = service.request("child").trim().to_owned();
    let pids = [service.pid(), child];
    (service, pids)
}

/// Has them serve a request. When each function ran, by its name without its class.
fn request(service: &mut Service) -> BTreeMap<String, [u64; 2]> {
    let times = service.request(&format!("request {UUID}"));
    serde_json::from_str(&times).expect("times")
}

const BOTH: [&str; 4] = ["--function", "Api.*", "--function", "Compute.*"];

/// What is below what: of one that serves and one that works for it.
fn tree() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("Api.serve", ""),
        ("Api.parse", "Api.serve"),
        ("Api.create", "Api.serve"),
        ("Compute.dispatch", "Api.serve"),
        ("Compute.build", "Compute.dispatch"),
        ("Compute.spawn", "Compute.build"),
        ("Compute.fail", "Compute.build"),
    ])
}

/// Each is within what the program measured around the call, and as long as it slept.
fn times_are_right(spans: &[Span], times: &BTreeMap<String, [u64; 2]>) {
    for span in spans {
        let (_, name) = span.name.split_once('.').expect("a class");
        let [begin, end] = times[name];
        // Both clocks are read from one, at different times.
        let slack = MS / 2;
        assert!(
            span.begin + slack >= begin && span.end <= end + slack && span.begin <= span.end,
            "{span:?}: {begin} to {end}"
        );
        let slept = match name {
            "parse" => 5 * MS,
            "spawn" => 20 * MS,
            _ => 0,
        };
        assert!(span.end - span.begin >= slept, "{span:?}");
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_request_through_two_services_is_one_trace_with_their_times_and_names() {
    leaves_nothing(|| {
        let mut receiver = Receiver::start(&[]);
        let (mut service, [api, compute]) = services();
        let mut options = vec!["--link", "oslo", "-p", &api, "-p", &compute];
        options.extend(BOTH);
        let tracer = Tracer::start(&receiver.url, &options);
        let times = request(&mut service);
        let mut spans = receiver.until("Api.serve", 1);
        // The worker is told by a ring of its own.
        while spans.len() < 7 {
            spans.extend(receiver.until("Compute.dispatch", 1));
        }
        assert_eq!(spans.len(), 7, "{spans:?}");
        assert_eq!(callers(&spans), tree());
        for span in &spans {
            assert_eq!(span.trace, TRACE, "{span:?}");
            let is_api = span.name.starts_with("Api");
            assert_eq!(span.pid, if is_api { &*api } else { &*compute });
            assert_eq!(span.is_error, span.name == "Compute.fail", "{span:?}");
            assert_eq!(span.service, "linked");
            let path = file("tests/programs/linked.py");
            assert_eq!(span.attributes["code.file.path"], path);
            let request = span.attributes.get("openstack.request_id");
            let has = ["Api.create", "Compute.dispatch", "Compute.build"];
            let expected = format!("req-{UUID}");
            let expected = has.contains(&span.name.as_str()).then_some(&expected);
            assert_eq!(request, expected, "{span:?}");
        }
        times_are_right(&spans, &times);
        let said = tracer.end();
        assert!(said.contains("OTLP: 7 spans taken, none lost"), "{said}");
        assert!(!said.contains("which other users may read"), "{said}");
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn two_pystaps_that_know_nothing_of_each_other_have_one_trace_of_a_request() {
    leaves_nothing(|| {
        let mut receiver = Receiver::start(&[]);
        let (mut service, pids) = services();
        let tracers = pids.each_ref().map(|pid| {
            let options = ["--link", "oslo", "-p", pid, "--function", "*e*"];
            Tracer::start(&receiver.url, &options)
        });
        request(&mut service);
        let mut names = BTreeSet::new();
        while !["Api.create", "Compute.build"]
            .iter()
            .all(|name| names.contains(*name))
        {
            for span in spans_of(&receiver.line()) {
                assert_eq!(span.trace, TRACE, "{span:?}");
                names.insert(span.name);
            }
        }
        for tracer in tracers {
            let said = tracer.end();
            assert!(said.contains("none lost"), "{said}");
        }
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_are_below_the_spans_that_an_instrumented_program_has_itself() {
    leaves_nothing(|| {
        let mut receiver = Receiver::start(&[]);
        let mut program = Command::new(installed("otlp/venv/bin/python"));
        program.arg(file("tests/programs/spanning.py"));
        let mut service = Service::of(program);
        let pid = service.pid();
        let mut options = vec!["--link", "otel", "-p", &pid];
        options.extend(
            ["handle", "before", "work"]
                .iter()
                .flat_map(|it| ["--function", *it]),
        );
        let tracer = Tracer::start(&receiver.url, &options);
        let names: BTreeMap<String, String> =
            serde_json::from_str(&service.request("go")).expect("names");
        let spans = receiver.until("handle", 1);
        let of = |name: &str| spans.iter().find(|it| it.name == name).expect("a span");
        for span in &spans {
            assert_eq!(hexadecimal(&span.trace), names["trace"], "{span:?}");
        }
        assert_eq!(hexadecimal(&of("handle").parent), names["outer"]);
        assert_eq!(hexadecimal(&of("work").parent), names["inner"]);
        assert_eq!(of("before").parent, of("handle").id);
        tracer.end();
        service.end();
    });
}

/// Bytes as Protocol Buffers' JSON writes them, in base 64.
fn hexadecimal(bytes: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut text) = (0_usize, 0, String::new());
    for digit in bytes.bytes().filter(|it| *it != b'=') {
        let value = DIGITS.iter().position(|it| *it == digit);
        (bits, count) = (bits << 6 | value.expect("a digit"), count + 6);
        if count >= 8 {
            count -= 8;
            text.push_str(&format!("{:02x}", bits >> count & 0xff));
        }
    }
    text
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_a_named_function_calls_is_a_span_from_the_least_duration_on() {
    leaves_nothing(|| {
        let mut receiver = Receiver::start(&[]);
        let (mut service, [api, _]) = services();
        let options = ["-p", &api, "--function", "serve", "--min-duration", "4ms"];
        let tracer = Tracer::start(&receiver.url, &options);
        let times = request(&mut service);
        let spans = receiver.until("Api.serve", 1);
        let mut names: Vec<&str> = spans.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        // What reads the answer waits for it, too.
        let expected = ["Api.create", "Api.parse", "Api.serve", "timed", "timed"];
        assert_eq!(names, expected);
        let parse = spans.iter().find(|it| it.name == "Api.parse");
        let around = parse.and_then(|it| spans.iter().find(|other| other.id == it.parent));
        let around = around.expect("it is below something");
        assert_eq!(callers(&spans)["timed"], "Api.serve");
        assert_eq!(around.name, "timed");
        let of_api: Vec<Span> = spans
            .iter()
            .filter(|it| it.name != "timed")
            .cloned()
            .collect();
        times_are_right(&of_api, &times);
        tracer.end();
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_receiver_that_wants_them_later_and_fewer_gets_every_span() {
    leaves_nothing(|| {
        let mut receiver = Receiver::start(&["--answers", "429,413"]);
        let (mut service, [api, _]) = services();
        let options = ["-p", &api, "--function", "Api.*"];
        let tracer = Tracer::start(&receiver.url, &options);
        for _ in 0..5 {
            request(&mut service);
        }
        assert_eq!(receiver.line()["answered"], 429);
        assert_eq!(receiver.line()["answered"], 413);
        let mut spans = Vec::new();
        while spans.len() < 15 {
            spans.extend(spans_of(&receiver.line()));
        }
        let ids: BTreeSet<&str> = spans.iter().map(|it| it.id.as_str()).collect();
        assert_eq!((spans.len(), ids.len()), (15, 15));
        let said = tracer.end();
        assert!(said.contains("OTLP: 15 spans taken, none lost"), "{said}");
        assert!(said.contains("takes nothing at the moment (429)"), "{said}");
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_receiver_that_is_down_costs_the_program_nothing_and_what_it_did_not_get_is_counted() {
    leaves_nothing(|| {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", free.local_addr().expect("an address"));
        drop(free);
        let (mut service, [api, _]) = services();
        let options = ["-p", &api, "--function", "Api.*", "--otlp-timeout", "300ms"];
        let tracer = Tracer::start(&url, &options);
        for _ in 0..3 {
            request(&mut service);
        }
        let said = tracer.end();
        assert!(said.contains("OTLP: 0 spans taken, 9 lost"), "{said}");
        for what in [
            "cannot be reached",
            "tracing goes on",
            "dropped and counted",
        ] {
            assert!(said.contains(what), "{said}");
        }
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_recording_is_sent_and_written_as_the_spans_that_were_recorded() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let recording = directory.path().join("run.pystap");
        let (mut service, [api, compute]) = services();
        let mut record = command(["record", "--engine", "direct", "--inject", "ptrace"]);
        record.args(["-p", &api, "-p", &compute, "-n", "14"]);
        record.args(BOTH).arg("-o").arg(&recording);
        record.args(["--field", "request_id=ctxt.request_id"]);
        record.args(["--field", "request_id=context.request_id"]);
        let child = record.stderr(Stdio::piped()).spawn();
        let mut running = Running(child.expect("it starts"));
        let mut messages = BufReader::new(running.0.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("live, tracing") {
            assert_ne!(messages.read_line(&mut said).expect("text"), 0, "{said}");
        }
        let times = request(&mut service);
        messages.read_to_string(&mut said).expect("text");
        assert_eq!(end(&mut running.0, BOUND), Some(0), "{said}");
        service.end();

        let export = || {
            let mut export = command(["export", "-f", "otlp", "--link", "oslo"]);
            export.arg(&recording);
            export
        };
        let written = directory.path().join("run.otlp");
        let ended = run(export().arg("-o").arg(&written));
        assert_eq!(ended.code, 0, "{ended:?}");
        let read = "import json, sys\n\
                    from google.protobuf.json_format import MessageToDict\n\
                    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest\n\
                    request = ExportTraceServiceRequest.FromString(open(sys.argv[1], 'rb').read())\n\
                    print(json.dumps(MessageToDict(request)))";
        let python = Command::new(installed("otlp/venv/bin/python"))
            .args(["-c", read])
            .arg(&written)
            .output()
            .expect("it starts");
        assert!(python.status.success(), "{python:?}");
        let of_file: Value = serde_json::from_slice(&python.stdout).expect("JSON");
        let of_file = spans_within(&of_file);
        let mut receiver = Receiver::start(&["--answers", "503"]);
        let ended = run(export().args(["--otlp", &receiver.url]));
        assert_eq!(ended.code, 0, "{ended:?}");
        let notes = format!("{ended:?}");
        assert!(notes.contains("OTLP: 7 spans taken, none lost"), "{notes}");
        assert_eq!(receiver.line()["answered"], 503);
        for spans in [of_file, spans_of(&receiver.line())] {
            assert_eq!(callers(&spans), tree());
            assert!(spans.iter().all(|it| it.trace == TRACE), "{spans:?}");
            assert!(spans.iter().all(|it| it.service == "linked"), "{spans:?}");
            times_are_right(&spans, &times);
        }
        // Nobody is there any longer.
        let url = receiver.url.clone();
        drop(receiver);
        let ended = run(export().args(["--otlp", &url, "--otlp-timeout", "200ms"]));
        assert_eq!(ended.code, 1, "{ended:?}");
        let notes = format!("{ended:?}");
        assert!(notes.contains("OTLP: 0 spans taken, 7 lost"), "{notes}");
        assert!(notes.contains("the receiver has taken nothing"), "{notes}");
    });
}
