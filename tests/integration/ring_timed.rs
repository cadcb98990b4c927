//! Calls that the agent measures in the process (the crate pystap-ring, `timed`), fed the same marks as pystap's own pairing: each
//! return has to have the same duration.

use pystap::event::What;
use pystap_ring::Place;
use pystap_ring::timed::{Ended, TimedCalls};

use crate::sums::{Mark, paired, partly_unseen, program, taking_turns, threads};

/// The durations of returns, by the numbers of their marks; `None` where nobody knows.
type Durations = Vec<(usize, Option<u64>)>;

fn place(mark: &Mark) -> Place {
    Place {
        thread: mark.tid as usize,
        context: mark.context,
    }
}

/// As the agent measures them.
fn by_agent(marks: &[Mark]) -> Durations {
    let mut calls = TimedCalls::new().expect("memory");
    let mut all = Vec::new();
    for (at, mark) in marks.iter().enumerate() {
        let function = mark.function as usize;
        match mark.kind {
            'C' | 'c' if mark.running => assert!(calls.was_running(place(mark), function)),
            'C' | 'c' => assert!(calls.entered(place(mark), function, mark.ts)),
            'R' | 'r' => match calls.left(place(mark), function) {
                Ended::Began(began) => all.push((at, Some(mark.ts - began))),
                Ended::Unknown => all.push((at, None)),
                Ended::HadNoRoom => panic!("there is room"),
            },
            _ => {}
        }
    }
    all
}

/// As pystap pairs them.
fn by_pystap(marks: &[Mark]) -> Durations {
    let mut all = Vec::new();
    paired(marks, |at, step| {
        if let What::Return { duration_ns, .. } = step.event.what {
            all.push((at, duration_ns));
        }
    });
    all
}

fn same(marks: &[Mark], what: &str) {
    let (ours, theirs) = (by_agent(marks), by_pystap(marks));
    assert_eq!(ours, theirs, "{what}");
}

#[test]
fn plain_programs_are_measured_alike() {
    for seed in 0..600 {
        same(&program(seed), &format!("seed {seed}"));
    }
}

#[test]
fn what_was_running_before_has_no_duration_and_all_else_the_same() {
    for seed in 0..200 {
        same(&threads(seed), &format!("seed {seed}"));
    }
}

#[test]
fn contexts_that_take_turns_are_measured_alike_to_the_nanosecond() {
    for seed in 0..300 {
        for contexts in [2, 4] {
            let what = format!("seed {seed}, {contexts} contexts");
            same(&taking_turns(seed, contexts), &what);
        }
    }
}

#[test]
fn contexts_of_which_returns_were_not_seen_are_measured_alike() {
    for seed in 0..300 {
        same(&partly_unseen(seed), &format!("seed {seed}"));
    }
}

const OUTSIDE: Place = Place {
    thread: 100,
    context: 0,
};

#[test]
fn calls_beyond_the_bounds_have_no_duration_and_leave_those_within_as_they_are() {
    let mut calls = TimedCalls::new().expect("memory");
    let deep = 40_000_u64;
    let room = (0..deep)
        .filter(|at| calls.entered(OUTSIDE, 3, *at))
        .count();
    assert_eq!(room, 1 << 15);
    let ended: Vec<Ended> = (0..deep).map(|_| calls.left(OUTSIDE, 3)).collect();
    let (without, within) = ended.split_at(deep as usize - room);
    assert!(without.iter().all(|it| *it == Ended::HadNoRoom));
    let began = (0..room as u64).rev().map(Ended::Began);
    assert!(within.iter().copied().eq(began));
    assert_eq!(calls.left(OUTSIDE, 3), Ended::Unknown);

    // Threads without end, each with a call that does not return: those that find no place are told so.
    let thread = |thread| Place { thread, context: 0 };
    let room: Vec<usize> = (1..=5_000)
        .filter(|it| calls.entered(thread(*it), 2, 10))
        .collect();
    assert!((1_500..=2_048).contains(&room.len()), "{}", room.len());
    for it in 1..=5_000 {
        let expected = match room.contains(&it) {
            true => Ended::Began(10),
            false => Ended::Unknown,
        };
        assert_eq!(calls.left(thread(it), 2), expected);
    }
    // Their places are free for others.
    assert!(calls.entered(thread(6_000), 2, 20));
    assert_eq!(calls.left(thread(6_000), 2), Ended::Began(20));
}

#[test]
fn calls_whose_returns_are_not_seen_take_no_room_for_ever() {
    let mut calls = TimedCalls::new().expect("memory");
    for round in 1..=200_000 {
        assert!(calls.entered(OUTSIDE, 2, round));
        assert!(calls.entered(OUTSIDE, 3, round + 1));
        assert_eq!(calls.left(OUTSIDE, 2), Ended::Began(round));
    }
}
