//! A directory with the agent's library: what it contains, how that gets there, and how it is removed, name by name.
//! Used for our own directories and, in a process that has the target's rights (`visit.rs`), for those created for a
//! target.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, mkfifoat, openat,
    openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::embedded;
use crate::files::{Look, look_at};

/// The library.
pub(super) const LIBRARY: &str = embedded::NAME;
/// The directory for PYTHONPATH, and its contents.
pub(super) const SITE: &str = "site";
const CUSTOMIZE: [&str; 2] = ["sitecustomize.py", "usercustomize.py"];
/// A file where Python would create a directory for compiled modules, so that it creates none.
const NO_CACHE: &str = "__pycache__";
/// What interpreters before 3.2 create instead.
const COMPILED: [&str; 4] = [
    "sitecustomize.pyc",
    "sitecustomize.pyo",
    "usercustomize.pyc",
    "usercustomize.pyo",
];

/// The identity of a directory, whatever its path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    pub(super) fn of(file: impl AsFd) -> io::Result<Identity> {
        let stat = fstat(file)?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

/// Opens a directory within another, on the same file system and not through a link.
pub(super) fn open(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(parent, name, flags, Mode::empty(), within)?)
}

/// Creates a directory that only we can access; fails if anything of this name exists.
pub(super) fn create(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    mkdirat(parent, name, Mode::from(0o700))?;
    let made = open(parent, name).and_then(|made| {
        if is_ours(&made)? {
            Ok(made)
        } else {
            Err(io::Error::other("it is somebody else's already"))
        }
    });
    if made.is_err() {
        let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
    }
    made
}

/// Whether a directory belongs to us and no one else may write there.
pub(super) fn is_ours(directory: &OwnedFd) -> io::Result<bool> {
    let stat = fstat(directory)?;
    Ok(stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o022 == 0)
}

/// Whether a file is a regular one.
pub(super) fn is_regular(file: impl AsFd) -> io::Result<bool> {
    let mode = fstat(file)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::RegularFile)
}

/// Makes the contents of a directory readable for everyone.
pub(super) fn publish(directory: &OwnedFd) -> io::Result<()> {
    Ok(fchmod(directory, Mode::from(0o755))?)
}

/// The library in one of our directories, written if it is missing. It gets there by a rename: a file of the right size
/// is complete.
pub(super) fn library(directory: &OwnedFd) -> io::Result<File> {
    match present_library(directory) {
        Ok(library) => Ok(library),
        Err(_) => {
            write(directory, LIBRARY, embedded::library(), 0o755)?;
            present_library(directory)
        }
    }
}

/// The library in one of our directories, if it is there.
pub(super) fn present_library(directory: &OwnedFd) -> io::Result<File> {
    let file = look_at(directory, Path::new(LIBRARY), Look::File)?;
    let stat = fstat(&file)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_size != embedded::library().len() as i64 {
        return Err(io::Error::other("it is not the library"));
    }
    Ok(file)
}

/// Creates the directory for PYTHONPATH in one of our directories.
pub(super) fn site(directory: &OwnedFd) -> io::Result<()> {
    let site = match create(directory, SITE) {
        Ok(site) => site,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(directory, SITE)?,
        Err(error) => return Err(error),
    };
    write(&site, NO_CACHE, b"", 0o644)?;
    let text = super::environment::SITECUSTOMIZE.as_bytes();
    for name in CUSTOMIZE {
        write(&site, name, text, 0o644)?;
    }
    publish(&site)
}

/// Writes a file of ours, which appears complete or not at all.
pub(super) fn write(directory: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || openat(directory, draft.as_str(), flags, Mode::from(0o600));
    let file = match create() {
        // From a process that had our ID and is gone.
        Err(Errno::EXIST) => {
            unlinkat(directory, draft.as_str(), AtFlags::empty())?;
            create()
        }
        other => other,
    };
    let file = File::from(file?);
    let written = (&file)
        .write_all(bytes)
        .and_then(|()| Ok(fchmod(&file, Mode::from(mode))?))
        .and_then(|()| Ok(renameat(directory, draft.as_str(), directory, name)?));
    if written.is_err() {
        let _ = unlinkat(directory, draft.as_str(), AtFlags::empty());
    }
    written
}

fn draft(name: &str) -> String {
    format!("{name}.new")
}

/// Creates a FIFO that a target can write a message into, and opens it for reading. It holds no more than a pipe does,
/// and a non-blocking open for writing fails at once when no one reads any more.
pub(super) fn report(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let _ = unlinkat(directory, name, AtFlags::empty());
    mkfifoat(directory, name, Mode::from(0o600))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty())?;
    let stat = fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo || stat.st_uid != geteuid().as_raw()
    {
        return Err(io::Error::other("it is not what was made"));
    }
    Ok(File::from(opened))
}

/// Removes one file and its draft. Never a directory, and never a mount point.
pub(super) fn remove_file(directory: &OwnedFd, name: &str) {
    let _ = unlinkat(directory, name, AtFlags::empty());
    let _ = unlinkat(directory, draft(name).as_str(), AtFlags::empty());
}

/// Removes what we put into a directory, by name.
pub(super) fn empty(directory: &OwnedFd, files: &[String], but_library: bool) {
    for name in files {
        remove_file(directory, name);
    }
    if let Ok(site) = open(directory, SITE) {
        for name in CUSTOMIZE.iter().chain(&[NO_CACHE]).chain(&COMPILED) {
            remove_file(&site, name);
        }
        let _ = unlinkat(directory, SITE, AtFlags::REMOVEDIR);
    }
    if !but_library {
        remove_file(directory, LIBRARY);
    }
}

