//! The decision: what a request comes to on a host. A pure function of the two; nothing here looks at anything, so that every
//! branch is a row of a table (`decide_tests.rs`).

use std::collections::{BTreeMap, HashSet};

use super::plan::{AgentPlan, NoSource, Plan, PlanError, PlannedImage, Source};
use super::request::{AgentUsage, Purpose, SessionRequest};
use super::snapshot::HostSnapshot;
use super::wanted::{MissingProbes, Wanted, has, has_function_probes};
use crate::agent::{self, AgentConfig, AttachMethod, AttachMethodError};
use crate::engine::abilities::{Obstacle, clause};
use crate::engine::lifecycle::Engine;
use crate::probe::{EventKind, Probe};
use crate::process::{Expected, Targets};
use crate::python::marks::{self, PROVIDER, Status};
use crate::python::undecodable::Sign;
use crate::python::{FileId, Interpreter};
use crate::text::Foreign;

/// Decides what is traced, and with what.
///
/// # Errors
/// Whatever stands in the way of tracing at all. What stands in the way of engines is in the plan, which can be shown
/// without one.
pub(crate) fn decide(request: &SessionRequest, host: &HostSnapshot) -> Result<Plan, PlanError> {
    let plan = decided(request, host)?;
    // An engine that adds up or measures would take each of them for a call.
    if plan.rules().call_on_creation && (plan.totals() || plan.times_calls()) {
        let apart = SessionRequest {
            sends_all: true,
            ..request.clone()
        };
        return decided(&apart, host);
    }
    Ok(plan)
}

fn decided(request: &SessionRequest, host: &HostSnapshot) -> Result<Plan, PlanError> {
    let wanted = Wanted::of(request, &host.own_templates)?;
    let reached = match wanted.is_mixed() {
        true => reached(request, host),
        false => HashSet::new(),
    };
    let mut endangered = endangered(&wanted, host);
    // The agent tells their functions, and there is no danger in that.
    endangered.retain(|it| wanted.probes.contains(&Probe::Line) || !reached.contains(&it.file));
    let mut decision = Decision {
        endangered,
        reached,
        warnings: (host.targets.notes.iter().cloned())
            .chain(request.sought.misunderstood())
            .collect(),
        wanted,
        request,
        host,
    };
    decision.refuse_endangered()?;
    let mut agent = decision.agent()?;
    let images = decision.images(agent.as_ref())?;
    decision.warn_of_quirks(&images);
    if let Some(agent) = &mut agent {
        decision.complete(agent, &images);
    }
    let left_out = decision.leave_out(agent.as_ref(), &images);
    let fails_on_paths = images
        .iter()
        .filter(|image| {
            image.has_what_fails() && decision.wanted.fails_on_paths(&image.interpreter)
        })
        .map(|image| image.interpreter.file)
        .collect();
    let Decision {
        wanted, warnings, ..
    } = decision;
    let mut plan = Plan {
        targets: host.targets.clone(),
        command: request.targets.command.clone(),
        newcomers: request
            .targets
            .newcomers(host.service.clone(), &host.targets.parents),
        events: wanted.events.clone(),
        templates: wanted.templates.clone(),
        own_template: wanted.own_template.clone(),
        filters: request.filters.clone(),
        min_duration: request.min_duration,
        images,
        follow: request.targets.subprocesses,
        warnings,
        agent,
        inject: request.agent.inject,
        fails_on_paths,
        left_out,
        sources: Ok(Vec::new()),
    };
    plan.sources = Engines {
        request,
        host,
        wanted: &wanted,
        plan: &plan,
    }
    .choose();
    Ok(plan)
}

/// A target that an interpreter's own function probes would end, because a path of it is not UTF-8.
#[derive(Debug, Clone)]
struct Endangered {
    /// The interpreter.
    file: FileId,
    /// `process 12` or `the command`.
    target: String,
    /// What shows it.
    sign: Sign,
    /// How the interpreter is called.
    who: String,
}

