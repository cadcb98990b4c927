//! A session of `pystap trace` in a test: started, waited for within bounds, its events read back with pystap's own
//! reader and checked against the schema. Every wait has a bound and a condition.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use pystap::event::json::{Line, Reader};
use pystap::event::{Event, ProcessChange, Session, Summary, What};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{command, end};

/// Long enough for anything at all in an emulated machine.
pub(crate) const BOUND: Duration = Duration::from_secs(180);

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(pystap::event::json_schema()).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
});

/// A running `pystap trace`. Dropping it stops it, so that a failing test does not disturb the next one.
#[derive(Debug)]
pub(crate) struct Tracing {
    child: Child,
    messages: Receiver<String>,
    said: Vec<String>,
    output: PathBuf,
    _directory: tempfile::TempDir,
}

/// A finished session.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) code: i32,
    pub(crate) session: Session,
    pub(crate) events: Vec<Event>,
    pub(crate) summary: Summary,
    /// What the launched command printed.
    pub(crate) stdout: String,
    /// What pystap printed, line by line.
    pub(crate) said: Vec<String>,
}

impl Tracing {
    /// Starts `pystap trace` with these arguments, writing events to a file of its own.
    pub(crate) fn start(arguments: &[&str]) -> Tracing {
        let directory = tempfile::tempdir().expect("a directory");
        let output = directory.path().join("events.json");
        let mut before: Vec<OsString> =
            vec!["trace".into(), "--output".into(), output.clone().into()];
        before.extend(arguments.iter().map(OsString::from));
        let child = session(&before)
            .stdout(fs::File::create(directory.path().join("stdout")).expect("made"))
            .spawn()
            .expect("pystap starts");
        Tracing::of(child, output, directory)
    }

    /// Starts `pystap trace` with these arguments, writing events to a pipe.
    pub(crate) fn to_pipe(arguments: &[&str]) -> (Tracing, std::io::PipeReader) {
        let directory = tempfile::tempdir().expect("a directory");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut before: Vec<OsString> = vec!["trace".into(), "--format=json".into()];
        before.extend(arguments.iter().map(OsString::from));
        let child = session(&before)
            .stdout(writer)
            .spawn()
            .expect("pystap starts");
        let output = directory.path().join("events.json");
        (Tracing::of(child, output, directory), reader)
    }

    fn of(mut child: Child, output: PathBuf, directory: tempfile::TempDir) -> Tracing {
        let (sender, messages) = unbounded();
        let stderr = child.stderr.take().expect("piped");
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Tracing {
            child,
            messages,
            said: Vec::new(),
            output,
            _directory: directory,
        }
    }

    /// Waits until pystap prints a line with these words.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + BOUND;
        while !self.said.iter().any(|line| line.contains(words)) {
            let line = self.messages.recv_deadline(deadline);
            let line = line.unwrap_or_else(|_| panic!("{words:?} was not said: {:#?}", self.said));
            // Compiling takes minutes in an emulated machine.
            assert!(
                !line.contains("compiling"),
                "a script is compiled that is not in SCRIPTS: {:?}",
                self.child
            );
            self.said.push(line);
        }
    }

    /// Waits until it is live.
    pub(crate) fn live(mut self) -> Tracing {
        self.wait_for("live, tracing");
        self
    }

    /// Waits until this many bytes of events were written.
    pub(crate) fn wait_for_output(&self, bytes: u64) {
        eventually("events are written", || {
            fs::metadata(&self.output).is_ok_and(|file| file.len() >= bytes)
        });
    }

    /// Whether this text is in the events written so far.
    pub(crate) fn has_written(&self, text: &str) -> bool {
        fs::read_to_string(&self.output).is_ok_and(|written| written.contains(text))
    }

    /// How many of the lines written so far have this text.
    pub(crate) fn lines_with(&self, text: &str) -> usize {
        let written = fs::read_to_string(&self.output).unwrap_or_default();
        written.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until pystap has nothing to do: for a second it uses hardly any CPU time.
    pub(crate) fn wait_until_idle(&self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let ticks = || {
            let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
            let stat = stat.expect("it runs");
            stat.utime + stat.stime
        };
        let last = Cell::new((ticks(), Instant::now()));
        eventually("it is idle", || {
            let (before, since) = last.get();
            let now = ticks();
            if now > before + 1 {
                last.set((now, Instant::now()));
            }
            since.elapsed() >= Duration::from_secs(1) && now <= before + 1
        });
    }

    /// pystap's process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to pystap.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end. Returns the exit code and what was printed.
    pub(crate) fn end(mut self) -> (i32, Vec<String>) {
        let Some(code) = end(&mut self.child, BOUND) else {
            panic!("pystap does not end; it said {:#?}", self.rest());
        };
        (code, self.rest())
    }

    /// Waits for its end and reads what it has written to its file.
    pub(crate) fn finish(mut self) -> Traced {
        let Some(code) = end(&mut self.child, BOUND) else {
            panic!("pystap does not end; it said {:#?}", self.rest());
        };
        let said = self.rest();
        let text = fs::read_to_string(&self.output)
            .unwrap_or_else(|error| panic!("no events ({error}): {said:#?}"));
        let stdout = fs::read_to_string(self.output.with_file_name("stdout"));
        read(&text, code, said, stdout.unwrap_or_default())
    }

    fn rest(&mut self) -> Vec<String> {
        self.said.extend(self.messages.iter());
        self.said.clone()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let process = Pid::from_child(&self.child);
        for signal in [Signal::INT, Signal::KILL] {
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = kill_process(process, signal);
                // A test may have stopped it.
                let _ = kill_process(process, Signal::CONT);
                let _ = end(&mut self.child, Duration::from_secs(20));
            }
        }
    }
}

