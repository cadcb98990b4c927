//! Adds up by kind and place; and shares out what happened when nobody looked.
//!
//! # What is shared out, and how
//!
//! The kernel tells every event, so sums by kind are exact. A stack is read at a look from time to time. What is longer than the
//! time between two looks is caught for certain; what takes `d` when looks are `g` apart is caught with probability `d / g`. So
//! for each short event that is caught there were some `g / d - 1` of its kind that were not, which took `g - d` together. In this
//! proportion the rest of a kind is shared out among the places where it was caught: an estimate without bias, as far as looks
//! come at random moments. Where no short one was caught, the long ones of the kind serve, and then those of other threads of the
//! process.
//!
//! What is shorter than the look itself is never caught. But a thread that does many such things is seen in the middle of them:
//! what began within a look of `w` did so with probability `w / g`, and counts for so many more at the place that the look saw.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::python::frames::Frame;
use crate::text::Foreign;

/// Most stacks that are kept, and most of what is added up by itself: what is beyond has no stack of its own.
const MOST_STACKS: usize = 1 << 14;
pub(crate) const MOST_ROWS: usize = if cfg!(test) { 256 } else { 1 << 16 };
/// Most frames of a stack that are kept, the innermost.
const DEEPEST: usize = 128;
/// Shorter events count as long as this when it is estimated how many of them there were, in nanoseconds: a look takes time itself.
const SHORTEST: f64 = 20e3;

/// What the kernel tells.
pub(crate) trait Event {
    /// What is exact of each.
    type Kind: Kind;
    /// What they are added up to.
    type Sum: Sum<Of = Self>;

    /// Its kind.
    fn kind(&self) -> Self::Kind;

    /// How long a look could catch it, in nanoseconds.
    fn took_ns(&self) -> u64;
}

/// What is exact of events of one kind.
pub(crate) trait Kind: Clone + Debug + Eq + Hash {
    /// The same of any thread of the process.
    #[must_use]
    fn of_process(&self) -> Self;

    /// What those are added up as for which there is no room.
    #[must_use]
    fn rest(&self) -> Self;
}

/// A sum of events.
pub(crate) trait Sum: Clone + Debug + Default {
    /// Of which.
    type Of: Event + ?Sized;

    /// Adds one.
    fn add(&mut self, event: &Self::Of);

    /// How many there are.
    fn number(&self) -> u64;

    /// Takes these shares of the times and of the numbers out of it. What belongs to single events stays.
    #[must_use]
    fn take_out(&mut self, time: f64, number: f64) -> Self;

    /// Takes in what is left when everything has been taken out, and what belongs to single events.
    fn take_rest(&mut self, rest: Self);
}

/// So much of a number, never more than it.
pub(crate) fn share_of(all: u64, share: f64) -> u64 {
    ((all as f64 * share).round() as u64).min(all)
}

/// Where something happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Its stack, the innermost first, at most [`DEEPEST`].
    Stack(Arc<[Frame]>),
    /// It is a thread that Python knows nothing of.
    NoPython,
    /// It was not read in time, and nothing like it was.
    NotSeen,
    /// Stacks of the process cannot be read.
    Unreadable,
    /// Calls are traced, and those that lead here are older than the trace.
    Older,
}

impl Place {
    /// In a word, for programs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Place::Stack(_) => "stack",
            Place::NoPython => "no_python",
            Place::NotSeen => "not_seen",
            Place::Unreadable => "unreadable",
            Place::Older => "older",
        }
    }
}

/// Its innermost function with the file, for people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Stack(frames) => match frames.first() {
                Some(frame) => write!(
                    f,
                    "{}  {}",
                    Foreign::new(frame.function.as_str()),
                    Foreign::new(frame.file.as_str())
                ),
                None => f.write_str("(no frames)"),
            },
            Place::NoPython => f.write_str("(no Python)"),
            Place::NotSeen => f.write_str("(not seen in time)"),
            Place::Unreadable => f.write_str("(not readable)"),
            Place::Older => f.write_str("(older than the trace)"),
        }
    }
}

