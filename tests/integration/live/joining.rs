//! Which processes may join a session: neighbours that try to, and processes of the session that cannot, with the
//! kernel's own records. `tests/uprobes/run` runs these in the tree of Debian testing, as root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use pystap::event::What;
use rustix::process::Signal;

use super::agent::{PYTHON_3_13, leaves_nothing_at_all};
use crate::tracing::{Traced, Tracing, eventually};

/// What each Python of these sessions does, once.
const ONCE: &str = "def once(): pass\nonce()\n";

/// How often that was seen.
fn seen(traced: &Traced) -> u64 {
    let once = |place: &pystap::event::Place| {
        place.function.text == "once" && place.file.text == "<string>"
    };
    let calls = traced
        .events
        .iter()
        .filter(|event| matches!(&event.what, What::Call { place, .. } if once(place)));
    calls.count() as u64
}

/// A shell that waits for a file and then starts this many Pythons, one after the other, each with a line in another
/// file.
fn shell(directory: &Path, count: u32) -> String {
    let (go, done) = (directory.join("go"), directory.join("done"));
    format!(
        "while [ ! -e {go} ]; do sleep 0.01; done; \
         i=0; while [ $i -lt {count} ]; do {PYTHON_3_13} -c '{ONCE}'; echo >> {done}; i=$((i+1)); done",
        go = go.display(),
        done = done.display()
    )
}

fn go(directory: &Path) {
    fs::write(directory.join("go"), "").expect("written");
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn pythons_that_start_while_pystap_is_stopped_are_traced_or_counted() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let command = shell(directory.path(), 300);
        let options = ["--python", PYTHON_3_13, "--", "sh", "-c", &command];
        let tracing = Tracing::start(&options).live();
        let done = directory.path().join("done");
        go(directory.path());
        eventually("some are done", || lines(&done) >= 50);
        tracing.signal(Signal::STOP);
        let before = lines(&done);
        eventually("more are done", || lines(&done) >= before + 10);
        tracing.signal(Signal::CONT);
        let traced = tracing.finish();
        let untraced = traced.summary.untraced_processes;
        assert!(untraced >= 9, "{:?} {:#?}", traced.summary, traced.said);
        assert_eq!(
            seen(&traced) + untraced,
            300,
            "{:?} {:#?}",
            traced.summary,
            traced.said
        );
        let conclusion = traced.said.last().expect("a last line");
        assert!(
            conclusion.contains(&format!("{untraced} processes untraced"))
                && !conclusion.contains("nothing lost"),
            "{conclusion}"
        );
        let told = traced
            .said
            .iter()
            .filter(|line| line.contains(&format!("{untraced} processes ran untraced: ")));
        assert_eq!(told.count(), 1, "{:#?}", traced.said);
    });
}

/// Another user on this machine, who maps a file with the name of the agent's library, and connects to a session's
/// socket: once with a made-up story, and many times silently. Its first line is what the first connection receives.
struct Neighbour {
    child: Child,
    said: BufReader<ChildStdout>,
}

const NEIGHBOUR: &str = r#"
import json, mmap, os, socket, sys, tempfile

name = sys.argv[1]

def connect():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect("\0" + name)
    return connection

directory = tempfile.mkdtemp()
with open(directory + "/libpystap_agent.so", "w+b") as file:
    file.truncate(4096)
    mapped = mmap.mmap(file.fileno(), 4096)
os.unlink(directory + "/libpystap_agent.so")
os.rmdir(directory)

connection = connect()
hello = dict(type="joined", parent=1, secret="0" * 32, protocol=2, version="1", python=[3, 13, 0],
    implementation="cpython", pid=os.getpid(), way="monitoring", busy=False, dormant=False)
connection.send(json.dumps(hello).encode())
print(connection.recv(1 << 16), flush=True)
held = [connect() for _ in range(400)]
print("connected", flush=True)
sys.stdin.read()
"#;

/// The name of the socket on which a pystap waits for agents, which anyone can read in the table of sockets.
fn socket_of(pystap: u32) -> String {
    let files = fs::read_dir(format!("/proc/{pystap}/fd")).expect("it runs");
    let files: Vec<String> = files
        .flatten()
        .filter_map(|file| Some(fs::read_link(file.path()).ok()?.display().to_string()))
        .collect();
    let table = fs::read_to_string("/proc/net/unix").expect("a table");
    let names = table.lines().filter_map(|line| {
        let (rest, name) = line.split_once(" @pystap-session/")?;
        let inode = rest.split_whitespace().next_back()?;
        let is_its = files.contains(&format!("socket:[{inode}]"));
        is_its.then(|| format!("pystap-session/{name}"))
    });
    names.into_iter().next().expect("it listens")
}

impl Neighbour {
    fn start(socket: &str) -> Neighbour {
        let mut child = Command::new("setpriv")
            .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
            .args([PYTHON_3_13, "-c", NEIGHBOUR, socket])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        Neighbour {
            said: BufReader::new(child.stdout.take().expect("piped")),
            child,
        }
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_neighbour_is_told_nothing_and_its_silent_connections_change_nothing() {
    leaves_nothing_at_all(|| {
        let directory = tempfile::tempdir().expect("a directory");
        // It stays until the directory is removed, and holds nothing that anyone waits for.
        let command = format!(
            "{}; exec 2>/dev/null; while [ -d {} ]; do sleep 0.05; done",
            shell(directory.path(), 30),
            directory.path().display()
        );
        let options = ["--python", PYTHON_3_13, "--", "sh", "-c", &command];
        let tracing = Tracing::start(&options).live();
        let mut neighbour = Neighbour::start(&socket_of(tracing.pid()));
        assert_eq!(neighbour.says(), "b''");
        assert_eq!(neighbour.says(), "connected");
        go(directory.path());
        let done = directory.path().join("done");
        eventually("all are done", || lines(&done) == 30);
        let asked = Instant::now();
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        // It was once nine seconds. The promise is one; a machine that is busy with other tests gets more.
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(seen(&traced), 30, "{:#?}", traced.said);
        assert_eq!(traced.summary.untraced_processes, 0, "{:#?}", traced.said);
        assert!(
            !traced.said.iter().any(|line| line.contains("warning")),
            "{:#?}",
            traced.said
        );
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn daemons_that_fork_twice_are_still_of_the_session() {
    leaves_nothing_at_all(|| {
        // The daemon, with a new session and another parent, becomes a Python of its own, and then forks.
        let daemon = "import os, sys, time\n\
            def once(): pass\n\
            once()\n\
            if os.fork() == 0: once(); os._exit(0)\n\
            os.wait()\n";
        let program = format!(
            "import os, sys, time\n\
             if os.fork() == 0:\n\
             \x20   os.setsid()\n\
             \x20   parent = os.getpid()\n\
             \x20   if os.fork() == 0:\n\
             \x20       while os.getppid() == parent: time.sleep(0.001)\n\
             \x20       os.execv(sys.executable, [sys.executable, '-c', {daemon:?}])\n\
             \x20   os._exit(0)\n\
             os.wait()\n"
        );
        let traced = Tracing::start(&["--", PYTHON_3_13, "-c", &program])
            .finish()
            .complete("targets_ended");
        assert_eq!(seen(&traced), 2, "{:#?}", traced.said);
        assert_eq!(traced.summary.untraced_processes, 0, "{:#?}", traced.said);
    });
}
