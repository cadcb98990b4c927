//! Symbols and debug information of the running kernel: which of its functions can be looked up, and which file would
//! tell where they are defined.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{Fact, Gathering, Tree};
use crate::elf::{DebugDirectories, DebugInformation, Separation};

/// What is known of the kernel's symbols.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelSymbols {
    /// Functions that stap's module looks up when it is loaded and that /proc/kallsyms does not have.
    pub missing: Fact<Vec<String>>,
    /// Functions in System.map, which stap reads; Debian installs a stub without any.
    pub system_map: Fact<u64>,
    /// Files that might be the kernel with debug information.
    pub vmlinux: Vec<Vmlinux>,
    /// Servers of debug information that stap may ask (`DEBUGINFOD_URLS`).
    pub servers: Fact<String>,
}

/// A file that might be the kernel with debug information.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Vmlinux {
    /// Where it is.
    pub path: String,
    /// Its build id, which says whether it belongs to the running kernel.
    pub build_id: Fact<String>,
    /// What is in it; not looked at when the build id is another's.
    pub debug: Fact<DebugInformation>,
}

/// Functions that stap's module cannot do without, each by the names that it has had.
const LOOKED_UP: [&[&str]; 5] = [
    &["task_work_add"],
    &["task_work_cancel", "task_work_cancel_func"],
    &["uprobe_register"],
    &["uprobe_unregister", "uprobe_unregister_nosync"],
    &["get_mm_exe_file"],
];

/// Functions that every kernel with debug information can resolve, tried in this order.
const KNOWN_FUNCTIONS: [&str; 4] = [
    "task_work_add",
    "uprobe_register",
    "wake_up_process",
    "schedule",
];

impl KernelSymbols {
    pub(super) fn read(gathering: &Gathering, release: &str) -> KernelSymbols {
        let tree = &gathering.tree;
        KernelSymbols {
            missing: tree.text("/proc/kallsyms").and_then(|text| missing(&text)),
            system_map: tree
                .text(&format!("/lib/modules/{release}/build/System.map"))
                .or_else(|| tree.text(&format!("/boot/System.map-{release}")))
                .or_else(|| tree.text(&format!("/lib/modules/{release}/System.map")))
                .map(|text| functions(&text)),
            vmlinux: vmlinux(gathering, release),
            servers: match gathering.variable("DEBUGINFOD_URLS") {
                Some(servers) if !servers.trim().is_empty() => {
                    Fact::found("DEBUGINFOD_URLS", servers.trim().to_owned())
                }
                _ => Fact::absent("DEBUGINFOD_URLS"),
            },
        }
    }
}

/// Lines are `ffffffff81000000 T name`, with a module in brackets behind where it is one's.
fn missing(text: &str) -> Result<Vec<String>, String> {
    let wanted: HashSet<&str> = LOOKED_UP.iter().copied().flatten().copied().collect();
    let mut found = HashSet::new();
    let mut lines = 0_usize;
    for line in text.lines() {
        lines += 1;
        let mut fields = line.split_ascii_whitespace();
        if let Some(name) = fields.nth(2)
            && wanted.contains(name)
        {
            found.insert(name);
        }
    }
    if lines == 0 {
        return Err("it is empty".to_owned());
    }
    Ok(LOOKED_UP
        .iter()
        .filter(|names| !names.iter().any(|name| found.contains(name)))
        .map(|names| names.join(" or "))
        .collect())
}

fn functions(text: &str) -> u64 {
    text.lines()
        .filter(|line| {
            line.split_ascii_whitespace()
                .nth(1)
                .is_some_and(|kind| kind == "T" || kind == "t")
        })
        .count() as u64
}

/// Where debug information is kept on this host.
pub(super) fn debug_directories(gathering: &Gathering) -> DebugDirectories {
    let home = gathering.variable("HOME").unwrap_or("");
    // After debuginfod-find(1): its own variable, then the XDG directory, then the older place.
    let mut caches = Vec::new();
    if let Some(path) = gathering.variable("DEBUGINFOD_CACHE_PATH") {
        caches.push(path.to_owned());
    }
    if let Some(path) = gathering.variable("XDG_CACHE_HOME") {
        caches.push(format!("{path}/debuginfod_client"));
    }
    if !home.is_empty() {
        caches.push(format!("{home}/.cache/debuginfod_client"));
        caches.push(format!("{home}/.debuginfod_client_cache"));
    }
    DebugDirectories {
        system: gathering.tree.at("/usr/lib/debug"),
        caches: caches
            .into_iter()
            .map(|path| gathering.tree.at(path))
            .collect(),
    }
}

