//! What people see: the tree, the times, and nothing that a terminal would obey.

use super::*;
use crate::analysis::pairing::Pairing;
use crate::event::loss::lost;
use crate::event::{Frame, LossStage, ProcessChange, Reason};
use crate::event::{Session, Summary, Text};
use crate::probe::Probe;
use crate::text::obeyed;

fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
        ..Text::default()
    }
}

fn place(function: &str) -> Arc<Place> {
    Arc::new(Place {
        file: text("/srv/app.py"),
        function: text(function),
        qualname: None,
        group: None,
    })
}

const START: u64 = 1_700_000_000_000_000_000;

fn at(micros: u64, what: What) -> Event {
    Event {
        ts: START + micros * 1_000,
        pid: 7,
        tid: 7,
        interpreter: None,
        what,
    }
}

fn call(micros: u64, function: &str) -> Event {
    let place = place(function);
    at(
        micros,
        What::Call {
            place,
            line: 10,
            frame: Frame::default(),
        },
    )
}

fn ret(micros: u64, function: &str, duration_ns: Option<u64>) -> Event {
    let what = What::Return {
        place: place(function),
        line: 12,
        duration_ns,
        frame: Frame::default(),
    };
    at(micros, what)
}

const COLOURED: Options = Options {
    colour: true,
    width: None,
};

fn shown(options: Options, events: &[(Event, usize)]) -> String {
    shown_of(&Session::default(), options, events)
}

fn shown_of(session: &Session, options: Options, events: &[(Event, usize)]) -> String {
    let mut bytes = Vec::new();
    let mut sink = Box::new(Flow::new(&mut bytes, options));
    sink.session(session).expect("memory");
    for (event, depth) in events {
        sink.show(event, *depth);
    }
    sink.finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    String::from_utf8(bytes).expect("UTF-8")
}

fn plain(events: &[(Event, usize)]) -> String {
    shown(Options::default(), events)
}

#[test]
fn calls_are_indented_and_leaves_are_one_line() {
    let tree = plain(&[
        (call(0, "main"), 0),
        (call(4, "load"), 1),
        (ret(1_238, "load", Some(1_234_000)), 1),
        (call(1_300, "store"), 1),
        (call(1_400, "write"), 2),
        (ret(1_500, "write", None), 2),
        (ret(1_600, "store", Some(300_000)), 1),
        (ret(2_000, "main", Some(2_000_000)), 0),
    ]);
    let expected = "       0.000 ms  -> main  /srv/app.py:10
       0.004 ms    -- load  /srv/app.py:10  1.234 ms
       1.300 ms    -> store  /srv/app.py:10
       1.400 ms      -- write  /srv/app.py:10
       1.600 ms    <- store  0.300 ms
       2.000 ms  <- main  2.000 ms
";
    assert_eq!(tree, expected);
}

#[test]
fn everything_else_stands_in_the_same_stream() {
    let module = Arc::new(text("json"));
    let rest = plain(&[
        (call(0, "main"), 0),
        (at(1, What::GcStart { generation: 2 }), 1),
        (
            at(
                2,
                What::GcDone {
                    generation: Some(2),
                    collected: 5,
                    pause_ns: Some(1_000),
                },
            ),
            1,
        ),
        (at(3, What::Plain(Plain::new(Probe::ImportDone, module))), 1),
        (
            at(
                4,
                What::Process {
                    change: ProcessChange::Fork,
                    parent: Some(7),
                    command: Some(Arc::new(text("worker"))),
                },
            ),
            0,
        ),
        (
            at(
                5,
                What::Lost {
                    count: 3,
                    stage: LossStage::Kernel,
                    message: "3 events were lost".to_owned(),
                },
            ),
            0,
        ),
    ]);
    let expected = "       0.000 ms  -> main  /srv/app.py:10
       0.001 ms    gc: generation 2 begins
       0.002 ms    gc: generation 2, 5 unreachable  0.001 ms
       0.003 ms    import json: not found
       0.004 ms  process 7 fork, parent 7, worker
       0.005 ms  lost: 3 events were lost
";
    assert_eq!(rest, expected);
}

#[test]
fn a_line_that_nobody_knows_is_left_out() {
    let mut closure = call(0, "uses");
    if let What::Call { line, .. } = &mut closure.what {
        *line = -1;
    }
    let shown = plain(&[(closure, 0), (call(1, "known"), 1)]);
    assert!(shown.contains("/srv/app.py\n"), "{shown}");
    assert!(!shown.contains("-1"), "{shown}");
}

#[test]
fn threads_are_named_from_the_moment_there_are_several() {
    let mut other = call(2, "other");
    other.tid = 8;
    let lines = plain(&[(call(0, "main"), 0), (call(1, "f"), 1), (other, 0)]);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(!lines[1].contains("7/7"), "{lines:?}");
    assert!(lines[2].contains("7/8"), "{lines:?}");
}

