//! Where a target has another root or other mounts than we have, its owner may have arranged what lies under every name that
//! we know. So nothing is touched there with our own rights: a short-lived process, pystap itself as `pystap visit`, enters
//! the target's mounts and root, takes the target's user and groups, gives up every capability, and only then touches a path.
//! It can do what the target could do by itself. What it has opened it sends back; one that does not answer is killed.
//!
//! The child is hidden like `pystap hold`. It enters by descriptors, becomes the target's user before it looks up a
//! name, does one task, and passes what it opened back over a socket. It has a deadline, because a file system may be
//! served by an enemy. What it makes is visible to its own user only until the parent says that it is recorded; if the
//! parent is killed before that, the child takes it back.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    AtFlags, CWD, FsWord, Mode, OFlags, StatVfsMountFlags, fstat, fstatfs, fstatvfs, openat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::process::{
    Gid, Signal, Uid, chdir, chroot, fchdir, getegid, geteuid, getgroups,
    set_parent_process_death_signal, umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, clear_ambient_capability_set,
    move_into_link_name_space, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use super::directory::{self, Identity, LIBRARY, Removal};
use super::socket::put;
use super::view::{Door, Ids};
use crate::files::{Look, look};
use crate::process::start_time;

/// How long a visit may take: far longer than it takes to create a file on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a killed visitor may take to end. One that waits for a server that never answers does not end.
const ENDING: Duration = Duration::from_millis(500);
/// Most bytes of a packet: a script has two kilobytes, a list of files somewhat more.
const LARGEST: usize = 1 << 17;
/// Most file names in a packet; each is far shorter than a hundred bytes.
const MOST_FILES: usize = 1000;
/// Most descriptors in a packet.
const MOST: usize = 3;

/// Types of file systems that need no server (linux/magic.h and the modules' own): ext2 to ext4, XFS, Btrfs, tmpfs,
/// ramfs, overlayfs, F2FS, ZFS, bcachefs.
const LOCAL: [FsWord; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// The type of /proc.
const PROC: FsWord = 0x9fa0;

/// Why a visit failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum VisitError {
    /// It did not start.
    #[error("no process that enters it can be started ({0})")]
    Start(io::Error),
    /// It did not answer.
    #[error("its file system does not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// It reported a reason.
    #[error("{0}")]
    Failed(String),
}

static OTHER: OnceLock<PathBuf> = OnceLock::new();

/// Sets the pystap that visits targets, for programs that use this library but are not pystap.
pub fn visit_through(pystap: &Path) {
    let _ = OTHER.set(pystap.to_owned());
}

/// This very pystap, even after an upgrade.
fn visitor() -> &'static Path {
    OTHER.get().map_or(Path::new("/proc/self/exe"), |path| path)
}

/// What to do there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// Find this directory of ours, or else share this directory, or else create one with this name.
    Place {
        ours: Option<Known>,
        shared: Option<Known>,
        name: String,
        /// The device of our own root, which no one else has mounted.
        device: u64,
    },
    /// Write a script into a directory.
    Script {
        at: Known,
        name: String,
        text: String,
    },
    /// Create a FIFO for a report in it.
    Report { at: Known, name: String },
    /// Remove these files from it.
    Empty { at: Known, files: Vec<String> },
    /// Find in /proc this process, which started at this time.
    Process { pid: u32, start: u64 },
    /// Remove it along with these files.
    Remove { at: Known, files: Vec<String> },
}

/// A directory as a target sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) identity: Identity,
}

/// The result of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The target sees our own directory.
    Ours,
    /// The library is in this directory; it comes as a descriptor. A directory that was just created waits to be told
    /// that it is recorded.
    Placed { at: Known, made: bool },
    /// The task is done. The FIFO of a report comes as a descriptor.
    Done,
    /// The result of removing the directory.
    Removed(Removal),
    /// It could not be done.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Request {
    ids: Ids,
    mounts: bool,
    users: bool,
    task: Task,
}

/// A visit, seen from the side that sent it. Dropped before its end, the visitor is killed, and undoes nothing.
#[derive(Debug)]
pub(super) struct Visit {
    child: Child,
    socket: OwnedFd,
    end: Instant,
}

