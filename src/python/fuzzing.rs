//! Entry point for the fuzz target `proc_text`: the mappings of a process, without that process.

use std::path::Path;

use super::process::{implied_version, mapped_files};
use super::{foreign, maps, name};

/// How many files a process with this /proc/PID/maps has mapped, including its executable, and how many of them may
/// contain an interpreter judging by their names.
pub fn mapped(text: &[u8]) -> Option<(usize, usize)> {
    let maps = maps::parse(text).ok()?;
    let files = mapped_files(1, Path::new("/usr/bin/python3"), &maps);
    let _ = implied_version(&maps);
    let may = files.iter().filter(|file| {
        name::may_be_interpreter(&file.path) || foreign::implementation(&file.path).is_some()
    });
    Some((files.len(), may.count()))
}
