//! Threads, if they can be had. `std::thread::spawn` panics when they cannot, which would leave a session half started;
//! at the limit of a user or of a container that is no fault of ours, and gets a message.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that runs this function.
///
/// # Errors
/// The system's, in a sentence that says what to do next.
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