impl Visit {
    /// Sends a visitor through this door.
    pub(super) fn begin(door: &Door, task: Task) -> Result<Visit, VisitError> {
        let pair = || {
            socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
        };
        let (ours, theirs) = pair().map_err(|errno| VisitError::Start(errno.into()))?;
        // In its own process group, so that it can finish despite a Ctrl-C at the terminal.
        let child = Command::new(visitor())
            .arg("visit")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(VisitError::Start)?;
        let visit = Visit {
            child,
            socket: ours,
            end: Instant::now() + PATIENCE,
        };
        let request = Request {
            ids: door.ids.clone(),
            mounts: door.mounts.is_some(),
            users: door.users.is_some(),
            task,
        };
        let others = [&door.mounts, &door.users];
        let files: Vec<BorrowedFd<'_>> = std::iter::once(door.root.as_fd())
            .chain(others.into_iter().flatten().map(AsFd::as_fd))
            .collect();
        let bytes =
            serde_json::to_vec(&request).map_err(|error| VisitError::Start(error.into()))?;
        put(&visit.socket, &bytes, &files).map_err(VisitError::Start)?;
        Ok(visit)
    }

    /// The next answer, with the descriptors of what was opened.
    pub(super) fn answer(&self) -> Result<(Answer, Vec<OwnedFd>), VisitError> {
        let failed = |reason: &str| VisitError::Failed(reason.to_owned());
        loop {
            let left = self.end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut files = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut files, Some(&left)) {
                Ok(0) => return Err(VisitError::Late),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(VisitError::Failed(error.to_string())),
            }
        }
        let (bytes, files) = get(&self.socket).map_err(|error| failed(&error.to_string()))?;
        if bytes.is_empty() {
            return Err(failed("whoever entered it ended without a word"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Answer::Failed(reason)) => Err(VisitError::Failed(reason)),
            Ok(answer) => Ok((answer, files)),
            Err(_) => Err(failed("whoever entered it makes no sense")),
        }
    }

    /// Confirms that what was created is recorded, and may become visible to others.
    pub(super) fn agree(&self) -> Result<(), VisitError> {
        put(&self.socket, b"recorded", &[]).map_err(VisitError::Start)?;
        match self.answer()?.0 {
            Answer::Done => Ok(()),
            _ => Err(VisitError::Failed(
                "whoever entered it makes no sense".to_owned(),
            )),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // A visitor that has answered ends by itself, at the end of the conversation; one that has not is in the way.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let mut killed = false;
        let end = Instant::now() + ENDING;
        while let Ok(None) = self.child.try_wait() {
            let now = Instant::now();
            if !killed && now + ENDING / 2 >= end {
                let _ = self.child.kill();
                killed = true;
            }
            if now >= end {
                break;
            }
            std::thread::park_timeout(Duration::from_micros(200));
        }
    }
}

/// Does a task with a single answer through a door.
pub(super) fn errand(door: &Door, task: Task) -> Result<(Answer, Vec<OwnedFd>), VisitError> {
    Visit::begin(door, task)?.answer()
}

/// Removes files of ours from a directory that a target sees, and then the directory, unless the library is to stay.
/// Returns what became of it.
pub(super) fn clear(
    door: &Door,
    at: &Known,
    files: &[String],
    but_library: bool,
) -> Result<Option<Removal>, VisitError> {
    // As many as certainly fit into a packet.
    let mut rest = files;
    while rest.len() > MOST_FILES || (but_library && !rest.is_empty()) {
        let (some, others) = rest.split_at(rest.len().min(MOST_FILES));
        let task = Task::Empty {
            at: at.clone(),
            files: some.to_vec(),
        };
        errand(door, task)?;
        rest = others;
    }
    if but_library {
        return Ok(None);
    }
    let task = Task::Remove {
        at: at.clone(),
        files: rest.to_vec(),
    };
    match errand(door, task)?.0 {
        Answer::Removed(removal) => Ok(Some(removal)),
        _ => Err(VisitError::Failed(
            "whoever entered it makes no sense".to_owned(),
        )),
    }
}

/// Receives one packet; empty at the end of the conversation.
fn get(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = loop {
        match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let files = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    bytes.truncate(received.bytes);
    Ok((bytes, files))
}

/// The visitor: does what the other end of its standard input tells it. Returns whether it could answer.
pub fn serve() -> bool {
    let socket = io::stdin();
    let Ok((bytes, files)) = get(&socket) else {
        return false;
    };
    let Ok(request) = serde_json::from_slice::<Request>(&bytes) else {
        return false;
    };
    let Ok(socket) = socket.as_fd().try_clone_to_owned() else {
        return false;
    };
    let visitor = Visitor { socket };
    let (answer, file) = match enter(&request, files) {
        Ok(()) => visitor.work(request.task),
        Err(reason) => (Answer::Failed(reason), None),
    };
    visitor.say(&answer, file.as_ref())
}

/// Enters, and takes the target's IDs. After this no path is touched with other rights.
fn enter(request: &Request, files: Vec<OwnedFd>) -> Result<(), String> {
    let failed = |what: &'static str| move |errno: Errno| format!("{what} ({errno})");
    let mut files = files.into_iter();
    let mut next = |wanted: bool| if wanted { files.next() } else { None };
    let root = next(true).ok_or("no root was named")?;
    let mounts = next(request.mounts);
    let users = next(request.users);
    // As long as there is power to be had here, this process dies with the one that sent it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("it cannot be entered"))?;
    let mut theirs = false;
    if let Some(mounts) = &mounts {
        let join = || move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount));
        match (join(), &users) {
            (Ok(()), _) => {}
            // A user may enter what that user has created, by way of the user namespace.
            (Err(Errno::PERM), Some(users)) => {
                let user = Some(LinkNameSpaceType::User);
                move_into_link_name_space(users.as_fd(), user)
                    .map_err(failed("its user namespace cannot be entered"))?;
                join().map_err(failed("its mounts cannot be entered"))?;
                theirs = true;
            }
            (Err(errno), _) => return Err(failed("its mounts cannot be entered")(errno)),
        }
    }
    // By descriptor: no name is looked up.
    fchdir(&root)
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(failed("its root cannot be entered"))?;
    let ids = &request.ids;
    if geteuid().is_root() && !theirs && !is_already(ids) {
        let groups: Vec<Gid> = ids
            .groups
            .iter()
            .map(|group| Gid::from_raw(*group))
            .collect();
        let (user, group) = (Uid::from_raw(ids.user), Gid::from_raw(ids.group));
        set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_thread_res_uid(user, user, user))
            .map_err(failed("its user's rights cannot be taken"))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let _ = clear_ambient_capability_set();
    set_capabilities(None, none)
        .and_then(|()| set_no_new_privs(true))
        // From here on, the end of the conversation means that no one waits for us, and what was created is removed
        // again.
        .and_then(|()| set_parent_process_death_signal(None))
        .map_err(failed("capabilities cannot be given up"))?;
    if !theirs && geteuid().as_raw() != ids.user {
        return Err("only root may take the rights of another user".to_owned());
    }
    umask(Mode::empty());
    Ok(())
}

