//! Whether a path is beyond the reach of others, as OpenSSH's StrictModes requires of a user's files: the file itself,
//! every directory and every link on the way to it belong to root (or, without root, to root or this user), and no one
//! else may write there. A world-writable directory is not made safe by the sticky bit: anyone can recreate what was
//! removed from it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use rustix::process::geteuid;

/// How many symbolic links are followed, as in the kernel.
const MOST_LINKS: u32 = 40;

/// Why a path is not beyond the reach of others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lax {
    /// It belongs to another user.
    #[error("{} belongs to user {owner}", at.display())]
    Owner {
        /// The first component of the path for which this is so.
        at: PathBuf,
        /// The user's ID.
        owner: u32,
    },
    /// Others may write there.
    #[error("{} can be written by others (mode {mode:o})", at.display())]
    Writable {
        /// The first component of the path for which this is so.
        at: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A user may have mounted it.
    #[error("{} is on a FUSE file system", at.display())]
    Fuse {
        /// The first component of the path for which this is so.
        at: PathBuf,
    },
    /// It is not absolute, does not exist, or cannot be examined.
    #[error("{} cannot be looked at ({reason})", at.display())]
    Unseen {
        /// The component of the path.
        at: PathBuf,
        /// The error from the system.
        reason: std::io::ErrorKind,
    },
}

impl Lax {
    /// Whether there is nothing at the path.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Lax::Unseen { reason, .. } if *reason == std::io::ErrorKind::NotFound)
    }
}

/// The path without symbolic links, if no one but root, or without root no one but root and this user, can make it lead
/// elsewhere or change what is there. Use the path that this returns. Nothing is followed before it has been checked,
/// so that no path of others is touched.
///
/// # Errors
/// [`Lax`], with the first component of the path that others can influence.
pub fn strict(path: &Path) -> Result<PathBuf, Lax> {
    strict_for(path, geteuid().as_raw())
}

/// The same from the point of view of a given user: root and that user are trusted.
///
/// # Errors
/// As [`strict`].
pub fn strict_for(path: &Path, user: u32) -> Result<PathBuf, Lax> {
    let root = open(rustix::fs::CWD, Path::new("/"), Path::new("/"))?;
    let device = device(&stat(&root, Path::new("/"))?);
    let walk = Walk { user, device };
    walk.check(&root, Path::new("/"))?;
    if !path.is_absolute() {
        return Err(unseen(path, Errno::INVAL));
    }
    // Components still to be walked, the next one last.
    let mut left: Vec<OsString> = parts(path);
    let mut done: Vec<(OwnedFd, PathBuf)> = vec![(root, PathBuf::from("/"))];
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == OsStr::new("..") {
            if done.len() > 1 {
                done.pop();
            }
            continue;
        }
        let Some((directory, at)) = done.last() else {
            break;
        };
        let here = at.join(&part);
        let next = open(directory, Path::new(&part), &here)?;
        if walk.check(&next, &here)? == FileType::Symlink {
            links += 1;
            if links > MOST_LINKS {
                return Err(unseen(&here, Errno::LOOP));
            }
            let target = readlinkat(&next, "", Vec::new()).map_err(|error| unseen(&here, error))?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                done.truncate(1);
            }
            left.extend(parts(&target));
            continue;
        }
        done.push((next, here));
    }
    Ok(done.pop().map(|(_, at)| at).unwrap_or_default())
}

/// The components of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    parts.reverse();
    parts
}

/// Opens a component of a path as a location only (`O_PATH`): no device, FIFO or link is touched.
fn open(directory: impl std::os::fd::AsFd, name: &Path, at: &Path) -> Result<OwnedFd, Lax> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty()).map_err(|error| unseen(at, error))
}

fn unseen(at: &Path, error: Errno) -> Lax {
    Lax::Unseen {
        at: at.to_owned(),
        reason: error.kind(),
    }
}

/// What is known of a location without asking the server of its file system, which may not answer.
fn stat(place: &OwnedFd, at: &Path) -> Result<Statx, Lax> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(place, "", flags, StatxFlags::BASIC_STATS).map_err(|error| unseen(at, error))
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// Whether the file system on this device is FUSE: then its owners and permissions are what its server says.
fn is_fuse((major, minor): (u32, u32)) -> std::io::Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let device = format!("{major}:{minor}");
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let kind = line.split_once(" - ").map_or("", |(_, rest)| rest);
        fields.nth(2) == Some(&*device) && kind.starts_with("fuse")
    }))
}

