//! Places to write to. What is created is readable by its owner alone; an existing file keeps its mode and its owner.
//! Other users' links are not followed where anyone can create one, nor to places that their owner could not write to.
//!
//! A stream is appended to ([`open`]), so that it continues at the end of its file, even if someone truncates that. A
//! complete file is put in place once it is complete ([`Draft`]), so that no one ever finds half of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, fstatfs,
    ftruncate, linkat, mkdirat, openat, readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::stream::kind;
use super::{Stream, reopen, special};

/// Mode of a created file: for its owner alone.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// How many links are followed, as in the kernel.
const MOST_LINKS: usize = 40;
/// What `fstatfs` says of a file below `/proc`, where links lead to objects rather than to names.
const PROC: i64 = 0x9fa0;
/// How often something may appear or vanish between a check and an open.
const ATTEMPTS: usize = 16;

/// The result of opening a place.
#[derive(Debug)]
pub enum Opened {
    /// It can be written to.
    Stream(Stream),
    /// It is a pipe that has not been opened for reading yet.
    NobodyReads,
}

/// Opens a place to write a stream to: a new file, an existing file, which is truncated, a pipe, a device.
///
/// # Errors
///
/// The error from the system, or a reason in words.
pub fn open(path: &Path) -> io::Result<Opened> {
    for _ in 0..ATTEMPTS {
        let place = Place::find(path)?;
        let Some((found, stat)) = &place.found else {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            match openat(&place.directory, &place.name, flags, PRIVATE) {
                Ok(file) => return Ok(Opened::Stream(Stream::shared(file.as_fd())?)),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        return match kind(stat) {
            FileType::RegularFile => {
                let file = reopen(found, OFlags::WRONLY | OFlags::APPEND)?;
                ftruncate(&file, 0)?;
                Ok(Opened::Stream(Stream::shared(file.as_fd())?))
            }
            FileType::Fifo => match reopen(found, OFlags::WRONLY | OFlags::APPEND) {
                Ok(file) => Ok(Opened::Stream(Stream::own(file))),
                Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                    Ok(Opened::NobodyReads)
                }
                Err(error) => Err(error),
            },
            FileType::CharacterDevice => {
                Ok(Opened::Stream(Stream::own(reopen(found, OFlags::WRONLY)?)))
            }
            other => Err(refused(format!(
                "it is {}",
                special(other).unwrap_or("no ordinary file")
            ))),
        };
    }
    Err(refused("it comes and goes"))
}

/// Creates a file that must not exist yet, for its owner alone.
///
/// # Errors
///
/// The error from the system.
pub fn create_new(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, PRIVATE)?.into())
}

/// Makes a directory for its owner alone, unless there is one. Answers whether it did.
///
/// # Errors
///
/// The error from the system; `NotADirectory` where something else is there.
pub fn make_directory(path: &Path) -> io::Result<bool> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) if path.is_dir() => Ok(false),
        Err(Errno::EXIST) => Err(Errno::NOTDIR.into()),
        Err(error) => Err(error.into()),
    }
}

/// A file in the making, which is put in place when it is complete.
#[derive(Debug)]
pub struct Draft {
    file: File,
    place: Place,
    /// Its temporary name, where it has to have one.
    name: Option<OsString>,
}

impl Draft {
    /// Begins a file for `path`, with this mode if none exists there yet.
    ///
    /// `None` where the place is not a file that could be replaced, and must be written to as it is: a pipe, a device,
    /// a file with several names, or one whose owner would change.
    ///
    /// # Errors
    ///
    /// The error from the system, or a reason in words.
    pub fn new(path: &Path, mode: Mode) -> io::Result<Option<Draft>> {
        let place = Place::find(path)?;
        if let Some((_, stat)) = &place.found
            && (kind(stat) != FileType::RegularFile || stat.st_nlink > 1)
        {
            return Ok(None);
        }
        // A user who may not write to the file may not replace it either, even where its directory permits that.
        if let Some((found, _)) = &place.found {
            drop(reopen(found, OFlags::WRONLY)?);
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let nameless = openat(&place.directory, ".", flags | OFlags::TMPFILE, PRIVATE);
        let (file, name) = match nameless {
            Ok(file) => (file, None),
            // Not every file system supports unnamed files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = place.free_name(|name| {
                    openat(
                        &place.directory,
                        name,
                        flags | OFlags::CREATE | OFlags::EXCL,
                        PRIVATE,
                    )
                })?;
                (name.1, Some(name.0))
            }
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if place.found.is_some() => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let draft = Draft {
            file: file.into(),
            place,
            name,
        };
        if let Some((_, stat)) = &draft.place.found {
            let now = fstat(&draft.file)?;
            let owner = (now.st_uid != stat.st_uid).then(|| Uid::from_raw(stat.st_uid));
            let group = (now.st_gid != stat.st_gid).then(|| Gid::from_raw(stat.st_gid));
            if fchown(&draft.file, owner, group).is_err() {
                return Ok(None);
            }
            fchmod(&draft.file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        } else if mode != PRIVATE {
            fchmod(&draft.file, mode)?;
        }
        Ok(Some(draft))
    }

