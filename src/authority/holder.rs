//! Who holds a path: everyone who could put something else at its end. This covers the file itself, every directory
//! that leads to it and every link on the way, after resolving; a script is also held by whoever holds the interpreter
//! in its first line.
//!
//! What root alone holds cannot change while root uses it, which is what OpenSSH calls strict modes. A directory like
//! `/tmp` is no exception: where the sticky bit is set, only root can replace what belongs to root. A group counts
//! unless it is private to the owner (no other account is in it); an access control list shows as the group's
//! permissions.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::statfs;

use super::Identity;
use crate::files::{Look, look};

/// How many links are followed, as in the kernel.
const MOST_LINKS: u32 = 40;
/// How many scripts may name one another as their interpreter; the kernel follows five.
const MOST_SCRIPTS: u32 = 5;
/// The kernel reads no more of a first line.
const LONGEST_LINE: u64 = 256;
/// `FUSE_SUPER_MAGIC`: a file system whose contents are up to some user's program.
const FUSE: rustix::fs::FsWord = 0x6573_5546;

/// Who can put something else at the end of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Root and no one else.
    Root,
    /// One user besides root.
    User(u32),
    /// More than one user, or unknown.
    Several(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Root => f.write_str("only root can change it"),
            Holder::User(user) => write!(f, "{} can change it", named(*user)),
            Holder::Several(who) => f.write_str(who),
        }
    }
}

/// A user's name for messages.
pub(super) fn named(user: u32) -> String {
    match Identity::account(user) {
        Some(account) if account.name.bytes().all(|it| it.is_ascii_graphic()) => {
            format!("user {} ({user})", account.name)
        }
        _ => format!("user {user}"),
    }
}

impl Holder {
    /// Who holds this path.
    ///
    /// # Errors
    /// When the path does not exist, or its links form a cycle.
    pub(crate) fn of(path: &Path) -> io::Result<Holder> {
        let mut walk = Walk::new()?;
        walk.to(path)?;
        Ok(walk.holder)
    }

    /// Who holds a program: the file and, if it is a script, the interpreter that its first line names, and so on.
    ///
    /// # Errors
    /// As [`Holder::of`]; also when a first line names something that does not exist.
    pub(crate) fn of_program(path: &Path) -> io::Result<Holder> {
        let mut holder = Holder::of(path)?;
        let mut program = path.to_owned();
        for _ in 0..MOST_SCRIPTS {
            let words = first_line(&program)?;
            let Some((interpreter, arguments)) = words.split_first() else {
                return Ok(holder);
            };
            program = PathBuf::from(interpreter);
            holder = holder.and(Holder::of(&program)?);
            // `env` looks up a program in PATH: what it will find counts as well.
            if program.file_name() == Some(OsStr::new("env")) {
                let named = arguments.iter().find(|word| {
                    let bytes = word.as_bytes();
                    !bytes.starts_with(b"-") && !bytes.contains(&b'=')
                });
                let Some(named) = named else {
                    return Ok(holder);
                };
                program = which::which(named).map_err(io::Error::other)?;
                holder = holder.and(Holder::of(&program)?);
            }
        }
        Err(io::Error::other("scripts lead to one another"))
    }

    /// The holder of both paths together.
    #[must_use]
    pub(crate) fn and(self, other: Holder) -> Holder {
        match (self, other) {
            (Holder::Root, other) | (other, Holder::Root) => other,
            (Holder::User(one), Holder::User(two)) if one != two => {
                Holder::Several(format!("{} and {} can change it", named(one), named(two)))
            }
            (several @ Holder::Several(_), _) | (_, several) => several,
        }
    }
}

/// Whether this process may trust and run what is at a path: as root, only what root alone holds; as any other user,
/// whatever the file system permits. Otherwise a clause that says who else could change it.
///
/// # Errors
/// The clause, or why the path cannot be examined.
pub(crate) fn believed(path: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    match Holder::of(path) {
        Ok(Holder::Root) => Ok(()),
        Ok(holder) => Err(holder.to_string()),
        Err(error) => Err(format!("it cannot be looked at: {error}")),
    }
}

/// Whether nobody but root and this user could have written what is at a path, whoever this user is. Otherwise a clause that says
/// who else could.
///
/// # Errors
/// The clause, or why the path cannot be examined.
pub(crate) fn ours(path: &Path) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    match Holder::of(path) {
        Ok(Holder::Root) => Ok(()),
        Ok(Holder::User(user)) if user == us => Ok(()),
        Ok(holder) => Err(holder.to_string()),
        Err(error) => Err(format!("it cannot be looked at: {error}")),
    }
}

