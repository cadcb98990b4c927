//! The way in that has to be asked for: gdb stops a process and calls functions in it. Only at a safe point: a thread that is
//! about to enter one of a few functions of CPython's which are called with the GIL held and no lock of the allocator, so
//! that loading a library, which allocates, cannot wait for what nobody will release.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};

/// Functions at whose entry the GIL is held. All are part of the API, and so found in stripped interpreters, too. A stop
/// alone makes an idle event loop come to the first one.
const SAFE: [&str; 7] = [
    "PyErr_CheckSignals",
    "PyMem_Malloc",
    "PyMem_Free",
    "PyMem_Realloc",
    "PyObject_Malloc",
    "PyObject_Free",
    "PyCallable_Check",
];
/// How long gdb may take to read symbols and to reach a safe point.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long gdb may take to let go.
const LEAVING: Duration = Duration::from_secs(10);
/// What our own lines in its output begin with.
const MARK: &str = "pystap-agent:";

/// Why gdb did not bring the agent in.
#[derive(Debug, thiserror::Error)]
pub enum GdbError {
    /// It did not start, or its output could not be read.
    #[error("gdb does not start ({0})")]
    Start(io::Error),
    /// It never stopped at a safe point.
    #[error("it came to no safe point within {seconds} s, and gdb has let it go", seconds = PATIENCE.as_secs())]
    NoSafePoint,
    /// The library was refused.
    #[error("it could not load the library: {0}")]
    Load(String),
    /// The agent did not start.
    #[error("the agent did not start in it; it is no CPython 3.9 to 3.15 with its GIL")]
    Refused,
    /// gdb failed by itself.
    #[error("gdb failed: {0}")]
    Failed(String),
}

/// Loads the library into a process and starts the agent in it, which then waits for us.
pub(super) fn inject(pid: u32, library: &Path) -> Result<(), GdbError> {
    let library = library.to_string_lossy();
    // It stands in a line of gdb's language.
    if library.chars().any(char::is_control) {
        return Err(GdbError::Load("its path has control characters".to_owned()));
    }
    let mut lines: Vec<String> = [
        "set pagination off",
        "set confirm off",
        "set breakpoint pending on",
        "set auto-solib-add on",
        "handle all nostop noprint pass",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.extend(SAFE.iter().map(|function| format!("break {function}")));
    lines.extend([
        "continue".to_owned(),
        "delete breakpoints".to_owned(),
        format!(
            "set $pystap = ((void *(*)(const char *, int)) dlopen)(\"{}\", 2)",
            library.replace('\\', "\\\\").replace('"', "\\\"")
        ),
        "if $pystap == 0".to_owned(),
        format!("printf \"{MARK} dlopen %s\\n\", ((char *(*)(void)) dlerror)()"),
        "else".to_owned(),
        "set $pystap = ((int (*)(int)) pystap_agent_start)(0)".to_owned(),
        format!("printf \"{MARK} started %d\\n\", $pystap"),
        "end".to_owned(),
        "detach".to_owned(),
        "quit".to_owned(),
    ]);
    // In memory: a file in a directory that is everybody's could be somebody else's link.
    let mut script: File = memfd_create(c"pystap-gdb", MemfdFlags::CLOEXEC)
        .map_err(|error| GdbError::Start(error.into()))?
        .into();
    script
        .write_all(lines.join("\n").as_bytes())
        .map_err(GdbError::Start)?;
    let place = format!("/proc/{}/fd/{}", std::process::id(), script.as_raw_fd());
    run(pid, Path::new(&place))
}

fn run(pid: u32, script: &Path) -> Result<(), GdbError> {
    let mut child = Command::new("gdb")
        .args(["--nx", "--batch", "-iex", "set auto-load off"])
        .args(["-iex", "set debuginfod enabled off", "-p"])
        .arg(pid.to_string())
        .arg("-x")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(GdbError::Start)?;
    // Read on a thread of its own: what gdb says of symbols may be more than a pipe holds.
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stdout) = stdout {
            let _ = stdout.read_to_string(&mut text);
        }
        text
    });
    let mut end = Instant::now() + PATIENCE;
    let mut late = false;
    while child.try_wait().map_err(GdbError::Start)?.is_none() {
        if Instant::now() >= end {
            // It removes its breakpoints and detaches, and at last the kernel does.
            let signal = if late { Signal::KILL } else { Signal::TERM };
            let _ = kill_process(Pid::from_child(&child), signal);
            late = true;
            end = Instant::now() + LEAVING;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let said = reader.join().unwrap_or_default();
    let ours = said.lines().find_map(|line| {
        let at = line.find(MARK)?;
        Some(line.get(at + MARK.len()..)?.trim())
    });
    match ours {
        Some("started 0") => Ok(()),
        Some(other) => match other.strip_prefix("dlopen ") {
            Some(reason) => Err(GdbError::Load(reason.to_owned())),
            None => Err(GdbError::Refused),
        },
        None if late => Err(GdbError::NoSafePoint),
        None => Err(GdbError::Failed(
            said.lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("it said nothing")
                .to_owned(),
        )),
    }
}
