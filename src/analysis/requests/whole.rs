//! A request as a whole: its calls in the order of time, what took longest, and when nothing worked on it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::call::{Ending, RequestCall};
use crate::event::{Place, Text};

/// A request, of all recordings together.
#[derive(Debug)]
pub struct Request {
    /// Its id.
    pub id: String,
    /// Its calls, each behind its caller, calls of one caller in the order of time; with how deep they are.
    pub calls: Vec<(usize, RequestCall)>,
    /// The processes that worked on it, in the order in which they began to.
    pub services: Vec<Service>,
    /// When no recorded call of it was under way, in the order of time.
    pub gaps: Vec<Gap>,
    /// Calls of it for which there was no room.
    pub left_out: u64,
    contexts: HashMap<(usize, u32, NonZeroU64), Arc<Text>>,
}

/// A process that worked on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Number of the recording.
    pub recording: usize,
    /// The process.
    pub pid: u32,
    /// When its first call of the request began, in nanoseconds since the Unix epoch.
    pub begin: u64,
    /// When its last one ended.
    pub end: u64,
    /// Time in which at least one call was under way.
    pub busy_ns: u64,
    /// Calls.
    pub calls: u64,
    /// Of these, such as an exception left.
    pub exceptions: u64,
}

/// Time in which no recorded call of a request was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When it began, in nanoseconds since the Unix epoch.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// The service that had worked on the request, by its place in [`Request::services`].
    pub after: usize,
    /// The service that did next.
    pub before: usize,
}

impl Gap {
    /// How long it was.
    pub fn duration_ns(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }
}

/// The calls of one function in one service.
#[derive(Debug, Clone)]
pub struct Slow {
    /// The service, by its place in [`Request::services`].
    pub service: usize,
    /// The function.
    pub place: Arc<Place>,
    /// Its line; 0 or less where that is not known.
    pub line: i32,
    /// How many.
    pub calls: u64,
    /// Time that they spent in no call below them.
    pub own_ns: u64,
    /// The longest one.
    pub longest_ns: u64,
}

impl Request {
    /// When it began, in nanoseconds since the Unix epoch.
    pub fn begin(&self) -> u64 {
        let begins = self.services.iter().map(|service| service.begin);
        begins.min().unwrap_or(0)
    }

    /// From its first call to the end of its last one.
    pub fn duration_ns(&self) -> u64 {
        let ends = self.services.iter().map(|service| service.end);
        ends.max().unwrap_or(0).saturating_sub(self.begin())
    }

    /// The service of a call, by its place in [`Request::services`].
    pub fn service_of(&self, call: &RequestCall) -> usize {
        let whose = (call.track.recording, call.track.pid);
        let mut services = self.services.iter();
        let at = services.position(|it| (it.recording, it.pid) == whose);
        at.unwrap_or(0)
    }

    /// What the greenlet or task of a call is called, where that was told.
    pub fn context_name(&self, call: &RequestCall) -> Option<&Text> {
        let whose = (call.track.recording, call.track.pid, call.track.context?);
        self.contexts.get(&whose).map(|name| &**name)
    }

    /// Functions by the time that their calls spent in no call below them, the slowest first.
    pub fn slowest(&self) -> Vec<Slow> {
        let mut slow: HashMap<(usize, Arc<Place>, i32), Slow> = HashMap::new();
        for (_, call) in &self.calls {
            let service = self.service_of(call);
            let row = slow
                .entry((service, Arc::clone(&call.place), call.line))
                .or_insert_with(|| Slow {
                    service,
                    place: Arc::clone(&call.place),
                    line: call.line,
                    calls: 0,
                    own_ns: 0,
                    longest_ns: 0,
                });
            row.calls += 1;
            row.own_ns = row.own_ns.saturating_add(call.own_ns());
            row.longest_ns = row.longest_ns.max(call.duration_ns());
        }
        let mut slow: Vec<Slow> = slow.into_values().collect();
        slow.sort_by(|one, other| {
            let by_time = other.own_ns.cmp(&one.own_ns);
            let name = |row: &Slow| (row.service, row.place.name().text.clone(), row.line);
            by_time.then_with(|| name(one).cmp(&name(other)))
        });
        slow
    }
}

