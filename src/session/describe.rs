//! A plan for people: what a dry run prints.

use std::fmt::{self, Write as _};

use super::plan::{AgentPlan, Plan, PlannedImage};
use crate::agent::AttachMethod;
use crate::engine::abilities::Abilities;
use crate::python::marks::PROVIDER;
use crate::text::Foreign;

/// What a plan comes to with an engine of these abilities, as lines.
pub(crate) fn describe(plan: &Plan, engine: Abilities) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, plan, engine);
    text
}

fn write(text: &mut String, plan: &Plan, engine: Abilities) -> fmt::Result {
    if !plan.command.is_empty() {
        let words: Vec<_> = plan.command.iter().map(|it| it.to_string_lossy()).collect();
        writeln!(text, "launch     {}", Foreign::new(&words.join(" ")))?;
    }
    for process in &plan.targets.processes {
        let command_line = process.command_line.join(" ");
        let command_line = Foreign::new(&command_line);
        writeln!(text, "process    {} {command_line}", process.pid)?;
    }
    if plan.targets.everyone {
        let who = "every one that runs an interpreter below, also later ones";
        writeln!(text, "processes  {who}")?;
    }
    let children = match plan.follow {
        true => "traced, those to come as well",
        false => "not traced",
    };
    writeln!(text, "children   {children}")?;
    writeln!(text, "events     {}", plan.events.join(", "))?;
    if let Some(minimum) = plan.min_duration {
        let by = match engine.measures && plan.times_calls() {
            true => "in the kernel",
            false if engine.by_agent => "by the agent, which tells no others",
            false => "by pystap, which every call is sent to",
        };
        writeln!(text, "calls      of at least {minimum:?}, measured {by}")?;
    }
    for image in &plan.images {
        write_image(text, image)?;
    }
    if let Some(agent) = &plan.agent {
        write_agent(text, agent)?;
    }
    Ok(())
}

fn write_image(text: &mut String, planned: &PlannedImage) -> fmt::Result {
    let (interpreter, image) = (&planned.interpreter, &planned.interpreter.image);
    let version = interpreter.version.as_ref();
    let version = version.map_or_else(String::new, |version| format!("Python {version}"));
    let build_id = image.build_id.as_deref().unwrap_or("none");
    let path = Foreign::path(&planned.path);
    writeln!(text, "image      {path} {version}, build id {build_id}")?;
    for probe in &planned.probes {
        let name = probe.name();
        let sites = image.mark(PROVIDER, name).map_or(0, |it| it.sites.len());
        let noun = if sites == 1 { "site" } else { "sites" };
        writeln!(text, "  probe    {PROVIDER}:{name}, {sites} {noun}")?;
    }
    if planned.line_semaphore {
        let what = format!("the semaphore of {PROVIDER}:line, unless --no-line-semaphore");
        writeln!(text, "  raised   {what}")?;
    }
    Ok(())
}

fn write_agent(text: &mut String, agent: &AgentPlan) -> fmt::Result {
    for (pid, way) in &agent.targets {
        writeln!(text, "agent      into process {pid}, {way}")?;
    }
    if agent.launched {
        writeln!(text, "agent      {}", AttachMethod::Environment)?;
    }
    if agent.later {
        writeln!(
            text,
            "agent      into each process that is found, as it allows"
        )?;
    }
    let libraries = agent.libraries.iter().filter(|_| !agent.directly);
    for (path, probed) in libraries {
        let build_id = probed.image.build_id.as_deref().unwrap_or("none");
        let path = Foreign::path(path);
        writeln!(text, "image      {path}, build id {build_id}")?;
        for mark in &probed.marks {
            writeln!(text, "  probe    {}:{mark}", probed.provider)?;
        }
    }
    Ok(())
}