/// Every distribution's places for the kernel with debug information.
fn places(release: &str) -> Vec<String> {
    [
        // Debian, Ubuntu.
        "/usr/lib/debug/boot/vmlinux-{}",
        "/usr/lib/debug/lib/modules/{}/vmlinux",
        // Fedora, RHEL; since /lib is a link, both spellings occur.
        "/usr/lib/debug/usr/lib/modules/{}/vmlinux",
        // openSUSE.
        "/usr/lib/debug/boot/vmlinux-{}.debug",
        "/usr/lib/debug/lib/modules/{}/vmlinux.debug",
        "/usr/lib/debug/usr/lib/modules/{}/vmlinux.debug",
        // Kernels built by hand; Arch.
        "/boot/vmlinux-{}",
        "/lib/modules/{}/vmlinux",
        "/lib/modules/{}/build/vmlinux",
        "/lib/modules/{}/source/vmlinux",
    ]
    .into_iter()
    .map(|pattern| pattern.replace("{}", release))
    .collect()
}

/// Candidates that are there. Only one that belongs to the running kernel is examined, and only the first that works.
fn vmlinux(gathering: &Gathering, release: &str) -> Vec<Vmlinux> {
    let tree = &gathering.tree;
    let directories = debug_directories(gathering);
    let running = tree
        .bytes("/sys/kernel/notes")
        .value()
        .and_then(|notes| crate::elf::kernel_build_id(notes));
    let by_id = running
        .as_deref()
        .map(|id| directories.by_build_id(id))
        .unwrap_or_default();
    let candidates = by_id
        .into_iter()
        .chain(places(release).into_iter().map(|path| tree.at(path)));
    let mut seen = HashSet::new();
    let mut works = false;
    candidates
        .filter(|place| place.exists())
        .filter(|place| seen.insert(std::fs::canonicalize(place).unwrap_or_else(|_| place.clone())))
        .map(|place| (Separation::of(&place), place))
        // Headers come with a vmlinux for BTF, which is not meant to have debug information.
        .filter(|(separation, _)| {
            separation
                .as_ref()
                .map_or(true, |separation| separation.has_debug_information)
        })
        .map(|(separation, place)| {
            let path = tree.path_of(&place);
            let build_id = match &separation {
                Ok(separation) => match &separation.build_id {
                    Some(id) => Fact::found(&path, id.clone()),
                    None => Fact::absent(&path),
                },
                Err(error) => Fact::unknown(&path, error.to_string()),
            };
            let belongs = match (build_id.value(), &running) {
                (Some(found), Some(running)) => found == running,
                // Without a build id on either side the path is all there is.
                _ => separation.is_ok(),
            };
            let debug = if !belongs {
                match &separation {
                    Err(error) => Fact::unknown(&path, error.to_string()),
                    Ok(_) => Fact::unknown(&path, "it is of another build, so it was not opened"),
                }
            } else if works {
                Fact::unknown(&path, "another file was examined already")
            } else {
                examined(tree, &directories, &place, &KNOWN_FUNCTIONS)
            };
            works |= debug.value().is_some();
            Vmlinux {
                path,
                build_id,
                debug,
            }
        })
        .collect()
}

/// Tries debug information out, with paths as the examined host has them.
pub(super) fn examined(
    tree: &Tree,
    directories: &DebugDirectories,
    place: &std::path::Path,
    functions: &[&str],
) -> Fact<DebugInformation> {
    let path = tree.path_of(place);
    let examined = DebugInformation::examine(place, functions, |name, build_id| {
        directories.supplement(place, name, build_id)
    });
    match examined {
        Ok(mut debug) => {
            debug.path = path.clone().into();
            if let Some(supplement) = &mut debug.supplement {
                supplement.found = supplement
                    .found
                    .take()
                    .map(|found| tree.path_of(&found).into());
            }
            Fact::found(path, debug)
        }
        Err(error) => Fact::unknown(path, error.to_string()),
    }
}