impl Request {
    /// Of these calls, which name their callers by their places. `None` without any.
    pub(super) fn of(
        id: &str,
        kept: Vec<RequestCall>,
        left_out: u64,
        contexts: HashMap<(usize, u32, NonZeroU64), Arc<Text>>,
    ) -> Option<Request> {
        if kept.is_empty() {
            return None;
        }
        let parents: Vec<Option<usize>> = kept.iter().map(|call| call.parent).collect();
        let mut below: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for (number, parent) in parents.into_iter().enumerate() {
            below.entry(parent).or_default().push(number);
        }
        for numbers in below.values_mut() {
            // The longest first of those that began together: what was called has no earlier begin, and no later end.
            numbers.sort_by_key(|&number| {
                let call = kept.get(number);
                call.map(|call| (call.begin, u64::MAX - call.end, number))
            });
        }
        let mut calls = Vec::new();
        let mut slots: Vec<Option<RequestCall>> = kept.into_iter().map(Some).collect();
        let mut next: Vec<(usize, usize)> = Vec::new();
        let mut roots = below.remove(&None).unwrap_or_default();
        roots.reverse();
        next.extend(roots.into_iter().map(|number| (0, number)));
        while let Some((depth, number)) = next.pop() {
            let inner = below.remove(&Some(number)).unwrap_or_default();
            next.extend(inner.into_iter().rev().map(|number| (depth + 1, number)));
            if let Some(call) = slots.get_mut(number).and_then(Option::take) {
                calls.push((depth, call));
            }
        }
        let services = services(&calls);
        let gaps = gaps(&calls, &services);
        Some(Request {
            id: id.to_owned(),
            calls,
            services,
            gaps,
            left_out,
            contexts,
        })
    }
}

fn services(calls: &[(usize, RequestCall)]) -> Vec<Service> {
    let mut services: BTreeMap<(usize, u32), Service> = BTreeMap::new();
    for (depth, call) in calls {
        let whose = (call.track.recording, call.track.pid);
        let service = services.entry(whose).or_insert_with(|| Service {
            recording: whose.0,
            pid: whose.1,
            begin: call.begin,
            end: call.begin,
            busy_ns: 0,
            calls: 0,
            exceptions: 0,
        });
        // The outermost ones come in the order of time, whatever runs beside them.
        if *depth == 0 {
            let since = call.begin.max(service.end);
            service.busy_ns += call.end.saturating_sub(since);
        }
        service.begin = service.begin.min(call.begin);
        service.end = service.end.max(call.end);
        service.calls += 1;
        service.exceptions += u64::from(call.ending == Ending::Exception);
    }
    let mut services: Vec<Service> = services.into_values().collect();
    services.sort_by_key(|service| (service.begin, service.recording, service.pid));
    services
}

fn gaps(calls: &[(usize, RequestCall)], services: &[Service]) -> Vec<Gap> {
    let of = |call: &RequestCall| {
        let whose = (call.track.recording, call.track.pid);
        let mut all = services.iter();
        all.position(|it| (it.recording, it.pid) == whose)
    };
    let mut gaps = Vec::new();
    let mut last: Option<(u64, Option<usize>)> = None;
    let outermost = calls.iter().filter(|(depth, _)| *depth == 0);
    for (_, call) in outermost {
        let (end, after) = last.unwrap_or((call.begin, None));
        if let (true, Some(after), Some(before)) = (call.begin > end, after, of(call)) {
            gaps.push(Gap {
                begin: end,
                end: call.begin,
                after,
                before,
            });
        }
        if last.is_none_or(|(end, _)| call.end > end) {
            last = Some((call.end, of(call)));
        }
    }
    gaps
}
