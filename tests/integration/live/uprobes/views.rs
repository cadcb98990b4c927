//! Live aggregation: `top`, `gc`, `stats` and recordings of real programs, against what the programs say about
//! themselves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{PYTHON_3_11, service_3_11, tree};
use crate::command::{Ended, file, pystap, pystap_with};
use crate::live::Service;
use crate::terminal::{Terminal, quoted};
use crate::tracing::{eventually, leaves_nothing, numbers};

/// Runs a view over a launched command. Returns the view's output, line by line as JSON, and the command's last line.
pub(super) fn view(view: &[&str], command: &[&str]) -> (Vec<Value>, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = dir.path().join("view.json");
    let output = output.to_str().expect("UTF-8");
    let arguments = [view, &["--json", "--output", output, "--"], command].concat();
    let ended = done(&arguments);
    let written = std::fs::read_to_string(output).expect("written");
    let lines = written
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let said = ended.stdout.lines().last().expect("it said something");
    (lines.collect(), serde_json::from_str(said).expect("JSON"))
}

fn done(arguments: &[&str]) -> Ended {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
    ended
}

/// A column of the table for a program's functions, by name.
pub(super) fn column(table: &Value, program: &str, column: &str) -> BTreeMap<String, u64> {
    let rows = table["functions"].as_array().expect("rows");
    rows.iter()
        .filter(|row| row["file"] == *program)
        .map(|row| {
            let number = row[column].as_u64().unwrap_or_else(|| panic!("{row}"));
            (row["function"].as_str().expect("a name").to_owned(), number)
        })
        .collect()
}

