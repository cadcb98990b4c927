//! Sessions with real probes in a real kernel, the same for both engines: `tests/guest/run` runs these with stap, in
//! the guest, and `tests/uprobes/run` with uprobe events, here. They are ignored elsewhere. The events must agree with
//! what an example program says about itself in its last line.
//!
//! A session takes ten seconds in the emulated machine and compiling a script there takes minutes, so every script used
//! here is listed in [`scripts`] and compiled beforehand, natively, by [`super::prefill`].

pub(crate) mod agent;
mod anew;
mod attached;
mod both;
pub(crate) mod bundle;
mod debian13;
mod entering;
mod faults;
mod hostile;
mod installed;
mod joining;
mod killed;
mod refusals;
mod stap;
pub(crate) mod totals;
mod truth;
mod uprobes;
mod waits;
mod windows;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use pystap::event::{LossStage, ProcessChange, What};
use pystap::probe::{Phase, Probe};
use rustix::process::Signal;

use crate::command::{command, end, file, run};
use crate::tracing::{
    BOUND, Traced, Tracing, Way, armed, eventually, leaves_nothing, numbers, read, trace,
};

/// The interpreter with every mark that calls need.
pub(crate) const PYTHON: &str = "/usr/bin/python3.15";

/// A script, by what it is rendered from: an interpreter, and those options of `pystap trace` that the script depends
/// on.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) python: &'static str,
    pub(crate) options: &'static [&'static str],
}

const CALLS: Script = Script {
    python: PYTHON,
    options: &[],
};
const RUNTIME: Script = Script {
    python: PYTHON,
    options: &["--events", "gc,import,audit"],
};
const RUNTIME_3_14: Script = Script {
    python: "/usr/bin/python3.14",
    options: RUNTIME.options,
};
const RUNTIME_3_13: Script = Script {
    python: "/usr/bin/python3.13",
    options: RUNTIME.options,
};
const BY_FUNCTION_AND_FILE: Script = Script {
    python: PYTHON,
    options: &[
        "--events",
        "call,return",
        "--function",
        "[bx]",
        "--function",
        "c*",
        "--file",
        "*/nested.py",
    ],
};
const BY_MODULE_AND_EXCLUSION: Script = Script {
    python: PYTHON,
    options: &[
        "--events",
        "call,return",
        "--module",
        "nested",
        "--exclude",
        "a",
        "--exclude",
        "function:<*>",
    ],
};
const LONG_CALLS: Script = Script {
    python: PYTHON,
    options: &["--min-duration", "5ms"],
};

/// What [`arguments_are_exact`] depends on; its interpreter is a program of ours, too.
pub(crate) const ARGUMENTS: &[&str] = &[
    "--events",
    "call,return",
    "--function",
    "serve",
    "--capture",
    "args",
];
/// What [`instances_are_exact`] depends on; its interpreter is a program of ours.
pub(crate) const INSTANCES: &[&str] = &["--events", "instance"];

/// The scripts of this file.
const OWN_SCRIPTS: [&Script; 7] = [
    &CALLS,
    &RUNTIME,
    &RUNTIME_3_14,
    &RUNTIME_3_13,
    &BY_FUNCTION_AND_FILE,
    &BY_MODULE_AND_EXCLUSION,
    &LONG_CALLS,
];

/// Every script of the live tests.
pub(crate) fn scripts() -> impl Iterator<Item = &'static Script> {
    OWN_SCRIPTS.into_iter().chain(agent::SCRIPTS)
}

impl Script {
    /// The options of this script plus these.
    fn and<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        [self.options, more].concat()
    }

    /// Traces a program from its start to its end.
    fn trace(&self, program: &str, more: &[&str]) -> Traced {
        let arguments = [self.options, more, &["--", self.python, program]].concat();
        trace(&arguments).complete("targets_ended")
    }
}

/// A Python program that is running before it is traced, and ends when its input does.
struct Service {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Service {
    /// Starts it and waits until it says that it is ready.
    fn start(program: &str, arguments: &[&str]) -> Service {
        Service::start_with(PYTHON, program, arguments)
    }

