//! The plan of a session: what was typed, resolved against this host. Starts nothing; `--dry-run` prints it.
//!
//! How the targets become images: [`crate::process`] finds them, [`crate::python`] the files that carry their
//! interpreters (through `/proc/PID/root` where a process has other mounts) and, once per session, what is in each
//! file, and [`crate::elf`] their probes with sites, semaphores and arguments. A command that is to be launched is
//! resolved without running it; only the shim of a version manager has to be asked. The plan then picks the probes that
//! the kinds in question need, refuses what cannot work, and warns of what a version is known to do
//! ([`crate::python::marks`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{self, AgentConfig, AttachMethod, AttachMethodError, Capture, environment};
use crate::analysis::pairing::PairingRules;
use crate::authority::own::{self, Configured};
use crate::cli::{Exclusion, TargetArgs, WhatArgs};
use crate::engine::stap::Armed;
use crate::probe::Probed;
use crate::probe::{EventKind, Probe};
use crate::process::{MountNamespace, Process, Selection, TargetError, Targets};
use crate::python::marks::{self, PROVIDER, Status};
use crate::python::undecodable::{self, Sign};
use crate::python::{FileId, Interpreter, InterpreterKind, PythonError, mapped_at, maps_one_of};
use crate::script::{Catalogue, Filters, MARKS, ProbedImage, Request, ScriptError, TOTALS};
use crate::text::Foreign;

/// Everything decided before anything is started.
#[derive(Debug)]
pub struct Plan {
    /// The processes, now and to come.
    pub targets: Targets,
    /// The command to launch; empty when there is none.
    pub command: Vec<OsString>,
    /// Event kinds, in the order of the catalogue.
    pub events: Vec<String>,
    /// Templates that make them.
    pub templates: Vec<String>,
    /// Which functions.
    pub filters: Filters,
    /// Only calls of at least this length.
    pub min_duration: Option<Duration>,
    /// What is probed.
    pub images: Vec<PlannedImage>,
    /// Whether children to come are traced.
    pub follow: bool,
    /// Sentences for the user: what will be missing, what was assumed.
    pub warnings: Vec<String>,
    /// What the agent does; `None` when the interpreters' own marks do all.
    pub agent: Option<AgentPlan>,
    /// Marks that templates of the user's own name in their headers.
    own_marks: Vec<&'static str>,
    /// What was said about the agent.
    wishes: AgentWishes,
    /// Whether semaphores of other marks may be raised.
    may_raise: bool,
    /// Whom the interpreters' own function marks would end.
    endangered: Vec<Endangered>,
}

/// A target that an interpreter's own function marks would end, because a path of it is not UTF-8.
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

/// What the user wants of the agent.
#[derive(Debug, Clone, Default)]
pub struct AgentWishes {
    /// Whether it is used.
    pub usage: AgentUsage,
    /// Whether it may be put into running processes by ptrace.
    pub inject: bool,
    /// Which values it captures.
    pub capture: Capture,
    /// Whether the interpreters' own function marks are armed although a path shows that this ends the program.
    pub trust_paths: bool,
}

/// When the agent is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AgentUsage {
    /// Where an interpreter has no function marks.
    #[default]
    Auto,
    /// Nowhere.
    Never,
    /// For all functions.
    Always,
}

/// What the agent does in a session.
#[derive(Debug, Clone)]
pub struct AgentPlan {
    /// The running processes that it is brought into, and how.
    pub targets: Vec<(u32, AttachMethod)>,
    /// Whether it is in the environment of the launched command.
    pub launched: bool,
    /// Whether processes that start later may need it.
    pub later: bool,
    /// What agents are told.
    pub wanted: AgentConfig,
    /// Its libraries, with the paths by which targets know them. Until they are written out, one stands for all.
    pub libraries: Vec<(PathBuf, Probed)>,
}

