//! The plan of a session: everything that is decided before anything is started, as data. [`decide`](super::decide) makes
//! it, [`describe`](super::describe) shows it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{AgentConfig, AttachMethod};
use crate::analysis::pairing::PairingRules;
use crate::console::Exit;
use crate::engine::abilities::{Abilities, Obstacle};
use crate::field::Field;
use crate::probe::{EventKind, Probe, Probed};
use crate::process::{Selection, TargetError, Targets};
use crate::python::marks::PROVIDER;
use crate::python::undecodable::{self, Sign};
use crate::python::{FileId, Interpreter, InterpreterKind, PythonError};
use crate::script::{Filters, ProbedImage, Request, ScriptError, TIMED_CALLS, TOTALS};

/// Everything decided before anything is started.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The processes, now and to come.
    pub(crate) targets: Targets,
    /// The command to launch; empty when there is none.
    pub(crate) command: Vec<OsString>,
    /// To search for processes that start later; `None` when none can be targets but children of one.
    pub(crate) newcomers: Option<Selection>,
    /// Event kinds, in the order in which they were asked for.
    pub(crate) events: Vec<String>,
    /// Templates that make them.
    pub(crate) templates: Vec<String>,
    /// The first of these that is the user's own.
    pub(crate) own_template: Option<String>,
    /// Which functions.
    pub(crate) filters: Filters,
    /// Only calls of at least this length.
    pub(crate) min_duration: Option<Duration>,
    /// What is probed.
    pub(crate) images: Vec<PlannedImage>,
    /// Whether children to come are traced.
    pub(crate) follow: bool,
    /// Sentences for the user: what will be missing, what was assumed.
    pub(crate) warnings: Vec<String>,
    /// What the agent does; `None` when the interpreters' own probes do all.
    pub(crate) agent: Option<AgentPlan>,
    /// Whether the agent may be put into running processes by ptrace.
    pub(crate) inject: bool,
    /// The interpreters whose probes are armed and fail on paths that are not UTF-8: what joins later must be looked at.
    pub(crate) fails_on_paths: HashSet<FileId>,
    /// Targets that neither probes nor the agent reach.
    pub(crate) left_out: Vec<u32>,
    /// The engines that run it, at once; none where no engine is asked for.
    pub(crate) sources: Result<Vec<Source>, NoSource>,
}

/// An engine that is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) engine: &'static str,
    /// What it can do.
    pub(crate) abilities: Abilities,
    /// Why it was chosen, where that was left to us: a sentence without its full stop.
    pub(crate) reason: Option<String>,
    /// The engine that takes its place when it cannot be prepared.
    pub(crate) instead: Option<&'static str>,
}

/// Why no engine can run a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoSource {
    /// The engine that was asked for has no use for something else that was.
    Conflict {
        /// The engine.
        engine: &'static str,
        /// What it has no use for, a clause.
        what: String,
    },
    /// The only one that comes into question cannot.
    Obstacle {
        /// The engine.
        engine: &'static str,
        /// Why.
        obstacle: Obstacle,
    },
    /// None of them can.
    All(Vec<(&'static str, Obstacle)>),
}

impl NoSource {
    /// The obstacle of the engine that asks for least, where the choice was left to us and none can.
    pub(crate) fn of_all(&self) -> Option<&Obstacle> {
        match self {
            NoSource::All(obstacles) => obstacles.last().map(|(_, obstacle)| obstacle),
            NoSource::Conflict { .. } | NoSource::Obstacle { .. } => None,
        }
    }

    /// Adds why one more engine cannot, where none can.
    pub(crate) fn add(&mut self, engine: &'static str, error: &PlanError) {
        if let NoSource::All(obstacles) = self {
            obstacles.push((engine, error.obstacle()));
        }
    }
}

/// What the agent does in a session.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlan {
    /// The running processes that it is brought into, and how.
    pub(crate) targets: Vec<(u32, AttachMethod)>,
    /// Whether it is in the environment of the launched command.
    pub(crate) launched: bool,
    /// Whether processes that start later may need it.
    pub(crate) later: bool,
    /// Whether it tells its events itself, so that nothing of it is probed.
    pub(crate) directly: bool,
    /// Whether one target that it does not come into is reason enough to trace none with it, because probes could.
    pub(crate) all: bool,
    /// What agents are told.
    pub(crate) wanted: AgentConfig,
    /// Its libraries, with the paths by which targets know them. Until they are written out, one stands for all.
    pub(crate) libraries: Vec<(PathBuf, Probed)>,
}

