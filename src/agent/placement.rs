//! Where the library is put so that a target can load it. For as long as anything can refer to it, only root (or,
//! without root, only the same user) can create or replace what a target executes, and nothing of it is left
//! afterwards.
//!
//! Where a target sees what we see, that is a directory in a base of our own ([`registry`]). Its path depends only on
//! the build ID: a script for stap names it, so that a compiled module can be reused. A target with other mounts or
//! another root may see that directory as well (a service confined by systemd does). If not, it gets a directory of its
//! own, created with its own rights by a process that visits it ([`visit`]). If no place works at all, the library is
//! in memory only.
//!
//! Sessions share directories. Who uses which is in the registry: whoever is the last removes the directory, `pystap cleanup`
//! what killed sessions left. A session of SystemTap leaves the library where a process has it mapped: what was removed has no
//! path to be probed by.
//!
//! In our own view, a base is what `files::strict` has found to be out of the reach of others.
//!
//! A process that has an agent already ([`loaded`](super::loaded)) is probed in the file that is mapped. SystemTap
//! needs a path for that, hence the exception above. SystemTap also takes for granted that code is as far from the
//! beginning of a file in memory as in the file. Where lld has moved it, SystemTap puts its breakpoints into the midst
//! of instructions. So `agent/build.rs` asks for the plain layout, and a displaced image is an obstacle for that
//! engine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::MMapPath;
use rustix::fs::{MemfdFlags, fchown, fstat, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Uid, geteuid};

use super::directory::{self, Identity, LIBRARY, Removal};
use super::embedded;
use super::registry::{self, Base, Entry, Left, Place, Record, Request, Target, boot, reach};
use super::view::{Door, Ids, View};
use super::visit::{self, Answer, Known, Task, Visit, VisitError};
use crate::process::start_time;
use crate::python::maps;

pub(super) use super::registry::{of_root, usual};

/// Most bytes of a report.
const LONGEST_REPORT: u64 = 1 << 16;

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// There is no place that the target could load it from.
    #[error(
        "the agent's library can be put nowhere that {who} could load it from ({tried}), so its calls cannot be traced; make room in its /tmp, or mount a tmpfs without noexec there"
    )]
    Nowhere {
        /// The target, a noun phrase.
        who: String,
        /// Each directory with what was wrong.
        tried: String,
    },
    /// There is no place for a command that is launched.
    #[error(
        "the agent's library can be put nowhere that nobody else could change ({tried}), so the calls of a launched command cannot be traced; {next}"
    )]
    NowhereHere {
        /// Each directory with what was wrong.
        tried: String,
        /// What to do.
        next: &'static str,
    },
    /// We may not access its files.
    #[error(
        "the files of process {pid} cannot be reached ({reason}), so the agent's library cannot be put where it sees it; run pystap as root (in a container, with CAP_SYS_PTRACE)"
    )]
    Closed {
        /// The process.
        pid: u32,
        /// The system's reason.
        reason: io::Error,
    },
    /// Its files do not respond.
    #[error(
        "the files that process {pid} sees do not answer (a dead network or FUSE file system?), so the agent's library cannot be put there and its calls cannot be traced; look at its mounts in /proc/{pid}/mountinfo, and try again when they answer"
    )]
    Late {
        /// The process.
        pid: u32,
    },
}

/// The library in a place that some processes see. Dropping this removes it, unless another session uses it.
#[derive(Debug)]
pub(super) struct Placement {
    /// The root and the mounts of the processes that see it.
    view: View,
    /// Who, besides root, could change it.
    owner: u32,
    /// The library's path as they see it.
    library: PathBuf,
    /// A path by which we can open the library while this lives.
    reach: PathBuf,
    /// Its inode.
    pub(super) inode: u64,
    /// The library, open.
    _held: File,
    place: Where,
    /// Reports of this session, by name.
    reports: HashMap<String, File>,
    /// Whether the library's file stays while a process runs it.
    stays: bool,
}

#[derive(Debug)]
enum Where {
    /// In a base of our own.
    Base {
        base: Base,
        directory: OwnedFd,
        entry: Entry,
    },
    /// Where only the target sees it.
    Target {
        door: Door,
        at: Known,
        base: Base,
        entry: Entry,
    },
    /// In memory, with the other files.
    Memory(Vec<OwnedFd>),
}

