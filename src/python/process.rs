//! The interpreters of a running process, from /proc: its executable and every libpython it has mapped.
//!
//! A process may end at any moment; every failure caused by that is [`PythonError::Ended`].

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, MemoryMaps, Process};

use super::examined::{Examined, FileId, has_marks};
use super::version::Version;
use super::{Interpreter, InterpreterKind, PythonError, foreign, maps, name};

/// `PF_KTHREAD` of linux/sched.h, in the flags of /proc/PID/stat.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What the kernel appends to the path of an unlinked file.
const DELETED: &str = " (deleted)";

impl Interpreter {
    /// The interpreters of a process, the one that runs its code first. More than one when an extension module has
    /// pulled a libpython into an interpreter that is complete without it; a probe may hit either.
    ///
    /// # Errors
    ///
    /// `NoProcess`, `Ended`, `KernelThread`, `NotPython`, `Permission`, `Proc`; and `Unreadable` or `Image` when the
    /// mapped file itself is the problem.
    pub fn of_process(pid: u32) -> Result<Vec<Interpreter>, PythonError> {
        Interpreter::of_process_among(pid, &mut Examined::default())
    }

    /// The same, using what has already been examined: for scans.
    ///
    /// # Errors
    ///
    /// As [`Interpreter::of_process`].
    pub fn of_process_among(
        pid: u32,
        examined: &mut Examined,
    ) -> Result<Vec<Interpreter>, PythonError> {
        of_open_process(&open(pid)?, pid, examined)
    }
}

/// Whether a process has mapped one of these files, without reading any file: a scan of all processes must not read all
/// programs on the host.
///
/// # Errors
///
/// Those of [`Interpreter::of_process`] that concern /proc.
pub(crate) fn maps_one_of(pid: u32, files: &HashSet<FileId>) -> Result<bool, PythonError> {
    let failed = |error| explained(pid, error);
    let process = open(pid)?;
    let executable = process.exe().map_err(failed)?;
    let maps = maps::of(&process).map_err(failed)?;
    Ok(mapped_files(pid, &executable, &maps).iter().any(|mapped| {
        let may_be_one = mapped
            .inode
            .is_none_or(|inode| files.iter().any(|file| file.inode == inode));
        may_be_one
            && match FileId::at(&mapped.handle) {
                Ok(file) => files.contains(&file),
                Err(_) => mapped.inode.is_some(),
            }
    }))
}

/// Whether a process runs an interpreter, judging by names: its program is called Python, or it has mapped a libpython.
/// No file is read, for the same reason.
///
/// # Errors
///
/// Those of [`Interpreter::of_process`] that concern /proc.
pub(crate) fn looks_like_python(pid: u32) -> Result<bool, PythonError> {
    let failed = |error| explained(pid, error);
    let process = open(pid)?;
    if process.stat().map_err(failed)?.flags & KERNEL_THREAD != 0 {
        return Ok(false);
    }
    let executable = process.exe().map_err(failed)?;
    if name::may_be_interpreter(&without_mark_of_deletion(&executable).0) {
        return Ok(true);
    }
    let maps = maps::of(&process).map_err(failed)?;
    Ok(maps.iter().any(|map| match &map.pathname {
        MMapPath::Path(path) => name::may_be_library(&without_mark_of_deletion(path).0),
        _ => false,
    }))
}

/// How many bytes of arguments or of the environment are read; a process may have megabytes of either.
const MOST_READ: u64 = 256 << 10;

/// The beginning of a process's /proc file that may have any length (`cmdline`, `environ`); empty when it cannot be
/// read.
pub(crate) fn beginning(pid: u32, file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/{file}")) {
        let _ = file.take(MOST_READ).read_to_end(&mut bytes);
    }
    bytes
}

