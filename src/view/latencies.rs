//! Latencies of single functions for people and programs.

use serde_json::{Value, json};

use super::{
    bars, count, group_json, histogram_json, many, moment, overhead_line, quantile, since, time,
};
use crate::analysis::histogram::Histogram;
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
        let durations = latency.durations(latencies.overhead());
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
        let calls = durations.count() + latency.uncertain;
        out.push_str(&format!(
            "{:>10} {:>9} {:>9.1} {:>8} {:>8} {:>8} {:>8}  {}  {}  process {}\n",
            since(at_ns),
            count(calls),
            calls as f64 * 1e9 / length_ns.max(1) as f64,
            known(durations.mean()),
            quantile(durations, 0.5),
            quantile(durations, 0.95),
            known(durations.max()),
            latency.place.name(),
            whereabouts(latency),
            latencies.hosts().process(pid),
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

/// Mean, percentiles and maximum.
fn spread(durations: &Histogram) -> String {
    let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
    let quantile = |share| quantile(durations, share);
    format!(
        "mean {}, p50 {}, p90 {}, p95 {}, p99 {}, max {}",
        known(durations.mean()),
        quantile(0.5),
        quantile(0.9),
        quantile(0.95),
        quantile(0.99),
        known(durations.max()),
    )
}

/// How long a coroutine or generator took altogether.
fn first_to_last(latency: &Latency) -> String {
    let unknown = match latency.endings_only {
        0 => String::new(),
        ends => format!(
            "; {} more, of which the first call is not known",
            count(ends)
        ),
    };
    // The interpreter's own probes do not tell an end from a pause.
    if latency.place.qualname.is_none() {
        return "  from first call to end: not known; --agent tells it\n".to_owned();
    }
    format!(
        "  from first call to end: {}, {}{unknown}\n",
        many(latency.lifetimes.count(), "call", "calls"),
        spread(&latency.lifetimes)
    )
}

/// Percentiles, a histogram and the slowest calls of each function in each process. `start` is when the stream began.
pub fn text(latencies: &Latencies, start: u64) -> String {
    let hosts = latencies.hosts();
    let through = match latencies.callers_may_be_indirect() {
        true => ", maybe through others",
        false => "",
    };
    let mut out = String::new();
    for (pid, latency) in latencies.by_process() {
        if !out.is_empty() {
            out.push('\n');
        }
        let durations = latency.durations(latencies.overhead());
        out.push_str(&format!(
            "{}  {}  process {}\n",
            latency.place.name(),
            whereabouts(latency),
            hosts.process(pid)
        ));
        let calls = match latency.goes_on {
            true => many(
                durations.count(),
                "call or resumption",
                "calls and resumptions",
            ),
            false => many(durations.count(), "call", "calls"),
        };
        out.push_str(&format!("  {calls}, {}", spread(durations)));
        if latency.goes_on {
            out.push_str(" (time on the stack, without waiting)\n");
            out.push_str(&first_to_last(latency));
        } else {
            out.push('\n');
        }
        if latency.maybe_several {
            out.push_str(
                "  maybe of several functions of this name in this file, because nothing tells them apart; --agent does where they \
                 begin at different lines\n",
            );
        }
        if latency.given_up > 0 {
            out.push_str(&format!(
                "  {} more, given up while more calls were open than there is room for (docs/limits.md)\n",
                many(latency.given_up, "call", "calls")
            ));
        }
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
                    format!(", called by {}  {}{through}", place.name(), &place.file)
                }
                None => String::new(),
            };
            out.push_str(&format!(
                "    {:>7}  {}  thread {}{caller}\n",
                time(slow.net_ns),
                moment(slow.ts, start),
                hosts.number(slow.tid)
            ));
        }
    }
    out.push_str(&others(latencies));
    let percent = latencies.taken_out_percent();
    let line = overhead_line(latencies.overhead(), Some(percent));
    if !line.is_empty() {
        out.push('\n');
        out.push_str(&line);
    }
    out
}

/// The same as JSON: what was measured in the `wall_ns` before `ts`. `kind` says whether that is an interval or the whole.
pub fn json(kind: &str, ts: u64, latencies: &Latencies, wall_ns: u64) -> Value {
    let (cost, hosts) = (latencies.overhead().cost(), latencies.hosts());
    let functions: Value = latencies
        .by_process()
        .map(|(pid, latency)| {
            let told = latency.goes_on && latency.place.qualname.is_some();
            let slowest: Vec<Value> = latency
                .slowest
                .iter()
                .map(|slow| {
                    let mut json = json!({
                        "ts": slow.ts,
                        "duration_ns": slow.duration_ns,
                        "tid": hosts.number(slow.tid),
                        "caller": slow.caller.as_ref().map(|place| &place.function.text),
                        "caller_file": slow.caller.as_ref().map(|place| &place.file.text),
                    });
                    if cost.is_some() {
                        json["net_ns"] = slow.net_ns.into();
                    }
                    json
                })
                .collect();
            let mut json = json!({
                "pid": hosts.number(pid),
                "function": latency.place.function.text,
                "qualname": latency.place.qualname.as_ref().map(|name| &name.text),
                "file": latency.place.file.text,
                "line": (latency.line < i32::MAX).then_some(latency.line),
                "durations": histogram_json(&latency.durations),
                "uncertain": latency.uncertain,
                "resumed": latency.goes_on,
                "first_call_to_end": told.then(|| histogram_json(&latency.lifetimes)),
                "first_call_unknown": told.then_some(latency.endings_only),
                "maybe_several": latency.maybe_several,
                "calls_given_up": latency.given_up,
                "slowest": slowest,
            });
            if let Some(host) = hosts.name(pid) {
                json["host"] = host.as_str().into();
            }
            if let Some(group) = group_json(&latency.place) {
                json["group"] = group;
            }
            if cost.is_some() {
                json["net_durations"] = histogram_json(&latency.net_durations);
            }
            json
        })
        .collect();
    let mut json = json!({
        "kind": kind,
        "ts": ts,
        "wall_ns": wall_ns,
        "functions": functions,
        "calls_without_room": latencies.without_room(),
        "callers_may_be_indirect": latencies.callers_may_be_indirect(),
    });
    if let Some(cost) = cost {
        json["overhead_ns_per_event"] = cost.per_event().get().into();
        json["overhead_ns_within_call"] = cost.within_call().into();
    }
    json
}
