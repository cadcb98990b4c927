//! Windows: the moments in which a process, or a thread of it, is stopped by us.
//!
//! Whatever stops a process runs in a short-lived child of pystap's (`pystap window`, hidden), which gets what it has to do
//! as one line of JSON and answers with another. Everything that takes time is found out before, outside. The child is in a
//! process group of its own, where a SIGSTOP for pystap's job or a Ctrl-C does not reach it, has one thread, and asks the
//! kernel for its own end: a timer that sends it SIGKILL after [`LONGEST`] ([`watchdog`]). The kernel lets the tracees of a
//! tracer go that ends, whether that was stopped, frozen or forgotten. So no process is stopped for longer, whatever
//! becomes of pystap and of the child.

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
/// How often somebody who waits for a child looks whether that is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// What an answer has at most.
const LARGEST_ANSWER: u64 = 1 << 16;

/// What a child has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// PEP 768: stops all threads.
    Request(Request),
    /// A call of a function: stops one thread.
    Call(Call),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Done {
    /// Of [`Job::Request`].
    Requested {
        /// The script that another debugger has asked some threads to run, which were left alone.
        other: Option<String>,
        /// How long the first of its threads was stopped when the answer was written.
        stopped: Duration,
    },
    /// Of [`Job::Call`].
    Called(Reached),
}

/// A child that answers what it was not asked.
pub(super) fn mistaken() -> WindowError {
    WindowError::Helper("it did something else".to_owned())
}

/// How often a process is stopped anew, at least, that did not stop in time.
const ATTEMPTS: usize = 3;

/// Has a child do something that takes this long at most, beside what a window takes. `cancelled` is asked now and then.
/// A window that was too short is opened again, as long as there is time.
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
            // It has something to make up for.
            std::thread::park_timeout(LONGEST);
        }
        match once(job, patience, cancelled) {
            Err(error) if error.is_passing() => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// A child. However its use ends, it does.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // Whatever it has stopped goes on by that. One that has ended is only reaped.
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
    // What fits into a pipe: this does not wait. One that has ended says so below.
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
    // It has closed its output, and so does nothing any longer.
    if let Ok(done) = serde_json::from_slice::<Result<Done, WindowError>>(&answer) {
        return done;
    }
    let status = helper.0.wait().map_err(failed)?;
    Err(match status.signal() {
        Some(signal) if signal == rustix::process::Signal::KILL.as_raw() => WindowError::Late,
        _ => WindowError::Helper(status.to_string()),
    })
}

/// What `pystap window` does: reads a job, does it and answers. The exit status.
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
    // The sooner it gets a processor, the shorter the window. It may not be allowed to.
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
