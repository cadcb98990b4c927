//! pystap, and its child that stops processes, are stopped, killed and continued at their system calls, which ptrace
//! reports: whatever happens to them, the traced process does not stand still for longer than it may, is not traced by
//! anyone afterwards, has the same code as its files, and answers. `tests/uprobes/run` runs these here.
//!
//! The process measures itself how long it stood still (tests/programs/heartbeat.py); the same program beside it, which
//! is left alone, measures how long the machine makes programs stand still. A delay that is only the machine's does not
//! recur when the same step is repeated, one of ours does.
//!
//! There are thousands of system calls, so a sample of them is used, the same each time; with `PYSTAP_TEST_EVERY_CALL`
//! set, all of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use procfs::process::{MMPermissions, MMapPath, Process};
use pystap::elf::Image;

use super::Service;
use super::agent::files;
use super::installed::{environment, pythons};
use super::uprobes::tree;
use crate::command::{command, file, run};
use crate::tracing::{BOUND, Tracing, Way, eventually, groups};

/// How long a process may stand still, in milliseconds, in addition to what the machine does to all.
const LONGEST: f64 = 150.0;
/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// Number of beats of its target for which something stays stopped: more than a third of a second.
const BEATS: u64 = 300;
/// How often a step in which a process stood still for too long is repeated.
const REPETITIONS: u32 = 4;
/// How many system calls of pystap and of its child are used per way in and signal.
const SAMPLE: usize = 5;

const PROGRAM: &str = "tests/programs/heartbeat.py";

/// Whose system calls are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Those of pystap's own threads, from the point where it begins to arm probes.
    Pystap,
    /// Those of the child that opens windows, from the point where its watchdog starts.
    Window,
}

impl Whose {
    /// The number of the system call with which they begin.
    fn first(self) -> libc::c_long {
        match self {
            Whose::Pystap => libc::SYS_perf_event_open,
            Whose::Window => libc::SYS_timer_settime,
        }
    }
}

/// What is done, and where.
#[derive(Debug, Clone, Copy)]
struct Point {
    whose: Whose,
    /// The index of the call.
    call: usize,
    signal: Signal,
}

/// The points to use, out of this many system calls.
fn points(whose: Whose, count: usize) -> impl Iterator<Item = Point> {
    let step = match std::env::var_os("PYSTAP_TEST_EVERY_CALL") {
        Some(_) => 1,
        None => count.div_ceil(SAMPLE),
    };
    let signals = [Signal::SIGSTOP, Signal::SIGKILL].into_iter();
    signals.flat_map(move |signal| {
        // In the middle of the range that each represents.
        (step / 2..count).step_by(step).map(move |call| Point {
            whose,
            call,
            signal,
        })
    })
}

/// A program that measures how long it stands still.
struct Heart(Service);

impl Heart {
    fn start(mut command: Command) -> Heart {
        command.stderr(Stdio::inherit());
        Heart(Service::of(command))
    }

    fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// Asks it for the longest time that it stood still since it was last asked, and how often it has beaten.
    fn ask(&mut self) -> (f64, u64) {
        let answer: serde_json::Value =
            serde_json::from_str(&self.0.request("beat")).expect("JSON");
        let longest = answer["longest"].as_f64().expect("a number");
        (longest, answer["beats"].as_u64().expect("a number"))
    }
}

/// A way in: what runs the program, and the options with which it is traced.
struct Entrance {
    name: String,
    python: Vec<String>,
    options: Vec<String>,
    windows: bool,
}

impl Entrance {
    fn new(name: &str, python: &[&str], options: &[&str], windows: bool) -> Entrance {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Entrance {
            name: name.to_owned(),
            python: words(python),
            options: words(options),
            windows,
        }
    }

    fn heart(&self, program: &str) -> Heart {
        let mut command = Command::new(&self.python[0]);
        command.args(&self.python[1..]).arg(program);
        Heart::start(command)
    }

    /// The arguments for pystap to trace a process.
    fn tracing(&self, pid: u32) -> Vec<String> {
        let pid = pid.to_string();
        let mut words = self.options.clone();
        words.extend(["-p".to_owned(), pid]);
        words
    }

