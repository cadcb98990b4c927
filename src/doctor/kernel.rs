//! Findings about the host, the user who asks, and what the running kernel lets be loaded.

use std::collections::BTreeMap;

use super::compatibility::true_version;
use super::remedy::{Family, Remedies};
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::host::Facts;
use crate::shell;

/// The initial namespace of process ids has this name on every Linux.
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// Bits of capabilities, after linux/capability.h.
const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether nothing is known to be in the way of uprobe events.
pub(super) fn uprobes_are_ready(facts: &Facts) -> bool {
    super::uprobes::findings(facts)
        .iter()
        .chain(&host(facts))
        .all(|finding| !finding.stops.contains(&Engine::Uprobes))
}

/// What to do where no module can be loaded.
pub(super) fn elsewhere(facts: &Facts) -> Fix {
    Fix::by_hand(if uprobes_are_ready(facts) {
        "Use the engine that needs no module and is ready here: `pystap trace --engine uprobes …`."
    } else {
        "Otherwise run pystap on another host, or in a virtual machine, whose kernel loads modules."
    })
}

pub(super) fn host(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        distribution(facts),
        architecture(facts),
        container(facts),
        privilege(facts),
    ];
    findings.extend(rights(facts));
    findings
}

/// Whether nothing that is installed in this place could make SystemTap run, because it is a container without a way out.
pub(super) fn is_confined(facts: &Facts) -> bool {
    container(facts).status == Status::Missing
}

/// Whether this user lacks the right to mount anything.
pub(super) fn may_not_mount(facts: &Facts) -> bool {
    capabilities(facts).is_some_and(|held| held & CAP_SYS_ADMIN == 0)
}

/// A root that is none: uprobe events need the right to administer the system.
fn rights(facts: &Facts) -> Option<Finding> {
    let root = facts.user.id.value() == Some(&0);
    let lacks = capabilities(facts).is_some_and(|held| held & CAP_SYS_ADMIN == 0);
    (root && lacks).then(|| {
        Finding::new(
            Part::Host,
            "rights",
            Status::Missing,
            "this root may not define uprobe events (it lacks CAP_SYS_ADMIN)",
            "Files of tracefs and perf events of the whole system are open to those who administer it.",
        )
        .stops(Engine::Uprobes)
        .evidence(Evidence::of(&facts.user.capabilities, |mask| {
            format!("effective capabilities {mask}")
        }))
        .fix(Fix::by_hand(
            "Run pystap on the host, or start the container with `--privileged --pid=host` and /sys/kernel/tracing of \
             the host mounted into it.",
        ))
    })
}

fn distribution(facts: &Facts) -> Finding {
    let fact = &facts.distribution;
    let why = "Names of packages depend on the distribution.";
    let finding = match fact.value() {
        Some(distribution) if Remedies::for_host(facts).family == Family::Other => Finding::new(
            Part::Host,
            "distribution",
            Status::Warning,
            format!(
                "{} is not a distribution whose packages pystap knows",
                distribution.name
            ),
            why,
        ),
        Some(distribution) => {
            Finding::ok(Part::Host, "distribution", distribution.name.clone(), why)
        }
        None => Finding::new(
            Part::Host,
            "distribution",
            Status::Unknown,
            "it is not known which distribution this is",
            why,
        ),
    };
    finding.evidence(Evidence::of(fact, |distribution| {
        format!("ID={} VERSION_ID={}", distribution.id, distribution.version)
    }))
}

fn architecture(facts: &Facts) -> Finding {
    let fact = &facts.kernel.architecture;
    let why = "Where a mark keeps its arguments depends on the processor.";
    let finding = match fact.value().map(String::as_str) {
        Some(machine @ "x86_64") => Finding::ok(Part::Host, "architecture", machine, why),
        Some(machine) => Finding::new(
            Part::Host,
            "architecture",
            Status::Warning,
            format!("pystap was not tried on {machine}"),
            why,
        ),
        None => Finding::new(
            Part::Host,
            "architecture",
            Status::Unknown,
            "the kind of processor is not known",
            why,
        ),
    };
    finding.evidence(Evidence::plain(fact))
}

