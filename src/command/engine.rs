//! The engine of a trace: which one, why, and what has to be done before it can start.

use std::collections::HashSet;

use crossbeam_channel::select;

use crate::cli::{self, EngineChoice};
use crate::console::{Console, Exit};
use crate::doctor;
use crate::engine::Running;
use crate::engine::stap::diagnostics::Severity;
use crate::engine::stap::{
    self, Compilation, Compiling, Module, Progress, Script, Stap, StapError, Start, Toolchain,
    failures,
};
use crate::engine::uprobes::{self, LineSemaphores, Plan as UprobesPlan, Tracefs, UprobesRunning};
use crate::failure::Failure;
use crate::host::Gathering;
use crate::probe::Probed;
use crate::script::Catalogue;
use crate::session::plan::Plan;
use crate::session::stop::StopSignals;

/// An engine that nothing known stands in the way of.
pub(super) struct Choice {
    pub(super) engine: Engine,
    /// Why it was chosen, where that was left to us: a sentence without its full stop.
    pub(super) reason: Option<String>,
}

/// The engines, with what each was found to have.
pub(super) enum Engine {
    Stap(Toolchain),
    Uprobes(Tracefs),
}

/// Chooses the engine of a trace.
///
/// # Errors
/// What stands in the way of the one that was asked for, or of both.
pub(super) fn choose(
    arguments: &cli::Trace,
    plan: &Plan,
    catalogue: &Catalogue,
) -> Result<Choice, Failure> {
    let own = plan.own_templates(catalogue).next();
    // These make sense with stap only.
    let needs_stap = arguments.engine.stap.is_some()
        || !arguments.engine.stap_args.is_empty()
        || arguments.compile_only
        || own.is_some();
    let choice = |engine, reason| Choice { engine, reason };
    match arguments.engine.engine {
        EngineChoice::Uprobes => {
            let conflict = match own {
                Some(template) => format!("the template {template} is a SystemTap script"),
                None if needs_stap => "options for stap were given".to_owned(),
                None => return uprobes(plan).map(|tracefs| choice(Engine::Uprobes(tracefs), None)),
            };
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "{conflict}, which the uprobes engine has no use for; leave out --engine uprobes"
                ),
            ))
        }
        EngineChoice::Auto if !needs_stap => match stap(arguments, plan) {
            Ok(toolchain) => match (failures::remembered(&toolchain), uprobes(plan)) {
                (Some(known), Ok(tracefs)) => Ok(choice(
                    Engine::Uprobes(tracefs),
                    Some(format!(
                        "uprobe events, because SystemTap {} has failed here before: {known}",
                        toolchain.version
                    )),
                )),
                _ => {
                    let reason = format!("SystemTap {}, which is installed", toolchain.version);
                    Ok(choice(Engine::Stap(toolchain), Some(reason)))
                }
            },
            Err(obstacle) => match uprobes(plan) {
                Ok(tracefs) => Ok(choice(
                    Engine::Uprobes(tracefs),
                    Some(format!(
                        "uprobe events, because {}",
                        clause(&obstacle.message)
                    )),
                )),
                Err(second) => Err(neither(obstacle, &second, arguments, catalogue)),
            },
        },
        EngineChoice::Auto | EngineChoice::Stap => stap(arguments, plan)
            .map(|toolchain| choice(Engine::Stap(toolchain), None))
            .map_err(|obstacle| match forbidden(arguments) {
                Some(_) => examined(obstacle, arguments, catalogue),
                None => obstacle,
            }),
    }
}

/// What the doctor finds in the way of engines here.
fn findings(
    engine: doctor::Engine,
    arguments: &cli::Trace,
    catalogue: &Catalogue,
) -> Vec<doctor::Finding> {
    let mut gathering = Gathering::here();
    gathering.stap = arguments.engine.stap.clone();
    doctor::obstacles(&gathering.facts(catalogue), engine)
}

