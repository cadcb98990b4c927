//! What a session says of a function, held against what the function says of itself.

use std::collections::BTreeMap;

use pystap::event::What;

use crate::tracing::Traced;

/// How a construct fares with an interpreter, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    /// Every stay has its call, its return and its duration.
    Exact,
    /// Every stay has its call and its return; durations that are in doubt are not there.
    LeftOut,
    /// Some stays have a return only.
    ReturnOnly,
    /// Some stays have neither.
    NotSeen,
    /// A number is there and is not true.
    Wrong,
}

impl Cell {
    pub(super) fn words(self) -> &'static str {
        match self {
            Cell::Exact => "exact",
            Cell::LeftOut => "left out",
            Cell::ReturnOnly => "return only",
            Cell::NotSeen => "not seen",
            Cell::Wrong => "wrong",
        }
    }
}

/// A function's events: calls, and the durations of its returns in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Stays {
    pub(super) calls: u64,
    pub(super) returns: Vec<Option<u64>>,
}

impl Stays {
    pub(super) const NONE: Stays = Stays {
        calls: 0,
        returns: Vec::new(),
    };

    /// Returns with a duration.
    pub(super) fn timed(&self) -> u64 {
        self.returns.iter().flatten().count() as u64
    }

    pub(super) fn slowest(&self) -> Option<u64> {
        self.returns.iter().flatten().copied().max()
    }
}

/// The functions of a program, by name. `creations` are calls that only say that a generator was made: as many for each
/// function, and they are left out.
pub(super) fn stays(
    traced: &Traced,
    program: &str,
    creations: &BTreeMap<String, u64>,
) -> BTreeMap<String, Stays> {
    let mut functions: BTreeMap<String, Stays> = BTreeMap::new();
    for event in &traced.events {
        let (What::Call { place, .. } | What::Return { place, .. }) = &event.what else {
            continue;
        };
        if place.file.text.rsplit('/').next() != Some(program) {
            continue;
        }
        let stays = functions.entry(place.function.text.clone()).or_default();
        match &event.what {
            What::Return { duration_ns, .. } => stays.returns.push(*duration_ns),
            _ => stays.calls += 1,
        }
    }
    for (function, made) in creations {
        if let Some(stays) = functions.get_mut(function) {
            let calls = stays.calls.checked_sub(*made);
            stays.calls = calls.unwrap_or_else(|| panic!("{made} of {function}: {stays:?}"));
        }
    }
    functions
}

/// Within 5 %, or a millisecond: between a probe and the program's own look at the clock a busy machine does other things.
/// Stays that could be taken for each other differ by three.
fn is_near(seen: u64, truth: u64) -> bool {
    seen.abs_diff(truth) as f64 <= (0.05 * truth as f64).max(1e6)
}

/// Compares. `empty` more stays may be there than the function knows of, which end a generator without running its code.
pub(super) fn judge(seen: &Stays, truth: &[u64], empty: u64) -> Cell {
    let (stays, returns) = (truth.len() as u64, seen.returns.len() as u64);
    if returns > stays + empty || seen.calls > stays + empty {
        return Cell::Wrong;
    }
    let mut to_come = truth.iter();
    for (at, duration) in seen.returns.iter().enumerate() {
        let Some(duration) = *duration else { continue };
        let right = if returns == stays {
            is_near(duration, truth[at])
        } else {
            // Which of them are missing or more is not known, but not the order.
            empty > 0 && is_near(duration, 0) || to_come.any(|truth| is_near(duration, *truth))
        };
        if !right {
            return Cell::Wrong;
        }
    }
    if returns < stays {
        Cell::NotSeen
    } else if seen.calls < stays {
        Cell::ReturnOnly
    } else if seen.timed() < stays {
        Cell::LeftOut
    } else {
        Cell::Exact
    }
}

/// What is seen of the end of generators that are closed or dropped: of each of those that were made, after its start.
pub(super) fn ending(seen: &Stays, starts: u64, made: u64) -> String {
    let calls = seen.calls.checked_sub(starts);
    let returns = (seen.returns.len() as u64).checked_sub(starts);
    match (calls, returns) {
        (Some(calls), Some(returns)) if calls == made && returns == made => "call and return",
        (Some(0), Some(returns)) if returns == made => "return",
        (Some(calls), Some(0)) if calls == made => "call",
        (Some(0), Some(0)) => "nothing",
        other => panic!("{other:?} of {made}: {seen:?}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn seen(calls: u64, returns: &[Option<u64>]) -> Stays {
        Stays {
            calls,
            returns: returns.iter().map(|it| it.map(|ms| ms * MS)).collect(),
        }
    }

    #[test]
    #[ignore = "is about the tables of these tests: run by tests/uprobes/run"]
    fn numbers_are_right_or_not_there_and_everything_else_is_wrong() {
        let truth = [4 * MS, 7 * MS, 10 * MS];
        for (calls, returns, empty, expected) in [
            (3, &[Some(4), Some(7), Some(10)][..], 0, Cell::Exact),
            (3, &[Some(4), None, Some(10)], 0, Cell::LeftOut),
            (2, &[Some(4), None, Some(10)], 0, Cell::ReturnOnly),
            (2, &[Some(4), Some(10)], 0, Cell::NotSeen),
            (0, &[], 0, Cell::NotSeen),
            // Taken for each other.
            (3, &[Some(7), Some(4), Some(10)], 0, Cell::Wrong),
            (2, &[Some(10), Some(4)], 0, Cell::Wrong),
            (4, &[Some(4), Some(7), Some(10), Some(0)], 0, Cell::Wrong),
            (4, &[Some(4), Some(7), Some(10)], 0, Cell::Wrong),
            // Ends of generators.
            (4, &[Some(4), Some(0), Some(7), Some(10)], 1, Cell::Exact),
            (3, &[Some(4), Some(7), Some(10)], 1, Cell::Exact),
            (4, &[Some(4), Some(5), Some(7), Some(10)], 1, Cell::Wrong),
        ] {
            let seen = seen(calls, returns);
            assert_eq!(judge(&seen, &truth, empty), expected, "{seen:?}");
        }
    }
}
