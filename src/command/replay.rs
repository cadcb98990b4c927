//! A recording from its beginning to its end, into a sink: what `report`, `export` and `request` have in common.

use std::collections::BTreeMap;
use std::path::Path;

use super::opened::{Counted, open_whole, warn_of_cut};
use crate::analysis::contexts::Contexts;
use crate::analysis::pairing::{Creations, Pairing};
use crate::console::{Console, Exit, Progress};
use crate::event::allowance::ALL_NAMES;
use crate::event::{Session, Summary, What, paths};
use crate::export::Sink;
use crate::failure::Failure;
use crate::recording::{Ahead, Reader};
use crate::shell;
use crate::text::Foreign;
use crate::view::many;

/// What a recording said beside its events.
pub(super) struct Replayed {
    pub(super) session: Session,
    pub(super) summary: Option<Summary>,
    pub(super) pairing: Pairing,
    /// Times of the first and the last event.
    pub(super) span: Option<(u64, u64)>,
    /// Events that were lost, from the summary or, without one, from what was said on the way.
    pub(super) lost: u64,
    /// Whether all of it could be read.
    pub(super) whole: bool,
}

impl Replayed {
    pub(super) fn wall_ns(&self) -> u64 {
        match (&self.summary, self.span) {
            (Some(summary), _) if summary.wall_ns > 0 => summary.wall_ns,
            (_, Some((first, last))) => last.saturating_sub(first),
            _ => 0,
        }
    }
}

/// How a recording is read: in a thread of its own ([`Ahead::new`]), or without one, whose freed memory nothing else gets, where
/// very much of it is kept ([`Ahead::here`]).
pub(super) type Reading = fn(Reader<Counted>) -> Ahead<Counted>;

/// Opens a recording to be read.
fn open(
    reading: Reading,
    path: &Path,
    console: &Console,
) -> Result<(Ahead<Counted>, Progress), Failure> {
    let (reader, progress) = open_whole(path, console)?;
    Ok((reading(reader), progress))
}

/// Reads a recording into a sink, as a session would have fed it.
pub(super) fn replay(
    path: &Path,
    group_by: Option<&str>,
    console: &Console,
    sink: &mut dyn Sink,
) -> Result<Replayed, Failure> {
    replay_by(Ahead::new, path, group_by, console, sink)
}

fn replay_by(
    reading: Reading,
    path: &Path,
    group_by: Option<&str>,
    console: &Console,
    sink: &mut dyn Sink,
) -> Result<Replayed, Failure> {
    let (mut reader, mut progress) = open(reading, path, console)?;
    let rules = reader.rules();
    let mut pairing = Pairing::with_rules(rules);
    if rules.call_on_creation {
        // What follows a creation tells that it was one, so the creations are found in a reading of their own.
        let mut first = Pairing::first_reading(rules);
        while let Ok(Some((event, rules))) = reader.event() {
            for (pid, rules) in rules {
                first.set_rules(pid, rules);
            }
            first.feed(event);
        }
        let creations = first.into_creations();
        if creations.is_full() {
            console.warning(format_args!(
                "{} has more than {} calls: behind these, what makes a generator is counted as a call",
                path.display(),
                Creations::MOST
            ));
        }
        pairing = Pairing::second_reading(rules, creations);
        // One line at a time.
        drop(progress);
        (reader, progress) = open(reading, path, console)?;
    }
    if let Some(name) = group_by {
        let fields = &reader.session().fields;
        let Some(paths) = fields.get(name) else {
            return Err(no_field(path, name, fields));
        };
        if paths::are_of_returns(paths) {
            return Err(of_returns(path, name));
        }
        pairing = pairing.grouped(name);
    }
    let mut replaying = Replaying::new(path, console, (reader, progress), pairing);
    let whole = replaying.run(sink, |_| true)?;
    Ok(replaying.end(whole.unwrap_or(true)))
}

/// The same in one reading, also where creations could look like calls: most such recordings only do not say that none does, as
/// traces that were written as JSON. `None` as soon as one is found, or where it is not known how one would show; then the sink was
/// fed in vain.
pub(super) fn replay_once(
    path: &Path,
    group_by: Option<&str>,
    console: &Console,
    sink: &mut dyn Sink,
) -> Result<Option<Replayed>, Failure> {
    replay_once_by(Ahead::new, path, group_by, console, sink)
}

fn replay_once_by(
    reading: Reading,
    path: &Path,
    group_by: Option<&str>,
    console: &Console,
    sink: &mut dyn Sink,
) -> Result<Option<Replayed>, Failure> {
    if group_by.is_some() {
        // Functions that are told apart by a field tell less of themselves.
        return Ok(None);
    }
    let (reader, progress) = open(reading, path, console)?;
    let rules = reader.rules();
    let pairing = match rules.call_on_creation {
        true => Pairing::first_reading(rules),
        false => Pairing::with_rules(rules),
    };
    let mut replaying = Replaying::new(path, console, (reader, progress), pairing);
    let whole = replaying.run(sink, |pairing| !pairing.has_found_creations())?;
    Ok(whole.map(|whole| replaying.end(whole)))
}

