//! Any bytes as what a module of SystemTap sends, in one piece and in two: the same comes of both, without a panic, an
//! endless loop or more memory than the bytes deserve.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::engine::stap::wire::Decoder;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(bytes.len() * usize::from(*cut) / 256);
    within(budget(4 * MIB, 512, bytes), || {
        let decode = |parts: &[&[u8]]| {
            let mut decoder = Decoder::new();
            let mut decoded = Vec::new();
            for part in parts {
                decoder.push(part, &mut decoded);
            }
            decoder.finish(&mut decoded);
            format!("{decoded:?}")
        };
        assert_eq!(decode(&[bytes]), decode(&[first, second]));
    });
});
