//! Tasks of asyncio that wait: found among the objects that the garbage collector knows, each with the stack of coroutines that
//! lead from it to what it awaits. Tasks with the same stack are put together as they are found: a service has thousands.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::frame::Frame;
use super::generators::{self, Doing};
use super::heap::{self, Bounds, Pages};
use super::memory::{Memory, Unread, half, word};
use super::objects::Reader;
use super::stack::{self, DEEPEST, Raw, added};
use super::types::{Kind, Types};

/// Most tasks that are looked at.
const MOST_TASKS: usize = 1 << 18;
/// Most stacks that are told apart, and most of their frames together.
const MOST_GROUPS: usize = 1 << 13;
const MOST_FRAMES: usize = 1 << 18;
/// Most names that are kept of the tasks with the same stack.
const MOST_NAMES: usize = 64;
/// Tasks that are read, and then read again, at a time.
const BATCH: usize = 1 << 10;
/// How often a task that does not hold still is read by itself.
const ATTEMPTS: usize = 4;
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

/// What waits in a process without a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// The most frequent first.
    pub(crate) tasks: Vec<Tasks>,
    /// Further tasks, of which it is not known what they do.
    pub(crate) unread: usize,
    /// How many objects were looked at, and whether those were all.
    pub(crate) objects: usize,
    pub(crate) complete: bool,
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

/// What makes tasks equal: the code and the instruction of each frame, what they await, and how well they were read.
type Key = (Vec<(u64, u64)>, Awaits, bool);

/// A stack, and the tasks that have it.
struct Group {
    /// The outermost first.
    frames: Vec<Raw>,
    names: Vec<String>,
    count: usize,
}

/// Looks for what waits in the interpreters whose garbage collectors have their states here.
pub(super) fn parked<M: Memory>(reader: &Reader<M>, collectors: &[u64], bounds: Bounds) -> Parked {
    let search = Search {
        reader,
        types: Types::default(),
        coroutine_at: Cell::new(None),
    };
    search.run(collectors, bounds)
}

struct Search<'a, M> {
    reader: &'a Reader<M>,
    types: Types,
    /// Where tasks have their coroutine, once that is known.
    coroutine_at: Cell<Option<u64>>,
}