impl Placement {
    /// A place that this process sees.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub(super) fn for_process(pid: u32) -> Result<Placement, PlacementError> {
        let closed = |reason| PlacementError::Closed { pid, reason };
        let door = Door::of(pid).map_err(closed)?;
        let ours = View::ours().map_err(closed)?;
        let (bases, mut tried) = Base::all();
        let mut placed = None;
        let mut registry = None;
        for base in bases {
            if placed.is_some() {
                break;
            }
            match in_base(base, ours) {
                Ok(place) => placed = Some(place),
                Err((base, reason)) => {
                    tried.push(format!("{}: {reason}", base.path.display()));
                    // A directory from which nothing can be executed can still hold the registry.
                    registry.get_or_insert(base);
                }
            }
        }
        let view = door.view;
        if view == ours
            && let Some(place) = placed
        {
            return Ok(place);
        }
        if view != ours {
            let recorded = placed.is_some() || registry.is_some();
            match for_target(pid, door, placed, registry) {
                Ok(place) => return Ok(place),
                Err(VisitError::Late) => return Err(PlacementError::Late { pid }),
                Err(error) => {
                    // Errors with our own directories matter only if none of them can hold the registry.
                    if recorded {
                        tried.clear();
                    }
                    tried.push(error.to_string());
                }
            }
        }
        // A descriptor of ours works as a path for any process that may look into this one, and sees the same /proc.
        match in_memory(pid, view) {
            Ok(place) => Ok(place),
            Err(reason) => {
                tried.push(format!("memory: {reason}"));
                Err(PlacementError::Nowhere {
                    who: format!("process {pid}"),
                    tried: tried.join("; "),
                })
            }
        }
    }

    /// A place that processes with our own root and mounts see.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub(super) fn here() -> Result<Placement, PlacementError> {
        let closed = |reason| PlacementError::Closed {
            pid: std::process::id(),
            reason,
        };
        let view = View::ours().map_err(closed)?;
        let (bases, mut tried) = Base::all();
        for base in bases {
            match in_base(base, view) {
                Ok(place) => return Ok(place),
                Err((base, reason)) => tried.push(format!("{}: {reason}", base.path.display())),
            }
        }
        Err(PlacementError::NowhereHere {
            tried: tried.join("; "),
            next: if geteuid().is_root() {
                "make room in /run or /var/lib, where only root may write and which is not mounted noexec"
            } else {
                "set XDG_RUNTIME_DIR or HOME to a directory that only you can write to and that is not mounted noexec"
            },
        })
    }

    /// Whether this process sees it, and no one can change it who could not change the process.
    pub(super) fn is_seen_by(&self, pid: u32) -> bool {
        View::of(pid).is_ok_and(|view| view == self.view)
            && (self.owner == 0 || Ids::of(pid).is_ok_and(|ids| ids.user == self.owner))
    }

    /// Makes the library's file stay while a process runs it. The last user of the directory removes it once none does.
    pub(super) fn keep_where_mapped(&mut self) {
        self.stays = true;
    }

    /// Whether a process runs this very file.
    fn is_mapped(&self) -> bool {
        let processes = procfs::process::all_processes().into_iter().flatten();
        processes.flatten().any(|process| {
            let maps = maps::of(&process).into_iter().flatten();
            maps.into_iter().any(|map| {
                map.inode == self.inode
                    && matches!(map.pathname, MMapPath::Path(path) if path.ends_with(LIBRARY))
            })
        })
    }

    /// The library as the processes see it.
    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// A path by which we can open it.
    pub(super) fn reach(&self) -> &Path {
        &self.reach
    }

    /// The directory for PYTHONPATH, with our `sitecustomize` in it.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn site(&mut self) -> io::Result<PathBuf> {
        let Where::Base {
            base, directory, ..
        } = &self.place
        else {
            return Err(io::Error::other(
                "there is no room that launched commands see",
            ));
        };
        let _locked = base.lock()?;
        directory::site(directory)?;
        Ok(self.library.with_file_name(directory::SITE))
    }

    /// Writes a script that a process is asked to run, and returns its path as the process sees it. The request is
    /// recorded first.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn script(&mut self, pid: u32, name: &str, text: &str) -> io::Result<PathBuf> {
        if let Where::Base { entry, .. } | Where::Target { entry, .. } = &mut self.place {
            entry.note_file(name)?;
            if let Some(request) = Request::new(pid, name) {
                entry.note_request(request)?;
            }
        }
        match &mut self.place {
            Where::Base { directory, .. } => {
                directory::write(directory, name, text.as_bytes(), 0o644)?;
            }
            Where::Target { door, at, .. } => {
                let task = Task::Script {
                    at: at.clone(),
                    name: name.to_owned(),
                    text: text.to_owned(),
                };
                visit::errand(door, task).map_err(io::Error::other)?;
            }
            Where::Memory(kept) => {
                let file = File::from(memfd_create("pystap", MemfdFlags::CLOEXEC)?);
                (&file).write_all(text.as_bytes())?;
                let path = descriptor(&file);
                kept.push(file.into());
                return Ok(path);
            }
        }
        Ok(self.library.with_file_name(name))
    }

    /// Creates a FIFO that this user can write a report into, once, and returns its path as the process sees it. It
    /// holds no more than a pipe does, and a non-blocking writer gets an error when no one reads any more.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn report(&mut self, name: &str, owner: u32) -> io::Result<PathBuf> {
        if let Where::Base { entry, .. } | Where::Target { entry, .. } = &mut self.place {
            entry.note_file(name)?;
        }
        let mut path = self.library.with_file_name(name);
        let reader = match &mut self.place {
            Where::Base { directory, .. } => {
                let reader = directory::report(directory, name)?;
                if owner != geteuid().as_raw() {
                    fchown(&reader, Some(Uid::from_raw(owner)), None)?;
                }
                reader
            }
            Where::Target { door, at, .. } => {
                let task = Task::Report {
                    at: at.clone(),
                    name: name.to_owned(),
                };
                let (_, files) = visit::errand(door, task).map_err(io::Error::other)?;
                let file = files.into_iter().next();
                File::from(file.ok_or_else(|| io::Error::other("no FIFO came of it"))?)
            }
            Where::Memory(kept) => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                path = descriptor(&writer);
                kept.push(writer);
                File::from(reader)
            }
        };
        self.reports.insert(name.to_owned(), reader);
        Ok(path)
    }

    /// What has arrived of a report since the last time.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let reader = self.reports.get(name)?;
        let mut bytes = Vec::new();
        // Reading stops when nothing more is available at the moment. The target writes it, and is not trusted with our
        // memory.
        let _ = reader.take(LONGEST_REPORT).read_to_end(&mut bytes);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        let kept = self.stays && self.is_mapped();
        let (base, entry) = match &self.place {
            Where::Base { base, entry, .. } | Where::Target { base, entry, .. } => (base, entry),
            Where::Memory(_) => return,
        };
        // What cannot be done now is left to the next session: the entry is there.
        let Ok(locked) = base.lock() else {
            return;
        };
        let Ok(others) = locked.others(Some(entry)) else {
            return;
        };
        let identity = entry.record.identity;
        let needed = others.need(identity);
        let mut files = entry.files.clone();
        let left: Vec<&Left> = others
            .left
            .iter()
            .filter(|left| !needed && left.record.identity == identity)
            .collect();
        for left in &left {
            left.withdraw();
            files.extend_from_slice(&left.files);
        }
        let gone = match &self.place {
            Where::Base { directory, .. } if needed => {
                for name in &files {
                    directory::remove_file(directory, name);
                }
                true
            }
            Where::Base { directory, .. } if kept => {
                // Files that are only for starting processes are removed nevertheless.
                directory::empty(directory, &files, true);
                false
            }
            Where::Base { .. } => {
                let removal = locked.remove(&registry::name(), identity, &files);
                removal.is_ok_and(|removal| removal != Removal::Occupied)
            }
            Where::Target { door, at, .. } => {
                let stays = needed || kept;
                match visit::clear(door, at, &files, stays) {
                    Ok(None) => needed,
                    Ok(Some(removal)) => removal != Removal::Occupied,
                    Err(_) => false,
                }
            }
            Where::Memory(_) => true,
        };
        if gone {
            locked.forget(entry);
            left.into_iter().for_each(|left| locked.forget_left(left));
        }
    }
}

