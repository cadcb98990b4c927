//! Requests: the calls that a field gives the id of one, with everything called below them, in every process that was recorded.
//!
//! A call belongs to a request if a field of it has the id. So does what is called below it, in the same thread, greenlet or task,
//! until it returns. What another greenlet or task does meanwhile belongs to whomever its own calls name.
//!
//! A coroutine that gives way and goes on is one call with several stretches. Where several of one function gave way at the same
//! place, nothing tells which of them goes on, and each stretch is a call of its own.

mod call;
mod id;
mod measured;
mod seen;
mod whole;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use self::measured::{Finished, Measured};
use super::keys::{FunctionKey, KeyBuilder};
use super::pairing::{FrameId, Step};
use crate::event::{Manner, Text, What};

pub use call::{Ending, RequestCall, Track};
pub use id::{RequestId, id_of, names_requests, nearest, traceparent};
pub use seen::{SeenRequest, SeenRequests};
pub use whole::{Gap, Request, Service, Slow};

/// Calls that are kept; further ones are counted.
const MOST_CALLS: usize = 1 << 17;
/// Bytes of the fields that are kept with them.
const MOST_FIELDS: usize = 16 << 20;
/// Greenlets and tasks whose names are kept.
const MOST_CONTEXTS: usize = 1 << 16;

/// What is known of a call only while it is under way.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// When it went on last.
    since: u64,
    /// Whether the time since it gave way is its own, and not that of what it awaits.
    waits_itself: bool,
}

/// A function in a track, and the call of the request that called it.
type Whose = (Track, FunctionKey, Option<usize>);

/// The calls of one request.
#[derive(Debug)]
pub struct RequestCalls {
    id: RequestId,
    recording: usize,
    calls: Vec<RequestCall>,
    progress: Vec<Progress>,
    /// Frames that belong to it; without a number where the call had no room.
    open: HashMap<FrameId, Option<usize>, KeyBuilder>,
    gave_way: HashMap<Whose, Vec<usize>>,
    /// What gave way last in a track, if nothing else happened there since.
    last: HashMap<Track, usize>,
    measured: Measured,
    contexts: HashMap<(usize, u32, NonZeroU64), Arc<Text>>,
    field_bytes: usize,
    left_out: u64,
    end: u64,
}

impl RequestCalls {
    /// Of this request.
    pub fn new(id: RequestId) -> RequestCalls {
        RequestCalls {
            id,
            recording: 0,
            calls: Vec::new(),
            progress: Vec::new(),
            open: HashMap::default(),
            gave_way: HashMap::new(),
            last: HashMap::new(),
            measured: Measured::default(),
            contexts: HashMap::new(),
            field_bytes: 0,
            left_out: 0,
            end: 0,
        }
    }

    /// Another recording begins.
    pub fn recording(&mut self, number: usize) {
        self.recording = number;
        self.end = 0;
    }

    /// Takes an event.
    pub fn take(&mut self, step: &Step<'_>) {
        let event = step.event;
        self.end = self.end.max(event.ts);
        match &event.what {
            What::Call { .. } => self.called(step),
            What::Return { .. } => self.returned(step),
            What::Context { context, name } => {
                if let Some(context) = NonZeroU64::new(*context)
                    && self.contexts.len() < MOST_CONTEXTS
                {
                    let whose = (self.recording, event.pid, context);
                    self.contexts.insert(whose, Arc::clone(name));
                }
            }
            _ => {}
        }
        for given_up in step.given_up {
            if let Some(number) = self.open.remove(&given_up.frame).flatten() {
                self.stops(number, event.ts, Ending::Unseen);
            }
        }
    }

    /// A recording is over.
    pub fn finish(&mut self) {
        let end = self.end;
        for (_, number) in std::mem::take(&mut self.open) {
            if let Some(number) = number {
                self.stops(number, end, Ending::Open);
            }
        }
        self.gave_way.clear();
        self.last.clear();
        self.measured = Measured::default();
    }

    /// The request, when all recordings are over. `None` where no call belongs to it.
    pub fn into_request(self) -> Option<Request> {
        Request::of(self.id.as_str(), self.calls, self.left_out, self.contexts)
    }

    fn called(&mut self, step: &Step<'_>) {
        let event = step.event;
        let What::Call { place, line, frame } = &event.what else {
            return;
        };
        let Some(entered) = step.entered else { return };
        let track = self.track(event.pid, event.tid, frame.context);
        self.last.remove(&track);
        let caller = step.stack_of(frame.context).nth(1);
        let parent = caller.and_then(|caller| self.open.get(&caller.frame).copied());
        let has_id = frame.fields.as_ref().is_some_and(|it| self.id.is_in(it));
        let goes_on = frame.manner == Manner::Suspension;
        if goes_on && let Some(key) = step.key {
            let whose = (track, key, parent.flatten());
            // A call of another request would say so.
            let is_silent = (frame.fields.as_ref()).is_none_or(|it| it.present().next().is_none());
            if (has_id || parent.is_some() || is_silent)
                && let Some(number) = self.goes_on(whose, event.ts)
            {
                self.open.insert(entered, Some(number));
                return;
            }
        }
        if !has_id && parent.is_none() {
            return;
        }
        let number = self.add(RequestCall {
            track,
            place: Arc::clone(place),
            line: *line,
            parent: parent.flatten(),
            begin: event.ts,
            end: event.ts,
            ran_ns: 0,
            below_ns: 0,
            suspended_ns: 0,
            resumptions: 0,
            ending: Ending::Open,
            began_before: goes_on || frame.manner == Manner::Running,
            fields: frame.fields.clone(),
        });
        self.open.insert(entered, number);
    }