impl Endangered {
    fn refused(&self, next: String) -> PlanError {
        PlanError::Undecodable {
            target: self.target.clone(),
            sign: self.sign.clone(),
            who: self.who.clone(),
            next,
        }
    }
}

/// The targets whose paths show that armed probes would end them.
fn endangered(wanted: &Wanted, host: &HostSnapshot) -> Vec<Endangered> {
    let processes = host.targets.processes.iter().filter_map(|process| {
        let sign = host.processes.get(&process.pid)?.sign.as_ref()?;
        let interpreter = HostSnapshot::failing(wanted, process)?;
        Some((interpreter, format!("process {}", process.pid), sign))
    });
    let command = host.command.sign.as_ref().and_then(|sign| {
        let interpreter = host.failing_command(wanted)?;
        Some((interpreter, "the command".to_owned(), sign))
    });
    processes
        .chain(command)
        .map(|(interpreter, target, sign)| Endangered {
            file: interpreter.file,
            target,
            sign: sign.clone(),
            who: described(interpreter),
        })
        .collect()
}

/// The interpreters that the agent gets into wherever they run, now or later, as far as that can be known.
fn reached(request: &SessionRequest, host: &HostSnapshot) -> HashSet<FileId> {
    let targets = &host.targets;
    let (mut reached, mut closed) = (HashSet::new(), HashSet::new());
    for process in &targets.processes {
        let survey = host.processes.get(&process.pid);
        let is_open = survey.is_some_and(|it| matches!(it.attach, Some(Ok(_))));
        let mut files = process.interpreters.iter().map(|it| it.file);
        let first = files.next().filter(|_| is_open);
        reached.extend(first);
        // It has one agent, in the first.
        closed.extend(
            process
                .interpreters
                .first()
                .map(|it| it.file)
                .filter(|_| !is_open),
        );
        closed.extend(files);
    }
    if let Some(command) = &targets.command {
        let mut interpreters = command.interpreters.iter();
        if let Some(first) = interpreters.next() {
            match obstacle_of_command(host, first) {
                None => reached.insert(first.file),
                Some(_) => closed.insert(first.file),
            };
        }
        closed.extend(interpreters.map(|it| it.file));
    }
    let with_probes = others(request, targets).filter(|it| has_function_probes(it));
    closed.extend(with_probes.map(|it| it.file));
    &reached - &closed
}

/// The interpreters of which processes may come in which no agent waits, although others of them have one: those that join
/// targets, and those that a launched command leads to, because what does so (chroot, sudo) may leave its environment out.
pub(super) fn others<'a>(
    request: &SessionRequest,
    targets: &'a Targets,
) -> impl Iterator<Item = &'a Interpreter> {
    let newcomers = (request.targets).newcomers(None, &targets.parents);
    // What a launched command starts has its environment.
    let follows = request.targets.subprocesses && targets.command.is_none();
    let is_assumed = |it: &Expected| it.note.is_some() || !request.targets.python.is_empty();
    let is_led_to = targets.command.as_ref().is_some_and(is_assumed);
    let running = targets.processes.iter().flat_map(|it| &it.interpreters);
    let expected = targets.command.iter().flat_map(|it| &it.interpreters);
    let all = running.chain(&targets.python).chain(expected);
    all.filter(move |_| newcomers.is_some() || follows || is_led_to)
}

/// Why the agent cannot get into the command that is launched.
fn obstacle_of_command(host: &HostSnapshot, interpreter: &Interpreter) -> Option<String> {
    let version = interpreter.version.as_ref();
    let unsupported = version
        .filter(|version| !agent::supported(version))
        .map(|version| AttachMethodError::Unsupported {
            version: version.to_string(),
        });
    let isolated = host.command.isolated.as_ref();
    unsupported
        .or_else(|| agent::obstacle_of_build(&interpreter.image))
        .map(|reason| reason.to_string())
        .or_else(|| {
            isolated.map(|option| {
                format!(
                    "its interpreter is started with {option}, which leaves out the environment that brings the agent in; leave out {option}, or start it yourself and trace it with -p"
                )
            })
        })
}

