//! Greenlets, tasks and threads by what they are: views that group by context show one row for all workers of a pool and not
//! one for each of a million requests.
//!
//! Who has a name that says something is called by it. Others are by what they run: a known role, or the function that they
//! were begun for. That is found out from their first calls, and stays, so that nothing of a table changes its name.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::keys::KeyBuilder;
use super::pairing::{FrameId, Step};
use super::roles::{POOL_WORKER, Says};
use crate::event::allowance::{shorten, text_bytes};
use crate::event::{Event, Place, ProcessChange, Text, What};

/// Runners remembered, and bytes of their names and labels; the older half is forgotten beyond that. They are mostly long
/// gone by then.
const MOST: usize = 1 << 16;
const MOST_BYTES: usize = 8 << 20;
/// Bytes of a label, of which a table may have as many as rows; a longer one is cut.
const LONGEST_LABEL: usize = 200;
/// Calls and returns from which it should be known what somebody runs; and those in a call from which it is what all was begun
/// for, and none that was made for a moment first.
const FIRST: u8 = 250;
const STAYS: u8 = 32;

/// Names that libraries give whatever has none, with a number behind.
const SAY_NOTHING: [&str; 7] = [
    "greenlet",
    "Greenlet",
    "GreenThread",
    "Task",
    "Thread",
    "ThreadPoolExecutor",
    "Dummy",
];

/// Who runs something: a greenlet or task, or a thread outside of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Runner {
    pid: u32,
    /// Of a thread. What a context runs on may change.
    tid: u32,
    context: u64,
}

impl Runner {
    /// Whoever runs in this context, or in this thread where there is none.
    pub fn of(pid: u32, tid: u32, context: Option<NonZeroU64>) -> Runner {
        match context {
            Some(context) => Runner {
                pid,
                tid: 0,
                context: context.get(),
            },
            None => Runner {
                pid,
                tid,
                context: 0,
            },
        }
    }

    /// Its process.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Whether it is the main thread of its process, which needs no name, or nobody knows which.
    pub fn is_main(self) -> bool {
        self.context == 0 && (self.tid == self.pid || self.tid == 0)
    }
}

/// What the greenlets, tasks and threads of a stream are.
#[derive(Debug, Clone, Default)]
pub struct Contexts {
    known: HashMap<Runner, Known, KeyBuilder>,
    /// Bytes of these.
    bytes: usize,
    /// How many were ever made.
    made: u64,
    /// The label that was made last: it is mostly the next one, too.
    last: Option<Arc<str>>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    name: Option<Arc<Text>>,
    /// What it is, once that is known.
    label: Option<Arc<str>>,
    /// Its calls and returns until then, and what is known by these.
    calls: u8,
    begun: Begun,
    /// The how manieth it is.
    number: u64,
    /// A thread that ended: the next one of its number is another.
    ended: bool,
}

/// What somebody may have been begun for, by its first calls: the outermost ones that say something.
#[derive(Debug, Clone, Default)]
struct Begun {
    pooled: bool,
    /// The one that is open, if one is.
    open: Option<OpenEntry>,
    /// Of those that have ended the one that took longest, and how long.
    ended: Option<(u64, Arc<Place>)>,
}

#[derive(Debug, Clone)]
struct OpenEntry {
    frame: FrameId,
    place: Arc<Place>,
    since: u64,
    /// Calls and returns in it.
    calls: u8,
}

impl Begun {
    /// Takes a step of its first ones. Answers what is known for certain.
    fn follow(&mut self, step: &Step<'_>) -> Option<String> {
        if let What::Call { place, .. } = &step.event.what
            && let Some(frame) = step.entered
        {
            match Says::of(&place.own_name().text, &place.file.text) {
                Says::Known(role, function) => return Some(format!("{role} ({function})")),
                Says::Pooled => self.pooled = true,
                Says::Begun if self.open.is_none() => {
                    self.open = Some(OpenEntry {
                        frame,
                        place: Arc::clone(place),
                        since: step.event.ts,
                        calls: 0,
                    });
                }
                Says::Begun | Says::Nothing => {}
            }
        }
        let open = self.open.as_mut()?;
        if step.finished.and_then(|it| it.frame) == Some(open.frame) {
            self.close(step.event.ts);
            return None;
        }
        open.calls += 1;
        let stays = open.calls >= STAYS;
        stays.then(|| self.so_far()).flatten()
    }

