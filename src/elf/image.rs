//! Opens an image and gathers what the rest of this module finds in it. Reads one file; starts nothing, looks at no
//! process.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::build_id::build_id;
use super::dynamic::dynamic;
use super::layout::{self, Layout};
use super::source::Source;
use super::{ElfError, Image, Mark, stapsdt};

/// No linker places a fixed-address program below this.
const LEAST_FIXED_ADDRESS: u64 = 0x10_0000;

impl Image {
    /// Reads the ELF file at `path`, following symbolic links. Only regular files are opened, so that no pipe can block
    /// the caller and no device is triggered; only the parts that are needed are read, whatever the size.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ElfError> {
        let path = path.as_ref();
        Self::of_file(path, &open_ordinary(path)?)
    }

    /// Examines an open ELF file. `path` is recorded and named in errors; it is not looked at.
    pub fn of_file(path: impl AsRef<Path>, file: &File) -> Result<Self, ElfError> {
        let path = path.as_ref();
        let source = Source::file(file).map_err(|reason| ElfError::Unreadable {
            path: path.to_path_buf(),
            reason,
        })?;
        Self::examine(path, source)
    }

    /// Examines the bytes of an ELF file. `path` is recorded and named in errors; it is not looked at.
    pub fn parse(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self, ElfError> {
        Self::examine(path.as_ref(), Source::memory(bytes))
    }

    fn examine(path: &Path, source: Source<'_>) -> Result<Self, ElfError> {
        let layout = Layout::parse(path, source)?;
        let (marks, damaged) = stapsdt::marks(&layout);
        let dynamic = dynamic(&layout);
        let startup = [Some(layout.entry), dynamic.init];
        Ok(Self {
            path: path.to_path_buf(),
            build_id: build_id(&layout),
            architecture: layout.architecture,
            marks,
            damaged,
            needed: dynamic.needed,
            run_paths: dynamic.run_paths,
            startup_offset: startup
                .into_iter()
                .flatten()
                .filter(|&address| address != 0)
                .find_map(|address| layout.code_offset(address)),
            python_runtime: layout
                .sections(".PyRuntime")
                .find(|section| section.size.is_some())
                .map(|section| section.file_offset),
        })
    }

    /// The mark `provider:name`, if the image has it.
    pub fn mark(&self, provider: &str, name: &str) -> Option<&Mark> {
        self.marks
            .iter()
            .find(|mark| mark.name == name && mark.provider == provider)
    }

    /// Whether the code at the marks is mapped separately from the beginning of the file, at a different distance in
    /// memory than in the file, as lld lays files out. A fixed-address program, which is far from it as a whole, does
    /// not count.
    pub fn is_displaced(&self) -> bool {
        let sites = self.marks.iter().flat_map(|mark| &mark.sites);
        sites
            .filter_map(|site| site.address.checked_sub(site.file_offset?))
            .any(|distance| (1..LEAST_FIXED_ADDRESS).contains(&distance))
    }
}

/// The parts of an open ELF file that are loaded when it runs, mostly and without holes: those with code or the others,
/// at most `most` bytes. A NUL separates parts that are apart in the file. `path` is named in errors.
///
/// # Errors
///
/// [`ElfError`] when no header of the file says what is loaded.
pub fn loaded(path: &Path, file: &File, code: bool, most: usize) -> Result<Vec<u8>, ElfError> {
    let source = Source::file(file).map_err(|reason| ElfError::Unreadable {
        path: path.to_path_buf(),
        reason,
    })?;
    layout::loaded(path, &source, code, most)
}

/// Opens a regular file of any size, following symbolic links; never a pipe or a device.
///
/// # Errors
///
/// [`ElfError::Unreadable`] and [`ElfError::NotOrdinary`].
pub fn open_ordinary(path: &Path) -> Result<File, ElfError> {
    let unreadable = |reason| ElfError::Unreadable {
        path: path.to_path_buf(),
        reason,
    };
    // Checked before opening, because opening a device can act on it; and again on what was really opened.
    check(path, &std::fs::metadata(path).map_err(unreadable)?)?;
    let file = open_without_waiting(path).map_err(unreadable)?;
    check(path, &file.metadata().map_err(unreadable)?)?;
    Ok(file)
}

fn open_without_waiting(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), ElfError> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(ElfError::NotOrdinary {
        path: path.to_path_buf(),
        what,
    })
}