#[test]
fn a_call_of_one_thread_is_not_folded_with_the_return_of_another() {
    let mut other = ret(2, "f", None);
    other.tid = 8;
    let lines = plain(&[(call(0, "f"), 0), (other, 0)]);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(!lines.contains("--"), "{lines}");
}

#[test]
fn a_hostile_name_reaches_the_terminal_as_text_only() {
    let hostile = "\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}gnp.exe";
    for options in [Options::default(), COLOURED] {
        let message = hostile.to_owned();
        let what = What::Lost {
            count: 1,
            stage: LossStage::Output,
            message,
        };
        let audit = What::Plain(Plain::new(Probe::Audit, Arc::new(text(hostile))));
        let events = [(call(0, hostile), 0), (at(1, what), 0), (at(2, audit), 0)];
        let lines = shown(options, &events);
        assert_eq!(lines.lines().count(), 3, "{lines:?}");
        let stripped = anstream::adapter::strip_str(&lines).to_string();
        assert!(
            stripped.chars().all(|it| it == '\n' || !obeyed(it)),
            "{stripped:?}"
        );
        assert!(
            stripped.contains("\\u{1b}]0;owned\\u{7}\\u{d}\\u{a}"),
            "{stripped:?}"
        );
    }
}

#[test]
fn colours_appear_only_when_told_so_and_change_nothing_else() {
    let events = [(call(0, "main"), 0), (ret(9, "main", Some(9_000)), 0)];
    let coloured = shown(COLOURED, &events);
    assert!(coloured.contains('\u{1b}'));
    assert!(!plain(&events).contains('\u{1b}'));
    assert_eq!(
        anstream::adapter::strip_str(&coloured).to_string(),
        plain(&events)
    );
}

#[test]
fn what_was_cut_or_unreadable_is_said_to_be() {
    let mut cut = text("a_long_na");
    cut.cut = true;
    let unreadable = Text {
        unreadable: true,
        ..Text::default()
    };
    let place = Arc::new(Place {
        file: unreadable,
        function: cut,
        qualname: None,
        group: None,
    });
    let line = plain(&[(
        at(
            0,
            What::Call {
                place,
                line: 3,
                frame: Frame::default(),
            },
        ),
        0,
    )]);
    assert!(line.contains("a_long_na...  [unreadable]:3"), "{line}");
}

#[test]
fn losses_are_shown_once_a_second_and_the_rest_at_the_end() {
    let mut bytes = Vec::new();
    let mut sink = Box::new(Flow::new(&mut bytes, Options::default()));
    for (second, count) in [(1, 3), (1, 4), (1, 5), (3, 1), (3, 2)] {
        let event = lost(second * 1_000_000_000, 1, LossStage::Ring, count);
        sink.step(&Step::new(&event)).expect("memory");
    }
    sink.finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    let lines = String::from_utf8(bytes).expect("UTF-8");
    let counts = lines.lines().filter_map(|line| {
        let (_, words) = line.split_once("lost: ")?;
        words.split(' ').next()?.parse::<u64>().ok()
    });
    assert_eq!(counts.collect::<Vec<_>>(), [3, 10, 2], "{lines}");
}

#[test]
fn a_flush_shows_the_call_that_is_still_running() {
    let mut sink = Flow::new(Vec::new(), Options::default());
    sink.step(&Step::new(&call(0, "main"))).expect("memory");
    assert!(sink.output.is_empty());
    sink.flush().expect("memory");
    assert!(String::from_utf8_lossy(&sink.output).contains("-> main"));
}

