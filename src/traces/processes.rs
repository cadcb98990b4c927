//! Whose spans are: the resource of a process, by what the stream says of it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::hosts::Hosts;
use crate::event::{ProcessChange, Session, What};
use crate::otlp::{Resource, Value};
use crate::service::{self, Seen};

/// Processes whose resources are kept; all are made anew beyond that.
const MOST: usize = 1 << 14;
/// What OpenTelemetry calls a service that has no name.
const UNKNOWN: &str = "unknown_service:python";

/// Tells the service of a process that runs.
pub(super) type ServiceOf = fn(u32) -> Option<String>;

/// The resources of the processes of a stream.
#[derive(Debug)]
pub(super) struct Processes {
    session: Session,
    hosts: Hosts,
    service_of: Option<ServiceOf>,
    known: HashMap<u32, (String, Arc<Resource>)>,
    parents: HashMap<u32, u32>,
}

impl Processes {
    /// Of no session yet. What runs here is asked for its service, else the command line counts.
    pub(super) fn new(service_of: Option<ServiceOf>) -> Processes {
        Processes {
            session: Session::default(),
            hosts: Hosts::default(),
            service_of,
            known: HashMap::new(),
            parents: HashMap::new(),
        }
    }

    pub(super) fn begin(&mut self, session: &Session) {
        self.hosts = Hosts::of(session);
        self.session = session.clone();
    }

    /// Something happened to a process.
    pub(super) fn take(&mut self, pid: u32, what: &What) {
        let What::Process { change, parent, .. } = what else {
            return;
        };
        match (change, parent) {
            (ProcessChange::Fork, Some(parent)) => {
                self.known.remove(&pid);
                if self.parents.len() < MOST {
                    self.parents.insert(pid, *parent);
                }
            }
            (ProcessChange::Exec, _) => {
                self.known.remove(&pid);
            }
            _ => {}
        }
    }

    /// The resource of a process.
    pub(super) fn resource(&mut self, pid: u32) -> Arc<Resource> {
        if let Some((_, resource)) = self.known.get(&pid) {
            return Arc::clone(resource);
        }
        let service = self.service(pid);
        let resource = self.make(pid, &service);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(pid, (service, Arc::clone(&resource)));
        resource
    }

    fn service(&self, pid: u32) -> String {
        let running = self.service_of.filter(|_| self.hosts.is_empty());
        if let Some(name) = running.and_then(|of| of(pid)) {
            return name;
        }
        if let Some(target) = self.session.targets.iter().find(|it| it.pid == pid) {
            let seen = Seen {
                arguments: target.command.split(' ').map(str::to_owned).collect(),
                ..Seen::default()
            };
            return match service::name(&seen) {
                name if name.is_empty() => UNKNOWN.to_owned(),
                name => name,
            };
        }
        let parent = self.parents.get(&pid).and_then(|it| self.known.get(it));
        parent.map_or_else(|| UNKNOWN.to_owned(), |(name, _)| name.clone())
    }

    fn make(&self, pid: u32, service: &str) -> Arc<Resource> {
        let host = self.hosts.name(pid).map(|it| it.as_str());
        let host = host.or(self.session.host.as_deref());
        let target = self.session.targets.iter().find(|it| it.pid == pid);
        let python = target.and_then(|it| it.python.as_deref());
        let number = i64::from(self.hosts.number(pid));
        let mut attributes: Vec<(&str, Value<'_>)> = vec![
            ("service.name", service.into()),
            ("process.pid", number.into()),
            ("telemetry.sdk.name", "pystap".into()),
            ("telemetry.sdk.language", "python".into()),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").into()),
        ];
        attributes.extend(host.map(|host| ("host.name", host.into())));
        attributes.extend(python.map(|it| ("process.runtime.version", it.into())));
        Resource::new(&attributes)
    }
}
