//! Where this user's pystap files are. Root uses only its own: `HOME` can be another user's (sudo keeps it on some
//! systems), and that user can write whatever is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use super::Identity;
use super::holder::{believed, believed_or_absent};
use crate::shell;

/// The directory named by an environment variable.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Root's home according to the account, not the environment.
fn roots_home() -> Option<PathBuf> {
    let home = PathBuf::from(Identity::account(0)?.home);
    (home.is_absolute() && home != Path::new("/")).then_some(home)
}

/// Where results of pystap's work are cached: `$XDG_CACHE_HOME/pystap` or `~/.cache/pystap`; `/var/cache/pystap`
/// without a home, and for root where others than root could write there.
pub(crate) fn cache() -> PathBuf {
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|place| place.join("pystap"))
        .filter(|place| believed_or_absent(place).is_ok())
        .unwrap_or_else(|| PathBuf::from("/var/cache/pystap"))
}

/// Root's or this user's home for programs that pystap starts; `None` when no home can be trusted.
pub(crate) fn home() -> Option<PathBuf> {
    variable("HOME")
        .filter(|home| believed(home).is_ok())
        .or_else(|| roots_home().filter(|_| geteuid().is_root()))
}

/// Something that this user may have below `~/.config/pystap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Configured {
    /// There is no such place.
    Nothing,
    /// It exists and is this user's, or may be created.
    Own(PathBuf),
    /// It exists, and root must not trust it; the clause says why.
    Foreign(PathBuf, String),
}

/// A file or directory of the user's configuration: `$XDG_CONFIG_HOME/pystap/NAME` or `~/.config/pystap/NAME`. For root
/// it is below root's home where `HOME` is another user's.
pub(crate) fn configured(name: &str) -> Configured {
    let named = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let Some(place) = named.map(|place| place.join("pystap").join(name)) else {
        return Configured::Nothing;
    };
    // If a user's own file cannot be read, it is up to the reader to complain.
    if !geteuid().is_root() {
        return Configured::Own(place);
    }
    match believed_or_absent(&place) {
        Ok(()) => Configured::Own(place),
        Err(_) if fs::symlink_metadata(&place).is_err() => roots_home()
            .map(|home| home.join(".config/pystap").join(name))
            .filter(|place| believed_or_absent(place).is_ok())
            .map_or(Configured::Nothing, Configured::Own),
        Err(reason) => Configured::Foreign(place, reason),
    }
}

/// Sentences about files that exist and are not used, because root must not trust them.
pub(crate) fn disbelieved() -> Vec<String> {
    ["services.toml", "templates", "recipes"]
        .into_iter()
        .filter_map(|name| match configured(name) {
            Configured::Foreign(place, reason) => Some(format!(
                "{} is not used, because {reason}, and root believes only what root alone can change; with `sudo -H`, or with HOME={}, your own is used",
                place.display(),
                roots_home().map_or("/root".to_owned(), shell::path)
            )),
            _ => None,
        })
        .collect()
}

/// SystemTap settings that name locations of code.
const PLACES: [&str; 5] = [
    "SYSTEMTAP_RUNTIME",
    "SYSTEMTAP_STAPIO",
    "SYSTEMTAP_STAPRUN",
    "SYSTEMTAP_SYSROOT",
    "SYSTEMTAP_TAPSET",
];

/// Sets root's own directories in the environment of a program that runs with our power and starts others itself.
pub(crate) fn tame(command: &mut Command) {
    if !geteuid().is_root() {
        return;
    }
    command.env("PATH", search_path());
    match home() {
        Some(home) => command.env("HOME", home),
        None => command.env_remove("HOME"),
    };
    for name in PLACES {
        if std::env::var_os(name).is_some_and(|place| believed(Path::new(&place)).is_err()) {
            command.env_remove(name);
        }
    }
}

/// The directories of PATH that may be searched for programs: for root, those that root alone holds.
pub(crate) fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !geteuid().is_root() {
        return path;
    }
    let directories = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute() && believed(directory).is_ok());
    std::env::join_paths(directories).unwrap_or_default()
}
