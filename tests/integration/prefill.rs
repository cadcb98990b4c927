//! Compiles scripts where compiling is fast, for the live tests: in a chroot of the machine that will run them, on the
//! host's own CPU. pystap itself caches the results, and finds them again inside.

use std::fs;
use std::path::Path;

use crate::command::{COMPILING, Ended, command, file, kinds, run_within};
use crate::{live, live_doctor};

/// The release of this tree's only kernel.
fn kernel() -> String {
    let mut releases: Vec<String> = fs::read_dir("/lib/modules")
        .expect("a kernel is installed")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let release = releases.pop().expect("a kernel is installed");
    assert!(releases.is_empty(), "more than one kernel: {releases:?}");
    release
}

fn compile(python: &str, options: &[&str]) -> Ended {
    compile_for("trace", python, options)
}

fn compile_for(subcommand: &str, python: &str, options: &[&str]) -> Ended {
    let mut command = command([subcommand, "--compile-only", "--kernel", &kernel()]);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    run_within(COMPILING, command.args(["--python", python]).args(options))
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn every_script_of_the_live_tests_becomes_a_module() {
    for script in live::scripts().chain(live_doctor::SCRIPTS) {
        let compiled = compile(script.python, script.options);
        assert_eq!(compiled.code, 0, "{script:?}: {}", compiled.stderr);
        // The second time it must come from the cache.
        let again = compile(script.python, script.options);
        assert_eq!(again.code, 0, "{script:?}: {}", again.stderr);
        assert!(
            !again.stderr.contains("compiling"),
            "{script:?}: {}",
            again.stderr
        );
    }
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn every_script_of_the_live_tables_becomes_a_module() {
    for script in live::totals::SCRIPTS {
        let compiled = compile_for("top", script.python, script.options);
        assert_eq!(compiled.code, 0, "{script:?}: {}", compiled.stderr);
    }
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn the_script_for_waits_becomes_a_module() {
    let mut command = command(["offcpu", "--engine", "stap", "--compile-only"]);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let compiled = run_within(COMPILING, command.args(["--kernel", &kernel()]));
    assert_eq!(compiled.code, 0, "{}", compiled.stderr);
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn the_script_for_instances_becomes_a_module() {
    let program = file("tests/programs/instances");
    let compiled = compile(&program, live::INSTANCES);
    assert_eq!(compiled.code, 0, "{}", compiled.stderr);
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn the_script_for_arguments_becomes_a_module() {
    let program = file("tests/programs/arguments");
    let compiled = compile(&program, live::ARGUMENTS);
    assert_eq!(compiled.code, 0, "{}", compiled.stderr);
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn a_bundle_is_made_for_the_live_test_of_it() {
    let kernel = kernel();
    let place = file(".");
    let bundle = Path::new(&place).join(live::bundle::BUNDLE);
    let mut command = command(["bundle", "--kernel", &kernel, "--output"]);
    command.arg(&bundle);
    for python in live::bundle::PYTHONS {
        command.args(["--python", python]);
    }
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let made = run_within(COMPILING, &mut command);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(
        made.stderr.contains("needs staprun and no compiler"),
        "{}",
        made.stderr
    );
}

/// The path of its library differs from that of an agent that pystap brings along.
#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn the_script_for_an_installed_agent_becomes_a_module() {
    let directory = Path::new(live::agent::INSTALLED);
    let _ = fs::remove_dir_all(directory);
    live::agent::with_installed(directory, |pid| {
        let mut command = command(["trace", "--compile-only", "--kernel", &kernel()]);
        if let Some(home) = std::env::var_os("HOME") {
            command.env("HOME", home);
        }
        let compiled = run_within(
            COMPILING,
            command.args(["--engine", "stap", "--agent", "-p", pid]),
        );
        assert_eq!(compiled.code, 0, "{}", compiled.stderr);
    });
    fs::remove_dir_all(directory).expect("removed");
}

#[test]
#[ignore = "needs stap and headers of the kernel: run by tests/guest/run"]
fn every_template_becomes_a_module_for_every_interpreter() {
    let named = std::env::var("PYSTAP_TEST_INTERPRETERS").expect("paths, separated by colons");
    for python in named.split(':') {
        let kinds = kinds(python);
        assert!(!kinds.is_empty(), "{python} has no marks");
        let all = kinds.join(",");
        let compiled = compile(python, &["--events", &all]);
        assert_eq!(compiled.code, 0, "{python} {all}: {}", compiled.stderr);
        if kinds.contains(&"return") {
            let compiled = compile(python, &["--events", &all, "--min-duration", "1ms"]);
            assert_eq!(compiled.code, 0, "{python} {all} long: {}", compiled.stderr);
            let compiled = compile_for("top", python, &[]);
            assert_eq!(compiled.code, 0, "{python} top: {}", compiled.stderr);
        }
    }
}
