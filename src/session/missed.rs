//! What a user named and a session sees nothing of. Engines leave out what was not asked for, so no event tells what there is
//! instead: the functions of the targets are read from their memory, from outside, a few times and only as long as nothing is
//! seen, on a thread that nobody waits for.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::sought::{Circumstances, Known, Sought};
use crate::console::Console;
use crate::event::{Event, Place, What};
use crate::process::{threads, threads_inside};
use crate::python::Interpreter;
use crate::python::frames::Stacks;
use crate::threads;

/// When it is looked what there is, after the probes are live.
const LOOKS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_millis(1200),
    Duration::from_secs(4),
];
/// When it is said that nothing matches, and when that nobody calls what is there.
const SAID: Duration = Duration::from_secs(2);
const SAID_THERE: Duration = Duration::from_secs(5);
/// How many processes are looked at, and how long that may take.
const PROCESSES: usize = 8;
const LONGEST: Duration = Duration::from_secs(1);
/// For how long what was said is remembered.
const FRESH: Duration = Duration::from_secs(10);
/// How long the end of a session waits for the last look.
const LAST: Duration = Duration::from_millis(700);

/// What is looked for, and how a session sees it.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) sought: Sought,
    /// Whether only calls that are long enough are told.
    pub(super) long_only: bool,
    /// Whether names come with their classes wherever an agent is.
    pub(super) classes: bool,
    /// Whether calls are added up elsewhere, and told from time to time.
    pub(super) added_up: bool,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Missed {
    awaited: Awaited,
    /// Those that nothing was seen of.
    left: Vec<usize>,
    known: Vec<Known>,
    live: Instant,
    /// When calls were told last that are added up elsewhere.
    told: Option<Instant>,
    looks: usize,
    looked: bool,
    looking: Option<Receiver<Found>>,
    said: Option<Instant>,
    said_there: bool,
}

/// What a look has found.
#[derive(Debug)]
struct Found {
    known: Vec<Known>,
    any: bool,
}

/// A process, and whether its names come with their classes.
pub(super) type Seen = (u32, bool);

impl Missed {
    /// Of a session whose probes have just become live.
    pub(super) fn of(awaited: Awaited) -> Missed {
        let count = awaited.sought.len();
        Missed {
            awaited,
            left: (0..count).collect(),
            known: vec![Known::default(); count],
            live: Instant::now(),
            told: None,
            looks: 0,
            looked: false,
            looking: None,
            said: None,
            said_there: false,
        }
    }

    /// Takes note of an event.
    pub(super) fn see(&mut self, event: &Event) {
        if self.left.is_empty() {
            return;
        }
        if let What::Call { place, .. } | What::Return { place, .. } | What::Line { place, .. } =
            &event.what
        {
            self.see_place(place);
        }
    }

    /// The same of calls that were added up elsewhere: all until now.
    pub(super) fn see_sums<'a>(&mut self, places: impl Iterator<Item = &'a Place>) {
        if !self.left.is_empty() {
            places.for_each(|place| self.see_place(place));
            self.told = Some(Instant::now());
        }
    }

    fn see_place(&mut self, place: &Place) {
        let sought = &self.awaited.sought;
        let before = self.left.len();
        self.left.retain(|item| !sought.is_of(*item, place));
        if sought.is_any() && self.left.len() < before {
            self.left.clear();
        }
    }

    /// Looks and says what there is to say, when it is time.
    pub(super) fn tick(&mut self, processes: impl FnOnce() -> Vec<Seen>, console: &Console) {
        if self.left.is_empty() || (self.said_there && self.looking.is_none()) {
            return;
        }
        self.take(Duration::ZERO);
        let age = self.live.elapsed();
        let is_due = LOOKS.get(self.looks).is_some_and(|at| age >= *at);
        // How long nothing of it was called for certain.
        let silent = match self.awaited.added_up {
            true => self.told.map_or(Duration::ZERO, |told| told - self.live),
            false => age,
        };
        let is_to_be_said =
            (self.said.is_none() && silent >= SAID) || (!self.said_there && silent >= SAID_THERE);
        if is_to_be_said {
            let with_there = silent >= SAID_THERE;
            // What was said is not said again because more is known.
            if self.said.is_none()
                && let Some(text) = self.text(with_there, false)
            {
                console.warning(text);
                self.said = Some(Instant::now());
            }
            self.said_there |= with_there;
        }
        if is_due && self.looking.is_none() {
            self.looks += 1;
            self.look(processes());
        }
    }

    /// Says at the end what nothing was seen of, unless that was said just now.
    pub(super) fn conclude(mut self, processes: impl FnOnce() -> Vec<Seen>, console: &Console) {
        let is_fresh = self.said.is_some_and(|at| at.elapsed() < FRESH);
        if self.left.is_empty() || is_fresh {
            return;
        }
        if !self.looked && self.looking.is_none() {
            self.look(processes());
        }
        self.take(LAST);
        if let Some(text) = self.text(true, true) {
            console.warning(text);
        }
    }

    fn text(&self, with_there: bool, over: bool) -> Option<String> {
        let left = self.left.iter();
        let missed: Vec<(usize, &Known)> = left
            .filter_map(|item| Some((*item, self.known.get(*item)?)))
            .collect();
        let circumstances = Circumstances {
            classes: self.awaited.classes,
            looked: self.looked,
            long_only: self.awaited.long_only,
            over,
        };
        self.awaited.sought.said(&missed, with_there, circumstances)
    }

    /// Has a thread look what these processes have.
    fn look(&mut self, processes: Vec<Seen>) {
        let (sender, found) = bounded(1);
        let sought = self.awaited.sought.clone();
        let begun = threads::spawn(move || {
            let _ = sender.send(functions_of(&sought, &processes));
        });
        // Without a thread nothing more is known.
        self.looking = begun.ok().map(|_| found);
    }

    /// Takes what a look has found, if it has by then.
    fn take(&mut self, within: Duration) {
        let Some(looking) = &self.looking else {
            return;
        };
        match looking.recv_timeout(within) {
            Ok(found) => {
                self.looked |= found.any;
                for (known, more) in self.known.iter_mut().zip(found.known) {
                    known.merge(more);
                }
            }
            Err(error) if error.is_timeout() => return,
            Err(_) => {}
        }
        self.looking = None;
    }
}

/// What there is in these processes.
fn functions_of(sought: &Sought, processes: &[Seen]) -> Found {
    let until = Instant::now() + LONGEST;
    let mut found = Found {
        known: vec![Known::default(); sought.len()],
        any: false,
    };
    for (pid, classes) in processes.iter().take(PROCESSES) {
        for interpreter in Interpreter::of_process(*pid).unwrap_or_default() {
            let Ok(stacks) = Stacks::of(*pid, &interpreter) else {
                continue;
            };
            let tasks = threads(*pid).unwrap_or_default();
            let Ok(threads) = stacks.threads(&threads_inside(*pid, &tasks)) else {
                continue;
            };
            stacks.functions(&threads, until, |made| {
                found.any = true;
                sought.compare(&made, *classes, &mut found.known);
            });
        }
    }
    found
}