/// Events of a kind that were not caught, and what was.
#[derive(Debug, Clone, Default)]
struct Pool<S> {
    missed: S,
    /// By place: how much time and how many events were missed for those caught.
    weights: Weights,
}

/// Adds up.
#[derive(Debug, Clone)]
pub(crate) struct Tally<E: Event> {
    caught: HashMap<(E::Kind, Place), E::Sum, RandomState>,
    pools: HashMap<E::Kind, Pool<E::Sum>, RandomState>,
    stacks: HashSet<Arc<[Frame]>, RandomState>,
    /// Weights that there are for what was not caught itself.
    near: usize,
}

impl<E: Event> Default for Tally<E> {
    fn default() -> Tally<E> {
        Tally {
            caught: HashMap::default(),
            pools: HashMap::default(),
            stacks: HashSet::default(),
            near: 0,
        }
    }
}

impl<E: Event> Tally<E> {
    /// A place; each stack is kept once.
    pub(crate) fn place(&mut self, mut frames: Vec<Frame>) -> Place {
        frames.truncate(DEEPEST);
        if let Some(stack) = self.stacks.get(frames.as_slice()) {
            return Place::Stack(Arc::clone(stack));
        }
        if self.stacks.len() >= MOST_STACKS {
            // Its function at least.
            frames.truncate(1);
            return Place::Stack(frames.into());
        }
        let stack: Arc<[Frame]> = frames.into();
        self.stacks.insert(Arc::clone(&stack));
        Place::Stack(stack)
    }

    /// Adds an event, with where it was if a look caught it. Looks are `gap_ns` apart.
    pub(crate) fn take(&mut self, event: &E, place: Option<Place>, gap_ns: f64) {
        let kind = event.kind();
        let Some(place) = place else {
            self.pool(kind).missed.add(event);
            return;
        };
        let key = (kind, place);
        if self.caught.len() >= MOST_ROWS && !self.caught.contains_key(&key) {
            let rest = (key.0.rest(), Place::NotSeen);
            self.caught.entry(rest).or_default().add(event);
            return;
        }
        let took = event.took_ns() as f64;
        if took < gap_ns {
            let (kind, place) = key.clone();
            let (time, number) = self.pool(kind).weights.entry(place).or_default();
            *time += gap_ns - took;
            *number += gap_ns / took.max(SHORTEST) - 1.0;
        }
        self.caught.entry(key).or_default().add(event);
    }

    /// Adds an event that was not caught, but began within a look of `look_ns` that saw the thread here.
    pub(crate) fn take_near(&mut self, event: &E, place: &Place, look_ns: f64, gap_ns: f64) {
        let took = event.took_ns() as f64;
        let stands_for = gap_ns / took.max(look_ns).max(1.0);
        let is_full = self.near >= MOST_ROWS;
        let pool = self.pool(event.kind());
        pool.missed.add(event);
        let is_new = !pool.weights.contains_key(place);
        if is_new && is_full {
            return;
        }
        let (time, number) = pool.weights.entry(place.clone()).or_default();
        *time += stands_for * took;
        *number += stands_for;
        self.near += usize::from(is_new);
    }

    fn pool(&mut self, kind: E::Kind) -> &mut Pool<E::Sum> {
        let is_full = self.pools.len() >= MOST_ROWS && !self.pools.contains_key(&kind);
        let kind = if is_full { kind.rest() } else { kind };
        self.pools.entry(kind).or_default()
    }

