//! tracefs: where it is mounted, and what the kernel says of a tracepoint there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsmount, fsopen, mount,
};

/// Where it belongs, and where it was before Linux 4.1.
const USUAL: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// Where we mount it when /sys cannot be changed, as in many containers, and the kernel is older than Linux 5.2.
const OWN: &str = "/run/pystap-tracing";

/// Why there is no tracefs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTracefs {
    /// It is not mounted, and we may not mount it.
    #[error("tracefs is not mounted, and may not be mounted by this user")]
    NotPermitted,
    /// It cannot be mounted.
    #[error("tracefs cannot be mounted ({reason})")]
    NotMounted {
        /// The system's reason.
        reason: String,
    },
}

/// Finds tracefs, or mounts it.
///
/// # Errors
/// [`NoTracefs`].
pub(crate) fn root() -> Result<PathBuf, NoTracefs> {
    // One that is closed to us is mounted nevertheless.
    let is_one = |root: &PathBuf| root.join("events").try_exists().unwrap_or(true);
    match mounted().into_iter().find(is_one) {
        Some(root) => Ok(root),
        None => detached().map_or_else(mount_it, Ok),
    }
}

/// tracefs for this process alone: mounted nowhere, so that it is gone when the process is.
fn detached() -> Option<PathBuf> {
    static MOUNTED: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let mounted = MOUNTED.get_or_init(|| {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&context).ok()?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).ok()
    });
    let mounted = mounted.as_ref()?;
    Some(PathBuf::from(format!(
        "/proc/self/fd/{}",
        mounted.as_raw_fd()
    )))
}

/// Where tracefs is mounted already.
fn mounted() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let others = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "tracefs").then(|| PathBuf::from(at))
    });
    USUAL.iter().map(PathBuf::from).chain(others).collect()
}

fn mount_it() -> Result<PathBuf, NoTracefs> {
    let mut reasons = Vec::new();
    for at in [USUAL[0], OWN] {
        if at == OWN {
            // A failure shows when it is mounted there.
            let _ = fs::create_dir_all(at);
        }
        match mount("tracefs", at, "tracefs", MountFlags::empty(), None) {
            Ok(()) => return Ok(PathBuf::from(at)),
            Err(reason) => reasons.push(reason),
        }
    }
    let permission = [Errno::PERM, Errno::ACCESS];
    if reasons.iter().any(|reason| permission.contains(reason)) {
        return Err(NoTracefs::NotPermitted);
    }
    Err(NoTracefs::NotMounted {
        reason: reasons.last().map_or_else(String::new, ToString::to_string),
    })
}

/// A tracepoint as the kernel made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracepoint {
    /// Its number, which also begins the data of every record.
    pub(crate) id: u64,
    /// Its fields: name, and offset in the raw data of a record.
    pub(crate) fields: Vec<(String, usize)>,
}

impl Tracepoint {
    /// That of an event in a group.
    ///
    /// # Errors
    /// When its files cannot be read or understood.
    pub(crate) fn of(root: &Path, group: &str, event: &str) -> io::Result<Tracepoint> {
        let directory = root.join("events").join(group).join(event);
        let id = fs::read_to_string(directory.join("id"))?;
        let format = fs::read_to_string(directory.join("format"))?;
        let unexpected = || io::Error::other(format!("unexpected format of the event: {format}"));
        Ok(Tracepoint {
            id: id.trim().parse().map_err(|_| unexpected())?,
            fields: format
                .lines()
                .filter_map(|line| line.trim().strip_prefix("field:"))
                .map(|line| field(line).ok_or_else(unexpected))
                .collect::<io::Result<_>>()?,
        })
    }
}

/// The flags that an event's format prints by name: `{ 0x00000001, "S" }`.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn flags(root: &Path, group: &str, event: &str) -> io::Result<Vec<(u64, String)>> {
    let path = root.join("events").join(group).join(event).join("format");
    Ok(named_flags(&fs::read_to_string(path)?))
}

fn named_flags(format: &str) -> Vec<(u64, String)> {
    let pairs = format.split('{').skip(1).filter_map(|rest| {
        let (number, name) = rest.split_once('}')?.0.split_once(',')?;
        let number = number.trim();
        let number = match number.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        let name = name.trim().strip_prefix('"')?.strip_suffix('"')?;
        Some((number, name.to_owned()))
    });
    pairs.collect()
}

/// `unsigned long __probe_ip; offset:8; size:8; signed:0;`, with tabs for the blanks.
fn field(line: &str) -> Option<(String, usize)> {
    let mut parts = line.split(';').map(str::trim);
    let name = parts.next()?.split_whitespace().last()?;
    // An array has its length behind its name.
    let name = name.split('[').next()?.to_owned();
    let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
    Some((name, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_format_file_is_found_with_its_place() {
        assert_eq!(
            field("unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;"),
            Some(("common_type".to_owned(), 0))
        );
        assert_eq!(
            field("__data_loc char[] file;\toffset:16;\tsize:4;\tsigned:1;"),
            Some(("file".to_owned(), 16))
        );
        assert_eq!(
            field("u8 many[3];\toffset:28;\tsize:3;\tsigned:0;"),
            Some(("many".to_owned(), 28))
        );
        for damaged in [
            "",
            "int x",
            "int x;\toffset:a;\tsize:4;",
            "int x;\tsize:4;\toffset:2;",
        ] {
            assert_eq!(field(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn flags_are_read_in_either_notation() {
        let format = r#"print fmt: "x", REC->s ? __print_flags(REC->s, "|", { 0x00000001, "S" }, { 2, "D" }) : "R""#;
        let flags = [(1, "S".to_owned()), (2, "D".to_owned())];
        assert_eq!(named_flags(format), flags);
        assert_eq!(named_flags("{ x, \"S\" } { 1 } {"), []);
    }
}
