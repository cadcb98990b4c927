//! What rows of a live table did lately: a bar for each of the last tables, and which of them have just become hot.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::analysis::keys::KeyBuilder;

/// Bars, and with that the width of their column.
pub(crate) const BARS: usize = 8;
/// Rows whose activity is known, some 50 bytes each; further ones have no bars.
const MOST: usize = 1 << 16;
/// Bars from the least to the most.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The activity that fills a bar at least, in thousandths of a processor: else a row that does nearly nothing looks busy.
const FULL: u16 = 10;
/// A row is newly hot with this activity in the last table, if it is so many times that of the tables before on average.
const HOT: u16 = 100;
const TIMES: u32 = 4;

/// What rows did lately, by numbers that they keep.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity {
    /// Nanoseconds that the last table was about; none before the first.
    wall_ns: Option<u64>,
    /// Tables so far.
    tables: usize,
    rows: HashMap<u64, Recent, KeyBuilder>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    /// Time up to the last table in which it was, and which that was.
    ns: u64,
    table: usize,
    /// By table, in thousandths of a processor.
    bars: [u16; BARS],
}

impl Activity {
    /// Takes the next table: over how long it is, and the time of each row, all since one and the same beginning. Where that is a
    /// new one, so is this.
    pub(crate) fn take(&mut self, wall_ns: u64, rows: impl Iterator<Item = (u64, u64)>) {
        let before = self.wall_ns.filter(|before| *before <= wall_ns);
        if before.is_none() {
            self.anew();
        }
        if before == Some(wall_ns) {
            return;
        }
        self.wall_ns = Some(wall_ns);
        self.tables += 1;
        let table = self.tables;
        let passed = before.map(|before| (wall_ns - before).max(1));
        for (id, ns) in rows {
            let is_full = self.rows.len() >= MOST;
            let recent = match self.rows.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(_) if is_full => continue,
                Entry::Vacant(fresh) => fresh.insert(Recent::default()),
            };
            let spent = ns.saturating_sub(recent.ns);
            // Of the first table it is not known how much of it is recent.
            let share = passed.map_or(0, |passed| u128::from(spent) * 1_000 / u128::from(passed));
            if let Some(bar) = recent.bars.get_mut(table % BARS) {
                *bar = u16::try_from(share).unwrap_or(u16::MAX);
            }
            (recent.ns, recent.table) = (ns, table);
        }
        self.rows.retain(|_, recent| recent.table == table);
    }

    /// Forgets everything, because rows are about something else from now on.
    pub(crate) fn anew(&mut self) {
        *self = Activity::default();
    }

    /// The bars of a row, the latest last; blanks where it did nothing.
    pub(crate) fn bars(&self, id: u64) -> String {
        let Some(recent) = self.rows.get(&id) else {
            return " ".repeat(BARS);
        };
        let most = recent.bars.iter().copied().max().unwrap_or(0).max(FULL);
        let bar = |share: u16| match share {
            0 => ' ',
            share => {
                let height = usize::from(share) * HEIGHTS.len() / usize::from(most);
                let height = height.min(HEIGHTS.len() - 1);
                HEIGHTS.get(height).copied().unwrap_or(' ')
            }
        };
        self.oldest_first(recent).map(bar).collect()
    }

    /// Whether a row takes much more time than it did before.
    pub(crate) fn is_newly_hot(&self, id: u64) -> bool {
        // The first table has no bars, and a few are no habit.
        if self.tables < BARS / 2 {
            return false;
        }
        let Some(recent) = self.rows.get(&id) else {
            return false;
        };
        let known = (self.tables - 1).min(BARS);
        let bars: Vec<u16> = self.oldest_first(recent).skip(BARS - known).collect();
        let Some((last, before)) = bars.split_last() else {
            return false;
        };
        let sum: u32 = before.iter().copied().map(u32::from).sum();
        let mean = sum / u32::try_from(before.len()).unwrap_or(1).max(1);
        *last >= HOT && u32::from(*last) >= TIMES * mean
    }

    fn oldest_first(&self, recent: &Recent) -> impl Iterator<Item = u16> + use<> {
        let (bars, next) = (recent.bars, self.tables + 1);
        (0..BARS).filter_map(move |at| bars.get((next + at) % BARS).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What rows 1 and 2 show after tables, one every second, in which they spent so many milliseconds.
    fn after(spent: &[(u64, u64)]) -> Activity {
        let mut activity = Activity::default();
        let (mut one, mut two) = (0, 0);
        activity.take(SECOND, [(1, 0), (2, 0)].into_iter());
        for (table, (of_one, of_two)) in spent.iter().enumerate() {
            one += of_one * 1_000_000;
            two += of_two * 1_000_000;
            let wall = SECOND * (table as u64 + 2);
            activity.take(wall, [(1, one), (2, two)].into_iter());
        }
        activity
    }

    #[test]
    fn bars_are_of_the_last_tables_and_beside_the_longest_of_their_own() {
        let activity = after(&[(800, 0), (400, 1), (100, 0)]);
        assert_eq!(activity.bars(1), "     █▅▂");
        assert_eq!(activity.bars(2), "      ▁ ", "a thousandth of a processor");
        assert_eq!(activity.bars(3), " ".repeat(BARS));
        let long = after(&[(900, 0); 20]);
        assert_eq!(long.bars(1), "█".repeat(BARS));
    }

    #[test]
    fn a_row_is_newly_hot_when_it_takes_far_more_than_before() {
        assert!(after(&[(0, 0), (0, 0), (10, 0), (600, 0)]).is_newly_hot(1));
        assert!(!after(&[(300, 0), (300, 0), (300, 0), (600, 0)]).is_newly_hot(1));
        assert!(
            !after(&[(0, 0), (0, 0), (0, 0), (50, 0)]).is_newly_hot(1),
            "too little"
        );
        assert!(!after(&[(600, 0)]).is_newly_hot(1), "no habit yet");
        let cooled = after(&[(0, 0), (0, 0), (600, 0), (600, 0), (600, 0)]);
        assert!(!cooled.is_newly_hot(1));
    }

    #[test]
    fn counting_anew_begins_anew_and_pausing_leaves_no_gap() {
        let mut activity = after(&[(800, 0), (400, 0)]);
        activity.take(3 * SECOND, [(1, 9 * SECOND)].into_iter());
        assert_eq!(activity.bars(1), "      █▅", "the same table again");
        activity.take(SECOND, [(1, SECOND / 2)].into_iter());
        assert_eq!(activity.bars(1), " ".repeat(BARS));
        activity.take(2 * SECOND, [(1, SECOND)].into_iter());
        assert_eq!(activity.bars(1), "       █");
    }

    #[test]
    fn rows_are_forgotten_with_their_functions_and_never_too_many() {
        let mut activity = Activity::default();
        let rows = |from: u64| (from..from + MOST as u64 + 5).map(|id| (id, id));
        activity.take(SECOND, rows(0));
        assert_eq!(activity.rows.len(), MOST);
        activity.take(2 * SECOND, [(7, 8)].into_iter());
        assert_eq!(activity.rows.len(), 1);
    }
}
