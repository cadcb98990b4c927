//! A table for programs: docs/offcpu.md has its fields.

use serde_json::{Value, json};

use super::tally::{By, Row, Snapshot};
use crate::sampling::Place;
use crate::waits::Waker;

/// The document about what was seen.
pub(crate) fn document(snapshot: &Snapshot, by: By, with_idle: bool, limit: usize) -> Value {
    let rows = snapshot.rows(by, with_idle);
    let threads = snapshot.threads.iter().map(|((pid, tid), sum)| {
        json!({
            "pid": pid,
            "tid": tid,
            "name": snapshot.names.get(tid).filter(|name| !name.is_empty()),
            "waits": sum.waits,
            "blocked_ns": sum.blocked_ns,
            "runqueue_ns": sum.runqueue_ns,
        })
    });
    let account = &snapshot.account;
    json!({
        "version": 1,
        "seconds": snapshot.wall_ns as f64 / 1e9,
        "processes": snapshot.processes,
        "blocked_ns": rows.blocked_ns,
        "idle_ns": rows.idle_ns,
        "preempted": account.preempted,
        "preempted_ns": account.preempted_ns,
        "looks_apart_ns": snapshot.gap_ns,
        "lost_records": account.lost + account.unreadable,
        "lost_waits": account.waits_lost,
        "rows": rows.rows.iter().take(limit).map(|row| document_of(snapshot, row, by)).collect::<Vec<_>>(),
        "rows_not_shown": rows.rows.len().saturating_sub(limit),
        "threads": threads.collect::<Vec<_>>(),
    })
}

fn document_of(snapshot: &Snapshot, row: &Row, by: By) -> Value {
    let sum = &row.sum;
    let place = row.places.first().map(|(place, _)| place);
    let frames = match place {
        Some(Place::Stack(frames)) => Some(frames),
        _ => None,
    };
    let first = frames.and_then(|frames| frames.first());
    let mut value = json!({
        "blocked_ns": sum.blocked_ns,
        "estimated_ns": row.estimated_ns,
        "waits": sum.waits,
        "estimated_waits": row.estimated_waits,
        "max_ns": sum.max_ns,
        "runqueue_ns": sum.runqueue_ns,
        "idle": row.idle,
        "reasons": row.reasons.0.iter().map(|(reason, time)| json!({ "reason": reason.word(), "blocked_ns": time })).collect::<Vec<_>>(),
        "syscalls": row.calls.0.iter().map(|(call, time)| json!({ "syscall": call.as_deref(), "blocked_ns": time })).collect::<Vec<_>>(),
        "threads": row.threads.0.iter().map(|((pid, tid), time)| json!({ "pid": pid, "tid": tid, "blocked_ns": time })).collect::<Vec<_>>(),
        "woken_by": row.wakers.0.iter().map(|(waker, waits)| woken_by(snapshot, *waker, *waits)).collect::<Vec<_>>(),
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

fn woken_by(snapshot: &Snapshot, waker: Option<Waker>, waits: u64) -> Value {
    match waker {
        None => json!({ "by": null, "waits": waits }),
        Some(Waker::Interrupt) => json!({ "by": "interrupt", "waits": waits }),
        Some(Waker::Thread { pid, tid }) => {
            let name = snapshot.names.get(&tid).filter(|name| !name.is_empty());
            let pid = (pid != 0).then_some(pid);
            json!({ "by": "thread", "pid": pid, "tid": tid, "name": name, "waits": waits })
        }
    }
}
