//! Runs the built pystap to its end. For commands that end by themselves; sessions are in `live`.

use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pystap::probe::EventKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The interpreter that every host of these tests has: Debian's, with all eight marks.
pub(crate) const PYTHON: &str = "/usr/bin/python3.11";

/// Far longer than anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// The same of stap, which compiles a module for most of a minute when the machine is a slow one.
pub(crate) const COMPILING: Duration = Duration::from_secs(600);

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The single line of an error, without its prefix. Panics when there is more, or anything on stdout.
    pub(crate) fn only_error(&self) -> &str {
        assert_eq!(self.stdout, "", "{self:?}");
        let message = self
            .stderr
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("pystap: error: "))
            .unwrap_or_else(|| panic!("not an error of one line: {self:?}"));
        assert!(!message.contains('\n'), "{self:?}");
        message
    }
}

/// The pystap to test: beside the programs, where `tests/guest/run` puts it, or the one that cargo has built.
pub(crate) fn pystap() -> PathBuf {
    match std::env::var_os("PYSTAP_TEST_ROOT") {
        Some(root) => PathBuf::from(root).join("pystap"),
        None => PathBuf::from(env!("CARGO_BIN_EXE_pystap")),
    }
}

/// A file of the repository, or of the copy that `tests/guest/run` makes.
pub(crate) fn file(path: &str) -> String {
    let root =
        std::env::var_os("PYSTAP_TEST_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = PathBuf::from(root).join(path);
    assert!(path.exists(), "{} is missing", path.display());
    path.to_string_lossy().into_owned()
}

/// A file that tests/X/install has got, as `X/…`.
pub(crate) fn installed(path: &str) -> PathBuf {
    let named = |variable| std::env::var_os(variable).map(PathBuf::from);
    let home = named("PYSTAP_GUEST_DIR")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("pystap-guest")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/pystap-guest")));
    let file = home.expect("a home").join(path);
    let by = path.split('/').next().expect("a directory");
    assert!(file.exists(), "{file:?}: tests/{by}/install gets it");
    file
}

/// pystap with these arguments, away from the user's own templates and caches, its messages without colour.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(pystap());
    command
        .args(arguments)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HOME")
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end and collects what it prints.
pub(crate) fn run(command: &mut Command) -> Ended {
    run_within(BOUND, command)
}

/// The same, for what may take so long.
pub(crate) fn run_within(bound: Duration, command: &mut Command) -> Ended {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let code = end(&mut child, bound);
    let code = code.unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} did not end within {bound:?}")
    });
    Ended {
        code,
        stdout: stdout.join().expect("no panic"),
        stderr: stderr.join().expect("no panic"),
    }
}

/// Runs pystap with these arguments; returns the outcome and its peak memory in kilobytes.
pub(crate) fn measured(arguments: &[&str]) -> (Ended, u64) {
    // Python knows what its child used; Rust's standard library does not.
    const WAIT: &str = "import resource, subprocess, sys\n\
        code = subprocess.call(sys.argv[2:])\n\
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=open(sys.argv[1], 'w'))\n\
        sys.exit(code)";
    let place = tempfile::NamedTempFile::new().expect("a file");
    let pystap = command(arguments);
    let mut waiting = Command::new(PYTHON);
    waiting
        .args(["-c", WAIT])
        .arg(place.path())
        .arg(pystap.get_program())
        .args(pystap.get_args())
        .stdin(Stdio::null());
    for (name, value) in pystap.get_envs() {
        match value {
            Some(value) => waiting.env(name, value),
            None => waiting.env_remove(name),
        };
    }
    let ended = run(&mut waiting);
    let said = std::fs::read_to_string(place.path()).expect("written");
    let kilobytes = said.trim().parse().unwrap_or_else(|_| panic!("{ended:?}"));
    (ended, kilobytes)
}

/// Runs pystap with these arguments.
pub(crate) fn pystap_with(arguments: &[&str]) -> Ended {
    run(&mut command(arguments))
}

/// Kinds of events that an interpreter can provide, judging by its marks.
pub(crate) fn kinds(interpreter: &str) -> Vec<&'static str> {
    let listed = pystap_with(&["marks", "--json", interpreter]);
    assert_eq!(listed.code, 0, "{listed:?}");
    let images: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let images = images.as_array().expect("a list");
    let marks: Vec<&str> = images
        .iter()
        .flat_map(|image| image["marks"].as_array().expect("marks"))
        .filter_map(|mark| mark["name"].as_str())
        .collect();
    let kinds = EventKind::ALL.into_iter();
    kinds
        .filter(|kind| kind.is_possible(|probe| marks.contains(&probe.name())))
        .map(EventKind::name)
        .collect()
}

/// The exit code of a child, 128 plus the number for a signal, if it ends within the bound.
pub(crate) fn end(child: &mut Child, bound: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    if let Ok(None) = child.try_wait() {
        let process =
            pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("it is not reaped");
        let bound = Timespec::try_from(bound).expect("short");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&bound));
        if ended.expect("polled") == 0 {
            return None;
        }
    }
    let status = child.wait().expect("waited");
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
}

/// A Python process that waits; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Child);

impl Waiting {
    /// Starts it and waits until Python runs in it.
    pub(crate) fn start(interpreter: impl AsRef<OsStr>) -> Waiting {
        let mut child = Command::new(interpreter)
            .arg(file("tests/programs/waits.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let mut ready = [0; 6];
        let output = child.stdout.as_mut().expect("piped");
        output.read_exact(&mut ready).expect("it says ready");
        Waiting(child)
    }

    /// Its process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut pipe = pipe.expect("piped");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