    /// Runs every step against it.
    fn is_unharmed(&self, program: &str) {
        let mut beside = self.heart(program);
        let kinds = [Whose::Pystap, Whose::Window];
        let (mut done, mut all) = (0, 0);
        for whose in kinds.into_iter().take(1 + usize::from(self.windows)) {
            // Seen once in some dozens of runs: of a session that went well, no call of its window was told to us. Where an agent
            // was, there is none a second time.
            let mut tries = (0..3).map(|_| {
                let heart = self.heart(program);
                let run = Run::of(&self.tracing(heart.pid()), &mut beside, whose, None);
                (heart, run)
            });
            let seen = tries.find(|(_, run)| run.calls > 0);
            let (mut heart, run) =
                seen.unwrap_or_else(|| panic!("{}: no calls of {whose:?}", self.name));
            let (name, count) = (&self.name, run.calls);
            assert!(
                count > 10,
                "{name}: {count} calls of {whose:?}: {:#?}",
                run.said
            );
            // It answers after an ordinary session.
            heart.ask();
            all += 2 * count;
            for point in points(whose, count) {
                self.is_unharmed_at(point, program, &mut beside);
                done += 1;
            }
        }
        println!("{}: {done} of {all} points", self.name);
    }

    fn is_unharmed_at(&self, point: Point, program: &str, beside: &mut Heart) {
        let mut tried = Vec::new();
        for _ in 0..REPETITIONS {
            let mut heart = self.heart(program);
            heart.ask();
            beside.ask();
            let run = Run::of(&self.tracing(heart.pid()), beside, point.whose, Some(point));
            let (longest, _) = heart.ask();
            let noise = run.noise.max(beside.ask().0);
            let at = format!("{}: {point:?}: {:?} {:#?}", self.name, run.status, run.said);
            is_as_before(heart.pid(), &at);
            run.ended_as(point, &at);
            assert_eq!(heart.0.end()["unharmed"], true, "{at}");
            if longest <= LONGEST + noise {
                return;
            }
            tried.push((longest, noise, at));
        }
        panic!("it stood still for too long each time: {tried:#?}");
    }
}

/// No one traces the process, its code matches its files, and no semaphore of the agent's is raised.
fn is_as_before(pid: u32, at: &str) {
    eventually("the probes are gone, and nobody traces it", || {
        differences(pid).is_empty()
    });
    let differences = differences(pid);
    assert!(differences.is_empty(), "{differences:?} {at}");
}

fn differences(pid: u32) -> Vec<String> {
    let process = Process::new(pid.cast_signed()).expect("it runs");
    let mut found = Vec::new();
    for task in process.tasks().expect("readable").flatten() {
        match task.status() {
            Ok(status) if status.tracerpid != 0 => found.push(format!("traced: {status:?}")),
            _ => {}
        }
    }
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("readable");
    let maps = process.maps().expect("readable");
    for map in &maps {
        let MMapPath::Path(path) = &map.pathname else {
            continue;
        };
        let (from, to) = map.address;
        let length = usize::try_from(to - from).expect("it fits");
        let reach = format!("/proc/{pid}/map_files/{from:x}-{to:x}");
        if map.perms.contains(MMPermissions::EXECUTE) {
            let mut there = vec![0; length];
            memory.read_exact_at(&mut there, from).expect("read");
            let Ok(file) = fs::File::open(&reach) else {
                continue;
            };
            let mut here = vec![0; length];
            // The file may end before the page does.
            let read = file.read_at(&mut here, map.offset).expect("read");
            if there[..read] != here[..read] {
                found.push(format!("the code of {}", path.display()));
            }
        }
        let is_agent = path.to_string_lossy().contains("pystap");
        if is_agent && map.perms.contains(MMPermissions::WRITE) {
            let image = Image::open(Path::new(&reach)).expect("the agent");
            let sites = image.marks.iter().flat_map(|mark| &mark.sites);
            for semaphore in sites.filter_map(|site| site.semaphore.as_ref()) {
                let offset = semaphore.file_offset.expect("in the file");
                if !(map.offset..map.offset + (to - from)).contains(&offset) {
                    continue;
                }
                let mut counter = [0; 2];
                memory
                    .read_exact_at(&mut counter, from + offset - map.offset)
                    .expect("read");
                if counter != [0; 2] {
                    found.push(format!("a semaphore is {counter:?}"));
                }
            }
        }
    }
    found
}

