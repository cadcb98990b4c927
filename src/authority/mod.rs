//! With whose authority something is done. Root is powerful, and what others can change must not be done with that power:
//! who holds a path ([`Holder`]), where root's own files are ([`own`]), programs of others ([`foreign`]), and the ids that a
//! child takes for them ([`Identity`]).
//!
//! # Who holds what
//!
//! Root runs pystap beside users whom it does not trust. So before something is run or believed, [`Holder`] says who
//! could put something else at the end of its path: the owners of the file, of every directory and of every link on the
//! way; everybody, and groups, where these may write; and whoever holds the interpreter that the first line of a script
//! names. In a directory with the sticky bit, only root can replace what belongs to root. What is on a FUSE file system
//! is nobody's. `files::strict` is stricter, for what has to stay safe after pystap has gone.
//!
//! | held by | run | written | believed |
//! |---|---|---|---|
//! | root | as root, without the directories of PATH and the settings that others can change (`own::tame`) | by root | yes |
//! | one user | as this user | by a process with this user's ids | no |
//! | several, or nobody knows | not at all | not at all | no |
//!
//! # As this user
//!
//! That means `pystap lower USER GROUP run -- PROGRAM …`, which is pystap itself again. It closes what it has
//! inherited, begins a session of its own, takes all ids, keeps no groups, no capabilities and no way to new
//! privileges, makes sure of that ([`Identity`]), sets limits, and executes the program. With `place` instead of `run`
//! it does the tasks of `agent/install.rs`. [`foreign`] gives such a process /dev/null as its input, a clean
//! environment and a deadline, reads 64 KiB at most, and ends its process group.
//!
//! The group is the primary one of the user's account and never that of a file, since the user may be no member of it.
//! What such a program says decides nothing beyond its own user: an environment to which it leads is changed only if
//! the same user holds that.
//!
//! Without root, none of this changes who runs what.

pub(crate) mod foreign;
mod holder;
mod identity;
pub(crate) mod own;

pub(crate) use holder::{Holder, believed, ours};
pub(crate) use identity::{Identity, IdentityError};
