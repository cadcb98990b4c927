//! Metrics as text: Prometheus' format 0.0.4 and OpenMetrics 1.0. Both have classic histograms; native ones would need a
//! format of Protocol Buffers that Prometheus alone reads, and are sent by OTLP as exponential ones.

use std::fmt::Write;

use super::family::{Family, Kind, Point, Value};
use crate::analysis::histogram::Histogram;

/// The buckets of classic histograms end at these powers of two, in nanoseconds: 8.192 µs to 137 s.
const SHORTEST: u32 = 13;
const LONGEST: u32 = 37;

/// Which of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// What every scraper reads.
    Text,
    /// What newer ones prefer.
    OpenMetrics,
}

impl Format {
    /// What somebody prefers who accepts this (a field of HTTP).
    pub(super) fn preferred(accept: &str) -> Format {
        let quality = |wanted: &[&str]| {
            let of = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next()?.to_ascii_lowercase();
                if !wanted.contains(&kind.as_str()) {
                    return None;
                }
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                Some(quality.map_or(1.0, |it| it.parse().unwrap_or(0.0)))
            });
            of.fold(0.0_f32, f32::max)
        };
        let open = quality(&["application/openmetrics-text"]);
        match open > 0.0 && open >= quality(&["text/plain", "text/*"]) {
            true => Format::OpenMetrics,
            false => Format::Text,
        }
    }

    /// What it is called.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text of families.
pub(super) fn text(families: &[Family<'_>], format: Format) -> String {
    let mut text = String::new();
    for family in families {
        let (kind, ending) = match family.kind {
            Kind::Counter | Kind::Time => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
            Kind::Info if format == Format::OpenMetrics => ("info", "_info"),
            Kind::Info => ("gauge", "_info"),
        };
        // OpenMetrics names the family, and the other format what is counted.
        let named = match format {
            Format::Text => ending,
            Format::OpenMetrics => "",
        };
        let name = family.name;
        push(
            &mut text,
            format_args!("# HELP {name}{named} {}\n", family.help),
        );
        push(&mut text, format_args!("# TYPE {name}{named} {kind}\n"));
        for point in &family.points {
            write_point(&mut text, family, ending, point);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// Memory takes everything.
fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

fn write_point(text: &mut String, family: &Family<'_>, ending: &str, point: &Point<'_>) {
    let name = family.name;
    match point.value {
        Value::Number(number) => {
            push(text, format_args!("{name}{ending}"));
            write_labels(text, &point.labels, None);
            match family.kind {
                Kind::Time => push(text, format_args!(" {}\n", Seconds(number))),
                _ => push(text, format_args!(" {number}\n")),
            }
        }
        Value::Durations(durations) => {
            let mut write = |what: &str, le: Option<&str>, number: std::fmt::Arguments<'_>| {
                push(text, format_args!("{name}{what}"));
                write_labels(text, &point.labels, le);
                push(text, format_args!(" {number}\n"));
            };
            for (end, count) in classic(durations) {
                let le = Seconds(end).to_string();
                write("_bucket", Some(&le), format_args!("{count}"));
            }
            let count = durations.count();
            write("_bucket", Some("+Inf"), format_args!("{count}"));
            write("_sum", None, format_args!("{}", Seconds(durations.sum())));
            write("_count", None, format_args!("{count}"));
        }
    }
}

fn write_labels(text: &mut String, labels: &[(&str, &str)], le: Option<&str>) {
    if labels.is_empty() && le.is_none() {
        return;
    }
    let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
    for (at, (name, value)) in all.enumerate() {
        text.push(if at == 0 { '{' } else { ',' });
        push(text, format_args!("{name}=\""));
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                letter => text.push(letter),
            }
        }
        text.push('"');
    }
    text.push('}');
}

/// How many numbers were below each end of a bucket.
fn classic(durations: &Histogram) -> impl Iterator<Item = (u64, u64)> {
    (SHORTEST..=LONGEST).map(|bits| {
        let end = 1_u64 << bits;
        let below = durations.buckets().take_while(|bucket| bucket.to < end);
        (
            end,
            below.fold(0, |sum: u64, it| sum.saturating_add(it.count)),
        )
    })
}

/// Nanoseconds as seconds, exactly.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let rest = format!("{rest:09}");
        let rest = rest.trim_end_matches('0');
        write!(f, "{whole}.{}", if rest.is_empty() { "0" } else { rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for number in numbers {
            histogram.add(*number);
        }
        histogram
    }

    #[test]
    fn each_format_is_written_as_it_has_it() {
        let durations = of(&[1_000, 70_000, 1_500_000_000, 200_000_000_000]);
        let families = [
            Family::new("pystap_calls", Kind::Counter, "Calls.")
                .with(&[("function", "a\"b\\c\nd")], Value::Number(7)),
            Family::new("pystap_self_seconds", Kind::Time, "Time.")
                .with(&[], Value::Number(1_500_000_001)),
            Family::new("pystap_gc_pause_seconds", Kind::Histogram, "Pauses.")
                .with(&[], Value::Durations(&durations)),
        ];
        let plain = text(&families, Format::Text);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(
            lines[..8],
            [
                "# HELP pystap_calls_total Calls.",
                "# TYPE pystap_calls_total counter",
                r#"pystap_calls_total{function="a\"b\\c\nd"} 7"#,
                "# HELP pystap_self_seconds_total Time.",
                "# TYPE pystap_self_seconds_total counter",
                "pystap_self_seconds_total 1.500000001",
                "# HELP pystap_gc_pause_seconds Pauses.",
                "# TYPE pystap_gc_pause_seconds histogram",
            ]
        );
        let bucket =
            |le: &str, count| format!("pystap_gc_pause_seconds_bucket{{le=\"{le}\"}} {count}");
        for (le, count) in [("0.000065536", 1), ("0.000131072", 2), ("1.073741824", 2)] {
            assert!(lines.contains(&&*bucket(le, count)), "{plain}");
        }
        assert_eq!(
            lines[lines.len() - 4..],
            [
                &*bucket("137.438953472", 3),
                &*bucket("+Inf", 4),
                "pystap_gc_pause_seconds_sum 201.500071",
                "pystap_gc_pause_seconds_count 4",
            ]
        );
        let open = text(&families, Format::OpenMetrics);
        assert!(open.starts_with("# HELP pystap_calls Calls.\n# TYPE pystap_calls counter\n"));
        assert!(open.contains("pystap_calls_total{"), "{open}");
        assert!(open.ends_with("_count 4\n# EOF\n"), "{open}");
    }

    #[test]
    fn whoever_asks_is_given_the_format_that_he_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::preferred(prometheus), Format::OpenMetrics);
        for plain in [
            "",
            "*/*",
            "text/plain",
            "text/plain,application/openmetrics-text;q=0.4",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
        ] {
            assert_eq!(Format::preferred(plain), Format::Text, "{plain}");
        }
    }
}
