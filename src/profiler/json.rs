//! A table for programs: docs/sampling.md has its fields.

use serde_json::{Value, json};

use super::tally::{Counts, Row, Rows, Snapshot};

/// The document about what was seen, with at most so many rows.
pub(crate) fn document(snapshot: &Snapshot, rows: &Rows, limit: usize) -> Value {
    let shown = rows.rows.iter().take(limit);
    let contexts = snapshot.contexts.map(|it| {
        json!({
            "found": it.found,
            "looked_at": it.read,
            "all_objects_looked_at": !it.partial,
            "looks": it.looks,
        })
    });
    json!({
        "version": 1,
        "estimates": true,
        "rate": snapshot.rate,
        "wall_ns": snapshot.wall_ns,
        "looks": snapshot.ticks,
        "looks_missed": snapshot.missed,
        "looks_apart_ns": snapshot.gap_ns() as u64,
        "processes": snapshot.processes,
        "threads": snapshot.threads,
        "threads_without_python": snapshot.without_python,
        "greenlets_and_tasks": contexts,
        "samples": rows.samples,
        "idle_samples": rows.idle,
        "torn_samples": snapshot.torn(),
        "functions": shown.map(|row| of(snapshot, row)).collect::<Vec<_>>(),
        "functions_not_shown": rows.rows.len().saturating_sub(limit),
    })
}

fn of(snapshot: &Snapshot, row: &Row) -> Value {
    let counts = |counts: Counts| {
        json!({
            "samples": counts.all(),
            "on_cpu": counts.on_cpu,
            "waiting": counts.waiting,
            "estimated_ns": snapshot.time_ns(counts.all()),
        })
    };
    let mut value = json!({
        "function": row.function.name,
        "context": row.context.as_deref(),
        "file": row.function.file,
        "self": counts(row.own),
        "total": counts(row.total),
    });
    if let Some(pid) = row.pid {
        value["pid"] = pid.into();
    }
    value
}
