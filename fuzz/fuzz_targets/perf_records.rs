//! Any bytes as what the kernel writes into a ring: no panic, no endless loop, nothing told twice, and no more memory than
//! the bytes deserve. The first byte picks the fields of the event.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::engine::uprobes::fuzzing::records;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    within(budget(MIB, 256, bytes), || {
        // A record has a header of eight bytes, so there cannot be more of them.
        assert!(records(*choice, bytes) <= bytes.len() / 8 + 1);
    });
});
