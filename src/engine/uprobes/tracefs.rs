//! tracefs: where it is mounted, uprobe events defined in it and removed, and how their records look.
//!
//! Definitions outlive the process that made them. Each session's are one group, whose name says whose it is
//! (`owner`), so that the next run can remove what a killed one left.
//!
//! The name is made of the owner's process id, start time and pid namespace. The next session and `pystap cleanup`
//! remove groups whose owner is certainly gone. Of a namespace that cannot be seen from here nothing is certain, and
//! the kernel refuses to remove what is in use.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use procfs::process::Process;
use procfs::{ProcError, ProcResult};

use super::UprobesError;
use crate::perf::tracepoints::{self, NoTracefs, Tracepoint};
use crate::process::{FIRST_PID_NAMESPACE, has_ended, pid_namespace};

/// The file that definitions are written to.
const DEFINITIONS: &str = "uprobe_events";

/// A mounted tracefs whose kernel has uprobe events.
#[derive(Debug, Clone)]
pub struct Tracefs {
    root: PathBuf,
}

/// One place to be probed, as the kernel is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// Name of the event in its group. Definitions of one name are one event with several places.
    pub(super) event: String,
    /// The image.
    pub(super) path: PathBuf,
    /// File offset of the instruction.
    pub(super) offset: u64,
    /// File offset of the semaphore that is raised as long as the event is armed.
    pub(super) semaphore: Option<u64>,
    /// What is fetched, as `name=where:type`; names and types are the same in all definitions of an event.
    pub(super) fetches: Vec<String>,
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}:{:#x}",
            self.event,
            self.path.display(),
            self.offset
        )?;
        if let Some(semaphore) = self.semaphore {
            write!(f, "({semaphore:#x})")?;
        }
        for fetch in &self.fetches {
            write!(f, " {fetch}")?;
        }
        Ok(())
    }
}

impl Tracefs {
    /// Finds tracefs, or mounts it.
    ///
    /// # Errors
    /// [`UprobesError::NotPermitted`], [`UprobesError::NoTracefs`], [`UprobesError::NoUprobeEvents`].
    pub fn find() -> Result<Tracefs, UprobesError> {
        let root = tracepoints::root().map_err(|error| match error {
            NoTracefs::NotPermitted => UprobesError::NotPermitted {
                what: error.to_string(),
            },
            NoTracefs::NotMounted { reason } => UprobesError::NoTracefs { reason },
        })?;
        match fs::metadata(root.join(DEFINITIONS)) {
            Ok(_) => Ok(Tracefs { root }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(UprobesError::NotPermitted {
                    what: format!("{} cannot be read", root.display()),
                })
            }
            Err(_) if !rustix::process::geteuid().is_root() && fs::read_dir(&root).is_err() => {
                Err(UprobesError::NotPermitted {
                    what: format!("{} cannot be read", root.display()),
                })
            }
            Err(_) => Err(UprobesError::NoUprobeEvents { root }),
        }
    }

    /// One that nobody has looked for, for tests that define nothing.
    #[cfg(test)]
    pub(super) fn assumed() -> Tracefs {
        Tracefs {
            root: "/sys/kernel/tracing".into(),
        }
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a probe, or adds a place to one.
    ///
    /// # Errors
    /// The system's reason, with the kernel's own word for it where it left one.
    pub(super) fn define(&self, group: &str, definition: &Definition) -> io::Result<()> {
        // The kernel splits lines at blanks and ends them at a number sign; such a path is named by a descriptor.
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@~,:=%".contains(byte);
        let holder;
        let path = match definition.path.to_str() {
            Some(path) if path.bytes().all(|byte| plain(&byte)) => definition.path.clone(),
            _ => {
                holder = File::open(&definition.path)?;
                PathBuf::from(format!("/proc/self/fd/{}", holder.as_raw_fd()))
            }
        };
        let line = Definition {
            path,
            ..definition.clone()
        };
        self.write(&format!("p:{group}/{line}\n")).map_err(|error| {
            match self.last_complaint(group) {
                Some(word) => io::Error::new(error.kind(), format!("{error}: {word}")),
                None => error,
            }
        })
    }

    /// What the kernel made of an event.
    ///
    /// # Errors
    /// When its files cannot be read or understood.
    pub(super) fn defined(&self, group: &str, event: &str) -> io::Result<Tracepoint> {
        Tracepoint::of(&self.root, group, event)
    }

    /// Groups of pystap that have events, whoever made them.
    pub(super) fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self.events().into_iter().map(|(group, _)| group).collect();
        groups.dedup();
        groups
    }

    /// Removes the events of a group. How many there are left, because somebody uses them.
    pub(super) fn remove(&self, group: &str) -> usize {
        let events = self.events();
        let ours = events.iter().filter(|(of, _)| of == group);
        ours.filter(|(_, event)| self.write(&format!("-:{group}/{event}\n")).is_err())
            .count()
    }

