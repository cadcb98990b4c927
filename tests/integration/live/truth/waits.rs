//! Waits beside calls on Debian 12's Python: what a recording says that the threads of a function did not run is what the program
//! measured with its own clocks, and exports give out that time once.

use serde_json::Value;

use super::why::rounds;
use crate::command::pystap_with;

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
fn waits_are_what_the_program_measured(way: &[&str]) {
    let mut wrong = Vec::new();
    while let Err(sentence) = measured(way) {
        wrong.push(sentence);
        assert!(wrong.len() < 3, "{wrong:#?}");
    }
}

/// Checks a run, and answers whether the lengths are right, too.
fn measured(way: &[&str]) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("waits.pystap");
    let file = file.to_str().expect("UTF-8");
    let functions: Vec<&str> = FUNCTIONS
        .iter()
        .flat_map(|(function, _)| ["--function", *function])
        .collect();
    let arguments = [&["record", "--waits", "-o", file], &functions[..], way].concat();
    let (truth, _, said) = rounds("threads", &arguments);
    assert!(said.contains("nothing lost"), "{said}");
    let report = pystap_with(&["report", file, "--json"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let rows = report["functions"].as_array().expect("rows");
    for (function, reason) in FUNCTIONS {
        let row = rows.iter().find(|row| row["function"] == function);
        let row = row.unwrap_or_else(|| panic!("no {function} in {report:#}"));
        assert_eq!(row["calls"].as_u64(), Some(truth.len() as u64), "{row:#}");
        let of = |name: &str| row[name].as_f64().expect("a time") / 1e6;
        let all = |what: &dyn Fn(&Value) -> &Value| -> f64 {
            let each = truth.iter().map(|round| what(&round[function]).as_f64());
            each.map(|it| it.expect("measured")).sum()
        };
        let (wall, cpu) = (all(&|it| &it["wall"]), all(&|it| &it["cpu"]));
        let (least, most) = (all(&|it| &it["queued"][0]), all(&|it| &it["queued"][1]));
        let calls = truth.len();
        near("run queue", calls, of("runqueue_ns"), least, most)?;
        // A host that takes a processor away looks like running, and is in no clock of the thread.
        let taken = if cpu > 10.0 * calls as f64 {
            10.0 * calls as f64
        } else {
            0.0
        };
        near(
            "blocked",
            calls,
            of("off_ns"),
            wall - cpu - most - taken,
            wall - cpu - least,
        )?;
        let gil = of("gil_ns");
        match function {
            "contends" => near("GIL", 1, gil, of("off_ns") - 1.0, of("off_ns"))?,
            _ => assert!(gil <= of("off_ns"), "{row:#}"),
        }
        // The time of the processor and that of waits are all of it, and both stand in the third.
        let [own, on, off, both] = [
            &[][..],
            &["--time", "cpu"],
            &["--time", "off"],
            &["--time", "wall"],
        ]
        .map(|time| folded(file, time, function, ""));
        near("own time", 1, own, of("self_ns"), of("self_ns"))?;
        near(
            "off",
            1,
            off,
            of("off_ns") + of("runqueue_ns"),
            of("off_ns") + of("runqueue_ns"),
        )?;
        assert!(
            (on + off - own).abs() < 0.01,
            "{function}: {on} + {off} are not {own}"
        );
        assert!(
            (both - own).abs() < 0.01,
            "{function}: {both} are not {own}"
        );
        let waited = folded(file, &["--time", "off"], function, reason);
        let expected = match function {
            "burns" => of("runqueue_ns"),
            "contends" => gil,
            _ => of("off_ns") - gil,
        };
        near(reason, 1, waited, expected, expected)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/uprobes/run"]
fn waits_beside_calls_are_what_the_program_measured_by_probes() {
    waits_are_what_the_program_measured(&["--engine", "uprobes", "--no-agent"]);
}

#[test]
#[ignore = "needs the agent: run by tests/uprobes/run"]
fn waits_beside_calls_are_what_the_program_measured_with_the_agent() {
    waits_are_what_the_program_measured(&["--agent", "--inject", "ptrace"]);
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
        refused.only_error().contains("`pystap record --waits`"),
        "{}",
        refused.stderr
    );
    let report = pystap_with(&["report", file]);
    assert!(!report.stdout.contains("RUNQ"), "{}", report.stdout);
}
