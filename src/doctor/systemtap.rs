//! Findings about the installed SystemTap, and about the trial, which is the only proof that counts.

use super::compatibility::{Change, is_tested, numbers, too_old, true_version};
use super::host::is_confined;
use super::kernel::{elsewhere, uprobes_are_ready};
use super::remedy::{PROOF, Remedies};
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::engine::stap::Identity;
use crate::host::Facts;
use crate::shell;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    // Where no module can be loaded, advice to install SystemTap would lead nowhere.
    if facts.loading.modules.is_absent() || is_confined(facts) {
        return Vec::new();
    }
    let mut findings = vec![stap(facts)];
    if facts.systemtap.stap.value().is_some() {
        findings.extend([kernel(facts), staprun(facts), groups(facts)]);
    }
    findings.push(sessions(facts));
    findings.extend(settings(facts));
    if facts.systemtap.stap.value().is_some() {
        findings.push(trial(facts));
    }
    findings
}

fn identity(facts: &Facts) -> Option<&Identity> {
    facts.systemtap.stap.value()?.identity.value()
}

/// Whether a trial has shown that this stap builds modules for this kernel.
pub(super) fn proved(facts: &Facts) -> bool {
    facts
        .trial
        .value()
        .is_some_and(|trial| trial.compiled && trial.loaded != Some(false))
}

fn stap(facts: &Facts) -> Finding {
    let fact = &facts.systemtap.stap;
    let why = "stap makes a kernel module of a probe script.";
    let finding = match fact.value() {
        None if fact.is_absent() => Finding::new(
            Part::Systemtap,
            "stap",
            Status::Missing,
            "SystemTap is not installed",
            why,
        )
        .stops(Engine::Stap)
        .fixes(from_the_distribution(facts)),
        None => Finding::new(
            Part::Systemtap,
            "stap",
            Status::Unknown,
            "it is not known whether SystemTap is installed",
            why,
        ),
        Some(tool) => match tool.identity.value() {
            Some(identity) => Finding::ok(
                Part::Systemtap,
                "stap",
                format!("stap {} at {}", identity.version, tool.path),
                why,
            ),
            None => Finding::new(
                Part::Systemtap,
                "stap",
                Status::Unknown,
                format!("{} does not say its version", tool.path),
                why,
            )
            .fix(Remedies::for_host(facts).systemtap()),
        },
    };
    let finding = finding.evidence(Evidence::of(fact, |tool| tool.path.clone()));
    match fact.value() {
        Some(tool) => finding.evidence(Evidence::of(&tool.identity, |identity| {
            format!(
                "{}, features {}",
                identity.build,
                identity.features.join(" ")
            )
        })),
        None => finding,
    }
}

fn kernel(facts: &Facts) -> Finding {
    let why = "A stap that does not know a change in the kernel fails when it compiles, or when it loads.";
    let new = |status, summary: String| {
        Finding::new(Part::Systemtap, "stap-kernel", status, summary, why)
    };
    let (Some(identity), Some((version, from))) = (identity(facts), true_version(facts)) else {
        return new(
            Status::Unknown,
            "stap and kernel cannot be compared".to_owned(),
        );
    };
    let stap = &identity.version;
    let tested = identity.tested.as_ref();
    let inside = tested.is_some_and(|range| is_tested(range, &version));
    let finding = match too_old(stap, &version) {
        _ if proved(facts) => new(
            Status::Ok,
            format!("stap {stap} builds modules for kernel {version}, as the trial has shown"),
        ),
        Some(change) => new(
            Status::Missing,
            format!(
                "stap {stap} is too old for kernel {version}: {}, which stap knows since {}",
                change.what,
                change.needs()
            ),
        )
        .stops(Engine::Stap)
        .fixes(instead(facts, Some(change.needs().as_str()))),
        None if inside => new(
            Status::Ok,
            format!("stap {stap} was tested with kernels like {version}"),
        ),
        None if tested.is_none() => new(
            Status::Warning,
            format!("stap {stap} does not say which kernels it was tested with"),
        )
        .fix(try_it(facts)),
        None => new(
            Status::Warning,
            match tested.map(|range| &range.1) {
                Some(newest) if numbers(&version) > numbers(newest) => format!(
                    "kernel {version} is newer than what stap {stap} was tested with, so it is not known whether it builds modules for it"
                ),
                _ => format!("kernel {version} is older than what stap {stap} was tested with"),
            },
        )
        .fix(try_it(facts)),
    };
    finding
        .evidence(Evidence {
            path: facts.systemtap.stap.value().map_or_else(
                || "stap --version".to_owned(),
                |tool| format!("{} --version", tool.path),
            ),
            value: match tested {
                Some((oldest, newest)) => format!("tested kernel versions: {oldest} ... {newest}"),
                None => "no tested kernel versions".to_owned(),
            },
        })
        .evidence(Evidence {
            path: from,
            value: version,
        })
}

