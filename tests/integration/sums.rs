//! Programs at random, what they do as marks, and what pystap's own analysis makes of them: for whoever adds up elsewhere and
//! has to come to the same sums.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use pystap::analysis::functions::Functions;
use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::{Event, Frame, Manner, Place, Text, What};

/// A mark: its kind as main.c reads it, its thread, its function. Lower-case letters are the agent's, with a context,
/// and whether the frame was already running when tracing began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) kind: char,
    pub(crate) ts: u64,
    pub(crate) tid: u32,
    pub(crate) function: u64,
    pub(crate) context: u64,
    pub(crate) running: bool,
}

/// What a function of the process cost: calls, returns without a call, own and inclusive time, calls of known duration
/// and their time, and the distribution of the certain ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    pub(crate) calls: u64,
    pub(crate) unmatched: u64,
    pub(crate) self_ns: u64,
    pub(crate) cumulative_ns: u64,
    pub(crate) timed: u64,
    pub(crate) timed_ns: u64,
    pub(crate) exact: (u64, u64, u64),
    pub(crate) buckets: Vec<u64>,
}

pub(crate) type Table = (BTreeMap<u64, Sums>, u64);

pub(crate) const LINE: i32 = 4;

pub(crate) fn trimmed(mut buckets: Vec<u64>) -> Vec<u64> {
    while buckets.last() == Some(&0) {
        buckets.pop();
    }
    buckets
}

/// Gives each step that pystap's pairing makes of marks, with the number of its mark. What is open in the end.
pub(crate) fn paired(marks: &[Mark], mut take: impl FnMut(usize, &Step<'_>)) -> Pairing {
    let mut pairing = Pairing::with_rules(PairingRules {
        call_on_creation: false,
        greenlets: false,
    });
    let text = |text: String| Text {
        text,
        ..Text::default()
    };
    let places: Vec<Arc<Place>> = (0..20u64)
        .map(|function| {
            Arc::new(Place {
                file: text(String::new()),
                function: text(function.to_string()),
                qualname: None,
                group: None,
            })
        })
        .collect();
    for (at, mark) in marks.iter().enumerate() {
        let place = || Arc::clone(&places[mark.function as usize]);
        let frame = Frame {
            context: NonZeroU64::new(mark.context),
            manner: match mark.running {
                true => Manner::Running,
                false => Manner::Plain,
            },
            ..Frame::default()
        };
        let what = match mark.kind {
            'C' | 'c' => What::Call {
                place: place(),
                line: LINE,
                frame,
            },
            'R' | 'r' => What::Return {
                place: place(),
                line: LINE,
                frame,
                duration_ns: None,
            },
            _ => continue,
        };
        let mut event = Event {
            ts: mark.ts,
            pid: 7,
            tid: mark.tid,
            interpreter: None,
            what,
        };
        if let Some(step) = pairing.follow(&mut event) {
            take(at, &step);
        }
    }
    pairing
}

pub(crate) fn in_pystap(marks: &[Mark]) -> Table {
    let mut functions = Functions::new();
    let pairing = paired(marks, |_, step| functions.take(step));
    let last = marks.last().map_or(0, |mark| mark.ts);
    functions.take_open(&pairing, last);
    let table = functions.rows().iter().map(|row| {
        let durations = &row.durations;
        let mut buckets = vec![0; 65];
        for bucket in durations.buckets() {
            buckets[(u64::BITS - bucket.from.leading_zeros()) as usize] = bucket.count;
        }
        let sums = Sums {
            calls: row.calls,
            unmatched: row.unmatched,
            self_ns: row.self_ns,
            cumulative_ns: row.cumulative_ns,
            timed: row.timed,
            timed_ns: row.timed_ns,
            exact: (
                durations.sum(),
                durations.min().unwrap_or(0),
                durations.max().unwrap_or(0),
            ),
            buckets: trimmed(buckets),
        };
        (row.place.function.text.parse().expect("a number"), sums)
    });
    (table.collect(), pairing.unpaired().total())
}

/// Pseudo-random numbers that are the same every time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What threads do.
pub(crate) fn program(seed: u64) -> Vec<Mark> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut marks = Vec::new();
    let mut stacks: Vec<Vec<u64>> = vec![Vec::new(); 3];
    let mut ts = 1_000_000;
    let length = 30 + dice.roll(300);
    for _ in 0..length {
        ts += 1 + dice.roll(5_000);
        let thread = dice.roll(3) as usize;
        let tid = 100 + thread as u32;
        let depth = stacks[thread].len() as u64;
        let mut mark = |kind, function| {
            marks.push(Mark {
                kind,
                ts,
                tid,
                function,
                ..Mark::default()
            });
        };
        match dice.roll(20) {
            // Sums may be requested at any time, which changes nothing.
            0 => mark('S', 0),
            // Started before tracing began.
            1 if depth == 0 => mark('R', 10 + dice.roll(3)),
            2..=10 if depth < 12 => {
                let function = 2 + dice.roll(4);
                mark('C', function);
                stacks[thread].push(function);
            }
            _ => {
                if let Some(function) = stacks[thread].pop() {
                    mark('R', function);
                }
            }
        }
    }
    marks
}

