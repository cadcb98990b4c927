//! A dump for programs: docs/dump.md has its fields.

use serde_json::{Value, json};

use super::{Dump, DumpError, Resting, Thread, WaitsFor, role};
use crate::process::activity::{Descriptor, End, Socket, Wait, Watched};
use crate::python::frames::{Awaits, Frame};

/// The document about these processes.
pub(crate) fn document(dumps: &[Dump], failed: &[(u32, DumpError)]) -> Value {
    let processes: Vec<Value> = dumps.iter().map(process).collect();
    let failed: Vec<Value> = failed
        .iter()
        .map(|(pid, error)| json!({ "pid": pid, "error": error.to_string() }))
        .collect();
    json!({ "version": 1, "processes": processes, "failed": failed })
}

fn process(dump: &Dump) -> Value {
    let resting = dump.resting.as_ref();
    let parked = resting.map(|resting| &resting.parked);
    json!({
        "pid": dump.pid,
        "program": dump.program,
        "command": dump.command,
        "python": dump.version.as_ref().map(ToString::to_string),
        "threads": dump.threads.iter().map(thread).collect::<Vec<Value>>(),
        "threads_not_shown": dump.more_threads,
        "tasks": resting.map(tasks),
        "tasks_not_shown": parked.map(|parked| parked.unread),
        "greenlets": resting.map(greenlets),
        "greenlets_not_shown": parked.map(|parked| parked.unread_greenlets),
        "objects": parked.map(|parked| parked.objects),
        "objects_complete": parked.map(|parked| parked.complete),
        "took_ms": milliseconds(dump.took),
    })
}

fn thread(thread: &Thread) -> Value {
    let python = thread.python.as_ref();
    let stack = python.map(|python| stack(&python.frames));
    json!({
        "tid": thread.tid,
        "name": thread.name,
        "state": thread.state.word(),
        "syscall": thread.call.name(),
        "wait": thread.wait.as_ref().map(wait),
        "asleep_ms": thread.asleep.map(milliseconds),
        "role": python.and_then(|python| role(&python.frames, python.cut)),
        "python": python.is_some(),
        "interpreter": python.map(|python| python.interpreter),
        "holds_gil": python.map(|python| python.holds_gil),
        "reading": python.map(|python| python.reading.word()),
        "stack": stack,
        "stack_cut": python.map(|python| python.cut),
    })
}

fn stack(frames: &[Frame]) -> Vec<Value> {
    let frames = frames
        .iter()
        .map(|frame| json!({ "function": frame.function, "file": frame.file, "line": frame.line }));
    frames.collect()
}

fn tasks(resting: &Resting) -> Vec<Value> {
    let tasks = resting.parked.tasks.iter().map(|tasks| {
        let awaits = match &tasks.awaits {
            Awaits::Start => json!({ "for": "start" }),
            Awaits::Turn => json!({ "for": "turn" }),
            Awaits::Task(name) => json!({ "for": "task", "name": name }),
            Awaits::Object(its_type) => json!({ "for": "object", "type": its_type }),
            Awaits::Unknown => json!({ "for": "other" }),
        };
        json!({
            "names": tasks.names,
            "count": tasks.count,
            "awaits": awaits,
            "reading": resting.reading(tasks.same).word(),
            "stack": stack(&tasks.frames),
            "stack_cut": tasks.cut,
        })
    });
    tasks.collect()
}

fn greenlets(resting: &Resting) -> Vec<Value> {
    let greenlets = resting.parked.greenlets.iter().zip(&resting.awaited);
    let greenlets = greenlets.map(|(greenlets, awaited)| {
        let is_known = awaited.count > 0;
        json!({
            "count": greenlets.count,
            "role": role(&greenlets.frames, greenlets.cut),
            "wait": is_known.then(|| wait(&WaitsFor::Kernel(Wait::Any(awaited.clone())))),
            "reading": resting.reading(greenlets.same).word(),
            "stack": stack(&greenlets.frames),
            "stack_cut": greenlets.cut,
        })
    });
    greenlets.collect()
}

fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn wait(wait: &WaitsFor) -> Value {
    match wait {
        WaitsFor::Gil { held_by } => json!({ "for": "gil", "held_by": held_by }),
        WaitsFor::Lock { address } | WaitsFor::Kernel(Wait::Futex(address)) => {
            json!({ "for": "lock", "address": format!("{address:#x}") })
        }
        WaitsFor::Kernel(Wait::Sleep) => json!({ "for": "sleep" }),
        WaitsFor::Kernel(Wait::Child) => json!({ "for": "child" }),
        WaitsFor::Kernel(Wait::Signal) => json!({ "for": "signal" }),
        WaitsFor::Kernel(Wait::Page) => json!({ "for": "page" }),
        WaitsFor::Kernel(Wait::Other) => json!({ "for": "other" }),
        WaitsFor::Kernel(Wait::One(number, what)) => {
            json!({ "for": "descriptor", "descriptor": descriptor(*number, what) })
        }
        WaitsFor::Kernel(Wait::Any(watched)) => json!({
            "for": "descriptors",
            "descriptors": several(watched),
            "count": watched.count,
        }),
    }
}

fn several(watched: &Watched) -> Vec<Value> {
    let named = watched.named.iter();
    named
        .map(|(number, what)| descriptor(*number, what))
        .collect()
}

fn descriptor(number: u32, what: &Descriptor) -> Value {
    match what {
        Descriptor::File(path) => {
            json!({ "fd": number, "kind": "file", "path": String::from_utf8_lossy(path) })
        }
        Descriptor::Pipe(inode) => json!({ "fd": number, "kind": "pipe", "inode": inode }),
        Descriptor::Socket(socket) => {
            let mut value = json!({ "fd": number, "kind": "socket" });
            if let Some(socket) = socket {
                add(&mut value, socket);
            }
            value
        }
        Descriptor::Epoll(watched) => json!({
            "fd": number,
            "kind": "epoll",
            "watches": several(watched),
            "count": watched.count,
        }),
        Descriptor::Kernel(kind) => json!({ "fd": number, "kind": kind }),
        Descriptor::Unknown => json!({ "fd": number, "kind": null }),
    }
}

fn add(value: &mut Value, socket: &Socket) {
    let end = |end: &Option<End>| match end {
        Some(End::Internet(address)) => Value::from(address.to_string()),
        Some(End::Path(path)) => Value::from(String::from_utf8_lossy(path).into_owned()),
        None => Value::Null,
    };
    value["protocol"] = Value::from(socket.protocol);
    value["local"] = end(&socket.local);
    value["remote"] = end(&socket.remote);
    value["state"] = Value::from(socket.state);
}
