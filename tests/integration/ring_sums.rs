//! The sums that the agent makes in the process (the crate pystap-ring, `sums`), fed the same calls as pystap's own analysis: the
//! results must be equal.

use std::collections::BTreeMap;

use pystap_ring::Place;
use pystap_ring::new_memory_with;
use pystap_ring::sums::{COLLECTIONS, Call, FIRST, NO_ROOM, Scale, Summed, SumsReader, bytes};

use crate::sums::{
    Dice, Mark, Sums, in_pystap, left_behind, partly_unseen, program, taking_turns, threads,
    trimmed,
};

/// Words of the ring before the table.
const WORDS: u64 = 512;

/// Both sides of a table.
struct Both {
    agent: pystap_ring::sums::Sums,
    reader: SumsReader,
    /// The rows of functions.
    rows: BTreeMap<u64, u32>,
}

impl Both {
    fn new(rows: u32) -> Both {
        let bytes = bytes(rows).expect("a table");
        let memory = new_memory_with(WORDS, bytes).expect("memory");
        let mapped = || pystap_ring::sums::Table::new(&memory, WORDS, rows).expect("mapped");
        Both {
            agent: pystap_ring::sums::Sums::new(mapped()).expect("memory"),
            reader: SumsReader::new(mapped()),
            rows: BTreeMap::new(),
        }
    }

    /// The row of a function, as the agent finds it.
    fn row(&mut self, function: u64, now: u64) -> u32 {
        if let Some(row) = self.rows.get(&function) {
            return *row;
        }
        let Some(row) = self.agent.next_row() else {
            return NO_ROOM;
        };
        self.agent.take_row(now);
        self.rows.insert(function, row);
        row
    }

    fn take(&mut self, mark: &Mark) {
        let place = Place {
            thread: mark.tid as usize,
            context: mark.context,
        };
        let function = mark.function as usize;
        match mark.kind {
            'C' | 'c' => {
                let call = Call {
                    function,
                    row: self.row(mark.function, mark.ts),
                    was_running: mark.running,
                };
                self.agent.entered(place, call, mark.ts);
            }
            'R' | 'r' if !self.agent.left(place, function, mark.ts) => {
                let row = self.row(mark.function, mark.ts);
                self.agent.unmatched(row);
            }
            _ => {}
        }
    }

    fn all(&self, now: u64) -> BTreeMap<u64, Sums> {
        let rows = self.rows.iter().map(|(function, row)| {
            let summed = self.reader.row(*row, now).expect("nobody writes");
            (*function, as_sums(summed))
        });
        rows.collect()
    }
}

fn as_sums(summed: Summed) -> Sums {
    Sums {
        calls: summed.calls,
        unmatched: summed.unmatched,
        self_ns: summed.self_ns,
        cumulative_ns: summed.cumulative_ns,
        timed: summed.timed,
        timed_ns: summed.timed_ns,
        exact: (summed.timed_ns, summed.shortest, summed.longest),
        buckets: trimmed(summed.buckets.to_vec()),
    }
}

/// Whether both say the same at the end and on the way, although nobody who is asked on the way does anything for it.
fn same(marks: &[Mark], what: &str) {
    let mut both = Both::new(64);
    for (at, mark) in marks.iter().enumerate() {
        both.take(mark);
        if at + 1 != marks.len() && mark.kind != 'S' {
            continue;
        }
        let (ours, theirs) = (both.all(mark.ts), in_pystap(&marks[..=at]));
        let unpaired = both.reader.unpaired();
        assert_eq!(unpaired, theirs.1, "{what}, mark {at}: unpaired");
        for (function, sums) in &theirs.0 {
            let own = ours.get(function);
            assert_eq!(own, Some(sums), "{what}, mark {at}: function {function}");
        }
        assert_eq!(ours.len(), theirs.0.len(), "{what}, mark {at}");
    }
    assert_eq!(both.reader.lost(), 0, "{what}");
}

#[test]
fn plain_programs_are_summed_up_alike() {
    for seed in 0..600 {
        same(&program(seed), &format!("seed {seed}"));
    }
}

#[test]
fn what_was_running_before_is_summed_up_alike() {
    for seed in 0..200 {
        same(&threads(seed), &format!("seed {seed}"));
    }
}

