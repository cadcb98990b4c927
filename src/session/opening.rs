//! How a session begins: from a request to a plan, from the plan to a prepared engine, from there to probes that are live. Then
//! it runs (`running`), and at last what came of it is said.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::agents::SessionAgents;
use super::bundled;
use super::choose::{Choice, choose, decided};
use super::describe::describe;
use super::missed::Awaited;
use super::pipe::Minimum;
use super::plan::{Plan, Source};
use super::refusal;
use super::request::{Purpose, SessionRequest};
use super::running::{Outcome, Session};
use super::snapshot::HostSnapshot;
use super::stop::{self, Stop, StopSignals};
use super::templates::Templates;
use crate::analysis::found::FieldsFound;
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::clock;
use crate::console::{Console, Exit, Spinner};
use crate::engine::Running;
use crate::engine::abilities::{Abilities, clause};
use crate::engine::all;
use crate::engine::event_cost::EventCost;
use crate::engine::lifecycle::{Audience, Beginning, Busy, Engine, Ready};
use crate::engine::merged::Merged;
use crate::engine::waits::Waits;
use crate::event::{self, ArmedMark, SessionTarget};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::field;
use crate::process::{Conditions, Expected, Family, Identity, Launched, Process, Watch};
use crate::python::marks::PROVIDER;
use crate::text::Foreign;
use crate::waits;

/// How long the first line waits until a target that begins has said what an event costs there, and where it is only likely that one
/// begins at all.
const COST: Duration = Duration::from_secs(1);
const UNLIKELY_COST: Duration = Duration::from_millis(200);

/// Makes the sink of a session from its output and the rules of the interpreters that it traces.
pub(crate) type MakeSink<'a> = dyn Fn(Output, PairingRules) -> Box<dyn Sink> + 'a;

/// A session that is decided and not begun.
pub(crate) struct Decided<'a> {
    /// As it was made.
    asked: &'a SessionRequest,
    /// As it is carried out.
    request: Cow<'a, SessionRequest>,
    templates: Templates,
    host: HostSnapshot,
    plan: Plan,
}

/// What came of a session.
pub(crate) struct Ended {
    /// The exit code of pystap.
    pub(crate) code: u8,
    /// The command that was launched, which may still run.
    pub(crate) launched: Option<Launched>,
}

impl Ended {
    /// Of one that was to trace nothing.
    fn done() -> Ended {
        Ended {
            code: Exit::Done.into(),
            launched: None,
        }
    }
}

impl<'a> Decided<'a> {
    /// Looks at the host and decides. Starts nothing.
    ///
    /// # Errors
    /// What is wrong with the request, and what stands in the way of tracing at all.
    pub(crate) fn new(asked: &'a SessionRequest) -> Result<Decided<'a>, Failure> {
        if let Some(misuse) = all::misuse(&asked.engine) {
            return Err(misuse);
        }
        let templates = Templates::load(asked.template_directory.as_deref())?;
        let Choice {
            request,
            host,
            plan,
        } = match &asked.engine.bundle {
            Some(bundle) => {
                let request = bundled::request(asked, bundle)?;
                decided(Cow::Owned(request), &templates.catalogue)?
            }
            None => choose(asked, &templates.catalogue)?,
        };
        // The user's own mistakes come before what the host lacks.
        if plan.own_template.is_some() {
            templates.script(&plan)?;
            templates.tapsets()?;
        }
        Ok(Decided {
            asked,
            request,
            templates,
            host,
            plan,
        })
    }

    /// The processes that run already and are to be traced.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.plan.targets.processes.iter()
    }

    /// Whether calls are added up before they come here, by an engine that can.
    pub(crate) fn adds_up(&self) -> bool {
        self.plan.totals()
    }

    /// The text of its script.
    ///
    /// # Errors
    /// When a template or tapset is wrong.
    pub(crate) fn script(&self) -> Result<String, Failure> {
        let text = self.templates.script(&self.plan)?;
        self.templates.tapsets()?;
        Ok(text)
    }