struct Walk {
    user: u32,
    /// The device of `/`, which no user can have mounted.
    device: (u32, u32),
}

impl Walk {
    /// Checks one component of a path and returns its type.
    fn check(&self, place: &OwnedFd, at: &Path) -> Result<FileType, Lax> {
        let stat = stat(place, at)?;
        let device = device(&stat);
        if device != self.device
            && is_fuse(device).map_err(|error| Lax::Unseen {
                at: at.to_owned(),
                reason: error.kind(),
            })?
        {
            return Err(Lax::Fuse { at: at.to_owned() });
        }
        if stat.stx_uid != 0 && stat.stx_uid != self.user {
            return Err(Lax::Owner {
                at: at.to_owned(),
                owner: stat.stx_uid,
            });
        }
        let mode = u32::from(stat.stx_mode);
        let kind = FileType::from_raw_mode(mode);
        // A link has no permissions of its own.
        if kind != FileType::Symlink && mode & 0o022 != 0 {
            return Err(Lax::Writable {
                at: at.to_owned(),
                mode: mode & 0o7777,
            });
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory that is strict for the user who runs the tests.
    fn private() -> tempfile::TempDir {
        for place in ["/run", "/var/lib", "/root"] {
            if strict(Path::new(place)).is_ok()
                && let Ok(directory) = tempfile::tempdir_in(place)
            {
                return directory;
            }
        }
        let home = std::env::var("HOME").expect("a home");
        tempfile::tempdir_in(home).expect("a directory")
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_only_root_can_change_is_strict_and_links_are_resolved() {
        let directory = private();
        let root = strict(directory.path()).expect("strict");
        fs::create_dir(root.join("inner")).expect("made");
        fs::write(root.join("inner/file"), "").expect("written");
        symlink("inner/../inner", root.join("link")).expect("made");
        symlink(root.join("link"), root.join("absolute")).expect("made");
        for path in ["inner/file", "link/file", "absolute/file", "./inner//file"] {
            assert_eq!(
                strict(&root.join(path)),
                Ok(root.join("inner/file")),
                "{path}"
            );
        }
        assert_eq!(strict(Path::new("/..")), Ok(PathBuf::from("/")));
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_others_can_make_again_or_change_is_not_strict() {
        let directory = private();
        let root = strict(directory.path()).expect("strict");
        fs::create_dir(root.join("open")).expect("made");
        fs::create_dir(root.join("open/inner")).expect("made");
        for bits in [0o1777, 0o777, 0o775, 0o757] {
            mode(&root.join("open"), bits);
            for path in ["open", "open/inner", "open/missing"] {
                assert_eq!(
                    strict(&root.join(path)),
                    Err(Lax::Writable {
                        at: root.join("open"),
                        mode: bits
                    }),
                    "{path}"
                );
            }
        }
        // On the way too, even where a link of ours leads there.
        symlink("open/inner", root.join("link")).expect("made");
        assert!(matches!(
            strict(&root.join("link")),
            Err(Lax::Writable { .. })
        ));
        assert!(matches!(
            strict(Path::new("/tmp/x")),
            Err(Lax::Writable { .. })
        ));
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_is_not_there_says_so_and_what_is_relative_is_refused() {
        let directory = private();
        let missing = strict(&directory.path().join("missing")).expect_err("nothing is there");
        assert!(missing.is_absence(), "{missing}");
        let relative = strict(Path::new("usr")).expect_err("relative");
        assert!(!relative.is_absence(), "{relative}");
        symlink("loop", directory.path().join("loop")).expect("made");
        strict(&directory.path().join("loop")).expect_err("without end");
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_part_that_belongs_to_somebody_else_is_named() {
        assert!(
            geteuid().is_root(),
            "this test gives a directory away: run the tests as root"
        );
        let directory = private();
        let root = strict(directory.path()).expect("strict");
        let theirs = root.join("theirs");
        fs::create_dir(&theirs).expect("made");
        std::os::unix::fs::chown(&theirs, Some(54321), None).expect("given away");
        let expected = Lax::Owner {
            at: theirs.clone(),
            owner: 54321,
        };
        assert_eq!(strict(&theirs.join("x")), Err(expected.clone()));
        assert_eq!(strict_for(&theirs, 54321), Ok(theirs));
        assert_eq!(strict_for(&root.join("theirs"), 54322), Err(expected));
    }
}
