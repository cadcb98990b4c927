//! Recordings by their paths, for commands that show them.

use std::fs::File;
use std::path::Path;

use crate::console::{Console, Exit};
use crate::failure::Failure;
use crate::files::reading;
use crate::recording::{Reader, RecordingError};
use crate::text::Foreign;

fn failure(path: &Path, error: &RecordingError) -> Failure {
    let exit = match error {
        RecordingError::Io(_) | RecordingError::Damaged { .. } | RecordingError::Line { .. } => {
            Exit::Failed
        }
        _ => Exit::Usage,
    };
    Failure::new(exit, format!("{}: {error}", Foreign::path(path)))
}

/// A recording, or a trace that was written as JSON.
///
/// # Errors
/// Where it cannot be read, or is none.
pub(super) fn open(path: &Path) -> Result<Reader<File>, Failure> {
    reading::open(path)
        .map_err(RecordingError::from)
        .and_then(Reader::new)
        .map_err(|error| failure(path, &error))
}

/// Says that a recording has no end.
pub(super) fn warn_of_cut(path: &Path, console: &Console) {
    console.warning(format_args!(
        "{} was cut (a crash, a full disk, or it is still being written), so its end is missing; shown is what is there",
        Foreign::path(path)
    ));
}
