//! A page to look at: one file that a browser opens without a network, with everything that a recording says. All of it is
//! added up here and bounded, so that the page opens at once however long the recording is; what has no room is counted and said.
//!
//! The viewer (`page.js`) is our own and small: embedded ones are built with tools of their own, bring their data formats and
//! take the bulk of a page, and show either flames or timelines.

mod activity;
mod digest;
mod flames;
mod names;
mod page;
mod rows;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;
use std::num::NonZeroU64;

use self::activity::{Activity, Doing, Whose};
use self::page::{Generation, Pause, Timeline};
use super::about::{about, losses, title};
use super::profile::{Selection, Spent, Stacks, Time, process_name};
use super::{End, Sink};
use crate::analysis::collections::Collections;
use crate::analysis::contexts::{Contexts, Runner};
use crate::analysis::functions::{Function, Functions};
use crate::analysis::keys::KeyBuilder;
use crate::analysis::pairing::Step;
use crate::event::hosts::Hosts;
use crate::event::{Place, Session, Wait, What};
use crate::text::Foreign;
use crate::view::hot;

pub(crate) use flames::{Flames, Times};
pub(crate) use page::Page;
pub(crate) use rows::{Row, Rows};

/// Threads of which it is known which task or greenlet runs.
const MOST_THREADS: usize = 1 << 14;
/// Tasks and greenlets with rows of their own; further ones are in those of their kinds.
const MOST_CONTEXTS: usize = 100;
/// Processes that have a name.
const MOST_PROCESSES: usize = 1 << 12;

/// Gathers what a page shows of a stream.
#[derive(Debug)]
pub(crate) struct Gathered {
    session: Session,
    stacks: Stacks,
    functions: Functions,
    collections: Collections,
    activity: Activity,
    contexts: Contexts,
    /// Tasks and greenlets with rows of their own.
    own_rows: usize,
    /// The one that each thread runs.
    running: HashMap<(u32, u32), NonZeroU64, KeyBuilder>,
    last: u64,
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered {
            session: Session::default(),
            stacks: Stacks::default(),
            functions: Functions::new(),
            collections: Collections::new(),
            activity: Activity::default(),
            contexts: Contexts::default(),
            own_rows: 0,
            running: HashMap::default(),
            last: 0,
        }
    }
}

impl Sink for Gathered {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        let has_waits = has_waits(session);
        self.stacks = Stacks::new(Selection {
            time: if has_waits { Time::Wall } else { Time::Own },
            ..Selection::default()
        });
        self.stacks.begin(session);
        self.functions = Functions::new().with_waits(has_waits);
        self.functions.of_hosts(Hosts::of(session));
        self.session = session.clone();
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        self.last = self.last.max(event.ts);
        self.activity.begin(event.ts);
        self.contexts.follow(step);
        self.functions.take(step);
        self.collections.take(step);
        let thread = (event.pid, event.tid);
        let context = self.running.get(&thread).copied();
        if let Some(spent) = self.stacks.take(step) {
            self.spent(event.ts, thread, context, spent);
        }
        match &event.what {
            What::GcDone {
                pause_ns: Some(pause_ns),
                ..
            } => {
                for whose in self.whose(thread, context) {
                    self.activity
                        .did(whose, Doing::Collect, 0, *pause_ns, event.ts);
                }
            }
            What::Call { frame, .. } | What::Return { frame, .. }
                if frame.context.is_some() || context.is_some() =>
            {
                self.runs(thread, step.stack().next().and_then(|open| open.context));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        Ok(None)
    }
}

impl Gathered {
    /// A thread goes on with this task or greenlet.
    fn runs(&mut self, thread: (u32, u32), context: Option<NonZeroU64>) {
        match context {
            Some(context) => {
                if self.running.len() >= MOST_THREADS {
                    self.running.clear();
                }
                self.running.insert(thread, context);
            }
            None => {
                self.running.remove(&thread);
            }
        }
    }

    /// Whose rows have what a thread does.
    fn whose(
        &mut self,
        (pid, tid): (u32, u32),
        context: Option<NonZeroU64>,
    ) -> impl Iterator<Item = Whose> + use<> {
        let context = context.and_then(|context| self.row_of(pid, context));
        [Whose::Process(pid), Whose::Thread(pid, tid)]
            .into_iter()
            .chain(context)
    }

    fn row_of(&mut self, pid: u32, context: NonZeroU64) -> Option<Whose> {
        let own = Whose::Context(pid, context.get());
        if self.activity.has_row(own) {
            return Some(own);
        }
        let runner = Runner::of(pid, 0, Some(context));
        let name = self.contexts.name(runner);
        if self.own_rows < MOST_CONTEXTS && self.activity.has_room() {
            self.own_rows += 1;
            let name = name.map_or_else(|| format!("context {context}"), ToString::to_string);
            self.activity.call(own, || name);
            return Some(own);
        }
        let label = self.contexts.label_so_far(runner);
        let kind = Whose::Kind(pid, KeyBuilder.hash_one(&label));
        self.activity
            .call(kind, || format!("{}, others", Foreign::new(&*label)));
        Some(kind)
    }

    /// A thread ran until then, and after that waited or was idle.
    fn spent(&mut self, until: u64, thread: (u32, u32), context: Option<NonZeroU64>, spent: Spent) {
        let Spent {
            frame,
            run_ns,
            wait_ns,
            idle_ns,
        } = spent;
        if (run_ns | wait_ns | idle_ns) == 0 {
            return;
        }
        let ran_until = until.saturating_sub(wait_ns).saturating_sub(idle_ns);
        for whose in self.whose(thread, context) {
            self.activity
                .did(whose, Doing::Run, frame, run_ns, ran_until);
            self.activity.did(whose, Doing::Wait, frame, wait_ns, until);
            self.activity.did(whose, Doing::Idle, frame, idle_ns, until);
        }
    }

