//! What a module is compiled against, the kernel's build tree, and what it is compiled with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kernel::options;
use super::{Fact, Gathering, Tree};
use crate::engine::stap;

/// `/lib/modules/RELEASE/build` and what stap and kbuild need in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BuildTree {
    /// Where the link leads; absent without headers.
    pub directory: Fact<String>,
    /// `UTS_RELEASE` of `include/generated/utsrelease.h`, which a module carries; in trees without it
    /// `include/config/kernel.release`, in which Debian 12 has the true version and not what `uname -r` prints.
    pub release: Fact<String>,
    /// Options that matter, from `.config`.
    pub config: Fact<BTreeMap<String, String>>,
    /// Size of `Module.symvers`.
    pub symvers: Fact<u64>,
    /// Whether there is a `Makefile`.
    pub makefile: Fact<bool>,
    /// `UTS_VERSION` of `include/generated/utsversion.h`, before Linux 6.1 of `compile.h` beside it, which a module compares with the running kernel's.
    pub uts_version: Fact<String>,
    /// Programs that kbuild runs and that are not there, of `scripts/basic/fixdep`, `scripts/mod/modpost` and
    /// `tools/objtool/objtool`.
    pub missing_programs: Fact<Vec<String>>,
    /// The compiler that the tree asks for (`.kernelvariables` of Debian).
    pub compiler: Fact<String>,
}

impl BuildTree {
    pub(super) fn read(tree: &Tree, release: &str) -> BuildTree {
        let build = format!("/lib/modules/{release}/build");
        let inside = |path: &str| format!("{build}/{path}");
        let config = tree
            .text(&inside(".config"))
            .and_then(|text| options(&text));
        let directory = match tree.metadata(&build) {
            // Where headers are a directory and no link, the directory says enough.
            there if there.value().is_some() => {
                let leads_to = tree.link(&build).value().cloned();
                Fact::found(&build, leads_to.unwrap_or_else(|| build.clone()))
            }
            // Absent also for a link that leads nowhere: the kernel is there and its headers are not.
            other => other.map(|_| build.clone()),
        };
        let wants_objtool = config
            .value()
            .and_then(|options| options.get("CONFIG_OBJTOOL"))
            .is_some_and(|value| value == "y");
        let programs = ["scripts/basic/fixdep", "scripts/mod/modpost"]
            .into_iter()
            .chain(wants_objtool.then_some("tools/objtool/objtool"));
        let missing_programs = if directory.value().is_some() {
            let missing = programs
                .filter(|program| tree.metadata(&inside(program)).is_absent())
                .map(str::to_owned)
                .collect();
            Fact::found(&build, missing)
        } else {
            Fact::unknown(&build, "there is no build tree")
        };
        BuildTree {
            release: tree
                .text(&inside("include/generated/utsrelease.h"))
                .and_then(|text| defined(&text, "UTS_RELEASE"))
                .or_else(|| tree.line(&inside("include/config/kernel.release"))),
            symvers: tree
                .metadata(&inside("Module.symvers"))
                .map(|metadata| metadata.len()),
            makefile: tree.exists(&inside("Makefile")),
            uts_version: tree
                .text(&inside("include/generated/utsversion.h"))
                .or_else(|| tree.text(&inside("include/generated/compile.h")))
                .and_then(|text| defined(&text, "UTS_VERSION")),
            compiler: tree
                .text(&inside(".kernelvariables"))
                .and_then(|text| compiler_of(&text)),
            missing_programs,
            config,
            directory,
        }
    }
}

/// What a header defines for a name.
fn defined(text: &str, name: &str) -> Result<String, String> {
    stap::defined(text, name).ok_or_else(|| format!("it does not define {name}"))
}

/// `override CC = $(if $(DEBIAN_KERNEL_CROSS_COMPILE),…)gcc-12` or `CC = gcc-12`: the last word that names a compiler.
fn compiler_of(text: &str) -> Result<String, String> {
    text.lines()
        .filter(|line| {
            line.split('=').next().is_some_and(|left| {
                left.trim_end_matches([' ', ':', '?'])
                    .split_whitespace()
                    .last()
                    == Some("CC")
            })
        })
        .find_map(|line| {
            let at = line.rfind("gcc-").or_else(|| line.rfind("clang-"))?;
            let name: String = line
                .get(at..)?
                .chars()
                .take_while(|sign| sign.is_ascii_alphanumeric() || "-.".contains(*sign))
                .collect();
            Some(name)
        })
        .ok_or_else(|| "it does not set CC".to_owned())
}

/// Programs that compile a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tools {
    /// make, by its path.
    pub make: Fact<String>,
    /// gcc in PATH.
    pub gcc: Fact<Compiler>,
    /// clang in PATH.
    pub clang: Fact<Compiler>,
    /// The compiler that the build tree asks for by a name of its own (`gcc-14`), in PATH.
    pub wanted: Fact<String>,
    /// `mokutil`, which asks for keys to be enrolled.
    pub mokutil: Fact<String>,
}

/// A compiler, as it can be told apart without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compiler {
    /// Where it is.
    pub path: String,
    /// What that leads to in the end: on Debian the name says the version.
    pub real: String,
    /// Size and time of change, in seconds since 1970: another compiler has others.
    pub size: u64,
    /// See `size`.
    pub modified: i64,
}

impl Tools {
    pub(super) fn read(gathering: &Gathering, release: &str) -> Tools {
        let wanted = gathering
            .tree
            .text(&format!("/lib/modules/{release}/build/.kernelvariables"))
            .and_then(|text| compiler_of(&text));
        Tools {
            make: program(gathering, "make"),
            gcc: compiler(gathering, "gcc"),
            clang: compiler(gathering, "clang"),
            wanted: match wanted.value() {
                // kbuild may call it by the name with the platform in front, which is another package on Debian.
                Some(name) => program(gathering, name).or_else(|| {
                    let platform = std::env::consts::ARCH;
                    program(gathering, &format!("{platform}-linux-gnu-{name}"))
                }),
                None => Fact::unknown(wanted.from(), "the build tree names no compiler"),
            },
            mokutil: program(gathering, "mokutil"),
        }
    }
}

/// Directories that are searched for programs: those of PATH, and those that root's PATH has and a user's often lacks.
fn search_path(gathering: &Gathering) -> Vec<String> {
    let path = gathering
        .variable("PATH")
        .unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let mut directories: Vec<String> = path
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .filter(|directory| directory.starts_with('/'))
        .map(str::to_owned)
        .collect();
    let mut seen = std::collections::HashSet::new();
    directories.retain(|directory| seen.insert(directory.clone()));
    directories
}

/// A program of this name, as the path of the examined host.
pub(super) fn program(gathering: &Gathering, name: &str) -> Fact<String> {
    let found = search_path(gathering)
        .into_iter()
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| {
            gathering
                .tree
                .metadata(path)
                .value()
                .is_some_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        });
    match found {
        Some(path) => Fact::found("PATH", path),
        None => Fact::absent(format!("{name} in PATH")),
    }
}

fn compiler(gathering: &Gathering, name: &str) -> Fact<Compiler> {
    program(gathering, name).and_then(|path| {
        let place = gathering.tree.at(&path);
        let real: PathBuf = fs::canonicalize(&place).unwrap_or_else(|_| place.clone());
        let metadata = fs::metadata(&real).map_err(|error| error.to_string())?;
        Ok(Compiler {
            real: gathering.tree.path_of(&real),
            path,
            size: metadata.len(),
            modified: metadata.mtime(),
        })
    })
}