    fn start_with(python: &str, program: &str, arguments: &[&str]) -> Service {
        let mut command = Command::new(python);
        command.arg(file(program)).args(arguments);
        Service::of(command)
    }

    fn of(mut command: Command) -> Service {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut service = Service { child, output };
        assert!(service.line().starts_with("ready"));
        service
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line
    }

    fn request(&mut self, word: &str) -> String {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{word}").expect("it reads");
        self.line()
    }

    /// Closes its input. Returns the last thing it says about itself.
    fn end(&mut self) -> serde_json::Value {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("read");
        assert_eq!(end(&mut self.child, BOUND), Some(0));
        serde_json::from_str(rest.lines().last().expect("a line")).expect("JSON")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that ticks continuously.
fn ticking() -> Service {
    Service::start("tests/programs/counts.py", &["0.02"])
}

/// Number of calls by function, for the functions that `truth` counts.
fn calls_of(
    traced: &Traced,
    program: &str,
    way: Way,
    truth: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let mut counts = traced.counts(program, way);
    counts.retain(|function, _| truth.contains_key(function));
    counts
}

/// Every call has its return, as often as the program says that it called.
fn calls_and_returns_are_exact(traced: &Traced, program: &str) {
    counts_are_exact(traced, program);
    // An event that came too late to be put in order may have lost its match.
    let without = without_duration(traced, program);
    assert!(
        without.len() as u64 <= traced.summary.unordered,
        "{without:?}"
    );
}

/// The same, whether or not it is known how long each call took.
fn counts_are_exact(traced: &Traced, program: &str) {
    let truth = numbers(&traced.truth()["calls"]);
    assert_eq!(calls_of(traced, program, Way::In, &truth), truth);
    assert_eq!(calls_of(traced, program, Way::Out, &truth), truth);
}

/// The functions that returned after nobody knows how long.
fn without_duration<'a>(traced: &'a Traced, program: &str) -> Vec<&'a str> {
    let returns = traced.events.iter().filter_map(|event| match &event.what {
        What::Return {
            place,
            duration_ns: None,
            ..
        } => Some(place),
        _ => None,
    });
    returns
        .filter(|place| place.file.text == program)
        .map(|place| place.function.text.as_str())
        .collect()
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_recursion_is_seen_call_by_call() {
    leaves_nothing(|| {
        let program = file("examples/fib.py");
        let traced = CALLS.trace(&program, &[]);
        counts_are_exact(&traced, &program);
        // Until it has returned to itself once, it may be a generator that is made and closed: docs/truth.md, first recursion.
        let without = without_duration(&traced, &program);
        let own = without.iter().filter(|function| **function == "fib");
        let (own, all) = (own.count(), without.len());
        let late = usize::try_from(traced.summary.unordered).expect("a number");
        assert!(
            0 < own && own < 40 + late && all <= own + late,
            "{without:?}"
        );
        assert!(
            traced.stdout.starts_with("fib(10) = 55\n"),
            "{:?}",
            traced.stdout
        );
        let (mut depth, mut deepest) = (0, 0);
        for (way, ..) in traced.frames(&program).filter(|frame| frame.1 == "fib") {
            match way {
                Way::In => depth += 1,
                Way::Out => depth -= 1,
            }
            deepest = deepest.max(depth);
        }
        assert_eq!((depth, deepest), (0, 10));
        assert_eq!(traced.session.events, ["call", "return", "gc"]);
        assert_eq!(traced.processes(ProcessChange::Exit), [traced.target()]);
        assert_eq!(traced.summary.command_status, Some(0));
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn calls_in_calls_come_in_their_order_and_nest() {
    leaves_nothing(|| {
        let program = file("examples/nested.py");
        let traced = CALLS.trace(&program, &[]);
        let order: String = traced
            .frames(&program)
            .map(|(way, function, ..)| match way {
                Way::In => format!("{function}("),
                Way::Out => ")".to_owned(),
            })
            .collect();
        assert_eq!(order, "<module>(a(b(c()c()c())b(c()c()c())))");
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn frames_that_are_left_and_entered_again_look_as_python_3_15_marks_them() {
    leaves_nothing(|| {
        let program = file("examples/generators.py");
        let traced = CALLS.trace(&program, &[]);
        let truth = traced.truth();
        let entries = numbers(&truth["entries"]);
        assert_eq!(calls_of(&traced, &program, Way::In, &entries), entries);
        // A creation is entered but never left.
        let mut returns = numbers(&truth["calls"]);
        returns.extend(numbers(&truth["resumed"]));
        assert_eq!(calls_of(&traced, &program, Way::Out, &entries), returns);
        let ways = |wanted| -> Vec<Way> {
            let frames = traced.frames(&program).filter(|frame| frame.1 == wanted);
            frames.map(|(way, ..)| way).collect()
        };
        use Way::{In, Out};
        assert_eq!(ways("count"), [In, In, Out, In, Out, In, Out]);
        assert_eq!(ways("pause"), [In, In, Out, In, Out]);
        let raising: String = traced
            .frames(&program)
            .skip_while(|frame| frame.1 != "outer")
            .take(6)
            .map(|(way, function, ..)| format!("{way:?} {function} "))
            .collect();
        assert_eq!(
            raising,
            "In outer In middle In inner Out inner Out middle Out outer "
        );
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn every_thread_has_a_stack_of_its_own() {
    leaves_nothing(|| {
        let program = file("examples/threads.py");
        let traced = CALLS.trace(&program, &[]);
        calls_and_returns_are_exact(&traced, &program);
        let mut threads: BTreeMap<u32, String> = BTreeMap::new();
        for (way, function, pid, tid) in traced.frames(&program) {
            assert_eq!(pid, traced.target());
            if function != "<module>" {
                let order = threads.entry(tid).or_default();
                order.push_str(if way == Way::In { function } else { ";" });
            }
        }
        let each = format!("worker{};", "work;".repeat(100));
        assert_eq!(threads.values().collect::<Vec<_>>(), vec![&each; 4]);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_running_service_is_attached_to_and_the_session_ends_with_it() {
    leaves_nothing(|| {
        let mut service = Service::start("examples/service.py", &[]);
        let tracing = Tracing::start(&CALLS.and(&["-p", &service.pid()])).live();
        for (word, answer) in [
            ("Hello", "ok hello"),
            ("fail", "failed fail"),
            ("bye", "ok bye"),
        ] {
            assert_eq!(service.request(word).trim_end(), answer);
        }
        let truth = numbers(&service.end()["calls"]);
        let traced = tracing.finish().complete("targets_ended");
        let program = file("examples/service.py");
        assert_eq!(calls_of(&traced, &program, Way::In, &truth), truth);
        assert_eq!(calls_of(&traced, &program, Way::Out, &truth), truth);
        assert_eq!(traced.target(), service.child.id());
        assert!(
            traced
                .events
                .iter()
                .all(|event| event.pid == service.child.id())
        );
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn garbage_collections_come_with_generation_count_and_pause() {
    leaves_nothing(|| {
        let traced = RUNTIME.trace(&file("examples/collect.py"), &[]);
        let truth = traced.truth();
        let collected = |generation: &str| {
            let found = truth["collected"][generation].as_array().expect("a list");
            let generation = generation.parse::<i64>().expect("a number");
            let found = found.iter().map(|count| count.as_i64().expect("a number"));
            found.map(|count| (generation, count)).collect::<Vec<_>>()
        };
        let expected = [collected("2"), collected("0")].concat();
        let mut done = Vec::new();
        let mut started = Vec::new();
        for event in &traced.events {
            match event.what {
                What::GcStart { generation } => started.push(generation),
                What::GcDone {
                    generation,
                    collected,
                    pause_ns,
                } => {
                    assert!(pause_ns.is_some_and(|pause| pause > 0), "{event:?}");
                    done.push((generation.expect("its start was seen"), collected));
                }
                _ => {}
            }
        }
        // Start-up may have collected too.
        let own = done
            .len()
            .checked_sub(expected.len())
            .expect("as many as that");
        assert_eq!(done[own..], expected);
        let generations: Vec<i64> = expected.iter().map(|(generation, _)| *generation).collect();
        assert_eq!(started[started.len() - generations.len()..], generations);
    });
}

/// Objects that are made and unmade by a program that has the probes of patched Pythons, tests/programs/instances.c.
fn instances_are_exact() {
    leaves_nothing(|| {
        let program = file("tests/programs/instances");
        let traced = trace(&[INSTANCES, &["--", &program, "1000"]].concat());
        let traced = traced.complete("targets_ended");
        assert_eq!(traced.truth()["objects"], 1000);
        let seen: Vec<(Probe, &str, &str)> = traced
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Plain(plain) => {
                    let ends = matches!(plain.phase(), Phase::Done(_));
                    assert_eq!(plain.duration_ns.is_some(), ends, "{event:?}");
                    let mut texts = plain.fields().map(|(_, text)| text.text.as_str());
                    Some((plain.probe, texts.next()?, texts.next()?))
                }
                _ => None,
            })
            .collect();
        let server = |probe| (probe, "Server", "app.servers");
        let connection = |probe| (probe, "Connection", "?");
        let once = [
            server(Probe::InstanceNewStart),
            server(Probe::InstanceNewDone),
            connection(Probe::InstanceNewStart),
            connection(Probe::InstanceNewDone),
            server(Probe::InstanceDeleteStart),
            connection(Probe::InstanceDeleteStart),
            connection(Probe::InstanceDeleteDone),
            server(Probe::InstanceDeleteDone),
        ];
        assert_eq!(seen.len(), 1000 * once.len());
        for object in seen.chunks(once.len()) {
            assert_eq!(object, once);
        }
    });
}

/// Calls of a program that has the probes of the patched Python 2.7.9 which passes arguments, tests/programs/arguments.c.
fn arguments_are_exact() {
    leaves_nothing(|| {
        let program = file("tests/programs/arguments");
        let traced = trace(&[ARGUMENTS, &["--", &program, "1000"]].concat());
        let traced = traced.complete("targets_ended");
        assert_eq!(traced.truth()["calls"], 1000);
        let arguments = traced.events.iter().filter_map(|event| match &event.what {
            What::Call { frame, .. } => {
                let text = frame.text.as_ref().expect("they were asked for");
                Some(text.text.as_str())
            }
            What::Return { frame, .. } => {
                assert_eq!(frame.text, None, "nobody passes what is returned");
                None
            }
            _ => None,
        });
        let arguments: Vec<&str> = arguments.collect();
        let stated: Vec<String> = (0..1000)
            .map(|number| format!("({number},) {{'retries': {}}}", number % 3))
            .collect();
        assert_eq!(arguments, stated);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn arguments_that_an_interpreters_own_probe_passes_are_all_told() {
    arguments_are_exact();
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn objects_that_are_made_and_unmade_are_all_seen() {
    instances_are_exact();
}

/// Found and missing modules, audit events, collections, as in tests/programs/runtime.py.
fn runtime_is_exact(script: &Script) {
    leaves_nothing(|| {
        let traced = script.trace(&file("tests/programs/runtime.py"), &[]);
        let truth = traced.truth();
        let version = traced
            .session
            .targets
            .first()
            .and_then(|target| target.python.clone());
        let version = version.expect("it is known");
        assert!(script.python.ends_with(&version[..4]), "{version}");
        let mut imports: BTreeMap<&str, Vec<Option<bool>>> = BTreeMap::new();
        let mut audited = 0;
        let mut collected = Vec::new();
        for event in &traced.events {
            match &event.what {
                What::Plain(plain) => {
                    let subject = &plain.subject().expect("it has one").text;
                    match plain.probe {
                        Probe::ImportStart => imports.entry(subject).or_default().push(None),
                        Probe::ImportDone => {
                            let found = Some(plain.number != 0);
                            imports.entry(subject).or_default().push(found);
                        }
                        Probe::Audit if subject == "pystap.test" => audited += 1,
                        _ => {}
                    }
                }
                What::GcDone {
                    collected: count, ..
                } => collected.push(*count),
                What::Call { .. } | What::Return { .. } => panic!("not asked for: {event:?}"),
                _ => {}
            }
        }
        for (list, found) in [("imported", true), ("missing", false)] {
            for module in truth[list].as_array().expect("a list") {
                let module = module.as_str().expect("a name");
                let seen = imports.get(module);
                assert_eq!(
                    seen,
                    Some(&vec![None, Some(found)]),
                    "{module}: {imports:?}"
                );
            }
        }
        assert_eq!(
            audited,
            truth["audited"]["pystap.test"].as_u64().expect("a number")
        );
        let expected: Vec<i64> = truth["collected"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(serde_json::Value::as_i64)
            .collect();
        // The interpreter also collects on its own before the program starts and when it ends.
        let among = collected.windows(expected.len()).any(|run| run == expected);
        assert!(among, "{collected:?} {expected:?}");
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn imports_audit_events_and_collections_of_python_3_15_are_exact() {
    runtime_is_exact(&RUNTIME);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn imports_audit_events_and_collections_of_python_3_14_are_exact() {
    runtime_is_exact(&RUNTIME_3_14);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn imports_audit_events_and_collections_of_python_3_13_are_exact() {
    runtime_is_exact(&RUNTIME_3_13);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn modules_that_an_import_brings_along_are_all_seen() {
    leaves_nothing(|| {
        let traced = RUNTIME.trace(&file("examples/imports.py"), &[]);
        let truth = traced.truth();
        let of = |wanted: bool| -> Vec<&str> {
            let done = traced.events.iter().filter_map(|event| match &event.what {
                What::Plain(plain)
                    if plain.probe == Probe::ImportDone && (plain.number != 0) == wanted =>
                {
                    Some(&*plain.subject()?.text)
                }
                _ => None,
            });
            done.collect()
        };
        // collections puts this one into sys.modules itself; it is never looked up.
        let put_there = serde_json::json!("collections.abc");
        let imported = truth["imported"].as_array().expect("a list");
        for module in imported.iter().filter(|module| **module != put_there) {
            let times = of(true).iter().filter(|found| *module == **found).count();
            assert_eq!(times, 1, "{module}: {:?}", of(true));
        }
        let missing = truth["missing"][0].as_str().expect("a name");
        assert!(of(false).contains(&missing), "{:?}", of(false));
        let audited = |name: &str| {
            let events = traced.events.iter();
            events
                .filter(
                    |event| matches!(&event.what, What::Plain(plain) if plain.probe == Probe::Audit && plain.subject().is_some_and(|seen| seen.text == name)),
                )
                .count()
        };
        // Each module that is not in sys.modules raises one; files are opened on the way.
        assert!(audited("import") >= of(true).len(), "{}", audited("import"));
        assert!(audited("open") > 0);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn python_3_13_and_3_14_cannot_give_calls_by_themselves_and_the_reason_is_said() {
    for script in [&RUNTIME_3_13, &RUNTIME_3_14] {
        for events in [["--events", "call"].as_slice(), &[]] {
            let mut command = command(["trace"]);
            command
                .args(events)
                .args(["--no-agent", "--", script.python, "-c", "print('it ran')"]);
            let ended = run(&mut command);
            let message = ended.only_error();
            assert_eq!(ended.code, 3, "{message}");
            assert!(message.contains("call"), "{message}");
            assert!(message.contains("--events gc,import,audit"), "{message}");
        }
    }
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn filters_leave_exactly_what_was_asked_for() {
    let program = file("examples/nested.py");
    for script in [&BY_FUNCTION_AND_FILE, &BY_MODULE_AND_EXCLUSION] {
        leaves_nothing(|| {
            let traced = script.trace(&program, &[]);
            let mut truth = numbers(&traced.truth()["calls"]);
            truth.remove("a");
            assert_eq!(traced.counts(&program, Way::In), truth, "{script:?}");
            assert_eq!(traced.counts(&program, Way::Out), truth, "{script:?}");
            let others = traced.events.iter().find(|event| match &event.what {
                What::Call { place, .. } | What::Return { place, .. } => place.file.text != program,
                _ => false,
            });
            assert_eq!(others, None, "{script:?}");
        });
    }
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn only_long_calls_are_reported_and_once_each() {
    only_long_calls_are_reported(&LONG_CALLS);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn only_long_calls_are_reported_of_what_the_agent_tells() {
    only_long_calls_are_reported(&agent::LONG_CALLS);
}

fn only_long_calls_are_reported(script: &Script) {
    leaves_nothing(|| {
        let program = file("examples/slow.py");
        let traced = script.trace(&program, &[]);
        assert!(traced.counts(&program, Way::In).is_empty());
        let mut durations: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for event in &traced.events {
            if let What::Return {
                place, duration_ns, ..
            } = &event.what
            {
                let duration = duration_ns.expect("the kernel measured it");
                assert!(duration >= 5_000_000, "{event:?}");
                if place.file.text == program {
                    durations
                        .entry(&place.function.text)
                        .or_default()
                        .push(duration);
                }
            }
        }
        assert_eq!(durations["pause"].len(), 1, "{durations:?}");
        assert_eq!(durations["busy"].len(), 2, "{durations:?}");
        assert!(
            durations["step"].iter().any(|taken| *taken >= 20_000_000),
            "{durations:?}"
        );
        // The machine may have been busy elsewhere during some of the 200 others, but not most.
        assert!(durations["step"].len() < 20, "{durations:?}");
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_hundred_thousand_calls_are_all_seen() {
    leaves_nothing(|| {
        let program = file("examples/storm.py");
        let arguments = CALLS.and(&["--", PYTHON, &program, "100000"]);
        let traced = trace(&arguments).complete("targets_ended");
        calls_and_returns_are_exact(&traced, &program);
        assert_eq!(traced.counts(&program, Way::In)["f"], 100_000);
    });
}

/// Four threads of a program are traced until they are named: as the program names them.
fn threads_have_their_names(python: &str, options: &[&str]) {
    let mut service = Service::start_with(python, "tests/programs/named_threads.py", &[]);
    let pid = service.pid();
    let tracing = Tracing::start(&[options, &["-p", &pid]].concat()).live();
    eventually("four threads are named", || {
        tracing.lines_with("\"event\":\"context\"") >= 4
    });
    let truth = service.end();
    let traced = tracing.finish().complete("targets_ended");
    let told = traced.events.iter().filter_map(|event| match &event.what {
        What::Context { context: 0, name } => Some((event.tid.to_string(), name.text.clone())),
        _ => None,
    });
    let told: BTreeMap<String, String> = told.collect();
    let truth: BTreeMap<String, String> =
        serde_json::from_value(truth["names"].clone()).expect("names by threads");
    assert_eq!(told, truth);
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn threads_have_the_names_that_the_program_gave_them() {
    leaves_nothing(|| threads_have_their_names(PYTHON, CALLS.options));
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn names_that_nobody_writes_arrive_whole_or_marked() {
    leaves_nothing(|| {
        let traced = CALLS.trace(&file("examples/hostile_names.py"), &[]);
        let mut truth = numbers(&traced.truth()["calls"]);
        truth.retain(|name, _| name != "main" && name != "make");
        assert!(truth.len() > 20, "{truth:?}");
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let mut altered = Vec::new();
        for event in &traced.events {
            let What::Call { place, .. } = &event.what else {
                continue;
            };
            if place.file.text.starts_with("/hostile/") {
                *seen.entry(place.function.text.clone()).or_default() += 1;
                if place.function.cut {
                    altered.push(place.function.clone());
                }
            }
        }
        for (name, calls) in &truth {
            // C strings end at a NUL.
            let name = name.split('\0').next().unwrap_or_default();
            let found = seen.get(name).copied().or_else(|| {
                let cut = altered.iter().find(|text| {
                    let kept = text.text.trim_end_matches('\u{fffd}');
                    kept.len() >= 500 && name.starts_with(kept)
                })?;
                seen.get(&cut.text).copied()
            });
            assert_eq!(found, Some(*calls), "{name:?} in {seen:?}");
        }
        // The two names of 600 bytes, each called twice: whole, or cut, in the middle of a two-byte character if need
        // be.
        let whole = seen.contains_key(&"x".repeat(600));
        assert_eq!(altered.len(), if whole { 0 } else { 4 }, "{altered:?}");
        assert_eq!(seen.len(), truth.len());
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn children_are_followed_through_fork_and_exec() {
    leaves_nothing(|| {
        let program = file("examples/forks.py");
        let traced = CALLS.trace(&program, &[]);
        let truth = traced.truth();
        let children: Vec<u32> = truth["children"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pid| u32::try_from(pid.as_u64().expect("a number")).expect("a pid"))
            .collect();
        let work = |wanted: u32| {
            let frames = traced.frames(&program);
            frames
                .filter(|(way, function, pid, _)| {
                    (*way, *function, *pid) == (Way::In, "work", wanted)
                })
                .count()
        };
        assert_eq!(work(children[0]), 10);
        assert_eq!(work(children[1]), 15);
        assert_eq!(work(traced.target()), 0);
        // stap tells of a child when it first runs, and either may run first.
        let mut begun = traced.processes(ProcessChange::Fork);
        begun.sort_unstable();
        let mut forked = children.clone();
        forked.sort_unstable();
        assert_eq!(begun, forked, "{:?}", traced.summary);
        for child in &children {
            let mut own = traced.events.iter().filter(|event| event.pid == *child);
            let first = own.next().map(|event| &event.what);
            let begins = |what: &What| matches!(what, What::Process { change, .. } if *change == ProcessChange::Fork);
            // On a busy machine an event may come too late for its place, and the summary counts it.
            let is_ordered = traced.summary.unordered == 0;
            assert!(!is_ordered || first.is_some_and(begins), "{first:?}");
        }
        assert_eq!(traced.processes(ProcessChange::Exec), children[1..]);
        let mut ended = traced.processes(ProcessChange::Exit);
        ended.sort_unstable();
        let mut all = vec![traced.target(), children[0], children[1]];
        all.sort_unstable();
        assert_eq!(ended, all);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn children_are_left_alone_when_that_is_wanted() {
    leaves_nothing(|| {
        let program = file("examples/forks.py");
        let traced = CALLS.trace(&program, &["--no-subprocesses"]);
        let foreign = traced
            .events
            .iter()
            .find(|event| event.pid != traced.target());
        assert_eq!(foreign, None);
        let truth = numbers(&traced.truth()["calls"]);
        let counts = traced.counts(&program, Way::In);
        assert_eq!(counts.get("start"), truth.get("start"));
        assert_eq!(counts.get("work"), None);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn an_event_limit_is_exact_and_the_command_goes_on() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let said = directory.path().join("said");
        let storm = file("examples/storm.py");
        let shell = "exec \"$0\" \"$1\" 20000 >\"$2\"";
        let said = said.to_str().expect("UTF-8");
        let command = [
            "--python", PYTHON, "--", "sh", "-c", shell, PYTHON, &storm, said,
        ];
        let arguments = [CALLS.options, &["-n", "50"], &command].concat();
        let traced = Tracing::start(&arguments).finish();
        assert_eq!(traced.summary.ended, "max_events");
        assert_eq!((traced.events.len(), traced.code), (50, 0));
        eventually("the command ends by itself", || {
            fs::read_to_string(said).is_ok_and(|text| text.contains("\"f\": 20000"))
        });
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_session_ends_after_its_duration() {
    leaves_nothing(|| {
        let service = ticking();
        let tracing = Tracing::start(&CALLS.and(&["--duration", "2s", "-p", &service.pid()]));
        let traced = tracing.live().finish().complete("duration");
        assert!(
            traced.summary.wall_ns >= 2_000_000_000,
            "{:?}",
            traced.summary
        );
        assert!(traced.summary.delivered > 0);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn signals_end_a_session_and_not_its_target() {
    for (signal, word) in [(Signal::INT, "interrupted"), (Signal::TERM, "terminated")] {
        leaves_nothing(|| {
            let mut service = ticking();
            let tracing = Tracing::start(&CALLS.and(&["-p", &service.pid()])).live();
            tracing.wait_for_output(10_000);
            tracing.signal(signal);
            let traced = tracing.finish().complete(word);
            let ticks = traced.counts(&file("tests/programs/counts.py"), Way::In)["tick"];
            let truth = numbers(&service.end()["calls"])["tick"];
            assert!((1..=truth).contains(&ticks), "{ticks} of {truth}");
        });
    }
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_reader_that_goes_away_ends_the_session_and_not_its_target() {
    leaves_nothing(|| {
        let mut service = ticking();
        let (tracing, reader) = Tracing::to_pipe(&CALLS.and(&["-p", &service.pid()]));
        let lines = BufReader::new(reader).lines();
        let read: Vec<String> = lines.take(5).map_while(Result::ok).collect();
        assert_eq!(read.len(), 5);
        let (code, said) = tracing.end();
        assert_eq!(code, 0, "{said:#?}");
        assert!(!said.iter().any(|line| line.contains("error")), "{said:#?}");
        service.end();
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn sessions_do_not_disturb_each_other_on_two_processes_or_on_one() {
    leaves_nothing(|| {
        let (mut one, mut two) = (ticking(), ticking());
        let program = file("tests/programs/counts.py");
        let sessions: Vec<(u32, Tracing)> = [&one, &two, &one]
            .into_iter()
            .map(|service| {
                let tracing = Tracing::start(&CALLS.and(&["-p", &service.pid()])).live();
                (service.child.id(), tracing)
            })
            .collect();
        assert_eq!(armed().len(), 3);
        for (pid, tracing) in sessions {
            tracing.wait_for_output(10_000);
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            assert!(traced.counts(&program, Way::In)["tick"] > 0);
            assert!(traced.events.iter().all(|event| event.pid == pid));
        }
        one.end();
        two.end();
    });
}

/// Calls of a storm whose events are more than pystap has room for together with what a kernel's buffers hold, so that
/// some are lost however late they are taken out of these.
const STORM: u64 = 350_000;

/// A storm whose events no one reads: its own output goes to a file, pystap's to a pipe. pystap has been idle since.
fn storm_into_a_pipe_that_nobody_reads(
    directory: &tempfile::TempDir,
) -> (Tracing, std::io::PipeReader) {
    let said = directory.path().join("said");
    let said = said.to_str().expect("UTF-8");
    let storm = file("examples/storm.py");
    let shell = format!("exec \"$0\" \"$1\" {STORM} >\"$2\"");
    let arguments = CALLS.and(&[
        "--python", PYTHON, "--", "sh", "-c", &shell, PYTHON, &storm, said,
    ]);
    let (tracing, reader) = Tracing::to_pipe(&arguments);
    let tracing = tracing.live();
    eventually("the traced program ends", || {
        fs::read_to_string(said).is_ok_and(|text| text.contains(&format!("\"f\": {STORM}")))
    });
    tracing.wait_until_idle();
    (tracing, reader)
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_reader_that_stalls_costs_the_target_nothing_and_loses_what_is_counted() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let (tracing, mut reader) = storm_into_a_pipe_that_nobody_reads(&directory);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        let (code, said) = tracing.end();
        let traced = read(&text, code, said, String::new());
        assert_eq!((traced.summary.ended.as_str(), code), ("targets_ended", 0));
        let lost = traced.lost_at(LossStage::Output);
        assert!(lost > 0, "{:?}", traced.summary);
        assert!(!traced.summary.uncounted);
        let storm = file("examples/storm.py");
        let seen = traced.counts(&storm, Way::In)["f"] + traced.counts(&storm, Way::Out)["f"];
        let account = seen + traced.summary.lost;
        assert!(account >= 2 * STORM, "{seen} seen, {:?}", traced.summary);
    });
}

#[test]
#[ignore = "needs probes in a kernel: run by tests/guest/run and tests/uprobes/run"]
fn a_session_whose_reader_stalls_can_still_be_interrupted() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let (tracing, reader) = storm_into_a_pipe_that_nobody_reads(&directory);
        tracing.signal(Signal::INT);
        let begun = std::time::Instant::now();
        let (code, said) = tracing.end();
        assert!(begun.elapsed() < Duration::from_secs(60), "{said:#?}");
        assert!(code == 0 || code == 1, "{code} {said:#?}");
        drop(reader);
    });
}