/// Whether we already have this user and these groups: in a user namespace even root may be forbidden to change them.
fn is_already(ids: &Ids) -> bool {
    let groups = getgroups().unwrap_or_default();
    geteuid().as_raw() == ids.user
        && getegid().as_raw() == ids.group
        && groups
            .iter()
            .map(|group| group.as_raw())
            .eq(ids.groups.iter().copied())
}

struct Visitor {
    socket: OwnedFd,
}

impl Visitor {
    fn say(&self, answer: &Answer, file: Option<&File>) -> bool {
        let files: Vec<BorrowedFd<'_>> = file.iter().map(|file| file.as_fd()).collect();
        serde_json::to_vec(answer).is_ok_and(|bytes| put(&self.socket, &bytes, &files).is_ok())
    }

    fn work(&self, task: Task) -> (Answer, Option<File>) {
        let done = |result: io::Result<()>| match result {
            Ok(()) => (Answer::Done, None),
            Err(error) => (Answer::Failed(error.to_string()), None),
        };
        match task {
            Task::Place {
                ours,
                shared,
                name,
                device,
            } => self.place(ours, shared, &name, device),
            Task::Script { at, name, text } => done(open(&at).and_then(|(_, directory)| {
                directory::write(&directory, &name, text.as_bytes(), 0o644)
            })),
            Task::Report { at, name } => {
                let made = open(&at).and_then(|(_, own)| directory::report(&own, &name));
                match made {
                    Ok(file) => (Answer::Done, Some(file)),
                    Err(error) => (Answer::Failed(error.to_string()), None),
                }
            }
            Task::Empty { at, files } => {
                done(open(&at).map(|(_, directory)| directory::empty(&directory, &files, true)))
            }
            Task::Process { pid, start } => done(find(pid, start)),
            Task::Remove { at, files } => {
                let removed = match parent(&at.parent) {
                    Ok(parent) => directory::remove(&parent, &at.name, at.identity, &files),
                    // Gone along with its parent directory.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Gone),
                    Err(error) => Err(error),
                };
                match removed {
                    Ok(removal) => (Answer::Removed(removal), None),
                    Err(error) => (Answer::Failed(error.to_string()), None),
                }
            }
        }
    }

