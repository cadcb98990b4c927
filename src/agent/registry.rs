//! What sessions have put where, so that it can be removed again by whoever comes later: the only thing that anything is
//! deleted by. It lies in a directory of pystap's that nobody else can make or change: `/run/pystap` or `/var/lib/pystap`
//! for root, `$XDG_RUNTIME_DIR/pystap` or `~/.cache/pystap` for a user. One file for each thing and session, written before
//! the thing is there for others, locked as long as the session lives.
//!
//! # What a file says
//!
//! In lines: what the directory is (device, inode, boot, view), which files are in it, and which processes were asked
//! to run something. The lock says whether the session lives, so nothing that a target can touch decides about life and
//! death.
//!
//! # How things go
//!
//! By the registry alone. The name has to lead to the recorded inode, by `openat2` without links and without crossing a
//! mount, and only known names are unlinked. A file stands where Python would make `__pycache__`, so that nothing has
//! to be removed recursively. The report of what went wrong in a target is a FIFO: it holds no more than a pipe does,
//! whoever owns it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, StatVfsMountFlags, flock, fstatvfs, mkdirat,
    openat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::directory::{self, Identity, Removal};
use super::view::{Ids, View};
use super::{embedded, remote};
use crate::files::{Look, look, look_at, strict};
use crate::process::start_time;

/// The directory of entries in a base, and the lock file in it that is locked for every change.
const ENTRIES: &str = "registry";
const LOCK: &str = "lock";
/// Far longer than any holder of the lock needs: one visit to a target whose files do not respond.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an entry: one for a session with fifty thousand processes has fewer.
const LARGEST: u64 = 1 << 24;

/// A directory of pystap's that no one else can create or change, with a registry.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) path: PathBuf,
    pub(super) directory: OwnedFd,
    entries: OwnedFd,
}

/// Root's.
const ROOTS: [&str; 2] = ["/run/pystap", "/var/lib/pystap"];

