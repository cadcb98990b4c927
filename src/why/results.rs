//! What came of the calls, by function.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::part::Parts;
use crate::analysis::histogram::Histogram;
use crate::analysis::keys::FunctionKey;
use crate::event::Place;

/// Most functions that are told apart; calls of further ones are only counted.
const MOST_FUNCTIONS: usize = 1 << 10;

/// Why a call has no parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unsplit {
    /// Something was lost while it went on.
    Lost,
    /// It began before its process was watched.
    NotWatched,
    /// More has happened in its thread than is kept.
    TooMuch,
    /// Nobody knows for certain when it began.
    Uncertain,
    /// Its greenlet may have been switched out, and nothing tells when.
    Greenlets,
}

impl Unsplit {
    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Unsplit::Lost => "lost",
            Unsplit::NotWatched => "not_watched",
            Unsplit::TooMuch => "too_much",
            Unsplit::Uncertain => "uncertain",
            Unsplit::Greenlets => "greenlets",
        }
    }

    /// In a clause.
    pub(crate) fn because(self) -> &'static str {
        match self {
            Unsplit::Lost => "something was lost meanwhile",
            Unsplit::NotWatched => "begun before their process was watched",
            Unsplit::TooMuch => "too much happened in their thread meanwhile",
            Unsplit::Uncertain => "of unknown duration",
            Unsplit::Greenlets => {
                "of a greenlet of which not all switches were told (with --agent they are, once greenlet is imported)"
            }
        }
    }
}

/// A call that ended.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) key: FunctionKey,
    pub(crate) place: Arc<Place>,
    /// Where the function begins; 0 or less where that is not known.
    pub(crate) line: i32,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// In nanoseconds since the Unix epoch.
    pub(crate) began: u64,
    /// `None` where that is not known for certain.
    pub(crate) duration_ns: Option<u64>,
    pub(crate) parts: Result<Parts, Unsplit>,
}

/// The calls of a function.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) place: Arc<Place>,
    pub(crate) line: i32,
    /// Of all calls of which they are known.
    pub(crate) durations: Histogram,
    /// Of those that have parts.
    pub(crate) parts: Parts,
    pub(crate) split: u64,
    pub(crate) unsplit: HashMap<Unsplit, u64>,
    /// Calls within a call of the same function: their time is in that one's.
    pub(crate) recursive: u64,
    /// Calls that are followed no longer: nobody will hear of their ends.
    pub(crate) given_up: u64,
    /// The last calls that took long enough, where that was asked for.
    pub(crate) slow: VecDeque<Call>,
}

/// See the head of the module.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    functions: HashMap<FunctionKey, Function>,
    /// Calls of functions that found no room.
    pub(crate) without_room: u64,
    /// Only calls that took so long.
    minimum_ns: u64,
    /// How many slow calls of a function are kept.
    keep: usize,
}

impl Results {
    /// Nothing yet.
    pub(crate) fn new(minimum_ns: u64, keep: usize) -> Results {
        Results {
            functions: HashMap::new(),
            without_room: 0,
            minimum_ns,
            keep,
        }
    }

    /// Counts a call. Whether it took long enough.
    pub(crate) fn take(&mut self, call: &Call) -> bool {
        let is_short = call.duration_ns.is_some_and(|ns| ns < self.minimum_ns);
        if is_short {
            return false;
        }
        let keep = self.keep;
        let Some(function) = self.function(call.key, &call.place, call.line) else {
            self.without_room += 1;
            return true;
        };
        if let Some(duration) = call.duration_ns {
            function.durations.add(duration);
        }
        match &call.parts {
            Ok(parts) => {
                function.split += 1;
                function.parts.merge(parts);
            }
            Err(why) => *function.unsplit.entry(*why).or_default() += 1,
        }
        if keep > 0 {
            if function.slow.len() >= keep {
                function.slow.pop_front();
            }
            function.slow.push_back(call.clone());
        }
        true
    }

    /// Counts a call within a call of the same function.
    pub(crate) fn recursive(&mut self, key: FunctionKey, place: &Arc<Place>, line: i32) {
        if let Some(function) = self.function(key, place, line) {
            function.recursive += 1;
        }
    }

    /// Counts a call that is followed no longer, after so long.
    pub(crate) fn gave_up(&mut self, key: FunctionKey, place: &Arc<Place>, line: i32, lasted: u64) {
        if lasted < self.minimum_ns {
            return;
        }
        match self.function(key, place, line) {
            Some(function) => function.given_up += 1,
            None => self.without_room += 1,
        }
    }

    fn function(
        &mut self,
        key: FunctionKey,
        place: &Arc<Place>,
        line: i32,
    ) -> Option<&mut Function> {
        if self.functions.len() >= MOST_FUNCTIONS && !self.functions.contains_key(&key) {
            return None;
        }
        Some(self.functions.entry(key).or_insert_with(|| Function {
            place: Arc::clone(place),
            line,
            durations: Histogram::fine(),
            parts: Parts::default(),
            split: 0,
            unsplit: HashMap::new(),
            recursive: 0,
            given_up: 0,
            slow: VecDeque::new(),
        }))
    }

    /// The functions, the one that took most time first.
    pub(crate) fn sorted(&self) -> Vec<(FunctionKey, &Function)> {
        let mut sorted: Vec<_> = self.functions.iter().map(|(key, it)| (*key, it)).collect();
        sorted.sort_by_key(|(key, it)| (std::cmp::Reverse(it.durations.sum()), *key));
        sorted
    }
}
