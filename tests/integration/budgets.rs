//! What pystap takes of a machine, whatever it is given: recordings that are small and unpack to much, programs that make
//! names for ever, files of a gigabyte that are called Python. Measured is the peak of the real program's memory; the bounds
//! are those that docs/limits.md states, with what the program has anyway.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::{Event, Frame, Place, Session, Summary, Text, What};
use pystap::export::{End, Sink};
use pystap::recording::Writer;
use serde_json::Value;

use crate::command::{Ended, PYTHON, measured};
use crate::executable;

/// Most kilobytes that any export or report uses.
const MOST: u64 = 256 << 10;

fn text(text: String) -> Text {
    Text {
        text,
        ..Text::default()
    }
}

fn place(function: String) -> Arc<Place> {
    Arc::new(Place {
        file: text("/srv/app.py".to_owned()),
        function: text(function),
        qualname: None,
        group: None,
    })
}

/// A recording that is built event by event.
struct Made {
    _dir: tempfile::TempDir,
    path: PathBuf,
    writer: Box<Writer<fs::File>>,
    ts: u64,
    tid: u32,
}

impl Made {
    fn begin() -> Made {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run.pystap");
        let rules = PairingRules {
            call_on_creation: false,
            greenlets: false,
        };
        let file = fs::File::create(&path).expect("a file");
        let mut writer = Box::new(Writer::new(file, rules));
        writer.session(&Session::default()).expect("written");
        Made {
            _dir: dir,
            path,
            writer,
            ts: 1_800_000_000_000_000_000,
            tid: 1,
        }
    }

    fn put(&mut self, what: What) {
        self.ts += 1_000;
        let event = Event {
            ts: self.ts,
            pid: 7,
            tid: self.tid,
            interpreter: None,
            what,
        };
        self.writer.step(&Step::new(&event)).expect("written");
    }

    fn call(&mut self, place: &Arc<Place>) {
        self.put(What::Call {
            place: Arc::clone(place),
            line: 1,
            frame: Frame::default(),
        });
    }

    fn leave(&mut self, place: &Arc<Place>) {
        self.put(What::Return {
            place: Arc::clone(place),
            line: 2,
            duration_ns: None,
            frame: Frame::default(),
        });
    }

    /// Finishes it. The recording exists as long as the first part of the returned value.
    fn end(self) -> (tempfile::TempDir, PathBuf) {
        self.writer
            .finish(&End::new(&Summary::default(), &Pairing::new()))
            .expect("written");
        (self._dir, self.path)
    }
}

