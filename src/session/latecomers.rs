//! Pythons of a session that begin while it runs and in which no agent is yet: children of a process that was attached to, what
//! a process becomes by exec, and those of a launched command that its environment does not reach. An agent that waits in them
//! is woken, and a new one brought in where that is possible; the others are named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::absence::Absence;
use crate::agent::AgentError;
use crate::process::{self, Identity, Process};
use crate::text::Foreign;

/// How old a process is before an agent is brought into it: time for one that comes by itself, and for the interpreter to begin.
const BY_ITSELF: Duration = Duration::from_millis(1000);
const TO_BEGIN: Duration = Duration::from_millis(250);
/// How old one may be whose interpreter still prepares its start, which brings an agent in when it is done: on a slow machine, or
/// where much is installed; and one whose memory does not tell whether it does. How often it is looked.
const STILL_BEGINS: Duration = Duration::from_secs(30);
const MAY_BEGIN: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(250);
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
    unreached: u64,
    /// Of those, some that have ended, of which it may yet be heard that they are counted elsewhere.
    ended: BTreeSet<u32>,
    /// Those that are counted elsewhere and were not met yet, and when that was heard.
    counted: BTreeMap<u32, Instant>,
}

#[derive(Debug)]
struct Latecomer {
    process: Process,
    found: Instant,
    stage: Stage,
    /// Why it did not come by itself, where that shows.
    cause: Option<String>,
    /// Before that, it is left alone.
    not_before: Option<Instant>,
    /// Whether it is counted elsewhere.
    is_counted: bool,
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
            ended: BTreeSet::new(),
            counted: BTreeMap::new(),
        }
    }

    /// How many there were that nothing was ever seen of and that nobody else has counted.
    pub(super) fn unreached(&self) -> u64 {
        self.unreached.saturating_add(self.ended.len() as u64)
    }

    /// Notes that somebody else has counted a process among those that were not traced. It may have been met before, is met
    /// later, or has ended: what is known of it comes by two ways, in any order.
    pub(super) fn counted(&mut self, pid: u32) {
        if self.uncount(pid) {
            return;
        }
        if self.counted.len() >= MOST {
            let oldest = self.counted.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(pid, _)| *pid) {
                self.counted.remove(&oldest);
            }
        }
        self.counted.insert(pid, Instant::now());
    }

    /// Counts one no longer, or not when it ends. Whether it was known.
    fn uncount(&mut self, pid: u32) -> bool {
        let Some(latecomer) = self.processes.get_mut(&pid) else {
            return self.ended.remove(&pid);
        };
        if latecomer.stage == Stage::Absent && !latecomer.is_counted {
            self.unreached = self.unreached.saturating_sub(1);
        }
        latecomer.is_counted = true;
        true
    }

    /// Takes note of one.
    pub(super) fn add(&mut self, process: Process) {
        // Another process may have the number of one that was counted.
        let counted = self.counted.remove(&process.pid);
        let is_counted =
            counted.is_some_and(|since| process::age(process.start_time) >= since.elapsed());
        if self.processes.len() >= MOST {
            self.unreached += u64::from(!is_counted);
            self.absence.begin(identity(&process));
            return;
        }
        let latecomer = Latecomer {
            found: Instant::now(),
            stage: Stage::Awaited,
            cause: None,
            not_before: None,
            is_counted,
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
            it.stage == Stage::Awaited
                && age >= patience
                && it.not_before.is_none_or(|then| then <= Instant::now())
        };
        let due = self.processes.values().filter(is_due);
        let due = due.map(|it| it.process.clone());
        due.take(MOST_AT_ONCE).collect()
    }

    /// Leaves one alone for a while, because its interpreter still begins, as far as that is known. Not if it takes too long.
    pub(super) fn wait(&mut self, pid: u32, begins: Option<bool>) -> bool {
        let patience = match begins {
            Some(true) => STILL_BEGINS,
            Some(false) => return false,
            None => MAY_BEGIN,
        };
        let latecomer = self.processes.get_mut(&pid);
        let latecomer = latecomer.filter(|it| it.found.elapsed() < patience);
        let waits = latecomer.map(|it| it.not_before = Some(Instant::now() + BETWEEN));
        waits.is_some()
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
        self.unreached += u64::from(!latecomer.is_counted);
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
        self.uncount(pid);
        let latecomer = self.processes.remove(&pid)?;
        self.absence.end(identity(&latecomer.process));
        if latecomer.stage == Stage::Awaited {
            return None;
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
        self.uncount(pid);
        if let Some(latecomer) = self.processes.remove(&pid) {
            self.absence.cancel(identity(&latecomer.process));
        }
    }

    /// Forgets those that have ended. A Python that ended before anything could be done is one that was not seen.
    pub(super) fn look(&mut self) {
        self.absence.look();
        let gone = |it: &Latecomer| process::has_ended(it.process.pid, it.process.start_time);
        let (unreached, ended) = (&mut self.unreached, &mut self.ended);
        self.processes.retain(|pid, it| {
            let is_gone = gone(it);
            let was_awaited = matches!(it.stage, Stage::Awaited | Stage::Asked);
            // Where there is no room, or another one had the same number, nothing that is heard later changes it.
            if is_gone
                && was_awaited
                && !it.is_counted
                && (ended.len() >= MOST || !ended.insert(*pid))
            {
                *unreached += 1;
            }
            !is_gone
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A process by this number; one that does not run as one that has begun just now.
    fn process(pid: u32) -> Process {
        let this = || Identity::of(std::process::id()).expect("it runs");
        Process {
            pid,
            start_time: Identity::of(pid).unwrap_or_else(this).start_time,
            comm: String::new(),
            command_line: Vec::new(),
            mounts: None,
            interpreters: Vec::new(),
        }
    }

    const GONE: u32 = u32::MAX - 7;

    #[test]
    fn who_still_begins_is_left_alone_for_a_while_and_not_for_ever() {
        // One that began long ago.
        let pid = 1;
        let is_due = |it: &Latecomers| !it.due(false).is_empty();
        // Whether it begins is known, or is not to be known.
        for (begins, patience) in [(Some(true), STILL_BEGINS), (None, MAY_BEGIN)] {
            let mut latecomers = Latecomers::none();
            latecomers.add(process(pid));
            assert!(is_due(&latecomers));
            assert!(latecomers.wait(pid, begins));
            assert!(!is_due(&latecomers));
            let long_ago = Instant::now().checked_sub(patience);
            let latecomer = latecomers.processes.get_mut(&pid).expect("it was added");
            latecomer.found = long_ago.expect("this machine has run for longer");
            latecomer.not_before = long_ago;
            assert!(is_due(&latecomers));
            assert!(!latecomers.wait(pid, begins));
            assert!(is_due(&latecomers));
        }
    }

    #[test]
    fn who_has_begun_is_not_waited_for() {
        let mut latecomers = Latecomers::none();
        let pid = std::process::id();
        latecomers.add(process(pid));
        assert!(!latecomers.wait(pid, Some(false)));
    }

    #[test]
    fn who_is_counted_elsewhere_is_not_counted_again_in_whatever_order_that_becomes_known() {
        type Happens = fn(&mut Latecomers);
        let met: Happens = |it| it.add(process(GONE));
        let ends: Happens = Latecomers::look;
        let counted: Happens = |it| it.counted(GONE);
        for order in [
            [met, ends, counted],
            [met, counted, ends],
            [counted, met, ends],
        ] {
            let mut latecomers = Latecomers::none();
            for happens in order {
                happens(&mut latecomers);
            }
            assert_eq!(latecomers.unreached(), 0);
        }
    }

    #[test]
    fn who_came_by_itself_and_has_ended_before_that_was_heard_was_reached() {
        let mut latecomers = Latecomers::none();
        latecomers.add(process(GONE));
        latecomers.look();
        assert_eq!(latecomers.unreached(), 1);
        latecomers.came(GONE);
        assert_eq!(latecomers.unreached(), 0);
    }

    #[test]
    fn who_has_ended_and_was_heard_of_nowhere_is_counted_once() {
        let mut latecomers = Latecomers::none();
        latecomers.add(process(GONE));
        latecomers.look();
        latecomers.look();
        assert_eq!(latecomers.unreached(), 1);
        // Another process has had the same number.
        latecomers.add(process(GONE));
        latecomers.look();
        assert_eq!(latecomers.unreached(), 2);
    }

    #[test]
    fn who_has_no_way_in_is_counted_until_somebody_else_has() {
        let pid = std::process::id();
        let mut latecomers = Latecomers::none();
        latecomers.add(process(pid));
        let error = AgentError::OutOfReach { pid };
        latecomers.refused(pid, &error, None);
        assert_eq!(latecomers.unreached(), 1);
        latecomers.counted(pid);
        latecomers.look();
        assert_eq!(latecomers.unreached(), 0);
    }
}
