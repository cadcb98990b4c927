//! Namespaces of processes: whether one sees the same files as we do, and numbers processes as we do. Enters none.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A mount namespace, named by its inode number in nsfs; equal numbers are the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountNamespace(u64);

impl MountNamespace {
    /// The namespace of a process.
    ///
    /// # Errors
    ///
    /// The error from the system: permission denied for other users' processes, not found for ended ones.
    pub fn of_process(pid: u32) -> io::Result<MountNamespace> {
        at(&format!("/proc/{pid}/ns/mnt"))
    }

    /// Our own namespace.
    ///
    /// # Errors
    ///
    /// The error from the system, when /proc is not mounted.
    pub fn ours() -> io::Result<MountNamespace> {
        at("/proc/self/ns/mnt")
    }
}

fn at(link: &str) -> io::Result<MountNamespace> {
    fs::metadata(link).map(|metadata| MountNamespace(metadata.ino()))
}

/// Number of the first pid namespace, from which all others can be seen; fixed in the kernel (`PROC_PID_INIT_INO`).
pub(crate) const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The pid namespace of a process, by its ID or `self`: the link is `pid:[4026531836]`.
pub(crate) fn pid_namespace(process: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{process}/ns/pid")).ok()?;
    let text = link.to_str()?;
    text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// The threads of a process by their ID in its own namespace.
pub(crate) fn threads_inside(pid: u32, tasks: &[u32]) -> HashMap<u32, u32> {
    let numbers = |tid: u32| -> Option<Vec<u32>> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    // Threads share the namespace of their process: there is one number where that is ours.
    let is_ours = numbers(pid).is_none_or(|numbers| numbers.len() < 2);
    let own = |tid: u32| numbers(tid).and_then(|numbers| numbers.last().copied());
    tasks
        .iter()
        .map(|tid| match is_ours {
            true => (*tid, *tid),
            false => (own(*tid).unwrap_or(*tid), *tid),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::python::waiting::Waiting;

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_process_with_its_own_mounts_is_told_from_one_with_ours() {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes a mount namespace: run the tests as root"
        );
        let apart = Waiting::start(Command::new("unshare").args([
            "--mount",
            "sh",
            "-c",
            "echo ready; read line",
        ]));
        let along = Waiting::start(Command::new("sh").args(["-c", "echo ready; read line"]));
        let ours = MountNamespace::ours().expect("/proc");
        assert_ne!(
            MountNamespace::of_process(apart.pid()).expect("it runs"),
            ours
        );
        assert_eq!(
            MountNamespace::of_process(along.pid()).expect("it runs"),
            ours
        );
    }
}
