//! The agents of one session: their files, their sockets, and how each gets into its process.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pystap_agent_protocol::{Follow, Started};

use super::attach_method::AttachMethod;
use super::control::{AgentAccount, Control, Listener, Outcome, no_secret};
use super::directory::SITE;
use super::injection::Injection;
use super::joining::{Invitations, Invited};
use super::loaded::Loaded;
use super::placement::{self, Placement};
use super::remote::{self, Remote};
use super::{
    AgentConfig, AgentError, COLLECTIONS, CONTEXT, PROVIDER, embedded, environment, foreign,
    install, socket,
};
use crate::elf::Image;
use crate::engine::Children;
use crate::probe::Probed;
use crate::process::{Identity, Lineage};
use crate::python::{Interpreter, Version};

/// How long a process may take before it runs any Python code.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to check for a report of what went wrong.
const LOOK: Duration = Duration::from_millis(20);

/// The name of the script for a process, from the process IDs of this pystap and of the process.
fn script_name(ours: u32, pid: u32) -> String {
    format!("attach-{ours}-{pid}.py")
}

/// The script that is run in a process that is attached to.
const SCRIPT: &str = include_str!("attach.py");

/// A process that was asked to load the agent and has not answered yet.
#[derive(Debug)]
struct Asked {
    since: Instant,
    /// Its placement and the name of the report in it, if it runs a script.
    report: Option<(usize, String)>,
    remote: Option<Remote>,
    /// Inserts calls into it.
    injection: Option<Injection>,
}

impl Drop for Asked {
    /// However the wait ended, the request is withdrawn.
    fn drop(&mut self) {
        if let Some(remote) = &self.remote {
            remote.withdraw();
        }
    }
}

/// How a process was attached to.
#[derive(Debug, Default)]
pub struct Attached {
    /// How long it was stopped for that, if it was.
    pub stopped: Option<Duration>,
    /// A remark for the user.
    pub remark: Option<String>,
}

/// The agents of a session. Dropping this switches them off and removes their files.
#[derive(Debug)]
pub struct Agents {
    control: Control,
    /// Dropped before the files that they name.
    asked: BTreeMap<u32, Asked>,
    placements: Vec<Placement>,
    /// Libraries that were already in processes.
    loaded: Vec<Loaded>,
    /// Names of our sockets, by network namespace.
    listeners: HashMap<u64, String>,
    invitations: Arc<Invitations>,
    lineage: Arc<Lineage>,
    /// Number of processes that were asked and did not answer.
    given_up: u64,
    wanted: AgentConfig,
}

