//! Windows: the moments in which we have a process, or one of its threads, stopped.
//!
//! Whatever stops a process runs in a short-lived child of pystap's (`pystap window`, hidden), which gets what it has to do
//! as one line of JSON and answers with another. Everything that takes time is found out before, outside. The child is in a
//! process group of its own, where a SIGSTOP for pystap's job or a Ctrl-C does not reach it, has one thread, and asks the
//! kernel for its own end: a timer that sends it SIGKILL after [`LONGEST`] ([`watchdog`]). The kernel lets the tracees of a
//! tracer go that ends, whether that was stopped, frozen or forgotten. So no process is stopped for longer, whatever
//! becomes of pystap and of the child.
//!
//! That works because nothing here asks for `PTRACE_O_EXITKILL`, so it does not matter who is stopped, frozen or
//! killed, pystap or its child.
//!
//! What must be fresh is read again inside, in few system calls. All threads are interrupted, and none that is in the
//! kernel is waited for: it comes back to user space only through its stop (`held` says why that is certain).

mod call;
mod error;
mod held;
mod memory;
mod request;
#[cfg(target_arch = "x86_64")]
mod state;
mod target;
mod watchdog;

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

pub(super) use call::{Call, Place, Reached};
pub(super) use error::LONGEST;
pub use error::WindowError;
pub(super) use held::{tracer, tracer_in};
pub(super) use memory::Memory;
pub(super) use request::{HIGHEST, Offsets, Request, Wish};
pub(super) use target::Target;

/// How long a child may take before it stops anything, and to end: it waits for a processor, as everybody.
const OVERHEAD: Duration = Duration::from_secs(5);
/// How often a caller that waits for a child checks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// Most bytes of an answer.
const LARGEST_ANSWER: u64 = 1 << 16;

/// What a child has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// PEP 768: stops all threads.
    Request(Request),
    /// A call of a function: stops one thread.
    Call(Call),
}

/// The result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Done {
    /// For [`Job::Request`].
    Requested {
        /// The script that another debugger has asked some threads to run; those were left alone.
        other: Option<String>,
        /// How long the first of its threads had been stopped when the answer was written.
        stopped: Duration,
    },
    /// For [`Job::Call`].
    Called(Reached),
}

/// A child that answers what it was not asked.
pub(super) fn mistaken() -> WindowError {
    WindowError::Helper("it did something else".to_owned())
}

/// Least number of attempts for a process that did not stop in time.
const ATTEMPTS: usize = 3;

/// Has a child do a job that takes at most `patience`, in addition to what a window takes. `cancelled` is polled now
/// and then. A window that was too short is opened again, as long as there is time.
///
/// # Errors
/// [`WindowError`].
pub(super) fn run(
    job: &Job,
    patience: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<Done, WindowError> {
    let mut last = WindowError::Late;
    let end = Instant::now() + patience;
    for attempt in 0.. {
        if attempt >= ATTEMPTS && Instant::now() >= end {
            break;
        }
        if attempt > 0 {
            // Lets the process catch up before it is stopped again.
            std::thread::park_timeout(LONGEST);
        }
        match once(job, patience, cancelled) {
            Err(error) if error.is_passing() => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// A child process. It ends when this is dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // That releases whatever it has stopped. If it has already ended, it is only reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn once(job: &Job, patience: Duration, cancelled: &dyn Fn() -> bool) -> Result<Done, WindowError> {
    let failed = |reason: std::io::Error| WindowError::Helper(reason.to_string());
    let mut line = serde_json::to_vec(job).map_err(|reason| failed(reason.into()))?;
    line.push(b'\n');
    let child = Command::new("/proc/self/exe")
        .arg("window")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut helper = Helper(child);
    let (Some(mut input), Some(mut output)) = (helper.0.stdin.take(), helper.0.stdout.take())
    else {
        return Err(WindowError::Helper("it has no pipes".to_owned()));
    };
    // Fits into a pipe, so this does not block. A child that has ended shows below.
    let _ = input.write_all(&line);
    drop(input);
    let end = Instant::now() + patience + LONGEST + OVERHEAD;
    let mut answer = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(LOOK);
        let left = Timespec::try_from(left).unwrap_or_default();
        let mut waited = [PollFd::new(&output, PollFlags::IN)];
        let ready = poll(&mut waited, Some(&left)).unwrap_or(0);
        if ready > 0 {
            let mut piece = [0; 4096];
            let read = output.read(&mut piece).map_err(failed)?;
            answer.extend_from_slice(piece.get(..read).unwrap_or_default());
            if read == 0 || answer.len() as u64 > LARGEST_ANSWER {
                break;
            }
        } else if cancelled() {
            return Err(WindowError::Cancelled);
        } else if Instant::now() >= end {
            return Err(WindowError::Helper("it does not end".to_owned()));
        }
    }
    // It has closed its output, so it does nothing more.
    if let Ok(done) = serde_json::from_slice::<Result<Done, WindowError>>(&answer) {
        return done;
    }
    let status = helper.0.wait().map_err(failed)?;
    Err(match status.signal() {
        Some(signal) if signal == rustix::process::Signal::KILL.as_raw() => WindowError::Late,
        _ => WindowError::Helper(status.to_string()),
    })
}

/// Runs `pystap window`: reads a job, does it and answers. Returns the exit status.
pub fn serve() -> u8 {
    let mut line = Vec::new();
    if std::io::stdin()
        .take(LARGEST_ANSWER)
        .read_to_end(&mut line)
        .is_err()
    {
        return 1;
    }
    let Ok(job) = serde_json::from_slice::<Job>(&line) else {
        return 1;
    };
    // The sooner it gets a CPU, the shorter the window. This may not be permitted.
    let _ = rustix::process::setpriority_process(None, -20);
    let done = match &job {
        Job::Request(request) => request
            .fulfil()
            .map(|(other, stopped)| Done::Requested { other, stopped }),
        Job::Call(call) => call.place().map(Done::Called),
    };
    let Ok(mut answer) = serde_json::to_vec(&done) else {
        return 1;
    };
    answer.push(b'\n');
    u8::from(std::io::stdout().write_all(&answer).is_err())
}