/// The distribution's SystemTap, unless it is known to be too old for this kernel.
fn from_the_distribution(facts: &Facts) -> Vec<Fix> {
    let remedies = Remedies::for_host(facts);
    match out_of_reach(facts) {
        Some(change) => instead(facts, Some(&change.needs())),
        None => vec![remedies.systemtap()],
    }
}

/// Why the distribution's SystemTap cannot serve this kernel, where that is known.
pub(super) fn out_of_reach(facts: &Facts) -> Option<&'static Change> {
    let stap = Remedies::for_host(facts).packaged_systemtap()?;
    too_old(stap, &true_version(facts)?.0)
}

/// What to do where this stap cannot serve this kernel: use another engine that is ready, which takes no effort, or
/// another stap.
fn instead(facts: &Facts, needed: Option<&str>) -> Vec<Fix> {
    let build = Remedies::for_host(facts).newer_systemtap(needed);
    let other = elsewhere(facts);
    if uprobes_are_ready(facts) {
        vec![other, build.or()]
    } else {
        vec![build, other]
    }
}

fn try_it(facts: &Facts) -> Fix {
    let named = facts.systemtap.named.as_ref();
    Fix::new(
        "Only a trial can tell; it compiles a small script and remembers the outcome.",
        [match named {
            Some(stap) => format!("{PROOF} --stap {}", shell::path(stap)),
            None => PROOF.to_owned(),
        }],
    )
}

fn staprun(facts: &Facts) -> Finding {
    let fact = &facts.systemtap.staprun;
    let why = "staprun loads the module, for which it must be root's, and it speaks a protocol of its own build's stap.";
    let new =
        |status, summary: String| Finding::new(Part::Systemtap, "staprun", status, summary, why);
    let stap_path = facts
        .systemtap
        .stap
        .value()
        .map(|tool| tool.path.clone())
        .unwrap_or_default();
    let finding = match fact.value() {
        None if fact.is_absent() => new(Status::Missing, "staprun is not installed".to_owned())
            .stops(Engine::Stap)
            .fix(Remedies::for_host(facts).systemtap()),
        None => new(
            Status::Unknown,
            "it is not known whether staprun is installed".to_owned(),
        ),
        Some(tool) => {
            let belongs = tool.identity.value().and_then(|identity| identity.belongs);
            let mode = u32::from_str_radix(&tool.mode, 8).unwrap_or_default();
            let root = facts.user.id.value() == Some(&0);
            if belongs == Some(false) {
                new(
                    Status::Missing,
                    format!("{} is of another build than {stap_path}", tool.path),
                )
                .stops(Engine::Stap)
                .fix(Fix::by_hand(
                    "Install both from one place, or name the stap that belongs to it with --stap.",
                ))
            } else if !root && (tool.user != 0 || mode & 0o4000 == 0) {
                new(
                    Status::Missing,
                    format!("{} does not become root (mode {})", tool.path, tool.mode),
                )
                .stops(Engine::Stap)
                .fix(Fix::new(
                    "Give it back the rights that its package gives it.",
                    [
                        format!("chown root:stapusr {}", shell::path(&tool.path)),
                        format!("chmod 4754 {}", shell::path(&tool.path)),
                    ],
                ))
            } else {
                new(Status::Ok, format!("{} belongs to stap", tool.path))
            }
        }
    };
    let finding = finding.evidence(Evidence::of(fact, |tool| {
        format!(
            "{}, mode {}, user {}, group {}",
            tool.path, tool.mode, tool.user, tool.group
        )
    }));
    match fact.value() {
        Some(tool) => finding.evidence(Evidence::of(&tool.identity, |identity| {
            match identity.belongs {
                Some(true) => format!("carries the words {:?}", identity.build),
                Some(false) => format!("does not carry the words {:?}", identity.build),
                None => "does not say its build".to_owned(),
            }
        })),
        None => finding,
    }
}

