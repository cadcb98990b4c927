//! What came of it, for programs: docs/why.md has the fields.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::part::{Doing, Parts};
use super::results::{Call, Function};
use super::table::Page;
use crate::view::histogram_json;
use crate::waits::Waker;

type Names = HashMap<u32, String>;

/// Everything so far, or in the end.
pub(super) fn page(kind: &str, now: u64, wall_ns: u64, page: &Page<'_>) -> Value {
    let mut open = page.open.clone();
    let functions: Vec<Value> = page
        .results
        .sorted()
        .into_iter()
        .map(|(key, it)| function(it, open.remove(&key).unwrap_or_default(), page.names))
        .collect();
    let account = &page.account;
    json!({
        "version": 1,
        "kind": kind,
        "ts": now,
        "wall_ns": wall_ns,
        "functions": functions,
        "open_of_others": open.values().sum::<u64>(),
        "calls_without_room": page.results.without_room,
        "calls_not_told": page.untold,
        "lost_records": account.lost + account.unreadable,
        "lost_waits": account.waits_lost,
        "notes": page.notes,
    })
}

fn function(function: &Function, open: u64, names: &Names) -> Value {
    let unsplit: HashMap<&str, u64> = function
        .unsplit
        .iter()
        .map(|(why, calls)| (why.word(), *calls))
        .collect();
    json!({
        "function": function.place.function.text,
        "qualname": function.place.qualname.as_ref().map(|name| &name.text),
        "file": function.place.file.text,
        "line": (function.line > 0).then_some(function.line),
        "calls": function.split + function.unsplit.values().sum::<u64>(),
        "split": function.split,
        "unsplit": unsplit,
        "recursive": function.recursive,
        "open": open,
        "given_up": function.given_up,
        "durations": histogram_json(&function.durations),
        "split_ns": function.parts.total_ns(),
        "parts": parts(&function.parts, names),
        "slow": function.slow.iter().map(|it| call(it, names)).collect::<Vec<_>>(),
    })
}

/// One call.
pub(super) fn call(call: &Call, names: &Names) -> Value {
    json!({
        "kind": "call",
        "ts": call.began,
        "pid": call.pid,
        "tid": call.tid,
        "function": call.place.function.text,
        "qualname": call.place.qualname.as_ref().map(|name| &name.text),
        "file": call.place.file.text,
        "line": (call.line > 0).then_some(call.line),
        "duration_ns": call.duration_ns,
        "unsplit": call.parts.as_ref().err().map(|why| why.word()),
        "parts": call.parts.as_ref().map_or(Value::Null, |it| parts(it, names)),
    })
}

fn parts(parts: &Parts, names: &Names) -> Value {
    let sorted = parts.sorted().into_iter();
    sorted
        .map(|(part, sum)| {
            let mut wakers: Vec<_> = sum.wakers.iter().collect();
            wakers.sort_by(|left, right| right.1.cmp(left.1).then(left.0.cmp(right.0)));
            let woken_by: Vec<Value> = wakers
                .into_iter()
                .map(|(waker, times)| woken_by(*waker, *times, names))
                .collect();
            json!({
                "reason": part.doing.word(),
                "preempted": (part.doing == Doing::Preempted),
                "in": part.call.as_deref(),
                "on": part.on.as_deref(),
                "ns": sum.total_ns,
                "max_ns": sum.max_ns,
                "times": sum.times,
                "woken_by": woken_by,
            })
        })
        .collect()
}

fn woken_by(waker: Option<Waker>, times: u64, names: &Names) -> Value {
    match waker {
        None => json!({ "by": null, "times": times }),
        Some(Waker::Interrupt) => json!({ "by": "interrupt", "times": times }),
        Some(Waker::Thread { pid, tid }) => {
            let name = names.get(&tid).filter(|name| !name.is_empty());
            json!({ "by": "thread", "pid": pid, "tid": tid, "name": name, "times": times })
        }
    }
}