fn container(facts: &Facts) -> Finding {
    let confinement = &facts.confinement;
    let why = "A kernel module belongs to the whole machine and knows processes by the host's ids, not by a container's.";
    let manager = confinement.manager.value();
    let other_ids = confinement
        .pid_namespace
        .value()
        .is_some_and(|namespace| namespace != INITIAL_PIDS);
    let mapped = confinement.mapped_users.value() == Some(&true);
    let finding = match (manager, other_ids, mapped) {
        (None, false, false) if confinement.pid_namespace.reason().is_some() => Finding::new(
            Part::Host,
            "container",
            Status::Unknown,
            "it is not known whether this is a container",
            why,
        ),
        (None, false, false) => Finding::ok(Part::Host, "container", "not in a container", why),
        (Some(manager), false, false) => Finding::new(
            Part::Host,
            "container",
            Status::Warning,
            format!("this is a container ({manager}) that shares the host's process ids"),
            why,
        ),
        (manager, _, _) => {
            let kind = manager.map_or(String::new(), |manager| format!(" ({manager})"));
            let what = if other_ids { "process ids" } else { "user ids" };
            Finding::new(
                Part::Host,
                "container",
                Status::Missing,
                format!("this is a container{kind} with {what} of its own"),
                why,
            )
            .stops(Engine::Stap)
            .fix(Fix::by_hand(
                "Run pystap on the host: there it sees the processes of containers, too.",
            ))
        }
    };
    finding
        .evidence(Evidence::plain(&confinement.manager))
        .evidence(Evidence::plain(&confinement.pid_namespace))
        .evidence(Evidence::of(&confinement.mapped_users, |mapped| {
            if *mapped {
                "user ids are mapped".to_owned()
            } else {
                "user ids are the host's".to_owned()
            }
        }))
}

fn capabilities(facts: &Facts) -> Option<u64> {
    facts
        .user
        .capabilities
        .value()
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
}

fn privilege(facts: &Facts) -> Finding {
    let user = &facts.user;
    let why = "Loading modules and defining uprobe events is for root; the groups stapusr and stapdev together may load \
               modules through SystemTap.";
    let name = user.name.value().map_or("this user", String::as_str);
    let root = user.id.value().map(|id| *id == 0);
    let held = capabilities(facts);
    let lacks = |bit: u64| held.is_some_and(|held| held & bit == 0);
    let members = in_groups(facts, &["stapusr", "stapdev"]);
    let finding = match root {
        None => Finding::new(
            Part::Host,
            "privilege",
            Status::Unknown,
            "it is not known which user this is",
            why,
        ),
        Some(true) if lacks(CAP_SYS_MODULE) => Finding::new(
            Part::Host,
            "privilege",
            Status::Missing,
            "this root may not load modules (it lacks CAP_SYS_MODULE)",
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Run pystap on the host, or start the container with `--privileged --pid=host` and /lib/modules, \
             /usr/src and /sys/kernel/debug of the host mounted into it.",
        )),
        Some(true) => Finding::ok(Part::Host, "privilege", "root", why),
        Some(false) => match members {
            Membership::Now => Finding::new(
                Part::Host,
                "privilege",
                Status::Warning,
                format!("{name} may load modules through SystemTap, but not define uprobe events"),
                why,
            )
            .stops(Engine::Uprobes),
            Membership::AfterLogin => Finding::new(
                Part::Host,
                "privilege",
                Status::Missing,
                format!("{name} is in the groups of SystemTap, but this session began before that"),
                why,
            )
            .stops(Engine::Stap)
            .stops(Engine::Uprobes)
            .fix(Fix::by_hand("Log out and in again, so that the groups count.")),
            Membership::No => Finding::new(
                Part::Host,
                "privilege",
                Status::Missing,
                format!("{name} is neither root nor in the groups stapusr and stapdev"),
                why,
            )
            .stops(Engine::Stap)
            .stops(Engine::Uprobes)
            .fix(Fix::new(
                "Run pystap with sudo; or put the user into the groups, which gives it the power of root, and log in \
                 again.",
                [format!("usermod -aG stapusr,stapdev {}", shell::word(name))],
            ).or()),
        },
    };
    finding
        .evidence(Evidence::of(&user.id, |id| format!("user {id} ({name})")))
        .evidence(Evidence::of(&user.groups, |groups| {
            let ids: Vec<String> = groups.iter().map(ToString::to_string).collect();
            format!("groups {}", ids.join(" "))
        }))
        .evidence(Evidence::of(&user.capabilities, |mask| {
            format!("effective capabilities {mask}")
        }))
}

