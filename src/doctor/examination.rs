//! All that can be said about a host, put together.

use serde::Serialize;

use super::verdict::{self, EventVerdict, Verdict};
use super::{
    Engine, Finding, Fix, Part, Status, agent, building, debug, host, kernel, python, systemtap,
    uprobes, waits,
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
    for finding in &mut all {
        after_the_trial(facts, finding);
        where_stap_is_out_of_reach(facts, finding);
    }
    all
}

/// What files say of the kernel's build tree and of the kernel is a judgement, and where a trial went well a wrong one.
fn after_the_trial(facts: &Facts, finding: &mut Finding) {
    let trial = facts.trial.value();
    let shown = match finding.id {
        "headers-match" | "headers-options" => trial.filter(|trial| trial.compiled),
        "options" | "functions" => trial.filter(|trial| trial.loaded == Some(true)),
        _ => None,
    };
    let done = match shown.map(|trial| trial.loaded) {
        None | Some(Some(false)) => return,
        Some(Some(true)) => "built and loaded",
        Some(None) => "built",
    };
    if finding.status == Status::Ok {
        return;
    }
    finding.summary = format!(
        "{}; a trial module was {done} all the same",
        finding.summary
    );
    finding.status = Status::Ok;
    finding.stops.clear();
    finding.fixes.clear();
}

/// What only a SystemTap needs that the distribution does not have is nobody's duty where another engine is ready.
fn where_stap_is_out_of_reach(facts: &Facts, finding: &mut Finding) {
    let hopeless = facts.systemtap.stap.is_absent()
        && systemtap::out_of_reach(facts).is_some()
        && kernel::uprobes_are_ready(facts);
    let is_staps = matches!(
        finding.part,
        Part::Kernel | Part::Building | Part::Systemtap
    );
    if hopeless && is_staps {
        let fixes = std::mem::take(&mut finding.fixes);
        finding.fixes = fixes.into_iter().map(Fix::or).collect();
    }
}