/// Where bases may be, the best first.
fn places() -> Vec<PathBuf> {
    if geteuid().is_root() {
        return ROOTS.map(PathBuf::from).to_vec();
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let runtime = absolute("XDG_RUNTIME_DIR").map(|path| path.join("pystap"));
    let cache = absolute("HOME").map(|path| path.join(".cache/pystap"));
    runtime.into_iter().chain(cache).collect()
}

/// Where this user's library usually is.
pub(super) fn usual() -> PathBuf {
    let base = places().into_iter().next();
    base.map_or_else(of_root, |base| within(&base))
}

/// Where root's is.
pub(super) fn of_root() -> PathBuf {
    within(Path::new(ROOTS[0]))
}

fn within(base: &Path) -> PathBuf {
    base.join(name()).join(directory::LIBRARY)
}

/// The name of the directory with the library in a base: a script for stap contains it, so it is the same in every
/// session.
pub(super) fn name() -> String {
    let build = embedded::build_id();
    format!("agent-{}", build.get(..12).unwrap_or(build))
}

impl Base {
    /// All usable bases, the best first, and what is wrong with the others. Missing ones are created.
    pub(super) fn all() -> (Vec<Base>, Vec<String>) {
        let mut bases = Vec::new();
        let mut others = Vec::new();
        for path in places() {
            match Base::make(&path) {
                Ok(base) => bases.push(base),
                Err(reason) => others.push(format!("{}: {reason}", path.display())),
            }
        }
        if bases.is_empty() && others.is_empty() {
            others.push("neither XDG_RUNTIME_DIR nor HOME is set".to_owned());
        }
        (bases, others)
    }

    fn make(path: &Path) -> Result<Base, String> {
        let words = |error: io::Error| error.to_string();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err("it has no parent".to_owned());
        };
        // `~/.cache` may be missing, but nothing above it.
        let parent = match strict(parent) {
            Err(lax) if lax.is_absence() => match (parent.parent(), parent.file_name()) {
                (Some(above), Some(name)) => make_directory(above, Path::new(name), 0o700)?.0,
                _ => return Err(lax.to_string()),
            },
            other => other.map_err(|lax| lax.to_string())?,
        };
        let (path, directory) = make_directory(&parent, Path::new(name), 0o755)?;
        // Other users' targets have to pass through; another part of pystap may have created it for itself alone.
        if geteuid().is_root() {
            directory::publish(&directory).map_err(words)?;
        }
        Base::at(path, directory, true).map_err(words)
    }

    fn at(path: PathBuf, directory: OwnedFd, make: bool) -> io::Result<Base> {
        if make {
            match mkdirat(&directory, ENTRIES, Mode::from(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let entries = OwnedFd::from(look_at(&directory, Path::new(ENTRIES), Look::Directory)?);
        if !directory::is_ours(&entries)? {
            return Err(io::Error::other("its registry belongs to somebody else"));
        }
        Ok(Base {
            path,
            directory,
            entries,
        })
    }

    /// Those that already exist.
    fn present() -> Vec<Base> {
        let open = |path: PathBuf| {
            let path = strict(&path).ok()?;
            let directory = OwnedFd::from(look(&path, Look::Directory).ok()?);
            Base::at(path, directory, false).ok()
        };
        places().into_iter().filter_map(open).collect()
    }

    /// Whether code cannot be mapped from there.
    pub(super) fn is_noexec(&self) -> io::Result<bool> {
        let flags = fstatvfs(&self.directory)?.f_flag;
        Ok(flags.contains(StatVfsMountFlags::NOEXEC))
    }

    /// The right to change its contents, held while the returned value lives.
    pub(super) fn lock(&self) -> io::Result<Locked<'_>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.entries, LOCK, flags, Mode::from(0o600))?);
        let end = Instant::now() + PATIENCE;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK && error != Errno::INTR {
                return Err(error.into());
            }
            if Instant::now() >= end {
                return Err(io::Error::other("another pystap does not let go of it"));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(Locked {
            base: self,
            _file: file,
        })
    }
}

/// Opens a directory below a strict one, creating it if it is missing. Returns its path and a descriptor.
fn make_directory(parent: &Path, name: &Path, mode: u32) -> Result<(PathBuf, OwnedFd), String> {
    let words = |error: io::Error| error.to_string();
    let parent = strict(parent).map_err(|lax| lax.to_string())?;
    let opened = look(&parent, Look::Directory).map_err(words)?;
    match mkdirat(&opened, name, Mode::from(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(words(error.into())),
    }
    let path = strict(&parent.join(name)).map_err(|lax| lax.to_string())?;
    let directory = OwnedFd::from(look(&path, Look::Directory).map_err(words)?);
    if !directory::is_ours(&directory).map_err(words)? {
        return Err("it belongs to somebody else".to_owned());
    }
    Ok((path, directory))
}

/// What is recorded of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The boot in which it was created.
    pub(super) boot: String,
    /// The build ID of its library.
    pub(super) build: String,
    pub(super) identity: Identity,
    pub(super) place: Place,
}

/// Where a directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In the base of the registry, with this name.
    Base(String),
    /// Where a target sees it.
    Target(Target),
}

/// A directory in a target's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) view: View,
    /// The IDs with which it was created.
    pub(super) ids: Ids,
    /// A process with that view, and its start time.
    pub(super) process: (u32, u64),
    /// The path of the view's root among our own mounts, if it has one.
    pub(super) root: Option<PathBuf>,
    /// The parent directory as the target sees it.
    pub(super) parent: String,
    pub(super) name: String,
}

impl Target {
    /// The directory's path as the target sees it.
    pub(super) fn path(&self) -> PathBuf {
        Path::new(&self.parent).join(&self.name)
    }
}

/// A process that was asked to run a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pid: u32,
    start: u64,
    script: String,
}

impl Request {
    /// A request to a process that runs now.
    pub(super) fn new(pid: u32, script: &str) -> Option<Request> {
        Some(Request {
            pid,
            start: start_time(pid).ok()??,
            script: script.to_owned(),
        })
    }

    /// Withdraws it, if its process still lives.
    fn withdraw(&self) {
        if start_time(self.pid).ok().flatten() == Some(self.start) {
            remote::relieve(self.pid, &self.script);
        }
    }
}

/// One line of an entry.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Record(Record),
    File(String),
    Request(Request),
}

/// An entry of this session. Its lock shows that the session is alive.
#[derive(Debug)]
pub(super) struct Entry {
    name: String,
    file: File,
    pub(super) record: Record,
    pub(super) files: Vec<String>,
}

impl Entry {
    /// Records a file in the directory, before it exists.
    pub(super) fn note_file(&mut self, name: &str) -> io::Result<()> {
        self.append(&Line::File(name.to_owned()))?;
        self.files.push(name.to_owned());
        Ok(())
    }

    /// Records a request, before it is made.
    pub(super) fn note_request(&mut self, request: Request) -> io::Result<()> {
        self.append(&Line::Request(request))
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}

/// An entry of a session that is gone.
#[derive(Debug)]
pub(super) struct Left {
    name: String,
    pub(super) record: Record,
    pub(super) files: Vec<String>,
    requests: Vec<Request>,
}

impl Left {
    fn parse(name: &str, text: &str) -> Option<Left> {
        let mut lines = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok());
        let Some(Line::Record(record)) = lines.next() else {
            return None;
        };
        let mut left = Left {
            name: name.to_owned(),
            record,
            files: Vec::new(),
            requests: Vec::new(),
        };
        for line in lines {
            match line {
                Line::File(file) if is_name(&file) => left.files.push(file),
                Line::Request(request) => left.requests.push(request),
                Line::File(_) | Line::Record(_) => return None,
            }
        }
        Some(left)
    }

