//! Which processes descend from those of a session, according to the kernel: its records of forks, execs and exits
//! where an engine has them, and the parents and kernel sessions in /proc where a record has not arrived yet or the engine has
//! none. What a process says about itself (its name, its files, its environment) plays no part in this.
//!
//! # What it withstands
//!
//! *Reuse of process IDs*: a process is identified by its ID and start time, as [`Identity`]. *Double forks and
//! daemons*: a process whose parent has ended is reparented to init or to a subreaper, and /proc no longer knows where
//! it came from. The record of the fork does, and the line of ancestors is kept from then on. Without records, its kernel session
//! does, which daemons begin between their forks (`setsid`): whoever is in one descends from who began it. *Namespaces*: records and
//! /proc use the IDs of our own pid namespace for every process below it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{is_gone, stat};

/// Identifies a process for good: an ID is reused, an ID together with a start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Process ID.
    pub pid: u32,
    /// Start time, in clock ticks since boot.
    pub start_time: u64,
}

impl Identity {
    /// The process that has this ID now; `None` when there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Identity> {
        look(pid).map(|seen| seen.identity)
    }
}

/// The parent that a process has now; `None` when there is no such process.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    look(pid).map(|seen| seen.parent)
}

/// What the kernel says of a process.
struct Seen {
    identity: Identity,
    parent: u32,
    /// The process that began its session.
    leader: u32,
}

fn look(pid: u32) -> Option<Seen> {
    // A process that cannot be read counts as absent: a stranger must not be taken for one of the session.
    let stat = stat(pid).ok()??;
    let identity = Identity {
        pid,
        start_time: stat.starttime,
    };
    Some(Seen {
        identity,
        parent: u32::try_from(stat.ppid).ok()?,
        leader: u32::try_from(stat.session).ok()?,
    })
}

/// Most ancestors kept per process, including the session's own process at the top.
const LONGEST: usize = 32;
/// Number of known processes at which those that have ended are looked for and forgotten.
const ENOUGH: usize = 4096;
/// How long a process that has ended is remembered: records of one moment arrive by several routes.
const MEMORY: Duration = Duration::from_secs(30);
/// Most processes whose Pythons are counted.
const MOST_OPEN: usize = 1 << 16;
/// How long a Python may take from its start until it asks to be traced.
const START_UP: Duration = Duration::from_secs(2);

/// The processes of a session; shared by the engine that hears of them and by everyone who asks.
#[derive(Debug, Default)]
pub struct Lineage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<u32, Known>,
    /// Processes that the session started with, or that were added to it.
    roots: Vec<Identity>,
    /// The root that pystap launched.
    launched: Option<Identity>,
    /// Number of processes at which to look for those that have ended.
    prune_at: usize,
    /// Pythons below the launched command without their joins, and joins without their Pythons.
    open: HashMap<u32, Open>,
    /// Whether `open` ran out of room.
    overflown: bool,
    /// Whether a process of the session became a Python since this was last asked.
    news: bool,
}

#[derive(Debug)]
struct Known {
    /// `None` when the record arrived after the process had ended.
    start_time: Option<u64>,
    /// Its ancestors up to a root, nearest first.
    line: Vec<Identity>,
    /// Whether it has run Python since its last exec.
    python: bool,
    ended: Option<Instant>,
}

/// What has no counterpart yet for one process ID.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Number of Pythons minus number of joins.
    pythons: i64,
    /// When the last Python began, as far as we know.
    since: Instant,
}

impl Lineage {
    /// Adds a process that the session traces in its own right.
    pub fn root(&self, root: Identity) {
        let mut state = self.state();
        if !state.roots.contains(&root) {
            state.roots.push(root);
        }
        state.insert(root.pid, Some(root.start_time), Vec::new());
    }

    /// The same for the command that pystap launched.
    pub fn launched(&self, root: Identity) {
        self.root(root);
        self.state().launched = Some(root);
    }

    /// Whether this is the launched command.
    #[must_use]
    pub fn is_launched(&self, process: Identity) -> bool {
        self.state().launched == Some(process)
    }

    /// Takes the kernel's record of a fork, whoever forked. True when the parent belongs to the session.
    pub fn forked(&self, parent: u32, child: u32) -> bool {
        let mut state = self.state();
        let Some(line) = state.line_below(parent) else {
            return false;
        };
        // A child that has already ended is still the ancestor of others.
        let start_time = Identity::of(child).map(|child| child.start_time);
        // The same record may arrive by two routes, late on one of them.
        let is_told = state.known.get(&child).is_some_and(|known| {
            known.line == line && (start_time.is_none() || known.start_time == start_time)
        });
        if !is_told {
            state.insert(child, start_time, line);
        }
        true
    }

