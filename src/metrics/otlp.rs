//! Metrics as OTLP has them: sums that only grow since the session began, and exponential histograms.
//!
//! A bucket of ours ends at a power of two of nanoseconds, so that durations go in nanoseconds and with the scale 0, as they were
//! counted. A duration that is such a power to the nanosecond is in the bucket above the one that the protocol has for it.

use super::family::{Family, Kind, Point, Value};
use crate::analysis::histogram::Histogram;
use crate::otlp::attribute;
use crate::protobuf::Message;

/// Points that a metric has at most, so that a batch can be halved.
const MOST: usize = 64;
/// Since the beginning, and not since the last time.
const CUMULATIVE: u64 = 2;

/// All points as `Metric`s of a scope, where `began` and `now` are nanoseconds since the Unix epoch.
pub(super) fn items(families: &[Family<'_>], began: u64, now: u64) -> Vec<Vec<u8>> {
    let mut items = Vec::new();
    for family in families {
        for points in family.points.chunks(MOST) {
            let mut message = Message::default();
            message.message(2, |metric| write(metric, family, points, (began, now)));
            items.push(std::mem::take(message.bytes()));
        }
    }
    items
}

fn write(metric: &mut Message, family: &Family<'_>, points: &[Point<'_>], times: (u64, u64)) {
    // What text has in seconds is in nanoseconds here.
    let name = family.name.strip_suffix("_seconds");
    metric.text(1, &name.unwrap_or(family.name).replacen('_', ".", 1));
    metric.text(2, family.help);
    let unit = match family.kind {
        Kind::Time | Kind::Histogram => "ns",
        _ => "1",
    };
    metric.text(3, unit);
    let field = match family.kind {
        Kind::Gauge | Kind::Info => 5,
        Kind::Counter | Kind::Time => 7,
        Kind::Histogram => 10,
    };
    metric.message(field, |data| {
        for point in points {
            data.message(1, |it| write_point(it, point, times));
        }
        match field {
            7 => {
                data.number(2, CUMULATIVE);
                data.number(3, 1);
            }
            10 => data.number(2, CUMULATIVE),
            _ => {}
        }
    });
}

fn write_point(message: &mut Message, point: &Point<'_>, (began, now): (u64, u64)) {
    match point.value {
        Value::Number(number) => {
            message.fixed(2, began);
            message.fixed(3, now);
            message.fixed(6, number);
            for (key, value) in &point.labels {
                attribute(message, 7, key, *value);
            }
        }
        Value::Durations(durations) => {
            for (key, value) in &point.labels {
                attribute(message, 1, key, *value);
            }
            message.fixed(2, began);
            message.fixed(3, now);
            write_durations(message, durations);
        }
    }
}

/// Scale 0: the bucket of the offset n ends at 2^(n+1), which ours of numbers with n+1 bits does.
fn write_durations(message: &mut Message, durations: &Histogram) {
    message.fixed(4, durations.count());
    message.double(5, durations.sum() as f64);
    let zero = durations.buckets().take_while(|it| it.to == 0);
    message.fixed(7, zero.map(|it| it.count).sum());
    let mut buckets = durations.buckets().skip_while(|it| it.to == 0).peekable();
    if let Some(first) = buckets.peek() {
        let offset = u64::from(first.from.trailing_zeros());
        message.message(8, |positive| {
            // A zigzag integer.
            positive.number(1, offset << 1);
            positive.packed(2, buckets.map(|it| it.count));
        });
    }
    if let (Some(min), Some(max)) = (durations.min(), durations.max()) {
        message.double(12, min as f64);
        message.double(13, max as f64);
    }
}