    /// Runs it to its end, or as far as was asked for. The exit code of pystap. What a dry run shows goes to `show`; what a
    /// launched command writes goes to the file `aside`, if there is one.
    ///
    /// # Errors
    /// What stands in the way, and what fails before probes are live.
    pub(crate) fn run(
        self,
        make_sink: &MakeSink<'_>,
        show: impl FnOnce(&str) -> std::io::Result<()>,
        aside: Option<&File>,
        console: &Console,
    ) -> Result<u8, Failure> {
        if self.request.purpose == Purpose::DryRun {
            self.warn(console);
            show(&self.described(console)?)?;
            return Ok(Exit::Done.into());
        }
        let stops = StopSignals::listen().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!(
                    "signals cannot be caught ({error}), so a trace could not be ended; try again"
                ),
            )
        })?;
        Ok(self.run_until(make_sink, aside, &stops, console)?.code)
    }

    /// Traces until something comes from `stops`, whose signals are caught already.
    ///
    /// # Errors
    /// What stands in the way, and what fails before probes are live.
    pub(crate) fn run_until(
        mut self,
        make_sink: &MakeSink<'_>,
        aside: Option<&File>,
        stops: &StopSignals,
        console: &Console,
    ) -> Result<Ended, Failure> {
        let audience = Waiting { console, stops };
        match self.carried_out(make_sink, aside, &audience) {
            // Nothing was traced and nothing written.
            Err(failure) if failure.exit == Exit::Unready && stops.requests().is_empty() => {
                self = self.with_probes(failure, console)?;
                self.carried_out(make_sink, aside, &audience)
            }
            other => other,
        }
    }

    /// The same by the interpreters' own probes, where the agent alone was to do it, did not come in, and they are there.
    ///
    /// # Errors
    /// The failure, where that is no way out.
    fn with_probes(self, failure: Failure, console: &Console) -> Result<Decided<'a>, Failure> {
        let engine = &self.asked.engine;
        let is_given = engine.named.is_some() || engine.bundle.is_some();
        let has_others = self.plan.agent.as_ref().is_some_and(|agent| agent.all);
        if is_given || !has_others {
            return Err(failure);
        }
        let Ok(Choice {
            request,
            host,
            plan,
        }) = decided(Cow::Borrowed(self.asked), &self.templates.catalogue)
        else {
            return Err(failure);
        };
        let engine = plan.sources.as_ref().ok().and_then(|it| it.first());
        let Some(engine) = engine else {
            return Err(failure);
        };
        console.warning(format_args!(
            "{}; tracing with --engine {} instead (--engine {} insists)",
            clause(&failure.message),
            engine.engine,
            all::BY_AGENT
        ));
        Ok(Decided {
            request,
            host,
            plan,
            ..self
        })
    }

    fn warn(&self, console: &Console) {
        for warning in &self.plan.warnings {
            console.warning(warning);
        }
    }

    fn carried_out(
        &mut self,
        make_sink: &MakeSink<'_>,
        aside: Option<&File>,
        audience: &Waiting<'_>,
    ) -> Result<Ended, Failure> {
        let (console, stops) = (audience.console, audience.stops);
        self.warn(console);
        let sources = self.sources()?;
        let output = match self.request.purpose.is_compile() {
            true => None,
            false => match output(&self.request, stops, console)? {
                Some(output) => Some(output),
                None => return Ok(Ended::done()),
            },
        };
        // Some engines read the probes of the agent's library, so that it has to be there before they are prepared.
        let agents = SessionAgents::prepare(&mut self.plan)?;
        let mut prepared = Vec::new();
        for source in sources {
            match self.prepare(&source, audience)? {
                Some(engine) => prepared.push(engine),
                None => return Ok(Ended::done()),
            }
        }
        let Some(output) = output else {
            return Ok(Ended::done());
        };
        let surroundings = TraceContext {
            request: &self.request,
            make_sink,
            aside,
            stops,
            console,
        };
        let outcome = surroundings.trace(&self.plan, prepared, output, agents)?;
        Ok(Ended {
            code: conclude(&self.request, &outcome, console),
            launched: outcome.launched,
        })
    }

    fn sources(&self) -> Result<Vec<Source>, Failure> {
        let sources = self.plan.sources.clone();
        sources
            .map_err(|refused| refusal::failure(&refused, &self.request, &self.templates.catalogue))
    }

    fn engine(&self, name: &str) -> Result<&dyn Engine, Failure> {
        let mut engines = self.host.engines.iter().map(Box::as_ref);
        engines
            .find(|engine| engine.name() == name)
            .ok_or_else(|| Failure::new(Exit::Failed, format!("there is no engine {name}")))
    }

    /// What a dry run shows. Where no engine can run the plan, the one that would be preferred.
    fn described(&self, console: &Console) -> Result<String, Failure> {
        let (sources, obstacle) = match self.sources() {
            Ok(sources) => (sources, None),
            Err(obstacle) => {
                console.warning(&obstacle.message);
                let engine = self.host.engines.first();
                let assumed = engine.map(|engine| Source {
                    engine: engine.name(),
                    abilities: engine.abilities(),
                    reason: None,
                    instead: None,
                });
                (assumed.into_iter().collect(), Some(obstacle.message))
            }
        };
        let all = |has: fn(Abilities) -> bool| sources.iter().all(|it| has(it.abilities));
        let abilities = Abilities {
            measures: all(|it| it.measures),
            by_agent: all(|it| it.by_agent),
            ..Abilities::default()
        };
        let mut text = describe(&self.plan, abilities);
        for source in sources {
            let description = self
                .engine(source.engine)?
                .describe(&self.plan, &self.templates)?;
            for warning in description.warnings {
                if obstacle.as_ref() != Some(&warning) {
                    console.warning(warning);
                }
            }
            text.push('\n');
            if let Some(reason) = source.reason {
                text.push_str(&format!("engine     {reason}\n"));
            }
            text.push_str(&description.text);
        }
        Ok(text)
    }

    /// Does what takes time. Where that fails and the choice was left to us, the next engine takes its place. `None` when the
    /// user stopped it, or wanted nothing else.
    fn prepare(
        &self,
        source: &Source,
        audience: &Waiting<'_>,
    ) -> Result<Option<PreparedSource>, Failure> {
        let console = audience.console;
        let mut notes: Vec<String> = source.reason.iter().cloned().collect();
        if let Some(reason) = &source.reason {
            console.note(format_args!("tracing with {reason}"));
        }
        let prepare = |engine: &dyn Engine, notes: &mut Vec<String>| {
            engine.prepare(&self.plan, &self.templates, audience, notes)
        };
        let mut engine = self.engine(source.engine)?;
        let ready = match prepare(engine, &mut notes) {
            Err(failure) if failure.exit == Exit::Unready => {
                let Some(instead) = source.instead else {
                    return Err(failure);
                };
                let failed = std::mem::replace(&mut engine, self.engine(instead)?);
                let because = clause(&failure.message);
                failed.remember_failure(because);
                console.warning(format_args!(
                    "{because}; tracing with {} instead (--engine {} insists)",
                    engine.title(),
                    failed.name()
                ));
                notes = vec![format!("{}, because {because}", engine.title())];
                prepare(engine, &mut notes)?
            }
            other => other?,
        };
        Ok(ready.map(|ready| PreparedSource {
            name: engine.name(),
            abilities: engine.abilities(),
            ready,
            notes,
        }))
    }
}

