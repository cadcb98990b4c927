//! What happens to a trace when stap or staprun fails: stand-ins (tests/fake/tool) print their messages, as recorded
//! from the real ones. Each failure must be told in our words, keep stap's own caret, and leave nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pystap::engine::stap::wire::{Encoder, WIRE_VERSION};
use pystap::engine::stap::{Module, Stap, Start, Toolchain};
use pystap::engine::{Message, Running, Weight};
use pystap::event::{Event, LossStage, What};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Ended, PYTHON, command, end, file, run};
use crate::executable;

/// A directory with a stand-in for stap and one for staprun.
struct Tools(tempfile::TempDir);

impl Tools {
    /// Both do nothing and succeed, and stap leaves a module.
    fn new() -> Tools {
        let tools = Tools(tempfile::tempdir().expect("a directory"));
        for name in ["stap", "staprun"] {
            let path = tools.path(name);
            executable::copy(file("tests/fake/tool"), &path);
            tools.write(&format!("{name}.status"), b"0");
        }
        tools.write("stap_0123_1.ko", b"not a module");
        let module = tools.path("stap_0123_1.ko");
        tools.write("stap.stdout", module.to_str().expect("UTF-8").as_bytes());
        tools
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("written");
    }

    /// stap fails and prints what was recorded in tests/data/stap.
    fn recorded(recording: &str) -> Tools {
        let tools = Tools::new();
        let said = fs::read(file(&format!("tests/data/stap/{recording}.txt"))).expect("recorded");
        tools.write("stap.stderr", &said);
        tools.write("stap.stdout", b"");
        tools.write("stap.status", b"1");
        tools
    }

    /// staprun fails and prints this.
    fn staprun_says(stdout: &[u8], stderr: &str) -> Tools {
        let tools = Tools::new();
        tools.write("staprun.stdout", stdout);
        tools.write("staprun.stderr", stderr.as_bytes());
        tools.write("staprun.status", b"1");
        tools
    }

    /// Runs `pystap trace` with them, and with a cache of its own.
    fn trace(&self, arguments: &[&str]) -> Ended {
        let mut command = command(["trace", "--events", "gc", "--stap"]);
        command.arg(self.path("stap")).args(arguments);
        run(command.env("XDG_CACHE_HOME", self.path("cache")))
    }

    fn compile(&self) -> Ended {
        self.trace(&[
            "--quiet",
            "--compile-only",
            "--kernel",
            "6.1.0-stub",
            "--python",
            PYTHON,
        ])
    }

    /// Makes a bundle for collections of an interpreter on this kernel release, and returns its path.
    fn bundle(&self, kernel: &str) -> String {
        let path = self.path("gc.bundle").to_str().expect("UTF-8").to_owned();
        let mut command = command(["bundle", "--events", "gc", "--python", PYTHON]);
        command.args(["--kernel", kernel, "-o", &path, "--stap"]);
        let made = run(command
            .arg(self.path("stap"))
            .env("XDG_CACHE_HOME", self.path("cache")));
        assert_eq!((made.code, made.stdout.as_str()), (0, ""), "{made:?}");
        assert!(
            made.stderr.contains("compiling the probe script"),
            "{made:?}"
        );
        path
    }

    /// Runs `pystap trace` with a bundle and these tools.
    fn trace_with(&self, bundle: &str, arguments: &[&str]) -> Ended {
        let mut command = command(["trace", "--bundle", bundle, "--stap"]);
        command.arg(self.path("stap")).args(arguments);
        run(command.env("XDG_CACHE_HOME", self.path("no-cache")))
    }