impl<M: Memory> Search<'_, M> {
    fn run(&self, collectors: &[u64], bounds: Bounds) -> Parked {
        let (memory, layout) = (&self.reader.memory, &self.reader.layout);
        let mut parked = Parked {
            complete: true,
            ..Parked::default()
        };
        // In the order in which they were found, each once.
        let mut tasks: HashMap<u64, usize> = HashMap::new();
        for collector in collectors {
            let rest = Bounds {
                objects: bounds.objects.saturating_sub(parked.objects),
                ..bounds
            };
            let visit = |object, its_type| {
                let found = self.types.at(memory, layout, its_type);
                if found.is_ok_and(|found| found.kind == Kind::Task) && tasks.len() < MOST_TASKS {
                    let place = tasks.len();
                    tasks.entry(object).or_insert(place);
                }
            };
            let walked = heap::walk(memory, *collector, layout.objects.object_type, rest, visit);
            match walked {
                Ok(walked) => {
                    parked.objects += walked.objects;
                    parked.complete &= walked.complete;
                }
                Err(_) => parked.complete = false,
            }
        }
        parked.complete &= tasks.len() < MOST_TASKS;
        let mut tasks: Vec<(u64, usize)> = tasks.into_iter().collect();
        tasks.sort_unstable_by_key(|(_, place)| *place);
        let tasks: Vec<u64> = tasks.into_iter().map(|(task, _)| task).collect();
        self.group(&tasks, bounds, &mut parked);
        parked
    }

    /// Puts tasks with the same stack together.
    fn group(&self, tasks: &[u64], bounds: Bounds, parked: &mut Parked) {
        let mut groups = Groups::default();
        for tasks in tasks.chunks(BATCH) {
            if bounds.are_over() {
                parked.unread += tasks.len();
                continue;
            }
            let pages = Pages::of(&self.reader.memory);
            let read: Vec<_> = tasks.iter().map(|task| self.task(&pages, *task)).collect();
            let pages = Pages::of(&self.reader.memory);
            for (task, was) in tasks.iter().zip(read) {
                let (chain, same) = match (was, self.task(&pages, *task)) {
                    (Ok(was), Ok(now)) if was == now => (Ok(now), true),
                    _ => self.by_itself(*task),
                };
                let is_kept = match chain {
                    // It runs, or has finished.
                    Ok(None) => true,
                    Ok(Some(chain)) => {
                        let awaits = self.awaits(chain.link);
                        groups.add(chain, awaits, same, || self.name(*task))
                    }
                    Err(_) => false,
                };
                parked.unread += usize::from(!is_kept);
            }
        }
        parked.tasks = self.shown(groups, &mut parked.unread);
    }

    /// A task that did not hold still, and whether it does now.
    fn by_itself(&self, task: u64) -> (Result<Option<Chain>, Unread>, bool) {
        let memory = &self.reader.memory;
        let mut was = self.task(memory, task);
        for _ in 0..ATTEMPTS {
            let now = self.task(memory, task);
            let is_same = matches!((&was, &now), (Ok(was), Ok(now)) if was == now);
            if is_same {
                return (now, true);
            }
            was = now;
        }
        (was, false)
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
            match self.types.of(memory, layout, object)?.kind {
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

    /// The groups as people see them. Different instructions may be of the same line.
    fn shown(&self, groups: Groups, unread: &mut usize) -> Vec<Tasks> {
        let mut shown: Vec<Tasks> = Vec::new();
        let mut places: HashMap<(Vec<Frame>, Awaits, bool), usize> = HashMap::new();
        for ((_, awaits, same), group) in groups.found {
            let mut chain = group.frames;
            let cut = chain.len() == DEEPEST;
            chain.reverse();
            let Ok(frames) = stack::frames(self.reader, &chain) else {
                *unread += group.count;
                continue;
            };
            let frames: Vec<Frame> = frames.into_iter().map(Frame::from).collect();
            match places.entry((frames.clone(), awaits.clone(), same)) {
                Entry::Vacant(place) => {
                    place.insert(shown.len());
                    shown.push(Tasks {
                        names: group.names,
                        count: group.count,
                        frames,
                        cut,
                        awaits,
                        same,
                    });
                }
                Entry::Occupied(place) => {
                    if let Some(tasks) = shown.get_mut(*place.get()) {
                        tasks.count += group.count;
                        tasks.names.extend(group.names);
                    }
                }
            }
        }
        for tasks in &mut shown {
            // Task-9 comes before Task-10.
            let names = &mut tasks.names;
            names.sort_unstable_by(|one, other| {
                (one.len(), one.as_str()).cmp(&(other.len(), other.as_str()))
            });
            names.truncate(MOST_NAMES);
        }
        shown.sort_by(|one, other| {
            let names = one.names.cmp(&other.names);
            other.count.cmp(&one.count).then(names)
        });
        shown
    }
}

#[derive(Default)]
struct Groups {
    found: HashMap<Key, Group>,
    frames: usize,
}

impl Groups {
    /// Adds a task; no, where there is no room for another stack.
    fn add(
        &mut self,
        chain: Chain,
        awaits: Awaits,
        same: bool,
        name: impl FnOnce() -> Option<String>,
    ) -> bool {
        let frames = chain.frames.iter();
        let frames = frames.map(|raw| (raw.code, raw.instruction)).collect();
        let is_full =
            self.found.len() >= MOST_GROUPS || self.frames + chain.frames.len() > MOST_FRAMES;
        let group = match self.found.entry((frames, awaits, same)) {
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(place) => {
                self.frames += chain.frames.len();
                place.insert(Group {
                    frames: chain.frames,
                    names: Vec::new(),
                    count: 0,
                })
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        group.count += 1;
        if group.names.len() < MOST_NAMES {
            group.names.extend(name());
        }
        true
    }
}