    fn close(&mut self, now: u64) {
        if let Some(open) = self.open.take() {
            let took = now.saturating_sub(open.since);
            if self
                .ended
                .as_ref()
                .is_none_or(|(longest, _)| took > *longest)
            {
                self.ended = Some((took, open.place));
            }
        }
    }

    /// What it is as far as that is known.
    fn so_far(&self) -> Option<String> {
        if self.pooled {
            return Some(POOL_WORKER.to_owned());
        }
        let open = self.open.as_ref().map(|open| &open.place);
        let place = open.or(self.ended.as_ref().map(|(_, place)| place))?;
        Some(place.own_name().text.clone())
    }
}

impl Contexts {
    /// Takes note of names. Answers of whom it is known from now on what they are.
    pub fn take(&mut self, event: &Event) -> Option<Runner> {
        match &event.what {
            What::Context { context, name } => {
                let runner = Runner::of(event.pid, event.tid, NonZeroU64::new(*context));
                // A thread is named some calls after it began, and what it is may be shown by then.
                if let Some(known) = self.known.get_mut(&runner)
                    && known.label.is_some()
                    && !known.ended
                {
                    let before = known.name.replace(Arc::clone(name));
                    self.bytes += text_bytes(name);
                    self.bytes -= before.as_deref().map_or(0, text_bytes);
                    return None;
                }
                let label = speaking(&name.text).map(|label| self.shared(label));
                let is_told = label.is_some();
                self.forget();
                self.insert(
                    runner,
                    Known {
                        name: Some(Arc::clone(name)),
                        label,
                        ..Known::default()
                    },
                );
                is_told.then_some(runner)
            }
            What::Process {
                change: ProcessChange::Exit,
                ..
            } => {
                let runner = Runner::of(event.pid, event.tid, None);
                self.known.get_mut(&runner)?.ended = true;
                self.settle(runner, None)
            }
            _ => None,
        }
    }

    /// Takes note of names, and of what is run. Answers of whom it is known from now on what they are.
    pub fn follow(&mut self, step: &Step<'_>) -> Option<Runner> {
        let event = step.event;
        let (frame, is_call) = match &event.what {
            What::Call { frame, .. } => (frame, true),
            What::Return { frame, .. } => (frame, false),
            _ => return self.take(event),
        };
        let runner = Runner::of(event.pid, event.tid, frame.context);
        if runner.is_main() {
            return None;
        }
        let known = self.known.get(&runner).filter(|known| !known.ended);
        if known.is_some_and(|known| known.label.is_some()) {
            return None;
        }
        if known.is_none() {
            self.forget();
            self.insert(runner, Known::default());
        }
        let is_open = || step.stack_of(frame.context).next().is_some();
        let has_ended = !is_call && !is_open();
        let known = self.known.get_mut(&runner)?;
        known.calls = known.calls.saturating_add(1);
        let is_over = known.calls >= FIRST || has_ended;
        let label = known.begun.follow(step);
        if label.is_none() && !is_over {
            return None;
        }
        known.begun.close(event.ts);
        let label = label.or_else(|| known.begun.so_far());
        self.settle(runner, label)
    }

    /// What somebody is called, if that is known.
    pub fn name(&self, runner: Runner) -> Option<&Text> {
        self.known.get(&runner)?.name.as_deref()
    }

    /// Whether it is known what somebody is.
    pub(super) fn is_told(&self, runner: Runner) -> bool {
        let known = self.known.get(&runner);
        known.is_some_and(|known| known.label.is_some())
    }

    /// What somebody is; `None` as long as that is to be found out.
    pub fn label(&self, runner: Runner) -> Option<Arc<str>> {
        self.known.get(&runner)?.label.clone()
    }

