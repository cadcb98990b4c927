//! Recordings in parts: of a real program, read as one, and bounded.

use std::path::Path;

use super::PYTHON_3_11;
use crate::command::{Ended, command, file, run};
use crate::tracing::{leaves_nothing, numbers};

/// What the index says of each part.
fn index(directory: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("index.jsonl")).expect("an index");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Records a service for some seconds into a directory.
fn record(directory: &Path, options: &[&str], requests: &str) -> Ended {
    let program = file("examples/service.py");
    let to = ["record", "-o", directory.to_str().expect("UTF-8")];
    let of = [
        "--",
        PYTHON_3_11,
        &program,
        "--every",
        "0.01",
        "--requests",
        requests,
    ];
    let ended = run(&mut command([&to, options, &of].concat()));
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

fn report(directory: &Path) -> serde_json::Value {
    let directory = directory.to_str().expect("UTF-8");
    let ended = run(&mut command([
        "report", "--json", "--limit", "10000", directory,
    ]));
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_directory_of_parts_has_every_call_of_the_program_and_no_more_files_than_are_kept() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path();
        let probes = ["--engine", "uprobes", "--rotate", "1s"];
        let ended = record(place, &probes, "300");
        let parts = index(place);
        assert!(parts.len() >= 3, "{parts:?}");
        assert!(parts.iter().all(|part| part["lost"] == 0), "{parts:?}");
        let told: serde_json::Value =
            serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
        let rows = report(place);
        let calls = |function: &str| {
            let rows = rows["functions"].as_array().expect("rows");
            let mut own = rows.iter().filter(|row| {
                let file = row["file"].as_str().unwrap_or_default();
                row["function"] == function && file.ends_with("/service.py")
            });
            own.next()
                .map_or(0, |row| row["calls"].as_u64().expect("a number"))
        };
        for (function, truth) in numbers(&told["calls"]) {
            assert_eq!(calls(&function), truth, "{function}");
        }

        let bounded = ["--keep", "2", "--on-slow", "*/service.py:handle>10s"];
        record(place, &[&probes[..], &bounded].concat(), "300");
        let parts = index(place);
        assert_eq!(parts.len(), 2, "{parts:?}");
        for part in parts {
            assert!(place.join(part["file"].as_str().expect("a name")).exists());
        }
    });
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by tests/uprobes/run"]
fn samples_are_recorded_in_parts_as_well() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        record(directory.path(), &["--sample", "--rotate", "1s"], "300");
        let parts = index(directory.path());
        assert!(parts.len() >= 3, "{parts:?}");
        let sampled: u64 = parts
            .iter()
            .map(|part| part["events"].as_u64().expect("a number"))
            .sum();
        assert!(sampled > 0, "{parts:?}");
        let rows = report(directory.path());
        let read =
            [&rows["samples"], &rows["idle_samples"]].map(|it| it.as_u64().expect("a number"));
        assert_eq!(read.iter().sum::<u64>(), sampled, "{rows}");
    });
}
