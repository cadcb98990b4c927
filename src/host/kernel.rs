//! The distribution, the running kernel, what it lets be loaded and what it offers to tracers.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::system::uname;
use serde::{Deserialize, Serialize};

use super::{Fact, Tree};

/// What os-release says, as far as packages depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Distribution {
    /// `ID`, for example `debian`.
    pub id: String,
    /// `ID_LIKE`, split at blanks.
    #[serde(default)]
    pub like: Vec<String>,
    /// `VERSION_ID`, for example `12`; empty on rolling ones.
    #[serde(default)]
    pub version: String,
    /// `VERSION_CODENAME`, for example `bookworm`.
    #[serde(default)]
    pub codename: String,
    /// `PRETTY_NAME`.
    pub name: String,
}

impl Distribution {
    pub(super) fn read(tree: &Tree) -> Fact<Distribution> {
        tree.text("/etc/os-release")
            .or_else(|| tree.text("/usr/lib/os-release"))
            .and_then(|text| distribution(&text))
    }
}

fn distribution(text: &str) -> Result<Distribution, String> {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| unquoted(value))
            .unwrap_or_default()
    };
    let id = field("ID");
    if id.is_empty() {
        return Err("it has no line ID=".to_owned());
    }
    Ok(Distribution {
        like: field("ID_LIKE")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        version: field("VERSION_ID"),
        // Those that are made from Ubuntu have names of their own, and packages of Ubuntu's.
        codename: match field("UBUNTU_CODENAME") {
            name if name.is_empty() => field("VERSION_CODENAME"),
            name => name,
        },
        name: match field("PRETTY_NAME") {
            name if name.is_empty() => id.clone(),
            name => name,
        },
        id,
    })
}

/// A value of os-release, which is written as in a shell.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value);
    inner.replace('\\', "")
}

/// Which kernel runs and how it was configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    /// What `uname -r` prints.
    pub release: Fact<String>,
    /// `/proc/version`: compiler and, on Debian, the true version.
    pub version: Fact<String>,
    /// `/proc/version_signature`, which only Ubuntu has: the true version.
    pub signature: Fact<String>,
    /// `x86_64`, `aarch64` and so on.
    pub architecture: Fact<String>,
    /// The command line it was booted with, those options that matter here.
    pub command_line: Fact<Vec<String>>,
    /// Options that matter here, each `y`, `m`, `n` or a value; those that are not set are `n`.
    pub config: Fact<BTreeMap<String, String>>,
    /// Releases in /lib/modules.
    pub installed: Fact<Vec<String>>,
    /// GNU build id.
    pub build_id: Fact<String>,
}

/// Options of the kernel's configuration that tracing depends on.
pub(super) const OPTIONS: [&str; 27] = [
    "CONFIG_ARCH_SUPPORTS_UPROBES",
    "CONFIG_BPF_EVENTS",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_CC_IS_CLANG",
    "CONFIG_CC_VERSION_TEXT",
    "CONFIG_DEBUG_FS",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_FTRACE_SYSCALLS",
    "CONFIG_GCC_PLUGINS",
    "CONFIG_HAVE_SYSCALL_TRACEPOINTS",
    "CONFIG_KALLSYMS",
    "CONFIG_KPROBES",
    "CONFIG_MODULES",
    "CONFIG_MODULE_SIG",
    "CONFIG_MODULE_SIG_FORCE",
    "CONFIG_MODULE_UNLOAD",
    "CONFIG_OBJTOOL",
    "CONFIG_PERF_EVENTS",
    "CONFIG_PREEMPT_RT",
    "CONFIG_PROC_FS",
    "CONFIG_RELAY",
    "CONFIG_SECURITY_LOCKDOWN_LSM",
    "CONFIG_SYSTEM_REVOCATION_LIST",
    "CONFIG_TRACEPOINTS",
    "CONFIG_TRIM_UNUSED_KSYMS",
    "CONFIG_UPROBES",
    "CONFIG_UPROBE_EVENTS",
];

/// The most that a configuration has once inflated; real ones have 300 kilobytes.
const LARGEST_CONFIG: u64 = 8 << 20;

