//! Findings about the kernel's debug information: whether there is any, whether it is this kernel's, and whether it can
//! be used. USDT probes do not need it, and the findings say so.

use super::host::is_confined;
use super::remedy::Remedies;
use super::{Evidence, Finding, Fix, Part, Status};
use crate::elf::{Compression, DebugInformation};
use crate::host::{Fact, Facts, Vmlinux};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    // Without modules nothing could use it.
    if facts.loading.modules.is_absent() || is_confined(facts) {
        return Vec::new();
    }
    vec![vmlinux(facts), system_map(facts)]
}

/// The status when debug information is missing, and a sentence saying who would need it.
fn need(facts: &Facts) -> (Status, String) {
    if facts.kernel_templates.is_empty() {
        (
            Status::Ok,
            "No template needs it: marks are found without; only templates of your own with probes like \
             kernel.function or module().function would."
                .to_owned(),
        )
    } else {
        (
            Status::Warning,
            format!(
                "These templates probe the kernel itself and need it: {}; marks do not.",
                facts.kernel_templates.join(", ")
            ),
        )
    }
}

fn vmlinux(facts: &Facts) -> Finding {
    let symbols = &facts.symbols;
    let (absent, why) = need(facts);
    let running = facts.kernel.build_id.value();
    let new = |status, summary: String| {
        Finding::new(Part::Debug, "vmlinux", status, summary, why.clone())
    };
    let usable = symbols.vmlinux.iter().find_map(|file| file.debug.value());
    let finding = match usable {
        Some(debug) if debug.resolved.is_some() => new(
            Status::Ok,
            "the kernel's debug information is installed and works".to_owned(),
        ),
        Some(_) => new(
            Status::Warning,
            "the kernel's debug information resolves nothing".to_owned(),
        )
        .fixes(obtain(facts)),
        None => match symbols.vmlinux.first() {
            None => new(
                absent,
                if absent == Status::Ok {
                    "the kernel's debug information is not installed, and not needed".to_owned()
                } else {
                    "the kernel's debug information is not installed".to_owned()
                },
            )
            .fixes(obtain(facts)),
            Some(file) => new(
                Status::Warning,
                if is_of_another(file, running) {
                    "the debug information that is there is of another build of the kernel"
                        .to_owned()
                } else {
                    "the kernel's debug information cannot be used".to_owned()
                },
            )
            .fixes(obtain(facts)),
        },
    };
    let finding = finding.evidence(Evidence::of(&facts.kernel.build_id, |id| {
        format!("build id {id}")
    }));
    let finding = symbols.vmlinux.iter().fold(finding, |finding, file| {
        finding.evidence(of_file(file, running))
    });
    finding.evidence(Evidence::plain(&symbols.servers))
}

/// How to get it. Gigabytes that nothing needs are for a person to choose.
fn obtain(facts: &Facts) -> Vec<Fix> {
    let fixes = Remedies::for_host(facts).debug_information();
    if facts.kernel_templates.is_empty() {
        fixes.into_iter().map(Fix::or).collect()
    } else {
        fixes
    }
}

/// Whether a file belongs to another build than the one that runs.
fn is_of_another(file: &Vmlinux, running: Option<&String>) -> bool {
    matches!((file.build_id.value(), running), (Some(found), Some(running)) if found != running)
}

/// The file and what was found in it: what is wrong with it stands here and nowhere else in the finding.
fn of_file(file: &Vmlinux, running: Option<&String>) -> Evidence {
    let id = match (file.build_id.value(), file.build_id.reason()) {
        (Some(id), _) => format!("build id {id}"),
        (None, Some(reason)) => reason.to_owned(),
        (None, None) => "no build id".to_owned(),
    };
    let debug = match (file.debug.value(), file.debug.reason()) {
        (Some(debug), _) => contents(debug),
        (None, reason) => reason.unwrap_or("no debug information").to_owned(),
    };
    Evidence {
        path: file.path.clone(),
        // Of another build, it was not opened: its id says why. What has no id for want of headers has no contents either.
        value: if id == debug || (is_of_another(file, running) && file.debug.value().is_none()) {
            id
        } else {
            format!("{id}; {debug}")
        },
    }
}

/// What debug information contains, and the proof that it works.
pub(super) fn contents(debug: &DebugInformation) -> String {
    let versions: Vec<String> = debug.versions.iter().map(ToString::to_string).collect();
    let compression = match debug.compression {
        Compression::None => "",
        Compression::Zlib => ", compressed (zlib)",
        Compression::Zstd => ", compressed (zstd)",
        Compression::GnuZlib => ", compressed (older GNU form)",
    };
    let proof = match (&debug.resolved, &debug.unresolved) {
        (Some(found), _) => format!("{} is at {}:{}", found.function, found.file, found.line),
        (None, Some(reason)) => reason.clone(),
        (None, None) => "nothing was looked up".to_owned(),
    };
    let supplement = match &debug.supplement {
        Some(supplement) => match &supplement.found {
            Some(found) => format!(", shared part in {}", found.display()),
            None => format!(", shared part {} is not there", supplement.name),
        },
        None => String::new(),
    };
    format!(
        "{} units of DWARF {}{compression}{supplement}; {proof}",
        debug.units,
        versions.join(", ")
    )
}

fn system_map(facts: &Facts) -> Finding {
    let fact: &Fact<u64> = &facts.symbols.system_map;
    let why = "stap looks for a symbol table and warns when there is none; probes at marks do not need it.";
    let summary = match fact.value() {
        Some(0) => "System.map is a stub, which stap warns of and marks do not need",
        Some(_) => "System.map lists the kernel's functions",
        None => {
            "there is no System.map that can be read, which stap warns of and marks do not need"
        }
    };
    Finding::ok(Part::Debug, "system-map", summary, why)
        .evidence(Evidence::of(fact, |count| format!("{count} functions")))
}
