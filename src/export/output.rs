//! Where a sink writes to: a file, or standard output, which may be a pipe that nobody reads at the moment.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};

/// What a pipe that polls as writable takes without blocking, on Linux: `PIPE_BUF`.
const PIPE_BUF: usize = 4096;

/// How often a blocked write looks whether it should be given up.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// An open output. Not buffered: sinks collect what they write.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Writing may block: a pipe, a terminal, a socket.
    may_block: bool,
    give_up: Arc<AtomicBool>,
}

/// Why an output could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write to {}: {source}; nothing was traced, choose a writable path with --output or leave it out to \
     write to standard output", path.display()
)]
pub struct OpenError {
    /// The path that was given.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl Output {
    /// Creates the file, or empties it when it exists; standard output when there is no path, or when it is `-`.
    ///
    /// Once `give_up` is true, a write that would block fails instead with [`io::ErrorKind::TimedOut`], so that a
    /// reader who stalls cannot keep a session from ending.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file cannot be created.
    pub fn open(path: Option<&Path>, give_up: Arc<AtomicBool>) -> Result<Output, OpenError> {
        let (file, path) = match path {
            Some(path) if path != Path::new("-") => (File::create(path), path),
            _ => (
                io::stdout().as_fd().try_clone_to_owned().map(File::from),
                Path::new("standard output"),
            ),
        };
        let file = file.map_err(|source| OpenError {
            path: path.to_owned(),
            source,
        })?;
        let may_block = fstat(&file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile);
        Ok(Output {
            file,
            may_block,
            give_up,
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.may_block {
            return self.file.write(bytes);
        }
        loop {
            let mut ready = [PollFd::new(&self.file, PollFlags::OUT)];
            match poll(&mut ready, Some(&LOOK)) {
                Ok(0) if self.give_up.load(Ordering::Relaxed) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                // An error condition shows in the write itself.
                Ok(_) => return self.file.write(bytes.get(..PIPE_BUF).unwrap_or(bytes)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Output, OpenError> {
        Output::open(Some(path), Arc::default())
    }

    #[test]
    fn a_file_is_created_when_it_is_opened_and_not_later() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("trace.json");
        let _output = open(&path).expect("a fresh file");
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_cannot_be_created_is_an_error_that_names_it_and_the_way_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("missing").join("trace.json");
        let error = open(&path).expect_err("no such directory");
        let message = error.to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains("--output"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_given_up_when_told_so_and_not_before() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let give_up = Arc::new(AtomicBool::new(false));
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output {
            file,
            may_block: true,
            give_up: Arc::clone(&give_up),
        };
        let writing = std::thread::spawn(move || output.write_all(&[b'x'; 1 << 20]));
        while !writing.is_finished() && !give_up.swap(true, Ordering::Relaxed) {}
        let error = writing.join().expect("no panic").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[test]
    fn a_closed_pipe_is_recognised() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output {
            file,
            may_block: true,
            give_up: Arc::default(),
        };
        let error = output.write_all(b"x").expect_err("nobody is there");
        assert!(crate::export::is_closed(&error), "{error}");
    }
}