fn export(path: &std::path::Path, format: &str) -> (Ended, u64) {
    let output = path.with_extension(format);
    let [path, output] = [path, &output].map(|path| path.to_str().expect("UTF-8"));
    measured(&["export", path, "-f", format, "-o", output])
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_small_recording_of_deep_stacks_is_exported_within_the_bound_and_no_time_is_missing() {
    let mut made = Made::begin();
    let functions: Vec<_> = (0..1_500)
        .map(|depth| place(format!("{depth:_>400}")))
        .collect();
    // As text, with one line per stack, this is half a gigabyte.
    for _ in 0..10 {
        functions.iter().for_each(|place| made.call(place));
        functions.iter().rev().for_each(|place| made.leave(place));
    }
    let (_dir, path) = made.end();
    assert!(fs::metadata(&path).expect("there").len() < 700_000);
    for format in [
        "folded",
        "flamegraph",
        "chrome",
        "perfetto",
        "pprof",
        "html",
        "speedscope",
        "pstats",
        "parquet",
        "json",
    ] {
        let (ended, kilobytes) = export(&path, format);
        assert_eq!(ended.code, 0, "{format}: {ended:?}");
        assert!(kilobytes < MOST, "{format}: {kilobytes} kB");
    }
    let folded = fs::read_to_string(path.with_extension("folded")).expect("text");
    let total: u64 = folded
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    // All but the time between two rounds, when nothing runs.
    assert_eq!(total, (10 * 2 * 1_500 - 1) * 1_000 - 9 * 1_000);
    assert_eq!(folded.lines().count(), 1_500);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_recording_with_more_threads_than_there_are_is_exported_within_the_bound() {
    let mut made = Made::begin();
    let work = place("work".to_owned());
    for tid in 1..=200_000 {
        made.tid = tid;
        made.call(&work);
    }
    let (_dir, path) = made.end();
    for format in [
        "folded",
        "chrome",
        "perfetto",
        "pprof",
        "html",
        "speedscope",
        "pstats",
        "parquet",
    ] {
        let (ended, kilobytes) = export(&path, format);
        assert_eq!(ended.code, 0, "{format}: {ended:?}");
        assert!(kilobytes < MOST, "{format}: {kilobytes} kB");
    }
    let chrome = fs::read(path.with_extension("chrome")).expect("JSON");
    let chrome: Value = serde_json::from_slice(&chrome).expect("JSON");
    let events = chrome["traceEvents"].as_array().expect("events");
    let slices = events.iter().filter(|event| event["ph"] == "X");
    assert!(
        slices
            .clone()
            .all(|slice| slice["args"]["ends"].is_string())
    );
    assert_eq!(slices.count(), 200_000);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_program_that_makes_functions_for_ever_fills_the_table_and_what_is_in_no_row_is_told() {
    let mut made = Made::begin();
    for number in 0..200_000 {
        let place = place(format!("generated_{number}"));
        made.call(&place);
        made.leave(&place);
    }
    let (_dir, path) = made.end();
    let path = path.to_str().expect("UTF-8");
    let (ended, kilobytes) = measured(&["report", path, "--json", "--limit", "10"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < 150 << 10, "{kilobytes} kB");
    let table: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(table["account"]["calls_without_row"], 200_000 - 65_536);
    assert_eq!(
        table["account"]["self_ns_without_row"],
        (200_000_u64 - 65_536) * 1_000
    );
    assert_eq!(table["account"]["self_ns"], 200_000 * 1_000);
    let (ended, _) = measured(&["report", path]);
    assert!(
        ended.stdout.contains("; table full, 134464 calls ("),
        "{ended:?}"
    );
    for format in ["folded", "html", "perfetto", "pprof", "pstats", "parquet"] {
        let (ended, kilobytes) = export(std::path::Path::new(path), format);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(kilobytes < MOST, "{format}: {kilobytes} kB");
    }
    // Two of them beside each other.
    let page = format!("{path}.html");
    let (ended, kilobytes) = measured(&["export", path, "-f", "html", "--diff", path, "-o", &page]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < MOST, "{kilobytes} kB");
    assert!(fs::metadata(&page).expect("written").len() < 8 << 20);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn forty_thousand_long_names_are_held_within_the_bound_and_none_is_another() {
    let mut made = Made::begin();
    for number in 0..40_000 {
        let place = place(format!("{number:_>8000}"));
        made.call(&place);
        made.leave(&place);
    }
    let (_dir, path) = made.end();
    let file = path.to_str().expect("UTF-8");
    let (ended, kilobytes) = measured(&["report", file, "--json", "--limit", "100000"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < MOST, "{kilobytes} kB");
    let table: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let rows = table["functions"].as_array().expect("rows");
    let calls = |row: &Value| row["calls"].as_u64().expect("a number");
    assert_eq!(rows.iter().map(calls).sum::<u64>(), 40_000);
    let (marked, named): (Vec<_>, Vec<_>) = rows
        .iter()
        .partition(|row| row["function"] == "[name left out]");
    assert_eq!(marked.len(), 1, "one row for all of them");
    assert!(named.len() > 4_000 && named.iter().all(|row| calls(row) == 1));
    for format in ["perfetto", "pprof", "parquet"] {
        let (ended, kilobytes) = export(&path, format);
        assert_eq!(ended.code, 0, "{format}: {ended:?}");
        assert!(kilobytes < MOST, "{format}: {kilobytes} kB");
    }
    // As JSON, whose reader has the same bound.
    let (ended, kilobytes) = export(&path, "json");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < MOST, "{kilobytes} kB");
    let as_json = path.with_extension("json");
    let (ended, kilobytes) = measured(&["report", as_json.to_str().expect("UTF-8")]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < MOST, "{kilobytes} kB");
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn more_calls_than_speedscope_shows_are_refused_with_what_to_do_instead() {
    let mut made = Made::begin();
    let work = place("work".to_owned());
    for _ in 0..4_500_000 {
        made.call(&work);
        made.leave(&work);
    }
    let (_dir, path) = made.end();
    let (ended, kilobytes) = export(&path, "speedscope");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("--format chrome"), "{ended:?}");
    assert!(kilobytes < MOST, "{kilobytes} kB");
}

/// A program that waits for its input; ended when dropped.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn files_of_a_gigabyte_that_are_called_python_cost_no_more_than_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let running: Vec<Waiting> = (0..10)
        .map(|number| {
            let path = dir.path().join(format!("{number}/python3.11"));
            fs::create_dir(path.parent().expect("a directory")).expect("made");
            executable::copy(PYTHON, &path);
            // A sparse file; not by this process, which would make it busy.
            let grown = Command::new("truncate")
                .arg("--size=1G")
                .arg(&path)
                .status();
            assert!(grown.expect("coreutils").success());
            let child = Command::new(&path)
                .args(["-S", "-c", "input()", "a-gigabyte-of-python"])
                .stdin(Stdio::piped())
                .spawn();
            Waiting(child.expect("it runs"))
        })
        .collect();
    let (ended, kilobytes) = measured(&["ps", "--json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(kilobytes < 100 << 10, "{kilobytes} kB");
    let listed: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let found = listed.as_array().expect("a list").iter();
    let found: Vec<&Value> = found
        .filter(|process| running.iter().any(|it| process["pid"] == it.0.id()))
        .collect();
    assert_eq!(found.len(), 10, "{ended:?}");
    for process in found {
        let version = process["python"].as_str().expect("a version");
        assert!(version.starts_with("3.11."), "{process}");
        let marks = process["marks"].as_array().expect("marks");
        assert!(
            marks.iter().any(|mark| mark == "function__entry"),
            "{process}"
        );
    }
}
