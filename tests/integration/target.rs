//! Launches commands with the real pystap as the holder.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pystap::command::hold::CANNOT_EXECUTE;
use pystap::process::{Conditions, Launched, Status, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::executable;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";
const LAUNCHES: &str = include_str!("../programs/launches.py");
const BOUND: Duration = Duration::from_secs(20);

fn launch(command: &[&str]) -> Launched {
    let command: Vec<OsString> = command.iter().map(Into::into).collect();
    Launched::start_through(Path::new(PYSTAP), &command, Conditions::default()).expect("it is held")
}

fn status_of(command: &[&str]) -> Status {
    let mut launched = launch(command);
    launched.release().expect("released");
    launched.wait().expect("it ends")
}

/// The state letter of /proc/PID/stat; `None` when there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Runs the holder by hand, with pipes, up to the point where it has stopped.
fn held_by_hand(command: &[&str]) -> Child {
    let child = Command::new(PYSTAP)
        .args(["hold", &std::process::id().to_string(), command[0], "--"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the holder starts");
    let (_, status) = waitpid(Some(Pid::from_child(&child)), WaitOptions::UNTRACED)
        .expect("waited")
        .expect("a change");
    assert_eq!(status.stopping_signal(), Some(Signal::STOP.as_raw()));
    child
}

fn release(child: &Child) {
    kill_process(Pid::from_child(child), Signal::CONT).expect("it is there");
}

#[test]
fn a_launched_command_does_nothing_before_its_release_and_keeps_its_process_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("ran");
    let mut launched = launch(&[
        "sh",
        "-c",
        r#"echo $$ > "$1""#,
        "sh",
        &trace.to_string_lossy(),
    ]);
    assert_eq!(state(launched.pid()), Some('T'));
    let executable = fs::read_link(format!("/proc/{}/exe", launched.pid())).expect("it is there");
    assert_eq!(
        executable,
        fs::canonicalize(PYSTAP).expect("pystap"),
        "it is not the command yet"
    );
    assert_eq!(launched.try_wait().expect("asked"), None);
    assert!(!trace.exists());

    launched.release().expect("released");
    assert_eq!(launched.wait().expect("it ends"), Status::Exited(0));
    assert_eq!(
        fs::read_to_string(&trace).expect("it ran").trim(),
        launched.pid().to_string()
    );
}

#[test]
fn the_end_of_a_launched_command_is_seen_by_a_watch_before_it_is_reaped() {
    let mut launched = launch(&["true"]);
    let watch = Watch::new().expect("a watch");
    assert!(
        watch
            .add(launched.pid(), launched.start_time())
            .expect("added")
    );
    launched.release().expect("released");
    assert_eq!(watch.wait(Some(BOUND)).expect("waited"), [launched.pid()]);
    assert_eq!(launched.try_wait().expect("asked"), Some(Status::Exited(0)));
    assert_eq!(
        launched.try_wait().expect("asked again"),
        Some(Status::Exited(0))
    );
}

#[test]
fn exit_statuses_and_deadly_signals_are_told_apart() {
    assert_eq!(status_of(&["sh", "-c", "exit 7"]), Status::Exited(7));
    let killed = status_of(&["sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed, Status::Killed(15));
    assert_eq!(killed.exit_code(), 143);
}

#[test]
fn a_command_that_is_never_released_is_killed_and_reaped() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("ran");
    let launched = launch(&["touch", &trace.to_string_lossy()]);
    let pid = launched.pid();
    drop(launched);
    assert_eq!(state(pid), None);
    assert!(!trace.exists());
}

#[test]
fn a_held_command_that_somebody_kills_is_reported_as_killed() {
    let mut launched = launch(&["true"]);
    let pid = Pid::from_raw(i32::try_from(launched.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("killed");
    assert_eq!(launched.wait().expect("it ends"), Status::Killed(9));
}

#[test]
fn the_command_has_the_standard_streams_of_its_holder() {
    let mut child = held_by_hand(&["/bin/sh", "-c", "cat; echo complaint >&2"]);
    release(&child);
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"question\n")
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "question\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "complaint\n");
    assert!(output.status.success());
}

#[test]
fn the_command_starts_with_no_signal_blocked_and_a_deadly_broken_pipe() {
    let child = held_by_hand(&["/bin/cat", "/proc/self/status"]);
    release(&child);
    let output = child.wait_with_output().expect("it ends");
    let status = String::from_utf8_lossy(&output.stdout);
    let mask = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    let broken_pipe = 1 << (Signal::PIPE.as_raw() - 1);
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigCgt:"), 0);
    assert_eq!(mask("SigIgn:") & broken_pipe, 0);
}

#[test]
fn a_command_is_called_by_the_name_that_was_typed() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("name");
    let code = format!(r#"echo "$0" > '{}'"#, trace.display());
    assert_eq!(status_of(&["sh", "-c", &code]), Status::Exited(0));
    assert_eq!(fs::read_to_string(&trace).expect("it ran"), "sh\n");
}

#[test]
fn a_command_that_cannot_be_executed_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let broken = directory.path().join("broken");
    executable::script("#!/nonexistent/interpreter\n", &broken);
    let child = held_by_hand(&[&broken.to_string_lossy()]);
    release(&child);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(i32::from(CANNOT_EXECUTE)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("broken cannot be executed"), "{said}");
}

#[test]
fn a_holder_whose_pystap_is_gone_already_does_not_wait() {
    let output = Command::new(PYSTAP)
        .args(["hold", "1", "/bin/true", "--", "true"])
        .output()
        .expect("the holder starts");
    assert_eq!(output.status.code(), Some(i32::from(CANNOT_EXECUTE)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("pystap ended"), "{said}");
}

/// A stand-in for pystap that can be killed, with a command that it has launched.
fn launcher(stage: &str, command: &[&str]) -> (Child, u32) {
    let mut launcher = Command::new(PYTHON)
        .args(["-c", LAUNCHES, PYSTAP, stage, command[0]])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = launcher.stdout.as_mut().expect("a pipe");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).expect("a line");
    let pid = line.trim().parse().expect("a process id");
    (launcher, pid)
}

/// Kills the launcher and returns whether the command ends within `bound`. (It is not our child, so it is not reaped.)
fn ends_with_its_launcher(launcher: &mut Child, pid: u32, bound: Duration) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let command = pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
    launcher.kill().expect("killed");
    launcher.wait().expect("reaped");
    let bound = Timespec::try_from(bound).expect("short");
    poll(&mut [PollFd::new(&command, PollFlags::IN)], Some(&bound)).expect("polled") == 1
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_held_command_dies_with_its_pystap() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("ran");
    let (mut launcher, pid) = launcher("held", &["/usr/bin/touch", &trace.to_string_lossy()]);
    assert_eq!(state(pid), Some('T'));
    assert!(ends_with_its_launcher(&mut launcher, pid, BOUND));
    assert!(!trace.exists());
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_released_command_outlives_its_pystap() {
    // It ends when its standard input does, which this test holds, and then says so on its standard output.
    let command = ["/bin/sh", "-c", "echo $$; read line; echo survived"];
    let (mut launcher, pid) = launcher("released", &command);
    let mut input = launcher.stdin.take().expect("a pipe");
    let mut output = launcher.stdout.take().expect("a pipe");
    assert!(!ends_with_its_launcher(&mut launcher, pid, Duration::ZERO));
    input.write_all(b"\n").expect("it still reads");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("it still writes");
    assert_eq!(said, "survived\n");
}
