//! Whether packages can be installed here: which managers of packages there are, and what stands in their way.

use std::collections::BTreeMap;

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};

use super::build::program;
use super::{Fact, Gathering, Tree};

/// What installing packages depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Packages {
    /// Names of those of [`MANAGERS`] that are in PATH.
    pub managers: Fact<Vec<String>>,
    /// Directories of the system that nobody can write to, because they are mounted read-only.
    pub read_only: Fact<Vec<String>>,
    /// Packages that dpkg has neither installed nor left alone: it was interrupted, or a script of theirs failed.
    pub unfinished: Fact<Vec<String>>,
}

/// The programs that install packages.
pub(crate) const MANAGERS: [&str; 5] = ["apt-get", "dnf", "yum", "zypper", "pacman"];

/// What packages are installed into.
const DIRECTORIES: [&str; 3] = ["/etc", "/usr", "/var"];

/// dpkg's list of packages, and what it has not entered there yet because it was interrupted.
const STATUS: &str = "/var/lib/dpkg/status";
const UPDATES: &str = "/var/lib/dpkg/updates";

impl Packages {
    pub(super) fn read(gathering: &Gathering) -> Packages {
        let tree = &gathering.tree;
        let there = MANAGERS
            .into_iter()
            .filter(|name| program(gathering, name).value().is_some());
        Packages {
            managers: Fact::found("PATH", there.map(str::to_owned).collect()),
            read_only: read_only(tree),
            unfinished: unfinished(tree),
        }
    }

    /// Facts of a pystap that did not look yet.
    pub(super) fn not_read() -> Packages {
        let before = "this was saved by a pystap that did not look";
        Packages {
            managers: Fact::unknown("PATH", before),
            read_only: Fact::unknown("mounts", before),
            unfinished: Fact::unknown(STATUS, before),
        }
    }
}

fn read_only(tree: &Tree) -> Fact<Vec<String>> {
    let is_read_only = |directory: &&str| {
        statvfs(tree.at(directory)).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    let found = DIRECTORIES.into_iter().filter(is_read_only);
    Fact::found("statvfs(3)", found.map(str::to_owned).collect())
}

fn unfinished(tree: &Tree) -> Fact<Vec<String>> {
    let updates = tree.names(UPDATES);
    tree.text(STATUS).map(|status| {
        let mut states = BTreeMap::new();
        add_states(&status, &mut states);
        for name in updates.value().into_iter().flatten() {
            if let Some(update) = tree.text(&format!("{UPDATES}/{name}")).value() {
                add_states(update, &mut states);
            }
        }
        let settled = ["installed", "config-files", "not-installed"];
        states
            .into_iter()
            .filter(|(_, state)| !settled.contains(&state.as_str()))
            .map(|((package, _), _)| package)
            .collect()
    })
}

/// Adds the state of each package, by name and architecture: paragraphs with lines like `Status: install ok half-configured`.
fn add_states(text: &str, states: &mut BTreeMap<(String, String), String>) {
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let rest = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned());
            paragraph.lines().find_map(rest)
        };
        let state = field("Status").and_then(|it| it.split(' ').nth(2).map(str::to_owned));
        if let (Some(package), Some(state)) = (field("Package"), state) {
            states.insert((package, field("Architecture").unwrap_or_default()), state);
        }
    }
}
