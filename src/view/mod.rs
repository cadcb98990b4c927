//! Results of the analysis as text and as JSON, the same for reports, for batches and for the terminal. Says what was
//! measured and what was not; measures nothing.

pub mod hot;
pub mod latencies;
pub mod pauses;
pub mod requests;

use serde_json::{Value, json};

use crate::analysis::histogram::Histogram;
use crate::analysis::overhead::Overhead;
use crate::event::{Place, Session};

/// A time for people: three significant digits and a unit, at most seven characters wide below an hour.
pub fn time(nanoseconds: u64) -> String {
    let number = nanoseconds as f64;
    let (number, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds}ns"),
        1_000..999_500 => (number / 1e3, "us"),
        999_500..999_500_000 => (number / 1e6, "ms"),
        _ => (number / 1e9, "s"),
    };
    match number {
        ..9.995 => format!("{number:.2}{unit}"),
        9.995..99.95 => format!("{number:.1}{unit}"),
        _ => format!("{number:.0}{unit}"),
    }
}

/// Whether times are without the tracer's own cost, as a line. `percent` is how much of what was measured that is.
pub(crate) fn overhead_line(overhead: Overhead, percent: Option<f64>) -> String {
    match overhead {
        Overhead::Kept => String::new(),
        Overhead::Unknown => format!("{NOT_TAKEN_OUT}\n"),
        Overhead::Uncounted => format!("{NOT_COUNTED}\n"),
        Overhead::Taken(_) => {
            let taken = overhead_taken(overhead, percent);
            taken.map_or_else(String::new, |taken| taken + "\n")
        }
    }
}

const NOT_TAKEN_OUT: &str =
    "times have the tracer's own cost in them, which was not measured (docs/truth.md)";
const NOT_COUNTED: &str = "times have the tracer's own cost in them, because sums do not say how many events are in them; \
     --no-kernel-totals counts events and takes it out";
/// From so many percent of what was measured on, more is the tracer's than the program's.
const MOSTLY: f64 = 50.0;

/// The same for what an export of a session with calls says at its end.
pub(crate) fn overhead_said(overhead: Overhead, session: &Session) -> Option<String> {
    let has_calls = session
        .events
        .iter()
        .any(|kind| kind == "call" || kind == "return");
    match overhead {
        Overhead::Unknown if has_calls => Some(NOT_TAKEN_OUT.to_owned()),
        Overhead::Uncounted => Some(NOT_COUNTED.to_owned()),
        Overhead::Unknown | Overhead::Kept => None,
        Overhead::Taken(_) => overhead_taken(overhead, None),
    }
}

/// The same where it is taken out, as words.
pub(crate) fn overhead_taken(overhead: Overhead, percent: Option<f64>) -> Option<String> {
    let cost = overhead.cost()?.per_event();
    let share = percent.map_or_else(String::new, |percent| {
        format!(", {percent:.0} % of what was measured")
    });
    let rough = match percent {
        Some(MOSTLY..) => {
            "; so little is left that times are rough: samples (--sample) cost nothing"
        }
        _ => "",
    };
    Some(format!(
        "times without the tracer's own cost ({} per event{share}); --raw-times shows what was measured{rough}",
        time(cost.get())
    ))
}

/// The value of a field by which calls of a function are told apart, as JSON, if they are.
fn group_json(place: &Place) -> Option<Value> {
    let group = place.group.as_ref()?;
    Some(json!({ "field": group.field, "value": group.value }))
}

