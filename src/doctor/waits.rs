//! Findings about what `pystap dump`, `pystap offcpu`, `pystap syscalls` and `pystap why` need beside or without an engine: the
//! memory of processes, and what the kernel's scheduler and its entry of system calls tell.

use super::agent::{Open, open};
use super::host::{capabilities, is_root, may_not_mount};
use super::uprobes::confidential;
use super::{Evidence, Finding, Fix, Part, Status};
use crate::host::{EVENTS_OF_CALLS, EVENTS_OF_WAITS, Fact, Facts};

/// Bits of capabilities, after linux/capability.h.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;

const LOCKED_DOWN: &str =
    "the kernel is locked down for confidentiality, so its events are closed to everybody";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![
        memory(facts),
        scheduler(facts),
        system_calls(facts),
        addresses(facts),
    ]
}

fn memory(facts: &Facts) -> Finding {
    let new = |status, summary| {
        Finding::new(
            Part::Waits,
            "memory",
            status,
            summary,
            "Stacks are read from the memory of processes. Without it pystap dump shows nothing, pystap offcpu and pystap syscalls \
             show no functions, and pystap why takes waits for the GIL for waits for locks.",
        )
    };
    let finding = match open(facts) {
        Open::All => new(Status::Ok, "the memory of processes may be read"),
        Open::Own => new(
            Status::Ok,
            "the memory of processes of this user may be read",
        ),
        Open::Closed(3..) => new(
            Status::Warning,
            "the memory of other processes is closed to everybody until the next boot",
        )
        .fix(Fix::by_hand(
            "Set kernel.yama.ptrace_scope to less than 3 in /etc/sysctl.d and reboot; a running kernel does not go back from 3.",
        )),
        Open::Closed(_) => new(
            Status::Warning,
            "the memory of other processes is closed to this user",
        )
        .fix(Fix::by_hand(if is_root(facts) {
            "Run pystap on the host, or start the container with `--cap-add SYS_PTRACE`."
        } else {
            "Run pystap as root."
        })),
        Open::Unknown => new(
            Status::Unknown,
            "it is not known whether the memory of other processes may be read",
        ),
    };
    finding
        .evidence(Evidence::plain(&facts.tracing.ptrace_scope))
        .evidence(Evidence::of(&facts.user.capabilities, |mask| {
            format!("effective capabilities {mask}")
        }))
}

fn scheduler(facts: &Facts) -> Finding {
    let told = Told {
        id: "scheduler",
        wanted: EVENTS_OF_WAITS,
        found: &facts.tracing.events_of_waits,
        what: "the events of the scheduler",
        tells: "which threads wait, and who wakes them",
        why: "Where threads wait is told by the kernel's scheduler, in events that tracefs describes and perf delivers. Without them \
              pystap offcpu, pystap syscalls and pystap why do not run.",
        kernel: "Boot a kernel of version 4.3 or later with CONFIG_EVENT_TRACING; every distribution's standard kernel has it.",
    };
    told.finding(facts)
}

fn system_calls(facts: &Facts) -> Finding {
    let told = Told {
        id: "system-calls",
        wanted: EVENTS_OF_CALLS,
        found: &facts.tracing.events_of_calls,
        what: "the events of system calls",
        tells: "which system calls threads make",
        why: "System calls are told by the kernel as they begin and end, in events as those of the scheduler. Without them pystap \
              syscalls does not run.",
        kernel: "Boot a kernel with CONFIG_EVENT_TRACING; every distribution's standard kernel has it.",
    };
    told.finding(facts)
}

/// What the kernel tells in events of tracefs.
struct Told<'a> {
    id: &'static str,
    wanted: [&'static str; 2],
    found: &'a Fact<Vec<String>>,
    what: &'a str,
    tells: &'a str,
    why: &'static str,
    kernel: &'static str,
}

