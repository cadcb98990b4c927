//! What only the uprobes engine does. `tests/uprobes/run` runs these, with Debian 12's own interpreter and those in the
//! trees that `tests/guest/build` makes.

mod budgets;
mod continuous;
mod direct;
mod direct_sums;
mod fields;
mod hosts;
mod metrics;
mod missed;
mod mixed;
mod outputs;
mod paths;
mod recipes;
mod roles;
mod services;
mod traces;
mod views;
mod within;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pystap::event::{ProcessChange, What};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Service, arguments_are_exact, calls_and_returns_are_exact, calls_of, instances_are_exact,
};
use crate::command::{command, file, run};
use crate::executable;
use crate::tracing::{Traced, Tracing, Way, eventually, groups, leaves_nothing, numbers, trace};

/// Debian 12's own.
const PYTHON_3_11: &str = "/usr/bin/python3.11";

/// A tree that `tests/guest/build` made.
pub(super) fn tree(name: &str) -> PathBuf {
    let trees =
        std::env::var_os("PYSTAP_TEST_TREES").expect("tests/uprobes/run says where they are");
    PathBuf::from(trees).join(name)
}

/// Traces a program with an interpreter in a tree; the program does not know that it is in one.
fn trace_in(tree: &Path, python: &str, program: &str, options: &[&str]) -> Traced {
    let place = tree.join("pystap/programs");
    fs::create_dir_all(&place).expect("made");
    let name = Path::new(program).file_name().expect("a name");
    fs::copy(program, place.join(name)).expect("copied");
    let interpreter = tree.join(python.trim_start_matches('/'));
    let interpreter = interpreter.to_str().expect("UTF-8");
    let inside = Path::new("/pystap/programs").join(name);
    let command = [
        "--python",
        interpreter,
        "--",
        "chroot",
        tree.to_str().expect("UTF-8"),
        python,
        inside.to_str().expect("UTF-8"),
    ];
    trace(&[options, &command].concat()).complete("targets_ended")
}

/// Traces a program with Python 3.11.
fn trace_3_11(program: &str, options: &[&str]) -> Traced {
    let command = ["--", PYTHON_3_11, program];
    trace(&[options, &command].concat()).complete("targets_ended")
}

/// Every call and return of the program is there, as often as it says under this name: `calls`, or `entries` if frames
/// are left and entered again.
fn counts_are_exact(traced: &Traced, program: &str, name: &str) {
    let truth = numbers(&traced.truth()[name]);
    assert!(!truth.is_empty());
    for way in [Way::In, Way::Out] {
        assert_eq!(calls_of(traced, program, way, &truth), truth, "{way:?}");
    }
}

/// What has mapped a file of that name; the library itself need not be here.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_launched_program_that_imports_greenlet_later_is_known_to_run_greenlets() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let library = directory
            .path()
            .join("_greenlet.cpython-311-x86_64-linux-gnu.so");
        let path = library.to_str().expect("text");
        let program = "import mmap, os, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
