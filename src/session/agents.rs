//! The agents of a trace: brought in when the probes are live, heard while it runs, sent away before it ends.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::absence::Absence;
use super::latecomers::Latecomers;
use super::plan::Plan;
use super::stop::StopSignals;
use crate::agent::{
    AgentAccount, AgentError, Agents, AttachMethod, Attached, Joined, Untraced, is_without,
    processes, remarks,
};
use crate::console::{Console, Exit};
use crate::engine::Running;
use crate::failure::Failure;
use crate::process::{self, Identity, Launched, Lineage, Process, Program};

/// How long the answers of agents are waited for at a time.
const TURN: Duration = Duration::from_millis(50);
/// Warnings about processes that are shown; the others are counted.
const MOST_WARNINGS: u64 = 50;
/// Processes whose agents have begun that are remembered, at least, whether they run or not.
const MANY: usize = 1 << 10;

/// The agents, with what of the plan they need.
pub(crate) struct SessionAgents {
    agents: Agents,
    launched: bool,
    later: bool,
    inject: bool,
    /// Processes whose agents have begun, and the programs that they ran then; and how many there are before it is looked which of them
    /// are still there.
    joined: HashMap<u32, Option<Program>>,
    due: usize,
    /// Those of them whose agents see interpreters within the interpreter.
    see_interpreters: HashSet<u32>,
    /// Targets that the session began with, until the search has found them, too.
    first: HashSet<u32>,
    latecomers: Latecomers,
    warnings: u64,
    untraced: Untraced,
    /// Whether agents alone tell what happens, so that nobody else knows of a Python without one.
    directly: bool,
    /// Whether there were calls that no agent saw, and that nobody could count.
    misses_calls: bool,
    ended: bool,
}