/// The result of removing a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Removal {
    /// It is gone, or was before.
    Gone,
    /// Something else has its name; it was left alone.
    Another,
    /// It contains something that is not ours.
    Occupied,
}

/// Removes one of our directories with what we put into it, if its name still leads to it.
pub(super) fn remove(
    parent: &OwnedFd,
    name: &str,
    identity: Identity,
    files: &[String],
) -> io::Result<Removal> {
    let directory = match open(parent, name) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Gone),
        // A link, a file, or a mount point.
        Err(error)
            if [Errno::LOOP, Errno::NOTDIR, Errno::XDEV]
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            return Ok(Removal::Another);
        }
        Err(error) => return Err(error),
    };
    let stat = fstat(&directory)?;
    if Identity::of(&directory)? != identity || stat.st_uid != geteuid().as_raw() {
        return Ok(Removal::Another);
    }
    empty(&directory, files, false);
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Removal::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(Removal::Occupied),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    fn place() -> (tempfile::TempDir, OwnedFd, OwnedFd, Identity) {
        let directory = tempfile::tempdir().expect("a directory");
        let parent: OwnedFd = File::open(directory.path()).expect("opened").into();
        let own = create(&parent, "own").expect("made");
        let identity = Identity::of(&own).expect("known");
        (directory, parent, own, identity)
    }

    #[test]
    fn what_we_put_into_a_directory_goes_again_by_name_and_what_is_not_ours_stays() {
        let (directory, parent, own, identity) = place();
        let at = |name: &str| directory.path().join("own").join(name);
        library(&own).expect("written");
        site(&own).expect("written");
        site(&own).expect("written over itself");
        write(&own, "script.py", b"pass", 0o644).expect("written");
        fs::write(at("site/sitecustomize.pyc"), "").expect("written");
        fs::create_dir(at("theirs")).expect("made");
        fs::write(at("theirs/file"), "kept").expect("written");
        symlink(directory.path().join("own/theirs"), at("report")).expect("made");
        let files = [
            "script.py".to_owned(),
            "report".to_owned(),
            "theirs".to_owned(),
        ];
        let removal = remove(&parent, "own", identity, &files).expect("possible");
        assert_eq!(removal, Removal::Occupied);
        assert_eq!(fs::read_to_string(at("theirs/file")).expect("kept"), "kept");
        let left: Vec<_> = fs::read_dir(directory.path().join("own"))
            .expect("it is there")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_dir_all(at("theirs")).expect("removed");
        let removal = remove(&parent, "own", identity, &files).expect("possible");
        assert_eq!(removal, Removal::Gone);
        assert!(!directory.path().join("own").exists());
        let removal = remove(&parent, "own", identity, &files).expect("possible");
        assert_eq!(removal, Removal::Gone);
    }

    #[test]
    fn another_directory_of_the_same_name_is_left_alone() {
        let (directory, parent, own, identity) = place();
        library(&own).expect("written");
        fs::rename(directory.path().join("own"), directory.path().join("moved")).expect("moved");
        let removed = || remove(&parent, "own", identity, &[]).expect("possible");
        symlink("moved", directory.path().join("own")).expect("made");
        assert_eq!(removed(), Removal::Another);
        fs::remove_file(directory.path().join("own")).expect("removed");
        fs::create_dir(directory.path().join("own")).expect("made");
        fs::write(directory.path().join("own").join(LIBRARY), "theirs").expect("written");
        assert_eq!(removed(), Removal::Another);
        assert!(directory.path().join("own").join(LIBRARY).exists());
        assert!(directory.path().join("moved").join(LIBRARY).exists());
    }

    #[test]
    fn a_fifo_where_the_library_should_be_keeps_nobody_waiting() {
        let (directory, parent, own, identity) = place();
        mkfifoat(&own, LIBRARY, Mode::from(0o600)).expect("made");
        present_library(&own).expect_err("no library");
        library(&own).expect("written in its place");
        remove_file(&own, LIBRARY);
        mkfifoat(&own, LIBRARY, Mode::from(0o600)).expect("made");
        let removal = remove(&parent, "own", identity, &[]).expect("possible");
        assert_eq!(removal, Removal::Gone);
        assert!(!directory.path().join("own").exists());
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_report_is_read_when_there_is_one_and_nobody_waits_for_a_reader_that_is_gone() {
        let (directory, _parent, own, _) = place();
        let mut reader = report(&own, "report").expect("made");
        let path = directory.path().join("own/report");
        let write = |path: &Path| {
            Command::new("/usr/bin/python3")
                .args(["-c", "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK), b'word')"])
                .arg(path)
                .output()
                .expect("it runs")
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("nothing yet");
        assert_eq!(text, "");
        assert!(write(&path).status.success());
        reader.read_to_string(&mut text).expect("a word");
        assert_eq!(text, "word");
        drop(reader);
        let late = write(&path);
        assert!(String::from_utf8_lossy(&late.stderr).contains("ENXIO") || !late.status.success());
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn python_leaves_nothing_beside_our_sitecustomize() {
        let (directory, parent, own, identity) = place();
        site(&own).expect("written");
        publish(&own).expect("published");
        let site = directory.path().join("own").join(SITE);
        let mode = fs::metadata(&site)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        let output = Command::new("/usr/bin/python3")
            .args(["-c", "import sitecustomize; print(sitecustomize.__file__)"])
            .env("PYTHONPATH", &site)
            .env_remove("PYSTAP_AGENT")
            .output()
            .expect("it runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let names = fs::read_dir(&site).expect("it is there").count();
        assert_eq!(
            names, 3,
            "our two names and the file that stands for a cache"
        );
        let removal = remove(&parent, "own", identity, &[]).expect("possible");
        assert_eq!(removal, Removal::Gone);
    }
}
