//! Greenlets and tasks that wait: they are on no thread's stack, and to find them every object of a process has to be looked at. So a
//! thread of its own looks for them, now and then, for a small part of the time; each look stands for the time since the one before.

use std::collections::HashMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::contexts::{self, Names};
use crate::analysis::idle::Idle;
use crate::analysis::roles;
use crate::process::{Identity, Process, threads, threads_inside};
use crate::python::frames::{Frame, Parked, Stacks};
use crate::threads as own_threads;

/// How often a process is looked at, at most. It is between half of that and half as much again from one look to the next, at random.
const PERIOD: Duration = Duration::from_millis(50);
/// Looks take one part in so many of a processor's time, at most: a tenth of what the sampler takes at most.
const SHARE: u32 = 20;
/// How long a look may take.
const LONGEST: Duration = Duration::from_millis(500);
/// Most tasks, and most greenlets, of a process that are read in one look: of more, those that chance picks.
const MOST: usize = 1 << 12;
/// How long it is waited for processes where there are none, and at least between two looks.
const WITHOUT: Duration = Duration::from_millis(50);
const AT_LEAST: Duration = Duration::from_millis(1);

/// What waits in a process at a moment.
pub(super) struct Look {
    pub(super) process: Identity,
    pub(super) waiting: Vec<Waiting>,
    pub(super) names: Names,
    pub(super) extent: Extent,
}

/// How much of what there is was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    /// Tasks and greenlets, whatever they do, and how many of them were looked at, which is all unless there are too many.
    pub(crate) found: u64,
    pub(crate) read: u64,
    /// Whether not all objects were looked at.
    pub(crate) partial: bool,
    /// How often it was looked.
    pub(crate) looks: u64,
}

impl Extent {
    pub(super) fn add(&mut self, other: Extent) {
        self.found = self.found.saturating_add(other.found);
        self.read = self.read.saturating_add(other.read);
        self.partial |= other.partial;
        self.looks = self.looks.saturating_add(other.looks);
    }
}

/// Those of one kind that wait at one place.
pub(super) struct Waiting {
    pub(super) frames: Vec<Frame>,
    pub(super) context: String,
    /// About so many.
    pub(super) count: u64,
    /// Whether they wait for work.
    pub(super) idle: bool,
}