/// An engine that can be started at once.
struct PreparedSource {
    name: &'static str,
    abilities: Abilities,
    ready: Box<dyn Ready>,
    /// What the first line of a trace says of it.
    notes: Vec<String>,
}

/// The user, who waits for an engine.
pub(crate) struct Waiting<'a> {
    pub(crate) console: &'a Console,
    pub(crate) stops: &'a StopSignals,
}

impl Audience for Waiting<'_> {
    fn warning(&self, message: &dyn Display) {
        self.console.warning(message);
    }

    fn note(&self, message: &dyn Display) {
        self.console.note(message);
    }

    fn detail(&self, message: &dyn Display) {
        self.console.detail(message);
    }

    fn busy(&self, activity: &str) -> Box<dyn Busy> {
        Box::new(self.console.spinner(activity))
    }

    fn stops(&self) -> &Receiver<Stop> {
        self.stops.requests()
    }
}

impl Busy for Spinner {}

/// Opens the output. `None` when somebody stopped us while nobody read it.
pub(super) fn output(
    request: &SessionRequest,
    stops: &StopSignals,
    console: &Console,
) -> Result<Option<Output>, Failure> {
    let path = request.output.as_deref();
    let begun = Instant::now();
    let mut said = false;
    let mut expired = false;
    let opened = Output::open(path, stop::give_up(), |time| {
        if !std::mem::replace(&mut said, true)
            && let Some(path) = path
        {
            console.note(format_args!(
                "{} is a pipe that nobody reads, so tracing begins when somebody opens it for reading; Ctrl-C stops",
                Foreign::path(path)
            ));
        }
        let longest = request.limits.duration;
        expired = longest.is_some_and(|longest| begun.elapsed() >= longest);
        !expired && stops.requests().recv_timeout(time).is_err()
    })?;
    let Some(output) = opened else {
        let whose = path.map_or_else(String::new, |path| Foreign::path(path).to_string());
        if expired {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "nobody opened the pipe {whose} for reading in the time that --duration gives, so nothing was traced; start its reader first"
                ),
            ));
        }
        console.note(format_args!(
            "stopped while nobody read {whose}; nothing was traced"
        ));
        return Ok(None);
    };
    for name in &request.agent.hidden_fields {
        console.warning(format_args!(
            "field {name} is left out, because its name or the last one of its path is of those whose values are nobody's business; --capture-hide names others"
        ));
    }
    if (request.agent.capture.any() || !request.agent.fields.is_empty())
        && !request.goes_elsewhere
        && let Some(mode) = output.open_to_others()
    {
        console.warning(format_args!(
            "values of the program are written to {}, which other users may read (its mode is {mode:04o}); make it private, or name a new file with --output",
            path.map_or("standard output".to_owned(), |path| Foreign::path(path).to_string())
        ));
    }
    Ok(Some(output))
}

