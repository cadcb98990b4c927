//! Where a sink writes to: a file, or standard output, which may be a pipe that nobody reads at the moment.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::fs::{FileType, Mode};

use crate::files::Stream;
use crate::files::writing::{self, Draft, Opened};
use crate::text::Foreign;

/// How often a blocked write looks whether it should be given up.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How often it is looked whether a pipe has a reader by now.
const READER: Duration = Duration::from_millis(50);

/// An open output. Not buffered: sinks collect what they write.
#[derive(Debug)]
pub struct Output {
    to: To,
    give_up: Arc<AtomicBool>,
}

#[derive(Debug)]
enum To {
    Stream(Stream),
    /// What replaces its file when it is whole.
    Draft(Draft),
}

/// Why an output could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write to {}: {source}; nothing was done, choose a writable path with --output or leave it out to \
     write to standard output",
    Foreign::path(path)
)]
pub struct OpenError {
    /// The path that was given.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl Output {
    /// Creates the file, readable by its owner alone, or empties it when it exists; standard output when there is no path,
    /// or when it is `-`. What is written later is appended, wherever the file ends by then.
    ///
    /// A pipe that nobody reads yet is asked for a reader again and again, as long as `wait`, which is told how long to do
    /// nothing, answers true; `None` when it does not.
    ///
    /// Once `give_up` is true, a write that would block fails instead with [`io::ErrorKind::TimedOut`], so that a
    /// reader who stalls cannot keep a session from ending.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file cannot be created.
    pub fn open(
        path: Option<&Path>,
        give_up: Arc<AtomicBool>,
        mut wait: impl FnMut(Duration) -> bool,
    ) -> Result<Option<Output>, OpenError> {
        let failed = |path: &Path, source| OpenError {
            path: path.to_owned(),
            source,
        };
        let Some(path) = named(path) else {
            let opened = Output::stdout(give_up);
            return opened
                .map(Some)
                .map_err(|source| failed(Path::new("standard output"), source));
        };
        loop {
            match writing::open(path).map_err(|source| failed(path, source))? {
                Opened::Stream(stream) => {
                    let to = To::Stream(stream);
                    return Ok(Some(Output { to, give_up }));
                }
                Opened::NobodyReads if wait(READER) => {}
                Opened::NobodyReads => return Ok(None),
            }
        }
    }

    /// Standard output.
    ///
    /// # Errors
    ///
    /// What the system answered.
    pub fn stdout(give_up: Arc<AtomicBool>) -> io::Result<Output> {
        Ok(Output {
            to: To::Stream(Stream::shared(io::stdout().as_fd())?),
            give_up,
        })
    }

    /// The same for what is written as a whole: a file appears, or replaces one, with [`Output::complete`] and not before.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the file cannot be created.
    pub fn whole(
        path: Option<&Path>,
        give_up: Arc<AtomicBool>,
        wait: impl FnMut(Duration) -> bool,
    ) -> Result<Option<Output>, OpenError> {
        if let Some(path) = named(path) {
            let draft = Draft::new(path, Mode::RUSR | Mode::WUSR);
            let draft = draft.map_err(|source| OpenError {
                path: path.to_owned(),
                source,
            })?;
            if let Some(draft) = draft {
                let to = To::Draft(draft);
                return Ok(Some(Output { to, give_up }));
            }
        }
        Output::open(path, give_up, wait)
    }

    /// Whether what was written can be taken back: nobody has seen it.
    pub fn can_begin_anew(&self) -> bool {
        matches!(self.to, To::Draft(_))
    }

    /// Takes back what was written, where that is possible.
    ///
    /// # Errors
    ///
    /// What the system answered.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Draft(draft) => draft.begin_anew(),
            To::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Says that all of it was written.
    ///
    /// # Errors
    ///
    /// What the system answered; then a file that was to be replaced is what it was.
    pub fn complete(self) -> io::Result<()> {
        match self.to {
            To::Stream(_) => Ok(()),
            To::Draft(draft) => draft.put(),
        }
    }

    /// The mode of the file that is written to, where others than its owner may read it.
    pub fn open_to_others(&self) -> Option<u32> {
        let To::Stream(stream) = &self.to else {
            return None;
        };
        let stat = stream.stat().ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        (is_file && stat.st_mode & 0o044 != 0).then_some(stat.st_mode & 0o777)
    }
}

fn named(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| *path != Path::new("-"))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = match &mut self.to {
            To::Draft(draft) => return draft.write(bytes),
            To::Stream(stream) => stream,
        };
        loop {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            if self.give_up.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
            stream.wait(&LOOK)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Output {
    /// An output to a file of a test.
    pub(crate) fn to_file(path: &Path) -> Output {
        Output::open(Some(path), Arc::default(), |_| false)
            .expect("it can be opened")
            .expect("it is a file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Option<Output>, OpenError> {
        Output::open(Some(path), Arc::default(), |_| false)
    }

    fn to_pipe(writer: &io::PipeWriter, give_up: &Arc<AtomicBool>) -> Output {
        Output {
            to: To::Stream(Stream::shared(writer.as_fd()).expect("a stream")),
            give_up: Arc::clone(give_up),
        }
    }

    #[test]
    fn a_file_is_created_when_it_is_opened_and_not_later() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("trace.json");
        let output = open(&path).expect("a fresh file").expect("a file");
        assert!(path.exists());
        assert_eq!(output.open_to_others(), None);
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
    fn a_file_that_others_may_read_is_told_from_one_that_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("trace.json");
        std::fs::write(&path, "").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        let output = Output::to_file(&path);
        assert_eq!(output.open_to_others(), Some(0o644));
    }

    #[test]
    fn a_whole_takes_the_place_of_what_was_there_when_it_is_complete() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("out.svg");
        std::fs::write(&path, "before").expect("written");
        for complete in [false, true] {
            let output = Output::whole(Some(&path), Arc::default(), |_| false);
            let mut output = output.expect("a file").expect("a file");
            output.write_all(b"after").expect("written");
            if complete {
                output.complete().expect("put");
            }
            let expected = if complete { "after" } else { "before" };
            assert_eq!(std::fs::read_to_string(&path).expect("read"), expected);
        }
    }

    #[test]
    fn a_pipe_without_a_reader_is_asked_again_until_there_is_one_or_nobody_wants_to_wait() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).expect("a pipe");
        let mut asked = 0;
        let given_up = Output::open(Some(&path), Arc::default(), |_| {
            asked += 1;
            asked < 3
        });
        assert!(given_up.expect("no error").is_none());
        assert_eq!(asked, 3);
        let mut reader = None;
        let opened = Output::open(Some(&path), Arc::default(), |_| {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            reader = Some(opened.expect("a reader"));
            true
        });
        let mut output = opened.expect("no error").expect("it is read");
        output.write_all(b"x").expect("written");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_given_up_when_told_so_and_not_before() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let give_up = Arc::new(AtomicBool::new(false));
        let mut output = to_pipe(&writer, &give_up);
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
        let mut output = to_pipe(&writer, &Arc::default());
        let error = output.write_all(b"x").expect_err("nobody is there");
        assert!(crate::export::is_closed(&error), "{error}");
    }
}
