//! Directories of the stap engine: a cache that outlives sessions, and one directory per session that does not.
//!
//! The session directory holds whatever stap and we leave on disk while we run, and says which module is loaded. What a
//! killed pystap left is found there by the next one, which removes directory and module.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::StapError;
use crate::authority::own;

/// Name of the file that says which module a session has loaded: one line with the loader's pid, one with its path.
const LOADER: &str = "loader";

/// Where session directories are: `/run/pystap` for root, otherwise a private directory below the user's runtime
/// directory or `/tmp`. stap refuses a TMPDIR with unusual characters, so only these are used.
fn sessions_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/pystap");
    }
    let user = rustix::process::geteuid().as_raw();
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    if runtime.is_dir() {
        runtime.join("pystap")
    } else {
        PathBuf::from(format!("/tmp/pystap-{user}"))
    }
}

/// The directory of one session; removed when dropped.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    /// Locked as long as the session lives, whatever becomes of its pid.
    _lock: File,
}

impl Workspace {
    /// Makes this session's directory, after removing what dead sessions left. Says what it removed.
    ///
    /// # Errors
    /// [`StapError::Workspace`].
    pub(super) fn create(staprun: &Path) -> Result<(Self, Vec<String>), StapError> {
        let all = sessions_directory();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |reason| StapError::Workspace { path, reason }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&all)
            .map_err(failed(&all))?;
        // In /tmp somebody else may have been first, also with a link to a directory of ours.
        let found = fs::symlink_metadata(&all).map_err(failed(&all))?;
        if !found.is_dir() {
            return Err(failed(&all)(io::Error::other("it is a link")));
        }
        let owner = found.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(failed(&all)(io::Error::other(format!(
                "it belongs to user {owner}"
            ))));
        }
        let removed = remove_dead(&all, staprun);
        let path = all.join(std::process::id().to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(failed(&path))?;
        let lock = File::create(path.join("lock")).map_err(failed(&path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed(&path)(errno.into()))?;
        Ok((Workspace { path, _lock: lock }, removed))
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that a loader with this pid was started. staprun ends the module's name with its own pid.
    ///
    /// # Errors
    /// [`StapError::Workspace`].
    pub(super) fn note_loader(&self, pid: u32) -> Result<(), StapError> {
        let path = self.path.join(LOADER);
        File::create(&path)
            .and_then(|mut file| writeln!(file, "{pid}"))
            .map_err(|reason| StapError::Workspace { path, reason })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the next session tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes directories whose session is gone, and the modules that they still hold. A session is alive as long as its
/// lock is held.
fn remove_dead(all: &Path, staprun: &Path) -> Vec<String> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let path = entry.path();
        // A session is named by its pid; whatever else lies here is not ours to remove.
        let named = entry.file_name();
        if !named
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        {
            continue;
        }
        let alive = File::open(path.join("lock")).is_ok_and(|lock| {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
        });
        if alive {
            continue;
        }
        let loader = fs::read_to_string(path.join(LOADER))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if let Some(module) = loader.and_then(loaded_module) {
            if unload(staprun, &module) {
                removed.push(format!(
                    "the module {module} of an earlier pystap that was killed"
                ));
            } else {
                // Keep the note, so that a later run can try again.
                continue;
            }
        }
        if fs::remove_dir_all(&path).is_ok() {
            removed.push(format!(
                "{} of an earlier pystap that was killed",
                path.display()
            ));
        }
    }
    removed
}

/// Removes what killed sessions left: their directories, and modules whose loader is gone, whoever loaded them. Says
/// what it removed, and what it could not remove.
pub(super) fn remove_stale(staprun: &Path) -> (Vec<String>, Vec<String>) {
    let mut removed = remove_dead(&sessions_directory(), staprun);
    let mut left = Vec::new();
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let names = modules.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| name.starts_with("stap_")) {
        let loader = name.rsplit('_').next().and_then(|pid| pid.parse().ok());
        if loader.is_none_or(crate::process::runs) {
            continue;
        }
        if unload(staprun, name) {
            removed.push(format!("the module {name}, whose loader is gone"));
        } else {
            left.push(format!("the module {name}"));
        }
    }
    (removed, left)
}

/// The module that the staprun with this pid loaded, when it is still there: `stap_<hash>_<pid>`, with underscores
/// before the pid to fill five places.
pub(super) fn loaded_module(loader: u32) -> Option<String> {
    let modules = fs::read_to_string("/proc/modules").ok()?;
    modules
        .lines()
        .filter_map(|line| line.split(' ').next())
        .find(|name| name.starts_with("stap_") && is_of_loader(name, loader))
        .map(str::to_owned)
}

fn is_of_loader(module: &str, loader: u32) -> bool {
    module.rsplit('_').next() == Some(loader.to_string().as_str())
}

/// Unloads a module that nobody reads any more.
pub(super) fn unload(staprun: &Path, module: &str) -> bool {
    let mut command = Command::new(staprun);
    own::tame(&mut command);
    command
        .args(["-d", module])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_the_pid_of_its_loader() {
        assert!(is_of_loader(
            "stap_2ea6913cbd9bb23ee295c55c705b6525__431",
            431
        ));
        assert!(is_of_loader(
            "stap_2a1f3536f528c4e4ef02c05eea44cfc6_1160",
            1160
        ));
        assert!(!is_of_loader(
            "stap_2a1f3536f528c4e4ef02c05eea44cfc6_11160",
            1160
        ));
    }
}
