//! Findings about what a module is built with: the kernel's build tree and the compiler.

use super::compatibility::not_set;
use super::host::is_confined;
use super::remedy::Remedies;
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::host::Facts;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    // Where no module can be loaded, neither headers nor a compiler are needed.
    if facts.loading.modules.is_absent() || is_confined(facts) {
        return Vec::new();
    }
    let mut findings = vec![headers(facts)];
    if facts.build_tree.directory.value().is_some() {
        findings.extend([same_kernel(facts), complete(facts), same_options(facts)]);
    }
    findings.push(compiler(facts));
    findings
}

fn headers(facts: &Facts) -> Finding {
    let fact = &facts.build_tree.directory;
    let why = "A module is compiled against the headers of the very kernel that runs.";
    let release = facts
        .kernel
        .release
        .value()
        .map_or("the running kernel", String::as_str);
    let finding = match fact.value() {
        Some(_) => Finding::ok(
            Part::Building,
            "headers",
            format!("headers of {release} are installed"),
            why,
        ),
        None if fact.is_absent() => {
            let others: Vec<&str> = facts
                .kernel
                .installed
                .value()
                .map(|installed| {
                    installed
                        .iter()
                        .map(String::as_str)
                        .filter(|other| *other != release)
                        .collect()
                })
                .unwrap_or_default();
            let finding = Finding::new(
                Part::Building,
                "headers",
                Status::Missing,
                format!("headers of {release} are not installed"),
                why,
            )
            .stops(Engine::Stap)
            .fix(Remedies::for_host(facts).headers());
            if others.is_empty() {
                finding
            } else {
                finding.fix(Fix::by_hand(format!(
                    "Where the package is no longer to be had, boot the other kernel that is installed ({}), and \
                     install its headers.",
                    others.join(", ")
                )))
            }
        }
        None => Finding::new(
            Part::Building,
            "headers",
            Status::Unknown,
            format!("it is not known whether headers of {release} are installed"),
            why,
        ),
    };
    finding.evidence(Evidence::plain(fact))
}

/// The common part of the tree's `UTS_VERSION` and `/proc/version`: everything from the `#` on.
fn build_number(text: &str) -> Option<&str> {
    text.find('#').and_then(|at| text.get(at..)).map(str::trim)
}

fn same_kernel(facts: &Facts) -> Finding {
    let tree = &facts.build_tree;
    let why = "A module compares the kernel that it was compiled for with the one that runs, and refuses another build.";
    let release = facts.kernel.release.value();
    let other_release = match (tree.release.value(), release) {
        (Some(theirs), Some(ours)) => (theirs != ours).then(|| theirs.clone()),
        _ => None,
    };
    let running = facts
        .kernel
        .version
        .value()
        .and_then(|text| build_number(text));
    let other_build = match (tree.uts_version.value(), running) {
        (Some(theirs), Some(ours)) => !ours.starts_with(theirs.as_str()),
        _ => false,
    };
    let mismatch = |summary: String| {
        Finding::new(Part::Building, "headers-match", Status::Missing, summary, why)
            .stops(Engine::Stap)
            .fix(Remedies::for_host(facts).headers())
            .fix(Fix::by_hand(
                "Where the headers are newer than the running kernel, which an upgrade without a reboot leaves behind, \
                 reboot.",
            ))
    };
    let finding = if let Some(other) = other_release {
        mismatch(format!("the build tree is of {other}, another kernel"))
    } else if other_build {
        mismatch("the build tree is of another build of this release".to_owned())
    } else if tree.release.value().is_none() {
        Finding::new(
            Part::Building,
            "headers-match",
            Status::Unknown,
            "it is not known which kernel the build tree is of",
            why,
        )
    } else {
        Finding::ok(
            Part::Building,
            "headers-match",
            "the headers are those of the running kernel",
            why,
        )
    };
    finding
        .evidence(Evidence::plain(&tree.release))
        .evidence(Evidence::plain(&tree.uts_version))
        .evidence(Evidence::of(&facts.kernel.version, |text| {
            build_number(text).unwrap_or(text).to_owned()
        }))
}

fn complete(facts: &Facts) -> Finding {
    let tree = &facts.build_tree;
    let why =
        "stap reads .config and Module.symvers, and kbuild runs the Makefile and its own programs.";
    let mut lacking: Vec<String> = Vec::new();
    if tree.config.is_absent() {
        lacking.push(".config".to_owned());
    }
    if tree.symvers.is_absent() {
        lacking.push("Module.symvers".to_owned());
    }
    if tree.makefile.is_absent() {
        lacking.push("Makefile".to_owned());
    }
    lacking.extend(tree.missing_programs.value().cloned().unwrap_or_default());
    let finding = if !lacking.is_empty() {
        Finding::new(
            Part::Building,
            "headers-complete",
            Status::Missing,
            format!("the build tree lacks {}", lacking.join(", ")),
            why,
        )
        .stops(Engine::Stap)
        .fix(Remedies::for_host(facts).headers())
    } else if let Some(reason) = tree
        .config
        .reason()
        .or(tree.symvers.reason())
        .or(tree.makefile.reason())
    {
        Finding::new(
            Part::Building,
            "headers-complete",
            Status::Unknown,
            format!("it is not known whether the build tree is complete: {reason}"),
            why,
        )
    } else {
        Finding::ok(
            Part::Building,
            "headers-complete",
            "the build tree is complete",
            why,
        )
    };
    finding
        .evidence(Evidence::of(&tree.config, |_| "there".to_owned()))
        .evidence(Evidence::of(&tree.symvers, |size| format!("{size} bytes")))
        .evidence(Evidence::of(&tree.makefile, |_| "there".to_owned()))
        .evidence(Evidence::of(&tree.missing_programs, |missing| {
            if missing.is_empty() {
                "programs of kbuild are there".to_owned()
            } else {
                format!("without {}", missing.join(", "))
            }
        }))
}