    /// What somebody is, as far as that is known.
    pub fn label_so_far(&self, runner: Runner) -> Arc<str> {
        let known = self.known.get(&runner);
        let label = known.and_then(|known| known.label.clone());
        let name = || known.and_then(|known| known.name.as_deref());
        let begun = || {
            let mut begun = known?.begun.so_far()?;
            shorten(&mut begun, LONGEST_LABEL);
            Some(Arc::from(begun))
        };
        label
            .or_else(begun)
            .unwrap_or_else(|| match (name(), runner.context) {
                (Some(name), _) => kind(&name.text).into(),
                (None, 0) => "thread".into(),
                (None, _) => "(unnamed)".into(),
            })
    }

    /// Has all be for good what is known so far: nothing comes any more.
    pub(crate) fn settle_all(&mut self) {
        let runners: Vec<Runner> = self.known.keys().copied().collect();
        for runner in runners {
            self.settle(runner, None);
        }
    }

    /// Has somebody be for good what is known so far.
    pub(super) fn settle_so_far(&mut self, runner: Runner) {
        self.settle(runner, None);
    }

    /// Has somebody be this for good, or what is known so far. Answers who it is, unless that is known already.
    fn settle(&mut self, runner: Runner, label: Option<String>) -> Option<Runner> {
        let label = match label {
            Some(mut label) => {
                shorten(&mut label, LONGEST_LABEL);
                self.shared(label)
            }
            None => self.label_so_far(runner),
        };
        let known = self.known.get_mut(&runner)?;
        if known.label.is_some() {
            return None;
        }
        self.bytes += label.len();
        known.label = Some(label);
        known.begun = Begun::default();
        Some(runner)
    }

    /// A label, shared with the one before where that is the same.
    fn shared(&mut self, label: String) -> Arc<str> {
        let label = match &self.last {
            Some(last) if **last == *label => Arc::clone(last),
            _ => label.into(),
        };
        self.last = Some(Arc::clone(&label));
        label
    }

    fn insert(&mut self, runner: Runner, known: Known) {
        self.made += 1;
        let known = Known {
            number: self.made,
            ..known
        };
        self.bytes += known.bytes();
        if let Some(before) = self.known.insert(runner, known) {
            self.bytes -= before.bytes();
        }
    }

    /// Forgets the older half where there is no room.
    fn forget(&mut self) {
        if self.known.len() < MOST && self.bytes <= MOST_BYTES {
            return;
        }
        let mut numbers: Vec<u64> = self.known.values().map(|known| known.number).collect();
        let half = numbers.len() / 2;
        let (_, &mut median, _) = numbers.select_nth_unstable(half);
        self.known.retain(|_, known| known.number > median);
        self.bytes = self.known.values().map(Known::bytes).sum();
    }
}

impl Known {
    fn bytes(&self) -> usize {
        let name = self.name.as_deref().map_or(0, text_bytes);
        name + self.label.as_deref().map_or(0, str::len)
    }
}

/// A name without its number: `worker-12` is a `worker`, `Task-7 (handle)` a `Task (handle)`, `ThreadPoolExecutor-0_3` a
/// `ThreadPoolExecutor`.
pub(crate) fn kind(name: &str) -> String {
    let end = name.find(' ').unwrap_or(name.len());
    let (word, rest) = name.split_at(end);
    let is_number = |it: char| it.is_ascii_digit();
    let stem = word.trim_end_matches(|it| is_number(it) || matches!(it, '-' | '_'));
    let number = word.get(stem.len()..).unwrap_or_default();
    let has_number = number.starts_with(['-', '_']) && number.ends_with(is_number);
    let mut kind = match has_number && !stem.is_empty() {
        true => format!("{stem}{rest}"),
        false => name.to_owned(),
    };
    shorten(&mut kind, LONGEST_LABEL);
    kind
}

