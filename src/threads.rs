//! Threads, if they can be had. `std::thread::spawn` panics when they cannot, which would leave a session half started;
//! at the limit of a user or of a container that is no fault of ours, and gets a message.

use std::fmt;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

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

/// The same for work that something is handed over to.
///
/// # Errors
/// Gives that back where no thread can be had, for whoever can do without.
pub(crate) fn spawn_with<S: Send + 'static, T: Send + 'static>(
    something: S,
    work: impl FnOnce(S) -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>, S> {
    let (give, given) = sync_channel(1);
    match spawn(move || given.recv().ok().map(work)) {
        Ok(thread) => match give.send(something) {
            Ok(()) => Ok(thread),
            Err(back) => Err(back.0),
        },
        Err(_) => Err(something),
    }
}

/// What a thread left behind; goes on with its panic, if it had one.
pub(crate) fn join<T>(thread: JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Work that is done piece by piece, in a thread of its own while whoever wants it done goes on. Where no thread can be had it is
/// done at once. What comes of the pieces comes in their order.
pub(crate) struct Worker<T, R>(Place<T, R>);

type Work<T, R> = Box<dyn FnMut(T) -> R + Send>;

enum Place<T, R> {
    Thread {
        pieces: Sender<T>,
        results: Receiver<R>,
        /// Whether it has a piece whose result was not taken yet.
        is_busy: bool,
        thread: JoinHandle<Option<()>>,
    },
    Here(Work<T, R>),
}

impl<T, R> fmt::Debug for Worker<T, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Worker")
    }
}

impl<T: Send + 'static, R: Send + 'static> Worker<T, R> {
    /// Nothing to do yet.
    pub(crate) fn new(work: impl FnMut(T) -> R + Send + 'static) -> Worker<T, R> {
        let (pieces, taken) = bounded::<T>(1);
        let (done, results) = bounded(1);
        let thread = spawn_with(Box::new(work) as Work<T, R>, move |mut work| {
            for piece in taken {
                if done.send(work(piece)).is_err() {
                    break;
                }
            }
        });
        Worker(match thread {
            Ok(thread) => Place::Thread {
                pieces,
                results,
                is_busy: false,
                thread,
            },
            Err(work) => Place::Here(work),
        })
    }

    /// The same without a thread, for work that is not worth one.
    pub(crate) fn here(work: impl FnMut(T) -> R + Send + 'static) -> Worker<T, R> {
        Worker(Place::Here(Box::new(work)))
    }

    /// Hands over a piece, when the one before is done: answers what came of that, or where there is no thread, of this one.
    pub(crate) fn give(&mut self, piece: T) -> Option<R> {
        match &mut self.0 {
            Place::Here(work) => Some(work(piece)),
            Place::Thread {
                pieces,
                results,
                is_busy,
                ..
            } => {
                let before = match std::mem::replace(is_busy, true) {
                    true => results.recv().ok(),
                    false => None,
                };
                // Where it panicked, that goes on with the end.
                let _ = pieces.send(piece);
                before
            }
        }
    }

    /// What came of the last piece, if that was not told yet.
    pub(crate) fn finish(self) -> Option<R> {
        match self.0 {
            Place::Here(_) => None,
            Place::Thread {
                pieces,
                results,
                thread,
                ..
            } => {
                drop(pieces);
                let last = results.recv().ok();
                join(thread);
                last
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(mut worker: Worker<u64, u64>) -> Vec<u64> {
        let mut results: Vec<u64> = (0..100).filter_map(|it| worker.give(it)).collect();
        results.extend(worker.finish());
        results
    }

    #[test]
    fn what_comes_of_pieces_comes_in_their_order_with_a_thread_and_without() {
        let expected: Vec<u64> = (0..100).map(|it| it * it).collect();
        assert_eq!(squares(Worker::new(|it| it * it)), expected);
        assert_eq!(squares(Worker::here(|it| it * it)), expected);
    }

    #[test]
    fn a_piece_is_worked_on_while_the_next_one_is_made() {
        let (tell, told) = bounded(0);
        let mut worker = Worker::new(move |()| tell.send(()).is_ok());
        assert_eq!(worker.give(()), None);
        // It goes on when this is taken, and not before.
        told.recv().expect("a thread at work");
        assert_eq!(worker.finish(), Some(true));
    }

    #[test]
    #[should_panic(expected = "a piece too many")]
    fn a_panic_goes_on_in_whoever_wants_the_work_done() {
        let mut worker = Worker::new(|piece: u32| assert!(piece < 2, "a piece too many"));
        for piece in 0..3 {
            worker.give(piece);
        }
        worker.finish();
    }
}