    fn place(
        &self,
        ours: Option<Known>,
        shared: Option<Known>,
        name: &str,
        device: u64,
    ) -> (Answer, Option<File>) {
        if ours.is_some_and(|ours| sees(&ours)) {
            return (Answer::Ours, None);
        }
        if let Some(at) = shared
            && let Ok(library) = open(&at).and_then(|(_, own)| directory::present_library(&own))
        {
            return (Answer::Placed { at, made: false }, Some(library));
        }
        let mut tried = Vec::new();
        for path in candidates() {
            match made_in(&path, name, device) {
                Ok(made) => return self.hand_over(made),
                Err(reason) => tried.push(format!("{path}: {reason}")),
            }
        }
        (Answer::Failed(tried.join("; ")), None)
    }

    /// Hands over what was created, and makes it visible to others once it is recorded. What is never recorded is
    /// removed again.
    fn hand_over(&self, made: Made) -> (Answer, Option<File>) {
        let answer = Answer::Placed {
            at: made.at.clone(),
            made: true,
        };
        let heard = self.say(&answer, Some(&made.library)) && {
            // The end of the conversation is an empty packet.
            get(&self.socket).is_ok_and(|(bytes, _)| !bytes.is_empty())
        };
        let published = if heard {
            directory::publish(&made.directory)
        } else {
            Err(io::Error::other("nobody wants it any more"))
        };
        if let Err(error) = published {
            let _ = directory::remove(&made.parent, &made.at.name, made.at.identity, &[]);
            return (Answer::Failed(error.to_string()), None);
        }
        (Answer::Done, None)
    }
}

/// What was created for a target.
struct Made {
    at: Known,
    parent: OwnedFd,
    directory: OwnedFd,
    library: File,
}

/// Where a target may have a directory of its own, those first that only its own user or root can change.
fn candidates() -> Vec<String> {
    let user = geteuid().as_raw();
    let mut all = vec![format!("/run/user/{user}")];
    all.extend(
        ["/run", "/var/lib", "/tmp", "/var/tmp", "/dev/shm"]
            .iter()
            .map(|path| (*path).to_owned()),
    );
    all
}

fn made_in(path: &str, name: &str, device: u64) -> Result<Made, String> {
    let words = |error: io::Error| error.to_string();
    let parent = parent(path).map_err(words)?;
    if is_noexec(&parent).map_err(words)? {
        return Err("mounted noexec".to_owned());
    }
    is_local(&parent, device)?;
    let directory = directory::create(&parent, name).map_err(words)?;
    let made = directory::library(&directory).and_then(|library| {
        Ok(Known {
            parent: path.to_owned(),
            name: name.to_owned(),
            identity: Identity::of(&directory)?,
        })
        .map(|at| (at, library))
    });
    match made {
        Ok((at, library)) => Ok(Made {
            at,
            parent,
            directory,
            library,
        }),
        Err(error) => {
            // An incomplete place does not count.
            directory::empty(&directory, &[], false);
            let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
            Err(error.to_string())
        }
    }
}

fn is_noexec(file: impl AsFd) -> io::Result<bool> {
    let flags = fstatvfs(file)?.f_flag;
    Ok(flags.contains(StatVfsMountFlags::NOEXEC))
}

/// Whether files on a file system can be read without a server, which could block the kernel's own probes.
fn is_local(directory: &OwnedFd, device: u64) -> Result<(), String> {
    let kind = fstatfs(directory)
        .map_err(|errno| errno.to_string())?
        .f_type;
    let own = fstat(directory).is_ok_and(|stat| stat.st_dev == device);
    if own || LOCAL.contains(&kind) {
        Ok(())
    } else {
        Err(format!(
            "on a file system (type {kind:#x}) that may depend on a server"
        ))
    }
}

/// Opens a directory given by its full path, if only root, the owner of the root and this user can replace what this
/// user puts there: each component of the path belongs to one of them and is not writable by others, except for the
/// last one, which may be sticky.
fn parent(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(CWD, "/", flags, Mode::empty())?;
    let trusted = [0, geteuid().as_raw(), fstat(&directory)?.st_uid];
    let check = |directory: &OwnedFd, last: bool| -> io::Result<()> {
        let stat = fstat(directory)?;
        let sticky = last && stat.st_mode & 0o1000 != 0;
        if !trusted.contains(&stat.st_uid) || (stat.st_mode & 0o022 != 0 && !sticky) {
            return Err(io::Error::other("others could replace what is in it"));
        }
        Ok(())
    };
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    check(&directory, parts.is_empty())?;
    for (at, part) in parts.iter().enumerate() {
        directory = openat(&directory, *part, flags, Mode::empty())?;
        check(&directory, at + 1 == parts.len())?;
    }
    Ok(directory)
}

