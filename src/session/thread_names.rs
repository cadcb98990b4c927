//! Names that programs have given their threads, in sessions without an agent, which tells them otherwise: read from their memory, by a thread of pystap's own, once
//! for each thread of which an event has come. To read the memory of a process can take for ever, and a target may see to that:
//! nobody waits for this thread, and where it does not come back there are no more names.

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use foldhash::fast::RandomState;

use crate::process::{threads, threads_inside};
use crate::python::Interpreter;
use crate::python::frames::{PythonThreads, Stacks};
use crate::threads;

/// Most threads that are remembered, so that each is named once.
const MOST: usize = 1 << 14;
/// Most that wait to be asked about; further ones are asked about with a later event.
const WAITING: usize = 1 << 10;
/// How often a thread is asked for, and how far apart: one that just begins has no name yet, and from one that runs it cannot always
/// be read.
const ATTEMPTS: u8 = 5;
const APART: Duration = Duration::from_millis(50);
/// Most processes whose structures are remembered.
const MOST_PROCESSES: usize = 64;
/// Longest name that is told, in characters.
const LONGEST: usize = 256;

/// A thread, by the IDs of its process and of itself.
type Thread = (u32, u32);

/// A thread with its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) name: String,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Naming {
    asked: HashSet<Thread, RandomState>,
    /// The one that was seen last is mostly the next one, too.
    last: Thread,
    ask: Sender<Thread>,
    named: Receiver<Named>,
}

impl Naming {
    /// Begins, with nothing to do.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn begin() -> io::Result<Naming> {
        let (ask, asked) = bounded(WAITING);
        let (tell, named) = bounded(WAITING);
        threads::spawn(move || serve(&asked, &tell))?;
        Ok(Naming {
            asked: HashSet::default(),
            last: (0, 0),
            ask,
            named,
        })
    }

    /// Takes note of a thread that something came of.
    pub(super) fn see(&mut self, pid: u32, tid: u32) {
        let thread = (pid, tid);
        // A main thread has no name of its own.
        if thread == self.last || pid == tid || tid == 0 {
            return;
        }
        self.last = thread;
        if self.asked.contains(&thread) {
            return;
        }
        // In weeks there are more. One that is still there is named once more.
        if self.asked.len() >= MOST {
            self.asked.clear();
        }
        if self.ask.try_send(thread).is_ok() {
            self.asked.insert(thread);
        }
    }

    /// The names that were read since this was asked.
    pub(super) fn take(&self) -> Vec<Named> {
        self.named.try_iter().collect()
    }
}

/// Answers until nobody asks any more, or listens.
fn serve(asked: &Receiver<Thread>, tell: &Sender<Named>) {
    let mut processes = HashMap::new();
    let mut open: HashMap<Thread, u8> = HashMap::new();
    loop {
        match open.is_empty() {
            true => match asked.recv() {
                Ok(thread) => drop(open.insert(thread, ATTEMPTS)),
                Err(_) => return,
            },
            false => thread::sleep(APART),
        }
        let more = asked.try_iter().take(WAITING);
        open.extend(more.map(|thread| (thread, ATTEMPTS)));
        for named in names(&mut processes, &open) {
            open.remove(&(named.pid, named.tid));
            if tell.send(named).is_err() {
                return;
            }
        }
        open.retain(|_, attempts| {
            *attempts = attempts.saturating_sub(1);
            *attempts > 0
        });
    }
}

/// The names of those that have some to be read.
fn names(processes: &mut HashMap<u32, Stacks>, open: &HashMap<Thread, u8>) -> Vec<Named> {
    let mut of: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, tid) in open.keys() {
        of.entry(*pid).or_default().push(*tid);
    }
    let mut found = Vec::new();
    for (pid, tids) in of {
        let known = processes.remove(&pid);
        // It may have become another program, or be another process.
        let read = known.and_then(|stacks| Some((threads_of(pid, &stacks)?, stacks)));
        let read = read.or_else(|| {
            let stacks = stacks_of(pid)?;
            Some((threads_of(pid, &stacks)?, stacks))
        });
        let Some((threads, stacks)) = read else {
            continue;
        };
        for thread in &threads.threads {
            let tid = thread.task.filter(|tid| tids.contains(tid));
            if let Some(tid) = tid
                && let Some(name) = stacks.name(thread)
            {
                let name = name.chars().take(LONGEST).collect();
                found.push(Named { pid, tid, name });
            }
        }
        if processes.len() < MOST_PROCESSES {
            processes.insert(pid, stacks);
        }
    }
    found
}

fn stacks_of(pid: u32) -> Option<Stacks> {
    let interpreters = Interpreter::of_process(pid).ok()?;
    let mut of = interpreters.iter();
    of.find_map(|interpreter| Stacks::of(pid, interpreter).ok())
}

fn threads_of(pid: u32, stacks: &Stacks) -> Option<PythonThreads> {
    let tids = threads(pid).ok()?;
    stacks.threads(&threads_inside(pid, &tids)).ok()
}
