//! Examining one file: is an interpreter in it, which version, which image. Remembers what it has seen, because two
//! hundred workers of one service share one interpreter. Does not care how the file was found.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::contents::Contents;
use super::{PythonError, has_marks, name};
use crate::elf::Image;

/// The largest file that is read. Debug builds of CPython with static libraries stay below a tenth of it.
const LARGEST: u64 = 1 << 30;

/// Which file it is, whatever paths lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev` of stat(2).
    pub device: u64,
    /// `st_ino` of stat(2).
    pub inode: u64,
}

impl FileId {
    /// The file that a path leads to, symbolic links followed (those of /proc lead to deleted files as well).
    ///
    /// # Errors
    ///
    /// What stat(2) says.
    pub fn at(path: &Path) -> io::Result<FileId> {
        fs::metadata(path).map(|metadata| FileId::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> FileId {
        FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The files that were examined so far. Keep one for the length of a scan, not longer: files change.
#[derive(Debug, Default)]
pub struct Examined(HashMap<FileId, Examination>);

/// What one file turned out to be.
#[derive(Debug, Clone)]
pub(super) struct Examination {
    pub file: FileId,
    pub contents: Contents,
    /// `None` for what is not ELF and for ELF that cannot be read and carries no interpreter.
    pub image: Option<Arc<Image>>,
    /// The file begins with `#!`.
    pub script: bool,
}

impl Examination {
    /// Whether the interpreter is in this file: known by its strings in a file named like Python, and by CPython's
    /// marks in any other, since a program with an interpreter linked in is of use to us only when it has marks.
    pub(super) fn is_interpreter(&self) -> bool {
        self.contents.carries_interpreter || self.image.as_deref().is_some_and(has_marks)
    }
}

impl Examined {
    /// Examines the file at `reach`. `path` is what it is called, which says which contents to expect.
    pub(super) fn examine(
        &mut self,
        path: &Path,
        reach: &Path,
    ) -> Result<Examination, PythonError> {
        let unreadable = |reason| PythonError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        // Before it is opened: to open a pipe is to wait for whoever writes to it.
        if !fs::metadata(reach).map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::other("not an ordinary file")));
        }
        let mut file = File::open(reach).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let id = FileId::from(&metadata);
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        if metadata.len() > LARGEST {
            return Err(PythonError::TooLarge {
                path: path.to_owned(),
                limit: LARGEST,
            });
        }
        let mut head = [0; 2];
        let script = file.read_exact(&mut head).is_ok() && head == *b"#!";
        // Other programs are not searched for Python's strings: some are huge, and an editor may well mention them.
        let contents = if name::may_be_interpreter(path) || name::may_be_library(path) {
            let mut bytes = head.to_vec();
            (&mut file)
                .take(LARGEST)
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
            Contents::of(&bytes, name::language(path).as_ref())
        } else {
            Contents::default()
        };
        let image = match Image::open(reach).map_err(Box::from) {
            Ok(image) => Some(Arc::new(image)),
            Err(reason) if contents.carries_interpreter => {
                return Err(PythonError::Image(reason));
            }
            Err(_) => None,
        };
        let examination = Examination {
            file: id,
            contents,
            image,
            script,
        };
        self.0.insert(id, examination.clone());
        Ok(examination)
    }
}
