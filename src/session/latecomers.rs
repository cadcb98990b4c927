//! Pythons of a session that begin while it runs and in which no agent is yet: children of a process that was attached to, what
//! a process becomes by exec, and those of a launched command that its environment does not reach. An agent that waits in them
//! is woken, and a new one brought in where that is possible; the others are named.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::absence::Absence;
use crate::agent::AgentError;
use crate::process::{self, Identity, Process};
use crate::text::Foreign;

/// How old a process is before an agent is brought into it: time for one that comes by itself, and for the interpreter to begin.
const BY_ITSELF: Duration = Duration::from_millis(1000);
const TO_BEGIN: Duration = Duration::from_millis(250);
/// Most of them at a time; others are looked at when there is room.
const MOST: usize = 4096;
/// Most that an agent is brought into in one turn of the session.
const MOST_AT_ONCE: usize = 8;
/// Characters of a command that are shown.
const SHOWN: usize = 120;

/// Those that are no part of the session yet.
#[derive(Debug)]
pub(super) struct Latecomers {
    processes: BTreeMap<u32, Latecomer>,
    pub(super) absence: Absence,
    /// Those that nothing was ever seen of.
    pub(super) unreached: u64,
}

#[derive(Debug)]
struct Latecomer {
    process: Process,
    found: Instant,
    stage: Stage,
    /// Why it did not come by itself, where that shows.
    cause: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may come by itself.
    Awaited,
    /// It was asked.
    Asked,
    /// It was asked in vain.
    Failed,
    /// There is no way in. It was named.
    Absent,
}

impl Latecomers {
    pub(super) fn none() -> Latecomers {
        Latecomers {
            processes: BTreeMap::new(),
            absence: Absence::beginning(),
            unreached: 0,
        }
    }

    /// Takes note of one.
    pub(super) fn add(&mut self, process: Process) {
        if self.processes.len() >= MOST {
            self.unreached += 1;
            self.absence.begin(identity(&process));
            return;
        }
        let latecomer = Latecomer {
            found: Instant::now(),
            stage: Stage::Awaited,
            cause: None,
            process,
        };
        self.processes.insert(latecomer.process.pid, latecomer);
    }

    /// Leaves one to somebody else. Whether it was known.
    pub(super) fn forget(&mut self, pid: u32) -> bool {
        self.processes.remove(&pid).is_some()
    }

    /// Those that an agent is to be brought into now.
    pub(super) fn due(&self, launched: bool) -> Vec<Process> {
        let patience = if launched { BY_ITSELF } else { TO_BEGIN };
        let is_due = |it: &&Latecomer| {
            let age = process::age(it.process.start_time);
            // One that is older than that may have become another program just now.
            let age = age.min(it.found.elapsed() + TO_BEGIN);
            it.stage == Stage::Awaited && age >= patience
        };
        let due = self.processes.values().filter(is_due);
        let due = due.map(|it| it.process.clone());
        due.take(MOST_AT_ONCE).collect()
    }

    /// Notes that an agent was asked to begin in one.
    pub(super) fn asked(&mut self, pid: u32, cause: Option<String>) {
        if let Some(latecomer) = self.processes.get_mut(&pid) {
            latecomer.stage = Stage::Asked;
            latecomer.cause = cause;
            self.absence.begin(identity(&latecomer.process));
        }
    }

    /// Notes that there is no way into one. What is to be said of it.
    pub(super) fn refused(
        &mut self,
        pid: u32,
        error: &AgentError,
        cause: Option<String>,
    ) -> String {
        let Some(latecomer) = self.processes.get_mut(&pid) else {
            return error.to_string();
        };
        latecomer.stage = Stage::Absent;
        self.unreached += 1;
        self.absence.begin(identity(&latecomer.process));
        let shown = shown(&latecomer.process);
        let reason = match error {
            AgentError::AttachMethod { reason, .. } => reason.below_a_command(),
            AgentError::OutOfReach { .. } => return error.to_string(),
            other => other.to_string(),
        };
        match cause {
            Some(cause) => format!("process {pid} ({shown}) is not traced: {cause}; {reason}"),
            None => format!("process {pid} ({shown}) is not traced: {reason}"),
        }
    }

    /// Notes that an agent did not begin in one that was asked. Whether it was.
    pub(super) fn failed(&mut self, pid: u32) -> bool {
        let asked = self.processes.get_mut(&pid);
        asked.is_some_and(|it| std::mem::replace(&mut it.stage, Stage::Failed) == Stage::Asked)
    }

    /// The agent of a process has begun. What is to be said, if it was not by itself.
    pub(super) fn joined(&mut self, pid: u32) -> Option<String> {
        let latecomer = self.processes.remove(&pid)?;
        self.absence.end(identity(&latecomer.process));
        if latecomer.stage == Stage::Awaited {
            return None;
        }
        if latecomer.stage == Stage::Absent {
            self.unreached = self.unreached.saturating_sub(1);
        }
        let cause = latecomer
            .cause
            .map_or_else(String::new, |cause| format!(" ({cause})"));
        Some(format!(
            "process {pid} ({}) began without pystap's agent{cause}, which is in it now: what it did before that was not seen",
            shown(&latecomer.process)
        ))
    }

    /// The agent of a process came by itself after all, and the program waited for it, so that nothing is missing.
    pub(super) fn came(&mut self, pid: u32) {
        if let Some(latecomer) = self.processes.remove(&pid) {
            self.absence.cancel(identity(&latecomer.process));
            if latecomer.stage == Stage::Absent {
                self.unreached = self.unreached.saturating_sub(1);
            }
        }
    }

    /// Forgets those that have ended. A Python that ended before anything could be done is one that was not seen.
    pub(super) fn look(&mut self) {
        self.absence.look();
        let gone = |it: &Latecomer| process::has_ended(it.process.pid, it.process.start_time);
        let unreached = &mut self.unreached;
        self.processes.retain(|_, it| {
            let ended = gone(it);
            *unreached += u64::from(ended && matches!(it.stage, Stage::Awaited | Stage::Asked));
            !ended
        });
    }
}

fn identity(process: &Process) -> Identity {
    Identity {
        pid: process.pid,
        start_time: process.start_time,
    }
}

/// Its command, shortened.
fn shown(process: &Process) -> String {
    let command = process.command_line.join(" ");
    let mut short: String = command.chars().take(SHOWN).collect();
    if short.len() < command.len() {
        short.push('…');
    }
    Foreign::new(&short).to_string()
}
