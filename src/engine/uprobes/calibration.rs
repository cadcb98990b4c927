//! What an event costs the thread that runs into a probe, measured here and now: a place of this session's own event on code of
//! ours that does nothing ([`perf::nothing`]), run into for some milliseconds, with texts of usual length to be fetched. The cost
//! is the time between two events as their records tell it, so it has in it whatever the thread waits for: the trap, what is fetched,
//! the record and the way back. Calm batches of events count ([`between`]). It varies with what is in the caches and from one session to the next, so that too
//! little or too much can be taken out.
//!
//! It is one more place of the event that is there anyway, because arming and disarming a second event takes a grace period of
//! the kernel's. Its records have the number of what only holds up a semaphore, which is no event.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use procfs::process::Process;

use super::arming::Arming;
use super::decode::{HOLDS, sampled};
use super::fetch;
use super::tracefs::{Definition, Tracefs};
use super::{EVENT, Fetched, Fields, fetches};
use crate::perf::{self, Counter, Inherit, Ring};
use crate::python::maps;

/// How often the probe is run into, if that takes no longer than this.
const HITS: u32 = 4_000;
const LONGEST: Duration = Duration::from_millis(20);
/// Intervals of a batch.
const BATCH: usize = 16;
/// Batches of which something is said.
const FEWEST: usize = 6;

/// Texts as interpreters pass them.
const FILE: &CStr = c"/usr/lib/python3/dist-packages/package/module/file.py";
const FUNCTION: &CStr = c"some_function";
const QUALNAME: &CStr = c"SomeClass.some_function";

/// What was measured, and what keeps the probe armed.
#[derive(Debug)]
pub(super) struct Calibrated {
    overhead: Option<NonZeroU64>,
    _counters: Vec<OwnedFd>,
}

impl Calibrated {
    /// Nanoseconds that an event costs; `None` where too few came.
    pub(super) fn overhead(&self) -> Option<NonZeroU64> {
        self.overhead
    }
}

/// Makes the place on our own code one of the session's event.
///
/// # Errors
/// What stands in the way of that.
pub(super) fn define(tracefs: &Tracefs, group: &str, fields: Fields) -> io::Result<()> {
    let text = |text: &'static CStr| Some(format!("@{:#x}", text.as_ptr() as usize));
    let (number, width) = fetch::nothing(fetch::FetchKind::Number);
    let fetched = Fetched {
        file: text(FILE),
        function: text(FUNCTION),
        number: Some((number.to_owned(), width)),
        qualname: text(QUALNAME),
        ..Fetched::default()
    };
    tracefs.define(
        group,
        &Definition {
            event: EVENT.to_owned(),
            path: PathBuf::from("/proc/self/exe"),
            offset: offset()?,
            semaphore: None,
            fetches: fetches(HOLDS, &fetched, fields),
        },
    )
}

/// Where our code lies in the file.
fn offset() -> io::Result<u64> {
    let address = perf::nothing as extern "C" fn() as usize as u64;
    let maps = Process::myself().and_then(|it| maps::of(&it));
    let maps = maps.map_err(io::Error::other)?;
    let mut maps = maps.into_iter();
    let map = maps.find(|map| (map.address.0..map.address.1).contains(&address));
    let map = map.ok_or(io::ErrorKind::NotFound)?;
    Ok(address - map.address.0 + map.offset)
}

/// Runs into the probe. What the rings hold is taken out of them: nobody else may be armed yet.
///
/// # Errors
/// What `perf_event_open(2)` says.
pub(super) fn measure(arming: &Arming, rings: &mut [Ring]) -> io::Result<Calibrated> {
    let task = rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned();
    let mut counters = Vec::with_capacity(arming.outputs.len());
    for (processor, ring) in &arming.outputs {
        let counter = Counter {
            tracepoint: arming.tracepoint,
            task,
            processor: Some(*processor),
            inherit: Inherit::Nothing,
            life: false,
        };
        let counter = counter.open()?;
        perf::set_output(counter.as_fd(), ring.as_fd())?;
        perf::enable(counter.as_fd())?;
        counters.push(counter);
    }
    let begun = Instant::now();
    for hit in 0..HITS {
        perf::nothing();
        if hit % 64 == 0 && begun.elapsed() > LONGEST {
            break;
        }
    }
    let mut records = Vec::new();
    for ring in rings {
        ring.drain(&mut records);
    }
    let mut times: Vec<u64> = sampled(&records)
        .filter(|(tid, _)| *tid == task)
        .map(|(_, ts)| ts)
        .collect();
    times.sort_unstable();
    Ok(Calibrated {
        overhead: between(&times).and_then(NonZeroU64::new),
        _counters: counters,
    })
}

/// The time between two of these moments, which are in their order: of batches of them the median each, and of these the lower
/// quartile. Whatever else a processor does in the meantime only makes intervals longer, some of them or all of a while, and does
/// so whether events are told or not; but what is fastest of all is not what an event usually takes. `None` where there
/// are too few.
fn between(times: &[u64]) -> Option<u64> {
    let intervals = times.windows(2).map(|it| it[1].saturating_sub(it[0]));
    let mut intervals: Vec<u64> = intervals.collect();
    let median = |batch: &mut [u64]| *batch.select_nth_unstable(BATCH / 2).1;
    let mut medians: Vec<u64> = intervals.chunks_exact_mut(BATCH).map(median).collect();
    if medians.len() < FEWEST {
        return None;
    }
    let quarter = medians.len() / 4;
    Some(*medians.select_nth_unstable(quarter).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments that are so far apart.
    fn moments(intervals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let sums = intervals.into_iter().scan(1_000, |at, interval| {
            *at += interval;
            Some(*at)
        });
        std::iter::once(1_000).chain(sums).collect()
    }

    #[test]
    fn what_comes_between_some_of_them_makes_nothing_longer() {
        let calm = |at: u64| if at % 16 == 3 { 4_000_000 } else { 1_500 };
        assert_eq!(between(&moments((0..200).map(calm))), Some(1_500));
    }

    #[test]
    fn a_while_in_which_all_take_longer_does_not_count() {
        let slow = |at: u64| {
            if (32..128).contains(&at) {
                1_500
            } else {
                2_300
            }
        };
        assert_eq!(between(&moments((0..200).map(slow))), Some(1_500));
    }

    #[test]
    fn a_single_short_one_does_not_count() {
        let odd = |at: u64| if at == 70 { 3 } else { 1_500 };
        assert_eq!(between(&moments((0..200).map(odd))), Some(1_500));
    }

    #[test]
    fn a_few_say_nothing() {
        let few = BATCH as u64 * FEWEST as u64 - 1;
        assert_eq!(between(&moments((0..few).map(|_| 5))), None);
        assert_eq!(between(&moments((0..=few).map(|_| 5))), Some(5));
        assert_eq!(between(&[]), None);
    }

    #[test]
    fn our_code_lies_in_our_own_file_and_begins_with_what_does_nothing() {
        let offset = usize::try_from(offset().expect("a mapping")).expect("a position");
        let file = std::fs::read("/proc/self/exe").expect("our own file");
        let nop: &[u8] = match cfg!(target_arch = "x86_64") {
            true => &[0x90, 0xc3],
            false => &[0x1f, 0x20, 0x03, 0xd5],
        };
        assert!(file[offset..].starts_with(nop));
    }
}
