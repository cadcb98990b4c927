//! Where the library is put so that a target can load it: in a directory that the target sees, wherever its root and its
//! mounts are, with nothing of it left afterwards.
//!
//! The directory is named after us and the library's build id, so that its path is the same in every session: a script for
//! stap names it, and a compiled module serves again. Sessions of one user share it. Whoever uses it holds a lock on the
//! library in it; who can have that lock alone, at the end or in `pystap cleanup`, removes the directory. A session of
//! SystemTap leaves it where a process has the library mapped: what was removed has no path to be probed by.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::MMapPath;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fchmod, fchown, flock,
    fstatvfs, mkdirat, openat, openat2, renameat, statat, unlinkat,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{attach, embedded, remote};

/// Where files can be put, in the order in which it is tried. What is in /run and /dev/shm is memory.
const DIRECTORIES: [&str; 5] = ["tmp", "var/tmp", "dev/shm", "run", "var/lib"];
/// What the names of our directories begin with.
const PREFIX: &str = "pystap-agent-";
/// The library in it.
const LIBRARY: &str = "libpystap_agent.so";
/// The directory for PYTHONPATH in it, and the only file in that.
const SITE: &str = "site";
const SITECUSTOMIZE: &str = "sitecustomize.py";

/// How deep directories are in ours: Python puts a `__pycache__` into the one for PYTHONPATH.
const DEPTH: u8 = 2;

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Nowhere.
    #[error(
        "the agent's library can be put nowhere that {who} could load it from ({tried}), so its calls cannot be traced; make room in its /tmp, or mount a tmpfs without noexec there"
    )]
    Nowhere {
        /// The target, a noun phrase.
        who: String,
        /// Each directory with what was wrong.
        tried: String,
    },
    /// Its files are closed to us.
    #[error(
        "the files of process {pid} cannot be reached ({reason}), so the agent's library cannot be put where it sees it; run pystap as root (in a container, with CAP_SYS_PTRACE)"
    )]
    Closed {
        /// The process.
        pid: u32,
        /// The system's reason.
        reason: io::Error,
    },
}

/// The library, at a place that some processes see. Dropped, it is removed unless another session uses it.
#[derive(Debug)]
pub(super) struct Placement {
    /// The root and the mounts of the processes that see it.
    view: View,
    /// Its directory as they see it; `None` for a library that is in memory only.
    seen: Option<PathBuf>,
    /// The library as they see it.
    library: PathBuf,
    /// A path by which we can open the library as long as this lives.
    reach: PathBuf,
    /// Its inode.
    pub(super) inode: u64,
    /// The library, open and locked.
    held: File,
    /// The directory, and the one that it is in.
    directory: Option<(OwnedFd, OwnedFd)>,
    /// Files of this session in it.
    ours: Vec<String>,
    /// Other things in memory, kept open.
    memory: Vec<File>,
    /// Whether the library's file stays as long as a process runs it.
    stays: bool,
}

/// What a process sees of the file system: two processes with the same one see the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    mounts: u64,
    root: (u64, u64),
}

impl View {
    fn of(process: &str) -> io::Result<View> {
        let root = fs::metadata(format!("/proc/{process}/root"))?;
        Ok(View {
            mounts: fs::metadata(format!("/proc/{process}/ns/mnt"))?.ino(),
            root: (root.dev(), root.ino()),
        })
    }
}