file = open(sys.argv[1], 'rb')
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
while os.path.exists(sys.argv[1]): time.sleep(0.01)";
        let launched = ["--no-agent", "--", PYTHON_3_11, "-c", program, path];
        let mut tracing = Tracing::start(&launched).live();
        fs::write(&library, [0; 4096]).expect("written");
        tracing.wait_for("runs greenlets, and the interpreter's own probes do not tell");
        fs::remove_file(&library).expect("removed");
        let traced = tracing.finish().complete("targets_ended");
        let about = traced.said.iter().filter(|line| line.contains("greenlets"));
        assert_eq!(about.count(), 1, "{:#?}", traced.said);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_million_calls_of_python_3_11_are_all_seen_with_their_names() {
    leaves_nothing(|| {
        let program = file("examples/storm.py");
        let traced = trace(&[
            "--events",
            "call,return",
            "--",
            PYTHON_3_11,
            &program,
            "1000000",
        ]);
        let traced = traced.complete("targets_ended");
        let counts = traced.counts(&program, Way::In);
        let expected = BTreeMap::from([("<module>", 1), ("f", 1_000_000), ("main", 1)]);
        let expected: BTreeMap<String, u64> = expected
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        assert_eq!(counts, expected);
        assert_eq!(traced.counts(&program, Way::Out), expected);
        assert_eq!((traced.summary.unpaired, traced.summary.unordered), (0, 0));
        let unreadable = traced.events.iter().filter(|event| match &event.what {
            What::Call { place, .. } | What::Return { place, .. } => {
                place.function.unreadable || place.file.unreadable
            }
            _ => false,
        });
        assert_eq!(unreadable.count(), 0);
        let in_order = traced.events.is_sorted_by_key(|event| event.ts);
        assert!(in_order, "events are not in the order of their times");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn arguments_that_an_interpreters_own_probe_passes_are_all_told_here() {
    arguments_are_exact();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn objects_that_are_made_and_unmade_are_all_seen_here() {
    instances_are_exact();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_examples_are_exact_with_python_3_11() {
    leaves_nothing(|| {
        for name in ["nested", "fib", "threads", "collect"] {
            let program = file(&format!("examples/{name}.py"));
            let traced = trace_3_11(&program, &[]);
            counts_are_exact(&traced, &program, "calls");
            assert_eq!(traced.session.engine, "uprobes");
            let announced = traced
                .session
                .notes
                .iter()
                .any(|note| note.contains("line probe"));
            assert!(announced, "{:?}", traced.session.notes);
        }
        let nested = file("examples/nested.py");
        calls_and_returns_are_exact(&trace_3_11(&nested, &["--events", "call,return"]), &nested);
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn the_examples_are_exact_with_python_3_9_in_a_tree() {
    leaves_nothing(|| {
        for name in ["nested", "fib", "threads"] {
            let program = file(&format!("examples/{name}.py"));
            let inside = format!("/pystap/programs/{name}.py");
            let traced = trace_in(&tree("bullseye"), "/usr/bin/python3.9", &program, &[]);
            counts_are_exact(&traced, &inside, "calls");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn python_3_11_without_the_line_semaphore_reports_few_calls_and_that_is_said() {
    leaves_nothing(|| {
        let program = file("examples/nested.py");
        let traced = trace_3_11(&program, &["--no-line-semaphore"]);
        let truth = numbers(&traced.truth()["calls"]);
        assert_eq!(calls_of(&traced, &program, Way::Out, &truth), truth);
        assert!(
            calls_of(&traced, &program, Way::In, &truth)
                .values()
                .sum::<u64>()
                < 2
        );
        let warned = traced
            .said
            .iter()
            .any(|line| line.contains("warning: few calls of Python 3.11"));
        assert!(warned, "{:#?}", traced.said);
    });
}

/// The semaphore counter of a mark in a running process, by its address: Debian's 3.11 is not relocated.
fn semaphore(pid: &str, mark: &str) -> u16 {
    use std::os::unix::fs::FileExt;
    let image = pystap::elf::Image::open(PYTHON_3_11).expect("readable");
    let mark = image.mark("python", mark).expect("it has one");
    let address = mark.sites[0].semaphore.expect("guarded").address;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("ours");
    let mut counter = [0; 2];
    memory.read_exact_at(&mut counter, address).expect("mapped");
    u16::from_ne_bytes(counter)
}

fn service_3_11() -> Service {
    Service::start_with(PYTHON_3_11, "tests/programs/counts.py", &["0.01"])
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn semaphores_are_raised_in_the_target_alone_and_lowered_at_the_end() {
    leaves_nothing(|| {
        let (target, other) = (service_3_11(), service_3_11());
        let marks = ["function__entry", "function__return", "line"];
        let all = |pid: &str| marks.map(|mark| semaphore(pid, mark));
        let tracing = Tracing::start(&["--events", "call,return", "-p", &target.pid()]).live();
        tracing.wait_for_output(10_000);
        assert_eq!(all(&target.pid()), [1, 1, 1]);
        assert_eq!(all(&other.pid()), [0, 0, 0]);
        tracing.signal(Signal::INT);
        tracing.finish().complete("interrupted");
        assert_eq!(all(&target.pid()), [0, 0, 0]);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_session_begins_and_ends_within_half_a_second_on_a_busy_machine() {
    leaves_nothing(|| {
        let mut service = service_3_11();
        let mut best = (f64::MAX, f64::MAX);
        // The best of several: the machine may be busy.
        for _ in 0..5 {
            let begun = Instant::now();
            let tracing = Tracing::start(&["--events", "call,return", "-p", &service.pid()]);
            tracing.wait_for_output(1);
            let attached = begun.elapsed().as_secs_f64();
            tracing.wait_for_output(5_000);
            tracing.signal(Signal::INT);
            let begun = Instant::now();
            tracing.finish().complete("interrupted");
            let detached = begun.elapsed().as_secs_f64();
            best = (best.0.min(attached), best.1.min(detached));
        }
        service.end();
        assert!(best.0 < 0.5 && best.1 < 0.5, "{best:?}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn threads_that_come_and_go_while_the_probes_are_armed_are_seen_once() {
    leaves_nothing(|| {
        let program = file("tests/programs/churn.py");
        let mut service = Service::start_with(PYTHON_3_11, "tests/programs/churn.py", &[]);
        for _ in 0..5 {
            let tracing = Tracing::start(&["--events", "call,return", "-p", &service.pid()]).live();
            tracing.wait_for_output(1_000_000);
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            // Each thread calls work(0), work(1), … once each and in this order, and encodes the number in the line.
            let mut calls: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for (way, function, _, tid) in traced.frames(&program) {
                if function == "work" {
                    let of = calls.entry(tid).or_default();
                    match way {
                        Way::In => of.0 += 1,
                        Way::Out => of.1 += 1,
                    }
                    // The same number twice is an entry while one is open.
                    assert!(of.0 <= of.1 + 1, "thread {tid}: {of:?}");
                    assert!(of.1 <= of.0 + 1, "thread {tid}: {of:?}");
                }
            }
            assert!(calls.len() > 10, "{calls:?}");
        }
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn processes_that_match_are_picked_up_while_others_are_traced() {
    leaves_nothing(|| {
        let program = file("tests/programs/counts.py");
        let mut first = service_3_11();
        let tracing =
            Tracing::start(&["--events", "call,return", "--match", "programs/counts[.]py"]).live();
        let mut second = service_3_11();
        let pid = second.pid();
        let traces = |pid: &str| tracing.has_written(&format!("\"pid\":{pid},"));
        eventually("the second one is traced", || traces(&pid));
        first.end();
        second.end();
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        for pid in [first.pid(), second.pid()] {
            let calls = traced
                .frames(&program)
                .filter(|(_, _, of, _)| of.to_string() == pid);
            assert!(calls.count() > 1, "{pid}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_interpreter_that_was_replaced_under_a_running_process_is_still_traced() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let python = directory.path().join("my python #3.11");
        executable::copy(PYTHON_3_11, &python);
        let mut service = Service::start_with(
            python.to_str().expect("UTF-8"),
            "tests/programs/counts.py",
            &["0.01"],
        );
        fs::remove_file(&python).expect("removed");
        fs::write(&python, "another file").expect("written");
        let tracing = Tracing::start(&["--events", "call,return", "-p", &service.pid()]).live();
        tracing.wait_for_output(5_000);
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        assert!(traced.counts(&file("tests/programs/counts.py"), Way::In)["tick"] > 1);
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_process_in_another_mount_namespace_is_traced_through_its_own_files_in_a_tree() {
    leaves_nothing(|| {
        let tree = tree("bullseye");
        let place = tree.join("pystap/programs");
        fs::create_dir_all(&place).expect("made");
        fs::copy(file("tests/programs/counts.py"), place.join("counts.py")).expect("copied");
        let mut inside = Command::new("unshare");
        inside
            .args(["--mount", "--fork", "--kill-child", "chroot"])
            .arg(&tree);
        inside.args(["/usr/bin/python3.9", "/pystap/programs/counts.py", "0.01"]);
        let mut service = Service::of(inside);
        let python = eventually_child_of(&service.pid());
        let tracing = Tracing::start(&["--events", "call,return", "-p", &python]).live();
        tracing.wait_for_output(5_000);
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        assert!(traced.counts("/pystap/programs/counts.py", Way::In)["tick"] > 1);
        service.end();
    });
}

/// The only child of a process, once it runs Python.
fn eventually_child_of(pid: &str) -> String {
    let child = || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let child = children.split_whitespace().next()?.to_owned();
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        comm.starts_with("python").then_some(child)
    };
    eventually("the command runs", || child().is_some());
    child().expect("it runs")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_a_killed_pystap_left_is_removed_by_the_next_one_and_by_cleanup() {
    for by_cleanup in [false, true] {
        leaves_nothing(|| {
            let mut service = service_3_11();
            let arguments = ["--events", "call", "-p", &service.pid()];
            let tracing = Tracing::start(&arguments).live();
            let others = Tracing::start(&arguments).live();
            assert_eq!(groups().len(), 2);
            tracing.signal(Signal::KILL);
            tracing.end();
            assert_eq!(groups().len(), 2, "a kill leaves the definitions");
            if by_cleanup {
                let ended = run(&mut command(["cleanup"]));
                assert_eq!(ended.code, 0, "{ended:?}");
                assert!(
                    ended.stderr.contains("removed the probes pystap_"),
                    "{ended:?}"
                );
            } else {
                let next = Tracing::start(&[&arguments[..], &["-n", "1"]].concat()).finish();
                assert!(
                    next.said
                        .iter()
                        .any(|line| line.contains("removed the probes pystap_"))
                );
            }
            assert_eq!(groups().len(), 1, "the probes of the living are left alone");
            others.signal(Signal::INT);
            let traced = others.finish().complete("interrupted");
            assert!(traced.summary.delivered > 0);
            service.end();
        });
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_target_that_dies_while_it_is_armed_ends_the_session_and_leaves_nothing() {
    leaves_nothing(|| {
        for delay in 0..8 {
            let service = service_3_11();
            let pid = Pid::from_raw(service.pid().parse().expect("a pid")).expect("a pid");
            let tracing = Tracing::start(&["--events", "call,return", "-p", &service.pid()]);
            // Some at once, some later: whatever it is doing then.
            let begun = Instant::now();
            while begun.elapsed().as_millis() < delay * 5 {
                std::hint::spin_loop();
            }
            kill_process(pid, Signal::KILL).expect("it runs");
            let (code, said) = tracing.end();
            assert!(code == 0 || code == 4, "{code} {said:#?}");
            assert!(
                said.iter().filter(|line| line.contains("error")).count() <= 1,
                "{said:#?}"
            );
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn two_sessions_on_one_process_see_the_same() {
    leaves_nothing(|| {
        let program = file("tests/programs/counts.py");
        let mut service = service_3_11();
        let arguments = ["--events", "call,return", "-p", &service.pid()];
        let (one, two) = (
            Tracing::start(&arguments).live(),
            Tracing::start(&arguments).live(),
        );
        two.wait_for_output(20_000);
        service.end();
        let (one, two) = (
            one.finish().complete("targets_ended"),
            two.finish().complete("targets_ended"),
        );
        let ticks = |traced: &Traced| traced.counts(&program, Way::In)["tick"];
        assert!(ticks(&one) >= ticks(&two) && ticks(&two) > 10);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_kernels_filters_give_what_user_space_would_let_through() {
    leaves_nothing(|| {
        // The same names that the property test generates, here in real code objects.
        let program = file("tests/programs/names.py");
        let everything =
            trace(&["--events", "call", "--", PYTHON_3_11, &program]).complete("targets_ended");
        let all: Vec<(String, String)> = names_of(&everything);
        assert!(all.len() > 100);
        for options in [
            &["--function", "a*"][..],
            &["--function", "[a-c]?*", "--function", "\\*"],
            &["--function", "!x"],
            &["--function", "7*"],
            &["--file", "*/b/*", "--exclude", "function:a*"],
            &["--module", "a.b"],
            &["--module", "b.*", "--exclude", "*é*"],
            &["--exclude", "function:[!a]*"],
            &[
                "--function",
                "say\"it\"",
                "--function",
                "it's",
                "--function",
                "it's \"both\"",
            ],
        ] {
            let filters = filters_of(options);
            let expected: Vec<&(String, String)> = all
                .iter()
                .filter(|(file, function)| {
                    filters.accepts(file.as_bytes(), [function.as_bytes(); 2])
                })
                .collect();
            let arguments = [
                &["--events", "call"],
                options,
                &["--", PYTHON_3_11, &program],
            ]
            .concat();
            let traced = trace(&arguments).complete("targets_ended");
            let found = names_of(&traced);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{options:?}");
        }
    });
}

fn names_of(traced: &Traced) -> Vec<(String, String)> {
    let calls = traced.events.iter().filter_map(|event| match &event.what {
        What::Call { place, .. } if place.file.text.starts_with("/names/") => {
            Some((place.file.text.clone(), place.function.text.clone()))
        }
        _ => None,
    });
    calls.collect()
}

fn filters_of(options: &[&str]) -> pystap::script::Filters {
    use pystap::script::filter::Glob;
    let mut filters = pystap::script::Filters::default();
    for pair in options.chunks(2) {
        let glob = |text: &str| Glob::new(text).expect("valid");
        match (pair[0], pair[1]) {
            ("--function", text) => filters.functions.push(glob(text)),
            ("--file", text) => filters.files.push(glob(text)),
            ("--module", text) => filters.modules.push(Glob::module(text).expect("valid")),
            (_, text) => filters
                .not_functions
                .push(glob(text.strip_prefix("function:").unwrap_or(text))),
        }
    }
    filters
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_name_longer_than_the_kernel_copies_is_called_unreadable() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("long.py");
        let mut source = fs::File::create(&program).expect("made");
        writeln!(
            source,
            "def f(): pass\nf.__code__ = f.__code__.replace(co_name='n' * 9000, co_filename='/long')\nf()"
        )
        .expect("written");
        let traced = trace(&[
            "--events",
            "call",
            "--",
            PYTHON_3_11,
            program.to_str().expect("UTF-8"),
        ]);
        let traced = traced.complete("targets_ended");
        let place = traced.events.iter().find_map(|event| match &event.what {
            What::Call { place, .. } if place.file.text == "/long" => Some(place.clone()),
            _ => None,
        });
        let place = place.expect("it was called");
        assert!(
            place.function.unreadable && place.function.text.is_empty(),
            "{place:?}"
        );
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn asyncio_and_generators_of_python_3_11_and_3_9_are_exact_in_a_tree() {
    leaves_nothing(|| {
        for program in ["examples/generators.py", "tests/programs/tasks.py"] {
            let path = file(program);
            let options = ["--events", "call,return"];
            counts_are_exact(&trace_3_11(&path, &options), &path, "entries");
            let name = path.rsplit('/').next().expect("a name");
            let traced = trace_in(&tree("bullseye"), "/usr/bin/python3.9", &path, &options);
            counts_are_exact(&traced, &format!("/pystap/programs/{name}"), "entries");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn children_of_python_3_11_are_followed_through_fork_and_exec() {
    leaves_nothing(|| {
        let program = file("examples/forks.py");
        let traced = trace_3_11(&program, &["--events", "call,return"]);
        let truth = traced.truth();
        let children: Vec<u32> = truth["children"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pid| u32::try_from(pid.as_u64().expect("a number")).expect("a pid"))
            .collect();
        assert_eq!(traced.processes(ProcessChange::Fork), children);
        assert_eq!(traced.processes(ProcessChange::Exec), children[1..]);
    });
}

/// What a child does in its first moments can be missed (docs/truth.md, "What is not seen"), what it becomes cannot.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_children_with_threads_of_their_own_become_is_seen() {
    leaves_nothing(|| {
        let program = file("tests/programs/brothers.py");
        for _ in 0..5 {
            let traced = trace_3_11(&program, &["--events", "call,return"]);
            let execed = traced.processes(ProcessChange::Exec);
            assert_eq!(execed.len(), 3, "{:#?}", traced.said);
            for pid in execed {
                let events = traced.events.iter().filter(|event| event.pid == pid);
                let after = events.skip_while(|event| {
                    !matches!(&event.what, What::Process { change, .. } if *change == ProcessChange::Exec)
                });
                let work = after.filter(|event| {
                    matches!(&event.what, What::Call { place, .. } if place.function.text == "work")
                });
                assert_eq!(work.count(), 10);
            }
        }
    });
}

/// A user without privileges.
fn as_nobody(arguments: &[&str]) -> crate::command::Ended {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    setpriv.arg(crate::command::pystap()).args(arguments);
    setpriv.env("HOME", "/nonexistent").current_dir("/");
    run(&mut setpriv)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn without_the_privilege_it_is_said_what_is_missing() {
    // pystap cannot be found where this user may not search; a copy can.
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let ended = as_nobody(&[
        "trace",
        "--engine",
        "uprobes",
        "--",
        PYTHON_3_11,
        "-c",
        "pass",
    ]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    assert!(ended.stderr.contains("sudo pystap"), "{ended:?}");
    assert!(ended.stderr.contains("CAP_"), "{ended:?}");
}

/// pystap as root with the memory-locking limit of other users.
fn limited(arguments: &[&str]) -> crate::command::Ended {
    let mut setpriv = Command::new("setpriv");
    setpriv.args([
        "--bounding-set=-ipc_lock",
        "--inh-caps=-ipc_lock",
        "prlimit",
        "--memlock=4194304",
        "--",
    ]);
    setpriv.arg(crate::command::pystap()).args(arguments);
    run(&mut setpriv)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn buffers_stay_within_the_memory_lock_limit_and_larger_ones_are_refused_with_the_next_step() {
    leaves_nothing(|| {
        let traced = ["trace", "--engine", "uprobes", "--events", "gc"];
        let command = ["--", PYTHON_3_11, "-c", "import gc; gc.collect()"];
        let ended = limited(&[&traced[..], &command].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("gc_done"), "{ended:?}");
        let ended = limited(&[&traced[..], &["--buffer", "64"], &command].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
        for word in ["--buffer", "ulimit -l", "4096 KB"] {
            assert!(ended.stderr.contains(word), "{word}: {ended:?}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_command_that_a_signal_ends_is_said_to_have_been_killed() {
    leaves_nothing(|| {
        let dies = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)";
        let directory = tempfile::tempdir().expect("a directory");
        let recording = directory.path().join("recording");
        let recording = recording.to_str().expect("UTF-8");
        for more in [
            &["trace", "--events", "gc"][..],
            &["record", "--sample", "-o", recording],
        ] {
            let ended = run(&mut command(
                [more, &["--", PYTHON_3_11, "-c", dies]].concat(),
            ));
            assert!(
                ended.stderr.contains("the target was killed by SIGSEGV"),
                "{ended:?}"
            );
        }
    });
}

/// pystap in its own mount namespace, after this shell command.
fn after(preparation: &str, arguments: &[&str]) -> crate::command::Ended {
    with_own_mounts(&format!("{preparation} && exec \"$0\" \"$@\""), arguments)
}

/// The same in this shell command, in which `"$0" "$@"` is pystap.
fn with_own_mounts(script: &str, arguments: &[&str]) -> crate::command::Ended {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script]);
    unshare.arg(crate::command::pystap()).args(arguments);
    run(&mut unshare)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_kernel_without_tracefs_or_uprobe_events_is_told_from_a_user_without_the_right() {
    let arguments = [
        "trace",
        "--engine",
        "uprobes",
        "--",
        PYTHON_3_11,
        "-c",
        "pass",
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().to_str().expect("UTF-8");
    fs::create_dir(directory.path().join("events")).expect("made");
    // As on a kernel without uprobe events.
    let ended = after(
        &format!("mount --bind {empty} /sys/kernel/tracing"),
        &arguments,
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    assert!(ended.stderr.contains("CONFIG_UPROBE_EVENTS"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    // Not mounted: pystap mounts it itself, where nobody else sees it and nothing stays.
    let unmount = "{ umount -R /sys/kernel/debug 2>/dev/null; umount /sys/kernel/tracing; }";
    let ended = with_own_mounts(
        &format!("{unmount} && \"$0\" \"$@\" && ! grep tracefs /proc/self/mounts >&2"),
        &arguments,
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("\"engine\":\"uprobes\""), "{ended:?}");
    // Not mounted, and this user may not mount it.
    let unprivileged = format!(
        "{unmount} && exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin -- \"$0\" \"$@\""
    );
    let ended = after(&unprivileged, &arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    assert!(ended.stderr.contains("CAP_SYS_ADMIN"), "{ended:?}");
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn processes_of_two_versions_are_traced_in_one_session_in_a_tree() {
    leaves_nothing(|| {
        let mut one = service_3_11();
        let tree = tree("bullseye");
        fs::create_dir_all(tree.join("pystap/programs")).expect("made");
        let inside = "/pystap/programs/counts.py";
        fs::copy(file("tests/programs/counts.py"), tree.join(&inside[1..])).expect("copied");
        let mut chroot = Command::new("chroot");
        chroot
            .arg(&tree)
            .args(["/usr/bin/python3.9", inside, "0.01"]);
        let mut other = Service::of(chroot);
        let pids = [one.pid(), other.pid()];
        let tracing =
            Tracing::start(&["--events", "call,return", "-p", &pids[0], "-p", &pids[1]]).live();
        tracing.wait_for_output(20_000);
        one.end();
        other.end();
        let traced = tracing.finish().complete("targets_ended");
        for program in [file("tests/programs/counts.py").as_str(), inside] {
            assert!(traced.counts(program, Way::In)["tick"] > 1, "{program}");
        }
        assert_eq!(traced.session.armed.len(), 4, "{:?}", traced.session.armed);
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_process_whose_files_are_on_an_overlay_as_in_containers_is_traced_in_a_tree() {
    leaves_nothing(|| {
        let layers = tempfile::tempdir().expect("a directory");
        let script = "mount -t tmpfs tmpfs \"$1\" && cd \"$1\" && mkdir upper work merged \
            && mount -t overlay overlay -o \"lowerdir=$2,upperdir=upper,workdir=work\" merged \
            && mkdir -p merged/programs && cp \"$3\" merged/programs/counts.py \
            && exec chroot merged /usr/bin/python3.9 /programs/counts.py 0.01";
        let mut inside = Command::new("unshare");
        inside.args([
            "--mount",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            script,
            "sh",
        ]);
        inside
            .arg(layers.path())
            .arg(tree("bullseye"))
            .arg(file("tests/programs/counts.py"));
        let mut service = Service::of(inside);
        let python = eventually_child_of(&service.pid());
        let tracing = Tracing::start(&["--events", "call,return", "-p", &python]).live();
        tracing.wait_for_output(5_000);
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        assert!(traced.counts("/programs/counts.py", Way::In)["tick"] > 1);
        service.end();
    });
}
