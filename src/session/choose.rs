//! Which engines carry out a request where that is left to us: the agent alone where it reaches everything, or where nothing
//! else can; the agent and another one where it reaches some, or tells only a part of what was asked for; else what [`decide`]
//! prefers.

use std::borrow::Cow;

use super::decide::{decide, others};
use super::plan::{AgentPlan, Plan, PlanError};
use super::request::{EngineOptions, SessionRequest};
use super::snapshot::HostSnapshot;
use super::wanted::has_function_probes;
use crate::engine::abilities::clause;
use crate::engine::all;
use crate::probe::EventKind;
use crate::process::Targets;
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
    if !request.agent.fields.is_empty() && request.engine.named.is_none() {
        // Nothing else can tell them.
        return decided(Cow::Owned(by_agent(request)), catalogue);
    }
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
    let mut choice = match request.leaves_engine_to_us() {
        true => mixed_or_probed(request, catalogue)?,
        false => decided(Cow::Borrowed(request), catalogue)?,
    };
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
    let direct = by_agent(request);
    // What only a script can do is a conflict with it.
    match decided(Cow::Owned(direct), catalogue) {
        Ok(choice) if choice.plan.sources.is_err() => None,
        other => Some(other),
    }
}

/// The same request, to be carried out by the agent alone.
fn by_agent(request: &SessionRequest) -> SessionRequest {
    SessionRequest {
        engine: EngineOptions {
            named: Some(all::BY_AGENT.to_owned()),
            ..request.engine.clone()
        },
        ..request.clone()
    }
}

/// Decides with the agent for what it reaches and tells and probes for the rest; where it reaches nothing, as [`decided`].
///
/// # Errors
/// What is wrong with the request, and what stands in the way of tracing at all.
fn mixed_or_probed<'a>(
    request: &'a SessionRequest,
    catalogue: &Catalogue,
) -> Result<Choice<'a>, PlanError> {
    let mixed = mixing(request);
    let host = HostSnapshot::gather(&mixed, catalogue)?;
    if let Some(plan) = mixed_plan(&mixed, &host) {
        let request = Cow::Owned(mixed);
        return Ok(Choice {
            request,
            host,
            plan,
        });
    }
    let plan = decide(request, &host)?;
    Ok(Choice {
        request: Cow::Borrowed(request),
        host,
        plan,
    })
}

/// The same request, to be carried out by the agent where it can and by probes elsewhere.
pub(super) fn mixing(request: &SessionRequest) -> SessionRequest {
    SessionRequest {
        mixes: true,
        // Sums of one engine and events of another are no one table.
        sends_all: true,
        ..request.clone()
    }
}

/// What such a request comes to; `None` where agents tell nothing, or everything, or the rest cannot be had.
pub(super) fn mixed_plan(request: &SessionRequest, host: &HostSnapshot) -> Option<Plan> {
    let mut plan = decide(request, host).ok().filter(mixes)?;
    let has_probes = running(&plan.targets).any(has_function_probes);
    if let Some(agent) = &mut plan.agent {
        agent.all = has_probes;
    }
    say_who_tells_what(&mut plan, host);
    Some(plan)
}

/// Whether some of it is told by agents, some by probes, and can be.
fn mixes(plan: &Plan) -> bool {
    plan.agent.as_ref().is_some_and(is_used)
        && !plan.images.is_empty()
        && plan.sources.as_ref().is_ok_and(|all| all.len() > 1)
}

/// Whether it comes into what is there, and not only perhaps into what comes.
fn is_used(agent: &AgentPlan) -> bool {
    agent.launched || !agent.targets.is_empty()
}

/// Says in one line whom the agent traces and what is probed, and why.
fn say_who_tells_what(plan: &mut Plan, host: &HostSnapshot) {
    let Some(agent) = &plan.agent else { return };
    let by_agent: Vec<u32> = agent.targets.iter().map(|(pid, _)| *pid).collect();
    let reached = match agent.launched {
        true => "the command".to_owned(),
        false => processes(&by_agent),
    };
    let mut probed: Vec<u32> = plan.images.iter().flat_map(|it| it.pids.clone()).collect();
    probed.retain(|pid| !by_agent.contains(pid));
    probed.sort_unstable();
    probed.dedup();
    let kinds: Vec<&str> = plan
        .events
        .iter()
        .filter(|event| EventKind::of_name(event).is_none_or(|kind| !kind.is_agents()))
        .map(String::as_str)
        .collect();
    let rest = match probed.first() {
        Some(first) => {
            let attach = host.processes.get(first).and_then(|it| it.attach.as_ref());
            let reason = match attach {
                Some(Err(reason)) => clause(reason),
                _ => "the agent may not get into those that join",
            };
            format!("{}, because {reason}", processes(&probed))
        }
        None if kinds.is_empty() => "what the agent does not reach".to_owned(),
        None => format!(
            "{} events, because only an interpreter's own probes tell them",
            kinds.join(" and ")
        ),
    };
    let Ok([other, agent]) = plan.sources.as_deref_mut() else {
        return;
    };
    let title = |name: &str| {
        let engine = host.engines.iter().find(|it| it.name() == name);
        engine.map_or_else(|| name.to_owned(), |engine| engine.title())
    };
    other.reason = Some(format!(
        "{} for {reached}, which costs least, and {} for {rest}",
        title(agent.engine),
        title(other.engine),
    ));
}

/// Processes, for messages.
fn processes(pids: &[u32]) -> String {
    match pids {
        [only] => format!("process {only}"),
        [first, second] => format!("processes {first} and {second}"),
        [first, ..] => format!("{} processes ({first} first)", pids.len()),
        [] => "processes that come".to_owned(),
    }
}

/// Whether the agent gets into all targets that another engine could reach, those to come among them.
pub(super) fn reaches_all(request: &SessionRequest, plan: &Plan) -> bool {
    let mut others = others(request, &plan.targets);
    plan.left_out.is_empty() && !others.any(has_function_probes)
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
