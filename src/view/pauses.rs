//! Garbage collections for people and programs.

use serde_json::{Value, json};

use super::{bars, count, histogram_json, moment, quantile, since, time};
use crate::analysis::collections::Collections;

/// The columns of [`line()`].
pub const HEADING: &str = "      TIME   COUNT   COLLECTED    PAUSE      %  LONGEST\n";

/// An interval in a line. `at_ns` is its end since the stream began.
pub fn line(collections: &Collections, at_ns: u64, length_ns: u64) -> String {
    let total = collections.total_pause_ns();
    let (mut number, mut collected) = (0, 0_u64);
    for (_, _, counted) in collections.by_process() {
        number += counted.count;
        collected = collected.saturating_add(counted.collected);
    }
    let longest = match collections.longest().first() {
        None => "-".to_owned(),
        Some(pause) => {
            let within = match &pause.within {
                Some(place) => format!(" in {}  {}", place.name(), &place.file),
                None => String::new(),
            };
            format!(
                "{} generation {}, process {}{within}",
                time(pause.pause_ns),
                generation(pause.generation),
                collections.hosts().process(pause.pid)
            )
        }
    };
    format!(
        "{:>10} {:>7} {:>11} {:>8} {:>6.1}  {longest}\n",
        since(at_ns),
        count(number),
        count(collected),
        time(total),
        total as f64 * 100.0 / length_ns.max(1) as f64,
    )
}

fn generation(generation: Option<i64>) -> String {
    generation.map_or_else(|| "unknown".to_owned(), |generation| generation.to_string())
}

/// Generations, a histogram of the pauses of each, and the longest ones. `start` is when the stream began.
pub fn text(collections: &Collections, wall_ns: u64, start: u64, limit: usize) -> String {
    let mut out = String::new();
    let by_generation = collections.by_generation();
    if by_generation.is_empty() {
        return "no garbage collections\n".to_owned();
    }
    out.push_str("GENERATION   COUNT   COLLECTED    TOTAL     AVG     P95     MAX\n");
    for (number, counted) in &by_generation {
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
        out.push_str(&format!(
            "{:>10} {:>7} {:>11} {:>8} {:>7} {:>7} {:>7}\n",
            generation(*number),
            count(counted.count),
            count(counted.collected),
            time(counted.pauses.sum()),
            known(counted.pauses.mean()),
            quantile(&counted.pauses, 0.95),
            known(counted.pauses.max()),
        ));
    }
    let total = collections.total_pause_ns();
    let share = total as f64 * 100.0 / wall_ns.max(1) as f64;
    out.push_str(&format!(
        "\n{} in collections, {share:.1} % of {}\n",
        time(total),
        time(wall_ns)
    ));
    for (number, counted) in &by_generation {
        if counted.pauses.count() > 0 {
            out.push_str(&format!("\npauses of generation {}\n", generation(*number)));
            bars(&counted.pauses, "  ", &mut out);
        }
    }
    if !collections.longest().is_empty() {
        out.push_str("\nlongest pauses\n");
    }
    for pause in collections.longest().iter().take(limit) {
        let within = match &pause.within {
            Some(place) => format!(", in {}  {}", place.name(), &place.file),
            None => String::new(),
        };
        out.push_str(&format!(
            "  {:>7}  {}  generation {}, {} collected, process {} thread {}{within}\n",
            time(pause.pause_ns),
            moment(pause.ts, start),
            generation(pause.generation),
            pause.collected,
            collections.hosts().process(pause.pid),
            collections.hosts().number(pause.tid),
        ));
    }
    out
}

/// The same as JSON: what was counted in the `wall_ns` before `ts`. `kind` says whether that is an interval or the whole.
pub fn json(kind: &str, ts: u64, collections: &Collections, wall_ns: u64, limit: usize) -> Value {
    let hosts = collections.hosts();
    let on_host = |pid: u32, mut json: Value| {
        if let Some(host) = hosts.name(pid) {
            json["host"] = host.as_str().into();
        }
        json
    };
    let generations: Vec<Value> = collections
        .by_process()
        .map(|(pid, generation, counted)| {
            on_host(
                pid,
                json!({
                    "pid": hosts.number(pid),
                    "generation": generation,
                    "count": counted.count,
                    "collected": counted.collected,
                    "pauses": histogram_json(&counted.pauses),
                }),
            )
        })
        .collect();
    let longest: Vec<Value> = collections
        .longest()
        .iter()
        .take(limit)
        .map(|pause| {
            on_host(
                pause.pid,
                json!({
                    "ts": pause.ts,
                    "pause_ns": pause.pause_ns,
                    "pid": hosts.number(pause.pid),
                    "tid": hosts.number(pause.tid),
                    "generation": pause.generation,
                    "collected": pause.collected,
                    "function": pause.within.as_ref().map(|place| &place.function.text),
                    "file": pause.within.as_ref().map(|place| &place.file.text),
                }),
            )
        })
        .collect();
    json!({
        "kind": kind,
        "ts": ts,
        "wall_ns": wall_ns,
        "total_pause_ns": collections.total_pause_ns(),
        "generations": generations,
        "longest": longest,
    })
}