impl Kernel {
    pub(super) fn read(tree: &Tree) -> Kernel {
        let release = match tree.line("/proc/sys/kernel/osrelease") {
            // The kernel tells it without /proc, too.
            unknown if unknown.value().is_none() && tree.is_host() => {
                let release = uname().release().to_string_lossy().into_owned();
                Fact::found("uname(2)", release)
            }
            known => known,
        };
        let name = release.value().cloned().unwrap_or_default();
        Kernel {
            version: tree.line("/proc/version"),
            signature: tree.line("/proc/version_signature"),
            architecture: architecture(tree),
            command_line: tree.line("/proc/cmdline").map(|line| {
                line.split_whitespace()
                    .filter(|word| {
                        ["nomodule", "module.", "lockdown=", "debugfs=", "fips="]
                            .iter()
                            .any(|prefix| word.starts_with(prefix))
                    })
                    .map(str::to_owned)
                    .collect()
            }),
            config: config(tree, &name),
            installed: tree.names("/lib/modules"),
            build_id: tree.bytes("/sys/kernel/notes").and_then(|notes| {
                crate::elf::kernel_build_id(&notes)
                    .ok_or_else(|| "there is no build id among the notes".to_owned())
            }),
            release,
        }
    }
}

fn architecture(tree: &Tree) -> Fact<String> {
    let told = tree.line("/proc/sys/kernel/arch");
    if told.is_absent() && tree.is_host() {
        let machine = rustix::system::uname()
            .machine()
            .to_string_lossy()
            .into_owned();
        return Fact::found("uname -m", machine);
    }
    told
}

/// The configuration of the running kernel, from the first place that has one.
fn config(tree: &Tree, release: &str) -> Fact<BTreeMap<String, String>> {
    let compressed = tree.bytes("/proc/config.gz").and_then(|bytes| {
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice())
            .take(LARGEST_CONFIG)
            .read_to_string(&mut text)
            .map_err(|error| format!("it cannot be uncompressed ({error})"))?;
        Ok(text)
    });
    let plain = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/usr/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
    ];
    let mut found = compressed;
    for path in plain {
        if found.value().is_some() {
            break;
        }
        let other = tree.text(&path);
        // A damaged file is only worth telling of where there is no better one.
        if other.value().is_some() || found.is_absent() {
            found = other;
        }
    }
    found.and_then(|text| options(&text))
}

