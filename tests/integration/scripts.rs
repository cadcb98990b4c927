//! Every script that pystap can render gets through the first passes of the host's own stap: parsing, resolving every
//! mark in a real interpreter, types, and (once) the translation to C. A stub stands in for the kernel's build tree, so
//! neither headers nor root are needed; what only the C compiler sees is tested in the guest, where the same templates
//! are compiled to modules.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use pystap::engine::stap::arguments;
use pystap::script::Tapsets;

use crate::command::{Ended, PYTHON, Waiting, command, file, kinds, run};
use crate::executable;
use crate::live;

/// Names that a user may give to filters, and that break a naive script: quotes, escapes, wildcards, format directives,
/// comment and macro characters, bytes that stap's regular expressions cannot hold.
const HOSTILE: [&str; 16] = [
    "plain",
    "*",
    "a*b?c[!d-f]",
    r#"quote"quote"#,
    r"back\\slash",
    r"\*not a wildcard\?",
    "%d %s %n %%",
    "$arg1 @1 @entry(1)",
    "/* // # %( %} {% «",
    "new\nline\ttab",
    "^(a|b)+$.{2}",
    "<module>",
    "é🐍",
    "*é*",
    "[]]x[^]]",
    "?*?*?*?*?*?*?*?*",
];

/// The tapsets, unpacked once for all tests of this file.
static TAPSETS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    Tapsets::load(&[])
        .and_then(|tapsets| tapsets.unpack(directory.path()))
        .expect("unpacked");
    directory
});

/// Interpreters to render for: the one that is always there, others that this host happens to have, and those named in
/// PYSTAP_TEST_INTERPRETERS, separated by colons. Only those with marks.
fn interpreters() -> Vec<String> {
    let named = std::env::var("PYSTAP_TEST_INTERPRETERS").unwrap_or_default();
    let mut candidates: Vec<String> = named.split(':').map(str::to_owned).collect();
    candidates.push(PYTHON.to_owned());
    candidates.extend((6..=20).map(|minor| format!("/usr/bin/python3.{minor}")));
    let mut real: Vec<PathBuf> = candidates
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    real.sort();
    real.dedup();
    let found: Vec<String> = real
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| !kinds(path).is_empty())
        .collect();
    assert!(
        found.iter().any(|path| path == PYTHON),
        "{PYTHON} is missing or has no marks: `apt-get install python3.11` on Debian 12"
    );
    found
}

/// The script of `pystap trace` with these options.
fn script<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    script_of("trace", arguments)
}

fn script_of<S: AsRef<OsStr>>(of: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let mut command = command(["script", of]);
    let script = run(command.args(arguments));
    assert_eq!(script.code, 0, "{command:?}: {script:?}");
    script.stdout
}

/// Runs stap on a script up to this pass, with exactly the arguments that pystap compiles with.
fn stap(pass: &str, script: &str) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("script.stp");
    fs::write(&path, script).expect("written");
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel-stub");
    let stub = stub.to_str().expect("UTF-8");
    let arguments = arguments::compile(TAPSETS.path(), stub, &[], &path)
        .into_iter()
        .map(|argument| match argument.to_str() {
            Some("-p4") => pass.into(),
            _ => argument,
        });
    let stap = which::which("stap").expect(
        "stap is not installed, so no script can be checked: `apt-get install systemtap` (Debian, Ubuntu)",
    );
    run(Command::new(stap)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMTAP_DIR", directory.path())
        .env("TMPDIR", "/tmp"))
}

