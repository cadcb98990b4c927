//! What is idleness: waiting for work, not for what work needs. docs/offcpu.md has the list for people.

use std::sync::Arc;

use crate::event::{Place, Reason};

/// What a function waits for, if it waits, that has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// For events: the hub of a loop, which polls or sleeps.
    Hub,
    /// The same by another function of Python: what such a hub takes itself is work.
    Scheduler,
    /// For work: a worker of a pool, at a lock or a pipe.
    Worker,
}

/// What a function's own name says of its waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is no idleness, unless the kernel says so.
    Work,
    /// It is what its caller's is.
    OnBehalf,
    /// It is this.
    Idle(Idle),
}

impl Kind {
    /// That of a function.
    pub(crate) fn of(function: &str, file: &str) -> Kind {
        if waits_on_behalf(file) {
            return Kind::OnBehalf;
        }
        // Before Python 3.11 functions have no classes in their names.
        let name = function.rsplit('.').next().unwrap_or_default();
        let is_here = |(end, functions, _): &&(&str, &[&str], Idle)| {
            file.ends_with(end) && (functions.is_empty() || functions.contains(&name))
        };
        match PLACES.iter().find(is_here) {
            Some((.., idle)) => Kind::Idle(*idle),
            None => Kind::Work,
        }
    }
}

/// Where that is: how files end, and the functions in them; no function stands for all.
const PLACES: [(&str, &[&str], Idle); 13] = [
    ("asyncio/base_events.py", &["_run_once"], Idle::Scheduler),
    // Loops that are written in C, such as uvloop.
    ("asyncio/runners.py", &["run"], Idle::Hub),
    ("eventlet/hubs/hub.py", &[], Idle::Scheduler),
    ("eventlet/hubs/epolls.py", &[], Idle::Hub),
    ("eventlet/hubs/poll.py", &["wait", "do_poll"], Idle::Hub),
    ("gevent/hub.py", &["run"], Idle::Hub),
    ("gevent/_ffi/loop.py", &["run"], Idle::Hub),
    ("twisted/internet/epollreactor.py", &[], Idle::Hub),
    ("socketserver.py", &["serve_forever"], Idle::Scheduler),
    ("concurrent/futures/thread.py", &["_worker"], Idle::Worker),
    (
        "concurrent/futures/process.py",
        &["_process_worker"],
        Idle::Worker,
    ),
    ("multiprocessing/pool.py", &["worker"], Idle::Worker),
    ("futurist/_thread.py", &["_wait_for_work"], Idle::Worker),
];

