//! Since when a thread has been asleep. The kernel says when it ran last (`se.exec_start` in `/proc/PID/task/TID/sched`), by
//! the clock of the processor that it ran on, which stands still while that processor does other things than run threads. So it
//! is compared with when a thread of ours ran on the same processor, just now.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::threads;

/// Most processors that are visited.
const MOST: usize = 512;
/// How long we wait for all of them together: where a thread that computes has a processor to itself, we may never get it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The clocks of processors.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// By processor: what its clock said, in milliseconds, and when that was.
    read: HashMap<u32, (f64, Instant)>,
}

impl Clocks {
    /// Reads the clocks of these processors, from a thread of its own, which goes from one to the next. Those that it may not
    /// use or does not get in time are left out, as are all where the kernel does not say when threads ran.
    pub(crate) fn of(processors: impl IntoIterator<Item = u32>) -> Clocks {
        let mut processors: Vec<u32> = processors.into_iter().collect();
        processors.sort_unstable();
        processors.dedup();
        processors.truncate(MOST);
        let (send, clocks) = unbounded();
        let visit = move || {
            for processor in processors {
                let Some(clock) = clock_of(processor) else {
                    continue;
                };
                // Nobody waits any longer.
                if send.send((processor, (clock, Instant::now()))).is_err() {
                    return;
                }
            }
        };
        let mut read = HashMap::new();
        if threads::spawn(visit).is_ok() {
            let end = Instant::now() + PATIENCE;
            // Until all have been visited: then nobody holds the other end any more.
            while let Ok((processor, clock)) = clocks.recv_deadline(end) {
                read.insert(processor, clock);
            }
        }
        Clocks { read }
    }

    /// For how long a thread has been asleep that ran last when its processor's clock said `last`, read at `seen`. `None` where
    /// that is not known.
    pub(crate) fn asleep(&self, processor: u32, last: f64, seen: Instant) -> Option<Duration> {
        /// What a clock that was not quite up to date is forgiven, in milliseconds.
        const SLACK: f64 = 20.0;
        let (clock, at) = self.read.get(&processor)?;
        let since = match seen.checked_duration_since(*at) {
            Some(later) => later.as_secs_f64() * 1e3,
            None => -at.duration_since(seen).as_secs_f64() * 1e3,
        };
        let asleep = clock + since - last;
        (asleep > -SLACK)
            .then(|| Duration::try_from_secs_f64(asleep.max(0.0) / 1e3).ok())
            .flatten()
    }
}

/// What the clock of a processor says now; moves the calling thread there.
fn clock_of(processor: u32) -> Option<f64> {
    let at = usize::try_from(processor).ok()?;
    if at >= CpuSet::MAX_CPU {
        return None;
    }
    let mut only = CpuSet::new();
    only.set(at);
    sched_setaffinity(None, &only).ok()?;
    // What it says is brought up to date when a thread begins to run.
    std::thread::yield_now();
    last_run(&fs::read_to_string("/proc/thread-self/sched").ok()?)
}

/// When a thread ran last, in milliseconds of its processor's clock, from its `sched` file.
pub(super) fn last_run(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("se.exec_start"))?;
    let (_, number) = line.split_once(':')?;
    number.trim().parse().ok().filter(|it: &f64| *it > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_last_run_is_read_from_what_the_kernel_says() {
        let text = "python3 (3608, #threads: 2)\n-----\nse.exec_start      :      50704607.533687\nse.vruntime : 1\n";
        assert_eq!(last_run(text), Some(50_704_607.533_687));
        for text in [
            "",
            "se.exec_start",
            "se.exec_start : x",
            "se.exec_start : 0.0",
        ] {
            assert_eq!(last_run(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_unknown_clock_and_one_that_goes_backwards_give_no_time() {
        let now = Instant::now();
        let clocks = Clocks {
            read: HashMap::from([(1, (5000.0, now))]),
        };
        assert_eq!(clocks.asleep(0, 1000.0, now), None);
        assert_eq!(clocks.asleep(1, 1000.0, now), Some(Duration::from_secs(4)));
        assert_eq!(clocks.asleep(1, 5001.0, now), Some(Duration::ZERO));
        assert_eq!(clocks.asleep(1, 6000.0, now), None);
    }
}
