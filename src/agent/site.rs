//! Where an agent that waits is in the files of an interpreter.

use std::path::{Path, PathBuf};

use crate::python::Version;

/// The library, under a name that `import _pystap_agent` finds.
pub(super) const LIBRARY: &str = "_pystap_agent.abi3.so";
/// The file that imports it.
pub(super) const PTH: &str = "pystap_agent.pth";

/// Where an interpreter is installed, by where its program is.
pub(super) fn prefix(python: &Path) -> Option<&Path> {
    python.parent()?.parent()
}

/// Where its standard library is below that.
pub(super) fn library_of(version: &Version) -> PathBuf {
    Path::new("lib").join(format!("python{}.{}", version.major, version.minor))
}

/// Whether an agent is installed for the interpreter that a process was started with, as far as its files say that where they
/// usually are. Nothing is run and nothing is opened.
pub(super) fn is_installed_for(pid: u32, python: &Path, version: &Version) -> bool {
    let Some(prefix) = prefix(python) else {
        return false;
    };
    let library = library_of(version);
    let mut sites = vec![prefix.join(&library).join("site-packages")];
    if prefix == Path::new("/usr") {
        // What is not the distribution's own goes there.
        let local = Path::new("/usr/local").join(&library);
        sites.extend(["dist-packages", "site-packages"].map(|it| local.join(it)));
    }
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    sites.iter().any(|site| {
        let site = root.join(site.strip_prefix("/").unwrap_or(site));
        [LIBRARY, PTH].iter().all(|it| site.join(it).is_file())
    })
}
