//! What a process sees of the file system, and with whose rights: two processes with the same view find the same files
//! under the same paths. Nothing here asks a file system that someone else may serve.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use serde::{Deserialize, Serialize};

/// Most supplementary groups that are adopted. Fewer mean fewer rights, never more.
const MOST_GROUPS: usize = 1000;

/// The mounts and the root of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct View {
    /// The mount namespace, by its inode.
    pub(super) mounts: u64,
    /// Device and inode of the root, and the ID of its mount (0 before Linux 5.8).
    pub(super) root: (u32, u32, u64, u64),
}

impl View {
    /// Our own view.
    pub(super) fn ours() -> io::Result<View> {
        View::in_directory(&process("self")?)
    }

    /// The view of a process.
    pub(super) fn of(pid: u32) -> io::Result<View> {
        View::in_directory(&process(&pid.to_string())?)
    }

    fn in_directory(process: &OwnedFd) -> io::Result<View> {
        Ok(View {
            mounts: namespace(process, "ns/mnt")?,
            root: root(&open_root(process)?)?,
        })
    }
}

/// The IDs that determine a process's rights to files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ids {
    /// The effective user.
    pub(super) user: u32,
    /// The effective group.
    pub(super) group: u32,
    /// The supplementary groups.
    pub(super) groups: Vec<u32>,
}

impl Ids {
    /// The IDs of a process.
    pub(super) fn of(pid: u32) -> io::Result<Ids> {
        Ids::in_directory(&process(&pid.to_string())?)
    }

    fn in_directory(process: &OwnedFd) -> io::Result<Ids> {
        let status = text(process, "status")?;
        Ids::parse(&status).ok_or_else(|| io::Error::other("its status makes no sense"))
    }

    /// Parses the lines of /proc/PID/status.
    fn parse(status: &str) -> Option<Ids> {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // Real, effective, saved, and file system ID.
        let effective = |name: &str| line(name)?.split_whitespace().nth(1)?.parse().ok();
        let groups = line("Groups:")?.split_whitespace();
        Some(Ids {
            user: effective("Uid:")?,
            group: effective("Gid:")?,
            groups: groups.take(MOST_GROUPS).flat_map(str::parse).collect(),
        })
    }
}

/// The view of a process, held open, so that it can be entered even after the process has ended.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) view: View,
    pub(super) ids: Ids,
    /// The mount namespace, if it differs from ours.
    pub(super) mounts: Option<File>,
    /// The user namespace, if it differs from ours.
    pub(super) users: Option<File>,
    /// The root, as a location only (`O_PATH`).
    pub(super) root: OwnedFd,
    /// The path of the root, if we have the same mounts.
    pub(super) path: Option<PathBuf>,
}

impl Door {
    /// The door of a process.
    pub(super) fn of(pid: u32) -> io::Result<Door> {
        // Everything through this one descriptor: it stays with the process even if its ID is reused.
        let theirs = process(&pid.to_string())?;
        let ours = process("self")?;
        let other = |name: &str| -> io::Result<Option<File>> {
            if namespace(&theirs, name)? == namespace(&ours, name)? {
                return Ok(None);
            }
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(Some(File::from(openat(
                &theirs,
                name,
                flags,
                Mode::empty(),
            )?)))
        };
        let mounts = other("ns/mnt")?;
        let path = match mounts {
            Some(_) => None,
            None => Some(target(&theirs, "root")?),
        };
        Ok(Door {
            view: View::in_directory(&theirs)?,
            ids: Ids::in_directory(&theirs)?,
            users: other("ns/user")?,
            root: open_root(&theirs)?,
            mounts,
            path,
        })
    }

    /// The door to a root that is a directory among our own mounts, when no process is behind it any more.
    pub(super) fn of_root(path: &Path, view: View, ids: Ids) -> io::Result<Door> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty())?;
        let found = View {
            mounts: View::ours()?.mounts,
            root: root(&opened)?,
        };
        if found != view {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Door {
            view,
            ids,
            mounts: None,
            users: None,
            root: opened,
            path: Some(path.to_owned()),
        })
    }
}

fn process(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{name}"), flags, Mode::empty())?)
}

fn open_root(process: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(process, "root", flags, Mode::empty())?)
}

/// Device, inode and mount of a root, as far as known without asking its server.
fn root(root: &OwnedFd) -> io::Result<(u32, u32, u64, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(root, "", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok((
        stat.stx_dev_major,
        stat.stx_dev_minor,
        stat.stx_ino,
        stat.stx_mnt_id,
    ))
}

fn namespace(process: &OwnedFd, name: &str) -> io::Result<u64> {
    Ok(rustix::fs::statat(process, name, AtFlags::empty())?.st_ino)
}

fn target(process: &OwnedFd, link: &str) -> io::Result<PathBuf> {
    let target = readlinkat(process, link, Vec::new())?;
    Ok(PathBuf::from(OsStr::new(&*target.to_string_lossy())))
}

fn text(process: &OwnedFd, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = String::new();
    File::from(openat(process, name, flags, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_and_all_groups_are_taken_from_a_status() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nVmSize: 1 kB\n";
        let ids = Ids::parse(status).expect("whole");
        assert_eq!((ids.user, ids.group), (2, 6));
        assert_eq!(ids.groups, [9, 10]);
        assert_eq!(Ids::parse("Uid:\t1\nGid:\t1\nGroups:\n"), None);
    }

    #[test]
    fn a_child_sees_what_we_see() {
        let child = crate::python::waiting::Waiting::start(
            std::process::Command::new("sh").args(["-c", "echo ready; read line"]),
        );
        let ours = View::ours().expect("/proc");
        assert_eq!(View::of(child.pid()).expect("it runs"), ours);
        let door = Door::of(child.pid()).expect("it runs");
        assert_eq!(door.view, ours);
        assert!(door.mounts.is_none() && door.users.is_none());
        let again = Door::of_root(Path::new("/"), ours, door.ids.clone());
        assert_eq!(again.expect("the same root").view, ours);
        Door::of_root(Path::new("/proc"), ours, door.ids).expect_err("another root");
    }
}
