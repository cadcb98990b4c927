//! What users get for what they type: every kind of wrong input, each answered by one line, an exit code and nothing
//! else; and the commands that need no tracing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::geteuid;

use crate::command::{Ended, PYTHON, Waiting, command, end, file, pystap, pystap_with, run};
use crate::executable;
use crate::tracing::eventually;

/// Fails with a one-line error that contains these words, and with this exit code.
fn fails(arguments: &[&str], code: i32, says: &[&str]) {
    let ended = pystap_with(arguments);
    error(&ended, code, says);
}

fn error(ended: &Ended, code: i32, says: &[&str]) {
    let message = ended.only_error();
    for words in says {
        assert!(message.contains(words), "{words:?} is missing: {message}");
    }
    // Problem, consequence, next step: a fragment has none of these.
    assert!(message.split_whitespace().count() > 8, "{message}");
    assert_eq!(ended.code, code, "{message}");
}

/// A usage error in clap's words: its lines, the exit code 2, nothing on stdout.
fn is_refused(arguments: &[&str], says: &[&str]) {
    let ended = pystap_with(arguments);
    assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
    assert_eq!(ended.stdout, "", "{arguments:?}");
    assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    for words in says {
        assert!(
            ended.stderr.contains(words),
            "{words:?} is missing: {ended:?}"
        );
    }
}

#[test]
fn offcpu_takes_what_is_about_calls_only_where_they_are_asked_for() {
    for way in [
        &["--engine", "direct"][..],
        &["--engine", "uprobes"],
        &["--agent"],
        &["--no-agent"],
        &["--inject", "ptrace"],
        &["--trust-paths"],
    ] {
        let arguments = [&["offcpu", "--batch", "-p", "1"][..], way].concat();
        fails(&arguments, 2, &["--all-calls"]);
    }
    for other in ["--no-wakers", "--compile-only"] {
        is_refused(&["offcpu", "--all-calls", other, "-p", "1"], &[other]);
    }
    let about_stap = ["offcpu", "--batch", "--all-calls", "-p", "1", "--engine"];
    let about_stap = [&about_stap[..], &["direct", "--stap", "/usr/bin/stap"]].concat();
    fails(&about_stap, 2, &["--stap", "--engine stap"]);
    for way in [
        &["offcpu", "--batch"][..],
        &["offcpu", "--batch", "--all-calls"],
    ] {
        fails(way, 2, &["no process was named", "name a service"]);
    }
}