/// An image to be probed.
#[derive(Debug, Clone)]
pub struct PlannedImage {
    /// Path as the processes see it.
    pub path: PathBuf,
    /// Processes that run it.
    pub pids: Vec<u32>,
    /// Whether its calls are complete only while the semaphore of the line mark is raised (Python 3.11), and it may be.
    pub line_semaphore: bool,
    /// The interpreter in it.
    pub interpreter: Interpreter,
    /// Marks to arm.
    pub marks: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
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
    /// The agent would have them, and cannot get in.
    #[error(
        "{who} has no marks for {kinds} events, and pystap's agent, which would have them, cannot get into {target}: {reason}"
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
        "{target} has a path that is not UTF-8: {sign}, and the marks of {who}, once they are armed, end a program with SystemError whose code has such a file name, so nothing was armed; {next}"
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
    /// Values come from the agent.
    #[error("--capture needs pystap's agent, which --no-agent forbids; leave out one of them")]
    CaptureWithoutAgent,
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
    #[error("process {pid} runs {path} in a container (another mount namespace), where SystemTap cannot switch its marks on from outside, so it cannot trace this process; use --engine uprobes, which can", path = path.display())]
    Container {
        /// The file as the process sees it.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
}

impl PlanError {
    /// The exit code of pystap for this failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            PlanError::Target(error) => error.exit_code(),
            PlanError::Script(ScriptError::Unknown { .. }) => 2,
            PlanError::Script(_) => 1,
            PlanError::UnknownEvent { .. }
            | PlanError::DurationWithoutReturn
            | PlanError::CaptureWithoutAgent => 2,
            PlanError::NoMarks { .. }
            | PlanError::NoWay { .. }
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
    /// Resolves what was typed.
    ///
    /// # Errors
    /// Whatever stands in the way, before anything is started.
    pub fn new(
        target: &TargetArgs,
        what: &WhatArgs,
        wishes: AgentWishes,
        catalogue: &Catalogue,
    ) -> Result<Self, PlanError> {
        if wishes.capture.any() && wishes.usage == AgentUsage::Never {
            return Err(PlanError::CaptureWithoutAgent);
        }
        let (events, templates) = kinds(what, catalogue)?;
        let own = templates
            .iter()
            .filter_map(|name| catalogue.get(name))
            .filter(|template| template.is_users());
        let named: Vec<&String> = own.flat_map(|template| &template.marks).collect();
        let own_marks = MARKS
            .into_iter()
            .filter(|mark| named.iter().any(|name| name == mark))
            .collect();
        let launched = !target.command.is_empty();
        let follow = target.subprocesses || (launched && !target.no_subprocesses);
        let selection = Selection {
            pids: target.pids.clone(),
            pattern: target.pattern.clone(),
            service: target
                .service
                .as_deref()
                .map(crate::process::service)
                .transpose()?,
            python: target.python.clone(),
            command: target.command.clone(),
            subprocesses: follow,
        };
        let targets = selection.resolve()?;
        let warnings = targets.notes.clone();
        let mut plan = Plan {
            images: Vec::new(),
            targets,
            command: target.command.clone(),
            events,
            templates,
            filters: filters(what),
            min_duration: what.min_duration,
            follow,
            warnings,
            agent: None,
            wishes,
            own_marks,
            may_raise: !what.no_line_semaphore,
            endangered: Vec::new(),
        };
        plan.endangered = plan.look_at_paths();
        plan.refuse_endangered()?;
        plan.agent = plan.choose_agent(what.events.is_empty())?;
        plan.images = plan.choose_images(what.events.is_empty())?;
        plan.complete_agent();
        Ok(plan)
    }

    /// The request for the script.
    pub fn request(&self) -> Request {
        Request {
            images: self
                .images
                .iter()
                .map(|image| ProbedImage {
                    path: image.path.to_string_lossy().into_owned(),
                    provider: PROVIDER,
                    marks: image.marks.clone(),
                    library: image.interpreter.kind == InterpreterKind::Library,
                })
                .chain(self.libraries().map(|(path, probed)| ProbedImage {
                    path: path.to_string_lossy().into_owned(),
                    provider: probed.provider,
                    marks: probed.marks.clone(),
                    library: true,
                }))
                .collect(),
            templates: self.templates.clone(),
            events: self.events.clone(),
            filters: self.filters.clone(),
        }
    }

    /// Whether the script for stap follows the processes of every program, because it probes a library.
    pub fn follows_every_program(&self) -> bool {
        self.request().images.iter().any(|image| image.library)
    }

    /// Whether the script adds up in the kernel.
    pub fn totals(&self) -> bool {
        self.templates.iter().any(|name| name == TOTALS)
    }

