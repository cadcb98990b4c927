//! What agents add up themselves, against what pystap makes of every single call.

use std::collections::BTreeMap;

use serde_json::Value;

use super::direct::interpreters;
use super::views::{column, only, view};
use super::{PYTHON_3_11, service_3_11};
use crate::command::{file, pystap};
use crate::terminal::{Terminal, quoted};
use crate::tracing::{leaves_nothing, numbers};

const SUMS: [&str; 5] = ["top", "--engine", "direct", "--limit", "100000"];

/// The last table of a program, and what the program said.
fn table(options: &[&str], command: &[&str]) -> (Value, Value) {
    let (mut tables, said) = view(&[&SUMS, options].concat(), command);
    (tables.pop().expect("a table"), said)
}

/// A function of any process: its file, its name and its first line.
type Who = (String, String, u64);

/// Calls of each function, those of them that ended, returns without a call, and processes.
fn counts(table: &Value) -> BTreeMap<Who, [u64; 4]> {
    let rows = table["functions"].as_array().expect("rows").iter();
    let text = |it: &Value| it.as_str().expect("a text").to_owned();
    let number = |it: &Value| it.as_u64().expect("a number");
    rows.map(|row| {
        let name = text(&row["qualname"]);
        // That of a module in 3.11 begins at line 0, which events leave out.
        let line = match name.as_str() {
            "<module>" => 0,
            _ => number(&row["line"]),
        };
        let who = (text(&row["file"]), name, line);
        let numbers = [
            &row["calls"],
            &row["durations"]["count"],
            &row["unmatched_returns"],
            &row["processes"],
        ];
        (who, numbers.map(number))
    })
    .collect()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn sums_of_the_agent_are_those_of_single_events() {
    leaves_nothing(|| {
        for python in interpreters() {
            for program in [
                "examples/nested.py",
                "examples/fib.py",
                "examples/generators.py",
                "examples/threads.py",
                "examples/collect.py",
                "tests/programs/contexts.py",
                "examples/forks.py",
            ] {
                let program = file(program);
                let command = [python.as_str(), &program];
                let of_file = ["--file", &program];
                let (sums, said) = table(&of_file, &command);
                let every_call = [of_file.as_slice(), &["--no-kernel-totals"]].concat();
                let (events, _) = table(&every_call, &command);
                assert_eq!(counts(&sums), counts(&events), "{program} in {python}");
                let mut truth = numbers(&said["calls"]);
                // Each resumption of a generator is one.
                if program.ends_with("generators.py") {
                    truth.extend(numbers(&said["resumed"]));
                }
                // What runs when a child begins is a call of the child's, too.
                if program.ends_with("forks.py") {
                    truth.retain(|name, _| name == "work");
                }
                let calls = column(&sums, &program, "calls");
                assert_eq!(only(calls, &truth), truth, "{program} in {python}");
                let account = &sums["account"];
                for nothing in ["lost", "unpaired", "calls_without_row"] {
                    assert_eq!(account[nothing], 0, "{program} in {python}: {account}");
                }
                let own = column(&sums, &program, "self_ns");
                let whole = column(&sums, &program, "cumulative_ns");
                assert!(own.values().sum::<u64>() > 0, "{own:?}");
                let is_sound = |(name, own): (&String, &u64)| own <= &whole[name];
                assert!(own.iter().all(is_sound), "{own:?} {whole:?}");
                let age = account["wall_ns"].as_u64().expect("a number");
                assert!(account["self_ns"].as_u64() <= Some(4 * age), "{account}");
                if program.ends_with("collect.py") {
                    assert!(account["gc_ns"].as_u64() > Some(0), "{account}");
                }
                if program.ends_with("fib.py") {
                    // It calls only itself, and its time counts once.
                    assert_eq!(own["fib"], whole["fib"]);
                }
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_program_that_is_killed_leaves_its_sums_with_what_was_open() {
    leaves_nothing(|| {
        let program = "import os\n\
            def work(): pass\n\
            def main():\n    \
                for _ in range(1000): work()\n    \
                print('{}', flush=True)\n    \
                os.kill(os.getpid(), 9)\n\
            main()";
        let (table, _) = table(&[], &[PYTHON_3_11, "-c", program]);
        let calls = column(&table, "<string>", "calls");
        assert_eq!((calls["work"], calls["main"]), (1000, 1), "{calls:?}");
        let whole = column(&table, "<string>", "cumulative_ns");
        assert!(
            whole["main"] >= whole["work"] && whole["work"] > 0,
            "{whole:?}"
        );
        assert!(whole["<module>"] >= whole["main"], "{whole:?}");
        assert_eq!(table["account"]["lost"], 0);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn functions_that_find_no_row_are_counted_beside_the_table() {
    leaves_nothing(|| {
        let program = "\
            for n in range(20000):\n    \
                exec(compile(f'def f{n}(): pass\\nf{n}()\\nf{n}()', 'made.py', 'exec'))\n\
            print('{}', flush=True)";
        let command = [PYTHON_3_11, "-c", program];
        let (table, _) = table(&["--file", "made.py"], &command);
        let account = &table["account"];
        let without = account["calls_without_row"].as_u64().expect("a number");
        let calls = column(&table, "made.py", "calls");
        assert_eq!(calls.values().sum::<u64>() + without, 60_000, "{account}");
        assert!(without >= 60_000 - 3 * (1 << 14), "{account}");
        assert!(calls.len() > 1_000, "{}", calls.len());
        assert!(account["self_ns_without_row"].as_u64() > Some(0));
        assert_eq!(account["lost"], 0, "{account}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_table_of_a_service_goes_on_and_begins_anew_when_it_is_reset() {
    leaves_nothing(|| {
        let service = service_3_11();
        let terminal = Terminal::open(80, 24);
        terminal.keys(&format!(
            "{} top --engine direct --inject ptrace --pid {} --interval 200ms",
            quoted(&pystap()),
            service.pid()
        ));
        terminal.key("Enter");
        let calls = |shown: &str| -> Option<u64> {
            let line = shown.lines().find(|line| line.contains(" tick"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let counted = calls(&terminal.wait("many calls", |shown| {
            calls(shown).is_some_and(|calls| calls > 100)
        }));
        terminal.keys("r");
        terminal.wait("fewer calls", |shown| {
            calls(shown).is_some() && calls(shown) < counted
        });
        terminal.wait("many calls again", |shown| {
            calls(shown).is_some_and(|calls| calls > 50)
        });
        terminal.keys("q");
        terminal.wait("the shell", |shown| {
            !shown.contains("FUNCTION  FILE") && shown.lines().any(|line| line.trim() == "$")
        });
    });
}
