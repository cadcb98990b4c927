//! Findings about interpreters: whether they have probes, what these do in that version, how they were built, and the ways
//! forward. What a probe does in a version is [`crate::python::marks`]'s knowledge.

use std::path::Path;

use super::agent::{is_kept_out, offer};
use super::debug::contents;
use super::host::is_root;
use super::remedy::{Family, Remedies};
use super::{Evidence, Finding, Fix, Part, Status};
use crate::agent;
use crate::host::{Facts, Python};
use crate::probe::Probe;
use crate::python::marks::{self, behaviour};
use crate::python::name::is_interpreter_command;
use crate::shell;

const ENTRY: &str = Probe::FunctionEntry.name();
const RETURN: &str = Probe::FunctionReturn.name();

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if facts.pythons.is_empty() {
        let no_process_is_seen = facts.confinement.unmounted.iter().any(|it| it == "/proc");
        return vec![
            Finding::new(
                Part::Python,
                "interpreters",
                Status::Unknown,
                match no_process_is_seen {
                    true => "no process can be seen without /proc, so no interpreter was examined",
                    false => "no Python process runs, so no interpreter was examined",
                },
                "What can be traced depends on the interpreter.",
            )
            .fix(Fix::new("Name one.", ["pystap doctor --python /usr/bin/python3"]).or()),
        ];
    }
    facts
        .pythons
        .iter()
        .flat_map(|python| of_one(facts, python))
        .collect()
}

fn of_one(facts: &Facts, python: &Python) -> Vec<Finding> {
    let mut findings = vec![has_marks(facts, python)];
    findings.extend(calls(facts, python));
    findings.extend(replaced(python));
    findings.extend(elsewhere(python));
    findings.extend(jit(python));
    findings.extend(undecodable(python));
    findings.extend(remote_debug(facts, python));
    findings.push(debug(facts, python));
    findings
}

/// How an interpreter is spoken of.
pub(super) fn name(python: &Python) -> String {
    match python.version.value() {
        Some(version) => format!("Python {version} ({})", python.path),
        None => python.path.clone(),
    }
}

fn where_marks_are(python: &Python) -> &'static str {
    if python.kind == "library" {
        "in the library"
    } else {
        "in the executable"
    }
}

fn has_marks(facts: &Facts, python: &Python) -> Finding {
    let why = "An interpreter that was built with probes (`configure --with-dtrace`) can be traced as it is, others through pystap's agent.";
    let new = |status, summary: String| {
        Finding::new(Part::Python, "marks", status, summary, why).about(&python.path)
    };
    let finding = match python.marks.value() {
        Some(marks) if !marks.is_empty() => new(
            Status::Ok,
            format!(
                "{} has {} probes {}",
                name(python),
                marks.len(),
                where_marks_are(python)
            ),
        ),
        Some(_) => {
            let stripped = python.configured_with_dtrace.value() == Some(&true);
            let summary = if stripped {
                format!(
                    "{} was built with probes, but they are not in the file any more",
                    name(python)
                )
            } else {
                format!("{} was built without probes", name(python))
            };
            let by_agent = by_agent(facts, python);
            let easier = by_agent.is_some();
            match by_agent {
                None => new(Status::Missing, summary),
                Some(fix) => new(Status::Warning, summary).fix(fix),
            }
            .fixes(stripped.then(|| {
                Fix::by_hand(
                    "Put the file back as it was built: llvm-strip and strip --strip-section-headers take the notes away \
                     that name the probes; GNU strip by itself keeps them.",
                )
                .or()
            }))
            .fixes(Remedies::for_host(facts).python_with_marks(python.language(), false, easier))
        }
        None => new(
            Status::Unknown,
            format!("it is not known whether {} has probes", name(python)),
        ),
    };
    finding
        .evidence(Evidence::of(&python.marks, |marks| {
            if marks.is_empty() {
                "no probes of provider python".to_owned()
            } else {
                marks.join(" ")
            }
        }))
        .evidence(Evidence::of(&python.build_id, |id| {
            format!("build id {id}")
        }))
        .evidence(Evidence::of(&python.configured_with_dtrace, |with| {
            if *with {
                "configured with --with-dtrace"
            } else {
                "configured without --with-dtrace"
            }
            .to_owned()
        }))
}

