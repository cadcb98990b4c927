//! Tasks of asyncio that wait, each with the stack of coroutines that lead from it to what it awaits.

use std::cell::Cell;

use super::alike::{Alike, Groups, MOST_MARKS, Unknown};
use super::frame::Frame;
use super::generators::{self, Doing};
use super::heap::{Bounds, Pages};
use super::memory::{Memory, Unread, half, word};
use super::objects::Reader;
use super::stack::{DEEPEST, Raw, added};
use super::types::{Kind, Types};

/// Tasks that are read, and then read again, at a time.
const BATCH: usize = 1 << 10;
/// How often a task that does not hold still is read by itself.
const ATTEMPTS: usize = 4;
/// Most bytes of names that are told of one process.
const MOST_NAMES: usize = 4 << 20;
/// Where objects have their first field.
const FIRST_FIELD: u64 = 16;

/// What a task waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Awaits {
    /// To begin.
    Start,
    /// Its turn: it let others run, as `asyncio.sleep(0)` does.
    Turn,
    /// A task of this name.
    Task(String),
    /// An object of this type, mostly a future.
    Object(String),
    /// Something that was gone when it was asked for its type.
    Unknown,
}

/// Tasks with the same stack that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tasks {
    /// Of the first of them.
    pub(crate) names: Vec<String>,
    pub(crate) count: usize,
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
    /// Whether there are more.
    pub(crate) cut: bool,
    pub(crate) awaits: Awaits,
    /// Whether reading them twice gave the same.
    pub(crate) same: bool,
}

impl From<Alike<Awaits, String>> for Tasks {
    fn from(alike: Alike<Awaits, String>) -> Tasks {
        let mut names = alike.marks;
        // Task-9 comes before Task-10.
        names.sort_unstable_by(|one, other| {
            (one.len(), one.as_str()).cmp(&(other.len(), other.as_str()))
        });
        names.truncate(MOST_MARKS);
        Tasks {
            names,
            count: alike.count,
            frames: alike.frames,
            cut: alike.cut,
            awaits: alike.waits,
            same: alike.same,
        }
    }
}

/// What a task awaits, as it is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Start,
    Turn,
    Object(u64),
}

/// The coroutines of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    /// The outermost first.
    frames: Vec<Raw>,
    link: Link,
}

/// Which of these tasks wait, those with the same stack together, the most frequent first; and those of which it is not known
/// what they do.
pub(super) fn parked<M: Memory>(
    reader: &Reader<M>,
    types: &Types,
    tasks: &[u64],
    bounds: Bounds,
) -> (Vec<Tasks>, Unknown) {
    let search = Search {
        reader,
        types,
        coroutine_at: Cell::new(None),
    };
    search.group(tasks, bounds)
}

/// The frames of the coroutines of these tasks by what tells them from others, with the names of the tasks, where somebody chose these:
/// of tasks that run, too.
pub(super) fn named<M: Memory>(
    reader: &Reader<M>,
    types: &Types,
    tasks: &[u64],
    bounds: Bounds,
) -> Vec<((u64, u64), String)> {
    let search = Search {
        reader,
        types,
        coroutine_at: Cell::new(None),
    };
    let (mut named, mut bytes) = (Vec::new(), 0);
    for task in tasks {
        if bounds.are_over() || bytes > MOST_NAMES {
            break;
        }
        let coroutine = search.coroutine(&reader.memory, *task).ok().flatten();
        let name = search.name(*task).filter(|name| !is_a_number(name));
        if let (Some(coroutine), Some(name)) = (coroutine, name)
            && let Ok(Some(raw)) = generators::frame(&reader.memory, &reader.layout, coroutine)
        {
            bytes += name.len();
            named.push((raw.place(), name));
        }
    }
    named
}

/// Whether the name of a task is what asyncio calls one that was given none.
pub(crate) fn is_a_number(name: &str) -> bool {
    name.strip_prefix("Task-")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
}