/// What is decided about targets, probes and the agent.
struct Decision<'a> {
    request: &'a SessionRequest,
    host: &'a HostSnapshot,
    wanted: Wanted,
    endangered: Vec<Endangered>,
    /// The interpreters that are left to the agent where others are probed.
    reached: HashSet<FileId>,
    warnings: Vec<String>,
}

impl Decision<'_> {
    /// Refuses what the agent cannot do in the probes' stead, and says what it does so.
    fn refuse_endangered(&mut self) -> Result<(), PlanError> {
        let Some(first) = self.endangered.first() else {
            return Ok(());
        };
        let lines = self.wanted.probes.contains(&Probe::Line);
        let next = match self.request.agent.usage {
            _ if lines => {
                "leave line events out, which only this probe gives, or use --trust-paths if no code of the program is there"
            }
            AgentUsage::Never => {
                "leave out --no-agent (or use --agent), so that pystap's agent gives calls, which does no harm, or use --trust-paths if no code of the program is there"
            }
            AgentUsage::Auto => {
                self.warnings.push(format!(
                    "calls of {} come from pystap's agent (--agent), because a path is not UTF-8: {}, and the interpreter's own probes could end the program",
                    first.target, first.sign
                ));
                return Ok(());
            }
            AgentUsage::Always => return Ok(()),
        };
        Err(first.refused(next.to_owned()))
    }

    /// What the agent has to tell of an interpreter.
    fn missing(&self, interpreter: &Interpreter) -> MissingProbes {
        let endangered = self.endangered.iter().any(|it| it.file == interpreter.file);
        let reached = self.reached.contains(&interpreter.file);
        self.wanted.missing(interpreter, endangered, reached)
    }

    /// How the agent can get into a process, or why not.
    fn way_into(&self, pid: u32) -> Option<&Result<AttachMethod, String>> {
        self.host.processes.get(&pid)?.attach.as_ref()
    }

    /// The refusal of a target that only the agent could trace, and that it cannot get into.
    fn closed(&self, interpreter: &Interpreter, target: String, reason: String) -> PlanError {
        if let Some(endangered) = self.endangered.iter().find(|it| it.target == target) {
            return endangered.refused(format!(
                "pystap's agent (--agent), which does no harm, cannot get in: {reason}"
            ));
        }
        if self.wanted.is_direct() {
            return PlanError::NoDirectWay {
                why: self.wanted.why_direct(),
                target,
                reason,
            };
        }
        let by_name = self.request.agent.usage == AgentUsage::Always;
        let what = self.wanted.only_agents();
        if let Some(what) = what.or(by_name.then_some("--agent"))
            && has_function_probes(interpreter)
        {
            return PlanError::NoWayForValues {
                what,
                who: described(interpreter),
                target,
                reason,
            };
        }
        PlanError::NoWay {
            who: described(interpreter),
            kinds: match self.request.events.is_empty() {
                true => "call and return (the default)".to_owned(),
                false => self.wanted.events.join(" and "),
            },
            target,
            reason,
        }
    }

    /// What the agent does, where there is need of it and a way for it.
    fn agent(&self) -> Result<Option<AgentPlan>, PlanError> {
        let targets = &self.host.targets;
        let mut plan = AgentPlan {
            targets: Vec::new(),
            launched: false,
            later: false,
            directly: self.wanted.has_direct(),
            all: false,
            wanted: AgentConfig {
                filters: self.request.filters.clone(),
                capture: self.request.agent.capture.clone(),
                fields: self.wanted.fields.clone(),
                marks: self.wanted.functions().map(Probe::name).collect(),
                follow: self.request.targets.subprocesses,
                switches: self.request.agent.switches,
                ..AgentConfig::default()
            },
            libraries: Vec::new(),
        };
        let mut needed = MissingProbes::default();
        // The first that it cannot get into.
        let mut closed: Option<PlanError> = None;
        for process in &targets.processes {
            let Some(interpreter) = process.interpreters.first() else {
                continue;
            };
            let missing = self.missing(interpreter);
            if !missing.any() {
                continue;
            }
            match self.way_into(process.pid) {
                Some(Ok(way)) => {
                    plan.targets.push((process.pid, way.clone()));
                    needed.add(missing);
                }
                // What it has itself is worth a trace without the agent, when that is all that was left to us.
                _ if !missing.functions && !self.wanted.is_direct() => {}
                way => {
                    let reason = match way {
                        Some(Err(reason)) => reason.clone(),
                        _ => "nobody has looked for a way".to_owned(),
                    };
                    let target = format!("process {}", process.pid);
                    closed.get_or_insert_with(|| self.closed(interpreter, target, reason));
                }
            }
        }
        let expected = targets.command.iter();
        if let Some(interpreter) = expected.flat_map(|command| &command.interpreters).next() {
            let missing = self.missing(interpreter);
            if missing.any() {
                match obstacle_of_command(self.host, interpreter) {
                    Some(reason) => {
                        let target = "the command".to_owned();
                        closed.get_or_insert_with(|| self.closed(interpreter, target, reason));
                    }
                    None => {
                        plan.launched = true;
                        needed.add(missing);
                    }
                }
            }
        }
        for interpreter in &targets.python {
            let missing = self.missing(interpreter);
            if targets.everyone && missing.any() {
                plan.later = true;
                needed.add(missing);
            }
        }
        if !needed.any() {
            return closed.map_or(Ok(None), Err);
        }
        plan.wanted.functions = needed.functions.then(HashSet::new);
        plan.wanted.collections = needed.collections.then(HashSet::new);
        Ok(Some(plan))
    }

    /// The interpreters, each file once, with the processes that run it.
    fn interpreters(&self) -> BTreeMap<FileId, (&Interpreter, Vec<u32>)> {
        let targets = &self.host.targets;
        let running = targets.processes.iter().flat_map(|process| {
            let interpreters = process.interpreters.iter();
            interpreters.map(|interpreter| (interpreter, Some(process.pid)))
        });
        let expected = targets.command.iter().flat_map(|it| &it.interpreters);
        let others = expected.chain(&targets.python).map(|it| (it, None));
        let mut found: BTreeMap<FileId, (&Interpreter, Vec<u32>)> = BTreeMap::new();
        for (interpreter, pid) in running.chain(others) {
            let entry = found.entry(interpreter.file);
            let (_, pids) = entry.or_insert_with(|| (interpreter, Vec::new()));
            pids.extend(pid);
        }
        found
    }

    /// What is probed of the interpreters.
    fn images(&mut self, agent: Option<&AgentPlan>) -> Result<Vec<PlannedImage>, PlanError> {
        let interpreters = self.interpreters();
        let (mut images, mut unhidden) = (Vec::new(), Vec::new());
        for (interpreter, pids) in interpreters.values() {
            let missing = self.missing(interpreter);
            let probes: Vec<Probe> = self.wanted.of_interpreter(interpreter, missing).collect();
            if probes.is_empty() {
                continue;
            }
            // Nothing dangerous is done unasked.
            let harmful = probes
                .iter()
                .filter_map(|probe| Some((probe, behaviour(interpreter, *probe)?)));
            let mut harmful = harmful.filter(|(_, known)| known.status == Status::Dangerous);
            if self.request.events.is_empty()
                && let Some((probe, known)) = harmful.next()
            {
                return Err(PlanError::Harmful {
                    who: described(interpreter),
                    probe: probe.name(),
                    reason: known.sentence,
                });
            }
            let arguments =
                self.wanted.arguments_of(interpreter) && probes.contains(&Probe::FunctionEntry);
            if arguments {
                unhidden.push(format!(
                    "arguments come from a probe of {} itself, as text in which nothing is hidden, whatever its name",
                    described(interpreter)
                ));
            }
            let raises = probes.iter().any(|probe| raises(interpreter, *probe));
            images.push(PlannedImage {
                path: interpreter.path.clone(),
                pids: pids.clone(),
                line_semaphore: raises && !self.request.spare_line_semaphore,
                interpreter: (*interpreter).clone(),
                arguments,
                probes,
            });
        }
        let missing: Vec<EventKind> = self
            .wanted
            .events
            .iter()
            .filter_map(|event| EventKind::of_name(event))
            .filter(|kind| !is_possible(*kind, &images, agent))
            .collect();
        if self.wanted.is_direct() && !missing.is_empty() {
            let kinds: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
            return Err(PlanError::NotDirect {
                why: self.wanted.why_direct(),
                kinds: kinds.join(" and "),
            });
        }
        // Nobody asked for them, as for all that comes unasked: the patch of RHEL 7 has calls and no collections.
        if self.request.events.is_empty()
            && missing == [EventKind::Gc]
            && let Some((interpreter, _)) = interpreters.values().next()
        {
            self.warnings.push(format!(
                "garbage collections are not told, because {} has no probes for them",
                described(interpreter)
            ));
            self.wanted.leave_out(EventKind::Gc);
            return self.images(agent);
        }
        if let (Some(first), Some((interpreter, _))) =
            (missing.first(), interpreters.values().next())
        {
            return Err(self.without_probes(*first, &missing, interpreter));
        }
        self.warnings.extend(unhidden);
        Ok(images)
    }

    /// The refusal of kinds that no interpreter has the probes for.
    fn without_probes(
        &self,
        first: EventKind,
        missing: &[EventKind],
        interpreter: &Interpreter,
    ) -> PlanError {
        let probe = first.probes().first().copied();
        let image = &interpreter.image;
        let has_any = image.marks.iter().any(|mark| mark.provider == PROVIDER);
        let known = probe.and_then(|probe| behaviour(interpreter, probe));
        let (reason, elsewhere) = match known {
            _ if !has_any => (
                "it was built without probes (configure --with-dtrace), or they were taken away (by llvm-strip, which GNU strip does not do, or --strip-section-headers), so it has none at all.".to_owned(),
                "run the program with an interpreter that has probes: Debian's and Fedora's /usr/bin/python3 do, those of python.org images, pyenv, uv and conda do not".to_owned(),
            ),
            Some(known) if known.status == Status::Absent => (
                known.sentence.to_owned(),
                match probe.map(versions_with) {
                    Some(versions) if versions.is_empty() => {
                        "run the program with a Python that has one of the patches in docs/python-builds.md".to_owned()
                    }
                    Some(versions) => format!("run the program with Python {versions}"),
                    None => "see `pystap marks -p PID` for what it has".to_owned(),
                },
            ),
            _ => (
                format!("it has no probe {}.", probe.map_or("", Probe::name)),
                "see `pystap marks -p PID` for what it has".to_owned(),
            ),
        };
        let left: Vec<&str> = EventKind::ALL
            .into_iter()
            .filter(|kind| kind.is_possible(|probe| has(interpreter, probe)))
            .map(EventKind::name)
            .collect();
        let mut next = match left.is_empty() {
            true => elsewhere,
            false => format!(
                "trace what it has with `--events {}`, or {elsewhere}",
                left.join(",")
            ),
        };
        let version = interpreter.version.as_ref();
        let forbidden = self.request.agent.usage == AgentUsage::Never
            && version.is_some_and(agent::supported)
            && missing.iter().all(|kind| kind.is_agents());
        if forbidden {
            next = format!("leave out --no-agent, so that pystap's agent gives them, or {next}");
        }
        let names: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
        let mut kinds = names.join(" and ");
        if self.request.events.is_empty() {
            kinds.push_str(" (the default)");
        }
        PlanError::NoMarks {
            who: described(interpreter),
            kinds,
            reason,
            next,
        }
    }

    fn warn_of_quirks(&mut self, images: &[PlannedImage]) {
        for image in images {
            let path = image.path.display();
            let Some(version) = &image.interpreter.version else {
                if Probe::FUNCTIONS.iter().any(|it| image.probes.contains(it)) {
                    self.warnings.push(format!(
                        "calls of {path} are uncertain, because neither the file nor its name tells which Python it is, and what its probes report depends on that; use --agent for calls that do not depend on it"
                    ));
                }
                continue;
            };
            for probe in &image.probes {
                let Some(known) = behaviour(&image.interpreter, *probe) else {
                    continue;
                };
                match known.raise {
                    // Then it is complete.
                    Some(_) if image.line_semaphore => {}
                    Some(_) => self.warnings.push(format!(
                        "few calls of Python {version} ({path}) will be seen, and returns have no duration, because the semaphore of the line probe is left alone; leave out --no-line-semaphore to see all"
                    )),
                    None if matches!(known.status, Status::Useless | Status::Dangerous) => {
                        self.warnings.push(format!(
                            "{} of Python {version} ({path}): {}",
                            probe.name(),
                            known.sentence
                        ));
                    }
                    None => {}
                }
            }
        }
    }

    /// What the agent must know of the images, and what stands for its library until that is written out.
    fn complete(&mut self, agent: &mut AgentPlan, images: &[PlannedImage]) {
        let with = |probes: &[Probe]| {
            let has_all = |image: &&PlannedImage| probes.iter().all(|it| image.probes.contains(it));
            let files = images.iter().filter(has_all);
            files.map(|image| image.interpreter.file).collect()
        };
        let functions: Vec<Probe> = self.wanted.functions().collect();
        let told = &mut agent.wanted;
        told.functions = told.functions.take().map(|_| with(&functions));
        told.collections = told.collections.take().map(|_| with(&Probe::COLLECTIONS));
        let path = self.host.agent_library.clone();
        agent.libraries = vec![agent::expected_library(path, &agent.wanted)];
    }

    /// The targets that neither probes nor the agent reach, which is said of each.
    fn leave_out(&mut self, agent: Option<&AgentPlan>, images: &[PlannedImage]) -> Vec<u32> {
        let mut left_out = Vec::new();
        for process in &self.host.targets.processes {
            let pid = process.pid;
            let reached = agent.is_some_and(|agent| agent.targets.iter().any(|(it, _)| *it == pid));
            let probed = images.iter().any(|image| image.pids.contains(&pid));
            if reached || probed {
                continue;
            }
            let reason = match self.way_into(pid) {
                Some(Err(reason)) if self.request.agent.usage != AgentUsage::Never => reason,
                _ => "its interpreter has none of the probes",
            };
            let warning = format!("process {pid} is not traced: {reason}");
            self.warnings.push(warning);
            left_out.push(pid);
        }
        left_out
    }
}

