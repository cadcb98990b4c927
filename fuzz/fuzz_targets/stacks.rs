//! The memory of a Python with any words changed, whose stacks are read: no panic, no list or stack without an end, and no more
//! memory than names and tables of lines may take.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::python::fuzzing::stacks;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(160 * MIB, 16, bytes), || stacks(bytes));
});
