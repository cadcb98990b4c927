//! Exports in the hands of what people have for them: Perfetto's trace processor, pprof, DuckDB and ClickHouse's engine, as
//! tests/formats/install gets them. What they answer is what was recorded.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::process::Command;
use std::sync::Arc;

use pystap::event::{
    Event, Field, FieldValue, Fields, Frame, LossStage, Manner, Place, ProcessChange, Reason, Wait,
    What,
};
use serde_json::{Value, json};

use crate::command::{Ended, file, installed, pystap_with};
use crate::page::{event, recorded, text};

/// Microseconds in nanoseconds.
const US: u64 = 1_000;
/// How deep a call of the program is.
const DEEP: u64 = 1_200;

fn frame(context: u64, manner: Manner) -> Frame {
    Frame {
        context: NonZeroU64::new(context),
        manner,
        ..Frame::default()
    }
}

fn place(function: &str) -> Arc<Place> {
    Arc::new(Place {
        file: text("/srv/app; ünd.py"),
        function: text(function),
        qualname: Some(text(function)),
        group: None,
    })
}

fn call(tid: u32, at_us: u64, function: &str, frame: Frame) -> Event {
    let place = place(function);
    event(
        tid,
        at_us,
        What::Call {
            place,
            line: 3,
            frame,
        },
    )
}

fn back(tid: u32, at_us: u64, function: &str, frame: Frame) -> Event {
    let what = What::Return {
        place: place(function),
        line: 4,
        duration_ns: None,
        frame,
    };
    event(tid, at_us, what)
}

/// A frame with a field.
fn with_field(name: &str, value: i64) -> Frame {
    let field = Field {
        name: name.into(),
        value: FieldValue::Integer(value),
    };
    Frame {
        fields: Some(Arc::new(Fields(vec![field]))),
        ..frame(0, Manner::Plain)
    }
}

/// A program that has each kind of what can become of a call, in two processes: see [`CALLS`].
fn program() -> Vec<Event> {
    let plain = || frame(0, Manner::Plain);
    let in_task = |task| frame(task, Manner::Plain);
    let named = |context, name| What::Context {
        context,
        name: Arc::new(text(name)),
    };
    let wait = Wait {
        reason: Some(Reason::Network),
        syscall: Some(Arc::new(text("recvfrom"))),
        on: None,
        blocked_ns: 200 * US,
        runqueue_ns: None,
        waker: None,
    };
    let process = |at_us, change| Event {
        pid: 9,
        ..event(
            9,
            at_us,
            What::Process {
                change,
                parent: Some(7),
                command: None,
            },
        )
    };
    let lost = What::Lost {
        count: 5,
        stage: LossStage::Ring,
        message: "the ring was full".to_owned(),
    };
    let done = What::GcDone {
        generation: None,
        collected: 3,
        pause_ns: None,
    };
    let mut events = vec![
        // Its call was before.
        back(7, 100, "earlier", plain()),
        call(7, 1_000, "main", plain()),
        call(7, 2_000, "work", plain()),
        back(7, 3_000, "work", plain()),
        call(7, 3_000, "work", plain()),
        call(7, 3_200, "inner", with_field("limit", 10)),
        event(7, 3_300, What::GcStart { generation: 2 }),
        event(7, 3_500, done),
        back(7, 3_700, "inner", with_field("rows", 3)),
        back(7, 4_000, "work", plain()),
        call(7, 4_000, "generate", plain()),
        back(7, 4_100, "generate", frame(0, Manner::Suspension)),
        call(7, 4_200, "generate", frame(0, Manner::Suspension)),
        back(7, 4_400, "generate", plain()),
        call(7, 4_500, "fail", plain()),
        back(7, 4_600, "fail", frame(0, Manner::Exception)),
        event(7, 8_500, What::Wait(Box::new(wait))),
        back(7, 9_000, "main", plain()),
        call(7, 9_500, "serve", plain()),
        call(7, 9_800, "ping", plain()),
        back(7, 9_900, "ping", plain()),
        event(8, 1_900, named(1, "Task-1")),
        event(8, 1_900, named(2, "Task-2")),
        call(8, 2_000, "handle", in_task(1)),
        call(8, 2_500, "handle", in_task(2)),
        back(8, 5_000, "handle", in_task(1)),
        back(8, 6_000, "handle", in_task(2)),
        process(1_500, ProcessChange::Fork),
        Event {
            pid: 9,
            ..call(9, 1_600, "child", plain())
        },
        process(1_900, ProcessChange::Exit),
        Event {
            pid: 12,
            ..event(0, 9_900, lost)
        },
    ];
    for level in 0..DEEP {
        events.push(call(7, 5_000 + level, "down", plain()));
        events.push(back(7, 8_199 - level, "down", plain()));
    }
    events.sort_by_key(|event| event.ts);
    events
}