/// Whether a kind can be had of at least one image, or of the agent.
fn is_possible(kind: EventKind, images: &[PlannedImage], agent: Option<&AgentPlan>) -> bool {
    let told = agent.map(|agent| &agent.wanted);
    let by_agent = told.is_some_and(|told| match kind {
        EventKind::Call | EventKind::Return => told.functions.is_some(),
        EventKind::Gc => told.collections.is_some(),
        _ => false,
    });
    by_agent
        || images
            .iter()
            .any(|image| kind.is_possible(|probe| image.probes.contains(&probe)))
}

/// What is decided about engines for a plan.
struct Engines<'a> {
    request: &'a SessionRequest,
    host: &'a HostSnapshot,
    wanted: &'a Wanted,
    plan: &'a Plan,
}

impl Engines<'_> {
    /// Chooses the engines of the plan: one, as all probes can be armed by one.
    fn choose(&self) -> Result<Vec<Source>, NoSource> {
        if self.request.purpose == Purpose::Script {
            return Ok(Vec::new());
        }
        self.contradiction()?;
        let engines = self.host.engines.iter().map(Box::as_ref);
        let in_question: Vec<&dyn Engine> = engines
            .filter(|engine| {
                let (name, abilities) = (engine.name(), engine.abilities());
                self.wanted.in_question(self.request, name, abilities)
            })
            .collect();
        let left_to_us = in_question.len() > 1;
        let mut obstacles = Vec::new();
        let mut usable = Vec::new();
        for engine in in_question {
            match self.obstacle(engine) {
                Some(obstacle) => obstacles.push((engine.name(), obstacle)),
                None => usable.push(engine),
            }
        }
        let not_failed = usable.iter().position(|it| it.failed_before().is_none());
        let at = not_failed.unwrap_or(0);
        let Some(engine) = usable.get(at) else {
            return Err(match obstacles.pop() {
                Some((engine, obstacle)) if !left_to_us => NoSource::Obstacle { engine, obstacle },
                last => NoSource::All(obstacles.into_iter().chain(last).collect()),
            });
        };
        let passed_over = usable.iter().take(at).find_map(|failed| {
            let known = failed.failed_before()?;
            Some(format!(
                "{} has failed here before: {known}",
                failed.title()
            ))
        });
        let because = obstacles
            .first()
            .map(|(_, obstacle)| clause(&obstacle.message).to_owned())
            .or(passed_over);
        let is_first = self
            .host
            .engines
            .first()
            .is_some_and(|it| it.name() == engine.name());
        let reason = match because {
            Some(because) if !is_first => format!("{}, because {because}", engine.title()),
            _ => format!("{}, which is installed", engine.title()),
        };
        let source = Source {
            engine: engine.name(),
            abilities: engine.abilities(),
            reason: left_to_us.then_some(reason),
            instead: usable
                .get(at + 1)
                .map(|it| it.name())
                .filter(|_| left_to_us),
        };
        Ok([source].into_iter().chain(self.by_agents()).collect())
    }

    /// The engine for what agents tell by themselves beside another.
    fn by_agents(&self) -> Option<Source> {
        let tells = |agent: &AgentPlan| self.wanted.is_mixed() && agent.directly;
        self.plan.agent.as_ref().filter(|agent| tells(agent))?;
        let mut engines = self.host.engines.iter();
        let engine = engines.find(|engine| engine.abilities().by_agent)?;
        Some(Source {
            engine: engine.name(),
            abilities: engine.abilities(),
            reason: None,
            instead: None,
        })
    }

    /// An engine that was named, and something else that it has no use for.
    fn contradiction(&self) -> Result<(), NoSource> {
        let named = self.request.engine.named.as_deref();
        let engines = &mut self.host.engines.iter();
        let Some(engine) = engines.find(|it| Some(it.name()) == named) else {
            return Ok(());
        };
        let abilities = engine.abilities();
        let what = match &self.wanted.own_template {
            _ if abilities.by_agent && self.request.engine.buffer.is_some() => {
                "--buffer is about the kernel's buffers".to_owned()
            }
            _ if abilities.scripts || !self.wanted.needs_scripts(self.request) => return Ok(()),
            Some(template) => format!("the template {template} is a SystemTap script"),
            None => "options for stap were given".to_owned(),
        };
        Err(NoSource::Conflict {
            engine: engine.name(),
            what,
        })
    }

    /// What stands in the way of an engine.
    fn obstacle(&self, engine: &dyn Engine) -> Option<Obstacle> {
        let compiles = self.request.purpose.is_compile();
        let of_targets = || Some(self.obstacle_of_targets(engine)?.obstacle());
        engine
            .forbidden()
            .or_else(|| if compiles { None } else { of_targets() })
            .or_else(|| engine.obstacle(self.plan))
    }

    /// What about the targets an engine cannot do, or must not.
    fn obstacle_of_targets(&self, engine: &dyn Engine) -> Option<PlanError> {
        let abilities = engine.abilities();
        let by_path = |found: Option<PlanError>| found.filter(|_| abilities.by_path);
        by_path(self.agent_out_of_reach())
            .or_else(|| {
                self.endangered_bystander()
                    .filter(|_| abilities.arms_everyone)
            })
            .or_else(|| by_path(self.image_out_of_reach()))
    }

    /// An agent that is not to be found by its path.
    fn agent_out_of_reach(&self) -> Option<PlanError> {
        let probed = self.plan.agent.iter().filter(|agent| !agent.directly);
        let targets = probed.flat_map(|agent| &agent.targets);
        targets.map(|(pid, _)| *pid).find_map(|pid| {
            let survey = self.host.processes.get(&pid)?;
            let loaded = survey.loaded.as_ref();
            let path = loaded.map_or_else(|| self.host.agent_library.clone(), |it| it.path.clone());
            match loaded {
                Some(loaded) if loaded.displaced => Some(PlanError::Displaced { path }),
                Some(loaded) if loaded.deleted => Some(PlanError::Replaced { path, pid }),
                _ if survey.elsewhere => Some(PlanError::Container { path, pid }),
                _ => None,
            }
        })
    }

    /// An interpreter that is not to be found by its path.
    fn image_out_of_reach(&self) -> Option<PlanError> {
        let elsewhere =
            |pid: &u32| (self.host.processes.get(pid)).is_some_and(|survey| survey.elsewhere);
        self.plan.images.iter().find_map(|image| {
            let path = image.path.clone();
            if image.interpreter.image.is_displaced() {
                return Some(PlanError::Displaced { path });
            }
            if let (true, Some(pid)) = (image.interpreter.replaced, image.pids.first()) {
                return Some(PlanError::Replaced { path, pid: *pid });
            }
            let pid = image.pids.iter().copied().find(elsewhere)?;
            Some(PlanError::Container { path, pid })
        })
    }

    /// A process beside the targets that armed probes would end.
    fn endangered_bystander(&self) -> Option<PlanError> {
        let mut bystanders = self.host.bystanders.iter();
        let bystander = bystanders.find(|it| self.plan.fails_on_paths.contains(&it.file))?;
        let mut images = self.plan.images.iter();
        let image = images.find(|image| image.interpreter.file == bystander.file)?;
        let found = Endangered {
            file: bystander.file,
            target: format!(
                "process {}, in which SystemTap would arm the probes as well,",
                bystander.pid
            ),
            sign: bystander.sign.clone(),
            who: described(&image.interpreter),
        };
        let next =
            "use --engine uprobes, which arms the targets only, or --agent, which does no harm";
        Some(found.refused(next.to_owned()))
    }
}

