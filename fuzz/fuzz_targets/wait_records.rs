//! Any bytes as what the kernel writes into a ring about threads that leave a processor, get one, are woken, or make
//! system calls: no panic, no endless loop, no more waits and calls than records, and no more memory than the bytes deserve. The first byte picks what is known.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::waits::fuzzing::records;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    within(budget(MIB, 256, bytes), || {
        // A record has a header of eight bytes. One of a loss closes the waits that are open, of which each began with one.
        assert!(records(*choice, bytes) <= bytes.len() / 8 + 1);
    });
});