/// One session of pystap under observation.
struct Run {
    status: ExitStatus,
    said: Vec<String>,
    /// System calls that were seen.
    calls: usize,
    /// Whether the point was reached.
    reached: bool,
    /// The longest time that the program beside stood still meanwhile.
    noise: f64,
    /// The input and output of a launched command.
    command: Option<(ChildStdin, ChildStdout)>,
}

/// How far the step has progressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Counting,
    /// It is stopped until the program beside has beaten this often.
    Stopped {
        process: Pid,
        until: u64,
    },
    Done,
}

impl Run {
    /// Traces a program, interrupts the trace when it is live, and performs the step at a point.
    fn of(words: &[String], beside: &mut Heart, whose: Whose, point: Option<Point>) -> Run {
        let mut pystap = command::<&str>([]);
        let directory = tempfile::tempdir().expect("a directory");
        let output = directory.path().join("events");
        pystap.args([
            "trace",
            "--engine",
            "uprobes",
            "--agent",
            "--function",
            "leaf",
        ]);
        pystap.arg("-o").arg(&output).args(words);
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
        shell.arg(pystap.get_program()).args(pystap.get_args());
        let environment = pystap
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        shell.envs(environment).stderr(Stdio::piped());
        let launches = words.iter().any(|word| word == "--");
        if launches {
            shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let mut child = shell.spawn().expect("a shell");
        let leader = Pid::from_raw(child.id().cast_signed());
        let stopped = waitpid(leader, Some(WaitPidFlag::WUNTRACED)).expect("ours");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let mut options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        if whose == Whose::Window {
            options |= Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACEFORK;
        }
        ptrace::seize(leader, options | Options::PTRACE_O_EXITKILL).expect("ours");
        kill(leader, Signal::SIGCONT).expect("ours");
        let stderr = child.stderr.take().expect("piped");
        let reader = thread::spawn(move || {
            let mut said = Vec::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("live, tracing") {
                    let _ = kill(leader, Signal::SIGINT);
                }
                said.push(line);
            }
            said
        });
        let mut seen = Seen {
            leader,
            whose,
            point,
            window: None,
            begun: false,
            calls: 0,
            stage: Stage::Counting,
            reached: false,
            held: Vec::new(),
            noise: 0.0,
        };
        let status = seen.follow(beside);
        let command = child.stdin.take().zip(child.stdout.take());
        // It has already been waited for.
        let _ = child.wait();
        // What it launched has its output too, and lives on.
        let said = match launches {
            true => Vec::new(),
            false => reader.join().expect("it read"),
        };
        Run {
            status,
            said,
            calls: seen.calls,
            reached: seen.reached,
            noise: seen.noise,
            command,
        }
    }

    /// pystap was killed if the step killed it, and otherwise ended by itself.
    fn ended_as(&self, point: Point, at: &str) {
        let was_killed =
            point.whose == Whose::Pystap && point.signal == Signal::SIGKILL && self.reached;
        let died = self.status.signal() == Some(libc::SIGKILL);
        assert_eq!(died, was_killed, "{at}");
    }
}

/// What is known about the processes that we follow.
struct Seen {
    leader: Pid,
    whose: Whose,
    point: Option<Point>,
    /// The child that opens windows.
    window: Option<Pid>,
    /// Whether the first call of interest was seen.
    begun: bool,
    calls: usize,
    stage: Stage,
    reached: bool,
    /// Threads that are stopped with their process.
    held: Vec<Pid>,
    noise: f64,
}

