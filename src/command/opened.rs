//! Recordings by their paths, for commands that show them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::console::{Console, Exit, Progress};
use crate::failure::Failure;
use crate::files::reading;
use crate::recording::parts::{self, Latest};
use crate::recording::{Reader, RecordingError, ending};
use crate::text::Foreign;
use crate::view::many;

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
    read(path, files(path)?, &Arc::default())
}

/// The same to be read to its end. A line on the terminal says how far that has come, as long as the second value is kept.
///
/// # Errors
/// Those of [`open`].
pub(super) fn open_whole(
    path: &Path,
    console: &Console,
) -> Result<(Reader<Counted>, Progress), Failure> {
    let files = files(path)?;
    let sizes = files.iter().filter_map(|it| it.metadata().ok());
    let bytes = sizes.map(|it| it.len()).sum();
    let name = path.file_name().map_or(path, Path::new);
    let activity = format!("reading {}", Foreign::path(name));
    let progress = console.progress(&activity, Some(bytes));
    Ok((read(path, files, &progress.done())?, progress))
}

/// Says which parts are read of a directory, where these are not all.
pub(super) fn note_parts(path: &Path, console: &Console) {
    if let Ok(Latest { files, older }) = parts::latest(path)
        && older > 0
    {
        console.note(format_args!(
            "{}: read are the latest parts without a gap between them, {}; {} before them can be read one by one",
            Foreign::path(path),
            many(files.len() as u64, "file", "files"),
            many(older as u64, "file", "files"),
        ));
    }
}

/// The file of a recording, or those of its parts.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    match path.is_dir() {
        false => Ok(vec![path.to_owned()]),
        true => Ok(parts::latest(path)
            .map_err(|error| failure(path, &error.into()))?
            .files),
    }
}

fn read(
    path: &Path,
    files: Vec<PathBuf>,
    read: &Arc<AtomicU64>,
) -> Result<Reader<Counted>, Failure> {
    let read = Arc::clone(read);
    // The last part may have no end yet; what the one before it says is of all that came until then.
    let last = files.iter().rev().take(2);
    let ends = last.filter_map(|file| ending::summary(&reading::open(file).ok()?));
    let end = ends.into_iter().next();
    let mut opened = files.into_iter().map(move |file| {
        let file = reading::open(&file)?;
        Ok(Counted {
            file,
            read: Arc::clone(&read),
        })
    });
    let wrong = |error: RecordingError| failure(path, &error);
    let first = opened
        .next()
        .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    let first = first.map_err(|error: io::Error| wrong(error.into()))?;
    let reader = Reader::new(first).map_err(wrong)?.followed_by(opened);
    Ok(match end {
        Some(end) => reader.ending_with(&end),
        None => reader,
    })
}

/// Says that a recording has no end.
pub(super) fn warn_of_cut(path: &Path, console: &Console) {
    console.warning(format_args!(
        "{} was cut (a crash, a full disk, or it is still being written), so its end is missing; shown is what is there",
        Foreign::path(path)
    ));
}
