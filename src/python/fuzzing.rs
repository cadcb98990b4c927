//! Entry points for the fuzz targets `proc_text` and `stacks`: the mappings and the memory of a process, without that process.

use std::path::Path;

use super::frames;
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

/// Reads the stacks of a Python whose memory was changed as these bytes say.
pub fn stacks(changes: &[u8]) {
    frames::fuzzing::changed(changes);
}
