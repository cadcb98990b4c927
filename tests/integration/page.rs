//! `pystap export -f html` in a real Chromium: what the page shows is what was recorded, by mouse and by keyboard, and
//! it asks for nothing and runs nothing that stands in a recording.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::{
    Event, Frame, Place, Reason, Session, SessionTarget, Summary, Text, Wait, What,
};
use pystap::export::{End, Sink};
use pystap::recording::Writer;
use serde_json::Value;

use crate::browser::{Browser, DOWN, ENTER, ESCAPE, RIGHT, UP};
use crate::command::{Ended, pystap_with};
use crate::outputs;

pub(crate) const MS: u64 = 1_000_000;
/// When everything begins.
const EPOCH: u64 = 1_800_000_000_000_000_000;

pub(crate) fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
        ..Text::default()
    }
}

fn place(function: &str) -> Arc<Place> {
    Arc::new(Place {
        file: text("app.py"),
        function: text(function),
        qualname: None,
        group: None,
    })
}

/// An event in a thread, so many microseconds after the beginning.
pub(crate) fn event(tid: u32, at_us: u64, what: What) -> Event {
    Event {
        ts: EPOCH + at_us * 1_000,
        pid: 7,
        tid,
        interpreter: None,
        what,
    }
}

fn frame(tid: u32) -> Frame {
    Frame {
        context: NonZeroU64::new(u64::from(tid == 8)),
        ..Frame::default()
    }
}

fn call(tid: u32, at_us: u64, function: &str) -> Event {
    let what = What::Call {
        place: place(function),
        line: 1,
        frame: frame(tid),
    };
    event(tid, at_us, what)
}

fn back(tid: u32, at_us: u64, function: &str) -> Event {
    let what = What::Return {
        place: place(function),
        line: 2,
        duration_ns: None,
        frame: frame(tid),
    };
    event(tid, at_us, what)
}

/// Thread 7: main for 10 ms, in which load waits for the network for 1.5 of its 3 ms, and work takes 4 ms, half of them in
/// inner, which collects garbage for half a millisecond. Thread 8: a task in which handle takes 4 ms.
fn program(work_us: u64) -> Vec<Event> {
    let wait = Wait {
        reason: Some(Reason::Network),
        syscall: Some(Arc::new(text("recvfrom"))),
        on: None,
        blocked_ns: 3 * MS / 2,
        runqueue_ns: None,
        waker: None,
    };
    let done = What::GcDone {
        generation: None,
        collected: 3,
        pause_ns: None,
    };
    let named = |context, name| What::Context {
        context,
        name: Arc::new(text(name)),
    };
    let end = 6_000 + work_us;
    let mut events = vec![
        call(7, 0, "main"),
        call(7, 1_000, "load"),
        event(7, 3_000, What::Wait(Box::new(wait))),
        back(7, 4_000, "load"),
        call(7, 4_000, "work"),
        call(7, 5_000, "inner"),
        event(7, 5_500, What::GcStart { generation: 2 }),
        event(7, 6_000, done),
        back(7, 7_000, "inner"),
        back(7, 4_000 + work_us, "work"),
        back(7, end, "main"),
        event(8, 1_900, named(0, "rpc_0")),
        event(8, 2_000, named(1, "Task-1")),
        call(8, 2_000, "handle"),
        back(8, 6_000, "handle"),
    ];
    events.sort_by_key(|event| event.ts);
    events
}

pub(crate) fn recorded(path: &Path, kinds: &[&str], events: Vec<Event>) {
    let rules = PairingRules {
        call_on_creation: false,
        greenlets: false,
    };
    let session = Session {
        ts: EPOCH,
        pystap: "0".to_owned(),
        engine: "uprobes".to_owned(),
        events: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        targets: vec![SessionTarget {
            pid: 7,
            command: "python3 app.py".to_owned(),
            python: Some("3.14.0".to_owned()),
        }],
        ..Session::default()
    };
    let summary = Summary {
        wall_ns: 10 * MS,
        ended: "targets_ended".to_owned(),
        ..Summary::default()
    };
    let mut pairing = Pairing::with_rules(rules);
    let mut sink = Box::new(Writer::new(fs::File::create(path).expect("a file"), rules));
    sink.session(&session).expect("written");
    for mut event in events {
        pairing.feed(&mut event);
        sink.step(&Step::new(&event)).expect("written");
    }
    sink.finish(&End::new(&summary, &pairing)).expect("written");
}