/// The same into what is made for it: in one reading where that will do, and else in two, into another one.
pub(super) fn replay_into<S: Sink>(
    reading: Reading,
    path: &Path,
    group_by: Option<&str>,
    console: &Console,
    make: impl Fn() -> S,
) -> Result<(S, Replayed), Failure> {
    let mut sink = make();
    let replayed = match replay_once_by(reading, path, group_by, console, &mut sink)? {
        Some(replayed) => replayed,
        None => {
            sink = make();
            replay_by(reading, path, group_by, console, &mut sink)?
        }
    };
    Ok((sink, replayed))
}

/// A recording that is being read.
struct Replaying<'a> {
    path: &'a Path,
    console: &'a Console,
    reader: Ahead<Counted>,
    progress: Progress,
    pairing: Pairing,
    span: Option<(u64, u64)>,
    lost: u64,
    /// Events without a name.
    nameless: u64,
}

impl<'a> Replaying<'a> {
    fn new(
        path: &'a Path,
        console: &'a Console,
        (reader, progress): (Ahead<Counted>, Progress),
        pairing: Pairing,
    ) -> Replaying<'a> {
        Replaying {
            path,
            console,
            reader,
            progress,
            pairing,
            span: None,
            lost: 0,
            nameless: 0,
        }
    }

    /// Reads it into a sink. Answers whether all of it could be read; `None` where it was not read to its end because that is in
    /// vain, by what pairing has found out.
    fn run(
        &mut self,
        sink: &mut dyn Sink,
        goes_on: impl Fn(&Pairing) -> bool,
    ) -> Result<Option<bool>, Failure> {
        sink.session(self.reader.session())?;
        loop {
            let (event, rules) = match self.reader.event() {
                Ok(Some(told)) => told,
                Ok(None) => return Ok(Some(true)),
                Err(error) => {
                    self.console.warning(format_args!(
                        "{}: {error}; shown is what comes before",
                        Foreign::path(self.path)
                    ));
                    return Ok(Some(false));
                }
            };
            for (pid, rules) in rules {
                self.pairing.set_rules(pid, rules);
                sink.rules(pid, rules)?;
            }
            let (first, last) = self.span.unwrap_or((event.ts, event.ts));
            self.span = Some((first.min(event.ts), last.max(event.ts)));
            if let What::Lost { count, .. } = event.what {
                self.lost = self.lost.saturating_add(count);
            }
            self.nameless += u64::from(event.is_nameless());
            if let Some(step) = self.pairing.follow(event) {
                sink.step(&step)?;
            }
            if !goes_on(&self.pairing) {
                return Ok(None);
            }
        }
    }

    /// What it said beside its events, which were read.
    fn end(self, whole: bool) -> Replayed {
        let Replaying {
            path,
            console,
            reader,
            progress,
            pairing,
            span,
            mut lost,
            nameless,
        } = self;
        drop(progress);
        if reader.was_cut() && whole {
            warn_of_cut(path, console);
        }
        if pairing.without_group() > 0 {
            console.warning(format_args!(
                "{} calls are in the rows of (others), because their field had too many different values (docs/limits.md)",
                pairing.without_group()
            ));
        }
        let summary = reader.summary().cloned();
        // What was recorded without a name was said then.
        let left_out = nameless.saturating_sub(summary.as_ref().map_or(0, |it| it.nameless));
        if left_out > 0 {
            console.warning(format_args!(
                "{} shown without a name, because more names are in use at once than are kept ({} MB)",
                many(left_out, "event is", "events are"),
                ALL_NAMES >> 20
            ));
        }
        if let Some(summary) = &summary {
            lost = summary.lost + summary.skipped + summary.unparsed;
        }
        Replayed {
            session: reader.session().clone(),
            summary,
            pairing,
            span,
            lost,
            whole,
        }
    }
}

/// What greenlets, tasks and threads of a recording are, in a reading of its own that says nothing: what stands below their first
/// calls is known after these.
pub(super) fn contexts(path: &Path, console: &Console) -> Result<Contexts, Failure> {
    let (mut reader, _progress) = open(Ahead::new, path, console)?;
    let mut pairing = Pairing::with_rules(reader.rules());
    let mut contexts = Contexts::default();
    while let Ok(Some((event, rules))) = reader.event() {
        for (pid, rules) in rules {
            pairing.set_rules(pid, rules);
        }
        if let Some(step) = pairing.follow(event) {
            contexts.follow(&step);
        }
    }
    contexts.settle_all();
    Ok(contexts)
}

/// The refusal of a field that calls do not have when they begin.
fn of_returns(path: &Path, field: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "calls are grouped as they begin, and field {} of {} was read when they returned; group by another field",
            Foreign::new(field),
            Foreign::path(path),
        ),
    )
}

/// The refusal of a field that a recording does not have.
fn no_field(path: &Path, field: &str, fields: &BTreeMap<String, String>) -> Failure {
    let has: Vec<&str> = fields.keys().map(String::as_str).collect();
    let has = match has.is_empty() {
        true => "it has no fields".to_owned(),
        false => format!("its fields are {}", Foreign::new(has.join(", ").as_str())),
    };
    Failure::new(
        Exit::Usage,
        format!(
            "{} has no field {}, so nothing can be grouped by it: {has}; record it anew with --field {}=PATH",
            Foreign::path(path),
            Foreign::new(field),
            shell::word(field),
        ),
    )
}