/// What of that calls nothing which works: how files end, and the functions.
const ONLY_WAIT: [(&str, &str); 3] = [
    ("eventlet/hubs/epolls.py", "do_poll"),
    ("eventlet/hubs/poll.py", "do_poll"),
    ("futurist/_thread.py", "_wait_for_work"),
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

impl Idle {
    /// What a function waits for that was called by one which waits for this.
    pub(crate) fn of(function: &str, file: &str, caller: Option<Idle>) -> Option<Idle> {
        match (Kind::of(function, file), caller) {
            (Kind::OnBehalf, Some(Idle::Scheduler)) => Some(Idle::Hub),
            (Kind::OnBehalf, caller) => caller,
            (Kind::Idle(idle), _) => Some(idle),
            (Kind::Work, _) => None,
        }
    }

    /// The same for the innermost function of a stack of functions and files, the innermost first.
    pub(crate) fn of_stack<'a>(
        mut stack: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Option<Idle> {
        let (mut function, mut file) = stack.next()?;
        let innermost = (function, file);
        while waits_on_behalf(file) {
            (function, file) = stack.next()?;
        }
        let idle = Idle::of(function, file, None);
        match innermost == (function, file) {
            true => idle,
            false => Idle::of(innermost.0, innermost.1, idle),
        }
    }

    /// The same of a greenlet or task that is switched out. Greenlets of eventlet wait in a function of its hub, whatever for: what they
    /// wait for is said by its caller.
    pub(crate) fn of_parked<'a>(stack: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Idle> {
        let gives_way = |(function, file): &(&str, &str)| {
            function.ends_with("switch") && file.ends_with("eventlet/hubs/hub.py")
        };
        Idle::of_stack(stack.skip_while(gives_way))
    }

    /// What a function waits for, if it waits, that these have called, the innermost first.
    pub(super) fn of_call<'a>(
        place: &'a Place,
        callers: impl Iterator<Item = &'a Arc<Place>>,
    ) -> Option<Idle> {
        let stack = std::iter::once(place).chain(callers.map(|it| &**it));
        Idle::of_stack(stack.map(|place| (&*place.own_name().text, &*place.file.text)))
    }

    /// Whether the own time of a function that these have called is idleness, where nothing says what it waited for.
    pub(super) fn is_of_call<'a>(
        place: &'a Place,
        callers: impl Iterator<Item = &'a Arc<Place>>,
    ) -> bool {
        Idle::of_call(place, callers).is_some_and(Idle::covers_own_time)
    }

    /// Whether a function does nothing but wait for work, so that all of a call is that, whoever called it.
    pub(crate) fn only_waits(function: &str, file: &str) -> bool {
        let name = function.rsplit('.').next().unwrap_or_default();
        let is_here = |(end, function): &(&str, &str)| file.ends_with(end) && *function == name;
        ONLY_WAIT.iter().any(is_here)
    }

    /// Whether the own time of such a function is taken for idleness where nothing says what it waited for. That of a loop which
    /// runs what is due is work.
    pub(crate) fn covers_own_time(self) -> bool {
        self != Idle::Scheduler
    }

    /// Whether a wait for this reason is idleness.
    pub(crate) fn covers(self, reason: Reason) -> bool {
        match self {
            Idle::Hub | Idle::Scheduler => matches!(reason, Reason::Poll | Reason::Sleep),
            Idle::Worker => matches!(reason, Reason::Lock | Reason::Pipe),
        }
    }
}

fn waits_on_behalf(file: &str) -> bool {
    ON_BEHALF.iter().any(|end| file.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELECT: (&str, &str) = ("EpollSelector.select", "/usr/lib/python3.11/selectors.py");
    const LOOP: (&str, &str) = (
        "BaseEventLoop._run_once",
        "/usr/lib/python3.11/asyncio/base_events.py",
    );

    fn idle(stack: &[(&str, &str)]) -> Option<Idle> {
        Idle::of_stack(stack.iter().copied())
    }

    #[test]
    fn a_hub_that_polls_is_idle_and_a_function_that_polls_is_not() {
        assert_eq!(idle(&[SELECT, LOOP]), Some(Idle::Hub));
        assert_eq!(idle(&[LOOP]), Some(Idle::Scheduler));
        assert_eq!(idle(&[SELECT, ("fetch", "/srv/app.py")]), None);
        // A task that blocks the loop stands above its hub.
        assert_eq!(idle(&[("handler", "/srv/app.py"), LOOP]), None);
        assert_eq!(idle(&[SELECT, ("handler", "/srv/app.py"), LOOP]), None);
        assert_eq!(idle(&[]), None);
        assert!(Idle::Scheduler.covers(Reason::Sleep));
        assert!(!Idle::Hub.covers(Reason::Network));
    }

    #[test]
    fn a_worker_that_waits_for_work_is_idle() {
        let worker = (
            "_worker",
            "/usr/lib/python3.11/concurrent/futures/thread.py",
        );
        let wait = ("Condition.wait", "/usr/lib/python3.11/threading.py");
        assert_eq!(idle(&[worker]), Some(Idle::Worker));
        assert_eq!(idle(&[wait, worker]), Some(Idle::Worker));
        assert_eq!(idle(&[wait, ("get", "/srv/app.py")]), None);
        assert!(Idle::Worker.covers(Reason::Lock) && !Idle::Worker.covers(Reason::Gil));
    }
}
