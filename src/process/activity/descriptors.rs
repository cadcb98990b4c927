//! What a descriptor of a process is: a file, a socket with both its ends, a pipe, what an epoll watches.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::sockets::{self, Socket};

/// Most descriptors that one call is said to wait for; the rest is counted.
const MOST_NAMED: usize = 64;
/// Most of a text of /proc about an epoll that is read.
const MOST_READ: u64 = 1 << 20;

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// A file, a directory or a device.
    File(Vec<u8>),
    /// A pipe without a name.
    Pipe(u64),
    /// A socket, as far as a table of the kernel has it.
    Socket(Option<Socket>),
    /// An epoll, and what it watches.
    Epoll(Watched),
    /// Another object of the kernel: `eventfd`, `timerfd`, `signalfd`, `inotify`, `pidfd`, …
    Kernel(String),
    /// It is closed by now, or may not be looked at.
    Unknown,
}

/// Several descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The first of them.
    pub(crate) named: Vec<(u32, Descriptor)>,
    /// How many there are.
    pub(crate) count: usize,
}

/// Looks descriptors of a process up. Reads the tables of its network namespace at most once.
pub(crate) struct Descriptors {
    pid: u32,
    sockets: OnceCell<HashMap<u64, Socket>>,
}

impl Descriptors {
    pub(crate) fn of(pid: u32) -> Descriptors {
        Descriptors {
            pid,
            sockets: OnceCell::new(),
        }
    }

    /// What this descriptor of a thread is: threads may have tables of their own.
    pub(crate) fn describe(&self, thread: u32, descriptor: u32) -> Descriptor {
        self.described(thread, descriptor, true)
    }

    fn described(&self, thread: u32, descriptor: u32, look_into_epoll: bool) -> Descriptor {
        let path = format!("/proc/{}/task/{thread}/fd/{descriptor}", self.pid);
        let Ok(target) = fs::read_link(&path) else {
            return Descriptor::Unknown;
        };
        match Named::of(&target) {
            Named::Pipe(inode) => Descriptor::Pipe(inode),
            Named::Socket(inode) => {
                let sockets = self.sockets.get_or_init(|| sockets::of(self.pid));
                Descriptor::Socket(sockets.get(&inode).cloned())
            }
            Named::Kernel(kind) if kind == "eventpoll" && look_into_epoll => {
                Descriptor::Epoll(self.watched_by(thread, descriptor))
            }
            Named::Kernel(kind) => Descriptor::Kernel(kind),
            Named::File(path) => Descriptor::File(path),
        }
    }

    /// What an epoll watches. One that it watches in turn is not looked into.
    fn watched_by(&self, thread: u32, epoll: u32) -> Watched {
        let path = format!("/proc/{}/task/{thread}/fdinfo/{epoll}", self.pid);
        let Ok(file) = File::open(path) else {
            return Watched::default();
        };
        let lines = BufReader::new(file.take(MOST_READ)).split(b'\n');
        let descriptors = lines.map_while(Result::ok).filter_map(|line| target(&line));
        self.several(thread, descriptors)
    }

    /// Several descriptors.
    pub(super) fn several(&self, thread: u32, all: impl Iterator<Item = u32>) -> Watched {
        let mut watched = Watched::default();
        for descriptor in all {
            if watched.named.len() < MOST_NAMED {
                let what = self.described(thread, descriptor, false);
                watched.named.push((descriptor, what));
            }
            watched.count += 1;
        }
        watched.named.sort_by_key(|(descriptor, _)| *descriptor);
        watched
    }
}

/// The descriptor in a line `tfd:        5 events: …`.
fn target(line: &[u8]) -> Option<u32> {
    let rest = str::from_utf8(line.strip_prefix(b"tfd:")?).ok()?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// What the link of a descriptor says.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Pipe(u64),
    Socket(u64),
    Kernel(String),
    File(Vec<u8>),
}

impl Named {
    fn of(link: &Path) -> Named {
        let text = link.as_os_str().as_bytes();
        let inode = |kind: &[u8]| {
            let number = text.strip_prefix(kind)?.strip_suffix(b"]")?;
            str::from_utf8(number).ok()?.parse().ok()
        };
        if let Some(inode) = inode(b"pipe:[") {
            return Named::Pipe(inode);
        }
        if let Some(inode) = inode(b"socket:[") {
            return Named::Socket(inode);
        }
        match text.strip_prefix(b"anon_inode:") {
            Some(kind) => {
                let kind = String::from_utf8_lossy(kind);
                Named::Kernel(kind.trim_matches(['[', ']']).to_owned())
            }
            None => Named::File(text.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_its_descriptor_is() {
        let named = |text: &str| Named::of(Path::new(text));
        assert_eq!(named("pipe:[4711]"), Named::Pipe(4711));
        assert_eq!(named("socket:[4711]"), Named::Socket(4711));
        assert_eq!(
            named("anon_inode:[eventpoll]"),
            Named::Kernel("eventpoll".to_owned())
        );
        assert_eq!(
            named("anon_inode:inotify"),
            Named::Kernel("inotify".to_owned())
        );
        let file = |text: &str| Named::File(text.as_bytes().to_vec());
        for text in ["/pipe:[1]", "pipe:[x]", "/tmp/x (deleted)"] {
            assert_eq!(named(text), file(text));
        }
    }

    #[test]
    fn what_an_epoll_watches_stands_in_its_lines() {
        assert_eq!(
            target(b"tfd:        5 events:       19 data:                5  pos:0 ino:1 sdev:9"),
            Some(5)
        );
        assert_eq!(target(b"flags:\t02"), None);
        assert_eq!(target(b"tfd: -1"), None);
    }
}