/// What a trace is run with.
struct TraceContext<'a> {
    request: &'a SessionRequest,
    make_sink: &'a MakeSink<'a>,
    aside: Option<&'a File>,
    stops: &'a StopSignals,
    console: &'a Console,
}

impl TraceContext<'_> {
    fn trace(
        &self,
        plan: &Plan,
        prepared: Vec<PreparedSource>,
        output: Output,
        mut agents: Option<SessionAgents>,
    ) -> Result<Outcome, Failure> {
        let (stops, console, limits) = (self.stops, self.console, self.request.limits);
        if let Some(agents) = &mut agents
            && prepared.iter().any(|source| source.abilities.by_path)
        {
            agents.keep_where_mapped();
        }
        let watch = Watch::new()?;
        let mut notes = Vec::new();
        let waits = self.waits(plan, &mut notes)?;
        let mut targets = plan.pids();
        for process in &plan.targets.processes {
            watch.add(process.pid, process.start_time)?;
        }
        // Their end is the end of what they may start.
        for parent in &plan.targets.parents {
            watch.add(parent.pid, parent.start_time)?;
        }
        let launched = self.launch(plan, agents.as_mut())?;
        if let Some(launched) = &launched {
            targets.push(launched.pid());
            watch.add(launched.pid(), launched.start_time())?;
        }
        let mut beginning = Beginning {
            targets,
            ..Beginning::default()
        };
        if let Some(agents) = &agents {
            beginning.lineage = agents.begin_with(plan, launched.as_ref());
        }
        let mut opening = session_line(plan, &prepared);
        if waits.is_some() {
            opening.events.push(event::Wait::KIND.to_owned());
            opening.notes.append(&mut notes);
        }
        let sink = (self.make_sink)(output, plan.rules());
        let by_agent = prepared.iter().all(|source| source.abilities.by_agent);
        let starting = console.spinner(match by_agent {
            true => "waiting for the agents",
            false => "arming the probes",
        });
        let can_measure = prepared.iter().all(|source| source.abilities.measures);
        let measures = can_measure && plan.times_calls();
        let hears_of_release = prepared.iter().any(|source| source.abilities.arms_everyone);
        let stopped = || !stops.requests().is_empty();
        let mut engines = Vec::new();
        for source in prepared {
            engines.push(source.ready.start(plan, &beginning, &stopped)?);
        }
        // Of two engines nobody knows from which an event is, and where only long calls are told not how many others there were.
        let event_cost = match engines.as_slice() {
            [only] if plan.minimum_ns().is_none() => only.event_cost(),
            _ => EventCost::Unknown,
        };
        if let Some(mut waits) = waits {
            if let Some(launched) = &launched {
                waits
                    .add_target(launched.pid())
                    .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            }
            engines.push(Box::new(waits));
        }
        let engine = together(engines)?;
        if let Some(agents) = &agents {
            agents.tell(engine.as_ref());
        }
        if let Some(launched) = &launched {
            let expected = plan.targets.command.as_ref();
            opening
                .targets
                .push(of_command(&plan.command, expected, launched));
        }
        let family = family(plan, launched.as_ref(), agents.is_some());
        let awaited = plan.tells_functions().then(|| Awaited {
            sought: self.request.sought.clone(),
            long_only: measures && plan.minimum_ns().is_some(),
            classes: agents.is_some(),
            added_up: self.request.totals && ["stap", "direct"].contains(&&*opening.engine),
        });
        let processes = plan.targets.processes.iter();
        let released = launched.as_ref().map(Launched::pid);
        // The module of a bundle may probe more than the plan asks for.
        let bundle = self.request.engine.opened.as_ref();
        let follows_every_program =
            plan.follows_every_program() || bundle.is_some_and(|it| it.follows_every_program());
        let session = Session {
            engine,
            sink,
            pairing: match &self.request.group_by {
                Some(field) => Pairing::with_rules(plan.rules()).grouped(field),
                None => Pairing::with_rules(plan.rules()),
            },
            filters: plan.filters.clone(),
            watch,
            programs: processes.map(|it| (it.pid, it.program())).collect(),
            released: released.filter(|_| hears_of_release && follows_every_program),
            launched,
            newcomers: plan.newcomers.clone(),
            fails_on_paths: plan.fails_on_paths.clone(),
            probed: plan.probed_files(),
            family,
            left_out: plan.left_out.clone(),
            agents,
            max_events: limits.max_events,
            awaited,
            minimum: plan.minimum_ns().map(|ns| Minimum {
                ns,
                by_engine: measures,
                with_idle: self.request.with_idle,
            }),
            fields: FieldsFound::new(
                field::told_by_returns(plan.fields()),
                self.request.agent.by_recipe,
            ),
            measured: measures,
            elsewhere: false,
            console,
        };
        // Of a command that may be no Python at all, nothing may come for long.
        let may_be_no_python = |expected: &Expected| expected.note.is_some();
        let patience = match &plan.targets.command {
            Some(expected) if may_be_no_python(expected) => UNLIKELY_COST,
            _ => COST,
        };
        let mut starting = Some(starting);
        session.run(stops, |session| {
            if let Some(agents) = &mut session.agents {
                agents.attach(plan, stops, console)?;
            }
            drop(starting.take());
            // Whoever hears that a target is traced shall not find that nobody looks at it yet. A command tells nothing before it runs.
            let at_once = session.launched.is_none() && session.traced(plan) > 0;
            let mut cost = event_cost.within(if at_once { COST } else { Duration::ZERO });
            let what = match &session.launched {
                Some(launched) => format!("process {}", launched.pid()),
                None => match session.traced(plan) {
                    1 => "one process".to_owned(),
                    count => format!("{count} processes"),
                },
            };
            let live = if by_agent { "live" } else { "probes are live" };
            console.note(format_args!("{live}, tracing {what}; Ctrl-C stops"));
            if let Some(duration) = limits.duration {
                stops.after(duration)?;
            }
            opening.ts = clock::now();
            let has_launched = session.launched.is_some();
            let mut release = || session.launched.as_mut().map_or(Ok(()), Launched::release);
            if cost.is_none() && has_launched && matches!(event_cost, EventCost::Awaited(_)) {
                release()?;
                cost = event_cost.within(patience);
            }
            opening.overhead_ns_per_event = cost.map(|it| it.per_event);
            opening.overhead_ns_within_call = cost.and_then(|it| it.within_call);
            let written = session.sink.session(&opening);
            release()?;
            Ok(written)
        })
    }

    /// Begins to listen to the scheduler, where waits are wanted.
    fn waits(&self, plan: &Plan, notes: &mut Vec<String>) -> Result<Option<Waits>, Failure> {
        if !self.request.waits {
            return Ok(None);
        }
        let processes = plan.targets.processes.iter();
        let targets: Vec<waits::Target> = processes
            .map(|process| waits::Target {
                pid: process.pid,
                started: process.start_time,
            })
            .collect();
        let waits = Waits::begin(&targets, notes)
            .map_err(|error| Failure::new(Exit::of(error.exit_code()), error.to_string()))?;
        for note in notes.iter() {
            self.console.warning(note);
        }
        Ok(Some(waits))
    }

    /// Launches the command, held until it is released; `None` when there is none.
    fn launch(
        &self,
        plan: &Plan,
        agents: Option<&mut SessionAgents>,
    ) -> Result<Option<Launched>, Failure> {
        if plan.command.is_empty() {
            return Ok(None);
        }
        let variables = match agents {
            Some(agents) => agents.environment()?,
            None => Vec::new(),
        };
        let conditions = Conditions {
            variables: &variables,
            aside: self.aside,
        };
        Ok(Some(Launched::start(&plan.command, conditions)?))
    }
}

