//! The process that a window is opened for.

use serde::{Deserialize, Serialize};

use super::WindowError;
use crate::process::{self, start_time};

/// A process that cannot be taken for another one that has got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct Target {
    pub(in crate::agent) pid: u32,
    /// Clock ticks since boot.
    pub(in crate::agent) start_time: u64,
}

impl Target {
    /// The process that has this number now.
    pub(in crate::agent) fn now(pid: u32) -> Result<Target, WindowError> {
        let start_time = start_time(pid).map_err(|error| WindowError::Memory(error.to_string()))?;
        let start_time = start_time.ok_or(WindowError::Gone)?;
        Ok(Target { pid, start_time })
    }

    /// Whether it is still there.
    pub(in crate::agent) fn is_there(self) -> bool {
        start_time(self.pid).ok().flatten() == Some(self.start_time)
    }
}

/// The threads of a process at this moment.
pub(super) fn threads(pid: u32) -> Result<Vec<nix::unistd::Pid>, WindowError> {
    let threads = process::threads(pid).map_err(|error| WindowError::Stop(error.to_string()))?;
    if threads.is_empty() {
        return Err(WindowError::Gone);
    }
    let numbers = threads
        .into_iter()
        .filter_map(|thread| i32::try_from(thread).ok());
    Ok(numbers.map(nix::unistd::Pid::from_raw).collect())
}
