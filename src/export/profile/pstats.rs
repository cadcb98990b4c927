//! What Python's own `pstats` loads: the statistics that `cProfile` writes, with callers, in the marshal format.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::overhead::{Intervals, Overhead};
use crate::analysis::pairing::{FinishedCall, Step};
use crate::event::{Manner, Place, Session, Text, What};
use crate::export::{End, Sink};
use crate::view;

/// Functions, and pairs of caller and called, that are kept: some 60 MB. Others are counted in one function called
/// [`OTHER`].
const MOST_FUNCTIONS: usize = 1 << 17;
const MOST_EDGES: usize = 1 << 19;
const OTHER: &str = "[other]";

/// Collects statistics by function and by caller, all processes together: the format has no room for them.
#[derive(Debug)]
pub struct Pstats<W> {
    output: W,
    functions: BTreeMap<FunctionKey, Function>,
    /// By callee and caller.
    edges: HashMap<(u64, u64), Numbers, KeyBuilder>,
    last_ts: u64,
    /// Everything for which there was no room.
    other: Option<(FunctionKey, Arc<Place>)>,
    /// Calls that are there as a whole or without their caller.
    others: u64,
    raw_times: bool,
    overhead: Overhead,
    /// What is to be said of that.
    tracer: Option<String>,
}

#[derive(Debug)]
struct Function {
    place: Arc<Place>,
    line: i32,
    numbers: Numbers,
}

/// Calls, those of them that are no recursion, and times in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    calls: u64,
    primitive: u64,
    own: Measured,
    cumulative: Measured,
}

/// A time, and the intervals between events that it is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    ns: u64,
    intervals: Intervals,
}

impl Measured {
    fn add(&mut self, ns: u64, intervals: Intervals) {
        self.ns = self.ns.saturating_add(ns);
        self.intervals += intervals;
    }
}

impl Numbers {
    fn add(&mut self, own: (u64, Intervals), cumulative: (u64, Intervals), primitive: bool) {
        self.calls += 1;
        self.primitive += u64::from(primitive);
        self.own.add(own.0, own.1);
        self.cumulative.add(cumulative.0, cumulative.1);
    }

    fn left(&mut self, left: &FinishedCall) {
        let own = (left.self_ns, left.self_intervals);
        let cumulative = (left.cumulative_ns, left.cumulative_intervals);
        self.add(own, cumulative, left.outermost);
    }
}

impl<W: Write> Pstats<W> {
    /// Nothing yet, to be written to `output`; with times as they were measured where `raw_times` says so.
    pub fn new(output: W, raw_times: bool) -> Pstats<W> {
        Pstats {
            output,
            functions: BTreeMap::new(),
            edges: HashMap::default(),
            last_ts: 0,
            other: None,
            others: 0,
            raw_times,
            overhead: Overhead::default(),
            tracer: None,
        }
    }

    /// The function itself, if there is room for it, or else the one that stands for all others.
    fn function(&mut self, key: FunctionKey, place: &Arc<Place>) -> (FunctionKey, &mut Function) {
        let (mut key, mut place) = (key, Arc::clone(place));
        if self.functions.len() >= MOST_FUNCTIONS && !self.functions.contains_key(&key) {
            (key, place) = self.other();
        }
        let function = self.functions.entry(key).or_insert_with(|| Function {
            place,
            line: i32::MAX,
            numbers: Numbers::default(),
        });
        (key, function)
    }

    fn other(&mut self) -> (FunctionKey, Arc<Place>) {
        let (key, place) = self.other.get_or_insert_with(|| {
            let text = |text: &str| Text {
                text: text.to_owned(),
                ..Text::default()
            };
            let place = Arc::new(Place {
                file: text("~"),
                function: text(OTHER),
                qualname: None,
                group: None,
            });
            (FunctionKey::of(&place), place)
        });
        (*key, Arc::clone(place))
    }

    fn left(
        &mut self,
        key: FunctionKey,
        place: &Arc<Place>,
        caller: Option<(FunctionKey, &Arc<Place>)>,
        left: &FinishedCall,
    ) {
        let (called, function) = self.function(key, place);
        function.numbers.left(left);
        let mut found_no_room = called != key;
        if let Some((caller, place)) = caller {
            let (mut caller, _) = self.function(caller, place);
            let full = self.edges.len() >= MOST_EDGES;
            if full && !self.edges.contains_key(&(called.number(), caller.number())) {
                found_no_room = true;
                let (other, place) = self.other();
                (caller, _) = self.function(other, &place);
            }
            // One more for each function that is called at most.
            let edge = self
                .edges
                .entry((called.number(), caller.number()))
                .or_default();
            edge.left(left);
        }
        self.others += u64::from(found_no_room);
    }
}

