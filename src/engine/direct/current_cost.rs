//! What events cost in programs as they run. When a session begins, the agent finds out what an event costs in calm ([`dry_run`]), where
//! nothing else is in the processor's caches. It also says how long its own part of that takes, and from then on how long that
//! takes of some of the program's events. What the interpreter does around it, and what it displaces, grows by about as much
//! (docs/truth.md says how far that is true), so the whole is taken to be so many times what it is in calm.
//!
//! A process is believed what it says of itself, and no more of it counts than it has told events.
//!
//! [`dry_run`]: super::dry_run

use pystap_ring::Handled;

use crate::engine::event_cost::Cost;

/// Events that were timed before anything is said of them.
const FEWEST: u64 = 64;
/// How many times as long as in calm events take at most, whatever an agent says. They never take less.
const MOST: f64 = 64.0;
/// What differs by less from what was said last is not worth a word.
const NEWS: f64 = 0.05;

/// What is known of all processes of a session.
#[derive(Debug, Default)]
pub(super) struct CurrentCost {
    /// In calm, by the first process that told.
    calm: Option<Cost>,
    /// Of processes that have ended.
    ended: Timed,
    /// Whether there is a process that nothing is known of, whose events nobody can tell from others'.
    is_partial: bool,
    said: Option<Cost>,
}

/// What an agent says, and how many events it has told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) calm: Handled,
    pub(super) told: Handled,
    pub(super) events: u64,
}

/// Events that were timed, and how many they would be in calm that take as long.
#[derive(Debug, Clone, Copy, Default)]
struct Timed {
    events: f64,
    in_calm: f64,
}

impl Timed {
    fn of(Said { calm, told, events }: Said) -> Timed {
        if calm.events == 0 || told.events == 0 {
            return Timed::default();
        }
        let timed = told.events.min(events) as f64;
        let average = |it: Handled| it.ticks as f64 / it.events as f64;
        let factor = (average(told) / average(calm)).clamp(1.0, MOST);
        match factor.is_nan() {
            true => Timed::default(),
            false => Timed {
                events: timed,
                in_calm: timed * factor,
            },
        }
    }

    fn and(self, other: Timed) -> Timed {
        Timed {
            events: self.events + other.events,
            in_calm: self.in_calm + other.in_calm,
        }
    }
}

impl CurrentCost {
    /// What an event costs in calm, where that could be measured. The first word counts.
    pub(super) fn in_calm(&mut self, cost: Cost) {
        self.calm.get_or_insert(cost);
    }

    /// There is a process of which nobody measures it.
    pub(super) fn is_partial(&mut self) {
        self.is_partial = true;
    }

    /// A process has ended, whose agent said this.
    pub(super) fn ended(&mut self, said: Said) {
        self.ended = self.ended.and(Timed::of(said));
    }

    /// What events have cost so far by what the agents of running processes say, if that is news.
    pub(super) fn news(&mut self, running: impl Iterator<Item = Said>) -> Option<Cost> {
        let all = running.map(Timed::of).fold(self.ended, Timed::and);
        if self.is_partial || all.events < FEWEST as f64 {
            return None;
        }
        let cost = self.calm?.times(all.in_calm / all.events);
        let (now, before) = (cost.per_event.get(), self.said.map(|it| it.per_event.get()));
        let is_news =
            before.is_none_or(|before| now.abs_diff(before) as f64 > NEWS * before as f64);
        if is_news {
            self.said = Some(cost);
        }
        is_news.then_some(cost)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn cost(per_event: u64, within: u64) -> Cost {
        Cost {
            per_event: NonZeroU64::new(per_event).expect("more than nothing"),
            within_call: Some(within),
        }
    }

    /// What an agent says whose events take so many ticks in calm, and these so many.
    fn handled(calm: u64, told: u64, events: u64) -> Said {
        let of = |ticks: u64, events: u64| Handled {
            ticks: ticks.saturating_mul(events),
            events,
        };
        Said {
            calm: of(calm, 64),
            told: of(told, events),
            events: 1_000_000,
        }
    }

    fn knowing(calm: Cost) -> CurrentCost {
        let mut current = CurrentCost::default();
        current.in_calm(calm);
        current
    }

    #[test]
    fn events_cost_as_many_times_what_they_cost_in_calm_as_the_agents_part_takes() {
        let mut current = knowing(cost(40, 30));
        let said = current.news([handled(50, 250, 1_000)].into_iter());
        assert_eq!(said, Some(cost(200, 150)));
    }

    #[test]
    fn each_process_counts_by_its_events_also_when_it_has_ended() {
        let mut current = knowing(cost(40, 30));
        current.ended(handled(50, 100, 3_000));
        let said = current.news([handled(10, 60, 1_000)].into_iter());
        // Twice as long in three of four events, and six times in one.
        assert_eq!(said, Some(cost(120, 90)));
    }

    #[test]
    fn what_changes_little_and_what_few_events_say_is_no_news() {
        let mut current = knowing(cost(100, 50));
        assert_eq!(
            current.news([handled(50, 100, FEWEST - 1)].into_iter()),
            None
        );
        assert_eq!(
            current.news([handled(50, 100, FEWEST)].into_iter()),
            Some(cost(200, 100))
        );
        assert_eq!(current.news([handled(50, 104, 500)].into_iter()), None);
        assert_eq!(
            current.news([handled(50, 106, 900)].into_iter()),
            Some(cost(212, 106))
        );
    }

    #[test]
    fn it_is_never_less_than_in_calm_and_numbers_that_cannot_be_do_no_harm() {
        for (said, expected) in [
            (handled(50, 20, 1_000), Some(cost(100, 50))),
            (handled(50, u64::MAX, 1_000), Some(cost(6_400, 3_200))),
            (handled(0, 50, 1_000), Some(cost(6_400, 3_200))),
            (handled(0, 0, 1_000), None),
            (handled(u64::MAX, u64::MAX, u64::MAX), Some(cost(100, 50))),
        ] {
            let mut current = knowing(cost(100, 50));
            assert_eq!(current.news([said].into_iter()), expected, "{said:?}");
        }
        let unsaid = Said {
            calm: Handled::default(),
            ..handled(1, 7, 1_000)
        };
        assert_eq!(knowing(cost(100, 50)).news([unsaid].into_iter()), None);
    }

    #[test]
    fn who_claims_more_events_than_it_has_told_counts_by_those() {
        let mut current = knowing(cost(100, 50));
        let boasts = Said {
            events: 1_000,
            ..handled(50, 150, u64::MAX / 200)
        };
        let said = current.news([boasts, handled(50, 50, 1_000)].into_iter());
        assert_eq!(said, Some(cost(200, 100)));
    }

    #[test]
    fn nothing_is_said_where_some_of_the_events_are_of_a_process_that_measures_nothing() {
        let mut current = knowing(cost(40, 30));
        current.is_partial();
        assert_eq!(current.news([handled(50, 250, 1_000)].into_iter()), None);
    }

    #[test]
    fn nothing_is_said_where_nobody_knows_what_an_event_costs_in_calm() {
        let mut current = CurrentCost::default();
        assert_eq!(current.news([handled(50, 250, 1_000)].into_iter()), None);
        current.in_calm(cost(40, 30));
        current.in_calm(cost(4_000, 30));
        let said = current.news([handled(50, 250, 1_000)].into_iter());
        assert_eq!(said, Some(cost(200, 150)));
    }
}