    /// Has rows be called what threads, tasks and greenlets are, as far as that was found out: `rpc_0 (thread 9)`,
    /// `GreenThread-3: RPC worker (handle)`.
    fn name_rows(&mut self) {
        let (contexts, hosts) = (&self.contexts, Hosts::of(&self.session));
        self.activity.name(|whose, name| {
            let (runner, known) = match whose {
                Whose::Process(_) | Whose::Kind(..) => return None,
                Whose::Thread(pid, tid) => {
                    let runner = Runner::of(pid, tid, None);
                    let tid = hosts.number(tid);
                    let thread = match contexts.name(runner) {
                        Some(name) => format!("{name} (thread {tid})"),
                        None => format!("thread {tid}"),
                    };
                    (runner, thread)
                }
                Whose::Context(pid, context) => {
                    let runner = Runner::of(pid, 0, NonZeroU64::new(context));
                    (runner, name?.to_owned())
                }
            };
            let label = contexts.label(runner).filter(|_| !runner.is_main());
            let label = label.map(|label| Foreign::new(&*label).to_string());
            // What is derived from the name says nothing more.
            Some(match label {
                Some(label) if !known.starts_with(&label) => format!("{known}: {label}"),
                _ => known,
            })
        });
    }

    /// The page, of a recording that was read to its `end` and took so long; its stacks by process, unless they are to be
    /// compared with those of other processes.
    pub(crate) fn page(mut self, end: &End<'_>, wall_ns: u64, by_process: bool) -> Page {
        self.functions.take_open(end.pairing, self.last);
        self.name_rows();
        let session = &self.session;
        let (has_waits, start) = (has_waits(session), self.activity.start());
        let mut notes = losses(end, self.functions.without_row().map_or(0, |row| row.calls));
        notes.extend(self.stacks.without_room());
        let generations = self.collections.by_generation().into_iter();
        let generations = generations.map(|(generation, of)| Generation {
            generation,
            count: of.count,
            collected: of.collected,
            pauses: of.pauses,
        });
        let pauses = self.collections.longest().iter().map(|pause| Pause {
            at: i128::from(pause.ts) - i128::from(start),
            pause_ns: pause.pause_ns,
            pid: pause.pid,
            tid: pause.tid,
            generation: pause.generation,
            collected: pause.collected,
            within: pause.within.as_ref().map(|place| named(place)),
        });
        Page {
            title: title(session),
            is_estimate: false,
            has_waits,
            is_filtered: session.filter.is_some(),
            about: about(session, end.summary, start, wall_ns),
            notes,
            flames: flames(&self.stacks, session, by_process),
            rows: rows(self.functions),
            generations: generations.collect(),
            pauses: pauses.collect(),
            timeline: Some(Timeline {
                processes: processes(session),
                stacks: self.stacks,
                activity: self.activity,
            }),
        }
    }
}

fn has_waits(session: &Session) -> bool {
    session.events.iter().any(|kind| kind == Wait::KIND)
}

/// `function (file)`.
fn named(place: &Place) -> String {
    format!("{} ({})", place.name(), place.file)
}

fn processes(session: &Session) -> Vec<(u32, String)> {
    let targets = session.targets.iter().take(MOST_PROCESSES);
    targets
        .map(|it| (it.pid, process_name(session, it.pid)))
        .collect()
}

fn flames(stacks: &Stacks, session: &Session, by_process: bool) -> Flames {
    let mut pids: Vec<u32> = stacks
        .frames()
        .map(|frame| frame.pid)
        .filter(|pid| *pid != 0)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    let by_process = by_process && pids.len() > 1;
    let mut flames = Flames::default();
    let mut places: Vec<Option<u32>> = Vec::new();
    let mut roots: HashMap<u32, Option<u32>> = HashMap::new();
    for frame in stacks.frames() {
        let caller = match frame.caller {
            Some(caller) => places.get(caller as usize).copied().flatten(),
            None if by_process && frame.pid != 0 => *roots
                .entry(frame.pid)
                .or_insert_with(|| flames.frame(None, &process_name(session, frame.pid), false)),
            None => None,
        };
        let place = flames.frame(caller, frame.name, frame.is_wait);
        let (run, wait) = match frame.is_wait {
            true => (0, frame.own_ns),
            false => (frame.own_ns, 0),
        };
        if (run | wait | frame.idle_ns) > 0 {
            let idle = frame.idle_ns;
            flames.took(place, Times { run, wait, idle });
        }
        places.push(place);
    }
    flames
}

fn rows(functions: Functions) -> Rows {
    let mut rows = Rows::default();
    if let Some(rest) = functions.without_row() {
        rows.without_row = (rest.calls, rest.self_ns);
    }
    let ran = functions.into_merged().into_iter();
    rows.rows.extend(ran.filter(|it| !it.never_ran()).map(row));
    rows
}

fn row(function: Function) -> Row {
    let (name, place) = hot::name(&function);
    Row {
        function: name,
        place,
        calls: function.calls,
        own: function.self_ns,
        idle: function.idle_ns,
        cumulative: function.whole_cumulative_ns(),
        idle_cumulative: function.idle_cumulative_ns,
        off: [
            function.off.blocked_ns,
            function.off.runqueue_ns,
            function.off.gil_ns,
        ],
        average: function.average_ns(),
        durations: function.durations,
    }
}