/// An image to be probed.
#[derive(Debug, Clone)]
pub(crate) struct PlannedImage {
    /// Path as the processes see it.
    pub(crate) path: PathBuf,
    /// Processes that run it.
    pub(crate) pids: Vec<u32>,
    /// Whether its calls are complete only while the semaphore of the line probe is raised (Python 3.11), and it may be.
    pub(crate) line_semaphore: bool,
    /// The interpreter in it.
    pub(crate) interpreter: Interpreter,
    /// Probes to arm.
    pub(crate) probes: Vec<Probe>,
    /// Whether its own probe passes the arguments of calls, and they are wanted.
    pub(crate) arguments: bool,
}

impl PlannedImage {
    /// Whether one of its armed probes fails on paths that are not UTF-8.
    pub(crate) fn has_what_fails(&self) -> bool {
        self.probes.iter().copied().any(undecodable::fails)
    }

    fn names(&self) -> Vec<String> {
        self.probes.iter().map(|it| it.name().to_owned()).collect()
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// No target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A template.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// An event kind that is neither built in nor a template.
    #[error(
        "there is no event kind {kind:?}, so nothing is traced; the kinds are {known} (and templates of your own, see `pystap list`)"
    )]
    UnknownEvent {
        /// As typed.
        kind: String,
        /// All kinds.
        known: String,
    },
    /// `--min-duration` measures calls.
    #[error(
        "--min-duration is about finished calls and reports them as return events, so it needs the event kind return; leave --events out, or name return"
    )]
    DurationWithoutReturn,
    /// No interpreter has the marks.
    #[error("{who} cannot give {kinds} events: {reason} So nothing is traced; {next}")]
    NoMarks {
        /// The interpreter.
        who: String,
        /// The kinds asked for that are missing.
        kinds: String,
        /// Why, one sentence or two with full stops.
        reason: String,
        /// What to type.
        next: String,
    },
    /// A mark that can end the program, and that nobody asked for by name.
    #[error(
        "the probe {probe} of {who} is left alone: {reason} So nothing is traced; `--events return,gc` is harmless, and `--events call,return` takes the risk"
    )]
    Harmful {
        /// The interpreter.
        who: String,
        /// The mark.
        probe: &'static str,
        /// What it is known to do, a sentence.
        reason: &'static str,
    },
    /// The agent would have them, and cannot get in.
    #[error(
        "{who} has no probes for {kinds} events, and pystap's agent, which would have them, cannot get into {target}: {reason}"
    )]
    NoWay {
        /// The interpreter.
        who: String,
        /// The kinds asked for that are missing.
        kinds: String,
        /// The process or the command.
        target: String,
        /// Why, with the next step.
        reason: String,
    },
    /// The marks would end the target.
    #[error(
        "{target} has a path that is not UTF-8: {sign}, and the probes of {who}, once they are armed, end a program with SystemError whose code has such a file name, so nothing was armed; {next}"
    )]
    Undecodable {
        /// The process or the command.
        target: String,
        /// What shows it.
        sign: Sign,
        /// The interpreter.
        who: String,
        /// What to do.
        next: String,
    },
    /// Values of everything are nothing to ask for.
    #[error(
        "--capture is for functions that a filter names, because values may be secrets and cost time; add --function, --file or --module"
    )]
    CaptureWithoutFilter,
    /// Values come from the agent.
    #[error("{what} needs pystap's agent, which --no-agent forbids; leave out one of them")]
    ValuesWithoutAgent {
        /// What was typed.
        what: &'static str,
    },
    /// A field of everything is nothing to ask for, either.
    #[error(
        "--field is for functions that are named, because values may be secrets and cost time; add --function, --file or --module, or name them before the field, such as --field 'handle:{field}'"
    )]
    FieldWithoutFilter {
        /// The first of them, as it is typed.
        field: String,
    },
    /// To group by what is not told is nothing.
    #[error(
        "--group-by {name} names no field that is told; add --field {name}=PATH, such as --field {name}=ctxt.request_id"
    )]
    NoSuchField {
        /// The name.
        name: String,
    },
    /// A field to group by that calls do not have when they begin.
    #[error(
        "--group-by {name}: calls are grouped as they begin, and field {name} is read when they return; group by a field without @return"
    )]
    FieldOfReturns {
        /// The name.
        name: String,
    },
    /// Fields that cannot be together.
    #[error("nothing was traced: {0}")]
    Fields(String),
    /// Fields come through memory that the agent shares with pystap.
    #[error(
        "{why} pystap's agent alone, through memory that it shares with pystap, and not by --engine {engine}; leave out --engine"
    )]
    FieldsNotDirect {
        /// A clause's beginning, as in the others.
        why: &'static str,
        /// The engine that was named.
        engine: String,
    },
    /// The agent would have what the interpreter's own marks do not tell, and cannot get in.
    #[error(
        "{what} needs pystap's agent, whatever probes {who} has, and the agent cannot get into {target}: {reason}"
    )]
    NoWayForValues {
        /// What was typed.
        what: &'static str,
        /// The interpreter.
        who: String,
        /// The process or the command.
        target: String,
        /// Why, with the next step.
        reason: String,
    },
    /// The direct engine is the agent.
    #[error(
        "--engine direct is pystap's agent alone, which --no-agent forbids; leave out one of them"
    )]
    DirectWithoutAgent,
    /// The direct engine is the agent, which does not tell everything.
    #[error(
        "{why} pystap's agent alone, which tells calls, returns and collections; {kinds} events come from an interpreter's own probes, so leave out {}, or trace these by themselves", .why.trim_end_matches(" is").trim_end_matches(" is told by")
    )]
    NotDirect {
        /// Why it is the agent alone: the beginning of a clause.
        why: &'static str,
        /// Other kinds that were asked for.
        kinds: String,
    },
    /// The direct engine is the agent, and that cannot get in.
    #[error("{why} pystap's agent alone, and that cannot get into {target}: {reason}")]
    NoDirectWay {
        /// Why it is the agent alone: the beginning of a clause.
        why: &'static str,
        /// The process or the command.
        target: String,
        /// Why, with the next step.
        reason: String,
    },
    /// The file of an interpreter is gone.
    #[error("{path} was replaced or deleted while process {pid} runs it, and SystemTap can only probe files that are there, so it cannot trace this process; restart the process, or use --engine uprobes", path = path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
        /// A process that runs it.
        pid: u32,
    },
    /// SystemTap takes for granted that code is mapped as it stands in the file.
    #[error("the code of {path} stands elsewhere in memory than in the file (lld links like that), and SystemTap would put its breakpoints into the midst of other instructions, so it must not trace this; use --engine uprobes, or link it with GNU ld or with -z separate-loadable-segments", path = path.display())]
    Displaced {
        /// The file.
        path: PathBuf,
    },
    /// The process lives in another mount namespace.
    #[error("process {pid} runs {path} in a container (another mount namespace), where SystemTap cannot switch its probes on from outside, so it cannot trace this process; use --engine uprobes, which can", path = path.display())]
    Container {
        /// The file as the process sees it.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
}

