//! Any bytes as the table in which an agent adds up: no panic, no loop without an end, and no more memory than its rows may take.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::engine::direct::fuzzing::sums;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(2 * MIB, 64, bytes), || {
        let _ = sums(bytes);
    });
});
