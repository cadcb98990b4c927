//! Tables of functions against what a program recorded about itself while it ran: every frame told apart by itself, not
//! by its name. The events have the same time stamps as the truth, so only pairing can make a difference.
//!
//! `tests/programs/ground_truth.py` records a program from the inside, by frame object and greenlet. Plain programs,
//! threads, generators, exceptions and asyncio must agree to the nanosecond. eventlet (opt-in: `PYSTAP_TEST_EVENTLET`
//! names a directory that has it) must agree in every count, and in times within 5 %.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use pystap::analysis::functions::{Function, Functions};
use pystap::analysis::pairing::{Pairing, PairingRules};
use pystap::event::json::{Line, Reader};
use serde::Deserialize;

use crate::command::{PYTHON, file};

/// Calls, own time, inclusive time and the time of all calls.
type Times = (u64, u64, u64, u64);

/// Times by file, and by function with its first line.
#[derive(Deserialize)]
struct Truth {
    truth: BTreeMap<String, BTreeMap<String, Times>>,
}

struct Recorded {
    functions: Functions,
    unpaired: u64,
    truth: Truth,
}

impl Recorded {
    /// Runs a program that records itself.
    fn of(program: &str, rules: PairingRules, site: Option<&str>) -> Recorded {
        let program = match program.strip_prefix(':') {
            Some(_) => program.to_owned(),
            None => file(program),
        };
        let mut command = Command::new(PYTHON);
        if let Some(site) = site {
            command.env("PYTHONPATH", site);
        }
        let output = command
            .args([&file("tests/programs/ground_truth.py"), &program])
            .stdin(Stdio::null())
            .output()
            .expect("Python runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (events, truth) = text.trim_end().rsplit_once('\n').expect("lines");

        let (mut reader, mut pairing) = (Reader::new(), Pairing::with_rules(rules));
        let mut functions = Functions::new();
        for line in events.lines() {
            if let Line::Event(mut event) = reader.read(line).expect("an event")
                && let Some(step) = pairing.follow(&mut event)
            {
                functions.take(&step);
            }
        }
        Recorded {
            functions,
            unpaired: pairing.unpaired().total(),
            truth: serde_json::from_str(truth).expect("the truth"),
        }
    }

    /// Every function with its row.
    fn compared(&self) -> Vec<(String, Times, &Function)> {
        let mut compared = Vec::new();
        for row in self.functions.rows() {
            let (file, name) = (&row.place.file.text, &row.place.function.text);
            let of_file = &self.truth.truth[file];
            let exact = of_file.get(&format!("{name}:{}", row.line));
            // A module's code is entered at a line that its file does not have, and of what ran before nothing is seen but
            // its return.
            let mut of_name = of_file.iter().filter(|(key, _)| {
                row.line == i32::MAX && key.rsplit_once(':').is_some_and(|(of, _)| of == name)
            });
            let right = exact.or_else(|| of_name.next().map(|(_, right)| right));
            assert!(of_name.next().is_none(), "{file} has several {name}");
            let right = *right.unwrap_or_else(|| panic!("no {name}:{} in {file}", row.line));
            compared.push((format!("{file}:{name}"), right, row));
        }
        let known: usize = self.truth.truth.values().map(BTreeMap::len).sum();
        assert_eq!(compared.len(), known, "a row for every function");
        compared
    }
}

/// Every return in such a stream has its call, except for the frames that existed before recording began.
const BALANCED: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn plain_programs_threads_generators_and_asyncio_give_the_recorded_numbers_exactly() {
    for program in [
        "examples/fib.py",
        "examples/nested.py",
        "examples/slow.py",
        "examples/generators.py",
        "examples/imports.py",
        "examples/threads.py",
        ":exceptions",
        ":parsing",
        ":asyncio",
    ] {
        let recorded = Recorded::of(program, BALANCED, None);
        for (name, (calls, own, inclusive, all), row) in recorded.compared() {
            let of = format!("{program}: {name}");
            assert_eq!(row.calls, calls, "calls of {of}");
            assert_eq!(row.self_ns, own, "own time of {of}");
            assert_eq!(row.cumulative_ns, inclusive, "inclusive time of {of}");
            assert_eq!(row.timed_ns, all, "time of all calls of {of}");
            assert_eq!(row.timed, row.durations.count(), "durations of {of}");
        }
        // Recording begins and ends in the middle of its own functions.
        assert!(recorded.unpaired < 10, "{program}: {}", recorded.unpaired);
    }
}

#[test]
#[ignore = "needs eventlet for Python 3.11 in the directory that PYSTAP_TEST_EVENTLET names"]
fn eventlet_gives_the_recorded_calls_and_times_within_five_percent() {
    let site = std::env::var("PYSTAP_TEST_EVENTLET").expect("a directory with eventlet");
    // Announced, or detected from the stream.
    for greenlets in [true, false] {
        let rules = PairingRules {
            greenlets,
            ..BALANCED
        };
        let recorded = Recorded::of(":eventlet", rules, Some(&site));
        let total = recorded.functions.total_self_ns();
        let (mut wrong_own, mut wrong_inclusive) = (0, 0);
        for (name, (calls, own, inclusive, all), row) in recorded.compared() {
            assert_eq!(row.calls, calls, "calls of {name}");
            assert!(row.unmatched <= 2, "{name}: {}", row.unmatched);
            wrong_own += row.self_ns.abs_diff(own);
            wrong_inclusive += row.timed_ns.abs_diff(all);
            // Switches that no mark shows can hide recursion, never invent it.
            assert!(row.cumulative_ns + total / 20 >= inclusive, "{name}");
        }
        let share = |wrong: u64| wrong as f64 / total as f64;
        assert!(share(wrong_own) < 0.05, "own: {}", share(wrong_own));
        assert!(
            share(wrong_inclusive) < 0.05,
            "inclusive: {}",
            share(wrong_inclusive)
        );
    }
}