    /// The shortest call that is wanted, in nanoseconds; `None` when all are.
    pub fn minimum_ns(&self) -> Option<u64> {
        let minimum = self.min_duration?;
        Some(u64::try_from(minimum.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Why SystemTap cannot probe what is planned; `None` when it can.
    pub fn obstacle_for_stap(&self) -> Option<PlanError> {
        if let Some(agent) = &self.agent {
            for (pid, _) in &agent.targets {
                let (pid, loaded) = (*pid, agent::Loaded::of_process(*pid));
                let path = match &loaded {
                    Some(loaded) => loaded.path.clone(),
                    None => agent::expected_library(&agent.wanted).0,
                };
                if loaded.as_ref().is_some_and(|it| it.image.is_displaced()) {
                    return Some(PlanError::Displaced { path });
                }
                if loaded.is_some_and(|loaded| loaded.deleted) {
                    return Some(PlanError::Replaced { path, pid });
                }
                if elsewhere(pid) {
                    return Some(PlanError::Container { path, pid });
                }
            }
        }
        if let Some(error) = self.endangered_by_stap() {
            return Some(error);
        }
        self.images.iter().find_map(|image| {
            let path = image.path.clone();
            if image.interpreter.image.is_displaced() {
                return Some(PlanError::Displaced { path });
            }
            if let (true, Some(pid)) = (image.interpreter.replaced, image.pids.first()) {
                return Some(PlanError::Replaced { path, pid: *pid });
            }
            let pid = image.pids.iter().find(|pid| elsewhere(**pid))?;
            Some(PlanError::Container { path, pid: *pid })
        })
    }

    /// Names of templates of the user's own that are to run.
    pub fn own_templates<'a>(&'a self, catalogue: &'a Catalogue) -> impl Iterator<Item = &'a str> {
        self.templates.iter().map(String::as_str).filter(|name| {
            catalogue
                .get(name)
                .is_some_and(|template| template.is_users())
        })
    }

    /// The images for the uprobes engine.
    pub fn probed(&self) -> Vec<Probed> {
        let probed = |image: &PlannedImage| Probed {
            path: image.interpreter.reach.clone(),
            inode: image.interpreter.file.inode,
            image: Arc::clone(&image.interpreter.image),
            provider: PROVIDER,
            marks: image.marks.clone(),
            values: false,
            line_semaphore: image.line_semaphore,
        };
        let libraries = self.libraries().map(|(_, probed)| probed.clone());
        self.images.iter().map(probed).chain(libraries).collect()
    }

    /// Whether the agent may be put into running processes by ptrace.
    pub fn may_inject(&self) -> bool {
        self.wishes.inject
    }

    /// The agent's libraries, with the paths by which targets know them.
    pub fn libraries(&self) -> impl Iterator<Item = &(PathBuf, Probed)> {
        self.agent.iter().flat_map(|agent| &agent.libraries)
    }

    /// What to say of images whose calls are complete only with the line mark's semaphore; `None` without any.
    pub fn line_semaphore_note(&self) -> Option<String> {
        let image = self.images.iter().find(|image| image.line_semaphore)?;
        Some(format!(
            "raising the line mark's semaphore in {}, because Python 3.11 reports few calls without it (--no-line-semaphore leaves it alone)",
            image.path.display()
        ))
    }

    /// Processes to trace from the start, those that run now.
    pub fn pids(&self) -> Vec<u32> {
        self.targets
            .processes
            .iter()
            .map(|process| process.pid)
            .collect()
    }

    /// How a process of this plan uses its marks.
    pub fn rules(&self) -> PairingRules {
        let versions = self
            .images
            .iter()
            .filter(|image| {
                image
                    .marks
                    .iter()
                    .any(|mark| mark == Probe::FunctionEntry.name())
            })
            .filter_map(|image| image.interpreter.version.as_ref());
        // The agent tells no creations.
        let nothing_known = versions.clone().count() == 0 && self.agent.is_none();
        PairingRules {
            call_on_creation: nothing_known
                || versions.into_iter().any(|v| (v.major, v.minor) >= (3, 15)),
            ..PairingRules::default()
        }
    }

    /// Semaphores by which it can be seen that the running targets are traced: one a process, where it is known.
    pub fn semaphores(&self) -> Vec<Armed> {
        self.targets
            .processes
            .iter()
            .filter_map(|process| {
                process.interpreters.iter().find_map(|interpreter| {
                    let image = self
                        .images
                        .iter()
                        .find(|image| image.interpreter.file == interpreter.file)?;
                    let mark = interpreter.image.mark(PROVIDER, image.marks.first()?)?;
                    let offset = mark.sites.first()?.semaphore?.file_offset?;
                    let address = mapped_at(process.pid, interpreter.file.inode, offset)?;
                    Some(Armed {
                        pid: process.pid,
                        address,
                    })
                })
            })
            .chain(self.semaphores_of_agents())
            .collect()
    }

    /// The same of agents that are in their processes already.
    fn semaphores_of_agents(&self) -> impl Iterator<Item = Armed> {
        let targets = self.agent.iter().flat_map(|agent| {
            let first = match agent.wanted.functions {
                Some(_) => agent::FUNCTIONS[0],
                None => agent::COLLECTIONS[0],
            };
            agent.targets.iter().map(move |(pid, _)| (*pid, first))
        });
        targets.filter_map(|(pid, mark)| {
            let loaded = agent::Loaded::of_process(pid)?;
            let mark = loaded.image.mark(agent::PROVIDER, mark)?;
            let offset = mark.sites.first()?.semaphore?.file_offset?;
            let address = mapped_at(pid, loaded.inode, offset)?;
            Some(Armed { pid, address })
        })
    }

    /// The interpreters in the order of the targets, each file once, with the processes that run it.
    fn interpreters(&self) -> BTreeMap<(u64, u64), (Interpreter, Vec<u32>)> {
        let mut found: BTreeMap<(u64, u64), (Interpreter, Vec<u32>)> = BTreeMap::new();
        let running = self.targets.processes.iter().flat_map(|process: &Process| {
            process
                .interpreters
                .iter()
                .map(|interpreter| (interpreter, Some(process.pid)))
        });
        let expected = self
            .targets
            .command
            .iter()
            .flat_map(|command| &command.interpreters);
        let named = self.targets.python.iter();
        for (interpreter, pid) in
            running.chain(expected.chain(named).map(|interpreter| (interpreter, None)))
        {
            let key = (interpreter.file.device, interpreter.file.inode);
            let entry = found
                .entry(key)
                .or_insert_with(|| (interpreter.clone(), Vec::new()));
            entry.1.extend(pid);
        }
        found
    }

    fn choose_images(&mut self, by_default: bool) -> Result<Vec<PlannedImage>, PlanError> {
        let wanted: BTreeSet<&str> = self.wanted_marks();
        let interpreters = self.interpreters();
        let mut images = Vec::new();
        for (interpreter, pids) in interpreters.values() {
            let marks: Vec<String> = MARKS
                .iter()
                .filter(|mark| {
                    wanted.contains(*mark)
                        && interpreter.image.mark(PROVIDER, mark).is_some()
                        && !(agent::FUNCTIONS.contains(mark)
                            && self.agent_for(interpreter).functions)
                })
                .map(|mark| (*mark).to_owned())
                .collect();
            if marks.is_empty() {
                continue;
            }
            let raises = marks.iter().any(|mark| {
                behaviour(interpreter, mark).is_some_and(|known| known.raise.is_some())
            });
            images.push(PlannedImage {
                path: interpreter.path.clone(),
                pids: pids.clone(),
                line_semaphore: raises && self.may_raise,
                interpreter: interpreter.clone(),
                marks,
            });
        }
        self.check_marks(
            &images,
            &interpreters
                .values()
                .map(|(found, _)| found)
                .collect::<Vec<_>>(),
            by_default,
        )?;
        self.warn_of_quirks(&images);
        Ok(images)
    }

    /// Whether this plan, left to itself, arms a mark that fails on paths which are not UTF-8.
    fn arms_what_fails(&self, interpreter: &Interpreter) -> bool {
        let wanted = self.wanted_marks();
        !self.wishes.trust_paths
            && undecodable::is_affected(interpreter.version.as_ref())
            && undecodable::MARKS.iter().any(|mark| {
                wanted.contains(mark) && interpreter.image.mark(PROVIDER, mark).is_some()
            })
    }

    /// The targets whose paths show that such a mark would end them.
    fn look_at_paths(&self) -> Vec<Endangered> {
        let endangered = |interpreter: &Interpreter, target: String, sign: Sign| Endangered {
            file: interpreter.file,
            target,
            sign,
            who: described(interpreter),
        };
        let processes = self.targets.processes.iter().filter_map(|process| {
            let interpreter = process
                .interpreters
                .iter()
                .find(|it| self.arms_what_fails(it))?;
            let sign = Sign::of_process(process.pid, interpreter.version.as_ref())?;
            let target = format!("process {}", process.pid);
            Some(endangered(interpreter, target, sign))
        });
        let expected = self.targets.command.iter();
        let command = expected
            .flat_map(|command| &command.interpreters)
            .filter(|it| self.arms_what_fails(it))
            .find_map(|interpreter| {
                let sign = Sign::of_command(&self.command, interpreter.version.as_ref())?;
                Some(endangered(interpreter, "the command".to_owned(), sign))
            });
        processes.chain(command).collect()
    }

    /// Refuses what the agent cannot do in the marks' stead, and says what it does so.
    fn refuse_endangered(&mut self) -> Result<(), PlanError> {
        let Some(first) = self.endangered.first().cloned() else {
            return Ok(());
        };
        let lines = self.wanted_marks().contains("line");
        let next = match self.wishes.usage {
            _ if lines => {
                "leave line events out, which only this mark gives, or use --trust-paths if no code of the program is there"
            }
            AgentUsage::Never => {
                "leave out --no-agent (or use --agent), so that pystap's agent gives calls, which does no harm, or use --trust-paths if no code of the program is there"
            }
            AgentUsage::Auto => {
                self.warnings.push(format!(
                    "calls of {} come from pystap's agent (--agent), because a path is not UTF-8: {}, and the interpreter's own marks could end the program",
                    first.target, first.sign
                ));
                return Ok(());
            }
            AgentUsage::Always => return Ok(()),
        };
        Err(first.refused(next.to_owned()))
    }

    /// The interpreters whose marks are armed and fail on paths that are not UTF-8: what joins later must be looked at.
    pub fn fails_on_paths(&self) -> HashSet<FileId> {
        let armed = self.images.iter().filter(|image| {
            let fails = |mark: &String| undecodable::MARKS.contains(&mark.as_str());
            image.marks.iter().any(fails) && self.arms_what_fails(&image.interpreter)
        });
        armed.map(|image| image.interpreter.file).collect()
    }

    /// SystemTap arms the marks in every process that runs an image, not only in targets: one of them that this would end.
    fn endangered_by_stap(&self) -> Option<PlanError> {
        let files = self.fails_on_paths();
        if files.is_empty() {
            return None;
        }
        let image = self
            .images
            .iter()
            .find(|image| files.contains(&image.interpreter.file))?;
        let version = image.interpreter.version.as_ref();
        let all = procfs::process::all_processes().ok()?;
        all.flatten().find_map(|process| {
            let pid = u32::try_from(process.pid).ok()?;
            if !maps_one_of(pid, &files).unwrap_or(false) {
                return None;
            }
            let sign = Sign::of_process(pid, version)?;
            let found = Endangered {
                file: image.interpreter.file,
                target: format!("process {pid}, in which SystemTap would arm the marks as well,"),
                sign,
                who: described(&image.interpreter),
            };
            Some(found.refused("use --engine uprobes, which arms the targets only, or --agent, which does no harm".to_owned()))
        })
    }

    /// What the agent has to tell of an interpreter that its own marks do not.
    fn agent_for(&self, interpreter: &Interpreter) -> MissingProbes {
        let version = interpreter.version.as_ref();
        let usage = self.wishes.usage;
        let endangered = self.endangered.iter().any(|it| it.file == interpreter.file);
        let always = usage == AgentUsage::Always || self.wishes.capture.any() || endangered;
        if usage == AgentUsage::Never
            || (!always && version.is_some_and(|version| !agent::supported(version)))
        {
            return MissingProbes::default();
        }
        let wanted = self.wanted_marks();
        let lacks = |marks: &[&str]| {
            marks.iter().any(|mark| {
                wanted.contains(mark) && interpreter.image.mark(PROVIDER, mark).is_none()
            })
        };
        let functions = !self.function_marks().is_empty();
        MissingProbes {
            functions: functions && (always || lacks(&agent::FUNCTIONS)),
            collections: lacks(&agent::COLLECTIONS),
        }
    }

    /// What the agent does, where there is need of it and a way for it.
    fn choose_agent(&self, by_default: bool) -> Result<Option<AgentPlan>, PlanError> {
        let mut plan = AgentPlan {
            targets: Vec::new(),
            launched: false,
            later: false,
            wanted: AgentConfig {
                filters: self.filters.clone(),
                capture: self.wishes.capture.clone(),
                marks: self.function_marks(),
                follow: self.follow,
                ..AgentConfig::default()
            },
            libraries: Vec::new(),
        };
        let mut needed = MissingProbes::default();
        let mut closed: Option<PlanError> = None;
        let mut refuse = |interpreter: &Interpreter, target: String, reason: String| {
            let endangered = self.endangered.iter().find(|it| it.target == target);
            if let Some(endangered) = endangered {
                let next = format!(
                    "pystap's agent (--agent), which does no harm, cannot get in: {reason}"
                );
                closed.get_or_insert(endangered.refused(next));
                return;
            }
            closed.get_or_insert(PlanError::NoWay {
                who: described(interpreter),
                kinds: if by_default {
                    "call and return (the default)".to_owned()
                } else {
                    self.events.join(" and ")
                },
                target,
                reason,
            });
        };
        for process in &self.targets.processes {
            let Some(interpreter) = process.interpreters.first() else {
                continue;
            };
            let lacking = self.agent_for(interpreter);
            if !lacking.any() {
                continue;
            }
            match AttachMethod::into_process(process.pid, interpreter, self.wishes.inject) {
                Ok(way) => {
                    plan.targets.push((process.pid, way));
                    needed.add(lacking);
                }
                // What it has itself is worth a trace without the agent, when that is all that was left to us.
                Err(_) if !lacking.functions => {}
                Err(error) => refuse(
                    interpreter,
                    format!("process {}", process.pid),
                    error.to_string(),
                ),
            }
        }
        let expected = self.targets.command.iter();
        if let Some(interpreter) = expected.flat_map(|command| &command.interpreters).next() {
            let lacking = self.agent_for(interpreter);
            let version = interpreter.version.as_ref();
            let unsupported = version
                .filter(|version| !agent::supported(version))
                .map(|version| AttachMethodError::Unsupported {
                    version: version.to_string(),
                })
                .or_else(|| agent::obstacle_of_build(&interpreter.image));
            if lacking.any()
                && let Some(reason) = unsupported
            {
                refuse(interpreter, "the command".to_owned(), reason.to_string());
            } else if lacking.any() {
                match environment::obstacle_of_command(&self.command) {
                    Some(option) => refuse(
                        interpreter,
                        "the command".to_owned(),
                        format!(
                            "its interpreter is started with {option}, which leaves out the environment that brings the agent in; leave out {option}, or start it yourself and trace it with -p"
                        ),
                    ),
                    None => {
                        plan.launched = true;
                        needed.add(lacking);
                    }
                }
            }
        }
        for interpreter in &self.targets.python {
            let lacking = self.agent_for(interpreter);
            if self.targets.everyone && lacking.any() {
                plan.later = true;
                needed.add(lacking);
            }
        }
        if !needed.any() {
            return closed.map_or(Ok(None), Err);
        }
        plan.wanted.functions = needed.functions.then(HashSet::new);
        plan.wanted.collections = needed.collections.then(HashSet::new);
        Ok(Some(plan))
    }

    /// What the agent must know of the images, and what stands for its library until that is written out.
    fn complete_agent(&mut self) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        let with = |marks: &[&str]| {
            let has = |image: &&PlannedImage| {
                marks
                    .iter()
                    .all(|mark| image.marks.iter().any(|have| have == mark))
            };
            let files = self.images.iter().filter(has);
            files.map(|image| image.interpreter.file).collect()
        };
        let functions = agent.wanted.functions.take();
        agent.wanted.functions = functions.map(|_| with(&agent.wanted.marks));
        let collections = agent.wanted.collections.take();
        agent.wanted.collections = collections.map(|_| with(&agent::COLLECTIONS));
        agent.libraries = vec![agent::expected_library(&agent.wanted)];
        for process in &self.targets.processes {
            let Some(interpreter) = process.interpreters.first() else {
                continue;
            };
            let reached = agent.targets.iter().any(|(pid, _)| *pid == process.pid);
            let lacking = self
                .images
                .iter()
                .all(|image| image.interpreter.file != interpreter.file);
            if !reached && lacking {
                self.warnings.push(format!(
                    "process {} is not traced: {}",
                    process.pid,
                    AttachMethod::into_process(process.pid, interpreter, self.wishes.inject)
                        .err()
                        .map_or_else(
                            || "its interpreter has none of the marks".to_owned(),
                            |error| error.to_string()
                        )
                ));
            }
        }
    }

    /// Which marks about functions are wanted.
    fn function_marks(&self) -> Vec<&'static str> {
        let wanted = self.wanted_marks();
        let functions = agent::FUNCTIONS.into_iter();
        functions.filter(|mark| wanted.contains(mark)).collect()
    }

    fn wanted_marks(&self) -> BTreeSet<&'static str> {
        let asked = |kind: &str| self.events.iter().any(|event| event == kind);
        let mut wanted: BTreeSet<&'static str> = EventKind::ALL
            .into_iter()
            .filter(|kind| asked(kind.name()))
            .flat_map(|kind| kind.probes().iter().map(|probe| probe.name()))
            .collect();
        if self.min_duration.is_some() {
            wanted.extend(agent::FUNCTIONS);
        }
        wanted.extend(self.own_marks.iter().copied());
        wanted
    }

