//! Which engine carries out a request where that is left to us: the agent alone where it reaches everything, or where
//! nothing else can; else what [`decide`] prefers.

use std::borrow::Cow;

use super::decide::decide;
use super::plan::{Plan, PlanError};
use super::request::{EngineOptions, SessionRequest};
use super::snapshot::HostSnapshot;
use super::wanted::has_function_probes;
use crate::engine::abilities::clause;
use crate::engine::all;
use crate::process::{Expected, Targets};
use crate::python::Interpreter;
use crate::script::Catalogue;

/// A request as it is carried out, with what was found and decided for it.
pub(super) struct Choice<'a> {
    /// As it was made, or with the engine that was chosen.
    pub(super) request: Cow<'a, SessionRequest>,
    /// What was found.
    pub(super) host: HostSnapshot,
    /// What was decided.
    pub(super) plan: Plan,
}

/// Decides, with the agent alone where the choice is left to us and it reaches everything, because its events cost a
/// small part of a probe's (docs/direct.md); and where neither of the others can trace: for an ordinary user, in a container without
/// capabilities.
///
/// # Errors
/// What is wrong with the request, and what stands in the way of tracing at all.
pub(super) fn choose<'a>(
    request: &'a SessionRequest,
    catalogue: &Catalogue,
) -> Result<Choice<'a>, PlanError> {
    let alone = agent_alone(request, catalogue);
    let alone = match alone {
        Some(Ok(mut choice)) if reaches_all(request, &choice.plan) => {
            let has_probes = running(&choice.plan.targets).any(has_function_probes);
            if let Some(agent) = &mut choice.plan.agent {
                agent.all = has_probes;
            }
            return Ok(because(choice, "it gets into every target and costs least"));
        }
        other => other,
    };
    let mut choice = decided(Cow::Borrowed(request), catalogue)?;
    if let Err(refused) = &mut choice.plan.sources
        && let Some(obstacle) = refused.of_all()
    {
        match alone {
            Some(Ok(choice)) => return Ok(because(choice, clause(&obstacle.message))),
            Some(Err(error @ PlanError::NoDirectWay { .. })) => refused.add(all::BY_AGENT, &error),
            Some(Err(_)) | None => {}
        }
    }
    Ok(choice)
}

/// Decides as the request stands: by probes, where it names no engine.
///
/// # Errors
/// What is wrong with the request, and what stands in the way of tracing at all.
pub(super) fn decided<'a>(
    request: Cow<'a, SessionRequest>,
    catalogue: &Catalogue,
) -> Result<Choice<'a>, PlanError> {
    let host = HostSnapshot::gather(&request, catalogue)?;
    let plan = decide(&request, &host)?;
    Ok(Choice {
        request,
        host,
        plan,
    })
}

/// The same with the agent alone. `None` where that is not ours to choose.
///
/// # Errors
/// What it cannot tell of what was asked for, or what keeps it out.
fn agent_alone(
    request: &SessionRequest,
    catalogue: &Catalogue,
) -> Option<Result<Choice<'static>, PlanError>> {
    if !request.leaves_engine_to_us() {
        return None;
    }
    let direct = SessionRequest {
        engine: EngineOptions {
            named: Some(all::BY_AGENT.to_owned()),
            ..request.engine.clone()
        },
        ..request.clone()
    };
    // What only a script can do is a conflict with it.
    match decided(Cow::Owned(direct), catalogue) {
        Ok(choice) if choice.plan.sources.is_err() => None,
        other => Some(other),
    }
}

/// Whether the agent gets into all targets that another engine could reach, those to come among them.
pub(super) fn reaches_all(request: &SessionRequest, plan: &Plan) -> bool {
    let targets = &plan.targets;
    let launches = targets.command.is_some();
    // Processes that join may show their probes where no agent waits in them. What a launched command starts has its
    // environment.
    let others_join = plan.newcomers.is_some() || (plan.follow && !launches);
    // What brings its Python about, such as chroot or sudo, may leave that out.
    let is_assumed = |it: &Expected| it.note.is_some() || request.targets.python.is_some();
    let is_led_to = targets.command.as_ref().is_some_and(is_assumed);
    let expected = targets.command.iter().flat_map(|it| &it.interpreters);
    let mut others = running(targets).chain(&targets.python).chain(expected);
    plan.left_out.is_empty() && !((others_join || is_led_to) && others.any(has_function_probes))
}

fn running(targets: &Targets) -> impl Iterator<Item = &Interpreter> {
    targets.processes.iter().flat_map(|it| &it.interpreters)
}

/// The same choice, with the reason for it.
fn because<'a>(mut choice: Choice<'a>, reason: &str) -> Choice<'a> {
    let engines = &choice.host.engines;
    for source in choice.plan.sources.iter_mut().flatten() {
        let engine = engines.iter().find(|it| it.name() == source.engine);
        source.reason = engine.map(|engine| format!("{}, because {reason}", engine.title()));
    }
    choice
}
