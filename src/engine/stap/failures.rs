//! What is known of a stap that cannot compile for this kernel, so that nobody waits for it twice. Known for one stap and
//! one kernel build, and forgotten when either changes or a script compiles after all.
//!
//! A trial is kept with the compiler as part of its key, and to identify the compiler at every start would take the
//! doctor's third of a second. So `trace --engine auto` has this smaller memory of its own.

use std::fs;
use std::path::PathBuf;

use super::Toolchain;
use crate::authority::{believed, own};

fn file() -> PathBuf {
    own::cache().join("stap-fails")
}

/// Why this stap is known to fail, a clause; `None` when it is not.
pub fn remembered(toolchain: &Toolchain) -> Option<String> {
    let file = file();
    believed(&file).ok()?;
    let text = fs::read_to_string(file).ok()?;
    let reason = text.strip_prefix(&toolchain.fingerprint())?;
    Some(reason.trim().to_owned())
}

/// Remembers why it failed.
pub fn remember(toolchain: &Toolchain, reason: &str) {
    let text = format!("{}{reason}\n", toolchain.fingerprint());
    // If it cannot be remembered, it is tried again.
    let _ = fs::create_dir_all(own::cache()).and_then(|()| fs::write(file(), text));
}

/// Forgets it.
pub fn forget() {
    let _ = fs::remove_file(file());
}