impl Placement {
    /// A place that this process sees.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub(super) fn for_process(pid: u32) -> Result<Placement, PlacementError> {
        let closed = |reason| PlacementError::Closed { pid, reason };
        let view = View::of(&pid.to_string()).map_err(closed)?;
        Placement::with_view(
            view,
            &format!("/proc/{pid}/root"),
            &format!("process {pid}"),
            Some(pid),
        )
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
        let view = View::of("self").map_err(closed)?;
        Placement::with_view(view, "/proc/self/root", "a launched command", None)
    }

    /// Whether this process sees it.
    pub(super) fn is_seen_by(&self, pid: u32) -> bool {
        View::of(&pid.to_string()).is_ok_and(|view| view == self.view)
    }

    fn with_view(
        view: View,
        root: &str,
        who: &str,
        pid: Option<u32>,
    ) -> Result<Placement, PlacementError> {
        let mut tried = Vec::new();
        let opened = File::open(root).map_err(|reason| PlacementError::Closed {
            pid: pid.unwrap_or_else(std::process::id),
            reason,
        })?;
        for directory in DIRECTORIES {
            match in_directory(&opened, directory, view) {
                Ok(place) => return Ok(place),
                Err(reason) => tried.push(format!("/{directory}: {reason}")),
            }
        }
        // A descriptor of ours is a path to whoever may look into this process, and sees the same /proc.
        if let Some(pid) = pid {
            match in_memory(pid, view) {
                Ok(place) => return Ok(place),
                Err(reason) => tried.push(format!("memory: {reason}")),
            }
        }
        Err(PlacementError::Nowhere {
            who: who.to_owned(),
            tried: tried.join("; "),
        })
    }

    /// Has the library's file stay as long as a process runs it. Whoever uses the directory last when none does removes it.
    pub(super) fn keep_where_mapped(&mut self) {
        self.stays = true;
    }

    /// Whether a process runs this very file.
    fn is_mapped(&self) -> bool {
        let processes = procfs::process::all_processes().into_iter().flatten();
        processes.flatten().any(|process| {
            let maps = process.maps().into_iter().flatten();
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
        let (Some((directory, _)), Some(seen)) = (&self.directory, &self.seen) else {
            return Err(io::Error::other("there is room in memory only"));
        };
        match mkdirat(directory, SITE, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let site = open_directory(directory, SITE)?;
        fchmod(&site, Mode::from(0o755))?;
        write_whole(
            &site,
            SITECUSTOMIZE,
            super::environment::SITECUSTOMIZE.as_bytes(),
            0o644,
        )?;
        Ok(seen.join(SITE))
    }

    /// Writes a file of this session, for this owner only if one is named. Its path as the processes see it.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn write(
        &mut self,
        name: &str,
        text: &str,
        owner: Option<u32>,
    ) -> io::Result<PathBuf> {
        let (Some((directory, _)), Some(seen)) = (&self.directory, &self.seen) else {
            let file = File::from(memfd_create("pystap", MemfdFlags::CLOEXEC)?);
            (&file).write_all(text.as_bytes())?;
            let path = descriptor(&file);
            self.memory.push(file);
            return Ok(path);
        };
        let mode = if owner.is_some() { 0o600 } else { 0o644 };
        write_whole(directory, name, text.as_bytes(), mode)?;
        self.ours.push(name.to_owned());
        if let Some(owner) = owner.filter(|owner| *owner != geteuid().as_raw()) {
            let file = openat(
                directory,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            fchown(&file, Some(rustix::process::Uid::from_raw(owner)), None)?;
        }
        Ok(seen.join(name))
    }

    /// What is in a file of this session by now.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let (directory, _) = self.directory.as_ref()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(directory, name, flags, Mode::empty()).ok()?);
        let mut text = String::new();
        // The target writes it, and is not trusted with our memory.
        file.take(1 << 16).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        let Some((directory, parent)) = &self.directory else {
            return;
        };
        for name in &self.ours {
            let _ = unlinkat(directory, name.as_str(), AtFlags::empty());
        }
        if self.stays && self.is_mapped() {
            // What is for starting processes goes all the same, unless another session needs it.
            if flock(&self.held, FlockOperation::NonBlockingLockExclusive).is_ok() {
                empty(directory, Some(LIBRARY), DEPTH);
            }
            return;
        }
        remove(&self.held, directory, parent);
    }
}

/// Removes a directory of ours whose library can be had alone. Whether it is gone.
fn remove(library: &File, directory: &OwnedFd, parent: &OwnedFd) -> bool {
    if flock(library, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    empty(directory, None, DEPTH);
    unlinkat(parent, name().as_str(), AtFlags::REMOVEDIR).is_ok()
}

/// Removes what is in a directory of ours, but for one file, to this depth of directories in it (`site/__pycache__`).
fn empty(directory: &OwnedFd, but: Option<&str>, depth: u8) {
    let names: Vec<_> = match rustix::fs::Dir::read_from(directory) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_owned()))
            .collect(),
        Err(_) => return,
    };
    for name in names.iter().map(|name| name.as_c_str()) {
        let kept = but.is_some_and(|but| but.as_bytes() == name.to_bytes());
        if kept || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Ok(name) = name.to_str()
            && let Some(pid) = attach::process_of_script(name)
        {
            remote::relieve(pid, name);
        }
        if unlinkat(directory, name, AtFlags::empty()) == Err(Errno::ISDIR)
            && let Some(depth) = depth.checked_sub(1)
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = openat(directory, name, flags, Mode::empty()) {
                empty(&inner, None, depth);
            }
            let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Where the library mostly comes to be.
pub(super) fn usual() -> PathBuf {
    let [first, ..] = DIRECTORIES;
    Path::new("/").join(first).join(name()).join(LIBRARY)
}

/// The name of our directory.
fn name() -> String {
    let build = embedded::build_id();
    let short = build.get(..12).unwrap_or(build);
    format!("{PREFIX}{}-{short}", geteuid().as_raw())
}

fn open_directory(at: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, Path::new(name.as_ref()), flags, Mode::empty())?)
}

fn in_directory(root: &File, directory: &str, view: View) -> Result<Placement, String> {
    let words = |error: io::Error| error.to_string();
    let parent = open_parent(root, directory).map_err(words)?;
    let flags = fstatvfs(&parent)
        .map_err(|error| words(error.into()))?
        .f_flag;
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return Err("mounted noexec".to_owned());
    }
    let name = name();
    // Another session may remove it between two of these steps; then it is made again.
    for _ in 0..10 {
        let own = make_directory(&parent, &name)?;
        let held = match library_in(&own) {
            Ok(held) => held,
            Err(error) => {
                // Half a place is none.
                let _ = unlinkat(&own, LIBRARY, AtFlags::empty());
                let _ = unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
                return Err(error.to_string());
            }
        };
        if flock(&held, FlockOperation::LockShared).is_err() {
            return Err("the library cannot be locked".to_owned());
        }
        let metadata = held.metadata().map_err(words)?;
        let there = statat(&own, LIBRARY, AtFlags::SYMLINK_NOFOLLOW);
        if !there.is_ok_and(|there| there.st_ino == metadata.ino()) {
            continue;
        }
        let seen = Path::new("/").join(directory).join(&name);
        return Ok(Placement {
            view,
            library: seen.join(LIBRARY),
            reach: PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())),
            inode: metadata.ino(),
            held,
            seen: Some(seen),
            directory: Some((own, parent)),
            ours: Vec::new(),
            memory: Vec::new(),
            stays: false,
        });
    }
    Err("another pystap keeps removing it".to_owned())
}