fn done(arguments: &[&str]) -> Ended {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

/// Recordings and pages in a directory of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// A recording of calls, collections and waits.
    fn recording(&self, name: &str, events: Vec<Event>) -> String {
        recorded(&self.path(name), &["call", "return", "gc", "wait"], events);
        self.word(name)
    }

    fn page(&self, recording: &str, more: &[&str]) -> PathBuf {
        let page = self.word("page.html");
        done(&[&["export", "-f", "html", "-o", &page, recording], more].concat());
        self.path("page.html")
    }
}

/// A page that asked for itself alone, and of which nobody complained.
fn is_content(browser: &Browser, page: &Path) {
    assert_eq!(browser.console(), Vec::<String>::new());
    let itself = format!("\"file://{}\"", page.display());
    assert_eq!(browser.requests(), [itself]);
}

fn rows(browser: &Browser, table: &str, column: usize) -> Value {
    browser.run(&format!(
        "return [...document.getElementById('{table}').tBodies[0].rows].map(row => row.cells[{column}].textContent)"
    ))
}

#[test]
#[ignore = "needs Debian's chromium and chromium-driver: run by scripts/test-here"]
fn a_page_shows_what_was_recorded_by_keyboard_and_by_mouse_and_asks_for_nothing() {
    let files = Files::new();
    let page = files.page(&files.recording("run.pystap", program(4_000)), &[]);
    let browser = Browser::open();
    browser.load(&page);
    let status = || browser.text("#flame-status");
    assert_eq!(browser.text("#title"), "process 7: python3 app.py");
    assert_eq!(status(), "all: 14.0 ms, 100.0 %");

    // Into the widest that was called, and out again.
    browser.run("document.getElementById('flame-canvas').focus()");
    browser.press(DOWN);
    assert_eq!(status(), "main (app.py:1): 10.0 ms, 71.4 %; itself 3.00 ms");
    browser.press(DOWN);
    assert_eq!(status(), "work (app.py:1): 4.00 ms, 28.6 %; itself 2.00 ms");
    browser.press(RIGHT);
    assert_eq!(status(), "load (app.py:1): 3.00 ms, 21.4 %; itself 1.50 ms");
    browser.press(ENTER);
    assert!(
        status().ends_with("; zoomed to load (app.py:1)"),
        "{}",
        status()
    );
    browser.press(ESCAPE);
    assert!(
        status().ends_with("; zoomed to main (app.py:1)"),
        "{}",
        status()
    );
    browser.press("0");
    assert_eq!(status(), "all: 14.0 ms, 100.0 %");
    browser.press(DOWN);
    browser.press(UP);
    assert_eq!(status(), "all: 14.0 ms, 100.0 %");
    // The second row of the picture, in its first half.
    let high = browser.run("return document.getElementById('flame-canvas').clientHeight");
    let high = high.as_i64().expect("pixels");
    browser.click_at("#flame-canvas", -300, 27 - high / 2);
    assert!(
        status().starts_with("main (app.py:1): 10.0 ms"),
        "{}",
        status()
    );
    assert!(
        status().ends_with("zoomed to main (app.py:1)"),
        "{}",
        status()
    );
    browser.click("#reset");

    // Which time, and from whose end.
    let choose = |mode: &str| {
        browser.run(&format!(
            "const mode = document.getElementById('mode'); mode.value = '{mode}'; mode.dispatchEvent(new Event('change'))"
        ));
    };
    choose("cpu");
    assert_eq!(status(), "all: 12.5 ms, 100.0 %");
    choose("off");
    assert_eq!(status(), "all: 1.50 ms, 100.0 %");
    browser.run("document.getElementById('flame-canvas').focus()");
    browser.press(&[DOWN, DOWN, DOWN].concat());
    assert_eq!(
        status(),
        "[network: recvfrom]: 1.50 ms, 100.0 %; itself 1.50 ms"
    );
    choose("wall");
    browser.press("i");
    browser.press(DOWN);
    assert_eq!(status(), "handle (app.py:1): 4.00 ms, 28.6 %");
    browser.press(&[RIGHT, DOWN].concat());
    assert_eq!(
        status(),
        "main (app.py:1): 3.00 ms, 21.4 %",
        "which nobody called"
    );
    browser.press("i");

    // Search.
    browser.press("/inner");
    assert_eq!(browser.text("#matches"), "1 function, 14.3 %");
    browser.press(ESCAPE);
    assert_eq!(browser.text("#matches"), "");

    // The table: by own time first, then by what is clicked.
    browser.press("3");
    let names = || rows(&browser, "table", 10);
    let functions = |names: [&str; 5]| Value::from(names.to_vec());
    assert_eq!(
        names(),
        functions(["handle", "load", "main", "inner", "work"])
    );
    assert_eq!(
        rows(&browser, "table", 1),
        functions(["4.00 ms", "3.00 ms", "3.00 ms", "2.00 ms", "2.00 ms"])
    );
    assert_eq!(
        rows(&browser, "table", 7),
        functions(["0 ns", "1.50 ms", "0 ns", "0 ns", "0 ns"]),
        "off the processor"
    );
    browser.click("#table th:nth-child(4) button");
    assert_eq!(
        names(),
        functions(["main", "handle", "work", "load", "inner"])
    );
    browser.click("#table th:nth-child(4) button");
    assert_eq!(
        names(),
        functions(["inner", "load", "handle", "work", "main"])
    );
    browser.click("#table tbody button");
    assert_eq!(
        browser.text("#matches"),
        "1 function, 14.3 %",
        "in the flame graph"
    );

    // Who did what when.
    browser.press("2");
    browser.run("document.getElementById('time-canvas').focus()");
    let when = || browser.text("#time-status");
    assert!(
        when().starts_with("process 7: python3 app.py, 0 ns to "),
        "{}",
        when()
    );
    assert!(
        when().ends_with("; in all running 12.5 ms, waiting 1.50 ms, collecting 500 µs"),
        "{}",
        when()
    );
    browser.press(DOWN);
    assert!(
        when().starts_with("thread 7, ") && when().contains("100.0 % running; most of it in main"),
        "{}",
        when()
    );
    browser.press(DOWN);
    assert!(
        when().starts_with("rpc_0 (thread 8), ") && when().ends_with("in all running 4.00 ms"),
        "{}",
        when()
    );
    browser.press(DOWN);
    assert!(
        when().starts_with("Task-1: handle, ") && when().ends_with("in all running 4.00 ms"),
        "{}",
        when()
    );

    // Distributions and collections.
    browser.press("4");
    assert!(
        browser
            .text("#latency-status")
            .starts_with("1 time, 4.00 ms in all")
    );
    assert_eq!(rows(&browser, "latency", 1), Value::from(vec!["1"]));
    browser.press("5");
    assert_eq!(browser.text("#pause-status"), "1 collection, 500 µs in all");
    assert_eq!(
        rows(&browser, "longest", 6),
        Value::from(vec!["inner (app.py)"])
    );
    browser.press("6");
    let facts = browser.text("#facts");
    assert!(
        facts.contains("process 7: python3 app.py, Python 3.14.0"),
        "{facts}"
    );
    assert_eq!(browser.text("#notes"), "nothing that is known of");
    browser.press("?");
    assert!(browser.text("#help").contains("invert the flame graph"));
    browser.press(ESCAPE);

    // Light and dark, by what the user likes and by choice.
    let back = || browser.run("return getComputedStyle(document.body).backgroundColor");
    browser.prefers("light");
    assert_eq!(back(), "rgb(255, 255, 255)");
    browser.prefers("dark");
    assert_eq!(back(), "rgb(15, 19, 24)");
    browser.press("1");
    browser.click("#theme");
    assert_eq!(back(), "rgb(255, 255, 255)");
    is_content(&browser, &page);
}