struct Search<'a, M> {
    reader: &'a Reader<M>,
    types: &'a Types,
    /// Where tasks have their coroutine, once that is known.
    coroutine_at: Cell<Option<u64>>,
}

impl<M: Memory> Search<'_, M> {
    /// Puts tasks with the same stack together.
    fn group(&self, tasks: &[u64], bounds: Bounds) -> (Vec<Tasks>, Unknown) {
        let (mut groups, mut unknown) = (Groups::default(), Unknown::default());
        for tasks in tasks.chunks(BATCH) {
            if bounds.are_over() {
                unknown.all += tasks.len();
                continue;
            }
            let pages = Pages::of(&self.reader.memory);
            let read: Vec<_> = tasks.iter().map(|task| self.task(&pages, *task)).collect();
            let pages = Pages::of(&self.reader.memory);
            for (task, was) in tasks.iter().zip(read) {
                let (chain, same) = match (was, self.task(&pages, *task)) {
                    (Ok(was), Ok(now)) if was == now && self.holds_still(*task, &now) => {
                        (Ok(now), true)
                    }
                    _ => self.by_itself(*task),
                };
                let is_kept = match chain {
                    // It runs, or has finished.
                    Ok(None) => true,
                    Ok(Some(mut chain)) => {
                        let awaits = self.awaits(chain.link);
                        chain.frames.reverse();
                        groups.add(chain.frames, awaits, same, || self.name(*task))
                    }
                    Err(_) => {
                        unknown.restless += 1;
                        false
                    }
                };
                unknown.all += usize::from(!is_kept);
            }
        }
        let shown = groups.shown(self.reader, &mut unknown.all);
        let mut shown: Vec<Tasks> = shown.into_iter().map(Tasks::from).collect();
        shown.sort_by(|one, other| {
            let names = one.names.cmp(&other.names);
            other.count.cmp(&one.count).then(names)
        });
        (shown, unknown)
    }

    /// A task that did not hold still, and whether it does now.
    fn by_itself(&self, task: u64) -> (Result<Option<Chain>, Unread>, bool) {
        let memory = &self.reader.memory;
        let mut was = self.task(memory, task);
        for _ in 0..ATTEMPTS {
            let now = self.task(memory, task);
            let is_same = match (&was, &now) {
                (Ok(was), Ok(now)) => was == now && self.holds_still(task, now),
                _ => false,
            };
            if is_same {
                return (now, true);
            }
            was = now;
        }
        (was, false)
    }

    /// Whether a task that was read twice alike is so for a while. One that waits for its turn can go on at any moment, do the same
    /// again with other coroutines in the same memory, and be read alike twice by chance, half before and half after.
    fn holds_still(&self, task: u64, chain: &Option<Chain>) -> bool {
        /// How often it is read.
        const TIMES: usize = 3;
        match chain {
            Some(Chain {
                link: Link::Start | Link::Turn,
                ..
            }) => {
                let memory = &self.reader.memory;
                let mut again = (0..TIMES).map(|_| self.task(memory, task));
                again.all(|now| now.is_ok_and(|now| now == *chain))
            }
            _ => true,
        }
    }

    /// The coroutines of a task; `None` where it runs, or has finished.
    fn task(&self, memory: &impl Memory, task: u64) -> Result<Option<Chain>, Unread> {
        let layout = &self.reader.layout;
        let Some(mut object) = self.coroutine(memory, task)? else {
            return Ok(None);
        };
        let mut frames = Vec::new();
        let ended = |frames, link| Ok(Some(Chain { frames, link }));
        // Between two coroutines there are few other objects.
        for _ in 0..DEEPEST * 4 {
            let its_type = self.types.of(memory, layout, object)?;
            match its_type.kind {
                Kind::Generator if frames.len() < DEEPEST => {
                    let (raw, doing) = generators::look(memory, layout, object)?;
                    match (raw, doing) {
                        (Some(raw), Doing::Awaits(next)) => {
                            frames.push(raw);
                            object = next;
                        }
                        (Some(raw), Doing::Created) => {
                            frames.push(raw);
                            return ended(frames, Link::Start);
                        }
                        (Some(raw), Doing::Yielded) => {
                            frames.push(raw);
                            return ended(frames, Link::Turn);
                        }
                        _ if frames.is_empty() => return Ok(None),
                        // What awaits it waits, so this has just changed.
                        _ => return Err(Unread::Senseless),
                    }
                }
                Kind::Wrapper => object = memory.number(added(object, FIRST_FIELD)?)?,
                Kind::OfFuture => {
                    let future = memory.number(added(object, FIRST_FIELD)?)?;
                    // None once it is done.
                    let future = if future == 0 { object } else { future };
                    return ended(frames, Link::Object(future));
                }
                // Nothing else is awaited whose type has no next values, so this has just changed.
                kind if kind != Kind::Generator && !its_type.iterates => {
                    return Err(Unread::Senseless);
                }
                _ => return ended(frames, Link::Object(object)),
            }
        }
        Err(Unread::Senseless)
    }

    /// The coroutine of a task; `None` where it has none any more.
    fn coroutine(&self, memory: &impl Memory, task: u64) -> Result<Option<u64>, Unread> {
        let layout = &self.reader.layout;
        let its_type = self.types.of(memory, layout, task)?;
        if its_type.kind != Kind::Task {
            return Err(Unread::Senseless);
        }
        let is = |object: u64, kinds: &[Kind]| {
            let its_type = self.types.of(memory, layout, object);
            its_type.is_ok_and(|it| kinds.contains(&it.kind))
        };
        let at = |place: u64| memory.number(added(task, place)?);
        if let Some(place) = self.coroutine_at.get() {
            return match at(place)? {
                0 => Ok(None),
                coroutine if is(coroutine, &[Kind::Generator]) => Ok(Some(coroutine)),
                // One of another language, such as Cython's.
                _ => Err(Unread::Senseless),
            };
        }
        // Its name comes right after it.
        let end = its_type.size.saturating_sub(8);
        for place in (FIRST_FIELD..end).step_by(8) {
            let (coroutine, name) = (at(place)?, at(place + 8)?);
            if is(coroutine, &[Kind::Generator]) && is(name, &[Kind::Text, Kind::Number]) {
                self.coroutine_at.set(Some(place));
                return Ok(Some(coroutine));
            }
        }
        Err(Unread::Senseless)
    }

    /// The name of a task.
    fn name(&self, task: u64) -> Option<String> {
        let memory = &self.reader.memory;
        let place = self.coroutine_at.get()?.checked_add(8)?;
        let name = memory.number(task.checked_add(place)?).ok()?;
        match self.types.of(memory, &self.reader.layout, name).ok()?.kind {
            Kind::Text => self.reader.name(name).ok(),
            // From 3.12 on, a number until somebody asks.
            Kind::Number => {
                let bytes = memory.bytes(name, 32).ok()?;
                let digits = word(&bytes, 16).ok()? >> 3;
                let number = u64::from(half(&bytes, 24).ok()?);
                let more = u64::from(half(&bytes, 28).ok()?) << 30;
                let number = if digits > 1 { number | more } else { number };
                Some(format!("Task-{number}"))
            }
            _ => None,
        }
    }

    fn awaits(&self, link: Link) -> Awaits {
        let object = match link {
            Link::Start => return Awaits::Start,
            Link::Turn => return Awaits::Turn,
            Link::Object(object) => object,
        };
        let its_type = self
            .types
            .of(&self.reader.memory, &self.reader.layout, object);
        match its_type {
            Ok(its_type) if its_type.kind == Kind::Task => {
                let name = self.name(object);
                Awaits::Task(name.unwrap_or_else(|| "(unnamed)".to_owned()))
            }
            Ok(its_type) => Awaits::Object(its_type.name.clone()),
            Err(_) => Awaits::Unknown,
        }
    }
}