/// Puts the library in a base of our own; returns the base if that fails.
fn in_base(base: Base, view: View) -> Result<Placement, (Base, String)> {
    match placed(&base) {
        Ok((directory, held, entry)) => {
            let library = base.path.join(registry::name()).join(LIBRARY);
            let inode = held.metadata().map(|it| it.ino());
            let inode = match inode {
                Ok(inode) => inode,
                Err(error) => return Err((base, error.to_string())),
            };
            Ok(Placement {
                view,
                owner: geteuid().as_raw(),
                library,
                reach: reach(&held),
                inode,
                _held: held,
                place: Where::Base {
                    base,
                    directory,
                    entry,
                },
                reports: HashMap::new(),
                stays: false,
            })
        }
        Err(reason) => Err((base, reason)),
    }
}

fn placed(base: &Base) -> Result<(OwnedFd, File, Entry), String> {
    let words = |error: io::Error| error.to_string();
    if base.is_noexec().map_err(words)? {
        return Err("mounted noexec".to_owned());
    }
    let name = registry::name();
    let locked = base.lock().map_err(words)?;
    let directory = match directory::create(&base.directory, &name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            directory::open(&base.directory, &name)
        }
        other => other,
    };
    let directory = directory.map_err(words)?;
    if !directory::is_ours(&directory).map_err(words)? {
        return Err(format!("somebody else has a {name} there"));
    }
    let identity = Identity::of(&directory).map_err(words)?;
    let record = Record {
        boot: boot().to_owned(),
        build: embedded::build_id().to_owned(),
        identity,
        place: Place::Base(name.clone()),
    };
    let entry = locked.add(record).map_err(words)?;
    let written = directory::publish(&directory).and_then(|()| directory::library(&directory));
    match written {
        Ok(held) => Ok((directory, held, entry)),
        Err(error) => {
            // An incomplete place does not count, unless others have completed it.
            let needed = locked.others(Some(&entry));
            if needed.is_ok_and(|others| !others.need(identity)) {
                let _ = locked.remove(&name, identity, &[]);
            }
            locked.forget(&entry);
            Err(error.to_string())
        }
    }
}