/// An interpreter, for messages.
fn described(interpreter: &Interpreter) -> String {
    match &interpreter.version {
        Some(version) => format!("Python {version} ({})", Foreign::path(&interpreter.path)),
        None => Foreign::path(&interpreter.path).to_string(),
    }
}

/// Whether a probe fires completely only while the semaphore of the line probe is raised. An interpreter of unknown version
/// may be of the one that needs it; the others are only slower by it.
fn raises(interpreter: &Interpreter, probe: Probe) -> bool {
    match behaviour(interpreter, probe) {
        Some(known) => known.raise.is_some(),
        None => probe == Probe::FunctionEntry && has(interpreter, Probe::Line),
    }
}

/// What a probe is known to do in this interpreter.
fn behaviour(interpreter: &Interpreter, probe: Probe) -> Option<marks::Behaviour> {
    let version = interpreter.version.as_ref()?;
    let version = (version.major, version.minor);
    let marks = &interpreter.image.marks;
    let mark = marks
        .iter()
        .find(|mark| mark.provider == PROVIDER && mark.name == probe.name());
    Some(match mark {
        Some(mark) => marks::behaviour_of(version, mark),
        None => marks::behaviour(version, probe.name()),
    })
}

/// The versions in which CPython's own builds have a probe that does no harm: `3.6 to 3.11, 3.15 or later`. Empty where none has.
fn versions_with(probe: Probe) -> String {
    let named = marks::harmless_spans(probe.name())
        .into_iter()
        .map(|(first, last)| {
            let name = |(major, minor): marks::Version| format!("{major}.{minor}");
            match last {
                Some(last) if last == first => name(first),
                Some(last) => format!("{} to {}", name(first), name(last)),
                None => format!("{} or later", name(first)),
            }
        });
    named.collect::<Vec<_>>().join(", ")
}
