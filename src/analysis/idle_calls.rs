//! Of calls that end, how much of their time was waiting for work: theirs, and of what they called.

use std::collections::HashMap;

use super::idle::{Idle, Kind};
use super::keys::KeyBuilder;
use super::pairing::{FrameId, Step};
use crate::event::What;

/// Functions of which it is remembered what their waiting is; all are forgotten beyond that.
const MOST_KINDS: usize = 1 << 16;

/// Of the calls that are open, what is known so far.
#[derive(Debug, Default)]
pub struct IdleCalls {
    within: HashMap<FrameId, u64, KeyBuilder>,
    /// Whether functions are left out of the stream, so that who is next on a stack need not have been called by who is below.
    filtered: bool,
    kinds: HashMap<u64, Kind, KeyBuilder>,
}

/// Waiting for work in a call that ended, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// In all of it.
    pub all_ns: u64,
    /// Of that, in no call below it.
    pub own_ns: u64,
}

impl IdleCalls {
    /// None are open. In a stream that is filtered nobody knows what a function called.
    pub fn new(filtered: bool) -> IdleCalls {
        IdleCalls {
            filtered,
            ..IdleCalls::default()
        }
    }

    /// What there was in the call that ended with this, if one did. Of one that somebody else has measured, and under a filter,
    /// only its own name tells that it waits, because nobody knows who called it.
    pub fn take(&mut self, step: &Step<'_>) -> Waited {
        for gone in step.given_up {
            self.within.remove(&gone.frame);
        }
        let What::Return { place, .. } = &step.event.what else {
            return Waited::default();
        };
        let (Some(left), Some(key)) = (&step.finished, step.key) else {
            return Waited::default();
        };
        let (name, file) = (&*place.own_name().text, &*place.file.text);
        if left.measured || self.filtered {
            let own_ns = match Idle::only_waits(name, file) {
                true => left.self_ns,
                false => 0,
            };
            let all_ns = own_ns;
            return Waited { all_ns, own_ns };
        }
        if self.kinds.len() >= MOST_KINDS {
            self.kinds.clear();
        }
        let kinds = self.kinds.entry(key.number());
        let kind = *kinds.or_insert_with(|| Kind::of(name, file));
        let own_ns =
            match kind != Kind::Work && Idle::is_of_call(place, step.stack().map(|it| it.place)) {
                true => left.self_ns,
                false => 0,
            };
        let within = left.frame.and_then(|frame| self.within.remove(&frame));
        let all_ns = own_ns.saturating_add(within.unwrap_or(0));
        if all_ns > 0
            && let Some(caller) = step.stack().next()
        {
            let within = self.within.entry(caller.frame).or_default();
            *within = within.saturating_add(all_ns);
        }
        Waited { all_ns, own_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, in_file, returned};
    use crate::event::Event;

    /// Name, all and own idleness of the calls that end.
    fn waited(events: Vec<Event>) -> Vec<(String, u64, u64)> {
        let (mut idle, mut pairing) = (IdleCalls::default(), Pairing::new());
        let mut all = Vec::new();
        for mut event in events {
            let step = pairing.follow(&mut event).expect("an event");
            let Waited { all_ns, own_ns } = idle.take(&step);
            if let What::Return { place, .. } = &step.event.what {
                all.push((place.function.text.clone(), all_ns, own_ns));
            }
        }
        assert!(idle.within.is_empty(), "what has ended is forgotten");
        all
    }

    #[test]
    fn what_a_pools_worker_waits_is_idleness_of_all_that_led_to_it_and_what_its_work_waits_is_not()
    {
        let pool = |event| in_file("/usr/lib/python3.11/concurrent/futures/thread.py", event);
        let threading = |event| in_file("/usr/lib/python3.11/threading.py", event);
        let queue = |event| in_file("/usr/lib/python3.11/queue.py", event);
        let found = waited(vec![
            pool(call(0, "_worker")),
            queue(call(10, "get")),
            threading(call(12, "wait")),
            threading(returned(112, "wait")),
            queue(returned(115, "get")),
            call(120, "fetch"),
            threading(call(121, "wait")),
            threading(returned(521, "wait")),
            returned(530, "fetch"),
            pool(returned(540, "_worker")),
        ]);
        let row = |name: &str, all, own| (name.to_owned(), all, own);
        assert_eq!(
            found,
            [
                row("wait", 100, 100),
                row("get", 105, 5),
                row("wait", 0, 0),
                row("fetch", 0, 0),
                row("_worker", 130, 25),
            ]
        );
    }

    #[test]
    fn under_a_filter_what_somebody_between_may_have_called_is_no_idleness() {
        let pool = |event| in_file("/usr/lib/python3.11/concurrent/futures/thread.py", event);
        let threading = |event| in_file("/usr/lib/python3.11/threading.py", event);
        let (mut idle, mut pairing) = (IdleCalls::new(true), Pairing::new());
        for mut event in [
            pool(call(0, "_worker")),
            threading(call(12, "wait")),
            threading(returned(112, "wait")),
            pool(returned(540, "_worker")),
        ] {
            let step = pairing.follow(&mut event).expect("an event");
            assert_eq!(idle.take(&step), Waited::default());
        }
    }

    #[test]
    fn of_calls_that_were_measured_elsewhere_only_what_does_nothing_but_wait_is_idle() {
        let measured = |file: &str, at, name: &str, took| {
            let mut event = in_file(file, returned(at, name));
            if let What::Return { duration_ns, .. } = &mut event.what {
                *duration_ns = Some(took);
            }
            event
        };
        let found = waited(vec![
            measured("/x/futurist/_thread.py", 1_000, "_wait_for_work", 900),
            measured("/usr/lib/python3.11/threading.py", 3_000, "wait", 900),
            measured("/x/eventlet/hubs/epolls.py", 5_000, "do_poll", 800),
        ]);
        let row = |name: &str, all, own| (name.to_owned(), all, own);
        assert_eq!(
            found,
            [
                row("_wait_for_work", 900, 900),
                row("wait", 0, 0),
                row("do_poll", 800, 800),
            ]
        );
    }
}
