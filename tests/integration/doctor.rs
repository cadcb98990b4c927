//! `pystap doctor` as users run it: on this host, whatever it is, and on saved facts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command::{Ended, PYTHON, Waiting, command, file, pystap_with, run};
use crate::executable;

fn facts(name: &str) -> String {
    file(&format!("tests/data/hosts/{name}.json"))
}

fn examined(arguments: &[&str]) -> (Ended, Value) {
    let ended = pystap_with(&[&["doctor", "--json"], arguments].concat());
    let report = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {ended:?}"));
    (ended, report)
}

fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|finding| finding["id"] == id)
        .unwrap_or_else(|| panic!("no finding {id}"))
}

#[test]
fn this_host_is_examined_and_the_exit_status_is_that_of_the_verdicts() {
    let (ended, report) = examined(&[]);
    let engines = report["engines"].as_array().expect("a list");
    let able = engines
        .iter()
        .any(|engine| engine["ability"] == "ready" || engine["ability"] == "likely");
    assert_eq!(report["can"], able);
    assert_eq!(ended.code, if able { 0 } else { 3 });
    // What is known for certain of any machine that runs these tests.
    let modules = finding(&report, "modules");
    let there = Path::new("/proc/modules").exists();
    assert_eq!(modules["status"] == "ok", there, "{modules}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    assert_eq!(report["kernel"], release.trim());
    for finding in report["findings"].as_array().expect("a list") {
        assert_ne!(finding["status"], "", "{finding}");
        assert!(
            !finding["evidence"].as_array().expect("a list").is_empty()
                || finding["id"] == "interpreters",
            "{finding}"
        );
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_interpreter_of_a_process_is_examined_with_everything_it_can_give() {
    let python = Waiting::start(PYTHON);
    let pid = python.pid().to_string();
    let (_, report) = examined(&["-p", &pid]);
    let marks = finding(&report, "marks");
    assert_eq!(marks["status"], "ok");
    assert_eq!(marks["subject"], PYTHON);
    let events = report["events"].as_array().expect("a list");
    assert_eq!(events.len(), 6, "one interpreter and six kinds: {events:?}");
    for event in events {
        assert_eq!(event["pids"], serde_json::json!([python.pid()]));
    }
    // It is also found among all running processes.
    let (_, all) = examined(&[]);
    let pids: Vec<u64> = all["events"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|event| event["pids"].as_array().expect("a list"))
        .filter_map(Value::as_u64)
        .collect();
    assert!(pids.contains(&u64::from(python.pid())), "{pids:?}");
}

#[test]
fn a_process_that_is_not_there_ends_as_it_does_everywhere() {
    let ended = pystap_with(&["doctor", "-p", "4194399"]);
    assert_eq!(ended.code, 4);
    assert!(ended.only_error().contains("no process 4194399"));
    let ended = pystap_with(&["doctor", "--events", "calls"]);
    assert_eq!(ended.code, 2);
    assert!(ended.only_error().contains("call, return, line"));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn saved_facts_give_the_same_report_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("facts.json");
    let path = path.to_str().expect("UTF-8");
    let here = pystap_with(&["doctor", "--python", PYTHON, "--save-facts", path]);
    assert!(here.stderr.contains("pystap doctor --facts"), "{here:?}");
    let there = pystap_with(&["doctor", "--facts", path]);
    assert_eq!((there.code, &there.stdout), (here.code, &here.stdout));
    assert!(here.stdout.contains("Verdict"));
}

#[test]
fn facts_that_are_none_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("facts.json");
    let later = fs::read_to_string(facts("debian-12"))
        .expect("facts")
        .replacen("\"format\": 1", "\"format\": 9", 1);
    for (text, says) in [
        ("", "EOF"),
        ("{}", "missing field"),
        ("[1, 2", "invalid type"),
        ("\u{0}\u{1}", "expected value"),
        (later.as_str(), "format 9"),
    ] {
        fs::write(&path, text).expect("written");
        let ended = pystap_with(&["doctor", "--facts", path.to_str().expect("UTF-8")]);
        assert_eq!(ended.code, 2, "{ended:?}");
        let message = ended.only_error();
        assert!(
            message.contains(says) && message.contains("--save-facts"),
            "{message}"
        );
    }
    let ended = pystap_with(&["doctor", "--facts", "/nowhere/facts.json"]);
    assert_eq!(ended.code, 2);
}

#[test]
fn the_exit_status_is_about_what_was_asked_for() {
    for (host, options, code) in [
        ("debian-12", &[][..], 0),
        ("debian-12", &["--engine", "stap"], 3),
        ("debian-12", &["--engine", "uprobes"], 0),
        ("debian-12", &["--events", "call,gc"], 0),
        ("debian-13", &["--events", "gc"], 0),
        ("debian-13", &["--events", "call"], 0),
        ("debian-13", &["--events", "line"], 3),
        (
            "debian-testing",
            &["--engine", "stap", "--events", "call,return"],
            0,
        ),
        ("docker-container", &[], 0),
        ("docker-container", &["--engine", "uprobes"], 3),
        ("docker-container", &["--engine", "direct"], 0),
        ("docker-container", &["--events", "call,gc"], 0),
        ("docker-container", &["--events", "audit"], 3),
        ("ordinary-user", &[], 0),
        ("ordinary-user", &["--engine", "direct"], 0),
        ("ordinary-user", &["--engine", "stap"], 3),
        (
            "debian-12",
            &["--engine", "direct", "--events", "import"],
            3,
        ),
        ("ubuntu-14.04", &["--engine", "direct"], 3),
        ("unreadable", &[], 3),
    ] {
        let facts = facts(host);
        let arguments = [&["doctor", "--facts", &facts], options].concat();
        let ended = pystap_with(&arguments);
        assert_eq!(ended.code, code, "{host} {options:?}");
        assert_eq!(ended.stderr, "", "{host} {options:?}");
    }
}

#[test]
fn evidence_of_what_is_fine_is_shown_when_asked_for() {
    let facts = facts("debian-testing");
    let short = pystap_with(&["doctor", "--facts", &facts]).stdout;
    let long = pystap_with(&["doctor", "--verbose", "--facts", &facts]).stdout;
    let evidence = "/proc/sys/kernel/modules_disabled: 0";
    assert!(!short.contains(evidence) && long.contains(evidence));
    // In a pipe there is no colour unless it is requested.
    assert!(!short.contains('\x1b'));
    let coloured = pystap_with(&["--color", "always", "doctor", "--facts", &facts]).stdout;
    assert!(coloured.contains("\x1b[32mok"), "{coloured}");
}

#[test]
fn every_fix_script_is_a_shell_script() {
    let hosts = fs::read_dir(file("tests/data/hosts")).expect("facts");
    let mut count = 0;
    for host in hosts.flatten().map(|entry| entry.path()) {
        if host.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let host = host.to_str().expect("UTF-8");
        let script = pystap_with(&["doctor", "--facts", host, "--fix-script"]).stdout;
        let mut shell = Command::new("sh")
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut input = shell.stdin.take().expect("piped");
        input.write_all(script.as_bytes()).expect("written");
        drop(input);
        assert!(shell.wait().expect("waited").success(), "{host}: {script}");
        assert!(script.starts_with("#!/bin/sh\n"), "{host}");
        // Nothing that is a matter of judgement is run.
        for line in script.lines().filter(|line| !line.starts_with('#')) {
            for judgement in [
                "mokutil --disable",
                "usermod",
                "pystap trace",
                "./configure --prefix=/opt/python",
            ] {
                assert!(!line.contains(judgement), "{host}: {line}");
            }
        }
        count += 1;
    }
    assert!(count >= 12, "{count}");
}

/// As behind a proxy that refuses, or on a disk that is full: the manager of packages says what it is, and the script what for.
#[test]
fn a_fix_script_stops_where_a_command_fails_and_says_what_it_was_to_mend() {
    let script = pystap_with(&["doctor", "--facts", &facts("fedora-43"), "--fix-script"]).stdout;
    let directory = tempfile::tempdir().expect("a directory");
    let dnf = directory.path().join("dnf");
    executable::script(
        "#!/bin/sh\necho '403 Forbidden by the proxy' >&2\nexit 1\n",
        &dnf,
    );
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let ended = run(Command::new("sh")
        .args(["-c", &script])
        .env("PATH", path)
        .stdin(Stdio::null()));
    assert_eq!(ended.code, 1, "{ended:?}");
    let first = script
        .lines()
        .find_map(|line| line.strip_prefix("# missing: "))
        .expect("something is missing");
    assert_eq!(
        ended.stderr,
        format!(
            "403 Forbidden by the proxy\nstopped, and the rest was not done; what was to be mended: {first}\n"
        )
    );
}

#[test]
fn a_stap_that_does_not_work_is_named_and_nothing_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let stap = directory.path().join("stap");
    executable::copy(file("tests/fake/tool"), &stap);
    let (_, report) = examined(&["--stap", stap.to_str().expect("UTF-8")]);
    if Path::new("/proc/modules").exists() {
        assert_eq!(
            finding(&report, "stap")["summary"],
            format!("stap 5.6 at {}", stap.display())
        );
    } else {
        // Where no module can be loaded, no stap would help, and none is mentioned.
        let findings = report["findings"].as_array().expect("a list");
        assert!(
            findings
                .iter()
                .all(|finding| finding["part"] != "systemtap")
        );
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_trial_where_no_module_can_be_loaded_wastes_nobodys_time() {
    if Path::new("/proc/modules").exists() {
        return;
    }
    let (ended, report) = examined(&["--trial", "--python", PYTHON]);
    assert!(!ended.stderr.contains("trying to build"), "{ended:?}");
    assert_eq!(report["engines"][0]["ability"], "cannot");
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn what_is_not_readable_by_a_plain_user_is_unknown_and_no_failure() {
    let user = "65534";
    let mut doctor = Command::new("setpriv");
    doctor
        .args(["--reuid", user, "--regid", user, "--clear-groups", "--"])
        .arg(crate::command::pystap())
        .args(["doctor", "--json", "--python", PYTHON]);
    let ended = run(doctor
        .stdin(Stdio::null())
        .env_remove("HOME")
        .env_remove("XDG_CONFIG_HOME"));
    let report: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(finding(&report, "privilege")["status"], "missing");
    // What needs no privilege can run.
    assert_eq!(report["engines"][2]["ability"], "ready");
    assert_eq!(ended.code, 0);
}

#[test]
fn quiet_says_nothing_on_stderr_and_a_closed_pipe_is_no_failure() {
    let facts = facts("debian-12");
    let mut doctor = command(["--quiet", "doctor", "--facts", &facts]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut child = doctor
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let status = child.wait().expect("waited");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_engine_direct_is_examined_like_the_others_and_runs_on_this_host() {
    let (ended, report) = examined(&["--engine", "direct"]);
    assert_eq!((ended.code, &report["can"]), (0, &Value::Bool(true)));
    let engines = report["engines"].as_array().expect("a list");
    let names: Vec<&Value> = engines.iter().map(|engine| &engine["engine"]).collect();
    assert_eq!(names, ["stap", "uprobes", "direct"]);
    assert_eq!(engines[2]["ability"], "ready");
    // Tests run on machines that have what a ring takes.
    let rings = finding(&report, "rings");
    assert_eq!(
        (&rings["status"], &rings["part"]),
        (&"ok".into(), &"agent".into())
    );
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let evidence = &finding(&report, "ptrace")["evidence"][0]["value"];
    let shown = evidence.as_str().expect("a string");
    match scope {
        Ok(scope) => assert!(shown.starts_with(&format!("{}: ", scope.trim())), "{shown}"),
        Err(_) => assert_eq!(shown, "not there"),
    }
}

/// As in a chroot that nobody has prepared: nothing says there what the kernel can do, nor that it cannot.
#[test]
#[ignore = "needs root, for a mount of its own: run by scripts/test-here"]
fn without_proc_nothing_is_claimed_of_the_kernel_and_the_cause_is_named() {
    let mut doctor = Command::new("unshare");
    doctor
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg("mount -t tmpfs nothing /proc; exec \"$@\"")
        .arg("sh")
        .arg(crate::command::pystap())
        .args(["doctor", "--json", "--python", PYTHON]);
    let ended = run(doctor.stdin(Stdio::null()).env_remove("HOME"));
    let report: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let cause = finding(&report, "kernel-files");
    assert_eq!(cause["summary"], "/proc is not mounted here");
    assert_eq!(cause["fixes"][0]["commands"][0], "mount -t proc proc /proc");
    for engine in report["engines"].as_array().expect("a list") {
        assert_eq!(engine["because"][0], "kernel-files", "{engine}");
    }
    for id in [
        "container",
        "privilege",
        "modules",
        "perf",
        "ptrace",
        "scheduler",
    ] {
        let unknown = finding(&report, id);
        let evidence = unknown["evidence"].to_string();
        assert_eq!(unknown["status"], "unknown", "{unknown}");
        assert!(evidence.contains("/proc is not mounted"), "{unknown}");
    }
    // The kernel itself tells its release.
    let release = rustix::system::uname()
        .release()
        .to_str()
        .expect("UTF-8")
        .to_owned();
    assert_eq!(report["kernel"], release.as_str());
    assert_eq!(ended.code, 3);
}
