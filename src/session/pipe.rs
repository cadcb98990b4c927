//! What every event of a session goes through: filters, pairing, the shortest duration that was asked for, and the sink;
//! and the account of what was lost on the way here. Knows no process, no thread and no clock.

use std::io;

use crate::analysis::found::FieldsFound;
use crate::analysis::idle_calls::{IdleCalls, Waited};
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::event::loss::Losses;
use crate::event::{Event, ProcessChange, What};
use crate::export::Sink;
use crate::script::Filters;

/// What a pipe lets through, and how it pairs.
#[derive(Debug, Default)]
pub struct PipeSettings {
    /// The rules of the traced interpreters.
    pub pairing: Pairing,
    /// Functions that were asked for: the kernel's filter may be wider.
    pub filters: Filters,
    /// Events after which nothing more is let through.
    pub max_events: Option<u64>,
    /// A held command whose release the engine tells as its becoming another program, which it is not.
    pub released: Option<u32>,
    /// Only calls of some length.
    pub minimum: Option<Minimum>,
    /// The fields that were asked for.
    pub fields: FieldsFound,
}

/// Which calls are long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Minimum {
    /// Nanoseconds that they take at least.
    pub ns: u64,
    /// Whether the engine measures them, and tells no others.
    pub by_engine: bool,
    /// Whether those are let through that are long only because their threads waited for work. They are marked.
    pub with_idle: bool,
}

/// See the head of the module.
#[derive(Debug)]
pub struct Pipe {
    settings: PipeSettings,
    /// Whether functions are filtered at all, found out once and not per event.
    filters: bool,
    /// What did not arrive.
    pub losses: Losses,
    delivered: u64,
    too_late: u64,
    nameless: u64,
    untimed: u64,
    idle: IdleCalls,
    idle_calls: u64,
    idle_calls_ns: u64,
    output_error: Option<io::Error>,
}

impl Pipe {
    /// A pipe through which nothing has gone.
    pub fn new(settings: PipeSettings) -> Pipe {
        let filters = !settings.filters.is_empty();
        Pipe {
            filters,
            settings,
            losses: Losses::new(),
            delivered: 0,
            too_late: 0,
            nameless: 0,
            untimed: 0,
            idle: IdleCalls::new(filters),
            idle_calls: 0,
            idle_calls_ns: 0,
            output_error: None,
        }
    }

    /// Takes one event.
    pub fn event(&mut self, event: &mut Event, sink: &mut dyn Sink) {
        if let What::Lost { count, stage, .. } = event.what {
            self.losses.told(stage, count);
            if !self.is_full() {
                self.pass(event, sink);
            }
            return;
        }
        if self.is_full() || self.is_release(event) || !self.is_asked_for(event) {
            return;
        }
        if self.output_error.is_none() {
            self.report_losses(event.ts, sink);
        }
        self.delivered += u64::from(self.pass(event, sink));
    }

    /// Tells the sink what was lost and was not told yet.
    pub fn report_losses(&mut self, now: u64, sink: &mut dyn Sink) {
        let mut lost = Vec::new();
        self.losses.report_rest(now, &mut lost);
        for event in &mut lost {
            self.pass(event, sink);
        }
    }

    /// Pairs the events of a process as those of one with greenlets from now on.
    pub fn has_greenlets(&mut self, pid: u32, sink: &mut dyn Sink) {
        let rules = PairingRules {
            greenlets: true,
            ..self.settings.pairing.default_rules()
        };
        self.rules(pid, rules, sink);
    }

    /// Pairs the events of a process by these rules from now on.
    pub fn rules(&mut self, pid: u32, rules: PairingRules, sink: &mut dyn Sink) {
        self.settings.pairing.set_rules(pid, rules);
        self.written(sink.rules(pid, rules));
    }

