//! Any bytes as what an agent has written into its ring: no panic, no record without an end, and no more memory than their
//! names may take.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::engine::direct::fuzzing::records;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(2 * MIB, 64, bytes), || {
        records(bytes);
    });
});
