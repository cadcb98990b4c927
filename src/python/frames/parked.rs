//! What waits without a thread of its own: found among the objects that the garbage collector knows, in one walk.

use std::collections::HashMap;
use std::time::Instant;

use super::greenlets::{self, Greenlets};
use super::heap::{self, Bounds};
use super::memory::Memory;
use super::objects::Reader;
use super::tasks::{self, Tasks};
use super::types::{Kind, Types};

/// Most tasks, and most greenlets, that are looked at.
const MOST: usize = 1 << 18;

/// What waits in a process without a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// The most frequent first.
    pub(crate) tasks: Vec<Tasks>,
    /// Further tasks, of which it is not known what they do.
    pub(crate) unread: usize,
    /// Those that are switched out, the most frequent first.
    pub(crate) greenlets: Vec<Greenlets>,
    /// Further greenlets, of which it is not known what they do.
    pub(crate) unread_greenlets: usize,
    /// Of the tasks that have a name which somebody chose, by the place of the frame of their coroutine.
    pub(crate) names: Vec<((u64, u64), String)>,
    /// How many tasks and greenlets there are, whatever they do, and how many of these were looked at. What a look is too late for,
    /// because they end or change meanwhile, were looked at.
    pub(crate) found: (usize, usize),
    pub(crate) read: (usize, usize),
    /// How many objects were looked at, and whether those were all.
    pub(crate) objects: usize,
    pub(crate) complete: bool,
}

/// Objects in the order in which they were found, each once.
#[derive(Default)]
struct Found(HashMap<u64, usize>);

impl Found {
    fn add(&mut self, object: u64) {
        let place = self.0.len();
        if place < MOST {
            self.0.entry(object).or_insert(place);
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// At most so many, if that is said: then whichever chance picks, in no order.
    fn objects(self, most: Option<usize>) -> Vec<u64> {
        if let Some(most) = most {
            // The order of such a map is drawn anew for each.
            return self.0.into_keys().take(most).collect();
        }
        let mut found: Vec<(u64, usize)> = self.0.into_iter().collect();
        found.sort_unstable_by_key(|(_, place)| *place);
        found.into_iter().map(|(object, _)| object).collect()
    }
}

/// Looks for it in the interpreters whose garbage collectors have their states here: for all of it, or for at most so many tasks and
/// greenlets, with names.
pub(super) fn parked<M: Memory>(
    reader: &Reader<M>,
    collectors: &[u64],
    bounds: Bounds,
    most: Option<usize>,
) -> Parked {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let types = Types::default();
    let mut parked = Parked {
        complete: true,
        ..Parked::default()
    };
    let (mut tasks, mut greenlets) = (Found::default(), Found::default());
    // What is found is yet to be read.
    let begun = Instant::now();
    let walking = bounds.until.saturating_duration_since(begun) * 3 / 4;
    for collector in collectors {
        let rest = Bounds {
            objects: bounds.objects.saturating_sub(parked.objects),
            until: begun + walking,
        };
        let visit = |object, its_type| {
            let found = types.at(memory, layout, its_type);
            match found.map(|found| found.kind) {
                Ok(Kind::Task) => tasks.add(object),
                Ok(Kind::Greenlet) => greenlets.add(object),
                _ => {}
            }
        };
        let walked = heap::walk(memory, layout, *collector, rest, visit);
        match walked {
            Ok(walked) => {
                parked.objects += walked.objects;
                parked.complete &= walked.complete;
            }
            Err(_) => parked.complete = false,
        }
    }
    parked.complete &= !tasks.is_full() && !greenlets.is_full();
    parked.found = (tasks.0.len(), greenlets.0.len());
    let (tasks, greenlets) = (tasks.objects(most), greenlets.objects(most));
    let (unknown_tasks, unknown_greenlets);
    (parked.tasks, unknown_tasks) = tasks::parked(reader, &types, &tasks, bounds);
    (parked.greenlets, unknown_greenlets) = greenlets::parked(reader, &types, &greenlets, bounds);
    (parked.unread, parked.unread_greenlets) = (unknown_tasks.all, unknown_greenlets.all);
    parked.read = (
        unknown_tasks.looked_at(tasks.len()),
        unknown_greenlets.looked_at(greenlets.len()),
    );
    if most.is_some() {
        parked.names = tasks::named(reader, &types, &tasks, bounds);
    }
    parked
}
