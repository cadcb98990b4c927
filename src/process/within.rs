//! Examines many processes within a time budget. Examining a process can take forever: its memory and its files may be
//! on a file system whose server does not answer, and nothing interrupts such a wait. So it is done on a thread that
//! can be left behind, and what it got stuck on is named instead of awaited.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};

use crate::threads;

/// How long examining may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Per process.
    pub each: Duration,
    /// For all of them together.
    pub all: Duration,
}

impl Budget {
    /// For a command that a user waits for.
    pub const COMMAND: Budget = Budget {
        each: Duration::from_secs(1),
        all: Duration::from_secs(30),
    };
    /// For a search that is repeated.
    pub const SEARCH: Budget = Budget {
        each: Duration::from_secs(1),
        all: Duration::from_secs(5),
    };
}

/// Most threads left behind per call: each has a few kilobytes, and waits in the kernel.
const MOST_STUCK: usize = 4;

/// The result of examining.
#[derive(Debug)]
pub struct Looked<I, S, T> {
    /// The answers, in order.
    pub done: Vec<T>,
    /// Items that did not finish in time.
    pub stuck: Vec<I>,
    /// Items for which no time was left.
    pub unreached: Vec<I>,
    /// The final state.
    pub state: S,
}

/// Does something for each item, in order, with a state that starts as `state` and is reset when an item gets stuck.
pub fn within<I, S, T>(
    budget: Budget,
    items: Vec<I>,
    state: S,
    each: impl Fn(&I, &mut S) -> T + Send + Sync + 'static,
) -> Looked<I, S, T>
where
    I: Clone + Send + Sync + 'static,
    S: Default + Send + 'static,
    T: Send + 'static,
{
    let (items, each) = (Arc::new(items), Arc::new(each));
    let end = Instant::now() + budget.all;
    let (mut done, mut stuck) = (Vec::new(), Vec::new());
    let (mut next, mut left_behind, mut state) = (0, 0, Some(state));
    while next < items.len() && left_behind < MOST_STUCK && Instant::now() < end {
        // Without a thread nothing is examined, and every item is reported so.
        let Ok(worker) = Worker::start(&items, next, state.take().unwrap_or_default(), &each)
        else {
            break;
        };
        state = loop {
            let wait = budget
                .each
                .min(end.saturating_duration_since(Instant::now()));
            match worker.answers.recv_timeout(wait) {
                Ok(Answer::Item(answer)) => {
                    done.push(answer);
                    next += 1;
                }
                Ok(Answer::End(state)) => break Some(state),
                Err(error) => {
                    worker.cancelled.store(true, Ordering::Relaxed);
                    let out_of_time = Instant::now() >= end;
                    if !out_of_time || wait >= budget.each {
                        stuck.extend(items.get(next).cloned());
                        next += 1;
                    }
                    left_behind += usize::from(error == RecvTimeoutError::Timeout);
                    break None;
                }
            }
        };
    }
    Looked {
        done,
        stuck,
        unreached: items.iter().skip(next).cloned().collect(),
        state: state.unwrap_or_default(),
    }
}

enum Answer<S, T> {
    Item(T),
    End(S),
}

struct Worker<S, T> {
    answers: crossbeam_channel::Receiver<Answer<S, T>>,
    cancelled: Arc<AtomicBool>,
}

impl<S: Send + 'static, T: Send + 'static> Worker<S, T> {
    fn start<I: Send + Sync + 'static>(
        items: &Arc<Vec<I>>,
        from: usize,
        mut state: S,
        each: &Arc<impl Fn(&I, &mut S) -> T + Send + Sync + 'static>,
    ) -> io::Result<Worker<S, T>> {
        let (sender, answers): (Sender<Answer<S, T>>, _) = unbounded();
        let cancelled = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            answers,
            cancelled: Arc::clone(&cancelled),
        };
        let (items, each) = (Arc::clone(items), Arc::clone(each));
        threads::spawn(move || {
            for item in items.iter().skip(from) {
                let answer = each(item, &mut state);
                if cancelled.load(Ordering::Relaxed) || sender.send(Answer::Item(answer)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Answer::End(state));
        })?;
        Ok(worker)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    const SHORT: Budget = Budget {
        each: Duration::from_millis(50),
        all: Duration::from_secs(60),
    };
    const LONG: Budget = Budget {
        each: Duration::from_secs(60),
        all: Duration::from_secs(60),
    };

    #[test]
    fn everything_is_looked_at_in_order_and_the_state_comes_back() {
        let looked = within(LONG, vec![1, 2, 3], vec![0], |item, seen: &mut Vec<u32>| {
            seen.push(*item);
            item * 10
        });
        assert_eq!(
            (looked.done, looked.state),
            (vec![10, 20, 30], vec![0, 1, 2, 3])
        );
        assert_eq!((looked.stuck, looked.unreached), (vec![], vec![]));
    }

    #[test]
    fn what_does_not_answer_is_named_and_the_others_are_looked_at() {
        // It waits until this test ends.
        let (hold, held) = bounded::<()>(0);
        let looked = within(
            SHORT,
            (0..6).collect(),
            (),
            move |item: &u32, (): &mut ()| {
                if *item == 2 {
                    let _ = held.recv();
                }
                *item
            },
        );
        assert_eq!((looked.done, looked.stuck), (vec![0, 1, 3, 4, 5], vec![2]));
        assert_eq!(looked.unreached, Vec::<u32>::new());
        drop(hold);
    }

    #[test]
    fn where_nothing_answers_the_looking_ends_with_few_threads_left_behind() {
        let (hold, held) = bounded::<()>(0);
        let (started, starts) = unbounded();
        let looked = within(
            SHORT,
            (0..1_000).collect(),
            (),
            move |_: &u32, (): &mut ()| {
                let _ = started.send(());
                let _ = held.recv();
            },
        );
        assert_eq!(looked.done.len(), 0);
        assert_eq!(
            (looked.stuck.len(), looked.unreached.len()),
            (MOST_STUCK, 1_000 - MOST_STUCK)
        );
        assert_eq!(starts.try_iter().count(), MOST_STUCK);
        drop(hold);
    }

    #[test]
    fn a_look_that_fails_altogether_is_one_that_nothing_came_of() {
        let looked = within(LONG, vec![1, 2, 3], (), |item: &u32, (): &mut ()| {
            assert_ne!(*item, 2, "a mistake of ours");
            *item
        });
        assert_eq!((looked.done, looked.stuck), (vec![1, 3], vec![2]));
    }
}