    /// Everything so far, each part exact or an estimate.
    pub(crate) fn parts(&self) -> Vec<Part<E>> {
        let mut parts: Vec<Part<E>> = self
            .caught
            .iter()
            .map(|((kind, place), sum)| Part::exact(kind, place.clone(), sum))
            .collect();
        // The nearest of what was caught: short ones of the thread, any of the thread, short ones of the process, any.
        let (mut any, mut short) = (Caught(HashMap::new()), Caught(HashMap::new()));
        for ((kind, place), sum) in &self.caught {
            // By number: where the one that was caught was a day long, others were not.
            let weight = (sum.number() as f64, sum.number() as f64);
            any.add(kind.clone(), place, weight);
            any.add(kind.of_process(), place, weight);
        }
        for (kind, pool) in &self.pools {
            for (place, weight) in &pool.weights {
                short.add(kind.of_process(), place, *weight);
            }
        }
        for (kind, pool) in &self.pools {
            if pool.missed.number() == 0 {
                continue;
            }
            let own = Some(&pool.weights).filter(|weights| !weights.is_empty());
            let weights = own
                .or_else(|| any.0.get(kind))
                .or_else(|| short.0.get(&kind.of_process()))
                .or_else(|| any.0.get(&kind.of_process()));
            match weights {
                Some(weights) => share(kind, &pool.missed, weights, &mut parts),
                None => parts.push(Part::exact(kind, Place::NotSeen, &pool.missed)),
            }
        }
        parts
    }
}

#[cfg(test)]
impl<E: Event> Tally<E> {
    /// How many sums, pools and weights it has.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let weights = self.pools.values().map(|pool| pool.weights.len()).sum();
        (self.caught.len(), self.pools.len(), weights)
    }
}

/// Weights of time and number by place.
type Weights = HashMap<Place, (f64, f64), RandomState>;

/// How much of what was caught was where.
struct Caught<K>(HashMap<K, Weights>);

impl<K: Kind> Caught<K> {
    fn add(&mut self, kind: K, place: &Place, (time, number): (f64, f64)) {
        let places = self.0.entry(kind).or_default();
        let sum = places.entry(place.clone()).or_default();
        *sum = (sum.0 + time, sum.1 + number);
    }
}

/// Shares out what was missed, such that the parts add up to it.
fn share<E: Event>(kind: &E::Kind, missed: &E::Sum, weights: &Weights, parts: &mut Vec<Part<E>>) {
    let mut weights: Vec<(&Place, f64, f64)> = weights
        .iter()
        .map(|(place, (time, number))| (place, *time, *number))
        .collect();
    weights.sort_by(|one, other| other.1.total_cmp(&one.1));
    let (mut time_left, mut number_left) = (
        weights.iter().map(|it| it.1).sum::<f64>(),
        weights.iter().map(|it| it.2).sum::<f64>(),
    );
    let mut left = missed.clone();
    let greatest = parts.len();
    for (place, time, number) in weights {
        let portion = |weight: f64, of: f64| match of > 0.0 {
            true => (weight / of).min(1.0),
            false => 0.0,
        };
        let sum = left.take_out(portion(time, time_left), portion(number, number_left));
        time_left -= time;
        number_left -= number;
        parts.push(Part {
            kind: kind.clone(),
            place: place.clone(),
            estimated: true,
            sum,
        });
    }
    // What rounding has left.
    if let Some(first) = parts.get_mut(greatest) {
        first.sum.take_rest(left);
    }
}

/// A part of all events.
#[derive(Debug, Clone)]
pub(crate) struct Part<E: Event> {
    pub(crate) kind: E::Kind,
    pub(crate) place: Place,
    /// Whether it was shared out.
    pub(crate) estimated: bool,
    pub(crate) sum: E::Sum,
}

impl<E: Event> Part<E> {
    fn exact(kind: &E::Kind, place: Place, sum: &E::Sum) -> Part<E> {
        Part {
            kind: kind.clone(),
            place,
            estimated: false,
            sum: sum.clone(),
        }
    }
}

/// What parts of a row are, by how much time they have: the greatest first.
#[derive(Debug, Clone)]
pub(crate) struct Shares<T>(pub(crate) Vec<(T, u64)>);

impl<T> Default for Shares<T> {
    fn default() -> Shares<T> {
        Shares(Vec::new())
    }
}

impl<T: PartialEq> Shares<T> {
    pub(crate) fn add(&mut self, what: T, time: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum = sum.saturating_add(time),
            None => self.0.push((what, time)),
        }
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    }

    /// The greatest, and how many others there are.
    pub(crate) fn first(&self) -> Option<(&T, usize)> {
        let (first, _) = self.0.first()?;
        Some((first, self.0.len() - 1))
    }
}