impl PlanError {
    /// The same as what stands in the way of one engine.
    pub(crate) fn obstacle(&self) -> Obstacle {
        Obstacle {
            exit: Exit::of(self.exit_code()),
            message: self.to_string(),
            forbidden: false,
        }
    }

    /// The exit code of pystap for this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            PlanError::Target(error) => error.exit_code(),
            PlanError::Script(ScriptError::Unknown { .. }) => 2,
            PlanError::Script(_) => 1,
            PlanError::UnknownEvent { .. }
            | PlanError::DurationWithoutReturn
            | PlanError::CaptureWithoutFilter
            | PlanError::ValuesWithoutAgent { .. }
            | PlanError::FieldWithoutFilter { .. }
            | PlanError::Fields(_)
            | PlanError::NoSuchField { .. }
            | PlanError::FieldOfReturns { .. }
            | PlanError::FieldsNotDirect { .. }
            | PlanError::DirectWithoutAgent
            | PlanError::NotDirect { .. } => 2,
            PlanError::NoDirectWay { .. }
            | PlanError::NoMarks { .. }
            | PlanError::Harmful { .. }
            | PlanError::NoWay { .. }
            | PlanError::NoWayForValues { .. }
            | PlanError::Undecodable { .. }
            | PlanError::Replaced { .. }
            | PlanError::Displaced { .. }
            | PlanError::Container { .. } => 3,
        }
    }
}

impl From<PythonError> for PlanError {
    fn from(error: PythonError) -> Self {
        PlanError::Target(error.into())
    }
}

impl Plan {
    /// The request for the script.
    pub(crate) fn request(&self) -> Request {
        Request {
            images: self
                .images
                .iter()
                .map(|image| ProbedImage {
                    path: image.path.to_string_lossy().into_owned(),
                    provider: PROVIDER,
                    marks: image.names(),
                    library: image.interpreter.kind == InterpreterKind::Library,
                    arguments: image.arguments,
                })
                .chain(self.libraries().map(|(path, probed)| ProbedImage {
                    path: path.to_string_lossy().into_owned(),
                    provider: probed.provider,
                    marks: probed.marks.clone(),
                    library: true,
                    arguments: false,
                }))
                .collect(),
            templates: self.templates.clone(),
            events: self.sent(),
            filters: self.filters.clone(),
        }
    }

    /// Whether a script follows the processes of every program, because it probes a library.
    pub(crate) fn follows_every_program(&self) -> bool {
        self.request().images.iter().any(|image| image.library)
    }

