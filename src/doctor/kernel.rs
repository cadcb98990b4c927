//! Findings about what the running kernel lets be loaded.

use super::compatibility::{not_set, true_version};
use super::host::{self, is_confined};
use super::remedy::Remedies;
use super::uprobes;
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::host::Facts;

/// Whether nothing is known to be in the way of uprobe events.
pub(super) fn uprobes_are_ready(facts: &Facts) -> bool {
    uprobes::findings(facts)
        .iter()
        .chain(&host::findings(facts))
        .all(|finding| !finding.stops.contains(&Engine::Uprobes))
}

/// What to do where no module can be loaded.
pub(super) fn elsewhere(facts: &Facts) -> Fix {
    Fix::by_hand(if uprobes_are_ready(facts) {
        "Use the engine that needs no module and is ready here: `pystap trace --engine uprobes -p PID`."
    } else {
        "Otherwise run pystap on another host, or in a virtual machine, whose kernel loads modules."
    })
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
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
            "Give the module smaller buffers: `pystap trace --buffer 4 -p PID`.",
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