#[test]
fn contexts_that_take_turns_are_summed_up_alike_to_the_nanosecond() {
    for seed in 0..300 {
        for contexts in [2, 4] {
            let what = format!("seed {seed}, {contexts} contexts");
            same(&taking_turns(seed, contexts), &what);
        }
    }
}

#[test]
fn what_a_thread_leaves_open_in_a_greenlet_does_not_run_on() {
    same(&left_behind(), "left behind");
    let mut both = Both::new(64);
    left_behind().iter().for_each(|mark| both.take(mark));
    let own = |(_, sums): (u64, Sums)| sums.self_ns;
    assert_eq!(both.all(1_009_000).into_iter().map(own).sum::<u64>(), 50);
}

#[test]
fn contexts_of_which_returns_were_not_seen_are_summed_up_alike() {
    for seed in 0..300 {
        same(&partly_unseen(seed), &format!("seed {seed}"));
    }
}

fn mark(kind: char, ts: u64, function: u64) -> Mark {
    Mark {
        kind,
        ts,
        tid: 100,
        function,
        ..Mark::default()
    }
}

#[test]
fn after_a_new_beginning_only_what_follows_counts_and_what_is_open() {
    let mut both = Both::new(64);
    both.take(&mark('C', 1_000, 2));
    both.take(&mark('C', 2_000, 3));
    both.take(&mark('R', 3_000, 3));
    both.reader.begin_anew();
    // A program that does nothing has nothing to do for it, either.
    let all = both.all(4_000);
    assert_eq!((all[&3].calls, all[&3].self_ns, all[&3].timed), (0, 0, 0));
    assert_eq!((all[&2].calls, all[&2].cumulative_ns), (0, 3_000));
    assert_eq!(all[&2].self_ns, 2_000);
    both.take(&mark('C', 5_000, 3));
    both.take(&mark('R', 5_100, 3));
    both.take(&mark('R', 6_000, 2));
    let all = both.all(9_000);
    assert_eq!((all[&3].calls, all[&3].self_ns), (1, 100));
    assert_eq!(all[&3].exact, (100, 100, 100));
    // As in pystap: the call was open, and counts in full when it ends.
    let outer = &all[&2];
    assert_eq!(
        (outer.calls, outer.cumulative_ns, outer.exact.0),
        (0, 5_000, 5_000)
    );
    assert_eq!(outer.self_ns, 3_900);
}

#[test]
fn functions_without_a_row_are_in_one_row_for_all_and_paired_all_the_same() {
    let mut both = Both::new(FIRST + 2);
    let mut ts = 0;
    for function in 2..8 {
        both.take(&mark('C', ts, function));
        ts += 10;
    }
    for function in (2..8).rev() {
        both.take(&mark('R', ts, function));
        ts += 10;
    }
    let rest = both.reader.row(NO_ROOM, ts).expect("nobody writes");
    assert_eq!((rest.calls, rest.timed, rest.unmatched), (4, 4, 0));
    let all = both.all(ts);
    assert_eq!(all.len(), 2);
    let own: u64 = all.values().map(|sums| sums.self_ns).sum();
    assert_eq!(own + rest.self_ns, ts - 10, "no time is counted twice");
    // Each of them is outermost.
    assert_eq!(rest.cumulative_ns, 70 + 50 + 30 + 10);
}

#[test]
fn calls_beyond_the_bounds_are_counted_as_lost_and_leave_those_within_as_they_are() {
    let mut both = Both::new(64);
    let deep = 40_000;
    let mut ts = 1;
    both.take(&mark('C', ts, 2));
    for _ in 0..deep {
        ts += 1;
        both.take(&mark('C', ts, 3));
    }
    for _ in 0..deep {
        ts += 1;
        both.take(&mark('R', ts, 3));
    }
    ts += 1;
    both.take(&mark('R', ts, 2));
    let lost = both.reader.lost();
    assert_eq!(lost, deep + 1 - (1 << 15));
    let all = both.all(ts);
    assert_eq!((all[&3].calls, all[&3].timed), (deep, deep - lost));
    assert_eq!((all[&2].timed, all[&2].cumulative_ns), (1, ts - 1));
    assert_eq!(all[&3].self_ns + all[&2].self_ns, ts - 1);
    assert_eq!(both.reader.unpaired(), 0);

    // Threads without end, each with a call that does not return.
    let mut both = Both::new(64);
    for tid in 1..=5_000 {
        let thread = |kind, ts| Mark {
            tid,
            ..mark(kind, ts, 2)
        };
        both.take(&thread('C', 10));
        both.take(&thread('C', 20));
        both.take(&thread('R', 30));
    }
    let all = both.all(30);
    assert_eq!(all[&2].calls, 10_000);
    let room = 5_000 - both.reader.lost() / 2;
    assert!((1_500..=2_048).contains(&room), "{room}");
    assert_eq!(all[&2].timed + all[&2].unmatched, 5_000);
}

