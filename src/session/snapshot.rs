//! What a decision has to know of the host, as plain data, and the look at a real host that finds it out. Looks at nothing that
//! the request does not need.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::plan::PlanError;
use super::request::SessionRequest;
use super::wanted::{OwnTemplate, Wanted};
use crate::agent::{self, AttachMethod, environment};
use crate::engine::all;
use crate::engine::lifecycle::Engine;
use crate::process::{self, MountNamespace, Process, Targets};
use crate::python::undecodable::Sign;
use crate::python::{FileId, Interpreter, PythonError, maps_one_of};
use crate::script::Catalogue;
use crate::service::Service;

/// A host at one moment, as far as one request asks for it.
#[derive(Debug, Default)]
pub(crate) struct HostSnapshot {
    /// The processes that were found, and what a command will run, with their interpreters.
    pub(crate) targets: Targets,
    /// The service that was named.
    pub(crate) service: Option<Service>,
    /// What is known of target processes besides, by process id. One that is not here shows nothing.
    pub(crate) processes: BTreeMap<u32, ProcessSurvey>,
    /// What is known of the command.
    pub(crate) command: CommandSurvey,
    /// Processes beside the targets that would get probes armed by an engine which arms them everywhere, and which these could
    /// end: one for each interpreter at most.
    pub(crate) bystanders: Vec<Bystander>,
    /// Templates of the user's own.
    pub(crate) own_templates: Vec<OwnTemplate>,
    /// Where the agent's library is written as a rule, where anybody needs it.
    pub(crate) agent_library: PathBuf,
    /// The engines, in the order in which they are preferred.
    pub(crate) engines: Vec<Box<dyn Engine>>,
}

/// What is known of a process that is a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProcessSurvey {
    /// What shows that a path of it is not UTF-8, where its interpreter's probes fail on such paths.
    pub(crate) sign: Option<Sign>,
    /// How the agent can get in, or why not; `None` where nobody asks.
    pub(crate) attach: Option<Result<AttachMethod, String>>,
    /// The agent that is in it already.
    pub(crate) loaded: Option<LoadedAgent>,
    /// Whether it sees other mounts than we do.
    pub(crate) elsewhere: bool,
}

/// An agent in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadedAgent {
    /// The path of its library, as the process sees it.
    pub(crate) path: PathBuf,
    /// Whether that is gone.
    pub(crate) deleted: bool,
    /// Whether its code stands elsewhere in memory than in the file.
    pub(crate) displaced: bool,
}

/// What is known of a command that is launched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandSurvey {
    /// What shows that a path of it is not UTF-8, where its interpreter's probes fail on such paths.
    pub(crate) sign: Option<Sign>,
    /// The option of its interpreter that leaves out the environment, where the agent would come in by that.
    pub(crate) isolated: Option<String>,
}

/// A process that runs an interpreter of the targets without being one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bystander {
    /// The process.
    pub(crate) pid: u32,
    /// The interpreter.
    pub(crate) file: FileId,
    /// What shows that a path of it is not UTF-8.
    pub(crate) sign: Sign,
}

impl HostSnapshot {
    /// Looks at this host.
    ///
    /// # Errors
    /// What is wrong with the request by itself, and targets that cannot be found or looked at.
    pub(crate) fn gather(
        request: &SessionRequest,
        catalogue: &Catalogue,
    ) -> Result<HostSnapshot, PlanError> {
        let own_templates = OwnTemplate::all(catalogue);
        let wanted = Wanted::of(request, &own_templates)?;
        let service = request.targets.service.as_deref();
        let service = service.map(process::service).transpose()?;
        let mut targets = request.targets.selection(service.clone()).resolve()?;
        if request.purpose.is_for_elsewhere() {
            // Neither are they there, nor what was found out about them.
            targets.processes.clear();
            targets.notes.clear();
        }
        let engines = all::survey(request, |engine| {
            wanted.in_question(request, engine.name(), engine.abilities())
        });
        let mut snapshot = HostSnapshot {
            targets,
            service,
            own_templates,
            engines,
            ..HostSnapshot::default()
        };
        snapshot.look_at_paths(request, &wanted);
        snapshot.look_for_ways_in(request, &wanted);
        snapshot.look_at_bystanders(request, &wanted);
        Ok(snapshot)
    }

