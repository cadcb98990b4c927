//! The agents of a trace: brought in when the probes are live, heard while it runs, sent away before it ends.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use super::Failure;
use super::session::Stops;
use crate::agent::{AgentError, Agents, Way, environment, remarks};
use crate::console::Console;
use crate::engine::Running;
use crate::export::flow::Printable;
use crate::plan::TracePlan;
use crate::target::Process;

/// How long the answers of agents are waited for at a time.
const TURN: Duration = Duration::from_millis(50);

/// The agents, with what of the plan they need.
pub(super) struct SessionAgents {
    agents: Agents,
    launched: bool,
    later: bool,
    gdb: bool,
    /// Processes whose agents have begun.
    joined: HashSet<u32>,
    /// Children of the launched command that were looked at.
    seen: HashSet<u32>,
    ended: bool,
}

impl SessionAgents {
    /// Writes the library out for the targets of a plan that need it, and tells the plan where it is.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(super) fn prepare(plan: &mut TracePlan) -> Result<Option<SessionAgents>, Failure> {
        let gdb = plan.may_use_gdb();
        let Some(agent) = &mut plan.agent else {
            return Ok(None);
        };
        let processes: Vec<u32> = agent.targets.iter().map(|(pid, _)| *pid).collect();
        let here = agent.launched || agent.later;
        let agents = Agents::prepare(agent.wanted.clone(), &processes, here)?;
        agent.libraries = agents.probed();
        Ok(Some(SessionAgents {
            agents,
            launched: agent.launched,
            later: agent.later,
            gdb,
            joined: HashSet::new(),
            seen: HashSet::new(),
            ended: false,
        }))
    }

    /// Has the library's file stay where a process runs it, so that SystemTap finds it there again.
    pub(super) fn keep_where_mapped(&mut self) {
        self.agents.keep_where_mapped();
    }

    /// Has the engine, if it wants that, told of every process whose agent comes by itself.
    pub(super) fn tell(&self, engine: &dyn Running) {
        if let Some(children) = engine.children() {
            self.agents.tell_of_children(children);
        }
    }

    /// The variables for the command that is launched.
    ///
    /// # Errors
    /// When the files that they name cannot be written.
    pub(super) fn environment(&mut self) -> Result<Vec<(OsString, OsString)>, Failure> {
        if !self.launched {
            return Ok(Vec::new());
        }
        Ok(self.agents.environment()?)
    }

    /// Brings the agent into every process that runs already, and waits until each has answered.
    ///
    /// # Errors
    /// When there were some, and it came into none.
    pub(super) fn attach(
        &mut self,
        plan: &TracePlan,
        stops: &Stops,
        console: &Console,
    ) -> Result<(), Failure> {
        let targets = plan.agent.iter().flat_map(|agent| &agent.targets);
        let mut failures: Vec<AgentError> = Vec::new();
        for (pid, way) in targets {
            let processes = &plan.targets.processes;
            let process = processes.iter().find(|process| process.pid == *pid);
            let Some(interpreter) = process.and_then(|it| it.interpreters.first()) else {
                continue;
            };
            console.note(format_args!(
                "calls of process {pid} come from pystap's agent, {way}"
            ));
            if let Err(error) = self.agents.attach(*pid, interpreter, way) {
                failures.push(error);
            }
        }
        if plan.agent.as_ref().is_some_and(|agent| agent.launched) {
            console.note(format_args!(
                "calls come from pystap's agent, {}",
                Way::Environment
            ));
        }
        let mut begun = 0;
        while self.agents.waits() && stops.requests().is_empty() {
            let Some(outcome) = self.agents.next(TURN) else {
                continue;
            };
            match outcome.result {
                Ok(joined) => {
                    begun += 1;
                    self.joined.insert(outcome.pid);
                    for remark in remarks(outcome.pid, &joined) {
                        console.warning(remark);
                    }
                }
                Err(error) => failures.push(error),
            }
        }
        let attached = plan
            .agent
            .iter()
            .map(|agent| agent.targets.len())
            .sum::<usize>();
        let others =
            plan.targets.processes.len() > attached || self.launched || self.later || begun > 0;
        match failures.pop() {
            Some(error) if !others => {
                for error in failures {
                    console.warning(error);
                }
                Err(error.into())
            }
            last => {
                for error in failures.into_iter().chain(last) {
                    console.warning(error);
                }
                Ok(())
            }
        }
    }

    /// Brings the agent into a process that was found while the session runs.
    pub(super) fn newcomer(&mut self, process: &Process, console: &Console) {
        let pid = process.pid;
        let Some(interpreter) = process.interpreters.first() else {
            return;
        };
        if !self.agents.reaches(pid) {
            console.warning(format_args!(
                "process {pid} is not traced: it sees other files than those of this session (a container), where pystap's agent is not; end this session and begin another one"
            ));
            return;
        }
        let attached = match Way::into_process(pid, interpreter, self.gdb) {
            Ok(way) => self.agents.attach(pid, interpreter, &way),
            Err(reason) => Err(AgentError::Way { pid, reason }),
        };
        if let Err(error) = attached {
            console.warning(error);
        }
    }

    /// Says what became of processes since the last look.
    pub(super) fn look(&mut self, console: &Console) {
        while let Some(outcome) = self.agents.next(Duration::ZERO) {
            match outcome.result {
                Ok(joined) => {
                    self.joined.insert(outcome.pid);
                    for remark in remarks(outcome.pid, &joined) {
                        console.warning(remark);
                    }
                }
                // A process may end before it has said much.
                Err(AgentError::Silent { pid }) => {
                    console.detail(format_args!("process {pid} ended before its agent began"));
                }
                Err(error) => console.warning(error),
            }
        }
    }

    /// Says, now and then, which children of the launched command the agent cannot come into, and why.
    pub(super) fn look_at_children(&mut self, children: &[(u32, Vec<String>)], console: &Console) {
        if !self.launched {
            return;
        }
        // Another process may get the number of one that has ended.
        self.seen
            .retain(|pid| children.iter().any(|(child, _)| child == pid));
        for (pid, words) in children {
            if self.joined.contains(pid) || !self.seen.insert(*pid) {
                continue;
            }
            let command: Vec<OsString> = words.iter().map(OsString::from).collect();
            if let Some(option) = environment::obstacle_of_command(&command) {
                console.warning(format_args!(
                    "process {pid} is not traced: it was started with {option} ({}), which leaves out the environment that brings pystap's agent in; start it without {option}, or trace it by itself with -p",
                    Printable(&words.join(" "))
                ));
            }
        }
    }

    /// Switches the agents off. The number of events that they could not tell.
    pub(super) fn stop(&mut self, console: &Console) -> u64 {
        if std::mem::replace(&mut self.ended, true) {
            return 0;
        }
        self.look(console);
        let account = self.agents.stop();
        console.detail(format_args!(
            "the agents told {} entries and returns and could not tell {}; {} ended without an account",
            account.told, account.dropped, account.silent
        ));
        if self.launched && self.joined.is_empty() {
            console.warning(
                "no Python of the command loaded pystap's agent, so none of its calls were seen; it may have been started with -I, -E or -S, without its environment (sudo, env -i), or be none of CPython 3.9 to 3.15",
            );
        }
        account.dropped
    }
}