impl Seen {
    /// Follows them until pystap ends.
    fn follow(&mut self, beside: &mut Heart) -> ExitStatus {
        let deadline = Instant::now() + BOUND;
        loop {
            let waits = matches!(self.stage, Stage::Stopped { .. });
            let mut flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            flags.set(WaitPidFlag::WNOHANG, waits);
            match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::StillAlive) => self.wait_for_beats(beside),
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    return ExitStatus::from_raw(code << 8);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    return ExitStatus::from_raw(signal as i32);
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    if let Stage::Stopped { process, .. } = self.stage
                        && process == pid
                    {
                        self.stage = Stage::Done;
                    }
                }
                Ok(event) => self.see(event, beside),
                Err(Errno::EINTR) => {}
                Err(errno) => panic!("{errno}"),
            }
            assert!(
                Instant::now() < deadline,
                "pystap does not end: {:?}",
                self.point
            );
        }
    }

    /// Continues whatever is stopped after a while.
    fn wait_for_beats(&mut self, beside: &mut Heart) {
        let Stage::Stopped { process, until } = self.stage else {
            return;
        };
        let (noise, beats) = beside.ask();
        self.noise = self.noise.max(noise);
        if beats < until {
            thread::park_timeout(Duration::from_millis(5));
            return;
        }
        self.stage = Stage::Done;
        let _ = kill(process, Signal::SIGCONT);
        for thread in std::mem::take(&mut self.held) {
            let _ = ptrace::cont(thread, None);
        }
    }

    fn see(&mut self, event: WaitStatus, beside: &mut Heart) {
        match event {
            WaitStatus::PtraceSyscall(thread) => {
                self.call(thread, beside);
                self.resume(thread, None);
            }
            WaitStatus::PtraceEvent(thread, signal, EVENT_STOP) => {
                // Stopped together with its process, unless that was continued meanwhile.
                if signal != Signal::SIGTRAP && matches!(self.stage, Stage::Stopped { .. }) {
                    self.held.push(thread);
                } else {
                    self.resume(thread, None);
                }
            }
            WaitStatus::PtraceEvent(
                thread,
                _,
                libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_FORK,
            ) => {
                let child = ptrace::getevent(thread).expect("it is stopped");
                // The last one, should there be several attempts.
                self.window = Some(Pid::from_raw(i32::try_from(child).expect("a pid")));
                self.begun = false;
                self.resume(thread, None);
            }
            WaitStatus::PtraceEvent(thread, ..) => self.resume(thread, None),
            WaitStatus::Stopped(thread, signal) => self.resume(thread, Some(signal)),
            other => panic!("{other:?}"),
        }
    }

    /// Continues a thread, to its next system call if that is still of interest.
    fn resume(&self, thread: Pid, signal: Option<Signal>) {
        let counts = match self.whose {
            Whose::Pystap => true,
            Whose::Window => Some(thread) == self.window,
        };
        // A killed thread is gone.
        let _ = match counts && self.stage == Stage::Counting {
            true => ptrace::syscall(thread, signal),
            false => ptrace::cont(thread, signal),
        };
    }

    /// Handles a thread that enters or leaves a system call.
    fn call(&mut self, thread: Pid, beside: &mut Heart) {
        if self.stage != Stage::Counting {
            return;
        }
        if !self.begun {
            let number = ptrace::getregs(thread).map_or(0, |registers| registers.orig_rax);
            self.begun = number == self.whose.first().cast_unsigned();
            if !self.begun {
                return;
            }
        }
        let call = self.calls;
        self.calls += 1;
        let Some(point) = self.point.filter(|point| point.call == call) else {
            return;
        };
        self.reached = true;
        let process = match self.whose {
            Whose::Pystap => self.leader,
            Whose::Window => thread,
        };
        self.stage = match point.signal {
            Signal::SIGSTOP => Stage::Stopped {
                process,
                until: beside.ask().1 + BEATS,
            },
            _ => Stage::Done,
        };
        kill(process, point.signal).expect("it is ours");
    }
}