fn session(arguments: &[OsString]) -> std::process::Command {
    let mut command = command(arguments.first());
    // A test can name the engine too.
    if let Some(engine) = engine().filter(|_| !arguments.iter().any(|word| word == "--engine")) {
        command.args(["--engine", &engine]);
    }
    command.args(arguments.iter().skip(1));
    // The cache of compiled scripts is found through it.
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    command.stderr(Stdio::piped());
    command
}

/// Runs `pystap trace` to its end.
pub(crate) fn trace(arguments: &[&str]) -> Traced {
    let mut tracing = Tracing::start(arguments);
    let code = end(&mut tracing.child, BOUND);
    let said = tracing.rest();
    // First: it is why others took long.
    assert!(
        !said.iter().any(|line| line.contains("compiling")),
        "a script is compiled that is not in SCRIPTS, or was forgotten: {arguments:?}: {said:#?}"
    );
    let Some(code) = code else {
        panic!("pystap does not end; it said {said:#?}");
    };
    assert_eq!(code, 0, "{said:#?}");
    tracing.finish()
}

/// Reads a whole stream. Long ones are only sampled against the schema: validation is what takes longest.
pub(crate) fn read(text: &str, code: i32, said: Vec<String>, stdout: String) -> Traced {
    let mut reader = Reader::new();
    let (mut session, mut summary, mut events) = (None, None, Vec::new());
    let every = text.len() / 1_000_000 + 1;
    for (number, line) in text.lines().enumerate() {
        assert!(summary.is_none(), "after the last line: {line}");
        if number % every == 0 {
            let value = serde_json::from_str(line).expect("JSON");
            let wrong: Vec<String> = SCHEMA
                .iter_errors(&value)
                .map(|wrong| wrong.to_string())
                .collect();
            assert!(wrong.is_empty(), "{line}: {wrong:?}");
        }
        let read = reader.read(line);
        match read.unwrap_or_else(|error| panic!("{line}: {error}")) {
            Line::Session(line) => assert!(session.replace(line).is_none() && number == 0),
            Line::Event(event) => events.push(event),
            Line::Summary(line) => summary = Some(line),
        }
    }
    let missing = |what: &str| format!("no {what} line: {said:#?}\n{text:.2000}");
    let traced = Traced {
        code,
        session: session.unwrap_or_else(|| panic!("{}", missing("session"))),
        summary: summary.unwrap_or_else(|| panic!("{}", missing("summary"))),
        events,
        stdout,
        said,
    };
    let lost = |event: &&Event| matches!(event.what, What::Lost { .. });
    let delivered = traced.events.iter().filter(|event| !lost(event)).count();
    assert_eq!(
        traced.summary.delivered, delivered as u64,
        "{:?}",
        traced.summary
    );
    traced
}

/// Which function events are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    In,
    Out,
}

impl Traced {
    /// Nothing was lost at any stage, and the session ended for this reason.
    pub(crate) fn complete(self, ended: &str) -> Traced {
        let summary = &self.summary;
        let lost = (summary.lost, summary.skipped, summary.unparsed);
        assert_eq!(lost, (0, 0, 0), "{summary:?} {:#?}", self.said);
        assert_eq!(summary.ended, ended, "{summary:?} {:#?}", self.said);
        assert_eq!(self.code, 0, "{:#?}", self.said);
        self
    }