/// Opens a known directory, and its parent.
fn open(at: &Known) -> io::Result<(OwnedFd, OwnedFd)> {
    let parent = parent(&at.parent)?;
    let directory = directory::open(&parent, &at.name)?;
    if Identity::of(&directory)? != at.identity {
        return Err(io::Error::other("another directory is in its place"));
    }
    Ok((parent, directory))
}

/// Whether the target finds this directory of ours by its path, and may map the library in it.
fn sees(ours: &Known) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = Path::new(&ours.parent).join(&ours.name);
    let Ok(directory) = openat(CWD, &path, flags, Mode::empty()) else {
        return false;
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let library = openat(&directory, LIBRARY, flags, Mode::empty());
    Identity::of(&directory).is_ok_and(|found| found == ours.identity)
        && library.is_ok_and(|library| is_noexec(&library).is_ok_and(|noexec| !noexec))
}

/// Whether there is a /proc that contains this process.
fn find(pid: u32, start: u64) -> io::Result<()> {
    let proc = look(Path::new("/proc"), Look::Directory)?;
    if fstatfs(&proc)?.f_type != PROC {
        return Err(io::Error::other("no /proc is mounted"));
    }
    if start_time(pid).map_err(io::Error::other)? == Some(start) {
        Ok(())
    } else {
        Err(io::Error::other("it is another /proc"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn packets_carry_descriptors() {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a pair");
        let file = tempfile::tempfile().expect("a file");
        put(&one, b"word", &[file.as_fd()]).expect("sent");
        let (bytes, files) = get(&other).expect("received");
        assert_eq!(bytes, b"word");
        assert_eq!(files.len(), 1);
        assert_eq!(
            Identity::of(&files[0]).expect("open"),
            Identity::of(&file).expect("open")
        );
        drop(one);
        let (bytes, files) = get(&other).expect("the end");
        assert!(bytes.is_empty() && files.is_empty());
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_directory_in_which_others_could_replace_ours_is_no_place_for_it() {
        let outer = tempfile::tempdir().expect("a directory");
        // The directory for temporary files is sticky, which only the last component may be.
        let path = outer.path().join("x");
        fs::create_dir(&path).expect("made");
        let said = |path: &Path| {
            parent(&path.to_string_lossy())
                .err()
                .map(|it| it.to_string())
        };
        let refused = said(&path).expect("refused");
        assert!(refused.contains("others could replace"), "{refused}");
        for (mode, fine) in [
            (0o755, true),
            (0o1777, true),
            (0o777, false),
            (0o775, false),
        ] {
            let place = tempfile::tempdir_in("/run").expect("run the tests as root");
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(said(place.path()).is_none(), fine, "{mode:o}");
        }
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_nobody_records_goes_again() {
        let place = tempfile::tempdir_in("/run").expect("run the tests as root");
        let path = place.path().to_string_lossy();
        let device = fs::metadata(place.path()).expect("it is there").dev();
        for (word, stays) in [(Some(b"recorded"), true), (None, false)] {
            let made = made_in(&path, "ours", device).expect("there is room");
            let (theirs, socket) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .expect("a pair");
            let directory = place.path().join("ours");
            let mode = fs::metadata(&directory).expect("it is there").mode();
            assert_eq!(mode & 0o777, 0o700, "nobody else sees it yet");
            match word {
                Some(word) => put(&theirs, word, &[]).expect("sent"),
                // As if pystap had been killed.
                None => drop(theirs),
            }
            Visitor { socket }.hand_over(made);
            assert_eq!(directory.join(LIBRARY).exists(), stays);
            if stays {
                let mode = fs::metadata(&directory).expect("it is there").mode();
                assert_eq!(mode & 0o777, 0o755);
                fs::remove_dir_all(&directory).expect("removed");
            }
        }
        assert_eq!(fs::read_dir(place.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn file_systems_with_a_server_are_told_from_those_without() {
        let temporary = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
        let open = |path: &Path| -> OwnedFd { fs::File::open(path).expect("opened").into() };
        is_local(&open(temporary.path()), 0).expect("tmpfs has none");
        let proc = open(Path::new("/proc"));
        let refused = is_local(&proc, 0).expect_err("not listed");
        assert!(refused.contains("0x9fa0"), "{refused}");
        let device = fstat(&proc).expect("open").st_dev;
        is_local(&proc, device).expect("as our own root");
    }
}
