//! What is idleness: waiting for work, not for what work needs. docs/offcpu.md has the list for people.

use crate::python::frames::Frame;
use crate::waits::Reason;

/// Where hubs of event loops wait for whatever comes: how their files end, and the functions in them; no function stands for all.
const HUBS: [(&str, &[&str]); 9] = [
    ("asyncio/base_events.py", &["_run_once"]),
    // Loops that are written in C, such as uvloop.
    ("asyncio/runners.py", &["run"]),
    ("eventlet/hubs/hub.py", &[]),
    ("eventlet/hubs/epolls.py", &[]),
    ("eventlet/hubs/poll.py", &[]),
    ("gevent/hub.py", &["run"]),
    ("gevent/_ffi/loop.py", &["run"]),
    ("twisted/internet/epollreactor.py", &[]),
    ("socketserver.py", &["serve_forever"]),
];

/// Where workers of a pool wait for work.
const POOLS: [(&str, &[&str]); 3] = [
    ("concurrent/futures/thread.py", &["_worker"]),
    ("concurrent/futures/process.py", &["_process_worker"]),
    ("multiprocessing/pool.py", &["worker"]),
];

/// What waits on behalf of its caller: how files end.
const ON_BEHALF: [&str; 6] = [
    "/selectors.py",
    "/queue.py",
    "/threading.py",
    "multiprocessing/queues.py",
    "multiprocessing/connection.py",
    "multiprocessing/synchronize.py",
];

/// Whether a thread with this stack, the innermost first, waits for work.
pub(super) fn is_idle(reason: Reason, frames: &[Frame]) -> bool {
    let places: &[(&str, &[&str])] = match reason {
        Reason::Poll | Reason::Sleep => &HUBS,
        Reason::Lock | Reason::Pipe => &POOLS,
        _ => return false,
    };
    let caller = frames
        .iter()
        .find(|frame| !ON_BEHALF.iter().any(|file| frame.file.ends_with(file)));
    let Some(caller) = caller else {
        return false;
    };
    // Before Python 3.11 functions have no classes in their names.
    let name = caller.function.rsplit('.').next().unwrap_or_default();
    places.iter().any(|(file, functions)| {
        caller.file.ends_with(file) && (functions.is_empty() || functions.contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(reason: Reason, frames: &[(&str, &str)]) -> bool {
        let frames: Vec<Frame> = frames
            .iter()
            .map(|(function, file)| Frame {
                function: (*function).to_owned(),
                file: (*file).to_owned(),
                line: None,
            })
            .collect();
        is_idle(reason, &frames)
    }

    #[test]
    fn a_hub_that_polls_is_idle_and_a_function_that_polls_is_not() {
        let select = ("EpollSelector.select", "/usr/lib/python3.11/selectors.py");
        let hub = (
            "BaseEventLoop._run_once",
            "/usr/lib/python3.11/asyncio/base_events.py",
        );
        assert!(idle(Reason::Poll, &[select, hub]));
        assert!(!idle(Reason::Poll, &[select, ("fetch", "/srv/app.py")]));
        // A task that blocks the loop stands above its hub.
        let task = ("handler", "/srv/app.py");
        assert!(!idle(Reason::Sleep, &[task, hub]));
        assert!(!idle(Reason::Network, &[hub]));
        assert!(!idle(Reason::Poll, &[]));
    }

    #[test]
    fn a_worker_that_waits_for_work_is_idle() {
        let worker = (
            "_worker",
            "/usr/lib/python3.11/concurrent/futures/thread.py",
        );
        assert!(idle(Reason::Lock, &[worker]));
        let wait = ("Condition.wait", "/usr/lib/python3.11/threading.py");
        assert!(!idle(Reason::Lock, &[wait, ("get", "/srv/app.py")]));
        assert!(!idle(Reason::Gil, &[worker]));
    }
}
