//! Events of several processors in the order in which they happened, within a bounded window.

use crate::event::Event;

/// Holds events back until no earlier one can come, and gives them out in the order of their times.
#[derive(Debug, Default)]
pub struct ReorderBuffer {
    held: Vec<Event>,
    /// Bytes of the fields of those.
    fields: usize,
    /// Time of the last event that was given out.
    given: u64,
    late: u64,
}

impl ReorderBuffer {
    /// Takes events as they came, each source's in its order.
    pub fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        let fields = &mut self.fields;
        let counted = events
            .into_iter()
            .inspect(|event| *fields += fields_of(event));
        self.held.extend(counted);
    }

    /// Gives out the events up to this time, in order. One that came too late is given out all the same, at once, and
    /// counted.
    pub fn give(&mut self, until: u64) -> Vec<Event> {
        // Runs that are sorted already, one a source, are merged; events of one time keep their order.
        self.held.sort_by_key(|event| event.ts);
        let ready = self.held.partition_point(|event| event.ts <= until);
        let late = self.held.partition_point(|event| event.ts < self.given);
        self.late += late.min(ready) as u64;
        let rest = self.held.split_off(ready);
        let events = std::mem::replace(&mut self.held, rest);
        if self.fields > 0 {
            self.fields -= events.iter().map(fields_of).sum::<usize>();
        }
        if let Some(last) = events.last() {
            self.given = self.given.max(last.ts);
        }
        events
    }

    /// Events that were given out after a later one, since this was last asked.
    pub fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    /// Bytes of the fields of events that wait.
    pub fn field_bytes(&self) -> usize {
        self.fields
    }

    /// Events that wait.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }
}

fn fields_of(event: &Event) -> usize {
    event.fields().map_or(0, |fields| fields.bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::What;

    fn at(ts: u64) -> Event {
        let what = What::GcStart { generation: 0 };
        Event {
            ts,
            pid: 1,
            tid: 1,
            interpreter: None,
            what,
        }
    }

    fn times(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.ts).collect()
    }

    #[test]
    fn events_wait_until_no_earlier_one_can_come() {
        let mut order = ReorderBuffer::default();
        order.take([5, 9, 12].map(at));
        order.take([3, 10].map(at));
        assert_eq!(times(&order.give(9)), [3, 5, 9]);
        assert_eq!((order.waiting(), order.take_late()), (2, 0));
        assert_eq!(times(&order.give(u64::MAX)), [10, 12]);
    }

    #[test]
    fn what_comes_too_late_is_counted_and_not_lost() {
        let mut order = ReorderBuffer::default();
        order.take([5, 9].map(at));
        order.give(9);
        order.take([7, 9, 11].map(at));
        assert_eq!(times(&order.give(11)), [7, 9, 11]);
        assert_eq!((order.take_late(), order.take_late()), (1, 0));
    }

    proptest! {
        #[test]
        fn what_comes_within_the_window_comes_out_in_order(
            // Each event comes up to three rounds after its time.
            delays in proptest::collection::vec(0..3_u64, 1..200),
        ) {
            let mut order = ReorderBuffer::default();
            let mut out = Vec::new();
            let last = delays.len() as u64;
            for now in 0..last + 3 {
                let came = delays.iter().enumerate().filter(|(ts, delay)| *ts as u64 + **delay == now);
                order.take(came.map(|(ts, _)| at(ts as u64)).collect::<Vec<_>>());
                if now >= 3 {
                    out.extend(order.give(now - 3));
                }
            }
            prop_assert_eq!(times(&out), (0..last).collect::<Vec<_>>());
            prop_assert_eq!((order.take_late(), order.waiting()), (0, 0));
        }
    }
}
