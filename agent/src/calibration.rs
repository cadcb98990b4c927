//! What an event costs the thread in which it happens, in this interpreter, here and now. As a session begins, a function of the
//! interpreter's own that does nothing is called some times before calls are told, and some times while they are. pystap
//! takes the difference from the times in the ring, and shows nobody the calls between the two records of the kind
//! [`DRY`](pystap_ring::DRY). They are calls of our own thread, which the program does not see. All of them take some tens of
//! microseconds, in batches between which the program goes on.
//!
//! Nothing is called where another tool of `sys.monitoring` would hear of it, and in a free-threaded build.

use core::ptr::null_mut;

use pystap_agent_protocol::Way;
use rustix::thread::Timespec;

use crate::python::{Owned, api, is_free_threaded, type_of};
use crate::shards::Shard;
use crate::{codes, gil, handling, live, monitoring, profile, ring, thread_names, worker};

/// Calls before anything is measured, so that caches are warm.
const FIRST: u64 = 32;
/// Calls that are told, in batches, and how long the program goes on between two of them: what else the machine does slows down all of
/// a batch, and pystap wants a calm one.
const TOLD: u64 = 64;
const TOLD_BATCHES: u32 = 8;
/// Calls behind each of these batches, twice, of which our own part is timed ([`handling`]).
const TIMED: u64 = 16;
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};
/// Calls that are not told, in batches, of which the fastest counts: whatever comes between only makes one longer.
const QUIET: u64 = 32;
const BATCHES: u32 = 6;

/// What is called, and how long that took when it was not told.
pub(crate) struct Calibration {
    function: Owned,
    arguments: Owned,
    /// Ticks of the ring's clock of as many calls as are in a batch.
    quiet: u64,
}

/// Measures calls that are not told: there must be a ring already, and no events yet. Nothing where that cannot be.
pub(crate) unsafe fn begin() -> Option<Calibration> {
    if is_free_threaded() || !worker::is_current() || !ring::tells_events() {
        return None;
    }
    let function = does_nothing()?;
    let (none, arguments) = (api()._Py_NoneStruct, (api().PyTuple_New)(2));
    let arguments = Owned::take(arguments)?;
    for at in 0..2 {
        (api().Py_IncRef)(none);
        (api().PyTuple_SetItem)(arguments.as_ptr(), at, none);
    }
    let mut calibration = Calibration {
        function,
        arguments,
        quiet: u64::MAX,
    };
    calibration.call(FIRST);
    for _ in 0..BATCHES {
        let begun = ring::now(Shard::ONLY)?;
        calibration.call(QUIET);
        let took = ring::now(Shard::ONLY)?.saturating_sub(begun);
        calibration.quiet = calibration.quiet.min(took);
    }
    Some(calibration)
}

/// `_LoaderBasics.create_module` of the import system, which is in every interpreter and returns at once.
unsafe fn does_nothing() -> Option<Owned> {
    let modules = (api().PyImport_GetModuleDict)();
    let module = c"_frozen_importlib_external".as_ptr();
    let module = Owned::borrowed((api().PyDict_GetItemString)(modules, module))?;
    let class = module.attribute(c"_LoaderBasics")?;
    let function = class.attribute(c"create_module")?;
    // Whoever has put something else there is not called.
    (type_of(function.as_ptr()) == api().PyFunction_Type).then_some(function)
}

impl Calibration {
    /// Has calls told, now that events are on.
    pub(crate) unsafe fn finish(self, way: Way) {
        let is_heard_by_others = way == Way::Monitoring && !monitoring::is_alone();
        let Some(code) = self.function.attribute(c"__code__") else {
            return;
        };
        if is_heard_by_others || !ring::begin_dry_run(self.quiet, QUIET as u32) {
            return;
        }
        thread_names::is_ours();
        handling::prepare();
        for batch in 0..TOLD_BATCHES {
            if batch > 0 {
                let _ = gil::without(|| rustix::thread::nanosleep(&PAUSE));
            }
            if gil::is_awaited() {
                break;
            }
            let told = codes::wanting(code.as_ptr(), || match way {
                Way::Monitoring => self.batch(),
                Way::Profile => profile::on_this_thread(|| self.batch()),
            });
            // They are no calls of the program.
            let counts = live::counted();
            (*counts).entries = (*counts).entries.saturating_sub(told);
            (*counts).returns = (*counts).returns.saturating_sub(told);
        }
        handling::go_on();
    }

    /// Calls that are told, and some more whose telling is timed. How many.
    unsafe fn batch(&self) -> u64 {
        let mut told = self.call(TOLD);
        handling::in_calm(|| told += self.call(TIMED));
        told
    }

    /// Calls it so often, or until one raises something, and says how often it was called.
    unsafe fn call(&self, times: u64) -> u64 {
        let (function, arguments) = (self.function.as_ptr(), self.arguments.as_ptr());
        for called in 1..=times {
            let result = Owned::take((api().PyObject_Call)(function, arguments, null_mut()));
            if result.is_none() {
                return called;
            }
        }
        times
    }
}
