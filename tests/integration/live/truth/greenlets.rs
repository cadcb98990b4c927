//! gevent and eventlet on Debian 12's Python, whose own probes do not tell when greenlets switch: what pystap says of 300 jobs
//! that wait at the same time is true, or not there, however narrow the filter; with the agent all of it is there.

use pystap::event::What;
use serde::Deserialize;
use serde_json::Value;

use super::interpreters::{self, Way};
use super::{ATTEMPTS, done, path};
use crate::command::file;
use crate::live::agent::leaves_nothing_at_all;
use crate::tracing::{Traced, read};

const LIBRARIES: [&str; 2] = ["gevent", "eventlet"];
const JOBS: usize = 300;

/// How long each job took by its own clock, in the order in which they ended.
#[derive(Debug, Deserialize)]
struct Truth {
    jobs: Vec<u64>,
}

/// What a view wrote about the program, what it said meanwhile, and the truth.
struct Told {
    written: String,
    said: String,
    truth: Truth,
}

fn told(library: &str, way: Way, view: &[&str]) -> Told {
    let python = &interpreters::here()[0];
    assert!(
        python.imports(library),
        "Debian 12's Python has no {library}: agent/tests/services/install makes an environment that has"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let output = path(directory.path(), "output");
    let program = file("tests/programs/truth/sleepers.py");
    let options = ["--engine", "uprobes", way.option(), "--output", &output];
    // eventlet says on every start that it is at its end.
    let command = ["--", python.python(), "-W", "ignore", &program, library];
    let ended = done(&[view, &options, &command].concat());
    let last = ended.stdout.lines().last().unwrap_or_default();
    let truth: Truth =
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(truth.jobs.len(), JOBS);
    let note = ended.stderr.lines().any(|line| {
        line.contains("runs greenlets") && line.contains("left out") && line.contains("--agent")
    });
    assert_eq!(note, way == Way::Probes, "{library} {view:?}: {ended:?}");
    Told {
        written: std::fs::read_to_string(&output).expect("written"),
        said: ended.stderr,
        truth,
    }
}

fn is_near(seen: u64, truth: u64) -> bool {
    seen.abs_diff(truth) as f64 <= 0.05 * truth as f64
}

/// How often job() is called, and the durations of its returns.
fn jobs(traced: &Traced) -> (usize, Vec<Option<u64>>) {
    let (mut calls, mut returns) = (0, Vec::new());
    for event in &traced.events {
        match &event.what {
            What::Call { place, .. } if place.function.text == "job" => calls += 1,
            What::Return {
                place, duration_ns, ..
            } if place.function.text == "job" => returns.push(*duration_ns),
            _ => {}
        }
    }
    (calls, returns)
}

/// Traces, and checks each duration that is there. Returns how many are.
fn durations_are_true(library: &str, way: Way, options: &[&str]) -> usize {
    let attempts = (0..ATTEMPTS).map(|_| true_durations(library, way, options));
    let mut failed = Vec::new();
    for attempt in attempts {
        match attempt {
            Ok(durations) => return durations,
            Err(wrong) => failed.push(wrong),
        }
    }
    panic!("{failed:#?}");
}

/// How many durations there are, or which are wrong.
fn true_durations(library: &str, way: Way, options: &[&str]) -> Result<usize, String> {
    let told = told(
        library,
        way,
        &[&["trace", "--format", "json"], options].concat(),
    );
    let traced =
        read(&told.written, 0, vec![told.said.clone()], String::new()).complete("targets_ended");
    let (calls, returns) = jobs(&traced);
    let of = format!("{library}, {way:?}, {options:?}");
    if options.contains(&"--min-duration") {
        // No call is short, and what is not known to be long is not shown.
        assert_eq!(calls, 0, "{of}");
        assert!(returns.iter().all(Option::is_some), "{of}: {returns:?}");
        // Each call that may be long and is not shown is counted, and the last line says so.
        let (hidden, untimed) = (JOBS - returns.len(), traced.summary.untimed);
        assert!(untimed >= hidden as u64, "{of}: {hidden}, {untimed}");
        let words = format!("{untimed} more calls of unknown duration not shown");
        let said = told.said.lines().any(|line| line.contains(&words));
        assert_eq!(said, untimed > 1, "{of}: {}", told.said);
    } else {
        assert_eq!((calls, returns.len()), (JOBS, JOBS), "{of}");
    }
    let right = |(seen, truth): (&Option<u64>, &u64)| seen.is_none_or(|seen| is_near(seen, *truth));
    let mut wrong = Vec::new();
    if returns.len() == JOBS {
        wrong.extend(
            returns
                .iter()
                .zip(&told.truth.jobs)
                .filter(|pair| !right(*pair)),
        );
    } else {
        let mut rest = told.truth.jobs.iter();
        for seen in &returns {
            if !rest.any(|truth| right((seen, truth))) {
                wrong.push((seen, &0));
            }
        }
    }
    if wrong.is_empty() {
        Ok(returns.iter().flatten().count())
    } else {
        Err(format!("{of}: {wrong:?}"))
    }
}

const FILTERS: [&[&str]; 4] = [
    &[],
    // These hide the hub, which runs between the jobs.
    &["--function", "job"],
    &["--file", "*/sleepers.py"],
    &["--min-duration", "20ms"],
];

#[test]
#[ignore = "needs uprobe events and gevent (agent/tests/services/install): run by tests/uprobes/run"]
fn durations_of_greenlets_are_true_or_left_out_with_the_interpreters_own_probes() {
    leaves_nothing_at_all(|| {
        for library in LIBRARIES {
            for options in FILTERS {
                durations_are_true(library, Way::Probes, options);
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events and gevent (agent/tests/services/install): run by tests/uprobes/run"]
fn durations_of_greenlets_are_all_there_with_the_agent() {
    leaves_nothing_at_all(|| {
        for library in LIBRARIES {
            for options in [&[][..], &["--min-duration", "20ms"]] {
                assert_eq!(
                    durations_are_true(library, Way::Agent, options),
                    JOBS,
                    "{library} {options:?}"
                );
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events and gevent (agent/tests/services/install): run by tests/uprobes/run"]
fn latencies_of_greenlets_are_true_or_left_out_and_all_there_with_the_agent() {
    leaves_nothing_at_all(|| {
        for library in LIBRARIES {
            for way in [Way::Probes, Way::Agent] {
                latencies_are_true(library, way);
            }
        }
    });
}

fn latencies_are_true(library: &str, way: Way) {
    let told = told(library, way, &["stats", "--json", "*/sleepers.py:job"]);
    let last = told.written.lines().last().expect("a summary");
    let summary: Value = serde_json::from_str(last).expect("JSON");
    let job = &summary["functions"][0];
    let number = |place: &str| job.pointer(place).and_then(Value::as_u64);
    let count = number("/durations/count").expect("a count");
    assert_eq!(
        count + number("/uncertain").expect("a count"),
        JOBS as u64,
        "{job}"
    );
    let mut truth = told.truth.jobs;
    truth.sort_unstable();
    let (least, most) = (truth[0], truth[JOBS - 1]);
    for place in ["min_ns", "mean_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns"] {
        if let Some(seen) = number(&format!("/durations/{place}")) {
            let right = seen as f64 >= 0.95 * least as f64 && seen as f64 <= 1.05 * most as f64;
            assert!(right, "{library}, {way:?}, {place}: {job}");
        }
    }
    if way == Way::Agent {
        assert_eq!(count, JOBS as u64, "{job}");
        let mean = truth.iter().sum::<u64>() / JOBS as u64;
        for (place, right) in [
            ("min_ns", least),
            ("mean_ns", mean),
            ("p50_ns", truth[JOBS / 2]),
            ("p99_ns", truth[JOBS * 99 / 100]),
            ("max_ns", most),
        ] {
            let seen = number(&format!("/durations/{place}")).expect("a number");
            assert!(
                is_near(seen, right),
                "{library}, {place}: {seen}, not {right}"
            );
        }
    }
}

#[test]
#[ignore = "needs uprobe events and gevent (agent/tests/services/install): run by tests/uprobes/run"]
fn rows_of_greenlets_that_have_no_names_say_what_they_were_begun_for() {
    leaves_nothing_at_all(|| {
        for library in LIBRARIES {
            let top = ["top", "--json", "--by-context", "--limit", "10000"];
            let told = told(library, Way::Agent, &top);
            let last = told.written.lines().last().expect("a table");
            let table: Value = serde_json::from_str(last).expect("JSON");
            let rows = table["functions"].as_array().expect("rows");
            let jobs = rows.iter().filter(|row| row["function"] == "job");
            let found: Vec<_> = jobs
                .map(|row| (row["context"].as_str(), row["calls"].as_u64()))
                .collect();
            assert_eq!(found, [(Some("job"), Some(JOBS as u64))], "{library}");
            let is_hub = |row: &&Value| row["function"] == "run" && row["context"] == "hub (run)";
            let hubs = rows.iter().filter(is_hub).count();
            assert!(library != "eventlet" || hubs == 1, "{library}");
        }
    });
}