#[test]
fn threads_and_contexts_that_end_leave_their_places_to_others() {
    let mut both = Both::new(64);
    for round in 1..=100_000 {
        let inside = |kind, ts| Mark {
            tid: 1 + (round % 5_000) as u32,
            context: round,
            ..mark(kind, ts, 2 + round % 3)
        };
        both.take(&inside('C', round * 10));
        both.take(&inside('R', round * 10 + 3));
    }
    let all = both.all(2_000_000);
    let sum = |number: fn(&Sums) -> u64| all.values().map(number).sum::<u64>();
    assert_eq!(sum(|it| it.timed), 100_000);
    assert_eq!(sum(|it| it.self_ns), 300_000);
    assert_eq!((both.reader.lost(), both.reader.unpaired()), (0, 0));
}

#[test]
fn collections_are_in_a_row_of_their_own() {
    let mut both = Both::new(64);
    both.agent.collection_begins(100, 1_000);
    both.agent.collection_ends(100, 1_500);
    // Begun before anybody looked.
    both.agent.collection_ends(100, 1_700);
    let row = both.reader.row(COLLECTIONS, 2_000).expect("nobody writes");
    assert_eq!((row.calls, row.timed, row.timed_ns), (2, 1, 500));
}

#[test]
fn times_of_a_counter_are_scaled_and_not_their_differences() {
    let scale = Scale::of_rate(1.0 / 3.0);
    let sum: u64 = (0..1_000_000_u64)
        .map(|at| scale.nanoseconds((at + 1) * 10) - scale.nanoseconds(at * 10))
        .sum();
    assert!(sum.abs_diff(3_333_333) <= 1, "{sum}");
    let time = 1_234_567_890_123_456_789;
    assert_eq!(Scale::NANOSECONDS.nanoseconds(time), time);
    assert_eq!(Scale::of_multiplier(scale.multiplier()), scale);
    for rate in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        let _ = Scale::of_rate(rate).nanoseconds(u64::MAX);
    }
}

/// A reader that looks all the time sees no row of which a part is older than the other.
#[test]
fn a_row_that_changes_is_read_as_it_was_at_one_moment() {
    let mut both = Both::new(64);
    let reader = std::mem::replace(&mut both.reader, Both::new(64).reader);
    both.take(&mark('C', 0, 2));
    let writing = std::thread::spawn(move || {
        let mut dice = Dice(7);
        let mut ts = 0;
        for _ in 0..300_000 {
            ts += dice.roll(9);
            both.take(&mark('C', ts, 3));
            ts += 10;
            both.take(&mark('R', ts, 3));
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        // Nothing happens at this time: what is open is not in what is read.
        let Some(row) = reader.row(FIRST + 1, 0) else {
            continue;
        };
        assert!(row.calls >= last);
        last = row.calls;
        // Of the first line: each call that has ended had ten nanoseconds of its own, and one may run.
        assert_eq!(row.self_ns % 10, 0, "{row:?}");
        assert_eq!(row.self_ns, row.cumulative_ns, "{row:?}");
        let ended = row.self_ns / 10;
        assert!(ended == row.calls || ended + 1 == row.calls, "{row:?}");
        assert!(row.timed >= ended, "{row:?}");
    }
    writing.join().expect("it ends well");
    let row = reader.row(FIRST + 1, 0).expect("nobody writes");
    assert_eq!((row.calls, row.timed), (300_000, 300_000));
}
