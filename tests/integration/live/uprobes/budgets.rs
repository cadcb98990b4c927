//! What a session uses of a machine's resources when its target creates names forever, or cannot be examined.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::PYTHON_3_11;
use crate::command::{command, file, measured, run};
use crate::tracing::leaves_nothing;

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_live_table_of_a_program_that_makes_functions_for_ever_stays_small_and_says_that_it_is_full() {
    leaves_nothing(|| {
        let program = file("tests/programs/generated.py");
        let target = ["--", PYTHON_3_11, &program, "60000", "0", "0"];
        let options = ["top", "--json", "--engine", "uprobes", "--interval", "1s"];
        let (ended, kilobytes) = measured(&[options.as_slice(), &target].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(kilobytes < 150 << 10, "{kilobytes} kB");
        let last = ended.stdout.lines().last().expect("a table");
        let table: Value = serde_json::from_str(last).expect("JSON");
        // Two functions each, plus some of Python's own.
        let without = table["account"]["calls_without_row"].as_u64();
        assert!(
            without.is_some_and(|calls| calls >= 120_000 - 65_536),
            "{last}"
        );
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn forty_thousand_long_names_of_a_running_program_are_held_within_the_bound() {
    leaves_nothing(|| {
        let program = file("tests/programs/generated.py");
        let target = ["--", PYTHON_3_11, &program, "40000", "0", "4000"];
        let options = [
            "top",
            "--json",
            "--engine",
            "uprobes",
            "--interval",
            "60s",
            "--sort",
            "calls",
        ];
        let (ended, kilobytes) = measured(&[options.as_slice(), &target].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(kilobytes < 256 << 10, "{kilobytes} kB");
        let last = ended.stdout.lines().last().expect("a table");
        let table: Value = serde_json::from_str(last).expect("JSON");
        let rows = table["functions"].as_array().expect("rows");
        let marked = rows.iter().find(|row| row["function"] == "[name left out]");
        let calls = marked.and_then(|row| row["calls"].as_u64());
        assert!(calls.is_some_and(|calls| calls > 40_000), "{marked:?}");
        assert!(
            ended.stderr.contains("events are told without a name"),
            "{}",
            ended.stderr
        );
    });
}

/// A Python whose program is on a file system that does not answer, until this is dropped.
struct Unanswering {
    server: Child,
    pid: u32,
}

impl Unanswering {
    fn start() -> Unanswering {
        let program = file("tests/programs/unanswering.py");
        let mut server = Command::new(PYTHON_3_11)
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut said = String::new();
        let stdout = server.stdout.take().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut said)
            .expect("it says something");
        let pid = said
            .trim_end()
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_else(|| panic!("not ready: {said:?}"));
        Unanswering { server, pid }
    }
}

impl Drop for Unanswering {
    fn drop(&mut self) {
        // When it ends, so does what it serves.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

#[test]
#[ignore = "needs root: run by tests/uprobes/run"]
fn a_process_that_does_not_let_itself_be_looked_at_is_named_and_the_others_are_listed() {
    let unanswering = Unanswering::start();
    let pid = unanswering.pid;
    let mut other = Command::new(PYTHON_3_11)
        .args(["-c", "input()"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let listed = run(&mut command(["ps", "--json"]));
    let named = run(&mut command([
        "trace",
        "--events",
        "gc",
        "-p",
        &pid.to_string(),
    ]));
    drop(unanswering);
    let found: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let found = found.as_array().expect("a list");
    assert!(found.iter().any(|it| it["pid"] == other.id()), "{listed:?}");
    assert!(
        listed
            .stderr
            .contains(&format!("process {pid} could not be looked at in time")),
        "{listed:?}"
    );
    assert_eq!(listed.code, 0);
    assert_eq!(named.code, 3, "{named:?}");
    assert!(
        named
            .only_error()
            .contains("does not let itself be looked at in time")
    );
    let _ = other.kill();
    let _ = other.wait();
}
