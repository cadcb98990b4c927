//! Writes what a recipe adds up: a line for each group and interval, and the table at the end.

use std::io::{self, Write};
use std::time::Duration;

use super::Recipe;
use super::table::{self, Width};
use super::tally::Tally;
use crate::analysis::pairing::{Pairing, Step};
use crate::event::Session;
use crate::export::intervals::{self, Intervals};
use crate::export::{End, Sink};

/// How it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Time between lines; see [`Intervals::of`].
    pub(crate) interval: Option<Duration>,
    /// Rows for people.
    pub(crate) limit: usize,
    /// Slowest calls.
    pub(crate) slowest: usize,
    /// Whether each row has its distribution.
    pub(crate) distribution: bool,
    pub(crate) json: bool,
    /// How wide the terminal is, asked whenever something is written; nothing where it is not for one.
    pub(crate) width: Option<fn() -> Option<u16>>,
}

impl Options {
    fn columns(&self) -> Width {
        self.width.and_then(|width| width()).map(usize::from)
    }
}

/// See the head of the module.
#[derive(Debug)]
pub(crate) struct Grouping<W> {
    output: W,
    tally: Tally,
    options: Options,
    intervals: Intervals,
    start: u64,
}

impl<W: Write> Grouping<W> {
    /// Nothing yet.
    pub(crate) fn new(output: W, recipe: Recipe, options: Options) -> Grouping<W> {
        Grouping {
            output,
            tally: Tally::new(recipe, options.slowest),
            options,
            intervals: Intervals::of(options.interval, options.json),
            start: 0,
        }
    }
}

impl<W: Write> Sink for Grouping<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        self.intervals.begin(session.ts);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.tally.take(step);
        Ok(())
    }

    fn tick(&mut self, now: u64, _pairing: &Pairing) -> io::Result<()> {
        let Some(passed) = self.intervals.passed(now) else {
            return Ok(());
        };
        let (length, recent) = (passed.nanoseconds, &self.tally.recent);
        let width = self.options.columns();
        let text = if self.options.json {
            let json = table::json("interval", now, &self.tally, recent, length);
            format!("{json}\n")
        } else {
            let heading = match passed.heading {
                true => table::heading(self.tally.recipe(), true, width),
                false => String::new(),
            };
            let at = now.saturating_sub(self.start);
            let recipe = self.tally.recipe();
            let lines = table::lines(recipe, recent, self.options.limit, at, length, width);
            format!("{heading}{lines}")
        };
        self.tally.recent.clear();
        intervals::write(&mut self.output, &text, self.options.json)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let Some(summary) = end.summary else {
            return Ok(None);
        };
        let width = self.options.columns();
        let Options {
            limit,
            distribution,
            json,
            ..
        } = self.options;
        let tally = &self.tally;
        let text = match json {
            true => {
                let json = table::json("summary", summary.ts, tally, &tally.all, summary.wall_ns);
                format!("{json}\n")
            }
            false => table::text(tally, limit, distribution, summary.wall_ns, width),
        };
        intervals::write(&mut self.output, &text, json)?;
        Ok(None)
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