#[test]
fn a_process_that_does_not_exist_is_named() {
    // Above the largest possible pid_max.
    fails(
        &["trace", "-p", "4194399"],
        4,
        &["no process 4194399", "`pystap ps`"],
    );
    fails(&["marks", "-p", "4194399"], 4, &["no process 4194399"]);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_that_has_ended_but_is_not_reaped_has_ended() {
    let mut child = Command::new(PYTHON)
        .args(["-c", ""])
        .stdin(Stdio::null())
        .spawn()
        .expect("it starts");
    let stat = format!("/proc/{}/stat", child.id());
    while !fs::read_to_string(&stat)
        .expect("not reaped")
        .contains(") Z ")
    {
        std::thread::yield_now();
    }
    fails(&["trace", "-p", &child.id().to_string()], 4, &["ended"]);
    child.wait().expect("reaped");
}

#[test]
fn a_process_that_is_not_python_is_named_with_what_it_runs() {
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("cat starts");
    let pid = cat.id().to_string();
    // The forked process is still our program until it has become cat.
    let executable = format!("/proc/{pid}/exe");
    while !fs::read_link(&executable).is_ok_and(|path| path.ends_with("cat")) {
        std::thread::yield_now();
    }
    fails(&["trace", "-p", &pid], 4, &["cat", "not Python"]);
    drop(cat.stdin.take());
    cat.wait().expect("reaped");
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_of_another_user_cannot_be_looked_into_and_root_is_advised() {
    let directory = trusted_directory();
    let python = Waiting::start(PYTHON);
    let ended = run(without_any_power(&directory).args(["trace", "-p", &python.pid().to_string()]));
    error(&ended, 3, &["another user", "run pystap as root"]);
}

/// A directory for [`without_any_power`], where nobody else may change what it holds: not in /tmp.
fn trusted_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/var").expect("a directory")
}

/// A copy of pystap for a user without any power, in a directory of that user's own. Not nobody: an agent takes that for whoever
/// has no name in its namespace.
fn without_any_power(directory: &tempfile::TempDir) -> Command {
    assert!(
        geteuid().is_root(),
        "this test becomes another user: run the tests as root"
    );
    std::os::unix::fs::chown(directory.path(), Some(65533), Some(65533)).expect("given away");
    let copy = directory.path().join("pystap");
    executable::copy(pystap(), &copy);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65533", "--regid=65533", "--clear-groups"])
        .args(["--bounding-set=-all", "--no-new-privs", "--"])
        .arg(copy)
        .env("HOME", directory.path())
        .current_dir("/")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_RUNTIME_DIR");
    command
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn who_has_no_power_at_all_traces_a_command_through_the_agent_alone() {
    let directory = trusted_directory();
    let program = directory.path().join("nested.py");
    fs::copy(file("examples/nested.py"), &program).expect("copied");
    let ended = run(without_any_power(&directory)
        .args(["trace", "--", PYTHON])
        .arg(&program));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("tracing with pystap's agent alone, because"),
        "{ended:?}"
    );
    let truth = ended
        .stdout
        .lines()
        .find(|line| line.contains("\"calls\":"));
    let truth: serde_json::Value = serde_json::from_str(truth.expect("a truth")).expect("JSON");
    for (function, calls) in truth["calls"].as_object().expect("numbers") {
        let call = format!(r#""event":"call".*nested\.py","function":"{function}""#);
        let call = regex::Regex::new(&call).expect("a pattern");
        let seen = ended.stdout.lines().filter(|line| call.is_match(line));
        assert_eq!(Some(seen.count() as u64), calls.as_u64(), "{function}");
    }
}

/// Longer than it takes until processes are looked for.
#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn who_has_no_power_is_told_nothing_false_of_a_program_that_runs_for_a_while() {
    let directory = trusted_directory();
    let program = "
import time
end = time.monotonic() + 3
while time.monotonic() < end:
    (lambda: time.sleep(0.01))()
";
    let ended = run(without_any_power(&directory).args(["trace", "--", PYTHON, "-c", program]));
    assert_eq!(ended.code, 0, "{ended:?}");
    let said = &ended.stderr;
    assert!(
        said.contains("nothing lost") && !said.contains("warning"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn who_has_no_power_is_told_how_the_agent_gets_into_a_process_of_their_own() {
    let directory = trusted_directory();
    let mut command = without_any_power(&directory);
    let mut process = Command::new("setpriv")
        .args(["--reuid=65533", "--regid=65533", "--clear-groups", "--"])
        .args([PYTHON, "-c", "input()"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    let program = format!("/proc/{}/exe", process.id());
    eventually("it is Python", || {
        fs::read_link(&program).is_ok_and(|path| path == Path::new(PYTHON))
    });
    let ended = run(command.args(["trace", "-p", &process.id().to_string()]));
    drop(process.stdin.take());
    process.wait().expect("reaped");
    assert_eq!(ended.code, 3, "{ended:?}");
    let direct = ended.stderr.lines().find(|line| line.contains("direct: "));
    let direct = direct.unwrap_or_default();
    assert!(
        direct.contains("lets nobody in") && direct.contains("run `pystap agent install --python "),
        "{ended:?}"
    );
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn kinds_that_the_agent_does_not_tell_are_refused_to_who_has_no_power() {
    let directory = trusted_directory();
    let ended = run(without_any_power(&directory)
        .args(["trace", "--events", "line", "--", PYTHON, "-c", "pass"]));
    assert_eq!(ended.code, 3, "{ended:?}");
    let refusal = "error: neither SystemTap nor uprobe events can trace this";
    assert!(ended.stderr.contains(refusal), "{ended:?}");
}

#[test]
#[ignore = "needs root and tracefs: run by scripts/test-here"]
fn cleanup_without_rights_does_not_say_that_nothing_is_left() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    assert!(mounts.contains(" tracefs "), "mount tracefs: {mounts}");
    let directory = trusted_directory();
    let ended = run(without_any_power(&directory).arg("cleanup"));
    error(
        &ended,
        3,
        &[
            "cannot be read, so it is not known whether",
            "sudo pystap cleanup",
        ],
    );
    assert!(!ended.stderr.contains("not mounted"), "{ended:?}");
}

#[test]
fn no_target_at_all_is_an_error_that_lists_the_ways_to_name_one() {
    fails(&["trace"], 2, &["-p PID", "--match", "-- COMMAND"]);
}

#[test]
fn a_pattern_that_no_python_process_matches_is_shown() {
    let pattern = "no such process \\d{7}";
    fails(
        &["trace", "--match", pattern],
        4,
        &["no such process", "`pystap ps`"],
    );
}

#[test]
fn a_command_that_does_not_exist_is_not_started() {
    fails(&["trace", "--", "no-such-command"], 2, &["no-such-command"]);
}

#[test]
fn an_interpreter_that_does_not_exist_is_named() {
    fails(
        &["trace", "--python", "/no/python"],
        2,
        &["/no/python", "cannot be read"],
    );
    fails(&["marks", "/no/python"], 2, &["/no/python"]);
}

#[test]
fn a_program_that_is_not_python_is_no_interpreter() {
    fails(
        &["trace", "--python", "/bin/true"],
        4,
        &["true", "not Python"],
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_interpreter_without_the_marks_says_which_are_missing_and_what_it_has() {
    // A copy of Python whose notes are present, but name another provider's marks.
    let directory = tempfile::tempdir().expect("a directory");
    let without = directory.path().join("python3.11");
    let mut bytes = fs::read(PYTHON).expect("read");
    for mark in ["function__entry\0", "function__return\0"] {
        let mark = [b"python\0", mark.as_bytes()].concat();
        let mut found = 0;
        while let Some(at) = bytes
            .windows(mark.len())
            .position(|window| window == mark.as_slice())
        {
            bytes[at..at + 6].copy_from_slice(b"nohtyp");
            found += 1;
        }
        assert!(found > 0, "{PYTHON} has no such mark");
    }
    fs::write(&without, bytes).expect("written");
    let without = without.to_str().expect("UTF-8");
    let says = ["Python 3.11", "call and return", "`--events "];
    fails(&["trace", "--no-agent", "--python", without], 3, &says);
    let says = ["call events", "--events gc,import,audit"];
    fails(
        &[
            "trace",
            "--no-agent",
            "--python",
            without,
            "--events",
            "call",
        ],
        3,
        &[says[0]],
    );
    let script = pystap_with(&["script", "trace", "--python", without, "--events", "gc"]);
    assert_eq!(script.code, 0, "{script:?}");
}

#[test]
fn a_kind_of_event_that_does_not_exist_is_answered_with_the_kinds() {
    let says = [
        "\"calls\"",
        "call, return, line, gc, import, audit, instance",
    ];
    fails(
        &["trace", "--python", PYTHON, "--events", "gc,calls"],
        2,
        &says,
    );
}

#[test]
fn a_least_duration_needs_returns() {
    let arguments = [
        "trace",
        "--python",
        PYTHON,
        "--events",
        "gc",
        "--min-duration",
        "5ms",
    ];
    fails(&arguments, 2, &["--min-duration", "return"]);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_template_with_an_error_in_it_is_shown_with_its_caret() {
    let directory = tempfile::tempdir().expect("a directory");
    let template = directory.path().join("gc.stp.tera");
    fs::write(&template, "probe « points.gc__start » {\n[% if %]\n}\n").expect("written");
    let directory = directory.path().to_str().expect("UTF-8");
    let ended = pystap_with(&["trace", "--python", PYTHON, "--template-dir", directory]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(ended.stdout, "");
    let (message, report) = ended.stderr.split_once('\n').expect("a report below");
    assert!(
        message.starts_with("pystap: error: the template gc ("),
        "{message}"
    );
    assert!(
        message.contains(&template.display().to_string()),
        "{message}"
    );
    assert!(report.contains("gc.stp.tera:2"), "{report}");
    assert!(report.contains('^'), "{report}");
    assert!(
        report.lines().all(|line| line.starts_with("    ")),
        "{report}"
    );
}

#[test]
fn a_directory_of_templates_that_is_not_there_is_an_error_when_it_was_named() {
    let arguments = [
        "trace",
        "--python",
        PYTHON,
        "--template-dir",
        "/no/templates",
    ];
    fails(&arguments, 2, &["/no/templates", "--template-dir"]);
    fails(
        &["list", "--template-dir", "/no/templates"],
        2,
        &["/no/templates"],
    );
}

#[test]
fn an_option_of_stap_that_concerns_running_is_answered_with_ours() {
    for (option, ours) in [("-x1", "--pid"), ("-o", "--output"), ("-s64", "--buffer")] {
        let arguments = ["trace", "--python", PYTHON, "--stap-arg", option];
        fails(&arguments, 2, &[option, ours]);
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn without_stap_the_package_to_install_is_named() {
    let mut command = command([
        "trace",
        "--compile-only",
        "--kernel",
        "1",
        "--python",
        PYTHON,
    ]);
    let ended = run(command.arg("--quiet").env("PATH", "/nonexistent"));
    error(
        &ended,
        3,
        &["stap was not found", "apt-get install systemtap", "--stap"],
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_stap_that_is_not_where_it_was_said_to_be_is_named() {
    let arguments = [
        "trace",
        "--quiet",
        "--compile-only",
        "--kernel",
        "1",
        "--python",
        PYTHON,
        "--stap",
        "/no/stap",
    ];
    fails(&arguments, 3, &["/no/stap", "--stap"]);
}

#[test]
#[ignore = "needs root, Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn a_program_that_is_not_stap_is_not_used_as_stap() {
    let arguments = [
        "trace",
        "--quiet",
        "--compile-only",
        "--kernel",
        "1",
        "--python",
        PYTHON,
        "--stap",
        "/bin/true",
    ];
    fails(&arguments, 3, &["/bin/true does not work"]);
}

#[test]
fn values_that_do_not_parse_are_refused_with_the_reason() {
    let trace = |option: &'static str, value: &'static str| ["trace", "-p", "1", option, value];
    for (option, value, says) in [
        ("--function", "[a", "never closed"),
        ("--function", "", "empty"),
        ("--file", "a\\", "backslash"),
        ("--file", "[z-a]", "a-z"),
        ("--module", "a/b", "slash"),
        ("--module", "a..b", "empty name"),
        ("--exclude", "module:a..b", "empty name"),
        ("--match", "(", "not a regular expression"),
        ("--duration", "5 parsecs", "for example"),
        ("--duration", "0", "no time at all"),
        ("--min-duration", "fast", "for example"),
        ("--max-events", "0", "0"),
        ("--pid", "0", "0"),
        ("--pid", "python", "invalid digit"),
        ("--buffer", "5000", "4095"),
        ("--format", "xml", "flow"),
    ] {
        is_refused(&trace(option, value), &[option, says]);
    }
}

#[test]
fn contradictions_are_refused() {
    is_refused(
        &["trace", "--compile-only", "--dry-run", "-p", "1"],
        &["cannot be used"],
    );
    is_refused(&["trace", "-q", "-v", "-p", "1"], &["cannot be used"]);
    is_refused(&["trace", "--kernel", "1", "-p", "1"], &["--compile-only"]);
    is_refused(&["trace", "--exit-with-command", "-p", "1"], &["COMMAND"]);
    is_refused(&["marks"], &["PATH"]);
    is_refused(&["completions", "cobol"], &["bash"]);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn quiet_leaves_only_the_error() {
    let fib = file("examples/fib.py");
    let script = pystap_with(&["script", "trace", "-q", "--", PYTHON, &fib]);
    assert_eq!((script.code, script.stderr.as_str()), (0, ""));
    fails(&["trace", "--quiet", "-p", "4194399"], 4, &["4194399"]);
}

#[test]
fn colour_is_for_terminals_unless_asked_for() {
    let plain = pystap_with(&["trace"]);
    assert!(!plain.stderr.contains('\x1b'), "{plain:?}");
    let coloured = pystap_with(&["--color", "always", "trace"]);
    assert!(coloured.stderr.contains("\x1b["), "{coloured:?}");
    let asked_not_to = pystap_with(&["--color", "never", "trace"]);
    assert_eq!(asked_not_to.stderr, plain.stderr);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_dry_run_shows_plan_script_and_command_lines_and_starts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = directory.path().join("ran");
    let output = directory.path().join("trace.json");
    let code = format!("open({:?}, 'w')", ran.to_str().expect("UTF-8"));
    let mut command = command([
        "trace",
        "--engine",
        "stap",
        "--dry-run",
        "--buffer",
        "64",
        "-o",
    ]);
    command.arg(&output).args(["--", PYTHON, "-c", &code]);
    let ended = run(command.env("XDG_CACHE_HOME", directory.path()));
    assert_eq!(ended.code, 0, "{ended:?}");
    for (line, says) in [
        ("launch ", PYTHON),
        ("events ", "call, return, gc"),
        ("image ", "Python 3.11"),
        ("  probe ", "python:function__entry"),
        ("    probe ", "mark(\"gc__done\")"),
        ("compile ", "-p4"),
        ("run ", "-R -C never -b 64 MODULE.ko"),
    ] {
        assert!(
            ended
                .stdout
                .lines()
                .any(|out| out.starts_with(line) && out.contains(says)),
            "{line:?} with {says:?} is missing:\n{}",
            ended.stdout
        );
    }
    let left: Vec<_> = fs::read_dir(directory.path()).expect("listed").collect();
    assert!(left.is_empty(), "it made {left:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_dry_run_without_stap_still_shows_everything_and_says_what_is_missing() {
    let arguments = ["trace", "--engine", "stap", "--dry-run", "--python", PYTHON];
    let ended = run(command(arguments).env("PATH", "/nonexistent"));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("\ncompile    stap -p4 "), "{ended:?}");
    assert!(
        ended.stderr.contains("warning: stap was not found"),
        "{ended:?}"
    );
}

#[test]
fn the_templates_are_listed_for_people_and_for_programs() {
    let text = pystap_with(&["list"]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    let json = pystap_with(&["list", "--json"]);
    let templates: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    let templates = templates.as_array().expect("a list");
    assert!(templates.len() >= 7);
    for template in templates {
        let name = template["name"].as_str().expect("a name");
        let question = template["question"].as_str().expect("a question");
        assert!(
            text.stdout
                .lines()
                .any(|line| line.starts_with(name) && line.ends_with(question)),
            "{name}: {}",
            text.stdout
        );
        assert_eq!(template["origin"], "built in");
    }
}

#[test]
fn a_template_of_the_users_configuration_is_listed_with_its_file() {
    let configuration = tempfile::tempdir().expect("a directory");
    let templates = configuration.path().join("pystap/templates");
    fs::create_dir_all(&templates).expect("made");
    let template = templates.join("mine.stp.tera");
    fs::write(&template, "[#\nquestion: Mine?\n#]\n").expect("written");
    let listed = run(command(["list"]).env("XDG_CONFIG_HOME", configuration.path()));
    assert_eq!(listed.code, 0, "{listed:?}");
    assert!(listed.stdout.contains("Mine?"), "{listed:?}");
    assert!(
        listed.stdout.contains(&template.display().to_string()),
        "{listed:?}"
    );
}

#[test]
fn a_recipe_that_is_wrong_does_not_hide_the_others() {
    let configuration = tempfile::tempdir().expect("a directory");
    let recipes = configuration.path().join("pystap/recipes");
    fs::create_dir_all(&recipes).expect("made");
    fs::write(recipes.join("jobs.toml"), "description = 7\n").expect("written");
    for arguments in [&["list"][..], &["list", "--json"]] {
        let listed = run(command(arguments).env("XDG_CONFIG_HOME", configuration.path()));
        assert_eq!(listed.code, 0, "{listed:?}");
        for name in ["rpc", "totals"] {
            assert!(listed.stdout.contains(name), "{listed:?}");
        }
        assert!(
            listed.stderr.contains("jobs.toml is wrong: line 1"),
            "{listed:?}"
        );
        assert!(listed.stderr.contains("1 | description = 7"), "{listed:?}");
    }
}

#[test]
fn a_recipe_that_counts_by_what_is_hidden_says_that_this_is_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let recipe = directory.path().join("logins.toml");
    let text = "description = 'd'\ngroup-by = ['word']\n[[function]]\nfunction = 'f'\nfields = { word = 'a.password' }\n";
    fs::write(&recipe, text).expect("written");
    let recipe = recipe.to_str().expect("UTF-8");
    let arguments = ["recipe", recipe, "--python", "/nonexistent"];
    fails(
        &arguments,
        2,
        &["field word", "are left out", "--capture-hide"],
    );
    // As soon as it is not hidden, the interpreter is looked for.
    let shown = pystap_with(&[&arguments[..], &["--capture-hide", "none"]].concat());
    assert!(shown.stderr.contains("/nonexistent"), "{shown:?}");
}

#[test]
fn what_samples_and_traces_cannot_have_is_refused_with_what_to_type() {
    for option in [
        &["--field", "m=x"][..],
        &["--field", "m=x", "--group-by", "m"],
        &["--raw-times"],
        &["--since-last"],
    ] {
        let arguments = [&["top", "--sample", "--batch", "-p", "1"], option].concat();
        let ended = pystap_with(&arguments);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("cannot be used with"), "{ended:?}");
        assert!(ended.stderr.contains(option[0]), "{ended:?}");
    }
    fails(
        &["top", "--sample", "200", "--batch"],
        2,
        &["no service \"200\"", "--sample=200"],
    );
    let by_context = ["--by-context", "-p", "1"];
    let instead = ["`pystap top --by-context -p PID`", "report --by-context"];
    for command in [
        &["trace"][..],
        &["script", "trace"],
        &["trace", "--host", "web1"],
    ] {
        fails(&[command, &by_context].concat(), 2, &instead);
    }
    let record = ["record", "-o", "/nonexistent/file"];
    fails(
        &[&record[..], &by_context].concat(),
        2,
        &["leave out --by-context", "report --by-context"],
    );
}

#[test]
fn what_an_option_takes_or_does_not_take_is_said_where_that_is_the_mistake() {
    let ended = pystap_with(&["report", "--group-by", "m", "--stats", "handle", "a.pystap"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("<FILE>") && ended.stderr.contains("put FILE before --stats"),
        "{ended:?}"
    );
    for typed in [
        &["record", "--sample", "200", "-o", "file", "-p", "1"][..],
        &["top", "--sample", "200", "nova"],
    ] {
        let rate = pystap_with(typed);
        assert_eq!(rate.code, 2, "{rate:?}");
        assert!(rate.stderr.contains("type --sample=200"), "{rate:?}");
    }
    let other = pystap_with(&["report", "--gc"]);
    assert!(!other.stderr.contains("--stats"), "{other:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_marks_of_an_interpreter_are_listed_with_arguments_and_behaviour() {
    let text = pystap_with(&["marks", PYTHON]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    let head = text.stdout.lines().next().expect("a line");
    assert!(
        head.starts_with("/usr/bin/python3.11, Python 3.11."),
        "{head}"
    );
    assert!(head.contains("build id "), "{head}");
    for mark in [
        "audit",
        "function__entry",
        "function__return",
        "gc__done",
        "gc__start",
        "import__find__load__done",
        "import__find__load__start",
        "line",
    ] {
        let line = format!("  python:{mark}  ");
        assert!(
            text.stdout
                .lines()
                .any(|out| out.starts_with(&line) && out.ends_with("with a semaphore")),
            "{mark}: {}",
            text.stdout
        );
    }
    assert!(text.stdout.contains("filename="), "{}", text.stdout);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_marks_of_a_process_are_those_of_its_interpreter() {
    let python = Waiting::start(PYTHON);
    let of_process = pystap_with(&["marks", "--json", "-p", &python.pid().to_string()]);
    let of_file = pystap_with(&["marks", "--json", PYTHON]);
    assert_eq!(of_process.code, 0, "{of_process:?}");
    assert_eq!(of_process.stdout, of_file.stdout);

    let images: serde_json::Value = serde_json::from_str(&of_file.stdout).expect("JSON");
    let image = &images[0];
    assert_eq!(image["path"], PYTHON);
    assert_eq!(image["missing"], serde_json::json!([]));
    assert_eq!(image["marks"].as_array().expect("marks").len(), 8);
    let entry = image["marks"]
        .as_array()
        .and_then(|marks| marks.iter().find(|mark| mark["name"] == "function__entry"))
        .expect("it has this mark");
    let site = &entry["sites"][0];
    assert!(site["address"].as_u64() > Some(0), "{entry}");
    assert!(site["semaphore"].is_object(), "{entry}");
    let meanings: Vec<&str> = site["arguments"]
        .as_array()
        .expect("arguments")
        .iter()
        .filter_map(|argument| argument["meaning"].as_str())
        .collect();
    assert_eq!(meanings, ["filename", "function", "line"]);
}

#[test]
fn the_schema_is_a_json_schema() {
    let printed = pystap_with(&["schema"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert!(jsonschema::meta::is_valid(&schema));
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let event =
        serde_json::json!({"event": "gc_start", "ts": 1, "pid": 2, "tid": 2, "generation": 0});
    assert!(schema.is_valid(&event));
    assert!(!schema.is_valid(&serde_json::json!({"event": "gc_start"})));
}

#[test]
fn completions_exist_for_every_shell_and_bash_takes_them() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = pystap_with(&["completions", shell]);
        assert_eq!((script.code, script.stderr.as_str()), (0, ""), "{shell}");
        assert!(script.stdout.contains("min-duration"), "{shell}");
        assert!(!script.stdout.contains("pystap-hold"), "{shell}");
    }
    // Longer than an argument may be.
    let script = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&script, pystap_with(&["completions", "bash"]).stdout).expect("written");
    let bash = run(Command::new("bash")
        .args(["-c", "source \"$1\" && complete -p pystap", "bash"])
        .arg(script.path()));
    assert_eq!(bash.code, 0, "{bash:?}");
}

#[test]
fn the_manual_has_a_page_and_one_a_command() {
    let page = pystap_with(&["man"]);
    assert_eq!((page.code, page.stderr.as_str()), (0, ""));
    assert!(page.stdout.contains(".TH pystap 1"), "{}", page.stdout);

    let directory = tempfile::tempdir().expect("a directory");
    let pages = run(command(["man", "--directory"]).arg(directory.path()));
    assert_eq!((pages.code, pages.stdout.as_str()), (0, ""), "{pages:?}");
    for page in [
        "pystap.1",
        "pystap-trace.1",
        "pystap-marks.1",
        "pystap-list.1",
    ] {
        assert!(directory.path().join(page).is_file(), "{page}");
    }
    fails(
        &["man", "--directory", "/no/directory"],
        1,
        &["/no/directory"],
    );
}

#[test]
fn help_fits_into_a_hundred_columns_and_names_the_exit_codes() {
    let help = run(command(["trace", "--help"]).env("COLUMNS", "300"));
    assert_eq!(help.code, 0);
    let widest = help.stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}");
    let help = pystap_with(&["--help"]);
    assert!(
        help.stdout.contains("4 no such process or not Python"),
        "{help:?}"
    );
}

/// `pystap … | head -c 1`: the reader goes away while there is more to come.
#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_closed_pipe_ends_every_printing_command_without_a_word() {
    for arguments in [
        ["list"].as_slice(),
        &["schema"],
        &["marks", PYTHON],
        &["marks", "--json", PYTHON],
        &["script", "trace", "--python", PYTHON],
        &["trace", "--dry-run", "--quiet", "--python", PYTHON],
        &["completions", "bash"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // Closed before anything is written, so that no buffer can absorb the output.
        drop(reader);
        let mut child = command(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = String::new();
        let stderr = child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut said).expect("read");
        let code = end(&mut child, Duration::from_secs(60));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_told_from_a_closed_pipe() {
    let full = fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("a device");
    let mut child = command(["schema"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    stderr.read_to_string(&mut said).expect("read");
    assert_eq!(end(&mut child, Duration::from_secs(60)), Some(1));
    assert!(
        said.starts_with("pystap: error: standard output cannot be written"),
        "{said}"
    );
}

/// On a kernel without modules nothing can be traced, and a user should not have to wait for a compiler to learn that.
/// (With an empty PATH no session starts on any kernel.)
#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_kernel_that_cannot_load_modules_is_found_out_before_stap_is_looked_for() {
    let fib = file("examples/fib.py");
    let mut command = command(["trace", "--engine", "stap", "--quiet", "--", PYTHON, &fib]);
    let ended = run(command.env("PATH", "/nonexistent"));
    if Path::new("/proc/modules").exists() {
        error(&ended, 3, &["stap was not found"]);
    } else {
        error(&ended, 3, &["cannot load modules", "pystap doctor"]);
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn where_no_engine_can_run_the_doctors_findings_are_shown_with_their_fixes() {
    // As a user without rights; a copy, because that user may not search our directories either.
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let copy = place.path().join("pystap");
    executable::copy(pystap(), &copy);
    let mut command = Command::new("setpriv");
    if geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command
        .arg(&copy)
        .args(["top", "--batch", "--no-agent", "--", PYTHON, "-c", "pass"])
        .env_remove("HOME");
    let ended = run(&mut command);
    assert_eq!(ended.code, 3, "{ended:?}");
    let mut lines = ended.stderr.lines();
    let error = lines.next().unwrap_or_default();
    assert!(error.starts_with("pystap: error: neither "), "{ended:?}");
    let finding = lines.next().unwrap_or_default();
    assert!(finding.starts_with("    stap, uprobes: "), "{ended:?}");
    assert!(ended.stderr.contains("sudo"), "{ended:?}");
}

#[test]
fn what_is_assumed_about_a_command_is_said_once() {
    let ended = pystap_with(&["trace", "--dry-run", "--", "sh", "-c", "true"]);
    assert_eq!(
        ended.stderr.matches("sh is not Python").count(),
        1,
        "{ended:?}"
    );
}