    /// What the engine says about a module that this staprun loads, as far as it goes: its probes are never live.
    fn messages(&self) -> Said {
        // A process has one session, and the tests of this file share a process.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let toolchain = Toolchain {
            stap: self.path("stap"),
            staprun: self.path("staprun"),
            version: "5.6".to_owned(),
            kernel: "6.1.0-stub".to_owned(),
        };
        let (engine, _) = Stap::new(toolchain).expect("/run can be written");
        let module = Module {
            path: self.path("stap_0123_1.ko"),
        };
        let running = engine
            .run(&module, Start::default(), None)
            .expect("it starts");
        let mut said = Said::default();
        loop {
            let message = running.messages().recv_timeout(Duration::from_secs(60));
            match message.expect("it ends") {
                Message::Events(mut batch) => said.events += batch.events().len(),
                Message::Unparsed(count) => said.unparsed += count,
                Message::Lost(LossStage::Kernel, 0) => said.uncounted = true,
                Message::LostInKernel(total) => said.lost = total,
                Message::Failed(reason) => said.failed.push(reason),
                Message::Skipped(total) => said.skipped = total,
                Message::Said(weight, text) => said.words.push((weight, text)),
                Message::Ended { clean } => {
                    said.clean = clean;
                    return said;
                }
                _ => {}
            }
        }
    }
}

/// What an engine said until it ended.
#[derive(Debug, Default)]
struct Said {
    events: usize,
    unparsed: u64,
    lost: u64,
    uncounted: bool,
    failed: Vec<String>,
    skipped: u64,
    words: Vec<(Weight, String)>,
    clean: bool,
}

