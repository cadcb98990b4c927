//! Any bytes as the memory of a Python that can be asked by PEP 768, from its runtime state on: no panic, no list without an
//! end, and no more memory than a list may have entries.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::agent::fuzzing::debug_offsets;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(2 * MIB, 16, bytes), || {
        debug_offsets(bytes);
    });
});