/// Whether this user is in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    /// In all of them.
    Now,
    /// Entered in all of them, but not in this session.
    AfterLogin,
    No,
}

fn in_groups(facts: &Facts, names: &[&str]) -> Membership {
    let user = facts.user.name.value().map_or("", String::as_str);
    let held: &[u32] = facts.user.groups.value().map_or(&[], Vec::as_slice);
    let group = |name: &&str| {
        facts
            .systemtap
            .groups
            .iter()
            .filter_map(|fact| fact.value())
            .find(|group| group.name == **name)
    };
    if names
        .iter()
        .all(|name| group(name).is_some_and(|group| held.contains(&group.id)))
    {
        return Membership::Now;
    }
    let entered = names.iter().all(|name| {
        group(name).is_some_and(|group| {
            held.contains(&group.id) || group.members.iter().any(|member| member == user)
        })
    });
    if entered {
        Membership::AfterLogin
    } else {
        Membership::No
    }
}

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts), modules(facts)];
    // Where no module can be loaded, the rest of this part has nothing to say.
    if !facts.loading.modules.is_absent() && !is_confined(facts) {
        findings.extend([modules_disabled(facts), signatures(facts)]);
        findings.extend(fips(facts));
        findings.extend([
            options(facts),
            functions(facts),
            debugfs(facts),
            buffers(facts),
        ]);
    }
    findings
}

fn version(facts: &Facts) -> Finding {
    let kernel = &facts.kernel;
    let why = "What stap can build for depends on the kernel's own version, which some releases do not show.";
    let release = kernel.release.value();
    let finding = match (release, true_version(facts)) {
        (Some(release), Some((version, _))) if release.starts_with(&version) => {
            Finding::ok(Part::Kernel, "kernel-version", release.clone(), why)
        }
        (Some(release), Some((version, from))) => Finding::ok(
            Part::Kernel,
            "kernel-version",
            format!("{release}, which is really {version}"),
            why,
        )
        .evidence(Evidence {
            path: from,
            value: version,
        }),
        _ => Finding::new(
            Part::Kernel,
            "kernel-version",
            Status::Unknown,
            "the kernel's version is not known",
            why,
        ),
    };
    finding
        .evidence(Evidence::plain(&kernel.release))
        .evidence(Evidence::plain(&kernel.version))
}