/// What threads do as the agent reports it: contexts alternate at any moment, and what is outside them is a context
/// too.
struct Told {
    /// Contexts per thread.
    contexts: u64,
    /// Whether the first of them is what is outside all others.
    outside: bool,
    /// Number of calls whose frames were running before tracing began.
    running: u64,
    /// One in this many returns is not seen.
    unseen: u64,
}

/// A program of plain threads, some of whose calls were running before.
pub(crate) fn threads(seed: u64) -> Vec<Mark> {
    let told = Told {
        contexts: 1,
        outside: true,
        running: seed % 4,
        unseen: 0,
    };
    told.program(seed)
}

/// One in whose threads so many contexts take turns.
pub(crate) fn taking_turns(seed: u64, contexts: u64) -> Vec<Mark> {
    let told = Told {
        contexts,
        outside: true,
        running: seed % 6,
        unseen: 0,
    };
    told.program(seed)
}

/// A thread whose hub, a greenlet, is heard of before what was running outside of it, which ends: then nothing runs.
pub(crate) fn left_behind() -> Vec<Mark> {
    let mark = |kind, ts, function, context, running| Mark {
        kind,
        ts,
        tid: 100,
        function,
        context,
        running,
    };
    vec![
        mark('c', 1_000_010, 2, 1, true),
        mark('c', 1_000_020, 3, 1, false),
        mark('c', 1_000_030, 4, 0, true),
        mark('c', 1_000_040, 5, 0, false),
        mark('r', 1_000_050, 5, 0, false),
        mark('r', 1_000_060, 4, 0, false),
        mark('S', 1_009_000, 0, 0, false),
    ]
}

/// One of whose returns some were not seen. Outside contexts, pairing would have to guess which.
pub(crate) fn partly_unseen(seed: u64) -> Vec<Mark> {
    let told = Told {
        contexts: 3,
        outside: false,
        running: seed % 3,
        unseen: 12,
    };
    told.program(seed)
}

impl Told {
    fn program(&self, seed: u64) -> Vec<Mark> {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut marks = Vec::new();
        let mut ts = 1_000_000;
        // Contexts of a process are identified by their numbers, whichever their thread.
        let mut stacks = vec![Vec::new(); 3 * self.contexts as usize];
        let mut now = [0; 3];
        for _ in 0..self.running {
            ts += 1 + dice.roll(100);
            let (thread, function) = (dice.roll(3), 2 + dice.roll(5));
            let stack = thread * self.contexts + dice.roll(self.contexts);
            stacks[stack as usize].push(function);
            marks.push(self.mark('c', ts, stack, function, true));
        }
        for _ in 0..50 + dice.roll(300) {
            ts += 1 + dice.roll(5_000);
            let thread = dice.roll(3);
            if dice.roll(4) == 0 {
                now[thread as usize] = dice.roll(self.contexts);
            }
            let at = thread * self.contexts + now[thread as usize];
            let stack = &mut stacks[at as usize];
            match dice.roll(20) {
                0 => marks.push(self.mark('S', ts, at, 0, false)),
                // Started before tracing began, and not announced.
                1 if stack.is_empty() => marks.push(self.mark('r', ts, at, 8, false)),
                2..=10 if stack.len() < 12 => {
                    let function = 2 + dice.roll(5);
                    stack.push(function);
                    marks.push(self.mark('c', ts, at, function, false));
                }
                _ => {
                    let seen = self.unseen == 0 || dice.roll(self.unseen) > 0;
                    if let Some(function) = stack.pop().filter(|_| seen) {
                        marks.push(self.mark('r', ts, at, function, false));
                    }
                }
            }
        }
        marks
    }

    fn mark(&self, kind: char, ts: u64, stack: u64, function: u64, running: bool) -> Mark {
        let (thread, context) = (stack / self.contexts, stack % self.contexts);
        Mark {
            kind,
            ts,
            tid: 100 + thread as u32,
            function,
            context: match self.outside && context == 0 {
                true => 0,
                false => 1 + stack,
            },
            running,
        }
    }
}
