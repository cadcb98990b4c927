//! Who asks, with which rights, and whether from inside a container.

use serde::{Deserialize, Serialize};

use super::{Fact, Tree};

/// The user and the rights of the process that asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct User {
    /// Effective user id.
    pub id: Fact<u32>,
    /// Name of that user.
    pub name: Fact<String>,
    /// Groups of the process, by id.
    pub groups: Fact<Vec<u32>>,
    /// Effective capabilities, as the kernel's bit mask in hexadecimal.
    pub capabilities: Fact<String>,
    /// How much memory may be locked, in bytes or `unlimited`.
    pub memory_lock: Fact<String>,
}

const STATUS: &str = "/proc/self/status";

impl User {
    pub(super) fn read(tree: &Tree) -> User {
        let status = tree.text(STATUS);
        let field = |name: &str| status.clone().and_then(|text| status_field(&text, name));
        // Real, effective, saved and file system id.
        let id = field("Uid").and_then(|ids| {
            ids.split_whitespace()
                .nth(1)
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| format!("its line Uid holds {ids:?}"))
        });
        let groups = field("Groups").and_then(|groups| {
            let own = status
                .value()
                .and_then(|text| status_field(text, "Gid").ok())
                .unwrap_or_default();
            groups
                .split_whitespace()
                .chain(own.split_whitespace().nth(1))
                .map(|id| {
                    id.parse()
                        .map_err(|_| format!("its line Groups holds {id:?}"))
                })
                .collect::<Result<Vec<u32>, String>>()
        });
        User {
            name: match id.value() {
                Some(id) => tree.text("/etc/passwd").and_then(|text| {
                    user_name(&text, *id).ok_or_else(|| format!("it has no user {id}"))
                }),
                None => Fact::unknown("/etc/passwd", "the user id is not known"),
            },
            id,
            groups,
            capabilities: field("CapEff"),
            memory_lock: tree
                .text("/proc/self/limits")
                .and_then(|text| memory_lock(&text)),
        }
    }
}

/// The rest of a line `Name:\trest` of /proc/PID/status.
fn status_field(text: &str, name: &str) -> Result<String, String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|rest| rest.trim().to_owned())
        .ok_or_else(|| format!("it has no line {name}"))
}

fn user_name(passwd: &str, id: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

fn memory_lock(limits: &str) -> Result<String, String> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .ok_or_else(|| "it has no line Max locked memory".to_owned())
}

/// Signs of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// The kind of container, from a file that its manager leaves: `docker`, `podman` and so on.
    pub manager: Fact<String>,
    /// The namespace of process ids, as /proc names it.
    pub pid_namespace: Fact<String>,
    /// Whether user ids are mapped, so that root is not root outside.
    pub mapped_users: Fact<bool>,
    /// Whether system calls are filtered: the line Seccomp of /proc/self/status, 0 for not.
    pub seccomp: Fact<i64>,
    /// Which of the kernel's own file systems are not mounted: `/proc`, `/sys`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmounted: Vec<String>,
}

impl Confinement {
    pub(super) fn read(tree: &Tree) -> Confinement {
        Confinement {
            manager: manager(tree),
            unmounted: tree.unmounted(),
            pid_namespace: tree.link("/proc/self/ns/pid"),
            mapped_users: tree
                .text("/proc/self/uid_map")
                .map(|text| !is_identity(&text)),
            seccomp: tree.text(STATUS).and_then(|text| {
                let value = status_field(&text, "Seccomp")?;
                value
                    .parse()
                    .map_err(|_| format!("its line Seccomp holds {value:?}"))
            }),
        }
    }
}

fn manager(tree: &Tree) -> Fact<String> {
    for (path, name) in [
        ("/.dockerenv", "docker"),
        ("/run/.containerenv", "podman"),
        ("/run/.toolboxenv", "toolbox"),
    ] {
        if tree.exists(path).value().is_some() {
            return Fact::found(path, name.to_owned());
        }
    }
    let named = tree.line("/run/systemd/container");
    if named.value().is_some_and(|name| !name.is_empty()) {
        return named;
    }
    // Older hierarchies name the container's own group.
    let groups = tree.text("/proc/1/cgroup");
    let found = groups.value().and_then(|text| {
        [
            ("/docker", "docker"),
            ("/kubepods", "kubernetes"),
            ("/lxc/", "lxc"),
            ("/libpod", "podman"),
        ]
        .into_iter()
        .find(|(sign, _)| text.contains(sign))
    });
    match found {
        Some((_, name)) => Fact::found("/proc/1/cgroup", name.to_owned()),
        None => {
            Fact::absent("/.dockerenv, /run/.containerenv, /run/systemd/container, /proc/1/cgroup")
        }
    }
}

/// Whether every user id stands for itself.
fn is_identity(map: &str) -> bool {
    let numbers: Vec<u64> = map
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers == [0, 0, u64::from(u32::MAX)]
}
