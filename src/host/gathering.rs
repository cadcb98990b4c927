//! Where facts are gathered: the tree, and what of the environment matters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Tree;

/// Where and with what the facts are gathered.
#[derive(Debug, Clone)]
pub(crate) struct Gathering {
    /// The directory tree.
    pub tree: Tree,
    /// Environment variables that matter: those of [`ENVIRONMENT`].
    pub environment: BTreeMap<String, String>,
    /// The stap to look at instead of that in PATH.
    pub stap: Option<PathBuf>,
    /// The interpreter that was named, as it was named.
    pub python: Option<PathBuf>,
}

/// Environment variables that change what SystemTap or pystap do.
pub(crate) const ENVIRONMENT: [&str; 16] = [
    "DEBUGINFOD_CACHE_PATH",
    "DEBUGINFOD_URLS",
    "HOME",
    "PATH",
    "SYSTEMTAP_DEBUGINFO_PATH",
    "SYSTEMTAP_DIR",
    "SYSTEMTAP_NOSIGN",
    "SYSTEMTAP_RELEASE",
    "SYSTEMTAP_RUNTIME",
    "SYSTEMTAP_SIGN",
    "SYSTEMTAP_STAPIO",
    "SYSTEMTAP_STAPRUN",
    "SYSTEMTAP_TAPSET",
    "SYSTEMTAP_UNPRIVILEGED",
    "TMPDIR",
    "XDG_CACHE_HOME",
];

impl Gathering {
    /// This host with this process's environment.
    pub(crate) fn here() -> Gathering {
        Gathering {
            tree: Tree::host(),
            environment: ENVIRONMENT
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
                .collect(),
            stap: None,
            python: None,
        }
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }
}
