//! Becoming another user for good: a process takes that user's IDs and drops every privilege it had beyond them.

use std::fs;
use std::io;

use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// A user and a group, as IDs in our user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user.
    pub user: u32,
    /// The only group; there are no supplementary ones.
    pub group: u32,
}

/// Why a process could not become another user. It must then end: it still has part of its old power.
#[derive(Debug, thiserror::Error)]
#[error("the identity of user {user} cannot be taken ({reason})")]
pub(crate) struct IdentityError {
    /// The intended user.
    pub user: u32,
    /// The error from the system.
    pub reason: io::Error,
}

impl Identity {
    /// Becomes this user, irrevocably: all IDs, no supplementary groups, no capabilities, no new privileges through
    /// programs, no core dumps, and death when the parent's thread ends. Descriptors stay as they are.
    ///
    /// For a process that was started for this and has one thread: capabilities belong to threads.
    ///
    /// # Errors
    /// When any of this fails, or does not hold afterwards.
    pub(crate) fn assume(self) -> Result<(), IdentityError> {
        self.taken().map_err(|reason| IdentityError {
            user: self.user,
            reason,
        })
    }

    fn taken(self) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        if user.is_root() {
            return Err(io::Error::other("it would be root"));
        }
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        set_no_new_privs(true)?;
        // If secure bits kept the kernel from doing this along with the IDs, it is done here.
        clear_ambient_capability_set()?;
        let nothing = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, nothing)?;
        // Only now, because changing the IDs clears it.
        set_parent_process_death_signal(Some(Signal::KILL))?;

        let users = getresuid()?;
        let groups = getresgid()?;
        let left = capabilities(None)?;
        let is_so = [users.real, users.effective, users.saved] == [user; 3]
            && [groups.real, groups.effective, groups.saved] == [group; 3]
            && getgroups()?.iter().all(|it| *it == group)
            && left.effective.is_empty()
            && left.permitted.is_empty()
            && left.inheritable.is_empty();
        match is_so {
            true => Ok(()),
            false => Err(io::Error::other("something of the old one is left")),
        }
    }

    /// The user's account, if `/etc/passwd` has one: its primary group, its name and its home.
    pub(crate) fn account(user: u32) -> Option<UserAccount> {
        let accounts = fs::read_to_string("/etc/passwd").ok()?;
        accounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, id, group, _, home, ..] = fields.as_slice() else {
                return None;
            };
            (id.parse() == Ok(user)).then(|| {
                Some(UserAccount {
                    name: (*name).to_owned(),
                    group: group.parse().ok()?,
                    home: (*home).to_owned(),
                })
            })?
        })
    }

    /// The identity of a user, with the primary group of the account, or with the group of nobody. Never with the group
    /// of a file, which the user may not belong to.
    pub(crate) fn of_user(user: u32) -> Identity {
        /// `nogroup`, `nobody`: what the kernel itself uses for a group without an ID.
        const NOGROUP: u32 = 65534;
        Identity {
            user,
            group: Identity::account(user).map_or(NOGROUP, |account| account.group),
        }
    }
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserAccount {
    /// The name.
    pub name: String,
    /// The primary group.
    pub group: u32,
    /// The home directory.
    pub home: String,
}
