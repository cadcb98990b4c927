//! What an event takes of the thread in which it happens: who knows it, and how it is found in the times of events that come one after
//! the other on code that does nothing.

use std::num::NonZeroU64;

use crossbeam_channel::Receiver;

/// What an event takes of the thread in which it happens, in nanoseconds.
#[derive(Debug, Clone)]
pub enum EventCost {
    /// Nobody has measured it.
    Unknown,
    /// So much.
    Known(NonZeroU64),
    /// What comes here first, when the first target begins to tell; nothing where it could not be measured there.
    Awaited(Receiver<Option<NonZeroU64>>),
}

/// Intervals of a batch.
const BATCH: usize = 16;
/// Batches of which something is said.
const FEWEST: usize = 6;

/// The time between two of these moments, which are in their order: of batches of them the median each, and of these the lower
/// quartile. Whatever else a processor does in the meantime only makes intervals longer, some of them or all of a while, and does
/// so whether events are told or not; but what is fastest of all is not what an event usually takes. `None` where there
/// are too few.
pub(super) fn between(times: &[u64]) -> Option<u64> {
    let intervals = times.windows(2).map(|it| it[1].saturating_sub(it[0]));
    let mut intervals: Vec<u64> = intervals.collect();
    let median = |batch: &mut [u64]| *batch.select_nth_unstable(BATCH / 2).1;
    let mut medians: Vec<u64> = intervals.chunks_exact_mut(BATCH).map(median).collect();
    if medians.len() < FEWEST {
        return None;
    }
    let quarter = medians.len() / 4;
    Some(*medians.select_nth_unstable(quarter).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments that are so far apart.
    fn moments(intervals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let sums = intervals.into_iter().scan(1_000, |at, interval| {
            *at += interval;
            Some(*at)
        });
        std::iter::once(1_000).chain(sums).collect()
    }

    #[test]
    fn what_comes_between_some_of_them_makes_nothing_longer() {
        let calm = |at: u64| if at % 16 == 3 { 4_000_000 } else { 1_500 };
        assert_eq!(between(&moments((0..200).map(calm))), Some(1_500));
    }

    #[test]
    fn a_while_in_which_all_take_longer_does_not_count() {
        let slow = |at: u64| {
            if (32..128).contains(&at) {
                1_500
            } else {
                2_300
            }
        };
        assert_eq!(between(&moments((0..200).map(slow))), Some(1_500));
    }

    #[test]
    fn a_single_short_one_does_not_count() {
        let odd = |at: u64| if at == 70 { 3 } else { 1_500 };
        assert_eq!(between(&moments((0..200).map(odd))), Some(1_500));
    }

    #[test]
    fn a_few_say_nothing() {
        let few = BATCH as u64 * FEWEST as u64 - 1;
        assert_eq!(between(&moments((0..few).map(|_| 5))), None);
        assert_eq!(between(&moments((0..=few).map(|_| 5))), Some(5));
        assert_eq!(between(&[]), None);
    }
}
