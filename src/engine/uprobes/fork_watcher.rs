//! A thread that waits for the children of targets and takes care of each as soon as the kernel reports it, however busy the
//! thread that collects records is. `arming.rs` says why it is needed.
//!
//! It has small rings of its own that wake it for each fork. A child with our agent in it joins first, and is told to
//! begin when it has its counter ([`Children`](crate::engine::Children)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::arming::Descendants;
use super::decode;
use crate::perf::{self, Purpose, Ring};
use crate::threads;

/// Bytes of a ring: some 250 births. Those for which there is no room are seen a little later, by the collector.
const SIZE: usize = 16 << 10;

/// The thread, which ends with this.
#[derive(Debug)]
pub(super) struct ForkWatcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ForkWatcher {
    /// Begins to watch on these processors. `None` when no more memory may be locked for rings.
    ///
    /// # Errors
    /// What the system says otherwise.
    pub(super) fn watch(
        processors: &[u32],
        descendants: Arc<Descendants>,
    ) -> io::Result<Option<ForkWatcher>> {
        let rings: io::Result<Vec<Ring>> = processors
            .iter()
            .map(|processor| Ring::new(*processor, SIZE, Purpose::ForkWatcher))
            .collect();
        let mut rings = match rings {
            Ok(rings) => rings,
            Err(error) if perf::is_limit(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let thread = threads::spawn(move || {
            let mut bytes = Vec::new();
            while wait(&rings, &stopped) {
                for ring in &mut rings {
                    bytes.clear();
                    ring.drain(&mut bytes);
                    for (pid, change) in decode::changes(&bytes) {
                        descendants.take(pid, &change);
                    }
                }
            }
        })?;
        Ok(Some(ForkWatcher {
            stop,
            thread: Some(thread),
        }))
    }
}

/// Waits for the next birth; false when there is nothing to wait for any longer.
fn wait(rings: &[Ring], stop: &OwnedFd) -> bool {
    let mut files = vec![PollFd::new(stop, PollFlags::IN)];
    files.extend(
        rings
            .iter()
            .map(|ring| PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)),
    );
    let _ = poll(&mut files, None);
    files.first().is_some_and(|stop| stop.revents().is_empty())
}

impl Drop for ForkWatcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