fn groups(facts: &Facts) -> Finding {
    let groups = &facts.systemtap.groups;
    let why = "Members of stapusr and stapdev may load any module, which is the power of root.";
    let present = groups
        .iter()
        .filter(|group| group.value().is_some())
        .count();
    let finding = if groups.iter().any(|group| group.reason().is_some()) {
        Finding::new(
            Part::Systemtap,
            "groups",
            Status::Unknown,
            "it is not known which groups SystemTap has",
            why,
        )
    } else if present == groups.len() {
        let members: Vec<String> = groups
            .iter()
            .filter_map(|group| group.value())
            .filter(|group| !group.members.is_empty())
            .map(|group| format!("{}: {}", group.name, group.members.join(", ")))
            .collect();
        Finding::ok(
            Part::Systemtap,
            "groups",
            if members.is_empty() {
                "the groups of SystemTap are there and have no members".to_owned()
            } else {
                format!("the groups of SystemTap are there ({})", members.join("; "))
            },
            why,
        )
    } else {
        Finding::new(
            Part::Systemtap,
            "groups",
            Status::Warning,
            "the groups of SystemTap are not all there, so only root can use it",
            why,
        )
        .fix(Fix::new(
            "Make those that are not there.",
            facts
                .systemtap
                .missing_groups()
                .map(|name| format!("groupadd --system {name}")),
        ))
    };
    groups.iter().fold(finding, |finding, group| {
        finding.evidence(Evidence::of(group, |group| {
            format!(
                "{} ({}): {}",
                group.name,
                group.id,
                group.members.join(", ")
            )
        }))
    })
}

fn sessions(facts: &Facts) -> Finding {
    let fact = &facts.systemtap.sessions;
    let why =
        "A module whose owner is gone goes on probing, and costs every process that it probes.";
    let left: Vec<&str> = fact
        .value()
        .map(|sessions| {
            sessions
                .iter()
                .filter(|session| !session.owned)
                .map(|session| session.module.as_str())
                .collect()
        })
        .unwrap_or_default();
    let finding = if !left.is_empty() {
        Finding::new(
            Part::Systemtap,
            "sessions",
            Status::Warning,
            format!(
                "modules of ended sessions are still loaded: {}",
                left.join(", ")
            ),
            why,
        )
        .fix(Fix::new(
            "Unload them.",
            left.iter()
                .map(|module| format!("staprun -d {}", shell::word(module))),
        ))
    } else if fact.value().is_some() {
        Finding::ok(
            Part::Systemtap,
            "sessions",
            "no module of an ended session is loaded",
            why,
        )
    } else {
        Finding::new(
            Part::Systemtap,
            "sessions",
            Status::Unknown,
            "it is not known whether modules of ended sessions are loaded",
            why,
        )
    };
    finding.evidence(Evidence::of(fact, |sessions| match sessions.as_slice() {
        [] => "no module named stap_…".to_owned(),
        sessions => sessions
            .iter()
            .map(|session| {
                let owner = if session.owned {
                    "in use"
                } else {
                    "left behind"
                };
                format!("{} is {owner}", session.module)
            })
            .collect::<Vec<_>>()
            .join(", "),
    }))
}

