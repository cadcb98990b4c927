//! All that can be said about a host, put together.

use serde::Serialize;

use super::verdict::{self, EventVerdict, Verdict};
use super::{
    Engine, Finding, agent, building, debug, host, kernel, python, systemtap, uprobes, waits,
};
use crate::host::Facts;

/// Everything that can be said about a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Examination {
    /// In the order of the report.
    pub findings: Vec<Finding>,
    /// One for each engine.
    pub engines: Vec<Verdict>,
    /// One for each interpreter and kind of event.
    pub events: Vec<EventVerdict>,
}

/// Examines a host. With `only`, events count as possible when this engine can give them.
pub(crate) fn examine(facts: &Facts, only: Option<Engine>) -> Examination {
    let findings = findings(facts);
    let engines: Vec<Verdict> = Engine::ALL
        .into_iter()
        .map(|engine| verdict::of_engine(facts, &findings, engine))
        .collect();
    let events = verdict::of_events(facts, &engines, only);
    Examination {
        findings,
        engines,
        events,
    }
}

/// What stands in the way of an engine on this host, in the order in which it is best mended. Empty when nothing is known
/// to. For a command whose engine cannot run: the first one belongs into its error, `pystap doctor` shows the rest.
pub(crate) fn obstacles(facts: &Facts, engine: Engine) -> Vec<Finding> {
    findings(facts)
        .into_iter()
        .filter(|finding| finding.stops.contains(&engine))
        .collect()
}

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = host::findings(facts);
    all.extend(kernel::findings(facts));
    all.extend(building::findings(facts));
    all.extend(systemtap::findings(facts));
    all.extend(uprobes::findings(facts));
    all.extend(agent::findings(facts));
    all.extend(waits::findings(facts));
    all.extend(debug::findings(facts));
    all.extend(python::findings(facts));
    all
}