/// The thread that looks. Dropped, it ends.
pub(super) struct Looker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Looker {
    /// Begins to look at the processes that `which` names, and hands on what is seen.
    ///
    /// # Errors
    ///
    /// Where no thread can be had.
    pub(super) fn begin(
        which: impl Fn() -> Vec<Identity> + Send + 'static,
        take: impl FnMut(Look) + Send + 'static,
    ) -> std::io::Result<Looker> {
        let (stop, stopped) = bounded(0);
        let thread = own_threads::spawn(move || look(&stopped, &which, take))?;
        Ok(Looker {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process, and when it is looked at next.
struct Known {
    identity: Identity,
    stacks: Option<Stacks>,
    due: Instant,
}

fn look(stopped: &Receiver<()>, which: &dyn Fn() -> Vec<Identity>, mut take: impl FnMut(Look)) {
    let mut known: HashMap<u32, Known> = HashMap::new();
    let mut rests = Instant::now();
    let mut wait = AT_LEAST;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
        let processes = which();
        let now = Instant::now();
        known.retain(|_, it| processes.contains(&it.identity));
        for identity in processes {
            known.entry(identity.pid).or_insert(Known {
                identity,
                stacks: None,
                due: now,
            });
        }
        let begun = cpu_time();
        let next = known.values_mut().min_by_key(|it| it.due);
        if let Some(next) = next.filter(|it| it.due.max(rests) <= now) {
            if let Some(look) = next.look(now + LONGEST) {
                take(look);
            }
            next.due = now + PERIOD / 2 + chance(PERIOD);
            rests = Instant::now() + cpu_time().saturating_sub(begun) * (SHARE - 1);
        }
        let next = known.values().map(|it| it.due).min();
        let next = next.map(|due| due.max(rests).saturating_duration_since(Instant::now()));
        wait = next.unwrap_or(WITHOUT).clamp(AT_LEAST, WITHOUT);
    }
}

/// Any time that is shorter.
fn chance(longest: Duration) -> Duration {
    // The last digits of a clock are as good as any where nothing else runs by them.
    let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(crate::clock::now() % longest.max(1))
}

/// How long this thread has run.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Known {
    /// `None` where it cannot be read: the next look may.
    fn look(&mut self, until: Instant) -> Option<Look> {
        let pid = self.identity.pid;
        if self.stacks.is_none() {
            let process = Process::of(pid).ok()?;
            let mut interpreters = process.interpreters.iter();
            self.stacks = interpreters.find_map(|it| Stacks::of(pid, it).ok());
        }
        let stacks = self.stacks.as_mut()?;
        stacks.forget_functions();
        let inside = threads_inside(pid, &threads(pid).ok()?);
        let Ok(threads) = stacks.threads(&inside) else {
            // It may have become another program.
            self.stacks = None;
            return None;
        };
        let parked = stacks.parked(&threads, until, Some(MOST));
        Some(Look {
            process: self.identity,
            extent: Extent {
                found: (parked.found.0 + parked.found.1) as u64,
                read: (parked.read.0 + parked.read.1) as u64,
                partial: !parked.complete,
                looks: 1,
            },
            waiting: waiting(&parked),
            names: parked.names.into_iter().collect(),
        })
    }
}

/// What waits, as far as its frames are known.
fn waiting(parked: &Parked) -> Vec<Waiting> {
    let of_all = |count: usize, (found, read): (usize, usize)| {
        let all = count as u128 * found as u128;
        u64::try_from((all + read as u128 / 2) / (read as u128).max(1)).unwrap_or(u64::MAX)
    };
    let tasks = parked.tasks.iter().flat_map(|tasks| {
        let kinds = contexts::of_tasks(tasks).into_iter();
        kinds.map(|(context, count)| Waiting {
            frames: tasks.frames.clone(),
            context,
            count: of_all(count, (parked.found.0, parked.read.0)),
            idle: is_idle(&tasks.frames),
        })
    });
    // A hub that is switched out waits for nothing: its thread runs what it has let run, and is sampled.
    let greenlets = parked.greenlets.iter();
    let greenlets = greenlets.filter(|greenlets| !roles::has_hub(names(&greenlets.frames)));
    let greenlets = greenlets.map(|greenlets| Waiting {
        frames: greenlets.frames.clone(),
        context: contexts::of_greenlet(&greenlets.frames, greenlets.cut),
        count: of_all(greenlets.count, (parked.found.1, parked.read.1)),
        idle: is_idle(&greenlets.frames),
    });
    tasks.chain(greenlets).collect()
}

/// Whether what stands here waits for work.
fn is_idle(frames: &[Frame]) -> bool {
    Idle::of_parked(names(frames)).is_some()
}

fn names(frames: &[Frame]) -> impl Iterator<Item = (&str, &str)> {
    frames.iter().map(|it| (&*it.function, &*it.file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::frames::{Awaits, Greenlets, Tasks};

    fn stack(functions: &[(&str, &str)]) -> Vec<Frame> {
        let frames = functions.iter().map(|(function, file)| Frame {
            function: (*function).to_owned(),
            file: (*file).to_owned(),
            line: None,
        });
        frames.collect()
    }

    #[test]
    fn a_hub_that_is_switched_out_waits_for_nothing_and_its_greenlets_for_what_they_need() {
        let hub = ("BaseHub.run", "/x/eventlet/hubs/hub.py");
        let timer = ("Timer.__call__", "/x/eventlet/hubs/timer.py");
        let waiter = ("Waiter.switch", "/x/eventlet/queue.py");
        let switch = ("BaseHub.switch", "/x/eventlet/hubs/hub.py");
        let serve = ("serve", "/srv/app.py");
        let pool = ("_worker", "/x/concurrent/futures/thread.py");
        let stacks = [
            stack(&[timer, hub]),
            stack(&[waiter, timer, hub]),
            stack(&[switch, serve]),
            stack(&[switch, pool]),
        ];
        let greenlets = stacks.into_iter().map(|frames| Greenlets {
            count: 1,
            descriptors: Vec::new(),
            frames,
            cut: false,
            same: true,
        });
        let parked = Parked {
            greenlets: greenlets.collect(),
            found: (0, 4),
            read: (0, 4),
            ..Parked::default()
        };
        let waiting = waiting(&parked);
        let said: Vec<_> = waiting.iter().map(|it| (&*it.context, it.idle)).collect();
        assert_eq!(said, [("serve", false), ("pool worker", true)]);
    }

    #[test]
    fn a_part_that_was_read_stands_for_all() {
        let frames = vec![Frame {
            function: "serve".to_owned(),
            file: "/a.py".to_owned(),
            line: None,
        }];
        let parked = Parked {
            tasks: vec![Tasks {
                names: Vec::new(),
                count: 4000,
                frames,
                cut: false,
                awaits: Awaits::Start,
                same: true,
            }],
            found: (10_240, 0),
            read: (4096, 0),
            ..Parked::default()
        };
        let waiting = waiting(&parked);
        assert_eq!(waiting[0].count, 10_000);
        assert_eq!(waiting[0].context, "Task (serve)");
    }
}
