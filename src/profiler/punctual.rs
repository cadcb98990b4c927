//! Punctuality. Who wants a processor where none is free gets one when somebody gives it up or the kernel takes it away, often the very
//! program that is sampled: as it sends something that another waits for, say. Samples that are late are so of such moments, and not of
//! random ones. So the thread that takes them asks to run before all others, and goes back as soon as it takes more than little.

// The kernel is asked for it by a function of C.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use nix::libc;

/// The lowest priority there is before all that have none.
const PRIORITY: i32 = 1;
/// What the thread may take of this time, at most, for it to run before others.
const MOST: Duration = Duration::from_millis(200);
const OF: Duration = Duration::from_secs(1);

/// A thread that runs before others as long as it takes little.
#[derive(Debug)]
pub(super) struct Punctual {
    is_first: bool,
    since: Instant,
    took: Duration,
}

impl Punctual {
    /// Has the calling thread run before others, where it may. Threads that it begins do not.
    pub(super) fn begin(now: Instant) -> Punctual {
        Punctual {
            is_first: schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY),
            since: now,
            took: Duration::ZERO,
        }
    }

    /// It took so long until now. Where that is too much, it runs like others from now on.
    pub(super) fn took(&mut self, took: Duration, now: Instant) {
        self.took += took;
        if self.is_first && self.took > MOST {
            self.is_first = !schedule(libc::SCHED_OTHER, 0);
        }
        if now.saturating_duration_since(self.since) >= OF {
            (self.since, self.took) = (now, Duration::ZERO);
        }
    }
}

/// How the calling thread is scheduled from now on. False where that is not allowed.
fn schedule(policy: i32, priority: i32) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: 0 is the calling thread, and the structure is only read.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn who_takes_more_than_little_runs_like_others_again() {
        std::thread::spawn(|| {
            let begun = Instant::now();
            let mut punctual = Punctual::begin(begun);
            let first = punctual.is_first;
            let of_first = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            assert_eq!(policy() == of_first, first);
            // A little in each second, for however long.
            for second in 1..100 {
                let now = begun + OF * second;
                punctual.took(MOST, now);
                assert_eq!(punctual.is_first, first);
            }
            punctual.took(MOST, begun + OF * 99);
            punctual.took(Duration::from_nanos(1), begun + OF * 99);
            assert!(!punctual.is_first);
            assert_eq!(policy(), libc::SCHED_OTHER);
        })
        .join()
        .expect("no panic");
    }
}
