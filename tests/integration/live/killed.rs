//! pystap killed at any moment, as the kernel does when memory is short: the traced process continues unharmed and as
//! fast as before, and `pystap cleanup` removes what is left. `tests/uprobes/run` runs these in the tree.
//!
//! The moments are random; `PYSTAP_TEST_SEED` repeats those of an earlier run, which printed its seed.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use super::Service;
use super::agent::{files, leaves_nothing_at_all};
use super::installed::environment;
use crate::command::{command, file, run};
use crate::tracing::{Tracing, Way, eventually, groups};

/// How often it is killed.
const ROUNDS: u32 = 30;

/// xorshift64*: small, and reproducible everywhere from the same seed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let named = std::env::var("PYSTAP_TEST_SEED").ok();
        let seed = named.map_or_else(
            || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.expect("after 1970").as_nanos() as u64 | 1
            },
            |text| text.parse().expect("a number"),
        );
        println!("PYSTAP_TEST_SEED={seed}");
        Random(seed)
    }

    /// A duration below this one.
    fn below(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let part = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64 / f64::from(1 << 24);
        most.mul_f64(part)
    }
}

/// A process that works, and the file that its stderr goes to.
struct Target {
    service: Service,
    complaints: tempfile::NamedTempFile,
    /// Number of its threads while it is not traced.
    threads: usize,
}

impl Target {
    fn start(python: &str) -> Target {
        let complaints = tempfile::NamedTempFile::new().expect("a file");
        let mut command = Command::new(python);
        command.arg(file("tests/programs/busy.py"));
        command.stderr(complaints.reopen().expect("it is there"));
        let service = Service::of(command);
        let mut target = Target {
            service,
            complaints,
            threads: 0,
        };
        target.threads = target.threads();
        target
    }

    fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.service.pid()));
        tasks.expect("it runs").count()
    }

    /// Nanoseconds per call.
    fn speed(&mut self) -> f64 {
        let answer = self.service.request("speed");
        answer.trim().parse().expect("a number")
    }

    fn end(mut self) {
        assert_eq!(self.service.end()["unharmed"], true);
        let complaints = fs::read_to_string(self.complaints.path()).expect("readable");
        assert_eq!(complaints, "", "the target has something to complain of");
    }
}

/// How long an undisturbed session takes to start and to end. It sees the calls.
fn undisturbed(pid: &str) -> (Duration, Duration) {
    let begun = Instant::now();
    let tracing = Tracing::start(&["--function", "leaf", "-p", pid]).live();
    let beginning = begun.elapsed();
    tracing.wait_for_output(4000);
    let stopped = Instant::now();
    tracing.signal(Signal::INT);
    let traced = tracing.finish();
    let ending = stopped.elapsed();
    assert_eq!(traced.code, 0, "{:#?}", traced.said);
    let seen = traced.counts(&file("tests/programs/busy.py"), Way::In);
    assert!(
        seen.get("leaf").is_some_and(|calls| *calls > 10),
        "{seen:?}"
    );
    (beginning, ending)
}

/// Kills pystap at random moments while it attaches to a process, traces it and leaves it.
fn is_unharmed(python: &str) {
    let mut target = Target::start(python);
    let pid = target.service.pid();
    let before = target.speed();
    let (beginning, ending) = undisturbed(&pid);
    println!("{python}: begins in {beginning:?}, ends in {ending:?}, {before:.1} ns a call");
    let mut random = Random::new();
    for round in 0..ROUNDS {
        let mut tracing = Tracing::start(&["--function", "leaf", "-p", &pid]);
        // Waiting for a random moment is what this test is about.
        match round % 3 {
            0 => thread::park_timeout(random.below(beginning)),
            1 => {
                tracing = tracing.live();
                thread::park_timeout(random.below(Duration::from_millis(100)));
            }
            _ => {
                tracing = tracing.live();
                tracing.signal(Signal::INT);
                thread::park_timeout(random.below(ending));
            }
        }
        tracing.signal(Signal::KILL);
        let (code, said) = tracing.end();
        // It may have ended just before.
        assert!(code == 137 || code == 0, "round {round}: {code} {said:#?}");
        eventually("the agent's session has ended", || {
            target.threads() == target.threads
        });
    }
    let ended = run(&mut command(["cleanup"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(files(), Vec::<std::path::PathBuf>::new(), "{ended:?}");
    assert_eq!(groups(), Vec::<String>::new(), "{ended:?}");
    // Other programs slow it down at times; anything left on would do so for good.
    let deadline = Instant::now() + crate::tracing::BOUND;
    let mut best = f64::MAX;
    while best > before * 1.2 {
        best = best.min(target.speed());
        assert!(
            Instant::now() < deadline,
            "{python}: {best:.1} ns a call, and {before:.1} ns before it was traced"
        );
    }
    println!("{python}: {best:.1} ns a call afterwards");
    leaves_nothing_at_all(|| {
        undisturbed(&pid);
    });
    target.end();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_3_14_is_unharmed_whenever_pystap_is_killed() {
    is_unharmed("/usr/bin/python3.14");
}

/// The scripts that processes were asked to run.
fn asked() -> bool {
    let scripts = files()
        .into_iter()
        .filter_map(|directory| fs::read_dir(directory).ok());
    scripts
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("attach-"))
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn what_a_killed_pystap_asked_of_a_sleeping_thread_is_taken_back_by_cleanup() {
    let complaints = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new("/usr/bin/python3.14");
    command.args([&file("tests/programs/idle.py"), "blocked"]);
    command.stderr(complaints.reopen().expect("it is there"));
    let mut service = Service::of(command);
    let tracing = Tracing::start(&["-p", &service.pid()]);
    eventually("the thread is asked", asked);
    // The request is written a moment after its script; then all that is left is to wait for an answer.
    tracing.wait_until_idle();
    tracing.signal(Signal::KILL);
    tracing.end();
    let ended = run(&mut self::command(["cleanup"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(files(), Vec::<std::path::PathBuf>::new(), "{ended:?}");
    assert_eq!(service.end()["unharmed"], true);
    let complaints = fs::read_to_string(complaints.path()).expect("readable");
    assert_eq!(
        complaints, "",
        "a thread was asked for what is no longer there"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_dormant_agent_of_3_13_is_unharmed_whenever_pystap_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let python = environment("/usr/bin/python3.13", directory.path());
    let ended = run(&mut command(["agent", "install", "--python", &python]));
    assert_eq!(ended.code, 0, "{ended:?}");
    is_unharmed(&python);
}
