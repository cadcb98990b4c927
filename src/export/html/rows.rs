//! The table of functions of a page: the heaviest ones, and one row for all others.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use super::names::Names;
use crate::analysis::histogram::Histogram;

/// Rows of a page.
pub(super) const MOST_SHOWN: usize = if cfg!(test) { 64 } else { 4_000 };

/// What a function cost. Times are in nanoseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// What it is called.
    pub(crate) function: String,
    /// Its file, and the line where that is known.
    pub(crate) place: String,
    /// Calls and resumptions; none of samples.
    pub(crate) calls: u64,
    /// Own time, idleness in it.
    pub(crate) own: u64,
    /// Idleness in that.
    pub(crate) idle: u64,
    /// Time with what it called, idleness in it; `None` where it is not known of all calls.
    pub(crate) cumulative: Option<u64>,
    /// Idleness in that.
    pub(crate) idle_cumulative: u64,
    /// Waits in the own time: blocked, for a processor, and of the first for the GIL.
    pub(crate) off: [u64; 3],
    /// Mean duration of a call, where one is known.
    pub(crate) average: Option<u64>,
    /// Durations of calls.
    pub(crate) durations: Histogram,
}

/// What a function cost in the other recording.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Before {
    calls: u64,
    own: u64,
    idle: u64,
    cumulative: u64,
    idle_cumulative: u64,
}

/// The functions of a recording.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// Of the other recording, by function and file.
    before: Option<HashMap<(String, String), Before>>,
    /// Calls that were in no row from the beginning, and their own time.
    pub(crate) without_row: (u64, u64),
}

/// A histogram by powers of two: the number of bits of the first bucket, and the buckets.
#[derive(Debug, Default, Serialize)]
pub(super) struct Buckets {
    bits: u32,
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
    p50: u64,
    p95: u64,
    p99: u64,
    /// Whether the longest is only a bound.
    is_bound: bool,
}

impl Buckets {
    /// That of durations; `None` of none.
    pub(super) fn of(histogram: &Histogram) -> Option<Buckets> {
        let first = histogram.buckets().next()?;
        let quantile = |share| histogram.quantile(share).unwrap_or(0);
        Some(Buckets {
            bits: u64::BITS - first.from.leading_zeros(),
            counts: histogram.buckets().map(|bucket| bucket.count).collect(),
            count: histogram.count(),
            sum: histogram.sum(),
            min: histogram.min()?,
            max: histogram.max()?,
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            is_bound: histogram.max_is_bound(),
        })
    }
}

/// Rows as a page has them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Shown {
    rows: Vec<ShownRow>,
    /// How many functions are in none of them, with their calls and own time.
    others: u64,
    others_calls: u64,
    others_own: u64,
    others_idle: u64,
}

#[derive(Debug, Serialize)]
struct ShownRow {
    function: u32,
    place: u32,
    calls: u64,
    own: u64,
    idle: u64,
    /// -1 where it is not known, as for the mean.
    cumulative: i128,
    idle_cumulative: u64,
    average: i128,
    #[serde(skip_serializing_if = "is_nothing")]
    off: [u64; 3],
    #[serde(skip_serializing_if = "Option::is_none")]
    durations: Option<Buckets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Before>,
}

fn is_nothing(off: &[u64; 3]) -> bool {
    *off == [0; 3]
}

fn known(number: Option<u64>) -> i128 {
    number.map_or(-1, i128::from)
}

/// A file without its line, as [`crate::view::hot::name`] puts them together.
fn file(place: &str) -> &str {
    match place.rsplit_once(':') {
        Some((file, line)) if !line.is_empty() && line.bytes().all(|it| it.is_ascii_digit()) => {
            file
        }
        _ => place,
    }
}

impl Row {
    fn add(&mut self, other: Row) {
        self.calls = self.calls.saturating_add(other.calls);
        self.own = self.own.saturating_add(other.own);
        self.idle = self.idle.saturating_add(other.idle);
        let sum = self.cumulative.zip(other.cumulative);
        self.cumulative = sum.map(|(one, two)| one.saturating_add(two));
        self.idle_cumulative = self.idle_cumulative.saturating_add(other.idle_cumulative);
        for (sum, more) in self.off.iter_mut().zip(other.off) {
            *sum = sum.saturating_add(more);
        }
        self.durations.merge(&other.durations);
        self.average = self.durations.mean();
    }
}