    /// Adds a child that an engine has found to belong to the session from its ancestors in the kernel, without saying
    /// which of them does.
    pub fn descended(&self, parent: u32, child: u32) {
        if self.forked(parent, child) {
            return;
        }
        let Some(identity) = Identity::of(child) else {
            return;
        };
        if self.of(identity).is_none() {
            let mut state = self.state();
            let line = state.roots.clone();
            state.insert(child, Some(identity.start_time), line);
        }
    }

    /// Takes the kernel's record of an exec.
    pub fn execed(&self, pid: u32) {
        if let Some(known) = self.state().known.get_mut(&pid) {
            known.python = false;
        }
    }

    /// Takes the kernel's record of an exit.
    pub fn ended(&self, pid: u32) {
        if let Some(known) = self.state().known.get_mut(&pid) {
            known.ended = Some(Instant::now());
        }
    }

    /// A process and its ancestors up to a root, nearest first, if it belongs to the session. It must be known to be
    /// alive: then no other process has its ID, and what /proc says of it is true.
    #[must_use]
    pub fn of(&self, process: Identity) -> Option<Vec<Identity>> {
        let mut state = self.state();
        let mut line = state.line_of(process)?;
        shorten(&mut line);
        let is_new = state
            .known
            .get(&process.pid)
            .is_none_or(|known| known.start_time != Some(process.start_time));
        if is_new {
            let ancestors = line.get(1..).unwrap_or_default().to_vec();
            state.insert(process.pid, Some(process.start_time), ancestors);
        }
        Some(line)
    }

    /// Notes that a process became a Python: it has mapped an interpreter, which no process does twice without an exec
    /// in between (a second file of the same interpreter is not a second Python).
    pub fn python(&self, pid: u32) {
        if !self.state().known.contains_key(&pid)
            && let Some(identity) = Identity::of(pid)
        {
            let _ = self.of(identity);
        }
        let mut state = self.state();
        let launched = state.launched;
        state.news |= state.known.contains_key(&pid);
        let Some(known) = state.known.get_mut(&pid) else {
            return;
        };
        let own = launched.is_some_and(|root| {
            known.line.last() == Some(&root)
                || (root.pid == pid && known.start_time == Some(root.start_time))
        });
        if own && !std::mem::replace(&mut known.python, true) {
            state.account(pid, 1);
        }
    }

    /// Whether a process of the session became a Python since this was last asked, as far as the engine has records of that.
    pub fn has_news(&self) -> bool {
        std::mem::take(&mut self.state().news)
    }

    /// Notes that a Python of the launched command has asked to be traced, whatever came of it.
    pub fn joined(&self, pid: u32) {
        self.state().account(pid, -1);
    }

