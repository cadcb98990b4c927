//! Findings about pystap's agent, by which the engine `direct` traces and which brings probes to interpreters without: what it
//! takes to hear of it, and what keeps it out of running processes.

use super::compatibility::{numbers, true_version};
use super::host::{capabilities, is_root};
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::agent;
use crate::host::Facts;
use crate::python::name::is_interpreter_command;
use crate::shell;

/// Bit of the capability, after linux/capability.h.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// The Linux that has everything that a ring takes: `pidfd_open(2)` came last.
const FIRST: [u32; 2] = [5, 3];

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![rings(facts), ptrace(facts)]
}

fn rings(facts: &Facts) -> Finding {
    let fact = &facts.tracing.rings;
    let why = "The agent tells its events through sealed memory that it shares with pystap, which learns from the kernel when a \
               process ends; that needs no rights.";
    let new = |status, summary: String| Finding::new(Part::Agent, "rings", status, summary, why);
    let missing = |summary| new(Status::Missing, summary).stops(Engine::Direct);
    let version = true_version(facts);
    let finding = match (fact.value().map(|rings| &rings.refused), &version) {
        (Some(None), _) => new(
            Status::Ok,
            "the agent can tell its events through shared memory".to_owned(),
        ),
        (Some(Some(_)), Some((version, _))) if numbers(version) < FIRST.into() => missing(format!(
            "kernel {version} cannot share memory with the agent as pystap does it"
        ))
        .fix(Fix::by_hand("Boot a kernel of version 5.3 or later.")),
        (Some(Some(_)), _) => missing(
            "the kernel refuses the system calls by which pystap shares memory with the agent"
                .to_owned(),
        )
        .fix(Fix::by_hand(
            "In a container, take a filter of system calls (seccomp) that lets memfd_create and pidfd_open through, as those of \
             Docker and Podman do; where vm.memfd_noexec is 2, which some kernels take for a ban, set it to 1.",
        )),
        (None, Some((version, _))) if numbers(version) >= FIRST.into() => new(
            Status::Ok,
            "the kernel is new enough to share memory with the agent".to_owned(),
        ),
        // Kernels of enterprise distributions are older than what is in them.
        (None, _) => new(
            Status::Unknown,
            "it is not known whether the agent can tell its events through shared memory".to_owned(),
        ),
    };
    let finding = finding.evidence(Evidence::of(fact, |rings| match &rings.refused {
        None => "allowed".to_owned(),
        Some(reason) => format!("refused: {reason}"),
    }));
    match version {
        Some((version, from)) if fact.value().is_none_or(|rings| rings.refused.is_some()) => {
            finding.evidence(Evidence {
                path: from,
                value: version,
            })
        }
        _ => finding,
    }
}

/// Who may stop a running process, which is how an agent comes into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// All processes are open.
    All,
    /// Those of this user.
    Own,
    /// None is, and these settings of Yama say so.
    Closed(i64),
    /// It depends on what is not known.
    Unknown,
}

pub(super) fn open(facts: &Facts) -> Open {
    let scope = &facts.tracing.ptrace_scope;
    let may_all = capabilities(facts).map(|held| held & CAP_SYS_PTRACE != 0);
    // Without Yama the kernel decides as with 0: by the user and the capabilities of both.
    let scope = match scope.value() {
        Some(scope) => Some((*scope).max(0)),
        None => scope.is_absent().then_some(0),
    };
    match (scope, may_all) {
        (Some(scope @ 3..), _) => Open::Closed(scope),
        (Some(_), Some(true)) => Open::All,
        (Some(0), _) => Open::Own,
        (Some(scope), Some(false)) => Open::Closed(scope),
        (Some(_), None) | (None, _) => Open::Unknown,
    }
}

/// Whether running processes are closed to agents, as far as this is known.
pub(super) fn is_kept_out(facts: &Facts) -> bool {
    matches!(open(facts), Open::Closed(_))
}

