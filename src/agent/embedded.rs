//! The agent's library, which is part of this binary: its bytes, and what its ELF notes say.

use std::sync::{Arc, OnceLock};

use crate::elf::Image;

/// The bytes of the library.
pub(super) static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libpystap_agent.so"));

/// What the library is called where it is in no file yet.
pub(super) const NAME: &str = "libpystap_agent.so";

/// What the library says about probing it.
pub fn image() -> Arc<Image> {
    static IMAGE: OnceLock<Arc<Image>> = OnceLock::new();
    let parsed = || Image::parse(NAME, LIBRARY).expect("what the build embeds is an ELF file");
    Arc::clone(IMAGE.get_or_init(|| Arc::new(parsed())))
}

/// Its build id.
pub(super) fn build_id() -> &'static str {
    static BUILD_ID: OnceLock<String> = OnceLock::new();
    BUILD_ID.get_or_init(|| {
        image()
            .build_id
            .clone()
            .unwrap_or_else(|| "unknown".to_owned())
    })
}