impl Rows {
    /// These compared with those of another recording, function by function and file by file.
    pub(super) fn compared(self, before: Rows) -> Rows {
        let mut sums: HashMap<(String, String), Before> = HashMap::new();
        for row in before.rows {
            let key = (row.function, file(&row.place).to_owned());
            let sum = sums.entry(key).or_default();
            sum.calls = sum.calls.saturating_add(row.calls);
            sum.own = sum.own.saturating_add(row.own);
            sum.idle = sum.idle.saturating_add(row.idle);
            let cumulative = row.cumulative.unwrap_or(0);
            sum.cumulative = sum.cumulative.saturating_add(cumulative);
            sum.idle_cumulative = sum.idle_cumulative.saturating_add(row.idle_cumulative);
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for row in self.rows {
            let key = (row.function.clone(), file(&row.place).to_owned());
            match places.get(&key).and_then(|at| rows.get_mut(*at)) {
                Some(known) => known.add(row),
                None => {
                    places.insert(key, rows.len());
                    rows.push(row);
                }
            }
        }
        // What is gone is a difference, too.
        for (function, place) in sums.keys() {
            if !places.contains_key(&(function.clone(), place.clone())) {
                rows.push(Row {
                    function: function.clone(),
                    place: place.clone(),
                    cumulative: Some(0),
                    ..Row::default()
                });
            }
        }
        Rows {
            rows,
            before: Some(sums),
            without_row: self.without_row,
        }
    }

    /// The heaviest for a page.
    pub(super) fn shown(mut self, names: &mut Names) -> Shown {
        let before = |row: &Row| {
            let before = self.before.as_ref()?;
            let known = before.get(&(row.function.clone(), file(&row.place).to_owned()));
            Some(known.copied().unwrap_or_default())
        };
        let mut rows: Vec<(Option<Before>, Row)> = std::mem::take(&mut self.rows)
            .into_iter()
            .map(|row| (before(&row), row))
            .collect();
        rows.sort_by_cached_key(|(before, row)| {
            let own = row.own.max(before.map_or(0, |before| before.own));
            let name = (row.function.clone(), row.place.clone());
            (Reverse(own), Reverse(row.cumulative), name)
        });
        let (calls, own) = self.without_row;
        let mut shown = Shown {
            others_calls: calls,
            others_own: own,
            ..Shown::default()
        };
        for (_, row) in rows.iter().skip(MOST_SHOWN) {
            shown.others += 1;
            shown.others_calls = shown.others_calls.saturating_add(row.calls);
            shown.others_own = shown.others_own.saturating_add(row.own);
            shown.others_idle = shown.others_idle.saturating_add(row.idle);
        }
        rows.truncate(MOST_SHOWN);
        let rows = rows.into_iter().map(|(before, row)| ShownRow {
            function: names.number(&row.function),
            place: names.number(&row.place),
            calls: row.calls,
            own: row.own,
            idle: row.idle,
            cumulative: known(row.cumulative),
            idle_cumulative: row.idle_cumulative,
            average: known(row.average),
            off: row.off,
            durations: Buckets::of(&row.durations),
            before,
        });
        shown.rows = rows.collect();
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(function: &str, place: &str, own: u64) -> Row {
        Row {
            function: function.to_owned(),
            place: place.to_owned(),
            calls: 1,
            own,
            cumulative: Some(own),
            ..Row::default()
        }
    }

    #[test]
    fn the_heaviest_functions_have_rows_and_the_others_are_counted_together() {
        let all = 3 * MOST_SHOWN as u64;
        let rows = (1..=all).map(|at| row(&format!("f{at}"), "app.py:1", at));
        let rows = Rows {
            rows: rows.collect(),
            without_row: (5, 100),
            ..Rows::default()
        };
        let shown = rows.shown(&mut Names::default());
        assert_eq!(shown.rows.len(), MOST_SHOWN);
        assert_eq!(
            (shown.rows[0].own, shown.others),
            (all, all - MOST_SHOWN as u64)
        );
        assert_eq!(shown.others_calls, shown.others + 5);
        assert_eq!(
            shown.others_own,
            shown.others * (shown.others + 1) / 2 + 100
        );
    }

    #[test]
    fn functions_are_compared_whatever_their_line_is_and_those_that_are_gone_too() {
        let of = |rows: Vec<Row>| Rows {
            rows,
            ..Rows::default()
        };
        let now = of(vec![row("f", "app.py:1", 5), row("new", "app.py:9", 1)]);
        let before = of(vec![row("f", "app.py:3", 7), row("gone", "app.py:9", 2)]);
        let mut names = Names::default();
        let shown = now.compared(before).shown(&mut names);
        let seen: Vec<_> = shown
            .rows
            .iter()
            .map(|row| {
                let name = names.all()[row.function as usize].to_string();
                (name, row.own, row.before.expect("compared").own)
            })
            .collect();
        let expected = [("f", 5, 7), ("gone", 0, 2), ("new", 1, 0)];
        assert_eq!(
            seen,
            expected.map(|(name, now, before)| (name.to_owned(), now, before))
        );
    }

    #[test]
    fn a_histogram_says_with_how_many_bits_it_begins() {
        let mut durations = Histogram::new();
        for number in [5, 6, 20] {
            durations.add(number);
        }
        let buckets = Buckets::of(&durations).expect("three");
        assert_eq!((buckets.bits, buckets.counts), (3, vec![2, 0, 1]));
        assert!(Buckets::of(&Histogram::new()).is_none());
    }
}