    /// Takes note of how writing went. Only the first error counts: what comes after it is not written.
    pub fn written(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.output_error.get_or_insert(error);
        }
    }

    /// Whether as many events were let through as were asked for.
    pub fn is_full(&self) -> bool {
        let most = self.settings.max_events;
        most.is_some_and(|most| self.delivered >= most)
    }

    /// Why the output takes nothing more, if it does not.
    pub fn output_error(&self) -> Option<&io::Error> {
        self.output_error.as_ref()
    }

    /// Events that the sink was given.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Events that came when the output had failed.
    pub fn too_late(&self) -> u64 {
        self.too_late
    }

    /// Events in which something has no name because there was no room for it.
    pub fn nameless(&self) -> u64 {
        self.nameless
    }

    /// Calls that ended and were left out because nobody knows whether they were long enough.
    pub fn untimed(&self) -> u64 {
        self.untimed
    }

    /// Calls that were left out because they were long only by waiting for work, and how long they waited, in nanoseconds.
    pub fn idle_calls(&self) -> (u64, u64) {
        (self.idle_calls, self.idle_calls_ns)
    }

    /// What became of the fields that were asked for.
    pub fn fields(&self) -> &FieldsFound {
        &self.settings.fields
    }

    /// The calls that are open, and the account of those without a partner.
    pub fn pairing(&self) -> &Pairing {
        &self.settings.pairing
    }

    /// Lets go of what is left when all is over: the calls that are open, how many events came when the output had failed,
    /// and why it did.
    pub(super) fn end(self) -> (Pairing, u64, Option<io::Error>) {
        (self.settings.pairing, self.too_late, self.output_error)
    }

    /// Whether it tells only that a command was let go.
    fn is_release(&mut self, event: &Event) -> bool {
        let What::Process {
            change: ProcessChange::Exec,
            ..
        } = event.what
        else {
            return false;
        };
        let released = &mut self.settings.released;
        released.take_if(|pid| *pid == event.pid).is_some()
    }

    fn is_asked_for(&self, event: &Event) -> bool {
        match &event.what {
            What::Call { place, .. } | What::Return { place, .. } | What::Line { place, .. } => {
                !self.filters || self.settings.filters.accept(place)
            }
            _ => true,
        }
    }

    /// Whether it was something to be written, and was given to the sink.
    fn pass(&mut self, event: &mut Event, sink: &mut dyn Sink) -> bool {
        let Some(step) = self.settings.pairing.follow(event) else {
            return false;
        };
        if let Some(fields) = step.event.fields() {
            let at_return = matches!(step.event.what, What::Return { .. });
            self.settings.fields.take(fields, at_return);
        }
        let mut step = step;
        let marked;
        if let Some(minimum) = self.settings.minimum {
            let waited = self.idle.take(&step);
            let is_long = match &step.event.what {
                What::Call { .. } => minimum.by_engine,
                What::Return {
                    duration_ns: None, ..
                } => {
                    self.untimed += u64::from(!minimum.by_engine);
                    minimum.by_engine
                }
                What::Return {
                    duration_ns: Some(ns),
                    ..
                } => minimum.by_engine || *ns >= minimum.ns,
                _ => true,
            };
            if !is_long {
                return false;
            }
            if let Some(event) = idle_call(step.event, waited, minimum) {
                if !minimum.with_idle {
                    self.idle_calls += 1;
                    self.idle_calls_ns = self.idle_calls_ns.saturating_add(waited.own_ns);
                    return false;
                }
                marked = event;
                step = step.with_event(&marked);
            }
        }
        if self.output_error.is_some() {
            self.too_late += u64::from(!matches!(step.event.what, What::Lost { .. }));
            return false;
        }
        self.nameless += u64::from(step.event.is_nameless());
        if let Err(error) = sink.step(&step) {
            self.output_error = Some(error);
        }
        true
    }
}