/// The address at which a process has mapped this offset of a file.
pub(crate) fn mapped_at(pid: u32, inode: u64, file_offset: u64) -> Option<u64> {
    let maps = maps::of(&Process::new(i32::try_from(pid).ok()?).ok()?).ok()?;
    // The data segment may be mapped in several pieces; the writable one that contains the offset is meant.
    maps.into_iter()
        .filter(|map| map.inode == inode)
        .find(|map| {
            let length = map.address.1 - map.address.0;
            map.perms.contains(MMPermissions::WRITE)
                && (map.offset..map.offset + length).contains(&file_offset)
        })
        .map(|map| map.address.0 + (file_offset - map.offset))
}

/// The address at which a process has mapped the page of a file that contains this offset, for the first time.
pub(crate) fn loaded_at(pid: u32, inode: u64, file_offset: u64) -> Option<u64> {
    let maps = maps::of(&Process::new(i32::try_from(pid).ok()?).ok()?).ok()?;
    let pages = maps.into_iter().filter(|map| map.inode == inode);
    pages
        .filter(|map| map.offset <= file_offset)
        .filter(|map| file_offset - map.offset < map.address.1 - map.address.0)
        .map(|map| map.address.0 + (file_offset - map.offset))
        .min()
}

fn open(pid: u32) -> Result<Process, PythonError> {
    let no_process = PythonError::NoProcess { pid };
    let Ok(id) = i32::try_from(pid) else {
        return Err(no_process);
    };
    Process::new(id).map_err(|error| match error {
        ProcError::NotFound(_) => no_process,
        other => explained(pid, other),
    })
}

/// The process directory is held open, so that a reused process ID cannot mix up two processes.
fn of_open_process(
    process: &Process,
    pid: u32,
    examined: &mut Examined,
) -> Result<Vec<Interpreter>, PythonError> {
    let failed = |error| explained(pid, error);
    let stat = process.stat().map_err(failed)?;
    if stat.flags & KERNEL_THREAD != 0 {
        return Err(PythonError::KernelThread {
            pid,
            name: stat.comm,
        });
    }
    let executable = process.exe().map_err(failed)?;
    let maps = maps::of(process).map_err(failed)?;
    // Without permission to follow it, the root is assumed to be the usual one.
    let root = process.root().unwrap_or_else(|_| PathBuf::from("/"));
    let inside = Inside { pid, root };

    let implied = implied_version(&maps);
    let mut found = Vec::new();
    for mapped in mapped_files(pid, &executable, &maps) {
        let may_be_python = match mapped.kind {
            InterpreterKind::Executable => true,
            InterpreterKind::Library => name::may_be_library(&mapped.path),
        };
        if may_be_python {
            found.extend(inside.interpreter(&mapped, implied.as_ref(), examined)?);
        }
    }
    if found.is_empty() {
        // A process that exits between two of the reads above seems to have nothing mapped.
        if process.exe().is_err() {
            return Err(PythonError::Ended { pid });
        }
        let mapped = mapped_files(pid, &executable, &maps);
        let other = mapped
            .iter()
            .find_map(|mapped| foreign::implementation(&mapped.path));
        return Err(match other {
            Some(implementation) => PythonError::OtherPython {
                pid,
                implementation,
                executable,
            },
            None => PythonError::NotPython { pid, executable },
        });
    }
    // A stable sort: among equals the executable, then the libraries by ascending address.
    found.sort_by_key(|interpreter| {
        interpreter.kind == InterpreterKind::Library && !has_marks(&interpreter.image)
    });
    Ok(found)
}

/// A file that the process has mapped, and the link in /proc that leads to it whatever happened to its path.
pub(super) struct MappedFile {
    kind: InterpreterKind,
    /// The path as the kernel gives it, without the ` (deleted)` suffix.
    pub(super) path: PathBuf,
    deleted: bool,
    handle: PathBuf,
    /// As the mapping states it; used where we may not follow the link.
    inode: Option<u64>,
}