/// What they say as one. A single engine needs no thread that merges.
fn together(mut engines: Vec<Box<dyn Running>>) -> Result<Box<dyn Running>, Failure> {
    match engines.pop() {
        Some(only) if engines.is_empty() => Ok(only),
        last => {
            engines.extend(last);
            Ok(Box::new(Merged::new(engines)?))
        }
    }
}

/// The processes in which other interpreters than those that are probed are to be noticed. `None` where nothing is probed and
/// there are no agents.
fn family(plan: &Plan, launched: Option<&Launched>, agents: bool) -> Option<Family> {
    let files = match &plan.agent {
        // Of the others, some probes may be armed, but not those that the agent tells.
        Some(agent) if agents => agent.wanted.told_by_marks(),
        _ => plan.probed_files(),
    };
    let processes = plan.targets.processes.iter();
    let targets = processes
        .filter(|process| !plan.left_out.contains(&process.pid))
        .map(|process| (process.pid, process.start_time));
    let launched = launched.map(|launched| (launched.pid(), launched.start_time()));
    let roots = targets.chain(launched);
    let roots = roots.map(|(pid, start_time)| Identity { pid, start_time });
    (agents || !files.is_empty()).then(|| Family {
        roots: roots.collect(),
        descendants: plan.follow,
        files,
    })
}