    /// Every kind asked for must be possible with at least one image.
    fn check_marks(
        &self,
        images: &[PlannedImage],
        all: &[&Interpreter],
        by_default: bool,
    ) -> Result<(), PlanError> {
        let possible = |kind: EventKind| {
            let told = self.agent.as_ref().map(|agent| &agent.wanted);
            let by_agent = told.is_some_and(|told| match kind {
                EventKind::Call | EventKind::Return => told.functions.is_some(),
                EventKind::Gc => told.collections.is_some(),
                _ => false,
            });
            let has = |image: &PlannedImage, probe: Probe| {
                image.marks.iter().any(|mark| mark == probe.name())
            };
            by_agent
                || images
                    .iter()
                    .any(|image| kind.is_possible(|probe| has(image, probe)))
        };
        let built_in = self.events.iter();
        let missing: Vec<EventKind> = built_in
            .filter_map(|event| EventKind::of_name(event))
            .filter(|kind| !possible(*kind))
            .collect();
        let (Some(first), Some(interpreter)) = (missing.first(), all.first()) else {
            return Ok(());
        };
        let version = interpreter.version.as_ref();
        let who = described(interpreter);
        let mark = first.probes().first().map(|probe| probe.name());
        let has_any = interpreter
            .image
            .marks
            .iter()
            .any(|mark| mark.provider == PROVIDER);
        let known = version
            .zip(mark)
            .map(|(version, mark)| marks::behaviour((version.major, version.minor), mark));
        let (reason, elsewhere) = match known {
            _ if !has_any => (
                "it was built without SystemTap marks (configure --with-dtrace), so it has none at all.".to_owned(),
                "run the program with an interpreter that has marks: Debian's and Fedora's /usr/bin/python3 do, those of python.org images, pyenv, uv and conda do not",
            ),
            Some(known) if known.status == Status::Absent => {
                (known.sentence.to_owned(), "run the program with Python 3.15 or with 3.10 and older")
            }
            _ => (format!("it has no mark {}.", mark.unwrap_or_default()), "see `pystap marks` for what it has"),
        };
        let has = |probe: Probe| interpreter.image.mark(PROVIDER, probe.name()).is_some();
        let left: Vec<&str> = EventKind::ALL
            .into_iter()
            .filter(|kind| kind.is_possible(has))
            .map(EventKind::name)
            .collect();
        let next = if left.is_empty() {
            elsewhere.to_owned()
        } else {
            format!(
                "trace what it has with `--events {}`, or {elsewhere}",
                left.join(",")
            )
        };
        let forbidden = self.wishes.usage == AgentUsage::Never
            && version.is_some_and(agent::supported)
            && missing.iter().all(|kind| kind.is_agents());
        let next = if forbidden {
            format!("leave out --no-agent, so that pystap's agent gives them, or {next}")
        } else {
            next
        };
        let names: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
        let kinds = names.join(" and ");
        let kinds = if by_default {
            format!("{kinds} (the default)")
        } else {
            kinds
        };
        Err(PlanError::NoMarks {
            who,
            kinds,
            reason,
            next,
        })
    }

