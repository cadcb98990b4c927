//! What is said when no engine can run a plan: in the words of the doctor where it is the host's fault.

use std::collections::HashSet;

use super::plan::NoSource;
use super::request::SessionRequest;
use crate::console::Exit;
use crate::doctor;
use crate::engine::abilities::Obstacle;
use crate::failure::Failure;
use crate::host::Gathering;
use crate::script::Catalogue;

/// The failure that a command ends with.
pub(super) fn failure(
    refused: &NoSource,
    request: &SessionRequest,
    catalogue: &Catalogue,
) -> Failure {
    match refused {
        NoSource::Conflict { engine, what } => Failure::new(
            Exit::Usage,
            format!(
                "{what}, which the {engine} engine has no use for; leave out --engine {engine}"
            ),
        ),
        NoSource::Obstacle { engine, obstacle } => {
            // What the doctor looks for first is what a bundle does without.
            let is_examined = obstacle.forbidden && request.engine.bundle.is_none();
            let examined = (engine_of(engine).filter(|_| is_examined)).and_then(|engine| {
                let found = findings(engine, request, catalogue);
                Some(found.first()?.sentence(engine))
            });
            let message = examined.unwrap_or_else(|| obstacle.message.clone());
            Failure::new(obstacle.exit, message)
        }
        NoSource::All(obstacles) => none_at_all(obstacles, request, catalogue),
    }
}

/// The engine as the doctor knows it.
fn engine_of(name: &str) -> Option<doctor::Engine> {
    let mut engines = doctor::Engine::ALL.into_iter();
    engines.find(|engine| engine.name() == name)
}

/// What the doctor finds in the way of an engine here.
fn findings(
    engine: doctor::Engine,
    request: &SessionRequest,
    catalogue: &Catalogue,
) -> Vec<doctor::Finding> {
    let mut gathering = Gathering::here();
    gathering.stap = request.engine.stap.clone();
    doctor::obstacles(&gathering.facts(catalogue), engine)
}

/// Why there is no engine at all: what the doctor finds, else what each engine said. What concerns the target and not the
/// host comes from the engine alone.
fn none_at_all(
    obstacles: &[(&'static str, Obstacle)],
    request: &SessionRequest,
    catalogue: &Catalogue,
) -> Failure {
    let mut excerpt = Vec::new();
    let mut said = HashSet::new();
    for (name, obstacle) in obstacles {
        let found = match (engine_of(name), obstacle.exit) {
            (Some(engine), Exit::Unready) => findings(engine, request, catalogue),
            _ => Vec::new(),
        };
        if found.is_empty() {
            excerpt.push(format!("{name}: {}", obstacle.message));
        }
        for finding in found {
            // What stops both is said once.
            if !said.insert((finding.id, finding.subject)) {
                continue;
            }
            let stopped: Vec<&str> = finding.stops.iter().map(|it| it.name()).collect();
            excerpt.push(format!("{}: {}", stopped.join(", "), finding.summary));
            for fix in finding.fixes {
                excerpt.push(format!("    {}", fix.what));
                excerpt.extend(fix.commands.iter().map(|it| format!("        {it}")));
            }
        }
    }
    Failure {
        exit: obstacles.first().map_or(Exit::Unready, |(_, it)| it.exit),
        message: "neither SystemTap nor uprobe events can trace this, so nothing was started; `pystap doctor` tells \
                  more than this:"
            .to_owned(),
        excerpt: excerpt.join("\n"),
    }
}
