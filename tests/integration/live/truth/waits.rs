//! Waits beside calls on Debian 12's Python: what a recording says that the threads of a function did not run is what the program
//! measured with its own clocks, and exports give out that time once.

use serde_json::Value;

use super::why::{queued, rounds};
use crate::command::pystap_with;
use crate::offcpu::has;

/// Functions with what the frame above them says that they wait for.
const FUNCTIONS: [(&str, &str); 5] = [
    ("sleeps", "[sleep: clock_nanosleep]"),
    ("waits_for_a_lock", "[lock: futex]"),
    ("waits_for_a_socket", "[network: recvfrom]"),
    ("burns", "[run-queue]"),
    ("contends", "[gil: futex]"),
];

/// Sums of so many calls: each may be off by a millisecond, because a call begins before the program can look at its clocks.
fn near(what: &str, calls: usize, seen: f64, least: f64, most: f64) -> Result<(), String> {
    let slack = calls as f64;
    let (least, most) = (0.98 * least - slack, 1.02 * most + slack);
    match (least..=most).contains(&seen) {
        true => Ok(()),
        false => Err(format!("{what}: {seen} ms, not between {least} and {most}")),
    }
}

/// The lines of folded stacks that have both of these frames, together, in milliseconds.
fn folded(file: &str, time: &[&str], function: &str, frame: &str) -> f64 {
    let arguments = [&["export", file, "-f", "folded"], time].concat();
    let made = pystap_with(&arguments);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let function = format!(";{function} (");
    let lines = made.stdout.lines().filter_map(|line| {
        let (path, took) = line.rsplit_once(' ')?;
        let is_meant = format!(";{path}").contains(&function) && path.contains(frame);
        is_meant.then(|| took.parse::<f64>().expect("a number") / 1e6)
    });
    lines.sum()
}

/// A call from which its processor is taken before the program can look at its clocks is measured anew, but not for ever.
fn at_last(measured: impl Fn() -> Result<(), String>) {
    let mut wrong = Vec::new();
    while let Err(sentence) = measured() {
        wrong.push(sentence);
        assert!(wrong.len() < 8, "{wrong:#?}");
    }
}

/// The arguments that ask for the functions alone.
fn functions() -> Vec<&'static str> {
    let each = FUNCTIONS.iter();
    each.flat_map(|(function, _)| ["--function", *function])
        .collect()
}

fn row<'a>(rows: &'a [Value], function: &str) -> &'a Value {
    let row = rows.iter().find(|row| row["function"] == function);
    row.unwrap_or_else(|| panic!("no {function} in {rows:#?}"))
}

/// A time of a row, in milliseconds.
fn time(row: &Value, name: &str) -> f64 {
    row[name].as_f64().expect("a time") / 1e6
}

/// How long all calls of a function may have waited for a processor, at least and at most.
fn queued_in_all(truth: &[Value], function: &str) -> [f64; 2] {
    truth.iter().fold([0.0, 0.0], |[least, most], round| {
        let [at_least, at_most] = queued(&round[function]);
        [least + at_least, most + at_most]
    })
}

/// Whether a table has what the program measured.
fn check(rows: &[Value], truth: &[Value]) -> Result<(), String> {
    for (function, _) in FUNCTIONS {
        let row = row(rows, function);
        let calls = truth.len();
        assert_eq!(row["calls"].as_u64(), Some(calls as u64), "{row:#}");
        let all = |what: &dyn Fn(&Value) -> &Value| -> f64 {
            let each = truth.iter().map(|round| what(&round[function]).as_f64());
            each.map(|it| it.expect("measured")).sum()
        };
        let (wall, cpu) = (all(&|it| &it["wall"]), all(&|it| &it["cpu"]));
        let [least, most] = queued_in_all(truth, function);
        near("run queue", calls, time(row, "runqueue_ns"), least, most)?;
        // A host that takes a processor away looks like running, and is in no clock of the thread.
        let computes = 10.0 * calls as f64;
        let taken = if cpu > computes { computes } else { 0.0 };
        let off = time(row, "off_ns");
        let (least, most) = (wall - cpu - most - taken, wall - cpu - least);
        near("blocked", calls, off, least, most)?;
        let gil = time(row, "gil_ns");
        match function {
            "contends" => near("GIL", 1, gil, off - 1.0, off)?,
            _ => assert!(gil <= off, "{row:#}"),
        }
    }
    Ok(())
}