/// pystap's own command removes everything that pystap has left.
fn is_cleaned_up() {
    let ended = run(&mut command(["cleanup"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(files(), Vec::<PathBuf>::new(), "{ended:?}");
    // What belongs to a live session is not ours: all sessions of these tests have ended.
    let lives = |group: &String| {
        let pid = group.split('_').nth(1).unwrap_or_default();
        Path::new("/proc").join(pid).exists()
    };
    let left: Vec<String> = groups().into_iter().filter(|it| !lives(it)).collect();
    assert_eq!(left, Vec::<String>::new(), "{ended:?}");
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_process_of_3_14_or_3_15_goes_on_whatever_happens_to_who_asks_it_in_a_tree() {
    let tree = tree("guest");
    let programs = tree.join("pystap/programs");
    fs::create_dir_all(&programs).expect("made");
    fs::copy(file(PROGRAM), programs.join("heartbeat.py")).expect("copied");
    let tree = tree.display().to_string();
    for python in ["/usr/bin/python3.14", "/usr/bin/python3.15"] {
        Entrance::new(python, &["chroot", &tree, python], &[], true)
            .is_unharmed("/pystap/programs/heartbeat.py");
    }
    is_cleaned_up();
    fs::remove_dir_all(&programs).expect("removed");
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_of_3_9_to_3_13_goes_on_whatever_happens_to_who_puts_a_call_into_it() {
    let mut pythons = pythons();
    // One from each end, besides Debian's own: all take the same way.
    pythons.retain(|python| {
        ["3.9", "3.11", "3.13"]
            .iter()
            .any(|it| python.ends_with(it))
    });
    pythons.dedup_by_key(|python| python.rsplit('/').next().map(str::to_owned));
    for python in pythons {
        Entrance::new(&python, &[&python], &["--inject", "ptrace"], true)
            .is_unharmed(&file(PROGRAM));
    }
    is_cleaned_up();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_with_a_dormant_agent_goes_on_whatever_happens_to_who_wakes_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let python = environment("/usr/bin/python3.11", directory.path());
    let ended = run(&mut command(["agent", "install", "--python", &python]));
    assert_eq!(ended.code, 0, "{ended:?}");
    Entrance::new("dormant", &[&python], &[], false).is_unharmed(&file(PROGRAM));
    is_cleaned_up();
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_launched_program_goes_on_whatever_happens_to_who_launched_it() {
    const PYTHON: &str = "/usr/bin/python3.11";
    let program = file(PROGRAM);
    let words: Vec<String> = ["--", PYTHON, &program].map(str::to_owned).to_vec();
    let mut python = Command::new(PYTHON);
    python.arg(&program);
    let mut beside = Heart::start(python);
    let count = Run::of(&words, &mut beside, Whose::Pystap, None).calls;
    let (mut done, mut started) = (0, 0);
    for point in points(Whose::Pystap, count) {
        let mut tried = Vec::new();
        let harmless = (0..REPETITIONS).any(|_| {
            beside.ask();
            let run = Run::of(&words, &mut beside, point.whose, Some(point));
            let at = format!("{point:?}: {:?}", run.status);
            run.ended_as(point, &at);
            let Some((longest, is_there)) = launched(run.command.expect("piped"), &at) else {
                return point.signal == Signal::SIGKILL;
            };
            started += u32::from(is_there);
            let noise = run.noise.max(beside.ask().0);
            tried.push((longest, noise, at));
            longest <= LONGEST + noise
        });
        assert!(harmless, "{point:?} {tried:#?}");
        done += 1;
    }
    println!(
        "launched: {done} of {} points, {started} programs started",
        2 * count
    );
    assert!(started > 0);
    is_cleaned_up();
}

/// Asks a launched program that pystap has left how long it stood still, and ends it; `None` when it never ran.
fn launched((mut input, output): (ChildStdin, ChildStdout), at: &str) -> Option<(f64, bool)> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).expect("readable");
    if line.is_empty() {
        return None;
    }
    assert_eq!(line, "ready\n", "{at}");
    writeln!(input, "beat").expect("it reads");
    line.clear();
    output.read_line(&mut line).expect("an answer");
    let answer: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let pid = answer["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok());
    is_as_before(pid.expect("a pid"), at);
    drop(input);
    line.clear();
    output.read_to_string(&mut line).expect("its end");
    assert!(line.contains("\"unharmed\": true"), "{line} {at}");
    Some((answer["longest"].as_f64().expect("a number"), true))
}

/// The debugger that asked first comes first.
#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn what_another_debugger_has_asked_of_a_thread_stands_in_a_tree() {
    let tree = tree("guest");
    let programs = tree.join("pystap/programs");
    fs::create_dir_all(&programs).expect("made");
    fs::copy(file("tests/programs/idle.py"), programs.join("idle.py")).expect("copied");
    fs::write(
        programs.join("other.py"),
        "open('/pystap/programs/done', 'w').close()\n",
    )
    .expect("written");
    let inside = |words: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(&tree).arg("/usr/bin/python3.14").args(words);
        command
    };
    let mut service = Service::of(inside(&["/pystap/programs/idle.py", "blocked"]));
    let pid = service.pid();
    // As sys.remote_exec does, which needs /proc in the tree.
    let mounted = Command::new("mount")
        .args(["-t", "proc", "proc"])
        .arg(tree.join("proc"))
        .status();
    assert!(mounted.expect("it runs").success());
    let code = format!("import sys; sys.remote_exec({pid}, '/pystap/programs/other.py')");
    let asked = inside(&["-c", &code]).status();
    let unmounted = Command::new("umount").arg(tree.join("proc")).status();
    assert!(unmounted.expect("it runs").success());
    assert!(asked.expect("it runs").success());
    let ended = run(&mut command([
        "trace", "--engine", "uprobes", "--agent", "-p", &pid,
    ]));
    assert_eq!(ended.code, 3, "{ended:?}");
    for words in ["another debugger has asked", "/pystap/programs/other.py"] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    assert_eq!(service.end()["unharmed"], true);
    assert!(
        programs.join("done").exists(),
        "the other's script did not run"
    );
    fs::remove_dir_all(&programs).expect("removed");
    is_cleaned_up();
}

/// An error while arming has nothing to wait for. The bound is far above what that takes, and below what it once took.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_session_that_cannot_be_armed_ends_at_once() {
    let mut service = Service::start_with("/usr/bin/python3.11", PROGRAM, &["200"]);
    let pid = service.pid();
    let pystap = command(["trace", "--engine", "uprobes", "-p", &pid]);
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=100:100").arg(pystap.get_program());
    limited.args(pystap.get_args()).env_clear();
    let begun = Instant::now();
    let ended = run(&mut limited);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.stderr.contains("ulimit -n"), "{ended:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(service.end()["unharmed"], true);
    is_cleaned_up();
}

/// What the program does when a call is inserted: it waits, works, or waits for a lock.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_are_put_into_programs_that_work_wait_and_have_many_threads() {
    for python in pythons() {
        for arguments in [&["0"][..], &["100", "busy"]] {
            let mut service = Service::start_with(&python, PROGRAM, arguments);
            let pid = service.pid();
            // A second time, when the library is already there.
            for _ in 0..2 {
                let options = [
                    "--agent",
                    "--inject",
                    "ptrace",
                    "--function",
                    "leaf",
                    "-p",
                    &pid,
                ];
                let tracing = Tracing::start(&options).live();
                service.request("beat");
                tracing.wait_for_output(1000);
                tracing.signal(rustix::process::Signal::INT);
                let traced = tracing.finish();
                let calls = traced.counts(&file(PROGRAM), Way::In);
                let seen = calls.get("leaf").is_some_and(|calls| *calls > 0);
                assert!(seen, "{python} {arguments:?}: {calls:?} {:#?}", traced.said);
                is_as_before(pid.parse().expect("a pid"), &python);
            }
            assert_eq!(service.end()["unharmed"], true);
        }
    }
    is_cleaned_up();
}

/// A process whose only thread is never at a suitable point for a call: it waits in a read from a file, as the loader
/// does.
#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_process_that_comes_to_no_place_for_a_call_is_not_touched() {
    let directory = tempfile::tempdir().expect("a directory");
    let fifo = directory.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it runs").success());
    // A FIFO's name is a path, as a library's is.
    let program = format!(
        "import os, sys; print('ready', flush=True); os.read(os.open({:?}, os.O_RDWR), 1); sys.stdin.read(); print('{{\"unharmed\": true}}')",
        fifo.display().to_string()
    );
    let mut python = Command::new("/usr/bin/python3.11");
    python.args(["-c", &program]);
    let mut service = Service::of(python);
    let pid = service.pid();
    let ended = run(&mut command([
        "trace", "--engine", "uprobes", "--agent", "--inject", "ptrace", "-p", &pid,
    ]));
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.stderr.contains("so it was not touched"), "{ended:?}");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("readable");
    assert!(!maps.contains("pystap"), "{maps}");
    fs::write(&fifo, "x").expect("written");
    assert_eq!(service.end()["unharmed"], true);
    is_cleaned_up();
}
