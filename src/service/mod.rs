//! Services by name: which processes belong to nova, however they are run. A service is recognised by what a process
//! reveals about itself: the script it runs, the title it sets, what its application server was told to load.
//!
//! Pure functions of that information; reading /proc is [`crate::process`]'s business.

mod config;
mod programs;

use std::fmt;

use regex::Regex;

use crate::script::filter::Glob;

pub use config::{ServiceError, config_file};
pub(crate) use programs::VARIABLES;
pub use programs::{Seen, Why};

/// OpenStack's services by the names of their projects: a program belongs to the project whose name it begins with
/// (`nova-compute`, `nova.cmd.compute`).
const OPENSTACK: [&str; 27] = [
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

/// A named set of processes.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Names of programs.
    programs: Vec<Glob>,
    /// Alternatively, command lines with the arguments joined by blanks.
    pattern: Option<Regex>,
    /// Whether it is a whole project, whose helpers count too.
    project: bool,
}

impl Service {
    /// An OpenStack service: a project (`nova`), or one of its programs (`nova-compute`).
    fn openstack(name: &str) -> Option<Service> {
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

    /// The service of that name: from the user's own file, otherwise one of OpenStack's.
    ///
    /// # Errors
    ///
    /// When there is none, or the user's file cannot be parsed.
    pub fn named(name: &str) -> Result<Service, ServiceError> {
        let own = config::services()?;
        let known = || {
            own.iter()
                .map(|service| service.name.clone())
                .chain(OPENSTACK.iter().map(ToString::to_string))
                .collect::<Vec<_>>()
        };
        own.iter()
            .find(|service| service.name == name)
            .cloned()
            .or_else(|| Service::openstack(name))
            .ok_or_else(|| ServiceError::Unknown {
                name: name.to_owned(),
                known: known().join(", "),
            })
    }

    /// All services, the user's own first.
    ///
    /// # Errors
    ///
    /// When the user's file cannot be parsed.
    pub fn all() -> Result<Vec<Service>, ServiceError> {
        let mut all = config::services()?;
        for name in OPENSTACK {
            if all.iter().all(|known| known.name != name) {
                all.extend(Service::openstack(name));
            }
        }
        Ok(all)
    }

    /// Whether a process belongs to it, and how that was recognised.
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

#[cfg(test)]
mod tests;
