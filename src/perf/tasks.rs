//! Counters for each thread of a process.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::{Inherit, id, keep_apart};
use crate::process::threads;

/// The counters of a process. They live as long as this.
#[derive(Debug, Default)]
pub(crate) struct Armed {
    /// All of them.
    pub(crate) counters: Vec<OwnedFd>,
    /// Threads that began meanwhile, with the numbers of their counters: they may have inherited others.
    pub(crate) late: Vec<(u32, Vec<u64>)>,
}

/// Makes counters for each thread of a process, those included that begin meanwhile. Where the processes that it makes
/// inherit them, theirs are kept apart.
///
/// # Errors
/// `ESRCH` when the process is gone, and whatever goes wrong with a thread other than its end.
pub(crate) fn each_thread(
    pid: u32,
    inherit: Inherit,
    mut arm: impl FnMut(u32) -> io::Result<Vec<OwnedFd>>,
) -> io::Result<Armed> {
    let gone = || io::Error::from(Errno::SRCH);
    let mut armed = Armed::default();
    let mut seen = HashSet::new();
    for round in 0.. {
        let before = seen.len();
        for thread in threads(pid)? {
            if !seen.insert(thread) {
                continue;
            }
            let apart = || match inherit {
                Inherit::Processes => keep_apart(thread).map(Some),
                Inherit::Threads | Inherit::Nothing => Ok(None),
            };
            match apart().and_then(|apart| Ok((apart, arm(thread)?))) {
                Ok((apart, counters)) => {
                    armed.counters.extend(apart);
                    if round > 0 {
                        let ids: io::Result<_> =
                            counters.iter().map(|counter| id(counter.as_fd())).collect();
                        armed.late.push((thread, ids?));
                    }
                    armed.counters.extend(counters);
                }
                Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        if seen.len() == before {
            break;
        }
    }
    if armed.counters.is_empty() {
        return Err(gone());
    }
    Ok(armed)
}

/// Lets us have as many descriptors as we may.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If not, there are fewer.
    let _ = setrlimit(Resource::Nofile, limit);
}
