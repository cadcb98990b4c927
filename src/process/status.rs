//! How a command ended.

use std::fmt;

use rustix::process::WaitStatus;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It exited with this status.
    Exited(u8),
    /// It was killed by this signal.
    Killed(u8),
}

impl Status {
    /// The status as a shell would report it: 128 and the number for a signal.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Status::Exited(code) => code,
            Status::Killed(signal) => signal.saturating_add(128),
        }
    }

    pub(super) fn of(status: WaitStatus) -> Option<Status> {
        let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
        status
            .exit_status()
            .map(|code| Status::Exited(byte(code)))
            .or_else(|| {
                status
                    .terminating_signal()
                    .map(|signal| Status::Killed(byte(signal)))
            })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exit status {code}"),
            Status::Killed(signal) => match signal_hook::low_level::signal_name(i32::from(*signal))
            {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}