/// A command among the targets of the first line, and what is expected of its interpreters.
pub(crate) fn of_command(
    command: &[OsString],
    expected: Option<&Expected>,
    launched: &Launched,
) -> SessionTarget {
    let words = command.iter().map(|word| word.to_string_lossy());
    let mut interpreters = expected.iter().flat_map(|expected| &expected.interpreters);
    SessionTarget {
        pid: launched.pid(),
        command: words.collect::<Vec<_>>().join(" "),
        python: interpreters
            .find_map(|interpreter| interpreter.version.as_ref())
            .map(ToString::to_string),
    }
}

/// The first line of a trace.
fn session_line(plan: &Plan, sources: &[PreparedSource]) -> event::Session {
    let engines: Vec<&str> = sources.iter().map(|source| source.name).collect();
    let notes = sources.iter().flat_map(|source| &source.notes);
    event::Session {
        ts: 0,
        pystap: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engines.join("+"),
        notes: notes.chain(&plan.warnings).cloned().collect(),
        targets: plan
            .targets
            .processes
            .iter()
            .map(|process| SessionTarget {
                pid: process.pid,
                command: process.command_line.join(" "),
                python: process
                    .interpreters
                    .iter()
                    .find_map(|found| found.version.as_ref())
                    .map(ToString::to_string),
            })
            .collect(),
        armed: plan
            .images
            .iter()
            .flat_map(|image| {
                image.probes.iter().map(|probe| ArmedMark {
                    image: image.path.display().to_string(),
                    build_id: image.interpreter.image.build_id.clone(),
                    mark: format!("{PROVIDER}:{}", probe.name()),
                    sites: image
                        .interpreter
                        .image
                        .mark(PROVIDER, probe.name())
                        .map_or(0, |mark| mark.sites.len()),
                })
            })
            .chain(plan.libraries().flat_map(|(path, probed)| {
                probed.marks.iter().map(|mark| ArmedMark {
                    image: path.display().to_string(),
                    build_id: probed.image.build_id.clone(),
                    mark: format!("{}:{mark}", probed.provider),
                    sites: probed
                        .image
                        .mark(probed.provider, mark)
                        .map_or(0, |mark| mark.sites.len()),
                })
            }))
            .collect(),
        events: plan.events.clone(),
        fields: field::paths(plan.fields()),
        filter: filter(plan),
        host: crate::clock::host(),
        boot: crate::clock::boot(),
        hosts: Vec::new(),
        overhead_ns_per_event: None,
        overhead_ns_within_call: None,
    }
}