/// Its functions: how many calls of each are shown, and how long they are together, in microseconds.
const CALLS: [(&str, u64, u64); 10] = [
    ("child", 1, 300),
    ("down", DEEP, 2_400_000),
    ("fail", 1, 100),
    ("generate", 2, 300),
    ("handle", 2, 6_500),
    ("inner", 1, 500),
    ("main", 1, 8_000),
    ("ping", 1, 100),
    ("serve", 1, 400),
    ("work", 2, 2_000),
];

fn done(arguments: &[&str]) -> Ended {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

/// A recording, and what is made of it.
struct Files(tempfile::TempDir);

impl Files {
    fn of(events: Vec<Event>) -> Files {
        let files = Files(tempfile::tempdir().expect("a directory"));
        let kinds = ["call", "return", "gc", "wait"];
        recorded(&files.0.path().join("run.pystap"), &kinds, events);
        files
    }

    fn word(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    fn exported(&self, format: &str) -> String {
        let to = self.word(format);
        done(&["export", &self.word("run.pystap"), "-f", format, "-o", &to]);
        to
    }

    /// What `pystap report` says of each function: calls, own time, time with what it called.
    fn reported(&self) -> BTreeMap<String, [u64; 3]> {
        let said = done(&[
            "report",
            &self.word("run.pystap"),
            "--json",
            "--limit",
            "100",
        ]);
        let table: Value = serde_json::from_str(&said.stdout).expect("JSON");
        let rows = table["functions"].as_array().expect("rows").iter();
        rows.map(|row| {
            let number = |name: &str| row[name].as_u64().expect("a number");
            let name = row["function"].as_str().expect("a name").to_owned();
            (
                name,
                [number("calls"), number("self_ns"), number("cumulative_ns")],
            )
        })
        .collect()
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Rows that Perfetto's trace processor answers to each statement about a trace.
fn traced(trace: &str, statements: &[&str]) -> Vec<Vec<Value>> {
    let mut python = Command::new(installed("formats/venv/bin/python"));
    python
        .arg(file("tests/formats/trace_processor.py"))
        .arg(trace);
    let answers = said(python.args(statements));
    let answers: Vec<Vec<Value>> = serde_json::from_str(&answers).expect("JSON");
    answers
}

fn rows(of: &[(&str, u64, u64)]) -> Vec<Value> {
    let rows = of.iter();
    rows.map(|(name, count, us)| json!([name, count, us * US]))
        .collect()
}

const NOTHING_WRONG: &str =
    "select name, value from stats where severity in ('error', 'data_loss') and value > 0";

/// What both formats of timelines must have.
fn is_the_program(trace: &str) -> Vec<Vec<Value>> {
    let answers = traced(
        trace,
        &[
            NOTHING_WRONG,
            "select name, count(*), sum(dur) from slice where category = 'call' group by name order by name",
            "select name, dur from slice where category <> 'call' and dur > 0 order by ts",
            "select slice.name, extract_arg(arg_set_id, 'debug.ends'), extract_arg(arg_set_id, 'args.ends') from slice \
             where category = 'call' and name <> 'down' order by ts, dur desc",
            "select name, category from slice where category <> 'call' and dur = 0 order by ts",
            "select max(dur) from slice where name = 'down'",
            "select min(dur) from slice where name = 'down'",
        ],
    );
    assert_eq!(answers[0], Vec::<Value>::new());
    assert_eq!(answers[1], rows(&CALLS));
    assert_eq!(
        answers[2],
        [
            json!(["garbage collection", 200 * US]),
            json!(["[network: recvfrom]", 200 * US]),
        ]
    );
    let ends: Vec<(String, Option<&str>)> = answers[3]
        .iter()
        .map(|row| {
            let name = row[0].as_str().expect("a name").to_owned();
            (name, row[1].as_str().or_else(|| row[2].as_str()))
        })
        .filter(|(_, ends)| ends.is_some())
        .collect();
    let not_returned = Some("not returned");
    assert_eq!(
        ends,
        [
            ("child".to_owned(), not_returned),
            ("generate".to_owned(), Some("suspended")),
            ("fail".to_owned(), Some("raised")),
            ("serve".to_owned(), not_returned),
        ]
    );
    assert_eq!(
        answers[4],
        [
            json!(["fork", "process"]),
            json!(["exit", "process"]),
            json!(["events lost", "lost"]),
        ]
    );
    assert_eq!(answers[5], [json!([3_199 * US])]);
    assert_eq!(answers[6], [json!([801 * US])]);
    answers
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn perfetto_s_trace_processor_finds_in_chrome_s_format_what_was_recorded() {
    is_the_program(&Files::of(program()).exported("chrome"));
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn perfetto_s_trace_processor_finds_in_its_own_format_what_was_recorded() {
    is_the_program(&Files::of(program()).exported("perfetto"));
}

#[test]
#[ignore = "needs what tests/formats/install gets and root: run by scripts/test-here"]
fn a_program_is_a_timeline_for_perfetto_s_trace_processor_while_it_is_traced() {
    let directory = tempfile::tempdir().expect("a directory");
    for format in ["chrome", "perfetto"] {
        let to = directory.path().join(format);
        let to = to.to_str().expect("UTF-8");
        let program = file("examples/fib.py");
        let options = ["trace", "--engine", "direct", "-f", format, "-o", to];
        let ended = done(&[&options[..], &["--", "/usr/bin/python3.11", &program]].concat());
        assert!(ended.stderr.contains("nothing lost"), "{ended:?}");
        let calls = "select count(*) from slice where category = 'call' and name = 'fib'";
        let answers = traced(to, &[NOTHING_WRONG, calls]);
        assert_eq!(answers[0], Vec::<Value>::new(), "{format}");
        assert_eq!(answers[1], [json!([177])], "{format}");
    }
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn perfetto_s_own_format_has_rows_for_processes_threads_and_tasks_counters_and_the_lines_of_functions()
 {
    let files = Files::of(program());
    let trace = files.exported("perfetto");
    let answers = traced(
        &trace,
        &[
            "select pid, name from process where pid > 0 order by pid",
            "select distinct thread.tid, thread.name from slice join thread_track on thread_track.id = track_id \
             join thread using (utid) where category = 'call' order by tid",
            "select distinct track.name from slice join track on track.id = track_id where slice.name = 'handle' order by track.name",
            "select counter.value from counter join track on track.id = track_id where track.name = 'objects collected'",
            "select distinct extract_arg(arg_set_id, 'source.file_name'), extract_arg(arg_set_id, 'source.line_number') from slice \
             where name = 'work'",
            "select extract_arg(arg_set_id, 'debug.count'), extract_arg(arg_set_id, 'debug.message') from slice \
             where name = 'events lost'",
            "select count(distinct track_id) from slice where name = 'down'",
            "select s.name from slice s where s.id = (select parent_id from slice where name = 'inner')",
            "select extract_arg(arg_set_id, 'debug.limit'), extract_arg(arg_set_id, 'debug.rows') from slice where name = 'inner'",
        ],
    );
    let of_process = |row: &Value| row[0].as_u64();
    let pids: Vec<Option<u64>> = answers[0].iter().map(of_process).collect();
    assert_eq!(pids, [Some(7), Some(9), Some(12)]);
    assert_eq!(answers[0][0][1], "process 7: python3 app.py");
    assert_eq!(
        answers[2],
        [
            json!(["handle, Task-1 of thread 8"]),
            json!(["handle, Task-2 of thread 8"])
        ]
    );
    assert_eq!(answers[3], [json!([3.0])]);
    assert_eq!(answers[4], [json!(["/srv/app; ünd.py", 3])]);
    assert_eq!(answers[5], [json!([5, "the ring was full"])]);
    assert_eq!(
        answers[6],
        [json!([3])],
        "as deep as the trace processor shows"
    );
    assert_eq!(answers[7], [json!(["work"])]);
    assert_eq!(
        answers[8],
        [json!([10, 3])],
        "of the call, and of its return"
    );
    assert_eq!(
        answers[1],
        [
            json!([7, "main, main thread 7"]),
            json!([8, "thread 8"]),
            json!([9, "child, main thread 9"]),
        ]
    );
}

/// What pprof lists of a profile, by the type of its samples: of each function what is its own, and what is below it, too.
fn profiled(profile: &str, kind: &str, more: &[&str]) -> BTreeMap<String, [u64; 2]> {
    let mut pprof = Command::new(installed("formats/pprof"));
    pprof.args([
        "-top",
        "-nodecount=1000000",
        "-nodefraction=0",
        "-edgefraction=0",
        "-unit=ns",
    ]);
    let listed = said(
        pprof
            .arg(format!("-sample_index={kind}"))
            .args(more)
            .arg(profile),
    );
    let lines = listed
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("flat "))
        .skip(1);
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].trim_end_matches("ns").parse().expect("a number");
            (words[5..].join(" "), [number(0), number(3)])
        })
        .collect()
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn pprof_lists_the_calls_and_times_that_a_report_has() {
    let files = Files::of(program());
    let profile = files.exported("pprof");
    let (calls, wall) = (
        profiled(&profile, "calls", &[]),
        profiled(&profile, "wall", &[]),
    );
    for (name, [count, own, cumulative]) in files.reported() {
        if name == "earlier" {
            assert!(
                !calls.contains_key(&name),
                "nobody knows when it was called"
            );
            continue;
        }
        assert_eq!(calls.get(&name).map(|it| it[0]), Some(count), "{name}");
        // Of tasks that wait for each other a stack has the time in which they run.
        let below = if name == "handle" { own } else { cumulative };
        // And waits stand on top of who waited.
        let waited = if name == "main" { 200 * US } else { 0 };
        assert_eq!(wall.get(&name), Some(&[own - waited, below]), "{name}");
    }
    let (cpu, off) = (
        profiled(&profile, "cpu", &[]),
        profiled(&profile, "off-cpu", &[]),
    );
    assert_eq!(off["[network: recvfrom]"], [200 * US; 2]);
    assert_eq!(off["main"], [0, 200 * US]);
    assert_eq!(cpu["main"][1] + off["main"][1], wall["main"][1]);
    // Labels tell processes, threads and tasks apart.
    let of_process = profiled(&profile, "calls", &["-tagfocus=process=process 9"]);
    assert_eq!(of_process.keys().collect::<Vec<_>>(), ["child"]);
    // Tasks with made-up names are called by what they run.
    let of_task = profiled(&profile, "calls", &["-tagfocus=context=handle"]);
    assert_eq!(
        of_task.into_iter().collect::<Vec<_>>(),
        [("handle".to_owned(), [2, 2])]
    );
    let of_thread = profiled(&profile, "calls", &["-tagfocus=thread=thread 8"]);
    assert_eq!(of_thread.keys().collect::<Vec<_>>(), ["handle"]);
    let comments = said(Command::new(installed("formats/pprof")).args(["-comments", &profile]));
    assert!(
        comments.contains("target: process 7: python3 app.py"),
        "{comments}"
    );
    let first = said(Command::new(installed("formats/pprof")).args(["-top", &profile]));
    assert!(first.contains("Type: wall"), "{first}");
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn duckdb_and_clickhouse_count_and_add_up_what_a_report_does() {
    let files = Files::of(program());
    let tables = files.exported("parquet");
    let mut python = Command::new(installed("formats/venv/bin/python"));
    python.arg(file("tests/formats/tables.py")).arg(&tables).args([
        "select function, sum(calls), sum(self_ns), sum(cumulative_ns) from {functions} group by function order by function",
        "select event, count(*) from {events} group by event order by event",
        "select function, count(*), sum(duration_ns) from {events} where event = 'return' and duration_ns is not null \
         group by function order by function",
        "select distinct file, line from {events} where function = 'work' and event = 'call'",
        "select how, count(*) from {events} where how is not null group by how order by how",
        "select pid, lost from {events} where event = 'lost'",
        "select reason, blocked_ns from {events} where event = 'wait'",
        "select context, count(*) from {events} where function = 'handle' group by context order by context",
        "select generation, collected, duration_ns from {events} where event = 'gc_done'",
    ]);
    let answers: Value = serde_json::from_str(&said(&mut python)).expect("JSON");
    let [duckdb, clickhouse] = answers.as_array().expect("two").as_slice() else {
        panic!("{answers}");
    };
    assert_eq!(duckdb, clickhouse);
    let reported = files.reported().into_iter();
    let reported =
        reported.map(|(name, [calls, own, cumulative])| json!([name, calls, own, cumulative]));
    assert_eq!(duckdb[0], reported.collect::<Value>());
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let decoded = done(&["export", &files.word("run.pystap"), "-f", "json"]).stdout;
    let events: Vec<Value> = decoded
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for event in &events {
        *kinds
            .entry(event["event"].as_str().expect("a kind"))
            .or_default() += 1;
    }
    kinds.retain(|kind, _| !["session", "summary"].contains(kind));
    let kinds = kinds.into_iter().map(|(kind, count)| json!([kind, count]));
    assert_eq!(duckdb[1], kinds.collect::<Value>());
    let ended = CALLS
        .iter()
        .filter(|(name, ..)| !["child", "serve"].contains(name));
    assert_eq!(
        duckdb[2],
        ended
            .map(|(name, count, us)| json!([name, count, us * US]))
            .collect::<Value>()
    );
    assert_eq!(duckdb[3], json!([["/srv/app; ünd.py", 3]]));
    assert_eq!(
        duckdb[4],
        json!([["raised", 1], ["resumed", 1], ["suspended", 1]])
    );
    assert_eq!(duckdb[5], json!([[12, 5]]));
    assert_eq!(duckdb[6], json!([["network", 200 * US]]));
    assert_eq!(duckdb[7], json!([[1, 2], [2, 2]]));
    assert_eq!(duckdb[8], json!([[2, 3, 200 * US]]));
}

#[test]
#[ignore = "needs what tests/formats/install gets: run by scripts/test-here"]
fn the_sql_of_the_page_about_fleets_runs_unchanged_in_duckdb_and_clickhouse_with_right_numbers() {
    const DAY_US: u64 = 86_400_000_000;
    let directory = tempfile::tempdir().expect("a directory");
    let word = |name: &str| directory.path().join(name).display().to_string();
    // Two calls on each host, on two days: on the second host they take three times as long, and one is of another function.
    let days = |factor: u64, other: &str| {
        let plain = || frame(0, Manner::Plain);
        vec![
            call(7, 0, "handle", plain()),
            back(7, 100 * factor, "handle", plain()),
            call(7, DAY_US, other, plain()),
            back(7, DAY_US + 200 * factor, other, plain()),
        ]
    };
    for (name, factor, other) in [("web1", 1, "handle"), ("web2", 3, "store")] {
        let path = directory.path().join(format!("{name}.pystap"));
        recorded(&path, &["call", "return"], days(factor, other));
    }
    let hosts = ["web1", "web2"].map(|name| format!("{name}={}", word(&format!("{name}.pystap"))));
    done(&["merge", &hosts[0], &hosts[1], "-o", &word("all.pystap")]);
    let fleet = word("fleet");
    let partition = ["-f", "parquet", "--partition", "nova-compute", "-o", &fleet];
    done(&[&["export", &word("all.pystap")], &partition[..]].concat());
    let part = |host: &str, hour: &str, number: u32| {
        let place =
            format!("fleet/service=nova-compute/host={host}/hour={hour}/part-{number}.parquet");
        directory.path().join(place).exists()
    };
    for host in ["web1", "web2"] {
        assert!(part(host, "2027-01-15T08", 0) && part(host, "2027-01-16T08", 0));
        assert!(!part(host, "2027-01-15T08", 1));
    }
    let mut python = Command::new(installed("formats/venv/bin/python"));
    python.args([
        file("tests/formats/fleet.py"),
        file("docs/fleet.md"),
        fleet.clone(),
    ]);
    let answers: Value = serde_json::from_str(&said(&mut python)).expect("JSON");
    let [duckdb, clickhouse] = answers.as_array().expect("two").as_slice() else {
        panic!("{answers}");
    };
    assert_eq!(duckdb, clickhouse);
    let [hot, by_host, changed] = duckdb.as_array().expect("answers").as_slice() else {
        panic!("{duckdb}");
    };
    assert_eq!(
        *hot,
        json!([
            ["nova-compute", "handle", 3, 600 * US],
            ["nova-compute", "store", 1, 600 * US]
        ])
    );
    assert_eq!(
        *by_host,
        json!([
            ["web2", 1, 300 * US, 300 * US],
            ["web1", 2, 150 * US, 200 * US]
        ])
    );
    assert_eq!(
        *changed,
        json!([["store", 0, 600 * US], ["handle", 400 * US, 200 * US]])
    );
    // Another export adds files and changes none.
    done(&[&["export", &word("all.pystap")], &partition[..]].concat());
    assert!(part("web1", "2027-01-15T08", 0) && part("web1", "2027-01-15T08", 1));
}
