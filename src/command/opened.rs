//! Recordings by their paths, for commands that show them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::console::{Console, Exit, Progress};
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

/// A file of which it is counted how much was read.
#[derive(Debug)]
pub(super) struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A recording, or a trace that was written as JSON.
///
/// # Errors
/// Where it cannot be read, or is none.
pub(super) fn open(path: &Path) -> Result<Reader<Counted>, Failure> {
    read(path, file(path)?, Arc::default())
}

/// The same to be read to its end. A line on the terminal says how far that has come, as long as the second value is kept.
///
/// # Errors
/// Those of [`open`].
pub(super) fn open_whole(
    path: &Path,
    console: &Console,
) -> Result<(Reader<Counted>, Progress), Failure> {
    let file = file(path)?;
    // Of a pipe nobody knows how much there is.
    let bytes = file.metadata().map_or(0, |it| it.len());
    let name = path.file_name().map_or(path, Path::new);
    let activity = format!("reading {}", Foreign::path(name));
    let progress = console.progress(&activity, Some(bytes));
    Ok((read(path, file, progress.done())?, progress))
}

fn file(path: &Path) -> Result<File, Failure> {
    reading::open(path).map_err(|error| failure(path, &error.into()))
}

fn read(path: &Path, file: File, read: Arc<AtomicU64>) -> Result<Reader<Counted>, Failure> {
    Reader::new(Counted { file, read }).map_err(|error| failure(path, &error))
}

/// Says that a recording has no end.
pub(super) fn warn_of_cut(path: &Path, console: &Console) {
    console.warning(format_args!(
        "{} was cut (a crash, a full disk, or it is still being written), so its end is missing; shown is what is there",
        Foreign::path(path)
    ));
}