    /// Withdraws its session's requests to processes, before the scripts are removed: a thread that sleeps for days
    /// would complain about the missing file when it wakes.
    pub(super) fn withdraw(&self) {
        if self.record.boot == boot() {
            self.requests.iter().for_each(Request::withdraw);
        }
    }
}

/// Whether this can only name an entry of the directory itself.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The registry of a base, while no one else changes it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    base: &'a Base,
    _file: File,
}

impl Locked<'_> {
    /// Records a directory of this session.
    pub(super) fn add(&self, record: Record) -> io::Result<Entry> {
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let pid = std::process::id();
        // A process ID may recur within a boot, and one process may have many places.
        let mut count = 0_u32;
        let (name, file) = loop {
            let name = format!("{pid}-{count}");
            match openat(&self.base.entries, &*name, flags, Mode::from(0o600)) {
                Ok(file) => break (name, File::from(file)),
                Err(Errno::EXIST) => count += 1,
                Err(error) => return Err(error.into()),
            }
        };
        let mut entry = Entry {
            name,
            file,
            record: record.clone(),
            files: Vec::new(),
        };
        let noted = flock(&entry.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .and_then(|()| entry.append(&Line::Record(record)));
        match noted {
            Ok(()) => Ok(entry),
            Err(error) => {
                self.strike(&entry.name);
                Err(error)
            }
        }
    }

    /// Removes an entry.
    fn strike(&self, entry: &str) {
        let _ = unlinkat(&self.base.entries, entry, AtFlags::empty());
    }

    /// Removes this entry of ours.
    pub(super) fn forget(&self, entry: &Entry) {
        self.strike(&entry.name);
    }

    /// Removes an entry of a session that is gone.
    pub(super) fn forget_left(&self, left: &Left) {
        self.strike(&left.name);
    }

    /// The entries of other sessions: whether live sessions use a directory, and what is left of those that are gone.
    pub(super) fn others(&self, but: Option<&Entry>) -> io::Result<Others> {
        let mut others = Others {
            live: Vec::new(),
            left: Vec::new(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.base.entries)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name.starts_with(|first: char| first.is_ascii_digit())
                && but.is_none_or(|but| but.name != name)
            {
                names.push(name.to_owned());
            }
        }
        for name in names {
            let Ok(file) = look_at(&self.base.entries, Path::new(&name), Look::File) else {
                continue;
            };
            let dead = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            let mut text = String::new();
            let read = (&file).take(LARGEST).read_to_string(&mut text);
            let parsed = read.ok().and_then(|_| Left::parse(&name, &text));
            match (parsed, dead) {
                (Some(left), true) => others.left.push(left),
                (Some(live), false) => others.live.push(live.record),
                // A session that was killed before it had recorded anything.
                (None, true) => self.strike(&name),
                (None, false) => {}
            }
        }
        Ok(others)
    }

    /// Removes a directory in the base.
    pub(super) fn remove(
        &self,
        name: &str,
        identity: Identity,
        files: &[String],
    ) -> io::Result<Removal> {
        directory::remove(&self.base.directory, name, identity, files)
    }

    /// The identity of a recorded directory in the base, allowing for device numbers that changed with a reboot.
    pub(super) fn identity_now(&self, record: &Record) -> Identity {
        let device = Identity::of(&self.base.directory).map(|base| base.device);
        match (&record.place, device) {
            (Place::Base(_), Ok(device)) if record.boot != boot() => Identity {
                device,
                ..record.identity
            },
            _ => record.identity,
        }
    }
}

/// Entries of other sessions.
#[derive(Debug)]
pub(super) struct Others {
    /// Of live sessions.
    pub(super) live: Vec<Record>,
    /// Of sessions that are gone.
    pub(super) left: Vec<Left>,
}

impl Others {
    /// Whether a live session uses a directory.
    pub(super) fn need(&self, identity: Identity) -> bool {
        self.live.iter().any(|record| record.identity == identity)
    }
}

/// The registries that exist, for cleaning up after sessions that are gone.
pub(super) fn present() -> Vec<Base> {
    Base::present()
}

/// The ID of this boot.
pub(super) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    })
}

