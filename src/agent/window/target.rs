//! The process that a window is opened for.

use std::fs;

use serde::{Deserialize, Serialize};

use super::WindowError;
use crate::process::start_time;

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
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| WindowError::Gone)?;
    let names: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let names = names.map_err(|_| WindowError::Gone)?;
    let number = |name: &std::ffi::OsString| name.to_str()?.parse().ok();
    Ok(names
        .iter()
        .filter_map(number)
        .map(nix::unistd::Pid::from_raw)
        .collect())
}
