//! The agent's library: the one that is part of this binary, or one of another build that was brought along; its bytes, and what its
//! ELF notes say.

use std::sync::{Arc, OnceLock};

use miniz_oxide::inflate::decompress_to_vec_zlib;

use crate::elf::Image;

/// The library in this binary, packed.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libpystap_agent.so.zlib"));

/// The name of the library while it is not in any file.
pub(super) const NAME: &str = "libpystap_agent.so";

/// A library that is used.
#[derive(Debug)]
struct Library {
    bytes: Vec<u8>,
    image: Arc<Image>,
}

impl Library {
    fn of(bytes: Vec<u8>) -> Option<Library> {
        let image = Arc::new(Image::parse(NAME, &bytes).ok()?);
        Some(Library { bytes, image })
    }
}

/// The one that is used, for as long as this process lives.
static USED: OnceLock<Library> = OnceLock::new();

fn used() -> &'static Library {
    USED.get_or_init(|| {
        let bytes = decompress_to_vec_zlib(PACKED).expect("what the build has packed");
        Library::of(bytes).expect("what the build embeds is an ELF file")
    })
}

/// Uses another build of the library than that in this binary. Scripts that were compiled for one probe no other.
///
/// # Errors
/// A clause, when it is none, or when another one is in use already.
pub fn bring(bytes: &[u8]) -> Result<(), &'static str> {
    let brought = Library::of(bytes.to_vec()).ok_or("it is no library")?;
    let used = USED.get_or_init(|| brought);
    match used.bytes == bytes {
        true => Ok(()),
        false => Err("another one is in use already"),
    }
}

/// The bytes of the library.
pub fn library() -> &'static [u8] {
    &used().bytes
}

/// What the library says about probing it.
pub fn image() -> Arc<Image> {
    Arc::clone(&used().image)
}

/// Its build ID.
pub(super) fn build_id() -> &'static str {
    used().image.build_id.as_deref().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::agent::{COLLECTIONS, CONTEXT, FUNCTIONS, PROVIDER};

    #[test]
    #[ignore = "needs readelf: run by scripts/test-here"]
    fn every_mark_has_one_site_and_a_semaphore_that_only_one_writable_mapping_holds() {
        let image = image();
        for mark in FUNCTIONS.iter().chain(&COLLECTIONS).chain([&CONTEXT]) {
            let mark = image.mark(PROVIDER, mark).expect("it is there");
            assert_eq!(mark.sites.len(), 1);
            assert!(
                mark.sites[0]
                    .semaphore
                    .is_some_and(|it| it.file_offset.is_some())
            );
        }
        assert!(image.build_id.is_some());
        // The kernel identifies a semaphore by its file offset and increments it in the first writable mapping of that
        // page.
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(NAME);
        std::fs::write(&path, library()).expect("written");
        let output = Command::new("readelf").arg("-lW").arg(&path).output();
        let text = String::from_utf8(output.expect("readelf runs").stdout).expect("text");
        let writable = text
            .lines()
            .filter(|line| line.trim_start().starts_with("LOAD") && line.contains(" RW "));
        assert_eq!(writable.count(), 1, "{text}");
    }

    #[test]
    fn its_code_stands_in_memory_where_systemtap_looks_for_it() {
        let mut image = Image::clone(&image());
        assert!(!image.is_displaced());
        let mut moved = |distance: u64| {
            let site = &mut image.marks[0].sites[0];
            site.address = site.file_offset.expect("it is in the file") + distance;
            image.is_displaced()
        };
        assert!(moved(0x1000), "as lld lays files out by itself");
        assert!(!moved(0x40_0000), "a program for a fixed address");
    }
}