impl SessionAgents {
    /// Writes the library out for the targets of a plan that need it, and tells the plan where it is.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(crate) fn prepare(plan: &mut Plan) -> Result<Option<SessionAgents>, Failure> {
        let inject = plan.may_inject();
        let Some(agent) = &mut plan.agent else {
            return Ok(None);
        };
        let processes: Vec<u32> = agent.targets.iter().map(|(pid, _)| *pid).collect();
        let here = agent.launched || agent.later;
        let mut agents = Agents::prepare(agent.wanted.clone(), &processes, here)?;
        if agent.launched {
            let expected = plan.targets.command.iter();
            let versions = expected.flat_map(|it| &it.interpreters);
            for version in versions.filter_map(|it| it.version.as_ref()) {
                agents.add_installed(&plan.command, version);
            }
        }
        agent.libraries = agents.probed();
        Ok(Some(SessionAgents {
            agents,
            launched: agent.launched,
            later: agent.later,
            inject,
            joined: HashMap::new(),
            due: MANY,
            see_interpreters: HashSet::new(),
            first: HashSet::new(),
            latecomers: Latecomers::none(),
            warnings: 0,
            directly: agent.directly,
            misses_calls: false,
            untraced: Untraced::default(),
            ended: false,
        }))
    }

    /// Has the library's file stay where a process runs it, so that SystemTap finds it there again.
    pub(crate) fn keep_where_mapped(&mut self) {
        self.agents.keep_where_mapped();
    }

    /// Takes note of the processes that the session begins with. Whoever hears of more of them is to tell what this returns.
    pub(crate) fn begin_with(&self, plan: &Plan, launched: Option<&Launched>) -> Arc<Lineage> {
        let lineage = self.agents.lineage();
        for process in &plan.targets.processes {
            lineage.root(Identity {
                pid: process.pid,
                start_time: process.start_time,
            });
        }
        if let Some(launched) = launched {
            let root = Identity {
                pid: launched.pid(),
                start_time: launched.start_time(),
            };
            // Where its interpreters have marks of their own, nobody has to ask for anything.
            if self.launched {
                lineage.launched(root);
            } else {
                lineage.root(root);
            }
        }
        Arc::clone(lineage)
    }

    /// Has the engine, if it wants that, told of every process whose agent comes by itself.
    pub(crate) fn tell(&self, engine: &dyn Running) {
        if let Some(children) = engine.children() {
            self.agents.tell_of_children(children);
        }
    }

    /// The variables for the command that is launched.
    ///
    /// # Errors
    /// When the files that they name cannot be written.
    pub(crate) fn environment(&mut self) -> Result<Vec<(OsString, OsString)>, Failure> {
        if !self.launched {
            return Ok(Vec::new());
        }
        Ok(self.agents.environment()?)
    }

    /// Brings the agent into every process that runs already, and waits until each has answered.
    ///
    /// # Errors
    /// When there were some and it came into none, or not into all where that is asked ([`Exit::Unready`]).
    pub(crate) fn attach(
        &mut self,
        plan: &Plan,
        stops: &StopSignals,
        console: &Console,
    ) -> Result<(), Failure> {
        say_ways(plan, console);
        let targets = plan.agent.iter().flat_map(|agent| &agent.targets);
        let mut failures: Vec<AgentError> = Vec::new();
        self.latecomers.absence = Absence::beginning();
        self.first = plan.pids().into_iter().collect();
        for (pid, way) in targets {
            if !stops.requests().is_empty() {
                break;
            }
            let processes = &plan.targets.processes;
            let process = processes.iter().find(|process| process.pid == *pid);
            let Some(interpreter) = process.and_then(|it| it.interpreters.first()) else {
                continue;
            };
            match self.agents.attach(*pid, interpreter, way) {
                Ok(attached) => tell_of(*pid, attached, console),
                Err(error) => {
                    self.untraced.failed += 1;
                    failures.push(error);
                }
            }
        }
        if plan.agent.as_ref().is_some_and(|agent| agent.launched) {
            console.note(format_args!(
                "calls come from pystap's agent, {}",
                AttachMethod::Environment
            ));
        }
        let mut begun = Vec::new();
        while self.agents.waits() && stops.requests().is_empty() {
            let Some(outcome) = self.agents.next(TURN) else {
                continue;
            };
            match outcome.result {
                Ok(joined) => {
                    self.begins(outcome.pid, &joined);
                    begun.push((outcome.pid, joined.started));
                }
                Err(error) => failures.push(error),
            }
        }
        for remark in remarks(&begun) {
            self.warn(console, remark);
        }
        for (pid, _) in plan.agent.iter().flat_map(|agent| &agent.targets) {
            if !self.joined.contains_key(pid)
                && let Some(process) = Identity::of(*pid)
            {
                self.latecomers.absence.begin_with_session(process);
            }
        }
        let attached = plan
            .agent
            .iter()
            .map(|agent| agent.targets.len())
            .sum::<usize>();
        let others = plan.targets.processes.len() > attached
            || self.launched
            || self.later
            || !begun.is_empty();
        let all = plan.agent.as_ref().is_some_and(|agent| agent.all);
        match failures.pop() {
            Some(error) if all || !others => {
                for error in failures {
                    console.warning(error);
                }
                let failure = Failure::from(error);
                Err(match all {
                    true => Failure::new(Exit::Unready, failure.message),
                    false => failure,
                })
            }
            last => {
                for error in failures.into_iter().chain(last) {
                    console.warning(error);
                }
                Ok(())
            }
        }
    }

    /// Whether the agent of a process has begun.
    pub(crate) fn traces(&self, pid: u32) -> bool {
        self.joined.contains_key(&pid)
    }

    /// The agent of a process has begun.
    fn begins(&mut self, pid: u32, joined: &Joined) {
        self.joined.insert(pid, Program::of(pid));
        if self.joined.len() > self.due {
            self.joined.retain(|pid, _| process::runs(*pid));
            self.see_interpreters
                .retain(|pid| self.joined.contains_key(pid));
            self.due = MANY.max(2 * self.joined.len());
        }
        if joined.started.interpreters {
            self.see_interpreters.insert(pid);
        } else {
            self.see_interpreters.remove(&pid);
        }
    }

    /// The processes in which it has begun and sees the main interpreter only.
    pub(crate) fn traced_in_part(&self) -> impl Iterator<Item = u32> {
        let sees_all = |pid: &u32| self.see_interpreters.contains(pid);
        self.joined
            .keys()
            .copied()
            .filter(move |pid| !sees_all(pid))
    }

    /// A process runs interpreters within its interpreter, whose calls nobody sees or counts.
    pub(crate) fn misses_interpreters(&mut self, pid: u32, console: &Console) {
        self.misses_calls = true;
        self.warn(console, format_args!(
            "process {pid} runs interpreters within its interpreter (concurrent.interpreters, mod_wsgi), and pystap's agent sees the calls of the main one only here; --engine direct shows those of all from Python 3.13 on, and --no-agent where the interpreter has function probes (`pystap marks -p {pid}`)"
        ));
    }

    /// Brings the agent into a process that was found while the session runs.
    pub(crate) fn newcomer(&mut self, process: &Process, console: &Console) {
        let pid = process.pid;
        // Another one may have had its number.
        if self.joined.contains_key(&pid) && !self.has_begun_anew(pid) {
            return;
        }
        self.joined.remove(&pid);
        // The search may tell of it as a member of the family, too.
        if !self.latecomers.forget(pid) {
            self.first.insert(pid);
        }
        self.agents.lineage().root(Identity {
            pid,
            start_time: process.start_time,
        });
        match self.enter(process) {
            Ok(attached) => tell_of(pid, attached, console),
            Err(error) => {
                self.untraced.failed += 1;
                self.latecomers.absence.begin(Identity {
                    pid,
                    start_time: process.start_time,
                });
                console.warning(error);
            }
        }
    }

    /// Has the agent begin in a process that runs.
    fn enter(&mut self, process: &Process) -> Result<Attached, AgentError> {
        let pid = process.pid;
        let interpreter = process.interpreters.first();
        let interpreter = interpreter.ok_or(AgentError::Silent { pid })?;
        if !self.agents.reaches(pid) {
            return Err(AgentError::OutOfReach { pid });
        }
        let way = AttachMethod::into_process(pid, interpreter, self.inject)
            .map_err(|reason| AgentError::AttachMethod { pid, reason })?;
        self.agents.attach(pid, interpreter, &way)
    }

    /// Whether a process of the session became a Python since this was last asked, as far as the kernel's records say.
    pub(crate) fn have_news(&self) -> bool {
        self.agents.lineage().has_news()
    }

    /// Takes note of a Python of the session that runs none of the interpreters that are probed: each, once after each exec.
    pub(crate) fn meet(&mut self, process: &Process) {
        let pid = process.pid;
        let is_first = self.first.remove(&pid);
        // Whoever becomes another program loses the agent, be it before the first search.
        let has_begun_anew = self.has_begun_anew(pid);
        if has_begun_anew {
            self.joined.remove(&pid);
        }
        let is_expected = is_first || self.joined.contains_key(&pid);
        if has_begun_anew || !is_expected {
            self.latecomers.add(process.clone());
        }
    }

    /// The same for one that is found again and again.
    pub(crate) fn meet_again(&mut self, process: &Process) {
        if self.has_begun_anew(process.pid) {
            self.meet(process);
        }
    }

    /// Whether a process has become another program since its agent began, which may hold another one that waits.
    fn has_begun_anew(&self, pid: u32) -> bool {
        let Some(then) = self.joined.get(&pid) else {
            return false;
        };
        // One that has ended has become nothing.
        let Some(now) = Program::of(pid) else {
            return false;
        };
        then.is_some_and(|then| then != now) || is_without(pid)
    }

    /// Brings the agent into those that have not got it by themselves, and says of which it cannot.
    fn look_after_latecomers(&mut self, console: &Console) {
        self.latecomers.look();
        for process in self.latecomers.due(self.launched) {
            let pid = process.pid;
            let cause = match self.launched {
                true => self.agents.obstacle_in(pid, &process.command_line),
                false => Some("it began anew, where no agent comes in by itself".to_owned()),
            };
            if cause.is_none() && self.latecomers.wait(pid, process.is_starting()) {
                continue;
            }
            match self.enter(&process) {
                Ok(attached) => {
                    self.latecomers.asked(pid, cause);
                    tell_of(pid, attached, console);
                }
                Err(error) => {
                    let said = self.latecomers.refused(pid, &error, cause);
                    self.warn(console, said);
                }
            }
        }
    }

    /// The time that processes of the session ran without being traced.
    pub(crate) fn untraced_time(&self) -> Duration {
        self.latecomers.absence.total()
    }

    /// Whether the agent of this process has begun.
    pub(crate) fn has_joined(&self, pid: u32) -> bool {
        self.joined.contains_key(&pid)
    }

    /// Says what became of processes since the last look, and sees to those that no agent is in.
    pub(crate) fn look(&mut self, console: &Console) {
        while let Some(outcome) = self.agents.next(Duration::ZERO) {
            let pid = outcome.pid;
            if outcome.is_counted && outcome.result.is_err() {
                self.latecomers.counted(pid);
            }
            match outcome.result {
                Ok(joined) => {
                    self.begins(pid, &joined);
                    if joined.from_the_beginning {
                        self.latecomers.came(pid);
                    } else if let Some(said) = self.latecomers.joined(pid) {
                        self.agents.lineage().joined(pid);
                        self.warn(console, said);
                    }
                    for remark in remarks(&[(pid, joined.started)]) {
                        self.warn(console, remark);
                    }
                }
                // A process may end before it has said much.
                Err(AgentError::Silent { pid }) => {
                    console.detail(format_args!(
                        "process {pid} gave up or ended before its agent began"
                    ));
                }
                Err(error) => {
                    if self.latecomers.failed(pid) {
                        self.agents.lineage().joined(pid);
                    }
                    self.warn(console, error);
                }
            }
        }
        if !self.ended {
            self.look_after_latecomers(console);
        }
    }

    /// Warns of a process; a program of thousands of them, or one that means ill, is not to fill a terminal.
    fn warn(&mut self, console: &Console, warning: impl Display) {
        self.warnings += 1;
        if self.warnings <= MOST_WARNINGS {
            console.warning(warning);
        } else {
            console.detail(warning);
        }
    }

    /// Switches the agents off. The number of events that they could not tell, 0 where nobody counted them; nothing if
    /// they told everything.
    pub(crate) fn stop(&mut self, console: &Console) -> Vec<u64> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        self.look(console);
        let account = self.agents.stop();
        self.look(console);
        console.detail(format_args!(
            "the agents told {} entries and returns and could not tell {}; {} ended without an account; {} connections of strangers were turned away",
            account.told, account.dropped, account.silent, account.strangers
        ));
        let own = self.untraced.failed;
        self.untraced = account.untraced;
        self.untraced.failed = self.untraced.failed.saturating_add(own);
        if self.warnings > MOST_WARNINGS {
            console.warning(format_args!(
                "{} more warnings about processes were left out; --verbose shows them",
                self.warnings - MOST_WARNINGS
            ));
        }
        if self.launched && self.joined.is_empty() {
            self.misses_calls |= self.directly;
            console.warning(
                "no Python of the command loaded pystap's agent, so none of its calls were seen; it may have been started with -I, -E or -S, without its environment (sudo, env -i), or be none of CPython 3.9 to 3.15",
            );
        }
        let mut missing = Vec::new();
        if account.dropped > 0 {
            missing.push(account.dropped);
        }
        if let Some(unseen) = unseen(&account) {
            console.warning(unseen);
            missing.push(0);
        }
        if account.missed_interpreters > 0 {
            console.warning(
                "some calls are missing, and nobody could count them: more interpreters ran within an interpreter at a time than there is room for (docs/limits.md), or one began while pystap was not running for half a second; trace fewer processes, or one that makes fewer of them",
            );
            missing.push(0);
        }
        if self.misses_calls {
            missing.push(0);
        }
        missing
    }

    /// Processes of the session that ran untraced, which is said. Whole only when the engine has ended, too.
    pub(crate) fn untraced(&self, console: &Console) -> Untraced {
        let mut untraced = self.untraced;
        // Those of whose beginning the kernel told; where the engine has no such records, those that lived for a while.
        match self.agents.lineage().never_joined() {
            Some(absent) => untraced.absent = absent.max(self.latecomers.unreached()),
            None => {
                untraced.absent = self.latecomers.unreached().max(1);
                console.warning(
                    "the command started more processes than can be told apart, so those that ran untraced are more than is said here; trace a smaller part of it",
                );
            }
        }
        if untraced.total() > 0 {
            console.warning(format_args!("{untraced}"));
        }
        untraced
    }
}