/// The options of [`OPTIONS`] in the text of a configuration.
pub(super) fn options(text: &str) -> Result<BTreeMap<String, String>, String> {
    if !text.contains("CONFIG_") {
        return Err("it has no CONFIG_ lines, so it is not a kernel configuration".to_owned());
    }
    let set: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .collect();
    Ok(OPTIONS
        .into_iter()
        .map(|option| {
            let value = set.get(option).copied().unwrap_or("n");
            (option.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect())
}

/// What decides whether a module may be loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Loading {
    /// Whether there is a list of modules; without one the kernel has no modules at all.
    pub modules: Fact<bool>,
    /// `kernel.modules_disabled`: 1 until the next boot once it was set.
    pub disabled: Fact<i64>,
    /// Whether only signed modules are loaded: `Y` or `N`.
    pub signatures_enforced: Fact<String>,
    /// The lockdown in force: `none`, `integrity` or `confidentiality`.
    pub lockdown: Fact<String>,
    /// Secure Boot, from the firmware.
    pub secure_boot: Fact<bool>,
    /// Whether shim was told not to validate (`mokutil --disable-validation`).
    pub validation_disabled: Fact<bool>,
    /// Size of the list of enrolled machine owner keys.
    pub owner_keys: Fact<u64>,
    /// `crypto.fips_enabled`.
    pub fips: Fact<i64>,
    /// Securelevel of older kernels.
    pub securelevel: Fact<i64>,
}

/// Directory of firmware variables, and the vendors whose variables matter.
const FIRMWARE: &str = "/sys/firmware/efi/efivars";
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const SHIM: &str = "605dab50-e046-4300-abb6-3dd810dd8b23";

impl Loading {
    fn read_variable(tree: &Tree, name: &str, vendor: &str) -> Fact<Vec<u8>> {
        // Four bytes of attributes come before the value.
        tree.bytes(&format!("{FIRMWARE}/{name}-{vendor}"))
            .and_then(|bytes| {
                bytes
                    .get(4..)
                    .filter(|value| !value.is_empty())
                    .map(<[u8]>::to_vec)
                    .ok_or_else(|| "the firmware variable has no value".to_owned())
            })
    }

    pub(super) fn read(tree: &Tree) -> Loading {
        let flag = |bytes: Vec<u8>| bytes.first() == Some(&1);
        Loading {
            modules: tree.exists("/proc/modules"),
            disabled: tree.number("/proc/sys/kernel/modules_disabled"),
            signatures_enforced: tree.line("/sys/module/module/parameters/sig_enforce"),
            lockdown: tree
                .line("/sys/kernel/security/lockdown")
                .and_then(|text| lockdown(&text)),
            secure_boot: Loading::read_variable(tree, "SecureBoot", GLOBAL).map(flag),
            validation_disabled: Loading::read_variable(tree, "MokSBStateRT", SHIM).map(flag),
            owner_keys: Loading::read_variable(tree, "MokListRT", SHIM)
                .map(|bytes| bytes.len() as u64),
            fips: tree.number("/proc/sys/crypto/fips_enabled"),
            securelevel: tree.number("/sys/kernel/security/securelevel"),
        }
    }
}

/// `none [integrity] confidentiality`: the word in brackets is in force.
fn lockdown(text: &str) -> Result<String, String> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .map(str::to_owned)
        .ok_or_else(|| format!("it holds {text:?}, in which no word is in brackets"))
}

/// What the kernel offers to tracers besides modules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tracing {
    /// Where debugfs is mounted.
    pub debugfs: Fact<String>,
    /// Where tracefs is mounted.
    pub tracefs: Fact<String>,
    /// File systems that the kernel knows, of debugfs and tracefs.
    pub file_systems: Fact<Vec<String>>,
    /// Whether the file in which uprobe events are defined is there.
    pub uprobe_events: Fact<bool>,
    /// Whether the kernel knows semaphores of uprobe events: a part of perf's description of them.
    pub semaphores: Fact<bool>,
    /// Which events of [`EVENTS_OF_WAITS`] there are.
    #[serde(default = "events_not_read")]
    pub events_of_waits: Fact<Vec<String>>,
    /// Which events of [`EVENTS_OF_CALLS`] there are.
    #[serde(default = "events_not_read")]
    pub events_of_calls: Fact<Vec<String>>,
    /// Whether the kernel tells the addresses of its functions.
    #[serde(default = "addresses_not_read")]
    pub addresses: Fact<bool>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Fact<i64>,
    /// `kernel.yama.ptrace_scope`, who may stop running processes and enter their memory; absent without Yama.
    #[serde(default = "scope_not_read")]
    pub ptrace_scope: Fact<i64>,
    /// Whether the kernel gave what a ring takes through which an agent tells its events.
    #[serde(default = "rings_not_tried")]
    pub rings: Fact<Rings>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Fact<i64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Fact<i64>,
    /// Size of the kernel's BTF.
    pub btf: Fact<u64>,
    /// Processors that are online.
    pub processors: Fact<u64>,
    /// Memory that can be had, in kilobytes.
    pub memory: Fact<u64>,
}

/// What came of trying to make a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rings {
    /// What the kernel said where it refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const ADDRESSES: &str = "/proc/kallsyms";
/// What tells of waits and who ends them.
pub(crate) const EVENTS_OF_WAITS: [&str; 2] = ["sched/sched_switch", "sched/sched_waking"];
/// What tells of system calls.
pub(crate) const EVENTS_OF_CALLS: [&str; 2] = ["raw_syscalls/sys_enter", "raw_syscalls/sys_exit"];
const RING_CALLS: &str = "memfd_create(2) and pidfd_open(2)";

/// What is told of facts that were saved before there was this one.
fn scope_not_read() -> Fact<i64> {
    Fact::unknown(PTRACE_SCOPE, BEFORE)
}

fn events_not_read() -> Fact<Vec<String>> {
    Fact::unknown("/sys/kernel/tracing/events", BEFORE)
}

fn addresses_not_read() -> Fact<bool> {
    Fact::unknown(ADDRESSES, BEFORE)
}

fn rings_not_tried() -> Fact<Rings> {
    Fact::unknown(RING_CALLS, BEFORE)
}

const BEFORE: &str = "the pystap that saved these facts did not look";

/// Makes a ring and lets it go again. Neither a version nor a setting says as much: kernels are older than what is in them,
/// and containers filter system calls.
fn rings(tree: &Tree) -> Fact<Rings> {
    if !tree.is_host() {
        return Fact::unknown(
            RING_CALLS,
            "this is not the host itself, so it was not tried",
        );
    }
    let tried = pystap_ring::new_memory(SMALL)
        .and_then(|_| pidfd_open(getpid(), PidfdFlags::empty()))
        .map(drop);
    match tried {
        Ok(()) => Fact::found(RING_CALLS, Rings { refused: None }),
        Err(error @ (Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::INVAL)) => Fact::found(
            RING_CALLS,
            Rings {
                refused: Some(error.to_string()),
            },
        ),
        // That may be otherwise in the next moment.
        Err(error) => Fact::unknown(RING_CALLS, format!("it failed ({error})")),
    }
}