/// A place for a process whose view differs from ours. A directory in our own base serves if the process sees it.
fn for_target(
    pid: u32,
    door: Door,
    placed: Option<Placement>,
    registry: Option<Base>,
) -> Result<Placement, VisitError> {
    let failed = |error: io::Error| VisitError::Failed(error.to_string());
    let ours = placed.as_ref().and_then(|placement| {
        let Where::Base { base, entry, .. } = &placement.place else {
            return None;
        };
        Some(Known {
            parent: base.path.to_str()?.to_owned(),
            name: registry::name(),
            identity: entry.record.identity,
        })
    });
    // The registry that already records the existing place, if there is one.
    let base = match (&placed, registry) {
        (_, Some(base)) => base,
        (Some(_), None) => first_base()?,
        (None, None) => {
            return Err(VisitError::Failed(
                "there is no directory of root's to record it in".to_owned(),
            ));
        }
    };
    let locked = base.lock().map_err(failed)?;
    let others = locked.others(None).map_err(failed)?;
    let records = others
        .live
        .iter()
        .chain(others.left.iter().map(|left| &left.record));
    let shared = records
        .filter(|record| record.build == embedded::build_id() && record.boot == boot())
        .find_map(|record| match &record.place {
            Place::Target(target)
                if target.view == door.view && target.ids.user == door.ids.user =>
            {
                Some(Known {
                    parent: target.parent.clone(),
                    name: target.name.clone(),
                    identity: record.identity,
                })
            }
            _ => None,
        });
    let device = fs::metadata("/").map_err(failed)?.dev();
    let task = Task::Place {
        ours,
        shared,
        name: fresh_name().map_err(failed)?,
        device,
    };
    let visit = Visit::begin(&door, task)?;
    let (at, made, held) = match visit.answer()? {
        (Answer::Ours, _) => {
            let mut placement =
                placed.ok_or_else(|| failed(io::Error::other("nothing was asked")))?;
            placement.view = door.view;
            return Ok(placement);
        }
        (Answer::Placed { at, made }, files) => {
            let held = files.into_iter().next().map(File::from);
            let held = held.ok_or_else(|| failed(io::Error::other("no library came of it")))?;
            (at, made, held)
        }
        _ => {
            return Err(failed(io::Error::other(
                "whoever entered it makes no sense",
            )));
        }
    };
    // What comes from there is checked before it is trusted.
    let stat = fstat(&held).map_err(|errno| failed(errno.into()))?;
    if stat.st_size != embedded::library().len() as i64
        || !directory::is_regular(&held).map_err(failed)?
    {
        return Err(failed(io::Error::other(
            "what came of it is not the library",
        )));
    }
    let target = Target {
        view: door.view,
        ids: door.ids.clone(),
        process: (pid, start_time(pid).ok().flatten().unwrap_or_default()),
        root: door.path.clone(),
        parent: at.parent.clone(),
        name: at.name.clone(),
    };
    let library = target.path().join(LIBRARY);
    let record = Record {
        boot: boot().to_owned(),
        build: embedded::build_id().to_owned(),
        identity: at.identity,
        place: Place::Target(target),
    };
    let entry = locked.add(record).map_err(failed)?;
    if made && let Err(error) = visit.agree() {
        // A visitor that left without an answer has left a directory that only its own user can access.
        return Err(error);
    }
    drop(locked);
    Ok(Placement {
        view: door.view,
        owner: door.ids.user,
        library,
        reach: reach(&held),
        inode: stat.st_ino,
        _held: held,
        place: Where::Target {
            door,
            at,
            base,
            entry,
        },
        reports: HashMap::new(),
        stays: false,
    })
}