/// Why there is no engine at all: what the doctor finds, else what each engine said. What concerns the target and not the
/// host comes from the engine alone.
fn neither(
    stap: Failure,
    uprobes: &Failure,
    arguments: &cli::Trace,
    catalogue: &Catalogue,
) -> Failure {
    let mut excerpt = Vec::new();
    let mut said = HashSet::new();
    for (engine, failure) in [
        (doctor::Engine::Stap, &stap),
        (doctor::Engine::Uprobes, uprobes),
    ] {
        let found = match failure.exit {
            Exit::Unready => findings(engine, arguments, catalogue),
            _ => Vec::new(),
        };
        if found.is_empty() {
            excerpt.push(format!("{}: {}", engine.name(), failure.message));
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
        exit: stap.exit,
        message: "neither SystemTap nor uprobe events can trace this, so nothing was started; `pystap doctor` tells \
                  more than this:"
            .to_owned(),
        excerpt: excerpt.join("\n"),
    }
}

/// What stands in the way of stap, in the words of the doctor where it is the host.
fn examined(obstacle: Failure, arguments: &cli::Trace, catalogue: &Catalogue) -> Failure {
    if obstacle.exit != Exit::Unready {
        return obstacle;
    }
    match findings(doctor::Engine::Stap, arguments, catalogue).first() {
        Some(finding) => Failure::new(Exit::Unready, finding.sentence(doctor::Engine::Stap)),
        None => obstacle,
    }
}

/// The first clause of a message: what is the matter, without what follows from it.
fn clause(message: &str) -> &str {
    message.split(", so ").next().unwrap_or(message)
}

/// Why no module can be loaded here. A stap that was named may be a wrapper that does its work elsewhere; what it can do
/// is for it to say.
fn forbidden(arguments: &cli::Trace) -> Option<StapError> {
    if arguments.compile_only || arguments.engine.stap.is_some() {
        return None;
    }
    stap::forbidden()
}

/// Whether stap can be used, by checks that cost nothing.
fn stap(arguments: &cli::Trace, plan: &Plan) -> Result<Toolchain, Failure> {
    if let Some(obstacle) = forbidden(arguments) {
        return Err(obstacle.into());
    }
    if !arguments.compile_only
        && let Some(obstacle) = plan.obstacle_for_stap()
    {
        return Err(obstacle.into());
    }
    Ok(Toolchain::find(
        arguments.engine.stap.as_deref(),
        arguments.kernel.as_deref(),
    )?)
}

fn uprobes(plan: &Plan) -> Result<Tracefs, Failure> {
    let tracefs = Tracefs::find()?;
    UprobesPlan::new(&plan.probed())?;
    Ok(tracefs)
}

/// An engine that can be started at once.
pub(super) enum Ready {
    Stap {
        engine: Stap,
        module: Module,
        line: Option<LineSemaphores>,
    },
    Uprobes {
        tracefs: Tracefs,
        plan: UprobesPlan,
        images: Vec<Probed>,
    },
}

/// Does what takes time: compiles a script. `None` when the user stopped it, or wanted nothing else.
pub(super) fn prepare(
    arguments: &cli::Trace,
    plan: &Plan,
    choice: Choice,
    script: impl FnOnce() -> Result<Script, Failure>,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<(Ready, Vec<String>)>, Failure> {
    let mut notes: Vec<String> = choice.reason.iter().cloned().collect();
    if let Some(reason) = &choice.reason {
        console.note(format_args!("tracing with {reason}"));
    }
    let (toolchain, left_to_us) = match choice.engine {
        Engine::Uprobes(tracefs) => {
            return with_uprobes(plan, tracefs, notes, console).map(Some);
        }
        Engine::Stap(toolchain) => (toolchain, choice.reason.is_some()),
    };
    let (engine, removed) = Stap::new(toolchain)?;
    for thing in removed {
        console.note(format_args!("removed {thing}"));
    }
    let module = match engine.compile(&script()?)? {
        Compilation::Kept(module) => {
            console.detail(format_args!(
                "the probe script was compiled before: {}",
                module.path.display()
            ));
            module
        }
        Compilation::Running(compiling) => match compile(compiling, stops, console) {
            Ok(Some(module)) => {
                failures::forget();
                module
            }
            Ok(None) => return Ok(None),
            Err(failure) if left_to_us && failure.exit == Exit::Unready => {
                let Ok(tracefs) = uprobes(plan) else {
                    return Err(failure);
                };
                failures::remember(engine.toolchain(), clause(&failure.message));
                console.warning(format_args!(
                    "{}; tracing with uprobe events instead (--engine stap insists)",
                    clause(&failure.message)
                ));
                notes = vec![format!(
                    "uprobe events, because {}",
                    clause(&failure.message)
                )];
                return with_uprobes(plan, tracefs, notes, console).map(Some);
            }
            Err(failure) => return Err(failure),
        },
    };
    if arguments.compile_only {
        console.note(format_args!(
            "compiled; traces with the same options start at once now ({})",
            module.path.display()
        ));
        return Ok(None);
    }
    let line = match LineSemaphores::new(&plan.probed(), plan.follow) {
        Ok(line) => line,
        Err(error) => {
            console.warning(format_args!(
                "only the calls that come from C are seen: {error}"
            ));
            None
        }
    };
    if line.is_some() {
        announce_line_semaphore(plan, &mut notes, console);
    }
    notes.insert(
        0,
        format!("SystemTap {}, kernel module", engine.toolchain().version),
    );
    let ready = Ready::Stap {
        engine,
        module,
        line,
    };
    Ok(Some((ready, notes)))
}

fn with_uprobes(
    plan: &Plan,
    tracefs: Tracefs,
    mut notes: Vec<String>,
    console: &Console,
) -> Result<(Ready, Vec<String>), Failure> {
    for thing in uprobes::remove_stale(&tracefs) {
        console.note(format_args!("removed {thing}"));
    }
    let images = plan.probed();
    let uprobes_plan = UprobesPlan::new(&images)?;
    for missing in &uprobes_plan.missing {
        console.warning(missing);
        notes.push(missing.clone());
    }
    announce_line_semaphore(plan, &mut notes, console);
    let ready = Ready::Uprobes {
        tracefs,
        plan: uprobes_plan,
        images,
    };
    Ok((ready, notes))
}

fn announce_line_semaphore(plan: &Plan, notes: &mut Vec<String>, console: &Console) {
    if let Some(note) = plan.line_semaphore_note() {
        console.note(&note);
        notes.push(note);
    }
}

impl Ready {
    /// Its name in events.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Ready::Stap { .. } => "stap",
            Ready::Uprobes { .. } => "uprobes",
        }
    }

    /// Whether the engine itself leaves out calls that are too short.
    pub(super) fn measures(&self) -> bool {
        matches!(self, Ready::Stap { .. })
    }

    /// Arms the probes for these processes, of which the last may be a launched command.
    pub(super) fn start(
        self,
        plan: &Plan,
        start: Start,
        stops: &StopSignals,
    ) -> Result<Box<dyn Running>, Failure> {
        Ok(match self {
            Ready::Stap {
                engine,
                module,
                line,
            } => Box::new(engine.run(&module, start, line)?),
            Ready::Uprobes {
                tracefs,
                plan: uprobes_plan,
                images,
            } => {
                let running = plan.pids();
                let targets = start
                    .targets
                    .iter()
                    .map(|pid| (*pid, running.contains(pid)));
                let start = uprobes::Start {
                    targets: targets.collect(),
                    follow: start.follow,
                    filters: plan.filters.clone(),
                    buffer: start.buffer,
                    lineage: start.lineage,
                };
                Box::new(UprobesRunning::start(
                    tracefs,
                    &uprobes_plan,
                    &images,
                    &start,
                    &|| !stops.requests().is_empty(),
                )?)
            }
        })
    }
}

/// Waits for stap. `None` when the user stopped it.
fn compile(
    compiling: Compiling,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Module>, Failure> {
    let spinner = console.spinner("compiling the probe script");
    let mut said = Vec::new();
    let ended = loop {
        select! {
            recv(compiling.progress()) -> progress => match progress {
                Ok(Progress::Diagnostic(diagnostic)) => said.push(*diagnostic),
                Ok(Progress::Ended) | Err(_) => break true,
            },
            recv(stops.requests()) -> _ => break false,
        }
    };
    if !ended {
        drop(compiling);
        drop(spinner);
        console.note("stopped while the probe script was compiled; nothing was traced");
        return Ok(None);
    }
    let module = compiling.finish(&said);
    drop(spinner);
    for diagnostic in &said {
        console.detail(format_args!("stap: {}", diagnostic.message));
    }
    module.map(Some).map_err(|error| {
        // stap's own words with its caret belong to the sentence.
        let excerpt = match &error {
            StapError::NotCompiled { .. } => said
                .iter()
                .filter(|diagnostic| diagnostic.severity == Severity::Error)
                .map(|diagnostic| diagnostic.excerpt.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            _ => String::new(),
        };
        Failure {
            excerpt,
            ..Failure::from(error)
        }
    })
}
