//! A directory tree that is looked at as a host: usually `/`. Reads are bounded, and every failure is told apart from
//! absence.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Fact;

/// What one file is read of at most. The largest that is read is the kernel's symbol list.
const MOST_BYTES: u64 = 64 << 20;

/// The kernel's own file systems, each with what is in every one of them. Where they are not mounted, what is not there says
/// nothing of the kernel.
const KERNELS: [(&str, &str); 2] = [("/proc", "/proc/self"), ("/sys", "/sys/kernel")];

/// The tree. Paths that go in and come out are those of the examined host, without the root in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// This host.
    pub(crate) fn host() -> Tree {
        Tree::below("/")
    }

    /// A directory that holds `etc`, `proc`, `sys` and so on of a host.
    pub(crate) fn below(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    /// Whether it is the host itself, whose programs can be asked.
    pub(crate) fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The place of a path of the host.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path of the host for a place in the tree.
    pub(crate) fn path_of(&self, place: &Path) -> String {
        match place.strip_prefix(&self.root) {
            Ok(relative) => Path::new("/").join(relative).display().to_string(),
            Err(_) => place.display().to_string(),
        }
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, path: &str) -> Fact<Vec<u8>> {
        self.first_bytes(path, MOST_BYTES)
    }

    fn first_bytes(&self, path: &str, most: u64) -> Fact<Vec<u8>> {
        let opened = fs::OpenOptions::new()
            .read(true)
            // A pipe in the place of a file must not hold us up.
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(self.at(path));
        let read = opened.and_then(|file: File| {
            let mut bytes = Vec::new();
            file.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Fact::found(path, bytes),
            Err(error) => self.failed(path, &error),
        }
    }

    /// The text of a file; bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn text(&self, path: &str) -> Fact<String> {
        self.bytes(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first lines of a long text file: of a page.
    pub(crate) fn beginning(&self, path: &str) -> Fact<String> {
        const PAGE: u64 = 4 << 10;
        self.first_bytes(path, PAGE)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a file of one line.
    pub(crate) fn line(&self, path: &str) -> Fact<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// A file that holds one number.
    pub(crate) fn number(&self, path: &str) -> Fact<i64> {
        self.line(path).and_then(|text| {
            text.parse()
                .map_err(|_| format!("it holds {text:?}, which is not a number"))
        })
    }

    /// What is known of a file without opening it, symbolic links followed.
    pub(crate) fn metadata(&self, path: &str) -> Fact<Metadata> {
        match fs::metadata(self.at(path)) {
            Ok(metadata) => Fact::found(path, metadata),
            Err(error) => self.failed(path, &error),
        }
    }

    /// Whether something is there.
    pub(crate) fn exists(&self, path: &str) -> Fact<bool> {
        self.metadata(path).map(|_| true)
    }

    /// Where a symbolic link leads.
    pub(crate) fn link(&self, path: &str) -> Fact<String> {
        match fs::read_link(self.at(path)) {
            Ok(target) => Fact::found(path, target.display().to_string()),
            Err(error) => self.failed(path, &error),
        }
    }

    /// Names in a directory, sorted.
    pub(crate) fn names(&self, path: &str) -> Fact<Vec<String>> {
        match fs::read_dir(self.at(path)) {
            Ok(entries) => {
                let mut names: Vec<String> = entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect();
                names.sort();
                Fact::found(path, names)
            }
            Err(error) => self.failed(path, &error),
        }
    }

    /// Which of the kernel's own file systems are not mounted, as in a chroot that nobody has prepared.
    pub(crate) fn unmounted(&self) -> Vec<String> {
        KERNELS
            .iter()
            .filter(|(_, sign)| !self.is_there(sign))
            .map(|(place, _)| (*place).to_owned())
            .collect()
    }

    fn is_there(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    fn failed<T>(&self, path: &str, error: &std::io::Error) -> Fact<T> {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                let kernels = KERNELS
                    .iter()
                    .find(|(place, _)| Path::new(path).starts_with(place));
                match kernels {
                    Some((place, sign)) if !self.is_there(sign) => {
                        Fact::unknown(path, format!("{place} is not mounted"))
                    }
                    _ => Fact::absent(path),
                }
            }
            ErrorKind::PermissionDenied => Fact::unknown(path, "this user may not read it"),
            _ => Fact::unknown(path, format!("it cannot be read ({error})")),
        }
    }
}