impl Agents {
    /// Prepares what the agents of these processes, and of the launched command if there is one, need. Nothing enters
    /// any process yet.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn prepare(
        wanted: AgentConfig,
        processes: &[u32],
        launched: bool,
    ) -> Result<Agents, AgentError> {
        let invitations = Arc::new(Invitations::default());
        let lineage = Arc::new(Lineage::default());
        let control = Control::new(
            wanted.clone(),
            Arc::clone(&invitations),
            Arc::clone(&lineage),
        )?;
        let mut agents = Agents {
            control,
            invitations,
            lineage,
            given_up: 0,
            wanted,
            placements: Vec::new(),
            loaded: Vec::new(),
            listeners: HashMap::new(),
            asked: BTreeMap::new(),
        };
        if launched {
            agents.placements.push(Placement::here()?);
            agents.listener(None)?;
        }
        for pid in processes {
            agents.make_room(*pid)?;
        }
        Ok(agents)
    }

    /// Whether a process can be traced in this session: whether it runs, or sees, one of the libraries that are probed.
    /// Probes are fixed at the start, so libraries that turn up later are not probed.
    pub fn reaches(&self, pid: u32) -> bool {
        match Loaded::of_process(pid) {
            Some(loaded) => {
                let placed = self.placements.iter().map(|it| it.inode);
                let others = self.loaded.iter().map(|known| known.inode);
                placed.chain(others).any(|inode| inode == loaded.inode)
            }
            None => self.placement_of(pid).is_some(),
        }
    }

    /// Puts the library where a process sees it, unless there is one already.
    fn make_room(&mut self, pid: u32) -> Result<(), AgentError> {
        if let Some(loaded) = Loaded::of_process(pid)
            && !self.loaded.iter().any(|known| known.inode == loaded.inode)
        {
            self.loaded.push(loaded);
        }
        if self.placement_of(pid).is_none() {
            self.placements.push(Placement::for_process(pid)?);
        }
        self.listener(Some(pid))?;
        Ok(())
    }

    /// Has the library probed, too, that is installed for the interpreter of this command: the environment may not reach each of
    /// its children, and in those the installed agent waits.
    pub fn add_installed(&mut self, command: &[OsString], version: &Version) {
        let python = environment::interpreter_of_command(command);
        let library = python.and_then(|python| install::library(&python, version));
        let installed = library.and_then(Loaded::of_file);
        self.loaded.extend(installed.filter(|installed| {
            !self
                .loaded
                .iter()
                .any(|known| known.inode == installed.inode)
        }));
    }

    fn placement_of(&self, pid: u32) -> Option<usize> {
        self.placements.iter().position(|it| it.is_seen_by(pid))
    }

    /// The processes of the session: engines report to it, and processes that join are checked against it.
    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// The name of our socket in the network namespace of a process.
    fn listener(&mut self, pid: Option<u32>) -> Result<String, AgentError> {
        let failed = |reason| AgentError::System {
            what: "no socket for agents can be had",
            reason,
        };
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let network = socket::network_of(&process).map_err(failed)?;
        if let Some(name) = self.listeners.get(&network) {
            return Ok(name.clone());
        }
        let (socket, name) = socket::listener(pid, network).map_err(failed)?;
        self.control.listen(Listener {
            socket,
            name: name.clone(),
            network,
        });
        self.listeners.insert(network, name.clone());
        Ok(name)
    }

    /// Where a process joins, and what it says there.
    fn invite(&mut self, pid: Option<u32>, invited: Invited) -> Result<Follow, AgentError> {
        let socket = self.listener(pid)?;
        let secret = self.invitations.issue(invited).map_err(no_secret)?;
        Ok(Follow { socket, secret })
    }

    /// The libraries as images to be probed, with the paths at which targets see them.
    pub fn probed(&self) -> Vec<(PathBuf, Probed)> {
        let probed = |reach: &Path, inode, image| probed(reach, inode, image, &self.wanted);
        let placed = self.placements.iter().map(|placement| {
            let probed = probed(placement.reach(), placement.inode, embedded::image());
            (placement.library().to_owned(), probed)
        });
        let others = self.loaded.iter().filter(|loaded| {
            let of_ours = |it: &Placement| it.inode == loaded.inode && it.library() == loaded.path;
            !self.placements.iter().any(of_ours)
        });
        let loaded = others.map(|loaded| {
            let probed = probed(&loaded.reach, loaded.inode, loaded.image.clone());
            (loaded.path.clone(), probed)
        });
        placed.chain(loaded).collect()
    }

    /// Makes files stay, when the session ends, where a process runs the library: SystemTap finds a library by its
    /// path, and could not trace that process again.
    pub fn keep_where_mapped(&mut self) {
        for placement in &mut self.placements {
            placement.keep_where_mapped();
        }
    }

    /// Has `children` told of every process whose agent comes by itself, before its first call.
    pub fn tell_of_children(&self, children: Arc<dyn Children>) {
        self.control.tell_of_children(children);
    }

    /// The environment variables that a launched command needs.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn environment(&mut self) -> Result<Vec<(OsString, OsString)>, AgentError> {
        let follow = self.invite(None, Invited::Launched)?;
        let system = |reason| AgentError::System {
            what: "the directory for a launched command cannot be made",
            reason,
        };
        let Some(placement) = self.placements.first_mut() else {
            return Ok(Vec::new());
        };
        let site = placement.site().map_err(system)?;
        Ok(environment::variables(&site, &follow))
    }

    /// Why the environment of the launched command did not bring the agent into a process below it, where that shows: a clause.
    pub fn obstacle_in(&self, pid: u32, command: &[String]) -> Option<String> {
        let library = self.placements.first()?.library();
        environment::obstacle_in(pid, command, &library.with_file_name(SITE))
    }

    /// Gets the agent into a running process. The result is one of the outcomes, see [`Agents::next`].
    ///
    /// # Errors
    /// [`AgentError`]; the process is then as it was.
    pub fn attach(
        &mut self,
        pid: u32,
        interpreter: &Interpreter,
        way: &AttachMethod,
    ) -> Result<Attached, AgentError> {
        let mut attached = Attached::default();
        let mut asked = Asked {
            since: Instant::now(),
            report: None,
            remote: None,
            injection: None,
        };
        match way {
            AttachMethod::Environment => return Ok(attached),
            AttachMethod::Dormant { socket } => {
                let connection =
                    socket::connection(pid, socket).map_err(|reason| AgentError::System {
                        what: "the agent that waits in the process does not answer",
                        reason,
                    })?;
                self.control.start(pid, connection);
            }
            AttachMethod::Remote => {
                let refused = |reason| AgentError::Remote { pid, reason };
                let mut remote = Remote::of(pid, interpreter).map_err(refused)?;
                let (placement, script, report) = self.script(pid)?;
                let (stopped, other) = remote.ask(&script).map_err(refused)?;
                attached.stopped = Some(stopped);
                attached.remark = other.map(|other| {
                    format!(
                        "another debugger has asked threads of process {pid} to run {other}, which has not happened yet; those were left alone, and pystap's agent comes in by the others"
                    )
                });
                attached.remark = attached.remark.or_else(|| remote::ignored(pid));
                asked.remote = Some(remote);
                asked.report = Some((placement, report));
            }
            AttachMethod::Ptrace => {
                self.make_room(pid)?;
                let at = self.placement_of(pid);
                let placement = at.and_then(|at| self.placements.get(at));
                let library = placement.ok_or(AgentError::Silent { pid })?.library();
                let refused = |reason| AgentError::Injection { pid, reason };
                let injection = Injection::begin(pid, interpreter, library).map_err(refused)?;
                asked.injection = Some(injection);
            }
        }
        self.asked.insert(pid, asked);
        Ok(attached)
    }

    /// Writes the script that a process is to run, and creates a report for it to write into. Returns the number of the
    /// placement, the path of the script and the name of the report.
    fn script(&mut self, pid: u32) -> Result<(usize, PathBuf, String), AgentError> {
        self.make_room(pid)?;
        let process = Identity::of(pid).ok_or(AgentError::Silent { pid })?;
        let follow = self.invite(Some(pid), Invited::Below(process))?;
        let at = self.placement_of(pid);
        let Some((at, placement)) = at.and_then(|at| Some((at, self.placements.get_mut(at)?)))
        else {
            // It has changed its root since it was examined.
            return Err(AgentError::Silent { pid });
        };
        let system = |reason| AgentError::System {
            what: "the script that loads the agent cannot be written",
            reason,
        };
        let user = std::fs::metadata(format!("/proc/{pid}"))
            .map(|it| std::os::unix::fs::MetadataExt::uid(&it))
            .map_err(system)?;
        let ours = std::process::id();
        let report = format!("report-{ours}-{pid}");
        let seen = placement.report(&report, user).map_err(system)?;
        let library = placement.library().to_owned();
        let script = SCRIPT
            .replace("@LIBRARY@", &literal(&library.to_string_lossy()))
            .replace("@FOLLOW@", &literal(&follow.to_string()))
            .replace("@REPORT@", &literal(&seen.to_string_lossy()));
        let path = placement
            .script(pid, &script_name(ours, pid), &script)
            .map_err(system)?;
        Ok((at, path, report))
    }

    /// The outcome for the next process, including those that joined by themselves; `None` when nothing is known within
    /// this time.
    pub fn next(&mut self, within: Duration) -> Option<Outcome> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Ok(outcome) = self.control.outcomes().recv_timeout(left.min(LOOK)) {
                self.settle(outcome.pid);
                return Some(outcome);
            }
            if let Some(outcome) = self.injected().or_else(|| self.given_up()) {
                if !matches!(outcome.result, Err(AgentError::Silent { .. })) {
                    self.given_up = self.given_up.saturating_add(1);
                }
                self.settle(outcome.pid);
                return Some(outcome);
            }
            if left.is_zero() {
                return None;
            }
        }
    }

    /// Whether some processes have not answered yet.
    pub fn waits(&self) -> bool {
        !self.asked.is_empty()
    }

    fn settle(&mut self, pid: u32) {
        self.asked.remove(&pid);
    }

    /// Talks to agents that were injected, which wait for that. Returns a process for which that failed.
    fn injected(&mut self) -> Option<Outcome> {
        for (pid, asked) in &mut self.asked {
            let Some(result) = asked.injection.as_ref().and_then(Injection::result) else {
                continue;
            };
            asked.injection = None;
            asked.since = Instant::now();
            let pid = *pid;
            let error = match result {
                Ok(socket) => match socket::connection(pid, &socket) {
                    Ok(connection) => {
                        self.control.start(pid, connection);
                        continue;
                    }
                    Err(reason) => AgentError::System {
                        what: "the agent that was put into the process does not answer",
                        reason,
                    },
                },
                Err(reason) => AgentError::Injection { pid, reason },
            };
            return Some(Outcome {
                pid,
                result: Err(error),
                is_counted: true,
            });
        }
        None
    }

    /// A process that reported a failure, has ended, or did not answer in time.
    fn given_up(&self) -> Option<Outcome> {
        self.asked.iter().find_map(|(pid, asked)| {
            let pid = *pid;
            let report = asked
                .report
                .as_ref()
                .and_then(|(at, name)| self.placements.get(*at)?.read(name))
                .filter(|report| !report.is_empty())
                .map(|report| foreign::text(&report));
            let error = match report {
                Some(reason) => AgentError::Load {
                    pid,
                    next: advice(&reason),
                    reason,
                },
                None if asked.injection.is_some() => return None,
                None if !crate::process::runs(pid) => AgentError::Silent { pid },
                None if asked.since.elapsed() < PATIENCE => return None,
                None if crate::process::is_stopped(pid) => AgentError::Stopped { pid },
                None if asked.remote.as_ref().is_some_and(Remote::was_taken) => {
                    AgentError::Vetoed { pid }
                }
                None if asked.remote.is_some() => AgentError::NeverRan {
                    pid,
                    seconds: PATIENCE.as_secs(),
                },
                // It was called, and exists.
                None => AgentError::Unresponsive {
                    pid,
                    seconds: PATIENCE.as_secs(),
                },
            };
            Some(Outcome {
                pid,
                // Those that have ended are not among the given up.
                is_counted: !matches!(error, AgentError::Silent { .. }),
                result: Err(error),
            })
        })
    }

    /// Switches all agents off. Returns their totals, and which processes were not traced; empty the second time.
    pub fn stop(&mut self) -> AgentAccount {
        let mut account = self.control.stop().unwrap_or_default();
        let failed = &mut account.untraced.failed;
        *failed = failed.saturating_add(std::mem::take(&mut self.given_up));
        account
    }
}

