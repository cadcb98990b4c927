//! Findings about the engine that needs nothing but the kernel: uprobe events in tracefs, read through perf.

use super::compatibility::{not_set, numbers, true_version};
use super::host::may_not_mount;
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::host::Facts;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![kernel(facts), tracefs(facts), events(facts), perf(facts)]
}

fn kernel(facts: &Facts) -> Finding {
    let why = "CPython's probes are guarded by semaphores, which uprobe events can raise since Linux 4.20.";
    let lacking = facts
        .kernel
        .config
        .value()
        .map(|config| {
            not_set(
                config,
                &[
                    "CONFIG_UPROBES",
                    "CONFIG_UPROBE_EVENTS",
                    "CONFIG_PERF_EVENTS",
                ],
            )
        })
        .unwrap_or_default();
    let version = true_version(facts);
    let semaphores = &facts.tracing.semaphores;
    let finding = match &version {
        // Kernels of enterprise distributions are older than what is in them, so the version only counts where the
        // kernel does not say it itself.
        Some((version, _)) if semaphores.value().is_none() && numbers(version) < vec![4, 20] => {
            Finding::new(
                Part::Uprobes,
                "uprobe-kernel",
                Status::Missing,
                format!("kernel {version} cannot raise semaphores for uprobe events"),
                why,
            )
            .stops(Engine::Uprobes)
            .fix(Fix::by_hand("Boot a kernel of version 4.20 or later."))
        }
        _ if !lacking.is_empty() => Finding::new(
            Part::Uprobes,
            "uprobe-kernel",
            Status::Missing,
            format!("the kernel was built without {}", lacking.join(", ")),
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand(
            "Boot a kernel that has these options; every distribution's standard kernel does.",
        )),
        Some(_) => Finding::ok(
            Part::Uprobes,
            "uprobe-kernel",
            "the kernel can raise semaphores for uprobe events",
            why,
        ),
        None => Finding::new(
            Part::Uprobes,
            "uprobe-kernel",
            Status::Unknown,
            "the kernel's version is not known",
            why,
        ),
    };
    let finding = finding.evidence(Evidence::of(semaphores, |_| "there".to_owned()));
    match version {
        Some((version, from)) => finding.evidence(Evidence {
            path: from,
            value: version,
        }),
        None => finding.evidence(Evidence::plain(&facts.kernel.release)),
    }
}

/// Under lockdown for confidentiality, nobody reads the kernel's traces.
pub(super) fn confidential(facts: &Facts) -> bool {
    facts
        .loading
        .lockdown
        .value()
        .is_some_and(|level| level == "confidentiality")
}

fn tracefs(facts: &Facts) -> Finding {
    let tracing = &facts.tracing;
    let why = "Uprobe events are defined in files of tracefs.";
    let known = tracing
        .file_systems
        .value()
        .is_some_and(|names| names.iter().any(|name| name == "tracefs"));
    let finding = match (tracing.tracefs.value(), tracing.debugfs.value()) {
        _ if confidential(facts) => Finding::new(
            Part::Uprobes,
            "tracefs",
            Status::Missing,
            "the kernel is locked down for confidentiality, so tracefs cannot be opened",
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand(
            "Boot with lockdown for integrity only (lockdown=integrity), or without lockdown.",
        )),
        (Some(place), _) => Finding::ok(
            Part::Uprobes,
            "tracefs",
            format!("tracefs is mounted at {place}"),
            why,
        ),
        (None, Some(place)) if tracing.uprobe_events.value().is_some() => Finding::ok(
            Part::Uprobes,
            "tracefs",
            format!("tracing is reached through debugfs at {place}"),
            why,
        ),
        (None, _) if known && may_not_mount(facts) => Finding::new(
            Part::Uprobes,
            "tracefs",
            Status::Missing,
            "tracefs is not mounted",
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand(
            "Run pystap as root on the host, which has it mounted or can mount it.",
        )),
        (None, _) if known => Finding::ok(
            Part::Uprobes,
            "tracefs",
            "tracefs is not mounted, and pystap mounts it while it needs it",
            why,
        ),
        (None, _) if tracing.file_systems.value().is_some() => Finding::new(
            Part::Uprobes,
            "tracefs",
            Status::Missing,
            "the kernel has no tracefs",
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand("Boot a kernel with CONFIG_FTRACE.")),
        _ => Finding::new(
            Part::Uprobes,
            "tracefs",
            Status::Unknown,
            "it is not known whether tracefs is mounted",
            why,
        ),
    };
    finding
        .evidence(Evidence::plain(&tracing.tracefs))
        .evidence(Evidence::plain(&facts.loading.lockdown))
}