    /// Takes back what was written.
    ///
    /// # Errors
    ///
    /// The error from the system.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Puts the file in place, replacing what was there.
    ///
    /// # Errors
    ///
    /// The error from the system. The place is then as it was before.
    pub fn put(mut self) -> io::Result<()> {
        // Find out now that the disk has no room, not after another file has been replaced.
        self.file.sync_data()?;
        if self.name.is_none() {
            let nameless = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let (name, ()) = self.place.free_name(|name| {
                linkat(
                    CWD,
                    &nameless,
                    &self.place.directory,
                    name,
                    AtFlags::SYMLINK_FOLLOW,
                )
            })?;
            self.name = Some(name);
        }
        let directory = &self.place.directory;
        if let Some(name) = &self.name {
            renameat(directory, name, directory, &self.place.name)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(&self.place.directory, name, AtFlags::empty());
        }
    }
}

fn refused(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.into())
}

/// Where a path leads: a name in a directory that is held open, and the file that has that name.
#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Opened with `O_PATH`.
    found: Option<(OwnedFd, Stat)>,
}

impl Place {
    /// Follows a path component by component, so that every link on it is seen.
    fn find(path: &Path) -> io::Result<Place> {
        let us = geteuid().as_raw();
        let mut ahead: VecDeque<OsString> = VecDeque::new();
        push(&mut ahead, path);
        let ends_in_slash = path.as_os_str().as_bytes().ends_with(b"/");
        let mut directory = open_directory(CWD, OsStr::new("."))?;
        let mut links = 0;
        // Other users whose links we have followed.
        let mut guides: Vec<u32> = Vec::new();
        loop {
            let Some(name) = ahead.pop_front() else {
                return Err(Errno::ISDIR.into());
            };
            if name == "/" || name == ".." {
                directory = open_directory(directory.as_fd(), &name)?;
                continue;
            }
            let last = ahead.is_empty();
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let found = match openat(&directory, &name, flags, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT) if last && !ends_in_slash => {
                    let stat = fstat(&directory)?;
                    led_by_its_owner(&guides, stat.st_uid)?;
                    return Ok(Place {
                        directory,
                        name,
                        found: None,
                    });
                }
                Err(error) => return Err(error.into()),
            };
            let mut found = found;
            let mut stat = fstat(&found)?;
            if kind(&stat) == FileType::Symlink {
                if fstatfs(&directory)?.f_type as i64 == PROC {
                    // /proc/self/fd/1, which /dev/stdout leads to.
                    let flags = OFlags::PATH | OFlags::CLOEXEC;
                    found = openat(&directory, &name, flags, Mode::empty())?;
                    stat = fstat(&found)?;
                } else {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let around = fstat(&directory)?;
                    if stat.st_uid != us && anybodys(&around) && stat.st_uid != around.st_uid {
                        return Err(refused(format!(
                            "{} is a link of another user (uid {}) in a directory where everybody may put one",
                            crate::text::Foreign::os(&name),
                            stat.st_uid
                        )));
                    }
                    if us == 0 && stat.st_uid != 0 {
                        guides.push(stat.st_uid);
                    }
                    let target = readlinkat(&found, c"", Vec::new())?;
                    push_front(&mut ahead, Path::new(OsStr::from_bytes(target.as_bytes())));
                    continue;
                }
            }
            match kind(&stat) {
                FileType::Directory if !last => directory = found,
                _ if !last => return Err(Errno::NOTDIR.into()),
                FileType::Directory => return Err(Errno::ISDIR.into()),
                _ if ends_in_slash => return Err(Errno::NOTDIR.into()),
                kind => {
                    led_by_its_owner(&guides, stat.st_uid)?;
                    let around = fstat(&directory)?;
                    let ordinary = matches!(kind, FileType::RegularFile | FileType::Fifo);
                    if ordinary
                        && stat.st_uid != us
                        && anybodys(&around)
                        && stat.st_uid != around.st_uid
                    {
                        return Err(refused(format!(
                            "it belongs to another user (uid {}), in a directory where everybody may put something",
                            stat.st_uid
                        )));
                    }
                    return Ok(Place {
                        directory,
                        name,
                        found: Some((found, stat)),
                    });
                }
            }
        }
    }

    /// Creates something beside the place under a name that is not in use.
    fn free_name<T>(
        &self,
        make: impl Fn(&OsStr) -> rustix::io::Result<T>,
    ) -> io::Result<(OsString, T)> {
        for number in 0..ATTEMPTS {
            let mut name = OsString::from(format!(".pystap-{}-{number}-", std::process::id()));
            // A name has room for 255 bytes.
            let kept = self
                .name
                .as_bytes()
                .get(..200)
                .unwrap_or(self.name.as_bytes());
            name.push(OsStr::from_bytes(kept));
            match make(&name) {
                Ok(made) => return Ok((name, made)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }
}

/// Appends the components of a path, in order.
fn push(ahead: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components() {
        match component {
            Component::CurDir | Component::Prefix(_) => {}
            Component::RootDir => ahead.push_back(OsString::from("/")),
            Component::ParentDir => ahead.push_back(OsString::from("..")),
            Component::Normal(name) => ahead.push_back(name.to_owned()),
        }
    }
}

/// The same, in front of the components that are still ahead.
fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    let mut first = VecDeque::new();
    push(&mut first, path);
    first.append(ahead);
    *ahead = first;
}

fn open_directory(from: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(from, name, flags, Mode::empty())?)
}

