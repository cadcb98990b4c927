//! Latencies of single functions for people and programs.

use serde_json::{Value, json};

use super::{bars, count, histogram_json, many, moment, since, time};
use crate::analysis::latency::{Latencies, Latency};

/// The columns of [`lines`].
pub const HEADING: &str =
    "      TIME     CALLS   CALLS/s      AVG      P50      P95      MAX  FUNCTION\n";

/// An interval, a line for each function of each process that was called in it. `at_ns` is its end since the stream began.
pub fn lines(latencies: &Latencies, at_ns: u64, length_ns: u64) -> String {
    if latencies.is_empty() {
        return format!("{:>10}  no calls\n", since(at_ns));
    }
    let mut out = String::new();
    for (pid, latency) in latencies.by_process() {
        let durations = &latency.durations;
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
        let calls = durations.count() + latency.uncertain;
        out.push_str(&format!(
            "{:>10} {:>9} {:>9.1} {:>8} {:>8} {:>8} {:>8}  {}  {}  process {pid}\n",
            since(at_ns),
            count(calls),
            calls as f64 * 1e9 / length_ns.max(1) as f64,
            known(durations.mean()),
            known(durations.quantile(0.5)),
            known(durations.quantile(0.95)),
            known(durations.max()),
            latency.place.name(),
            whereabouts(latency),
        ));
    }
    out.push_str(&others(latencies));
    out
}

/// The file, with the line where that is known: several functions may have one name.
fn whereabouts(latency: &Latency) -> String {
    match latency.line {
        i32::MAX => latency.place.file.to_string(),
        line => format!("{}:{line}", latency.place.file),
    }
}

/// A line about functions that are not measured.
fn others(latencies: &Latencies) -> String {
    match latencies.without_room() {
        0 => String::new(),
        calls => format!(
            "table full: {} of further functions not measured; ask for fewer functions, or keep fewer slow calls (--limit)\n",
            many(calls, "call", "calls")
        ),
    }
}

/// Percentiles, a histogram and the slowest calls of each function in each process. `start` is when the stream began.
pub fn text(latencies: &Latencies, start: u64) -> String {
    let mut out = String::new();
    for (pid, latency) in latencies.by_process() {
        if !out.is_empty() {
            out.push('\n');
        }
        let durations = &latency.durations;
        let quantile = |share| {
            durations
                .quantile(share)
                .map_or_else(|| "-".to_owned(), time)
        };
        out.push_str(&format!(
            "{}  {}  process {pid}\n",
            latency.place.name(),
            whereabouts(latency)
        ));
        out.push_str(&format!(
            "  {}, mean {}, p50 {}, p90 {}, p95 {}, p99 {}, max {}\n",
            many(durations.count(), "call", "calls"),
            durations.mean().map_or_else(|| "-".to_owned(), time),
            quantile(0.5),
            quantile(0.9),
            quantile(0.95),
            quantile(0.99),
            durations.max().map_or_else(|| "-".to_owned(), time),
        ));
        if latency.uncertain > 0 {
            out.push_str(&format!(
                "  {} more, of unknown duration\n",
                many(latency.uncertain, "call", "calls")
            ));
        }
        bars(durations, "  ", &mut out);
        if !latency.slowest.is_empty() {
            out.push_str("  slowest calls\n");
        }
        for slow in &latency.slowest {
            let caller = match &slow.caller {
                Some(place) => {
                    format!(", called by {}  {}", place.name(), &place.file)
                }
                None => String::new(),
            };
            out.push_str(&format!(
                "    {:>7}  {}  thread {}{caller}\n",
                time(slow.duration_ns),
                moment(slow.ts, start),
                slow.tid
            ));
        }
    }
    out.push_str(&others(latencies));
    out
}

/// The same as JSON: what was measured in the `wall_ns` before `ts`. `kind` says whether that is an interval or the whole.
pub fn json(kind: &str, ts: u64, latencies: &Latencies, wall_ns: u64) -> Value {
    let functions: Value = latencies
        .by_process()
        .map(|(pid, latency)| {
            let slowest: Vec<Value> = latency
                .slowest
                .iter()
                .map(|slow| {
                    json!({
                        "ts": slow.ts,
                        "duration_ns": slow.duration_ns,
                        "tid": slow.tid,
                        "caller": slow.caller.as_ref().map(|place| &place.function.text),
                        "caller_file": slow.caller.as_ref().map(|place| &place.file.text),
                    })
                })
                .collect();
            json!({
                "pid": pid,
                "function": latency.place.function.text,
                "qualname": latency.place.qualname.as_ref().map(|name| &name.text),
                "file": latency.place.file.text,
                "line": (latency.line < i32::MAX).then_some(latency.line),
                "durations": histogram_json(&latency.durations),
                "uncertain": latency.uncertain,
                "slowest": slowest,
            })
        })
        .collect();
    json!({
        "kind": kind,
        "ts": ts,
        "wall_ns": wall_ns,
        "functions": functions,
        "calls_without_room": latencies.without_room(),
    })
}