/// Calls that no agent saw, and that nobody could count: how they came about, and what to do.
fn unseen(account: &AgentAccount) -> Option<String> {
    let mut reasons = Vec::new();
    match account.unseen_threads {
        0 => {}
        1 => reasons
            .push("a thread that C code started ran before the agent could see it".to_owned()),
        threads => reasons.push(format!(
            "{threads} threads that C code started ran before the agent could see them"
        )),
    }
    match account.replaced {
        0 => {}
        1 => {
            reasons.push("a profiler of the program displaced the agent for up to 0.1 s".to_owned())
        }
        times => reasons.push(format!(
            "profilers of the program displaced the agent {times} times, each for up to 0.1 s"
        )),
    }
    (!reasons.is_empty()).then(|| {
        format!(
            "some calls are missing, and nobody could count them: {}; Python 3.12 and later have no such gaps",
            reasons.join(", and ")
        )
    })
}

/// Says how agents come into the processes of a plan: those into which they come in one way together.
fn say_ways(plan: &Plan, console: &Console) {
    let mut ways: Vec<(String, Vec<u32>)> = Vec::new();
    for (pid, way) in plan.agent.iter().flat_map(|agent| &agent.targets) {
        let way = way.to_string();
        match ways.iter_mut().find(|(known, _)| *known == way) {
            Some((_, pids)) => pids.push(*pid),
            None => ways.push((way, vec![*pid])),
        }
    }
    for (way, pids) in ways {
        console.note(format_args!(
            "calls of {} come from pystap's agent, {way}",
            processes(&pids)
        ));
    }
}

/// Says what should be known of how a process was attached to.
fn tell_of(pid: u32, attached: Attached, console: &Console) {
    if let Some(stopped) = attached.stopped {
        console.detail(format_args!(
            "process {pid} was stopped for {:.3} ms",
            stopped.as_secs_f64() * 1000.0
        ));
    }
    if let Some(remark) = attached.remark {
        console.warning(remark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_nobody_could_count_are_told_with_their_reasons() {
        let account = |unseen_threads, replaced| AgentAccount {
            unseen_threads,
            replaced,
            ..AgentAccount::default()
        };
        assert_eq!(unseen(&account(0, 0)), None);
        assert_eq!(
            unseen(&account(1, 0)).as_deref(),
            Some(
                "some calls are missing, and nobody could count them: a thread that C code started ran before the agent could see it; Python 3.12 and later have no such gaps"
            )
        );
        assert_eq!(
            unseen(&account(1000, 2)).as_deref(),
            Some(
                "some calls are missing, and nobody could count them: 1000 threads that C code started ran before the agent could see them, and profilers of the program displaced the agent 2 times, each for up to 0.1 s; Python 3.12 and later have no such gaps"
            )
        );
    }
}