/// Whether anyone may create files in a directory: `/tmp`.
fn anybodys(directory: &Stat) -> bool {
    directory.st_mode & 0o002 != 0
}

/// Root follows another user's link only to where that user could have written without us.
fn led_by_its_owner(guides: &[u32], owner: u32) -> io::Result<()> {
    match guides.iter().find(|&&guide| guide != owner) {
        None => Ok(()),
        Some(guide) => Err(refused(format!(
            "a link of another user (uid {guide}) leads there, where that user may not write"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use rustix::fs::mknodat;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").mode() & 0o7777
    }

    fn stream(path: &Path) -> Stream {
        match open(path).expect("it can be opened") {
            Opened::Stream(stream) => stream,
            Opened::NobodyReads => panic!("{}", path.display()),
        }
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        stream(&new).write(b"x").expect("written");
        assert_eq!(mode_of(&new), 0o600);
        fs::write(&old, "before").expect("written");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).expect("changed");
        stream(&old).write(b"x").expect("written");
        assert_eq!(
            (mode_of(&old), fs::read(&old).expect("read")),
            (0o640, b"x".to_vec())
        );
    }

    #[test]
    fn a_stream_goes_on_where_its_file_ends_after_somebody_has_cut_it() {
        let dir = tempfile::tempdir().expect("a directory");
        for existing in [false, true] {
            let path = dir.path().join(existing.to_string());
            if existing {
                fs::write(&path, "before").expect("written");
            }
            let stream = stream(&path);
            stream.write(b"rotated away").expect("written");
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&path)
                .expect("cut");
            stream.write(b"after").expect("written");
            assert_eq!(fs::read(&path).expect("read"), b"after");
        }
    }

    #[test]
    fn a_pipe_without_a_reader_says_so_and_with_one_is_a_stream() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, PRIVATE, 0).expect("a pipe");
        assert!(matches!(open(&path), Ok(Opened::NobodyReads)));
        let reader = openat(CWD, &path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        let _reader = reader.expect("a reader");
        assert_eq!(stream(&path).write(b"x").expect("written"), 1);
    }

    #[test]
    fn directories_sockets_and_loops_of_links_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        symlink("loop", dir.path().join("loop")).expect("a link");
        fs::write(dir.path().join("file"), "").expect("written");
        for name in ["", "socket", "loop", "file/below", "missing/", "file/"] {
            let path = dir.path().join(name);
            assert!(open(&path).is_err(), "{}", path.display());
            assert!(!dir.path().join("missing").exists());
        }
    }

    #[test]
    fn our_own_links_are_followed_also_by_a_draft_and_so_are_those_of_proc() {
        let dir = tempfile::tempdir().expect("a directory");
        let (link, file) = (dir.path().join("link"), dir.path().join("sub/file"));
        fs::create_dir(dir.path().join("sub")).expect("created");
        symlink("sub/../sub/./file", &link).expect("a link");
        stream(&link).write(b"one").expect("written");
        assert_eq!(fs::read(&file).expect("read"), b"one");
        let mut draft = Draft::new(&link, PRIVATE)
            .expect("a draft")
            .expect("a file");
        draft.write_all(b"two").expect("written");
        assert_eq!(fs::read(&file).expect("read"), b"one");
        draft.put().expect("put");
        assert_eq!(fs::read(&file).expect("read"), b"two");
        assert!(link.is_symlink());
        let held = fs::File::create(dir.path().join("held")).expect("a file");
        let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
        stream(Path::new(&magic)).write(b"x").expect("written");
        assert_eq!(fs::read(dir.path().join("held")).expect("read"), b"x");
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_nothing_and_one_that_is_put_keeps_mode_and_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let names = || fs::read_dir(dir.path()).expect("read").count();
        let begun = Draft::new(&path, PRIVATE)
            .expect("a draft")
            .expect("a file");
        drop(begun);
        assert_eq!(names(), 0);
        fs::write(&path, "before").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        let mut draft = Draft::new(&path, PRIVATE)
            .expect("a draft")
            .expect("a file");
        draft.write_all(b"after").expect("written");
        draft.put().expect("put");
        assert_eq!(
            (mode_of(&path), fs::read(&path).expect("read")),
            (0o644, b"after".to_vec())
        );
        assert_eq!(names(), 1);
        fs::hard_link(&path, dir.path().join("other")).expect("a second name");
        assert!(Draft::new(&path, PRIVATE).expect("looked at").is_none());
    }
}