fn events(facts: &Facts) -> Finding {
    let fact = &facts.tracing.uprobe_events;
    let why = "A probe becomes a uprobe event by a line written to this file.";
    let mounted =
        facts.tracing.tracefs.value().is_some() || facts.tracing.debugfs.value().is_some();
    let configured = facts
        .kernel
        .config
        .value()
        .and_then(|config| config.get("CONFIG_UPROBE_EVENTS"))
        .is_some_and(|value| value == "y");
    let finding = match fact.value() {
        Some(_) => Finding::ok(
            Part::Uprobes,
            "uprobe-events",
            "uprobe events can be defined",
            why,
        ),
        None if fact.is_absent() && !mounted && configured => Finding::ok(
            Part::Uprobes,
            "uprobe-events",
            "uprobe events can be defined, once tracefs is mounted",
            why,
        ),
        None if fact.is_absent() && mounted => Finding::new(
            Part::Uprobes,
            "uprobe-events",
            Status::Missing,
            "the kernel has no uprobe events",
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand("Boot a kernel with CONFIG_UPROBE_EVENTS.")),
        None => Finding::new(
            Part::Uprobes,
            "uprobe-events",
            Status::Unknown,
            "it is not known whether uprobe events can be defined",
            why,
        ),
    };
    finding.evidence(Evidence::of(fact, |_| "there".to_owned()))
}

fn perf(facts: &Facts) -> Finding {
    let tracing = &facts.tracing;
    let why = "Events are read from perf's ring buffers, which are locked memory; root is not limited by either.";
    let root = facts.user.id.value() == Some(&0);
    let finding = match tracing.perf_event_paranoid.value() {
        Some(_) if root => Finding::ok(Part::Uprobes, "perf", "perf events are open to root", why),
        Some(level) if *level <= -1 => Finding::ok(
            Part::Uprobes,
            "perf",
            "perf events are open to everybody",
            why,
        ),
        Some(_) => Finding::new(
            Part::Uprobes,
            "perf",
            Status::Warning,
            "perf events of tracepoints are closed to this user",
            why,
        )
        .fix(Fix::by_hand("Run pystap as root.")),
        None if tracing.perf_event_paranoid.is_absent() => Finding::new(
            Part::Uprobes,
            "perf",
            Status::Missing,
            "the kernel has no perf events",
            why,
        )
        .stops(Engine::Uprobes)
        .fix(Fix::by_hand("Boot a kernel with CONFIG_PERF_EVENTS.")),
        None => Finding::new(
            Part::Uprobes,
            "perf",
            Status::Unknown,
            "it is not known whether perf events are open to this user",
            why,
        ),
    };
    finding
        .evidence(Evidence::plain(&tracing.perf_event_paranoid))
        .evidence(Evidence::of(&facts.user.memory_lock, |limit| {
            format!("locked memory {limit}")
        }))
        .evidence(Evidence::of(&tracing.btf, |size| {
            format!("{size} bytes of BTF")
        }))
        .evidence(Evidence::of(&facts.kernel.config, |config| {
            let value = |option: &str| config.get(option).map_or("n", String::as_str);
            format!(
                "BPF_SYSCALL={} BPF_EVENTS={}",
                value("CONFIG_BPF_SYSCALL"),
                value("CONFIG_BPF_EVENTS")
            )
        }))
}
