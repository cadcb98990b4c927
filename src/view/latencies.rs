//! Latencies of single functions for people and programs.

use serde_json::{Value, json};

use super::{bars, histogram_json, many, moment, time};
use crate::analysis::latency::Latencies;
use crate::export::flow::Safe;

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
            Safe(&latency.place.function),
            Safe(&latency.place.file)
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
                    format!(
                        ", called by {}  {}",
                        Safe(&place.function),
                        Safe(&place.file)
                    )
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
    out
}

/// The same as JSON.
pub fn json(latencies: &Latencies) -> Value {
    latencies
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
                "file": latency.place.file.text,
                "durations": histogram_json(&latency.durations),
                "uncertain": latency.uncertain,
                "slowest": slowest,
            })
        })
        .collect()
}