/// The same, where that says more than that somebody had no name. From Python 3.10 on a thread without one is called
/// `Thread-1 (work)`.
fn speaking(name: &str) -> Option<String> {
    let kind = kind(name);
    let is_made_up = SAY_NOTHING.contains(&&*kind) || kind.starts_with("Thread (");
    (kind == name || !is_made_up).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, event, in_context, in_file, returned};

    fn named(pid: u32, context: u64, name: &str) -> Event {
        Event {
            pid,
            tid: pid,
            ..crate::analysis::testing::named(0, context, name)
        }
    }

    #[test]
    fn a_name_without_its_number_says_what_a_context_is() {
        for (name, expected) in [
            ("worker-12", "worker"),
            ("Task-7 (Server.handle)", "Task (Server.handle)"),
            ("GreenThread-5", "GreenThread"),
            ("main", "main"),
            ("db-pool", "db-pool"),
            ("-3", "-3"),
            ("poll-", "poll-"),
            ("ThreadPoolExecutor-0_12", "ThreadPoolExecutor"),
            ("asyncio_0", "asyncio"),
            ("Thread-3 (consume)", "Thread (consume)"),
            ("db2", "db2"),
        ] {
            assert_eq!(kind(name), expected);
        }
    }

    #[test]
    fn a_name_that_only_counts_says_nothing() {
        for name in [
            "greenlet-7",
            "GreenThread-12",
            "Task-3",
            "Thread-1",
            "Dummy-2",
            "Thread-1 (consume)",
            "ThreadPoolExecutor-0_3",
        ] {
            assert_eq!(speaking(name), None, "{name}");
        }
        for (name, says) in [
            ("Task-7 (serve)", "Task (serve)"),
            ("Thread", "Thread"),
            ("Connection-4", "Connection"),
        ] {
            assert_eq!(speaking(name).as_deref(), Some(says));
        }
    }

    #[test]
    fn a_thread_that_is_named_again_keeps_what_it_is_and_the_next_one_of_its_number_does_not() {
        let mut contexts = Contexts::default();
        let called = |name| Event {
            tid: 9,
            ..named(1, 0, name)
        };
        let thread = Runner::of(1, 9, None);
        assert_eq!(contexts.take(&called("reader-1")), Some(thread));
        assert_eq!(contexts.take(&called("writer")), None);
        assert_eq!(contexts.label(thread).as_deref(), Some("reader"));
        assert_eq!(contexts.name(thread).map(|it| &*it.text), Some("writer"));
        let bytes: usize = contexts.known.values().map(Known::bytes).sum();
        assert_eq!(contexts.bytes, bytes);
        let exit = What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        };
        contexts.take(&Event {
            what: exit,
            ..called("")
        });
        contexts.take(&called("other"));
        assert_eq!(contexts.label(thread).as_deref(), Some("other"));
    }

    #[test]
    fn contexts_of_different_processes_have_names_of_their_own() {
        let mut contexts = Contexts::default();
        contexts.take(&named(1, 5, "reader-1"));
        contexts.take(&named(2, 5, "writer"));
        let label = |pid, context| contexts.label_so_far(green(pid, context));
        assert_eq!(&*label(1, 5), "reader");
        assert_eq!(&*label(2, 5), "writer");
        assert_eq!(&*label(2, 6), "(unnamed)");
    }

    fn green(pid: u32, context: u64) -> Runner {
        Runner::of(pid, pid, NonZeroU64::new(context))
    }

    /// What is said of the runner of the last event, after each of these: by context and thread, functions with their files
    /// that are called, or that return.
    fn said<T>(events: Vec<Event>, say: impl Fn(&Contexts, Runner) -> T) -> Vec<T> {
        let (mut contexts, mut pairing) = (Contexts::default(), Pairing::new());
        let mut said = Vec::new();
        for mut event in events {
            let step = pairing.follow(&mut event).expect("an event");
            contexts.follow(&step);
            if let What::Call { frame, .. } | What::Return { frame, .. } = &step.event.what {
                let runner = Runner::of(step.event.pid, step.event.tid, frame.context);
                said.push(say(&contexts, runner));
            }
        }
        said
    }

    /// What it is, once that is known.
    fn labels(events: Vec<Event>) -> Vec<Option<String>> {
        said(events, |contexts, runner| {
            Some(contexts.label(runner)?.to_string())
        })
    }

    /// What it is as far as that is known.
    fn so_far(events: Vec<Event>) -> Vec<String> {
        said(events, |contexts, runner| {
            contexts.label_so_far(runner).to_string()
        })
    }

    fn by(tid: u32, context: u64, file: &str, event: Event) -> Event {
        let event = in_file(file, in_context(context, event.ts, event));
        Event { tid, ..event }
    }

    #[test]
    fn greenlets_whose_names_say_nothing_are_called_by_what_they_were_begun_for_and_stay_so() {
        let green = |event| by(1, 4, "/x/eventlet/greenthread.py", event);
        let rpc = |event| by(1, 4, "/x/oslo_messaging/rpc/server.py", event);
        let app = |event| by(1, 4, "/srv/app.py", event);
        let found = labels(vec![
            named(1, 4, "GreenThread-4"),
            green(call(10, "main")),
            rpc(call(11, "_process_incoming")),
            app(call(12, "build")),
            app(returned(13, "build")),
            rpc(returned(14, "_process_incoming")),
            // It is what it was, whatever it does later.
            app(call(15, "other")),
        ]);
        let role = Some("RPC worker (_process_incoming)".to_owned());
        assert_eq!(found[0], None);
        assert!(found[1..].iter().all(|label| *label == role), "{found:?}");
        let green = |event| by(1, 5, "/x/eventlet/greenthread.py", event);
        let app = |event| by(1, 5, "/srv/app.py", event);
        let found = so_far(vec![
            named(1, 5, "GreenThread-5"),
            green(call(10, "main")),
            app(call(11, "consume")),
        ]);
        assert_eq!(found, ["GreenThread", "consume"]);
        // One that ends before it has run anything is what its name says.
        let found = labels(vec![
            named(1, 5, "GreenThread-5"),
            green(call(10, "main")),
            green(returned(11, "main")),
        ]);
        assert_eq!(found, [None, Some("GreenThread".to_owned())]);
    }

    #[test]
    fn threads_are_called_by_their_names_or_by_what_they_run_and_the_main_one_is_not() {
        let lib = |tid, event| by(tid, 0, "/usr/lib/python3.11/threading.py", event);
        let app = |tid, event| by(tid, 0, "/srv/app.py", event);
        let pool = |tid, event| by(tid, 0, "/x/concurrent/futures/thread.py", event);
        let thread = |tid, name| Event {
            tid,
            ..named(1, 0, name)
        };
        let found = so_far(vec![
            app(1, call(1, "serve")),
            lib(7, call(10, "_bootstrap")),
            lib(7, call(11, "run")),
            app(7, call(12, "consume")),
            lib(8, call(20, "_bootstrap")),
            pool(8, call(21, "_worker")),
            pool(8, call(22, "run")),
            app(8, call(23, "resize")),
            thread(9, "poller-3"),
            lib(9, call(30, "_bootstrap")),
            thread(10, "Thread-10"),
            app(10, call(31, "produce")),
        ]);
        let expected = [
            "thread",
            "thread",
            "thread",
            "consume",
            "thread",
            "pool worker",
            "pool worker",
            "pool worker",
            "poller",
            "produce",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_called_for_a_moment_first_is_not_what_all_was_begun_for() {
        let other = |event| by(7, 0, "/x/oslo_utils/timeutils.py", event);
        let lib = |event| by(7, 0, "/x/oslo_utils/excutils.py", event);
        let future = |event| by(7, 0, "/x/concurrent/futures/_base.py", event);
        let app = |event| by(7, 0, "/srv/app.py", event);
        let mut events = vec![
            lib(call(10, "wrapper")),
            other(call(11, "__init__")),
            other(returned(13, "__init__")),
            future(call(14, "set_running_or_notify_cancel")),
            future(returned(90, "set_running_or_notify_cancel")),
            app(call(100, "consume")),
        ];
        for at in 0..u64::from(STAYS) {
            events.push(app(call(200 + 10 * at, "step")));
            events.push(app(returned(205 + 10 * at, "step")));
        }
        let found = labels(events.clone());
        assert_eq!(
            found.iter().position(Option::is_some),
            Some(5 + usize::from(STAYS) - 1)
        );
        assert_eq!(found.last(), Some(&Some("consume".to_owned())));
        // A short one is told when it has ended, by what took longest.
        events.truncate(6);
        events.extend([
            app(returned(150, "consume")),
            other(call(160, "stop")),
            other(returned(161, "stop")),
            lib(returned(170, "wrapper")),
        ]);
        let found = labels(events);
        assert_eq!(found.iter().position(Option::is_some), Some(9));
        assert_eq!(found[9].as_deref(), Some("consume"));
    }

    #[test]
    fn a_worker_of_a_pool_that_has_rpc_to_serve_is_an_rpc_worker_whatever_its_pool_calls_first() {
        let pool = |event| by(7, 0, "/x/futurist/_thread.py", event);
        let future = |event| by(7, 0, "/x/futurist/_futures.py", event);
        let rpc = |event| by(7, 0, "/x/oslo_messaging/rpc/server.py", event);
        let other = |event| by(7, 0, "/srv/app.py", event);
        let found = so_far(vec![
            pool(call(10, "run")),
            future(call(11, "set_running_or_notify_cancel")),
            future(returned(12, "set_running_or_notify_cancel")),
            other(call(13, "prepare")),
            other(returned(14, "prepare")),
            rpc(call(15, "_process_incoming")),
            rpc(returned(16, "_process_incoming")),
        ]);
        assert!(found[..5].iter().all(|it| it == "pool worker"), "{found:?}");
        assert_eq!(found[5..], ["RPC worker (_process_incoming)"; 2]);
    }

    #[test]
    fn what_says_nothing_in_many_calls_is_no_longer_waited_for_and_another_thread_of_the_number_is_another()
     {
        let lib = |event| by(7, 0, "/usr/lib/python3.11/threading.py", event);
        let mut events = vec![lib(call(1, "_bootstrap"))];
        for at in 1..u64::from(FIRST) {
            events.push(lib(call(10 * at, "wait")));
            events.push(lib(returned(10 * at + 5, "wait")));
        }
        let found = labels(events.clone());
        let settled = found.iter().position(Option::is_some);
        assert_eq!(settled, Some(usize::from(FIRST) - 1));
        assert_eq!(found.last(), Some(&Some("thread".to_owned())));
        let exit = What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        };
        events.push(Event {
            tid: 7,
            ..event(10_000, exit)
        });
        events.push(by(7, 0, "/srv/app.py", call(10_001, "consume")));
        let found = so_far(events);
        assert_eq!(found.last().map(String::as_str), Some("consume"));
    }

    #[test]
    fn long_names_of_contexts_are_held_within_a_budget_and_labels_are_cut() {
        let mut contexts = Contexts::default();
        for number in 1..=10_000 {
            contexts.take(&named(1, number, &format!("{number}{}", "x".repeat(4_000))));
            assert!(contexts.bytes <= MOST_BYTES + 10_000);
        }
        assert_eq!(
            contexts.bytes,
            contexts.known.values().map(Known::bytes).sum::<usize>()
        );
        let newest = contexts.label(green(1, 10_000)).expect("known");
        assert_eq!(newest.len(), LONGEST_LABEL + 3);
        assert!(newest.starts_with("10000xx") && newest.ends_with("x..."));
    }

    #[test]
    fn of_very_many_contexts_the_newer_ones_are_known() {
        let mut contexts = Contexts::default();
        for number in 1..=2 * MOST as u64 {
            contexts.take(&named(1, number, "task-1"));
        }
        assert!(contexts.known.len() <= MOST);
        let newest = contexts.label(green(1, 2 * MOST as u64));
        assert_eq!(newest.as_deref(), Some("task"));
    }
}