    /// Events of pystap's groups, sorted, each once.
    fn events(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.root.join(DEFINITIONS)).unwrap_or_default();
        let mut events: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| {
                let (_, name) = line.split_whitespace().next()?.split_once(':')?;
                let (group, event) = name.split_once('/')?;
                Some((group.to_owned(), event.to_owned()))
            })
            .filter(|(group, _)| Owner::of(group).is_some())
            .collect();
        events.sort();
        events.dedup();
        events
    }

    fn write(&self, line: &str) -> io::Result<()> {
        // Without truncation, which would remove the events of everybody.
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.root.join(DEFINITIONS))?;
        file.write_all(line.as_bytes())
    }

    /// The kernel's last complaint about a definition of this group.
    fn last_complaint(&self, group: &str) -> Option<String> {
        let log = fs::read_to_string(self.root.join("error_log")).ok()?;
        let mut lines = log.lines().rev();
        // The entry ends with the command and a caret below it.
        let _caret = lines.next()?;
        let command = lines.next()?;
        let (_, word) = lines.next()?.split_once("error: ")?;
        command.contains(group).then(|| word.trim().to_owned())
    }
}

/// Whose a group is: a process, told from a later one with the same id by when it started, and the pid namespace
/// in which the id counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pid: u32,
    started: u64,
    namespace: u64,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub(super) fn ourselves() -> io::Result<Owner> {
        let own = Process::myself().map_err(io::Error::other)?;
        Ok(Owner {
            pid: std::process::id(),
            started: own.stat().map_err(io::Error::other)?.starttime,
            namespace: pid_namespace("self").ok_or(io::ErrorKind::Unsupported)?,
        })
    }

    /// The name of its group.
    pub(super) fn group(&self) -> String {
        format!("pystap_{}_{}_{}", self.pid, self.started, self.namespace)
    }

    /// The owner of a group; `None` when it is not pystap's.
    pub(super) fn of(group: &str) -> Option<Owner> {
        let mut numbers = group.strip_prefix("pystap_")?.split('_');
        let owner = Owner {
            pid: numbers.next()?.parse().ok()?,
            started: numbers.next()?.parse().ok()?,
            namespace: numbers.next()?.parse().ok()?,
        };
        (owner.group() == group).then_some(owner)
    }

    /// Whether it is certain that the owner is gone. Of a namespace that cannot be seen from here nothing is.
    pub(super) fn is_gone(&self) -> bool {
        let ours = pid_namespace("self");
        if ours == Some(self.namespace) {
            return has_ended(self.pid, self.started);
        }
        if ours != Some(FIRST_PID_NAMESPACE) {
            return false;
        }
        let Ok(mut everyone) = procfs::process::all_processes() else {
            return false;
        };
        // One that cannot be looked at may be the owner.
        !everyone.any(|process| match process.and_then(|it| self.is(&it)) {
            Ok(is_owner) => is_owner,
            Err(ProcError::NotFound(_)) => false,
            Err(_) => true,
        })
    }

    /// Whether a process, as seen from the first namespace, is the owner.
    fn is(&self, process: &Process) -> ProcResult<bool> {
        let within = process
            .namespaces()?
            .0
            .get(OsStr::new("pid"))
            .map(|it| it.identifier);
        if within != Some(self.namespace) {
            return Ok(false);
        }
        let inner = process.status()?.nspid;
        Ok(
            inner.and_then(|pids| pids.last().copied()) == i32::try_from(self.pid).ok()
                && process.stat()?.starttime == self.started
                && crate::process::runs(u32::try_from(process.pid).unwrap_or(0)),
        )
    }
}

/// Removes what killed sessions left in tracefs. A noun phrase for each group that is gone.
pub fn remove_stale(tracefs: &Tracefs) -> Vec<String> {
    let groups = tracefs.groups().into_iter();
    groups
        .filter(|group| Owner::of(group).is_some_and(|owner| owner.is_gone()))
        .filter(|group| tracefs.remove(group) == 0)
        .map(|group| format!("the probes {group} of a pystap that is gone"))
        .collect()
}

/// The groups of killed sessions that are still there, each a noun phrase.
pub fn stale(tracefs: &Tracefs) -> Vec<String> {
    let groups = tracefs.groups().into_iter();
    groups
        .filter(|group| Owner::of(group).is_some_and(|owner| owner.is_gone()))
        .map(|group| format!("the probes {group} of a pystap that is gone"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_written_as_the_kernel_reads_it() {
        let definition = Definition {
            event: "e0".to_owned(),
            path: PathBuf::from("/usr/bin/python3.11"),
            offset: 0xf20a1,
            semaphore: Some(0x683260),
            fetches: vec!["mark=\\0:u8".to_owned(), "line=%ax:s32".to_owned()],
        };
        assert_eq!(
            definition.to_string(),
            "e0 /usr/bin/python3.11:0xf20a1(0x683260) mark=\\0:u8 line=%ax:s32"
        );
    }

    #[test]
    fn a_group_says_whose_it_is_and_this_process_is_alive() {
        let ourselves = Owner::ourselves().expect("/proc");
        assert_eq!(Owner::of(&ourselves.group()), Some(ourselves));
        assert!(!ourselves.is_gone());
        // The same id at another time was another process.
        let earlier = Owner {
            started: ourselves.started + 1,
            ..ourselves
        };
        assert!(earlier.is_gone());
        for other in [
            "pystap",
            "pystap_1_2",
            "pystap_1_2_3_4",
            "pystap_01_2_3",
            "probes",
        ] {
            assert_eq!(Owner::of(other), None, "{other}");
        }
    }
}