/// As [`believed`], for a path that need not exist yet: the nearest existing directory counts, in which root creates the rest.
///
/// # Errors
/// As [`believed`].
pub(crate) fn believed_or_absent(path: &Path) -> Result<(), String> {
    let nearest = path.ancestors().find(|it| fs::symlink_metadata(it).is_ok());
    believed(nearest.unwrap_or(Path::new("/")))
}

/// The words of a script's first line; none for anything else. Never blocks on the file.
fn first_line(path: &Path) -> io::Result<Vec<OsString>> {
    let file = look(&fs::canonicalize(path)?, Look::File)?;
    let mut head = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut head)?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(Vec::new());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect())
}

/// A walk along a path that checks everything on the way.
struct Walk {
    holder: Holder,
    links: u32,
    /// Device of the file system of the root directory.
    device: u64,
}

impl Walk {
    fn new() -> io::Result<Walk> {
        let root = fs::symlink_metadata("/")?;
        let mut walk = Walk {
            holder: Holder::Root,
            links: 0,
            device: root.dev(),
        };
        walk.pass(Path::new("/"), &root, None);
        Ok(walk)
    }

    fn to(&mut self, path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let mut left: Vec<OsString> = words(&path);
        let mut here = PathBuf::from("/");
        let mut above = fs::symlink_metadata(&here)?;
        while let Some(word) = left.pop() {
            if word == ".." {
                here.pop();
                above = fs::symlink_metadata(&here)?;
                continue;
            }
            let next = here.join(&word);
            // What these links lead to is not what their text says.
            if here == Path::new("/proc") {
                self.add(Holder::Several(
                    "what is below /proc is the processes' own".to_owned(),
                ));
            }
            let metadata = fs::symlink_metadata(&next)?;
            self.pass(&next, &metadata, Some(&above));
            if metadata.is_symlink() {
                self.links += 1;
                if self.links > MOST_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                    above = fs::symlink_metadata(&here)?;
                }
                left.extend(words(&target));
            } else {
                here = next;
                above = metadata;
            }
        }
        Ok(())
    }

    fn add(&mut self, other: Holder) {
        self.holder = std::mem::replace(&mut self.holder, Holder::Root).and(other);
    }

    fn pass(&mut self, path: &Path, metadata: &Metadata, above: Option<&Metadata>) {
        if metadata.uid() != 0 {
            self.add(Holder::User(metadata.uid()));
        }
        // The permissions of a link mean nothing; its directory determines who may replace it.
        if metadata.is_symlink() {
            return;
        }
        // In a directory with the sticky bit, others may create entries but not change existing ones. Whether the entry
        // below belongs to another user is checked when the walk gets there.
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o002 != 0 && !sticky {
            self.add(Holder::Several("everybody can change it".to_owned()));
        }
        let group = metadata.gid();
        if metadata.mode() & 0o020 != 0 && !sticky && !is_private(group, metadata.uid()) {
            self.add(Holder::Several(format!("group {group} can change it")));
        }
        // Possibly mounted by a user: then owners and permissions are whatever that user's program says.
        let new_device = above.is_some_and(|above| above.dev() != metadata.dev());
        if new_device
            && metadata.dev() != self.device
            && statfs(path).is_ok_and(|it| it.f_type == FUSE)
        {
            self.add(Holder::Several(format!(
                "{} is a file system that some program makes up",
                path.display()
            )));
        }
    }
}