/// Options that show, if they differ between the running kernel and the tree, that the two do not belong together.
const COMPARED: [&str; 5] = [
    "CONFIG_MODULE_SIG",
    "CONFIG_MODULE_UNLOAD",
    "CONFIG_PREEMPT_RT",
    "CONFIG_TRACEPOINTS",
    "CONFIG_UPROBES",
];

fn same_options(facts: &Facts) -> Finding {
    let why = "stap decides by the build tree's configuration what the running kernel can do.";
    let (live, tree) = (&facts.kernel.config, &facts.build_tree.config);
    let differing: Option<Vec<&str>> = live.value().zip(tree.value()).map(|(live, tree)| {
        COMPARED
            .into_iter()
            .filter(|option| live.get(*option) != tree.get(*option))
            .collect()
    });
    let without = tree
        .value()
        .map(|config| not_set(config, &["CONFIG_TRACEPOINTS", "CONFIG_UPROBES"]))
        .unwrap_or_default();
    let finding = match differing {
        _ if !without.is_empty() => Finding::new(
            Part::Building,
            "headers-options",
            Status::Missing,
            format!(
                "the build tree is configured without {}",
                without.join(", ")
            ),
            why,
        )
        .stops(Engine::Stap)
        .fix(Remedies::for_host(facts).headers()),
        Some(differing) if differing.is_empty() => Finding::ok(
            Part::Building,
            "headers-options",
            "the build tree is configured as the running kernel is",
            why,
        ),
        Some(differing) => Finding::new(
            Part::Building,
            "headers-options",
            Status::Warning,
            format!(
                "the build tree and the running kernel differ in {}",
                differing.join(", ")
            ),
            why,
        )
        .fix(Remedies::for_host(facts).headers()),
        None => Finding::new(
            Part::Building,
            "headers-options",
            Status::Unknown,
            "the configurations of kernel and build tree could not be compared",
            why,
        ),
    };
    let show = |config: &std::collections::BTreeMap<String, String>| {
        COMPARED
            .iter()
            .map(|option| {
                let value = config.get(*option).map_or("n", String::as_str);
                format!("{}={value}", option.trim_start_matches("CONFIG_"))
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    finding
        .evidence(Evidence::of(live, show))
        .evidence(Evidence::of(tree, show))
}

fn compiler(facts: &Facts) -> Finding {
    let tools = &facts.tools;
    let why = "stap hands the module to kbuild, which runs make and the compiler that the kernel was built with.";
    let config = facts
        .build_tree
        .config
        .value()
        .or(facts.kernel.config.value());
    let clang = config
        .and_then(|config| config.get("CONFIG_CC_IS_CLANG"))
        .is_some_and(|value| value == "y");
    let wanted = facts.build_tree.compiler.value();
    let remedies = Remedies::for_host(facts);
    let built_with = config
        .and_then(|config| config.get("CONFIG_CC_VERSION_TEXT"))
        .filter(|text| *text != "n");
    let missing = |what: String, name: Option<&str>| {
        Finding::new(Part::Building, "compiler", Status::Missing, what, why)
            .stops(Engine::Stap)
            .fix(remedies.compiler(name))
    };
    let finding = if tools.make.is_absent() {
        missing(
            "make is not installed".to_owned(),
            wanted.map(String::as_str),
        )
    } else if clang {
        if tools.clang.value().is_some() {
            Finding::new(
                Part::Building,
                "compiler",
                Status::Warning,
                "the kernel was built with clang, which stap does not choose by itself",
                why,
            )
            .fix(Fix::by_hand(
                "Tell kbuild: `pystap trace --stap-arg -B --stap-arg LLVM=1 -p PID`.",
            ))
        } else {
            missing(
                "the kernel was built with clang, which is not installed".to_owned(),
                Some("clang"),
            )
        }
    } else if let (Some(name), None) = (wanted, tools.wanted.value()) {
        missing(
            format!("the build tree asks for {name}, which is not installed"),
            Some(name),
        )
    } else if tools.gcc.is_absent() && wanted.is_none() {
        missing("gcc is not installed".to_owned(), None)
    } else if tools.gcc.value().is_none() && tools.wanted.value().is_none() {
        Finding::new(
            Part::Building,
            "compiler",
            Status::Unknown,
            "it is not known whether there is a compiler",
            why,
        )
    } else {
        let which = tools
            .wanted
            .value()
            .or(tools.gcc.value().map(|gcc| &gcc.real))
            .map_or("gcc", String::as_str);
        Finding::ok(
            Part::Building,
            "compiler",
            format!("make and {which} are installed"),
            why,
        )
    };
    let finding = finding
        .evidence(Evidence::plain(&tools.make))
        .evidence(Evidence::of(&tools.gcc, |gcc| {
            if gcc.path == gcc.real {
                gcc.path.clone()
            } else {
                format!("{} leads to {}", gcc.path, gcc.real)
            }
        }));
    let finding = match wanted {
        Some(_) => finding.evidence(Evidence::plain(&facts.build_tree.compiler)),
        None => finding,
    };
    match built_with {
        Some(text) => finding.evidence(Evidence {
            path: "CONFIG_CC_VERSION_TEXT".to_owned(),
            value: text.clone(),
        }),
        None => finding,
    }
}