fn a_recording_has_what_the_program_measured(way: &[&str]) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("waits.pystap");
    let file = file.to_str().expect("UTF-8");
    let arguments = [&["record", "--waits", "-o", file], &functions()[..], way].concat();
    let (truth, _, said) = rounds("threads", &arguments);
    assert!(said.contains("nothing lost"), "{said}");
    let report = pystap_with(&["report", file, "--json"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let rows = report["functions"].as_array().expect("rows");
    check(rows, &truth)?;
    for (function, reason) in FUNCTIONS {
        let row = row(rows, function);
        let of = |name: &str| time(row, name);
        // The time of the processor and that of waits are all of it, and both stand in the third.
        let times = [
            &[][..],
            &["--time", "cpu"],
            &["--time", "off"],
            &["--time", "wall"],
        ];
        let [own, on, off, both] = times.map(|time| folded(file, time, function, ""));
        let waits = of("off_ns") + of("runqueue_ns");
        for (what, seen, truth) in [
            ("own time", own, of("self_ns")),
            ("waits", off, waits),
            ("both", on + off, own),
            ("one picture", both, own),
        ] {
            assert!(
                (seen - truth).abs() < 0.01,
                "{function}, {what}: {seen}, not {truth}"
            );
        }
        let waited = folded(file, &["--time", "off"], function, reason);
        let expected = match function {
            "burns" => of("runqueue_ns"),
            "contends" => of("gil_ns"),
            _ => of("off_ns") - of("gil_ns"),
        };
        near(reason, 1, waited, expected, expected)?;
    }
    Ok(())
}

/// The same of the last table of `pystap top`.
fn the_live_table_has_what_the_program_measured() -> Result<(), String> {
    let arguments = [
        &["top", "--waits", "--json", "--interval", "1s"],
        &functions()[..],
        &["--agent", "--inject", "ptrace"],
    ];
    let (truth, written, said) = rounds("threads", &arguments.concat());
    assert!(said.contains("nothing lost"), "{said}");
    let table = written.lines().last().expect("a table");
    let table: Value = serde_json::from_str(table).expect("JSON");
    check(table["functions"].as_array().expect("rows"), &truth)
}

/// The rows of `pystap offcpu` by stack, and what the program measured. A machine that had no time for us loses some, which it says.
fn offcpu(way: &[&str]) -> Result<(Vec<Value>, Vec<Value>), String> {
    let by_stack = ["--json", "--by", "stack", "--limit", "100000"];
    let (truth, written, said) = rounds("threads", &[&["offcpu"][..], &by_stack, way].concat());
    let told = written.lines().last().expect("a document");
    let told: Value = serde_json::from_str(told).expect("JSON");
    if told["lost_waits"] != 0 || told["lost_records"] != 0 {
        return Err(said);
    }
    let rows = told["rows"].as_array().expect("rows").clone();
    Ok((truth, rows))
}

/// Of rows in which a function waits, those that are for this, together: waits and milliseconds.
fn waited(rows: &[Value], function: &str, is_for: impl Fn(&str) -> bool) -> (u64, f64) {
    let own = rows.iter().filter(|row| has(&row["stack"], function));
    let own = own.filter(|row| is_for(row["reasons"][0]["reason"].as_str().expect("a word")));
    own.fold((0, 0.0), |(waits, blocked), row| {
        let number = row["waits"].as_u64().expect("a number");
        (waits + number, blocked + time(row, "blocked_ns"))
    })
}

/// The word for a reason in what stands above a function in a flame graph.
fn word(frame: &str) -> &str {
    let end = frame.find([':', ']']).expect("a frame");
    &frame[1..end]
}

fn offcpu_with_all_calls_has_what_the_program_measured(way: &[&str]) -> Result<(), String> {
    let (truth, rows) = offcpu(&[&["--all-calls"], way].concat())?;
    for row in &rows {
        assert_eq!(row["estimated_waits"], 0, "{row:#}");
        assert_eq!(row["estimated_ns"], 0, "{row:#}");
        // A wait that was told too late.
        if row["place"] == "not_seen" {
            return Err(format!("{row:#}"));
        }
    }
    for (function, reason) in FUNCTIONS {
        let calls = truth.len();
        let all = |what: &dyn Fn(&Value) -> &Value| -> f64 {
            let each = truth.iter().map(|round| what(&round[function]).as_f64());
            each.map(|it| it.expect("measured")).sum()
        };
        let off = all(&|it| &it["wall"]) - all(&|it| &it["cpu"]);
        let [least, most] = queued_in_all(&truth, function);
        // A host that takes a processor away looks like running, and is in no clock of the thread.
        let computes = ["burns", "contends"].contains(&function);
        let taken = if computes { 10.0 * calls as f64 } else { 0.0 };
        let (waits, blocked) = waited(&rows, function, |_| true);
        near(function, calls, blocked, off - most - taken, off - least)?;
        if function != "burns" {
            if waits < calls as u64 {
                return Err(format!("{function}: {waits} of {calls}"));
            }
            let (_, of_reason) = waited(&rows, function, |it| it == word(reason));
            near(reason, calls, of_reason, blocked, blocked)?;
        }
        // It is called from what ran before.
        for row in rows.iter().filter(|row| has(&row["stack"], function)) {
            assert!(has(&row["stack"], "<module>"), "{row:#}");
        }
    }
    Ok(())
}

/// Without calls and with them, the same functions wait for the same, as often.
fn the_same_functions_have_the_long_waits(way: &[&str]) -> Result<(), String> {
    let long = ["--min", "20ms"];
    let told = |way: &[&str]| {
        let (_, rows) = offcpu(&[&long[..], way].concat())?;
        let waits = FUNCTIONS[..3].iter().map(|(function, reason)| {
            let (waits, _) = waited(&rows, function, |it| it == word(reason));
            (*function, waits)
        });
        Ok::<Vec<_>, String>(waits.collect())
    };
    let (plain, with_calls) = (told(&[])?, told(&[&["--all-calls"], way].concat())?);
    assert!(plain.iter().all(|(_, waits)| *waits > 0), "{plain:?}");
    match plain == with_calls {
        true => Ok(()),
        false => Err(format!("{plain:?}, and with all calls {with_calls:?}")),
    }
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/uprobes/run"]
fn offcpu_with_all_calls_is_what_the_program_measured_by_probes() {
    let way = ["--engine", "uprobes", "--no-agent"];
    at_last(|| offcpu_with_all_calls_has_what_the_program_measured(&way));
    at_last(|| the_same_functions_have_the_long_waits(&way));
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn offcpu_with_all_calls_is_what_the_program_measured_with_the_agent() {
    let way = ["--agent", "--inject", "ptrace"];
    at_last(|| offcpu_with_all_calls_has_what_the_program_measured(&way));
    at_last(|| the_same_functions_have_the_long_waits(&way));
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/uprobes/run"]
fn waits_beside_calls_are_what_the_program_measured_by_probes() {
    at_last(|| a_recording_has_what_the_program_measured(&["--engine", "uprobes", "--no-agent"]));
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn waits_beside_calls_are_what_the_program_measured_with_the_agent() {
    at_last(|| a_recording_has_what_the_program_measured(&["--agent", "--inject", "ptrace"]));
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn waits_in_the_live_table_are_what_the_program_measured() {
    at_last(the_live_table_has_what_the_program_measured);
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn what_was_recorded_without_waits_is_not_exported_with_their_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("none.pystap");
    let file = file.to_str().expect("UTF-8");
    let (_, _, said) = rounds(
        "threads",
        &[
            "record",
            "-o",
            file,
            "--function",
            "sleeps",
            "--agent",
            "--inject",
            "ptrace",
        ],
    );
    assert!(said.contains("nothing lost"), "{said}");
    let refused = pystap_with(&["export", file, "-f", "folded", "--time", "off"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused
            .only_error()
            .contains("`pystap record --waits -o FILE -p PID`"),
        "{}",
        refused.stderr
    );
    let report = pystap_with(&["report", file]);
    assert!(!report.stdout.contains("RUNQ"), "{}", report.stdout);
}