#[test]
fn who_runs_how_and_with_which_values_is_shown_where_it_is_told() {
    let framed = |mut event: Event, context: u64, manner: Manner, value: Option<&str>| {
        if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
            *frame = Frame {
                context: NonZeroU64::new(context),
                manner,
                text: value.map(|value| Arc::new(text(value))),
                fields: None,
                idle_ns: 0,
            };
        }
        event
    };
    let name = What::Context {
        context: 5,
        name: Arc::new(text("worker-1")),
    };
    let tree = plain(&[
        (at(0, name), 0),
        (framed(call(0, "run"), 5, Manner::Running, None), 0),
        (
            framed(call(10, "step"), 5, Manner::Plain, Some(r#"{"number":1}"#)),
            1,
        ),
        (
            framed(ret(20, "step", Some(10_000)), 5, Manner::Plain, Some("[2]")),
            1,
        ),
        (framed(ret(30, "run", None), 5, Manner::Suspension, None), 0),
        (framed(call(40, "other"), 6, Manner::Suspension, None), 0),
        (framed(call(45, "other"), 5, Manner::Plain, None), 0),
        (
            framed(ret(50, "other", None), 6, Manner::Exception, None),
            0,
        ),
    ]);
    assert_eq!(
        tree,
        "       0.000 ms  -> run [worker-1]  /srv/app.py:10  running already
       0.010 ms    -- step [worker-1]  /srv/app.py:10  {\"number\":1}  0.010 ms  = [2]
       0.030 ms  <- run [worker-1]  suspended
       0.040 ms  -> other [0x6]  /srv/app.py:10  resumed
       0.045 ms  -> other [worker-1]  /srv/app.py:10
       0.050 ms  <- other [0x6]  exception
"
    );
}

#[test]
fn what_happens_in_an_interpreter_within_the_interpreter_is_shown_as_such() {
    let within = |mut event: Event, interpreter| {
        event.interpreter = NonZeroU32::new(interpreter);
        event
    };
    let tree = plain(&[
        (call(0, "run"), 0),
        (within(call(10, "job"), 2), 1),
        (within(ret(20, "job", Some(10_000)), 2), 1),
        // Of another one.
        (within(call(30, "job"), 3), 1),
        (within(ret(40, "job", None), 2), 1),
        (within(at(50, What::GcStart { generation: 0 }), 3), 1),
    ]);
    assert_eq!(
        tree,
        "       0.000 ms  -> run  /srv/app.py:10
       0.010 ms    -- job [interpreter 2]  /srv/app.py:10  0.010 ms
       0.030 ms    -> job [interpreter 3]  /srv/app.py:10
       0.040 ms    <- job [interpreter 2]
       0.050 ms    gc: generation 0 begins [interpreter 3]
"
    );
}

/// See `tests/integration/snapshots.rs` for how a snapshot is changed.
#[test]
fn a_small_trace_as_it_is_seen() {
    let gc = What::GcDone {
        generation: Some(2),
        collected: 17,
        pause_ns: Some(40_000),
    };
    insta::assert_snapshot!(plain(&[
        (call(0, "main"), 0),
        (call(4, "load"), 1),
        (ret(1_238, "load", Some(1_234_000)), 1),
        (call(1_300, "store"), 1),
        (at(1_350, What::GcStart { generation: 2 }), 2),
        (at(1_390, gc), 2),
        (call(1_400, "write\u{1b}[31m"), 2),
        (ret(1_500, "write\u{1b}[31m", None), 2),
        (ret(1_600, "store", Some(300_000)), 1),
        (call(2_000_000, "wait"), 1),
        (ret(4_500_000, "wait", Some(2_500_000_000)), 1),
        (ret(4_500_010, "main", Some(4_500_010_000)), 0),
    ]));
}

#[test]
fn an_object_is_made_and_unmade_with_its_class_and_its_module() {
    let instance = |probe, duration_ns| {
        let mut plain = Plain::new(probe, Arc::new(text("Server")));
        plain.texts[1] = Some(Arc::new(text("app.servers")));
        plain.duration_ns = duration_ns;
        What::Plain(plain)
    };
    let lines = plain(&[
        (at(0, instance(Probe::InstanceNewStart, None)), 0),
        (at(2, instance(Probe::InstanceNewDone, Some(2_000))), 0),
        (at(3, instance(Probe::InstanceDeleteStart, None)), 0),
        (at(4, instance(Probe::InstanceDeleteDone, None)), 0),
    ]);
    let expected = "       0.000 ms  new Server  app.servers begins
       0.002 ms  new Server  app.servers  0.002 ms
       0.003 ms  delete Server  app.servers begins
       0.004 ms  delete Server  app.servers
";
    assert_eq!(lines, expected);
}

#[test]
fn a_wait_stands_where_its_function_runs_with_what_ended_it() {
    let wait = |reason, queued, waker, on: Option<&str>| {
        What::Wait(Box::new(Wait {
            reason,
            syscall: reason.map(|_| Arc::new(text("recvfrom"))),
            on: on.map(|on| Arc::new(text(on))),
            blocked_ns: if reason.is_some() { 2_000_000 } else { 0 },
            runqueue_ns: queued,
            waker,
        }))
    };
    let by_thread = Some(Waker::Thread {
        tid: 8,
        name: Some(Arc::new(text("mysqld\u{1b}"))),
    });
    let network = Some(Reason::Network);
    let events = [
        (call(0, "f"), 0),
        (
            at(
                2_500,
                wait(network, Some(500_000), by_thread, Some("tcp [::1]:1")),
            ),
            1,
        ),
        (
            at(5_000, wait(network, None, Some(Waker::Interrupt), None)),
            1,
        ),
        (at(6_000, wait(None, Some(40_000), None, None)), 1),
        (ret(7_000, "f", Some(7_000_000)), 0),
    ];
    assert_eq!(
        shown(Options::default(), &events),
        "       0.000 ms  -> f  /srv/app.py:10\n       \
         2.500 ms    waited: network in recvfrom on tcp [::1]:1, woken by mysqld\\u{1b} (8)  2.500 ms  0.500 ms of it in the run queue\n       \
         5.000 ms    waited: network in recvfrom, woken by an interrupt  2.000 ms\n       \
         6.000 ms    waited: run-queue  0.040 ms\n       \
         7.000 ms  <- f  7.000 ms\n"
    );
}

#[test]
fn fields_stand_behind_a_call_and_behind_a_return_where_no_call_is_shown() {
    use crate::event::{Field, FieldValue, Fields};
    let fielded = |mut event: Event| {
        let field = |name: &str, value| Field {
            name: name.into(),
            value,
        };
        let cut = Text {
            cut: true,
            ..text("SELECT\n\u{1b}[31m")
        };
        let fields = Fields(vec![
            field("absent", FieldValue::Absent("a has no key".into())),
            field("rows", FieldValue::Integer(3)),
            field("sql", FieldValue::Text(cut)),
            field("thing", FieldValue::Other("Thing".to_owned())),
        ]);
        if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
            frame.fields = Some(Arc::new(fields));
        }
        event
    };
    let shown = r"rows=3  sql='SELECT\u{a}\u{1b}[31m...'  thing=<Thing>";
    let alone = plain(&[(fielded(ret(30, "run", Some(10_000))), 0)]);
    assert_eq!(
        alone,
        format!("       0.000 ms  <- run  0.010 ms  {shown}\n")
    );
    let both = plain(&[
        (fielded(call(0, "run")), 0),
        (call(5, "step"), 1),
        (ret(8, "step", Some(3_000)), 1),
        (fielded(ret(30, "run", Some(10_000))), 0),
    ]);
    assert_eq!(both.matches("rows=3").count(), 1, "{both}");
    assert!(
        both.contains(&format!("-> run  /srv/app.py:10  {shown}\n")),
        "{both}"
    );
}

#[test]
fn what_is_read_at_a_return_stands_behind_it_and_what_its_call_has_does_not_stand_there_again() {
    use crate::event::{Field, FieldValue, Fields};
    let fielded = |mut event: Event, names: &[&str]| {
        let field = |name: &&str| Field {
            name: (*name).into(),
            value: FieldValue::Integer(3),
        };
        let fields = Fields(names.iter().map(field).collect());
        if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
            frame.fields = Some(Arc::new(fields));
        }
        event
    };
    let paths = [("limit", "limit"), ("rows", "cursor.rowcount@return")];
    let session = Session {
        fields: paths
            .map(|(name, path)| (name.to_owned(), path.to_owned()))
            .into(),
        ..Session::default()
    };
    let events = [
        (fielded(call(0, "run"), &["limit"]), 0),
        (fielded(call(5, "step"), &["limit"]), 1),
        (fielded(ret(8, "step", Some(3_000)), &["limit", "rows"]), 1),
        (fielded(ret(30, "run", Some(30_000)), &["limit", "rows"]), 0),
    ];
    let shown = shown_of(&session, Options::default(), &events);
    let expected = "       0.000 ms  -> run  /srv/app.py:10  limit=3\n       \
        0.005 ms    -- step  /srv/app.py:10  limit=3  0.003 ms  rows=3\n       \
        0.030 ms  <- run  0.030 ms  rows=3\n";
    assert_eq!(shown, expected);
}

#[test]
fn lines_of_calls_fit_into_a_terminal_however_deep_they_are() {
    let deep = |depth: usize| {
        let mut call = call(0, "load_instance");
        if let What::Call { place, .. } = &mut call.what {
            let mut far = (**place).clone();
            far.file = text("/usr/lib/python3/dist-packages/nova/conductor/manager.py");
            *place = far.into();
        }
        (call, depth)
    };
    let events = [deep(1), deep(12), deep(300)];
    for colour in [false, true] {
        let narrow = Options {
            colour,
            width: Some(|| Some(80)),
        };
        let text = shown(narrow, &events);
        let text = anstream::adapter::strip_str(&text).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("  [12] -> load_instance"));
        assert!(lines[2].contains("  [300] -> load_instance"));
        for line in lines {
            assert!(line.ends_with("ger.py:10"), "{line}");
            assert!(line.chars().count() + FOR_DURATION <= 80, "{line}");
        }
    }
    let whole = plain(&events);
    assert_eq!(
        whole
            .matches("/usr/lib/python3/dist-packages/nova/conductor/manager.py:10")
            .count(),
        3
    );
}
