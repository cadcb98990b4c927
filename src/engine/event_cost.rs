//! What an event takes of the thread in which it happens: who knows it, and how it is found in the times of events that come one after
//! the other on code that does nothing.

use std::num::NonZeroU64;
use std::time::Duration;

use crossbeam_channel::Receiver;

/// What an event takes of the thread in which it happens.
#[derive(Debug, Clone)]
pub enum EventCost {
    /// Nobody has measured it.
    Unknown,
    /// So much.
    Known(Cost),
    /// What comes here first, when the first target begins to tell; nothing where it could not be measured there.
    Awaited(Receiver<Option<Cost>>),
}

impl EventCost {
    /// What is known of it when nobody waits longer than this.
    pub fn within(&self, patience: Duration) -> Option<Cost> {
        match self {
            EventCost::Unknown => None,
            EventCost::Known(cost) => Some(*cost),
            EventCost::Awaited(cost) => cost.recv_timeout(patience).ok().flatten(),
        }
    }
}

/// What events cost, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// An event: where calls and returns are told apart, half of what the two cost together.
    pub per_event: NonZeroU64,
    /// What of both lies between their times; `None` where they are not told apart.
    pub within_call: Option<u64>,
}

impl Cost {
    /// The same where everything takes so many times as long.
    pub(super) fn times(self, factor: f64) -> Cost {
        let times = |ns: u64| (ns as f64 * factor).round() as u64;
        Cost {
            per_event: NonZeroU64::new(times(self.per_event.get())).unwrap_or(self.per_event),
            within_call: self.within_call.map(times),
        }
    }
}

/// Intervals of a batch.
const BATCH: usize = 16;
/// Batches of which something is said.
const FEWEST: usize = 6;

/// Batches that have to agree about what is least, to within a quarter of it.
const AGREE: usize = 3;

/// The times between these moments, which are in their order.
pub(super) fn intervals(moments: &[u64]) -> Vec<u64> {
    let intervals = moments.windows(2).map(|it| it[1].saturating_sub(it[0]));
    intervals.collect()
}

/// What something takes usually that took these times, one after the other: of batches of them the middle each, and of these the
/// lower quartile. Whatever else a processor does in the meantime only makes times longer, some of them or all of a while, and
/// does so whether events are told or not; but what is fastest of all is not what an event usually takes. `None` where
/// there are too few.
pub(super) fn usual(times: Vec<u64>) -> Option<u64> {
    let mut middles = middles(times)?;
    let quarter = middles.len() / 4;
    Some(*middles.select_nth_unstable(quarter).1)
}

/// The same of its calmest batches: to be compared with what is known by its fastest, too. `None` also where [as many](AGREE) do not
/// agree: what is calm by chance for a moment says nothing, and too much would be taken out of what is faster still.
pub(super) fn least(times: Vec<u64>) -> Option<u64> {
    let mut middles = middles(times)?;
    middles.sort_unstable();
    let (least, confirmed) = (*middles.first()?, *middles.get(AGREE - 1)?);
    (confirmed - least <= least / 4).then_some(least)
}

/// The middles of batches: the mean of the half of each that is neither the shortest nor the longest. A median would be as coarse
/// as the clock is: there are counters that go on by 10 ns at a time, as much as some of what is measured takes.
fn middles(mut times: Vec<u64>) -> Option<Vec<u64>> {
    let middle = |batch: &mut [u64]| {
        batch.sort_unstable();
        let half = batch.get(BATCH / 4..BATCH * 3 / 4).unwrap_or_default();
        let sum = half.iter().fold(0, |sum, time| sum + u128::from(*time));
        u64::try_from(sum / (BATCH as u128 / 2)).unwrap_or(u64::MAX)
    };
    let middles: Vec<u64> = times.chunks_exact_mut(BATCH).map(middle).collect();
    (middles.len() >= FEWEST).then_some(middles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_between_some_of_them_makes_nothing_longer() {
        let calm = |at: u64| if at % 16 == 3 { 4_000_000 } else { 1_500 };
        let times: Vec<u64> = (0..200).map(calm).collect();
        assert_eq!(usual(times.clone()), Some(1_500));
        assert_eq!(least(times), Some(1_500));
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
        assert_eq!(usual((0..200).map(slow).collect()), Some(1_500));
    }

    #[test]
    fn a_calm_moment_of_some_batches_is_enough_to_know_the_least_and_that_of_fewer_is_not() {
        let slow = |calm: usize| {
            let time = move |at: usize| if at < calm { 120 } else { 230 };
            (0..20 * BATCH).map(time).collect::<Vec<u64>>()
        };
        assert_eq!(usual(slow(AGREE * BATCH)), Some(230));
        assert_eq!(least(slow(AGREE * BATCH)), Some(120));
        assert_eq!(least(slow((AGREE - 1) * BATCH)), None);
        assert_eq!(least(slow(0)), Some(230));
    }

    #[test]
    fn what_is_measured_may_be_shorter_than_what_the_clock_goes_on_by() {
        // 39 ticks of a clock that goes on by 26 at a time: now one step, now two, and batches that are a little out of step.
        let coarse = |at: u64| (at * 39 + at / 16 * 7) / 26 * 26;
        let moments: Vec<u64> = (0..200).map(coarse).collect();
        let least = least(intervals(&moments)).expect("batches agree");
        assert!((36..=42).contains(&least), "{least}");
    }

    #[test]
    fn a_single_short_one_does_not_count() {
        let odd = |at: u64| if at == 70 { 3 } else { 1_500 };
        let times: Vec<u64> = (0..200).map(odd).collect();
        assert_eq!(usual(times.clone()), Some(1_500));
        assert_eq!(least(times), Some(1_500));
    }

    #[test]
    fn a_few_say_nothing() {
        let few = BATCH * FEWEST - 1;
        assert_eq!(usual(vec![5; few]), None);
        assert_eq!(least(vec![5; few]), None);
        assert_eq!(usual(vec![5; few + 1]), Some(5));
        assert_eq!(usual(Vec::new()), None);
    }

    #[test]
    fn moments_are_as_far_apart_as_they_are_and_never_less_than_nothing() {
        assert_eq!(intervals(&[1_000, 1_005, 1_003, 1_010]), [5, 0, 7]);
        assert!(intervals(&[7]).is_empty());
    }
}