/// Calls and returns are what most people come for, so what a version cannot do about them is said aloud.
fn calls(facts: &Facts, python: &Python) -> Option<Finding> {
    let marks = python.marks.value().filter(|marks| !marks.is_empty())?;
    let version = python.language()?;
    let entry = behaviour(version, ENTRY);
    let why = "Calls and returns are what pystap traces unless it is told otherwise.";
    let new = |status, summary: String| {
        Finding::new(Part::Python, "calls", status, summary, why)
            .about(&python.path)
            .evidence(Evidence::plain(&python.version))
    };
    if !marks.iter().any(|mark| mark == ENTRY) {
        let expected = marks::expected(version).contains(&ENTRY);
        let reason = if expected {
            "its function probes are not there, although this version has them".to_owned()
        } else {
            entry.sentence.trim_end_matches('.').to_owned()
        };
        let by_agent = by_agent(facts, python);
        let easier = by_agent.is_some();
        return Some(
            new(
                Status::Warning,
                match &by_agent {
                    Some(_) => format!(
                        "{} shows calls only through pystap's agent: {reason}",
                        name(python)
                    ),
                    None => format!("{} cannot show calls: {reason}", name(python)),
                },
            )
            .fixes(by_agent)
            .fix(
                Fix::new(
                    "Trace what it has.",
                    [format!(
                        "pystap trace --events gc,import,audit {}",
                        target(python)
                    )],
                )
                .or(),
            )
            .fixes(Remedies::for_host(facts).python_with_marks(Some(version), true, easier)),
        );
    }
    match entry.status {
        marks::Status::Complete => None,
        marks::Status::Useless => Some(
            new(
                Status::Warning,
                format!(
                    "{} reports returns but hardly any calls through SystemTap",
                    name(python)
                ),
            )
            .evidence(Evidence {
                path: "known of this version".to_owned(),
                value: entry.sentence.to_owned(),
            })
            .fix(match by_agent(facts, python) {
                Some(fix) if !is_root(facts) => fix,
                _ => Fix::new(
                    "Trace it through uprobe events, which can raise the semaphore that makes calls complete.",
                    [format!("pystap trace --engine uprobes {}", target(python))],
                )
                .or(),
            }),
        ),
        _ => Some(
            new(
                Status::Warning,
                format!("{} reports calls with quirks", name(python)),
            )
            .evidence(Evidence {
                path: ENTRY.to_owned(),
                value: entry.sentence.to_owned(),
            })
            .evidence(Evidence {
                path: RETURN.to_owned(),
                value: behaviour(version, RETURN).sentence.to_owned(),
            }),
        ),
    }
}

/// The way through the agent, where there is one.
fn by_agent(facts: &Facts, python: &Python) -> Option<Fix> {
    let offer = offer(facts, python.language()?)?;
    let first = if offer.contains("agent install") {
        let interpreter = python.started_as.as_ref().unwrap_or(&python.path);
        if let Some(pid) = python.pids.first()
            && !is_interpreter_command(Path::new(interpreter))
        {
            // A program that embeds Python cannot be asked where its packages are.
            if is_kept_out(facts) {
                return Some(
                    Fix::new(
                        "Least effort: calls, returns and collections come through pystap's agent in commands that pystap \
                         launches.",
                        ["pystap trace -- COMMAND"],
                    )
                    .or(),
                );
            }
            return Some(
                Fix::new(
                    "Least effort: calls, returns and collections come through pystap's agent, which is put into the \
                     running program.",
                    [format!("pystap trace --inject ptrace -p {pid}")],
                )
                .or(),
            );
        }
        format!("pystap agent install --python {}", shell::path(interpreter))
    } else {
        format!("pystap trace {}", target(python))
    };
    Some(
        Fix::new(
            format!("Least effort: calls, returns and collections come {offer}."),
            [first],
        )
        .or(),
    )
}

/// How to name this interpreter's processes on a command line.
fn target(python: &Python) -> String {
    match python.pids.first() {
        Some(pid) => format!("-p {pid}"),
        None => format!("--python {}", shell::path(&python.path)),
    }
}

fn list(pids: &[u32]) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<String> = pids.iter().take(SHOWN).map(ToString::to_string).collect();
    if pids.len() > SHOWN {
        text.push(format!("and {} more", pids.len() - SHOWN));
    }
    text.join(" ")
}

fn replaced(python: &Python) -> Option<Finding> {
    python.replaced.then(|| {
        Finding::new(
            Part::Python,
            "replaced",
            Status::Missing,
            format!(
                "{} was replaced on disk while processes run the old file",
                python.path
            ),
            "A probe is placed in the file that is there now, which these processes do not run.",
        )
        .about(&python.path)
        .evidence(Evidence {
            path: "processes".to_owned(),
            value: list(&python.pids),
        })
        .fix(Fix::by_hand("Restart these processes."))
    })
}

fn elsewhere(python: &Python) -> Option<Finding> {
    python.elsewhere.then(|| {
        Finding::new(
            Part::Python,
            "mounts",
            Status::Warning,
            format!("processes run {} in a container, with mounts of its own", python.path),
            "SystemTap cannot switch the probes on in a file that only the container sees; uprobe events can.",
        )
        .about(&python.path)
        .evidence(Evidence {
            path: "processes".to_owned(),
            value: list(&python.pids),
        })
        .fix(Fix::new(
            "Trace them from the host through uprobe events.",
            [format!("pystap trace --engine uprobes {}", target(python))],
        ).or())
    })
}

