//! The engines there are, in the order in which they are preferred.

use super::direct::engine::DirectEngine;
use super::lifecycle::Engine;
use super::stap::engine::StapEngine;
use super::uprobes::engine::UprobesEngine;
use crate::failure::Failure;
use crate::session::request::{EngineOptions, SessionRequest};

/// Finds out about the engines: about those that `in_question` names, which may cost a little. Of the others nothing is known.
pub(crate) fn survey(
    request: &SessionRequest,
    in_question: impl Fn(&dyn Engine) -> bool,
) -> Vec<Box<dyn Engine>> {
    let mut stap = StapEngine::new(request);
    if in_question(&stap) {
        stap.look();
    }
    let mut uprobes = UprobesEngine::new(request);
    if in_question(&uprobes) {
        uprobes.look();
    }
    vec![Box::new(stap), Box::new(uprobes), Box::new(DirectEngine)]
}

/// The engine that runs scripts of SystemTap.
pub(crate) const BY_SCRIPT: &str = StapEngine::NAME;

/// The engine that needs nothing of the kernel.
pub(crate) const BY_AGENT: &str = DirectEngine::NAME;

/// Whether the engine that is named reads what the agent tells, and nothing else.
pub(crate) fn is_by_agent(options: &EngineOptions) -> bool {
    options.named.as_deref() == Some(BY_AGENT)
}

/// What is wrong with these options, whichever engine runs.
pub(crate) fn misuse(options: &EngineOptions) -> Option<Failure> {
    StapEngine::misuse(options)
}