/// A path by which we can open an open file again.
pub(super) fn reach(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Makes a directory of our own as private as a registry.
#[cfg(test)]
fn of_test(path: &Path) -> Base {
    let directory = OwnedFd::from(look(path, Look::Directory).expect("a directory"));
    directory::publish(&directory).expect("set");
    Base::at(path.to_owned(), directory, true).expect("ours")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn record(base: &Base, name: &str) -> Record {
        let made = directory::create(&base.directory, name).expect("made");
        Record {
            boot: boot().to_owned(),
            build: "build".to_owned(),
            identity: Identity::of(&made).expect("known"),
            place: Place::Base(name.to_owned()),
        }
    }

    #[test]
    fn an_entry_is_live_until_its_session_is_gone_and_then_says_what_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = of_test(directory.path());
        let record = record(&base, "agent-x");
        let mut entry = base
            .lock()
            .expect("free")
            .add(record.clone())
            .expect("added");
        entry.note_file("attach.py").expect("noted");
        let other = || base.lock().expect("free").others(None).expect("readable");
        assert!(other().need(record.identity));
        assert!(other().left.is_empty());
        assert!(
            base.lock()
                .expect("free")
                .others(Some(&entry))
                .expect("readable")
                .live
                .is_empty()
        );
        // As if it had been killed.
        drop(entry);
        let others = other();
        assert!(!others.need(record.identity));
        let [left] = others.left.as_slice() else {
            panic!("{others:?}");
        };
        assert_eq!(left.record, record);
        assert_eq!(left.files, ["attach.py"]);
        let locked = base.lock().expect("free");
        let removal = locked.remove("agent-x", left.record.identity, &left.files);
        assert_eq!(removal.expect("possible"), Removal::Gone);
        locked.forget_left(left);
        drop(locked);
        assert!(other().left.is_empty());
    }

    #[test]
    fn what_was_not_written_to_its_end_counts_as_far_as_it_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = of_test(directory.path());
        let record = record(&base, "agent-x");
        let mut entry = base.lock().expect("free").add(record).expect("added");
        entry.note_file("attach.py").expect("noted");
        let path = directory.path().join(ENTRIES).join(&entry.name);
        drop(entry);
        let whole = fs::read_to_string(&path).expect("readable");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            let others = base.lock().expect("free").others(None).expect("readable");
            let files: usize = others.left.iter().map(|left| left.files.len()).sum();
            assert!(others.live.is_empty() && files <= 1, "{length}");
        }
        // Names that would lead elsewhere make the whole entry worthless.
        for name in ["../x", "/etc/passwd", "..", ""] {
            let text = whole.replace("attach.py", name);
            assert!(Left::parse("1-0", &text).is_none(), "{name}");
        }
    }

    #[test]
    fn whoever_changes_something_is_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = of_test(directory.path());
        let counted = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let base = of_test(directory.path());
                    for _ in 0..20 {
                        let _locked = base.lock().expect("free in time");
                        let now = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(now, 0);
                        counted.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
        drop(base);
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_base_is_made_only_where_nobody_else_could_make_it() {
        let outer = tempfile::tempdir_in("/var/lib").expect("run the tests as root");
        let path = strict(outer.path()).expect("only root's");
        let base = Base::make(&path.join("cache/pystap")).expect("made, with its parent");
        assert!(base.lock().is_ok() && strict(&base.path).is_ok());
        // Below a world-writable directory, one that another user owns, and through a link to it.
        let refused = |path: &Path| Base::make(&path.join("pystap")).expect_err("refused");
        let temporary = tempfile::tempdir().expect("a directory");
        assert!(refused(temporary.path()).contains("written by others"));
        std::os::unix::fs::symlink(temporary.path(), path.join("link")).expect("made");
        assert!(refused(&path.join("link")).contains("written by others"));
        let theirs = path.join("theirs");
        fs::create_dir(&theirs).expect("made");
        std::os::unix::fs::chown(&theirs, Some(54321), None).expect("given away");
        assert!(refused(&theirs).contains("belongs to user 54321"));
        // A file in the place of a registry is not taken for one.
        fs::create_dir_all(path.join("other/pystap")).expect("made");
        std::os::unix::fs::symlink("/etc", path.join("other/pystap/registry")).expect("made");
        assert!(refused(&path.join("other")).contains("Not a directory"));
    }

    #[test]
    fn after_a_boot_a_directory_of_our_own_is_known_by_its_inode_and_another_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = of_test(directory.path());
        let mut record = record(&base, "agent-x");
        record.boot = "another".to_owned();
        let right = record.identity;
        record.identity.device += 1;
        let locked = base.lock().expect("free");
        assert_eq!(locked.identity_now(&record), right);
        record.boot = boot().to_owned();
        assert_ne!(locked.identity_now(&record), right);
    }
}