fn jit(python: &Python) -> Option<Finding> {
    let on = python.jit.value() == Some(&true);
    let concerned = python.language().is_some_and(|version| version >= (3, 15));
    (on && concerned).then(|| {
        Finding::new(
            Part::Python,
            "jit",
            Status::Warning,
            format!("a process of {} runs with the experimental JIT", python.path),
            "Code that the JIT has compiled fires no function probes, so its calls are missing from a trace.",
        )
        .about(&python.path)
        .evidence(Evidence::of(&python.jit, |_| "PYTHON_JIT is set".to_owned()))
        .fix(Fix::by_hand(
            "Start the program without PYTHON_JIT for the time of the trace.",
        ))
    })
}

/// A switch against debuggers keeps the agent out of running processes; one that is misspelt keeps out nobody.
fn remote_debug(facts: &Facts, python: &Python) -> Option<Finding> {
    let found = python.remote_debug.as_ref()?;
    let has_calls = || {
        let marks = python.marks.value();
        marks.is_some_and(|marks| marks.iter().any(|mark| mark == ENTRY))
    };
    if python.language()? < agent::REMOTE || (!found.ignored && has_calls()) {
        return None;
    }
    let (pid, switch) = (found.pid, &found.switch);
    let new = |summary, why: &str| {
        Finding::new(Part::Python, "remote-debug", Status::Warning, summary, why)
            .about(&python.path)
            .evidence(Evidence {
                path: format!("process {pid}"),
                value: switch.clone(),
            })
    };
    Some(if found.ignored {
        new(
            format!("process {pid} was started with {switch}, which {} ignores", name(python)),
            "Debuggers and pystap's agent can come into it (PEP 768), although somebody meant to keep them out. CPython's \
             how-to spells the option so; 3.14.8 and 3.15.0 know it with hyphens only.",
        )
        .fix(Fix::by_hand(
            "To keep them out, start the program with -X disable-remote-debug, or with PYTHON_DISABLE_REMOTE_DEBUG=1 in \
             its environment.",
        ))
    } else {
        new(
            format!("process {pid} lets no debugger in while it runs, because of {switch}"),
            "pystap's agent comes into a running process of this version by remote debugging (PEP 768).",
        )
        .fixes((!is_kept_out(facts)).then(|| {
            Fix::new(
                "Put the agent in by another way.",
                [format!("pystap trace --inject ptrace -p {pid}")],
            )
            .or()
        }))
        .fix(Fix::by_hand("Restart the program without that switch."))
    })
}

fn undecodable(python: &Python) -> Option<Finding> {
    let found = python.undecodable.as_ref()?;
    Some(
        Finding::new(
            Part::Python,
            "paths",
            Status::Warning,
            format!(
                "process {} has a path that is not UTF-8, on which {} fails once its function probes are armed",
                found.pid,
                name(python)
            ),
            "CPython up to 3.11 forgets the exception when such a file name cannot be written as UTF-8 for a probe, and the \
             program ends with SystemError. pystap looks before it arms them; collections do no harm.",
        )
        .about(&python.path)
        .evidence(Evidence {
            path: format!("process {}", found.pid),
            value: found.sign.clone(),
        })
        .fix(Fix::new(
            "Trace calls through pystap's agent, which does no harm.",
            [format!("pystap trace --agent -p {}", found.pid)],
        ).or()),
    )
}

fn debug(facts: &Facts, python: &Python) -> Finding {
    let fact = &python.debug;
    let why = "Probes do not need it; stap only asks for it when a probe's operand is in a form that it does not know.";
    let finding = match (fact.value(), fact.reason()) {
        (Some(debug), _) => match &debug.unresolved {
            None => Finding::ok(
                Part::Python,
                "python-debug",
                format!(
                    "debug information of {} is installed and works",
                    python.path
                ),
                why,
            ),
            Some(_) => Finding::new(
                Part::Python,
                "python-debug",
                Status::Warning,
                format!("debug information of {} resolves nothing", python.path),
                why,
            ),
        },
        (None, None) => {
            let finding = Finding::ok(
                Part::Python,
                "python-debug",
                format!(
                    "debug information of {} is not installed, and not needed",
                    python.path
                ),
                why,
            );
            match python.language() {
                Some(version) if Remedies::for_host(facts).family != Family::Other => {
                    finding.fix(Remedies::for_host(facts).python_debug(&python.path, version))
                }
                _ => finding,
            }
        }
        (None, Some(_)) => Finding::new(
            Part::Python,
            "python-debug",
            Status::Unknown,
            format!("debug information of {} cannot be used", python.path),
            why,
        ),
    };
    finding
        .about(&python.path)
        .evidence(Evidence::of(fact, contents))
}
