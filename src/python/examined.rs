//! Examines one file: whether it contains an interpreter, which version, which image. Remembers the results, because
//! two hundred workers of one service share one interpreter. Does not care how the file was found.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::contents::Contents;
use super::{PythonError, name};
use crate::elf::{self, ElfError, Image};

/// How many bytes of a file are searched for Python's strings. A debug build of CPython with static libraries loads
/// half of that.
const MOST_SEARCHED: usize = 64 << 20;

/// The identity of a file, whichever paths lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev` of stat(2).
    pub device: u64,
    /// `st_ino` of stat(2).
    pub inode: u64,
}

impl FileId {
    /// The file that a path leads to, following symbolic links (those in /proc also lead to deleted files).
    ///
    /// # Errors
    ///
    /// The error from stat(2).
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

/// The files examined so far. Keep one for the length of a scan, not longer: files change.
#[derive(Debug, Default)]
pub struct Examined(HashMap<FileId, Examination>);

/// What a file turned out to be.
#[derive(Debug, Clone)]
pub(super) struct Examination {
    pub file: FileId,
    pub contents: Contents,
    /// `None` for what is not ELF, and for ELF that cannot be read and contains no interpreter.
    pub image: Option<Arc<Image>>,
    /// Whether the file begins with `#!`.
    pub script: bool,
}

impl Examination {
    /// Whether the interpreter is in this file: recognised by its strings in a file named like Python, and by CPython's
    /// marks in any other, since a program with a linked-in interpreter is only of use to us if it has marks.
    pub(super) fn is_interpreter(&self) -> bool {
        self.contents.carries_interpreter || self.image.as_deref().is_some_and(has_marks)
    }
}

impl Examined {
    /// Examines the file at `reach`. `path` is its name, which says which contents to expect.
    pub(super) fn examine(
        &mut self,
        path: &Path,
        reach: &Path,
    ) -> Result<Examination, PythonError> {
        let unreadable = |reason| PythonError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        let file = elf::open_ordinary(reach).map_err(|error| match error {
            ElfError::Unreadable { reason, .. } => unreadable(reason),
            _ => unreadable(io::Error::other("not an ordinary file")),
        })?;
        let metadata = file.metadata().map_err(unreadable)?;
        let id = FileId::from(&metadata);
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let mut head = [0; 2];
        let script = file.read_exact_at(&mut head, 0).is_ok() && head == *b"#!";
        let image = Image::of_file(reach, &file).map_err(Box::from);
        // What is called otherwise and has none of CPython's marks is not searched for Python's strings: some programs are
        // huge, and an editor may well contain them.
        let contents = if name::may_be_interpreter(path)
            || name::may_be_library(path)
            || image.as_ref().is_ok_and(has_marks)
        {
            contents(path, &file)
        } else {
            Contents::default()
        };
        let image = match image {
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

/// The contents of a file that is named like Python or has its marks. Strings are mostly apart from code, which is the larger part of a program.
fn contents(path: &Path, file: &File) -> Contents {
    let language = name::language(path);
    let Ok(mut bytes) = elf::loaded(path, file, false, MOST_SEARCHED) else {
        return Contents::default();
    };
    let found = Contents::of(&bytes, language.as_ref());
    if found
        .version
        .as_ref()
        .is_some_and(|version| version.micro.is_some())
    {
        return found;
    }
    let left = MOST_SEARCHED.saturating_sub(bytes.len());
    bytes.extend(elf::loaded(path, file, true, left).unwrap_or_default());
    Contents::of(&bytes, language.as_ref())
}

/// The SDT provider of CPython's own marks.
const PROVIDER: &str = "python";

/// Whether the image has marks of CPython.
pub(super) fn has_marks(image: &Image) -> bool {
    image.marks.iter().any(|mark| mark.provider == PROVIDER)
}