fn modules(facts: &Facts) -> Finding {
    let loading = &facts.loading;
    let why = "SystemTap's probes are a kernel module.";
    let booted_without = facts
        .kernel
        .command_line
        .value()
        .is_some_and(|words| words.iter().any(|word| word == "nomodule"));
    let built_without = facts
        .kernel
        .config
        .value()
        .and_then(|config| config.get("CONFIG_MODULES"))
        .is_some_and(|value| value == "n");
    let finding = if loading.modules.is_absent() || booted_without && built_without {
        Finding::new(
            Part::Kernel,
            "modules",
            Status::Missing,
            "this kernel cannot load modules at all",
            why,
        )
        .stops(Engine::Stap)
        .fix(elsewhere(facts))
    } else if booted_without {
        Finding::new(
            Part::Kernel,
            "modules",
            Status::Missing,
            "this kernel was booted with the option nomodule",
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Take nomodule off the kernel's command line and reboot.",
        ))
    } else if loading.modules.value().is_some() {
        Finding::ok(Part::Kernel, "modules", "the kernel has modules", why)
    } else {
        Finding::new(
            Part::Kernel,
            "modules",
            Status::Unknown,
            "it is not known whether the kernel has modules",
            why,
        )
    };
    let config = facts.kernel.config.clone().map(|options| {
        options
            .get("CONFIG_MODULES")
            .cloned()
            .unwrap_or_else(|| "n".to_owned())
    });
    finding
        .evidence(Evidence::of(&loading.modules, |_| "there".to_owned()))
        .evidence(Evidence::of(&config, |value| {
            format!("CONFIG_MODULES={value}")
        }))
}

fn modules_disabled(facts: &Facts) -> Finding {
    let fact = &facts.loading.disabled;
    let why = "Once kernel.modules_disabled is 1, no module is loaded until the next boot.";
    let finding = match fact.value() {
        Some(0) => Finding::ok(
            Part::Kernel,
            "modules-disabled",
            "loading modules is switched on",
            why,
        ),
        Some(_) => Finding::new(
            Part::Kernel,
            "modules-disabled",
            Status::Missing,
            "loading modules is switched off until the next boot",
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::new(
            "Find what sets kernel.modules_disabled, take it out, and reboot.",
            ["grep -rs modules_disabled /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d /run/sysctl.d"],
        ).or())
        .fix(elsewhere(facts)),
        None => Finding::new(
            Part::Kernel,
            "modules-disabled",
            Status::Unknown,
            "it is not known whether loading modules is switched off",
            why,
        ),
    };
    finding.evidence(Evidence::plain(fact))
}

/// Lockdown, signatures and Secure Boot are one question: does the kernel take a module that nobody signed?
fn signatures(facts: &Facts) -> Finding {
    let loading = &facts.loading;
    let why = "The module that stap builds is not signed, and under lockdown or with enforced signatures the kernel \
               refuses such a module.";
    let locked = loading.lockdown.value().filter(|level| *level != "none");
    let forced = facts
        .kernel
        .config
        .value()
        .and_then(|config| config.get("CONFIG_MODULE_SIG_FORCE"))
        .is_some_and(|value| value == "y");
    let enforced = loading
        .signatures_enforced
        .value()
        .is_some_and(|value| value == "Y")
        || forced;
    let remedies = Remedies::for_host(facts);
    let secure_boot = loading.secure_boot.value() == Some(&true);
    let finding = match (locked, enforced) {
        (Some(level), _) if secure_boot => Finding::new(
            Part::Kernel,
            "signatures",
            Status::Missing,
            format!("Secure Boot has locked the kernel down ({level}), so it refuses unsigned modules"),
            why,
        )
        .stops(Engine::Stap)
        .fix(elsewhere(facts))
        .fixes(remedies.unsigned_modules(facts.tools.mokutil.value().is_some())),
        (Some(level), _) => Finding::new(
            Part::Kernel,
            "signatures",
            Status::Missing,
            format!("the kernel is locked down ({level}), so it refuses unsigned modules"),
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Find out why it is locked down (a word lockdown= on the kernel's command line, or a service that writes to \
             /sys/kernel/security/lockdown); lockdown can only be lifted by a reboot without that.",
        ))
        .fix(elsewhere(facts)),
        (None, true) => Finding::new(
            Part::Kernel,
            "signatures",
            Status::Missing,
            "the kernel loads signed modules only",
            why,
        )
        .stops(Engine::Stap)
        .fix(elsewhere(facts))
        .fixes(remedies.unsigned_modules(facts.tools.mokutil.value().is_some())),
        (None, false)
            if loading.lockdown.reason().is_some() || loading.signatures_enforced.reason().is_some() =>
        {
            Finding::new(
                Part::Kernel,
                "signatures",
                Status::Unknown,
                "it is not known whether unsigned modules are refused",
                why,
            )
        }
        (None, false) => Finding::ok(
            Part::Kernel,
            "signatures",
            "unsigned modules are accepted",
            why,
        ),
    };
    let finding = finding
        .evidence(Evidence::plain(&loading.lockdown))
        .evidence(Evidence::plain(&loading.signatures_enforced))
        .evidence(Evidence::of(&loading.secure_boot, |on| {
            if *on {
                "Secure Boot is on"
            } else {
                "Secure Boot is off"
            }
            .to_owned()
        }))
        .evidence(Evidence::of(&loading.owner_keys, |size| {
            format!("machine owner keys are enrolled ({size} bytes)")
        }));
    if loading.validation_disabled.value() == Some(&true) {
        finding.evidence(Evidence::of(&loading.validation_disabled, |_| {
            "shim was told not to validate".to_owned()
        }))
    } else {
        finding
    }
}