/// The components of a path, last one first, without those that lead nowhere.
fn words(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(word) => Some(word.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Whether this user is the only one in a group, as far as the files say.
fn is_private(group: u32, user: u32) -> bool {
    let (Ok(accounts), Ok(groups)) = (
        fs::read_to_string("/etc/passwd"),
        fs::read_to_string("/etc/group"),
    ) else {
        return false;
    };
    let mut own = None;
    for line in accounts.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, primary, ..] = fields.as_slice() else {
            continue;
        };
        if primary.parse() != Ok(group) {
            continue;
        }
        if id.parse() != Ok(user) {
            return false;
        }
        own = Some(*name);
    }
    let Some(own) = own else {
        return false;
    };
    groups.lines().all(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members] = fields.as_slice() else {
            return true;
        };
        id.parse() != Ok(group)
            || members
                .split(',')
                .all(|member| member.is_empty() || member == own)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// Needs root, which CI and the guest are: an unprivileged run proves nothing here and must not look as if it did.
    fn directory() -> tempfile::TempDir {
        assert!(
            rustix::process::geteuid().is_root(),
            "who holds a file can be tried out by root only"
        );
        tempfile::tempdir().expect("a directory")
    }

    fn holder(path: &Path) -> Holder {
        Holder::of(path).expect("it exists")
    }

    #[test]
    #[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
    fn what_root_alone_can_change_is_held_by_root_even_below_tmp() {
        let directory = directory();
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(holder(&file), Holder::Root);
        assert_eq!(holder(Path::new("/usr/bin/python3")), Holder::Root);
        assert_eq!(holder(Path::new("/etc/../bin/sh")), Holder::Root);
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn the_file_a_directory_and_a_link_of_a_user_each_make_it_the_users() {
        let directory = directory();
        let (below, file) = (
            directory.path().join("below"),
            directory.path().join("below/file"),
        );
        fs::create_dir(&below).expect("made");
        fs::write(&file, "").expect("written");
        chown(&file, Some(54321), None).expect("given away");
        assert_eq!(holder(&file), Holder::User(54321));
        chown(&file, Some(0), None).expect("taken back");
        chown(&below, Some(54321), None).expect("given away");
        assert_eq!(holder(&file), Holder::User(54321));
        let link = below.join("sh");
        symlink("/bin/sh", &link).expect("a link");
        assert_eq!(holder(&link), Holder::User(54321));
        // A link owned by root in a directory owned by root that leads through the user's directory.
        let through = directory.path().join("through");
        symlink("below/sh", &through).expect("a link");
        assert_eq!(holder(&through), Holder::User(54321));
        let twice = directory.path().join("twice");
        symlink("through", &twice).expect("a link");
        assert_eq!(holder(&twice), Holder::User(54321));
        chown(&file, Some(54322), None).expect("given away");
        let Holder::Several(who) = holder(&file) else {
            panic!("two users hold it");
        };
        assert!(who.contains("54321") && who.contains("54322"), "{who}");
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn rights_of_everybody_and_of_groups_count_and_those_of_a_sticky_directory_do_not() {
        let directory = directory();
        let (below, file) = (
            directory.path().join("below"),
            directory.path().join("below/file"),
        );
        fs::create_dir(&below).expect("made");
        fs::write(&file, "").expect("written");
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        };
        for mode in [0o777, 0o707] {
            set(&below, mode);
            assert!(matches!(holder(&file), Holder::Several(_)), "{mode:o}");
        }
        set(&below, 0o1777);
        assert_eq!(holder(&file), Holder::Root);
        set(&below, 0o755);
        set(&file, 0o666);
        assert!(matches!(holder(&file), Holder::Several(_)));
        set(&file, 0o664);
        chown(&file, None, Some(54321)).expect("given to a group");
        assert_eq!(
            holder(&file),
            Holder::Several("group 54321 can change it".to_owned())
        );
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_script_is_also_held_by_who_holds_its_interpreter() {
        let directory = directory();
        let (script, interpreter) = (
            directory.path().join("script"),
            directory.path().join("interpreter"),
        );
        fs::copy("/bin/sh", &interpreter).expect("copied");
        chown(&interpreter, Some(54321), None).expect("given away");
        for (line, expected) in [
            ("#!/bin/sh".to_owned(), Holder::Root),
            ("#!/usr/bin/env sh".to_owned(), Holder::Root),
            (format!("#!{}", interpreter.display()), Holder::User(54321)),
            (
                format!("#! {} -x", interpreter.display()),
                Holder::User(54321),
            ),
            (
                format!("#!/usr/bin/env -S A=b {}", interpreter.display()),
                Holder::User(54321),
            ),
        ] {
            fs::write(&script, format!("{line}\n")).expect("written");
            assert_eq!(
                Holder::of_program(&script).expect("it exists"),
                expected,
                "{line}"
            );
        }
        fs::write(&script, format!("#!{}\n", script.display())).expect("written");
        assert!(Holder::of_program(&script).is_err());
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn links_in_circles_and_processes_are_nobodys() {
        let directory = directory();
        let link = directory.path().join("link");
        symlink("link", &link).expect("a link");
        assert!(Holder::of(&link).is_err());
        assert!(matches!(
            holder(Path::new("/proc/self/exe")),
            Holder::Several(_)
        ));
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_path_that_is_not_there_yet_counts_by_what_is_there() {
        let directory = directory();
        let deep = directory.path().join("a/b/c");
        assert_eq!(believed_or_absent(&deep), Ok(()));
        chown(directory.path(), Some(54321), None).expect("given away");
        let reason = believed_or_absent(&deep).expect_err("it is the user's");
        assert!(reason.contains("54321"), "{reason}");
    }
}