/// The library in a place that processes with our own root and mounts see, without any agent that comes of it. Dropping this removes
/// it, unless another session uses it.
#[derive(Debug)]
pub struct PlacedLibrary(Placement);

impl PlacedLibrary {
    /// Puts it there.
    ///
    /// # Errors
    /// [`AgentError`], when there is no place for it.
    pub fn here() -> Result<PlacedLibrary, AgentError> {
        Ok(PlacedLibrary(Placement::here()?))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.library()
    }
}

/// Where the library is written as a rule.
pub fn usual_library() -> PathBuf {
    placement::usual()
}

/// Where root's pystap writes the library as a rule.
pub fn library_of_root() -> PathBuf {
    placement::of_root()
}

/// What stands for the library in a plan, before it is written out to this path.
pub fn expected_library(path: PathBuf, wanted: &AgentConfig) -> (PathBuf, Probed) {
    let probed = probed(&path, 0, embedded::image(), wanted);
    (path, probed)
}

/// A library of the agent as an image to be probed.
pub(super) fn probed(reach: &Path, inode: u64, image: Arc<Image>, wanted: &AgentConfig) -> Probed {
    let mut marks: Vec<String> = Vec::new();
    let mut add = |names: &[&str]| marks.extend(names.iter().map(|name| (*name).to_owned()));
    if wanted.functions.is_some() {
        add(&wanted.marks);
        add(&[CONTEXT]);
    }
    if wanted.collections.is_some() {
        add(&COLLECTIONS);
    }
    Probed {
        path: reach.to_owned(),
        inode,
        image,
        provider: PROVIDER,
        marks,
        values: wanted.capture.any(),
        line_semaphore: false,
    }
}

