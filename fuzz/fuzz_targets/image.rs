//! Any bytes as an ELF file: no panic, no endless loop, no offset outside the file, and no more memory than it deserves.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::elf::Image;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(4 * MIB, 256, bytes), || deal(bytes));
});

fn deal(bytes: &[u8]) {
    let Ok(image) = Image::parse("fuzzed", bytes) else {
        return;
    };
    let size = bytes.len() as u64;
    assert!(image.startup_offset.is_none_or(|offset| offset < size));
    for mark in &image.marks {
        assert!(!mark.provider.is_empty() && !mark.name.is_empty());
        assert!(!mark.sites.is_empty());
        assert_eq!(image.mark(&mark.provider, &mark.name), Some(mark));
        for site in &mark.sites {
            assert!(site.file_offset.is_none_or(|offset| offset < size));
            let semaphore = site.semaphore.and_then(|semaphore| semaphore.file_offset);
            assert!(semaphore.is_none_or(|offset| offset + 2 <= size));
        }
    }
}