    /// How many Pythons of the launched command have not asked to be traced, not counting those that have only just
    /// started. `None` when there were too many processes to tell.
    #[must_use]
    pub fn never_joined(&self) -> Option<u64> {
        let state = self.state();
        let missing = state.open.iter().filter(|(pid, open)| {
            let is_starting = open.since.elapsed() < START_UP
                && state
                    .known
                    .get(pid)
                    .is_some_and(|known| known.ended.is_none());
            open.pythons > 0 && !is_starting
        });
        let count = missing
            .map(|(_, open)| u64::try_from(open.pythons).unwrap_or(0))
            .sum();
        (!state.overflown).then_some(count)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The map is consistent between calls, so a panic elsewhere does not corrupt it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A process and its ancestors up to one of ours.
    fn line_of(&self, process: Identity) -> Option<Vec<Identity>> {
        let mut line = vec![process];
        // The nearest of them whose kernel session was begun by a process of ours.
        let mut by_session = None;
        loop {
            let last = *line.last()?;
            if let Some(known) = self.known.get(&last.pid)
                && known.start_time == Some(last.start_time)
            {
                line.extend_from_slice(&known.line);
                return Some(line);
            }
            let seen = look(last.pid).filter(|seen| seen.identity == last);
            if by_session.is_none() {
                by_session = seen.as_ref().and_then(|seen| {
                    let (leader, ancestors) = self.leader(seen)?;
                    Some([&line, &[leader][..], ancestors].concat())
                });
            }
            // A parent younger than its child is a different process, which has reused the ID.
            let parent = seen
                .and_then(|seen| Identity::of(seen.parent))
                .filter(|parent| parent.start_time <= last.start_time);
            match parent {
                Some(parent) if line.len() < LONGEST => line.push(parent),
                _ => return by_session,
            }
        }
    }

    /// Who began the session of a process, with their ancestors, if that is a process of ours. The number of one that has ended
    /// belongs to no other process for as long as anybody is in its session.
    fn leader(&self, seen: &Seen) -> Option<(Identity, &[Identity])> {
        let known = self.known.get(&seen.leader)?;
        let leader = Identity {
            pid: seen.leader,
            start_time: known.start_time?,
        };
        let is_another = Identity::of(seen.leader).is_some_and(|now| now != leader);
        let is_older = leader != seen.identity && leader.start_time <= seen.identity.start_time;
        (is_older && !is_another).then_some((leader, &known.line[..]))
    }

    /// The line of ancestors for a child of this process, if that belongs to the session.
    fn line_below(&self, parent: u32) -> Option<Vec<Identity>> {
        let known = self.known.get(&parent)?;
        let own = known.start_time.map(|start_time| Identity {
            pid: parent,
            start_time,
        });
        let mut line: Vec<Identity> = own.into_iter().chain(known.line.iter().copied()).collect();
        shorten(&mut line);
        Some(line)
    }

    fn insert(&mut self, pid: u32, start_time: Option<u64>, line: Vec<Identity>) {
        if self.known.len() >= self.prune_at.max(ENOUGH) {
            self.prune();
        }
        let known = Known {
            start_time,
            line,
            python: false,
            ended: start_time.is_none().then(Instant::now),
        };
        self.known.insert(pid, known);
    }

    /// Forgets processes that have ended, including those for which no exit record arrived.
    fn prune(&mut self) {
        let roots: HashSet<u32> = self.roots.iter().map(|root| root.pid).collect();
        self.known.retain(|pid, known| match known.ended {
            _ if roots.contains(pid) => true,
            Some(ended) => ended.elapsed() < MEMORY,
            None => known
                .start_time
                .is_some_and(|start_time| !is_gone(*pid, start_time)),
        });
        self.prune_at = self.known.len().saturating_mul(2);
    }

    fn account(&mut self, pid: u32, change: i64) {
        let is_full = self.open.len() >= MOST_OPEN;
        let now = Instant::now();
        let open = match self.open.get_mut(&pid) {
            Some(open) => open,
            None if is_full => {
                self.overflown = true;
                return;
            }
            None => self.open.entry(pid).or_insert(Open {
                pythons: 0,
                since: now,
            }),
        };
        open.pythons = open.pythons.saturating_add(change);
        open.since = now;
        if open.pythons == 0 {
            self.open.remove(&pid);
        }
    }
}

/// Drops the middle of a line that is too long: only its ends are asked for.
fn shorten(line: &mut Vec<Identity>) {
    if line.len() > LONGEST {
        line.drain(LONGEST - 1..line.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::python::waiting::PYTHON;

    fn identity(pid: u32) -> Identity {
        Identity::of(pid).expect("it runs")
    }

    /// A process that says something once it runs, and stays until its input ends.
    fn child(command: &[&str]) -> (Child, String) {
        let (program, arguments) = command.split_first().expect("a command");
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        (child, line.trim().to_owned())
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }

    #[test]
    fn grandchildren_are_found_through_their_parents_before_any_record_has_come() {
        let (child, grandchild) = child(&["sh", "-c", "sh -c 'echo $$; read x'; true"]);
        let grandchild = identity(grandchild.parse().expect("a pid"));
        let lineage = Lineage::default();
        assert_eq!(lineage.of(grandchild), None, "nobody is of this session");
        let root = identity(child.id());
        lineage.launched(root);
        assert_eq!(lineage.of(grandchild), Some(vec![grandchild, root]));
        assert!(lineage.is_launched(root) && !lineage.is_launched(grandchild));
        assert_eq!(lineage.of(identity(std::process::id())), None);
        end(child);
    }

    #[test]
    fn a_daemon_is_known_by_the_records_of_its_forks_alone() {
        let (root, daemon) = child(&["sh", "-c", "(sleep 60 & echo $!); read x"]);
        let daemon = identity(daemon.parse().expect("a pid"));
        let with_root = || {
            let lineage = Lineage::default();
            lineage.root(identity(root.id()));
            lineage
        };
        eventually("its parent has ended", || with_root().of(daemon).is_none());
        let lineage = with_root();
        let middle = u32::MAX - 7;
        assert!(lineage.forked(root.id(), middle));
        lineage.ended(middle);
        assert!(lineage.forked(middle, daemon.pid));
        assert_eq!(lineage.of(daemon), Some(vec![daemon, identity(root.id())]));
        assert!(!lineage.forked(std::process::id(), middle), "a stranger's");
        let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.pid).expect("a pid"));
        let pid = pid.expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        end(root);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_daemon_is_known_by_the_session_that_its_parent_began_before_it_ended() {
        let forks = "import os, sys\n\
            if os.fork() == 0:\n\
            \x20   os.setsid()\n\
            \x20   print(os.getpid(), flush=True)\n\
            \x20   sys.stdin.readline()\n\
            \x20   if os.fork() == 0:\n\
            \x20       print(os.getpid(), flush=True)\n\
            \x20       if os.fork() == 0: print(os.getpid(), flush=True)\n\
            \x20       sys.stdin.read()\n\
            \x20   os._exit(0)\n\
            os.wait()\n\
            sys.stdin.read()";
        let mut root = Command::new(PYTHON)
            .args(["-c", forks])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(root.stdout.take().expect("piped"));
        let mut next = || {
            let mut line = String::new();
            said.read_line(&mut line).expect("a line");
            identity(line.trim().parse().expect("a pid"))
        };
        let lineage = Lineage::default();
        lineage.root(identity(root.id()));
        let middle = next();
        assert!(lineage.of(middle).is_some(), "its parent is of the session");
        let mut input = root.stdin.as_ref().expect("piped");
        input.write_all(b"go\n").expect("it reads");
        let (daemon, child) = (next(), next());
        eventually("the middle has ended", || {
            Identity::of(middle.pid).is_none()
        });
        let stranger = Lineage::default();
        stranger.root(identity(root.id()));
        assert_eq!(stranger.of(daemon), None, "who has never seen the middle");
        assert_eq!(
            lineage.of(daemon),
            Some(vec![daemon, middle, identity(root.id())])
        );
        let line = lineage.of(child).expect("its parent is");
        assert_eq!(line[..3], [child, daemon, middle], "by its parents first");
        end(root);
    }

    #[test]
    fn who_has_the_id_of_a_child_by_now_is_nobody() {
        let root = identity(std::process::id());
        let lineage = Lineage::default();
        lineage.root(root);
        assert!(lineage.forked(root.pid, u32::MAX - 7));
        let other = Identity {
            pid: root.pid,
            start_time: root.start_time + 1,
        };
        assert_eq!(lineage.of(other), None);
        assert_eq!(lineage.of(root), Some(vec![root]));
    }

    #[test]
    fn a_line_that_is_too_long_keeps_its_ends() {
        let mut line: Vec<Identity> = (1..100)
            .map(|pid| Identity { pid, start_time: 7 })
            .collect();
        shorten(&mut line);
        let pids: Vec<u32> = line.iter().map(|it| it.pid).collect();
        assert_eq!(pids.len(), LONGEST);
        assert_eq!((pids[0], pids[1], pids[LONGEST - 1]), (1, 2, 99));
    }

    #[test]
    fn pythons_that_never_asked_are_counted_and_those_that_have_only_begun_are_not() {
        let lineage = Lineage::default();
        let launched = identity(std::process::id());
        lineage.launched(launched);
        let (first, second) = (u32::MAX - 7, u32::MAX - 6);
        for pid in [first, second] {
            assert!(lineage.forked(launched.pid, pid));
            lineage.execed(pid);
            lineage.python(pid);
            lineage.python(pid);
        }
        // One that joined before the record of its image arrived, and then became another Python.
        lineage.joined(first);
        lineage.execed(first);
        lineage.joined(first);
        lineage.python(first);
        lineage.ended(first);
        assert_eq!(lineage.never_joined(), Some(1), "the second");
        // The launched command itself is alive and may yet ask.
        lineage.python(launched.pid);
        assert_eq!(lineage.never_joined(), Some(1));
        lineage.joined(launched.pid);
        lineage.joined(second);
        assert_eq!(lineage.never_joined(), Some(0));
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "it never came to this: {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
