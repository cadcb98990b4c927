//! The tools of SystemTap on this host: stap, which compiles, and staprun, which loads.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use regex::Regex;

use super::StapError;
use crate::authority::foreign::{self, ToolError};
use crate::authority::own;
use crate::files::reading;

/// Far more than a header of a few definitions has.
const LARGEST_HEADER: u64 = 1 << 16;

/// stap and staprun, found and asked for their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub stap: PathBuf,
    /// The loader that belongs to it.
    pub staprun: PathBuf,
    /// Version of stap, `5.6`.
    pub version: String,
    /// Release of the kernel to compile for.
    pub kernel: String,
}

impl Toolchain {
    /// Finds the tools: `stap` where the user says or in PATH, `staprun` beside it or in PATH. They must come from one
    /// build, because the two speak a private protocol.
    ///
    /// # Errors
    /// [`StapError::Missing`], [`StapError::Distrusted`] and [`StapError::Unusable`].
    pub fn find(stap: Option<&Path>, kernel: Option<&str>) -> Result<Self, StapError> {
        let stap = tool(stap.unwrap_or(Path::new("stap")))?;
        let staprun = loader(&stap)?;
        let version = version(&stap)?;
        let kernel = kernel.map_or_else(running_kernel, str::to_owned);
        Ok(Toolchain {
            stap,
            staprun,
            version,
            kernel,
        })
    }

    /// The tool that loads what was compiled elsewhere, by a stap of this version: `staprun` beside the stap that the user names,
    /// whether that is there or not, or in PATH.
    ///
    /// # Errors
    /// [`StapError::Missing`] and [`StapError::Distrusted`].
    pub fn loader(stap: Option<&Path>, version: &str) -> Result<Self, StapError> {
        let stap = stap.unwrap_or(Path::new("stap"));
        Ok(Toolchain {
            stap: stap.to_owned(),
            staprun: loader(stap)?,
            version: version.to_owned(),
            kernel: running_kernel(),
        })
    }

    /// Which build of its release the kernel is that is compiled for, as `uname -v` will have it there; `None` where its headers
    /// do not say.
    pub fn kernel_build(&self) -> Option<String> {
        // Linux before 6.1 has it in the second one.
        ["utsversion.h", "compile.h"].into_iter().find_map(|file| {
            let headers = format!("/lib/modules/{}/build/include/generated", self.kernel);
            let text = reading::read_text(&Path::new(&headers).join(file), LARGEST_HEADER).ok()?;
            defined(&text, "UTS_VERSION")
        })
    }

    /// Stands in for tools that are not there where only their command lines are to be shown.
    pub fn assumed() -> Self {
        Toolchain {
            stap: "stap".into(),
            staprun: "staprun".into(),
            version: "unknown".to_owned(),
            kernel: running_kernel(),
        }
    }

    /// What a compiled module depends on, besides its script: the compiler and the kernel's build tree.
    pub fn fingerprint(&self) -> String {
        let build = format!("/lib/modules/{}/build", self.kernel);
        let files = [
            self.stap.clone(),
            PathBuf::from(&build).join(".config"),
            PathBuf::from(&build).join("Module.symvers"),
            PathBuf::from(&build).join("include/generated/compile.h"),
        ];
        let mut text = format!("stap {} kernel {}\n", self.version, self.kernel);
        for file in files {
            // Size and time, as stap's own cache does it; a file that is not there is told apart by that.
            let state = fs::metadata(&file).and_then(|metadata| {
                let modified = metadata
                    .modified()?
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                Ok(format!("{} {}", metadata.len(), modified.as_nanos()))
            });
            text.push_str(&format!(
                "{} {}\n",
                file.display(),
                state.unwrap_or_else(|_| "absent".to_owned())
            ));
        }
        text
    }
}

/// The text that a header of a kernel defines for a name: `#define UTS_VERSION "#1 SMP …"`.
pub(crate) fn defined(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("#define ")?
                .trim()
                .strip_prefix(name)
        })
        .find(|rest| rest.starts_with([' ', '\t']))
        .map(|rest| rest.trim().trim_matches('"').to_owned())
}