/// The remedy for a load failure with this message.
fn advice(reason: &str) -> &'static str {
    if reason.contains("Operation not permitted") || reason.contains("Permission denied") {
        "its mounts or a security module (SELinux, AppArmor) forbid it to map the library; allow that, or start the program as `pystap trace -- COMMAND`"
    } else if reason.contains("GLIBC") || reason.contains("ld-musl") || reason.contains("libc.so") {
        "its C library is not glibc, or too old; run the program with a Python for glibc"
    } else {
        "report this if it stays"
    }
}

/// A Python string literal: JSON's escapes are valid in Python.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What agents reported, one sentence for each thing that the user should know: what several say is said once.
pub fn remarks(reports: &[(u32, Started)]) -> Vec<String> {
    let mut said: Vec<(String, Vec<u32>)> = Vec::new();
    for (pid, started) in reports {
        let warnings = started.warnings.iter();
        let quoted = warnings.map(|warning| format!(": \u{201c}{warning}\u{201d}"));
        let chained = started.chained_profiler.then(|| {
            " that there is a profiler, which goes on getting its events through it".to_owned()
        });
        for remark in quoted.chain(chained) {
            match said.iter_mut().find(|(known, _)| *known == remark) {
                // One agent may say the same twice.
                Some((_, pids)) if pids.last() == Some(pid) => {}
                Some((_, pids)) => pids.push(*pid),
                None => said.push((remark, vec![*pid])),
            }
        }
    }
    let sentence = |(remark, mut pids): (String, Vec<u32>)| match pids.len() {
        1 => format!("the agent in {} says{remark}", processes(&pids)),
        _ => {
            pids.sort_unstable();
            format!("the agents in {} say{remark}", processes(&pids))
        }
    };
    said.into_iter().map(sentence).collect()
}

/// Processes in words, of many the first ones: `process 7`, `processes 7, 8 and 9`.
pub fn processes(pids: &[u32]) -> String {
    const SHOWN: usize = 8;
    let (last, others) = match pids {
        [] => return "no process".to_owned(),
        [pid] => return format!("process {pid}"),
        [others @ .., last] if others.len() <= SHOWN => (last.to_string(), others),
        pids => (format!("{} more", pids.len() - SHOWN), &pids[..SHOWN]),
    };
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    format!("processes {} and {last}", others.join(", "))
}
