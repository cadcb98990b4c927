//! Threads, where there are some to be had. `std::thread::spawn` panics where there are none, which would leave a session half
//! begun; at the limit of a user or of a container that is no fault of ours, and has its message.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that does this.
///
/// # Errors
/// The system's, in a sentence with the next step.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().spawn(work).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "no thread can be had ({error}), and pystap needs some; raise the limit of processes (`ulimit -u`, TasksMax of a service, pids.max of a container), or make room"
            ),
        )
    })
}
