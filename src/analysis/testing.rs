//! Events by hand, for the tests of this room and of those that show its results.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::event::{Event, Frame, Manner, Place, Text, What};

pub(crate) fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
        ..Text::default()
    }
}

/// A new `Arc` each time, so that matching by value is tested as well.
pub(crate) fn place(function: &str) -> Arc<Place> {
    Arc::new(Place {
        file: text("app.py"),
        function: text(function),
        qualname: None,
        group: None,
    })
}

pub(crate) fn event(ts: u64, what: What) -> Event {
    Event {
        ts,
        pid: 1,
        tid: 1,
        interpreter: None,
        what,
    }
}

pub(crate) fn call(ts: u64, function: &str) -> Event {
    let place = place(function);
    event(
        ts,
        What::Call {
            place,
            line: 1,
            frame: Frame::default(),
        },
    )
}

pub(crate) fn returned(ts: u64, function: &str) -> Event {
    let what = What::Return {
        place: place(function),
        line: 2,
        duration_ns: None,
        frame: Frame::default(),
    };
    event(ts, what)
}

/// A call or return, at this time, in a context.
pub(crate) fn in_context(context: u64, ts: u64, mut event: Event) -> Event {
    event.ts = ts;
    if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
        frame.context = NonZeroU64::new(context);
    }
    event
}

/// A call or return of a function in this file.
pub(crate) fn in_file(file: &str, mut event: Event) -> Event {
    if let What::Call { place, .. } | What::Return { place, .. } = &mut event.what {
        let mut of = Place::clone(place);
        of.file = text(file);
        *place = Arc::new(of);
    }
    event
}

/// A context is named.
pub(crate) fn named(ts: u64, context: u64, name: &str) -> Event {
    let name = Arc::new(text(name));
    event(ts, What::Context { context, name })
}

/// A call or return as the agent tells it: with its whole name, its line, and how it came about.
pub(crate) fn told(name: &str, line: i32, manner: Manner, mut event: Event) -> Event {
    if let What::Call {
        place,
        line: at,
        frame,
    }
    | What::Return {
        place,
        line: at,
        frame,
        ..
    } = &mut event.what
    {
        let mut named = Place::clone(place);
        named.qualname = Some(text(name));
        (*place, *at, frame.manner) = (Arc::new(named), line, manner);
    }
    event
}