/// A program of SystemTap.
fn tool(path: &Path) -> Result<PathBuf, StapError> {
    foreign::tool(path).map_err(|error| match error {
        ToolError::Missing => StapError::Missing {
            tool: path.display().to_string(),
        },
        ToolError::Distrusted { path, reason } => StapError::Distrusted {
            program: path,
            reason,
        },
    })
}

/// The loader beside a stap, or in PATH.
fn loader(stap: &Path) -> Result<PathBuf, StapError> {
    let beside = stap.with_file_name("staprun");
    match beside.is_file() && stap.parent() != Some(Path::new("")) {
        true => tool(&beside),
        false => tool(Path::new("staprun")),
    }
}

fn version(stap: &Path) -> Result<String, StapError> {
    let unusable = |reason: String| StapError::Unusable {
        stap: stap.to_owned(),
        reason,
    };
    let mut command = Command::new(stap);
    own::tame(&mut command);
    let output = command
        .arg("--version")
        .env("LC_ALL", "C")
        .output()
        .map_err(|error: io::Error| unusable(error.to_string()))?;
    // stap prints its version to stderr.
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    parse_version(&text).ok_or_else(|| unusable("it does not say its version".to_owned()))
}

/// `5.6` from `Systemtap translator/driver (version 5.6/0.196, Debian version 5.6-1)`.
fn parse_version(text: &str) -> Option<String> {
    let pattern = Regex::new(r"\(version ([0-9]+\.[0-9]+(?:\.[0-9]+)?)").ok()?;
    Some(pattern.captures(text)?.get(1)?.as_str().to_owned())
}

fn running_kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The initial pid namespace has this number on every Linux (`PROC_PID_INIT_INO`).
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// Why no module can be loaded here, whatever is installed; `None` when nothing is known to forbid it. Cheap checks of
/// what would otherwise come out only after a compilation.
pub fn forbidden() -> Option<StapError> {
    if !Path::new("/proc/modules").exists() {
        return Some(StapError::NoModules);
    }
    if fs::read_to_string("/proc/sys/kernel/modules_disabled").is_ok_and(|text| text.trim() == "1")
    {
        return Some(StapError::ModulesDisabled);
    }
    // The kernel knows processes by their ids in the initial namespace; ours would name others.
    if fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace != Path::new(INITIAL_PIDS))
    {
        return Some(StapError::PidNamespace);
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !in_stap_groups() {
        return Some(StapError::NotPermitted);
    }
    None
}

/// Whether we are in the groups that may load any module: stapdev, and stapusr to execute staprun.
fn in_stap_groups() -> bool {
    let Ok(groups) = fs::read_to_string("/etc/group") else {
        return false;
    };
    let ours: Vec<u32> = rustix::process::getgroups()
        .unwrap_or_default()
        .iter()
        .chain(std::iter::once(&rustix::process::getegid()))
        .map(|group| group.as_raw())
        .collect();
    ["stapdev", "stapusr"].iter().all(|name| {
        groups.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(name)
                && fields
                    .nth(1)
                    .and_then(|id| id.parse().ok())
                    .is_some_and(|id: u32| ours.contains(&id))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_stap_prints() {
        let debian = "Systemtap translator/driver (version 5.6/0.196, Debian version 5.6-1)\nCopyright (C) 2005-2026";
        assert_eq!(parse_version(debian).as_deref(), Some("5.6"));
        let old = "Systemtap translator/driver (version 4.8/0.188, Debian version 4.8-2)";
        assert_eq!(parse_version(old).as_deref(), Some("4.8"));
        assert_eq!(parse_version("not stap at all"), None);
    }

    #[test]
    fn a_stap_that_is_not_there_is_named() {
        let error = Toolchain::find(Some(Path::new("/nowhere/stap")), None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/stap"), "{error}");
    }
}
