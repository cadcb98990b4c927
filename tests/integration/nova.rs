//! The example with a real nova. It takes minutes and a gigabyte, so it is run by hand: `cargo test --test integration
//! -- --ignored --test-threads=1 nova::`, as root where uprobe events work.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{command, file, pystap, run};
use crate::tracing::{eventually, leaves_nothing, numbers};

fn read(results: &Path, name: &str) -> String {
    fs::read_to_string(results.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// How many calls of each kind were answered while a view was recorded, and by which function of nova.
fn answered(results: &Path, view: &str) -> Vec<(&'static str, &'static str, u64)> {
    let load: Value = serde_json::from_str(&read(results, &format!("{view}.load"))).expect("JSON");
    let answered = numbers(&load["answered"]);
    [
        ("ping", "/nova/baserpc.py"),
        ("object_class_action_versions", "/nova/conductor/manager.py"),
    ]
    .map(|(function, place)| (function, place, answered[function]))
    .to_vec()
}

/// The first number on each line of a table or a list that begins with these words.
fn numbers_before(text: &str, words: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(words));
    lines
        .map(|(before, _)| before.trim().parse::<u64>().expect("a number"))
        .sum()
}

/// Processes whose root is this directory.
fn inhabitants(tree: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("root")).is_ok_and(|root| root == tree))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn mounts_below(tree: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let tree = tree.to_str().expect("UTF-8");
    let below = mounts.lines().filter(|line| line.contains(tree));
    below.map(str::to_owned).collect()
}

/// Builds the system if it is missing, and returns its path.
fn tree() -> std::path::PathBuf {
    let output = Command::new(file("examples/nova/tree"))
        .stderr(Stdio::inherit())
        .output()
        .expect("it starts");
    assert!(output.status.success());
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("tree")
}

#[test]
#[ignore = "takes minutes and a gigabyte: run by hand, see CONTRIBUTING.md"]
fn a_real_nova_is_seen_to_the_last_call_and_taken_down_again() {
    leaves_nothing(|| {
        let tree = tree();
        let results = tempfile::tempdir().expect("a directory");
        let results = results.path();
        let ran = Command::new(file("examples/nova/run"))
            .arg(results)
            .env("PYSTAP", pystap())
            .env("ROUNDS", "50")
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{said}");
        assert_eq!(inhabitants(&tree), Vec::<String>::new(), "{said}");
        assert_eq!(mounts_below(&tree), Vec::<String>::new(), "{said}");

        let ps = read(results, "ps.txt");
        let conductors = read(results, "conductors");
        let conductors: BTreeSet<&str> = conductors.lines().collect();
        assert_eq!(conductors.len(), 3, "the parent and two workers");
        // A nova of someone else's may run here too.
        let listed: BTreeSet<&str> = ps
            .lines()
            .filter(|line| line.contains("runs /usr/bin/nova-conductor"))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(listed.is_superset(&conductors), "{conductors:?} {ps}");

        for view in ["top", "handlers", "gc", "stats", "record"] {
            let said = read(results, &format!("{view}.said"));
            assert!(said.contains("nothing lost"), "{view}: {said}");
        }
        let stats = read(results, "stats.txt");
        let handlers = read(results, "handlers.txt");
        for (function, place, answers) in answered(results, "stats") {
            assert_eq!(answers, 50);
            // For each process a line with the function, then one that begins with the number of its calls.
            let lines: Vec<&str> = stats.lines().collect();
            let counted: u64 = lines
                .windows(2)
                .filter(|two| two[0].starts_with(&format!("{function}  ")))
                .filter(|two| two[0].contains(place))
                .map(|two| numbers_before(two[1], " call"))
                .sum();
            assert_eq!(counted, answers, "{function}: {stats}");
        }
        // The last table covers the whole run.
        let last = handlers.rsplit("on the clock").next().expect("a table");
        for (function, place, answers) in answered(results, "handlers") {
            let row = last
                .lines()
                .find(|line| line.contains(&format!("  {function}  ")) && line.contains(place));
            let calls = row.and_then(|row| row.split_whitespace().next());
            let answers = answers.to_string();
            assert_eq!(calls, Some(answers.as_str()), "{function}: {handlers}");
        }

        let recording = results.join("nova.pystap");
        let recording = recording.to_str().expect("UTF-8");
        let report = run(&mut command([
            "report", recording, "--json", "--limit", "100000",
        ]));
        let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
        let rows = report["functions"].as_array().expect("rows");
        for (function, place, answers) in answered(results, "record") {
            let calls: u64 = rows
                .iter()
                .filter(|row| row["function"] == function)
                .filter(|row| {
                    row["file"]
                        .as_str()
                        .is_some_and(|file| file.ends_with(place))
                })
                .filter_map(|row| row["calls"].as_u64())
                .sum();
            assert_eq!(calls, answers, "{function}");
        }
        let gc = read(results, "gc.txt");
        assert!(gc.contains("\npauses of generation 0\n"), "{gc}");

        let picture = read(results, "nova.svg");
        let titles = picture.matches("<title>").count();
        assert!(picture.starts_with("<?xml") && picture.trim_end().ends_with("</svg>"));
        assert!(titles > 50, "{titles} frames");
        for function in ["deepcopy", "object_class_action_versions", "ping"] {
            assert!(picture.contains(function), "{function}");
        }
    });
}

#[test]
#[ignore = "takes minutes and gigabytes: run by hand, see CONTRIBUTING.md"]
fn calls_requests_and_statements_of_three_novas_are_what_nova_wrote_down() {
    for nova in [
        ["--suite", "bookworm"],
        ["--suite", "trixie"],
        ["--pypi", "34.0.0"],
    ] {
        leaves_nothing(|| {
            let results = tempfile::tempdir().expect("a directory");
            let ran = Command::new(file("examples/nova/run"))
                .args(nova)
                .arg("--truth")
                .arg(results.path())
                .env("PYSTAP", pystap())
                .env("ROUNDS", "50")
                .output()
                .expect("it starts");
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{nova:?}: {said}");
            let compared = String::from_utf8_lossy(&ran.stdout);
            let same = compared.lines().filter(|line| line.starts_with("same "));
            // The counts, and medians of the three methods at least.
            assert!(same.count() >= 9, "{nova:?}: {compared}");
        });
    }
}

#[test]
#[ignore = "takes minutes and a gigabyte: run by hand, see CONTRIBUTING.md"]
fn an_interrupted_run_takes_nova_down_as_well() {
    let tree = tree();
    let results = tempfile::tempdir().expect("a directory");
    let mut ran = Command::new(file("examples/nova/run"))
        .arg("--hold")
        .env("PYSTAP", pystap())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    eventually("nova runs", || inhabitants(&tree).len() > 5);
    kill_process(Pid::from_child(&ran), Signal::INT).expect("it runs");
    let mut stderr = ran.stderr.take().expect("piped");
    let said = thread::spawn(move || std::io::read_to_string(&mut stderr));
    let status = ran.wait().expect("waited");
    let said = said.join().expect("no panic").expect("read");
    assert_eq!(status.code(), Some(130), "{said}");
    assert_eq!(inhabitants(&tree), Vec::<String>::new(), "{said}");
    assert_eq!(mounts_below(&tree), Vec::<String>::new(), "{said}");
    drop(results);
}
