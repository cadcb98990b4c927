//! A table for programs: docs/syscalls.md has its fields.

use serde_json::{Value, json};

use super::errors;
use super::table::name;
use super::tally::{By, Row, Snapshot};
use crate::sampling::Place;

/// The document about what was seen.
pub(crate) fn document(snapshot: &Snapshot, by: By, limit: usize) -> Value {
    let rows = snapshot.rows(by);
    let threads = snapshot.threads.iter().map(|((pid, tid), sum)| {
        json!({
            "pid": pid,
            "tid": tid,
            "name": snapshot.names.get(tid).filter(|name| !name.is_empty()),
            "calls": sum.calls,
            "errors": sum.errors,
            "total_ns": sum.total_ns,
            "off_cpu_ns": sum.off_ns,
        })
    });
    let account = &snapshot.account;
    json!({
        "version": 1,
        "seconds": snapshot.wall_ns as f64 / 1e9,
        "processes": snapshot.processes,
        "calls": snapshot.sum.calls,
        "errors": snapshot.sum.errors,
        "total_ns": snapshot.sum.total_ns,
        "off_cpu_ns": snapshot.sum.off_ns,
        "open_calls": snapshot.calls.open,
        "looks_apart_ns": snapshot.gap_ns,
        "lost_records": account.lost + account.unreadable,
        "lost_calls": snapshot.calls.lost,
        "rows": rows.iter().take(limit).map(|row| document_of(row, by)).collect::<Vec<_>>(),
        "rows_not_shown": rows.len().saturating_sub(limit),
        "threads": threads.collect::<Vec<_>>(),
    })
}

fn document_of(row: &Row, by: By) -> Value {
    let sum = &row.sum;
    let place = row.places.first().map(|(place, _)| place);
    let frames = match place {
        Some(Place::Stack(frames)) => Some(frames),
        _ => None,
    };
    let first = frames.and_then(|frames| frames.first());
    let mut value = json!({
        "calls": sum.calls,
        "estimated_calls": row.estimated_calls,
        "errors": row.errors.0.iter().map(|(error, calls)| json!({ "error": errors::name(*error), "number": error, "calls": calls })).collect::<Vec<_>>(),
        "total_ns": sum.total_ns,
        "estimated_ns": row.estimated_ns,
        "longest_ns": sum.longest_ns,
        "off_cpu_ns": sum.off_ns,
        "syscalls": row.calls.0.iter().map(|(call, time)| json!({ "syscall": call.map(|_| name(*call)), "total_ns": time })).collect::<Vec<_>>(),
        "threads": row.threads.0.iter().map(|((pid, tid), time)| json!({ "pid": pid, "tid": tid, "total_ns": time })).collect::<Vec<_>>(),
        "on": row.on.first().and_then(|(on, _)| on.as_deref()),
        "place": place.map(Place::word),
        "function": first.map(|frame| &frame.function),
        "file": first.map(|frame| &frame.file),
        "places": row.places.0.len(),
    });
    if by == By::Stack {
        value["stack"] = frames.map_or(Value::Null, |frames| {
            let frames = frames.iter().map(
                |frame| json!({ "function": frame.function, "file": frame.file, "line": frame.line }),
            );
            frames.collect()
        });
    }
    value
}
