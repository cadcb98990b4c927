//! Any bytes as the content of a bundle: no panic, no room made for what it only says to have, and what can be read fits itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::bundle::fuzzing::read;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(8 * MIB, 512, bytes), || {
        read(bytes);
    });
});