/// Which calls are traced, in words; `None` for all.
fn filter(plan: &Plan) -> Option<String> {
    let functions = (!plan.filters.is_empty()).then(|| plan.filters.to_string());
    let long = plan
        .min_duration
        .map(|least| format!("calls of {} and longer", humantime::format_duration(least)));
    let words: Vec<String> = functions.into_iter().chain(long).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// The last words, and the exit code.
pub(super) fn conclude(request: &SessionRequest, outcome: &Outcome, console: &Console) -> u8 {
    let summary = &outcome.summary;
    let mut account = Vec::new();
    for (count, what) in [
        (summary.lost, "lost"),
        (summary.skipped, "skipped"),
        (summary.unparsed, "unreadable"),
    ] {
        if count > 0 {
            account.push(format!("{count} {what}"));
        }
    }
    match summary.untimed {
        0 => {}
        1 => account.push("one more call of unknown duration not shown".to_owned()),
        count => account.push(format!("{count} more calls of unknown duration not shown")),
    }
    if summary.uncounted {
        account.push("an unknown number possibly lost".to_owned());
    }
    let time = match summary.untraced_ns {
        0 => String::new(),
        time => format!(" for {:.1} s", time as f64 / 1e9),
    };
    match summary.untraced_processes {
        0 if time.is_empty() => {}
        0 => account.push(format!("processes untraced{time} until the agent came in")),
        1 => account.push(format!("one process untraced{time}")),
        count => account.push(format!("{count} processes untraced{time}")),
    }
    if outcome.unwritten > 0 {
        account.push(format!("{} not written", outcome.unwritten));
    }
    let account = match account.is_empty() {
        true if outcome.output_error.is_some() => "but not the end of them".to_owned(),
        true => "nothing lost".to_owned(),
        false => account.join(", "),
    };
    let command = outcome.launched.as_ref();
    let why = outcome.stop.said(command.and_then(Launched::status));
    let seconds = summary.wall_ns as f64 / 1e9;
    let events = match summary.delivered {
        // What was added up elsewhere came as no event.
        0 if request.totals => String::new(),
        1 => "one event, ".to_owned(),
        count => format!("{count} events, "),
    };
    console.note(format_args!(
        "{why} after {seconds:.1} s: {events}{account}"
    ));
    if summary.idle_calls > 0 {
        let calls = match summary.idle_calls {
            1 => "one call".to_owned(),
            count => format!("{count} calls"),
        };
        console.note(format_args!(
            "{calls} that waited for work, {:.1} s, left out; --idle shows them",
            summary.idle_calls_ns as f64 / 1e9
        ));
    }
    if summary.skipped > 0 {
        console.note(
            "skipped is what probes did not tell: the kernel could not run their handler just then (it ran another one on that \
             processor), or a call found no room to be measured in; fewer functions or processes at once leave more room",
        );
    }
    if let Some(error) = &outcome.output_error {
        let where_to = request
            .output
            .as_ref()
            .map_or("standard output".to_owned(), |path| {
                Foreign::path(path).to_string()
            });
        console.error(format_args!(
            "{where_to} could not be written ({error}), so the rest of the events is missing; make room or choose another place"
        ));
        return Exit::Failed.code();
    }
    if outcome.stop == Stop::EngineFailed {
        // What could not even begin is for want of something on this host.
        return if outcome.live {
            Exit::Failed
        } else {
            Exit::Unready
        }
        .code();
    }
    match summary.command_status {
        Some(status) if request.exit_with_command => u8::try_from(status).unwrap_or(u8::MAX),
        _ => Exit::Done.code(),
    }
}