fn first_base() -> Result<Base, VisitError> {
    let (bases, tried) = Base::all();
    let first = bases.into_iter().next();
    first.ok_or_else(|| VisitError::Failed(tried.join("; ")))
}

/// A name that no one can have created before us.
fn fresh_name() -> io::Result<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(format!("pystap-agent-{:032x}", u128::from_ne_bytes(random)))
}

/// Where nothing can be written: a file in memory, which the target reaches through our descriptors.
fn in_memory(pid: u32, view: View) -> Result<Placement, String> {
    let words = |error: io::Error| error.to_string();
    let status = fs::metadata(format!("/proc/{pid}")).map_err(words)?;
    if status.uid() != geteuid().as_raw() && status.uid() != 0 {
        return Err("the target is another user, who may not look into pystap".to_owned());
    }
    let namespace = |of: &str| fs::metadata(format!("/proc/{of}/ns/pid")).map(|it| it.ino());
    if namespace(&pid.to_string()).ok() != namespace("self").ok() {
        return Err("the target is in another pid namespace".to_owned());
    }
    // A script that cannot be opened is an error in the target's own code.
    let door = Door::of(pid).map_err(words)?;
    let powers = |of: &str, name| capabilities(of, name).ok_or("its status makes no sense");
    if door.users.is_some()
        || powers("self", "CapPrm:")? & !powers(&pid.to_string(), "CapEff:")? != 0
    {
        return Err("the target has fewer capabilities, and may not look into pystap".to_owned());
    }
    let ours = std::process::id();
    let task = Task::Process {
        pid: ours,
        start: start_time(ours)
            .map_err(|error| error.to_string())?
            .unwrap_or_default(),
    };
    if visit::errand(&door, task).is_err() {
        return Err("the target sees no /proc, or another one".to_owned());
    }
    let held = File::from(
        memfd_create("pystap-agent", MemfdFlags::CLOEXEC).map_err(|error| words(error.into()))?,
    );
    (&held).write_all(embedded::library()).map_err(words)?;
    let path = descriptor(&held);
    let inode = held.metadata().map_err(words)?.ino();
    Ok(Placement {
        view,
        owner: status.uid(),
        library: path.clone(),
        reach: path,
        inode,
        _held: held,
        place: Where::Memory(Vec::new()),
        reports: HashMap::new(),
        stays: false,
    })
}

/// A capability set of a process, from the line of this name in its status.
fn capabilities(process: &str, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn descriptor(file: &(impl AsFd + ?Sized)) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_fd().as_raw_fd()
    ))
}