    /// The kinds that are sent: where a shortest call is asked for and pystap measures, also what it measures by.
    fn sent(&self) -> Vec<String> {
        let mut kinds = self.events.clone();
        let call = EventKind::Call.name();
        if self.min_duration.is_some() && !self.times_calls() && !kinds.iter().any(|it| it == call)
        {
            kinds.push(call.to_owned());
        }
        kinds
    }

    /// Whether any events are of functions.
    pub(crate) fn tells_functions(&self) -> bool {
        let of_functions =
            [EventKind::Call, EventKind::Return, EventKind::Line].map(EventKind::name);
        self.events.iter().any(|it| of_functions.contains(&&**it))
    }

    /// Whether the script adds up in the kernel.
    pub(crate) fn totals(&self) -> bool {
        self.templates.iter().any(|name| name == TOTALS)
    }

    /// Whether the script measures calls in the kernel.
    pub(crate) fn times_calls(&self) -> bool {
        self.templates.iter().any(|name| name == TIMED_CALLS)
    }

    /// The shortest call that is wanted, in nanoseconds; `None` when all are.
    pub(crate) fn minimum_ns(&self) -> Option<u64> {
        let minimum = self.min_duration?;
        Some(u64::try_from(minimum.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The images with all that is known of them: interpreters, then the agent's libraries.
    pub(crate) fn probed(&self) -> Vec<Probed> {
        let probed = |image: &PlannedImage| Probed {
            path: image.interpreter.reach.clone(),
            inode: image.interpreter.file.inode,
            image: Arc::clone(&image.interpreter.image),
            provider: PROVIDER,
            marks: image.names(),
            values: image.arguments,
            line_semaphore: image.line_semaphore,
        };
        let libraries = self.libraries().map(|(_, probed)| probed.clone());
        self.images.iter().map(probed).chain(libraries).collect()
    }

    /// The images by the paths that targets know them by, with their build ids.
    pub(crate) fn builds(&self) -> Vec<(PathBuf, Option<String>)> {
        let images = self.images.iter();
        images
            .map(|image| (image.path.clone(), image.interpreter.image.build_id.clone()))
            .chain(
                self.libraries()
                    .map(|(path, probed)| (path.clone(), probed.image.build_id.clone())),
            )
            .collect()
    }

    /// Whether the agent may be put into running processes by ptrace.
    pub(crate) fn may_inject(&self) -> bool {
        self.inject
    }

    /// The fields that agents are asked for, in the order of their names.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        let agents = self.agent.iter();
        agents.flat_map(|agent| &agent.wanted.fields)
    }

    /// The agent's libraries that are probed, with the paths by which targets know them.
    pub(crate) fn libraries(&self) -> impl Iterator<Item = &(PathBuf, Probed)> {
        let probed = self.agent.iter().filter(|agent| !agent.directly);
        probed.flat_map(|agent| &agent.libraries)
    }

    /// What to say of images whose calls are complete only with the line probe's semaphore; `None` without any.
    pub(crate) fn line_semaphore_note(&self) -> Option<String> {
        let image = self.images.iter().find(|image| image.line_semaphore)?;
        Some(format!(
            "raising the line probe's semaphore in {}, because Python 3.11 reports few calls without it (--no-line-semaphore leaves it alone)",
            image.path.display()
        ))
    }

    /// What to say of a filter that saves little, because each call runs into a probe all the same; `None` without one.
    pub(crate) fn filter_note(&self) -> Option<String> {
        let runs_into = |image: &&PlannedImage| {
            let mut functions = Probe::FUNCTIONS.iter();
            functions.any(|probe| image.probes.contains(probe))
        };
        let image = self.images.iter().find(runs_into)?;
        (!self.filters.is_empty()).then(|| {
            format!(
                "calls in {} that the filter leaves out run into its probes, too, and cost the program nearly as much as if they were \
                 traced; with pystap's agent in it (pystap agent install) they do not, and pystap top --sample costs it nothing",
                image.path.display()
            )
        })
    }

    /// Processes to trace from the start, those that run now.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.targets
            .processes
            .iter()
            .map(|process| process.pid)
            .collect()
    }

    /// The interpreter files that are probed.
    pub(crate) fn probed_files(&self) -> HashSet<FileId> {
        let files = self.images.iter().map(|image| image.interpreter.file);
        files.collect()
    }

    /// How a process of this plan uses its probes.
    pub(crate) fn rules(&self) -> PairingRules {
        let mut versions = self
            .images
            .iter()
            .filter(|image| image.probes.contains(&Probe::FunctionEntry))
            .map(|image| image.interpreter.version.as_ref());
        PairingRules {
            // An unknown version may be any. The agent tells no creations.
            call_on_creation: versions
                .any(|it| it.is_none_or(|it| (it.major, it.minor) >= (3, 15))),
            ..PairingRules::default()
        }
    }
}