fn must_pass(pass: &str, script: &str, of: &str) {
    let ended = stap(pass, script);
    assert!(
        ended.code == 0 && !ended.stderr.contains("error"),
        "{of}: {}\n{script}",
        ended.stderr
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn every_kind_of_event_alone_and_all_together_pass_stap_for_every_interpreter() {
    for interpreter in interpreters() {
        let kinds = kinds(&interpreter);
        let mut choices: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        choices.push(kinds.join(","));
        if kinds.contains(&"call") {
            choices.extend(["call,return".to_owned(), "call,return,gc".to_owned()]);
        }
        for events in choices {
            let text = script(["--python", &interpreter, "--events", &events]);
            must_pass("-p2", &text, &format!("{events} of {interpreter}"));
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn calls_measured_in_the_kernel_pass_stap_alone_and_beside_other_kinds() {
    for events in ["return", "return,gc,import,audit"] {
        let options = ["--min-duration", "5ms", "--events", events];
        let text = script([["--python", PYTHON].as_slice(), &options].concat());
        must_pass("-p2", &text, &format!("{options:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn the_translation_to_c_accepts_everything_at_once() {
    for options in [
        ["--events", "call,return,line,gc,import,audit"],
        ["--min-duration", "5ms"],
    ] {
        let text = script([["--python", PYTHON].as_slice(), &options].concat());
        must_pass("-p3", &text, &format!("{options:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn what_the_agent_tells_passes_stap_up_to_its_translation() {
    let of_python = ["--agent", "--python", PYTHON];
    for (of, options) in [
        ("trace", [].as_slice()),
        ("trace", &["--min-duration", "5ms"]),
        ("trace", &["--file", "*.py", "--capture", "args,return"]),
        ("top", &[]),
    ] {
        let text = script_of(of, [of_python.as_slice(), options].concat());
        // It is written out when a session starts; here stap may read it where it was built.
        let (before, after) = text.split_once("libpystap_agent.so").expect("it is probed");
        let (_, directory) = before.rsplit_once("process(\"").expect("a path");
        assert!(after.contains("provider(\"pystap\")"), "{text}");
        let text = text.replace(directory, concat!(env!("OUT_DIR"), "/"));
        must_pass("-p3", &text, &format!("{of} {options:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn hostile_patterns_pass_stap_as_every_kind_of_filter() {
    for option in ["--function", "--file", "--exclude", "--module"] {
        let mut arguments = vec!["--python", PYTHON];
        // A module pattern has no slashes and no empty names; that is refused earlier, and tested there.
        let patterns = HOSTILE
            .iter()
            .filter(|pattern| option != "--module" || !pattern.contains(['/', '.']));
        for pattern in patterns {
            arguments.extend([option, pattern]);
        }
        must_pass("-p2", &script(&arguments), &format!("{arguments:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn filters_of_every_kind_together_pass_stap_with_and_without_measured_calls() {
    let filters = [
        "--python",
        PYTHON,
        "--function",
        "handle_*",
        "--file",
        "*/nova/*.py",
        "--module",
        "nova.compute.*",
        "--exclude",
        "module:nova.tests.*",
        "--exclude",
        "function:_*",
        "--exclude",
        "*/site-packages/*",
    ];
    for more in [[].as_slice(), &["--min-duration", "200us"]] {
        let text = script([filters.as_slice(), more].concat());
        must_pass("-p2", &text, &format!("{more:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn the_script_of_top_passes_stap_up_to_its_translation() {
    for options in [
        vec!["--python", PYTHON],
        vec![
            "--python",
            PYTHON,
            "--function",
            "handle_*",
            "--exclude",
            "*/site-packages/*",
        ],
        vec!["--python", PYTHON, "--events", "call,return"],
        vec!["--python", PYTHON, "--events", "gc,import"],
    ] {
        let text = script_of("top", &options);
        let adds_up = text.contains("pystap_totals_command(verb, number)");
        assert!(adds_up, "{options:?}: {text}");
        must_pass("-p3", &text, &format!("{options:?}"));
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn top_without_kernel_totals_has_the_script_of_trace() {
    let options = ["--python", PYTHON];
    let every_call = ["--python", PYTHON, "--no-kernel-totals"];
    assert_eq!(script_of("top", every_call), script(options));
    assert_ne!(script_of("top", options), script(options));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn an_interpreter_at_an_odd_path_passes_stap() {
    let directory = tempfile::tempdir().expect("a directory");
    let odd = directory.path().join(r#"my "python" 3% \ $x é"#);
    executable::copy(PYTHON, &odd);
    let odd = odd.to_str().expect("UTF-8");
    let text = script(["--python", odd, "--events", "call,return,gc,import,audit"]);
    must_pass("-p2", &text, odd);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn processes_of_two_interpreters_in_one_script_pass_stap() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("python3.11");
    executable::copy(PYTHON, &other);
    let (one, two) = (Waiting::start(PYTHON), Waiting::start(&other));
    let [one, two] = [one.pid(), two.pid()].map(|pid| pid.to_string());
    let text = script(["-p", &one, "-p", &two]);
    for path in [PYTHON, &other.to_string_lossy()] {
        let point = format!("process(\"{path}\").provider(\"python\").mark(\"function__entry\")");
        assert!(text.contains(&point), "{path}: {text}");
    }
    must_pass("-p2", &text, "two interpreters");
}

/// Otherwise every session would have to wait for the compiler.
#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_script_depends_on_neither_the_process_nor_the_length_of_calls() {
    let of_all = script(["--python", PYTHON]);
    let process = Waiting::start(PYTHON);
    assert_eq!(script(["-p", &process.pid().to_string()]), of_all);
    let fib = file("examples/fib.py");
    assert_eq!(script(["--", PYTHON, &fib, "--option-of-its-own"]), of_all);

    let at_least = |time| script(["--python", PYTHON, "--min-duration", time]);
    assert_eq!(at_least("5ms"), at_least("200us"));
}

/// No interpreter with these probes is at hand, but a program that has them.
#[test]
#[ignore = "needs a C compiler and stap: run by scripts/test-here"]
fn probes_of_patched_pythons_pass_stap_up_to_its_translation() {
    let directory = tempfile::tempdir().expect("a directory");
    let programs: [(&str, &[&str], &[&str]); 2] = [
        ("instances", &["instance"], live::INSTANCES),
        ("arguments", &["call", "return"], live::ARGUMENTS),
    ];
    for (name, has, options) in programs {
        let program = directory.path().join(name);
        let compiled = run(Command::new("cc")
            .arg("-o")
            .arg(&program)
            .arg(file(&format!("tests/programs/{name}.c"))));
        assert_eq!(compiled.code, 0, "{compiled:?}");
        let program = program.to_str().expect("UTF-8");
        assert_eq!(kinds(program), has);
        let text = script([&["--python", program], options].concat());
        must_pass("-p3", &text, name);
    }
}

/// Without this, a stap that accepts anything would make every test above pass.
#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn a_mark_that_the_interpreter_has_not_does_not_pass_stap() {
    let text = script(["--python", PYTHON, "--events", "gc"]).replace("gc__start", "gc__begin");
    let ended = stap("-p2", &text);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("no match"), "{ended:?}");
}
