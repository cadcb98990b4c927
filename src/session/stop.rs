//! Why a session ends, and the requests that it end: signals, and the time that it was given.
//!
//! # What ends a session, and what follows
//!
//! | what happens | what follows |
//! |---|---|
//! | Ctrl-C, SIGTERM, SIGHUP, `--duration`, `--max-events`, end of the targets | the engine disarms and hands on what is still on its way; then the summary |
//! | the same, with stap | the module is silenced and its buffers are read empty; SIGINT to staprun, which unloads the module |
//! | the same, with uprobes | the counters are closed, the rings read empty, the definitions removed |
//! | the module does not answer: nothing came for five seconds | SIGINT to staprun all the same; what was on its way may be lost, and the summary says so |
//! | the output is closed or full | the same end without a summary; closed is no failure, full is |
//! | another Ctrl-C, or a minute without an end | the next step at once: SIGINT, SIGTERM, SIGKILL to staprun's process group, then `staprun -d` for the module |
//! | a reader that stalls while we stop | the output is given up after three seconds |
//! | pystap is killed | the kernel disarms uprobe events at once; a module sees within half a second that its owner is gone and ends the session; a held command dies with its parent; the next pystap removes directory and module by what the workspace noted (a lock tells a dead session from a living one) |
//! | a launched command while it is held | killed with us; after its release it is left alone |

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::Status;
use crate::threads;

/// How long a blocked output may hold up a stop.
const GRACE: Duration = Duration::from_secs(3);

/// Before the end, what is too little for a table of its own.
const NEARLY: Duration = Duration::from_millis(50);

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM or SIGHUP.
    Terminated,
    /// `--duration` has passed.
    Duration,
    /// `--max-events` were written.
    MaxEvents,
    /// The last target has ended.
    TargetsEnded,
    /// Nobody reads our output any longer.
    OutputClosed,
    /// Our output cannot be written.
    OutputFailed,
    /// The engine failed.
    EngineFailed,
}

impl Stop {
    /// The word in the summary.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Stop::Interrupted => "interrupted",
            Stop::Terminated => "terminated",
            Stop::Duration => "duration",
            Stop::MaxEvents => "max_events",
            Stop::TargetsEnded => "targets_ended",
            Stop::OutputClosed => "output_closed",
            Stop::OutputFailed => "output_failed",
            Stop::EngineFailed => "engine_failed",
        }
    }

    /// With what the last words begin. `command` is how the command ended that was launched.
    pub(crate) fn said(self, command: Option<Status>) -> String {
        match self {
            Stop::Interrupted | Stop::Terminated => "stopped".to_owned(),
            Stop::Duration => "time is up".to_owned(),
            Stop::MaxEvents => "event limit reached".to_owned(),
            Stop::TargetsEnded => match command {
                Some(status @ Status::Killed(_)) => format!("the target was {status}"),
                _ => "the target ended".to_owned(),
            },
            Stop::OutputClosed => "output closed".to_owned(),
            Stop::OutputFailed | Stop::EngineFailed => "failed".to_owned(),
        }
    }
}

/// Requests to stop from outside, and what to do about an output that blocks meanwhile.
#[derive(Debug)]
pub(crate) struct StopSignals {
    requests: Receiver<Stop>,
    sender: Sender<Stop>,
    give_up: Arc<AtomicBool>,
    /// When the time is up that the session was given.
    end: OnceLock<Instant>,
}

/// Becomes true when whoever asked us to stop shall not wait any longer for an output that blocks. Signals are of the
/// process, and so is this.
static GIVE_UP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Becomes true when an output that blocks is to be given up.
pub(crate) fn give_up() -> Arc<AtomicBool> {
    Arc::clone(&GIVE_UP)
}

/// Ends a session without a signal, and without giving up its output.
#[derive(Debug, Clone)]
pub(crate) struct Stopper(Sender<Stop>);

impl Stopper {
    /// Asks for a stop.
    pub(crate) fn stop(&self) {
        // Fails where nobody listens any longer.
        let _ = self.0.send(Stop::Interrupted);
    }
}

impl StopSignals {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        let (sender, requests) = unbounded();
        let give_up = give_up();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let stops = StopSignals {
            requests,
            sender: sender.clone(),
            give_up: Arc::clone(&give_up),
            end: OnceLock::new(),
        };
        threads::spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                let stop = if signal == SIGINT {
                    Stop::Interrupted
                } else {
                    Stop::Terminated
                };
                request(&sender, stop, &give_up, count > 0);
            }
        })?;
        Ok(stops)
    }

    /// Requests to stop.
    pub(crate) fn requests(&self) -> &Receiver<Stop> {
        &self.requests
    }

    /// What asks for a stop from within.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Asks for a stop after this time.
    pub(crate) fn after(&self, duration: Duration) -> io::Result<()> {
        let (sender, give_up) = (self.sender.clone(), Arc::clone(&self.give_up));
        let end = Instant::now() + duration;
        let _ = self.end.set(end);
        threads::spawn(move || {
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
            request(&sender, Stop::Duration, &give_up, false);
        })?;
        Ok(())
    }

    /// Whether the time is as good as up: a table that is due now would be the last one, twice.
    pub(crate) fn time_is_up(&self) -> bool {
        self.end
            .get()
            .is_some_and(|end| Instant::now() + NEARLY >= *end)
    }
}

fn request(sender: &Sender<Stop>, stop: Stop, give_up: &Arc<AtomicBool>, at_once: bool) {
    let _ = sender.send(stop);
    let give_up = Arc::clone(give_up);
    if at_once {
        give_up.store(true, Ordering::Relaxed);
        return;
    }
    // Without one a second request gives it up.
    let _ = threads::spawn(move || {
        let end = Instant::now() + GRACE;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        give_up.store(true, Ordering::Relaxed);
    });
}

#[cfg(test)]
impl StopSignals {
    /// Nobody asks for a stop.
    pub(crate) fn none() -> StopSignals {
        let (sender, requests) = unbounded();
        StopSignals {
            requests,
            sender,
            give_up: Arc::default(),
            end: OnceLock::new(),
        }
    }
}