/// What the agent can provide here in an interpreter of this version, as a clause that says what it takes.
pub(super) fn offer(facts: &Facts, version: (u8, u8)) -> Option<&'static str> {
    let offered = agent::offer(version)?;
    // Then it is with all versions as with those that let nobody in while they run.
    if is_kept_out(facts) {
        return agent::offer(agent::OLDEST);
    }
    Some(offered)
}

fn ptrace(facts: &Facts) -> Finding {
    let scope = &facts.tracing.ptrace_scope;
    let new = |status, summary| {
        Finding::new(
            Part::Agent,
            "ptrace",
            status,
            summary,
            "To let an agent into a process that runs already, pystap stops it for a moment: from Python 3.14 on by itself, \
             before that with --inject ptrace. It need not where it launches a command, or where an agent waits.",
        )
    };
    let finding = match open(facts) {
        Open::All => new(Status::Ok, "the agent may come into processes that run already"),
        Open::Own => new(
            Status::Ok,
            "the agent may come into processes of this user that run already",
        ),
        Open::Closed(3..) => new(
            Status::Warning,
            "processes that run already are closed to every agent, root's included, unless one waits in them",
        )
        .fixes(ways_around(facts))
        .fix(
            Fix::by_hand(
                "Set kernel.yama.ptrace_scope to less than 3 in /etc/sysctl.d and reboot; a running kernel does not go back \
                 from 3.",
            )
            .or(),
        ),
        Open::Closed(_) => new(
            Status::Warning,
            "processes that run already are closed to this user's agent, unless one waits in them",
        )
        .fixes(ways_around(facts))
        .fix(with_rights(facts))
        .fix(
            Fix::new(
                "Let every program stop the others of its user, as before Yama, until the next boot; that holds for all users \
                 and debuggers.",
                ["sysctl kernel.yama.ptrace_scope=0"],
            )
            .or(),
        ),
        Open::Unknown => new(
            Status::Unknown,
            "it is not known whether the agent may come into processes that run already",
        ),
    };
    finding
        .evidence(Evidence::of(scope, |scope| {
            let means = match scope {
                ..=0 => "programs may stop others of their user",
                1 => "programs may stop what they have started themselves",
                2 => "only programs with CAP_SYS_PTRACE may stop others",
                3.. => "nobody may stop others until the next boot",
            };
            format!("{scope}: {means}")
        }))
        .evidence(Evidence::of(&facts.user.capabilities, |mask| {
            let held = capabilities(facts).is_some_and(|held| held & CAP_SYS_PTRACE != 0);
            let with = if held { "with" } else { "without" };
            format!("effective capabilities {mask}, {with} CAP_SYS_PTRACE")
        }))
}

/// What needs nothing of the kernel.
fn ways_around(facts: &Facts) -> [Fix; 2] {
    const SHOWN: usize = 4;
    let takes_one = facts.pythons.iter().filter_map(|python| {
        let interpreter = python.started_as.as_ref().unwrap_or(&python.path);
        agent::offer(python.language()?)?;
        is_interpreter_command(interpreter.as_ref()).then(|| shell::path(interpreter))
    });
    let mut interpreters: Vec<String> = takes_one.map(|it| it.to_string()).collect();
    interpreters.dedup();
    interpreters.truncate(SHOWN);
    if interpreters.is_empty() {
        interpreters.push("PYTHON".to_owned());
    }
    [
        Fix::new(
            "Launch the program under pystap.",
            ["pystap top -- COMMAND"],
        )
        .or(),
        Fix::new(
            "Let an agent wait in the programs of an interpreter, and restart them once.",
            interpreters
                .iter()
                .map(|python| format!("pystap agent install --python {python}")),
        )
        .or(),
    ]
}

/// How to get the right to stop processes, where Yama leaves it to those who have it.
fn with_rights(facts: &Facts) -> Fix {
    Fix::by_hand(if is_root(facts) {
        "Run pystap on the host, or start the container with `--cap-add SYS_PTRACE`."
    } else {
        "Run pystap as root."
    })
    .or()
}