impl<W: Write> Sink for Pstats<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.overhead = Overhead::of(session, self.raw_times);
        self.tracer = view::overhead_said(self.overhead, session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        self.last_ts = self.last_ts.max(event.ts);
        for gone in step.given_up {
            let (_, function) = self.function(gone.key, &gone.place);
            let own = (gone.self_ns, gone.self_intervals);
            let cumulative = (gone.cumulative_ns, gone.cumulative_intervals);
            function.numbers.add(own, cumulative, false);
        }
        let Some(key) = step.key else {
            return Ok(());
        };
        match &event.what {
            What::Call { place, line, frame }
                if step.entered.is_some() && *line > 0 && frame.manner != Manner::Running =>
            {
                let (_, function) = self.function(key, place);
                function.line = function.line.min(*line);
            }
            What::Return { place, line, .. } => {
                if let Some(left) = &step.finished {
                    self.left(key, place, step.caller, left);
                    if left.measured {
                        let (_, function) = self.function(key, place);
                        function.line = function.line.min(*line);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        for open in end.pairing.open() {
            let so_far = match open.outermost {
                true => (self.last_ts.saturating_sub(open.since), open.intervals),
                false => (0, Intervals::NONE),
            };
            let (_, function) = self.function(open.key, open.place);
            let own = (open.self_ns, open.self_intervals);
            function.numbers.add(own, so_far, open.outermost);
        }
        let names: HashMap<u64, &Function, KeyBuilder> = self
            .functions
            .iter()
            .map(|(key, function)| (key.number(), function))
            .collect();
        let mut edges: Vec<((u64, u64), Numbers)> =
            std::mem::take(&mut self.edges).into_iter().collect();
        edges.sort_unstable_by_key(|(between, _)| *between);
        let mut marshal = Marshal(Vec::new());
        let functions = self.functions.values();
        let (own_ns, intervals) = functions.fold((0, Intervals::NONE), |(ns, intervals), it| {
            let own = it.numbers.own;
            (own.ns.saturating_add(ns), intervals + own.intervals)
        });
        let overhead = self.overhead.bounded(own_ns, intervals);
        marshal.dictionary();
        for (key, function) in &self.functions {
            marshal.function(function);
            marshal.tuple(5);
            marshal.numbers(
                [function.numbers.primitive, function.numbers.calls],
                &function.numbers,
                overhead,
            );
            marshal.dictionary();
            let from = edges.partition_point(|((called, _), _)| *called < key.number());
            let callers = edges.iter().skip(from);
            for ((_, caller), numbers) in
                callers.take_while(|((called, _), _)| *called == key.number())
            {
                if let Some(caller) = names.get(caller) {
                    marshal.function(caller);
                    marshal.tuple(4);
                    // The other way round than above: that is how cProfile has it.
                    marshal.numbers([numbers.calls, numbers.primitive], numbers, overhead);
                }
            }
            marshal.end();
            if marshal.0.len() >= 1 << 16 {
                self.output.write_all(&marshal.0)?;
                marshal.0.clear();
            }
        }
        marshal.end();
        self.output.write_all(&marshal.0)?;
        let others = (self.others > 0).then(|| {
            format!(
                "there are more than {MOST_FUNCTIONS} functions or {MOST_EDGES} pairs of caller and called: {} calls are \
                 counted in whole or in part as the function {OTHER}; record a shorter time, or fewer functions \
                 (--function, --module)",
                self.others
            )
        });
        let tracer = view::overhead_taken(overhead, None).or(self.tracer.take());
        let said: Vec<String> = others.into_iter().chain(tracer).collect();
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }
}

/// The few types of Python's marshal format that are needed, in the form that every Python 3 reads.
struct Marshal(Vec<u8>);

impl Marshal {
    fn dictionary(&mut self) {
        self.0.push(b'{');
    }

    /// Ends a dictionary.
    fn end(&mut self) {
        self.0.push(b'0');
    }

    fn tuple(&mut self, length: u32) {
        self.0.push(b'(');
        self.0.extend_from_slice(&length.to_le_bytes());
    }

    /// The key of a function in pstats: file, line, name.
    fn function(&mut self, function: &Function) {
        self.tuple(3);
        self.string(&function.place.file.to_string());
        let line = function.line;
        self.integer(if line == i32::MAX {
            0
        } else {
            line.max(0) as u64
        });
        self.string(&function.place.name().to_string());
    }

    fn numbers(&mut self, calls: [u64; 2], numbers: &Numbers, overhead: Overhead) {
        for count in calls {
            self.integer(count);
        }
        for Measured { ns, intervals } in [numbers.own, numbers.cumulative] {
            self.0.push(b'g');
            let seconds = overhead.net(ns, intervals) as f64 / 1e9;
            self.0.extend_from_slice(&seconds.to_le_bytes());
        }
    }

    fn string(&mut self, text: &str) {
        self.0.push(b'u');
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn integer(&mut self, number: u64) {
        if let Ok(small) = i32::try_from(number) {
            self.0.push(b'i');
            self.0.extend_from_slice(&small.to_le_bytes());
            return;
        }
        // Digits of fifteen bits, the lowest first.
        let mut digits = Vec::new();
        let mut rest = number;
        while rest > 0 {
            digits.push((rest & 0x7fff) as u16);
            rest >>= 15;
        }
        self.0.push(b'l');
        self.0
            .extend_from_slice(&(digits.len() as u32).to_le_bytes());
        for digit in digits {
            self.0.extend_from_slice(&digit.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_digits_of_fifteen_bits() {
        let mut marshal = Marshal(Vec::new());
        marshal.integer(7);
        marshal.integer(1 << 31);
        assert_eq!(marshal.0, b"i\x07\0\0\0l\x03\0\0\0\0\0\0\0\x02\0");
    }
}
