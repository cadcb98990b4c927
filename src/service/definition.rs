//! What a service is, and how its processes are recognised.

use std::fmt;

use regex::Regex;

use super::{Seen, Why};
use crate::script::filter::Glob;

/// A named set of processes.
#[derive(Debug, Clone)]
pub struct Service {
    /// What it is called.
    pub name: String,
    /// Names of programs.
    pub(super) programs: Vec<Glob>,
    /// Or command lines, arguments joined by blanks.
    pub(super) pattern: Option<Regex>,
    /// Whether it is a whole project, whose helpers count, too.
    pub(super) project: bool,
}

/// OpenStack's services by the names of their projects: what belongs to one begins with that name (`nova-compute`,
/// `nova.cmd.compute`).
pub(super) const OPENSTACK: [&str; 27] = [
    "adjutant",
    "aodh",
    "barbican",
    "blazar",
    "ceilometer",
    "cinder",
    "cloudkitty",
    "cyborg",
    "designate",
    "freezer",
    "glance",
    "gnocchi",
    "heat",
    "ironic",
    "keystone",
    "magnum",
    "manila",
    "masakari",
    "mistral",
    "neutron",
    "nova",
    "octavia",
    "placement",
    "swift",
    "tacker",
    "trove",
    "watcher",
];

impl Service {
    /// A service of OpenStack: a project (`nova`), or one program of it (`nova-compute`).
    pub(super) fn openstack(name: &str) -> Option<Service> {
        let (project, program) = match name.split_once('-') {
            Some((project, _)) => (project, true),
            None => (name, false),
        };
        if !OPENSTACK.contains(&project) {
            return None;
        }
        let globs = if program {
            vec![name.to_owned()]
        } else {
            vec![name.to_owned(), format!("{name}-*"), format!("{name}_*")]
        };
        Some(Service {
            name: name.to_owned(),
            programs: globs
                .iter()
                .filter_map(|glob| Glob::new(glob).ok())
                .collect(),
            pattern: None,
            project: !program,
        })
    }

    /// Whether a process belongs to it, and by what that was seen.
    pub fn recognises(&self, seen: &Seen) -> Option<Why> {
        let program = seen.programs().into_iter().find(|(name, _)| {
            self.programs
                .iter()
                .any(|glob| glob.matches(name.as_bytes()))
        });
        if let Some((_, why)) = program {
            return Some(why);
        }
        if self.project
            && let Some(path) = seen.helper_of(&self.name)
        {
            return Some(Why::Helper(path));
        }
        let pattern = self.pattern.as_ref()?;
        pattern
            .is_match(&seen.arguments.join(" "))
            .then(|| Why::Pattern(pattern.to_string()))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
