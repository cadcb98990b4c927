//! What an event costs the thread that runs into a probe, measured here and now: a place of this session's own event on code of
//! ours that does nothing ([`perf::nothing`]), run into for some milliseconds, with texts of usual length to be fetched. The cost
//! is the time between two events as their records tell it, so it has in it whatever the thread waits for: the trap,
//! what is fetched, the record and the way back. Calm batches of events count ([`usual`]). It varies with what is in the
//! caches and from one session to the next, so that too little or too much can be taken out.
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
use crate::engine::event_cost::{intervals, usual};
use crate::perf::{self, Counter, Inherit, Ring};
use crate::python::maps;

/// How often the probe is run into, if that takes no longer than this.
const HITS: u32 = 4_000;
const LONGEST: Duration = Duration::from_millis(20);

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
        overhead: usual(intervals(&times)).and_then(NonZeroU64::new),
        _counters: counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