fn fips(facts: &Facts) -> Option<Finding> {
    let fact = &facts.loading.fips;
    let on = fact.value().is_some_and(|value| *value != 0);
    on.then(|| {
        Finding::new(
            Part::Kernel,
            "fips",
            Status::Missing,
            "the kernel runs in FIPS mode, in which staprun refuses to load modules",
            "staprun checks for FIPS mode itself, before the kernel is asked.",
        )
        .stops(Engine::Stap)
        .evidence(Evidence::plain(fact))
        .fix(Fix::by_hand(
            "Where your rules allow it, set STAP_FIPS_OVERRIDE=1 in the environment of pystap.",
        ))
    })
}

/// Options that stap's module for marks does not work without.
const REQUIRED: [&str; 7] = [
    "CONFIG_ARCH_SUPPORTS_UPROBES",
    "CONFIG_DEBUG_FS",
    "CONFIG_KALLSYMS",
    "CONFIG_PROC_FS",
    "CONFIG_RELAY",
    "CONFIG_TRACEPOINTS",
    "CONFIG_UPROBES",
];

/// Those of `wanted` that a configuration does not have.
pub(super) fn not_set(config: &BTreeMap<String, String>, wanted: &[&str]) -> Vec<String> {
    wanted
        .iter()
        .filter(|option| {
            !config
                .get(**option)
                .is_some_and(|value| value == "y" || value == "m")
        })
        .map(|option| (*option).to_owned())
        .collect()
}

fn options(facts: &Facts) -> Finding {
    let fact = &facts.kernel.config;
    let why = "Probes at marks are uprobes, and stap's module needs these parts of the kernel around them.";
    let lacking = fact.value().map(|config| not_set(config, &REQUIRED));
    let no_unload = fact
        .value()
        .is_some_and(|config| !not_set(config, &["CONFIG_MODULE_UNLOAD"]).is_empty());
    let finding = match &lacking {
        None => Finding::new(
            Part::Kernel,
            "options",
            Status::Unknown,
            "the kernel's configuration is not known",
            why,
        ),
        Some(lacking) if !lacking.is_empty() => Finding::new(
            Part::Kernel,
            "options",
            Status::Missing,
            format!("the kernel was built without {}", lacking.join(", ")),
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Boot a kernel that has these options; every distribution's standard kernel does.",
        )),
        Some(_) if no_unload => Finding::new(
            Part::Kernel,
            "options",
            Status::Warning,
            "the kernel cannot unload modules, so each new script stays loaded until the next boot",
            why,
        ),
        Some(_) => Finding::ok(
            Part::Kernel,
            "options",
            "the kernel was built with everything that probes need",
            why,
        ),
    };
    finding.evidence(Evidence::of(fact, |config| {
        REQUIRED
            .iter()
            .map(|option| {
                let value = config.get(*option).map_or("n", String::as_str);
                format!("{}={value}", option.trim_start_matches("CONFIG_"))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }))
}

fn functions(facts: &Facts) -> Finding {
    let fact = &facts.symbols.missing;
    let why = "The module looks these functions up by name when it is loaded.";
    let finding = match fact.value() {
        Some(missing) if missing.is_empty() => Finding::ok(
            Part::Kernel,
            "functions",
            "the kernel's functions that a module looks up are there",
            why,
        ),
        Some(missing) => Finding::new(
            Part::Kernel,
            "functions",
            Status::Missing,
            format!("the kernel does not list {}", missing.join(", ")),
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Boot a kernel that lists all its functions (CONFIG_KALLSYMS, and no CONFIG_TRIM_UNUSED_KSYMS).",
        )),
        None => Finding::new(
            Part::Kernel,
            "functions",
            Status::Unknown,
            "it is not known which functions the kernel lists",
            why,
        ),
    };
    finding.evidence(Evidence::of(fact, |missing| {
        if missing.is_empty() {
            "all of them".to_owned()
        } else {
            format!("without {}", missing.join(", "))
        }
    }))
}