/// Words of the ring that is tried: a page.
const SMALL: u64 = 1 << 9;

impl Tracing {
    pub(super) fn read(tree: &Tree) -> Tracing {
        let mounts = tree.text("/proc/self/mounts");
        let mounted = |kind: &str| {
            let found = mounts.value().and_then(|text| mount_of(text, kind));
            match (found, mounts.reason()) {
                (Some(place), _) => Fact::found(mounts.from(), place),
                (None, Some(reason)) => Fact::unknown(mounts.from(), reason),
                (None, None) => Fact::absent(mounts.from()),
            }
        };
        let tracefs = mounted("tracefs");
        let debugfs = mounted("debugfs");
        let events = match (tracefs.value(), debugfs.value()) {
            (Some(place), _) => format!("{place}/uprobe_events"),
            // Before Linux 4.1 tracing was a directory of debugfs.
            (None, Some(place)) => format!("{place}/tracing/uprobe_events"),
            (None, None) => "/sys/kernel/tracing/uprobe_events".to_owned(),
        };
        let place = events.strip_suffix("/uprobe_events").unwrap_or_default();
        Tracing {
            uprobe_events: tree.exists(&events),
            events_of_waits: events_among(&EVENTS_OF_WAITS, tree, place),
            events_of_calls: events_among(&EVENTS_OF_CALLS, tree, place),
            addresses: tree.beginning(ADDRESSES).and_then(|text| addresses(&text)),
            debugfs,
            tracefs,
            semaphores: tree.exists("/sys/bus/event_source/devices/uprobe/format/ref_ctr_offset"),
            file_systems: tree.text("/proc/filesystems").map(|text| {
                text.split_whitespace()
                    .filter(|word| ["debugfs", "tracefs"].contains(word))
                    .map(str::to_owned)
                    .collect()
            }),
            perf_event_paranoid: tree.number("/proc/sys/kernel/perf_event_paranoid"),
            ptrace_scope: tree.number(PTRACE_SCOPE),
            rings: rings(tree),
            kptr_restrict: tree.number("/proc/sys/kernel/kptr_restrict"),
            unprivileged_bpf_disabled: tree.number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            btf: tree
                .metadata("/sys/kernel/btf/vmlinux")
                .map(|metadata| metadata.len()),
            processors: tree
                .line("/sys/devices/system/cpu/online")
                .and_then(|text| processors(&text)),
            memory: tree
                .text("/proc/meminfo")
                .and_then(|text| available_memory(&text)),
        }
    }
}

/// Which of these events there are below a directory of tracefs.
fn events_among(events: &[&str], tree: &Tree, place: &str) -> Fact<Vec<String>> {
    let from = format!("{place}/events");
    let mut found = Vec::new();
    for event in events {
        let number = tree.number(&format!("{from}/{event}/id"));
        match number.reason() {
            Some(reason) => return Fact::unknown(number.from(), reason),
            None if number.is_absent() => {}
            None => found.push((*event).to_owned()),
        }
    }
    Fact::found(from, found)
}

/// Whether a list of the kernel's functions has addresses: all are 0 for those who may not know them. Variables of processors
/// come first, and the first of those is at 0 for everybody.
fn addresses(text: &str) -> Result<bool, String> {
    let mut known = false;
    // The last line may be cut.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let address = line.split_whitespace().next().unwrap_or_default();
        let address = u64::from_str_radix(address, 16)
            .map_err(|_| format!("it has {address:?} in the place of an address"))?;
        known |= address != 0;
    }
    Ok(known)
}

/// Where a file system of this kind is mounted first. Blanks in mount points are written `\040`.
fn mount_of(mounts: &str, kind: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let place = fields.nth(1)?;
        (fields.next()? == kind).then(|| place.replace("\\040", " "))
    })
}

/// `0-3,8`: how many processors that is.
fn processors(text: &str) -> Result<u64, String> {
    let count = |range: &str| -> Option<u64> {
        match range.split_once('-') {
            Some((first, last)) => {
                let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                last.checked_sub(first)?.checked_add(1)
            }
            None => range.parse::<u64>().ok().map(|_| 1),
        }
    };
    text.split(',')
        .map(count)
        .sum::<Option<u64>>()
        .ok_or_else(|| format!("it holds {text:?}, which is no list of processors"))
}

fn available_memory(text: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| "it has no number after MemAvailable".to_owned())
}