/// Settings that change what stap does. pystap uses its own stap directory and TMPDIR, so these matter for stap run by
/// hand; the variables that it cannot clear matter for both.
fn settings(facts: &Facts) -> Option<Finding> {
    let systemtap = &facts.systemtap;
    let why = "stap takes options from its environment and from an rc file that nobody sees on the command line.";
    let mut said = Vec::new();
    let mut evidence = Vec::new();
    let mut fixes = Vec::new();
    for (name, value) in &systemtap.environment {
        // stap refuses a TMPDIR with other characters.
        let odd_directory = name == "TMPDIR"
            && !value
                .chars()
                .all(|sign| sign.is_ascii_alphanumeric() || "-/._".contains(sign));
        if name != "TMPDIR" || odd_directory {
            said.push(name.clone());
            evidence.push(Evidence {
                path: name.clone(),
                value: value.clone(),
            });
            fixes.push(format!("unset {name}"));
        }
    }
    if let Some(options) = systemtap.rc.value().filter(|options| !options.is_empty()) {
        said.push(systemtap.rc.from().to_owned());
        evidence.push(Evidence {
            path: systemtap.rc.from().to_owned(),
            value: options.join(" "),
        });
    }
    if said.is_empty() {
        return None;
    }
    let mut finding = Finding::new(
        Part::Systemtap,
        "settings",
        Status::Warning,
        format!("settings change what stap does: {}", said.join(", ")),
        why,
    );
    finding.evidence = evidence;
    Some(if fixes.is_empty() {
        finding.fix(Fix::by_hand(
            "Nothing needs doing for pystap, which uses a directory of its own; stap by hand reads the file.",
        ))
    } else {
        finding.fix(Fix::new("Take them out of the environment.", fixes).or())
    })
}

fn trial(facts: &Facts) -> Finding {
    let fact = &facts.trial;
    let why = "Versions, headers and settings can all look right, and stap still fails; building a module is the only proof.";
    let finding = match fact.value() {
        Some(trial) if !trial.compiled => Finding::new(
            Part::Systemtap,
            "trial",
            Status::Missing,
            "the trial failed: stap could not build a module",
            why,
        )
        .stops(Engine::Stap)
        .evidence(Evidence {
            path: "stap".to_owned(),
            value: trial.trouble.clone(),
        })
        .fixes(instead(facts, None)),
        Some(trial) if trial.loaded == Some(false) => Finding::new(
            Part::Systemtap,
            "trial",
            Status::Missing,
            "the trial failed: the module was built, but not loaded",
            why,
        )
        .stops(Engine::Stap)
        .evidence(Evidence {
            path: "staprun".to_owned(),
            value: trial.trouble.clone(),
        })
        .fix(Fix::new(
            "Look what the kernel says about it, mend that, and try again.",
            ["dmesg | tail -n 20", "pystap doctor --trial=run"],
        )),
        Some(trial) => Finding::ok(
            Part::Systemtap,
            "trial",
            if trial.loaded == Some(true) {
                "a module was built, loaded and unloaded"
            } else {
                "a module was built; whether the kernel loads it, `--trial=run` shows"
            },
            why,
        )
        .evidence(Evidence {
            path: fact.from().to_owned(),
            value: format!("{} for {}", trial.stap, trial.kernel),
        }),
        None => Finding::new(
            Part::Systemtap,
            "trial",
            Status::Unknown,
            "it was not tried whether stap can build a module here",
            why,
        )
        .evidence(Evidence::of(fact, |_| String::new()))
        // A trial that is known to fail need not be run.
        .fixes((kernel(facts).status != Status::Missing).then(|| try_it(facts))),
    };
    match fact.value().map(|trial| trial.excerpt.trim()) {
        Some(excerpt) if !excerpt.is_empty() => finding.evidence(Evidence {
            path: "stap".to_owned(),
            value: excerpt
                .lines()
                .filter(|line| !line.trim().is_empty())
                .take(6)
                .map(str::trim)
                .collect::<Vec<_>>()
                .join("; "),
        }),
        _ => finding,
    }
}