fn debugfs(facts: &Facts) -> Finding {
    let tracing = &facts.tracing;
    let why = "staprun wants debugfs mounted and mounts it where it may.";
    let known = tracing
        .file_systems
        .value()
        .is_some_and(|names| names.iter().any(|name| name == "debugfs"));
    let finding = match (tracing.debugfs.value(), known) {
        (Some(place), _) => Finding::ok(
            Part::Kernel,
            "debugfs",
            format!("debugfs is mounted at {place}"),
            why,
        ),
        (None, true) => Finding::new(
            Part::Kernel,
            "debugfs",
            Status::Warning,
            "debugfs is not mounted",
            why,
        )
        .fix(Fix::new(
            "Mount it.",
            ["mount -t debugfs debugfs /sys/kernel/debug"],
        )),
        (None, false) if tracing.file_systems.value().is_some() => Finding::new(
            Part::Kernel,
            "debugfs",
            Status::Missing,
            "the kernel has no debugfs",
            why,
        )
        .stops(Engine::Stap)
        .fix(Fix::by_hand(
            "Boot with debugfs=on, or boot a kernel with CONFIG_DEBUG_FS.",
        )),
        _ => Finding::new(
            Part::Kernel,
            "debugfs",
            Status::Unknown,
            "it is not known whether debugfs is mounted",
            why,
        ),
    };
    finding
        .evidence(Evidence::plain(&tracing.debugfs))
        .evidence(Evidence::of(&tracing.file_systems, |names| names.join(" ")))
}

/// stap's default for a processor, in kilobytes.
const BUFFER: u64 = 16 << 10;

fn buffers(facts: &Facts) -> Finding {
    let tracing = &facts.tracing;
    let why = "A module has a buffer of 16 MB for each processor unless it is told otherwise.";
    let wanted = tracing.processors.value().map(|count| count * BUFFER);
    let finding = match (wanted, tracing.memory.value()) {
        (Some(wanted), Some(memory)) if wanted * 2 > *memory => Finding::new(
            Part::Kernel,
            "buffers",
            Status::Warning,
            format!(
                "buffers would take {} of {} MB of free memory",
                wanted >> 10,
                memory >> 10
            ),
            why,
        )
        .fix(Fix::by_hand(
            "Give the module smaller buffers: `pystap trace --buffer 4 …`.",
        )),
        (Some(_), Some(_)) => Finding::ok(
            Part::Kernel,
            "buffers",
            "there is memory enough for buffers",
            why,
        ),
        _ => Finding::new(
            Part::Kernel,
            "buffers",
            Status::Unknown,
            "it is not known whether there is memory enough for buffers",
            why,
        ),
    };
    finding
        .evidence(Evidence::of(&tracing.processors, |count| {
            format!("{count} processors")
        }))
        .evidence(Evidence::of(&tracing.memory, |memory| {
            format!("{} MB available", memory >> 10)
        }))
}