    fn returned(&mut self, step: &Step<'_>) {
        let event = step.event;
        let What::Return {
            place,
            frame,
            duration_ns,
            ..
        } = &event.what
        else {
            return;
        };
        let Some(finished) = step.finished else {
            return;
        };
        let track = self.track(event.pid, event.tid, frame.context);
        let ending = match frame.manner {
            Manner::Suspension => Ending::Suspended,
            Manner::Exception => Ending::Exception,
            Manner::Plain | Manner::Running => Ending::Returned,
        };
        let Some(opened) = finished.frame else {
            let has_id = frame.fields.as_ref().is_some_and(|it| self.id.is_in(it));
            let took = duration_ns.unwrap_or(0);
            let call = RequestCall {
                track,
                place: Arc::clone(place),
                line: finished.line,
                parent: None,
                begin: event.ts.saturating_sub(took),
                end: event.ts,
                ran_ns: took,
                below_ns: 0,
                suspended_ns: 0,
                resumptions: 0,
                ending,
                began_before: false,
                fields: frame.fields.clone(),
            };
            return self.measured(call, has_id);
        };
        // What gave way last, if that was below this one, is what this one awaits.
        let awaited = self.last.remove(&track);
        let Some(Some(number)) = self.open.remove(&opened) else {
            return;
        };
        self.stops(number, event.ts, ending);
        if ending != Ending::Suspended {
            return;
        }
        let awaits = awaited.and_then(|it| self.calls.get(it)?.parent) == Some(number);
        if let Some(progress) = self.progress.get_mut(number) {
            progress.waits_itself = !awaits;
        }
        self.last.insert(track, number);
        if let Some(key) = step.key {
            let parent = self.calls.get(number).and_then(|call| call.parent);
            self.gave_way
                .entry((track, key, parent))
                .or_default()
                .push(number);
        }
    }

    /// The one call of these that gave way goes on. `None` where there is none, or where there are several.
    fn goes_on(&mut self, whose: Whose, ts: u64) -> Option<usize> {
        let waiting = self.gave_way.remove(&whose)?;
        let [number] = waiting[..] else { return None };
        let (call, progress) = (self.calls.get_mut(number)?, self.progress.get_mut(number)?);
        if progress.waits_itself {
            let waited = ts.saturating_sub(call.end);
            call.suspended_ns = call.suspended_ns.saturating_add(waited);
        }
        call.resumptions += 1;
        (call.end, call.ending, progress.since) = (ts, Ending::Open, ts);
        Some(number)
    }

    /// A call ends, or gives way.
    fn stops(&mut self, number: usize, ts: u64, ending: Ending) {
        let Some(call) = self.calls.get_mut(number) else {
            return;
        };
        let Some(progress) = self.progress.get(number) else {
            return;
        };
        let ran = ts.saturating_sub(progress.since);
        (call.end, call.ending) = (ts.max(call.end), ending);
        call.ran_ns = call.ran_ns.saturating_add(ran);
        let parent = call.parent;
        if let Some(caller) = parent.and_then(|it| self.calls.get_mut(it)) {
            caller.below_ns = caller.below_ns.saturating_add(ran);
        }
    }

    /// A call that came with its duration when it was over, as in recordings of long calls alone: what it called came before it.
    fn measured(&mut self, call: RequestCall, has_id: bool) {
        let (track, begin) = (call.track, call.begin);
        if !has_id {
            return self.measured.keep(call);
        }
        let below = self.measured.below(track, begin);
        let Some(outer) = self.add(call) else {
            self.left_out += below.len() as u64;
            return;
        };
        // Latest first, so that callers come before what they called.
        let mut around = vec![(begin, outer)];
        for finished in below.into_iter().rev() {
            let begin = finished.begin();
            while around.last().is_some_and(|(outer, _)| *outer > begin) {
                around.pop();
            }
            let number = match finished {
                Finished::Kept { number, .. } => Some(number),
                Finished::Stray(call) => self.add(*call),
            };
            let (Some(number), Some(&(_, caller))) = (number, around.last()) else {
                continue;
            };
            let mut ran = 0;
            if let Some(call) = self.calls.get_mut(number)
                && call.parent.is_none()
            {
                call.parent = Some(caller);
                ran = call.ran_ns;
            }
            if let Some(caller) = self.calls.get_mut(caller) {
                caller.below_ns = caller.below_ns.saturating_add(ran);
            }
            around.push((begin, number));
        }
        self.measured.belongs(track, begin, outer);
    }

    /// Keeps a call; `None` where there is no room.
    fn add(&mut self, mut call: RequestCall) -> Option<usize> {
        if self.calls.len() >= MOST_CALLS {
            self.left_out += 1;
            return None;
        }
        let bytes = call.fields.as_ref().map_or(0, |fields| fields.bytes());
        match self.field_bytes.saturating_add(bytes) {
            all if all <= MOST_FIELDS => self.field_bytes = all,
            _ => call.fields = None,
        }
        self.progress.push(Progress {
            since: call.begin,
            waits_itself: false,
        });
        self.calls.push(call);
        Some(self.calls.len() - 1)
    }

    fn track(&self, pid: u32, tid: u32, context: Option<NonZeroU64>) -> Track {
        Track {
            recording: self.recording,
            pid,
            tid,
            context,
        }
    }
}

#[cfg(test)]
mod tests;