pub(super) fn mapped_files(pid: u32, executable: &Path, maps: &MemoryMaps) -> Vec<MappedFile> {
    let (path, deleted) = without_mark_of_deletion(executable);
    let mut files = vec![MappedFile {
        kind: InterpreterKind::Executable,
        path,
        deleted,
        handle: PathBuf::from(format!("/proc/{pid}/exe")),
        inode: None,
    }];
    let mut seen = HashSet::new();
    for map in maps {
        let MMapPath::Path(path) = &map.pathname else {
            continue;
        };
        if path == executable || !seen.insert((map.dev, map.inode)) {
            continue;
        }
        let (path, deleted) = without_mark_of_deletion(path);
        let (start, end) = map.address;
        files.push(MappedFile {
            kind: InterpreterKind::Library,
            path,
            deleted,
            handle: PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}")),
            inode: Some(map.inode),
        });
    }
    files
}

fn without_mark_of_deletion(path: &Path) -> (PathBuf, bool) {
    match path.to_str().and_then(|path| path.strip_suffix(DELETED)) {
        Some(path) => (PathBuf::from(path), true),
        None => (path.to_owned(), false),
    }
}

/// The language version implied by the mapped extension modules.
pub(super) fn implied_version(maps: &MemoryMaps) -> Option<Version> {
    maps.iter().find_map(|map| match &map.pathname {
        MMapPath::Path(path) => name::language_of_installed(path),
        _ => None,
    })
}

/// A process's view of the file system.
struct Inside {
    pid: u32,
    root: PathBuf,
}

impl Inside {
    /// The interpreter in a mapped file; `None` when it contains none.
    fn interpreter(
        &self,
        mapped: &MappedFile,
        implied: Option<&Version>,
        examined: &mut Examined,
    ) -> Result<Option<Interpreter>, PythonError> {
        let (reach, replaced) = self.reach(mapped);
        let examination = match examined.examine(&mapped.path, &reach) {
            Err(PythonError::Unreadable { reason, .. }) => {
                return Err(match reason.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        PythonError::Permission { pid: self.pid }
                    }
                    std::io::ErrorKind::NotFound => PythonError::Ended { pid: self.pid },
                    _ => PythonError::Unreadable {
                        path: reach,
                        reason,
                    },
                });
            }
            other => other?,
        };
        if !examination.is_interpreter() {
            return Ok(None);
        }
        let Some(image) = examination.image else {
            return Ok(None);
        };
        Ok(Some(Interpreter {
            path: self.as_the_process_sees_it(&mapped.path),
            reach,
            file: examination.file,
            kind: mapped.kind,
            version: examination
                .contents
                .version
                .or_else(|| name::language(&mapped.path))
                .or_else(|| implied.cloned()),
            image,
            replaced,
        }))
    }

    /// A path that leads to the very file that is mapped, and whether the file's own path no longer does.
    ///
    /// Files are compared through the links in /proc and not by the numbers in /proc/PID/maps, because btrfs and
    /// overlayfs report a different device there than stat(2) does.
    fn reach(&self, mapped: &MappedFile) -> (PathBuf, bool) {
        let below_root = self.below_root(&mapped.path);
        let is_mapped_file = |path: &Path| match (FileId::at(&mapped.handle), FileId::at(path)) {
            (Ok(mapped), Ok(there)) => mapped == there,
            (Err(_), Ok(there)) => !mapped.deleted && Some(there.inode) == mapped.inode,
            _ => false,
        };
        [mapped.path.clone(), below_root]
            .into_iter()
            .find(|path| is_mapped_file(path))
            .map_or_else(|| (mapped.handle.clone(), true), |path| (path, false))
    }

    fn below_root(&self, path: &Path) -> PathBuf {
        let inside = self.as_the_process_sees_it(path);
        let relative = inside.strip_prefix("/").unwrap_or(&inside);
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(relative)
    }

    /// The kernel shows us paths from our own root; a process in a chroot sees them from its own.
    fn as_the_process_sees_it(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => path.to_owned(),
        }
    }
}

fn explained(pid: u32, error: ProcError) -> PythonError {
    match error {
        ProcError::NotFound(_) => PythonError::Ended { pid },
        ProcError::PermissionDenied(_) => PythonError::Permission { pid },
        reason => PythonError::Proc { pid, reason },
    }
}

#[cfg(test)]
mod tests;