#[test]
#[ignore = "needs Debian's chromium and chromium-driver: run by scripts/test-here"]
fn names_that_look_like_a_page_are_shown_and_nothing_of_them_runs() {
    let files = Files::new();
    let recording = outputs::recording(files.0.path());
    let page = files.page(recording.to_str().expect("UTF-8"), &[]);
    let browser = Browser::open();
    browser.load(&page);
    assert_eq!(
        browser.run("return document.scripts.length"),
        2,
        "the data and the viewer"
    );
    assert_eq!(browser.run("return document.images.length"), 0);
    browser.press("3");
    let names = rows(&browser, "table", 7).to_string();
    browser.press("6");
    let facts = browser.run("return document.getElementById('facts').textContent");
    let facts = facts.as_str().expect("text");
    for (at, evil) in outputs::evil().0.iter().enumerate() {
        let shown = outputs::shown(evil);
        // Long ones are cut.
        let begins: String = shown.chars().take(200).collect();
        let name = Value::from(begins.as_str()).to_string();
        assert!(
            names.contains(name.trim_end_matches('"')),
            "{evil:?} in {names}"
        );
        // As many processes and notes are told one by one.
        assert!(at >= 50 || facts.contains(&begins), "{evil:?} in {facts}");
    }
    for view in ["1", "2", "4", "5"] {
        browser.press(view);
    }
    browser.press("1/<img");
    // A process, its function, and what stands in the file of that name.
    assert!(browser.text("#matches").starts_with("3 functions, "));
    // Had an alert come, nothing would have been answered.
    is_content(&browser, &page);
}