/// What `pystap cleanup` found of killed sessions, as noun phrases.
#[derive(Debug, Default)]
pub struct Stale {
    /// What it has removed.
    pub removed: Vec<String>,
    /// What it could not remove.
    pub left: Vec<String>,
    /// What is out of reach, or no longer ours; nothing can be done about that here.
    pub beyond: Vec<String>,
}

/// Removes what killed sessions left, according to the registry.
pub fn remove_stale() -> Stale {
    let mut stale = Stale::default();
    for base in registry::present() {
        let removed = remove_stale_of(&base, &mut stale);
        if let Err(error) = removed {
            let path = base.path.display();
            stale
                .left
                .push(format!("what {path} records of killed sessions ({error})"));
        }
    }
    stale
}

fn remove_stale_of(base: &Base, stale: &mut Stale) -> io::Result<()> {
    let locked = base.lock()?;
    let others = locked.others(None)?;
    let mut seen: Vec<&Record> = Vec::new();
    for left in &others.left {
        left.withdraw();
        let record = &left.record;
        if seen.iter().any(|seen| is_same(seen, record)) {
            continue;
        }
        seen.push(record);
        let same: Vec<&Left> = others
            .left
            .iter()
            .filter(|other| is_same(&other.record, record))
            .collect();
        same.iter().for_each(|left| left.withdraw());
        let files: Vec<String> = same.iter().flat_map(|left| left.files.clone()).collect();
        let needed = others.need(record.identity);
        let (path, removal) = match &record.place {
            Place::Base(name) => {
                let path = base.path.join(name);
                let identity = locked.identity_now(record);
                if needed {
                    for file in &files {
                        if let Ok(directory) = directory::open(&base.directory, name) {
                            directory::remove_file(&directory, file);
                        }
                    }
                    (path, Ok(None))
                } else {
                    let removal = locked.remove(name, identity, &files);
                    (path, removal.map(Some).map_err(VisitError::Start))
                }
            }
            Place::Target(target) => {
                let Some(door) = door_to(target).filter(|_| record.boot == boot()) else {
                    same.into_iter().for_each(|left| locked.forget_left(left));
                    stale.beyond.push(format!(
                        "{}, the agent's files where no process is left that sees them (a container that is gone)",
                        target.path().display()
                    ));
                    continue;
                };
                let at = Known {
                    parent: target.parent.clone(),
                    name: target.name.clone(),
                    identity: record.identity,
                };
                let removal = visit::clear(&door, &at, &files, needed);
                (target.path(), removal)
            }
        };
        let path = path.display();
        let forget = match removal {
            // A live session continues to use it.
            Ok(None) => true,
            Ok(Some(Removal::Gone)) => {
                stale.removed.push(format!(
                    "{path}, the agent's files of a pystap that is gone"
                ));
                true
            }
            Ok(Some(Removal::Another)) => {
                stale.beyond.push(format!(
                    "{path}, where the agent's files were and something else is now"
                ));
                true
            }
            Ok(Some(Removal::Occupied)) => {
                stale.beyond.push(format!(
                    "{path}, the agent's directory, with files in it that are not pystap's"
                ));
                true
            }
            Err(error) => {
                stale.left.push(format!(
                    "{path}, the agent's files of a pystap that is gone ({error})"
                ));
                false
            }
        };
        if forget {
            same.into_iter().for_each(|left| locked.forget_left(left));
        }
    }
    Ok(())
}

/// Whether both refer to the same directory.
fn is_same(one: &Record, other: &Record) -> bool {
    one.identity == other.identity && one.boot == other.boot
}

/// A way into a target's view: through the process for which the directory was created, any other process with that
/// view, or the path of its root.
fn door_to(target: &Target) -> Option<Door> {
    let (pid, start) = target.process;
    let first = (start_time(pid).ok().flatten() == Some(start)).then_some(pid);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let door = first.into_iter().chain(numbers).find_map(|pid| {
        // Cheaper than opening every door.
        View::of(pid).ok().filter(|view| *view == target.view)?;
        Door::of(pid).ok().filter(|door| door.view == target.view)
    });
    let door = door.map(|door| Door {
        ids: target.ids.clone(),
        ..door
    });
    door.or_else(|| {
        let root = target.root.as_ref()?;
        Door::of_root(root, target.view, target.ids.clone()).ok()
    })
}
