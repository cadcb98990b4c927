//! The cache of compiled scripts. A script that was compiled once starts at once, without stap, as long as the script,
//! the tapsets, stap, the kernel and the probed images are what they were.
//!
//! # Compile once and keep
//!
//! `stap` can compile and run in one step. We do it in two, `stap -p4` and `staprun`:
//!
//! - A module that was compiled before starts at once. stap has a cache of its own, but even a hit there costs its
//!   first two passes: a second or more, in which calls of a running program are missed.
//! - The key is ours: script, tapsets, arguments, stap, the kernel's build tree, and the build id of every image.
//!   stap's own key looks at paths only, and an upgraded interpreter has the same path.
//! - What the compiler says and what the running module says can be told apart without guessing.
//! - A module can be compiled where the tools are fast and run elsewhere: `--compile-only --kernel RELEASE`. The tests
//!   in the guest rely on that.
//!
//! A script depends on neither a process id nor a duration; otherwise no module would ever serve again.
//!
//! At most 64 modules are kept, in `~/.cache/pystap/modules`. Root's are kept where only root can write
//! ([`crate::authority::own`]), and a module that somebody else could have put there is not used.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use crate::authority::believed;

/// A script that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The compiled module.
    pub path: PathBuf,
}

/// Modules kept at most; the ones used longest ago go first.
const KEPT: usize = 64;

/// A place in the cache of compiled modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CacheEntry {
    directory: PathBuf,
    /// Everything that the module depends on, as text.
    key: String,
}

impl CacheEntry {
    /// The place for a module that depends on exactly `key`, below the cache directory.
    pub(super) fn new(cache: &Path, key: String) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let directory = cache
            .join("modules")
            .join(format!("{:016x}", hasher.finish()));
        CacheEntry { directory, key }
    }

    /// The module, if it was compiled before and nobody but this user, or for root nobody but root, could have put it there.
    /// The whole key is compared, not only its hash.
    pub(super) fn module(&self) -> Option<PathBuf> {
        // Before anything there is opened: it may lie in somebody else's directory.
        believed(&self.directory.join("key")).ok()?;
        let same = fs::read_to_string(self.directory.join("key")).is_ok_and(|key| key == self.key);
        let module = fs::read_dir(&self.directory)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "ko"))?;
        if !same || believed(&module).is_err() {
            return None;
        }
        // What is used often must not be forgotten for having been compiled long ago. A cache that cannot be written
        // forgets nothing.
        let _ = fs::File::open(&self.directory)
            .and_then(|directory| directory.set_modified(SystemTime::now()));
        Some(module)
    }

    /// Keeps a module that stap compiled. Its file name stays, because the module's own name must fit it.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub(super) fn keep(&self, compiled: &Path) -> io::Result<PathBuf> {
        let name = compiled.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let _ = fs::remove_dir_all(&self.directory);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let module = self.directory.join(name);
        fs::copy(compiled, &module)?;
        // stap lets everybody write what it compiles, whatever the umask (5.6), and a copy has the rights of what was copied.
        fs::set_permissions(&module, fs::Permissions::from_mode(0o600))?;
        // Last: a directory without a key is not used.
        fs::write(self.directory.join("key"), &self.key)?;
        if let Some(all) = self.directory.parent() {
            forget_oldest(all);
        }
        Ok(module)
    }
}

fn forget_oldest(all: &Path) {
    let mut slots: Vec<_> = fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    slots.sort();
    let surplus = slots.len().saturating_sub(KEPT);
    for (_, path) in slots.into_iter().take(surplus) {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_module_is_found_again_for_the_same_key_and_for_no_other() {
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        let slot = CacheEntry::new(cache.path(), "script one".to_owned());
        assert_eq!(slot.module(), None);
        let kept = slot.keep(&compiled).unwrap();
        assert_eq!(kept.file_name(), compiled.file_name());
        assert_eq!(slot.module(), Some(kept));
        assert_eq!(
            CacheEntry::new(cache.path(), "script two".to_owned()).module(),
            None
        );
    }

    #[test]
    fn a_module_that_stap_lets_everybody_write_is_kept_for_us_alone_and_found() {
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        fs::set_permissions(&compiled, fs::Permissions::from_mode(0o666)).unwrap();
        let slot = CacheEntry::new(cache.path(), "script".to_owned());
        let kept = slot.keep(&compiled).unwrap();
        let mode = fs::metadata(&kept).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(slot.module(), Some(kept));
    }

    #[test]
    fn a_hash_that_collides_is_not_taken_for_a_hit() {
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        let slot = CacheEntry::new(cache.path(), "script".to_owned());
        slot.keep(&compiled).unwrap();
        let other = CacheEntry {
            directory: slot.directory.clone(),
            key: "another script".to_owned(),
        };
        assert_eq!(other.module(), None);
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn a_module_that_somebody_else_can_change_is_not_there_for_root() {
        assert!(
            rustix::process::geteuid().is_root(),
            "root gives files away"
        );
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        let slot = CacheEntry::new(cache.path(), "script".to_owned());
        let kept = slot.keep(&compiled).unwrap();
        let key = slot.directory.join("key");
        for part in [&kept, &key, &slot.directory, &cache.path().to_owned()] {
            std::os::unix::fs::chown(part, Some(54321), None).unwrap();
            assert_eq!(slot.module(), None, "{part:?}");
            std::os::unix::fs::chown(part, Some(0), None).unwrap();
            assert_eq!(slot.module().as_ref(), Some(&kept));
        }
    }

    #[test]
    fn the_cache_does_not_grow_without_bound() {
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        for script in 0..KEPT + 5 {
            CacheEntry::new(cache.path(), format!("script {script}"))
                .keep(&compiled)
                .unwrap();
        }
        assert_eq!(
            fs::read_dir(cache.path().join("modules")).unwrap().count(),
            KEPT
        );
    }

    #[test]
    fn what_was_used_last_is_kept_however_long_ago_it_was_compiled() {
        let cache = tempfile::tempdir().unwrap();
        let compiled = cache.path().join("stap_abc_1.ko");
        fs::write(&compiled, "module").unwrap();
        let slot = |script: usize| CacheEntry::new(cache.path(), format!("script {script}"));
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        for script in 0..KEPT {
            slot(script).keep(&compiled).unwrap();
            let directory = fs::File::open(slot(script).directory).unwrap();
            let seconds = Duration::from_secs(u64::try_from(script).unwrap());
            directory.set_modified(long_ago + seconds).unwrap();
        }

        assert!(slot(0).module().is_some());
        slot(KEPT).keep(&compiled).unwrap();
        slot(KEPT + 1).keep(&compiled).unwrap();
        let gone: Vec<usize> = (0..KEPT + 2)
            .filter(|&script| slot(script).module().is_none())
            .collect();
        assert_eq!(gone, [1, 2]);
    }
}
