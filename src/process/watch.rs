//! Reports when processes end, by pidfd: no polling, no confusion by reused process IDs. Reaps nothing; that is for the
//! parent of a process to do.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::TargetError;

/// A set of processes whose end is awaited.
///
/// All methods take `&self`: processes may be added from one thread while another waits. One thread should wait.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    watched: Mutex<HashMap<u32, OwnedFd>>,
}

/// How many exits are fetched with one system call. More wait in the kernel.
const AT_ONCE: usize = 64;

impl Watch {
    /// Starts with no process.
    ///
    /// # Errors
    ///
    /// [`TargetError::Watching`] when the process has too many files open.
    pub fn new() -> Result<Watch, TargetError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(watching)?;
        Ok(Watch {
            epoll,
            watched: Mutex::default(),
        })
    }

    /// Adds the process with this ID and start time (clock ticks since boot, as in [`super::Process::start_time`]).
    /// `false` when it has already ended, even if its ID has been reused.
    ///
    /// # Errors
    ///
    /// [`TargetError::Watch`] when the kernel gives no pidfd.
    pub fn add(&self, pid: u32, start_time: u64) -> Result<bool, TargetError> {
        let failed = |errno: Errno| TargetError::Watch {
            pid,
            reason: errno.into(),
        };
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(false);
        };
        let handle = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        // The handle is bound to whichever process has the ID now; only then is it worth asking which one that is.
        let now = super::start_time(pid).map_err(|error| TargetError::Watch {
            pid,
            reason: io::Error::other(error),
        })?;
        if now != Some(start_time) {
            return Ok(false);
        }
        let mut watched = self.watched();
        if watched.contains_key(&pid) {
            return Ok(true);
        }
        let data = epoll::EventData::new_u64(u64::from(pid));
        epoll::add(&self.epoll, &handle, data, epoll::EventFlags::IN).map_err(failed)?;
        watched.insert(pid, handle);
        Ok(true)
    }

    /// Whether this process is in the set.
    #[must_use]
    pub fn watches(&self, pid: u32) -> bool {
        self.watched().contains_key(&pid)
    }

    /// How many of the processes have not been reported as ended.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.watched().len()
    }

    /// Waits until at least one process has ended, and removes and returns all that have. Empty after `timeout`, after
    /// a signal was caught (so that the caller can check what its handler noted), and at once when no process is
    /// watched. `None` waits without limit.
    ///
    /// # Errors
    ///
    /// [`TargetError::Watching`] when the kernel refuses to wait.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<u32>, TargetError> {
        if self.remaining() == 0 {
            return Ok(Vec::new());
        }
        let timeout = timeout.map(|timeout| {
            Timespec::try_from(timeout).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut events = Vec::with_capacity(AT_ONCE);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(watching(errno)),
        }
        let mut watched = self.watched();
        Ok(events
            .into_iter()
            .filter_map(|event| u32::try_from({ event.data }.u64()).ok())
            // Closing the handle removes it from the epoll set.
            .filter(|pid| watched.remove(pid).is_some())
            .collect())
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<u32, OwnedFd>> {
        // The map is consistent between calls, so a panic elsewhere does not corrupt it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Watch {
    /// Readable when [`Watch::wait`] has something to report.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn watching(errno: Errno) -> TargetError {
    TargetError::Watching {
        reason: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::process::start_time;
    use crate::python::waiting::{PYTHON, Waiting};

    const BOUND: Option<Duration> = Some(Duration::from_secs(20));

    fn waiting() -> (Waiting, u64) {
        let process = Waiting::python(Path::new(PYTHON), &["x"]);
        let start_time = start_time(process.pid()).expect("asked").expect("it runs");
        (process, start_time)
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn the_end_of_each_process_is_reported_once() {
        let ((mut one, since_one), (mut two, since_two)) = (waiting(), waiting());
        let watch = Watch::new().expect("a watch");
        assert!(watch.add(one.pid(), since_one).expect("added"));
        assert!(watch.add(two.pid(), since_two).expect("added"));
        assert_eq!(watch.remaining(), 2);
        one.end();
        assert_eq!(watch.wait(BOUND).expect("waited"), [one.pid()]);
        assert_eq!(watch.remaining(), 1);
        two.leave_zombie();
        assert_eq!(watch.wait(BOUND).expect("waited"), [two.pid()]);
        assert_eq!(watch.remaining(), 0);
        assert_eq!(watch.wait(None).expect("waited"), Vec::<u32>::new());
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_timeout_reports_nobody() {
        let (process, since) = waiting();
        let watch = Watch::new().expect("a watch");
        watch.add(process.pid(), since).expect("added");
        assert_eq!(
            watch.wait(Some(Duration::ZERO)).expect("waited"),
            Vec::<u32>::new()
        );
        assert_eq!(watch.remaining(), 1);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_process_that_has_the_id_of_an_ended_one_is_not_watched() {
        let (mut process, since) = waiting();
        let watch = Watch::new().expect("a watch");
        assert!(
            !watch.add(process.pid(), since - 1).expect("asked"),
            "another process had this id"
        );
        process.end();
        assert!(
            !watch.add(process.pid(), since).expect("asked"),
            "it has ended"
        );
        assert_eq!(watch.remaining(), 0);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn adding_a_process_twice_watches_it_once() {
        let (process, since) = waiting();
        let watch = Watch::new().expect("a watch");
        assert!(watch.add(process.pid(), since).expect("added"));
        assert!(watch.add(process.pid(), since).expect("added"));
        assert_eq!(watch.remaining(), 1);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_process_that_is_added_while_another_thread_waits_is_reported_there() {
        let ((keeps_running, since), (mut added, since_added)) = (waiting(), waiting());
        let watch = Watch::new().expect("a watch");
        watch.add(keeps_running.pid(), since).expect("added");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| watch.wait(BOUND));
            assert!(watch.add(added.pid(), since_added).expect("added"));
            added.end();
            let ended = waiter.join().expect("no panic").expect("waited");
            assert_eq!(ended, [added.pid()]);
        });
    }
}