/// Events as the script sends them.
fn wire(events: u64) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.version(WIRE_VERSION);
    for number in 0..events {
        encoder.event(&Event {
            ts: 1_800_000_000_000_000_000 + number,
            pid: 7,
            tid: 7,
            interpreter: None,
            what: What::GcStart { generation: 0 },
        });
    }
    encoder.take()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_error_in_a_script_is_told_in_a_sentence_with_staps_own_caret_below() {
    for (recording, says, caret_below) in [
        ("parse.4.8", "not be compiled", "source: }"),
        ("parse.5.6", "not be compiled", "source: }"),
        ("no-match.5.6", "not be compiled", "source: probe process("),
        ("regex.4.8", "not be compiled", "source: probe begin"),
        ("type-mismatch.5.6", "not be compiled", "source: "),
        (
            "compile-error.5.6",
            "not be compiled",
            "this_is_not_declared()",
        ),
    ] {
        let ended = Tools::recorded(recording).compile();
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (3, ""),
            "{recording}: {ended:?}"
        );
        let mut lines = ended.stderr.lines();
        let sentence = lines.next().unwrap_or_default();
        assert!(
            sentence.starts_with("pystap: error: "),
            "{recording}: {ended:?}"
        );
        assert!(sentence.contains(says), "{recording}: {sentence}");
        assert!(
            lines.clone().all(|line| line.starts_with("    ")),
            "{recording}: {ended:?}"
        );
        // The excerpt is for users who asked for messages at all.
        assert_eq!(lines.count(), 0, "{recording}: quiet means one line");

        let tools = Tools::recorded(recording);
        let loud = tools.trace(&[
            "--compile-only",
            "--kernel",
            "6.1.0-stub",
            "--python",
            PYTHON,
        ]);
        let mut below = loud
            .stderr
            .lines()
            .skip_while(|line| !line.contains(caret_below));
        let source = below
            .next()
            .unwrap_or_else(|| panic!("{recording}: {}", loud.stderr));
        let caret = below.next().unwrap_or_default();
        let column = caret
            .find('^')
            .unwrap_or_else(|| panic!("{recording}: {}", loud.stderr));
        assert!(column < source.len(), "{recording}: {}", loud.stderr);
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_host_on_which_nothing_compiles_is_told_what_it_lacks() {
    for (recording, says) in [
        ("no-build-tree.4.8", "headers"),
        ("no-makefile.4.8", "headers"),
        ("no-release.5.6", "kernel"),
        ("normal-user.4.8", "root"),
        ("stap-too-old.4.8", "stap"),
    ] {
        let ended = Tools::recorded(recording).compile();
        assert_eq!(ended.code, 3, "{recording}: {ended:?}");
        assert!(ended.only_error().contains(says), "{recording}: {ended:?}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_stap_that_fails_without_a_word_is_to_be_run_by_hand() {
    let tools = Tools::recorded("parse.5.6");
    tools.write("stap.stderr", b"");
    let ended = tools.compile();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.only_error().contains("--dry-run"), "{ended:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_stap_that_says_it_worked_but_left_no_module_has_not_compiled() {
    let tools = Tools::new();
    tools.write("stap.stdout", b"/no/such/module.ko\n");
    let ended = tools.compile();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.only_error().contains("could not be compiled"),
        "{ended:?}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_compiled_module_is_kept_and_stap_is_not_asked_again() {
    let tools = Tools::new();
    let first = tools.trace(&[
        "--compile-only",
        "--kernel",
        "6.1.0-stub",
        "--python",
        PYTHON,
    ]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(
        first.stderr.contains("compiling the probe script"),
        "{first:?}"
    );
    // From here on it would fail.
    tools.write("stap.stdout", b"");
    let second = tools.trace(&[
        "--compile-only",
        "--kernel",
        "6.1.0-stub",
        "--python",
        PYTHON,
    ]);
    assert_eq!(second.code, 0, "{second:?}");
    assert!(!second.stderr.contains("compiling"), "{second:?}");
    let other_kernel = tools.trace(&[
        "--compile-only",
        "--kernel",
        "6.2.0-stub",
        "--python",
        PYTHON,
    ]);
    assert_eq!(other_kernel.code, 3, "{other_kernel:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_output_file_that_cannot_be_written_is_found_out_before_anything_is_compiled() {
    let tools = Tools::new();
    let directory = tools.path("missing").join("events.json");
    let output = directory.to_str().expect("UTF-8");
    let ended = tools.trace(&[
        "-o",
        output,
        "--quiet",
        "--",
        PYTHON,
        "-c",
        "print('it ran')",
    ]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let message = ended.only_error();
    assert!(
        message.contains(output) && message.contains("--output"),
        "{message}"
    );
    assert!(
        !tools.path("cache").join("pystap").exists(),
        "something was compiled"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_module_that_the_kernel_refuses_is_explained_and_the_command_never_runs() {
    for (reason, says) in [
        ("Required key not available", "sign"),
        ("Operation not permitted", "lock"),
        ("Invalid module format", "kernel"),
    ] {
        let stderr = format!("ERROR: Couldn't insert module '/x/stap_0123_1.ko': {reason}\n");
        let tools = Tools::staprun_says(b"", &stderr);
        let ran = tools.path("ran");
        let code = format!("open({:?}, 'w')", ran.to_str().expect("UTF-8"));
        let output = tools.path("events.json");
        let output = output.to_str().expect("UTF-8");
        let ended = tools.trace(&["-o", output, "--", PYTHON, "-c", &code]);
        assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
        let error = ended
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("pystap: error: "))
            .unwrap_or_else(|| panic!("no error: {ended:?}"));
        assert!(
            error.contains(reason) || error.contains(says),
            "{reason}: {error}"
        );
        assert!(!ran.exists(), "the command ran without being traced");
    }
}

/// The release of the kernel that runs here.
fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.expect("readable").trim().to_owned()
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_bundle_brings_its_module_to_staprun_where_there_is_no_stap() {
    let refused = "ERROR: Couldn't insert module '/x/stap_0123_1.ko': Invalid module format\n";
    let tools = Tools::staprun_says(b"", refused);
    let bundle = tools.bundle(&release());
    fs::remove_file(tools.path("stap")).expect("removed");
    fs::remove_file(tools.path("stap_0123_1.ko")).expect("removed");

    let output = tools.path("events.json");
    let output = output.to_str().expect("UTF-8");
    let ended = tools.trace_with(&bundle, &["-o", output, "--", PYTHON, "-c", "pass"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    assert!(ended.stderr.contains("Invalid module format"), "{ended:?}");
    assert!(!ended.stderr.contains("compiling"), "{ended:?}");

    let shown = tools.trace_with(&bundle, &["--dry-run", "--", PYTHON, "-c", "pass"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let line = format!("bundle     {bundle}\n");
    assert!(shown.stdout.contains(&line), "{shown:?}");
    assert!(shown.stdout.contains("events     gc\n"), "{shown:?}");
    assert!(!shown.stdout.contains("compile "), "{shown:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn who_stops_what_compiles_has_neither_a_module_nor_a_success() {
    let tools = Tools::new();
    // It waits for its status.
    fs::remove_file(tools.path("stap.status")).expect("there");
    let made = Command::new("mkfifo")
        .arg(tools.path("stap.status"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let path = tools.path("gc.bundle").to_str().expect("UTF-8").to_owned();
    let kernel = [
        "--events",
        "gc",
        "--python",
        PYTHON,
        "--kernel",
        "6.1.0-stub",
    ];
    for what in [&["bundle", "-o", &path][..], &["trace", "--compile-only"]] {
        let mut command = command([what, &kernel].concat());
        command.arg("--stap").arg(tools.path("stap"));
        command.env("XDG_CACHE_HOME", tools.path("cache"));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut messages = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("compiling the probe script") {
            assert_ne!(messages.read_line(&mut said).expect("text"), 0, "{said}");
        }
        kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
        messages.read_to_string(&mut said).expect("text");
        assert_eq!(end(&mut child, Duration::from_secs(60)), Some(1), "{said}");
        assert!(said.contains("so there is no module"), "{said}");
        assert!(!Path::new(&path).exists());
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_bundle_that_does_not_fit_says_why_in_a_sentence_before_anything_is_loaded() {
    let tools = Tools::new();
    let elsewhere = tools.bundle("6.1.0-stub");
    let with = |bundle: &str, options: &[&str]| {
        tools.trace_with(
            bundle,
            &[&["--quiet"], options, &["--", PYTHON, "-c", "pass"]].concat(),
        )
    };
    let other_kernel = with(&elsewhere, &[]);
    assert_eq!(other_kernel.code, 3, "{other_kernel:?}");
    let message = other_kernel.only_error();
    let release = release();
    assert!(
        message.contains(&format!(
            "is for Linux 6.1.0-stub, and this host runs {release}"
        )),
        "{message}"
    );

    let bundle = tools.bundle(&release);
    for (options, code, words) in [
        (
            &["--events", "call,return"][..],
            2,
            "other options (--events)",
        ),
        (&["--stap-arg=-g"], 2, "other options (--stap-arg)"),
        (&["--engine", "uprobes"], 2, "leave out --engine"),
        (&["--compile-only"], 2, "leave out --compile-only"),
    ] {
        let ended = with(&bundle, options);
        assert_eq!(ended.code, code, "{options:?}: {ended:?}");
        let message = ended.only_error();
        assert!(message.contains(words), "{options:?}: {message}");
    }

    // One of another build does not understand it.
    let staprun = tools.path("staprun");
    executable::script("#!/bin/sh\nexit 1\n", &staprun);
    let ended = with(&bundle, &[]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let message = ended.only_error();
    assert!(
        message.contains("is not of the SystemTap that compiled the module")
            && message.contains("(5.6, stand-in)"),
        "{message}"
    );

    fs::write(&bundle, "something else").expect("written");
    let ended = with(&bundle, &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.only_error().contains("is no bundle"), "{ended:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn what_is_in_a_bundle_can_be_seen() {
    let tools = Tools::new();
    let bundle = tools.bundle("6.1.0-stub");
    let listed = run(&mut command(["bundle", "--list", &bundle]));
    assert_eq!((listed.code, listed.stderr.as_str()), (0, ""), "{listed:?}");
    for words in [
        "kernel     6.1.0-stub ",
        "SystemTap  5.6, stand-in\n",
        "tells      gc\n",
        "/usr/bin/python3.11, build ID ",
        "module     stap_0123_1, 12 bytes\n",
        "is for Linux 6.1.0-stub, and this host runs ",
    ] {
        assert!(listed.stdout.contains(words), "{words}: {}", listed.stdout);
    }
    let json = run(&mut command(["bundle", "--list", &bundle, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["bundle"]["kernel"]["release"], "6.1.0-stub");
    assert!(
        json["misfit"]
            .as_str()
            .is_some_and(|it| it.contains("6.1.0-stub"))
    );
}

#[test]
fn a_loader_that_dies_in_the_middle_of_a_record_loses_that_record_and_no_other() {
    let mut bytes = wire(1000);
    bytes.truncate(bytes.len() - 9);
    let said = Tools::staprun_says(&bytes, "").messages();
    assert_eq!((said.events, said.unparsed, said.clean), (999, 1, false));
}

#[test]
fn a_loader_that_ends_well_is_told_from_one_that_does_not() {
    let tools = Tools::staprun_says(&wire(10), "");
    tools.write("staprun.status", b"0");
    let said = tools.messages();
    assert_eq!((said.events, said.unparsed, said.clean), (10, 0, true));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_loader_that_dies_without_a_word_is_said_to_have() {
    let ended = Tools::staprun_says(b"", "").trace(&["--", PYTHON, "-c", "pass"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    let errors = ended.stderr.matches("pystap: error: ").count();
    assert_eq!(errors, 1, "{ended:?}");
    assert!(ended.stderr.contains("staprun ended without saying why"));
}

#[test]
fn only_the_modules_last_word_tells_how_much_was_lost() {
    let stream = |last: Option<bool>| {
        let mut encoder = Encoder::new();
        encoder.version(WIRE_VERSION);
        encoder.ready(1);
        for ts in [2, 3] {
            let what = What::GcStart { generation: 0 };
            encoder.event(&Event {
                ts,
                pid: 7,
                tid: 7,
                interpreter: None,
                what,
            });
        }
        let mut bytes = encoder.take();
        // The last event gets lost on the way.
        bytes.truncate(bytes.len() - 32);
        if let Some(last) = last {
            encoder.totals(last);
            bytes.extend(encoder.take());
        }
        let said = Tools::staprun_says(&bytes, "").messages();
        (said.events, said.lost, said.uncounted)
    };
    assert_eq!(stream(Some(true)), (1, 1, false));
    assert_eq!(stream(Some(false)), (1, 1, true));
    assert_eq!(stream(None), (1, 0, true));
}

#[test]
fn damage_in_the_middle_of_a_stream_is_counted_and_passed_over() {
    let mut bytes = wire(1000);
    // The kind and the magic number of one record in the middle; a record has 32 bytes.
    let middle = 500 * 32 + 5;
    bytes[middle..middle + 3].fill(0);
    let said = Tools::staprun_says(&bytes, "").messages();
    assert_eq!((said.events, said.unparsed), (999, 1));
}

#[test]
fn a_script_of_another_version_of_the_wire_is_not_believed() {
    let mut encoder = Encoder::new();
    encoder.version(WIRE_VERSION + 1);
    let said = Tools::staprun_says(encoder.bytes(), "").messages();
    let [reason] = said.failed.as_slice() else {
        panic!("{said:?}");
    };
    assert!(reason.contains("version 2 of the wire"), "{reason}");
}

#[test]
fn what_stap_says_was_lost_comes_as_numbers_beside_the_events() {
    let stderr = "WARNING: Number of errors: 3, skipped probes: 12\n\
        WARNING: There were 5 transport failures. Try stap -s to increase the buffer size from 16.\n\
        WARNING: There were 7 lost messages, 224 lost bytes, and 0 unexpected sequences.\n";
    let said = Tools::staprun_says(&wire(10), stderr).messages();
    assert_eq!(said.events, 10);
    assert_eq!(said.skipped, 15, "{said:?}");
    let details = said
        .words
        .iter()
        .filter(|(weight, _)| *weight == Weight::Detail);
    let details: Vec<&str> = details.map(|(_, text)| text.as_str()).collect();
    for (words, told) in [
        "skipped probes: 12",
        "5 transport failures",
        "7 lost messages",
    ]
    .into_iter()
    .zip(&details)
    {
        assert!(
            told.starts_with("stap: ") && told.contains(words),
            "{said:?}"
        );
    }
    assert_eq!(details.len(), 3, "{said:?}");
}

/// The directory of a session is removed however the session ends.
#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_session_that_fails_leaves_no_directory() {
    let ended = Tools::recorded("parse.5.6").compile();
    assert_eq!(ended.code, 3, "{ended:?}");
    let sessions = Path::new("/run/pystap");
    for entry in fs::read_dir(sessions).into_iter().flatten().flatten() {
        // Other sessions may be running; a dead one has no process. The registry of agents' files stays.
        let name = entry.file_name();
        if name == "registry" || name.to_string_lossy().starts_with("agent-") {
            continue;
        }
        let process = Path::new("/proc").join(&name);
        assert!(process.exists(), "{} is left", entry.path().display());
    }
}
