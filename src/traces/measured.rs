//! Calls that came with their durations when they were over, as in recordings of long calls alone. What called them comes after
//! them, so that they are kept until nothing more can.

use std::collections::HashMap;
use std::sync::Arc;

use super::calls::{Calls, Track};
use super::choice::Choice;
use super::ids::{Link, Linked, SpanId, TraceId};
use super::span::Span;
use crate::analysis::requests::Ending;
use crate::event::{Fields, Place};

/// Calls that are kept; all become spans beyond that, and what called them later is in another trace.
const MOST: usize = 1 << 16;
/// Bytes of their fields, with which it is the same.
const MOST_FIELDS: usize = 16 << 20;

/// A call that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) place: Arc<Place>,
    pub(super) line: i32,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) ending: Ending,
    pub(super) fields: Option<Arc<Fields>>,
    /// Whether it is a span wherever it is.
    pub(super) is_named: bool,
}

/// What the calls around one are.
struct Around {
    begin: u64,
    /// Its trace and the innermost span, where there is one.
    span: Option<(TraceId, SpanId)>,
}

/// Calls by where they ran, in the order of their ends.
#[derive(Debug, Default)]
pub(super) struct Measured {
    tracks: HashMap<Track, Vec<Ended>>,
    kept: usize,
    field_bytes: usize,
}

impl Measured {
    /// Keeps a call. Whether there is room for another one.
    pub(super) fn keep(&mut self, track: Track, ended: Ended) -> bool {
        self.field_bytes += ended.fields.as_ref().map_or(0, |it| it.bytes());
        self.tracks.entry(track).or_default().push(ended);
        self.kept += 1;
        self.kept < MOST && self.field_bytes < MOST_FIELDS
    }

    /// Makes spans of the calls of a process, or of all. Of those that are not named, only what is below a named one and took so
    /// long.
    pub(super) fn finish(&mut self, pid: Option<u32>, choice: &Choice, calls: &mut Calls) {
        let of = self
            .tracks
            .extract_if(|track, _| pid.is_none_or(|pid| pid == track.0));
        for (track, ended) in of {
            self.kept -= ended.len();
            let bytes = ended.iter().filter_map(|it| it.fields.as_ref());
            self.field_bytes -= bytes.map(|it| it.bytes()).sum::<usize>();
            write(track, &ended, choice, calls);
        }
    }
}

/// Latest first, so that callers come before what they called.
fn write(track: Track, ended: &[Ended], choice: &Choice, calls: &mut Calls) {
    let (pid, thread, context) = track;
    let mut around: Vec<Around> = Vec::new();
    for (at, call) in ended.iter().enumerate().rev() {
        while around.last().is_some_and(|it| it.begin > call.begin) {
            around.pop();
        }
        let above = around.last().and_then(|it| it.span);
        let took = call.end.saturating_sub(call.begin);
        let is_named = call.is_named && !(choice.is_of_outermost() && above.is_some());
        if !(is_named || above.is_some() && choice.is_long(took)) {
            around.push(Around {
                begin: call.begin,
                span: above,
            });
            continue;
        }
        let (trace, id, parent) = match above {
            Some((trace, parent)) => (trace, calls.name(), Some(parent)),
            None => calls.names(linked(
                ended.get(..=at).unwrap_or_default(),
                call.begin,
                choice.link,
            )),
        };
        around.push(Around {
            begin: call.begin,
            span: Some((trace, id)),
        });
        let span = Span {
            id,
            parent,
            around: None,
            place: &call.place,
            line: call.line,
            begin: call.begin,
            end: call.end,
            ending: call.ending,
            thread: crate::event::hosts::number(thread),
            context: context.map(|context| (context, None)),
            fields: call.fields.as_deref(),
            link: choice.link,
            resumptions: 0,
            doubtful: false,
        };
        calls.measured(trace, pid, span);
    }
}

/// Which request the last of these is of, or what is below it.
fn linked(ended: &[Ended], begin: u64, link: Option<Link>) -> Option<Linked> {
    let link = link?;
    let below = ended.iter().rev().take_while(|it| it.begin >= begin);
    below
        .filter_map(|it| it.fields.as_ref())
        .find_map(|fields| link.find(fields))
}