impl Told<'_> {
    fn finding(&self, facts: &Facts) -> Finding {
        let tracing = &facts.tracing;
        let events = self.found;
        let (what, tells) = (self.what, self.tells);
        let new =
            |status, summary: &str| Finding::new(Part::Waits, self.id, status, summary, self.why);
        let may_listen = match (capabilities(facts), tracing.perf_event_paranoid.value()) {
            (_, Some(..=-1)) => Some(true),
            (Some(held), _) => Some(held & (CAP_PERFMON | CAP_SYS_ADMIN) != 0),
            (None, _) => None,
        };
        let is_mounted = tracing.tracefs.value().is_some() || tracing.debugfs.value().is_some();
        let as_root = || {
            Fix::by_hand(if is_root(facts) {
                "Run pystap on the host, or start the container with `--cap-add PERFMON`."
            } else {
                "Run pystap as root."
            })
        };
        let closed = || {
            let finding = new(Status::Warning, &format!("{what} are closed to this user"));
            finding.fix(as_root())
        };
        let unknown = || {
            let what = format!("it is not known whether the kernel tells {tells}");
            new(Status::Unknown, &what)
        };
        let finding = match (events.value(), may_listen) {
            _ if confidential(facts) => new(Status::Warning, LOCKED_DOWN).fix(unlock()),
            (Some(_), _) if !is_mounted && may_not_mount(facts) => new(
                Status::Warning,
                &format!("{what} are not to be had, because tracefs is not mounted"),
            )
            .fix(Fix::by_hand(
                "Run pystap as root on the host, which has it mounted or can mount it.",
            )),
            (Some(_), Some(true)) if !is_mounted => new(
                Status::Ok,
                &format!("{what} can be had, once tracefs is mounted"),
            ),
            (Some(found), None) if !is_mounted && found.is_empty() => unknown(),
            (Some(found), _) if found.len() < self.wanted.len() => {
                let lacking = self.wanted.into_iter();
                let lacking: Vec<&str> = lacking
                    .filter(|it| !found.iter().any(|have| have == it))
                    .collect();
                let finding = new(
                    Status::Warning,
                    &format!("the kernel has no events {}", lacking.join(" and ")),
                );
                finding.fix(Fix::by_hand(self.kernel))
            }
            (Some(_), Some(true)) => new(Status::Ok, &format!("the kernel tells {tells}")),
            (Some(_), Some(false)) => closed(),
            (None, _) if !is_root(facts) && facts.confinement.unmounted.is_empty() => closed(),
            (None, _) | (Some(_), None) => unknown(),
        };
        finding
            .evidence(Evidence::of(events, |found| match found.len() {
                0 => "none".to_owned(),
                _ => found.join(", "),
            }))
            .evidence(Evidence::plain(&tracing.perf_event_paranoid))
            .evidence(Evidence::of(&facts.user.capabilities, |mask| {
                let held = capabilities(facts).unwrap_or_default();
                let with = match held & (CAP_PERFMON | CAP_SYS_ADMIN) {
                    0 => "without",
                    _ => "with",
                };
                format!("effective capabilities {mask}, {with} CAP_PERFMON or CAP_SYS_ADMIN")
            }))
    }
}

fn addresses(facts: &Facts) -> Finding {
    let tracing = &facts.tracing;
    let new = |status, summary| {
        Finding::new(
            Part::Waits,
            "addresses",
            status,
            summary,
            "What a thread waits for is told by the kernel's functions that it waits in. Without their addresses pystap offcpu and \
             pystap why go by the system call, of waits that last until they look, and call the rest `other`.",
        )
    };
    let finding = match tracing.addresses.value() {
        Some(true) => new(
            Status::Ok,
            "the kernel tells the addresses of its functions",
        ),
        Some(false) => new(
            Status::Warning,
            "the kernel hides the addresses of its functions from this user",
        )
        .fix(match (is_root(facts), tracing.kptr_restrict.value()) {
            _ if confidential(facts) => unlock(),
            (true, Some(2..)) => Fix::new(
                "Let root see them until the next boot.",
                ["sysctl kernel.kptr_restrict=1"],
            ),
            (true, _) => Fix::by_hand(
                "Run pystap on the host, or start the container with `--cap-add SYSLOG`.",
            ),
            (false, _) => Fix::by_hand("Run pystap as root."),
        }),
        None => new(
            Status::Unknown,
            "it is not known whether the kernel tells the addresses of its functions",
        ),
    };
    finding
        .evidence(Evidence::of(&tracing.addresses, |are_told| {
            if *are_told { "addresses" } else { "zeros" }.to_owned()
        }))
        .evidence(Evidence::plain(&tracing.kptr_restrict))
}

fn unlock() -> Fix {
    Fix::by_hand("Boot with lockdown for integrity only (lockdown=integrity), or without lockdown.")
}
