//! The sink that makes spans of a stream.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::calls::{Called, Calls, Track};
use super::choice::Choice;
use super::measured::{Ended, Measured};
use super::outlet::Outlet;
use super::processes::{Processes, ServiceOf};
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::pairing::{FrameId, Pairing, Step};
use crate::analysis::requests::Ending;
use crate::event::{Frame, Manner, Place, ProcessChange, Session, What};
use crate::export::{End, Sink};
use crate::view::many;

/// Functions of which it is remembered whether they are wanted.
const MOST_KNOWN: usize = 1 << 16;

/// See the head of the module.
#[derive(Debug)]
pub(crate) struct Spans<O> {
    choice: Choice,
    outlet: O,
    processes: Processes,
    known: HashMap<FunctionKey, bool, KeyBuilder>,
    calls: Calls,
    measured: Measured,
    last: u64,
}

impl<O: Outlet> Spans<O> {
    /// Puts the spans of these calls into an outlet. `service_of` tells of a process that runs here to which service it belongs.
    pub(crate) fn new(choice: Choice, service_of: Option<ServiceOf>, outlet: O) -> Spans<O> {
        Spans {
            calls: Calls::new(choice.clone()),
            choice,
            outlet,
            processes: Processes::new(service_of),
            known: HashMap::default(),
            measured: Measured::default(),
            last: 0,
        }
    }

    fn is_named(&mut self, key: Option<FunctionKey>, place: &Place) -> bool {
        if self.choice.filters.is_empty() {
            return true;
        }
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let filters = &self.choice.filters;
        match key {
            Some(key) => *self
                .known
                .entry(key)
                .or_insert_with(|| filters.accept(place)),
            None => filters.accept(place),
        }
    }

    fn called(&mut self, step: &Step<'_>, place: &Arc<Place>, line: i32, frame: &Frame) {
        let event = step.event;
        let (Some(entered), Some(key)) = (step.entered, step.key) else {
            return;
        };
        let is_named = self.is_named(Some(key), place);
        if !is_named && self.choice.callees.is_none() {
            return;
        }
        let mut around = step.stack_of(frame.context).skip(1);
        let caller = match is_named {
            // What is between may be of no function that is wanted.
            true => around.find_map(|it| self.calls.of(it.frame)),
            false => around.next().and_then(|it| self.calls.of(it.frame)),
        };
        let track = (event.pid, event.tid, frame.context);
        if frame.manner == Manner::Suspension && self.calls.goes_on(entered, track, key, caller) {
            return;
        }
        // Everything is wanted, and only the outermost whatever they take.
        let is_named = is_named && !(self.choice.is_of_outermost() && caller.is_some());
        if !is_named && caller.is_none() {
            return;
        }
        let called = Called {
            track,
            key,
            place: Arc::clone(place),
            line,
            ts: event.ts,
            fields: frame.fields.clone(),
            is_named,
        };
        self.calls.begins(entered, called, caller);
    }

    fn returned(&mut self, step: &Step<'_>, place: &Arc<Place>, frame: &Frame) {
        let Some(finished) = step.finished else {
            return;
        };
        let ts = step.event.ts;
        let ending = match frame.manner {
            Manner::Exception => Ending::Exception,
            Manner::Suspension => Ending::Suspended,
            Manner::Plain | Manner::Running => Ending::Returned,
        };
        match finished.frame {
            Some(opened) if ending == Ending::Suspended => self.calls.gives_way(opened, ts),
            Some(opened) => {
                if let Some(fields) = &frame.fields {
                    self.calls.has_fields(opened, fields);
                }
                self.calls.returns(opened, ts, ending, !finished.likely);
            }
            None => {
                let took = finished.inclusive_ns.unwrap_or(0);
                let ended = Ended {
                    is_named: self.is_named(step.key, place),
                    place: Arc::clone(place),
                    line: finished.line,
                    begin: ts.saturating_sub(took),
                    end: ts,
                    ending,
                    fields: frame.fields.clone(),
                };
                let track: Track = (step.event.pid, step.event.tid, frame.context);
                if !self.measured.keep(track, ended) {
                    self.finish_measured(None);
                }
            }
        }
    }

    fn finish_measured(&mut self, pid: Option<u32>) {
        self.measured.finish(pid, &self.choice, &mut self.calls);
    }

    /// Frames that are followed no longer: with their process they end, else nobody knows.
    fn given_up(&mut self, step: &Step<'_>) {
        let ends = matches!(&step.event.what, What::Process { change, .. } if *change != ProcessChange::Fork);
        // Those inside end first.
        let mut frames: Vec<FrameId> = step.given_up.iter().map(|it| it.frame).collect();
        frames.sort_unstable();
        for frame in frames.into_iter().rev() {
            match ends {
                true => self
                    .calls
                    .returns(frame, step.event.ts, Ending::Unseen, false),
                false => self.calls.forget(frame),
            }
        }
    }

    /// Hands on what was finished.
    fn hand_on(&mut self) -> io::Result<()> {
        for (pid, bytes) in self.calls.finished() {
            let resource = self.processes.resource(pid);
            self.outlet.put(resource, bytes)?;
        }
        Ok(())
    }

    /// What there was no room for, in a sentence.
    fn missing(&self) -> Option<String> {
        let missing = self.calls.missing;
        let of = [
            (
                missing.left_out,
                "are no spans, because too many were under way at once",
            ),
            (
                missing.unseen,
                "are no spans, because they were not seen to return",
            ),
            (
                missing.without_fields,
                "have no fields, because those of all calls took too much room",
            ),
        ];
        let of = of.into_iter().filter(|(count, _)| *count > 0);
        let mut said: Vec<String> = of
            .map(|(count, what)| format!("{} {what}", many(count, "call", "calls")))
            .collect();
        if missing.early > 0 {
            said.push(format!(
                "{} sent before it was known which request they are of, because too much was held back",
                many(missing.early, "trace was", "traces were")
            ));
        }
        (!said.is_empty()).then(|| format!("{} (docs/limits.md)", said.join("; ")))
    }
}

impl<O: Outlet> Sink for Spans<O> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.processes.begin(session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        self.last = self.last.max(event.ts);
        self.given_up(step);
        match &event.what {
            What::Call { place, line, frame } => self.called(step, place, *line, frame),
            What::Return { place, frame, .. } => self.returned(step, place, frame),
            What::Context { context, name } => {
                if let Some(context) = std::num::NonZeroU64::new(*context) {
                    self.calls.named(event.pid, context, name);
                }
            }
            What::Process { change, .. } => {
                if *change != ProcessChange::Fork {
                    let thread = Some(event.tid).filter(|tid| *tid != 0 && *tid != event.pid);
                    self.calls.ended(event.pid, thread);
                    if thread.is_none() {
                        self.finish_measured(Some(event.pid));
                    }
                }
                // Of what it was before.
                self.hand_on()?;
                self.processes.take(event.pid, &event.what);
            }
            _ => {}
        }
        self.hand_on()
    }

    fn tick(&mut self, _now: u64, _pairing: &Pairing) -> io::Result<()> {
        self.outlet.tick()
    }

    fn finish(mut self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        self.finish_measured(None);
        self.calls.finish(self.last);
        self.hand_on()?;
        let said = self.missing();
        self.outlet.end()?;
        Ok(said)
    }
}