/// Below a foreign root, whose links lead wherever its owner likes: none may lead out of it.
fn open_parent(root: &File, directory: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, directory, flags, Mode::empty(), inside)?)
}

fn make_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, String> {
    let words = |error: io::Error| error.to_string();
    let made = match mkdirat(parent, name, Mode::from(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(words(error.into())),
    };
    let own = open_directory(parent, name).map_err(words)?;
    if made {
        fchmod(&own, Mode::from(0o755)).map_err(|error| words(error.into()))?;
    }
    let stat = rustix::fs::fstat(&own).map_err(|error| words(error.into()))?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(format!("somebody else has a {name} there"));
    }
    Ok(own)
}

/// The library in our directory, written if it is not there. The directory is ours alone, so what has the size is it: it
/// comes there by a rename.
fn library_in(directory: &OwnedFd) -> io::Result<File> {
    let open = || -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(
            directory,
            LIBRARY,
            flags,
            Mode::empty(),
        )?))
    };
    match open() {
        Ok(file) if file.metadata()?.len() == embedded::LIBRARY.len() as u64 => return Ok(file),
        _ => write_whole(directory, LIBRARY, embedded::LIBRARY, 0o755)?,
    }
    open()
}

/// Writes a file that is there whole or not at all.
fn write_whole(directory: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = format!("{name}.{}", std::process::id());
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, draft.as_str(), flags, Mode::from(mode))?);
    let written = (&file)
        .write_all(bytes)
        .and_then(|()| Ok(fchmod(&file, Mode::from(mode))?))
        .and_then(|()| Ok(renameat(directory, draft.as_str(), directory, name)?));
    if written.is_err() {
        let _ = unlinkat(directory, draft.as_str(), AtFlags::empty());
    }
    written
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
    let held = File::from(
        memfd_create("pystap-agent", MemfdFlags::CLOEXEC).map_err(|error| words(error.into()))?,
    );
    (&held).write_all(embedded::LIBRARY).map_err(words)?;
    let path = descriptor(&held);
    let inode = held.metadata().map_err(words)?.ino();
    // A script that cannot be opened is an error in the target's own code.
    let there = format!("/proc/{pid}/root{}", path.display());
    if !fs::metadata(there).is_ok_and(|it| it.ino() == inode) {
        return Err("the target sees no /proc, or another one".to_owned());
    }
    Ok(Placement {
        view,
        inode,
        library: path.clone(),
        reach: path,
        held,
        seen: None,
        directory: None,
        ours: Vec::new(),
        memory: Vec::new(),
        stays: false,
    })
}

fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ))
}

/// Removes what killed sessions left, in every file system that a process sees. A noun phrase for each directory that is
/// gone.
pub fn remove_stale() -> Vec<String> {
    let mut seen = Vec::new();
    let mut removed = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for process in std::iter::once("self".to_owned()).chain(numbers.map(|pid| pid.to_string())) {
        let Ok(view) = View::of(&process) else {
            continue;
        };
        if seen.contains(&view) {
            continue;
        }
        seen.push(view);
        let Ok(root) = File::open(format!("/proc/{process}/root")) else {
            continue;
        };
        for directory in DIRECTORIES {
            let Ok(parent) = open_parent(&root, directory) else {
                continue;
            };
            removed.extend(stale_in(&parent).into_iter().map(|name| {
                format!("/{directory}/{name}, the agent's files of a pystap that is gone")
            }));
        }
    }
    removed
}

fn stale_in(parent: &OwnedFd) -> Vec<String> {
    let Ok(entries) = rustix::fs::Dir::read_from(parent) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().to_str().ok()?;
        name.starts_with(PREFIX).then(|| name.to_owned())
    });
    names
        .filter(|name| {
            let Ok(own) = open_directory(parent, name) else {
                return false;
            };
            let ours = rustix::fs::fstat(&own)
                .is_ok_and(|stat| stat.st_uid == geteuid().as_raw() || geteuid().is_root());
            if !ours {
                return false;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let free = match openat(&own, LIBRARY, flags, Mode::empty()) {
                Ok(library) => {
                    let file = File::from(library);
                    let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
                    if free {
                        empty(&own, None, DEPTH);
                    }
                    free
                }
                Err(_) => {
                    empty(&own, None, DEPTH);
                    true
                }
            };
            free && unlinkat(parent, name.as_str(), AtFlags::REMOVEDIR).is_ok()
        })
        .collect()
}
