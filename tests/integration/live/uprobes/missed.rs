//! What a user names and a program does not have, or does not call: it is said, with what to type instead.

use std::io::Read as _;
use std::process::{Command, Stdio};

use super::PYTHON_3_11;
use crate::command::{Ended, command, file, run};
use crate::dump::interpreters;
use crate::live::Service;
use crate::tracing::leaves_nothing;

const KEEPS: &str = "tests/programs/keeps.py";

/// What a command says about the program that runs for a while.
fn said(before: &[&str], options: &[&str]) -> Ended {
    let mut service = Service::start_with(PYTHON_3_11, KEEPS, &[]);
    let pid = service.pid();
    let target = ["-p", &pid, "-d"];
    let ended = run(&mut command([before, &target, options].concat()));
    assert_eq!(ended.code, 0, "{ended:?}");
    let truth = service.end();
    assert!(truth["calls"]["put"].as_u64() > Some(0), "{truth}");
    ended
}

/// The lines about what was not seen.
fn missed(ended: &Ended) -> Vec<&str> {
    let lines = ended.stderr.lines();
    lines.filter(|line| line.contains("no call ")).collect()
}

const PROBES: [&str; 2] = ["--engine", "uprobes"];

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_class_that_own_probes_do_not_tell_is_named_with_both_ways_out() {
    leaves_nothing(|| {
        let why = "the interpreter's own probes tell names without their classes; type put, or add --agent, which tells them";
        let ended = said(&[&["stats", "Store.put"][..], &PROBES].concat(), &["3s"]);
        let so_far = format!("pystap: warning: no call of Store.put was seen so far: {why}");
        assert_eq!(missed(&ended), [so_far], "{ended:?}");
        for other in [
            ["trace", "--function", "Store.put"],
            ["why", "Store.put", "--json"],
            ["top", "--batch", "--function=Store.put"],
        ] {
            let ended = said(&[&other[..], &PROBES].concat(), &["1s"]);
            let over = format!("pystap: warning: no call of Store.put was seen: {why}");
            assert_eq!(missed(&ended), [over], "{other:?}: {ended:?}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_is_typed_instead_is_seen_and_nothing_is_said() {
    leaves_nothing(|| {
        for found in [
            &["stats", "put"][..],
            &["stats", "*/keeps.py:put"],
            &["trace", "--function", "put", "--file", "*/keeps.py"],
            &["trace", "--module", "keeps"],
            &["top", "--batch", "--function", "get_*"],
        ] {
            let ended = said(&[found, &PROBES].concat(), &["3s"]);
            assert_eq!(missed(&ended), [""; 0], "{found:?}: {ended:?}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn near_names_of_functions_files_and_modules_are_suggested() {
    leaves_nothing(|| {
        for (options, meant) in [
            (
                &["--function", "get_thign"][..],
                "of get_thign was seen; did you mean get_thing?",
            ),
            (
                &["--function", "thing"],
                "of thing was seen; did you mean get_thing?",
            ),
            (
                &["--file", "keeps.py"],
                "in files keeps.py was seen; did you mean '*/keeps.py'?",
            ),
            (
                &["--module", "keep"],
                "in modules keep was seen; did you mean keeps?",
            ),
            (
                &["--function", "put", "--function", "zzzzzz"],
                "of zzzzzz was seen, and no function like that was found in the program",
            ),
            (
                &["--function", "put", "--file", "*/other.py"],
                "of put was seen: it is in ",
            ),
        ] {
            let ended = said(&[&["trace"][..], options, &PROBES].concat(), &["1s"]);
            let lines = missed(&ended);
            assert!(
                lines.len() == 1 && lines[0].contains(meant),
                "{meant}: {ended:?}"
            );
        }
        let ended = said(
            &[&["trace", "--file", "keeps.py"][..], &PROBES].concat(),
            &["1s"],
        );
        let before: Vec<&str> = ended.stderr.split("probes are live").collect();
        let told = "Python names files by their absolute paths, as a rule, so keeps.py hardly matches any; type '*/keeps.py'";
        assert!(
            before[0].contains(told),
            "before anything is traced: {ended:?}"
        );
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_is_there_and_nobody_calls_is_told_from_what_is_not_there() {
    leaves_nothing(|| {
        let ended = said(
            &[&["trace", "--function", "never"][..], &PROBES].concat(),
            &["1s"],
        );
        let there = format!(
            "no call of never was seen: never is there ({}), and nobody called it",
            file(KEEPS)
        );
        let lines = missed(&ended);
        assert!(lines.len() == 1 && lines[0].ends_with(&there), "{ended:?}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn hostile_names_are_suggested_without_harm_and_without_colours_where_none_are_wanted() {
    leaves_nothing(|| {
        let ended = said(
            &[&["trace", "--function", "fetched"][..], &PROBES].concat(),
            &["1s"],
        );
        let lines = missed(&ended);
        assert!(
            lines.len() == 1 && lines[0].contains(r"did you mean fetched\u{1b}[2J\u{202e}"),
            "{ended:?}"
        );
        assert!(!ended.stderr.contains(['\u{1b}', '\u{202e}']), "{ended:?}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn with_the_agent_classes_are_part_of_names_in_every_interpreter() {
    let text = std::fs::read_to_string(file(KEEPS)).expect("a program");
    let mut tried = 0;
    for (name, mut python) in interpreters() {
        // The agent does not know it.
        if name.contains("3.8") {
            continue;
        }
        let mut child = python
            .args(["-c", &text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut ready = [0; 5];
        let output = child.stdout.as_mut().expect("piped");
        output.read_exact(&mut ready).expect("it says something");
        assert_eq!(&ready, b"ready", "{name}");
        let pid = child.id().to_string();
        let options = [
            "--engine", "direct", "--inject", "ptrace", "-d", "1s", "-p", &pid,
        ];
        let mut asked: Command = command([&["stats", "Stor.put"][..], &options].concat());
        let ended = run(&mut asked);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert_eq!(ended.code, 0, "{name}: {ended:?}");
        let lines = missed(&ended);
        assert!(
            lines.len() == 1
                && lines[0].ends_with("no call of Stor.put was seen; did you mean Store.put?"),
            "{name}: {ended:?}"
        );
        tried += 1;
    }
    assert!(tried > 0, "no interpreter is here");
}
