//! Garbage collections as text and JSON: a line per interval while they happen, and a summary at the end.

use std::io::{self, Write};
use std::time::Duration;

use super::intervals::{self, Intervals};
use super::{End, Sink};
use crate::analysis::collections::Collections;
use crate::analysis::pairing::{Pairing, Step};
use crate::event::Session;
use crate::event::hosts::Hosts;
use crate::view::pauses;

/// See the head of the module.
#[derive(Debug)]
pub struct Pauses<W> {
    output: W,
    /// Since the beginning, and since the last line.
    all: Collections,
    recent: Collections,
    intervals: Intervals,
    start: u64,
    limit: usize,
    json: bool,
}

impl<W: Write> Pauses<W> {
    /// Nothing yet. Lines for people come every two seconds unless it is said otherwise, and those for programs only where
    /// that is said; `limit` is how many of the longest pauses are told.
    pub fn new(output: W, interval: Option<Duration>, limit: usize, json: bool) -> Pauses<W> {
        Pauses {
            output,
            all: Collections::new(),
            recent: Collections::new(),
            intervals: Intervals::of(interval, json),
            start: 0,
            limit,
            json,
        }
    }
}

impl<W: Write> Sink for Pauses<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        for collections in [&mut self.all, &mut self.recent] {
            collections.of_hosts(Hosts::of(session));
        }
        self.intervals.begin(session.ts);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.all.take(step);
        self.recent.take(step);
        Ok(())
    }

    fn tick(&mut self, now: u64, _pairing: &Pairing) -> io::Result<()> {
        let Some(passed) = self.intervals.passed(now) else {
            return Ok(());
        };
        let recent = std::mem::take(&mut self.recent);
        let length = passed.nanoseconds;
        let text = if self.json {
            format!(
                "{}\n",
                pauses::json("interval", now, &recent, length, self.limit)
            )
        } else {
            let heading = if passed.heading { pauses::HEADING } else { "" };
            let line = pauses::line(&recent, now.saturating_sub(self.start), length);
            format!("{heading}{line}")
        };
        intervals::write(&mut self.output, &text, self.json)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let Some(summary) = end.summary else {
            return Ok(None);
        };
        let wall = summary.wall_ns;
        let text = if self.json {
            let json = pauses::json("summary", summary.ts, &self.all, wall, self.limit);
            format!("{json}\n")
        } else {
            pauses::text(&self.all, wall, self.start, self.limit)
        };
        intervals::write(&mut self.output, &text, self.json)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::event;
    use crate::event::{Summary, What};

    /// What is written of one collection that took two milliseconds, seen over three seconds.
    fn written(json: bool) -> String {
        let mut written = Vec::new();
        let mut pairing = Pairing::new();
        let mut sink = Box::new(Pauses::new(
            &mut written,
            Some(Duration::from_secs(1)),
            3,
            json,
        ));
        let second = 1_000_000_000;
        sink.session(&Session::default()).expect("memory");
        let start = What::GcStart { generation: 2 };
        let done = What::GcDone {
            generation: None,
            collected: 7,
            pause_ns: None,
        };
        for mut event in [event(1_000_000, start), event(3_000_000, done)] {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("memory");
        }
        sink.tick(second, &pairing).expect("memory");
        sink.tick(2 * second, &pairing).expect("memory");
        let summary = Summary {
            wall_ns: 3 * second,
            ..Summary::default()
        };
        sink.finish(&End::new(&summary, &pairing)).expect("memory");
        String::from_utf8(written).expect("UTF-8")
    }

    #[test]
    fn a_line_comes_at_every_interval_and_the_summary_at_the_end() {
        let text = written(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("COLLECTED"), "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[..6], ["+1.0s", "1", "7", "2.00ms", "0.2", "2.00ms"]);
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(words, ["+2.0s", "0", "0", "0ns", "0.0", "-"]);
        assert!(
            text.contains("2.00ms in collections, 0.1 % of 3.00s"),
            "{text}"
        );
    }

    #[test]
    fn json_is_an_object_for_each_interval_and_one_for_the_whole() {
        let text = written(true);
        let objects: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let kinds: Vec<_> = objects.iter().map(|it| it["kind"].clone()).collect();
        assert_eq!(kinds, ["interval", "interval", "summary"]);
        let pauses = |at: usize| objects[at]["total_pause_ns"].clone();
        assert_eq!([pauses(0), pauses(1), pauses(2)], [2_000_000, 0, 2_000_000]);
    }
}
