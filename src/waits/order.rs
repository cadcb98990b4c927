//! Puts records of several processors in the order of their times. Each ring is in order by itself; a record is let go when every
//! ring must have shown what is older.

use super::threads::Record;

/// Records that wait for older ones.
#[derive(Debug, Default)]
pub(super) struct Order {
    held: Vec<Record>,
}

impl Order {
    pub(super) fn add(&mut self, record: Record) {
        self.held.push(record);
    }

    /// The records up to this time, in order. Those of one time stay as they came.
    pub(super) fn until(&mut self, time: u64) -> impl Iterator<Item = Record> {
        self.held.sort_by_key(|record| record.time);
        let due = self.held.partition_point(|record| record.time <= time);
        self.held.drain(..due)
    }
}

#[cfg(test)]
mod tests {
    use super::super::threads::Happened;
    use super::*;

    #[test]
    fn records_wait_until_they_are_due_and_come_in_order() {
        let mut order = Order::default();
        let times = |order: &mut Order, until| -> Vec<u64> {
            order.until(until).map(|record| record.time).collect()
        };
        for time in [5, 9, 3, 7] {
            let happened = Happened::Ended { tid: 1 };
            order.add(Record { time, happened });
        }
        assert_eq!(times(&mut order, 6), [3, 5]);
        order.add(Record {
            time: 6,
            happened: Happened::Blind,
        });
        assert_eq!(times(&mut order, 8), [6, 7]);
        assert_eq!(times(&mut order, u64::MAX), [9]);
    }
}