    fn warn_of_quirks(&mut self, images: &[PlannedImage]) {
        for image in images {
            let Some(version) = &image.interpreter.version else {
                continue;
            };
            for mark in &image.marks {
                let known = marks::behaviour((version.major, version.minor), mark);
                // Then it is complete.
                if known.raise.is_some() && image.line_semaphore {
                    continue;
                }
                if known.raise.is_some() {
                    self.warnings.push(format!(
                        "few calls of Python {version} ({}) will be seen, and returns have no duration, because the semaphore of the line mark is left alone; leave out --no-line-semaphore to see all",
                        image.path.display()
                    ));
                } else if matches!(known.status, Status::Useless | Status::Dangerous) {
                    self.warnings.push(format!(
                        "{mark} of Python {version} ({}): {}",
                        image.path.display(),
                        known.sentence
                    ));
                }
            }
        }
    }
}

/// Event kinds and the templates that make them.
fn kinds(what: &WhatArgs, catalogue: &Catalogue) -> Result<(Vec<String>, Vec<String>), PlanError> {
    let mut events: Vec<String> = what
        .events
        .iter()
        .map(|kind| kind.trim().to_owned())
        .filter(|kind| !kind.is_empty())
        .collect();
    if events.is_empty() {
        events = EventKind::DEFAULT
            .map(|kind| kind.name().to_owned())
            .to_vec();
        if what.min_duration.is_some() {
            events.retain(|kind| kind != EventKind::Call.name());
        }
    }
    let mut templates: Vec<String> = Vec::new();
    for kind in &events {
        let template = match EventKind::of_name(kind) {
            Some(EventKind::Call | EventKind::Return) if what.min_duration.is_some() => {
                "timed_calls"
            }
            Some(built_in) if what.totals && built_in.is_agents() => TOTALS,
            Some(built_in) => built_in.template(),
            None if catalogue
                .get(kind)
                .is_some_and(|template| template.is_users()) =>
            {
                kind
            }
            None => {
                return Err(PlanError::UnknownEvent {
                    kind: kind.clone(),
                    known: EventKind::names(),
                });
            }
        };
        if !templates.iter().any(|known| known == template) {
            templates.push(template.to_owned());
        }
    }
    if what.min_duration.is_some() && !events.iter().any(|kind| kind == "return") {
        return Err(PlanError::DurationWithoutReturn);
    }
    Ok((events, templates))
}

fn filters(what: &WhatArgs) -> Filters {
    let mut filters = Filters {
        functions: what.functions.clone(),
        files: what.files.clone(),
        modules: what.modules.clone(),
        ..Filters::default()
    };
    for exclusion in &what.exclude {
        match exclusion {
            Exclusion::Function(glob) => filters.not_functions.push(glob.clone()),
            Exclusion::File(glob) => filters.not_files.push(glob.clone()),
            Exclusion::Module(glob) => filters.not_modules.push(glob.clone()),
        }
    }
    filters
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

/// What the agent has to tell of an interpreter.
#[derive(Debug, Clone, Copy, Default)]
struct MissingProbes {
    functions: bool,
    collections: bool,
}

impl MissingProbes {
    fn any(self) -> bool {
        self.functions || self.collections
    }

    fn add(&mut self, other: MissingProbes) {
        self.functions |= other.functions;
        self.collections |= other.collections;
    }
}

/// An interpreter, for messages.
fn described(interpreter: &Interpreter) -> String {
    match &interpreter.version {
        Some(version) => format!("Python {version} ({})", Foreign::path(&interpreter.path)),
        None => Foreign::path(&interpreter.path).to_string(),
    }
}

/// What a mark is known to do in this interpreter.
fn behaviour(interpreter: &Interpreter, mark: &str) -> Option<marks::Behaviour> {
    let version = interpreter.version.as_ref()?;
    Some(marks::behaviour((version.major, version.minor), mark))
}

/// Whether a process sees other mounts than we do.
fn elsewhere(pid: u32) -> bool {
    match (MountNamespace::of_process(pid), MountNamespace::ours()) {
        (Ok(theirs), Ok(ours)) => theirs != ours,
        _ => false,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        if !self.command.is_empty() {
            let words: Vec<_> = self
                .command
                .iter()
                .map(|word| word.to_string_lossy())
                .collect();
            writeln!(text, "launch     {}", Foreign::new(&words.join(" ")))?;
        }
        for process in &self.targets.processes {
            writeln!(
                text,
                "process    {} {}",
                process.pid,
                Foreign::new(&process.command_line.join(" "))
            )?;
        }
        if self.targets.everyone {
            writeln!(
                text,
                "processes  every one that runs an interpreter below, also later ones"
            )?;
        }
        writeln!(
            text,
            "children   {}",
            if self.follow {
                "traced, those to come as well"
            } else {
                "not traced"
            }
        )?;
        writeln!(text, "events     {}", self.events.join(", "))?;
        if let Some(minimum) = self.min_duration {
            writeln!(
                text,
                "calls      of at least {minimum:?}, measured in the kernel"
            )?;
        }
        for image in &self.images {
            let version = image
                .interpreter
                .version
                .as_ref()
                .map(|version| format!("Python {version}"))
                .unwrap_or_default();
            let build_id = image
                .interpreter
                .image
                .build_id
                .as_deref()
                .unwrap_or("none");
            writeln!(
                text,
                "image      {} {version}, build id {build_id}",
                Foreign::path(&image.path)
            )?;
            for mark in &image.marks {
                let sites = image
                    .interpreter
                    .image
                    .mark(PROVIDER, mark)
                    .map_or(0, |mark| mark.sites.len());
                writeln!(
                    text,
                    "  mark     {PROVIDER}:{mark}, {sites} {}",
                    if sites == 1 { "site" } else { "sites" }
                )?;
            }
            if image.line_semaphore {
                writeln!(
                    text,
                    "  raised   the semaphore of {PROVIDER}:line, unless --no-line-semaphore"
                )?;
            }
        }
        if let Some(agent) = &self.agent {
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
            for (path, probed) in &agent.libraries {
                let build_id = probed.image.build_id.as_deref().unwrap_or("none");
                writeln!(
                    text,
                    "image      {}, build id {build_id}",
                    Foreign::path(path)
                )?;
                for mark in &probed.marks {
                    writeln!(text, "  mark     {}:{mark}", probed.provider)?;
                }
            }
        }
        f.write_str(&text)
    }
}

/// Directories of templates: the user's own, then the one named on the command line, which wins.
pub fn template_directories(named: Option<&Path>) -> Vec<PathBuf> {
    let configured = match own::configured("templates") {
        Configured::Own(place) => Some(place),
        // Said once, where a command begins.
        Configured::Foreign(..) | Configured::Nothing => None,
    };
    // One that may not be read belongs to somebody else: `sudo -u` and the like keep HOME.
    let readable = |directory: &PathBuf| {
        !fs::read_dir(directory)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    configured
        .filter(readable)
        .into_iter()
        .chain(named.map(Path::to_owned))
        .collect()
}

/// Whether a directory that was named on the command line is one.
///
/// # Errors
/// [`ScriptError::Unreadable`].
pub fn check_template_directory(named: Option<&Path>) -> Result<(), ScriptError> {
    match named {
        Some(path) => fs::read_dir(path)
            .map(drop)
            .map_err(|reason| ScriptError::Unreadable {
                path: path.to_owned(),
                reason,
            }),
        None => Ok(()),
    }
}
