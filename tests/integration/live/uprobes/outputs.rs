//! Sessions whose output is unread, out of space, rotated or open to others: they end when they should, say what
//! happened to the events, and leave nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use pystap::files::writing::{self, Draft};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process};

use super::PYTHON_3_11;
use crate::command::{command, end, run};
use crate::live::Service;
use crate::outputs::{full_pipe, make_pipe};
use crate::tracing::{eventually, leaves_nothing};

const BOUND: Duration = Duration::from_secs(60);

fn ticking() -> Service {
    Service::start_with(PYTHON_3_11, "tests/programs/counts.py", &["0.001"])
}

/// Waits until this pystap has armed its probes, which happens after it starts listening for signals.
fn is_armed(pystap: u32) {
    let own = format!("pystap_{pystap}_");
    eventually("it is armed", || {
        crate::tracing::groups()
            .iter()
            .any(|group| group.starts_with(&own))
    });
}

fn ends(child: &mut Child, what: &str) -> i32 {
    end(child, BOUND).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{what} did not end")
    })
}

/// The number of complete lines of a file that are events.
fn events(path: &Path) -> usize {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .filter(|line| {
            !["session", "summary", "lost"]
                .iter()
                .any(|it| line.contains(&format!("{{\"event\":\"{it}\"")))
        })
        .count()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_session_that_nobody_reads_on_either_side_ends_by_its_duration_and_by_two_interrupts() {
    leaves_nothing(|| {
        let mut service = ticking();
        for duration in [true, false] {
            let (out_reader, out) = full_pipe();
            let (error_reader, error) = full_pipe();
            let pid = service.pid();
            let mut arguments = vec!["trace", "-v", "-f", "json", "-p", &pid];
            if duration {
                arguments.extend(["--duration", "1s"]);
            }
            let mut child = command(&arguments)
                .stdout(out)
                .stderr(error)
                .spawn()
                .expect("it starts");
            if !duration {
                is_armed(child.id());
                for _ in 0..2 {
                    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
                }
            }
            let code = ends(&mut child, "the session");
            assert!(code == 0 || code == 1, "{code}");
            drop((out_reader, error_reader));
        }
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

/// Runs a command on a terminal that accepts nothing more, and prints its process ID and its exit.
const STALLED: &str = "
import fcntl, os, pty, subprocess, sys, tty
master, slave = pty.openpty()
tty.setraw(slave)
flags = fcntl.fcntl(slave, fcntl.F_GETFL)
fcntl.fcntl(slave, fcntl.F_SETFL, flags | os.O_NONBLOCK)
for size in (1000, 1):
    try:
        while True:
            os.write(slave, b'.' * size)
    except BlockingIOError:
        pass
fcntl.fcntl(slave, fcntl.F_SETFL, flags)
child = subprocess.Popen(sys.argv[1:], stdin=slave, stdout=slave, stderr=slave)
print(child.pid, flush=True)
print(child.wait(), flush=True)
";

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_table_on_a_terminal_that_takes_nothing_ends_with_two_interrupts() {
    leaves_nothing(|| {
        let mut service = ticking();
        let mut child = std::process::Command::new(PYTHON_3_11)
            .args(["-c", STALLED])
            .arg(crate::command::pystap())
            .args(["top", "-p", &service.pid()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("its process id");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.expect("a process id");
        is_armed(pid.as_raw_nonzero().get().unsigned_abs());
        for _ in 0..2 {
            kill_process(pid, Signal::INT).expect("it runs");
        }
        assert_eq!(ends(&mut child, "the table"), 0);
        line.clear();
        said.read_line(&mut line).expect("its end");
        assert!(["0", "1"].contains(&line.trim()), "{line}");
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_pipe_without_a_reader_is_waited_for_until_there_is_one_or_somebody_stops_us() {
    leaves_nothing(|| {
        let mut service = ticking();
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        make_pipe(&pipe);
        let pid = service.pid();
        let named = pipe.to_str().expect("UTF-8");
        let arguments = ["trace", "-f", "json", "-o", named, "-p", &pid];
        for read in [false, true] {
            let mut child = command(arguments)
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut said = BufReader::new(child.stderr.take().expect("piped"));
            let mut line = String::new();
            said.read_line(&mut line).expect("read");
            assert!(line.contains("nobody reads"), "{line}");
            if read {
                let mut reader = BufReader::new(fs::File::open(&pipe).expect("opened"));
                let mut first = String::new();
                for _ in 0..3 {
                    reader.read_line(&mut first).expect("read");
                }
                assert!(first.contains("tick"), "{first}");
                kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
                reader.read_to_string(&mut first).expect("read");
                assert!(
                    first
                        .trim_end()
                        .lines()
                        .last()
                        .is_some_and(|it| it.contains("summary"))
                );
            } else {
                kill_process(Pid::from_child(&child), Signal::INT).expect("it waits");
            }
            assert_eq!(ends(&mut child, "the session"), 0);
        }
        let mut limited = arguments.to_vec();
        limited.extend(["--duration", "1s"]);
        let ended = run(&mut command(limited));
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("start its reader first"), "{ended:?}");
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_file_that_may_not_grow_ends_the_session_which_says_how_many_events_are_not_in_it() {
    leaves_nothing(|| {
        let mut service = ticking();
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("events.json");
        let mut limited = std::process::Command::new("sh");
        limited
            .args(["-c", "ulimit -f 100; exec \"$@\"", "sh"])
            .arg(crate::command::pystap())
            .args(["trace", "-f", "json", "-p", &service.pid(), "-o"])
            .arg(&out)
            .env_remove("HOME");
        let ended = run(&mut limited);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(!ended.stderr.contains("nothing lost"), "{ended:?}");
        assert!(ended.stderr.contains("File too large"), "{ended:?}");
        let account = ended
            .stderr
            .lines()
            .find(|line| line.contains("failed after"))
            .expect("its account");
        let words: Vec<&str> = account.split_whitespace().collect();
        let before = |word: &str| -> usize {
            let at = words
                .iter()
                .position(|it| it.trim_end_matches(',') == word)
                .expect(word);
            words[at - 1].parse().expect("a number")
        };
        assert_eq!(before("events"), events(&out), "{account}");
        assert!(before("not") > 0, "{account}");
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_file_that_is_rotated_by_copy_and_truncate_has_no_holes() {
    leaves_nothing(|| {
        let mut service = ticking();
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("events.json");
        let pid = service.pid();
        let named = out.to_str().expect("UTF-8");
        let mut child = command(["trace", "-f", "json", "-p", &pid, "-o", named])
            .spawn()
            .expect("it starts");
        let long = || fs::metadata(&out).is_ok_and(|it| it.len() > 4096);
        eventually("something is written", long);
        fs::File::options()
            .write(true)
            .truncate(true)
            .open(&out)
            .expect("cut");
        eventually("more is written", long);
        kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
        assert_eq!(ends(&mut child, "the session"), 0);
        let bytes = fs::read(&out).expect("read");
        assert!(!bytes.contains(&0), "holes of NULs");
        assert_eq!(
            fs::metadata(&out)
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert!(service.end()["calls"]["tick"].as_u64() > Some(0));
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn captured_values_are_warned_of_where_others_may_read_them_and_not_elsewhere() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("events.json");
        for mode in [0o644, 0o600] {
            fs::write(&out, "").expect("written");
            fs::set_permissions(&out, fs::Permissions::from_mode(mode)).expect("changed");
            let named = out.to_str().expect("UTF-8");
            let ended = run(&mut command([
                "trace",
                "--capture",
                "args",
                "--function",
                "f",
                "-o",
                named,
                "--",
                PYTHON_3_11,
                "-c",
                "def f(x): pass\nf(1)",
            ]));
            assert_eq!(ended.code, 0, "{ended:?}");
            assert_eq!(
                ended.stderr.contains("which other users may read"),
                mode == 0o644,
                "{ended:?}"
            );
        }
    });
}

/// Needs root to have files of two users.
#[test]
#[ignore = "needs root: run by tests/uprobes/run"]
fn links_and_files_of_others_where_everybody_may_put_them_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let canary = dir.path().join("canary");
    fs::write(&canary, "whole").expect("written");
    let other = 54_321;
    for (mode, at) in [(0o1777, "tmp"), (0o700, "home")] {
        let place = dir.path().join(at);
        fs::create_dir(&place).expect("created");
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("changed");
        for name in ["link", "file", "new", "own"] {
            let path = place.join(name);
            match name {
                "link" => symlink(&canary, &path).expect("a link"),
                "new" => symlink(dir.path().join("made"), &path).expect("a link"),
                _ => fs::write(&path, "theirs").expect("written"),
            }
            lchown(&path, Some(other), None).expect("given away");
        }
    }
    for path in ["tmp/link", "tmp/new", "tmp/file", "home/link", "home/new"] {
        let path = dir.path().join(path);
        for error in [
            writing::open(&path).err(),
            Draft::new(&path, Mode::from_raw_mode(0o600)).err(),
        ] {
            let error = error.unwrap_or_else(|| panic!("{}", path.display()));
            assert!(error.to_string().contains("54321"), "{error}");
        }
    }
    assert_eq!(fs::read(&canary).expect("read"), b"whole");
    assert!(!dir.path().join("made").exists());
    // A file where only its owner and root can put one is written to, and keeps its owner.
    let file = dir.path().join("home/own");
    let mut draft = Draft::new(&file, Mode::from_raw_mode(0o600))
        .expect("a draft")
        .expect("a file");
    draft.write_all(b"new").expect("written");
    draft.put().expect("put");
    let metadata = fs::metadata(&file).expect("a file");
    assert_eq!((metadata.uid(), metadata.len()), (other, 3));
}