    /// What the traced program says about itself: its last line.
    pub(crate) fn truth(&self) -> serde_json::Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:#?}", self.stdout, self.said))
    }

    /// Calls and returns in this file, in order: which, of what function, by which thread of which process.
    pub(crate) fn frames<'a>(
        &'a self,
        file: &'a str,
    ) -> impl Iterator<Item = (Way, &'a str, u32, u32)> + 'a {
        self.events.iter().filter_map(move |event| {
            let (way, place) = match &event.what {
                What::Call { place, .. } => (Way::In, place),
                What::Return { place, .. } => (Way::Out, place),
                _ => return None,
            };
            (place.file.text == file).then_some((
                way,
                place.function.text.as_str(),
                event.pid,
                event.tid,
            ))
        })
    }

    /// How often each function of a file was entered or left.
    pub(crate) fn counts(&self, file: &str, which: Way) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (way, function, ..) in self.frames(file) {
            if way == which {
                *counts.entry(function.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Processes that were reported to have changed in this way, in order.
    pub(crate) fn processes(&self, which: ProcessChange) -> Vec<u32> {
        self.events
            .iter()
            .filter(|event| matches!(event.what, What::Process { change, .. } if change == which))
            .map(|event| event.pid)
            .collect()
    }

    /// The launched command, or the one process that was attached to.
    pub(crate) fn target(&self) -> u32 {
        self.session.targets.first().expect("a target").pid
    }

    /// How many events were lost at this stage, as the stream says.
    pub(crate) fn lost_at(&self, wanted: pystap::event::LossStage) -> u64 {
        self.events
            .iter()
            .map(|event| match event.what {
                What::Lost { count, stage, .. } if stage == wanted => count,
                _ => 0,
            })
            .sum()
    }
}

/// Numbers by name, from a truth.
pub(crate) fn numbers(truth: &serde_json::Value) -> BTreeMap<String, u64> {
    let numbers = truth.as_object().expect("an object");
    numbers
        .iter()
        .map(|(name, number)| (name.clone(), number.as_u64().expect("a number")))
        .collect()
}

/// Waits for a condition, within [`BOUND`].
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// The engine that the tests are run with; `None` leaves the choice to pystap.
pub(crate) fn engine() -> Option<String> {
    std::env::var("PYSTAP_TEST_ENGINE").ok()
}

/// What sessions have in the kernel: stap's modules, groups of uprobe events.
pub(crate) fn armed() -> Vec<String> {
    let mut armed = modules();
    armed.extend(groups());
    armed
}

/// Groups of uprobe events that pystap created.
pub(crate) fn groups() -> Vec<String> {
    let definitions = fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default();
    let mut groups: Vec<String> = definitions
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once('/'))
        .map(|(group, _)| group.to_owned())
        .filter(|group| group.starts_with("pystap_"))
        .collect();
    groups.sort();
    groups.dedup();
    groups
}

/// Names of the loaded modules that stap made; empty if the kernel has no modules.
pub(crate) fn modules() -> Vec<String> {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    modules
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with("stap_"))
        .map(str::to_owned)
        .collect()
}

/// Process IDs of the running staprun and stapio; zombies do not count.
pub(crate) fn loaders() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| matches!(comm.trim_end(), "staprun" | "stapio" | "stap"))
                && pystap::process::runs(*pid)
        })
        .collect()
}

/// Directories of sessions.
pub(crate) fn directories() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("/run/pystap"));
    let entries = entries.into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    // The registry of agents' files stays; `live::agent::files` checks what is recorded there.
    paths.filter(|path| !path.ends_with("registry")).collect()
}

/// What the kernel reported of probes that it could not remove from a process as they had been inserted: they stay, and
/// so does their cost. Empty if the kernel's log cannot be read.
fn complaints() -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(log) = rustix::fs::open("/dev/kmsg", flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut record = [0; 8192];
    // One record per read; a record that was overwritten meanwhile is an error of its own.
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if text.contains("ref_ctr") || text.contains("leaking uprobe") {
                    found.push(text.into_owned());
                }
            }
            Err(Errno::PIPE) => {}
            Err(_) => return found,
        }
    }
}

/// Runs a test, after which everything that a session needs must be gone: module or probes, loader, directory. What was
/// there before, because an earlier test failed, is not held against it.
pub(crate) fn leaves_nothing(test: impl FnOnce()) {
    let before = (armed(), loaders(), directories());
    let heard = complaints();
    test();
    let mut complaints = complaints();
    complaints.retain(|complaint| !heard.contains(complaint));
    assert_eq!(complaints, Vec::<String>::new(), "the kernel complains");
    let (mut armed, mut loaders, mut directories) = (armed(), loaders(), directories());
    armed.retain(|name| !before.0.contains(name));
    loaders.retain(|pid| !before.1.contains(pid));
    directories.retain(|path| !before.2.contains(path));
    assert_eq!(armed, Vec::<String>::new(), "something is still armed");
    assert_eq!(loaders, Vec::<u32>::new(), "loaders still run");
    assert_eq!(directories, Vec::<PathBuf>::new(), "directories are left");
}