#[test]
#[ignore = "needs Debian's chromium and chromium-driver: run by scripts/test-here"]
fn recordings_with_nothing_and_hardly_anything_have_pages_and_two_have_one_of_their_differences() {
    let files = Files::new();
    let browser = Browser::open();
    let page = files.page(&files.recording("none.pystap", Vec::new()), &[]);
    browser.load(&page);
    assert!(
        browser
            .text("#flame-status")
            .starts_with("nothing took time of this kind")
    );
    browser.press("2");
    assert_eq!(
        browser.text("#time-status"),
        "no call was seen that took time"
    );
    browser.press("3");
    assert_eq!(browser.text("#table-status"), "no function was seen");
    browser.press("4");
    assert_eq!(
        browser.text("#latency-status"),
        "no call ended whose duration is known"
    );
    browser.press("5");
    assert_eq!(
        browser.text("#pause-status"),
        "no garbage collection was seen"
    );
    is_content(&browser, &page);

    let one = vec![call(7, 0, "f"), back(7, 2_000, "f")];
    let page = files.page(&files.recording("one.pystap", one), &[]);
    browser.load(&page);
    assert_eq!(browser.text("#flame-status"), "all: 2.00 ms, 100.0 %");
    is_content(&browser, &page);

    let before = files.recording("before.pystap", program(4_000));
    let after = files.recording("after.pystap", program(6_000));
    let page = files.page(&after, &["--diff", &before]);
    browser.load(&page);
    browser.run("document.getElementById('flame-canvas').focus()");
    browser.press(&[DOWN, DOWN].concat());
    assert_eq!(
        browser.text("#flame-status"),
        "work (app.py): 6.00 ms, 37.5 %; itself 4.00 ms; compared with 4.00 ms, 28.6 %"
    );
    browser.press("3");
    assert_eq!(
        rows(&browser, "table", 11)[0],
        "work",
        "what has changed most comes first"
    );
    assert_eq!(rows(&browser, "table", 4)[0], "+2.00 ms");
    is_content(&browser, &page);
}

#[test]
fn a_difference_is_for_pages_and_no_recording_is_overwritten_by_one() {
    let files = Files::new();
    let one = files.recording("one.pystap", program(4_000));
    let other = files.recording("other.pystap", program(4_000));
    let ended = pystap_with(&["export", "-f", "folded", "--diff", &other, &one]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.only_error().contains("--diff is for the format html"),
        "{ended:?}"
    );
    let ended = pystap_with(&["export", "-f", "html", "--diff", &other, "-o", &other, &one]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended
            .only_error()
            .contains("other.pystap would be overwritten"),
        "{ended:?}"
    );
}

#[test]
fn a_report_writes_the_same_page_as_an_export() {
    let files = Files::new();
    let recording = files.recording("run.pystap", program(4_000));
    let page = fs::read(files.page(&recording, &[])).expect("written");
    let html = files.word("report.html");
    let ended = done(&["report", "--html", &html, &recording]);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    assert_eq!(fs::read(html).expect("written"), page);
}
