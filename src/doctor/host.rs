//! Findings about the host and the user who asks.

use super::remedy::{Family, Remedies};
use super::{Engine, Evidence, Finding, Fix, Part, Status};
use crate::host::Facts;
use crate::shell;

/// The initial namespace of process ids has this name on every Linux.
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// How many packages a sentence names.
const NAMED: usize = 5;

/// Bits of capabilities, after linux/capability.h.
const CAP_SYS_MODULE: u64 = 1 << 16;

const CAP_SYS_ADMIN: u64 = 1 << 21;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![distribution(facts), architecture(facts), container(facts)];
    findings.extend(unmounted(facts));
    findings.extend(packages(facts));
    findings.push(privilege(facts));
    findings.extend(rights(facts));
    findings
}

/// Whether nothing that is installed in this place could make SystemTap run, because it is a container without a way out.
pub(super) fn is_confined(facts: &Facts) -> bool {
    container(facts).status == Status::Missing
}

/// Whether this user is root, as far as this is known.
pub(super) fn is_root(facts: &Facts) -> bool {
    facts.user.id.value() == Some(&0)
}

/// Whether this user lacks the right to mount anything.
pub(super) fn may_not_mount(facts: &Facts) -> bool {
    capabilities(facts).is_some_and(|held| held & CAP_SYS_ADMIN == 0)
}

/// A root that is none: uprobe events need the right to administer the system.
fn rights(facts: &Facts) -> Option<Finding> {
    let root = is_root(facts);
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
    let why = "Where a probe keeps its arguments depends on the processor.";
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
        (Some(manager), false, false) if confinement.pid_namespace.reason().is_some() => {
            Finding::new(
                Part::Host,
                "container",
                Status::Unknown,
                format!(
                    "this is a container ({manager}), and it is not known whether with process ids of its own"
                ),
                why,
            )
        }
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

/// A chroot that nobody has prepared, say.
fn unmounted(facts: &Facts) -> Option<Finding> {
    let places = &facts.confinement.unmounted;
    if places.is_empty() {
        return None;
    }
    let is = if places.len() == 1 { "is" } else { "are" };
    let finding = Finding::new(
        Part::Host,
        "kernel-files",
        Status::Missing,
        format!("{} {is} not mounted here", places.join(" and ")),
        "What runs, and what the kernel can do, is read from /proc and /sys; without them little is known of either.",
    )
    .stops(Engine::Stap)
    .stops(Engine::Uprobes);
    // The agent needs to find the program's files.
    let finding = match places.iter().any(|place| place == "/proc") {
        true => finding.stops(Engine::Direct),
        false => finding,
    };
    let mounts = [("/proc", "proc"), ("/sys", "sysfs")].into_iter();
    let mounts = mounts.filter(|(place, _)| places.iter().any(|it| it == place));
    let finding = places.iter().fold(finding, |finding, place| {
        finding.evidence(Evidence {
            path: place.clone(),
            value: "nothing of the kernel's".to_owned(),
        })
    });
    let mount = Fix::new(
        "Mount them, or run pystap outside of this chroot.",
        mounts.map(|(place, kind)| format!("mount -t {kind} {kind} {place}")),
    );
    Some(finding.fix(mount.or()))
}

/// The first few of some packages.
fn named(packages: &[String]) -> String {
    let (named, more) = packages.split_at(packages.len().min(NAMED));
    match more.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What keeps the commands of fixes from installing anything.
fn packages(facts: &Facts) -> Option<Finding> {
    let packages = &facts.packages;
    let manager = Remedies::for_host(facts).manager().filter(|manager| {
        let there = packages.managers.value();
        there.is_some_and(|there| !there.iter().any(|it| it == manager))
    });
    let none: &[String] = &[];
    let read_only = packages.read_only.value().map_or(none, Vec::as_slice);
    let unfinished = packages.unfinished.value().map_or(none, Vec::as_slice);
    let mut summaries = Vec::new();
    let mut fixes = Vec::new();
    if let Some(manager) = manager {
        summaries.push(format!("{manager} is not here"));
        fixes.push(Fix::by_hand(
            "Install in another way what the fixes below name, or where this system's image is made.",
        ));
    }
    if !read_only.is_empty() {
        let are = if read_only.len() == 1 { "is" } else { "are" };
        summaries.push(format!("{} {are} read-only", read_only.join(" and ")));
        // An installation that fails in its middle leaves packages half done, so a script has to stop before it.
        let writable = read_only.iter().map(|place| format!("test -w {place}"));
        fixes.push(Fix::new(
            "Mount what is read-only anew for writing (`mount -o remount,rw /`), or install where this system's image is \
             made. This shows whether it can be written to.",
            writable,
        ));
    }
    if !unfinished.is_empty() {
        summaries.push(format!("dpkg did not finish with {}", named(unfinished)));
        fixes.push(Fix::new(
            "Let dpkg finish.",
            ["dpkg --configure -a", "apt-get install -y --fix-broken"],
        ));
    }
    if summaries.is_empty() {
        return None;
    }
    let finding = Finding::new(
        Part::Host,
        "packages",
        Status::Warning,
        format!(
            "packages cannot be installed as fixes do it: {}",
            summaries.join("; ")
        ),
        "Most fixes install packages.",
    )
    .evidence(Evidence::of(&packages.managers, |there| {
        match there.as_slice() {
            [] => "no manager of packages".to_owned(),
            there => there.join(", "),
        }
    }))
    .evidence(Evidence::of(&packages.read_only, |found| {
        match found.as_slice() {
            [] => "nothing is read-only".to_owned(),
            found => format!("read-only: {}", found.join(", ")),
        }
    }))
    .evidence(Evidence::of(&packages.unfinished, |found| {
        match found.as_slice() {
            [] => "no package is half done".to_owned(),
            found => format!("not finished: {}", named(found)),
        }
    }));
    Some(finding.fixes(fixes))
}

/// The effective capabilities, where they are known.
pub(super) fn capabilities(facts: &Facts) -> Option<u64> {
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
