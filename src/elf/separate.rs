//! Where debug information that was split off a file is kept: by build ID, by `.gnu_debuglink`, in the cache of a
//! debuginfod client. Checks whether the files exist and are the right ones.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Separation;

/// A larger file is not read just to compute a checksum; those have build IDs anyway.
const LARGEST_CHECKED: u64 = 256 << 20;

/// Directories that are searched for debug information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugDirectories {
    /// Usually `/usr/lib/debug`; below another root when a directory tree is examined.
    pub system: PathBuf,
    /// Caches of debuginfod clients, with one directory per build ID.
    pub caches: Vec<PathBuf>,
}

impl DebugDirectories {
    /// Files that would hold the debug information of this build ID, whether they exist or not.
    pub fn by_build_id(&self, build_id: &str) -> Vec<PathBuf> {
        let Some((first, rest)) = build_id.split_at_checked(2) else {
            return Vec::new();
        };
        let mut found = vec![
            self.system
                .join(".build-id")
                .join(first)
                .join(format!("{rest}.debug")),
        ];
        found.extend(
            self.caches
                .iter()
                .map(|cache| cache.join(build_id).join("debuginfo")),
        );
        found
    }

    /// The file with the debug information of `path`: `path` itself, or one found by build ID or debug link. `None`
    /// when there is none; a file of another build does not count.
    pub fn of(&self, path: &Path, separation: &Separation) -> Option<PathBuf> {
        if separation.has_debug_information {
            return Some(path.to_owned());
        }
        let by_id = separation
            .build_id
            .as_deref()
            .map(|id| self.by_build_id(id))
            .unwrap_or_default();
        by_id
            .into_iter()
            .find(|candidate| candidate.is_file())
            .or_else(|| self.by_link(path, separation))
    }

    fn by_link(&self, path: &Path, separation: &Separation) -> Option<PathBuf> {
        let (name, checksum) = separation.link.as_ref()?;
        // A name with a slash would lead out of the directories below.
        if name.contains('/') {
            return None;
        }
        let beside = path.parent()?;
        let below = beside.strip_prefix("/").unwrap_or(beside);
        [
            beside.join(name),
            beside.join(".debug").join(name),
            self.system.join(below).join(name),
        ]
        .into_iter()
        .filter(|candidate| candidate != path)
        .find(|candidate| {
            Separation::of(candidate).is_ok_and(|found| {
                match (&found.build_id, &separation.build_id) {
                    (Some(found), Some(wanted)) => found == wanted,
                    _ => has_checksum(candidate, *checksum),
                }
            })
        })
    }

    /// The file that a `.gnu_debugaltlink` of `path` names: the path itself (relative to the debug file's real
    /// location), or by build ID. It must have the right build ID.
    pub fn supplement(&self, path: &Path, name: &str, build_id: &str) -> Option<PathBuf> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let named = if name.starts_with('/') {
            self.below_root(Path::new(name))
        } else {
            real.parent()?.join(name)
        };
        let file_name = Path::new(name).file_name()?;
        let mut candidates = vec![named, self.system.join(".dwz").join(file_name)];
        candidates.extend(self.by_build_id(build_id));
        candidates.into_iter().find(|candidate| {
            Separation::of(candidate).is_ok_and(|found| found.build_id.as_deref() == Some(build_id))
        })
    }

    /// An absolute path, below the root that contains `system`.
    fn below_root(&self, path: &Path) -> PathBuf {
        let text = self.system.to_string_lossy();
        match text.strip_suffix("/usr/lib/debug") {
            Some(root) if !root.is_empty() => {
                Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
            }
            _ => path.to_owned(),
        }
    }
}

fn has_checksum(path: &Path, wanted: u32) -> bool {
    let Ok(mut file) = super::open_ordinary(path) else {
        return false;
    };
    if file.metadata().map_or(u64::MAX, |metadata| metadata.len()) > LARGEST_CHECKED {
        return false;
    }
    let mut checksum = flate2::Crc::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return checksum.sum() == wanted,
            Ok(read) => checksum.update(buffer.get(..read).unwrap_or_default()),
            Err(_) => return false,
        }
    }
}
