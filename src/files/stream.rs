//! A descriptor that can be written to without blocking in the kernel: an unread pipe, a stopped terminal or a socket
//! with a sleeping peer accepts nothing, and that is all.
//!
//! Standard output and error also belong to others: the user's shell, a launched command. Non-blocking mode is a
//! property of the open file description that they share, so it is never set there. A pipe or a terminal is instead
//! opened a second time, through its descriptor, which makes it our own; where that is not permitted, it is polled
//! first and given little at a time.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::net::{SendFlags, send};

use super::reopen;

/// What a pipe that polls as writable accepts without blocking, on Linux: `PIPE_BUF`.
const PIPE_BUF: usize = 4096;
/// What a terminal that polls as writable accepts without blocking: no number is guaranteed, but every driver has this
/// much room.
const TERMINAL_ROOM: usize = 128;

/// A descriptor to write to.
#[derive(Debug)]
pub struct Stream {
    file: File,
    manner: Manner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A file, which needs no reader.
    File,
    /// In non-blocking mode, and not shared.
    Own,
    /// Shared with others, with their mode; accepts this many bytes when it polls as writable.
    Shared(usize),
    Socket,
}

impl Stream {
    /// A stream to the file behind this descriptor, which stays as it is.
    ///
    /// # Errors
    ///
    /// The error from the system.
    pub fn shared(descriptor: BorrowedFd<'_>) -> io::Result<Stream> {
        let manner = match kind(&fstat(descriptor)?) {
            FileType::Fifo => Manner::Shared(PIPE_BUF),
            FileType::CharacterDevice => Manner::Shared(TERMINAL_ROOM),
            FileType::Socket => Manner::Socket,
            _ => Manner::File,
        };
        if let Manner::Shared(_) = manner
            && let Ok(file) = reopen(descriptor, OFlags::WRONLY | OFlags::APPEND)
        {
            return Ok(Stream::own(file));
        }
        Ok(Stream {
            file: descriptor.try_clone_to_owned()?.into(),
            manner,
        })
    }

    /// A stream to a file that was opened in non-blocking mode for us alone.
    pub fn own(file: File) -> Stream {
        Stream {
            file,
            manner: Manner::Own,
        }
    }

    /// The status of the file behind the descriptor.
    ///
    /// # Errors
    ///
    /// The error from the system.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(fstat(&self.file)?)
    }

    /// Writes as much as can be written at once.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when nothing can be written at the moment, otherwise the error from the system.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.manner {
            Manner::File | Manner::Own => Ok(rustix::io::write(&self.file, bytes)?),
            Manner::Socket => Ok(send(
                &self.file,
                bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            )?),
            Manner::Shared(room) => {
                if !self.wait(&Timespec::default())? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let bytes = bytes.get(..room).unwrap_or(bytes);
                Ok(rustix::io::write(&self.file, bytes)?)
            }
        }
    }

    /// Waits at most `longest` until something may be written. An error condition shows in the next write.
    ///
    /// # Errors
    ///
    /// The error from the system.
    pub fn wait(&self, longest: &Timespec) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut watched, Some(longest)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The type of a file.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use rustix::fs::fcntl_getfl;

    use super::*;

    /// Fills a stream until it accepts nothing more; returns the number of bytes that it accepted.
    fn fill(stream: &Stream) -> usize {
        let mut taken = 0;
        loop {
            match stream.write(&[b'x'; 1 << 16]) {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                    return taken;
                }
            }
        }
    }

    /// A pipe, however it is opened, accepts what fits, refuses the rest, and continues once it is read.
    fn check(stream: &Stream, mut reader: impl Read) {
        let taken = fill(stream);
        assert!(taken > 0);
        assert!(!stream.wait(&Timespec::default()).expect("polled"));
        let mut bytes = vec![0; taken];
        reader.read_exact(&mut bytes).expect("what was written");
        assert!(stream.wait(&Timespec::default()).expect("polled"));
        assert_eq!(stream.write(b"more").expect("there is room"), 4);
    }

    #[test]
    fn a_full_pipe_takes_nothing_and_its_mode_stays_what_it_is_for_everybody_else() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let stream = Stream::shared(writer.as_fd()).expect("a stream");
        assert_eq!(stream.manner, Manner::Own);
        check(&stream, reader);
        let flags = fcntl_getfl(&writer).expect("flags");
        assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_again_is_asked_first_and_gets_little_at_once() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let stream = Stream {
            file: File::from(OwnedFd::from(writer)),
            manner: Manner::Shared(PIPE_BUF),
        };
        check(&stream, reader);
    }

    #[test]
    fn a_socket_whose_other_end_sleeps_takes_nothing() {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let stream = Stream::shared(one.as_fd()).expect("a stream");
        assert_eq!(stream.manner, Manner::Socket);
        let taken = fill(&stream);
        assert!(taken > 0);
        let flags = fcntl_getfl(&one).expect("flags");
        assert!(!flags.contains(OFlags::NONBLOCK));
        drop(other);
        let error = stream.write(b"x").expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_file_keeps_its_place_among_those_who_write_to_it() {
        let mut file = tempfile::tempfile().expect("a file");
        let stream = Stream::shared(file.as_fd()).expect("a stream");
        stream.write(b"one ").expect("written");
        io::Write::write_all(&mut file, b"two ").expect("written");
        stream.write(b"three").expect("written");
        io::Seek::rewind(&mut file).expect("rewound");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "one two three");
    }
}