/// The event of a call that is long only because it waited, with word of that.
fn idle_call(event: &Event, waited: Waited, minimum: Minimum) -> Option<Event> {
    let What::Return {
        duration_ns: Some(ns),
        ..
    } = event.what
    else {
        return None;
    };
    if waited.all_ns == 0 || ns.saturating_sub(waited.all_ns) >= minimum.ns {
        return None;
    }
    let mut event = event.clone();
    if let What::Return { frame, .. } = &mut event.what {
        frame.idle_ns = waited.all_ns.min(ns);
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Step;
    use crate::analysis::testing::{call, event, in_file, returned};
    use crate::event::LossStage;
    use crate::event::loss::lost;
    use crate::export::End;
    use crate::script::filter::Glob;

    /// Remembers the kinds, names and durations that it is given, and takes so many events.
    #[derive(Debug)]
    struct Seen {
        lines: Vec<String>,
        rules: Vec<(u32, PairingRules)>,
        room: usize,
    }

    impl Seen {
        fn new() -> Seen {
            Seen {
                lines: Vec::new(),
                rules: Vec::new(),
                room: usize::MAX,
            }
        }
    }

    impl Sink for Seen {
        fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
            self.rules.push((pid, rules));
            Ok(())
        }

        fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
            if self.lines.len() >= self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let (kind, depth) = (step.event.what.kind(), step.depth());
            self.lines.push(match &step.event.what {
                What::Call { place, .. } => format!("{depth} {kind} {}", place.function.text),
                What::Return {
                    place,
                    duration_ns,
                    frame,
                    ..
                } => {
                    let idle = match frame.idle_ns {
                        0 => String::new(),
                        idle => format!(" idle {idle}"),
                    };
                    format!(
                        "{depth} {kind} {} {duration_ns:?}{idle}",
                        place.function.text
                    )
                }
                What::Lost { count, .. } => format!("{kind} {count}"),
                _ => kind.to_owned(),
            });
            Ok(())
        }

        fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
            Ok(None)
        }
    }

    fn feed(pipe: &mut Pipe, seen: &mut Seen, events: impl IntoIterator<Item = Event>) {
        for mut event in events {
            pipe.event(&mut event, seen);
        }
    }

    /// What a sink sees of these events.
    fn through(settings: PipeSettings, events: Vec<Event>) -> (Pipe, Vec<String>) {
        let (mut pipe, mut seen) = (Pipe::new(settings), Seen::new());
        feed(&mut pipe, &mut seen, events);
        (pipe, seen.lines)
    }

    fn nested() -> Vec<Event> {
        vec![
            call(10, "main"),
            call(20, "load"),
            returned(25, "load"),
            returned(50, "main"),
        ]
    }

    #[test]
    fn a_sink_is_given_depths_and_durations() {
        let (pipe, lines) = through(PipeSettings::default(), nested());
        let expected = [
            "0 call main",
            "1 call load",
            "1 return load Some(5)",
            "0 return main Some(40)",
        ];
        assert_eq!(lines, expected);
        assert_eq!((pipe.delivered(), pipe.too_late()), (4, 0));
        assert_eq!(pipe.pairing().unpaired().total(), 0);
    }

    #[test]
    fn after_as_many_events_as_were_asked_for_nothing_is_let_through() {
        let settings = PipeSettings {
            max_events: Some(2),
            ..PipeSettings::default()
        };
        let (pipe, lines) = through(settings, nested());
        assert_eq!(lines, ["0 call main", "1 call load"]);
        assert!(pipe.is_full());
        assert_eq!(pipe.delivered(), 2);
    }

    #[test]
    fn calls_below_the_minimum_are_left_out_and_the_others_are_returns_alone() {
        let settings = PipeSettings {
            minimum: Some(Minimum {
                ns: 6,
                ..Minimum::default()
            }),
            ..PipeSettings::default()
        };
        let mut events = nested();
        events.insert(2, event(22, What::GcStart { generation: 0 }));
        events.push(returned(60, "never_called"));
        let (pipe, lines) = through(settings, events);
        assert_eq!(lines, ["gc_start", "0 return main Some(40)"]);
        // Nobody knows how long the one took whose call was not seen.
        assert_eq!((pipe.delivered(), pipe.untimed()), (2, 1));
    }

    /// A pool's worker that waits for work, and works once.
    fn worker() -> Vec<Event> {
        let pool = |event| in_file("/x/concurrent/futures/thread.py", event);
        let queue = |event| in_file("/x/queue.py", event);
        vec![
            pool(call(0, "_worker")),
            queue(call(10, "get")),
            queue(returned(110, "get")),
            call(120, "resize"),
            returned(150, "resize"),
            queue(call(160, "get")),
            queue(returned(460, "get")),
            pool(returned(470, "_worker")),
        ]
    }

    #[test]
    fn calls_that_are_long_only_by_waiting_for_work_are_left_out_and_counted() {
        let at_least = |ns, with_idle| PipeSettings {
            minimum: Some(Minimum {
                ns,
                by_engine: false,
                with_idle,
            }),
            ..PipeSettings::default()
        };
        // 30 of the worker's 470 are work, which is in resize.
        let (pipe, lines) = through(at_least(20, false), worker());
        let shown = ["1 return resize Some(30)", "0 return _worker Some(470)"];
        assert_eq!(lines, shown);
        assert_eq!(pipe.idle_calls(), (2, 100 + 300));
        let (pipe, lines) = through(at_least(40, false), worker());
        assert_eq!(lines, Vec::<String>::new());
        assert_eq!(pipe.idle_calls(), (3, 100 + 300 + 40));
        let (pipe, lines) = through(at_least(40, true), worker());
        let shown = [
            "1 return get Some(100) idle 100",
            "1 return get Some(300) idle 300",
            "0 return _worker Some(470) idle 440",
        ];
        assert_eq!(lines, shown);
        assert_eq!(pipe.idle_calls(), (0, 0));
    }

    #[test]
    fn what_was_not_asked_for_reaches_neither_pairing_nor_sink() {
        let settings = PipeSettings {
            filters: Filters {
                functions: vec![Glob::new("l*").expect("a glob")],
                ..Filters::default()
            },
            ..PipeSettings::default()
        };
        let mut events = nested();
        events.push(event(60, What::GcStart { generation: 0 }));
        let (_, lines) = through(settings, events);
        let expected = ["0 call load", "0 return load Some(5)", "gc_start"];
        assert_eq!(lines, expected, "what has no function is always asked for");
    }

    #[test]
    fn losses_are_told_before_the_next_event_and_once_more_at_the_end() {
        let (mut pipe, mut seen) = (Pipe::new(PipeSettings::default()), Seen::new());
        feed(&mut pipe, &mut seen, [call(10, "main")]);
        pipe.losses.add(LossStage::Kernel, 3);
        feed(&mut pipe, &mut seen, [returned(50, "main")]);
        feed(&mut pipe, &mut seen, [call(60, "main")]);
        pipe.losses.add(LossStage::Output, 4);
        pipe.report_losses(70, &mut seen);
        let expected = [
            "0 call main",
            "lost 3",
            // What was called before the loss may have been called anew.
            "0 return main None",
            "0 call main",
            "lost 4",
        ];
        let of_calls = |lines: &[String]| lines.len();
        assert_eq!(of_calls(&seen.lines), expected.len(), "{:?}", seen.lines);
        assert_eq!(seen.lines[1], expected[1]);
        assert_eq!(seen.lines[4], expected[4]);
        assert_eq!(pipe.delivered(), 3, "losses are no events");
    }

    #[test]
    fn a_loss_that_an_engine_tells_among_its_events_is_told_once_and_counted() {
        let (mut pipe, mut seen) = (Pipe::new(PipeSettings::default()), Seen::new());
        let told = lost(20, 1, LossStage::Ring, 3);
        feed(&mut pipe, &mut seen, [call(10, "main"), told]);
        feed(&mut pipe, &mut seen, [returned(50, "main")]);
        pipe.report_losses(70, &mut seen);
        let expected = ["0 call main", "lost 3", "0 return main None"];
        assert_eq!(seen.lines, expected);
        assert_eq!(
            (pipe.delivered(), pipe.losses.total(LossStage::Ring)),
            (2, 3)
        );
    }

    #[test]
    fn the_release_of_a_held_command_is_told_once_as_nothing_and_then_as_what_it_is() {
        let exec = |pid| {
            let what = What::Process {
                change: ProcessChange::Exec,
                parent: None,
                command: None,
            };
            Event {
                pid,
                tid: pid,
                ..event(10, what)
            }
        };
        let settings = PipeSettings {
            released: Some(7),
            ..PipeSettings::default()
        };
        let (pipe, lines) = through(settings, vec![exec(8), exec(7), exec(7)]);
        assert_eq!(lines, ["process", "process"]);
        assert_eq!(pipe.delivered(), 2);
    }

    #[test]
    fn an_output_that_failed_is_given_nothing_and_what_comes_is_counted() {
        let (mut pipe, mut seen) = (Pipe::new(PipeSettings::default()), Seen::new());
        seen.room = 1;
        feed(&mut pipe, &mut seen, nested());
        let kind = pipe.output_error().map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::StorageFull));
        assert_eq!(seen.lines, ["0 call main"]);
        // The second was given to the sink, which knows that it was not written.
        assert_eq!((pipe.delivered(), pipe.too_late()), (2, 2));
        seen.room = usize::MAX;
        pipe.losses.add(LossStage::Kernel, 3);
        feed(&mut pipe, &mut seen, [call(60, "main")]);
        assert_eq!(seen.lines.len(), 1, "not even losses");
    }

    #[test]
    fn a_process_with_greenlets_and_its_children_are_paired_by_rules_of_their_own() {
        let interleaved = |pid: u32| {
            let script = [
                call(10, "f"),
                call(11, "f"),
                returned(20, "f"),
                returned(40, "f"),
            ];
            script.map(|event| Event {
                pid,
                tid: pid,
                ..event
            })
        };
        let rules = PairingRules {
            call_on_creation: false,
            greenlets: false,
        };
        let settings = PipeSettings {
            pairing: Pairing::with_rules(rules),
            ..PipeSettings::default()
        };
        let (mut pipe, mut seen) = (Pipe::new(settings), Seen::new());
        pipe.has_greenlets(2, &mut seen);
        let forked = What::Process {
            change: ProcessChange::Fork,
            parent: Some(2),
            command: None,
        };
        let forked = Event {
            pid: 3,
            tid: 3,
            ..event(5, forked)
        };
        feed(&mut pipe, &mut seen, [forked]);
        seen.lines.clear();
        for (pid, certain) in [(1, true), (2, false), (3, false)] {
            feed(&mut pipe, &mut seen, interleaved(pid));
            let returns = seen.lines.drain(..).skip(2).collect::<Vec<_>>();
            let timed = returns.iter().filter(|line| line.contains("Some")).count();
            assert_eq!(timed == 2, certain, "process {pid}: {returns:?}");
        }
        let greenlets = PairingRules {
            greenlets: true,
            ..rules
        };
        assert_eq!(seen.rules, [(2, greenlets)]);
    }
}
