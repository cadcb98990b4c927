//! Any bytes as an ELF file: no panic, no endless loop, and no offset outside the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::elf::Image;

fuzz_target!(|bytes: &[u8]| {
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
});