/// A number for people: all of its digits as long as there is room.
pub fn count(number: u64) -> String {
    match number {
        0..100_000_000 => number.to_string(),
        100_000_000..10_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

/// How many of something: `1 call`, `2 calls`.
pub fn many(number: u64, noun: &str, nouns: &str) -> String {
    let noun = if number == 1 { noun } else { nouns };
    format!("{} {noun}", count(number))
}

/// A moment of a stream, as seconds since its beginning. Probes and agents tell a little earlier, one process after the other.
fn moment(ts: u64, start: u64) -> String {
    let seconds = ts.abs_diff(start) as f64 / 1e9;
    match ts < start {
        true => format!("{seconds:.6} s before the session began"),
        false => format!("+{seconds:.6} s"),
    }
}

/// How long a stream has run, to the tenth of a second.
pub(crate) fn since(nanoseconds: u64) -> String {
    format!("+{:.1}s", nanoseconds as f64 / 1e9)
}

/// Widest bar of a histogram, in characters.
const BAR: usize = 40;

/// The duration below or at which this share of all lies: with `~` where it is known to a factor of two only.
pub(crate) fn quantile(durations: &Histogram, share: f64) -> String {
    match durations.quantile(share) {
        None => "-".to_owned(),
        Some(number) if durations.is_rough() => format!("~{}", time(number)),
        Some(number) => time(number),
    }
}

/// A log2 histogram as lines with bars.
pub(crate) fn bars(histogram: &Histogram, indent: &str, out: &mut String) {
    let most = histogram.buckets().map(|bucket| bucket.count).max();
    for bucket in histogram.buckets() {
        let share = bucket.count as f64 / most.unwrap_or(1).max(1) as f64;
        let full = (share * BAR as f64).ceil() as usize;
        out.push_str(&format!(
            "{indent}{:>7} .. {:>7}  {:>9}  {}\n",
            time(bucket.from),
            time(bucket.to.saturating_add(1)),
            count(bucket.count),
            "#".repeat(full)
        ));
    }
}

/// A histogram as JSON: exact numbers, quantiles, and the buckets that are not empty.
pub(crate) fn histogram_json(histogram: &Histogram) -> Value {
    let quantile = |share| histogram.quantile(share);
    let mut json = serde_json::json!({
        "count": histogram.count(),
        "sum_ns": histogram.sum(),
        "min_ns": histogram.min(),
        "max_ns": histogram.max(),
        "mean_ns": histogram.mean(),
        "p50_ns": quantile(0.5),
        "p90_ns": quantile(0.9),
        "p95_ns": quantile(0.95),
        "p99_ns": quantile(0.99),
        "log2": histogram
            .buckets()
            .filter(|bucket| bucket.count > 0)
            .map(|bucket| serde_json::json!({ "from_ns": bucket.from, "to_ns": bucket.to, "count": bucket.count }))
            .collect::<Vec<_>>(),
    });
    for (name, is_bound) in [
        ("min_is_bound", histogram.min_is_bound()),
        ("max_is_bound", histogram.max_is_bound()),
    ] {
        if is_bound {
            json[name] = true.into();
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_no_more_than_seven_characters() {
        for (nanoseconds, expected) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (12_345, "12.3us"),
            (999_499, "999us"),
            (999_500, "1.00ms"),
            (123_456_789, "123ms"),
            (1_500_000_000, "1.50s"),
            (3_599_000_000_000, "3599s"),
        ] {
            assert_eq!(time(nanoseconds), expected);
            assert!(expected.len() <= 7);
        }
    }

    #[test]
    fn times_that_were_mostly_the_tracers_are_said_to_be_rough_and_those_it_is_in_to_have_it() {
        let session = Session {
            overhead_ns_per_event: std::num::NonZeroU64::new(985),
            ..Session::default()
        };
        let taken = Overhead::of(&session, false);
        assert_eq!(
            overhead_line(taken, Some(8.0)),
            "times without the tracer's own cost (985ns per event, 8 % of what was measured); --raw-times shows what was measured\n"
        );
        let rough = overhead_line(taken, Some(75.0));
        assert!(rough.contains("75 % of what was measured"), "{rough}");
        assert!(
            rough.ends_with("times are rough: samples (--sample) cost nothing\n"),
            "{rough}"
        );
        let uncounted = overhead_line(Overhead::Uncounted, Some(0.0));
        assert!(uncounted.contains("--no-kernel-totals"), "{uncounted}");
        assert_eq!(overhead_line(Overhead::Kept, Some(0.0)), "");
    }

    #[test]
    fn what_began_before_a_session_did_is_said_to_have() {
        assert_eq!(moment(2_500_000_000, 1_000_000_000), "+1.500000 s");
        assert_eq!(moment(7, 7), "+0.000000 s");
        let before = moment(1_000_000, 1_400_000);
        assert_eq!(before, "0.000400 s before the session began");
    }

    #[test]
    fn counts_keep_their_digits_until_there_is_no_room() {
        assert_eq!(count(99_999_999), "99999999");
        assert_eq!(count(100_000_000), "100M");
        assert_eq!(count(u64::MAX), "18446744073G");
    }

    #[test]
    fn the_fullest_bucket_has_the_longest_bar() {
        let mut histogram = Histogram::new();
        for number in [1_000, 1_100, 1_200, 5_000] {
            histogram.add(number);
        }
        let mut text = String::new();
        bars(&histogram, "", &mut text);
        let lengths: Vec<usize> = text.lines().map(|line| line.matches('#').count()).collect();
        assert_eq!(lengths, [20, 40, 0, 20], "{text}");
    }
}