    /// The interpreter of a process whose probes fail on paths that are not UTF-8.
    pub(crate) fn failing<'a>(wanted: &Wanted, process: &'a Process) -> Option<&'a Interpreter> {
        let mut interpreters = process.interpreters.iter();
        interpreters.find(|interpreter| wanted.fails_on_paths(interpreter))
    }

    /// The interpreters whose probes would end a target.
    pub(crate) fn endangered(&self, wanted: &Wanted) -> HashSet<FileId> {
        let processes = self.targets.processes.iter().filter_map(|process| {
            self.processes.get(&process.pid)?.sign.as_ref()?;
            Some(HostSnapshot::failing(wanted, process)?.file)
        });
        let sign = self.command.sign.as_ref();
        let command = sign.and_then(|_| self.failing_command(wanted));
        processes.chain(command.map(|it| it.file)).collect()
    }

    /// The interpreter of the command whose probes fail on paths that are not UTF-8.
    pub(crate) fn failing_command(&self, wanted: &Wanted) -> Option<&Interpreter> {
        let expected = self.targets.command.iter();
        expected
            .flat_map(|command| &command.interpreters)
            .find(|interpreter| wanted.fails_on_paths(interpreter))
    }

    fn look_at_paths(&mut self, request: &SessionRequest, wanted: &Wanted) {
        let ours = MountNamespace::ours().ok();
        for process in &self.targets.processes {
            let sign = HostSnapshot::failing(wanted, process)
                .and_then(|it| Sign::of_process(process.pid, it.version.as_ref()));
            let survey = ProcessSurvey {
                sign,
                elsewhere: ours
                    .zip(process.mounts)
                    .is_some_and(|(ours, theirs)| ours != theirs),
                ..ProcessSurvey::default()
            };
            self.processes.insert(process.pid, survey);
        }
        let failing = self.failing_command(wanted);
        self.command.sign = failing.and_then(|interpreter| {
            Sign::of_command(&request.targets.command, interpreter.version.as_ref())
        });
    }

    fn look_for_ways_in(&mut self, request: &SessionRequest, wanted: &Wanted) {
        let endangered = self.endangered(wanted);
        // Whether it is reached is what is looked for.
        let missing = |interpreter: &Interpreter| {
            wanted.missing(interpreter, endangered.contains(&interpreter.file), true)
        };
        let mut needed = self.targets.python.iter().any(|it| missing(it).any());
        for process in &self.targets.processes {
            let (Some(interpreter), Some(survey)) = (
                process.interpreters.first(),
                self.processes.get_mut(&process.pid),
            ) else {
                continue;
            };
            let missing = missing(interpreter);
            needed |= missing.any();
            let has_none = wanted.of_interpreter(interpreter, missing).next().is_none();
            if !missing.any() && !has_none {
                continue;
            }
            let attach = AttachMethod::into_process(process.pid, interpreter, request.agent.inject)
                .map_err(|error| error.to_string());
            if attach.is_ok() && missing.any() {
                survey.loaded = agent::Loaded::of_process(process.pid).map(|loaded| LoadedAgent {
                    displaced: loaded.image.is_displaced(),
                    path: loaded.path,
                    deleted: loaded.deleted,
                });
            }
            survey.attach = Some(attach);
        }
        let expected = self.targets.command.iter();
        let mut expected = expected.flat_map(|command| &command.interpreters);
        if expected.next().is_some_and(|it| missing(it).any()) {
            needed = true;
            self.command.isolated = environment::obstacle_of_command(&request.targets.command);
        }
        if needed {
            self.agent_library = agent::usual_library();
        }
    }

    /// Some engines arm probes in every process that runs an image, not only in targets.
    fn look_at_bystanders(&mut self, request: &SessionRequest, wanted: &Wanted) {
        let arms_everyone = self.engines.iter().any(|engine| {
            engine.abilities().arms_everyone
                && wanted.in_question(request, engine.name(), engine.abilities())
                && engine.forbidden().is_none()
        });
        if !arms_everyone || request.purpose.is_compile() {
            return;
        }
        let targets = &self.targets;
        let running = targets.processes.iter().flat_map(|it| &it.interpreters);
        let expected = targets.command.iter().flat_map(|it| &it.interpreters);
        let mut versions = BTreeMap::new();
        for interpreter in running.chain(expected).chain(&targets.python) {
            if wanted.fails_on_paths(interpreter) {
                versions.insert(interpreter.file, interpreter.version.as_ref());
            }
        }
        let mut files: HashSet<FileId> = versions.keys().copied().collect();
        let all = match files.is_empty() {
            true => None,
            false => procfs::process::all_processes().ok(),
        };
        let mut unclear = Vec::new();
        for process in all.into_iter().flatten().flatten() {
            let Ok(pid) = u32::try_from(process.pid) else {
                continue;
            };
            match maps_one_of(pid, &files) {
                Ok(true) => {}
                Ok(false) | Err(PythonError::Ended { .. } | PythonError::NoProcess { .. }) => {
                    continue;
                }
                // It may well run one of them.
                Err(_) => {
                    unclear.push(pid);
                    continue;
                }
            }
            let mapped = |file: &FileId| maps_one_of(pid, &HashSet::from([*file])).unwrap_or(false);
            let Some(file) = files.iter().copied().find(mapped) else {
                continue;
            };
            let version = versions.get(&file).copied().flatten();
            if let Some(sign) = Sign::of_process(pid, version) {
                self.bystanders.push(Bystander { pid, file, sign });
                files.remove(&file);
                if files.is_empty() {
                    break;
                }
            }
        }
        if let Some(first) = unclear.first() {
            self.targets.notes.push(format!(
                "{} beside the targets could not be looked at (process {first} first), so it is not known whether armed probes could end one because of a path that is not UTF-8; use --agent to be sure",
                match unclear.len() {
                    1 => "one process".to_owned(),
                    count => format!("{count} processes"),
                }
            ));
        }
    }
}
