//! Calls that came with their durations when they were over: whether they belong to a request is known when what called them is
//! over, too.

use std::collections::{HashMap, VecDeque};

use super::call::{RequestCall, Track};

/// Calls that are kept of one track, and of all; the oldest of a track are forgotten beyond that, or all.
const MOST_OF_ONE: usize = 4096;
const MOST: usize = 1 << 16;
/// Bytes of their fields.
const MOST_FIELDS: usize = 16 << 20;

/// A call that is over.
#[derive(Debug)]
pub(super) enum Finished {
    /// It belongs to the request.
    Kept {
        /// When it began.
        begin: u64,
        /// Its number.
        number: usize,
    },
    /// It belongs to none so far.
    Stray(Box<RequestCall>),
}

impl Finished {
    pub(super) fn begin(&self) -> u64 {
        match self {
            Finished::Kept { begin, .. } => *begin,
            Finished::Stray(call) => call.begin,
        }
    }
}

/// Calls by where they ran, in the order of their ends.
#[derive(Debug, Default)]
pub(super) struct Measured {
    tracks: HashMap<Track, VecDeque<Finished>>,
    kept: usize,
    field_bytes: usize,
}

impl Measured {
    /// Keeps a call that belongs to the request if what called it does.
    pub(super) fn keep(&mut self, mut call: RequestCall) {
        let bytes = call.fields.as_ref().map_or(0, |fields| fields.bytes());
        match self.field_bytes.saturating_add(bytes) {
            all if all <= MOST_FIELDS => self.field_bytes = all,
            _ => call.fields = None,
        }
        self.push(call.track, Finished::Stray(Box::new(call)));
    }

    /// A call belongs to the request.
    pub(super) fn belongs(&mut self, track: Track, begin: u64, number: usize) {
        self.push(track, Finished::Kept { begin, number });
    }

    /// Takes what a call that ends now called since it began.
    pub(super) fn below(&mut self, track: Track, begin: u64) -> VecDeque<Finished> {
        let Some(finished) = self.tracks.get_mut(&track) else {
            return VecDeque::new();
        };
        let later = finished.iter().rev().take_while(|it| it.begin() >= begin);
        let below = finished.split_off(finished.len() - later.count());
        self.kept -= below.len();
        below
    }

    fn push(&mut self, track: Track, call: Finished) {
        if self.kept >= MOST {
            *self = Measured::default();
        }
        let finished = self.tracks.entry(track).or_default();
        if finished.len() >= MOST_OF_ONE {
            finished.pop_front();
            self.kept -= 1;
        }
        finished.push_back(call);
        self.kept += 1;
    }
}
