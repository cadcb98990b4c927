//! Services by name: which processes belong to nova, however they are run. A service is recognised by what a process
//! reveals about itself: the script it runs, the title it sets, what its application server was told to load.
//!
//! Pure functions of that information; reading /proc is [`crate::process`]'s business.

mod config;
mod definition;
mod programs;

use self::definition::OPENSTACK;

pub(crate) use config::ServiceError;
pub(crate) use definition::Service;
pub(crate) use programs::VARIABLES;
pub(crate) use programs::{Seen, Why};

impl Service {
    /// The service of that name: of the user's own file, else one of OpenStack's.
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
}

/// What the service of a process is called, by what is seen of it; of one that belongs to none the program. Empty where nothing is
/// seen.
pub(crate) fn name(seen: &Seen) -> String {
    // Whoever cannot read the user's own services was told so when the session began.
    let services = Service::all().unwrap_or_default();
    let service = services.iter().find(|it| it.recognises(seen).is_some());
    match service {
        Some(service) => service.name.clone(),
        None => match seen.programs().into_iter().next() {
            Some((name, _)) => name,
            None => seen.comm.clone(),
        },
    }
}

#[cfg(test)]
mod tests;
