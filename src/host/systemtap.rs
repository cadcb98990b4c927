//! SystemTap as it is installed: its programs, the groups that may use it, what may be left of earlier sessions, and
//! settings that change what stap does behind pystap's back.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::build::program;
use super::{Fact, Gathering, Tree};
use crate::engine::stap::Identity;

/// The installation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SystemTap {
    /// The stap that was named to look at, in place of that in PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// The compiler.
    pub stap: Fact<Tool>,
    /// The loader.
    pub staprun: Fact<Tool>,
    /// The groups stapusr, stapsys and stapdev.
    pub groups: Vec<Fact<Group>>,
    /// Modules of SystemTap that are loaded.
    pub sessions: Fact<Vec<Session>>,
    /// Environment variables that change what stap does.
    pub environment: BTreeMap<String, String>,
    /// Options that stap adds to every command line from its `rc` file.
    pub rc: Fact<Vec<String>>,
}

/// A program of SystemTap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tool {
    /// Where it is.
    pub path: String,
    /// Permission bits, in octal as chmod takes them.
    pub mode: String,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// What it says of itself.
    pub identity: Fact<Identity>,
}

/// A group of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Its members by name, without those whose primary group it is.
    pub members: Vec<String>,
}

/// A loaded module of SystemTap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The module.
    pub module: String,
    /// Whether the process that loaded it is still there.
    pub owned: bool,
}

/// The groups of SystemTap, by what they may do: least first.
const GROUPS: [&str; 3] = ["stapusr", "stapsys", "stapdev"];

/// Variables that stap itself reads, and TMPDIR, which it checks.
const VARIABLES: [&str; 10] = [
    "SYSTEMTAP_DEBUGINFO_PATH",
    "SYSTEMTAP_DIR",
    "SYSTEMTAP_NOSIGN",
    "SYSTEMTAP_RELEASE",
    "SYSTEMTAP_RUNTIME",
    "SYSTEMTAP_SIGN",
    "SYSTEMTAP_STAPIO",
    "SYSTEMTAP_STAPRUN",
    "SYSTEMTAP_TAPSET",
    "TMPDIR",
];

impl SystemTap {
    /// Names of the groups that are known not to be there.
    pub(crate) fn missing_groups(&self) -> impl Iterator<Item = &'static str> {
        let known = GROUPS.into_iter().zip(&self.groups);
        known
            .filter(|(_, group)| group.is_absent())
            .map(|(name, _)| name)
    }

    pub(super) fn read(gathering: &Gathering) -> SystemTap {
        let tree = &gathering.tree;
        let stap = match &gathering.stap {
            Some(path) => named(gathering, path),
            None => program(gathering, "stap"),
        };
        // The loader beside stap belongs to it; one that is merely in PATH may be another build's.
        let beside = stap
            .value()
            .map(|path| {
                Path::new(path)
                    .with_file_name("staprun")
                    .display()
                    .to_string()
            })
            .filter(|path| tree.metadata(path).value().is_some());
        let staprun = match beside {
            Some(path) => Fact::found("beside stap", path),
            None => program(gathering, "staprun"),
        };
        let directory = gathering.variable("SYSTEMTAP_DIR").map_or_else(
            || format!("{}/.systemtap", gathering.variable("HOME").unwrap_or("")),
            str::to_owned,
        );
        let stap = tool(tree, stap, Identity::of);
        let identity = stap.value().and_then(|stap| stap.identity.value()).cloned();
        let staprun = tool(tree, staprun, |staprun| match &identity {
            Some(stap) => Identity::of_companion(staprun, stap),
            None => Err("stap does not say which build it is".to_owned()),
        });
        SystemTap {
            named: gathering
                .stap
                .as_ref()
                .map(|path| path.display().to_string()),
            stap,
            staprun,
            groups: groups(tree),
            sessions: sessions(tree),
            environment: VARIABLES
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), gathering.variable(name)?.to_owned())))
                .collect(),
            rc: tree.text(&format!("{directory}/rc")).map(|text| {
                text.lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned)
                    .collect()
            }),
        }
    }
}

fn named(gathering: &Gathering, path: &Path) -> Fact<String> {
    if path.components().count() == 1 {
        return program(gathering, &path.to_string_lossy());
    }
    let text = path.display().to_string();
    match gathering.tree.metadata(&text) {
        there if there.value().is_some() => Fact::found("--stap", text),
        other => other.map(|_| text),
    }
}

fn tool(
    tree: &Tree,
    path: Fact<String>,
    ask: impl FnOnce(&Path) -> Result<Identity, String>,
) -> Fact<Tool> {
    path.and_then(|path| {
        let metadata = tree.metadata(&path);
        let Some(metadata) = metadata.value() else {
            return Err("it went away while it was looked at".to_owned());
        };
        let identity = if tree.is_host() {
            match ask(Path::new(&path)) {
                Ok(identity) => Fact::found(&path, identity),
                Err(reason) => Fact::unknown(&path, reason),
            }
        } else {
            Fact::unknown(&path, "programs below another root are not run")
        };
        Ok(Tool {
            mode: format!("{:04o}", metadata.mode() & 0o7777),
            user: metadata.uid(),
            group: metadata.gid(),
            identity,
            path,
        })
    })
}

fn groups(tree: &Tree) -> Vec<Fact<Group>> {
    let text = tree.text("/etc/group");
    GROUPS
        .into_iter()
        .map(|name| match text.value() {
            Some(text) => match text.lines().find_map(|line| group(line, name)) {
                Some(group) => Fact::found("/etc/group", group),
                None => Fact::absent(format!("{name} in /etc/group")),
            },
            None => text.clone().and_then(|_| Err(String::new())),
        })
        .collect()
}

fn group(line: &str, wanted: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| *name == wanted)?;
    let id = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default();
    Some(Group {
        name: name.to_owned(),
        id,
        members: members
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

fn sessions(tree: &Tree) -> Fact<Vec<Session>> {
    tree.text("/proc/modules").map(|text| {
        text.lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| name.starts_with("stap_"))
            .map(|name| Session {
                owned: owner_runs(tree, name),
                module: name.to_owned(),
            })
            .collect()
    })
}

/// staprun ends the name of a module with its own process id, and stapio takes that process over. A name without one was
/// given by hand; then any stapio may be its owner.
fn owner_runs(tree: &Tree, module: &str) -> bool {
    let runs = |pid: &str| {
        let comm = tree.line(&format!("/proc/{pid}/comm"));
        comm.value()
            .is_some_and(|comm| comm == "stapio" || comm == "staprun")
    };
    match module.rsplit('_').next() {
        Some(pid) if module.matches('_').count() >= 2 && pid.parse::<u32>().is_ok() => runs(pid),
        _ => tree.names("/proc").value().is_some_and(|names| {
            names
                .iter()
                .any(|name| name.parse::<u32>().is_ok() && runs(name))
        }),
    }
}
