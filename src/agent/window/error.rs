//! Why a window did not do what it was to do, and how long one may be open.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a process may be stopped.
pub(in crate::agent) const LONGEST: Duration = Duration::from_millis(100);

/// Why a window did not do what it was to do. The process goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum WindowError {
    /// No such process any longer.
    #[error("it has ended")]
    Gone,
    /// Somebody else has it by ptrace.
    #[error("process {tracer} traces it already (a debugger, strace), and only one can")]
    Traced {
        /// The other one.
        tracer: u32,
    },
    /// Its memory is closed to us.
    #[error("its memory cannot be accessed ({0})")]
    Memory(String),
    /// ptrace said no.
    #[error("it cannot be stopped for a moment ({0})")]
    Stop(String),
    /// The watchdog had to end the window.
    #[error(
        "it could not be stopped within {} ms (it is in a wait that nothing interrupts, or the machine is busy), and the kernel let it go on",
        LONGEST.as_millis()
    )]
    Late,
    /// Its memory does not hold what it should.
    #[error("its list of threads makes no sense")]
    Damaged,
    /// It has no thread that could run anything.
    #[error("it has no Python thread")]
    NoThread,
    /// Another debugger was first.
    #[error(
        "another debugger has asked each of its threads to run {script}, which has not happened yet"
    )]
    Occupied {
        /// The script, made printable.
        script: String,
    },
    /// No thread was found where a call may be put in.
    #[error(
        "none of its threads came to a place where a call does no harm within {seconds} s, so it was not touched"
    )]
    NoSafePlace {
        /// How long was looked.
        seconds: u64,
    },
    /// Nobody wants it any longer.
    #[error("it is not wanted any longer")]
    Cancelled,
    /// The child failed.
    #[error("the helper process that does it failed ({0})")]
    Helper(String),
}

impl WindowError {
    /// Whether it may be otherwise a moment later.
    pub(super) fn is_passing(&self) -> bool {
        *self == WindowError::Late
    }
}