pub(super) fn only(
    mut counts: BTreeMap<String, u64>,
    of: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    counts.retain(|name, _| of.contains_key(name));
    counts
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_last_table_of_top_has_the_numbers_that_the_examples_state() {
    leaves_nothing(|| {
        for name in ["nested", "fib", "threads", "collect", "slow"] {
            let program = file(&format!("examples/{name}.py"));
            let (tables, said) = view(&["top", "--limit", "1000"], &[PYTHON_3_11, &program]);
            let table = tables.last().expect("a table");
            let truth = numbers(&said["calls"]);
            assert_eq!(
                only(column(table, &program, "calls"), &truth),
                truth,
                "{name}"
            );
            assert_eq!(table["account"]["lost"], 0, "{name}");
            // Everything ran below the module, once.
            let (own, whole) = (
                column(table, &program, "self_ns"),
                column(table, &program, "cumulative_ns"),
            );
            assert!(own.values().sum::<u64>() > 0, "{name}");
            let module = whole["<module>"];
            assert!(
                whole.values().all(|&it| name == "threads" || it <= module),
                "{name}: {whole:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn resumptions_of_generators_are_counted_and_their_creations_are_not_in_a_tree() {
    leaves_nothing(|| {
        let (tree, python) = (tree("guest"), "/usr/bin/python3.15");
        let place = tree.join("pystap/programs");
        std::fs::create_dir_all(&place).expect("made");
        std::fs::copy(file("examples/generators.py"), place.join("generators.py")).expect("copied");
        let interpreter = tree.join("usr/bin/python3.15");
        let inside = "/pystap/programs/generators.py";
        let (tables, said) = view(
            &[
                "top",
                "--limit",
                "1000",
                "--python",
                interpreter.to_str().expect("UTF-8"),
            ],
            &["chroot", tree.to_str().expect("UTF-8"), python, inside],
        );
        let mut truth = numbers(&said["calls"]);
        truth.extend(numbers(&said["resumed"]));
        let table = tables.last().expect("a table");
        assert_eq!(only(column(table, inside, "calls"), &truth), truth);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn gc_counts_the_collections_that_the_program_counted() {
    leaves_nothing(|| {
        let program = file("examples/collect.py");
        let (objects, said) = view(
            &["gc", "--functions", "--limit", "100"],
            &[PYTHON_3_11, &program],
        );
        let [summary] = objects.as_slice() else {
            panic!("without --interval there is only the summary: {objects:?}");
        };
        assert_eq!(summary["kind"], "summary");
        let all = summary["generations"].as_array().expect("generations");
        for (generation, sizes) in said["collected"].as_object().expect("by generation") {
            let sizes = sizes.as_array().expect("a list");
            let size: u64 = sizes.iter().filter_map(Value::as_u64).sum();
            let generation: u64 = generation.parse().expect("a number");
            let seen = all.iter().find(|it| it["generation"] == generation);
            let seen = seen.unwrap_or_else(|| panic!("{generation}: {summary}"));
            // Starting up collects too.
            assert!(seen["count"].as_u64() >= Some(sizes.len() as u64), "{seen}");
            assert!(seen["collected"].as_u64() >= Some(size), "{seen}");
        }
        let longest = summary["longest"].as_array().expect("pauses");
        let functions: Vec<&str> = longest
            .iter()
            .filter_map(|it| it["function"].as_str())
            .collect();
        assert!(functions.contains(&"collect_all"), "{functions:?}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn stats_find_the_slow_call_and_who_called() {
    leaves_nothing(|| {
        let program = file("examples/slow.py");
        let wanted = "*/slow.py:step";
        let (objects, said) = view(&["stats", "--callers", wanted], &[PYTHON_3_11, &program]);
        let step = &objects.last().expect("a summary")["functions"][0];
        assert_eq!(step["durations"]["count"], said["calls"]["step"]);
        assert_eq!(step["function"], "step");
        let slowest = &step["slowest"][0];
        assert!(
            slowest["duration_ns"]
                .as_u64()
                .is_some_and(|it| it >= 20_000_000),
            "{slowest}"
        );
        assert_eq!(slowest["caller"], "<module>");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_recording_tells_later_what_top_tells_now() {
    leaves_nothing(|| {
        let program = file("examples/fib.py");
        let dir = tempfile::tempdir().expect("a directory");
        let recording = dir.path().join("fib.pystap");
        let recording = recording.to_str().expect("UTF-8");
        let ended = done(&["record", "--output", recording, "--", PYTHON_3_11, &program]);
        let said: Value =
            serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
        let truth = numbers(&said["calls"]);
        let report = done(&["report", recording, "--json", "--limit", "1000"]).stdout;
        let table: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(only(column(&table, &program, "calls"), &truth), truth);
        let folded = done(&["export", recording, "--format", "folded"]).stdout;
        let deepest = folded
            .lines()
            .map(|line| {
                line.matches(":fib")
                    .count()
                    .max(line.matches("fib").count())
            })
            .max();
        assert!(deepest >= Some(10), "{folded}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn top_runs_on_a_terminal_sorts_filters_resizes_and_ends_cleanly() {
    leaves_nothing(|| {
        let service = service_3_11();
        let terminal = Terminal::open(80, 24);
        terminal.keys(&format!(
            "{} top --pid {} --interval 200ms",
            quoted(&pystap()),
            service.pid()
        ));
        terminal.key("Enter");
        let row = |shown: &str| {
            shown
                .lines()
                .any(|line| line.trim_end().ends_with("tick") || line.contains("tick  "))
        };
        let calls = |shown: &str| -> Option<u64> {
            let line = shown.lines().find(|line| line.contains(" tick"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let first = terminal.wait("a row", |shown| row(shown) && calls(shown).is_some());
        let before = calls(&first).expect("waited for");
        terminal.wait("calls are added", |shown| {
            calls(shown).is_some_and(|now| now > before + 5)
        });
        assert!(terminal.shown().contains("lost 0"));
        assert!(
            terminal
                .shown()
                .lines()
                .all(|line| line.chars().count() <= 80)
        );

        // Paused, the table stays; reset, it starts over.
        terminal.keys("p");
        terminal.wait("a pause", |shown| shown.contains("PAUSED"));
        terminal.keys("p");
        terminal.wait("goes on", |shown| !shown.contains("PAUSED"));
        // A second's worth, so that the first table after the reset is sure to have fewer.
        let counted = calls(&terminal.wait("many calls", |shown| {
            calls(shown).is_some_and(|calls| calls > 100)
        }));
        terminal.keys("r");
        terminal.wait("fewer calls", |shown| {
            calls(shown).is_some() && calls(shown) < counted
        });

        terminal.keys("/no such function");
        terminal.key("Enter");
        terminal.wait("nothing is left", |shown| !row(shown));
        terminal.keys("/");
        terminal.key("Escape");
        terminal.resize(60, 12);
        terminal.wait("the row at another size", row);
        terminal.resize(100, 1);
        terminal.wait("one line", |shown| shown.contains("gc 0.0%"));
        terminal.resize(100, 30);
        terminal.wait("all of it again", row);

        terminal.keys("q");
        terminal.wait("the shell", |shown| {
            !shown.contains("FUNCTION  FILE") && shown.lines().any(|line| line.trim() == "$")
        });
        terminal.keys("stty -a | grep -c ' echo '; echo $?-$((6*7))");
        terminal.key("Enter");
        terminal.wait("a terminal as it was", |shown| {
            shown.lines().any(|line| line.trim() == "0-42")
        });
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_terminal_is_given_back_when_top_is_terminated_or_its_target_ends() {
    leaves_nothing(|| {
        let mut service = service_3_11();
        let terminal = Terminal::open(80, 24);
        let command = format!(
            "{} top --pid {} --interval 200ms",
            quoted(&pystap()),
            service.pid()
        );
        terminal.keys(&command);
        terminal.key("Enter");
        terminal.wait("a row", |shown| shown.contains("tick"));
        service.end();
        terminal.wait("the last word", |shown| {
            shown.contains("the target ended after")
        });

        let service = service_3_11();
        let command = format!(
            "{} top --pid {} --interval 200ms",
            quoted(&pystap()),
            service.pid()
        );
        terminal.keys(&format!(
            "clear; sh -c 'echo $$ >{0}/pid; exec {command}'",
            terminal.place().display()
        ));
        terminal.key("Enter");
        terminal.wait("a row", |shown| shown.contains("tick"));
        let pid = std::fs::read_to_string(terminal.place().join("pid")).expect("written");
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a number"))
            .expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        terminal.wait("the last word", |shown| shown.contains("stopped after"));
        terminal.keys("echo $((6*7))");
        terminal.key("Enter");
        terminal.wait("an answer", |shown| {
            shown.lines().any(|line| line.trim() == "42")
        });
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_command_that_top_launches_leaves_the_screen_to_the_table() {
    leaves_nothing(|| {
        let terminal = Terminal::open(100, 30);
        let program = file("examples/service.py");
        terminal.keys(&format!(
            "{} top --interval 200ms -- {PYTHON_3_11} {program} --every 0.01 --requests 200",
            quoted(&pystap()),
        ));
        terminal.key("Enter");
        let table = terminal.wait("the table", |shown| shown.contains("FUNCTION  FILE"));
        assert!(!table.contains("ok request"), "{table}");
        let end = terminal.wait("its last words", |shown| {
            shown.contains("what the command said:") && shown.contains("\"calls\"")
        });
        assert!(end.contains("ok request 199"), "{end}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn top_follows_a_service_whose_workers_are_restarted() {
    leaves_nothing(|| {
        let start = || Service::start_with(PYTHON_3_11, "tests/programs/counts.py", &["0.01"]);
        let mut first = start();
        let terminal = Terminal::open(100, 24);
        terminal.keys(&format!(
            "{} top --match tests/programs/counts.py --interval 200ms",
            quoted(&pystap())
        ));
        terminal.key("Enter");
        let shows = |processes: &'static str| {
            move |shown: &str| shown.contains(processes) && shown.contains("tick")
        };
        terminal.wait("one process", shows("1 process"));
        let second = start();
        terminal.wait("two processes", shows("2 processes"));
        first.end();
        terminal.wait("one is left", shows("1 process"));
        drop(second);
        terminal.keys("q");
        terminal.wait("the shell", |shown| shown.contains("stopped after"));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn top_ends_when_its_terminal_goes_away() {
    leaves_nothing(|| {
        let service = service_3_11();
        let terminal = Terminal::open(80, 24);
        terminal.keys(&format!(
            "sh -c 'echo $$ >{}/pid; exec {} top --pid {}'",
            terminal.place().display(),
            pystap().display(),
            service.pid()
        ));
        terminal.key("Enter");
        terminal.wait("a row", |shown| shown.contains("tick"));
        let pid = std::fs::read_to_string(terminal.place().join("pid")).expect("written");
        drop(terminal);
        let process = std::path::Path::new("/proc").join(pid.trim());
        eventually("it ends", || !process.exists());
    });
}

/// Rows of `namesakes.py` by name and line, without the module and what is not asked about.
fn by_line<'a>(rows: &'a Value, program: &str, said: &Value) -> BTreeMap<(String, i64), &'a Value> {
    let names: Vec<&Value> = said["namesakes"]
        .as_array()
        .expect("functions")
        .iter()
        .map(|it| &it["function"])
        .collect();
    let rows = rows.as_array().expect("rows").iter();
    rows.filter(|row| row["file"] == *program && names.contains(&&row["function"]))
        .map(|row| {
            let name = row["function"].as_str().expect("a name").to_owned();
            ((name, row["line"].as_i64().unwrap_or(-1)), row)
        })
        .collect()
}

/// Within a twentieth of what the program measured itself, which is a little less than what its function took.
fn is_about(seen: &Value, truth: &Value, what: &str) {
    let (seen, truth) = (
        seen.as_u64().expect("a time"),
        truth.as_u64().expect("a time"),
    );
    let most = truth + truth / 20 + 3_000_000;
    assert!(
        (truth..=most).contains(&seen),
        "{what}: {seen} and not {truth}"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn functions_that_share_name_and_file_have_their_own_rows_in_every_view_without_an_agent() {
    leaves_nothing(|| {
        let program = file("tests/programs/namesakes.py");
        let dir = tempfile::tempdir().expect("a directory");
        let recording = dir.path().join("namesakes.pystap");
        let recording = recording.to_str().expect("UTF-8");
        let own = ["--no-agent", "--", PYTHON_3_11, &program];
        let ended = done(&[&["record", "--output", recording][..], &own].concat());
        let said: Value =
            serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
        let truth = said["namesakes"].as_array().expect("functions");
        let report = done(&["report", recording, "--json", "--limit", "10000"]).stdout;
        let table: Value = serde_json::from_str(&report).expect("JSON");
        let rows = by_line(&table["functions"], &program, &said);
        assert_eq!(rows.len(), truth.len(), "{rows:?}");
        let stats = done(&[
            "report", recording, "--json", "--stats", "value", "--stats", "_", "--stats",
            "<lambda>", "--stats", "wrapper", "--stats", "items",
        ])
        .stdout;
        let stats: Value = serde_json::from_str(&stats).expect("JSON");
        let stats = by_line(&stats["functions"], &program, &said);
        let folded = done(&["export", recording, "--format", "folded"]).stdout;
        let speedscope = done(&["export", recording, "--format", "speedscope"]).stdout;
        let speedscope: Value = serde_json::from_str(&speedscope).expect("JSON");
        let frames = speedscope["shared"]["frames"].as_array().expect("frames");
        let pstats = dir.path().join("namesakes.pstats");
        let pstats = pstats.to_str().expect("UTF-8");
        done(&[
            "export", recording, "--format", "pstats", "--output", pstats,
        ]);
        let reader = "import json, pstats, sys\n\
            s = pstats.Stats(sys.argv[1]).stats\n\
            print(json.dumps([[*k, v[1], int(v[3] * 1e9)] for k, v in s.items()]))";
        let read = std::process::Command::new(PYTHON_3_11)
            .args(["-c", reader, pstats])
            .output()
            .expect("it runs");
        let pstats: Value = serde_json::from_slice(&read.stdout).expect("JSON");
        for it in truth {
            let name = it["function"].as_str().expect("a name");
            let line = it["line"].as_i64().expect("a line");
            let key = (name.to_owned(), line);
            let row = rows[&key];
            assert_eq!(row["calls"], it["calls"], "{row}");
            assert_eq!(row["resumed"], it["resumed"], "{row}");
            assert_eq!(row["maybe_several"], false, "{row}");
            is_about(&row["cumulative_ns"], &it["ns"], name);
            let durations = &stats[&key]["durations"];
            assert_eq!(durations["count"], it["calls"], "{durations}");
            is_about(&durations["sum_ns"], &it["ns"], name);
            let frame = format!("{name} ({program}:{line})");
            let below = folded.lines().filter(|line| line.contains(&frame));
            let ns = below.filter_map(|it| it.rsplit(' ').next()?.parse::<u64>().ok());
            is_about(&ns.sum::<u64>().into(), &it["ns"], &frame);
            let shown = frames
                .iter()
                .filter(|it| it["name"] == name && it["file"] == *program && it["line"] == line);
            assert_eq!(shown.count(), 1, "{frame}: {frames:?}");
            let all = pstats.as_array().expect("functions");
            let found: Vec<_> = all
                .iter()
                .filter(|it| it[0] == *program && it[1] == line && it[2] == name)
                .collect();
            assert_eq!(found.len(), 1, "{frame}");
            assert_eq!(found[0][3], it["calls"], "{frame}");
            is_about(&found[0][4], &it["ns"], &frame);
        }
        // Dataclasses have theirs from one and the same line of no file.
        let made = table["functions"].as_array().expect("rows").iter();
        let made = made.filter(|it| it["file"] == "<string>" && it["function"] == "__init__");
        let made: Vec<_> = made.collect();
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(made[0]["maybe_several"], true);
        let text = done(&["report", recording, "--limit", "10000"]).stdout;
        assert!(text.contains("__init__ (maybe several)"), "{text}");
        assert!(
            text.contains("\n(maybe several): functions of this name"),
            "{text}"
        );
        assert!(text.contains("items (resumed)"), "{text}");
        assert!(
            text.contains("\n(resumed): AVG, P95 and MAX are the time on the stack"),
            "{text}"
        );
        let (tables, said) = view(&["top", "--limit", "10000"], &own[2..]);
        let top = &tables.last().expect("a table")["functions"];
        let counts = |rows: &Value| {
            let rows = by_line(rows, &program, &said);
            let calls = rows
                .iter()
                .map(|(key, row)| (key.clone(), row["calls"].clone()));
            calls.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(counts(top), counts(&table["functions"]));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_time_of_a_coroutine_from_its_first_call_to_its_end_is_what_its_own_clock_says() {
    leaves_nothing(|| {
        let program = file("tests/programs/sleepers.py");
        let command = [PYTHON_3_11, program.as_str()];
        let (objects, said) = view(&["stats", "--agent", "handle"], &command);
        let handle = &objects.last().expect("a summary")["functions"][0];
        let took: Vec<u64> = said["took"]
            .as_array()
            .expect("times")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        assert_eq!(handle["resumed"], true, "{handle}");
        assert_eq!(handle["first_call_unknown"], 0, "{handle}");
        let whole = &handle["first_call_to_end"];
        assert_eq!(whole["count"].as_u64(), Some(took.len() as u64), "{handle}");
        is_about(&whole["sum_ns"], &took.iter().sum::<u64>().into(), "handle");
        // Each gives way three times, and what it takes itself is next to nothing.
        assert_eq!(handle["durations"]["count"], 4 * took.len(), "{handle}");
        assert!(
            handle["durations"]["sum_ns"].as_u64() < Some(100_000_000),
            "{handle}"
        );
        let text = done(&[&["stats", "--agent", "handle", "--"], &command[..]].concat()).stdout;
        assert!(
            text.contains("(time on the stack, without waiting)"),
            "{text}"
        );
        assert!(
            text.contains("from first call to end: 5 calls, mean 3"),
            "{text}"
        );
        let text = done(&[&["stats", "--no-agent", "handle", "--"], &command[..]].concat()).stdout;
        assert!(
            text.contains("from first call to end: not known; --agent tells it"),
            "{text}"
        );
    });
}

/// How far a number is from the true one.
fn off(number: f64, truth: f64) -> f64 {
    (number - truth).abs()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn without_the_tracer_s_cost_a_cheap_function_is_nearer_to_what_it_takes_untraced() {
    leaves_nothing(|| {
        let program = file("tests/programs/cheap.py");
        let untraced = std::process::Command::new(PYTHON_3_11)
            .arg(&program)
            .output();
        let untraced = untraced.expect("it runs").stdout;
        let truth: Value = serde_json::from_slice(&untraced).expect("JSON");
        let took = |part: &str| truth[part].as_u64().expect("nanoseconds") as f64;
        let true_share = took("cheap") / (took("cheap") + took("steady"));
        let true_leaf = took("cheap") / took("calls");

        let dir = tempfile::tempdir().expect("a directory");
        let recording = dir.path().join("run.pystap");
        let recording = recording.to_str().expect("UTF-8");
        let record = ["record", "--engine", "uprobes", "--no-agent", "--output"];
        done(&[&record[..], &[recording, "--", PYTHON_3_11, &program]].concat());
        let report = done(&["report", "--json", "--limit", "1000", recording]);
        let table: Value = serde_json::from_str(&report.stdout).expect("JSON");
        let cost = table["account"]["overhead_ns_per_event"].as_u64();
        assert!(cost.is_some_and(|cost| cost > 100), "{}", table["account"]);

        let share = |own: &str| {
            let own = column(&table, &program, own);
            let cheap = (own["cheap"] + own["leaf"]) as f64;
            cheap / (cheap + own["steady"] as f64)
        };
        let (raw, net) = (share("self_ns"), share("net_self_ns"));
        assert!(
            off(net, true_share) < off(raw, true_share),
            "true {true_share}, raw {raw}, net {net}"
        );
        let rows = table["functions"].as_array().expect("rows");
        let leaf = rows.iter().find(|row| row["function"] == "leaf");
        let leaf = leaf.expect("it was called");
        let half_take = |durations: &str| leaf[durations]["p50_ns"].as_u64().expect("calls") as f64;
        let (raw, net) = (half_take("durations"), half_take("net_durations"));
        assert!(
            off(net, true_leaf) < off(raw, true_leaf) / 2.0,
            "true {true_leaf}, raw {raw}, net {net}"
        );

        let said = done(&["report", recording]).stdout;
        assert!(
            said.contains("times without the tracer's own cost ("),
            "{said}"
        );
        let said = done(&["report", "--raw-times", recording]).stdout;
        assert!(!said.contains("tracer's own cost"), "{said}");
    });
}

/// How far that is true, `benches/own-cost` measures.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn events_cost_more_where_what_they_need_is_in_no_cache_and_reports_know() {
    leaves_nothing(|| {
        let program = file("tests/programs/many_functions.py");
        let dir = tempfile::tempdir().expect("a directory");
        let trace = dir.path().join("run.json");
        let trace = trace.to_str().expect("UTF-8");
        let cost = |line: Option<&str>| {
            let line: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
            line["overhead_ns_per_event"].as_u64()
        };
        // What tells waits beside tells no events.
        for waits in [&[][..], &["--waits"]] {
            let record = [
                &["trace", "--engine", "direct"],
                waits,
                &["--output", trace],
            ]
            .concat();
            let many = ["--", PYTHON_3_11, &program, "20000", "60000", "3"];
            let costs = (0..20).find_map(|_| {
                done(&[&record[..], &many].concat());
                let written = std::fs::read_to_string(trace).expect("written");
                // Not every beginning of a session has a calm moment.
                let calm = cost(written.lines().next())?;
                Some((calm, cost(written.lines().last())))
            });
            let (calm, really) = costs.expect("one of them had a calm moment");
            assert!(
                really > Some(calm + calm / 2),
                "in calm {calm}, really {really:?}, {waits:?}"
            );
            let report = done(&["report", "--json", trace]);
            let table: Value = serde_json::from_str(&report.stdout).expect("JSON");
            let known = table["account"]["overhead_ns_per_event"].as_u64();
            assert_eq!(known, really, "{}", table["account"]);
        }
    });
}

/// A recording of parts.py with the agent alone, as a report.
fn report_of_parts(directory: &std::path::Path, session: usize) -> Value {
    let program = file("tests/programs/parts.py");
    let recording = directory.join(format!("{session}.pystap"));
    let recording = recording.to_str().expect("UTF-8");
    let command = ["--output", recording, "--", PYTHON_3_11, &program, "20"];
    done(&[&["record", "--engine", "direct"][..], &command].concat());
    let report = done(&["report", "--json", "--limit", "1000", recording]);
    serde_json::from_str(&report.stdout).expect("JSON")
}

/// How true what is left is, `benches/own-cost` measures.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn with_the_agent_alone_a_session_that_has_a_calm_moment_takes_out_what_an_event_costs() {
    leaves_nothing(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let cost = |table: &Value| table["account"]["overhead_ns_per_event"].as_u64();
        let sessions = (0..20).map(|session| report_of_parts(dir.path(), session));
        let table = sessions.into_iter().find(|table| cost(table).is_some());
        let table = table.expect("one of them had a calm moment");
        let within = table["account"]["overhead_ns_within_call"].as_u64();
        let within = within.expect("it was measured");
        let most = cost(&table).map(|per_event| 2 * per_event);
        assert!(within > 0 && Some(within) <= most, "{table}");
        let rows = table["functions"].as_array().expect("rows");
        let row = |name: &str| rows.iter().find(|row| row["function"] == name);
        // Of many calls that do nothing, what is left is less by what each of them costs, and no part gets longer.
        let leaf = row("leaf").expect("it was called");
        let number = |key: &str| leaf[key].as_u64().expect("nanoseconds");
        let taken = number("self_ns") - number("net_self_ns");
        let calls = number("calls");
        assert!(0 < taken && taken <= calls * within, "{leaf}");
        for part in ["empty", "nested", "working", "steady"] {
            let part = row(part).expect("it was called");
            let least = |key: &str| part[key]["min_ns"].as_u64().expect("nanoseconds");
            assert!(least("net_durations") < least("durations"), "{part}");
        }
        // What was called to find that out, some hundred times, is shown nowhere; importing modules calls it, too.
        let imported = row("create_module").map_or(0, |row| row["calls"].as_u64().expect("calls"));
        assert!(imported < 64, "{imported}");
    });
}
