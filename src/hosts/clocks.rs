//! How far the clock of another host is ahead of ours, by asking it what time it is.
//!
//! The host is asked some times, and each answer lies somewhere between question and its arrival. The quickest of them tells most:
//! half of the time that it took is what the difference may be wrong by, whichever way the two halves really went.

use crate::event::SessionHost;

/// How often a host is asked.
pub const ROUNDS: usize = 16;

/// From where on a difference is worth a warning: what people see on a clock.
const FAR: u64 = 60_000_000_000;

/// A question and its answer, in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// When it was asked, by our clock.
    pub asked: u64,
    /// What the other one said.
    pub said: u64,
    /// When that was heard, by our clock.
    pub heard: u64,
}

/// The difference of two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference {
    /// Nanoseconds by which the other one is ahead.
    pub ahead_ns: i64,
    /// By how many that may be wrong.
    pub within_ns: u64,
}

impl Difference {
    /// Of some rounds; `None` of none, or where our own clock was set back in each.
    pub fn of(rounds: &[Round]) -> Option<Difference> {
        let whole = |round: &&Round| round.heard >= round.asked;
        let quickest = rounds
            .iter()
            .filter(whole)
            .min_by_key(|round| round.heard - round.asked)?;
        let took = quickest.heard - quickest.asked;
        let middle = quickest.asked + took / 2;
        let ahead = i128::from(quickest.said) - i128::from(middle);
        Some(Difference {
            ahead_ns: i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX }),
            within_ns: took.div_ceil(2),
        })
    }

    /// A time of the other clock by ours.
    pub fn ours(self, theirs: u64) -> u64 {
        let ours = i128::from(theirs) - i128::from(self.ahead_ns);
        u64::try_from(ours.max(0)).unwrap_or(u64::MAX)
    }

    /// Whether somebody should set that clock.
    pub fn is_far(self) -> bool {
        self.ahead_ns.unsigned_abs() >= FAR
    }

    /// What a first line says of it.
    pub fn told(self, host: SessionHost) -> SessionHost {
        SessionHost {
            clock_ahead_ns: Some(self.ahead_ns),
            clock_within_ns: Some(self.within_ns),
            ..host
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_quickest_round_counts_and_half_of_it_is_what_it_may_be_wrong_by() {
        let rounds = [
            Round {
                asked: 1_000,
                said: 9_000,
                heard: 1_900,
            },
            Round {
                asked: 2_000,
                said: 7_050,
                heard: 2_100,
            },
        ];
        let difference = Difference::of(&rounds).expect("two rounds");
        assert_eq!((difference.ahead_ns, difference.within_ns), (5_000, 50));
        assert_eq!(difference.ours(7_050), 2_050);
        assert_eq!(Difference::of(&[]), None);
    }

    #[test]
    fn times_that_would_be_before_all_times_are_the_first_one() {
        let ahead = Difference {
            ahead_ns: i64::MAX,
            within_ns: 0,
        };
        assert_eq!(ahead.ours(5), 0);
        let behind = Difference {
            ahead_ns: i64::MIN,
            within_ns: 0,
        };
        assert_eq!(behind.ours(u64::MAX), u64::MAX);
        assert!(ahead.is_far() && behind.is_far() && !Difference::default().is_far());
    }

    proptest! {
        #[test]
        fn whatever_the_ways_take_the_difference_is_right_within_what_it_says(
            ahead in -3_600_000_000_000_i64..3_600_000_000_000,
            ways in proptest::collection::vec((0..50_000_000_u64, 0..50_000_000_u64), 1..20),
        ) {
            let mut now = 1_700_000_000_000_000_000_u64;
            let rounds: Vec<Round> = ways.iter().map(|(there, back)| {
                let asked = now;
                let said = (asked + there).saturating_add_signed(ahead);
                now += there + back;
                Round { asked, said, heard: now }
            }).collect();
            let measured = Difference::of(&rounds).expect("some rounds");
            prop_assert!(measured.ahead_ns.abs_diff(ahead) <= measured.within_ns);
        }
    }
}
